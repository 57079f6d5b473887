"""Every exercise, whatever is answered: one sentence in the reader's language, no exception, never the answer."""

import ast
import math
import re
import warnings
from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch

from helpers import block_histograms, set_language
from helpers.teaching import checks
from helpers.teaching.checks import EXERCISES, check, grade
from tests.teaching import test_checks, test_checks_0708, test_checks_11

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def new_session(monkeypatch):
    monkeypatch.setattr(checks, "_solved", set())


# ---- the right answers ---------------------------------------------------------------------------


def solution_cells():
    """{number of the exercise: source of its solution cell}, from the notebooks."""
    found = {}
    for path in sorted((ROOT / "notebooks" / "source").glob("*.py")):
        for cell in jupytext.read(path, fmt="py:percent").cells:
            if "solution" in cell.metadata.get("tags", []):
                found[re.search(r'check\("([\d.]+)"', cell.source).group(1)] = cell.source
    return found


SOLUTIONS = solution_cells()


def solution_function(number):
    """The function that a solution cell defines; cells that need the model define none that is asked for."""
    tree = ast.parse(re.sub(r"^# @title.*", "", SOLUTIONS[number]))
    asked = re.search(r'check\("[\d.]+", (\w+)', SOLUTIONS[number]).group(1)
    function = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == asked), None)
    if function is None:
        return None
    names = {"torch": torch, "math": math}
    exec(ast.unparse(function), names)  # noqa: S102 - the module's own solution
    return names[asked]


def smiling(n_layer, layer):
    x = torch.randn(n_layer, 40, 6, generator=torch.Generator().manual_seed(1))  # [layer, sample, feature]
    x[layer] += 5
    return block_histograms(x, (2, 2, 2))


PAIR = torch.stack([3 + test_checks.X[:, 2] * 0.1, -3 + torch.tensor([0.1, 0.1, -0.1, -0.1, 0.0])], dim=1)
PAIR = torch.cat([test_checks.X, PAIR], dim=1)  # [sample, feature]: features 3 and 4 are opposite and uncorrelated
VALUES = {  # number: (right answer, what else is needed to judge it); without those that are functions
    "1.2": ([2, 1, 3], test_checks.BATCH),
    "2.2": (3.0,),
    "2.3": ((3, 4), PAIR),
    "3.1": ([1, 2, 3, 5],),
    "3.2": (1_048_576, 130_816),
    "4.3": (4, smiling(9, 4), smiling(9, 0)),
    "5.2": (401,),
    "7.3": (4, test_checks_0708.smiling_at(0, 3, n_layer=9)),
    "8.3": ([0, 2], test_checks_0708.INTERVAL, test_checks_0708.POOLED),
}
FUNCTIONS = {number: solution_function(number) for number in EXERCISES if number not in (*VALUES, "4.2")}


def test_every_exercise_is_audited_here():
    assert {*VALUES, *FUNCTIONS, "4.2"} == set(EXERCISES) == set(SOLUTIONS)
    assert all(callable(function) for function in FUNCTIONS.values())


@pytest.mark.parametrize("number", FUNCTIONS)
def test_the_function_of_the_solution_passes(number):
    assert grade(number, FUNCTIONS[number]) == (True, None)


@pytest.mark.parametrize("number", VALUES)
def test_a_right_value_passes_as_a_list_a_tensor_or_an_array(number):
    right, *rest = VALUES[number]
    for kind in (lambda value: value, torch.tensor, np.array):
        assert grade(number, kind(right), *rest) == (True, None)


# ---- whatever is answered ------------------------------------------------------------------------

STRANGE = [
    "text", "3", "", b"3", True, -1, 0, 2.5, 1e30, 10**400, math.nan, math.inf, 1j, [], [7], ["a", "b"], [[1, 2], [3]],
    [None], [math.nan] * 3, (1, 2, 3), {}, {"cosine": 1}, {2, 9}, object(), range(3), iter([5]), np.array([]),
    np.array(["a"]), np.array([1j]), torch.tensor(7.0), torch.zeros(2, 2), torch.tensor([True, False]),
    torch.full((3,), torch.nan), torch.ones(4, dtype=torch.complex64), lambda: 1, int, dict, ast, ...,
]  # fmt: skip


def raises_several_lines():
    raise RuntimeError("first line\nsecond line")


def raises_without_a_word():
    raise LookupError


def answers_of(number):
    """Wrong answers of every kind, each with the rest of the arguments."""
    _, *rest = VALUES.get(number, (None, None, None) if number == "4.2" else (None,))
    if number in FUNCTIONS:
        returning = [lambda *arguments, value=value: value for value in [*STRANGE, None]]
        raising = [lambda *a: raises_several_lines(), lambda *a: raises_without_a_word(), lambda: 1]
        return [(answer,) for answer in [*STRANGE, *returning, *raising]]
    return [(answer, *rest) for answer in STRANGE] + ([(1_048_576, answer) for answer in STRANGE] * (number == "3.2"))


@pytest.mark.parametrize("number", EXERCISES)
def test_a_strange_answer_gets_one_sentence_in_the_readers_language(language, number):
    for answers in answers_of(number):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            right, said = grade(number, *answers)
        assert right is False, answers
        assert said and "\n" not in said and len(said) < 250
        assert bool(re.search("[à-ỹđ]", said)) == (language == "vi"), said
        assert "không đọc được" not in said and "cannot be read" not in said, said  # a reason, not the last resort


def test_what_nobody_thought_of_is_still_one_sentence(language, monkeypatch):
    monkeypatch.setitem(EXERCISES, "2.2", lambda m: {}["no"])
    right, said = grade("2.2", 1)
    assert not right and re.search(r"(không đọc được|cannot be read).*KeyError", said)


def test_the_kind_that_came_and_the_kind_expected_are_named():
    assert grade("5.2", [54])[1] == "expected a number, got list"
    assert grade("2.2", math.nan)[1] == "expected a finite number, got nan"
    assert grade("5.2", 400.5)[1] == "expected a whole number, got 400.5"
    assert grade("4.1", 3)[1] == "expected a function, got int"
    assert grade("4.1", lambda counts, edges: "S")[1] == "expected a tensor of numbers, got str"
    assert grade("4.1", lambda counts, edges: None)[1] == "your function returns nothing: no return?"
    assert grade("4.2", {}, None, None)[1] == "expected what block_histograms returns, got dict"
    assert grade("10.1", lambda q, k, m: q)[1] == "expected a pair (new q, new k), got Tensor"
    assert grade("8.3", torch.tensor([True, False, True, False]), *VALUES["8.3"][1:])[1].startswith("that is a mask")
    assert grade("2.3", (0, 99), PAIR)[1] == "features are numbered from 0 to 4"


def test_the_second_word_must_have_the_counts_of_every_layer(smollm2):
    counts = torch.full((30, 100), torch.nan)
    histograms = block_histograms(torch.randn(54, 960), (576, 192, 192))
    assert "(100,)" in grade("4.2", histograms, *smollm2)[1]
    histograms["cosine"]["QQ"].__dict__["counts"] = counts
    assert "other counts" in grade("4.2", histograms, *smollm2)[1]


# ---- typical mistakes that the other files do not have -------------------------------------------


def other_error(module, x):
    if x.shape[-1] != 3:
        raise IndexError("nothing was caught")
    return module(x).clone()


MISTAKES = [
    ("1.1", (other_error,), "IndexError"),
    ("3.2", (1_048_576, 512 * 513 // 2), "đường chéo|diagonal"),
    ("3.3", (lambda similarity, mask, code: 100 * FUNCTIONS["3.3"](similarity, mask, code),), "0 và 1|0 and 1"),
    ("4.1", (lambda counts, edges: counts[..., (edges[1:] + edges[:-1]).abs() / 2 > 0.8].sum(-1) / counts.sum(-1),),
     "phần giữa|the middle"),
    ("4.1", (lambda counts, edges: -FUNCTIONS["4.1"](counts, edges),), "ngược dấu|reversed"),
    ("4.3", (99, *VALUES["4.3"][1:]), "từ 0 đến 8|from 0 to 8"),
    ("5.2", (402,), "ít câu hơn|fewer"),
    ("5.2", (1,), "hai câu|two sentences"),
    ("6.3", (lambda x: 1 / FUNCTIONS["6.3"](x),), "nghịch đảo|inverse"),
    ("7.1", (lambda n_layer, sizes: -1.0,), "số dương|positive"),
    ("7.3", (10, *VALUES["7.3"][1:]), "từ 0 đến 9|from 0 to 9"),
    ("8.3", ([0, 99], *VALUES["8.3"][1:]), "từ 0 đến 3|from 0 to 3"),
    ("8.3", ([True, False, True, False], *VALUES["8.3"][1:]), "mặt nạ|mask"),
    ("9.1", (lambda x, mine, other: x - x.mean(1, keepdim=True) + other.mean(1, keepdim=True),), "đang đo|measured"),
    ("9.1", (lambda x, mine, other: x + mine.mean(1, keepdim=True) - other.mean(1, keepdim=True),), "ngược chiều|wrong way"),
    ("9.1", (lambda x, mine, other: x - mine.mean(1, keepdim=True),), "một nửa|half of it"),
    ("9.1", (lambda x, mine, other: other.mean(1, keepdim=True).expand_as(x),), "còn nguyên|must stay"),
    ("9.1", (lambda x, mine, other: x - mine.mean() + other.mean(),), "trục nào|which axis"),
    ("9.2", (lambda q, c: q @ c,), "phép chia|division"),
    ("9.2", (lambda q, c: q @ c / q.shape[-1],), "căn bậc hai|square root"),
    ("9.2", (lambda q, c: q.sum(dim=-1),), "số hạng|last term"),
    ("10.1", (lambda q, k, m: (q @ m, k @ torch.linalg.inv(m)),), "chuyển vị|transposed"),
    ("10.1", (lambda q, k, m: (q @ m, k),), "khử|undo"),
    ("10.1", (lambda q, k, m: (q, k),), "q M"),
    ("10.1", (lambda q, k, m: (q @ m, ...),), "còn thiếu|still missing"),
    ("10.2", (lambda x, half: (x.mean(0) ** 2 / x.square().mean(0))[:half],), "hai chiều|both features"),
    ("10.2", (lambda x, half: FUNCTIONS["10.2"](x, half).sqrt(),), "căn bậc hai|square root"),
    ("10.2", (lambda x, half: FUNCTIONS["10.2"](x[:, [0, 2, 4, 1, 3, 5]], half),), "bên cạnh|neighbour"),
    ("10.2", (lambda x, half: 1 - FUNCTIONS["10.2"](x, half),), "tử:|above:"),
    ("11.1", (lambda ids, pieces: None,), "không tìm thấy|finds nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "answers", "hint"), MISTAKES, ids=[f"{m[0]}-{i}" for i, m in enumerate(MISTAKES)])
def test_a_typical_mistake_gets_its_own_hint(language, number, answers, hint):
    right, said = grade(number, *answers)
    assert not right and re.search(hint, said), said


# ---- never the answer ----------------------------------------------------------------------------


def near(number):
    """Wrong answers around the right one."""
    right, *rest = VALUES[number]
    if isinstance(right, (list, tuple)):
        wrong = [right[:-1], [*right, 1], [i + 1 for i in right], [i - 1 for i in right], list(right)[::-1]]
        wrong = [w for w in wrong if number not in ("2.3", "3.1", "8.3") or sorted(w) != sorted(right)]
        return [(w, *rest) for w in wrong]
    near_first = [(right + i, *rest) for i in range(-5, 6) if i]
    return near_first + ([(right, rest[0] + i) for i in range(-5, 6) if i] if number == "3.2" else [])


def forms(answer):
    """Regular expressions of the ways to write an answer down."""
    if isinstance(answer, (list, tuple)):
        return [r"\W+".join(map(str, answer))]
    texts = {f"{answer:g}", f"{answer:.2f}", f"{answer:,}", f"{answer:_}", str(answer)}
    return [
        r"(?<![\d.,])" + re.escape(text) + r"(?![\d]|[.,]\d)" for text in texts | {t.replace(".", ",") for t in texts}
    ]


def hints(number):
    mistakes = [(n, a if isinstance(a, tuple) else (a,)) for n, a, _ in
                [*MISTAKES, *test_checks.MISTAKES, *test_checks_0708.MISTAKES, *test_checks_11.MISTAKES]]  # fmt: skip
    wrong = answers_of(number) + [answers for n, answers in mistakes if n == number]
    said = [grade(number, *answers) for answers in wrong + (near(number) if number in VALUES else [])]
    assert not any(right for right, _ in said)
    return {hint for _, hint in said}


@pytest.mark.parametrize("number", VALUES)
def test_no_hint_contains_the_answer(language, number):
    right, *rest = VALUES[number]
    answers = [right, rest[0]] if number == "3.2" else [right]
    for hint in hints(number):
        assert not any(re.search(form, hint) for answer in answers for form in forms(answer)), hint


@pytest.mark.parametrize("number", FUNCTIONS)
def test_no_hint_contains_a_line_of_the_solution(language, number):
    code = [
        line.split("#")[0] for line in SOLUTIONS[number].splitlines() if not line.startswith(("#", "check", "print"))
    ]
    parts = ["".join(part.split()) for line in code for part in re.split(r"^.*?(?:return | = )|,(?![^(]*\))", line)]
    parts = [part for part in parts if len(part) > 8 and not part.startswith("def")]
    assert parts
    for hint in hints(number):
        assert not [part for part in parts if part in "".join(hint.split())]


def test_no_hint_shows_what_a_hidden_example_should_give():
    tree = ast.parse(Path(checks.__file__).read_text(encoding="utf-8"))
    judges = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list]
    assert len(judges) == len(EXERCISES)
    shown = {
        name.id
        for judge in judges
        for field in ast.walk(judge)
        if isinstance(field, ast.FormattedValue)
        for name in ast.walk(field.value)
        if isinstance(name, ast.Name)
    }
    assert not shown & {"expected", "wanted", "outside", "shared", "same", "every", "gap", "ends", "centre"}


# ---- progress ------------------------------------------------------------------------------------


def test_the_exercises_solved_are_counted_for_each_notebook(capsys):
    check("1.3", ...)
    check("1.3", FUNCTIONS["1.3"])
    check("1.3", FUNCTIONS["1.3"])  # a second time counts no more
    check("1.3", lambda fused, n_head: fused)  # nor is it taken back
    check("11.1", FUNCTIONS["11.1"])
    check("1.1", FUNCTIONS["1.1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["0/3", "1/3", "1/3", "1/3", "1/2", "2/3"]
    assert lines[1] == "✓ 1.3 · exercises: 1/3" and lines[0].startswith("○ 1.3 not done yet: ")


def test_the_progress_is_in_the_readers_language(capsys):
    set_language("vi")
    try:
        check("2.2", 3)
    finally:
        set_language("en")
    assert capsys.readouterr().out == "✓ 2.2 · bài tập: 1/3\n"


def test_a_verdict_alone_is_not_counted(capsys):
    assert grade("2.2", 3) == (True, None) and grade("2.1", FUNCTIONS["2.1"]) == (True, None)
    check("2.3", ...)
    assert capsys.readouterr().out.endswith("exercises: 0/3\n")
