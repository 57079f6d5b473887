"""`helpers.masks`: the coded mask and the cut by slices choose the same pairs."""

import torch

from helpers import BLOCKS, block_values, matrix_mask, n_block_pairs, part_slices, vector_mask
from helpers.masks import check_sizes
from tests.support import oracle


def test_masks_slices_and_block_values_choose_the_same_features():
    assert tuple(BLOCKS) == oracle.BLOCKS  # the order of figures and tables
    for sizes in ((1, 1, 1), (2, 1, 1), (3, 5, 4), (1, 7, 2), (130, 1, 5)):
        code, F = [1] * sizes[0] + [2] * sizes[1] + [3] * sizes[2], sum(sizes)
        mask, at = matrix_mask(sizes), part_slices(sizes)
        assert vector_mask(sizes).tolist() == code and vector_mask(sizes).dtype == mask.dtype == torch.uint8
        assert [code[at[part]] for part in "QKV"] == [[1] * sizes[0], [2] * sizes[1], [3] * sizes[2]]
        assert mask.tolist() == [[code[i] * code[j] if i < j else 0 for j in range(F)] for i in range(F)]
        similarity, n_pairs = torch.arange(F * F, dtype=torch.float64).view(F, F), n_block_pairs(sizes)
        for block in oracle.BLOCKS:
            values = block_values(similarity, sizes, block)
            assert torch.equal(values, similarity[mask == BLOCKS[block]]), (sizes, block)
            assert values.tolist() == oracle.block(similarity.numpy(), sizes, block).tolist(), (sizes, block)
            assert n_pairs[block] == len(values)
        assert check_sizes(torch.tensor(sizes), F) == check_sizes(list(sizes)) == sizes
