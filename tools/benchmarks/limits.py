"""What the machine can do at best: product rate, memory bandwidth, and the limit for our problem."""

import threading
import time

import numpy as np
import torch
from numba import njit
from threadpoolctl import threadpool_limits

from helpers.kernels import cpu as kernels_cpu
from helpers.kernels.cpu import WIDTH


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def on_threads(work, n_threads):
    """work(thread) on every thread at once."""
    threads = [threading.Thread(target=work, args=(at,)) for at in range(1, n_threads)]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()


def _band_products(z, n_threads):
    """The triangular product in bands of 128 rows, one BLAS thread each, results dropped."""
    n_features = z.shape[1]
    room = [np.empty(128 * n_features, np.float32) for _ in range(n_threads)]
    tops = iter(range(0, n_features, 128))

    def work(at):
        for top in tops:
            rows, rest = z[:, top : top + 128], z[:, top:]
            np.matmul(rows.T, rest, out=room[at][: rows.shape[1] * rest.shape[1]].reshape(rows.shape[1], -1))

    with threadpool_limits(1):
        on_threads(work, n_threads)


def _torch_products(z):
    """The same by torch on its own threads, bands of 256 rows."""
    z = torch.from_numpy(z)
    room = torch.empty(256 * z.shape[1])
    for top in range(0, z.shape[1], 256):
        rows, rest = z[:, top : top + 256], z[:, top:]
        torch.mm(rows.T, rest, out=room[: rows.shape[1] * rest.shape[1]].view(rows.shape[1], -1))


@njit(nogil=True)
def _own_products(y, n, first, step, tile):
    size = n * WIDTH
    n_panels = y.size // size
    for a in range(first, n_panels, step):
        for b in range(a, n_panels):
            kernels_cpu._product(y[a * size : (a + 1) * size], y[b * size : (b + 1) * size], n, tile)


def _panel_products(y, n, n_threads):
    """The same by the product of our kernel."""
    tiles = [np.empty(WIDTH * WIDTH, np.float32) for _ in range(n_threads)]
    on_threads(lambda at: _own_products(y, n, at, n_threads, tiles[at]), n_threads)


def product_candidates(n, n_features, n_threads):
    z = np.random.default_rng(0).standard_normal((n, n_features)).astype(np.float32)
    found = [lambda: _band_products(z, n_threads), lambda: _torch_products(z)]
    if n < kernels_cpu.BLAS_FROM:
        y = np.random.default_rng(0).standard_normal(-(-n_features // WIDTH) * n * WIDTH).astype(np.float32)
        found.append(lambda: _panel_products(y, n, n_threads))
    return found


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

    def work(at):
        _bin_once(values, repeats, np.empty(512, np.int32), np.zeros(128, np.int64))

    return lambda: on_threads(work, n_threads)


def product_rate(n_threads):
    """GFlop/s of a 2048 x 2048 x 2048 float32 product: the better of NumPy and torch, best of five."""
    a = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
    b = torch.from_numpy(a)
    return 2 * 2048**3 / min(seconds(f) for f in [lambda: a @ a, lambda: b @ b] * 5) / 1e9


def bandwidth(n_threads):
    """GB/s of a copy of 256 MiB, read plus write, best of five."""
    source = np.ones((n_threads, (256 << 20) // (8 * n_threads)))
    target = np.empty_like(source)
    copy = min(seconds(lambda: on_threads(lambda at: np.copyto(target[at], source[at]), n_threads)) for _ in range(5))
    return 2 * source.nbytes / copy / 1e9
