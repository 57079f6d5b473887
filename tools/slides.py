"""Slides of the stored notebooks, reveal.js pages that need no network.

    python -m tools.slides            build/slides/{vi,en}/*.html and what they share, build/slides/assets
    python -m tools.slides FOLDER     the same in another folder

What becomes a slide follows from rules alone, so no notebook carries slide metadata:

    ## heading            a slide; ### a sub-slide below it; what overflows goes on to the next sub-slide
    a prediction          a sub-slide of its own, before the one with the figure
    code                  a sub-slide; its source is shown up to 12 lines, and what it prints at the next key
    figures               a sub-slide each
    left out              links, set-up, imports, widgets, solutions, short answers, and what a check said
"""

import argparse
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

from tools.course import LANGUAGES, PREDICTION, ROOT, only_imports, sources, stored
from tools.execute import pictures

WIDTH, HEIGHT = 1280, 720
MOST_CODE = 12  # lines of source that are shown
MOST_LINES, LINE = 16, 78  # of text on a slide; characters of a line
MOST_FIXED, FIXED_LINE = 19, 100  # the same for code and what it prints
DETAILS = re.compile(r"^<details>.*?^</details>$", re.MULTILINE | re.DOTALL)
TEMPLATES = ROOT / "tools" / "templates"


def blocks(text):
    """Paragraphs, lists, formulas and headings of a Markdown text; no short answers."""
    found, inside = [[]], None
    for line in DETAILS.sub("", text).strip().splitlines():
        fence = next((mark for mark in ("```", "$$") if line.count(mark) % 2), None)
        if fence and inside in (None, fence):
            inside = None if inside else fence
        if not inside and (not line.strip() or re.match(r"#+ ", line) or re.match(r"#+ ", (found[-1] or [""])[-1])):
            found.append([])
        if line.strip() or inside:
            found[-1].append(line)
    return ["\n".join(block) for block in found if block]


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
    visible = re.sub(r"\\[a-zA-Z]+|[{}$*]", "", block)  # without the commands of its formulas
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
    return (
        only_imports(cell.source)
        or cell.source.endswith(".widget")
        or bool({"setup", "solution"} & {*cell.metadata.get("tags", [])})
    )


def code(cell):
    """What is shown of a code cell: its source, then what it printed, then its figures."""
    shown = cell.source if len(cell.source.splitlines()) <= MOST_CODE else ""
    asked = "exercise" in cell.metadata.get("tags", [])  # what it printed says that nobody has solved it
    figures = [] if asked else pictures(cell)
    printed = [] if asked else [output for output in cell.outputs if output not in figures]
    printed_text = "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in printed)
    for figure in figures:
        figure.data.pop("text/plain", None)
    together = shown and printed and lines(shown, FIXED_LINE) + lines(printed_text, FIXED_LINE) <= MOST_FIXED
    pieces = [("subslide", shown, []), ("fragment" if together else "subslide", "", printed)]
    for kind, source, seen in pieces + [("subslide", "", [figure]) for figure in figures]:
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


def deck(notebook):
    """The notebook of the slides: cells with slide metadata for nbconvert."""
    cells, section = [], ""
    kept = [cell for cell in notebook.cells if not left_out(cell)]
    for part in [part for cell in kept for part in parts(cell)]:
        heading = re.match(r"##? (.*)", part.source) if part.cell_type == "markdown" else None
        if heading:
            section = re.sub(r"^(\d+)\.", r"\1\.", heading[1])  # a number, not a list
        elif part.metadata.slideshow.slide_type == "subslide" and not part.source.startswith("### "):
            running = f'<div class="running">\n\n{section}\n\n</div>'
            cells.append(new_markdown_cell(running, metadata={"slideshow": {"slide_type": "subslide"}}))
            part.metadata.slideshow.slide_type = "-"  # stands below the name of its section
        cells.append(part)
    return new_notebook(cells=cells, metadata={**notebook.metadata, "title": cells[0].source.splitlines()[0][2:]})


def shared(folder):
    """Copy what all decks share: reveal.js (MIT) and MathJax (Apache-2.0), out of the packages that carry them."""
    reveal = Path(str(files("sphinx_revealjs"))) / "_static" / "revealjs"
    mathjax = Path(str(files("sphinx-mathjax-offline"))) / "static" / "mathjax"
    of_reveal = ("dist/reveal.js", "dist/reveal.css", "plugin/notes/notes.js", "LICENSE")
    for name, package, parts_of_it in (("reveal", reveal, of_reveal), ("mathjax", mathjax, ["tex-svg-full.js"])):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for part in parts_of_it:
            shutil.copy(package / part, folder / name)
    (folder / "mathjax" / "README").write_text("MathJax 3, Apache License 2.0, https://www.mathjax.org\n")
    style = (TEMPLATES / "deck.css").read_text(encoding="utf-8")
    colours = HtmlFormatter(style="default").get_style_defs(".reveal .highlight")
    (folder / "deck.css").write_text(f"{style}{colours}\n")


def build(folder):
    """Write all decks, and a page that lists them."""
    settings = Config()
    settings.TagRemovePreprocessor.update({"enabled": True, "remove_input_tags": {"no-source"}})
    settings.SlidesExporter.update({"reveal_width": str(WIDTH), "reveal_height": str(HEIGHT)})
    listed = {}
    for language in LANGUAGES:
        template = str(TEMPLATES / "deck.html.j2")
        exporter = SlidesExporter(config=settings, template_file=template, language_code=language)
        for path in sources():
            slides = deck(nbformat.read(stored(path, language), as_version=4))
            target = folder / language / f"{path.stem}.html"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(exporter.from_notebook_node(slides)[0], encoding="utf-8")
            listed[f"{language}/{target.name}"] = slides.metadata.title
    shared(folder / "assets")
    page = '<!DOCTYPE html>\n<meta charset="utf-8">\n<title>Slides</title>\n<ul>\n'
    page += "".join(f'<li><a href="{link}">{title}</a></li>\n' for link, title in listed.items())
    (folder / "index.html").write_text(f"{page}</ul>\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "slides", help="default: build/slides")
    build(folder := parser.parse_args().folder.resolve())
    print(f"slides: {folder}/index.html (arrow keys move, S opens the speaker's view, F fills the screen)")


if __name__ == "__main__":
    main()
