"""What a fork relies on: its workflow, the licence files, and that every command of the pages is there."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
TOOLS = Path(sys.executable).parent
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def text(path):
    return path.read_text(encoding="utf-8")


def passes(*command, **options):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(text(WORKFLOW))


@pytest.fixture(scope="module")
def steps(workflow):
    return workflow["jobs"]["test"]["steps"]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads(text(ROOT / "pyproject.toml"))["project"]


# ---- the workflow ---------------------------------------------------------------------------------


def test_the_workflow_is_one_that_github_reads():
    passes(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", WORKFLOW)


def test_the_workflow_has_no_known_weakness():
    passes(TOOLS / "zizmor", "--offline", "--no-progress", "--persona=pedantic", WORKFLOW)


def test_every_step_is_valid_shell(steps):
    scripts = [step["run"] for step in steps if "run" in step]
    assert len(scripts) >= 3
    for script in scripts:
        passes("bash", "-n", input=re.sub(r"\$\{\{.*?\}\}", "x", script))


def test_linux_and_macos_run_the_command_of_the_readme(workflow, steps):
    assert {name.split("-")[0] for name in workflow["jobs"]["test"]["strategy"]["matrix"]["os"]} == {"ubuntu", "macos"}
    (run,) = [step for step in steps if step.get("run") == "make test"]
    assert "if" not in run  # on both
    assert re.search(r"^make test\b", text(ROOT / "README.md"), re.MULTILINE)


def test_models_are_kept_where_the_tests_look_under_a_key_of_their_checksums(workflow, steps):
    (cache,) = [step["with"] for step in steps if step.get("uses", "").startswith("actions/cache@")]
    assert "QKV_CACHE" in workflow["jobs"]["test"]["env"]
    assert cache["path"] == "${{ env.QKV_CACHE }}"
    (named,) = re.findall(r"hashFiles\('(.*?)'\)", cache["key"])
    assert "wheel_sha256" in text(ROOT / named)


def test_the_site_is_stored(steps):
    stored = [step["with"]["path"] for step in steps if step.get("uses", "").startswith("actions/upload-artifact@")]
    assert "build/site" in stored
    assert "make site" in [step.get("run") for step in steps]


def test_the_workflow_installs_the_lowest_python_that_is_allowed(steps, project):
    (python,) = [step["with"] for step in steps if step.get("uses", "").startswith("actions/setup-python@")]
    assert project["requires-python"] == f">={python['python-version']}"
    for name in python["cache-dependency-path"].split():
        assert (ROOT / name).is_file()


# ---- licences and citation ------------------------------------------------------------------------


def test_the_citation_is_valid_and_of_this_version(project):
    passes(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.citation-file-format", ROOT / "CITATION.cff")
    citation = yaml.safe_load(text(ROOT / "CITATION.cff"))
    assert citation["version"] == project["version"]
    assert citation["license"] == ["MIT", "CC-BY-4.0"]


def test_licence_files_hold_what_the_readme_says():
    assert text(ROOT / "LICENSE").startswith("MIT License\n\nCopyright (c) 2026 The authors of qkv-token-similarity")
    legal_code = text(ROOT / "LICENSE-TEXT")
    assert "Creative Commons Attribution 4.0 International Public License" in legal_code
    assert re.findall(r"^Section (\d) --", legal_code, re.MULTILINE) == list("12345678")
    for page in ("README.md", "README.vi.md", "CONTRIBUTING.md", "CONTRIBUTING.vi.md"):
        assert re.search(r"\[[^]]*MIT[^]]*\]\(LICENSE\)", text(ROOT / page))
        assert "[CC BY 4.0](LICENSE-TEXT)" in text(ROOT / page)


def test_the_package_names_its_licence_and_carries_it(project):
    assert project["license"] == "MIT AND CC0-1.0"
    for name in project["license-files"]:
        assert (ROOT / name).is_file()


# ---- commands of the pages ------------------------------------------------------------------------


def commands(page):
    """Lines of fenced code, and what stands between backticks."""
    content = text(page)
    spans = re.findall(r"`([^`\n]+)`", FENCED.sub("", content))
    return [line for block in FENCED.findall(content) for line in block.splitlines()] + spans


def calls(page, pattern):
    return {found for line in commands(page) for found in re.findall(pattern, line.split("#")[0])}


def test_pages_are_found():
    names = {str(path.relative_to(ROOT)) for path in PAGES}
    assert {"README.md", "README.vi.md", "CONTRIBUTING.md", "docs/classroom.vi.md"} <= names
    assert calls(ROOT / "README.md", r"^make (\w+)") >= {"run", "test"}


@pytest.mark.parametrize("page", [*PAGES, WORKFLOW], ids=lambda path: path.name)
def test_every_make_command_has_its_target(page):
    lines = commands(page) if page != WORKFLOW else [line.split("run: ")[-1] for line in text(page).splitlines()]
    for line in lines:
        if match := re.match(r"\s*(?:sudo )?make ([^#]*)", line):
            environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
            # A dry run: an unknown target is an error, a known one only prints.
            passes("make", "--dry-run", "--always-make", *shlex.split(match[1]), env=environment)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_script_and_module_that_a_page_runs_is_there(page):
    for script in calls(page, r"python\S* (?:-m pytest (?:-\S+ )*)?([\w./-]+\.(?:py|ipynb))\b"):
        assert (ROOT / script).is_file(), script
    for module in calls(page, r"python\S* -m (helpers[\w.]*)"):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_file_that_a_page_names_is_there(page):
    folders = r"(?:docs|helpers|notebooks|tests|\.github)"
    for name in calls(page, rf"(?<![\w/~.-])({folders}/[\w./-]*\w\.(?:py|md|yml|json|txt|ipynb))(?![\w*])"):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("english", [p for p in PAGES if p.with_suffix(".vi.md").is_file()], ids=lambda path: path.name)
def test_both_languages_give_the_same_commands_and_lead_to_one_another(english):
    vietnamese = english.with_suffix(".vi.md")
    if english.name in ("CONTRIBUTING.md", "classroom.md"):
        blocks = [
            [re.sub(r"\s*#.*", "", block, flags=re.MULTILINE) for block in FENCED.findall(text(page))]
            for page in (english, vietnamese)
        ]
        assert blocks[0] == blocks[1] and blocks[0]
    assert f"({vietnamese.name})" in text(english).splitlines()[2]
    assert f"({english.name})" in text(vietnamese).splitlines()[2]


# ---- Binder ---------------------------------------------------------------------------------------

NOT_INSTALLED = """
import importlib.util, sys
sys.meta_path = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "") + repr(f)]
sys.path = [p for p in sys.path if "__editable__" not in p]
assert importlib.util.find_spec("helpers") is None, "this test must run where helpers is not found"
"""


@pytest.mark.parametrize("language", ["vi", "en"])
def test_the_first_cell_finds_the_checkout_where_nothing_was_installed(language):
    notebook = json.loads(text(ROOT / "notebooks" / language / "04_cosine_smile.ipynb"))
    (setup,) = ["".join(c["source"]) for c in notebook["cells"] if "setup" in c["metadata"].get("tags", [])]
    code = NOT_INSTALLED + setup + "\nimport helpers\nprint(helpers.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "notebooks" / language,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]) == ROOT / "helpers" / "__init__.py"
