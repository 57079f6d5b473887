"""The survey: partial sums against the oracle, the same table through every path, and what is killed on the way."""

import csv
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import reduce
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import distributed
import numpy as np
import pytest
import torch
import transformers
from filelock import FileLock
from pyarrow import parquet

from helpers import block_histograms, capture_qkv, control_positions, encode, find_token, load_model, set_language
from helpers.survey import tasks as survey_tasks
from helpers.survey.moments import merge, moments
from helpers.survey.run import main, survey
from helpers.survey.table import CONDITIONS, moment_histograms
from helpers.survey.tasks import Failure, Store, Task, code_version, run_task, target_token
from tests.support import oracle
from tests.support.histograms import MEASURES, assert_histogram_matches
from tests.support.tiny import word_tokenizer

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("her", "water", "a", "the", "sees", "gives", "old", "new", "cat", "house", "and", "to", "stops", "runs")
LONGEST = 32
NUMBERS = ("counts", "n_pairs", "n_undefined", "mean", "std", "share_above")


@pytest.fixture(autouse=True)
def english():
    yield
    set_language("en")


def far_from_zero(n, F, dtype, ratio=1000):
    """[n, F] with |mean| / sd = `ratio` and common variation, so that the correlations are spread."""
    generator = torch.Generator().manual_seed(n)
    noise = torch.randn(n, F, generator=generator, dtype=torch.float64)
    x = noise + torch.randn(n, 1, generator=generator, dtype=torch.float64) * noise[0]
    x = x - x.mean(0)
    sign = torch.where(torch.arange(F) % 2 == 0, 1.0, -1.0)
    return (x / x.std(0) + ratio * sign).to(dtype)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_merging_in_any_order_keeps_the_correlation_to_nine_digits(dtype):
    x, rng = far_from_zero(3000, 40, dtype), random.Random(1)
    parts = [moments(part) for part in x.tensor_split(sorted(rng.sample(range(1, 3000), 59)))]
    in_turn = reduce(merge, parts)
    while len(parts) > 1:  # any two at a time
        rng.shuffle(parts)
        parts.append(merge(parts.pop(), parts.pop()))
    for total in (in_turn, *parts):
        norm = total.comoment.diagonal().sqrt()
        correlation = total.comoment / torch.outer(norm, norm)
        assert total.count == 3000
        np.testing.assert_allclose(total.mean, x.double().mean(0), rtol=1e-14)
        np.testing.assert_allclose(correlation, np.corrcoef(x.double().numpy(), rowvar=False), rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="NaN or infinite"):
        moments(torch.full((4, 3), torch.inf, dtype=dtype))


def test_histograms_out_of_merged_moments_match_the_oracle():
    x, sizes = far_from_zero(300, 45, torch.float32, ratio=2), (20, 11, 14)
    x[:, 3], x[:, 25], x[:, 26] = 0.1, 0.0, 1024.0
    x[::2, 26] *= 1 + torch.finfo(torch.float32).eps  # constant but for rounding
    total = reduce(merge, [moments(part) for part in x.split(17)])
    for measure, histograms in moment_histograms(total, sizes, bins=50, threshold=0.45).items():
        similarity = oracle.SIMILARITY[measure](x)
        for block in oracle.BLOCKS:
            assert_histogram_matches(histograms[block], oracle.block(similarity, sizes, block), 50, 0.45)


def write_model(folder, config):
    """A random model with weights far larger than a usual initialisation, and a tokenizer of whole words."""
    torch.manual_seed(len(folder.name))
    model = transformers.AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    word_tokenizer(("<unk>", *WORDS), eos_token="<unk>").save_pretrained(folder)
    return str(folder)


COMMON = {"vocab_size": 16, "bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": LONGEST}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A GPT-2 with 3 x 16 features and two layers."""
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, **COMMON)
    return write_model(tmp_path_factory.mktemp("tiny") / "gpt2", config)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """A Llama with 16 + 8 + 8 features."""
    width = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.LlamaConfig(**COMMON, **width, intermediate_size=24)
    return write_model(tmp_path_factory.mktemp("grouped") / "llama", config)


def some_sentences(n, target="her", seed=0):
    """`n` different random sentences with the target once, never first."""
    rng, others = random.Random(seed), [word for word in WORDS if word != target]
    sentences = {}
    while len(sentences) < n:
        words = rng.choices(others, k=rng.randint(4, 12))
        words.insert(rng.randint(1, len(words)), target)
        sentences[" ".join(words)] = None
    return list(sentences)


def write_sentences(path, sentences):
    path.write_text("# a comment\n\n" + "\n".join(sentences) + "\n", encoding="utf-8")
    return str(path)


def parts_of(out):
    return sorted(Path(f"{out}.parts").glob("*.safetensors"))


def table(out):
    return parquet.read_table(out).to_pandas()


def select(rows, **wanted):
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    return rows


def counted(capsys):
    """(from before, computed) of each survey since the last call."""
    lines = [line.split() for line in capsys.readouterr().err.splitlines() if "from before" in line]
    return [(int(line[-7]), int(line[-4])) for line in lines]


def rows_of_parts(out, condition, layer):
    """All captured vectors `[sample, F]` of parts that are few enough to hold them."""
    store = Store(f"{out}.parts")
    store.find({path.stem.split("-")[0] for path in parts_of(out)})
    return torch.cat([store.partial(key, condition, layer) for key in sorted(store.files)])


@pytest.mark.parametrize("n", (30, 90), ids=("rows", "moments"))
def test_table_matches_the_oracle_on_the_captured_vectors(grouped, tmp_path, n):
    out, sizes, sentences = tmp_path / "t.parquet", (16, 8, 8), some_sentences(n)
    assert survey([grouped], [" her"], out, sentences=sentences, shard_size=30) == {}
    rows = table(out)
    assert set(rows.n_samples) == {n} and set(rows.n_skipped) == {0}
    model, tokenizer = load_model(grouped, device="cpu")
    batch = encode(tokenizer, sentences)
    at = find_token(batch, target_token(tokenizer, "her"))
    for condition, positions in {"target": at, "control": control_positions(batch, at)}.items():
        captured = capture_qkv(model, batch, positions=positions).joined().double()
        for layer in (0, 1):
            x = rows_of_parts(out, condition, layer)
            apart = torch.cdist(x.double(), captured[layer])  # the shards come in any order
            assert x.shape == (n, 32) and max(apart.amin(0).max(), apart.amin(1).max()) < 1e-3
            for measure, block in product(MEASURES, oracle.BLOCKS):
                (row,) = select(rows, layer=layer, condition=condition, measure=measure, block=block).itertuples()
                histogram = SimpleNamespace(**{name: torch.as_tensor(getattr(row, name)).double() for name in NUMBERS})
                values = oracle.block(oracle.SIMILARITY[measure](x), sizes, block)
                assert_histogram_matches(histogram, values, 100, 0.9)


def test_shuffles_are_baselines_and_end_where_samples_outnumber_features(tiny, tmp_path):
    out = tmp_path / "t.parquet"
    survey([tiny], ["her"], out, sentences=some_sentences(48))
    rows = select(table(out), layer=1, block="QQ")
    cosine, correlation = (select(rows, measure=m).set_index("condition") for m in ("cosine", "correlation"))
    assert set(rows.condition) == set(CONDITIONS)
    assert (correlation["std"] / correlation.null_std)[["entries_shuffled", "within_shuffled"]].between(0.7, 1.3).all()
    assert correlation["std"]["target"] > 2 * correlation.null_std["target"]
    assert abs(cosine["std"]["within_shuffled"] - cosine["std"]["target"]) < 0.15  # the means are still there
    survey([tiny], ["her"], out, sentences=some_sentences(49))
    assert set(table(out).condition) == {"target", "control"}


def test_sentences_that_cannot_be_used_are_skipped_and_counted(tiny, tmp_path, capsys):
    good = some_sentences(10)
    bad = ["the cat runs", "her cat runs", "her cat sees her", " ".join(["cat"] * LONGEST + ["her"]), "a other"]
    loose = good[3].replace(" ", "  ")  # once more, with other spaces: no second sample
    for out, sentences in (("all", [*bad, *good, loose]), ("good", good)):  # the first shard has nothing to give
        assert survey([tiny], ["her"], tmp_path / f"{out}.parquet", sentences=sentences, shard_size=5) == {}
    assert "1 duplicate(s) left out" in capsys.readouterr().err
    rows, expected = table(tmp_path / "all.parquet"), table(tmp_path / "good.parquet")
    assert set(rows.n_samples) == {10} and set(rows.n_skipped) == {5}
    assert rows.drop(columns="n_skipped").astype(str).equals(expected.drop(columns="n_skipped").astype(str))


def test_smollm2_gives_the_histograms_of_the_notebooks(smollm2, her_qkv, tmp_path):
    out = tmp_path / "t.parquet"
    assert main(["--layers", "0", "5", "--device", "cpu", "--out", str(out)]) == 0
    rows = select(table(out), condition="target")
    for layer in (0, 5):
        direct = block_histograms(her_qkv.joined()[layer], her_qkv.sizes)
        for row in select(rows, layer=layer).itertuples():
            histogram = direct[row.measure][row.block]
            assert row.n_pairs == int(histogram.n_pairs) and row.n_undefined == int(histogram.n_undefined)
            np.testing.assert_allclose(row.mean, float(histogram.mean), rtol=0, atol=1e-4)
            moved = np.abs(np.cumsum(row.counts) - histogram.counts.cumsum(0).numpy()).max()
            assert moved <= 1e-3 * row.n_pairs  # padding differs, by rounding
    assert set(rows.n_samples) == {54} and rows.provenance.str.startswith("SmolLM2").all()
    assert target_token(smollm2[1], "her") == 874
    for word in ("xylophonist", "icks"):  # " icks" is two tokens, "icks" inside words is one
        with pytest.raises(ValueError, match="expected one token, got"):
            target_token(smollm2[1], word)


@pytest.fixture(scope="module")
def cluster():
    options = {"dashboard_address": "127.0.0.1:0", "silence_logs": "CRITICAL"}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        cluster.client = client
        yield cluster


def test_tables_are_the_same_bit_for_bit_whatever_fails(tiny, grouped, cluster, tmp_path, monkeypatch, capsys):
    """Here, here with failures, and on a cluster of two in Vietnamese."""
    loaded, broken = [], tmp_path / "broken"
    monkeypatch.setattr(survey_tasks, "load_model", lambda name, **to: loaded.append(name) or load_model(name, **to))
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    file = write_sentences(tmp_path / "s.txt", some_sentences(100) + some_sentences(100, "water", seed=1))
    outs = good, here, there = [tmp_path / f"{name}.parquet" for name in ("good", "here", "there")]
    options = ["--sentences", file, "--shard-size", "50", "--layers", "1", "-1", "--targets", "her", "water", "her"]
    assert main(["--models", tiny, grouped, *options, "--out", str(good)]) == 0
    failing = ["--models", tiny, str(broken), grouped, *options, "nowhere", "--out"]
    assert main([*failing, str(here)]) == 1
    assert loaded.count(str(broken)) <= 2  # not once for each of its tasks
    with Path(f"{here}.errors.csv").open(encoding="utf-8", newline="") as errors:
        rows = {(row["model"], row["target"]): row["error"] for row in csv.DictReader(errors)}
    assert set(rows) == {*product([str(broken)], ("her", "water", "nowhere")), *product((tiny, grouped), ["nowhere"])}
    for (model, _), error in rows.items():
        assert ("tokenizer_config.json is missing" if model == str(broken) else "does not know the word") in error
    assert capsys.readouterr().err.count("failed: ") == len(rows)
    assert main([*failing, str(there), "--language", "vi", "--scheduler", cluster.scheduler_address]) == 1
    said = capsys.readouterr().err
    assert "bộ tách token không biết từ 'nowhere'" in said and "không có bộ tách token" in said
    assert good.read_bytes() == here.read_bytes() == there.read_bytes()  # the provenance too, which seeds the shuffles
    names = [{path.name for path in parts_of(out)} for out in outs]  # with the hash of the content
    assert names[0] == names[1] == names[2] and len(names[0]) == 16
    columns = ["model", "target", "layer", "condition", "block", "measure"]  # two conditions: n > F
    wanted = product((tiny, grouped), ("her", "water"), (1,), CONDITIONS[:2], oracle.BLOCKS, MEASURES)
    assert list(table(good)[columns].itertuples(index=False, name=None)) == list(wanted)
    assert set(parquet.read_schema(good).metadata) >= {b"torch", b"transformers", b"code"}
    assert os.uname().nodename.encode() not in good.read_bytes()


def test_killed_program_and_worker_repeat_only_what_is_unfinished(tiny, cluster, tmp_path, capsys):
    """A program with two processes of its own is killed with them; the one that goes on loses a worker."""
    undisturbed, out, failed = tmp_path / "undisturbed.parquet", tmp_path / "t.parquet", []
    work = {"sentences": some_sentences(6 * 1000), "shard_size": 1000}  # six tasks, each long enough to be killed
    file = write_sentences(tmp_path / "s.txt", work["sentences"])
    assert survey([tiny], ["her"], undisturbed, **work) == {}
    options = ["--models", tiny, "--sentences", file, "--shard-size", "1000", "--workers", "2", "--out", str(out)]
    command = [sys.executable, "-m", "helpers.survey", *options]
    program = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    while len(parts_of(out)) < 2:
        assert program.poll() is None, "the survey ended before it could be disturbed"
        time.sleep(0.005)
    os.killpg(program.pid, signal.SIGKILL)
    program.wait()
    finished = {path: path.stat().st_mtime_ns for path in parts_of(out)}
    assert 2 <= len(finished) < 6 and not out.exists()

    pids, where = cluster.client.run(os.getpid), {"scheduler": cluster.scheduler_address}
    thread = threading.Thread(target=lambda: failed.append(survey([tiny], ["her"], out, **where, **work)))
    thread.start()
    while not (busy := [address for address, keys in cluster.client.processing().items() if keys]):
        assert thread.is_alive(), "the survey ended before it could be disturbed"
    os.kill(pids[busy[0]], signal.SIGKILL)
    assert len(parts_of(out)) < 6
    thread.join()
    assert busy[0] not in cluster.client.run(os.getpid), "the worker was not killed"
    assert failed == [{}] and counted(capsys) == [(0, 6), (len(finished), 6 - len(finished))]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished and len(parts_of(out)) == 6
    assert out.read_bytes() == undisturbed.read_bytes()


MET = []


def dies(task, language):
    """Stands for workers that die of the model "deadly", and take the first task of all along."""
    MET.append(task.model)
    if task.model == "deadly" or len(MET) == 1:
        raise distributed.KilledWorker("key", SimpleNamespace(address="here"), 3)
    return run_task(task, language)


def test_model_that_kills_its_workers_takes_no_other_along(tiny, grouped, tmp_path, monkeypatch):
    """With real workers it takes minutes: four restarts, twice."""
    out, work = tmp_path / "t.parquet", {"sentences": some_sentences(60), "shard_size": 20}
    survey([tiny, grouped], ["her", "water"], tmp_path / "good.parquet", **work)
    monkeypatch.setattr("helpers.survey.run.run_task", dies)
    failed = survey([tiny, "deadly", grouped], ["her", "water"], out, **work)
    assert MET.count("deadly") <= 4 and MET.count(tiny) == 7  # six tasks, one of them twice
    assert set(failed) == {("deadly", "her"), ("deadly", "water")}
    assert all("every worker that ran it died" in message for message in failed.values())
    assert out.read_bytes() == (tmp_path / "good.parquet").read_bytes()


def test_damaged_parts_are_computed_again(tiny, tmp_path, capsys, monkeypatch):
    out, work = tmp_path / "t.parquet", {"sentences": some_sentences(80), "shard_size": 20, "device": "cpu"}
    survey([tiny], ["her"], out, **work)
    before, parts = out.read_bytes(), parts_of(out)
    contents = [part.read_bytes() for part in parts]
    truncated, flipped = contents[1][:100], contents[2][:-20] + bytes([contents[2][-20] ^ 1]) + contents[2][-19:]
    for part, damaged in zip(parts[1:], (truncated, flipped, b""), strict=True):
        part.write_bytes(damaged)
    (out.parent / "t.parquet.parts" / "left.tmp").write_bytes(b"half")
    assert survey([tiny], ["her"], out, **work) == {}
    assert counted(capsys) == [(0, 4), (1, 3)]
    assert [part.read_bytes() for part in parts] == contents and out.read_bytes() == before
    assert not list(out.parent.glob("*.parts/*.tmp"))
    parts[0].unlink()  # and what comes under this name now is another model: its sums are not added
    another = load_model(tiny, device="cpu")
    another[0].provenance = "another"
    monkeypatch.setattr(survey_tasks, "_loaded", {(tiny, "cpu"): another})
    assert "several models or versions came under one name" in survey([tiny], ["her"], out, **work)[tiny, "her"]
    assert len(table(out)) == 0


def test_what_the_result_depends_on_is_not_taken_from_before(tiny, tmp_path, capsys, monkeypatch):
    out, file, sentences = tmp_path / "t.parquet", tmp_path / "s.txt", some_sentences(60)
    for changed in ({}, {"layers": (1,)}, {"sentences": [*sentences[:-1], "the cat sees her"]}, {}):
        write_sentences(file, changed.get("sentences", sentences))
        survey([tiny], ["her"], out, sentences=file, layers=changed.get("layers"), shard_size=20)
    os.utime(Path(tiny) / "model.safetensors")
    survey([tiny], ["her"], out, sentences=file, shard_size=20)
    monkeypatch.setattr("helpers.survey.run.code_version", lambda: "another")
    survey([tiny], ["her"], out, sentences=file, shard_size=20)
    assert counted(capsys) == [(0, 3), (0, 3), (2, 1), (3, 0), (0, 3), (0, 3)]
    monkeypatch.undo()
    read, before, helpers = Path.read_text, code_version(), ROOT / "helpers"
    for changed in (helpers / "capture.py", helpers / "wheels" / "__init__.py", helpers / "survey" / "tasks.py"):
        monkeypatch.setattr(Path, "read_text", lambda path, *a, c=changed, **k: read(path, *a, **k) + "#" * (path == c))
        assert code_version() != before, f"{changed.name} is not among the sources"


REFUSED = (
    ("--targets xyzzy", "the module has sentences for her, water, none for xyzzy: give --sentences FILE"),
    ("--shard-size 0", "--shard-size: expected at least 1, got 0"),
    ("--workers 0", "--workers: expected at least 1, got 0"),
    ("--sentences missing.txt", "'missing.txt' cannot be read"),
    ("--sentences missing.txt --language vi", "Không đọc được tệp 'missing.txt'"),
    ("--sentences empty.txt", "only 0 different sentences"),
    ("--out no/such/folder.parquet", "expected a file in an existing folder"),
    ("--out locked.parquet", "another survey writes to"),
    ("--scheduler tcp://127.0.0.1:1", "no Dask scheduler answers at tcp://127.0.0.1:1"),
)


def test_what_the_user_can_mend_is_said(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("helpers.survey.run.CONNECT_SECONDS", 0.5)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "locked.parquet.parts").mkdir()
    with FileLock(tmp_path / "locked.parquet.parts" / "lock"):
        for options, message in REFUSED:
            assert main(["--out", "t.parquet", "--models", tiny, "--language", "en", *options.split()]) == 2, options
            error = capsys.readouterr().err
            assert message in error and "Traceback" not in error, (options, error)
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["--out", "t.parquet", "--language", "en"]) == 2
    assert "pip install dask distributed pyarrow" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.parquet"))


def test_task_runs_in_one_thread_and_leaves_the_number_as_it_was(monkeypatch):
    seen, before = [], torch.get_num_threads()
    monkeypatch.setattr(survey_tasks, "load_model", lambda *name, **to: seen.append(torch.get_num_threads()) or 1 / 0)
    torch.set_num_threads(2)
    try:
        failure = run_task(Task("nothing", "her", ("the cat sees her",), None, "cpu", "key"))
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert failure == Failure("ZeroDivisionError: division by zero", whole_model=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_gpu_worker_uses_its_gpu(tiny, tmp_path):
    torch.cuda.reset_peak_memory_stats()
    before, outs = torch.cuda.memory_allocated(), (tmp_path / "gpu.parquet", tmp_path / "cpu.parquet")
    assert survey([tiny], ["her"], outs[0], sentences=some_sentences(40)) == {}
    assert torch.cuda.max_memory_allocated() > before
    assert survey([tiny], ["her"], outs[1], sentences=some_sentences(40), device="cpu") == {}
    on_gpu, on_cpu = (table(out)["mean"] for out in outs)
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=0, atol=1e-4)
