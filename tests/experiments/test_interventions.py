"""Effects of edits against float64 NumPy."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from helpers import attention_modules, capture_qkv, edit_qkv
from helpers.experiments import interventions
from helpers.experiments.interventions import edit_attention, edit_layers, effect, predict, real_tokens
from tests.support.refusal import assert_refused
from tests.support.tiny import CAUSAL, FAMILIES, LENGTHS, N_HEAD, language_model, log_p, random_batch, random_model

BATCH = random_batch()


@pytest.fixture(scope="module", params=CAUSAL)
def model(request):
    return language_model(request.param)


def kl(p, q):
    """KL(p || q) of logarithms `[prediction, vocabulary]`, mean over the predictions."""
    return (np.exp(p) * (p - q)).sum(-1).mean()


def test_effect_equals_numpy_on_the_whole_logits(model):
    plain, before = log_p(model, BATCH), predict(model, BATCH)
    with edit_layers(model, "K", lambda k, layer: k):
        assert not effect(model, BATCH, before).any()
    with edit_qkv(model, 1, "V", lambda v, _: 2 * v):
        found, edited = effect(model, BATCH, before), log_p(model, BATCH)
    assert np.allclose(found, list(map(kl, plain, edited)), rtol=0, atol=1e-5) and float(found.min()) > 1e-3
    mean = np.log(np.exp(np.concatenate(plain)).mean(axis=0))  # of all predictions: it knows no context
    assert np.allclose(interventions.context_free(before, BATCH), [kl(p, mean) for p in plain], atol=1e-5)


def test_editing_all_layers_is_nesting_the_edits_of_each(model):
    before, where = predict(model, BATCH), real_tokens(BATCH)
    where[:, 0] = False

    def edit(layer):
        return edit_qkv(model, layer, "V", lambda v, _: torch.where(where.unsqueeze(-1), (2 - layer) * v, v))

    with edit(0), edit(1), edit(2):
        expected = effect(model, BATCH, before)
    with edit_layers(model, "V", lambda v, layer: (2 - layer) * v, where=where):
        assert torch.equal(effect(model, BATCH, before), expected)
    assert not effect(model, BATCH, before).any()  # all hooks are off


def weights_of(model):
    with torch.no_grad():
        return model.base_model(**BATCH, output_attentions=True, use_cache=False).attentions


def test_edited_attention_computes_the_output_from_the_new_weights(model):
    """Uniform weights over what a query may see: the output is the running mean of V."""
    outputs, values, usual, family = [], [], weights_of(model), FAMILIES[model.config.model_type]
    uniform = [(w > 0).float() / (w > 0).sum(-1, keepdim=True) for w in usual]
    see = edit_qkv(model, 1, "V", lambda v, _: values.append(v) or v)
    with see, edit_attention(model, lambda layer, w: uniform[layer]), torch.no_grad():
        handle = attention_modules(model)[1].register_forward_hook(lambda m, args, out: outputs.append(out[0]))
        model.base_model(**BATCH, use_cache=False)
        handle.remove()
    assert torch.equal(weights_of(model)[2], usual[2])  # the hooks are off
    mean = values[0].cumsum(dim=1) / torch.arange(1, 10).view(1, -1, 1)
    heads = mean.unflatten(-1, (-1, family.d_head)).repeat_interleave(N_HEAD // family.n_kv_head, dim=2)
    projection = model.base_model.get_submodule(family.output.format(1))
    assert torch.allclose(outputs[0][0], projection(heads.flatten(2))[0], atol=1e-4)


def test_edit_behind_the_rotary_step_holds_where_attention_is_replaced():
    model = language_model("llama")
    before = predict(model, BATCH)
    with edit_layers(model, "K", lambda k, layer: 1.5 * k.roll(1, -1), after_rotary=True):
        expected = effect(model, BATCH, before)
        with edit_attention(model, lambda layer, weights: weights):
            assert torch.allclose(effect(model, BATCH, before), expected, atol=1e-5)


def test_clamping_gives_sinks_their_weight_and_the_rest_in_proportion(model):
    before, sink = predict(model, BATCH), real_tokens(BATCH) & (torch.arange(9) == 0)
    usual = dict(enumerate(weights_of(model)))
    with interventions.clamped(model, sink) as seen:
        assert not effect(model, BATCH, before).any()
    assert all(torch.allclose(seen[layer], w, atol=1e-6) for layer, w in usual.items())
    with interventions.clamped(model, sink, usual):
        assert float(effect(model, BATCH, before).abs().max()) < 1e-6  # nothing to do
    with edit_layers(model, "Q", lambda q, layer: 0 * q):
        with interventions.clamped(model, sink) as free:
            lost = effect(model, BATCH, before)
        with interventions.clamped(model, sink, usual) as goal:
            kept = effect(model, BATCH, before)
    assert not torch.allclose(lost, kept, rtol=1e-3)
    assert torch.allclose(goal[0][..., 0], usual[0][..., 0], atol=1e-6)
    rest, expected = (w[0][:, :, 2:, 1:] / w[0][:, :, 2:, 1:].sum(-1, keepdim=True) for w in (goal, free))
    assert torch.allclose(rest, expected, atol=1e-5)


def test_common_mean_leaves_out_padding_special_tokens_and_what_is_massive(model):
    heavy, rare, real = copy.deepcopy(model), int(BATCH["input_ids"][1, 3]), BATCH["attention_mask"].bool()
    heavy.get_input_embeddings().weight.data[rare] *= 100
    marked = copy.copy(BATCH)
    marked.text = real & (torch.arange(9) > 0)  # the first of each sentence as [CLS]
    for batch, text in ((BATCH, real), (marked, marked.text)):
        assert torch.equal(real_tokens(batch), text) and not interventions.massive_tokens(model, batch)[1, 3]
        massive, found = interventions.massive_tokens(heavy, batch), interventions.common_mean(heavy, batch)
        qkv = capture_qkv(heavy, batch)
        assert massive[batch["input_ids"] == rare].all() and not massive[~real].any()
        ordinary = text & ~massive
        assert int(ordinary.sum()) >= 10
        for part in "QKV":
            rows = getattr(qkv, part.lower())[1].numpy()[ordinary.numpy()]
            assert np.allclose(found[part][1], rows.mean(axis=0), atol=1e-4)


def test_random_controls_keep_the_length_of_each_head_or_pair():
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(3, 16, generator=generator) * torch.tensor([1.0] * 8 + [9.0] * 8)
    controls = interventions.random_like(vector, 8, generator), interventions.other_phases(vector, 8, 3, generator)
    signs = interventions.other_phases(vector, 8, 0, generator)
    heads, blind, turned = (x.view(3, 2, 8) for x in (vector, *controls))
    assert torch.allclose(blind.norm(dim=-1), heads.norm(dim=-1), rtol=1e-5)
    assert float(torch.cosine_similarity(controls[0], vector, dim=-1).abs().max()) < 0.8
    pairs = (x[..., :3] ** 2 + x[..., 3:6] ** 2 for x in (heads, turned))
    assert torch.allclose(*pairs, rtol=1e-4) and torch.equal(heads[..., 6:], turned[..., 6:])
    assert not torch.allclose(heads, turned, atol=0.1)
    assert torch.equal(signs.abs(), vector.abs()) and 0 < int((signs != vector).sum()) < vector.numel()


def test_score_by_distance_against_a_loop(model):
    family, far = FAMILIES[model.config.model_type], 2  # half of the shortest sentence
    d_head, shared = family.d_head, N_HEAD // family.n_kv_head
    constant = torch.randn(3, family.n_kv_head * d_head, generator=torch.Generator().manual_seed(3))
    keys = interventions.after_rotary(model, BATCH, "K", instead=constant)
    queries = interventions.after_rotary(model, BATCH, "Q")
    found = interventions.score_by_distance(queries[1], keys[1, 0], real_tokens(BATCH), d_head)
    assert found.shape == (3, N_HEAD, far)
    for sentence, head in np.ndindex(3, N_HEAD):
        q = queries[1, sentence].numpy()[:, head * d_head :][:, :d_head]
        k = keys[1, 0].numpy()[:, head // shared * d_head :][:, :d_head]
        rows = [[q[t] @ k[t - d] / d_head**0.5 for d in range(far)] for t in range(far - 1, LENGTHS[sentence])]
        expected = np.mean([np.array(row) - np.mean(row) for row in rows], axis=0)
        assert np.allclose(found[sentence, head], expected, atol=1e-4)
    assert interventions.rotary_half(model, d_head) == family.rotary // 2
    if not family.rotary:
        assert float(found.abs().max()) < 1e-4  # level: the softmax drops it


def test_in_double_computes_in_float64_throughout():
    model, batch = language_model("llama"), random_batch(lengths=(9, 9))
    exact, half_way = interventions.in_double(model), copy.deepcopy(model).double()
    constant = torch.randn(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def logits(m, shift):
        with torch.no_grad(), edit_qkv(m, None, "K", lambda k, _: k + shift.to(k), after_rotary=True):
            return m(**batch).logits

    def moved(m):  # by a change that cancels in exact arithmetic
        return (logits(m, constant) - logits(m, 0 * constant)).abs().max()

    assert torch.allclose(logits(exact, 0 * constant).float(), logits(model, 0 * constant), atol=1e-4)
    assert moved(exact) < 1e-12 and moved(half_way) > 1e-9
    assert model.dtype == torch.float32 and type(model.model.norm).__name__ == "LlamaRMSNorm"


HEADS = {"bert": {"is_decoder": True}, "gemma2": {"final_logit_softcapping": 0.05}, "granite": {"logits_scaling": 0.1}}


@pytest.mark.parametrize("name", HEADS)
def test_predictions_are_the_models_own_whatever_its_head_does(name):
    """A dense layer before the output embeddings, a soft cap or a scale behind them."""
    model = random_model(name, "AutoModelForCausalLM", **HEADS[name])
    assert np.allclose(predict(model, BATCH).p, np.exp(np.concatenate(log_p(model, BATCH))), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_kl_is_never_negative_and_padding_on_the_left_changes_nothing(dtype):
    model = language_model("gpt2").to(dtype)
    order = BATCH["attention_mask"].argsort(dim=1, stable=True)
    left, found = {key: value.gather(1, order) for key, value in BATCH.items()}, []
    for padded in (BATCH, left):
        before = predict(model, padded)
        assert before.p.dtype == torch.float32 and len(before.p) == 8 + 5 + 3
        assert torch.allclose(before.p.sum(-1), torch.tensor(1.0), atol=1e-4)
        with edit_qkv(model, 1, "V", lambda v, _: 1.01 * v):
            found.append(effect(model, padded, before))
    assert all(-1e-6 < float(kl.min()) and float(kl.max()) < 0.01 for kl in found), found
    assert torch.allclose(*found, atol=1e-5 if dtype == torch.float32 else 5e-3)
    assert interventions.common_mean(model, BATCH)["K"].dtype == torch.float32


def test_attention_weights_that_cannot_be_replaced_are_refused():
    model = language_model("gpt2")

    def replaced(**options):
        with edit_attention(model, lambda layer, weights: weights), torch.no_grad():
            return model(**BATCH, **options)

    cache = replaced(use_cache=True).past_key_values
    assert_refused(partial(replaced, past_key_values=cache), ValueError, "reads whole sentences: run it with use_cache")
    model.set_attn_implementation("sdpa")
    assert_refused(replaced, ValueError, "GPT2Attention returns no attention weights: load the model with attn_impl")


def test_what_cannot_predict_the_next_token_is_refused():
    for model in (random_model("bert"), language_model("bert")):  # the second sees the token that it should predict
        message = f"{type(model).__name__} does not predict the next token: use a causal model"
        assert_refused(partial(predict, model, BATCH), ValueError, message)
    short = partial(predict, language_model("gpt2"), random_batch(lengths=(4, 1)))
    assert_refused(short, ValueError, "nothing can be predicted in sentences of one token: leave out 1")
