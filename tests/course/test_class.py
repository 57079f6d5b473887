"""The class versions: nothing in a student's file gives an answer away, and the real nbgrader grades fairly."""

import json
import re
import tomllib
from functools import partial
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

from tools import classroom
from tools.course import LANGUAGES, ROOT, assemble, sources, stored
from tools.submissions import LEFT_OUT, culprits_of, mended

LANGUAGE = "vi"  # of the versions that nbgrader makes here: code and tests are those of the other language
GRADED = f"03_block_masks-{LANGUAGE}"
MINI = "mini-en"
pytestmark = pytest.mark.filterwarnings("ignore:Object of type")  # SQLAlchemy, about nbgrader's own calls


def instructor(path, language):
    return classroom.instructor(assemble(path, language), language)


def tagged(tag, cells):
    return [cell for cell in cells if tag in cell.metadata.get("tags", [])]


def graded_as(cell, kind):
    return cell.metadata.get("nbgrader", {}).get(kind, False)


def sources_of(notebook, kind):
    """{grade_id: source} of the cells that are of this kind for nbgrader."""
    return {cell.metadata.nbgrader.grade_id: cell.source for cell in notebook.cells if graded_as(cell, kind)}


GIVEN = """needs("2.1")
rows = torch.tensor([[3.1, 2.9, 2.9, 3.1, 3.0], [-2.9, -2.9, -3.1, -3.1, -3.0]]).T
x = rows * cosine_matrix(rows)[0, 0]  # times one, if it is right
cosine, correlation = cosine_similarity(x), pearson_correlation(x)"""


def mini():
    """Notebook 02 without its model; the second of its exercises is judged on what the first one gives."""
    notebook = assemble(sources("02")[0], "en")
    cells = [cell for cell in notebook.cells if re.search(r'(?m)^check\("2.[13]"|^from helpers|<details>', cell.source)]
    imports, first, solved, second, also_solved, answers = [cell for cell in cells if cell.id != "setup"]
    imports.source = re.sub(".*teaching.*", "", imports.source) + "\nfrom helpers.teaching.checks import check, needs"
    for cell in (second, also_solved):
        cell.source = f'needs("2.1")\n{cell.source}'
    notebook.cells = [imports, first, solved, new_code_cell(GIVEN), second, also_solved, answers]
    return notebook


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


def lines(cells):
    return {line.strip() for cell in cells for line in cell.source.splitlines()}


def test_a_student_version_is_the_source_without_its_answers(home):
    for path in sources():
        student = student_version(home, f"{path.stem}-{LANGUAGE}")
        whole = [cell for cell in assemble(path, LANGUAGE).cells if not cell.id.startswith("links-")]
        exercises, solutions = tagged("exercise", whole), tagged("solution", whole)
        details = re.compile("<details>.*?</details>", re.DOTALL)
        assert len(solutions) >= 2 and sum(len(details.findall(cell.source)) for cell in whole) == 1, path.stem
        added = [cell for cell in student.cells if cell.id.startswith(("kept-", "test-"))]
        ours = [cell.source for cell in student.cells if cell not in added]
        assert ours == [details.sub("", cell.source) for cell in whole if cell not in solutions], path.stem
        assert not lines(added) & (lines(solutions) - lines(exercises)), path.stem
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in student.cells), path.stem
        assert list(sources_of(student, "solution").values()) == [cell.source for cell in exercises], path.stem
        numbers = [classroom.parse(cell.source).number.replace(".", "-") for cell in exercises]
        assert list(sources_of(student, "grade")) == [f"test-{number}" for number in numbers], path.stem
        for cell in student.cells:
            assert not re.search("SOLUTION|HIDDEN|<details|</details", cell.source), path.stem
            if graded_as(cell, "grade"):
                assert cell.metadata.editable is cell.metadata.deletable is False and cell.metadata.nbgrader.points == 1
                assert "grade(" in cell.source and "assert right, hint" in cell.source


def test_what_nbgrader_cuts_out_is_marked_alike_in_both_languages():
    for path in sources():
        for vi, en in zip(*(instructor(path, language).cells for language in LANGUAGES), strict=True):
            assert vi.metadata.get("nbgrader") == en.metadata.get("nbgrader") and vi.cell_type == en.cell_type
            assert vi.source.count(classroom.BEGIN) == en.source.count(classroom.BEGIN)
            assert en.cell_type == "code" or en.source.count(classroom.BEGIN) == en.source.count("<details>")


def test_an_instructor_version_holds_the_answers_that_ran_right():
    for path in sources():
        ran = {}  # {number: the solution cell of the stored notebook}, which said that it was right
        for cell in tagged("solution", nbformat.read(stored(path, LANGUAGE), as_version=4).cells):
            number = classroom.parse(cell.source).number
            assert f"✓ {number}" in "".join(output.get("text", "") for output in cell.outputs)
            code = cell.source.replace(", solution=True)", ")").splitlines()
            ran[number] = [line for line in code if line and "@title" not in line]
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
        (lambda cells: cells.append(new_code_cell("needs('2.3')\nprint(x)")), r"needs.*\['2.1'\] above 'print"),
        (lambda cells: cells[2].update(source=cells[2].source.replace(", solution=True", "")), "but for solution=True"),
    ):
        notebook = mini()
        change(notebook.cells)
        with pytest.raises(ValueError, match=said):
            classroom.instructor(notebook, "en")


def grade(folder, assignment, student, change, name=None):
    """({exercise: score}, autograded notebook) of a student's changed notebook, which is handed in under a name."""
    notebook, api = student_version(folder, assignment), classroom.nbgrader(folder)
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
    return {c.metadata.nbgrader.grade_id: o.ename for c in notebook.cells for o in c.get("outputs", []) if "ename" in o}


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


CHANGES = tomllib.loads(Path(__file__).with_name("submissions.toml").read_text(encoding="utf-8"))
RELEASED = "G1 E1=x_=_... T1 G2 E2=x_=_... T2"
PARTS = {  # grade_id, text, marks
    "G": ("given-{}", "given {}", {"locked": True}),
    "E": ("exercise-2-{}", 'answer {0}\n\ncheck("2.{0}", x)', {"solution": True}),
    "T": ("test-2-{}", "test {}", {"grade": True, "locked": True, "points": 1}),
}


def notebook_of(words):
    """The notebook that a line of submissions.toml stands for."""
    form, _, words = words.rpartition(" | ")
    make = {"markdown": new_markdown_cell, "raw": new_raw_cell}.get(form, new_code_cell)
    cells = []
    for word in words.split():
        mark, other, text = word.partition("=")
        texts = [PARTS[part][1].format(n) for part, n in filter(None, mark.split("+"))]
        cells.append(make(text.replace("_", " ") if other else "\n\n".join(texts)))
        if mark and "marks" not in form:
            grade_id, _, kinds = PARTS[mark[0]]
            classroom.marked(cells[-1], grade_id.format(mark[1]), False, **kinds)
        if "ids" in form:
            del cells[-1]["id"]
    return new_notebook(cells=cells)


@pytest.mark.parametrize(
    ("said", "change"), [(said, change) for said, changes in CHANGES.items() for change in changes]
)
def test_a_submission_that_is_not_whole_is_made_whole(said, change):
    submitted, released = notebook_of(CHANGES[said][change]), notebook_of(RELEASED)
    parts = "answer .|own|old|below|mine|other"
    theirs = re.findall(parts, "\n".join(cell.source for cell in submitted.cells))
    whole, notes = mended(submitted, notebook_of(RELEASED))
    nbformat.validate(whole)
    marked = [cell for cell in whole.cells if "nbgrader" in cell.metadata]
    for cell, ours in zip(marked, released.cells, strict=True):  # ours, all of them, in order
        assert cell.metadata == ours.metadata and cell.cell_type == "code"
        assert cell.source == ours.source or not cell.metadata.nbgrader.locked
    text = "\n".join(cell.source for cell in whole.cells)
    assert sorted(re.findall(parts, text)) == sorted(theirs)  # nothing of theirs is lost
    first, second = re.fullmatch(r"(?s).*?given 1(.*?)test 1.*?given 2(.*?)test 2.*", text).groups()
    assert "answer 1" in first and "answer 2" in second
    assert ("own" in first) == ("own" in theirs)  # what the answer may need
    assert bool(notes) == (said == "mended")


def test_a_cell_that_ends_the_kernel_is_blamed_on_its_exercise():
    cells = notebook_of(RELEASED).cells
    cells[3].source = 'needs("2.1")\ngiven 2'
    for at, blamed in ((5, [cells[4]]), (3, [cells[1]]), (2, [cells[1]]), (1, [cells[1]]), (0, [])):
        assert culprits_of(cells, at) == blamed
    cells[4].source = f"{LEFT_OUT}\n# x"
    assert culprits_of(cells, 5) == [cells[1]]
