# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] lang="vi"
r"""
# 06 · Độ dời trung bình: khép lại nụ cười, và phán quyết

**Câu hỏi.** Độ dời trung bình (mean offset) làm nên nụ cười. Bao nhiêu độ dời thì đủ? Nó từ đâu ra? Ta chắc chắn đến mức nào với 54 câu? Và từng khẳng định của tài liệu gốc: đúng, đúng một phần, hay sai?

**Sau bài này, bạn có thể**
- bớt dần độ dời và xem nụ cười khép lại;
- dự đoán biểu đồ tần suất (histogram) của cosine chỉ từ trung bình (mean) và phương sai (variance);
- đưa ra khoảng tin cậy (confidence interval) bằng jackknife (bỏ từng mẫu), và nói vì sao không dùng bootstrap (lấy mẫu lại) ở đây;
- kiểm tra *luật một đường cong*: mọi biểu đồ là phân phối theo giả thuyết không (null) ở cỡ mẫu hiệu dụng (effective sample size);
- viết bảng phán quyết mà mọi con số đều do mã tính ra.

**Thời gian:** khoảng 60 phút đọc và làm bài tập; máy tính chạy khoảng 25 giây. **Cần biết trước:** bài 02, 04 và 05.
"""

# %% [markdown] lang="en"
r"""
# 06 · The mean offset: closing the smile, and the verdict

**Question.** The mean offset makes the smile. How much offset is enough? Where does it come from? How sure can we be with 54 sentences? And each claim of the source: does it hold, hold partly, or fail?

**Afterwards you can**
- take the offset out a little at a time and watch the smile close;
- predict the histogram of the cosine from means and variances alone;
- give jackknife intervals, and say why not a bootstrap here;
- test the *one-curve law*: every histogram is the null distribution at an effective sample size;
- write a table of verdicts in which every number is computed.

**Time:** about 60 minutes of reading and exercises; the computer runs for about 25 seconds. **You need:** notebooks 02, 04 and 05.
"""

# %% tags=["setup"]
# the build puts setup_cell.py here
from helpers import set_language

set_language("vi")

# %%
import torch

from helpers import (
    BLOCKS,
    attention_modules,
    block_histograms,
    block_values,
    capture_qkv,
    control_positions,
    effective_n,
    encode,
    find_token,
    jackknife,
    kolmogorov_smirnov_distance,
    label,
    load_model,
    load_sentences,
    null_shares,
    part_slices,
    say,
    smile_index,
    token_id_of,
    wasserstein_distance,
)
from helpers.checks import check
from helpers.plots import plot_depth, plot_one_curve
from helpers.widgets import centring_explorer

# %% [markdown] lang="vi"
r"""
## 1. Trừ trung bình từng chút một

Thay vì trừ cả trung bình, ta trừ một phần: $x - a\,\mu$ với $a$ từ 0 (cosine) đến 1 (tương quan). Độ dời tương đối $m=\mu/\sigma$ trở thành $(1-a)\,m$.

**Dự đoán.** Khi bỏ một nửa độ dời ($a=0{,}5$), nụ cười khép lại một nửa, nhiều hơn hay ít hơn?

### Bài tập 6.1
Viết `partial_centre(x, a)`: trả về $x - a\,\mu$, với $\mu$ là trung bình của từng chiều (feature) theo token; `x` có kích thước `[..., token, feature]`.

*Gợi ý:* `keepdim=True`.
"""

# %% [markdown] lang="en"
r"""
## 1. Take the mean out a little at a time

Instead of the whole mean, subtract a part of it: $x - a\,\mu$ with $a$ from 0 (cosine) to 1 (correlation). The relative offset $m=\mu/\sigma$ becomes $(1-a)\,m$.

**Predict.** With half of the offset gone ($a=0.5$), has the smile closed by half, by more or by less?

### Exercise 6.1
Write `partial_centre(x, a)`: return $x - a\,\mu$, where $\mu$ is each feature's mean over the tokens; `x` is `[..., token, feature]`.

*Hint:* `keepdim=True`.
"""


# %% tags=["exercise"]
def partial_centre(x, a):
    return ...


check("6.1", partial_centre)


# %% tags=["solution"]
# @title Lời giải 6.1 · Solution 6.1
def partial_centre(x, a):
    return x - a * x.mean(dim=-2, keepdim=True)


check("6.1", partial_centre)

# %%
model, tokenizer = load_model()
batch = encode(tokenizer, load_sentences("her"))
positions = find_token(batch, token_id_of(tokenizer, " her"))
qkv = capture_qkv(model, batch, positions=positions)
sizes, n = qkv.sizes, len(batch["input_ids"])
layer = len(qkv.layers) // 10
x = qkv.joined()[layer]  # [sentence, feature]
print(model.provenance, "·", label("layer"), layer, "·", f"n = {n}")

for a in (0, 0.25, 0.5, 0.75, 0.9, 1):
    cosine = block_histograms(partial_centre(x, a), sizes, measures="cosine")["cosine"]
    print(
        f"a = {a:4.2f}   S  "
        + "  ".join(f"{block} {float(smile_index(cosine[block])):+.2f}" for block in ("QQ", "KK", "VV"))
    )

# %% tags=["nbval-ignore-output"]
explorer = centring_explorer(x, sizes, block="QQ")
explorer.widget

# %%
explorer.figure

# %% [markdown] lang="vi"
r"""
Đọc bảng: $S$ xuống dưới 0 từ trước khi độ dời bị trừ hết, và không giảm đều theo $a$. Lý do nằm trong đồng nhất thức (identity) của bài 02: $m$ đi vào qua $m/\sqrt{1+m^2}$. Ở những chiều có độ dời rất lớn, biểu thức ấy đã bão hòa gần ±1, bỏ một nửa hầu như chưa đổi gì; những chiều có độ dời vừa phải thì đổi ngay.

### Bài tập 6.2
Với khối QQ, tìm giá trị $a$ nhỏ nhất trong $0;\,0{,}05;\,0{,}10;\,\dots;\,1$ sao cho $S<0$. Gán vào `a_closed`.

*Gợi ý:* một vòng lặp với `partial_centre` và `smile_index`.
"""

# %% [markdown] lang="en"
r"""
Read the table: $S$ passes 0 before the whole offset is gone, and it does not fall evenly with $a$. The reason is in the identity: $m$ enters as $m/\sqrt{1+m^2}$. For features with a very large offset that is saturated near ±1, and taking half away changes next to nothing; features with a moderate offset change at once.

### Exercise 6.2
For the block QQ, find the smallest $a$ among $0, 0.05, 0.10, \dots, 1$ for which $S<0$. Put it into `a_closed`.

*Hint:* a loop with `partial_centre` and `smile_index`.
"""

# %% tags=["exercise"]
a_closed = ...

check("6.2", a_closed, x, sizes)


# %% tags=["solution"]
# @title Lời giải 6.2 · Solution 6.2
def smile_at(a):
    return float(smile_index(block_histograms(partial_centre(x, a), sizes, measures="cosine")["cosine"]["QQ"]))


a_closed = next(step / 20 for step in range(21) if smile_at(step / 20) < 0)

check("6.2", a_closed, x, sizes)

# %% [markdown] lang="vi"
r"""
## 2. Dự đoán biểu đồ chỉ từ trung bình và phương sai

Đồng nhất thức: $\cos_{ij}=a_ia_jr_{ij}+b_ib_j$ với $b=\mu/\text{rms}$. Bỏ hẳn số hạng chứa $r$: $\cos_{ij}\approx b_ib_j$. Dự đoán này *không biết gì* về quan hệ giữa các chiều. Trước hết kiểm tra đồng nhất thức trên mọi cặp, rồi đo khoảng cách Wasserstein-1 từ dự đoán đến biểu đồ thật, so với khoảng cách từ phân phối null.
"""

# %% [markdown] lang="en"
r"""
## 2. Predict the histogram from means and variances alone

The identity: $\cos_{ij}=a_ia_jr_{ij}+b_ib_j$ with $b=\mu/\text{rms}$. Drop the term with $r$ altogether: $\cos_{ij}\approx b_ib_j$. This prediction knows *nothing* about relations between features. First check the identity on every pair, then measure the Wasserstein-1 distance from the prediction to the real histogram, against that of the null distribution.
"""

# %%
x64 = x.double()
rms = x64.square().mean(dim=0).sqrt()  # [feature]
a, b = x64.std(dim=0, correction=0) / rms, x64.mean(dim=0) / rms
r = torch.corrcoef(x64.T)  # [feature, feature]
unit = x64 / x64.norm(dim=0)
error = (a[:, None] * a * r + b[:, None] * b - unit.T @ unit).abs().max()
assert error < 1e-12

histograms = block_histograms(x, sizes)
edges = histograms["cosine"].edges
for block in BLOCKS:
    predicted = torch.histc(block_values(torch.outer(b, b), sizes, block), bins=100, min=-1, max=1)
    near = float(wasserstein_distance(histograms["cosine"][block], predicted / predicted.sum()))
    far = float(wasserstein_distance(histograms["cosine"][block], null_shares(n, "cosine", edges)))
    print(f"{block}   W1: b·b → cosine {near:.2f}   null → cosine {far:.2f}")

# %% [markdown] lang="vi"
r"""
Cột đầu nhỏ hơn cột sau rất nhiều: biết mỗi chiều *riêng lẻ* dời bao xa là đủ để vẽ lại biểu đồ cosine.

## 3. Độ dời từ đâu ra?

Hai nguồn có thể có: bias của phép chiếu (projection), nếu mô hình có bias, và chính token đi qua $W$. Và một câu hỏi nữa: độ dời ấy là *của " her"*, hay là của *mọi* token? Ta sẽ so hướng của vector trung bình của " her" với hướng của trung bình mọi token thật (trừ token đầu câu, vốn là điểm hút chú ý (attention sink)).

**Dự đoán.** Cosine giữa hai vector trung bình ấy: gần 0, gần 0,5 hay gần 1?
"""

# %% [markdown] lang="en"
r"""
The first column is far smaller than the second: how far each feature is offset *by itself* is enough to redraw the histogram of cosines.

## 3. Where does the offset come from?

Two possible sources: the bias of the projection (where the model has one), and the token itself going through $W$. And one more question: is it the offset *of " her"*, or of *all* tokens? We shall compare the direction of the mean of " her" with that of the mean over all real tokens (the first token of each sentence left out, being the attention sink).

**Predict.** The cosine between those two mean vectors: near 0, near 0.5 or near 1?
"""

# %%
fused_or_q = ("q_proj", "c_attn", "query_key_value")
projection = next(m for name, m in attention_modules(model)[layer].named_children() if name in fused_or_q)
inputs = []
handle = projection.register_forward_hook(lambda module, args, output: inputs.append(args[0].detach()))
try:
    capture_qkv(model, batch, layers=layer)
finally:
    handle.remove()

rows = torch.arange(n, device=x.device)
mean_her = x.mean(dim=0)  # [feature]
for name, at in (("target", positions), ("control", control_positions(batch, positions))):
    h = inputs[0][rows, at.to(x.device)]  # [sentence, n_embd]
    common = h.mean(dim=0).square().sum() / h.square().sum(dim=1).mean()
    print(f"{label(name):16s} |mean h|² / mean |h|² = {float(common):.2f}")

h = inputs[0][rows, positions.to(x.device)]
through_w = projection(h.mean(dim=0))  # W times the mean input, plus the bias where there is one
assert torch.allclose(through_w, mean_her[: len(through_w)], atol=1e-3)
size = 0.0 if projection.bias is None else float(projection.bias.norm() / through_w.norm())
print(f"bias: {projection.bias is not None}   |bias| / |{label('offset_short')}| = {size:.2f}")

# %% [markdown] lang="vi"
r"""
Phép chiếu là tuyến tính, nên độ dời của Q *bằng đúng* $W$ nhân trung bình của đầu vào, cộng bias nếu có (ô trên kiểm tra điều đó). Vậy độ dời đến từ phần đầu vào *chung cho mọi câu*; hai dòng đầu cho biết phần ấy chiếm bao nhiêu năng lượng của đầu vào, khi mọi câu có cùng một token và khi mỗi câu một token khác.

Giờ so hướng của độ dời " her" với độ dời chung của mọi token:
"""

# %% [markdown] lang="en"
r"""
The projection is linear, so the offset of Q *equals* $W$ times the mean input, plus the bias if there is one (the cell above checks it). The offset therefore comes from the part of the input *common to all sentences*; the first two lines say how much of the input's energy that is, when every sentence has the same token there and when each has another.

Now compare the direction of the offset of " her" with the offset common to all tokens:
"""

# %%
everything = capture_qkv(model, batch, layers=layer).joined()[0]  # [sentence, token, feature]
real = batch["attention_mask"].bool().clone()
real[:, 0] = False
mean_all = everything[real.to(everything.device)].mean(dim=0)  # [feature]

for part, at in part_slices(sizes).items():
    cosine = float(torch.cosine_similarity(mean_her[at], mean_all[at], dim=0))
    length = float(mean_her[at].norm() / mean_all[at].norm())
    print(f"{part}   cos = {cosine:.2f}   |her| / |all| = {length:.2f}")

# %% [markdown] lang="vi"
r"""
Cosine gần 1 nghĩa là độ dời của " her" phần lớn trùng hướng với độ dời *chung* của mọi token: đó là tính dị hướng (anisotropy) đã được biết từ lâu, không phải mã riêng của " her". Phần riêng của từ là phần còn lại. So Q, K với V: bên nào mang nhiều phần riêng hơn?

Phép so sánh này không cho biết mô hình có *dùng* độ dời hay không; điều đó cần can thiệp (intervention), ở bài 09.

## 4. Chắc chắn đến đâu?

Hàng trăm nghìn cặp nhưng chỉ 54 câu. Các cặp phụ thuộc nhau, nên mọi trị số p (p-value) tính trên cặp đều vô nghĩa. Ta bỏ lần lượt từng câu (**jackknife**) và xem con số dao động ra sao. Vì sao không dùng bootstrap (lấy mẫu lại)? Vì nó chọn trùng câu, mà các bản sao của một câu thì giống hệt nhau. Thử trên nhiễu thuần túy:
"""

# %% [markdown] lang="en"
r"""
A cosine near 1 says that the offset of " her" has mostly the direction of the offset *common* to all tokens: the anisotropy that has long been known, not a code of " her" alone. What is the word's own is the rest. Compare Q and K with V: which carries more of its own?

The comparison does not say whether the model *uses* the offset; that takes an intervention, in notebook 09.

## 4. How sure can we be?

Hundreds of thousands of pairs, but only 54 sentences. The pairs depend on each other, so any p-value taken over pairs means nothing. Leave out one sentence at a time (**jackknife**) and see how much a figure moves. Why no bootstrap (resampling)? Because it repeats sentences, and a repeated sentence is identical to itself. Try it on pure noise:
"""

# %%
generator = torch.Generator().manual_seed(0)
noise = torch.randn(n, sum(sizes), generator=generator)  # [sentence, feature]


def width(y):
    return block_histograms(y, sizes, measures="correlation")["correlation"]["QQ"].std


resampled = [float(width(noise[torch.randint(0, n, (n,), generator=generator)])) for _ in range(20)]
print(
    f"null {(n - 1) ** -0.5:.2f}   {say('nhiễu', 'noise')} {float(width(noise)):.2f}   "
    f"jackknife {float(width(noise[1:])):.2f}   bootstrap {sum(resampled) / 20:.2f}"
)

# %%
shown = ("QQ", "KK", "VV", "QK")


def summary(y):
    """Of the cosine: S, share above 0.9, Wasserstein and Kolmogorov-Smirnov distance to the null and to VV."""
    h = block_histograms(y, sizes, measures="cosine")["cosine"]
    null = null_shares(y.shape[-2], "cosine", h.edges)
    rows = [[smile_index(h[block]), h[block].share_above] for block in shown]
    for block, row in zip(shown, rows):
        for distance in (wasserstein_distance, kolmogorov_smirnov_distance):
            row += [distance(h[block], null), distance(h[block], h["VV"])]
    return torch.stack([torch.stack(row) for row in rows], dim=1)  # [statistic, block]


interval = jackknife(x, summary)
print(" " * 14 + "".join(f"{block:>22s}" for block in shown))
for i, name in enumerate(("S", "|s| > 0.9", "W1 → null", "W1 → VV", "KS → null", "KS → VV")):
    cells = [
        f"{interval.estimate[i, j]:+.2f} [{interval.low[i, j]:+.2f}, {interval.high[i, j]:+.2f}]" for j in range(4)
    ]
    print(f"{name:14s}" + "".join(f"{cell:>22s}" for cell in cells))

# %% [markdown] lang="vi"
r"""
Trong ngoặc là khoảng tin cậy 95% của jackknife theo câu. (Cột VV so với chính nó nên bằng 0.) Khoảng tin cậy của $S$ ở QQ và KK có chứa 0 không? Khoảng cách từ VV đến QQ có khác 0 rõ rệt không?

## 5. Luật một đường cong

Gọi **cỡ mẫu hiệu dụng** là $n_\text{eff}=1/\overline{s^2}$ (cộng 1 với tương quan), trung bình lấy trên các cặp. Phân phối null có phương sai $1/n$ (hoặc $1/(n-1)$), nên *độ rộng* của biểu đồ khớp với null ở $n_\text{eff}$ theo định nghĩa: phần này là lặp lại định nghĩa, không phải phát hiện.

Chứng minh hai dòng cho khối của một phần, kể cả đường chéo. Với $Z$ `[token, feature]` có các cột dài bằng 1: $\sum_{ij}s_{ij}^2=\|Z^\top Z\|_F^2=\|ZZ^\top\|_F^2=\sum_k\lambda_k^2$, còn $F=\operatorname{tr}(ZZ^\top)=\sum_k\lambda_k$. Vậy $\overline{s^2}=\sum\lambda_k^2/(\sum\lambda_k)^2$: $1/\overline{s^2}$ chính là *tỉ số tham gia* (participation ratio) của các câu.

**Phát hiện**, nếu có, là *hình dạng*: chỉ từ $n_\text{eff}$, không có tham số tự do nào, null có đoán đúng chỉ số nụ cười $S$ không? **Dự đoán:** sai lệch trung bình của $S$ là bao nhiêu?
"""

# %% [markdown] lang="en"
r"""
In brackets, the 95% jackknife interval over sentences. (The column VV is compared with itself, hence 0.) Does the interval of $S$ contain 0 for QQ and KK? Is the distance from VV to QQ clearly not 0?

## 5. The one-curve law

Let the **effective sample size** be $n_\text{eff}=1/\overline{s^2}$ (plus 1 for the correlation), the mean taken over pairs. The null has the variance $1/n$ (or $1/(n-1)$), so the *width* of a histogram matches the null at $n_\text{eff}$ by definition: that part is a tautology, not a finding.

A proof in two lines for the block of one part, diagonal included. Let $Z$ `[token, feature]` have columns of length 1: $\sum_{ij}s_{ij}^2=\|Z^\top Z\|_F^2=\|ZZ^\top\|_F^2=\sum_k\lambda_k^2$, and $F=\operatorname{tr}(ZZ^\top)=\sum_k\lambda_k$. So $\overline{s^2}=\sum\lambda_k^2/(\sum\lambda_k)^2$: $1/\overline{s^2}$ is the *participation ratio* of the sentences.

The **finding**, if there is one, is the *shape*: out of $n_\text{eff}$ alone, with no free parameter, does the null predict the smile index $S$? **Predict:** how large is the mean error of $S$?
"""

# %%
water = encode(tokenizer, load_sentences("water"))
captures = {
    "target": qkv.joined(),
    "control": capture_qkv(model, batch, positions=control_positions(batch, positions)).joined(),
    "water": capture_qkv(model, water, positions=find_token(water, token_id_of(tokenizer, " water"))).joined(),
}
points = []  # (measure, block, n_eff [layer], S [layer])
for vectors in captures.values():
    result = block_histograms(vectors[1:], sizes)  # layer 0 apart: constant under rotary positions
    for measure, histograms_of in result.items():
        points += [(measure, block, effective_n(h, measure), smile_index(h)) for block, h in histograms_of.items()]
print(sum(len(s) for _, _, _, s in points))

# %%
middle = (edges[1:] + edges[:-1]).abs().cpu() / 2


def null_smile(n, measure):
    shares = null_shares(n, measure, edges.cpu())
    return float(shares[middle > 0.8].sum() - shares[middle < 0.2].sum())


figure = plot_one_curve(points, null_smile, title=model.provenance)

# %%
for measure in ("cosine", "correlation"):
    found = [(float(k), float(s)) for m, _, ks, ss in points if m == measure for k, s in zip(ks, ss)]
    at_effective = sum(abs(s - null_smile(k, measure)) for k, s in found) / len(found)
    at_nominal = sum(abs(s - null_smile(n, measure)) for _, s in found) / len(found)
    flat = 3 if measure == "cosine" else 4  # where the null is uniform, so S = 0
    sides = sum((s > 0) == (k < flat) for k, s in found) / len(found)
    worst = max(abs(s - null_smile(k, measure)) for k, s in found)
    print(
        f"{label(measure):26s} |S - null(n_eff)| {at_effective:.2f} (max {worst:.2f})   |S - null({n})| {at_nominal:.2f}"
    )
    print(f"{'':26s} S > 0 ⇔ n_eff < {flat}: {sides:.0%}")

# %% [markdown] lang="vi"
r"""
Mỗi chấm là một khối ở một tầng (layer). Nếu các chấm nằm trên đường cong, nụ cười chính là **hiệu ứng $n$ nhỏ** của bài 05 dưới một hình thức khác: độ dời khiến 54 câu chỉ đáng giá hai ba câu. Và ngược lại: hình chuông của tương quan không phải là nhiễu của 54 câu, mà là hình chuông mà một số câu độc lập *ít hơn* sẽ cho.

Đường cong đi qua $S=0$ đúng ở nơi mật độ (density) null phẳng: $n=3$ với cosine, $n=4$ với tương quan. Luật sai lệch ở đâu? Số *max* là sai lệch lớn nhất; trên hình, hãy tìm các chấm xa đường cong nhất. Luật không nói *vì sao* $n_\text{eff}$ nhỏ; điều đó mục 1 đến 3 đã trả lời.

### Bài tập 6.3
Viết `participation_ratio(x)`: với `x` `[token, feature]`, chia mỗi cột cho độ dài của nó, rồi trả về $(\sum\lambda_k)^2/\sum\lambda_k^2$ với $\lambda_k$ là trị riêng của $ZZ^\top$.

*Gợi ý:* không cần tính trị riêng: dùng vết và chuẩn Frobenius.
"""

# %% [markdown] lang="en"
r"""
Each dot is one block at one layer. If the dots lie on the curve, the smile is the **small-$n$ effect** of notebook 05 in other clothes: the offset makes 54 sentences worth two or three. And the other way round: the bell of the correlation is not the noise of 54 sentences, but the bell that *fewer* independent sentences would give.

The curve passes $S=0$ just where the null density is flat: $n=3$ for the cosine, $n=4$ for the correlation. Where the law is off: *max* is the largest error; in the figure, look for the dots farthest from the curve. The law does not say *why* $n_\text{eff}$ is small; sections 1 to 3 have.

### Exercise 6.3
Write `participation_ratio(x)`: for `x` `[token, feature]`, divide each column by its length, then return $(\sum\lambda_k)^2/\sum\lambda_k^2$, where $\lambda_k$ are the eigenvalues of $ZZ^\top$.

*Hint:* no eigenvalues needed: the trace and the Frobenius norm.
"""


# %% tags=["exercise"]
def participation_ratio(x):
    return ...


check("6.3", participation_ratio)


# %% tags=["solution"]
# @title Lời giải 6.3 · Solution 6.3
def participation_ratio(x):
    z = x / x.norm(dim=0)  # [token, feature]
    gram = z @ z.T  # [token, token]
    return float(gram.trace() ** 2 / gram.square().sum())


check("6.3", participation_ratio)

# %% [markdown] lang="vi"
r"""
## 6. Tương quan có "như nhiễu" không? Mọi tầng

Độ rộng của biểu đồ tương quan chia cho $1/\sqrt{n-1}$, ở mọi tầng (trừ tầng 0). Nếu chỉ còn nhiễu thì tỉ số bằng 1.
"""

# %% [markdown] lang="en"
r"""
## 6. Is the correlation "like noise"? Every layer

The width of the histogram of correlations divided by $1/\sqrt{n-1}$, at every layer (layer 0 apart). If only noise were left, the ratio would be 1.
"""

# %%
everywhere = block_histograms(qkv.joined(), sizes)
ratios = {block: h.std * (n - 1) ** 0.5 for block, h in everywhere["correlation"].items()}  # [layer], NaN at layer 0
panels = {block: {"target": ratio, "null": torch.ones_like(ratio)} for block, ratio in ratios.items()}
figure = plot_depth(panels, "width_ratio", title=f"{model.provenance} · n = {n}")

# %% [markdown] lang="vi"
r"""
## 7. Bảng phán quyết

Ngưỡng như bài 04, xét ở *mọi* tầng trừ tầng 0. **Đúng**: mọi tầng. **Đúng một phần**: một số tầng. **Sai**: không tầng nào. Dòng 6 hỏi độ dời có phải nhiễu lấy mẫu không: chia câu làm hai nửa, cosine giữa hai vector trung bình phải trên 0,9.
"""

# %% [markdown] lang="en"
r"""
## 7. The table of verdicts

Thresholds as in notebook 04, at *every* layer but layer 0. **Holds**: at all of them. **Holds partly**: at some. **Fails**: at none. Line 6 asks whether the offset is sampling noise: split the sentences in two halves; the cosine of the two mean vectors must be above 0.9.
"""

# %%
s = {block: smile_index(h)[1:] for block, h in everywhere["cosine"].items()}  # [layer - 1]
s_centred = torch.stack([smile_index(h)[1:] for _, h in everywhere["correlation"].items()]).amax(0)
share = {block: h.share_above[1:] for block, h in everywhere["cosine"].items()}
halves = [qkv.joined()[1:, start::2].mean(dim=1) for start in (0, 1)]  # [layer - 1, feature]
lowest = torch.minimum(s["QQ"], s["KK"])

widest = torch.stack(list(ratios.values())).amax(0)[1:]
between_halves = torch.cosine_similarity(*halves, dim=-1)

# %%
tests = {
    say("1 nụ cười ở Q và K", "1 smile for Q and K"): (lowest > 0, lowest),
    say("2 V phẳng hơn", "2 V is flatter"): (s["VV"] <= lowest - 0.1, s["VV"] - lowest),
    say("3 Q–K cao", "3 Q–K is high"): (share["QK"] >= (share["QQ"] + share["KK"]) / 4, share["QK"]),
    say("4 trừ trung bình: hết cười", "4 no smile without the mean"): (s_centred < 0, s_centred),
    say("5 khi đó như nhiễu", "5 then like noise"): (widest <= 1.2, widest),
    say("6 độ dời không phải nhiễu", "6 offsets are not noise"): (between_halves > 0.9, between_halves),
}

# %%
for claim, (holds, value) in tests.items():
    count = int(holds.sum())
    partly = say("đúng một phần", "holds partly") if count else say("sai", "fails")
    verdict = say("đúng", "holds") if count == len(holds) else partly
    print(
        f"{claim:28s} {verdict:14s} {count:2d}/{len(holds)} {label('layers')}   {float(value.min()):+.2f} … {float(value.max()):+.2f}"
    )

# %% [markdown] lang="vi"
r"""
Cột cuối là giá trị nhỏ nhất và lớn nhất qua các tầng của con số quyết định: số nhỏ hơn trong hai chỉ số $S$ của QQ và KK; $S$ của VV trừ đi số ấy; tỉ lệ cặp QK có $|s|>0{,}9$; $S$ lớn nhất của tương quan; tỉ số độ rộng lớn nhất; cosine giữa hai nửa. Bảng do ô mã viết, nên trên mô hình khác nó tự đổi. (GPT-2: hãy chạy khi có kết nối tới Hub.)

Khẳng định cuối của tài liệu gốc, "độ dời *là mã* mà mô hình chạy trên đó", không có trong bảng: dòng 6 chỉ cho thấy độ dời ổn định. Biểu đồ tần suất không thể cho biết mô hình có dùng nó hay không. Bài 09 sẽ can thiệp.
"""

# %% [markdown] lang="en"
r"""
The last column is the smallest and the largest value over the layers of the figure that decides: the smaller $S$ of QQ and KK; $S$ of VV minus that; the share of QK pairs with $|s|>0.9$; the largest $S$ of the correlation; the largest ratio of widths; the cosine between the halves. The table is written by the cell, so on another model it changes by itself. (GPT-2: to be seen when run with the Hub.)

The source's last claim, "offsets *are the code* that the model runs on", is not in the table: line 6 shows only that offsets are stable. A histogram cannot say whether the model uses them. Notebook 09 intervenes.
"""

# %%
full = block_histograms(partial_centre(x, 1), sizes, measures="cosine")["cosine"]["QQ"]  # sanity check
assert abs(float(smile_index(full)) - float(smile_index(histograms["correlation"]["QQ"]))) < 1e-3
print("✓")

# %% [markdown] lang="vi"
r"""
## Tự kiểm tra
1. Vì sao $S$ không giảm đều khi $a$ tăng?
2. Bootstrap làm độ rộng của tương quan lớn lên hay nhỏ đi? Vì sao?
3. Trong luật một đường cong, phần nào là lặp lại định nghĩa, phần nào là phát hiện?
4. $n_\text{eff}=2{,}5$ từ 54 câu. Nói điều đó bằng một câu không có công thức.

<details><summary>Trả lời ngắn</summary>

1. $m/\sqrt{1+m^2}$ bão hòa: với $m$ lớn, giảm một nửa hầu như không đổi gì; với $m$ vừa phải thì đổi ngay.
2. Lớn lên: các bản sao của một câu giống hệt nhau, nên số câu khác nhau ít đi.
3. Độ rộng là định nghĩa; hình dạng ($S$) là phát hiện.
4. Các câu giống nhau đến mức, về độ tương đồng giữa các chiều, chúng chỉ đáng giá hai ba câu độc lập.
</details>

## Tóm tắt
- Trung bình và phương sai của từng chiều đủ để vẽ lại biểu đồ cosine.
- Trên SmolLM2-135M, ở Q và K độ dời của " her" gần như cùng hướng với độ dời chung của mọi token; ở V thì phần riêng của từ lớn hơn nhiều.
- Chỉ số nụ cười của mọi biểu đồ đã xét bám sát phân phối null ở cỡ mẫu hiệu dụng (mục 5 cho biết lệch bao nhiêu): nụ cười là hiệu ứng $n$ nhỏ.
- Phán quyết do ngưỡng đặt trước quyết định, và có cả "đúng một phần" lẫn "sai".

## Tài liệu
- B. Efron và C. Stein, *The Jackknife Estimate of Variance*, Annals of Statistics 9(3), 1981.
- J. Gao và cộng sự, *Representation Degeneration Problem in Training Natural Language Generation Models*, ICLR 2019 (arXiv:1907.12009).
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 (arXiv:1909.00512).
"""

# %% [markdown] lang="en"
r"""
## Check yourself
1. Why does $S$ not fall evenly as $a$ grows?
2. Does a bootstrap widen or narrow the correlation's histogram? Why?
3. In the one-curve law, what is tautology and what is a finding?
4. $n_\text{eff}=2.5$ out of 54 sentences. Say it in one sentence without a formula.

<details><summary>Short answers</summary>

1. $m/\sqrt{1+m^2}$ saturates: for a large $m$, halving it changes next to nothing; for a moderate one it changes at once.
2. It widens: a repeated sentence is identical to itself, so there are fewer different sentences.
3. The width is the definition; the shape ($S$) is the finding.
4. The sentences are so alike that, for the similarities between features, they are worth two or three independent ones.
</details>

## Summary
- Mean and variance of each feature are enough to redraw the histogram of cosines.
- On SmolLM2-135M the offset of " her" in Q and K has nearly the direction of the offset common to all tokens; in V much more of it is the word's own.
- The smile index of every histogram examined keeps close to the null at its effective sample size (section 5 says how close): the smile is the small-$n$ effect.
- Verdicts follow from thresholds fixed beforehand, and include "holds partly" and "fails".

## References
- B. Efron and C. Stein, *The Jackknife Estimate of Variance*, Annals of Statistics 9(3), 1981.
- J. Gao et al., *Representation Degeneration Problem in Training Natural Language Generation Models*, ICLR 2019 (arXiv:1907.12009).
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 (arXiv:1909.00512).
"""
