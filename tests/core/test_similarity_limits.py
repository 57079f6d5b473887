"""What `helpers.similarity` refuses, and what it warns of."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch

from helpers import block_histograms, cosine_similarity, pearson_correlation
from helpers.similarity import FewSamplesWarning
from tests.support.histograms import features
from tests.support.refusal import assert_refused

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
