"""Which kernel `block_histograms` takes: plain torch, numba on the CPU (`cpu`), or Triton on CUDA (`cuda`).

A compiled kernel is taken only where it has been tried: numba once it was compiled here (`compile_kernels`),
Triton once it gave the numbers of plain torch on this very device, driver and version (`prove_triton`).
A file in `cache_dir()` remembers each.
"""

import hashlib
import os
import platform
import sys
from functools import cache
from importlib import metadata, util
from pathlib import Path

import torch

from helpers.masks import MEASURES
from helpers.settings import cache_dir, message

KERNELS = ("auto", "torch", "numba", "triton")
MAX_BINS = 128  # more bins go through plain torch: the compiled kernels keep a table of bins x bins


def kernel_for(x, bins=100):
    """The kernel that `block_histograms` takes for `x`: "torch", "numba" or "triton".

    The environment variable `QKV_KERNEL` decides; "auto", the default, means
    - on the CPU: numba if it was compiled here before (`compile_kernels`), so that nobody waits for a
      compiler unasked; else torch;
    - on CUDA: Triton if it was proved on this device before (`prove_triton`); else torch, and one line says so.
    float64, and more bins than a kernel's table holds, always go through torch.
    """
    wanted = os.environ.get("QKV_KERNEL") or "auto"
    if wanted not in KERNELS:
        raise ValueError(message("kernel", wanted=wanted, known=", ".join(KERNELS)))
    if wanted == "torch" or x.dtype == torch.float64 or not x.is_floating_point() or bins > MAX_BINS:
        return "torch"
    if x.device.type == "cpu" and wanted in ("auto", "numba"):
        if wanted == "numba" and util.find_spec("numba") is None:
            raise ImportError(message("no_numba"))
        return "numba" if wanted == "numba" or _is_compiled() else "torch"
    counts_fit = x.device.type == "cuda" and x.shape[-1] < 1 << 15  # int32
    if counts_fit and wanted in ("auto", "triton") and util.find_spec("triton") is not None:
        return "triton" if wanted == "triton" or _is_proved(x.device) else "torch"
    return "torch"


def compiled_sums(kernel, x, sizes, measures, bins, threshold):
    """Counts `[measure, block, layer, bins]` and mean, std and share above `[measure, block, layer]`.

    kernel: "numba" or "triton"; x: `[layer, sample, F]`, finite; the rest as in `block_histograms`.
    """
    if kernel == "numba":
        from helpers.kernels import cpu as compiled
    else:
        from helpers.kernels import cuda as compiled
    groups = x.split(max(1, compiled.GROUP_BYTES // (4 * x[0].numel())))
    found = zip(*(compiled.layer_sums(group, sizes, bins, threshold) for group in groups), strict=True)
    found = [torch.cat(values).transpose(0, 1) for values in found]  # [block, layer, measure, ...]
    chosen = [MEASURES.index(measure) for measure in measures]
    return [torch.stack([values[:, :, m] for m in chosen]) for values in found]  # an index [chosen] would wake threads


def _marker(name, *made_of):
    """The file that says that the kernel in `name`.py, as it is now, works here with what it is `made_of`."""
    source = (Path(__file__).parent / f"{name}.py").read_bytes()
    digest = hashlib.sha256(source + repr((made_of, __file__, platform.machine())).encode()).hexdigest()
    cache_dir().mkdir(parents=True, exist_ok=True)
    return cache_dir() / f"kernels_{name}-{digest[:16]}"


def forget():
    """Look anew what was compiled and proved here, as a new process does."""
    _is_compiled.cache_clear()
    _is_proved.cache_clear()


def _numba_marker():
    return _marker("cpu", *map(metadata.version, ("numba", "llvmlite", "numpy")), platform.python_version())


@cache  # one answer per process: a run does not change its path half-way
def _is_compiled():
    return util.find_spec("numba") is not None and _numba_marker().exists()


def compile_kernels():
    """Compile the numba kernel once (about ten seconds) and remember it for later processes.

    The machine code goes to numba's cache: `__pycache__` beside the source, or the user's cache where
    that cannot be written (`NUMBA_CACHE_DIR` moves it).
    """
    from helpers.kernels import cpu

    cpu.layer_sums(torch.eye(3, 6)[None], (2, 2, 2), 100, 0.9)
    _numba_marker().touch()
    forget()


def _triton_marker(device):
    return _marker("cuda", *map(metadata.version, ("torch", "triton")), *describe_cuda(device))


def describe_cuda(device):
    """What a kernel for a CUDA device is compiled for: name, compute capability, CUDA and driver version."""
    driver = Path("/proc/driver/nvidia/version")  # Linux, as Triton is
    version = driver.read_text() if driver.exists() else ""
    return torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device), torch.version.cuda, version


@cache  # and so the line is said once
def _is_proved(device):
    if _triton_marker(device).exists():
        return True
    print(message("not_proved"), file=sys.stderr)
    return False


def prove_triton(device="cuda"):
    """Compare the Triton kernel with plain torch, in float64, on `device`, and remember that it matched.

    Raises:
        ArithmeticError: a number differs; says which.
    """
    from helpers.kernels import proof

    device = torch.device(device)
    proof.compare(device)
    _triton_marker(device).touch()
    forget()
