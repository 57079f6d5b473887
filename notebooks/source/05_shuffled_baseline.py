# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] lang="vi"
r"""
# 05 · Mức nền: nụ cười đến từ đâu?

**Câu hỏi.** Bài 04 dùng mức nền (baseline) của tài liệu gốc: xáo trộn (shuffle) *mọi* phần tử, và được một hình chuông. Nhưng phép xáo trộn ấy phá nhiều thứ cùng lúc. Trung bình của từng chiều, hay sự ghép cặp giữa các chiều: thứ nào làm nên hình nụ cười (smile)?

**Sau bài này, bạn có thể**
- chọn mức nền phân biệt được trung bình với sự ghép cặp;
- làm nụ cười của cosine hiện ra cả ở tương quan, chỉ bằng cách đổi dấu vector của cả câu;
- cho biết phân phối theo giả thuyết không (null) rộng bao nhiêu với $n$ câu, và tránh cái bẫy $n$ nhỏ;
- nhận định thận trọng về các phép đối chứng (từ khác, dấu chấm, mô hình chưa huấn luyện), và nhận ra khi nào các mẫu thật ra thuộc hai nhóm.

**Thời gian:** khoảng 60 phút đọc và làm bài tập; máy tính chạy khoảng 20 giây. **Cần biết trước:** bài 02 và 04.
"""

# %% [markdown] lang="en"
r"""
# 05 · Baselines: where does the smile come from?

**Question.** Notebook 04 used the source's baseline: shuffle *all* entries, and get a bell. But that shuffle destroys several things at once. The mean of each feature, or the pairing between features: which of the two makes the smile?

**Afterwards you can**
- choose a baseline that can tell the mean from the pairing;
- make the smile of the cosine appear in the correlation too, by nothing but flipping the sign of whole sentences;
- say how wide the null distribution is for $n$ sentences, and avoid the trap of small $n$;
- read controls with care (other words, the full stop, an untrained model), and notice when the samples are really two groups.

**Time:** about 60 minutes of reading and exercises; the computer runs for about 20 seconds. **You need:** notebooks 02 and 04.
"""

# %% tags=["setup"]
# the build puts setup_cell.py here
from helpers import set_language

set_language("vi")

# %%
import copy

import torch

from helpers import (
    block_histograms,
    capture_qkv,
    control_positions,
    cosine_similarity,
    encode,
    find_token,
    label,
    load_model,
    load_sentences,
    null_shares,
    say,
    show,
    shuffle_entries,
    shuffle_within_features,
    smile_index,
    token_id_of,
    wasserstein_distance,
)
from helpers.capture import attention_layers
from helpers.teaching.checks import check
from helpers.teaching.plots import plot_conditions
from helpers.teaching.widgets import small_n_explorer

# %% [markdown] lang="vi"
r"""
## 1. Ba cách phá một bảng số

Bốn mẫu (hàng), hai chiều, mỗi chiều có một độ dời trung bình (mean offset) riêng. **Dự đoán:** sau mỗi phép biến đổi, trung bình của từng cột còn giữ nguyên không? Hai giá trị trong một hàng còn đi với nhau không?
"""

# %% [markdown] lang="en"
r"""
## 1. Three ways to break a table

Four samples (rows), two features, each with a mean offset of its own. **Predict:** after each change, are the column means what they were? Does a row still hold together?
"""

# %%
toy = torch.tensor([[11.0, -21.0], [12.0, -22.0], [13.0, -23.0], [14.0, -24.0]])  # [sample, feature]
generator = torch.Generator().manual_seed(1)
signs = torch.tensor([[1.0], [-1.0], [-1.0], [1.0]])  # [sample, 1]

for x in (toy, shuffle_entries(toy, generator), shuffle_within_features(toy, generator), toy * signs):
    show([[int(value) for value in row] for row in x], label("mean"), *(f"{value:+.1f}" for value in x.mean(dim=0)))

# %% [markdown] lang="vi"
r"""
Bốn dòng: bảng gốc; **xáo trộn mọi phần tử** (trung bình và ghép cặp đều mất); **xáo trộn trong từng chiều** (trung bình và phương sai giữ nguyên, ghép cặp mất); **đổi dấu vector của cả câu** (mỗi hàng là một câu: hai giá trị vẫn đi với nhau, nhưng trung bình bị phá).

## 2. Hai phép xáo trộn trên dữ liệu thật

Lấy " her" ở một tầng nông (early layer). Tiêu chuẩn đặt trước: hai biểu đồ tần suất (histogram) được coi là *như nhau* nếu khoảng cách Wasserstein-1 dưới 0,02, tức là tính bình quân, mỗi cặp chỉ phải dịch đi chưa đến bề rộng một khoảng chia (bin).

**Dự đoán.** Xáo trộn trong từng chiều: nụ cười của cosine còn hay mất? Tương quan thì sao?
"""

# %% [markdown] lang="en"
r"""
Four lines: the table; **all entries shuffled** (means and pairing both lost); **shuffled within features** (means and variances kept, pairing lost); **the sign of whole sentences flipped** (each row holds together, the means are destroyed).

## 2. Both shuffles on real data

Take " her" at an early layer. The criterion, fixed beforehand: two histograms count as *the same* if their Wasserstein-1 distance is below 0.02, that is, if a pair has to move by less than the width of one bin on average.

**Predict.** After the shuffle within features, is the smile of the cosine still there? And the correlation?
"""

# %%
model, tokenizer = load_model()
batch = encode(tokenizer, load_sentences("her"))
positions = find_token(batch, token_id_of(tokenizer, " her"))
qkv = capture_qkv(model, batch, positions=positions)
layer = max(1, len(qkv.layers) // 10)
x = qkv.joined()[layer]  # [sample, feature]: one sample per sentence
title = f"{model.provenance} · {label('layer')} {layer}"

generator = torch.Generator().manual_seed(0)
target = block_histograms(x, qkv.sizes)
entries = block_histograms(shuffle_entries(x, generator), qkv.sizes)
within = block_histograms(shuffle_within_features(x, generator), qkv.sizes)

# %%
names = ("entries_shuffled", "within_shuffled")
shown = {label("target"): target, label(names[0]): entries, label(names[1]): within}
figure = plot_conditions(shown, title=title)


# %%
def to_target(result, measure, block):
    return float(wasserstein_distance(result[measure][block], target[measure][block]))


def to_null(result, measure, block):
    histogram = result[measure][block]
    return float(wasserstein_distance(histogram, null_shares(len(x), measure, histogram.edges)))


for name, result in zip(names, (entries, within)):
    for block in ("QQ", "KK", "VV"):
        cosine = f"{label('cosine')} → {label('target')} {to_target(result, 'cosine', block):.2f}"
        correlation = f"{label('correlation')} → null {to_null(result, 'correlation', block):.2f}"
        show(f"{label(name):30s} {block}   {cosine}   {correlation}")

# %%
same_cosine = max(to_target(within, "cosine", block) for block in ("QQ", "KK", "VV")) < 0.02
null_correlation = max(to_null(within, "correlation", block) for block in ("QQ", "KK", "VV")) < 0.02
lost_by_entries = min(to_target(entries, "cosine", block) for block in ("QQ", "KK", "VV")) > 0.02
print(same_cosine, null_correlation, lost_by_entries)

# %% [markdown] lang="vi"
r"""
Sáu dòng in ra là khoảng cách Wasserstein-1: từ biểu đồ cosine đến biểu đồ gốc, rồi từ biểu đồ tương quan đến phân phối null. Ba giá trị cuối: (1) xáo trộn trong từng chiều *giữ nguyên* biểu đồ cosine; (2) nó đưa tương quan về phân phối null; (3) xáo trộn mọi phần tử làm biểu đồ cosine thay đổi. Nếu cả ba là `True` thì ở tầng này nụ cười của cosine không cần đến sự ghép cặp: nó nằm trong trung bình và phương sai của từng chiều riêng lẻ. Mức nền của tài liệu gốc không thể cho thấy điều đó. Còn ở các tầng khác?
"""

# %% [markdown] lang="en"
r"""
The six lines are Wasserstein-1 distances: from the histogram of cosines to the original one, then from that of correlations to the null. The three values: (1) the shuffle within features *keeps* the histogram of cosines; (2) it brings the correlation to the null distribution; (3) the shuffle of all entries changes the histogram of cosines. If all three are `True`, the smile of the cosine needs no pairing at this layer: it lies in the mean and variance of each feature by itself. The source's baseline could not have shown that. And at other layers?
"""

# %%
x_all = qkv.joined()[1:]  # [layer, sample, feature], without layer 0
pair = (x_all, shuffle_within_features(x_all, torch.Generator().manual_seed(0)))
original, shuffled = (block_histograms(values, qkv.sizes, measures="cosine")["cosine"] for values in pair)
for block in ("QQ", "KK", "VV"):
    distance = wasserstein_distance(shuffled[block], original[block])  # [layer]
    count = f"{int((distance < 0.02).sum())}/{len(distance)} {label('layers')}"
    farthest = f"{say('xa nhất', 'largest')} {distance.max():.4f} ({label('layer')} {1 + int(distance.argmax())})"
    show(f"{block}   {say('như nhau ở', 'the same at')} {count}   {farthest}")

# %% [markdown] lang="vi"
r"""
Chỉ ở những tầng được đếm là như nhau (tầng 0 để riêng), ta mới được nói: biểu đồ cosine *không* cho biết gì về quan hệ giữa hai chiều qua các câu. Tầng nào sát ngưỡng thì chỉ cần đổi hạt giống ngẫu nhiên là có thể rơi sang phía bên kia.

### Bài tập 5.1
Tự viết `shuffle_columns(x, generator)`: hoán vị các giá trị trong *từng cột, độc lập với các cột khác*. Trả về tensor mới; không đổi `x`.

*Gợi ý:* `torch.randperm(n, generator=generator)` cho một hoán vị; một vòng lặp qua các cột là đủ.
"""

# %% [markdown] lang="en"
r"""
Only of the layers that are counted as the same (layer 0 stands aside) may one say: the histogram of cosines tells *nothing* about the relation of two features across the sentences. A layer close to the threshold may change sides with another seed.

### Exercise 5.1
Write `shuffle_columns(x, generator)` yourself: permute the samples of *each column independently*. Return a new tensor; leave `x` as it is.

*Hint:* `torch.randperm(n, generator=generator)` gives one permutation; a loop over the columns will do.
"""


# %% tags=["exercise"]
def shuffle_columns(x, generator):
    return ...


check("5.1", shuffle_columns)


# %% tags=["solution"]
# @title Lời giải 5.1 · Solution 5.1
def shuffle_columns(x, generator):
    columns = [x[torch.randperm(len(x), generator=generator), j] for j in range(x.shape[1])]
    return torch.stack(columns, dim=1)  # [sample, feature]


check("5.1", shuffle_columns, solution=True)

# %% [markdown] lang="vi"
r"""
## 3. Đổi dấu vector của cả câu

Chọn ngẫu nhiên khoảng một nửa số câu, rồi nhân *toàn bộ* vector của mỗi câu ấy với −1. Trong mỗi tích $x_{ti}x_{tj}$, hai dấu trừ triệt tiêu nhau: **mọi cosine giữ nguyên**. Nhưng trung bình của mỗi chiều thì nay gần bằng 0.

**Dự đoán.** Tương quan bây giờ trông thế nào?
"""

# %% [markdown] lang="en"
r"""
## 3. Flip the sign of whole sentences

Multiply the *whole* vector of a sentence by −1, for about half of the sentences, chosen at random. In each product $x_{ti}x_{tj}$ the two minus signs cancel: **every cosine stays as it is**. But the mean of each feature is now near 0.

**Predict.** What does the correlation look like now?
"""

# %%
signs = torch.randint(0, 2, (len(x), 1), generator=generator).to(x) * 2 - 1  # [sample, 1]
flipped = block_histograms(x * signs, qkv.sizes)

assert torch.allclose(cosine_similarity((x * signs).double()), cosine_similarity(x.double()), rtol=0, atol=1e-12)
figure = plot_conditions({label("flipped"): flipped, label("target"): target}, title=title)

# %%
for block in ("QQ", "KK", "VV"):
    s = [float(smile_index(h[block])) for h in (target["cosine"], target["correlation"], flipped["correlation"])]
    show(f"{block}   cosine {s[0]:+.2f}   r {s[1]:+.2f}   r ± {s[2]:+.2f}")

# %% [markdown] lang="vi"
r"""
Ba cột là chỉ số nụ cười $S$: cosine; tương quan; tương quan sau khi đổi dấu. Không một tích $x_{ti}x_{tj}$ nào thay đổi, thế mà cột ba lại gần như trùng với cột một: nơi nào cosine cười, bây giờ tương quan cũng cười. Vậy khác biệt giữa hai phép đo *chỉ* là trung bình. Thứ mà cosine nhìn thấy là một trục chính đi qua gốc tọa độ; trừ trung bình (mean-centring) chỉ xóa được trục ấy khi mọi câu nằm về *cùng một phía*.

## 4. Với $n$ câu, dao động ngẫu nhiên rộng đến đâu?

Hai chiều độc lập, phân phối chuẩn, $n$ câu: hệ số tương quan (correlation coefficient) có mật độ (density) chính xác, tỉ lệ với $(1-r^2)^{(n-4)/2}$, và độ lệch chuẩn (standard deviation) $1/\sqrt{n-1}$. Hãy kiểm tra bằng mô phỏng.
"""

# %% [markdown] lang="en"
r"""
The three columns are the smile index $S$: cosine; correlation; correlation after the flip. Not one product $x_{ti}x_{tj}$ has changed, and yet the third column is nearly the first: where the cosine smiled, now the correlation does. So the difference between the two measures is the mean *and nothing else*. What the cosine sees is a main axis through the origin; subtracting the mean removes that axis only while all sentences lie on the *same side*.

## 4. How wide is chance for $n$ sentences?

Two independent, normally distributed features over $n$ sentences: the correlation has an exact density, proportional to $(1-r^2)^{(n-4)/2}$, and the standard deviation $1/\sqrt{n-1}$. Check by simulation.
"""

# %%
for n in (3, 5, 10, 54, 200):
    noise = torch.randn(n, 300, generator=generator)  # [sample, feature]
    r = block_histograms(noise, (100, 100, 100))["correlation"]["QV"]
    width = f"{label('std')} {float(r.std):.2f}   1/√(n−1) {(n - 1) ** -0.5:.2f}"
    show(f"n = {n:3d}   {width}   S {float(smile_index(r)):+.2f}")

# %% [markdown] lang="vi"
r"""
Nhìn cột $S$ ở $n=3$: **một nụ cười từ hư không**, dù dữ liệu hoàn toàn ngẫu nhiên. Kéo thanh trượt từ $n=3$ lên để xem nụ cười khép lại.
"""

# %% [markdown] lang="en"
r"""
Look at $S$ for $n=3$: **a smile out of nothing**, from purely random data. Move the slider up from $n=3$ and watch it close.
"""

# %% tags=["nbval-ignore-output"]
explorer = small_n_explorer()
explorer.widget

# %%
explorer.figure

# %% [markdown] lang="vi"
r"""
### Bài tập 5.2
Cần bao nhiêu câu để nhiễu của hệ số tương quan có độ lệch chuẩn không quá 0,05? Gán số câu nhỏ nhất vào `n_needed`.

*Gợi ý:* giải $1/\sqrt{n-1}=0{,}05$.
"""

# %% [markdown] lang="en"
r"""
### Exercise 5.2
How many sentences does it take for the noise of the correlation to have a standard deviation of at most 0.05? Put the smallest number into `n_needed`.

*Hint:* solve $1/\sqrt{n-1}=0.05$.
"""

# %% tags=["exercise"]
n_needed = ...

check("5.2", n_needed)

# %% tags=["solution"]
# @title Lời giải 5.2 · Solution 5.2
n_needed = 1 + round(1 / 0.05**2)

check("5.2", n_needed, solution=True)

# %% [markdown] lang="vi"
r"""
## 5. Nụ cười là của " her", hay của bất cứ token nào lặp lại?

So với token đối chứng (control token) của bài 04 thì không công bằng: token ấy mỗi câu một khác, còn " her" luôn là *cùng một token*. Thêm bốn phép đối chứng:

- một token **ngẫu nhiên** trong mỗi câu, khác nhau giữa các câu;
- **dấu chấm** cuối câu: cùng một token, nhưng sau những câu khác nhau;
- **" the"** từ vị trí 2 trở đi, trong cả hai bộ câu: một từ thường gặp khác;
- **" water"**: bộ câu thứ hai.

Tài liệu gốc coi nụ cười của Q và K là dấu hiệu định vị *nghĩa của token đích* (target token). **Ngưỡng, đặt trước:** cách hiểu ấy đứng vững nếu " her" cười ($S>0$ ở QQ và KK) mà không dòng nào trong ba dòng cuối cười.

**Dự đoán.** Dòng nào có $S>0$ ở QQ?
"""

# %% [markdown] lang="en"
r"""
## 5. Is it the smile of " her", or of any repeated token?

The control of notebook 04 is unfair: it changes from sentence to sentence, while " her" is always *the same token*. Four more controls:

- a **random** token of each sentence, a different one each time;
- the **full stop** at the end: the same token, after different sentences;
- **" the"** at position 2 or later, in both sets: another frequent word;
- **" water"**: the second set.

The source reads the smile of Q and K as locating the *meaning of the target*. **Threshold, beforehand:** that stands if " her" smiles ($S>0$ for QQ and KK) and none of the last three lines does.

**Predict.** Which lines have $S>0$ for QQ?
"""


# %%
def occurrences(sentences, word, earliest=2):
    """Batch and positions of a word, from the sentences that have it, first at `earliest` or later."""
    target_id = token_id_of(tokenizer, word)
    kept = [s for s in sentences if target_id in tokenizer(s)["input_ids"][earliest:]]
    kept = [s for s in kept if target_id not in tokenizer(s)["input_ids"][:earliest]]
    chosen = encode(tokenizer, kept)
    return chosen, find_token(chosen, target_id)


her, water = load_sentences("her"), load_sentences("water")
conditions = {
    '" her"': (batch, positions),
    say("token đứng trước", "token before"): (batch, control_positions(batch, positions)),
    say("token ngẫu nhiên", "random token"): (batch, control_positions(batch, positions, "random", generator)),
    say("dấu chấm", "full stop"): occurrences(her, "."),
    '" the"': occurrences(her + water, " the"),
    '" water"': occurrences(water, " water"),
}
vectors = {name: capture_qkv(model, b, layers=layer, positions=p).joined()[0] for name, (b, p) in conditions.items()}


# %%
def smiles(x):
    """S of QQ, KK, VV: for the cosine, for the correlation."""
    result = block_histograms(x, qkv.sizes)
    return [[float(smile_index(result[m][block])) for block in ("QQ", "KK", "VV")] for m in ("cosine", "correlation")]


def written(values):
    return "  ".join(f"{value:+.2f}" for value in values)


smiling = {}
for name, values in vectors.items():
    s, s_r = smiles(values)
    smiling[name] = min(s[:2]) > 0
    show(f"{name:18s} n = {len(values):3d}   cosine {written(s)}   r {written(s_r)}")
verdict = "undefined" if not smiling['" her"'] else "fails" if any(list(smiling.values())[3:]) else "holds"
claim = say("nụ cười định vị nghĩa của token đích:", "the smile locates the meaning of the target:")
print(claim, label(f"verdict_{verdict}"))

# %% [markdown] lang="vi"
r"""
Ba số đầu là $S$ của cosine ở QQ, KK, VV; ba số sau là của tương quan. Số câu ($n$) khác nhau giữa các dòng, nên đừng suy diễn gì từ những chênh lệch nhỏ. Nếu phán quyết là “sai” thì có token lặp lại khác cũng cười: nụ cười nói về *một token lặp lại*, không phải về nghĩa của " her" (dấu chấm thì có nghĩa gì mà định vị?). “Không xác định” là khi chính " her" không cười.

Bây giờ hãy nhìn ba số cuối (tương quan) ở dòng " the": $S$ có cao hơn hẳn các dòng khác, tức là biểu đồ tương quan có rộng hơn hẳn không? Nếu có thì các lần xuất hiện của " the" còn khác nhau theo một trục mà phép trừ trung bình không xóa được. Trục nào? Mỗi token có một vector đi xuyên qua mọi tầng, và mỗi tầng cộng thêm phần của mình vào đó: *luồng dư* (residual stream). Ta đo độ dài của luồng dư đi vào tầng này ở từng chữ " the". **Ngưỡng, đặt trước:** gọi là *khổng lồ* nếu độ dài ấy hơn 2,5 lần trung vị (median) tính trên mọi token của các câu ấy.

**Dự đoán.** Độ dài ấy ở các chữ " the" gần bằng nhau, hay chia thành hai nhóm?
"""

# %% [markdown] lang="en"
r"""
The first three numbers are $S$ of the cosine for QQ, KK, VV; the last three those of the correlation. The number of sentences ($n$) differs between lines, so make nothing of small differences. If the verdict is “fails”, another repeated token smiles too: the smile is about *a repeated token*, not about the meaning of " her" (what meaning is there to locate in a full stop?). It is “undefined” where " her" itself does not smile.

Now look at the last three numbers (the correlation) of " the": is $S$ much higher than on the other lines, that is, is the histogram of correlations much wider? If so, the occurrences of " the" differ along an axis that subtracting the mean does not remove. Which? Each token has one vector that runs through all layers, and each layer adds to it: the *residual stream*. We measure its length where it enters this layer, at each " the". **Threshold, beforehand:** *massive* means longer than 2.5 times the median of all tokens in those sentences.

**Predict.** Are these lengths about equal, or are there two groups?
"""

# %%
(the_batch, the_positions), lengths = conditions['" the"'], []
watched = attention_layers(model)[layer].register_forward_pre_hook(
    lambda module, inputs: lengths.append(inputs[0].norm(dim=-1).cpu())  # of what enters the layer
)
try:
    capture_qkv(model, the_batch, layers=layer)  # stops there
finally:
    watched.remove()
(length,) = lengths  # [sentence, token]
median = length[the_batch["attention_mask"].bool().cpu()].median()
ratio = length[torch.arange(len(length)), the_positions.cpu()] / median  # [sentence]
massive = ratio > 2.5

for name, group in ((say("khổng lồ", "massive"), massive), (say("bình thường", "ordinary"), ~massive)):
    shown = " ".join(f"{value:.1f}" for value in ratio[group].sort().values)
    show(f"{name} {int(group.sum())}: {shown}")

# %% [markdown] lang="vi"
r"""
Mỗi số là độ dài ở một chữ " the", lấy trung vị làm đơn vị. Nếu có hai nhóm, hãy bỏ nhóm khổng lồ đi, xem tương quan của " the" có thôi cười không. Ít câu hơn thì biểu đồ rộng hơn, nên phải so với những tập con ngẫu nhiên có *cùng số câu*, và với nhiễu thuần túy:
"""

# %% [markdown] lang="en"
r"""
Each number is the length at one " the", in units of the median. If there are two groups, leave out the massive one and see whether the correlation of " the" stops smiling. Fewer sentences make a wider histogram, so compare with random subsets of the *same size*, and with pure noise:
"""

# %%
the, ordinary = vectors['" the"'], vectors['" the"'][~massive]
n = len(ordinary)
subsets = [the[torch.randperm(len(the), generator=generator)[:n]] for _ in range(10)]
noise = torch.randn(n, sum(qkv.sizes), generator=generator)
for name, samples in (
    (say("tập con ngẫu nhiên", "random subsets"), subsets),
    (say("chỉ nhóm bình thường", "ordinary ones only"), [ordinary]),
    (say("nhiễu thuần túy", "pure noise"), [noise]),
):
    s_r = torch.tensor([smiles(sample)[1] for sample in samples]).mean(dim=0)  # QQ, KK, VV
    show(f"{name:22s} n = {n}   r {written(s_r)}")

# %% [markdown] lang="vi"
r"""
Nếu tập con ngẫu nhiên cười mà nhóm bình thường thì không, trục ấy chính là khác biệt giữa hai nhóm: hai nhóm có hai trung bình, nên trừ *một* trung bình không đủ. Ở mô hình đã huấn luyện, luồng dư dài như thế là do vài giá trị kích hoạt khổng lồ (*massive activations*; Sun và cộng sự), và token mang chúng thường là **điểm hút chú ý (attention sink)**: nhiều đầu attention (attention head) dồn trọng số vào đó (Gu và cộng sự). Hay gặp nhất là token đầu tiên của câu; ở một số mô hình còn có những từ ít nghĩa như " the".

## 6. Mô hình chưa huấn luyện

Cùng kiến trúc, trọng số ngẫu nhiên. **Dự đoán:** nụ cười có được là do kiến trúc hay do huấn luyện?
"""

# %% [markdown] lang="en"
r"""
If the random subsets smile and the ordinary ones do not, the axis is the difference between the groups: two groups have two means, and subtracting *one* is not enough. In a trained model a residual stream that long comes from a few *massive activations* (Sun et al.), and their token is mostly an **attention sink**: many heads put their weight there (Gu et al.). The first token of the text is the usual one; in some models words of little meaning such as " the" are too.

## 6. An untrained model

The same architecture, random weights. **Predict:** does the smile belong to the architecture or to the training?
"""


# %%
def untrained(seed):
    """The same architecture up to the layer we need, with fresh random weights."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layer + 1
    torch.manual_seed(seed)
    return type(model.base_model)(config).to(model.device).eval()  # no head for the next token is needed


middle = say("trung vị", "median")
for seed in range(2):
    values = capture_qkv(untrained(seed), batch, layers=layer, positions=positions).joined()[0]
    s, _ = smiles(values)
    m = values.double().mean(dim=0).abs() / values.double().std(dim=0, correction=0)  # [feature]
    show(f"{say('hạt giống', 'seed')} {seed}   S {written(s)}   {middle} |m| {float(m.median()):.2f}")

m = x.double().mean(dim=0).abs() / x.double().std(dim=0, correction=0)
show(f"{say('đã huấn luyện', 'trained')}   {middle} |m| {float(m.median()):.2f}")

# %% [markdown] lang="vi"
r"""
Kết quả này phụ thuộc vào *cách khởi tạo*: với SmolLM2-135M, ở tầng này mô hình chưa huấn luyện không cười, vì độ dời tương đối $|m|$ còn nhỏ. Với kiến trúc khác, hoặc cách khởi tạo khác, mô hình có thể cười mà chưa học gì. Vậy “huấn luyện tạo ra nụ cười” là nói quá: $|m|$ chỉ cho biết, với mô hình này và cách khởi tạo này, độ dời tương đối có lớn lên trong quá trình huấn luyện hay không.

### Bài tập 5.3
Viết `flip_sentences(x, generator)`: nhân mỗi hàng của `x` (`[sample, feature]`) với +1 hoặc −1 ngẫu nhiên, cùng một dấu cho cả hàng.

*Gợi ý:* `torch.randint(0, 2, (n, 1), generator=generator)` cho 0 và 1.
"""

# %% [markdown] lang="en"
r"""
This depends on the *initialisation*: with SmolLM2-135M, at this layer, the untrained model does not smile, because the relative offset $|m|$ is still small. Another architecture or initialisation may smile without having learned anything. So “training makes the smile” says too much: $|m|$ tells only whether, for this model and this initialisation, the relative offsets grew in training.

### Exercise 5.3
Write `flip_sentences(x, generator)`: multiply each row of `x` (`[sample, feature]`) by a random +1 or −1, one sign for the whole row.

*Hint:* `torch.randint(0, 2, (n, 1), generator=generator)` gives 0 and 1.
"""


# %% tags=["exercise"]
def flip_sentences(x, generator):
    return ...


check("5.3", flip_sentences)


# %% tags=["solution"]
# @title Lời giải 5.3 · Solution 5.3
def flip_sentences(x, generator):
    signs = torch.randint(0, 2, (len(x), 1), generator=generator) * 2 - 1  # [sample, 1]
    return x * signs


check("5.3", flip_sentences, solution=True)

# %%
shuffled = shuffle_within_features(x, generator)  # sanity check: every column keeps its values
assert torch.equal(shuffled.sort(dim=0).values, x.sort(dim=0).values)
print("✓")

# %% [markdown] lang="vi"
r"""
## Tự kiểm tra
1. Vì sao xáo trộn mọi phần tử không phân biệt được trung bình với sự ghép cặp?
2. Đổi dấu vector của cả câu giữ nguyên cosine. Nó có giữ nguyên trung bình không?
3. Có 4 câu. Biểu đồ tương quan của nhiễu thuần túy có dạng gì?
4. Một bài báo dùng 5 câu và thấy nụ cười. Bạn sẽ hỏi điều gì đầu tiên?

<details><summary>Trả lời ngắn</summary>

1. Nó phá cả hai cùng lúc nên không thể biết biểu đồ thay đổi là do mất thứ nào.
2. Không: mỗi chiều đổi dấu ở khoảng một nửa số câu nên trung bình gần 0.
3. Phẳng: mật độ tỉ lệ với $(1-r^2)^0$.
4. Phân phối null ở $n=5$ trông ra sao, và nụ cười tìm được có rõ hơn thế không.
</details>

## Tóm tắt
- Xáo trộn trong từng chiều là mức nền phân biệt được trung bình với sự ghép cặp: ở những tầng mà mục 2 đếm là như nhau, cosine giữ nguyên nụ cười, còn tương quan thì trở về phân phối null.
- Đổi dấu vector của cả câu làm nụ cười hiện ra cả ở tương quan: hai phép đo chỉ khác nhau ở trung bình.
- Luôn vẽ phân phối null của đúng $n$ ấy; với $n$ nhỏ, dữ liệu ngẫu nhiên cũng cho hình nụ cười.
- Trước khi trừ trung bình, hãy xem các mẫu có thuộc *một* nhóm không: tương quan mà cười thì có thể là hai.

## Tài liệu
- R. A. Fisher, *Frequency Distribution of the Values of the Correlation Coefficient in Samples from an Indefinitely Large Population*, Biometrika 10(4), 1915.
- B. Efron và R. J. Tibshirani, *An Introduction to the Bootstrap*, Chapman & Hall, 1993.
- W. Timkey và M. van Schijndel, *All Bark and No Bite*, EMNLP 2021 ([arXiv:2109.04404](https://arxiv.org/abs/2109.04404)): về cosine giữa vector của các token (hàng).
- M. Sun và cộng sự, *Massive Activations in Large Language Models*, 2024 ([arXiv:2402.17762](https://arxiv.org/abs/2402.17762)).
- X. Gu và cộng sự, *When Attention Sink Emerges in Language Models: An Empirical View*, ICLR 2025 ([arXiv:2410.10781](https://arxiv.org/abs/2410.10781)).
"""

# %% [markdown] lang="en"
r"""
## Check yourself
1. Why can the shuffle of all entries not tell the mean from the pairing?
2. Flipping whole sentences leaves the cosine alone. Does it leave the mean alone?
3. There are 4 sentences. Which form has the histogram of correlations of pure noise?
4. A paper uses 5 sentences and finds a smile. What do you ask first?

<details><summary>Short answers</summary>

1. It destroys both at once, so there is no telling which loss changed the histogram.
2. No: each feature changes sign in about half of the sentences, so its mean is near 0.
3. Flat: the density is proportional to $(1-r^2)^0$.
4. What the null distribution looks like at $n=5$, and whether the smile is wider than that.
</details>

## Summary
- The shuffle within features is the baseline that tells: at the layers that section 2 counts as the same the cosine keeps its smile, and the correlation falls to the null.
- Flipping whole sentences brings the smile into the correlation too: the two measures differ in the mean alone.
- Always draw the null of the very same $n$; with small $n$, random data smile too.
- Before subtracting a mean, see whether the samples are *one* group: a correlation that smiles may mean two.

## References
- R. A. Fisher, *Frequency Distribution of the Values of the Correlation Coefficient in Samples from an Indefinitely Large Population*, Biometrika 10(4), 1915.
- B. Efron and R. J. Tibshirani, *An Introduction to the Bootstrap*, Chapman & Hall, 1993.
- W. Timkey and M. van Schijndel, *All Bark and No Bite*, EMNLP 2021 ([arXiv:2109.04404](https://arxiv.org/abs/2109.04404)): on cosines between token vectors (rows).
- M. Sun et al., *Massive Activations in Large Language Models*, 2024 ([arXiv:2402.17762](https://arxiv.org/abs/2402.17762)).
- X. Gu et al., *When Attention Sink Emerges in Language Models: An Empirical View*, ICLR 2025 ([arXiv:2410.10781](https://arxiv.org/abs/2410.10781)).
"""
