"""Edits of Q, K and V on their way through a model, as long as a `with` block lasts."""

import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from helpers.capture import adapter_of, attention_modules, layer_numbers
from helpers.masks import PARTS


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
    adapter = adapter_of(model)
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
        for layer in sorted(set(layer_numbers(layers, len(modules)))):
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
