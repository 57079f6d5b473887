"""What nbgrader grades of a submission: its answers and the student's own cells, in a notebook that is ours again.

`make class` puts this file beside nbgrader_config.py, which names what it uses.  Whatever was lost, pasted, moved,
retyped or edited, and whatever ends the kernel or never ends, costs the points of its own exercise only; what was
mended or left out stands in the graded notebook and in nbgrader's log.
"""

import os
import re
import shutil
import textwrap
from collections import Counter
from contextlib import suppress
from pathlib import Path

import nbformat
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbgrader.converters import Autograde
from nbgrader.preprocessors import DeduplicateIds, Execute, NbGraderPreprocessor
from nbgrader.utils import is_grade, is_locked
from traitlets import Integer

with suppress(ImportError):  # Windows has no such limits
    import resource

TRIES = 6  # a notebook is run again without the cell that ended the kernel, this often
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

    keys = [key_of(cell) for cell in submitted.cells]
    counts, order, notes = {key: at for at, key in enumerate(keys)}, [*ours, None], []
    counts |= {key: keys.index(key) for key in counts if key and ours[key].metadata.nbgrader.locked}
    own, found, place = {key: [] for key in order}, {}, 0  # place: in `order`, behind the last cell of ours
    for at, (cell, key) in enumerate(zip(submitted.cells, keys, strict=True)):
        if key and counts[key] == at:
            found[key], place = cell, order.index(key) + 1
        else:  # goes with the cell of ours that follows, here or in the released notebook
            following = next((order.index(k) for i, k in enumerate(keys) if i > at and k and counts[k] == i), len(ours))
            new = getattr(nbformat.v4, f"new_{cell.cell_type}_cell")(cell.source)
            new.update({name: cell[name] for name in ["attachments"] if name in cell})  # pictures in a text
            own[order[min(place, following)]].append(new)
    released.cells = []
    for key in order[:-1]:
        cell, given = ours[key], found.get(key)
        kind = "thiếu · missing" if given is None else "đổi loại · retyped" if given.cell_type != "code" else None
        kind = "dán nhiều lần · pasted" if keys.count(key) > 1 else kind
        if cell.metadata.nbgrader.locked and given is not None and given.source != cell.source:
            kind = kind or "đã sửa, chạy bản gốc · edited, ours was run"
        elif not cell.metadata.nbgrader.locked:
            cell.source = "" if given is None else given.source
        notes += [f"{key}: {kind}"] * bool(kind)
        released.cells += [*own[key], cell]
    if list(found) != [key for key in ours if key in found]:
        notes.append("đã xếp lại theo thứ tự gốc · put back into order")
    released.cells += own[None]
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
        for left in reversed(range(TRIES)):
            self.sizes = Counter()
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
        self.at = index
        return super().preprocess_cell(cell, resources, index)

    def start_new_kernel(self, **kwargs):
        limits = {"preexec_fn": self.limit} if os.name == "posix" else {}
        return super().start_new_kernel(**limits, **kwargs)

    def limit(self):
        """In the kernel's process, before it starts."""
        for what in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE):
            with suppress(ValueError):  # less is allowed already
                resource.setrlimit(what, (self.memory << 30,) * 2)

    def process_message(self, msg, cell, cell_index):
        content = msg["content"]
        if msg["msg_type"] == "error":
            content["evalue"] = content["evalue"][:1000]
            content["traceback"] = [line[:5000] for line in content["traceback"]]
        elif msg["msg_type"] not in ("status", "execute_input"):
            before = self.sizes[cell_index]
            self.sizes[cell_index] += sum(len(str(value)) for value in content.values())
            if self.sizes[cell_index] > self.max_output:
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
