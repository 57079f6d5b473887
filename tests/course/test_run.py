"""`make run` and `make lab`: several notebooks at once, and copies in which a reader's work is safe."""

import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tools import execute, lab, run
from tools.jupyterhub.hand_out import Copies, hand_out

BUSY = "import time\nwhile time.process_time() < 1.5: pass"
SLEEP = "import time\ntime.sleep(60)"


def job(title, source, folder, seconds=1):
    return execute.Job(title, new_notebook(cells=[new_code_cell(source)]), folder, seconds)


def test_one_that_fails_stops_no_other_and_each_has_its_own_seconds(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(execute, "at_a_time", lambda: 2)
    jobs = [job("vi/fails", "a = 1\na / 0", tmp_path), job("vi/busy", BUSY, tmp_path)]
    done = {found.title: found for found in execute.execute_all(jobs)}
    assert 1.3 <= done["vi/busy"].took < 20 and done["vi/busy"].error is None
    assert "a / 0" in str(done["vi/fails"].error) and "ZeroDivisionError" in str(done["vi/fails"].error)

    monkeypatch.setattr(run, "execute_all", lambda *_, **how: done.values())
    monkeypatch.setattr(run, "jobs", lambda: jobs)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="failed: vi/fails"):
        run.main()
    assert {path.name for path in tmp_path.glob("executed/vi/*.ipynb")} == {"fails.ipynb", "busy.ipynb"}
    assert "vi/fails failed" in (said := capsys.readouterr().err) and "a / 0" in said


def test_notebooks_in_turn_start_with_the_longest_and_share_no_name(tmp_path):
    (tmp_path / "en").mkdir()
    first, last = "x = 1\nimport sys\nsys.shared = 7", "import os\nprint(sys.shared, os.getcwd()[-2:], 'x' in dir())"
    sources = {"c/01": f"import sys\n{last}", "b/01": "a / 0", "a/01": first}
    jobs = [job(*of, tmp_path / "en", seconds) for seconds, of in enumerate(sources.items())]
    done = list(execute.execute_all(jobs, in_turn=True))
    assert [found.title for found in done if found.error] == ["b/01"] and "a / 0" in str(done[1].error)
    (cell,) = done[2].notebook.cells
    assert (cell.execution_count, cell.outputs[0].text) == (1, "7 en False\n")
    assert not any("ipykernel" in " ".join(child.cmdline()) for child in psutil.Process().children(recursive=True))


def test_cores_and_free_memory_limit_how_many_run_at_once(monkeypatch):
    for cores, gigabytes, expected in ((2, 20, 2), (8, 7, 3), (1, 20, 1), (4, 0.5, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        free = SimpleNamespace(available=int(gigabytes * 1e9))
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: free)
        assert execute.at_a_time() == expected, (cores, gigabytes)


def test_interrupt_leaves_no_kernel(tmp_path):
    code = (  # what a shell starts in the background ignores Ctrl-C, and so would this
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"from {__name__} import SLEEP, job, run; from pathlib import Path; run.ROOT = folder = Path({str(tmp_path)!r});"
        "run.jobs = lambda: [job(title, SLEEP, folder) for title in ('vi/a', 'vi/b', 'en/c')]; run.main()"
    )
    program = subprocess.Popen([sys.executable, "-c", code], cwd=run.ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(kernels := psutil.Process(program.pid).children()) < min(2, execute.at_a_time()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    program.send_signal(signal.SIGINT)
    _, said = program.communicate(timeout=60)
    assert program.returncode == 1 and "stopped" in said and "Traceback" not in said
    assert not [kernel for kernel in kernels if kernel.is_running()] and kernels


def test_interrupt_while_jobs_are_handed_out_waits_for_no_kernel(tmp_path, monkeypatch):
    submit = execute.ThreadPoolExecutor.submit

    def interrupted(pool, *work):
        if work[1] == "vi/b":
            raise KeyboardInterrupt
        return submit(pool, *work)

    monkeypatch.setattr(execute.ThreadPoolExecutor, "submit", interrupted)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(execute.execute_all([job("vi/a", SLEEP, tmp_path), job("vi/b", SLEEP, tmp_path)]))
    assert time.monotonic() - start < 50


def test_every_stored_notebook_is_run_and_the_plan_says_how_long(monkeypatch):
    monkeypatch.setattr(run, "at_a_time", lambda: 2)
    jobs = run.jobs()
    assert {found.title for found in jobs} == {f"{p.parent.name}/{p.stem}" for p in run.NOTEBOOKS.glob("??/*.ipynb")}
    assert all(found.folder == run.NOTEBOOKS / found.title[:2] and found.seconds > 5 for found in jobs)
    minutes = round(sum(found.seconds for found in jobs) / 120)
    assert run.plan(jobs).startswith(f"{len(jobs)} notebooks, 2 at a time: about {minutes} min")


def test_run_writes_beside_a_copy_that_a_reader_changed(tmp_path):
    def keep(text, title="vi/04"):
        return run.keep(Copies(tmp_path), title, new_notebook(cells=[new_code_cell(text, id="a")]))

    first, second = (tmp_path / "vi" / name for name in ("04.ipynb", "04-2.ipynb"))
    assert keep("1") == keep("2") == "vi/04.ipynb" and nbformat.read(first, 4).cells[0].source == "2"
    first.write_text("my answers")
    assert keep("3") == keep("4") == "vi/04-2.ipynb" and nbformat.read(second, 4).cells[0].source == "4"
    first.with_name("05.ipynb").write_text("of an earlier program")  # no record of it: it may be anybody's
    assert keep("5", "vi/05") == "vi/05-2.ipynb" and first.read_text() == "my answers"
    assert list(tmp_path.rglob("*.part")) == []


def test_working_copies_follow_the_notebooks_until_a_reader_changes_them(tmp_path):
    notebooks, work = tmp_path / "notebooks", tmp_path / "work"
    vi, en = work / "vi" / "01.ipynb", work / "en" / "01.ipynb"

    def publish(text):
        cell = new_code_cell(text, id="a", execution_count=3, outputs=[new_output("stream", text="the answer")])
        for language in ("vi", "en"):
            (notebooks / language).mkdir(parents=True, exist_ok=True)
            nbformat.write(new_notebook(cells=[cell]), notebooks / language / "01.ipynb")

    publish("một")
    assert hand_out(notebooks, work) == [] and set(work.rglob("*.ipynb")) == {vi, en}
    (cell,) = nbformat.read(vi, 4).cells
    assert (cell.source, cell.outputs, cell.execution_count) == ("một", [], None)
    vi.write_text("answers")
    publish("hai")
    assert hand_out(notebooks, work) == ["vi/01.ipynb"]
    assert vi.read_text() == "answers" and nbformat.read(en, 4).cells[0].source == "hai"
    vi.unlink()
    assert hand_out(notebooks, work) == [] and nbformat.read(vi, 4).cells[0].source == "hai"


LOCALES = {"LANG=vi_VN.UTF-8": "vi", "LANG=vi_VN LC_ALL=en_US": "en", "LANG=en_US LANGUAGE=vi": "vi", "": "en"}


@pytest.mark.parametrize("locales", LOCALES)
def test_lab_opens_the_first_notebook_in_the_readers_language(tmp_path, monkeypatch, locales):
    called = []
    monkeypatch.setattr(lab, "WORK", tmp_path / "work")
    monkeypatch.setattr(sys, "argv", ["lab", "--no-browser"])
    monkeypatch.setattr(os, "execv", lambda program, arguments: called.extend(arguments))
    monkeypatch.chdir(tmp_path)
    for setting in f"LANGUAGE= LC_ALL= LC_MESSAGES= LANG= {locales}".split():
        monkeypatch.setenv(*setting.split("="))
    lab.main()
    (opened,) = [found for option in called for found in re.findall("default_url=/lab/tree/work/(.+)", option)]
    assert opened.startswith(f"{LOCALES[locales]}/01_") and "--no-browser" in called
    assert (tmp_path / "work" / opened).is_file()
