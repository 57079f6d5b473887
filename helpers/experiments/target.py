"""The reader's word in the reader's sentences: which token stands for it, and where.

A word may be one token or several, Vietnamese ones mostly several: then its last token is studied,
which in a causal model is the only one that has seen the whole word.
"""

import re
import unicodedata
from dataclasses import dataclass

import torch

from helpers.experiments.study import FEWEST, StudyError
from helpers.text import SentenceBatch, encode

ENCODERS = ("bert", "distilbert")  # a token sees the whole sentence, not only what comes before it


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
        raise StudyError("Chưa có từ nào: hãy điền WORD.", "There is no word: fill in WORD.")
    pieces = _tokens_of(tokenizer, f"a {word}", 2, 2 + len(word))[0]
    shown = tuple(readable(tokenizer, token) for token in pieces)
    if not pieces or tokenizer.unk_token_id in pieces:
        raise StudyError(f"Bộ tách token không biết từ “{word}”.", f"The tokenizer does not know the word “{word}”.")
    if len(pieces) > 1 and piece != "last":
        raise StudyError(
            f'Với mô hình này, “{word}” gồm {len(pieces)} token: {" + ".join(shown)}. Đặt PIECE = "last" để dùng '
            "token cuối (token đã thấy cả từ), hoặc chọn một từ chỉ gồm một token.",
            f'For this model “{word}” is {len(pieces)} tokens: {" + ".join(shown)}. Set PIECE = "last" to study the '
            "last one (which has seen the whole word), or choose a word that is one token.",
        )
    found = [_find(tokenizer, sentence, word, pieces) for sentence in sentences]
    missing = [i for i, at in enumerate(found) if at is None]
    if drop_missing:
        sentences = [sentence for sentence, at in zip(sentences, found) if at]
        found = [at for at in found if at]
    elif missing:
        which = "; ".join(f"{i + 1} “{sentences[i]}”" for i in missing[:3]) + ("; …" if len(missing) > 3 else "")
        raise StudyError(
            f"“{word}” không có trong {len(missing)} câu (viết như ở giữa câu, đúng chữ hoa, chữ thường): {which}.",
            f"“{word}” is missing from {len(missing)} sentence(s), as it is written in mid-sentence, capitals "
            f"included: {which}.",
        )
    if len(sentences) < FEWEST:
        raise StudyError(
            f"Chỉ {len(sentences)} câu có “{word}”, cần ít nhất {FEWEST}.",
            f"Only {len(sentences)} sentence(s) have “{word}”; at least {FEWEST} are needed.",
        )
    most = getattr(model.config, "max_position_embeddings", None) or float("inf")
    for i, sentence in enumerate(sentences, start=1):
        if (length := len(tokenizer(sentence, verbose=False)["input_ids"])) > most:
            raise StudyError(
                f"Câu {i} có {length} token, mô hình chỉ đọc được {most}: hãy rút ngắn câu ấy.",
                f"Sentence {i} has {length} tokens, and the model reads {most} at most: shorten it.",
            )
    batch = encode(tokenizer, sentences)
    positions, control = torch.tensor(found).T  # each [sentence]
    causal = model.config.model_type not in ENCODERS
    ids = batch["input_ids"].tolist()
    seen = {tuple(row[: end + 1] if causal else row) for row, end in zip(ids, positions.tolist())}
    return Target(word, shown, batch, positions, control, len(seen), causal)


def _tokens_of(tokenizer, text, start, end):
    """(ids, positions) of the tokens that overlap a stretch of the text, and which tokens are text at all."""
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    spans = encoded["offset_mapping"]
    at = [i for i, (a, b) in enumerate(spans) if a < end and b > start]
    return tuple(encoded["input_ids"][i] for i in at), at, [a < b for a, b in spans]


def _find(tokenizer, sentence, word, pieces):
    """(position of the last piece, position of the control) at the first occurrence, or None."""
    for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", sentence, flags=re.IGNORECASE):
        ids, at, is_text = _tokens_of(tokenizer, sentence, *match.span())
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
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in plain]
    byte_of = {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(other)}
    return "<" + " ".join(f"{byte_of.get(letter, 63):02X}" for letter in tokenizer.convert_ids_to_tokens(token)) + ">"
