"""What a model reads: right or refused, whatever the model is wrapped in and the batch was made from."""

import copy
from functools import partial
from types import SimpleNamespace

import accelerate
import pytest
import torch
import transformers

from helpers import capture_qkv
from helpers.experiments.interventions import predict
from helpers.text import SentenceBatch
from tests.support.refusal import assert_refused
from tests.support.tiny import EVERY, language_model, random_batch


@pytest.fixture(scope="module")
def gpt2():
    return language_model("gpt2")


def changed(**entries):
    return SentenceBatch(dict(random_batch()) | entries)


def test_entries_that_would_change_what_is_read_are_left_out(gpt2):
    expected, batch = capture_qkv(gpt2, random_batch()).joined(), random_batch()
    mask = batch["attention_mask"]
    for other in (
        changed(token_type_ids=0 * mask),  # GPT-2 would add the embedding of token 0
        changed(special_tokens_mask=0 * mask, labels=batch["input_ids"]),
        changed(attention_mask=mask.bool()),
        {"input_ids": batch["input_ids"], "attention_mask": mask.float()},
    ):
        assert torch.equal(capture_qkv(gpt2, other).joined(), expected)
    for padding in (64, -100):  # an id outside the vocabulary
        other = changed(input_ids=batch["input_ids"].where(mask.bool(), padding))
        found, real = capture_qkv(gpt2, other).joined(), mask.bool()
        assert torch.equal(found[:, real], expected[:, real])
    whole = {"input_ids": batch["input_ids"][:1]}  # without a mask all is text
    assert torch.allclose(capture_qkv(gpt2, whole).joined(), expected[:, :1], atol=1e-5)
    types = torch.ones_like(mask)
    assert not torch.allclose(capture_qkv(gpt2, changed(token_type_ids=types)).joined(), expected, atol=1e-3)  # meant


MASK = random_batch()["attention_mask"]
IDS = random_batch()["input_ids"]
REFUSED = {
    "empty row": ({"attention_mask": MASK * torch.tensor([[1], [0], [1]])}, "sentences 1 have no real token"),
    "hole": ({"attention_mask": MASK * (torch.arange(9) != 2)}, "sentences 0, 1, 2 have padding between real tokens"),
    "additive mask": ({"attention_mask": (1.0 - MASK) * -1e9}, r"\(of 0 and 1\).*got \[\(3, 9\), \(3, 9\)\]"),
    "mask of scores": ({"attention_mask": MASK[:, None, None]}, r"got \[\(3, 9\), \(3, 1, 1, 9\)\]"),
    "one sentence": ({"input_ids": IDS[0], "attention_mask": MASK[0]}, r"got \[\(9,\), \(9,\)\]"),
    "lists": ({"input_ids": IDS.tolist()}, r"got \['list', \(3, 9\)\]"),
    "other tokenizer": ({"input_ids": IDS + 60 * (IDS == 5) + 60}, r"have token ids outside 0\.\.63: use encode"),
    "negative": ({"input_ids": IDS - 60}, r"sentences 0, 1, 2 have token ids outside 0\.\.63"),
}


@pytest.mark.parametrize(("entries", "message"), REFUSED.values(), ids=REFUSED)
def test_batch_that_is_not_read_as_meant_is_refused(gpt2, entries, message):
    for use in (capture_qkv, predict):
        assert_refused(partial(use, gpt2, changed(**entries)), ValueError, message)


@pytest.mark.parametrize(("name", "reads"), [("gpt2", 8), ("llama", 8), ("roberta", 6)])
def test_sentence_longer_than_the_model_reads_is_refused(name, reads):
    config = copy.deepcopy(EVERY[name].config)
    config.max_position_embeddings = 8
    model, longer = transformers.AutoModel.from_config(config).eval(), random_batch(lengths=(reads + 1, 2))
    message = f"a sentence has {reads + 1} tokens, the model reads {reads} at most"
    assert_refused(partial(capture_qkv, model, longer), ValueError, message)
    assert capture_qkv(model, random_batch(lengths=(reads, 2))).q.shape[2] == reads
    if name != "llama":  # whose positions are computed
        with pytest.raises((IndexError, RuntimeError)):
            model(**longer)


def test_training_mode_is_refused_even_in_one_module(gpt2):
    model = copy.deepcopy(gpt2)
    for module in (model, model.transformer.h[1].attn.attn_dropout):
        module.train()
        for use in (capture_qkv, predict):
            assert_refused(partial(use, model, random_batch()), ValueError, r"training mode.*model\.eval\(\)")
        model.eval()


class Peft(torch.nn.Module):
    """What PEFT puts around a model: its `base_model` is none of transformers."""

    def __init__(self, model, is_prompt_learning):
        super().__init__()
        self.base_model = torch.nn.ModuleDict({"model": model})
        self.config, self.active_peft_config = model.config, SimpleNamespace(is_prompt_learning=is_prompt_learning)

    def get_base_model(self):
        return self.base_model["model"]


def test_peft_is_taken_off_unless_it_adds_a_prompt(gpt2):
    lora = Peft(gpt2, is_prompt_learning=False).eval()
    for model in (lora, torch.nn.DataParallel(lora)):
        assert torch.equal(capture_qkv(model, random_batch()).q, capture_qkv(gpt2, random_batch()).q)
    prompt = Peft(gpt2, is_prompt_learning=True).eval()
    assert_refused(partial(capture_qkv, prompt, random_batch()), ValueError, r"pass model\.get_base_model\(\)")
    for other in ((gpt2, None), torch.nn.Sequential(gpt2), None):
        came = f"expected a transformers model, got {type(other).__name__}: use `model, tokenizer"
        assert_refused(partial(capture_qkv, other, random_batch()), ValueError, came)


class Int8(torch.nn.Module):
    """A linear layer with whole numbers for weights, as quantised models have."""

    def __init__(self, linear):
        super().__init__()
        self.scale = linear.weight.abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight / self.scale).round().to(torch.int8))

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight.to(x.dtype) * self.scale)


def test_offloaded_and_quantised_models_are_captured():
    model, batch = language_model("llama"), random_batch()
    expected = capture_qkv(model, batch).joined()
    offloaded = accelerate.cpu_offload(copy.deepcopy(model), execution_device="cpu")
    assert next(offloaded.parameters()).is_meta
    for _ in range(2):  # the early end of the run leaves all in order
        assert torch.equal(capture_qkv(offloaded, batch).joined(), expected)
    assert torch.equal(predict(offloaded, batch).p, predict(model, batch).p)
    empty = copy.deepcopy(model).to("meta")
    assert_refused(partial(capture_qkv, empty, batch), ValueError, "the model has no weights")
    for layer in model.model.layers:
        layer.self_attn.q_proj = Int8(layer.self_attn.q_proj).eval()
    error = (capture_qkv(model, batch).q - expected[..., :32]).abs().max()
    assert 0 < error < 0.2 * expected.abs().max()
