"""Colab, a clone, an upload: a notebook alone in an empty folder, in a Python that knows no repository.

Colab itself is not to be had; what matters of it is.  A second environment holds the oldest packages that
pyproject.toml allows (oldest.txt) and no `helpers`.  It borrows torch, the one package too heavy to install
twice, from the environment of the tests; with QKV_OLDEST_TORCH=1 it gets the oldest torch as well.
"""

import ast
import base64
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
from filelock import FileLock
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import models

ROOT = Path(__file__).resolve().parents[2]
OLDEST = ROOT / "tests" / "oldest.txt"
OLDEST_TORCH = "2.11.0"
BORROWED = ("torch", "nvidia-", "cuda-", "triton")  # distributions: torch and what its CUDA builds need
NAMES = [f"{path.parent.name}/{path.stem}" for path in sorted((ROOT / "notebooks").glob("[ve][in]/*.ipynb"))]


def setup_of(notebook):
    return next(cell for cell in notebook.cells if "setup" in cell.metadata.get("tags", []))


def stored(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


# ---- the second environment ----------------------------------------------------------------------


def borrow_torch(site):
    """Let another environment see torch, and nothing else, of this one."""
    for package in importlib.metadata.distributions():
        if canonicalize_name(package.metadata["Name"] or "").startswith(BORROWED):
            here = Path(package.locate_file(""))
            for name in {path.parts[0] for path in package.files or ()} - {"..", "__pycache__"}:
                if not (site / name).exists():
                    (site / name).symlink_to(here / name)


@pytest.fixture(scope="session")
def oldest(request):
    """The Python of the second environment; made once, and again when what it is made of changes."""
    own_torch = os.environ.get("QKV_OLDEST_TORCH") == "1"
    torch = OLDEST_TORCH if own_torch else f"{importlib.metadata.version('torch')} {sys.prefix}"
    key = hashlib.sha256(f"{OLDEST.read_text(encoding='utf-8')}{torch}{sys.version}".encode()).hexdigest()[:12]
    cache = request.config.cache.mkdir("oldest")
    folder = cache / key
    python = folder / "bin" / "python"
    with FileLock(cache / "lock"):
        if not (folder / "complete").exists():
            for outdated in (path for path in cache.iterdir() if path.is_dir()):
                shutil.rmtree(outdated)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip = [python, "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check"]
            subprocess.run([*pip, "--no-deps", "--only-binary=:all:", "-r", OLDEST], check=True)
            if own_torch:
                subprocess.run([*pip, f"torch=={OLDEST_TORCH}"], check=True)
            else:
                (site,) = folder.glob("lib/python*/site-packages")
                borrow_torch(site)
            (folder / "complete").touch()
    return python


@pytest.fixture
def alone(oldest, tmp_path, monkeypatch):
    """An empty folder and the environment variables in which another Python sees nothing of this repository."""
    kernel = tmp_path / "jupyter" / "kernels" / "oldest"
    kernel.mkdir(parents=True)
    command = [str(oldest), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "oldest", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    for name in ("empty", "temporary"):
        (tmp_path / name).mkdir()
    unset = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "QKV_KERNEL", "MPLBACKEND")
    settings = {name: value for name, value in os.environ.items() if name not in unset}
    settings |= {"QKV_MODEL": "smollm2", "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path / "temporary")}
    settings |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    return tmp_path / "empty", settings


def execute(notebook, folder, settings):
    """Run a notebook in `folder` with the second environment; its old outputs are dropped first."""
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        kernel_name="oldest",
        timeout=300,
        resources={"metadata": {"path": str(folder)}},
        store_widget_state=False,
    )
    client.execute(env=settings)
    return notebook


def figures(notebook):
    """Which code cells hold a picture."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [any("image/png" in output.get("data", {}) for output in cell.outputs) for cell in code]


def marks(notebook):
    """What the exercise checks say, without their hints: ✓ 4.1, ○ 4.2, ..."""
    texts = (o.text for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs if "text" in o)
    return re.findall(r"^[✓✗○] [\d.]+", "".join(texts), flags=re.MULTILINE)


def test_second_environment_holds_the_oldest_versions_and_no_trace_of_the_repository(oldest, alone):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {canonicalize_name(r.name): r.specifier for r in map(Requirement, project["dependencies"])}
    lines = [line.split("#")[0].strip() for line in OLDEST.read_text(encoding="utf-8").splitlines()]
    pins = {canonicalize_name(r.name): str(r.specifier)[2:] for r in map(Requirement, filter(None, lines))}
    assert set(bounds) - set(pins) == {"torch", "gguf"}
    assert f">={OLDEST_TORCH}".startswith(str(bounds["torch"]))
    raised = {"huggingface-hub", "safetensors"}  # by transformers 5.15
    for name in set(bounds) - {"torch", "gguf"}:
        assert bounds[name].contains(pins[name]), name
        assert name in raised or f">={pins[name]}".startswith(str(bounds[name])), (name, pins[name])
    ask = (
        "import importlib.metadata as m, importlib.util as u, sys; import torch, transformers;"
        "print(u.find_spec('helpers'), u.find_spec('gguf'), u.find_spec('jupytext'), m.version('transformers'), sys.path)"
    )
    done = subprocess.run([oldest, "-c", ask], cwd=alone[0], env=alone[1], capture_output=True, text=True, check=True)
    assert (
        done.stdout.startswith(f"None None None {pins['transformers']} ") and str(ROOT / "helpers") not in done.stdout
    )


# ---- standalone ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def standalone(tmp_path_factory):
    """The folder that `make standalone` writes, made elsewhere."""
    folder = tmp_path_factory.mktemp("standalone")
    command = [sys.executable, ROOT / "notebooks" / "standalone.py", "--to", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    ("name", "overshadowed"), [("vi/04_cosine_smile", False), ("en/02_cosine_and_correlation", True)]
)
def test_standalone_notebook_alone_in_an_empty_folder_runs_to_its_figures(
    standalone, alone, tmp_path, name, overshadowed
):
    folder, settings = alone
    shutil.copy(standalone / f"{name}.ipynb", folder)
    if overshadowed:
        (tmp_path / "other" / "helpers").mkdir(parents=True)
        (tmp_path / "other" / "helpers" / "__init__.py").write_text("raise ImportError('the wrong helpers')")
        settings["PYTHONPATH"] = str(tmp_path / "other")
    (notebook,) = (nbformat.read(path, as_version=4) for path in folder.iterdir())
    expected = [marks(stored(name)), figures(stored(name))]
    execute(notebook, folder, settings)
    assert [marks(notebook), figures(notebook)] == expected and any(figures(notebook))
    (said,) = setup_of(notebook).outputs
    assert re.fullmatch(r"Python 3\.\d+\.\d+ · torch \S+ · transformers 5\.15\.0 · (cpu|cuda: .+)\n", said.text)
    assert [path.suffix for path in folder.iterdir()] == [".ipynb"]  # nothing was left beside it
    assert list((tmp_path / "temporary").glob("qkv-helpers-*")) == []


@pytest.mark.parametrize("name", NAMES)
def test_standalone_notebook_differs_in_its_first_cell_only(standalone, name):
    notebook, original = nbformat.read(standalone / f"{name}.ipynb", as_version=4), stored(name)
    nbformat.validate(notebook)
    cell = setup_of(notebook)
    assert cell.metadata["jupyter"]["source_hidden"] and cell.metadata["cellView"] == "form"
    assert cell.source.startswith("# @title ") and f'set_language("{name[:2]}")' in cell.source
    compile(cell.source, "first cell", "exec")
    cell.source = setup_of(original).source
    assert notebook == original
    assert str(ROOT) not in (standalone / f"{name}.ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_links_between_standalone_notebooks_lead_somewhere(standalone, name):
    path = standalone / f"{name}.ipynb"
    text = "".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\((?!http|#)([^)\s]+\.ipynb)\)", text)
    assert targets and [target for target in targets if not (path.parent / target).exists()] == []


def test_standalone_notebooks_are_the_same_bytes_each_time(standalone, tmp_path):
    command = [sys.executable, ROOT / "notebooks" / "standalone.py", "--to", tmp_path]
    subprocess.run(command, capture_output=True, check=True)
    for name in NAMES:
        assert (tmp_path / f"{name}.ipynb").read_bytes() == (standalone / f"{name}.ipynb").read_bytes()


@pytest.fixture(scope="module")
def carried(standalone):
    """The zip archive inside a standalone notebook."""
    tree = ast.parse(setup_of(nbformat.read(standalone / f"{NAMES[0]}.ipynb", as_version=4)).source)
    assigned = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    return zipfile.ZipFile(io.BytesIO(base64.b64decode(assigned["ARCHIVE"].value)))


def imported(source):
    """Modules of `helpers` that a text imports, inside of functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "helpers":
            found |= {alias.name for alias in node.names if (ROOT / "helpers" / f"{alias.name}.py").exists()}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("helpers.")}
    return found


def test_archive_carries_every_module_that_a_notebook_can_reach_and_the_sentences(carried):
    names = set(carried.namelist())
    assert {f"helpers/data/{path.name}" for path in (ROOT / "helpers" / "data").iterdir()} <= names
    assert all(carried.read(name) == (ROOT / name).read_bytes() for name in names)
    cells = (cell for name in NAMES for cell in stored(name).cells if cell.cell_type == "code")
    reached, waiting = set(), {"__init__"}.union(*(imported(re.sub(r"(?m)^%.*$", "", c.source)) for c in cells))
    while waiting:
        module = waiting.pop()
        reached.add(module)
        waiting |= imported((ROOT / "helpers" / f"{module}.py").read_text(encoding="utf-8")) - reached
    assert len(reached) > 10 and {f"helpers/{module}.py" for module in reached} <= names
    assert "helpers/survey.py" not in names


def test_another_helpers_imported_before_is_refused(standalone, tmp_path):
    (tmp_path / "helpers.py").touch()
    cell = setup_of(nbformat.read(standalone / f"{NAMES[0]}.ipynb", as_version=4))
    done = bare_python(
        "import helpers\n" + cell.source, tmp_path, extra=f"import sys; sys.path.append({str(tmp_path)!r})"
    )
    assert "hãy khởi động lại kernel" in done.stderr and "restart the Jupyter kernel" in done.stderr
    assert str(tmp_path / "helpers.py") in done.stderr


# ---- from a fork ---------------------------------------------------------------------------------


def with_address(source, repository):
    """A stored first cell as it would be in a fork published at `repository`."""
    changed, count = re.subn(r"(?m)^REPOSITORY, BRANCH = .*$", f'REPOSITORY, BRANCH = "{repository}", "main"', source)
    assert count == 1
    return changed


def bare_python(source, folder, extra="", **settings):
    """Run a text with the standard library only."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C.UTF-8", **settings}
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-"]  # by standard input: a text of this length is no argument
    return subprocess.run(
        command,
        input=f"{extra}\n{source}",
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture(scope="module")
def fork(tmp_path_factory):
    """`file://` address of a bare repository with the module in it."""
    folder = tmp_path_factory.mktemp("fork")
    shutil.copytree(ROOT / "helpers", folder / "work" / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
    git += ["-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "module"]):
        subprocess.run([*git, *command], cwd=folder / "work", check=True)
    subprocess.run([*git, "clone", "-q", "--bare", "work", "fork.git"], cwd=folder, check=True)
    return folder / "fork.git"


def test_notebook_opened_from_a_fork_clones_it_once_and_runs(fork, alone, oldest):
    folder, settings = alone
    notebook = stored("en/01_capture_qkv")
    first = setup_of(notebook)
    first.source = with_address(first.source, fork.as_uri())
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    loads = next(i for i, cell in enumerate(code) if "load_model()" in cell.source)
    notebook.cells = code[: loads + 1]
    execute(notebook, folder, settings)
    clone = folder / "qkv-token-similarity"
    assert [path for path in folder.iterdir()] == [clone] and (clone / ".git" / "shallow").exists()
    assert "SmolLM2" in notebook.cells[-1].outputs[0].text

    hidden = fork.rename(fork.with_name("gone.git"))  # the second time needs no repository
    try:
        ask = f"{first.source}\nimport helpers\nprint(helpers.__file__)"
        again = subprocess.run(
            [oldest, "-P", "-c", ask], cwd=folder, env=settings, capture_output=True, text=True, check=True
        )
    finally:
        hidden.rename(fork)
    assert again.stdout.splitlines()[-1] == str(clone / "helpers" / "__init__.py")


@pytest.mark.parametrize(
    ("address", "settings", "reason"),
    [
        ("file:///nowhere/at/all.git", {}, "fatal: "),
        ("{fork}", {"PATH": ""}, "'git'"),
        ("{other}", {}, "no helpers/"),
        ("{blocked}", {}, "already exists and is not an empty directory"),
        ("{branch}", {}, "Remote branch main not found"),
    ],
)
def test_a_clone_that_fails_says_what_was_tried_what_went_wrong_and_what_to_do(
    fork, tmp_path, address, settings, reason
):
    folder, other = tmp_path / "empty", tmp_path / "other"
    for path in (folder, other):
        path.mkdir()
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    branch = "trunk" if address == "{branch}" else "main"
    subprocess.run([*git, "init", "-q", "-b", branch], cwd=other, check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "nothing here"], cwd=other, check=True)
    if address == "{blocked}":
        (folder / "qkv-token-similarity").mkdir()
        (folder / "qkv-token-similarity" / "half").touch()
    repository = {"{fork}": fork.as_uri(), "{blocked}": fork.as_uri()}.get(address, other.as_uri())
    repository = repository if address.startswith("{") else address
    source = with_address(setup_of(stored("vi/04_cosine_smile")).source, repository)
    done = bare_python(source, folder, **settings)
    assert done.returncode and "RuntimeError" in done.stderr and reason in done.stderr
    for text in ("Không tải được học phần", "could not be fetched", "make standalone", str(folder)):
        assert text in done.stderr
    assert reason == "no helpers/" or f"--branch main {repository} qkv-token-similarity" in done.stderr


def test_without_an_address_the_first_cell_says_where_it_looked_and_what_to_do(tmp_path):
    source = with_address(setup_of(stored("vi/04_cosine_smile")).source, "")
    done = bare_python(source, tmp_path, PATH="")
    assert done.returncode and "FileNotFoundError" in done.stderr and "git" not in done.stderr.lower()
    for text in (str(tmp_path), "Không tìm thấy thư mục helpers/", "was not found", "make standalone", "README.vi.md"):
        assert text in done.stderr


# ---- what Colab lacks ----------------------------------------------------------------------------


def test_without_gguf_the_model_is_not_fetched_and_the_message_has_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None if name == "gguf" else object())
    monkeypatch.setattr(models, "_fetch_member", lambda *_: pytest.fail("it was fetched all the same"))
    monkeypatch.setenv("QKV_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=r"%pip install --no-deps gguf in a cell .* restart the Jupyter kernel"):
        models.load_model("smollm2")
    assert not list(tmp_path.glob("smollm2*/"))


def test_a_model_that_is_no_gguf_file_does_not_need_the_package(tmp_path, monkeypatch):
    def fetch(*_):
        raise OSError("fetched")

    monkeypatch.setattr(models, "find_spec", lambda name: None)
    monkeypatch.setattr(models, "_fetch_member", fetch)
    monkeypatch.setenv("QKV_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="^fetched$"):
        models.load_model("minilm")
