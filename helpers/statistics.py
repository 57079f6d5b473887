"""Numbers that sum up a histogram of similarities, and how sure they are.

Pairs of features are not independent of each other, so nothing here is a p-value: distances and
effect sizes, with intervals over the samples.
"""

from typing import NamedTuple

import numpy as np
import torch

from helpers.masks import check_measure
from helpers.settings import message


def smile_index(histogram):
    """S = P(|s| > 0.8) - P(|s| < 0.2): above 0 the ends of the histogram outweigh its middle.

    Args:
        histogram: `BlockHistogram` with counts `[..., bins]`; +-0.2 and +-0.8 must be bin edges.

    Returns:
        float64 `[...]` in [-1, 1]; NaN where no pair is defined.

    Raises:
        ValueError: a number of bins of which 0.2 and 0.8 are no edges.

    >>> from helpers.similarity import block_histograms
    >>> round(float(smile_index(block_histograms(torch.eye(8), (4, 2, 2))["cosine"]["QQ"])), 1)
    -1.0
    """
    middle, counts = histogram.centers.abs(), histogram.counts.double()  # [bins], [..., bins]
    if len(middle) % 10:
        raise ValueError(message("smile_bins", bins=len(middle)))
    ends, centre = counts[..., middle > 0.8].sum(-1), counts[..., middle < 0.2].sum(-1)
    return (ends - centre) / counts.sum(-1)


def effective_n(histogram, measure):
    """Effective sample size: the number of independent tokens whose null histogram is as wide as this one.

    n_eff = 1 / mean(s^2) for the cosine, 1 / mean(s^2) + 1 for the correlation, because the null has
    the variance 1/n and 1/(n - 1).  Over all pairs of one part, with the diagonal, 1 / mean(s^2) is
    the participation ratio of the occurrences, (sum of eigenvalues)^2 / sum of their squares.

    Args:
        histogram: `BlockHistogram`.
        measure: "cosine" or "correlation".

    Returns:
        float64 `[...]`.
    """
    check_measure(measure)
    return 1 / (histogram.std**2 + histogram.mean**2) + (measure == "correlation")


def wasserstein_distance(histogram, shares):
    """Wasserstein-1 distance between histograms on the same bins: the mean way a pair has to move.

    Args:
        histogram: `BlockHistogram` with counts `[..., bins]`.
        shares: another `BlockHistogram`, or shares of each bin such as `null_shares`, `[bins]`.

    Returns:
        float64 `[...]`, in units of similarity (0 to 2).
    """
    width = histogram.edges[1] - histogram.edges[0]
    return _cumulative_difference(histogram, shares).sum(-1) * width


def kolmogorov_smirnov_distance(histogram, shares):
    """Largest difference between the cumulative shares at a bin edge, 0 to 1.  Arguments as above."""
    return _cumulative_difference(histogram, shares).amax(-1)


def _cumulative_difference(histogram, other):
    a = _shares(histogram).cumsum(-1)
    b = (_shares(other) if hasattr(other, "counts") else other).cumsum(-1)
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(message("other_bins", a=a.shape[-1], b=b.shape[-1]))
    return (a - b).abs()


def _shares(histogram):
    counts = histogram.counts.double()
    return counts / counts.sum(-1, keepdim=True)


class Interval(NamedTuple):
    """A statistic with its jackknife interval."""

    estimate: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    standard_error: torch.Tensor


def jackknife(x, statistic, *, level=0.95):
    """Jackknife (leave one token out) interval of a statistic of `x`.

    A bootstrap would repeat tokens, and a repeated token is perfectly similar to itself, which widens
    every null; leaving one out does not.  Standard error sqrt((n - 1) / n * sum (t_i - mean t)^2);
    the interval is that of Student's t with n - 1 degrees of freedom around the estimate.
    Source: Efron and Stein, The jackknife estimate of variance, Annals of Statistics 9(3), 1981.

    Args:
        x: `[..., sample, feature]`.
        statistic: function of such a tensor, returns a number or a tensor.
        level: of the interval.

    Returns:
        `Interval` of float64 tensors of the shape of the statistic.

    Raises:
        ValueError: fewer than three tokens.

    >>> interval = jackknife(torch.arange(10.0).view(10, 1), lambda x: x.mean())
    >>> [round(float(v), 2) for v in interval]
    [4.5, 2.33, 6.67, 0.96]
    """
    from scipy import stats  # here, as in helpers.baselines

    n = x.shape[-2]
    if n < 3:
        raise ValueError(message("jackknife", n=n))
    estimate = torch.as_tensor(statistic(x), dtype=torch.float64)
    others = (x[..., torch.arange(n, device=x.device) != i, :] for i in range(n))
    left_out = torch.stack([torch.as_tensor(statistic(part), dtype=torch.float64) for part in others])  # [token, ...]
    error = ((n - 1) * (left_out - left_out.mean(0)).square().mean(0)).sqrt()
    half_width = float(stats.t.ppf((1 + level) / 2, n - 1)) * error
    return Interval(estimate, estimate - half_width, estimate + half_width, error)


def mean_ci(values, level=0.95):
    """Mean and half the width of its confidence interval (Student's t), two floats.

    Args:
        values: `[sample]`, at least two: one number for each sentence or word, array or tensor.
        level: of the interval.

    >>> [round(v, 2) for v in mean_ci([1.0, 2.0, 3.0, 4.0])]
    [2.5, 2.05]
    """
    from scipy import stats

    values = np.asarray(values, dtype=np.float64)
    half_width = stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values)
    return float(values.mean()), float(half_width)
