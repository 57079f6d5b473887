"""The histograms of `helpers.similarity.block_histograms` on a GPU, in Triton: product and binning in one kernel.

One program per tile of the upper triangle and layer.  The tile of products p = y_i . y_j stays in registers;
both measures come out of it as in `helpers.kernels.cpu` (cosine = p + b_i b_j, correlation = p / (a_i a_j)), are binned
there (`tl.histogram` works in shared memory) and added to the counts of the block once per tile.  Neither
the matrix nor a mask is ever stored.  Sums of squares are taken around the mean of the block, which is known
beforehand, and kept per tile, so that the result does not depend on the order of the programs.

Products are full float32 (`input_precision="ieee"`): one pass of TF32 would move some 0.2% of the counts.

The tests run this file in Triton's interpreter and compile it for compute capability 7.5 and 9.0.  On a GPU it
is taken only after `helpers.kernels.prove_triton` has compared it with plain torch there.
Reference: https://triton-lang.org/main/python-api/triton.language.html (dot, histogram, atomic_add).
"""

from functools import cache

import torch
import triton
import triton.language as tl

from helpers.kernels.features import block_means, standardise
from helpers.masks import BLOCK_PARTS

TILE = 64  # rows and columns of a tile
DEPTH = 32  # tokens multiplied at a time
GROUP_BYTES = 1 << 28  # layers are taken together as long as they are no larger


@triton.jit
def bin_tiles(
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
    at = [range(sum(sizes[:p]), sum(sizes[: p + 1]), TILE) for p in range(3)]
    tiles, numbers = [], []
    for b, (p, q) in enumerate(BLOCK_PARTS):
        found = [
            (i, min(i + TILE, at[p].stop), j, min(j + TILE, at[q].stop), b)
            for i in at[p]
            for j in at[q]
            if p != q or j >= i
        ]
        tiles += found
        numbers.append(len(found))
    return torch.tensor(tiles, dtype=torch.int32, device=device), numbers


def layer_sums(x, sizes, bins, threshold):
    """Histograms and moments of every block of some layers, as `helpers.kernels.cpu.layer_sums` gives them.

    x: `[layer, sample, F]`, finite, float32 or shorter.  Returns tensors on its device.
    """
    n_layers, n, n_features = x.shape
    z, features = standardise(x)
    defined = torch.stack([~features.zero, ~features.constant], dim=1)  # [layer, measure, F]
    y = z * features.a.unsqueeze(-2)  # [layer, sample, F]
    inverse = torch.where(features.constant, 0, 1 / features.a)
    factors = torch.cat([torch.stack([features.b, inverse], dim=1), defined.float()], dim=1)  # [layer, 4, F]
    means, pairs = _means(z, features, defined, sizes)  # [layer, block, measure]

    tiles, numbers = _tiles(sizes, z.device)
    room = triton.next_power_of_2(bins + 1)
    counts = torch.zeros(n_layers, 6, 2, room, dtype=torch.int32, device=z.device)
    sums = torch.empty(n_layers, len(tiles), 4, device=z.device)
    bin_tiles[(len(tiles), n_layers)](
        y.contiguous(), factors.contiguous(), means.nan_to_num().float().contiguous(), tiles, counts, sums,
        n, n_features, len(tiles), threshold, BINS=bins, ROOM=room, TILE=TILE, DEPTH=DEPTH,
        num_warps=8,
    )  # fmt: skip
    sums = torch.stack([part.sum(dim=1, dtype=torch.float64) for part in sums.split(numbers, dim=1)], dim=1)
    moments = sums / pairs.repeat(1, 1, 2)  # [layer, block, 4]
    return counts[..., :bins].to(torch.int64), means, moments[..., :2].sqrt(), moments[..., 2:]


def _means(z, features, defined, sizes):
    """Means from sums of unit vectors, float64, and numbers of defined pairs, both `[layer, block, measure]`."""
    a, b = features.a.double().unsqueeze(-2), features.b.double().unsqueeze(-2)  # [layer, 1, F]
    unit = z.double() * a + b / z.shape[-2] ** 0.5  # [layer, sample, F], x / |x|
    vectors = torch.stack([unit, z.double() * defined[:, 1].unsqueeze(-2)], dim=1)  # 0 where constant
    total = torch.stack([part.sum(-1) for part in vectors.split(sizes, dim=-1)], dim=2)
    number = torch.stack([part.sum(-1) for part in defined.split(sizes, dim=-1)], dim=2)
    return block_means(total, number)
