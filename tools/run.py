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
    times, found = json.loads((NOTEBOOKS / "times.json").read_text(encoding="utf-8")), []
    for path in sorted(NOTEBOOKS.glob("[ve][in]/*.ipynb")):
        seconds = times.get(path.stem, {}).get(path.parent.name, 30)
        found.append(Job(f"{path.parent.name}/{path.stem}", nbformat.read(path, as_version=4), path.parent, seconds))
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


def main():
    work, folder, failed = jobs(), ROOT / "executed", []
    print(plan(work), flush=True)
    copies = Copies(folder)
    try:
        for job in execute_all(work, in_turn=True):
            if job.error:
                failed.append(job.title)
                print(f"\n{job.title} failed:\n{job.error}", file=sys.stderr)
            name = keep(copies, job.title, job.notebook)
            if name != f"{job.title}.ipynb":
                print(f"\n{job.title}: you changed the copy in executed/, so the new one is executed/{name}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; what was finished is in executed/")
    print("\nexecuted notebooks: executed/vi and executed/en\nto work in a copy of your own: make lab")
    if failed:
        sys.exit(f"failed: {', '.join(sorted(failed))}")


if __name__ == "__main__":
    main()
