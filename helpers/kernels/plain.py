"""The histograms of `helpers.similarity.block_histograms` in plain torch, on any device: read this kernel first.

One band of rows of the similarity matrix at a time is multiplied, cut into tiles, and each tile is counted.  A
measure is two factors a feature: s_ij = r_ij u_i u_j + w_i w_j, where r is the correlation and

    cosine         u = std / rms    w = mean / rms
    correlation    u = 1            w = 0

For an undefined feature (zero, or constant) u = w = 0: its pairs are counted as s = 0 and taken out at the end.
"""

import math

import torch

from helpers.kernels.features import block_pairs
from helpers.kernels.precision import full_precision, one_thread
from helpers.masks import BLOCKS, part_slices

TILE = 256  # rows and columns of a tile: what is made of it stays in the cache
TILE_CUDA = 1024  # to start an operation there takes longer than to count a small tile: 3 times faster than 512
WORTH_A_THREAD = 1e9  # multiplications in a product from which a second core is worth waiting for


def plain_sums(layers, n_layers, n_samples, sizes, measures, bins, threshold, device="cpu"):
    """Counts `[measure, block, layer, bins]` and mean, std and share above `[measure, block, layer]`.

    Args:
        layers: one (features, product) a layer: `Features` `[F]`, and a function of two slices
            that gives the correlations `[row, column]` of the features in the one with those in the other.
        n_layers, n_samples: how many there are.  The rest as in `helpers.similarity.block_histograms`.
    """
    device = torch.device(device)
    shape = (len(measures), len(BLOCKS), n_layers)
    counts = torch.zeros(*shape, bins, dtype=torch.int64, device=device)
    sums = torch.zeros(*shape, 3, dtype=torch.float64, device=device)  # of s, of s squared, of |s| > threshold
    many = n_samples * TILE * sum(sizes) > WORTH_A_THREAD
    with full_precision(device), one_thread(device, unless=many):
        for layer, (features, product) in enumerate(layers):
            _add_layer(features, product, sizes, measures, threshold, counts[:, :, layer], sums[:, :, layer])
    mean, square, above = (sums / counts.sum(-1, keepdim=True)).unbind(-1)  # NaN where nothing is defined
    return counts, mean.clamp(-1, 1), (square - mean**2).clamp_min(0).sqrt(), above


def _add_layer(features, product, sizes, measures, threshold, counts, sums):
    """Add one layer to counts `[measure, block, bins]` and sums `[measure, block, 3]`."""
    defined = {"cosine": ~features.zero, "correlation": ~features.constant}
    one = defined["correlation"].to(features.a.dtype)
    factors = {"cosine": (features.a, features.b), "correlation": (one, torch.zeros_like(one))}
    exclusive = threshold if threshold < 1 else math.inf  # rounding may carry s beyond 1, never |s| > 1
    cuts = _cuts(sizes, TILE if counts.device.type == "cpu" else TILE_CUDA)
    for at, (part, i) in enumerate(cuts):
        band = product(i, slice(i.start, sum(sizes)))  # [row, column from i.start on]
        upper = torch.ones(len(band), len(band), device=band.device).triu(1).flatten().nonzero().flatten()
        with one_thread(band.device):
            for other, j in cuts[at:]:
                r = band[:, j.start - i.start : j.stop - i.start]
                block = list(BLOCKS).index(part + other)
                for m, measure in enumerate(measures):
                    u, w = factors[measure]
                    s = (r * u[i, None]).mul_(u[j]).addcmul_(w[i, None], w[j])
                    if i == j:  # rows and columns are the same features: each pair once
                        s = s.take(upper)
                    _count(s, exclusive, counts[m, block], sums[m, block])
    for m, measure in enumerate(measures):
        number = torch.stack([features.sum() for features in defined[measure].split(sizes)])  # [part]
        undefined = counts[m].sum(-1) - block_pairs(number)  # [block]
        counts[m, :, counts.shape[-1] // 2] -= undefined
        sums[m, :, 2] -= undefined * (threshold < 0)


def _cuts(sizes, width):
    """[(part, slice of features)], none wider than `width`, none across Q, K and V."""
    cuts = []
    for part, at in part_slices(sizes).items():
        cuts += [(part, slice(start, min(start + width, at.stop))) for start in range(at.start, at.stop, width)]
    return cuts


def _count(s, threshold, counts, sums):
    """Add similarities of any shape to counts `[bins]` and sums `[3]`."""
    bins = counts.numel()
    place = ((s + 1) * (bins / 2)).clamp_(0, bins - 0.5).to(torch.int32)
    counts += torch.bincount(place.flatten(), minlength=bins)
    s64 = s.flatten().double()  # squares in float64: the spread may be far smaller than the mean
    above = torch.count_nonzero((s.abs() - threshold).relu_())
    sums += torch.stack([s64.sum(), torch.dot(s64, s64), above.double()])
