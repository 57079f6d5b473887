"""What a real IPython shell shows of an error."""

import sys
from pathlib import Path

import IPython
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from helpers import load_model
from helpers.teaching import tracebacks


@pytest.fixture
def run(monkeypatch, capsys, language):
    """`run(cell)`: (what is shown, the result)."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # a shell takes its place
    shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}), colors="nocolor")
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    shell.set_custom_exc((ImportError,), lambda *args, tb_offset=None: print("what Colab says"))
    tracebacks.shorten()
    tracebacks.shorten()
    shell.run_cell("from helpers import *\nfrom helpers.experiments.study import open_model")

    def run(cell):
        capsys.readouterr()
        result = shell.run_cell(cell)
        return capsys.readouterr().out, result

    return run


def test_refusal_shows_the_readers_own_lines_and_the_sentence(run, language):
    said = {"vi": "không phải thư mục nào trên máy", "en": "is no local folder"}[language]
    for cell, *lines in (
        ("x = 1\nload_model('no such!')", "----> 2 load_model('no such!')"),
        ("def mine():\n    return load_model('no such!')\nmine()", "----> 3 mine()", "----> 2     return load_model"),
        ("import torch\njackknife(torch.eye(4), lambda x: load_model('no such!'))", "----> 2 jackknife("),
    ):
        shown, result = run(cell)
        assert shown.count("\n") < 20 and "helpers" not in shown and "direct cause" not in shown, shown
        assert all(line in shown for line in lines), shown
        assert shown.rstrip().splitlines()[-1].startswith(f"ValueError: 'no such!' {said}")
        assert type(result.error_in_exec) is ValueError and result.error_in_exec.__cause__ is not None
    assert str(Path("helpers/models.py")) in run("%tb")[0]  # the whole one, for who wants it


def test_everything_else_is_shown_as_ever(run):
    for trouble in ("3", "lambda x: x.view(7)"):  # a bug, in helpers or in what was given to it
        assert str(Path("helpers/statistics.py")) in run(f"import torch; jackknife(torch.eye(4), {trouble})")[0]
    assert "----> 1 int('x')" in run("int('x')")[0]
    assert run("import no_such_package")[0] == "what Colab says\n"
    shown, result = run("open_model('no such!')")
    assert shown.startswith("✗ ") and shown.count("\n") == 1 and not result.success
    with pytest.raises(ValueError) as raised:  # outside a shell
        load_model("no such!")
    assert len(raised.traceback) > 2
