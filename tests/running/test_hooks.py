"""Hooks come off whatever happens, act in their own thread only, and are called where a model is compiled or wrapped."""

import copy
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from helpers import attention_modules, capture_qkv, edit_qkv
from helpers.experiments.interventions import effect, predict
from tests.support.refusal import assert_refused
from tests.support.tiny import language_model, random_batch


@pytest.fixture(scope="module")
def model():
    return language_model("llama")


@pytest.fixture(scope="module")
def batch():
    return random_batch()


def run(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def captured(model, batch):
    return capture_qkv(model, batch, layers=[0, 1]).joined()


def edited(model, batch):
    with edit_qkv(model, [0, 1], "K", lambda k, _: 2 * k, after_rotary=True):
        return run(model, batch)


USES = {"capture": captured, "edit": edited}


def n_hooks(model):
    tables = "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"
    return sum(len(getattr(module, table)) for module in model.modules() for table in tables)


def stance():
    return torch._dynamo.eval_frame._stance.stance


def interrupted(call):
    try:
        call()
    except KeyboardInterrupt:
        return True
    return False


class Interruption:
    """KeyboardInterrupt before the line number `at` of `helpers` that is executed."""

    def __init__(self, at):
        self.left = at

    def __call__(self, frame, event, argument):
        if "/helpers/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return self


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_interruption_at_any_line_leaves_no_hook(model, batch, use):
    own = model.model.layers[1].register_forward_hook(lambda *_: None)  # of the user: it stays
    expected, hooks, ends = use(model, batch), n_hooks(model), []

    def use_until_a_line(at):
        sys.settrace(Interruption(at))
        try:
            ends.append(interrupted(partial(use, model, batch)))
        finally:
            sys.settrace(None)

    while not ends or ends[-1]:
        at = len(ends)  # in a thread: CPython 3.11 does not forget an exception that a trace function raised
        thread = threading.Thread(target=use_until_a_line, args=(at,))
        thread.start()
        thread.join()
        assert len(ends) == at + 1 and (n_hooks(model), stance()) == (hooks, "default"), at
    own.remove()
    assert len(ends) > 100 and torch.equal(use(model, batch), expected) and n_hooks(model) == hooks - 1


def test_200_interruptions_at_random_moments_leave_no_hook(model, batch):
    def stop(*_):
        raise KeyboardInterrupt

    expected = {name: use(model, batch) for name, use in USES.items()}
    hooks, seconds = n_hooks(model), torch.rand(2000, generator=torch.Generator().manual_seed(0)).tolist()
    old, n = signal.signal(signal.SIGALRM, stop), 0
    try:
        for i, part in enumerate(seconds):
            use = list(USES.values())[i % 2]

            def timed(use=use, part=part):
                signal.setitimer(signal.ITIMER_REAL, 1e-4 + 0.006 * part)
                use(model, batch)
                signal.setitimer(signal.ITIMER_REAL, 0)

            n += interrupted(timed)
            assert (n_hooks(model), stance()) == (hooks, "default"), i
            if n == 200:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert n == 200 and all(torch.equal(use(model, batch), expected[name]) for name, use in USES.items())


def test_threads_on_one_model_do_not_notice_each_other(model):
    batches = [random_batch(seed=seed) for seed in range(2)]
    jobs = [partial(use, model, batch) for batch in batches for use in (*USES.values(), run)]
    expected, hooks = [job() for job in jobs], n_hooks(model)
    start = threading.Barrier(len(jobs))

    def work(job):
        start.wait()
        return [job() for _ in range(20)]

    with ThreadPoolExecutor(len(jobs)) as pool:
        for found, right in zip(pool.map(work, jobs), expected, strict=True):
            assert all(torch.equal(x, right) for x in found)
    assert (n_hooks(model), stance()) == (hooks, "default")


def compiled_layers(model):
    for layer in model.model.layers:
        layer.compile(backend="eager")
    return model


def compiled_forward(model):
    model.forward = torch.compile(model.forward, backend="eager")
    return model


@pytest.mark.parametrize(
    "wrap",
    [compiled_layers, compiled_forward, partial(torch.compile, backend="eager"), torch.nn.DataParallel],
    ids=["layers", "forward", "model", "DataParallel"],
)
def test_compiled_and_wrapped_models_give_what_the_plain_one_gives(model, batch, wrap):
    wrapped, results = wrap(copy.deepcopy(model)), []
    plain = run(wrapped, batch)  # compiled before any hook is there
    for m in (model, wrapped):
        before = predict(m, batch)
        with edit_qkv(m, 1, "V", lambda v, _: 2 * v):
            results.append((captured(m, batch), run(m, batch), effect(m, batch, before)))
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(*results, strict=True))
    assert torch.equal(run(wrapped, batch), plain) and stance() == "default"


class Bypassed(torch.nn.Module):
    """A projection that is used past its module, as fused kernels do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __call__(self, x):
        return self.inner(x)


def test_what_was_not_called_is_not_silently_left_out(model, batch):
    def bypassed(use):
        other = copy.deepcopy(model)
        attention = attention_modules(other)[1]
        attention.k_proj = Bypassed(attention.k_proj).eval()
        use(other, batch)

    def shortened(use):
        other = copy.deepcopy(model)
        with edit_qkv(other, 2, "Q", lambda q, _: q):
            other.model.layers = other.model.layers[:2]
            use(other, batch)

    def elsewhere():
        with edit_qkv(model, 0, "Q", lambda q, _: q), ThreadPoolExecutor(1) as pool:
            pool.submit(run, model, batch).result()

    for use in (captured, edited):
        assert_refused(partial(bypassed, use), RuntimeError, r"ran without calling 1 modules \(Bypassed\)")
    assert_refused(partial(shortened, run), RuntimeError, r"ran without calling 2 modules \(LlamaAttention, Linear\)")
    shortened(captured)  # which leaves after layer 1: layer 2 is not missed
    assert_refused(elsewhere, RuntimeError, "ran in another thread than the one that opened this block")


def test_copy_made_in_a_block_is_edited_in_the_block_only(model, batch):
    with edit_qkv(model, 1, "V", lambda v, _: 2 * v):
        copied = copy.deepcopy(model)
        assert torch.equal(run(copied, batch), run(model, batch))
    assert torch.equal(run(copied, batch), run(model, batch))
