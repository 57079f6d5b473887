"""Features to measure, and histograms against the oracle, through every kernel of the CPU."""

import os
import subprocess
import sys
from functools import partial
from itertools import product
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch

from helpers import block_histograms, cosine_similarity, pearson_correlation
from tests.support import oracle

MATRIX = {"cosine": cosine_similarity, "correlation": pearson_correlation}
MEASURES = tuple(MATRIX)
STATISTICS = ("counts", "mean", "std", "share_above", "n_pairs", "n_undefined")
KERNELS = ("torch", "numba")


def features(*shape, dtype=torch.float32, offset=3.0, seed=0):
    """`[..., sample, F]`: standard deviation 1 times a scale, mean up to `offset` standard deviations.

    Part of each feature is common to all of them, so that the correlations spread over [-1, 1]; the
    standard deviation is exact, so that no feature comes close to constant, however few the samples.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=generator, dtype=torch.float64)
    *batch, n, F = shape
    x = normal(*shape) + normal(*batch, n, 1) * normal(*batch, 1, F)  # [..., sample, F]
    x = x - x.mean(dim=-2, keepdim=True)
    x = x / x.square().mean(dim=-2, keepdim=True).sqrt()
    mean = offset * (2 * torch.rand(*batch, 1, F, generator=generator, dtype=torch.float64) - 1)
    return ((x + mean) * normal(*batch, 1, F).exp()).to(dtype)


def python(code, **environment):
    """What a fresh Python prints."""
    return subprocess.check_output([sys.executable, "-c", code], env=os.environ | environment, text=True).strip()


def through(kernel):
    """Within, `block_histograms` takes this kernel."""
    return mock.patch.dict(os.environ, QKV_KERNEL=kernel)


def every_kernel(*args, kernels=KERNELS, **options):
    """What `block_histograms` gives for the same arguments, kernel by kernel."""
    for kernel in kernels:
        with through(kernel):
            yield block_histograms(*args, **options)


def assert_histogram_matches(histogram, values, bins, threshold):
    """One block of one layer against the oracle's values of the same pairs (NaN = undefined)."""
    counts = oracle.to_numpy(histogram.counts)
    defined = values[~np.isnan(values)]
    edges = np.linspace(-1, 1, bins + 1)
    numbers = (int(histogram.n_pairs), int(histogram.n_undefined), counts.sum())
    assert numbers == (values.size, values.size - defined.size, defined.size)

    off = np.cumsum(counts) - np.cumsum(oracle.histogram(values, bins))  # at the right edge of every bin
    allowed = oracle.n_near(values, edges[1:])
    allowed[-1] = 0
    assert (np.abs(off) <= allowed).all(), f"edges {edges[1:][np.abs(off) > allowed]}"

    if defined.size == 0:
        assert all(bool(v.isnan()) for v in (histogram.mean, histogram.std, histogram.share_above))
        return
    np.testing.assert_allclose(float(histogram.mean), defined.mean(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(float(histogram.std) ** 2, defined.var(), rtol=0, atol=1e-6)
    off = round(float(histogram.share_above) * defined.size) - (np.abs(defined) > threshold).sum()
    assert abs(off) <= oracle.n_near(defined, [-threshold, threshold]).sum()


def assert_matches_oracle(x, sizes, *, bins=100, threshold=0.9, kernels=None):
    """`block_histograms` through each kernel against the oracle; returns what the first kernel gave."""
    alike = not x.is_floating_point() or x.dtype == torch.float64 or bins > 128  # all of this goes through torch
    kernels = kernels or (KERNELS[:1] if alike else KERNELS)
    results = list(every_kernel(x, sizes, kernels=kernels, bins=bins, threshold=threshold))
    for layer, measure in product(np.ndindex(*x.shape[:-2]), MEASURES):
        similarity = oracle.SIMILARITY[measure](x[layer])
        for result, block in product(results, oracle.BLOCKS):
            found = {name: getattr(result[measure][block], name)[layer] for name in STATISTICS}
            assert_histogram_matches(SimpleNamespace(**found), oracle.block(similarity, sizes, block), bins, threshold)
    return results[0]


def assert_matrices_match_oracle(x, atol=1e-6):
    """The whole matrices of both measures, for `x [..., sample, F]`."""
    double = x.dtype == torch.float64 or not x.is_floating_point()
    for measure, matrix in MATRIX.items():
        found = matrix(x)
        assert found.dtype == (torch.float64 if double else torch.float32)
        assert found.shape == (*x.shape[:-2], x.shape[-1], x.shape[-1]) and not (found.abs() > 1).any()
        for layer in np.ndindex(*x.shape[:-2]):
            expected = oracle.SIMILARITY[measure](x[layer])
            np.testing.assert_allclose(oracle.to_numpy(found[layer]), expected, rtol=0, atol=atol)


def assert_same_result(result, expected):
    """Bit by bit."""
    for measure, block, name in product(MEASURES, oracle.BLOCKS, STATISTICS):
        ours, theirs = getattr(result[measure][block], name), getattr(expected[measure][block], name)
        assert torch.equal(ours.nan_to_num(nan=9), theirs.nan_to_num(nan=9)), (measure, block, name)
