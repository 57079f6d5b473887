"""Ways to get the six histograms, from the notebook's own to ours.  x: float32 `[sample, F]`, NumPy."""

import os

import numpy as np
import scipy.spatial.distance
import sklearn.metrics.pairwise
import torch
import torchmetrics.functional

from helpers import block_histograms
from helpers.masks import BLOCKS


def _mask_and_histogram(similarity, sizes):
    code = np.repeat([1, 2, 3], sizes)
    mask = np.triu(np.outer(code, code), 1)  # integers, as the notebook writes it
    return [np.histogram(similarity[mask == block], bins=100, range=(-1, 1))[0] for block in BLOCKS.values()]


def notebook_cosine(x, sizes):
    unit = x / np.linalg.norm(x, axis=0)
    return _mask_and_histogram(unit.T @ unit, sizes)


def notebook_correlation(x, sizes):
    return notebook_cosine(x - x.mean(axis=0), sizes)


def notebook_both(x, sizes):
    return notebook_cosine(x, sizes), notebook_correlation(x, sizes)


def numpy_corrcoef(x, sizes):
    return _mask_and_histogram(np.corrcoef(x, rowvar=False, dtype=np.float32), sizes)


def torch_corrcoef(x, sizes):
    return _mask_and_histogram(torch.corrcoef(torch.from_numpy(x).T).numpy(), sizes)


def sklearn_cosine(x, sizes):
    return _mask_and_histogram(sklearn.metrics.pairwise.cosine_similarity(x.T), sizes)


def torchmetrics_cosine(x, sizes):
    similarity = torchmetrics.functional.pairwise_cosine_similarity(torch.from_numpy(x).T)
    return _mask_and_histogram(similarity.numpy(), sizes)


def scipy_pdist(x, sizes):
    similarity = 1 - scipy.spatial.distance.pdist(x.T, "correlation")
    code = np.repeat([1, 2, 3], sizes)
    mask = np.outer(code, code)[np.triu_indices(len(code), 1)]
    return [np.histogram(similarity[mask == block], bins=100, range=(-1, 1))[0] for block in BLOCKS.values()]


def _ours(kernel, measures):
    def run(x, sizes):
        os.environ["QKV_KERNEL"] = kernel
        return block_histograms(torch.from_numpy(x), sizes, measures=measures)

    return run


BOTH = ("cosine", "correlation")

# name -> (function, number of measures)
METHODS = {
    "notebook, one measure": (notebook_correlation, 1),
    "numpy.corrcoef": (numpy_corrcoef, 1),
    "torch.corrcoef": (torch_corrcoef, 1),
    "sklearn cosine_similarity": (sklearn_cosine, 1),
    "torchmetrics pairwise_cosine_similarity": (torchmetrics_cosine, 1),
    "scipy pdist": (scipy_pdist, 1),
    "notebook, both measures": (notebook_both, 2),
    "block_histograms, torch": (_ours("torch", BOTH), 2),
    "block_histograms, numba": (_ours("numba", BOTH), 2),
}


def sizes_of(n_features):
    return (n_features // 3,) * 3


def data(*shape, seed=0):
    """float32 `[..., sample, F]`: a few common directions, noise, and a mean offset per feature."""
    generator = np.random.default_rng(seed)
    *batch, n, n_features = shape
    common = generator.standard_normal((*batch, n, 8)) @ generator.standard_normal((*batch, 8, n_features))
    noise = 2 * generator.standard_normal(shape)
    return (common + noise + 2 * generator.standard_normal((*batch, 1, n_features))).astype(np.float32)
