"""The sources of the notebooks, the notebooks that they give, and the address where all is published.

A source is a percent-format script.  Markdown cells are tagged lang="vi" or lang="en" and stand in
pairs; code cells are shared, but for the argument of `set_language`.  The cell tagged "setup" is
replaced by source/setup_cell.py.  The address of the repository stands in pyproject.toml, [tool.qkv].
"""

import argparse
import ast
import functools
import hashlib
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import jupytext
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PYPROJECT = ROOT / "pyproject.toml"
SETUP_CELL = NOTEBOOKS / "source" / "setup_cell.py"
WORDS = tomllib.loads((ROOT / "tools" / "templates" / "words.toml").read_text(encoding="utf-8"))
LANGUAGES = {language: words["name"] for language, words in WORDS.items()}
LANGUAGE_LINE = re.compile(r'set_language\("\w+"\)')
STAND_IN = ["from helpers import set_language", 'set_language("vi")']  # for the first cell, in a source
ADDRESS_LINE = re.compile(r"^REPOSITORY, BRANCH = .*$", re.MULTILINE)
REPOSITORY_FORM = r"(https://github\.com/[A-Za-z0-9-]+/[\w.-]+(?<!\.git))?"
BADGES = re.compile(r"(<!-- badges.*? -->\n).*?(?=<!-- /badges -->)", re.DOTALL)
PREDICTION = tuple(words["predict"] for words in WORDS.values())
README_FIGURE = "readme-figure"  # the figure of this cell is shown in the README
KEPT_TAGS = ("exercise", "solution", "setup", "nbval-ignore-output", README_FIGURE)


class Address(NamedTuple):
    """Where the repository is published; "" while it is not."""

    repository: str
    branch: str


def read_address():
    """The address in pyproject.toml, [tool.qkv].

    Raises:
        ValueError: it is none that the first cell, the badges and the site can use.
    """
    stated = tomllib.loads(PYPROJECT.read_text(encoding="utf-8")).get("tool", {}).get("qkv", {})
    address = Address(stated.get("repository", ""), stated.get("branch", "main"))
    for name, form, expected in (
        ("repository", REPOSITORY_FORM, '"https://github.com/NAME/REPO" (no .git), or "" while there is none'),
        ("branch", r"[\w.][\w.-]*", 'letters, digits, dots, hyphens and underscores, such as "main"'),
    ):
        value = getattr(address, name)
        if not isinstance(value, str) or not re.fullmatch(form, value, re.ASCII):
            raise ValueError(f"pyproject.toml, [tool.qkv]: {name} is {value!r}; expected {expected}")
    return address


def only_imports(source):
    """Whether a code cell does nothing but import."""
    try:
        return all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(source).body)
    except SyntaxError:  # a magic
        return False


def sources(prefix=""):
    return sorted(path for path in (NOTEBOOKS / "source").glob("[0-9][0-9]_*.py") if path.name.startswith(prefix))


@functools.cache
def _cells(text):
    return jupytext.reads(text, fmt="py:percent").cells


def read_pairs(path):
    """Cells of a source as ("code", cell) or ("text", {"vi": ..., "en": ...}), in order.

    Raises:
        ValueError: a text without its partner, a code cell that is empty, has an unknown tag, or would be lost when
            the first cell is put in; with the place.
    """
    pairs, cells = [], enumerate(_cells(path.read_text(encoding="utf-8")), start=1)
    for number, cell in cells:
        where = f"{path.name}, cell {number} ({cell.source.strip()[:40]!r})"
        tags = set(cell.metadata.get("tags", []))
        if cell.cell_type == "markdown":
            _, partner = next(cells, (None, None))
            both = [text for text in (cell, partner) if text and text.cell_type == "markdown"]
            pair = {text.metadata.get("lang"): text.source for text in both}
            if pair.keys() != LANGUAGES.keys():
                raise ValueError(f'{where}: expected a text with lang="vi" and one with lang="en", got {list(pair)}')
            pairs.append(("text", pair))
            continue
        if tags - set(KEPT_TAGS) or not cell.source.strip():
            raise ValueError(f"{where}: empty code cell or unknown tags {sorted(tags - set(KEPT_TAGS))}")
        lines = [line for line in cell.source.splitlines() if line and not line.startswith("#")]
        if "setup" in tags and lines != STAND_IN:
            raise ValueError(f"{where}: setup_cell.py takes the place of this cell; expected no more than {STAND_IN}")
        pairs.append(("code", cell))
    return pairs


def texts(path, language):
    """The Markdown texts of a source in one language."""
    return [content[language] for kind, content in read_pairs(path) if kind == "text"]


def assemble(path, language):
    """The notebook of one source in one language, not executed."""
    top = "\n\n".join(filter(None, [links(path, language), addressed("colab", path, language)]))
    cells, seen = [new_markdown_cell(top, id="links-top")], Counter()
    for kind, content in read_pairs(path):
        if kind == "text":
            cells.append(new_markdown_cell(content[language], id=identity(content[language], seen)))
            continue
        tags = list(content.metadata.get("tags", []))
        if "setup" in tags:
            cell = new_code_cell(setup_cell(language), id="setup")
            tags.append("nbval-ignore-output")  # it names the versions and the device
        else:
            source = LANGUAGE_LINE.sub(f'set_language("{language}")', content.source)
            cell = new_code_cell(source, id=identity(content.source, seen))
        if tags:
            cell.metadata["tags"] = tags
        if {"setup", "solution"} & set(tags):  # folded in JupyterLab and in Colab
            cell.metadata["jupyter"] = {"source_hidden": True}
            cell.metadata["cellView"] = "form"
        cells.append(cell)
    cells.append(new_markdown_cell(links(path, language), id="links-bottom"))
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def identity(text, seen):
    """A cell id that depends on the content alone, so that it stays when nothing changed; counted in `seen`."""
    seen[text] += 1
    return hashlib.sha256(f"{text}{seen[text] - 1}".encode()).hexdigest()[:12]


def links(path, language):
    """A menu of all notebooks, the neighbours at its ends, the same notebook in the other language, the glossary."""
    names = [source.stem for source in sources()]
    at = names.index(path.stem)
    parts = [f"[← {name[:2]}]({name}.ipynb)" for name in names[:at][-1:]]
    parts += [f"[{name[:2]}]({name}.ipynb)" if name != path.stem else f"**{name[:2]}**" for name in names]
    parts += [f"[{name[:2]} →]({name}.ipynb)" for name in names[at + 1 :][:1]]
    parts += [f"[{name}](../{other}/{path.stem}.ipynb)" for other, name in LANGUAGES.items() if other != language]
    return " · ".join([*parts, WORDS[language]["glossary"]])


def setup_cell(language):
    """The first code cell of every notebook: it finds `helpers`, or fetches the module if it has an address."""
    repository, branch = read_address()
    line = f'REPOSITORY, BRANCH = "{repository}", "{branch}"  # pyproject.toml, [tool.qkv]'
    text = ADDRESS_LINE.sub(lambda _: line, SETUP_CELL.read_text(encoding="utf-8").strip())
    return LANGUAGE_LINE.sub(f'set_language("{language}")', text)


def on_colab(address, notebook):
    """The address that opens a notebook, a path in the repository, in Colab."""
    name = address.repository.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{name}/blob/{address.branch}/{notebook}"


def addressed(kind, path, language):
    """The "colab" link or the "badges" of words.toml for one notebook; "" without an address.

    The link is text, for the site asks no other host.  The badges are Colab's, Binder's and those of the fork's tests.
    """
    address = read_address()
    if not address.repository:
        return ""
    notebook = f"notebooks/{language}/{path.stem}.ipynb"
    name = address.repository.removeprefix("https://github.com/")
    return WORDS[language][kind].format(
        colab=on_colab(address, notebook),
        binder=f"https://mybinder.org/v2/gh/{name}/{address.branch}?urlpath=lab/tree/{notebook}",
        tests=f"{address.repository}/actions/workflows/ci.yml",
        branch=address.branch,
    )


def readmes():
    """{path of a README: its text with the badge line of the address}."""
    wanted = {}
    for name, language in (("README.md", "en"), ("README.vi.md", "vi")):
        path, line = ROOT / name, addressed("badges", sources()[0], language)
        parts = BADGES.split(path.read_text(encoding="utf-8"))
        if len(parts) != 3:
            raise ValueError(f"{name}: expected one line <!-- badges --> and after it <!-- /badges -->")
        wanted[path] = "".join([parts[0], parts[1], f"\n{line}\n\n" if line else "", parts[2]])
    return wanted


def folder_named(doc, name):
    """The folder that the command line names, else build/NAME."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / name, help=f"default: build/{name}")
    return parser.parse_args().folder.resolve()


def stored(path, language):
    return NOTEBOOKS / language / f"{path.stem}.ipynb"
