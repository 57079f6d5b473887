"""A class on a real JupyterHub: what a student takes, for docs/classroom*.md.

    python tools/benchmarks/hub.py measure    run notebook 04 for 1, 4 and 8 students, write hub.json
    python tools/benchmarks/hub.py write      put hub.json into the tables of docs/classroom*.md

The hub runs tools/jupyterhub/jupyterhub_config.py as it stands, but for the lines of `OVERRIDES`: free ports,
accounts that need no Unix user, and no limits.  tests/course/test_hub.py uses the same classes.
"""

import ctypes
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from statistics import linear_regression

import nbformat
import psutil
import requests
import websocket
from jupyter_client.session import Session

from tools.benchmarks.report import between, decimals, processor, table, versions, write

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "tools" / "jupyterhub" / "jupyterhub_config.py"
RESULTS = Path(__file__).with_name("hub.json")
PAGES = {"en": ROOT / "docs" / "classroom.md", "vi": ROOT / "docs" / "classroom.vi.md"}
NOTEBOOK = "vi/04_cosine_smile.ipynb"
USERS = (1, 4, 8)
CLASS = 40
PASSWORD = secrets.token_hex(8)

OVERRIDES = """
c = get_config()
load_subconfig({config!r})
c.JupyterHub.bind_url = "http://127.0.0.1:{public}"
c.JupyterHub.hub_port = {hub}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api}"
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = {password!r}
c.SharedPasswordAuthenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = {homes!r} + "/{{username}}"
c.Spawner.args = [*c.Spawner.args, "--allow-root"]
c.Spawner.environment["PIP_NO_INDEX"] = "1"  # a download would fail, not slip by
c.Spawner.environment["HF_HUB_OFFLINE"] = "1"
{more}
"""


def free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def obey_permissions():
    """In a child process: root without its right to read and write what permissions forbid (Linux)."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: gone at the next exec


def read_only_copy(cache, folder):
    """A model of `cache` in `folder`, which nobody may write to."""
    folder.mkdir()
    name = "smollm2-135m-instruct-0.1.2"
    shutil.copytree(cache / name, folder / name)
    for path in folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder.chmod(0o555)
    return folder


def writable_again(folder):
    for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
        path.chmod(0o755)


def state(folder):
    """What would tell that somebody wrote into `folder`."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted([folder, *folder.rglob("*")])
    }


def alive(process):
    """Whether it still runs; one that ended and was never asked how does not."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


class Hub:
    """The hub on this machine, and the memory of each student's processes."""

    def __init__(self, folder, cache, more=""):
        public, hub, api = free_ports(3)
        self.url, self.folder = f"http://127.0.0.1:{public}", folder
        self.homes, self.log = folder / "home", folder / "hub.log"
        self.homes.mkdir()
        values = {"config": str(CONFIG), "homes": str(self.homes), "password": PASSWORD, "more": more}
        (folder / "config.py").write_text(OVERRIDES.format(public=public, hub=hub, api=api, **values), encoding="utf-8")
        command = [sys.executable, "-m", "jupyterhub", "--config", str(folder / "config.py")]
        own = {"QKV_CACHE": str(cache), "PYTHONPATH": "", "JUPYTERHUB_CRYPT_KEY": secrets.token_hex(32)}
        output = self.log.open("w")
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | own,
            stdout=output,
            stderr=output,
            preexec_fn=obey_permissions,  # noqa: PLW1509  (two system calls; no thread has started yet)
        )
        self.family = {}
        self.peaks, self.most, self.seconds = {}, {}, {}
        self._watching = threading.Event()

    def wait(self, seconds=90):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"JupyterHub ended with code {self.process.returncode}:\n{self.said()}")
            with suppress(requests.RequestException):
                if requests.get(f"{self.url}/hub/api", timeout=5).ok:
                    return
            time.sleep(0.3)
        raise TimeoutError(f"JupyterHub did not answer within {seconds} s:\n{self.said()}")

    def said(self):
        return self.log.read_text(errors="replace")[-4000:]

    def remember(self):
        """Every process below the hub, also those that will have lost their parent."""
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.process.pid).children(recursive=True)
            self.family |= {process.pid: process for process in found}
        return list(self.family.values())

    def watch(self, pause=0.5):
        """Follow memory and processor time of every student until `stop`."""
        while not self._watching.wait(pause):
            now = {}
            for process in self.remember():
                with suppress(psutil.Error, KeyError):
                    user = self.seconds.get(process.pid, (process.environ()["JUPYTERHUB_USER"],))[0]
                    if not user:  # a service of the hub
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

    def start_watching(self):
        self._thread = threading.Thread(target=self.watch, daemon=True)
        self._thread.start()

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
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def running_hub(folder, cache, more=""):
    hub = Hub(folder, cache, more)
    try:
        hub.wait()
        yield hub
    finally:
        hub.stop()


class Student:
    """What a browser does: log in, start a server, open a notebook, run its cells one after the other."""

    def __init__(self, hub, name):
        self.hub, self.name, self.web = hub, name, requests.Session()
        self.base = f"{hub.url}/user/{name}/"

    def log_in(self):
        self.web.get(f"{self.hub.url}/hub/login", timeout=30)
        form = {"username": self.name, "password": PASSWORD, "_xsrf": self._token("/hub/")}
        done = self.web.post(f"{self.hub.url}/hub/login", data=form, timeout=90)
        assert done.ok and "/hub/login" not in done.url, f"{self.name} could not log in: {done.status_code} {done.url}"

    def start_server(self, seconds=120):
        self.web.get(f"{self.hub.url}/hub/spawn", timeout=90)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            page = self.web.get(f"{self.base}lab", timeout=90)
            if page.ok and page.url.startswith(self.base):
                return
            time.sleep(0.5)
        raise TimeoutError(f"no server for {self.name} within {seconds} s:\n{self.hub.said()}")

    def _token(self, path):
        """The anti-forgery cookie of this path."""
        found = [cookie.value for cookie in self.web.cookies if cookie.name == "_xsrf" and cookie.path == path]
        if not found:
            raise LookupError(
                f"no _xsrf cookie for {path}; there are {[(cookie.name, cookie.path) for cookie in self.web.cookies]}"
            )
        return found[0]

    def api(self, method, where, **body):
        headers = {"X-XSRFToken": self._token(f"/user/{self.name}/"), "Referer": f"{self.base}lab"}
        answer = self.web.request(method, f"{self.base}api/{where}", headers=headers, json=body or None, timeout=90)
        assert answer.ok, f"{method} {where}: {answer.status_code} {answer.text[:300]}"
        return answer.json() if answer.content else None

    def run(self, path):
        """Run a notebook; returns its errors as [(number of the cell, traceback)], and the number of code cells."""
        notebook = nbformat.from_dict(self.api("GET", f"contents/{path}")["content"])
        code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        with self.kernel(path) as execute:
            answers = [(number, answer) for number, source in enumerate(code) for answer in execute(source)]
        errors = [(n, "\n".join(a["content"]["traceback"])) for n, a in answers if a["msg_type"] == "error"]
        return errors, len(code)

    def run_code(self, source):
        """What `source` prints in a kernel of its own, beside the notebooks."""
        with self.kernel("vi/new.ipynb") as execute:
            answers = list(execute(source))
        return "".join(a["content"]["text"] for a in answers if a["msg_type"] == "stream")

    @contextmanager
    def kernel(self, path):
        """A kernel in the folder of `path`, as a function from source to the messages that answer it."""
        session = self.api("POST", "sessions", path=path, type="notebook", name="", kernel={"name": "python3"})
        address = f"{self.base}api/kernels/{session['kernel']['id']}/channels".replace("http://", "ws://")
        ours = ("/", f"/user/{self.name}/")
        cookies = "; ".join(f"{k.name}={k.value}" for k in self.web.cookies if k.path in ours)
        channel = websocket.create_connection(address, cookie=cookies, timeout=300, origin=self.hub.url)
        wire = Session(key=b"")

        def execute(source):
            content = {"code": source, "silent": False, "store_history": True, "allow_stdin": False}
            message = wire.msg("execute_request", content) | {"channel": "shell", "buffers": []}
            channel.send(json.dumps(message, default=str))
            while True:
                received = channel.recv()
                if isinstance(received, bytes):  # pixels of a widget
                    continue
                answer = json.loads(received)
                if answer["parent_header"].get("msg_id") != message["header"]["msg_id"]:
                    continue
                yield answer
                if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                    return

        try:
            yield execute
        finally:
            channel.close()
            self.api("DELETE", f"sessions/{session['id']}")

    def do(self, path):
        self.log_in()
        self.start_server()
        return self.run(path)


# ---- measuring ------------------------------------------------------------------------------------


def measure():
    from helpers.settings import cache_dir
    from helpers.wheels import SMOLLM2, wheel_model_folder

    wheel_model_folder(SMOLLM2)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cache = read_only_copy(cache_dir(), Path(folder, "cache"))
        try:
            for n in USERS:
                room = Path(folder, str(n))
                room.mkdir()
                rows.append(measure_class(n, room, cache))
                print(rows[-1], flush=True)
        finally:
            writable_again(cache)
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("jupyterhub", "jupyterlab", "torch", "transformers")},
    }
    RESULTS.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def measure_class(n, folder, cache):
    load = os.getloadavg()[0]
    with running_hub(folder, cache) as hub:
        students = [Student(hub, f"student{i}") for i in range(n)]
        hub.start_watching()
        start = time.perf_counter()
        with ThreadPoolExecutor(n) as pool:
            for errors, _ in pool.map(lambda student: student.do(NOTEBOOK), students):
                if errors:
                    raise RuntimeError(f"a cell failed: {errors[0]}")
        wall = time.perf_counter() - start
        time.sleep(1.5)
    return {
        "users": n,
        "seconds": wall,
        "cpu": sum(seconds for _, seconds in hub.seconds.values()) / n,
        "pss": hub.most["pss"],
        "uss": max(peak["uss"] for peak in hub.peaks.values()),
        "load": load,
    }


# ---- the pages ------------------------------------------------------------------------------------

TEXT = {
    "en": {
        "header": ["students at once", "seconds until all are done", "processor seconds a student",
                   "memory of all, MiB", "of it a student, MiB", "shared with nobody, the most of one student, MiB"],
        "machine": "Measured on {processor}, {cores} cores, {memory:.0f} GiB of memory; {versions}. "
                   "Load before each run: {load} (other work ran at the same time).",
        "slope": "From {first} to {last} students each one more takes {slope:.0f} MiB. Carried on in a straight line "
                 "to {size} students: {total:.0f} GiB at the peak, and {cpu:.0f} processor seconds, which is "
                 "{minutes:.0f} minutes on 8 cores if everybody presses the button at once. This line was not measured.",
    },
    "vi": {
        "header": ["số sinh viên cùng lúc", "số giây đến khi tất cả chạy xong", "số giây bộ xử lý mỗi sinh viên",
                   "bộ nhớ của tất cả, MiB", "chia đều mỗi sinh viên, MiB", "phần không chung với ai, lớn nhất ở một sinh viên, MiB"],
        "machine": "Đo trên {processor}, {cores} nhân, {memory:.0f} GiB bộ nhớ; {versions}. "
                   "Tải trước mỗi lần đo: {load} (máy còn chạy việc khác cùng lúc).",
        "slope": "Từ {first} đến {last} sinh viên, mỗi người thêm vào cần {slope:.0f} MiB. Kéo dài đường thẳng ấy đến "
                 "{size} sinh viên: {total:.0f} GiB lúc cao nhất và {cpu:.0f} giây bộ xử lý, tức {minutes:.0f} phút "
                 "trên 8 nhân nếu mọi người bấm chạy cùng một lúc. Dòng này là ngoại suy, không phải số đo.",
    },
}  # fmt: skip


def memory(results, language):
    """The table and its two sentences."""
    t, rows, m = TEXT[language], results["rows"], results["machine"]
    cells = [
        [row["users"], f"{row['seconds']:.0f}", f"{row['cpu']:.0f}"]
        + [f"{value / 2**20:.0f}" for value in (row["pss"], row["pss"] / row["users"], row["uss"])]
        for row in rows
    ]
    slope, start = linear_regression([row["users"] for row in rows], [row["pss"] / 2**20 for row in rows])
    cpu = CLASS * rows[-1]["cpu"]
    load = decimals("; ".join(f"{row['load']:.1f}" for row in rows), language)
    machine = t["machine"].format(
        processor=m["processor"], cores=m["cores"], memory=m["memory"] / 2**30, versions=versions(m), load=load
    )
    total = (start + slope * CLASS) / 1024
    line = t["slope"].format(
        first=rows[0]["users"],
        last=rows[-1]["users"],
        slope=slope,
        size=CLASS,
        total=total,
        cpu=cpu,
        minutes=cpu / 8 / 60,
    )
    return f"{table(t['header'], cells)}\n\n{machine}\n\n{line}"


def page(text, results, language):
    """The page with what was measured made anew."""
    return between(text, "memory", memory(results, language))


if __name__ == "__main__":
    if sys.argv[1:] not in (["measure"], ["write"]):
        sys.exit(__doc__)
    measure() if sys.argv[1] == "measure" else write(page, PAGES, RESULTS)
