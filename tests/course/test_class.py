"""The class versions: nothing in a student's file gives an answer away, and the real nbgrader grades fairly."""

import json
import re
from functools import cache, partial

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from traitlets.config import PyFileConfigLoader

from tools import classroom
from tools.course import LANGUAGES, ROOT, assemble, read_pairs, sources, stored

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

    function = "def cosine_matrix(x):\n    {}\n\n\ncheck('2.1', cosine_matrix)"
    imports = "import torch\nfrom helpers import set_language\nfrom helpers.teaching.checks import check\n\n"
    rows = "torch.tensor([[3.1, 2.9, 2.9, 3.1, 3.0], [-2.9, -2.9, -3.1, -3.1, -3.0]]).T"
    cells = [
        code(f"{imports}set_language('en')", "setup"),
        code(function.format("return ..."), "exercise"),
        code("# @title Solution\n" + function.format("unit = x / x.norm(dim=0)\n    return unit.T @ unit"), "solution"),
        code(f"rows = {rows}\nx = rows * cosine_matrix(rows)[0, 0]  # times one, if the first exercise is right"),
        code("print('independent')"),
        code("opposite_pair = ...\n\ncheck('2.3', opposite_pair, x)", "exercise"),
        code("pairs = [(0, 1)]\nopposite_pair = pairs[0]\n\ncheck('2.3', opposite_pair, x)", "solution"),
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
        met = list(sources_of(student, "solution").values())
        assert [re.sub(r"^needs\(.*\)\n", "", source) for source in met] == asked, path.stem
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
                ran[number] = [line for line in cell.source.splitlines() if line and "@title" not in line]
        notebook = instructor(path, LANGUAGE)
        for source in sources_of(notebook, "solution").values():
            inside = source.split(f"{classroom.BEGIN}\n")[1].split(f"\n{classroom.END}")[0].splitlines()
            asked = classroom.parse(source)
            assert sorted([*filter(None, inside), *asked.check.splitlines()]) == sorted(ran.pop(asked.number))
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
    ):
        notebook = mini()
        change(notebook.cells)
        with pytest.raises(ValueError, match=said):
            classroom.instructor(notebook, "en")


# ---- nbgrader ------------------------------------------------------------------------------------


def grade(folder, assignment, submissions):
    """{student: ({exercise: score}, autograded notebook)} of {student: change to the notebook}."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(folder)).load_config()
    api = NbGraderAPI(coursedir=CourseDirectory(root=str(folder), config=config), config=config)
    graded = {}
    for student, change in submissions.items():
        notebook = student_version(folder, assignment)
        change(notebook)
        path = folder / "submitted" / student / assignment / f"{assignment.rpartition('-')[0]}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
        done = api.autograde(assignment, student)
        assert done["success"], done["log"]
        with api.gradebook as gradebook:
            (submission,) = gradebook.find_submission(assignment, student).notebooks
            scores = {of.name.removeprefix("test-"): of.score for of in submission.grades}
            assert submission.needs_manual_grade == (student == "cheat")  # a test that was taken away
        (path,) = (folder / "autograded" / student / assignment).glob("*.ipynb")
        graded[student] = scores, nbformat.read(path, as_version=4)
    return graded


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
    scores, notebook = grade(home, GRADED, {"half": half})["half"]
    assert scores == {"3-1": 0, "3-2": 1, "3-3": 0}
    assert errors(notebook) == {"test-3-1": "AssertionError", "test-3-3": "AssertionError"}
    assert "chưa làm" in json.dumps(notebook, ensure_ascii=False)  # the hint is the message


def cheat(notebook):
    """Edit tests and what is given, claim more points, shadow the judge, take a test away."""
    for cell in notebook.cells:
        if graded_as(cell, "grade"):
            cell.source = "assert True"
            cell.metadata.nbgrader.points = 100
            cell.metadata.nbgrader.checksum = "0" * 32
        elif graded_as(cell, "locked"):
            cell.source = cell.source.replace("set_language('en')", "grade = lambda *answers: (True, None)")
    notebook.cells.insert(1, new_code_cell("grade = lambda *answers: (True, None)\nx = None"))
    notebook.cells = [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") != "test-2-3"]


def test_a_test_judges_the_answer_and_nothing_else(home):
    broken = "def cosine_matrix(x)\n    return x"  # not even Python: the second exercise stands on its own
    noisy = (  # right answers that warn, write to stderr, and use the name of what is given for something else
        "import sys, warnings\n\n\ndef cosine_matrix(x):\n    print('working', file=sys.stderr)\n    warnings.warn('slow')\n"
        "    x = x / x.norm(dim=0)\n    return x.T @ x"
    )
    submissions = {
        "broken": partial(fill, exercise_2_1=broken, exercise_2_3="opposite_pair = (0, 1)"),
        "cheat": cheat,
        "noisy": partial(fill, exercise_2_1=noisy, exercise_2_3="x = 3\nopposite_pair = [1, 0]"),
    }
    graded = grade(home, MINI, submissions)
    assert {student: scores for student, (scores, _) in graded.items()} == {
        "broken": {"2-1": 0, "2-3": 1},
        "cheat": {"2-1": 0, "2-3": 0},
        "noisy": {"2-1": 1, "2-3": 1},
    }
    assert errors(graded["broken"][1]) == {"exercise-2-1": "SyntaxError", "test-2-1": "AssertionError"}
    assert errors(graded["noisy"][1]) == {}


def test_a_reader_who_left_an_exercise_open_is_told_where_it_is_needed(home):
    notebook = student_version(home, MINI)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(home)}}).execute()
    failed = errors(notebook)  # cells that may fail are marked so, and do not stop the rest
    assert set(failed.values()) == {"AssertionError", "StillOpen"}
    said = [o.traceback for c in notebook.cells for o in c.get("outputs", []) if o.get("ename") == "StillOpen"]
    assert said and all(lines == [said[0][0]] and "exercise 2.1: solve it" in lines[0] for lines in said)
    assert any(o.get("text") == "independent\n" for c in notebook.cells for o in c.get("outputs", []))
