"""Judges of notebooks 01 to 06: Q, K and V, cosine and correlation, blocks, the smile, its baseline and the offset."""

import itertools

import numpy as np
import torch

from helpers import statistics
from helpers.capture import capture_qkv
from helpers.settings import say
from helpers.similarity import block_histograms
from helpers.teaching.checks.answers import is_open, noise, number, numbered, other_kind, result, tensor, whole, wholes
from helpers.text import encode, find_token, load_sentences, token_id_of


def exercise_1_1(output_of):
    module, x = torch.nn.Unflatten(1, (3, 1)), torch.ones(2, 3)  # its output is a view of x; it refuses another width
    caught = result(output_of, module, x)
    if not isinstance(caught, torch.Tensor) or not torch.equal(caught, torch.ones(2, 3, 1)):
        return say("giá trị trả về không phải đầu ra của module", "what comes back is not the module's output")
    x.zero_()
    if not caught.any():
        return say("đó là khung nhìn, không phải bản sao: xem .clone()", "that is a view, not a copy: look at .clone()")
    try:
        output_of(module, torch.ones(2, 4))
    except RuntimeError:
        pass
    except Exception as error:  # noqa: BLE001 - another error instead of the module's
        name = type(error).__name__
        vi = f"lỗi của module phải được truyền ra ngoài, không phải {name}"
        return say(vi, f"the module's own error must reach the caller, not {name}")
    else:
        return say("lỗi của module phải được truyền ra ngoài", "an error of the module must reach the caller")
    if module._forward_hooks:
        return say("còn hook sau khi có lỗi: gỡ trong finally", "a hook is left after an error: remove it in finally")


def exercise_1_2(positions, batch):
    expected = torch.tensor([int(row.nonzero().max()) for row in batch["attention_mask"].cpu()])  # [sentence]
    difference = tensor(positions, len(expected)) - expected
    if bool((difference == 1).all()):
        return say("lệch đúng một đơn vị: vị trí được đếm từ 0", "off by exactly one: positions are counted from 0")
    wrong = int((difference != 0).sum())
    if wrong:
        vi = f"sai ở {wrong} câu: mỗi hàng của mặt nạ có bao nhiêu số 1?"
        return say(vi, f"wrong in {wrong} sentences: how many ones are in a row of the mask?")


def exercise_1_3(interleaved_q):
    for n_head, d_head in ((2, 2), (3, 4)):
        q, k, v = noise(3, 5, n_head, d_head).float()  # [token, head, d_head]
        fused = torch.stack([q, k, v], dim=2).flatten(1)  # [token, n_head * 3 * d_head]
        answer = tensor(result(interleaved_q, fused.clone(), n_head), 5, n_head * d_head)
        if torch.equal(answer, fused[:, : n_head * d_head].double()):
            return say("đó là cách cắt liền thành ba, đúng cái bẫy ở trên", "that is the flat cut, the very trap above")
        if not torch.equal(answer, q.flatten(1).double()):
            vi = "đúng kích thước nhưng sai nội dung: trục nào là q, k, v?"
            return say(vi, "right shape, wrong numbers: which axis is q, k, v?")


def exercise_2_1(cosine_matrix):
    x = noise(6, 4) + 1  # [sample, feature]
    answer, x = tensor(result(cosine_matrix, x.clone()), 4, 4), x.numpy()
    if np.allclose(answer, np.corrcoef(x, rowvar=False)):
        return say("đó là tương quan: cosine không trừ trung bình", "that is the correlation: cosine subtracts no mean")
    if not np.allclose(np.diag(answer), 1):
        vi = "đường chéo phải bằng 1: mỗi cột so với chính nó. Độ dài lấy theo trục nào?"
        return say(vi, "the diagonal must be 1, each column against itself: over which axis is the length?")
    length = np.sqrt((x**2).sum(axis=0))
    if not np.allclose(answer, x.T @ x / np.outer(length, length)):
        vi = "đúng kích thước nhưng sai nội dung: so với mục 1"
        return say(vi, "right shape, wrong numbers: compare with section 1")


def exercise_2_2(m):
    m = number(m, positive=True)
    cosine = m**2 / (1 + m**2)
    if not abs(cosine - 0.9) <= 1e-3:
        return say(f"với m này cosine là {cosine:.3f}", f"this m makes the cosine {cosine:.3f}")


def exercise_2_3(pair, x):
    pair = wholes(pair)
    if len(pair) != 2 or pair[0] == pair[1]:
        return say("cần hai chiều khác nhau", "expected two different features")
    numbered(pair, x.shape[1], "các chiều", "features")
    first, second = (np.asarray(x[:, index], dtype=np.float64) for index in pair)
    with np.errstate(all="ignore"):  # a constant feature has no correlation
        cosine = first @ second / np.sqrt((first @ first) * (second @ second))
        correlation = np.corrcoef(first, second)[0, 1]
    if not cosine < -0.9 or not abs(correlation) < 0.1:
        figures = f"cos = {cosine:.2f}, r = {correlation:.2f}"
        return say(f"cặp này có {figures}", f"this pair has {figures}")


def exercise_3_1(codes):
    codes = wholes(codes)
    if len(codes) != 4 or min(codes) < 1:
        return say("cần bốn số nguyên dương", "expected four positive whole numbers")
    products = [a * b for a, b in itertools.combinations_with_replacement(codes, 2)]
    repeated = sorted({product for product in products if products.count(product) > 1})
    if repeated:
        return say(f"tích bị trùng: {repeated}", f"these products occur twice: {repeated}")


def exercise_3_2(n_qv, n_kk):
    q, kv = 2048, 512  # 32 and 8 heads of 64
    if whole(n_qv) != q * kv:
        vi = "QV chưa đúng: khối hỗn hợp là cả hình chữ nhật"
        return say(vi, "QV is not right: a cross block is the whole rectangle")
    if is_open(n_kk):
        return say("còn thiếu n_kk", "n_kk is still missing")
    n_kk = whole(n_kk)
    if n_kk in (kv * kv, kv * (kv + 1) // 2):
        return say("KK: mỗi cặp chỉ đếm một lần, bỏ đường chéo", "KK: count each pair once and leave out the diagonal")
    if n_kk != kv * (kv - 1) // 2:
        return say("KK chưa đúng: K có bao nhiêu chiều?", "KK is not right: how many features has K?")


def exercise_3_3(share_positive):
    similarity = torch.tensor(
        [[1.0, 0.5, -0.2, 0.1], [0.5, 1.0, 0.3, 0.4], [-0.2, 0.3, 1.0, -0.6], [0.1, 0.4, -0.6, 1.0]]
    )
    mask = torch.tensor([[0, 1, 2, 2], [0, 0, 2, 2], [0, 0, 0, 4], [0, 0, 0, 0]])
    for code, expected in ((1, 1.0), (2, 0.75), (4, 0.0)):
        answer = number(result(share_positive, similarity.clone(), mask.clone(), code))
        if not 0 <= answer <= 1:
            vi = f"tỉ lệ nằm giữa 0 và 1, hàm của bạn cho {answer:.2f}"
            return say(vi, f"a share lies between 0 and 1, yours is {answer:.2f}")
        if abs(answer - expected) > 1e-6:
            vi = f"ở khối có mã {code} của một ví dụ nhỏ, bạn được {answer:.2f}: "
            en = f"for the block of code {code} in a small example you get {answer:.2f}: "
            return say(vi + "chỉ đếm, và chỉ chia cho, các cặp của khối ấy?", en + "are its own pairs alone counted?")


def exercise_4_1(smile_index):
    edges = torch.linspace(-1, 1, 101, dtype=torch.float64)
    counts = torch.randint(0, 50, (3, 100), generator=torch.Generator().manual_seed(0))  # [layer, bins]
    answer = tensor(result(smile_index, counts.clone(), edges.clone()), 3)
    total = counts.double().sum(-1)  # [layer]

    def ends_and_centre(at):  # [layer] each; `at` is where a bin lies, [bins]
        return counts[:, at.abs() > 0.8].sum(-1) / total, counts[:, at.abs() < 0.2].sum(-1) / total

    ends, centre = ends_and_centre((edges[1:] + edges[:-1]) / 2)
    if np.allclose(answer, centre - ends):
        return say("ngược dấu: lấy hai đầu trừ đi phần giữa", "the sign is reversed: ends minus middle")
    if bool((answer.abs() > 1).any()):
        return say("S nằm trong [-1, 1]: chia cho tổng số đếm", "S lies in [-1, 1]: divide by the sum of the counts")
    if np.allclose(answer, ends):
        return say("đây mới là tỉ lệ ở hai đầu: còn phần giữa?", "that is the share at the ends: and the middle?")
    if np.allclose(answer * total.sum() / total, ends - centre):
        vi = "mỗi hàng chia cho tổng của chính nó: cộng theo trục cuối thôi"
        return say(vi, "each row is divided by its own sum: add along the last axis only")
    for at in (edges[1:], edges[:-1]):
        at_ends, at_centre = ends_and_centre(at)
        if np.allclose(answer, at_ends - at_centre):
            vi = "xét điểm giữa của mỗi khoảng chia, không phải mép"
            return say(vi, "it is the middle of a bin that counts, not an edge")
    if not np.allclose(answer, ends - centre):
        return say("chưa đúng: đã tính cả hai đầu, +1 và −1, chưa?", "not right: are both ends in it, +1 and −1?")


def exercise_4_2(water, model, tokenizer):
    try:
        answer = water["cosine"]["QQ"].counts
    except (TypeError, KeyError, IndexError, AttributeError):
        raise other_kind("kết quả của block_histograms", "what block_histograms returns", water) from None
    batch = encode(tokenizer, load_sentences("water"))
    qkv = capture_qkv(model, batch, positions=find_token(batch, token_id_of(tokenizer, " water")))
    expected = block_histograms(qkv.joined(), qkv.sizes)["cosine"]["QQ"].counts.cpu()
    answer = tensor(answer, *expected.shape)
    if not (answer - expected).abs().sum() <= 1e-3 * expected.sum():
        vi = "số đếm không khớp: đã đúng bộ câu và đúng token chưa?"
        return say(vi, "other counts: is it the right set, and the right token?")


def exercise_4_3(layer, target, control):
    smile, of_control = (statistics.smile_index(histograms["cosine"]["QQ"]) for histograms in (target, control))
    gap = (smile - of_control)[1:]  # [layer - 1]
    layer, widest = whole(layer), 1 + int(gap.argmax())
    numbered([layer], 1 + len(gap), "các tầng", "layers")
    if layer == widest - 1:
        vi = "lệch một tầng: bạn đã bỏ tầng 0 rồi đếm lại từ 0"
        return say(vi, "off by one: you left out layer 0 and counted from 0 again")
    if layer != widest:
        return say(f"hiệu ở tầng {layer} chưa phải lớn nhất", f"the difference at layer {layer} is not the largest")


def exercise_5_1(shuffle_columns):
    x = torch.arange(40.0).view(8, 5)  # [sample, feature]
    given = x.clone()
    answer = result(shuffle_columns, given, torch.Generator().manual_seed(3))
    if not torch.equal(given, x):
        return say("bạn đã sửa chính x: hãy trả về tensor mới", "you changed x itself: return a new tensor")
    answer, x = tensor(answer, 8, 5), x.double()
    if not torch.equal(answer.sort(dim=0).values, x):
        return say("một cột không còn giữ các giá trị của nó", "a column does not keep its own values")
    if torch.equal(answer, x):
        return say("không có gì bị xáo trộn", "nothing was shuffled")
    again = tensor(result(shuffle_columns, given, torch.Generator().manual_seed(3)), 8, 5)
    if not torch.equal(again, answer):
        vi = "cùng một hạt giống mà hai lần khác nhau: hãy dùng generator được đưa vào"
        return say(vi, "the same seed gave two results: use the generator that is passed in")
    order = (answer - x[0]) / 5  # [sample, feature]: where each value came from
    if torch.equal(order, order[:, :1].expand(8, 5)):
        vi = "mọi cột dùng chung một hoán vị: sự ghép cặp chưa bị phá"
        return say(vi, "all columns share one permutation: pairs are kept")


def exercise_5_2(n):
    n = whole(round(number(n), 9))  # 1 + 1 / 0.05**2 is a rounding error away from a whole number
    if n == 400:
        return say("gần đúng: độ lệch chuẩn là 1/sqrt(n - 1)", "close: the standard deviation is 1/sqrt(n - 1)")
    if n > 401:
        return say("đủ, nhưng ít câu hơn cũng đủ", "enough, but fewer sentences would do")
    if n < 2:
        return say("cần ít nhất hai câu mới có độ lệch chuẩn", "it takes two sentences to have a standard deviation")
    if n != 401:
        width = (n - 1) ** -0.5
        return say(f"với {n} câu, độ lệch chuẩn là {width:.3f}", f"with {n} sentences it is {width:.3f}")


def exercise_5_3(flip_sentences):
    x = torch.arange(1.0, 121.0).view(40, 3)  # [sample, feature]
    answer = tensor(result(flip_sentences, x.clone(), torch.Generator().manual_seed(0)), 40, 3)
    signs = answer / x  # [sample, feature]
    if not torch.equal(signs.abs(), torch.ones_like(signs)):
        return say("mỗi giá trị chỉ được giữ nguyên hoặc đổi dấu", "each value may only stay or change its sign")
    if not torch.equal(signs, signs[:, :1].expand(40, 3)):
        return say("cả hàng phải dùng chung một dấu", "a whole row must share one sign")
    if signs[:, 0].unique().numel() == 1:
        return say("mọi câu có cùng một dấu", "all sentences have the same sign")


def exercise_6_1(partial_centre):
    x = noise(2, 7, 3) + 2  # [layer, sample, feature]
    for a in (0.0, 0.25, 1.0):
        answer = tensor(result(partial_centre, x.clone(), a), *x.shape)
        if not np.allclose(answer, x.numpy() - a * x.numpy().mean(axis=1, keepdims=True)):
            vi = f"sai khi a = {a}: trung bình lấy theo trục token (áp chót)"
            return say(vi, f"wrong at a = {a}: the mean is over the token axis, the last but one")


def exercise_6_2(split):
    x, word = noise(7, 3) + 2, torch.tensor([30, 4, 30, 30, 4, 11, 30])  # [sample, feature], [sample]
    parts = result(split, x.clone(), word.clone())
    if not isinstance(parts, (tuple, list)) or len(parts) != 3:
        raise other_kind("ba tensor: common, own, context", "three tensors: common, own, context", parts)
    for name, part in zip(("common", "own", "context"), parts, strict=True):
        if is_open(part):
            return say(f"còn thiếu {name}", f"{name} is still missing")
    common, own, context = (tensor(part, *shape).numpy() for part, shape in zip(parts, [(3,), (7, 3), (7, 3)]))
    x, word = x.numpy(), word.numpy()
    mean_of = {w: x[word == w].mean(axis=0) for w in (30, 4, 11)}
    of_word = np.stack([mean_of[w] for w in word])  # [sample, feature]
    if np.allclose(common, np.mean(list(mean_of.values()), axis=0)):
        vi = "common: mỗi token tính một lần, không phải mỗi từ một lần"
        return say(vi, "common: every token counts once, not every word once")
    if not np.allclose(common, x.mean(axis=0)):
        return say("common phải là trung bình trên mọi token", "common must be the mean over all tokens")
    if np.allclose(own, of_word):
        return say("own vẫn còn chứa phần mà từ nào cũng có", "own still contains what every word has")
    if not np.allclose(own, of_word - common):
        vi = "own phải như nhau ở mọi lần xuất hiện của một từ: nhìn từ common, từ ấy nằm ở đâu?"
        return say(vi, "own must be the same at every occurrence of a word: seen from common, where does the word lie?")
    if not np.allclose(common + own + context, x):
        return say("ba phần cộng lại chưa bằng x", "the three parts do not add up to x yet")


def squared_sum_over_sum_of_squares(matrix):
    """Of the eigenvalues of a symmetric matrix."""
    values = np.linalg.eigvalsh(matrix)
    return values.sum() ** 2 / (values**2).sum()


def exercise_6_3(participation_ratio):
    x = noise(6, 4) + 1  # [sample, feature]
    answer, x = number(result(participation_ratio, x.clone())), x.numpy()
    z = x / np.sqrt((x**2).sum(axis=0))
    expected = squared_sum_over_sum_of_squares(z @ z.T)
    if abs(answer * expected - 1) < 1e-9:
        return say("đó là nghịch đảo", "that is the inverse")
    if abs(answer - squared_sum_over_sum_of_squares(x @ x.T)) < 1e-9:
        return say("bạn quên chia mỗi cột cho độ dài của nó", "you forgot to divide each column by its length")
    if not abs(answer - expected) < 1e-9:
        vi = f"một ví dụ nhỏ, 6 token và 4 chiều, cho {answer:.2f}: tổng của bình phương hay bình phương của tổng?"
        en = f"a small example, 6 tokens and 4 features, gives {answer:.2f}: sum of squares, or square of the sum?"
        return say(vi, en)
