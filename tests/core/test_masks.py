"""`helpers.masks`: the coded mask and the cut by slices choose the same pairs."""

from functools import partial

import torch

from helpers import BLOCKS, block_values, matrix_mask, n_block_pairs, part_slices, vector_mask
from helpers.masks import check_sizes
from tests.support import oracle
from tests.support.refusal import assert_refused


def test_the_code_of_a_block_is_the_product_of_the_codes_of_its_parts():
    code = {"Q": 1, "K": 2, "V": 3}
    assert BLOCKS == {block: code[block[0]] * code[block[1]] for block in oracle.BLOCKS}
    assert tuple(BLOCKS) == oracle.BLOCKS  # the order of figures and tables


def test_masks_slices_and_block_values_choose_the_same_features():
    for sizes in ((1, 1, 1), (2, 1, 1), (3, 5, 4), (1, 7, 2), (130, 1, 5)):
        code, F = [1] * sizes[0] + [2] * sizes[1] + [3] * sizes[2], sum(sizes)
        mask, at = vector_mask(sizes), part_slices(sizes)
        assert mask.tolist() == code and mask.dtype == torch.uint8
        assert [code[at[part]] for part in "QKV"] == [[1] * sizes[0], [2] * sizes[1], [3] * sizes[2]]
        mask = matrix_mask(sizes)
        assert mask.tolist() == [[code[i] * code[j] if i < j else 0 for j in range(F)] for i in range(F)]
        assert mask.dtype == torch.uint8
        similarity, n_pairs = torch.arange(F * F, dtype=torch.float64).view(F, F), n_block_pairs(sizes)
        for block in oracle.BLOCKS:
            values = block_values(similarity, sizes, block)
            assert torch.equal(values, similarity[mask == BLOCKS[block]]), (sizes, block)
            assert values.tolist() == oracle.block(similarity.numpy(), sizes, block).tolist(), (sizes, block)
            assert n_pairs[block] == len(values)
        assert check_sizes(torch.tensor(sizes), F) == check_sizes(list(sizes)) == sizes


def test_sizes_that_are_not_three_positive_numbers_are_refused():
    for sizes in ((), (6,), (3, 3), (2, 2, 1, 1), (6, 0, 0), (7, -2, 1), (4.5, 2, 2)):
        for function in (vector_mask, matrix_mask, part_slices, n_block_pairs):
            message = r"three whole positive numbers, got \(.*\): pass qkv\.sizes"
            assert_refused(partial(function, sizes), ValueError, message)


def test_what_is_no_block_of_one_matrix_is_refused():
    for block in ("KQ", "VK", "qq", "Q", "", "Q K"):
        message = rf"unknown block '{block}': expected one of QQ, KK, VV, QK, QV, KV"
        assert_refused(partial(block_values, torch.zeros(4, 4), (2, 1, 1), block), ValueError, message)
    for shape in ((16,), (3, 4), (2, 4, 4)):
        message = r"\[feature, feature\], got \(.*\): choose one layer first"
        assert_refused(partial(block_values, torch.zeros(shape), (2, 1, 1), "QQ"), ValueError, message)
    message = r"\(2, 1, 1\) add up to 4, but there are 5 features.*qkv\.sizes"
    assert_refused(partial(block_values, torch.zeros(5, 5), (2, 1, 1), "QQ"), ValueError, message)
