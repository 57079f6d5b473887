"""The compiled kernels: the same numbers as plain torch and the oracle, whoever computes them and how."""

import json
import os
import subprocess
import sys
import threading
from importlib import util

import numpy as np
import pytest
import torch

from helpers import BLOCKS, block_histograms, cosine_similarity, pearson_correlation, similarity
from helpers.kernels import kernel_for
from helpers.masks import MEASURES
from tests.core.test_similarity import STATISTICS, assert_matches_oracle, features
from tests.support import oracle

needs_numba = pytest.mark.skipif(util.find_spec("numba") is None, reason="numba is not installed")
needs_triton = pytest.mark.skipif(util.find_spec("triton") is None, reason="Triton is not installed")
KERNELS = (pytest.param("torch"), pytest.param("numba", marks=needs_numba))
LIMIT = similarity._constant_limit(torch.float32)
pytestmark = pytest.mark.filterwarnings("ignore:with [12] token")


@pytest.fixture
def kernel(request, monkeypatch):
    monkeypatch.setenv("QKV_KERNEL", request.param)
    return request.param


through_every_kernel = pytest.mark.parametrize("kernel", KERNELS, indirect=True)


def python(code, **environment):
    """What a fresh Python prints."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def assert_same_result(result, expected):
    for measure in MEASURES:
        for block in BLOCKS:
            for name in STATISTICS:
                ours, theirs = getattr(result[measure][block], name), getattr(expected[measure][block], name)
                assert torch.equal(ours.nan_to_num(nan=9), theirs.nan_to_num(nan=9)), (measure, block, name)


# the numbers


@through_every_kernel
@pytest.mark.parametrize("n", (2, 3, 4, 5, 63, 64, 65, 255, 256, 257))
@pytest.mark.parametrize("sizes", ((64, 1, 63), (65, 129, 2), (320, 64, 64)), ids=str)
def test_histograms_match_the_oracle_around_every_border(kernel, n, sizes):
    """n around the change of product, sizes around the width of a panel and of a band."""
    x = features(n, sum(sizes), seed=n)
    x[:, 0] = 0
    x[:, -1] = 3
    assert_matches_oracle(x, sizes)


@through_every_kernel
@pytest.mark.parametrize("bins", (1, 7, 100, 127, 128, 129))
@pytest.mark.parametrize("threshold", (-0.5, 0.0, 0.9, 1.0, 2.0))
def test_any_bins_and_threshold(kernel, bins, threshold):
    x = features(54, 45)
    x[:, [3, 30]] = torch.tensor([0.0, 5.0])
    assert_matches_oracle(x, (20, 11, 14), bins=bins, threshold=threshold)


@through_every_kernel
@pytest.mark.parametrize("n", (20, 300))
def test_a_block_that_is_all_but_undefined_keeps_its_digits(kernel, n):
    """Undefined pairs are counted as 0 and taken out again: nothing of them may stay."""
    x = torch.ones(n, 300)
    x[:, [5, 150, 151]] = features(n, 3)
    for measure in MEASURES:
        result = assert_matches_oracle(x, (100, 100, 100))[measure]
        values = oracle.block(oracle.SIMILARITY[measure](x), (100, 100, 100), "QK")
        np.testing.assert_allclose(float(result["QK"].std), np.nanstd(values), rtol=0, atol=1e-6)


@through_every_kernel
@pytest.mark.parametrize("offset", (0.0, 10.0, 1000.0))
@pytest.mark.parametrize("n", (54, 400))
def test_mean_and_std_keep_their_digits(kernel, n, offset):
    x = features(n, 300, offset=0.0) + offset
    result = block_histograms(x, (100, 100, 100))
    for measure in MEASURES:
        for block in BLOCKS:
            values = oracle.block(oracle.SIMILARITY[measure](x), (100, 100, 100), block)
            np.testing.assert_allclose(float(result[measure][block].mean), values.mean(), rtol=0, atol=2e-7)
            np.testing.assert_allclose(float(result[measure][block].std), values.std(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("exponent", (200, 300, -200, -300))
def test_float64_far_from_one_neither_overflows_nor_vanishes(exponent):
    x = features(54, 30, dtype=torch.float64)
    x[:, ::2] *= 10.0**exponent
    expected = block_histograms(features(54, 30, dtype=torch.float64), (12, 6, 12))
    result = block_histograms(x, (12, 6, 12))
    for measure in MEASURES:
        for block in BLOCKS:
            assert int(result[measure][block].n_undefined) == 0
            np.testing.assert_allclose(result[measure][block].mean, expected[measure][block].mean, rtol=0, atol=1e-12)
    assert cosine_similarity(x).isfinite().all() and pearson_correlation(x).isfinite().all()


@through_every_kernel
@pytest.mark.parametrize("n", (54, 300))
def test_autocast_costs_no_digits(kernel, n):
    x = features(n, 150)
    expected = block_histograms(x, (60, 50, 40))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x.T @ x).dtype == torch.bfloat16  # it is on
        assert_same_result(block_histograms(x, (60, 50, 40)), expected)
        assert cosine_similarity(x).dtype == torch.float32
        np.testing.assert_allclose(pearson_correlation(x), oracle.correlation(x), rtol=0, atol=1e-6)
        assert torch.is_autocast_enabled("cpu")


@through_every_kernel
def test_lower_matrix_precision_is_neither_used_nor_changed(kernel):
    before = torch.get_float32_matmul_precision()
    expected = block_histograms(features(54, 150), (60, 50, 40))
    try:
        torch.set_float32_matmul_precision("medium")
        assert_same_result(block_histograms(features(54, 150), (60, 50, 40)), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_tf32_is_off_inside_and_comes_back():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with similarity._full_precision(torch.device("cuda")):
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


# threads


@needs_numba
@pytest.mark.parametrize("n", (54, 300))
def test_the_number_of_threads_changes_nothing(n):
    from helpers.kernels.cpu import layer_sums

    x = features(3, n, 500)
    expected = layer_sums(x, (300, 150, 50), LIMIT, 100, 0.9, n_threads=1)
    for n_threads in (2, 3, 8):
        for ours, theirs in zip(layer_sums(x, (300, 150, 50), LIMIT, 100, 0.9, n_threads=n_threads), expected):
            np.testing.assert_array_equal(ours, theirs)


@needs_numba
@pytest.mark.parametrize("n", (54, 300))
def test_layers_taken_together_or_alone_are_the_same(n, monkeypatch):
    from helpers.kernels import cpu as kernels_cpu

    x = features(5, n, 200)
    expected = kernels_cpu.layer_sums(x, (100, 50, 50), LIMIT, 100, 0.9)
    monkeypatch.setattr(kernels_cpu, "GROUP_BYTES", 1)
    for ours, theirs in zip(kernels_cpu.layer_sums(x, (100, 50, 50), LIMIT, 100, 0.9), expected):
        np.testing.assert_array_equal(ours, theirs)


@through_every_kernel
def test_several_threads_may_call_at_once(kernel):
    inputs = [features(54, 200, seed=seed) for seed in range(4)]
    expected = [block_histograms(x, (100, 50, 50)) for x in inputs]
    found = [[] for _ in inputs]

    def call(at):
        for _ in range(5):
            found[at].append(block_histograms(inputs[at], (100, 50, 50)))

    threads = [threading.Thread(target=call, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, result in zip(found, expected):
        assert len(results) == 5
        for ours in results:
            assert_same_result(ours, result)


@needs_numba
def test_an_error_in_a_thread_reaches_the_caller():
    from helpers.kernels.cpu import _share

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        _share(lambda number: 1 / number, [(number,) for number in range(50, -1, -1)], 3)
    assert threading.active_count() == before


# which kernel


@pytest.mark.parametrize(
    ("wanted", "dtype", "bins", "expected"),
    [
        ("torch", torch.float32, 100, "torch"),
        pytest.param("numba", torch.float32, 100, "numba", marks=needs_numba),
        pytest.param("numba", torch.bfloat16, 128, "numba", marks=needs_numba),
        ("numba", torch.float32, 129, "torch"),
        ("numba", torch.float64, 100, "torch"),
        ("triton", torch.float32, 100, "torch"),  # on the CPU
    ],
)
def test_the_environment_variable_decides(monkeypatch, wanted, dtype, bins, expected):
    monkeypatch.setenv("QKV_KERNEL", wanted)
    assert kernel_for(torch.zeros(3, 6, dtype=dtype), bins) == expected


def test_an_unknown_kernel_is_refused(monkeypatch):
    monkeypatch.setenv("QKV_KERNEL", "fortran")
    with pytest.raises(ValueError, match=r"QKV_KERNEL is 'fortran': expected one of auto, torch, numba, triton"):
        block_histograms(features(54, 6), (2, 2, 2))


def test_numba_that_is_asked_for_and_missing_is_named(monkeypatch):
    monkeypatch.setenv("QKV_KERNEL", "numba")
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match="pip install numba"):
        block_histograms(features(54, 6), (2, 2, 2))


@needs_numba
def test_nobody_waits_for_the_compiler_unasked(monkeypatch, tmp_path):
    monkeypatch.setenv("QKV_CACHE", str(tmp_path))
    monkeypatch.setenv("QKV_KERNEL", "auto")
    x = torch.zeros(3, 6)
    similarity._is_compiled.cache_clear()
    try:
        assert kernel_for(x) == "torch"
        similarity.compile_kernels()
        assert kernel_for(x) == "numba"
        similarity._is_compiled.cache_clear()  # as in a new process
        assert kernel_for(x) == "numba"
        monkeypatch.setitem(sys.modules, "numba", None)
        similarity._is_compiled.cache_clear()
        assert kernel_for(x) == "torch"
    finally:
        similarity._is_compiled.cache_clear()


def test_without_numba_the_module_works():
    code = (
        "import sys; sys.modules['numba'] = None; import torch; from helpers import block_histograms;"
        "print(int(block_histograms(torch.eye(8), (4, 2, 2))['cosine']['QQ'].n_pairs))"
    )
    assert python(code, QKV_KERNEL="auto") == "6"


# memory

PEAK = """
import torch
from helpers import block_histograms, pearson_correlation

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

def above(function):  # MiB at the peak above what was held before
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here
    before = status("VmRSS")
    function()
    return status("VmHWM") - before

x = torch.randn(54, 2304, generator=torch.Generator().manual_seed(0))
block_histograms(x[:, :300].clone(), (100, 100, 100))  # code and threads are there
pearson_correlation(x[:, :300])
print(above(lambda: block_histograms(x, (768, 768, 768))), above(lambda: pearson_correlation(x)))
"""


@through_every_kernel
def test_at_most_16_mib_above_the_input(kernel):
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of memory cannot be reset here (needs Linux)")
    ours, with_matrix = map(float, python(PEAK, QKV_KERNEL=kernel).split())
    assert with_matrix > 20  # one matrix of 20 MiB is seen
    assert ours <= 16


# Triton without a GPU

INTERPRETED = """
import torch
from tests.core.test_similarity import assert_matches_oracle, features
from helpers import similarity

similarity.kernel_for = lambda x, bins: "triton"
for sizes, n in (((70, 60, 5), 54), ((1, 1, 66), 3), ((20, 64, 65), 33)):
    x = features(2, n, sum(sizes))
    x[1, :, 0], x[1, :, -1] = 0, 2.5
    assert_matches_oracle(x, sizes)
    assert_matches_oracle(x[0].bfloat16(), sizes, bins=128, threshold=0.5)
print("same")
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from helpers.kernels.cuda import DEPTH, TILE, _bin_tiles

pointers = dict(y="*fp32", features="*fp32", means="*fp32", tiles="*i32", counts="*i32", sums="*fp32")
numbers = dict(n="i32", n_features="i32", n_tiles="i32", threshold="fp32")
constants = dict(BINS=100, ROOM=128, TILE=TILE, DEPTH=DEPTH)
signature = pointers | numbers | dict.fromkeys(constants, "constexpr")
for capability in (75, 90):
    source = ASTSource(_bin_tiles, signature=signature, constexprs=constants)
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8})
    assert kernel.metadata.shared <= 48 * 1024
    assert "fma.rn.f32" in kernel.asm["ptx"] and "tf32" not in kernel.asm["ptx"]  # full float32
print("compiled")
"""


@needs_triton
def test_the_triton_kernel_matches_the_oracle_in_the_interpreter():
    folder = os.path.dirname(__file__)
    code = f"import sys; sys.path.insert(0, {folder!r})\n" + INTERPRETED
    assert python(code, TRITON_INTERPRET="1") == "same"


@needs_triton
def test_the_triton_kernel_compiles_for_a_t4_and_an_h200(tmp_path):
    assert python(COMPILED, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0") == "compiled"


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@cuda
@pytest.mark.parametrize("wanted", ("torch", "triton"))
@pytest.mark.parametrize("n", (2, 3, 54, 300))
@pytest.mark.parametrize("sizes", ((64, 1, 63), (65, 129, 2), (320, 64, 64)), ids=str)
def test_both_cuda_paths_match_the_oracle(monkeypatch, wanted, n, sizes):
    monkeypatch.setenv("QKV_KERNEL", wanted)
    x = features(2, n, sum(sizes), seed=n)
    x[1, :, 0] = 0
    x[1, :, -1] = 3
    assert_matches_oracle(x.cuda(), sizes)


# the page


def test_the_tables_of_the_performance_pages_are_those_that_were_measured():
    from tools.benchmarks import report

    results = json.loads(report.RESULTS.read_text(encoding="utf-8"))
    for language, path in report.PAGES.items():
        text = path.read_text(encoding="utf-8")
        assert report.page(text, results, language) == text, f"{path.name}: python -m tools.benchmarks.report write"
