"""Features to measure, and histograms against the oracle, through every kernel of the CPU."""

import os
import subprocess
import sys
from unittest import mock

import numpy as np
import torch

from helpers import block_histograms
from tests.support import oracle

MEASURES = ("cosine", "correlation")
STATISTICS = ("counts", "mean", "std", "share_above", "n_pairs", "n_undefined")
KERNELS = ("torch", "numba")


def features(*shape, dtype=torch.float32, offset=3.0, seed=0):
    """`[..., sample, F]`: standard deviation 1 times a scale, mean up to `offset` standard deviations.

    Part of each feature is common to all of them, so that the correlations spread over [-1, 1]; the
    standard deviation is exact, so that no feature comes close to constant, however few the samples.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    *batch, n, F = shape
    x = normal(*shape) + normal(*batch, n, 1) * normal(*batch, 1, F)  # [..., sample, F]
    x = x - x.mean(dim=-2, keepdim=True)
    x = x / x.square().mean(dim=-2, keepdim=True).sqrt()
    mean = offset * (2 * torch.rand(*batch, 1, F, generator=generator, dtype=torch.float64) - 1)
    return ((x + mean) * normal(*batch, 1, F).exp()).to(dtype)


def python(code, **environment):
    """What a fresh Python prints."""
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def through(kernel):
    """Within, `block_histograms` takes this kernel."""
    return mock.patch.dict(os.environ, QKV_KERNEL=kernel)


def every_kernel(*args, **options):
    """What `block_histograms` gives for the same arguments, kernel by kernel."""
    for kernel in KERNELS:
        with through(kernel):
            yield block_histograms(*args, **options)


def kernels_for(x, bins):
    """The kernels that differ for `x`: what is not float32 or shorter, or has many bins, goes through torch alone."""
    return KERNELS if x.is_floating_point() and x.dtype != torch.float64 and bins <= 128 else KERNELS[:1]


def at(histogram, layer):
    """The histogram of one leading index."""
    fields = {name: getattr(histogram, name)[layer] for name in STATISTICS}
    return type(histogram)(**fields, edges=histogram.edges)


def assert_histogram_matches(histogram, values, bins, threshold):
    """One block of one layer against the oracle's values of the same pairs (NaN = undefined)."""
    counts = oracle.to_numpy(histogram.counts)
    defined = values[~np.isnan(values)]
    edges = np.linspace(-1, 1, bins + 1)
    assert int(histogram.n_pairs) == values.size
    assert int(histogram.n_undefined) == values.size - defined.size
    assert counts.sum() + int(histogram.n_undefined) == values.size

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


def assert_matches_oracle(x, sizes, *, bins=100, threshold=0.9, measures=MEASURES, kernels=None):
    """`block_histograms` through each kernel against the oracle; returns what the first kernel gave."""
    results = []
    for kernel in kernels or kernels_for(x, bins):
        with through(kernel):
            results.append(block_histograms(x, sizes, measures=measures, bins=bins, threshold=threshold))
        assert set(results[-1]) == set(measures)
    for layer in np.ndindex(*x.shape[:-2]):
        for measure in measures:
            similarity = oracle.SIMILARITY[measure](x[layer])
            for block in oracle.BLOCKS:
                values = oracle.block(similarity, sizes, block)
                for result in results:
                    assert_histogram_matches(at(result[measure][block], layer), values, bins, threshold)
    return results[0]


def assert_same_result(result, expected):
    """Bit by bit."""
    for measure in MEASURES:
        for block in oracle.BLOCKS:
            for name in STATISTICS:
                ours, theirs = getattr(result[measure][block], name), getattr(expected[measure][block], name)
                assert torch.equal(ours.nan_to_num(nan=9), theirs.nan_to_num(nan=9)), (measure, block, name)
