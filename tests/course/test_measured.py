"""The pages with measurements: their tables are those of the stored numbers, and a GPU is never claimed unseen."""

import os
import subprocess
import sys
from unittest.mock import Mock

import pytest
import yaml

from tools import models, prove_gpu
from tools.benchmarks import hub, report
from tools.course import ROOT

SAID = yaml.safe_load((ROOT / "tests" / "course" / "measured.yml").read_text(encoding="utf-8"))
GPU = SAID["gpu"]


@pytest.mark.parametrize("of", (report, hub, models), ids=lambda of: of.__name__)
def test_the_pages_show_the_stored_measurements_and_architectures(of):
    assert report.stale(of.PAGES, of.page) == {}, f"python -m {of.__name__} write"
    for path in models.PAGES.values():
        assert all(f"| `{kind}` |" in path.read_text(encoding="utf-8") for kind in models.ADAPTERS)


@pytest.mark.parametrize("language", ("en", "vi"))
def test_what_a_gpu_gave_fills_its_section_and_nothing_else_does(language):
    unseen, said = SAID["unseen"][language], SAID["said"][language]
    changed = {"error": "out of memory"}, {}, {"proof": "QQ counts differ"}
    none, right, wrong = (report.section("gpu", language, gpus=[GPU | change]) for change in changed)
    assert none == report.section("gpu", language, gpus=[]) and none.startswith(unseen)
    assert unseen not in right and [words for words in said if words not in right] == []
    assert "QQ counts differ" in wrong and "`auto`" not in wrong


@pytest.mark.filterwarnings("ignore:overflow")
def test_prove_gpu_finds_right_and_wrong_numbers(monkeypatch):
    monkeypatch.setattr(prove_gpu, "CASES", [(54, (64, 1, 63)), (300, (20, 9, 11))])
    right = prove_gpu.against_oracle("torch", "cpu")
    assert right["cases"] == 2 and right["counts"] == 0 and right["mean"] < prove_gpu.MOST_OFF
    compute = prove_gpu.block_histograms
    monkeypatch.setattr(prove_gpu, "block_histograms", lambda x, sizes: compute(x + 1e-3 * x[:1], sizes))
    wrong = prove_gpu.against_oracle("torch", "cpu")
    assert wrong["counts"] > 0 and wrong["mean"] > prove_gpu.MOST_OFF


def test_prove_gpu_measures_shapes_against_the_limit_of_the_device():
    assert min(report.rates("cpu", 256, copied=256).values()) > 0
    for slow, fast, limit in (("gflops", "bandwidth", 2 * 54 * 30 * 29), ("bandwidth", "gflops", 4 * 2 * 54 * 30)):
        row = prove_gpu.measure("toy", (2, 54, 30), {slow: 1.0, fast: 1e9}, "cpu")
        assert row["bound"] == {"gflops": "compute", "bandwidth": "memory"}[slow]
        assert row["limit_ms"] == pytest.approx(limit / 1e6)
        assert set(row["ms"]) == {"triton", "torch"} and min(row["ms"].values()) > 0


def test_prove_gpu_counts_what_passed_and_what_failed(monkeypatch, tmp_path):
    (tmp_path / "test_toy.py").write_text(
        "import pytest\ndef test_cuda_a(): pass\ndef test_cuda_b(): assert 0\ndef test_cuda_c(nothing): pass\n"
        "@pytest.mark.skip\ndef test_d_on_cuda(): pass\ndef test_anywhere(): assert 0\n"
    )
    monkeypatch.setattr(prove_gpu, "TESTS", tmp_path / "test_toy.py")
    assert prove_gpu.run_tests() == {"passed": 1, "failed": 2, "skipped": 1}


def test_prove_gpu_tells_a_proof_from_what_is_none():
    assert prove_gpu.failures(GPU) == []
    for wrong in SAID["no_proof"]:
        assert len(prove_gpu.failures(GPU | wrong)) == 1, wrong


def test_prove_gpu_that_breaks_off_keeps_what_it_measured(monkeypatch, tmp_path, capsys):
    gives = {"describe": {"device": "toy"}, "rates": {"gflops": 3.0}, "run_tests": GPU["tests"]}
    stand_ins = {name: Mock(return_value=value) for name, value in gives.items()} | {"GPU": tmp_path / "gpu.json"}
    stand_ins["prove_triton"] = Mock(side_effect=RuntimeError("CUDA out of memory"))
    report.store(tmp_path / "gpu.json", {"another card": GPU})
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(prove_gpu, name, stand_in)
    monkeypatch.setattr(prove_gpu.torch.cuda, "is_available", lambda: True)
    assert prove_gpu.main() == 1
    another, found = report.read(tmp_path / "gpu.json").values()
    assert another == GPU and found["machine"]["gflops"] == 3.0 and found["tests"]["passed"] == 24
    assert "CUDA out of memory" in found["error"] and "CUDA out of memory" in capsys.readouterr().out


def test_prove_gpu_stops_with_one_sentence_on_a_bare_machine_without_cuda():
    missing = ("scipy", "platformdirs", "matplotlib", "ipywidgets", "gguf", "hypothesis", "psutil", "nbformat")
    hide = f"import sys; sys.modules |= dict.fromkeys({missing}); from tools.prove_gpu import main; sys.exit(main())"
    command, environment = [sys.executable, "-c", hide], os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and len(run.stderr.splitlines()) == 1 and "no CUDA device" in run.stderr, run.stderr
