"""The model inside its wrappers, and what it reads of a batch: checked before the run."""

from inspect import signature

import torch

from helpers.settings import message, say
from helpers.text import shortened


def unwrapped(model):
    """The transformers model inside what torch.compile, DataParallel or PEFT put around it; LoRA stays in its layers.

    Raises:
        ValueError: no such model, or one with a prompt that PEFT puts in front of every sentence.
    """
    if hasattr(model, "_orig_mod"):  # torch.compile
        return unwrapped(model._orig_mod)
    if isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        return unwrapped(model.module)
    if hasattr(model, "get_base_model"):  # PEFT
        if getattr(model.active_peft_config, "is_prompt_learning", False):
            raise ValueError(message("prompt_tuned"))
        return unwrapped(model.get_base_model())
    if not hasattr(type(model), "base_model"):
        raise ValueError(message("no_model", came=type(model).__name__))
    return model


def model_inputs(model, batch, adapter, longest):
    """What a model (`unwrapped`) reads of a batch, on its device: {name: tensor}.

    Entries that it does not know are left out, and token types where it has none.  Where padding stands first,
    positions are counted from the first real token.  At most `longest` tokens of a sentence.

    Raises:
        ValueError: a model in training mode or without weights, or a batch that the model cannot read as it is meant.
    """
    if any(module.training and type(module).forward is not torch.nn.Module.forward for module in model.modules()):
        raise ValueError(message("training"))
    mask, ids, embedding = real_mask(batch), batch["input_ids"], model.get_input_embeddings()
    config, known = model.config.get_text_config(), signature(type(model.base_model).forward).parameters
    n_vocab = getattr(embedding, "num_embeddings", config.vocab_size)
    outside = (ids < 0) | (ids >= n_vocab)  # padding may be
    _refuse((outside & mask).any(dim=1), "foreign_ids", last=n_vocab - 1)
    if ids.shape[1] > longest:
        raise ValueError(message("too_long", n=ids.shape[1], most=longest))
    inputs = {name: value for name, value in batch.items() if name in known}
    inputs |= {"input_ids": ids.masked_fill(outside, 0), "attention_mask": mask.long()}
    if not hasattr(config, "type_vocab_size") and not inputs.get("token_type_ids", torch.ones(1)).any():
        del inputs["token_type_ids"]  # GPT-2 would add the embedding of token 0
    if "position_ids" in known and not mask[:, 0].all():
        first = config.pad_token_id + 1 if adapter.after_padding else 0
        inputs.setdefault("position_ids", (mask.cumsum(1) - 1).clamp_min(0) + first)
    elif adapter.between != "bias":  # which counts distances only
        _refuse(~mask[:, 0], "left_padding")
    return {name: value.to(_device(embedding)) for name, value in inputs.items()}


def real_mask(batch):
    """Which tokens of a batch are real, and not padding: bool `[sentence, token]`; `ValueError` where it is none."""
    ids = batch["input_ids"]
    mask = batch["attention_mask"] if "attention_mask" in batch else torch.ones_like(ids)
    shapes = [tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__ for value in (ids, mask)]
    if len(shapes[0]) != 2 or shapes[0] != shapes[1] or not ((mask == 0) | (mask == 1)).all():
        raise ValueError(message("no_batch", came=shapes))
    mask = mask.bool()
    begins = mask[:, 1:] & ~mask[:, :-1]  # a stretch of real tokens, after padding
    _refuse(~mask.any(dim=1), "no_real_token")
    _refuse(begins.sum(dim=1) + mask[:, 0] > 1, "holes")
    return mask


def checked_positions(positions, mask):
    """Positions of a real token of each sentence, int64 `[sentence]`, or `ValueError`; mask: see `real_mask`."""
    positions, (n_sentence, n_token) = torch.as_tensor(positions), mask.shape
    came = positions.tolist() if positions.numel() < 9 else tuple(positions.shape)
    if positions.shape == (n_sentence,):
        positions = positions.to(mask.device)
        real = mask.gather(1, positions.clamp(0, n_token - 1).unsqueeze(1)).squeeze(1)
        wrong = (~real | (positions < 0) | (positions >= n_token)).nonzero().flatten().tolist()
        if not wrong:
            return positions
        came = shortened([say(f"{int(positions[i])} (câu {i})", f"{int(positions[i])} (sentence {i})") for i in wrong])
    raise ValueError(message("no_positions", n=n_sentence, last=n_token - 1, came=came))


def _refuse(bad, key, **facts):
    if rows := bad.nonzero().flatten().tolist():
        raise ValueError(message(key, which=shortened(rows), **facts))


def _device(embedding):
    """Where the input goes; where accelerate keeps the weights elsewhere ("meta"), it brings them there."""
    device = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    device = embedding.weight.device if device is None else torch.device(device)
    if device.type == "meta":
        raise ValueError(message("no_weights"))
    return device
