"""A JupyterHub with the class's own configuration on this machine, and students who run notebooks there."""

import ctypes
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import nbformat
import psutil
import requests
import websocket
from jupyter_client.session import Session

from helpers.wheels import SMOLLM2

CONFIG = Path(__file__).resolve().parents[2] / "tools" / "jupyterhub" / "jupyterhub_config.py"
TOKEN = secrets.token_hex(16)
HEADER = {"Authorization": f"token {TOKEN}"}


def free_ports(n):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [s.getsockname()[1] for s in sockets]


def obey_permissions():
    """In a child process: root without its right to read and write what permissions forbid (Linux)."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: gone at the next exec


@contextmanager
def read_only_copy(cache, folder):
    """A model of `cache` in `folder`, which nobody may write to; removed at the end."""
    folder.mkdir()
    shutil.copytree(cache / SMOLLM2.folder, folder / SMOLLM2.folder)
    inside = [folder, *folder.rglob("*")]
    for path in inside:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield folder
    finally:
        for path in filter(Path.is_dir, inside):
            path.chmod(0o755)
        shutil.rmtree(folder)  # half a gigabyte


def alive(process):
    """Whether it still runs; one that ended and was never asked how does not."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


class Hub:
    """The hub on this machine, and the memory of each student's processes."""

    def __init__(self, folder, cache):
        public, hub, api = free_ports(3)
        self.url, self.homes, self.log = f"http://127.0.0.1:{public}", folder / "home", folder / "hub.log"
        self.sign = folder / "stop idle servers now"  # made by a test, see hub_config.py
        self.homes.mkdir()
        own = {"public": public, "hub": hub, "api": api, "token": TOKEN, "config": str(CONFIG)}
        own |= {"homes": str(self.homes), "sign": str(self.sign)}
        environment = {"QKV_CACHE": str(cache), "PYTHONPATH": "", "JUPYTERHUB_CRYPT_KEY": secrets.token_hex(32)}
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "--config", str(Path(__file__).with_name("hub_config.py"))],
                cwd=folder,
                env=os.environ | environment | {"QKV_HUB": json.dumps(own)},
                stdout=output,
                stderr=output,
                preexec_fn=obey_permissions,  # noqa: PLW1509  (two system calls; no thread has started yet)
            )
        self.family = {self.process.pid: psutil.Process(self.process.pid)}
        self.peaks, self.most, self.seconds = {}, {}, {}
        self._watching = threading.Event()

    def wait(self, what, done, seconds=120):
        """Until `done()` is true; a hub that cannot be reached yet is none."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            with suppress(requests.ConnectionError):
                if done():
                    return
            time.sleep(0.3)
        raise TimeoutError(f"still not: {what}\n{self.log.read_text(errors='replace')[-4000:]}")

    def remember(self):
        """The hub and every process below it, also those that will have lost their parent."""
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.process.pid).children(recursive=True)
            self.family |= {process.pid: process for process in found}
        return list(self.family.values())

    def servers(self):
        """The processes that serve a student."""
        found = []
        for process in self.remember():
            with suppress(psutil.NoSuchProcess):  # one that has ended since
                found += [process] if "jupyterhub.singleuser" in process.cmdline() else []
        return found

    def watch(self, pause=0.5):
        """Follow memory and processor time of every student until `stop`."""
        while not self._watching.wait(pause):
            now = {}
            for process in self.remember():
                with suppress(psutil.Error):
                    user = process.environ().get("JUPYTERHUB_USER")
                    if not user:  # the hub or a service of it
                        continue
                    used = process.memory_full_info()
                    self.seconds[process.pid] = user, sum(process.cpu_times()[:2])
                    sums = now.setdefault(user, {"pss": 0, "uss": 0})
                    sums["pss"] += getattr(used, "pss", used.uss)  # macOS knows no proportional share
                    sums["uss"] += used.uss
            for key in ("pss", "uss"):
                for user, sums in now.items():
                    peak = self.peaks.setdefault(user, {"pss": 0, "uss": 0})
                    peak[key] = max(peak[key], sums[key])
                self.most[key] = max(self.most.get(key, 0), sum(sums[key] for sums in now.values()))

    def stop(self):
        self._watching.set()
        self.remember()
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        left = [process for process in self.remember() if alive(process)]
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)


@contextmanager
def running_hub(folder, cache):
    hub = Hub(folder, cache)
    try:
        hub.wait("the hub answers", lambda: requests.get(f"{hub.url}/hub/api", timeout=5).ok)
        threading.Thread(target=hub.watch, daemon=True).start()
        yield hub
    finally:
        hub.stop()


class Student:
    """Starts a server, opens a notebook, runs its cells one after the other."""

    def __init__(self, hub, name):
        self.ready = False
        self.hub, self.user, self.server = hub, f"{hub.url}/hub/api/users/{name}", f"{hub.url}/user/{name}/api"

    def ask(self, method, address, **body):
        answer = requests.request(method, address, headers=HEADER, json=body or None, timeout=90)
        assert answer.ok, f"{method} {address}: {answer.status_code} {answer.text[:300]}"
        return answer.json() if answer.content else None

    def code(self, path):
        """The code cells of a notebook on the student's server, which is started if it is not running."""
        if not self.ready:
            self.ask("POST", self.user)
            self.ask("POST", f"{self.user}/server")
            self.hub.wait(self.user, lambda: self.ask("GET", self.user)["servers"].get("", {}).get("ready"))
            self.ready = True
        notebook = nbformat.from_dict(self.ask("GET", f"{self.server}/contents/{path}")["content"])
        return [cell.source for cell in notebook.cells if cell.cell_type == "code"]

    def do(self, path, code=None):
        """([(number of a cell, its traceback)], number of code cells, what was printed) of a notebook, or of `code`."""
        code = self.code(path) and (code or self.code(path))
        kernel = {"path": path, "type": "notebook", "name": "", "kernel": {"name": "python3"}}
        session = self.ask("POST", f"{self.server}/sessions", **kernel)
        address = f"{self.server}/kernels/{session['kernel']['id']}/channels".replace("http", "ws", 1)
        with closing(websocket.create_connection(address, header=HEADER, timeout=300)) as channel:
            answers = [(n, answer) for n, source in enumerate(code) for answer in execute(channel, source)]
        self.ask("DELETE", f"{self.server}/sessions/{session['id']}")
        errors = [(n, "\n".join(a["content"]["traceback"])) for n, a in answers if a["msg_type"] == "error"]
        return errors, len(code), "".join(a["content"]["text"] for _, a in answers if a["msg_type"] == "stream")


def execute(channel, source):
    """The messages that answer a cell, until its kernel is idle again."""
    content = {"code": source, "silent": False, "store_history": True, "allow_stdin": False}
    message = Session(key=b"").msg("execute_request", content) | {"channel": "shell", "buffers": []}
    channel.send(json.dumps(message, default=str))
    while True:
        received = channel.recv()
        answer = {"parent_header": {}} if isinstance(received, bytes) else json.loads(received)  # pixels of a widget
        if answer["parent_header"].get("msg_id") == message["header"]["msg_id"]:
            yield answer
            if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                return
