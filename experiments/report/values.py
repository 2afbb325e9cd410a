"""One value of a result file at a time, checked: an error says where the value is."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ...errors import InputError
from .results import Columns

__all__ = [
    "Entry",
    "cell",
    "count",
    "count_or_none",
    "interval",
    "items",
    "mapping",
    "mapping_or_none",
    "named_numbers",
    "number",
    "numbers",
    "points",
    "shares",
    "text",
]

T = TypeVar("T")

_REQUIRED: Any = object()


@dataclass(frozen=True)
class Entry:
    """An object of a file, with the words that say where it is."""

    where: str
    content: dict[str, Any]

    def get(self, key: str, read: Callable[[Any], T], expected: str, default: T = _REQUIRED) -> T:
        if key not in self.content:
            if default is _REQUIRED:
                raise InputError(f"{self.where}: {key!r} is missing, expected {expected}")
            return default
        try:
            return read(self.content[key])
        except (TypeError, OverflowError):
            raise InputError(f"{self.where}: {key!r} is {_short(self.content[key])}, expected {expected}") from None

    def entry(self, key: str) -> "Entry | None":
        """The object of that name; None if there is none, or null."""
        content = self.get(key, mapping_or_none, "an object or null", None)
        return None if content is None else Entry(f"{self.where}: {key}", content)

    def entries(self, key: str) -> list["Entry"]:
        empty: list[Any] = []
        listed = self.get(key, items, "a list of objects", empty)
        for i, entry in enumerate(listed):
            if not isinstance(entry, dict):
                raise InputError(f"{self.where}: {key}[{i}] is {_short(entry)}, expected an object")
        return [Entry(f"{self.where}: {key}[{i}]", entry) for i, entry in enumerate(listed)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# Readers of one value: the value as the dataclasses have it, or TypeError.


def _of_type(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:  # not isinstance: True is not a number here
        raise TypeError
    return value


def text(value: Any) -> str:
    return _of_type(value, str)


def mapping(value: Any) -> dict[str, Any]:
    return _of_type(value, dict)


def mapping_or_none(value: Any) -> dict[str, Any] | None:
    return _of_type(value, dict, type(None))


def items(value: Any) -> list[Any]:
    return _of_type(value, list)


def count(value: Any) -> int:
    return _of_type(value, int)


def count_or_none(value: Any) -> int | None:
    return _of_type(value, int, type(None))


def number(value: Any) -> float:
    return math.nan if value is None else float(_of_type(value, int, float))


def numbers(value: Any) -> tuple[float, ...]:
    return () if value is None else tuple(map(number, items(value)))


def interval(value: Any) -> tuple[int, int]:
    ends = [count(end) for end in items(value)]
    if len(ends) != 2 or ends[0] > ends[1]:
        raise TypeError
    return ends[0], ends[1]


def named_numbers(value: Any) -> dict[str, float]:
    return {name: number(content) for name, content in mapping(value).items()}


def shares(value: Any) -> dict[int, float]:
    if not all(name.isdecimal() for name in mapping(value)):
        raise TypeError
    return {int(name): number(content) for name, content in value.items()}


def points(value: Any) -> tuple[tuple[float, float], ...]:
    points = [numbers(point) for point in items(value)]
    if any(len(point) != 2 for point in points):
        raise TypeError
    return tuple((x, y) for x, y in points)


def cell(value: Any) -> Columns:
    return {name: _of_type(content, str, int, float, bool) for name, content in mapping(value).items()}
