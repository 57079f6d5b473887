"""What a reader brings to a study of their own: settings, sentences, a model.  Cleaned, or refused.

    model, tokenizer = open_model("smollm2")
    sentences, notes = read_sentences("my_sentences.txt")
    target = find_word(model, tokenizer, sentences, "her")      # target.py
    verdicts = judge(x, x_control, sizes, layer)                # verdicts.py

Where the input will not do, `StudyError` says so in one sentence, in the language in use.
"""

import os
import unicodedata
from pathlib import Path

from ipywidgets import Layout, Textarea

from helpers.capture import ADAPTERS
from helpers.models import load_model
from helpers.settings import say

FEWEST, FEW = 3, 10  # sentences: fewer are refused, fewer get a warning
INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))  # zero-width spaces and the byte order mark


class StudyError(ValueError):
    """Input that will not do.  Jupyter shows the sentence without a traceback, and stops at that cell."""

    def _render_traceback_(self):  # IPython asks for this before it makes a traceback
        return [f"✗ {self}"]


def from_environment(**settings):
    """The settings, each replaced by its environment variable QKV_STUDY_<NAME> where that is set (for runs
    without a screen).  Returns them in order."""
    return [os.environ.get(f"QKV_STUDY_{name.upper()}") or value for name, value in settings.items()]


def sentence_box():
    """A text box for sentences, one on each line."""
    hint = say(
        "Dán câu vào đây, mỗi câu một dòng, rồi chạy ô tiếp theo", "Paste sentences here, one a line, then run on"
    )
    return Textarea(placeholder=hint, layout=Layout(width="100%", height="8em"))


def open_model(name):
    """`load_model`, with its failure as a `StudyError`."""
    try:
        model, tokenizer = load_model(name)
    except (ValueError, OSError) as error:
        vi = f"Không mở được mô hình {name!r}: hãy xem lại MODEL. Chi tiết: {error}"
        en = f"The model {name!r} could not be opened: look at MODEL again. Details: {error}"
        raise StudyError(say(vi, en)) from None
    kind = model.config.model_type
    if kind not in ADAPTERS:
        known = ", ".join(ADAPTERS)
        vi = f"Kiến trúc {kind!r} chưa được hỗ trợ; hiện có: {known}."
        en = f"The architecture {kind!r} is not known here; those known are {known}."
        raise StudyError(say(vi, en))
    return model, tokenizer


def read_sentences(source):
    """Clean sentences out of a text, a file or a list.

    Args:
        source: a list of sentences; a text of several lines, one sentence each; or the name of a UTF-8 file
            (a `Path`, or a text of one line).  Lines that begin with # are comments.

    Returns:
        (sentences, notes): in NFC, single-spaced, none twice; and a line of text for each thing that was
        changed or left out.

    Raises:
        StudyError: no such file, not UTF-8, or fewer than three sentences.

    >>> read_sentences("She gave her bread.\\n\\nI saw\\ther.\\nWe met her.\\nWe met her.")[1][:3]
    ['1 blank line(s) left out', '1 line(s) with tabs, repeated, odd or invisible spaces tidied', '1 duplicate(s) left out']
    """
    if isinstance(source, Path) or (isinstance(source, str) and len(source.strip().splitlines()) == 1):
        source = _read_file(Path(str(source).strip()))
    text = source if isinstance(source, str) else "\n".join(source)
    every = text.removeprefix("\ufeff").splitlines()
    lines = [line for line in every if not line.lstrip().startswith("#")]
    spaced = [" ".join(line.translate(INVISIBLE).split()) for line in lines]
    composed = [unicodedata.normalize("NFC", line) for line in spaced]
    sentences = list(dict.fromkeys(filter(None, composed)))
    n_blank = composed.count("")
    n_tidied = sum(a != b for a, b in zip(lines, spaced, strict=True) if b)
    n_joined = sum(a != b for a, b in zip(spaced, composed, strict=True))
    tidied = "dòng có tab, khoảng trắng thừa, lạ hoặc vô hình, đã dọn lại"
    counted = [
        (text.count("\r\n"), say("dòng kết thúc kiểu Windows (CRLF), đã đổi", "Windows line end(s) (CRLF) changed")),
        (len(every) - len(lines), say("dòng chú thích (#), đã bỏ", "comment line(s) (#) left out")),
        (n_blank, say("dòng trống, đã bỏ", "blank line(s) left out")),
        (n_tidied, say(tidied, "line(s) with tabs, repeated, odd or invisible spaces tidied")),
        (n_joined, say("dòng có dấu tách rời, đã ghép lại (NFC)", "line(s): accents joined to their letters (NFC)")),
        (len(lines) - n_blank - len(sentences), say("câu trùng, đã bỏ", "duplicate(s) left out")),
    ]
    notes = [f"{count} {what}" for count, what in counted if count]
    n = len(sentences)
    if n < FEWEST:
        vi = f"Chỉ có {n} câu khác nhau, cần ít nhất {FEWEST}: viết mỗi câu một dòng."
        en = f"There are only {n} different sentences; at least {FEWEST} are needed, one on each line."
        raise StudyError(say(vi, en))
    if n < FEW:
        vi = f"cẩn thận: chỉ {n} câu; với n nhỏ như vậy, dữ liệu ngẫu nhiên cũng cho hình nụ cười (bài 05)"
        en = f"careful: only {n} sentences; with so few, chance smiles too (notebook 05)"
        notes.append(say(vi, en))
    return sentences, notes


def _read_file(path):
    try:
        text = path.expanduser().read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        vi = f"Tệp {path.name!r} không phải UTF-8: trong trình soạn thảo, hãy lưu lại với bảng mã UTF-8."
        en = f"The file {path.name!r} is not UTF-8: save it again in your editor with the encoding UTF-8."
        raise StudyError(say(vi, en)) from None
    except (OSError, ValueError):
        vi = f"Không đọc được tệp {str(path)[:80]!r}: xem lại tên, hoặc dán nhiều câu, mỗi câu một dòng."
        en = f"The file {str(path)[:80]!r} cannot be read: look at its name, or paste several sentences, one a line."
        raise StudyError(say(vi, en)) from None
    if not text.strip():
        raise StudyError(say(f"Tệp {path.name!r} trống.", f"The file {path.name!r} is empty."))
    return text
