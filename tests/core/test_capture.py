"""Captured Q, K and V against the model's own attention, and everything around the capture."""

import copy
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from helpers import (
    attention_modules,
    capture_qkv,
    control_positions,
    encode,
    find_token,
    load_model,
    load_sentences,
    token_id_of,
)
from helpers.capture import ADAPTERS, _split_contiguous
from helpers.text import TARGETS, SentenceBatch, sentence_sets

# ---- a small random model of every architecture --------------------------------------------------


@dataclass(frozen=True)
class Family:
    """One architecture in small, and what an independent attention needs to know about it."""

    config: transformers.PreTrainedConfig
    output: str  # path of the attention's output projection; {} is the layer
    n_kv_head: int = 4
    d_head: int = 8
    rotary: int = 0  # features of each head that are rotated
    causal: bool = True


WIDTH = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA_LIKE = WIDTH | {"intermediate_size": 48, "num_key_value_heads": 2}
BERT_LIKE = WIDTH | {"intermediate_size": 48}
FAMILIES = {
    "gpt2": Family(
        transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0),
        "h.{}.attn.c_proj",
    ),
    "gpt_neox": Family(transformers.GPTNeoXConfig(**BERT_LIKE, rotary_pct=0.5), "layers.{}.attention.dense", rotary=4),
    "llama": Family(transformers.LlamaConfig(**LLAMA_LIKE), "layers.{}.self_attn.o_proj", n_kv_head=2, rotary=8),
    "mistral": Family(
        transformers.MistralConfig(**LLAMA_LIKE, head_dim=12),
        "layers.{}.self_attn.o_proj",
        n_kv_head=2,
        d_head=12,
        rotary=12,
    ),
    "qwen2": Family(transformers.Qwen2Config(**LLAMA_LIKE), "layers.{}.self_attn.o_proj", n_kv_head=2, rotary=8),
    "opt": Family(
        transformers.OPTConfig(**WIDTH, ffn_dim=48, word_embed_proj_dim=32), "decoder.layers.{}.self_attn.out_proj"
    ),
    "bert": Family(transformers.BertConfig(**BERT_LIKE), "encoder.layer.{}.attention.output.dense", causal=False),
    "distilbert": Family(
        transformers.DistilBertConfig(vocab_size=64, dim=32, n_layers=3, n_heads=4, hidden_dim=48),
        "transformer.layer.{}.attention.out_lin",
        causal=False,
    ),
}
N_LAYER, N_HEAD, LENGTHS = 3, 4, (9, 6, 4)


def random_model(family, seed=0):
    """Weights far larger than a usual initialisation, so that attention is far from uniform."""
    config = copy.deepcopy(FAMILIES[family].config)
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        is_scale = weight.ndim == 1 and not name.endswith("bias")  # of a norm
        weight.copy_(1 + 0.3 * noise if is_scale else 0.4 * noise)
    return model


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


def random_batch(lengths=LENGTHS, seed=1):
    """Random tokens, padded on the right."""
    ids = torch.randint(3, 64, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()  # [sentence, token]
    return SentenceBatch({"input_ids": ids * mask, "attention_mask": mask})


@pytest.fixture
def batch():
    return random_batch()


# ---- attention, once more and on its own ---------------------------------------------------------


def rotate(x, n_rotary, theta=10_000.0):
    """Rotary embedding of the first features of each head; x float64 [sentence, head, token, d_head]."""
    half = n_rotary // 2
    frequency = theta ** (-np.arange(half) / half)
    angle = np.arange(x.shape[2])[:, None] * frequency  # [token, half]
    first, second, rest = x[..., :half], x[..., half:n_rotary], x[..., n_rotary:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def by_head(x, d_head):
    """[sentence, token, feature] -> float64 [sentence, head, token, d_head]."""
    x = x.double().numpy()
    return x.reshape(*x.shape[:2], -1, d_head).transpose(0, 2, 1, 3)


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


def test_random_models_attend_far_from_uniformly(model, batch):
    attentions, _ = attention_and_context(model, batch, FAMILIES[model.config.model_type])
    last_query = torch.stack(attentions)[:, 0, :, -1]  # [layer, head, key] of nine keys
    assert last_query.max(-1).values.mean() > 0.4


def test_flat_split_of_an_interleaved_projection_is_noticed(random_models, batch, monkeypatch):
    flat = replace(ADAPTERS["gpt_neox"], split=_split_contiguous)
    monkeypatch.setitem(ADAPTERS, "gpt_neox", flat)
    attention_error, context_error = largest_error(random_models["gpt_neox"], batch, FAMILIES["gpt_neox"])
    assert attention_error > 0.1
    assert context_error > 0.1


def test_every_known_architecture_is_checked_here():
    assert set(FAMILIES) == set(ADAPTERS)


# ---- GPT-2 in full size --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt2_small(smollm2, tmp_path_factory):
    """GPT-2 small with random weights, read back from a folder by `load_model`."""
    folder = tmp_path_factory.mktemp("gpt2_small")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    for block in model.transformer.h:
        block.attn.c_attn.weight.data *= 3
    model.save_pretrained(folder)
    smollm2[1].save_pretrained(folder)  # its 49152 tokens are among GPT-2's 50257
    del model
    yield load_model(str(folder), device="cpu")
    shutil.rmtree(folder)


def test_gpt2_small_gives_2304_features_for_every_sentence(gpt2_small):
    model, tokenizer = gpt2_small
    batch = encode(tokenizer, load_sentences("her"))
    qkv = capture_qkv(model, batch, positions=find_token(batch, token_id_of(tokenizer, " her")))
    assert qkv.joined().shape == (12, 54, 2304)
    assert qkv.sizes == (768, 768, 768)
    assert qkv.joined().isfinite().all()


def test_gpt2_small_attention_recomputed_is_the_models_own(gpt2_small):
    model, tokenizer = gpt2_small
    batch = encode(tokenizer, load_sentences("her")[:3])
    spec = replace(FAMILIES["gpt2"], n_kv_head=12, d_head=64)
    attention_error, context_error = largest_error(model, batch, spec)
    assert attention_error < 1e-5
    assert context_error < 1e-4


# ---- positions, layers ---------------------------------------------------------------------------


def test_positions_keep_what_indexing_the_full_capture_gives(model, batch):
    positions = torch.tensor([8, 2, 0])
    full, kept = capture_qkv(model, batch), capture_qkv(model, batch, positions=positions)
    for part in ("q", "k", "v"):
        assert getattr(full, part).shape[:3] == (N_LAYER, *batch["input_ids"].shape)
        expected = torch.stack([getattr(full, part)[:, i, p] for i, p in enumerate(positions)], dim=1)
        assert torch.equal(getattr(kept, part), expected)


def test_positions_may_be_a_plain_list(gpt2, batch):
    assert torch.equal(
        capture_qkv(gpt2, batch, positions=[8, 2, 0]).joined(),
        capture_qkv(gpt2, batch, positions=torch.tensor([8, 2, 0])).joined(),
    )


@pytest.mark.parametrize(
    ("layers", "numbers"),
    [
        (None, (0, 1, 2)),
        (1, (1,)),
        (-1, (2,)),
        ([2, 0], (2, 0)),
        ([1, 1, -3], (1, 1, 0)),
        (range(2), (0, 1)),
    ],
)
def test_layers_are_selected_in_the_order_asked_for(model, batch, layers, numbers):
    qkv = capture_qkv(model, batch, layers=layers)
    assert qkv.layers == numbers
    assert torch.equal(qkv.joined(), capture_qkv(model, batch).joined()[list(numbers)])


def test_a_layer_number_of_numpy_is_one_layer(gpt2, batch):
    assert capture_qkv(gpt2, batch, layers=np.arange(3)[1]).layers == (1,)


@pytest.mark.parametrize("positions", [None, torch.tensor([8, 2, 0])])
def test_forward_pass_stops_after_the_last_wanted_layer(model, family, batch, positions):
    reached = []
    projections = [model.base_model.get_submodule(FAMILIES[family].output.format(i)) for i in range(N_LAYER)]
    handles = [
        projection.register_forward_hook(lambda *_, i=i: reached.append(i)) for i, projection in enumerate(projections)
    ]
    capture_qkv(model, batch, layers=[1, 0], positions=positions)
    for handle in handles:
        handle.remove()
    assert reached == [0]  # layer 1 is left at its Q, K and V, before its output projection


@pytest.mark.parametrize(("layers", "came"), [(3, "3"), (-4, "-4"), ([0, 7], "7"), ([], r"\(none given\)")])
def test_layer_out_of_range_is_refused(gpt2, batch, layers, came):
    with pytest.raises(ValueError, match=rf"layer {came} is out of range: the model has layers 0\.\.2"):
        capture_qkv(gpt2, batch, layers=layers)


@pytest.mark.parametrize(
    ("positions", "came"),
    [
        ([1, 2], r"\[1, 2\]"),
        ([[1], [2], [0]], r"\[\[1\], \[2\], \[0\]\]"),
        (4, "4"),
        ([1, 9, 0], r"\[1, 9, 0\]"),
        ([1, -1, 0], r"\[1, -1, 0\]"),
        ([0] * 10, r"\(10,\)"),
    ],
)
def test_positions_that_do_not_fit_are_refused(gpt2, batch, positions, came):
    expected = rf"one position in 0\.\.8 for each of 3 sentences, got {came}: use find_token"
    with pytest.raises(ValueError, match=expected):
        capture_qkv(gpt2, batch, positions=positions)


# ---- QKV -----------------------------------------------------------------------------------------


def test_sizes_count_the_features_of_each_part(family, model, batch):
    spec = FAMILIES[family]
    n_kv = spec.n_kv_head * spec.d_head
    qkv = capture_qkv(model, batch, layers=0)
    assert qkv.sizes == (N_HEAD * spec.d_head, n_kv, n_kv)
    assert qkv.d_head == spec.d_head


def test_joined_is_q_then_k_then_v(random_models, batch):
    qkv = capture_qkv(random_models["qwen2"], batch)
    joined = qkv.joined()
    assert joined.shape == (N_LAYER, *batch["input_ids"].shape, 64)
    assert torch.equal(joined[..., :32], qkv.q)
    assert torch.equal(joined[..., 32:48], qkv.k)
    assert torch.equal(joined[..., 48:], qkv.v)


@pytest.mark.parametrize("positions", [None, [8, 2, 0]])
def test_heads_cut_a_part_into_consecutive_runs_of_d_head(family, model, batch, positions):
    spec = FAMILIES[family]
    qkv = capture_qkv(model, batch, positions=positions)
    for part, n_head in (("Q", N_HEAD), ("K", spec.n_kv_head), ("V", spec.n_kv_head)):
        heads, flat = qkv.heads(part), getattr(qkv, part.lower())
        assert heads.shape == (*flat.shape[:-1], n_head, spec.d_head)
        assert torch.equal(heads[..., 1, :], flat[..., spec.d_head : 2 * spec.d_head])


@pytest.mark.parametrize("part", ["q", "QK", "O"])
def test_unknown_part_is_refused(gpt2, batch, part):
    with pytest.raises(ValueError, match=f"expected part 'Q', 'K' or 'V', got '{part}'"):
        capture_qkv(gpt2, batch).heads(part)


# ---- what a capture leaves behind ----------------------------------------------------------------


def hook_ids(model):
    """Every forward hook and pre-hook in a model.  transformers may keep its own for output_attentions."""
    return {
        (name, kind, key)
        for name, module in model.named_modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks")
        for key in getattr(module, kind)
    }


@pytest.mark.parametrize("options", [{}, {"layers": 0}, {"positions": [8, 2, 0]}])
def test_no_hook_remains_after_a_capture(model, batch, options):
    before = hook_ids(model)
    capture_qkv(model, batch, **options)
    assert hook_ids(model) == before


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_no_hook_remains_after_the_forward_pass_breaks(gpt2, batch, monkeypatch, interruption):
    def broken(*args):
        assert hook_ids(gpt2) > before  # they are on while the model runs
        raise interruption("in the middle")

    before = hook_ids(gpt2)
    monkeypatch.setattr(gpt2.h[1].mlp, "forward", broken)
    with pytest.raises(interruption, match="in the middle"):
        capture_qkv(gpt2, batch)
    assert hook_ids(gpt2) == before


def test_no_hook_remains_after_a_projection_is_missing(random_models, batch, monkeypatch):
    model = random_models["llama"]
    before = hook_ids(model)
    monkeypatch.setitem(ADAPTERS, "llama", replace(ADAPTERS["llama"], projections=("q_proj", "absent")))
    with pytest.raises(AttributeError, match="absent"):
        capture_qkv(model, batch)
    assert hook_ids(model) == before


def test_captured_tensors_are_copies(model, batch):
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    first = capture_qkv(model, batch)
    reference = first.joined()
    for part in (first.q, first.k, first.v):
        part.zero_()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.named_parameters())
    assert torch.equal(capture_qkv(model, batch).joined(), reference)


def test_capture_survives_a_projection_that_reuses_its_memory(gpt2, batch, monkeypatch):
    expected = capture_qkv(gpt2, batch).joined()
    memory = torch.empty(*batch["input_ids"].shape, 96)
    for module in attention_modules(gpt2):
        projection = module.c_attn
        monkeypatch.setattr(projection, "forward", lambda x, inner=projection.forward: memory.copy_(inner(x)))
    assert torch.equal(capture_qkv(gpt2, batch).joined(), expected)


def test_capture_builds_no_graph_of_a_model_in_training(batch):
    model = random_model("gpt2").requires_grad_(True)
    with_graph = []
    model.h[1].register_forward_hook(lambda module, inputs, output: with_graph.append(torch.is_grad_enabled()))
    assert not capture_qkv(model, batch).joined().requires_grad
    assert with_graph == [False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_capture_keeps_the_models_dtype(family, batch, dtype):
    model = random_model(family).to(dtype)
    qkv = capture_qkv(model, batch, layers=0)
    assert {qkv.q.dtype, qkv.k.dtype, qkv.v.dtype} == {dtype}


# ---- padding -------------------------------------------------------------------------------------


def without_padding(batch, sentence):
    """One sentence of a right-padded batch on its own."""
    length = int(batch["attention_mask"][sentence].sum())
    return SentenceBatch({key: value[sentence : sentence + 1, :length] for key, value in batch.items()})


def test_right_padding_changes_no_real_token(model, batch):
    padded = capture_qkv(model, batch).joined()  # [layer, sentence, token, feature]
    for sentence, length in enumerate(LENGTHS):
        alone = capture_qkv(model, without_padding(batch, sentence)).joined()
        torch.testing.assert_close(padded[:, sentence : sentence + 1, :length], alone, atol=2e-5, rtol=1e-5)


def test_right_padding_changes_no_target_of_smollm2(smollm2, her_batch, her_positions, her_qkv):
    model, _ = smollm2
    lengths = her_batch["attention_mask"].sum(1)
    for sentence in lengths.argsort()[[0, len(lengths) // 2]].tolist():  # the shortest, and a middling one
        assert lengths[sentence] < lengths.max()
        position = her_positions[sentence : sentence + 1]
        alone = capture_qkv(model, without_padding(her_batch, sentence), positions=position)
        difference = (alone.joined() - her_qkv.joined()[:, sentence : sentence + 1]).abs()
        assert difference.max() < 1e-4 * her_qkv.joined().abs().max()


# ---- sentences and tokens ------------------------------------------------------------------------

WORDS = ["<pad>", "<eos>", "<unk>", "I", "saw", "her", "again", "and", "met", "today"]
PAD, EOS, _, I, SAW, HER, AGAIN, AND, MET, TODAY = range(10)


def word_tokenizer(**special):
    """A tokenizer whose tokens are words, so that every id can be read off."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special)


@pytest.fixture
def words():
    return word_tokenizer(pad_token="<pad>", eos_token="<eos>")


def test_encode_pads_on_the_right_whatever_the_tokenizer_prefers(words):
    words.padding_side = "left"
    batch = encode(words, ["I saw her", "her"])
    assert batch["input_ids"].tolist() == [[I, SAW, HER], [HER, PAD, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["input_ids"].dtype == torch.int64
    assert batch.sentences == ("I saw her", "her")


def test_encode_takes_any_iterable_of_sentences(words):
    assert encode(words, (text for text in ("I", "her")))["input_ids"].tolist() == [[I], [HER]]


def test_encode_pads_with_the_end_of_text_token_where_there_is_no_pad_token():
    batch = encode(word_tokenizer(eos_token="<eos>"), ["I saw her", "her"])
    assert batch["input_ids"].tolist() == [[I, SAW, HER], [HER, EOS, EOS]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_encode_refuses_a_tokenizer_with_nothing_to_pad_with():
    with pytest.raises(ValueError, match="neither a pad nor an end-of-text token: set tokenizer.pad_token"):
        encode(word_tokenizer(), ["I saw her"])


@pytest.mark.parametrize(
    ("sentences", "error", "message"),
    [
        ([], ValueError, r"at least one sentence, got an empty list: load_sentences\('her'\)"),
        (["her", "", "  \n"], ValueError, r"text in every sentence, found nothing at index 1, 2: leave those out"),
        ([""] * 20, ValueError, r"at index 0, 1, 2, 3, 4, 5, 6, 7, … \(20 in all\)"),
        ("I saw her", TypeError, r"a list of sentences, got one string: encode\(tokenizer, \['I saw her'\]\)"),
    ],
)
def test_encode_refuses_what_is_no_list_of_texts(words, sentences, error, message):
    with pytest.raises(error, match=message):
        encode(words, sentences)


def test_token_id_of_a_single_token_is_its_id(words, smollm2):
    assert token_id_of(words, "her") == HER
    assert token_id_of(smollm2[1], " her") == 874


def test_token_id_of_leaves_out_special_tokens(words):
    from tokenizers.processors import TemplateProcessing

    words.backend_tokenizer.post_processor = TemplateProcessing("<eos> $A <eos>", special_tokens=[("<eos>", EOS)])
    assert words("her")["input_ids"] == [EOS, HER, EOS]
    assert token_id_of(words, "her") == HER


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            " umbrellas met",
            r"expected one token, got \d+ for ' umbrellas met': \[' umb.*' met'\].*or one of these pieces",
        ),
        ("", r"expected one token, got 0 for '': \[\]\. Choose a word that is one token"),
    ],
)
def test_token_id_of_several_tokens_is_refused_with_its_pieces(smollm2, text, message):
    with pytest.raises(ValueError, match=message):
        token_id_of(smollm2[1], text)


@pytest.mark.parametrize(("occurrence", "expected"), [("first", [2, 0, 1]), ("last", [5, 0, 1])])
def test_find_token_takes_the_first_or_the_last_occurrence(words, occurrence, expected):
    batch = encode(words, ["I saw her and met her", "her", "saw her again"])
    positions = find_token(batch, HER, occurrence=occurrence)
    assert positions.tolist() == expected
    assert positions.dtype == torch.int64


def test_find_token_takes_the_first_occurrence_by_default(words):
    assert find_token(encode(words, ["saw her met her"]), HER).tolist() == [1]


@pytest.mark.parametrize("occurrence", ["first", "last"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_find_token_never_points_at_padding_with_the_targets_id(occurrence, side):
    words = word_tokenizer(pad_token="her")
    sentences = ["saw her", "I saw her and again today"]
    ids = words(sentences, return_tensors="pt", padding=True, padding_side=side)
    expected = {"right": [1, 2], "left": [5, 2]}[side]
    assert find_token(ids, HER, occurrence=occurrence).tolist() == expected


def test_left_padding_shifts_the_target_and_its_predecessor(words):
    batch = words(["saw her again", "I met her and saw today"], return_tensors="pt", padding=True, padding_side="left")
    positions = find_token(batch, HER)
    assert positions.tolist() == [4, 2]
    assert control_positions(batch, positions).tolist() == [3, 1]
    rows = torch.arange(2)
    assert batch["input_ids"][rows, positions - 1].tolist() == [SAW, MET]


def test_left_padding_before_a_first_target_is_no_predecessor(words):
    batch = words(["her again", "I saw her"], return_tensors="pt", padding=True, padding_side="left")
    with pytest.raises(ValueError, match="the target stands first in 1 sentences, .*: 0. Leave those out"):
        control_positions(batch, find_token(batch, HER))


def test_find_token_lists_the_sentences_without_the_target(words):
    batch = encode(words, ["I saw her", "I saw again", "met today"])
    message = (
        r"token 5 is absent from 2 of 3 sentences: 1 \('I saw again'\), 2 \('met today'\)\. Leave those out, or check"
    )
    with pytest.raises(ValueError, match=message):
        find_token(batch, HER)


def test_find_token_lists_numbers_where_the_sentences_are_not_known(words):
    batch = words(["I saw her"] + ["I saw again"] * 10, return_tensors="pt", padding=True)
    with pytest.raises(ValueError, match=r"absent from 10 of 11 sentences: 1, 2, 3, 4, 5, 6, 7, 8, … \(10 in all\)"):
        find_token(batch, HER)


def test_unknown_occurrence_is_refused(words):
    with pytest.raises(ValueError, match="expected occurrence 'first' or 'last', got 'second'"):
        find_token(encode(words, ["I saw her"]), HER, occurrence="second")


# ---- control tokens ------------------------------------------------------------------------------


def drawn(words, sentence, target, n_draw=200):
    """All positions that a random control takes in one sentence."""
    batch = encode(words, [sentence, "I saw her and met her again today"])  # the longer one adds padding
    generator = torch.Generator().manual_seed(0)
    positions = torch.tensor([target, 2])
    return {int(control_positions(batch, positions, "random", generator)[0]) for _ in range(n_draw)}


def test_previous_control_is_the_token_before_the_target(words):
    batch = encode(words, ["I saw her", "saw her again"])
    assert control_positions(batch, find_token(batch, HER)).tolist() == [1, 0]


def test_previous_control_of_a_first_token_is_refused(words):
    batch = encode(words, ["her again", "I saw her", "her"])
    message = "the target stands first in 2 sentences, so nothing precedes it: 0, 2. .*use kind='random'"
    with pytest.raises(ValueError, match=message):
        control_positions(batch, find_token(batch, HER))


def test_random_control_takes_every_other_token_but_the_first(words):
    assert drawn(words, "I saw her and met her", 2) == {1, 3, 4}  # nor the second "her"


def test_random_control_takes_the_first_token_where_nothing_else_is_left(words):
    assert drawn(words, "I her her", 1) == {0}


def test_random_control_is_repeatable_and_varies_with_the_generator(smollm2, her_batch, her_positions):
    def draw(seed):
        return control_positions(her_batch, her_positions, "random", torch.Generator().manual_seed(seed))

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
    rows = torch.arange(len(her_positions))
    assert (her_batch["input_ids"][rows, draw(3)] != 874).all()
    assert her_batch["attention_mask"][rows, draw(3)].all()
    assert (draw(3) > 0).all()


@pytest.mark.parametrize(
    ("sentences", "kind", "generator", "message"),
    [
        (["I saw her"], "next", None, "expected kind 'previous' or 'random', got 'next'"),
        (["I saw her"], "random", None, r"needs a generator.*torch\.Generator\(\)\.manual_seed\(0\)"),
        (["I saw her", "her her"], "random", torch.Generator(), "no token other than the target in sentences 1: leave"),
    ],
)
def test_impossible_control_is_refused(words, sentences, kind, generator, message):
    batch = encode(words, sentences)
    with pytest.raises(ValueError, match=message):
        control_positions(batch, find_token(batch, HER), kind, generator)


# ---- architectures -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        transformers.T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=4),
        transformers.GPTNeoConfig(
            vocab_size=64, hidden_size=16, num_layers=1, num_heads=4, attention_types=[[["global"], 1]]
        ),
        transformers.GPTJConfig(vocab_size=64, n_embd=16, n_layer=1, n_head=4, rotary_dim=4),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("use", [attention_modules, lambda model: capture_qkv(model, random_batch())])
def test_unknown_architecture_is_refused_with_the_known_ones(config, use):
    model = transformers.AutoModel.from_config(config)
    known = "bert, distilbert, gpt2, gpt_neox, llama, mistral, opt, qwen2"
    message = f"unknown architecture '{config.model_type}': expected one of {known}. Add an Adapter"
    with pytest.raises(ValueError, match=message):
        use(model)


def test_attention_modules_are_those_of_every_layer_in_order(family, model):
    modules = dict(model.named_modules())
    expected = [modules[FAMILIES[family].output.format(layer).rsplit(".", 1)[0]] for layer in range(N_LAYER)]
    found = attention_modules(model)
    if family == "bert":  # its projections and its output are two modules side by side
        expected = [modules[f"encoder.layer.{layer}.attention.self"] for layer in range(N_LAYER)]
    assert len(found) == N_LAYER
    assert all(a is b for a, b in zip(found, expected))


def test_capture_is_the_same_with_and_without_the_language_model_head(batch):
    config = copy.deepcopy(FAMILIES["gpt2"].config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = transformers.GPT2LMHeadModel(config).eval()
    assert torch.equal(capture_qkv(whole, batch).joined(), capture_qkv(whole.transformer, batch).joined())


# ---- the sentence sets ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", sentence_sets())
def test_sentence_set_has_its_target_once_after_two_tokens_of_distinct_text(smollm2, name):
    _, tokenizer = smollm2
    sentences = load_sentences(name)
    word = tokenizer(f" {TARGETS.get(name, name)}")["input_ids"]
    assert (len(word) == 1) == (name not in TARGETS)  # the Vietnamese word is there because it is several tokens
    prefixes = set()
    for sentence in sentences:
        ids = tokenizer(sentence)["input_ids"]
        at = [i for i in range(len(ids)) if ids[i : i + len(word)] == word]
        assert len(at) == 1, sentence
        assert at[0] >= 2, sentence
        prefixes.add(tuple(ids[: at[0]]))
    assert len(prefixes) == len(sentences) == 54


def test_unknown_sentence_set_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no sentence set 'fire': expected one of cua, her, water"):
        load_sentences("fire")
