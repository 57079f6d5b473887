"""Execute notebooks, each in a kernel of its own and several at a time; used by tools.run and tools.build."""

import os
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import nbformat
import psutil
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


def execute(notebook, folder, after_cell=lambda: None):
    """Run all cells with `folder` as working directory, outputs in place.  Returns the kernel's CPU seconds."""
    seconds = 0.0

    def cell_executed(**_):
        nonlocal seconds
        seconds = sum(psutil.Process(client.km.provisioner.pid).cpu_times()[:4])  # with its children's
        after_cell()

    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
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


def execute_all(jobs):
    """Execute every job, the longest first, under one progress bar; yields each as `Done` when it ends.

    Ctrl-C, or leaving the loop over what is yielded, ends the kernels that run.
    """
    running = []
    with tqdm(total=sum(len(code_cells(job.notebook)) for job in jobs), unit="cell") as bar:

        def work(job):
            running.append(job.title)
            bar.set_postfix_str(", ".join(running))
            try:
                return execute(job.notebook, job.folder, bar.update)
            finally:
                running.remove(job.title)
                bar.set_postfix_str(", ".join(running))

        with ThreadPoolExecutor(at_a_time()) as pool:
            waiting = {pool.submit(work, job): job for job in sorted(jobs, key=lambda job: -job.seconds)}
            try:
                for future in as_completed(waiting):
                    error = future.exception()
                    yield Done(waiting[future], 0.0 if error else future.result(), error)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                while not all(future.done() for future in waiting):
                    for kernel in psutil.Process().children(recursive=True):
                        kernel.kill()
                    time.sleep(0.1)
