"""Captured Q, K and V against the model's own attention, and everything around the capture."""

import re
from functools import partial

import numpy as np
import pytest
import torch
import transformers

from helpers import attention_modules, capture_qkv
from helpers.capture import ADAPTERS
from helpers.text import SentenceBatch
from tests.support.refusal import assert_refused
from tests.support.tiny import random_batch, random_model


@pytest.fixture(scope="module")
def gpt2():
    return random_model("gpt2")


@pytest.fixture
def batch():
    return random_batch()


def test_layers_are_selected_in_the_order_asked_for(gpt2, batch):
    full = capture_qkv(gpt2, batch).joined()
    cases = (
        (None, (0, 1, 2)),
        (1, (1,)),
        (-1, (2,)),
        ([1, 1, -3], (1, 1, 0)),
        (np.arange(3)[1], (1,)),
        (range(2), (0, 1)),
    )
    for layers, numbers in cases:
        qkv = capture_qkv(gpt2, batch, layers=layers)
        assert qkv.layers == numbers
        assert torch.equal(qkv.joined(), full[list(numbers)])
    for layers, came in (
        (3, "3"),
        (-4, "-4"),
        ([0, 7], "7"),
        ([], r"\(none given\)"),
        ("last", "'last'"),
        (1.5, "1.5"),
    ):
        message = rf"layer {came} is out of range: the model has layers 0\.\.2"
        assert_refused(partial(capture_qkv, gpt2, batch, layers=layers), ValueError, message)


def test_positions_and_parts_that_do_not_fit_are_refused(gpt2, batch):
    came = {"9 (sentence 1)": [1, 9, 0], "-1 (sentence 1)": [1, -1, 0], "(10,)": [0] * 10}
    came |= {"6 (sentence 1), 8 (sentence 2)": [1, 6, 8]}  # padding
    came |= {str(positions): positions for positions in ([1, 2], [[1], [2], [0]], 4)}
    for shown, positions in came.items():
        message = (
            rf"the position of a real token, 0\.\.8, for each of 3 sentences, got {re.escape(shown)}: use find_token"
        )
        assert_refused(partial(capture_qkv, gpt2, batch, positions=positions), ValueError, message)
    qkv = capture_qkv(gpt2, batch, layers=0)
    for part in ("q", "QK"):
        assert_refused(partial(qkv.heads, part), ValueError, f"expected part 'Q', 'K' or 'V', got '{part}'")


def test_capture_builds_no_graph_of_a_model_in_training(batch):
    model = random_model("gpt2").requires_grad_(True)
    with_graph = []
    model.h[1].register_forward_hook(lambda module, inputs, output: with_graph.append(torch.is_grad_enabled()))
    assert not capture_qkv(model, batch).joined().requires_grad
    assert with_graph == [False]


def test_right_padding_changes_no_target_of_smollm2(smollm2, her_batch, her_positions):
    lengths = her_batch["attention_mask"].sum(1)
    three = lengths.argsort()[[0, len(lengths) // 2, -1]]  # the shortest, a middling one, the longest
    batch = SentenceBatch({key: value[three] for key, value in her_batch.items()})
    padded = capture_qkv(smollm2[0], batch).joined()  # [layer, sentence, token, feature]
    for i, position in enumerate(her_positions[three].tolist()):
        alone = SentenceBatch({key: value[i : i + 1, : lengths[three][i]] for key, value in batch.items()})
        alone = capture_qkv(smollm2[0], alone, positions=[position]).joined()
        assert (alone[:, 0] - padded[:, i, position]).abs().max() < 1e-4 * padded.abs().max()


def test_unknown_architecture_is_refused_with_the_known_ones():
    model = transformers.AutoModel.from_config(transformers.CTRLConfig(vocab_size=64, n_embd=16, n_layer=1, n_head=4))
    known = ", ".join(sorted(ADAPTERS))
    for use in (partial(attention_modules, model), partial(capture_qkv, model, random_batch())):
        assert_refused(use, ValueError, f"unknown architecture 'ctrl': expected one of {known}. Add an Adapter")
