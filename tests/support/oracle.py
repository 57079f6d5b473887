"""What the tests compare with: definitions written out in float64 NumPy, nothing taken from helpers."""

from functools import cache

import numpy as np
import torch

BLOCKS = ("QQ", "KK", "VV", "QK", "QV", "KV")


def to_numpy(x):
    """A torch tensor of any dtype and device as a float64 array; the values stay what they were."""
    return x.detach().cpu().to(torch.float64).numpy()


def is_zero(x):
    """bool [F]: features of `x [sample, F]` that are zero at every token."""
    return (to_numpy(x) == 0).all(axis=0)


def is_constant(x):
    """bool [F]: features whose smallest and largest value are at most two roundings of the dtype apart."""
    values = to_numpy(x)
    eps = torch.finfo(x.dtype).eps if x.is_floating_point() else np.finfo(np.float64).eps
    return np.ptp(values, axis=0) <= 2 * eps * np.abs(values).max(axis=0)


def _normalised_products(values, undefined):
    length = np.sqrt((values**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        similarity = np.einsum("ti,tj->ij", values, values) / np.outer(length, length)
    similarity[undefined, :] = np.nan
    similarity[:, undefined] = np.nan
    return similarity


def cosine(x):
    """sum(x_i x_j) / (|x_i| |x_j|) of every two columns of `x [sample, F]`; NaN for a zero column."""
    return _normalised_products(to_numpy(x), is_zero(x))


def correlation(x):
    """The same after every column is centred; NaN for a constant column."""
    values = to_numpy(x)
    return _normalised_products(values - values.mean(axis=0), is_constant(x))


SIMILARITY = {"cosine": cosine, "correlation": correlation}


@cache
def pairs(sizes):
    """{block: (rows, columns)} of every pair of features, found by walking through all of them."""
    part = "Q" * sizes[0] + "K" * sizes[1] + "V" * sizes[2]
    found = {block: ([], []) for block in BLOCKS}
    for i in range(len(part)):
        for j in range(i + 1, len(part)):
            rows, columns = found[part[i] + part[j]]
            rows.append(i)
            columns.append(j)
    return {block: (np.array(i, dtype=int), np.array(j, dtype=int)) for block, (i, j) in found.items()}


def block(similarity, sizes, name):
    """The values of one block, 1-D, NaN where a pair is undefined."""
    return similarity[pairs(tuple(sizes))[name]]


def histogram(values, bins):
    """Counts of the defined values, those beyond +-1 by rounding put at +-1."""
    return np.histogram(np.clip(values[~np.isnan(values)], -1, 1), bins=np.linspace(-1, 1, bins + 1))[0]


def n_near(values, points, distance=1e-6):
    """For each of `points`, how many values lie that close to it."""
    values = np.sort(np.clip(values[~np.isnan(values)], -1, 1))
    points = np.asarray(points)
    return np.searchsorted(values, points + distance, "right") - np.searchsorted(values, points - distance, "left")
