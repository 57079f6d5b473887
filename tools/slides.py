"""Slides of the stored notebooks, reveal.js pages that need no network.

    python -m tools.slides            build/slides/{vi,en}/*.html and what they share, build/slides/assets
    python -m tools.slides FOLDER     the same in another folder

What becomes a slide follows from rules alone, so no notebook carries slide metadata:

    ## heading            a slide; ### a sub-slide below it; what overflows goes on to the next sub-slide
    a prediction          a sub-slide of its own, before the one with the figure
    code                  a sub-slide; its source is shown up to 12 lines, and what it prints at the next key
    a figure              beside its code, what that printed and how the text reads it, as far as they fit
    left out              links, set-up, imports, widgets, solutions, short answers, and what a check said
    speaker's notes       at each prediction: what docs/teaching.md says about those of the notebook

The plans of docs/teaching.md get a deck each: the sections that they name, under their minutes.
"""

import math
import re
import shutil
from importlib.resources import files
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from tools.course import LANGUAGES, PREDICTION, ROOT, folder_named, only_imports, sources, stored
from tools.execute import pictures, seen_in

WIDTH, HEIGHT = 1280, 720
MOST_CODE = 12  # lines of source that are shown
MOST_LINES, LINE = 16, 78  # of text on a slide; characters of a line
MOST_FIXED, FIXED_LINE = 19, 100  # the same for code and what it prints
MOST_BESIDE, BESIDE_LINE = 24, 50  # the same beside a figure
MOST_BELOW = 4.5  # lines of text below a figure that stands alone
PLAN = re.compile(r"^\| (\d+[–-]\d+) \| (.*?) \| (.*?) \|$", re.MULTILINE)  # minutes, what, from where
DETAILS = re.compile(r"^<details>.*?^</details>$", re.MULTILINE | re.DOTALL)
# A heading, or what goes on to the next empty line or heading outside of code and formulas.
BLOCK = re.compile(r"^#+ [^\n]*|(?:```.*?```|\$\$.*?\$\$|(?!\n\s*\n|\n#+ ).)+", re.MULTILINE | re.DOTALL)
TEMPLATES = ROOT / "tools" / "templates"


def blocks(text):
    """Paragraphs, lists, formulas and headings of a Markdown text; no short answers."""
    return [block.strip() for block in BLOCK.findall(DETAILS.sub("", text)) if block.strip()]


def lines(text, length):
    """Lines of a text on a slide, those of more than `length` characters wrapped."""
    return sum(max(1, math.ceil(len(line) / length)) for line in text.splitlines())


def height(block):
    """Lines that a block takes on a slide, with the space below it."""
    if re.match(r"#+ ", block):
        return 2.2 * math.ceil(len(block) / 55)
    if block.startswith("$$"):
        return 3.5
    if block.startswith("|"):
        return 1.2 * lines(block, 1.1 * LINE) + 0.5
    visible = re.sub(r"\\[a-zA-Z]+|[{}$*]|\]\(\S+?\)", "", block)  # no commands of formulas, no addresses of links
    return lines(visible, LINE) + 0.6


def split(block):
    """Parts of a block that fit on a slide: a list between its points, a paragraph between its sentences."""
    if height(block) <= MOST_LINES or block.startswith(("$$", "```", "|")):
        return [block]
    points = re.split(r"\n(?=\s*(?:[-*]|\d+\.) )", block)
    joint, points = ("\n", points) if len(points) > 1 else (" ", re.split(r"(?<=[.?!]) (?=\w)", block))
    found = points[:1]
    for point in points[1:]:
        longer = found[-1] + joint + point
        found[-1:] = [longer] if height(longer) <= MOST_LINES - 3 else [found[-1], point]
    return found


def texts(source):
    """[(kind of slide, Markdown)] of a text cell."""
    found, room = [], 0.0
    for block in (part for whole in blocks(source) for part in split(whole)):
        heading = re.match(r"#+", block) if re.match(r"#+ ", block) else None
        alone = block.startswith(PREDICTION)
        after = found and re.match(r"#+ .*$", found[-1][1])  # nothing yet but a heading, which is never left alone
        if heading or not found or not after and (alone or height(block) > room):
            kind = "slide" if heading and len(heading[0]) < 3 else "subslide"
            found.append((kind, block))
            room = MOST_LINES
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]}\n\n{block}")
        room = 0 if alone else room - height(block)
    return found


def left_out(cell):
    """Whether a cell has no place on the slides."""
    if cell.cell_type == "markdown":
        return cell.id.startswith("links-")
    hidden = {"setup", "solution"} & {*cell.metadata.get("tags", [])}
    return bool(hidden) or only_imports(cell.source) or cell.source.endswith(".widget")


def code(cell):
    """What is shown of a code cell: its source, then what it printed, then its figures."""
    short = len(cell.source.splitlines()) <= MOST_CODE and not re.fullmatch(r"\w+\.figure", cell.source)
    shown = cell.source if short else ""
    if "exercise" in cell.metadata.get("tags", []):
        cell.outputs = []  # they say that nobody has solved it
    figures = pictures(cell)
    printed = [output for output in cell.outputs if output not in figures]
    said = "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in printed)
    for figure in figures:
        figure.data.pop("text/plain", None)
    together = shown and printed and lines(shown, FIXED_LINE) + lines(said, FIXED_LINE) <= MOST_FIXED
    n_lines = lines(shown, BESIDE_LINE) + lines(said, BESIDE_LINE)
    beside = len(figures) == 1 and 0 < n_lines <= MOST_BESIDE
    for figure in figures:  # of text, in the rest of the narrow column
        figure.metadata["room"] = 0.42 * (MOST_BESIDE + 6 - n_lines) if beside else MOST_BELOW
        figure.metadata["image/png"] = {"alt": seen_in(figure)}
    below = "-" if beside and shown else "fragment" if together else "subslide"
    pieces = [("subslide", shown, []), (below, "", printed)]
    for kind, source, seen in pieces + [("-" if beside else "subslide", "", [figure]) for figure in figures]:
        if source or seen:
            metadata = {"slideshow": {"slide_type": kind}, "tags": [] if source else ["no-source"]}
            yield new_code_cell(source, outputs=seen, execution_count=1, metadata=metadata)


def parts(cell):
    """What is shown of a cell, as cells with slide metadata."""
    if cell.cell_type == "code":
        yield from code(cell)
        return
    for kind, text in texts(cell.source):
        if text.startswith(PREDICTION):
            text = f'<div class="prediction">\n\n{text}\n\n</div>'
        yield new_markdown_cell(text, metadata={"slideshow": {"slide_type": kind}})


def deck(notebook, notes=""):
    """The notebook of the slides: cells with slide metadata for nbconvert; `notes` for the speaker at each prediction."""
    cells, section, room = [], "", 0  # room: lines of text that fit below the figure before
    kept = [cell for cell in notebook.cells if not left_out(cell)]
    for part in [part for cell in kept for part in parts(cell)]:
        heading = re.match(r"##? (.*)", part.source) if part.cell_type == "markdown" else None
        asks = part.source.startswith('<div class="prediction">')
        reads = part.cell_type == "markdown" and not asks and not part.source.startswith("#")
        if heading:
            section = re.sub(r"^(\d+)\.", r"\1\.", heading[1])  # a number, not a list
        elif reads and height(part.source) <= room:
            part.metadata.slideshow.slide_type = "fragment"
        elif part.metadata.slideshow.slide_type == "subslide" and not part.source.startswith("### "):
            running = f'<div class="running">\n\n{section}\n\n</div>'
            cells.append(new_markdown_cell(running, metadata={"slideshow": {"slide_type": "subslide"}}))
            part.metadata.slideshow.slide_type = "-"  # stands below the name of its section
        room = pictures(part)[0].metadata["room"] if part.cell_type == "code" and pictures(part) else 0
        cells.append(part)
        if asks and notes:
            cells.append(new_markdown_cell(notes, metadata={"slideshow": {"slide_type": "notes"}}))
    return new_notebook(cells=cells, metadata={**notebook.metadata, "title": cells[0].source.splitlines()[0][2:]})


def teaching(language):
    """docs/teaching.md in a language."""
    return (ROOT / "docs" / f"teaching{'.vi' * (language == 'vi')}.md").read_text(encoding="utf-8")


def notes_on(number, language):
    """What the page for lecturers says on the predictions of a notebook, for the speaker."""
    found = re.search(rf"^\*\*{number}, .*$", teaching(language), re.MULTILINE)
    return found[0] if found else ""


def named(place):
    """{number of a notebook: the numbers of its sections}, or None for all, that a cell of a plan in English names."""
    found = {}
    for part in place.split("; "):
        spans = re.findall(r"(\d+)(?: to (\d+))?", part[2:])
        sections = {n for first, last in spans for n in range(int(first), int(last or first) + 1)}
        found[part[:2]] = sections or None
    return found


def plans(language, decks):
    """{name: deck} of the plans in docs/teaching.md: what they name of `decks`, {number of a notebook: its deck}."""
    found = {}
    english, own = (re.split(r"^## ", teaching(of), flags=re.MULTILINE) for of in ("en", language))
    for chapter, translated in zip(english, own, strict=True):
        rows, title = PLAN.findall(chapter), translated.splitlines()[0]
        cells = [new_markdown_cell(f"# {title}", metadata={"slideshow": {"slide_type": "slide"}})]
        for (minutes, _, place), (_, what, _) in zip(rows, PLAN.findall(translated), strict=True):
            cells.append(new_markdown_cell(f"## {minutes}\n\n{what}", metadata={"slideshow": {"slide_type": "slide"}}))
            for number, sections in named(place).items():
                cells += sections_of(decks[number], sections)
        if rows:
            found[f"plan-{len(found) + 1}"] = new_notebook(cells=cells, metadata={"title": title})
    return found


def sections_of(deck, sections):
    """The cells of a deck that stand in the sections of these numbers; all of it if `sections` is None."""
    found, section = [], 0
    for cell in deck.cells:
        if cell.metadata.slideshow.slide_type == "slide":
            heading = re.match(r"## (\d+)\.", cell.source)
            section = int(heading[1]) if heading else 0
        if sections is None or section in sections:
            found.append(cell)
    return found


def shared(folder):
    """Copy what all decks share: reveal.js (MIT) and MathJax (Apache-2.0), out of the packages that carry them."""
    reveal = Path(str(files("sphinx_revealjs"))) / "_static" / "revealjs"
    of_reveal = [reveal / name for name in ("dist/reveal.js", "dist/reveal.css", "plugin/notes/notes.js", "LICENSE")]
    mathjax = Path(str(files("sphinx-mathjax-offline"))) / "static" / "mathjax" / "tex-svg-full.js"
    for name, parts_of_it in (("reveal", of_reveal), ("mathjax", [mathjax])):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for part in parts_of_it:
            shutil.copy(part, folder / name)
    (folder / "mathjax" / "README").write_text("MathJax 3, Apache License 2.0, https://www.mathjax.org\n")
    style = (TEMPLATES / "deck.css").read_text(encoding="utf-8")
    (folder / "deck.css").write_text(f"{style}{HtmlFormatter().get_style_defs('.reveal .highlight')}\n")


def build(folder):
    """Write all decks, and a page that lists them."""
    settings = Config()
    settings.TagRemovePreprocessor.update({"enabled": True, "remove_input_tags": {"no-source"}})
    settings.SlidesExporter.update({"reveal_width": str(WIDTH), "reveal_height": str(HEIGHT)})
    listed = {}
    for language in LANGUAGES:
        template = str(TEMPLATES / "deck.html.j2")
        exporter = SlidesExporter(config=settings, template_file=template, language_code=language)
        notebooks = {path.stem: nbformat.read(stored(path, language), as_version=4) for path in sources()}
        decks = {name: deck(notebook, notes_on(name[:2], language)) for name, notebook in notebooks.items()}
        decks |= plans(language, {name[:2]: slides for name, slides in decks.items()})
        for name, slides in decks.items():
            target = folder / language / f"{name}.html"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(exporter.from_notebook_node(slides)[0], encoding="utf-8")
            listed[f"{language}/{target.name}"] = slides.metadata.title
    shared(folder / "assets")
    items = "".join(f'<li><a href="{link}">{title}</a></li>\n' for link, title in listed.items())
    page = f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>Slides</title>\n<ul>\n{items}</ul>\n'
    (folder / "index.html").write_text(page, encoding="utf-8")


def main():
    build(folder := folder_named(__doc__, "slides"))
    print(f"slides: {folder}/index.html (arrow keys move, S opens the speaker's view, F fills the screen)")


if __name__ == "__main__":
    main()
