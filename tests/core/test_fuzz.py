"""Whatever fits the contract: tensors against the float64 oracle, batches and files against what must hold of any.

The same few examples at every run; by hand thousands of new ones: QKV_FUZZ=thorough
"""

import os
import unicodedata
from contextlib import suppress
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import zscore

from helpers.baselines import shuffle_entries, shuffle_within_features
from helpers.experiments.study import FEWEST, StudyError, cleaned, read_sentences
from helpers.kernels import plain
from helpers.similarity import block_histograms
from helpers.text import control_positions, encode, find_token, text_tokens
from tests.support.histograms import assert_matches_oracle, assert_matrices_match_oracle, assert_same_result
from tests.support.tiny import word_tokenizer

settings.register_profile("brief", max_examples=40, deadline=None, derandomize=True, database=None)
settings.register_profile("thorough", max_examples=3000, deadline=None)
settings.load_profile(os.environ.get("QKV_FUZZ", "brief"))

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FAR = {torch.float32: 1000, torch.float64: 1e5}  # standard deviations from 0 to the mean, where they cost no digits
POWERS = {torch.float16: 4, torch.bfloat16: 60, torch.float32: 60, torch.float64: 300}  # of two, on either side of 1
KINDS = ("noise", "noise", "offset", "small", "constant", "constant", "collinear")
LAYOUTS = {
    "as it is": lambda x: x,
    "transposed": lambda x: x.mT.contiguous().mT,
    "every other": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "rows of a larger one": lambda x: torch.cat([x, x], dim=-2)[..., : x.shape[-2], :],
    "expanded": lambda x: x[:1].expand(x.shape) if x.ndim > 2 else x,
    "with a gradient": lambda x: x.requires_grad_(x.is_floating_point()),
}


def column(rng, kind, shape, dtype, before):
    """One feature `[..., sample]` of a kind, in float64; `before` are those drawn before it."""
    if kind == "collinear" and before:
        return before[rng.integers(len(before))] * rng.choice([-1, 1])
    if kind == "small":  # values that meet exactly on the edges of bins
        return rng.integers(-3, 4, shape).astype(float)
    if kind == "constant":
        return np.full(shape, rng.choice([0, rng.integers(1, 9)]), dtype=float)
    far = FAR.get(dtype, 3) if kind == "offset" else 0
    return zscore(rng.standard_normal(shape), axis=-1) + rng.uniform(-far, far)  # never close to constant


@st.composite
def measured(draw):
    """(x `[..., sample, F]`, sizes) of any dtype, layout and magnitude, with features that are odd in every way."""
    dtype = draw(st.sampled_from([*POWERS, *WHOLE]))
    sizes = draw(st.tuples(*[st.integers(1, 6)] * 3) | st.sampled_from([(1, 66, 1), (64, 1, 67)]))
    shape = (*draw(st.sampled_from([(), (1,), (3,), (2, 2)])), draw(st.integers(2, 9) | st.sampled_from([54, 130])))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=8))
    rng, columns = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), []
    for i in range(sum(sizes)):
        columns.append(column(rng, kinds[i % len(kinds)], shape, dtype, columns))
    x = np.stack(columns, axis=-1)  # [..., sample, F]
    if dtype in WHOLE:
        x = np.rint(9 * abs(x) if dtype == torch.uint8 else 9 * x)
    else:
        most = draw(st.sampled_from([0, POWERS[dtype]]))
        x = np.ldexp(x, rng.integers(-most, most + 1, x.shape[-1]))
    return LAYOUTS[draw(st.sampled_from([*LAYOUTS]))](torch.from_numpy(x).to(dtype)), sizes


@pytest.mark.filterwarnings("ignore:with 2 token", "error:Converting a tensor")
@given(measured(), st.integers(1, 12) | st.sampled_from([100, 128, 129]), st.sampled_from([0.0, 0.45, 0.9, 1.0]))
def test_similarities_of_any_tensor_are_those_of_the_oracle(given, bins, threshold):
    x, sizes = given
    before, whole = x.detach().clone(), not x.is_floating_point()
    with mock.patch.object(plain, "TILE", 64):
        result = assert_matches_oracle(x, sizes, bins=bins, threshold=threshold)
        if whole:
            assert_same_result(result, block_histograms(x.double(), sizes, bins=bins, threshold=threshold))
    assert_matrices_match_oracle(x, 1e-9 if whole or x.dtype == torch.float64 else 2e-6)  # of a sum over 130 samples
    assert torch.equal(x, before)


@given(measured())
def test_shuffles_of_any_tensor_keep_its_entries_and_leave_it_alone(given):
    x, _ = given
    before = x.detach().clone()
    for shuffle, entries in ((shuffle_entries, lambda y: y.flatten(-2)), (shuffle_within_features, lambda y: y.mT)):
        first, again, of_a_copy = (shuffle(y, torch.Generator().manual_seed(5)) for y in (x, x, before))
        assert first.dtype == x.dtype and torch.equal(first, again) and torch.equal(first, of_a_copy)
        assert torch.equal(entries(first).sort(dim=-1).values, entries(x).sort(dim=-1).values)
    assert torch.equal(x, before)


# ---- sentences -----------------------------------------------------------------------------------

WORDS = ["<unk>", "<pad>", "<s>", "her", "của", "nước", "מים", "पानी", "a1", "cat"]
TOKENIZER = word_tokenizer(WORDS, pad_token="<pad>", bos_token="<s>")
HER = WORDS.index("her")


def found(function, *arguments):
    """The positions that a function gives, int64 `[sentence]`; none where it refuses."""
    with suppress(ValueError):
        return function(*arguments)
    return torch.empty(0, dtype=torch.int64)


@given(st.lists(st.lists(st.sampled_from([*WORDS[3:], "unseen"]), min_size=1, max_size=7), min_size=1, max_size=6))
def test_tokens_of_any_batch_are_found_where_they_stand(sentences):
    batch = encode(TOKENIZER, [" ".join(words) for words in sentences])
    n_token = max(map(len, sentences))
    for row, words in enumerate(sentences):
        alone, known = batch[row], [i for i, word in enumerate(words) if word in WORDS]
        assert alone["input_ids"][0, : len(words)].tolist() == TOKENIZER.convert_tokens_to_ids(words)
        assert alone["attention_mask"].tolist() == [[1] * len(words) + [0] * (n_token - len(words))]
        assert text_tokens(batch)[row].nonzero().flatten().tolist() == known
        there, others = ([i for i in known if (words[i] == "her") == wanted] for wanted in (True, False))
        for occurrence, at in (("first", there[:1]), ("last", there[-1:])):
            positions = found(partial(find_token, occurrence=occurrence), alone, HER)
            assert positions.tolist() == at
            if at:
                previous = found(control_positions, alone, positions)
                assert previous.tolist() == [i for i in known if i == at[0] - 1]
                drawn = found(control_positions, alone, positions, "random", torch.Generator().manual_seed(row))
                allowed = [i for i in others if i != known[0]] or others
                assert len(drawn) == min(1, len(allowed)) and set(drawn.tolist()) <= set(allowed)
                assert positions.dtype == previous.dtype == drawn.dtype == torch.int64


LETTERS = st.text("heraộ\u0323\u0302 \t\n\r\v\x1c\x00\u00a0\u200b\u200d\u2028\ufeff\u202e#$_,क\u093f😀\ud800")


@given(st.lists(LETTERS | st.text(max_size=8), max_size=12))
def test_sentences_of_any_text_are_clean_and_stay_as_they_are(lines):
    text = "\n".join([*lines, "One.", "Two."])
    try:
        sentences, notes = read_sentences(text)
    except StudyError as error:
        assert str(FEWEST) in str(error)
        return
    assert len(set(sentences)) == len(sentences) >= FEWEST and all(isinstance(note, str) for note in notes)
    for sentence in sentences:
        assert cleaned(sentence) == sentence == " ".join(sentence.split()) != ""
        assert unicodedata.is_normalized("NFC", sentence)
        assert not {unicodedata.category(letter) for letter in sentence} & {"Cc", "Cs", "Zl", "Zp"}
    assert read_sentences(sentences)[0] == sentences  # once is enough
    assert read_sentences("\ufeff" + text)[0] == sentences  # as an editor of Windows writes it
