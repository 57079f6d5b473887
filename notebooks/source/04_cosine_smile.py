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

**Câu hỏi.** Tài liệu gốc của học phần khẳng định: với cùng một từ trong nhiều câu, biểu đồ tần suất (histogram) của độ tương đồng cosine (cosine similarity) giữa các chiều (feature) có **hình nụ cười (smile)** ở Q và K (dồn về +1 và −1), phẳng hơn ở V; ở khối Q–K độ tương đồng cũng cao; trừ trung bình (mean-centring) thì nụ cười biến mất và mọi khối trông như nhiễu. Trên một mô hình thật, điều nào đúng, và đúng đến đâu?

**Sau bài này, bạn có thể**
- tái hiện hình nụ cười ở nhiều tầng (layer), bên cạnh token đối chứng (control token) và mức nền (baseline);
- đo độ "cười" bằng một con số thay vì bằng cảm giác;
- đối chiếu từng khẳng định với ngưỡng *đặt ra trước khi xem kết quả*;
- giải thích vì sao tầng 0 là trường hợp đặc biệt.

**Thời gian:** khoảng 55 phút đọc và làm bài tập; máy tính chạy khoảng 25 giây. **Cần biết trước:** bài 01 đến 03.
"""

# %% [markdown] lang="en"
r"""
# 04 · The smile of the cosine

**Question.** The source of this course claims: for one word in many sentences, the histogram of the cosine similarities between features has a **smile** for Q and K (mass near +1 and −1), is flatter for V; similarities in the block Q–K are high too; with the mean removed, the smile is gone and all blocks look like noise. In a real model, which of these holds, and how far?

**Afterwards you can**
- reproduce the smile at several layers, beside a control token and a baseline;
- measure the smile with a number instead of a feeling;
- hold each claim against a threshold *fixed before the result is seen*;
- explain why layer 0 is a special case.

**Time:** about 55 minutes of reading and exercises; the computer runs for about 25 seconds. **You need:** notebooks 01 to 03.
"""

# %% tags=["setup"]
# the build puts setup_cell.py here
from helpers import set_language

set_language("vi")

# %%
import torch

from helpers import (
    BLOCKS,
    block_histograms,
    capture_qkv,
    control_positions,
    encode,
    find_token,
    label,
    load_model,
    load_sentences,
    say,
    shuffle_entries,
    token_id_of,
)
from helpers.checks import check
from helpers.plots import plot_blocks

# %% [markdown] lang="vi"
r"""
## 1. Thí nghiệm

Token đích (target token) là " her" trong mọi câu; **token đối chứng** là token đứng ngay trước nó (hầu như mỗi câu một từ khác); **mức nền** là chính dữ liệu của " her" nhưng xáo trộn (shuffle) mọi phần tử trong ma trận của từng tầng, như trong tài liệu gốc. Cả ba đi qua cùng một hàm, cùng số câu, cùng số chiều, và không bị co giãn gì thêm.
"""

# %% [markdown] lang="en"
r"""
## 1. The experiment

The target token " her" in all sentences; the **control token** is the one right before it (a different word in nearly every sentence); the **baseline** is the data of " her" itself with all entries of each layer's matrix shuffled, as in the source. All three go through the same function, with the same number of sentences and features, and nothing is rescaled.
"""

# %%
model, tokenizer = load_model()
sentences = load_sentences("her")
batch = encode(tokenizer, sentences)
positions = find_token(batch, token_id_of(tokenizer, " her"))

target_qkv = capture_qkv(model, batch, positions=positions)
control_qkv = capture_qkv(model, batch, positions=control_positions(batch, positions))
x_target, x_control = target_qkv.joined(), control_qkv.joined()  # [layer, sentence, feature]
x_baseline = shuffle_entries(x_target, torch.Generator().manual_seed(0))

n_layer = len(target_qkv.layers)
print(model.provenance)
print(tuple(x_target.shape), target_qkv.sizes)

# %% [markdown] lang="vi"
r"""
Trong mô hình nhân quả (causal), một token chỉ nhìn được chính nó và các token đứng trước; phần câu *sau* " her" không ảnh hưởng gì. Vì vậy "số câu" thật sự là số đoạn đầu khác nhau tính đến " her":
"""

# %% [markdown] lang="en"
r"""
In a causal model a token sees only itself and what comes before it; the text *after* " her" has no effect. So the real number of sentences is the number of different beginnings up to " her":
"""

# %%
prefixes = {tuple(ids[: p + 1].tolist()) for ids, p in zip(batch["input_ids"], positions)}
before = {int(ids[p - 1]) for ids, p in zip(batch["input_ids"], positions)}
print(len(sentences), len(prefixes), len(before))

# %% [markdown] lang="vi"
r"""
Ba con số: số câu, số đoạn đầu khác nhau, số token đối chứng khác nhau.

## 2. Đo nụ cười bằng một con số

**Chỉ số nụ cười** $S = P(|s|>0{,}8) - P(|s|<0{,}2)$, trong đó $s$ là độ tương đồng của một cặp: tỉ lệ cặp ở hai đầu trừ đi tỉ lệ cặp ở giữa. Phân phối đều cho $S=0$; $S>0$ nghĩa là hai đầu nặng hơn giữa; hình chuông hẹp cho $S$ gần −1.

### Bài tập 4.1
Viết `smile_index(counts, edges)`. `counts` có kích thước `[..., bins]`, `edges` có kích thước `[bins + 1]`. Trả về $S$ với kích thước `[...]`.

*Gợi ý:* lấy điểm giữa của mỗi khoảng chia (bin); chia cho tổng số đếm.
"""

# %% [markdown] lang="en"
r"""
Three numbers: sentences, different beginnings, different control tokens.

## 2. The smile as a number

The **smile index** $S = P(|s|>0.8) - P(|s|<0.2)$, where $s$ is the similarity of a pair: the share of pairs at the two ends minus the share in the middle. A uniform distribution gives $S=0$; $S>0$ means that the ends weigh more than the middle; a narrow bell gives $S$ near −1.

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


check("4.1", smile_index)

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
target = block_histograms(x_target, target_qkv.sizes)
control = block_histograms(x_control, target_qkv.sizes)
baseline = block_histograms(x_baseline, target_qkv.sizes)

same = torch.isclose(x_target[0], x_target[0, :1], rtol=1e-4, atol=1e-5).all()
for measure in ("cosine", "correlation"):
    qq = target[measure]["QQ"]
    outer = (qq.counts[0, 0] + qq.counts[0, -1]) / qq.n_pairs[0]
    print(
        f"{label(measure):28s} |s| > 0.98: {outer:.0%}   {label('undefined')}: {qq.n_undefined[0] / qq.n_pairs[0]:.0%}"
    )
print(
    say("Q, K, V của token đích như nhau trong mọi câu:", "Q, K, V of the target the same in every sentence:"),
    bool(same),
)

# %% [markdown] lang="vi"
r"""
Nếu dòng cuối là `True` (mô hình dùng mã hóa vị trí xoay (RoPE) như SmolLM2): ở tầng 0, Q, K, V, lấy trước khi xoay, chỉ phụ thuộc vào chính token. Mỗi chiều là một hằng số trên mọi câu. Cosine của hai hằng số là +1 hoặc −1, nên "nụ cười" là tuyệt đối, nhưng *không hề* mang thông tin nào về ngữ cảnh; hệ số tương quan (correlation coefficient) thì không xác định và được đếm riêng. Với GPT-2, vị trí được cộng vào embedding nên dòng cuối là `False`.
"""

# %% [markdown] lang="en"
r"""
If the last line is `True` (a model with rotary positions, such as SmolLM2): at layer 0, Q, K and V, captured before the rotation, depend on the token alone. Each feature is a constant over all sentences. The cosine of two constants is +1 or −1, a perfect "smile" that carries *no* information about context at all; the correlation is undefined and counted apart. In GPT-2 positions are added to the embedding, so the last line says `False`.
"""

# %%
figure = plot_blocks(
    target["cosine"], layers=[0], control=control["cosine"], baseline=baseline["cosine"], title=model.provenance
)

# %% [markdown] lang="vi"
r"""
## 4. Nụ cười ở tầng nông và tầng giữa

Trước khi nhìn, hãy đặt ngưỡng cho từng khẳng định:

1. **Nụ cười ở Q và K:** $S>0$ ở cả QQ và KK.
2. **V phẳng hơn:** $S$ của VV thấp hơn $S$ của QQ và $S$ của KK ít nhất 0,1.
3. **Q–K cao:** tỉ lệ cặp QK có $|s|>0{,}9$ ít nhất bằng một nửa mức trung bình của hai tỉ lệ ấy ở QQ và KK.
4. **Trừ trung bình thì nụ cười mất:** $S<0$ ở mọi khối khi dùng tương quan.
5. **Khi đó mọi khối như nhiễu:** độ rộng của biểu đồ tương quan không quá 1,2 lần độ rộng của nhiễu thuần túy, $1/\sqrt{n-1}$.

Ta xem ba tầng, ở một phần mười, một phần ba và một nửa chiều sâu. **Dự đoán:** càng đi sâu, nụ cười càng mở ra hay khép lại?
"""

# %% [markdown] lang="en"
r"""
## 4. The smile at early and middle layers

Before we look, fix a threshold for each claim:

1. **A smile for Q and K:** $S>0$ for both QQ and KK.
2. **V is flatter:** $S$ of VV is lower than that of QQ and of KK by at least 0.1.
3. **Q–K is high:** the share of QK pairs with $|s|>0.9$ is at least half the mean of QQ and KK.
4. **Without the mean the smile is gone:** $S<0$ in every block for the correlation.
5. **All blocks then look like noise:** the histogram of correlations is at most 1.2 times as wide as pure noise, $1/\sqrt{n-1}$.

Three layers: a tenth, a third and a half of the depth. **Predict:** does the smile open or close with depth?
"""

# %% tags=["readme-figure"]
layers = [n_layer // 10, n_layer // 3, n_layer // 2]
figure = plot_blocks(
    target["cosine"], layers=layers, control=control["cosine"], baseline=baseline["cosine"], title=model.provenance
)

# %% [markdown] lang="vi"
r"""
Vùng màu là token đích, đường đen là token đối chứng, đường xám nét đứt là mức nền. Mọi hình con (panel) dùng chung một thang.

Đọc hình: hai đầu của vùng màu có cao hơn phần giữa không? VV có khác QQ và KK không? Token đối chứng có cùng dạng không? Hình này *không* cho biết nụ cười đến từ đâu, và mức nền xáo trộn mọi phần tử đã phá hai thứ *cùng lúc*: trung bình (và phương sai) riêng của từng chiều, và sự ghép cặp giữa các chiều. Bài 05 sẽ tách hai thứ ấy ra.

## 5. Các khối hỗn hợp (cross block)
**Dự đoán.** Trong QK, QV và KV, khối nào cười giống QQ và KK nhất? (Hình dưới đây không cho biết một cặp QK gần ±1 có ảnh hưởng gì đến trọng số attention (attention weight) hay không.)
"""

# %% [markdown] lang="en"
r"""
The coloured area is the target, the black line the control token, the dashed grey line the baseline. All panels share one scale.

Read it: are the ends of the coloured area higher than the middle? Does VV differ from QQ and KK? Has the control token the same form? The figure does *not* say where the smile comes from, and the baseline that shuffles all entries has destroyed *two* things at once: each feature's own mean (and variance), and the pairing between features. Notebook 05 takes the two apart.

## 5. The cross blocks
**Predict.** Which of QK, QV and KV smiles most like QQ and KK? (The figure below does not say whether a QK pair near ±1 matters for the attention weights.)
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
Cùng dữ liệu, cùng các hình con, nhưng dùng hệ số tương quan. Đường chấm là phân phối theo giả thuyết không (null), từ đây gọi là phân phối null, ở dạng chính xác: mật độ (density) của hệ số tương quan giữa hai chiều *độc lập* có phân phối chuẩn, với cùng số câu.
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
Nụ cười đã biến mất. Nhưng hãy nhìn kỹ: vùng màu có *rộng hơn* đường chấm không? Nếu có thì "mọi khối chỉ là nhiễu" là nói quá: vẫn còn cấu trúc chung giữa các chiều, chỉ là không còn nằm ở trung bình.

## 7. Phán quyết bằng số
"""

# %% [markdown] lang="en"
r"""
The smile is gone. But look closely: is the coloured area *wider* than the dotted line? If so, "all blocks are noise" says too much: there is structure left that features share, only not in their means.

## 7. The verdict in numbers
"""


# %%
def smile(histograms, block, layer):
    return float(smile_index(histograms[block].counts[layer], histograms.edges))


print(f"{label('smile_index'):28s}" + "     ".join(BLOCKS))
for layer in layers:
    for name, histograms in (("target", target), ("control", control), ("baseline_short", baseline)):
        row = "  ".join(f"{smile(histograms['cosine'], block, layer):+.2f}" for block in BLOCKS)
        print(f"{label('layer')} {layer:2d}  {label(name):16s}  {row}")


# %%
def claims(layer):
    s = {block: smile(target["cosine"], block, layer) for block in BLOCKS}
    s_centred = [smile(target["correlation"], block, layer) for block in BLOCKS]
    share = {block: float(h.share_above[layer]) for block, h in target["cosine"].items()}
    width = max(float(h.std[layer]) for _, h in target["correlation"].items()) * (len(sentences) - 1) ** 0.5
    return [
        (min(s["QQ"], s["KK"]) > 0, f"min S = {min(s['QQ'], s['KK']):+.2f}"),
        (s["VV"] <= min(s["QQ"], s["KK"]) - 0.1, f"S VV = {s['VV']:+.2f}  QQ {s['QQ']:+.2f}  KK {s['KK']:+.2f}"),
        (
            share["QK"] >= (share["QQ"] + share["KK"]) / 4,
            f"QK {share['QK']:.2f}  QQ {share['QQ']:.2f}  KK {share['KK']:.2f}",
        ),
        (max(s_centred) < 0, f"max S = {max(s_centred):+.2f}"),
        (width <= 1.2, f"{width:.2f}"),
    ]


# %%
for number in range(5):
    for layer in layers:
        holds, figures = claims(layer)[number]
        verdict = say("đúng", "holds") if holds else say("sai", "fails")
        print(f"{number + 1}. {label('layer')} {layer:2d}  {verdict:6s} {figures}")

# %% [markdown] lang="vi"
r"""
Mỗi dòng: số thứ tự của khẳng định ở mục 4, tầng, phán quyết, và con số quyết định. Ở các dòng bắt đầu bằng 5, con số là độ rộng của khối rộng nhất chia cho độ rộng của nhiễu thuần túy. Chạy trên mô hình khác thì bảng này được tính lại. (Muốn thấy kết quả trên GPT-2, hãy chạy khi có kết nối tới Hub.)

Khi đọc phán quyết, nhớ rằng các cặp chiều *không* độc lập với nhau: hàng trăm nghìn cặp được tính từ chỉ vài chục câu. Vì thế ở đây không có trị số p (p-value) nào; bài 06 sẽ đo độ chắc chắn bằng cách bỏ lần lượt từng câu.

### Bài tập 4.2
Nụ cười có phải là chuyện riêng của " her"? Lặp lại với bộ câu thứ hai, `load_sentences("water")`, token đích " water". Gán vào `water` kết quả của `block_histograms` trên mọi tầng.

*Gợi ý:* bốn bước `encode`, `find_token`, `capture_qkv`, `block_histograms` của mục 1 và mục 3, với từ khác.
"""

# %% [markdown] lang="en"
r"""
Each line: the number of the claim in section 4, the layer, the verdict, and the figure that decides. In the lines that begin with 5 it is the width of the widest block divided by that of pure noise. On another model this table rewrites itself. (What GPT-2 gives is to be seen when you run it with the Hub.)

Mind that pairs of features are *not* independent of each other: hundreds of thousands of pairs come from a few dozen sentences. That is why there is no p-value here; notebook 06 measures how sure we can be by leaving out one sentence at a time.

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

check("4.2", water, model, tokenizer)
print([f"{smile(water['cosine'], 'QQ', layer):+.2f}" for layer in layers])

# %% [markdown] lang="vi"
r"""
### Bài tập 4.3
Ở tầng nào (không kể tầng 0) nụ cười QQ của token đích vượt token đối chứng nhiều nhất, đo bằng hiệu của $S$? Gán số tầng vào `widest_layer`.

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
edges = target["cosine"].edges
gap = smile_index(target["cosine"]["QQ"].counts, edges) - smile_index(control["cosine"]["QQ"].counts, edges)  # [layer]
widest_layer = 1 + int(gap[1:].argmax())

check("4.3", widest_layer, target, control)

# %%
for block, h in target["cosine"].items():  # sanity check: every pair is counted, defined or not
    assert torch.equal(h.counts.sum(-1) + h.n_undefined, h.n_pairs), block
print("✓")

# %% [markdown] lang="vi"
r"""
## Tự kiểm tra
1. Vì sao nụ cười ở tầng 0 không nói gì về ngữ cảnh?
2. Mức nền xáo trộn mọi phần tử cho hình chuông. Từ đó có thể kết luận "nụ cười đến từ trung bình" không?
3. Token đối chứng gồm nhiều từ khác nhau. Vì sao đối chứng như thế là chưa công bằng?
4. Nếu chỉ có 3 câu, biểu đồ tương quan sẽ trông thế nào?

<details><summary>Trả lời ngắn</summary>

1. Mỗi chiều là hằng số; cosine của hai hằng số luôn là ±1.
2. Không: xáo trộn phá cả trung bình của từng chiều lẫn sự ghép cặp. Cần xáo trộn trong từng chiều (bài 05).
3. Một từ lặp lại cho độ dời trung bình (mean offset) ổn định; nhiều từ khác nhau thì không. Có thể nụ cười là do *cùng một token* lặp lại, chứ không phải do riêng " her" (bài 05 thử một từ thường gặp khác).
4. Một nụ cười từ hư không: với n = 3, mật độ null dồn về ±1 (bài 05).
</details>

## Tóm tắt
- Trên SmolLM2-135M (mô hình của kết quả lưu sẵn), nụ cười có thật ở QQ và KK tại tầng nông (early layer); bảng phán quyết cho biết nó còn giữ được đến đâu.
- Trừ trung bình thì nụ cười mất. Nhưng "không còn nụ cười" khác với "chỉ còn nhiễu".
- Ngưỡng đặt trước, con số do ô mã tính ra, phán quyết có thể là "sai".

## Tài liệu
- J. Gao và cộng sự, *Representation Degeneration Problem in Training Natural Language Generation Models*, ICLR 2019 (arXiv:1907.12009).
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 (arXiv:1909.00512).
- W. Timkey và M. van Schijndel, *All Bark and No Bite*, EMNLP 2021 (arXiv:2109.04404).
- R. A. Fisher, *Frequency Distribution of the Values of the Correlation Coefficient in Samples from an Indefinitely Large Population*, Biometrika 10(4), 1915.
"""

# %% [markdown] lang="en"
r"""
## Check yourself
1. Why does the smile at layer 0 say nothing about context?
2. The baseline that shuffles all entries gives a bell. May one conclude "the smile comes from the mean"?
3. The control consists of many different words. Why does that make it an unfair control?
4. With only 3 sentences, what would the histogram of correlations look like?

<details><summary>Short answers</summary>

1. Each feature is a constant; the cosine of two constants is always ±1.
2. No: the shuffle destroys each feature's mean and the pairing as well. A shuffle within features is needed (notebook 05).
3. One repeated word gives a steady offset; many different words do not. The smile may be about *the same token* rather than about " her" (notebook 05 tries another frequent word).
4. A smile out of nothing: at n = 3 the null density piles up at ±1 (notebook 05).
</details>

## Summary
- On SmolLM2-135M (the model of the stored outputs) the smile is real for QQ and KK at an early layer; the verdict table says how deep it lasts.
- With the mean removed the smile is gone. But "no smile" is not "nothing but noise".
- Thresholds fixed beforehand, figures computed by cells, verdicts that may say "fails".

## References
- J. Gao et al., *Representation Degeneration Problem in Training Natural Language Generation Models*, ICLR 2019 (arXiv:1907.12009).
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 (arXiv:1909.00512).
- W. Timkey and M. van Schijndel, *All Bark and No Bite*, EMNLP 2021 (arXiv:2109.04404).
- R. A. Fisher, *Frequency Distribution of the Values of the Correlation Coefficient in Samples from an Indefinitely Large Population*, Biometrika 10(4), 1915.
"""
