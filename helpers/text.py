"""Sentences, the tokens in them, and where the target stands."""

from importlib import resources

import torch
from transformers import BatchEncoding

TARGETS = {"cua": "của"}
"""Target words that are not the name of their set: file names are ASCII."""


def sentence_sets():
    """Names of the sets.  Each is the target word of its sentences, but for those in `TARGETS`.

    >>> sentence_sets()
    ('cua', 'her', 'water')
    """
    files = resources.files("helpers").joinpath("data").iterdir()
    return tuple(sorted(f.name[len("sentences_") : -len(".txt")] for f in files if f.name.startswith("sentences_")))


def load_sentences(name="her"):
    """The sentences of one set, as a list of strings.

    Every sentence holds the word once, with a space before it.

    Raises:
        ValueError: no such set.

    >>> len(load_sentences("her")), " her" in load_sentences("her")[0]
    (54, True)
    """
    if name not in sentence_sets():
        raise ValueError(f"no sentence set {name!r}: expected one of {', '.join(sentence_sets())}")
    text = resources.files("helpers").joinpath("data", f"sentences_{name}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def load_ordinary():
    """Eighty ordinary sentences with no word in common that matters, for measuring a model's loss.

    >>> len(load_ordinary())
    80
    """
    text = resources.files("helpers").joinpath("data", "ordinary.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


class SentenceBatch(BatchEncoding):
    """What the tokenizer returns, and the sentences it came from (for messages)."""

    sentences = ()


def encode(tokenizer, sentences):
    """Tokenize sentences into one batch, padded on the right.

    Args:
        tokenizer: of the model; where it has no pad token, its end-of-text token is used.
        sentences: strings, none empty.

    Returns:
        `SentenceBatch` with `input_ids` and `attention_mask`, int64 `[sentence, token]`.

    Raises:
        ValueError: no sentences, an empty one, or no token to pad with.
    """
    if isinstance(sentences, str):
        raise TypeError(f"expected a list of sentences, got one string: encode(tokenizer, [{sentences[:30]!r}])")
    sentences = list(sentences)
    if not sentences:
        raise ValueError("expected at least one sentence, got an empty list: load_sentences('her') has some")
    empty = [i for i, sentence in enumerate(sentences) if not sentence.strip()]
    if empty:
        raise ValueError(f"expected text in every sentence, found nothing at index {some(empty)}: leave those out")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError("the tokenizer has neither a pad nor an end-of-text token: set tokenizer.pad_token")
        tokenizer.pad_token = tokenizer.eos_token
    batch = SentenceBatch(tokenizer(sentences, return_tensors="pt", padding=True, padding_side="right").data)
    batch.sentences = tuple(sentences)
    return batch


def token_id_of(tokenizer, text):
    """The id of the one token that `text` is.  Mind the leading space: " her", not "her".

    Raises:
        ValueError: `text` is several tokens (shown) or none.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        pieces = [tokenizer.decode([i]) for i in ids]
        raise ValueError(
            f"expected one token, got {len(ids)} for {text!r}: {pieces}. "
            "Choose a word that is one token (mostly with its leading space), or one of these pieces"
        )
    return ids[0]


def find_token(batch, token_id, *, occurrence="first"):
    """Position of a token in every sentence, padding excluded.

    Args:
        batch: from `encode`, right- or left-padded.
        token_id: from `token_id_of`.
        occurrence: "first" or "last", where a sentence has several.

    Returns:
        int64 `[sentence]`, indices on the token axis of the batch.

    Raises:
        ValueError: some sentences do not contain the token (they are listed).
    """
    if occurrence not in ("first", "last"):
        raise ValueError(f"expected occurrence 'first' or 'last', got {occurrence!r}")
    found = (batch["input_ids"] == token_id) & batch["attention_mask"].bool()  # [sentence, token]
    missing = (~found.any(dim=1)).nonzero().flatten().tolist()
    if missing:
        sentences = getattr(batch, "sentences", ())
        shown = [f"{i} ({sentences[i]!r})" if sentences else str(i) for i in missing]
        raise ValueError(
            f"token {token_id} is absent from {len(missing)} of {len(found)} sentences: {some(shown)}. "
            "Leave those out, or check the leading space of the target (' her', not 'her')"
        )
    found = found.long()
    if occurrence == "first":
        return found.argmax(dim=1)  # argmax takes the first maximum
    return found.shape[1] - 1 - found.flip(1).argmax(dim=1)


def control_positions(batch, positions, kind="previous", generator=None):
    """Positions of a control token in the same sentences.

    Args:
        batch: from `encode`.
        positions: `[sentence]`, of the target.
        kind: "previous": the token before the target.  "random": one drawn per sentence among its
            other real tokens, never one with the target's id, nor the first token of the text (a
            causal model parks attention there) unless nothing else is left.
        generator: a `torch.Generator`, needed for "random".

    Returns:
        int64 `[sentence]`.

    Raises:
        ValueError: no such token in some sentences, unknown kind, or no generator for "random".
    """
    real = batch["attention_mask"].bool()  # [sentence, token]
    start = real.long().argmax(dim=1)  # [sentence] first real token
    if kind == "previous":
        at_start = (positions <= start).nonzero().flatten().tolist()
        if at_start:
            raise ValueError(
                f"the target stands first in {len(at_start)} sentences, so nothing precedes it: {some(at_start)}. "
                "Leave those out, or use kind='random'"
            )
        return positions - 1
    if kind != "random":
        raise ValueError(f"expected kind 'previous' or 'random', got {kind!r}")
    if generator is None:
        raise ValueError(
            "kind='random' needs a generator, so that a run can be repeated: torch.Generator().manual_seed(0)"
        )
    ids = batch["input_ids"]
    target_id = ids.gather(1, positions.unsqueeze(1))  # [sentence, 1]
    other = real & (ids != target_id)
    inner = other.scatter(1, start.unsqueeze(1), False)
    other = torch.where(inner.any(dim=1, keepdim=True), inner, other)
    alone = (~other.any(dim=1)).nonzero().flatten().tolist()
    if alone:
        raise ValueError(f"no token other than the target in sentences {some(alone)}: leave those out")
    return torch.multinomial(other.float().cpu(), 1, generator=generator).flatten().to(positions.device)


def some(items, most=8):
    shown = ", ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown}, … ({len(items)} in all)"
