"""Which kernel `block_histograms` takes: plain torch, numba on the CPU (`cpu`), or Triton on CUDA (`cuda`)."""

import hashlib
import os
import platform
from functools import cache
from importlib import metadata, util
from pathlib import Path

import torch

from helpers.settings import cache_dir

KERNELS = ("auto", "torch", "numba", "triton")
MAX_BINS = 128  # more bins go through plain torch: the compiled kernels keep a table of bins x bins


def kernel_for(x, bins=100):
    """The kernel that `block_histograms` takes for `x`: "torch", "numba" or "triton".

    The environment variable `QKV_KERNEL` decides; "auto", the default, means
    - on the CPU: numba if it was compiled here before (`compile_kernels`), so that nobody waits for a
      compiler unasked; else torch;
    - on CUDA: Triton where it is installed, else torch.
    float64, and more bins than a kernel's table holds, always go through torch.
    """
    wanted = os.environ.get("QKV_KERNEL") or "auto"
    if wanted not in KERNELS:
        raise ValueError(f"QKV_KERNEL is {wanted!r}: expected one of {', '.join(KERNELS)}")
    if wanted == "torch" or x.dtype == torch.float64 or not x.is_floating_point() or bins > MAX_BINS:
        return "torch"
    if x.device.type == "cpu" and wanted in ("auto", "numba"):
        if wanted == "numba" and util.find_spec("numba") is None:
            raise ImportError('QKV_KERNEL is "numba", but numba is not installed: pip install numba')
        return "numba" if wanted == "numba" or _is_compiled() else "torch"
    if x.device.type == "cuda" and wanted in ("auto", "triton") and x.shape[-1] < 1 << 15:  # int32 counts
        return "triton" if util.find_spec("triton") is not None else "torch"
    return "torch"


def _compiled_marker():
    """The file that says that the numba kernel, as it is now, was compiled by this user."""
    made_of = [metadata.version(name) for name in ("numba", "llvmlite", "numpy")] + [platform.python_version()]
    source = (Path(__file__).parent / "cpu.py").read_bytes()
    name = hashlib.sha256(source + repr((made_of, __file__, platform.machine())).encode()).hexdigest()[:16]
    return cache_dir() / f"kernels_cpu-{name}"


@cache  # one answer per process: a run does not change its path half-way
def _is_compiled():
    return util.find_spec("numba") is not None and _compiled_marker().exists()


def compile_kernels():
    """Compile the numba kernel once (about ten seconds) and remember it for later processes.

    The machine code goes to numba's cache: `__pycache__` beside the source, or the user's cache where
    that cannot be written (`NUMBA_CACHE_DIR` moves it).
    """
    from helpers.kernels import cpu

    for n in (3, cpu.BLAS_FROM):
        cpu.layer_sums(torch.eye(n, 6)[None], (2, 2, 2), 1e-6, 100, 0.9)
    marker = _compiled_marker()
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    _is_compiled.cache_clear()
