"""Edits of Q, K and V on their way through a model, as long as a `with` block lasts."""

import sys
from contextlib import ExitStack, contextmanager

import torch

from helpers.capture import adapter_of, attention_modules, layer_numbers
from helpers.masks import PARTS, check_part
from helpers.settings import say


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
            the projection gave, heads side by side, padding included; positions: int64 `[token]`, 0 to n_token - 1.
        after_rotary: edit Q or K as they enter the dot product, after the rotary position embedding.
            In a model without one that is the same place.

    Raises:
        ValueError: unknown architecture or part, layer out of range, V after the rotary step, or a
            shape that `fn` changed.

    Source: PyTorch lets a forward hook replace the output.  An edit after the rotary step is carried
    back through the rotation R: k + R^-1 (fn(R k) - R k), with the model's own function for R.
    """
    check_part(part)
    if after_rotary and part == "V":
        vi = "V không qua bước xoay: hãy bỏ after_rotary, hoặc sửa 'Q' hay 'K'"
        en = "V does not pass through a rotary step: leave after_rotary out, or edit 'Q' or 'K'"
        raise ValueError(say(vi, en))
    adapter, modules = adapter_of(model), attention_modules(model)
    projection = adapter.projections[0 if adapter.split else PARTS.index(part)]
    with ExitStack() as hooks:
        for layer in sorted(set(layer_numbers(layers, len(modules)))):
            attention, edit = modules[layer], _Edit(part, fn, adapter.split, model.config.num_attention_heads)
            if after_rotary and rotary_function(attention):
                handle = attention.register_forward_pre_hook(edit.remember_rotation, with_kwargs=True)
                hooks.callback(handle.remove)
            handle = attention.get_submodule(projection).register_forward_hook(edit.replace_output)
            hooks.callback(handle.remove)
        yield


@contextmanager
def recorded(model, part, *, after_rotary=False):
    """Q, K or V of every layer that runs in the `with` block, where `edit_qkv` would edit them.

    Yields:
        A list that fills layer by layer; each `[sentence, token, feature]`, a copy.
    """
    seen = []
    with edit_qkv(
        model, None, part, lambda values, _: seen.append(values.clone()) or values, after_rotary=after_rotary
    ):
        yield seen


def rotary_function(attention):
    """The function (q, k, cos, sin) -> (q, k) by which an attention module turns Q and K; None without a rotary step.

    transformers has one in the file of each rotary architecture, always by this name, and does not hand it out.
    """
    return getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)


def _turned(values, attention, cos, sin):
    """`values` `[sentence, token, feature]` after the rotary step with these cosines and sines."""
    d_head = getattr(attention, "head_dim", None) or attention.head_size
    heads = values.unflatten(-1, (-1, d_head)).transpose(1, 2)  # [sentence, head, token, d_head]
    return rotary_function(attention)(heads, heads, cos, sin)[0].transpose(1, 2).flatten(2)


class _Edit:
    """One edit in one layer, and its two hooks."""

    def __init__(self, part, fn, split, n_head):
        self.part, self.fn, self.split, self.n_head = part, fn, split, n_head
        self.rotation = None  # of the forward pass under way, where the edit comes after it

    def remember_rotation(self, attention, args, kwargs):
        """Before the attention module runs."""
        self.rotation = attention, *kwargs["position_embeddings"]

    def replace_output(self, projection, inputs, output):
        """After the projection ran; output `[sentence, token, feature]`, of Q, K and V together where it is fused."""
        if self.split is None:
            return self.edited(output)
        every = self.split(torch.arange(output.shape[-1], device=output.device), self.n_head)
        columns = every[PARTS.index(self.part)]
        output = output.clone()
        output[..., columns] = self.edited(output[..., columns])
        return output

    def edited(self, values):
        rotation, self.rotation = self.rotation, None
        before = _turned(values, *rotation) if rotation else values
        after = self.fn(before.clone(), torch.arange(values.shape[1], device=values.device))
        if getattr(after, "shape", None) != before.shape:
            came, wanted = tuple(getattr(after, "shape", ())) or type(after).__name__, tuple(before.shape)
            vi = f"cần fn trả về giá trị mới có kích thước {wanted}, nhận được {came}: hãy trả về đủ mọi giá trị"
            en = f"expected new values of shape {wanted} from fn, got {came}: return all of them"
            raise ValueError(say(vi, en))
        after = after.to(values.dtype)
        if not rotation:
            return after
        attention, cos, sin = rotation
        scale = cos.square() + sin.square()  # not 1 where the embedding is scaled, nor quite 1 after rounding
        return values + _turned(after - before, attention, cos / scale, -sin / scale)
