"""Effects of edits against float64 NumPy, and the figures that show them."""

import copy

import numpy as np
import pytest
import torch
import transformers

from helpers import attention_modules, capture_qkv, edit_qkv, encode, load_ordinary
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
from helpers.teaching.plots.interventions import mean_and_reach, plot_distance, plot_doses, plot_pairs, plot_swap
from tests.core.test_capture import FAMILIES, random_batch

CAUSAL = [name for name, family in FAMILIES.items() if family.causal]


def language_model(name):
    torch.manual_seed(0)
    config = copy.deepcopy(FAMILIES[name].config)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for weight in model.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=CAUSAL)
def model(request):
    return language_model(request.param)


@pytest.fixture(scope="module")
def batch():
    return random_batch()


def double(values, positions):
    return 2 * values


def log_probabilities(model, batch):
    with torch.no_grad():
        logits = model(**batch).logits.double().numpy()
    return (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )


def test_effect_equals_numpy_on_the_whole_logits(model, batch):
    plain = log_probabilities(model, batch)
    before = predict(model, batch)
    with edit_qkv(model, 1, "V", double):
        found = effect(model, batch, before)
        edited = log_probabilities(model, batch)
    for sentence, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        p, q = (x[sentence, : length - 1] for x in (plain, edited))
        assert abs(float(found[sentence]) - (np.exp(p) * (p - q)).sum(-1).mean()) < 1e-5
    assert float(found.min()) > 1e-3


def test_no_edit_has_no_effect_at_all(model, batch):
    before = predict(model, batch)
    assert not effect(model, batch, before).any()
    with edit_layers(model, "K", lambda k, layer: k):
        assert not effect(model, batch, before).any()


def test_the_context_free_predictor_is_the_mean_of_all_predictions(model, batch):
    p = [np.exp(x[: length - 1]) for x, length in zip(log_probabilities(model, batch), (9, 6, 4), strict=True)]
    mean = np.concatenate(p).mean(axis=0)
    expected = [(q * (np.log(q) - np.log(mean))).sum(-1).mean() for q in p]
    assert np.allclose(context_free(predict(model, batch), batch), expected, atol=1e-5)


# ---- several layers, chosen tokens ---------------------------------------------------------------


def test_editing_all_layers_is_nesting_the_edits_of_each(model, batch):
    before, where, hooks = predict(model, batch), real_tokens(batch), n_hooks(model)
    where[:, 0] = False

    def one(values, positions):
        return torch.where(where.unsqueeze(-1), 2 * values, values)

    with edit_qkv(model, 0, "V", one), edit_qkv(model, 2, "V", lambda v, _: torch.where(where.unsqueeze(-1), 0 * v, v)):
        expected = effect(model, batch, before)
    with edit_layers(model, "V", lambda v, layer: (2 - layer) * v, layers=(0, 2), where=where):
        assert torch.equal(effect(model, batch, before), expected)
    assert n_hooks(model) == hooks


# ---- attention weights ---------------------------------------------------------------------------


def weights_of(model, batch):
    with torch.no_grad():
        return model.base_model(**batch, output_attentions=True, use_cache=False).attentions


def test_edited_attention_has_the_weights_that_were_asked_for(model, batch):
    wanted = [w.flip(1) for w in weights_of(model, batch)]  # [sentence, head, query, key], heads the other way round
    found, hooks = {}, n_hooks(model)
    look = edit_attention(model, lambda layer, w: found.__setitem__(layer, w))
    with edit_attention(model, lambda layer, w: wanted[layer]), look:
        effect(model, batch, predict(model, batch))
    real = real_tokens(batch)
    for layer, weights in found.items():
        assert torch.allclose(weights.transpose(1, 2)[real], wanted[layer].transpose(1, 2)[real], atol=1e-4)
    assert n_hooks(model) == hooks


def n_hooks(model):
    """transformers' own output_attentions leaves some behind, so they are counted."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_edited_attention_computes_the_output_from_the_new_weights(model, batch):
    """Uniform weights over what a query may see: the output is the running mean of V."""
    outputs, values = [], []
    uniform = [(w > 0).float() / (w > 0).sum(-1, keepdim=True) for w in weights_of(model, batch)]
    module = attention_modules(model)[1]
    see = edit_qkv(model, 1, "V", lambda v, _: values.append(v) or v)
    with see, edit_attention(model, lambda layer, w: uniform[layer]):
        handle = module.register_forward_hook(lambda m, args, out: outputs.append(out[0]))
        with torch.no_grad():
            model.base_model(**batch, use_cache=False)
        handle.remove()
    number = torch.arange(1, 10).view(1, -1, 1)
    projection = next(m for name, m in module.named_children() if name in ("c_proj", "dense", "o_proj", "out_proj"))
    d_head = values[0].shape[-1] // (model.config.num_attention_heads // repeats(model))
    mean = (values[0].cumsum(dim=1) / number).unflatten(-1, (-1, d_head)).repeat_interleave(repeats(model), dim=2)
    with torch.no_grad():
        assert torch.allclose(outputs[0][0], projection(mean.flatten(2))[0], atol=1e-4)


def repeats(model):
    return model.config.num_attention_heads // getattr(
        model.config, "num_key_value_heads", model.config.num_attention_heads
    )


def test_clamping_gives_the_sinks_their_weight_and_the_others_the_rest_in_proportion(model, batch):
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


# ---- massive tokens, the common mean -------------------------------------------------------------


def test_massive_tokens_are_found_by_norm(model, batch):
    embedding, rare = model.get_input_embeddings().weight.data, int(batch["input_ids"][1, 3])
    before = massive_tokens(model, batch)
    embedding[rare] *= 100
    try:
        found = massive_tokens(model, batch)
    finally:
        embedding[rare] /= 100
    assert bool(found[1, 3]) and not bool(before[1, 3]) and not bool(found[~real_tokens(batch)].any())


def test_the_common_mean_leaves_massive_tokens_and_padding_out(model, batch):
    embedding, rare = model.get_input_embeddings().weight.data, int(batch["input_ids"][1, 3])
    embedding[rare] *= 100
    try:
        qkv, massive, found = capture_qkv(model, batch), massive_tokens(model, batch), common_mean(model, batch)
    finally:
        embedding[rare] /= 100
    ordinary = real_tokens(batch) & ~massive
    assert bool(massive[1, 3]) and int(ordinary.sum()) >= 10
    for part in "QKV":
        rows = getattr(qkv, part.lower())[1].numpy()[ordinary.numpy()]
        assert np.allclose(found[part][1], rows.mean(axis=0), atol=1e-4)


def test_the_first_token_and_some_of_the_become_massive_in_smollm2(smollm2):
    model, tokenizer = smollm2
    batch = encode(tokenizer, load_ordinary()[:12])
    found = massive_tokens(model, batch)
    assert bool(found[:, 0].all())
    inner = [tokenizer.decode([i]) for i in batch["input_ids"][:, 1:][found[:, 1:]].tolist()]
    assert inner and inner.count(" the") > len(inner) / 2


# ---- controls ------------------------------------------------------------------------------------


def test_random_vectors_keep_the_length_of_each_head_and_other_phases_that_of_each_pair():
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


def test_rotary_half(model):
    expected = {"gpt2": 0, "opt": 0, "gpt_neox": 2, "llama": 4, "qwen2": 4, "mistral": 6}[model.config.model_type]
    d_head = getattr(model.config, "head_dim", None) or model.config.hidden_size // model.config.num_attention_heads
    assert rotary_half(model, d_head) == expected


# ---- what a constant in the keys adds ------------------------------------------------------------


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
    if not rotary_half(model, d_head):
        assert float(found.abs().max()) < 1e-4  # level: the softmax drops it


def test_in_double_computes_in_float64_throughout():
    model = language_model("llama")
    batch = random_batch(lengths=(9, 9))
    exact, half_way = in_double(model), copy.deepcopy(model).double()

    def moved(m):
        """Logits after a change that cancels in exact arithmetic."""
        before = plain(m)
        constant = torch.randn(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        with torch.no_grad(), edit_qkv(m, None, "K", lambda k, _: k + constant, after_rotary=True):
            return (m(**batch).logits - before).abs().max()

    def plain(m):
        with torch.no_grad():
            return m(**batch).logits

    assert torch.allclose(plain(exact).float(), plain(model), atol=1e-4)
    assert moved(exact) < 1e-12 and moved(half_way) > 1e-9
    assert model.dtype == torch.float32 and type(model.model.norm).__name__ == "LlamaRMSNorm"


def test_what_cannot_predict_the_next_token_is_refused(batch):
    encoder = transformers.AutoModel.from_config(FAMILIES["bert"].config)
    with pytest.raises(ValueError, match="BertModel does not predict the next token: use a causal model"):
        predict(encoder, batch)
    with pytest.raises(ValueError, match=r"nothing can be predicted in sentences of one token: leave out \[1\]"):
        predict(language_model("gpt2"), random_batch(lengths=(4, 1)))


def test_real_tokens(batch):
    assert real_tokens(batch).sum(dim=1).tolist() == [9, 6, 4]


def test_the_ordinary_sentences_are_different_and_long_enough(smollm2):
    sentences = load_ordinary()
    lengths = [len(ids) for ids in smollm2[1](sentences)["input_ids"]]
    assert len(set(sentences)) == 80 and min(lengths) >= 15
    assert all(sentence == sentence.strip() and sentence.isascii() for sentence in sentences)


# ---- figures -------------------------------------------------------------------------------------


def test_the_interval_is_that_of_students_t():
    values = np.random.default_rng(0).normal(2, 3, size=40)
    mean, reach = mean_and_reach(values)
    assert abs(mean - values.mean()) < 1e-12
    assert abs(reach - 2.022691 * values.std(ddof=1) / np.sqrt(40)) < 1e-5  # the 97.5th percentile of t(39)


@pytest.fixture
def kl():
    generator = torch.Generator().manual_seed(0)
    return lambda scale=1.0: scale * (1 + torch.rand(12, generator=generator, dtype=torch.float64))


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_plot_swap_shows_every_word_and_edit_at_its_mean(kl, language):
    effects = {word: {"unedited": kl(), "offset_swapped": kl(0.2), "random_draw": kl()} for word in (" him", " water")}
    figure = plot_swap(effects, controls=("random_draw",), title="T")
    wanted = "hoán đổi độ dời (K và V)" if language == "vi" else "offset swapped (K and V)"
    assert {wanted, "T", " him", " water"} <= set(texts(figure))
    drawn = np.sort(np.concatenate([line.get_ydata() for line in figure.axes[0].lines if line.get_marker() in "oD"]))
    means = np.sort([float(v.mean()) for edits in effects.values() for v in edits.values()])
    assert all(np.isclose(drawn, mean).any() for mean in means)


def test_plot_doses_shows_means_controls_and_the_anchor(kl):
    draws = {"Q": [kl(), kl()]}
    figure = plot_doses({"Q": {0.5: kl(), 1.0: kl(2)}}, 0.5, draws, draws, 2.5)
    axis = figure.axes[0]
    assert [list(line.get_ydata()) for line in axis.lines if line.get_linestyle() == "--"] == [[2.5, 2.5]]
    for marker in "Ds":
        (controls,) = (line for line in axis.lines if line.get_marker() == marker)
        assert np.allclose(controls.get_ydata(), [float(v.mean()) for v in draws["Q"]])


def test_plot_distance_draws_what_it_gets_on_one_honest_scale():
    heads = 1e-7 * torch.rand(5, 3, 7)
    figure = plot_distance({0: heads, 4: heads}, {0: heads, 4: heads})
    assert len(figure.axes[0].lines) == 2 * 3 + 1
    assert np.allclose(figure.axes[0].lines[3].get_ydata(), heads[:, 0].mean(dim=0))
    assert figure.axes[0].get_ylim() == (-1, 1)  # rounding does not fill the panel


def test_plot_pairs_shows_the_mean_and_the_range_over_heads():
    shares = torch.rand(4, 8)
    figure = plot_pairs({3: {"Q": shares, "K": shares}})
    assert np.allclose(figure.axes[0].lines[0].get_ydata(), shares.mean(dim=0))
    assert len(figure.axes[0].collections) == 2
