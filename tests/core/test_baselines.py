"""`helpers.baselines`: what each shuffle keeps and breaks, the exact nulls, and the identity."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from helpers import (
    block_histograms,
    cosine_from_correlation,
    null_density,
    null_shares,
    shuffle_entries,
    shuffle_within_features,
)
from tests.support import oracle
from tests.support.refusal import assert_refused

SHUFFLES = (shuffle_entries, shuffle_within_features)
both_shuffles = pytest.mark.parametrize("shuffle", SHUFFLES)
both_measures = pytest.mark.parametrize("measure", ("cosine", "correlation"))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(*shape):
    """Every entry another number."""
    return torch.arange(float(np.prod(shape))).view(shape)


# shuffles


def test_every_permutation_of_a_feature_is_equally_likely():
    shuffled = shuffle_within_features(torch.arange(3).unsqueeze(1).expand(3, 12_000), generator())
    code = shuffled[0] * 3 + shuffled[1]
    found, counts = code.unique(return_counts=True)
    assert found.tolist() == [1, 2, 3, 5, 6, 7]  # all 3! = 6 orders
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_offset_keeps_its_cosine_only_when_shuffled_within_features():
    sign = torch.tensor([1.0, -1.0]).repeat(30)
    x = torch.randn(54, 60, generator=generator(1)) + 10 * sign  # large offsets of either sign
    share = {}
    for shuffle in SHUFFLES:
        result = block_histograms(shuffle(x, generator()), (20, 20, 20))
        share[shuffle] = {measure: float(result[measure]["QK"].share_above) for measure in result}
    assert share[shuffle_within_features] == {"cosine": 1.0, "correlation": 0.0}
    assert share[shuffle_entries] == {"cosine": 0.0, "correlation": 0.0}


@both_shuffles
def test_generator_alone_decides_the_result(shuffle):
    x, state = numbered(54, 4), torch.get_rng_state()
    assert not torch.equal(shuffle(x, generator(5)), shuffle(x, generator(6)))
    assert torch.equal(state, torch.get_rng_state())
    each = shuffle(numbered(20, 7).expand(2, 3, 20, 7), generator()).reshape(6, -1)
    assert len({tuple(matrix.tolist()) for matrix in each}) == 6  # every leading index on its own


@both_shuffles
def test_what_cannot_be_shuffled_is_refused(shuffle):
    for shape in ((), (54,)):
        message = r"expected x \[\.\.\., sample, feature\], got \(.*\): stack the occurrences"
        assert_refused(partial(shuffle, torch.zeros(shape), generator()), ValueError, message)
    assert_refused(partial(shuffle, torch.ones(3, 2), None), TypeError, "got NoneType.*manual_seed")


# null densities


def null_distribution(n, measure, n_points=100_000):
    """(points, weights) of the null: s = sin(angle) makes its ends tame however small n is."""
    angle = (np.arange(n_points) + 0.5) / n_points * np.pi - np.pi / 2
    return np.sin(angle), null_density(np.sin(angle), n, measure) * np.cos(angle) * np.pi / n_points


@both_measures
@pytest.mark.parametrize("n", (3, 5, 10, 54))
def test_the_null_density_is_that_of_independent_gaussian_features(n, measure):
    draws = np.random.default_rng(n).standard_normal((2, 100_000, n))
    if measure == "correlation":
        draws += 5  # it ignores an offset
        draws -= draws.mean(axis=2, keepdims=True)
    x, y = draws
    simulated = (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    s, weight = null_distribution(n, measure)

    def cumulative(value):
        return np.interp(value, s, np.cumsum(weight) - weight / 2)

    assert stats.kstest(simulated, cumulative).pvalue > 1e-3


def test_the_null_density_at_the_ends_and_beyond():
    np.testing.assert_allclose(null_density([0, 0.6], 2, "cosine"), [1 / np.pi, 1 / (0.8 * np.pi)], rtol=1e-12)
    assert null_density([-1.0, 1.0], 3, "correlation").tolist() == [np.inf, np.inf]
    np.testing.assert_allclose(null_density([-1.0, 1.0], 4, "correlation"), 0.5)
    assert null_density([-1.0, 1.0], 54, "correlation").tolist() == [0, 0]
    assert null_density([-1.5, 1.5], 54, "cosine").tolist() == [0, 0]
    assert np.shape(null_density(0.3, 54, "cosine")) == ()
    assert null_density(torch.zeros(2, 3), 54, "cosine").shape == (2, 3)


def test_too_few_samples_for_a_density_are_refused():
    edges = torch.linspace(-1, 1, 11)
    for n, measure, enough in ((2, "correlation", 3), (1.5, "cosine", 2.0)):
        message = rf"no density at n = {n} for the {measure}.*use at least {enough} tokens"
        assert_refused(partial(null_density, 0.0, n, measure), ValueError, message)
    for call in (partial(null_density, 0.0, 54, "pearson"), partial(null_shares, 54, "pearson", edges)):
        assert_refused(call, ValueError, "unknown measure 'pearson': expected 'cosine' or 'correlation'")
    message = "no null distribution of the correlation at n = 2"
    assert_refused(partial(null_shares, 2, "correlation", edges), ValueError, message)


def test_null_shares_are_the_density_integrated_over_each_bin():
    edges = torch.linspace(-1, 1, 21, dtype=torch.float64)
    fine = np.linspace(-1, 1, 20 * 2000 + 1)
    for n in (5, 6.5, 54):
        for measure in ("cosine", "correlation"):
            below = integrate.cumulative_trapezoid(null_density(fine, n, measure), fine, initial=0)
            np.testing.assert_allclose(null_shares(n, measure, edges), np.diff(below[::2000]), atol=1e-6)
    assert null_shares(2.5, "correlation", edges).isfinite().all()  # a density that null_density refuses


# the identity between cosine and correlation


def test_the_cosine_follows_from_the_correlation_and_the_offsets():
    for n in (2, 3, 54):
        x = torch.randn(n, 40, generator=generator(n), dtype=torch.float64)
        x += 10 * torch.randn(40, generator=generator(1), dtype=torch.float64) ** 3  # means of either sign
        m = x.mean(dim=0) / x.std(dim=0, correction=0)
        found = cosine_from_correlation(torch.from_numpy(oracle.correlation(x)), m[:, None], m)
        np.testing.assert_allclose(found, oracle.cosine(x), rtol=0, atol=1e-12)
