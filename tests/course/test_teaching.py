"""The page for lecturers: both languages say the same, and every section and exercise it names is there."""

import re
import unicodedata
from pathlib import Path

import pytest

from helpers.teaching.checks import EXERCISES

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"en": ROOT / "docs" / "teaching.md", "vi": ROOT / "docs" / "teaching.vi.md"}
TEXTS = {language: path.read_text(encoding="utf-8") for language, path in PAGES.items()}
WORD = {"en": r"sections? ", "vi": r"mục "}
LIST = {"en": r"((?:\d+(?:, | to | and )?)+)", "vi": r"((?:\d+(?:, | đến | và )?)+)"}
every_page = pytest.mark.parametrize("language", PAGES)


def sections():
    """{number of a notebook: numbers of its sections}"""
    sources = sorted((ROOT / "notebooks" / "source").glob("*.py"))
    return {p.name[:2]: set(re.findall(r"^## (\d+)\.", p.read_text(encoding="utf-8"), re.MULTILINE)) for p in sources}


@every_page
def test_the_third_line_links_to_the_other_language(language):
    line = TEXTS[language].splitlines()[2]
    assert line == {
        "en": "[Tiếng Việt](teaching.vi.md) · English",
        "vi": "Tiếng Việt · [English](teaching.md)",
    }[language]  # fmt: skip


@every_page
def test_the_text_is_composed(language):
    assert unicodedata.is_normalized("NFC", TEXTS[language])


def test_both_languages_have_the_same_parts():
    def parts(text):
        lines = text.splitlines()
        kinds = [re.match(r"#+ |\| |- |\d+\. |\*\*\d\d,|\*\*[^*]+\?\*\*|\S|$", line).group() for line in lines]
        return [re.sub(r"\*\*[^*]+\?\*\*", "question", kind) if kind[:1] in "#|-*0123456789" else "" for kind in kinds]

    assert parts(TEXTS["vi"]) == parts(TEXTS["en"])


@every_page
def test_there_are_at_least_twelve_questions_with_answers(language):
    answers = re.findall(r"^\*\*[^*]+\?\*\* (.+)$", TEXTS[language], re.MULTILINE)
    assert len(answers) >= 12 and min(map(len, answers)) > 60


@every_page
def test_every_exercise_that_is_named_is_there(language):
    table = re.findall(r"^\| ((?:\d+\.\d(?:, )?)+) \|", TEXTS[language], re.MULTILINE)
    named = re.findall(
        r"(?:exercises?|solution|bài tập|lời giải) ((?:\d+\.\d(?:, | and | và )?)+)", TEXTS[language].lower()
    )
    numbers = {number for text in [*table, *named] for number in re.findall(r"\d+\.\d", text)}
    assert len(numbers) > 20 and numbers <= set(EXERCISES)


@every_page
def test_every_section_that_is_named_is_there(language):
    there, found = sections(), set()
    listed = LIST[language]
    for notebook, numbers in re.findall(rf"(?<!\d)(\d\d), {WORD[language]}{listed}", TEXTS[language]):
        found |= {(notebook, number) for number in re.findall(r"\d+", numbers)}
    for notebook, text in re.findall(r"^\*\*(\d\d),[^*]*\*\* (.+)$", TEXTS[language], re.MULTILINE):
        for numbers in re.findall(rf"(?i:{WORD[language]}){listed}", text):
            found |= {(notebook, number) for number in re.findall(r"\d+", numbers)}
    found = {pair for pair in found if pair[0] in there}
    assert len(found) > 40
    assert {(notebook, number) for notebook, number in found if number not in there[notebook]} == set()
