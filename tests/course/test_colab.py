"""Colab, a clone, an upload: a notebook alone in an empty folder, in a Python that knows no repository.

Colab itself is not to be had; what matters of it is.  A second environment holds the oldest packages that
pyproject.toml allows (oldest.txt) and no `helpers`.  It borrows torch, too heavy to install twice, and every
package that the environment of the tests has in the same version; with QKV_OLDEST_TORCH=1 it gets the oldest
torch as well.
"""

import hashlib
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
from tools.course import setup_cell
from tools.execute import code_cells, pictures

ROOT = Path(__file__).resolve().parents[2]
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


def borrow(packages, site):
    """Let another environment see some distributions, and nothing else, of this one."""
    for package in packages:
        here = Path(package.locate_file(""))
        for name in {path.parts[0] for path in package.files or ()} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(here / name)


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
    made_of = sorted(missing.items()), sorted((name, here[name].version) for name in borrowed), sys.version, sys.prefix
    cache = request.config.cache.mkdir("oldest")
    folder = cache / hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        for outdated in (path for path in cache.iterdir() if path.is_dir()):
            shutil.rmtree(outdated)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        pip = [sys.executable, "-m", "pip", f"--python={python}", "install", "-q", "--no-compile"]
        pip += ["--disable-pip-version-check", "--only-binary=:all:", "--no-deps"]
        subprocess.run([*pip, *(f"{name}=={version}" for name, version in missing.items())], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        borrow([here[name] for name in sorted(borrowed)], site)
        (folder / "complete").touch()
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
    folder, temporary, other = (tmp_path / part for part in ("empty", "temporary", "other"))
    for path in (folder, temporary, other / "helpers", tmp_path / "jupyter" / "kernels" / "oldest"):
        path.mkdir(parents=True)
    command = [str(oldest), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "oldest", "language": "python"}
    (path / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    unset = ("PYTHONDONTWRITEBYTECODE", "QKV_KERNEL", "MPLBACKEND")
    settings = {name: value for name, value in os.environ.items() if name not in unset}
    settings |= {"QKV_MODEL": "smollm2", "HF_HUB_OFFLINE": "1", "TMPDIR": str(temporary), "PYTHONPATH": str(other)}
    (other / "helpers" / "__init__.py").write_text("raise ImportError('the wrong helpers')")
    shutil.copy(uploads / f"{name}.ipynb", folder)
    notebook = read(name, uploads)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, kernel_name="oldest", timeout=300, resources=where, store_widget_state=False)
    client.execute(env=settings)
    marks, figures = marks_and_figures(notebook)
    assert (marks, figures) == marks_and_figures(read(name)) and any(figures) and marks
    (said,) = setup_of(notebook).outputs
    assert re.fullmatch(r"Python 3\.\d+\.\d+ · torch \S+ · transformers 5\.15\.0 · (cpu|cuda: .+)\n", said.text)
    assert [path.suffix for path in folder.iterdir()] == [".ipynb"]  # nothing was left beside it
    assert list(temporary.glob("qkv-helpers-*")) == []


def test_standalone_notebooks_differ_in_their_first_cells_only(uploads):
    for name in NAMES:
        notebook, original = read(name, uploads), read(name)
        cell = setup_of(notebook)
        assert cell.metadata["jupyter"]["source_hidden"] and cell.metadata["cellView"] == "form"
        assert cell.source.startswith("# @title ") and f'set_language("{name[:2]}")' in cell.source
        assert str(ROOT) not in cell.source and "helpers.survey" not in str(code_cells(notebook)), name
        cell.source = setup_of(original).source
        assert notebook == original, name


def test_archive_carries_all_of_helpers_but_the_survey():
    files = [path.relative_to(ROOT) for path in (ROOT / "helpers").rglob("*") if path.is_file()]
    wanted = {path.as_posix() for path in files if not {"survey", "__pycache__"} & set(path.parts)}
    assert set(zipfile.ZipFile(io.BytesIO(standalone.archive())).namelist()) == wanted and len(wanted) > 40


def bare_python(source, folder, **settings):
    """Run a text with the standard library only."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C.UTF-8", **settings}
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-"]  # by standard input: a text of this length is no argument
    options = {"cwd": folder, "env": environment, "capture_output": True, "encoding": "utf-8"}
    return subprocess.run(command, input=source, check=False, **options)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("import helpers", ("hãy khởi động lại kernel", "restart the Jupyter kernel", "helpers.py")),
        (
            "import tempfile; tempfile.mkdtemp = lambda **k: open('/dev/full/x')",
            ("Không giải nén được", "set TMPDIR to"),
        ),
        (
            "import base64; base64.b64decode = lambda text: b''",
            ("hãy tải lại sổ tay", "download the notebook again"),
        ),
    ],
)
def test_standalone_cell_that_cannot_unpack_or_comes_late_says_so(uploads, tmp_path, before, said):
    (tmp_path / "helpers.py").touch()
    code = f"import sys; sys.path.append({str(tmp_path)!r})\n{before}\n"
    done = bare_python(code + setup_of(read("vi/01_capture_qkv", uploads)).source, tmp_path)
    assert done.returncode and all(text in done.stderr for text in said), done.stderr


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
def module(tmp_path):
    """A repository whose `helpers` needs no package; its `environment` says where it is."""
    helpers = tmp_path / "module" / "helpers"
    helpers.mkdir(parents=True)
    (helpers / "capture.py").touch()
    (helpers / "__init__.py").write_text("environment, set_language = lambda: __file__, print\n")
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "module"]):
        git(helpers.parent, *command)
    (tmp_path / "empty").mkdir()
    return helpers.parent


def test_first_cell_of_a_fork_clones_it_once(module, tmp_path):
    folder, source = tmp_path / "empty", first_cell(module.as_uri())
    clone = folder / "qkv-token-similarity"
    for _ in range(2):  # the second time needs no repository
        done = bare_python(source, folder)
        assert done.stdout.splitlines() == ["vi", str(clone / "helpers" / "__init__.py")], done.stderr
        shutil.rmtree(module, ignore_errors=True)
    assert list(folder.iterdir()) == [clone] and (clone / ".git" / "shallow").exists()


def test_clone_that_fails_says_what_went_wrong_and_what_to_do(module, tmp_path):
    git(module, "rm", "-q", "-r", "helpers")
    git(module, "commit", "-q", "-m", "nothing here")
    folder, nowhere = tmp_path / "empty", (tmp_path / "nowhere").as_uri()
    for address, settings, reason in (
        (nowhere, {}, "fatal: "),
        (nowhere, {"PATH": ""}, "'git'"),
        (module.as_uri(), {}, "no helpers/"),
    ):
        done = bare_python(first_cell(address), folder, **settings)
        assert done.returncode and "RuntimeError" in done.stderr and reason in done.stderr, reason
        for text in ("Không tải được học phần", "could not be fetched", "make standalone", str(folder)):
            assert text in done.stderr, reason
        assert reason == "no helpers/" or f"--branch main {address} qkv-token-similarity" in done.stderr


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


def test_first_cell_finds_the_module_around_or_beside_and_else_says_what_to_do(module, tmp_path):
    inside, beside = module / "notebooks" / "vi", tmp_path / "beside"
    for folder in (inside, *(beside / name / "helpers" for name in ("lost+found", "a_mount", "a_disk"))):
        folder.mkdir(parents=True)
    (beside / "dangling").symlink_to("nowhere")
    (beside / "loop").symlink_to("loop")
    (beside / "module").symlink_to(module)
    for folder, found in ((inside, module), (tmp_path, module), (beside, beside / "module")):
        done = bare_python(CLOSED + first_cell(""), folder, PATH="")
        assert done.stdout.splitlines() == ["vi", str(found / "helpers" / "__init__.py")], done.stderr
    (beside / "module").unlink()
    for folder in (tmp_path / "empty", beside):
        done = bare_python(CLOSED + first_cell(""), folder, PATH="")
        assert done.returncode and "FileNotFoundError" in done.stderr and "git" not in done.stderr.lower()
        for text in (
            folder.name,
            "Không tìm thấy thư mục helpers/",
            "was not found",
            "make standalone",
            "README.vi.md",
        ):
            assert text in done.stderr
    done = bare_python("import os; os.rmdir(os.getcwd())\n" + first_cell(""), tmp_path / "empty")
    assert "không còn nữa" in done.stderr and "is gone" in done.stderr and "restart the kernel" in done.stderr
