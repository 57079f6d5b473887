"""The kernels: the same numbers as the oracle, whoever computes them and how, and which one is taken."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from helpers import block_histograms, kernels, set_language
from helpers.kernels import compile_kernels, cpu, kernel_for, plain
from helpers.kernels.precision import full_precision, one_thread
from tests.support.histograms import (
    KERNELS,
    assert_matches_oracle,
    assert_matrices_match_oracle,
    assert_same_result,
    features,
    python,
    through,
)
from tests.support.refusal import assert_refused

pytestmark = pytest.mark.filterwarnings("ignore:with [12] token")
through_every_kernel = pytest.mark.parametrize("kernel", KERNELS)

PEAK = """  # MiB above what was held before: of the histograms, and of one whole matrix
import torch
from helpers import block_histograms, pearson_correlation
from tools.benchmarks.report import above

x = torch.randn(54, 2304, generator=torch.Generator().manual_seed(0), requires_grad=True)
block_histograms(x[:, :300].clone(), (100, 100, 100))  # code and threads are there
pearson_correlation(x[:, :300])
print(above(block_histograms, x, (768, 768, 768)), above(pearson_correlation, x))
"""


def test_histograms_match_the_oracle_around_every_border(monkeypatch):
    """n around the three tokens and the depth of a product, sizes around the width of a panel, a band and a tile."""
    monkeypatch.setattr(plain, "TILE", 64)
    for sizes in ((64, 1, 63), (65, 129, 2), (320, 64, 64)):
        for n in (2, 3, 4, 5, 125, 126, 127, 257):
            x = features(n, sum(sizes), seed=n)
            x[:, 0], x[:, -1] = 0, 3
            assert_matches_oracle(x, sizes)


@through_every_kernel
def test_autocast_and_lower_precision_cost_no_digits_and_stay(kernel):
    precision, tf32 = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.fp32_precision
    x = features(54, 150)
    try:
        with through(kernel), torch.autocast("cpu", dtype=torch.bfloat16):
            torch.set_float32_matmul_precision("medium")
            assert (x.T @ x).dtype == torch.bfloat16  # it is on
            assert_matches_oracle(x, (60, 50, 40), kernels=(kernel,))
            assert_matrices_match_oracle(x)
            assert torch.is_autocast_enabled("cpu") and torch.get_float32_matmul_precision() == "medium"
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        with full_precision(torch.device("cuda")):
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cuda.matmul.fp32_precision = tf32


def test_neither_threads_nor_groups_of_layers_change_anything(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("QKV_KERNEL", "numba")
    x, results = features(3, 54, 500), []
    try:
        for n_threads, group in ((1, cpu.GROUP_BYTES), (2, cpu.GROUP_BYTES), (8, cpu.GROUP_BYTES), (2, 1)):
            torch.set_num_threads(n_threads)
            monkeypatch.setattr(cpu, "GROUP_BYTES", group)
            results.append(block_histograms(x, (300, 150, 50)))
            assert_same_result(results[-1], results[0])
        torch.set_num_threads(3)
        with pytest.raises(ZeroDivisionError):  # an error in a thread reaches the caller
            cpu.share(lambda number: 1 / number, [(number,) for number in range(50, -1, -1)])
        with pytest.raises(ZeroDivisionError), one_thread(torch.device("cpu")):
            assert torch.get_num_threads() == 1 / 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@through_every_kernel
def test_several_threads_may_call_at_once(kernel):
    inputs = [features(54, 200, seed=seed) for seed in range(4)] * 5
    call = partial(block_histograms, sizes=(100, 50, 50))
    with through(kernel), ThreadPoolExecutor(4) as pool:
        for ours, expected in zip(pool.map(call, inputs), map(call, inputs), strict=True):
            assert_same_result(ours, expected)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A machine on which nothing was compiled or proved."""
    monkeypatch.setenv("QKV_CACHE", str(tmp_path))
    monkeypatch.setenv("QKV_KERNEL", "auto")
    kernels.forget()
    yield tmp_path
    kernels.forget()


def test_environment_variable_decides(monkeypatch):
    for wanted, dtype, bins, expected in (
        ("torch", torch.float32, 100, "torch"),
        ("numba", torch.bfloat16, 128, "numba"),
        ("numba", torch.float32, 129, "torch"),
        ("numba", torch.float64, 100, "torch"),
        ("triton", torch.float32, 100, "torch"),  # on the CPU
    ):
        monkeypatch.setenv("QKV_KERNEL", wanted)
        assert kernel_for(torch.zeros(3, 6, dtype=dtype), bins) == expected
    monkeypatch.setitem(sys.modules, "numba", None)
    unknown = "QKV_KERNEL is 'fortran': expected one of auto, torch, numba, triton"
    for wanted, error, message in (("fortran", ValueError, unknown), ("numba", ImportError, "pip install numba")):
        monkeypatch.setenv("QKV_KERNEL", wanted)
        assert_refused(partial(block_histograms, features(54, 6), (2, 2, 2)), error, message)


def test_nobody_waits_for_the_compiler_unasked(fresh, monkeypatch):
    x = torch.zeros(3, 6)
    assert kernel_for(x) == "torch"
    compile_kernels()
    assert kernel_for(x) == "numba"
    kernels.forget()  # as in a new process
    assert kernel_for(x) == "numba"
    monkeypatch.setitem(sys.modules, "numba", None)
    kernels.forget()
    assert kernel_for(x) == "torch"


def test_triton_is_taken_once_it_was_proved_there(fresh, monkeypatch, capsys):
    """On a made-up GPU: another device, driver or version has to prove it anew."""
    t4, other = ("NVIDIA T4", (7, 5), "13.0", "driver 580"), ("NVIDIA L4", (8, 9), "13.1", "driver 590")
    x = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float32, shape=(54, 2304))
    x.is_floating_point = lambda: True

    def taken(gpu=t4, version="3", spec="there"):
        """In a new process, also where Triton cannot be installed."""
        monkeypatch.setattr(kernels, "describe_cuda", lambda device: gpu)
        monkeypatch.setattr(kernels.metadata, "version", lambda name: version)
        monkeypatch.setattr(kernels.util, "find_spec", lambda name: spec)
        kernels.forget()
        return kernel_for(x)

    for language, words in (("vi", "chưa được kiểm chứng"), ("en", "was not proved")):
        set_language(language)
        assert taken() == kernel_for(x) == "torch"
        said = capsys.readouterr().err
        assert words in said and said.count("python -m tools.prove_gpu") == said.count("\n") == 1  # once, one line
    monkeypatch.setattr("helpers.kernels.proof.compare", lambda device: 1 / 0)  # a proof that fails is not remembered
    with pytest.raises(ZeroDivisionError):
        kernels.prove_triton(x.device)
    assert not list(fresh.iterdir())
    monkeypatch.setattr("helpers.kernels.proof.compare", lambda device: None)
    kernels.prove_triton(x.device)
    assert kernel_for(x) == "triton" and kernel_for(x, bins=129) == "torch"
    assert capsys.readouterr().err == ""
    for at in range(4):
        assert taken((*t4[:at], other[at], *t4[at + 1 :])) == "torch", other[at]
    assert taken(version="4") == taken(spec=None) == "torch"
    monkeypatch.setenv("QKV_KERNEL", "triton")
    assert taken(version="4") == "triton"


def test_module_works_without_numba():
    code = (
        "import sys; sys.modules['numba'] = sys.modules['triton'] = None; import torch;"
        "from helpers import block_histograms;"
        "print(int(block_histograms(torch.eye(8), (4, 2, 2))['cosine']['QQ'].n_pairs))"
    )
    assert python(code, QKV_KERNEL="auto") == "6"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of memory can be reset on Linux only")
def test_at_most_16_mib_above_the_input():
    for kernel in KERNELS:
        ours, with_matrix = map(float, python(PEAK, QKV_KERNEL=kernel).split())
        assert with_matrix > 20  # one matrix of 20 MiB is seen
        assert ours <= 16, kernel
