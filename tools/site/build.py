"""Build the site in both languages out of the stored notebooks and docs/, with a search index for each.

    python -m tools.site.build              into build/site/
    python -m tools.site.build FOLDER

Nothing is executed and nothing is fetched.  Every docs/NAME.md with its docs/NAME.vi.md is a page, and
every stored notebook; their links, written for the repository, are turned into links of the site.
"""

import functools
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from inspect import isclass, ismodule, isroutine
from itertools import compress
from pathlib import Path
from urllib.parse import unquote

import nbformat
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from sphinx.cmd.build import build_main as sphinx

from tools import glossary
from tools.course import LANGUAGES, ROOT, folder_named, on_colab, read_address
from tools.execute import opened, pictures, seen_in
from tools.site import WORDS, predictions, vectors
from tools.standalone import write as write_standalone

HERE = Path(__file__).resolve().parent
# The navigation: a caption (see words.toml), and what stands under it.  The notebooks come first; Sphinx
# names a page that does not stand here.
NAVIGATION = {
    "learning": ("explorer", "start", "teaching", "predictions", "classroom"),
    "measurements": ("performance", "scale"),
    "reference": ("source", "glossary", "references", "api", "contributing", "models", "gpt2"),
}
FOLDED = ("solution", "setup")  # tags of cells that are closed at first
WIDE = 600  # pixels: a figure that a phone shows smaller than it is
CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
NO_TERMS = re.compile(
    r"(```.*?```|`[^`\n]+`|\$[^$]*\$|!?\[[^\]]*\]\([^)]*\)|^#.*?$|<[^>]*>|^- [^\n]*arxiv\.org[^\n]*$)",
    re.DOTALL | re.MULTILINE,
)
MODULES = re.compile(r"^<!-- modules: (.*) -->$", re.MULTILINE)
LINK = re.compile(r"\]\(([^()\s]+)\)")


def find_pages():
    """{language: {file in the repository: name of the page}}; a page has the same name in both languages."""
    pages = {language: {} for language in LANGUAGES}
    for path in sorted([*(ROOT / "docs").glob("*.md"), *HERE.glob("*.md"), *ROOT.glob("CONTRIBUTING*.md")]):
        name = path.name.removesuffix(".md")
        pages["vi" if name.endswith(".vi") else "en"][path] = name.removesuffix(".vi").lower()
    for language in LANGUAGES:
        notebooks = sorted((ROOT / "notebooks" / language).glob("[0-9][0-9]_*.ipynb"))
        pages[language] |= {path: path.stem for path in notebooks}
    alone = set(pages["vi"].values()) ^ set(pages["en"].values())
    if alone:
        raise ValueError(f"in one language only: {', '.join(sorted(alone))}; write the other one (make build)")
    return pages


def relink(text, page, language, pages, tree):
    """Markdown of the file `page` with its links into the repository turned into links of the site."""
    link = functools.partial(on_the_site, page=page, language=language, pages=pages, tree=tree)
    parts = CODE.split(text)
    parts[::2] = [LINK.sub(lambda match: f"]({link(match[1])})", part) for part in parts[::2]]
    return "".join(parts)


def on_the_site(address, page, language, pages, tree):
    """What stands on the site for an address in the file `page`; a file that is no page is copied into `tree`."""
    target, hash_, anchor = address.partition("#")
    path = (page.parent / unquote(target)).resolve()
    if not target or ":" in target or not path.exists() or not path.is_relative_to(ROOT):
        return address
    place = path.relative_to(ROOT).as_posix()
    if path in pages[language]:
        return f"{pages[language][path]}{path.suffix}{hash_}{anchor}"
    for other in LANGUAGES:
        if path in pages[other]:
            return f"site:{other}/{pages[other][path]}.html"
    if path.is_dir() or path.name.startswith("README"):
        return f"repo:{place}"
    copy = tree / "files" / place  # a picture, or a file to download
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)
    return f"files/{place}"


def page_text(path, language):
    """Text of a page with its docstrings, without the line that links to the other language: the site has a switch."""
    text = path.read_text(encoding="utf-8")
    if path.name.startswith("glossary"):
        text = re.sub(
            r"^\| \*\*(.+?)\*\*",
            lambda row: f'| <span id="{place_of(row[1])}">**{row[1]}**</span>',
            text,
            flags=re.MULTILINE,
        )
    lines = text.splitlines()
    stem = path.name.removesuffix(".md").removesuffix(".vi")
    if len(lines) > 2 and f"({stem}.{'vi.' * (language == 'en')}md)" in lines[2]:
        del lines[2]
    return MODULES.sub(lambda found: "\n".join(map(described, found[1].split())), "\n".join(lines) + "\n")


def described(name):
    """A module and the members that it defines; asked for all, autodoc reads the sources of imported ones first."""
    found = [(key, value) for key, value in vars(import_module(name)).items() if key[0] != "_"]
    others = [key for key, value in found if (isclass(value) or isroutine(value)) and value.__module__ != name]
    own = ", ".join(key for key, value in found if key not in others and not ismodule(value))
    return f"### {name.replace('.', '.<wbr>')}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members: {own}\n```\n"


def notebook_for_the_site(path, language, **where):
    """A stored notebook without its lines of links (the site has its own), solutions and set-up folded."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not cell.id.startswith("links-")]
    predictions.ask(notebook, path.stem)
    terms = dict(glossary_links(language))  # those not yet met
    for cell, below in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if cell.cell_type == "markdown":
            cell.source = relink(link_terms(cell.source, terms), path, language, **where)
            continue
        tags = cell.metadata.get("tags", [])
        settings = {}
        for tag in {*FOLDED} & {*tags}:
            cell.metadata["tags"] = [*tags, "hide-input"]
            settings |= {f"code_prompt_{do}": WORDS[language][f"{tag}_{do}"] for do in ("show", "hide")}
        for figure in pictures(cell):
            wide = {"classes": "wide"} if opened(figure).width > WIDE else {}
            settings["image"] = {"alt": read_by(figure, below)} | wide
        if settings:
            cell.metadata["mystnb"] = settings
    return notebook


def read_by(picture, below):
    """What a figure shows, for those who cannot see it: its own description, and how the text below it reads it."""
    reading = below.source.split("\n")[0] if below and below.cell_type == "markdown" else ""
    return f"{seen_in(picture)} {'' if reading.startswith('#') else re.sub(r'[*$`]', '', reading)}".strip()


@functools.cache
def glossary_links(language):
    """{a pattern of a term where a text introduces it: its place on the page of the glossary}."""
    found = {}
    for term in glossary.terms(glossary.load()):
        name, english = re.escape(term[language]), re.escape(term["en"])
        first = rf"\*\*{name}\*\*|\b{name}(?= \({english}\))" if language == "vi" else rf"\b{name}\b"
        if language == "vi" or term.get("first"):
            found[re.compile(first, re.IGNORECASE)] = place_of(term[language])
    return found


def place_of(term):
    """The id of a term on the page of the glossary."""
    return "term-" + re.sub(r"\W+", "-", term.lower())


def link_terms(text, terms):
    """Markdown in which the first mention of each of `terms` leads to the glossary; it is then taken out of them."""
    parts = NO_TERMS.split(text)
    for pattern in list(terms):
        for i in range(0, len(parts), 2):
            link = rf'<a class="term" href="glossary.html#{terms[pattern]}">\g<0></a>'
            parts[i], n = pattern.subn(link, parts[i], 1)
            if n:
                del terms[pattern]
                break
    return "".join(parts)


def share_picture(language, front):
    """What stands beside a shared link, 1200 x 630 pixels: the question that heads the first page, and the smile."""
    title = front.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    card = Image.new("RGB", (1200, 630), "white")
    figure = Image.open(ROOT / "docs" / "images" / f"04_cosine_smile-{language}.png").convert("RGB")
    figure.thumbnail((1120, 500), Image.Resampling.LANCZOS)
    card.paste(figure, ((1200 - figure.width) // 2, 110))
    font = ImageFont.truetype(findfont("DejaVu Sans:bold"), 54)
    ImageDraw.Draw(card).text((600, 60), title, fill="black", font=font, anchor="mm")
    return card


def contents(language, pages):
    """The table of contents at the end of the first page; the navigation is made of it."""
    notebooks = [name for path, name in pages[language].items() if path.suffix == ".ipynb"]
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {WORDS[language][key]}\n\n" + "\n".join(names) + "\n```\n"
        for key, names in {"notebooks": notebooks, **NAVIGATION}.items()
    )


def assemble(language, pages, tree):
    """All pages of one language side by side in the folder `tree`, as Sphinx reads them."""
    tree.mkdir(parents=True)
    shutil.copytree(HERE / "locale", tree / "locale")
    notebooks = []
    for path, name in pages[language].items():
        if path.suffix == ".ipynb":
            notebooks.append(notebook_for_the_site(path, language, pages=pages, tree=tree))
            nbformat.write(notebooks[-1], tree / f"{name}.ipynb")
        else:
            text = relink(page_text(path, language), path, language, pages, tree)
            text += contents(language, pages) if name == "index" else ""
            (tree / f"{name}.md").write_text(text, encoding="utf-8")
    (tree / "predictions.md").write_text(predictions.sheet(notebooks, language), encoding="utf-8")


def index_for_search(folder):
    """Pagefind's index of the pages in `folder`, put beside them."""
    options = ["--site", folder, "--output-path", folder / "pagefind", "--exclude-selectors", ".headerlink"]
    subprocess.run([sys.executable, "-m", "pagefind", *options, "--keep-index-url", "--silent"], check=True)
    for unused in ("ui", "modular-ui", "highlight"):
        for path in (folder / "pagefind").glob(f"pagefind-{unused}.*"):
            path.unlink()


def where_published():
    """Sphinx's options for what templates/page.html and extension.py link to; empty while [tool.qkv] has no address."""
    address = read_address()
    known = {kind: f"{address.repository}/{kind}/{address.branch}" for kind in ("tree", "blob")}
    known["colab"] = on_colab(address, "")
    owner, _, name = address.repository.removeprefix("https://github.com/").partition("/")
    known["published"] = f"https://{owner.lower()}.github.io/{name}/"
    return [f"-A{name}={value if address.repository else ''}" for name, value in known.items()]


def build(folder):
    """Write the site into `folder`; what was there before is removed."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "vi").is_dir():
        raise ValueError(f"{folder} holds something else than a site: name an empty folder")
    pages, published = find_pages(), where_published()
    with tempfile.TemporaryDirectory() as temporary:
        commands = []
        for language in LANGUAGES:
            here = Path(temporary) / language
            assemble(language, pages, here / "pages")
            options = ["-q", "-W", "--keep-going", "-c", HERE, "-t", language, "-d", here / "doctrees", *published]
            commands.append([*map(str, ["-b", "html", *options, here / "pages", here / "html"])])
        with ProcessPoolExecutor() as workers:  # forked, where that can be: what autodoc reads is imported
            failed = [*compress(LANGUAGES, workers.map(sphinx, commands))]
        if failed:
            raise ValueError(f"Sphinx found something wrong ({', '.join(failed)}): see the warnings above")
        shutil.rmtree(folder, ignore_errors=True)
        for language in LANGUAGES:
            shutil.copytree(Path(temporary) / language / "html", folder / language)
            index_for_search(folder / language)
            (front,) = (path for path, name in pages[language].items() if name == "index")
            share_picture(language, front).save(folder / f"share-{language}.png")
    write_standalone(folder)  # to download: they run alone
    vectors.write(folder / "explorer")
    shutil.copyfile(HERE / "front.html", folder / "index.html")


def main():
    folder = folder_named(__doc__, "site")
    try:
        build(folder)
    except ValueError as error:
        sys.exit(str(error))
    print(f"look at it:  {Path(sys.executable).name} -m http.server -d {folder} --bind 127.0.0.1 8000")


if __name__ == "__main__":
    main()
