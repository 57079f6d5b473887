"""What `helpers` says when it refuses something is in the language in use: read in the code, and called."""

import ast
import re
from pathlib import Path

import pytest
import torch

import helpers
from helpers.experiments import study, target, verdicts
from helpers.settings import MESSAGES
from helpers.teaching import widgets
from tests.support.tiny import random_batch, random_model, word_tokenizer

ROOT = Path(__file__).resolve().parents[2]
VIETNAMESE = re.compile("[ăâđêôơưáàảãạèẻẽẹéìỉĩịíòỏõọóùủũụúỳỷỹỵýấầẩẫậắằẳẵặếềểễệốồổỗộớờởỡợứừửữự]", re.IGNORECASE)
FOR_PROGRAMMERS = {
    "_EverythingCaptured": "caught by capture_qkv itself",
    "TypeError": "caught a few lines below, where the sentence is made",
    "ArithmeticError(": "a kernel that is wrong on this GPU is not the reader's doing",
    "OSError(errno.ENOSPC, os.strerror(": "said by wheel_model_folder, which catches it",
    "ValueError(' · '.join(MESSAGES['language'])": "in both languages, as none may have been chosen yet",
    "StudyError(str(error))": "the sentence of token_id_of",
    "SystemExit": "has no text",
}


def words(node):
    """The names in an expression, those of attributes and of what it calls too."""
    return {getattr(part, "id", None) or getattr(part, "attr", None) for part in ast.walk(node)} - {None}


def read(function):
    """Of a function: what its names are made of, what it returns, and what it raises."""
    made, returned, raised = [], [], []
    for node in ast.walk(function):
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.NamedExpr, ast.For, ast.comprehension)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            made.append((set().union(*map(words, targets)), words(getattr(node, "value", None) or node.iter)))
        elif isinstance(node, ast.Return) and node.value:
            returned.append(words(node.value))
        elif isinstance(node, ast.Raise) and node.exc:
            raised.append((ast.unparse(node.exc), words(node.exc)))
    return made, returned, raised


def silent(*texts):
    """What is raised in these files without `say`: neither there, nor in what its text was made of or returned by."""
    outermost = [node for text in texts for part in ast.parse(text).body for node in [part, *getattr(part, "body", [])]]
    functions = {node: read(node) for node in outermost if isinstance(node, ast.FunctionDef)}
    speakers = {"say", "message"}
    for _ in range(3):  # one name is made of another, one function calls another
        found = set()
        for node, (made, returned, raised) in functions.items():
            names = set(speakers)
            for _ in range(3):
                names.update(*(targets for targets, source in made if source & names))
            speakers |= {node.name} if any(source & names for source in returned) else set()
            found |= {text for text, source in raised if not source & names}
    return found


def test_every_refusal_goes_through_say():
    assert silent('def f():\n    raise ValueError(f"no {1}")') == {"ValueError(f'no {1}')"}
    assert not silent("def f(vi, en):\n    x = say(vi, en)\n    y = f'{x}!'\n    raise ValueError(y)")
    assert not silent("def g(vi, en):\n    return Wrong(say(vi, en))", "def f():\n    raise g('', '')")
    found = silent(*(path.read_text(encoding="utf-8") for path in sorted((ROOT / "helpers").rglob("*.py"))))
    excused = {start: {text for text in found if text.startswith(start)} for start in FOR_PROGRAMMERS}
    assert found == set().union(*excused.values()) and all(excused.values())


def test_every_message_is_vietnamese_and_english():
    for key, (vi, en) in MESSAGES.items():
        names = [sorted(set(re.findall(r"{(\w+)", text))) for text in (vi, en)]
        assert names[0] == names[1] and VIETNAMESE.search(vi), key
        assert not VIETNAMESE.search(en.replace("tiếng Việt", "")), key


def test_mistakes_are_answered_in_the_language_in_use(tmp_path, language):
    names = {
        name: value for module in (helpers, study, target, verdicts, widgets) for name, value in vars(module).items()
    }
    names |= {
        "model": random_model("gpt2"),
        "tokenizer": word_tokenizer(["<unk>", "her", "a"]),
        "batch": random_batch(),
    }
    names |= {"x": torch.randn(5, 6), "sizes": (2, 2, 2), "positions": torch.tensor([4, 4, 3]), "folder": tmp_path}
    (tmp_path / "empty.txt").touch()
    for line in Path(__file__).with_name("mistakes.txt").read_text(encoding="utf-8").splitlines():
        with pytest.raises((ValueError, TypeError, OSError)) as raised:
            eval(line, names)
        assert bool(VIETNAMESE.search(str(raised.value))) == (language == "vi"), (line, str(raised.value))
