"""Class versions of the notebooks, an nbgrader course out of the same sources.

    python -m tools.classroom            build/class: source/ (instructor), release/ (student), nbgrader_config.py
    python -m tools.classroom FOLDER     the same in another folder

One assignment for each notebook and language, such as 04_cosine_smile-vi.  What each cell becomes:

    exercise, solution   one cell; nbgrader cuts the solution out and leaves the stub as it was
    (new)                a test under each exercise: one point, judged by helpers.teaching.checks
    given code           locked: an edited copy is put back before grading, so that a test sees what it should
    short answers        cut out of the texts

A cell that uses the answer to an exercise says so itself, needs("4.1"): without one it stops with one sentence,
and all other cells run.  While nbgrader grades, a wrong answer is replaced by the reference once it was judged:
an error costs the point of its own exercise only.  What of a submission is graded at all: submissions.py.
"""

import ast
import os
import re
import shutil
import symtable
import sys
import textwrap
from pathlib import Path
from string import Template
from typing import NamedTuple

import nbformat
import yaml
from nbformat.v4 import new_code_cell
from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from traitlets.config import PyFileConfigLoader

from tools.course import LANGUAGES, ROOT, assemble, folder_named, sources

# nbgrader calls alembic by its name, which is found only where the environment was activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

TEMPLATES = ROOT / "tools" / "templates"
CONFIG = TEMPLATES / "nbgrader_config.py.in"
SUBMISSIONS = ROOT / "tools" / "submissions.py"  # the configuration imports it
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
FAILS = "raises-exception"  # JupyterLab runs on below such a cell
DETAILS = re.compile(r"^<details>.*?^</details>$", re.MULTILINE | re.DOTALL)
TEST = Template((TEMPLATES / "class_test.py.in").read_text(encoding="utf-8").rstrip("\n"))
WORDS = yaml.safe_load((TEMPLATES / "class_words.yml").read_text(encoding="utf-8"))


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
    checks = [statement for statement in ast.parse(source).body if ast.unparse(statement).startswith("check(")]
    if len(checks) != 1:
        raise ValueError(f"expected one check(...) in an exercise or solution cell, got {len(checks)}:\n{source}")
    (call,) = checks
    parts = lines[: call.lineno - 1], lines[call.lineno - 1 : call.end_lineno], lines[call.end_lineno :]
    before, check, after = ("\n".join(part) for part in parts)
    bound = names(before)[1]
    number, *judged = (ast.unparse(node) for node in call.value.args)
    answers = [text for text in judged if text in bound]
    if not answers or judged[: len(answers)] != answers:
        raise ValueError(f'expected check("1.2", answers that the cell binds, then what is given), got\n{source}')
    return Parsed(ast.literal_eval(number), before, check, after, answers, judged[len(answers) :])


def names(code):
    """({names that the code takes from above}, {names that it leaves}); the first may hold builtins."""
    needed, bound = set(), set()
    for statement in ast.parse(code).body:
        tables = [symtable.symtable(ast.unparse(statement), "cell", "exec")]
        stored = {s.get_name() for s in tables[0].get_symbols() if s.is_assigned() or s.is_imported()}
        for table in tables:  # and those of the functions and comprehensions inside
            tables += table.get_children()
        symbols = [symbol for table in tables for symbol in table.get_symbols()]
        read = {s.get_name() for s in symbols if s.is_global() and s.is_referenced()}
        if isinstance(statement, ast.AugAssign):
            read |= stored
        elif not isinstance(statement, ast.Assign):  # for, with, def, class: the head binds before the body reads
            read -= stored
        needed |= read - bound
        bound |= stored
    return needed, bound


class Ledger:
    """Which names wait for which exercises, while one goes down the cells."""

    def __init__(self):
        self.numbers = {}  # {name: numbers of the exercises without which it is not there}
        self.private = {}  # {name that a solution binds and the stub does not: number of the exercise}

    def given(self, code):
        """The numbers of the exercises that the code says it needs.

        Raises:
            ValueError: the code uses a name that students do not have, or an answer with no needs(...) above.
        """
        stated = set()
        for statement in ast.parse(code).body:
            text = ast.unparse(statement)
            if text.startswith("needs("):
                stated |= {ast.literal_eval(number) for number in statement.value.args}
            needed, bound = names(text)
            for name in needed & self.private.keys():
                where = f"in the solution or test of {self.private[name]} only"
                raise ValueError(f"{name!r} is bound {where}, and used in\n{code}")
            if missing := set().union(*(self.numbers.get(name, ()) for name in needed)) - stated:
                raise ValueError(f"expected needs(...) with {sorted(missing)} above {text[:60]!r}, in\n{code}")
            for name in bound:  # what stands below the line needs the same exercises
                self.private.pop(name, None)
                self.numbers[name] = set(stated)
        return stated


def instructor(notebook, language):
    """Turn a notebook, as `course.assemble` makes it, into its nbgrader source.

    Raises:
        ValueError: a cell cannot be made into a student version; the message says which and why.
    """
    words, ledger, cells = WORDS[language], Ledger(), []
    rest = iter(cell for cell in notebook.cells if not cell.id.startswith("links-"))  # those are other assignments
    for cell in rest:
        tags = cell.metadata.get("tags", [])
        if "exercise" in tags or "solution" in tags:
            solution = next(rest, cell)
            if "exercise" not in tags or "solution" not in solution.metadata.get("tags", []):
                raise ValueError(f"expected an exercise and right below it its solution, got\n{cell.source}")
            cells += graded(cell, solution, words, ledger)
        elif cell.cell_type != "code":
            cell.source = DETAILS.sub(rf"<!-- {BEGIN} -->\n\g<0>\n<!-- {END} -->", cell.source)
            cells.append(cell)
        else:
            cells.append(given(cell, ledger))
    notebook.cells = cells
    return notebook


def given(cell, ledger):
    """Lock a code cell that students get as it is."""
    cell.metadata["deletable"] = False
    return marked(cell, f"given-{cell.id}", bool(ledger.given(cell.source)), locked=True)


def graded(exercise, solution, words, ledger):
    """The cells of one exercise: what it is judged by, the exercise with its solution, the test."""
    asked, solved = parse(exercise.source), parse(solution.source)
    if (asked.number, asked.check.removesuffix(")") + ", solution=True)") != (solved.number, solved.check):
        both = f"{exercise.source}\n{solution.source}"
        raise ValueError(f"exercise and solution must be checked alike, but for solution=True:\n{both}")
    answer = "\n".join(line for line in f"{solved.before}\n{solved.after}".splitlines() if "# @title" not in line)
    answer, number, at = answer.strip("\n"), asked.number, asked.number.replace(".", "-")
    ledger.given(answer)
    numbers = ledger.given(f"{asked.before}\n{asked.check}")
    needs = f"needs({', '.join(map(repr, sorted(numbers)))})\n" if numbers else ""
    judged, cells = [f'"{number}"', *asked.answers], []
    if asked.given:  # a student may use one of these names for something else
        kept = f"given_{number.replace('.', '_')}"
        source = f"{needs}# {words['given'].format(number)}\n{kept} = ({', '.join(asked.given)},)"
        cells.append(given(new_code_cell(source, id=f"kept-{at}"), ledger))
        judged.append(f"*{kept}")

    # What nbgrader cuts out leaves one empty line, the first of those above the check.
    above = asked.before.rstrip("\n")
    below = asked.before.removeprefix(above).removeprefix("\n")
    exercise.source = f"{above}\n{BEGIN}\n{answer}\n{END}\n{below}{asked.check}"
    undefined = "\n".join(f'{name} = globals().get("{name}")' for name in asked.answers)
    values = {"number": number, "needs": needs, "undefined": undefined, "judged": ", ".join(judged)}
    values |= {"title": words["test"].format(number), "answer": textwrap.indent(answer, " " * 8)}
    test = TEST.substitute(values)
    for name in names(answer)[1] | {"right", "hint", "grade", "answered"}:  # the last are the test's
        if name in asked.answers:
            ledger.numbers[name] = {number}
        else:
            ledger.private[name] = number
    cells.append(marked(exercise, f"exercise-{at}", bool(needs), solution=True))
    cells.append(marked(new_code_cell(test, id=f"test-{at}"), f"test-{at}", True, grade=True, locked=True, points=1))
    return cells


def marked(cell, grade_id, fails, **kinds):
    """The cell with what nbgrader reads about it, and the tag of a cell that may fail."""
    if fails:
        cell.metadata["tags"] = [*cell.metadata.get("tags", []), FAILS]
    kinds = dict.fromkeys(("grade", "solution", "locked", "task"), False) | kinds
    cell.metadata["nbgrader"] = {"schema_version": 3, "grade_id": grade_id, **kinds}
    return cell


def nbgrader(folder):
    """nbgrader on the course in a folder, as the nbgrader_config.py there says."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(folder)).load_config()
    return NbGraderAPI(coursedir=CourseDirectory(root=str(folder), config=config), config=config)


def build(folder, languages=LANGUAGES):
    """Write the course into `folder` and let nbgrader make the student versions.

    Raises:
        RuntimeError: nbgrader refuses, or leaves in a student version what it was to cut out.
    """
    for path in sources():
        for language in languages:
            target = folder / "source" / f"{path.stem}-{language}" / f"{path.stem}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(instructor(assemble(path, language), language), target)
    config = folder / "nbgrader_config.py"
    if not config.exists():
        shutil.copyfile(CONFIG, config)
    shutil.copyfile(SUBMISSIONS, folder / SUBMISSIONS.name)
    course = nbgrader(folder)
    for source in sorted((folder / "source").glob("*/*.ipynb")):
        assignment = source.parent.name
        done = course.generate_assignment(assignment)
        if not done["success"]:
            raise RuntimeError(f"nbgrader cannot generate {assignment}:\n{done['log']}\n{done.get('error', '')}")
        student = folder / "release" / assignment / source.name
        if re.search("### BEGIN (SOLUTION|HIDDEN TESTS)", student.read_text(encoding="utf-8")):
            student.unlink()
            raise RuntimeError(f"{assignment}: the student version held solutions; check {config} against {CONFIG}")


def main():
    build(folder := folder_named(__doc__, "class"))
    print(f"instructor versions: {folder}/source\nstudent versions:    {folder}/release")
    print(f"next:                cd {folder} && nbgrader release_assignment 02_cosine_and_correlation-en")


if __name__ == "__main__":
    main()
