# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] lang="vi"
r"""
# 07 · Qua mọi tầng

**Câu hỏi.** Bài 04 chỉ xem ba tầng (layer). Khi đi qua *mọi* tầng, từ tầng nông (early layer) đến tầng sâu (deep layer), hình nụ cười (smile) thay đổi ra sao? Nếu nó khép lại, đó là vì độ dời trung bình (mean offset) nhỏ đi, hay vì các câu ngày càng khác nhau?

**Sau bài này, bạn có thể**
- chạy cả thí nghiệm trên mọi tầng, và biết *trước khi chạy* nó cần bao nhiêu bộ nhớ;
- đọc bản đồ nhiệt (heat map) tầng × độ tương đồng cho cả sáu khối;
- tách độ dời trung bình khỏi độ phân tán (spread) quanh trung bình, và theo dõi từng thứ theo chiều sâu;
- so tầng nông với tầng sâu bằng ngưỡng đặt trước và phán quyết do mã tính ra.

**Thời gian:** khoảng 70 phút đọc và làm bài tập; máy tính chạy khoảng 25 giây. **Cần biết trước:** bài 01 đến 06.
"""

# %% [markdown] lang="en"
r"""
# 07 · Across the layers

**Question.** Notebook 04 looked at three layers. Through *all* layers, from early to deep, how does the smile change? If it closes, is that because the mean offset shrinks, or because the sentences differ more and more?

**Afterwards you can**
- run the whole experiment on every layer, and know *before the run* how much memory it needs;
- read a heat map of layer × similarity for all six blocks;
- separate the mean offset from the spread around the mean, and follow each with depth;
- compare early and deep layers by thresholds fixed beforehand and a verdict that the code computes.

**Time:** about 70 minutes of reading and exercises; the computer runs for about 25 seconds. **You need:** notebooks 01 to 06.
"""

# %% tags=["setup"]
# the build puts setup_cell.py here
from helpers import set_language

set_language("vi")

# %%
import math
from dataclasses import replace

import torch
from tqdm.auto import tqdm

# %%
from helpers import (
    BLOCKS,
    attention_modules,
    block_histograms,
    capture_qkv,
    control_positions,
    effective_n,
    encode,
    find_token,
    label,
    load_model,
    load_sentences,
    say,
    smile_index,
    token_id_of,
)
from helpers.checks import check
from helpers.plots import plot_depth, plot_layer_histograms
from helpers.widgets import layer_explorer

# %% [markdown] lang="vi"
r"""
## 1. Trước khi chạy: cần bao nhiêu bộ nhớ?

Mô hình càng lớn, câu hỏi này càng đáng đặt ra *trước*. Ta chỉ cần kích thước của Q, K, V. Cách rẻ nhất để biết: chỉ lấy tầng 0; lượt truyền xuôi (forward pass) dừng ngay ở đó.

**Dự đoán.** Thứ nào tốn bộ nhớ hơn: Q, K, V của mọi tầng, hay các ma trận tương đồng $F\times F$ của mọi tầng ($F$ là tổng số chiều (feature) của Q, K và V)?
"""

# %% [markdown] lang="en"
r"""
## 1. Before the run: how much memory?

The larger the model, the more this question should come *first*. All we need is the sizes of Q, K and V. The cheapest way to learn them: capture layer 0 only; the forward pass stops right there.

**Predict.** What takes more memory: Q, K and V of all layers, or the $F\times F$ similarity matrices of all layers ($F$ being the number of features of Q, K and V together)?
"""

# %%
model, tokenizer = load_model()
batch = encode(tokenizer, load_sentences("her"))
positions = find_token(batch, token_id_of(tokenizer, " her"))

sizes = capture_qkv(model, batch, layers=0, positions=positions).sizes
n_layer, n_feature = len(attention_modules(model)), sum(sizes)
n_sentence, n_token = batch["input_ids"].shape
n_pair = 2 * n_layer * math.comb(n_feature, 2)  # over all layers, target and control
print(model.provenance)
print(n_layer, sizes, f"{n_pair:,}")


# %%
def megabytes(*shape):
    return math.prod(shape) * 4 / 1e6  # a float32 has 4 bytes


costs = {
    say("giữ lại: hai token mỗi câu", "kept: two tokens per sentence"): megabytes(2, n_layer, n_sentence, n_feature),
    say("nếu giữ mọi token", "if every token were kept"): megabytes(n_layer, n_sentence, n_token, n_feature),
    say("nếu giữ ma trận F x F", "if the F x F matrices were kept"): megabytes(2, 2, n_layer, n_feature, n_feature),
    say("một dải 128 hàng của ma trận", "one band of 128 rows of it"): megabytes(128, n_feature),
}
for what, cost in costs.items():
    print(f"{what:36s}{cost:10.2f} MB")

# %% [markdown] lang="vi"
r"""
Dòng thứ hai là cái giá của mọi token, kể cả phần đệm (padding); `positions` giúp ta khỏi phải trả. Dòng thứ ba tính cho hai token (đích và đối chứng), hai phép đo, mọi tầng; `block_histograms` không bao giờ giữ ma trận ấy: mỗi lúc nó chỉ giữ vài dải như dòng cuối, đếm vào các khoảng chia (bin) rồi bỏ đi. (Bản thân mô hình tốn thêm bộ nhớ cho trọng số và cho lượt truyền xuôi.)

### Bài tập 7.1
Viết `matrix_gigabytes(n_layer, sizes)`: các ma trận tương đồng $F\times F$ kiểu float32 của *mọi tầng* và *cả hai phép đo*, cho *một* token, chiếm bao nhiêu gigabyte ($10^9$ byte)? Lời giải dùng nó cho GPT-2 XL, có 48 tầng và 1600 chiều cho mỗi phần Q, K, V.

*Gợi ý:* ma trận có $F$ hàng; $F$ tính từ `sizes` thế nào?
"""

# %% [markdown] lang="en"
r"""
The second line is the price of every token, padding too; `positions` spares it. The third counts two tokens (target and control), two measures and all layers; `block_histograms` never keeps that matrix: at any moment it holds a few bands like that of the last line, counts them into bins and drops them. (The model itself takes more, for its weights and the forward pass.)

### Exercise 7.1
Write `matrix_gigabytes(n_layer, sizes)`: how many gigabytes ($10^9$ bytes) do the float32 $F\times F$ similarity matrices of *all layers* and *both measures* take, for *one* token? The solution applies it to GPT-2 XL, with 48 layers and 1600 features in each of Q, K and V.

*Hint:* the matrix has $F$ rows; how does $F$ follow from `sizes`?
"""


# %% tags=["exercise"]
def matrix_gigabytes(n_layer, sizes):
    return ...


check("7.1", matrix_gigabytes)


# %% tags=["solution"]
# @title Lời giải 7.1 · Solution 7.1
def matrix_gigabytes(n_layer, sizes):
    return 2 * n_layer * sum(sizes) ** 2 * 4 / 1e9


check("7.1", matrix_gigabytes)
print(f"GPT-2 XL: {matrix_gigabytes(48, (1600, 1600, 1600)):.2f} GB")

# %% [markdown] lang="vi"
r"""
## 2. Đặt ngưỡng trước khi nhìn

Chỉ số nụ cười $S=P(|s|>0{,}8)-P(|s|<0{,}2)$ như ở bài 04. **Tầng nông** là một phần ba đầu tiên của mô hình, *trừ tầng 0*; **tầng sâu** là một phần ba cuối. Bỏ tầng 0 vì ở mô hình dùng mã hóa vị trí xoay (RoPE), Q, K, V của token đích (target token) tại đó giống hệt nhau trong mọi câu: nụ cười hoàn hảo nhưng không nói gì về ngữ cảnh (bài 04). Các khẳng định:

1. **Nụ cười khép lại theo chiều sâu:** ở mỗi khối, trung bình của $S$ (cosine, token đích) ở tầng nông lớn hơn ở tầng sâu ít nhất 0,1.
2. **Token đích luôn cười rõ hơn token đối chứng (control token):** ở mỗi khối, tại *mọi* tầng từ 1 trở đi, $S$ của token đích lớn hơn ít nhất 0,05.
3. **V phẳng hơn:** trung bình của $S$ ở VV thấp hơn cả QQ lẫn KK ít nhất 0,1, ở tầng nông và cả ở tầng sâu.
4. **Trừ trung bình (mean-centring) thì không còn nụ cười:** với hệ số tương quan (correlation coefficient), $S<0$ ở mọi khối, tại mọi tầng từ 1 trở đi.
5. **Nụ cười khép vì độ phân tán tăng, không phải vì độ dời giảm:** từ tầng nông đến tầng sâu, độ dời của mỗi phần còn ít nhất 0,9 lần, còn độ phân tán tăng ít nhất 1,2 lần.

**Dự đoán:** khẳng định nào sẽ sai trên mô hình của bạn?
"""

# %% [markdown] lang="en"
r"""
## 2. Thresholds before the figures

The smile index $S=P(|s|>0.8)-P(|s|<0.2)$ is that of notebook 04. **Early** means the first third of the model *without layer 0*, **deep** the last third. Layer 0 is left out because in a model with rotary positions (RoPE) Q, K and V of the target are the same there in every sentence: a perfect smile that says nothing about context (notebook 04). The claims:

1. **The smile closes with depth:** in each block the mean of $S$ (cosine, target) over the early layers exceeds that over the deep ones by at least 0.1.
2. **The target always smiles more than the control:** in each block, at *every* layer from 1 on, $S$ of the target is larger by at least 0.05.
3. **V is flatter:** the mean of $S$ in VV is lower than in QQ and in KK by at least 0.1, at the early and at the deep layers.
4. **Without the mean there is no smile:** for the correlation $S<0$ in every block at every layer from 1 on.
5. **The smile closes because the spread grows, not because the offset shrinks:** from early to deep the offset of each part stays at 0.9 times or more, and its spread grows to 1.2 times or more.

**Predict:** which of these will fail on your model?
"""

# %% [markdown] lang="vi"
r"""
## 3. Chạy một lần cho mọi tầng

`block_histograms` nhận luôn trục tầng ở đầu. Với mô hình lớn (hơn một tỉ cặp), ta đi từng tầng một để có thanh tiến trình (progress bar); `join` chỉ ghép các kết quả lại.
"""

# %% [markdown] lang="en"
r"""
## 3. One run for all layers

`block_histograms` takes the layers as a leading axis. For a large model (more than a billion pairs) we go layer by layer, so that there is a progress bar; `join` merely puts the results together.
"""


# %%
def join(parts):
    """Results for some layers each, in order -> one result for all layers."""

    def all_layers(measure, block):
        pieces = [vars(part[measure][block]) for part in parts]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0] if name != "edges"}

    return {
        measure: replace(first, blocks={block: replace(h, **all_layers(measure, block)) for block, h in first.items()})
        for measure, first in parts[0].items()
    }


# %%
def analyse(positions):
    """Q, K, V of one token per sentence at all layers, and their histograms."""
    qkv = capture_qkv(model, batch, positions=positions)
    large = n_pair > 1e9
    pieces = tqdm(qkv.joined().split(1 if large else n_layer), disable=not large, unit=label("layer"))
    return qkv, join([block_histograms(x, sizes) for x in pieces])


target_qkv, target = analyse(positions)
control_qkv, control = analyse(control_positions(batch, positions))
print(tuple(target["cosine"]["QQ"].counts.shape), list(BLOCKS))

# %% [markdown] lang="vi"
r"""
Kích thước trên là `[tầng, khoảng chia]`. Trên SmolLM2-135M, cả hai token, hai phép đo, sáu khối, mọi tầng, kể cả các lượt truyền xuôi, mất chưa đến 15 giây với hai nhân CPU.

## 4. Bản đồ nhiệt của cosine

Mỗi hàng điểm ảnh là biểu đồ tần suất (histogram) của một tầng, nhìn từ trên xuống: màu là mật độ (density), theo thang logarit, chung cho mọi hình con (panel) và cho cả hình ở mục 5. Phân phối đều có mật độ 0,5, đúng chỗ màu tím chuyển sang cam: cam là dày hơn thế, tím là thưa hơn.

**Dự đoán.** Nụ cười là hai vệt cam ở hai mép. Chúng sẽ mờ dần từ trên xuống dưới, hay đứt ở một tầng nào đó? Khối nào mờ nhanh nhất?
"""

# %% [markdown] lang="en"
r"""
The shape above is `[layer, bin]`. On SmolLM2-135M both tokens, both measures, six blocks and all layers, forward passes included, took less than 15 seconds on two CPU cores.

## 4. The cosine as a heat map

Each row of pixels is the histogram of one layer seen from above: the colour is the density, on a logarithmic scale which all panels share, those of section 5 too. A uniform distribution has the density 0.5, where purple turns into orange: orange is more than that, purple is less.

**Predict.** A smile shows as two orange edges. Will they fade gradually from top to bottom, or break off at some layer? In which block do they fade first?
"""

# %%
figure = plot_layer_histograms(target["cosine"], control["cosine"], title=model.provenance)

# %% [markdown] lang="vi"
r"""
Hàng trên là token đích, hàng dưới là token đối chứng. Hãy tìm hai mép màu cam, và tầng mà từ đó màu cam chuyển vào giữa hình.

Hình này *không* cho biết: sự thay đổi đến từ độ dời hay từ độ phân tán (mục 6), và từng con số chắc chắn đến đâu, vì các cặp chiều không độc lập với nhau (bài 06).

Từng tầng một: kéo thanh trượt, hoặc bấm vào nó rồi dùng phím mũi tên. (Hình tĩnh bên dưới cho thấy trạng thái ban đầu.)
"""

# %% [markdown] lang="en"
r"""
The upper row is the target, the lower one the control. Look for the two orange edges, and for the layer from which the orange moves to the middle.

The figure does *not* say whether a change comes from the offset or from the spread (section 6), nor how sure each number is, since pairs of features are not independent of each other (notebook 06).

One layer at a time: move the slider, or click it and use the arrow keys. (The still figure below shows the initial state.)
"""

# %% tags=["nbval-ignore-output"]
explorer = layer_explorer(target["cosine"], control["cosine"])
explorer.widget

# %%
explorer.figure

# %% [markdown] lang="vi"
r"""
## 5. Bản đồ nhiệt của hệ số tương quan

**Dự đoán.** Cùng dữ liệu, đã trừ trung bình. Có còn tầng nào có mép màu cam không?
"""

# %% [markdown] lang="en"
r"""
## 5. The correlation as a heat map

**Predict.** The same data with the means removed. Is there still a layer with orange edges?
"""

# %%
figure = plot_layer_histograms(target["correlation"], control["correlation"], title=model.provenance)


# %%
def smiles(histograms):
    return torch.stack([smile_index(h) for _, h in histograms.items()], dim=-1)  # [layer, block]


def n_eff(histograms, measure):
    return torch.stack([effective_n(h, measure) for _, h in histograms[measure].items()], dim=-1)  # [layer, block]


n_eff_target, n_eff_control = n_eff(target, "correlation"), n_eff(control, "correlation")
for layer, block in (smiles(target["correlation"])[1:] > 0).nonzero().tolist():
    value = smiles(target["correlation"])[1 + layer, block]
    print(
        f"{label('layer')} {1 + layer:2d}  {list(BLOCKS)[block]}  S = {value:+.2f}   "
        f"{label('effective_n')} {n_eff_target[1 + layer, block]:.1f} / {n_sentence}"
    )
print(say("số tầng có S > 0 trong một khối:", "layers with S > 0 in some block:"), end=" ")
print(int((smiles(target["correlation"])[1:] > 0).any(dim=-1).sum()))

# %% [markdown] lang="vi"
r"""
Mỗi dòng (nếu có) là một khối vẫn cười *sau khi* đã trừ trung bình. Khi ấy không thể đổ cho độ dời. Hãy nhìn cỡ mẫu hiệu dụng (effective sample size) bên cạnh: nếu nó chỉ là vài câu, ta gặp lại cái bẫy $n$ nhỏ của bài 05. Mọi câu chỉ khác nhau theo vài hướng, nên hai chiều bất kỳ dễ gần như cùng phương với nhau, và tương quan dồn về ±1. Ngay sau tầng 0, Q, K, V của cùng một token chỉ mới nhận ngữ cảnh đúng một lần, qua một lượt attention và MLP: có ít hướng khác nhau ở đó là điều hợp lý, nhưng hình này chưa *chứng minh* nguyên nhân.

Màu xám nghĩa là mọi cặp đều không xác định: chiều là hằng số, không có tương quan.

## 6. Độ dời hay độ phân tán?

Theo bài 02, cosine của hai chiều không tương quan chỉ phụ thuộc vào $m=\mu/\sigma$: trung bình chia cho độ lệch chuẩn (standard deviation). Tỉ số ấy nhỏ đi theo hai cách rất khác nhau: $\mu$ giảm, hoặc $\sigma$ tăng.

### Bài tập 7.2
Viết `relative_offset(x)`: nhận `x` kích thước `[layer, sentence, feature]`, trả về `[layer]`: trung vị (median) theo các chiều của $|\mu|/\sigma$, với $\mu$ và $\sigma$ tính theo câu và $\sigma$ là độ lệch chuẩn tổng thể (chia cho $n$).

*Gợi ý:* `x.std(dim=..., correction=0)`; `x.median(dim=...)` trả về cả giá trị (`.values`) lẫn vị trí.
"""

# %% [markdown] lang="en"
r"""
Each line (if any) is a block that still smiles *after* the means were removed. The offset cannot be blamed for that. Look at the effective sample size beside it: if it is a handful of sentences, this is the small-$n$ trap of notebook 05 again. All sentences differ along a few directions only, so any two features are likely to be nearly in line, and the correlation piles up at ±1. Right after layer 0, Q, K and V of one and the same token have received context only once, through one round of attention and MLP: few directions are plausible there, but the figure does not *prove* the cause.

Grey means that every pair is undefined: a constant feature has no correlation.

## 6. Offset or spread?

By notebook 02 the cosine of two uncorrelated features depends on $m=\mu/\sigma$ alone: mean over standard deviation. That ratio can fall in two very different ways: $\mu$ shrinks, or $\sigma$ grows.

### Exercise 7.2
Write `relative_offset(x)`: take `x` of shape `[layer, sentence, feature]`, return `[layer]`: the median over the features of $|\mu|/\sigma$, with $\mu$ and $\sigma$ over the sentences and $\sigma$ the population standard deviation (divided by $n$).

*Hint:* `x.std(dim=..., correction=0)`; `x.median(dim=...)` gives values (`.values`) and places.
"""


# %% tags=["exercise"]
def relative_offset(x):
    return ...


check("7.2", relative_offset)


# %% tags=["solution"]
# @title Lời giải 7.2 · Solution 7.2
def relative_offset(x):
    ratio = x.mean(dim=1).abs() / x.std(dim=1, correction=0)  # [layer, feature]
    return ratio.median(dim=-1).values  # [layer]


check("7.2", relative_offset)

# %% [markdown] lang="vi"
r"""
**Dự đoán.** Trong hình dưới, đường màu là độ lớn của trung bình, đường đen là độ lớn của độ lệch chuẩn; cả hai là căn của trung bình bình phương (rms) theo các chiều, trên thang logarit. Đường nào thay đổi nhiều hơn khi đi sâu? (Tầng mà các chiều là hằng số thì bỏ trống.)
"""

# %% [markdown] lang="en"
r"""
**Predict.** In the next figure the coloured line is the size of the means, the black one that of the standard deviations, both as the root mean square (rms) over the features, on a logarithmic scale. Which of the two changes more with depth? (A layer where the features are constant is left empty.)
"""


# %%
def gaps(values, histograms, part):
    """NaN where the features of a part are constant: rounding has no meaning there."""
    h = histograms["correlation"][part + part]
    return values.where(h.n_undefined < h.n_pairs, torch.nan)


moments, relative = {}, {}
for part in "QKV":
    x, x_control = (getattr(qkv, part.lower()).double() for qkv in (target_qkv, control_qkv))
    offset = x.mean(dim=1).square().mean(dim=-1).sqrt()  # [layer]
    spread = x.var(dim=1, correction=0).mean(dim=-1).sqrt()
    moments[part] = {"offset_size": offset, "spread_size": gaps(spread, target, part)}
    relative[part] = {
        "target": gaps(relative_offset(x), target, part),
        "control": gaps(relative_offset(x_control), control, part),
    }
figure = plot_depth(moments, "size_of_parts", log=True, title=f"{model.provenance} · {label('target')}")

# %%
figure = plot_depth(relative, "relative_offset", log=True, title=model.provenance)

# %% [markdown] lang="vi"
r"""
Hình thứ hai là tỉ số $|\mu|/\sigma$ của một chiều điển hình, cạnh token đối chứng. Hai hình này *không* cho biết từng chiều: vài chiều có độ dời rất lớn có thể chi phối rms, còn trung vị thì bỏ qua chúng. Chúng cũng không nói độ dời từ đâu mà có: từ bias, hay từ luồng dư (residual stream) đi qua phép chiếu (projection).

## 7. Phân cực và cỡ mẫu hiệu dụng theo tầng

**Dự đoán.** Đường của token đích có nằm trên đường của token đối chứng ở mọi tầng không? Ở tầng sâu, hai đường có gặp nhau không?
"""

# %% [markdown] lang="en"
r"""
The second figure is $|\mu|/\sigma$ of a typical feature, beside the control token. The two do *not* show single features: a few with a very large offset can rule the rms, and the median ignores them. Nor do they say where an offset comes from (a bias, or the residual stream through the projection).

## 7. Polarisation and effective sample size by layer

**Predict.** Does the target's line stay above the control's at every layer? Do the two meet at the deep layers?
"""

# %%
smile_target, smile_control = smiles(target["cosine"]), smiles(control["cosine"])  # [layer, block]
curves = {block: {"target": smile_target[:, i], "control": smile_control[:, i]} for i, block in enumerate(BLOCKS)}
figure = plot_depth(curves, "smile_index", title=model.provenance)

# %% [markdown] lang="vi"
r"""
Cỡ mẫu hiệu dụng của hệ số tương quan: bao nhiêu câu *độc lập* thì cho biểu đồ rộng như thế? Đường nét đứt là số câu thật. **Dự đoán:** nếu sau khi trừ trung bình "chỉ còn nhiễu", đường của token đích phải nằm ở đâu?
"""

# %% [markdown] lang="en"
r"""
The effective sample size of the correlation: how many *independent* sentences would give a histogram as wide as this? The dashed line is the true number of sentences. **Predict:** if "only noise" were left without the means, where would the target's line be?
"""

# %%
n_line = torch.full((n_layer,), float(n_sentence))
curves = {
    block: {"target": n_eff_target[:, i], "control": n_eff_control[:, i], "n_sentences": n_line}
    for i, block in enumerate(("QQ", "KK", "VV"))
}
figure = plot_depth(curves, "effective_n", title=model.provenance)

# %% [markdown] lang="vi"
r"""
Khoảng cách đến đường nét đứt là cấu trúc mà các chiều còn chung nhau sau khi trừ trung bình. Hình này *không* cho biết cấu trúc ấy là gì. Nếu đường của token đối chứng cũng nằm dưới đường nét đứt, thì nằm dưới đó không phải là chuyện riêng của " her". Và nhắc lại từ bài 04: token đối chứng gồm nhiều từ khác nhau, nên phép so sánh này chưa hoàn toàn công bằng.

## 8. Tầng nông với tầng sâu: phán quyết

Các ngưỡng là những ngưỡng ở mục 2; không sửa gì thêm sau khi đã xem hình.
"""

# %% [markdown] lang="en"
r"""
The distance to the dashed line is structure that features share even without their means. The figure does *not* say what it is. Where the control stays below the dashed line too, being below it is nothing peculiar to " her". And, as in notebook 04: the control is many different words, so the comparison is not quite fair.

## 8. Early against deep: the verdict

The thresholds are those of section 2; nothing was changed after the figures were seen.
"""

# %%
third = n_layer // 3
early, deep = slice(1, third), slice(n_layer - third, n_layer)
print(f"{label('layers')}: 1–{third - 1}, {n_layer - third}–{n_layer - 1}")
print(" " * 34 + "     ".join(BLOCKS))
n_eff_cosine = n_eff(target, "cosine")
for place, name in ((early, say("tầng nông", "early")), (deep, say("tầng sâu", "deep"))):
    for what, values in (("target", smile_target), ("control", smile_control)):
        row = "  ".join(f"{value:+.2f}" for value in values[place].mean(dim=0))
        print(f"S      {name:10s}{label(what):16s}{row}")
    for what, values in (("cosine", n_eff_cosine), ("correlation", n_eff_target)):
        row = "  ".join(f"{value:5.1f}" for value in values[place].mean(dim=0))
        print(f"n_eff  {name:10s}{'cos' if what == 'cosine' else 'r':16s}{row}")

# %%
closing = smile_target[early].mean(dim=0) - smile_target[deep].mean(dim=0)  # [block]
lead = smile_target[1:] - smile_control[1:]  # [layer - 1, block]
enough = (lead >= 0.05).sum(dim=0)
flatter = [min(s[0], s[1]) - s[2] for s in (smile_target[place].mean(dim=0) for place in (early, deep))]
centred = smiles(target["correlation"])[1:].amax(dim=0)
lines = [(1, block, closing[i] >= 0.1, f"{closing[i]:+.2f}") for i, block in enumerate(BLOCKS)]
lines += [(2, b, enough[i] == n_layer - 1, f"{enough[i]} / {n_layer - 1}") for i, b in enumerate(BLOCKS)]
lines += [(3, "VV", flat >= 0.1, f"{flat:+.2f}") for flat in flatter]
lines += [(4, block, centred[i] < 0, f"{centred[i]:+.2f}") for i, block in enumerate(BLOCKS)]
for part, curve in moments.items():
    offset, spread = (curve[name][deep].mean() / curve[name][early].mean() for name in ("offset_size", "spread_size"))
    lines.append((5, part, offset >= 0.9 and spread >= 1.2, f"x{offset:.2f}  x{spread:.2f}"))
for number, where, holds, figures in lines:
    print(f"{number}. {where:3s} {say('đúng', 'holds') if holds else say('sai', 'fails'):6s} {figures}")

# %% [markdown] lang="vi"
r"""
Mỗi dòng: số của khẳng định, khối hoặc phần, phán quyết, con số quyết định: (1) mức giảm của $S$; (2) số tầng mà token đích hơn ít nhất 0,05, trên tổng số tầng; (3) VV thấp hơn bao nhiêu, dòng trên cho tầng nông, dòng dưới cho tầng sâu; (4) $S$ lớn nhất của hệ số tương quan; (5) độ dời và độ phân tán ở tầng sâu gấp mấy lần ở tầng nông.

Đây là *một* bộ câu, *một* từ, *một* mô hình. Trung bình trên một phần ba số tầng che đi những tầng khác thường; vì thế mới cần các đường ở mục 7. (Muốn thấy kết quả trên GPT-2 small hay GPT-2 XL, hãy chạy bài này khi có kết nối tới Hub, với `QKV_MODEL` là tên mô hình.)

### Bài tập 7.3
Từ tầng nào trở đi $S$ của QQ (cosine, token đích) không còn dương nữa, *cho đến tận tầng cuối*? Gán số tầng vào `closing_layer`; nếu tầng cuối vẫn còn dương thì đáp số là số tầng của mô hình.

*Gợi ý:* tìm tầng cuối cùng mà $S$ còn dương. `smile_target[:, 0]` là QQ.
"""

# %% [markdown] lang="en"
r"""
Each line: the number of the claim, the block or part, the verdict, and the figure that decides: (1) the fall of $S$; (2) the layers at which the target leads by 0.05 or more, out of how many; (3) how much lower VV is, first at the early, then at the deep layers; (4) the largest $S$ of the correlation; (5) the deep offset and the deep spread, as multiples of the early ones.

This is *one* set of sentences, *one* word, *one* model. A mean over a third of the layers hides layers that stand out; that is what the curves of section 7 are for. (What GPT-2 small or GPT-2 XL gives is to be seen when you run this notebook with the Hub, with the model's name in `QKV_MODEL`.)

### Exercise 7.3
From which layer on is $S$ of QQ (cosine, target) never positive again, *up to the last layer*? Put its number into `closing_layer`; if the last layer is still positive, the answer is the number of layers.

*Hint:* find the last layer where $S$ is positive. `smile_target[:, 0]` is QQ.
"""

# %% tags=["exercise"]
closing_layer = ...

check("7.3", closing_layer, target)

# %% tags=["solution"]
# @title Lời giải 7.3 · Solution 7.3
positive = (smile_target[:, 0] > 0).nonzero()  # [layers with S > 0, 1]
closing_layer = 1 + int(positive.max()) if len(positive) else 0

check("7.3", closing_layer, target)
print(closing_layer)

# %%
for measure in target:  # sanity check: all layers at once, or one layer alone, give the same counts
    alone = block_histograms(target_qkv.joined()[n_layer // 2], sizes)[measure]
    for block, h in target[measure].items():
        assert torch.equal(h.counts[n_layer // 2], alone[block].counts), (measure, block)
        assert torch.equal(h.counts.sum(dim=-1) + h.n_undefined, h.n_pairs), (measure, block)
print("✓")

# %% [markdown] lang="vi"
r"""
## Tự kiểm tra
1. Vì sao bỏ tầng 0 khi tính trung bình của tầng nông?
2. Tỉ số $|\mu|/\sigma$ giảm một nửa. Kể hai nguyên nhân có thể có, và cách phân biệt.
3. Một khối vẫn cười sau khi trừ trung bình, với cỡ mẫu hiệu dụng chỉ vài câu. Bạn kết luận gì?
4. Vì sao mọi hình con của bản đồ nhiệt phải dùng chung một thang màu?

<details><summary>Trả lời ngắn</summary>

1. Với RoPE, token đích ở đó là hằng số trên mọi câu: $S=1$ do cách dựng, không do ngữ cảnh; đưa vào sẽ thổi phồng trung bình của tầng nông.
2. Trung bình giảm, hoặc độ lệch chuẩn tăng. Vẽ riêng hai thứ, như ở mục 6.
3. Các câu chỉ khác nhau theo vài hướng; nụ cười ấy là hiệu ứng $n$ nhỏ, không phải do độ dời. Muốn biết vì sao ít hướng thì phải xem thêm.
4. Nếu mỗi hình con tự co giãn thang màu, khối nhạt nhất cũng sẽ trông rực rỡ như khối đậm nhất, và không so sánh được nữa.
</details>

## Tóm tắt
- Mọi tầng, hai token, hai phép đo, sáu khối đều nằm gọn trong bộ nhớ, vì ma trận $F\times F$ không bao giờ được giữ lại.
- Trên SmolLM2-135M (mô hình của kết quả lưu sẵn), xét theo ngưỡng đặt trước, nụ cười khép bớt theo chiều sâu ở mọi khối (KK ở tầng sâu vẫn còn $S>0$). Độ dời hầu như không nhỏ đi (xem dòng 5 của bảng phán quyết): độ phân tán quanh nó tăng lên.
- Cũng trên mô hình ấy, "trừ trung bình thì nụ cười mất" *không* đúng ở mọi tầng: xem mục 5 và dòng 4 của phán quyết.
- Không phải tầng nào token đích cũng hơn hẳn token đối chứng: xem dòng 2.

## Tài liệu
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 (arXiv:1909.00512): biểu diễn của cùng một từ khác nhau nhiều hơn ở tầng sâu.
- W. Timkey và M. van Schijndel, *All Bark and No Bite*, EMNLP 2021 (arXiv:2109.04404): vài chiều chi phối cosine.
- N. Godey, É. de la Clergerie và B. Sagot, *Anisotropy Is Inherent to Self-Attention in Transformers*, EACL 2024 (arXiv:2401.12143).
"""

# %% [markdown] lang="en"
r"""
## Check yourself
1. Why is layer 0 left out of the mean over the early layers?
2. $|\mu|/\sigma$ falls by half. Name two possible causes, and how to tell them apart.
3. A block still smiles without the means, at an effective sample size of a few sentences. What do you conclude?
4. Why must all panels of the heat map share one colour scale?

<details><summary>Short answers</summary>

1. With rotary positions the target is constant over all sentences there: $S=1$ by construction, not by context; it would inflate the early mean.
2. The mean shrinks, or the standard deviation grows. Draw the two apart, as in section 6.
3. The sentences differ along a few directions only; that smile is a small-$n$ effect, not one of the offset. Why there are so few directions takes more to find out.
4. If every panel stretched its own colours, the palest block would look as vivid as the strongest, and nothing could be compared.
</details>

## Summary
- All layers, two tokens, two measures and six blocks fit into little memory, because the $F\times F$ matrix is never kept.
- On SmolLM2-135M (the model of the stored outputs) the smile closes with depth by the threshold fixed beforehand, in every block (KK still has $S>0$ at the deep layers). The offset hardly shrinks (see line 5 of the verdicts): the spread around it grows.
- On the same model "without the mean the smile is gone" is *not* true at every layer: see section 5 and line 4 of the verdict.
- The target does not clearly lead the control at every layer: see line 2.

## References
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 (arXiv:1909.00512): representations of one word differ more at deeper layers.
- W. Timkey and M. van Schijndel, *All Bark and No Bite*, EMNLP 2021 (arXiv:2109.04404): a few dimensions rule the cosine.
- N. Godey, É. de la Clergerie and B. Sagot, *Anisotropy Is Inherent to Self-Attention in Transformers*, EACL 2024 (arXiv:2401.12143).
"""
