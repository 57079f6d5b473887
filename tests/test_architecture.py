"""The house: a small core on top of helpers, rooms below it, arrows only downwards, nothing longer than can be read."""

import ast
import re
from itertools import chain
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
HOMES = ("helpers", "tools", "tests")


def files(*folders):
    return sorted(chain(*((ROOT / folder).rglob("*.py") for folder in folders)))


def name(path):
    return path.relative_to(ROOT).as_posix()


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def nodes(path, *kinds):
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)]


def test_imports_go_downwards_only(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    broken = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert broken == 0, capsys.readouterr().out


def test_core_is_small():
    core = sorted((ROOT / "helpers").glob("*.py"))
    assert len(core) <= 9, [path.name for path in core]
    assert sum(map(lines, core)) <= 1400, {path.name: lines(path) for path in core}


def test_private_names_stay_in_their_file():
    taken = []
    for path in files(*HOMES):
        ours = [node for node in nodes(path, ast.ImportFrom) if (node.module or "").split(".")[0] in HOMES]
        imported = [(alias, ROOT.joinpath(*n.module.split("."), alias.name)) for n in ours for alias in n.names]
        modules = {a.asname or a.name for a, to in imported if to.is_dir() or to.with_suffix(".py").exists()}
        taken += [f"{name(path)}: {alias.name}" for alias, _ in imported if alias.name.startswith("_")]
        read = {node.attr for node in nodes(path, ast.Attribute) if getattr(node.value, "id", None) in modules}
        taken += [f"{name(path)}: {attribute}" for attribute in read if re.match("_(?!_)", attribute)]
    assert not taken, "\n".join(taken)


def test_no_file_is_longer_than_450_lines():
    long = {name(path): lines(path) for path in files(*HOMES) if lines(path) > 450}
    assert not long, long


def test_no_function_is_longer_than_60_lines():
    long = [
        f"{name(path)}:{node.lineno} {node.name} {node.end_lineno - node.lineno + 1}"
        for path in files(*HOMES)
        for node in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef)
        if node.end_lineno - node.lineno + 1 > 60
    ]
    assert not long, "\n".join(long)


def test_no_notebook_imports_the_survey():
    sources = files("notebooks/source")
    assert sources
    found = [name(path) for path in sources if "helpers.survey" in path.read_text(encoding="utf-8")]
    assert not found, found
