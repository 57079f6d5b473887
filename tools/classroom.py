"""Class versions of the notebooks, an nbgrader course out of the same sources.

    python -m tools.classroom            build/class: source/ (instructor), release/ (student), nbgrader_config.py
    python -m tools.classroom FOLDER     the same in another folder

One assignment for each notebook and language, such as 04_cosine_smile-vi.  What each cell becomes:

    exercise, solution   one cell; nbgrader cuts the solution out and leaves the stub as it was
    (new)                a test under each exercise: one point, judged by helpers.checks
    given code           locked: an edited copy is put back before grading, so that a test sees what it should
    short answers        cut out of the texts

A cell that needs the answer to an exercise begins with needs("4.1") in the student version: it says so in
one sentence instead of failing somewhere inside, and all other cells run.  While nbgrader grades, a wrong
answer is replaced by the reference once it was judged: an error costs the point of its own exercise only.
"""

import argparse
import ast
import keyword
import os
import re
import symtable
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat.v4 import new_code_cell
from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from traitlets.config import PyFileConfigLoader

from tools.course import LANGUAGES, ROOT, assemble, sources

# nbgrader calls alembic by its name, which is found only where the environment was activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

FOLDER = ROOT / "build" / "class"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
HIDE, SHOW = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
FAILS = "raises-exception"  # JupyterLab runs on below such a cell
DETAILS = re.compile(r"^<details>.*?^</details>$", re.MULTILINE | re.DOTALL)

CONFIG = '''\
"""nbgrader in this folder.  `make class` keeps this file once it is there: change what you need."""

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "qkv"
# c.Exchange.root = "/srv/nbgrader/exchange"  # a folder that every student can reach

# The stub with its … stands beside the solution, so nothing takes the place of what is cut out.
c.ClearSolutions.code_stub = {"python": ""}
c.ClearSolutions.text_stub = ""
# Short answers are cut out of texts, which are no solution cells.
c.ClearSolutions.enforce_metadata = False
# Given cells are put back before grading; until then a student may try things in them.
c.LockCells.lock_readonly_cells = False
# Seconds for one cell; notebook 09 has cells that take minutes.
c.Execute.timeout = 900
'''

TOOLS = """\
# {title}
answered = set()  # {comment}


class StillOpen(Exception):
    def _render_traceback_(self):
        return [str(self)]


def needs(*numbers):
    missing = ", ".join(number for number in numbers if number not in answered)
    if missing:
        raise StillOpen(
            f"{sentence} "
            "{advice}"
        )"""
WORDS = {
    "vi": {
        "title": "Dùng cho lớp học: ô nào cần một bài tập chưa làm xong thì nói rõ như vậy",
        "comment": "các bài tập đã làm đúng",
        "sentence": "Ô này cần bài tập {missing}: hãy làm bài, chạy ô chấm điểm ngay dưới bài ấy,",
        "advice": "rồi chạy lại các ô từ đó đến đây.",
        "given": "Giữ lại dữ liệu để chấm bài tập {number}",
        "test": "Chấm bài tập {number} (1 điểm): đừng sửa ô này",
    },
    "en": {
        "title": "For the class: a cell that needs an exercise which is still open says so",
        "comment": "exercises with a right answer",
        "sentence": "This cell needs exercise {missing}: solve it, run the test cell right below it,",
        "advice": "then run the cells from there to here again.",
        "given": "Keep the data to judge exercise {number}",
        "test": "Test of exercise {number} (1 point): do not change this cell",
    },
}
TEST = """\
# {title}
{needs}from contextlib import redirect_stderr
from io import StringIO

from helpers.teaching.checks import grade

{hide}
from contextlib import suppress

{undefined}
{show}
with redirect_stderr(StringIO()):  # nbgrader takes whatever stands there for a failure
    right, hint = grade({judged})
{hide}
if not right:  # it was judged: what comes further down must not suffer from it
    answered.add("{number}")
    with suppress(Exception):
{answer}
{show}
assert right, hint
answered.add("{number}")"""


class Parsed(NamedTuple):
    """A cell that ends in `check(number, answer, ..., given, ...)`."""

    number: str
    before: str  # the code above the check
    check: str
    after: str  # the code below it
    answers: list  # names that the cell itself binds
    given: list  # expressions in what was there before


def parse(source):
    """The parts of an exercise or solution cell.

    Raises:
        ValueError: the cell has not exactly one check, or its arguments are not answers first, then what is given.
    """
    lines = source.splitlines()
    body = ast.parse(source).body
    calls = [s for s in body if isinstance(s, ast.Expr) and isinstance(s.value, ast.Call)]
    calls = [s for s in calls if isinstance(s.value.func, ast.Name) and s.value.func.id == "check"]
    if len(calls) != 1:
        raise ValueError(f"expected one check(...) in an exercise or solution cell, got {len(calls)}:\n{source}")
    call = calls[0]
    before, after = lines[: call.lineno - 1], lines[call.end_lineno :]
    bound = names("\n".join(before))[1]
    number, *judged = call.value.args
    answers = [ast.unparse(node) for node in judged if isinstance(node, ast.Name) and node.id in bound]
    given = [ast.unparse(node) for node in judged[len(answers) :]]
    if not answers or [ast.unparse(node) for node in judged] != answers + given:
        raise ValueError(
            f'expected check("1.2", answer, ..., given, ...) with answers that the cell binds, got\n{source}'
        )
    check = lines[call.lineno - 1 : call.end_lineno]
    return Parsed(number.value, *("\n".join(part) for part in (before, check, after)), answers, given)


def names(code):
    """({names that the code takes from above}, {names that it leaves}); the first may hold builtins."""

    def inside(table):  # global names that functions and comprehensions refer to
        for child in table.get_children():
            yield from (s.get_name() for s in child.get_symbols() if s.is_global() and s.is_referenced())
            yield from inside(child)

    needed, bound = set(), set()
    for statement in ast.parse(code).body:
        table = symtable.symtable(ast.unparse(statement), "cell", "exec")
        symbols = table.get_symbols()
        stored = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
        read = {s.get_name() for s in symbols if s.is_referenced()} | set(inside(table))
        if isinstance(statement, ast.AugAssign):
            read |= stored
        elif not isinstance(statement, ast.Assign):  # for, with, def, class: the head binds before the body reads
            read -= stored
        needed |= read - bound
        bound |= stored
    return needed, bound


class Ledger:
    """Which name comes out of which exercise, while one goes down the cells."""

    def __init__(self):
        self.needs = {}  # {name: numbers of the exercises without which it is not there}
        self.private = {}  # {name that a solution binds and the stub does not: number of the exercise}

    def given(self, code):
        """(code with a line needs(...) above the first statement that uses an answer, whether there is one)."""
        numbers, where = set(), None
        for statement in ast.parse(code).body:
            needed, bound = names(ast.unparse(statement))
            for name in sorted(needed & self.private.keys()):
                raise ValueError(
                    f"{name!r} is bound in the solution or test of {self.private[name]} only, and used in\n{code}"
                )
            numbers = numbers.union(*(self.needs.get(name, ()) for name in needed))
            if numbers and where is None:
                where = statement
            for name in bound:
                self.private.pop(name, None)
                self.needs[name] = numbers
        if where is None:
            return code, False
        lines = code.splitlines()
        at = min(node.lineno for node in (where, *getattr(where, "decorator_list", ()))) - 1
        while at and lines[at - 1].startswith("#"):
            at -= 1
        quoted = ", ".join(f'"{number}"' for number in sorted(numbers))
        blank = ["", ""] if isinstance(where, ast.FunctionDef | ast.ClassDef) else []
        return "\n".join([*lines[:at], f"needs({quoted})", *blank, *lines[at:]]), True

    def exercise(self, asked, answer):
        """Take note of the names that the reference answer to an exercise binds."""
        for name in names(answer)[1] | {"right", "hint", "grade"}:  # the last are the test's
            if name in asked.answers:
                self.needs[name] = {asked.number}
            else:
                self.private[name] = asked.number


def instructor(notebook, language):
    """Turn a notebook, as `build.assemble` makes it, into its nbgrader source.

    Raises:
        ValueError: a cell cannot be made into a student version; the message says which and why.
    """
    words, ledger, cells, waiting = WORDS[language], Ledger(), [], None
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if (waiting is None) == ("solution" in tags):
            raise ValueError(f"expected an exercise and right below it its solution, got\n{(waiting or cell).source}")
        if cell.id.startswith("links-"):
            continue  # the neighbours are other assignments
        if cell.cell_type != "code":
            cell.source = DETAILS.sub(rf"<!-- {BEGIN} -->\n\g<0>\n<!-- {END} -->", cell.source)
            cells.append(cell)
        elif "exercise" in tags:
            waiting = cell
        elif "solution" in tags:
            cells += graded(waiting, cell, words, ledger)
            waiting = None
        else:
            cells.append(given(cell, ledger))
            if "setup" in tags:
                cells.append(given(cell_of(TOOLS.format(**words), "class-tools"), ledger))
    if waiting is not None:
        raise ValueError(f"expected a solution below the last exercise, got the end of the notebook\n{waiting.source}")
    notebook.cells = cells
    return notebook


def graded(exercise, solution, words, ledger):
    """The cells of one exercise: what it is judged by, the exercise with its solution, the test."""
    asked, solved = parse(exercise.source), parse(solution.source)
    if (asked.number, asked.check) != (solved.number, solved.check):
        raise ValueError(f"exercise and solution must be checked alike:\n{exercise.source}\n{solution.source}")
    answer = "\n".join(line for line in f"{solved.before}\n{solved.after}".splitlines() if "# @title" not in line)
    answer, number, kept = answer.strip("\n"), asked.number, f"given_{asked.number.replace('.', '_')}"
    cells = []
    if asked.given:  # a student may use one of these names for something else
        things = ", ".join(asked.given) + "," * (len(asked.given) == 1)
        source = f"# {words['given'].format(number=number)}\n{kept} = ({things})"
        cells.append(given(cell_of(source, f"kept-{number}"), ledger))

    needs = ledger.given(kept)[0].removesuffix(kept) if asked.given else ""
    # What nbgrader cuts out leaves one empty line, the first of those above the check.
    above = asked.before.rstrip("\n")
    below = asked.before.removeprefix(above).removeprefix("\n")
    exercise.source = f"{needs}{above}\n{BEGIN}\n{answer}\n{END}\n{below}{asked.check}"
    exercise.metadata["tags"] = [*exercise.metadata["tags"], *([FAILS] if needs else [])]
    exercise.metadata["nbgrader"] = nbgrader(f"exercise-{number}", solution=True)

    test = cell_of(test_of(asked, answer, words, kept, needs), f"test-{number}")
    test.metadata["tags"] = [FAILS]
    test.metadata["nbgrader"] = nbgrader(f"test-{number}", grade=True, locked=True, points=1)
    ledger.exercise(asked, answer)
    return [*cells, exercise, test]


def test_of(asked, answer, words, kept, needs):
    """Source of the test of an exercise: judge; while nbgrader grades, put the reference in; fail with the hint."""
    return TEST.format(
        title=words["test"].format(number=asked.number),
        needs=needs,
        undefined="\n".join(f'{name} = globals().get("{name}")' for name in asked.answers),
        judged=", ".join([f'"{asked.number}"', *asked.answers, *([f"*{kept}"] if asked.given else [])]),
        number=asked.number,
        answer=textwrap.indent(answer, " " * 8),
        hide=HIDE,
        show=SHOW,
    )


def given(cell, ledger):
    """Lock a code cell; it says which exercises it needs."""
    cell.source, needs = ledger.given(cell.source)
    if needs:
        cell.metadata["tags"] = [*cell.metadata.get("tags", []), FAILS]
    cell.metadata["deletable"] = False
    cell.metadata["nbgrader"] = nbgrader(f"given-{cell.id}", locked=True)
    return cell


def cell_of(source, name):
    return new_code_cell(source, id=name.replace(".", "-"))


def nbgrader(grade_id, grade=False, solution=False, locked=False, **points):
    kinds = {"grade": grade, "solution": solution, "locked": locked, "task": False}
    return {"schema_version": 3, "grade_id": grade_id.replace(".", "-"), **kinds, **points}


def traces(source, student):
    """Lines of solutions and short answers in `source` that stand in the student version too.

    A line that stands above its solution as well is no trace, nor is one without a name in it (`try:`).
    """
    flat = [" ".join(line.split()) for cell in student.cells for line in cell.source.splitlines()]
    text = " ".join(flat)
    found, above, region = [], set(), None
    for line in (" ".join(line.split()) for cell in source.cells for line in cell.source.splitlines()):
        marks = {BEGIN: "solution", HIDE: "hidden", END: None, SHOW: None}  # hidden: the same solution, once more
        region = next((marks[mark] for mark in marks if mark in line), region)
        telling = set(re.findall(r"\w+", line)) - set(keyword.kwlist) - {"details", "summary"}
        if region is None:
            above.add(line)
        elif region == "solution" and telling and line not in above:
            found += [line] if line in flat or len(line) > 20 and line in text else []
    return found


def build(folder):
    """Write the course into `folder` and let nbgrader make the student versions.

    Raises:
        RuntimeError: nbgrader refuses, or a student version holds a trace of a solution.
    """
    for path in sources():
        for language in LANGUAGES:
            target = folder / "source" / f"{path.stem}-{language}" / f"{path.stem}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(instructor(assemble(path, language), language), target)
    config = folder / "nbgrader_config.py"
    if not config.exists():
        config.write_text(CONFIG, encoding="utf-8")
    settings = PyFileConfigLoader(config.name, path=str(folder)).load_config()
    course = NbGraderAPI(coursedir=CourseDirectory(root=str(folder), config=settings), config=settings)
    for source in sorted((folder / "source").glob("*/*.ipynb")):
        assignment = source.parent.name
        done = course.generate_assignment(assignment)
        if not done["success"]:
            raise RuntimeError(
                f"nbgrader generate_assignment {assignment} failed:\n{done['log']}\n{done.get('error', '')}"
            )
        student = folder / "release" / assignment / source.name
        found = traces(*(nbformat.read(path, as_version=4) for path in (source, student)))
        if found:
            student.unlink()
            raise RuntimeError(f"{assignment}: the student version held {found}; check {config} against CONFIG")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="default: build/class")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    build(folder)
    print(f"instructor versions: {folder}/source\nstudent versions:    {folder}/release")
    print(f"next:                cd {folder} && nbgrader release_assignment 02_cosine_and_correlation-en")


if __name__ == "__main__":
    main()
