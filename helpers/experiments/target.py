"""The reader's word in the reader's sentences: which token stands for it, and where.

A word may be one token or several, Vietnamese ones mostly several: then its last token is studied,
which in a causal model is the only one that has seen the whole word.
"""

from dataclasses import dataclass

import regex
import torch
from transformers.convert_slow_tokenizer import bytes_to_unicode

from helpers.capture import is_causal, longest_input
from helpers.experiments.study import FEWEST, StudyError, cleaned
from helpers.settings import message
from helpers.text import SentenceBatch, encode, tokens_at

# Where a word begins and ends: the boundaries of Unicode (UAX 29), and those in "end.Begin", "water's" and "l'eau".
# In scripts without spaces UAX 29 has one almost everywhere; there a word is at least whole syllables.
BEGIN = r"(?:\b|(?<=\p{L}[.:])|(?<=\p{L}['’])(?=[aeiouyhàâéèêëîïôùûœ]))(?<![\p{Logical_Order_Exception}\p{InSC=Virama}\p{InSC=Invisible_Stacker}])"
END = r"(?:\b|(?=[.:]\p{L}|['’]s\b))(?!(?!\p{Logical_Order_Exception})\p{InSC=Vowel_Dependent})"
UNSPACED = regex.compile(r"[\p{Ideographic}\p{Hiragana}\p{Katakana}\p{Line_Break=SA}]")  # SA: Thai, Lao, Khmer, ...


@dataclass(frozen=True)
class Target:
    """The target token in each sentence, and what it may be compared with."""

    word: str
    pieces: tuple  #: the tokens of the word, readable; the target is the last one
    batch: SentenceBatch
    positions: torch.Tensor  #: int64 `[sentence]`
    control: torch.Tensor  #: int64 `[sentence]`: the token before the word; after it, where the word stands first
    n_distinct: int  #: different texts that the target sees: in a causal model, up to and including itself
    causal: bool


def find_word(model, tokenizer, sentences, word, piece=None, *, drop_missing=False):
    """The last token of a word in every sentence (its first occurrence).

    The whole word is looked for (`word_in`), as the tokenizer writes it inside a sentence; so the piece found is
    the end of that very word, and not another place where its id happens to stand.

    Args:
        model, tokenizer: from `open_model`.
        sentences: from `read_sentences`.
        word: in the letters of the sentences, e.g. "her"; cleaned as they are (`cleaned`).
        piece: "last" agrees to a word of several tokens, of which the last is studied.
        drop_missing: leave out sentences without the word instead of refusing.

    Raises:
        StudyError: no word, unknown to the tokenizer, several tokens without piece="last", missing from
            some sentences, a sentence too long for the model, or a tokenizer that does not tell where a word stands.
    """
    word = cleaned(str(word or ""))
    if not word:
        raise StudyError(message("no_word"))
    for i, sentence in enumerate(sentences, start=1):
        n, most = len(tokenizer(sentence, verbose=False)["input_ids"]), longest_input(model)
        if n > most:
            raise StudyError(message("long_sentence", i=i, n=n, most=most))
    try:
        pieces = pieces_of(tokenizer, word)
        shown = tuple(readable(tokenizer, token) for token in pieces)
        if not pieces or tokenizer.unk_token_id in pieces:
            raise StudyError(message("unknown_to_tokenizer", word=word))
        if len(pieces) > 1 and piece != "last":
            raise StudyError(message("several_pieces", word=word, n=len(pieces), joined=" + ".join(shown)))
        found = [_find(tokenizer, sentence, word, pieces) for sentence in sentences]
    except ValueError as error:  # of a tokenizer that does not tell which tokens stand where
        raise StudyError(str(error)) from None
    if drop_missing:
        sentences = [sentence for sentence, at in zip(sentences, found, strict=True) if at]
        found = [at for at in found if at]
    missing = [f"{i} “{sentence}”" for i, (sentence, at) in enumerate(zip(sentences, found, strict=True), 1) if not at]
    if missing:
        which = "; ".join(missing[:3] + ["…"] * (len(missing) > 3))
        raise StudyError(message("word_missing", word=word, n=len(missing), which=which))
    if len(sentences) < FEWEST:
        raise StudyError(message("few_with_word", n=len(sentences), word=word, fewest=FEWEST))
    batch = encode(tokenizer, sentences)
    positions, control = torch.tensor(found).T  # each [sentence]
    causal = is_causal(model)
    rows = zip(batch["input_ids"].tolist(), positions.tolist(), strict=True)
    seen = {tuple(ids[: end + 1] if causal else ids) for ids, end in rows}
    return Target(word, shown, batch, positions, control, len(seen), causal)


def pieces_of(tokenizer, word):
    """Ids of the tokens of a word inside a sentence: after a space, but in scripts that have none between words."""
    before = "a" if UNSPACED.search(word) else "a "
    return tokens_at(tokenizer, before + word, len(before), len(before) + len(word))[0]


def word_in(tokenizer, sentence, word, pieces):
    """(positions of the word's tokens, which tokens are text) at the first occurrence of the whole word with these
    pieces, or None.  "her" is no part of "hers" nor of "her2", "don" none of "don't", but "her" of "her-self".

    In scripts without spaces (Chinese, Thai, ...) no longer word can be told apart that is made of whole syllables.
    """
    for match in regex.finditer(BEGIN + regex.escape(word) + END, sentence, regex.WORD | regex.IGNORECASE):
        ids, at, is_text = tokens_at(tokenizer, sentence, *match.span())
        if ids == pieces:
            return at, is_text
    return None


def _find(tokenizer, sentence, word, pieces):
    """(position of the last piece, position of the control) at the first occurrence, or None."""
    at, is_text = word_in(tokenizer, sentence, word, pieces) or ([], [])
    beside = [at[0] - 1, at[-1] + 1] if at else []
    return next(((at[-1], i) for i in beside if 0 <= i < len(is_text) and is_text[i]), None)


def readable(tokenizer, token):
    """Text of a token; bytes of an incomplete letter in hexadecimal.

    A byte-level tokenizer writes each byte as a letter of its own alphabet: that of GPT-2.
    """
    text = tokenizer.decode([token])
    if "\ufffd" not in text:
        return f"“{text}”"
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    return "<" + " ".join(f"{byte_of.get(letter, 63):02X}" for letter in tokenizer.convert_ids_to_tokens(token)) + ">"
