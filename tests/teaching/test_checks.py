"""Feedback on exercises: right answers pass, and any other gets one sentence, in both languages, without the answer."""

import re
from functools import partial

import numpy as np
import pytest
import torch

from helpers import block_histograms, capture_qkv, encode, find_token, load_sentences, set_language, token_id_of
from helpers.settings import MESSAGES
from helpers.teaching import checks
from helpers.teaching.checks import EXERCISES, StillOpen, check, grade, needs
from tests.support.refusal import assert_refused
from tests.support.tiny import random_model, word_tokenizer
from tests.teaching import answers
from tests.teaching.answers import FUNCTIONS, MISTAKES, RIGHT, SOLUTIONS, VALUES

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def new_session(monkeypatch):
    for name in ("_solved", "answered"):
        monkeypatch.setattr(checks, name, set())


def hints(number, *arguments):
    """What is said in Vietnamese and in English of an answer that must not be right."""
    said = []
    for language in ("vi", "en"):
        set_language(language)
        right, hint = grade(number, *arguments)
        assert right is False, arguments
        said.append(hint)
    return tuple(said)


def test_every_exercise_has_a_notebook_a_solution_and_a_mistake():
    sources = "".join(path.read_text(encoding="utf-8") for path in answers.SOURCES)
    for numbers in (re.findall(r'check\("([\d.]+)"', sources), SOLUTIONS, MISTAKES):
        assert set(numbers) == set(EXERCISES)


def in_dtype(function, dtype, *given):
    """What a reader's function gives who turns all vectors into another dtype."""
    return function(*(a.to(dtype) if getattr(a, "is_floating_point", bool)() else a for a in given))


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
            assert grade(number, partial(in_dtype, function, dtype)) == (True, None), (number, dtype)


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


def test_open_exercise_is_said_to_be_open():
    said, of_function = (tuple(MESSAGES[key]) for key in ("exercise_open", "exercise_open_function"))
    for number in EXERCISES:
        assert hints(number) == hints(number, ...) == hints(number, None) == said, number
        assert number not in FUNCTIONS or hints(number, lambda *arguments: ...) == of_function, number


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


@pytest.mark.parametrize("number", EXERCISES)
def test_typical_mistake_gets_its_own_hint_and_none_the_answer(number):
    said = {hints(number, *arguments) for arguments in answers.strange(number) + answers.near(number)}
    for arguments, *words in MISTAKES[number]:
        found = hints(number, *arguments)
        assert words[0] in found[0] and words[1] in found[1], (words, found)
        said.add(found)
    for vi, en in said:
        assert re.search("[à-ỹđ]", vi) and en and not re.search("[à-ỹđ]", en)
        assert "\n" not in vi + en and max(len(vi), len(en)) < 250
        assert "không đọc được" not in vi and "cannot be read" not in en  # a reason, not the last resort
    text = "\n".join(hint for pair in said for hint in pair)
    if number in VALUES:
        right = VALUES[number] if number == "3.2" else [VALUES[number]]
        assert not re.search("|".join(form for answer in right for form in forms(answer)), text)
    if number in FUNCTIONS:  # nor what the solution computes, part by part
        lines = [line for line in SOLUTIONS[number].splitlines() if not line.startswith(("#", "check", "print", "def"))]
        parts = {part for line in lines for part in re.split(r"^.*?(?:return | = )|,(?![^(]*\))", line.split("#")[0])}
        parts = [part for part in ("".join(part.split()) for part in parts) if len(part) > 8]
        assert parts and not any(part in "".join(text.split()) for part in parts)


def test_unknown_exercise_is_refused_with_the_known_ones():
    assert_refused(lambda: check("9.9", 1), ValueError, r"no exercise '9\.9': .* 1\.1, .*11\.2$")


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
        error = assert_refused(lambda: needs("1.3"), StillOpen, "a right answer to exercise 1.3:")
        assert error._render_traceback_() == [str(error)]
    check("1.1", FUNCTIONS["1.1"])
    assert_refused(lambda: needs("1.1", "1.3", "2.1"), StillOpen, "exercise 1.3, 2.1:")
