"""Whether the Triton kernel gives the numbers of plain torch on a device: the whole matrix, in float64.

Counts up to a bin edge may be off by as many values as lie within 1e-6 of that
edge; pairs of a constant (correlation) or zero (cosine) feature are not counted; moments agree to 1e-6.
"""

import torch

from helpers.kernels.features import standardise
from helpers.masks import BLOCKS, MEASURES, block_values

CASES = (  # layers, samples, sizes, dtype, bins, threshold: around the borders of a tile, and a model's own size
    (2, 2, (1, 1, 66), torch.float32, 100, 0.9),
    (1, 3, (65, 129, 2), torch.float16, 128, 0.5),
    (2, 33, (64, 1, 63), torch.bfloat16, 7, 0.9),
    (2, 54, (70, 60, 5), torch.float32, 100, 0.9),
    (1, 300, (576, 192, 192), torch.float32, 100, 0.9),
)
NEAR = 1e-6


def compare(device):
    """Raise `ArithmeticError` that says where the kernel differs from plain torch on `device`."""
    from helpers.kernels import cuda  # needs Triton

    for number, (n_layers, n, sizes, dtype, bins, threshold) in enumerate(CASES):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(n_layers, n, sum(sizes), generator=generator) + torch.randn(n_layers, n, 1, generator=generator)
        x = (x + 3 * torch.randn(n_layers, 1, sum(sizes), generator=generator)).to(dtype)
        x[0, :, 0], x[0, :, -1] = 0, 2.5  # a zero and a constant feature
        x = x.to(device)
        found = cuda.layer_sums(x, sizes, bins, threshold)
        for layer in range(n_layers):
            for m, s in enumerate(_matrices(x[layer].double())):
                for b, block in enumerate(BLOCKS):
                    values = block_values(s, sizes, block)
                    values = values[~values.isnan()].clamp(-1, 1).sort().values.cpu()
                    place = f"{MEASURES[m]} {block}, layer {layer} of {tuple(x.shape)} {dtype}"
                    _compare_block([v[layer, b, m] for v in found], values, bins, threshold, place)


def _matrices(x):
    """Cosine and correlation of `x [sample, F]`: `[F, F]`, NaN where undefined."""
    z, f = standardise(x)
    r = z.T @ z
    for s, undefined in ((r * f.a[:, None] * f.a + f.b[:, None] * f.b, f.zero), (r, f.constant)):
        yield s.masked_fill(undefined[:, None] | undefined, torch.nan)


def _compare_block(found, values, bins, threshold, place):
    """values: the defined ones of the block, sorted."""
    counts, mean, std, above = (value.double().cpu() for value in found)
    edges = torch.linspace(-1, 1, bins + 1, dtype=torch.float64)[1:-1]
    below, up_to = torch.searchsorted(values, edges - NEAR), torch.searchsorted(values, edges + NEAR)
    cumulative = counts.cumsum(0)[:-1]
    if counts.sum() != len(values) or bool(((cumulative < below) | (cumulative > up_to)).any()):
        raise ArithmeticError(f"Triton counts {counts.long().tolist()} for the {place}, plain torch other numbers")
    if not len(values):
        return
    near = ((values.abs() - threshold).abs() <= NEAR).double().mean()
    for name, ours, theirs, allowed in (
        ("mean", mean, values.mean(), NEAR),
        ("std", std, values.std(correction=0), NEAR),
        ("share above", above, (values.abs() > threshold).double().mean(), NEAR + near),
    ):
        if not abs(ours - theirs) <= allowed:
            raise ArithmeticError(f"Triton gives the {name} {float(ours)} for the {place}, torch {float(theirs)}")
