"""Many models, layers and target words in one table, on one machine or on a Dask cluster.

    python -m helpers.survey --models smollm2 --targets her water --out survey.parquet
    python -m helpers.survey --models gpt2 smollm2 --sentences corpus.txt --workers 4 --out survey.parquet
    python -m helpers.survey --scheduler tcp://10.0.0.1:8786 --shard-size 10000 --out survey.parquet ...

The sentences are cut into shards.  A task is one shard under one model and target; it gives partial
sums of every layer (see `add`), which the program keeps in `OUT.parts/`.  When all tasks of a model and
target are done, their sums are merged in a fixed binary tree and become rows of the table.  So the
table depends on the cut into tasks alone, not on who computed what, when, or how often it was stopped.

A sentence counts once, by its first target token; a sentence without it, with nothing before it, or
longer than the model reads, is skipped (for target and control alike, so that both have the same n).

The columns are described in `helpers/survey/table.py`.
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

from helpers.settings import LANGUAGES, get_language, say, set_language
from helpers.survey.table import SurveyError, survey_error, write_table
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
        sentences: list of strings for every target; None takes the module's own set of each target.
        layers: list of layer numbers, None for all.
        shard_size: sentences a task.
        device: for `load_model`; None takes a GPU where a worker has one.
        workers: processes on this machine; scheduler: address of a Dask cluster (or the cluster
            object).  With neither, one task after the other in this process.

    Returns:
        `{(model, target): message}` of what failed; the table has the rest.

    Raises:
        SurveyError: what the user can mend.  OSError: the disk, or the connection to the cluster.
    """
    try:
        import distributed  # noqa: F401
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        need = "pip install dask distributed pyarrow"
        raise survey_error(
            "khảo sát cần thêm vài gói ({}): {}", "a survey needs some more packages ({}): {}", error, need
        ) from error
    out, layers = Path(out), None if layers is None else tuple(layers)
    groups = _groups(models, targets, sentences, layers, shard_size, device)
    if workers is not None and workers < 1:
        raise survey_error("--workers: cần ít nhất 1, nhận được {}", "--workers: expected at least 1, got {}", workers)
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise survey_error(
            "--out {}: cần tên tệp trong một thư mục đã có", "--out {}: expected a file in an existing folder", out
        )
    store = Store(out.with_name(out.name + ".parts"))
    try:
        with FileLock(store.folder / "lock", timeout=0):
            return _locked_survey(out, groups, store, workers, scheduler)
    except Timeout as error:
        vi, en = "một khảo sát khác đang ghi vào {}: hãy đợi nó xong", "another survey writes to {}: wait for its end"
        raise survey_error(vi, en, out) from error


# ---- the tasks, and who computes them ------------------------------------------------------------


def _locked_survey(out, groups, store, workers, scheduler):
    tasks = {task.key: task for group in groups.values() for task in group}
    store.find(set(tasks))
    missing = [task for key, task in tasks.items() if key not in store.files]
    n_before, failed = len(tasks) - len(missing), {}
    if missing:
        with (
            _connect(workers, scheduler) as (client, no_worker),
            tqdm(total=len(tasks), initial=n_before, unit="task", desc=say("khảo sát", "survey")) as bar,
        ):
            _compute(client, no_worker, missing, groups, store, failed, bar)
    write_table(out, groups, failed, store)
    text = say("{} tác vụ: {} đã có sẵn, {} vừa tính; bảng: {}", "{} tasks: {} from before, {} computed; table: {}")
    n_computed = len(set(tasks) & set(store.files)) - n_before
    print(text.format(len(tasks), n_before, n_computed, out), file=sys.stderr)
    return failed


def _groups(models, targets, sentences, layers, shard_size, device):
    """{(model, target): its tasks}, all of one model together, so that a worker rarely changes its model."""
    targets = list(dict.fromkeys(target.strip() for target in targets))
    if shard_size < 1:
        raise survey_error(
            "--shard-size: cần ít nhất 1 câu, nhận được {}", "--shard-size: expected at least 1, got {}", shard_size
        )
    if not all(targets):
        raise survey_error("--targets: có một từ rỗng", "--targets: a word is empty")
    own_sets = [name for name in sentence_sets() if name not in TARGETS]  # those named by their word
    if sentences is None and (unknown := [target for target in targets if target not in own_sets]):
        raise survey_error(
            "--targets: học phần chỉ có câu cho {}, không có cho {}: hãy thêm --sentences FILE",
            "--targets: the module has sentences for {}, none for {}: give --sentences FILE",
            ", ".join(own_sets),
            ", ".join(unknown),
        )
    code, groups = code_version(), {}
    for model in dict.fromkeys(models):
        for target in targets:
            used = load_sentences(target) if sentences is None else sentences
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
def _connect(workers, scheduler):
    """A Dask client (of an existing cluster, of new processes here, or of this process) and what to do without workers."""
    from distributed import Client, LocalCluster

    if scheduler is None:
        own = {"n_workers": workers or 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
        with (
            LocalCluster(**own, processes=bool(workers), silence_logs="ERROR") as cluster,
            Client(cluster, set_as_default=False) as client,
        ):

            def start_again():
                """All processes died before Dask could see why."""
                cluster.scale(0)
                cluster.scale(own["n_workers"])

            yield client, start_again
        return
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise survey_error(
            "không kết nối được bộ điều phối Dask {} ({}): hãy kiểm tra địa chỉ, ví dụ tcp://10.0.0.1:8786",
            "no Dask scheduler answers at {} ({}): check the address, such as tcp://10.0.0.1:8786",
            scheduler,
            error,
        ) from error
    with client:
        try:
            versions = client.run(code_version)
        except ModuleNotFoundError as error:
            raise survey_error(
                "các worker thiếu một gói ({}): hãy cài học phần này trong môi trường của chúng",
                "the workers lack a package ({}): install this module in their environment",
                error,
            ) from error
        if other := sorted(address for address, version in versions.items() if version != code_version()):
            raise survey_error(
                "worker {} có phiên bản khác của học phần, torch hoặc transformers: hãy cài cùng phiên bản",
                "workers {} have another version of this module, torch or transformers: install the same",
                ", ".join(other),
            )

        def say_so():
            print(say("không có worker nào; đang đợi", "there are no workers; waiting"), file=sys.stderr)

        if not versions:
            say_so()
        yield client, say_so


def _compute(client, no_worker, missing, groups, store, failed, bar):
    """Run tasks and store each result as it comes.

    Two tasks a worker are under way, so that results do not pile up.  A task whose workers died again
    and again (Dask's allowed-failures) may have been their victim or the cause: its model waits for the
    end and then runs one task at a time, so that a model too large for the memory takes no other along.
    """
    from distributed import KilledWorker, wait

    waiting, suspects, running, doubtful, alone = deque(missing), deque(), {}, set(), False  # running: {future: task}
    while waiting or suspects or running:
        if not waiting and not running:
            waiting, suspects, alone = suspects, deque(), True
        at_once = 1 if alone else 2 * max(1, sum(client.nthreads().values()))
        while waiting and len(running) < at_once:
            task = waiting.popleft()
            if not alone and task.model in doubtful:
                suspects.append(task)
            elif (task.model, task.target) not in failed:
                running[client.submit(run_task, task, key=f"survey-{task.key}")] = task
        if not running:
            continue
        try:
            with client.as_current():
                finished = wait(list(running), timeout=NEWS_SECONDS, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            if not client.nthreads():
                no_worker()
            continue
        except CancelledError as error:
            raise survey_error(
                "mất kết nối với bộ điều phối Dask; chạy lại lệnh này để tiếp tục",
                "the Dask scheduler was lost; the same command goes on from here",
            ) from error
        for future in finished:
            task = running.pop(future)
            try:
                result = future.result()
            except KilledWorker:
                vi = "mọi worker chạy nó đều chết, thường do thiếu bộ nhớ: bớt --workers hoặc chia --layers thành nhóm"
                en = "every worker that ran it died, mostly for want of memory: fewer --workers, or --layers in groups"
                result = Failure(say(vi, en), True)
                if not alone:
                    doubtful.add(task.model)
                    suspects.append(task)
                    continue
            except Exception as error:  # noqa: BLE001  the others go on
                result = Failure(f"{type(error).__name__}: {error}", False)
            finally:
                future.release()
            if isinstance(result, Failure):
                hit = [g for g in groups if g[0] == task.model] if result.whole_model else [(task.model, task.target)]
                failed.update({group: result.message for group in hit if group not in failed})
            else:
                store.put(task.key, result)
                bar.update()


# ---- the command line ----------------------------------------------------------------------------


def _parse(argv):
    parser = argparse.ArgumentParser(prog="python -m helpers.survey", description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=[os.environ.get("QKV_MODEL") or "auto"], metavar="NAME")
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


def read_sentences(path):
    """The lines of a UTF-8 file that are neither empty nor comments (#)."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        vi, en = "--sentences {}: không đọc được ({})", "--sentences {}: cannot be read ({})"
        raise survey_error(vi, en, path, error) from error
    kept = [line for line in lines if line and not line.startswith("#")]
    if not kept:
        raise survey_error("--sentences {}: không có câu nào", "--sentences {}: there is no sentence in it", path)
    return kept


def main(argv=None):
    """Exit code: 0 all done, 1 something failed (see OUT.errors.csv), 2 stopped
    with a message, 130 interrupted.  Whatever the code, finished tasks are kept."""
    options = vars(_parse(argv))
    set_language(options.pop("language"))
    path = options["sentences"]
    try:
        failed = survey(**options | {"sentences": path and read_sentences(path)})
    except KeyboardInterrupt:
        stopped = say("đã dừng; chạy lại lệnh này để tiếp tục", "stopped; the same command goes on from here")
        print(stopped, file=sys.stderr)
        return 130
    except (SurveyError, OSError) as error:
        print(f"survey: {error}", file=sys.stderr)
        return 2
    for (model, target), message in failed.items():
        print(say("thất bại", "failed") + f": {model}, {target!r}: {message}", file=sys.stderr)
    return 1 if failed else 0
