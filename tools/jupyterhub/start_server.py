"""Start of a student's server, run as the student: hand out the notebooks, then become the server.

    python start_server.py NOTEBOOKS [options of the server]

A notebook that the student changed is left alone.  Delete or rename it, restart the server, and a fresh
one is there.
"""

import os
import sys
from pathlib import Path

from hand_out import hand_out  # the file beside this one, which runs as a script


def link_library(folder):
    """Link `folder`/helpers to the library of this course: one for all, so that a fix reaches everybody."""
    link, helpers = folder / "helpers", Path(__file__).resolve().parents[2] / "helpers"
    if link.is_symlink():  # the course may have moved
        link.unlink()
    if not link.exists():
        link.symlink_to(helpers)


def shared_only_to_read(folder):
    """Leave with one sentence if some student could change what all of them load."""
    for path in (folder, *folder.rglob("*")):
        if path.stat().st_mode & 0o022:  # group or others may write
            sys.exit(f"every student could change {path}: chmod -R a+rX,go-w {folder}, then start the server again")


if __name__ == "__main__":
    home = Path.home() / "qkv"
    if cache := os.environ.get("QKV_CACHE"):
        shared_only_to_read(Path(cache))
    try:
        hand_out(Path(sys.argv[1]), home)
    except FileNotFoundError as error:
        sys.exit(f"{error}: set NOTEBOOKS in jupyterhub_config.py")
    link_library(home)
    os.execv(sys.executable, [sys.executable, "-m", "jupyterhub.singleuser", *sys.argv[2:]])
