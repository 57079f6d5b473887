"""The numerical contract of `helpers.similarity` where it is exact; test_fuzz.py has tensors of every kind."""

import warnings
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from helpers import BLOCKS, block_histograms, cosine_similarity, pearson_correlation
from helpers.similarity import FewSamplesWarning
from tests.support import oracle
from tests.support.histograms import (
    KERNELS,
    MATRIX,
    MEASURES,
    STATISTICS,
    assert_matches_oracle,
    assert_matrices_match_oracle,
    assert_same_result,
    every_kernel,
    features,
    through,
)
from tests.support.refusal import assert_refused

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def test_bins_are_equal_from_minus_one_to_one():
    """Their numbers lie around what a compiled kernel takes, the thresholds on either side of what a similarity is."""
    x = features(54, 45)
    x[:, [3, 30]] = torch.tensor([0.0, 5.0])
    assert_same_result(block_histograms(x, (20, 11, 14), bins=20.0), block_histograms(x, (20, 11, 14), bins=20))
    cases = ((1, -0.5), (2, 0.9), (7, 0.0), (100, -0.5), (100, 1.0), (127, 2.0), (128, 0.9), (129, 0.9), (1000, 0.9))
    for bins, threshold in cases:
        for histograms in assert_matches_oracle(x, (20, 11, 14), bins=bins, threshold=threshold).values():
            places = [-1 + k / bins for k in range(2 * bins + 1)]
            for found, expected in ((histograms.edges, places[::2]), (histograms["KV"].centers, places[1::2])):
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)
            assert histograms.edges.dtype == torch.float64 and torch.equal(histograms["KV"].edges, histograms.edges)


def test_threshold_is_for_the_absolute_value_and_exclusive():
    x = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    for result in every_kernel(x, (1, 1, 1), threshold=0.0):
        for histograms in result.values():
            assert float(histograms["QV"].share_above) == 1  # -1
            assert float(histograms["QK"].share_above) == 0  # 0


def test_float64_far_from_one_neither_overflows_nor_vanishes():
    x = features(54, 30, dtype=torch.float64)
    for exponent in (300, -300):
        scaled = x * torch.tensor([10.0**exponent, 1.0], dtype=torch.float64).repeat(15)
        for matrix in MATRIX.values():
            np.testing.assert_allclose(matrix(scaled), matrix(x), rtol=0, atol=1e-12)


@each_dtype
def test_collinear_features_lie_in_the_outer_bins(dtype):
    for n in (3, 54, 301):
        generator = torch.Generator().manual_seed(n)
        base = torch.randint(-6, 7, (n, 1), generator=generator)
        base[:2] = torch.tensor([[5], [-3]])
        sign = torch.randint(0, 2, (90,), generator=generator) * 2 - 1
        x = (base * sign * torch.randint(1, 13, (90,), generator=generator)).to(dtype)  # up to 72: exact
        for result in every_kernel(x, (50, 30, 10), threshold=1.0):
            for measure, (block, (i, j)) in product(MEASURES, oracle.pairs((50, 30, 10)).items()):
                n_positive, histogram = int((sign[i] == sign[j]).sum()), result[measure][block]
                assert (int(histogram.counts[-1]), int(histogram.counts[0])) == (n_positive, i.size - n_positive)
                assert abs(float(histogram.mean)) <= 1 and float(histogram.share_above) == 0  # nothing is beyond 1
        assert_matrices_match_oracle(x)


@each_dtype
def test_constant_and_zero_features_are_undefined(dtype):
    places, one_ulp = [2, 13, 20, 29], 1 + torch.finfo(dtype).eps  # one in Q, one in K, two in V
    odd = (torch.arange(54) % 3 == 1)[:, None]
    for values, factor in (((0.1, -1.5, 1.0, 1024.0), 1), ((1.25, -1.5, 1.0, 1024.0), one_ulp), (4 * (0,), 1)):
        values, x = torch.tensor(values, dtype=dtype), features(54, 30, dtype=dtype)
        x[:, places] = torch.where(odd, values * factor, values)
        for measure, similarity in oracle.SIMILARITY.items():  # the oracle knows them too
            undefined = places if measure == "correlation" or not values.any() else []
            assert np.isnan(similarity(x).diagonal()).nonzero()[0].tolist() == undefined
        assert_matches_oracle(x, (12, 6, 12))
        assert_matrices_match_oracle(x)


@each_dtype
def test_spread_is_rounding_or_variation_by_its_size(dtype):
    for value in (1 / 3, 12345.678) if dtype.itemsize > 2 else ():  # a mean that is rounded
        x = features(300, 6, dtype=dtype)
        x[:, 3] = value
        assert pearson_correlation(x)[3].isnan().all()
        assert all(int(result["correlation"]["QK"].n_undefined) == 2 for result in every_kernel(x, (2, 2, 2)))
    x = features(54, 6, dtype=torch.float64, offset=0.0)
    x[:, 1] = 1 + 40 * torch.finfo(dtype).eps * x[:, 1] / x[:, 1].std()
    x[:, 2] = 20 + x[:, 2]
    x[:, 4] *= 1e-30 if dtype != torch.float16 else 1
    x = x.to(dtype)
    for result in every_kernel(x, (2, 2, 2)):
        assert all(int(result[m][block].n_undefined) == 0 for m in MEASURES for block in oracle.BLOCKS)
    assert_matrices_match_oracle(x, 1e-6 if dtype != torch.float64 else 1e-2)  # the oracle rounds this spread too


def test_shapes_and_dtypes_of_the_result():
    for batch in ((), (2, 3)):
        for result in every_kernel(features(*batch, 54, 9), (4, 3, 2), bins=20, threshold=0.8):
            assert list(result) == list(MEASURES)
            for measure, histograms in result.items():
                assert (histograms.measure, histograms.n_samples, histograms.threshold) == (measure, 54, 0.8)
                assert [block for block, _ in histograms.items()] == list(BLOCKS)
                for (_, histogram), name in product(histograms.items(), STATISTICS):
                    value, whole = getattr(histogram, name), name in ("counts", "n_pairs", "n_undefined")
                    assert value.shape == (*batch, 20) if name == "counts" else value.shape == batch
                    assert value.dtype == (torch.int64 if whole else torch.float64)


def test_one_measure_or_layer_alone_equals_itself_beside_the_others():
    x = features(3, 54, 45)
    x[0, :, 3], x[1, :, 30], x[2] = 0, 7, torch.linspace(0.5, 2, 45)  # as in layer 0 under rotary positions
    result = assert_matches_oracle(x, (20, 11, 14))
    assert [sum(int(h.n_undefined[2]) for _, h in result[m].items()) for m in MEASURES] == [0, 45 * 44 // 2]
    for kernel in KERNELS:
        with through(kernel):
            together = block_histograms(x, [20, 11, 14])
            for measure in MEASURES:
                for given_as in (measure, (measure,), [measure, measure]):
                    alone = block_histograms(x, (20, 11, 14), measures=given_as)
                    assert list(alone) == [measure]
                    assert_same_result(together | alone, together)
            assert_same_result(block_histograms(x, (20, 11, 14), measures=MEASURES[::-1]), together)


CALLS = (cosine_similarity, pearson_correlation, lambda x: block_histograms(x, (2, 2, 2)))


def test_nan_and_infinity_are_refused_with_their_place():
    message = r"2 NaN or infinite values of 648.*index \(1, 7, 3\).*torch\.float32"
    for dtype, value, call in product(DTYPES, (float("nan"), float("inf"), -float("inf")), CALLS):
        x = features(2, 54, 6, dtype=dtype)
        x[1, 7, 3] = x[1, 9, 0] = value
        assert_refused(partial(call, x), ValueError, message)


def test_one_or_two_samples_warn_and_three_do_not():
    with pytest.warns(UserWarning, match=r"1 token.*cosine.*by construction.*more sentences"):
        assert cosine_similarity(torch.tensor([[1.0, -2.0, 3.0]])).tolist() == [[1, -1, 1], [-1, 1, -1], [1, -1, 1]]
    for call in CALLS[1:]:
        with pytest.warns(FewSamplesWarning, match=r"2 token.*correlation.*by construction") as caught:
            call(features(2, 6))
        assert len(caught) == 1
        assert caught[0].filename in (__file__, torch.utils._contextlib.__file__)  # the caller's line
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cosine_similarity(features(2, 6))
        block_histograms(features(2, 6), (2, 2, 2), measures="cosine")
        pearson_correlation(features(3, 6))


def test_what_is_no_tensor_of_real_numbers_is_refused():
    for call in CALLS:
        for x in (np.zeros((54, 6)), [[0.0] * 6] * 54, None):
            message = rf"expected a torch\.Tensor.*got {type(x).__name__}.*torch\.as_tensor"
            assert_refused(partial(call, x), TypeError, message)
        for dtype in (torch.bool, torch.complex64, torch.complex128):
            message = rf"expected real numbers, got {dtype}"
            assert_refused(partial(call, torch.ones(54, 6).to(dtype)), TypeError, message)
