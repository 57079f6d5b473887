"""Small random models of every architecture, batches for them, tokenizers of whole words, and rotation by hand."""

import copy
from dataclasses import dataclass

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
    rotary: int = 0  # features of each head that are rotated
    causal: bool = True


WIDTH = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA_LIKE = WIDTH | {"intermediate_size": 48, "num_key_value_heads": 2}
LLAMA_OUTPUT = "layers.{}.self_attn.o_proj"
BERT_LIKE = WIDTH | {"intermediate_size": 48}
FAMILIES = {
    "gpt2": Family(
        transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0),
        "h.{}.attn.c_proj",
    ),
    "gpt_neox": Family(transformers.GPTNeoXConfig(**BERT_LIKE, rotary_pct=0.5), "layers.{}.attention.dense", rotary=4),
    "llama": Family(transformers.LlamaConfig(**LLAMA_LIKE), LLAMA_OUTPUT, n_kv_head=2, rotary=8),
    "mistral": Family(
        transformers.MistralConfig(**LLAMA_LIKE, head_dim=12), LLAMA_OUTPUT, n_kv_head=2, d_head=12, rotary=12
    ),
    "qwen2": Family(transformers.Qwen2Config(**LLAMA_LIKE), LLAMA_OUTPUT, n_kv_head=2, rotary=8),
    "opt": Family(
        transformers.OPTConfig(**WIDTH, ffn_dim=48, word_embed_proj_dim=32), "decoder.layers.{}.self_attn.out_proj"
    ),
    "bert": Family(transformers.BertConfig(**BERT_LIKE), "encoder.layer.{}.attention.output.dense", causal=False),
    "distilbert": Family(
        transformers.DistilBertConfig(vocab_size=64, dim=32, n_layers=3, n_heads=4, hidden_dim=48),
        "transformer.layer.{}.attention.out_lin",
        causal=False,
    ),
}
CAUSAL = [name for name, family in FAMILIES.items() if family.causal]
ROTARY = [name for name, family in FAMILIES.items() if family.rotary]
N_LAYER, N_HEAD, LENGTHS = 3, 4, (9, 6, 4)


def random_model(name, seed=0):
    """A model without its head, with weights far larger than usual, so that attention is far from uniform."""
    config = copy.deepcopy(FAMILIES[name].config)
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for path, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        is_scale = weight.ndim == 1 and not path.endswith("bias")  # of a norm
        weight.copy_(1 + 0.3 * noise if is_scale else 0.4 * noise)
    return model


def language_model(name):
    """A model with its head, for what needs logits."""
    torch.manual_seed(0)
    config = copy.deepcopy(FAMILIES[name].config)
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


def rotate(x, n_rotary, theta=10_000.0):
    """Rotary embedding of the first features of each head; x float64 [sentence, head, token, d_head]."""
    half = n_rotary // 2
    frequency = theta ** (-np.arange(half) / half)
    angle = np.arange(x.shape[2])[:, None] * frequency  # [token, half]
    first, second, rest = x[..., :half], x[..., half:n_rotary], x[..., n_rotary:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def by_head(x, d_head):
    """[sentence, token, feature] -> float64 [sentence, head, token, d_head]."""
    x = x.double().numpy()
    return x.reshape(*x.shape[:2], -1, d_head).transpose(0, 2, 1, 3)
