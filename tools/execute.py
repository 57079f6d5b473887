"""Execute notebooks, several kernels at a time; used by tools.run and tools.build."""

import os
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import nbformat
import psutil
from jupyter_client import KernelManager
from nbclient import NotebookClient
from tqdm import tqdm

KERNEL_BYTES = 2_000_000_000  # of memory that one kernel with a model may come to need
WIDGET = "application/vnd.jupyter.widget-view+json"


class Job(NamedTuple):
    """One notebook to execute: its kernel starts in `folder`; `seconds` is what it is expected to take."""

    title: str
    notebook: nbformat.NotebookNode
    folder: Path
    seconds: float


class Done(NamedTuple):
    """A notebook that was executed in place: CPU seconds of its kernel, and the exception that ended it, or None."""

    job: Job
    seconds: float
    error: Exception | None


def at_a_time():
    """How many kernels this machine's cores and free memory take side by side; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores, psutil.virtual_memory().available // KERNEL_BYTES))


def execute(notebook, folder, after_cell, kernel):
    """Run all cells, outputs in place.  Returns the CPU seconds of the kernel since it started.

    kernel: a manager; the first to use it starts its kernel, in `folder`, and its owner ends it.
    """
    seconds = 0.0

    def cell_executed(**_):
        nonlocal seconds
        seconds = sum(psutil.Process(kernel.provisioner.pid).cpu_times()[:4])  # with its children's
        after_cell()

    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=600,
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--log-level=40"],
        record_timing=False,
        coalesce_streams=True,
        on_cell_executed=cell_executed,
    )
    client.execute()
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata.pop("widgets", None)
    for cell in code_cells(notebook):
        # a widget is drawn anew by each kernel; its stored view would be an id and nothing else
        cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    return seconds


def code_cells(notebook):
    """The code cells of a notebook, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(cell):
    """The outputs of a code cell that are pictures."""
    return [output for output in cell.outputs if "image/png" in output.get("data", {})]


def execute_in_turn(jobs, after_cell):
    """Execute jobs in one kernel, emptied before each: what they import is loaded once.  Returns what each gave."""
    client = "jupyter_client.asynchronous.AsyncKernelClient"
    kernel, done = KernelManager(kernel_name="python3", client_class=client), []
    try:
        for job in jobs:
            if kernel.has_kernel:
                empty = f"%reset -f\n%cd -q {job.folder}\nget_ipython().execution_count = 0"
                job.notebook.cells.insert(0, nbformat.v4.new_code_cell(empty, id="empty"))
            try:
                done.append(Done(job, execute(job.notebook, job.folder, after_cell, kernel), None))
            except Exception as error:  # noqa: BLE001 - of whatever kind, it belongs to this notebook
                done.append(Done(job, 0.0, error))
            job.notebook.cells = [cell for cell in job.notebook.cells if cell.id != "empty"]
            for number, cell in enumerate(code_cells(job.notebook), start=1):
                cell.execution_count = cell.execution_count and number
    finally:
        if kernel.has_kernel:
            kernel.shutdown_kernel(now=True)
    return done


def execute_all(jobs, in_turn=False):
    """Execute every job, the longest first, under one progress bar; yields each as `Done` when it ends.

    in_turn: one kernel for both languages of a notebook, one after the other.
    Ctrl-C, or leaving the loop over what is yielded, ends the kernels that run.
    """
    groups = {}
    for job in sorted(jobs, key=lambda job: -job.seconds):
        groups.setdefault(job.title.partition("/")[2] if in_turn else job.title, []).append(job)
    running = []
    with tqdm(total=sum(len(code_cells(job.notebook)) for job in jobs) + len(jobs) - len(groups), unit="cell") as bar:

        def work(name, group):
            running.append(name)
            bar.set_postfix_str(", ".join(running))
            try:
                return execute_in_turn(group, bar.update)
            finally:
                running.remove(name)
                bar.set_postfix_str(", ".join(running))

        with ThreadPoolExecutor(at_a_time()) as pool:
            waiting = []
            try:
                for group in groups.items():
                    waiting.append(pool.submit(work, *group))
                for future in as_completed(waiting):
                    yield from future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                while running or not all(future.done() for future in waiting):
                    for kernel in psutil.Process().children(recursive=True):
                        kernel.kill()
                    time.sleep(0.1)
