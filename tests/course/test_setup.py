"""The files that set the module up agree with one another."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def as_written(requirements):
    """Requirement strings as {name: specifiers}, however they are spelt."""
    parsed = [Requirement(text) for text in requirements]
    return {canonicalize_name(r.name): (r.specifier, r.extras, str(r.marker or "")) for r in parsed}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def declared(project):
    """All requirements of the module and of its development extra."""
    return project["dependencies"] + project["optional-dependencies"]["dev"]


@pytest.fixture(scope="module")
def conda():
    """What environment.yml asks of conda, and of pip."""
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (with_pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    return [entry for entry in dependencies if isinstance(entry, str)], with_pip


def test_no_package_is_declared_twice(declared):
    assert len(as_written(declared)) == len(declared)


def test_development_extra_has_what_a_survey_needs(project):
    extras = project["optional-dependencies"]
    assert as_written(extras["survey"]).items() <= as_written(extras["dev"]).items()


def test_conda_environment_lists_the_packages_of_pyproject(declared, conda):
    _, with_pip = conda
    assert as_written(with_pip) == as_written(declared)
    assert len(with_pip) == len(declared)


def test_conda_environment_brings_pip_and_a_python_that_pyproject_allows(project, conda):
    """conda's python=3.11 is any 3.11; Binder makes its image from the number, and would take 3.10 for >=3.11."""
    from_conda = dict(re.fullmatch(r"(\w+)(?:=(\d+\.\d+))?", entry).groups() for entry in conda[0])
    assert set(from_conda) == {"python", "pip"}
    assert SpecifierSet(project["requires-python"]).contains(from_conda["python"])


def test_every_declared_package_is_pinned_to_a_version_that_is_allowed(project):
    extras = (project["optional-dependencies"][name] for name in ("dev", "site", "class"))
    declared = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = as_written(line.split("#")[0] for line in lines if line.split("#")[0].strip())
    for name, (allowed, _, _) in as_written(declared).items():
        assert name in pins, f"{name} is missing from constraints.txt"
        (pin,) = pins[name][0]
        assert pin.operator == "==", f"{name} is not pinned in constraints.txt"
        assert allowed.contains(pin.version, prereleases=True), f"{name}: {pin} is outside of {allowed}"


# ---- paths of this machine -----------------------------------------------------------------------


def paths_in(content, folders):
    """Absolute paths inside some folders that a file names, as bytes; relative ones and URLs are none."""
    roots = [str(folder).encode() for folder in folders if len(Path(folder).parts) > 1]
    pattern = b"|".join(rb"(?<![\w.~}])" + re.escape(root) + rb"(?![\w.-])[^\s\"'\\]*" for root in roots)
    return re.findall(pattern, content) if roots else []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see {}/main/x.py, line 3", ["{}/main/x.py,"]),
        ('"file://{}/main"', ["{}/main"]),
        ("cd {}\n", ["{}"]),
        ("https://example.org{}/main ..{}/main ~{} {}book {}-2/x", []),
    ],
)
def test_path_of_this_machine_is_recognised(text, found):
    folder = Path("/some/where").resolve()
    content = text.replace("{}", str(folder)).encode()
    assert paths_in(content, [folder, "/"]) == [path.replace("{}", str(folder)).encode() for path in found]


def test_no_tracked_file_names_a_path_of_this_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.decode().strip()}")
    tracked = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert tracked
    machine = [Path.home(), ROOT.parent]
    named = {str(p.relative_to(ROOT)): paths_in(p.read_bytes(), machine) for p in tracked if p.is_file()}
    assert {file: paths for file, paths in named.items() if paths} == {}
