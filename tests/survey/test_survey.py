"""The survey: partial sums against the oracle, the same table through every path, and what is killed on the way."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from functools import reduce
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from distributed import KilledWorker
from filelock import FileLock
from pyarrow import parquet
from safetensors import safe_open
from safetensors.torch import save
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

from helpers import capture_qkv, control_positions, encode, find_token, get_language, load_model, set_language
from helpers.survey.moments import Moments, merge, moment_histograms, moments
from helpers.survey.run import main, survey
from helpers.survey.table import CONDITIONS
from helpers.survey.tasks import Failure, Store, Task, add, run_task, target_token
from tests.core.test_similarity import assert_histogram_matches
from tests.support import oracle

ROOT = Path(__file__).resolve().parents[2]

# ---- merging -------------------------------------------------------------------------------------


def correlation_of(total):
    norm = total.comoment.diagonal().sqrt()
    return (total.comoment / torch.outer(norm, norm)).numpy()


def far_from_zero(n, F, dtype, ratio=1000):
    """[n, F] with |mean| / sd = `ratio` and common variation, so that the correlations are spread."""
    generator = torch.Generator().manual_seed(n)
    noise = torch.randn(n, F, generator=generator, dtype=torch.float64)
    x = noise + torch.randn(n, 1, generator=generator, dtype=torch.float64) * noise[0]
    x = x - x.mean(0)
    sign = torch.where(torch.arange(F) % 2 == 0, 1.0, -1.0)
    return (x / x.std(0) + ratio * sign).to(dtype)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("order", range(6))
def test_merging_in_any_order_keeps_the_correlation_to_nine_digits(order, dtype):
    x = far_from_zero(3000, 40, dtype)
    rng = random.Random(order)
    cuts = sorted(rng.sample(range(1, 3000), 59))
    parts = [moments(part) for part in x.tensor_split(cuts)]
    if order == 0:
        total = reduce(merge, parts)  # one after the other
    else:
        while len(parts) > 1:  # any two at a time
            rng.shuffle(parts)
            parts.append(merge(parts.pop(), parts.pop()))
        total = parts[0]
    expected = np.corrcoef(x.double().numpy(), rowvar=False)
    assert total.count == 3000
    np.testing.assert_allclose(total.mean, x.double().mean(0), rtol=1e-14)
    np.testing.assert_allclose(correlation_of(total), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", (45, 46, 300))
def test_histograms_out_of_merged_moments_match_the_oracle(n):
    sizes = (20, 11, 14)
    x = far_from_zero(n, 45, torch.float32, ratio=2)
    x[:, 3], x[:, 25], x[:, 26] = 0.1, 0.0, 1024.0
    x[::2, 26] *= 1 + torch.finfo(torch.float32).eps  # constant but for rounding
    total = reduce(merge, [moments(part) for part in x.split(17)])
    for measure, histograms in moment_histograms(total, sizes, bins=50, threshold=0.45).items():
        similarity = oracle.SIMILARITY[measure](x)
        assert histograms.n_samples == n and histograms["QQ"].edges.shape == (51,)
        for block in oracle.BLOCKS:
            assert_histogram_matches(histograms[block], oracle.block(similarity, sizes, block), 50, 0.45)


def test_rows_are_kept_while_there_are_no_more_tokens_than_features():
    x = far_from_zero(12, 8, torch.float32)
    assert torch.equal(add(add(None, x[:5]), x[5:8]), x[:8])
    total = add(x[:5], x[5:])
    assert isinstance(total, Moments) and total.count == 12
    torch.testing.assert_close(add(total, None).comoment, moments(x).comoment, rtol=1e-9, atol=1e-9)
    assert add(None, None) is None


@pytest.mark.parametrize("x", (torch.zeros(3), torch.zeros(0, 3), torch.zeros(3, 2, dtype=torch.int64)))
def test_moments_of_something_else_are_refused(x):
    with pytest.raises(ValueError, match=r"expected floating point x \[token, feature\], got"):
        moments(x)


def test_moments_that_do_not_belong_together_or_are_not_finite_are_refused():
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="cannot merge moments of 3 torch.float32 features with those of 2"):
        merge(moments(x), moments(x[:, :2]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        moments(x / 0)


# ---- small models --------------------------------------------------------------------------------

WORDS = ("her", "water", "a", "the", "sees", "gives", "old", "new", "cat", "house", "and", "to", "stops", "runs")
LONGEST = 32


def write_model(folder, config):
    """A random model with weights far larger than a usual initialisation, and a tokenizer of whole words."""
    torch.manual_seed(len(folder.name))
    model = transformers.AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(("<unk>", *WORDS))}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<unk>").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A GPT-2 with 3 x 16 features and two layers."""
    common = {"vocab_size": 16, "bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(n_positions=LONGEST, n_embd=16, n_layer=2, n_head=2, **common)
    return write_model(tmp_path_factory.mktemp("tiny") / "gpt2", config)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """A Llama with 16 + 8 + 8 features."""
    common = {"vocab_size": 16, "bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": LONGEST}
    width = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.LlamaConfig(**common, **width, intermediate_size=24)
    return write_model(tmp_path_factory.mktemp("grouped") / "llama", config)


def some_sentences(n, target="her", seed=0):
    """`n` random sentences with the target once, never first."""
    rng, others = random.Random(seed), [word for word in WORDS if word != target]
    sentences = []
    for _ in range(n):
        words = rng.choices(others, k=rng.randint(4, 12))
        words.insert(rng.randint(1, len(words)), target)
        sentences.append(" ".join(words))
    return sentences


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


# ---- the table -----------------------------------------------------------------------------------


def rows_of_parts(out, condition, layer):
    """All captured vectors `[sample, F]` of parts that are few enough to hold them."""
    store = Store(f"{out}.parts")
    store.find({path.stem.split("-")[0] for path in parts_of(out)})
    return torch.cat([store.partial(key, condition, layer) for key in sorted(store.files)])


@pytest.mark.parametrize("n", (40, 90), ids=("rows", "moments"))
def test_table_matches_the_oracle_on_the_same_vectors(tiny, tmp_path, n):
    out = tmp_path / "t.parquet"
    assert survey([tiny], ["her"], out, sentences=some_sentences(n), shard_size=30) == {}
    rows, sizes = table(out), (16, 16, 16)
    assert n <= sum(sizes) or n > sum(sizes) >= 30
    for layer in (0, 1):
        for condition in ("target", "control"):
            x = rows_of_parts(out, condition, layer)
            assert x.shape == (n, 48)
            for measure in ("cosine", "correlation"):
                similarity = oracle.SIMILARITY[measure](x)
                for block in oracle.BLOCKS:
                    (row,) = select(rows, layer=layer, condition=condition, measure=measure, block=block).itertuples()
                    histogram = AsHistogram(row)
                    assert_histogram_matches(histogram, oracle.block(similarity, sizes, block), 100, 0.9)
                    assert row.n_samples == n and row.n_skipped == 0


class AsHistogram:
    """A row of the table with tensors in place of numbers."""

    def __init__(self, row):
        for name in ("n_pairs", "n_undefined", "mean", "std", "share_above"):
            setattr(self, name, torch.tensor(getattr(row, name), dtype=torch.float64))
        self.counts = torch.tensor(row.counts)


def test_partial_sums_hold_the_vectors_of_target_and_control(grouped, tmp_path):
    sentences = sorted(some_sentences(25), key=lambda s: len(s.split()))  # the order in which they are batched
    out = tmp_path / "t.parquet"
    assert survey([grouped], [" her"], out, sentences=sentences) == {}
    model, tokenizer = load_model(grouped, device="cpu")
    batch = encode(tokenizer, sentences)
    at = find_token(batch, target_token(tokenizer, "her"))
    for condition, positions in {"target": at, "control": control_positions(batch, at)}.items():
        x = capture_qkv(model, batch, positions=positions).joined()
        for layer in (0, 1):
            torch.testing.assert_close(rows_of_parts(out, condition, layer), x[layer], rtol=1e-4, atol=1e-4)


def test_rows_are_complete_and_in_order(tiny, grouped, tmp_path):
    sentences = some_sentences(10) + some_sentences(20, "water")
    file = write_sentences(tmp_path / "s.txt", sentences)
    out = tmp_path / "t.parquet"
    command = ["--models", tiny, grouped, "--targets", "her", "water", "her", "--sentences", file, "--out", str(out)]
    assert main([*command, "--layers", "1", "-1"]) == 0
    rows = table(out)
    keys = rows[["model", "target", "layer", "condition", "block", "measure"]].itertuples(index=False, name=None)
    assert list(keys) == [
        (model, target, 1, condition, block, measure)
        for model in (tiny, grouped)
        for target in ("her", "water")
        for condition in CONDITIONS
        for block in oracle.BLOCKS
        for measure in ("cosine", "correlation")
    ]
    assert (rows.counts.map(sum) + rows.n_undefined == rows.n_pairs).all() and (rows.counts.map(len) == 100).all()
    for target in ("her", "water"):
        usable = [words for words in map(str.split, sentences) if target in words and words[0] != target]
        assert set(select(rows, target=target).n_samples) == {len(usable)}
    schema = parquet.read_schema(out)
    assert set(schema.metadata) >= {b"torch", b"transformers", b"code"}
    assert os.uname().nodename.encode() not in out.read_bytes()


def test_shuffles_are_baselines_and_end_where_tokens_outnumber_features(tiny, tmp_path):
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


def test_sentences_that_cannot_be_used_are_skipped_and_counted(tiny, tmp_path):
    good = some_sentences(10)
    bad = ["the cat runs", "her cat runs", "her cat sees her", " ".join(["cat"] * LONGEST + ["her"]), "a other"]
    survey([tiny], ["her"], tmp_path / "all.parquet", sentences=bad[:2] + good + bad[2:])
    survey([tiny], ["her"], tmp_path / "good.parquet", sentences=good)
    rows, expected = table(tmp_path / "all.parquet"), table(tmp_path / "good.parquet")
    assert set(rows.n_samples) == {10} and set(rows.n_skipped) == {5}
    assert rows.drop(columns="n_skipped").astype(str).equals(expected.drop(columns="n_skipped").astype(str))


@pytest.mark.parametrize("filler", (0, 1))
def test_a_shard_without_the_target_adds_nothing(tiny, tmp_path, filler):
    good = some_sentences(20)
    empty = ["the cat runs"] * 10
    sentences = [*empty, *good] if filler else [*good, *empty]
    assert survey([tiny], ["her"], tmp_path / "t.parquet", sentences=sentences, shard_size=10) == {}
    assert set(table(tmp_path / "t.parquet").n_samples) == {20}


def test_smollm2_gives_the_histograms_of_the_notebooks(her_qkv, tmp_path):
    from helpers import block_histograms

    out = tmp_path / "t.parquet"
    assert survey(["smollm2"], ["her"], out, layers=(0, 5), device="cpu") == {}
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


# ---- the same through every path -----------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=3, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs="CRITICAL"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        cluster.client = client
        yield cluster


LONG = {"sentences": some_sentences(8 * 1500), "shard_size": 1500}  # eight tasks, each long enough to be killed


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    """The table of `LONG`, computed in this process."""
    out = tmp_path_factory.mktemp("undisturbed") / "t.parquet"
    assert survey([tiny], ["her"], out, **LONG) == {}
    return out


def wait_for_parts(out, n, alive):
    while len(parts_of(out)) < n:
        assert alive(), "the survey ended before it could be disturbed"
        time.sleep(0.005)


def test_a_killed_worker_loses_nothing_and_changes_no_number(tiny, undisturbed, cluster, tmp_path):
    out, result = tmp_path / "t.parquet", {}
    pids = cluster.client.run(os.getpid)
    assert len(pids) == 3

    def run():
        result["failed"] = survey([tiny], ["her"], out, scheduler=cluster.scheduler_address, **LONG)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for_parts(out, 2, thread.is_alive)
    busy = next(address for address, keys in cluster.client.processing().items() if keys)
    os.kill(pids[busy], signal.SIGKILL)
    n_parts = len(parts_of(out))
    thread.join()
    assert n_parts < 8
    assert busy not in cluster.client.run(os.getpid), "the worker was not killed"
    assert result["failed"] == {} and len(parts_of(out)) == 8
    assert out.read_bytes() == undisturbed.read_bytes()


class DeadlyFuture:
    def __init__(self, function, task):
        self.function, self.task, self.killed = function, task, False

    def result(self):
        if self.killed:
            raise KilledWorker(self.task.key, SimpleNamespace(address="a"), 3)
        return self.function(self.task)

    def release(self):
        pass


class DeadlyClient:
    """Stands for a cluster of two workers where the model "deadly" kills whatever is under way."""

    def __init__(self):
        self.under_way, self.n_deaths = [], 0

    def nthreads(self):
        return {"a": 1, "b": 1}

    def as_current(self):
        return nullcontext()

    def submit(self, function, task, key):
        self.under_way.append(DeadlyFuture(function, task))
        return self.under_way[-1]

    def wait(self, futures, **options):
        assert set(futures) == set(self.under_way)
        done, self.under_way = self.under_way, []
        killed = any(future.task.model == "deadly" for future in done)
        self.n_deaths += killed
        for future in done:
            future.killed = killed
        return SimpleNamespace(done=done)


def test_a_model_that_kills_its_workers_takes_no_other_along(tiny, grouped, tmp_path, monkeypatch):
    """With real workers it takes minutes: four restarts, twice."""
    client = DeadlyClient()
    monkeypatch.setattr("helpers.survey._connect", lambda workers, scheduler: nullcontext((client, None)))
    monkeypatch.setattr("distributed.wait", client.wait)
    out, work = tmp_path / "t.parquet", {"sentences": some_sentences(60), "shard_size": 20}
    failed = survey([tiny, "deadly", grouped], ["her", "water"], out, **work)
    assert set(failed) == {("deadly", "her"), ("deadly", "water")} and client.n_deaths <= 3
    assert all("every worker that ran it died" in message for message in failed.values())
    monkeypatch.undo()
    survey([tiny, grouped], ["her", "water"], tmp_path / "good.parquet", **work)
    assert out.read_bytes() == (tmp_path / "good.parquet").read_bytes()


def test_tables_are_the_same_bit_for_bit_in_process_and_with_one_and_four_workers(tiny, grouped, cluster, tmp_path):
    work = {"sentences": some_sentences(100) + some_sentences(100, "water", seed=1), "shard_size": 40}
    outs = [tmp_path / f"{name}.parquet" for name in ("here", "four", "one")]
    cluster.scale(4)
    cluster.client.wait_for_workers(4)
    for out, where in zip(outs, ({}, {"scheduler": cluster.scheduler_address}, {"workers": 1})):
        assert survey([tiny, grouped], ["her", "water"], out, **work, **where) == {}
        assert len(parts_of(out)) == 20
    assert outs[0].read_bytes() == outs[1].read_bytes() == outs[2].read_bytes()
    names = [[path.name for path in parts_of(out)] for out in outs]  # with the hash of the content
    assert names[0] == names[1] == names[2]


def test_a_killed_program_repeats_only_unfinished_tasks(tiny, undisturbed, tmp_path, capsys):
    out, file = tmp_path / "t.parquet", write_sentences(tmp_path / "s.txt", LONG["sentences"])
    command = ["--models", tiny, "--sentences", file, "--shard-size", "1500", "--out", str(out)]
    program = subprocess.Popen(
        [sys.executable, "-m", "helpers.survey", *command], cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL
    )
    wait_for_parts(out, 3, lambda: program.poll() is None)
    os.killpg(program.pid, signal.SIGKILL)
    program.wait()
    finished = {path: path.stat().st_mtime_ns for path in parts_of(out)}
    assert 3 <= len(finished) < 8 and not out.exists()
    assert main(command) == 0
    assert f"8 tasks: {len(finished)} from before, {8 - len(finished)} computed" in capsys.readouterr().err
    assert len(parts_of(out)) == 8
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert out.read_bytes() == undisturbed.read_bytes()


def truncated(content):
    return content[: len(content) // 2]


def flipped(content):
    return content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]


@pytest.mark.parametrize("damage", (truncated, flipped, lambda content: b""), ids=("truncated", "one bit", "empty"))
def test_a_damaged_part_is_computed_again(tiny, tmp_path, capsys, damage):
    out = tmp_path / "t.parquet"
    work = {"sentences": some_sentences(60), "shard_size": 20}
    survey([tiny], ["her"], out, **work)
    before, parts = out.read_bytes(), parts_of(out)
    content = parts[1].read_bytes()
    parts[1].write_bytes(damage(content))
    (out.parent / "t.parquet.parts" / "left.tmp").write_bytes(b"half")
    capsys.readouterr()
    assert survey([tiny], ["her"], out, **work) == {}
    assert "3 tasks: 2 from before, 1 computed" in capsys.readouterr().err
    assert parts[1].read_bytes() == content and out.read_bytes() == before
    assert not list(out.parent.glob("*.parts/*.tmp"))


def test_what_the_result_depends_on_is_not_taken_from_before(tiny, tmp_path, capsys):
    out, sentences = tmp_path / "t.parquet", some_sentences(60)
    survey([tiny], ["her"], out, sentences=sentences, shard_size=20)
    for changed in ({"layers": (1,)}, {"sentences": [*sentences[:-1], "the cat sees her"]}):
        survey([tiny], ["her"], out, **{"sentences": sentences, "shard_size": 20} | changed)
    os.utime(Path(tiny) / "model.safetensors")
    survey([tiny], ["her"], out, sentences=sentences, shard_size=20)
    counted = [line.split("computed")[0] for line in capsys.readouterr().err.splitlines() if "from before" in line]
    tails = [line.split("tasks: ")[1] for line in counted]
    assert tails == ["0 from before, 3 ", "0 from before, 3 ", "2 from before, 1 ", "0 from before, 3 "]


# ---- what goes wrong -----------------------------------------------------------------------------


def test_a_failed_model_does_not_lose_the_others(tiny, grouped, tmp_path, capsys, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        "helpers.survey.tasks.load_model", lambda name, **to: loaded.append(name) or load_model(name, **to)
    )
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    file = write_sentences(tmp_path / "s.txt", some_sentences(40))
    out, good = tmp_path / "t.parquet", tmp_path / "good.parquet"
    common = ["--sentences", file, "--shard-size", "10", "--targets", "her", "water", "nowhere"]
    assert main(["--models", tiny, str(broken), grouped, *common, "--out", str(out)]) == 1
    assert loaded.count(str(broken)) <= 2  # not once for each of its tasks
    assert main(["--models", tiny, grouped, *common[:-1], "--out", str(good)]) == 0
    assert out.read_bytes() == good.read_bytes()
    with Path(f"{out}.errors.csv").open(encoding="utf-8", newline="") as errors:
        rows = list(csv.DictReader(errors))
    places = {(row["model"], row["target"]) for row in rows}
    assert places == {(str(broken), t) for t in ("her", "water", "nowhere")} | {(m, "nowhere") for m in (tiny, grouped)}
    assert all("tokenizer_config.json is missing" in row["error"] for row in rows if row["model"] == str(broken))
    assert all("usable" in row["error"] for row in rows if row["model"] != str(broken)), rows
    assert capsys.readouterr().err.count("failed: ") == len(places)
    assert main(["--models", tiny, *common[:-1], "--out", str(out)]) == 0
    assert not Path(f"{out}.errors.csv").exists()


def test_a_layer_that_one_model_has_not_is_its_own_failure(tiny, tmp_path):
    failed = survey([tiny], ["her"], tmp_path / "t.parquet", sentences=some_sentences(10), layers=(0, 7))
    assert "layer 7 is out of range: the model has layers 0..1" in failed[tiny, "her"]
    assert len(table(tmp_path / "t.parquet")) == 0


def test_a_word_of_several_tokens_is_refused_with_its_pieces(smollm2):
    assert target_token(smollm2[1], "her") == 874
    with pytest.raises(ValueError, match="expected one token, got"):
        target_token(smollm2[1], "xylophonist")
    with pytest.raises(
        ValueError, match="expected one token, got"
    ):  # " icks" is two tokens, "icks" inside words is one
        target_token(smollm2[1], "icks")


@pytest.fixture
def language():
    before = get_language()
    yield
    set_language(before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--targets", "xyzzy"], "the module has sentences for her, water, none for xyzzy: give --sentences FILE"),
        (["--targets", " "], "a word is empty"),
        (["--shard-size", "0"], "--shard-size: expected at least 1, got 0"),
        (["--workers", "0"], "--workers: expected at least 1, got 0"),
        (["--sentences", "missing.txt"], "missing.txt: cannot be read"),
        (["--sentences", "missing.txt", "--language", "vi"], "missing.txt: không đọc được"),
        (["--sentences", "empty.txt"], "there is no sentence in it"),
        (["--out", "no/such/folder.parquet"], "expected a file in an existing folder"),
        (["--scheduler", "tcp://127.0.0.1:1"], "no Dask scheduler answers at tcp://127.0.0.1:1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_user_can_mend_is_said(tiny, tmp_path, monkeypatch, capsys, language, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("helpers.survey.CONNECT_SECONDS", 0.5)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    assert main(["--out", "t.parquet", "--models", tiny, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "t.parquet").exists()


def test_two_surveys_do_not_write_to_one_file(tiny, tmp_path, capsys):
    (tmp_path / "t.parquet.parts").mkdir()
    with FileLock(tmp_path / "t.parquet.parts" / "lock"):
        assert main(["--models", tiny, "--out", str(tmp_path / "t.parquet")]) == 2
    assert "another survey writes to" in capsys.readouterr().err


def test_missing_packages_are_named_with_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["--out", str(tmp_path / "t.parquet")]) == 2
    assert "pip install dask distributed pyarrow" in capsys.readouterr().err


def test_a_task_runs_in_one_thread_and_leaves_the_number_as_it_was(monkeypatch):
    seen = []

    def fail(name, device):
        seen.append(torch.get_num_threads())
        raise OSError("no model today")

    monkeypatch.setattr("helpers.survey.tasks.load_model", fail)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        failure = run_task(Task("nothing", "her", ("the cat sees her",), None, "cpu", "key"))
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert failure == Failure("OSError: no model today", whole_model=True)


def test_parts_of_different_models_are_never_added(tiny, tmp_path):
    out, work = tmp_path / "t.parquet", {"sentences": some_sentences(40), "shard_size": 20}
    survey([tiny], ["her"], out, **work)
    store, part = Store(f"{out}.parts"), parts_of(out)[0]
    with safe_open(part, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        info = json.loads(file.metadata()["survey"])
    part.unlink()
    store.put(part.stem.split("-")[0], save(tensors, {"survey": json.dumps(info | {"provenance": "another"})}))
    failed = survey([tiny], ["her"], out, **work)
    assert "several models or versions came under one name" in failed[tiny, "her"]
    assert len(table(out)) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_gpu_worker_uses_its_gpu(tiny, tmp_path):
    sentences = some_sentences(40)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    assert survey([tiny], ["her"], tmp_path / "gpu.parquet", sentences=sentences) == {}
    assert torch.cuda.max_memory_allocated() > before
    assert survey([tiny], ["her"], tmp_path / "cpu.parquet", sentences=sentences, device="cpu") == {}
    on_gpu, on_cpu = table(tmp_path / "gpu.parquet"), table(tmp_path / "cpu.parquet")
    np.testing.assert_allclose(on_gpu["mean"], on_cpu["mean"], rtol=0, atol=1e-4)
