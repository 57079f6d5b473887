# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] lang="vi"
r"""
# 02 · Cosine và tương quan: một bên giữ, một bên bỏ

**Câu hỏi.** Hai phép đo này trông gần như giống hệt nhau. Vì sao trên cùng một dữ liệu, một bên có thể nói “gần như trùng nhau” còn bên kia nói “chẳng liên quan gì”?

**Sau bài này, bạn có thể**
- nói chính xác mỗi phép đo giữ lại điều gì và bỏ đi điều gì;
- suy ra đồng nhất thức (identity) nối độ tương đồng cosine (cosine similarity) với hệ số tương quan (correlation coefficient);
- kéo một thanh trượt và thấy một phép đo nhảy vọt trong khi phép đo kia đứng yên;
- giải thích khi nào hệ số tương quan không tồn tại.

**Thời gian:** khoảng 50 phút đọc và làm bài tập; máy tính chạy khoảng 10 giây. **Cần biết trước:** bài 01 (hoặc tin rằng `x` chứa Q, K, V của " her"), trung bình (mean) và độ lệch chuẩn (standard deviation).
"""

# %% [markdown] lang="en"
r"""
# 02 · Cosine and correlation: one keeps, one drops

**Question.** These two measures look almost the same. How can one of them say "nearly identical" and the other "nothing to do with each other" about the same data?

**Afterwards you can**
- say exactly what each measure keeps and what it drops;
- derive the identity that ties cosine similarity to the correlation coefficient;
- move a slider and watch one measure jump while the other stands still;
- explain when a correlation does not exist.

**Time:** about 50 minutes of reading and exercises; the computer runs for about 10 seconds. **You need:** notebook 01 (or the belief that `x` holds Q, K and V of " her"), mean and standard deviation.
"""

# %% tags=["setup"]
# the build puts setup_cell.py here
from helpers import set_language

set_language("vi")

# %%
import numpy as np
import torch

from helpers import (
    attention_modules,
    capture_qkv,
    cosine_from_correlation,
    cosine_similarity,
    encode,
    find_token,
    label,
    load_model,
    load_sentences,
    pearson_correlation,
    say,
    show,
    token_id_of,
)
from helpers.teaching.checks import check
from helpers.teaching.plots import plot_feature_pair
from helpers.teaching.widgets import offset_explorer

# %% [markdown] lang="vi"
r"""
## 1. Bốn mẫu, ba chiều

Mỗi hàng của `x` là một mẫu (một lần từ đích xuất hiện), mỗi cột là một chiều (feature) của Q, K hoặc V. **Trong cả học phần, ta so sánh các cột với nhau**, không so sánh các hàng.

Độ tương đồng cosine của hai cột là tích vô hướng chia cho tích hai độ dài:

$$\cos_{ij}=\frac{\sum_t x_{ti}\,x_{tj}}{\sqrt{\sum_t x_{ti}^2}\sqrt{\sum_t x_{tj}^2}}$$

**Dự đoán.** Với bảng số dưới đây, cosine của cột 0 và cột 1 gần 0, gần 0,5 hay gần 1?
"""

# %% [markdown] lang="en"
r"""
## 1. Four samples, three features

Each row of `x` is a sample (one occurrence of the target word), each column a feature of Q, K or V. **Throughout the course we compare columns**, not rows.

The cosine similarity of two columns is their dot product divided by the product of their lengths:

$$\cos_{ij}=\frac{\sum_t x_{ti}\,x_{tj}}{\sqrt{\sum_t x_{ti}^2}\sqrt{\sum_t x_{tj}^2}}$$

**Predict.** For the numbers below, is the cosine of columns 0 and 1 near 0, near 0.5 or near 1?
"""

# %%
x = torch.tensor([[1.0, 2.0, 5.0], [2.0, 1.0, 3.0], [3.0, 4.0, 4.0], [4.0, 3.0, 4.0]])  # [sample, feature]

dot = length_0 = length_1 = 0.0
for row in x:
    dot += row[0] * row[1]
    length_0 += row[0] ** 2
    length_1 += row[1] ** 2

show(f"{dot / (length_0 * length_1) ** 0.5:.3f}")

# %% [markdown] lang="vi"
r"""
Vòng lặp để hiểu, phép nhân ma trận để chạy nhanh. Chia mỗi cột của $X$ cho độ dài của nó, được $\hat X$; tích $\hat X^\top\hat X$ cho *mọi* cặp cột cùng một lúc.
"""

# %% [markdown] lang="en"
r"""
The loop is for understanding, the matrix product for speed. Divide each column of $X$ by its length to get $\hat X$; then $\hat X^\top\hat X$ gives *all* pairs of columns at once.
"""

# %%
unit = x / x.norm(dim=0)  # [sample, feature], each column of length 1
print((unit.T @ unit).round(decimals=3))
assert torch.allclose(unit.T @ unit, cosine_similarity(x))

# %% [markdown] lang="vi"
r"""
## 2. Hệ số tương quan: trừ trung bình trước đã

Hệ số tương quan Pearson, ký hiệu $r$, *chính là* độ tương đồng cosine, tính sau khi trừ trung bình (mean-centring) ở mỗi cột. Toàn bộ khác biệt giữa hai phép đo nằm trong một dòng.
"""

# %% [markdown] lang="en"
r"""
## 2. Correlation: subtract the mean first

The Pearson correlation, written $r$, *is* the cosine similarity, taken after each column's mean is subtracted (mean-centring). The whole difference between the two measures is one line.
"""

# %%
centred = x - x.mean(dim=0)  # the one line
unit = centred / centred.norm(dim=0)
print((unit.T @ unit).round(decimals=3))
assert torch.allclose(unit.T @ unit, pearson_correlation(x))
assert torch.allclose(unit.T @ unit, torch.corrcoef(x.T))

# %% [markdown] lang="vi"
r"""
So hai bảng: cột 0 và cột 2 có cosine lớn và dương, nhưng hệ số tương quan lại âm. Cosine nói “cả hai cột đều dương và nằm xa 0 so với mức dao động của chúng”; tương quan nói “khi cột này tăng thì cột kia có xu hướng giảm”. Cả hai đều đúng; chúng trả lời hai câu hỏi khác nhau.

### Bài tập 2.1
Viết `cosine_matrix(x)`: nhận `[sample, feature]`, trả về ma trận cosine `[feature, feature]`. Không dùng vòng lặp và không gọi `helpers`.

*Gợi ý:* mục 1 đã có đủ mọi thứ; chú ý độ dài được tính theo trục nào.
"""

# %% [markdown] lang="en"
r"""
Compare the two tables: columns 0 and 2 have a large positive cosine and a negative correlation. The cosine says "both columns are positive, and far from 0 compared with how much they vary"; the correlation says "when one rises the other tends to fall". Both are right; they answer different questions.

### Exercise 2.1
Write `cosine_matrix(x)`: take `[sample, feature]`, return the cosines `[feature, feature]`. No loop, nothing from `helpers`.

*Hint:* section 1 has all you need; mind the axis over which the length is taken.
"""


# %% tags=["exercise"]
def cosine_matrix(x):
    return ...


check("2.1", cosine_matrix)


# %% tags=["solution"]
# @title Lời giải 2.1 · Solution 2.1
def cosine_matrix(x):
    unit = x / x.norm(dim=0, keepdim=True)  # [sample, feature]
    return unit.T @ unit  # [feature, feature]


check("2.1", cosine_matrix, solution=True)

# %% [markdown] lang="vi"
r"""
## 3. Cộng một hằng số vào cả hai chiều

Lấy hai chiều *độc lập*: mỗi chiều 54 số ngẫu nhiên, trung bình bằng 0. Cộng cùng một hằng số vào cả hai. Hằng số đó là **độ dời trung bình (mean offset)**.

**Dự đoán trước khi chạy.** Khi độ dời tăng từ 0 lên 5 lần độ lệch chuẩn, cosine đi về đâu? Tương quan đi về đâu? Còn khi độ dời âm?
"""

# %% [markdown] lang="en"
r"""
## 3. Add a constant to both features

Take two *independent* features: 54 random numbers each, mean 0. Add the same constant to both. That constant is the **mean offset**.

**Predict before you run.** As the offset grows from 0 to 5 standard deviations, where does the cosine go? And the correlation? And for a negative offset?
"""

# %%
pair = torch.randn(54, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
pair = (pair - pair.mean(dim=0)) / pair.std(dim=0, correction=0)  # mean 0, standard deviation 1

offsets = torch.linspace(-5, 5, 201, dtype=torch.float64)
shifted = pair + offsets[:, None, None]  # [offset, sample, feature]
curves = {
    "cosine": cosine_similarity(shifted)[:, 0, 1],  # [offset]
    "correlation": pearson_correlation(shifted)[:, 0, 1],
}
for offset in (0, 1, 3, 5):
    at = int((offsets - offset).abs().argmin())
    show(f"{offset:2d}  cos {curves['cosine'][at]:+.2f}   r {curves['correlation'][at]:+.2f}")

# %% [markdown] lang="vi"
r"""
Kéo thanh trượt bằng chuột, hoặc bấm vào nó rồi dùng phím mũi tên. (Thanh trượt cần một kernel Jupyter đang chạy; hình tĩnh ngay dưới cho thấy trạng thái ban đầu.)
"""

# %% [markdown] lang="en"
r"""
Move the slider with the mouse, or click it and use the arrow keys. (It needs a running Jupyter kernel; the still figure below shows the initial state.)
"""

# %% tags=["nbval-ignore-output"]
explorer = offset_explorer(pair)
explorer.widget

# %%
explorer.figure

# %% [markdown] lang="vi"
r"""
Đường tương quan nằm ngang hoàn toàn: cộng hằng số không làm nó nhúc nhích. (Nó không đúng bằng 0 vì mỗi chiều chỉ có 54 số: bài 05 sẽ đo xem dao động ngẫu nhiên ấy rộng đến đâu.) Đường cosine thì leo lên gần 1, dù hai chiều *không liên quan gì* đến nhau. Nếu hai độ dời trái dấu, đường cong sẽ lao xuống gần −1. Nhiều cặp chiều với độ dời lớn, dấu tùy ý, sẽ cho một biểu đồ tần suất (histogram) dồn về hai đầu: đó chính là **hình nụ cười (smile)** mà bài 04 đi tìm.

Điều hình này không cho biết: trong mô hình thật, độ dời lớn đến đâu, và nó từ đâu mà có.

## 4. Đồng nhất thức

Viết mỗi chiều dưới dạng $x_i=\mu_i+\sigma_i z_i$, với $z_i$ có trung bình 0 và độ lệch chuẩn 1. Khi đó trung bình của $z_iz_j$ chính là $r_{ij}$. Lấy trung bình theo các mẫu (hàng):

$$\overline{x_ix_j}=\mu_i\mu_j+\sigma_i\sigma_j\,r_{ij},\qquad \overline{x_i^2}=\mu_i^2+\sigma_i^2 .$$

Viết đẳng thức thứ hai cho $i$ và cho $j$, lấy căn bậc hai, chia đẳng thức thứ nhất cho tích hai căn ấy, rồi đặt $m=\mu/\sigma$ (độ dời tính theo đơn vị độ lệch chuẩn):

$$\boxed{\;\cos_{ij}=\frac{r_{ij}+m_i m_j}{\sqrt{(1+m_i^2)(1+m_j^2)}}\;}$$

Đây không phải phép xấp xỉ. Đọc nó như sau: không có độ dời ($m=0$) thì cosine *bằng* tương quan; *cả hai* độ dời rất lớn thì cosine tiến tới +1 hoặc −1, tùy $m_im_j$ dương hay âm, bất kể $r$.

Dạng tương đương, không cần chia cho $\sigma$: $\cos_{ij}=a_ia_jr_{ij}+b_ib_j$ với $a=\sigma/\text{rms}$, $b=\mu/\text{rms}$, $\text{rms}=\sqrt{\mu^2+\sigma^2}$ (căn của trung bình bình phương), nên $a^2+b^2=1$.
"""

# %% [markdown] lang="en"
r"""
The correlation is perfectly flat: adding a constant does not move it. (It is not exactly 0 because each feature has only 54 numbers: notebook 05 measures how wide that chance is.) The cosine climbs towards 1 although the two features have *nothing to do* with each other. With offsets of opposite signs it would fall towards −1. Many pairs of features with large offsets of either sign give a histogram that piles up at both ends: that is the **smile** which notebook 04 looks for.

What this figure does not say: how large the offsets in a real model are, and where they come from.

## 4. The identity

Write each feature as $x_i=\mu_i+\sigma_i z_i$, where $z_i$ has mean 0 and standard deviation 1. Then the mean of $z_iz_j$ is $r_{ij}$. Take means over the samples (rows):

$$\overline{x_ix_j}=\mu_i\mu_j+\sigma_i\sigma_j\,r_{ij},\qquad \overline{x_i^2}=\mu_i^2+\sigma_i^2 .$$

Take the second for $i$ and for $j$, divide the first by the product of their square roots, and put $m=\mu/\sigma$ (the offset in units of the standard deviation):

$$\boxed{\;\cos_{ij}=\frac{r_{ij}+m_i m_j}{\sqrt{(1+m_i^2)(1+m_j^2)}}\;}$$

This is no approximation. Read it so: without offsets ($m=0$) the cosine *is* the correlation; with *both* offsets very large the cosine goes to the sign of $m_im_j$, whatever $r$ is.

The same without a division by $\sigma$: $\cos_{ij}=a_ia_jr_{ij}+b_ib_j$ with $a=\sigma/\text{rms}$, $b=\mu/\text{rms}$ and $\text{rms}=\sqrt{\mu^2+\sigma^2}$ (root mean square), so that $a^2+b^2=1$.
"""

# %%
r = float(curves["correlation"][0])
predicted = cosine_from_correlation(r, offsets, offsets)  # both features have standard deviation 1
print(bool((predicted - curves["cosine"]).abs().max() < 1e-12))

# %% [markdown] lang="vi"
r"""
### Bài tập 2.2
Hai chiều không tương quan ($r=0$) có cùng độ dời tương đối $m$. Số dương $m$ nào làm cosine bằng 0,9? Gán vào `m_needed`.

*Gợi ý:* thay $r=0$, $m_i=m_j=m$ vào đồng nhất thức rồi giải phương trình.
"""

# %% [markdown] lang="en"
r"""
### Exercise 2.2
Two uncorrelated features ($r=0$) have the same relative offset $m$. Which positive $m$ makes their cosine 0.9? Put it into `m_needed`.

*Hint:* set $r=0$ and $m_i=m_j=m$ in the identity and solve.
"""

# %% tags=["exercise"]
m_needed = ...

check("2.2", m_needed)

# %% tags=["solution"]
# @title Lời giải 2.2 · Solution 2.2
m_needed = (0.9 / (1 - 0.9)) ** 0.5  # m^2 / (1 + m^2) = 0.9

check("2.2", m_needed, solution=True)

# %% [markdown] lang="vi"
r"""
## 5. Trên mô hình thật

Lấy Q, K, V của " her" trong mọi câu, ở một tầng nông (early layer). **Dự đoán:** bao nhiêu phần trăm số chiều có độ dời lớn hơn độ lệch chuẩn ($|m|>1$)?
"""

# %% [markdown] lang="en"
r"""
## 5. In a real model

Take Q, K and V of " her" in all sentences, at an early layer. **Predict:** what share of the features has an offset larger than its standard deviation ($|m|>1$)?
"""

# %%
model, tokenizer = load_model()
batch = encode(tokenizer, load_sentences("her"))
positions = find_token(batch, token_id_of(tokenizer, " her"))
layer = max(1, len(attention_modules(model)) // 10)
qkv = capture_qkv(model, batch, layers=(layer, 0), positions=positions)  # layer 0 is for section 6
x = qkv.joined()[0].double().cpu()  # [sample, feature]: one sample per sentence
m = x.mean(dim=0) / x.std(dim=0, correction=0)  # [feature]
print(model.provenance, "·", label("layer"), layer, "·", f"n = {len(x)}")
print(f"|m| > 1: {(m.abs() > 1).double().mean():.0%}    |m| > 3: {(m.abs() > 3).double().mean():.0%}")

# %% [markdown] lang="vi"
r"""
Giờ kiểm tra đồng nhất thức trên *mọi* cặp chiều của dữ liệu thật, chứ không phải trên ví dụ được chọn sẵn:
"""

# %% [markdown] lang="en"
r"""
Now check the identity on *every* pair of features of the real data, not on a hand-picked example:
"""

# %%
cosine = cosine_similarity(x)  # [feature, feature]
correlation = pearson_correlation(x)
predicted = cosine_from_correlation(correlation, m[:, None], m)
error = (predicted - cosine).abs().max()
print(tuple(cosine.shape), bool(error < 1e-12))
assert error < 1e-12

# %% [markdown] lang="vi"
r"""
Hãy nhìn một cặp cụ thể: cosine trên 0,9 (hoặc cao nhất, nếu không cặp nào đạt mức ấy) nhưng tương quan gần 0. Mỗi chấm là một câu.
"""

# %% [markdown] lang="en"
r"""
Look at one pair: a cosine above 0.9 (or the highest there is, if none is) and a correlation near 0. Each dot is a sentence.
"""

# %%
high = cosine.triu(1).max().clamp(max=0.9)
candidates = torch.where(cosine.triu(1) >= high, correlation.abs(), torch.inf)
i, j = divmod(int(candidates.argmin()), len(m))
figure = plot_feature_pair(x[:, i], x[:, j], f"cos = {cosine[i, j]:.2f}   r = {correlation[i, j]:z.2f}   n = {len(x)}")

# %% [markdown] lang="vi"
r"""
Nếu cosine ghi trên hình gần 1 thì đám mây điểm nằm xa gốc tọa độ. Cosine đứng ở **gốc tọa độ** nhìn ra: mọi chấm nằm về cùng một hướng và tách khỏi cả hai trục, nên hai chiều “giống nhau”. Tương quan đứng ở **trung bình** nhìn ra: các chấm tản ra không theo trật tự nào, nên hai chiều “không liên quan”.

Hình này chỉ là một cặp được chọn vì nó cực đoan. Phân phối của tất cả các cặp là chuyện của bài 04.

### Bài tập 2.3
Tìm một cặp chiều `(i, j)` khác trong dữ liệu thật: cosine **âm** dưới −0,9 và $|r|<0{,}1$. Gán vào `opposite_pair`.

*Gợi ý:* tạo một mặt nạ (mask) từ hai điều kiện trên `cosine` và `correlation`, rồi `.nonzero()`.
"""

# %% [markdown] lang="en"
r"""
Where the cosine in the title is near 1, the cloud lies far from the origin. Cosine looks from the **origin**: all dots are in one direction and clear of both axes, hence "alike". Correlation looks from the **mean**: the dots scatter without order, hence "unrelated".

This is one pair, chosen because it is extreme. How all pairs are distributed is the business of notebook 04.

### Exercise 2.3
Find a pair of features `(i, j)` in the real data with a **negative** cosine below −0.9 and $|r|<0.1$. Put it into `opposite_pair`.

*Hint:* make a mask out of the two conditions on `cosine` and `correlation`, then `.nonzero()`.
"""

# %% tags=["exercise"]
opposite_pair = ...

check("2.3", opposite_pair, x)

# %% tags=["solution"]
# @title Lời giải 2.3 · Solution 2.3
pairs = ((cosine < -0.9) & (correlation.abs() < 0.1)).nonzero().tolist()  # in some models there is none
opposite_pair = pairs[0] if pairs else ...

check("2.3", opposite_pair, x, solution=True)
if not pairs:
    print(say("mô hình này không có cặp nào như thế", "this model has no such pair"))

# %% [markdown] lang="vi"
r"""
## 6. Khi hệ số tương quan không tồn tại

Nếu một chiều có *cùng một giá trị* ở mọi mẫu thì độ lệch chuẩn bằng 0: công thức tương quan là 0/0, không xác định. Làm tròn số có thể che mất điều đó. Dưới đây là hai cột hằng số; NumPy và `helpers` trả lời ra sao?
"""

# %% [markdown] lang="en"
r"""
## 6. When there is no correlation

If a feature has the *same value* in every sample, its standard deviation is 0: the correlation is 0/0, undefined. Rounding can hide that. Here are two constant columns; what do NumPy and `helpers` answer?
"""

# %% tags=["nbval-ignore-output"]
constants = np.column_stack([np.full(54, 0.1), np.full(54, 0.7)])  # [sample, feature]
with np.errstate(all="ignore"):
    print("numpy  ", np.corrcoef(constants, rowvar=False)[0, 1])
print("helpers", float(pearson_correlation(torch.tensor(constants))[0, 1]))

# %% [markdown] lang="vi"
r"""
Trong máy tính, trung bình của 54 số 0,1 không bằng đúng 0,1, nên cột “đã trừ trung bình” chỉ còn sai số làm tròn, và NumPy có thể đo tương quan của chính sai số đó. `helpers` coi một chiều là hằng số khi nó chỉ dao động ở mức sai số làm tròn, trả về `NaN`, và *đếm* những cặp như thế.

Chuyện này có thật: ở tầng 0 của một mô hình dùng mã hóa vị trí xoay (RoPE), Q, K, V của " her" (lấy trước khi xoay) không đổi từ câu này sang câu khác, vì từ ấy chưa nhận được chút ngữ cảnh nào. (Ở mô hình cộng vị trí vào embedding, như GPT-2, các vector ấy khác nhau theo vị trí, nên tương quan xác định.)
"""

# %% [markdown] lang="en"
r"""
The mean of 54 numbers 0.1 is not exactly 0.1 in a computer, so the "centred" column is nothing but rounding error, and NumPy may report the correlation of that. `helpers` calls a feature constant when it varies at rounding level only, returns `NaN`, and *counts* such pairs.

It happens for real: at layer 0 of a model with rotary positions (RoPE), " her" has the same Q, K and V (captured before the rotation) in every sentence, because no context has touched it yet. (Where positions are added to the embedding, as in GPT-2, they differ by position, and the correlation is defined.)
"""

# %%
x0 = qkv.joined()[1]  # [sample, feature], layer 0
print(
    f"{torch.isnan(pearson_correlation(x0)).double().mean():.0%}",
    f"{torch.isnan(cosine_similarity(x0)).double().mean():.0%}",
)

# %% [markdown] lang="vi"
r"""
Hai số trên là tỉ lệ cặp không xác định ở tầng 0: của tương quan, rồi của cosine. Chỗ nào tương quan không xác định, cosine vẫn xác định (trừ khi có cột toàn số 0), vì nó không cần độ lệch chuẩn.

## Tự kiểm tra
1. Nhân một chiều với 3: cosine thay đổi không? Tương quan thay đổi không? Nhân với −3 thì sao?
2. Chỉ cộng 3 vào một chiều: phép đo nào thay đổi?
3. Trong đồng nhất thức, khi nào cosine bằng đúng tương quan, với mọi $r$?
4. Có thể có cosine 0 mà tương quan −0,5 không?

<details><summary>Trả lời ngắn</summary>

1. Nhân với số dương: cả hai không đổi. Nhân với số âm: cả hai đổi dấu.
2. Chỉ cosine.
3. Với mọi $r$: chỉ khi cả hai độ dời bằng 0. (Với một giá trị $r$ cụ thể, hai số có thể tình cờ trùng nhau, chẳng hạn khi $r=1$ và $m_i=m_j$.) Nếu chỉ một độ dời bằng 0 thì $\cos=r/\sqrt{1+m^2}$, có trị tuyệt đối nhỏ hơn $|r|$ khi $r\ne0$.
4. Có: chọn $m_im_j=0{,}5$.
</details>

## Tóm tắt
- Tương quan = cosine sau khi trừ trung bình.
- $\cos_{ij}=(r_{ij}+m_im_j)/\sqrt{(1+m_i^2)(1+m_j^2)}$: cosine nhìn thấy cả độ dời, tương quan thì không.
- Chiều hằng số không có tương quan; hãy đếm chúng thay vì giấu đi.

## Tài liệu
- J. L. Rodgers và W. A. Nicewander, *Thirteen Ways to Look at the Correlation Coefficient*, The American Statistician 42(1), 1988.
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 ([arXiv:1909.00512](https://arxiv.org/abs/1909.00512)).
- W. Timkey và M. van Schijndel, *All Bark and No Bite: Rogue Dimensions in Transformer Language Models Obscure Representational Quality*, EMNLP 2021 ([arXiv:2109.04404](https://arxiv.org/abs/2109.04404)).
"""

# %% [markdown] lang="en"
r"""
The two numbers are the share of undefined pairs at layer 0: of the correlation, then of the cosine. Where the correlation is undefined the cosine is still defined (unless a column is all zeros), for it needs no standard deviation.

## Check yourself
1. Multiply one feature by 3: does the cosine change? The correlation? And by −3?
2. Add 3 to one feature only: which measure changes?
3. In the identity, when does the cosine equal the correlation, whatever $r$ is?
4. Can the cosine be 0 while the correlation is −0.5?

<details><summary>Short answers</summary>

1. By a positive number: neither changes. By a negative one: both change sign.
2. The cosine only.
3. For every $r$: only when both offsets are 0. (For one particular $r$ they may coincide, say $r=1$ and $m_i=m_j$.) If only one is 0, $\cos=r/\sqrt{1+m^2}$, smaller in size when $r\ne0$.
4. Yes: choose $m_im_j=0.5$.
</details>

## Summary
- Correlation = cosine after the mean is subtracted.
- $\cos_{ij}=(r_{ij}+m_im_j)/\sqrt{(1+m_i^2)(1+m_j^2)}$: the cosine sees the offsets, the correlation does not.
- A constant feature has no correlation; count such features instead of hiding them.

## References
- J. L. Rodgers and W. A. Nicewander, *Thirteen Ways to Look at the Correlation Coefficient*, The American Statistician 42(1), 1988.
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 ([arXiv:1909.00512](https://arxiv.org/abs/1909.00512)).
- W. Timkey and M. van Schijndel, *All Bark and No Bite: Rogue Dimensions in Transformer Language Models Obscure Representational Quality*, EMNLP 2021 ([arXiv:2109.04404](https://arxiv.org/abs/2109.04404)).
"""
