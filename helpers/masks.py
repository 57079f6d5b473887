"""Which pairs of features belong to which block: the coded mask, and the same cut made with slices.

Features are ordered Q, K, V.  Each gets a code (Q 1, K 2, V 3); the product of two codes names the
block of the pair, and the strict upper triangle counts every pair once.
"""

import torch

from helpers.settings import message

BLOCKS = {"QQ": 1, "KK": 4, "VV": 9, "QK": 2, "QV": 3, "KV": 6}
"""Block name -> code in `matrix_mask`, in the order in which figures and tables show them."""

PARTS = ("Q", "K", "V")
BLOCK_PARTS = [(PARTS.index(a), PARTS.index(b)) for a, b in BLOCKS]  #: places in `PARTS` of both parts of each block

MEASURES = ("cosine", "correlation")


def check_sizes(sizes, n_features=None):
    """Return `sizes` as a tuple of three positive ints, or raise `ValueError`.

    >>> check_sizes([768, 768, 768], 2304)
    (768, 768, 768)
    """
    try:
        given, whole = tuple(sizes), tuple(int(size) for size in sizes)
    except (TypeError, ValueError):
        given, whole = sizes, ()
    if len(whole) != 3 or min(whole) < 1 or whole != given:
        raise ValueError(message("sizes", came=given))
    if n_features is not None and sum(whole) != n_features:
        raise ValueError(message("sizes_sum", sizes=whole, total=sum(whole), n=n_features))
    return whole


def check_measure(measure):
    """Raise `ValueError` unless `measure` is one of `MEASURES`."""
    if measure not in MEASURES:
        raise ValueError(message("measure", measure=measure))


def check_part(part):
    """Raise `ValueError` unless `part` is one of `PARTS`."""
    if part not in PARTS:
        raise ValueError(message("part", part=part))


def check_block(block):
    """Raise `ValueError` unless `block` is one of `BLOCKS`."""
    if block not in BLOCKS:
        raise ValueError(message("block", block=block, known=", ".join(BLOCKS)))


def vector_mask(sizes):
    """Code of every feature: 1 for Q, 2 for K, 3 for V.  Returns uint8 `[F]`, F = sum(sizes).

    >>> vector_mask((2, 1, 1))
    tensor([1, 1, 2, 3], dtype=torch.uint8)
    """
    sizes = check_sizes(sizes)
    return torch.repeat_interleave(torch.tensor([1, 2, 3], dtype=torch.uint8), torch.tensor(sizes))


def matrix_mask(sizes):
    """Code of every pair of features: the outer product of `vector_mask`, strict upper triangle.

    Returns uint8 `[F, F]`; 0 on and below the diagonal, elsewhere a value of `BLOCKS`.

    >>> matrix_mask((2, 1, 1))
    tensor([[0, 1, 2, 3],
            [0, 0, 2, 3],
            [0, 0, 0, 6],
            [0, 0, 0, 0]], dtype=torch.uint8)
    """
    code = vector_mask(sizes)
    return torch.outer(code, code).triu(diagonal=1)


def part_slices(sizes):
    """Where each part lies on the feature axis: `{"Q": slice, "K": slice, "V": slice}`.

    >>> part_slices((4, 2, 2))["K"]
    slice(4, 6, None)
    """
    q, k, v = check_sizes(sizes)
    return {"Q": slice(0, q), "K": slice(q, q + k), "V": slice(q + k, q + k + v)}


def n_block_pairs(sizes):
    """Number of feature pairs in each block, as `{block: int}`.

    >>> n_block_pairs((768, 768, 768))["QQ"], n_block_pairs((768, 768, 768))["QK"]
    (294528, 589824)
    """
    size = dict(zip(PARTS, check_sizes(sizes)))
    return {a + b: size[a] * (size[a] - 1) // 2 if a == b else size[a] * size[b] for a, b in BLOCKS}


def block_values(similarity, sizes, block):
    """The similarities of one block, cut with slices.

    Args:
        similarity: `[F, F]`, features ordered Q, K, V.
        sizes: features of Q, K and V; unequal sizes (grouped-query attention) are fine.
        block: a name in `BLOCKS`.

    Returns:
        1-D tensor: the strict upper triangle for QQ, KK and VV, the whole rectangle for QK, QV
        and KV, both row by row, so the order is that of `similarity[matrix_mask(sizes) == code]`.

    Raises:
        ValueError: not a square matrix, sizes that do not add up, or an unknown block.

    >>> block_values(torch.arange(16).view(4, 4), (2, 1, 1), "QK")
    tensor([2, 6])
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(message("square", came=tuple(similarity.shape)))
    check_block(block)
    check_sizes(sizes, similarity.shape[0])
    at = part_slices(sizes)
    rectangle = similarity[at[block[0]], at[block[1]]]  # [size of first part, size of second part]
    if block[0] != block[1]:
        return rectangle.flatten()
    row, column = torch.triu_indices(*rectangle.shape, offset=1, device=rectangle.device)
    return rectangle[row, column]
