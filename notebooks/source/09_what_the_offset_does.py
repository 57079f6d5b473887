# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] lang="vi"
r"""
# 09 · Độ dời làm gì? Hoán đổi và can thiệp

**Câu hỏi.** Tài liệu gốc kết luận: độ dời trung bình (mean offset) không phải nhiễu, mà là “*mã* mà mô hình dựa vào để vận hành”. Không biểu đồ tần suất (histogram) nào chứng minh được điều ấy. Nếu đặt độ dời của " him" vào chỗ độ dời của " her", các token đứng sau sẽ đọc ra từ nào?

**Sau bài này, bạn có thể**
- hoán đổi độ dời của hai từ bên trong một mô hình đang chạy, và chứng minh rằng phép sửa ấy đúng;
- đặt mỗi can thiệp (intervention) cạnh các đối chứng, ở liều lượng nhỏ và bằng nhau;
- chứng minh rằng softmax triệt tiêu một hằng số được cộng vào mọi khóa (key), và chỉ ra điều ấy thay đổi ra sao khi có mã hóa vị trí xoay (RoPE);
- kết luận theo ngưỡng đặt trước.

**Thời gian:** khoảng 59 phút đọc và làm bài tập; máy tính chạy khoảng 70 giây. **Cần biết trước:** bài 01, 04 và 06.
"""

# %% [markdown] lang="en"
r"""
# 09 · What does the offset do? Swaps and interventions

**Question.** The source concludes that mean offsets are not noise but the *code* that the model runs on. No histogram can prove that. If we put the offset of " him" in the place of that of " her", which word will later tokens read?

**Afterwards you can**
- swap the offsets of two words inside a running model, and prove that the edit is right;
- set every intervention beside controls, at small and equal doses;
- prove that the softmax cancels a constant added to all keys, and say what rotary positions change about that;
- conclude by thresholds set beforehand.

**Time:** about 59 minutes of reading and exercises; the computer runs for about 70 seconds. **You need:** notebooks 01, 04 and 06.
"""

# %% tags=["setup"]
# the build puts setup_cell.py here
from helpers import set_language

set_language("vi")

# %%
import copy

import torch

from helpers import (
    attention_modules,
    encode,
    find_token,
    label,
    load_model,
    load_ordinary,
    load_sentences,
    mean_ci,
    say,
    show,
    token_id_of,
)
from helpers.experiments.interventions import (
    Predictions,
    after_rotary,
    as_long_as,
    clamped,
    common_mean,
    context_free,
    edit_layers,
    effect,
    massive_tokens,
    other_phases,
    predict,
    random_like,
    real_tokens,
    rotary_half,
    score_by_distance,
)
from helpers.experiments.takes import takes
from helpers.experiments.word_swap import WordSlot
from helpers.teaching.checks import check, needs
from helpers.teaching.plots.interventions import decide, plot_distance, plot_doses, plot_swap

model, tokenizer = load_model()
takes(model, causal=True, plain=True)

# %% [markdown] lang="vi"
r"""
## 1. Ba phần, một thước đo, và luật chơi

Bài 06 tách mỗi vector thành ba phần: $x=c+\delta_w+\varepsilon$. **Trung bình chung** $c$ lấy trên mọi token thường (không khổng lồ) của văn bản; **phần riêng của từ** $\delta_w$ là trung bình của từ ấy trừ đi $c$; **phần do ngữ cảnh** $\varepsilon$ là phần còn lại. Độ dời của một từ là $\mu_w=c+\delta_w$. Phán quyết về phần này không nói gì về phần kia.

**Thước đo.** Phân kỳ KL: phân phối của token tiếp theo đổi đi bao nhiêu (0: không đổi). Đơn vị: nat (như bit, nhưng dùng logarit tự nhiên).

**Ngưỡng, đặt trước khi bạn chạy.**
- Độ dời *mang thông tin về từ*: thay độ dời của từ bằng độ dời của một từ khác thì KL so với lượt chạy có từ khác ấy giảm hơn một nửa, còn thay các độ lệch (quanh trung bình của từ) thì không; cả hai theo khoảng tin cậy (confidence interval) 95% qua các từ. Ngoài ra, với mọi từ, KL giảm nhiều hơn so với khi đặt độ dời của một từ thứ ba vào chỗ ấy.
- Trung bình chung *cần thiết*: bỏ nó thì KL trên 0,1 (xét cận dưới của khoảng tin cậy 95%, ở đây tính qua các câu). *Đặc thù*: ở liều lượng một phần ba (trừ $c/3$ thay vì $c$), bỏ nó hại hơn bỏ bất kỳ đối chứng nào của mục 3 (các vector ngẫu nhiên cùng độ dài, cả loại thường lẫn loại khắt khe hơn), cũng ở liều ấy. *Tự nó đủ*: chỉ giữ lại nó thì KL vẫn dưới một nửa KL của một máy đoán *chưa đọc văn bản*, và dưới một nửa KL khi gán cả vector (Q, K hay V) bằng 0 (*chưa rõ* nếu khoảng tin cậy vắt qua mức ấy).
- *Bị triệt tiêu*: KL dưới 0,001.
"""

# %% [markdown] lang="en"
r"""
## 1. Three parts, one yardstick, and the rules of the game

Notebook 06 split each vector into three: $x=c+\delta_w+\varepsilon$. The **common mean** $c$ is taken over all ordinary (not massive) tokens of text; **the word's own part** $\delta_w$ is the mean of that word minus $c$; **what the context adds**, $\varepsilon$, is the rest. The offset of a word is $\mu_w=c+\delta_w$. A verdict about one part says nothing about another.

**The yardstick.** KL divergence: how much the distribution of the next token changes (0: not at all). Unit: nats (like bits, with the natural logarithm).

**Thresholds, set before you run anything.**
- The offset *carries the word*: putting another word's offset in its place removes more than half of the KL to a run with that other word, and putting in its deviations around the mean does not (both by 95% intervals over words); and for every word it beats a wrong word's offset.
- The common mean is *needed*: without it the KL is above 0.1 (lower end of the 95% interval, over sentences here). *Specific*: at a dose of one third ($c/3$ is taken out, not $c$) it does more harm than every control of section 3 at that dose (random vectors of its length, the stricter ones included). *Enough*: keeping only it gives less than half of the KL of a predictor that *has not read the text*, and of that when the whole vector (Q, K or V) is set to zero (*undecided* if the interval reaches over that).
- *Cancelled*: KL below 0.001.
"""

# %%
HALF, NEEDED, SMALL, CANCELLED = 0.5, 0.1, 1 / 3, 0.001
WORDS = (" him", " his", " them", " Maria", " water")
answer = {True: say("có", "yes"), False: say("không", "no"), None: say("chưa rõ", "undecided")}

n_layer, d_head = len(attention_modules(model)), model.config.hidden_size // model.config.num_attention_heads
ordinary, sentences, generator = load_ordinary(), load_sentences("her"), torch.Generator().manual_seed(0)
common = common_mean(model, encode(tokenizer, ordinary[1::6]))  # {part: [layer, feature]}
ids = {word: token_id_of(tokenizer, word) for word in (" her", *WORDS)}
print(model.provenance)

# %% [markdown] lang="vi"
r"""
## 2. Hoán đổi độ dời của hai từ

Trong 54 câu có " her", ta thay từ ấy bằng " him" (thay token, *token replacement*) rồi chạy mô hình: đó là lượt chạy *đích*. Sau đó ta chạy chính câu có " her", nhưng chỉ riêng ở vị trí ấy, tại mọi tầng (layer), ta sửa K và V. Các token đứng sau chỉ thấy vị trí ấy qua K và V ở đó. Vậy nếu đặt *nguyên* K và V của " him" vào (thay giá trị kích hoạt, *activation patching*) thì KL so với lượt chạy đích phải bằng 0: đó là phép thử cho chính phép sửa.

Hai phép hoán đổi, mỗi phép làm một nửa việc ấy: chỉ thay **độ dời** ($x_\text{her}-\mu_\text{her}+\mu_\text{him}$), hoặc chỉ thay **độ lệch** quanh độ dời ($x_\text{him}-\mu_\text{him}+\mu_\text{her}$). Trung bình lấy từ một nửa số câu, phép đo làm trên nửa kia.

**Điều gì sẽ bác bỏ “độ dời mang thông tin về từ”?** Hoán đổi độ dời mà KL giảm chưa đến một nửa; hoặc hoán đổi độ lệch mà KL cũng giảm hơn một nửa; hoặc đặt độ dời của một từ *thứ ba* vào chỗ ấy mà KL giảm không kém gì khi đặt độ dời của đúng từ. **Dự đoán** trước khi chạy.

### Bài tập 9.1
Viết `swap_offset(x, mine, other)`: `x` `[layer, sample, feature]` là vector ở những câu được đo (mỗi câu một mẫu); `mine`, `other`, cũng với ba trục ấy, là vector của hai từ ở những câu dùng để lấy trung bình. Trả về `x` với độ dời của `mine` được thay bằng độ dời của `other`.

*Gợi ý:* lấy trung bình qua các mẫu, `keepdim=True`.
"""

# %% [markdown] lang="en"
r"""
## 2. Swap the offsets of two words

In the 54 sentences with " her" we put " him" in its place (*token replacement*) and run the model: the *target* run. Then we run the sentence with " her" itself, but at that one position, in every layer, we edit K and V. Later tokens see the position through its K and V only. So if we put in the *whole* K and V of " him" (*activation patching*), the KL to the target run must be 0: that tests the edit itself.

Two swaps do half of that each: only the **offset** ($x_\text{her}-\mu_\text{her}+\mu_\text{him}$), or only the **deviations** around it ($x_\text{him}-\mu_\text{him}+\mu_\text{her}$). Means come from one half of the sentences, measurements from the other.

**What would refute it?** Swapping the offset removes less than half of the KL; or swapping the deviations removes more than half as well; or the offset of a *wrong* word removes as much as the right one's. **Predict.**

### Exercise 9.1
Write `swap_offset(x, mine, other)`: `x` `[layer, sample, feature]` are the vectors in the sentences that are measured, one sample each; `mine`, `other`, with the same axes, those of the two words in the sentences for means. Return `x` with the offset of `mine` replaced by that of `other`.

*Hint:* the mean is over samples, `keepdim=True`.
"""


# %% tags=["exercise"]
def swap_offset(x, mine, other):
    return ...


check("9.1", swap_offset)


# %% tags=["solution"]
# @title Lời giải 9.1 · Solution 9.1
def swap_offset(x, mine, other):
    return x - mine.mean(dim=1, keepdim=True) + other.mean(dim=1, keepdim=True)


check("9.1", swap_offset, solution=True)

# %% [markdown] lang="vi"
r"""
`WordSlot` giữ chỗ của từ trong mỗi câu: `capture` cho Q, K, V của một từ đặt vào chỗ ấy, `predict` cho các dự đoán sau chỗ ấy (`predict_edited`: khi K, V ở đó được sửa), `kl` so hai bộ dự đoán. Hai vector đối chứng, ở từng đầu attention (head), đều dài bằng hiệu của hai độ dời: một vector có hướng ngẫu nhiên; vector kia theo hướng từ độ dời của " her" đến độ dời của một *từ thứ ba* trong danh sách.
"""

# %% [markdown] lang="en"
r"""
`WordSlot` holds the place of the word in each sentence: `capture` gives Q, K and V of a word put there, `predict` the predictions after it (`predict_edited`: with K, V edited there), `kl` compares two predictions. Two controls are as long as the difference of the two offsets in each attention head: a random direction, and the difference to a *wrong* word of the list.
"""


# %%
def halves(model):
    """The place of " her" in the sentences for the means, and in those that are measured."""
    batches = [encode(tokenizer, chosen) for chosen in (sentences[0::2], sentences[1::2])]
    return [WordSlot(model, batch, find_token(batch, ids[" her"])) for batch in batches]


needs("9.1")


def edits_of(slots, word, wrong):
    """What takes the place of K and V of " her", {name of the edit: {part: vectors}}."""
    mine, other, third = (slots[0].capture(ids[w]) for w in (" her", word, wrong))
    x, theirs = (slots[1].capture(ids[w]) for w in (" her", word))  # {part: [layer, sample, feature]}
    offset = {part: swap_offset(x[part], mine[part], other[part]) for part in "KV"}
    moved = {part: (offset[part] - x[part])[:, :1] for part in "KV"}  # [layer, 1, feature]
    wrongly = {part: (swap_offset(x[part], mine[part], third[part]) - x[part])[:, :1] for part in "KV"}
    return {
        "offset_swapped": offset,
        "only_k": {"K": offset["K"]},
        "only_v": {"V": offset["V"]},
        "only_layer_0": {part: torch.cat([offset[part][:1], x[part][1:]]) for part in "KV"},
        "deviation_swapped": {part: swap_offset(theirs[part], other[part], mine[part]) for part in "KV"},
        "wrong_word": {part: x[part] + as_long_as(wrongly[part], moved[part], d_head) for part in "KV"},
        "random_draw": {part: x[part] + random_like(moved[part], d_head, generator) for part in "KV"},
        "full_patch": {part: theirs[part] for part in "KV"},
    }


# %%
needs("9.1")


def swap(slots, word, wrong, names):
    """KL [sentence] from the run with `word`, for the run with " her" as it is and under some edits."""
    goal, edits = slots[1].predict(ids[word]), edits_of(slots, word, wrong)
    edited = slots[1].predict_edited(ids[" her"], [edits[name] for name in names])
    runs = {"unedited": slots[1].predict(ids[" her"])} | dict(zip(names, edited))
    return {name: slots[1].kl(goal, log_p) for name, log_p in runs.items()}


def table(swaps, names, digits=2):
    wide = max(map(len, swaps)) + 3
    print(f"{'':32s}" + "".join(f"{word:>{wide}s}" for word in swaps))
    for name in names:
        show(f"{label(name):32s}" + "".join(f"{float(kl[name].mean()):{wide}.{digits}f}" for kl in swaps.values()))


slots, controls = halves(model), ("wrong_word", "random_draw")
names = ("offset_swapped", "only_k", "only_v", "deviation_swapped", *controls)
swaps = {word: swap(slots, word, wrong, names) for word, wrong in zip(WORDS, (*WORDS[1:], WORDS[0]))}
patched = swap(slots, WORDS[-1], " him", ("full_patch",))["full_patch"]
assert float(patched.abs().max()) < 1e-5  # the edit is right
table(swaps, ("unedited", *names))

# %%
needs("9.1")
shown, n = ("unedited", "offset_swapped", "deviation_swapped", *controls), len(patched)
title = f'{model.provenance} · " her" → … · n = {n} {label("sentences")}'
figure = plot_swap({w: {name: kl[name] for name in shown} for w, kl in swaps.items()}, controls=controls, title=title)

# %%
needs("9.1")
removed = {name: [1 - float(kl[name].mean() / kl["unedited"].mean()) for kl in swaps.values()] for name in names}
interval = {}
for name, shares in removed.items():
    mean, reach = mean_ci(shares)
    interval[name] = mean - reach, mean + reach
    show(f"{label(name):32s} {say('KL giảm', 'removes')} {mean:5.0%}   [{mean - reach:.0%}, {mean + reach:.0%}]")
beats = all(right > wrong for right, wrong in zip(removed["offset_swapped"], removed["wrong_word"]))
carries = interval["offset_swapped"][0] > HALF > interval["deviation_swapped"][1] and beats
print(say("hơn độ dời của từ thứ ba, ở mọi từ:", "beats the offset of the wrong word, for every word:"), answer[beats])
print(say("độ dời mang thông tin về từ:", "the offset carries the word:"), answer[carries])

# %%
torch.manual_seed(0)
fewer = copy.deepcopy(model.config)
fewer.num_hidden_layers = max(1, n_layer // 3)
untrained = halves(type(model)(fewer).to(model.device).eval())  # the same architecture, random weights
origin = ("offset_swapped", "only_layer_0")
needs("9.1")
trained = {**swaps[" water"], **swap(slots, " water", " him", origin[1:])}
sides = (
    (say("đã huấn luyện", "trained"), trained),
    (say("chưa huấn luyện", "untrained"), swap(untrained, " water", " him", origin)),
)
table(dict(sides), ("unedited", *origin), digits=3)

# %% [markdown] lang="vi"
r"""
Bảng đầu: KL so với lượt chạy đích, trung bình qua các câu. Bảng sau: mỗi phép sửa làm KL giảm bao nhiêu phần trăm, kèm khoảng tin cậy 95% *qua các từ* (trong hình: *qua các câu*). Khoảng ấy không tính đến việc chọn câu: trên SmolLM2-135M, đổi bộ câu được đo thì dòng “độ dời, chỉ V” khi thì “chưa rõ”, khi thì “có”, nên đừng kết luận gì từ riêng dòng ấy. Số âm: dự đoán bị đẩy ra xa thêm. Ở tầng 0, vector chỉ phụ thuộc vào token (nếu mô hình dùng RoPE), nên ở đó hoán đổi độ dời *chính là* thay cả vector; dòng “độ dời, chỉ tầng 0” cho biết có phải chỉ vì thế mà ta được kết quả này hay không.

Hai lượt chạy có chung ngữ cảnh, nên phần do ngữ cảnh của chúng gần giống nhau; hoán đổi phần ấy mà ít thay đổi thì cũng dễ hiểu. Bảng cho biết thông tin *từ nào đứng đó* nằm trong độ dời hay trong độ lệch, chứ *không* cho biết ở chỗ ấy có cần ngữ cảnh hay không. Bảng cuối so mô hình của bạn với một mô hình *chưa huấn luyện* (cùng kiến trúc, nhưng số tầng chỉ bằng một phần ba): ngay cả ở đó, trung bình của một từ cũng mang dấu vết của từ ấy, vì vector gần như bằng từ *cộng* ngữ cảnh. Hãy so hai mô hình ở hai điểm: các token sau dùng dấu vết ấy nhiều đến đâu (KL khi không can thiệp), và riêng tầng 0 đã đủ chưa.

### Cùng chỗ ấy, bỏ từng phần

Giờ ta không thay từ nào: ở chỗ của " her", ta chỉ bỏ đúng một phần khỏi K và V, rồi đo KL so với lượt chạy không can thiệp. **Dự đoán:** bỏ phần nào hại nhất?
"""

# %% [markdown] lang="en"
r"""
The first table: KL to the target run, mean over sentences. The second: how much of it each edit removes, with a 95% interval *over words* (*over sentences* in the figure). It leaves out the choice of the sentences: on SmolLM2-135M the line "offset, V only" comes out as "undecided" with one set of measured sentences and as "yes" with another, so conclude nothing from that line alone. Negative: the predictions are driven further away. At layer 0 a vector depends on the token alone (with rotary positions), so there swapping the offset *is* replacing the vector; the line "layer 0 only" says whether that explains the result.

The two runs share their context, so what it adds is nearly the same in both, and little changes when it is swapped. The table tells whether offset or deviation carries *which word stood there*, *not* whether the context is needed at that place. The last table sets an *untrained* model (same architecture, a third of the layers) beside it: the mean of a word bears its mark even there, a vector being nearly word *plus* context. Compare how much later tokens use it (the unedited KL), and whether layer 0 alone suffices.

### The same place, one part less

Now no word is replaced: at the place of " her" we take just one part out of K and V, and measure the KL from the unedited run. **Predict:** which part is missed most?
"""

# %%
needs("9.1")
x, unedited = slots[1].capture(ids[" her"]), slots[1].predict(ids[" her"])
mean = {part: v.mean(dim=1, keepdim=True) for part, v in slots[0].capture(ids[" her"]).items()}  # [layer, 1, feature]
c = {part: common[part].unsqueeze(1) for part in "KV"}
own = {part: mean[part] - c[part] for part in "KV"}
without = {
    "without_common": {part: x[part] - c[part] for part in "KV"},
    "without_own": {part: x[part] - own[part] for part in "KV"},
    "without_context": {part: mean[part].expand_as(x[part]) for part in "KV"},
    "without_random": {part: x[part] - random_like(own[part], d_head, generator) for part in "KV"},
}
edited = slots[1].predict_edited(ids[" her"], list(without.values()))
missed = {name: slots[1].kl(unedited, log_p) for name, log_p in zip(without, edited)}
for name, kl in missed.items():
    mean_kl, reach = mean_ci(kl)
    show(f"{label(name):42s} KL {mean_kl:.3f} ± {reach:.3f}")

# %% [markdown] lang="vi"
r"""
Trong bài này, số sau ± là nửa độ rộng của khoảng tin cậy 95% qua các câu, không phải sai số chuẩn (standard error) như ở bài 08. Dòng “bỏ phần do ngữ cảnh” là *mean ablation*, tức loại bỏ bằng cách thay bằng trung bình, ở một vị trí. KL nhỏ ở đây không có nghĩa là ngữ cảnh vô ích: ngữ cảnh còn đến với các token sau qua mọi vị trí khác.

## 3. Trung bình chung, ở liều lượng nhỏ và bằng nhau

Giờ đến một vector *khác*: trung bình chung $c$, thứ mà mọi token đều có. Ta trừ nó khỏi Q, K hoặc V của mọi token thường, ở mọi tầng, trên những câu không dùng để tính $c$. Các điểm hút chú ý (attention sink: những token, thường là token đầu tiên, được nhiều đầu attention dồn phần lớn sự chú ý vào) được nhận ra *theo độ dài* của luồng dư (residual stream; bài 05, 07), không theo vị trí, và được để nguyên.

Trừ trọn một vector dài thì theo hướng nào mô hình cũng hỏng. Mốc để coi là hỏng là KL của một máy đoán *chưa đọc văn bản*, lúc nào cũng đưa ra trung bình của mọi dự đoán: đã vượt mốc ấy thì KL lớn hơn không có nghĩa là “cần hơn”. Vì vậy ta so ở *liều nhỏ*: trừ $a\,c$ với $a=1/3$. Đối chứng, cũng ở liều ấy: năm vector ngẫu nhiên cùng độ dài ở từng đầu; và hai đối chứng khắt khe hơn, giữ độ dài của $c$ ở từng *cặp chiều* mà bước xoay (rotary step) quay cùng nhau, chỉ chọn lại góc một cách ngẫu nhiên (ở V, hoặc khi không có bước xoay: chọn lại ngẫu nhiên dấu của từng chiều).

**Dự đoán:** ở Q, ở K hay ở V, trừ $c$ hại hơn mọi đối chứng?
"""

# %% [markdown] lang="en"
r"""
In this notebook ± is half of the 95% interval over sentences (not a standard error, as in notebook 08). The line "without what the context adds" is *mean ablation* at one place. A small KL here does not mean that context is useless: it reaches later tokens through every other position.

## 3. The common mean, at small and equal doses

Now *another* vector: the common mean $c$, which all tokens have. We subtract it from Q, K or V of all ordinary tokens, in every layer, on sentences that were not used to compute $c$. Attention sinks (tokens, mostly the first, that draw most of the weight of many heads) are recognised *by the length* of their residual stream (notebooks 05, 07), not by position, and left alone.

Subtract a long vector and the model breaks in any direction. The mark of ruin is a predictor that has *not read the text* and gives the mean of all predictions every time: beyond it a larger KL does not mean "more needed". So we compare at a *small dose*: subtract $a\,c$ with $a=1/3$. Controls at that same dose: five random vectors as long in each head; and two stricter ones that keep the length in each *pair of features* turned together by the rotary step and redraw its angle (for V, or without that step: the sign of each feature).

**Predict:** in which of Q, K, V does $c$ do more harm than all controls?
"""

# %%
batch = encode(tokenizer, sorted(ordinary[0::2], key=lambda text: len(tokenizer.tokenize(text)))[:5])  # the shortest
before, sink = predict(model, batch), massive_tokens(model, batch)
where = real_tokens(batch) & ~sink  # [sentence, token]
anchor = float(context_free(before, batch).mean())
half = rotary_half(model, d_head)


def measure(part, changes):
    """KL [change, sentence] when change(vectors, layer) replaces one part of every ordinary token in every layer.

    The changes share one forward pass: the batch is repeated, and each change has its own copy of the sentences.
    """
    times = len(changes)
    copies = {key: value.repeat(times, 1) for key, value in batch.items()}
    unedited = Predictions(before.p.repeat(times, 1), before.entropy.repeat(times))

    def all_changes(x, layer):  # [change * sentence, token, feature]
        return torch.cat([change(mine, layer) for change, mine in zip(changes, x.chunk(times))])

    with edit_layers(model, part, all_changes, where=where.repeat(times, 1)):
        return effect(model, copies, unedited).view(times, -1)


def take_away(vector, dose):  # vector [layer, feature]
    return lambda x, layer: x - dose * vector[layer]


n = f"{len(where)} {label('sentences')}, {int(where.sum())} {label('tokens')}"
show(f"{n}   {label('context_free')}: KL {anchor:.2f}")

# %%
harm, draws, strict, ablated = {}, {}, {}, {}
for part, c in common.items():
    blind = [random_like(c, d_head, generator) for _ in range(5)]
    turned = [other_phases(c, d_head, 0 if part == "V" else half, generator) for _ in range(2)]
    changes = [take_away(c, SMALL), take_away(c, 1.0)]
    changes += [lambda x, layer, c=c: c[layer].expand_as(x), lambda x, layer: torch.zeros_like(x)]
    kl = measure(part, changes + [take_away(vector, SMALL) for vector in (*blind, *turned)])  # [change, sentence]
    harm[part] = {SMALL: kl[0], 1.0: kl[1]}  # {dose: KL [sentence]}
    ablated[part], draws[part], strict[part] = kl[2:4], kl[4:9], kl[9:]  # ablated: mean ablation, zero ablation

# %%
verdicts = {}
for part in common:
    (kept, wide), zero = mean_ci(ablated[part][0]), float(ablated[part][1].mean())
    blind, turned = (kl[part].mean(dim=1) for kl in (draws, strict))
    small, (whole, reach) = float(harm[part][SMALL].mean()), mean_ci(harm[part][1.0])
    verdicts[part] = {
        "needed": whole - reach > NEEDED,
        "specific": small > max(CANCELLED, float(blind.max()), float(turned.max())),
        "enough": decide(-kept - wide, -kept + wide, -HALF * min(anchor, zero)),
    }
    show(f"{part}  a = 1/3: {small:z.2f}   {label('random_draw')} {blind.min():z.2f} … {blind.max():z.2f}", end="   ")
    show(f"{label('stricter_draw')} {turned.min():z.2f}, {turned.max():z.2f}")
    show(f"   a = 1: {whole:z.2f} ± {reach:.2f}", end="   ")
    show(f"{label('mean_ablated')} {kept:z.2f} ± {wide:.2f}   {say('gán bằng 0:', 'set to 0:')} {zero:z.2f}")

# %%
figure = plot_doses(harm, SMALL, draws, strict, anchor, title=f"{model.provenance} · {n}")

# %% [markdown] lang="vi"
r"""
Đường màu: bỏ trung bình chung, liều tăng dần; hình thoi và hình vuông: các đối chứng, ở cùng một liều; đường nét đứt: máy đoán chưa đọc văn bản. Phía trên đường nét đứt thì mô hình không còn là *thiếu thông tin* nữa mà là *hỏng*. Giả sử $c$ cũng chỉ là một vector ngẫu nhiên: cứ sáu lần vẫn có một lần nó hại hơn cả năm vector kia. Hãy xem hai loại đối chứng cách nhau bao xa: nếu loại khắt khe còn hại hơn $c$, thì cái gây hại là *độ dài ở những cặp chiều ấy*, chứ không phải chính vector $c$.

*Thay bằng trung bình* (mean ablation) chỉ giữ $c$, loại bỏ phần riêng của từ và phần do ngữ cảnh; *gán bằng 0* (zero ablation) loại bỏ cả $c$. Ở đâu phép thay bằng trung bình cho KL gần với mức chưa đọc văn bản, ở đó mô hình cần *phần biến thiên*.

## 4. Khóa: softmax triệt tiêu hằng số

Cộng cùng một vector $c$ vào *mọi* khóa:

$$\frac{q_i\cdot(k_j+c)}{\sqrt d}=\frac{q_i\cdot k_j}{\sqrt d}+\frac{q_i\cdot c}{\sqrt d}.$$

Số hạng cuối không chứa $j$: mọi điểm số attention (attention score) của truy vấn (query) $i$ được cộng thêm cùng một số, và softmax không đổi. Một hằng số của K, dù lớn đến đâu, cũng *không thể* mang thông tin gì.

### Bài tập 9.2
Viết `added(q, c)`: với `q` `[query, d_head]` và `c` `[d_head]`, trả về `[query]`: với mỗi truy vấn, số được cộng thêm vào mọi điểm của nó.
"""

# %% [markdown] lang="en"
r"""
Coloured: the common mean subtracted at growing doses; diamonds and squares: the controls at one dose; dashed: the predictor that has not read the text. Above the dashed line the model is not *short of information* but *broken*. Chance alone beats five draws one time in six. See how far apart the two kinds of controls are: where the stricter one does more harm than $c$, what hurts is the *length in those pairs*, not that very vector.

*Mean ablation* keeps just $c$; *zero ablation* drops $c$ too. Where mean ablation is nearly as bad as not having read the text, the model needs *what varies*.

## 4. Keys: the softmax cancels a constant

Add the same vector $c$ to *all* keys:

$$\frac{q_i\cdot(k_j+c)}{\sqrt d}=\frac{q_i\cdot k_j}{\sqrt d}+\frac{q_i\cdot c}{\sqrt d}.$$

The last term has no $j$: all scores of query $i$ rise alike, and the softmax does not change. A constant of K, however large, *cannot* carry any information.

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


check("9.2", added, solution=True)

# %% [markdown] lang="vi"
r"""
“Mọi khóa” phải hiểu là khóa lúc đi vào tích vô hướng, tức *sau* bước xoay (rotary step) của RoPE. Cộng $c$ trước bước ấy thì khác: khóa ở vị trí $j$ mang $R_jc$ (là $c$ đã quay theo vị trí ấy), và truy vấn ở vị trí $t$ thấy $q_t\cdot R_{j-t}\,c/\sqrt d$: một hàm của *khoảng cách* $t-j$ (và của truy vấn), dù token ở khóa ấy là gì.
"""

# %% [markdown] lang="en"
r"""
"All keys" means the keys as they enter the dot product, *after* the rotary step of RoPE. Before that step it is different: the key at position $j$ carries $R_jc$ ($c$ turned by that position), and the query at position $t$ sees $q_t\cdot R_{j-t}\,c/\sqrt d$: a function of the *distance* $t-j$ (and of the query), whichever token that key is.
"""

# %%
turned_keys = after_rotary(model, batch, "K")[:, where].mean(dim=1)  # [layer, feature]
everywhere = {}
for name, vector, later in (("after_rotary", turned_keys, True), ("before_rotary", common["K"], False)):
    with edit_layers(model, "K", lambda k, layer, v=vector: k - v[layer], after_rotary=later):
        everywhere[name] = float(effect(model, batch, before).mean())
    show(f"{label(name):44s} KL {everywhere[name]:z.3f}")
cancelled = everywhere["after_rotary"] < CANCELLED

# %%
queries, one = after_rotary(model, batch, "Q"), {key: value[:1] for key, value in batch.items()}
random_k = random_like(common["K"], d_head, generator)
constant = {
    name: after_rotary(model, one, "K", instead=v)[:, 0] for name, v in (("c", common["K"]), ("random", random_k))
}
shown = [round(share * (n_layer - 1)) for share in (0.1, 0.5, 0.9)]
curves = {
    name: {layer: score_by_distance(queries[layer], c[layer], real_tokens(batch), d_head).cpu() for layer in shown}
    for name, c in constant.items()
}
figure = plot_distance(curves["c"], curves["random"], title=f"{model.provenance} · K · {n}")

# %% [markdown] lang="vi"
r"""
Vậy một hằng số có mặt ở *mọi* khóa thì bị triệt tiêu. Ở mục 3, các điểm hút được để nguyên: khi ấy không phải mọi khóa đều bị dời, và softmax thấy rõ khoảng chênh giữa các điểm hút với phần còn lại. Đó là một phần của thiệt hại ở K, dù mô hình có bước xoay hay không.

Mỗi đường là một đầu: phần điểm mà $c$ (màu) hoặc một vector ngẫu nhiên (xám) cộng thêm, theo khoảng cách; trung bình *của từng truy vấn* đã được trừ đi, vì softmax bỏ đúng hằng số ấy. Đường nằm ngang nghĩa là không có tác dụng gì: mô hình không có bước xoay (GPT-2) phải cho toàn đường nằm ngang. Vector ngẫu nhiên cũng cho một hàm của khoảng cách; nét riêng của $c$, nếu có, là hàm ấy *giảm*: ưu tiên token gần. (Bản thân RoPE thì không phải cứ “càng xa càng yếu”: Barbero và cộng sự.)

## 5. V: trung bình chung là một bias

Các trọng số attention (attention weight) của một truy vấn có tổng bằng 1. Nếu *mọi* V đều được cộng thêm cùng một vector $c$ thì đầu ra là $\sum_j a_{ij}(v_j+c)=\sum_j a_{ij}v_j+c$: luồng dư của *mọi token, trong mọi câu* nhận cùng một vector $W_Oc$ ($W_O$: ma trận đầu ra), bất kể attention nhìn vào đâu. Đó là một *bias*: giống nhau ở khắp nơi, nó không cho biết gì về câu đang đọc. Phần riêng của từ thì khác: chỉ những token nhìn vào từ ấy mới nhận được nó.
"""

# %% [markdown] lang="en"
r"""
So a constant in *all* keys is cancelled. Section 3 left the sinks alone: there not all keys were shifted, and the softmax does see the gap between the sinks and the rest. That is part of the damage at K, with or without a rotary step.

Each line is a head: the score that $c$ (coloured) or a random vector (grey) adds, by distance; the mean *of each query* is taken out, for the softmax drops just that constant. A level line means no effect: a model without a rotary step (GPT-2) must show level lines only. A random vector gives a function of distance too; what is special about $c$, if anything, is that it *falls*, preferring near tokens. (Of RoPE as such see Barbero et al.)

## 5. V: the common mean is a bias

The attention weights of a query sum to 1. If the same vector $c$ is added to *all* V, the output is $\sum_j a_{ij}(v_j+c)=\sum_j a_{ij}v_j+c$: the residual stream of *every token in every text* receives the same $W_Oc$ ($W_O$: output matrix), wherever attention looks. That is a *bias*: the same everywhere, it tells nothing about the text being read. The word's own part is different: it reaches only the tokens that look at the word.
"""

# %% [markdown] lang="vi"
r"""
## 6. Q: thiệt hại đi qua điểm hút chú ý

Trung bình chung của Q cộng vào điểm của khóa $j$ một số hạng $c\cdot k_j/\sqrt d$ (có RoPE thì còn tùy khoảng cách), với mọi truy vấn: như một bảng “khóa nào được ưa thích”. Thiệt hại khi bỏ $c$ có đi *qua* trọng số ở các điểm hút không? Ta *ghim* (clamp) các trọng số ấy ở mức của lượt chạy không can thiệp; các khóa khác chia nhau phần còn lại theo tỉ lệ của lượt chạy đã sửa. Và ngược lại: để nguyên Q, chỉ cho các điểm hút nhận trọng số của lượt chạy đã sửa.

**Quy tắc:** *đi qua điểm hút* nếu ghim làm KL giảm ít nhất một nửa. *Riêng của trung bình chung* nếu, ngoài ra, mức giảm ấy hơn mức giảm với một vector ngẫu nhiên ít nhất 20 điểm phần trăm.
"""

# %% [markdown] lang="en"
r"""
## 6. Q: the damage goes through the sinks

Q's common mean adds a term $c\cdot k_j/\sqrt d$ to the score of key $j$ (with RoPE by distance too), for every query: a table of which keys are liked. Does the damage of losing $c$ pass *through* the weights on the sinks? We *clamp* those weights to what they are in the unedited run; the other keys share the rest as in the edited run. And the other way round: leave Q alone, and give the sinks the weights of the edited run.

**Rule:** *through the sinks* if clamping removes at least half of the KL. *Peculiar to the common mean* if it saves at least 20 percentage points more than for a random vector.
"""


# %%
def look(vector=None, goal=None):
    """With `vector` subtracted from Q, and the weights on the sinks as in `goal`: mean KL, and all weights."""
    change = (lambda q, layer: q) if vector is None else (lambda q, layer: q - vector[layer])
    with edit_layers(model, "Q", change, where=where), clamped(model, sink, goal) as weights:
        return float(effect(model, batch, before).mean()), weights


# %%
_, usual = look()
shifts = {
    say("trung bình chung", "common mean"): common["Q"],
    label("random_draw"): random_like(common["Q"], d_head, generator),
}
saved = []  # share of the KL that clamping removes
for which, vector in shifts.items() if sink.any() else ():
    (lost, changed), (left, _) = look(vector), look(vector, usual)
    saved.append(1 - left / lost)
    show(f"{which:34s} KL {lost:.2f}   {say('ghim', 'clamped')} {left:.2f} ({saved[-1]:.0%})", end="   ")
    show(f"{say('chỉ trọng số ấy', 'those weights alone')} {look(None, changed)[0]:.2f}")
through = bool(saved) and saved[0] >= HALF
peculiar = through and saved[0] - saved[1] >= 0.2
print(
    say("điểm hút:", "sinks:"),
    int(sink.sum()),
    say("· đi qua điểm hút:", "· through the sinks:"),
    answer[through],
    end=" ",
)
print(say("· riêng của trung bình chung:", "· peculiar to the common mean:"), answer[peculiar])

# %% [markdown] lang="vi"
r"""
Ba con số: KL khi trừ vector; KL khi vừa trừ vừa ghim trọng số ở điểm hút (trong ngoặc: mức giảm); KL khi *chỉ* đổi trọng số ấy. (Các KL không cộng lại với nhau được.) Nếu với vector ngẫu nhiên, ghim cũng cứu được như thế thì “đi qua điểm hút” không phải là điều riêng của trung bình chung: dời Q theo hướng nào thì trọng số ở đó cũng bị xáo động trước hết.

## 7. Kết luận, cho từng phần
"""

# %% [markdown] lang="en"
r"""
Three numbers: KL with the vector subtracted; KL with the sinks' weights clamped besides; KL when *only* those weights are changed. (KL does not add up.) If random vectors are saved as well, passing through the sinks is nothing peculiar to the common mean: shift Q any way, and the weights there are disturbed first of all.

## 7. Conclusions, part by part
"""

# %%
needs("9.1")
print(say("Độ dời của từ, tại chỗ của từ:", "The word's offset, at its place:"))
print(f"  {say('cho biết từ nào đứng đó', 'carries which word stood there')}: {answer[carries]}", end="   ")
alone = {part: answer[decide(*interval[f"only_{part.lower()}"], HALF)] for part in "KV"}
print(say(f"(chỉ K: {alone['K']}, chỉ V: {alone['V']})", f"(K alone: {alone['K']}, V alone: {alone['V']})"))
for name in ("without_common", "without_own", "without_context"):
    show(f"  {label(name)}: KL {float(missed[name].mean()):z.2f}")
print(say("Trung bình chung, ở mọi token thường:", "The common mean, at all ordinary tokens:"))
for part, held in verdicts.items():
    print(f"  {part}   " + "   ".join(f"{label(name)}: {answer[yes]}" for name, yes in held.items()))
print(f"  K   {label('after_rotary')}, {say('bị triệt tiêu', 'cancelled')}: {answer[cancelled]}")

# %% [markdown] lang="vi"
r"""
Vậy “độ dời là mã” đúng đến đâu? Tùy *độ dời nào*. Tài liệu gốc đo độ dời của một từ, và mục 2 trả lời cho độ dời ấy, ở K và V. (Q ở đó thì chỉ có chính token ấy dùng đến: các token sau không đọc Q.) Trung bình chung thì giống nhau ở mọi token nên không thể cho biết token ấy là gì; nó là một *thiết lập* mà cả mô hình đã được huấn luyện cho khớp, và các dòng in ở trên cho biết trong Q, K, V, phần nào cần đúng vector ấy. Trên SmolLM2-135M, nụ cười ở Q và K chủ yếu do trung bình chung mà ra (bài 06): vì thế nụ cười không phải là thước đo của mã.

Tất cả chỉ đo trên một mô hình, năm từ, một kiểu câu tiếng Anh ngắn; vài từ thay vào thì câu sai ngữ pháp. (GPT-2: hãy chạy khi có kết nối tới Hub.)
"""

# %% [markdown] lang="en"
r"""
How far, then, is "offsets are the code" right? It depends on *which offset*. The source measured the offset of one word, and section 2 answers for that one, in K and V. (Only the token itself uses its Q: later tokens do not read it.) The common mean is alike at all tokens and so cannot say which token it is; it is a *setting* around which the model was trained, and the table says which of Q, K, V need that very vector. On SmolLM2-135M the smile of Q and K comes mostly from the common mean (notebook 06), and so it is no measure of the code.

All this was measured on one model, five words, one kind of short English sentence; some words make it ungrammatical. (GPT-2: to be seen when run with the Hub.)
"""

# %%
n_hooks = sum(len(module._forward_hooks) for module in model.modules())  # transformers may have some of its own
with edit_layers(model, "K", lambda k, layer: k):  # sanity check: an edit that edits nothing
    assert float(effect(model, batch, before).abs().max()) == 0
assert sum(len(module._forward_hooks) for module in model.modules()) == n_hooks
print("✓")

# %% [markdown] lang="vi"
r"""
## Tự kiểm tra
1. Vì sao khi đặt nguyên K và V của " him" vào một vị trí thì KL phải đúng bằng 0, dù Q ở đó vẫn là của " her"?
2. Một bạn cộng 1000 vào mọi phần tử của K ở GPT-2, thấy logit (con số mà mô hình gán cho từng token có thể đứng tiếp theo, trước softmax) không đổi, và kết luận: “GPT-2 không dùng K”. Sai ở đâu?
3. Trung bình chung không cho biết từ nào đứng đó. Vì sao bỏ nó đi vẫn có thể làm hỏng mô hình?

<details><summary>Trả lời ngắn</summary>

1. Q ở đó chỉ quyết định chính token ấy đọc gì; các token sau thấy vị trí ấy qua K và V, mà ở mọi tầng, K và V đã được đặt thẳng vào.
2. Hằng số không mang thông tin, nhưng *phần biến thiên* của K quanh hằng số ấy thì có.
3. Như một động cơ bị tháo một con ốc: mọi thứ còn lại đã được huấn luyện cho khớp với con ốc ấy. Con ốc không phải là thông điệp.
</details>

## Tóm tắt
- Hoán đổi độ dời của hai từ trả lời được câu hỏi mà biểu đồ không trả lời được: các token sau đọc ra gì ở đó.
- Softmax triệt tiêu mọi hằng số cộng vào K; nếu cộng trước bước xoay thì RoPE biến nó thành hàm của khoảng cách; hằng số của V là một bias.
- Can thiệp chỉ có nghĩa bên cạnh đối chứng, ở liều lượng mà mô hình chưa hỏng.

## Tài liệu
- F. Zhang và N. Nanda, *Towards Best Practices of Activation Patching in Language Models*, ICLR 2024 ([arXiv:2309.16042](https://arxiv.org/abs/2309.16042)).
- K. Wang và cộng sự, *Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 Small*, ICLR 2023 ([arXiv:2211.00593](https://arxiv.org/abs/2211.00593)).
- M. Sun và cộng sự, *Massive Activations in Large Language Models*, 2024 ([arXiv:2402.17762](https://arxiv.org/abs/2402.17762)).
- X. Gu và cộng sự, *When Attention Sink Emerges in Language Models: An Empirical View*, ICLR 2025 ([arXiv:2410.10781](https://arxiv.org/abs/2410.10781)).
- J. Su và cộng sự, *RoFormer: Enhanced Transformer with Rotary Position Embedding*, 2021 ([arXiv:2104.09864](https://arxiv.org/abs/2104.09864)).
- F. Barbero và cộng sự, *Round and Round We Go! What makes Rotary Positional Encodings useful?*, ICLR 2025 ([arXiv:2410.06205](https://arxiv.org/abs/2410.06205)).
- M. Namazifar, D. Hazarika và D. Hakkani-Tür, *Role of Bias Terms in Dot-Product Attention*, ICASSP 2023 ([arXiv:2302.08626](https://arxiv.org/abs/2302.08626)).
"""

# %% [markdown] lang="en"
r"""
## Check yourself
1. Why must putting the whole K and V of " him" into one place give a KL of exactly 0, although Q there is still that of " her"?
2. A friend adds 1000 to every entry of K in GPT-2, sees the logits (the model's number for each token that may come next, before the softmax) unchanged and concludes: "GPT-2 does not use K". What is wrong?
3. The common mean cannot tell which word stood there. Why may dropping it break the model all the same?

<details><summary>Short answers</summary>

1. Q there decides only what that token itself reads; later tokens see the place through K and V, and those were put in directly at every layer.
2. The constant carries no information, but K's *variation* around it does.
3. As an engine without a screw: all the rest was trained around it. A screw is not a message.
</details>

## Summary
- Swapping the offsets of two words answers what a histogram cannot: what later tokens read there.
- The softmax cancels every constant of K; rotary positions turn it into a function of distance; a constant of V is a bias.
- An intervention means something only beside controls, at a dose where the model is not yet broken.

## References
- F. Zhang and N. Nanda, *Towards Best Practices of Activation Patching in Language Models*, ICLR 2024 ([arXiv:2309.16042](https://arxiv.org/abs/2309.16042)).
- K. Wang et al., *Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 Small*, ICLR 2023 ([arXiv:2211.00593](https://arxiv.org/abs/2211.00593)).
- M. Sun et al., *Massive Activations in Large Language Models*, 2024 ([arXiv:2402.17762](https://arxiv.org/abs/2402.17762)).
- X. Gu et al., *When Attention Sink Emerges in Language Models: An Empirical View*, ICLR 2025 ([arXiv:2410.10781](https://arxiv.org/abs/2410.10781)).
- J. Su et al., *RoFormer: Enhanced Transformer with Rotary Position Embedding*, 2021 ([arXiv:2104.09864](https://arxiv.org/abs/2104.09864)).
- F. Barbero et al., *Round and Round We Go! What makes Rotary Positional Encodings useful?*, ICLR 2025 ([arXiv:2410.06205](https://arxiv.org/abs/2410.06205)).
- M. Namazifar, D. Hazarika and D. Hakkani-Tür, *Role of Bias Terms in Dot-Product Attention*, ICASSP 2023 ([arXiv:2302.08626](https://arxiv.org/abs/2302.08626)).
"""
