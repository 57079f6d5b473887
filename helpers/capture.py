"""Q, K and V of chosen tokens, taken from inside a model with forward hooks.

    model, tokenizer = load_model()
    batch = encode(tokenizer, sentences)
    positions = find_token(batch, token_id_of(tokenizer, " her"))
    qkv = capture_qkv(model, batch, positions=positions)
    x = qkv.joined()[5]                                    # [sentence, feature] at layer 5

What is captured is the output of the attention projections, bias included, before any rotary position embedding.
"""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from numbers import Integral

import torch

from helpers.masks import check_part
from helpers.settings import say
from helpers.text import shortened


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
    causal: bool = True  # a token sees only what stands before it


_LLAMA = Adapter("layers", "self_attn", ("q_proj", "k_proj", "v_proj"))
ADAPTERS = {
    "gpt2": Adapter("h", "attn", ("c_attn",), _split_contiguous),
    "gpt_neox": Adapter("layers", "attention", ("query_key_value",), _split_interleaved),
    "llama": _LLAMA,  # SmolLM too
    "mistral": _LLAMA,
    "qwen2": _LLAMA,  # with biases
    "opt": Adapter("decoder.layers", "self_attn", ("q_proj", "k_proj", "v_proj")),
    "bert": Adapter("encoder.layer", "attention.self", ("query", "key", "value"), causal=False),
    "distilbert": Adapter("transformer.layer", "attention", ("q_lin", "k_lin", "v_lin"), causal=False),
}
"""`model.config.model_type` -> how to read it."""


def adapter_of(model):
    """The `Adapter` of a model's architecture; `ValueError` where there is none."""
    kind = model.config.model_type
    if kind not in ADAPTERS:
        known = ", ".join(sorted(ADAPTERS))
        vi = f"không biết kiến trúc {kind!r}: cần một trong {known}. "
        vi += "Hãy thêm một Adapter vào helpers.capture.ADAPTERS, và một kiểm thử tính lại attention của nó"
        en = f"unknown architecture {kind!r}: expected one of {known}. "
        en += "Add an Adapter to helpers.capture.ADAPTERS, and a test that recomputes its attention"
        raise ValueError(say(vi, en))
    return ADAPTERS[kind]


def attention_layers(model):
    """The layers of the model, in order: attention and what follows it (list of `torch.nn.Module`)."""
    return list(model.base_model.get_submodule(adapter_of(model).layers))


def attention_modules(model):
    """The attention module of every layer, in order (list of `torch.nn.Module`)."""
    attention = adapter_of(model).attention
    return [layer.get_submodule(attention) for layer in attention_layers(model)]


@dataclass(frozen=True)
class QKV:
    """Captured queries, keys and values, before rotary embedding.

    `q`, `k`, `v`: `[layer, sentence, token, feature]`; without the token axis where `positions` was given.
    K and V have fewer features than Q in grouped-query attention.
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
        check_part(part)
        return getattr(self, part.lower()).unflatten(-1, (-1, self.d_head))


class _EverythingCaptured(Exception):
    """Raised by the last hook to leave the forward pass early; never reaches the caller."""


def capture_qkv(model, batch, *, layers=None, positions=None):
    """Run the model once and return the queries, keys and values of its attention layers.

    The forward pass stops after the last wanted layer, and in a causal model it leaves out the tokens after the last
    wanted position, which nothing before them sees.  The hooks are taken off whatever happens.

    Args:
        model: from `load_model`, or any transformers model of a known architecture (`ADAPTERS`).
        batch: from `encode`.
        layers: a layer number, several, or None for all; -1 is the last.
        positions: `[sentence]`, keep only this token of each sentence (`find_token`); memory then does not grow
            with the length of the sentences.  None keeps every token, padding too.

    Returns:
        `QKV` on the model's device and in its dtype.

    Raises:
        ValueError: unknown architecture, layer out of range, or positions that do not fit the batch.

    Source: the hooks are PyTorch's `register_forward_hook`; the layouts are those of transformers.
    """
    adapter, modules, n_head = adapter_of(model), attention_modules(model), model.config.num_attention_heads
    layers = layer_numbers(layers, len(modules))
    shape, device = batch["input_ids"].shape, next(model.parameters()).device
    inputs, rows = {key: value.to(device) for key, value in batch.items()}, None
    if positions is not None:
        positions = _checked_positions(positions, *shape).to(device)
        rows = torch.arange(len(positions), device=device)
        if adapter.causal and getattr(model.config, "is_causal", True):
            end = int(positions.max()) + 1
            inputs = {key: value[:, :end] if value.shape[:2] == shape else value for key, value in inputs.items()}
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
        with suppress(_EverythingCaptured):
            model.base_model(**inputs)
    parts = []
    for layer in layers:
        captured = [outputs[layer, name] for name in adapter.projections]
        parts.append(adapter.split(captured[0], n_head) if adapter.split else captured)
    q, k, v = (torch.stack(part) for part in zip(*parts, strict=True))  # [layer, sentence, (token,) feature]
    return QKV(q, k, v, layers, d_head=q.shape[-1] // n_head)


def _checked_positions(positions, n_sentence, n_token):
    positions = torch.as_tensor(positions)
    if positions.shape != (n_sentence,) or bool(((positions < 0) | (positions >= n_token)).any()):
        came = positions.tolist() if positions.numel() < 9 else tuple(positions.shape)
        vi = f"mỗi câu trong {n_sentence} câu cần một vị trí từ 0 đến {n_token - 1}, nhận được {came}: "
        en = f"expected one position in 0..{n_token - 1} for each of {n_sentence} sentences, got {came}: "
        raise ValueError(say(vi + "hãy dùng find_token(batch, ...)", en + "use find_token(batch, ...)"))
    return positions


def layer_numbers(layers, n_layer):
    """Layer numbers from 0 up as a tuple, in the order given: of one number, several, or None (all); -1 is the last."""
    if layers is None:
        return tuple(range(n_layer))
    numbers = (int(layers),) if isinstance(layers, Integral) else tuple(int(layer) for layer in layers)
    outside = [layer for layer in numbers if not -n_layer <= layer < n_layer]
    if outside or not numbers:
        came, last = shortened(outside) or say("(chưa cho tầng nào)", "(none given)"), n_layer - 1
        vi = f"tầng {came} nằm ngoài phạm vi: mô hình có các tầng từ 0 đến {last}"
        raise ValueError(say(vi, f"layer {came} is out of range: the model has layers 0..{last}"))
    return tuple(layer % n_layer for layer in numbers)
