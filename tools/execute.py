"""Execute notebooks, several kernels at a time; used by tools.run and tools.build."""

import atexit
import base64
import io
import os
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
from jupyter_client import KernelManager
from nbclient import NotebookClient
from PIL import Image
from tqdm import tqdm

KERNEL_BYTES = 2_000_000_000  # of memory that one kernel with a model may come to need
WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass
class Job:
    """One notebook to execute in place, with what came of it: CPU seconds of its kernel, or what ended it."""

    title: str
    notebook: nbformat.NotebookNode
    folder: Path  # the kernel starts there
    seconds: float  # that it is expected to take
    took: float = 0.0
    error: Exception | None = None


def at_a_time():
    """How many kernels this machine's cores and free memory take side by side; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores, psutil.virtual_memory().available // KERNEL_BYTES))


def code_cells(notebook):
    """The code cells of a notebook, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(cell):
    """The outputs of a code cell that are pictures."""
    return [output for output in cell.outputs if "image/png" in output.get("data", {})]


def opened(picture):
    """An output that is a picture, as PIL opens it."""
    return Image.open(io.BytesIO(base64.b64decode(picture.data["image/png"])))


def seen_in(picture):
    """What a figure says that it shows, for those who cannot see it."""
    return opened(picture).text.get("Description", "")


def execute_in_turn(jobs, after_cell):
    """Execute jobs in one kernel, emptied before each: what they import is loaded once.  Returns the jobs."""
    kernel = KernelManager(kernel_name="python3", client_class="jupyter_client.asynchronous.AsyncKernelClient")
    options = {"timeout": 600, "extra_arguments": ["--log-level=40"], "record_timing": False, "coalesce_streams": True}
    options["on_cell_executed"] = lambda **_: after_cell()
    try:
        for job in jobs:
            if kernel.has_kernel:
                empty = f"%reset -f\n%cd -q {job.folder}\nget_ipython().execution_count = 0"
                job.notebook.cells.insert(0, nbformat.v4.new_code_cell(empty, id="empty"))
            where = {"metadata": {"path": str(job.folder)}}
            client = NotebookClient(job.notebook, km=kernel, resources=where, **options)
            try:
                client.execute()
                job.took = sum(psutil.Process(kernel.provisioner.pid).cpu_times()[:4])  # with its children's
            except Exception as error:  # noqa: BLE001 - of whatever kind, it belongs to this notebook
                job.error = error
            atexit.unregister(client._cleanup_kernel)  # which nbclient forgets where the kernel was killed
            job.notebook.metadata["language_info"] = {"name": "python"}
            job.notebook.metadata.pop("widgets", None)
            job.notebook.cells = [cell for cell in job.notebook.cells if cell.id != "empty"]
            for number, cell in enumerate(code_cells(job.notebook), start=1):
                cell.execution_count = cell.execution_count and number
                # a widget is drawn anew by each kernel; its stored view would be an id and nothing else
                cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    finally:
        if kernel.has_kernel:
            kernel.shutdown_kernel(now=True)
    return jobs


def execute_all(jobs, in_turn=False):
    """Execute every job, the longest first, under one progress bar; yields each when it ends.

    in_turn: one kernel for both languages of a notebook, one after the other.
    Ctrl-C, or leaving the loop over what is yielded, ends the kernels that run.
    """
    groups = {}
    for job in sorted(jobs, key=lambda job: -job.seconds):
        groups.setdefault(job.title.partition("/")[2] if in_turn else job.title, []).append(job)
    running = []
    emptied = len(jobs) - len(groups)  # cells that empty a kernel
    cells = sum(len(code_cells(job.notebook)) for job in jobs) + emptied
    with tqdm(total=cells, unit="cell") as bar, ThreadPoolExecutor(at_a_time()) as pool:

        def work(name, group):
            running.append(name)
            bar.set_postfix_str(", ".join(running))
            try:
                return execute_in_turn(group, bar.update)
            finally:
                running.remove(name)
                bar.set_postfix_str(", ".join(running))

        waiting = []
        try:
            for group in groups.items():
                waiting.append(pool.submit(work, *group))
            pending = waiting
            while pending:
                # each second anew: where other threads start processes, Ctrl-C does not always wake a thread that waits
                done, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            while running or not all(future.done() for future in waiting):
                for kernel in psutil.Process().children(recursive=True):
                    kernel.kill()
                time.sleep(0.1)
