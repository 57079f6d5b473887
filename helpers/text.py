"""Sentences, the tokens in them, and where the target stands."""

from difflib import get_close_matches
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding

from helpers.settings import message, say

DATA = Path(__file__).with_name("data")
TARGETS = {"cua": "của"}  #: target words that are not the name of their set: file names are ASCII


def sentence_sets():
    """Names of the sets.  Each is the target word of its sentences, but for those in `TARGETS`.

    >>> sentence_sets()
    ('cua', 'her', 'water')
    """
    return tuple(sorted(file.stem.removeprefix("sentences_") for file in DATA.glob("sentences_*.txt")))


def load_sentences(name="her"):
    """The sentences of one set, as a list of strings.  Every sentence holds the word once, with a space before it.
    Raises `ValueError` where there is no such set.

    >>> len(load_sentences("her")), " her" in load_sentences("her")[0]
    (54, True)
    """
    if name not in (known := sentence_sets()):
        meant = [message("meant", near=near) for near in get_close_matches(str(name).lower(), known, 1)]
        raise ValueError("".join(meant) + message("no_set", name=name, known=", ".join(known)))
    return _lines(f"sentences_{name}.txt")


def load_ordinary():
    """Eighty ordinary sentences with no word in common that matters, for measuring a model's loss.

    >>> len(load_ordinary())
    80
    """
    return _lines("ordinary.txt")


def _lines(file):
    return [line for line in (DATA / file).read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]


class SentenceBatch(BatchEncoding):
    """What the tokenizer returns; also the sentences, and which tokens are text.  `batch[rows]` keeps all of it."""

    sentences = ()  #: strings, for messages
    text = None  #: bool `[sentence, token]`, on the CPU: see `text_tokens`

    def __getitem__(self, item):
        if isinstance(item, str):
            return super().__getitem__(item)
        rows = torch.arange(len(self["input_ids"]))[item].reshape(-1).tolist()
        part = SentenceBatch({name: value[rows] for name, value in self.items()})
        part.sentences = tuple(self.sentences[row] for row in rows) if self.sentences else ()
        part.text = None if self.text is None else self.text[rows]
        return part

    __getstate__ = object.__getstate__  # all of it, for copies and other processes

    def __setstate__(self, state):
        self.__dict__.update(state)


def encode(tokenizer, sentences):
    """Tokenize sentences into one batch, padded on the right.

    Args:
        tokenizer: of the model; without a pad token, its end-of-text token is used.  It stays as it is.
        sentences: strings, none empty.

    Returns:
        `SentenceBatch` with `input_ids` and `attention_mask`, int64 `[sentence, token]`.

    Raises:
        ValueError, TypeError: no sentences, or an empty one; one string, no list.
    """
    if isinstance(sentences, str):
        raise TypeError(message("one_string", start=sentences[:30]))
    sentences = list(sentences)
    if not sentences:
        raise ValueError(message("no_sentences"))
    if empty := [i for i, text in enumerate(sentences) if not isinstance(text, str) or not text.strip()]:
        raise ValueError(message("empty_sentences", which=shortened(empty)))
    padding = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)  # masked anyway
    columns = {}  # padded here: the tokenizer's own padding would need a pad token set on it
    # input_ids, attention_mask, special_tokens_mask, with some token_type_ids
    for name, rows in tokenizer(sentences, return_special_tokens_mask=True).items():
        rows = [torch.tensor(row, dtype=torch.int64) for row in rows]
        columns[name] = pad_sequence(rows, batch_first=True, padding_value=padding if name == "input_ids" else 0)
    special = columns.pop("special_tokens_mask").bool()  # without those that stand in the text itself
    special |= torch.isin(columns["input_ids"], torch.tensor(tokenizer.all_special_ids, dtype=torch.int64))
    batch = SentenceBatch(columns)
    batch.sentences, batch.text = tuple(sentences), columns["attention_mask"].bool() & ~special
    return batch


def text_tokens(batch):
    """Which tokens are text, and not padding, special (`[CLS]`, `<s>`) or unknown ones: bool `[sentence, token]`.

    `encode` knows.  Of a batch that was made by hand, every token is taken for text that `attention_mask` (and
    `special_tokens_mask`, where there is one) lets through.
    """
    text = getattr(batch, "text", None)
    if text is None:
        text = batch["attention_mask"].bool()
        text = text & ~batch["special_tokens_mask"].bool() if "special_tokens_mask" in batch else text
    if text.shape != batch["input_ids"].shape:
        raise ValueError(message("changed_batch"))
    return text.to(batch["input_ids"].device)


def token_id_of(tokenizer, text):
    """The id of the one token that `text` is.  Mind the leading space: " her" is the word as sentences have it,
    also where the tokenizer puts a space in front of every text by itself (Llama 2).

    Raises:
        ValueError: several tokens (they are shown) or none, a special token, or a word that the tokenizer does not know.
    """
    ids, dot, after_dot = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (text, ".", f".{text}"))
    if text.startswith(" ") and len(after_dot) == len(dot) + 1 and after_dot[:-1] == dot:
        ids = after_dot[-1:]
    pieces = [tokenizer.decode([i]) for i in ids]
    if len(ids) != 1:
        raise ValueError(message("several_tokens", text=text, n=len(ids), pieces=pieces))
    if ids[0] in tokenizer.all_special_ids:
        raise ValueError(message("unknown_word", text=text, token=pieces[0]))
    return ids[0]


def tokens_at(tokenizer, text, start, end):
    """The tokens that overlap `text[start:end]`: (ids, positions, is_text).

    Positions count special tokens, as `encode` does; is_text says which tokens of the whole are text (`text_tokens`).
    Raises `ValueError` where a tokenizer without offsets (`is_fast` is False) leaves open which tokens those are.
    """
    encoded = tokenizer(text, return_offsets_mapping=tokenizer.is_fast, return_special_tokens_mask=True, verbose=False)
    ids, added, special = encoded["input_ids"], encoded["special_tokens_mask"], set(tokenizer.all_special_ids)
    is_text = [not mark and token not in special for token, mark in zip(ids, added, strict=True)]
    if tokenizer.is_fast:
        at = [i for i, (first, last) in enumerate(encoded["offset_mapping"]) if first < end and last > start]
        return tuple(ids[i] for i in at), at, is_text
    own = [i for i, mark in enumerate(added) if not mark]
    before = len(text[:start].rstrip())  # the space may belong to the token
    parts = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in (text[:before], text[before:end], text[end:])]
    if [*parts[0], *parts[1], *parts[2]] != [ids[i] for i in own]:
        raise ValueError(message("no_offsets", text=text[start:end]))
    at = own[len(parts[0]) :][: len(parts[1])]
    return tuple(parts[1]), at, is_text


def find_token(batch, token_id, *, occurrence="first"):
    """Position of a token in the text of every sentence (`text_tokens`): int64 `[sentence]`, on the batch's token axis.

    Args:
        batch: from `encode`, right- or left-padded.
        token_id: from `token_id_of`.
        occurrence: "first" or "last", where a sentence has several.

    Raises:
        ValueError: some sentences do not contain the token (they are listed).
    """
    if occurrence not in ("first", "last"):
        raise ValueError(message("occurrence", came=occurrence))
    at_any = batch["input_ids"] == token_id
    found = at_any & text_tokens(batch)  # [sentence, token]
    if not found.any() and (at_any & batch["attention_mask"].bool()).any():
        raise ValueError(message("special_token", token=token_id))
    if missing := (~found.any(dim=1)).nonzero().flatten().tolist():
        sentences = getattr(batch, "sentences", ())
        shown = shortened([f"{i} ({sentences[i]!r})" if sentences else i for i in missing])
        raise ValueError(message("no_target", token=token_id, n=len(missing), all=len(found), which=shown))
    if occurrence == "first":
        return found.long().argmax(dim=1)  # argmax takes the first maximum
    return found.shape[1] - 1 - found.long().flip(1).argmax(dim=1)


def control_positions(batch, positions, kind="previous", generator=None):
    """Positions of a control token in the same sentences, int64 `[sentence]`.

    Args:
        batch: from `encode`.
        positions: `[sentence]`, of the target.
        kind: "previous": the token before the target.  "random": one drawn per sentence among the other tokens of
            its text (`text_tokens`), never one with the target's id, nor the first token of the text (a causal
            model parks attention there) unless nothing else is left.
        generator: a `torch.Generator`, needed for "random".

    Raises:
        ValueError: no such token in some sentences, unknown kind, or no generator for "random".
    """
    text, ids = text_tokens(batch), batch["input_ids"]  # [sentence, token]
    positions = positions.to(ids.device)
    if kind == "previous":
        preceded = text.gather(1, (positions - 1).clamp_min(0).unsqueeze(1)).squeeze(1) & (positions > 0)
        if first := (~preceded).nonzero().flatten().tolist():
            raise ValueError(message("nothing_before", n=len(first), which=shortened(first)))
        return positions - 1
    if kind != "random":
        raise ValueError(message("control_kind", kind=kind))
    if generator is None:
        raise ValueError(message("generator"))
    target_id = ids.gather(1, positions.unsqueeze(1))  # [sentence, 1]
    other = text & (ids != target_id)
    inner = other.scatter(1, text.long().argmax(dim=1, keepdim=True), False)  # the first token of the text
    other = torch.where(inner.any(dim=1, keepdim=True), inner, other)
    if alone := (~other.any(dim=1)).nonzero().flatten().tolist():
        raise ValueError(message("target_alone", which=shortened(alone)))
    return torch.multinomial(other.float().cpu(), 1, generator=generator).flatten().to(positions.device)


def shortened(items, most=8):
    """The first items, with commas, and how many there are in all where some are left out."""
    more = say(f", … (tất cả {len(items)})", f", … ({len(items)} in all)") if len(items) > most else ""
    return ", ".join(str(item) for item in items[:most]) + more
