"""`helpers.baselines`: what each shuffle keeps and breaks, the exact nulls, and the identity."""

import numpy as np
import pytest
import torch
from scipy import stats

from helpers import (
    block_histograms,
    cosine_from_correlation,
    cosine_similarity,
    null_density,
    pearson_correlation,
    shuffle_entries,
    shuffle_within_features,
)
from tests.support import oracle

SHUFFLES = (shuffle_entries, shuffle_within_features)
both_shuffles = pytest.mark.parametrize("shuffle", SHUFFLES)
both_measures = pytest.mark.parametrize("measure", ("cosine", "correlation"))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(*shape):
    """Every entry another number."""
    return torch.arange(float(np.prod(shape))).view(shape)


# shuffles


@pytest.mark.parametrize("shape", ((1, 1), (1, 9), (9, 1), (54, 12), (3, 20, 7), (2, 3, 5, 4)), ids=str)
def test_shuffle_entries_keeps_the_entries_of_every_matrix(shape):
    x = numbered(*shape)
    shuffled = shuffle_entries(x, generator())
    assert shuffled.shape == x.shape
    assert torch.equal(shuffled.flatten(-2).sort(dim=-1).values, x.flatten(-2))


@pytest.mark.parametrize("shape", ((1, 1), (1, 9), (9, 1), (54, 12), (3, 20, 7), (2, 3, 5, 4)), ids=str)
def test_shuffle_within_features_keeps_the_entries_of_every_feature(shape):
    x = numbered(*shape)
    shuffled = shuffle_within_features(x, generator())
    assert shuffled.shape == x.shape
    assert torch.equal(shuffled.sort(dim=-2).values, x)


def test_shuffle_entries_moves_entries_between_features():
    x = numbered(50, 20)
    at_home = (shuffle_entries(x, generator()) % 20 == torch.arange(20)).double().mean()
    assert 0.02 < at_home < 0.08  # 1/20 by chance


def test_every_feature_gets_its_own_permutation():
    shuffled = shuffle_within_features(torch.arange(54.0).unsqueeze(1).expand(54, 100), generator())
    assert len({tuple(column) for column in shuffled.T.tolist()}) == 100


def test_every_permutation_of_a_feature_is_equally_likely():
    shuffled = shuffle_within_features(torch.arange(3).unsqueeze(1).expand(3, 12_000), generator())
    code = shuffled[0] * 3 + shuffled[1]
    found, counts = code.unique(return_counts=True)
    assert found.tolist() == [1, 2, 3, 5, 6, 7]  # all 3! = 6 orders
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_every_place_is_equally_likely_for_an_entry_shuffled_anywhere():
    x = torch.arange(4).view(2, 2).expand(12_000, 2, 2)
    shuffled = shuffle_entries(x, generator()).flatten(-2)
    counts = torch.stack([(shuffled == value).sum(dim=0) for value in range(4)])  # [value, place]
    assert (counts.sum(dim=0) == 12_000).all()
    assert stats.chisquare(counts.numpy(), axis=0).pvalue.min() > 1e-3


@both_shuffles
def test_every_leading_index_is_shuffled_on_its_own(shuffle):
    x = numbered(20, 7).expand(2, 3, 20, 7)
    orders = {tuple(matrix.flatten().tolist()) for matrix in shuffle(x, generator()).reshape(6, 20, 7)}
    assert len(orders) == 6


@both_shuffles
def test_the_pairing_of_the_tokens_is_broken(shuffle):
    x = torch.randn(2000, 1, generator=generator(1)).expand(2000, 6)
    assert pearson_correlation(x).min() > 0.999
    off_diagonal = pearson_correlation(shuffle(x, generator())) - torch.eye(6)
    assert off_diagonal.abs().max() < 0.1


def test_shuffling_within_features_keeps_the_cosine_of_an_offset_and_shuffling_entries_does_not():
    sign = torch.tensor([1.0, -1.0]).repeat(30)
    x = torch.randn(54, 60, generator=generator(1)) + 10 * sign  # large offsets of either sign
    share = {}
    for shuffle in SHUFFLES:
        result = block_histograms(shuffle(x, generator()), (20, 20, 20))
        share[shuffle] = {measure: float(result[measure]["QK"].share_above) for measure in result}
    assert share[shuffle_within_features] == {"cosine": 1.0, "correlation": 0.0}
    assert share[shuffle_entries] == {"cosine": 0.0, "correlation": 0.0}


@both_shuffles
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64), ids=str)
def test_the_same_seed_gives_the_same_result_in_the_dtype_of_the_input(shuffle, dtype):
    x = numbered(54, 4).to(dtype)
    first, second = shuffle(x, generator(5)), shuffle(x, generator(5))
    assert torch.equal(first, second)
    assert first.dtype == dtype and first.device == x.device
    assert not torch.equal(first, shuffle(x, generator(6)))


@both_shuffles
def test_a_generator_used_twice_gives_two_results(shuffle):
    x, used_twice = numbered(54, 4), generator()
    assert not torch.equal(shuffle(x, used_twice), shuffle(x, used_twice))


@both_shuffles
def test_nothing_but_the_generator_decides_the_result(shuffle):
    x = numbered(54, 4)
    torch.manual_seed(1)
    first = shuffle(x, generator())
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, shuffle(x, generator()))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


@both_shuffles
def test_the_input_is_left_as_it_was(shuffle):
    x = numbered(54, 4)
    before = x.clone()
    shuffled = shuffle(x, generator())
    shuffled.zero_()
    assert torch.equal(x, before)


@both_shuffles
def test_the_input_need_not_be_contiguous(shuffle):
    x = numbered(4, 54).T
    assert torch.equal(shuffle(x, generator()), shuffle(x.contiguous(), generator()))


@both_shuffles
@pytest.mark.parametrize("shape", ((), (54,)), ids=str)
def test_a_wrong_rank_is_refused(shuffle, shape):
    with pytest.raises(ValueError, match=r"expected x \[\.\.\., token, feature\], got \(.*\): stack the occurrences"):
        shuffle(torch.zeros(shape), generator())


# null densities


def null_distribution(n, measure, n_points=100_000):
    """(points, weights) of the null: s = sin(angle) makes its ends tame however small n is."""
    angle = (np.arange(n_points) + 0.5) / n_points * np.pi - np.pi / 2
    return np.sin(angle), null_density(np.sin(angle), n, measure) * np.cos(angle) * np.pi / n_points


@both_measures
@pytest.mark.parametrize("n", (3, 3.5, 4, 5, 6.25, 10, 54, 1000, 20_000.5))
def test_the_null_density_integrates_to_one_and_has_the_known_standard_deviation(n, measure):
    s, weight = null_distribution(n, measure)
    degrees = n if measure == "cosine" else n - 1
    np.testing.assert_allclose(weight.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose((weight * s).sum(), 0, atol=1e-9)
    np.testing.assert_allclose(np.sqrt((weight * s**2).sum()), 1 / np.sqrt(degrees), rtol=1e-6)


@both_measures
@pytest.mark.parametrize("n", (4, 5, 10, 54))
def test_the_null_density_is_a_power_of_one_minus_s_squared(n, measure):
    s = np.linspace(-0.95, 0.95, 39)
    power = {"cosine": (n - 3) / 2, "correlation": (n - 4) / 2}[measure]
    ratio = null_density(s, n, measure) / (1 - s**2) ** power
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)


@both_measures
@pytest.mark.parametrize("n", (3, 5, 10, 54))
def test_the_null_density_is_that_of_independent_gaussian_features(n, measure):
    draws = np.random.default_rng(n).standard_normal((2, 100_000, n))
    if measure == "correlation":
        draws += 5  # it ignores an offset
        draws -= draws.mean(axis=2, keepdims=True)
    x, y = draws
    simulated = (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    s, weight = null_distribution(n, measure)

    def cumulative(value):
        return np.interp(value, s, np.cumsum(weight) - weight / 2)

    assert stats.kstest(simulated, cumulative).pvalue > 1e-3


def test_the_cosine_of_two_tokens_has_the_arcsine_density():
    np.testing.assert_allclose(null_density([0, 0.6], 2, "cosine"), [1 / np.pi, 1 / (0.8 * np.pi)], rtol=1e-12)
    s, weight = null_distribution(2, "cosine")
    np.testing.assert_allclose([weight.sum(), (weight * s**2).sum()], [1, 1 / 2], rtol=1e-6)


def test_the_null_density_at_the_ends_and_beyond():
    assert null_density([-1.0, 1.0], 3, "correlation").tolist() == [np.inf, np.inf]
    np.testing.assert_allclose(null_density([-1.0, 1.0], 4, "correlation"), 0.5)
    assert null_density([-1.0, 1.0], 54, "correlation").tolist() == [0, 0]
    assert null_density([-1.5, 1.5], 54, "cosine").tolist() == [0, 0]


@both_measures
def test_the_null_density_has_the_shape_of_its_argument(measure):
    assert np.shape(null_density(0.3, 54, measure)) == ()
    density = null_density([[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]], 54, measure)
    assert density.shape == (2, 3) and density.dtype == np.float64
    np.testing.assert_allclose(density[0], density[1], rtol=1e-12)
    np.testing.assert_array_equal(
        null_density(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64), 54, measure), density[0]
    )


@pytest.mark.parametrize("n, measure, enough", ((2, "correlation", 3), (0, "correlation", 3), (1, "cosine", 2)))
def test_too_few_tokens_for_a_density_are_refused(n, measure, enough):
    with pytest.raises(ValueError, match=rf"no density at n = {n} for the {measure}.*use at least {enough} tokens"):
        null_density(0.0, n, measure)


@pytest.mark.parametrize("n, measure", ((2.5, "correlation"), (1.5, "cosine")))
def test_a_number_of_tokens_below_the_smallest_is_refused_also_when_it_is_not_whole(n, measure):
    with pytest.raises(ValueError, match=rf"no density at n = {n} for the {measure}"):
        null_density(0.0, n, measure)


def test_an_unknown_measure_is_refused():
    with pytest.raises(ValueError, match="unknown measure 'pearson': expected 'cosine' or 'correlation'"):
        null_density(0.0, 54, "pearson")


# the identity between cosine and correlation


def with_offsets(n=54, F=40, seed=0):
    """float64 [n, F] with means of either sign, up to many standard deviations."""
    x = torch.randn(n, F, generator=generator(seed), dtype=torch.float64)
    return x + 10 * torch.randn(F, generator=generator(seed + 1), dtype=torch.float64) ** 3


def relative_offset(x):
    values = oracle.to_numpy(x)
    return values.mean(axis=0) / values.std(axis=0)  # [F] mean / population standard deviation


@pytest.mark.parametrize("n", (2, 3, 54, 300))
def test_the_cosine_follows_from_the_correlation_and_the_offsets(n):
    x = with_offsets(n)
    m = relative_offset(x)
    cosine = cosine_from_correlation(oracle.correlation(x), m[:, None], m[None, :])
    np.testing.assert_allclose(cosine, oracle.cosine(x), rtol=0, atol=1e-12)


def test_the_identity_takes_tensors():
    x = with_offsets()
    m = torch.from_numpy(relative_offset(x))
    cosine = cosine_from_correlation(pearson_correlation(x), m[:, None], m)
    assert isinstance(cosine, torch.Tensor)
    np.testing.assert_allclose(cosine, oracle.cosine(x), rtol=0, atol=1e-12)


def test_the_identity_takes_numbers():
    assert cosine_from_correlation(0.25, 0, 0) == 0.25
    assert cosine_from_correlation(0.0, 3.0, -3.0) == pytest.approx(-0.9, abs=1e-15)
    assert cosine_from_correlation(1.0, 2.0, 2.0) == pytest.approx(1, abs=1e-15)
    assert cosine_from_correlation(-1.0, 1.0, 1.0) == pytest.approx(0, abs=1e-15)


def test_the_identity_without_a_division_by_the_standard_deviation():
    x = with_offsets()
    values = oracle.to_numpy(x)
    rms = np.sqrt((values**2).mean(axis=0))
    a, b = values.std(axis=0) / rms, values.mean(axis=0) / rms
    np.testing.assert_allclose(a**2 + b**2, 1, rtol=1e-12)
    cosine = np.outer(a, a) * pearson_correlation(x).numpy() + np.outer(b, b)
    np.testing.assert_allclose(cosine, oracle.cosine(x), rtol=0, atol=1e-12)
    np.testing.assert_allclose(cosine, cosine_similarity(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shuffle", (shuffle_entries, shuffle_within_features))
def test_a_shuffle_without_a_generator_says_how_to_make_one(shuffle):
    with pytest.raises(TypeError, match=r"got NoneType.*manual_seed"):
        shuffle(torch.ones(3, 2), None)
