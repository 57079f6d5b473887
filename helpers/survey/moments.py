"""Means and centred co-moments of features: sums that can be computed apart and added up.

    total = merge(moments(x[:500]), moments(x[500:]))   # on two machines, say
    histograms = moment_histograms(total, sizes)        # table.py; as block_histograms(x, sizes)

A sum of raw products would have to be turned into a variance by subtracting two large, nearly equal numbers,
which at |mean| / sd = 1000 costs six digits.  Centred sums add no such numbers.

Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample
variances, Stanford STAN-CS-79-773, 1979; COMPSTAT 1982, doi:10.1007/978-3-642-51461-6_3.
"""

from dataclasses import dataclass

import torch

from helpers.kernels.features import centre
from helpers.settings import message


@dataclass(frozen=True)
class Moments:
    """Sums over the samples of one layer."""

    count: int
    """Number of samples."""
    mean: torch.Tensor
    """float64 `[F]`."""
    comoment: torch.Tensor
    """float64 `[F, F]`: sum over the samples of (x_i - mean_i) (x_j - mean_j)."""
    dtype: torch.dtype = torch.float32
    """Of the features they were taken of: it says which spread is only rounding."""


def moments(x):
    """Moments of `x [sample, F]`, floating point, at least one sample, with the mean in two passes.

    Raises:
        ValueError: NaN or infinity in `x`.

    >>> moments(torch.tensor([[1.0, 2.0], [3.0, 6.0]])).comoment.tolist()
    [[2.0, 4.0], [4.0, 8.0]]
    """
    if not bool(torch.isfinite(x).all()):
        raise ValueError(message("infinite"))
    mean, centred = centre(x.to(torch.float64))  # [F], [sample, F]
    return Moments(len(x), mean, centred.mT @ centred, x.dtype)


def merge(a, b):
    """Moments of the samples of `a` and `b` together, of one layer of one model.

    comoment = C_a + C_b + d d^T n_a n_b / (n_a + n_b), d = mean_b - mean_a (Chan et al., eq. 2.1).
    The last bits depend on which is first and on the order of several merges; the digits do not.
    """
    n = a.count + b.count
    delta = b.mean - a.mean  # [F]
    comoment = a.comoment + b.comoment
    comoment.addr_(delta, delta, alpha=a.count * b.count / n)
    return Moments(n, a.mean + delta * (b.count / n), comoment, a.dtype)
