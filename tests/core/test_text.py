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


@pytest.fixture
def words():
    """A tokenizer whose tokens are words, so that every id can be read off."""
    return word_tokenizer(WORDS, pad_token="<pad>", eos_token="<eos>")


def padded(words, sentences, side="right"):
    """A batch that was made by hand."""
    return words(sentences, return_tensors="pt", padding=True, padding_side=side)


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


def test_list_of_sentences_is_the_readers_own():
    load_sentences("her").clear()
    load_ordinary().clear()
    assert (len(load_sentences()), len(load_ordinary())) == (54, 80)


@pytest.mark.parametrize(("special", "pad"), [({"pad_token": "<pad>"}, PAD), ({"eos_token": "<eos>"}, EOS)])
def test_encode_pads_on_the_right_and_leaves_the_tokenizer_as_it_is(special, pad):
    words = word_tokenizer(WORDS, padding_side="left", **special)
    before = (words.padding_side, words.pad_token, len(words))
    batch = encode(words, (text for text in ("I saw her", "her")))
    assert batch["input_ids"].tolist() == [[I, SAW, HER], [HER, pad, pad]]
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


def bert_like(sentences):
    """Words between [CLS] and [SEP], with one of them unknown: (tokenizer, batch)."""
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer, around = word_tokenizer([*special.values(), *WORDS[2:]], **special), [("[CLS]", 1), ("[SEP]", 2)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=around)
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
    positions = find_token(batch, token_id_of(tokenizer, "her"))  # without [CLS] and [SEP]
    assert positions.tolist() == [1, 2]
    message = "no text stands right before the target in 2 sentences: 0, 1"
    assert_refused(lambda: control_positions(batch, positions), ValueError, message)

    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        return [tuple(control_positions(batch, positions, "random", generator).tolist()) for _ in range(50)]

    assert drawn(0) == drawn(0) != drawn(1)
    assert set(drawn(0)) == {(3, 3), (4, 3)}  # every one, but the first and the target


def spaced(prepend):
    """A tokenizer of words with their space, which it puts in front of a text too if told to, as Llama 2 does."""
    words = ["▁", "▁her", "her", "▁.", ".", "<unk>"]
    backend = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=5))
    before = [normalizers.Prepend("▁")] if prepend else []
    backend.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


def test_word_with_its_space_is_the_token_that_stands_in_sentences():
    assert spaced(True)(" her", add_special_tokens=False)["input_ids"] == [0, 1]  # two tokens
    for prepend, bare in ((True, 1), (False, 2)):
        assert [token_id_of(spaced(prepend), word) for word in (" her", "her")] == [1, bare]


def slow(fast):
    """The same tokens without offsets."""

    def tokenizer(text, return_offsets_mapping=False, **options):
        assert not return_offsets_mapping
        return fast(text, **options)

    tokenizer.is_fast, tokenizer.all_special_ids = False, fast.all_special_ids
    return tokenizer


def test_tokens_at_are_those_of_the_stretch_with_or_without_offsets(minilm, smollm2):
    text = "I met hermeneutics , today"
    for _, fast in (minilm, smollm2):
        every = fast(text)["input_ids"]
        is_text = [token not in fast.all_special_ids for token in every]
        for start, end in ((6, 18), (0, 1), (21, 26)):
            ids, at, text_here = tokens_at(fast, text, start, end)
            assert ids == tuple(every[i] for i in at) and (len(ids) > 1) == (start == 6) and text_here == is_text
            assert fast.decode(ids).strip().casefold() == text[start:end].casefold()
            assert tokens_at(slow(fast), text, start, end) == (ids, at, is_text)
        assert tokens_at(fast, text, 3, 8)[1] == tokens_at(fast, text, 2, 5)[1] + tokens_at(fast, text, 6, 18)[1][:1]
        message = "does not tell which tokens 'her' is: choose a word"
        assert_refused(lambda fast=fast: tokens_at(slow(fast), text, 6, 9), ValueError, message)


def test_target_and_the_token_before_it_are_found_on_either_side_of_padding():
    words = word_tokenizer(WORDS, pad_token="her")  # padding with the id of the target
    for side, first, last in (("right", [1, 2], [1, 5]), ("left", [5, 2], [5, 5])):
        batch = padded(words, ["saw her", "I saw her and met her"], side)
        assert find_token(batch, HER).tolist() == find_token(batch, HER, occurrence="first").tolist() == first
        assert find_token(batch, HER, occurrence="last").tolist() == last
        control = control_positions(batch, find_token(batch, HER, occurrence="last"))
        assert batch["input_ids"][torch.arange(2), control].tolist() == [SAW, MET]
    batch = padded(words, ["her again", "I saw her", "her"], "left")
    message = "no text stands right before the target in 2 sentences: 0, 2. Leave.*use kind='random'"
    assert_refused(lambda: control_positions(batch, torch.tensor([1, 2, 2])), ValueError, message)


def test_long_list_of_sentences_without_the_target_is_cut_short(words):
    unknown = padded(words, ["I saw her"] + ["I saw again"] * 10)  # it holds no sentences
    message = r"absent from 10 of 11 sentences: 1, 2, 3, 4, 5, 6, 7, 8, … \(10 in all\)"
    assert_refused(lambda: find_token(unknown, HER), ValueError, message)
    assert shortened(range(8)) == "0, 1, 2, 3, 4, 5, 6, 7"
