"""The numerical contract of `helpers.similarity` (docs: design notes), against `oracle.py`, through every CPU kernel."""

import warnings
from importlib import util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.profiler import ProfilerActivity, profile

from helpers import BLOCKS, block_histograms, cosine_similarity, pearson_correlation
from helpers.masks import MEASURES
from helpers.similarity import TILE
from tests.support import oracle

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SIZES = (
    (1, 1, 1),
    (2, 1, 3),
    (130, 1, 5),
    (TILE - 1, TILE, TILE + 1),
    (3, 2 * TILE + 1, 2),
    (TILE, TILE, TILE),
    (576, 192, 192),
)
MATRIX = {"cosine": cosine_similarity, "correlation": pearson_correlation}
property_test = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(scope="module", params=("torch", "numba"), autouse=True)
def kernel(request):
    """Every test of this file goes through both kernels."""
    if request.param == "numba" and util.find_spec("numba") is None:
        pytest.skip("numba is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QKV_KERNEL", request.param)
        yield request.param


two_tokens = pytest.mark.filterwarnings("ignore:with 2 token")


def features(*shape, dtype=torch.float32, offset=3.0, seed=0):
    """`[..., sample, F]`: standard deviation 1 times a scale, mean up to `offset` standard deviations.

    Part of each feature is common to all of them, so that the correlations spread over [-1, 1]; the
    standard deviation is exact, so that no feature comes close to constant, however few the tokens.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    *batch, n, F = shape
    x = normal(*shape) + normal(*batch, n, 1) * normal(*batch, 1, F)  # [..., sample, F]
    x = x - x.mean(dim=-2, keepdim=True)
    x = x / x.square().mean(dim=-2, keepdim=True).sqrt()
    mean = offset * (2 * torch.rand(*batch, 1, F, generator=generator, dtype=torch.float64) - 1)
    return ((x + mean) * normal(*batch, 1, F).exp()).to(dtype)


def assert_histogram_matches(histogram, values, bins, threshold):
    """One block of one layer against the oracle's values of the same pairs (NaN = undefined)."""
    counts = oracle.to_numpy(histogram.counts)
    defined = values[~np.isnan(values)]
    edges = np.linspace(-1, 1, bins + 1)
    assert int(histogram.n_pairs) == values.size
    assert int(histogram.n_undefined) == values.size - defined.size
    assert counts.sum() + int(histogram.n_undefined) == values.size

    off = np.cumsum(counts) - np.cumsum(oracle.histogram(values, bins))  # at the right edge of every bin
    allowed = oracle.n_near(values, edges[1:])
    allowed[-1] = 0
    assert (np.abs(off) <= allowed).all(), f"edges {edges[1:][np.abs(off) > allowed]}"

    if defined.size == 0:
        assert all(bool(v.isnan()) for v in (histogram.mean, histogram.std, histogram.share_above))
        return
    np.testing.assert_allclose(float(histogram.mean), defined.mean(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(float(histogram.std) ** 2, defined.var(), rtol=0, atol=1e-6)
    off = round(float(histogram.share_above) * defined.size) - (np.abs(defined) > threshold).sum()
    assert abs(off) <= oracle.n_near(defined, [-threshold, threshold]).sum()


def assert_matches_oracle(x, sizes, *, bins=100, threshold=0.9, measures=MEASURES):
    result = block_histograms(x, sizes, measures=measures, bins=bins, threshold=threshold)
    assert set(result) == set(measures)
    for layer in np.ndindex(*x.shape[:-2]):
        for measure in measures:
            similarity = oracle.SIMILARITY[measure](x[layer])
            for block in oracle.BLOCKS:
                histogram = at(result[measure][block], layer)
                assert_histogram_matches(histogram, oracle.block(similarity, sizes, block), bins, threshold)
    return result


def at(histogram, layer):
    """The histogram of one leading index."""
    fields = {name: getattr(histogram, name) for name in STATISTICS}
    return type(histogram)(**{name: value[layer] for name, value in fields.items()}, edges=histogram.edges)


STATISTICS = ("counts", "mean", "std", "share_above", "n_pairs", "n_undefined")


# counts


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_histograms_match_the_oracle_for_every_dtype_and_size(dtype, sizes):
    assert_matches_oracle(features(54, sum(sizes), dtype=dtype), sizes)


@two_tokens
@pytest.mark.parametrize("n", (2, 3, 54, 300))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_histograms_match_the_oracle_for_every_number_of_tokens(dtype, n):
    assert_matches_oracle(features(n, 45, dtype=dtype, seed=n), (20, 11, 14))


@pytest.mark.parametrize("bins", (1, 2, 7, 100, 1000))
def test_bins_sets_the_number_of_equal_bins(bins):
    result = assert_matches_oracle(features(54, 45), (20, 11, 14), bins=bins)
    for measure in MEASURES:
        edges = result[measure].edges
        assert edges.dtype == torch.float64
        np.testing.assert_allclose(edges.numpy(), [-1 + 2 * k / bins for k in range(bins + 1)], rtol=0, atol=1e-15)
        assert torch.equal(result[measure]["KV"].edges, edges)


def test_a_whole_number_of_bins_may_be_a_float():
    x = features(54, 10)
    from_float = block_histograms(x, (4, 3, 3), bins=20.0)["cosine"]["QQ"]
    assert torch.equal(from_float.counts, block_histograms(x, (4, 3, 3), bins=20)["cosine"]["QQ"].counts)
    assert from_float.edges.shape == (21,)


@pytest.mark.parametrize("threshold", (0.0, 0.25, 0.9, 0.999))
def test_threshold_sets_what_share_above_counts(threshold):
    result = assert_matches_oracle(features(54, 45), (20, 11, 14), threshold=threshold)
    assert result["cosine"].threshold == threshold


def test_threshold_is_compared_with_the_absolute_value_and_is_exclusive():
    x = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    histograms = block_histograms(x, (1, 1, 1), measures="cosine", threshold=0.0)["cosine"]
    assert float(histograms["QV"].share_above) == 1  # cosine -1
    assert float(histograms["QK"].share_above) == 0  # cosine 0


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


# offsets


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("offset", (0.0, 1.0, 30.0, 1000.0))
def test_large_offsets_in_float32_cost_no_digits(measure, offset):
    x = features(54, 90, offset=offset)
    np.testing.assert_allclose(MATRIX[measure](x), oracle.SIMILARITY[measure](x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n", (54, 300))
def test_large_offsets_in_float32_leave_the_correlation_histogram_right(n):
    x = features(n, 300, offset=1.0)
    x = x + 1000 * x.std(dim=0)  # |mean| / standard deviation = 1000
    assert_matches_oracle(x, (100, 120, 80), measures=("correlation",))
    assert_matches_oracle(x, (100, 120, 80), measures=("cosine",))


@pytest.mark.parametrize("offset", (10.0, 30.0, 100.0, 1000.0))
def test_std_keeps_its_digits_where_all_cosines_are_near_one(offset):
    x = features(54, 300, offset=0.0) + offset
    values = oracle.block(oracle.cosine(x), (100, 100, 100), "QQ")
    std = float(block_histograms(x, (100, 100, 100), measures="cosine")["cosine"]["QQ"].std)
    np.testing.assert_allclose(std, values.std(), rtol=0, atol=1e-6)


def test_std_of_a_single_pair_is_zero():
    for seed in range(20):
        for histograms in block_histograms(features(54, 3, seed=seed), (1, 1, 1)).values():
            assert float(histograms["QK"].std) < 1e-6


def test_a_large_offset_in_float64_leaves_nine_digits():
    x = features(54, 60, dtype=torch.float64, offset=1e5)
    np.testing.assert_allclose(pearson_correlation(x), oracle.correlation(x), rtol=0, atol=1e-9)


def test_correlation_ignores_a_constant_added_to_a_feature():
    x = features(54, 40, dtype=torch.float64)
    offset = 100 * torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(pearson_correlation(x + offset), pearson_correlation(x), rtol=0, atol=1e-12)
    assert (cosine_similarity(x + offset) - cosine_similarity(x)).abs().max() > 0.5


# the ends of the scale


@pytest.mark.parametrize("n", (3, 54, 301))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("measure", MEASURES)
def test_collinear_features_lie_in_the_outer_bins(measure, dtype, n):
    generator = torch.Generator().manual_seed(n)
    base = torch.randint(-6, 7, (n, 1), generator=generator)
    base[:2] = torch.tensor([[5], [-3]])
    factor = torch.randint(1, 4, (90,), generator=generator) * 2 ** torch.randint(0, 3, (90,), generator=generator)
    sign = torch.randint(0, 2, (90,), generator=generator) * 2 - 1
    x = (base * factor * sign).to(dtype)  # at most 72: exact in every dtype
    assert torch.equal(x.to(torch.int64), base * factor * sign)
    result = block_histograms(x, (50, 30, 10), measures=measure, threshold=1.0)[measure]
    for block in oracle.BLOCKS:
        i, j = oracle.pairs((50, 30, 10))[block]
        n_positive = int((sign[i] == sign[j]).sum())
        expected = torch.zeros(100, dtype=torch.int64)
        expected[-1], expected[0] = n_positive, i.size - n_positive
        assert torch.equal(result[block].counts, expected)
        assert float(result[block].share_above) == 0  # nothing is beyond 1
    similarity = MATRIX[measure](x)
    assert similarity.abs().max() <= 1
    np.testing.assert_allclose(similarity, torch.outer(sign, sign), rtol=0, atol=1e-6)


def test_identical_features_have_a_mean_of_at_most_one():
    for seed in range(20):
        x = features(54, 1, seed=seed).expand(54, 60)
        for measure, histograms in block_histograms(x, (20, 20, 20), threshold=1.0).items():
            for block, histogram in histograms.items():
                assert float(histogram.mean) <= 1, (measure, block)
                assert float(histogram.share_above) == 0, (measure, block)
            assert MATRIX[measure](x).max() <= 1


@two_tokens
def test_correlation_of_two_tokens_is_plus_or_minus_one():
    x = features(2, 60)
    counts = block_histograms(x, (30, 20, 10))["correlation"]["QQ"].counts
    assert counts[0] > 0 and counts[-1] > 0 and counts[1:-1].sum() == 0


# constant and zero features


def with_constant_features(dtype, kind):
    """[54, 30] with four constant features, one of them in Q, one in K, two in V, and their places."""
    x = features(54, 30, dtype=dtype)
    places, values = [2, 13, 20, 29], torch.tensor([0.1, -1.5, 1.0, 1024.0], dtype=dtype)
    x[:, places] = values
    if kind == "one ulp":
        values[0] = 1.25
        eps = torch.finfo(dtype).eps
        odd = torch.arange(54) % 3 == 1
        x[:, places] = torch.where(odd[:, None], values * (1 + eps), values)
        assert (x[odd][:, places] != x[~odd][:1, places]).all()
    return x, places


@pytest.mark.parametrize("kind", ("exact", "one ulp"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_constant_feature_has_no_correlation(dtype, kind):
    x, places = with_constant_features(dtype, kind)
    undefined = torch.zeros(30, 30, dtype=torch.bool)
    undefined[places, :] = undefined[:, places] = True
    assert torch.equal(pearson_correlation(x).isnan(), undefined)

    result = assert_matches_oracle(x, (12, 6, 12))["correlation"]
    expected = {"QQ": 66 - 55, "KK": 15 - 10, "VV": 66 - 45, "QK": 72 - 55, "QV": 144 - 110, "KV": 72 - 50}
    assert {block: int(result[block].n_undefined) for block in oracle.BLOCKS} == expected


@pytest.mark.parametrize("kind", ("exact", "one ulp"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_constant_feature_has_a_cosine(dtype, kind):
    x, _ = with_constant_features(dtype, kind)
    np.testing.assert_allclose(cosine_similarity(x), oracle.cosine(x), rtol=0, atol=1e-6)
    result = block_histograms(x, (12, 6, 12))["cosine"]
    assert all(int(result[block].n_undefined) == 0 for block in oracle.BLOCKS)


@pytest.mark.parametrize("value", (0.1, 1 / 3, 1e-5, 12345.678))
@pytest.mark.parametrize("n", (3, 7, 54, 300))
def test_a_constant_whose_mean_is_rounded_is_still_constant(value, n):
    for dtype in (torch.float32, torch.float64):
        x = features(n, 6, dtype=dtype)
        x[:, 3] = value
        assert pearson_correlation(x)[3].isnan().all()
        assert int(block_histograms(x, (2, 2, 2))["correlation"]["QK"].n_undefined) == 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_small_spread_well_above_rounding_is_not_constant(dtype):
    x = features(54, 6, dtype=torch.float64, offset=0.0)
    x[:, 1] = 1 + 40 * torch.finfo(dtype).eps * x[:, 1] / x[:, 1].std()
    x = x.to(dtype)
    result = block_histograms(x, (2, 2, 2))["correlation"]
    assert all(int(result[block].n_undefined) == 0 for block in oracle.BLOCKS)
    atol = 1e-6 if dtype != torch.float64 else 1e-2  # the float64 oracle rounds this spread too
    np.testing.assert_allclose(pearson_correlation(x), oracle.correlation(x), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_zero_feature_has_neither_similarity(dtype):
    x = features(54, 30, dtype=dtype)
    x[:, [4, 15]] = 0
    undefined = torch.zeros(30, 30, dtype=torch.bool)
    undefined[[4, 15], :] = undefined[:, [4, 15]] = True
    result = assert_matches_oracle(x, (12, 6, 12))
    for measure in MEASURES:
        assert torch.equal(MATRIX[measure](x).isnan(), undefined)
        assert int(result[measure]["QQ"].n_undefined) == 11
        assert int(result[measure]["QK"].n_undefined) == 12 + 6 - 1
        assert int(result[measure]["VV"].n_undefined) == 0


def test_a_tiny_feature_is_not_a_zero_feature():
    x = features(54, 9)
    x[:, 4] *= 1e-30
    for measure in MEASURES:
        np.testing.assert_allclose(MATRIX[measure](x), oracle.SIMILARITY[measure](x), rtol=0, atol=1e-6)
    assert_matches_oracle(x, (3, 3, 3))


def test_a_constant_layer_leaves_the_layer_beside_it_alone():
    x = features(3, 54, 30)
    x[1] = torch.linspace(0.5, 2, 30)  # every token the same, as in layer 0 under rotary positions
    result = assert_matches_oracle(x, (12, 6, 12))
    alone = block_histograms(x[2], (12, 6, 12))
    for block in oracle.BLOCKS:
        histogram = result["correlation"][block]
        assert int(histogram.counts[1].sum()) == 0
        assert int(histogram.n_undefined[1]) == int(histogram.n_pairs[1])
        assert int(result["cosine"][block].n_undefined[1]) == 0
        assert histogram.mean.isnan().tolist() == [False, True, False]
        assert torch.equal(histogram.counts[2], alone["correlation"][block].counts)


def test_a_layer_of_zeros_is_undefined_for_both_measures():
    x = features(2, 54, 9)
    x[0] = 0
    result = assert_matches_oracle(x, (3, 3, 3))
    assert result["cosine"]["QQ"].n_undefined.tolist() == [3, 0]
    assert result["correlation"]["QK"].n_undefined.tolist() == [9, 0]


def test_parts_that_are_constant_as_a_whole_are_undefined():
    x = features(54, 9)
    x[:, 3:6] = 2
    result = assert_matches_oracle(x, (3, 3, 3))["correlation"]
    assert [int(result[block].n_undefined) for block in ("QQ", "KK", "VV", "QK", "QV", "KV")] == [0, 3, 0, 9, 0, 9]


# leading dimensions, shapes, dtypes


@pytest.mark.parametrize("batch", ((1,), (3,), (2, 3)), ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_leading_index_is_treated_on_its_own(dtype, batch):
    sizes = (TILE + 2, 20, 7)
    x = features(*batch, 54, sum(sizes), dtype=dtype)
    result = assert_matches_oracle(x, sizes)
    for measure in MEASURES:
        matrix = MATRIX[measure](x)
        assert matrix.shape == (*batch, sum(sizes), sum(sizes))
        for layer in np.ndindex(*batch):
            torch.testing.assert_close(matrix[layer], MATRIX[measure](x[layer]), rtol=0, atol=1e-6)
            alone = block_histograms(x[layer], sizes)[measure]
            for block in oracle.BLOCKS:
                assert torch.equal(result[measure][block].counts[layer], alone[block].counts)


@pytest.mark.parametrize("batch", ((), (1,), (3,), (2, 3)), ids=str)
def test_shapes_and_dtypes_of_the_result(batch):
    result = block_histograms(features(*batch, 54, 9), (4, 3, 2), bins=20)
    for histograms in result.values():
        for block, pairs in zip(oracle.BLOCKS, (6, 3, 1, 12, 8, 6), strict=True):
            histogram = histograms[block]
            assert histogram.counts.shape == (*batch, 20) and histogram.counts.dtype == torch.int64
            assert histogram.edges.shape == (21,) and histogram.edges.dtype == torch.float64
            for name in ("n_pairs", "n_undefined"):
                assert getattr(histogram, name).shape == batch and getattr(histogram, name).dtype == torch.int64
            for name in ("mean", "std", "share_above"):
                assert getattr(histogram, name).shape == batch and getattr(histogram, name).dtype == torch.float64
            assert (histogram.n_pairs == pairs).all()


def test_the_result_names_its_measure_blocks_and_tokens():
    result = block_histograms(features(54, 9), (4, 3, 2), threshold=0.8)
    assert list(result) == ["cosine", "correlation"]
    for measure, histograms in result.items():
        assert histograms.measure == measure
        assert histograms.n_samples == 54
        assert histograms.threshold == 0.8
        assert [block for block, _ in histograms.items()] == list(BLOCKS) == list(oracle.BLOCKS)
        assert [histograms[block] for block in BLOCKS] == [histogram for _, histogram in histograms.items()]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matrices_match_the_oracle_and_are_at_least_float32(measure, dtype):
    x = features(54, 60, dtype=dtype)
    similarity = MATRIX[measure](x)
    assert similarity.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert similarity.device == x.device
    atol = 1e-12 if dtype == torch.float64 else 1e-6
    np.testing.assert_allclose(similarity, oracle.SIMILARITY[measure](x), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", (torch.uint8, torch.int8, torch.int32, torch.int64), ids=str)
def test_integers_give_what_the_same_numbers_give_in_float64(dtype):
    low = 0 if dtype == torch.uint8 else -100
    x = torch.randint(low, 100, (54, 20), generator=torch.Generator().manual_seed(0)).to(dtype)
    result = assert_matches_oracle(x, (8, 6, 6))
    from_float64 = block_histograms(x.double(), (8, 6, 6))
    for measure in MEASURES:
        assert MATRIX[measure](x).dtype == torch.float64
        assert torch.equal(MATRIX[measure](x), MATRIX[measure](x.double()))
        assert torch.equal(result[measure]["QK"].counts, from_float64[measure]["QK"].counts)


def test_the_input_is_neither_changed_nor_need_it_be_contiguous():
    x = features(54, 40)
    transposed = x.T.contiguous().T
    before = transposed.clone()
    assert not transposed.is_contiguous()
    assert_matches_oracle(transposed, (20, 10, 10))
    for measure in MEASURES:
        torch.testing.assert_close(MATRIX[measure](transposed), MATRIX[measure](x), rtol=0, atol=1e-6)
    assert torch.equal(transposed, before)


def test_sizes_may_be_a_list():
    x = features(54, 9)
    from_list = block_histograms(x, [4, 3, 2])["cosine"]["QV"]
    assert torch.equal(from_list.counts, block_histograms(x, (4, 3, 2))["cosine"]["QV"].counts)


# measures


@pytest.mark.parametrize("undefined", ("none", "zero", "constant", "both"))
def test_one_measure_alone_equals_the_same_measure_beside_the_other(undefined):
    x = features(2, 54, 45)
    if undefined in ("zero", "both"):
        x[0, :, 3] = 0
    if undefined in ("constant", "both"):
        x[1, :, 30] = 7
    together = block_histograms(x, (20, 11, 14))
    for measure in MEASURES:
        for given_as in (measure, (measure,), [measure]):
            alone = block_histograms(x, (20, 11, 14), measures=given_as)
            assert list(alone) == [measure]
            for block in oracle.BLOCKS:
                for name in STATISTICS:
                    expected = getattr(together[measure][block], name)
                    torch.testing.assert_close(
                        getattr(alone[measure][block], name), expected, rtol=0, atol=1e-12, equal_nan=True
                    )


def test_the_order_of_the_measures_does_not_matter():
    x = features(54, 45)
    for measure in MEASURES:
        swapped = block_histograms(x, (20, 11, 14), measures=MEASURES[::-1])[measure]["KV"]
        assert torch.equal(swapped.counts, block_histograms(x, (20, 11, 14))[measure]["KV"].counts)


def test_a_measure_given_twice_is_counted_once():
    x = features(54, 9)
    twice = block_histograms(x, (4, 3, 2), measures=("cosine", "cosine"))["cosine"]["QQ"]
    assert int(twice.n_undefined) == 0
    assert torch.equal(twice.counts, block_histograms(x, (4, 3, 2))["cosine"]["QQ"].counts)


# properties


def integer_features(tokens, n_features=(1, 6)):
    shapes = st.tuples(st.integers(*tokens), st.integers(*n_features))
    return hnp.arrays(np.int64, shapes, elements=st.integers(-9, 9))


def draw_numbers(data, n, low, high):
    return torch.tensor(data.draw(st.lists(st.integers(low, high), min_size=n, max_size=n)))


def assert_same(similarity, expected):
    torch.testing.assert_close(similarity, expected, rtol=0, atol=1e-6, equal_nan=True)


@property_test
@given(values=integer_features((2, 8)), dtype=st.sampled_from((torch.float32, torch.float64)), data=st.data())
def test_cosine_ignores_a_positive_factor_of_a_feature(values, dtype, data):
    x = torch.tensor(values)
    factor = draw_numbers(data, x.shape[1], 1, 1000)
    assert_same(cosine_similarity((x * factor).to(dtype)), cosine_similarity(x.to(dtype)))


@property_test
@given(values=integer_features((3, 8)), dtype=st.sampled_from((torch.float32, torch.float64)), data=st.data())
def test_correlation_ignores_an_affine_map_of_a_feature_up_to_its_sign(values, dtype, data):
    x = torch.tensor(values)
    n_features = x.shape[1]
    factor = draw_numbers(data, n_features, 1, 100) * (2 * draw_numbers(data, n_features, 0, 1) - 1)
    offset = draw_numbers(data, n_features, -10_000, 10_000)
    mapped = pearson_correlation((x * factor + offset).to(dtype))
    assert_same(mapped, pearson_correlation(x.to(dtype)) * torch.outer(factor.sign(), factor.sign()))


@property_test
@given(values=integer_features((3, 8)), dtype=st.sampled_from((torch.float32, torch.float64)), data=st.data())
def test_the_order_of_the_tokens_does_not_matter(values, dtype, data):
    x = torch.tensor(values).to(dtype)
    order = data.draw(st.permutations(range(x.shape[0])))
    assert_same(cosine_similarity(x[order]), cosine_similarity(x))
    assert_same(pearson_correlation(x[order]), pearson_correlation(x))


@property_test
@given(values=integer_features((2, 8)), dtype=st.sampled_from((torch.float32, torch.float64)), data=st.data())
def test_flipping_the_sign_of_whole_tokens_leaves_every_cosine_alone(values, dtype, data):
    x = torch.tensor(values)
    sign = 2 * draw_numbers(data, x.shape[0], 0, 1) - 1
    assert_same(cosine_similarity((x * sign[:, None]).to(dtype)), cosine_similarity(x.to(dtype)))


# memory


def peak_bytes(function):
    """The most tensor memory that was allocated at one time while `function` ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    now = peak = 0
    for event in sorted(recorded.events(), key=lambda event: event.time_range.start):
        now += event.self_cpu_memory_usage
        peak = max(peak, now)
    return peak


def test_the_matrix_is_never_stored():
    x = torch.randn(54, 4800, generator=torch.Generator().manual_seed(0))
    one_matrix = 4800 * 4800 * x.element_size()  # 92 MB
    assert peak_bytes(lambda: pearson_correlation(x)) >= one_matrix  # the measurement can see one
    assert peak_bytes(lambda: block_histograms(x, (1600, 1600, 1600))) < one_matrix / 4


def test_the_matrix_is_not_stored_for_a_gradient_either():
    x = torch.randn(54, 2400, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert peak_bytes(lambda: block_histograms(x, (800, 800, 800))) < 2400 * 2400 * x.element_size() / 2


# errors and warnings

CALLS = {
    "cosine_similarity": cosine_similarity,
    "pearson_correlation": pearson_correlation,
    "block_histograms": lambda x: block_histograms(x, (2, 2, 2)),
}
every_function = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@every_function
@pytest.mark.parametrize("value", (float("nan"), float("inf"), -float("inf")))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_infinity_are_refused_with_their_place(call, value, dtype):
    x = features(2, 54, 6, dtype=dtype)
    x[1, 7, 3] = value
    x[1, 9, 0] = value
    with pytest.raises(ValueError, match=r"2 NaN or infinite values of 648.*index \(1, 7, 3\).*torch\.float32"):
        call(x)


@pytest.mark.parametrize("call", (CALLS["pearson_correlation"], CALLS["block_histograms"]))
def test_one_token_has_no_correlation(call):
    with pytest.raises(ValueError, match=r"at least two tokens, got x \(1, 6\).*more sentences.*cosine only"):
        call(torch.ones(1, 6))


def test_one_token_has_a_cosine_and_warns():
    x = torch.tensor([[1.0, -2.0, 3.0]])
    with pytest.warns(UserWarning, match=r"1 token.*cosine.*by construction.*more sentences"):
        assert cosine_similarity(x).tolist() == [[1, -1, 1], [-1, 1, -1], [1, -1, 1]]
    with pytest.warns(UserWarning, match=r"1 token.*cosine.*by construction"):
        result = block_histograms(x, (1, 1, 1), measures="cosine")["cosine"]
    assert int(result["QK"].counts[0]) == int(result["QV"].counts[-1]) == 1


@pytest.mark.parametrize("call", (CALLS["pearson_correlation"], CALLS["block_histograms"]))
def test_two_tokens_warn_about_the_correlation(call):
    with pytest.warns(UserWarning, match=r"2 token.*correlation.*by construction.*more sentences") as caught:
        call(features(2, 6))
    assert len(caught) == 1


def test_there_is_no_warning_where_there_is_nothing_to_warn_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cosine_similarity(features(2, 6))
        block_histograms(features(2, 6), (2, 2, 2), measures="cosine")
        pearson_correlation(features(3, 6))
        block_histograms(features(2, 3, 6), (2, 2, 2))


@pytest.mark.parametrize("sizes, total", (((2, 2, 1), 5), ((6, 6, 6), 18)), ids=str)
def test_sizes_that_do_not_add_up_are_refused(sizes, total):
    with pytest.raises(ValueError, match=rf"add up to {total}, but there are 6 features.*pass.*qkv\.sizes"):
        block_histograms(features(54, 6), sizes)


@pytest.mark.parametrize("sizes", ((6,), (3, 3), (2, 2, 1, 1), (6, 0, 0), (7, -2, 1)), ids=str)
def test_sizes_that_are_not_three_positive_numbers_are_refused(sizes):
    with pytest.raises(ValueError, match=r"three whole positive numbers, got \(.*\): pass qkv\.sizes"):
        block_histograms(features(54, 6), sizes)


@every_function
@pytest.mark.parametrize("shape", ((), (6,), (0, 6), (54, 0), (0, 54, 6)), ids=str)
def test_a_wrong_rank_or_an_empty_tensor_is_refused(call, shape):
    with pytest.raises(ValueError, match=r"expected x \[\.\.\., token, feature\].*got \(.*\): stack one vector"):
        call(torch.zeros(shape))


@every_function
@pytest.mark.parametrize("x", (np.zeros((54, 6)), [[0.0] * 6] * 54, None), ids=("ndarray", "list", "NoneType"))
def test_what_is_not_a_tensor_is_refused(call, x):
    with pytest.raises(TypeError, match=rf"expected a torch\.Tensor.*got {type(x).__name__}.*torch\.as_tensor"):
        call(x)


@every_function
@pytest.mark.parametrize("dtype", (torch.bool, torch.complex64, torch.complex128), ids=str)
def test_numbers_that_are_not_real_are_refused(call, dtype):
    with pytest.raises(TypeError, match=rf"expected real numbers, got {dtype}"):
        call(torch.ones(54, 6).to(dtype))


@pytest.mark.parametrize("measures", ("spearman", ("cosine", "spearman"), ("cosine", "Correlation"), ()), ids=str)
def test_an_unknown_measure_is_refused(measures):
    with pytest.raises(ValueError, match=r"unknown measures \(.*\): expected some of \('cosine', 'correlation'\)"):
        block_histograms(features(54, 6), (2, 2, 2), measures=measures)


@pytest.mark.parametrize("bins", (0, -1, 2.5))
def test_a_number_of_bins_that_is_not_a_positive_whole_number_is_refused(bins):
    with pytest.raises(ValueError, match=rf"whole number of bins, at least 1, got {bins}"):
        block_histograms(features(54, 6), (2, 2, 2), bins=bins)


# CUDA

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@cuda
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_histograms_match_the_oracle_on_cuda(dtype, sizes):
    x = features(2, 54, sum(sizes), dtype=dtype)
    x[1, :, 0] = 1
    x[1, :, -1] = 0
    result = assert_matches_oracle(x.cuda(), sizes)
    for measure in MEASURES:
        assert MATRIX[measure](x.cuda()).device.type == "cuda"
        np.testing.assert_allclose(
            oracle.to_numpy(MATRIX[measure](x[0].cuda())), oracle.SIMILARITY[measure](x[0]), rtol=0, atol=1e-6
        )
        assert result[measure].edges.device.type == "cuda"
        assert all(getattr(result[measure]["QQ"], name).device.type == "cuda" for name in STATISTICS)


@cuda
@two_tokens
@pytest.mark.parametrize("n", (2, 3, 54, 300))
def test_large_offsets_cost_no_digits_on_cuda(n):
    x = features(n, 300, offset=1.0)
    x = x + 1000 * x.std(dim=0)
    assert_matches_oracle(x.cuda(), (100, 120, 80), measures=("correlation",))


@cuda
def test_the_matrix_is_never_stored_on_cuda():
    F = 4800
    x = torch.randn(54, F, device="cuda")
    block_histograms(x[:, :6], (2, 2, 2))  # libraries take their workspace
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    block_histograms(x, (F // 3,) * 3)
    assert torch.cuda.max_memory_allocated() - before < F * F * x.element_size() / 3


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_a_large_offset_in_half_precision_is_not_taken_for_a_constant(dtype):
    x = (torch.randn(54, 8, generator=torch.Generator().manual_seed(0)) + 20).to(dtype)
    assert not pearson_correlation(x).isnan().any()
    np.testing.assert_allclose(pearson_correlation(x), oracle.correlation(x), rtol=0, atol=1e-6)
