# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] lang="vi"
r"""
# 08 · Từng đầu attention

**Câu hỏi.** Cho đến nay, ta gộp chung mọi đầu attention (head) của một tầng (layer). Mỗi đầu có hình nụ cười (smile) riêng không, và phép gộp đã che giấu điều gì?

**Sau bài này, bạn có thể**
- cắt Q, K, V thành từng đầu, kể cả khi nhiều đầu Q dùng chung một đầu K (grouped-query attention, GQA);
- đếm xem bao nhiêu cặp của khối gộp thật sự nằm trong cùng một đầu;
- phân biệt “các đầu khác nhau” với “mỗi nhóm chỉ có ít chiều” bằng những nhóm ngẫu nhiên, xét mọi tầng cùng lúc;
- ghi khoảng tin cậy (confidence interval) tính bằng jackknife (bỏ từng mẫu) cạnh mỗi con số.

**Thời gian:** khoảng 60 phút đọc và làm bài tập; máy tính chạy khoảng 15 giây. **Cần biết trước:** bài 01 đến 07.
"""

# %% [markdown] lang="en"
r"""
# 08 · Head by head

**Question.** So far all attention heads of a layer were pooled. Has each head a smile of its own, and what did pooling hide?

**Afterwards you can**
- cut Q, K and V into heads, also where several query heads share one key head (grouped-query attention, GQA);
- count how many pairs of a pooled block really lie within one head;
- tell "the heads differ" from "each group has few features" with groups drawn at random, over all layers at once;
- put a jackknife confidence interval beside each number.

**Time:** about 60 minutes of reading and exercises; the computer runs for about 15 seconds. **You need:** notebooks 01 to 07.
"""

# %% tags=["setup"]
# the build puts setup_cell.py here
from helpers import set_language

set_language("vi")

# %%
import math

import torch
from scipy import stats

from helpers import (
    BLOCKS,
    block_histograms,
    capture_qkv,
    cosine_similarity,
    encode,
    find_token,
    jackknife,
    label,
    load_model,
    load_sentences,
    pearson_correlation,
    say,
    show,
    smile_index,
    token_id_of,
)
from helpers.experiments.interventions import rotary_half
from helpers.teaching.checks import check, needs
from helpers.teaching.plots import plot_depth, plot_head_maps, plot_heads

# %% [markdown] lang="vi"
r"""
## 1. Cắt thành từng đầu

Đầu thứ $h$ của Q là `d_head` chiều (feature) liền nhau. Có bao nhiêu đầu thì đọc được từ kích thước: số chiều chia cho `d_head`. Khi K và V hẹp hơn Q, mỗi đầu K phục vụ vài đầu Q *liền nhau* (bài 01 đã kiểm chứng điều này bằng cách tính lại attention).

**Dự đoán.** Mô hình của bạn có mấy đầu Q, mấy đầu K?
"""

# %% [markdown] lang="en"
r"""
## 1. Cutting into heads

Head $h$ of Q is a run of `d_head` features. How many heads there are follows from the shapes: features divided by `d_head`. Where K and V are narrower than Q, each key head serves several *neighbouring* query heads (notebook 01 checked it by recomputing the attention).

**Predict.** How many query heads and how many key heads has your model?
"""

# %%
model, tokenizer = load_model()
batch = encode(tokenizer, load_sentences("her"))
positions = find_token(batch, token_id_of(tokenizer, " her"))
target_qkv = capture_qkv(model, batch, positions=positions)

d_head, n_layer = target_qkv.d_head, len(target_qkv.layers)
n_query, n_key = (target_qkv.heads(part).shape[-2] for part in "QK")
group = n_query // n_key  # query heads per key head
print(model.provenance)
print(tuple(target_qkv.heads("Q").shape), tuple(target_qkv.heads("K").shape))
for head in range(n_key):
    print(f"K, V {head}  ←  Q {list(range(head * group, (head + 1) * group))}")

# %% [markdown] lang="vi"
r"""
### Bài tập 8.1
Viết `by_head(q, k, v, d_head)`: nhận q, k, v kích thước `[..., sample, feature]` (mỗi câu một mẫu; K và V có thể hẹp hơn), trả về `[..., head, sample, 3 * d_head]`: với mỗi đầu Q, các chiều của nó, rồi của đầu K và đầu V đi cùng nó.

*Gợi ý:* `unflatten(-1, (-1, d_head))` cắt trục cuối, `transpose` đưa trục của các đầu (head) lên trước trục mẫu, và bảng ở trên cho biết phải lặp lại các đầu K theo thứ tự nào.
"""

# %% [markdown] lang="en"
r"""
### Exercise 8.1
Write `by_head(q, k, v, d_head)`: take q, k, v of shape `[..., sample, feature]` (one sample per sentence; K and V may be narrower), return `[..., head, sample, 3 * d_head]`: for each query head its features, then those of the key head and the value head that go with it.

*Hint:* `unflatten(-1, (-1, d_head))` cuts the last axis, `transpose` brings the head axis before the samples, and the table above says in which order key heads must be repeated.
"""


# %% tags=["exercise"]
def by_head(q, k, v, d_head):
    return ...


check("8.1", by_head)


# %% tags=["solution"]
# @title Lời giải 8.1 · Solution 8.1
def by_head(q, k, v, d_head):
    q, k, v = (part.unflatten(-1, (-1, d_head)).transpose(-3, -2) for part in (q, k, v))  # [..., head, sample, d_head]
    times = q.shape[-3] // k.shape[-3]
    k, v = (part.repeat_interleave(times, dim=-3) for part in (k, v))
    return torch.cat([q, k, v], dim=-1)


check("8.1", by_head, solution=True)

# %% [markdown] lang="vi"
r"""
Trục của các đầu attention đứng trước trục mẫu, nên `block_histograms` tính mọi đầu của mọi tầng trong một lệnh.

Khi nhiều đầu Q cùng nhóm dùng chung đầu K và V, các khối KK, VV và KV của chúng giống hệt nhau *do cách dựng*. Nhiều bản sao không phải là nhiều bằng chứng độc lập, nên mỗi đầu K chỉ được tính một lần: `step` bên dưới bỏ các bản sao. (Mô hình có số đầu K bằng số đầu Q, như GPT-2, thì không có bản sao nào.)
"""

# %% [markdown] lang="en"
r"""
The heads come before the samples, so `block_histograms` does all heads of all layers in one call.

Where the query heads of a group share their key and value head, their KK, VV and KV are the same *by construction*. That is not several pieces of evidence; each key head counts once: `step` below leaves the copies out. (A model with as many key heads as query heads, such as GPT-2, has no copies.)
"""

# %%
needs("8.1")
x_target = by_head(target_qkv.q, target_qkv.k, target_qkv.v, d_head)  # [layer, head, sample, 3 * d_head]
sizes = (d_head, d_head, d_head)
heads = block_histograms(x_target, sizes)
pooled = block_histograms(target_qkv.joined(), target_qkv.sizes)

step = {block: 1 if "Q" in block else group for block in BLOCKS}
smile = {block: smile_index(h)[:, :: step[block]] for block, h in heads["cosine"].items()}  # [layer, head]
print(tuple(x_target.shape))
print({block: tuple(values.shape) for block, values in smile.items()})

# %% [markdown] lang="vi"
r"""
## 2. Khối gộp gồm những cặp nào?

**Dự đoán.** Bao nhiêu phần trăm các cặp của khối QQ gộp nằm *trong cùng một đầu*?

### Bài tập 8.2
Viết `share_within(n_head, d_head)`: tỉ lệ cặp của khối QQ gộp mà cả hai chiều thuộc cùng một đầu (mỗi cặp đếm một lần, không tính một chiều với chính nó).

*Gợi ý:* một đầu có bao nhiêu cặp? Cả khối có bao nhiêu cặp?
"""

# %% [markdown] lang="en"
r"""
## 2. Which pairs make up a pooled block?

**Predict.** What share of the pairs in the pooled block QQ lies *within one head*?

### Exercise 8.2
Write `share_within(n_head, d_head)`: the share of the pairs of the pooled block QQ whose two features belong to the same head (each pair once, no feature with itself).

*Hint:* how many pairs has one head? How many the whole block?
"""


# %% tags=["exercise"]
def share_within(n_head, d_head):
    return ...


check("8.2", share_within)


# %% tags=["solution"]
# @title Lời giải 8.2 · Solution 8.2
def share_within(n_head, d_head):
    return n_head * math.comb(d_head, 2) / math.comb(n_head * d_head, 2)


check("8.2", share_within, solution=True)
print(f"QQ {share_within(n_query, d_head):.0%}   KK {share_within(n_key, d_head):.0%}   ({math.comb(d_head, 2)})")

# %% [markdown] lang="vi"
r"""
Trong ngoặc là số cặp của một đầu. Vậy biểu đồ tần suất (histogram) gộp *không* phải là trung bình của biểu đồ các đầu: phần lớn các cặp của nó nối hai đầu attention khác nhau, còn tích vô hướng của attention không bao giờ ghép hai đầu như thế.

Các cặp *giữa* các đầu có cười khác các cặp *trong* đầu không? Lấy số đếm của khối gộp trừ đi số đếm của mọi đầu là ra số đếm của các cặp giữa các đầu. **Ngưỡng đặt trước:** coi là khác nhau ở một tầng nếu hai chỉ số $S$ cách nhau hơn 0,05. Tầng 0 để riêng (bài 04).
"""

# %% [markdown] lang="en"
r"""
In brackets: the pairs of one head. So the pooled histogram is *not* the mean of the heads' histograms: most of its pairs join two different heads, which the dot product of attention never does.

Do the pairs *across* heads smile unlike those *within*? The counts of the pooled block minus those of all heads are the counts across. **Threshold, beforehand:** they differ at a layer if their indices $S$ are more than 0.05 apart. Layer 0 stands aside (notebook 04).
"""


# %%
def index_of(counts, edges):
    middle = (edges[1:] + edges[:-1]).abs() / 2  # [bins]
    return (counts[..., middle > 0.8].sum(-1) - counts[..., middle < 0.2].sum(-1)) / counts.sum(-1)


needs("8.1")
for block in ("QQ", "KK", "VV"):
    within = heads["cosine"][block].counts[:, :: step[block]].sum(dim=1)  # [layer, bins]
    across = pooled["cosine"][block].counts - within
    edges = pooled["cosine"].edges
    gap = (index_of(within, edges) - index_of(across, edges))[1:]  # [layer - 1]
    differ = int((gap.abs() > 0.05).sum())
    print(f"{block}  {say('khác nhau ở', 'differ at')} {differ} / {n_layer - 1} {label('layers')}", end="   ")
    show(f"{say('lệch nhiều nhất', 'largest gap')} {gap[gap.abs().argmax()]:+.2f}")

# %% [markdown] lang="vi"
r"""
Nếu gần như không có tầng nào mà hai chỉ số $S$ ấy khác nhau, thì xét theo *cosine*, ranh giới giữa các đầu hầu như không thấy được: độ dời trung bình (mean offset) của từ, tức trung bình của mỗi chiều qua các lần xuất hiện của " her", làm nên cosine của hai chiều, dù chúng cùng đầu hay khác đầu. Điều đó *không* có nghĩa là mọi đầu giống nhau: $S$ của từng đầu có thể khác nhau mà trung bình của $S$ qua các đầu vẫn như thế.

## 3. Bản đồ nhiệt: $S$ theo đầu và theo tầng

**Dự đoán.** Trong một tầng, các đầu có cùng màu không? Đầu số 3 của tầng này có liên quan gì đến đầu số 3 của tầng sau không?
"""

# %% [markdown] lang="en"
r"""
If they differ at almost no layer, then for the *cosine* the borders between heads are all but invisible: the word's offset, the mean of each feature over the occurrences of " her", makes the cosine of two features, be they of one head or of two. That does *not* mean that all heads are alike: heads may differ in $S$ and the mean of $S$ over the heads be the same.

## 3. Heat map: $S$ by head and layer

**Predict.** Have the heads of one layer the same colour? Has head 3 of one layer anything to do with head 3 of the next?
"""

# %%
needs("8.1")
figure = plot_head_maps(
    {block: smile[block] for block in ("QQ", "QK", "KK", "VV")}, "smile_index", title=model.provenance
)

# %% [markdown] lang="vi"
r"""
Mỗi cột điểm ảnh là một tầng. Ở hai hình con (panel) bên phải, mỗi đầu K và V chỉ xuất hiện một lần. Số thứ tự của đầu không có ý nghĩa từ tầng này sang tầng khác: một hàng ngang không phải là diễn biến của cùng một đầu.

Hình này *không* cho biết sự khác nhau giữa các đầu có lớn hơn mức ngẫu nhiên hay không. Một đầu chỉ có vài chục chiều: chọn bừa chừng ấy chiều thì $S$ cũng dao động.

## 4. Các đầu khác nhau thật, hay chỉ vì có ít chiều?

Cần một mức nền (baseline) dành riêng cho câu hỏi này: xáo trộn (shuffle) thứ tự các chiều *trong* Q, trong K, trong V, rồi cắt thành các nhóm cùng kích thước. Mọi con số vẫn là của mô hình; chỉ ranh giới giữa các đầu là bịa ra. Ta cắt như thế 19 lần. Nếu ranh giới không có ý nghĩa gì thì ở *một* tầng, các đầu thật vượt cả 19 lần với xác suất 1/20. Nhưng ta xem nhiều tầng: cứ 20 tầng lại có chừng một tầng như thế do may rủi.

**Quy tắc đặt trước.** Các đầu thật *thắng* ở một tầng nếu độ lệch chuẩn (standard deviation) của $S$ giữa các đầu lớn hơn độ lệch chuẩn ấy của *mọi* lần cắt. Trên toàn mô hình, các đầu “khác nhau thật” nếu chúng thắng ở nhiều tầng (không kể tầng 0) đến mức riêng may rủi chỉ làm được như thế với xác suất dưới 5%, tính theo phân phối nhị thức (mỗi tầng 1/20, coi các tầng là độc lập). Xét riêng khối QQ, với cosine và với hệ số tương quan (correlation coefficient).

Ở mô hình có bước xoay (rotary step), cắt tùy ý như vậy còn xé rời những cặp chiều được quay cùng nhau. Vì thế có thêm cách cắt thứ hai: mỗi chiều giữ nguyên chỗ *bên trong đầu* và không rời chiều còn lại của cặp (nếu có), chỉ đổi từ đầu này sang đầu khác.

**Dự đoán:** phép đo nào nhìn thấy ranh giới giữa các đầu rõ hơn?
"""

# %% [markdown] lang="en"
r"""
Each column of pixels is a layer. In the two panels on the right each key and value head appears once. The number of a head means nothing from one layer to the next: a row is no curve.

The figure does *not* say whether the heads differ by more than chance. A head has a few dozen features: $S$ of as many features picked blindly varies too.

## 4. Do heads really differ, or do they just have few features?

This needs its own baseline: shuffle the order of the features *within* Q, within K and within V, then cut into groups of the same size. All numbers are still the model's; only the borders between heads are made up. We cut 19 times. If borders meant nothing, the real heads would beat all 19 with probability 1/20 at *one* layer. But we look at many layers: about one in 20 would do so by chance.

**Rule, beforehand.** The real heads *win* at a layer if the standard deviation of $S$ over the heads is larger than that of *every* cut. For the whole model the heads "really differ" if they win at so many layers (layer 0 aside) that chance gives as many with a probability below 5%, by the binomial distribution (1/20 a layer, layers taken as independent). For the block QQ, with the cosine and with the correlation.

In a model with a rotary step such blind cuts also tear apart the pairs of features that turn together. Hence a second kind of cut: each feature keeps its place *within the head* and its partner, if it has one, and only changes from one head to another.

**Predict:** which measure sees the borders between heads more clearly?
"""

# %%
n_cut, generator, half = 19, torch.Generator().manual_seed(0), rotary_half(model, d_head)


def random_groups(part, keep_place=False):
    """Q, K or V with its features dealt out to made-up heads."""
    n_head = part.shape[-1] // d_head
    order = torch.randperm(part.shape[-1], generator=generator)
    if keep_place:
        source = torch.rand(n_head, d_head, generator=generator).argsort(dim=0)  # of each place: from which head
        source[:, half : 2 * half] = source[:, :half]  # place j and its rotary partner j + half come from one head
        order = (source * d_head + torch.arange(d_head)).flatten()
    return part[..., order]


def smile_within(q, measure):
    """S of the pairs within each head: q `[layer, sample, feature]` -> `[layer, head]`."""
    q = q.unflatten(-1, (-1, d_head)).transpose(-3, -2)  # [layer, head, sample, d_head]
    similarity = cosine_similarity(q) if measure == "cosine" else pearson_correlation(q)
    i, j = torch.triu_indices(d_head, d_head, offset=1)
    s = similarity[..., i, j].abs()  # [layer, head, pair]
    return (s > 0.8).double().mean(dim=-1) - (s < 0.2).double().mean(dim=-1)


# %%
cuts = {}  # {kind of cut: {measure: [cut, layer, head]}}
needs("8.1")
for kind, keep_place in ((say("cắt tùy ý", "blind cuts"), False), (say("giữ chỗ trong đầu", "places kept"), True)):
    groups = [random_groups(target_qkv.q, keep_place) for _ in range(n_cut)]
    cuts[kind] = {measure: torch.stack([smile_within(q, measure) for q in groups]) for measure in heads}
print({kind: tuple(smiles_of["cosine"].shape) for kind, smiles_of in cuts.items()})

# %%
most = int(stats.binom.ppf(0.95, n_layer - 1, 1 / (n_cut + 1)))  # chance gives more with a probability below 5%
mean = (n_layer - 1) / (n_cut + 1)
show(say(f"riêng may rủi: trung bình {mean:.1f} tầng, ít nhất 95% trường hợp không quá {most}",
          f"chance alone: {mean:.1f} layers in the mean, at most {most} in at least 95% of the cases"))  # fmt: skip
curves = {}
needs("8.1")
for kind, smiles_of in cuts.items():
    for measure in heads:
        real = smile_within(target_qkv.q, measure).std(dim=-1)  # [layer]
        made_up = smiles_of[measure].std(dim=-1)  # [cut, layer]
        beaten = int((real > made_up.amax(dim=0))[1:].sum())
        verdict = label("verdict_holds" if beaten > most else "verdict_fails")
        ratio = (real / made_up.mean(dim=0))[1:].median()
        show(f"{kind:18s}{label(measure):26s}{verdict:6s}{beaten:3d} / {n_layer - 1} {label('layers')}   ×{ratio:.1f}")
        rest = {"random_groups_mean": made_up.mean(dim=0), "random_groups": made_up.amax(dim=0)}
        curves.setdefault(measure, {"real_heads": real, **rest})  # the figure shows the blind cuts
figure = plot_depth(curves, "spread_over_heads", title=f"{model.provenance} · QQ")

# %% [markdown] lang="vi"
r"""
Kích thước ở trên là `[lần cắt, tầng, đầu]`. Dòng đầu cho biết nếu chỉ do may rủi thì thắng ở bao nhiêu tầng. Mỗi dòng sau gồm: phán quyết; số tầng mà các đầu thật vượt cả 19 lần cắt; và tỉ số, lấy trung vị (median) qua các tầng, giữa độ lệch chuẩn của các đầu thật và độ lệch chuẩn của các nhóm ngẫu nhiên, lấy trung bình qua 19 lần cắt. Phán quyết chỉ cho biết *có* khác hay không; khác *nhiều hay ít* thì phải xem các con số.

Đường màu là các đầu thật, đường đen là trung bình của các nhóm ngẫu nhiên, đường nét đứt là độ lệch chuẩn lớn nhất trong 19 lần cắt, lấy riêng ở từng tầng (hình chỉ vẽ cách cắt tùy ý). Khoảng cách từ 0 đến đường đen là phần dao động mà cách chia nhóm *ngẫu nhiên*, tính trung bình, cũng đã có. Hình này *không* cho biết đầu nào làm việc gì.

## 5. Phép gộp đã che điều gì: một tầng, từng đầu

Ta lấy tầng ở một phần mười chiều sâu, như ở bài 04. Mỗi điểm là một đầu, với khoảng tin cậy jackknife 95% (bỏ lần lượt từng câu); đường nét đứt là giá trị gộp; dải xám là 90% ở giữa của các nhóm ngẫu nhiên. Khoảng jackknife cho biết $S$ của đầu ấy thay đổi bao nhiêu nếu chọn *câu* khác, dải xám cho biết nó thay đổi bao nhiêu nếu chọn *chiều* khác.

**Dự đoán.** Có bao nhiêu khoảng tin cậy không chứa giá trị gộp, bao nhiêu điểm nằm ngoài dải xám?
"""

# %% [markdown] lang="en"
r"""
The shapes are `[cut, layer, head]`. Then: at how many layers chance alone would win. Each line after it: the verdict; the layers at which the real heads beat all 19 cuts; and the ratio, median over the layers, of the real heads' standard deviation to that of the random groups, its mean over the 19 cuts. The verdict only says *that* they differ; the figures say *by how much*.

The coloured line is the real heads, the black one the mean of the random groups, the dashed one the largest standard deviation of the 19 cuts, at each layer (blind cuts only). From 0 up to the black line is variation that a *random* grouping has in the mean. The figure does *not* say which head does what.

## 5. What pooling hid: one layer, head by head

We take the layer at a tenth of the depth, as in notebook 04. Each dot is a head, with the 95% jackknife interval over the sentences; the dashed line is the pooled value; the grey band is the middle 90% of the random groups. The interval says how far $S$ of that head would move with other *sentences*, the band how far with other *features*.

**Predict.** How many intervals miss the pooled value? How many dots lie outside the grey band?
"""

# %%
layer = max(1, n_layer // 10)
needs("8.1")


def all_smiles(x):  # [head, sample, 3 * d_head] -> [block, head]
    histograms = block_histograms(x, sizes, measures="cosine")["cosine"]
    return torch.stack([smile_index(histograms[block]) for block in BLOCKS])


every = jackknife(x_target[layer], all_smiles)
intervals = {
    block: type(every)(*(part[i, :: step[block]] for part in every))
    for i, block in enumerate(BLOCKS)
    if block in ("QQ", "KK", "QK")
}
pooled_smile = {block: float(smile_index(pooled["cosine"][block])[layer]) for block in intervals}
for block, interval in intervals.items():
    values = interval.estimate
    show(
        f"{block}  {label('pooled')} {pooled_smile[block]:+.2f}   {label('head_mean')} {values.mean():+.2f}   "
        f"{say('từ', 'from')} {values.min():+.2f} {say('đến', 'to')} {values.max():+.2f}   "
        f"± {interval.standard_error.mean():.2f}"
    )

# %%
needs("8.1")
off = (smile_index(pooled["cosine"]["QQ"]) - smile["QQ"].mean(dim=-1))[1:].abs()  # [layer - 1]
show(f"QQ  |{label('pooled')} − {label('head_mean')}| ≤ {off.max():.2f}  ({n_layer - 1} {label('layers')})")
parts = [part[layer] for part in (target_qkv.q, target_qkv.k, target_qkv.v)]
blind = torch.stack([by_head(*map(random_groups, parts), d_head) for _ in range(n_cut)])  # [cut, head, sample, ...]
blind = block_histograms(blind, sizes, measures="cosine")["cosine"]
bands = {block: smile_index(blind[block])[:, :: step[block]].flatten() for block in intervals}
figure = plot_heads(intervals, pooled_smile, bands, title=f"{model.provenance} · {label('layer')} {layer}")

# %% [markdown] lang="vi"
r"""
Số sau ± là sai số chuẩn (standard error) jackknife, trung bình theo các đầu. Giá trị gộp gần bằng trung bình của các đầu (dòng cuối: ở mọi tầng từ 1 trở đi), nên *một mình nó* không cho thấy các đầu tản rộng đến đâu.

Hình này *không* phải là một loạt phép kiểm định: các khoảng chưa được hiệu chỉnh theo số đầu được xét, các đầu đều tính trên cùng một bộ câu, và giá trị gộp cũng chứa chính đầu đang xét. Một điểm nằm trong dải xám, dù khoảng jackknife của nó không chạm đường gộp, chỉ cho biết rằng những chiều *ấy* khác trung bình; một nhóm chọn bừa cũng thường khác như thế. Cũng đừng vội giải thích vì sao đầu này cười rõ nhất, đầu kia cười kém nhất: hai cực trị của nhiều đầu thì bao giờ cũng khác nhau, kể cả với nhóm ngẫu nhiên.

$S$ cũng không nói gì về việc một đầu có ích hay không: muốn biết phải can thiệp (intervention) vào chính đầu ấy, điều mà học phần này không làm. Bài 09 can thiệp vào độ dời, không tách riêng từng đầu.

### Bài tập 8.3
Gán vào `heads_outside` danh sách số thứ tự của các đầu Q mà khoảng jackknife của $S$ ở khối QQ *không chứa* giá trị gộp, tại tầng này.

*Gợi ý:* `intervals["QQ"].low` và `.high` là hai mảng, mỗi mảng có một số cho mỗi đầu.
"""

# %% [markdown] lang="en"
r"""
The number after ± is the jackknife standard error, its mean over the heads. The pooled value is close to the mean of the heads (last line: at every layer from 1 on), so *by itself* it does not show how widely they scatter.

The figure is *no* series of tests: the intervals are not corrected for the number of heads looked at, the heads share the same sentences, and the pooled value contains the very head it is compared with. A dot within the grey band whose interval misses the pooled line only says that *those* features differ from the mean; a group picked blindly often does so too. Nor should you explain the most and the least smiling head: the extremes of many heads always differ, of random groups too.

And $S$ says nothing about whether a head is of use: that takes an intervention on that very head, which this course does not make. Notebook 09 intervenes on the offset, not on single heads.

### Exercise 8.3
Put into `heads_outside` the list of the numbers of the query heads whose jackknife interval of $S$ in the block QQ does *not contain* the pooled value, at this layer.

*Hint:* `intervals["QQ"].low` and `.high` have one number for each head.
"""

# %% tags=["exercise"]
needs("8.1")
heads_outside = ...

check("8.3", heads_outside, intervals["QQ"], pooled_smile["QQ"])

# %% tags=["solution"]
# @title Lời giải 8.3 · Solution 8.3
needs("8.1")
qq = intervals["QQ"]
outside = (qq.low > pooled_smile["QQ"]) | (qq.high < pooled_smile["QQ"])  # [head]
heads_outside = outside.nonzero().flatten().tolist()

check("8.3", heads_outside, intervals["QQ"], pooled_smile["QQ"], solution=True)
low, high = bands["QQ"].quantile(0.05), bands["QQ"].quantile(0.95)
beyond = ((qq.estimate < low) | (qq.estimate > high)).nonzero().flatten().tolist()
print(heads_outside, say("ngoài dải xám:", "outside the grey band:"), beyond)

# %%
needs("8.1")
for block in ("KK", "VV", "KV"):  # sanity check: heads that share a key head are copies, and no pair is lost
    counts = heads["cosine"][block].counts.unflatten(1, (n_key, group))  # [layer, key head, copy, bins]
    assert (counts == counts[:, :, :1]).all(), block
for part in "QKV":
    assert torch.equal(target_qkv.heads(part).flatten(-2), getattr(target_qkv, part.lower())), part
assert torch.equal(
    index_of(heads["cosine"]["QQ"].counts, edges).double().round(decimals=4), smile["QQ"].round(decimals=4)
)
print("✓")

# %% [markdown] lang="vi"
r"""
## Tự kiểm tra
1. Trong GQA, ba đầu Q dùng chung một đầu K. Vì sao không được đếm KK của chúng ba lần?
2. Vì sao biểu đồ gộp không phải là trung bình của các biểu đồ từng đầu?
3. Khoảng jackknife của một đầu không chứa giá trị gộp, nhưng điểm của nó nằm trong dải xám. Bạn kết luận gì?
4. Ở một tầng, các đầu thật vượt cả 19 lần cắt. Đó đã là bằng chứng chưa? Còn nếu vượt ở một nửa số tầng?

<details><summary>Trả lời ngắn</summary>

1. Đó là cùng một đầu K, cùng những con số; đếm ba lần là làm cho bằng chứng trông nhiều gấp ba.
2. Phần lớn các cặp của khối gộp nối hai đầu attention khác nhau và không nằm trong biểu đồ của đầu nào.
3. Chọn câu khác thì đầu ấy vẫn khác giá trị gộp; nhưng một nhóm chiều chọn bừa cũng thường khác như vậy, nên chưa phải bằng chứng về *ranh giới giữa các đầu*.
4. Nếu ranh giới không có ý nghĩa, 20 cách chia (một thật, 19 bịa) có vai trò như nhau, nên ở mỗi tầng cách thật đứng đầu với xác suất 1/20. Xem hàng chục tầng thì một hai tầng như thế là chuyện thường; một nửa số tầng thì may rủi hầu như không bao giờ cho ra.
</details>

## Tóm tắt
- Cắt thành từng đầu là đổi kích thước, không tính thêm gì; với GQA, phải biết đầu nào đi với đầu nào, và không đếm bản sao.
- Trên SmolLM2-135M (mô hình của kết quả lưu sẵn), các cặp trong một đầu và các cặp giữa hai đầu cười gần như nhau; giá trị gộp gần bằng trung bình của các đầu nhưng che độ phân tán (spread) của chúng.
- Một phần đáng kể của độ phân tán ấy là do mỗi đầu có ít chiều: hãy so với nhóm ngẫu nhiên trước khi nói “đầu này đặc biệt”. Cũng trên mô hình ấy, phần còn lại là thật: các đầu thật thắng ở nhiều tầng hơn hẳn mức may rủi, với cả hai phép đo và cả hai cách cắt (mục 4).

## Tài liệu
- J. Ainslie và cộng sự, *GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints*, 2023 ([arXiv:2305.13245](https://arxiv.org/abs/2305.13245)).
- P. Michel, O. Levy và G. Neubig, *Are Sixteen Heads Really Better than One?*, NeurIPS 2019 ([arXiv:1905.10650](https://arxiv.org/abs/1905.10650)).
- E. Voita và cộng sự, *Analyzing Multi-Head Self-Attention: Specialized Heads Do the Heavy Lifting, the Rest Can Be Pruned*, ACL 2019 ([arXiv:1905.09418](https://arxiv.org/abs/1905.09418)).
- B. Efron và C. Stein, *The Jackknife Estimate of Variance*, Annals of Statistics 9(3), 1981.
"""

# %% [markdown] lang="en"
r"""
## Check yourself
1. In GQA three query heads share a key head. Why must their KK not be counted three times?
2. Why is the pooled histogram not the mean of the heads' histograms?
3. A head's jackknife interval misses the pooled value, but its dot lies in the grey band. What do you conclude?
4. At one layer the real heads beat all 19 cuts. Is that evidence? And if they do so at half of the layers?

<details><summary>Short answers</summary>

1. It is one key head, the same numbers; counting it three times makes it look like three times the evidence.
2. Most pairs of the pooled block join two different heads and are in no head's histogram.
3. With other sentences that head would still differ from the pooled value; but a group of features picked blindly often does too, so it is no evidence about the *borders between heads*.
4. If borders mean nothing, the 20 groupings (one real, 19 made up) are on a par, so at each layer the real one is the largest with probability 1/20. Among dozens of layers one or two of that kind are nothing unusual; half of the layers is what chance hardly ever gives.
</details>

## Summary
- Cutting into heads is a change of shape and computes nothing new; with GQA one must know which heads belong together, and count no copies.
- On SmolLM2-135M (the model of the stored outputs) pairs within a head and pairs across heads smile nearly alike; the pooled value is close to the mean of the heads but hides their scatter.
- A considerable part of that scatter comes from the few features of each head: compare with random groups before calling a head special. On the same model the rest is real: the heads win at far more layers than chance gives, with both measures and both kinds of cut (section 4).

## References
- J. Ainslie et al., *GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints*, 2023 ([arXiv:2305.13245](https://arxiv.org/abs/2305.13245)).
- P. Michel, O. Levy and G. Neubig, *Are Sixteen Heads Really Better than One?*, NeurIPS 2019 ([arXiv:1905.10650](https://arxiv.org/abs/1905.10650)).
- E. Voita et al., *Analyzing Multi-Head Self-Attention: Specialized Heads Do the Heavy Lifting, the Rest Can Be Pruned*, ACL 2019 ([arXiv:1905.09418](https://arxiv.org/abs/1905.09418)).
- B. Efron and C. Stein, *The Jackknife Estimate of Variance*, Annals of Statistics 9(3), 1981.
"""
