"""All that needs a GPU, in one run: do the kernels agree with float64 there, how fast are they, what do they hold?

    python -m tools.prove_gpu             on a machine with CUDA and Triton; some minutes
    python -m tools.benchmarks.report write    puts what it wrote, tools/benchmarks/gpu.json, into docs/performance*.md

Needs torch, transformers, Triton, NumPy and pytest, nothing else.  Without CUDA it stops with exit status 2;
where a number is wrong, a test fails or something breaks off it still writes what it found, says so, and ends
with exit status 1.
"""

import itertools
import os
import platform
import re
import subprocess
import sys
import traceback
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from helpers import block_histograms
from helpers.kernels import describe_cuda, prove_triton
from tests.support import oracle
from tests.support.histograms import features, through
from tools.benchmarks.report import GPU, ROOT, rates, read, seconds, store

TESTS = ROOT / "tests" / "kernels" / "test_triton.py"
KERNELS = ("triton", "torch")
MODELS = {"GPT-2 small": (12, 54, 2304), "GPT-2 XL": (48, 54, 4800)}  # layers, samples, features of Q, K and V
CASES = [(n, sizes) for n in (3, 54, 300) for sizes in ((64, 1, 63), (65, 129, 2), (320, 64, 64))]
CASES.append((54, (768, 768, 768)))  # a layer of GPT-2 small
MOST_OFF = 1e-6  # of a mean, against float64


def against_oracle(kernel, device):
    """{cases, counts off beyond the values within 1e-6 of an edge, largest error of a mean} of one kernel."""
    counts, mean = 0, 0.0
    for n, sizes in CASES:
        x = features(n, sum(sizes)).to(device)
        x[:, 0], x[:, -1] = 0, 3  # undefined: a zero feature and a constant one
        with through(kernel):
            found = block_histograms(x, sizes)
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


def measure(model, shape, rate, device):
    """One row: time and memory of every kernel, and the time that products or memory alone take at best."""
    x, sizes = features(*shape).to(device), (shape[-1] // 3,) * 3
    n_layers, n, n_features = shape
    limits = {
        "compute": n_layers * n * n_features * (n_features - 1) / rate["gflops"] / 1e6,  # a product and a sum a pair
        "memory": x.nbytes / rate["bandwidth"] / 1e6,  # the input is read once
    }
    bound = max(limits, key=limits.get)
    row = {"model": model, "shape": list(shape), "bound": bound, "limit_ms": limits[bound], "ms": {}, "mib": {}}
    for kernel in KERNELS:
        with through(kernel):
            block_histograms(x, sizes)  # compiled
            if x.is_cuda:
                torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            row["ms"][kernel] = 1e3 * seconds(lambda: block_histograms(x, sizes), repeat=7)
        row["mib"][kernel] = (torch.cuda.max_memory_allocated() - held) / 2**20
    return row


def run_tests():
    """{passed, failed, skipped} of the tests that need CUDA; those without it in their name run anywhere."""
    options = ["-q", "-k", "cuda", "--override-ini=addopts=", "-p", "no:cacheprovider", "--color=no", str(TESTS)]
    command = [sys.executable, "-m", "pytest", *options]
    said = subprocess.run(command, cwd=ROOT, timeout=240, check=False, stdout=subprocess.PIPE, text=True).stdout
    print(said)
    kinds = {"passed": "passed", "failed": "failed|error", "skipped": "skipped"}
    last = said.splitlines()[-1]  # "1 failed, 1 passed, 1 skipped, 1 deselected in 0.02s"
    return {name: sum(map(int, re.findall(rf"(\d+) (?:{kind})", last))) for name, kind in kinds.items()}


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
    tests, off = found["tests"], found["oracle"].items()
    lines = [found.get("error"), found["proof"] and f"prove_triton: {found['proof']}"]
    lines += [f"{k} differs from float64: {v}" for k, v in off if v["counts"] or not v["mean"] < MOST_OFF]
    lines += [f"CUDA tests: {tests}"] if tests["failed"] or not tests["passed"] else []
    return list(filter(None, lines))


def prove(found):
    """Put what is measured into `found`, piece by piece."""
    found["machine"] |= rates("cuda", 8192, copied=8192)
    found["tests"] = run_tests()
    try:
        prove_triton()  # from then on "auto" takes the kernel
        found["proof"] = None
    except ArithmeticError as error:  # what differs from plain torch
        found["proof"] = str(error)
    for kernel in KERNELS:
        found["oracle"][kernel] = against_oracle(kernel, "cuda")
    for model, shape in MODELS.items():
        found["shapes"].append(measure(model, shape, found["machine"], "cuda"))


def main():
    """Returns the exit status."""
    if not torch.cuda.is_available():
        print("no CUDA device on this machine: run this where torch.cuda.is_available() is true", file=sys.stderr)
        return 2
    if find_spec("platformdirs") is None:  # what it would say on Linux
        os.environ.setdefault("QKV_CACHE", str(Path.home() / ".cache" / "qkv-token-similarity"))
    found = {"machine": describe(), "tests": {"passed": 0, "failed": 0, "skipped": 0}, "proof": "was not tried"}
    found |= {"oracle": {}, "shapes": [], "error": None}
    try:
        prove(found)
    except Exception:  # noqa: BLE001 - out of memory, a compiler that fails: what was measured before stays
        found["error"] = traceback.format_exc()
    store(GPU, (read(GPU) if GPU.exists() else {}) | {found["machine"]["device"]: found})
    wrong = failures(found)
    print(GPU.read_text(encoding="utf-8"), *wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
