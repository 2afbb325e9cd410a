"""Checks of arguments. Each raises an InputError that names the argument, what it must be and its value."""

import math
from typing import Any, get_args

import numpy as np
from torch import Tensor, nn

from .errors import InputError
from .kernels import checks

__all__ = [
    "check_choice",
    "check_flag",
    "check_integer",
    "check_number",
    "check_positive",
    "check_seconds",
    "described",
]

LONGEST = 200  # characters of a value in an error


def described(value: object) -> str:
    """The value, for an error: all the numbers of a tensor, or all the layers of a module, would hide what it says."""
    if isinstance(value, Tensor) and value.dim():
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, nn.Module):
        return type(value).__name__
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def check_choice(name: str, value: object, words: Any) -> None:
    """Raise InputError unless the value is one of the words of a Literal type."""
    if isinstance(value, str) and value in get_args(words):
        return
    *others, last = map(repr, get_args(words))
    raise InputError(f"{name} must be {', '.join(others)} or {last}, got {described(value)}")


def check_flag(name: str, value: object) -> bool:
    """The flag, Python's or NumPy's, and nothing else: "no" would be true."""
    flag = bool(value) if isinstance(value, np.bool_) else value
    try:
        checks.check_flag(name, flag)
    except TypeError as error:
        raise InputError(str(error)) from None
    return flag is True


def check_integer(name: str, value: object, least: int | None = None, most: int | None = None) -> int:
    """The integer from ``least`` to ``most``, of any integer type; a bool is not one."""
    number = checks.integer(value)
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        raise InputError(f"{name} must be {_integer(least, most)}, got {described(value)}")
    return number


def _integer(least: int | None, most: int | None) -> str:
    if most is not None:
        power = most.bit_length()
        return f"an integer from {least} to {f'2**{power} - 1' if power > 30 and most == 2**power - 1 else most}"
    if least is None:
        return "an integer"
    return "a positive integer" if least == 1 else f"an integer of at least {least}"


def check_positive(**sizes: int) -> tuple[int, ...]:
    """The sizes, each a positive integer."""
    return tuple(check_integer(name, size, 1) for name, size in sizes.items())


def check_number(name: str, value: object, below: float = math.inf) -> float:
    """The positive number, of any real type, as Python's own float: JSON does not take NumPy's."""
    number = _real(value)
    if not 0 < number < below:
        expected = "a positive, finite number" if below == math.inf else f"a number between 0 and {below:g}"
        raise InputError(f"{name} must be {expected}, got {described(value)}")
    return number


def check_seconds(name: str, value: object) -> None:
    """How long to wait; infinity means for ever."""
    if not _real(value) >= 0:
        raise InputError(f"{name} must be a number of seconds, not negative, got {described(value)}")


def _real(value: object) -> float:
    """As a float; NaN, which fails every comparison, for a bool, and for what is not a real number or too large."""
    try:
        return math.nan if isinstance(value, bool) else checks.real("", value)
    except (TypeError, ValueError):
        return math.nan
