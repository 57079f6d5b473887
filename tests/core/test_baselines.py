"""`helpers.baselines`: what each shuffle keeps and breaks, the exact nulls, and the identity."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from helpers import baselines, block_histograms, null_density, null_shares
from helpers.baselines import shuffle_entries, shuffle_within_features
from tests.support import oracle


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_permutation_of_a_feature_is_equally_likely():
    shuffled = shuffle_within_features(torch.arange(3).unsqueeze(1).expand(3, 12_000), generator())
    code = shuffled[0] * 3 + shuffled[1]
    found, counts = code.unique(return_counts=True)
    assert found.tolist() == [1, 2, 3, 5, 6, 7]  # all 3! = 6 orders
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_offset_keeps_its_cosine_only_when_shuffled_within_features():
    offset = 10 * torch.tensor([1.0, -1.0]).repeat(30)  # of either sign
    x = torch.randn(54, 60, generator=generator(1)) + offset
    for shuffle, cosine in ((shuffle_within_features, 1.0), (shuffle_entries, 0.0)):
        result = block_histograms(shuffle(x, generator()), (20, 20, 20))
        share = {measure: float(histograms["QK"].share_above) for measure, histograms in result.items()}
        assert share == {"cosine": cosine, "correlation": 0.0}


@pytest.mark.parametrize("shuffle", (shuffle_entries, shuffle_within_features))
def test_generator_alone_decides_the_result(shuffle):
    x, state = torch.arange(140.0).view(20, 7), torch.get_rng_state()
    assert not torch.equal(shuffle(x, generator(5)), shuffle(x, generator(6)))
    assert torch.equal(state, torch.get_rng_state())
    each = shuffle(x.expand(2, 3, 20, 7), generator()).reshape(6, -1)
    assert len({tuple(matrix.tolist()) for matrix in each}) == 6  # every leading index on its own


@pytest.mark.parametrize("measure", ("cosine", "correlation"))
@pytest.mark.parametrize("n", (3, 5, 10, 54))
def test_null_shares_are_those_of_independent_gaussian_features(n, measure):
    draws = np.random.default_rng(n).standard_normal((2, 100_000, n))
    if measure == "correlation":
        draws += 5  # it ignores an offset
        draws -= draws.mean(axis=2, keepdims=True)
    x, y = draws
    simulated = (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    edges = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 100_001))  # close together at the ends
    below = np.cumsum([0, *null_shares(n, measure, torch.from_numpy(edges))])
    assert stats.kstest(simulated, lambda s: np.interp(s, edges, below)).pvalue > 1e-3


def test_null_shares_are_the_density_integrated_over_each_bin():
    edges = torch.linspace(-1, 1, 11, dtype=torch.float64)
    for n, measure in product((3, 5, 6.5, 54), ("cosine", "correlation")):
        expected = [integrate.quad(null_density, *ends, args=(n, measure))[0] for ends in pairwise(edges.tolist())]
        np.testing.assert_allclose(null_shares(n, measure, edges), expected, atol=1e-6)
    assert null_shares(2.5, "correlation", edges).isfinite().all()  # a density that null_density refuses


def test_the_null_density_at_the_ends_and_beyond():
    np.testing.assert_allclose(null_density([0, 0.6], 2, "cosine"), [1 / np.pi, 1 / (0.8 * np.pi)], rtol=1e-12)
    assert null_density([-1.0, 1.0], 3, "correlation").tolist() == [np.inf, np.inf]
    np.testing.assert_allclose(null_density([-1.0, 1.0], 4, "correlation"), 0.5)
    assert null_density([-1.0, 1.0], 54, "correlation").tolist() == [0, 0]
    assert null_density([-1.5, 1.5], 54, "cosine").tolist() == [0, 0]
    assert np.shape(null_density(0.3, 54, "cosine")) == ()
    assert null_density(torch.zeros(2, 3), 54, "cosine").shape == (2, 3)


def test_the_cosine_follows_from_the_correlation_and_the_offsets():
    for n in (2, 3, 54):
        x = torch.randn(n, 40, generator=generator(n), dtype=torch.float64)
        x += 10 * torch.randn(40, generator=generator(1), dtype=torch.float64) ** 3  # means of either sign
        m = x.mean(dim=0) / x.std(dim=0, correction=0)
        found = baselines.cosine_from_correlation(torch.from_numpy(oracle.correlation(x)), m[:, None], m)
        np.testing.assert_allclose(found, oracle.cosine(x), rtol=0, atol=1e-12)
