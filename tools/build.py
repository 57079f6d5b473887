"""Build the notebooks: split each source by language, execute, store; or check what is stored.

python -m tools.build                  build all, on SmolLM2, into notebooks/vi and notebooks/en
python -m tools.build 02               build those whose name starts with 02
python -m tools.build --refresh        texts, links, badges and first cells of what is stored; runs nothing
python -m tools.build --check          compare what is stored with the sources (runs nothing)
python -m tools.build --run executed   execute the stored notebooks, copies into executed/
"""

import argparse
import ast
import base64
import io
import json
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image
from tqdm import tqdm

from tools.course import LANGUAGES, NOTEBOOKS, README_FIGURE, ROOT, assemble, read_address, readmes, sources, stored

WIDGET = "application/vnd.jupyter.widget-view+json"
MOST_BYTES = 800_000


def keep_time(path, language, seconds):
    """Write down how long the computer took for one notebook, in whole CPU seconds, in times.json."""
    target = NOTEBOOKS / "times.json"
    times = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    times.setdefault(path.stem, {})[language] = round(seconds)
    target.write_text(json.dumps(times, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _children_seconds():
    """CPU seconds of the processes that have ended; on one thread nearly what the clock shows on an idle machine."""
    return sum(os.times()[2:4])


def execute(notebook, folder, title):
    """Run all cells in `folder`, with a progress bar; leave nothing that changes from run to run.  Returns CPU seconds."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    with tqdm(total=len(code), desc=title, unit="cell") as bar:
        client = NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            extra_arguments=["--log-level=40"],
            record_timing=False,
            coalesce_streams=True,
            on_cell_executed=lambda **_: bar.update(),
        )
        start = _children_seconds()
        client.execute()
        seconds = _children_seconds() - start
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata.pop("widgets", None)
    for output in (output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})):
        output.data["image/png"] = smaller(output.data["image/png"])
    for cell in code:
        # a widget is drawn anew by each kernel; its stored view would be an id and nothing else
        cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    return seconds


def smaller(png):
    """The same pixels in fewer bytes: no alpha channel, no text, best compression."""
    packed = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB").save(
        packed, "PNG", optimize=True
    )
    return base64.b64encode(packed.getvalue()).decode()


def build(prefix):
    os.environ["QKV_MODEL"] = "smollm2"
    for path in sources(prefix):
        for language in LANGUAGES:
            notebook = assemble(path, language)
            target = stored(path, language)
            target.parent.mkdir(exist_ok=True)
            keep_time(path, language, execute(notebook, target.parent, f"{language}/{path.stem}"))
            nbformat.write(notebook, target)
            for image, data in readme_figures(notebook, path.stem, language).items():
                image.parent.mkdir(parents=True, exist_ok=True)
                image.write_bytes(data)
    write_badges()


def refresh(prefix):
    """Bring texts, links and first cells of the stored notebooks up to date; outputs stay, nothing is executed.

    Returns the titles of those whose other code is no longer that of the source: they need a build.
    """
    left = []
    for path in sources(prefix):
        for language in LANGUAGES:
            target = stored(path, language)
            notebook = assemble(path, language)
            old = nbformat.read(target, as_version=4).cells if target.exists() else []
            pairs = [[cell for cell in cells if cell.cell_type == "code"] for cells in (old, notebook.cells)]
            if [_code(cell) for cell in pairs[0]] != [_code(cell) for cell in pairs[1]]:
                left.append(f"{language}/{path.stem}")
                continue
            for before, after in zip(*pairs):
                after.outputs, after.execution_count = before.outputs, before.execution_count
            nbformat.write(notebook, target)
    write_badges()
    return left


def _code(cell):
    """What decides about a cell's output: not where `helpers` is found, nor from where a name is imported."""
    if "setup" in cell.metadata.get("tags", []):
        return "setup"
    only_imports = all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(cell.source).body)
    return "imports" if only_imports else cell.source


def write_badges():
    for path, text in readmes().items():
        path.write_text(text, encoding="utf-8")


def readme_figures(notebook, stem, language):
    """{path of the image: its PNG bytes} for the cells tagged as figures of the README."""
    return {
        ROOT / "docs" / "images" / f"{stem}-{language}.png": base64.b64decode(output.data["image/png"])
        for cell in notebook.cells
        if README_FIGURE in cell.metadata.get("tags", [])
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    }


def problems():
    """What is wrong with the stored notebooks, one line each; empty if they are what the sources give."""
    found = []
    for path in sources():
        for language in LANGUAGES:
            found += [f"{language}/{path.stem}: {text}" for text in _problems_of(path, language)]
    expected = {stored(path, language) for path in sources() for language in LANGUAGES}
    strays = {path for language in LANGUAGES for path in (NOTEBOOKS / language).glob("*.ipynb")} - expected
    found += [f"{path.parent.name}/{path.name}: has no source" for path in sorted(strays)]
    stale = [path.name for path, text in readmes().items() if path.read_text(encoding="utf-8") != text]
    return found + [f"{name}: its badges are not those of pyproject.toml: --refresh" for name in stale]


def _problems_of(path, language):
    target = stored(path, language)
    if not target.exists():
        return ["is not built"]
    notebook = nbformat.read(target, as_version=4)
    wanted = assemble(path, language)
    found = []
    if [_essence(cell) for cell in notebook.cells] != [_essence(cell) for cell in wanted.cells]:
        found.append("differs from its source: build it again, or --refresh if no code changed")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("was not executed in one clean run from top to bottom")
    if any(output.output_type == "error" for cell in code for output in cell.outputs):
        found.append("holds an error output")
    if any(output.get("name") == "stderr" for cell in code for output in cell.outputs):
        found.append("holds output on stderr (a warning or a progress bar)")
    for image, data in readme_figures(notebook, path.stem, language).items():
        if not image.exists() or image.read_bytes() != data:
            found.append(f"{image.name} is not its figure: build it again")
    if target.stat().st_size > MOST_BYTES:
        found.append(f"weighs {target.stat().st_size // 1000} kB, more than {MOST_BYTES // 1000}")
    return found


def _essence(cell):
    return cell.cell_type, cell.id, cell.source, cell.metadata


def run(folder):
    """Execute the stored notebooks into copies; returns the titles of those that failed."""
    failed = []
    for source in sorted(path for language in LANGUAGES for path in (NOTEBOOKS / language).glob("*.ipynb")):
        title = f"{source.parent.name}/{source.stem}"
        notebook = nbformat.read(source, as_version=4)
        try:
            execute(notebook, source.parent, title)
        except CellExecutionError as error:
            failed.append(title)
            print(f"{title} failed:\n{error}", file=sys.stderr)
        target = folder / source.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefix", nargs="?", default="", help="build only sources whose name starts so")
    parser.add_argument("--refresh", action="store_true", help="bring all but code and outputs up to date, run nothing")
    parser.add_argument("--check", action="store_true", help="compare the stored notebooks with the sources")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="execute the stored notebooks into FOLDER")
    arguments = parser.parse_args()
    try:
        read_address()
    except ValueError as error:
        sys.exit(str(error))
    if arguments.check:
        found = problems()
        print("\n".join(found) or "every stored notebook is what its source gives")
        sys.exit(bool(found))
    if arguments.run:
        failed = run(arguments.run)
        print(f"\nexecuted notebooks: {arguments.run}/vi and {arguments.run}/en")
        print(f"open them:          make lab   (JupyterLab shows the folder {arguments.run}/)")
        if failed:
            sys.exit(f"failed: {', '.join(failed)}")
        return
    if not sources(arguments.prefix):
        sys.exit(f"no source starts with {arguments.prefix!r}: there are {', '.join(s.stem for s in sources())}")
    if arguments.refresh:
        left = refresh(arguments.prefix)
        print(f"address: {read_address().repository or 'none (pyproject.toml, [tool.qkv])'}")
        sys.exit(f"the code changed, build them: {', '.join(left)}" if left else 0)
    build(arguments.prefix)


if __name__ == "__main__":
    main()
