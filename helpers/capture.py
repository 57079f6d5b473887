"""Q, K and V of chosen tokens, taken from inside a model with forward hooks.

    model, tokenizer = load_model()
    batch = encode(tokenizer, sentences)
    positions = find_token(batch, token_id_of(tokenizer, " her"))
    qkv = capture_qkv(model, batch, positions=positions)
    x = qkv.joined()[5]                                    # [sentence, feature] at layer 5

What is captured is the output of the attention projections, bias included, before any rotary
position embedding is applied to Q and K.  `edit_qkv` changes the same vectors on their way through:

    with edit_qkv(model, 5, "V", lambda v, positions: v - v.mean(dim=(0, 1))):
        logits = model(**batch).logits
"""

import sys
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Integral

import torch
from transformers import BatchEncoding

from helpers.masks import PARTS

# ---- sentences and tokens ------------------------------------------------------------------------


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
        raise ValueError(f"expected text in every sentence, found nothing at index {_some(empty)}: leave those out")
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
            f"token {token_id} is absent from {len(missing)} of {len(found)} sentences: {_some(shown)}. "
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
                f"the target stands first in {len(at_start)} sentences, so nothing precedes it: {_some(at_start)}. "
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
        raise ValueError(f"no token other than the target in sentences {_some(alone)}: leave those out")
    return torch.multinomial(other.float().cpu(), 1, generator=generator).flatten().to(positions.device)


def _some(items, most=8):
    shown = ", ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown}, … ({len(items)} in all)"


# ---- architectures -------------------------------------------------------------------------------


def _split_contiguous(fused, n_head):
    """`[..., 3 * n_embd]` = all of Q, then all of K, then all of V (GPT-2)."""
    return fused.chunk(3, dim=-1)


def _split_interleaved(fused, n_head):
    """`[..., n_head * 3 * d_head]` = q, k, v of head 0, then of head 1, ... (GPT-NeoX, Pythia)."""
    q, k, v = fused.unflatten(-1, (n_head, 3, -1)).unbind(-2)  # each [..., head, d_head]
    return q.flatten(-2), k.flatten(-2), v.flatten(-2)


@dataclass(frozen=True)
class Adapter:
    """Where one architecture keeps its attention projections and how they are cut into Q, K, V."""

    layers: str  # path from the base model to the list of layers
    attention: str  # path from a layer to its attention module
    projections: tuple  # one fused projection, or those of Q, K and V
    split: Callable | None = None  # for a fused projection: (output, n_head) -> q, k, v


_LLAMA = Adapter("layers", "self_attn", ("q_proj", "k_proj", "v_proj"))
ADAPTERS = {
    "gpt2": Adapter("h", "attn", ("c_attn",), _split_contiguous),
    "gpt_neox": Adapter("layers", "attention", ("query_key_value",), _split_interleaved),
    "llama": _LLAMA,  # SmolLM too
    "mistral": _LLAMA,
    "qwen2": _LLAMA,  # with biases
    "opt": Adapter("decoder.layers", "self_attn", ("q_proj", "k_proj", "v_proj")),
    "bert": Adapter("encoder.layer", "attention.self", ("query", "key", "value")),
    "distilbert": Adapter("transformer.layer", "attention", ("q_lin", "k_lin", "v_lin")),
}
"""`model.config.model_type` -> how to read it."""


def _adapter(model):
    kind = model.config.model_type
    if kind not in ADAPTERS:
        raise ValueError(
            f"unknown architecture {kind!r}: expected one of {', '.join(sorted(ADAPTERS))}. "
            "Add an Adapter to helpers.capture.ADAPTERS, and a test that recomputes its attention"
        )
    return ADAPTERS[kind]


def attention_layers(model):
    """The layers of the model, in order: attention and what follows it (list of `torch.nn.Module`)."""
    return list(model.base_model.get_submodule(_adapter(model).layers))


def attention_modules(model):
    """The attention module of every layer, in order (list of `torch.nn.Module`)."""
    attention = _adapter(model).attention
    return [layer.get_submodule(attention) for layer in attention_layers(model)]


# ---- capture -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QKV:
    """Captured queries, keys and values, before rotary embedding.

    `q`, `k`, `v`: `[layer, sentence, token, feature]`; without the token axis where `positions` was
    given.  K and V have fewer features than Q in grouped-query attention.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    layers: tuple
    """Layer numbers, in the order of the first axis."""
    d_head: int
    """Features per head."""

    @property
    def sizes(self):
        """Number of features of Q, K and V, e.g. (768, 768, 768)."""
        return self.q.shape[-1], self.k.shape[-1], self.v.shape[-1]

    def joined(self):
        """All features side by side, Q then K then V: `[layer, sentence, (token,) F]`."""
        return torch.cat([self.q, self.k, self.v], dim=-1)

    def heads(self, part):
        """One part ("Q", "K" or "V") cut into heads: `[layer, sentence, (token,) head, d_head]`."""
        if part not in PARTS:
            raise ValueError(f"expected part 'Q', 'K' or 'V', got {part!r}")
        return getattr(self, part.lower()).unflatten(-1, (-1, self.d_head))


class _EverythingCaptured(Exception):
    """Raised by the last hook to leave the forward pass early; never reaches the caller."""


def capture_qkv(model, batch, *, layers=None, positions=None):
    """Run the model once and return the queries, keys and values of its attention layers.

    The forward pass stops after the last wanted layer.  The hooks are taken off whatever happens.

    Args:
        model: from `load_model`, or any transformers model of a known architecture (`ADAPTERS`).
        batch: from `encode`.
        layers: a layer number, several, or None for all; -1 is the last.
        positions: `[sentence]`, keep only this token of each sentence (`find_token`); memory then
            does not grow with the length of the sentences.  None keeps every token, padding too.

    Returns:
        `QKV` on the model's device and in its dtype.

    Raises:
        ValueError: unknown architecture, layer out of range, or positions that do not fit the batch.

    Source: the hooks are PyTorch's `register_forward_hook`; the layouts are those of transformers.
    """
    adapter = _adapter(model)
    modules = attention_modules(model)
    layers = _layer_numbers(layers, len(modules))
    n_head = model.config.num_attention_heads
    batch_size, n_token = batch["input_ids"].shape
    device = next(model.parameters()).device
    if positions is not None:
        positions = torch.as_tensor(positions)
        if positions.shape != (batch_size,) or bool(((positions < 0) | (positions >= n_token)).any()):
            raise ValueError(
                f"expected one position in 0..{n_token - 1} for each of {batch_size} sentences, "
                f"got {positions.tolist() if positions.numel() < 9 else tuple(positions.shape)}: use find_token(batch, ...)"
            )
        rows = torch.arange(batch_size, device=device)
        positions = positions.to(device)
    wanted = [(layer, name) for layer in sorted(set(layers)) for name in adapter.projections]
    outputs = {}

    def hook_for(key):
        def hook(module, inputs, output):  # output [sentence, token, feature]
            output = output.detach()
            outputs[key] = output.clone() if positions is None else output[rows, positions]
            if len(outputs) == len(wanted):
                raise _EverythingCaptured

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for layer, name in wanted:
            handle = modules[layer].get_submodule(name).register_forward_hook(hook_for((layer, name)))
            hooks.callback(handle.remove)
        try:
            model.base_model(**{key: value.to(device) for key, value in batch.items()})
        except _EverythingCaptured:
            pass

    parts = []
    for layer in layers:
        captured = [outputs[layer, name] for name in adapter.projections]
        parts.append(adapter.split(captured[0], n_head) if adapter.split else captured)
    q, k, v = (torch.stack(part) for part in zip(*parts))  # [layer, sentence, (token,) feature]
    return QKV(q, k, v, layers, d_head=q.shape[-1] // n_head)


# ---- editing -------------------------------------------------------------------------------------


@contextmanager
def edit_qkv(model, layers, part, fn, *, after_rotary=False):
    """Replace Q, K or V of some layers on the way through, as long as the `with` block lasts.

    Edits of several parts or layers nest; of two edits of the same vectors the outer one comes first.
    The hooks are taken off whatever happens.

    Args:
        model: any model that `capture_qkv` knows.
        layers: a layer number, several, or None for all; -1 is the last.
        part: "Q", "K" or "V".
        fn: (values, positions) -> new values of the same shape.  values: a copy
            `[sentence, token, feature]` of what the projection gave, heads side by side, padding
            included; positions: int64 `[token]`, 0 to n_token - 1.
        after_rotary: edit Q or K as they enter the dot product, after the rotary position embedding.
            In a model without one that is the same place.

    Raises:
        ValueError: unknown architecture or part, layer out of range, V after the rotary step, or a
            shape that `fn` changed.

    Source: PyTorch lets a forward hook replace the output.  An edit after the rotary step is carried
    back through the rotation R: k + R^-1 (fn(R k) - R k), with the model's own function for R.
    """
    if part not in PARTS:
        raise ValueError(f"expected part 'Q', 'K' or 'V', got {part!r}")
    if after_rotary and part == "V":
        raise ValueError("V does not pass through a rotary step: leave after_rotary out, or edit 'Q' or 'K'")
    adapter = _adapter(model)
    modules = attention_modules(model)
    n_head = model.config.num_attention_heads
    name = adapter.projections[0 if adapter.split else PARTS.index(part)]

    def edited(values, rotation):
        positions = torch.arange(values.shape[1], device=values.device)
        before = rotation.forwards(values) if rotation else values
        after = fn(before.clone(), positions)
        if getattr(after, "shape", None) != before.shape:
            came = tuple(after.shape) if hasattr(after, "shape") else type(after).__name__
            raise ValueError(
                f"expected new values of shape {tuple(before.shape)} from fn, got {came}: return all of them"
            )
        after = after.to(values.dtype)
        return values + rotation.backwards(after - before) if rotation else after

    def hook_for(rotations):
        def hook(module, inputs, output):  # output [sentence, token, feature]
            rotation = rotations.pop() if rotations else None
            if not adapter.split:
                return edited(output, rotation)
            columns = adapter.split(torch.arange(output.shape[-1], device=output.device), n_head)[PARTS.index(part)]
            output = output.clone()
            output[..., columns] = edited(output[..., columns], rotation)
            return output

        return hook

    with ExitStack() as hooks:
        for layer in sorted(set(_layer_numbers(layers, len(modules)))):
            attention, rotations = modules[layer], []
            if after_rotary and hasattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb"):

                def remember(module, args, kwargs, rotations=rotations):
                    rotations[:] = [_Rotation(module, *kwargs["position_embeddings"])]

                hooks.callback(attention.register_forward_pre_hook(remember, with_kwargs=True).remove)
            hooks.callback(attention.get_submodule(name).register_forward_hook(hook_for(rotations)).remove)
        yield


@dataclass(frozen=True)
class _Rotation:
    """The rotary step of one forward pass through one attention module, and its inverse."""

    attention: torch.nn.Module
    cos: torch.Tensor
    sin: torch.Tensor

    def forwards(self, values):
        return self._rotate(values, self.cos, self.sin)

    def backwards(self, values):
        scale = self.cos.square() + self.sin.square()  # not 1 where the embedding is scaled, nor quite 1 after rounding
        return self._rotate(values, self.cos / scale, -self.sin / scale)

    def _rotate(self, values, cos, sin):
        rotate = sys.modules[type(self.attention).__module__].apply_rotary_pos_emb
        d_head = getattr(self.attention, "head_dim", None) or self.attention.head_size
        heads = values.unflatten(-1, (-1, d_head)).transpose(1, 2)  # [sentence, head, token, d_head]
        return rotate(heads, heads, cos, sin)[0].transpose(1, 2).flatten(2)


def _layer_numbers(layers, n_layer):
    if layers is None:
        return tuple(range(n_layer))
    numbers = (int(layers),) if isinstance(layers, Integral) else tuple(int(layer) for layer in layers)
    outside = [layer for layer in numbers if not -n_layer <= layer < n_layer]
    if outside or not numbers:
        raise ValueError(
            f"layer {_some(outside) or '(none given)'} is out of range: the model has layers 0..{n_layer - 1}"
        )
    return tuple(layer % n_layer for layer in numbers)
