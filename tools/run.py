"""Execute the stored notebooks, several at a time and each in both languages, into copies in executed/.

python -m tools.run

A copy that you changed stays as it is: the new one is written beside it, as 04_cosine_smile-2.ipynb.
"""

import json
import sys
from itertools import count
from pathlib import Path

import nbformat

from tools.execute import Job, at_a_time, execute_all
from tools.jupyterhub.hand_out import Copies

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"


def jobs():
    """What there is to execute, with the CPU seconds that it took when it was built."""
    times = json.loads((NOTEBOOKS / "times.json").read_text(encoding="utf-8"))
    found = []
    for path in sorted(NOTEBOOKS.glob("[ve][in]/*.ipynb")):
        language, seconds = path.parent.name, times.get(path.stem, {})
        notebook = nbformat.read(path, as_version=4)
        found.append(Job(f"{language}/{path.stem}", notebook, path.parent, seconds.get(language, 30)))
    return found


def plan(work):
    """One sentence: how many notebooks, and about how long they take."""
    lanes = at_a_time()
    minutes = max(sum(job.seconds for job in work) / lanes, *(job.seconds for job in work)) / 60
    return (
        f"{len(work)} notebooks, {lanes} at a time: about {max(1, round(minutes))} min, "
        "if this machine is as fast as the one that built them"
    )


def keep(copies, title, notebook):
    """Write an executed notebook where no reader's work stands; returns its name."""
    names = (f"{title}{'' if n == 1 else f'-{n}'}.ipynb" for n in count(1))
    name = next(name for name in names if not copies.is_the_readers(name))
    copies.write(name, f"{nbformat.writes(notebook)}\n".encode())
    return name


def run(work, folder):
    """Execute jobs into `folder`; returns the titles of those that failed, having shown their errors."""
    copies, failed = Copies(folder), []
    for (title, notebook, *_), _, error in execute_all(work, in_turn=True):
        if error:
            failed.append(title)
            print(f"\n{title} failed:\n{error}", file=sys.stderr)
        name = keep(copies, title, notebook)
        if name != f"{title}.ipynb":
            print(f"\n{title}: you changed the copy in {folder.name}/, so the new one is {folder.name}/{name}")
    return failed


def main():
    work = jobs()
    print(plan(work), flush=True)
    try:
        failed = run(work, ROOT / "executed")
    except KeyboardInterrupt:
        sys.exit("\nstopped; what was finished is in executed/")
    print("\nexecuted notebooks: executed/vi and executed/en\nto work in a copy of your own: make lab")
    if failed:
        sys.exit(f"failed: {', '.join(sorted(failed))}")


if __name__ == "__main__":
    main()
