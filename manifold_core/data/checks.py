"""Checks that several loaders share."""

from numbers import Integral

from ..errors import InputError

__all__ = ["check_int"]


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
