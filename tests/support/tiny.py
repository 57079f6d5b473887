"""Small random models of every architecture, batches for them, tokenizers of whole words, and rotation by hand."""

import copy
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

from helpers.text import SentenceBatch


@dataclass(frozen=True)
class Family:
    """One architecture in small, and what an independent attention needs to know about it."""

    config: transformers.PreTrainedConfig
    output: str  # path of the attention's output projection; {} is the layer
    n_kv_head: int = 4
    d_head: int = 8
    rotary: int | list = 0  # features of each head that are rotated; of each layer, where a list
    causal: bool = True
    theta: float | list = 10_000.0  # base of the angles
    pairs: bool = False  # neighbouring features turn together, not those half the rotated features apart
    norm: bool = False  # of Q and K, before the rotary step
    scale: float | None = None  # of the dot product; None: 1 / sqrt(d_head)
    cap: float = 0  # of the scores: cap * tanh(score / cap)
    bias: str = ""  # added to the scores: "alibi", "alibi, scaled" or "relative"
    window: list | None = None  # of each layer: how many tokens away it still sees, 0 for all
    auto: str = "AutoModel"  # the class that makes it without its head
    attention: str = "eager"  # its implementation; the others hand out no weights


def _row(like=None, options=None, **row):
    above = _row(**DATA["like"][like]) if like else {"options": {}}
    return above | row | {"options": above["options"] | (options or {})}


def _family(row):
    row = _row(**row)
    options, make, vision = row.pop("options"), getattr(transformers, row.pop("config")), row.pop("vision", None)
    tokens = {f"{name}_token_id": 0 for name in ("bos", "eos", "pad")}  # theirs lie outside the 64 of the vocabulary
    options = tokens | options
    return Family(make(**({"text_config": options, "vision_config": vision} if vision else options)), **row)


DATA = tomllib.loads(Path(__file__).with_name("families.toml").read_text(encoding="utf-8"))
FAMILIES = {name: _family(row) for name, row in DATA["few"].items()}
EVERY = FAMILIES | {name: _family(row) for name, row in DATA["more"].items()}
CAUSAL = [name for name, family in FAMILIES.items() if family.causal]
ROTARY = [name for name, family in FAMILIES.items() if family.rotary]
N_LAYER, N_HEAD, LENGTHS = 3, 4, (9, 6, 4)


def random_model(name, seed=0):
    """A model without its head, with weights far larger than usual, so that attention is far from uniform."""
    family = EVERY[name]
    make, config = getattr(transformers, family.auto).from_config, copy.deepcopy(family.config)
    model = make(config, attn_implementation=family.attention).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for path, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        is_scale = weight.ndim == 1 and not path.endswith("bias")  # of a norm
        weight.copy_(1 + 0.3 * noise if is_scale else 0.4 * noise)
    return model


def language_model(name):
    """A model with its head, for what needs logits."""
    torch.manual_seed(0)
    config = copy.deepcopy(EVERY[name].config)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for weight in model.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    return model.eval().requires_grad_(False)


def random_batch(lengths=LENGTHS, seed=1):
    """Random tokens, padded on the right."""
    ids = torch.randint(3, 64, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()  # [sentence, token]
    return SentenceBatch({"input_ids": ids * mask, "attention_mask": mask})


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
