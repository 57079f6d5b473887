"""A GGUF file, dequantised into a transformers folder."""

import sys
from importlib.util import find_spec

import torch
import transformers
from packaging.version import InvalidVersion
from tokenizers import pre_tokenizers

from helpers.settings import say

READERS = ("gguf", "accelerate")


def check_reader():
    """Raise `OSError` where a package that reads GGUF is missing: before a download of which nothing could be made."""
    if missing := [name for name in READERS if find_spec(name) is None]:
        raise OSError(_install(missing))


def convert(gguf, folder):
    """Write a GGUF file as a transformers folder with float32 safetensors."""
    print(say("Đang giải lượng tử mô hình (chỉ một lần)…", "Dequantising the model (only once) …"), file=sys.stderr)
    options = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(gguf.parent), **options)
        model = transformers.AutoModelForCausalLM.from_pretrained(str(gguf.parent), dtype=torch.float32, **options)
    except (ImportError, InvalidVersion) as error:  # transformers lists what is installed when it is imported
        raise OSError(f"{_install(READERS)} ({error})") from error
    # GGUF names the pre-tokenizer but transformers restores only half of it: digits stand alone
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model.hf_quantizer = None  # else save_pretrained refuses: it takes the weights for still quantised
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def _install(packages):
    names, pip = ", ".join(packages), f"pip install --no-deps {' '.join(packages)}"
    vi = f"Để giải lượng tử SmolLM2 cần gói {names}, mà Python này không có: hãy chạy %{pip} trong một ô của sổ tay "
    vi += "(ở dòng lệnh: bỏ dấu %), khởi động lại kernel Jupyter, rồi chạy lại từ đầu. Các gói khác được giữ nguyên"
    en = f"dequantising SmolLM2 needs the package {names}, which this Python does not have: run %{pip} in a cell "
    en += "of the notebook (without the % on a command line), restart the Jupyter kernel, and run from the top. "
    return say(vi, en + "Other packages stay as they are")
