# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] lang="vi"
r"""
# 04 · Hình nụ cười của cosine

**Câu hỏi.** Tài liệu gốc của học phần (từng câu một trong `docs/source.vi.md`) xét cùng một từ trong nhiều câu và khẳng định như sau. Biểu đồ tần suất (histogram) của độ tương đồng cosine (cosine similarity) giữa các chiều có **hình nụ cười (smile)** ở Q và K (dồn về +1 và −1), phẳng hơn ở V. Ở khối Q–K, độ tương đồng cũng cao, *vì* Q và K sinh ra là để lấy tích vô hướng với nhau. Trừ trung bình (mean-centring) thì nụ cười biến mất, các khối trở nên giống nhau và trông như nhiễu. Trên một mô hình thật, điều nào đúng, và đúng đến đâu?

**Sau bài này, bạn có thể**
- tái hiện hình nụ cười ở nhiều tầng (layer), so với token đối chứng (control token) và mức nền (baseline);
- đo độ “cười” bằng một con số thay vì bằng cảm giác;
- đối chiếu từng khẳng định với ngưỡng *đặt ra trước khi bạn xem kết quả*;
- kiểm tra chính lời giải thích, không chỉ con số;
- phân biệt hai phép so: so các cột (chiều) và so các hàng (câu).

**Thời gian:** khoảng 60 phút đọc và làm bài tập; máy tính chạy khoảng 20 giây. **Cần biết trước:** bài 01 đến 03.
"""

# %% [markdown] lang="en"
r"""
# 04 · The smile of the cosine

**Question.** The source of this course (sentence by sentence in `docs/source.md`) claims: for one word in many sentences, the histogram of the cosine similarities between features has a **smile** for Q and K (mass near +1 and −1), is flatter for V; similarities in the block Q–K are high too, *because* Q and K are made for the dot product; with the mean removed, the smile is gone, the blocks become alike and look like noise. In a real model, which of these holds, and how far?

**Afterwards you can**
- reproduce the smile at several layers, beside a control token and a baseline;
- measure the smile with a number instead of a feeling;
- hold each claim against a threshold *fixed before you see the result*;
- put the explanation to the test, not only the number;
- tell the comparison of columns (features) from that of rows (sentences).

**Time:** about 60 minutes of reading and exercises; the computer runs for about 20 seconds. **You need:** notebooks 01 to 03.
"""

# %% tags=["setup"]
# the build puts setup_cell.py here
from helpers import set_language

set_language("vi")

# %%
import itertools

import torch

from helpers import (
    BLOCKS,
    block_histograms,
    capture_qkv,
    control_positions,
    cosine_similarity,
    encode,
    find_token,
    label,
    load_model,
    load_sentences,
    part_slices,
    say,
    show,
    shuffle_entries,
    token_id_of,
    wasserstein_distance,
)
from helpers.teaching.checks import check, needs
from helpers.teaching.plots import plot_blocks

# %% [markdown] lang="vi"
r"""
## 1. Thí nghiệm

Token đích (target token) là " her" trong mọi câu; **token đối chứng** (tài liệu gốc gọi là *non-target*) là token đứng ngay trước nó, hầu như mỗi câu một từ khác; **mức nền** là chính dữ liệu của " her" nhưng xáo trộn (shuffle) mọi phần tử trong ma trận của từng tầng, như trong tài liệu gốc. Cả ba đi qua cùng một hàm, cùng số câu, cùng số chiều, và không bị co giãn gì thêm.

Tài liệu gốc dùng GPT-2, với 3 × 768 = 2304 chiều. Dòng cuối in ra dưới đây cho biết các con số của lần chạy này: số tầng, số câu, tổng số chiều; rồi số chiều của Q, K, V.
"""

# %% [markdown] lang="en"
r"""
## 1. The experiment

The target token " her" in all sentences; the **control token** (a *non-target* in the source) is the one right before it, a different word in nearly every sentence; the **baseline** is the data of " her" itself with all entries of each layer's matrix shuffled, as in the source. All three go through the same function, with the same number of sentences and features, and nothing is rescaled.

The source used GPT-2, with 3 × 768 = 2304 features. The last line printed below says what they are here: layers, sentences, all features; then those of Q, K and V.
"""

# %%
model, tokenizer = load_model()
sentences = load_sentences("her")
batch = encode(tokenizer, sentences)
positions = find_token(batch, token_id_of(tokenizer, " her"))

every = capture_qkv(model, batch)  # all tokens in one pass: both the target and the control are among them
rows, x = torch.arange(len(sentences)), every.joined()  # [layer, sentence, token, feature]
x_target, x_control = x[:, rows, positions], x[:, rows, control_positions(batch, positions)]  # [layer, sample, feature]
x_baseline = shuffle_entries(x_target, torch.Generator().manual_seed(0))

n_layer, sizes = len(every.layers), every.sizes
print(model.provenance)
print(tuple(x_target.shape), sizes)

# %% [markdown] lang="vi"
r"""
Trong mô hình nhân quả (causal), một token chỉ nhìn được chính nó và các token đứng trước; phần câu *sau* " her" không ảnh hưởng gì. Vì vậy “số câu” thật sự là số đoạn đầu khác nhau tính đến " her". (Ở bộ mã hóa (encoder) như BERT, token nhìn thấy cả câu, nên “số câu” thật sự là số câu khác nhau.)
"""

# %% [markdown] lang="en"
r"""
In a causal model a token sees only itself and what comes before it; the text *after* " her" has no effect. So the real number of sentences is the number of different beginnings up to " her". (In an encoder such as BERT a token sees the whole sentence: it is the number of different sentences.)
"""

# %%
prefixes = {tuple(ids[: p + 1].tolist()) for ids, p in zip(batch["input_ids"], positions)}
before = {int(ids[p - 1]) for ids, p in zip(batch["input_ids"], positions)}
print(len(sentences), len(prefixes), len(before))

# %% [markdown] lang="vi"
r"""
Ba con số: số câu, số đoạn đầu khác nhau, số token đối chứng khác nhau.

## 2. Đo nụ cười bằng một con số

**Chỉ số nụ cười** $S = P(|s|>0{,}8) - P(|s|<0{,}2)$, với $s$ là độ tương đồng của một cặp. Nói cách khác, $S$ là tỉ lệ cặp ở hai đầu trừ đi tỉ lệ cặp ở giữa. Phân phối đều cho $S=0$; $S>0$ nghĩa là hai đầu nặng hơn phần giữa; hình chuông hẹp cho $S$ gần −1.

### Bài tập 4.1
Viết `smile_index(counts, edges)`. `counts` có kích thước `[..., bins]`, `edges` có kích thước `[bins + 1]`. Trả về $S$ với kích thước `[...]`.

*Gợi ý:* lấy điểm giữa của mỗi khoảng chia (bin); chia cho tổng số đếm.
"""

# %% [markdown] lang="en"
r"""
Three numbers: sentences, different beginnings, different control tokens.

## 2. The smile as a number

The **smile index** $S = P(|s|>0.8) - P(|s|<0.2)$, with $s$ the similarity of a pair. In words, $S$ is the share of pairs at the two ends minus the share in the middle. A uniform distribution gives $S=0$; $S>0$ means that the ends weigh more than the middle; a narrow bell gives $S$ near −1.

### Exercise 4.1
Write `smile_index(counts, edges)`. `counts` is `[..., bins]`, `edges` is `[bins + 1]`. Return $S$, `[...]`.

*Hint:* take the middle of each bin; divide by the sum of the counts.
"""


# %% tags=["exercise"]
def smile_index(counts, edges):
    return ...


check("4.1", smile_index)


# %% tags=["solution"]
# @title Lời giải 4.1 · Solution 4.1
def smile_index(counts, edges):
    middle = (edges[1:] + edges[:-1]).abs() / 2  # [bins]
    ends = counts[..., middle > 0.8].sum(-1)
    centre = counts[..., middle < 0.2].sum(-1)
    return (ends - centre) / counts.sum(-1)


check("4.1", smile_index, solution=True)

# %% [markdown] lang="vi"
r"""
## 3. Tầng 0: trường hợp đặc biệt

**Dự đoán.** Trước khi attention chạy lần đầu, vector của " her" trong câu này và câu kia khác nhau ở đâu? Khi đó cosine giữa hai chiều sẽ là bao nhiêu?
"""

# %% [markdown] lang="en"
r"""
## 3. Layer 0: a special case

**Predict.** Before attention has run even once, how does the vector of " her" differ from one sentence to the next? What will the cosine of two features be?
"""

# %%
target, control = block_histograms(x_target, sizes), block_histograms(x_control, sizes)
baseline = block_histograms(x_baseline, sizes, measures="cosine")

first = x_target[0]  # [sample, feature]
alike = (first[:, None] - first).abs().amax(-1) < 1e-4 * first.abs().max()  # [sample, sample]
n_different = int((~alike.tril(-1).any(dim=1)).sum())  # not counted: a sentence that is like an earlier one
for measure in ("cosine", "correlation"):
    qq = target[measure]["QQ"]
    outer = (qq.counts[0, 0] + qq.counts[0, -1]) / qq.n_pairs[0]
    show(
        f"{label(measure):28s} |s| > 0.98: {outer:.0%}   {label('undefined')}: {qq.n_undefined[0] / qq.n_pairs[0]:.0%}"
    )
print(say("số vector khác nhau ở tầng 0:", "different vectors at layer 0:"), n_different, "/", len(first))

# %% [markdown] lang="vi"
r"""
Đọc dòng cuối:

- **Chỉ một vector** (mô hình dùng mã hóa vị trí xoay (RoPE), như SmolLM2): Q, K, V, lấy trước khi xoay, chỉ phụ thuộc vào chính token, nên mỗi chiều là một hằng số. Cosine của hai hằng số là +1 hoặc −1, một “nụ cười” hoàn hảo; hệ số tương quan (correlation coefficient) thì không xác định và được đếm riêng.
- **Nhiều hơn** (mô hình cộng vị trí vào embedding, như GPT-2): " her" có bao nhiêu vị trí thì có bấy nhiêu vector. Tương quan tồn tại, nhưng chỉ nói về vị trí.

Dù thế nào, ở đây cũng *chưa* có chút ngữ cảnh nào. Từ nay tầng 0 được để riêng.
"""

# %% [markdown] lang="en"
r"""
Read the last line:

- **One vector** (a model with rotary positions, such as SmolLM2): Q, K and V, captured before the rotation, depend on the token alone, so each feature is a constant. The cosine of two constants is +1 or −1, a perfect “smile”; the correlation is undefined and counted apart.
- **More** (positions are added to the embedding, as in GPT-2): as many as " her" has positions. A correlation exists, but it is about position only.

Either way there is *no* context in it yet. From here on layer 0 stands aside.
"""

# %%
figure = plot_blocks(
    target["cosine"], layers=[0], control=control["cosine"], baseline=baseline["cosine"], title=model.provenance
)

# %% [markdown] lang="vi"
r"""
## 4. Nụ cười ở tầng nông và tầng giữa

Mỗi khẳng định một ngưỡng, đặt ra trước khi bạn nhìn:

1. **Nụ cười ở Q và K:** $S>0$ ở cả QQ và KK.
2. **V phẳng hơn:** $S$ của VV thấp hơn $S$ của QQ và $S$ của KK ít nhất 0,1.
3. **Q–K cao:** tỉ lệ cặp QK có $|s|>0{,}9$ ít nhất bằng một nửa trung bình của tỉ lệ tương ứng ở QQ và ở KK, và hơn tỉ lệ QK của mức nền ít nhất 0,05.
4. **Trừ trung bình thì nụ cười mất:** $S<0$ ở mọi khối khi dùng tương quan.
5. **Phần còn lại như nhiễu:** độ rộng, tức độ lệch chuẩn (standard deviation), của biểu đồ tương quan không quá 1,2 lần độ rộng của nhiễu thuần túy (với $n$ câu, nhiễu ấy rộng $1/\sqrt{n-1}$; bài 05).
6. **Các khối trở nên giống nhau:** biểu đồ tương quan của hai khối bất kỳ cách nhau dưới 0,02 (khoảng cách Wasserstein-1: tính bình quân, mỗi cặp phải dịch đi bao xa thì biểu đồ này thành biểu đồ kia).

(Tài liệu gốc gộp 5 và 6 làm một; nhưng các khối có thể giống nhau mà không phải là nhiễu.)

Ta xem ba tầng, ở một phần mười, một phần ba và một nửa chiều sâu; tài liệu gốc đã xét tầng ở một nửa chiều sâu (tầng 6 trong 12 tầng của GPT-2). **Dự đoán:** càng đi sâu, nụ cười càng mở ra hay khép lại?
"""

# %% [markdown] lang="en"
r"""
## 4. The smile at early and middle layers

A threshold for each claim, fixed before you look:

1. **A smile for Q and K:** $S>0$ for both QQ and KK.
2. **V is flatter:** $S$ of VV is lower than that of QQ and of KK by at least 0.1.
3. **Q–K is high:** the share of QK pairs with $|s|>0.9$ is at least half the mean of QQ and KK, and at least 0.05 above that of the baseline.
4. **Without the mean the smile is gone:** $S<0$ in every block for the correlation.
5. **What is left is like noise:** the histogram of correlations is at most 1.2 times as wide, in standard deviations, as pure noise: $1/\sqrt{n-1}$ for $n$ sentences (notebook 05).
6. **The blocks become alike:** the histograms of correlations of any two blocks are less than 0.02 apart (Wasserstein-1 distance: how far a pair has to move, on average, to turn one histogram into the other).

(The source makes one claim of 5 and 6; but blocks may be alike without being noise.)

Three layers: a tenth, a third and a half of the depth; half is where the source looked (layer 6 of GPT-2's 12). **Predict:** does the smile open or close with depth?
"""

# %% tags=["readme-figure"]
layers = sorted({max(1, n_layer // 10), max(1, n_layer // 3), max(1, n_layer // 2)})
figure = plot_blocks(
    target["cosine"], layers=layers, control=control["cosine"], baseline=baseline["cosine"], title=model.provenance
)

# %% [markdown] lang="vi"
r"""
Vùng màu là token đích, đường đen là token đối chứng, đường xám nét đứt là mức nền. Mọi hình con (panel) dùng chung một thang.

Đọc hình: hai đầu của vùng màu có cao hơn phần giữa không? VV có khác QQ và KK không? Token đối chứng có cùng dạng không? Hình này *không* cho biết nụ cười đến từ đâu: mức nền đã phá *cùng lúc* trung bình (và phương sai) riêng của từng chiều, và sự ghép cặp giữa các chiều. Bài 05 sẽ tách hai thứ ấy ra.

## 5. Các khối hỗn hợp (cross block)

**Dự đoán.** Trong QK, QV và KV, khối nào cười giống QQ và KK nhất? (Hình dưới đây không cho biết vì sao: xem mục 8.)
"""

# %% [markdown] lang="en"
r"""
The coloured area is the target, the black line the control token, the dashed grey line the baseline. All panels share one scale.

Read it: are the ends of the coloured area higher than the middle? Does VV differ from QQ and KK? Has the control token the same form? The figure does *not* say where the smile comes from: the baseline has destroyed *two* things at once, each feature's own mean (and variance), and the pairing between features. Notebook 05 takes the two apart.

## 5. The cross blocks

**Predict.** Which of QK, QV and KV smiles most like QQ and KK? (The figure below does not say why: see section 8.)
"""

# %%
cross = ("QK", "QV", "KV")
figure = plot_blocks(
    target["cosine"],
    blocks=cross,
    layers=layers,
    control=control["cosine"],
    baseline=baseline["cosine"],
    title=model.provenance,
)

# %% [markdown] lang="vi"
r"""
## 6. Trừ trung bình
Cùng dữ liệu, cùng các hình con, nhưng dùng hệ số tương quan. Đường chấm là phân phối theo giả thuyết không (null) ở dạng chính xác, từ đây gọi là phân phối null: mật độ (density) của hệ số tương quan giữa hai chiều *độc lập* có phân phối chuẩn, với cùng số câu.
"""

# %% [markdown] lang="en"
r"""
## 6. Remove the mean
The same data and the same panels, with the correlation. The dotted line is the exact null distribution: the density of the correlation between two *independent*, normally distributed features over the same number of sentences.
"""

# %%
figure = plot_blocks(
    target["correlation"], layers=layers, control=control["correlation"], null=True, title=model.provenance
)

# %% [markdown] lang="vi"
r"""
Có còn nụ cười nào không (khẳng định 4)? Ba khối có giống nhau không (khẳng định 6)? Và nhìn kỹ: vùng màu có *rộng hơn* đường chấm không (khẳng định 5)? Nếu có thì “chỉ là nhiễu” là nói quá: vẫn còn cấu trúc chung giữa các chiều, chỉ là không còn nằm ở trung bình.

## 7. Phán quyết bằng số
"""

# %% [markdown] lang="en"
r"""
Is there a smile left (claim 4)? Are the three blocks alike (claim 6)? And look closely: is the coloured area *wider* than the dotted line (claim 5)? If so, “nothing but noise” says too much: there is structure left that features share, only not in their means.

## 7. The verdict in numbers
"""


# %%
needs("4.1")


def smile(histograms, block, layer):
    return float(smile_index(histograms[block].counts[layer], histograms.edges))


print(f"{label('smile_index'):28s}" + "     ".join(BLOCKS))
for layer in layers:
    for name, histograms in (("target", target), ("control", control), ("baseline_short", baseline)):
        row = "  ".join(f"{smile(histograms['cosine'], block, layer):+.2f}" for block in BLOCKS)
        show(f"{label('layer')} {layer:2d}  {label(name):16s}  {row}")


# %%
r = target["correlation"]
apart = torch.stack([wasserstein_distance(r[a], r[b]) for a, b in itertools.combinations(BLOCKS, 2)]).amax(0)  # [layer]
width = torch.stack([h.std for _, h in r.items()]).amax(0) * (len(sentences) - 1) ** 0.5  # [layer]
needs("4.1")


def claims(layer):
    s = {block: smile(target["cosine"], block, layer) for block in BLOCKS}
    s_r = max(smile(r, block, layer) for block in BLOCKS)
    share = {block: float(h.share_above[layer]) for block, h in target["cosine"].items()}
    floor = float(baseline["cosine"]["QK"].share_above[layer])
    shares = "  ".join(f"{block} {share[block]:.2f}" for block in ("QK", "QQ", "KK"))
    high = share["QK"] >= max((share["QQ"] + share["KK"]) / 4, floor + 0.05)
    return [
        (min(s["QQ"], s["KK"]) > 0, f"S QQ = {s['QQ']:+.2f}  KK {s['KK']:+.2f}"),
        (s["VV"] <= min(s["QQ"], s["KK"]) - 0.1, f"S VV = {s['VV']:+.2f}  QQ {s['QQ']:+.2f}  KK {s['KK']:+.2f}"),
        (high, f"{shares}  {label('baseline_short')} {floor:.2f}"),
        (s_r < 0, f"{say('S lớn nhất', 'largest S')} = {s_r:+.2f}"),
        (width[layer] <= 1.2, f"{width[layer]:.2f}"),
        (apart[layer] < 0.02, f"{apart[layer]:.3f}"),
    ]


# %%
needs("4.1")
for number in range(6):
    for layer in layers:
        holds, figures = claims(layer)[number]
        verdict = label("verdict_holds" if holds else "verdict_fails")
        show(f"{number + 1}. {label('layer')} {layer:2d}  {verdict:6s} {figures}")
everywhere = say("mọi tầng trừ tầng 0: đúng ở", "all layers but 0: holds at")
print(f"6. {everywhere} {int((apart[1:] < 0.02).sum())}/{n_layer - 1}")

# %% [markdown] lang="vi"
r"""
Mỗi dòng: số thứ tự của khẳng định, tầng, phán quyết, con số quyết định. Ở khẳng định 5, đó là độ rộng của khối rộng nhất chia cho độ rộng của nhiễu thuần túy; ở khẳng định 6, là khoảng cách giữa hai khối xa nhau nhất, và dòng cuối đếm trên mọi tầng. Chạy trên mô hình khác thì bảng được tính lại. Khi đọc, nhớ rằng:

- **Tầng cuối trong ba tầng**, ở một nửa chiều sâu, mới ứng với tầng của tài liệu gốc. Hãy so $S$ ở đó với $S$ ở tầng nông (early layer).
- **Khẳng định 3 gần như đương nhiên.** Khi độ dời trung bình (mean offset) lớn, cosine của một cặp gần bằng tích của hai số, mỗi chiều góp một số (bài 02); QQ và KK đã cao thì QK khó mà thấp. Vậy “đúng” ở đây chưa nói gì về nguyên nhân “vì tích vô hướng”.
- **Các cặp chiều không độc lập với nhau:** hàng trăm nghìn cặp được tính từ vài chục câu. Vì thế ở đây không có trị số p (p-value); bài 06 đo độ chắc chắn bằng cách bỏ lần lượt từng câu.

### Bài tập 4.2
Nụ cười có phải là chuyện riêng của " her" không? Lặp lại với bộ câu thứ hai, `load_sentences("water")`, token đích " water". Gán vào `water` kết quả của `block_histograms` trên mọi tầng.

*Gợi ý:* bốn bước `encode`, `find_token`, `capture_qkv`, `block_histograms` của mục 1 và mục 3, với từ khác.
"""

# %% [markdown] lang="en"
r"""
Each line: the number of the claim, the layer, the verdict, the figure that decides. For claim 5 it is the width of the widest block divided by that of pure noise; for claim 6 the distance between the two blocks farthest apart, and the last line counts over all layers. On another model the table rewrites itself. Mind that:

- **The last of the three layers**, at half the depth, is the one that corresponds to the source's. Compare $S$ there with $S$ at the early layer.
- **Claim 3 is close to a matter of course.** Where the mean offsets are large, the cosine of a pair is nearly a product of two numbers, one from each feature (notebook 02); with QQ and KK high, QK can hardly be low. So “holds” says nothing yet about the cause, “because of the dot product”.
- **Pairs of features are not independent:** hundreds of thousands of them come from a few dozen sentences. Hence no p-value here; notebook 06 measures how sure we can be by leaving out one sentence at a time.

### Exercise 4.2
Is the smile peculiar to " her"? Repeat with the second set, `load_sentences("water")`, target " water". Put the result of `block_histograms` on all layers into `water`.

*Hint:* the four steps `encode`, `find_token`, `capture_qkv`, `block_histograms` of sections 1 and 3, with another word.
"""

# %% tags=["exercise"]
water = ...

check("4.2", water, model, tokenizer)

# %% tags=["solution"]
# @title Lời giải 4.2 · Solution 4.2
water_batch = encode(tokenizer, load_sentences("water"))
water_positions = find_token(water_batch, token_id_of(tokenizer, " water"))
water_qkv = capture_qkv(model, water_batch, positions=water_positions)
water = block_histograms(water_qkv.joined(), water_qkv.sizes)

check("4.2", water, model, tokenizer, solution=True)
needs("4.1")
show(*(f"{smile(water['cosine'], 'QQ', layer):+.2f}" for layer in layers))

# %% [markdown] lang="vi"
r"""
### Bài tập 4.3
Ở tầng nào (không kể tầng 0) nụ cười QQ của token đích vượt token đối chứng nhiều nhất, đo bằng hiệu của $S$? Gán số thứ tự của tầng ấy vào `widest_layer`.

*Gợi ý:* `smile_index` nhận luôn `counts` của mọi tầng.
"""

# %% [markdown] lang="en"
r"""
### Exercise 4.3
At which layer (layer 0 aside) does the QQ smile of the target exceed that of the control most, by the difference of $S$? Put the layer number into `widest_layer`.

*Hint:* `smile_index` takes the `counts` of all layers at once.
"""

# %% tags=["exercise"]
widest_layer = ...

check("4.3", widest_layer, target, control)

# %% tags=["solution"]
# @title Lời giải 4.3 · Solution 4.3
needs("4.1")
edges = target["cosine"].edges
gap = smile_index(target["cosine"]["QQ"].counts, edges) - smile_index(control["cosine"]["QQ"].counts, edges)  # [layer]
widest_layer = 1 + int(gap[1:].argmax())

check("4.3", widest_layer, target, control, solution=True)

# %% [markdown] lang="vi"
r"""
## 8. Sinh ra là để lấy tích vô hướng?

Lời giải thích ấy của tài liệu gốc có thể kiểm tra được. Trong mỗi đầu attention (attention head), tích vô hướng nhân chiều thứ $i$ của Q với chiều thứ $i$ của *đúng một* đầu K (với grouped-query attention, vài đầu Q liền nhau dùng chung một đầu K). Chiều thứ $i$ của các đầu K khác thì nó không bao giờ gặp. Nếu QK cao *vì* tích vô hướng, hai chiều **gặp nhau** phải giống nhau hơn hẳn hai chiều cùng $i$ mà **không gặp**. **Ngưỡng, đặt trước:** trung bình $|\cos|$ cao hơn ít nhất 0,1.

**Dự đoán.** Hơn bao nhiêu, và ở tầng nào thì hơn nhiều nhất?
"""

# %% [markdown] lang="en"
r"""
## 8. Made for the dot product?

The source's explanation can be tested. In each attention head the dot product multiplies feature $i$ of Q with feature $i$ of *one* key head (in grouped-query attention a few neighbouring query heads share it). Feature $i$ of the other key heads it never meets. If QK is high *because* of the dot product, pairs that **meet** must be clearly more alike than pairs of the same $i$ that **never meet**. **Threshold, beforehand:** a mean $|\cos|$ higher by at least 0.1.

**Predict.** How much higher, and at which layer most?
"""


# %%
def same_index(layer):
    """Mean |cosine| over the features i of each query head with the same i of each key head."""
    (n_q, n_k, _), d_head = sizes, every.d_head
    qk = cosine_similarity(x_target[layer])[:n_q, n_q : n_q + n_k]  # [query feature, key feature]
    qk = qk.unflatten(1, (-1, d_head)).unflatten(0, (-1, d_head))  # [query head, i, key head, j]
    return qk.diagonal(dim1=1, dim2=3).abs().mean(-1).cpu()  # [query head, key head]


for layer in (*layers, n_layer - 1):
    pairs = same_index(layer)
    own = torch.eye(pairs.shape[1]).repeat_interleave(len(pairs) // pairs.shape[1], dim=0).bool()
    meet, never = float(pairs[own].mean()), float(pairs[~own].mean())
    verdict = label("verdict_holds" if meet >= never + 0.1 else "verdict_fails")
    figures = f"{say('gặp', 'meet')} {meet:.3f}   {say('không gặp', 'never meet')} {never:.3f}"
    show(f"{label('layer')} {layer:2d}   {verdict:6s} {figures}   {meet - never:+.3f}")

# %% [markdown] lang="vi"
r"""
Tầng nào có hai số gần bằng nhau thì ở đó QK cao không phải nhờ tích vô hướng: những cặp không bao giờ gặp nhau cũng cao gần như thế. Còn hiệu ở cuối dòng có lớn dần theo chiều sâu không? QK cũng *không* cho biết token nào chú ý đến token nào: điểm số attention (attention score) nhân Q của một token với K của token *khác*, còn ở đây ta so các chiều của *cùng một* token.

## 9. So hàng thay vì so cột

Đến giờ ta so các *cột* (chiều). Phần 1 của tài liệu gốc so các *hàng*: vector của token đích trong câu này với vector của nó trong câu kia. Ba bài báo đầu ở mục Tài liệu cũng so các hàng, tức vector của các token. Vẫn hàm ấy, chỉ cần chuyển vị bảng số:
"""

# %% [markdown] lang="en"
r"""
Where the two numbers are nearly equal, QK does not owe its height to the dot product: pairs that never meet are about as high. Does the difference at the end of the line grow with depth? Nor does QK say which token attends to which: an attention score multiplies Q of one token with K of *another*, while here features of *one* token are compared.

## 9. Rows instead of columns

So far we compared *columns* (features). Part 1 of the source compares *rows*: the target's vector in one sentence with that in another. The first three papers under References compare rows too, vectors of tokens. The same function, on the transposed table:
"""

# %%
upper = torch.triu_indices(len(sentences), len(sentences), offset=1)
for layer in layers:
    for part, features in part_slices(sizes).items():
        s = cosine_similarity(x_target[layer, :, features].T)[tuple(upper)]  # [pair of sentences]
        high = (s > 0.9).double().mean()
        show(f"{label('layer')} {layer:2d}   {part}   {label('mean')} {s.mean():.2f}   > 0.9: {high:.0%}")

# %% [markdown] lang="vi"
r"""
Mỗi dòng: cosine trung bình giữa hai câu, và tỉ lệ cặp câu có cosine trên 0,9. Độ dời kéo cả hai loại cosine ra xa 0: cosine của hai hàng về phía +1, cosine của hai cột về phía +1 hoặc −1. Nhưng cosine của hai hàng có thể do vài chiều có giá trị rất lớn quyết định, còn với hai cột, chiều nào cũng được chia cho độ dài của chính nó nên nặng như nhau.
"""

# %% [markdown] lang="en"
r"""
Each line: the mean cosine of two sentences, and the share of pairs of sentences above 0.9. Offsets drive both kinds of cosine away from 0: that of two rows towards +1, that of two columns towards +1 or −1. But that of two rows can be decided by a few very large features, while with columns each feature is divided by its own length, so that all weigh the same.
"""

# %%
for block, h in target["cosine"].items():  # sanity check: every pair is counted, defined or not
    assert torch.equal(h.counts.sum(-1) + h.n_undefined, h.n_pairs), block
print("✓")

# %% [markdown] lang="vi"
r"""
## Tự kiểm tra
1. Vì sao nụ cười ở tầng 0 không nói gì về ngữ cảnh?
2. Mức nền, tức dữ liệu đã xáo trộn mọi phần tử, cho hình chuông. Từ đó có thể kết luận “nụ cười đến từ trung bình” không?
3. Token đối chứng gồm nhiều từ khác nhau. Vì sao đối chứng như thế là chưa công bằng?
4. Khối QK cao. Vì sao điều đó chưa chứng tỏ Q và K “sinh ra là để lấy tích vô hướng với nhau”?

<details><summary>Trả lời ngắn</summary>

1. Attention chưa chạy lần nào. Với mã hóa vị trí xoay, mỗi chiều là hằng số, và cosine của hai hằng số luôn là ±1; nếu vị trí được cộng vào embedding, các vector chỉ khác nhau vì vị trí.
2. Không: xáo trộn phá cả trung bình của từng chiều lẫn sự ghép cặp. Cần xáo trộn trong từng chiều (bài 05).
3. Một từ lặp lại cho độ dời trung bình ổn định; nhiều từ khác nhau thì không. Có thể nụ cười là do *cùng một token* lặp lại, chứ không phải do riêng " her" (bài 05 thử một từ thường gặp khác).
4. Hai độ dời lớn là đủ làm cosine cao. Phải so với những cặp mà tích vô hướng không bao giờ nhân với nhau (mục 8).
</details>

## Tóm tắt
- Trên SmolLM2-135M (mô hình của kết quả lưu sẵn), nụ cười có thật ở QQ và KK tại tầng nông; khẳng định 1 cho biết đến một nửa chiều sâu nó còn lại bao nhiêu.
- “Không còn nụ cười”, “các khối giống nhau” và “chỉ còn nhiễu” là ba khẳng định khác nhau, mỗi cái một ngưỡng.
- Khẳng định đúng chưa có nghĩa là lời giải thích đúng: phải kiểm tra cả lời giải thích, với ngưỡng đặt trước.

## Tài liệu
Ba bài báo đầu nói về cosine giữa vector của các *token* (hàng), không phải giữa các chiều (cột).

- J. Gao và cộng sự, *Representation Degeneration Problem in Training Natural Language Generation Models*, ICLR 2019 ([arXiv:1907.12009](https://arxiv.org/abs/1907.12009)).
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 ([arXiv:1909.00512](https://arxiv.org/abs/1909.00512)).
- W. Timkey và M. van Schijndel, *All Bark and No Bite*, EMNLP 2021 ([arXiv:2109.04404](https://arxiv.org/abs/2109.04404)).
- R. A. Fisher, *Frequency Distribution of the Values of the Correlation Coefficient in Samples from an Indefinitely Large Population*, Biometrika 10(4), 1915.
"""

# %% [markdown] lang="en"
r"""
## Check yourself
1. Why does the smile at layer 0 say nothing about context?
2. The baseline that shuffles all entries gives a bell. May one conclude “the smile comes from the mean”?
3. The control consists of many different words. Why does that make it an unfair control?
4. The block QK is high. Why does that not yet show that Q and K are “made for the dot product”?

<details><summary>Short answers</summary>

1. Attention has not run yet. With rotary positions each feature is a constant, and the cosine of two constants is always ±1; where positions are added to the embedding, vectors differ by position alone.
2. No: the shuffle destroys each feature's mean and the pairing as well. A shuffle within features is needed (notebook 05).
3. One repeated word gives a steady offset; many different words do not. The smile may be about *the same token* rather than about " her" (notebook 05 tries another frequent word).
4. Two large offsets are enough for a high cosine. Compare with pairs that the dot product never multiplies (section 8).
</details>

## Summary
- On SmolLM2-135M (the model of the stored outputs) the smile is real for QQ and KK at an early layer; claim 1 says how much of it is left at half the depth.
- “No smile”, “the blocks are alike” and “nothing but noise” are three claims, with a threshold each.
- A claim that holds does not make its explanation right: test that too, against a threshold set beforehand.

## References
The first three are about cosines between *token* vectors (rows), not between features (columns).

- J. Gao et al., *Representation Degeneration Problem in Training Natural Language Generation Models*, ICLR 2019 ([arXiv:1907.12009](https://arxiv.org/abs/1907.12009)).
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 ([arXiv:1909.00512](https://arxiv.org/abs/1909.00512)).
- W. Timkey and M. van Schijndel, *All Bark and No Bite*, EMNLP 2021 ([arXiv:2109.04404](https://arxiv.org/abs/2109.04404)).
- R. A. Fisher, *Frequency Distribution of the Values of the Correlation Coefficient in Samples from an Indefinitely Large Population*, Biometrika 10(4), 1915.
"""
