"""`exercise_1_2` judges exercise 1.2: it returns None for a right answer, else the name of a hint in
helpers/data/messages.toml, if need be with the facts that the hint names.
"""

import itertools
import math

import numpy as np
import torch

from helpers.capture import capture_qkv
from helpers.similarity import block_histograms
from helpers.statistics import smile_index
from helpers.teaching.checks import answers as read
from helpers.text import encode, find_token, load_sentences, token_id_of


class Watched(torch.nn.Unflatten):
    """Gives a view of its input, refuses another width, and keeps the last input that it got with a hook on it."""

    seen = None

    def forward(self, x):
        if self._forward_hooks or torch.nn.modules.module._global_forward_hooks:
            self.seen = x
        return super().forward(x)


def exercise_1_1(output_of):
    module = Watched(1, (3, 1))
    caught = read.result(output_of, module, torch.ones(2, 3))
    if not isinstance(caught, torch.Tensor) or not torch.equal(caught, torch.ones(2, 3, 1)):
        return "output"
    if module.seen is None:
        return "no_hook"
    module.seen.zero_()
    if not caught.any():
        return "view"
    try:
        output_of(module, torch.ones(2, 4))
    except RuntimeError:
        return "hook_left" if module._forward_hooks else None
    except Exception as error:  # noqa: BLE001 - another error instead of the module's
        return "other_error", {"name": type(error).__name__}
    return "no_error"


def exercise_1_2(positions, batch):
    expected = torch.tensor([int(row.nonzero().max()) for row in batch["attention_mask"].cpu()])  # [sentence]
    difference = read.tensor(positions, len(expected)) - expected
    if bool((difference == 1).all()):
        return "off_by_one"
    wrong = int((difference != 0).sum())
    return wrong and "other", {"n": wrong}


def exercise_1_3(interleaved_q):
    for n_head, d_head in ((2, 2), (3, 4)):
        q, k, v = read.noise(3, 5, n_head, d_head).float()  # [token, head, d_head]
        fused = torch.stack([q, k, v], dim=2).flatten(1)  # [token, n_head * 3 * d_head]
        answer = read.result(interleaved_q, fused, n_head)
        if name := read.told(answer, q.flatten(1), flat=fused[:, : n_head * d_head]):
            return name


def exercise_2_1(cosine_matrix):
    x = read.noise(6, 4) + 1  # [sample, feature]
    answer, x = read.tensor(read.result(cosine_matrix, x), 4, 4), x.numpy()
    dot, length, rows = x.T @ x, np.linalg.norm(x, axis=0), x / np.linalg.norm(x, axis=1, keepdims=True)
    near = {"undivided": [dot, dot / len(x)], "one_length": [dot / length, dot / length[:, None]]}
    name = read.told(answer, dot / np.outer(length, length), correlation=np.corrcoef(x.T), axis=rows.T @ rows, **near)
    return "diagonal" if name == "other" and not read.close(np.diag(answer), np.ones(4)) else name


def exercise_2_2(m):
    m = read.number(m, positive=True)
    cosine = m**2 / (1 + m**2)
    return None if abs(cosine - 0.9) <= 1e-3 else ("other", {"cosine": cosine})


def exercise_2_3(pair, x):
    pair = read.wholes(pair)
    if len(pair) != 2 or pair[0] == pair[1]:
        return "different"
    read.numbered("features", pair, x.shape[1])
    first, second = (np.asarray(x[:, index], dtype=np.float64) for index in pair)
    with np.errstate(all="ignore"):  # a constant feature has no correlation
        cosine = first @ second / np.sqrt((first @ first) * (second @ second))
        correlation = np.corrcoef(first, second)[0, 1]
    if not cosine < -0.9 or not abs(correlation) < 0.1:
        return "other", {"cosine": cosine, "correlation": correlation}


def exercise_3_1(codes):
    codes = read.wholes(codes)
    if len(codes) != 4 or min(codes) < 1:
        return "four"
    products = [a * b for a, b in itertools.combinations_with_replacement(codes, 2)]
    repeated = sorted({product for product in products if products.count(product) > 1})
    return ("repeated", {"products": repeated}) if repeated else None


def exercise_3_2(n_qv, n_kk):
    q, kv = 2048, 512  # 32 and 8 heads of 64
    n_qv = read.whole(n_qv)
    if n_qv != q * kv:
        return {q * kv // 2: "qv_rectangle", q * kv - q: "qv_rectangle", 32 * 8: "qv_heads"}.get(n_qv, "qv")
    if read.is_open(n_kk):
        return "missing"
    n_kk = read.whole(n_kk)
    if n_kk in (kv * kv, kv * (kv + 1) // 2):
        return "kk_diagonal"
    return None if n_kk == kv * (kv - 1) // 2 else "kk"


def exercise_3_3(share_positive):
    similarity = torch.tensor([[1, 0.5, -0.2, 0.1], [0.5, 1, 0.3, 0.4], [-0.2, 0.3, 1, -0.6], [0.1, 0.4, -0.6, 1]])
    mask = torch.tensor([[0, 1, 2, 2], [0, 0, 2, 2], [0, 0, 0, 4], [0, 0, 0, 0]])
    for code, expected in ((1, 1.0), (2, 0.75), (4, 0.0)):
        answer = read.number(read.result(share_positive, similarity, mask, code))
        mean = similarity[mask == code].mean()
        if name := read.told(answer, expected, mean=mean, complement=1 - expected):
            return name if 0 <= answer <= 1 or name == "mean" else "range", {"code": code, "answer": answer}


def exercise_4_1(index):
    edges = torch.linspace(-1, 1, 101, dtype=torch.float64)
    counts = torch.randint(0, 50, (3, 100), generator=torch.Generator().manual_seed(0))  # [layer, bins]
    answer = read.tensor(read.result(index, counts, edges), 3)

    def shares(at):  # [layer] each: above, below and in the centre; `at` is where a bin lies, [bins]
        return (counts[:, where].sum(-1) / counts.double().sum(-1) for where in (at > 0.8, at < -0.8, at.abs() < 0.2))

    above, below, centre = shares((edges[1:] + edges[:-1]) / 2)
    expected = above + below - centre
    of_edges = [a + b - c for a, b, c in map(shares, (edges[1:], edges[:-1]))]
    every = counts.sum(-1) / counts.sum()
    ends, one_end = above + below, [above - centre, below - centre, above, below]
    near = {"reversed": -expected, "ends": ends, "all_rows": expected * every, "edge": of_edges, "one_end": one_end}
    name = read.told(answer, expected, **near)
    if name == "other" and bool((answer.abs() > 1).any()):
        return "range"
    return name or (None if read.right_for(index, expected[0], counts[0], edges) else "alone")


def exercise_4_2(water, model, tokenizer):
    try:
        answer = water["cosine"]["QQ"].counts
    except (TypeError, KeyError, IndexError, AttributeError):
        raise read.wrong("4.2 kind", water) from None
    batch = encode(tokenizer, load_sentences("water"))
    qkv = capture_qkv(model, batch, positions=find_token(batch, token_id_of(tokenizer, " water")))
    expected = block_histograms(qkv.joined(), qkv.sizes)["cosine"]["QQ"].counts.cpu()
    answer = read.tensor(answer, *expected.shape)
    return None if (answer - expected).abs().sum() <= 1e-3 * expected.sum() else "other"


def exercise_4_3(layer, target, control):
    smile, of_control = (smile_index(histograms["cosine"]["QQ"]) for histograms in (target, control))
    gap = (smile - of_control)[1:]  # [layer - 1]
    layer, widest = read.whole(layer), 1 + int(gap.argmax())
    read.numbered("layers", [layer], 1 + len(gap))
    if layer == widest - 1:
        return "off_by_one"
    return None if layer == widest else ("other" if layer else "layer_0", {"layer": layer})


def exercise_5_1(shuffle_columns):
    x = torch.arange(200.0).view(40, 5)  # [sample, feature]
    answer = read.drawn(shuffle_columns, x)
    if not torch.equal(answer.sort(dim=0).values, x.double()):
        return "values"
    if torch.equal(answer, x.double()):
        return "nothing"
    order = ((answer - x[0]) / 5).T  # [feature, sample]: where each value came from
    if any(torch.equal(column, torch.arange(40.0).double()) for column in order):
        return "column"
    if any(torch.equal(a, b) for a, b in itertools.combinations(order, 2)):
        return "shared"
    read.draws_from_generator(shuffle_columns, x)


def exercise_5_2(n):
    n = read.whole(n)
    if n in (400, 401):
        return "cut_off" if n == 400 else None
    if n > 401:
        return "more"
    return "two" if n < 2 else ("other", {"n": n, "width": (n - 1) ** -0.5})


def exercise_5_3(flip_sentences):
    x = torch.arange(1.0, 121.0).view(40, 3)  # [sample, feature]
    signs = read.drawn(flip_sentences, x) / x  # [sample, feature]
    if not torch.equal(signs.abs(), torch.ones_like(signs)):
        return "values"
    if not torch.equal(signs, signs[:, :1].expand(40, 3)):
        return "row"
    if signs[:, 0].unique().numel() == 1:
        return "same"
    read.draws_from_generator(flip_sentences, x)


def exercise_6_1(partial_centre):
    x = read.noise(2, 7, 3) + 2  # [layer, sample, feature]
    layer, mean, feature = (x.mean(dim=dim, keepdim=True) for dim in range(3))
    for a in (0.0, 0.25, 1.0):
        near = {"always": x - mean, "axis": [x - a * layer, x - a * feature, x - a * x.mean()], "sign": x + a * mean}
        if name := read.told(read.result(partial_centre, x, a), x - a * mean, **near):
            return name, {"a": a}
    return None if read.right_for(partial_centre, x[0] - a * mean[0], x[0], a) else "axes"


def exercise_6_2(split):
    x, word = read.noise(7, 3) + 2, torch.tensor([30, 4, 30, 30, 4, 11, 30])  # [sample, feature], [sample]
    parts = read.result(split, x, word)
    if not isinstance(parts, (tuple, list)) or len(parts) != 3:
        raise read.wrong("6.2 kind", parts)
    for name, part in zip(("common", "own", "context"), parts, strict=True):
        if read.is_open(part):
            return "missing", {"name": name}
    common, own, context = (read.tensor(part, *shape).numpy() for part, shape in zip(parts, [(3,), (7, 3), (7, 3)]))
    x, word = x.numpy(), word.numpy()
    mean_of = {w: x[word == w].mean(axis=0) for w in (30, 4, 11)}
    of_word = np.stack([mean_of[w] for w in word])  # [sample, feature]
    if not read.close(common, x.mean(axis=0)):
        return "each_word" if read.close(common, np.mean(list(mean_of.values()), axis=0)) else "common"
    if not read.close(own, of_word - common):
        return "own_common" if read.close(own, of_word) else "own"
    return None if read.close(common + own + context, x) else "sum"


def squared_sum_over_sum_of_squares(x):
    """Of the eigenvalues of x xᵀ; x `[sample, feature]`."""
    values = np.linalg.eigvalsh(x @ x.T)
    return values.sum() ** 2 / (values**2).sum()


def exercise_6_3(participation_ratio):
    x = read.noise(6, 4) + 1  # [sample, feature]
    answer, x = read.number(read.result(participation_ratio, x)), x.numpy()
    centred, n_feature = x - x.mean(axis=0), x.shape[1]
    expected = squared_sum_over_sum_of_squares(x / np.linalg.norm(x, axis=0))
    near = {
        "inverse": 1 / expected,
        "undivided": squared_sum_over_sum_of_squares(x),
        "centred": squared_sum_over_sum_of_squares(centred / np.linalg.norm(centred, axis=0)),
        "rows": squared_sum_over_sum_of_squares(x / np.linalg.norm(x, axis=1, keepdims=True)),
        "squares": [expected / n_feature, expected**0.5, n_feature, 1.0],  # one square missing, both, other sums
    }
    return read.told(answer, expected, **near), {"answer": answer}


def exercise_7_1(matrix_gigabytes):
    for n_layer, sizes in ((12, (768, 768, 768)), (30, (576, 192, 192))):
        expected = 2 * n_layer * sum(sizes) ** 2 * 4 / 1e9
        ratio = read.number(read.result(matrix_gigabytes, n_layer, sizes), positive=True) / expected
        if name := read.told(ratio, 1.0, bytes=[1 / 8, 1 / 4, 1 / 2, 2, 4, 8], gib=1e9 / 2**30):
            unit = name == "other" and abs(math.log10(ratio)) > 2
            return "unit" if unit else name, {"n_layer": n_layer, "sizes": sizes, "ratio": round(ratio, 3)}


def exercise_7_2(relative_offset):
    x = read.noise(2, 6, 5) + torch.tensor([-3.0, -1.0, 0.5, 2.0, -8.0])  # [layer, sentence, feature]
    answer, x = read.result(relative_offset, x), x.numpy()
    mean, sd, size = x.mean(axis=1), x.std(axis=1), np.abs(x.mean(axis=1))  # [layer, feature] each
    near = {"opposite": mean / sd, "correction": size / x.std(axis=1, ddof=1), "upside_down": sd / size}
    near = {name: np.median(ratio, axis=-1) for name, ratio in near.items()}
    return read.told(answer, np.median(size / sd, axis=-1), mean=(size / sd).mean(axis=-1), **near)


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
        shared, tiled = ([h * n_key // n_query for h in range(n_query)], [h % n_key for h in range(n_query)])
        expected, near = (beside_key_heads(q, k, v, d_head, heads) for heads in (shared, tiled))
        if name := read.told(read.result(by_head, q, k, v, d_head), expected, tiled=near):
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
    read.numbered("heads", found, len(low))
    if found == outside:
        return None
    if found == every - outside:
        return "reversed"
    return "missing" if found and found < outside else "other"


def exercise_9_1(swap_offset):
    x, mine, other = read.noise(2, 15, 3).split([4, 6, 5], dim=1)  # [layer, sentence, feature] each
    answer = read.result(swap_offset, x, mine, other)
    m, o, own = (part.numpy().mean(axis=1, keepdims=True) for part in (mine, other, x))
    x = x.numpy()
    near = {"measured": x - own + o, "reversed": x + m - o, "half": [x - m, x + o]}
    return read.told(answer, x - m + o, **near, deviations=np.broadcast_to(o, x.shape))


def exercise_9_2(added):
    c, q = read.noise(6, 8).split([1, 5])  # [1, d_head], [token, d_head]
    expected = (q.numpy() * c.numpy()).sum(axis=1) / np.sqrt(8)
    near = {"undivided": expected * np.sqrt(8), "root": expected / np.sqrt(8)}
    return read.told(read.result(added, q, c[0]), expected, **near)


def exercise_10_1(gauge):
    q, k, m = read.noise(3, 4, 4)
    answer = read.result(gauge, q, k, m)
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise read.wrong("10.1 kind", answer)
    if any(read.is_open(part) for part in answer):
        return "missing"
    new_q, new_k = (read.tensor(part, 4, 4) for part in answer)
    if not read.close(new_q @ new_k.T, q @ k.T):
        return "transposed" if read.close(new_k, k @ torch.linalg.inv(m)) else "scores"
    return read.told(new_q, q @ m)


def exercise_10_2(pair_share):
    x = read.noise(7, 6) + torch.arange(6)
    answer, x = read.result(pair_share, x, 3), x.numpy()
    mean, energy = x.mean(axis=0) ** 2, (x**2).mean(axis=0)  # [feature]
    expected = (mean[:3] + mean[3:]) / (energy[:3] + energy[3:])
    neighbour = (mean[::2] + mean[1::2]) / (energy[::2] + energy[1::2])
    each = (mean / energy).reshape(2, 3)
    near = {"neighbour": neighbour, "each": [each[0], each.mean(axis=0)], "root": np.sqrt(expected)}
    return read.told(answer, expected, **near)


WORDS = (  # (ids, the word's pieces, position of the last piece)
    ([5, 7, 1, 2, 7, 9], (2, 7), 4),
    ([8, 6], (6,), 1),
    ([3, 4, 9, 3, 4], (3, 4), 1),
    ([1, 2, 3, 2, 3, 4], (2, 3, 4), 5),
    ([2, 1, 7], (2, 7), None),
)


def exercise_11_1(last_of_word):
    found = [read.result(last_of_word, ids, pieces, nothing=True) for ids, pieces, _ in WORDS]
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
    answer, other = (read.number(read.result(share_of_bias, part, bias + rest)) for part in (bias, rest))
    b, offset = bias.numpy(), (bias + rest).numpy()
    lengths = b @ b / (offset @ offset)
    cosine = b @ offset / np.sqrt((b @ b) * (offset @ offset))
    name = read.told(answer, b @ offset / (offset @ offset), lengths=[lengths, lengths**0.5], cosine=cosine)
    return "adds_up" if name == "other" and read.close(answer + other, 1) else name, {"sum": answer + other}
