"""Q, K and V of chosen tokens, taken from inside a model with forward hooks.

    model, tokenizer = load_model()
    batch = encode(tokenizer, sentences)
    positions = find_token(batch, token_id_of(tokenizer, " her"))
    qkv = capture_qkv(model, batch, positions=positions)
    x = qkv.joined()[5]                                    # [sentence, feature] at layer 5

What is captured is the output of the attention projections, bias included, before any rotary position embedding.
"""

import tomllib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import index

import torch

from helpers.masks import check_part
from helpers.running.hooks import Hooks
from helpers.running.inputs import checked_positions, model_inputs, real_mask, unwrapped
from helpers.settings import message, say
from helpers.text import DATA, shortened


def _key_value_heads(config):
    """Key heads of a layer, as many as value heads; Falcon says it in a way of its own."""
    if getattr(config, "new_decoder_architecture", False):
        return config.num_kv_heads
    if getattr(config, "multi_query", False):
        return 1
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def _split_side_by_side(fused, config):
    """`[..., (n_head + 2 * n_kv_head) * d_head]` = all of Q, then all of K, then all of V (GPT-2, Phi-3)."""
    n_head, n_kv_head = config.num_attention_heads, _key_value_heads(config)
    d_head = fused.shape[-1] // (n_head + 2 * n_kv_head)
    return fused.split([n_head * d_head, n_kv_head * d_head, n_kv_head * d_head], dim=-1)


def _split_interleaved(fused, config):
    """The query heads that share a key head, that key head, its value head, then the next group (GPT-NeoX, Falcon)."""
    n_kv_head = _key_value_heads(config)
    n_query = config.num_attention_heads // n_kv_head
    groups = fused.unflatten(-1, (n_kv_head, n_query + 2, -1))  # [..., group, head of the group, d_head]
    return tuple(part.flatten(-3) for part in groups.split([n_query, 1, 1], dim=-2))


SPLITS = {"side_by_side": _split_side_by_side, "interleaved": _split_interleaved}
ARCHITECTURES = tomllib.loads(DATA.joinpath("architectures.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Adapter:
    """Where one architecture keeps its attention projections and how they are cut into Q, K, V."""

    layers: str = "layers"  # path from the base model to the list of layers
    attention: str = "self_attn"  # path from a layer to its attention module
    projections: tuple = ("q_proj", "k_proj", "v_proj")  # those of Q, K and V, or one fused projection
    split: Callable | None = None  # for a fused projection: (output, model.config.get_text_config()) -> q, k, v
    causal: bool = True  # a token sees only what stands before it
    after_padding: bool = False  # positions are numbered from pad_token_id + 1 (RoBERTa)
    between: str = "unknown"  # what Q and K pass through before the dot product: a name in architectures.toml

    @property
    def rotary(self):
        """True: a rotary step alone lies between projection and dot product; False: nothing; None: something else."""
        return ARCHITECTURES["between"].get(self.between, {}).get("rotary")


def _adapter(models, note=None, split=None, projections=Adapter.projections, **row):
    return Adapter(**row, split=SPLITS.get(split), projections=tuple(projections))


ADAPTERS = {kind: _adapter(**row) for kind, row in ARCHITECTURES["model"].items()}
"""`model.config.model_type` -> how to read it."""


def is_causal(model):
    """Whether a token sees only what stands before it: by the architecture, unless the configuration says otherwise."""
    config = model.config.get_text_config()
    causal = adapter_of(model).causal or getattr(config, "is_decoder", False)
    return causal and getattr(config, "is_causal", True) and not getattr(config, "use_bidirectional_attention", False)


def adapter_of(model):
    """The `Adapter` of a model's architecture; `ValueError` where there is none, or the model cannot be right."""
    kind = model.config.model_type
    if kind not in ADAPTERS:
        raise ValueError(message("unknown_architecture", kind=kind, known=", ".join(sorted(ADAPTERS))))
    if getattr(model.config, "alibi", False) and model.config._attn_implementation == "eager":
        raise ValueError(message("alibi_twice"))
    return ADAPTERS[kind]


def attention_layers(model):
    """The layers of the model, in order: attention and what follows it (list of `torch.nn.Module`)."""
    model = unwrapped(model)
    return list(model.base_model.get_submodule(adapter_of(model).layers))


def layer_stack(model):
    """The module that runs the layers one after the other."""
    return model.base_model.get_submodule(adapter_of(model).layers.rpartition(".")[0])


def attention_modules(model):
    """The attention module of every layer, in order (list of `torch.nn.Module`)."""
    attention = adapter_of(unwrapped(model)).attention
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
    layers: tuple  # their numbers, in the order of the first axis
    d_head: int  # features per head

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


def longest_input(model):
    """How many tokens the model reads at most, special ones too; infinity where nothing limits them."""
    config = model.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None) or float("inf")
    return most - config.pad_token_id - 1 if adapter_of(model).after_padding else most


def checked_inputs(model, batch):
    """What the model (`unwrapped`) reads of a batch: `model_inputs` of its architecture."""
    return model_inputs(model, batch, adapter_of(model), longest_input(model))


class _EverythingCaptured(Exception):
    """Raised by the last hook to leave the forward pass early; never reaches the caller."""


def capture_qkv(model, batch, *, layers=None, positions=None):
    """Run the model once and return the queries, keys and values of its attention layers.

    The forward pass stops after the last wanted layer, and in a causal model it leaves out the tokens after the last
    wanted position, which nothing before them sees.  The hooks are taken off whatever happens, and no other thread
    that runs the model meanwhile notices them.

    Args:
        model: from `load_model`, or any transformers model of a known architecture (`ADAPTERS`).
        batch: from `encode`.
        layers: a layer number, several, or None for all; -1 is the last.
        positions: `[sentence]`, keep only this token of each sentence (`find_token`); memory then does not grow
            with the length of the sentences.  None keeps every token, padding too.

    Returns:
        `QKV` on the model's device and in its dtype.

    Raises:
        ValueError: unknown architecture, layer out of range, positions that do not fit the batch, or a model or batch
            that cannot be run as meant (`unwrapped`, `model_inputs`).
        RuntimeError: the model does not call its projections.

    Source: the hooks are PyTorch's forward hooks; the layouts are those of transformers.
    """
    model = unwrapped(model)
    adapter, modules, config = adapter_of(model), attention_modules(model), model.config.get_text_config()
    layers = layer_numbers(layers, len(modules))
    if positions is not None:
        positions = checked_positions(positions, real_mask(batch))
        if is_causal(model):
            shape, end = batch["input_ids"].shape, int(positions.max()) + 1
            batch = {key: value[:, :end] if value.shape[:2] == shape else value for key, value in batch.items()}
    inputs = checked_inputs(model, batch)
    wanted = [(layer, name) for layer in sorted(set(layers)) for name in adapter.projections]
    outputs, hooks, shape = {}, Hooks(), inputs["input_ids"].shape

    def keep(key, module, args, kwargs, output):
        if output.shape[:2] != shape:  # of [sentence, token, feature]
            raise ValueError(message("side_by_side", came=tuple(output.shape)))
        output, rows = output.detach(), torch.arange(len(output), device=output.device)
        outputs[key] = output.clone() if positions is None else output[rows, positions.to(output.device)]
        if len(outputs) == len(wanted):
            raise _EverythingCaptured

    with hooks, hooks, torch.no_grad(), suppress(_EverythingCaptured):
        for layer, name in wanted:
            hooks.put(modules[layer].get_submodule(name), partial(keep, (layer, name)))
        model.base_model(**inputs)
    hooks.check_fired(1)
    device, parts = outputs[wanted[0]].device, []  # one device, also where the layers lie on several
    for layer in layers:
        captured = [outputs[layer, name].to(device) for name in adapter.projections]
        parts.append(adapter.split(captured[0], config) if adapter.split else captured)
    q, k, v = (torch.stack(part) for part in zip(*parts, strict=True))  # [layer, sentence, (token,) feature]
    return QKV(q, k, v, layers, d_head=q.shape[-1] // config.num_attention_heads)


def layer_numbers(layers, n_layer):
    """Layer numbers from 0 up as a tuple, in the order given: of one number, several, or None (all); -1 is the last."""
    if layers is None:
        return tuple(range(n_layer))
    try:
        numbers = tuple(map(index, layers)) if isinstance(layers, Iterable) else (index(layers),)
    except TypeError:  # no whole numbers
        raise ValueError(message("no_layer", came=repr(layers), last=n_layer - 1)) from None
    outside = [layer for layer in numbers if not -n_layer <= layer < n_layer]
    if outside or not numbers:
        came = shortened(outside) or say("(chưa cho tầng nào)", "(none given)")
        raise ValueError(message("no_layer", came=came, last=n_layer - 1))
    return tuple(layer % n_layer for layer in numbers)
