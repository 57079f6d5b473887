"""Judges of notebooks 07 to 11: layers, heads, what the offset does, the rotary step, and a study of your own."""

import math

import numpy as np
import torch

from helpers.settings import say
from helpers.statistics import smile_index
from helpers.teaching.checks.answers import is_open, noise, number, numbered, other_kind, result, tensor, whole, wholes


def exercise_7_1(matrix_gigabytes):
    for n_layer, sizes in ((12, (768, 768, 768)), (30, (576, 192, 192))):
        expected = 2 * n_layer * sum(sizes) ** 2 * 4 / 1e9
        ratio = number(result(matrix_gigabytes, n_layer, sizes), positive=True) / expected
        if abs(ratio - 1) < 1e-6:
            continue
        if abs(ratio - 0.5) < 1e-6:
            return say("đúng một nửa: có bao nhiêu phép đo?", "exactly half: how many measures are there?")
        if abs(ratio - 2) < 1e-6:
            return say("gấp đôi: một số float32 chiếm bao nhiêu byte?", "twice as much: how many bytes has a float32?")
        if abs(math.log10(ratio)) > 2:
            return say("sai đơn vị: một gigabyte là bao nhiêu byte?", "another unit: how many bytes are a gigabyte?")
        vi = (
            f"với {n_layer} tầng và {sizes}, kết quả của bạn gấp {ratio:.2f} lần số đúng: ma trận có mấy hàng, mấy cột?"
        )
        en = f"for {n_layer} layers and {sizes} you get {ratio:.2f} times the amount: how many rows and columns?"
        return say(vi, en)


def exercise_7_2(relative_offset):
    x = noise(2, 6, 5) + torch.tensor([-3.0, -1.0, 0.5, 2.0, -8.0])  # [layer, sentence, feature]
    answer, x = tensor(result(relative_offset, x.clone()), 2), x.numpy()
    mean, sd = x.mean(axis=1), x.std(axis=1)
    if np.allclose(answer, np.median(mean / sd, axis=-1)):
        vi = "các độ dời trái dấu triệt tiêu nhau: thiếu điều gì?"
        return say(vi, "offsets of opposite signs cancel: what is missing?")
    if np.allclose(answer, np.median(np.abs(mean) / x.std(axis=1, ddof=1), axis=-1)):
        return say("chia cho n − 1 thay vì n: xem correction", "divided by n − 1 instead of n: look at correction")
    if np.allclose(answer, (np.abs(mean) / sd).mean(axis=-1)):
        vi = "đây là trung bình theo các chiều, không phải trung vị"
        return say(vi, "that is the mean over features, not the median")
    if not np.allclose(answer, np.median(np.abs(mean) / sd, axis=-1)):
        vi = "đúng kích thước nhưng sai nội dung: trung bình theo câu trước, trung vị theo chiều sau"
        return say(vi, "right shape, wrong numbers: first over the sentences, then the median over the features")


def exercise_7_3(layer, target):
    smile = smile_index(target["cosine"]["QQ"]).cpu()  # [layer]
    layer, n_layer = whole(layer), len(smile)
    closed, above = np.flatnonzero(smile <= 0), np.flatnonzero(smile > 0)
    expected = 1 + above[-1] if len(above) else 0
    if layer == expected:
        return None
    if not 0 <= layer <= n_layer:
        return say(f"cần một số từ 0 đến {n_layer}", f"expected a number from 0 to {n_layer}")
    if layer == expected - 1:
        return say("lệch một tầng: ở tầng ấy S còn dương", "off by one: S is still positive there")
    if layer in closed[:1]:
        vi = "ở tầng ấy S lần đầu không dương, nhưng rồi lại dương"
        return say(vi, "S is not positive there, but it comes back later")
    return say(f"chưa đúng: xem S từ tầng {layer} đến cuối", f"not right: look at S from layer {layer} to the last")


def beside_key_heads(q, k, v, d_head, key_heads):
    """`[layer, head, sentence, 3 * d_head]`: query head h, then the key head and the value head `key_heads[h]`."""
    q, k, v = (part.unflatten(-1, (-1, d_head)) for part in (q, k, v))  # [layer, sentence, head, d_head]
    return torch.cat([q, k[..., key_heads, :], v[..., key_heads, :]], dim=-1).transpose(1, 2)


def exercise_8_1(by_head):
    d_head = 2
    for n_query, n_key in ((6, 2), (3, 3)):
        q = torch.arange(4 * 5 * n_query * d_head).view(4, 5, -1).double()  # [layer, sentence, feature]
        k, v = (start + torch.arange(4 * 5 * n_key * d_head).view(4, 5, -1).double() for start in (1000, 2000))
        answer = tensor(result(by_head, q.clone(), k.clone(), v.clone(), d_head), 4, n_query, 5, 3 * d_head)
        shared, tiled = ([h * n_key // n_query for h in range(n_query)], [h % n_key for h in range(n_query)])
        if torch.equal(answer, beside_key_heads(q, k, v, d_head, shared)):
            continue
        if torch.equal(answer, beside_key_heads(q, k, v, d_head, tiled)):
            vi = "mỗi đầu K được ghép với những đầu Q nào? Nhìn lại bảng ở mục 1"
            return say(vi, "which query heads go with a key head? Look at the table of section 1 again")
        vi = "đúng kích thước nhưng các số bị trộn: cắt trục chiều trước, đổi chỗ trục sau"
        return say(vi, "right shape, but the numbers are mixed up: first cut the feature axis, then swap axes")


def exercise_8_2(share_within):
    for n_head, d_head in ((12, 64), (4, 3)):
        answer = number(result(share_within, n_head, d_head))
        head = np.arange(n_head * d_head) // d_head  # [feature]
        same = np.triu(head[:, None] == head, k=1).sum()
        every = len(head) * (len(head) - 1) // 2
        if abs(answer - same / every) < 1e-9:
            continue
        if abs(answer - 1 / n_head) < 1e-9:
            vi = "gần đúng, nhưng 1/số đầu tính cả cặp của một chiều với chính nó"
            return say(vi, "close, but 1/heads also counts each feature paired with itself")
        if abs(answer - same / every / n_head) < 1e-9:
            return say("đó là tỉ lệ của một đầu: có bao nhiêu đầu?", "that is the share of one head: how many heads?")
        vi = f"với {n_head} đầu, mỗi đầu {d_head} chiều, bạn được {answer:.4f}: đếm cặp của một đầu trước"
        return say(vi, f"for {n_head} heads of {d_head} you get {answer:.4f}: first count the pairs of one head")


def exercise_8_3(heads, interval, pooled):
    low, high = interval.low.tolist(), interval.high.tolist()
    every = set(range(len(low)))
    outside = {h for h in every if not low[h] <= float(pooled) <= high[h]}
    truths = isinstance(heads, (list, tuple)) and {type(head) for head in heads} == {bool}
    if truths or getattr(heads, "dtype", None) in (torch.bool, np.dtype(bool)):
        vi = "đây là mặt nạ đúng/sai: cần *số thứ tự* các đầu"
        return say(vi, "that is a mask: the *numbers* of the heads are needed")
    found = set(wholes(heads))
    numbered(found, len(low), "các đầu", "heads")
    if found == every - outside:
        vi = "ngược lại: đây là các đầu có khoảng *chứa* giá trị gộp"
        return say(vi, "the other way round: those intervals *contain* it")
    if found and found < outside:
        vi = "còn thiếu: giá trị gộp có thể nằm ở phía nào của khoảng?"
        return say(vi, "some are missing: on which side may it lie?")
    if found != outside:
        return say("chưa đúng: so cả hai đầu mút với giá trị gộp", "not right: compare both ends with the pooled value")


def exercise_9_1(swap_offset):
    x, mine, other = noise(2, 15, 3).split([4, 6, 5], dim=1)  # [layer, sentence, feature] each
    answer = tensor(result(swap_offset, x.clone(), mine.clone(), other.clone()), 2, 4, 3)
    m, o, own = (part.numpy().mean(axis=1, keepdims=True) for part in (mine, other, x))
    x = x.numpy()
    if np.allclose(answer, x - own + o):
        vi = "đừng lấy trung bình của chính các câu đang đo: độ dời của từ là trung bình của mine"
        return say(vi, "not the mean of the very sentences measured: the word's offset is the mean of mine")
    if np.allclose(answer, x + m - o):
        vi = "ngược chiều: bỏ độ dời nào, thêm độ dời nào?"
        return say(vi, "the wrong way round: which offset goes, which comes?")
    if np.allclose(answer, x - m) or np.allclose(answer, x + o):
        vi = "mới được một nửa: bỏ một độ dời, thêm một độ dời"
        return say(vi, "half of it: one offset goes out, the other comes in")
    if np.allclose(answer, np.broadcast_to(o, x.shape)):
        return say("độ lệch của x phải còn nguyên", "the deviations of x must stay")
    if not np.allclose(answer, x - m + o):
        vi = "trung bình lấy trên trục nào? x, mine, other: [layer, sentence, feature]"
        return say(vi, "a mean over which axis? [layer, sentence, feature]")


def exercise_9_2(added):
    c, q = noise(6, 8).split([1, 5])  # [1, d_head], [token, d_head]
    answer = tensor(result(added, q.clone(), c[0].clone()), 5)
    expected = (q.numpy() * c.numpy()).sum(axis=1) / np.sqrt(8)
    if np.allclose(answer, expected * np.sqrt(8)):
        return say("thiếu phép chia trong công thức tính điểm", "the division in the formula of the score is missing")
    if np.allclose(answer, expected / np.sqrt(8)):
        return say("chia cho căn bậc hai của d, không phải d", "divide by the square root of d, not by d")
    if not np.allclose(answer, expected):
        return say("so với số hạng cuối của công thức ở trên", "compare with the last term of the formula above")


def exercise_10_1(gauge):
    q, k, m = noise(3, 4, 4)
    answer = result(gauge, q.clone(), k.clone(), m.clone())
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise other_kind("một cặp (q mới, k mới)", "a pair (new q, new k)", answer)
    if any(is_open(part) for part in answer):
        return say("còn thiếu một trong hai ma trận", "one of the two matrices is still missing")
    new_q, new_k = (tensor(part, 4, 4) for part in answer)
    if not np.allclose(new_q @ new_k.T, q @ k.T):
        if np.allclose(new_k, k @ torch.linalg.inv(m)):
            return say("k phải nhân với nghịch đảo *chuyển vị*", "k takes the inverse *transposed*")
        return say("điểm q·k đã đổi: ma trận của k phải khử được M", "the scores q·k changed: k's matrix must undo q's")
    if not np.allclose(new_q, q @ m):
        return say("điểm giữ nguyên, nhưng q phải thành q M", "the scores stay, but q must become q M")


def exercise_10_2(pair_share):
    x = noise(7, 6) + torch.arange(6)
    answer, x = tensor(result(pair_share, x.clone(), 3), 3), x.numpy()
    mean, energy = x.mean(axis=0) ** 2, (x**2).mean(axis=0)  # [feature]
    expected = (mean[:3] + mean[3:]) / (energy[:3] + energy[3:])
    if np.allclose(answer, (mean[::2] + mean[1::2]) / (energy[::2] + energy[1::2])):
        vi = "chiều i đi cùng chiều i + half, không phải cùng chiều bên cạnh"
        return say(vi, "i goes with i + half, not with its neighbour")
    if np.allclose(answer, (mean / energy)[:3]) or np.allclose(answer, (mean / energy).reshape(2, 3).mean(axis=0)):
        vi = "cộng năng lượng của hai chiều trước, rồi mới chia"
        return say(vi, "first add the energies of both features, then divide")
    if np.allclose(answer**2, expected):
        return say("năng lượng là bình phương: bỏ căn bậc hai", "energy is a square: no square root")
    if not np.allclose(answer, expected):
        vi = "tử: bình phương của trung bình; mẫu: trung bình của bình phương"
        return say(vi, "above: the mean, squared; below: the mean of squares")


WORDS = (  # (ids, the word's pieces, position of the last piece)
    ([5, 7, 1, 2, 7, 9], (2, 7), 4),
    ([8, 6], (6,), 1),
    ([3, 4, 9, 3, 4], (3, 4), 1),
    ([1, 2, 3, 2, 3, 4], (2, 3, 4), 5),
    ([2, 1, 7], (2, 7), None),
)


def exercise_11_1(last_of_word):
    found = [result(last_of_word, list(ids), pieces, nothing=True) for ids, pieces, _ in WORDS]
    if all(answer is None for answer in found):
        return say("hàm của bạn không tìm thấy gì: thiếu return?", "your function finds nothing: no return?")
    for (ids, pieces, expected), answer in zip(WORDS, found, strict=True):
        answer = None if answer is None else whole(answer)
        if answer == expected:
            continue
        where = f"last_of_word({ids}, {pieces})"
        if answer is not None and expected is not None and answer == expected - len(pieces) + 1:
            return say(f"{where}: đó là token đầu của từ", f"{where}: that is the first token of the word")
        if answer is not None and 0 <= answer < len(ids) and ids[answer] == pieces[-1]:
            vi = f"{where} = {answer}: đúng id, nhưng đó có phải token cuối của từ ấy ở lần xuất hiện đầu tiên không?"
            en = f"{where} = {answer}: the right id, but is it the end of that word, and of its first occurrence?"
            return say(vi, en)
        return say(f"{where} = {answer}: chưa đúng", f"{where} = {answer}: not right")


def exercise_11_2(share_of_bias):
    bias, rest = noise(2, 6)  # [feature] each
    answer, other = (number(result(share_of_bias, part.clone(), bias + rest)) for part in (bias, rest))
    b, offset = bias.numpy(), (bias + rest).numpy()
    if abs(answer - np.sqrt(b @ b / (offset @ offset))) < 1e-9 or abs(answer - b @ b / (offset @ offset)) < 1e-9:
        vi = "tỉ số độ dài không biết hai phần cùng hướng hay ngược hướng: hai tỉ lệ sẽ không cộng thành 1"
        en = "a ratio of lengths cannot tell parts that agree from parts that cancel: two shares would not add up to 1"
        return say(vi, en)
    if abs(answer - b @ offset / np.sqrt((b @ b) * (offset @ offset))) < 1e-9:
        return say("đó là cosine của hai vector, chưa phải tỉ lệ", "that is the cosine of the two, not yet a share")
    if not abs(answer - b @ offset / (offset @ offset)) < 1e-9:
        vi = f"tỉ lệ của bias và tỉ lệ của phần còn lại cộng thành {answer + other:.2f}, cần 1"
        return say(vi, f"the share of the bias and that of the rest add up to {answer + other:.2f}, expected 1")
