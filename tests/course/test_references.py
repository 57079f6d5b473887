"""docs/references*.md against the lists at the end of the notebooks: nothing missing, nothing invented."""

import re
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"en": ROOT / "docs" / "references.md", "vi": ROOT / "docs" / "references.vi.md"}
CITED = {"en": re.compile(r"Cited in ((?:\d\d(?:, )?)+)\."), "vi": re.compile(r"Dẫn trong bài ((?:\d\d(?:, )?)+)\.")}
READ = {"en": re.compile(r"Read with ((?:\d\d(?:, )?)+)\."), "vi": re.compile(r"Đọc cùng bài ((?:\d\d(?:, )?)+)\.")}
LIST = {"en": "## References", "vi": "## Tài liệu"}
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
SOURCES = sorted((ROOT / "notebooks" / "source").glob("[0-9][0-9]_*.py"))
both = pytest.mark.parametrize("language", PAGES)


def key(item):
    """What tells a work from others: its arXiv number, else its title, else the first name in code."""
    for pattern in (ARXIV, re.compile(r"\*([^*]+)\*"), re.compile(r"`([^`]+)`")):
        found = pattern.search(item)
        if found:
            return found.group(1).casefold()
    raise ValueError(f"neither an arXiv number nor a title nor a name in code: {item!r}")


def items(text):
    return [line[2:] for line in text.splitlines() if line.startswith("- ")]


def cited_by(source, language):
    """Keys in the list at the end of a notebook."""
    cells = [cell for cell in jupytext.read(source, fmt="py:percent").cells if cell.metadata.get("lang") == language]
    found = [cell.source.split(f"{LIST[language]}\n")[1] for cell in cells if f"{LIST[language]}\n" in cell.source]
    assert len(found) == 1, f"{source.name}: expected one list {LIST[language]!r}, got {len(found)}"
    return [key(item) for item in items(found[0])]


def on_page(language):
    """{key: (item, numbers of the notebooks that cite it)}"""
    found = {}
    for item in items(PAGES[language].read_text(encoding="utf-8")):
        cited = CITED[language].search(item)
        assert key(item) not in found, f"twice: {key(item)}"
        found[key(item)] = item, cited.group(1).split(", ") if cited else []
    return found


@both
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_what_a_notebook_cites_is_on_the_page_with_the_number_of_that_notebook(source, language):
    page, number = on_page(language), source.name[:2]
    cited = cited_by(source, language)
    assert cited, "an empty list"
    assert [work for work in cited if work not in page] == []
    assert sorted(cited) == sorted(work for work, (_, numbers) in page.items() if number in numbers)


@both
def test_a_work_on_the_page_says_where_it_belongs(language):
    numbers = {source.name[:2] for source in SOURCES}
    for item, cited in on_page(language).values():
        read = READ[language].search(item)
        assert cited or read or "`helpers." in item, item
        assert set(cited + (read.group(1).split(", ") if read else [])) <= numbers, item


def test_both_pages_hold_the_same_works_in_the_same_order():
    english, vietnamese = (on_page(language) for language in PAGES)
    assert list(english) == list(vietnamese) and len(english) > 30
    assert [cited for _, cited in english.values()] == [cited for _, cited in vietnamese.values()]
    for one, other in zip(english.values(), vietnamese.values()):
        assert re.findall(r"\]\((http[^)\s]+)\)", one[0]) == re.findall(r"\]\((http[^)\s]+)\)", other[0])


@both
def test_a_link_leads_to_the_number_that_it_shows(language):
    links = re.findall(r"\[((?:arXiv|doi):[^\]]+)\]\((http[^)\s]+)\)", PAGES[language].read_text(encoding="utf-8"))
    assert len(links) > 30
    for shown, target in links:
        kind, number = shown.split(":", 1)
        assert target == {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}[kind] + number


def test_every_arxiv_number_in_the_module_is_on_the_pages():
    page = PAGES["en"].read_text(encoding="utf-8")
    texts = [*SOURCES, *(ROOT / "helpers").glob("*.py"), *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    found = {(path.name, number) for path in texts for number in ARXIV.findall(path.read_text(encoding="utf-8"))}
    assert [(name, number) for name, number in sorted(found) if number not in ARXIV.findall(page)] == []


def test_the_same_work_has_one_title(language="en"):
    """A shortened title of a notebook is the beginning of the full one on the page, or its part before the colon."""
    page = on_page(language)
    for source in SOURCES:
        for line in items(source.read_text(encoding="utf-8")):
            title = re.search(r"\*([^*]+)\*", line)
            if ARXIV.search(line) and title:
                full = re.search(r"\*([^*]+)\*", page[key(line)][0]).group(1)
                assert full.casefold().startswith(title.group(1).casefold()), (source.name, title.group(1))
