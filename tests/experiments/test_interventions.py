"""Effects of edits against float64 NumPy."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import transformers

from helpers import attention_modules, capture_qkv, edit_qkv
from helpers.experiments.interventions import (
    after_rotary,
    clamped,
    common_mean,
    context_free,
    edit_attention,
    edit_layers,
    effect,
    in_double,
    massive_tokens,
    other_phases,
    predict,
    random_like,
    real_tokens,
    rotary_half,
    score_by_distance,
)
from tests.support.refusal import assert_refused
from tests.support.tiny import CAUSAL, EVERY, FAMILIES, language_model, random_batch


@pytest.fixture(scope="module", params=CAUSAL)
def model(request):
    return language_model(request.param)


@pytest.fixture(scope="module")
def batch():
    return random_batch()


def log_probabilities(model, batch):
    """float64 `[sentence, token, vocabulary]`"""
    with torch.no_grad():
        logits = model(**batch).logits.double().numpy()
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def test_effect_equals_numpy_on_the_whole_logits(model, batch):
    plain = log_probabilities(model, batch)
    before = predict(model, batch)
    with edit_layers(model, "K", lambda k, layer: k):
        assert not effect(model, batch, before).any()
    with edit_qkv(model, 1, "V", lambda v, _: 2 * v):
        found = effect(model, batch, before)
        edited = log_probabilities(model, batch)
    for sentence, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        p, q = (x[sentence, : length - 1] for x in (plain, edited))
        assert abs(float(found[sentence]) - (np.exp(p) * (p - q)).sum(-1).mean()) < 1e-5
    assert float(found.min()) > 1e-3


def test_the_context_free_predictor_is_the_mean_of_all_predictions(model, batch):
    p = [np.exp(x[: length - 1]) for x, length in zip(log_probabilities(model, batch), (9, 6, 4), strict=True)]
    mean = np.concatenate(p).mean(axis=0)
    expected = [(q * (np.log(q) - np.log(mean))).sum(-1).mean() for q in p]
    assert np.allclose(context_free(predict(model, batch), batch), expected, atol=1e-5)


def test_editing_all_layers_is_nesting_the_edits_of_each(model, batch):
    before, where = predict(model, batch), real_tokens(batch)
    where[:, 0] = False

    def edit(layer):
        return edit_qkv(model, layer, "V", lambda v, _: torch.where(where.unsqueeze(-1), (2 - layer) * v, v))

    with edit(0), edit(1), edit(2):
        expected = effect(model, batch, before)
    with edit_layers(model, "V", lambda v, layer: (2 - layer) * v, where=where):
        assert torch.equal(effect(model, batch, before), expected)
    assert not effect(model, batch, before).any()  # all hooks are off


def weights_of(model, batch):
    with torch.no_grad():
        return model.base_model(**batch, output_attentions=True, use_cache=False).attentions


def test_edited_attention_computes_the_output_from_the_new_weights(model, batch):
    """Uniform weights over what a query may see: the output is the running mean of V."""
    outputs, values, usual = [], [], weights_of(model, batch)
    uniform = [(w > 0).float() / (w > 0).sum(-1, keepdim=True) for w in usual]
    module = attention_modules(model)[1]
    see = edit_qkv(model, 1, "V", lambda v, _: values.append(v) or v)
    with see, edit_attention(model, lambda layer, w: uniform[layer]):
        handle = module.register_forward_hook(lambda m, args, out: outputs.append(out[0]))
        with torch.no_grad():
            model.base_model(**batch, use_cache=False)
        handle.remove()
    assert torch.equal(weights_of(model, batch)[2], usual[2])  # the hooks are off
    number = torch.arange(1, 10).view(1, -1, 1)
    projection = next(m for name, m in module.named_children() if name in ("c_proj", "dense", "o_proj", "out_proj"))
    d_head = values[0].shape[-1] // (model.config.num_attention_heads // repeats(model))
    mean = (values[0].cumsum(dim=1) / number).unflatten(-1, (-1, d_head)).repeat_interleave(repeats(model), dim=2)
    with torch.no_grad():
        assert torch.allclose(outputs[0][0], projection(mean.flatten(2))[0], atol=1e-4)


def test_edit_behind_the_rotary_step_holds_where_attention_is_replaced(batch):
    model = language_model("llama")
    before = predict(model, batch)
    with edit_layers(model, "K", lambda k, layer: 1.5 * k.roll(1, -1), after_rotary=True):
        expected = effect(model, batch, before)
        with edit_attention(model, lambda layer, weights: weights):
            assert torch.allclose(effect(model, batch, before), expected, atol=1e-5)


def repeats(model):
    """Heads of Q that share one head of K and V."""
    n_head = model.config.num_attention_heads
    return n_head // getattr(model.config, "num_key_value_heads", n_head)


def test_clamping_gives_sinks_their_weight_and_the_rest_in_proportion(model, batch):
    before, sink = predict(model, batch), real_tokens(batch) & (torch.arange(9) == 0)
    usual, changed, goal = weights_of(model, batch), {}, {}
    with clamped(model, sink) as seen:
        assert not effect(model, batch, before).any()
    assert all(torch.allclose(seen[layer], w, atol=1e-6) for layer, w in enumerate(usual))
    with clamped(model, sink, dict(enumerate(usual))):
        assert float(effect(model, batch, before).abs().max()) < 1e-6  # nothing to do
    with edit_layers(model, "Q", lambda q, layer: 0 * q):
        with clamped(model, sink) as changed:
            lost = effect(model, batch, before)
        with clamped(model, sink, dict(enumerate(usual))) as goal:
            kept = effect(model, batch, before)
    assert not torch.allclose(lost, kept, rtol=1e-3)
    first, free = goal[0], changed[0]
    assert torch.allclose(first[..., 0], usual[0][..., 0], atol=1e-6)
    rest = first[:, :, 2:, 1:] / first[:, :, 2:, 1:].sum(-1, keepdim=True)
    assert torch.allclose(rest, free[:, :, 2:, 1:] / free[:, :, 2:, 1:].sum(-1, keepdim=True), atol=1e-5)


def test_common_mean_leaves_out_padding_and_what_is_massive_by_norm(model, batch):
    embedding, rare = model.get_input_embeddings().weight.data, int(batch["input_ids"][1, 3])
    assert not bool(massive_tokens(model, batch)[1, 3])
    embedding[rare] *= 100
    try:
        qkv, massive, found = capture_qkv(model, batch), massive_tokens(model, batch), common_mean(model, batch)
    finally:
        embedding[rare] /= 100
    assert real_tokens(batch).sum(dim=1).tolist() == [9, 6, 4]
    assert bool(massive[batch["input_ids"] == rare].all()) and not bool(massive[~real_tokens(batch)].any())
    ordinary = real_tokens(batch) & ~massive
    assert int(ordinary.sum()) >= 10
    for part in "QKV":
        rows = getattr(qkv, part.lower())[1].numpy()[ordinary.numpy()]
        assert np.allclose(found[part][1], rows.mean(axis=0), atol=1e-4)


def test_random_controls_keep_the_length_of_each_head_or_pair():
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(3, 16, generator=generator) * torch.tensor([1.0] * 8 + [9.0] * 8)
    blind, turned = random_like(vector, 8, generator), other_phases(vector, 8, 3, generator)
    signs = other_phases(vector, 8, 0, generator)
    heads, turned_heads = vector.view(3, 2, 8), turned.view(3, 2, 8)
    assert torch.allclose(blind.view(3, 2, 8).norm(dim=-1), heads.norm(dim=-1), rtol=1e-5)
    assert float(torch.cosine_similarity(blind, vector, dim=-1).abs().max()) < 0.8
    pairs = (heads[..., :3] ** 2 + heads[..., 3:6] ** 2, turned_heads[..., :3] ** 2 + turned_heads[..., 3:6] ** 2)
    assert torch.allclose(*pairs, rtol=1e-4) and torch.equal(heads[..., 6:], turned_heads[..., 6:])
    assert not torch.allclose(vector, turned, atol=0.1)
    assert torch.equal(signs.abs(), vector.abs()) and 0 < int((signs != vector).sum()) < vector.numel()


def test_score_by_distance_against_a_loop(model, batch):
    d_head = after_rotary(model, batch, "K").shape[-1] // (model.config.num_attention_heads // repeats(model))
    constant = torch.randn(3, after_rotary(model, batch, "K").shape[-1], generator=torch.Generator().manual_seed(3))
    keys = after_rotary(model, batch, "K", instead=constant)
    queries, real = after_rotary(model, batch, "Q"), real_tokens(batch)
    found = score_by_distance(queries[1], keys[1, 0], real, d_head)
    far = 2  # half of the shortest sentence
    assert found.shape == (3, model.config.num_attention_heads, far)
    for sentence, length in enumerate((9, 6, 4)):
        for head in range(model.config.num_attention_heads):
            q = queries[1, sentence].numpy()[:, head * d_head : (head + 1) * d_head]
            at = head // repeats(model)
            k = keys[1, 0].numpy()[:, at * d_head : (at + 1) * d_head]
            rows = [[q[t] @ k[t - d] / d_head**0.5 for d in range(far)] for t in range(far - 1, length)]
            expected = np.mean([np.array(row) - np.mean(row) for row in rows], axis=0)
            assert np.allclose(found[sentence, head], expected, atol=1e-4)
    half = {"gpt2": 0, "opt": 0, "gpt_neox": 2, "llama": 4, "qwen2": 4, "mistral": 6}[model.config.model_type]
    assert rotary_half(model, d_head) == half
    if not half:
        assert float(found.abs().max()) < 1e-4  # level: the softmax drops it


def test_in_double_computes_in_float64_throughout():
    model, batch = language_model("llama"), random_batch(lengths=(9, 9))
    exact, half_way = in_double(model), copy.deepcopy(model).double()
    constant = torch.randn(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def logits(m, shift):
        with torch.no_grad(), edit_qkv(m, None, "K", lambda k, _: k + shift.to(k), after_rotary=True):
            return m(**batch).logits

    def moved(m):  # by a change that cancels in exact arithmetic
        return (logits(m, constant) - logits(m, 0 * constant)).abs().max()

    assert torch.allclose(logits(exact, 0 * constant).float(), logits(model, 0 * constant), atol=1e-4)
    assert moved(exact) < 1e-12 and moved(half_way) > 1e-9
    assert model.dtype == torch.float32 and type(model.model.norm).__name__ == "LlamaRMSNorm"


@pytest.mark.parametrize(
    ("name", "head"), [("bert", {"is_decoder": True}), ("gemma2", {"final_logit_softcapping": 0.05}), ("granite", {})]
)
def test_predictions_are_the_models_own_whatever_its_head_does(name, head, batch):
    """A dense layer before the output embeddings, a soft cap or a scale behind them."""
    config = copy.deepcopy(EVERY[name].config)
    config.update(head | {"logits_scaling": 0.1})
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    found, p = predict(model, batch).p, np.exp(log_probabilities(model, batch))
    assert np.allclose(found, np.concatenate([x[: n - 1] for x, n in zip(p, (9, 6, 4), strict=True)]), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_kl_is_never_negative_and_padding_on_the_left_changes_nothing(dtype, batch):
    model = language_model("gpt2").to(dtype)
    order = batch["attention_mask"].argsort(dim=1, stable=True)
    left, found = {key: value.gather(1, order) for key, value in batch.items()}, []
    for padded in (batch, left):
        before = predict(model, padded)
        assert before.p.dtype == torch.float32 and len(before.p) == 8 + 5 + 3
        assert torch.allclose(before.p.sum(-1), torch.tensor(1.0), atol=1e-4)
        with edit_qkv(model, 1, "V", lambda v, _: 1.01 * v):
            found.append(effect(model, padded, before))
    assert all(-1e-6 < float(kl.min()) and float(kl.max()) < 0.01 for kl in found), found
    assert torch.allclose(*found, atol=1e-5 if dtype == torch.float32 else 5e-3)
    assert common_mean(model, batch)["K"].dtype == torch.float32


def test_attention_weights_that_cannot_be_replaced_are_refused(batch):
    model = language_model("gpt2")

    def replaced(**options):
        with edit_attention(model, lambda layer, weights: weights), torch.no_grad():
            model(**batch, **options)

    with torch.no_grad():
        cache = model(**batch, use_cache=True).past_key_values
    assert_refused(partial(replaced, past_key_values=cache), ValueError, "reads whole sentences: run it with use_cache")
    model.set_attn_implementation("sdpa")
    assert_refused(replaced, ValueError, "GPT2Attention returns no attention weights: load the model with attn_impl")


def test_special_tokens_are_no_part_of_the_common_mean(model, batch):
    text = batch["attention_mask"].bool() & (torch.arange(9) > 0)  # the first of each sentence as [CLS]
    marked = copy.copy(batch)
    marked.text = text
    qkv, ordinary = capture_qkv(model, batch), text & ~massive_tokens(model, marked)
    assert torch.allclose(common_mean(model, marked)["V"][2], qkv.v[2][ordinary].mean(dim=0), atol=1e-5)
    assert torch.equal(real_tokens(marked), text) and not torch.equal(real_tokens(batch), text)


def test_what_cannot_predict_the_next_token_is_refused(batch):
    encoder = transformers.AutoModel.from_config(FAMILIES["bert"].config).eval()
    two_ways = transformers.BertLMHeadModel(FAMILIES["bert"].config).eval()  # it sees the token that it should predict
    for model in (encoder, two_ways):
        message = f"{type(model).__name__} does not predict the next token: use a causal model"
        assert_refused(partial(predict, model, batch), ValueError, message)
    short = partial(predict, language_model("gpt2"), random_batch(lengths=(4, 1)))
    assert_refused(short, ValueError, "nothing can be predicted in sentences of one token: leave out 1")
