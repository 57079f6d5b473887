"""Ways to get the six histograms, from the notebook's own to ours, and the limit: what any way must do at least.

`python -m tools.benchmarks.report measure` measures them here, interleaved.  x: float32 `[..., sample, F]`, NumPy.
"""

import os
import time
import tomllib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, partial
from math import comb
from multiprocessing import get_context
from statistics import median

import numpy as np
import pandas as pd
import torch
from numba import njit
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import cosine_similarity
from torchmetrics.functional import pairwise_cosine_similarity
from tqdm import tqdm

from helpers import block_histograms
from helpers.masks import BLOCKS
from tests.support.histograms import features
from tools.benchmarks.report import HERE, NOTEBOOK, OURS, RESULTS, TORCH, above, rates, seconds, store, this_machine

PLAN = tomllib.loads((HERE / "plan.toml").read_text(encoding="utf-8"))
SLOW = 5  # seconds: of such a method one call is enough


def masked(matrix, x, sizes):
    """Histograms of what `matrix` makes of `x`, whole or its upper triangle in a row, by a mask for each block."""
    similarity = np.asarray(matrix(x))
    code = np.repeat([1, 2, 3], sizes)
    mask = np.outer(code, code)  # integers, as the notebook writes it
    mask = np.triu(mask, 1) if similarity.ndim == 2 else mask[np.triu_indices(len(code), 1)]
    return [np.histogram(similarity[mask == block], bins=100, range=(-1, 1))[0] for block in BLOCKS.values()]


def cosine(x):
    unit = x / np.linalg.norm(x, axis=0)
    return unit.T @ unit


def correlation(x):
    return cosine(x - x.mean(axis=0))


def notebook_both(x, sizes):
    layers = x.reshape(-1, *x.shape[-2:])
    return [masked(matrix, layer, sizes) for layer in layers for matrix in (cosine, correlation)]


def ours(kernel, x, sizes):
    os.environ["QKV_KERNEL"] = kernel
    return block_histograms(torch.from_numpy(x), sizes)


MATRICES = {  # one measure each, followed by the notebook's mask
    "notebook, one measure": correlation,
    "numpy.corrcoef": lambda x: np.corrcoef(x, rowvar=False, dtype=np.float32),
    "torch.corrcoef": lambda x: torch.corrcoef(torch.from_numpy(x.T)),
    "sklearn cosine_similarity": lambda x: cosine_similarity(x.T),
    "torchmetrics pairwise_cosine_similarity": lambda x: pairwise_cosine_similarity(torch.from_numpy(x.T)),
    "scipy pdist": lambda x: 1 - pdist(x.T, "correlation"),
}
METHODS = {name: partial(masked, matrix) for name, matrix in MATRICES.items()}
METHODS |= {NOTEBOOK: notebook_both, TORCH: partial(ours, "torch"), OURS: partial(ours, "numba")}


def product(n, n_features):
    """The triangular product `[feature, feature]` in bands of 256 rows by torch's BLAS, results dropped."""
    z, room = torch.randn(n, n_features, generator=torch.Generator().manual_seed(0)), torch.empty(0)

    def multiply():
        for top in range(0, n_features, 256):
            torch.mm(z[:, top : top + 256].T, z[:, top:], out=room.resize_(0))  # its memory stays

    return multiply


@njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _bin_once(values, repeats):
    index, table = np.empty(512, np.int32), np.zeros(128, np.int64)
    cells = index.view(np.uint32)
    for _ in range(repeats):
        for at in range(0, values.size, 512):
            s = values[at : at + 512]
            for j in range(512):
                index[j] = np.int32(s[j] * np.float32(50) + np.float32(50))
            for j in range(512):
                table[cells[j]] += 1
    return table


def binning(n_features, n_threads):
    """One plain pass over values that lie in the cache, for both measures: what two increments a pair cost."""
    values = np.random.default_rng(0).uniform(-0.99, 0.99, 8192).astype(np.float32)
    repeats = max(1, 2 * comb(n_features, 2) // (8192 * n_threads))
    _bin_once(values, 1)  # compiled
    threads = ThreadPoolExecutor(n_threads)
    return lambda: list(threads.map(_bin_once, [values] * n_threads, [repeats] * n_threads))


def turn(call, least):
    """Seconds of the first call after a pause, and the median of the calls that follow for `least` seconds."""
    time.sleep(0.15)  # OpenBLAS threads of the method before spin for some 110 ms
    first = seconds(call)
    calls = [first if first > SLOW else seconds(call)]
    while sum(calls) < least:
        calls.append(seconds(call))
    return first, median(calls)


def interleaved(calls, rounds, least=0.25):
    """Tables [round, name] of ms: the first call of each turn, and the turn; one method after the other."""
    found = np.array([[turn(call, least) for call in calls.values()] for _ in tqdm(range(rounds))])
    return [pd.DataFrame(1e3 * found[:, :, i], columns=list(calls)) for i in range(2)]


@cache
def made(shape):
    return features(*map(int, shape.split(" x "))).numpy()


def call_of(name, shape):
    x = made(shape)
    return partial(METHODS[name], x, (x.shape[-1] // 3,) * 3)


def peak(name, shape):
    call = call_of(name, shape)
    call_of(name, "54 x 300")()  # its code is loaded
    return above(call)


def measure_shape(shape, rounds):
    calls, (n, n_features) = {name: call_of(name, shape) for name in METHODS}, map(int, shape.split(" x "))
    calls |= {"product": product(n, n_features), "binning": binning(n_features, torch.get_num_threads())}
    first, ms = interleaved(calls, rounds)
    ratio = ms[NOTEBOOK] / ms[OURS]
    weighed = list(METHODS if shape == "54 x 2304" else (NOTEBOOK, OURS, TORCH))
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as alone:
        mib = dict(zip(weighed, alone.map(peak, weighed, [shape] * len(weighed)), strict=True))
    found = {"ms": ms.median().to_dict(), "fastest_ms": ms.min().to_dict(), "first_ms": first.median().to_dict()}
    found |= {"mib": mib, "ratio": ratio.median(), "ratio_range": [ratio.min(), ratio.max()], "rounds": rounds}
    return found


def measure_layers(shape, rounds):
    _, ms = interleaved({name: call_of(name, shape) for name in (NOTEBOOK, OURS, TORCH)}, rounds)
    return {"ms": ms.median().to_dict(), "rounds": rounds}


def measure_growth(shapes):
    """ms of both of our paths, the shapes interleaved."""
    kernels = {"numba": OURS, "torch": TORCH}
    calls = {(kernel, shape): call_of(name, shape) for kernel, name in kernels.items() for shape in shapes}
    ms = dict(zip(calls, interleaved(calls, 4, least=0.05)[1].median(), strict=True))
    return [{"shape": list(map(int, shape.split(" x "))), **{k: ms[k, shape] for k in kernels}} for shape in shapes]


def measure():
    for name in METHODS:
        call_of(name, "54 x 300")()  # compiled, loaded
    load = os.getloadavg()[0]
    results = {
        "shapes": {shape: measure_shape(shape, rounds) for shape, rounds in PLAN["shapes"].items()},
        "layers": {shape: measure_layers(shape, rounds) for shape, rounds in PLAN["layers"].items()},
        "growth": {name: measure_growth(shapes) for name, shapes in PLAN["growth"].items()},
        "machine": this_machine("torch", "numpy", "numba", "scipy", "scikit-learn", "torchmetrics"),
    }
    results["machine"] |= {"threads": torch.get_num_threads(), **rates("cpu", 2048, copied=8192)}
    results["machine"]["load"] = [load, os.getloadavg()[0]]
    store(RESULTS, results)
