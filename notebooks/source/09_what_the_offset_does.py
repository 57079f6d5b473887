# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] lang="vi"
r"""
# 09 · Độ dời có phải là mã không? Can thiệp

**Câu hỏi.** Tài liệu gốc kết luận: độ dời trung bình (mean offset) không phải nhiễu mà là *mã* mà mô hình dựa vào để vận hành. Biểu đồ tần suất (histogram) không thể chứng minh điều ấy. Nếu ta bỏ độ dời đi, mô hình có còn dự đoán được như trước không? Và nếu không, có phải vì *chính* độ dời ấy?

**Sau bài này, bạn có thể**
- sửa Q, K hoặc V khi chúng đi qua mô hình, và đo hậu quả bằng entropy chéo (cross-entropy) và phân kỳ KL;
- đặt mỗi can thiệp (intervention) cạnh một can thiệp ngẫu nhiên có cùng độ lớn;
- chứng minh rằng softmax triệt tiêu một hằng số cộng vào mọi khóa (key), và giải thích mã hóa vị trí xoay (RoPE) làm thay đổi điều gì;
- dựng một mô hình *khác biểu đồ nhưng cùng logit*: tự do gauge (gauge freedom);
- kết luận riêng cho Q, cho K và cho V bằng ngưỡng đặt trước.

**Thời gian:** khoảng 105 phút đọc và làm bài tập; máy tính chạy khoảng 10 phút. **Cần biết trước:** bài 01, 04, 06 và 08.
"""

# %% [markdown] lang="en"
r"""
# 09 · Is the offset a code? Interventions

**Question.** The source concludes that mean offsets are not noise but the *code* that the model runs on. No histogram can prove that. If we take the offset away, does the model still predict as before? And if it does not, is it because of *that* offset?

**Afterwards you can**
- edit Q, K or V on their way through a model, and measure what follows by cross-entropy and KL divergence;
- set every intervention beside a random one of the same size;
- prove that the softmax cancels a constant added to all keys, and say what rotary positions change about that;
- build a model with *another histogram and the same logits*: gauge freedom;
- conclude for Q, for K and for V separately, by thresholds set beforehand.

**Time:** about 105 minutes of reading and exercises; the computer runs for about 10 minutes. **You need:** notebooks 01, 04, 06 and 08.
"""

# %% tags=["setup"]
# the build puts setup_cell.py here
from helpers import set_language

set_language("vi")

# %%
from contextlib import ExitStack, contextmanager

import torch
from scipy import stats

from helpers import (
    attention_modules,
    block_histograms,
    capture_qkv,
    edit_qkv,
    encode,
    find_token,
    label,
    load_model,
    load_ordinary,
    load_sentences,
    say,
    smile_index,
    token_id_of,
    wasserstein_distance,
)
from helpers.checks import check
from helpers.interventions import effect, in_double, predict, real_tokens, resume_at
from helpers.plots import COLOURS, plot_conditions
from helpers.plots_interventions import (
    mean_and_reach,
    plot_distance,
    plot_effect_depth,
    plot_effects,
    plot_layer_curves,
    plot_scaling,
    plot_smile_and_effect,
)

# %% [markdown] lang="vi"
r"""
## 1. Ba nghĩa của chữ "mã", và luật chơi

"Độ dời là mã" có thể mang ba nghĩa, mỗi nghĩa có một phép thử:

1. **Cần thiết.** Bỏ độ dời đi thì dự đoán thay đổi.
2. **Đặc thù.** Dự đoán thay đổi *nhiều hơn* so với khi ta trừ một vector ngẫu nhiên có cùng độ dài ở từng đầu attention (head).
3. **Tự nó đủ.** Chỉ giữ độ dời, bỏ hết biến thiên, mô hình vẫn làm được phần lớn công việc.

**Ngưỡng, đặt trước khi chạy.** Thước đo là phân kỳ KL từ mô hình không can thiệp, tính bằng nat trên mỗi token, lấy trung bình trên các câu, kèm khoảng tin cậy (confidence interval) 95% theo câu. *Cần thiết*: cận dưới của khoảng tin cậy của KL khi trừ độ dời lớn hơn 0,1. *Đặc thù*: ngoài ra, KL ấy ít nhất gấp đôi KL của lần rút ngẫu nhiên mạnh nhất. *Tự nó đủ*: KL khi chỉ giữ độ dời không quá một nửa KL khi gán bằng 0. *Bị triệt tiêu*: KL nhỏ hơn 0,001.

**Dự đoán** trước khi đọc tiếp: trong Q, K và V, độ dời của phần nào cần thiết nhất?
"""

# %% [markdown] lang="en"
r"""
## 1. Three meanings of "code", and the rules of the game

"The offset is a code" can mean three things, each with a test of its own:

1. **Needed.** Take the offset away and the predictions change.
2. **Specific.** They change *more* than when a random vector of the same length in each head is subtracted.
3. **Enough.** Keep only the offset, drop all variation, and the model still does most of its work.

**Thresholds, set before anything is run.** The yardstick is the KL divergence from the unedited model in nats per token, averaged over sentences, with a 95% interval over sentences. *Needed*: the lower end of the KL after subtracting the offset is above 0.1. *Specific*: moreover that KL is at least twice that of the strongest random draw. *Enough*: the KL when only the offset is kept is at most half of that when the part is set to zero. *Cancelled*: the KL is below 0.001.

**Predict** before you read on: of Q, K and V, whose offset is needed most?
"""

# %%
NEEDED, SPECIFIC, ENOUGH, CANCELLED = 0.1, 2, 0.5, 0.001

model, tokenizer = load_model()
ordinary = load_ordinary()
batches = {"ordinary": encode(tokenizer, ordinary[0::2]), "her": encode(tokenizer, load_sentences("her"))}
held_out = encode(tokenizer, ordinary[1::2])
before = {name: predict(model, batch) for name, batch in batches.items()}
sets = {"ordinary": say("câu thường", "ordinary sentences"), "her": say("các câu có “ her”", "sentences with “ her”")}

print(model.provenance)
for name, batch in batches.items():
    n_sentence, n_token = len(batch["input_ids"]), int(batch["attention_mask"].sum())
    loss = float(before[name].loss.mean())
    print(
        f"{sets[name]:21s} {n_sentence} {label('sentences')}, {n_token} {label('tokens')}, "
        f"{say('hàm mất mát', 'loss')} {loss:.1f}"
    )

# %% [markdown] lang="vi"
r"""
Độ dời lấy từ `held_out`: 40 câu *khác*, không câu nào được dùng để đo. Ta bỏ token đầu của mỗi câu, vì nó là điểm hút chú ý (attention sink) và rất khác các token còn lại. Hai dòng rms của bảng dưới cho biết khác đến mức nào.
"""

# %% [markdown] lang="en"
r"""
The offset comes from `held_out`: 40 *other* sentences, none of which is used for measuring. The first token of each is left out, for it is the attention sink and very unlike the rest. The two rms lines of the table below say how unlike.
"""

# %%
held = capture_qkv(model, held_out)
inner, d_head, n_layer = real_tokens(held_out, first=False).to(held.q.device), held.d_head, len(held.layers)
offset = {part: getattr(held, part.lower())[:, inner].mean(dim=1) for part in "QKV"}  # [layer, feature]

middle = n_layer // 2
print(f"{label('layer')} {middle}" + " " * 20 + "      Q      K      V")
first_only = real_tokens(held_out).to(inner.device) & ~inner
for name, chosen in ((f"rms, {label('tokens')} 1, 2, …", inner), ("rms, token 0", first_only)):
    rms = [getattr(held, part)[middle, chosen].square().sum(-1).mean().sqrt() for part in "qkv"]
    print(f"{name:29s}" + "".join(f"{float(value):7.1f}" for value in rms))
print(f"{label('offset_size'):29s}" + "".join(f"{float(offset[part][middle].norm()):7.1f}" for part in "QKV"))

# %% [markdown] lang="vi"
r"""
## 2. Vector ngẫu nhiên có cùng độ dài

Trừ *bất cứ thứ gì* đủ lớn thì mô hình cũng hỏng. Vì vậy mỗi can thiệp cần một đối chứng: một vector có hướng ngẫu nhiên, dài bằng độ dời *ở từng đầu*.

### Bài tập 9.1
Viết `random_like(offset, d_head, generator)`: `offset` có kích thước `[..., feature]`, các đầu nằm cạnh nhau. Trả về vector ngẫu nhiên cùng kích thước, mà ở mỗi đầu có cùng chuẩn với `offset`.

*Gợi ý:* `torch.randn(..., generator=generator)`, `unflatten(-1, (-1, d_head))`, rồi chia cho chuẩn và nhân với chuẩn.
"""

# %% [markdown] lang="en"
r"""
## 2. A random vector of the same length

Subtract *anything* large enough and the model breaks. So every intervention needs a control: a vector of random direction, as long as the offset *in each head*.

### Exercise 9.1
Write `random_like(offset, d_head, generator)`: `offset` is `[..., feature]`, heads side by side. Return a random vector of the same shape which in every head has the norm of `offset`.

*Hint:* `torch.randn(..., generator=generator)`, `unflatten(-1, (-1, d_head))`, then divide by a norm and multiply by a norm.
"""


# %% tags=["exercise"]
def random_like(offset, d_head, generator):
    return ...


check("9.1", random_like)


# %% tags=["solution"]
# @title Lời giải 9.1 · Solution 9.1
def random_like(offset, d_head, generator):
    heads = offset.unflatten(-1, (-1, d_head))  # [..., head, d_head]
    random = torch.randn(heads.shape, generator=generator).to(heads)
    return (random / random.norm(dim=-1, keepdim=True) * heads.norm(dim=-1, keepdim=True)).flatten(-2)


check("9.1", random_like)

# %% [markdown] lang="vi"
r"""
Ba kiểu sửa. Mỗi kiểu nhận độ dời của một tầng (layer) và trả về một hàm cho `edit_qkv`: hàm ấy nhận các vector `[sentence, token, feature]` cùng vị trí của chúng, rồi trả về vector mới.
"""

# %% [markdown] lang="en"
r"""
Three kinds of edit. Each takes the offset of one layer and returns a function for `edit_qkv`: it gets the vectors `[sentence, token, feature]` and their positions, and returns new vectors.
"""


# %%
def subtract(vector, scale=0.0, keep_first=False):
    """scale * offset instead of the offset; with keep_first, the first token stays as it is."""
    return lambda values, positions: values - (1 - scale) * vector * (positions >= keep_first).unsqueeze(-1)


def replace(vector):
    return lambda values, positions: vector.expand_as(values)


def zero(vector):
    return lambda values, positions: torch.zeros_like(values)


# %% [markdown] lang="vi"
r"""
Sửa ở đâu? Trong một mô hình dùng mã hóa vị trí xoay (RoPE), phép chiếu (projection) cho ra K, rồi *bước xoay* (rotary step) quay mỗi khóa theo vị trí của nó, sau đó mới đến tích vô hướng. Độ dời trước bước xoay và độ dời sau bước xoay là hai vector khác nhau, và sửa ở hai chỗ là hai thí nghiệm khác nhau. Hàm sau ghi lại Q hoặc K khi chúng đi vào tích vô hướng, bằng một phép sửa không sửa gì.
"""

# %% [markdown] lang="en"
r"""
Where to edit? In a model with rotary positions the projection gives K, then the *rotary step* turns every key by its position, and only then the key enters the dot product. The offset before that step and the offset after it are two different vectors, and editing at the two places makes two different experiments. The next function records Q or K as they enter the dot product, with an edit that edits nothing.
"""


# %%
def after_rotary(batch, part, make=None):
    """One part as it enters the dot product, [layer, sentence, token, feature]; `make` may edit it before."""
    seen = [None] * n_layer

    def recorder(layer):
        def record(values, positions):
            seen[layer] = values.clone()
            return values

        return record

    with ExitStack() as edits, torch.no_grad():
        for layer in range(n_layer):
            if make:
                edits.enter_context(edit_qkv(model, layer, part, make(layer)))
            edits.enter_context(edit_qkv(model, layer, part, recorder(layer), after_rotary=True))
        model.base_model(**{key: value.to(model.device) for key, value in batch.items()})
    return torch.stack(seen)


k_offset_in = after_rotary(held_out, "K")[:, inner].mean(dim=1)  # [layer, feature]


# %%
def measure(part, make, vectors, *, on="ordinary", layers=range(n_layer), after_rotary=False, **options):
    """Effect of editing one part at some layers; vectors [layer, feature]."""
    with ExitStack() as edits:
        for layer in layers:
            fn = make(vectors[layer], **options)
            edits.enter_context(edit_qkv(model, layer, part, fn, after_rotary=after_rotary))
        edits.enter_context(resume_at(model, min(layers), before[on]))  # layers below: as they were
        return effect(model, batches[on], before[on])


# %% [markdown] lang="vi"
r"""
## 3. Mọi tầng cùng lúc

Mỗi dòng: KL, rồi mức tăng của entropy chéo, đều kèm nửa độ rộng của khoảng tin cậy 95%; sau dấu · là KL của các lần rút ngẫu nhiên.

Với V và K có hai thí nghiệm *khác nhau*: sửa mọi token, hay chừa token đầu. Trung bình được tính mà không dùng token đầu; V của token ấy thường gần 0, nên trừ độ dời khỏi nó là *thêm vào* một thứ chưa từng có.

**Dự đoán.** Một trong các dòng của K sẽ cho KL bằng 0. Dòng nào, và vì sao?
"""

# %% [markdown] lang="en"
r"""
## 3. All layers at once

Each line: the KL, then the increase of the cross-entropy, each with half the width of its 95% interval; after the ·, the KL of the random draws.

For V and K there are two *different* experiments: edit every token, or leave the first one alone. The mean was taken without the first token; the V of that token is often near 0, so that subtracting the offset from it *adds* something that was never there.

**Predict.** One of the lines of K will show a KL of 0. Which one, and why?
"""


# %%
def trial(part, name, make, on, *, vectors=None, n_draw=0, **options):
    """One edit and its random control: measured, kept and printed."""
    vectors = offset[part] if vectors is None else vectors
    found = measure(part, make, vectors, on=on, **options)
    random = [measure(part, make, random_like(vectors, d_head, generator), on=on, **options).kl for _ in range(n_draw)]
    (kl, reach), (loss, loss_reach) = mean_and_reach(found.kl), mean_and_reach(found.delta_loss)
    chance = "   · " + ", ".join(f"{float(r.mean()):z.2f}" for r in random) if random else ""
    print(f"{part} {label(name):32s} KL {kl:z5.2f} ± {reach:.2f}   Δ {loss:+z6.2f} ± {loss_reach:.2f}{chance}")
    results[on].setdefault(part, {})[name], controls[on].setdefault(part, {})[name] = found.kl, random


generator = torch.Generator().manual_seed(0)
results, controls = ({"ordinary": {}, "her": {}} for _ in range(2))

# %%
for part in "QKV":
    trial(part, "subtract", subtract, "ordinary", n_draw=3)
    if part != "Q":
        trial(part, "subtract_not_first", subtract, "ordinary", n_draw=3, keep_first=True)
    if part == "K":
        moved = {"vectors": k_offset_in, "after_rotary": True, "n_draw": 1}
        trial(part, "after_rotary", subtract, "ordinary", **moved)
        trial(part, "after_rotary_not_first", subtract, "ordinary", keep_first=True, **moved)
    trial(part, "replace", replace, "ordinary")
    trial(part, "zero", zero, "ordinary")

# %%
for part in "QKV":
    trial(part, "subtract", subtract, "her", n_draw=2)
    if part == "V":
        trial(part, "subtract_not_first", subtract, "her", n_draw=2, keep_first=True)
    trial(part, "replace", replace, "her")
    trial(part, "zero", zero, "her")

# %%
for on, name in sets.items():
    n = f"{len(batches[on]['input_ids'])} {label('sentences')}, {int(batches[on]['attention_mask'].sum())} {label('tokens')}"
    figure = plot_effects(results[on], controls[on], title=f"{model.provenance}\n{name}: {n}")

# %% [markdown] lang="vi"
r"""
Hình tròn là can thiệp, hình thoi xám cùng dòng là vector ngẫu nhiên cùng độ dài; khoảng tin cậy thường ngắn hơn ký hiệu. Trục KL là trục logarit, mũi tên ở mép trái nghĩa là nhỏ hơn 0,001. Hai dòng "gán bằng 0" của Q và của K bằng nhau, và phải như thế: $q=0$ hay $k=0$ thì mọi điểm số attention (score) đều bằng 0, attention trải đều.

Hình này *không* cho biết vì sao: nó sửa mọi tầng cùng lúc, và tầng sau nhận đầu vào đã hỏng từ tầng trước. Trước hết hãy xem liều lượng.

## 4. Nhân độ dời với 0 đến 2

**Dự đoán.** Nhân đôi độ dời có hại bằng bỏ nó đi không? Cả hai đều dời vector đi một đoạn bằng nhau.
"""

# %% [markdown] lang="en"
r"""
Circles are edits, the grey diamonds in the same row are random vectors of the same length; the intervals are mostly shorter than the symbols. The axis is logarithmic, and an arrow at the left edge means less than 0.001. The two rows "set to zero" of Q and of K are equal, and must be: with $q=0$ or $k=0$ every score is 0 and attention is uniform.

The figure does *not* say why: it edits all layers at once, and a later layer receives what an earlier one has already spoilt. First look at the dose.

## 4. Multiply the offset by 0 to 2

**Predict.** Does doubling the offset do as much harm as dropping it? Both move the vector equally far.
"""

# %%
scales = (0, 0.5, 1, 1.5, 2)
known = {0: "subtract"}
curves = {}
for part in "QKV":
    options = {"keep_first": part == "V"}
    known[0] = "subtract_not_first" if part == "V" else "subtract"
    done = {0: results["ordinary"][part][known[0]], 1: torch.zeros(len(batches["ordinary"]["input_ids"]))}
    curves[part] = [
        done[a] if a in done else measure(part, subtract, offset[part], scale=a, **options).kl for a in scales
    ]
    print(part, "  ".join(f"{a}: {float(kl.mean()):z.2f}" for a, kl in zip(scales, curves[part])))

# %%
by_chance = {part: controls["ordinary"][part]["subtract_not_first" if part == "V" else "subtract"] for part in "QKV"}
figure = plot_scaling(scales, curves, by_chance, title=f"{model.provenance} · n = 40 {label('sentences')}")

# %% [markdown] lang="vi"
r"""
Nếu đường cong không đối xứng quanh 1, thì *hướng* của độ dời quan trọng, không chỉ độ lớn của phép sửa. Ở đâu nhân đôi gần như vô hại mà bỏ đi thì hỏng, ở đó độ dời làm một việc mà có làm quá tay cũng không sao: ví dụ đẩy điểm của một token lên cao.

## 5. Khóa: softmax triệt tiêu hằng số

Điểm của truy vấn (query) $q_i$ với khóa $k_j$ là $q_i\cdot k_j/\sqrt d$. Cộng cùng một vector $c$ vào *mọi* khóa:

$$\frac{q_i\cdot(k_j+c)}{\sqrt d}=\frac{q_i\cdot k_j}{\sqrt d}+\frac{q_i\cdot c}{\sqrt d}.$$

Số hạng sau không chứa $j$: mọi điểm của truy vấn $i$ tăng bằng nhau, và softmax không đổi khi mọi điểm tăng bằng nhau. Vậy một hằng số của K, dù lớn đến đâu, *không thể* mang thông tin gì.

### Bài tập 9.2
Viết `added(q, c)`: với `q` `[query, d_head]` và `c` `[d_head]`, trả về `[query]`: số mà mỗi truy vấn cộng thêm vào mọi điểm của nó.
"""

# %% [markdown] lang="en"
r"""
If the curve is not symmetric about 1, the *direction* of the offset matters, not just the size of the edit. Where doubling is nearly harmless and dropping is not, the offset does a job that can be overdone without harm: pushing up the score of one token, say.

## 5. Keys: the softmax cancels a constant

The score of query $q_i$ with key $k_j$ is $q_i\cdot k_j/\sqrt d$. Add the same vector $c$ to *all* keys:

$$\frac{q_i\cdot(k_j+c)}{\sqrt d}=\frac{q_i\cdot k_j}{\sqrt d}+\frac{q_i\cdot c}{\sqrt d}.$$

The last term has no $j$: all scores of query $i$ rise alike, and the softmax does not change when all scores rise alike. So a constant of K, however large, *cannot* carry any information.

### Exercise 9.2
Write `added(q, c)`: for `q` `[query, d_head]` and `c` `[d_head]`, return `[query]`: what each query adds to all of its scores.
"""


# %% tags=["exercise"]
def added(q, c):
    return ...


check("9.2", added)


# %% tags=["solution"]
# @title Lời giải 9.2 · Solution 9.2
def added(q, c):
    return q @ c / q.shape[-1] ** 0.5


check("9.2", added)

# %% [markdown] lang="vi"
r"""
Kiểm chứng trên mô hình thật. Mã hóa vị trí xoay (RoPE) quay mỗi khóa theo vị trí của nó *sau* phép chiếu; "mọi khóa" vì thế phải hiểu là khóa đi vào tích vô hướng, tức là sau bước xoay. Ta ghi lại Q và K tại đó bằng một phép sửa không sửa gì, tính lại attention bằng tay, và cộng độ dời vào mọi khóa.
"""

# %% [markdown] lang="en"
r"""
Now on the real model. Rotary position embedding turns every key by its position, *after* the projection; "all keys" therefore means the keys as they enter the dot product, after the rotary step. We record Q and K there with an edit that edits nothing, recompute the attention by hand, and add the offset to all keys.
"""


# %%
batch = batches["ordinary"].to(model.device)
q_in, k_in = after_rotary(batch, "Q"), after_rotary(batch, "K")  # [layer, sentence, token, feature]
real = real_tokens(batch)
group = q_in.shape[-1] // k_in.shape[-1]  # query heads per key head


def by_head(x, times=1):
    """[sentence, token, feature] -> [sentence, head, token, d_head]; key heads repeated for their query heads."""
    return x.unflatten(-1, (-1, d_head)).transpose(1, 2).repeat_interleave(times, dim=1)


# %%
def attention(q, k):
    """By hand: q, k [sentence, token, feature] after the rotary step -> weights [sentence, head, query, key]."""
    scores = by_head(q) @ by_head(k, group).mT / d_head**0.5
    later = torch.ones(scores.shape[-2:], device=q.device).triu(1).bool()
    return scores.masked_fill(later, -torch.inf).softmax(dim=-1)


with torch.no_grad():
    own = model.base_model(**batch, output_attentions=True).attentions[middle]
plain, shifted = attention(q_in[middle], k_in[middle]), attention(q_in[middle], k_in[middle] + k_offset_in[middle])
by_hand = (plain - own).transpose(1, 2)[real].abs().max()  # padding looks elsewhere in the model's own
cancelled = (plain - shifted).abs().max()
assert by_hand < 1e-4 and cancelled < 1e-4
print(f"{label('layer')} {middle}: {bool(by_hand < 1e-4)}, {bool(cancelled < 1e-4)}")

# %% [markdown] lang="vi"
r"""
Hai phép so sánh: attention tính tay với attention của mô hình, rồi attention có cộng hằng số với attention không cộng; cả hai lần đều khớp đến độ chính xác của float32. Đó là dòng có KL bằng 0 ở mục 3. (Chừa token đầu thì không còn là *mọi* khóa nữa, và KL hết bằng 0.)

Trước bước xoay thì khác. Khóa ở vị trí $j$ mang $R_jc$, và truy vấn ở vị trí $t$ thấy

$$\frac{(R_tq_t)\cdot(R_jc)}{\sqrt d}=\frac{q_t\cdot R_{j-t}\,c}{\sqrt d}:$$

một hàm của *khoảng cách* $t-j$, không phụ thuộc khóa ấy là token nào. **Dự đoán:** hàm ấy tăng hay giảm theo khoảng cách? Mọi đầu có giống nhau không?
"""

# %% [markdown] lang="en"
r"""
Two comparisons: attention by hand with the model's own, then with the constant added and without; both agree to the precision of float32. That is the line of section 3 with a KL of 0. (With the first token kept it is no longer *all* keys, and the KL is not 0.)

Before the rotary step it is different. The key at position $j$ carries $R_jc$, and the query at position $t$ sees

$$\frac{(R_tq_t)\cdot(R_jc)}{\sqrt d}=\frac{q_t\cdot R_{j-t}\,c}{\sqrt d}:$$

a function of the *distance* $t-j$, whichever token that key is. **Predict:** does it rise or fall with distance? Is it the same in all heads?
"""

# %%
one = {key: value[:1] for key, value in batch.items()}
c_in = after_rotary(one, "K", make=lambda layer: replace(offset["K"][layer]))  # R_j c: [layer, 1, token, feature]
token = torch.arange(real.shape[1], device=real.device)
distance = (token.unsqueeze(1) - token).clamp(min=0)  # [query, key]
allowed = real[:, None, :, None] & (token.unsqueeze(1) >= token)  # [sentence, 1, query, key]


def centred(scores):
    """Around the mean of each query, the part that the softmax sees."""
    scores = scores * allowed
    return (scores - scores.sum(-1, keepdim=True) / allowed.sum(-1, keepdim=True).clamp(min=1)) * allowed


def added_by_distance(layer, c_in):
    """Mean score added [sentence, head, distance], and the share of its variance that distance explains [head]."""
    scores = by_head(q_in[layer]) @ by_head(c_in[layer], group).mT / d_head**0.5  # [sentence, head, query, key]
    band = [scores.diagonal(-d, -2, -1) * real[:, None, d:] for d in token.tolist()]  # each [sentence, head, query]
    curves = torch.stack([b.sum(2) / real[:, d:].sum(1, True) for d, b in enumerate(band)], dim=-1)
    mean = curves.nan_to_num().mean(dim=0)  # [head, distance]; short sentences lack the largest distances
    found, predicted = centred(scores), centred(mean[:, distance])
    unexplained, everything = ((part**2).sum((0, 2, 3)) for part in (found - predicted, found))  # each [head]
    return curves, (1 - unexplained / everything).where(everything > 1e-3, torch.nan)


# %%
shown = [round(share * (n_layer - 1)) for share in (0.1, 0.5, 0.9)]
reach = int(real.sum(dim=1).min())  # distances that every sentence has
found = {layer: added_by_distance(layer, c_in) for layer in shown}
random_k = random_like(offset["K"], d_head, generator)
random_in = after_rotary(one, "K", make=lambda layer: replace(random_k[layer]))
curves_k = {layer: curves[..., :reach].cpu() for layer, (curves, _) in found.items()}
curves_random = {layer: added_by_distance(layer, random_in)[0][..., :reach].cpu() for layer in shown}
n = f"{len(real)} {label('sentences')}, {int(real.sum())} {label('tokens')}"
figure = plot_distance(curves_k, curves_random, title=f"{model.provenance}: {n}")
for layer, (_, share) in found.items():
    explains = say("khoảng cách giải thích", "distance explains"), f"{float(share.nanmedian()):.0%}"
    same = say("mọi khoảng cách như nhau", "the same at every distance"), ""
    print(f"{label('layer')} {layer}:", *(explains if share.isfinite().any() else same))

# %% [markdown] lang="vi"
r"""
Mỗi đường là một đầu, vẽ quanh trung bình của chính nó; các đường xám là một vector ngẫu nhiên cùng độ dài. Đọc: một đường đi xuống là một đầu ưu tiên token gần; một đường gợn sóng ưu tiên vài khoảng cách nhất định. Dưới hình là tỉ lệ phương sai của điểm cộng thêm mà *chỉ riêng* khoảng cách giải thích được, lấy trung vị (median) qua các đầu; phần còn lại tùy truy vấn.

Vậy độ dời của K, trong mô hình có RoPE, hoạt động như một *bias vị trí tương đối* (relative position bias), loại mà T5 và ALiBi thêm vào một cách tường minh. Trong mô hình không có RoPE (GPT-2) thì nó không làm gì cả: ở đó dòng "trừ độ dời" của K phải bằng 0.

## 6. Truy vấn: điểm hút chú ý

Độ dời của Q cộng vào điểm của khóa $j$ số hạng $\mu_Q\cdot k_j$, như nhau với mọi truy vấn (có RoPE thì số hạng ấy còn tùy khoảng cách): một bảng "khóa nào được ưa thích", bất kể ai hỏi. Khóa được ưa thích nhất thường là token đầu câu, **điểm hút chú ý** (attention sink).

Phép thử có đối chứng: trừ độ dời của Q, nhưng *trả lại đúng phần điểm bị mất ở token đầu* và không trả gì ở các khóa khác. Phần ấy tính trước được: token đầu chỉ nhìn thấy chính nó, nên khóa của nó không đổi khi ta sửa Q.

**Dự đoán.** Chỉ trả lại điểm của một token duy nhất thì KL giảm được bao nhiêu phần?
"""

# %% [markdown] lang="en"
r"""
Each line is a head, drawn around its own mean; the grey ones are a random vector of the same length. To read it: a line that falls is a head that prefers near tokens; one that waves prefers certain distances. Below the figure, the share of the variance of the added score that distance *alone* explains (median over heads; the rest depends on the query).

So in a model with rotary positions K's offset acts as a *relative position bias*, the kind that T5 and ALiBi add openly. In a model without them (GPT-2) it does nothing at all: there the line "subtract the offset" of K must be 0.

## 6. Queries: the attention sink

Q's offset adds $\mu_Q\cdot k_j$ to the score of key $j$, the same for every query (with rotary positions it also depends on the distance): a table of which keys are liked, whoever asks. The key liked best is mostly the first token of the text, the **attention sink**.

A test with a control: subtract Q's offset, but *give back the score that the first token lost*, and nothing at any other key. What it lost can be computed beforehand: the first token sees only itself, so its key stays as it was when Q is edited.

**Predict.** Giving back the scores of one single token: how much of the KL does that save?
"""


# %%
def lost_on_first(vectors):
    """Score with the first token's key that Q loses with these vectors, [layer, sentence, head, query]."""
    turned = after_rotary(one, "Q", make=lambda layer: replace(vectors[layer]))  # [layer, 1, token, feature]
    return torch.stack(
        [(by_head(q) @ by_head(k[:, :1], group).mT).squeeze(-1) / d_head**0.5 for q, k in zip(turned, k_in)]
    )


@contextmanager
def first_token_restored(lost):
    """Add these scores at the first key of every attention layer, through its additive mask."""

    def restorer(layer):
        def restore(module, args, kwargs):
            mask = kwargs["attention_mask"].expand(-1, lost.shape[2], -1, -1).clone()  # [sentence, head, query, key]
            mask[..., 0] += lost[layer]
            return args, {**kwargs, "attention_mask": mask}

        return restore

    with ExitStack() as hooks:
        for layer, module in enumerate(attention_modules(model)):
            hooks.callback(module.register_forward_pre_hook(restorer(layer), with_kwargs=True).remove)
        yield


# %%
def look(vectors=None, lost=None):
    """With these vectors subtracted from Q: KL [sentence], attention on the first token [sentence, layer], and layer 0."""
    with ExitStack() as edits, torch.no_grad():
        for layer in range(n_layer) if vectors is not None else ():
            edits.enter_context(edit_qkv(model, layer, "Q", subtract(vectors[layer])))
        if lost is not None:
            edits.enter_context(first_token_restored(lost))
        kl = effect(model, batch, before["ordinary"]).kl
        weights = model.base_model(**batch, output_attentions=True).attentions
    later_queries = real & (token > 0)  # the first query has no choice
    counted = [(w[..., 0].mean(1) * later_queries).sum(1) / later_queries.sum(1) for w in weights]  # each [sentence]
    return kl, torch.stack(counted, dim=-1), weights[0]


# %%
random_q = random_like(offset["Q"], d_head, generator)
lost, lost_random = lost_on_first(offset["Q"]), lost_on_first(random_q)
looks = {
    "unedited": look(),
    "offset": look(offset["Q"]),
    "offset_restored": look(offset["Q"], lost),
    "random": look(random_q),
    "random_restored": look(random_q, lost_random),
}
given_back = say("· trả lại điểm của token đầu", "· first token's scores restored")
names = {
    "unedited": label("unedited"),
    "offset": say("trừ độ dời", "offset subtracted"),
    "offset_restored": given_back,
    "random": say("trừ vector ngẫu nhiên", "random vector subtracted"),
    "random_restored": given_back,
}
for key, (kl, on_first, _) in looks.items():
    mean, half_width = mean_and_reach(kl)
    print(f"{names[key]:31s} KL {mean:z.2f} ± {half_width:.2f}   {label('on_first')} {float(on_first.mean()):.2f}")
for key in ("offset", "random"):
    undone = 1 - float(looks[f"{key}_restored"][0].mean() / looks[key][0].mean())
    print(f"{names[key]}: {say('trả lại điểm làm KL giảm', 'restoring the scores lowers the KL by')} {undone:.0%}")

# %%
ratios = [(w[:, :, -1, 0] / w[:, :, -1, 1]).log() for w in (looks["offset_restored"][2], looks["offset"][2])]
change, wanted = ratios[0] - ratios[1], lost[0, :, :, -1]  # [sentence, head], at layer 0 nothing else differs yet
checked = change.isfinite() & real[:, -1:]  # sentences without padding, weights that float32 can hold
assert checked.any() and torch.allclose(change[checked], wanted[checked], atol=1e-2)

panels = {
    name: {"edited": looks[kind][1], "unedited": looks["unedited"][1], "restored": looks[f"{kind}_restored"][1]}
    for name, kind in (("offset_size", "offset"), ("random_draw", "random"))
}
panels = {name: {key: curve.cpu() for key, curve in curves.items()} for name, curves in panels.items()}
figure = plot_layer_curves(panels, "on_first", colour=COLOURS["Q"], title=f"{model.provenance} · Q\n{n}")

# %% [markdown] lang="vi"
r"""
Bảng: KL, và trọng số trung bình mà token đầu nhận được. Hình con (panel) bên trái: trừ độ dời thì token đầu mất attention; trả lại điểm của nó thì attention trở lại, có khi quá mức. Bên phải là đối chứng: một vector ngẫu nhiên dài đúng như thế động đến token đầu bao nhiêu, và trả lại điểm thì cứu được bao nhiêu. Hai dòng cuối của bảng so hai tỉ lệ ấy với nhau.

Chênh lệch KL giữa hai dòng của độ dời là phần thiệt hại đi *qua* điểm hút chú ý; phần còn lại đi đường khác.

## 7. V: độ dời cộng gì vào luồng dư?

Trọng số attention (attention weight) của một truy vấn có tổng bằng 1. Vậy nếu *mọi* V đều có cùng một vector $c$ thì đầu ra là

$$\sum_j a_{ij}(v_j+c)=\sum_j a_{ij}v_j+c,$$

và luồng dư (residual stream) của *mọi token, trong mọi câu* nhận cùng một vector $W_Oc$, bất kể attention nhìn đi đâu. Đó là định nghĩa của một *bias*. Một hằng số giống nhau ở khắp nơi không cho biết gì về câu đang đọc.

Nếu chừa token đầu thì vector được cộng là $(1-a_{i0})\,W_Oc$ ở mỗi đầu: đầu nào dồn attention vào token đầu thì hầu như không cộng gì. Điểm hút chú ý, với V gần 0, là cách để một đầu *im lặng*. Trừ độ dời khỏi cả V của token đầu thì đầu ấy hết im lặng: đó là vì sao hai dòng của V ở mục 3 khác nhau nhiều đến thế.

Ta kiểm chứng câu "cùng một vector" và đo vector ấy.
"""

# %% [markdown] lang="en"
r"""
The table: the KL, and the mean weight that the first token gets. On the left: without the offset the first token loses attention; with its scores given back the attention returns, at times too much of it. On the right the control: how much a random vector just as long touches the first token, and how much giving back saves there. The last two lines of the table compare the two shares.

The difference of KL between the two lines of the offset is the part of the damage that goes *through* the sink; the rest takes other ways.

## 7. V: what does its offset add to the residual stream?

The attention weights of a query sum to 1. So if *all* V contain the same vector $c$, the output is

$$\sum_j a_{ij}(v_j+c)=\sum_j a_{ij}v_j+c,$$

and the residual stream of *every token in every text* receives the same vector $W_Oc$, wherever attention looks. That is what a *bias* is. A constant that is the same everywhere tells nothing about the text being read.

If the first token is left out, what is added is $(1-a_{i0})\,W_Oc$ in each head: a head that parks its attention on the first token adds next to nothing. The sink, its V near 0, is a head's way to *keep silent*. Subtract the offset from the first token's V too, and that head is silent no longer: which is why the two lines of V in section 3 are so far apart.

We check "the same vector", and measure it.
"""


# %%
def added_to_stream(layer, vector):
    """What subtracting `vector` from V takes from the attention output of a layer, [sentence, token, n_embd]."""
    outputs = []
    module = attention_modules(model)[layer]
    handle = module.register_forward_hook(lambda module, args, output: outputs.append(output[0].detach().clone()))
    try:
        with torch.no_grad(), resume_at(model, layer, few_before):
            model.base_model(**few)
            with edit_qkv(model, layer, "V", subtract(vector)):
                model.base_model(**few)
    finally:
        handle.remove()
    return outputs[0] - outputs[1]


few = encode(tokenizer, ordinary[0:16:2]).to(model.device)
few_before = predict(model, few)
kept = real_tokens(few, first=False)
random_v = random_like(offset["V"], d_head, generator)
panels = {name: {"offset_size": [], "random_draw": []} for name in ("share_of_stream", "along_mean")}

# %%
drawn = range(0, n_layer, max(1, n_layer // 10))
for layer in drawn:
    stream = few_before.layer_outputs[layer]
    stream = stream[0] if isinstance(stream, tuple) else stream  # [sentence, token, n_embd]
    mean = torch.stack([s[k].mean(dim=0) for s, k in zip(stream, kept)])  # [sentence, n_embd]
    length = torch.stack([s[k].norm(dim=-1).mean() for s, k in zip(stream, kept)])  # [sentence]
    for name, vectors in (("offset_size", offset["V"]), ("random_draw", random_v)):
        taken = added_to_stream(layer, vectors[layer])  # [sentence, token, n_embd]
        c = taken[0, 0]  # [n_embd]
        assert torch.allclose(taken, c.expand_as(taken), atol=1e-3 * float(c.norm()))
        panels["share_of_stream"][name].append(c.norm() / length)
        panels["along_mean"][name].append(torch.cosine_similarity(mean, c.expand_as(mean), dim=-1))

# %%
panels = {
    name: {key: torch.stack(values, dim=-1).cpu() for key, values in curves.items()} for name, curves in panels.items()
}
n = f"{len(kept)} {label('sentences')}, {int(kept.sum())} {label('tokens')}"
figure = plot_layer_curves(
    panels, "without_unit", layers=drawn, colour=COLOURS["V"], title=f"{model.provenance} · V\n{n}"
)

# %% [markdown] lang="vi"
r"""
Ô trên đã kiểm tra ở mọi tầng được vẽ: thứ bị lấy đi là *cùng một vector* ở mọi token của mọi câu. Hình con bên trái: độ dài của nó so với luồng dư ngay sau tầng ấy. Hình con bên phải: cosine của nó với trung bình của luồng dư. Đường đen là vector ngẫu nhiên cùng độ dài *trước khi* qua $W_O$.

So màu với đen. Nếu đường màu bên trái cao hơn hẳn, $W_O$ khuếch đại đúng hướng của độ dời. Nếu hai đường bên trái đi sát nhau mà bên phải lại tách ra, thì cái riêng của độ dời không phải là độ dài mà là *hướng*: nó đẩy luồng dư theo hướng mà mọi token vốn đã có chung. Hình này *không* cho biết các tầng sau làm gì với nó; điều đó thì các dòng của V ở mục 3 đã trả lời.

## 8. Từng tầng, từng đầu

Giờ chỉ sửa *một* tầng, các tầng khác để nguyên. (Các tầng đứng trước không đổi, nên ta bắt đầu tính từ tầng bị sửa. Với mô hình nhiều tầng, cứ cách vài tầng ta mới lấy một.)

**Dự đoán.** Thiệt hại khi sửa mọi tầng bằng tổng thiệt hại của từng tầng, lớn hơn hay nhỏ hơn?
"""

# %% [markdown] lang="en"
r"""
The cell above has checked it at every layer drawn: what goes missing is *the same vector* at every token of every text. On the left, its length against that of the residual stream after the layer. On the right, its cosine with the mean of the residual stream. The black line is a random vector, as long as the offset *before* $W_O$.

Compare colour with black. If the coloured line on the left is much higher, $W_O$ amplifies just the direction of the offset. If the two lines run together on the left and part on the right, what sets the offset apart is not its length but its *direction*: it pushes the residual stream the way that all tokens have in common already. The figure does *not* say what later layers do with it; the lines of V in section 3 have said that.

## 8. Layer by layer, head by head

Now edit *one* layer and leave the others. (Layers below stay as they were, so we start computing at the edited one. In a deep model we take every few layers.)

**Predict.** Is the damage of editing all layers the sum of those of single layers, more, or less?
"""

# %%
swept = [0, *range(1, n_layer, max(1, n_layer // 10))]
options = {"Q": {}, "K": {}, "V": {"keep_first": True}}
by_layer, by_layer_random = ({part: [] for part in "QKV"} for _ in range(2))
for layer in swept:
    for part in "QKV":
        for vectors, kept_in in (
            (offset[part], by_layer),
            (random_like(offset[part], d_head, generator), by_layer_random),
        ):
            kept_in[part].append(measure(part, subtract, vectors, layers=[layer], **options[part]).kl)
    means = {part: float(by_layer[part][-1].mean()) for part in "QKV"}
    print(f"{label('layer')} {layer:2d}   " + "   ".join(f"{part} {kl:z.2f}" for part, kl in means.items()))

# %%
n = f"{len(batches['ordinary']['input_ids'])} {label('sentences')}, {int(real.sum())} {label('tokens')}"
figure = plot_effect_depth(swept, by_layer, by_layer_random, title=f"{model.provenance}: {n}")

# %% [markdown] lang="vi"
r"""
Mỗi tầng có một lần rút ngẫu nhiên riêng. Tìm những tầng mà điểm màu vượt hẳn điểm xám: ở đó chính *hướng* của độ dời quan trọng. Nơi hai đường đi sát nhau, một phép dời bất kỳ cũng gây hại chừng ấy.

Tiếp theo: một đầu của một tầng. Phép sửa giữ nguyên các đầu khác. Để đỡ tốn thời gian, ta đo trên một nửa số câu.
"""

# %% [markdown] lang="en"
r"""
Each layer has a random draw of its own. Look for layers whose coloured dot stands clear above the grey one: there the *direction* of the offset matters. Where the two lines run together, any shift would do as much harm.

Next: one head of one layer. The edit leaves the other heads as they are. To save time we measure on half of the sentences.
"""

# %%
batches["half"] = encode(tokenizer, ordinary[0::4])
before["half"] = predict(model, batches["half"])
head_layers = [n_layer // 3, 2 * n_layer // 3]
by_single_head, by_single_head_random = ({part: [] for part in "QKV"} for _ in range(2))
for layer in head_layers:
    for part in "QKV":
        for head in range(offset[part].shape[-1] // d_head):
            at = slice(head * d_head, (head + 1) * d_head)
            for kept_in, vectors in (
                (by_single_head, offset[part]),
                (by_single_head_random, random_like(offset[part], d_head, generator)),
            ):
                only = torch.zeros_like(vectors)
                only[:, at] = vectors[:, at]
                kept_in[part].append(measure(part, subtract, only, on="half", layers=[layer], **options[part]).kl)
for part in "QKV":
    means = "  ".join(f"{float(kl.mean()):z.3f}" for kl in by_single_head[part])
    print(f"{part}  {means}")

# %% [markdown] lang="vi"
r"""
## 9. Nụ cười lớn hơn thì tác động lớn hơn?

Nếu nụ cười cho biết mô hình dựa vào độ dời đến đâu, thì tầng hay đầu nào có chỉ số nụ cười $S$ lớn hơn phải chịu hại nhiều hơn khi mất độ dời. Ta so $S$ của " her" (khối QQ, KK, VV, như bài 07 và 08) với KL vừa đo, bằng hệ số tương quan hạng (rank correlation) Spearman $\rho$.

**Ngưỡng đặt trước.** "Có" nếu $\rho>0{,}5$ cả theo tầng lẫn theo đầu; "không" nếu cả hai không quá 0,5; còn lại là "một phần". **Dự đoán** cho Q, K và V.
"""

# %% [markdown] lang="en"
r"""
## 9. Does the larger smile mean the larger effect?

If the smile told how much the model leans on the offset, then the layer or head with the larger smile index $S$ should suffer more without it. We compare $S$ of " her" (blocks QQ, KK, VV, as in notebooks 07 and 08) with the KL just measured, by Spearman's rank correlation $\rho$.

**Threshold, beforehand.** "Yes" if $\rho>0.5$ over layers and over heads; "no" if neither exceeds 0.5; else "partly". **Predict** for Q, K and V.
"""

# %%
her = batches["her"]
her_positions = find_token(her, token_id_of(tokenizer, " her"))
her_qkv = capture_qkv(model, her, positions=her_positions)


def smiles(x, sizes):
    """S of QQ, KK and VV."""
    cosine = block_histograms(x, sizes, measures="cosine")["cosine"]
    return {part: smile_index(cosine[part * 2]).cpu() for part in "QKV"}


layer_smile = smiles(her_qkv.joined(), her_qkv.sizes)  # each [layer]
parts = [her_qkv.heads(part).transpose(1, 2) for part in "QKV"]  # each [layer, head, sentence, d_head]
same = torch.cat([parts[0], *(p.repeat_interleave(group, dim=1) for p in parts[1:])], dim=-1)
head_smile = smiles(same, (d_head, d_head, d_head))  # each [layer, query head]

# %%
step = {"Q": 1, "K": group, "V": group}
points, rho = {}, {}
for part in "QKV":
    s_heads = torch.cat([head_smile[part][layer, :: step[part]] for layer in head_layers])
    points[part] = {
        "one_layer": (layer_smile[part][swept[1:]], by_layer[part][1:], by_layer_random[part][1:]),  # layer 0 apart
        "one_head": (s_heads, by_single_head[part], by_single_head_random[part]),
    }
    for kind, (s, effects, _) in points[part].items():
        kl = torch.stack([e.mean() for e in effects]).cpu()
        rho[part, kind] = float(stats.spearmanr(s, kl).statistic)
    both = [rho[part, kind] > 0.5 for kind in points[part]]
    answer = say("có", "yes") if all(both) else say("một phần", "partly") if any(both) else say("không", "no")
    print(
        f"{part}  {answer:9s}",
        "  ".join(
            f"{label(kind)} ρ = {rho[part, kind]:+z.1f} (n = {len(points[part][kind][0])})" for kind in points[part]
        ),
    )

# %%
n_half = f"{len(batches['half']['input_ids'])} {label('sentences')}"
figure = plot_smile_and_effect(
    points, title=f"{model.provenance}\n{label('one_layer')}: {n}; {label('one_head')}: {n_half}"
)

# %% [markdown] lang="vi"
r"""
Mười tầng và vài đầu là ít: đừng đọc $\rho$ kỹ hơn một chữ số. Nhưng có một lý do sâu hơn để không trông đợi một mối liên hệ chặt.

## 10. Tự do gauge: cùng một mô hình, biểu đồ khác

Trong mỗi đầu, thay $Q\to QM$ và $K\to KM^{-\top}$ với $M$ khả nghịch bất kỳ:

$$(q_iM)\cdot(k_jM^{-\top})=q_iMM^{-1}k_j^\top=q_i\cdot k_j.$$

Mọi điểm giữ nguyên, mọi logit giữ nguyên: đó là *tự do gauge* (gauge freedom), quyền chọn hệ tọa độ mà không ai thấy được từ bên ngoài. Nhưng các *chiều* (feature) đã bị trộn, nên cosine giữa các chiều thì đổi. Cùng một hàm số, biểu đồ khác.

Với RoPE, $M$ phải giao hoán với phép quay của bước xoay: chỉ được quay và co giãn trong từng cặp chiều mà bước xoay quay chung. Thế vẫn còn một góc tự do cho mỗi cặp.

### Bài tập 9.3
Viết `gauge(q, k, m)`: `q`, `k` `[token, d_head]`, `m` `[d_head, d_head]` khả nghịch; trả về cặp `(q M, k M⁻ᵀ)`.

*Gợi ý:* `torch.linalg.inv`, `.mT`.
"""

# %% [markdown] lang="en"
r"""
Ten layers and a few heads are not many: do not read $\rho$ beyond one digit. But there is a deeper reason not to expect a tight relation.

## 10. Gauge freedom: the same model, another histogram

In each head, replace $Q\to QM$ and $K\to KM^{-\top}$ with any invertible $M$:

$$(q_iM)\cdot(k_jM^{-\top})=q_iMM^{-1}k_j^\top=q_i\cdot k_j.$$

Every score stays, every logit stays: this is *gauge freedom*, a choice of coordinates that nobody can see from outside. But *features* have been mixed, so the cosines between features change. The same function, another histogram.

With rotary positions $M$ must commute with the turns of the rotary step: it may only turn and scale within each pair of features that the step turns together. That still leaves one free angle for each pair.

### Exercise 9.3
Write `gauge(q, k, m)`: `q`, `k` `[token, d_head]`, `m` `[d_head, d_head]` invertible; return the pair `(q M, k M⁻ᵀ)`.

*Hint:* `torch.linalg.inv`, `.mT`.
"""


# %% tags=["exercise"]
def gauge(q, k, m):
    return ...


check("9.3", gauge)


# %% tags=["solution"]
# @title Lời giải 9.3 · Solution 9.3
def gauge(q, k, m):
    return q @ m, k @ torch.linalg.inv(m).mT


check("9.3", gauge)

# %% [markdown] lang="vi"
r"""
Chọn góc nào? Với mỗi đầu K và mỗi cặp chiều, ta thử 64 góc và lấy góc mà ở đó độ dời tương đối $|b|=|\mu|/\text{rms}$ của các chiều Q (trung bình qua các đầu Q dùng chung đầu K ấy) lớn hơn của các chiều K nhiều nhất: *khép* nụ cười của KK, *mở* nụ cười của QQ. $M$ còn nhân mỗi cặp với 2, để thấy rằng nó không cần là phép quay thuần túy. Ta làm thế ở mọi tầng.
"""

# %% [markdown] lang="en"
r"""
Which angle? For each key head and each pair of features we try 64 angles and take the one where the relative offsets $|b|=|\mu|/\text{rms}$ of Q's features (mean over the query heads that share the key head) exceed those of K's the most: *close* the smile of KK, *open* that of QQ. $M$ also scales each pair by 2, to show that it need not be a pure rotation. We do so at every layer.
"""

# %%
rotary = getattr(model.config, "rope_parameters", None) or {}
half = int(d_head * rotary.get("partial_rotary_factor", 1)) // 2  # feature i turns together with feature i + half
angles = torch.linspace(0, torch.pi, 65, dtype=torch.float64)[:-1]


def relative_offsets(x):
    """|b| of the turned features: x [sentence, head, d_head] -> [head, pair, angle], both features of a pair added."""
    first, second = (x[..., at : at + half].unsqueeze(-1).double().cpu() for at in (0, half))
    turned = first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()
    return sum(t.mean(dim=0).abs() / t.square().mean(dim=0).sqrt() for t in turned)


def gauge_matrices(layer, sign):
    """One M for each key head, [head, d_head, d_head]; sign 1 closes KK and opens QQ, -1 the reverse."""
    q, k = (relative_offsets(her_qkv.heads(part)[layer]) for part in "QK")
    q = q.unflatten(0, (-1, group)).mean(dim=1)  # over the query heads of a key head
    best = angles[(sign * (q - k)).argmax(dim=-1)]  # [head, pair]
    m = torch.eye(d_head, dtype=torch.float64).repeat(len(best), 1, 1)
    i = torch.arange(half)
    m[:, i, i] = m[:, i + half, i + half] = 2 * best.cos()
    m[:, i, i + half], m[:, i + half, i] = 2 * best.sin(), -2 * best.sin()
    return m


# %%
@contextmanager
def other_gauge(model, sign):
    """The model with Q M and K M⁻ᵀ in every head of every layer."""
    with ExitStack() as edits:
        for layer in range(n_layer):
            for_q = gauge_matrices(layer, sign).to(model.dtype).to(model.device)
            for_k = torch.linalg.inv(for_q).mT
            for part, m in (("Q", for_q.repeat_interleave(group, dim=0)), ("K", for_k)):

                def fn(values, positions, m=m):
                    heads = values.unflatten(-1, (-1, d_head))
                    return torch.einsum("stha,hab->sthb", heads, m).flatten(2)

                edits.enter_context(edit_qkv(model, layer, part, fn))
        yield


# %%
double = in_double(model)  # float64 from end to end: model.double() leaves the softmax in float32
some = encode(tokenizer, ordinary[0:12:2]).to(model.device)
with torch.no_grad():
    logits = double(**some).logits[real_tokens(some)]
    for sign in (1, -1):
        with other_gauge(double, sign):
            difference = (double(**some).logits[real_tokens(some)] - logits).abs().max()
        assert 0 < difference < 1e-10
print(f"float64, {n_layer} {label('layers')}, |logit| ≤ {float(logits.abs().max()):.0f}: |Δ logit| < 1e-10")
del double

# %%
layer = n_layer // 10
gauges = {say("khép KK", "KK closed"): 1, say("khép QQ", "QQ closed"): -1}
conditions = {say("như đã huấn luyện", "as trained"): block_histograms(her_qkv.joined()[layer], her_qkv.sizes)}
for name, sign in gauges.items():
    with other_gauge(model, sign):
        other = capture_qkv(model, her, layers=layer, positions=her_positions)
    conditions[name] = block_histograms(other.joined()[0], other.sizes)

trained, largest = next(iter(conditions.values()))["cosine"], 0.0
for name, result in conditions.items():
    moved = {block: float(wasserstein_distance(result["cosine"][block], trained[block])) for block in ("QQ", "KK")}
    largest = max(largest, *moved.values())
    print(f"{name:20s}", "  ".join(f"{b} S {float(smile_index(result['cosine'][b])):+z.2f}" for b in moved), end="   ")
    print("W1", "  ".join(f"{value:.2f}" for value in moved.values()))
assert largest > 0.1
figure = plot_conditions(
    conditions, measures=("cosine",), blocks=("QQ", "QK", "KK"), title=f"{model.provenance} · {label('layer')} {layer}"
)

# %% [markdown] lang="vi"
r"""
Ba mô hình, *cùng* logit (đến $10^{-10}$ trong float64, kiểm tra ở mọi tầng cùng lúc), *khác* biểu đồ. Vậy nụ cười của QQ và của KK không phải là tính chất của hàm số mà mô hình tính; nó là tính chất của hệ tọa độ mà quá trình huấn luyện tình cờ chọn. Độ dời $\mu$ thì vẫn ở đó, chỉ được chia lại cho các chiều: chuẩn của nó trong mỗi cặp không đổi ngoài hệ số 2 (ở K: 1/2).

Điều này *không* có nghĩa là nụ cười do ngẫu nhiên: huấn luyện có thể ưu tiên một hệ tọa độ (bộ tối ưu Adam làm việc theo từng tọa độ). Nó có nghĩa là không thể suy ra "mô hình dùng gì" chỉ từ hình dạng của biểu đồ.

## 11. Kết luận, cho từng phần

Bảng sau do ô mã viết, theo các ngưỡng đặt ở mục 1. Với V, con số là của thí nghiệm chừa token đầu (trung bình cũng không tính token ấy). Dấu × là tỉ số với lần rút ngẫu nhiên mạnh nhất.
"""

# %% [markdown] lang="en"
r"""
Three models, the *same* logits (to $10^{-10}$ in float64, all layers at once), *different* histograms. So the smile of QQ and KK is not a property of the function that the model computes; it belongs to the coordinates that training happened to choose. The offset $\mu$ is still there, shared out differently over the features: its norm in each pair is the same but for the factor 2 (for K: 1/2).

This does *not* mean that the smile is an accident: training may favour some coordinates (the optimiser Adam works coordinate by coordinate). It means that "what the model uses" cannot be read off the shape of a histogram.

## 11. Conclusions, part by part

The table is written by the cell, by the thresholds of section 1. For V the figures are those of the experiment that leaves the first token alone (the mean was taken without it, too). The × is the ratio to the strongest random draw.
"""

# %%
yes, no = say("có", "yes"), say("không", "no")
verdicts = {}
for on, name in sets.items():
    print(name)
    for part in "QKV":
        key = "subtract_not_first" if part == "V" else "subtract"
        mean, reach = mean_and_reach(results[on][part][key])
        ratio = mean / max(CANCELLED, *(float(draw.mean()) for draw in controls[on][part][key]))
        alone = float(results[on][part]["replace"].mean() / results[on][part]["zero"].mean())
        needed = mean - reach > NEEDED
        verdicts[on, part] = needed, needed and ratio >= SPECIFIC, alone <= ENOUGH
        words = [yes if verdict else no for verdict in verdicts[on, part]]
        print(f"  {part}  {say('cần thiết', 'needed')}: {words[0]} ({mean:.1f})", end="   ")
        print(f"{say('đặc thù', 'specific')}: {words[1]} (×{ratio:.1f})", end="   ")
        print(f"{say('tự nó đủ', 'enough')}: {words[2]} ({alone:.0%})")

# %%
free = float(results["ordinary"]["K"]["after_rotary"].mean()) < CANCELLED
agree = [part for part in "QKV" if verdicts["ordinary", part] == verdicts["her", part]]
said = {
    (True, True): say("mô hình cần chính vector ấy", "the model needs that very vector"),
    (True, False): say(
        "mất nó thì hại, nhưng dời theo hướng ngẫu nhiên cũng hại gần bằng",
        "its loss hurts, but a blind shift hurts about as much",
    ),
    (False, False): say("mô hình hầu như không cần nó", "the model hardly needs it"),
}
for part in "QKV":
    needed, specific, enough = verdicts["ordinary", part]
    rest = say("; riêng nó làm được hơn nửa việc", "; alone it does more than half of the work") if enough else ""
    print(f"{part}: {said[needed, specific]}{rest}")
print(f"K, {say('sau bước xoay bị triệt tiêu', 'cancelled after the rotary step')}: {yes if free else no}")
print(f"{say('hai tập câu cho cùng phán quyết', 'both sets give the same verdicts')}: {', '.join(agree)}")

# %% [markdown] lang="vi"
r"""
Vậy "độ dời là mã" đúng đến đâu? Bảng trả lời bằng số; phần đầu của mỗi điều dưới đây thì đúng với mọi mô hình, vì đó là đồng nhất thức (identity).

- **K.** Một hằng số trên mọi khóa, ở nơi tích vô hướng được tính, *không làm gì cả*. Điều mà độ dời của K làm được, nó làm qua bước xoay: một bias tùy truy vấn và khoảng cách, không tùy khóa là token nào.
- **V.** Độ dời của V cộng *cùng một vector* vào luồng dư của mọi token (chỉ giảm đi ở những đầu nhìn vào token đầu). Mô hình có thể cần nó đến mức không chạy nổi khi thiếu nó, như một động cơ cần con ốc; nhưng con ốc không phải là thông điệp.
- **Q.** Độ dời của Q là bảng ưa thích các khóa, chung cho mọi truy vấn; ta mới đo một ô của bảng ấy, điểm hút chú ý, và mục 6 cho biết bao nhiêu phần thiệt hại đi qua nó.

Một đại lượng giống nhau ở mọi token thì không mang *bit* nào về token. Chữ "mã", nếu hiểu là thông tin về câu đang đọc, là sai cho cả ba. Nếu hiểu là một *thiết lập* cố định mà mô hình được huấn luyện xoay quanh, thì bảng cho biết nó đúng cho phần nào. Và nụ cười không phải là thước đo của điều đó: mục 9 so sánh, mục 10 chứng minh.

Kết quả này đo trên một mô hình và những câu tiếng Anh ngắn. (GPT-2: hãy chạy khi có kết nối tới Hub.)
"""

# %% [markdown] lang="en"
r"""
How far, then, is "the offset is a code" justified? The table answers with numbers; the first half of each point below holds for every model, for it is an identity.

- **K.** A constant on all keys, where the dot product is taken, *does nothing*. What K's offset can do, it does through the rotary step: a bias that depends on the query and the distance, whichever token the key is.
- **V.** V's offset adds *the same vector* to the residual stream of every token (less of it only in heads that look at the first token). The model may need it so badly that it cannot run without, as an engine needs a screw; but a screw is not a message.
- **Q.** Q's offset is a table of liked keys, common to all queries; we have measured one entry of that table, the sink, and section 6 says what share of the damage goes through it.

What is the same at every token carries no *bit* about the token. "Code", read as information on the text, is wrong for all three. Read as a *setting* around which the model was trained, the table says for which parts it is right. And the smile does not measure it: section 9 compares, section 10 proves.

All this was measured on one model and short English sentences. (GPT-2: to be seen when run with the Hub.)
"""

# %%
with edit_qkv(model, None, "K", lambda values, positions: values):  # sanity check: an edit that edits nothing
    assert float(effect(model, few, few_before).kl.abs().max()) == 0
assert all("forward" not in vars(m) for m in model.modules())
print("✓")

# %% [markdown] lang="vi"
r"""
## Tự kiểm tra
1. Vì sao mỗi can thiệp cần một vector ngẫu nhiên *cùng độ dài ở từng đầu*, chứ không chỉ cùng độ dài toàn vector?
2. Một bạn cộng 1000 vào mọi phần tử của K ở GPT-2 và thấy logit không đổi. Bạn ấy kết luận "GPT-2 không dùng K". Sai ở đâu?
3. Vì sao trung bình phải lấy từ những câu khác với những câu dùng để đo?
4. V cũng có tự do gauge: $V\to VN$, $W_O\to N^{-1}W_O$. Nó cho phép làm gì với nụ cười của VV?
5. Trừ độ dời của V khỏi *cả* token đầu gây hại nhiều hơn hẳn. Giải thích bằng từ "im lặng".

<details><summary>Trả lời ngắn</summary>

1. Các đầu có độ lớn rất khác nhau; một vector chỉ cùng độ dài toàn vector có thể dồn vào những đầu mà mô hình không dùng.
2. Hằng số không mang thông tin, nhưng *biến thiên* của K quanh hằng số ấy thì có: dòng "chỉ giữ độ dời" của K cho thấy mất biến thiên ấy thì mô hình hỏng.
3. Nếu không, trung bình chứa một phần của chính câu đang đo, và trừ nó đi cũng là bớt biến thiên của câu ấy.
4. Trộn các chiều của mỗi đầu tùy ý, nên cũng khép hay mở được nụ cười của VV bên trong mỗi đầu mà không đổi một logit nào.
5. Đầu dồn attention vào token đầu nhận V gần 0, tức là im lặng; trừ độ dời khỏi V ấy thì đầu này nói ra $-W_Oc$ ở mọi nơi.
</details>

## Tóm tắt
- Một can thiệp chỉ có nghĩa khi đứng cạnh một can thiệp ngẫu nhiên cùng độ lớn, với khoảng tin cậy theo câu.
- Softmax triệt tiêu mọi hằng số cộng vào K; RoPE biến hằng số ấy thành một hàm của khoảng cách.
- Độ dời của V là một bias của luồng dư; độ dời của Q góp phần tạo ra điểm hút chú ý.
- Cùng một hàm số có thể cười hoặc không cười: tự do gauge.

## Tài liệu
- J. Su và cộng sự, *RoFormer: Enhanced Transformer with Rotary Position Embedding*, 2021 (arXiv:2104.09864).
- M. Namazifar, D. Hazarika, D. Hakkani-Tür, *Role of Bias Terms in Dot-Product Attention*, ICASSP 2023 (arXiv:2302.08626).
- G. Xiao và cộng sự, *Efficient Streaming Language Models with Attention Sinks*, ICLR 2024 (arXiv:2309.17453).
- Y. Bondarenko, M. Nagel, T. Blankevoort, *Quantizable Transformers: Removing Outliers by Helping Attention Heads Do Nothing*, NeurIPS 2023 (arXiv:2306.12929).
- O. Press, N. Smith, M. Lewis, *Train Short, Test Long: Attention with Linear Biases*, ICLR 2022 (arXiv:2108.12409).
- C. Raffel và cộng sự, *Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer*, JMLR 21, 2020 (arXiv:1910.10683).
- N. Elhage và cộng sự, *A Mathematical Framework for Transformer Circuits*, 2021 (transformer-circuits.pub).
"""

# %% [markdown] lang="en"
r"""
## Check yourself
1. Why does each intervention need a random vector of the same length *in each head*, not just the same length over all?
2. A friend adds 1000 to every entry of K in GPT-2, sees the logits unchanged and concludes: "GPT-2 does not use K". What is wrong?
3. Why must the mean come from other sentences than those measured on?
4. V has a gauge freedom too: $V\to VN$, $W_O\to N^{-1}W_O$. What does it allow you to do to the smile of VV?
5. Subtracting V's offset from the first token *too* does far more harm. Explain with the word "silent".

<details><summary>Short answers</summary>

1. Heads differ widely in size; a vector of the same overall length may fall on heads that the model does not use.
2. The constant carries no information, but K's *variation* around it does: the line "keep only the offset" of K shows the harm of losing that.
3. Otherwise the mean holds a part of the very sentence measured, and subtracting it takes some of that sentence's variation too.
4. Mix the features of each head at will, so close or open the smile of VV within heads without changing a logit.
5. A head with its attention on the first token gets a V near 0, so it is silent; with the offset subtracted there it says $-W_Oc$ everywhere.
</details>

## Summary
- An intervention means something only beside a random one of the same size, with an interval over sentences.
- The softmax cancels every constant of K; rotary positions turn it into a function of distance.
- V's offset is a bias of the residual stream; Q's offset feeds the attention sink.
- One and the same function may smile or not: gauge freedom.

## References
- J. Su et al., *RoFormer: Enhanced Transformer with Rotary Position Embedding*, 2021 (arXiv:2104.09864).
- M. Namazifar, D. Hazarika, D. Hakkani-Tür, *Role of Bias Terms in Dot-Product Attention*, ICASSP 2023 (arXiv:2302.08626).
- G. Xiao et al., *Efficient Streaming Language Models with Attention Sinks*, ICLR 2024 (arXiv:2309.17453).
- Y. Bondarenko, M. Nagel, T. Blankevoort, *Quantizable Transformers: Removing Outliers by Helping Attention Heads Do Nothing*, NeurIPS 2023 (arXiv:2306.12929).
- O. Press, N. Smith, M. Lewis, *Train Short, Test Long: Attention with Linear Biases*, ICLR 2022 (arXiv:2108.12409).
- C. Raffel et al., *Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer*, JMLR 21, 2020 (arXiv:1910.10683).
- N. Elhage et al., *A Mathematical Framework for Transformer Circuits*, 2021 (transformer-circuits.pub).
"""
