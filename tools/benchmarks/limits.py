"""What the machine can do at best: the limit of our problem, product rate, memory bandwidth."""

import threading

import numpy as np
import torch
from numba import njit

from tools.benchmarks.report import once


def product(n, n_features):
    """The triangular product `[feature, feature]` in bands of 256 rows by torch's BLAS, results dropped."""
    z = torch.randn(n, n_features, generator=torch.Generator().manual_seed(0))
    room = torch.empty(256 * n_features)

    def multiply():
        for top in range(0, n_features, 256):
            rows, rest = z[:, top : top + 256], z[:, top:]
            torch.mm(rows.T, rest, out=room[: rows.shape[1] * rest.shape[1]].view(rows.shape[1], -1))

    return multiply


@njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _bin_once(values, repeats, index, table):
    cells = index.view(np.uint32)
    for _ in range(repeats):
        for at in range(0, values.size, 512):
            s = values[at : at + 512]
            for j in range(512):
                index[j] = np.int32(s[j] * np.float32(50) + np.float32(50))
            for j in range(512):
                table[cells[j]] += 1


def binning(n_pairs, n_threads):
    """One plain pass over values that lie in the cache, for both measures: what 2 n_pairs increments cost."""
    values = np.random.default_rng(0).uniform(-0.99, 0.99, 8192).astype(np.float32)
    repeats = max(1, 2 * n_pairs // (8192 * n_threads))

    def count():
        rooms = [(np.empty(512, np.int32), np.zeros(128, np.int64)) for _ in range(n_threads)]
        threads = [threading.Thread(target=_bin_once, args=(values, repeats, *room)) for room in rooms]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return count


def product_rate():
    """GFlop/s of a 2048 x 2048 x 2048 float32 product, best of five."""
    a = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(0))
    return 2 * 2048**3 / min(once(lambda: a @ a) for _ in range(5)) / 1e9


def bandwidth():
    """GB/s of a copy of 256 MiB on all of torch's threads, read plus write, best of five."""
    source, target = torch.ones(64 << 20), torch.zeros(64 << 20)
    return 2 * source.nbytes / min(once(lambda: target.copy_(source)) for _ in range(5)) / 1e9
