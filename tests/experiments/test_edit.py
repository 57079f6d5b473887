"""edit_qkv where the contract of tests/core/test_adapters.py says nothing: no change, scales, caches, nesting."""

from functools import cache, partial

import pytest
import torch

from helpers import capture_qkv, edit_qkv
from helpers.experiments.edit import cached_tokens, recorded
from tests.support.refusal import assert_refused
from tests.support.tiny import CAUSAL, FAMILIES, language_model, random_batch, random_model

BATCH = random_batch()
built = cache(random_model)


def hidden(model):
    with torch.no_grad():
        return model(**BATCH).last_hidden_state


@pytest.mark.parametrize("name", FAMILIES)
def test_edit_that_changes_nothing_changes_no_bit_and_one_in_place_does(name):
    for part, after_rotary in (("Q", False), ("Q", True), ("K", False), ("K", True), ("V", False)):
        results = []
        for fn in (lambda v, _: v, lambda v, _: 2 * v, lambda v, _: v.mul_(2)):
            with edit_qkv(built(name), None, part, fn, after_rotary=after_rotary):
                results.append(hidden(built(name)))
        nothing, edited, edited_in_place = results
        assert torch.equal(nothing, hidden(built(name))), (part, after_rotary)
        assert torch.equal(edited, edited_in_place) and not torch.equal(edited, nothing), (part, after_rotary)


def test_scaled_rotary_embedding_is_undone_with_its_scale():
    original = {"original_max_position_embeddings": 16, "rope_theta": 10_000.0}
    model = random_model("llama", rope_parameters={"rope_type": "yarn", "factor": 4.0, **original})
    wanted = torch.randn(16, generator=torch.Generator().manual_seed(4))
    replace = edit_qkv(model, 0, "K", lambda k, positions: wanted.expand_as(k), after_rotary=True)
    with replace, recorded(model, "K", after_rotary=True) as seen:
        hidden(model)
    cos, sin = model.rotary_emb(torch.zeros(1, 1, 8), torch.arange(3).unsqueeze(0))
    assert not torch.allclose(cos.square() + sin.square(), torch.ones_like(cos), atol=1e-2)  # it is scaled
    assert torch.allclose(seen[0], wanted.expand_as(seen[0]), atol=1e-5)


def test_fn_gets_the_captured_vectors_of_its_layers_and_the_positions():
    model, seen = built("gpt_neox"), []
    edit = edit_qkv(model, [0, -1, 2], "K", lambda *inputs: seen.append(inputs) or inputs[0])
    with edit, recorded(model, "V") as v:
        hidden(model)
    expected = capture_qkv(model, BATCH)
    for layer, (values, positions) in zip((0, 2), seen, strict=True):  # layer 2 and layer -1 are the same
        assert torch.equal(values, expected.k[layer]) and torch.equal(positions, torch.arange(9))
    assert torch.equal(torch.stack(v), expected.v)


@pytest.mark.parametrize("name", CAUSAL)
def test_positions_go_on_where_the_cache_of_generate_ends(name):
    model, ids = language_model(name), torch.arange(3, 12)[None]
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}

    def positions(**more):
        seen = []
        with edit_qkv(model, -1, "V", lambda v, at: seen.append(at.tolist()) or v):
            model.generate(ids, **options, **more)
        return seen

    whole = list(range(9))
    for kind in ({}, {"cache_implementation": "static"}, {"num_beams": 2}):
        assert positions(**kind) == [whole, [9], [10]], kind
    assert positions(use_cache=False) == [whole, [*whole, 9], [*whole, 9, 10]]


def test_cache_that_does_not_tell_its_length_is_refused():
    edit = partial(cached_tokens, (), {"past_key_values": ((torch.zeros(1, 2, 3, 4),) * 2,)}, 0)
    assert_refused(edit, ValueError, "cannot tell how many tokens the cache tuple holds.*use_cache=False")
    assert cached_tokens((None,), {"layer_past": None}, 0) == 0


def test_capture_sees_edits_and_the_outer_of_two_comes_first():
    model = built("gpt2")
    plain = capture_qkv(model, BATCH, layers=1)
    with edit_qkv(model, 1, "V", lambda v, _: v + 1), edit_qkv(model, 1, "V", lambda v, _: v * 2):
        captured = capture_qkv(model, BATCH, layers=1)
    assert torch.allclose(captured.v, (plain.v + 1) * 2) and torch.equal(captured.q, plain.q)


def test_wrong_arguments_are_refused():
    def edited(layers, part, fn=None, after_rotary=False):
        with edit_qkv(built("gpt2"), layers, part, fn, after_rotary=after_rotary):
            hidden(built("gpt2"))

    for edit, message in (
        (partial(edited, None, "X"), "expected part 'Q', 'K' or 'V', got 'X'"),
        (partial(edited, None, "V", after_rotary=True), "V does not pass through a rotary step"),
        (partial(edited, 7, "V"), r"layer 7 is out of range: the model has layers 0\.\.2"),
        (partial(edited, 0, "Q", lambda v, _: v[:, 0]), r"new values of shape \(3, 9, 32\) from fn, got \(3, 32\)"),
        (partial(edited, 0, "Q", lambda v, _: None), r"new values of shape \(3, 9, 32\) from fn, got NoneType"),
    ):
        assert_refused(edit, ValueError, message)
