"""A GGUF file, dequantised into a transformers folder."""

import sys
from importlib.util import find_spec

import torch
import transformers
from packaging.version import InvalidVersion
from tokenizers import pre_tokenizers

from helpers.settings import first_line, message

READERS = ("gguf", "accelerate")


def check_reader():
    """Raise `OSError` where a package that reads GGUF is missing: before a download of which nothing could be made."""
    if missing := [name for name in READERS if find_spec(name) is None]:
        raise OSError(_install(missing))


def convert(gguf, folder):
    """Write a GGUF file as a transformers folder with float32 safetensors."""
    print(message("dequantising"), file=sys.stderr)
    options = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(gguf.parent), **options)
        model = transformers.AutoModelForCausalLM.from_pretrained(str(gguf.parent), dtype=torch.float32, **options)
    except (ImportError, InvalidVersion) as error:  # transformers lists what is installed when it is imported
        raise OSError(f"{_install(READERS)} ({error})") from error
    except Exception as error:  # its reader lets out whatever it meets
        facts = {"file": gguf.name, "version": transformers.__version__, "reason": first_line(error)}
        raise OSError(message("not_converted", **facts)) from error
    # GGUF names the pre-tokenizer but transformers restores only half of it: digits stand alone
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    # and up to 5.17 at least it takes the first special token for the last, and joins words to their commas
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.clean_up_tokenization_spaces = False
    model.hf_quantizer = None  # else save_pretrained refuses: it takes the weights for still quantised
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def _install(packages):
    return message("no_reader", names=", ".join(packages), pip=f"pip install --no-deps {' '.join(packages)}")
