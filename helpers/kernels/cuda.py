"""The histograms of `helpers.similarity.block_histograms` on a GPU, in Triton: product and binning in one kernel.

One program per tile of the upper triangle and layer.  The tile of products p = y_i . y_j stays in registers;
both measures come out of it as in `kernels_cpu` (cosine = p + b_i b_j, correlation = p / (a_i a_j)), are binned
there (`tl.histogram` works in shared memory) and added to the counts of the block once per tile.  Neither
the matrix nor a mask is ever stored.  Sums of squares are taken around the mean of the block, which is known
beforehand, and kept per tile, so that the result does not depend on the order of the programs.

Products are full float32 (`input_precision="ieee"`): one pass of TF32 would move some 0.2% of the counts.

The tests run this file in Triton's interpreter and compile it for compute capability 7.5 and 9.0; it has
never run on a GPU.
Reference: https://triton-lang.org/main/python-api/triton.language.html (dot, histogram, atomic_add).
"""

from functools import cache

import torch
import triton
import triton.language as tl

from helpers.masks import BLOCKS, PARTS
from helpers.similarity import _features

TILE = 64  # rows and columns of a tile
DEPTH = 32  # tokens multiplied at a time
GROUP_BYTES = 1 << 28  # layers are taken together as long as their features are no larger


@triton.jit
def _bin_tiles(
    y, features, means, tiles, counts, sums, n, n_features, n_tiles, threshold,
    BINS: tl.constexpr, ROOM: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One tile of one layer.

    y: float32 `[layer, sample, F]`; features: float32 `[layer, 4, F]`: b, 1 / a, not zero, not constant.
    means: float32 `[layer, block, measure]`; tiles: int32 `[tile, 5]`: rows from, to, columns from, to, block.
    counts: int32 `[layer, block, measure, ROOM]`, counted up, the last cell takes what is no defined pair;
    sums: float32 `[layer, tile, 4]`: squares around the mean and numbers above, cosine and correlation.
    """
    tile = tl.program_id(0)
    layer = tl.program_id(1).to(tl.int64)
    row_at, row_to = tl.load(tiles + 5 * tile), tl.load(tiles + 5 * tile + 1)
    column_at, column_to = tl.load(tiles + 5 * tile + 2), tl.load(tiles + 5 * tile + 3)
    block = tl.load(tiles + 5 * tile + 4)
    i = row_at + tl.arange(0, TILE)
    j = column_at + tl.arange(0, TILE)
    y += layer * n * n_features
    p = tl.zeros((TILE, TILE), tl.float32)
    for start in range(0, n, DEPTH):
        t = start + tl.arange(0, DEPTH)
        rows = tl.load(
            y + t[None, :] * n_features + i[:, None], mask=(t[None, :] < n) & (i[:, None] < row_to), other=0.0
        )  # [row, token]
        columns = tl.load(
            y + t[:, None] * n_features + j[None, :], mask=(t[:, None] < n) & (j[None, :] < column_to), other=0.0
        )  # [token, column]
        p = tl.dot(rows, columns, p, input_precision="ieee")  # [row, column]

    features += layer * 4 * n_features
    pair = (i[:, None] < row_to) & (j[None, :] < column_to) & (i[:, None] < j[None, :])  # each pair once
    for measure in tl.static_range(2):
        of_i = tl.load(features + measure * n_features + i, mask=i < row_to, other=0.0)
        of_j = tl.load(features + measure * n_features + j, mask=j < column_to, other=0.0)
        defined_i = tl.load(features + (2 + measure) * n_features + i, mask=i < row_to, other=0.0)
        defined_j = tl.load(features + (2 + measure) * n_features + j, mask=j < column_to, other=0.0)
        if measure == 0:
            s = p + of_i[:, None] * of_j[None, :]
        else:
            s = p * (of_i[:, None] * of_j[None, :])
        s = tl.minimum(tl.maximum(s, -1.0), 1.0)
        counted = pair & (defined_i[:, None] * defined_j[None, :] > 0)
        bin = tl.minimum((s * (BINS / 2) + BINS / 2).to(tl.int32), BINS - 1)
        bin = tl.where(counted, bin, ROOM - 1)
        found = tl.histogram(tl.reshape(bin, (TILE * TILE,)), ROOM)
        tl.atomic_add(counts + ((layer * 6 + block) * 2 + measure) * ROOM + tl.arange(0, ROOM), found)
        d = s - tl.load(means + (layer * 6 + block) * 2 + measure)
        square = tl.sum(tl.sum(tl.where(counted, d * d, 0.0), axis=1), axis=0)
        above = tl.sum(tl.sum(tl.where(counted & (tl.abs(s) > threshold), 1.0, 0.0), axis=1), axis=0)
        tl.store(sums + (layer * n_tiles + tile) * 4 + measure, square)
        tl.store(sums + (layer * n_tiles + tile) * 4 + 2 + measure, above)


@cache
def _tiles(sizes, device):
    """int32 `[tile, 5]`, ordered by block: rows from, to, columns from, to, block; and the tiles of each block."""
    stop = [sum(sizes[: p + 1]) for p in range(3)]
    tiles, numbers = [], []
    for b, (first, second) in enumerate(BLOCKS):
        p, q = PARTS.index(first), PARTS.index(second)
        found = [
            (i, min(i + TILE, stop[p]), j, min(j + TILE, stop[q]), b)
            for i in range(stop[p] - sizes[p], stop[p], TILE)
            for j in range(stop[q] - sizes[q], stop[q], TILE)
            if p != q or j >= i
        ]
        tiles += found
        numbers.append(len(found))
    return torch.tensor(tiles, dtype=torch.int32, device=device), numbers


def layer_sums(x, sizes, limit, bins, threshold):
    """Histograms and moments of every block of some layers, as `helpers.kernels.cpu.layer_sums` gives them.

    x: `[layer, sample, F]`, float32 or shorter, on the GPU.  Returns tensors on the same device.
    """
    group = max(1, GROUP_BYTES // (4 * x.shape[1] * x.shape[2]))
    found = [_group_sums(part, tuple(sizes), bins, threshold) for part in x.split(group)]
    return tuple(torch.cat(values) for values in zip(*found))


def _group_sums(x, sizes, bins, threshold):
    n_layers, n, n_features = x.shape
    f = _features(x)
    defined = torch.stack([~f.zero, ~f.constant], dim=1)  # [layer, measure, F]
    y = f.z * f.a.unsqueeze(-2)  # [layer, sample, F]
    inverse = torch.where(f.constant, 0, 1 / f.a)
    features = torch.cat([torch.stack([f.b, inverse], dim=1), defined.float()], dim=1)  # [layer, 4, F]
    means, pairs = _means(f, defined, sizes)  # [layer, block, measure]

    tiles, numbers = _tiles(sizes, x.device)
    room = triton.next_power_of_2(bins + 1)
    counts = torch.zeros(n_layers, len(BLOCKS), 2, room, dtype=torch.int32, device=x.device)
    sums = torch.empty(n_layers, len(tiles), 4, device=x.device)
    _bin_tiles[(len(tiles), n_layers)](
        y.contiguous(), features.contiguous(), means.nan_to_num().float().contiguous(), tiles, counts, sums,
        n, n_features, len(tiles), threshold, BINS=bins, ROOM=room, TILE=TILE, DEPTH=DEPTH,
        num_warps=8,
    )  # fmt: skip
    sums = torch.stack([part.sum(dim=1, dtype=torch.float64) for part in sums.split(numbers, dim=1)], dim=1)
    moments = sums / pairs.repeat(1, 1, 2)  # [layer, block, 4]
    found = counts[..., :bins].to(torch.int64), means, moments[..., :2].sqrt(), moments[..., 2:]
    return tuple(_by_parts(values) for values in found)


def _means(f, defined, sizes):
    """Means from sums of unit vectors, float64, and numbers of defined pairs, both `[layer, block, measure]`."""
    z = f.z.double() * defined[:, 1].unsqueeze(-2)  # [layer, sample, F], 0 where constant
    n = z.shape[-2]
    unit = f.z.double() * f.a.double().unsqueeze(-2) + f.b.double().unsqueeze(-2) / n**0.5  # x / |x|
    total = torch.stack(
        [torch.stack([v.sum(-1) for v in values.split(sizes, dim=-1)], dim=1) for values in (unit, z)], dim=2
    )  # [layer, part, measure, token]
    number = torch.stack([v.sum(-1) for v in defined.split(sizes, dim=-1)], dim=1)  # [layer, part, measure]
    means, pairs = [], []
    for first, second in BLOCKS:
        p, q = PARTS.index(first), PARTS.index(second)
        product = (total[:, p] * total[:, q]).sum(-1)  # [layer, measure]
        if p == q:  # the square holds each pair twice, and each feature with itself
            product, count = (product - number[:, p]) / 2, number[:, p] * (number[:, p] - 1) // 2
        else:
            count = number[:, p] * number[:, q]
        means.append(torch.where(count > 0, product / count, torch.nan).clamp(-1, 1))
        pairs.append(count)
    return torch.stack(means, dim=1), torch.stack(pairs, dim=1)


def _by_parts(values):
    """`[layer, block, ...]` -> `[layer, part, part, ...]`."""
    result = values.new_zeros(values.shape[0], 3, 3, *values.shape[2:])
    for b, (first, second) in enumerate(BLOCKS):
        result[:, PARTS.index(first), PARTS.index(second)] = values[:, b]
    return result
