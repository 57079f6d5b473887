"""Start of a student's server, run as the student: hand out the notebooks, then become the server.

    python start_server.py NOTEBOOKS [options of the server]

A notebook that is there is left alone, whatever the student did to it.  Delete or rename it, restart the
server, and a fresh one is there.
"""

import os
import shutil
import sys
from pathlib import Path


def hand_out(notebooks, folder):
    """Copy each notebook of `notebooks`/vi and /en that `folder` does not have."""
    found = [path for language in ("vi", "en") for path in sorted((notebooks / language).glob("*.ipynb"))]
    if not found:
        sys.exit(f"{notebooks} has no vi/*.ipynb or en/*.ipynb: set NOTEBOOKS in jupyterhub_config.py")
    for source in found:
        copy = folder / source.parent.name / source.name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            part = copy.with_suffix(".part")
            shutil.copyfile(source, part)  # not its permissions: the student is to edit it
            part.replace(copy)  # whole, or not at all
    link, helpers = folder / "helpers", Path(__file__).resolve().parents[2] / "helpers"
    if link.is_symlink() and link.readlink() != helpers:  # the course has moved
        link.unlink()
    if not os.path.lexists(link):  # one for all: a fix reaches everybody
        link.symlink_to(helpers)


if __name__ == "__main__":
    hand_out(Path(sys.argv[1]), Path.home() / "qkv")
    os.execv(sys.executable, [sys.executable, "-m", "jupyterhub.singleuser", *sys.argv[2:]])
