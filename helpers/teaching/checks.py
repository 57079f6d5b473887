"""Feedback on exercises, in the reader's language: what is wrong and where to look, never the answer.

    check("1.2", last_positions, batch)

prints one line, with how many exercises of the notebook are solved, and raises nothing, so that a
notebook with open exercises runs to its end.  Each exercise has one function below.  It returns None
when the answer is right, else a hint as a pair (Vietnamese, English).
"""

import itertools
import math

import numpy as np
import torch
from torch import nn

from helpers.capture import capture_qkv
from helpers.settings import say
from helpers.similarity import block_histograms
from helpers.text import encode, find_token, load_sentences, token_id_of

EXERCISES = {}
_solved = set()  # numbers of the exercises solved since the kernel started


def check(number, *answers):
    """Print whether the answers to an exercise are right, and if not, a hint; then the progress.

    Args:
        number: of the exercise, e.g. "1.2".
        answers: what the exercise asks for, then what is needed to judge it.

    Raises:
        ValueError: no such exercise.
    """
    right, hint = grade(number, *answers)
    if right:
        _solved.add(number)
    print(f"✓ {number}" if right else f"○ {number} {hint}", "·", progress(number))


def progress(number):
    """How many exercises of this one's notebook were solved in this session, out of how many."""

    def of_notebook(numbers):
        return sum(other.split(".")[0] == number.split(".")[0] for other in numbers)

    return f"{say('bài tập', 'exercises')}: {of_notebook(_solved)}/{of_notebook(EXERCISES)}"


def grade(number, *answers):
    """(right, hint): as `check`, but returned; the hint is None for a right answer."""
    if number not in EXERCISES:
        raise ValueError(f"no exercise {number!r}: expected one of {', '.join(EXERCISES)}")
    if not answers or _is_open(answers[0]):
        return False, say(
            "chưa làm: thay dấu … bằng lời giải của bạn", "not done yet: replace the … with your own answer"
        )
    try:
        hint = EXERCISES[number](*answers)
    except _Wrong as wrong:
        hint = wrong.args
    except Exception as error:  # noqa: BLE001 - an answer of a kind that nobody thought of
        name = type(error).__name__
        hint = (
            f"không đọc được câu trả lời này ({name}): so kiểu của nó với đề bài",
            f"this answer cannot be read ({name}): compare its type with what the exercise asks for",
        )
    return hint is None, None if hint is None else say(*hint)


def _exercise(number):
    def register(function):
        EXERCISES[number] = function
        return function

    return register


# ---- what came, against what was expected --------------------------------------------------------


class _Wrong(Exception):
    """An answer that need not be looked at further; its arguments are the hint, (Vietnamese, English)."""


def _is_open(value):
    return value is None or value is ...


def _expected(vi, en, value):
    kind = type(value).__name__
    return _Wrong(f"cần {vi}, nhận được {kind}", f"expected {en}, got {kind}")


def _result(function, *arguments, nothing=False):
    """What the reader's function returns; `nothing`: it may return None."""
    if not callable(function):
        raise _expected("một hàm", "a function", function)
    try:
        answer = function(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever the reader's own code raises
        text = ": ".join(filter(None, [type(error).__name__, str(error).split("\n")[0]]))
        raise _Wrong(f"mã của bạn gây lỗi {text}", f"your code raised {text}") from None
    if answer is ...:
        raise _Wrong(
            "chưa làm: thay dấu … trong hàm bằng lời giải của bạn",
            "not done yet: replace the … in the function with your own code",
        )
    if answer is None and not nothing:
        raise _Wrong("hàm của bạn không trả về gì: thiếu return?", "your function returns nothing: no return?")
    return answer


def _tensor(value, *shape):
    """`value` as a float64 tensor of this shape."""
    try:
        tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))
        if tensor.is_complex():
            raise TypeError
        tensor = tensor.detach().cpu().double()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise _expected("một tensor số", "a tensor of numbers", value) from None
    if tensor.shape != shape:
        found = tuple(tensor.shape)
        raise _Wrong(f"kích thước là {found}, cần {shape}", f"the shape is {found}, expected {shape}")
    return tensor


def _number(value):
    try:
        if isinstance(value, (str, bytes)) or getattr(getattr(value, "dtype", None), "kind", None) == "c":
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise _expected("một số", "a number", value) from None
    if not math.isfinite(number):
        raise _Wrong(f"cần một số hữu hạn, nhận được {number}", f"expected a finite number, got {number}")
    return number


def _whole(value):
    number = _number(value)
    if number != int(number):
        raise _Wrong(f"cần một số nguyên, nhận được {number:g}", f"expected a whole number, got {number:g}")
    return int(number)


def _whole_numbers(values):
    try:
        if isinstance(values, (str, bytes, dict)):
            raise TypeError
        values = list(values)
    except (TypeError, RuntimeError):
        raise _expected("một danh sách số nguyên", "a list of whole numbers", values) from None
    return [_whole(value) for value in values]


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
    caught = _result(output_of, module, torch.ones(2, 3))
    if not isinstance(caught, torch.Tensor) or not torch.equal(caught, torch.full((2, 3), 2.0)):
        return "giá trị trả về không phải đầu ra của module", "what comes back is not the module's output"
    module.kept.zero_()
    if not caught.any():
        return "đây là khung nhìn, không phải bản sao: xem lại .clone()", "that is a view, not a copy: look at .clone()"
    try:
        output_of(module, torch.ones(2, 4))
    except RuntimeError:
        pass
    except Exception as error:  # noqa: BLE001 - another error instead of the module's
        name = type(error).__name__
        return (
            f"lỗi của module phải được truyền ra ngoài, không phải {name}",
            f"the module's own error must reach the caller, not {name}",
        )
    else:
        return "lỗi của module phải được truyền ra ngoài", "an error of the module must reach the caller"
    if module._forward_hooks:
        return "vẫn còn hook sau khi có lỗi: gỡ trong finally", "a hook is left after an error: remove it in finally"
    return None


@_exercise("1.2")
def _last_positions(positions, batch):
    mask = batch["attention_mask"].cpu()
    expected = torch.tensor([int(row.nonzero().max()) for row in mask])
    difference = _tensor(positions, len(expected)) - expected
    if bool((difference == 1).all()):
        return "lệch đúng một đơn vị: vị trí được đếm từ 0", "off by exactly one: positions are counted from 0"
    if bool((difference != 0).any()):
        wrong = int((difference != 0).sum())
        return (
            f"sai ở {wrong} câu: mỗi hàng của mặt nạ có bao nhiêu số 1?",
            f"wrong in {wrong} sentences: how many ones are in a row of the mask?",
        )
    return None


@_exercise("1.3")
def _interleaved_q(interleaved_q):
    for n_head, d_head in ((2, 2), (3, 4)):
        q, k, v = torch.randn(3, 5, n_head, d_head, generator=torch.Generator().manual_seed(0))  # [token, head, d_head]
        fused = torch.stack([q, k, v], dim=2).flatten(1)  # [token, n_head * 3 * d_head]
        answer = _tensor(_result(interleaved_q, fused.clone(), n_head), 5, n_head * d_head)
        if torch.equal(answer, fused[:, : n_head * d_head].double()):
            return "đó là cách cắt liền thành ba, đúng cái bẫy ở trên", "that is the flat cut, the very trap above"
        if not torch.equal(answer, q.flatten(1).double()):
            return (
                "đúng kích thước nhưng sai nội dung: trục nào là q, k, v?",
                "right shape, wrong numbers: which axis is q, k, v?",
            )
    return None


# ---- 02 cosine_and_correlation -------------------------------------------------------------------


@_exercise("2.1")
def _cosine_matrix(cosine_matrix):
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1  # [sample, feature]
    answer = _tensor(_result(cosine_matrix, x.clone()), 4, 4)
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
    m = _number(m)
    if m <= 0:
        return "cần một số dương", "expected a positive number"
    reached = m**2 / (1 + m**2)
    if not abs(reached - 0.9) <= 1e-3:
        return f"với m này cosine là {reached:.3f}", f"this m makes the cosine {reached:.3f}"
    return None


@_exercise("2.3")
def _opposite_pair(pair, x):
    pair, width = _whole_numbers(pair), x.shape[1]
    if len(pair) != 2 or pair[0] == pair[1]:
        return "cần hai chiều khác nhau", "expected two different features"
    if not 0 <= min(pair) <= max(pair) < width:
        return f"các chiều được đánh số từ 0 đến {width - 1}", f"features are numbered from 0 to {width - 1}"
    first, second = (np.asarray(x[:, index], dtype=np.float64) for index in pair)
    with np.errstate(all="ignore"):  # a constant feature has no correlation
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
    codes = _whole_numbers(codes)
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
    if _whole(n_qv) != q * kv:
        return "QV chưa đúng: khối hỗn hợp là cả hình chữ nhật", "QV is not right: a cross block is the whole rectangle"
    if _is_open(n_kk):
        return "còn thiếu n_kk", "n_kk is still missing"
    n_kk = _whole(n_kk)
    if n_kk in (kv * kv, kv * (kv + 1) // 2):
        return "KK: mỗi cặp chỉ đếm một lần, bỏ đường chéo", "KK: count each pair once and leave out the diagonal"
    if n_kk != kv * (kv - 1) // 2:
        return "KK chưa đúng: K có bao nhiêu chiều?", "KK is not right: how many features has K?"
    return None


@_exercise("3.3")
def _share_positive(share_positive):
    similarity = torch.tensor(
        [[1.0, 0.5, -0.2, 0.1], [0.5, 1.0, 0.3, 0.4], [-0.2, 0.3, 1.0, -0.6], [0.1, 0.4, -0.6, 1.0]]
    )
    mask = torch.tensor([[0, 1, 2, 2], [0, 0, 2, 2], [0, 0, 0, 4], [0, 0, 0, 0]])
    for code, expected in ((1, 1.0), (2, 0.75), (4, 0.0)):
        answer = _number(_result(share_positive, similarity.clone(), mask.clone(), code))
        if not 0 <= answer <= 1:
            return (
                f"tỉ lệ nằm giữa 0 và 1, hàm của bạn cho {answer:.2f}",
                f"a share lies between 0 and 1, yours is {answer:.2f}",
            )
        if abs(answer - expected) > 1e-6:
            return (
                f"ở khối có mã {code} của một ví dụ nhỏ, bạn được {answer:.2f}: chỉ đếm, và chỉ chia cho, các cặp của khối ấy?",
                f"for the block of code {code} in a small example you get {answer:.2f}: are its own pairs alone counted?",
            )
    return None


# ---- 04 cosine_smile -----------------------------------------------------------------------------


def _parts(counts, edges):
    """Shares of the ends and of the centre from their definition, one bin at a time; counts `[layer, bins]`."""
    counts, edges = np.asarray(counts, dtype=np.float64), np.asarray(edges)
    ends = centre = 0
    for b, middle in enumerate(np.abs(edges[1:] + edges[:-1]) / 2):
        ends = ends + counts[..., b] * (middle > 0.8)
        centre = centre + counts[..., b] * (middle < 0.2)
    return ends / counts.sum(axis=-1), centre / counts.sum(axis=-1)


def _smile(counts, edges):
    ends, centre = _parts(counts, edges)
    return ends - centre


@_exercise("4.1")
def _smile_index(smile_index):
    edges = torch.linspace(-1, 1, 101, dtype=torch.float64)
    counts = torch.randint(0, 50, (3, 100), generator=torch.Generator().manual_seed(0))  # [layer, bins]
    answer = _tensor(_result(smile_index, counts.clone(), edges.clone()), 3)
    ends, centre = _parts(counts, edges)
    if np.allclose(answer, centre - ends):
        return "ngược dấu: lấy hai đầu trừ đi phần giữa", "the sign is reversed: ends minus middle"
    if bool((answer.abs() > 1).any()):
        return "S phải nằm trong [-1, 1]: chia cho tổng số đếm", "S lies in [-1, 1]: divide by the sum of the counts"
    if np.allclose(answer, ends):
        return "đây mới là tỉ lệ ở hai đầu: còn phần giữa?", "that is the share at the ends: and the middle?"
    total = counts.sum(-1).double()  # [layer]
    if np.allclose(answer * total.sum() / total, ends - centre):
        return (
            "mỗi hàng chia cho tổng của chính nó: cộng theo trục cuối thôi",
            "each row is divided by its own sum: add along the last axis only",
        )
    for edge in (edges[1:].abs(), edges[:-1].abs()):  # [bins], in place of the middle
        if np.allclose(answer * total, counts[:, edge > 0.8].sum(-1) - counts[:, edge < 0.2].sum(-1)):
            return (
                "xét điểm giữa của mỗi khoảng chia, không phải mép",
                "it is the middle of a bin that counts, not an edge",
            )
    if not np.allclose(answer, ends - centre):
        return "chưa đúng: đã tính cả hai đầu, gần +1 và gần −1, chưa?", "not right: are both ends in it, +1 and −1?"
    return None


@_exercise("4.2")
def _water(water, model, tokenizer):
    try:
        answer = water["cosine"]["QQ"].counts
    except (TypeError, KeyError, IndexError, AttributeError):
        raise _expected("kết quả của block_histograms", "what block_histograms returns", water) from None
    batch = encode(tokenizer, load_sentences("water"))
    qkv = capture_qkv(model, batch, positions=find_token(batch, token_id_of(tokenizer, " water")))
    expected = block_histograms(qkv.joined(), qkv.sizes)["cosine"]["QQ"].counts.cpu()
    answer = _tensor(answer, *expected.shape)
    if not (answer - expected).abs().sum() <= 1e-3 * expected.sum():
        return (
            "số đếm không khớp: đã đúng bộ câu và đúng token chưa?",
            "other counts: is it the right set, and the right token?",
        )
    return None


@_exercise("4.3")
def _widest_layer(layer, target, control):
    gap = [_smile(h["cosine"]["QQ"].counts.cpu(), h["cosine"].edges.cpu()) for h in (target, control)]
    gap = (gap[0] - gap[1])[1:]  # [layer - 1]
    layer, deepest = _whole(layer), len(gap)
    if not 0 <= layer <= deepest:
        return f"các tầng được đánh số từ 0 đến {deepest}", f"layers are numbered from 0 to {deepest}"
    if layer == int(gap.argmax()):
        return (
            "lệch một tầng: bạn đã bỏ tầng 0 rồi đếm lại từ 0",
            "off by one: you left out layer 0 and counted from 0 again",
        )
    if layer != 1 + int(gap.argmax()):
        return f"hiệu ở tầng {layer} chưa phải lớn nhất", f"the difference at layer {layer} is not the largest"
    return None


# ---- 05 shuffled_baseline ------------------------------------------------------------------------


@_exercise("5.1")
def _shuffle_columns(shuffle_columns):
    x = torch.arange(40.0).view(8, 5)  # [sample, feature]
    given = x.clone()
    answer = _result(shuffle_columns, given, torch.Generator().manual_seed(3))
    if not torch.equal(given, x):
        return "bạn đã sửa chính x: hãy trả về tensor mới", "you changed x itself: return a new tensor"
    answer, x = _tensor(answer, 8, 5), x.double()
    if not torch.equal(answer.sort(dim=0).values, x):
        return "một cột không còn giữ các giá trị của nó", "a column does not keep its own values"
    if torch.equal(answer, x):
        return "không có gì bị xáo trộn", "nothing was shuffled"
    again = _result(shuffle_columns, given, torch.Generator().manual_seed(3))
    if not torch.equal(_tensor(again, 8, 5), answer):
        return (
            "cùng một hạt giống mà hai lần khác nhau: hãy dùng generator được đưa vào",
            "the same seed gave two results: use the generator that is passed in",
        )
    order = (answer - x[0]) / 5  # [sample, feature]: where each value came from
    if all(torch.equal(order[:, 0], order[:, j]) for j in range(5)):
        return (
            "mọi cột dùng chung một hoán vị: sự ghép cặp chưa bị phá",
            "all columns share one permutation: pairs are kept",
        )
    return None


@_exercise("5.2")
def _n_needed(n):
    n = _whole(round(_number(n), 9))  # 1 + 1 / 0.05**2 is a rounding error away from a whole number
    if n == 400:
        return "gần đúng: độ lệch chuẩn là 1/sqrt(n - 1)", "close: the standard deviation is 1/sqrt(n - 1)"
    if n > 401:
        return "đủ, nhưng ít câu hơn cũng đủ", "enough, but fewer sentences would do"
    if n < 2:
        return "cần ít nhất hai câu mới có độ lệch chuẩn", "it takes two sentences to have a standard deviation"
    if n != 401:
        width = (n - 1) ** -0.5
        return f"với {n} câu, độ lệch chuẩn là {width:.3f}", f"with {n} sentences it is {width:.3f}"
    return None


@_exercise("5.3")
def _flip_sentences(flip_sentences):
    x = torch.arange(1.0, 121.0).view(40, 3)  # [sample, feature]
    answer = _tensor(_result(flip_sentences, x.clone(), torch.Generator().manual_seed(0)), 40, 3)
    signs = answer / x  # [sample, feature]
    if not torch.equal(signs.abs(), torch.ones_like(signs)):
        return "mỗi giá trị chỉ được giữ nguyên hoặc đổi dấu", "each value may only stay or change its sign"
    if not torch.equal(signs, signs[:, :1].expand(40, 3)):
        return "cả hàng phải dùng chung một dấu", "a whole row must share one sign"
    if signs[:, 0].unique().numel() == 1:
        return "mọi câu có cùng một dấu", "all sentences have the same sign"
    return None


# ---- 06 mean_offset ------------------------------------------------------------------------------


@_exercise("6.1")
def _partial_centre(partial_centre):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 7, 3, dtype=torch.float64, generator=generator) + 2  # [layer, sample, feature]
    for a in (0.0, 0.25, 1.0):
        answer = _tensor(_result(partial_centre, x.clone(), a), *x.shape)
        expected = np.stack([layer - a * layer.mean(axis=0) for layer in x.numpy()])
        if not np.allclose(answer, expected):
            return (
                f"sai khi a = {a}: trung bình lấy theo trục token (áp chót)",
                f"wrong at a = {a}: the mean is over the token axis, the last but one",
            )
    return None


@_exercise("6.2")
def _split(split):
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 2  # [sample, feature]
    word = torch.tensor([30, 4, 30, 30, 4, 11, 30])
    parts = _result(split, x.clone(), word.clone())
    if not isinstance(parts, (tuple, list)) or len(parts) != 3:
        raise _expected("ba tensor: common, own, context", "three tensors: common, own, context", parts)
    missing = [name for name, part in zip(("common", "own", "context"), parts) if _is_open(part)]
    if missing:
        return f"còn thiếu {missing[0]}", f"{missing[0]} is still missing"
    common, own, context = (_tensor(part, *shape).numpy() for part, shape in zip(parts, [(3,), (7, 3), (7, 3)]))
    rows = {w: x.numpy()[word.numpy() == w] for w in (30, 4, 11)}
    of_word = np.stack([rows[w].mean(axis=0) for w in word.tolist()])  # [sample, feature]
    if np.allclose(common, np.mean([values.mean(axis=0) for values in rows.values()], axis=0)):
        return (
            "common: mỗi token tính một lần, không phải mỗi từ một lần",
            "common: every token counts once, not every word once",
        )
    if not np.allclose(common, x.numpy().mean(axis=0)):
        return "common phải là trung bình trên mọi token", "common must be the mean over all tokens"
    if np.allclose(own, of_word):
        return "own vẫn còn chứa phần mà từ nào cũng có", "own still contains what every word has"
    if not np.allclose(own, of_word - common):
        return (
            "own phải như nhau ở mọi lần xuất hiện của một từ: nhìn từ common, từ ấy nằm ở đâu?",
            "own must be the same at every occurrence of a word: seen from common, where does the word lie?",
        )
    if not np.allclose(common + own + context, x.numpy()):
        return "ba phần cộng lại chưa bằng x", "the three parts do not add up to x yet"
    return None


@_exercise("6.3")
def _participation_ratio(participation_ratio):
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1  # [sample, feature]
    answer = _number(_result(participation_ratio, x.clone()))

    def is_ratio_of(matrix, value):
        values = np.linalg.eigvalsh(matrix)
        return abs(value - values.sum() ** 2 / (values**2).sum()) <= 1e-9

    z = x.numpy() / np.sqrt((x.numpy() ** 2).sum(axis=0))
    if is_ratio_of(z @ z.T, answer):
        return None
    if answer and is_ratio_of(z @ z.T, 1 / answer):
        return "đó là nghịch đảo", "that is the inverse"
    if is_ratio_of((x @ x.T).numpy(), answer):
        return "bạn quên chia mỗi cột cho độ dài của nó", "you forgot to divide each column by its length"
    return (
        f"một ví dụ nhỏ, 6 token và 4 chiều, cho {answer:.2f}: tổng của bình phương hay bình phương của tổng?",
        f"a small example, 6 tokens and 4 features, gives {answer:.2f}: sum of squares, or square of the sum?",
    )


# ---- 07 across_layers ----------------------------------------------------------------------------


@_exercise("7.1")
def _matrix_gigabytes(matrix_gigabytes):
    for n_layer, sizes in ((12, (768, 768, 768)), (30, (576, 192, 192))):
        width = sum(sizes)
        expected = 2 * n_layer * width * width * 4 / 1e9
        ratio = _number(_result(matrix_gigabytes, n_layer, sizes)) / expected
        if abs(ratio - 1) < 1e-6:
            continue
        if ratio <= 0:
            return "cần một số dương", "expected a positive number"
        if abs(ratio - 0.5) < 1e-6:
            return "đúng một nửa: có bao nhiêu phép đo?", "exactly half: how many measures are there?"
        if abs(ratio - 2) < 1e-6:
            return "gấp đôi: một số float32 chiếm bao nhiêu byte?", "twice as much: how many bytes has a float32?"
        if abs(math.log10(ratio)) > 2:
            return "sai đơn vị: một gigabyte là bao nhiêu byte?", "another unit: how many bytes are a gigabyte?"
        return (
            f"với {n_layer} tầng và {sizes}, kết quả của bạn gấp {ratio:.2f} lần số đúng: ma trận có mấy hàng, mấy cột?",
            f"for {n_layer} layers and {sizes} you get {ratio:.2f} times the amount: how many rows and columns?",
        )
    return None


@_exercise("7.2")
def _relative_offset(relative_offset):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)  # [layer, sentence, feature]
    x = x + torch.tensor([-3.0, -1.0, 0.5, 2.0, -8.0])
    answer = _tensor(_result(relative_offset, x.clone()), 2)
    numpy_x = x.numpy()
    mean, sd = numpy_x.mean(axis=1), numpy_x.std(axis=1)

    def gives(expected):
        return np.allclose(answer, expected)

    if gives(np.median(np.abs(mean) / sd, axis=-1)):
        return None
    if gives(np.median(mean / sd, axis=-1)):
        return (
            "các độ dời trái dấu triệt tiêu nhau: thiếu điều gì?",
            "offsets of opposite signs cancel: what is missing?",
        )
    if gives(np.median(np.abs(mean) / numpy_x.std(axis=1, ddof=1), axis=-1)):
        return "chia cho n − 1 thay vì n: xem correction", "divided by n − 1 instead of n: look at correction"
    if gives((np.abs(mean) / sd).mean(axis=-1)):
        return "đây là trung bình theo các chiều, không phải trung vị", "that is the mean over features, not the median"
    return (
        "đúng kích thước nhưng sai nội dung: trung bình theo câu trước, trung vị theo chiều sau",
        "right shape, wrong numbers: first over the sentences, then the median over the features",
    )


@_exercise("7.3")
def _closing_layer(layer, target):
    smile = _smile(target["cosine"]["QQ"].counts.cpu(), target["cosine"].edges.cpu())  # [layer]
    expected = len(smile)
    while expected > 0 and smile[expected - 1] <= 0:
        expected -= 1
    layer = _whole(layer)
    if layer == expected:
        return None
    if not 0 <= layer <= len(smile):
        return f"cần một số từ 0 đến {len(smile)}", f"expected a number from 0 to {len(smile)}"
    if layer == expected - 1:
        return "lệch một tầng: ở tầng ấy S còn dương", "off by one: S is still positive there"
    below = np.flatnonzero(smile <= 0)
    if len(below) and layer == below[0]:
        return (
            "ở tầng ấy S lần đầu không dương, nhưng rồi lại dương",
            "S is not positive there, but it comes back later",
        )
    return f"chưa đúng: xem S từ tầng {layer} đến tầng cuối", f"not right: look at S from layer {layer} to the last"


# ---- 08 per_head ---------------------------------------------------------------------------------


@_exercise("8.1")
def _by_head(by_head):
    d_head = 2
    for n_query, n_key in ((6, 2), (3, 3)):
        q = torch.arange(4 * 5 * n_query * d_head).view(4, 5, -1).double()  # [layer, sentence, feature]
        k, v = (start + torch.arange(4 * 5 * n_key * d_head).view(4, 5, -1).double() for start in (1000, 2000))
        answer = _tensor(_result(by_head, q.clone(), k.clone(), v.clone(), d_head), 4, n_query, 5, 3 * d_head)
        wanted = [torch.arange(h * d_head, (h + 1) * d_head) for h in range(n_query)]
        shared = [wanted[h * n_key // n_query] for h in range(n_query)]
        tiled = [wanted[h % n_key] for h in range(n_query)]

        def joined(keys, q=q, k=k, v=v, wanted=wanted):
            return torch.stack(
                [torch.cat([q[..., i], k[..., j], v[..., j]], dim=-1) for i, j in zip(wanted, keys)], dim=1
            )

        if torch.equal(answer, joined(shared)):
            continue
        if torch.equal(answer, joined(tiled)):
            return (
                "mỗi đầu K được ghép với những đầu Q nào? Nhìn lại bảng ở mục 1",
                "which query heads go with a key head? Look at the table of section 1 again",
            )
        return (
            "đúng kích thước nhưng các số bị trộn: cắt trục chiều trước, đổi chỗ trục sau",
            "right shape, but the numbers are mixed up: first cut the feature axis, then swap axes",
        )
    return None


@_exercise("8.2")
def _share_within(share_within):
    for n_head, d_head in ((12, 64), (4, 3)):
        answer = _number(_result(share_within, n_head, d_head))
        width = n_head * d_head
        same = sum(i // d_head == j // d_head for j in range(width) for i in range(j))
        every = width * (width - 1) // 2
        if abs(answer - same / every) < 1e-9:
            continue
        if abs(answer - 1 / n_head) < 1e-9:
            return (
                "gần đúng, nhưng 1/số đầu tính cả cặp của một chiều với chính nó",
                "close, but 1/heads also counts each feature paired with itself",
            )
        if abs(answer - same / every / n_head) < 1e-9:
            return "đó là tỉ lệ của một đầu: có bao nhiêu đầu?", "that is the share of one head: how many heads?"
        return (
            f"với {n_head} đầu, mỗi đầu {d_head} chiều, bạn được {answer:.4f}: đếm cặp của một đầu trước",
            f"for {n_head} heads of {d_head} you get {answer:.4f}: first count the pairs of one head",
        )
    return None


@_exercise("8.3")
def _heads_outside(heads, interval, pooled):
    low, high = (np.asarray(side.cpu(), dtype=np.float64) for side in (interval.low, interval.high))
    outside = {h for h in range(len(low)) if not low[h] <= float(pooled) <= high[h]}
    truths = isinstance(heads, (list, tuple)) and {type(head) for head in heads} == {bool}
    if truths or getattr(heads, "dtype", None) in (torch.bool, np.dtype(bool)):
        return (
            "đây là mặt nạ đúng/sai: cần *số thứ tự* các đầu",
            "that is a mask: the *numbers* of the heads are needed",
        )
    found = set(_whole_numbers(heads))
    if found == outside:
        return None
    if not found <= set(range(len(low))):
        return f"các đầu được đánh số từ 0 đến {len(low) - 1}", f"heads are numbered from 0 to {len(low) - 1}"
    if found == set(range(len(low))) - outside:
        return (
            "ngược lại: đây là các đầu có khoảng *chứa* giá trị gộp",
            "the other way round: those intervals *contain* it",
        )
    if found and found < outside:
        return "còn thiếu: giá trị gộp có thể nằm ở phía nào của khoảng?", "some are missing: on which side may it lie?"
    return "chưa đúng: so cả hai đầu mút với giá trị gộp", "not right: compare both ends with the pooled value"


# ---- 09 what_the_offset_does ---------------------------------------------------------------------


@_exercise("9.1")
def _swap_offset(swap_offset):
    generator = torch.Generator().manual_seed(0)
    x, mine, other = (torch.randn(2, n, 3, dtype=torch.float64, generator=generator) for n in (4, 6, 5))
    answer = _tensor(_result(swap_offset, x.clone(), mine.clone(), other.clone()), 2, 4, 3)
    m, o, own = (part.numpy().mean(axis=1, keepdims=True) for part in (mine, other, x))
    x = x.numpy()
    if np.allclose(answer, x - m + o):
        return None
    if np.allclose(answer, x - own + o):
        return (
            "đừng lấy trung bình của chính các câu đang đo: độ dời của từ là trung bình của mine",
            "not the mean of the very sentences measured: the word's offset is the mean of mine",
        )
    if np.allclose(answer, x + m - o):
        return "ngược chiều: bỏ độ dời nào, thêm độ dời nào?", "the wrong way round: which offset goes, which comes?"
    if np.allclose(answer, x - m) or np.allclose(answer, x + o):
        return "mới được một nửa: bỏ một độ dời, thêm một độ dời", "half of it: one offset goes out, the other comes in"
    if np.allclose(answer, np.broadcast_to(o, x.shape)):
        return "độ lệch của x phải còn nguyên", "the deviations of x must stay"
    return (
        "trung bình lấy trên trục nào? x, mine, other: [layer, sentence, feature]",
        "a mean over which axis? [layer, sentence, feature]",
    )


@_exercise("9.2")
def _added(added):
    q, c = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    c = c[0]
    answer = _tensor(_result(added, q.clone(), c.clone()), 5)
    expected = np.einsum("qd,d->q", q.numpy(), c.numpy()) / np.sqrt(8)
    if np.allclose(answer, expected):
        return None
    if np.allclose(answer, expected * np.sqrt(8)):
        return "còn thiếu phép chia trong công thức tính điểm", "the division in the formula of the score is missing"
    if np.allclose(answer, expected / np.sqrt(8)):
        return "chia cho căn bậc hai của d, không phải d", "divide by the square root of d, not by d"
    return "so với số hạng cuối của công thức ở trên", "compare with the last term of the formula above"


# ---- 10 same_model_other_histogram ---------------------------------------------------------------


@_exercise("10.1")
def _gauge(gauge):
    generator = torch.Generator().manual_seed(0)
    q, k, m = (torch.randn(4, 4, dtype=torch.float64, generator=generator) for _ in range(3))
    answer = _result(gauge, q.clone(), k.clone(), m.clone())
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise _expected("một cặp (q mới, k mới)", "a pair (new q, new k)", answer)
    if any(_is_open(part) for part in answer):
        return "còn thiếu một trong hai ma trận", "one of the two matrices is still missing"
    new_q, new_k = (_tensor(part, 4, 4) for part in answer)
    if not np.allclose(new_q @ new_k.T, q @ k.T):
        if np.allclose(new_k, k @ torch.linalg.inv(m)):
            return "k phải nhân với nghịch đảo *chuyển vị*", "k takes the inverse *transposed*"
        return "điểm q·k đã đổi: ma trận nhân vào k phải khử được M", "the scores q·k changed: k's matrix must undo q's"
    if not np.allclose(new_q, q @ m):
        return "điểm giữ nguyên, nhưng q phải thành q M", "the scores stay, but q must become q M"
    return None


@_exercise("10.2")
def _pair_share(pair_share):
    x = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + torch.arange(6)
    answer = _tensor(_result(pair_share, x.clone(), 3), 3)
    mean, energy = x.numpy().mean(axis=0) ** 2, (x.numpy() ** 2).mean(axis=0)

    def share(first, second):
        return (mean[first] + mean[second]) / (energy[first] + energy[second])

    if np.allclose(answer, share(slice(0, 3), slice(3, 6))):
        return None
    if np.allclose(answer, share(slice(0, 6, 2), slice(1, 6, 2))):
        return (
            "chiều i đi cùng chiều i + half, không phải cùng chiều bên cạnh",
            "i goes with i + half, not with its neighbour",
        )
    if np.allclose(answer, (mean / energy)[:3]) or np.allclose(answer, (mean / energy).reshape(2, 3).mean(axis=0)):
        return (
            "cộng năng lượng của hai chiều trước, rồi mới chia",
            "first add the energies of both features, then divide",
        )
    if np.allclose(answer**2, share(slice(0, 3), slice(3, 6))):
        return "năng lượng là bình phương: bỏ căn bậc hai", "energy is a square: no square root"
    return (
        "tử: bình phương của trung bình; mẫu: trung bình của bình phương",
        "above: the mean, squared; below: the mean of squares",
    )


# ---- 11 your_own_study ---------------------------------------------------------------------------


@_exercise("11.1")
def _last_of_word(last_of_word):
    cases = [
        ([5, 7, 1, 2, 7, 9], (2, 7), 4),
        ([8, 6], (6,), 1),
        ([3, 4, 9, 3, 4], (3, 4), 1),
        ([1, 2, 3, 2, 3, 4], (2, 3, 4), 5),
        ([2, 1, 7], (2, 7), None),
    ]
    found = [_result(last_of_word, list(ids), tuple(pieces), nothing=True) for ids, pieces, _ in cases]
    if all(answer is None for answer in found):
        return "hàm của bạn không tìm thấy gì: thiếu return?", "your function finds nothing: no return?"
    for (ids, pieces, expected), answer in zip(cases, found):
        answer = None if answer is None else _whole(answer)
        if answer == expected:
            continue
        where = f"last_of_word({ids}, {pieces})"
        if answer is not None and expected is not None and answer == expected - len(pieces) + 1:
            return f"{where}: đó là token đầu của từ", f"{where}: that is the first token of the word"
        if answer is not None and 0 <= answer < len(ids) and ids[answer] == pieces[-1]:
            return (
                f"{where} = {answer}: đúng id, nhưng đó có phải token cuối của từ ấy ở lần xuất hiện đầu tiên không?",
                f"{where} = {answer}: the right id, but is it the end of that word, and of its first occurrence?",
            )
        return f"{where} = {answer}: chưa đúng", f"{where} = {answer}: not right"
    return None


@_exercise("11.2")
def _share_of_bias(share_of_bias):
    bias, rest = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    offset = bias + rest
    answer, other = (_number(_result(share_of_bias, part.clone(), offset.clone())) for part in (bias, rest))
    b, o = bias.numpy(), offset.numpy()
    if abs(answer - b @ o / (o @ o)) < 1e-9:
        return None
    if abs(answer - np.sqrt(b @ b / (o @ o))) < 1e-9 or abs(answer - b @ b / (o @ o)) < 1e-9:
        return (
            "tỉ số độ dài không biết hai phần cùng hướng hay ngược hướng: hai tỉ lệ sẽ không cộng thành 1",
            "a ratio of lengths cannot tell parts that agree from parts that cancel: two shares would not add up to 1",
        )
    if abs(answer - b @ o / np.sqrt((b @ b) * (o @ o))) < 1e-9:
        return "đó là cosine của hai vector, chưa phải tỉ lệ", "that is the cosine of the two, not yet a share"
    return (
        f"tỉ lệ của bias và tỉ lệ của phần còn lại cộng thành {answer + other:.2f}, cần 1",
        f"the share of the bias and that of the rest add up to {answer + other:.2f}, expected 1",
    )
