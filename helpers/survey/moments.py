"""Means and centred co-moments of features: sums that can be computed apart and added up.

    a, b = moments(x[:500]), moments(x[500:])          # on two machines, say
    histograms = moment_histograms(merge(a, b), sizes) # as block_histograms(x, sizes)

A sum of raw products would have to be turned into a variance by subtracting two large, nearly equal
numbers, which at |mean| / sd = 1000 costs six digits.  Centred sums add no such numbers.

Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample
variances, Stanford STAN-CS-79-773, 1979; COMPSTAT 1982, doi:10.1007/978-3-642-51461-6_3.
"""

from dataclasses import dataclass

import torch

from helpers.masks import BLOCKS, MEASURES, check_sizes, n_block_pairs, part_slices
from helpers.similarity import CONSTANT, CONSTANT_HALF, BlockHistogram, BlockHistograms

TILE = 128  # rows of the similarity matrix held at once


@dataclass(frozen=True)
class Moments:
    """Sums over token occurrences of one layer."""

    count: int
    """Number of token occurrences."""
    mean: torch.Tensor
    """float64 `[F]`."""
    comoment: torch.Tensor
    """float64 `[F, F]`: sum over the occurrences of (x_i - mean_i) (x_j - mean_j)."""
    dtype: torch.dtype = torch.float32
    """Of the features they were taken of: it says which spread is only rounding."""


def moments(x):
    """Moments of `x [sample, F]`, floating point, with the mean in two passes.

    Raises:
        ValueError: wrong rank, no token, NaN or infinity in `x`.

    >>> moments(torch.tensor([[1.0, 2.0], [3.0, 6.0]])).comoment.tolist()
    [[2.0, 4.0], [4.0, 8.0]]
    """
    if x.ndim != 2 or 0 in x.shape or not x.is_floating_point():
        raise ValueError(
            f"expected floating point x [sample, feature], got {x.dtype} {tuple(x.shape)}: choose one layer first"
        )
    if not bool(torch.isfinite(x).all()):
        raise ValueError(
            "x holds NaN or infinite values: load the model with dtype=torch.float32, or look at the input"
        )
    x64 = x.to(torch.float64)
    mean = x64.mean(dim=0)  # [F]
    mean = mean + (x64 - mean).mean(dim=0)  # second pass: what rounding left
    centred = x64 - mean  # [sample, F]
    return Moments(len(x), mean, centred.mT @ centred, x.dtype)


def merge(a, b):
    """Moments of the occurrences of `a` and `b` together.

    comoment = C_a + C_b + d d^T n_a n_b / (n_a + n_b), d = mean_b - mean_a (Chan et al., eq. 2.1).
    The last bits depend on which is first and on the order of several merges; the digits do not.

    Raises:
        ValueError: different numbers of features or dtypes.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0], [8.0, 1.0]])
    >>> torch.allclose(merge(moments(x[:1]), moments(x[1:])).comoment, moments(x).comoment)
    True
    """
    if a.mean.shape != b.mean.shape or a.dtype != b.dtype:
        raise ValueError(
            f"cannot merge moments of {len(a.mean)} {a.dtype} features with those of {len(b.mean)} {b.dtype}: "
            "merge moments of one layer of one model"
        )
    n = a.count + b.count
    delta = b.mean - a.mean  # [F]
    comoment = a.comoment + b.comoment
    comoment.addr_(delta, delta, alpha=a.count * b.count / n)
    return Moments(n, a.mean + delta * (b.count / n), comoment, a.dtype)


@torch.no_grad()
def moment_histograms(total, sizes, *, measures=MEASURES, bins=100, threshold=0.9):
    """`block_histograms` out of moments: the same result by the same rules, whatever the number of tokens.

    Args:
        total: `Moments` of all occurrences of one layer, at least two for the correlation.
        sizes, measures, bins, threshold: as in `block_histograms`.

    Returns:
        `{measure: BlockHistograms}` without leading dimensions; one band of rows at a time is held
        beyond the co-moment itself.

    >>> x = torch.randn(54, 8, generator=torch.Generator().manual_seed(0))
    >>> int(moment_histograms(moments(x), (4, 2, 2))["cosine"]["QQ"].counts.sum())
    6
    """
    check_sizes(sizes, len(total.mean))
    if "correlation" in measures and total.count < 2:
        raise ValueError(f"correlation needs at least two tokens, got {total.count}: merge more, or ask for the cosine")
    std = (total.comoment.diagonal() / total.count).clamp_min(0).sqrt()  # [F]
    rms = torch.hypot(std, total.mean)
    roundings = CONSTANT_HALF if total.dtype.itemsize == 2 else CONSTANT
    undefined = {"cosine": rms == 0, "correlation": std <= roundings * torch.finfo(total.dtype).eps * rms}
    tiny = torch.finfo(torch.float64).tiny
    scale = 1 / (std * total.count**0.5).clamp_min(tiny)  # [F]
    a, b = std / rms.clamp_min(tiny), total.mean / rms.clamp_min(tiny)
    edges = torch.linspace(-1, 1, bins + 1, dtype=torch.float64, device=std.device)
    at, n_pairs = part_slices(sizes), n_block_pairs(sizes)
    counts = {(m, block): torch.zeros(bins, dtype=torch.int64, device=std.device) for m in measures for block in BLOCKS}
    sums = {key: torch.zeros(3, dtype=torch.float64, device=std.device) for key in counts}
    index = torch.arange(len(std), device=std.device)
    for block in BLOCKS:
        rows, columns = at[block[0]], at[block[1]]
        for top in range(rows.start, rows.stop, TILE):
            i, j = slice(top, min(top + TILE, rows.stop)), slice(max(top, columns.start), columns.stop)
            r = total.comoment[i, j] * scale[i, None] * scale[j]  # [row, column]
            for measure in measures:
                s = r if measure == "correlation" else r * a[i, None] * a[j] + b[i, None] * b[j]
                defined = ~undefined[measure]
                pair = (index[i, None] < index[j]) & defined[i, None] & defined[j]  # each pair once
                s = s[pair].clamp_(-1, 1)
                bin_of = ((s + 1) * (bins / 2)).long().clamp_max_(bins - 1)
                counts[measure, block] += torch.bincount(bin_of, minlength=bins)
                sums[measure, block] += torch.stack([s.sum(), s.dot(s), (s.abs() > threshold).sum(dtype=s.dtype)])
    result = {}
    for measure in measures:
        blocks = {}
        for block in BLOCKS:
            n_defined = counts[measure, block].sum()
            mean, square, above = sums[measure, block] / n_defined  # NaN where nothing is defined
            blocks[block] = BlockHistogram(
                counts=counts[measure, block],
                mean=mean,
                std=(square - mean**2).clamp_min(0).sqrt(),
                share_above=above,
                n_pairs=torch.full_like(n_defined, n_pairs[block]),
                n_undefined=n_pairs[block] - n_defined,
                edges=edges,
            )
        result[measure] = BlockHistograms(measure, blocks, edges, total.count, threshold)
    return result
