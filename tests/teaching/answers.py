"""Answers to every exercise: right ones, typical mistakes with the words of their hints, and strange ones."""

import ast
import inspect
import math
import re
import tomllib
from functools import partial
from pathlib import Path

import jupytext
import numpy as np
import torch

import helpers
from helpers import block_histograms, smile_index
from helpers.statistics import Interval
from helpers.teaching.checks import EXERCISES, grade

ROOT = Path(__file__).resolve().parents[2]


def smiling(*layers, n_layer=9):
    """Histograms `{"cosine": ...}` whose QQ smiles at these layers only."""
    x = torch.randn(n_layer, 40, 6, generator=torch.Generator().manual_seed(1))  # [layer, sample, feature]
    x[list(layers)] += 5
    histograms = block_histograms(x, (4, 1, 1))
    assert (smile_index(histograms["cosine"]["QQ"]) > 0).nonzero().flatten().tolist() == sorted(layers)
    return histograms


X = torch.tensor([[3.0, -3.1, 1.0], [3.1, -3.1, -1.0], [3.2, -3.0, -1.0], [3.1, -2.9, 1.0], [3.1, -3.0, 0.0]])
OPPOSITE = torch.stack([3 + X[:, 2] * 0.1, -3 + torch.tensor([0.1, 0.1, -0.1, -0.1, 0.0])], dim=1)  # uncorrelated
INTERVAL = Interval(None, torch.tensor([0.1, 0.3, 0.5, 0.2]), torch.tensor([0.2, 0.5, 0.7, 0.6]), None)
GIVEN = {  # beside the answer
    "1.2": ({"attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])},),
    "2.3": (torch.cat([X, OPPOSITE], dim=1),),  # [sample, feature]
    "4.2": (None, None),  # no model: only answers of another kind are judged without one
    "4.3": (smiling(4), smiling(0)),
    "7.3": (smiling(0, 3),),
    "8.3": (INTERVAL, 0.4),  # outside the intervals of heads 0 and 2
}
unit = partial(torch.nn.functional.normalize, dim=0)


def arguments(number, answer):
    """What `grade` takes after the number; exercise 3.2 asks for two numbers."""
    return answer if number == "3.2" else (answer, *GIVEN.get(number, ()))


def table(name):
    return tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def solution(number):
    """The function that the solution cell of an exercise defines and checks."""
    names = {"torch": torch, "math": math}
    exec(SOLUTIONS[number].partition("check(")[0], names)  # noqa: S102 - the module's own solution
    return names[re.search(r'check\("[\d.]+", (\w+)', SOLUTIONS[number])[1]]


SOURCES = sorted((ROOT / "notebooks/source").glob("*.py"))
CELLS = [cell for path in SOURCES for cell in jupytext.read(path).cells if "solution" in cell.metadata.get("tags", [])]
SOLUTIONS = {re.search(r'check\("([\d.]+)"', cell.source)[1]: cell.source for cell in CELLS}  # by exercise
VALUES = table("right.toml")["values"]
FUNCTIONS = {number: solution(number) for number in EXERCISES if number not in (*VALUES, "4.2")}
UNSEEN = torch.Generator().manual_seed(1)


def of(number, text):
    """Python in a table: what the function that the exercise asks for returns, with `right` for the solution."""
    right = FUNCTIONS.get(number)
    head = f"lambda {', '.join(inspect.signature(right).parameters)}: " if right else ""
    return eval(head + text, vars(helpers) | globals() | {"right": right}) if isinstance(text, str) else text


MISTAKES = {
    number: [(arguments(number, of(number, answer)), *words) for answer, *words in rows]
    for number, rows in table("mistakes.toml").items()
}
FOUND = [(number, of(number, text)) for number, texts in table("right.toml")["found"].items() for text in texts]
RIGHT = [*FUNCTIONS.items(), *((n, answer) if n in FUNCTIONS else (n, *answer) for n, answer in FOUND)]
STRANGE = [
    *("text", "3", "", b"3", True, -1, 0, 2.5, 1e30, 10**400, math.nan, math.inf, 1j, object(), int, dict, ast, ...),
    *([], [7], ["a", "b"], [[1, 2], [3]], [None], [math.nan] * 3, (1, 2, 3), {}, {"cosine": 1}, {2, 9}, range(3)),
    *(iter([5]), np.array([]), np.array(["a"]), np.array([1j]), torch.tensor(7.0), torch.zeros(2, 2), lambda: 1),
    *(torch.tensor([True, False]), torch.full((3,), torch.nan), torch.ones(4, dtype=torch.complex64)),
]


def strange(number):
    """Wrong answers of every kind, as arguments."""
    if number == "3.2":
        return [(answer, VALUES["3.2"][1]) for answer in STRANGE] + [(VALUES["3.2"][0], answer) for answer in STRANGE]
    functions = [lambda *a, value=value: value for value in [*STRANGE, None]]
    functions.append(lambda *a: next(iter(())))  # an error without a text
    return [arguments(number, answer) for answer in STRANGE + (functions if number in FUNCTIONS else [])]


def near(number):
    """Wrong answers around a right value, as arguments: one of its numbers is off by 5 at most."""
    right, steps = VALUES.get(number, []), [i for i in range(-5, 6) if i]
    moved = [right + step for step in steps] if isinstance(right, (int, float)) else []
    for i, value in enumerate(right if isinstance(right, list) else []):
        moved += [[*right[:i], value + step, *right[i + 1 :]] for step in steps]
    return [given for given in (arguments(number, answer) for answer in moved) if not grade(number, *given)[0]]
