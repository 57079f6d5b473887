"""What a histogram of similarities looks like when there is nothing to see, and why cosine differs.

Two shuffles, the exact densities of the null, and the identity between cosine and correlation.
"""

import numpy as np
import torch

from helpers.masks import check_measure
from helpers.settings import message


def shuffle_entries(x, generator):
    """Move every entry of `x` to a random place, anywhere in its `[sample, feature]` matrix.

    Destroys the pairing of the tokens and also each feature's own mean and variance.

    Args:
        x: `[..., sample, feature]`; each leading index is shuffled on its own.
        generator: a `torch.Generator`; the result depends on nothing else.

    Returns:
        A new tensor of the shape, dtype and device of `x`.

    >>> x = torch.arange(6.).view(3, 2)
    >>> shuffled = shuffle_entries(x, torch.Generator().manual_seed(0))
    >>> bool((shuffled.flatten().sort().values == x.flatten()).all())
    True
    """
    one_feature = x.flatten(-2).unsqueeze(-1) if x.ndim > 1 else x  # [..., sample * feature, 1]
    return shuffle_within_features(one_feature, generator).view(x.shape)


def shuffle_within_features(x, generator):
    """Permute the tokens of every feature (column) independently.

    Keeps each feature's values, hence its mean and variance, and breaks the pairing between
    features.  Arguments and result as in `shuffle_entries`.

    >>> x = torch.arange(6.).view(3, 2)
    >>> shuffled = shuffle_within_features(x, torch.Generator().manual_seed(0))
    >>> bool((shuffled.sort(dim=0).values == x).all())
    True
    """
    if not isinstance(generator, torch.Generator):
        raise TypeError(message("shuffle_generator", came=type(generator).__name__))
    if x.ndim < 2:
        raise ValueError(message("shuffle_rows", came=tuple(x.shape)))
    # float64 keys: ties would need two equal draws among 2**53
    keys = torch.rand(x.shape, generator=generator, dtype=torch.float64, device=generator.device)
    return x.gather(-2, keys.argsort(dim=-2).to(x.device))


def null_density(s, n, measure):
    """Exact density of a similarity between two independent Gaussian features over `n` tokens.

    `measure="correlation"`: proportional to (1 - r^2)^((n - 4) / 2), standard deviation
    1/sqrt(n - 1).  `measure="cosine"`: features of mean zero, proportional to
    (1 - s^2)^((n - 3) / 2), standard deviation 1/sqrt(n).  Source: Fisher 1915 (correlation);
    the cosine is the first coordinate of a uniform point on the sphere in n dimensions.

    Args:
        s: similarities in [-1, 1], array or number.
        n: number of tokens, at least 3 for the correlation and 2 for the cosine; need not be whole.
        measure: "cosine" or "correlation".

    Returns:
        float64 array of the shape of `s`; infinite at +-1 where the density diverges (small n).

    Raises:
        ValueError: unknown measure, or n too small for a density.

    >>> round(float(null_density(0.3, 4, "correlation")), 3)   # flat at n = 4
    0.5
    """
    freedom = _degrees_of_freedom(n, measure)
    if freedom < 1:
        raise ValueError(message(f"no_density_of_{measure}", n=n, enough=n - freedom + 1))
    return _law(freedom).pdf(np.asarray(s, dtype=np.float64))


def null_shares(n, measure, edges):
    """Share of independent Gaussian pairs in each bin under the exact null (`null_density`), float64 `[bins]`.

    Args:
        n, measure: as in `null_density`; here n may lie down to 1 (cosine) or 2 (correlation), both excluded.
        edges: tensor `[bins + 1]`; the result is on its device.

    >>> null_shares(4, "correlation", torch.linspace(-1, 1, 5)).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    freedom = _degrees_of_freedom(n, measure)
    if not freedom > 0:
        raise ValueError(message(f"no_shares_of_{measure}", n=n))
    below = _law(freedom).cdf(np.asarray(edges.cpu(), dtype=np.float64))  # [bins + 1]
    return torch.as_tensor(np.diff(below), device=edges.device)


def _degrees_of_freedom(n, measure):
    check_measure(measure)
    return n - 1 if measure == "cosine" else n - 2


def _law(freedom):
    """Both measures follow a symmetric beta distribution stretched to [-1, 1]."""
    from scipy import stats  # here: most of what `import helpers` would cost

    return stats.beta(freedom / 2, freedom / 2, loc=-1, scale=2)


def cosine_from_correlation(r, m_i, m_j):
    """Cosine similarity of two features out of their correlation and their relative offsets.

    cos = (r + m_i m_j) / sqrt((1 + m_i^2) (1 + m_j^2)), with m = mean / population standard
    deviation.  Exact; derived in notebook 02.  Tensors, arrays or numbers that broadcast.

    >>> cosine_from_correlation(0.0, 3.0, 3.0)   # unrelated features, two large offsets
    0.9
    """
    return (r + m_i * m_j) / ((1 + m_i**2) * (1 + m_j**2)) ** 0.5
