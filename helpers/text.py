"""Sentences, the tokens in them, and where the target stands."""

from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding

from helpers.settings import say

DATA = Path(__file__).with_name("data")
TARGETS = {"cua": "của"}
"""Target words that are not the name of their set: file names are ASCII."""


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
        vi = f"không có bộ câu {name!r}: hãy chọn một trong các bộ {', '.join(known)}"
        raise ValueError(say(vi, f"no sentence set {name!r}: expected one of {', '.join(known)}"))
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
    """What the tokenizer returns, and the sentences it came from (for messages)."""

    sentences = ()


def encode(tokenizer, sentences):
    """Tokenize sentences into one batch, padded on the right.

    Args:
        tokenizer: of the model; without a pad token, its end-of-text token is used.  It stays as it is.
        sentences: strings, none empty.

    Returns:
        `SentenceBatch` with `input_ids` and `attention_mask`, int64 `[sentence, token]`.

    Raises:
        ValueError: no sentences, or an empty one.  TypeError: one string, no list.
    """
    if isinstance(sentences, str):
        came = f"encode(tokenizer, [{sentences[:30]!r}])"
        vi = f"cần danh sách câu, nhận được một chuỗi: {came}"
        raise TypeError(say(vi, f"expected a list of sentences, got one string: {came}"))
    sentences = list(sentences)
    if not sentences:
        vi = "cần ít nhất một câu, nhận được danh sách rỗng: có thể dùng load_sentences('her')"
        en = "expected at least one sentence, got an empty list: load_sentences('her') has some"
        raise ValueError(say(vi, en))
    if empty := [i for i, sentence in enumerate(sentences) if not sentence.strip()]:
        vi = f"câu nào cũng phải có chữ, nhưng câu ở chỉ số {shortened(empty)} thì trống: hãy bỏ những câu ấy"
        en = f"expected text in every sentence, found nothing at index {shortened(empty)}: leave those out"
        raise ValueError(say(vi, en))
    padding = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)  # masked anyway
    columns = {}  # padded here: the tokenizer's own padding would need a pad token set on it
    for name, rows in tokenizer(sentences).items():  # input_ids, attention_mask, with some token_type_ids
        rows = [torch.tensor(row, dtype=torch.int64) for row in rows]
        columns[name] = pad_sequence(rows, batch_first=True, padding_value=padding if name == "input_ids" else 0)
    batch = SentenceBatch(columns)
    batch.sentences = tuple(sentences)
    return batch


def token_id_of(tokenizer, text):
    """The id of the one token that `text` is (`ValueError`: several, shown, or none).  Mind the leading space: " her"."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        pieces = [tokenizer.decode([i]) for i in ids]
        vi = f"cần đúng một token, nhưng {text!r} gồm {len(ids)}: {pieces}. Hãy chọn một từ chỉ gồm một token "
        vi += "(thường có dấu cách đứng trước), hoặc một trong các mảnh này"
        en = f"expected one token, got {len(ids)} for {text!r}: {pieces}. Choose a word that is one token "
        en += "(mostly with its leading space), or one of these pieces"
        raise ValueError(say(vi, en))
    return ids[0]


def tokens_at(tokenizer, text, start, end):
    """The tokens that overlap `text[start:end]`: (ids, positions, is_text).

    Positions count special tokens, as `encode` does; is_text says of every token of the text that it is no special one.
    """
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    spans = encoded["offset_mapping"]
    at = [i for i, (first, last) in enumerate(spans) if first < end and last > start]
    return tuple(encoded["input_ids"][i] for i in at), at, [first < last for first, last in spans]


def find_token(batch, token_id, *, occurrence="first"):
    """Position of a token in every sentence, padding excluded: int64 `[sentence]`, on the token axis of the batch.

    Args:
        batch: from `encode`, right- or left-padded.
        token_id: from `token_id_of`.
        occurrence: "first" or "last", where a sentence has several.

    Raises:
        ValueError: some sentences do not contain the token (they are listed).
    """
    if occurrence not in ("first", "last"):
        vi = f"cần occurrence là 'first' (lần đầu) hoặc 'last' (lần cuối), nhận được {occurrence!r}"
        raise ValueError(say(vi, f"expected occurrence 'first' or 'last', got {occurrence!r}"))
    found = (batch["input_ids"] == token_id) & batch["attention_mask"].bool()  # [sentence, token]
    if missing := (~found.any(dim=1)).nonzero().flatten().tolist():
        sentences = getattr(batch, "sentences", ())
        shown = shortened([f"{i} ({sentences[i]!r})" if sentences else i for i in missing])
        vi = f"token {token_id} không có trong {len(missing)} trên {len(found)} câu: {shown}. "
        vi += "Hãy bỏ những câu ấy, hoặc xem lại dấu cách đứng trước token đích (' her', không phải 'her')"
        en = f"token {token_id} is absent from {len(missing)} of {len(found)} sentences: {shown}. "
        en += "Leave those out, or check the leading space of the target (' her', not 'her')"
        raise ValueError(say(vi, en))
    if occurrence == "first":
        return found.long().argmax(dim=1)  # argmax takes the first maximum
    return found.shape[1] - 1 - found.long().flip(1).argmax(dim=1)


def control_positions(batch, positions, kind="previous", generator=None):
    """Positions of a control token in the same sentences, int64 `[sentence]`.

    Args:
        batch: from `encode`.
        positions: `[sentence]`, of the target.
        kind: "previous": the token before the target.  "random": one drawn per sentence among its other real
            tokens, never one with the target's id, nor the first token of the text (a causal model parks
            attention there) unless nothing else is left.
        generator: a `torch.Generator`, needed for "random".

    Raises:
        ValueError: no such token in some sentences, unknown kind, or no generator for "random".
    """
    real = batch["attention_mask"].bool()  # [sentence, token]
    start = real.long().argmax(dim=1)  # [sentence] first real token
    if kind == "previous":
        if first := (positions <= start).nonzero().flatten().tolist():
            vi = f"token đích đứng đầu {len(first)} câu, trước nó không có gì: {shortened(first)}. "
            vi += "Hãy bỏ những câu ấy, hoặc dùng kind='random'"
            en = f"the target stands first in {len(first)} sentences, so nothing precedes it: {shortened(first)}. "
            en += "Leave those out, or use kind='random'"
            raise ValueError(say(vi, en))
        return positions - 1
    if kind != "random":
        vi = f"cần kind là 'previous' hoặc 'random', nhận được {kind!r}"
        raise ValueError(say(vi, f"expected kind 'previous' or 'random', got {kind!r}"))
    if generator is None:
        vi = "kind='random' cần generator, để lần chạy nào cũng như nhau: torch.Generator().manual_seed(0)"
        en = "kind='random' needs a generator, so that a run can be repeated: torch.Generator().manual_seed(0)"
        raise ValueError(say(vi, en))
    ids = batch["input_ids"]
    target_id = ids.gather(1, positions.unsqueeze(1))  # [sentence, 1]
    other = real & (ids != target_id)
    inner = other.scatter(1, start.unsqueeze(1), False)
    other = torch.where(inner.any(dim=1, keepdim=True), inner, other)
    if alone := (~other.any(dim=1)).nonzero().flatten().tolist():
        vi = f"ngoài token đích, các câu {shortened(alone)} không còn token nào: hãy bỏ những câu ấy"
        raise ValueError(say(vi, f"no token other than the target in sentences {shortened(alone)}: leave those out"))
    return torch.multinomial(other.float().cpu(), 1, generator=generator).flatten().to(positions.device)


def shortened(items, most=8):
    """The first items, with commas, and how many there are in all where some are left out."""
    more = say(f", … (tất cả {len(items)})", f", … ({len(items)} in all)") if len(items) > most else ""
    return ", ".join(str(item) for item in items[:most]) + more
