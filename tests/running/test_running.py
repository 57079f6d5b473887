"""Around a run: hooks come off whatever happens and act in one thread only; what is read is right or refused."""

import copy
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import accelerate
import pytest
import torch

from helpers import attention_modules, capture_qkv, edit_qkv
from helpers.experiments.interventions import effect, predict
from helpers.text import SentenceBatch
from tests.support.refusal import assert_refused
from tests.support.tiny import language_model, random_batch, random_model

BATCH = random_batch()
IDS, MASK = BATCH["input_ids"], BATCH["attention_mask"]
REFUSED = tomllib.loads(Path(__file__).with_name("refused.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model():
    return language_model("llama")


@pytest.fixture(scope="module")
def gpt2():
    return language_model("gpt2")


def run(model, batch=BATCH):
    with torch.no_grad():
        return model(**batch).logits


def captured(model, batch=BATCH):
    return capture_qkv(model, batch, layers=[0, 1]).joined()


def edited(model, batch=BATCH):
    with edit_qkv(model, [0, 1], "K", lambda k, _: 2 * k, after_rotary=True):
        return run(model, batch)


USES = captured, edited


def state(model):
    """(number of hooks, how PyTorch runs what is compiled)."""
    tables = "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"
    n = sum(len(getattr(module, table)) for module in model.modules() for table in tables)
    return n, torch._dynamo.eval_frame._stance.stance


def interruption(at):
    """For `sys.settrace`: KeyboardInterrupt before the line number `at` that `helpers` or PyTorch's stance executes."""
    before = iter(range(at))

    def trace(frame, event, argument):
        if not any(part in frame.f_code.co_filename for part in ("/helpers/", "_dynamo/eval_frame", "torch/compiler")):
            return None
        if event == "line" and next(before, None) is None:
            raise KeyboardInterrupt
        return trace

    return trace


@pytest.mark.parametrize("use", USES)
def test_interruption_at_any_line_leaves_no_hook(model, use):
    own = model.model.layers[1].register_forward_hook(lambda *_: None)  # of the user: it stays
    expected, (n_hooks, _) = use(model), state(model)

    def is_stopped(at):
        sys.settrace(interruption(at))
        try:
            use(model)
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)

    for at in count():  # each in a new thread: CPython 3.11 does not forget an exception that a trace function raised
        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(is_stopped, at).result()
        assert state(model) == (n_hooks, "default"), at
        if not stopped:
            break
    own.remove()
    assert at > 100 and torch.equal(use(model), expected) and state(model)[0] == n_hooks - 1


def test_error_in_the_model_leaves_no_hook(model, monkeypatch):
    before = state(model)
    monkeypatch.setattr(attention_modules(model)[0].o_proj, "forward", None)
    for use in USES:
        with pytest.raises(TypeError, match="not callable"):
            use(model)
        assert state(model) == before


def test_threads_on_one_model_do_not_notice_each_other(model):
    batches = [random_batch(seed=seed) for seed in range(2)]
    jobs = [partial(use, model, batch) for batch in batches for use in (*USES, run)]
    expected, before = [job() for job in jobs], state(model)
    start = threading.Barrier(len(jobs))

    def work(job):
        start.wait()
        return [job() for _ in range(20)]

    with ThreadPoolExecutor(len(jobs)) as pool:
        for found, right in zip(pool.map(work, jobs), expected, strict=True):
            assert all(torch.equal(x, right) for x in found)
    assert state(model) == before


def compiled_layers(model):
    for layer in model.model.layers:
        layer.compile(backend="eager")
    return model


def compiled_forward(model):
    model.forward = torch.compile(model.forward, backend="eager")
    return model


WRAPPERS = (compiled_layers, compiled_forward, partial(torch.compile, backend="eager"), torch.nn.DataParallel)


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_compiled_and_wrapped_models_give_what_the_plain_one_gives(model, wrap):
    wrapped, results = wrap(copy.deepcopy(model)), []
    plain = run(wrapped)  # compiled before any hook is there
    for m in (model, wrapped):
        before = predict(m, BATCH)
        with edit_qkv(m, 1, "V", lambda v, _: 2 * v):
            results.append((captured(m), run(m), effect(m, BATCH, before)))
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(*results, strict=True))
    assert torch.equal(run(wrapped), plain) and state(model)[1] == "default"


class Bypassed(torch.nn.Linear):
    """A projection that is used past its hooks, as fused kernels do."""

    __call__ = torch.nn.Linear.forward


def test_what_was_not_called_is_not_silently_left_out(model):
    def bypassed(use):
        other = copy.deepcopy(model)
        attention_modules(other)[1].k_proj.__class__ = Bypassed
        use(other)

    def shortened(use):
        other = copy.deepcopy(model)
        with edit_qkv(other, 2, "Q", lambda q, _: q):
            other.model.layers = other.model.layers[:2]
            use(other)

    def elsewhere():
        with edit_qkv(model, 0, "Q", lambda q, _: q), ThreadPoolExecutor(1) as pool:
            pool.submit(run, model).result()

    for use in USES:
        assert_refused(partial(bypassed, use), RuntimeError, r"ran without calling 1 modules \(Bypassed\)")
    assert_refused(partial(shortened, run), RuntimeError, r"ran without calling 2 modules \(LlamaAttention, Linear\)")
    shortened(captured)  # which leaves after layer 1: layer 2 is not missed
    assert_refused(elsewhere, RuntimeError, "ran in another thread than the one that opened this block")


def test_copy_made_in_a_block_is_edited_in_the_block_only(model):
    with edit_qkv(model, 1, "V", lambda v, _: 2 * v):
        copied = copy.deepcopy(model)
        assert torch.equal(run(copied), run(model))
    assert torch.equal(run(copied), run(model))


# ---- what a model reads


def changed(**entries):
    return SentenceBatch(dict(BATCH) | entries)


def test_entries_that_would_change_what_is_read_are_left_out(gpt2):
    expected = capture_qkv(gpt2, BATCH).joined()
    for other in (
        changed(token_type_ids=0 * MASK),  # GPT-2 would add the embedding of token 0
        changed(special_tokens_mask=0 * MASK, labels=IDS),
        changed(attention_mask=MASK.bool()),
        {"input_ids": IDS, "attention_mask": MASK.float()},
    ):
        assert torch.equal(capture_qkv(gpt2, other).joined(), expected)
    for padding in (64, -100):  # an id outside the vocabulary
        found, real = capture_qkv(gpt2, changed(input_ids=IDS.where(MASK.bool(), padding))).joined(), MASK.bool()
        assert torch.equal(found[:, real], expected[:, real])
    whole = {"input_ids": IDS[:1]}  # without a mask all is text
    assert torch.allclose(capture_qkv(gpt2, whole).joined(), expected[:, :1], atol=1e-5)
    types = capture_qkv(gpt2, changed(token_type_ids=torch.ones_like(MASK))).joined()
    assert not torch.allclose(types, expected, atol=1e-3)  # these are meant


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_batch_that_is_not_read_as_meant_is_refused(gpt2, case):
    batch = SentenceBatch({name: torch.tensor(case[name]) for name in BATCH})
    for use in (capture_qkv, predict):
        assert_refused(partial(use, gpt2, batch), ValueError, case["says"])
    lists = changed(input_ids=IDS.tolist())
    assert_refused(partial(capture_qkv, gpt2, lists), ValueError, r"got \['list', \(3, 9\)\]")


@pytest.mark.parametrize(("name", "reads"), [("gpt2", 8), ("llama", 8), ("roberta", 6)])
def test_sentence_longer_than_the_model_reads_is_refused(name, reads):
    model, longer = random_model(name, max_position_embeddings=8), random_batch(lengths=(reads + 1, 2))
    message = f"a sentence has {reads + 1} tokens, the model reads {reads} at most"
    assert_refused(partial(capture_qkv, model, longer), ValueError, message)
    assert capture_qkv(model, random_batch(lengths=(reads, 2))).q.shape[2] == reads
    if name != "llama":  # whose positions are computed
        with pytest.raises((IndexError, RuntimeError)):
            model(**longer)


def test_training_mode_is_refused_even_in_one_module(gpt2):
    model = copy.deepcopy(gpt2)
    for module in (model, model.transformer.h[1].attn.attn_dropout):
        module.train()
        for use in (capture_qkv, predict):
            assert_refused(partial(use, model, BATCH), ValueError, r"training mode.*model\.eval\(\)")
        model.eval()


class Peft(torch.nn.Module):
    """What PEFT puts around a model: its `base_model` is none of transformers."""

    def __init__(self, model, prompt):
        super().__init__()
        self.base_model, self.get_base_model = torch.nn.ModuleDict({"model": model}), lambda: model
        self.active_peft_config = SimpleNamespace(is_prompt_learning=prompt)


def test_peft_is_taken_off_unless_it_adds_a_prompt(gpt2):
    lora, prompt = Peft(gpt2, prompt=False).eval(), Peft(gpt2, prompt=True).eval()
    for model in (lora, torch.nn.DataParallel(lora)):
        assert torch.equal(capture_qkv(model, BATCH).q, capture_qkv(gpt2, BATCH).q)
    assert_refused(partial(capture_qkv, prompt, BATCH), ValueError, r"pass model\.get_base_model\(\)")
    for other in ((gpt2, None), torch.nn.Sequential(gpt2), None):
        came = f"expected a transformers model, got {type(other).__name__}: use `model, tokenizer"
        assert_refused(partial(capture_qkv, other, BATCH), ValueError, came)


def to_int8(linear):
    """Whole numbers for weights, as quantised models have."""
    scale = linear.weight.abs().amax(dim=1, keepdim=True) / 127
    whole = (linear.weight / scale).round().to(torch.int8)
    linear.weight = torch.nn.Parameter(whole, requires_grad=False)
    linear.forward = lambda x: torch.nn.functional.linear(x, whole.to(x.dtype) * scale)


def test_offloaded_and_quantised_models_are_captured():
    model = language_model("llama")
    expected = capture_qkv(model, BATCH).joined()
    offloaded = accelerate.cpu_offload(copy.deepcopy(model), execution_device="cpu")
    assert next(offloaded.parameters()).is_meta
    for _ in range(2):  # the early end of the run leaves all in order
        assert torch.equal(capture_qkv(offloaded, BATCH).joined(), expected)
    assert torch.equal(predict(offloaded, BATCH).p, predict(model, BATCH).p)
    empty = copy.deepcopy(model).to("meta")
    assert_refused(partial(capture_qkv, empty, BATCH), ValueError, "the model has no weights")
    for layer in model.model.layers:
        to_int8(layer.self_attn.q_proj)
    error = (capture_qkv(model, BATCH).q - expected[..., :32]).abs().max()
    assert 0 < error < 0.2 * expected.abs().max()
