"""`helpers.i18n` and `helpers.sentences`: labels in two languages, and the sentence sets."""

import re
import string
import unicodedata

import pytest

from helpers import get_language, label, load_sentences, say, set_language
from helpers.settings import LANGUAGES
from helpers.teaching.labels import LABELS
from helpers.text import TARGETS, sentence_sets

every_label = pytest.mark.parametrize("key", LABELS)
every_set = pytest.mark.parametrize("name", sentence_sets())


@pytest.fixture(autouse=True)
def restore_language():
    before = get_language()
    yield
    set_language(before)


# languages


def test_the_language_chosen_is_the_language_in_use():
    for language in ("vi", "en", "vi"):
        set_language(language)
        assert get_language() == language
    assert LANGUAGES == ("vi", "en")


@pytest.mark.parametrize("language", ("fr", "VI", "", "vi_VN", None, 1))
def test_an_unknown_language_is_refused_and_changes_nothing(language):
    set_language("vi")
    with pytest.raises(ValueError, match=rf"unknown language {language!r}: expected 'vi'.*or 'en'"):
        set_language(language)
    assert get_language() == "vi"


def test_say_gives_the_text_in_the_language_in_use():
    set_language("vi")
    assert say("tầng", "layer") == "tầng"
    set_language("en")
    assert say("tầng", "layer") == "layer"


@pytest.mark.parametrize("language", LANGUAGES)
def test_say_gives_composed_characters(language):
    set_language(language)
    text = "độ tương đồng, café"
    decomposed = unicodedata.normalize("NFD", text)
    assert decomposed != text
    assert say(decomposed, decomposed) == text


def test_a_label_is_given_in_the_language_in_use():
    set_language("vi")
    assert label("correlation") == "hệ số tương quan Pearson"
    set_language("en")
    assert label("correlation") == "Pearson correlation"


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_unknown_key_is_its_own_label(language):
    set_language(language)
    assert [label(key) for key in ("Q", "K", "V", "QK", "no such key")] == ["Q", "K", "V", "QK", "no such key"]


@every_label
def test_every_label_has_both_languages(key):
    assert len(LABELS[key]) == 2
    for language, text in zip(LANGUAGES, LABELS[key], strict=True):
        assert text.strip() == text != ""
        assert unicodedata.is_normalized("NFC", text)
        set_language(language)
        assert label(key) == text


@every_label
def test_both_languages_of_a_label_have_the_same_places_to_fill(key):
    places = [[field for _, field, *_ in string.Formatter().parse(text) if field is not None] for text in LABELS[key]]
    assert places[0] == places[1]


# sentences


def test_there_is_a_set_for_each_of_the_three_target_words():
    assert sentence_sets() == ("cua", "her", "water")
    assert load_sentences() == load_sentences("her")


@every_set
def test_a_set_has_54_different_sentences(name):
    sentences = load_sentences(name)
    assert len(sentences) == 54
    assert len({sentence.casefold() for sentence in sentences}) == 54


@every_set
def test_every_sentence_has_6_to_14_words(name):
    assert [s for s in load_sentences(name) if not 6 <= len(s.split()) <= 14] == []


@every_set
def test_the_target_word_stands_once_in_every_sentence_with_a_space_before_it(name):
    word = TARGETS.get(name, name)
    for sentence in load_sentences(name):
        assert len(re.findall(rf"\b{word}\b", sentence, flags=re.IGNORECASE)) == 1, sentence
        assert len(re.findall(rf" {word}\b", sentence)) == 1, sentence


@every_set
def test_every_sentence_is_one_clean_line(name):
    for sentence in load_sentences(name):
        assert sentence == " ".join(sentence.split()), sentence
        assert sentence[0].isupper() and sentence[-1] in ".?!", sentence
        assert unicodedata.is_normalized("NFC", sentence)


def test_a_changed_list_does_not_change_the_set():
    load_sentences("her").clear()
    assert len(load_sentences("her")) == 54


@pytest.mark.parametrize("name", ("his", "Her", "", "../data/sentences_her"))
def test_an_unknown_set_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=rf"no sentence set '{re.escape(name)}': expected one of cua, her, water"):
        load_sentences(name)
