"""The reader's word in the reader's sentences: which token stands for it, and where.

A word may be one token or several, Vietnamese ones mostly several: then its last token is studied,
which in a causal model is the only one that has seen the whole word.
"""

import re
import unicodedata
from dataclasses import dataclass

import torch
from transformers.convert_slow_tokenizer import bytes_to_unicode

from helpers.capture import adapter_of
from helpers.experiments.study import FEWEST, StudyError
from helpers.settings import say
from helpers.text import SentenceBatch, encode, tokens_at


@dataclass(frozen=True)
class Target:
    """The target token in each sentence, and what it may be compared with."""

    word: str
    pieces: tuple
    """The tokens of the word, readable.  The target is the last one."""
    batch: SentenceBatch
    positions: torch.Tensor
    """int64 `[sentence]`"""
    control: torch.Tensor
    """int64 `[sentence]`: the token before the word; after it, where the word stands first."""
    n_distinct: int
    """Different texts that the target sees: in a causal model, up to and including itself."""
    causal: bool


def find_word(model, tokenizer, sentences, word, piece=None, *, drop_missing=False):
    """The last token of a word in every sentence (its first occurrence).

    The whole word is looked for, between word boundaries, as the tokenizer writes it inside a sentence; so
    the piece found is the end of that very word, and not another place where its id happens to stand.

    Args:
        model, tokenizer: from `open_model`.
        sentences: from `read_sentences`.
        word: in the letters of the sentences, e.g. "her"; spaces around it do not matter.
        piece: "last" agrees to a word of several tokens, of which the last is studied.
        drop_missing: leave out sentences without the word instead of refusing.

    Raises:
        StudyError: no word, unknown to the tokenizer, several tokens without piece="last", missing from
            some sentences, or a sentence too long for the model.
    """
    word = unicodedata.normalize("NFC", str(word or "").strip())
    if not word:
        raise StudyError(say("Chưa có từ nào: hãy điền WORD.", "There is no word: fill in WORD."))
    pieces = tokens_at(tokenizer, f"a {word}", 2, 2 + len(word))[0]
    shown = tuple(readable(tokenizer, token) for token in pieces)
    _check_pieces(tokenizer, word, pieces, shown, piece)
    found = [_find(tokenizer, sentence, word, pieces) for sentence in sentences]
    if drop_missing:
        sentences = [sentence for sentence, at in zip(sentences, found, strict=True) if at]
        found = [at for at in found if at]
    _check_sentences(model, tokenizer, word, sentences, found)
    batch = encode(tokenizer, sentences)
    positions, control = torch.tensor(found).T  # each [sentence]
    causal = adapter_of(model).causal
    rows = zip(batch["input_ids"].tolist(), positions.tolist(), strict=True)
    seen = {tuple(ids[: end + 1] if causal else ids) for ids, end in rows}
    return Target(word, shown, batch, positions, control, len(seen), causal)


def _check_pieces(tokenizer, word, pieces, shown, piece):
    if not pieces or tokenizer.unk_token_id in pieces:
        vi, en = f"Bộ tách token không biết từ “{word}”.", f"The tokenizer does not know the word “{word}”."
        raise StudyError(say(vi, en))
    if len(pieces) > 1 and piece != "last":
        n, joined = len(pieces), " + ".join(shown)
        vi = (
            f'Với mô hình này, “{word}” gồm {n} token: {joined}. Đặt PIECE = "last" để dùng token cuối '
            "(token đã thấy cả từ), hoặc chọn một từ chỉ gồm một token."
        )
        en = (
            f'For this model “{word}” is {n} tokens: {joined}. Set PIECE = "last" to study the last one '
            "(which has seen the whole word), or choose a word that is one token."
        )
        raise StudyError(say(vi, en))


def _check_sentences(model, tokenizer, word, sentences, found):
    missing = [f"{i} “{sentence}”" for i, (sentence, at) in enumerate(zip(sentences, found, strict=True), 1) if not at]
    if missing:
        n, which = len(missing), "; ".join(missing[:3] + ["…"] * (len(missing) > 3))
        vi = f"“{word}” không có trong {n} câu (viết như ở giữa câu, đúng chữ hoa, chữ thường): {which}."
        en = f"“{word}” is missing from {n} sentence(s), as it is written in mid-sentence, capitals included: {which}."
        raise StudyError(say(vi, en))
    if len(sentences) < FEWEST:
        vi = f"Chỉ {len(sentences)} câu có “{word}”, cần ít nhất {FEWEST}."
        en = f"Only {len(sentences)} sentence(s) have “{word}”; at least {FEWEST} are needed."
        raise StudyError(say(vi, en))
    most = getattr(model.config, "max_position_embeddings", None) or float("inf")
    for i, sentence in enumerate(sentences, start=1):
        length = len(tokenizer(sentence, verbose=False)["input_ids"])
        if length > most:
            vi = f"Câu {i} có {length} token, mô hình chỉ đọc được {most}: hãy rút ngắn câu ấy."
            en = f"Sentence {i} has {length} tokens, and the model reads {most} at most: shorten it."
            raise StudyError(say(vi, en))


def _find(tokenizer, sentence, word, pieces):
    """(position of the last piece, position of the control) at the first occurrence, or None."""
    for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", sentence, flags=re.IGNORECASE):
        ids, at, is_text = tokens_at(tokenizer, sentence, *match.span())
        if ids != pieces:
            continue
        for control in (at[0] - 1, at[-1] + 1):
            if 0 <= control < len(is_text) and is_text[control]:
                return at[-1], control
    return None


def readable(tokenizer, token):
    """Text of a token; bytes of an incomplete letter in hexadecimal.

    A byte-level tokenizer writes each byte as a letter of its own alphabet: that of GPT-2.
    """
    text = tokenizer.decode([token])
    if "\ufffd" not in text:
        return f"“{text}”"
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    return "<" + " ".join(f"{byte_of.get(letter, 63):02X}" for letter in tokenizer.convert_ids_to_tokens(token)) + ">"
