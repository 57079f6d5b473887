"""What the tests compare with: definitions written out in float64 NumPy, nothing taken from helpers."""

from functools import cache

import numpy as np
import torch

BLOCKS = ("QQ", "KK", "VV", "QK", "QV", "KV")


def to_numpy(x):
    """A torch tensor of any dtype and device as a float64 array; the values stay what they were."""
    return x.detach().cpu().to(torch.float64).numpy()


def _normalised_products(values, undefined):
    length = np.sqrt((values**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        similarity = np.einsum("ti,tj->ij", values, values) / np.outer(length, length)
    similarity[undefined, :] = similarity[:, undefined] = np.nan
    return similarity


def cosine(x):
    """sum(x_i x_j) / (|x_i| |x_j|) of every two columns of `x [sample, F]`; NaN for a zero column."""
    values = to_numpy(x)
    return _normalised_products(values, (values == 0).all(axis=0))


def correlation(x):
    """The same after every column is centred; NaN for a constant one: all within two roundings of the dtype."""
    values, eps = to_numpy(x), torch.finfo(x.dtype if x.is_floating_point() else torch.float64).eps
    constant = np.ptp(values, axis=0) <= 2 * eps * np.abs(values).max(axis=0)
    return _normalised_products(values - values.mean(axis=0), constant)


SIMILARITY = {"cosine": cosine, "correlation": correlation}


@cache
def pairs(sizes):
    """{block: (rows, columns)} of every pair of features, each of which is named after its parts."""
    part = np.repeat(list("QKV"), sizes)
    rows, columns = np.triu_indices(len(part), 1)
    names = np.char.add(part[rows], part[columns])
    return {block: (rows[names == block], columns[names == block]) for block in BLOCKS}


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
