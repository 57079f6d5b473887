"""The pages with measurements: their tables are those of the stored numbers, and a GPU is never claimed unseen."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from tools import prove_gpu
from tools.benchmarks import hub, report
from tools.course import ROOT

GPU = yaml.safe_load("""
machine: {device: Made-up GPU 7, gib: 15.9, driver: "550.54", date: "2031-02-03", gflops: 8123.4, bandwidth: 301.6,
  python: 3.12.1, versions: {torch: 9.8.7}}
proof: null
oracle: {triton: {cases: 10, counts: 0, mean: 3.1e-8}}
shapes:
- {model: GPT-2 small, shape: [12, 54, 2304], bound: compute, limit_ms: 0.5,
  ms: {triton: 2.0, torch: 31.4}, mib: {triton: 12.5, torch: 250.0}}
tests: {passed: 24, failed: 1, skipped: 2}
""")


def test_the_pages_show_the_stored_measurements():
    for of, *on_gpu in ((report, report.read(report.GPU)), (hub,)):
        for language, path in of.PAGES.items():
            text = path.read_text(encoding="utf-8")
            assert of.page(text, report.read(of.RESULTS), language, *on_gpu) == text, f"python -m {of.__name__} write"


def test_what_a_gpu_gave_fills_its_section_and_nothing_else_does():
    for language, unseen, row in (
        ("en", "Not run on a GPU yet", "| 2 | 31.4 | 0.5 | product | 25% | 12.5 | 250 |"),
        ("vi", "Chưa chạy trên GPU nào", "| 2 | 31,4 | 0,5 | phép nhân | 25% | 12,5 | 250 |"),
    ):
        assert all(unseen in report.gpu(found, language) for found in (None, GPU | {"error": "out of memory"}))
        section = report.gpu(GPU, language)
        assert unseen not in section and f"| GPT-2 small | 12 x 54 x 2304 {row}" in section.splitlines()
        for said in ("Made-up GPU 7, 16 GiB, driver 550.54", "torch 9.8.7", "2031-02-03", "8123 GFlop/s", "302 GB/s"):
            assert said in section
        assert "24 " in section and "3e-08" in section and "`auto`" in section
        wrong = report.gpu(GPU | {"proof": "QQ counts differ"}, language)
        assert "QQ counts differ" in wrong and "`auto`" not in wrong


@pytest.mark.filterwarnings("ignore:overflow")
def test_prove_gpu_finds_right_and_wrong_numbers(monkeypatch):
    monkeypatch.setenv("QKV_KERNEL", "torch")
    monkeypatch.setattr(prove_gpu, "CASES", [(54, (64, 1, 63)), (300, (20, 9, 11))])
    right = prove_gpu.against_oracle("torch", "cpu")
    assert right["cases"] == 2 and right["counts"] == 0 and right["mean"] < prove_gpu.MOST_OFF
    compute = prove_gpu.compute
    monkeypatch.setattr(prove_gpu, "compute", lambda kernel, x, sizes: compute(kernel, x + 1e-3 * x[:1], sizes))
    wrong = prove_gpu.against_oracle("torch", "cpu")
    assert wrong["counts"] > 0 and wrong["mean"] > prove_gpu.MOST_OFF


def test_prove_gpu_measures_shapes_against_the_limit_of_the_device(monkeypatch):
    monkeypatch.setenv("QKV_KERNEL", "torch")
    assert min(prove_gpu.rates("cpu", size=256).values()) > 0
    row = prove_gpu.measure("toy", (2, 54, 30), {"gflops": 1.0, "bandwidth": 1e9}, "cpu")
    assert row["bound"] == "compute" and row["limit_ms"] == pytest.approx(2 * 54 * 30 * 29 / 1e6)
    assert set(row["ms"]) == {"triton", "torch"} and min(row["ms"].values()) > 0
    row = prove_gpu.measure("toy", (2, 54, 30), {"gflops": 1e9, "bandwidth": 1.0}, "cpu")
    assert row["bound"] == "memory" and row["limit_ms"] == pytest.approx(4 * 2 * 54 * 30 / 1e6)


def test_prove_gpu_counts_what_passed_and_what_failed(monkeypatch, tmp_path):
    (tmp_path / "test_toy.py").write_text(
        "import pytest\ndef test_cuda_a(): pass\ndef test_cuda_b(): assert 0\n"
        "@pytest.mark.skip\ndef test_c_on_cuda(): pass\ndef test_anywhere(): assert 0\n"
    )
    monkeypatch.setattr(prove_gpu, "TESTS", tmp_path / "test_toy.py")
    assert prove_gpu.run_tests() == {"passed": 1, "failed": 1, "skipped": 1}


def test_prove_gpu_tells_a_proof_from_what_is_none():
    proved = GPU | {"tests": {"passed": 24, "failed": 0, "skipped": 2}}
    assert prove_gpu.failures(proved) == []
    for wrong in (
        {"tests": {"passed": 0, "failed": 0, "skipped": 27}},
        {"tests": {"passed": 24, "failed": 1, "skipped": 2}},
        {"proof": "QQ counts differ"},
        {"oracle": {"triton": {"cases": 10, "counts": 1, "mean": 0.0}}},
        {"oracle": {"triton": {"cases": 10, "counts": 0, "mean": float("nan")}}},
    ):
        assert len(prove_gpu.failures(proved | wrong)) == 1, wrong


def test_prove_gpu_that_breaks_off_keeps_what_it_measured(monkeypatch, tmp_path, capsys):
    def out_of_memory(*_):
        raise RuntimeError("CUDA out of memory")

    stand_ins = {"describe": dict, "rates": lambda _: {"gflops": 3.0}, "run_tests": lambda: GPU["tests"]}
    stand_ins |= {"GPU": tmp_path / "gpu.json", "prove_triton": out_of_memory}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(prove_gpu, name, stand_in)
    monkeypatch.setattr(prove_gpu.torch.cuda, "is_available", lambda: True)
    assert prove_gpu.main() == 1
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert found["machine"] == {"gflops": 3.0} and found["tests"]["passed"] == 24
    assert "CUDA out of memory" in found["error"] and "CUDA out of memory" in capsys.readouterr().out


def test_prove_gpu_stops_with_one_sentence_on_a_bare_machine_without_cuda():
    missing = ("scipy", "platformdirs", "matplotlib", "ipywidgets", "gguf", "hypothesis", "psutil", "nbformat")
    hide = f"import sys; sys.modules |= dict.fromkeys({missing}); from tools.prove_gpu import main; sys.exit(main())"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", hide]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and len(run.stderr.splitlines()) == 1 and "no CUDA device" in run.stderr, run.stderr
