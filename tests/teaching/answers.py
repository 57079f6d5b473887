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

from helpers import block_histograms, jackknife, shuffle_within_features, smile_index
from helpers.teaching.checks import EXERCISES

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
INTERVAL = jackknife(torch.zeros(20, 4), lambda x: x.mean(0))
INTERVAL = INTERVAL._replace(low=torch.tensor([0.1, 0.3, 0.5, 0.2]), high=torch.tensor([0.2, 0.5, 0.7, 0.6]))
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


def solution_cells():
    """{number of the exercise: source of its solution cell}, from the notebooks."""
    paths = sorted((ROOT / "notebooks" / "source").glob("*.py"))
    cells = [cell for path in paths for cell in jupytext.read(path, fmt="py:percent").cells]
    sources = [cell.source for cell in cells if "solution" in cell.metadata.get("tags", [])]
    return {re.search(r'check\("([\d.]+)"', source).group(1): source for source in sources}


def solution(number):
    """The function that the solution cell of an exercise defines and checks."""
    code, _, checked = SOLUTIONS[number].partition("check(")
    names = {"torch": torch, "math": math}
    exec(code, names)  # noqa: S102 - the module's own solution
    return names[re.split(r"\W+", checked.partition(", ")[2])[0]]


SOLUTIONS = solution_cells()
VALUES = {  # the right answers that are no functions; 4.2 needs the model
    "1.2": [2, 1, 3],
    "2.2": 3.0,
    "2.3": (3, 4),
    "3.1": [1, 2, 3, 5],
    "3.2": (1_048_576, 130_816),
    "4.3": 4,
    "5.2": 401,
    "7.3": 4,
    "8.3": [0, 2],
}
FUNCTIONS = {number: solution(number) for number in EXERCISES if number not in (*VALUES, "4.2")}


def of_word(ids, pieces, occurrence=0, last=True):
    """Position of a word's last piece, or of its first one, at one of its occurrences; None without any."""
    starts = [i for i in range(len(ids)) if tuple(ids[i : i + len(pieces)]) == pieces]
    return starts[occurrence] + last * (len(pieces) - 1) if starts else None


RIGHT = [  # (number, arguments): the solutions, and what is found in another way
    *FUNCTIONS.items(),
    ("2.1", lambda x: torch.nn.functional.cosine_similarity(x.T[:, None], x.T[None], dim=-1)),
    ("2.3", (0, 1), OPPOSITE),
    ("3.1", [2, 3, 5, 7]),
    ("5.1", shuffle_within_features),
    ("5.3", lambda x, generator: torch.where(torch.rand(len(x), 1, generator=generator) > 0.5, x, -x)),
    ("6.1", lambda x, a: torch.lerp(x, x - x.mean(dim=-2, keepdim=True), torch.tensor(a, dtype=x.dtype))),
    ("6.2", lambda x, word: [part.numpy() for part in FUNCTIONS["6.2"](x, word)]),
    ("6.3", lambda x: 1 / (unit(x).T @ unit(x)).square().mean()),
    ("7.1", lambda n, sizes: math.prod((8e-9, n, sum(sizes), sum(sizes)))),
    ("7.2", lambda x: (x.mean(1).square() / x.var(1, correction=0)).sqrt().median(-1).values),
    ("7.3", 9, smiling(0, 8)),  # still positive at the last layer
    ("7.3", 0, smiling()),  # never positive
    ("8.2", lambda n_head, d_head: (d_head - 1) / (n_head * d_head - 1)),
    ("8.3", [2, 0], *GIVEN["8.3"]),
    ("8.3", [], INTERVAL._replace(low=-torch.ones(4), high=torch.ones(4)), 0.4),
    ("11.1", of_word),
    ("11.2", lambda bias, offset: float((bias * offset).sum() / offset.square().sum())),
]


def several_lines(*arguments):
    raise RuntimeError("first line\nsecond line")


def hooked(module, x, copy=torch.clone, keep=False, instead=RuntimeError):
    """Exercise 1.1, right or with one thing wrong."""
    caught = []
    handle = module.register_forward_hook(lambda module, inputs, output: caught.append(copy(output)))
    try:
        module(x)
    except RuntimeError:
        if instead:
            raise instead from None
    finally:
        if not keep:
            handle.remove()
    return caught and caught[0]


def at_place(counts, at):
    """Exercise 4.1, with bins at `at` `[bins]`, for several histograms only."""
    return (counts[:, at.abs() > 0.8].sum(-1) - counts[:, at.abs() < 0.2].sum(-1)) / counts.sum(-1)


def words_once(x, word):
    return torch.stack([x[word == w].mean(0) for w in word.unique()]).mean(0)


def tiled(q, k, v, d_head):
    k, v = (part.repeat(1, 1, q.shape[-1] // part.shape[-1]) for part in (k, v))
    return FUNCTIONS["8.1"](q, k, v, d_head)


def second_axis(q, k, v, d_head):
    """Exercise 8.1, for vectors with a layer axis only."""
    q, k, v = (part.unflatten(-1, (-1, d_head)).transpose(1, 2) for part in (q, k, v))
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    return torch.cat([q, k, v], dim=-1)


def drawn(x, generator, columns):
    """`x` with some of its columns permuted, each by itself."""
    new = x.clone()
    for i in columns:
        new[:, i] = x[torch.randperm(len(x), generator=generator), i]
    return new


def axes_not_swapped(*arguments):
    right = FUNCTIONS["8.1"](*arguments)
    return right.transpose(1, 2).reshape(right.shape)


UNSEEN = torch.Generator().manual_seed(1)


def mistakes():
    """Rows (number, answer, words of the Vietnamese hint, words of the English one) out of mistakes.toml."""
    for number, rows in tomllib.loads(Path(__file__).with_name("mistakes.toml").read_text(encoding="utf-8")).items():
        right = FUNCTIONS.get(number)
        head = f"lambda {', '.join(inspect.signature(right).parameters)}: " if right else ""
        for answer, *words in rows:
            if isinstance(answer, str):
                answer = eval(head + answer, globals() | {"right": right})
            yield number, answer, *words


MISTAKES = list(mistakes())
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
    functions += [several_lines, lambda *a: next(iter(()))]  # the second error has no text
    return [arguments(number, answer) for answer in STRANGE + (functions if number in FUNCTIONS else [])]


def near(number):
    """Wrong answers around a right value, as arguments; none for an exercise that asks for a function."""
    right, steps = VALUES.get(number, ()), [i for i in range(-5, 6) if i]
    if number == "3.2":
        return [(right[0] + i, right[1]) for i in steps] + [(right[0], right[1] + i) for i in steps]
    if isinstance(right, (int, float)):
        return [arguments(number, right + i) for i in steps]
    shifted = [[value + i for value in right] for i in (1, -1)]
    wrong = [right[:-1], [*right, 1], list(right)[::-1], *shifted] if right else []
    return [arguments(number, w) for w in wrong if number == "1.2" or sorted(w) != sorted(right)]
