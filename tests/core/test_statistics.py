"""Numbers that sum up histograms, against their definitions on the single values."""

import numpy as np
import pytest
import torch
from scipy import stats

from helpers import (
    block_histograms,
    effective_n,
    jackknife,
    kolmogorov_smirnov_distance,
    smile_index,
    wasserstein_distance,
)
from helpers.statistics import mean_ci
from tests.support import oracle
from tests.support.refusal import assert_refused

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
def test_smile_index_is_ends_minus_middle(x, result, measure):
    for block in ("QQ", "VV", "QK"):
        found = smile_index(result[measure][block])
        assert found.shape == (2,)
        for layer in range(2):
            s = np.abs(values(x[layer], measure, block))
            assert float(found[layer]) == pytest.approx((s > 0.8).mean() - (s < 0.2).mean(), abs=2 / s.size)


@pytest.mark.parametrize("measure", MEASURES)
def test_effective_n_is_the_inverse_mean_square(x, result, measure):
    found = effective_n(result[measure]["KV"], measure)
    for layer in range(2):
        expected = 1 / (values(x[layer], measure, "KV") ** 2).mean() + (measure == "correlation")
        assert float(found[layer]) == pytest.approx(expected, rel=1e-9)


# distances


@pytest.mark.parametrize("measure", MEASURES)
def test_wasserstein_distance_is_that_of_scipy(x, result, measure):
    qq, vv = result[measure]["QQ"], result[measure]["VV"]
    middle = ((qq.edges[1:] + qq.edges[:-1]) / 2).numpy()
    for layer in range(2):
        expected = stats.wasserstein_distance(middle, middle, qq.counts[layer].numpy(), vv.counts[layer].numpy())
        assert float(wasserstein_distance(qq, vv)[layer]) == pytest.approx(expected)


def test_kolmogorov_smirnov_distance_is_the_largest_gap(x, result):
    qq, vv = (result["cosine"][block] for block in ("QQ", "VV"))
    gap = stats.ks_2samp(values(x[0], "cosine", "QQ"), values(x[0], "cosine", "VV")).statistic
    assert float(kolmogorov_smirnov_distance(qq, vv)[0]) == pytest.approx(gap, abs=0.02)  # bins of 0.02


# jackknife


def test_jackknife_of_a_mean_is_the_textbook_interval():
    x = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    interval = jackknife(x, lambda y: y.mean(dim=-2), level=0.9)
    error = stats.sem(x, axis=1)  # [leading dimension, feature]
    low, high = stats.t.interval(0.9, 39, loc=x.mean(1), scale=error)
    for found, expected in zip(interval, (x.mean(1), low, high, error), strict=True):
        np.testing.assert_allclose(found, expected)


def test_bootstrap_widens_the_correlation_of_noise_and_jackknife_does_not():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(54, 60, generator=generator)

    def width(y):
        return block_histograms(y, SIZES, measures="correlation")["correlation"]["QQ"].std

    resampled = torch.stack([width(noise[torch.randint(0, 54, (54,), generator=generator)]) for _ in range(20)])
    assert resampled.mean() > 1.2 * width(noise)
    assert float(jackknife(noise, width).estimate) == pytest.approx(53**-0.5, rel=0.1)


def test_mean_ci_is_the_interval_of_students_t():
    values = np.random.default_rng(0).normal(3, 2, size=12)
    for given in (values, values.tolist(), torch.from_numpy(values)):
        mean, half_width = mean_ci(given, level=0.9)
        low, high = stats.t.interval(0.9, 11, loc=values.mean(), scale=values.std(ddof=1) / 12**0.5)
        np.testing.assert_allclose((mean - half_width, mean + half_width), (low, high))


def test_numbers_that_make_no_sense_are_refused(x):
    seven, ten, twenty = (block_histograms(x, SIZES, bins=bins)["cosine"]["QQ"] for bins in (7, 10, 20))
    message = "7 bins have no edges at 0.2 and 0.8: use a multiple of 10"
    assert_refused(lambda: smile_index(seven), ValueError, message)
    assert_refused(lambda: wasserstein_distance(ten, twenty), ValueError, "10 and 20 bins cannot be compared")
    assert_refused(lambda: jackknife(torch.ones(2, 3), torch.mean), ValueError, "at least three tokens, got 2")
    assert smile_index(block_histograms(torch.ones(54, 6), (2, 2, 2))["correlation"]["QQ"]).isnan()
