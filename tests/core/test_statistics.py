"""Numbers that sum up histograms, against their definitions on the single values."""

import numpy as np
import pytest
import torch
from scipy import stats

from helpers import (
    block_histograms,
    cosine_similarity,
    effective_n,
    jackknife,
    kolmogorov_smirnov_distance,
    null_shares,
    shuffle_within_features,
    smile_index,
    wasserstein_distance,
)
from tests.support import oracle

SIZES = (30, 20, 10)
MEASURES = ("cosine", "correlation")


@pytest.fixture(scope="module")
def x():
    """[2, 54, 60]: a layer with offsets, and one without."""
    noise = torch.randn(2, 54, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise[0] += 3 * torch.randn(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return noise


@pytest.fixture(scope="module")
def result(x):
    return block_histograms(x, SIZES)


def values(x, measure, block):
    return oracle.block(oracle.SIMILARITY[measure](x), SIZES, block)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("block", ("QQ", "VV", "QK"))
def test_smile_index_is_ends_minus_middle(x, result, measure, block):
    found = smile_index(result[measure][block])
    assert found.shape == (2,)
    for layer in range(2):
        s = np.abs(values(x[layer], measure, block))
        assert float(found[layer]) == pytest.approx((s > 0.8).mean() - (s < 0.2).mean(), abs=2 / s.size)


def test_offsets_open_the_smile_of_the_cosine_and_not_of_the_correlation(result):
    cosine, correlation = (smile_index(result[measure]["QQ"]) for measure in MEASURES)
    assert cosine[0] > 0.2 > -0.5 > cosine[1] and (correlation < -0.5).all()


def test_smile_index_is_undefined_where_no_pair_is():
    assert smile_index(block_histograms(torch.ones(54, 6), (2, 2, 2))["correlation"]["QQ"]).isnan()


def test_smile_index_needs_bins_with_edges_at_its_limits(x):
    with pytest.raises(ValueError, match="7 bins have no edges at 0.2 and 0.8: use a multiple of 10"):
        smile_index(block_histograms(x, SIZES, bins=7)["cosine"]["QQ"])


@pytest.mark.parametrize("measure", MEASURES)
def test_effective_n_is_the_inverse_mean_square(x, result, measure):
    found = effective_n(result[measure]["KV"], measure)
    for layer in range(2):
        expected = 1 / (values(x[layer], measure, "KV") ** 2).mean() + (measure == "correlation")
        assert float(found[layer]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("n", (5, 54))
def test_effective_n_of_independent_features_is_their_number_of_tokens(measure, n):
    noise = torch.randn(n, 600, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    found = float(effective_n(block_histograms(noise, (200, 200, 200))[measure]["QK"], measure))
    assert found == pytest.approx(n, rel=0.05)


def test_inverse_mean_square_with_the_diagonal_is_the_participation_ratio(x):
    s = cosine_similarity(x[0])
    z = x[0] / x[0].norm(dim=0)
    eigenvalues = torch.linalg.eigvalsh(z @ z.T)
    assert float(1 / s.square().mean()) == pytest.approx(float(eigenvalues.sum() ** 2 / eigenvalues.square().sum()))


def test_effective_n_refuses_an_unknown_measure(result):
    with pytest.raises(ValueError, match="unknown measure 'dot': expected 'cosine' or 'correlation'"):
        effective_n(result["cosine"]["QQ"], "dot")


# ---- the null ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", (3, 5, 10, 54))
@pytest.mark.parametrize("measure", MEASURES)
def test_null_shares_match_simulation(n, measure):
    generator = np.random.default_rng(n)
    a, b = generator.standard_normal((2, n, 100_000))  # [token, pair]
    if measure == "correlation":
        a, b = a - a.mean(0), b - b.mean(0)
    s = (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))
    edges = torch.linspace(-1, 1, 101, dtype=torch.float64)
    expected = np.concatenate([[0], null_shares(n, measure, edges).cumsum(0).numpy()])
    assert expected[-1] == pytest.approx(1)
    at_edges = np.searchsorted(np.sort(s), edges.numpy()) / s.size
    assert np.abs(at_edges - expected).max() < 1.63 / np.sqrt(s.size)  # Kolmogorov-Smirnov, 1 %


def test_null_shares_refuse_what_has_no_distribution():
    edges = torch.linspace(-1, 1, 11)
    with pytest.raises(ValueError, match="no null distribution of the correlation at n = 2"):
        null_shares(2, "correlation", edges)
    with pytest.raises(ValueError, match="unknown measure"):
        null_shares(5, "dot", edges)


def test_within_feature_shuffle_keeps_the_cosine_and_brings_the_correlation_to_the_null():
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(54, 1, generator=generator, dtype=torch.float64)  # pairs every feature with every other
    x = torch.randn(54, 600, generator=generator, dtype=torch.float64) + common
    x += 12 * torch.randn(600, generator=generator, dtype=torch.float64)
    shuffled = shuffle_within_features(x, generator)
    assert torch.equal(shuffled.sort(dim=0).values, x.sort(dim=0).values)  # hence mean and variance
    before, after = (block_histograms(y, (200, 200, 200)) for y in (x, shuffled))
    null = null_shares(54, "correlation", before["cosine"].edges)
    assert wasserstein_distance(after["cosine"]["QK"], before["cosine"]["QK"]) < 0.05
    assert wasserstein_distance(after["correlation"]["QK"], null) < 0.01
    assert wasserstein_distance(before["correlation"]["QK"], null) > 0.3


# ---- distances -----------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", MEASURES)
def test_wasserstein_distance_is_that_of_scipy(x, result, measure):
    qq, vv = result[measure]["QQ"], result[measure]["VV"]
    middle = ((qq.edges[1:] + qq.edges[:-1]) / 2).numpy()
    for layer in range(2):
        expected = stats.wasserstein_distance(middle, middle, qq.counts[layer].numpy(), vv.counts[layer].numpy())
        assert float(wasserstein_distance(qq, vv)[layer]) == pytest.approx(expected)


def test_kolmogorov_smirnov_distance_is_the_largest_gap_between_the_cumulative_shares(x, result):
    qq, vv = (result["cosine"][block] for block in ("QQ", "VV"))
    gap = stats.ks_2samp(values(x[0], "cosine", "QQ"), values(x[0], "cosine", "VV")).statistic
    assert float(kolmogorov_smirnov_distance(qq, vv)[0]) == pytest.approx(gap, abs=0.02)  # bins of 0.02


def test_distance_to_itself_is_zero_and_from_end_to_end_is_two():
    plus = block_histograms(torch.ones(5, 4), (2, 1, 1), measures="cosine")["cosine"]["QQ"]
    x = torch.ones(5, 4)
    x[:, 0] = -1
    minus = block_histograms(x, (2, 1, 1), measures="cosine")["cosine"]["QQ"]
    assert float(wasserstein_distance(plus, plus)) == 0 == float(kolmogorov_smirnov_distance(plus, plus))
    assert float(wasserstein_distance(plus, minus)) == pytest.approx(2, abs=0.03)
    assert float(kolmogorov_smirnov_distance(plus, minus)) == 1


def test_histograms_of_other_bins_are_not_compared(x):
    a, b = (block_histograms(x, SIZES, bins=bins)["cosine"]["QQ"] for bins in (10, 20))
    with pytest.raises(ValueError, match="10 and 20 bins cannot be compared"):
        wasserstein_distance(a, b)


# ---- jackknife -----------------------------------------------------------------------------------


def test_jackknife_of_a_mean_is_the_textbook_interval():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    interval = jackknife(x, lambda y: y.mean(dim=0), level=0.9)
    low, high = stats.t.interval(0.9, 39, loc=x.mean(0), scale=stats.sem(x))
    np.testing.assert_allclose(interval.standard_error, stats.sem(x))
    np.testing.assert_allclose(interval.low, low)
    np.testing.assert_allclose(interval.high, high)


def test_jackknife_leaves_out_tokens_and_keeps_leading_dimensions():
    x = torch.randn(2, 10, 3, generator=torch.Generator().manual_seed(0))
    shapes = set()
    interval = jackknife(x, lambda y: (shapes.add(tuple(y.shape)), y.mean(dim=(1, 2)))[1])
    assert shapes == {(2, 10, 3), (2, 9, 3)} and interval.estimate.shape == (2,)


def test_bootstrap_widens_the_correlation_of_noise_and_jackknife_does_not():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(54, 60, generator=generator)

    def width(y):
        return block_histograms(y, SIZES, measures="correlation")["correlation"]["QQ"].std

    resampled = torch.stack([width(noise[torch.randint(0, 54, (54,), generator=generator)]) for _ in range(20)])
    assert resampled.mean() > 1.2 * width(noise)
    assert float(jackknife(noise, width).estimate) == pytest.approx(53**-0.5, rel=0.1)


def test_jackknife_needs_three_tokens():
    with pytest.raises(ValueError, match="at least three tokens, got 2"):
        jackknife(torch.ones(2, 3), torch.mean)
