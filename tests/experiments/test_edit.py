"""edit_qkv on every architecture: against changed weights, attention recomputed by hand, and the model's own parts."""

import copy

import numpy as np
import pytest
import torch
import transformers

from helpers import attention_modules, capture_qkv, edit_qkv
from helpers.masks import PARTS
from tests.core.test_capture import FAMILIES, N_HEAD, N_LAYER, by_head, random_batch, random_model, rotate

ROTARY = [name for name, family in FAMILIES.items() if family.rotary]
CAUSAL = [name for name, family in FAMILIES.items() if family.causal]
WIDTH_OF_HEAD = {"gpt2": 8, "gpt_neox": 8}


@pytest.fixture(scope="module")
def models():
    return {name: random_model(name) for name in FAMILIES}


@pytest.fixture(scope="module")
def batch():
    return random_batch()


def hidden(model, batch, **options):
    with torch.no_grad():
        return model(**batch, **options)


def n_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def same(values, positions):
    return values


@pytest.mark.parametrize("after_rotary", [False, True])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_an_edit_that_edits_nothing_changes_no_bit(models, batch, name, part, after_rotary):
    if part == "V" and after_rotary:
        return
    model = models[name]
    plain = hidden(model, batch).last_hidden_state
    with edit_qkv(model, None, part, same, after_rotary=after_rotary):
        assert torch.equal(hidden(model, batch).last_hidden_state, plain)
    assert n_hooks(model) == 0


def test_an_edit_that_edits_nothing_changes_no_logit_bit_of_smollm2(smollm2, her_batch):
    model = smollm2[0]
    few = {key: value[:4] for key, value in her_batch.items()}
    plain = hidden(model, few).logits
    with edit_qkv(model, None, "Q", same, after_rotary=True), edit_qkv(model, None, "K", same, after_rotary=True):
        assert torch.equal(hidden(model, few).logits, plain)


def without(model, name, layer, part):
    """A copy whose projection to one part is zero, found in the weights by arithmetic of its own."""
    model = copy.deepcopy(model)
    attention = attention_modules(model)[layer]
    if name == "gpt2":
        at = PARTS.index(part)
        attention.c_attn.weight[:, 32 * at : 32 * (at + 1)] = 0  # Conv1D: [in, out]
        attention.c_attn.bias[32 * at : 32 * (at + 1)] = 0
    elif name == "gpt_neox":
        for head in range(N_HEAD):
            rows = slice(24 * head + 8 * PARTS.index(part), 24 * head + 8 * PARTS.index(part) + 8)
            attention.query_key_value.weight[rows] = 0
            attention.query_key_value.bias[rows] = 0
    else:
        names = {"Q": ("q_proj", "query", "q_lin"), "K": ("k_proj", "key", "k_lin"), "V": ("v_proj", "value", "v_lin")}
        projection = next(m for child, m in attention.named_children() if child in names[part])
        projection.weight.zero_()
        if projection.bias is not None:
            projection.bias.zero_()
    return model


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_setting_a_part_to_zero_is_the_model_without_those_weights(models, batch, name, part):
    model, real = models[name], batch["attention_mask"].bool()
    expected = hidden(without(model, name, 1, part), batch).last_hidden_state
    with edit_qkv(model, 1, part, lambda values, positions: 0 * values):
        found = hidden(model, batch).last_hidden_state
    assert torch.allclose(found[real], expected[real], atol=1e-5)
    assert not torch.allclose(found[real], hidden(model, batch).last_hidden_state[real], atol=1e-3)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", CAUSAL)
def test_editing_one_token_leaves_earlier_tokens_of_a_causal_model_untouched(models, batch, name, part):
    model, at = models[name], 4
    plain = hidden(model, batch).last_hidden_state

    def fn(values, positions):
        return values + (positions == at).unsqueeze(-1) * 3

    with edit_qkv(model, None, part, fn):
        edited = hidden(model, batch).last_hidden_state
    assert torch.equal(edited[:, :at], plain[:, :at])
    assert not torch.allclose(edited[0, at:], plain[0, at:], atol=1e-3)


@pytest.mark.parametrize("part", ["Q", "K"])
@pytest.mark.parametrize("name", ROTARY)
def test_after_the_rotary_step_the_attention_is_that_of_the_edited_vectors(models, batch, name, part):
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

    with edit_qkv(model, layer, part, lambda v, _: v + noise.transpose(1, 2).flatten(2).float(), after_rotary=True):
        own = hidden(model, batch, output_attentions=True).attentions[layer]
    real = batch["attention_mask"].bool()
    assert np.abs(own.numpy() - expected).swapaxes(1, 2)[real.numpy()].max() < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_constant_on_all_keys_in_the_dot_product_changes_nothing(models, batch, name):
    model, real = models[name], batch["attention_mask"].bool()
    plain = hidden(model, batch).last_hidden_state
    constant = torch.randn(capture_qkv(model, batch, layers=0).sizes[1], generator=torch.Generator().manual_seed(3))

    def shifted(after_rotary):
        with edit_qkv(model, None, "K", lambda k, positions: k + constant, after_rotary=after_rotary):
            return hidden(model, batch).last_hidden_state

    assert torch.allclose(shifted(True)[real], plain[real], atol=1e-4)
    assert torch.allclose(shifted(False)[real], plain[real], atol=1e-3) == (name not in ROTARY)


def test_a_scaled_rotary_embedding_is_undone_with_its_scale(batch):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10_000.0}
    config = copy.deepcopy(FAMILIES["llama"].config)
    config.rope_parameters = scaling
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval().requires_grad_(False)
    seen = []
    wanted = torch.randn(16, generator=torch.Generator().manual_seed(4))
    with (
        edit_qkv(model, 0, "K", lambda k, positions: wanted.expand_as(k), after_rotary=True),
        edit_qkv(model, 0, "K", lambda k, positions: seen.append(k) or k, after_rotary=True),
    ):
        hidden(model, batch)
    cos, sin = model.rotary_emb(torch.zeros(1, 1, 8), torch.arange(3).unsqueeze(0))
    assert not torch.allclose(cos.square() + sin.square(), torch.ones_like(cos), atol=1e-2)  # it is scaled
    assert torch.allclose(seen[0], wanted.expand_as(seen[0]), atol=1e-5)


def test_what_fn_gets(models, batch):
    model = models["gpt_neox"]
    plain = capture_qkv(model, batch, layers=2)
    seen = []
    with edit_qkv(model, -1, "K", lambda values, positions: seen.append((values, positions)) or values):
        hidden(model, batch)
    (values, positions), *rest = seen
    assert not rest and torch.equal(values, plain.k[0]) and torch.equal(positions, torch.arange(9))


def test_fn_may_write_into_what_it_gets(models, batch):
    model = models["llama"]
    plain = hidden(model, batch).last_hidden_state

    def fn(values, positions):
        kept = values.clone()
        values.zero_()
        return kept

    with edit_qkv(model, None, "V", fn):
        assert torch.equal(hidden(model, batch).last_hidden_state, plain)


@pytest.mark.parametrize("after_rotary", [False, True])
def test_an_edit_in_place_is_an_edit(models, batch, after_rotary):
    model = models["llama"]
    with edit_qkv(model, None, "K", lambda k, _: 2 * k, after_rotary=after_rotary):
        expected = hidden(model, batch).last_hidden_state
    with edit_qkv(model, None, "K", lambda k, _: k.mul_(2), after_rotary=after_rotary):
        assert torch.equal(hidden(model, batch).last_hidden_state, expected)


def test_capture_sees_the_edit_and_the_outer_of_two_edits_comes_first(models, batch):
    model = models["gpt2"]
    plain = capture_qkv(model, batch, layers=1).v
    with edit_qkv(model, 1, "V", lambda v, _: v + 1), edit_qkv(model, 1, "V", lambda v, _: v * 2):
        captured = capture_qkv(model, batch, layers=1)
    assert torch.allclose(captured.v, (plain + 1) * 2)
    assert torch.equal(captured.q, capture_qkv(model, batch, layers=1).q)


def test_only_the_chosen_layers_are_edited(models, batch):
    model, seen = models["opt"], []
    with edit_qkv(model, [0, -1, 2], "Q", lambda q, _: seen.append(1) or q):
        hidden(model, batch)
    assert len(seen) == 2 and N_LAYER == 3  # layer 2 and layer -1 are the same


@pytest.mark.parametrize("after_rotary", [False, True])
def test_no_hook_is_left_after_an_error(models, batch, after_rotary):
    model = models["llama"]
    plain, hooks = hidden(model, batch).last_hidden_state, n_hooks(model)
    with (
        pytest.raises(ZeroDivisionError),
        edit_qkv(model, None, "K", lambda k, _: k / (1 // 0), after_rotary=after_rotary),
    ):
        hidden(model, batch)
    with pytest.raises(KeyError), edit_qkv(model, None, "K", lambda k, _: 2 * k, after_rotary=after_rotary):
        raise KeyError
    assert n_hooks(model) == hooks and torch.equal(hidden(model, batch).last_hidden_state, plain)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((None, "X", same), {}, "expected part 'Q', 'K' or 'V', got 'X'"),
        ((None, "V", same), {"after_rotary": True}, "V does not pass through a rotary step"),
        ((7, "V", same), {}, r"layer 7 is out of range: the model has layers 0\.\.2"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_hooked(models, arguments, options, message):
    hooks = n_hooks(models["llama"])  # transformers' own output_attentions leaves some
    with pytest.raises(ValueError, match=message), edit_qkv(models["llama"], *arguments, **options):
        pass
    assert n_hooks(models["llama"]) == hooks


@pytest.mark.parametrize(
    ("fn", "came"),
    [
        (lambda values, positions: values[:, 0], r"got \(3, 32\)"),
        (lambda values, positions: None, "got NoneType"),
    ],
)
def test_a_result_of_another_shape_is_refused(models, batch, fn, came):
    with (
        pytest.raises(ValueError, match=rf"expected new values of shape \(3, 9, 32\) from fn, {came}"),
        edit_qkv(models["gpt2"], 0, "Q", fn),
    ):
        hidden(models["gpt2"], batch)
