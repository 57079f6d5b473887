"""Edits of Q, K and V on their way through a model, as long as a `with` block lasts."""

import sys
from contextlib import contextmanager

import torch
from transformers import Cache

from helpers.capture import adapter_of, attention_modules, layer_numbers, layer_stack
from helpers.masks import PARTS, check_part
from helpers.running.hooks import Hooks
from helpers.running.inputs import unwrapped
from helpers.settings import message


@contextmanager
def edit_qkv(model, layers, part, fn, *, after_rotary=False):
    """Replace Q, K or V of some layers on the way through, as long as the `with` block lasts.

    Edits of several parts or layers nest; of two edits of the same vectors the outer one comes first.
    The hooks are taken off whatever happens.

    Args:
        model: any model that `capture_qkv` knows.
        layers: a layer number, several, or None for all; -1 is the last.
        part: "Q", "K" or "V".
        fn: (values, positions) -> new values of the same shape.  values: a copy `[sentence, token, feature]` of what
            the projection gave, heads side by side, padding included; positions: int64 `[token]`, on the batch's token
            axis; with a key-value cache, as in `generate`, they go on where the cache ends.
        after_rotary: edit Q or K as they enter the dot product, after the rotary position embedding.
            In a model without one that is the same place.

    The edit holds for runs in the thread that opened the block; compiled models run uncompiled meanwhile.

    Raises:
        ValueError: unknown architecture or part, layer out of range, V after the rotary step, an architecture where
            more than that step lies in between (`Adapter.rotary`), or a shape that `fn` changed.
        RuntimeError: the model ran and nothing was edited, at the end of the block.

    Source: PyTorch lets a forward hook replace the output.  An edit after the rotary step is carried
    back through the rotation R: k + R^-1 (fn(R k) - R k), with the model's own function for R.
    """
    check_part(part)
    if after_rotary and part == "V":
        raise ValueError(message("late_v"))
    model = unwrapped(model)
    adapter, modules, config = adapter_of(model), attention_modules(model), model.config.get_text_config()
    if after_rotary and adapter.rotary is None:
        raise ValueError(message("no_late_edit", kind=model.config.model_type))
    hooks, projection = Hooks(), adapter.projections[0 if adapter.split else PARTS.index(part)]

    def columns(output):
        if not adapter.split:
            return slice(None)
        return adapter.split(torch.arange(output.shape[-1], device=output.device), config)[PARTS.index(part)]

    with hooks, hooks:
        hooks.put(layer_stack(model), lambda *_: None)  # counts the runs
        for layer in sorted(set(layer_numbers(layers, len(modules)))):
            edit = _Edit(fn, layer, columns, after_rotary and adapter.rotary)
            hooks.put(modules[layer], edit.begin, before=True)
            hooks.put(modules[layer].get_submodule(projection), edit.replace_output)
        yield
        hooks.check_fired()


@contextmanager
def recorded(model, part, *, after_rotary=False):
    """Q, K or V of every layer that runs in the `with` block, where `edit_qkv` would edit them.

    Yields a list that fills layer by layer; each `[sentence, token, feature]`, a copy.
    """
    seen = []
    with edit_qkv(model, None, part, lambda x, _: seen.append(x.clone()) or x, after_rotary=after_rotary):
        yield seen


def cached_tokens(args, kwargs, layer):
    """How many tokens the cache of an attention module holds, 0 without one; `ValueError` where it does not tell."""
    for name, value in (*enumerate(args), *kwargs.items()):
        if isinstance(value, Cache):
            return int(value.get_seq_length(layer))
        if "past" in str(name) and value is not None:
            raise ValueError(message("unknown_cache", came=type(value).__name__))
    return 0


def _turned(values, attention, cos, sin):
    """`values` `[sentence, token, feature]` after the rotary step with these cosines and sines."""
    # transformers has it in the file of each rotary architecture, always by this name, and does not hand it out
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    d_head = getattr(attention, "head_dim", None) or attention.head_size
    heads = values.unflatten(-1, (-1, d_head)).transpose(1, 2)  # [sentence, head, token, d_head]
    return rotate(heads, heads, cos, sin)[0].transpose(1, 2).flatten(2)


class _Edit:
    """One edit in one layer, and its two hooks."""

    def __init__(self, fn, layer, columns, turned):
        self.fn, self.layer, self.columns, self.turned = fn, layer, columns, turned
        self.rotation, self.n_cached = None, 0  # of the forward pass under way: rotary step, tokens not read again

    def begin(self, attention, args, kwargs):
        """Before the attention module runs."""
        self.n_cached = cached_tokens(args, kwargs, self.layer)
        if self.turned:
            self.rotation = attention, *kwargs["position_embeddings"]

    def replace_output(self, projection, args, kwargs, output):
        """After the projection ran; output `[sentence, token, feature]`, of Q, K and V together where it is fused."""
        if output.ndim != 3:
            raise ValueError(message("side_by_side", came=tuple(output.shape)))
        columns, output = self.columns(output), output.clone()
        values = output[..., columns]
        before = _turned(values, *self.rotation) if self.turned else values
        positions = torch.arange(self.n_cached, self.n_cached + values.shape[1], device=values.device)
        after = self.fn(before.clone(), positions)
        if getattr(after, "shape", None) != before.shape:
            came = tuple(getattr(after, "shape", ())) or type(after).__name__
            raise ValueError(message("new_values", wanted=tuple(before.shape), came=came))
        if self.turned:
            attention, cos, sin = self.rotation
            scale = cos.square() + sin.square()  # not 1 where the embedding is scaled, nor quite 1 after rounding
            after = values + _turned(after.to(values) - before, attention, cos / scale, -sin / scale)
        output[..., columns] = after.to(values)
        return output
