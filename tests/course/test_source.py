"""docs/source*.md: the same rows and verdicts in both languages, real sections, and figures that a notebook printed."""

import functools
import re
from collections import Counter, namedtuple
from pathlib import Path

import nbformat
import pytest

from tools.course import read_pairs, sources

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"en": ROOT / "docs" / "source.md", "vi": ROOT / "docs" / "source.vi.md"}
SOURCES = {path.name[:2]: path for path in sources()}
FIELDS = {"en": ("The source", "Where", "Came out"), "vi": ("Tài liệu gốc", "Ở đâu", "Kết quả")}
VERDICT = {"en": "Verdict", "vi": "Phán quyết"}
VERDICTS = {
    "en": ("holds", "holds partly", "fails", "not tested"),
    "vi": ("đúng", "đúng một phần", "sai", "chưa kiểm tra"),
}
COUNTS = {
    "en": "Of {} statements {} hold, {} hold partly, {} fail and {} is not tested.",
    "vi": "Trong {} khẳng định, {} đúng, {} đúng một phần, {} sai và {} chưa kiểm tra.",
}
PLACE = {
    "en": re.compile(r"\[(\d\d), (section|exercise) ([\d.]+)\]\(([^)]+)\)"),
    "vi": re.compile(r"\[bài (\d\d), (mục|bài tập) ([\d.]+)\]\(([^)]+)\)"),
}
EXERCISE = {"section": False, "mục": False, "exercise": True, "bài tập": True}
HEADING = {"en": ("## {}.", "### Exercise {}"), "vi": ("## {}.", "### Bài tập {}")}  # of a section, of an exercise
ITEM = re.compile(r"^### (?P<number>\d+)\. (?P<title>.+)\n\n(?P<text>(?:- .+\n)+)", re.MULTILINE)
ROW = re.compile(r"^\| \[(\d+)\]\(#([^)]+)\) \| (.+?) \| (.+?) \|$", re.MULTILINE)
QUOTE = re.compile(r"`([^`]+)`")
FIGURE = re.compile(r"\d[.,]\d|\d ?%|\d ?/ ?\d")  # a number that only a notebook can know
Item = namedtuple("Item", "title places came_out verdict why")
both = pytest.mark.parametrize("language", PAGES)


def text_of(language):
    return PAGES[language].read_text(encoding="utf-8")


def items(language):
    """{number: Item} of a page."""
    found = {}
    for match in ITEM.finditer(text_of(language)):
        *fields, verdict = match["text"].splitlines()
        named = [re.fullmatch(r"- \*\*(.+?):\*\* (.+)", line) for line in fields]
        assert [field and field[1] for field in named] == list(FIELDS[language]), match["title"]
        _, where, came_out = (field[2] for field in named)
        judged = re.fullmatch(rf"- \*\*{VERDICT[language]}: (.+?)\.\*\*\s*(.*)", verdict)
        places = PLACE[language].findall(where)
        assert judged and PLACE[language].sub("", where).strip(", ") == ".", match["title"]
        found[int(match["number"])] = Item(
            match["title"], places, came_out, VERDICTS[language].index(judged[1]), judged[2]
        )
    return found


def one_line(text):
    return " ".join(text.split())


def quoted_from(quote, printed):
    """Whether a quotation stands in what was printed, no word or number of it cut off ("0.27" is not in "0.275")."""
    return re.search(rf"(?<![\w.+-]){re.escape(one_line(quote))}(?![\w]|[.,]\d)", printed) is not None


@functools.cache
def text_of_source(number, language):
    """All Markdown of a source in one language."""
    return "\n".join(content[language] for kind, content in read_pairs(SOURCES[number]) if kind == "text")


@functools.cache
def printed_by(number, language):
    """All that a stored notebook printed, on one line."""
    path = ROOT / "notebooks" / language / f"{SOURCES[number].stem}.ipynb"
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", ())]
    return one_line(" ".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs))


ITEMS = {language: items(language) for language in PAGES}


def test_both_languages_have_the_same_statements_places_and_verdicts():
    english, vietnamese = ITEMS["en"], ITEMS["vi"]
    assert list(english) == list(vietnamese) == list(range(1, len(english) + 1)) and len(english) >= 25
    for one, other in zip(english.values(), vietnamese.values()):
        assert one.verdict == other.verdict, (one.title, other.title)
        assert [(n, EXERCISE[kind], part) for n, kind, part, _ in one.places] == [
            (n, EXERCISE[kind], part) for n, kind, part, _ in other.places
        ], one.title
        assert len(QUOTE.findall(one.came_out)) == len(QUOTE.findall(other.came_out)), one.title
        assert bool(one.why) == bool(other.why), one.title


@both
def test_overview_names_and_counts_every_statement_with_its_verdict(language):
    rows = {int(number): (title, verdict) for number, _, title, verdict in ROW.findall(text_of(language))}
    assert rows == {n: (item.title, VERDICTS[language][item.verdict]) for n, item in ITEMS[language].items()}
    counts = Counter(item.verdict for item in ITEMS[language].values())
    assert COUNTS[language].format(len(rows), *(counts[kind] for kind in range(4))) in text_of(language)


@both
def test_statements_name_sections_that_exist(language):
    for item in ITEMS[language].values():
        assert item.places, item.title
        for notebook, kind, part, target in item.places:
            assert target == f"../notebooks/{language}/{SOURCES[notebook].stem}.ipynb"
            beginning = HEADING[language][EXERCISE[kind]].format(part)
            heading = re.compile(rf"^{re.escape(beginning)}(?!\d)", re.MULTILINE)
            assert heading.search(text_of_source(notebook, language)), f"{notebook}: {beginning}"


@both
def test_quotations_were_printed_by_a_named_notebook(language):
    for item in ITEMS[language].values():
        texts = [printed_by(place[0], language) for place in item.places]
        for quote in QUOTE.findall(item.came_out):
            assert any(quoted_from(quote, text) for text in texts), f"{item.title}: {quote}"
        assert FIGURE.findall(re.sub(r"`[^`]+`|\$[^$]+\$", "", f"{item.came_out} {item.why}")) == [], item.title
