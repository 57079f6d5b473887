"""What a reader brings to a study of their own: settings, sentences, a model.  Cleaned, or refused.

    model, tokenizer = open_model("smollm2")
    sentences, notes = read_sentences("my_sentences.txt")
    target = find_word(model, tokenizer, sentences, "her")      # helpers/target.py
    verdicts = judge(x, x_control, sizes, layer)                # helpers/verdicts.py

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

    def __init__(self, vi, en):
        super().__init__(say(vi, en))

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
        raise StudyError(
            f"Không mở được mô hình {name!r}: hãy xem lại MODEL. Chi tiết (tiếng Anh): {error}",
            f"The model {name!r} could not be opened: look at MODEL again. Details: {error}",
        ) from None
    if model.config.model_type not in ADAPTERS:
        known = ", ".join(ADAPTERS)
        raise StudyError(
            f"Kiến trúc {model.config.model_type!r} chưa được hỗ trợ; hiện có: {known}.",
            f"The architecture {model.config.model_type!r} is not known here; those known are {known}.",
        )
    return model, tokenizer


# ---- sentences -----------------------------------------------------------------------------------


def read_sentences(source):
    """Clean sentences out of a text, a file or a list.

    Args:
        source: a list of sentences; a text of several lines, one sentence each; or the name of a UTF-8 file
            (a `Path`, or a text of one line).

    Returns:
        (sentences, notes): in NFC, single-spaced, none twice; and a line of text for each thing that was
        changed or left out.

    Raises:
        StudyError: no such file, not UTF-8, or fewer than three sentences.

    >>> read_sentences("She gave her bread.\\n\\nI saw\\ther.\\nWe met her.\\nWe met her.")[1][:3]
    ['1 blank line(s) left out', '1 line(s) with tabs, repeated, odd or invisible spaces tidied', '1 duplicate(s) left out']
    """
    text = source if isinstance(source, (str, Path)) else "\n".join(source)
    if isinstance(text, Path) or len(text.strip().splitlines()) == 1:
        text = _read_file(Path(str(text).strip()))
    every = text.removeprefix("\ufeff").splitlines()
    lines = [line for line in every if not line.startswith("#")]
    spaced = [" ".join(line.translate(INVISIBLE).split()) for line in lines]
    composed = [unicodedata.normalize("NFC", line) for line in spaced if line]
    sentences = list(dict.fromkeys(composed))
    notes = [
        (text.count("\r\n"), "dòng kết thúc kiểu Windows (CRLF), đã đổi", "Windows line end(s) (CRLF) changed"),
        (len(every) - len(lines), "dòng chú thích (#), đã bỏ", "comment line(s) (#) left out"),
        (spaced.count(""), "dòng trống, đã bỏ", "blank line(s) left out"),
        (
            sum(a != b for a, b in zip(lines, spaced) if b),
            "dòng có tab, khoảng trắng thừa, lạ hoặc vô hình, đã dọn lại",
            "line(s) with tabs, repeated, odd or invisible spaces tidied",
        ),
        (
            sum(a != b for a, b in zip(filter(None, spaced), composed)),
            "dòng có dấu tách rời, đã ghép lại (NFC)",
            "line(s): accents joined to their letters (NFC)",
        ),
        (len(composed) - len(sentences), "câu trùng, đã bỏ", "duplicate(s) left out"),
    ]
    notes = [f"{count} {say(vi, en)}" for count, vi, en in notes if count]
    if len(sentences) < FEWEST:
        raise StudyError(
            f"Chỉ có {len(sentences)} câu khác nhau, cần ít nhất {FEWEST}: viết mỗi câu một dòng.",
            f"There are only {len(sentences)} different sentences; at least {FEWEST} are needed, one on each line.",
        )
    if len(sentences) < FEW:
        notes.append(
            say(
                f"cẩn thận: chỉ {len(sentences)} câu; với n nhỏ như vậy, dữ liệu ngẫu nhiên cũng cho hình nụ cười (bài 05)",
                f"careful: only {len(sentences)} sentences; with so few, chance smiles too (notebook 05)",
            )
        )
    return sentences, notes


def _read_file(path):
    try:
        text = path.expanduser().read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise StudyError(
            f"Tệp {path.name!r} không phải UTF-8: trong trình soạn thảo, hãy lưu lại với bảng mã UTF-8.",
            f"The file {path.name!r} is not UTF-8: save it again in your editor with the encoding UTF-8.",
        ) from None
    except (OSError, ValueError):
        raise StudyError(
            f"Không đọc được tệp {str(path)[:80]!r}: xem lại tên, hoặc dán nhiều câu, mỗi câu một dòng.",
            f"The file {str(path)[:80]!r} cannot be read: look at its name, or paste several sentences, one a line.",
        ) from None
    if not text.strip():
        raise StudyError(f"Tệp {path.name!r} trống.", f"The file {path.name!r} is empty.")
    return text
