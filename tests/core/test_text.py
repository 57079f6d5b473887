"""Sentence sets, batches of tokens, and the positions of target and control tokens."""

import copy
import pickle
import re
import unicodedata

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers
from tokenizers.processors import TemplateProcessing

from helpers import control_positions, encode, find_token, load_ordinary, load_sentences, token_id_of
from helpers.text import TARGETS, sentence_sets, shortened, text_tokens, tokens_at
from tests.support.refusal import assert_refused
from tests.support.tiny import word_tokenizer

WORDS = ["<pad>", "<eos>", "<unk>", "I", "saw", "her", "again", "and", "met", "today"]
PAD, EOS, _, I, SAW, HER, AGAIN, AND, MET, TODAY = range(10)
LONG = "I saw her and met her again today"


@pytest.fixture
def words():
    """A tokenizer whose tokens are words, so that every id can be read off."""
    return word_tokenizer(WORDS, pad_token="<pad>", eos_token="<eos>")


# ---- the sentence sets ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", sentence_sets())
def test_set_has_54_clean_sentences_with_their_target_once(smollm2, name):
    sentences, word = load_sentences(name), TARGETS.get(name, name)
    assert len({sentence.casefold() for sentence in sentences}) == len(sentences) == 54
    for sentence in sentences:
        assert 6 <= len(sentence.split()) <= 14, sentence
        assert sentence == unicodedata.normalize("NFC", " ".join(sentence.split())), sentence
        assert sentence[0].isupper() and sentence[-1] in ".?!", sentence
        assert len(re.findall(rf"\b{word}\b", sentence, flags=re.IGNORECASE)) == 1, sentence
        assert len(re.findall(rf" {word}\b", sentence)) == 1, sentence
    target = smollm2[1](f" {word}")["input_ids"]
    assert (len(target) == 1) == (name not in TARGETS)  # the Vietnamese word is there because it is several tokens
    prefixes = set()
    for ids in smollm2[1](sentences)["input_ids"]:
        (at,) = [i for i in range(len(ids)) if ids[i : i + len(target)] == target]
        assert at >= 2
        prefixes.add(tuple(ids[:at]))
    assert len(prefixes) == 54


def test_unknown_set_is_refused_with_the_known_ones():
    for name in ("his", "../data/sentences_her"):
        message = f"no sentence set {re.escape(repr(name))}: expected one of cua, her, water"
        assert_refused(lambda name=name: load_sentences(name), ValueError, message)
    load_sentences("her").clear()  # a list of the reader's own
    assert (len(load_sentences()), len(load_ordinary())) == (54, 80)


# ---- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("special", "pad"), [({"pad_token": "<pad>"}, PAD), ({"eos_token": "<eos>"}, EOS)])
def test_encode_pads_on_the_right_and_leaves_the_tokenizer_as_it_is(special, pad):
    words = word_tokenizer(WORDS, padding_side="left", **special)
    before = (words.padding_side, words.pad_token, len(words))
    batch = encode(words, (text for text in ("I saw her", "her")))
    assert batch["input_ids"].tolist() == [[I, SAW, HER], [HER, pad, pad]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["input_ids"].dtype == torch.int64
    assert batch.sentences == ("I saw her", "her")
    assert (words.padding_side, words.pad_token, len(words)) == before


def test_encode_gives_what_the_tokenizers_own_padding_gives(smollm2, minilm):
    sentences = [*load_sentences("her")[:5], "Her."]
    for _, tokenizer in (smollm2, minilm):
        assert tokenizer.pad_token is not None
        expected = tokenizer(sentences, return_tensors="pt", padding=True, padding_side="right")
        batch = encode(tokenizer, sentences)
        assert set(batch) == set(expected) and ("token_type_ids" in batch) == (tokenizer is minilm[1])
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("sentences", "error", "message"),
    [
        (["her", None, float("nan"), 3], ValueError, r"text in every sentence, found none at index 1, 2, 3: leave"),
        ([], ValueError, r"at least one sentence, got an empty list: load_sentences\('her'\)"),
        (["her", "", "  \n"], ValueError, r"text in every sentence, found none at index 1, 2: leave those out"),
        (LONG, TypeError, r"a list of sentences, got one string: encode\(tokenizer, \['I saw her and"),
    ],
)
def test_encode_refuses_what_is_no_list_of_texts(words, sentences, error, message):
    assert_refused(lambda: encode(words, sentences), error, message)


def bert_like(sentences):
    """Words between [CLS] and [SEP], with one of them unknown: (tokenizer, batch)."""
    tokenizer = word_tokenizer(["[PAD]", "[CLS]", "[SEP]", *WORDS[2:]], pad_token="[PAD]", cls_token="[CLS]")
    special = [("[CLS]", 1), ("[SEP]", 2)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=special)
    tokenizer.add_special_tokens({"sep_token": "[SEP]"})
    return tokenizer, encode(tokenizer, sentences)


def test_text_is_neither_special_nor_unknown_nor_padding_in_copies_too():
    tokenizer, batch = bert_like(["I saw her", "her zebra"])
    expected = [[False, True, True, True, False], [False, True, False, False, False]]
    assert batch["input_ids"][1].tolist() == [1, 6, 3, 2, 0]  # [CLS] her <unk> [SEP] [PAD]
    for copied in (batch, copy.copy(batch), copy.deepcopy(batch), pickle.loads(pickle.dumps(batch)), batch.to("cpu")):
        assert text_tokens(copied).tolist() == expected and copied.sentences == batch.sentences
    for rows in ([1], slice(1, None), torch.tensor([False, True])):
        assert text_tokens(batch[rows]).tolist() == expected[1:] and batch[rows].sentences == ("her zebra",)
    assert text_tokens(dict(batch))[0].all()  # made by hand: what the mask lets through
    by_hand = tokenizer(["I saw her"], return_special_tokens_mask=True, return_tensors="pt")
    assert text_tokens(by_hand)[0].tolist() == expected[0]
    batch["input_ids"] = batch["input_ids"][:, :3]
    assert_refused(lambda: text_tokens(batch), ValueError, r"no longer has the shape.*batch\[rows\]")


def test_special_and_unknown_tokens_are_never_target_or_control():
    tokenizer, batch = bert_like(["her zebra I saw", "zebra her again"])
    for token in (1, 2, 3):  # the last is <unk>
        message = f"token {token} is a special token, or stands for unknown words, and is no text"
        assert_refused(lambda token=token: find_token(batch, token), ValueError, message)
    for word, name in (("zebra", "<unk>"), ("[SEP]", r"\[SEP\]")):
        message = rf"does not know '{re.escape(word)}', or has it as a special token \('{name}'\)"
        assert_refused(lambda word=word: token_id_of(tokenizer, word), ValueError, message)
    positions = find_token(batch, 6)
    assert positions.tolist() == [1, 2]
    message = "no text stands right before the target in 2 sentences: 0, 1"
    assert_refused(lambda: control_positions(batch, positions), ValueError, message)
    generator = torch.Generator().manual_seed(0)
    drawn = {tuple(control_positions(batch, positions, "random", generator).tolist()) for _ in range(50)}
    assert drawn == {(3, 3), (4, 3)}


# ---- tokens --------------------------------------------------------------------------------------


def test_token_id_of_is_the_id_of_one_token_without_special_ones(words, smollm2):
    words.backend_tokenizer.post_processor = TemplateProcessing("<eos> $A <eos>", special_tokens=[("<eos>", EOS)])
    assert words("her")["input_ids"] == [EOS, HER, EOS]
    assert token_id_of(words, "her") == HER
    for text, came in ((" umbrellas met", r"\d+ for ' umbrellas met': \[' umb.*' met'\]"), ("", r"0 for '': \[\]")):
        message = f"expected one token, got {came}. Choose a word that is one token .*, or one of these pieces"
        assert_refused(lambda text=text: token_id_of(smollm2[1], text), ValueError, message)


@pytest.mark.parametrize("name", ["smollm2", "minilm"])
def test_tokens_at_are_the_tokens_of_that_stretch(request, name):
    (_, tokenizer), text = request.getfixturevalue(name), "I met hermeneutics."
    ids, at, is_text = tokens_at(tokenizer, text, 6, 6 + len("hermeneutics"))
    every = tokenizer(text)["input_ids"]
    assert len(ids) > 1 and ids == tuple(every[i] for i in at)
    assert tokenizer.decode(ids).strip() == "hermeneutics"
    assert is_text == [token not in tokenizer.all_special_ids for token in every]


def test_tokens_at_counts_a_token_that_the_stretch_only_touches(words):
    assert tokens_at(words, "I saw her", 3, 7) == ((SAW, HER), [1, 2], [True] * 3)
    assert tokens_at(words, "I saw her", 5, 6)[:2] == ((), [])  # the space belongs to neither


def spaced(prepend):
    """A tokenizer of words with their space, which it puts in front of a text too if told to, as Llama 2 does."""
    words = ["▁", "▁her", "her", "▁.", ".", "<unk>"]
    backend = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=5))
    before = [normalizers.Prepend("▁")] if prepend else []
    backend.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


def test_word_with_its_space_is_the_token_that_stands_in_sentences():
    """Also where the tokenizer puts a space of its own in front."""
    prepending, plain = spaced(True), spaced(False)
    assert prepending(" her", add_special_tokens=False)["input_ids"] == [0, 1]  # two tokens
    assert [token_id_of(tokenizer, " her") for tokenizer in (prepending, plain)] == [1, 1]
    assert [token_id_of(tokenizer, "her") for tokenizer in (prepending, plain)] == [1, 2]


class Slow:
    """The tokens of another tokenizer without offsets."""

    is_fast = False

    def __init__(self, fast):
        self.fast, self.all_special_ids = fast, fast.all_special_ids

    def __call__(self, text, return_offsets_mapping=False, **options):
        assert not return_offsets_mapping
        return self.fast(text, **options)


def test_tokens_at_needs_no_offsets_where_the_parts_make_up_the_whole(minilm, smollm2):
    text = "I met hermeneutics , today"
    for _, fast in (minilm, smollm2):
        for start, end in ((6, 18), (0, 1), (21, 26)):
            ids, at, is_text = tokens_at(Slow(fast), text, start, end)
            assert (ids, at) == tokens_at(fast, text, start, end)[:2]
            assert is_text == [token not in fast.all_special_ids for token in fast(text)["input_ids"]]
        message = "does not tell which tokens 'her' is: choose a word"
        assert_refused(lambda fast=fast: tokens_at(Slow(fast), text, 6, 9), ValueError, message)


def test_find_token_takes_the_first_or_the_last_but_never_padding():
    words = word_tokenizer(WORDS, pad_token="her")  # padding with the id of the target
    sentences = ["saw her", "I saw her and met her"]
    for side, first, last in (("right", [1, 2], [1, 5]), ("left", [5, 2], [5, 5])):
        ids = words(sentences, return_tensors="pt", padding=True, padding_side=side)
        assert find_token(ids, HER).tolist() == find_token(ids, HER, occurrence="first").tolist() == first
        assert find_token(ids, HER, occurrence="last").tolist() == last
    message = "expected occurrence 'first' or 'last', got 'second'"
    assert_refused(lambda: find_token(ids, HER, occurrence="second"), ValueError, message)


def test_find_token_lists_the_sentences_without_the_target(words):
    batch = encode(words, ["I saw her", "I saw again", "met today"])
    message = r"token 5 is absent from 2 of 3 sentences: 1 \('I saw again'\), 2 \('met today'\)\. Leave those out, or"
    assert_refused(lambda: find_token(batch, HER), ValueError, message)
    unknown = words(["I saw her"] + ["I saw again"] * 10, return_tensors="pt", padding=True)  # no sentences in it
    message = r"absent from 10 of 11 sentences: 1, 2, 3, 4, 5, 6, 7, 8, … \(10 in all\)"
    assert_refused(lambda: find_token(unknown, HER), ValueError, message)
    assert shortened(range(8)) == "0, 1, 2, 3, 4, 5, 6, 7"


# ---- control tokens ------------------------------------------------------------------------------


def left_padded(words, sentences):
    return words(sentences, return_tensors="pt", padding=True, padding_side="left")


def drawn(words, sentence, target, seed=0):
    """The positions that a random control takes in one sentence, 200 times."""
    batch, positions = encode(words, [sentence, LONG]), torch.tensor([target, 2])  # the longer one adds padding
    generator = torch.Generator().manual_seed(seed)
    return [int(control_positions(batch, positions, "random", generator)[0]) for _ in range(200)]


@pytest.mark.parametrize(("make", "target"), [(encode, [2, 2]), (left_padded, [4, 2])])
def test_previous_control_is_the_token_before_the_target(words, make, target):
    batch = make(words, ["I saw her", "I met her and saw"])
    positions = find_token(batch, HER)
    assert positions.tolist() == target
    assert batch["input_ids"][torch.arange(2), control_positions(batch, positions)].tolist() == [SAW, MET]
    batch = make(words, ["her again", "I saw her", "her"])
    message = "no text stands right before the target in 2 sentences: 0, 2. Leave.*use kind='random'"
    assert_refused(lambda: control_positions(batch, find_token(batch, HER)), ValueError, message)


def test_random_control_takes_every_other_token_but_the_first_repeatably(words):
    draws = drawn(words, "I saw her and met her", 2)
    assert set(draws) == {1, 3, 4}  # nor the second "her"
    assert set(drawn(words, "I her her", 1)) == {0}  # unless nothing else is left
    assert draws == drawn(words, "I saw her and met her", 2) != drawn(words, "I saw her and met her", 2, seed=1)


@pytest.mark.parametrize(
    ("sentences", "options", "message"),
    [
        (["I saw her"], ("next",), "expected kind 'previous' or 'random', got 'next'"),
        (["I saw her"], ("random",), r"needs a generator.*torch\.Generator\(\)\.manual_seed\(0\)"),
        (
            ["I saw her", "her her"],
            ("random", torch.Generator()),
            "no text other than the target in sentences 1: leave",
        ),
    ],
)
def test_impossible_control_is_refused(words, sentences, options, message):
    batch = encode(words, sentences)
    assert_refused(lambda: control_positions(batch, find_token(batch, HER), *options), ValueError, message)
