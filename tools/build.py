"""Build the notebooks: split each source by language, execute, store; or check what is stored.

python -m tools.build                  build all, on SmolLM2, into notebooks/vi and notebooks/en
python -m tools.build 02               build those whose name starts with 02
python -m tools.build --refresh        texts, links, badges and first cells of what is stored; runs nothing
python -m tools.build --check          compare what is stored with the sources (runs nothing)
"""

import argparse
import base64
import io
import itertools
import json
import os
import sys

import nbformat
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tools import course
from tools.course import LANGUAGES, assemble, only_imports, read_address, readmes, sources, stored
from tools.execute import Job, code_cells, execute_all, opened, pictures, seen_in

MOST_KILOBYTES = 800


def read_times():
    """{name of a source: {language: CPU seconds of its kernel when it was built}}"""
    target = course.NOTEBOOKS / "times.json"
    return json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}


def smaller(picture):
    """The same pixels in fewer bytes: no alpha channel, best compression, no text but what the picture shows."""
    packed, words, image = io.BytesIO(), PngInfo(), opened(picture).convert("RGBA")
    words.add_itxt("Description", seen_in(picture))
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image.save(packed, "PNG", optimize=True, pnginfo=words)
    return base64.b64encode(packed.getvalue()).decode()


def build(prefix):
    """Execute and store what the sources give; returns the titles of those that failed, having shown their errors."""
    os.environ["QKV_MODEL"] = "smollm2"
    targets = {f"{language}/{path.stem}": (path, language) for path in sources(prefix) for language in LANGUAGES}
    jobs, times, failed = [], read_times(), []
    for title, (path, language) in targets.items():
        folder = stored(path, language).parent
        folder.mkdir(exist_ok=True)
        jobs.append(Job(title, assemble(path, language), folder, times.get(path.stem, {}).get(language, 60)))
    for job in execute_all(jobs):
        if job.error:
            failed.append(job.title)
            print(f"\n{job.title} failed:\n{job.error}", file=sys.stderr)
            continue
        path, language = targets[job.title]
        store(path, language, job.notebook)
        times = read_times()
        times.setdefault(path.stem, {})[language] = round(job.took)
        text = json.dumps(times, indent=1, sort_keys=True) + "\n"
        (course.NOTEBOOKS / "times.json").write_text(text, encoding="utf-8")
    write_badges()
    return failed


def store(path, language, notebook):
    """Write an executed notebook, its pictures packed, and the figures that the README shows."""
    for cell in code_cells(notebook):
        for output in pictures(cell):
            output.data["image/png"] = smaller(output)
    nbformat.write(notebook, stored(path, language))
    for image, data in readme_figures(notebook, path.stem, language).items():
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(data)


def refresh(prefix):
    """Bring texts, links and first cells of the stored notebooks up to date; outputs stay, nothing is executed.

    Returns the titles of those whose other code is no longer that of the source: they need a build.
    """
    left = []
    for path, language in itertools.product(sources(prefix), LANGUAGES):
        target, notebook = stored(path, language), assemble(path, language)
        before = code_cells(nbformat.read(target, as_version=4)) if target.exists() else []
        after = code_cells(notebook)
        if [_code(cell) for cell in before] != [_code(cell) for cell in after]:
            left.append(f"{language}/{path.stem}")
            continue
        for old, new in zip(before, after, strict=True):
            new.outputs, new.execution_count = old.outputs, old.execution_count
        nbformat.write(notebook, target)
    write_badges()
    return left


def _code(cell):
    """What decides about a cell's output: not where `helpers` is found, nor from where a name is imported."""
    if "setup" in cell.metadata.get("tags", []):
        return "setup"
    return "imports" if only_imports(cell.source) else cell.source


def write_badges():
    for path, text in readmes().items():
        path.write_text(text, encoding="utf-8")


def readme_figures(notebook, stem, language):
    """{path of the image: its PNG bytes} for the cells tagged as figures of the README."""
    return {
        course.ROOT / "docs" / "images" / f"{stem}-{language}.png": base64.b64decode(output.data["image/png"])
        for cell in code_cells(notebook)
        if course.README_FIGURE in cell.metadata.get("tags", [])
        for output in pictures(cell)
    }


def problems():
    """What is wrong with the stored notebooks, one line each; empty if they are what the sources give."""
    expected = {stored(path, language): (path, language) for path in sources() for language in LANGUAGES}
    found = [f"{to.parent.name}/{to.stem}: {text}" for to, made_of in expected.items() for text in _faults(*made_of)]
    strays = {path for language in LANGUAGES for path in (course.NOTEBOOKS / language).glob("*.ipynb")} - set(expected)
    found += [f"{path.parent.name}/{path.name}: has no source" for path in sorted(strays)]
    stale = [path.name for path, text in readmes().items() if path.read_text(encoding="utf-8") != text]
    return found + [f"{name}: its badges are not those of pyproject.toml: --refresh" for name in stale]


def _faults(path, language):
    target = stored(path, language)
    if not target.exists():
        return ["is not built"]
    notebook, wanted = nbformat.read(target, as_version=4), assemble(path, language)
    code, kilobytes = code_cells(notebook), target.stat().st_size // 1000
    outputs = [output for cell in code for output in cell.outputs]
    have, want = ([(c.cell_type, c.id, c.source, c.metadata) for c in of.cells] for of in (notebook, wanted))
    counts, in_order = [cell.execution_count for cell in code], list(range(1, len(code) + 1))
    faults = {
        "differs from its source: build it again, or --refresh if no code changed": have != want,
        "was not executed in one clean run from top to bottom": counts != in_order,
        "holds an error output": any(output.output_type == "error" for output in outputs),
        "holds output on stderr (a warning or a progress bar)": any(o.get("name") == "stderr" for o in outputs),
        f"weighs {kilobytes} kB, more than {MOST_KILOBYTES}": kilobytes > MOST_KILOBYTES,
    }
    for image, data in readme_figures(notebook, path.stem, language).items():
        faults[f"{image.name} is not its figure: build it again"] = not image.exists() or image.read_bytes() != data
    return [fault for fault, found in faults.items() if found]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefix", nargs="?", default="", help="only sources whose name starts so")
    parser.add_argument("--refresh", action="store_true")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    try:
        address = read_address()
    except ValueError as error:
        sys.exit(str(error))
    if arguments.check:
        found = problems()
        print("\n".join(found) or "every stored notebook is what its source gives")
        sys.exit(bool(found))
    if not sources(arguments.prefix):
        sys.exit(f"no source starts with {arguments.prefix!r}: there are {', '.join(s.stem for s in sources())}")
    if arguments.refresh:
        left = refresh(arguments.prefix)
        print(f"address: {address.repository or 'none (pyproject.toml, [tool.qkv])'}")
        sys.exit(f"the code changed, build them: {', '.join(left)}" if left else 0)
    if failed := build(arguments.prefix):
        sys.exit(f"failed, and not stored: {', '.join(sorted(failed))}")


if __name__ == "__main__":
    main()
