"""The contract of every architecture: what is captured and edited is what its own attention computes with."""

import copy
import functools
import re
from contextlib import ExitStack

import numpy as np
import pytest
import torch
import transformers

from helpers import attention_modules, capture_qkv, load_model
from helpers.capture import ADAPTERS, Adapter, attention_layers
from helpers.experiments.edit import edit_qkv, recorded
from helpers.experiments.study import StudyError
from helpers.experiments.takes import takes
from helpers.text import SentenceBatch, encode
from tests.support import tiny
from tests.support.refusal import assert_refused
from tests.support.tiny import EVERY, LENGTHS, N_HEAD, N_LAYER, by_head, random_batch, random_model
from tools import models

PARTS = "QKV"
built = functools.cache(random_model)


@pytest.fixture(params=EVERY)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return built(name)


@pytest.fixture
def batch():
    return random_batch()


def of_layer(value, layer):
    return value[layer] if isinstance(value, list) else value


def entering(model, name, part, x, layer):
    """Captured Q or K [sentence, token, feature] as it enters the dot product: float64 [sentence, head, token, d_head]."""
    spec, x = EVERY[name], x.double()
    if spec.norm:  # RMS normalisation of each head, or of all features; Gemma's scale is 1 + weight
        norm = getattr(attention_modules(model)[layer], f"{part.lower()}_norm")
        x = x.unflatten(-1, (-1, len(norm.weight)))
        x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (norm.weight.double() + name.startswith("gemma"))
        x = x.flatten(-2)
    n_rotary, theta = of_layer(spec.rotary, layer), of_layer(spec.theta, layer)
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


def recomputed(model, name, parts, mask, layer):
    """float64 (weights [sentence, head, query, key], context [sentence, token, head * d_head]) of captured Q, K, V."""
    spec, (q, k, v) = EVERY[name], parts
    q, k = entering(model, name, "Q", q, layer), entering(model, name, "K", k, layer)
    k, v = (part.repeat(N_HEAD // spec.n_kv_head, axis=1) for part in (k, by_head(v, spec.d_head)))
    score = q @ k.swapaxes(-1, -2) * (spec.scale or spec.d_head**-0.5)  # [sentence, head, query, key]
    if spec.cap:
        score = spec.cap * np.tanh(score / spec.cap)
    token = np.arange(mask.shape[1])
    distance = token[None, :] - token[:, None]  # [query, key]
    window = spec.window and spec.window[layer]
    allowed = mask.bool().numpy()[:, None, None, :] & (abs(distance) <= (window or len(token)))
    allowed = allowed & (distance <= 0) if spec.causal else allowed
    score = np.where(allowed, score + bias_of(model, spec, distance), -1e9)
    weights = np.exp(score - score.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    context = (weights @ v).transpose(0, 2, 1, 3)  # [sentence, token, head, d_head]
    return weights, context.reshape(*context.shape[:2], -1)


def output_projections(model, name):
    return [model.base_model.get_submodule(EVERY[name].output.format(layer)) for layer in range(N_LAYER)]


def attention_and_context(model, batch, name):
    """Of each layer: the model's own attention weights, and what goes into its output projection."""
    contexts, weights = [], EVERY[name].attention == "eager"  # no other hands them out
    with torch.no_grad(), ExitStack() as hooks:
        for projection in output_projections(model, name):
            handle = projection.register_forward_pre_hook(lambda module, inputs: contexts.append(inputs[0].clone()))
            hooks.callback(handle.remove)
        attentions = model(**batch, output_attentions=weights).attentions or [None] * N_LAYER
    return list(zip(attentions, contexts, strict=True))


def error(model, name, parts, mask, layer, seen):
    """Largest difference of attention weights and context to what Q, K, V give, at real queries; V reaches about 10."""
    weights, context = recomputed(model, name, parts, mask, layer)
    real, (attention, own) = mask.bool().numpy(), seen[layer]
    of_query = 0 if attention is None else abs(weights - attention.double().numpy()).max(axis=(1, 3))[real].max()
    return max(of_query, abs(context - own.double().numpy())[real].max())


def test_attention_recomputed_from_the_capture_is_the_models_own(name, model, batch):
    assert {family.config.model_type for family in EVERY.values()} == set(ADAPTERS)  # every one is checked here
    qkv, seen = capture_qkv(model, batch), attention_and_context(model, batch, name)
    for layer in range(N_LAYER):
        parts = (qkv.q[layer], qkv.k[layer], qkv.v[layer])
        assert error(model, name, parts, batch["attention_mask"], layer, seen) < 2e-5


def test_attention_computes_with_the_edited_part(name, model, batch):
    qkv, mask = capture_qkv(model, batch, layers=1), batch["attention_mask"]
    plain = {part: getattr(qkv, part.lower())[0] for part in PARTS}
    shift = torch.randn(9, 1, generator=torch.Generator().manual_seed(3))  # [token, 1]

    def change(values, positions):
        return values + shift[positions] * values.roll(1, -1)

    for part in PARTS:
        with edit_qkv(model, 1, part, change):
            seen = attention_and_context(model, batch, name)
        edited = plain | {part: change(plain[part], torch.arange(9))}
        assert error(model, name, edited.values(), mask, 1, seen) < 1e-4, part
        assert error(model, name, plain.values(), mask, 1, seen) > 1e-2, part


def test_after_rotary_is_what_enters_the_dot_product_or_refused(name, model, batch):
    qkv, kind = capture_qkv(model, batch), model.config.model_type
    for part in "QK":
        late = edit_qkv(model, 1, part, lambda v, _: v + 3, after_rotary=True)
        if ADAPTERS[kind].rotary is None:
            with pytest.raises(ValueError, match=f"'{kind}' more than the usual rotary step"), late:
                pass
            continue
        with torch.no_grad(), late, recorded(model, part, after_rotary=True) as seen:
            model(**batch)
        for layer, values in enumerate([seen[0], seen[1] - 3]):
            expected = entering(model, name, part, getattr(qkv, part.lower())[layer], layer)
            assert abs(by_head(values, EVERY[name].d_head) - expected).max() < 1e-4


def test_positions_keep_what_indexing_the_full_capture_gives(model, batch):
    full = capture_qkv(model, batch).joined()
    for targets in (torch.tensor((8, 2, 0)), [5, 2, 1]):
        expected = torch.stack([full[:, i, p] for i, p in enumerate(targets)], dim=1)
        torch.testing.assert_close(
            capture_qkv(model, batch, positions=targets).joined(), expected, atol=2e-5, rtol=1e-5
        )


def tokens_read(model, batch, **options):
    """(capture, tokens that the first layer reads of each sentence)."""
    lengths = []
    handle = attention_modules(model)[0].register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append((*args, *kwargs.values())[0].shape[1]), with_kwargs=True
    )
    try:
        return capture_qkv(model, batch, **options).joined(), *lengths
    finally:
        handle.remove()


def test_capture_reads_no_layer_and_no_token_more_than_it_must(name, model, batch):
    reached = []
    handles = [
        projection.register_forward_hook(lambda *_, i=i: reached.append(i))
        for i, projection in enumerate(output_projections(model, name))
    ]
    assert tokens_read(model, batch, layers=[1, 0])[1] == 9
    assert tokens_read(model, batch, layers=[1, 0], positions=[5, 2, 1])[1] == (6 if EVERY[name].causal else 9)
    for handle in handles:
        handle.remove()
    assert reached == [0, 0]  # layer 1 is left at its Q, K and V, before its output projection


@pytest.mark.parametrize(
    ("name", "option", "n_token"),
    [
        ("llama", {"is_causal": False}, 9),
        ("gemma3_text", {"use_bidirectional_attention": True}, 9),  # EmbeddingGemma
        ("bert", {"is_decoder": True}, 5),
    ],
)
def test_configuration_that_says_otherwise_decides_what_is_read(name, option, n_token, batch):
    config = type(EVERY[name].config)(**EVERY[name].config.to_dict() | option)
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    full = capture_qkv(model, batch).joined()[:, range(3), [4, 2, 0]]
    kept, length = tokens_read(model, batch, positions=[4, 2, 0])
    assert length == n_token
    torch.testing.assert_close(kept, full)


def test_sentence_alone_and_padded_left_is_captured_as_padded_right(model, batch):
    mask, near = batch["attention_mask"], functools.partial(torch.testing.assert_close, atol=5e-5, rtol=1e-4)
    padded = capture_qkv(model, batch).joined()  # [layer, sentence, token, feature]
    for i, length in enumerate(LENGTHS):
        alone = SentenceBatch({key: value[i : i + 1, :length] for key, value in batch.items()})
        near(capture_qkv(model, alone).joined()[:, 0], padded[:, i, :length])
    order = mask.argsort(dim=1, stable=True)
    left = SentenceBatch({key: value.gather(1, order) for key, value in batch.items()})
    near(capture_qkv(model, left).joined()[:, left["attention_mask"].bool()], padded[:, mask.bool()])


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 0.005), (torch.bfloat16, 0.04)], ids=str)
def test_half_precision_is_near_single_and_keeps_its_dtype(name, batch, dtype, most):
    model = random_model(name).to(dtype)
    short, real = capture_qkv(model, batch), batch["attention_mask"].bool()
    assert {short.q.dtype, short.k.dtype, short.v.dtype} == {dtype}
    whole = capture_qkv(model.float(), batch).joined()[:, real]  # of the same rounded weights
    assert (short.joined()[:, real] - whole).abs().mean() < most * whole.abs().mean()


def test_sizes_and_heads_are_those_of_the_architecture(name, model, batch):
    spec = EVERY[name]
    n_heads = dict(zip(PARTS, (N_HEAD, spec.n_kv_head, spec.n_kv_head), strict=True))
    for positions in (None, [8, 2, 0]):
        qkv = capture_qkv(model, batch, positions=positions)
        assert qkv.sizes == tuple(n_head * spec.d_head for n_head in n_heads.values()) and qkv.d_head == spec.d_head
        assert all(map(torch.equal, qkv.joined().split(qkv.sizes, dim=-1), (qkv.q, qkv.k, qkv.v)))
        for part, n_head in n_heads.items():
            heads, flat = qkv.heads(part), getattr(qkv, part.lower())
            assert heads.shape == (*flat.shape[:-1], n_head, spec.d_head)
            assert torch.equal(heads[..., -1, :], flat[..., -spec.d_head :])


def hook_ids(model):
    """Every forward hook and pre-hook in a model.  transformers may keep its own for output_attentions."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    return {(path, kind, key) for path, of in model.named_modules() for kind in kinds for key in getattr(of, kind)}


def test_no_hook_remains_whatever_happens(name, model, batch, monkeypatch):
    before = hook_ids(model)
    for options in ({}, {"layers": 0}, {"positions": [8, 2, 0]}):
        capture_qkv(model, batch, **options)
    for interruption in (RuntimeError, KeyboardInterrupt):

        def in_the_middle(*_, interruption=interruption):
            assert hook_ids(model) > before  # they are on while the model runs
            raise interruption("in the middle")

        with monkeypatch.context() as patch:
            patch.setattr(output_projections(model, name)[1], "forward", in_the_middle)
            with pytest.raises(interruption, match="in the middle"):
                capture_qkv(model, batch)
            with pytest.raises(interruption, match="in the middle"), edit_qkv(model, None, "V", lambda v, _: 0 * v):
                model(**batch)
        assert hook_ids(model) == before


def test_attention_modules_are_those_of_every_layer_in_order(model):
    found, layers = attention_modules(model), attention_layers(model)
    names = {module: path for path, module in model.named_modules()}
    assert [re.findall(r"\d+", names[module])[0] for module in found] == [str(i) for i in range(N_LAYER)]
    assert all(module in set(layer.modules()) for layer, module in zip(layers, found, strict=True))


def test_saved_model_is_loaded_and_captured(name, tmp_path):
    """With its head, as people have it."""
    spec = EVERY[name]
    head = "ForSeq2SeqLM" if name == "t5" else "ForCausalLM" if spec.causal else "ForMaskedLM"
    auto = getattr(transformers, f"AutoModel{head}")
    whole = auto.from_config(copy.deepcopy(spec.config), attn_implementation=spec.attention).eval()
    whole.save_pretrained(tmp_path)
    sentences = ["She gave her bread .", "They had a name to call them by ."]
    tiny.word_tokenizer(["<unk>", *" ".join(sentences).split()]).save_pretrained(tmp_path)
    loaded, tokenizer = load_model(str(tmp_path))
    batch = encode(tokenizer, sentences)
    if spec.attention == "sdpa":  # transformers 5.23 adds the ALiBi of Falcon twice where attention is "eager"
        assert_refused(lambda: capture_qkv(loaded, batch), ValueError, "attn_implementation='sdpa'")
        return
    kept, expected = (capture_qkv(model, batch, positions=[1, 2]).joined() for model in (loaded, whole))
    assert torch.equal(kept, expected) and not kept.isnan().any()


def test_architecture_that_a_user_adds_is_captured_and_not_edited_late(batch, monkeypatch):
    config = transformers.HeliumConfig(**EVERY["llama"].config.to_dict() | {"model_type": "helium"})
    model = transformers.AutoModel.from_config(config).eval()
    monkeypatch.setitem(ADAPTERS, "helium", Adapter())
    assert capture_qkv(model, batch).sizes == (32, 16, 16)
    late = edit_qkv(model, 0, "K", lambda v, _: v, after_rotary=True)
    with pytest.raises(ValueError, match="'helium' more than the usual rotary step"), late:
        pass


def test_notebook_on_plain_attention_takes_no_other():
    for name, taken in (("gpt2", True), ("phi3", True), ("qwen3", False), ("bloom", False), ("granite", False)):
        model = tiny.language_model(name)
        model.provenance = "this model"
        takes(model, causal=True)
        if taken:
            takes(model, causal=True, plain=True)
        else:
            message = r"a causal language model whose attention is softmax\(QKᵀ/√d\).*, not this model"
            assert_refused(functools.partial(takes, model, causal=True, plain=True), StudyError, message)


def test_page_of_models_shows_the_data():
    for language, path in models.PAGES.items():
        text = path.read_text(encoding="utf-8")
        assert models.page(text, language) == text, "python -m tools.models"
        assert all(f"| `{kind}` |" in text for kind in ADAPTERS)
