"""Reading an answer: as a function's result, a tensor or a number, or else one sentence on what came instead."""

import copy
import math

import numpy as np
import torch

from helpers.settings import say

SHORT = (torch.float16, torch.bfloat16, np.dtype(np.float16))
too_short = set()  # names of short dtypes met since `grade` began


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
    """What the reader's function returns; `nothing`: it may return None.  It may not change what it is given."""
    if not callable(function):
        raise other_kind("một hàm", "a function", function)
    given = [(argument, copy.copy(argument)) for argument in arguments if isinstance(argument, list)]
    given += [(argument, argument.clone()) for argument in arguments if isinstance(argument, torch.Tensor)]
    try:
        answer = function(*arguments)
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - whatever the reader's own code raises
        text = ": ".join(filter(None, [type(error).__name__, str(error).split("\n")[0]]))
        raise Wrong(say(f"đoạn mã của bạn gây lỗi {text}", f"your code raised {text}")) from None
    if answer is ...:
        vi = "chưa làm: thay dấu … trong hàm bằng lời giải của bạn"
        raise Wrong(say(vi, "not done yet: replace the … in the function with your own code"))
    if not all(torch.equal(now, then) if isinstance(now, torch.Tensor) else now == then for now, then in given):
        vi = "hàm của bạn sửa chính dữ liệu được đưa vào: hãy trả về một tensor mới"
        raise Wrong(say(vi, "your function changed what it was given: return a new tensor"))
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
    note_dtype(value)
    return found


def note_dtype(value):
    """Remember a dtype in which a right computation need not give a right answer."""
    if getattr(value, "dtype", None) in SHORT:
        too_short.add(str(value.dtype).removeprefix("torch."))


def number(value, positive=False):
    """`value` as a finite float, if need be above 0."""
    try:
        dtype = getattr(value, "dtype", None)
        if isinstance(value, (str, bytes, bool)) or dtype == torch.bool or getattr(dtype, "kind", None) in ("b", "c"):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise other_kind("một số", "a number", value) from None
    note_dtype(value)
    if not math.isfinite(found):
        raise Wrong(say(f"cần một số hữu hạn, nhận được {found}", f"expected a finite number, got {found}"))
    if positive and found <= 0:
        raise Wrong(say("cần một số dương", "expected a positive number"))
    return found


def whole(value):
    """`value` as an int; it may be off by what float32 rounds away."""
    found = number(value)
    if abs(found - round(found)) > max(1, abs(found)) * 1e-6:
        raise Wrong(say(f"cần một số nguyên, nhận được {found:.10g}", f"expected a whole number, got {found:.10g}"))
    return round(found)


def wholes(values):
    """`values` as a list of int."""
    try:
        if isinstance(values, (str, bytes, dict)):
            raise TypeError
        shape = tuple(getattr(values, "shape", ()))
        if len(shape) > 1 and max(shape) == math.prod(shape):  # such as what nonzero() returns
            values = values.reshape(-1)
        elif len(shape) > 1:
            raise Wrong(say(f"cần một trục, nhận được kích thước {shape}", f"expected one axis, got the shape {shape}"))
        values = list(values)
    except (TypeError, RuntimeError):
        raise other_kind("một danh sách số nguyên", "a list of whole numbers", values) from None
    return [whole(value) for value in values]


def numbered(values, n, vi, en):
    """Say how things are numbered, unless all `values` are in 0 … n - 1; `vi` and `en` name the things."""
    if not all(0 <= value < n for value in values):
        raise Wrong(say(f"{vi} được đánh số từ 0 đến {n - 1}", f"{en} are numbered from 0 to {n - 1}"))


def close(answer, expected):
    """Whether both have one shape and agree to the digits of float32."""
    return np.shape(answer) == np.shape(expected) and np.allclose(answer, expected, rtol=1e-4, atol=1e-5)


def told(answer, expected, **mistakes):
    """None for a right answer, else the name of the mistake whose result (or one of a list) it is, else "other"."""
    if close(answer, expected):
        return None
    of_name = {name: wrong if isinstance(wrong, list) else [wrong] for name, wrong in mistakes.items()}
    name = next((name for name, wrong in of_name.items() if any(close(answer, w) for w in wrong)), "other")
    if name == "other" and np.ndim(answer) == 0 and abs(answer - expected) < 0.01 * abs(expected):
        vi = "gần đúng, lệch chưa tới 1%: bạn có làm tròn, hay tính bằng float16?"
        raise Wrong(say(vi, "close, less than 1% off: did you round, or compute in float16?"))
    return name


def right_for(function, expected, *arguments):
    """Whether the reader's function gives `expected` for arguments of another rank as well."""
    try:
        given = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
        return close(tensor(result(function, *given), *expected.shape), expected)
    except Wrong:
        return False


def draws_from_generator(function, x, answer, seed):
    """`Wrong` unless function(x, generator) gives `answer` again for the same seed, and something else for another."""
    again, other = (
        tensor(result(function, x.clone(), torch.Generator().manual_seed(s)), *x.shape) for s in (seed, seed + 1)
    )
    if not torch.equal(again, answer):
        vi = "cùng một hạt giống mà hai lần khác nhau: hãy dùng generator được đưa vào"
        raise Wrong(say(vi, "the same seed gave two results: use the generator that is passed in"))
    if torch.equal(other, answer):
        vi = "hạt giống khác mà kết quả vẫn thế: hãy dùng generator được đưa vào"
        raise Wrong(say(vi, "another seed gave the same result: use the generator that is passed in"))


def noise(*shape):
    """The same standard normal float64 numbers at every call."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
