"""What is taken of each feature before two of them are compared: its moments, and itself centred and of length 1."""

from typing import NamedTuple

import torch

from helpers.masks import BLOCK_PARTS

CONSTANT = 8  # a standard deviation up to CONSTANT * eps * rms is rounding, not variation
CONSTANT_HALF = 1  # the same for float16 and bfloat16, where eps is so coarse that more would be signal
_PLACES = torch.tensor([3 * p + q for p, q in BLOCK_PARTS])  # of the blocks in a matrix `[part, part]`


class Features(NamedTuple):
    """What the measures need of each feature beside the correlations, `[..., F]` with the leading dimensions of x."""

    a: torch.Tensor  # std / rms
    b: torch.Tensor  # mean / rms
    constant: torch.Tensor  # bool: no correlation
    zero: torch.Tensor  # bool: no cosine


def features_of(mean, std, dtype):
    """`Features` out of float64 means and population standard deviations `[..., F]`; dtype: of what was measured."""
    rms = torch.hypot(std, mean)
    tiny = torch.finfo(torch.float64).tiny
    a, b = std / rms.clamp_min(tiny), mean / rms.clamp_min(tiny)
    return Features(a, b, constant=std <= constant_limit(dtype) * rms, zero=rms == 0)


def constant_limit(dtype):
    """A feature whose std / rms is at most this is constant: its spread is that of rounding."""
    return (CONSTANT_HALF if dtype.itemsize == 2 else CONSTANT) * torch.finfo(dtype).eps


def centre(x64):
    """Means `[..., F]`, in two passes, and what is around them `[..., sample, F]`; `x64` float64 of that shape."""
    mean = x64.mean(dim=-2)
    mean = mean + (x64 - mean.unsqueeze(-2)).mean(dim=-2)  # second pass: what rounding left
    return mean, x64 - mean.unsqueeze(-2)


def standardise(x):
    """Centre every feature and give it length 1.

    Args:
        x: `[..., sample, F]`, floating point, finite.

    Returns:
        z `[..., sample, F]`, so that z_i . z_j is the correlation, and `Features`; both float32, or float64 if
        `x` is.  Moments are taken in float64, the mean in two passes.
    """
    x64 = x.to(torch.float64)
    if x.dtype == torch.float64:  # squares of 1e200 or 1e-200 leave the range; a power of two costs no digits
        largest = x64.abs().amax(dim=-2, keepdim=True)  # [..., 1, F]
        x64 = torch.ldexp(x64, -torch.frexp(largest).exponent)
    mean, centred = centre(x64)
    norm = torch.linalg.vector_norm(centred, dim=-2)  # [..., F] = std * sqrt(n)
    f = features_of(mean, norm / x.shape[-2] ** 0.5, x.dtype)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    z = (centred / norm.clamp_min(torch.finfo(torch.float64).tiny).unsqueeze(-2)).to(dtype)
    return z, Features(f.a.to(dtype), f.b.to(dtype), f.constant, f.zero)


def block_pairs(number):
    """Number of pairs of features in every block, `[..., block]`, out of the number in each part, `[..., part]`."""
    pairs = (number.unsqueeze(-1) * number.unsqueeze(-2)).flatten(-2)[..., _PLACES]
    pairs[..., :3] = (pairs[..., :3] - number) // 2  # QQ, KK, VV
    return pairs


def block_means(total, number):
    """Means of all similarities without one of them: the sum over all s_ij is a product of two sums of vectors.

    Args:
        total: float64 `[layer, measure, part, sample]`, sums of the unit vectors of the defined features.
        number: int64 `[layer, measure, part]`, how many they are.

    Returns:
        float64 `[layer, block, measure]`, NaN where no pair is defined, and the numbers of defined pairs, int64.
    """
    products = total.unsqueeze(-2) * total.unsqueeze(-3)  # [layer, measure, part, part, sample]; @ would wake threads
    sums = products.sum(-1).flatten(-2)[..., _PLACES]  # [layer, measure, block]
    sums[..., :3] = (sums[..., :3] - number) / 2  # QQ, KK, VV hold each pair twice, and each feature with itself
    pairs = block_pairs(number)
    return (sums / pairs).clamp_(-1, 1).masked_fill_(pairs == 0, torch.nan).mT, pairs.mT
