"""Feedback on exercises: right answers pass, and any other gets one sentence, in both languages, without the answer."""

import functools
import re
import warnings
from functools import partial

import numpy as np
import pytest
import torch

from helpers import block_histograms, capture_qkv, encode, find_token, load_sentences, set_language, token_id_of
from helpers.teaching import checks
from helpers.teaching.checks import EXERCISES, StillOpen, check, grade, needs
from tests.support.tiny import random_model, word_tokenizer
from tests.teaching import answers
from tests.teaching.answers import FUNCTIONS, MISTAKES, RIGHT, SOLUTIONS, VALUES


@pytest.fixture(autouse=True)
def new_session(monkeypatch):
    for name in ("_solved", "answered"):
        monkeypatch.setattr(checks, name, set())
    yield
    set_language("en")


def hints(number, *arguments):
    """What is said in Vietnamese and in English of an answer that must not be right."""
    said = []
    for language in ("vi", "en"):
        set_language(language)
        right, hint = grade(number, *arguments)
        assert right is False, arguments
        said.append(hint)
    return tuple(said)


@functools.cache
def all_hints(number):
    """The hints of every strange answer, of every typical mistake and, for a value, of its neighbours."""
    mistakes = [answers.arguments(n, answer) for n, answer, *_ in MISTAKES if n == number]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {hints(number, *arguments) for arguments in mistakes + answers.strange(number) + answers.near(number)}


def test_every_exercise_has_a_notebook_a_solution_and_a_mistake():
    sources = "".join(path.read_text(encoding="utf-8") for path in (answers.ROOT / "notebooks/source").glob("*.py"))
    for numbers in (re.findall(r'check\("([\d.]+)"', sources), SOLUTIONS, [row[0] for row in MISTAKES]):
        assert set(numbers) == set(EXERCISES)


def in_dtype(function, dtype, *arguments):
    """What a reader's function gives who turns all vectors into another dtype."""
    arguments = [a.to(dtype) if getattr(a, "is_floating_point", bool)() else a for a in arguments]
    return function(*arguments)


def test_right_answer_passes_whatever_way_and_kind_it_was_found():
    for case in RIGHT:
        assert grade(*case) == (True, None), case
    kinds = partial(torch.tensor, dtype=torch.float32), torch.tensor, np.array, lambda value: value
    for number, value in VALUES.items():
        first, *rest = answers.arguments(number, value)
        columns = [lambda value: torch.tensor(value)[:, None]] if number in ("2.3", "3.1", "8.3") else []
        for kind in (*kinds, *columns):  # a column is what nonzero() gives
            assert grade(number, kind(first), *rest) == (True, None), (number, kind)
    for number, function in FUNCTIONS.items():
        for dtype in (torch.float32, torch.float64):
            found = partial(in_dtype, function, dtype)
            assert grade(number, *answers.arguments(number, found)) == (True, None), (number, dtype)


def test_second_word_is_judged_by_recomputing_it():
    words = list(dict.fromkeys(["<unk>", "her", *" ".join(load_sentences("water")).split()]))[:64]
    model, tokenizer, found = random_model("llama"), word_tokenizer(words, eos_token="<unk>"), {}
    for word in ("water", "her"):
        batch = encode(tokenizer, load_sentences(word))
        qkv = capture_qkv(model, batch, positions=find_token(batch, token_id_of(tokenizer, f" {word}")))
        found[word] = block_histograms(qkv.joined(), qkv.sizes)
    assert grade("4.2", found["water"], model, tokenizer) == (True, None)
    vi, en = hints("4.2", found["her"], model, tokenizer)
    assert "đúng token chưa" in vi and "the right token?" in en
    found["her"]["cosine"]["QQ"].__dict__["counts"] = torch.full((3, 100), torch.nan)
    assert "other counts" in grade("4.2", found["her"], model, tokenizer)[1]
    assert "(100,)" in grade("4.2", block_histograms(torch.randn(54, 64), (32, 16, 16)), model, tokenizer)[1]


def test_typical_mistake_gets_its_own_hint():
    for i, (number, answer, *words) in enumerate(MISTAKES):
        for hint, part in zip(hints(number, *answers.arguments(number, answer)), words, strict=True):
            assert part in hint, (i, number)


def test_open_exercise_is_said_to_be_open():
    vi, en = "chưa làm: thay dấu … bằng lời giải của bạn", "not done yet: replace the … with your own answer"
    for number in EXERCISES:
        assert hints(number) == hints(number, ...) == hints(number, None) == (vi, en), number
    vi = "chưa làm: thay dấu … trong hàm bằng lời giải của bạn"
    en = "not done yet: replace the … in the function with your own code"
    for number in FUNCTIONS:
        assert hints(number, lambda *arguments: ...) == (vi, en), number


def test_error_of_a_judge_is_still_one_sentence(monkeypatch):
    monkeypatch.setitem(EXERCISES, "2.2", lambda m: {}["no"])
    vi, en = hints("2.2", 1)
    assert vi.startswith("không đọc được câu trả lời này (KeyError)")
    assert en.startswith("this answer cannot be read (KeyError)")


def forms(answer):
    """Regular expressions of the ways to write an answer down."""
    if isinstance(answer, (list, tuple)):
        return [r"\W+".join(map(str, answer))]
    texts = {f"{answer:g}", f"{answer:.2f}", f"{answer:,}", f"{answer:_}", str(answer)}
    texts |= {text.replace(".", ",") for text in texts}
    return [r"(?<![\d.,])" + re.escape(text) + r"(?![\d]|[.,]\d)" for text in texts]


def solution_parts(number):
    """What the solution computes, part by part, without spaces."""
    lines = [line for line in SOLUTIONS[number].splitlines() if not line.startswith(("#", "check", "print", "def"))]
    parts = {part for line in lines for part in re.split(r"^.*?(?:return | = )|,(?![^(]*\))", line.split("#")[0])}
    return [part for part in ("".join(part.split()) for part in parts) if len(part) > 8]


@pytest.mark.parametrize("number", EXERCISES)
def test_any_other_answer_gets_one_sentence_without_the_answer(number):
    said = all_hints(number)
    for vi, en in said:
        assert re.search("[à-ỹđ]", vi) and en and not re.search("[à-ỹđ]", en)
        assert "\n" not in vi + en and max(len(vi), len(en)) < 250
        assert "không đọc được" not in vi and "cannot be read" not in en  # a reason, not the last resort
    text = "\n".join(hint for pair in said for hint in pair)
    if number in VALUES:
        right = VALUES[number] if number == "3.2" else [VALUES[number]]
        assert not re.search("|".join(form for answer in right for form in forms(answer)), text)
    if number in FUNCTIONS:
        parts, text = solution_parts(number), "".join(text.split())
        assert parts and not [part for part in parts if part in text]


def test_unknown_exercise_is_refused_with_the_known_ones():
    for language, words in (("vi", "không có bài tập"), ("en", "no exercise")):
        set_language(language)
        with pytest.raises(ValueError, match=rf"{words} '9\.9': .* 1\.1, .*11\.2$"):
            check("9.9", 1)


def test_exercises_solved_by_the_reader_are_counted_for_each_notebook(capsys):
    check("1.3", ...)
    check("1.3", FUNCTIONS["1.3"], solution=True)
    check("1.3", FUNCTIONS["1.3"])
    check("1.3", FUNCTIONS["1.3"])  # a second time counts no more
    check("1.3", lambda fused, n_head: fused)  # nor is it taken back
    check("11.1", FUNCTIONS["11.1"])
    check("1.1", FUNCTIONS["1.1"])
    assert grade("2.1", FUNCTIONS["2.1"]) == (True, None)  # only what is checked counts
    set_language("vi")
    check("2.2", 3)
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "✓ 2.2 · bài tập: 1/3"
    assert [line.rpartition(" ")[2] for line in lines] == ["0/3", "0/3", "1/3", "1/3", "1/3", "1/2", "2/3"]
    assert lines[1] == "✓ 1.3 (solution) · exercises: 0/3" and lines[0].startswith("○ 1.3 not done yet: ")


def test_cell_that_needs_an_answer_goes_on_only_while_it_is_right():
    check("1.3", FUNCTIONS["1.3"], solution=True)
    needs("1.3")
    for wrong in (..., lambda fused, n_head: fused):
        check("1.3", FUNCTIONS["1.3"])
        check("1.3", wrong)
        for language, said in (
            ("vi", "Ô này cần lời giải đúng của bài tập 1.3"),
            ("en", "a right answer to exercise 1.3"),
        ):
            set_language(language)
            with pytest.raises(StillOpen, match=said) as error:
                needs("1.3")
            assert error.value._render_traceback_() == [str(error.value)]
    check("1.1", FUNCTIONS["1.1"])
    with pytest.raises(StillOpen, match="exercise 1.3, 2.1:"):
        needs("1.1", "1.3", "2.1")
