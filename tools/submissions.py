"""What nbgrader grades of a submission: its answers and the student's own cells, in a notebook that is ours again.

`make class` puts this file beside nbgrader_config.py, which names what it uses.  Whatever was lost, pasted, moved,
retyped or edited, and whatever ends the kernel or never ends, costs the points of its own exercise only; what was
mended or left out stands in the graded notebook and in nbgrader's log.
"""

import os
import re
import shutil
import textwrap
from pathlib import Path

import nbformat
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbgrader.converters import Autograde
from nbgrader.preprocessors import DeduplicateIds, Execute, NbGraderPreprocessor
from nbgrader.utils import is_grade, is_locked
from traitlets import Integer

TRIES = 6  # a notebook is run again without the cell that ended the kernel, this often
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_{0}, ({1}, {1})); del resource"  # in the kernel
LEFT_OUT = "# Không chạy: ô này làm hỏng kernel hoặc không dừng · Left out: ended the kernel, or did not end"


def right_name(assignment, student, notebooks):
    """Before grading: give the only notebook of a submission, "04 (1).ipynb", the name that nbgrader looks for."""
    (given,) = (Path(name) for name in notebooks)
    (released,) = Path("release", given.parent.name).glob("*.ipynb")
    if given.name != released.name:
        notebooks[:] = [shutil.copyfile(given, str(given.with_name(released.name)))]


def mended(submitted, released):
    """(`released` with the student's answers and own cells in it, [what was mended, a line each]).

    A cell is known by its grade_id, its text, or its number in check("2.1", ...).  Of copies of an exercise
    the last counts, of ours the first; the others are cells of the student's own.
    """
    ours = {cell.metadata.nbgrader.grade_id: cell for cell in released.cells if "nbgrader" in cell.metadata}
    also = {cell.source: key for key, cell in ours.items()}
    also |= {key.removeprefix("exercise-").replace("-", "."): key for key in ours if key.startswith("exercise-")}

    def key_of(cell):
        number = re.search(r"""^check\(["']([\d.]+)["']""", cell.source, re.MULTILINE)
        stated = (cell.metadata.get("nbgrader") or {}).get("grade_id")
        keys = stated, also.get(cell.source), also.get(number and number[1])
        return next((key for key in keys if key in ours), None)

    keys, order = [key_of(cell) for cell in submitted.cells], list(ours)
    counts = {key: at for at, key in enumerate(keys) if key}
    counts |= {key: keys.index(key) for key in counts if is_locked(ours[key])}
    places = [order.index(key) if key and counts[key] == at else None for at, key in enumerate(keys)]
    own, above = [[] for _ in [*order, "end"]], 0  # the student's cells above each of ours, and at the end
    for at, cell in enumerate(submitted.cells):
        if places[at] is not None:
            above = places[at] + 1
            continue
        below = next((place for place in places[at:] if place is not None), len(order))
        new = getattr(nbformat.v4, f"new_{cell.cell_type}_cell")(cell.source)
        new.update({name: cell[name] for name in ["attachments"] if name in cell})  # pictures in a text
        own[min(above, below)].append(new)
    released.cells, notes = [], []
    for (key, cell), theirs in zip(ours.items(), own[:-1], strict=True):
        given = submitted.cells[counts[key]] if key in counts else None
        kind = "thiếu · missing" if given is None else "đổi loại · retyped" if given.cell_type != "code" else None
        kind = "dán nhiều lần · pasted" if keys.count(key) > 1 else kind
        if not is_locked(cell):
            cell.source = given.source if given else ""
        elif given and given.source != cell.source:
            kind = kind or "đã sửa, chạy bản gốc · edited, ours was run"
        notes += [f"{key}: {kind}"] * bool(kind)
        released.cells += [*theirs, cell]
    found = [place for place in places if place is not None]
    if found != sorted(found):
        notes.append("đã xếp lại theo thứ tự gốc · put back into order")
    released.cells += own[-1]
    return released, notes


class Mend(NbGraderPreprocessor):
    """Grade the mended notebook, and say in it what was mended."""

    def preprocess(self, nb, resources):
        about, course = resources["nbgrader"], self.parent.parent.coursedir
        folder = course.format_path(course.release_directory, ".", about["assignment"])
        released = nbformat.read(Path(folder, f"{about['notebook']}.ipynb"), as_version=4)
        nb, notes = mended(nb, released)
        if notes:
            self.log.warning("%s of %s was mended: %s", about["notebook"], about["student"], "; ".join(notes))
            lines = ["Trước khi chấm · Before grading:", "", *(f"- {note}" for note in notes)]
            nb.cells.insert(0, nbformat.v4.new_markdown_cell("\n".join(lines)))
        return nb, resources


class Run(Execute):
    """Execute what can be executed: nothing endless, nothing that ends the kernel, no flood of output."""

    patience = Integer(120, help="seconds for a cell of the student's, and for a test").tag(config=True)
    max_output = Integer(5_000_000, help="characters of output of one cell, figures included").tag(config=True)
    memory = Integer(8, help="GiB of data of the kernel, and of one file that it writes").tag(config=True)

    def preprocess(self, nb, resources):
        self.iopub_timeout = 30
        self.timeout_func = lambda cell: self.timeout if is_given(cell) else self.patience
        if os.name == "posix":  # Windows has no such limits
            lines = [LIMIT.format(what, self.memory << 30) for what in ("DATA", "FSIZE")]
            self.extra_arguments += [f"--IPKernelApp.exec_lines={line}" for line in lines]
        for left in reversed(range(TRIES)):
            try:
                return super().preprocess(nb, resources)
            except (DeadKernelError, CellTimeoutError):
                culprits = culprits_of(nb.cells, self.at)
                if not culprits or not left:
                    raise
                for cell in culprits:
                    self.log.error("Left out, and run again without it:\n%s", cell.source)
                    cell.source = f"{LEFT_OUT}\n{textwrap.indent(cell.source, '# ')}"

    def preprocess_cell(self, cell, resources, index):
        self.at, self.size = index, 0
        return super().preprocess_cell(cell, resources, index)

    def process_message(self, msg, cell, cell_index):
        content = msg["content"]
        if msg["msg_type"] == "error":
            content["evalue"] = content["evalue"][:1000]
            content["traceback"] = [line[:5000] for line in content["traceback"]]
        elif msg["msg_type"] not in ("status", "execute_input"):
            before, self.size = self.size, self.size + sum(len(str(value)) for value in content.values())
            if self.size > self.max_output:
                if before <= self.max_output:
                    text = "\n… (đầu ra bị cắt · output cut)\n"
                    cell.outputs.append(nbformat.v4.new_output("stream", name="stdout", text=text))
                return None
        return super().process_message(msg, cell, cell_index)


def is_given(cell):
    return is_locked(cell) and not is_grade(cell)


def culprits_of(cells, at):
    """The cells of the student's to blame for what cell number `at` did: the exercises that it needs, or the nearest."""
    stated = re.findall(r"^needs\((.*)\)", cells[at].source, re.MULTILINE) if is_given(cells[at]) else []
    needed = {f"exercise-{number.replace('.', '-')}" for number in re.findall(r"[\d.]+", " ".join(stated))}
    theirs = [cell for cell in cells[: at + 1] if cell.cell_type == "code" and not is_locked(cell)]
    theirs = [cell for cell in theirs if cell.source.strip() and not cell.source.startswith(LEFT_OUT)]
    return [c for c in theirs if c.metadata.get("nbgrader", {}).get("grade_id") in needed] or theirs[-1:]


SANITIZE = [Mend if step is DeduplicateIds else step for step in Autograde.sanitize_preprocessors.default()]
AUTOGRADE = [Run if step is Execute else step for step in Autograde.autograde_preprocessors.default()]
