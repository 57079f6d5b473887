"""All that needs a GPU, in one run: do the kernels agree with float64 there, how fast are they, what do they hold?

    python -m tools.prove_gpu             on a machine with CUDA and Triton; some minutes
    python -m tools.benchmarks.report write    puts what it wrote, tools/benchmarks/gpu.json, into docs/performance*.md

Needs torch, transformers, Triton, NumPy and pytest, nothing else.  Without CUDA it stops with exit status 2;
where a number is wrong, a test fails or something breaks off it still writes what it found, says so, and ends
with exit status 1.
"""

import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

import numpy as np
import torch

from helpers import block_histograms
from helpers.kernels import describe_cuda, prove_triton
from helpers.kernels.precision import full_precision
from tests.support import oracle
from tools.benchmarks.report import GPU, ROOT, data

TESTS = ROOT / "tests" / "kernels" / "test_triton.py"
KERNELS = ("triton", "torch")
MODELS = {"GPT-2 small": (12, 54, 2304), "GPT-2 XL": (48, 54, 4800)}  # layers, samples, features of Q, K and V
CASES = [(n, sizes) for n in (3, 54, 300) for sizes in ((64, 1, 63), (65, 129, 2), (320, 64, 64))]
CASES.append((54, (768, 768, 768)))  # a layer of GPT-2 small
MOST_OFF = 1e-6  # of a mean, against float64


def compute(kernel, x, sizes):
    """The histograms of `x` by one kernel; finished when this returns."""
    os.environ["QKV_KERNEL"] = kernel
    found = block_histograms(x, sizes)
    if x.is_cuda:
        torch.cuda.synchronize()
    return found


def against_oracle(kernel, device):
    """{cases, counts off beyond the values within 1e-6 of an edge, largest error of a mean} of one kernel."""
    counts, mean = 0, 0.0
    for n, sizes in CASES:
        x = data(n, sum(sizes)).to(device)
        x[:, 0], x[:, -1] = 0, 3  # undefined: a zero feature and a constant one
        found = compute(kernel, x, sizes)
        matrices = {measure: similarity(x) for measure, similarity in oracle.SIMILARITY.items()}
        for measure, block in itertools.product(matrices, oracle.BLOCKS):
            values, histogram = oracle.block(matrices[measure], sizes, block), found[measure][block]
            near = oracle.n_near(values, histogram.edges.cpu().numpy())
            off = np.abs(histogram.counts.cpu().numpy() - oracle.histogram(values, len(near) - 1))
            counts += int((off - near[:-1] - near[1:]).clip(0).sum())
            counts += abs(int(histogram.counts.sum()) - int((~np.isnan(values)).sum()))
            if not np.isnan(values).all():
                mean = max(mean, abs(float(histogram.mean) - float(np.nanmean(values))))
    return {"cases": len(CASES), "counts": counts, "mean": mean}


def milliseconds(call, device, repeat=7):
    """Median of some calls after the first; `call` may return before the device is done."""
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return median(times[1:])


def rates(device, size=8192):
    """{GFlop/s of a float32 product, GB/s of a copy (read plus write)} of the device."""
    a, b = torch.randn(size, size, device=device), torch.empty(size, size, device=device)
    with full_precision(a.device):  # no TF32, as in the kernels
        product = milliseconds(lambda: torch.mm(a, a, out=b), device)
    copy = milliseconds(lambda: b.copy_(a), device)
    return {"gflops": 2 * size**3 / product / 1e6, "bandwidth": 2 * a.nbytes / copy / 1e6}


def measure(model, shape, rate, device):
    """One row: time and memory of every kernel, and the time that products or memory alone take at best."""
    x, sizes = data(*shape).to(device), (shape[-1] // 3,) * 3
    n_layers, n, n_features = shape
    limits = {
        "compute": n_layers * n * n_features * (n_features - 1) / rate["gflops"] / 1e6,  # a product and a sum a pair
        "memory": x.nbytes / rate["bandwidth"] / 1e6,  # the input is read once
    }
    bound = max(limits, key=limits.get)
    row = {"model": model, "shape": list(shape), "bound": bound, "limit_ms": limits[bound], "ms": {}, "mib": {}}
    for kernel in KERNELS:
        call = partial(compute, kernel, x, sizes)
        row["ms"][kernel] = milliseconds(call, device)
        if x.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            row["mib"][kernel] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return row


def run_tests():
    """{passed, failed, skipped} of the tests that need CUDA; those without it in their name run anywhere."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.xml")
        options = ["-q", "-k", "cuda", "--override-ini=addopts=", "-p", "no:cacheprovider", f"--junitxml={result}"]
        subprocess.run([sys.executable, "-m", "pytest", *options, str(TESTS)], cwd=ROOT, timeout=240, check=False)
        (suite,) = ElementTree.parse(result).getroot().iter("testsuite")
    n = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    failed = n["failures"] + n["errors"]
    return {"passed": n["tests"] - failed - n["skipped"], "failed": failed, "skipped": n["skipped"]}


def describe():
    """{device, gib, driver, date, python, versions} of the GPU and what drives it."""
    name, _, _, driver = describe_cuda("cuda")
    numbers = re.findall(r"\b\d+(?:\.\d+)+\b", driver)  # "NVRM version: NVIDIA UNIX ... Kernel Module  550.54 ..."
    found = {"device": name, "gib": torch.cuda.get_device_properties(0).total_memory / 2**30}
    found |= {"driver": (numbers or ["?"])[0], "date": datetime.now(UTC).date().isoformat()}
    versions = {name: str(import_module(name).__version__) for name in ("torch", "triton", "transformers", "numpy")}
    return found | {"python": platform.python_version(), "versions": versions}


def failures(found):
    """What of all that was found is no proof, a line each."""
    lines = [found["error"]] if found.get("error") else []
    if found["proof"]:
        lines.append(f"prove_triton: {found['proof']}")
    for kernel, off in found["oracle"].items():
        if off["counts"] or not off["mean"] < MOST_OFF:
            lines.append(f"{kernel} differs from float64: {off}")
    if found["tests"]["failed"] or not found["tests"]["passed"]:
        lines.append(f"CUDA tests: {found['tests']}")
    return lines


def prove(found, device):
    """Put what is measured into `found`, piece by piece."""
    found["machine"] |= rates(device)
    found["tests"] = run_tests()
    try:
        prove_triton(device)  # from then on "auto" takes the kernel
        found["proof"] = None
    except ArithmeticError as error:  # what differs from plain torch
        found["proof"] = str(error)
    for kernel in KERNELS:
        found["oracle"][kernel] = against_oracle(kernel, device)
    for model, shape in MODELS.items():
        found["shapes"].append(measure(model, shape, found["machine"], device))


def main(device="cuda"):
    """Returns the exit status."""
    if not torch.cuda.is_available():
        print("no CUDA device on this machine: run this where torch.cuda.is_available() is true", file=sys.stderr)
        return 2
    if find_spec("platformdirs") is None:  # what it would say on Linux
        os.environ.setdefault("QKV_CACHE", str(Path.home() / ".cache" / "qkv-token-similarity"))
    found = {"machine": describe(), "tests": {"passed": 0, "failed": 0, "skipped": 0}, "proof": "was not tried"}
    found |= {"oracle": {}, "shapes": [], "error": None}
    try:
        prove(found, device)
    except Exception:  # noqa: BLE001 - out of memory, a compiler that fails: what was measured before stays
        found["error"] = traceback.format_exc()
    GPU.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(GPU.read_text(encoding="utf-8"), *failures(found), sep="\n")
    return int(bool(failures(found)))


if __name__ == "__main__":
    sys.exit(main())
