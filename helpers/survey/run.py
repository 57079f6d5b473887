"""Many models, layers and target words in one table, on one machine or on a Dask cluster.

    python -m helpers.survey --models smollm2 --targets her water --out survey.parquet
    python -m helpers.survey --models gpt2 smollm2 --sentences corpus.txt --workers 4 --out survey.parquet
    python -m helpers.survey --scheduler tcp://10.0.0.1:8786 --shard-size 10000 --out survey.parquet ...

The sentences are cut into shards.  A task is one shard under one model and target; it gives partial sums of every
layer (see `add`), which the program keeps in `OUT.parts/`.  When all tasks of a model and target are done, their sums
are merged in a fixed binary tree and become rows of the table.  So the table depends on the cut into tasks alone, not
on who computed what, when, or how often it was stopped.  Its columns are described in `helpers/data/survey.toml`.

Sentences are cleaned as in a reader's study (`read_sentences`), so that none is there twice.  Each counts once, by the
first place where the target is a whole word (`word_in`); a sentence without it, with no text before it, or longer than
the model reads, is skipped (for target and control alike, so that both have the same n).
"""

import argparse
import errno
import multiprocessing
import os
import sys
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, CancelledError, wait
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from helpers.experiments.study import StudyError, cleaned, read_sentences
from helpers.settings import LANGUAGES, first_line, get_language, message, say, set_language
from helpers.survey.table import write_table
from helpers.survey.tasks import Failure, Store, Task, code_version, short_hash
from helpers.survey.workers import cluster, processes
from helpers.text import TARGETS, load_sentences, sentence_sets

DISK = {
    "disk_full": (errno.ENOSPC, errno.EDQUOT),
    "disk_closed": (errno.EACCES, errno.EPERM, errno.EROFS),
    "disk_folder": (errno.EEXIST, errno.EISDIR, errno.ENOTDIR),
}
NEWS_SECONDS = 30  # without a result until somebody looks whether there are workers at all


def survey(
    models, targets, out, *, sentences=None, layers=None, shard_size=1024, device=None, workers=None, scheduler=None
):
    """Compute what is not yet computed, and write the table.

    Args:
        models: names for `load_model`.
        targets: words, with or without their leading space.
        out: the parquet file; `OUT.parts/` keeps finished tasks, `OUT.errors.csv` says what failed.
        sentences: for every target, a list or a file, cleaned by `read_sentences`; None takes the module's own sets.
        layers: list of layer numbers, None for all.
        shard_size: sentences a task.
        device: for `load_model`; None takes a GPU where a worker has one.
        workers: processes on this machine; scheduler: address of a Dask cluster (or the cluster object).  With
            neither, one task after the other in this process.

    Returns:
        `{(model, target): message}` of what failed; the table has the rest.

    Raises:
        StudyError: what the user can mend; the disk and the connection to the cluster are among it.
    """
    # a new process reads the script of its survey, which calls this outside a main guard; so multiprocessing asks itself
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit
    needed = ("pyarrow",) if scheduler is None else ("pyarrow", "distributed")
    if missing := ", ".join(name for name in needed if find_spec(name) is None):
        raise StudyError(message("survey_packages", error=missing))
    models, targets = ([names] if isinstance(names, str) else names for names in (models, targets))
    out, layers = Path(out), None if layers is None else tuple(layers)
    for option, n in (("--shard-size", shard_size), ("--workers", workers)):
        if n is not None and n < 1:
            raise StudyError(message("at_least_one", option=option, n=n))
    try:
        groups = _groups(models, targets, sentences, layers, shard_size, device)
        if not out.absolute().parent.is_dir() or out.is_dir():
            raise StudyError(message("no_out", out=out))
        if out.exists() and out.open("rb").read(4) != b"PAR1":
            raise StudyError(message("other_out", out=out))
        store = Store(out.with_name(out.name + ".parts"))
        with FileLock(store.folder / "lock", timeout=0):
            return _locked_survey(out, groups, store, workers, scheduler)
    except Timeout:
        raise StudyError(message("other_survey", out=out)) from None
    except OSError as error:
        key = next((key for key, numbers in DISK.items() if error.errno in numbers), None)
        why = message(key) if key else first_line(error)
        raise StudyError(message("disk", path=error.filename or out, why=why)) from error


def _locked_survey(out, groups, store, workers, scheduler):
    tasks = {task.key: task for group in groups.values() for task in group}
    if n_damaged := store.find(set(tasks)):
        print(message("damaged", n=n_damaged, folder=store.folder), file=sys.stderr)
    missing = [task for key, task in tasks.items() if key not in store.files]
    n, n_before, failed = len(tasks), len(tasks) - len(missing), {}

    def keep(task, result):
        if isinstance(result, Failure):
            hit = [g for g in groups if g[0] == task.model] if result.whole_model else [(task.model, task.target)]
            failed.update({group: result.message for group in hit if group not in failed})
        else:
            store.put(task.key, result)
            bar.update()

    unit, what = say("tác vụ", "task"), say("khảo sát", "survey")
    with tqdm(total=n, initial=n_before, unit=f" {unit}", desc=what, disable=not missing) as bar:
        if missing:
            with processes(workers) if scheduler is None else cluster(scheduler) as connected:
                _compute(connected, missing, failed, keep)
    write_table(out, groups, failed, store)
    n_new = len(set(tasks) & set(store.files)) - n_before
    print(message("survey_done", n=n, n_before=n_before, n_new=n_new, out=out), file=sys.stderr)
    return failed


def _groups(models, targets, sentences, layers, shard_size, device):
    """{(model, target): its tasks}, all of one model together, so that a worker rarely changes its model."""
    targets = list(dict.fromkeys(map(cleaned, targets)))
    if not all(targets):
        raise StudyError(message("empty_target"))
    own_sets = [name for name in sentence_sets() if name not in TARGETS]  # those named by their word
    unknown = ", ".join(target for target in targets if target not in own_sets)
    if sentences is None and unknown:
        raise StudyError(message("target_without_set", known=", ".join(own_sets), unknown=unknown))
    if sentences is not None:
        sentences, notes = read_sentences(sentences)
        print(*notes, sep="\n", end="\n" if notes else "", file=sys.stderr)
    code, groups = code_version(), {}
    for model in dict.fromkeys(models):
        files = [(path.name, path.stat()) for path in sorted(Path(model).expanduser().glob("*"))]  # of a local model
        edits = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
        for target in targets:
            used = sentences or load_sentences(target)
            shards = [tuple(used[i : i + shard_size]) for i in range(0, len(used), shard_size)]
            known = model, edits, target, layers, code
            groups[model, target] = [Task(model, target, s, layers, device, short_hash(*known, s)) for s in shards]
    return groups


def _compute(workers, tasks, failed, keep):
    """Run tasks and `keep` each result as it comes; two tasks a worker are under way, so that none pile up.

    A task whose workers died again and again may have been their victim or the cause: it and the rest of its model run
    again at the end, one at a time, so that a model too large for the memory takes no other along.
    """
    waiting, running, doubtful, deaths = deque(tasks), {}, set(), Counter()  # running: {future: task}
    while waiting or running:
        at_once = workers.at_once()
        while waiting and len(running) < (1 if waiting[0].model in doubtful else at_once):
            task = waiting.popleft()
            if (task.model, task.target) not in failed:
                running[workers.submit(task)] = task
        done = wait(running, timeout=NEWS_SECONDS, return_when=FIRST_COMPLETED).done
        if running and not done:
            workers.look()
        for future in done:
            task, result = running.pop(future), _result(future, workers)
            if result is not None:
                keep(task, result)
                continue
            deaths[task.key] += 1
            if deaths[task.key] == 2 * workers.patience:
                keep(task, Failure(message("workers_died"), whole_model=True))
                continue
            if deaths[task.key] == workers.patience:
                doubtful.add(task.model)
            waiting = deque(sorted([task, *waiting], key=lambda task: task.model in doubtful))


def _result(future, workers):
    """What `run_task` returned, a `Failure` where it could not even run, None where its workers died."""
    try:
        return future.result()
    except workers.death:
        return None
    except CancelledError as error:
        raise StudyError(message("lost_cluster")) from error
    except Exception as error:  # noqa: BLE001  the others go on
        return Failure(f"{type(error).__name__}: {error}", False)


def main(argv=None):
    """Exit code: 0 all done, 1 something failed (see OUT.errors.csv), 2 stopped with a message, 130 interrupted.
    Whatever the code, finished tasks are kept."""
    parser = argparse.ArgumentParser(prog="python -m helpers.survey", description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=[os.environ.get("QKV_MODEL") or "smollm2"], metavar="NAME")
    parser.add_argument("--targets", nargs="+", default=["her"], metavar="WORD")
    parser.add_argument("--sentences", type=Path, metavar="FILE", help="one a line; default: the module's own sets")
    parser.add_argument("--layers", nargs="+", type=int, metavar="N", help="default: all")
    parser.add_argument("--shard-size", type=int, default=1024, metavar="N", help="sentences a task")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.parquet")
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--language", choices=LANGUAGES, default=get_language())
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, metavar="N", help="processes on this machine")
    where.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="an existing Dask cluster")
    options = vars(parser.parse_args(argv))
    set_language(options.pop("language"))
    try:
        failed = survey(**options)
    except KeyboardInterrupt:
        print(message("survey_stopped"), file=sys.stderr)
        return 130
    except StudyError as error:
        print(f"survey: {error}", file=sys.stderr)
        return 2
    for (model, target), reason in failed.items():
        print(say("thất bại", "failed") + f": {model}, {target!r}: {reason}", file=sys.stderr)
    return 1 if failed else 0
