"""Numbers that sum up histograms, against their definitions on the single values."""

import numpy as np
import pytest
import torch
from scipy import stats

from helpers import block_histograms, jackknife, mean_ci, statistics
from tests.support import oracle

SIZES = (30, 20, 10)


@pytest.mark.parametrize("measure", ("cosine", "correlation"))
def test_numbers_of_histograms_are_those_of_the_single_values(measure):
    x = torch.randn(2, 54, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0] += 3 * torch.randn(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)  # offsets
    result = block_histograms(x, SIZES)[measure]
    qq, vv = result["QQ"], result["VV"]
    for layer in range(2):
        values = {block: oracle.block(oracle.SIMILARITY[measure](x[layer]), SIZES, block) for block in oracle.BLOCKS}
        for block, s in values.items():
            smile = (np.abs(s) > 0.8).mean() - (np.abs(s) < 0.2).mean()
            assert float(statistics.smile_index(result[block])[layer]) == pytest.approx(smile, abs=2 / s.size)
            inverse = 1 / (s**2).mean() + (measure == "correlation")
            assert float(statistics.effective_n(result[block], measure)[layer]) == pytest.approx(inverse, rel=1e-9)
        binned = [np.repeat(h.centers.numpy(), h.counts[layer].numpy()) for h in (qq, vv)]
        assert float(statistics.wasserstein_distance(qq, vv)[layer]) == pytest.approx(
            stats.wasserstein_distance(*binned)
        )
        assert float(statistics.kolmogorov_smirnov_distance(qq, vv)[layer]) == pytest.approx(
            stats.ks_2samp(*binned).statistic
        )
    assert statistics.smile_index(block_histograms(torch.ones(54, 6), (2, 2, 2))["correlation"]["QQ"]).isnan()


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
