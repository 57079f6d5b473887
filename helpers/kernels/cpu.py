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
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numba import njit

from helpers.kernels.precision import full_precision

WIDTH = 64  # columns of a panel: 54 tokens of it fill half of a first-level cache
BLAS_FROM = 256  # tokens from which a BLAS product of a whole band is quicker than the product below
BAND = 4  # panels of rows that a thread takes at a time
GROUP_BYTES = 4 << 20  # layers are taken together as long as their panels are no larger

_LANES = {"reassoc", "contract", "nsz"}  # lets a sum run in vector lanes


@njit(nogil=True, cache=True, fastmath=_LANES)
def _standardise(x, columns, limit, y, panel_step, token_step, f, sums, first, last):
    """Fill panels `first` to `last` of one layer; moments in float64, the mean first, then what is around it.

    x: float32 `[sample, F]`; columns: int64 `[panel, 2]`, first column and number of columns.
    y: float32, flat: panel p, token t, column j at p * panel_step + t * token_step + j.
    f: four float32 `[panel * WIDTH]`: b, 1 / a (0 where constant), not zero, not constant.
    sums: float64 `[panel, 2, token]`: sum over features of x / |x| and of (x - mean) / |x - mean|.
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
            at = panel * panel_step + t * token_step
            out = y[at : at + WIDTH]
            cosine, correlation = 0.0, 0.0
            for j in range(width):
                centred = row[j] - mean[j]
                out[j] = centred * square[j]
                cosine += row[j] * square[j]
                correlation += centred * spread[j]
            out[width:] = 0
            sums[panel, 0, t] = cosine
            sums[panel, 1, t] = correlation


@njit(nogil=True, cache=True, fastmath={"contract"})
def _product(rows, columns, n, p):
    """p = rows^T columns: float32 panels, flat `[token, WIDTH]`, into p, flat `[WIDTH, WIDTH]`.

    Four rows of p and three tokens at a time: twelve factors stay in registers, and every value that is
    loaded is used four times.  As quick as BLAS up to some 250 tokens, and it needs no BLAS threads.
    """
    p[:] = 0
    for i in range(0, WIDTH, 4):
        out = p[i * WIDTH : (i + 4) * WIDTH]
        for t in range(0, n - n % 3, 3):
            f = rows[t * WIDTH + i : (t + 2) * WIDTH + i + 4]
            f00, f10, f20, f30 = f[0], f[1], f[2], f[3]
            f01, f11, f21, f31 = f[WIDTH], f[WIDTH + 1], f[WIDTH + 2], f[WIDTH + 3]
            f02, f12, f22, f32 = f[2 * WIDTH], f[2 * WIDTH + 1], f[2 * WIDTH + 2], f[2 * WIDTH + 3]
            c = columns[t * WIDTH : (t + 3) * WIDTH]
            for j in range(WIDTH):
                c0, c1, c2 = c[j], c[j + WIDTH], c[j + 2 * WIDTH]
                out[j] += f00 * c0 + f01 * c1 + f02 * c2
                out[j + WIDTH] += f10 * c0 + f11 * c1 + f12 * c2
                out[j + 2 * WIDTH] += f20 * c0 + f21 * c1 + f22 * c2
                out[j + 3 * WIDTH] += f30 * c0 + f31 * c1 + f32 * c2
        for t in range(n - n % 3, n):
            f = rows[t * WIDTH + i : t * WIDTH + i + 4]
            f0, f1, f2, f3 = f[0], f[1], f[2], f[3]
            c = columns[t * WIDTH : (t + 1) * WIDTH]
            for j in range(WIDTH):
                out[j] += f0 * c[j]
                out[j + WIDTH] += f1 * c[j]
                out[j + 2 * WIDTH] += f2 * c[j]
                out[j + 3 * WIDTH] += f3 * c[j]


@njit(nogil=True, cache=True, fastmath=_LANES)
def _bin_tile(
    products, step, row_at, height, column_at, width, diagonal, f, means, bins, threshold, index, table, sums
):
    """Count a tile of products, float32, flat `[height, step]`, of which the first `width` columns are meant.

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
        p = products[i * step + start : i * step + width]
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
def _fold(table, bins, counts):
    """Add the joint table to counts, int64 `[2, bins]`, and empty it."""
    for high in range(bins):
        cells = table[high * bins : (high + 1) * bins]
        counts[0, high] += cells.sum()
        counts[1] += cells
        cells[:] = 0


@njit(nogil=True, cache=True)
def _bin_band(y, n, product, product_step, columns, part, f, means, threshold, first, last, counts, moments):
    """Bin the rows of panels `first` to `last`, all of one part, against themselves and all later columns.

    y: panels, flat `[panel, token, WIDTH]`, to be multiplied here; or, with product_step > 0,
    product: float32, flat `[row, product_step]`, the products of these rows and all columns from theirs on.
    part: int64 `[panel]`, 0, 1, 2 for Q, K, V; means: float64 `[part, part, measure]`.
    counts: int64 `[part of the column, measure, bins]`; moments: float64 `[part of the column, 4]`.
    """
    bins = counts.shape[2]
    table = np.zeros(bins * bins, np.int32)
    index = np.empty(WIDTH, np.int32)
    tile = np.empty(WIDTH * WIDTH, np.float32)
    size = n * WIDTH
    for b in range(first, part.size):
        width = columns[b, 1]
        q = part[b]
        for a in range(first, min(last, b + 1)):
            height = columns[a, 1]
            if product_step == 0:
                _product(y[a * size : (a + 1) * size], y[b * size : (b + 1) * size], n, tile)
                products, step = tile, WIDTH
            else:
                at = (a - first) * WIDTH * product_step + (b - first) * WIDTH
                products, step = product[at:], product_step
            _bin_tile(
                products, step, a * WIDTH, height, b * WIDTH, width, a == b, f, means[part[a], q], bins, threshold,
                index, table, moments[q],
            )  # fmt: skip
        if b + 1 == part.size or part[b + 1] != q:
            _fold(table, bins, counts[q])


@cache
def _pool(n_threads):
    """Threads that wait between calls: to start one takes longer than to standardise a layer."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="kernels_cpu")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


def _share(work, tasks, n_threads):
    """Call work(*task) for every task, on `n_threads` threads that take them from one queue."""
    tasks = deque(tasks)

    def take():
        try:
            while True:
                try:
                    task = tasks.popleft()
                except IndexError:
                    return
                work(*task)
        except BaseException:
            tasks.clear()
            raise

    others = [_pool(n_threads - 1).submit(take) for _ in range(min(n_threads, len(tasks)) - 1)]
    try:
        take()
    finally:
        for other in others:  # one that has not begun, because the pool serves another caller, is not waited for
            if not other.cancel():
                other.result()


@cache
def _panels(sizes):
    """int64 `[panel, (first column, columns)]` and int64 `[panel]`, the part: panels stay inside Q, K or V."""
    columns, part, start = [], [], 0
    for p, size in enumerate(sizes):
        for offset in range(0, size, WIDTH):
            columns.append((start + offset, min(WIDTH, size - offset)))
            part.append(p)
        start += size
    return np.array(columns), np.array(part)


def _means(sums, defined, starts):
    """Mean of every block out of sums of unit vectors; NaN where no pair is defined.

    sums: float64 `[layer, panel, measure, token]`; defined: int64 `[layer, part, measure]`.
    Returns float64 `[layer, part, part, measure]` and the numbers of defined pairs, int64 of the same shape.
    """
    total = np.add.reduceat(sums, starts, axis=1)  # [layer, part, measure, token]
    products = np.einsum("lpmt,lqmt->lpqm", total, total)
    pairs = defined[:, :, None] * defined[:, None]  # [layer, part, part, measure]
    p = range(3)  # the square of a part holds each pair twice, and each feature with itself
    products[:, p, p] = (products[:, p, p] - defined) / 2
    pairs[:, p, p] = defined * (defined - 1) // 2
    means = np.full(products.shape, np.nan)
    np.divide(products, pairs, out=means, where=pairs > 0)
    return means.clip(-1, 1), pairs


def layer_sums(x, sizes, limit, bins, threshold, n_threads=None):
    """Histograms and moments of every block of some layers.

    Args:
        x: torch tensor `[layer, sample, F]` on the CPU, finite, float32 or shorter.
        sizes: features of Q, K and V.
        limit: a feature is constant up to a standard deviation of limit * rms.
        bins: at most 128: the joint table has bins * bins cells and should stay in the cache.  threshold: as in `block_histograms`.

    Returns:
        counts int64 `[layer, part, part, measure, bins]` (upper triangle; measures: cosine, correlation) and
        mean, std, above (share), float64 `[layer, part, part, measure]`, NaN where no pair is defined.
    """
    n_layers, n, _ = x.shape
    n_threads = n_threads or torch.get_num_threads()
    columns, part = _panels(tuple(sizes))
    size = len(part) * n * WIDTH
    group = max(1, GROUP_BYTES // (4 * size))
    found = [
        _group_sums(x[at : at + group], columns, part, limit, bins, threshold, n_threads)
        for at in range(0, n_layers, group)
    ]
    return tuple(np.concatenate(values) for values in zip(*found))


def _group_sums(x, columns, part, limit, bins, threshold, n_threads):
    layers = [layer.to(torch.float32).contiguous().numpy() for layer in x.detach()]
    n_layers, n, n_panels = len(layers), x.shape[1], len(part)
    whole_bands = n >= BLAS_FROM
    shape = (n, n_panels, WIDTH) if whole_bands else (n_panels, n, WIDTH)
    panel_step, token_step = (WIDTH, n_panels * WIDTH) if whole_bands else (n * WIDTH, WIDTH)
    y = np.empty((n_layers, *shape), np.float32)
    features = np.empty((n_layers, 4, n_panels * WIDTH), np.float32)
    sums = np.empty((n_layers, n_panels, 2, n))

    def standardise(layer, first, last):
        flat = y[layer].reshape(-1)
        _standardise(
            layers[layer],
            columns,
            limit,
            flat,
            panel_step,
            token_step,
            tuple(features[layer]),
            sums[layer],
            first,
            last,
        )

    step = max(1, min(8, n_panels * n_layers // (4 * n_threads)))
    _share(
        standardise,
        [(layer, at, min(at + step, n_panels)) for layer in range(n_layers) for at in range(0, n_panels, step)],
        n_threads,
    )

    starts = np.searchsorted(part, range(3))  # the first panel of Q, K and V
    defined = np.add.reduceat(features[:, 2:], WIDTH * starts, axis=2, dtype=np.int64)
    means, pairs = _means(sums, defined.swapaxes(1, 2), starts)
    known = np.nan_to_num(means)
    bands = _bands(part)
    counts = np.zeros((n_layers, len(bands), 3, 2, bins), np.int64)
    moments = np.zeros((n_layers, len(bands), 3, 4))
    nothing = np.empty(0, np.float32)
    exclusive = threshold if threshold < 1 else np.inf  # rounding may carry s beyond 1, never |s| > 1

    def bin_band(layer, band, product=nothing, product_step=0):
        _bin_band(
            y[layer].reshape(-1), n, product, product_step, columns, part, tuple(features[layer]), known[layer],
            exclusive, *bands[band], counts[layer, band], moments[layer, band],
        )  # fmt: skip

    if whole_bands:
        _multiply_bands(y.reshape(n_layers, n, -1), bands, bin_band)
    else:  # the first bands are the longest: the threads end together
        _share(bin_band, [(layer, band) for layer in range(n_layers) for band in range(len(bands))], n_threads)
    starts = [next(i for i, band in enumerate(bands) if part[band[0]] == p) for p in range(3)]
    return _total(counts, moments, means, pairs, starts, threshold)


def _bands(part):
    """[(first panel, last panel)] of rows taken together; a band stays inside Q, K or V."""
    bands = []
    for p in range(3):
        first, last = np.searchsorted(part, [p, p + 1])
        bands += [(at, min(at + BAND, last)) for at in range(first, last, BAND)]
    return bands


def _multiply_bands(y, bands, bin_band):
    """For many tokens: the products of a band by torch's BLAS, on torch's own threads, then its histogram."""
    n_layers, _, n_columns = y.shape
    room = torch.empty(BAND * WIDTH * n_columns)
    with full_precision(torch.device("cpu")):
        for layer in range(n_layers):
            values = torch.from_numpy(y[layer])  # [token, panel * WIDTH]
            for band, (first, last) in enumerate(bands):
                rows, rest = values[:, first * WIDTH : last * WIDTH], values[:, first * WIDTH :]
                product = room[: rows.shape[1] * rest.shape[1]].view(rows.shape[1], rest.shape[1])
                torch.mm(rows.mT, rest, out=product)
                bin_band(layer, band, room.numpy(), rest.shape[1])


def _total(counts, moments, means, pairs, starts, threshold):
    """Bands to parts; undefined pairs, which were all counted as s = 0, taken out again."""
    counts = np.add.reduceat(counts, starts, axis=1)  # [layer, part, part, measure, bins]
    moments = np.add.reduceat(moments, starts, axis=1)  # [layer, part, part, 4]
    upper = np.triu(np.ones((3, 3), np.int64))[:, :, None]
    undefined = counts.sum(axis=-1) - upper * pairs
    counts[..., counts.shape[-1] // 2] -= undefined
    above = moments[..., 2:] - (undefined if threshold < 0 else 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return counts, means, np.sqrt(moments[..., :2] / pairs), above / pairs
