"""Who computes the tasks of a survey: this process, new ones on this machine, or a Dask cluster."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import NamedTuple

from helpers.experiments.study import StudyError
from helpers.settings import first_line, get_language, message
from helpers.survey.tasks import code_version, run_task

START = "spawn"  # of new processes: there on every system, and without what this one holds on a GPU
CONNECT_SECONDS = 10


class Workers(NamedTuple):
    """Where tasks are sent to."""

    submit: Callable
    """Takes a task; gives a `concurrent.futures.Future` of what `run_task` returns, which fails with `death` where the
    workers of the task died, and with `CancelledError` where the cluster is lost."""
    at_once: Callable
    """How many tasks may be under way."""
    death: type = BrokenProcessPool
    patience: int = 4
    """Deaths with a task until it is suspect; before, it may be their victim."""
    look: Callable = lambda: None
    """For when nothing has come for long: say so where there is nobody to wait for."""


@contextmanager
def processes(n):
    """`n` new processes, or None: this one.  What they hear and say goes through pipes, so that no port is open by which
    a stranger on the machine could have code run.  `StudyError`: none comes up."""
    if not n:
        yield Workers(_here, lambda: 1)
        return
    context = multiprocessing.get_context(START)
    other_end, life = context.Pipe(duplex=False)

    def start():
        pool = ProcessPoolExecutor(n, context, _live_as_long_as, (other_end,))
        try:
            pool.submit(os.getpid).result()
        except (BrokenProcessPool, OSError) as error:
            reason = f" ({first_line(error)})" if isinstance(error, OSError) else ""
            raise StudyError(message("no_process") + reason) from error
        return pool

    def submit(task):
        try:
            return pools[-1].submit(run_task, task, get_language())
        except BrokenProcessPool:
            pools.append(start())
            return submit(task)

    pools = [start()]
    try:
        yield Workers(submit, lambda: 2 * n)
    finally:
        life.close()
        pools[-1].shutdown(cancel_futures=True)


def _here(task):
    future = Future()
    future.set_result(run_task(task, get_language()))
    return future


def _live_as_long_as(other_end):
    """In a new process: end when the survey does, however it ends, and leave Ctrl-C to it."""

    def watch():
        try:
            other_end.recv()
        finally:
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def cluster(scheduler):
    """The workers of an existing Dask cluster, in this version of the module; `scheduler` is its address or itself.
    `StudyError`: it does not answer, or its workers lack a package or have another version."""
    from distributed import Client, KilledWorker

    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise StudyError(message("no_cluster", scheduler=scheduler, error=first_line(error))) from error

    def n_threads():
        return sum(client.nthreads().values())

    def look():
        if not n_threads():
            print(message("no_workers"), file=sys.stderr)

    with client:
        try:
            versions = client.run(code_version)
        except ModuleNotFoundError as error:
            raise StudyError(message("bare_workers", error=error)) from error
        if other := sorted(address for address, version in versions.items() if version != code_version()):
            raise StudyError(message("other_workers", which=", ".join(other)))
        look()
        executor, language = client.get_executor(pure=False), get_language()  # workers may be threads of this process

        def submit(task):
            return executor.submit(run_task, task, language)

        yield Workers(submit, lambda: 2 * max(1, n_threads()), KilledWorker, 1, look)  # Dask has tried several
