"""The survey: partial sums against the oracle, the same table through every path, and what is killed on the way."""

import csv
import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import tomllib
from functools import reduce
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import distributed
import numpy as np
import psutil
import pytest
import torch
import transformers
from filelock import FileLock
from pyarrow import parquet

from helpers import block_histograms, capture_qkv, control_positions, encode, find_token, load_model, set_language
from helpers.experiments.study import StudyError
from helpers.survey import tasks as survey_tasks
from helpers.survey.moments import merge, moments
from helpers.survey.run import main, survey
from helpers.survey.table import CONDITIONS, moment_histograms
from helpers.survey.tasks import Failure, Store, Task, code_version, run_task, target_token
from tests.support import oracle
from tests.support.histograms import MEASURES, assert_histogram_matches
from tests.support.tiny import word_tokenizer

ROOT, REFUSED = Path(__file__).resolve().parents[2], Path(__file__).with_name("refused.toml")
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
    bad = ["the cat runs", "her cat runs", "her cat sees her", " ".join(["cat"] * LONGEST + ["her"]), "x her runs"]
    loose = good[3].replace(" ", "\u00a0\u200b ")  # once more, with other spaces: no second sample
    (tmp_path / "all.txt").write_text("\ufeff" + "\n".join([*bad, *good, loose]), encoding="utf-8")
    for out, sentences in (("all", tmp_path / "all.txt"), ("good", good)):  # the first shard has nothing to give
        assert survey([tiny], ["her\u200b"], tmp_path / f"{out}.parquet", sentences=sentences, shard_size=5) == {}
    assert "1 duplicate(s) left out" in capsys.readouterr().err
    rows, expected = table(tmp_path / "all.parquet"), table(tmp_path / "good.parquet")
    assert set(rows.n_samples) == {10} and set(rows.n_skipped) == {5}
    assert rows.drop(columns="n_skipped").astype(str).equals(expected.drop(columns="n_skipped").astype(str))


def test_special_tokens_are_no_control_and_equal_beginnings_one_text(minilm, tiny, tmp_path):
    words = ["cold in the lake", "runs down the hill", "to drink"]
    sentences = [f"Water {end}." for end in words] + [f"She drank water {end}." for end in words]
    survey("minilm", "water", tmp_path / "t.parquet", sentences=sentences, layers=[1], shard_size=4)
    survey(tiny, "water", tmp_path / "u.parquet", sentences=[f"{a} water {b}" for a in WORDS[3:6] for b in WORDS[3:7]])
    found = [table(tmp_path / f"{name}.parquet").iloc[0] for name in "tu"]
    assert [(row.n_samples, row.n_skipped, row.n_distinct) for row in found] == [(3, 3, 3), (12, 0, 3)]


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
    with pytest.raises(ValueError, match="expected one token, got 3"):
        target_token(smollm2[1], "xylophonist")


@pytest.fixture
def cluster():
    """Two workers in threads of this process, reached as others are."""
    options = {"processes": False, "protocol": "tcp", "dashboard_address": None, "silence_logs": "CRITICAL"}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", **options) as cluster:
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


def test_killed_program_takes_its_workers_along_and_opens_no_port(tiny, tmp_path, capsys):
    out, file = tmp_path / "t.parquet", write_sentences(tmp_path / "s.txt", some_sentences(1200))
    options = ["--models", tiny, "--sentences", file, "--shard-size", "100", "--out", str(out)]
    command = [sys.executable, "-m", "helpers.survey", *options, "--workers", "1"]
    program = psutil.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while len(parts_of(out)) < 2:
        assert program.poll() is None, "the survey ended before it could be disturbed"
        time.sleep(0.005)
    program.suspend()
    workers = program.children(recursive=True)
    assert workers and not [c for process in (program, *workers) for c in process.net_connections("inet")]
    program.kill()
    assert not psutil.wait_procs([program, *workers], timeout=20)[1], "a worker outlives its survey"
    finished = {path: path.stat().st_mtime_ns for path in parts_of(out)}
    assert main(options) == 0 and counted(capsys) == [(len(finished), 12 - len(finished))] and len(finished) < 12
    assert {path: path.stat().st_mtime_ns for path in finished} == finished and len(parts_of(out)) == 12


def test_twenty_kills_at_random_moments_leave_the_same_table(tiny, tmp_path):
    out, rng, work = tmp_path / "t.parquet", random.Random(0), {"sentences": some_sentences(600), "shard_size": 10}
    survey([tiny], ["her"], tmp_path / "undisturbed.parquet", **work)
    before, moments_of_death = (tmp_path / "undisturbed.parquet").read_bytes(), set()
    fork = multiprocessing.get_context("fork").Process  # of this process, which has imported everything
    for _ in range(20):
        process, wanted = fork(target=survey, args=(tiny, "her", out), kwargs=work), len(parts_of(out))
        wanted += rng.randint(-1, 6)
        process.start()
        while process.is_alive() and len(parts_of(out)) < wanted:
            time.sleep(0.002)
        process.join(rng.uniform(0, 0.02))
        process.kill()
        process.join()
        moments_of_death.add(len(parts_of(out)))
        if out.exists():  # ended before it could be killed: most has to be done again
            assert out.read_bytes() == before
            for path in (out, *rng.sample(parts_of(out), 50)):
                path.unlink()
    assert len(moments_of_death) > 5
    survey([tiny], ["her"], out, **work)
    assert out.read_bytes() == before and not list(tmp_path.glob("**/*.tmp"))


def dies(task, language):
    """Stands for a worker that is killed once, and for those that the model "deadly" takes along."""
    first = Path(task.model).with_name("first")
    if "deadly" in task.model or not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return run_task(task, language)


def test_model_that_kills_its_workers_takes_no_other_along(tiny, grouped, tmp_path, monkeypatch, capsys):
    out, work = tmp_path / "t.parquet", {"sentences": some_sentences(60), "shard_size": 20}
    survey([tiny, grouped], ["her", "water"], tmp_path / "good.parquet", **work)
    monkeypatch.setattr("helpers.survey.workers.START", "fork")
    monkeypatch.setattr("helpers.survey.workers.run_task", dies)
    deadly = str(Path(tiny).with_name("deadly"))
    failed = survey([tiny, deadly, grouped], ["her", "water"], out, workers=2, **work)
    assert set(failed) == {(deadly, "her"), (deadly, "water")}
    assert all("every worker that ran it died" in message for message in failed.values())
    assert out.read_bytes() == (tmp_path / "good.parquet").read_bytes()
    assert counted(capsys) == [(0, 12), (0, 12)] and not multiprocessing.active_children()


def test_script_without_a_main_guard_is_told_so(tiny, tmp_path, monkeypatch):
    script, said, process = tmp_path / "mine.py", tmp_path / "said", multiprocessing.current_process()
    ask = f"open({str(said)!r}, 'a').write(f'{{multiprocessing.current_process()._inheriting}} ')"
    script.write_text(f"import multiprocessing\n{ask}\nraise SystemExit\n")  # as the call of `survey` does there
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=str(script), __spec__=None))
    for language, start in (("vi", "không khởi động được tiến trình nào"), ("en", "no process comes up")):
        set_language(language)
        with pytest.raises(StudyError, match=f'^{start}.*if __name__ == "__main__":'):
            survey(tiny, "her", tmp_path / "t.parquet", workers=1)
    assert said.read_text() == "True True "
    monkeypatch.setattr(process, "_inheriting", True, raising=False)
    with pytest.raises(SystemExit):
        survey(tiny, "her", tmp_path / "t.parquet")


def test_damaged_parts_are_computed_again(tiny, tmp_path, capsys, monkeypatch):
    out, work = tmp_path / "t.parquet", {"sentences": some_sentences(80), "shard_size": 20, "device": "cpu"}
    survey([tiny], ["her"], out, **work)
    before, parts = out.read_bytes(), parts_of(out)
    contents = [part.read_bytes() for part in parts]
    truncated, flipped = contents[1][:100], contents[2][:-20] + bytes([contents[2][-20] ^ 1]) + contents[2][-19:]
    for part, damaged in zip(parts[1:], (truncated, flipped, b""), strict=True):
        part.write_bytes(damaged)
    foreign = parts[0].with_name(f"{parts[0].stem.split('-')[0]}-{parts[1].stem.split('-')[1]}.safetensors")
    parts[0].rename(foreign).write_bytes(contents[1])  # whole, but of another task
    (out.parent / "t.parquet.parts" / "left.tmp").write_bytes(b"half")
    assert survey([tiny], ["her"], out, **work) == {}
    assert counted(capsys) == [(0, 4), (0, 4)]
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


def test_what_the_user_can_mend_is_said(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("helpers.survey.workers.CONNECT_SECONDS", 0.5)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "a.parquet.parts").write_text("")
    for folder in ("locked.parquet.parts", "folder", "b.parquet.errors.csv"):
        (tmp_path / folder).mkdir()
    with FileLock(tmp_path / "locked.parquet.parts" / "lock"):
        for options, message in tomllib.loads(REFUSED.read_text(encoding="utf-8"))["options"]:
            assert main(["--out", "t.parquet", "--models", tiny, "--language", "en", *options.split()]) == 2, options
            error = capsys.readouterr().err
            assert message in error and "Traceback" not in error, (options, error)
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["--out", "t.parquet", "--language", "en", "--scheduler", "tcp://127.0.0.1:1"]) == 2
    assert "pip install pyarrow dask distributed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["b.parquet"]


def test_disk_that_takes_no_more_is_said_and_nothing_half_is_used(tiny, tmp_path, monkeypatch):
    out, work, put = tmp_path / "t.parquet", {"sentences": some_sentences(40), "shard_size": 10}, Path.write_bytes
    for number, said in ((errno.ENOSPC, "đĩa đã đầy"), (errno.EROFS, "không có quyền đọc hoặc ghi")):

        def fails(path, content, number=number):
            put(path, content[:99])
            raise OSError(number, os.strerror(number), str(path))

        set_language("vi")
        monkeypatch.setattr(Path, "write_bytes", fails)
        with pytest.raises(StudyError, match=f"^không đọc hoặc ghi được .*{said}"):
            survey(tiny, "her", out, **work)
    monkeypatch.undo()
    assert not parts_of(out) and survey(tiny, "her", out, **work) == {}
    assert len(parts_of(out)) == 4 and not list(tmp_path.glob("**/*.tmp"))


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
