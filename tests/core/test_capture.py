"""Captured Q, K and V against the model's own attention, and everything around the capture."""

import re
from functools import partial

import numpy as np
import pytest
import torch
import transformers

from helpers import attention_modules, capture_qkv
from helpers.capture import ADAPTERS, attention_layers
from helpers.text import SentenceBatch
from tests.support.refusal import assert_refused
from tests.support.tiny import FAMILIES, N_HEAD, N_LAYER, by_head, random_batch, random_model, rotate

TARGETS = (8, 2, 0)  # a position in each sentence of `batch`


@pytest.fixture(scope="module")
def random_models():
    return {name: random_model(name) for name in FAMILIES}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def model(random_models, family):
    return random_models[family]


@pytest.fixture
def gpt2(random_models):
    return random_models["gpt2"]


@pytest.fixture
def batch():
    return random_batch()


def recomputed_attention(qkv, index, mask, spec):
    """float64 (weights [sentence, head, query, key], context [sentence, token, head * d_head])."""
    q, k, v = (by_head(part[index], spec.d_head) for part in (qkv.q, qkv.k, qkv.v))
    if spec.rotary:
        q, k = rotate(q, spec.rotary), rotate(k, spec.rotary)
    k, v = (part.repeat(q.shape[1] // spec.n_kv_head, axis=1) for part in (k, v))
    score = q @ k.swapaxes(-1, -2) / spec.d_head**0.5  # [sentence, head, query, key]
    allowed = mask.bool().numpy()[:, None, None, :]
    if spec.causal:
        allowed = allowed & np.tri(score.shape[-1], dtype=bool)
    score = np.where(allowed, score, -np.inf)
    weights = np.exp(score - score.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    context = (weights @ v).transpose(0, 2, 1, 3)  # [sentence, token, head, d_head]
    return weights, context.reshape(*context.shape[:2], -1)


def attention_and_context(model, batch, spec):
    """The model's own attention weights, and what goes into each output projection (one per layer)."""
    contexts, handles = [], []
    for layer in range(len(attention_modules(model))):
        projection = model.base_model.get_submodule(spec.output.format(layer))
        handles.append(projection.register_forward_pre_hook(lambda module, inputs: contexts.append(inputs[0].clone())))
    try:
        with torch.no_grad():
            attentions = model(**batch, output_attentions=True).attentions
    finally:
        for handle in handles:
            handle.remove()
    return attentions, contexts


def largest_error(model, batch, spec):
    """Largest difference to the model, over all layers and real queries: (attention, context)."""
    qkv = capture_qkv(model, batch)
    attentions, contexts = attention_and_context(model, batch, spec)
    real = batch["attention_mask"].bool().numpy()
    errors = []
    for layer, (attention, context) in enumerate(zip(attentions, contexts, strict=True)):
        weights, mixed = recomputed_attention(qkv, layer, batch["attention_mask"], spec)
        by_query = np.abs(weights - attention.double().numpy()).max(axis=(1, 3))  # [sentence, query]
        errors.append((by_query[real].max(), np.abs(mixed - context.double().numpy())[real].max()))
    return np.max(errors, axis=0)


def test_attention_recomputed_from_q_and_k_is_the_models_own(family, model, batch):
    attention_error, context_error = largest_error(model, batch, FAMILIES[family])
    assert attention_error < 1e-5
    assert context_error < 2e-5  # attention @ V; V reaches about 10
    before = hook_ids(model)
    for options in ({"layers": 0}, {"positions": TARGETS}):
        capture_qkv(model, batch, **options)
    assert hook_ids(model) == before  # none remains
    assert set(FAMILIES) == set(ADAPTERS)  # every known architecture is checked here


def test_positions_keep_what_indexing_the_full_capture_gives(model, batch):
    full = capture_qkv(model, batch)
    for as_given in (torch.tensor, list):
        kept = capture_qkv(model, batch, positions=as_given(TARGETS))
        for part in ("q", "k", "v"):
            assert getattr(full, part).shape[:3] == (N_LAYER, *batch["input_ids"].shape)
            expected = torch.stack([getattr(full, part)[:, i, p] for i, p in enumerate(TARGETS)], dim=1)
            assert torch.equal(getattr(kept, part), expected)


def tokens_read(model, batch, positions):
    """(capture, tokens that the first layer reads of each sentence)."""
    lengths = []
    handle = attention_modules(model)[0].register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append((*args, *kwargs.values())[0].shape[1]), with_kwargs=True
    )
    try:
        return capture_qkv(model, batch, positions=positions), lengths
    finally:
        handle.remove()


@pytest.mark.parametrize("side", ["right", "left"])
def test_causal_model_reads_nothing_behind_the_last_position(family, model, batch, side):
    if side == "left":  # padding first; the position ids say so
        order = batch["attention_mask"].argsort(dim=1, stable=True)
        batch = SentenceBatch({key: value.gather(1, order) for key, value in batch.items()})
    position_ids = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    if family not in ("bert", "distilbert", "opt"):
        batch["position_ids"] = position_ids  # one more entry [sentence, token] of the batch
    positions = [5, 7, 6]
    kept, lengths = tokens_read(model, batch, positions)
    assert lengths == [8 if FAMILIES[family].causal else 9]
    full = capture_qkv(model, batch).joined()
    expected = torch.stack([full[:, i, p] for i, p in enumerate(positions)], dim=1)
    torch.testing.assert_close(kept.joined(), expected, atol=2e-5, rtol=1e-5)


def test_model_that_says_it_is_not_causal_is_not_cut(batch):
    model = random_model("llama")
    model.config.is_causal = False
    assert tokens_read(model, batch, [4, 2, 0])[1] == [9]


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
    for layers, came in ((3, "3"), (-4, "-4"), ([0, 7], "7"), ([], r"\(none given\)")):
        message = rf"layer {came} is out of range: the model has layers 0\.\.2"
        assert_refused(partial(capture_qkv, gpt2, batch, layers=layers), ValueError, message)


def test_forward_pass_stops_after_the_last_wanted_layer(model, family, batch):
    reached = []
    projections = [model.base_model.get_submodule(FAMILIES[family].output.format(i)) for i in range(N_LAYER)]
    handles = [module.register_forward_hook(lambda *_, i=i: reached.append(i)) for i, module in enumerate(projections)]
    for positions in (None, TARGETS):
        capture_qkv(model, batch, layers=[1, 0], positions=positions)
    for handle in handles:
        handle.remove()
    assert reached == [0, 0]  # layer 1 is left at its Q, K and V, before its output projection


def test_positions_and_parts_that_do_not_fit_are_refused(gpt2, batch):
    for positions in ([1, 2], [[1], [2], [0]], 4, [1, 9, 0], [1, -1, 0], [0] * 10):
        came = re.escape(str(positions)) if positions != [0] * 10 else r"\(10,\)"
        message = rf"expected one position in 0\.\.8 for each of 3 sentences, got {came}: use find_token"
        assert_refused(partial(capture_qkv, gpt2, batch, positions=positions), ValueError, message)
    qkv = capture_qkv(gpt2, batch, layers=0)
    for part in ("q", "QK"):
        assert_refused(partial(qkv.heads, part), ValueError, f"expected part 'Q', 'K' or 'V', got '{part}'")


def test_sizes_and_heads_are_those_of_the_architecture(family, model, batch):
    spec = FAMILIES[family]
    n_heads = {"Q": N_HEAD, "K": spec.n_kv_head, "V": spec.n_kv_head}
    for positions in (None, TARGETS):
        qkv = capture_qkv(model, batch, positions=positions)
        assert qkv.sizes == tuple(n_head * spec.d_head for n_head in n_heads.values()) and qkv.d_head == spec.d_head
        assert all(map(torch.equal, qkv.joined().split(qkv.sizes, dim=-1), (qkv.q, qkv.k, qkv.v)))
        for part, n_head in n_heads.items():
            heads, flat = qkv.heads(part), getattr(qkv, part.lower())
            assert heads.shape == (*flat.shape[:-1], n_head, spec.d_head)
            assert torch.equal(heads[..., 1, :], flat[..., spec.d_head : 2 * spec.d_head])


def hook_ids(model):
    """Every forward hook and pre-hook in a model.  transformers may keep its own for output_attentions."""
    return {
        (name, kind, key)
        for name, module in model.named_modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks")
        for key in getattr(module, kind)
    }


def test_no_hook_remains_after_the_capture_breaks(gpt2, batch, monkeypatch):
    before = hook_ids(gpt2)
    for interruption in (RuntimeError, KeyboardInterrupt):

        def broken(*args, interruption=interruption):
            assert hook_ids(gpt2) > before  # they are on while the model runs
            raise interruption("in the middle")

        with monkeypatch.context() as patch, pytest.raises(interruption, match="in the middle"):
            patch.setattr(gpt2.h[1].mlp, "forward", broken)
            capture_qkv(gpt2, batch)
        assert hook_ids(gpt2) == before


def test_capture_builds_no_graph_of_a_model_in_training(batch):
    model = random_model("gpt2").requires_grad_(True)
    with_graph = []
    model.h[1].register_forward_hook(lambda module, inputs, output: with_graph.append(torch.is_grad_enabled()))
    assert not capture_qkv(model, batch).joined().requires_grad
    assert with_graph == [False]


def test_capture_keeps_the_models_dtype(family, batch):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        qkv = capture_qkv(random_model(family).to(dtype), batch, layers=0)
        assert {qkv.q.dtype, qkv.k.dtype, qkv.v.dtype} == {dtype}


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
    config = transformers.GPTJConfig(vocab_size=64, n_embd=16, n_layer=1, n_head=4, rotary_dim=4)
    model = transformers.AutoModel.from_config(config)
    known = "bert, distilbert, gpt2, gpt_neox, llama, mistral, opt, qwen2"
    for use in (partial(attention_modules, model), partial(capture_qkv, model, random_batch())):
        assert_refused(use, ValueError, f"unknown architecture 'gptj': expected one of {known}. Add an Adapter")


def test_attention_modules_are_those_of_every_layer_in_order(model):
    found, layers = attention_modules(model), attention_layers(model)
    names = {module: name for name, module in model.named_modules()}
    assert [re.findall(r"\d+", names[module]) for module in found] == [[str(i)] for i in range(N_LAYER)]
    assert all(module in set(layer.modules()) for layer, module in zip(layers, found, strict=True))
