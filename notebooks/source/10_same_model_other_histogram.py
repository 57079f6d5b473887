# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] lang="vi"
r"""
# 10 · Cùng một mô hình, biểu đồ khác

**Câu hỏi.** Có thể sửa một mô hình để nụ cười của KK khép lại mà *không một logit nào* thay đổi hay không? (Logit là con số mà mô hình gán cho từng token có thể đứng tiếp theo, trước softmax.) Nếu có thể, biểu đồ tần suất (histogram) nói về điều gì, và đại lượng nào vẫn còn nguyên?

**Sau bài này, bạn có thể**
- dựng một mô hình *khác biểu đồ nhưng cùng logit*: tự do gauge (gauge freedom);
- giải thích vì sao cùng lắm chỉ $|s|$ có nghĩa ($s$: cosine của một cặp), còn hai nửa trái và phải của nụ cười thì không;
- dựng một GPT-2 mà nụ cười của KK mở hay khép tùy ý, chỉ bằng một phép cộng;
- tính phần *bất biến* của độ dời, phần mà dù chọn hệ tọa độ nào cũng không đổi.

**Thời gian:** khoảng 45 phút đọc và làm bài tập; máy tính chạy khoảng 15 giây. **Cần biết trước:** bài 02, 06 và 09.
"""

# %% [markdown] lang="en"
r"""
# 10 · The same model, another histogram

**Question.** Can a model be changed so that the smile of KK closes and *not one logit* changes? (A logit is the model's number for a token that may come next, before the softmax.) If so, what does a histogram speak of, and which quantity is left?

**Afterwards you can**
- build a model with *another histogram and the same logits*: gauge freedom;
- say why at most $|s|$ means something ($s$: the cosine of a pair), and the left and right halves of the smile do not;
- build a GPT-2 whose smile of KK opens or closes at will, by nothing but an addition;
- compute the *invariant* part of an offset, which no choice of coordinates can change.

**Time:** about 45 minutes of reading and exercises; the computer runs for about 15 seconds. **You need:** notebooks 02, 06 and 09.
"""

# %% tags=["setup"]
# the build puts setup_cell.py here
from helpers import set_language

set_language("vi")

# %%
from contextlib import contextmanager

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from helpers import (
    attention_modules,
    block_histograms,
    capture_qkv,
    encode,
    find_token,
    label,
    load_model,
    load_ordinary,
    load_sentences,
    say,
    show,
    smile_index,
    token_id_of,
    wasserstein_distance,
)
from helpers.experiments.interventions import edit_layers, in_double, real_tokens, rotary_half, turn_pairs
from helpers.experiments.takes import takes
from helpers.teaching.checks import check, needs
from helpers.teaching.plots import plot_conditions
from helpers.teaching.plots.interventions import plot_pairs

model, tokenizer = load_model()
takes(model, causal=True, plain=True)

# %% [markdown] lang="vi"
r"""
## 1. Tự do gauge

Trong mỗi đầu attention (head), thay $Q\to QM$ và $K\to KM^{-\top}$ với $M$ khả nghịch bất kỳ:

$$(q_iM)\cdot(k_jM^{-\top})=q_iMM^{-1}k_j^\top=q_i\cdot k_j.$$

Mọi điểm số attention (attention score) giữ nguyên, nên mọi logit giữ nguyên: đó chỉ là việc chọn hệ tọa độ, từ bên ngoài không ai thấy được. Nhưng các *chiều* (feature) đã bị trộn vào nhau, nên cosine giữa các chiều thì đổi.

Với mã hóa vị trí xoay (RoPE), $M$ phải giao hoán với bước xoay (rotary step): chỉ được quay và co giãn trong từng cặp chiều mà bước xoay quay cùng nhau. Như thế mỗi cặp vẫn còn một góc tự do. Các đầu Q dùng chung một đầu K thì dùng chung một $M$.

### Bài tập 10.1
Viết `gauge(q, k, m)`: `q`, `k` `[token, d_head]`, `m` `[d_head, d_head]` khả nghịch; trả về hai ma trận `(q M, k M⁻ᵀ)`.

*Gợi ý:* `torch.linalg.inv`, `.mT`.
"""

# %% [markdown] lang="en"
r"""
## 1. Gauge freedom

In each attention head, replace $Q\to QM$ and $K\to KM^{-\top}$ with any invertible $M$:

$$(q_iM)\cdot(k_jM^{-\top})=q_iMM^{-1}k_j^\top=q_i\cdot k_j.$$

Every attention score stays, so every logit stays: a choice of coordinates that nobody can see from outside. But *features* have been mixed, so the cosines between features change.

With rotary positions (RoPE) $M$ must commute with the rotary step: it may only turn and scale within each pair of features that the step turns together. That still leaves one free angle for each pair. Query heads that share a key head share one $M$.

### Exercise 10.1
Write `gauge(q, k, m)`: `q`, `k` `[token, d_head]`, `m` `[d_head, d_head]` invertible; return the pair `(q M, k M⁻ᵀ)`.

*Hint:* `torch.linalg.inv`, `.mT`.
"""


# %% tags=["exercise"]
def gauge(q, k, m):
    return ...


check("10.1", gauge)


# %% tags=["solution"]
# @title Lời giải 10.1 · Solution 10.1
def gauge(q, k, m):
    return q @ m, k @ torch.linalg.inv(m).mT


check("10.1", gauge, solution=True)

# %% [markdown] lang="vi"
r"""
Chọn góc nào? Mỗi cặp có góc riêng: với từng góc trong 64 góc, ta tính $|b|=|\mu|/\text{rms}$ (bài 06) của các chiều Q trong cặp, trừ đi $|b|$ của các chiều K trong cặp, rồi lấy góc có hiệu lớn nhất: *khép* nụ cười của KK, *mở* nụ cười của QQ. Lấy góc có hiệu nhỏ nhất thì ngược lại. $M$ còn nhân mỗi cặp với 2, để thấy rằng $M$ không nhất thiết là phép quay thuần túy. Ta làm thế ở mọi tầng (layer).

**Dự đoán.** QQ mở ra, KK khép lại, thì QK đổi thế nào?
"""

# %% [markdown] lang="en"
r"""
Which angle? Each pair has its own: for each of 64 angles we take $|b|=|\mu|/\text{rms}$ (notebook 06) of Q's features in the pair, minus that of K's in the pair, and choose the angle with the largest difference: *close* the smile of KK, *open* that of QQ. The smallest difference does the reverse. $M$ also scales each pair by 2, to show that it need not be a pure rotation. We do so at every layer.

**Predict.** When QQ opens and KK closes, what becomes of QK?
"""

# %%
batch = encode(tokenizer, load_sentences("her"))
positions = find_token(batch, token_id_of(tokenizer, " her"))
qkv = capture_qkv(model, batch, positions=positions)
d_head, n_layer = qkv.d_head, len(attention_modules(model))
group = qkv.sizes[0] // qkv.sizes[1]  # query heads per key head
half = rotary_half(model, d_head) or d_head // 2  # feature i turns together with feature i + half
print(model.provenance)


# %%
def relative_offsets(x, angle):
    """|b| of the turned features, both of a pair added: x [layer, sample, head, d_head] -> [layer, head, pair]."""
    x = turn_pairs(x.double(), angle)[..., : 2 * half]
    b = x.mean(dim=1).abs() / x.square().mean(dim=1).sqrt()
    return b.unflatten(-1, (2, half)).sum(dim=-2)


# %%
angles = torch.linspace(0, torch.pi, 65, dtype=torch.float64)[:-1].to(model.device)
lead = []  # of Q over K, for each angle [layer, key head, pair]
for angle in angles:
    of_q, of_k = (relative_offsets(qkv.heads(part), angle.expand(half)) for part in "QK")
    lead.append(of_q.unflatten(1, (-1, group)).mean(dim=2) - of_k)
best = {1: angles[torch.stack(lead).argmax(dim=0)], -1: angles[torch.stack(lead).argmin(dim=0)]}


@contextmanager
def other_gauge(model, sign):
    """The model with Q M and K M⁻ᵀ in every head of every layer; sign 1 closes KK and opens QQ."""

    def change(part, scale):
        def fn(values, layer):
            angle = best[sign][layer].to(values).repeat_interleave(group if part == "Q" else 1, dim=0)
            heads = turn_pairs(values.unflatten(-1, (-1, d_head)), angle)
            return torch.cat([heads[..., : 2 * half] * scale, heads[..., 2 * half :]], dim=-1).flatten(-2)

        return fn

    with edit_layers(model, "Q", change("Q", 2)), edit_layers(model, "K", change("K", 0.5)):
        yield


# %%
double = in_double(model)  # float64 from end to end: model.double() leaves the softmax in float32
few = encode(tokenizer, load_ordinary()[0:4:2]).to(model.device)
with torch.no_grad():
    logits = double(**few).logits[real_tokens(few)]
    for sign in best:
        with other_gauge(double, sign):
            difference = (double(**few).logits[real_tokens(few)] - logits).abs().max()
        assert 0 < difference < 1e-9
print(f"float64, {n_layer} {label('layers')}: |Δ logit| < 1e-9")
del double

# %%
layer = max(1, n_layer // 10)
conditions = {say("như đã huấn luyện", "as trained"): block_histograms(qkv.joined()[layer], qkv.sizes)}
for name, sign in ((say("khép KK", "KK closed"), 1), (say("khép QQ", "QQ closed"), -1)):
    with other_gauge(model, sign):
        other = capture_qkv(model, batch, layers=layer, positions=positions)
    conditions[name] = block_histograms(other.joined()[0], other.sizes)
trained = next(iter(conditions.values()))["cosine"]
for name, result in conditions.items():
    s = "  ".join(f"{block} {float(smile_index(result['cosine'][block])):+z.2f}" for block in ("QQ", "QK", "KK"))
    moved = max(float(wasserstein_distance(result["cosine"][block], trained[block])) for block in ("QQ", "KK"))
    show(f"{name:20s} S  {s}   W1 {moved:.2f}")
title = f"{model.provenance} · {label('layer')} {layer}"
figure = plot_conditions(conditions, measures=("cosine",), blocks=("QQ", "QK", "KK"), title=title)

# %% [markdown] lang="vi"
r"""
Ba mô hình, *cùng* logit (đã kiểm tra bằng float64 ở ô in ra `|Δ logit|`, mọi tầng cùng lúc), *khác* biểu đồ. W1 là khoảng cách Wasserstein-1 đến biểu đồ của mô hình gốc, lấy số lớn hơn trong hai khối QQ và KK. QK cần độ dời lớn ở cả hai bên: khép một bên thì QK cũng cười ít đi. Nụ cười của QQ và của KK không phải là tính chất của hàm số mà mô hình tính; nó thuộc về hệ tọa độ mà quá trình huấn luyện đã đi tới.

Điều này *không* có nghĩa là nụ cười do ngẫu nhiên: huấn luyện có thể ưu tiên một hệ tọa độ (bộ tối ưu Adam làm việc theo từng tọa độ). Điều này cũng *không* nói gì về việc mô hình có dùng độ dời hay không: việc ấy bài 09 đã đo. Nó chỉ cho biết rằng không thể suy ra “mô hình dùng gì” từ hình dạng của biểu đồ.

## 2. Dấu là quy ước

Trường hợp riêng: ở một cặp chiều (không có bước xoay thì ở một chiều bất kỳ), đổi dấu *cả* Q *lẫn* K, ở mọi token. Với một cặp, đó là phép quay 180 độ; với một chiều, đó là phép phản xạ, cũng khả nghịch: logit không đổi. Nhưng cosine giữa một chiều bị đổi dấu và một chiều giữ nguyên thì đổi dấu: trong ma trận, hàng của một chiều bị đổi dấu thì đổi dấu ở mọi ô, trừ các ô ứng với một chiều cũng bị đổi. **Dự đoán.** Ta đổi dấu mọi cặp xoay có trung bình của K âm (cộng hai chiều của cặp): $S$ của KK có đổi không? Còn tỉ lệ các cosine $s>0$ thì sao?
"""

# %% [markdown] lang="en"
r"""
Three models, the *same* logits (the cell that prints `|Δ logit|` checks it in float64, all layers at once), *different* histograms. W1 is the Wasserstein-1 distance to the histogram of the model as it was, the larger one of QQ and KK. QK needs large offsets on both sides: close one of them, and QK smiles less too. The smile of QQ and of KK is not a property of the function that the model computes; it belongs to the coordinates at which training arrived.

This does *not* mean that the smile is an accident: training may favour some coordinates (the optimiser Adam works coordinate by coordinate). Nor does it say anything about whether the model uses its offsets: that was measured in notebook 09. It says that "what the model uses" cannot be read off the shape of a histogram.

## 2. The sign is a convention

A special case: in one pair of features (without a rotary step in any one feature) flip the sign of *both* Q and K, for all tokens. In a pair that is a turn by 180 degrees, in a single feature a reflection, which is invertible too: no logit changes. But every cosine between a flipped feature and one that is not changes sign: in the matrix the row of a flipped feature changes sign, but for its entries with other flipped features. **Predict.** Flip every rotary pair in which K's mean is negative (the sum of its two features): does $S$ of KK change? And the share of the cosines with $s>0$?
"""

# %%
heads = {part: qkv.heads(part)[layer] for part in "QK"}  # each [sample, head, d_head]
flips = (heads["K"].mean(dim=0)[:, : 2 * half].unflatten(-1, (2, half)).sum(dim=1) < 0).double()  # [key head, pair]
flipped = [
    turn_pairs(x, (torch.pi * flips).repeat_interleave(x.shape[1] // len(flips), dim=0)).flatten(1)
    for x in heads.values()
]
as_trained, signs = say("như đã huấn luyện", "as trained"), say("đổi dấu", "signs flipped")
for name, vectors in ((as_trained, qkv.joined()[layer]), (signs, torch.cat([*flipped, qkv.v[layer]], dim=-1))):
    kk = block_histograms(vectors.float(), qkv.sizes, measures="cosine")["cosine"]["KK"]
    right = float(kk.counts[len(kk.counts) // 2 :].sum() / kk.counts.sum())
    show(f"{name:20s} KK   S {float(smile_index(kk)):+z.2f}   {say('bên phải số 0:', 'right of 0:')} {right:.0%}")

# %% [markdown] lang="vi"
r"""
$S$ chỉ dùng $|s|$, nên nó không đổi; tỉ lệ bên phải thì đổi. Vậy “bên phải cao hơn bên trái” không bao giờ là một phát hiện về mô hình: cùng lắm thì chỉ $|s|$ mới nói lên được điều gì đó.

## 3. Không có bước xoay: cộng hằng số vào mọi khóa

Trong mô hình không có bước xoay (GPT-2) còn một kiểu tự do đơn giản hơn nữa: cộng *cùng một vector* $c$ vào mọi khóa (key) không làm đổi logit nào (bài 09, mục 4). Mà cộng một hằng số chính là thay đổi độ dời của K. Vậy nụ cười của KK mở hay khép *tùy ý ta*. Hãy dựng một GPT-2 nhỏ, trọng số ngẫu nhiên, và thử:
"""

# %% [markdown] lang="en"
r"""
$S$ uses $|s|$ only, so it stays; the share on the right does not. So "the right side is higher than the left" is never a finding about the model: at most $|s|$ could be one.

## 3. Without a rotary step: add a constant to all keys

A model without a rotary step (GPT-2) has a simpler freedom still: adding the *same vector* $c$ to all keys changes no logit (notebook 09, section 4). And adding a constant is just what moves K's offset. So the smile of KK opens or closes *at will*. Build a small GPT-2 with random weights and try:
"""

# %%
torch.manual_seed(0)
generator = torch.Generator().manual_seed(0)
config = GPT2Config(vocab_size=200, n_embd=96, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0)
small = in_double(GPT2LMHeadModel(config).eval())
text = {"input_ids": torch.randint(0, 200, (54, 12), generator=generator), "attention_mask": torch.ones(54, 12).long()}
at = torch.randint(4, 12, (54,), generator=generator)
c = torch.randn(96, generator=generator, dtype=torch.float64)


def logits_and_smile(size):
    """All logits, and S of KK at layer 2, with size * c added to every key of every layer."""
    with torch.no_grad(), edit_layers(small, "K", lambda k, layer: k + size * c):
        captured = capture_qkv(small, text, layers=2, positions=at)
        return small(**text).logits, float(
            smile_index(block_histograms(captured.joined()[0], captured.sizes)["cosine"]["KK"])
        )


plain, _ = logits_and_smile(0)
for size in (0, 1, 4, 16):
    logits, s = logits_and_smile(size)
    assert (logits - plain).abs().max() < 1e-9
    show(f"c × {size:2d}   |Δ logit| < 1e-9   S KK {s:+z.2f}")

# %% [markdown] lang="vi"
r"""
Vẫn một GPT-2 ấy, mà nụ cười của KK đi từ không có gì đến hoàn hảo. Với mô hình có bước xoay, phép cộng ấy *có* làm đổi logit (bài 09): ở đó nụ cười của K chịu ràng buộc nhiều hơn.

## 4. Cái gì còn lại?

Quay và co giãn trong một cặp không làm đổi tỉ số $|\mu_\text{cặp}|^2/\overline{|x_\text{cặp}|^2}$: *trung bình* chiếm bao nhiêu phần năng lượng của cặp. Đó là dạng bất biến của $b^2=\mu^2/\text{rms}^2$ (bài 02), và là câu trả lời cho “vậy thì đọc được gì?”.

### Bài tập 10.2
Viết `pair_share(x, half)`: `x` `[sample, d_head]`, chiều $i$ đi với chiều $i+$`half` ($i<$ `half`); trả về `[half]`: trong mỗi cặp, trung bình chiếm bao nhiêu phần năng lượng.

*Gợi ý:* năng lượng của một cặp là tổng năng lượng của hai chiều (năng lượng của một chiều: trung bình của bình phương).
"""

# %% [markdown] lang="en"
r"""
The same GPT-2, and the smile of KK from none to perfect. In a model with a rotary step that addition *does* change the logits (notebook 09): there the smile of K is bound more tightly.

## 4. What is left?

Turning and scaling within a pair do not change $|\mu_\text{pair}|^2/\overline{|x_\text{pair}|^2}$: the share of the pair's energy that its *mean* carries. It is the invariant version of $b^2=\mu^2/\text{rms}^2$ (notebook 02), and the answer to "then what can be read off?".

### Exercise 10.2
Write `pair_share(x, half)`: `x` `[sample, d_head]`, feature $i$ goes with feature $i+$`half` ($i<$ `half`); return `[half]`, the share of the mean in the energy of each pair.

*Hint:* the energy of a pair is the sum of those of its two features (of a feature: the mean of the squares).
"""


# %% tags=["exercise"]
def pair_share(x, half):
    return ...


check("10.2", pair_share)


# %% tags=["solution"]
# @title Lời giải 10.2 · Solution 10.2
def pair_share(x, half):
    energy = x.square().mean(dim=0)  # [d_head]
    of_mean = x.mean(dim=0).square()
    return (of_mean[:half] + of_mean[half : 2 * half]) / (energy[:half] + energy[half : 2 * half])


check("10.2", pair_share, solution=True)

# %% [markdown] lang="vi"
r"""
**Dự đoán.** Cứ qua mỗi vị trí, bước xoay quay các cặp chiều những góc khác nhau: có cặp xoay nhanh, có cặp xoay chậm. Trung bình chiếm tỉ lệ cao hơn ở các cặp xoay nhanh (bên trái) hay ở các cặp xoay chậm (bên phải)? Q và K có giống nhau không?
"""

# %% [markdown] lang="en"
r"""
**Predict.** From one position to the next the rotary step turns each pair by an angle of its own, some fast, some slowly. In which pairs is the share of the mean larger, in those that turn fast (left) or slowly (right)? Are Q and K alike?
"""


# %%
needs("10.2")


def shares_of(captured, layer):
    """{part: [head, pair]}"""
    return {
        part: torch.stack([pair_share(x, half) for x in captured.heads(part)[layer].double().unbind(dim=1)]).cpu()
        for part in "QK"
    }


shown = sorted({max(1, round(share * (n_layer - 1))) for share in (0.1, 0.5, 0.9)})
shares = {layer: shares_of(qkv, layer) for layer in shown}
figure = plot_pairs(shares, title=f'{model.provenance} · " her" · n = {len(positions)} {label("sentences")}')
for layer, parts in shares.items():
    row = "   ".join(
        f"{part} {say('nhanh', 'fast')} {float(s[:, : half // 2].mean()):.2f} {say('chậm', 'slow')} {float(s[:, half // 2 :].mean()):.2f}"
        for part, s in parts.items()
    )
    show(f"{label('layer')} {layer:2d}   {row}")
if not rotary_half(model, d_head):
    print(
        say(
            "Mô hình này không có bước xoay: M có thể là ma trận bất kỳ, nên các tỉ lệ này không bất biến.",
            "This model has no rotary step: M may be any matrix, so these shares are not invariant.",
        )
    )

# %% [markdown] lang="vi"
r"""
Mỗi đường là trung bình qua các đầu attention; mép dưới của dải là đầu attention có tỉ lệ thấp nhất, mép trên là đầu attention có tỉ lệ cao nhất. Ở mô hình có bước xoay, mọi phép đổi tọa độ hợp lệ đều giữ nguyên hình này (ô cuối kiểm tra), trong khi biểu đồ ở mục 1 thì thay đổi. Hãy so chênh lệch giữa hai nửa (nhanh và chậm) trong các dòng in ra với bề rộng của dải. Ở cặp nào tỉ lệ gần 1, ở đó vector của " her" gần như là một hằng số qua mọi câu; các nghiên cứu về giá trị khổng lồ trong Q và K của những mô hình dùng RoPE (Jin và cộng sự; Jonasson) cho biết vì sao các giá trị ấy hay tập trung ở một số cặp. Hình *không* nói hằng số ấy là chung cho mọi token hay riêng của từ (bài 06), cũng không nói mô hình có dùng nó hay không (bài 09).

V có nhiều tự do hơn: $V\to VN$, $W_O\to N^{-1}W_O$ với $N$ khả nghịch bất kỳ ($W_O$: ma trận đầu ra), nên với V ngay cả tỉ lệ theo cặp cũng không bất biến; chỉ những gì tính *sau* $W_O$ mới bất biến.
"""

# %% [markdown] lang="en"
r"""
Lines are means over the heads, bands run from the lowest to the highest head. In a model with a rotary step no allowed change of coordinates alters this figure (the last cell checks it), while the histograms of section 1 do change. Compare the gap between the two halves (fast and slow) in the printed lines with the width of the band. Where a share is near 1, " her" is all but a constant in all sentences; studies of massive values in Q and K of models with RoPE (Jin et al.; Jonasson) say why they gather in certain pairs. The figure does *not* say whether that constant is common to all tokens or the word's own (notebook 06), nor whether the model uses it (notebook 09).

V has more freedom: $V\to VN$, $W_O\to N^{-1}W_O$ with any invertible $N$ ($W_O$: output matrix), so that for V not even the shares by pair are invariant; only what is computed *after* $W_O$ is.
"""

# %%
needs("10.2")
layer = shown[0]  # sanity check: another gauge, the same shares
with other_gauge(model, 1):
    other = capture_qkv(model, batch, layers=layer, positions=positions)
for part, before in shares[layer].items():
    assert torch.allclose(shares_of(other, 0)[part], before, atol=1e-3), part
print("✓")

# %% [markdown] lang="vi"
r"""
## Tự kiểm tra
1. Vì sao với RoPE, $M$ không thể là một ma trận khả nghịch bất kỳ?
2. Một bài báo viết: “ở tầng 5, phần lớn cosine là *dương*, vậy các chiều cùng hướng với nhau”. Bạn sẽ hỏi gì?
3. Hai mô hình có cùng logit nhưng $S$ khác nhau. Mô hình nào “dựa vào độ dời” nhiều hơn?

<details><summary>Trả lời ngắn</summary>

1. Bước xoay đứng giữa $M$ và tích vô hướng; $M$ phải giao hoán với nó, nếu không thì $M$ và $M^{-\top}$ không khử nhau.
2. “Nếu đổi dấu một cặp chiều ở cả Q lẫn K thì sao?” Kết luận đổi mà mô hình không đổi: dấu là quy ước.
3. Không mô hình nào cả: hai mô hình là cùng một hàm số. Câu trả lời phải đến từ can thiệp (intervention).
</details>

## Tóm tắt
- Cùng một hàm số có thể cười hoặc không cười: hình dạng của biểu đồ thuộc về hệ tọa độ.
- Dấu của $s$ là quy ước; ở GPT-2, cả độ dời của K cũng vậy.
- Tỉ lệ năng lượng mà trung bình chiếm trong từng cặp xoay thì bất biến.

## Tài liệu
- N. Elhage và cộng sự, *A Mathematical Framework for Transformer Circuits*, 2021 (transformer-circuits.pub).
- N. Elhage, R. Lasenby và C. Olah, *Privileged Bases in the Transformer Residual Stream*, 2023 (transformer-circuits.pub).
- M. Jin và cộng sự, *Massive Values in Self-Attention Modules are the Key to Contextual Knowledge Understanding*, ICML 2025 ([arXiv:2502.01563](https://arxiv.org/abs/2502.01563)).
- A. Jonasson, *Rotary Offset Features in Large Language Models*, 2025 ([arXiv:2503.01832](https://arxiv.org/abs/2503.01832)).
- M. Namazifar, D. Hazarika và D. Hakkani-Tür, *Role of Bias Terms in Dot-Product Attention*, ICASSP 2023 ([arXiv:2302.08626](https://arxiv.org/abs/2302.08626)).
"""

# %% [markdown] lang="en"
r"""
## Check yourself
1. With RoPE, why can $M$ not be just any invertible matrix?
2. A paper writes: "at layer 5 most cosines are *positive*, so the features agree". What do you ask?
3. Two models have the same logits but different $S$. Which of them "leans on its offsets" more?

<details><summary>Short answers</summary>

1. The rotary step stands between $M$ and the dot product; $M$ must commute with it, or $M$ and $M^{-\top}$ do not cancel.
2. "And if the signs of one pair of features are flipped, in Q and in K?" The conclusion changes, the model does not: the sign is a convention.
3. Neither: they are one and the same function. The answer has to come from an intervention.
</details>

## Summary
- One and the same function may smile or not: the shape of a histogram belongs to the coordinates.
- The sign of $s$ is a convention; in GPT-2, so is the offset of K.
- The share of the mean in the energy of each rotary pair is invariant.

## References
- N. Elhage et al., *A Mathematical Framework for Transformer Circuits*, 2021 (transformer-circuits.pub).
- N. Elhage, R. Lasenby and C. Olah, *Privileged Bases in the Transformer Residual Stream*, 2023 (transformer-circuits.pub).
- M. Jin et al., *Massive Values in Self-Attention Modules are the Key to Contextual Knowledge Understanding*, ICML 2025 ([arXiv:2502.01563](https://arxiv.org/abs/2502.01563)).
- A. Jonasson, *Rotary Offset Features in Large Language Models*, 2025 ([arXiv:2503.01832](https://arxiv.org/abs/2503.01832)).
- M. Namazifar, D. Hazarika and D. Hakkani-Tür, *Role of Bias Terms in Dot-Product Attention*, ICASSP 2023 ([arXiv:2302.08626](https://arxiv.org/abs/2302.08626)).
"""
