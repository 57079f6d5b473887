"""Cosine similarity and Pearson correlation between features, over token occurrences.

`cosine_similarity` and `pearson_correlation` return the whole matrix and are meant to be read.
`block_histograms` never stores that matrix: it computes one band of rows at a time, bins it, and
gets both measures out of one product of centred features, because

    cos_ij = a_i a_j r_ij + b_i b_j      with a = std / rms and b = mean / rms of each feature

(the identity of notebook 02 without a division by the standard deviation).  What is written here is
plain torch and runs on every device.  Two optional kernels do the same faster: `kernels_cpu` (numba)
and `kernels_cuda` (Triton); `kernel_for` says which one is taken.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch

from helpers.kernels import kernel_for
from helpers.kernels.precision import full_precision
from helpers.masks import BLOCKS, MEASURES, PARTS, check_sizes, n_block_pairs

TILE = 128  # rows of the similarity matrix held at once
CONSTANT = 8  # a standard deviation up to CONSTANT * eps * rms is rounding, not variation
CONSTANT_HALF = 1  # the same for float16 and bfloat16, where eps is so coarse that more would be signal


@dataclass
class _Features:
    """Per-feature quantities; `...` = leading dimensions of x."""

    z: torch.Tensor  # [..., sample, F] centred, unit norm over tokens, in the dtype of the product
    a: torch.Tensor  # [..., F] std / rms
    b: torch.Tensor  # [..., F] mean / rms
    constant: torch.Tensor  # [..., F] bool: no correlation
    zero: torch.Tensor  # [..., F] bool: no cosine


def _check(x, measures):
    """`x` as a floating tensor `[..., sample, feature]` that the measures can be taken of, or an error."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"expected a torch.Tensor [..., sample, feature], got {type(x).__name__}: torch.as_tensor(x)")
    if x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"expected real numbers, got {x.dtype}")
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(
            f"expected x [..., sample, feature] with at least one of each, got {tuple(x.shape)}: "
            "stack one vector per token occurrence, e.g. capture_qkv(..., positions=positions).joined()[0]"
        )
    if not x.is_floating_point():
        x = x.to(torch.float64)
    finite = None if _has_finite_sum(x) else torch.isfinite(x)
    if finite is not None and not bool(finite.all()):
        first = tuple((~finite).nonzero()[0].tolist())
        raise ValueError(
            f"x holds {int((~finite).sum())} NaN or infinite values of {x.numel()}, the first at index {first}: "
            "a float16 model overflows easily, load it with dtype=torch.float32; otherwise look at the input there"
        )
    n = x.shape[-2]
    if "correlation" in measures and n == 1:
        raise ValueError(
            f"correlation needs at least two tokens, got x {tuple(x.shape)} with one: "
            "pass more sentences, or ask for the cosine only"
        )
    if n == 1 or (n == 2 and "correlation" in measures):
        measure = "cosine" if n == 1 else "correlation"
        warnings.warn(
            f"with {n} token(s) every {measure} is +1 or -1 by construction: use more sentences", stacklevel=3
        )
    return x


def _has_finite_sum(x):
    """True only if every value is finite.  False where one is not, and where the sum leaves the range."""
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        # Not torch: its threads would keep the cores busy for a while, waiting for more, while our kernel runs.
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(np.isfinite(x.detach().numpy().sum()))
    return bool(torch.isfinite(x.sum(dtype=torch.float64)))


def _features(x):
    """Moments in float64 in two passes; `z` in float32 unless `x` is float64."""
    x64 = x.to(torch.float64)
    if x.dtype == torch.float64:  # squares of 1e200 or 1e-200 leave the range; a power of two costs no digits
        largest = x64.abs().amax(dim=-2, keepdim=True)  # [..., 1, F]
        x64 = torch.ldexp(x64, -torch.frexp(largest).exponent)
    n = x.shape[-2]
    mean = x64.mean(dim=-2)  # [..., F]
    centred = x64 - mean.unsqueeze(-2)  # [..., sample, F]
    mean = mean + centred.mean(dim=-2)  # second pass: what rounding left
    centred = x64 - mean.unsqueeze(-2)
    norm = torch.linalg.vector_norm(centred, dim=-2)  # [..., F] = std * sqrt(n)
    rms = torch.linalg.vector_norm(x64, dim=-2) / n**0.5  # [..., F]
    std = norm / n**0.5
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    tiny = torch.finfo(torch.float64).tiny
    return _Features(
        z=(centred / norm.clamp_min(tiny).unsqueeze(-2)).to(dtype),
        a=(std / rms.clamp_min(tiny)).to(dtype),
        b=(mean / rms.clamp_min(tiny)).to(dtype),
        constant=std <= _constant_limit(x.dtype) * rms,
        zero=rms == 0,
    )


def _constant_limit(dtype):
    """A feature with std / rms up to this is constant."""
    return (CONSTANT_HALF if dtype.itemsize == 2 else CONSTANT) * torch.finfo(dtype).eps


def _matrix(similarity, undefined):
    pair = undefined.unsqueeze(-1) | undefined.unsqueeze(-2)  # [..., F, F]
    return similarity.clamp(-1, 1).masked_fill(pair, torch.nan)


def cosine_similarity(x):
    """Cosine similarity between every two features (columns), over the tokens (rows).

    s_ij = sum_t x_ti x_tj / (|x_i| |x_j|).  It keeps each feature's mean.

    Args:
        x: `[..., sample, F]`, any real dtype; integers are cast to float64.

    Returns:
        `[..., F, F]` in [-1, 1], float64 for float64 and integers, else float32.
        Rows and columns of a feature that is zero everywhere are NaN.

    Raises:
        TypeError: not a real tensor.  ValueError: wrong rank, or NaN or infinity in `x`.

    >>> cosine_similarity(torch.tensor([[1., 1.], [1., 3.]]))[0, 1].round(decimals=3)
    tensor(0.8940)
    """
    f = _features(_check(x, ("cosine",)))
    offset = f.b.unsqueeze(-1) * f.b.unsqueeze(-2)  # [..., F, F]
    variation = f.z * f.a.unsqueeze(-2)  # [..., sample, F]
    with full_precision(x.device):
        return _matrix(variation.mT @ variation + offset, f.zero)


def pearson_correlation(x):
    """Pearson correlation between every two features (columns), over the tokens (rows).

    r_ij = the cosine similarity after each feature's mean is subtracted.

    Args:
        x: `[..., sample, F]` with at least two tokens, any real dtype; integers are cast to float64.

    Returns:
        `[..., F, F]` in [-1, 1], float64 for float64 and integers, else float32.  Rows and columns
        of a constant feature (spread at rounding level of its magnitude) are NaN.

    Raises:
        TypeError: not a real tensor.  ValueError: wrong rank, one token, or NaN or infinity in `x`.

    >>> x = torch.tensor([[1., 1.], [1., 3.], [2., 5.]])
    >>> bool((pearson_correlation(x) - torch.corrcoef(x.T)).abs().max() < 1e-6)
    True
    """
    f = _features(_check(x, ("correlation",)))
    with full_precision(x.device):
        return _matrix(f.z.mT @ f.z, f.constant)


@dataclass(frozen=True)
class BlockHistogram:
    """Histogram of one block of similarities; `...` = leading dimensions of x (layers, say)."""

    counts: torch.Tensor
    """int64 `[..., bins]`; +1 and -1 are in the outer bins."""
    mean: torch.Tensor
    """float64 `[...]`, over the defined pairs."""
    std: torch.Tensor
    """float64 `[...]`, population standard deviation over the defined pairs."""
    share_above: torch.Tensor
    """float64 `[...]`, share of the defined pairs with |s| > threshold."""
    n_pairs: torch.Tensor
    """int64 `[...]`, all pairs of the block: counts.sum(-1) + n_undefined."""
    n_undefined: torch.Tensor
    """int64 `[...]`, pairs with a constant feature (correlation) or a zero feature (cosine)."""
    edges: torch.Tensor
    """float64 `[bins + 1]`, from -1 to 1; bins are [a, b), the last one [a, b]."""


@dataclass(frozen=True)
class BlockHistograms:
    """The histograms of all six blocks for one measure: `histograms["QQ"].counts`."""

    measure: str
    blocks: dict
    edges: torch.Tensor
    n_samples: int
    threshold: float

    def __getitem__(self, block):
        return self.blocks[block]

    def items(self):
        return self.blocks.items()


@torch.no_grad()
def block_histograms(x, sizes, *, measures=MEASURES, bins=100, threshold=0.9):
    """Histograms of the similarities between features, block by block, without the F x F matrix.

    Args:
        x: `[..., sample, F]`, features ordered Q, K, V; float16 to float64, CPU or CUDA; integers
            are cast to float64.  Each leading index (layer, say) is treated on its own.
        sizes: features of Q, K and V, adding up to F.
        measures: "cosine", "correlation" or both; both cost one product.
        bins: equal bins over [-1, 1].
        threshold: `share_above` counts |s| > threshold.

    Returns:
        `{measure: BlockHistograms}`, tensors on the device of `x`.  Counts equal those of a float64
        reference except for values within 1e-6 of a bin edge; counts plus undefined pairs are
        exactly the number of pairs.

    Raises:
        TypeError: not a real tensor.
        ValueError: wrong rank, sizes that do not add up, unknown measure, one token for the
            correlation, NaN or infinity in `x`.

    >>> x = torch.randn(54, 8, generator=torch.Generator().manual_seed(0))
    >>> result = block_histograms(x, (4, 2, 2))
    >>> int(result["cosine"]["QQ"].counts.sum()), result["correlation"]["QK"].counts.shape
    (6, torch.Size([100]))
    """
    measures = (measures,) if isinstance(measures, str) else tuple(dict.fromkeys(measures))
    if not measures or set(measures) - set(MEASURES):
        raise ValueError(f"unknown measures {measures}: expected some of {MEASURES}")
    if int(bins) != bins or bins < 1:
        raise ValueError(f"expected a whole number of bins, at least 1, got {bins}")
    bins = int(bins)
    x = _check(x, measures)
    sizes = check_sizes(sizes, x.shape[-1])
    flat = x.reshape(-1, *x.shape[-2:])  # [layer, sample, F]
    kernel = kernel_for(x, bins)
    if kernel == "torch":
        sums = _torch_sums(flat, sizes, measures, bins, threshold)
    else:
        sums = _compiled_sums(kernel, flat, sizes, measures, bins, threshold)
    return _histograms(sums, x, sizes, measures, bins, threshold)


def _histograms(sums, x, sizes, measures, bins, threshold):
    """Sums `[measure, block, layer, ...]` as `{measure: BlockHistograms}`."""
    counts, mean, std, above = sums
    edges = torch.linspace(-1, 1, bins + 1, dtype=torch.float64, device=x.device)
    total = n_block_pairs(sizes)
    n_defined = counts.sum(-1)  # [measure, block, layer]
    n_pairs = torch.tensor([total[block] for block in BLOCKS], device=x.device).view(-1, 1).expand_as(n_defined)
    fields = {
        "counts": counts,
        "mean": mean,
        "std": std,
        "share_above": above,
        "n_pairs": n_pairs.contiguous(),
        "n_undefined": n_pairs - n_defined,
    }
    batch = x.shape[:-2]
    fields = {name: value.reshape(*value.shape[:2], *batch, *value.shape[3:]) for name, value in fields.items()}
    fields = {name: [of.unbind() for of in value.unbind()] for name, value in fields.items()}  # [measure][block]
    result = {}
    for m, measure in enumerate(measures):
        blocks = {
            block: BlockHistogram(**{name: value[m][b] for name, value in fields.items()}, edges=edges)
            for b, block in enumerate(BLOCKS)
        }
        result[measure] = BlockHistograms(measure, blocks, edges, x.shape[-2], threshold)
    return result


def _compiled_sums(kernel, x, sizes, measures, bins, threshold):
    """`[layer, sample, F]` through a compiled kernel, as `_torch_sums` returns it."""
    if kernel == "numba":
        from helpers.kernels.cpu import layer_sums
    else:
        from helpers.kernels.cuda import layer_sums
    found = layer_sums(x, sizes, _constant_limit(x.dtype), bins, threshold)
    rows, columns = ([PARTS.index(part) for part in parts] for parts in zip(*BLOCKS))
    chosen = [MEASURES.index(measure) for measure in measures]
    # [layer, part, part, measure, ...] -> [layer, block, measure, ...] -> [measure, block, layer, ...]
    return [torch.as_tensor(v[:, rows, columns].swapaxes(0, 2)[chosen]) for v in found]


def _torch_sums(x, sizes, measures, bins, threshold):
    """`[layer, sample, F]` -> counts `[measure, block, layer, bins]` and mean, std, share above `[measure, block, layer]`."""
    with full_precision(x.device):
        layers = [_layer_sums(layer, sizes, measures, bins, threshold) for layer in x]
    rows = [[[layer[measure, block] for layer in layers] for block in BLOCKS] for measure in measures]
    counts = torch.stack([torch.stack([torch.stack([s.counts for s in b]) for b in m]) for m in rows])
    moments = torch.stack([torch.stack([torch.stack([s.moments for s in b]) for b in m]) for m in rows])
    mean, square, above = (moments / counts.sum(-1, keepdim=True)).unbind(-1)  # NaN where nothing is defined
    return counts, mean, (square - mean**2).clamp_min(0).sqrt(), above


class _Sums:
    """Running sums over the pairs of one block."""

    def __init__(self, bins, device):
        self.counts = torch.zeros(bins, dtype=torch.int64, device=device)
        self.moments = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, s, threshold):
        s = s.clamp(-1, 1)
        bins = self.counts.numel()
        index = ((s + 1) * (bins / 2)).to(torch.int64).clamp_max_(bins - 1)
        self.counts += torch.bincount(index, minlength=bins)
        s64 = s.double()  # squares in float64: the spread may be far smaller than the mean
        self.moments += torch.stack([s64.sum(), torch.dot(s64, s64), (s.abs() > threshold).sum(dtype=torch.float64)])


def _layer_sums(x, sizes, measures, bins, threshold):
    """One layer `[sample, F]` -> `{(measure, block): _Sums}`."""
    f = _features(x)
    undefined = {"cosine": f.zero, "correlation": f.constant}
    sums = {(measure, block): _Sums(bins, x.device) for measure in measures for block in BLOCKS}
    if len(measures) == 2 and torch.equal(f.zero, f.constant):
        passes = [measures]  # the same features are left out: one product serves both
    else:
        passes = [(measure,) for measure in measures]
    for group in passes:
        keep = ~undefined[group[0]]  # [F]
        kept_sizes = [int(part.sum()) for part in keep.split(sizes)]
        z, a, b = f.z[:, keep], f.a[keep], f.b[keep]
        for block, i, j, r in _bands(z, kept_sizes):
            for measure in group:
                s = r if measure == "correlation" else r * a[i, None] * a[j] + b[i, None] * b[j]
                sums[measure, block].add(_pairs(s, i, j), threshold)
    return sums


def _bands(z, sizes):
    """Yield (block, rows, columns, products `[row, column]`): each band of rows against all later parts."""
    stop = [sum(sizes[: p + 1]) for p in range(3)]
    for p, first in enumerate(PARTS):
        for top in range(stop[p] - sizes[p], stop[p], TILE):
            i = slice(top, min(top + TILE, stop[p]))
            product = z[:, i].mT @ z[:, top:]  # [row, column from top on]
            for q in range(p, 3):
                j = slice(max(top, stop[q] - sizes[q]), stop[q])
                yield first + PARTS[q], i, j, product[:, j.start - top : j.stop - top]


def _pairs(s, i, j):
    """The pairs of one band, each once: what lies above the diagonal where rows and columns meet."""
    if i.start != j.start:
        return s.flatten()
    height = i.stop - i.start
    row, column = torch.triu_indices(height, height, offset=1, device=s.device)
    return torch.cat([s[row, column], s[:, height:].flatten()])
