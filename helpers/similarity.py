"""Cosine similarity and Pearson correlation between features, over samples (one word in many sentences, say).

`cosine_similarity` and `pearson_correlation` return the whole matrix and are meant to be read.
`block_histograms` never stores it, and gets both measures out of one product of centred features, because

    cos_ij = a_i a_j r_ij + b_i b_j      with a = std / rms and b = mean / rms of each feature

(the identity of notebook 02 without a division by the standard deviation): read `helpers.kernels.plain`.
"""

import math
import warnings
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch

from helpers.kernels import compiled_sums, kernel_for
from helpers.kernels.features import standardise
from helpers.kernels.plain import plain_sums
from helpers.kernels.precision import full_precision
from helpers.masks import BLOCKS, MEASURES, check_block, check_measure, check_sizes, n_block_pairs
from helpers.settings import message


class FewSamplesWarning(UserWarning):
    """Every similarity is +1 or -1, because there are one or two samples."""


def _check(x, measures):
    """`x` as a floating tensor `[..., sample, feature]` that the measures can be taken of, or an error."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(message("no_tensor", came=type(x).__name__))
    if x.is_complex() or x.dtype == torch.bool:
        raise TypeError(message("not_real", came=x.dtype))
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(message("no_samples", came=tuple(x.shape)))
    if not x.is_floating_point():
        x = x.to(torch.float64)
    _check_finite(x)
    n, correlation = x.shape[-2], "correlation" in measures
    if n == 1 and correlation:
        raise ValueError(message("one_sample"))
    if n == 1 or (n == 2 and correlation):  # every similarity is +1 or -1
        warnings.warn(message("one_token" if n == 1 else "two_tokens"), FewSamplesWarning, stacklevel=3)
    return x


def _check_finite(x):
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        with np.errstate(over="ignore", invalid="ignore"):  # NumPy: it wakes no thread of torch
            total = float(x.detach().numpy().sum())
    else:
        total = float(x.detach().sum(dtype=torch.float64))
    if not math.isfinite(total) and len(places := torch.isfinite(x).logical_not().nonzero()):  # not the sum alone
        raise ValueError(message("not_finite", number=len(places), all=x.numel(), first=tuple(places[0].tolist())))


def _matrix(similarity, undefined):
    pair = undefined.unsqueeze(-1) | undefined.unsqueeze(-2)  # [..., F, F]
    return similarity.clamp(-1, 1).masked_fill(pair, torch.nan)


def cosine_similarity(x):
    """Cosine similarity between every two features (columns), over the samples (rows).

    s_ij = sum_t x_ti x_tj / (|x_i| |x_j|).  It keeps each feature's mean.

    Args:
        x: `[..., sample, F]`, any real dtype; integers are cast to float64.

    Returns:
        `[..., F, F]` in [-1, 1], float64 for float64 and integers, else float32.
        Rows and columns of a feature that is zero everywhere are NaN.

    Raises:
        TypeError, ValueError: not a real tensor; wrong rank, or NaN or infinity in `x`.

    >>> cosine_similarity(torch.tensor([[1., 1.], [1., 3.]]))[0, 1].round(decimals=3)
    tensor(0.8940)
    """
    z, f = standardise(_check(x, ("cosine",)))
    offset = f.b.unsqueeze(-1) * f.b.unsqueeze(-2)  # [..., F, F]
    variation = z * f.a.unsqueeze(-2)  # [..., sample, F]
    with full_precision(x.device):
        return _matrix(variation.mT @ variation + offset, f.zero)


def pearson_correlation(x):
    """Pearson correlation between every two features (columns), over the samples (rows).

    r_ij = the cosine similarity after each feature's mean is subtracted.

    Args:
        x: `[..., sample, F]` with at least two samples, any real dtype; integers are cast to float64.

    Returns:
        `[..., F, F]` in [-1, 1], float64 for float64 and integers, else float32.  Rows and columns
        of a constant feature (spread at rounding level of its magnitude) are NaN.

    Raises:
        TypeError, ValueError: not a real tensor; wrong rank, one sample, or NaN or infinity in `x`.

    >>> x = torch.tensor([[1., 1.], [1., 3.], [2., 5.]])
    >>> bool((pearson_correlation(x) - torch.corrcoef(x.T)).abs().max() < 1e-6)
    True
    """
    z, f = standardise(_check(x, ("correlation",)))
    with full_precision(x.device):
        return _matrix(z.mT @ z, f.constant)


@dataclass(frozen=True)
class BlockHistogram:
    """Histogram of one block of similarities; `...` = leading dimensions of x (layers, say)."""

    counts: torch.Tensor  #: int64 `[..., bins]`; +1 and -1 are in the outer bins
    mean: torch.Tensor  #: float64 `[...]`, over the defined pairs
    std: torch.Tensor  #: float64 `[...]`, population standard deviation over the defined pairs
    share_above: torch.Tensor  #: float64 `[...]`, share of the defined pairs with |s| > threshold
    n_pairs: torch.Tensor  #: int64 `[...]`, all pairs of the block: counts.sum(-1) + n_undefined
    n_undefined: torch.Tensor  #: int64 `[...]`, pairs with a constant feature (correlation) or a zero feature (cosine)
    edges: torch.Tensor  #: float64 `[bins + 1]`, from -1 to 1; bins are [a, b), the last one [a, b]

    @property
    def centers(self):
        """float64 `[bins]`, the middle of each bin."""
        return (self.edges[1:] + self.edges[:-1]) / 2


@dataclass(frozen=True)
class BlockHistograms:
    """The histograms of all six blocks for one measure: `histograms["QQ"].counts`."""

    measure: str
    blocks: dict
    edges: torch.Tensor
    n_samples: int
    threshold: float

    def __getitem__(self, block):
        check_block(block)
        return self.blocks[block]

    def items(self):
        return self.blocks.items()


def _check_options(measures, bins):
    """The names of the measures, each once, and the number of bins as an int, or `ValueError`."""
    measures = (measures,) if isinstance(measures, str) else tuple(dict.fromkeys(measures))
    for measure in measures or (None,):
        check_measure(measure)
    if int(bins) != bins or bins < 1:
        raise ValueError(message("bins", bins=bins))
    return measures, int(bins)


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
        ValueError: wrong rank, sizes that do not add up, unknown measure, one sample for the
            correlation, NaN or infinity in `x`.

    >>> x = torch.randn(54, 8, generator=torch.Generator().manual_seed(0))
    >>> result = block_histograms(x, (4, 2, 2))
    >>> int(result["cosine"]["QQ"].counts.sum()), result["correlation"]["QK"].counts.shape
    (6, torch.Size([100]))
    """
    measures, bins = _check_options(measures, bins)
    x = _check(x, measures)
    sizes = check_sizes(sizes, x.shape[-1])
    *batch, n, n_features = x.shape
    layers = x.reshape(-1, n, n_features)
    kernel = kernel_for(x, bins)
    if kernel == "torch":
        sums = plain_sums(map(_standardised, layers), len(layers), n, sizes, measures, bins, threshold, x.device)
    else:
        sums = compiled_sums(kernel, layers, sizes, measures, bins, threshold)
    return _histograms(*sums, sizes, measures, batch, n, threshold)


def _standardised(layer):
    """(features, product) of one layer `[sample, F]`, as `product_histograms` takes them."""
    z, features = standardise(layer)
    return features, lambda i, j: z[:, i].mT @ z[:, j]


def product_histograms(layers, sizes, *, n_samples, measures=MEASURES, bins=100, threshold=0.9, device="cpu"):
    """`block_histograms` of one layer in plain torch, out of anything that gives correlations, such as co-moments.

    Args:
        layers: a list of one (features, product), as in `helpers.kernels.plain.plain_sums`; all finite.
        n_samples: number of samples they were taken over.  device: where the products are.
        sizes, measures, bins, threshold: as in `block_histograms`.

    >>> z, features = standardise(torch.randn(54, 8, generator=torch.Generator().manual_seed(0)))
    >>> result = product_histograms([(features, lambda i, j: z[:, i].T @ z[:, j])], (4, 2, 2), n_samples=54)
    >>> int(result["cosine"]["QQ"].counts.sum())
    6
    """
    measures, bins = _check_options(measures, bins)
    sizes = check_sizes(sizes)
    sums = plain_sums(layers, 1, n_samples, sizes, measures, bins, threshold, device)
    return _histograms(*sums, sizes, measures, (), n_samples, threshold)


def _histograms(counts, mean, std, above, sizes, measures, batch, n_samples, threshold):
    """`[measure, block, layer]`, counts with bins, as `{measure: BlockHistograms}`."""
    edges = torch.linspace(-1, 1, counts.shape[-1] + 1, dtype=torch.float64, device=counts.device)
    counts = counts.reshape(*counts.shape[:2], *batch, -1)
    mean, std, above = (values.reshape(*values.shape[:2], *batch) for values in (mean, std, above))
    n_defined = counts.sum(-1)  # [measure, block, ...]
    total = torch.tensor([*n_block_pairs(sizes).values()], device=counts.device).view(-1, *[1] * len(batch))
    n_pairs = total.expand_as(n_defined).clone()
    found = zip(counts, mean, std, above, n_pairs, n_pairs - n_defined)  # of each measure
    found = [dict(zip(BLOCKS, map(BlockHistogram, *of_measure, repeat(edges)))) for of_measure in found]
    return {m: BlockHistograms(m, blocks, edges, n_samples, threshold) for m, blocks in zip(measures, found)}
