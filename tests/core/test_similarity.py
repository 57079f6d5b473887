"""The numerical contract of `helpers.similarity` where it is exact; test_fuzz.py has tensors of every kind."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch

from helpers import BLOCKS, block_histograms, cosine_similarity, pearson_correlation
from helpers.similarity import FewSamplesWarning
from tests.support import oracle
from tests.support.histograms import (
    KERNELS,
    MEASURES,
    STATISTICS,
    assert_matches_oracle,
    assert_same_result,
    every_kernel,
    features,
    through,
)
from tests.support.refusal import assert_refused

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MATRIX = {"cosine": cosine_similarity, "correlation": pearson_correlation}
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def test_bins_are_equal_from_minus_one_to_one():
    x = features(54, 45)
    assert_same_result(block_histograms(x, (20, 11, 14), bins=20.0), block_histograms(x, (20, 11, 14), bins=20))
    for bins in (1, 2, 7, 100, 1000):
        result = assert_matches_oracle(x, (20, 11, 14), bins=bins)
        for measure in MEASURES:
            edges = result[measure].edges
            assert edges.dtype == torch.float64
            np.testing.assert_allclose(edges, [-1 + 2 * k / bins for k in range(bins + 1)], rtol=0, atol=1e-15)
            assert torch.equal(result[measure]["KV"].edges, edges)
            centers = [-1 + (2 * k + 1) / bins for k in range(bins)]
            np.testing.assert_allclose(result[measure]["KV"].centers, centers, rtol=0, atol=1e-15)


def test_threshold_is_for_the_absolute_value_and_exclusive():
    x = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    for result in every_kernel(x, (1, 1, 1), threshold=0.0):
        for histograms in result.values():
            assert float(histograms["QV"].share_above) == 1  # -1
            assert float(histograms["QK"].share_above) == 0  # 0


def test_float64_far_from_one_neither_overflows_nor_vanishes():
    x = features(54, 30, dtype=torch.float64)
    for exponent in (300, -300):
        scaled = x.clone()
        scaled[:, ::2] *= 10.0**exponent
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
            for measure in MEASURES:
                for block, (i, j) in oracle.pairs((50, 30, 10)).items():
                    n_positive = int((sign[i] == sign[j]).sum())
                    histogram = result[measure][block]
                    assert (int(histogram.counts[-1]), int(histogram.counts[0])) == (n_positive, i.size - n_positive)
                    assert abs(float(histogram.mean)) <= 1
                    assert float(histogram.share_above) == 0  # nothing is beyond 1
        for matrix in MATRIX.values():
            assert matrix(x).abs().max() <= 1
            np.testing.assert_allclose(matrix(x), torch.outer(sign, sign), rtol=0, atol=1e-6)


@each_dtype
def test_constant_and_zero_features_are_undefined(dtype):
    places, eps = torch.tensor([2, 13, 20, 29]), torch.finfo(dtype).eps  # one in Q, one in K, two in V
    odd = (torch.arange(54) % 3 == 1)[:, None]
    per_block = {"QQ": 66 - 55, "KK": 15 - 10, "VV": 66 - 45, "QK": 72 - 55, "QV": 144 - 110, "KV": 72 - 50}
    for kind, values in (
        ("exact", (0.1, -1.5, 1.0, 1024.0)),
        ("one ulp", (1.25, -1.5, 1.0, 1024.0)),
        ("zero", 4 * (0,)),
    ):
        values, x = torch.tensor(values, dtype=dtype), features(54, 30, dtype=dtype)
        x[:, places] = torch.where(odd, values * (1 + eps), values) if kind == "one ulp" else values
        undefined = torch.zeros(30, 30, dtype=torch.bool)
        undefined[places, :] = undefined[:, places] = True
        nothing = torch.zeros_like(undefined)
        result = assert_matches_oracle(x, (12, 6, 12))
        for measure in MEASURES:
            is_undefined = measure == "correlation" or kind == "zero"
            matrix = MATRIX[measure](x)
            assert torch.equal(matrix.isnan(), undefined if is_undefined else nothing), (kind, measure)
            found = {block: int(result[measure][block].n_undefined) for block in oracle.BLOCKS}
            assert found == (per_block if is_undefined else dict.fromkeys(per_block, 0)), (kind, measure)
            np.testing.assert_allclose(matrix, oracle.SIMILARITY[measure](x), rtol=0, atol=1e-6)


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
    for measure in MEASURES:
        atol = 1e-6 if dtype != torch.float64 else 1e-2  # the float64 oracle rounds this spread too
        np.testing.assert_allclose(MATRIX[measure](x), oracle.SIMILARITY[measure](x), rtol=0, atol=atol)


def test_constant_layer_leaves_the_layer_beside_it_alone():
    x = features(3, 54, 30)
    x[1] = torch.linspace(0.5, 2, 30)  # every sample the same, as in layer 0 under rotary positions
    result = assert_matches_oracle(x, (12, 6, 12))
    alone = block_histograms(x[2], (12, 6, 12))
    for block in oracle.BLOCKS:
        histogram = result["correlation"][block]
        assert int(histogram.counts[1].sum()) == 0
        assert int(histogram.n_undefined[1]) == int(histogram.n_pairs[1])
        assert int(result["cosine"][block].n_undefined[1]) == 0
        assert histogram.mean.isnan().tolist() == [False, True, False]
        assert torch.equal(histogram.counts[2], alone["correlation"][block].counts)


def test_shapes_and_dtypes_of_the_result():
    for batch in ((), (2, 3)):
        for result in every_kernel(features(*batch, 54, 9), (4, 3, 2), bins=20, threshold=0.8):
            assert list(result) == list(MEASURES)
            for measure, histograms in result.items():
                assert (histograms.measure, histograms.n_samples, histograms.threshold) == (measure, 54, 0.8)
                assert [block for block, _ in histograms.items()] == list(BLOCKS)
                for block, pairs in zip(oracle.BLOCKS, (6, 3, 1, 12, 8, 6), strict=True):
                    histogram = histograms[block]
                    assert histogram.counts.shape == (*batch, 20) and histogram.counts.dtype == torch.int64
                    for name in STATISTICS[1:]:
                        value = getattr(histogram, name)
                        dtype = torch.int64 if name.startswith("n_") else torch.float64
                        assert value.shape == batch and value.dtype == dtype
                    assert (histogram.n_pairs == pairs).all()


def test_one_measure_alone_equals_itself_beside_the_other():
    x = features(2, 54, 45)
    x[0, :, 3], x[1, :, 30] = 0, 7
    for kernel in KERNELS:
        with through(kernel):
            together = block_histograms(x, [20, 11, 14])
            for measure in MEASURES:
                for given_as in (measure, (measure,), [measure, measure]):
                    alone = block_histograms(x, (20, 11, 14), measures=given_as)
                    assert list(alone) == [measure]
                    assert_same_result(alone | {m: together[m] for m in MEASURES if m != measure}, together)
            assert_same_result(block_histograms(x, (20, 11, 14), measures=MEASURES[::-1]), together)


# what is refused, and what is warned of

CALLS = (cosine_similarity, pearson_correlation, lambda x: block_histograms(x, (2, 2, 2)))


def test_nan_and_infinity_are_refused_with_their_place():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for value in (float("nan"), float("inf"), -float("inf")):
            x = features(2, 54, 6, dtype=dtype)
            x[1, 7, 3] = x[1, 9, 0] = value
            for call in CALLS:
                message = r"2 NaN or infinite values of 648.*index \(1, 7, 3\).*torch\.float32"
                assert_refused(partial(call, x), ValueError, message)


def test_one_sample_has_a_cosine_and_warns():
    for call in CALLS[1:]:
        message = "at least two tokens, got one.*more sentences.*cosine only"
        assert_refused(partial(call, torch.ones(1, 6)), ValueError, message)
    x = torch.tensor([[1.0, -2.0, 3.0]])
    with pytest.warns(UserWarning, match=r"1 token.*cosine.*by construction.*more sentences"):
        assert cosine_similarity(x).tolist() == [[1, -1, 1], [-1, 1, -1], [1, -1, 1]]


def test_two_samples_warn_about_the_correlation_and_three_do_not():
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


def test_what_cannot_be_measured_is_refused():
    for call in CALLS:
        for shape in ((), (6,), (0, 6), (54, 0), (0, 54, 6)):
            message = r"expected x \[\.\.\., sample, feature\].*got \(.*\): stack one vector"
            assert_refused(partial(call, torch.zeros(shape)), ValueError, message)
        for x in (np.zeros((54, 6)), [[0.0] * 6] * 54, None):
            message = rf"expected a torch\.Tensor.*got {type(x).__name__}.*torch\.as_tensor"
            assert_refused(partial(call, x), TypeError, message)
        for dtype in (torch.bool, torch.complex64, torch.complex128):
            message = rf"expected real numbers, got {dtype}"
            assert_refused(partial(call, torch.ones(54, 6).to(dtype)), TypeError, message)


def test_sizes_measures_and_bins_that_make_no_sense_are_refused():
    def refused(message, sizes=(2, 2, 2), **options):
        assert_refused(partial(block_histograms, features(54, 6), sizes, **options), ValueError, message)

    for sizes, total in (((2, 2, 1), 5), ((6, 6, 6), 18)):
        refused(rf"add up to {total}, but there are 6 features.*pass.*qkv\.sizes", sizes)
    for measures in ("spearman", ("cosine", "spearman"), ("cosine", "Correlation"), ()):
        refused("unknown measure .*: expected 'cosine' or 'correlation'", measures=measures)
    for bins in (0, -1, 2.5):
        refused(rf"whole number of bins, at least 1, got {bins}", bins=bins)
