"""`helpers.masks`: the coded mask and the cut by slices choose the same pairs."""

from itertools import combinations_with_replacement

import pytest
import torch

from helpers import BLOCKS, block_values, matrix_mask, n_block_pairs, part_slices, vector_mask
from helpers.masks import check_sizes
from tests.support import oracle

SIZES = ((1, 1, 1), (2, 1, 1), (4, 2, 2), (3, 5, 4), (1, 7, 2), (36, 12, 12), (130, 1, 5))
sizes_of_all_kinds = pytest.mark.parametrize("sizes", SIZES, ids=str)


def products(codes):
    return [a * b for a, b in combinations_with_replacement(codes, 2)]


def test_codes_1_2_3_name_six_blocks_and_codes_1_2_3_4_confuse_two_of_ten():
    assert len(set(products((1, 2, 3)))) == len(products((1, 2, 3))) == 6
    assert len(products((1, 2, 3, 4))) == 10
    assert len(set(products((1, 2, 3, 4)))) == 9  # 1 x 4 = 2 x 2


def test_the_code_of_a_block_is_the_product_of_the_codes_of_its_parts():
    code = {"Q": 1, "K": 2, "V": 3}
    assert BLOCKS == {block: code[block[0]] * code[block[1]] for block in oracle.BLOCKS}
    assert tuple(BLOCKS) == oracle.BLOCKS  # the order of figures and tables


@sizes_of_all_kinds
def test_vector_mask_codes_every_feature_by_its_part(sizes):
    mask = vector_mask(sizes)
    assert mask.tolist() == [1] * sizes[0] + [2] * sizes[1] + [3] * sizes[2]
    assert mask.dtype == torch.uint8


@sizes_of_all_kinds
def test_matrix_mask_codes_every_pair_once_above_the_diagonal(sizes):
    code = [1] * sizes[0] + [2] * sizes[1] + [3] * sizes[2]
    F = sum(sizes)
    mask = matrix_mask(sizes)
    assert mask.tolist() == [[code[i] * code[j] if i < j else 0 for j in range(F)] for i in range(F)]
    assert mask.dtype == torch.uint8


@sizes_of_all_kinds
def test_part_slices_lie_side_by_side_and_cover_every_feature(sizes):
    code = vector_mask(sizes)
    at = part_slices(sizes)
    assert list(at) == ["Q", "K", "V"]
    assert [code[at[part]].unique().tolist() for part in at] == [[1], [2], [3]]
    assert torch.equal(torch.cat([code[at[part]] for part in at]), code)


@sizes_of_all_kinds
@pytest.mark.parametrize("block", oracle.BLOCKS)
def test_block_values_are_those_that_the_mask_selects_in_the_same_order(sizes, block):
    F = sum(sizes)
    similarity = torch.arange(F * F, dtype=torch.float64).view(F, F)
    values = block_values(similarity, sizes, block)
    assert torch.equal(values, similarity[matrix_mask(sizes) == BLOCKS[block]])
    assert values.tolist() == oracle.block(similarity.numpy(), sizes, block).tolist()


@sizes_of_all_kinds
def test_n_block_pairs_counts_what_block_values_returns(sizes):
    similarity = torch.zeros(sum(sizes), sum(sizes))
    n_pairs = n_block_pairs(sizes)
    assert tuple(n_pairs) == oracle.BLOCKS
    assert n_pairs == {block: len(block_values(similarity, sizes, block)) for block in BLOCKS}
    assert sum(n_pairs.values()) == sum(sizes) * (sum(sizes) - 1) // 2


def test_the_blocks_of_gpt2_small_have_294528_and_589824_pairs():
    n_pairs = n_block_pairs((768, 768, 768))
    assert [n_pairs[block] for block in ("QQ", "KK", "VV")] == [294528] * 3
    assert [n_pairs[block] for block in ("QK", "QV", "KV")] == [589824] * 3
    mask = matrix_mask((768, 768, 768))
    assert {block: int((mask == code).sum()) for block, code in BLOCKS.items()} == n_pairs


def test_block_values_keep_dtype_and_nan():
    similarity = torch.tensor([[1, float("nan"), 0.5], [0, 1, 0.25], [0, 0, 1]], dtype=torch.float16)
    values = block_values(similarity, (1, 1, 1), "QK")
    assert values.dtype == torch.float16 and values.shape == (1,) and values.isnan().all()


def test_sizes_are_returned_as_a_tuple_of_ints():
    assert check_sizes(torch.tensor([3, 2, 1]), 6) == (3, 2, 1)
    assert check_sizes([3, 2, 1]) == (3, 2, 1)


@pytest.mark.parametrize("sizes", ((), (6,), (3, 3), (2, 2, 1, 1), (6, 0, 0), (7, -2, 1)), ids=str)
@pytest.mark.parametrize("function", (vector_mask, matrix_mask, part_slices))
def test_sizes_that_are_not_three_positive_numbers_are_refused(function, sizes):
    with pytest.raises(ValueError, match=r"three whole positive numbers, got \(.*\): pass qkv\.sizes"):
        function(sizes)


@pytest.mark.parametrize("block", ("KQ", "VK", "qq", "Q", "", "Q K"))
def test_an_unknown_block_is_refused_with_the_known_ones(block):
    with pytest.raises(ValueError, match=rf"unknown block '{block}': expected one of QQ, KK, VV, QK, QV, KV"):
        block_values(torch.zeros(4, 4), (2, 1, 1), block)


@pytest.mark.parametrize("shape", ((16,), (3, 4), (2, 4, 4)), ids=str)
def test_what_is_not_one_square_matrix_is_refused(shape):
    with pytest.raises(ValueError, match=r"\[feature, feature\], got \(.*\): choose one layer first"):
        block_values(torch.zeros(shape), (2, 1, 1), "QQ")


def test_sizes_that_do_not_add_up_to_the_matrix_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 1, 1\) add up to 4, but there are 5 features.*qkv\.sizes"):
        block_values(torch.zeros(5, 5), (2, 1, 1), "QQ")


def test_pairs_of_two_parts_or_of_half_a_feature_are_refused():
    with pytest.raises(ValueError, match="three whole positive numbers"):
        n_block_pairs((768, 768))
    with pytest.raises(ValueError, match=r"three whole positive numbers, got \(4\.5, 2, 2\)"):
        n_block_pairs((4.5, 2, 2))
