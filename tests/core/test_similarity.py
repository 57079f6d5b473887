"""The numerical contract of `helpers.similarity` against the float64 oracle, through every kernel of the CPU."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers import BLOCKS, block_histograms, cosine_similarity, pearson_correlation
from helpers.kernels import plain
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

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MATRIX = {"cosine": cosine_similarity, "correlation": pearson_correlation}
property_test = settings(max_examples=60, deadline=None, derandomize=True)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
two_samples = pytest.mark.filterwarnings("ignore:with 2 token")


@two_samples
@each_dtype
def test_histograms_match_the_oracle_for_every_size_and_n(dtype, monkeypatch):
    monkeypatch.setattr(plain, "TILE", 64)  # the width of a panel of the compiled kernel, too
    for sizes in ((1, 1, 1), (2, 1, 3), (130, 1, 5), (63, 64, 65), (3, 129, 2)):
        assert_matches_oracle(features(54, sum(sizes), dtype=dtype), sizes)
    for n in (2, 3, 300):
        transposed = features(n, 45, dtype=dtype, seed=n).T.contiguous().T
        before = transposed.clone()
        assert_matches_oracle(transposed, (20, 11, 14))
        assert torch.equal(transposed, before)


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


@property_test
@given(
    values=hnp.arrays(
        np.int64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=3, max_side=9), elements=st.integers(-3, 3)
    ),
    dtype=st.sampled_from(DTYPES),
    bins=st.integers(1, 12),
    data=st.data(),
)
def test_histograms_match_the_oracle_on_small_integers(values, dtype, bins, data):
    """Many zero, constant and collinear features, and similarities that lie exactly on an edge."""
    F = values.shape[1]
    q = data.draw(st.integers(1, F - 2))
    k = data.draw(st.integers(1, F - 1 - q))
    assert_matches_oracle(torch.tensor(values, dtype=dtype), (q, k, F - q - k), bins=bins, threshold=0.45)


def test_large_offsets_cost_no_digits():
    for offset in (0.0, 30.0, 1000.0):
        x = features(54, 90, offset=offset)
        for measure in MEASURES:
            np.testing.assert_allclose(MATRIX[measure](x), oracle.SIMILARITY[measure](x), rtol=0, atol=1e-6)
    x = features(54, 60, dtype=torch.float64, offset=1e5)
    np.testing.assert_allclose(pearson_correlation(x), oracle.correlation(x), rtol=0, atol=1e-9)
    for n in (54, 300):
        x = features(n, 150, offset=1.0)
        assert_matches_oracle(x + 1000 * x.std(dim=0), (50, 60, 40))  # |mean| / standard deviation = 1000


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


@each_dtype
def test_every_leading_index_is_treated_on_its_own(dtype, monkeypatch):
    monkeypatch.setattr(plain, "TILE", 30)
    sizes = (32, 20, 7)
    for batch in ((1,), (2, 3)):
        x = features(*batch, 54, sum(sizes), dtype=dtype)
        assert_matches_oracle(x, sizes)
        for measure in MEASURES:
            matrix = MATRIX[measure](x)
            assert matrix.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert matrix.shape == (*batch, sum(sizes), sum(sizes))
            for layer in np.ndindex(*batch):
                atol = 1e-12 if dtype == torch.float64 else 1e-6
                np.testing.assert_allclose(matrix[layer], oracle.SIMILARITY[measure](x[layer]), rtol=0, atol=atol)


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


def test_integers_give_what_the_same_numbers_give_in_float64():
    for dtype in (torch.uint8, torch.int8, torch.int32, torch.int64):
        low = 0 if dtype == torch.uint8 else -100
        x = torch.randint(low, 100, (54, 20), generator=torch.Generator().manual_seed(0)).to(dtype)
        assert_same_result(assert_matches_oracle(x, (8, 6, 6)), block_histograms(x.double(), (8, 6, 6)))
        for matrix in MATRIX.values():
            assert matrix(x).dtype == torch.float64
            assert torch.equal(matrix(x), matrix(x.double()))


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
