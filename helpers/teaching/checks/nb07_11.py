"""Judges of notebooks 07 to 11: layers, heads, what the offset does, the rotary step, and a study of your own.

They give names of hints, as in nb01_06.
"""

import math

import numpy as np
import torch

from helpers.statistics import smile_index
from helpers.teaching.checks import answers as read


def exercise_7_1(matrix_gigabytes):
    for n_layer, sizes in ((12, (768, 768, 768)), (30, (576, 192, 192))):
        expected = 2 * n_layer * sum(sizes) ** 2 * 4 / 1e9
        ratio = read.number(read.result(matrix_gigabytes, n_layer, sizes), positive=True) / expected
        powers = [2.0**power for power in (-3, -2, -1, 1, 2, 3)]
        name = read.told(ratio, 1.0, bytes=powers, gib=1e9 / 2**30)
        if name == "other" and abs(math.log10(ratio)) > 2:
            name = "unit"
        if name:
            return name, {"n_layer": n_layer, "sizes": sizes, "ratio": round(ratio, 3)}


def exercise_7_2(relative_offset):
    x = read.noise(2, 6, 5) + torch.tensor([-3.0, -1.0, 0.5, 2.0, -8.0])  # [layer, sentence, feature]
    answer, x = read.tensor(read.result(relative_offset, x.clone()), 2), x.numpy()
    mean, sd = x.mean(axis=1), x.std(axis=1)
    return read.told(
        answer,
        np.median(np.abs(mean) / sd, axis=-1),
        opposite=np.median(mean / sd, axis=-1),
        correction=np.median(np.abs(mean) / x.std(axis=1, ddof=1), axis=-1),
        mean=(np.abs(mean) / sd).mean(axis=-1),
        upside_down=np.median(sd / np.abs(mean), axis=-1),
    )


def exercise_7_3(layer, target):
    smile = smile_index(target["cosine"]["QQ"]).cpu()  # [layer]
    layer, n_layer = read.whole(layer), len(smile)
    closed, above = np.flatnonzero(smile <= 0), np.flatnonzero(smile > 0)
    expected = 1 + above[-1] if len(above) else 0
    if layer == expected:
        return None
    if not 0 <= layer <= n_layer:
        return "range", {"n": n_layer}
    if layer == expected - 1:
        return "off_by_one"
    if layer > expected:
        return "later", {"layer": layer}
    return "comes_back" if layer in closed[:1] else ("other", {"layer": layer})


def beside_key_heads(q, k, v, d_head, key_heads):
    """`[layer, head, sentence, 3 * d_head]`: query head h, then the key head and the value head `key_heads[h]`."""
    q, k, v = (part.unflatten(-1, (-1, d_head)) for part in (q, k, v))  # [layer, sentence, head, d_head]
    return torch.cat([q, k[..., key_heads, :], v[..., key_heads, :]], dim=-1).transpose(1, 2)


def exercise_8_1(by_head):
    d_head = 2
    for n_query, n_key in ((6, 2), (3, 3)):
        q = torch.arange(4 * 5 * n_query * d_head).view(4, 5, -1).double()  # [layer, sentence, feature]
        k, v = (start + torch.arange(4 * 5 * n_key * d_head).view(4, 5, -1).double() for start in (1000, 2000))
        answer = read.tensor(read.result(by_head, q.clone(), k.clone(), v.clone(), d_head), 4, n_query, 5, 3 * d_head)
        shared, tiled = ([h * n_key // n_query for h in range(n_query)], [h % n_key for h in range(n_query)])
        expected, near = (beside_key_heads(q, k, v, d_head, heads) for heads in (shared, tiled))
        if name := read.told(answer / 1e4, expected / 1e4, tiled=near / 1e4):
            return name
        if not read.right_for(by_head, expected[0], q[0], k[0], v[0], d_head):
            return "axes"


def exercise_8_2(share_within):
    for n_head, d_head in ((12, 64), (4, 3)):
        answer = read.number(read.result(share_within, n_head, d_head))
        head = np.arange(n_head * d_head) // d_head  # [feature]
        expected = np.triu(head[:, None] == head, k=1).sum() / (len(head) * (len(head) - 1) // 2)
        near = {"itself": 1 / n_head, "one_head": expected / n_head, "complement": 1 - expected}
        if name := read.told(answer, expected, **near, percent=100 * expected):
            return name, {"n_head": n_head, "d_head": d_head, "answer": answer}


def exercise_8_3(heads, interval, pooled):
    low, high = interval.low.tolist(), interval.high.tolist()
    every = set(range(len(low)))
    outside = {h for h in every if not low[h] <= float(pooled) <= high[h]}
    truths = isinstance(heads, (list, tuple)) and {type(head) for head in heads} == {bool}
    if truths or getattr(heads, "dtype", None) in (torch.bool, np.dtype(bool)):
        return "mask"
    found = set(read.wholes(heads))
    read.numbered(found, len(low), "các đầu", "heads")
    if found == outside:
        return None
    if found == every - outside:
        return "reversed"
    return "missing" if found and found < outside else "other"


def exercise_9_1(swap_offset):
    x, mine, other = read.noise(2, 15, 3).split([4, 6, 5], dim=1)  # [layer, sentence, feature] each
    answer = read.tensor(read.result(swap_offset, x.clone(), mine.clone(), other.clone()), 2, 4, 3)
    m, o, own = (part.numpy().mean(axis=1, keepdims=True) for part in (mine, other, x))
    x = x.numpy()
    near = {"measured": x - own + o, "reversed": x + m - o, "half": [x - m, x + o]}
    return read.told(answer, x - m + o, **near, deviations=np.broadcast_to(o, x.shape))


def exercise_9_2(added):
    c, q = read.noise(6, 8).split([1, 5])  # [1, d_head], [token, d_head]
    answer = read.tensor(read.result(added, q.clone(), c[0].clone()), 5)
    expected = (q.numpy() * c.numpy()).sum(axis=1) / np.sqrt(8)
    return read.told(answer, expected, undivided=expected * np.sqrt(8), root=expected / np.sqrt(8))


def exercise_10_1(gauge):
    q, k, m = read.noise(3, 4, 4)
    answer = read.result(gauge, q.clone(), k.clone(), m.clone())
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise read.other_kind("một cặp (q mới, k mới)", "a pair (new q, new k)", answer)
    if any(read.is_open(part) for part in answer):
        return "missing"
    new_q, new_k = (read.tensor(part, 4, 4) for part in answer)
    if not read.close(new_q @ new_k.T, q @ k.T):
        return "transposed" if read.close(new_k, k @ torch.linalg.inv(m)) else "scores"
    return read.told(new_q, q @ m)


def exercise_10_2(pair_share):
    x = read.noise(7, 6) + torch.arange(6)
    answer, x = read.tensor(read.result(pair_share, x.clone(), 3), 3), x.numpy()
    mean, energy = x.mean(axis=0) ** 2, (x**2).mean(axis=0)  # [feature]
    expected = (mean[:3] + mean[3:]) / (energy[:3] + energy[3:])
    neighbour = (mean[::2] + mean[1::2]) / (energy[::2] + energy[1::2])
    each = mean / energy
    means = [each[:3], each.reshape(2, 3).mean(axis=0)]
    return read.told(answer, expected, neighbour=neighbour, each=means, root=np.sqrt(expected))


WORDS = (  # (ids, the word's pieces, position of the last piece)
    ([5, 7, 1, 2, 7, 9], (2, 7), 4),
    ([8, 6], (6,), 1),
    ([3, 4, 9, 3, 4], (3, 4), 1),
    ([1, 2, 3, 2, 3, 4], (2, 3, 4), 5),
    ([2, 1, 7], (2, 7), None),
)


def exercise_11_1(last_of_word):
    found = [read.result(last_of_word, list(ids), pieces, nothing=True) for ids, pieces, _ in WORDS]
    if all(answer is None for answer in found):
        return "nothing"
    for (ids, pieces, expected), answer in zip(WORDS, found, strict=True):
        answer = None if answer is None else read.whole(answer)
        if answer == expected:
            continue
        facts = {"where": f"last_of_word({ids}, {pieces})", "answer": answer}
        if expected is None:
            return "none", facts
        if answer == expected - len(pieces) + 1:
            return "first", facts
        same_id = answer is not None and 0 <= answer < len(ids) and ids[answer] == pieces[-1]
        return "same_id" if same_id else "other", facts


def exercise_11_2(share_of_bias):
    bias, rest = read.noise(2, 6)  # [feature] each
    answer, other = (read.number(read.result(share_of_bias, part.clone(), bias + rest)) for part in (bias, rest))
    b, offset = bias.numpy(), (bias + rest).numpy()
    lengths = b @ b / (offset @ offset)
    cosine = b @ offset / np.sqrt((b @ b) * (offset @ offset))
    name = read.told(answer, b @ offset / (offset @ offset), lengths=[lengths, lengths**0.5], cosine=cosine)
    return name and ("adds_up" if name == "other" and read.close(answer + other, 1) else name, {"sum": answer + other})
