"""Feedback on the exercises of notebooks 07 and 08: right answers pass, typical mistakes get their own hint."""

import math
import re

import pytest
import torch

from helpers import block_histograms, jackknife, smile_index
from helpers.teaching.checks import grade


def smiling_at(*layers, n_layer=6):
    """Histograms `{"cosine": ...}` whose QQ smiles at these layers only."""
    x = torch.randn(n_layer, 40, 6, generator=torch.Generator().manual_seed(1))
    x[list(layers)] += 5
    histograms = block_histograms(x, (4, 1, 1))
    smile = smile_index(histograms["cosine"]["QQ"])
    assert (smile > 0).nonzero().flatten().tolist() == sorted(layers)
    return histograms


INTERVAL = jackknife(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)) * 0.1, lambda x: x.mean(0))
INTERVAL = INTERVAL._replace(low=torch.tensor([0.1, 0.3, 0.5, 0.2]), high=torch.tensor([0.2, 0.5, 0.7, 0.6]))
POOLED = 0.4  # outside the intervals of heads 0 and 2


def by_head(q, k, v, d_head, *, repeat="repeat_interleave"):
    q, k, v = (part.unflatten(-1, (-1, d_head)).transpose(-3, -2) for part in (q, k, v))
    times = q.shape[-3] // k.shape[-3]
    if repeat == "tile":
        k, v = (torch.cat([part] * times, dim=-3) for part in (k, v))
    else:
        k, v = (part.repeat_interleave(times, dim=-3) for part in (k, v))
    return torch.cat([q, k, v], dim=-1)


def by_reshape(q, k, v, d_head):
    layer, sentence, _ = q.shape
    q, k, v = (part.reshape(layer, -1, sentence, d_head) for part in (q, k, v))  # the axes were never swapped
    times = q.shape[1] // k.shape[1]
    return torch.cat([q, k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)], dim=-1)


def gigabytes(n_layer, sizes, *, measures=2, width=4, unit=1e9):
    return measures * n_layer * sum(sizes) ** 2 * width / unit


def relative_offset(x, *, take_abs=True, correction=0):
    mean = x.mean(dim=1)
    return ((mean.abs() if take_abs else mean) / x.std(dim=1, correction=correction)).median(dim=-1).values


MISTAKES = [
    ("7.1", (lambda n, sizes: gigabytes(n, sizes, measures=1),), "phép đo|measures"),
    ("7.1", (lambda n, sizes: gigabytes(n, sizes, width=8),), "float32"),
    ("7.1", (lambda n, sizes: gigabytes(n, sizes, unit=1e6),), "đơn vị|unit"),
    ("7.1", (lambda n, sizes: gigabytes(n, sizes[:2]),), "0.44"),
    ("7.2", (lambda x: relative_offset(x, take_abs=False),), "trái dấu|opposite signs"),
    ("7.2", (lambda x: relative_offset(x, correction=1),), "correction"),
    ("7.2", (lambda x: (x.mean(1).abs() / x.std(1, correction=0)).mean(-1),), "trung vị|median"),
    ("7.2", (lambda x: x.mean(dim=1).abs() / x.std(dim=1, correction=0),), r"\(2, 5\)"),
    ("7.2", (lambda x: x.std(dim=1).median(dim=-1).values,), "theo câu trước|first over the sentences"),
    ("7.3", (1, smiling_at(0, 3)), "lần đầu|comes back"),
    ("7.3", (3, smiling_at(0, 3)), "lệch một|off by one"),
    ("7.3", (6, smiling_at(0, 3)), "xem S từ tầng|look at S from"),
    ("8.1", (lambda q, k, v, d: by_head(q, k, v, d, repeat="tile"),), "đầu Q nào|which query heads"),
    ("8.1", (by_reshape,), "trộn|mixed up"),
    ("8.1", (lambda q, k, v, d: q,), r"\(4, 6, 5, 6\)"),
    ("8.2", (lambda n_head, d_head: 1 / n_head,), "chính nó|itself"),
    ("8.2", (lambda n, d: math.comb(d, 2) / math.comb(n * d, 2),), "một đầu|one head"),
    ("8.2", (lambda n, d: n * math.comb(d, 2),), "đếm cặp|count the pairs"),
    ("8.3", ([1, 3], INTERVAL, POOLED), "ngược lại|other way round"),
    ("8.3", ([0], INTERVAL, POOLED), "còn thiếu|some are missing"),
    ("8.3", ([0, 1], INTERVAL, POOLED), "hai đầu mút|both ends"),
]


@pytest.mark.parametrize(("number", "answers", "hint"), MISTAKES, ids=[f"{m[0]}-{i}" for i, m in enumerate(MISTAKES)])
def test_a_typical_mistake_gets_its_own_hint(language, number, answers, hint):
    right, said = grade(number, *answers)
    assert not right and re.search(hint, said), said


RIGHT = [
    ("7.1", (gigabytes,)),
    ("7.2", (relative_offset,)),
    ("7.3", (4, smiling_at(0, 3))),
    ("7.3", (6, smiling_at(0, 5))),  # still positive at the last layer
    ("7.3", (0, smiling_at())),  # never positive
    ("8.1", (by_head,)),
    ("8.2", (lambda n_head, d_head: (d_head - 1) / (n_head * d_head - 1),)),
    ("8.3", ([2, 0], INTERVAL, POOLED)),
    ("8.3", (torch.tensor([0, 2]), INTERVAL, POOLED)),
    ("8.3", ([], INTERVAL._replace(low=-torch.ones(4), high=torch.ones(4)), POOLED)),
]


@pytest.mark.parametrize(("number", "answers"), RIGHT, ids=[f"{case[0]}-{i}" for i, case in enumerate(RIGHT)])
def test_a_right_answer_passes_whatever_way_it_was_found(number, answers):
    assert grade(number, *answers) == (True, None)


@pytest.mark.parametrize("number", ["7.1", "7.2", "8.1", "8.2"])
def test_a_function_that_still_returns_the_dots_is_open(language, number):
    right, said = grade(number, lambda *arguments: ...)
    assert not right and re.search("chưa làm|not done", said)
