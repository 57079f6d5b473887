"""The Triton kernel: in Triton's interpreter, compiled without a GPU, and on one where there is one."""

import sys

import pytest
import torch

from helpers import block_histograms
from helpers.kernels import prove_triton
from tests.support.histograms import STATISTICS, assert_matches_oracle, assert_matrices_match_oracle, features, python

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton is made for Linux only")

INTERPRETED = """
import pytest, torch
from helpers.kernels import cuda, proof

proof.CASES = [(*case[:2], tuple(min(size, 70) for size in case[2]), *case[3:]) for case in proof.CASES[:4]]
proof.compare(torch.device("cpu"))
right = cuda.layer_sums
for errors in ((1, 0, 0, 0), (0, 1e-5, 0, 0), (0, 0, 1e-5, 0), (0, 0, 0, 1e-5)):  # of counts, mean, std, share
    cuda.layer_sums = lambda *args: [value + error for value, error in zip(right(*args), errors)]
    with pytest.raises(ArithmeticError):
        proof.compare(torch.device("cpu"))
print("same")
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from helpers.kernels.cuda import DEPTH, TILE, bin_tiles

pointers = dict(y="*fp32", features="*fp32", means="*fp32", tiles="*i32", counts="*i32", sums="*fp32")
numbers = dict(n="i32", n_features="i32", n_tiles="i32", threshold="fp32")
constants = dict(BINS=100, ROOM=128, TILE=TILE, DEPTH=DEPTH)
signature = pointers | numbers | dict.fromkeys(constants, "constexpr")
for capability in (75, 90):
    source = ASTSource(bin_tiles, signature=signature, constexprs=constants)
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8})
    assert kernel.metadata.shared <= 48 * 1024
    assert "fma.rn.f32" in kernel.asm["ptx"] and "tf32" not in kernel.asm["ptx"]  # full float32
print("compiled")
"""


@linux
def test_kernel_passes_its_proof_in_the_interpreter():
    assert python(INTERPRETED, TRITON_INTERPRET="1") == "same"


@linux
def test_kernel_compiles_for_a_t4_and_an_h200(tmp_path):
    assert python(COMPILED, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0") == "compiled"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_both_cuda_paths_match_the_oracle(monkeypatch, tmp_path):
    monkeypatch.setenv("QKV_CACHE", str(tmp_path))
    prove_triton()
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for n, sizes in ((3, (64, 1, 63)), (54, (576, 192, 192)), (300, (65, 129, 2))):
            x = features(2, n, sum(sizes), dtype=dtype, seed=n)
            x[1, :, 0], x[1, :, -1] = 0, 3
            result = assert_matches_oracle(x.cuda(), sizes, kernels=("torch", "triton"))
            values = [getattr(result["cosine"]["QQ"], name) for name in (*STATISTICS, "edges")]
            assert all(value.device.type == "cuda" for value in values)
            assert_matrices_match_oracle(x[0].cuda())
    x = features(300, 300, offset=1.0)
    assert_matches_oracle((x + 1000 * x.std(dim=0)).cuda(), (100, 120, 80), kernels=("torch", "triton"))
    x = torch.randn(54, 4800, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    block_histograms(x, (1600, 1600, 1600))
    assert torch.cuda.max_memory_allocated() - before < 4800 * 4800 * x.element_size() / 3  # no matrix
