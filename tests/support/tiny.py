"""Small random models of every architecture, batches for them, tokenizers of whole words, and rotation by hand."""

import copy
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

from helpers.text import SentenceBatch

DATA = tomllib.loads(Path(__file__).with_name("families.toml").read_text(encoding="utf-8"))


def _row(like="default", options=None, **row):
    above = DATA["like"]["default"] if like == "default" else _row(**DATA["like"][like])
    return above | row | {"options": above["options"] | (options or {})}


def _family(row):
    """One architecture in small: what `[like.default]` of families.toml names, with its configuration made."""
    family = SimpleNamespace(**_row(**row))
    make, options = getattr(transformers, family.config), family.options
    family.config = make(text_config=options, vision_config=family.vision) if family.vision else make(**options)
    return family


FAMILIES = {name: _family(row) for name, row in DATA["few"].items()}
EVERY = FAMILIES | {name: _family(row) for name, row in DATA["more"].items()}
CAUSAL = [name for name, family in FAMILIES.items() if family.causal]
N_LAYER, N_HEAD, LENGTHS = 3, 4, (9, 6, 4)


def random_model(name, auto=None, size=0.4, **options):
    """A model without its head, with weights far larger than usual, so that attention is far from uniform."""
    family, generator = EVERY[name], torch.Generator().manual_seed(0)
    make, config = getattr(transformers, auto or family.auto).from_config, copy.deepcopy(family.config)
    config.update(options)
    model = make(config, attn_implementation=family.attention).eval().requires_grad_(False)
    for path, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        is_scale = weight.ndim == 1 and not path.endswith("bias")  # of a norm
        weight.copy_(1 + 0.3 * noise if is_scale else size * noise)
    return model


def language_model(name):
    """A model with its head, for what needs logits."""
    return random_model(name, "AutoModelForCausalLM", size=0.3)


def random_batch(lengths=LENGTHS, seed=1):
    """Random tokens, padded on the right."""
    ids = torch.randint(3, 64, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()  # [sentence, token]
    return SentenceBatch({"input_ids": ids * mask, "attention_mask": mask})


def log_p(model, batch):
    """By NumPy of what a model gives for a `random_batch`: float64 `[prediction, vocabulary]` of each sentence."""
    with torch.no_grad():
        logits = model(**batch).logits.double().numpy()
    logits -= np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return [rows[: length - 1] for rows, length in zip(logits, LENGTHS, strict=True)]


def word_tokenizer(words, **special):
    """A tokenizer whose tokens are whole words, with ids in the order given; "<unk>" must be one of them."""
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special)


def rotate(x, n_rotary, theta=10_000.0, pairs=False):
    """Rotary embedding of the first features of each head; x float64 [sentence, head, token, d_head].

    `pairs`: neighbours turn together (GPT-J), not the features that are half of `n_rotary` apart.
    """
    half = n_rotary // 2
    frequency = theta ** (-np.arange(half) / max(half, 1))
    turn = np.exp(1j * np.arange(x.shape[2])[:, None] * frequency)  # [token, half]
    one, other = (slice(0, n_rotary, 2), slice(1, n_rotary, 2)) if pairs else (slice(half), slice(half, n_rotary))
    turned, result = (x[..., one] + 1j * x[..., other]) * turn, x.copy()
    result[..., one], result[..., other] = turned.real, turned.imag
    return result


def by_head(x, d_head):
    """[sentence, token, feature] -> float64 [sentence, head, token, d_head]."""
    x = x.double().numpy()
    return x.reshape(*x.shape[:2], -1, d_head).transpose(0, 2, 1, 3)
