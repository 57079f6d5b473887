"""A word in the place of another against whole models on whole sentences."""

from contextlib import ExitStack
from functools import partial

import pytest
import torch

from helpers import capture_qkv, edit_qkv
from helpers.experiments.word_swap import WordSlot
from tests.support.refusal import assert_refused
from tests.support.tiny import CAUSAL, language_model, log_p, random_batch

BATCH, POSITIONS = random_batch(), torch.tensor([3, 1, 1])


@pytest.fixture(scope="module", params=[*CAUSAL, "bloom", "gemma2", "gpt_neo", "phi3"])  # with ALiBi, and windows
def model(request):
    return language_model(request.param)


def with_word(word):
    ids = BATCH["input_ids"].clone()
    ids[torch.arange(len(ids)), POSITIONS] = word
    return {"input_ids": ids, "attention_mask": BATCH["attention_mask"]}


def log_p_of(model, word):
    """By the whole model on whole sentences: float64 `[token after the word, but for the last; vocabulary]` of each."""
    every = map(torch.from_numpy, log_p(model, with_word(word)))
    return [rows[place + 1 :] for rows, place in zip(every, POSITIONS.tolist(), strict=True)]


@pytest.fixture
def slot(model):
    return WordSlot(model, BATCH, POSITIONS)


def test_predictions_are_those_of_the_whole_model_on_whole_sentences(model, slot):
    p, q, found = log_p_of(model, 5), log_p_of(model, 9), slot.predict(5)
    assert torch.allclose(found.double(), torch.cat(p), atol=1e-4)
    expected = torch.stack([(a.exp() * (a - b)).sum(-1).mean() for a, b in zip(p, q, strict=True)])
    assert torch.allclose(slot.kl(found, slot.predict(9)), expected, atol=1e-4)


def test_whole_k_and_v_of_another_word_give_its_predictions(slot):
    vectors = slot.capture(9)
    both = {part: vectors[part] for part in "KV"}
    patched, only_v, nothing = slot.predict_edited(5, [both, {"V": vectors["V"]}, {}])
    assert float(slot.kl(slot.predict(9), patched).abs().max()) < 1e-5
    assert float(slot.kl(slot.predict(9), slot.predict(5)).min()) > 1e-3
    assert float(slot.kl(slot.predict(9), only_v).min()) > 1e-4  # K is needed too
    assert torch.allclose(nothing, slot.predict(5), atol=1e-4)


@pytest.mark.parametrize("part", "QKV")
def test_captured_and_replaced_part_is_that_of_the_whole_model(model, slot, part):
    projected = getattr(capture_qkv(model, with_word(9), positions=POSITIONS), part.lower())
    assert torch.allclose(slot.capture(9)[part], projected, atol=1e-4)
    new = torch.randn(projected.shape, generator=torch.Generator().manual_seed(0))

    def replace(layer, values, positions):
        values[torch.arange(3), POSITIONS] = new[layer]
        return values

    with ExitStack() as edits:
        for layer in range(3):
            edits.enter_context(edit_qkv(model, layer, part, partial(replace, layer)))
        expected = torch.cat(log_p_of(model, 5))
    (found,) = slot.predict_edited(5, [{part: new}])
    assert torch.allclose(found.double(), expected, atol=1e-4)
    assert not torch.allclose(slot.predict(5), found, atol=1e-2)


def test_word_that_stands_first_or_that_nothing_follows_is_refused():
    model = language_model("gpt2")
    first = partial(WordSlot, model, BATCH, torch.tensor([3, 0, 1]))
    assert_refused(first, ValueError, "the word stands first in sentences 1, so nothing precedes it")
    slot = WordSlot(model, BATCH, torch.tensor([3, 1, 2]))
    assert_refused(partial(slot.predict, 5), ValueError, "two tokens must follow the word, not so in sentences 2:")


def test_padding_on_the_left_and_a_head_of_its_own_change_nothing(slot, model):
    order = BATCH["attention_mask"].argsort(dim=1, stable=True)
    left = {key: value.gather(1, order) for key, value in BATCH.items()}
    moved = WordSlot(model, left, POSITIONS + torch.tensor([0, 3, 5]))
    assert torch.allclose(moved.predict(5), slot.predict(5), atol=1e-4)
    handle = model.get_output_embeddings().register_forward_hook(lambda module, args, logits: 0.5 * logits.tanh())
    try:
        found, expected = moved.predict_edited(5, [{"K": slot.capture(5)["K"]}])[0], torch.cat(log_p_of(model, 5))
    finally:
        handle.remove()
    assert torch.allclose(found.double(), expected, atol=1e-4)
