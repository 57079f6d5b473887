"""The files around the module agree: packages, workflow, licences, and every command and path of the pages."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tools.course import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def text(path):
    return (ROOT / path).read_text(encoding="utf-8")


PROJECT = tomllib.loads(text("pyproject.toml"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
JOB = yaml.safe_load(text(WORKFLOW))["jobs"]["test"]


def passes(*command, **options):
    """Run a command in the repository; returns what it printed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def make(*arguments):
    """A dry run: an unknown target is an error, a known one only prints."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return passes("make", "--dry-run", "--always-make", *arguments, env=environment)


def as_written(requirements):
    """Requirement strings as {name: specifiers}, however they are spelt; those of this module apart."""
    parsed = [Requirement(requirement) for requirement in requirements]
    found = {canonicalize_name(r.name): (r.specifier, r.extras, str(r.marker or "")) for r in parsed}
    assert len(found) == len(parsed), "a package is declared twice"
    found.pop(PROJECT["name"], None)
    return found


def test_conda_environment_has_what_a_reader_needs():
    """conda's python=3.11 is any 3.11; Binder makes its image from the number, and would take 3.10 for >=3.11."""
    *from_conda, with_pip = yaml.safe_load(text("environment.yml"))["dependencies"]
    assert as_written(with_pip["pip"]) == as_written(PROJECT["dependencies"] + EXTRAS["run"] + EXTRAS["lab"])
    version = re.fullmatch(r"python=(\d+\.\d+), pip", ", ".join(from_conda))
    assert SpecifierSet(PROJECT["requires-python"]).contains(version[1])


def test_declared_packages_are_pinned_to_versions_that_are_allowed():
    pins = as_written(filter(None, (line.split("#")[0].strip() for line in text("constraints.txt").splitlines())))
    for extra in (PROJECT["dependencies"], *(EXTRAS[name] for name in EXTRAS if name != "bench")):
        for name, (allowed, _, _) in as_written(extra).items():
            (pin,) = pins[name][0]
            assert pin.operator == "==" and allowed.contains(pin.version, prereleases=True), (name, str(pin))


def test_a_command_installs_its_own_set_of_packages_and_the_tests_all():
    for target in ("run", "lab", "build", "class", "site"):
        sets = re.findall(rf'pip install .*"(\.|{PROJECT["name"]})\[(\w+)\]"', make(target))
        assert dict(sets) == {".": "run"} | ({} if target == "run" else {PROJECT["name"]: target})
    (own,) = [line for line in EXTRAS["test"] if line.startswith(PROJECT["name"])]
    assert Requirement(own).extras == {"run", "lab", "build", "survey", "site", "class"}
    assert as_written(EXTRAS["run"]).keys().isdisjoint({"pytest", "jupyterlab"})


def test_make_test_runs_every_test_file_and_notebook_once():
    (command,) = [line for line in make("test").replace("\\\n", "").splitlines() if "-m pytest" in line]
    words = shlex.split(command.partition("--nbval-current-env")[2])
    files = [str(p.relative_to(ROOT)) for p in (*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("notebooks/??/*.ipynb"))]
    assert len(files) > 40 and "helpers" in words and len(set(words)) == len(words)
    for file in files:
        assert len([word for word in words if file == word or file.startswith(f"{word}/")]) == 1, file
    assert {word[:12] for word in words[:2]} == {"notebooks/en", "notebooks/vi"}  # the longest first


def test_no_tracked_file_names_a_path_of_this_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.decode().strip()}")
    folders = [re.escape(str(folder)).encode() for folder in (Path.home(), ROOT.parent) if len(folder.parts) > 1]
    here = re.compile(rb"(?<![\w.~}])(?:" + b"|".join(folders) + rb")(?![\w.-])")  # no relative path, no URL
    tracked = [path for name in listed.stdout.decode().split("\0") if (path := ROOT / name).is_file()]
    assert len(tracked) > 100 and [str(path) for path in tracked if folders and here.search(path.read_bytes())] == []


def test_workflow_and_citation_are_valid_and_without_known_weakness():
    tools = Path(sys.executable).parent
    for schema, file in (("github-workflows", WORKFLOW), ("citation-file-format", "CITATION.cff")):
        passes(tools / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", file)
    passes(tools / "zizmor", "--offline", "--no-progress", "--persona=pedantic", WORKFLOW)
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == PROJECT["version"] and citation["license"] == ["MIT", "CC-BY-4.0"]
    scripts = [step["run"] for step in JOB["steps"] if "run" in step]
    assert len(scripts) >= 3
    for script in [*scripts, text(".ci/run")]:
        passes("bash", "-n", input=re.sub(r"\$\{\{.*?\}\}", "x", script))


def test_workflow_runs_make_test_on_both_systems_and_keeps_models_and_site():
    steps = {step.get("run") or step["uses"].split("@")[0].removeprefix("actions/"): step for step in JOB["steps"]}
    assert {name.split("-")[0] for name in JOB["strategy"]["matrix"]["os"]} == {"ubuntu", "macos"}
    assert "if" not in steps["make test"] and "make site" in steps  # the tests on both
    assert re.search(r"^make test$", text(".ci/run"), re.MULTILINE)
    cache, python = steps["cache"]["with"], steps["setup-python"]["with"]
    assert "QKV_CACHE" in JOB["env"] and cache["path"] == "${{ env.QKV_CACHE }}"
    (named,) = re.findall(r"hashFiles\('(.*?)'\)", cache["key"])
    assert "wheel_sha256" in text(named)
    uploads = [step for step in JOB["steps"] if step.get("uses", "").startswith("actions/upload-artifact@")]
    assert "build/site" in [step["with"]["path"] for step in uploads]
    assert PROJECT["requires-python"] == f">={python['python-version']}"
    assert all((ROOT / name).is_file() for name in python["cache-dependency-path"].split())


def commands(page):
    """Lines of fenced code, and what stands between backticks."""
    content = text(page)
    spans = re.findall(r"`([^`\n]+)`", FENCED.sub("", content))
    return [line for block in FENCED.findall(content) for line in block.splitlines()] + spans


def calls(page, pattern):
    return {found for line in commands(page) for found in re.findall(pattern, line.split("#")[0])}


def test_make_commands_of_the_pages_have_their_targets():
    lines = [line for page in PAGES for line in commands(page)]
    lines += [line.split("run: ")[-1] for line in (text(WORKFLOW) + text(".ci/run")).splitlines()]
    found = {match[1].strip() for line in lines if (match := re.match(r"\s*(?:sudo )?make ([^#]*)", line))}
    assert {"run", "test", "lab", "class"} <= found
    for arguments in found:
        make(*shlex.split(arguments))


def test_scripts_modules_files_and_links_of_the_pages_are_there():
    folders = r"(?:docs|helpers|notebooks|tests|tools|\.github)"
    assert {ROOT / "README.vi.md", ROOT / "docs" / "classroom.vi.md"} <= set(PAGES)
    for page in PAGES:
        names = calls(page, r"python\S* (?:-m pytest (?:-\S+ )*)?([\w./-]+\.(?:py|ipynb))\b")
        names |= calls(page, rf"(?<![\w/~.-])({folders}/[\w./-]*\w\.(?:py|md|yml|json|txt|ipynb))(?![\w*])")
        names.discard("tools/benchmarks/gpu.json")  # tools.prove_gpu writes it, on a machine with a GPU
        assert [name for name in names if not (ROOT / name).is_file()] == [], page.name
        for module in calls(page, r"python\S* -m ((?:helpers|tools)[\w.]*)"):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), (page.name, module)
        targets = re.findall(r"\]\((?!http)([^)\s#]+)\)", FENCED.sub("", text(page)))
        assert [target for target in targets if not (page.parent / target).exists()] == [], page.name


def test_both_languages_of_a_page_give_the_same_commands_and_links():
    for english in (page for page in PAGES if page.with_suffix(".vi.md").is_file()):
        vietnamese = english.with_suffix(".vi.md")
        if english.name in ("CONTRIBUTING.md", "classroom.md", "start.md"):
            blocks = [[re.sub(r"(?m)\s*#.*", "", b) for b in FENCED.findall(text(p))] for p in (english, vietnamese)]
            assert blocks[0] == blocks[1] and blocks[0], english.name
        lines = text(english).splitlines()[2], text(vietnamese).splitlines()[2]
        assert f"({vietnamese.name})" in lines[0] and f"({english.name})" in lines[1], english.name
