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

**Câu hỏi.** Bài 04 chỉ xem ba tầng (layer). Đi qua *mọi* tầng, hình nụ cười (smile) nhạt dần hay sụt hẳn ở một chỗ? Nó khép lại vì độ dời trung bình (mean offset) nhỏ đi, hay vì các câu ngày càng khác nhau? Và bộ phận nào của mô hình khép nó lại?

**Sau bài này, bạn có thể**
- chạy cả thí nghiệm trên mọi tầng, và biết *trước khi chạy* nó cần bao nhiêu bộ nhớ;
- đọc bản đồ nhiệt (heat map) tầng × độ tương đồng cho cả sáu khối;
- theo dõi riêng độ dời, riêng độ phân tán (spread) quanh trung bình;
- viết một hook *sửa* đầu ra của một module, rồi dùng nó để kiểm tra một nguyên nhân, có đối chứng.

**Thời gian:** khoảng 65 phút đọc và làm bài tập; máy tính chạy khoảng 20 giây. **Cần biết trước:** bài 01 đến 06.
"""

# %% [markdown] lang="en"
r"""
# 07 · Across the layers

**Question.** Notebook 04 looked at three layers. Through *all* layers, does the smile fade gradually or break off at one place? Does it close because the mean offset shrinks, or because the sentences differ more and more? And which part of the model closes it?

**Afterwards you can**
- run the whole experiment on every layer, and know *before the run* how much memory it needs;
- read a heat map of layer × similarity for all six blocks;
- follow the offset and the spread around the mean separately;
- write a hook that *changes* the output of a module, and test a cause with it, against controls.

**Time:** about 65 minutes of reading and exercises; the computer runs for about 20 seconds. **You need:** notebooks 01 to 06.
"""

# %% tags=["setup"]
# the build puts setup_cell.py here
from helpers import set_language

set_language("vi")

# %%
from contextlib import ExitStack, contextmanager

import torch

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
    show,
    smile_index,
    token_id_of,
)
from helpers.capture import attention_layers
from helpers.experiments.edit import recorded
from helpers.experiments.takes import takes
from helpers.teaching.checks import check, needs
from helpers.teaching.plots import plot_depth, plot_layer_histograms
from helpers.teaching.widgets import layer_explorer

model, tokenizer = load_model()
takes(model, layers=6)  # thirds, and a step of two layers

# %% [markdown] lang="vi"
r"""
## 1. Trước khi chạy: cần bao nhiêu bộ nhớ?

Thứ nào tốn bộ nhớ hơn: Q, K, V của mọi token ở mọi tầng, hay các ma trận tương đồng $F\times F$ của mọi tầng ($F$ là tổng số chiều (feature) của Q, K và V)? Chỉ cần biết các kích thước; lấy riêng tầng 0 là đủ: lượt truyền xuôi (forward pass) dừng ngay ở đó.
"""

# %% [markdown] lang="en"
r"""
## 1. Before the run: how much memory?

What takes more memory: Q, K and V of all tokens at all layers, or the $F\times F$ similarity matrices of all layers ($F$: number of features of Q, K and V together)? The sizes tell. Layer 0 gives them: the forward pass stops right there.
"""

# %%
model.set_attn_implementation("eager")  # the implementation that hands out its attention weights, for section 9
batch = encode(tokenizer, load_sentences("her")).to(model.device)
positions = find_token(batch, token_id_of(tokenizer, " her"))

sizes = capture_qkv(model, batch, layers=0, positions=positions).sizes
n_layer, (n_sentence, n_token) = len(attention_modules(model)), batch["input_ids"].shape
print(model.provenance)
show(n_layer, sizes, f"Q, K, V: {n_layer * n_sentence * n_token * sum(sizes) * 4 / 1e9:.2f} GB")

# %% [markdown] lang="vi"
r"""
### Bài tập 7.1
Viết `matrix_gigabytes(n_layer, sizes)`: các ma trận tương đồng $F\times F$ kiểu float32 (4 byte mỗi số) của *mọi tầng* và *cả hai phép đo*, cho *một* token, chiếm bao nhiêu gigabyte ($10^9$ byte)?

*Gợi ý:* ma trận có $F$ hàng; $F$ tính từ `sizes` thế nào?
"""

# %% [markdown] lang="en"
r"""
### Exercise 7.1
Write `matrix_gigabytes(n_layer, sizes)`: how many gigabytes ($10^9$ bytes) do the float32 $F\times F$ similarity matrices (4 bytes a number) of *all layers* and *both measures* take, for *one* token?

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


check("7.1", matrix_gigabytes, solution=True)
for name, n, shape in (("SmolLM2-135M", 30, (576, 192, 192)), ("GPT-2 XL", 48, (1600, 1600, 1600))):
    show(f"{name:14s}{matrix_gigabytes(n, shape):.2f} GB")

# %% [markdown] lang="vi"
r"""
`block_histograms` không bao giờ giữ cả ma trận: nó tính từng dải hàng, đếm vào các khoảng chia (bin) rồi bỏ đi.

## 2. Đặt ngưỡng trước khi nhìn

Chỉ số nụ cười $S=P(|s|>0{,}8)-P(|s|<0{,}2)$ như ở bài 04. **Tầng nông (early layer)** là một phần ba đầu tiên của mô hình, *trừ tầng 0*; **tầng sâu (deep layer)** là một phần ba cuối. Bỏ tầng 0 vì ở đó chưa có chút ngữ cảnh nào: với mã hóa vị trí xoay (RoPE), Q, K, V của token đích (target token) giống hệt nhau trong mọi câu, nên cho một nụ cười hoàn hảo; nếu vị trí được cộng vào embedding (GPT-2) thì chúng chỉ khác nhau theo vị trí. Các khẳng định, với ngưỡng đặt ra trước khi bạn xem kết quả:

1. **Nụ cười khép lại theo chiều sâu:** ở mỗi khối, trung bình của $S$ (cosine, token đích) ở tầng sâu thấp hơn ở tầng nông ít nhất 0,1.
2. **Token đích cười rõ hơn token đối chứng (control token):** ở mỗi khối, tại mọi tầng từ 1 trở đi, $S$ của token đích lớn hơn ít nhất 0,05.
3. **Trừ trung bình (mean-centring) thì không còn nụ cười:** với hệ số tương quan (correlation coefficient), $S<0$ ở mọi khối, tại mọi tầng từ 1 trở đi.
4. **Nụ cười khép vì độ phân tán tăng, không phải vì độ dời giảm:** từ tầng nông đến tầng sâu, độ dời ở Q, ở K và ở V đều còn ít nhất 0,9 lần mức ban đầu, trong khi độ phân tán ít nhất gấp 1,2 lần mức ban đầu.

Ở khẳng định 2 và 3, điều gì đúng ở hơn nửa số tầng nhưng không phải ở mọi tầng thì ghi “đúng một phần”.

**Dự đoán:** khẳng định nào sẽ sai trên mô hình của bạn?
"""

# %% [markdown] lang="en"
r"""
`block_histograms` never keeps a whole matrix: it computes a band of rows, counts it into bins and drops it.

## 2. Thresholds before the figures

The smile index $S=P(|s|>0.8)-P(|s|<0.2)$ is that of notebook 04. **Early** means the first third of the model *without layer 0*, **deep** the last third. Layer 0 is left out because there is no context in it yet: with rotary positions (RoPE) Q, K and V of the target are the same in every sentence, a perfect smile; where positions are added to the embedding (GPT-2) they differ by position only. The claims, with thresholds fixed before you see the result:

1. **The smile closes with depth:** in each block $S$ (cosine, target) is lower at the deep layers, in the mean, by at least 0.1.
2. **The target smiles more than the control:** in each block, at every layer from 1 on, $S$ of the target is larger by at least 0.05.
3. **Without the mean there is no smile:** for the correlation $S<0$ in every block at every layer from 1 on.
4. **The smile closes because the spread grows, not because the offset shrinks:** from early to deep the offset of each part stays at 0.9 times or more, its spread grows to 1.2 times or more.

In 2 and 3, what is true at more than half of the layers but not at all is called "holds partly".

**Predict:** which of these will fail on your model?
"""

# %% [markdown] lang="vi"
r"""
## 3. Chạy một lần cho mọi tầng

Một lượt truyền xuôi giữ Q, K, V của mọi token; từ đó ta chọn ra token đích và token đối chứng. Cũng lượt ấy giữ luôn luồng dư (residual stream) và các trọng số attention (attention weight) cho mục 9.
"""

# %% [markdown] lang="en"
r"""
## 3. One run for all layers

One forward pass keeps Q, K and V of every token; the target and the control are taken out of it. The same pass keeps the residual stream and the attention weights for section 9.
"""

# %%
rows = torch.arange(n_sentence, device=model.device)
with ExitStack() as records, torch.no_grad():
    every = {part: records.enter_context(recorded(model, part)) for part in "QKV"}  # of each part a list, by layer
    run = model.base_model(**batch, output_hidden_states=True, output_attentions=True)


def at(positions):
    """Q, K, V of one token per sentence, at all layers: {part: `[layer, sample, feature]`}."""
    return {part: torch.stack([x[rows, positions] for x in layers]) for part, layers in every.items()}


target_parts, control_parts = at(positions), at(control_positions(batch, positions))
target, control = (
    block_histograms(torch.cat(list(parts.values()), dim=-1), sizes) for parts in (target_parts, control_parts)
)
third = n_layer // 3
early, deep = slice(1, third), slice(n_layer - third, n_layer)
print(tuple(target["cosine"]["QQ"].counts.shape), list(BLOCKS))

# %% [markdown] lang="vi"
r"""
Kích thước trên là `[tầng, khoảng chia]`.

## 4. Bản đồ nhiệt của cosine

Mỗi hàng điểm ảnh là biểu đồ tần suất (histogram) của một tầng, như nhìn từ trên cao: màu là mật độ (density), theo một thang logarit chung cho mọi hình con (panel), kể cả ở mục 5. Màu tím (thưa hơn) chuyển sang cam (dày hơn) tại 0,5, mật độ của phân phối đều.

**Dự đoán.** Nụ cười là hai vệt cam ở hai mép. Đi từ trên xuống dưới, chúng sẽ nhạt dần hay đứt ở một tầng nào đó? Khối nào nhạt sớm nhất?
"""

# %% [markdown] lang="en"
r"""
The shape above is `[layer, bin]`.

## 4. The cosine as a heat map

Each row of pixels is the histogram of one layer seen from above: the colour is the density, on one logarithmic scale for all panels, those of section 5 too. Purple (less) turns into orange (more) at 0.5, the density of a uniform distribution.

**Predict.** A smile shows as two orange edges. From top to bottom, will they fade gradually or break off at some layer? In which block do they fade first?
"""

# %%
figure = plot_layer_histograms(target["cosine"], control["cosine"], title=model.provenance)

# %% [markdown] lang="vi"
r"""
Hàng trên là token đích, hàng dưới là token đối chứng. Từ tầng nào màu cam chuyển vào giữa hình? Hình này *không* cho biết sự thay đổi đến từ độ dời hay từ độ phân tán (mục 6), cũng không cho biết bộ phận nào của mô hình gây ra nó (mục 9 và 10).

Từng tầng một: kéo thanh trượt, hoặc bấm vào nó rồi dùng phím mũi tên. (Hình tĩnh bên dưới cho thấy trạng thái ban đầu.)
"""

# %% [markdown] lang="en"
r"""
The upper row is the target, the lower one the control. From which layer on does the orange move to the middle? The figure does *not* say whether a change comes from offset or spread (section 6), nor which part of the model makes it (sections 9 and 10).

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

Cùng dữ liệu, đã trừ trung bình. Theo khẳng định 3 thì không còn tầng nào có mép màu cam. Có đúng vậy không?
"""

# %% [markdown] lang="en"
r"""
## 5. The correlation as a heat map

The same data with the means removed. By claim 3 no layer has orange edges any more. Is that so?
"""

# %%
figure = plot_layer_histograms(target["correlation"], control["correlation"], title=model.provenance)


def smiles(histograms):
    return torch.stack([smile_index(h) for _, h in histograms.items()], dim=-1)  # [layer, block]


centred = smiles(target["correlation"])[1:]
for layer, block in (centred > 0).nonzero().tolist():
    name = list(BLOCKS)[block]
    n = effective_n(target["correlation"][name], "correlation")[1 + layer]
    show(f"{label('layer')} {1 + layer}  {name}  S = {centred[layer, block]:+.2f}", end="   ")
    show(f"{label('effective_n')} {n:.1f} / {n_sentence}")

# %% [markdown] lang="vi"
r"""
Mỗi dòng in ra (nếu có) là một khối vẫn cười *sau khi* đã trừ trung bình: khi ấy không thể đổ cho độ dời. Nếu cỡ mẫu hiệu dụng (effective sample size) bên cạnh chỉ là vài câu, ta gặp lại cái bẫy $n$ nhỏ của bài 05: các câu chỉ khác nhau theo vài hướng, nên hai chiều bất kỳ dễ gần như cùng phương. Màu xám nghĩa là mọi cặp đều không xác định: chiều là hằng số thì không có tương quan.

## 6. Độ dời hay độ phân tán?

**Độ dời** trong bài này là của *một từ*: trung bình qua các lần xuất hiện của " her". Đó là $c+\delta_w$ của bài 06: trung bình chung (lấy trên mọi token thường) cộng với phần riêng của từ.

Theo bài 02, cosine của hai chiều không tương quan chỉ phụ thuộc vào $m=\mu/\sigma$: trung bình chia cho độ lệch chuẩn (standard deviation). Tỉ số ấy có thể nhỏ đi theo hai cách: $\mu$ giảm, hoặc $\sigma$ tăng.

### Bài tập 7.2
Viết `relative_offset(x)`: nhận `x` kích thước `[layer, sample, feature]`, trả về `[layer]`: trung vị (median) theo các chiều của $|\mu|/\sigma$, với $\mu$ và $\sigma$ tính trên các mẫu (mỗi câu một mẫu), trong đó $\sigma$ là độ lệch chuẩn tổng thể (chia cho $n$).

*Gợi ý:* `x.std(dim=..., correction=0)`; `x.median(dim=...)` trả về cả giá trị (`.values`) lẫn vị trí.
"""

# %% [markdown] lang="en"
r"""
Each printed line (if any) is a block that still smiles *after* the means were removed: not the offset's doing. If the effective sample size beside it is a handful of sentences, this is the small-$n$ trap of notebook 05 again: the sentences differ along a few directions only, so any two features are likely to be nearly in line. Grey means that every pair is undefined: a constant feature has no correlation.

## 6. Offset or spread?

The **offset** of this notebook is that of *one word*: the mean over the occurrences of " her". It is $c+\delta_w$ of notebook 06: the mean common to all ordinary tokens plus the word's own part.

By notebook 02 the cosine of two uncorrelated features depends on $m=\mu/\sigma$ alone: mean over standard deviation. It can fall in two ways: $\mu$ shrinks, or $\sigma$ grows.

### Exercise 7.2
Write `relative_offset(x)`: take `x` of shape `[layer, sample, feature]`, return `[layer]`: the median over the features of $|\mu|/\sigma$, with $\mu$ and $\sigma$ over the samples (one per sentence) and $\sigma$ the population standard deviation (divided by $n$).

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


check("7.2", relative_offset, solution=True)

# %% [markdown] lang="vi"
r"""
**Dự đoán.** Trong hình dưới, đường màu là độ lớn của trung bình, đường đen là độ lớn của độ lệch chuẩn; cả hai là căn của trung bình bình phương (rms) theo các chiều, trên thang logarit. Đường nào thay đổi nhiều hơn khi đi sâu? (Ở tầng mà các chiều là hằng số thì đường đen bỏ trống.)
"""

# %% [markdown] lang="en"
r"""
**Predict.** In the next figure the coloured line is the size of the means, the black one that of the standard deviations: root mean squares (rms) over the features, on a logarithmic scale. Which of the two changes more with depth? (Where the features of a layer are constant, the black line has a gap.)
"""

# %%
moments = {}
needs("7.2")
for part in "QKV":
    x = target_parts[part].double()  # [layer, sample, feature]
    offset = x.mean(dim=1).square().mean(dim=-1).sqrt()  # [layer]
    spread = x.var(dim=1, correction=0).mean(dim=-1).sqrt()
    moments[part] = {"offset_size": offset, "spread_size": spread.where(spread > 1e-5 * offset, torch.nan)}
    show(part, "  ", "  →  ".join(f"{relative_offset(x)[place].mean():.2f}" for place in (early, deep)))
figure = plot_depth(moments, "size_of_parts", log=True, title=f"{model.provenance} · {label('target')}")

# %% [markdown] lang="vi"
r"""
Các dòng in ra là $|\mu|/\sigma$ của một chiều điển hình, tầng nông → tầng sâu. Hình *không* cho biết từng chiều: vài chiều có độ dời rất lớn có thể chi phối rms.

## 7. Chỉ số nụ cười theo tầng

Token đối chứng gồm nhiều từ khác nhau, nên phép so sánh này chưa hoàn toàn công bằng (bài 04). Dòng in ra là $S$ của tầng ở giữa chiều sâu, gần chỗ mà tài liệu gốc đã xem.
"""

# %% [markdown] lang="en"
r"""
Printed: $|\mu|/\sigma$ of a typical feature, early → deep. The figure does *not* show single features: a few with a very large offset can rule the rms.

## 7. The smile index by layer

The control is many different words, so the comparison is not quite fair (notebook 04). The printed line is the layer halfway down, about where the source looked.
"""

# %%
smile_target, smile_control = smiles(target["cosine"]), smiles(control["cosine"])  # [layer, block]
curves = {block: {"target": smile_target[:, i], "control": smile_control[:, i]} for i, block in enumerate(BLOCKS)}
figure = plot_depth(curves, "smile_index", title=model.provenance)
half = n_layer // 2
show(label("layer"), half, *(f"{block} {s:+.2f}" for block, s in zip(BLOCKS, smile_target[half])))

# %% [markdown] lang="vi"
r"""
### Bài tập 7.3
Từ tầng nào trở đi $S$ của QQ (cosine, token đích) không còn dương nữa, *cho đến tận tầng cuối*? Gán số thứ tự của tầng ấy vào `closing_layer`; nếu tầng cuối vẫn còn dương thì đáp số là số tầng của mô hình.

*Gợi ý:* tìm tầng cuối cùng mà $S$ còn dương. `smile_target[:, 0]` là QQ.
"""

# %% [markdown] lang="en"
r"""
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

check("7.3", closing_layer, target, solution=True)
print(closing_layer)

# %% [markdown] lang="vi"
r"""
## 8. Tầng nông với tầng sâu: phán quyết

Các ngưỡng là những ngưỡng ở mục 2.
"""

# %% [markdown] lang="en"
r"""
## 8. Early against deep: the verdict

The thresholds are those of section 2.
"""

# %%
closing = smile_target[early].mean(dim=0) - smile_target[deep].mean(dim=0)  # [block]
lead = smile_target[1:] - smile_control[1:]  # [layer - 1, block]
lines = [(1, block, float(closing[i] >= 0.1), f"{closing[i]:+.2f}") for i, block in enumerate(BLOCKS)]
for number, true in ((2, lead >= 0.05), (3, centred < 0)):  # [layer - 1, block]
    shares = true.float().mean(dim=0)
    lines += [(number, b, shares[i], f"{true[:, i].sum()} / {n_layer - 1}") for i, b in enumerate(BLOCKS)]
for part, curve in moments.items():
    offset, spread = (curve[name][deep].mean() / curve[name][early].mean() for name in ("offset_size", "spread_size"))
    lines.append((4, part, float(offset >= 0.9 and spread >= 1.2), f"×{offset:.2f}  ×{spread:.2f}"))
for number, where, share, figures in lines:
    degree = "holds" if share == 1 else "partly" if share > 0.5 else "fails"
    show(f"{number}. {where:3s} {label('verdict_' + degree):13s} {figures}")

# %% [markdown] lang="vi"
r"""
Mỗi dòng: số của khẳng định, khối hoặc phần, phán quyết, con số quyết định: (1) mức giảm của $S$; (2) số tầng mà token đích hơn ít nhất 0,05; (3) số tầng có $S<0$; (4) độ dời và độ phân tán ở tầng sâu gấp mấy lần ở tầng nông.

Lấy trung bình trên một phần ba số tầng thì không thấy được điều gì đã xảy ra ở bên trong khoảng ấy: khẳng định 1 cho biết $S$ giảm bao nhiêu, không cho biết giảm *ở đâu*.

## 9. Nhạt dần hay sụt một bậc?

Q, K, V của một tầng tính từ đầu vào của nó. Vậy thay đổi từ $S_l$ đến $S_{l+1}$ là do hai bộ phận của tầng $l$, attention và **MLP** (mạng nhỏ đứng sau attention), rồi do phép chiếu (projection) ở tầng $l+1$.

**Quy tắc đặt trước.** Ở QQ, tìm tầng $l\ge1$ có $S_l-S_{l+2}$ lớn nhất. Hai tầng $l$ và $l+1$ là một **bậc sụt** nếu khẳng định 1 đúng ở QQ và riêng mức giảm ấy ít nhất bằng một nửa mức giảm trong khẳng định đó.

Hãy nhìn cả token đầu tiên của câu. Ở nhiều tầng của một mô hình đã huấn luyện, nó là **điểm hút chú ý (attention sink)**: các token sau dồn phần lớn trọng số vào nó, dù trong mô hình nhân quả nó không thấy token nào khác và không biết gì về ngữ cảnh. Khi ấy nó thường là **token khổng lồ** (bài 05): luồng dư của nó dài hơn 2,5 lần trung vị của mọi token thật ở cùng tầng. Ta tìm những token như thế theo độ dài ấy, không theo vị trí.

**Dự đoán.** Ở nơi $S$ sụt, " her" nhìn token đầu tiên nhiều hơn hay ít hơn so với ở nơi khác?
"""

# %% [markdown] lang="en"
r"""
Each line: the number of the claim, the block or part, the verdict, and the figure that decides: (1) the fall of $S$; (2) the layers at which the target leads by 0.05 or more; (3) the layers with $S<0$; (4) the deep offset and the deep spread, as multiples of the early ones.

A mean over a third of the layers averages away whatever happens inside: claim 1 says how far $S$ falls, not *where*.

## 9. A gradual fall, or a step?

Q, K and V are computed from what enters a layer. So the change from $S_l$ to $S_{l+1}$ is the work of two parts of layer $l$, its attention and its **MLP** (the small network after it), and of the projection of layer $l+1$.

**Rule, beforehand.** In QQ, find the layer $l\ge1$ with the largest $S_l-S_{l+2}$. The two layers $l$ and $l+1$ are a **step** if claim 1 holds in QQ and that fall alone is at least half of the fall in that claim.

Look at the first token too. At many layers of a trained model it is the **attention sink**: later tokens put most of their weight on it, though in a causal model it sees no other token and knows nothing of the context. It is then mostly a **massive token** (notebook 05): its residual stream is over 2.5 times as long as the median of all real tokens at that layer. We find such tokens by their length, not by their position.

**Predict.** Where $S$ falls, does " her" look at the first token more or less than elsewhere?
"""

# %%
qq = smile_target[:, 0]  # [layer]
one, two = qq[1:-1] - qq[2:], qq[1:-2] - qq[3:]  # what layer l, or l and l + 1, take away; l = 1, 2, ...
sharpest, step = 1 + int(one.argmax()), 1 + int(two.argmax())
lost = qq[step] - qq[step + 2]
is_step = bool(closing[0] >= 0.1 and lost >= closing[0] / 2)

print(say("giảm nhiều nhất qua một tầng: ", "largest fall over one layer:  "), end="")
show(f"{label('layer')} {sharpest}  {qq[sharpest]:+.2f} → {qq[sharpest + 1]:+.2f}")
print(say("giảm nhiều nhất qua hai tầng: ", "largest fall over two layers: "), end="")
share = f"  ({lost / closing[0]:.0%})" if closing[0] > 0 else ""
show(f"{label('layers')} {step}, {step + 1}  {qq[step]:+.2f} → {qq[step + 2]:+.2f}{share}")
print(say("bậc sụt:", "a step:"), label("verdict_holds" if is_step else "verdict_fails"))

# %%
lengths = torch.stack(run.hidden_states[:n_layer]).norm(dim=-1)  # [layer, sentence, token], where a layer begins
real = batch["attention_mask"].bool()
typical = lengths[:, real].median(dim=-1).values  # [layer]
massive = (lengths > 2.5 * typical[:, None, None]) & real
on_first = torch.stack([weights[rows, :, positions, 0].mean() for weights in run.attentions])  # [layer]

print(say("tầng   S (QQ)   độ dài: token đầu tiên, trung vị   khổng lồ: token đầu tiên, khác   nhìn token đầu tiên",
          "layer  S (QQ)      length: first token,   median            massive: first, other        looks at first"))  # fmt: skip
for i in range(max(step - 2, 0), min(step + 4, n_layer)):
    first, other = (int(tokens.sum()) for tokens in (massive[i, :, 0], massive[i, :, 1:]))
    show(f"{i:5d}  {qq[i]:+7.2f}  {lengths[i, :, 0].mean():24,.0f}{typical[i]:10,.0f}", end="")
    show(f"{first:27d}{other:6d}{on_first[i]:22.2f}")
away = (on_first < on_first[1:].median() / 2).nonzero().flatten().tolist()
print(
    say("nhìn token đầu tiên ít hơn nửa mức trung vị:", "first token below half of the median:"), label("layers"), away
)

# %% [markdown] lang="vi"
r"""
Trong ngoặc (nếu từ tầng nông đến tầng sâu có giảm): mức giảm qua hai tầng ấy bằng bao nhiêu phần trăm mức giảm từ tầng nông đến tầng sâu. Cột cuối là trọng số attention, trung bình qua các câu và các đầu attention (attention head). Ở những tầng khác trong danh sách cuối, $S$ thay đổi thế nào?

## 10. Cái gì làm nên bậc sụt?

Hai tầng của bậc sụt có trong danh sách ấy không? Dù có, đó mới chỉ là *đi cùng nhau*. Muốn biết nguyên nhân thì phải can thiệp (intervention). Ta **loại bỏ** đầu ra của attention tại " her" bằng cách *thay bằng trung bình* (tiếng Anh: *mean ablation*): trong mọi câu, đầu ra ấy trở thành trung bình của nó qua các câu. Phần mà attention ghi giống nhau vào mọi câu thì còn; phần khác nhau, tức ngữ cảnh, thì mất.

Hook ở bài 01 chỉ đứng xem. Hook dưới đây *trả về* một giá trị, và PyTorch lấy giá trị ấy thay cho đầu ra.
"""

# %% [markdown] lang="en"
r"""
In brackets, where there is a fall from early to deep: the fall over these two layers as a share of the fall from early to deep. The last column is the attention weight, mean over sentences and heads. What does $S$ do at the other layers of the last list?

## 10. What makes the step?

Are the two layers of the step in that list? Even so, the two merely *go together*. A cause takes an intervention. We take out the attention's output at " her" by *mean ablation*: in every sentence it becomes its mean over the sentences. What attention writes into all sentences alike stays; what differs, the context, is gone.

The hook of notebook 01 only watched. This one *returns* a value, and PyTorch uses it in place of the output.
"""


# %%
@contextmanager
def mean_ablated(modules):
    """At the target, the output of these modules becomes its mean over the sentences."""

    def hook(module, inputs, output):
        values = (output[0] if isinstance(output, tuple) else output).clone()  # [sentence, token, n_embd]
        values[rows, positions] = values[rows, positions].mean(dim=0)
        return (values, *output[1:]) if isinstance(output, tuple) else values

    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# %% [markdown] lang="vi"
r"""
**Ngưỡng đặt trước.** Ở tầng $l+2$, mỗi phép loại bỏ *trả lại* một phần của mức giảm $S_l-S_{l+2}$. Attention của hai tầng ấy là nguyên nhân nếu việc loại bỏ nó trả lại ít nhất một nửa (ở QQ), còn hai phép đối chứng thì không: loại bỏ attention ở *mọi* tầng từ 1 đến ngay trước bậc sụt, hoặc loại bỏ MLP ở chính hai tầng ấy.

**Dự đoán.** Loại bỏ attention ở hai tầng, hay ở mọi tầng trước đó: cách nào giữ được nụ cười?
"""

# %% [markdown] lang="en"
r"""
**Threshold, beforehand.** At layer $l+2$ an ablation *gives back* a share of the fall $S_l-S_{l+2}$. The attention of the two layers is the cause if its ablation gives back at least half (in QQ) and neither control does: ablating the attention of *all* layers from 1 up to the step, or the MLP of the two layers.

**Predict.** Ablating attention in two layers, or in all the layers before: which keeps the smile?
"""

# %%
attention = attention_modules(model)
mlp = [layer.mlp for layer in attention_layers(model)[step : step + 2] if hasattr(layer, "mlp")]
tests = {  # what is ablated: (first layer, modules)
    f"attention, {label('layers')} {step}, {step + 1}": (step, attention[step : step + 2]),
    f"attention, {label('layers')} 1–{step - 1}": (1, attention[1:step]),
    f"MLP, {label('layers')} {step}, {step + 1}": (step, mlp),
}
smile_after = {}
for name, (_, modules) in tests.items():
    if not modules:
        print(f"{name}: {say('không có, bỏ qua', 'there is none, left out')}")
        continue
    with mean_ablated(modules):
        qkv = capture_qkv(model, batch, layers=range(step + 3), positions=positions)
    smile_after[name] = smiles(block_histograms(qkv.joined(), sizes, measures="cosine")["cosine"])  # [layer, block]

# %%
given_back = {}
for name, smile in smile_after.items():
    fall = smile_target[step] - smile_target[step + 2]  # [block]
    share = (smile[step + 2] - smile_target[step + 2]) / fall.where(fall > 0, torch.nan)  # nothing to give back: NaN
    given_back[name] = float(share[0])
    figures = (f"{block} {share[i]:4.0%}" for i, block in enumerate(("QQ", "KK", "VV")) if fall[i] > 0)
    print(f"{name:26s}", "   ".join(figures))
main, *controls = given_back.values()
is_cause = is_step and main >= 0.5 > max(controls, default=0)
print(say("attention của bậc sụt là nguyên nhân:", "the attention of the step is the cause:"), end=" ")
print(label("verdict_holds" if is_cause else "verdict_fails"))
panels = {name: {"mean_ablated": smile[:, 0], "unedited": qq[: len(smile)]} for name, smile in smile_after.items()}
figure = plot_depth(panels, "smile_index", title=f"{model.provenance} · QQ")

# %% [markdown] lang="vi"
r"""
Mỗi dòng: phần được trả lại ở QQ, KK và VV (khối nào có $S$ giảm); số âm nghĩa là $S$ còn thấp hơn so với khi không can thiệp. Ở hình con giữa, điều gì xảy ra tại bậc sụt?

Hình này *không* cho biết vì sao attention của hai tầng ấy lại nhìn chỗ khác: độ dài luồng dư của token đầu tiên mới chỉ thay đổi cùng lúc, ta chưa can thiệp vào nó. Và đây là *một* bộ câu, *một* từ, *một* mô hình. (Với GPT-2 XL, hãy chạy bài này khi có kết nối tới Hub, với `QKV_MODEL=openai-community/gpt2-xl`.)
"""

# %% [markdown] lang="en"
r"""
Each line: the share given back in QQ, KK and VV (where $S$ falls); negative where $S$ is lower than without the edit. What happens at the step in the middle panel?

The figure does *not* say why the attention of these layers looks elsewhere: the length of the first token's residual stream merely goes with it and was not edited. And this is *one* set of sentences, *one* word, *one* model. (For GPT-2 XL run this notebook with the Hub, with `QKV_MODEL=openai-community/gpt2-xl`.)
"""

# %%
for name, smile in smile_after.items():  # sanity check: an edit changes nothing up to its own first layer
    untouched = slice(0, tests[name][0] + 1)
    assert torch.allclose(smile[untouched], smile_target[untouched], atol=0.01), name
print("✓")

# %% [markdown] lang="vi"
r"""
## Tự kiểm tra
1. Vì sao bỏ tầng 0 khi tính trung bình của tầng nông?
2. Tỉ số $|\mu|/\sigma$ giảm một nửa. Kể hai nguyên nhân có thể có, và cách phân biệt.
3. Loại bỏ attention ở hai tầng thì nụ cười còn. Vì sao vẫn cần hai phép đối chứng?

<details><summary>Trả lời ngắn</summary>

1. Chưa có ngữ cảnh. Với RoPE, token đích ở đó là hằng số trên mọi câu: $S=1$ do cách dựng; đưa vào sẽ thổi phồng trung bình của tầng nông. Với vị trí cộng vào embedding, chỉ vị trí tạo ra khác biệt.
2. Trung bình giảm, hoặc độ lệch chuẩn tăng. Vẽ riêng hai thứ, như ở mục 6.
3. Thay một đầu ra bằng trung bình là bỏ đi một phần khác biệt giữa các câu, nên thay ở đâu cũng có thể giữ lại nụ cười. Chỉ khi cùng phép sửa ấy ở chỗ khác không có tác dụng như vậy thì mới quy được tác dụng ấy cho *hai tầng này* và cho *attention*.
</details>

## Tóm tắt
- Trên SmolLM2-135M (mô hình của kết quả lưu sẵn), nụ cười khép lại theo chiều sâu ở mọi khối. Độ dời của từ hầu như không nhỏ đi (khẳng định 4, mục 8): độ phân tán quanh nó tăng lên.
- Nó không nhạt dần đều: phần lớn mức giảm nằm ở một bậc sụt gồm hai tầng liền nhau, nơi " her" ít nhìn token đầu tiên (mục 9).
- Nguyên nhân của bậc sụt là attention của chính hai tầng ấy, nơi ngữ cảnh đi vào: loại bỏ nó thì phần lớn nụ cười trở lại. Loại bỏ attention ở các tầng trước đó, hay MLP ở hai tầng ấy, thì không được như vậy (mục 10).
- “Trừ trung bình thì nụ cười mất” và “token đích cười rõ hơn token đối chứng” đúng ở gần hết các tầng, không phải ở *mọi* tầng (khẳng định 2 và 3).

## Tài liệu
Ba bài báo đầu nói về cosine giữa các *vector token* (các hàng), không phải giữa các chiều (các cột) như ở đây.
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 ([arXiv:1909.00512](https://arxiv.org/abs/1909.00512)): biểu diễn của cùng một từ khác nhau nhiều hơn ở tầng sâu.
- W. Timkey và M. van Schijndel, *All Bark and No Bite*, EMNLP 2021 ([arXiv:2109.04404](https://arxiv.org/abs/2109.04404)): vài chiều chi phối cosine.
- N. Godey, É. de la Clergerie và B. Sagot, *Anisotropy Is Inherent to Self-Attention in Transformers*, EACL 2024 ([arXiv:2401.12143](https://arxiv.org/abs/2401.12143)).
- M. Sun và cộng sự, *Massive Activations in Large Language Models*, 2024 ([arXiv:2402.17762](https://arxiv.org/abs/2402.17762)): vài giá trị kích hoạt khổng lồ, thường ở token đầu tiên.
- X. Gu và cộng sự, *When Attention Sink Emerges in Language Models: An Empirical View*, ICLR 2025 ([arXiv:2410.10781](https://arxiv.org/abs/2410.10781)): khi nào và vì sao attention dồn vào token đầu tiên.
"""

# %% [markdown] lang="en"
r"""
## Check yourself
1. Why is layer 0 left out of the mean over the early layers?
2. $|\mu|/\sigma$ falls by half. Name two possible causes, and how to tell them apart.
3. With the attention of two layers ablated, the smile stays. Why are the two controls needed all the same?

<details><summary>Short answers</summary>

1. There is no context yet. With rotary positions the target is constant over all sentences: $S=1$ by construction, which would inflate the early mean. With positions added to the embedding, position alone speaks.
2. The mean shrinks, or the standard deviation grows. Draw the two apart, as in section 6.
3. Putting the mean in the place of an output takes away some of what differs between the sentences, so it might keep a smile anywhere. Only if the same edit elsewhere does not do as much can the effect be put down to *these two layers* and to *attention*.
</details>

## Summary
- On SmolLM2-135M (the model of the stored outputs) the smile closes with depth in every block. The word's offset hardly shrinks (claim 4, section 8): the spread around it grows.
- It does not fade evenly: most of the fall is a step of two layers, at which " her" looks little at the first token (section 9).
- The cause of the step is the attention of these very layers, where context comes in: ablated, most of the smile is back. Ablating the attention of the layers before, or the MLP of these two, does not do that (section 10).
- "Without the mean no smile" and "the target smiles more than the control" hold at nearly all layers, not at *every* layer (claims 2 and 3).

## References
The first three are about cosines between *token vectors* (rows), not between features (columns) as here.
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 ([arXiv:1909.00512](https://arxiv.org/abs/1909.00512)): representations of one word differ more at deeper layers.
- W. Timkey and M. van Schijndel, *All Bark and No Bite*, EMNLP 2021 ([arXiv:2109.04404](https://arxiv.org/abs/2109.04404)): a few dimensions rule the cosine.
- N. Godey, É. de la Clergerie and B. Sagot, *Anisotropy Is Inherent to Self-Attention in Transformers*, EACL 2024 ([arXiv:2401.12143](https://arxiv.org/abs/2401.12143)).
- M. Sun et al., *Massive Activations in Large Language Models*, 2024 ([arXiv:2402.17762](https://arxiv.org/abs/2402.17762)): a few massive activations, mostly at the first token.
- X. Gu et al., *When Attention Sink Emerges in Language Models: An Empirical View*, ICLR 2025 ([arXiv:2410.10781](https://arxiv.org/abs/2410.10781)): when and why attention goes to the first token.
"""
