# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] lang="vi"
r"""
# 06 · Độ dời trung bình: gồm những gì, từ đâu ra, và phán quyết

**Câu hỏi.** Độ dời trung bình (mean offset) làm nên nụ cười. Độ dời phải lớn đến đâu mới đủ? Trong độ dời của " her", bao nhiêu là của riêng " her", bao nhiêu là thứ mà từ nào cũng có? Với 54 câu, ta chắc chắn đến mức nào? Khẳng định nào của tài liệu gốc đứng vững?

**Sau bài này, bạn có thể**
- bớt dần độ dời và xem nụ cười khép lại;
- tách mỗi vector thành trung bình chung, phần riêng của từ và phần do ngữ cảnh;
- lần ngược độ dời về vài chiều (feature) của đầu vào;
- đưa ra khoảng tin cậy (confidence interval) bằng jackknife (bỏ từng mẫu), không bằng bootstrap (lấy mẫu lại);
- viết bảng phán quyết mà mọi con số đều do chương trình tính ra.

**Thời gian:** khoảng 62 phút đọc và làm bài tập; máy tính chạy khoảng 20 giây. **Cần biết trước:** bài 02, 04 và 05.
"""

# %% [markdown] lang="en"
r"""
# 06 · The mean offset: what it is made of, where it comes from, and the verdict

**Question.** The mean offset makes the smile. How large must it be? How much of the offset of " her" is the word's own, and how much has every word? How sure can we be with 54 sentences? Which claims of the source hold?

**Afterwards you can**
- take the offset out a little at a time and watch the smile close;
- split every vector into the common mean, the word's own part and what the context adds;
- trace the offset back to a few features of the input;
- give jackknife intervals, not bootstrap ones;
- write a table of verdicts, every number computed.

**Time:** about 62 minutes of reading and exercises; the computer runs for about 20 seconds. **You need:** notebooks 02, 04 and 05.
"""

# %% tags=["setup"]
# the build puts setup_cell.py here
from helpers import set_language

set_language("vi")

# %%
import itertools
from contextlib import ExitStack

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
    label,
    load_model,
    load_ordinary,
    load_sentences,
    null_shares,
    part_slices,
    say,
    show,
    shuffle_entries,
    smile_index,
    token_id_of,
    wasserstein_distance,
)
from helpers.capture import ADAPTERS
from helpers.experiments.edit import recorded
from helpers.experiments.interventions import massive_tokens, real_tokens
from helpers.teaching.checks import check, needs
from helpers.teaching.plots import plot_depth, plot_one_curve
from helpers.teaching.widgets import centring_explorer

# %% [markdown] lang="vi"
r"""
## 1. Trừ trung bình từng chút một

Thay vì trừ toàn bộ trung bình, ta trừ một phần: $x - a\,\mu$ với $a$ từ 0 (cosine) đến 1 (tương quan). Độ dời tương đối $m=\mu/\sigma$ trở thành $(1-a)\,m$.

**Dự đoán.** Khi bỏ một nửa độ dời ($a=0{,}5$), nụ cười khép lại một nửa, nhiều hơn hay ít hơn?

### Bài tập 6.1
Viết `partial_centre(x, a)`: trả về $x - a\,\mu$, với $\mu$ là trung bình của từng chiều trên các mẫu; `x` có kích thước `[..., sample, feature]`.

*Gợi ý:* `keepdim=True`.
"""

# %% [markdown] lang="en"
r"""
## 1. Take the mean out a little at a time

Subtract a part of the mean: $x - a\,\mu$ with $a$ from 0 (cosine) to 1 (correlation). The relative offset $m=\mu/\sigma$ becomes $(1-a)\,m$.

**Predict.** With half of the offset gone ($a=0.5$), has the smile closed by half, by more or by less?

### Exercise 6.1
Write `partial_centre(x, a)`: return $x - a\,\mu$, where $\mu$ is each feature's mean over the samples; `x` is `[..., sample, feature]`.

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


check("6.1", partial_centre, solution=True)

# %%
model, tokenizer = load_model()
batch, her = encode(tokenizer, load_sentences("her")), token_id_of(tokenizer, " her")
positions = find_token(batch, her)
n, n_layer = len(positions), len(attention_modules(model))
layer = max(1, n_layer // 10)
qkv = capture_qkv(model, batch, layers=layer, positions=positions)
sizes, x = qkv.sizes, qkv.joined()[0]  # [sample, feature]: one sample per sentence
print(model.provenance, "·", label("layer"), layer, "·", f"n = {n}")

needs("6.1")
for a in (0, 0.25, 0.5, 0.75, 0.9, 1):
    cosine = block_histograms(partial_centre(x, a), sizes, measures="cosine")["cosine"]
    show(f"a = {a:4.2f}   S ", *(f"{block} {float(smile_index(cosine[block])):+.2f}" for block in ("QQ", "KK", "VV")))

# %% tags=["nbval-ignore-output"]
explorer = centring_explorer(x, sizes, block="QQ")
explorer.widget

# %%
explorer.figure

# %% [markdown] lang="vi"
r"""
Hãy kéo thanh trượt. Nếu lúc đầu $S>0$, nó có giảm đều theo $a$ không? Trong đồng nhất thức (identity) của bài 02, độ dời có mặt dưới dạng $m/\sqrt{1+m^2}$: với độ dời rất lớn, biểu thức ấy đã bão hòa gần ±1, bỏ một nửa hầu như chưa đổi gì; với độ dời vừa phải thì đổi ngay.

## 2. Dự đoán biểu đồ chỉ từ trung bình và phương sai

Đồng nhất thức: $\cos_{ij}=a_ia_jr_{ij}+b_ib_j$ với $a_i=\sigma_i/\text{rms}_i$ (không phải $a$ của mục 1) và $b_i=\mu_i/\text{rms}_i$. Với mỗi chiều, gọi trung bình của các bình phương là **năng lượng (energy)**; $b^2$ là tỉ lệ năng lượng thuộc về độ dời. Bỏ số hạng chứa $r$ thì $\cos_{ij}\approx b_ib_j$: một dự đoán *không biết gì* về quan hệ giữa các chiều. Nó cách biểu đồ tần suất (histogram) thật bao xa (khoảng cách Wasserstein-1, W1, bài 05), còn phân phối theo giả thuyết không (null) cách bao xa?
"""

# %% [markdown] lang="en"
r"""
Move the slider. Where $S>0$ at first, does it fall evenly with $a$? In the identity of notebook 02, $m$ enters as $m/\sqrt{1+m^2}$: a very large offset is saturated near ±1, and halving it changes next to nothing; a moderate one changes at once.

## 2. Predict the histogram from means and variances alone

The identity: $\cos_{ij}=a_ia_jr_{ij}+b_ib_j$ with $a_i=\sigma_i/\text{rms}_i$ (not the $a$ of section 1) and $b_i=\mu_i/\text{rms}_i$. Call the mean of the squares the **energy** of a feature; $b^2$ is the share of it that is offset. Without the term with $r$, $\cos_{ij}\approx b_ib_j$: a prediction that knows *nothing* about relations between features. How far (Wasserstein-1 distance, W1, notebook 05) is it from the real histogram, and how far is the null distribution?
"""

# %%
b = x.double().mean(dim=0) / x.double().square().mean(dim=0).sqrt()  # [feature]
histograms = block_histograms(x, sizes)
for block in BLOCKS:
    h = histograms["cosine"][block]
    predicted = torch.histc(block_values(torch.outer(b, b), sizes, block), bins=100, min=-1, max=1)
    near = float(wasserstein_distance(h, predicted / predicted.sum()))
    far = float(wasserstein_distance(h, null_shares(n, "cosine", h.edges)))
    show(f"{block}   W1: b·b → cosine {near:.3f}   null → cosine {far:.3f}")

# %% [markdown] lang="vi"
r"""
Nếu cột đầu nhỏ hơn cột sau nhiều lần, thì chỉ cần biết từng chiều riêng lẻ dời bao xa là gần đủ để vẽ lại biểu đồ.

## 3. Độ dời gồm những gì?

Vector của một token là tổng của ba phần, $x = c + \delta_w + \varepsilon$:

- $c$, **trung bình chung (common mean)**: trung bình trên mọi token thường của văn bản;
- $\delta_w$, **phần riêng của từ (the word's own part)**: trung bình trên các lần xuất hiện của từ $w$, trừ $c$;
- $\varepsilon$, **phần do ngữ cảnh (what the context adds)**: phần còn lại, mỗi lần xuất hiện một khác.

Bài 02 đến 08 đo độ dời của một từ, tức $c+\delta_w$. Phần nào lớn hơn? Ta lấy $c$ từ những câu *khác*, không có " her", để " her" không bị so với chính nó. Ta cũng bỏ các **token khổng lồ** (bài 05), tức những token có luồng dư (residual stream) dài hơn 2,5 lần trung vị (median).

**Dự đoán.** Cosine giữa trung bình của " her" và $c$, ở Q, ở K, ở V: gần 0, gần 0,5 hay gần 1?
"""

# %% [markdown] lang="en"
r"""
Where the first column is many times smaller, the offsets of single features nearly redraw the histogram.

## 3. What is the offset made of?

The vector of a token is the sum of three parts, $x = c + \delta_w + \varepsilon$:

- $c$, the **common mean**: over all ordinary tokens of text;
- $\delta_w$, **the word's own part**: the mean over the occurrences of the word $w$, minus $c$;
- $\varepsilon$, **what the context adds**: the rest, different in every occurrence.

Notebooks 02 to 08 measure the offset of one word, $c+\delta_w$. Which part is larger? We take $c$ from *other* sentences, lest " her" be compared with itself, and without **massive tokens** (notebook 05), whose residual stream is over 2.5 times as long as the median.

**Predict.** The cosine between the mean of " her" and $c$, for Q, K and V: near 0, near 0.5 or near 1?
"""


# %%
def read(batch):
    """Q, K, V of all tokens `[layer, sentence, token, F]`; which are text and not massive `[sentence, token]`."""
    with ExitStack() as records:
        seen = [records.enter_context(recorded(model, part)) for part in "QKV"]
        ordinary = real_tokens(batch) & ~massive_tokens(model, batch)  # runs the model
    return torch.cat([torch.stack(part).cpu() for part in seen], dim=-1), ordinary


# %%
vectors, words, captures = {}, {}, {}  # of ordinary tokens, and their ids; of one token in each sentence
read_here = {"ordinary": load_ordinary()[0::4], "her": load_sentences("her"), "water": load_sentences("water")[0::2]}
for name, texts in read_here.items():
    text = encode(tokenizer, texts)
    everything, ordinary = read(text)
    vectors[name], words[name] = everything[:, ordinary], text["input_ids"][ordinary]  # [layer, sample, F], [sample]
    if name != "ordinary":
        at, rows = find_token(text, token_id_of(tokenizer, f" {name}")), torch.arange(len(everything[0]))
        captures[name] = everything[:, rows, at]  # [layer, sample, F]: one sample per sentence
        captures[f"before {name}"] = everything[:, rows, control_positions(text, at)]

c = vectors["ordinary"][layer][words["ordinary"] != her].mean(dim=0)  # [F]
mean_her = captures["her"][layer].mean(dim=0)  # [F]
for part, at in part_slices(sizes).items():
    cosine = torch.cosine_similarity(mean_her[at], c[at], dim=0)
    show(f"{part}   cos(her, c) = {cosine:.2f}   |her| / |c| = {mean_her[at].norm() / c[at].norm():.2f}")

# %% [markdown] lang="vi"
r"""
Cosine gần 1 nghĩa là độ dời của " her" phần lớn là trung bình chung. Đó là tính dị hướng (anisotropy) đã được biết từ lâu: vector của mọi *token* (các hàng) cùng ngả về một phía. Còn biểu đồ của ta so các *chiều* (các cột).

### Bài tập 6.2
Giờ hãy tách vector của mọi từ. Viết `split(x, word)`, với `x` `[sample, feature]` và `word` `[sample]`, id của token ở từng hàng. Trả về `common` `[feature]`, `own` và `context` `[sample, feature]`; ba thứ cộng lại bằng `x`. Ở đây $c$ là trung bình của chính `x`.

*Gợi ý:* với mỗi `w` trong `word.unique()`, các hàng `word == w` là những lần xuất hiện của nó.
"""

# %% [markdown] lang="en"
r"""
A cosine near 1 says that the offset of " her" is mostly the common mean. This is the long known anisotropy: the vectors of all *tokens* (rows) point to one side. Our histograms compare *features* (columns).

### Exercise 6.2
Now split every word. Write `split(x, word)`, with `x` `[sample, feature]` and `word` `[sample]`, the id of the token in each row. Return `common` `[feature]`, `own` and `context` `[sample, feature]`, which add up to `x`; here $c$ is the mean of `x` itself.

*Hint:* for each `w` in `word.unique()` the rows `word == w` are its occurrences.
"""


# %% tags=["exercise"]
def split(x, word):
    return ...


check("6.2", split)


# %% tags=["solution"]
# @title Lời giải 6.2 · Solution 6.2
def split(x, word):
    common = x.mean(dim=0)  # [feature]
    mean = torch.empty_like(x)  # of the word that stands there
    for w in word.unique():
        mean[word == w] = x[word == w].mean(dim=0)
    return common, mean - common, x - mean


check("6.2", split, solution=True)

# %% [markdown] lang="vi"
r"""
Ta tách vector của mọi từ xuất hiện ít nhất 10 lần (phần lớn là hư từ và dấu câu), sau khi chia mỗi chiều cho rms của nó để chiều nào cũng nặng như nhau. Khi ấy năng lượng chia *đúng* thành ba tỉ lệ, có tổng bằng 1.
"""

# %% [markdown] lang="en"
r"""
Split all words with 10 or more occurrences (mostly function words and punctuation), each feature divided by its rms first, so that all weigh the same. The energy then falls *exactly* into three shares.
"""


# %%
needs("6.2")


def energy_shares(z, word):
    """Common mean, word, context: shares of the energy of Q, K, V, `[part, 3]`; z `[sample, F]`."""
    common, own, context = split(z / z.square().mean(dim=0).sqrt(), word)
    shares = torch.stack([common.square(), own.square().mean(dim=0), context.square().mean(dim=0)], dim=-1)  # [F, 3]
    return torch.stack([shares[at].mean(dim=0) for at in part_slices(sizes).values()])


kinds, counts = torch.cat(list(words.values())).unique(return_counts=True)
often = {name: torch.isin(word, kinds[counts >= 10]) for name, word in words.items()}
word = torch.cat([words[name][chosen] for name, chosen in often.items()])  # [sample]
text = torch.cat([vectors[name][:, chosen] for name, chosen in often.items()], dim=1)  # [layer, sample, F]
shares = torch.stack([energy_shares(z, word) for z in text])  # [layer, part, 3]
assert ((shares.sum(dim=-1) - 1).abs() < 1e-4).all()

# %%
places = sorted({layer, max(1, n_layer // 3), max(1, n_layer // 2)})
needs("6.2")
for at in places:
    figures = (f"   {part} " + " ".join(f"{s:.2f}" for s in row) for part, row in zip("QKV", shares[at]))
    show(label("layer"), f"{at:2d}", *figures)
panels = {p: dict(zip(("part_common", "part_word", "part_context"), shares[:, i].T)) for i, p in enumerate("QKV")}
about = f"{len(word.unique())} {say('từ', 'words')}, {len(word)} {label('tokens')}"
figure = plot_depth(panels, "energy_share", title=f"{model.provenance} · {about}")

# %% [markdown] lang="vi"
r"""
Mỗi phần Q, K, V có ba số, cũng là ba đường: chung (đường có màu), từ, ngữ cảnh. Ở tầng nông (early layer), số nào của V lớn nhất? So với Q và K, V có thiếu gì không?

Tài liệu gốc giải thích: V phẳng hơn vì gom *ngữ cảnh* thay cho mã tĩnh của từ, tức phần không đổi theo câu. Nhưng phẳng hơn thì *đương nhiên* ngữ cảnh chiếm tỉ lệ lớn hơn (mục 2). Vì ngữ cảnh ở V nhiều, hay vì V thiếu $c$? Hãy bỏ $c$ khỏi cả ba rồi so lại. **Ngưỡng, đặt trước:**

- *V gom ngữ cảnh:* sau khi bỏ $c$, tỉ lệ của ngữ cảnh trong V hơn cả Q lẫn K ít nhất 0,1.
- *V thiếu trung bình chung:* tỉ lệ của $c$ trong V kém cả Q lẫn K ít nhất 0,1.

Ở đây và ở mục 7, phán quyết tính theo số tầng (layer), không kể tầng 0. **Đúng**: ít nhất 95%. **Sai**: nhiều nhất 5%. Còn lại: **đúng một phần**.
"""

# %% [markdown] lang="en"
r"""
Three figures (lines) for Q, K and V: common (coloured), word, context. At the early layers, which is the largest in V? Beside Q and K, does V lack anything?

The source explains: V is flatter because it gathers *context* instead of the static code of a word. But flatter *means* a larger share of context (section 2). Is context large in V, or is $c$ missing? Take $c$ out of all three and compare again. **Thresholds, beforehand:**

- *V gathers context:* without $c$, its share of context exceeds that of Q and K by at least 0.1.
- *V lacks the common mean:* its share of $c$ is below that of Q and K by at least 0.1.

Here and in section 7 a verdict counts layers, layer 0 apart. **Holds**: at least 95%. **Fails**: at most 5%. In between: **holds partly**.
"""


# %%
def judged(holds):
    """The word for a claim that holds at some of the layers, and their number; holds: bool `[layer - 1]`."""
    share = float(holds.double().mean())
    name = "holds" if share >= 0.95 else "fails" if share <= 0.05 else "partly"
    return f"{label(f'verdict_{name}'):14s} {int(holds.sum()):2d}/{len(holds)} {label('layers')}"


needs("6.2")
common, own, context = shares[1:].unbind(dim=-1)  # each [layer - 1, part]
rest = context / (own + context)
more, less = rest[:, 2] - rest[:, :2].amax(dim=1), common[:, :2].amin(dim=1) - common[:, 2]
print(f"{say('V gom ngữ cảnh', 'V gathers context'):26s} {judged(more >= 0.1)}")
print(f"{say('V thiếu trung bình chung', 'V lacks the common mean'):26s} {judged(less >= 0.1)}")

# %% [markdown] lang="vi"
r"""
Nếu dòng sau đúng ở nhiều tầng hơn dòng trước, thì V phẳng hơn chủ yếu vì thiếu phần chung, chứ không phải vì lấy ngữ cảnh thay cho từ.

## 4. Độ dời từ đâu ra?

Phép chiếu (projection) nhân đầu vào $h$ với ma trận $W$ và cộng bias, nếu có. Vì nó tuyến tính, độ dời *bằng đúng* $W\bar h+\text{bias}$, với $\bar h$ là trung bình của $h$ trên các câu. Ba chiều lớn nhất của $\bar h$ chiếm bao nhiêu phần trăm năng lượng của nó (với một vector: bình phương độ dài)? Bao nhiêu phần trăm độ dời của Q, của K, của V (tính bằng hình chiếu lên chính độ dời ấy) đến từ ba chiều ấy?
"""

# %% [markdown] lang="en"
r"""
If the second line is true at more layers than the first, V is flatter because it lacks what is common, not because it takes context instead of the word.

## 4. Where does the offset come from?

The projection multiplies its input $h$ by a matrix $W$ and adds a bias, if there is one. It is linear, so the offset *equals* $W\bar h+\text{bias}$, with $\bar h$ the mean of $h$ over the sentences. What share of the energy of $\bar h$ is in its three largest features? What share of the offset of Q, K and V, measured along it, comes through them?
"""

# %%
adapter, modules, inputs = ADAPTERS[model.config.model_type], attention_modules(model), {}


def project(h, at):
    """Q, K, V `[F]` of one input `[n_embd]` at a layer, bias included."""
    outputs = [modules[at].get_submodule(name)(h) for name in adapter.projections]
    return torch.cat(adapter.split(outputs[0], model.config) if adapter.split else outputs, dim=-1)


with ExitStack() as hooks:
    for at in places:
        first = modules[at].get_submodule(adapter.projections[0])
        hook = first.register_forward_hook(lambda module, args, output, at=at: inputs.update({at: args[0].clone()}))
        hooks.callback(hook.remove)
    capture_qkv(model, batch, layers=max(places), positions=positions)

# %%
for at in places:
    h = inputs[at][torch.arange(n), positions].mean(dim=0)  # [n_embd]
    offset, bias = project(h, at), project(0 * h, at)  # each [F]
    assert torch.allclose(offset.cpu(), captures["her"][at].mean(dim=0), atol=1e-3)
    top = h.abs().topk(3).indices
    along = (project(torch.zeros_like(h).index_copy(0, top, h[top]), at) - bias) * offset  # [F]
    through = (f"  {part} {along[f].sum() / offset[f].square().sum():.0%}" for part, f in part_slices(sizes).items())
    energy, size = h[top].square().sum() / h.square().sum(), bias.norm() / offset.norm()
    show(label("layer"), f"{at:2d}   {energy:.0%} →", *through, f"  bias {size:.2f}")

# %% [markdown] lang="vi"
r"""
Mỗi dòng trả lời lần lượt hai câu hỏi ấy. Cuối dòng là độ dài của bias so với độ dời; bằng 0 thì độ dời hoàn toàn do đầu vào. Nếu ba chiều trong hàng trăm chiều mà giữ phần lớn năng lượng thì đó là những chiều bất thường (*rogue dimensions*; Timkey và van Schijndel), họ hàng với giá trị kích hoạt khổng lồ (Sun và cộng sự). Độ dời của phần nào đi qua chúng ít nhất? Đó có phải là phần thiếu $c$ không?

## 5. Chắc chắn đến đâu?

Hàng trăm nghìn cặp nhưng chỉ 54 câu. Các cặp phụ thuộc nhau, nên trị số p (p-value) tính trên cặp là vô nghĩa. Ta bỏ lần lượt từng câu (**jackknife**) và xem con số dao động ra sao. Còn bootstrap thì chọn trùng câu, mà các bản sao của một câu lại giống hệt nhau. Ba số dưới đây, thử trên nhiễu thuần túy, là độ rộng của biểu đồ tương quan khi giữ đủ câu, khi bỏ một câu, và khi lấy mẫu kiểu bootstrap:
"""

# %% [markdown] lang="en"
r"""
Each line answers the two questions in turn, and ends in the length of the bias over that of the offset: at 0, all of it comes from the input. Where three features out of hundreds have most of the energy, they are *rogue dimensions* (Timkey and van Schijndel), kin to massive activations (Sun et al.). Which part's offset comes through them least: the one that lacks $c$?

## 5. How sure can we be?

Hundreds of thousands of pairs, but only 54 sentences. The pairs depend on each other, so a p-value over pairs means nothing. Leave out one sentence at a time (**jackknife**) and see how much a figure moves. A bootstrap (resampling) repeats sentences, and a repeated sentence is identical to itself. The width of the correlations of pure noise (all sentences, one left out, a bootstrap):
"""

# %%
noise = torch.randn(n, sum(sizes), generator=torch.Generator().manual_seed(0))  # [sample, feature]
again = torch.randint(0, n, (n,), generator=torch.Generator().manual_seed(0))  # the sentences that a bootstrap draws
show(*(f"{float(block_histograms(y, sizes)['correlation']['QQ'].std):.2f}" for y in (noise, noise[1:], noise[again])))


# %%
def every_smile(y):  # of the cosine, [block]
    return torch.stack([smile_index(h) for _, h in block_histograms(y, sizes, measures="cosine")["cosine"].items()])


for block, estimate, low, high in zip(BLOCKS, *jackknife(x, every_smile)[:3]):
    show(f"{block}   S = {estimate:+.2f} [{low:+.2f}, {high:+.2f}]")

# %% [markdown] lang="vi"
r"""
Trong ngoặc là khoảng tin cậy 95%. Khoảng của VV và của QQ có chồng lên nhau không?

## 6. Một con số cho cả biểu đồ

**Cosine.** Theo mục 2, $\overline{s^2}\approx\big(\overline{b^2}\big)^2$; gạch ngang là trung bình trên các cặp, hoặc trên các chiều; với khối hỗn hợp (cross block) thì lấy trung bình nhân của hai phần. Phân phối đều có $S=0$ và $\overline{s^2}=1/3$. Vậy $S>0$ khi độ dời chiếm hơn $1/\sqrt3\approx58\%$ năng lượng.

Biết $\overline{s^2}$ thì vẽ lại được cả biểu đồ không? Ta **khớp mô-men (moment fit)**: trong một họ đường cong, chọn đường có cùng $\overline{s^2}$. Thử hai họ: phân phối null, như thể chỉ có $n=1/\overline{s^2}$ câu, và $e^{\kappa s^2}$, vốn không biết gì về số câu. **Ngưỡng như bài 05:** W1 dưới 0,02.

**Tương quan.** **Cỡ mẫu hiệu dụng (effective sample size)** là $n_\text{eff}=1/\overline{r^2}+1$, vì phân phối null có phương sai $1/(n-1)$: *độ rộng* khớp theo định nghĩa, *hình dạng* thì chưa chắc.
"""

# %% [markdown] lang="en"
r"""
In brackets, 95% intervals. Does that of VV overlap with that of QQ?

## 6. One number for a whole histogram

**Cosine.** By section 2, $\overline{s^2}\approx\big(\overline{b^2}\big)^2$; the bar is the mean over pairs, or over features (for a cross block the geometric mean of its parts). A uniform distribution has $S=0$ and $\overline{s^2}=1/3$. So $S>0$ where the offset has more than $1/\sqrt3\approx58\%$ of the energy.

Does $\overline{s^2}$ redraw the histogram? In a **moment fit**, take from a family of curves the one with the same $\overline{s^2}$. We try the null, as if there were $n=1/\overline{s^2}$ sentences, and $e^{\kappa s^2}$, which knows nothing of sentences. **Threshold as in notebook 05:** W1 below 0.02.

**Correlation.** The **effective sample size** is $n_\text{eff}=1/\overline{r^2}+1$, for the null has the variance $1/(n-1)$: the *width* matches by definition, the *shape* need not.
"""


# %%
def offset_shares(y):
    """Share of the energy that is offset, of each block: {block: [layer]}; y `[layer, sample, F]`."""
    b2 = y.mean(dim=1).square() / y.square().mean(dim=1)  # [layer, F]
    of = {part: b2[:, at].mean(dim=1) for part, at in part_slices(sizes).items()}
    return {block: (of[block[0]] * of[block[1]]).sqrt() for block in BLOCKS}


smiles, bells, results = [], [], {}  # (block, its number, histogram), each for all layers but layer 0
for name, y in captures.items():
    result, share = block_histograms(y[1:], sizes), offset_shares(y[1:])
    results[name] = result
    smiles += [(block, share[block], h) for block, h in result["cosine"].items()]
    bells += [(block, effective_n(h, "correlation"), h) for block, h in result["correlation"].items()]
figure = plot_one_curve(smiles, bells, title=model.provenance)

# %%
square = torch.linspace(-0.99, 0.99, 100).double().square()  # s² in the middle of each bin
family = torch.softmax(torch.linspace(-8, 5, 4000).double().sinh()[:, None] * square, dim=-1)  # exp(κ s²), [κ, bin]
means = (family * square).sum(dim=-1)  # of s², growing with κ


def misfits(h, measure):
    """W1 from the moment fits, the null and exp(κ s²), to a histogram: `[2, layer]`."""
    wanted = h.std**2 + h.mean**2  # mean of s² [layer]
    null = torch.stack([null_shares(1 / m + (measure == "correlation"), measure, h.edges) for m in wanted])
    return torch.stack([wasserstein_distance(h, fit) for fit in (null, family[torch.searchsorted(means[:-1], wanted)])])


# %%
for measure, rows in (("cosine", smiles), ("correlation", bells)):
    smiling = torch.cat([smile_index(h) for *_, h in rows]) > 0  # [histogram]
    for name, w1 in zip(("null", "exp(κ s²)"), torch.cat([misfits(h, measure) for *_, h in rows], dim=-1)):
        fit = [(int(of.sum()), (w1[of] < 0.02).double().mean()) for of in (smiling, ~smiling)]
        passed = [f"({number}) {share:.0%}" if number else "(0) –" for number, share in fit]
        print(f"{label(measure):26s} {label(name):18s} S > 0 {passed[0]:10s} S ≤ 0 {passed[1]}")
agree = torch.cat([(share > 3**-0.5) == (smile_index(h) > 0) for _, share, h in smiles]).double().mean()
print(say(f"S > 0 ⇔ độ dời chiếm hơn 58% năng lượng: đúng với {agree:.0%} số biểu đồ", f"S > 0 ⇔ offset above 58%: true of {agree:.0%}"))

# %% [markdown] lang="vi"
r"""
Mỗi chấm là một khối ở một tầng, với một trong bốn loại token (" her", " water", và token đứng ngay trước mỗi từ ấy); tại đường nét đứt, null là phân phối đều. Các dòng in ra: (số biểu đồ) và tỉ lệ khớp, với những biểu đồ có nụ cười ($S>0$), rồi với số còn lại.

Cosine: null khớp được bao nhiêu *nụ cười*? Nếu $e^{\kappa s^2}$ khớp tốt ngang thế hoặc hơn, thì nụ cười không nói gì về “số câu”, chỉ nói độ dời chiếm bao nhiêu năng lượng. Tương quan: nếu null khớp gần hết, thì hình chuông ấy không phải là nhiễu của số câu đã đo (" her": 54, " water": 27), mà là nhiễu của $n_\text{eff}$ câu độc lập.

### Bài tập 6.3
$n_\text{eff}$ đếm gì? Chia mỗi cột trong $F$ cột của `x` `[sample, feature]` cho độ dài của nó, được $Z$; gọi $\lambda_k$ là các trị riêng của $ZZ^\top$. Nếu trung bình $\overline{s^2}$ kể cả đường chéo (và $s=r$ khi `x` đã được trừ trung bình (mean-centring)), ta có

$$F^2\,\overline{s^2}=\|Z^\top Z\|_F^2=\|ZZ^\top\|_F^2=\sum_k\lambda_k^2,\qquad F=\operatorname{tr}(ZZ^\top)=\sum_k\lambda_k.$$

Vậy $1/\overline{s^2}$ là **tỉ số tham gia (participation ratio)** $(\sum\lambda_k)^2/\sum\lambda_k^2$ của các mẫu. Viết `participation_ratio(x)`.

*Gợi ý:* vết và chuẩn Frobenius.
"""

# %% [markdown] lang="en"
r"""
Each dot is one block at one layer, for one of four kinds of token (" her", " water", and the token right before each); at the dashed line the null is uniform. Printed: (number) and share that fit, of histograms with a smile ($S>0$) and of the rest.

Cosine: how many *smiles* does the null fit? If $e^{\kappa s^2}$ fits as well or better, a smile says nothing about a “number of sentences”, only what share of the energy is offset. Correlation: if the null fits nearly all, that bell is not the noise of the sentences measured (" her": 54, " water": 27), but of $n_\text{eff}$ independent ones.

### Exercise 6.3
What does $n_\text{eff}$ count? Each of the $F$ columns of `x` `[sample, feature]` divided by its length gives $Z$; $\lambda_k$ are the eigenvalues of $ZZ^\top$. With the diagonal included (and $s=r$ if `x` is centred),

$$F^2\,\overline{s^2}=\|Z^\top Z\|_F^2=\|ZZ^\top\|_F^2=\sum_k\lambda_k^2,\qquad F=\operatorname{tr}(ZZ^\top)=\sum_k\lambda_k.$$

So $1/\overline{s^2}$ is the **participation ratio** $(\sum\lambda_k)^2/\sum\lambda_k^2$ of the samples. Write `participation_ratio(x)`.

*Hint:* trace and Frobenius norm.
"""


# %% tags=["exercise"]
def participation_ratio(x):
    return ...


check("6.3", participation_ratio)


# %% tags=["solution"]
# @title Lời giải 6.3 · Solution 6.3
def participation_ratio(x):
    z = x / x.norm(dim=0)  # [sample, feature]
    gram = z @ z.T  # [sample, sample]
    return float(gram.trace() ** 2 / gram.square().sum())


check("6.3", participation_ratio, solution=True)

# %% [markdown] lang="vi"
r"""
## 7. Bảng phán quyết

Dòng 1 đến 6 giữ ngưỡng của bài 04, nay xét ở mọi tầng. Dòng 7 kiểm tra xem độ dời có phải chỉ là nhiễu do lấy mẫu hay không: chia số câu của " her" làm hai nửa; cosine giữa trung bình của hai nửa phải trên 0,9 *và* hơn cosine giữa độ dời của " her" và của " water" ít nhất 0,05. Không có vế sau thì riêng $c$, chung cho mọi từ, cũng đủ để qua.
"""

# %% [markdown] lang="en"
r"""
## 7. The table of verdicts

Lines 1 to 6 keep the thresholds of notebook 04, now at every layer. Line 7 asks whether the offset is mere sampling noise: the means of two halves of the sentences of " her" must have a cosine above 0.9, *and* by 0.05 or more above that of the offsets of " her" and " water". Without the latter $c$ alone, common to all words, would pass.
"""

# %%
y = captures["her"][1:]  # [layer - 1, sample, F]
cosine, bell = (dict(found.items()) for found in results["her"].values())  # of section 6
s = {block: smile_index(h) for block, h in cosine.items()}  # [layer - 1], as all that follows
high = {block: h.share_above for block, h in cosine.items()}
low = torch.minimum(s["QQ"], s["KK"])
shuffled = block_histograms(shuffle_entries(y, torch.Generator().manual_seed(0)), sizes, measures="cosine")
enough = torch.maximum((high["QQ"] + high["KK"]) / 4, shuffled["cosine"]["QK"].share_above + 0.05)

centred = torch.stack([smile_index(h) for h in bell.values()]).amax(dim=0)
widest = torch.stack([h.std for h in bell.values()]).amax(dim=0) * (n - 1) ** 0.5
apart = torch.stack([wasserstein_distance(p, q) for p, q in itertools.combinations(bell.values(), 2)]).amax(dim=0)
halves = torch.cosine_similarity(y[:, 0::2].mean(dim=1), y[:, 1::2].mean(dim=1), dim=-1)
own = halves - torch.cosine_similarity(y.mean(dim=1), captures["water"][1:].mean(dim=1), dim=-1)

# %%
for claim, holds, value in (
    (say("1 nụ cười ở Q và K", "1 smile for Q and K"), low > 0, low),
    (say("2 V phẳng hơn", "2 V is flatter"), s["VV"] <= low - 0.1, s["VV"] - low),
    (say("3 Q–K cao", "3 Q–K is high"), high["QK"] >= enough, high["QK"]),
    (say("4 trừ trung bình: hết cười", "4 no smile without the mean"), centred < 0, centred),
    (say("5 phần còn lại như nhiễu", "5 the rest like noise"), widest <= 1.2, widest),
    (say("6 các khối giống nhau", "6 the blocks become alike"), apart < 0.02, apart),
    (say("7 độ dời không phải nhiễu", "7 offsets are not noise"), (halves > 0.9) & (own >= 0.05), own),
):
    show(f"{claim:28s} {judged(holds)}   {value.min():+.2f} … {value.max():+.2f}")

# %% [markdown] lang="vi"
r"""
Cột cuối là giá trị nhỏ nhất và lớn nhất, qua các tầng, của con số quyết định: (1) số nhỏ hơn trong hai chỉ số $S$ của QQ và KK; (2) $S$ của VV trừ đi số ấy; (3) tỉ lệ cặp QK có $|s|>0{,}9$; riêng (4), (5), (6) tính trên biểu đồ tương quan: (4) $S$ lớn nhất, (5) độ rộng lớn nhất chia cho độ rộng của nhiễu, $1/\sqrt{n-1}$, (6) W1 lớn nhất giữa hai khối; (7) cosine giữa hai nửa trừ cosine giữa hai từ. Dòng 3 gần như đương nhiên khi cả Q và K đều có độ dời lớn.

Khẳng định cuối của tài liệu gốc, rằng độ dời là “*mã* mà mô hình dựa vào để vận hành”, không có trong bảng: biểu đồ không thể cho biết mô hình có dùng độ dời hay không. Bài 09 sẽ hoán đổi độ dời của hai từ, rồi xét đến trung bình chung.
"""

# %% [markdown] lang="en"
r"""
The last column is the range over the layers of what decides: (1) the smaller $S$ of QQ and KK; (2) $S$ of VV minus that; (3) the share of QK pairs with $|s|>0.9$; of the correlation, (4) the largest $S$, (5) the largest width over that of noise, $1/\sqrt{n-1}$, and (6) the largest W1 between blocks; (7) the cosine of the halves minus that of the words. Line 3 is a matter of course where Q and K both have a large offset.

The source's last claim, that offsets are “the *code* that the model runs on”, is not in the table: no histogram can say whether the model uses them. Notebook 09 swaps one word's offset for another's, then turns to the common mean.
"""

# %%
needs("6.1")
full = block_histograms(partial_centre(x, 1), sizes, measures="cosine")["cosine"]["QQ"]  # sanity check
assert abs(float(smile_index(full)) - float(smile_index(histograms["correlation"]["QQ"]))) < 1e-3
print("✓")

# %% [markdown] lang="vi"
r"""
## Tự kiểm tra
1. Vì sao $S$ không giảm đều khi $a$ tăng?
2. Tỉ lệ của ngữ cảnh ở V lớn hơn ở Q và K. Vì sao điều đó chưa giải thích được việc V phẳng hơn?
3. Trong một khối, độ dời chiếm 70% năng lượng. $S$ dương hay âm?

<details><summary>Trả lời ngắn</summary>

1. $m/\sqrt{1+m^2}$ bão hòa: với $m$ lớn, giảm một nửa hầu như không đổi gì; với $m$ vừa phải thì đổi ngay.
2. Đó là hai cách nói của cùng một điều. Phần trung bình chung nhỏ hơn thì tỉ lệ ấy cũng lớn hơn; phải bỏ trung bình chung khỏi cả ba rồi mới so.
3. Dương: $\overline{s^2}\approx0{,}49>1/3$.
</details>

## Tóm tắt
- Trung bình và phương sai của từng chiều gần đủ để vẽ lại biểu đồ cosine: nó cười khi độ dời chiếm hơn khoảng 58% năng lượng.
- Vector = trung bình chung + phần riêng của từ + phần do ngữ cảnh; độ dời của một từ là hai phần đầu.
- Trên SmolLM2-135M, độ dời của Q và K phần lớn là trung bình chung, đi qua vài chiều của đầu vào. V phẳng hơn chủ yếu vì *thiếu* trung bình chung; ở hầu hết các tầng nông, phần lớn nhất của V là phần riêng của từ.
- Cũng trên mô hình ấy, hình chuông của tương quan là hình chuông của $n_\text{eff}$ câu độc lập.

## Tài liệu
Gao, Ethayarajh, Timkey và van Schijndel nói về cosine giữa vector của các *token* (hàng).

- B. Efron và C. Stein, *The Jackknife Estimate of Variance*, Annals of Statistics 9(3), 1981.
- J. Gao và cộng sự, *Representation Degeneration Problem in Training Natural Language Generation Models*, ICLR 2019 ([arXiv:1907.12009](https://arxiv.org/abs/1907.12009)).
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 ([arXiv:1909.00512](https://arxiv.org/abs/1909.00512)).
- W. Timkey và M. van Schijndel, *All Bark and No Bite*, EMNLP 2021 ([arXiv:2109.04404](https://arxiv.org/abs/2109.04404)).
- M. Sun và cộng sự, *Massive Activations in Large Language Models*, 2024 ([arXiv:2402.17762](https://arxiv.org/abs/2402.17762)).
"""

# %% [markdown] lang="en"
r"""
## Check yourself
1. Why does $S$ not fall evenly as $a$ grows?
2. Context has a larger share in V than in Q and K. Why does that not yet explain that V is flatter?
3. In a block the offset has 70% of the energy. Is $S$ positive or negative?

<details><summary>Short answers</summary>

1. $m/\sqrt{1+m^2}$ saturates: halving a large $m$ changes next to nothing, halving a moderate one does.
2. It says the same thing twice. Less of the common mean makes that share grow too; take it out of all three first.
3. Positive: $\overline{s^2}\approx0.49>1/3$.
</details>

## Summary
- Mean and variance of each feature nearly redraw the histogram of cosines: it smiles where the offset has more than 58% of the energy.
- Vector = common mean + the word's own part + what the context adds; the offset of a word is the first two.
- On SmolLM2-135M the offset of Q and K is mostly the common mean, and comes through a few features of the input. V is flatter above all because it *lacks* the common mean; at most early layers the largest part of V is the word's own.
- There the bell of the correlation is that of $n_\text{eff}$ independent sentences.

## References
Gao, Ethayarajh, Timkey and van Schijndel write of cosines between *token* vectors (rows).

- B. Efron and C. Stein, *The Jackknife Estimate of Variance*, Annals of Statistics 9(3), 1981.
- J. Gao et al., *Representation Degeneration Problem in Training Natural Language Generation Models*, ICLR 2019 ([arXiv:1907.12009](https://arxiv.org/abs/1907.12009)).
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 ([arXiv:1909.00512](https://arxiv.org/abs/1909.00512)).
- W. Timkey and M. van Schijndel, *All Bark and No Bite*, EMNLP 2021 ([arXiv:2109.04404](https://arxiv.org/abs/2109.04404)).
- M. Sun et al., *Massive Activations in Large Language Models*, 2024 ([arXiv:2402.17762](https://arxiv.org/abs/2402.17762)).
"""
