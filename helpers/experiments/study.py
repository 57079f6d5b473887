"""What a reader brings to a study of their own: settings, sentences, a model.  Cleaned, or refused.

    model, tokenizer = open_model("smollm2")
    sentences, notes = read_sentences("my_sentences.txt")
    target = find_word(model, tokenizer, sentences, "her")      # target.py
    verdicts = judge(x, x_control, sizes, layer)                # verdicts.py

Where the input will not do, `StudyError` says so in one sentence, in the language in use.
"""

import os
import unicodedata
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import regex
from ipywidgets import Layout, Textarea

from helpers.capture import adapter_of
from helpers.models import load_model
from helpers.settings import message

FEWEST, FEW = 3, 10  # sentences: fewer are refused, fewer get a warning
SHAPING = r"[\p{jt=D}\p{jt=R}\p{jt=L}\p{ccc=9}]\p{M}*|[\p{ExtPict}\p{EMod}\ufe0f]"  # Arabic, Indic letters, emoji
INVISIBLE = regex.compile(
    r"(?![\s\p{VS}\u200c\u200d])[\p{Default_Ignorable_Code_Point}\p{Cc}\p{Cs}\ufff9-\ufffb]"  # byte order mark too
    rf"|(?<!{SHAPING})[\u200c\u200d]"  # joiners, where no letter before needs them
)
CHANGES = partial(INVISIBLE.sub, ""), lambda text: " ".join(text.split()), partial(unicodedata.normalize, "NFC")
COMMENT = regex.compile(r"\s*#(?!\w)")
EMPTY_CELLS = ("none", "nan", "nat", "<na>")  # of lists, numpy and pandas
NO_LINES = regex.compile(r"(?i)\.(?:csv|tsv|jsonl?|html?|xml|docx?|odt|rtf|xlsx?|ods|pdf|parquet|zip)$")  # names
ESCAPED_NAME = regex.compile(  # D:\new.txt, where \n became a line break; not a dialogue, "A:" and a line break
    r"(?si)(?=.*[\x00-\x1f])(?=.*[\\/]|.*\.\w{2,4}$)(?:\W*[a-z]:[\\/\x00-\x1f]|[^ ]*\.(?:txt|csv|md|docx?|xlsx?|pdf)$)"
)


class StudyError(ValueError):
    """Input that will not do.  Jupyter shows the sentence without a traceback, and stops at that cell."""

    def _render_traceback_(self):  # IPython asks for this before it makes a traceback
        return [f"✗ {self}"]


def from_environment(**settings):
    """The settings in order, each replaced by its environment variable QKV_STUDY_<NAME> where that is set."""
    return [os.environ.get(f"QKV_STUDY_{name.upper()}") or value for name, value in settings.items()]


def sentence_box():
    """A text box for sentences, one on each line."""
    return Textarea(placeholder=message("paste_here"), layout=Layout(width="100%", height="8em"))


def open_model(name):
    """`load_model`, with its failure, or an architecture that is not known, as a `StudyError`."""
    try:
        model, tokenizer = load_model(name)
        adapter_of(model)
    except (ValueError, OSError) as error:
        raise StudyError(message("no_study_model", name=name, error=error)) from None
    return model, tokenizer


def cleaned(text):
    r"""A word or a line as it is studied: in NFC, single-spaced, without invisible characters.

    >>> cleaned(" so\u0301ng\u00a0\u200bher ")
    'sóng her'
    """
    for change in CHANGES:
        text = change(text)
    return text


def read_sentences(source):
    r"""Clean sentences out of a text, a file or a list: the one way, of notebook 11 and of the survey.

    Args:
        source: a list, or a column of a table, of sentences (cells without text, None or NaN, are left out); a text or
            an open file with one sentence on each line; or the name of a UTF-8 file of that kind (a `Path`, or a text
            of one line).  Lines that begin with # are comments, but not a #hashtag, and not in a list.

    Returns:
        (sentences, notes): each as by `cleaned`, none twice; and a line of text for each thing that was changed or
        left out.

    Raises:
        StudyError: no such file, no plain UTF-8 text, a list of other things, or fewer than three sentences.

    >>> read_sentences("She gave her bread.\n\nI saw\ther.\nWe met her.\nWe met her.")[1][:3]
    ['1 line(s) with tabs, repeated or odd spaces tidied', '1 blank line(s) left out', '1 duplicate(s) left out']
    """
    source = _content(source)
    lines, counted = _lines(source) if isinstance(source, str) else _cells(source)
    for change, key in zip(CHANGES, ("invisible", "spaces", "accents"), strict=True):
        changed = [change(line) for line in lines]
        counted[key] = sum(a != b != "" for a, b in zip(lines, changed, strict=True))
        lines = changed
    sentences, counted["blanks"] = list(dict.fromkeys(filter(None, lines))), lines.count("")
    n = len(sentences)
    counted["duplicates"] = len(lines) - counted["blanks"] - n
    counted["lost_letters"] = sum("\ufffd" in sentence for sentence in sentences)
    notes = [f"{count} {message(key)}" for key, count in counted.items() if count]
    if n < FEWEST:
        raise StudyError(message("too_few", n=n, why=f" ({'; '.join(notes)})" if notes else "", fewest=FEWEST))
    if n < FEW:
        notes.append(message("few", n=n))
    return sentences, notes


def _lines(text):
    """The lines of a text that are no comments, and what was counted."""
    every = text.splitlines()
    lines = [line for line in every if not COMMENT.match(INVISIBLE.sub("", line))]
    return lines, {
        "crlf": text.count("\r\n"),
        "odd_breaks": len(regex.findall("[\v\f\x1c-\x1e\x85\u2028\u2029]", text)),
        "comments": len(every) - len(lines),
        "hashtags": sum(INVISIBLE.sub("", line).lstrip().startswith("#") for line in lines),
    }


def _cells(source):
    """The members of a list that hold text, and what was counted."""
    if not isinstance(source, Iterable) or isinstance(source, Mapping | AbstractSet) or hasattr(source, "columns"):
        # their members would be keys or names of columns, or have no order
        raise StudyError(message("no_list", came=type(source).__name__))
    cells = list(source)
    texts = [cell for cell in cells if isinstance(cell, str) or str(cell).lower() not in EMPTY_CELLS]
    if others := [cell for cell in texts if not isinstance(cell, str)]:
        came = str(others[0])[:30]
        raise StudyError(message("no_text", n=len(others), came=came, kind=type(others[0]).__name__))
    return texts, {"empty_cells": len(cells) - len(texts)}


def _content(source):
    """The text that a source holds or names; a list as it is."""
    if isinstance(source, str):
        text = source.strip()
        if len(text) < 260 and ESCAPED_NAME.match(text):
            raise StudyError(message("escaped_name", name=text))
        if len(text.splitlines()) == 1:
            source = Path(INVISIBLE.sub("", text).strip("\"' "))  # as Windows copies it
    name = "bytes"
    if isinstance(source, os.PathLike):
        name, source = Path(source).name, _bytes_of(Path(source).expanduser())
    elif hasattr(source, "read"):
        source = source.read()
    if not isinstance(source, bytes | bytearray | memoryview):
        return source
    try:
        text = bytes(source).decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"  # as in UTF-16 without its mark
    if "\0" in text or NO_LINES.search(name):
        raise StudyError(message("no_plain_text", name=name))
    return text


def _bytes_of(path):
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        names = [other.name for other in path.parent.glob("*")] if isinstance(error, FileNotFoundError) else []
        near = get_close_matches(path.name, names, 1)
        if os.path.isdir(path):
            why = message("is_a_folder")
        elif isinstance(error, PermissionError):
            why = message("no_permission")
        elif regex.match(r"\w{2,}:/", str(path)):
            why = message("is_on_the_web")
        else:
            why = message("near_name", near=near[0]) if near else message("no_such_file")
        raise StudyError(message("no_file", name=str(path)[:80], why=why)) from None
    if not data.strip():
        raise StudyError(message("empty_file", name=path.name))
    return data
