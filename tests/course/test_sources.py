"""What the sources of the notebooks, docs/teaching*.md, docs/references*.md and docs/source*.md say of one another.

docs/source*.md has the same rows and verdicts in both languages, real sections, and figures that a notebook printed.
"""

import functools
import re
import tomllib
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from helpers import label
from tools import build, course
from tools.course import texts

DOCS = course.ROOT / "docs"
SOURCES = course.sources()
NAMED = {path.name[:2]: path for path in SOURCES}
DATA = tomllib.loads(Path(__file__).with_name("patterns.toml").read_text(encoding="utf-8"))
PATTERNS, SAID = DATA["sources"], DATA["source"]
both = pytest.mark.parametrize("language", course.LANGUAGES)


def page(name, language):
    return (DOCS / f"{name}{'.vi' if language == 'vi' else ''}.md").read_text(encoding="utf-8")


@both
def test_menu_leads_to_every_notebook_in_order_and_to_the_other_language(language):
    names = [path.stem for path in SOURCES]
    (other,) = course.LANGUAGES.keys() - {language}
    glossary = PATTERNS[language]["glossary"]
    for at, name in enumerate(names):
        menu = course.links(SOURCES[at], language)
        wanted = [(f"← {before[:2]}", f"{before}.ipynb") for before in names[max(at - 1, 0) : at]]
        wanted += [(one[:2], f"{one}.ipynb") for one in names if one != name]
        wanted += [(f"{after[:2]} →", f"{after}.ipynb") for after in names[at + 1 : at + 2]]
        wanted += [(course.LANGUAGES[other], f"../{other}/{name}.ipynb"), tuple(glossary)]
        assert re.findall(r"\[([^\]]+)\]\(([^)\s]+)\)", menu) == wanted and f"**{name[:2]}**" in menu
        assert (course.NOTEBOOKS / language / glossary[1]).is_file() and "\n" not in menu


def workload(path):
    """What a reader of one notebook meets, counted in the English text and the shared code.

    Not counted: the references, the setup cell, the cells of imports, and the solutions.
    """
    text = "\n".join(texts(path, "en")).split("\n## References")[0]
    cells = [(cell.source, cell.metadata.get("tags", [])) for kind, cell in course.read_pairs(path) if kind == "code"]
    cells = [(source, tags) for source, tags in cells if not {"setup", "solution"} & set(tags)]
    code = [source for source, _ in cells if not source.startswith(("import ", "from "))]
    questions = text.partition("\n## Check yourself")[2].partition("<details>")[0]
    return {
        "words": len(text.split()),
        "lines of code": sum(bool(line.strip()) for source in code for line in source.splitlines()),
        "exercises": sum("exercise" in tags for _, tags in cells),
        "predictions": text.count("**Predict"),
        "figures": sum(bool(re.search(r"^figure\w* = |^explorer\.figure", source, re.MULTILINE)) for source in code),
        "questions": len(re.findall(r"^\d\. ", questions, re.MULTILINE)),
    }


def stated(path, language):
    """(minutes of the reader, seconds of the computer) in the head of a notebook."""
    ((reader, computer, unit),) = re.findall(PATTERNS[language]["head"], "\n".join(texts(path, language)))
    return int(reader), int(computer) * (60 if unit in ("minutes", "phút") else 1)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_times_in_the_head_are_within_a_factor_of_two_of_rule_and_run(path):
    reader, computer = stated(path, "en")
    assert stated(path, "vi") == (reader, computer)
    minutes = sum(n * DATA["minutes"][what] for what, n in workload(path).items())
    assert 1 / 2 <= reader / minutes <= 2, f"the head says {reader} minutes, the rule gives {minutes:.0f}"
    for language in course.LANGUAGES:
        took = build.read_times().get(path.stem, {}).get(language)
        assert took, f"{path.stem}, {language}: no time in times.json; build it once"
        assert 1 / 2 <= computer / took <= 2, (
            f"{path.stem}, {language}: the head says {computer} s, the run took {took} s. Correct the head; or, if this "
            "machine is unlike the one of the stored outputs, take notebooks/times.json back"
        )


@both
def test_page_for_lecturers_has_the_times_of_the_heads(language):
    units = {"minutes": 60, "phút": 60, "seconds": 1, "giây": 1}
    row = rf"^\| (\d\d) \|[^|]+\| (\d+) \| (\d+) ({'|'.join(units)}) \| (\d) \|$"
    rows = re.findall(row, page("teaching", language), re.MULTILINE)
    found = {number: (int(reader), int(took) * units[unit], int(n)) for number, reader, took, unit, n in rows}
    assert found == {path.stem[:2]: (*stated(path, language), workload(path)["exercises"]) for path in SOURCES}


def test_page_for_lecturers_has_the_same_parts_in_both_languages():
    def parts(text):
        lines = text.splitlines()
        kinds = [re.match(r"#+ |\| |- |\d+\. |\*\*\d\d,|\*\*[^*]+\?\*\*|\S|$", line).group() for line in lines]
        return [re.sub(r"\*\*[^*]+\?\*\*", "question", kind) if kind[:1] in "#|-*0123456789" else "" for kind in kinds]

    assert parts(page("teaching", "vi")) == parts(page("teaching", "en"))


@both
def test_sections_and_exercises_that_the_page_for_lecturers_names_are_there(language):
    text, section = page("teaching", language), PATTERNS[language]["section"]
    table = re.findall(r"^\| ((?:\d+\.\d(?:, )?)+) \|", text, re.MULTILINE)
    named = re.findall(r"(?:exercises?|solution|bài tập|lời giải) ((?:\d+\.\d(?:, | and | và )?)+)", text.lower())
    exercises = {number for found in [*table, *named] for number in re.findall(r"\d+\.\d", found)}
    checked = {number for path in SOURCES for number in re.findall(r'check\("([\d.]+)"', path.read_text("utf-8"))}
    assert len(exercises) > 20 and exercises - checked == set()

    there = {path.name[:2]: set(re.findall(r"(?m)^## (\d+)\.", "\n".join(texts(path, "en")))) for path in SOURCES}
    phrases = re.findall(rf"(?<!\d)(\d\d), {section}", text)
    for notebook, paragraph in re.findall(r"^\*\*(\d\d),[^*]*\*\* (.+)$", text, re.MULTILINE):
        phrases += [(notebook, found) for found in re.findall(rf"(?i:{section})", paragraph)]
    sections = {(notebook, n) for notebook, found in phrases if notebook in there for n in re.findall(r"\d+", found)}
    assert len(sections) > 40 and {pair for pair in sections if pair[1] not in there[pair[0]]} == set()


ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
TITLE = re.compile(r"\*([^*]+)\*")


def works(text):
    """{key: item} of a list of works; the key is the arXiv number, else the title, else the first name in code."""
    items = [line[2:] for line in text.splitlines() if line.startswith("- ")]
    keys = [ARXIV.search(item) or TITLE.search(item) or re.search(r"`([^`]+)`", item) for item in items]
    assert items and all(keys), [item for item, key in zip(items, keys, strict=True) if not key]
    found = {key[1].casefold(): item for key, item in zip(keys, items, strict=True)}
    assert len(found) == len(items)
    return found


def cited_by(path, language):
    """The list at the end of a notebook."""
    beginning = PATTERNS[language]["list"]
    (found,) = [text.split(beginning)[1] for text in texts(path, language) if beginning in text]
    return works(found)


@functools.cache
def references(language):
    """{key: (item, numbers of the notebooks that cite it, of those to read it with)} of the page of references."""
    patterns = PATTERNS[language]["cited"], PATTERNS[language]["read"]
    return {
        key: (item, *(re.findall(r"\d\d", "".join(re.findall(pattern, item))) for pattern in patterns))
        for key, item in works(page("references", language)).items()
    }


@both
def test_references_hold_what_the_notebooks_cite_with_their_numbers(language):
    for path in SOURCES:
        named = {work for work, (_, cited, _) in references(language).items() if path.name[:2] in cited}
        assert cited_by(path, language).keys() == named, path.stem
    for item, cited, read in references(language).values():
        assert cited + read or "`helpers." in item, item
        assert {*cited, *read} <= NAMED.keys(), item


def test_references_are_the_same_works_in_the_same_order_in_both_languages():
    english, vietnamese = references("en"), references("vi")
    assert list(english) == list(vietnamese) and len(english) > 30
    numbered = []
    for (one, *cited_one), (other, *cited_other) in zip(english.values(), vietnamese.values(), strict=True):
        assert cited_one[0] == cited_other[0], one
        links = [re.findall(r"\[(?:(arXiv|doi):)?([^\]]+)\]\((http[^)\s]+)\)", item) for item in (one, other)]
        assert [to for *_, to in links[0]] == [to for *_, to in links[1]], one
        numbered += [link for link in links[0] + links[1] if link[0]]
    at = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
    assert len(numbered) > 2 * 30 and [link for link in numbered if link[2] != at[link[0]] + link[1]] == []


def test_arxiv_numbers_and_titles_of_the_module_are_those_of_the_references():
    files = [*SOURCES, *(course.ROOT / "helpers").rglob("*.py"), *course.ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    found = {(path.name, number) for path in files for number in ARXIV.findall(path.read_text(encoding="utf-8"))}
    assert found and {pair for pair in found if pair[1] not in ARXIV.findall(page("references", "en"))} == set()
    for key, item in (pair for path in SOURCES for pair in cited_by(path, "en").items()):
        if ARXIV.search(item) and (short := TITLE.search(item)):
            assert TITLE.search(references("en")[key][0])[1].casefold().startswith(short[1].casefold()), item


ROW = re.compile(r"^\| \[(\d+)\]\(#[^)]+\) \| (.+?) \| (.+?) \|$", re.MULTILINE)
QUOTE = re.compile(r"`([^`]+)`")
FIGURE = re.compile(r"\d[.,]\d|\d ?%|\d ?/ ?\d")  # a number that only a notebook can know


@functools.cache
def items(language):
    """The statements of a page: title, places, what came out, verdict and why, as groups of a match each."""
    text = page("source", language)
    found = list(re.finditer(SAID[language]["item"], text))
    assert [int(item["number"]) for item in found] == list(range(1, text.count("\n### ") + 1))
    return found


def places(item, language):
    """(notebook, kind, number, link) of each section and exercise that a statement names."""
    assert re.sub(SAID[language]["place"], "", item["places"]).strip(", ") == "", item["title"]
    return re.findall(SAID[language]["place"], item["places"])


def one_line(text):
    return " ".join(text.split())


@functools.cache
def printed_by(number, language):
    """All that a stored notebook printed, on one line."""
    notebook = nbformat.read(course.stored(NAMED[number], language), as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return one_line(" ".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs))


def test_both_languages_have_the_same_statements_places_and_verdicts():
    def shape(item, language):
        kinds, verdicts = list(SAID[language]["heading"]), SAID[language]["verdicts"]
        named = [(notebook, kinds.index(kind), part) for notebook, kind, part, _ in places(item, language)]
        quotes = len(QUOTE.findall(item["came_out"]))
        return named, verdicts.index(item["verdict"]), quotes, bool(item["why"])

    for one, other in zip(items("en"), items("vi"), strict=True):
        assert shape(one, "en") == shape(other, "vi"), (one["title"], other["title"])
    assert len(items("en")) >= 25


@both
def test_overview_names_and_counts_every_statement_with_its_verdict(language):
    text, verdicts = page("source", language), SAID[language]["verdicts"]
    rows = ROW.findall(text)
    assert rows == [(item["number"], item["title"], item["verdict"]) for item in items(language)]
    counts = Counter(item["verdict"] for item in items(language))
    assert SAID[language]["counts"].format(len(rows), *(counts[verdict] for verdict in verdicts)) in text


@both
def test_statements_name_sections_that_exist_and_quote_what_was_printed_there(language):
    for item in items(language):
        printed = []
        for notebook, kind, part, target in places(item, language):
            assert target == f"../notebooks/{language}/{NAMED[notebook].stem}.ipynb"
            heading = re.escape(SAID[language]["heading"][kind].format(part))
            text = "\n".join(texts(NAMED[notebook], language))
            assert re.search(rf"(?m)^{heading}(?!\d)", text), f"{notebook}: {heading}"
            printed.append(printed_by(notebook, language))
        for quote in map(one_line, QUOTE.findall(item["came_out"])):  # no word or number cut off: "0.27" of "0.275"
            whole = rf"(?<![\w.+-]){re.escape(quote)}(?!\w|[.,]\d)"
            assert any(re.search(whole, text) for text in printed), f"{item['title']}: {quote}"
        unquoted = re.sub(r"`[^`]+`|\$[^$]+\$", "", f"{item['came_out']} {item['why']}")
        assert FIGURE.findall(unquoted) == [], item["title"]


def test_swaps_on_the_first_page_are_those_that_notebook_09_printed(language):
    page = (course.ROOT / f"README{'.vi' * (language == 'vi')}.md").read_text(encoding="utf-8").replace("*", "")
    names = {"en": ("nothing", "offset", "deviations"), "vi": ("không", "độ dời", "độ lệch")}[language]
    for key, name in zip(("unedited", "offset_swapped", "deviation_swapped"), names, strict=True):
        (shown,) = re.findall(rf"^\| {name} \|((?: \d[.,]\d\d \|){{5}})$", page, re.MULTILINE)
        (printed,) = re.findall(rf"{re.escape(label(key))} ((?:\d[.,]\d\d ){{5}})", printed_by("09", language))
        assert shown.replace("|", "").split() == printed.split()
