"""The class versions: nothing in a student's file gives an answer away, and the real nbgrader grades fairly."""

import json
import re
from functools import cache, partial

import jupytext
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell
from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from traitlets.config import PyFileConfigLoader

from tools import classroom
from tools.course import LANGUAGES, ROOT, assemble, read_pairs, sources, stored
from tools.submissions import LEFT_OUT, culprits_of, mended

LANGUAGE = "vi"  # of the versions that nbgrader makes here: code and tests are those of the other language
GRADED = f"03_block_masks-{LANGUAGE}"
MINI = "mini-en"
pytestmark = pytest.mark.filterwarnings("ignore:Object of type")  # SQLAlchemy, about nbgrader's own calls


@cache
def instructor(path, language):
    return classroom.instructor(assemble(path, language), language)


def graded_as(cell, kind):
    return cell.metadata.get("nbgrader", {}).get(kind, False)


def sources_of(notebook, kind):
    """{grade_id: source} of the cells that are of this kind for nbgrader."""
    return {cell.metadata.nbgrader.grade_id: cell.source for cell in notebook.cells if graded_as(cell, kind)}


def mini():
    """A notebook without a model; its second exercise is judged on what the first one gives."""

    def code(source, *tags):
        return new_code_cell(source, metadata={"tags": list(tags)})

    function = "def cosine_matrix(x):\n    {}\n\n\ncheck('2.1', cosine_matrix{})"
    imports = "import torch\nfrom helpers import set_language\nfrom helpers.teaching.checks import check, needs\n\n"
    solved = "unit = x / x.norm(dim=0)\n    return unit.T @ unit", ", solution=True"
    rows = "torch.tensor([[3.1, 2.9, 2.9, 3.1, 3.0], [-2.9, -2.9, -3.1, -3.1, -3.0]]).T"
    cells = [
        code(f"{imports}set_language('en')", "setup"),
        code(function.format("return ...", ""), "exercise"),
        code("# @title Solution\n" + function.format(*solved), "solution"),
        code(f"needs('2.1')\nrows = {rows}\nx = rows * cosine_matrix(rows)[0, 0]  # times one, if it is right"),
        code("needs('2.1')\nopposite_pair = ...\n\ncheck('2.3', opposite_pair, x)", "exercise"),
        code(
            "needs('2.1')\npairs = [(0, 1)]\nopposite_pair = pairs[0]\n\ncheck('2.3', opposite_pair, x, solution=True)",
            "solution",
        ),
        new_markdown_cell("Questions.\n\n<details><summary>Short answers</summary>\n\n1. Forty-two.\n</details>"),
    ]
    kernel = {"name": "python3", "display_name": "P", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder of a course, with the assignments of one language as `make class` generates them, and the small one."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("course")
        for variable in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(variable, str(folder / "own" / variable.lower()))
        patch.chdir(folder)
        (folder / "helpers").symlink_to(ROOT / "helpers")
        small = folder / "source" / MINI / "mini.ipynb"
        small.parent.mkdir(parents=True)
        nbformat.write(classroom.instructor(mini(), "en"), small)
        classroom.build(folder, [LANGUAGE])
        yield folder


def student_version(folder, name):
    (path,) = (folder / "release" / name).glob("*.ipynb")
    return nbformat.read(path, as_version=4)


# ---- what a student gets -------------------------------------------------------------------------


def told(path, language):
    """({lines that a student may see}, [solution cells], [short answers]) of a source, in one language."""
    seen, solutions, answers = set(), [], []
    for cell in jupytext.read(path, fmt="py:percent").cells:
        if "solution" in cell.metadata.get("tags", []):
            solutions.append(cell.source)
        elif cell.cell_type == "code":
            seen.update(" ".join(line.split()) for line in cell.source.splitlines())
        elif cell.metadata["lang"] == language:
            answers += re.findall(r"<summary>(.*?)</details>", cell.source, re.DOTALL)
    return seen, solutions, answers


def test_a_student_version_holds_no_trace_of_a_solution(home):
    for path in sources():
        student = student_version(home, f"{path.stem}-{LANGUAGE}")
        text = "\n".join(cell.source for cell in student.cells)
        flat, alone = " ".join(text.split()), {" ".join(line.split()) for line in text.splitlines()}
        alone -= {"", "try:", "finally:"}
        seen, solutions, answers = told(path, LANGUAGE)
        assert len(solutions) >= 2 and len(answers) == 1, path.stem  # what is searched for is there
        for line in {" ".join(line.split()) for source in solutions for line in source.splitlines()} - seen:
            assert line not in (flat if len(line) > 20 else alone), (path.stem, line)
        for source in solutions:
            assert " ".join(source.split("\n", 1)[1].split("check(")[0].split()) not in flat, path.stem
        for line in filter(None, (" ".join(line.split()) for line in answers[0].splitlines())):
            assert line not in flat, (path.stem, line)
        assert not re.search("SOLUTION|HIDDEN|<details|</details", text), path.stem
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in student.cells), path.stem


def test_what_nbgrader_cuts_out_is_marked_alike_in_both_languages():
    for path in sources():
        for vi, en in zip(*(instructor(path, language).cells for language in LANGUAGES), strict=True):
            assert vi.metadata.get("nbgrader") == en.metadata.get("nbgrader") and vi.cell_type == en.cell_type
            assert vi.source.count(classroom.BEGIN) == en.source.count(classroom.BEGIN)
            assert en.cell_type == "code" or en.source.count(classroom.BEGIN) == en.source.count("<details>")


def test_a_student_meets_the_stub_of_the_source_and_a_locked_test(home):
    for path in sources():
        student = student_version(home, f"{path.stem}-{LANGUAGE}")
        code = [cell for kind, cell in read_pairs(path) if kind == "code"]
        asked = [cell.source for cell in code if "exercise" in cell.metadata.get("tags", [])]
        assert list(sources_of(student, "solution").values()) == asked, path.stem
        numbers = [classroom.parse(source).number.replace(".", "-") for source in asked]
        assert list(sources_of(student, "grade")) == [f"test-{number}" for number in numbers], path.stem
        for cell in student.cells:
            if graded_as(cell, "grade"):
                assert cell.metadata.editable is cell.metadata.deletable is False and cell.metadata.nbgrader.points == 1
                assert "grade(" in cell.source and "assert right, hint" in cell.source


def test_an_instructor_version_holds_the_answers_that_ran_right():
    for path in sources():
        ran = {}  # {number: the solution cell of the stored notebook}, which said that it was right
        for cell in nbformat.read(stored(path, LANGUAGE), as_version=4).cells:
            if "solution" in cell.metadata.get("tags", []):
                number = classroom.parse(cell.source).number
                assert f"✓ {number}" in "".join(output.get("text", "") for output in cell.outputs)
                lines = cell.source.replace(", solution=True)", ")").splitlines()
                ran[number] = [line for line in lines if line and "@title" not in line]
        notebook = instructor(path, LANGUAGE)
        for source in sources_of(notebook, "solution").values():
            inside = source.split(f"{classroom.BEGIN}\n")[1].split(f"\n{classroom.END}")[0].splitlines()
            asked = classroom.parse(source)
            assert sorted([*filter(None, inside), asked.check]) == sorted(ran.pop(asked.number)), source
        assert not ran, path.stem
        bound = set(dir(__import__("builtins")))
        for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
            needed, left = classroom.names(cell.source)
            assert needed <= bound | left, (path.stem, cell.source)
            bound |= left


def test_a_source_that_makes_no_class_version_is_refused():
    for change, said in (
        (lambda cells: cells.pop(2), "right below it its solution"),
        (lambda cells: cells.append(new_code_cell("print(pairs)")), "'pairs' is bound in the solution or test of 2.3"),
        (
            lambda cells: cells.append(new_code_cell("needs('2.3')\nprint(x)")),
            r"needs\(...\) with \['2.1'\] above 'print",
        ),
        (lambda cells: cells[2].update(source=cells[2].source.replace(", solution=True", "")), "but for solution=True"),
    ):
        notebook = mini()
        change(notebook.cells)
        with pytest.raises(ValueError, match=said):
            classroom.instructor(notebook, "en")


# ---- nbgrader ------------------------------------------------------------------------------------


def grade(folder, assignment, student, change, name=None):
    """({exercise: score}, autograded notebook) of a student's changed notebook, which is handed in under a name."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(folder)).load_config()
    api = NbGraderAPI(coursedir=CourseDirectory(root=str(folder), config=config), config=config)
    notebook = student_version(folder, assignment)
    change(notebook)
    path = folder / "submitted" / student / assignment / (name or f"{assignment.rpartition('-')[0]}.ipynb")
    path.parent.mkdir(parents=True)
    (path.parent / "helpers").mkdir()  # a module of the student's own is not taken for ours
    (path.parent / "helpers" / "capture.py").touch()
    (path.parent / "torch.py").write_text("raise SystemExit")
    nbformat.write(notebook, path)
    done = api.autograde(assignment, student)
    assert done["success"], done["log"]
    with api.gradebook as gradebook:
        (submission,) = gradebook.find_submission(assignment, student).notebooks
        assert not submission.needs_manual_grade
        scores = {of.name.removeprefix("test-"): of.score for of in submission.grades}
    (path,) = (folder / "autograded" / student / assignment).glob("*.ipynb")
    return scores, nbformat.read(path, as_version=4)


def fill(notebook, **sources):
    """Write into the exercise cells, exercise_3_1="..."."""
    for cell in notebook.cells:
        if graded_as(cell, "solution"):
            cell.source = sources.get(cell.metadata.nbgrader.grade_id.replace("-", "_"), cell.source)


def errors(notebook):
    """{grade_id: name of the error}"""
    return {
        cell.metadata.nbgrader.grade_id: output.ename
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    }


def test_a_submission_gets_a_mark_for_each_right_answer(home):
    solved = sources_of(instructor(sources("03")[0], LANGUAGE), "solution")["exercise-3-2"]  # the instructor's own
    half = partial(fill, exercise_3_1="four_codes = [1, 2, 3, 4]", exercise_3_2=solved)
    scores, notebook = grade(home, GRADED, "half", half)
    assert scores == {"3-1": 0, "3-2": 1, "3-3": 0}
    assert errors(notebook) == {"test-3-1": "AssertionError", "test-3-3": "AssertionError"}
    assert "chưa làm" in json.dumps(notebook, ensure_ascii=False)  # the hint is the message


def cheat(notebook):
    """Edit tests, claim more points, shadow and change the judge."""
    for cell in notebook.cells:
        if graded_as(cell, "grade"):
            cell.source = "assert True"
            cell.metadata.nbgrader.points = 100
            cell.metadata.nbgrader.checksum = "0" * 32
    shadow = "grade = lambda *answers: (True, None)\nfrom helpers.teaching.checks import EXERCISES\n"
    notebook.cells.insert(1, new_code_cell(shadow + "EXERCISES |= dict.fromkeys(EXERCISES, lambda *answers: None)"))


def test_whoever_changes_tests_or_judges_gains_nothing(home):
    scores, notebook = grade(home, MINI, "cheat", cheat)
    assert scores == {"2-1": 0, "2-3": 0}
    assert "the check was changed" in json.dumps(notebook)


def test_an_answer_that_fails_or_is_noisy_is_judged_by_itself(home):
    def broken(notebook):  # not even Python, as text, with its test and its test's neighbour gone, and ends the kernel
        fill(notebook, exercise_2_1="def cosine_matrix(x)\n    return x", exercise_2_3="opposite_pair = (0, 1)")
        lost = [at for at, cell in enumerate(notebook.cells) if cell.id == "test-2-1"]
        notebook.cells[lost[0] :] = [*notebook.cells[lost[0] + 2 :], new_code_cell("import os\nos._exit(1)")]
        notebook.cells[1] = new_raw_cell(notebook.cells[1].source, metadata=notebook.cells[1].metadata)

    scores, notebook = grade(home, MINI, "broken", broken, "mini (1).ipynb")
    assert scores == {"2-1": 0, "2-3": 1}
    assert errors(notebook) == {"exercise-2-1": "SyntaxError", "test-2-1": "AssertionError"}
    noisy = (  # right answers that warn, write to stderr, and use the name of what is given for something else
        "import sys, warnings\n\n\ndef cosine_matrix(x):\n    print('working', file=sys.stderr)\n    warnings.warn('slow')\n"
        "    x = x / x.norm(dim=0)\n    return x.T @ x\n\n\nprint('!' * 10**7)"
    )
    answers = {"exercise_2_1": noisy, "exercise_2_3": "x = 3\nopposite_pair = [1, 0]"}
    scores, notebook = grade(home, MINI, "noisy", partial(fill, **answers))
    assert scores == {"2-1": 1, "2-3": 1} and errors(notebook) == {}
    assert "output cut" in json.dumps(notebook) and len(json.dumps(notebook)) < 10**5


# ---- a submission that is not whole ----------------------------------------------------------------


def released():
    """Two exercises as a student gets them: given, exercise, test, twice."""
    cells = []
    for n in "12":
        cells.append(classroom.marked(new_code_cell(f"given {n}", id=f"g{n}"), f"given-{n}", False, locked=True))
        exercise = new_code_cell(f'x = ...\n\ncheck("2.{n}", x)', id=f"e{n}")
        cells.append(classroom.marked(exercise, f"exercise-2-{n}", False, solution=True))
        test = new_code_cell(f"test {n}", id=f"test-2-{n}")
        cells.append(classroom.marked(test, f"test-2-{n}", True, grade=True, locked=True, points=1))
    return new_notebook(cells=cells)


def own(text="own"):
    return new_code_cell(text)


def pasted(cell, text=None):
    return nbformat.from_dict(cell | {"id": "pasted", "source": text or cell.source})


def bare(cells, also=()):
    return [nbformat.from_dict({k: v for k, v in c.items() if k not in also} | {"metadata": {}}) for c in cells]


CHANGES = {  # what a student did to (given, exercise, test) x 2, with "answer 1" and "answer 2" in the exercises
    "nothing": lambda c: c,
    "test lost": lambda c: c[:2] + c[3:],
    "first cell lost": lambda c: c[1:],
    "all of ours lost": lambda c: [c[1], c[4]],
    "exercise lost, answer in a new cell": lambda c: [c[0], own("answer 1"), *c[2:]],
    "exercise and test lost, answer in a new cell": lambda c: [c[0], own("answer 1"), *c[3:]],
    "last exercise and test lost": lambda c: [*c[:4], own("answer 2")],
    "old attempt pasted": lambda c: [c[0], pasted(c[1], "old"), *c[1:]],
    "split: both halves keep the mark": lambda c: [c[0], pasted(c[1], "answer 1"), pasted(c[1], "below"), *c[2:]],
    "test pasted at the end": lambda c: [*c, pasted(c[2])],
    "given pasted and edited": lambda c: [c[0], pasted(c[0], "mine"), *c[1:]],
    "everything pasted twice": lambda c: [*c, *map(pasted, c)],
    "reversed": lambda c: c[::-1],
    "exercise moved to the end with its helper": lambda c: [c[0], *c[2:], own(), c[1]],
    "as text": lambda c: [new_markdown_cell(x.source, id=x.id, metadata=x.metadata) for x in c],
    "as raw": lambda c: [new_raw_cell(x.source, id=x.id, metadata=x.metadata) for x in c],
    "tests edited": lambda c: [x | {"source": "assert True"} if x.id.startswith("test") else x for x in c],
    "tests edited, without marks": lambda c: bare([*c[:2], c[2] | {"source": "assert True"}, *c[3:]]),
    "emptied": lambda c: [x | {"source": ""} if "answer" not in x.source else x for x in c],
    "extra cells": lambda c: [own(), c[0], own(), c[1], own(), *c[2:], own()],
    "marks lost": lambda c: bare(c),
    "marks and ids lost (an old Colab)": lambda c: bare(c, ["id"]),
    "merged with its test": lambda c: [c[0], c[1] | {"source": c[1].source + "\n\n" + c[2].source}, *c[3:]],
    "other marks": lambda c: [*c, *[classroom.marked(own("other"), "test-9-9", True, grade=True, points=5)]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_submission_that_is_not_whole_is_made_whole(change):
    student, parts = released(), "answer .|own|old|below|mine|other"
    for cell in student.cells:
        cell.source = cell.source.replace("x = ...", f"answer {cell.id[1]}")
    cells = [nbformat.from_dict(cell) for cell in CHANGES[change](student.cells)]
    theirs = [part for cell in cells for part in re.findall(parts, cell.source)]
    whole, notes = mended(new_notebook(cells=cells), released())
    nbformat.validate(whole)
    marked = [cell for cell in whole.cells if "nbgrader" in cell.metadata]
    for cell, ours in zip(marked, released().cells, strict=True):  # ours, all of them, in order
        assert cell.metadata == ours.metadata and cell.cell_type == "code"
        assert cell.source == ours.source or not cell.metadata.nbgrader.locked
    text = "\n".join(cell.source for cell in whole.cells)
    assert sorted(re.findall(parts, text)) == sorted(theirs)  # nothing of theirs is lost
    first, second = re.fullmatch(r"(?s).*?given 1(.*?)test 1.*?given 2(.*?)test 2.*", text).groups()
    assert "answer 1" in first and "answer 2" in second
    assert change == "exercise moved to the end with its helper" or ("own" in first) == (change == "extra cells")
    assert bool(notes) != (change in ("nothing", "extra cells", "other marks") or "marks " in change)


def test_a_cell_that_ends_the_kernel_is_blamed_on_its_exercise():
    cells = released().cells
    cells[3].source = 'needs("2.1")\ngiven 2'
    for at, blamed in ((5, [cells[4]]), (3, [cells[1]]), (2, [cells[1]]), (1, [cells[1]]), (0, [])):
        assert culprits_of(cells, at) == blamed
    cells[4].source = f"{LEFT_OUT}\n# x"
    assert culprits_of(cells, 5) == [cells[1]]
