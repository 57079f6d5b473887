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
import ast
import importlib.util
import math
import re
import shutil
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from nbconvert import SlidesExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from tools.course import LANGUAGES, ROOT, sources, stored

FOLDER = ROOT / "build" / "slides"
WIDTH, HEIGHT = 1280, 720
MOST_CODE = 12  # lines of source that are shown
MOST_LINES = 16  # of text on a slide, each of
LINE = 78  # characters
MOST_FIXED, FIXED_LINE = 19, 100  # the same for code and what it prints
PREDICTION = ("**Dự đoán", "**Predict")
DETAILS = re.compile(r"^<details>.*?^</details>$", re.MULTILINE | re.DOTALL)

DECK = """\
{%- extends 'reveal/base.html.j2' -%}
{%- block header -%}
<!DOCTYPE html>
<html lang="{{ resources.language_code }}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ nb.metadata.title | escape_html }}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="../assets/reveal/reveal.css">
<link rel="stylesheet" href="../assets/deck.css">
<script>
window.MathJax = {
  tex: {inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]], displayMath: [["$$", "$$"], ["\\\\[", "\\\\]"]], processEscapes: true},
  options: {enableMenu: false}
};
</script>
<script defer src="../assets/mathjax/tex-svg-full.js"></script>
</head>
{%- endblock header -%}
{%- block body_header -%}
<body>
<div class="reveal">
<div class="slides">
{%- endblock body_header -%}
{%- block body_footer -%}
</div>
</div>
<script src="../assets/reveal/reveal.js"></script>
<script src="../assets/reveal/notes.js"></script>
<script>
Reveal.initialize({
  width: SIZE_X, height: SIZE_Y, margin: 0, center: false, hash: true, slideNumber: "c/t", transition: "none",
  plugins: [RevealNotes]
});
</script>
</body>
{%- endblock body_footer -%}
{%- block footer -%}
</html>
{%- endblock footer -%}
""".replace("SIZE_X", str(WIDTH)).replace("SIZE_Y", str(HEIGHT))

CSS = """\
html, body { margin: 0; height: 100%; background: #fff; }
.reveal { color: #222; font: 24px/1.38 "Noto Sans", "Segoe UI", "Helvetica Neue", "Liberation Sans", Arial,
  "DejaVu Sans", sans-serif; }
.reveal .slides { text-align: left; }
.reveal .slides > section, .reveal .slides > section > section { padding: 0; }
.reveal .slides > section > section, .reveal .slides > section:not(.stack) { box-sizing: border-box;
  padding: 34px 50px 30px; max-height: 720px; overflow-y: auto; }
.reveal h1 { font-size: 44px; line-height: 1.2; margin: 0 0 24px; color: #1b4f72; }
.reveal h2 { font-size: 36px; line-height: 1.2; margin: 0 0 20px; color: #1b4f72; }
.reveal h3 { font-size: 29px; line-height: 1.2; margin: 0 0 16px; color: #1b4f72; }
.reveal p, .reveal ul, .reveal ol, .reveal table { margin: 0 0 14px; }
.reveal li { margin-bottom: 4px; }
.reveal a { color: #1b6ca8; }
.reveal table { border-collapse: collapse; font-size: 20px; }
.reveal th, .reveal td { border-bottom: 1px solid #ccc; padding: 4px 12px; text-align: left; }
.reveal code { font-family: "DejaVu Sans Mono", "Noto Sans Mono", Consolas, monospace; font-size: .86em;
  background: #f3f4f6; padding: 0 3px; }
.reveal pre { font: 18px/1.3 "DejaVu Sans Mono", "Noto Sans Mono", Consolas, monospace; margin: 0 0 12px;
  padding: 10px 14px; white-space: pre-wrap; overflow-wrap: anywhere; }
.reveal .highlight pre { background: #f3f4f6; }
.reveal .jp-OutputArea-output pre { border-left: 4px solid #c8d3dc; }
.reveal .jp-OutputPrompt, .reveal .jp-InputPrompt, .reveal .anchor-link { display: none; }
.reveal .slide-number { right: auto; left: 8px; }
.reveal img { display: block; margin: 0 auto; max-width: 1180px; max-height: 600px; }
.reveal .prediction { font-size: 32px; padding-top: 110px; }
.reveal .running { font-size: 17px; color: #6b7780; margin-bottom: 14px; }
.reveal .running p { margin: 0; }
"""


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
    return ["\n".join(lines) for lines in found if lines]


def height(block):
    """Lines that a block takes on a slide, with the space below it."""
    if re.match(r"#+ ", block):
        return 2.2 * math.ceil(len(block) / 55)
    if block.startswith("$$"):
        return 3.5
    if block.startswith("|"):
        return 1.2 * sum(math.ceil(len(line) / (1.1 * LINE)) for line in block.splitlines()) + 0.5
    return sum(math.ceil(visible(line) / LINE) for line in block.splitlines()) + 0.6


def visible(line):
    """Characters of a line, without the commands of its formulas."""
    return len(re.sub(r"\\[a-zA-Z]+|[{}$*]", "", line))


def split(block):
    """Parts of a block that fit on a slide: a list between its points, a paragraph between its sentences."""
    if height(block) <= MOST_LINES or block.startswith(("$$", "```", "|")):
        return [block]
    points = re.split(r"\n(?=\s*(?:[-*]|\d+\.) )", block)
    joint, points = ("\n", points) if len(points) > 1 else (" ", re.split(r"(?<=[.?!]) (?=\w)", block))
    parts = []
    for point in points:
        if parts and height(parts[-1] + joint + point) <= MOST_LINES - 3:
            parts[-1] += joint + point
        else:
            parts.append(point)
    return parts


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


def fixed(text):
    """Lines of code or printed text on a slide, long ones wrapped."""
    return sum(max(1, math.ceil(len(line) / FIXED_LINE)) for line in text.splitlines())


def left_out(cell):
    """Whether a cell has no place on the slides."""
    tags = cell.metadata.get("tags", [])
    if cell.id.startswith("links-") or {"setup", "solution"} & set(tags):
        return True
    if cell.cell_type != "code":
        return False
    imports = all(isinstance(statement, ast.Import | ast.ImportFrom) for statement in ast.parse(cell.source).body)
    return imports or cell.source.endswith(".widget")


def code(cell):
    """What is shown of a code cell: its source, then what it printed, then its figures."""
    shown = cell.source if len(cell.source.splitlines()) <= MOST_CODE else ""
    outputs = [] if "exercise" in cell.metadata.get("tags", []) else cell.outputs
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    printed = [output for output in outputs if output not in figures]
    words = "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in printed)
    for figure in figures:
        figure.data.pop("text/plain", None)
    together = shown and printed and fixed(shown) + fixed(words) <= MOST_FIXED
    pieces = [("subslide", shown, []), ("fragment" if together else "subslide", "", printed)]
    pieces += [("subslide", "", [figure]) for figure in figures]
    cells = []
    for kind, source, seen in pieces:
        if source or seen:
            metadata = {"slideshow": {"slide_type": kind}, "tags": [] if source else ["no-source"]}
            cells.append(new_code_cell(source, outputs=seen, execution_count=1, metadata=metadata))
    return cells


def deck(notebook):
    """The notebook of the slides: cells with slide metadata for nbconvert."""
    cells, section = [], ""
    for cell in notebook.cells:
        if left_out(cell):
            continue
        for part in words(cell) if cell.cell_type == "markdown" else code(cell):
            heading = re.match(r"##? (.*)", part.source) if part.cell_type == "markdown" else None
            if heading:
                section = re.sub(r"^(\d+)\.", r"\1\.", heading[1])  # a number, not a list
            elif part.metadata.slideshow.slide_type == "subslide" and not part.source.startswith("### "):
                cells.append(text_cell(f'<div class="running">\n\n{section}\n\n</div>', "subslide"))
                part.metadata.slideshow.slide_type = "-"  # stands below the name of its section
            cells.append(part)
    title = re.match(r"# (.*)", cells[0].source)[1]
    return new_notebook(cells=cells, metadata={**notebook.metadata, "title": title})


def words(cell):
    """The cells of a text, one for a slide."""
    for kind, text in texts(cell.source):
        if text.startswith(PREDICTION):
            text = f'<div class="prediction">\n\n{text}\n\n</div>'
        yield text_cell(text, kind)


def text_cell(text, kind):
    return new_markdown_cell(text, metadata={"slideshow": {"slide_type": kind}})


def shared(folder):
    """Copy what all decks share: reveal.js (MIT) and MathJax (Apache-2.0), out of the packages that carry them."""

    def package(name):
        found = importlib.util.find_spec(name)
        if found is None:
            raise ModuleNotFoundError(f'the package {name} is missing: pip install -e ".[site]" (make does it)')
        return Path(found.origin).parent

    reveal = package("sphinx_revealjs") / "_static" / "revealjs"
    mathjax = package("sphinx-mathjax-offline") / "static" / "mathjax"
    copied = {
        reveal / "dist" / "reveal.js": "reveal/reveal.js",
        reveal / "dist" / "reveal.css": "reveal/reveal.css",
        reveal / "plugin" / "notes" / "notes.js": "reveal/notes.js",
        reveal / "LICENSE": "reveal/LICENSE",
        mathjax / "tex-svg-full.js": "mathjax/tex-svg-full.js",
    }
    for source, name in copied.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / name)
    (folder / "mathjax" / "README").write_text("MathJax 3, Apache License 2.0, https://www.mathjax.org\n")
    (folder / "deck.css").write_text(CSS + HtmlFormatter(style="default").get_style_defs(".reveal .highlight") + "\n")


def build(folder):
    """Write all decks, and a page that lists them."""
    settings = Config()
    settings.TagRemovePreprocessor.enabled = True
    settings.TagRemovePreprocessor.remove_input_tags = {"no-source"}
    listed = {}
    for language in LANGUAGES:
        exporter = SlidesExporter(
            config=settings,
            extra_loaders=[DictLoader({"deck.html.j2": DECK})],
            template_file="deck.html.j2",
            language_code=language,
            exclude_input_prompt=True,
            exclude_output_prompt=True,
        )
        for path in sources():
            slides = deck(nbformat.read(stored(path, language), as_version=4))
            target = folder / language / f"{path.stem}.html"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(exporter.from_notebook_node(slides)[0], encoding="utf-8")
            listed[f"{language}/{target.name}"] = slides.metadata.title
    shared(folder / "assets")
    lines = "\n".join(f'<li><a href="{link}">{title}</a></li>' for link, title in listed.items())
    page = f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>Slides</title>\n<ul>\n{lines}\n</ul>\n'
    (folder / "index.html").write_text(page, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="default: build/slides")
    folder = parser.parse_args().folder.resolve()
    build(folder)
    print(f"slides: {folder}/index.html (arrow keys move, S opens the speaker's view, F fills the screen)")


if __name__ == "__main__":
    main()
