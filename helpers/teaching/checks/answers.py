"""Reading an answer: as a function's result, a tensor or a number, or else one sentence on what came instead."""

import math

import numpy as np
import torch

from helpers.settings import say


class Wrong(Exception):
    """An answer that need not be looked at further; its text is the hint."""


def is_open(value):
    """Whether the answer is still as the exercise gave it."""
    return value is None or value is ...


def other_kind(vi, en, value):
    """`Wrong`: what was expected, in both languages, and the kind of `value`, which came."""
    kind = type(value).__name__
    return Wrong(say(f"cần {vi}, nhận được {kind}", f"expected {en}, got {kind}"))


def result(function, *arguments, nothing=False):
    """What the reader's function returns; `nothing`: it may return None."""
    if not callable(function):
        raise other_kind("một hàm", "a function", function)
    try:
        answer = function(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever the reader's own code raises
        text = ": ".join(filter(None, [type(error).__name__, str(error).split("\n")[0]]))
        raise Wrong(say(f"mã của bạn gây lỗi {text}", f"your code raised {text}")) from None
    if answer is ...:
        vi = "chưa làm: thay dấu … trong hàm bằng lời giải của bạn"
        raise Wrong(say(vi, "not done yet: replace the … in the function with your own code"))
    if answer is None and not nothing:
        raise Wrong(say("hàm của bạn không trả về gì: thiếu return?", "your function returns nothing: no return?"))
    return answer


def tensor(value, *shape):
    """`value` as a float64 tensor of this shape."""
    try:
        found = value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))
        if found.is_complex():
            raise TypeError
        found = found.detach().cpu().double()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise other_kind("một tensor số", "a tensor of numbers", value) from None
    if found.shape != shape:
        came = tuple(found.shape)
        raise Wrong(say(f"kích thước là {came}, cần {shape}", f"the shape is {came}, expected {shape}"))
    return found


def number(value, positive=False):
    """`value` as a finite float, if need be above 0."""
    try:
        if isinstance(value, (str, bytes)) or getattr(getattr(value, "dtype", None), "kind", None) == "c":
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise other_kind("một số", "a number", value) from None
    if not math.isfinite(found):
        raise Wrong(say(f"cần một số hữu hạn, nhận được {found}", f"expected a finite number, got {found}"))
    if positive and found <= 0:
        raise Wrong(say("cần một số dương", "expected a positive number"))
    return found


def whole(value):
    """`value` as an int."""
    found = number(value)
    if found != int(found):
        raise Wrong(say(f"cần một số nguyên, nhận được {found:g}", f"expected a whole number, got {found:g}"))
    return int(found)


def wholes(values):
    """`values` as a list of int."""
    try:
        if isinstance(values, (str, bytes, dict)):
            raise TypeError
        values = list(values)
    except (TypeError, RuntimeError):
        raise other_kind("một danh sách số nguyên", "a list of whole numbers", values) from None
    return [whole(value) for value in values]


def numbered(values, n, vi, en):
    """Say how things are numbered, unless all `values` are in 0 … n - 1; `vi` and `en` name the things."""
    if not all(0 <= value < n for value in values):
        raise Wrong(say(f"{vi} được đánh số từ 0 đến {n - 1}", f"{en} are numbered from 0 to {n - 1}"))


def noise(*shape):
    """The same standard normal float64 numbers at every call."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
