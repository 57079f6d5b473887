"""The survey: partial sums against the oracle, the same table through every path, and what is killed on the way."""

import errno
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
import tomllib
from functools import partial, reduce
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import distributed
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from filelock import FileLock
from pyarrow import parquet
from tqdm.std import TRLock, tqdm

from helpers import block_histograms, capture_qkv, control_positions, encode, find_token, load_model
from helpers.experiments.study import StudyError
from helpers.survey import tasks as survey_tasks
from helpers.survey.moments import merge, moments
from helpers.survey.run import main, survey
from helpers.survey.table import moment_histograms
from helpers.survey.tasks import Task, code_version, run_task, target_token
from tests.support import oracle
from tests.support.histograms import MEASURES, STATISTICS, assert_histogram_matches, features
from tests.support.tiny import language_model, word_tokenizer

ROOT = Path(__file__).resolve().parents[2]
REFUSED = tomllib.loads(Path(__file__).with_name("refused.toml").read_text(encoding="utf-8"))
WORDS = ("a", "the", "sees", "gives", "old", "new", "cat", "house", "and", "to", "stops", "runs")


def saved(folder, family):
    """A random model, and a tokenizer of whole words."""
    language_model(family).save_pretrained(folder)
    word_tokenizer(("<unk>", "her", "water", *WORDS), eos_token="<unk>").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A GPT-2 with 3 x 32 features."""
    return saved(tmp_path_factory.mktemp("gpt2"), "gpt2")


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """A Llama with 32 + 16 + 16 features."""
    return saved(tmp_path_factory.mktemp("llama"), "llama")


def some_sentences(n, target="her", seed=0):
    """`n` different random sentences with the target once, never first."""
    draw = random.Random(seed)
    words = [[draw.choices(WORDS, k=draw.randint(1, 6)) for _ in "ab"] for _ in range(2 * n)]
    return list(dict.fromkeys(" ".join([*before, target, *after]) for before, after in words))[:n]


def parts_of(out):
    return sorted(Path(f"{out}.parts").glob("*.safetensors"))


def counted(capsys):
    """(from before, computed) of each survey since the last call."""
    said = re.findall(r"(\d+) from before, (\d+) computed", capsys.readouterr().err)
    return [(int(before), int(computed)) for before, computed in said]


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_merging_in_any_order_keeps_the_correlation_to_nine_digits(dtype):
    x, rng = features(3000, 40, dtype=torch.float64, offset=0), random.Random(1)
    x = (x + 1000 * x.std(dim=0)).to(dtype)
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
    x, sizes = features(300, 45, offset=2), (20, 11, 14)
    x[:, 3], x[:, 25], x[:, 26] = 0.1, 0.0, 1024.0
    x[::2, 26] *= 1 + torch.finfo(torch.float32).eps  # constant but for rounding
    total = reduce(merge, [moments(part) for part in x.split(17)])
    for measure, histograms in moment_histograms(total, sizes, bins=50, threshold=0.45).items():
        similarity = oracle.SIMILARITY[measure](x)
        for block in oracle.BLOCKS:
            assert_histogram_matches(histograms[block], oracle.block(similarity, sizes, block), 50, 0.45)


@pytest.mark.parametrize(("n", "shard_size"), ((64, 40), (65, 40), (200, 110)))  # rows; moments; of each shard too
def test_table_matches_the_oracle_and_has_shuffles_as_baselines(grouped, tmp_path, monkeypatch, n, shard_size):
    exact, loaded = partial(load_model, dtype="float64"), {}  # so that padding makes no difference
    monkeypatch.setattr(survey_tasks, "load_model", exact)
    monkeypatch.setattr(survey_tasks, "_loaded", loaded)
    out, sizes, sentences = tmp_path / "t.parquet", (32, 16, 16), some_sentences(n)
    assert survey([grouped], [" her"], out, sentences=sentences, shard_size=shard_size) == {}
    rows = pd.read_parquet(out).set_index(["layer", "condition", "measure", "block"])
    assert set(rows.n_samples) == {n} and set(rows.n_skipped) == {0}
    shuffled = ["entries_shuffled", "within_shuffled"] if n <= 64 else []  # no more samples than features
    assert list(rows.index.unique("condition")) == ["target", "control", *shuffled]
    cosine, correlation = (rows.xs((2, m, "QQ"), level=("layer", "measure", "block")) for m in MEASURES)
    ratio = correlation["std"] / correlation.null_std
    assert ratio["target"] > 2 and ratio[shuffled].between(0.7, 1.3).all()
    assert (cosine["std"][shuffled[1:]] - cosine["std"]["target"]).abs().lt(0.15).all()  # the means are still there
    (model, tokenizer), *_ = loaded.values()
    assert model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")  # a GPU is used where there is one
    batch = encode(tokenizer, sentences)
    at = find_token(batch, target_token(tokenizer, "her"))
    for condition, positions in {"target": at, "control": control_positions(batch, at)}.items():
        captured = capture_qkv(model, batch, positions=positions).joined().cpu()
        for layer, measure, block in product((1, 2), MEASURES, oracle.BLOCKS):  # V is constant in layer 0
            row = rows.loc[layer, condition, measure, block]
            histogram = SimpleNamespace(**{name: torch.tensor(row[name]).double() for name in STATISTICS})
            values = oracle.block(oracle.SIMILARITY[measure](captured[layer]), sizes, block)
            assert_histogram_matches(histogram, values, 100, 0.9)


def test_sentences_that_cannot_be_used_are_skipped_and_counted(tiny, tmp_path, capsys):
    good = [f"{start} her {end}" for start in ("the cat sees", "to") for end in WORDS[:5]]
    bad = ["the cat runs", "her cat runs", "her cat sees her", " ".join(["cat"] * 1024 + ["her"]), "x her runs"]
    loose = good[3].replace(" ", "\u00a0\u200b ")  # once more, with other spaces: no second sample
    (tmp_path / "all.txt").write_text("\ufeff" + "\n".join([*bad, *good, loose]), encoding="utf-8")
    for out, sentences in (("all", tmp_path / "all.txt"), ("good", good)):  # the first shard has nothing to give
        assert survey([tiny], ["her\u200b"], tmp_path / f"{out}.parquet", sentences=sentences, shard_size=5) == {}
    assert "1 duplicate(s) left out" in capsys.readouterr().err
    rows, expected = (pd.read_parquet(tmp_path / f"{out}.parquet") for out in ("all", "good"))
    assert set(zip(rows.n_samples, rows.n_skipped, rows.n_distinct, strict=True)) == {(10, 5, 2)}
    assert rows.drop(columns="n_skipped").astype(str).equals(expected.drop(columns="n_skipped").astype(str))


def test_special_tokens_are_no_control_and_an_encoder_sees_whole_texts(minilm, tmp_path):
    words = ["cold in the lake", "runs down the hill", "to drink"]
    sentences = [f"Water {end}." for end in words] + [f"She drank water {end}." for end in words]
    survey("minilm", "water", tmp_path / "t.parquet", sentences=sentences, layers=[1], shard_size=4)
    row = pd.read_parquet(tmp_path / "t.parquet").iloc[0]
    assert (row.n_samples, row.n_skipped, row.n_distinct) == (3, 3, 3)


def test_smollm2_gives_the_histograms_of_the_notebooks(smollm2, her_qkv, tmp_path):
    out = tmp_path / "t.parquet"
    assert main(["--layers", "0", "5", "--out", str(out)]) == 0
    rows = pd.read_parquet(out).query("condition == 'target'")
    assert set(rows.n_samples) == {54} and rows.provenance.str.startswith("SmolLM2").all()
    rows = rows.set_index(["layer", "measure", "block"])
    for layer, measure in product((0, 5), MEASURES):
        for block, histogram in block_histograms(her_qkv.joined()[layer], her_qkv.sizes)[measure].blocks.items():
            row = rows.loc[layer, measure, block]
            assert (row.n_pairs, row.n_undefined) == (int(histogram.n_pairs), int(histogram.n_undefined))
            np.testing.assert_allclose(row["mean"], float(histogram.mean), rtol=0, atol=1e-4)
            moved = np.abs(np.cumsum(row.counts) - histogram.counts.cumsum(0).numpy()).max()
            assert moved <= 1e-3 * row.n_pairs  # padding differs, by rounding
    with pytest.raises(ValueError, match="expected one token, got 3"):
        target_token(smollm2[1], "xylophonist")


def test_tables_are_the_same_bit_for_bit_whatever_fails(tiny, grouped, tmp_path, monkeypatch, capsys):
    """Here, on a cluster of two (threads of this process) with failures in Vietnamese, and here with failures."""
    loaded, broken, file = [], tmp_path / "broken", tmp_path / "s.txt"
    monkeypatch.setattr(survey_tasks, "load_model", lambda name, **to: loaded.append(name) or load_model(name, **to))
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    file.write_text("\n".join(["# a comment", "", *some_sentences(100), *some_sentences(100, "water")]))
    outs = good, here, there = [tmp_path / f"{name}.parquet" for name in ("good", "here", "there")]
    options = f"--sentences {file} --device cpu --shard-size 50 --layers 2 -1 --targets her water her".split()
    assert main(["--models", tiny, grouped, *options, "--out", str(good)]) == 0
    failing = ["--models", tiny, str(broken), grouped, *options, "nowhere", "--out"]
    network = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": None, "silence_logs": "CRITICAL"}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, **network) as cluster:
        assert main([*failing, str(there), "--language", "vi", "--scheduler", cluster.scheduler_address]) == 1
    said, before = capsys.readouterr().err, loaded.count(str(broken))
    assert "bộ tách token không biết từ 'nowhere'" in said and "không có bộ tách token" in said
    assert main([*failing, str(here), "--language", "en"]) == 1
    assert loaded.count(str(broken)) == before + 1  # not once for each of its tasks
    errors = pd.read_csv(f"{here}.errors.csv", index_col=["model", "target"]).error
    never = [(str(broken), word) for word in ("her", "water", "nowhere")]
    assert set(errors.index) == {*never, (tiny, "nowhere"), (grouped, "nowhere")}
    for (model, _), error in errors.items():
        assert ("tokenizer_config.json is missing" if model == str(broken) else "does not know the word") in error
    assert capsys.readouterr().err.count("failed: ") == len(errors)
    assert good.read_bytes() == here.read_bytes() == there.read_bytes()  # the provenance too, which seeds the shuffles
    names = [{path.name for path in parts_of(out)} for out in outs]  # with the hash of the content
    assert names[0] == names[1] == names[2] and len(names[0]) == 16
    columns = ["model", "target", "layer", "condition", "block", "measure"]  # two conditions: n > F
    wanted = product((tiny, grouped), ("her", "water"), (2,), ("target", "control"), oracle.BLOCKS, MEASURES)
    assert list(pd.read_parquet(good)[columns].itertuples(index=False, name=None)) == list(wanted)
    assert set(parquet.read_schema(good).metadata) >= {b"torch", b"transformers", b"code"}
    assert os.uname().nodename.encode() not in good.read_bytes()


def test_killed_program_takes_its_workers_along_and_opens_no_port(tiny, tmp_path):
    out, file = tmp_path / "t.parquet", tmp_path / "s.txt"
    file.write_text("\n".join(some_sentences(600)))
    options = ["--models", tiny, "--sentences", file, "--shard-size", "10", "--out", out, "--workers", "1"]
    program = psutil.Popen([sys.executable, "-m", "helpers.survey", *options], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not parts_of(out):
        assert program.poll() is None, "the survey ended before it could be disturbed"
        time.sleep(0.005)
    program.suspend()
    workers = program.children(recursive=True)
    assert workers and not [c for process in (program, *workers) for c in process.net_connections("inet")]
    program.kill()
    assert not psutil.wait_procs([program, *workers], timeout=20)[1], "a worker outlives its survey"


def test_twenty_kills_at_random_moments_leave_the_same_table(tiny, tmp_path, monkeypatch):
    out, rng, work = tmp_path / "t.parquet", random.Random(0), {"sentences": some_sentences(600), "shard_size": 10}
    survey(tiny, "her", tmp_path / "undisturbed.parquet", **work)
    before, moments_of_death = (tmp_path / "undisturbed.parquet").read_bytes(), set()
    fork = multiprocessing.get_context("fork").Process  # of this process, which has imported everything
    monkeypatch.setattr(tqdm, "_lock", TRLock(), raising=False)  # its own is shared with who is killed
    for _ in range(20):
        process = fork(target=survey, args=(tiny, "her", out), kwargs=work)
        wanted = len(parts_of(out)) + rng.randint(-1, 6)
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
    survey(tiny, "her", out, **work)
    assert out.read_bytes() == before and not list(tmp_path.glob("**/*.tmp"))


def dies(task, language):
    """Stands for a worker that is killed once, and for those that the model "deadly" takes along."""
    first = Path(task.model).with_name("first")
    if "deadly" in task.model or not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3 * (task.target == "water"))  # so that one is running when those begin to die
    return run_task(task, language)


def test_model_that_kills_its_workers_takes_no_other_along(tiny, grouped, tmp_path, monkeypatch, capsys):
    sentences = some_sentences(30) + some_sentences(30, "water")
    out, work = tmp_path / "t.parquet", {"sentences": sentences, "shard_size": 20}
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
    script, said = tmp_path / "mine.py", tmp_path / "said"
    ask = f"open({str(said)!r}, 'a').write(f'{{multiprocessing.current_process()._inheriting}}')"
    script.write_text(f"import multiprocessing\n{ask}\nraise SystemExit\n")  # as the call of `survey` does there
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=str(script), __spec__=None))
    with pytest.raises(StudyError, match='^no process comes up.*if __name__ == "__main__":'):
        survey(tiny, "her", tmp_path / "t.parquet", workers=1)
    assert said.read_text() == "True"
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(SystemExit):
        survey(tiny, "her", tmp_path / "t.parquet")


def test_damaged_parts_are_computed_again(tiny, tmp_path, capsys, monkeypatch):
    out, work = tmp_path / "t.parquet", {"sentences": some_sentences(80), "shard_size": 20}
    survey(tiny, "her", out, **work)
    before, parts = out.read_bytes(), parts_of(out)
    contents = [part.read_bytes() for part in parts]
    flipped = contents[2][:-20] + bytes([contents[2][-20] ^ 1]) + contents[2][-19:]
    for part, damaged in zip(parts[1:], (contents[1][:100], flipped, b""), strict=True):
        part.write_bytes(damaged)
    foreign = parts[0].with_name(f"{parts[0].stem.split('-')[0]}-{parts[1].stem.split('-')[1]}.safetensors")
    parts[0].rename(foreign).write_bytes(contents[1])  # whole, but of another task
    assert survey(tiny, "her", out, **work) == {}
    assert counted(capsys) == [(0, 4), (0, 4)]
    assert [part.read_bytes() for part in parts] == contents and out.read_bytes() == before
    parts[0].unlink()  # and what comes under this name now is of another version: its sums are not added
    monkeypatch.setattr(survey_tasks, "code_version", lambda: "another")
    assert "several models or versions came under one name" in survey(tiny, "her", out, **work)[tiny, "her"]
    assert len(pd.read_parquet(out)) == 0


def test_what_the_result_depends_on_is_not_taken_from_before(tiny, tmp_path, capsys, monkeypatch):
    file, sentences, changed = tmp_path / "s.txt", some_sentences(60), [*some_sentences(59), "the cat sees her"]
    again = partial(survey, tiny, "her", tmp_path / "t.parquet", sentences=file, shard_size=20)
    for used, layers in ((sentences, None), (sentences, [1]), (changed, None), (sentences, None)):
        file.write_text("\n".join(used))
        again(layers=layers)
    os.utime(Path(tiny) / "model.safetensors")
    again()
    monkeypatch.setattr("helpers.survey.run.code_version", lambda: "another")
    again()
    assert counted(capsys) == [(0, 3), (0, 3), (2, 1), (3, 0), (0, 3), (0, 3)]
    monkeypatch.undo()
    read, before, sources = Path.read_text, code_version(), ("capture.py", "data/wheels.toml", "survey/tasks.py")
    for source in (ROOT / "helpers" / name for name in sources):
        monkeypatch.setattr(Path, "read_text", lambda path, *a, c=source, **k: read(path, *a, **k) + "#" * (path == c))
        assert code_version() != before, f"{source} is not among the sources"


def test_what_the_user_can_mend_is_said(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("helpers.survey.workers.CONNECT_SECONDS", 0.5)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "a.parquet.parts").write_text("")
    for folder in ("locked.parquet.parts", "folder", "b.parquet.errors.csv"):
        (tmp_path / folder).mkdir()
    with FileLock(tmp_path / "locked.parquet.parts" / "lock"):
        for options, message in REFUSED["options"]:
            assert main(["--out", "t.parquet", "--models", tiny, "--language", "en", *options.split()]) == 2, options
            error = capsys.readouterr().err
            assert message in error and "Traceback" not in error, (options, error)
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["--out", "t.parquet", "--language", "en", "--scheduler", "tcp://127.0.0.1:1"]) == 2
    assert "pip install pyarrow dask distributed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["b.parquet"]


@pytest.mark.parametrize(("code", "said"), REFUSED["disk"])
def test_disk_that_takes_no_more_is_said_and_nothing_half_is_used(tiny, tmp_path, monkeypatch, code, said):
    def fails(path, content, put=Path.write_bytes):
        put(path, content[:99])
        raise OSError(getattr(errno, code), code, str(path))

    work = {"out": tmp_path / "t.parquet", "sentences": some_sentences(40), "shard_size": 10}
    with monkeypatch.context() as patch, pytest.raises(StudyError, match=f"cannot be read or written: {said}"):
        patch.setattr(Path, "write_bytes", fails)
        survey(tiny, "her", **work)
    assert not parts_of(work["out"]) and survey(tiny, "her", **work) == {}
    assert len(parts_of(work["out"])) == 4 and not list(tmp_path.glob("**/*.tmp"))


def test_task_runs_in_one_thread(monkeypatch):
    monkeypatch.setattr(survey_tasks, "load_model", lambda *name, **to: int(f"{torch.get_num_threads()} thread"))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    failure = run_task(Task("nothing", "her", ("the cat sees her",), None, "cpu", "key"))
    torch.set_num_threads(before)
    assert failure.whole_model and failure.message.startswith("ValueError") and "'1 thread'" in failure.message
