"""Feedback on exercises, in the reader's language: what is wrong and where to look, never the answer.

    check("1.2", last_positions, batch)

prints one line and raises nothing, so that a notebook with open exercises runs to its end.
Each exercise has one function below.  It returns None when the answer is right, else a hint as a pair
(Vietnamese, English).
"""

import itertools

import numpy as np
import torch
from torch import nn

from helpers.capture import capture_qkv, encode, find_token, token_id_of
from helpers.i18n import say
from helpers.sentences import load_sentences
from helpers.similarity import block_histograms

EXERCISES = {}


def check(number, *answers):
    """Print whether the answers to an exercise are right, and if not, a hint.

    Args:
        number: of the exercise, e.g. "1.2".
        answers: what the exercise asks for, then what is needed to judge it.

    Raises:
        ValueError: no such exercise.
    """
    right, hint = verdict(number, *answers)
    print(f"✓ {number}" if right else f"○ {number} {hint}")


def verdict(number, *answers):
    """(right, hint): as `check`, but returned; the hint is None for a right answer."""
    if number not in EXERCISES:
        raise ValueError(f"no exercise {number!r}: expected one of {', '.join(EXERCISES)}")
    if _is_open(answers[0]):
        return False, say(
            "chưa làm: thay dấu … bằng lời giải của bạn", "not done yet: replace the … with your own answer"
        )
    try:
        hint = EXERCISES[number](*answers)
    except Exception as error:  # noqa: BLE001 - whatever the reader's own code raises
        return False, say(
            f"mã của bạn gây lỗi {type(error).__name__}: {error}", f"your code raised {type(error).__name__}: {error}"
        )
    return hint is None, None if hint is None else say(*hint)


def _exercise(number):
    def register(function):
        EXERCISES[number] = function
        return function

    return register


_OPEN = (
    "chưa làm: thay dấu … trong hàm bằng lời giải của bạn",
    "not done yet: replace the … in the function with your own code",
)


def _is_open(value):
    return value is None or value is ...


def _as_tensor(value):
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))


def _shape_hint(value, shape):
    """A hint if `value` has another shape, else None."""
    found = tuple(_as_tensor(value).shape)
    if found != tuple(shape):
        return f"kích thước là {found}, cần {tuple(shape)}", f"the shape is {found}, expected {tuple(shape)}"
    return None


# ---- 01 capture_qkv ------------------------------------------------------------------------------


@_exercise("1.1")
def _output_of(output_of):
    class Doubling(nn.Module):  # changes its output afterwards, so a view would show
        def forward(self, x):
            if x.shape[-1] != 3:
                raise RuntimeError("width")
            self.kept = 2 * x
            return self.kept

    module = Doubling()
    caught = output_of(module, torch.ones(2, 3))
    if _is_open(caught):
        return _OPEN
    if not isinstance(caught, torch.Tensor) or not torch.equal(caught, torch.full((2, 3), 2.0)):
        return "giá trị trả về không phải đầu ra của module", "what comes back is not the module's output"
    module.kept.zero_()
    if not caught.any():
        return "đây là khung nhìn, không phải bản sao: xem lại .clone()", "that is a view, not a copy: look at .clone()"
    try:
        output_of(module, torch.ones(2, 4))
    except RuntimeError:
        pass
    else:
        return "lỗi của module phải được truyền ra ngoài", "an error of the module must reach the caller"
    if module._forward_hooks:
        return "vẫn còn hook sau khi có lỗi: gỡ trong finally", "a hook is left after an error: remove it in finally"
    return None


@_exercise("1.2")
def _last_positions(positions, batch):
    mask = batch["attention_mask"].cpu()
    expected = torch.tensor([int(row.nonzero().max()) for row in mask])
    hint = _shape_hint(positions, expected.shape)
    if hint:
        return hint
    difference = _as_tensor(positions).cpu() - expected
    if bool((difference == 1).all()):
        return "lệch đúng một đơn vị: vị trí được đếm từ 0", "off by exactly one: positions are counted from 0"
    if bool(difference.any()):
        return (
            f"sai ở {int((difference != 0).sum())} câu: mỗi hàng của mặt nạ có bao nhiêu số 1?",
            f"wrong in {int((difference != 0).sum())} sentences: how many ones are in a row of the mask?",
        )
    return None


@_exercise("1.3")
def _interleaved_q(interleaved_q):
    for n_head, d_head in ((2, 2), (3, 4)):
        q, k, v = torch.randn(3, 5, n_head, d_head, generator=torch.Generator().manual_seed(0))  # [token, head, d_head]
        fused = torch.stack([q, k, v], dim=2).flatten(1)  # [token, n_head * 3 * d_head]
        answer = interleaved_q(fused, n_head)
        if _is_open(answer):
            return _OPEN
        hint = _shape_hint(answer, (5, n_head * d_head))
        if hint:
            return hint
        if torch.equal(answer, fused[:, : n_head * d_head]):
            return "đó là phép cắt phẳng, đúng cái bẫy ở trên", "that is the flat cut, the very trap above"
        if not torch.equal(answer, q.flatten(1)):
            return (
                "đúng kích thước nhưng sai nội dung: trục nào là q, k, v?",
                "right shape, wrong numbers: which axis is q, k, v?",
            )
    return None


# ---- 02 cosine_and_correlation -------------------------------------------------------------------


@_exercise("2.1")
def _cosine_matrix(cosine_matrix):
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1  # [token, feature]
    answer = cosine_matrix(x.clone())
    if _is_open(answer):
        return _OPEN
    hint = _shape_hint(answer, (4, 4))
    if hint:
        return hint
    numpy_x = x.numpy()
    length = np.sqrt((numpy_x**2).sum(axis=0))
    if np.allclose(answer, np.corrcoef(numpy_x, rowvar=False)):
        return "đây là tương quan: cosine không trừ trung bình", "that is the correlation: cosine subtracts no mean"
    if not np.allclose(np.diag(answer), 1):
        return (
            "đường chéo phải bằng 1: mỗi cột so với chính nó. Độ dài lấy theo trục nào?",
            "the diagonal must be 1, each column against itself: over which axis is the length?",
        )
    if not np.allclose(answer, numpy_x.T @ numpy_x / np.outer(length, length)):
        return "đúng kích thước nhưng sai nội dung: so với mục 1", "right shape, wrong numbers: compare with section 1"
    return None


@_exercise("2.2")
def _m_needed(m):
    m = float(m)
    if m <= 0:
        return "cần một số dương", "expected a positive number"
    reached = m**2 / (1 + m**2)
    if abs(reached - 0.9) > 1e-3:
        return f"với m này cosine là {reached:.3f}", f"this m makes the cosine {reached:.3f}"
    return None


@_exercise("2.3")
def _opposite_pair(pair, x):
    i, j = (int(index) for index in pair)
    if i == j:
        return "cần hai chiều khác nhau", "expected two different features"
    first, second = (np.asarray(x[:, index], dtype=np.float64) for index in (i, j))
    cosine = first @ second / np.sqrt((first @ first) * (second @ second))
    correlation = np.corrcoef(first, second)[0, 1]
    if not cosine < -0.9 or not abs(correlation) < 0.1:
        return (
            f"cặp này có cos = {cosine:.2f}, r = {correlation:.2f}",
            f"this pair has cos = {cosine:.2f}, r = {correlation:.2f}",
        )
    return None


# ---- 03 block_masks ------------------------------------------------------------------------------


@_exercise("3.1")
def _four_codes(codes):
    codes = [int(code) for code in codes]
    if len(codes) != 4 or min(codes) < 1:
        return "cần bốn số nguyên dương", "expected four positive whole numbers"
    products = [a * b for a, b in itertools.combinations_with_replacement(codes, 2)]
    repeated = sorted({product for product in products if products.count(product) > 1})
    if repeated:
        return f"tích bị trùng: {repeated}", f"these products occur twice: {repeated}"
    return None


@_exercise("3.2")
def _pair_counts(n_qv, n_kk):
    q, kv = 2048, 512  # 32 and 8 heads of 64
    if int(n_qv) != q * kv:
        return "QV chưa đúng: khối hỗn hợp là cả hình chữ nhật", "QV is not right: a cross block is the whole rectangle"
    if _is_open(n_kk):
        return "còn thiếu n_kk", "n_kk is still missing"
    if int(n_kk) == kv * kv:
        return "KK: mỗi cặp chỉ đếm một lần, bỏ đường chéo", "KK: count each pair once and leave out the diagonal"
    if int(n_kk) != kv * (kv - 1) // 2:
        return "KK chưa đúng: K có bao nhiêu chiều?", "KK is not right: how many features has K?"
    return None


@_exercise("3.3")
def _share_positive(share_positive):
    similarity = torch.tensor(
        [[1.0, 0.5, -0.2, 0.1], [0.5, 1.0, 0.3, 0.4], [-0.2, 0.3, 1.0, -0.6], [0.1, 0.4, -0.6, 1.0]]
    )
    mask = torch.tensor([[0, 1, 2, 2], [0, 0, 2, 2], [0, 0, 0, 4], [0, 0, 0, 0]])
    for code, expected in ((1, 1.0), (2, 0.75), (4, 0.0)):
        answer = share_positive(similarity, mask, code)
        if _is_open(answer):
            return _OPEN
        if abs(float(answer) - expected) > 1e-6:
            return (
                f"ở khối có mã {code} của một ví dụ nhỏ, hàm của bạn cho {float(answer):.2f}, cần {expected:.2f}",
                f"for the block of code {code} in a small example you get {float(answer):.2f}, expected {expected:.2f}",
            )
    return None


# ---- 04 cosine_smile -----------------------------------------------------------------------------


def _smile(counts, edges):
    """Smile index from its definition, one bin at a time; counts `[layer, bins]`."""
    counts, edges = np.asarray(counts, dtype=np.float64), np.asarray(edges)
    ends = centre = 0
    for b, middle in enumerate(np.abs(edges[1:] + edges[:-1]) / 2):
        ends = ends + counts[..., b] * (middle > 0.8)
        centre = centre + counts[..., b] * (middle < 0.2)
    return (ends - centre) / counts.sum(axis=-1)


@_exercise("4.1")
def _smile_index(smile_index):
    edges = torch.linspace(-1, 1, 101, dtype=torch.float64)
    counts = torch.randint(0, 50, (3, 100), generator=torch.Generator().manual_seed(0))  # [layer, bins]
    answer = smile_index(counts, edges)
    if _is_open(answer):
        return _OPEN
    hint = _shape_hint(answer, (3,))
    if hint:
        return hint
    answer = np.asarray(answer, dtype=np.float64)
    if np.allclose(answer, -_smile(counts, edges)):
        return "ngược dấu: lấy hai đầu trừ đi phần giữa", "the sign is reversed: ends minus middle"
    if np.abs(answer).max() > 1:
        return "S phải nằm trong [-1, 1]: chia cho tổng số đếm", "S lies in [-1, 1]: divide by the sum of the counts"
    if not np.allclose(answer, _smile(counts, edges)):
        return "chưa đúng: đã tính cả hai đầu, gần +1 và gần −1, chưa?", "not right: are both ends in it, +1 and −1?"
    return None


@_exercise("4.2")
def _water(water, model, tokenizer):
    batch = encode(tokenizer, load_sentences("water"))
    qkv = capture_qkv(model, batch, positions=find_token(batch, token_id_of(tokenizer, " water")))
    expected = block_histograms(qkv.joined(), qkv.sizes)["cosine"]["QQ"].counts
    answer = water["cosine"]["QQ"].counts
    hint = _shape_hint(answer, expected.shape)
    if hint:
        return hint
    if (answer - expected).abs().sum() > 1e-3 * expected.sum():
        return (
            "số đếm không khớp: đã đúng bộ câu và đúng token chưa?",
            "other counts: is it the right set, and the right token?",
        )
    return None


@_exercise("4.3")
def _widest_layer(layer, target, control):
    gap = [_smile(h["cosine"]["QQ"].counts.cpu(), h["cosine"].edges.cpu()) for h in (target, control)]
    gap = (gap[0] - gap[1])[1:]  # [layer - 1]
    if int(layer) == int(gap.argmax()):
        return (
            "lệch một tầng: bạn đã bỏ tầng 0 rồi đếm lại từ 0",
            "off by one: you left out layer 0 and counted from 0 again",
        )
    if int(layer) != 1 + int(gap.argmax()):
        return (
            f"hiệu ở tầng {int(layer)} chưa phải lớn nhất",
            f"the difference at layer {int(layer)} is not the largest",
        )
    return None
