"""Checks that several loaders share."""

from collections.abc import Iterable
from numbers import Integral

from ..errors import InputError

__all__ = ["check_dims", "check_int"]


def check_int(name: str, value: object, minimum: int | None = None) -> int:
    """``value`` as an ``int``.

    Raises:
        InputError: ``value`` is no integer (a bool is none) or is below ``minimum``.
    """
    expected = "an integer" if minimum is None else f"an integer of at least {minimum}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name}={value!r}: expected {expected}")
    number = int(value)
    if minimum is not None and number < minimum:
        raise InputError(f"{name}={number}: expected {expected}")
    return number


def check_dims(name: str, values: Iterable[object], *, largest: str, maximum: int) -> tuple[int, ...]:
    """``values`` as integers from 1 to ``maximum``, which is the value of the argument called ``largest``.

    Raises:
        InputError: ``values`` is no sequence, is empty, or holds something else (a bool is no integer).
    """
    try:
        numbers = tuple(check_int(name, value, 1) for value in values)
    except (InputError, TypeError):
        numbers = ()
    if not numbers or max(numbers) > maximum:
        raise InputError(f"{name}={values!r}: expected one or more integers from 1 to {largest}={maximum}")
    return numbers
