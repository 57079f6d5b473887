# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] lang="vi"
r"""
# 03 · Mặt nạ mã số: cắt ma trận thành sáu khối

**Câu hỏi.** So sánh mọi chiều (feature) của Q, K, V với nhau, ta được một ma trận rất lớn. Làm sao lấy ra đúng các cặp Q–Q, hay đúng các cặp Q–K, mỗi cặp một lần, mà không nhầm?

**Sau bài này, bạn có thể**
- dựng mặt nạ (mask) bằng tích ngoài (outer product) của mã số 1, 2, 3 và lấy tam giác trên (upper triangle);
- giải thích vì sao 1-2-3 dùng được còn 1-2-3-4 thì không;
- đếm số cặp trong mỗi khối bằng công thức và bằng mặt nạ;
- chọn một khối bằng mặt nạ và bằng lát cắt (slice), rồi chứng minh hai cách cho cùng kết quả.

**Thời gian:** khoảng 50 phút đọc và làm bài tập; máy tính chạy khoảng 10 giây. **Cần biết trước:** bài 01 và 02, chỉ số mảng trong PyTorch.
"""

# %% [markdown] lang="en"
r"""
# 03 · The coded mask: cutting the matrix into six blocks

**Question.** Comparing all features of Q, K and V gives one very large matrix. How do we take out exactly the Q–Q pairs, or exactly the Q–K pairs, each pair once, and nothing else?

**Afterwards you can**
- build the mask from the outer product of the codes 1, 2, 3 and its upper triangle;
- say why 1-2-3 works and 1-2-3-4 does not;
- count the pairs of each block by formula and by mask;
- select a block by mask and by slices, and prove that both give the same.

**Time:** about 50 minutes of reading and exercises; the computer runs for about 10 seconds. **You need:** notebooks 01 and 02, indexing in PyTorch.
"""

# %% tags=["setup"]
# the build puts setup_cell.py here
from helpers import set_language

set_language("vi")

# %%
import itertools

import numpy as np
import torch

from helpers import (
    BLOCKS,
    attention_modules,
    block_histograms,
    block_values,
    capture_qkv,
    cosine_similarity,
    encode,
    find_token,
    load_model,
    load_sentences,
    matrix_mask,
    n_block_pairs,
    part_slices,
    say,
    show,
    token_id_of,
)
from helpers.teaching.checks import check
from helpers.teaching.plots import plot_matrix_mask, plot_similarity
from helpers.teaching.widgets import mask_explorer

# %% [markdown] lang="vi"
r"""
## 1. Bốn chiều, ba loại

Một mô hình tí hon: Q có 2 chiều, K có 1, V có 1. Mỗi chiều nhận một mã số: Q là 1, K là 2, V là 3. Với mỗi cặp chiều, ta nhân hai mã số.

**Dự đoán.** Số nào xuất hiện ở ô (chiều 1, chiều 2), đếm từ 0, tức một chiều của Q gặp chiều của K? Và ở ô K gặp V?
"""

# %% [markdown] lang="en"
r"""
## 1. Four features, three kinds

A tiny model: Q has 2 features, K has 1, V has 1. Each feature gets a code: Q is 1, K is 2, V is 3. For each pair of features we multiply the two codes.

**Predict.** Which number stands in cell (feature 1, feature 2), counted from 0, where a feature of Q meets that of K? And where K meets V?
"""

# %%
code = torch.tensor([1, 1, 2, 3])  # [feature]: Q, Q, K, V
table = torch.zeros(4, 4, dtype=torch.int64)
for i in range(4):
    for j in range(4):
        table[i, j] = code[i] * code[j]
print(table)

# %% [markdown] lang="vi"
r"""
Hai vòng lặp ấy chính là *tích ngoài*. Ma trận tương đồng đối xứng (cặp $(i,j)$ giống cặp $(j,i)$) và đường chéo so một chiều với chính nó, nên chỉ giữ **tam giác trên, không kể đường chéo**: mỗi cặp đúng một lần.
"""

# %% [markdown] lang="en"
r"""
Those two loops are the *outer product*. The similarity matrix is symmetric (pair $(i,j)$ is pair $(j,i)$) and its diagonal compares a feature with itself, so we keep the **upper triangle without the diagonal**: each pair exactly once.
"""

# %%
mask = torch.outer(code, code).triu(diagonal=1)  # [feature, feature]
print(mask)
assert torch.equal(mask, matrix_mask((2, 1, 1)).long())
print(BLOCKS)

# %% [markdown] lang="vi"
r"""
## 2. Vì sao là 1, 2, 3?

Mã số của khối là tích hai mã số. Muốn đọc ngược từ tích ra khối, sáu tích phải khác nhau từng đôi một.
"""

# %% [markdown] lang="en"
r"""
## 2. Why 1, 2, 3?

The code of a block is the product of two codes. To read the block back from the product, the six products must all differ.
"""


# %%
def products(codes):
    """{product: the pairs of codes that give it}"""
    found = {}
    for a, b in itertools.combinations_with_replacement(codes, 2):
        found.setdefault(a * b, []).append((a, b))
    return found


print(products([1, 2, 3]))
print({product: pairs for product, pairs in products([1, 2, 3, 4]).items() if len(pairs) > 1})

# %% [markdown] lang="vi"
r"""
Với 1, 2, 3 mỗi tích đến từ đúng một cặp. Thêm mã số 4 thì $1\times4=2\times2$: khối “phần thứ nhất gặp phần thứ tư” bị lẫn với khối “phần thứ hai gặp chính nó”. Mà chương trình không báo lỗi gì.

### Bài tập 3.1
Giả sử ta so cả đầu ra O của attention, tức bốn phần Q, K, V, O. Hãy tìm bốn mã số nguyên dương sao cho cả **mười** tích (kể cả một phần gặp chính nó) khác nhau từng đôi một. Gán vào `four_codes`.

*Gợi ý:* số nguyên tố; hoặc thử bằng hàm `products`.
"""

# %% [markdown] lang="en"
r"""
With 1, 2, 3 each product comes from exactly one pair. Add the code 4 and $1\times4=2\times2$: the block "first meets fourth" is mixed with "second meets itself". No error tells you.

### Exercise 3.1
Suppose we also compare the output O of the attention: four parts Q, K, V, O. Find four positive whole codes such that all **ten** products (a part with itself included) differ. Put them into `four_codes`.

*Hint:* prime numbers; or try with `products`.
"""

# %% tags=["exercise"]
four_codes = ...

check("3.1", four_codes)

# %% tags=["solution"]
# @title Lời giải 3.1 · Solution 3.1
four_codes = [1, 2, 3, 5]

check("3.1", four_codes, solution=True)

# %% [markdown] lang="vi"
r"""
## 3. Đếm cặp

Một phần có $n$ chiều ghép với chính nó cho $n(n-1)/2$ cặp; khối hỗn hợp (cross block) của hai phần có $n_a$ và $n_b$ chiều cho $n_a n_b$ cặp. Đếm bằng mặt nạ phải cho cùng con số.

**Dự đoán.** Ở GPT-2 nhỏ (Q, K, V đều 768 chiều), khối QK lớn gấp mấy lần khối QQ?
"""

# %% [markdown] lang="en"
r"""
## 3. Counting pairs

A part of $n$ features with itself has $n(n-1)/2$ pairs; a cross block, of parts with $n_a$ and $n_b$ features, has $n_a n_b$. Counting in the mask must give the same.

**Predict.** In GPT-2 small (Q, K and V of 768 features each), how many times larger is the block QK than QQ?
"""

# %%
model, tokenizer = load_model()
batch = encode(tokenizer, load_sentences("her"))
positions = find_token(batch, token_id_of(tokenizer, " her"))
early = range(1 + max(1, len(attention_modules(model)) // 10))  # the layers up to a tenth of the depth
qkv = capture_qkv(model, batch, layers=early, positions=positions)
print(model.provenance, qkv.sizes)

shapes = {say("mô hình này", "this model"): qkv.sizes}
if qkv.sizes != (768, 768, 768):
    shapes = {"GPT-2": (768, 768, 768), **shapes}
for name, sizes in shapes.items():
    counted = {block: int((matrix_mask(sizes) == code).sum()) for block, code in BLOCKS.items()}
    assert counted == n_block_pairs(sizes)
    show(f"{name:14s}", "  ".join(f"{block} {count:,}" for block, count in counted.items()))

# %% [markdown] lang="vi"
r"""
Khi Q rộng hơn K và V (grouped-query attention, như ở SmolLM2), không phải khối nào cũng vuông, nhưng mặt nạ vẫn đúng. Ở GPT-2, ba phần rộng bằng nhau. Hãy nhìn hình:
"""

# %% [markdown] lang="en"
r"""
Where Q is wider than K and V (grouped-query attention, as in SmolLM2) not every block is square, but the mask still holds. In GPT-2 all three are equally wide. Look at it:
"""

# %%
figure = plot_matrix_mask(qkv.sizes)

# %% [markdown] lang="vi"
r"""
Bấm vào tên một khối: các ô của khối ấy hiện đậm màu, các khối khác nhạt đi, phía trên là mã số và số cặp. **Dự đoán trước khi bấm:** khối nào lớn nhất, khối nào nhỏ nhất? (Các nút cần một kernel Jupyter đang chạy; hình tĩnh ngay dưới cho thấy trạng thái ban đầu.)
"""

# %% [markdown] lang="en"
r"""
Press the name of a block: its cells stand out in full colour and the others fade, with the code and the number of pairs above. **Predict before you press:** which block is the largest, which the smallest? (The buttons need a running Jupyter kernel; the still figure below shows the initial state.)
"""

# %% tags=["nbval-ignore-output"]
explorer = mask_explorer(qkv.sizes)
explorer.widget

# %%
explorer.figure

# %% [markdown] lang="vi"
r"""
### Bài tập 3.2
Một mô hình có 32 đầu attention (head) cho Q, 8 đầu cho K và 8 đầu cho V, mỗi đầu 64 chiều. Khối QV có bao nhiêu cặp? Khối KK có bao nhiêu cặp? Gán vào `n_qv` và `n_kk` (hãy *tính*, đừng dựng mặt nạ).

*Gợi ý:* trước hết tính số chiều của Q, K và V.
"""

# %% [markdown] lang="en"
r"""
### Exercise 3.2
A model has 32 query heads, 8 key heads and 8 value heads of 64 features each. How many pairs has the block QV? And KK? Put them into `n_qv` and `n_kk` (*compute*, do not build the mask).

*Hint:* first the number of features of Q, K and V.
"""

# %% tags=["exercise"]
n_qv = ...
n_kk = ...

check("3.2", n_qv, n_kk)

# %% tags=["solution"]
# @title Lời giải 3.2 · Solution 3.2
n_qv = (32 * 64) * (8 * 64)
n_kk = (8 * 64) * (8 * 64 - 1) // 2

check("3.2", n_qv, n_kk, solution=True)

# %% [markdown] lang="vi"
r"""
## 4. Ma trận thật

Ma trận độ tương đồng cosine (cosine similarity) của " her" ở một tầng nông (early layer). Để nhìn rõ, hình chỉ vẽ 1/12 số chiều (cứ 12 chiều lấy 1).
"""

# %% [markdown] lang="en"
r"""
## 4. The real matrix

The cosine similarities of " her" at an early layer. To be legible, the picture shows one feature in twelve.
"""

# %%
layer = early[-1]
x = qkv.joined()[layer]  # [sample, feature]: one sample per sentence
similarity = cosine_similarity(x)  # [feature, feature]

step = 12
few = tuple(len(range(0, size, step)) for size in qkv.sizes)
kept = torch.cat([torch.arange(part.start, part.stop, step) for part in part_slices(qkv.sizes).values()])
title = say(f"tầng {layer}, n = {len(x)} câu", f"layer {layer}, n = {len(x)} sentences")
figure = plot_similarity(similarity.cpu()[kept][:, kept], few, "cosine", title)

# %% [markdown] lang="vi"
r"""
Đỏ là gần +1, xanh lam là gần −1. Sọc đậm là những chiều có độ dời trung bình (mean offset) lớn so với độ lệch chuẩn (standard deviation), sọc nhạt là những chiều có độ dời nhỏ. Các chiều ở sọc đậm “giống” hoặc “ngược” với rất nhiều chiều khác cùng một lúc. Hình không cho biết *bao nhiêu* cặp có độ tương đồng gần +1 hoặc gần −1; muốn biết phải đếm.

## 5. Hai cách chọn một khối

Bằng mặt nạ: `similarity[mask == code]`. Bằng lát cắt: lấy đúng hình chữ nhật, rồi bỏ đường chéo và nửa dưới nếu là khối của một phần với chính nó. Cả hai đi theo từng hàng, nên phải bằng nhau *từng phần tử một*. Mỗi dòng in ra: khối, mã số, số cặp và độ lệch chuẩn của các độ tương đồng.
"""

# %% [markdown] lang="en"
r"""
Red is near +1, blue near −1. Dark stripes are features with a mean offset that is large against the standard deviation, pale ones those with a small offset. Those in dark stripes are "like" or "opposite to" very many others at once. The picture does not say *how many* pairs lie at the ends; for that we must count.

## 5. Two ways to select a block

By mask: `similarity[mask == code]`. By slices: take the rectangle, and drop the diagonal and the lower half where a part meets itself. Both go row by row, so they must agree *element by element*. Each printed line: block, code, number of pairs, standard deviation of the similarities.
"""

# %%
mask = matrix_mask(qkv.sizes).to(x.device)  # [feature, feature]
for block, code in BLOCKS.items():
    by_mask = similarity[mask == code]
    by_slices = block_values(similarity, qkv.sizes, block)
    assert torch.equal(by_mask, by_slices)
    show(f"{block}  {code}  {len(by_mask):7,}  {by_slices.std():.2f}")

# %% [markdown] lang="vi"
r"""
### Bài tập 3.3
Viết `share_positive(similarity, mask, code)`: trong khối có mã số `code`, tỉ lệ cặp có độ tương đồng dương là bao nhiêu? Trả về một số từ 0 đến 1.

*Gợi ý:* trung bình của một mảng đúng/sai là tỉ lệ phần tử đúng.
"""

# %% [markdown] lang="en"
r"""
### Exercise 3.3
Write `share_positive(similarity, mask, code)`: which share of the pairs in the block of that code has a positive similarity? Return a number from 0 to 1.

*Hint:* the mean of an array of true and false is the share that is true.
"""


# %% tags=["exercise"]
def share_positive(similarity, mask, code):
    return ...


check("3.3", share_positive)


# %% tags=["solution"]
# @title Lời giải 3.3 · Solution 3.3
def share_positive(similarity, mask, code):
    return float((similarity[mask == code] > 0).double().mean())


check("3.3", share_positive, solution=True)

# %% [markdown] lang="vi"
r"""
## 6. Không cần đến ma trận

Ma trận, mặt nạ và sáu lần quét tốn bộ nhớ và thời gian, trong khi ta chỉ cần biểu đồ tần suất (histogram). `block_histograms` tính từng dải hàng, đếm vào các khoảng chia (bin) rồi bỏ đi; ma trận lớn không bao giờ tồn tại. Hàm này còn nhận nhiều tầng cùng một lúc: `[tầng, mẫu, chiều]`, mỗi câu một mẫu. Ở đây là những tầng đã lấy ở mục 3.
"""

# %% [markdown] lang="en"
r"""
## 6. No matrix at all

The matrix, the mask and six scans cost memory and time, while all we want are histograms. `block_histograms` computes one band of rows at a time, counts it into bins and drops it; the large matrix never exists. It also takes several layers at once: `[layer, sample, feature]`, one sample per sentence. Here these are the layers captured in section 3.
"""


# %%
def megabytes(tensor):
    return tensor.numel() * tensor.element_size() / 1e6


show(f"{megabytes(similarity):.1f} MB + {megabytes(mask):.1f} MB  /  {megabytes(x):.1f} MB")

result = block_histograms(qkv.joined(), qkv.sizes)
counts = result["cosine"]["QQ"].counts  # [layer, bin]
print(tuple(counts.shape), int(counts[layer].sum()) == n_block_pairs(qkv.sizes)["QQ"])

# %% [markdown] lang="vi"
r"""
Dòng đầu: bộ nhớ của ma trận và của mặt nạ, rồi của dữ liệu gốc. Dòng sau: một biểu đồ cho mỗi tầng, và tổng số đếm bằng đúng số cặp.

Kiểm tra bằng NumPy. Một độ tương đồng nằm sát mép khoảng chia (cách không quá $10^{-6}$) có thể rơi sang khoảng bên cạnh vì làm tròn; ngoài những trường hợp ấy, hai biểu đồ phải trùng nhau. Ta so số đếm *cộng dồn* tại từng mép.
"""

# %% [markdown] lang="en"
r"""
First line: the matrix and the mask, against the data itself. Second line: one histogram per layer, and the counts add up to exactly the number of pairs.

Check against NumPy. A value very close to a bin edge (within $10^{-6}$) may fall into the next bin by rounding; otherwise both histograms must agree. We compare *cumulative* counts at each edge.
"""

# %%
edges, exact_matrix = result["cosine"].edges.cpu().numpy(), cosine_similarity(x.double())
for block in BLOCKS:
    exact = np.sort(block_values(exact_matrix, qkv.sizes, block).cpu().numpy())
    expected = np.histogram(exact, edges)[0].cumsum()
    ours = result["cosine"][block].counts[layer].cpu().numpy().cumsum()
    low, high = (np.searchsorted(exact, edges[1:] + reach) for reach in (-1e-6, 1e-6))
    close = high - low  # values that may fall on either side of an edge
    assert (np.abs(ours - expected) <= close).all()
print("✓")

# %% [markdown] lang="vi"
r"""
## Tự kiểm tra
1. Vì sao bỏ đường chéo? Nếu giữ lại, biểu đồ QQ thay đổi ra sao?
2. Khối QK là cả hình chữ nhật, còn QQ chỉ là nửa trên. Có cặp nào bị đếm hai lần không?
3. Các mã số 2, 3, 5 có dùng được không? Các mã số 1, 2, 4 thì sao?
4. Khi K và V chỉ rộng bằng một phần ba Q, khối nào nhỏ nhất? Điều đó ảnh hưởng thế nào đến độ “nhiễu” của biểu đồ?

<details><summary>Trả lời ngắn</summary>

1. Mỗi chiều giống hệt chính nó: khoảng chia ngoài cùng bên phải sẽ có thêm đúng $n$ cặp (mỗi chiều của Q một cặp) không mang thông tin.
2. Không: khối QK nằm trọn phía trên đường chéo.
3. 2, 3, 5 dùng được. 1, 2, 4 thì không, vì $1\times4=2\times2$.
4. KK và VV; ít cặp hơn nên biểu đồ gồ ghề hơn.
</details>

## Tóm tắt
- Tích ngoài của các mã số 1, 2, 3, lấy tam giác trên, cho biết mỗi cặp thuộc khối nào: QQ 1, QK 2, QV 3, KK 4, KV 6, VV 9.
- Mặt nạ và lát cắt cho cùng một kết quả; lát cắt đỡ tốn hơn; `block_histograms` thì không cần cả ma trận.
- Mỗi bước đều có một phép kiểm tra thực sự: bước sai thì kiểm tra báo lỗi.

## Tài liệu
- Tài liệu NumPy: `numpy.outer`, `numpy.triu`, `numpy.histogram`.
- J. Ainslie và cộng sự, *GQA*, 2023 ([arXiv:2305.13245](https://arxiv.org/abs/2305.13245)).
"""

# %% [markdown] lang="en"
r"""
## Check yourself
1. Why drop the diagonal? How would the QQ histogram change if it were kept?
2. The block QK is a whole rectangle, QQ only an upper half. Is any pair counted twice?
3. Would the codes 2, 3, 5 do? And 1, 2, 4?
4. If K and V are only a third as wide as Q, which blocks are smallest? What does that do to the noise of its histogram?

<details><summary>Short answers</summary>

1. Every feature is identical to itself: the rightmost bin would gain exactly $n$ pairs (one for each feature of Q) that say nothing.
2. No: the block QK lies above the diagonal as a whole.
3. 2, 3, 5 do. 1, 2, 4 do not, since $1\times4=2\times2$.
4. KK and VV; fewer pairs make a rougher histogram.
</details>

## Summary
- The outer product of the codes 1, 2, 3, upper triangle, names every pair: QQ 1, QK 2, QV 3, KK 4, KV 6, VV 9.
- Mask and slices give the same; slices are cheaper; `block_histograms` does without the matrix.
- Each step has a real check: one that fails if the step is wrong.

## References
- NumPy documentation: `numpy.outer`, `numpy.triu`, `numpy.histogram`.
- J. Ainslie et al., *GQA*, 2023 ([arXiv:2305.13245](https://arxiv.org/abs/2305.13245)).
"""
