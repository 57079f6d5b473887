"""What `helpers` says when it refuses something is in the language in use: read in the code, and called."""

import ast
import functools
import re
import tomllib
from collections import ChainMap
from pathlib import Path

import pytest
import torch

import helpers
from helpers.experiments import study, target, verdicts
from helpers.settings import MESSAGES
from helpers.teaching import widgets
from tests.support.tiny import random_batch, random_model, word_tokenizer
from tools.glossary import PATTERNS

HERE = Path(__file__).parent
VIETNAMESE = re.compile(PATTERNS["vietnamese"])
MAKERS = (ast.Assign, ast.AugAssign, ast.NamedExpr, ast.For, ast.comprehension)


@functools.cache
def words(node):
    """The names in an expression, those of attributes and of what it calls too."""
    return {getattr(part, "id", None) or getattr(part, "attr", None) for part in ast.walk(node)} - {None}


def silent(*texts):
    """What is raised in these files without `say`: neither there, nor in what its text was made of or returned by."""
    outermost = [node for text in texts for part in ast.parse(text).body for node in [part, *getattr(part, "body", [])]]
    functions = {node: list(ast.walk(node)) for node in outermost if isinstance(node, ast.FunctionDef)}
    speakers = {"say", "message"}
    for _ in range(3):  # one name is made of another, one function calls another
        found = set()
        for function, nodes in functions.items():
            names = set(speakers)
            for node in 3 * [node for node in nodes if isinstance(node, MAKERS)]:
                if names & words(getattr(node, "value", None) or node.iter):
                    names.update(*map(words, getattr(node, "targets", None) or [node.target]))
            if any(isinstance(node, ast.Return) and node.value and names & words(node.value) for node in nodes):
                speakers.add(function.name)
            raised = [node.exc for node in nodes if isinstance(node, ast.Raise) and node.exc]
            found |= {ast.unparse(error) for error in raised if not names & words(error)}
    return found


def test_every_refusal_goes_through_say():
    assert silent('def f():\n    raise ValueError(f"no {1}")') == {"ValueError(f'no {1}')"}
    assert not silent("def f(vi, en):\n    x = say(vi, en)\n    y = f'{x}!'\n    raise ValueError(y)")
    assert not silent("def g(vi, en):\n    return Wrong(say(vi, en))", "def f():\n    raise g('', '')")
    found = silent(*(path.read_text(encoding="utf-8") for path in Path(helpers.__file__).parent.rglob("*.py")))
    starts = tomllib.loads((HERE / "excused.toml").read_text(encoding="utf-8"))
    excused = {start: {text for text in found if text.startswith(start)} for start in starts}
    assert found == set().union(*excused.values()) and all(excused.values())


def test_every_message_is_vietnamese_and_english():
    for key, (vi, en) in MESSAGES.items():
        names = [sorted(set(re.findall(r"{(\w+)", text))) for text in (vi, en)]
        assert names[0] == names[1] and VIETNAMESE.search(vi), key
        assert not VIETNAMESE.search(en.replace("tiếng Việt", "")), key


def test_mistakes_are_answered_in_the_language_in_use(tmp_path, language):
    names = dict(ChainMap(*map(vars, (widgets, verdicts, target, study, helpers))))
    names |= {"model": random_model("gpt2"), "tokenizer": word_tokenizer(["<unk>", "her", "a"])}
    names |= {"batch": random_batch(), "x": torch.randn(5, 6), "sizes": (2, 2, 2)}
    names |= {"positions": torch.tensor([4, 4, 3]), "folder": tmp_path}
    (tmp_path / "empty.txt").touch()
    for line in (HERE / "mistakes.txt").read_text(encoding="utf-8").splitlines():
        with pytest.raises((ValueError, TypeError, OSError)) as raised:
            eval(line, names)
        assert bool(VIETNAMESE.search(str(raised.value))) == (language == "vi"), (line, str(raised.value))
