"""Open JupyterLab on a working copy of the notebooks, in work/vi and work/en.

python -m tools.lab [options of jupyter lab]

The language of the first notebook is that of LANGUAGE, LC_ALL, LC_MESSAGES or LANG.
"""

import os
import subprocess
import sys
from pathlib import Path

from tools.jupyterhub.hand_out import hand_out

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "work"


def language():
    """The language of the first of these variables that is set: "vi", or "en" for all others."""
    locales = (os.environ.get(name) for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"))
    return "vi" if next(filter(None, locales), "").startswith("vi") else "en"


def main():
    if kept := hand_out(ROOT / "notebooks", WORK):
        print(f"left as you changed them: {', '.join(kept)} (delete one, and the next make lab brings it anew)")
    first = min((ROOT / "notebooks" / language()).glob("*.ipynb"))
    options = [f"--LabApp.default_url=/lab/tree/work/{first.parent.name}/{first.name}", "--ServerApp.root_dir=."]
    os.chdir(ROOT)
    command = [sys.executable, "-m", "jupyterlab", *options, *sys.argv[1:]]
    if os.name == "nt":  # there execv returns to the prompt while the server runs on
        sys.exit(subprocess.run(command, check=False).returncode)
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
