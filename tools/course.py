"""The sources of the notebooks, the notebooks that they give, and the address where all is published.

A source is a percent-format script.  Markdown cells are tagged lang="vi" or lang="en" and stand in
pairs; code cells are shared, but for the argument of `set_language`.  The cell tagged "setup" is
replaced by source/setup_cell.py.  The address of the repository stands in pyproject.toml, [tool.qkv].
"""

import hashlib
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import jupytext
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PYPROJECT = ROOT / "pyproject.toml"
SETUP_CELL = NOTEBOOKS / "source" / "setup_cell.py"
LANGUAGES = {"vi": "Tiếng Việt", "en": "English"}
LANGUAGE_LINE = re.compile(r'set_language\("\w+"\)')
STAND_IN = ["from helpers import set_language", 'set_language("vi")']  # for the first cell, in a source
ADDRESS_LINE = re.compile(r"^REPOSITORY, BRANCH = .*$", re.MULTILINE)
BADGES = re.compile(r"(<!-- badges.*? -->\n).*?(?=<!-- /badges -->)", re.DOTALL)
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
    form = r"(https://github\.com/[A-Za-z0-9-]+/[A-Za-z0-9._-]+(?<!\.git))?"
    if not isinstance(address.repository, str) or not re.fullmatch(form, address.repository):
        raise ValueError(
            f'pyproject.toml, [tool.qkv]: repository is {address.repository!r}; expected "https://github.com/NAME/REPO" '
            '(nothing before or after it, no .git), or "" while there is none'
        )
    if not isinstance(address.branch, str) or not re.fullmatch(r"[A-Za-z0-9._][A-Za-z0-9._-]*", address.branch):
        raise ValueError(
            f"pyproject.toml, [tool.qkv]: branch is {address.branch!r}; expected a name of letters, digits, dots, "
            'hyphens and underscores, such as "main"'
        )
    return address


def sources(prefix=""):
    return sorted(path for path in (NOTEBOOKS / "source").glob("[0-9][0-9]_*.py") if path.name.startswith(prefix))


def read_pairs(path):
    """Cells of a source as ("code", cell) or ("text", {"vi": ..., "en": ...}), in order."""
    pairs, waiting = [], None
    for number, cell in enumerate(jupytext.read(path, fmt="py:percent").cells, start=1):
        where = f"{path.name}, cell {number} ({cell.source.strip()[:40]!r})"
        if cell.cell_type == "code":
            if waiting:
                raise ValueError(f"{where}: the {waiting} text before it has no partner in the other language")
            tags = set(cell.metadata.get("tags", []))
            unknown = tags - set(KEPT_TAGS)
            if unknown or not cell.source.strip():
                raise ValueError(f"{where}: empty code cell or unknown tags {sorted(unknown)}")
            lines = [line for line in cell.source.splitlines() if line and not line.startswith("#")]
            if "setup" in tags and lines != STAND_IN:
                raise ValueError(
                    f"{where}: setup_cell.py takes the place of this cell; expected no more than {STAND_IN}"
                )
            pairs.append(("code", cell))
            continue
        language = cell.metadata.get("lang")
        if language not in LANGUAGES:
            raise ValueError(f'{where}: a markdown cell needs lang="vi" or lang="en", got {language!r}')
        if waiting is None:
            pairs.append(("text", {language: cell.source}))
            waiting = language
        elif language == waiting:
            raise ValueError(f"{where}: two {language} texts in a row; the first has no partner")
        else:
            pairs[-1][1][language] = cell.source
            waiting = None
    if waiting:
        raise ValueError(f"{path.name}: the last text, {waiting}, has no partner in the other language")
    return pairs


def assemble(path, language):
    """The notebook of one source in one language, not executed."""
    seen = set()

    def identity(text):
        """An id that depends on the content alone, so that it stays when nothing changed."""
        tries = (hashlib.sha256(f"{text}{n}".encode()).hexdigest()[:12] for n in range(1000))
        fresh = next(name for name in tries if name not in seen)
        seen.add(fresh)
        return fresh

    top = "\n\n".join(filter(None, [links(path, language), colab_link(path, language)]))
    cells = [new_markdown_cell(top, id="links-top")]
    for kind, content in read_pairs(path):
        if kind == "text":
            cells.append(new_markdown_cell(content[language], id=identity(content[language])))
            continue
        tags = list(content.metadata.get("tags", []))
        if "setup" in tags:
            cell = new_code_cell(setup_cell(language), id="setup")
            tags.append("nbval-ignore-output")  # it names the versions and the device
        else:
            source = LANGUAGE_LINE.sub(f'set_language("{language}")', content.source)
            cell = new_code_cell(source, id=identity(content.source))
        if tags:
            cell.metadata["tags"] = tags
        if {"setup", "solution"} & set(tags):  # folded in JupyterLab and in Colab
            cell.metadata["jupyter"] = {"source_hidden": True}
            cell.metadata["cellView"] = "form"
        cells.append(cell)
    cells.append(new_markdown_cell(links(path, language), id="links-bottom"))
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def links(path, language):
    """A menu of all notebooks, the neighbours at its ends, the same notebook in the other language, the glossary."""
    names = [source.stem for source in sources()]
    at = names.index(path.stem)
    other = next(name for name in LANGUAGES if name != language)
    parts = [f"[{name[:2]}]({name}.ipynb)" if name != path.stem else f"**{name[:2]}**" for name in names]
    if at > 0:
        parts.insert(0, f"[← {names[at - 1][:2]}]({names[at - 1]}.ipynb)")
    if at + 1 < len(names):
        parts.append(f"[{names[at + 1][:2]} →]({names[at + 1]}.ipynb)")
    parts.append(f"[{LANGUAGES[other]}](../{other}/{path.stem}.ipynb)")
    glossary = {"vi": "[thuật ngữ](../../docs/glossary.vi.md)", "en": "[glossary](../../docs/glossary.md)"}[language]
    return " · ".join([*parts, glossary])


# How long a reader takes.  An estimate: no reader was timed; docs/teaching.md says where it comes from.
WORDS_PER_MINUTE = 120
CODE_LINES_PER_MINUTE = 10
MINUTES_EACH = {"exercises": 8, "predictions": 1, "figures": 1, "questions": 1}


def workload(path):
    """What a reader of one notebook meets, counted in the English text and the shared code.

    Not counted: the references, the setup cell, the cells of imports, and the solutions.
    """
    pairs = read_pairs(path)
    text = "\n".join(content["en"] for kind, content in pairs if kind == "text").split("\n## References")[0]
    cells = [cell for kind, cell in pairs if kind == "code" and not {"setup", "solution"} & _tags(cell)]
    code = [cell.source for cell in cells if not cell.source.startswith(("import ", "from "))]
    questions = text.partition("\n## Check yourself")[2].partition("<details>")[0]
    return {
        "words": len(text.split()),
        "lines of code": sum(bool(line.strip()) for source in code for line in source.splitlines()),
        "exercises": sum("exercise" in _tags(cell) for cell in cells),
        "predictions": text.count("**Predict"),
        "figures": sum(bool(re.search(r"^figure\w* = |^explorer\.figure", source, re.MULTILINE)) for source in code),
        "questions": len(re.findall(r"^\d\. ", questions, re.MULTILINE)),
    }


def _tags(cell):
    return set(cell.metadata.get("tags", []))


def working_minutes(path):
    """Minutes of reading, predicting, exercises and self-check questions, by rule; the computer's time is extra."""
    load = workload(path)
    reading = load["words"] / WORDS_PER_MINUTE + load["lines of code"] / CODE_LINES_PER_MINUTE
    return reading + sum(minutes * load[what] for what, minutes in MINUTES_EACH.items())


def setup_cell(language, address=None):
    """The first code cell of every notebook: it finds `helpers`, or fetches the module if it has an address."""
    address = address or read_address()
    line = f'REPOSITORY, BRANCH = "{address.repository}", "{address.branch}"  # pyproject.toml, [tool.qkv]'
    text = ADDRESS_LINE.sub(lambda _: line, SETUP_CELL.read_text(encoding="utf-8").strip())
    return LANGUAGE_LINE.sub(f'set_language("{language}")', text)


def on_colab(address, notebook):
    """The address that opens a notebook, a path in the repository, in Colab."""
    name = address.repository.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{name}/blob/{address.branch}/{notebook}"


def colab_link(path, language):
    """One line that opens this notebook in Colab; "" without an address.

    Text and no picture: the site shows it too, and asks no other host for anything.
    """
    address = read_address()
    if not address.repository:
        return ""
    words = {"vi": "▶ Mở bài này trong Colab", "en": "▶ Open this notebook in Colab"}[language]
    return f"[{words}]({on_colab(address, f'notebooks/{language}/{path.stem}.ipynb')})"


def badges(language):
    """The badge line of a README: Colab, Binder, the fork's tests; "" without an address."""
    address = read_address()
    if not address.repository:
        return ""
    notebook = f"notebooks/{language}/{sources()[0].stem}.ipynb"
    name = address.repository.removeprefix("https://github.com/")
    tests = f"{address.repository}/actions/workflows/ci.yml"
    colab, binder, status = {
        "vi": ("Mở trong Colab", "Mở trong Binder", "Kiểm thử"),
        "en": ("Open in Colab", "Open in Binder", "Tests"),
    }[language]
    return " ".join(
        f"[![{text}]({picture})]({target})"
        for text, picture, target in (
            (colab, "https://colab.research.google.com/assets/colab-badge.svg", on_colab(address, notebook)),
            (
                binder,
                "https://mybinder.org/badge_logo.svg",
                f"https://mybinder.org/v2/gh/{name}/{address.branch}?urlpath=lab/tree/{notebook}",
            ),
            (status, f"{tests}/badge.svg?branch={address.branch}", tests),
        )
    )


def readmes():
    """{path of a README: its text with the badge line of the address}."""
    wanted = {}
    for name, language in (("README.md", "en"), ("README.vi.md", "vi")):
        path = ROOT / name
        if not path.exists():
            continue
        line = badges(language)
        line = f"\n{line}\n\n" if line else ""
        wanted[path], found = BADGES.subn(lambda m, line=line: m[1] + line, path.read_text(encoding="utf-8"))
        if found != 1:
            raise ValueError(f"{name}: expected one line <!-- badges --> and after it <!-- /badges -->, found {found}")
    return wanted


def stored(path, language):
    return NOTEBOOKS / language / f"{path.stem}.ipynb"
