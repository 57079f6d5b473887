"""Feedback on the exercises of notebook 11: right answers pass, typical mistakes get their own hint."""

import re

import pytest

from helpers.teaching.checks import grade


def last_of_word(ids, pieces):
    for start in range(len(ids) - len(pieces) + 1):
        if tuple(ids[start : start + len(pieces)]) == pieces:
            return start + len(pieces) - 1
    return None


def first_of_word(ids, pieces):
    last = last_of_word(ids, pieces)
    return None if last is None else last - len(pieces) + 1


def by_id_alone(ids, pieces):
    return ids.index(pieces[-1])


def last_occurrence(ids, pieces):
    found = [
        start + len(pieces) - 1
        for start in range(len(ids) - len(pieces) + 1)
        if tuple(ids[start : start + len(pieces)]) == pieces
    ]
    return found[-1] if found else None


def invented(ids, pieces):
    return last_of_word(ids, pieces) or 0


MISTAKES = [
    ("11.1", first_of_word, "token đầu|first token"),
    ("11.1", by_id_alone, "đúng id|right id"),
    ("11.1", last_occurrence, r"\[3, 4, 9, 3, 4\].*(đúng id|right id)"),
    ("11.1", invented, r"\[2, 1, 7\].*(chưa đúng|not right)"),
    ("11.1", lambda ids, pieces: len(ids), "chưa đúng|not right"),
    ("11.2", lambda bias, offset: bias.norm() / offset.norm(), "độ dài|lengths"),
    ("11.2", lambda bias, offset: bias @ bias / (offset @ offset), "độ dài|lengths"),
    ("11.2", lambda bias, offset: bias @ offset / (bias.norm() * offset.norm()), "cosine"),
    ("11.2", lambda bias, offset: bias @ offset / (bias @ bias), "cộng thành|add up to"),
]


@pytest.mark.parametrize(("number", "answer", "hint"), MISTAKES, ids=[f"{m[0]}-{i}" for i, m in enumerate(MISTAKES)])
def test_a_typical_mistake_gets_its_own_hint(language, number, answer, hint):
    right, said = grade(number, answer)
    assert not right and re.search(hint, said), said


RIGHT = [
    ("11.1", last_of_word),
    (
        "11.1",
        lambda ids, pieces: next(
            (i for i in range(len(ids)) if tuple(ids[max(0, i + 1 - len(pieces)) : i + 1]) == pieces), None
        ),
    ),
    ("11.2", lambda bias, offset: bias @ offset / (offset @ offset)),
    ("11.2", lambda bias, offset: float((bias * offset).sum() / offset.square().sum())),
]


@pytest.mark.parametrize(("number", "answer"), RIGHT, ids=[f"{case[0]}-{i}" for i, case in enumerate(RIGHT)])
def test_a_right_answer_passes_whatever_way_it_was_found(number, answer):
    assert grade(number, answer) == (True, None)


@pytest.mark.parametrize("number", ["11.1", "11.2"])
def test_a_function_that_still_returns_the_dots_is_open(language, number):
    right, said = grade(number, lambda *arguments: ...)
    assert not right and re.search("chưa làm|not done", said)
