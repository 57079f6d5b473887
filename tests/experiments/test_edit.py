"""edit_qkv on every architecture: against attention recomputed by hand, and the model's own parts."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import transformers

from helpers import capture_qkv, edit_qkv
from helpers.experiments.edit import cached_tokens, recorded
from tests.support.refusal import assert_refused
from tests.support.tiny import (
    CAUSAL,
    FAMILIES,
    ROTARY,
    by_head,
    language_model,
    random_batch,
    random_model,
    rotate,
)


@pytest.fixture(scope="module")
def models():
    return {name: random_model(name) for name in FAMILIES}


@pytest.fixture(scope="module")
def batch():
    return random_batch()


def hidden(model, batch):
    with torch.no_grad():
        return model(**batch).last_hidden_state


@pytest.fixture(scope="module")
def plain(models, batch):
    """{name: last hidden states of the unedited model}."""
    return {name: hidden(model, batch) for name, model in models.items()}


def n_hooks(model):
    """transformers' own output_attentions leaves some behind, so they are counted."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_edit_that_changes_nothing_changes_no_bit(models, batch, plain, name):
    hooks = n_hooks(models[name])
    for part, after_rotary in (("Q", False), ("Q", True), ("K", False), ("K", True), ("V", False)):
        with edit_qkv(models[name], None, part, lambda v, _: v, after_rotary=after_rotary):
            assert torch.equal(hidden(models[name], batch), plain[name]), (part, after_rotary)
        assert n_hooks(models[name]) == hooks


@pytest.mark.parametrize("part", ["Q", "K"])
@pytest.mark.parametrize("name", ROTARY)
def test_after_the_rotary_step_attention_is_that_of_the_edited_vectors(models, batch, name, part):
    """Scores recomputed in float64 NumPy from the captured vectors, rotated there and shifted by noise."""
    model, spec, layer = models[name], FAMILIES[name], 1
    qkv = capture_qkv(model, batch, layers=layer)
    vectors = {p: rotate(by_head(getattr(qkv, p.lower())[0], spec.d_head), spec.rotary) for p in "QK"}
    shape = vectors[part].shape  # [sentence, head, token, d_head]
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    vectors[part] = vectors[part] + noise.numpy()
    k = vectors["K"].repeat(vectors["Q"].shape[1] // spec.n_kv_head, axis=1)
    scores = vectors["Q"] @ k.swapaxes(-1, -2) / np.sqrt(spec.d_head)
    scores[..., ~np.tri(scores.shape[-1], dtype=bool)] = -np.inf
    scores[np.broadcast_to((batch["attention_mask"].numpy() == 0)[:, None, None], scores.shape)] = -np.inf
    expected = np.exp(scores - scores.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)

    shift = noise.transpose(1, 2).flatten(2).float()
    with torch.no_grad(), edit_qkv(model, layer, part, lambda v, _: v + shift, after_rotary=True):
        own = model(**batch, output_attentions=True).attentions[layer]
    real = batch["attention_mask"].bool()
    assert np.abs(own.numpy() - expected).swapaxes(1, 2)[real.numpy()].max() < 1e-5


def test_scaled_rotary_embedding_is_undone_with_its_scale(batch):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10_000.0}
    config = copy.deepcopy(FAMILIES["llama"].config)
    config.rope_parameters = scaling
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval().requires_grad_(False)
    wanted = torch.randn(16, generator=torch.Generator().manual_seed(4))
    replace = edit_qkv(model, 0, "K", lambda k, positions: wanted.expand_as(k), after_rotary=True)
    with replace, recorded(model, "K", after_rotary=True) as seen:
        hidden(model, batch)
    cos, sin = model.rotary_emb(torch.zeros(1, 1, 8), torch.arange(3).unsqueeze(0))
    assert not torch.allclose(cos.square() + sin.square(), torch.ones_like(cos), atol=1e-2)  # it is scaled
    assert torch.allclose(seen[0], wanted.expand_as(seen[0]), atol=1e-5)


def test_fn_gets_the_captured_vectors_of_its_layers_and_the_positions(models, batch):
    model, seen = models["gpt_neox"], []
    expected = capture_qkv(model, batch)
    edit = edit_qkv(model, [0, -1, 2], "K", lambda values, positions: seen.append((values, positions)) or values)
    with edit, recorded(model, "V") as v:
        hidden(model, batch)
    assert len(seen) == 2  # layer 2 and layer -1 are the same
    for layer, (values, positions) in zip((0, 2), seen, strict=True):
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


@pytest.mark.parametrize("after_rotary", [False, True])
def test_edit_in_place_is_an_edit_and_no_hook_is_left_after_an_error(models, batch, plain, after_rotary):
    model, hooks = models["llama"], n_hooks(models["llama"])
    with edit_qkv(model, None, "K", lambda k, _: 2 * k, after_rotary=after_rotary):
        expected = hidden(model, batch)
    with edit_qkv(model, None, "K", lambda k, _: k.mul_(2), after_rotary=after_rotary):
        assert torch.equal(hidden(model, batch), expected)
    with pytest.raises(ZeroDivisionError), edit_qkv(model, None, "K", lambda k, _: 1 // 0, after_rotary=after_rotary):
        hidden(model, batch)
    with pytest.raises(KeyError), edit_qkv(model, None, "K", lambda k, _: 2 * k, after_rotary=after_rotary):
        raise KeyError
    assert n_hooks(model) == hooks and torch.equal(hidden(model, batch), plain["llama"])


def test_capture_sees_edits_and_the_outer_of_two_comes_first(models, batch):
    model = models["gpt2"]
    plain = capture_qkv(model, batch, layers=1)
    with edit_qkv(model, 1, "V", lambda v, _: v + 1), edit_qkv(model, 1, "V", lambda v, _: v * 2):
        captured = capture_qkv(model, batch, layers=1)
    assert torch.allclose(captured.v, (plain.v + 1) * 2) and torch.equal(captured.q, plain.q)


REFUSED = (
    (None, "X", None, False, "expected part 'Q', 'K' or 'V', got 'X'"),
    (None, "V", None, True, "V does not pass through a rotary step"),
    (7, "V", None, False, r"layer 7 is out of range: the model has layers 0\.\.2"),
    (0, "Q", lambda v, _: v[:, 0], False, r"expected new values of shape \(3, 9, 32\) from fn, got \(3, 32\)"),
    (0, "Q", lambda v, _: None, False, r"expected new values of shape \(3, 9, 32\) from fn, got NoneType"),
)


def test_wrong_arguments_are_refused_and_nothing_stays_hooked(models, batch):
    model, hooks = models["gpt2"], n_hooks(models["gpt2"])

    def edited(layers, part, fn, after_rotary):
        with edit_qkv(model, layers, part, fn, after_rotary=after_rotary):
            hidden(model, batch)

    for *arguments, message in REFUSED:
        assert_refused(partial(edited, *arguments), ValueError, message)
    assert n_hooks(model) == hooks
