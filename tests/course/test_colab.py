"""Colab, a clone, an upload: a notebook alone in an empty folder, in a Python that knows no repository.

A second environment holds the oldest packages that pyproject.toml allows (oldest.txt) and no `helpers`.  It borrows
what the environment of the tests has in the same version, and torch (too heavy; with QKV_OLDEST_TORCH=1 the oldest).
"""

import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import standalone
from tools.course import ROOT, setup_cell
from tools.execute import code_cells, pictures

SAYS = tomllib.loads(Path(__file__).with_name("first_cell.toml").read_text(encoding="utf-8"))
OLDEST_TORCH = "2.11.0"
BORROWED = ("torch", "nvidia-", "cuda-", "triton")  # distributions: torch and what its CUDA builds need
NAMES = [f"{path.parent.name}/{path.stem}" for path in sorted((ROOT / "notebooks").glob("[ve][in]/*.ipynb"))]


def setup_of(notebook):
    return next(cell for cell in notebook.cells if "setup" in cell.metadata.get("tags", []))


def read(name, folder=ROOT / "notebooks"):
    return nbformat.read(folder / f"{name}.ipynb", as_version=4)


def oldest_versions():
    """{name: version} of oldest.txt, for this system."""
    lines = (ROOT / "tests" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in (line.split("#")[0].strip() for line in lines) if line]
    here = [requirement for requirement in parsed if not requirement.marker or requirement.marker.evaluate()]
    return {canonicalize_name(requirement.name): str(requirement.specifier)[2:] for requirement in here}


@pytest.fixture(scope="module")
def oldest(request):
    """The Python of the second environment; made once, and again when what it is made of changes."""
    here = {canonicalize_name(p.metadata["Name"] or ""): p for p in importlib.metadata.distributions()}
    missing = {n: v for n, v in oldest_versions().items() if n not in here or here[n].version != v}
    borrowed = {name for name in here if name in oldest_versions() and name not in missing}
    if os.environ.get("QKV_OLDEST_TORCH") == "1":
        missing["torch"] = OLDEST_TORCH
    else:
        borrowed |= {name for name in here if name.startswith(BORROWED)}
    made_of = repr((sorted(missing.items()), sorted((n, here[n].version) for n in borrowed), sys.version, sys.prefix))
    folder = request.config.cache.mkdir("oldest") / "environment"
    python, complete = folder / "bin" / "python", folder / "made_of.txt"
    if not complete.exists() or complete.read_text() != made_of:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", folder], check=True)
        pip = [sys.executable, "-m", "pip", f"--python={python}", "install", "-q", "--no-compile"]
        pip += ["--disable-pip-version-check", "--only-binary=:all:", "--no-deps"]
        subprocess.run([*pip, *(f"{name}=={version}" for name, version in missing.items())], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        for package in (here[name] for name in sorted(borrowed)):  # these are seen there, and nothing else of ours
            for name in {path.parts[0] for path in package.files or ()} - {"..", "__pycache__"}:
                if not (site / name).exists():
                    (site / name).symlink_to(Path(package.locate_file("")) / name)
        complete.write_text(made_of)
    return python


def test_oldest_versions_are_the_lower_bounds_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {canonicalize_name(r.name): r.specifier for r in map(Requirement, project["dependencies"])}
    pins = oldest_versions()
    assert set(bounds) - set(pins) == {"torch", "gguf"} and f">={OLDEST_TORCH}".startswith(str(bounds["torch"]))
    raised = {"huggingface-hub", "safetensors", "regex"}  # by transformers 5.15
    for name in set(bounds) - {"torch", "gguf"}:
        assert bounds[name].contains(pins[name]), name
        assert name in raised or f">={pins[name]}".startswith(str(bounds[name])), (name, pins[name])


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """The folder that `make standalone` writes, made elsewhere."""
    folder = tmp_path_factory.mktemp("standalone")
    assert len(standalone.write(folder)) == len(NAMES) > 20
    return folder


def marks_and_figures(notebook):
    """What the exercise checks say, without their hints (✓ 4.1, ○ 4.2, ...), and which cells hold a picture."""
    texts = [output.text for cell in code_cells(notebook) for output in cell.outputs if "text" in output]
    marks = re.findall(r"^[✓✗○] [\d.]+", "".join(texts), flags=re.MULTILINE)
    return marks, [bool(pictures(cell)) for cell in code_cells(notebook)]


def test_standalone_notebook_runs_alone_beside_another_helpers(uploads, oldest, tmp_path, monkeypatch):
    name = "vi/02_cosine_and_correlation"  # the quickest with a model, figures and a widget
    folder, temporary, other, kernels = (tmp_path / part for part in ("empty", "temporary", "other", "kernels"))
    for path in (folder, temporary, other / "helpers", kernels / "oldest"):
        path.mkdir(parents=True)
    command = [str(oldest), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "oldest", "language": "python"}
    (kernels / "oldest" / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    settings = {"JUPYTER_PATH": tmp_path, "QKV_MODEL": "smollm2", "HF_HUB_OFFLINE": "1", "TMPDIR": temporary}
    for variable, value in (settings | {"PYTHONPATH": other}).items():
        monkeypatch.setenv(variable, str(value))
    for variable in ("PYTHONDONTWRITEBYTECODE", "QKV_KERNEL", "MPLBACKEND"):
        monkeypatch.delenv(variable, raising=False)
    (other / "helpers" / "__init__.py").write_text("raise ImportError('the wrong helpers')")
    shutil.copy(uploads / f"{name}.ipynb", folder)
    notebook = read(name, uploads)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, kernel_name="oldest", timeout=300, resources=where, store_widget_state=False).execute()
    marks, figures = marks_and_figures(notebook)
    assert (marks, figures) == marks_and_figures(read(name)) and any(figures) and marks
    (said,) = setup_of(notebook).outputs
    assert re.fullmatch(r"Python 3\.\d+\.\d+ · torch \S+ · transformers 5\.15\.0 · (cpu|cuda: .+)\n", said.text)
    assert [path.suffix for path in folder.iterdir()] == [".ipynb"]  # nothing was left beside it
    assert list(temporary.glob("qkv-helpers-*")) == []


def test_standalone_notebooks_differ_in_first_cells_and_carry_helpers(uploads):
    for name in NAMES:
        notebook, original = read(name, uploads), read(name)
        cell = setup_of(notebook)
        assert cell.metadata["jupyter"]["source_hidden"] and cell.metadata["cellView"] == "form"
        assert cell.source.startswith("# @title ") and f'set_language("{name[:2]}")' in cell.source
        assert str(ROOT) not in cell.source and "helpers.survey" not in str(code_cells(notebook)), name
        cell.source = setup_of(original).source
        assert notebook == original, name
    packed = zipfile.ZipFile(io.BytesIO(standalone.archive())).namelist()
    files = {path.relative_to(ROOT) for path in (ROOT / "helpers").rglob("*") if path.is_file()}
    assert set(map(Path, packed)) == {path for path in files if not {"survey", "__pycache__"} & set(path.parts)}


def bare_python(source, folder, **settings):
    """Run a text with the standard library only."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C.UTF-8", **settings}
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-"]  # by standard input: a text of this length is no argument
    options = {"cwd": folder, "env": environment, "capture_output": True, "encoding": "utf-8"}
    return subprocess.run(command, input=source, check=False, **options)


def fails(source, folder, *words, **settings):
    """Run a text that has to fail, with all these words in what it says; returns that."""
    done = bare_python(source, folder, **settings)
    assert done.returncode and [word for word in words if word not in done.stderr] == [], done.stderr
    return done.stderr


def finds(source, folder, helpers, **settings):
    """Run a first cell that has to take `helpers` from there."""
    done = bare_python(source, folder, **settings)
    assert done.stdout.splitlines() == ["vi", str(helpers / "__init__.py")], done.stderr


@pytest.mark.parametrize("case", SAYS["standalone"], ids=lambda case: case["said"][0])
def test_standalone_cell_that_cannot_unpack_or_comes_late_says_so(uploads, tmp_path, case):
    (tmp_path / "helpers.py").touch()
    code = f"import sys; sys.path.append({str(tmp_path)!r})\n{case['before']}\n"
    fails(code + setup_of(read("vi/01_capture_qkv", uploads)).source, tmp_path, *case["said"])


def first_cell(repository):
    """The first cell as it would be in a fork published at `repository`."""
    line = f'REPOSITORY, BRANCH = "{repository}", "main"'
    changed, count = re.subn(r"(?m)^REPOSITORY, BRANCH = .*$", line, setup_cell("vi"))
    assert count == 1
    return changed


def git(folder, *arguments):
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True)


@pytest.fixture
def empty(tmp_path):
    """A folder with nothing in it."""
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


@pytest.fixture
def module(tmp_path):
    """A repository whose `helpers` needs no package; its `environment` says where it is."""
    helpers = tmp_path / "module" / "helpers"
    helpers.mkdir(parents=True)
    (helpers / "capture.py").touch()
    (helpers / "__init__.py").write_text("environment, set_language = lambda: __file__, print\n")
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "module"]):
        git(helpers.parent, *command)
    return helpers.parent


def test_first_cell_of_a_fork_clones_it_once(module, empty):
    clone, source = empty / "qkv-token-similarity", first_cell(module.as_uri())
    for _ in range(2):  # the second time needs no repository
        finds(source, empty, clone / "helpers")
        shutil.rmtree(module, ignore_errors=True)
    assert list(empty.iterdir()) == [clone] and (clone / ".git" / "shallow").exists()


def test_clone_that_fails_says_what_went_wrong_and_what_to_do(module, empty):
    git(module, "rm", "-q", "-r", "helpers")
    git(module, "commit", "-q", "-m", "nothing here")
    nowhere = (module / "nowhere").as_uri()
    tried = f"--branch main {nowhere} qkv-token-similarity"
    for address, settings, *reason in (
        (nowhere, {}, "fatal: ", tried),
        (nowhere, {"PATH": ""}, "'git'", tried),
        (module.as_uri(), {}, "no helpers/"),
    ):
        fails(first_cell(address), empty, *SAYS["other"]["fetched"], str(empty), *reason, **settings)


CLOSED = """
import os
stat = os.stat
def closed(path, *a, **k):
    for name, number in (("lost+found", 13), ("a_mount", 107), ("a_disk", 5)):
        if name in str(path):
            raise OSError(number, os.strerror(number), path)
    return stat(path, *a, **k)
os.stat = closed
"""


def test_first_cell_finds_the_module_around_or_beside_and_else_says_what_to_do(module, empty, tmp_path):
    source, inside, beside = CLOSED + first_cell(""), module / "notebooks" / "vi", tmp_path / "beside"
    for folder in (inside, *(beside / name / "helpers" for name in ("lost+found", "a_mount", "a_disk"))):
        folder.mkdir(parents=True)
    for link, target in (("dangling", "nowhere"), ("loop", "loop"), ("module", module)):
        (beside / link).symlink_to(target)
    for folder, found in ((inside, module), (tmp_path, module), (beside, beside / "module")):
        finds(source, folder, found / "helpers", PATH="")
    (beside / "module").unlink()
    for folder in (empty, beside):
        assert "git" not in fails(source, folder, folder.name, *SAYS["other"]["nowhere"], PATH="").lower()
    fails("import os; os.rmdir(os.getcwd())\n" + first_cell(""), empty, *SAYS["other"]["gone"])
