"""Reading an answer: as a function's result, a tensor or a number, or else one sentence on what came instead."""

import math

import numpy as np
import torch

from helpers.settings import message

too_short = set()  # names of short dtypes met since `grade` began


class Wrong(Exception):
    """An answer that need not be looked at further; its text is the hint."""


def wrong(key, answer=None, **facts):
    """`Wrong` with a message of `helpers.settings`, to which the kind of the answer is a fact."""
    return Wrong(message(key, kind=type(answer).__name__, **facts))


def is_open(value):
    """Whether the answer is still as the exercise gave it."""
    return value is None or value is ...


def result(function, *arguments, nothing=False):
    """What the reader's function returns for copies of the arguments, which it may not change; None only if `nothing`."""
    if not callable(function):
        raise wrong("answer_function", function)
    given = [a.clone() if isinstance(a, torch.Tensor) else list(a) if isinstance(a, list) else a for a in arguments]
    try:
        answer = function(*given)
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - whatever the reader's own code raises
        text = ": ".join(filter(None, [type(error).__name__, str(error).split("\n")[0]]))
        raise wrong("answer_raised", text=text) from None
    if answer is ...:
        raise wrong("exercise_open_function")
    if not all(torch.equal(now, a) if isinstance(a, torch.Tensor) else now == a for now, a in zip(given, arguments)):
        raise wrong("answer_changed")
    if answer is None and not nothing:
        raise wrong("answer_nothing")
    return answer


def tensor(value, *shape):
    """`value` as a float64 tensor of this shape."""
    try:
        found = value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))
        if found.is_complex():
            raise TypeError
        found = found.detach().cpu().double()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise wrong("answer_tensor", value) from None
    if found.shape != shape:
        raise wrong("answer_shape", came=tuple(found.shape), shape=shape)
    note_dtype(value)
    return found


def note_dtype(value):
    """Remember a dtype in which a right computation need not give a right answer."""
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    too_short.update({dtype} & {"float16", "bfloat16"})


def number(value, positive=False):
    """`value` as a finite float, if need be above 0."""
    try:
        found = value.item() if hasattr(value, "item") else value
        if isinstance(found, (str, bytes, bool)):
            raise TypeError
        found = float(found)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise wrong("answer_number", value) from None
    note_dtype(value)
    if not math.isfinite(found):
        raise wrong("answer_finite", found=found)
    if positive and found <= 0:
        raise wrong("answer_positive")
    return found


def whole(value):
    """`value` as an int; it may be off by what float32 rounds away."""
    found = number(value)
    if abs(found - round(found)) > max(1, abs(found)) * 1e-6:
        raise wrong("answer_whole", found=found)
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
            raise wrong("answer_one_axis", came=shape)
        values = list(values)
    except (TypeError, RuntimeError):
        raise wrong("answer_wholes", values) from None
    return [whole(value) for value in values]


def numbered(things, values, n):
    """Say how `things` are numbered, unless all `values` are in 0 … n - 1."""
    if not all(0 <= value < n for value in values):
        raise wrong(f"numbered_{things}", last=n - 1)


def close(answer, expected):
    """Whether both have one shape and agree to the digits of float32."""
    return np.shape(answer) == np.shape(expected) and np.allclose(answer, expected, rtol=1e-4, atol=1e-5)


def told(answer, expected, **mistakes):
    """None for an answer as `expected`, else the name of the mistake whose result (or one of a list) it is, or "other"."""
    answer = tensor(answer, *np.shape(expected)) if np.ndim(expected) else number(answer)
    if close(answer, expected):
        return None
    for name, results in mistakes.items():
        if any(close(answer, mistaken) for mistaken in (results if isinstance(results, list) else [results])):
            return name
    if np.ndim(expected) == 0 and abs(answer - expected) < 0.01 * abs(expected):
        raise wrong("answer_close")
    return "other"


def right_for(function, expected, *arguments):
    """Whether the reader's function gives `expected` for arguments of another rank as well."""
    try:
        return told(result(function, *arguments), expected) is None
    except Wrong:
        return False


def drawn(function, x, seed=3):
    """What the reader's function makes of `x` with a generator of this seed; of the shape of `x`."""
    return tensor(result(function, x, torch.Generator().manual_seed(seed)), *x.shape)


def draws_from_generator(function, x):
    """`Wrong` unless function(x, generator) gives the same again for the same seed, and something else for another."""
    first, again, other = (drawn(function, x, seed) for seed in (3, 3, 4))
    if not torch.equal(again, first):
        raise wrong("answer_same_seed")
    if torch.equal(other, first):
        raise wrong("answer_other_seed")


def noise(*shape):
    """The same standard normal float64 numbers at every call."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
