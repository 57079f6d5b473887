# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] lang="vi"
r"""
# 11 · Nghiên cứu của riêng bạn

**Câu hỏi.** Mô hình khác, từ khác, câu do chính bạn viết (kể cả tiếng Việt): hình nụ cười (smile) có còn đó không, và bạn được phép kết luận đến đâu?

**Sau bài này, bạn có thể**
- đưa từ và câu của mình vào, biết chương trình đã làm sạch những gì;
- chọn token đích (target token) khi một từ gồm nhiều token;
- đi trọn một nghiên cứu nhỏ: ngưỡng đặt trước, mức nền (baseline), phán quyết, khoảng tin cậy (confidence interval), kết luận trung thực;
- xuất một hình (PNG) và một bảng (CSV);
- so hai mô hình khác kiến trúc, và tính xem bias góp bao nhiêu vào độ dời trung bình (mean offset).

**Thời gian:** khoảng 55 phút đọc và làm bài tập; máy tính chạy khoảng 20 giây. **Cần biết trước:** bài 01, 04, 05 và 06.
"""

# %% [markdown] lang="en"
r"""
# 11 · A study of your own

**Question.** Another model, another word, sentences that you wrote yourself (Vietnamese ones too): is the smile still there, and how much may you conclude?

**Afterwards you can**
- bring in your own word and sentences, and know what was cleaned;
- choose the target token where a word is several tokens;
- take a small study from start to end: thresholds set beforehand, baselines, verdicts, intervals, an honest conclusion;
- export one figure (PNG) and one table (CSV);
- compare two models of different architecture, and say how much of the mean offset is the bias.

**Time:** about 55 minutes of reading and exercises; the computer runs for about 20 seconds. **You need:** notebooks 01, 04, 05 and 06.
"""

# %% tags=["setup"]
# the build puts setup_cell.py here
from helpers import set_language

set_language("vi")

# %%
import csv
from pathlib import Path

import torch

from helpers import (
    attention_modules,
    block_histograms,
    capture_qkv,
    label,
    load_sentences,
    part_slices,
    say,
    show,
    shuffle_entries,
    shuffle_within_features,
    smile_index,
)
from helpers.capture import ADAPTERS
from helpers.experiments.study import StudyError, from_environment, open_model, read_sentences, sentence_box
from helpers.experiments.target import find_word, readable
from helpers.experiments.verdicts import CLAIMS, choose_layer, conclude, export, judge
from helpers.teaching.checks import check, needs
from helpers.teaching.plots import plot_blocks, plot_conditions, plot_relative_depth

# %% [markdown] lang="vi"
r"""
## 1. Bạn chọn gì?

Lần đầu, cứ chạy với các giá trị có sẵn. Sau đó sửa ô dưới đây rồi chạy lại cả bài (*Run → Restart Kernel and Run All Cells*).

- `MODEL`: `None` là mô hình của các bài trước; hoặc `"smollm2"`, `"minilm"`, một thư mục trên máy, một tên trên Hub.
- `WORD`: từ cần xét, viết đúng như ở giữa câu.
- `PIECE`: chỉ cần khi từ gồm nhiều token (mục 2).
- `SENTENCES`: một danh sách; hoặc một đoạn văn bản nhiều dòng trong `'''…'''`, mỗi câu một dòng; hoặc tên một tệp UTF-8.
- `LAYER`: tầng (layer) được xét kỹ; `None` là một phần mười chiều sâu, như ở bài 05 và 06.

Muốn thử tiếng Việt ngay: `WORD = "của"`, `PIECE = "last"`, `SENTENCES = load_sentences("cua")`.
"""

# %% [markdown] lang="en"
r"""
## 1. What do you choose?

The first time, run it as it is. Then change the cell below and run the whole notebook again (*Run → Restart Kernel and Run All Cells*).

- `MODEL`: `None` is the model of the other notebooks; or `"smollm2"`, `"minilm"`, a local folder, an id on the Hub.
- `WORD`: the word, as it is written in mid-sentence.
- `PIECE`: needed only where the word is several tokens (section 2).
- `SENTENCES`: a list; or a text of several lines in `'''…'''`, one sentence on each line; or the name of a UTF-8 file.
- `LAYER`: the layer that is looked at closely; `None` is a tenth of the depth, as in notebooks 05 and 06.

To try Vietnamese at once: `WORD = "của"`, `PIECE = "last"`, `SENTENCES = load_sentences("cua")`.
"""

# %%
MODEL = None
WORD = "her"
PIECE = None
SENTENCES = load_sentences("her")
LAYER = None

# for a run without a screen: the environment variables QKV_STUDY_MODEL, QKV_STUDY_WORD, ... go first
MODEL, WORD, PIECE, SENTENCES, LAYER = from_environment(
    model=MODEL, word=WORD, piece=PIECE, sentences=SENTENCES, layer=LAYER
)

# %% [markdown] lang="vi"
r"""
Không quen sửa ô mã? Dán các câu vào hộp văn bản dưới đây (mỗi câu một dòng), rồi chạy các ô *sau* nó. Hộp để trống thì `SENTENCES` ở trên được dùng.
"""

# %% [markdown] lang="en"
r"""
Not used to changing code? Paste your sentences into the text box below, one on each line, and run the cells *after* it. While the box is empty, `SENTENCES` above is used.
"""

# %% tags=["nbval-ignore-output"]
box = sentence_box()
box

# %%
sentences, notes = read_sentences(box.value or SENTENCES)
print(len(sentences), label("sentences"), "·", f"“{sentences[0]}” … “{sentences[-1]}”")
for note in notes:
    print("-", note)

# %% [markdown] lang="vi"
r"""
Mỗi dòng bắt đầu bằng dấu gạch là một việc đã làm với văn bản của bạn, hoặc một điều bạn cần lưu ý; nếu không in ra dòng nào như thế thì văn bản không phải sửa gì. Câu trùng bị bỏ vì một câu lặp lại không phải là một quan sát mới.

Nếu đầu vào không dùng được, bài dừng ở đúng ô ấy với *một câu* nói rõ vì sao. Ví dụ (ở đây lỗi được bắt lại để bài chạy tiếp):
"""

# %% [markdown] lang="en"
r"""
Each line with a dash is something that was done to your text, or that you should know of; no such line means that nothing had to be changed. Duplicates go because a sentence repeated is not a new observation.

Where an input will not do, the notebook stops at that very cell with *one sentence* that says why. For example (caught here, so that the notebook goes on):
"""

# %%
for wrong in ("no_such_file.txt", "one sentence\nand one more"):
    try:
        read_sentences(wrong)
    except StudyError as error:
        print("✗", error)

# %% [markdown] lang="vi"
r"""
## 2. Token đích: một từ, nhiều token

Với bộ tách token (tokenizer) theo byte, một từ tiếng Việt có dấu thường bị cắt thành nhiều token, có khi cắt ngang một chữ cái: mẩu chữ ấy được ghi bằng các byte của nó ở hệ thập lục phân. **Dự đoán.** Với mô hình của bạn, ba từ dưới đây gồm mấy token?
"""

# %% [markdown] lang="en"
r"""
## 2. The target token: one word, several tokens

A byte-level tokenizer mostly cuts a Vietnamese word with its accents into several tokens, at times in the middle of a letter: such a piece is shown by its bytes in hexadecimal. **Predict.** How many tokens are these three words for your model?
"""

# %%
model, tokenizer = open_model(MODEL)
print(model.provenance)
for word in ("her", "của", "không"):
    pieces = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    print(f"{word:6s} {len(pieces)}  {' + '.join(readable(tokenizer, piece) for piece in pieces)}")

# %% [markdown] lang="vi"
r"""
Với từ gồm nhiều token, ta xét **token cuối**: trong mô hình nhân quả (causal), chỉ nó đã thấy trọn từ. Nhưng không thể tìm nó chỉ bằng id: chẳng hạn với bộ tách token của SmolLM2, token cuối của “của” chính là chữ “a”, có mặt trong vô số từ khác. Phải tìm *cả dãy*.

### Bài tập 11.1
Viết `last_of_word(ids, pieces)`: `ids` là danh sách id của một câu, `pieces` là bộ id của từ. Trả về vị trí token *cuối* của từ ở lần xuất hiện đầu tiên; không có thì trả về `None`.

*Gợi ý:* so từng đoạn dài `len(pieces)` của `ids` với `pieces`; `tuple(...)` giúp so sánh.
"""

# %% [markdown] lang="en"
r"""
Of a word of several tokens we study the **last one**: in a causal model it alone has seen the whole word. But it cannot be found by its id: with SmolLM2's tokenizer, for example, the last token of “của” is a plain “a”, which stands in countless other words. The *whole sequence* must be found.

### Exercise 11.1
Write `last_of_word(ids, pieces)`: `ids` is the list of ids of a sentence, `pieces` the tuple of ids of the word. Return the position of the word's *last* token at its first occurrence, or `None` where there is none.

*Hint:* compare each stretch of length `len(pieces)` in `ids` with `pieces`; `tuple(...)` makes them comparable.
"""


# %% tags=["exercise"]
def last_of_word(ids, pieces):
    return ...


check("11.1", last_of_word)


# %% tags=["solution"]
# @title Lời giải 11.1 · Solution 11.1
def last_of_word(ids, pieces):
    for start in range(len(ids) - len(pieces) + 1):
        if tuple(ids[start : start + len(pieces)]) == tuple(pieces):
            return start + len(pieces) - 1
    return None


check("11.1", last_of_word, solution=True)

# %% [markdown] lang="vi"
r"""
`find_word` làm như vậy, và còn kiểm tra rằng dãy token ấy đúng là *một từ trọn vẹn*, không phải phần đầu của một từ dài hơn. **Token đối chứng** (control token) là token ngay trước từ; nếu từ đứng đầu câu thì là token ngay sau.
"""

# %% [markdown] lang="en"
r"""
`find_word` does the same, and also checks that the sequence is *a whole word* and not the beginning of a longer one. The **control token** is the one before the word; where the word stands first, the one after it.
"""

# %%
target = find_word(model, tokenizer, sentences, WORD, PIECE)
n = len(target.positions)
controls = target.batch["input_ids"].gather(1, target.control.unsqueeze(1))  # [sentence, 1]
print(f"“{target.word}” = {' + '.join(target.pieces)}   {label('target')}: {target.pieces[-1]}")
print(say("số câu", "sentences"), n)
print(say("số đoạn văn bản khác nhau mà token đích thấy", "different texts that it sees"), target.n_distinct)
print(say("số token đối chứng khác nhau", "different control tokens"), len(controls.unique()))

# %% [markdown] lang="vi"
r"""
Trong mô hình nhân quả, phần câu sau từ đích không có tác dụng gì: hai câu có cùng đoạn đầu chỉ là một quan sát. Nếu con số thứ hai nhỏ hơn con số thứ nhất, hãy viết thêm những câu có *phần đầu* khác nhau. Với bộ mã hóa (encoder) như BERT, token đích thấy cả câu.

## 3. Lấy Q, K, V
"""

# %% [markdown] lang="en"
r"""
In a causal model the text after the target has no effect: two sentences with the same beginning are one observation. If the second number is smaller than the first, write sentences that *begin* differently. In an encoder such as BERT the target sees the whole sentence.

## 3. Capture
"""


# %%
def read(model, target):
    """Q, K, V of the target and of the control, each `[layer, sample, F]`, in one pass; and the sizes of Q, K, V."""
    qkv = capture_qkv(model, target.batch)
    every, rows = qkv.joined(), torch.arange(len(target.positions))  # [layer, sentence, token, F]
    return every[:, rows, target.positions], every[:, rows, target.control], qkv.sizes


x, x_control, sizes = read(model, target)
generator = torch.Generator().manual_seed(0)
x_entries, x_within = shuffle_entries(x, generator), shuffle_within_features(x, generator)

n_layer = len(x)
layer = choose_layer(n_layer, LAYER)
layers = sorted({layer, max(1, n_layer // 3), max(1, n_layer // 2)})
title = f"{model.provenance} · “{target.word}”"
print(tuple(x.shape), sizes, label("layer"), layer)

# %% [markdown] lang="vi"
r"""
## 4. Ngưỡng, trước khi xem hình

Bảy khẳng định của bài 06, mỗi khẳng định một con số và một ngưỡng. ($S$ là chỉ số nụ cười; tầng 0 để riêng.) Ở khẳng định 3, tỉ lệ cặp QK có $|s|>0{,}9$ phải ít nhất bằng một nửa trung bình của tỉ lệ ấy ở QQ và ở KK, và cao hơn mức ngẫu nhiên ít nhất 0,05. Khẳng định 7 ở bài 06 cần một từ thứ hai, và đòi thêm cosine giữa hai nửa phải trên 0,9. Ở đây token đối chứng đứng thay từ thứ hai (nó mang trung bình chung của mọi token, nhưng không mang phần riêng của từ bạn chọn), và chỉ xét hiệu của hai cosine.
"""

# %% [markdown] lang="en"
r"""
## 4. Thresholds, before any figure

The seven claims of notebook 06, each with a figure and a threshold. ($S$ is the smile index; layer 0 stands aside.) For claim 3, the share of QK pairs with $|s|>0.9$ must be at least half of the mean of those of QQ and KK, and 0.05 above chance. Claim 7 needed a second word there, and a cosine of the halves above 0.9 as well; here the control token takes the word's place (it has the common mean of all tokens, but not what is your word's own), and only the difference of the two cosines counts.
"""

# %%
for number, claim in enumerate(CLAIMS, start=1):
    show(f"{number}  {say(*claim.name):26s} {claim.rule()}")

# %% [markdown] lang="vi"
r"""
**Dự đoán.** Viết ra giấy bảy phán quyết của bạn: đúng, đúng một phần, hay sai. Một dự đoán chỉ có nghĩa nếu bạn ghi nó *trước* khi cuộn xuống.

## 5. Các khối ở vài tầng
"""

# %% [markdown] lang="en"
r"""
**Predict.** Write down your seven verdicts: holds, holds partly, fails. A prediction is worth something only if you write it *before* you scroll down.

## 5. The blocks at a few layers
"""

# %%
shown = ("QQ", "KK", "VV", "QK")
histograms = block_histograms(x, sizes)
control = block_histograms(x_control, sizes)
baseline = block_histograms(x_entries, sizes)
figure = plot_blocks(
    histograms["cosine"],
    blocks=shown,
    layers=layers,
    control=control["cosine"],
    baseline=baseline["cosine"],
    null=True,
    title=title,
)

# %% [markdown] lang="vi"
r"""
Vùng màu là token đích, đường đen là token đối chứng, đường xám nét đứt là mức nền xáo trộn (shuffle) mọi phần tử, đường chấm là phân phối theo giả thuyết không (null), gọi tắt là phân phối null, ứng với đúng số câu $n$ ấy. Với ít câu, đường chấm cũng xòe ra hai đầu: hãy so với *nó*, đừng so với hình chuông trong trí nhớ.

Hình này *không* cho biết nụ cười do trung bình hay do sự ghép cặp giữa các chiều (feature). Hình sau thì có.

## 6. Hai phép xáo trộn, hai phép đo

**Dự đoán.** Xáo trộn trong từng chiều giữ trung bình và phá ghép cặp. Ở hàng trên (cosine), đường của phép xáo trộn ấy sẽ trùng với đường viền của vùng màu hay với đường chấm? Còn ở hàng dưới (tương quan)?
"""

# %% [markdown] lang="en"
r"""
The coloured area is the target, the black line the control token, the dashed grey line the baseline with all entries shuffled, the dotted line the null distribution of that very $n$. With few sentences the dotted line spreads to both ends as well: compare with *it*, not with a bell that you remember.

The figure does *not* say whether a smile comes from the means or from the pairing between features. The next one does.

## 6. Two shuffles, two measures

**Predict.** The shuffle within features keeps the means and breaks the pairing. In the upper row (cosine), will its line follow the coloured area or the dotted line? And in the lower row (correlation)?
"""

# %%
conditions = {
    "target": x[layer],
    "control": x_control[layer],
    "entries_shuffled": x_entries[layer],
    "within_shuffled": x_within[layer],
}
figure = plot_conditions(
    {label(name): block_histograms(vectors, sizes) for name, vectors in conditions.items()},
    blocks=shown,
    title=f"{title} · {label('layer')} {layer}",
)

# %% [markdown] lang="vi"
r"""
Đây là hình sẽ được xuất. Nó có đủ những gì người đọc cần để *nghi ngờ* bạn: mô hình, từ, tầng, số câu, token đối chứng, hai mức nền và phân phối null, không trục nào bị co giãn.

## 7. Phán quyết
"""

# %% [markdown] lang="en"
r"""
This is the figure that will be exported. It holds what a reader needs to *doubt* you: the model, the word, the layer, the number of sentences, the control, two baselines and the null distribution, nothing rescaled.

## 7. The verdicts
"""

# %%
verdicts = judge(x, x_control, sizes, layer)
for v in verdicts:
    name, verdict = say(*v.claim.name), label(f"verdict_{v.verdict}")
    interval = f"{v.value:+.2f} [{v.low:+.2f}, {v.high:+.2f}]{' ?' if v.undecided else ''}"
    show(f"{v.number} {name:26s} {verdict:15s} {v.held:2d}/{v.layers} {label('layers')}   {interval}")

# %% [markdown] lang="vi"
r"""
Mỗi dòng: khẳng định; phán quyết (**đúng**: từ 95% số tầng; **sai**: không quá 5%; còn lại là **đúng một phần**); số tầng đạt ngưỡng; rồi con số quyết định ở tầng được chọn, với khoảng tin cậy 95% của jackknife (bỏ lần lượt từng câu). Dấu **?** nghĩa là khoảng ấy vắt qua ngưỡng: với ngần này câu, chưa phân xử được. `nan` nghĩa là không xác định: chẳng hạn, một chiều không đổi thì không có hệ số tương quan (correlation coefficient).

## 8. Kết luận trung thực

Phần này do ô mã viết từ các phán quyết, nên không thể nói quá. Bạn có thể viết hay hơn; đừng viết *mạnh* hơn.
"""

# %% [markdown] lang="en"
r"""
Each line: the claim; the verdict (**holds**: at 95% of the layers or more; **fails**: at 5% or less; else **holds partly**); how many layers pass; then the deciding figure at the chosen layer, with its 95% jackknife interval (one sentence left out at a time). A **?** says that the interval reaches over the threshold: these sentences do not decide it. `nan` is undefined: a feature that never changes has no correlation, for example.

## 8. An honest conclusion

The cell writes it from the verdicts, so it cannot say too much. You may write it better; do not write it *stronger*.
"""

# %%
print(f"{model.provenance}, “{target.word}”, n = {n}")
for line in conclude(verdicts, x, sizes, layer, target):
    show("-", line)

# %% [markdown] lang="vi"
r"""
## 9. Một hình và một bảng để mang đi

Cả hai được ghi vào thư mục `my_study/`, cạnh bài này. Bảng CSV mở được bằng phần mềm bảng tính. Tên cột viết bằng tiếng Anh; số viết với dấu chấm thập phân, dấu phẩy ngăn các cột. Nếu phần mềm của bạn dùng cách viết số của Việt Nam, hãy chọn định dạng số tiếng Anh khi mở tệp, kẻo một số như 1.984 bị đọc thành một nghìn chín trăm tám mươi tư. Làm lại với cùng từ và cùng mô hình thì ghi đè lên bản cũ.
"""

# %% [markdown] lang="en"
r"""
## 9. One figure and one table to take away

Both go into the folder `my_study/` beside this notebook. The CSV opens in a spreadsheet; its numbers have a decimal point, whatever the language. Another run with the same word and model writes over the old ones.
"""

# %%
picture, table = export(figure, verdicts, target, model.provenance, layer)
print(f"my_study/{picture}", f"my_study/{table}", sep="\n")

# %% [markdown] lang="vi"
r"""
## 10. Ví dụ: so với một mô hình khác hẳn

Cùng những câu ấy, cùng từ ấy, thêm một mô hình thứ hai. Nếu bạn chọn một mô hình ngôn ngữ nhân quả, mô hình thứ hai là **all-MiniLM-L6-v2**: một bộ mã hóa kiểu BERT, nhìn cả hai phía, học để so nghĩa của câu, và có bias ở Q, K, V. Nếu bạn đã chọn một BERT, mô hình thứ hai là SmolLM2.

Bộ tách token của BERT này đổi chữ hoa thành chữ thường và bỏ dấu tiếng Việt: “của” thành “cua”. Mô hình này được huấn luyện trên tiếng Anh; với câu tiếng Việt, kết quả của nó chỉ nên coi là để tham khảo.

**Dự đoán.** Bộ mã hóa có cười không? Càng vào sâu thì cười nhiều hơn hay ít hơn? (Mục này chỉ vẽ $S$; nó không nói mô hình nào tốt hơn.)
"""

# %% [markdown] lang="en"
r"""
## 10. Worked example: against a very different model

The same sentences, the same word, and a second model. If you chose a causal language model, the second is **all-MiniLM-L6-v2**: an encoder of the BERT kind that sees both sides, was trained to compare the meaning of sentences, and has biases in Q, K and V. If you chose a BERT, the second is SmolLM2.

The tokenizer of this BERT turns capitals into small letters and drops the accents of Vietnamese: “của” becomes “cua”. The model was trained on English; with Vietnamese sentences, take its results as a mere trial.

**Predict.** Does the encoder smile? More or less with depth? (This section draws $S$ only; it does not say which model is better.)
"""

# %%
other, other_tokenizer = open_model("smollm2" if model.config.model_type == "bert" else "minilm")
other_target = find_word(other, other_tokenizer, sentences, WORD, "last", drop_missing=True)
same = find_word(model, tokenizer, other_target.batch.sentences, WORD, PIECE)  # the sentences that both can read
print(f"n = {len(same.positions)}")

models, all_kept = {}, len(same.positions) == n  # then what sections 3 and 7 computed serves again
for who, where in ((model, same), (other, other_target)):
    name = who.provenance.split(" (")[0]
    models[name] = who, (x, x_control, sizes) if who is model and all_kept else read(who, where)
    vectors, _, shape = models[name][1]
    print(f"{name:24s} {len(vectors):2d} {label('layers')}   {shape}   {where.pieces[-1]}")

# %%
smiles = {
    name: block_histograms(vectors, shape, measures="cosine") for name, (_, (vectors, _, shape)) in models.items()
}
panels = {block: {name: smile_index(h["cosine"][block]) for name, h in smiles.items()} for block in shown}
figure_both = plot_relative_depth(panels, "smile_index", title=f"“{target.word}” · n = {len(same.positions)}")

# %% [markdown] lang="vi"
r"""
Mỗi chấm là một tầng; trục ngang là độ sâu tương đối, vì hai mô hình có số tầng khác nhau. Tầng thứ $k$ của mô hình này *không* tương ứng với tầng nào của mô hình kia: chỉ nên so xu thế. Chấm đầu tiên là tầng 0: nếu mô hình dùng mã hóa vị trí xoay (RoPE), ở đó Q, K, V của token đích giống hệt nhau trong mọi câu và $S=1$ là chuyện đương nhiên (bài 04).

Giờ đặt hai bảng phán quyết cạnh nhau: cùng ngưỡng, cùng câu.
"""

# %% [markdown] lang="en"
r"""
Each dot is a layer; the axis is the relative depth, as the models differ in their number of layers. Layer $k$ of one does *not* correspond to any layer of the other: compare trends only. The first dot is layer 0: with rotary positions Q, K and V of the target are the same in every sentence there, and $S=1$ is a matter of course (notebook 04).

Now both tables of verdicts side by side: the same thresholds, the same sentences.
"""

# %%
both = {}
for name, (who, (vectors, beside, shape)) in models.items():
    again = who is model and all_kept
    both[name] = verdicts if again else judge(vectors, beside, shape, choose_layer(len(vectors)))
for pair in zip(*both.values()):
    print(f"{pair[0].number} {say(*pair[0].claim.name)}")
    for name, v in zip(both, pair):
        print(f"     {name:24s} {label(f'verdict_{v.verdict}'):15s} {v.held:2d}/{v.layers} {label('layers')}")

# %% [markdown] lang="vi"
r"""
## 11. Độ dời: bao nhiêu là của bias?

Phép chiếu (projection) là tuyến tính: độ dời $\mu=W\bar h+b$, với $\bar h$ là trung bình của đầu vào và $b$ là bias (bài 06). **Tỉ lệ của một phần** là hình chiếu của nó lên $\mu$, chia cho độ dài của $\mu$: $\;b\cdot\mu/|\mu|^2$. Nhờ vậy tỉ lệ của $b$ và của $W\bar h$ cộng lại đúng bằng 1. Tỉ lệ âm nghĩa là phần ấy kéo *ngược* lại độ dời.

**Dự đoán.** Nếu mô hình có bias, bias góp nhiều nhất vào độ dời của Q, K hay V?

### Bài tập 11.2
Viết `share_of_bias(bias, offset)`: hai vector `[feature]`, trả về một số.

*Gợi ý:* tỉ số hai độ dài không cộng lại thành 1; tích vô hướng thì được.
"""

# %% [markdown] lang="en"
r"""
## 11. The offset: how much of it is the bias?

The projection is linear: the offset is $\mu=W\bar h+b$, with $\bar h$ the mean of the inputs and $b$ the bias (notebook 06). The **share of a part** is its projection onto $\mu$, divided by the length of $\mu$: $\;b\cdot\mu/|\mu|^2$. That way the shares of $b$ and of $W\bar h$ add up to exactly 1. A negative share says that the part pulls *against* the offset.

**Predict.** Where a model has biases, do they contribute most to the offset of Q, of K or of V?

### Exercise 11.2
Write `share_of_bias(bias, offset)`: two vectors `[feature]`, return a number.

*Hint:* a ratio of lengths does not add up to 1; dot products do.
"""


# %% tags=["exercise"]
def share_of_bias(bias, offset):
    return ...


check("11.2", share_of_bias)


# %% tags=["solution"]
# @title Lời giải 11.2 · Solution 11.2
def share_of_bias(bias, offset):
    return float(bias @ offset / (offset @ offset))


check("11.2", share_of_bias, solution=True)


# %%
def bias_of(model, layer):
    """Biases of the projections of one layer, Q, K and V side by side `[F]`; zeros where there are none."""
    adapter, attention = ADAPTERS[model.config.model_type], attention_modules(model)[layer]
    parts = []
    for name in adapter.projections:
        projection = attention.get_submodule(name)
        none = projection.bias is None
        parts.append(torch.zeros(projection.out_features, device=model.device) if none else projection.bias)
    return torch.cat(adapter.split(parts[0], model.config) if adapter.split else parts)


shares = {part: {} for part in "QKV"}
needs("11.2")
for name, (who, (vectors, _, shape)) in models.items():
    offsets = vectors.mean(dim=1)  # [layer, F]
    for part, at in part_slices(shape).items():
        pairs = [(bias_of(who, i)[at], offset[at]) for i, offset in enumerate(offsets)]
        shares[part][name] = torch.tensor([share_of_bias(bias, offset) for bias, offset in pairs])

# %%
figure_shares = plot_relative_depth(shares, "bias_share", title=f"“{target.word}” · n = {len(same.positions)}")

# %%
for name, (who, _) in models.items():
    middle = {part: float(shares[part][name].median()) for part in "QKV"}
    row = "   ".join(f"{part} {value:+.2f}" for part, value in middle.items())
    largest = max(middle, key=lambda part: abs(middle[part]))
    has = any(bool(bias_of(who, i).any()) for i in range(len(attention_modules(who))))
    said = say(f"lớn nhất ở {largest}", f"largest in {largest}") if has else say("không có bias", "no biases")
    show(f"{name:24s} {row}   {said}")

# %% [markdown] lang="vi"
r"""
Mỗi số là trung vị (median) qua các tầng của tỉ lệ bias trong độ dời. Phần còn lại đến từ $W\bar h$, tức là từ phần đầu vào chung cho mọi câu.

Hai điều bảng này *không* nói. Thứ nhất, bias là như nhau với *mọi* token: phần độ dời do bias không thể là riêng của từ đích. Thứ hai, nếu không có mã hóa vị trí xoay, bias của K cộng cùng một lượng vào mọi điểm số attention (attention score) của một truy vấn (query), và softmax triệt tiêu lượng chung ấy (bài 09): độ dời lớn chưa chắc đã có tác dụng. Cũng vì thế mà gradient theo bias ấy bằng 0, và huấn luyện không có lý do gì đẩy nó ra xa giá trị khởi tạo; chỉ sai số làm tròn và cách làm việc của bộ tối ưu (Adam chia gradient cho độ lớn của chính nó) mới có thể làm nó trôi đi. Nếu một mô hình ở trên có bias mà không có mã hóa vị trí xoay: cột K của nó có nhỏ không? Không nhỏ thì cũng chưa trái với lập luận, vì softmax vẫn triệt tiêu lượng chung ấy.
"""

# %% [markdown] lang="en"
r"""
Each number is the median over the layers of the bias's share in the offset. The rest comes from $W\bar h$, the part of the input common to all sentences.

Two things this table does *not* say. First, the bias is the same for *every* token: that part of the offset cannot be peculiar to the target. Second, without rotary positions the bias of K adds one and the same amount to all attention scores of a query, which the softmax cancels (notebook 09): a large offset need not have an effect. For the same reason the gradient for that bias is 0, and training has no cause to move it away from where it began; only rounding and the ways of the optimiser (Adam divides a gradient by its own size) can let it drift. If a model above has biases and no rotary positions: is its column K small? If it is not, the argument stands all the same, for the softmax still cancels it.
"""

# %%
with (Path("my_study") / table).open(encoding="utf-8-sig", newline="") as file:  # sanity check: table = figure
    rows = list(csv.DictReader(file))
smile = min(float(smile_index(histograms["cosine"][block])[layer]) for block in ("QQ", "KK"))
assert len(rows) == len(CLAIMS) and abs(float(rows[0]["value"]) - smile) < 1e-3
print("✓")

# %% [markdown] lang="vi"
r"""
## Tự kiểm tra
1. Vì sao với từ gồm nhiều token ta chọn token cuối mà không chọn token đầu?
2. Có 30 câu nhưng chỉ 4 đoạn đầu khác nhau, mô hình nhân quả. Cỡ mẫu thật là bao nhiêu?
3. Con số quyết định đạt ngưỡng, nhưng khoảng tin cậy vắt qua ngưỡng. Bạn viết gì?
4. Hai mô hình cùng có $S>0$ ở QQ. Có được kết luận rằng chúng “mã hóa thông tin theo cùng một cách” không?

<details><summary>Trả lời ngắn</summary>

1. Trong mô hình nhân quả, token đầu chưa thấy phần còn lại của từ; vector của nó có thể thuộc về nhiều từ khác nhau.
2. Bốn: phần sau từ đích không ảnh hưởng gì đến Q, K, V của nó.
3. “Ở tầng này số đo đạt ngưỡng, nhưng ngần này câu chưa đủ để phân xử.” Rồi viết thêm câu và làm lại với ngưỡng cũ.
4. Không: nụ cười chỉ nói rằng nhiều chiều có độ dời lớn so với độ phân tán (spread) của chúng. Nguồn gốc có thể khác nhau (bias, $W\bar h$), và biểu đồ không cho biết mô hình có dùng độ dời hay không.
</details>

## Tóm tắt
- Một nghiên cứu nhỏ gồm: đầu vào sạch, có nói rõ đã sửa những gì, ngưỡng đặt trước, mức nền đúng, phán quyết có khoảng tin cậy, kết luận không mạnh hơn số liệu.
- Với một từ gồm nhiều token: xét token cuối, và tìm nó theo cả dãy token của từ.
- Số quan sát thật là số đoạn văn bản *khác nhau* mà token đích thấy.
- Có thể tách độ dời làm hai: phần của bias và phần của $W\bar h$; hai mô hình có thể cùng cười vì những lý do khác nhau.

## Tài liệu
- N. Reimers và I. Gurevych, *Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks*, EMNLP 2019 ([arXiv:1908.10084](https://arxiv.org/abs/1908.10084)).
- W. Wang và cộng sự, *MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers*, NeurIPS 2020 ([arXiv:2002.10957](https://arxiv.org/abs/2002.10957)).
- J. Devlin và cộng sự, *BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding*, NAACL 2019 ([arXiv:1810.04805](https://arxiv.org/abs/1810.04805)).
- B. Efron và C. Stein, *The Jackknife Estimate of Variance*, Annals of Statistics 9(3), 1981.
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 ([arXiv:1909.00512](https://arxiv.org/abs/1909.00512)).
"""

# %% [markdown] lang="en"
r"""
## Check yourself
1. Of a word of several tokens, why the last and not the first?
2. There are 30 sentences but only 4 different beginnings, in a causal model. What is the real sample size?
3. The deciding figure passes the threshold, but its interval reaches over it. What do you write?
4. Two models both have $S>0$ for QQ. May you conclude that they "share a code"?

<details><summary>Short answers</summary>

1. In a causal model the first token has not seen the rest of the word; its vector may belong to many words.
2. Four: what follows the target has no effect on its Q, K and V.
3. "At this layer the figure passes, but these sentences do not decide it." Then write more sentences and repeat with the same threshold.
4. No: a smile says only that many features have an offset that is large against their spread. The sources may differ (bias, $W\bar h$), and a histogram does not say whether the model uses its offsets.
</details>

## Summary
- A small study is: clean input that is accounted for, thresholds set beforehand, the right baselines, verdicts with intervals, a conclusion no stronger than the figures.
- A word of several tokens: study the last one, found by the whole sequence.
- The real number of observations is the number of *different* texts that the target sees.
- An offset can be split into the part of the bias and that of $W\bar h$; two models may smile for different reasons.

## References
- N. Reimers and I. Gurevych, *Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks*, EMNLP 2019 ([arXiv:1908.10084](https://arxiv.org/abs/1908.10084)).
- W. Wang et al., *MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers*, NeurIPS 2020 ([arXiv:2002.10957](https://arxiv.org/abs/2002.10957)).
- J. Devlin et al., *BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding*, NAACL 2019 ([arXiv:1810.04805](https://arxiv.org/abs/1810.04805)).
- B. Efron and C. Stein, *The Jackknife Estimate of Variance*, Annals of Statistics 9(3), 1981.
- K. Ethayarajh, *How Contextual are Contextualized Word Representations?*, EMNLP 2019 ([arXiv:1909.00512](https://arxiv.org/abs/1909.00512)).
"""
