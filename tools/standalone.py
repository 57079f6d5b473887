"""Notebooks that carry `helpers/` in their first cell, to be uploaded anywhere without the repository.

    python -m tools.standalone      build/standalone/vi and build/standalone/en

They are the stored notebooks with another first cell.  Their outputs stay: the file shows what one will
see before anything has run, and a run replaces them.
"""

import base64
import io
import sys
import textwrap
import zipfile

import nbformat

from tools.build import problems
from tools.course import LANGUAGE_LINE, LANGUAGES, NOTEBOOKS, ROOT, sources, stored

FIRST_CELL = NOTEBOOKS / "source" / "setup_cell_standalone.py"
FOLDER = ROOT / "build" / "standalone"


def archive():
    """`helpers/` as zip bytes, the same ones whenever the files are the same; without the survey, which none needs."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as into:
        for path in sorted(path for path in (ROOT / "helpers").rglob("*") if path.is_file()):
            if not {"survey", "__pycache__"} & set(path.parts):
                entry = zipfile.ZipInfo(path.relative_to(ROOT).as_posix())  # without the time of the file
                into.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return packed.getvalue()


def first_cell(language):
    """The text of the first code cell, with `helpers/` inside."""
    lines = textwrap.fill(base64.b64encode(archive()).decode(), 116)
    text = FIRST_CELL.read_text(encoding="utf-8").strip().replace('ARCHIVE = """"""', f'ARCHIVE = """\n{lines}\n"""')
    return LANGUAGE_LINE.sub(f'set_language("{language}")', text)


def write(folder):
    """Write every notebook in both languages below `folder`; returns their paths."""
    written = []
    for language in LANGUAGES:
        source = first_cell(language)
        for path in sources():
            notebook = nbformat.read(stored(path, language), as_version=4)
            (cell,) = (cell for cell in notebook.cells if "setup" in cell.metadata.get("tags", []))
            cell.source = source
            target = folder / language / f"{path.stem}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, target)
            written.append(target)
    return written


def main():
    if found := problems():
        sys.exit("\n".join(["the stored notebooks are not what the sources give; make build first:", *found]))
    written = write(FOLDER)
    print(f"{len(written)} notebooks, up to {max(path.stat().st_size for path in written) // 1000} kB each: {FOLDER}")


if __name__ == "__main__":
    main()
