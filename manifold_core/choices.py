"""Arguments that are one of a few words."""

from typing import Any, get_args

from .errors import InputError

__all__ = ["check_choice"]


def check_choice(name: str, value: object, words: Any) -> None:
    """Raise InputError for anything but one of the words of a Literal type."""
    if isinstance(value, str) and value in get_args(words):
        return
    *others, last = map(repr, get_args(words))
    raise InputError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")
