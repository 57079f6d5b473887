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
from collections import Counter, defaultdict
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path

import psutil
import requests
import websocket
from jupyter_client.session import Session

from helpers.wheels import SMOLLM2

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
    shutil.copytree(cache / SMOLLM2.folder, folder / SMOLLM2.folder)
    subprocess.run(["chmod", "-R", "a=rX", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)
        shutil.rmtree(folder)  # half a gigabyte


class Hub:
    """The hub on this machine, and the memory of each student's processes."""

    def __init__(self, folder, cache):
        ports = free_ports(3)
        self.folder, self.url, self.log = folder, f"http://127.0.0.1:{ports[0]}", folder / "hub.log"
        own = {"QKV_CLASS": str(folder), "QKV_TOKEN": TOKEN, "QKV_PORTS": json.dumps(ports)}
        own |= {"QKV_CACHE": str(cache), "PYTHONPATH": "", "JUPYTERHUB_CRYPT_KEY": secrets.token_hex(32)}
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "--config", str(Path(__file__).with_name("hub_config.py"))],
                cwd=folder,
                env=os.environ | own,
                stdout=output,
                stderr=output,
                preexec_fn=obey_permissions,  # noqa: PLW1509  (two system calls; no thread has started yet)
            )
        self.seconds, self.peaks, self.most = {}, defaultdict(Counter), Counter()
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

    def family(self):
        """{process: its student or None} of the hub and all that it started, also what has lost its parent."""
        found = {process: process.info["environ"] or {} for process in psutil.process_iter(["environ", "cmdline"])}
        return {p: own.get("JUPYTERHUB_USER") for p, own in found.items() if own.get("QKV_CLASS") == str(self.folder)}

    def servers(self):
        """The processes that serve a student."""
        return [process for process in self.family() if "jupyterhub.singleuser" in process.info["cmdline"]]

    def watch(self, pause=0.5):
        """Follow memory and processor time of every student until `stop`."""
        while not self._watching.wait(pause):
            now = defaultdict(Counter)
            for process, user in self.family().items():
                with suppress(psutil.Error):
                    if user:  # not the hub or a service of it
                        used = process.memory_full_info()
                        self.seconds[process.pid] = user, sum(process.cpu_times()[:2])
                        now[user].update(pss=getattr(used, "pss", used.uss), uss=used.uss)  # macOS has no pss
            for user, sums in now.items():
                self.peaks[user] |= sums  # of each, the larger
            self.most |= sum(now.values(), Counter())

    def stop(self):
        self._watching.set()
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        left = self.family()
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
        self.hub, self.name, self.user = hub, name, f"{hub.url}/hub/api/users/{name}"

    def ask(self, method, address, **body):
        answer = requests.request(method, address, headers=HEADER, json=body or None, timeout=90)
        assert answer.ok, f"{method} {address}: {answer.status_code} {answer.text[:300]}"
        return answer.json() if answer.content else None

    @cached_property
    def server(self):
        """Address of the student's server, which is started when it is first asked for."""
        self.ask("POST", self.user)
        self.ask("POST", f"{self.user}/server")
        self.hub.wait(self.user, lambda: self.ask("GET", self.user)["servers"].get("", {}).get("ready"))
        return f"{self.hub.url}/user/{self.name}/api"

    def do(self, path, code=None):
        """([(number of a cell, its traceback)], number of code cells, what was printed) of a notebook, or of `code`."""
        notebook = self.ask("GET", f"{self.server}/contents/{path}")["content"]
        code = code or [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
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
