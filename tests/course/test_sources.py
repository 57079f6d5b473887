"""What the sources of the notebooks, docs/teaching*.md and docs/references*.md say of one another."""

import functools
import re

import pytest

from tools import build, course

DOCS = course.ROOT / "docs"
SOURCES = course.sources()
both = pytest.mark.parametrize("language", course.LANGUAGES)


def texts(path, language):
    """The Markdown texts of a source in one language."""
    return [content[language] for kind, content in course.read_pairs(path) if kind == "text"]


def page(name, language):
    return (DOCS / f"{name}{'.vi' if language == 'vi' else ''}.md").read_text(encoding="utf-8")


@both
def test_menu_leads_to_every_notebook_in_order_and_to_the_other_language(language):
    other = {"vi": "en", "en": "vi"}[language]
    glossary = {"vi": "../../docs/glossary.vi.md", "en": "../../docs/glossary.md"}[language]
    for at, path in enumerate(SOURCES):
        menu = course.links(path, language)
        links = dict(re.findall(r"\[([^\]]+)\]\(([^)\s]+)\)", menu))
        before = [(f"← {source.stem[:2]}", f"{source.stem}.ipynb") for source in SOURCES[max(at - 1, 0) : at]]
        after = [(f"{source.stem[:2]} →", f"{source.stem}.ipynb") for source in SOURCES[at + 1 : at + 2]]
        others = [(source.stem[:2], f"{source.stem}.ipynb") for source in SOURCES if source != path]
        words = [(course.LANGUAGES[other], f"../{other}/{path.stem}.ipynb")]
        words.append(({"vi": "thuật ngữ", "en": "glossary"}[language], glossary))
        assert list(links.items()) == [*before, *others, *after, *words] and f"**{path.stem[:2]}**" in menu
        assert (course.stored(path, language).parent / glossary).is_file() and "\n" not in menu


# How long a reader takes.  An estimate: no reader was timed; docs/teaching.md says where it comes from.
WORDS_PER_MINUTE = 120
CODE_LINES_PER_MINUTE = 10
MINUTES_EACH = {"exercises": 8, "predictions": 1, "figures": 1, "questions": 1}
HEADER = {
    "en": r"\*\*Time:\*\* about (\d+) minutes of reading and exercises; the computer runs for about (\d+) (minutes|seconds)\.",
    "vi": r"\*\*Thời gian:\*\* khoảng (\d+) phút đọc và làm bài tập; máy tính chạy khoảng (\d+) (phút|giây)\.",
}


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
    ((reader, computer, unit),) = re.findall(HEADER[language], "\n".join(texts(path, language)))
    return int(reader), int(computer) * (60 if unit in ("minutes", "phút") else 1)


def within_factor_two(a, b):
    return max(a, b) <= 2 * min(a, b)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_times_in_the_head_are_within_a_factor_of_two_of_rule_and_run(path):
    reader, computer = stated(path, "en")
    assert stated(path, "vi") == (reader, computer)
    load = workload(path)
    minutes = load["words"] / WORDS_PER_MINUTE + load["lines of code"] / CODE_LINES_PER_MINUTE
    minutes += sum(each * load[what] for what, each in MINUTES_EACH.items())
    assert within_factor_two(reader, minutes), f"the head says {reader} minutes, the rule gives {minutes:.0f}"
    for language in course.LANGUAGES:
        took = build.read_times().get(path.stem, {}).get(language)
        assert took, f"{path.stem}, {language}: no time in times.json; build it once"
        assert within_factor_two(computer, took), (
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


WORD = {"en": r"sections? ", "vi": r"mục "}
NUMBERS = {"en": r"((?:\d+(?:, | to | and )?)+)", "vi": r"((?:\d+(?:, | đến | và )?)+)"}


def test_page_for_lecturers_has_the_same_parts_in_both_languages():
    def parts(text):
        lines = text.splitlines()
        kinds = [re.match(r"#+ |\| |- |\d+\. |\*\*\d\d,|\*\*[^*]+\?\*\*|\S|$", line).group() for line in lines]
        return [re.sub(r"\*\*[^*]+\?\*\*", "question", kind) if kind[:1] in "#|-*0123456789" else "" for kind in kinds]

    assert parts(page("teaching", "vi")) == parts(page("teaching", "en"))


@both
def test_sections_and_exercises_that_the_page_for_lecturers_names_are_there(language):
    text = page("teaching", language)
    table = re.findall(r"^\| ((?:\d+\.\d(?:, )?)+) \|", text, re.MULTILINE)
    named = re.findall(r"(?:exercises?|solution|bài tập|lời giải) ((?:\d+\.\d(?:, | and | và )?)+)", text.lower())
    exercises = {number for found in [*table, *named] for number in re.findall(r"\d+\.\d", found)}
    checked = {number for path in SOURCES for number in re.findall(r'check\("([\d.]+)"', path.read_text("utf-8"))}
    assert len(exercises) > 20 and exercises - checked == set()

    there = {path.name[:2]: set(re.findall(r"(?m)^## (\d+)\.", "\n".join(texts(path, "en")))) for path in SOURCES}
    phrases = re.findall(rf"(?<!\d)(\d\d), {WORD[language]}{NUMBERS[language]}", text)
    for notebook, paragraph in re.findall(r"^\*\*(\d\d),[^*]*\*\* (.+)$", text, re.MULTILINE):
        phrases += [(notebook, found) for found in re.findall(rf"(?i:{WORD[language]}){NUMBERS[language]}", paragraph)]
    sections = {(notebook, n) for notebook, found in phrases if notebook in there for n in re.findall(r"\d+", found)}
    assert len(sections) > 40 and {pair for pair in sections if pair[1] not in there[pair[0]]} == set()


CITED = {"en": r"Cited in ((?:\d\d(?:, )?)+)\.", "vi": r"Dẫn trong bài ((?:\d\d(?:, )?)+)\."}
READ = {"en": r"Read with ((?:\d\d(?:, )?)+)\.", "vi": r"Đọc cùng bài ((?:\d\d(?:, )?)+)\."}
LIST = {"en": "## References\n", "vi": "## Tài liệu\n"}
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
TITLE = re.compile(r"\*([^*]+)\*")


def key(item):
    """What tells a work from others: its arXiv number, else its title, else the first name in code."""
    found = ARXIV.search(item) or TITLE.search(item) or re.search(r"`([^`]+)`", item)
    assert found, f"neither an arXiv number nor a title nor a name in code: {item!r}"
    return found.group(1).casefold()


def items(text):
    return [line[2:] for line in text.splitlines() if line.startswith("- ")]


def cited_by(path, language):
    """Items of the list at the end of a notebook."""
    (found,) = [text.split(LIST[language])[1] for text in texts(path, language) if LIST[language] in text]
    assert items(found), f"{path.stem}: an empty list"
    return items(found)


def numbers_in(pattern, item):
    found = re.search(pattern, item)
    return found.group(1).split(", ") if found else []


@functools.cache
def works(language):
    """{key: item} of the page of references."""
    found = items(page("references", language))
    assert len({key(item) for item in found}) == len(found) > 30
    return {key(item): item for item in found}


@both
def test_references_hold_what_the_notebooks_cite_with_their_numbers(language):
    for path in SOURCES:
        cited = sorted(key(item) for item in cited_by(path, language))
        named = [work for work, item in works(language).items() if path.name[:2] in numbers_in(CITED[language], item)]
        assert cited == sorted(named), path.stem
    for item in works(language).values():
        numbers = numbers_in(CITED[language], item) + numbers_in(READ[language], item)
        assert numbers or "`helpers." in item, item
        assert set(numbers) <= {path.name[:2] for path in SOURCES}, item


def test_references_are_the_same_works_in_the_same_order_in_both_languages():
    assert list(works("en")) == list(works("vi"))
    for one, other in zip(works("en").values(), works("vi").values(), strict=True):
        assert numbers_in(CITED["en"], one) == numbers_in(CITED["vi"], other)
        assert re.findall(r"\]\((http[^)\s]+)\)", one) == re.findall(r"\]\((http[^)\s]+)\)", other)


@both
def test_link_of_a_reference_leads_to_the_number_that_it_shows(language):
    links = re.findall(r"\[(arXiv|doi):([^\]]+)\]\((http[^)\s]+)\)", page("references", language))
    at = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
    assert len(links) > 30 and [link for link in links if link[2] != at[link[0]] + link[1]] == []


def test_arxiv_numbers_and_titles_of_the_module_are_those_of_the_references():
    files = [*SOURCES, *(course.ROOT / "helpers").rglob("*.py"), *course.ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    found = {(path.name, number) for path in files for number in ARXIV.findall(path.read_text(encoding="utf-8"))}
    assert found and {pair for pair in found if pair[1] not in ARXIV.findall(page("references", "en"))} == set()
    for item in (item for path in SOURCES for item in cited_by(path, "en")):
        if ARXIV.search(item) and (short := TITLE.search(item)):
            assert TITLE.search(works("en")[key(item)])[1].casefold().startswith(short[1].casefold()), item
