"""The histograms of `helpers.similarity.block_histograms` on a CPU, compiled with numba.

With y = (x - mean) / (rms * sqrt(n)) of every feature, one product p = y_i . y_j per pair gives both measures:

    cosine = p + b_i b_j          b = mean / rms
    correlation = p / (a_i a_j)   a = std / rms

(the identity of notebook 02).  A tile of products is binned while it is still in the cache, and one
increment counts both measures, in a joint table cosine bin x correlation bin that is folded at the end.
Sums of squares are taken around the mean of the block, which is known beforehand: the sum of all s_ij
is a product of two sums of vectors.

Features lie in panels of `WIDTH` columns that never cross from Q to K or V; the last panel of a part is
filled up with zeros.  Threads take panels from one queue, and every panel has its own place in the
result: the numbers do not depend on who computed them.  Nothing here touches BLAS threads or other
process-wide settings.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numba import njit

from helpers.kernels.features import block_means, constant_limit
from helpers.masks import BLOCK_PARTS

WIDTH = 64  # columns of a panel: 54 tokens of it fill half of a first-level cache
DEPTH = 126  # tokens multiplied at a time, so that they stay in that cache; a multiple of three
BAND = 4  # panels of rows that a thread takes at a time
GROUP_BYTES = 4 << 20  # layers are taken together as long as they are no larger

_BLOCK = np.array([[BLOCK_PARTS.index((min(p, q), max(p, q))) for q in range(3)] for p in range(3)])
_LANES = {"reassoc", "contract", "nsz"}  # lets a sum run in vector lanes


@njit(nogil=True, cache=True, fastmath=_LANES)
def _standardise(x, columns, limit, y, f, sums, first, last):
    """Fill panels `first` to `last` of one layer; moments in float64, the mean first, then what is around it.

    x: float32 `[sample, F]`; columns: int64 `[panel, 2]`, first column and number of columns.
    y: float32 `[panel, token, WIDTH]`.
    f: four float32 `[panel * WIDTH]`: b, 1 / a (0 where constant), not zero, not constant.
    sums: float64 `[measure, panel, token]`: sum over features of x / |x| and of (x - mean) / |x - mean|.
    """
    n = x.shape[0]
    mean, square, spread = np.empty(WIDTH), np.empty(WIDTH), np.empty(WIDTH)
    for panel in range(first, last):
        start, width = columns[panel]
        mean[:], square[:], spread[:] = 0.0, 0.0, 0.0
        for t in range(n):
            row = x[t, start : start + width]
            for j in range(width):
                mean[j] += row[j]
        mean /= n
        for t in range(n):
            row = x[t, start : start + width]
            for j in range(width):
                value = np.float64(row[j])
                square[j] += value * value
                spread[j] += (value - mean[j]) ** 2
        for j in range(WIDTH):  # square and spread become factors; 0 is what an undefined feature gets
            zero = square[j] == 0
            constant = spread[j] <= limit**2 * square[j]
            norm, deviation = np.sqrt(square[j]), np.sqrt(spread[j])
            square[j] = 0.0 if zero else 1 / norm
            spread[j] = 0.0 if constant else 1 / deviation
            f[0][panel * WIDTH + j] = mean[j] * np.sqrt(n) * square[j]
            f[1][panel * WIDTH + j] = norm * spread[j]
            f[2][panel * WIDTH + j] = not zero
            f[3][panel * WIDTH + j] = not constant
        for t in range(n):
            row = x[t, start : start + width]
            out = y[panel, t]
            cosine, correlation = 0.0, 0.0
            for j in range(width):
                centred = row[j] - mean[j]
                out[j] = centred * square[j]
                cosine += row[j] * square[j]
                correlation += centred * spread[j]
            out[width:] = 0
            sums[0, panel, t] = cosine
            sums[1, panel, t] = correlation


@njit(nogil=True, cache=True, fastmath={"contract"})
def _product(rows, columns, first, last, p):
    """rows^T columns over tokens `first` to `last`, flat float32 panels `[token, WIDTH]`, to p, flat `[WIDTH, WIDTH]`.

    What p holds stays and is added to, unless the first token is 0.  Four rows of p and three tokens at a time:
    twelve factors stay in registers, and every value that is loaded is used four times.  It needs no BLAS threads.
    """
    nothing, whole = np.float32(0), last - (last - first) % 3
    for i in range(0, WIDTH, 4):
        out = p[i * WIDTH : (i + 4) * WIDTH]
        for t in range(first, whole, 3):
            f = rows[t * WIDTH + i : (t + 2) * WIDTH + i + 4]
            f00, f10, f20, f30 = f[0], f[1], f[2], f[3]
            f01, f11, f21, f31 = f[WIDTH], f[WIDTH + 1], f[WIDTH + 2], f[WIDTH + 3]
            f02, f12, f22, f32 = f[2 * WIDTH], f[2 * WIDTH + 1], f[2 * WIDTH + 2], f[2 * WIDTH + 3]
            c = columns[t * WIDTH : (t + 3) * WIDTH]
            for j in range(WIDTH):
                c0, c1, c2 = c[j], c[j + WIDTH], c[j + 2 * WIDTH]
                out[j] = (out[j] if t else nothing) + f00 * c0 + f01 * c1 + f02 * c2
                out[j + WIDTH] = (out[j + WIDTH] if t else nothing) + f10 * c0 + f11 * c1 + f12 * c2
                out[j + 2 * WIDTH] = (out[j + 2 * WIDTH] if t else nothing) + f20 * c0 + f21 * c1 + f22 * c2
                out[j + 3 * WIDTH] = (out[j + 3 * WIDTH] if t else nothing) + f30 * c0 + f31 * c1 + f32 * c2
        for t in range(whole, last):
            f = rows[t * WIDTH + i : t * WIDTH + i + 4]
            c = columns[t * WIDTH : (t + 1) * WIDTH]
            for k in range(4):
                for j in range(WIDTH):
                    out[j + k * WIDTH] = (out[j + k * WIDTH] if t else nothing) + f[k] * c[j]


@njit(nogil=True, cache=True, fastmath=_LANES)
def _bin_tile(products, row_at, height, column_at, width, diagonal, f, means, bins, threshold, index, table, sums):
    """Count a tile of products, float32, flat `[WIDTH, WIDTH]`, of which `height` rows and `width` columns are meant.

    row_at, column_at: places of the features in f, the arrays of `_standardise`.
    diagonal: rows and columns are the same features: count each pair once.
    means: float64 `[measure]`; index: room for int32 `[width]`; table: int32 `[bins * bins]`, counted up.
    sums: float64 `[4]`, counted up: squares around the mean and numbers above, cosine and correlation.
    """
    half, most, stride = np.float32(bins / 2), np.float32(bins - 0.5), np.int32(bins)
    nothing, one, limit = np.float32(0), np.float32(1), np.float32(threshold)
    mean_cosine, mean_correlation = np.float32(means[0]), np.float32(means[1])
    cells = index.view(np.uint32)  # unsigned: no test for a negative index
    total = (0.0, 0.0, 0.0, 0.0)  # sums is written once: what the other thread writes may lie in the same cache line
    for i in range(height):
        start = i + 1 if diagonal else 0
        row, at = row_at + i, column_at + start
        p = products[i * WIDTH + start : i * WIDTH + width]
        b, inverse = f[0][at : at + p.size], f[1][at : at + p.size]
        not_zero, not_constant = f[2][at : at + p.size], f[3][at : at + p.size]
        row_b, row_inverse = f[0][row], f[1][row]
        row_cosine, row_correlation = mean_cosine * f[2][row], mean_correlation * f[3][row]
        square_cosine, square_correlation = nothing, nothing
        above_cosine, above_correlation = nothing, nothing
        for j in range(p.size):
            cosine = p[j] + row_b * b[j]
            correlation = p[j] * (row_inverse * inverse[j])
            d = cosine - row_cosine * not_zero[j]
            e = correlation - row_correlation * not_constant[j]
            square_cosine += d * d
            square_correlation += e * e
            above_cosine += one if abs(cosine) > limit else nothing
            above_correlation += one if abs(correlation) > limit else nothing
            high = np.int32(min(max(cosine * half + half, nothing), most))
            low = np.int32(min(max(correlation * half + half, nothing), most))
            index[j] = high * stride + low
        for j in range(p.size):
            table[cells[j]] += np.int32(1)
        total = (
            total[0] + square_cosine,
            total[1] + square_correlation,
            total[2] + above_cosine,
            total[3] + above_correlation,
        )
    for k in range(4):
        sums[k] += total[k]


@njit(nogil=True, cache=True)
def _bin_band(y, n, columns, part, f, means, threshold, first, last, counts, moments):
    """Bin the rows of panels `first` to `last`, all of one part, against themselves and all later columns.

    y: panels, flat `[panel, token, WIDTH]`; n: number of tokens; part: int64 `[panel]`, 0, 1, 2 for Q, K, V; means: float64 `[block, measure]`.
    counts: int64 `[block, measure, bins]`, moments: float64 `[block, 4]`, both counted up.
    """
    bins, size = counts.shape[2], n * WIDTH
    table = np.zeros(bins * bins, np.int32)
    index = np.empty(WIDTH, np.int32)
    products = np.empty(WIDTH * WIDTH, np.float32)
    for b in range(first, part.size):
        block = _BLOCK[part[first], part[b]]
        for a in range(first, min(last, b + 1)):
            for t in range(0, n, DEPTH):
                _product(y[a * size :], y[b * size :], t, min(t + DEPTH, n), products)
            _bin_tile(
                products, a * WIDTH, columns[a, 1], b * WIDTH, columns[b, 1], a == b, f, means[block], bins, threshold,
                index, table, moments[block],
            )  # fmt: skip
        if b + 1 == part.size or part[b + 1] != part[b]:  # the block ends: fold its joint table, and empty it
            for high in range(bins):
                cells = table[high * bins : (high + 1) * bins]
                counts[block, 0, high] += cells.sum()
                counts[block, 1] += cells
                cells[:] = 0


@cache
def _pool(n_threads):
    """Threads that wait between calls: to start one takes longer than to standardise a layer."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="kernels_cpu")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


def share(work, tasks):
    """Call work(*task) for every task of a list, on torch's number of threads, which take them from one queue."""
    queue = iter(tasks)

    def take():
        for task in queue:  # to take the next one is atomic
            work(*task)

    n_threads = torch.get_num_threads()
    others = [_pool(n_threads - 1).submit(take) for _ in range(min(n_threads, len(tasks)) - 1)]
    try:
        take()
    finally:
        for other in others:  # one that has not begun, because the pool serves another caller, is not waited for
            if not other.cancel():
                other.result()


@cache
def _panels(sizes):
    """Panels, and bands of them, that stay inside Q, K or V.

    Returns int64 `[panel, (first column, columns)]`; int64 `[panel]`, the part; [(first panel, last panel)] of
    the rows that are taken together.
    """
    columns, part, bands, start = [], [], [], 0
    for p, size in enumerate(sizes):
        first = len(part)
        columns += [(start + at, min(WIDTH, size - at)) for at in range(0, size, WIDTH)]
        part += [p] * (len(columns) - first)
        bands += [(at, min(at + BAND, len(part))) for at in range(first, len(part), BAND)]
        start += size
    return np.array(columns), np.array(part), bands


def layer_sums(x, sizes, bins, threshold):
    """Histograms and moments of every block of some layers.

    Args:
        x: torch tensor `[layer, sample, F]` on the CPU, finite, float32 or shorter.
        sizes: features of Q, K and V, a tuple.
        bins: at most 128: the joint table has bins * bins cells and should stay in the cache.
        threshold: as in `block_histograms`.

    Returns:
        Tensors: counts int64 `[layer, block, measure, bins]` (measures: cosine, correlation) and
        mean, std, above (share), float64 `[layer, block, measure]`, NaN where no pair is defined.
    """
    columns, part, bands = _panels(sizes)
    y, features, sums = _standardised(x, columns)
    starts = np.searchsorted(part, range(3))  # the first panel of Q, K and V
    total = np.add.reduceat(sums, starts, axis=2)  # [layer, measure, part, token]
    number = np.add.reduceat(features[:, 2:], WIDTH * starts, axis=2, dtype=np.int64)  # [layer, measure, part]
    means, pairs = block_means(torch.from_numpy(total), torch.from_numpy(number))  # [layer, block, measure]
    known = means.nan_to_num().numpy()
    counts = np.zeros((len(x), len(bands), 6, 2, bins), np.int64)
    moments = np.zeros((len(x), len(bands), 6, 4))
    exclusive = threshold if threshold < 1 else np.inf  # rounding may carry s beyond 1, never |s| > 1

    def bin_band(layer, band):
        f, found = tuple(features[layer]), (counts[layer, band], moments[layer, band])
        _bin_band(y[layer].reshape(-1), x.shape[1], columns, part, f, known[layer], exclusive, *bands[band], *found)

    # the first bands are the longest: the threads end together
    share(bin_band, [(layer, band) for layer in range(len(x)) for band in range(len(bands))])
    counts, moments = (torch.from_numpy(values.sum(axis=1)) for values in (counts, moments))
    undefined = counts.sum(-1) - pairs  # all counted as s = 0: taken out again
    counts[..., bins // 2] -= undefined
    above = moments[..., 2:] - undefined * (threshold < 0)
    return counts, means, (moments[..., :2] / pairs).sqrt(), above / pairs


def _standardised(x, columns):
    """y, f and sums of `_standardise`, each with an axis for the layers before the others."""
    layers = [layer.to(torch.float32).contiguous().numpy() for layer in x.detach()]
    n_layers, n, n_panels = len(layers), x.shape[1], len(columns)
    y = np.empty((n_layers, n_panels, n, WIDTH), np.float32)
    features = np.empty((n_layers, 4, n_panels * WIDTH), np.float32)
    sums = np.empty((n_layers, 2, n_panels, n))
    limit = constant_limit(x.dtype)

    def standardise(layer, first, last):
        _standardise(layers[layer], columns, limit, y[layer], tuple(features[layer]), sums[layer], first, last)

    step = max(1, min(8, n_panels * n_layers // (4 * torch.get_num_threads())))
    share(standardise, [(i, at, min(at + step, n_panels)) for i in range(n_layers) for at in range(0, n_panels, step)])
    return y, features, sums
