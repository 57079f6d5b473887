"""Capture, of every architecture: what is captured and edited is what its own attention computes with."""

from contextlib import ExitStack
from functools import cache, partial

import numpy as np
import pytest
import torch
import transformers
from scipy.special import softmax

from helpers import attention_modules, capture_qkv, load_model
from helpers.capture import ADAPTERS, Adapter
from helpers.experiments.edit import edit_qkv, recorded
from helpers.text import SentenceBatch, encode
from tests.support import tiny
from tests.support.refusal import assert_refused
from tests.support.tiny import EVERY, LENGTHS, N_HEAD, N_LAYER, by_head, random_batch, random_model

PARTS, BATCH = "QKV", random_batch()
MASK = BATCH["attention_mask"]
built = cache(random_model)


def own_hooks(model):
    """The hooks of `helpers` in a model; transformers keeps some of its own for output_attentions."""
    hooks = [(*module._forward_hooks.values(), *module._forward_pre_hooks.values()) for module in model.modules()]
    return [hook for hook in sum(hooks, ()) if hook.__module__.startswith("helpers.")]


@pytest.fixture(params=EVERY)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    yield built(name)
    assert not own_hooks(built(name))


def entering(model, name, part, x, layer):
    """Captured Q or K [sentence, token, feature] as it enters the dot product: float64 [sentence, head, token, d_head]."""
    spec, x = EVERY[name], x.double()
    if spec.norm:  # RMS normalisation of each head, or of all features; Gemma's scale is 1 + weight
        norm = getattr(attention_modules(model)[layer], f"{part.lower()}_norm")
        x = x.unflatten(-1, (-1, len(norm.weight)))
        x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (norm.weight.double() + name.startswith("gemma"))
        x = x.flatten(-2)
    n_rotary, theta = (np.broadcast_to(value, N_LAYER)[layer] for value in (spec.rotary, spec.theta))
    return tiny.rotate(by_head(x, spec.d_head), n_rotary, theta, spec.pairs)


def bias_of(model, spec, distance):
    """What is added to the scores: float64 [head, query, key]; distance `[query, key]`, how far the key stands behind."""
    if spec.bias.startswith("alibi"):
        slopes = 2.0 ** (-8 / N_HEAD * np.arange(1, N_HEAD + 1))
        return slopes[:, None, None] * distance * (spec.d_head**-0.5 if "scaled" in spec.bias else 1)
    if spec.bias == "relative":  # 8 buckets: 4 for what comes later; of those 0 and 1 exact, then up to distance 6
        far = 2 + np.log(np.maximum(abs(distance), 1) / 2) / np.log(6 / 2) * 2
        bucket = np.where(abs(distance) < 2, abs(distance), np.minimum(far.astype(int), 3)) + 4 * (distance > 0)
        table = attention_modules(model)[0].relative_attention_bias.weight.double().numpy()  # [bucket, head]
        return table[bucket].transpose(2, 0, 1)
    return 0


def recomputed(model, name, parts, layer):
    """float64 (weights [sentence, head, query, key], context [sentence, token, head * d_head]) of captured Q, K, V."""
    spec, (q, k, v) = EVERY[name], parts
    q, k = entering(model, name, "Q", q, layer), entering(model, name, "K", k, layer)
    k, v = (part.repeat(N_HEAD // spec.n_kv_head, axis=1) for part in (k, by_head(v, spec.d_head)))
    score = q @ k.swapaxes(-1, -2) * (spec.scale or spec.d_head**-0.5)  # [sentence, head, query, key]
    if spec.cap:
        score = spec.cap * np.tanh(score / spec.cap)
    token = np.arange(MASK.shape[1])
    distance = token[None, :] - token[:, None]  # [query, key]
    window = spec.window and spec.window[layer]
    allowed = MASK.bool().numpy()[:, None, None, :] & (abs(distance) <= (window or len(token)))
    allowed = allowed & (distance <= 0) if spec.causal else allowed
    weights = softmax(np.where(allowed, score + bias_of(model, spec, distance), -1e9), axis=-1)
    context = (weights @ v).transpose(0, 2, 1, 3)  # [sentence, token, head, d_head]
    return weights, context.reshape(*context.shape[:2], -1)


def output_projections(model, name):
    return [model.base_model.get_submodule(EVERY[name].output.format(layer)) for layer in range(N_LAYER)]


def attention_and_context(model, name):
    """Of each layer: the model's own attention weights, and what goes into its output projection."""
    contexts, weights = [], EVERY[name].attention == "eager"  # no other hands them out
    with torch.no_grad(), ExitStack() as hooks:
        for projection in output_projections(model, name):
            keep = projection.register_forward_pre_hook(lambda module, inputs: contexts.append(inputs[0].clone()))
            hooks.enter_context(keep)
        attentions = model(**BATCH, output_attentions=weights).attentions or [None] * N_LAYER
    return list(zip(attentions, contexts, strict=True))


def error(model, name, parts, layer, seen):
    """Largest difference of attention weights and context to what Q, K, V give, at real queries; V reaches about 10."""
    weights, context = recomputed(model, name, parts, layer)
    real, (attention, own) = MASK.bool().numpy(), seen[layer]
    of_query = 0 if attention is None else abs(weights - attention.double().numpy()).max(axis=(1, 3))[real].max()
    return max(of_query, abs(context - own.double().numpy())[real].max())


def test_attention_recomputed_from_the_capture_is_the_models_own(name, model):
    assert {family.config.model_type for family in EVERY.values()} == set(ADAPTERS)  # every one is checked here
    qkv, seen = capture_qkv(model, BATCH), attention_and_context(model, name)
    for layer, parts in enumerate(zip(qkv.q, qkv.k, qkv.v, strict=True)):
        assert error(model, name, parts, layer, seen) < 2e-5
    assert qkv.d_head == EVERY[name].d_head and torch.equal(qkv.joined(), torch.cat([qkv.q, qkv.k, qkv.v], dim=-1))
    for part, n_head in zip(PARTS, (N_HEAD, EVERY[name].n_kv_head, EVERY[name].n_kv_head), strict=True):
        assert torch.equal(qkv.heads(part), getattr(qkv, part.lower()).unflatten(-1, (n_head, qkv.d_head)))
    assert qkv.sizes == (qkv.q.shape[-1], qkv.k.shape[-1], qkv.v.shape[-1])


def test_attention_computes_with_the_edited_part(name, model):
    qkv = capture_qkv(model, BATCH, layers=1)
    plain = {part: getattr(qkv, part.lower())[0] for part in PARTS}
    shift = torch.randn(9, 1, generator=torch.Generator().manual_seed(3))  # [token, 1]

    def change(values, positions):
        return values + shift[positions] * values.roll(1, -1)

    for part in PARTS:
        with edit_qkv(model, 1, part, change):
            seen = attention_and_context(model, name)
        edited = plain | {part: change(plain[part], torch.arange(9))}
        assert error(model, name, edited.values(), 1, seen) < 1e-4, part
        assert error(model, name, plain.values(), 1, seen) > 1e-2, part


def test_after_rotary_is_what_enters_the_dot_product_or_refused(name, model):
    qkv, kind = capture_qkv(model, BATCH), model.config.model_type
    for part in "QK":
        late = edit_qkv(model, 1, part, lambda v, _: v + 3, after_rotary=True)
        if ADAPTERS[kind].rotary is None:
            with pytest.raises(ValueError, match=f"'{kind}' more than the usual rotary step"), late:
                pass
            continue
        with torch.no_grad(), late, recorded(model, part, after_rotary=True) as seen:
            model(**BATCH)
        for layer, values in enumerate([seen[0], seen[1] - 3]):
            expected = entering(model, name, part, getattr(qkv, part.lower())[layer], layer)
            assert abs(by_head(values, EVERY[name].d_head) - expected).max() < 1e-4


def tokens_read(model, **options):
    """(capture, tokens that the first layer reads of each sentence)."""
    projection, lengths = ADAPTERS[model.config.model_type].projections[0], []
    first = attention_modules(model)[0].get_submodule(projection)
    with first.register_forward_hook(lambda module, args, output: lengths.append(output.shape[1])):
        return capture_qkv(model, BATCH, **options).joined(), *lengths


def test_positions_keep_their_tokens_and_read_no_layer_and_no_token_more(name, model):
    full, reached = capture_qkv(model, BATCH).joined(), []
    with ExitStack() as hooks:
        for i, projection in enumerate(output_projections(model, name)):
            note = projection.register_forward_hook(lambda *_, i=i: reached.append((i, torch.is_grad_enabled())))
            hooks.enter_context(note)
        assert tokens_read(model, layers=[1, 0])[1] == 9
        for targets in (torch.tensor((8, 2, 0)), [5, 2, 1]):
            kept, length = tokens_read(model, positions=targets)
            expected = torch.stack([full[:, i, p] for i, p in enumerate(targets)], dim=1)
            torch.testing.assert_close(kept, expected, atol=2e-5, rtol=1e-5)
            assert length == (max(targets) + 1 if EVERY[name].causal else 9)
    # the last layer asked for is left at its Q, K and V; no graph is built
    assert reached == [(layer, False) for layer in (0, 0, 1, 0, 1)]


OTHERWISE = [("llama", "is_causal", 9), ("gemma3_text", "use_bidirectional_attention", 9), ("bert", "is_decoder", 5)]


@pytest.mark.parametrize(("name", "option", "n_token"), OTHERWISE)
def test_configuration_that_says_otherwise_decides_what_is_read(name, option, n_token):
    model = random_model(name, **{option: option != "is_causal"})
    full = capture_qkv(model, BATCH).joined()[:, range(3), [4, 2, 0]]
    kept, length = tokens_read(model, positions=[4, 2, 0])
    assert length == n_token
    torch.testing.assert_close(kept, full)


def test_sentence_alone_and_padded_left_is_captured_as_padded_right(model):
    near = partial(torch.testing.assert_close, atol=5e-5, rtol=1e-4)
    padded = capture_qkv(model, BATCH).joined()  # [layer, sentence, token, feature]
    for i, length in enumerate(LENGTHS):
        alone = SentenceBatch({key: value[i : i + 1, :length] for key, value in BATCH.items()})
        near(capture_qkv(model, alone).joined()[:, 0], padded[:, i, :length])
    order = MASK.argsort(dim=1, stable=True)
    left = SentenceBatch({key: value.gather(1, order) for key, value in BATCH.items()})
    near(capture_qkv(model, left).joined()[:, left["attention_mask"].bool()], padded[:, MASK.bool()])


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 0.005), (torch.bfloat16, 0.04)], ids=str)
def test_half_precision_is_near_single_and_keeps_its_dtype(name, dtype, most):
    model = random_model(name).to(dtype)
    short, real = capture_qkv(model, BATCH), MASK.bool()
    assert {short.q.dtype, short.k.dtype, short.v.dtype} == {dtype}
    whole = capture_qkv(model.float(), BATCH).joined()[:, real]  # of the same rounded weights
    assert (short.joined()[:, real] - whole).abs().mean() < most * whole.abs().mean()


def test_saved_model_is_loaded_and_captured(name, tmp_path):
    """With its head, as people have it."""
    head = "ForSeq2SeqLM" if name == "t5" else "ForCausalLM" if EVERY[name].causal else "ForMaskedLM"
    whole = random_model(name, auto=f"AutoModel{head}")
    whole.save_pretrained(tmp_path)
    sentences = ["She gave her bread .", "They had a name to call them by ."]
    tiny.word_tokenizer(["<unk>", *" ".join(sentences).split()]).save_pretrained(tmp_path)
    loaded, tokenizer = load_model(str(tmp_path))
    batch = encode(tokenizer, sentences)
    if EVERY[name].attention == "sdpa":  # transformers 5.23 adds the ALiBi of Falcon twice where attention is "eager"
        assert_refused(lambda: capture_qkv(loaded, batch), ValueError, "attn_implementation='sdpa'")
        return
    kept, expected = (capture_qkv(model, batch, positions=[1, 2]).joined() for model in (loaded, whole))
    assert torch.equal(kept, expected) and not kept.isnan().any()


def test_layers_are_selected_in_the_order_asked_for():
    of_gpt2 = partial(capture_qkv, built("gpt2"), BATCH)
    one = ((1, (1,)), (-1, (2,)), (np.arange(3)[1], (1,)))
    for layers, numbers in (*one, (None, (0, 1, 2)), ([1, 1, -3], (1, 1, 0)), (range(2), (0, 1))):
        qkv = of_gpt2(layers=layers)
        assert qkv.layers == numbers and torch.equal(qkv.joined(), of_gpt2().joined()[list(numbers)])
    for part in ("q", "QK"):
        assert_refused(partial(of_gpt2().heads, part), ValueError, f"expected part 'Q', 'K' or 'V', got '{part}'")


def test_architecture_is_refused_until_a_user_adds_it_and_never_edited_late(monkeypatch):
    config = transformers.HeliumConfig(**EVERY["llama"].config.to_dict() | {"model_type": "helium"})
    model = transformers.AutoModel.from_config(config).eval()
    message = f"unknown architecture 'helium': expected one of {', '.join(sorted(ADAPTERS))}. Add an Adapter"
    for use in (partial(attention_modules, model), partial(capture_qkv, model, BATCH)):
        assert_refused(use, ValueError, message)
    monkeypatch.setitem(ADAPTERS, "helium", Adapter())
    assert capture_qkv(model, BATCH).sizes == (32, 16, 16)
    assert Adapter().rotary is None  # which is never edited late
