"""Many models, layers and target words in one table, on one machine or on a Dask cluster.

    python -m helpers.survey --models smollm2 --targets her water --out survey.parquet
    python -m helpers.survey --models gpt2 smollm2 --sentences corpus.txt --workers 4 --out survey.parquet
    python -m helpers.survey --scheduler tcp://10.0.0.1:8786 --shard-size 10000 --out survey.parquet ...

The sentences are cut into shards.  A task is one shard under one model and target; it gives partial sums of every
layer (see `add`), which the program keeps in `OUT.parts/`.  When all tasks of a model and target are done, their sums
are merged in a fixed binary tree and become rows of the table.  So the table depends on the cut into tasks alone, not
on who computed what, when, or how often it was stopped.  Its columns are described in `helpers/survey/table.py`.

Sentences are cleaned as in a reader's study (`read_sentences`), so that none is there twice.  Each counts once, by its
first target token; a sentence without it, with nothing before it, or longer than the model reads, is skipped (for
target and control alike, so that both have the same n).
"""

import argparse
import os
import sys
from collections import deque
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from helpers.experiments.study import StudyError, read_sentences
from helpers.settings import LANGUAGES, get_language, say, set_language
from helpers.survey.table import write_table
from helpers.survey.tasks import Failure, Store, Task, code_version, run_task, short_hash
from helpers.text import TARGETS, load_sentences, sentence_sets

SHARD_SIZE = 1024
CONNECT_SECONDS = 10
NEWS_SECONDS = 30  # without a result until somebody looks whether there are workers at all


def survey(
    models,
    targets,
    out,
    *,
    sentences=None,
    layers=None,
    shard_size=SHARD_SIZE,
    device=None,
    workers=None,
    scheduler=None,
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
        StudyError: what the user can mend.  OSError: the disk, or the connection to the cluster.
    """
    try:
        import distributed  # noqa: F401
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        what = say("khảo sát cần thêm vài gói", "a survey needs some more packages")
        raise StudyError(f"{what} ({error}): pip install dask distributed pyarrow") from error
    out, layers = Path(out), None if layers is None else tuple(layers)
    for option, n in (("--shard-size", shard_size), ("--workers", workers)):
        if n is not None and n < 1:
            raise StudyError(f"{option}: " + say(f"cần ít nhất 1, nhận được {n}", f"expected at least 1, got {n}"))
    groups = _groups(models, targets, sentences, layers, shard_size, device)
    if not out.absolute().parent.is_dir() or out.is_dir():
        what = say("cần tên tệp trong một thư mục đã có", "expected a file in an existing folder")
        raise StudyError(f"--out {out}: {what}")
    store = Store(out.with_name(out.name + ".parts"))
    try:
        with FileLock(store.folder / "lock", timeout=0):
            return _locked_survey(out, groups, store, workers, scheduler)
    except Timeout as error:
        vi = f"một khảo sát khác đang ghi vào {out}: hãy đợi nó xong"
        raise StudyError(say(vi, f"another survey writes to {out}: wait for its end")) from error


def _locked_survey(out, groups, store, workers, scheduler):
    tasks = {task.key: task for group in groups.values() for task in group}
    store.find(set(tasks))
    missing = [task for key, task in tasks.items() if key not in store.files]
    n, n_before, failed = len(tasks), len(tasks) - len(missing), {}

    def keep(task, result):
        if isinstance(result, Failure):
            hit = [g for g in groups if g[0] == task.model] if result.whole_model else [(task.model, task.target)]
            failed.update({group: result.message for group in hit if group not in failed})
        else:
            store.put(task.key, result)
            bar.update()

    if missing:
        unit, what = say("tác vụ", "task"), say("khảo sát", "survey")
        connect = _own_cluster(workers) if scheduler is None else _existing_cluster(scheduler)
        with connect as (client, no_worker), tqdm(total=n, initial=n_before, unit=f" {unit}", desc=what) as bar:
            suspects = _compute(client, no_worker, missing, failed, keep)
            _compute(client, no_worker, suspects, failed, keep, alone=True)
    write_table(out, groups, failed, store)
    n_new = len(set(tasks) & set(store.files)) - n_before
    vi = f"{n} tác vụ: {n_before} đã có sẵn, {n_new} vừa tính; bảng: {out}"
    print(say(vi, f"{n} tasks: {n_before} from before, {n_new} computed; table: {out}"), file=sys.stderr)
    return failed


def _groups(models, targets, sentences, layers, shard_size, device):
    """{(model, target): its tasks}, all of one model together, so that a worker rarely changes its model."""
    targets = list(dict.fromkeys(target.strip() for target in targets))
    if not all(targets):
        raise StudyError(say("--targets: có một từ rỗng", "--targets: a word is empty"))
    own_sets = [name for name in sentence_sets() if name not in TARGETS]  # those named by their word
    unknown = ", ".join(target for target in targets if target not in own_sets)
    if sentences is None and unknown:
        known = ", ".join(own_sets)
        vi = f"--targets: học phần chỉ có câu cho {known}, không có cho {unknown}: hãy thêm --sentences FILE"
        en = f"--targets: the module has sentences for {known}, none for {unknown}: give --sentences FILE"
        raise StudyError(say(vi, en))
    if sentences is not None:
        sentences, notes = read_sentences(sentences)
        print(*notes, sep="\n", end="\n" if notes else "", file=sys.stderr)
    code, groups = code_version(), {}
    for model in dict.fromkeys(models):
        for target in targets:
            used = sentences or load_sentences(target)
            shards = [tuple(used[i : i + shard_size]) for i in range(0, len(used), shard_size)]
            known = model, _files_of(model), target, layers, code
            groups[model, target] = [Task(model, target, s, layers, device, short_hash(*known, s)) for s in shards]
    return groups


def _files_of(model):
    """Names, sizes and times of a local model, so that an edited one is computed anew."""
    folder = Path(model).expanduser()
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())] if folder.is_dir() else []
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


@contextmanager
def _own_cluster(workers):
    """A Dask client of new processes here, or of this process, and what to do when there are no workers."""
    from distributed import Client, LocalCluster

    n, options = workers or 1, {"dashboard_address": "127.0.0.1:0", "silence_logs": "ERROR"}
    with (
        LocalCluster(n_workers=n, threads_per_worker=1, processes=bool(workers), **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):

        def start_again():  # all processes died before Dask could see why
            cluster.scale(0)
            cluster.scale(n)

        yield client, start_again


@contextmanager
def _existing_cluster(scheduler):
    """A Dask client of a cluster whose workers have this version, and what to do when there are no workers."""
    from distributed import Client

    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        vi = f"không kết nối được bộ điều phối Dask {scheduler} ({error}): hãy kiểm tra địa chỉ, ví dụ "
        en = f"no Dask scheduler answers at {scheduler} ({error}): check the address, such as "
        raise StudyError(say(vi, en) + "tcp://10.0.0.1:8786") from error
    with client:
        try:
            versions = client.run(code_version)
        except ModuleNotFoundError as error:
            vi = f"các worker thiếu một gói ({error}): hãy cài học phần này trong môi trường của chúng"
            en = f"the workers lack a package ({error}): install this module in their environment"
            raise StudyError(say(vi, en)) from error
        other = ", ".join(sorted(address for address, version in versions.items() if version != code_version()))
        if other:
            vi = f"worker {other} có phiên bản khác của học phần, torch hoặc transformers: hãy cài cùng phiên bản"
            en = f"workers {other} have another version of this module, torch or transformers: install the same"
            raise StudyError(say(vi, en))

        def say_so():
            print(say("không có worker nào; đang đợi", "there are no workers; waiting"), file=sys.stderr)

        if not versions:
            say_so()
        yield client, say_so


def _compute(client, no_worker, tasks, failed, keep, *, alone=False):
    """Run tasks and `keep` each result as it comes; two tasks a worker are under way, so that none pile up.

    A task whose workers died again and again (Dask's allowed-failures) may have been their victim or the cause: it and
    the rest of its model are returned, to be run again, one `alone` at a time, so that a model too large for the
    memory takes no other along.
    """
    waiting, running, suspects, doubtful = deque(tasks), {}, [], set()  # running: {future: task}
    while waiting or running:
        at_once = 1 if alone else 2 * max(1, sum(client.nthreads().values()))
        while waiting and len(running) < at_once:
            task = waiting.popleft()
            if task.model in doubtful:
                suspects.append(task)
            elif (task.model, task.target) not in failed:
                running[client.submit(run_task, task, get_language(), key=f"survey-{task.key}")] = task
        for future in _finished(client, no_worker, running):
            task, result = running.pop(future), _result(future)
            if result is None and not alone:
                doubtful.add(task.model)
                suspects.append(task)
            elif result is None:
                vi = "mọi worker chạy nó đều chết, thường do thiếu bộ nhớ: bớt --workers hoặc chia --layers thành nhóm"
                en = "every worker that ran it died, mostly for want of memory: fewer --workers, or --layers in groups"
                keep(task, Failure(say(vi, en), True))
            else:
                keep(task, result)
    return suspects


def _finished(client, no_worker, running):
    """The futures that are done, as soon as there are some; after a while without any, none."""
    from distributed import wait

    try:
        with client.as_current():
            return wait(list(running), timeout=NEWS_SECONDS, return_when="FIRST_COMPLETED").done if running else ()
    except TimeoutError:
        if not client.nthreads():
            no_worker()
        return ()
    except CancelledError as error:
        vi = "mất kết nối với bộ điều phối Dask; chạy lại lệnh này để tiếp tục"
        raise StudyError(say(vi, "the Dask scheduler was lost; the same command goes on from here")) from error


def _result(future):
    """What `run_task` returned, a `Failure` where it could not even run, None where its workers died."""
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker:
        return None
    except Exception as error:  # noqa: BLE001  the others go on
        return Failure(f"{type(error).__name__}: {error}", False)
    finally:
        future.release()


def _parse(argv):
    parser = argparse.ArgumentParser(prog="python -m helpers.survey", description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=[os.environ.get("QKV_MODEL") or "smollm2"], metavar="NAME")
    parser.add_argument("--targets", nargs="+", default=["her"], metavar="WORD")
    parser.add_argument("--sentences", type=Path, metavar="FILE", help="one a line; default: the module's own sets")
    parser.add_argument("--layers", nargs="+", type=int, metavar="N", help="default: all")
    parser.add_argument("--shard-size", type=int, default=SHARD_SIZE, metavar="N", help="sentences a task")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.parquet")
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--language", choices=LANGUAGES, default=get_language())
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, metavar="N", help="processes on this machine")
    where.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="an existing Dask cluster")
    return parser.parse_args(argv)


def main(argv=None):
    """Exit code: 0 all done, 1 something failed (see OUT.errors.csv), 2 stopped with a message, 130 interrupted.
    Whatever the code, finished tasks are kept."""
    options = vars(_parse(argv))
    set_language(options.pop("language"))
    try:
        failed = survey(**options)
    except KeyboardInterrupt:
        vi = "đã dừng; chạy lại lệnh này để tiếp tục"
        print(say(vi, "stopped; the same command goes on from here"), file=sys.stderr)
        return 130
    except (StudyError, OSError) as error:
        print(f"survey: {error}", file=sys.stderr)
        return 2
    for (model, target), message in failed.items():
        print(say("thất bại", "failed") + f": {model}, {target!r}: {message}", file=sys.stderr)
    return 1 if failed else 0
