"""Judges of notebooks 01 to 06: Q, K and V, cosine and correlation, blocks, the smile, its baseline and the offset.

Each returns None for a right answer, else the name of its hint in helpers/data/hints.toml, if need be with the facts
that the hint names.
"""

import itertools

import numpy as np
import torch

from helpers import statistics
from helpers.capture import capture_qkv
from helpers.similarity import block_histograms
from helpers.teaching.checks import answers as read
from helpers.text import encode, find_token, load_sentences, token_id_of


class Watched(torch.nn.Unflatten):
    """Gives a view of its input, refuses another width, and knows whether a hook was on it when it ran."""

    hooked = False

    def forward(self, x):
        self.hooked = bool(self._forward_hooks or torch.nn.modules.module._global_forward_hooks)
        return super().forward(x)


def exercise_1_1(output_of):
    module, x = Watched(1, (3, 1)), torch.ones(2, 3)
    caught = read.result(output_of, module, x)
    if not isinstance(caught, torch.Tensor) or not torch.equal(caught, torch.ones(2, 3, 1)):
        return "output"
    if not module.hooked:
        return "no_hook"
    x.zero_()
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
    return ("other", {"n": wrong}) if wrong else None


def exercise_1_3(interleaved_q):
    for n_head, d_head in ((2, 2), (3, 4)):
        q, k, v = read.noise(3, 5, n_head, d_head).float()  # [token, head, d_head]
        fused = torch.stack([q, k, v], dim=2).flatten(1)  # [token, n_head * 3 * d_head]
        answer = read.tensor(read.result(interleaved_q, fused.clone(), n_head), 5, n_head * d_head)
        if name := read.told(answer, q.flatten(1), flat=fused[:, : n_head * d_head]):
            return name


def exercise_2_1(cosine_matrix):
    x = read.noise(6, 4) + 1  # [sample, feature]
    answer, x = read.tensor(read.result(cosine_matrix, x.clone()), 4, 4), x.numpy()
    dot, length, rows = x.T @ x, np.linalg.norm(x, axis=0), x / np.linalg.norm(x, axis=1, keepdims=True)
    name = read.told(
        answer,
        dot / np.outer(length, length),
        correlation=np.corrcoef(x, rowvar=False),
        undivided=[dot, dot / len(x)],
        one_length=[dot / length, dot / length[:, None]],
        axis=rows.T @ rows,
    )
    return "diagonal" if name == "other" and not read.close(np.diag(answer), np.ones(4)) else name


def exercise_2_2(m):
    m = read.number(m, positive=True)
    cosine = m**2 / (1 + m**2)
    return None if abs(cosine - 0.9) <= 1e-3 else ("other", {"cosine": cosine})


def exercise_2_3(pair, x):
    pair = read.wholes(pair)
    if len(pair) != 2 or pair[0] == pair[1]:
        return "different"
    read.numbered(pair, x.shape[1], "các chiều", "features")
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
    similarity = torch.tensor(
        [[1.0, 0.5, -0.2, 0.1], [0.5, 1.0, 0.3, 0.4], [-0.2, 0.3, 1.0, -0.6], [0.1, 0.4, -0.6, 1.0]]
    )
    mask = torch.tensor([[0, 1, 2, 2], [0, 0, 2, 2], [0, 0, 0, 4], [0, 0, 0, 0]])
    for code, expected in ((1, 1.0), (2, 0.75), (4, 0.0)):
        answer = read.number(read.result(share_positive, similarity.clone(), mask.clone(), code))
        name = read.told(answer, expected, mean=similarity[mask == code].mean(), complement=1 - expected)
        if name:
            return name if 0 <= answer <= 1 or name == "mean" else "range", {"code": code, "answer": answer}


def exercise_4_1(smile_index):
    edges = torch.linspace(-1, 1, 101, dtype=torch.float64)
    counts = torch.randint(0, 50, (3, 100), generator=torch.Generator().manual_seed(0))  # [layer, bins]
    answer = read.tensor(read.result(smile_index, counts.clone(), edges.clone()), 3)

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
    return name or (None if read.right_for(smile_index, expected[0], counts[0], edges) else "alone")


def exercise_4_2(water, model, tokenizer):
    try:
        answer = water["cosine"]["QQ"].counts
    except (TypeError, KeyError, IndexError, AttributeError):
        raise read.other_kind("kết quả của block_histograms", "what block_histograms returns", water) from None
    batch = encode(tokenizer, load_sentences("water"))
    qkv = capture_qkv(model, batch, positions=find_token(batch, token_id_of(tokenizer, " water")))
    expected = block_histograms(qkv.joined(), qkv.sizes)["cosine"]["QQ"].counts.cpu()
    answer = read.tensor(answer, *expected.shape)
    return None if (answer - expected).abs().sum() <= 1e-3 * expected.sum() else "other"


def exercise_4_3(layer, target, control):
    smile, of_control = (statistics.smile_index(histograms["cosine"]["QQ"]) for histograms in (target, control))
    gap = (smile - of_control)[1:]  # [layer - 1]
    layer, widest = read.whole(layer), 1 + int(gap.argmax())
    read.numbered([layer], 1 + len(gap), "các tầng", "layers")
    if layer == widest - 1:
        return "off_by_one"
    return None if layer == widest else ("other" if layer else "layer_0", {"layer": layer})


def exercise_5_1(shuffle_columns):
    x = torch.arange(200.0).view(40, 5)  # [sample, feature]
    answer = read.tensor(read.result(shuffle_columns, x.clone(), torch.Generator().manual_seed(3)), 40, 5)
    if not torch.equal(answer.sort(dim=0).values, x.double()):
        return "values"
    if torch.equal(answer, x.double()):
        return "nothing"
    order = ((answer - x[0]) / 5).T  # [feature, sample]: where each value came from
    if any(torch.equal(column, torch.arange(40.0).double()) for column in order):
        return "column"
    if any(torch.equal(a, b) for a, b in itertools.combinations(order, 2)):
        return "shared"
    read.draws_from_generator(shuffle_columns, x, answer, seed=3)


def exercise_5_2(n):
    n = read.whole(n)
    if n == 401:
        return None
    if n == 400:
        return "cut_off"
    if n > 401:
        return "more"
    return "two" if n < 2 else ("other", {"n": n, "width": (n - 1) ** -0.5})


def exercise_5_3(flip_sentences):
    x = torch.arange(1.0, 121.0).view(40, 3)  # [sample, feature]
    answer = read.tensor(read.result(flip_sentences, x.clone(), torch.Generator().manual_seed(0)), 40, 3)
    signs = answer / x  # [sample, feature]
    if not torch.equal(signs.abs(), torch.ones_like(signs)):
        return "values"
    if not torch.equal(signs, signs[:, :1].expand(40, 3)):
        return "row"
    if signs[:, 0].unique().numel() == 1:
        return "same"
    read.draws_from_generator(flip_sentences, x, answer, seed=0)


def exercise_6_1(partial_centre):
    x = read.noise(2, 7, 3) + 2  # [layer, sample, feature]
    layer, mean, feature = (x.mean(dim=dim, keepdim=True) for dim in range(3))
    for a in (0.0, 0.25, 1.0):
        answer = read.tensor(read.result(partial_centre, x.clone(), a), *x.shape)
        near = {"always": x - mean, "axis": [x - a * layer, x - a * feature, x - a * x.mean()], "sign": x + a * mean}
        if name := read.told(answer, x - a * mean, **near):
            return name, {"a": a}
    return None if read.right_for(partial_centre, x[0] - a * mean[0], x[0], a) else "axes"


def exercise_6_2(split):
    x, word = read.noise(7, 3) + 2, torch.tensor([30, 4, 30, 30, 4, 11, 30])  # [sample, feature], [sample]
    parts = read.result(split, x.clone(), word.clone())
    if not isinstance(parts, (tuple, list)) or len(parts) != 3:
        raise read.other_kind("ba tensor: common, own, context", "three tensors: common, own, context", parts)
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
    answer, x = read.number(read.result(participation_ratio, x.clone())), x.numpy()
    centred, n_feature = x - x.mean(axis=0), x.shape[1]
    expected = squared_sum_over_sum_of_squares(x / np.linalg.norm(x, axis=0))
    near = {
        "inverse": 1 / expected,
        "undivided": squared_sum_over_sum_of_squares(x),
        "centred": squared_sum_over_sum_of_squares(centred / np.linalg.norm(centred, axis=0)),
        "rows": squared_sum_over_sum_of_squares(x / np.linalg.norm(x, axis=1, keepdims=True)),
        "squares": [expected / n_feature, expected**0.5, n_feature, 1.0],  # one square missing, both, other sums
    }
    name = read.told(answer, expected, **near)
    return name and (name, {"answer": answer})
