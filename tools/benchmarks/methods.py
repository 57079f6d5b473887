"""Ways to get the six histograms, from the notebook's own to ours.  x: float32 `[..., sample, F]`, NumPy."""

import os
from functools import partial

import numpy as np
import scipy.spatial.distance
import sklearn.metrics.pairwise
import torch
import torchmetrics.functional

from helpers import block_histograms
from helpers.masks import BLOCKS


def masked(matrix, x, sizes):
    """Histograms of what `matrix` makes of `x`, by a mask for each block."""
    similarity = np.asarray(matrix(x))
    code = np.repeat([1, 2, 3], sizes)
    mask = np.triu(np.outer(code, code), 1)  # integers, as the notebook writes it
    return [np.histogram(similarity[mask == block], bins=100, range=(-1, 1))[0] for block in BLOCKS.values()]


def cosine(x):
    unit = x / np.linalg.norm(x, axis=0)
    return unit.T @ unit


def correlation(x):
    return cosine(x - x.mean(axis=0))


def notebook_both(x, sizes):
    return masked(cosine, x, sizes), masked(correlation, x, sizes)


def scipy_pdist(x, sizes):
    similarity = 1 - scipy.spatial.distance.pdist(x.T, "correlation")
    code = np.repeat([1, 2, 3], sizes)
    mask = np.outer(code, code)[np.triu_indices(len(code), 1)]
    return [np.histogram(similarity[mask == block], bins=100, range=(-1, 1))[0] for block in BLOCKS.values()]


def ours(kernel, x, sizes):
    """Our function by one kernel; x may be a stack of layers."""
    os.environ["QKV_KERNEL"] = kernel
    return block_histograms(torch.from_numpy(x), sizes)


# The last three compute both measures, all others one.
METHODS = {
    "notebook, one measure": partial(masked, correlation),
    "numpy.corrcoef": partial(masked, lambda x: np.corrcoef(x, rowvar=False, dtype=np.float32)),
    "torch.corrcoef": partial(masked, lambda x: torch.corrcoef(torch.from_numpy(x).T)),
    "sklearn cosine_similarity": partial(masked, lambda x: sklearn.metrics.pairwise.cosine_similarity(x.T)),
    "torchmetrics pairwise_cosine_similarity": partial(
        masked, lambda x: torchmetrics.functional.pairwise_cosine_similarity(torch.from_numpy(x).T)
    ),
    "scipy pdist": scipy_pdist,
    "notebook, both measures": notebook_both,
    "block_histograms, torch": partial(ours, "torch"),
    "block_histograms, numba": partial(ours, "numba"),
}
