"""Where two descriptions of a run differ, in words."""

from itertools import zip_longest
from typing import Any

__all__ = ["differences"]

SHOWN = 5  # descriptions of an ensemble may differ in a thousand places
ABSENT = object()


def differences(found: Any, wanted: Any, name: str = "") -> str:
    """``model.latent_dim is 8, expected 6; training.seed is 0, expected 1``: the keys whose values are not the same.

    Args:
        found, wanted: what JSON can hold.
        name: of both; the prefix of the keys.
    """
    places = _places(found, wanted, name)
    more = f"; {len(places) - SHOWN} more differ" if len(places) > SHOWN else ""
    return "; ".join(places[:SHOWN]) + more


def _places(found: Any, wanted: Any, name: str) -> list[str]:
    if found == wanted:
        return []
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = [*wanted, *(key for key in found if key not in wanted)]
        within = [(found.get(key, ABSENT), wanted.get(key, ABSENT), f"{name}.{key}".lstrip(".")) for key in keys]
    elif isinstance(found, list) and isinstance(wanted, list) and not _numbers([*found, *wanted]):
        if len(found) != len(wanted):
            return [f"{name} is of length {len(found)}, expected {len(wanted)}"]
        within = [(*pair, f"{name}[{i}]") for i, pair in enumerate(zip(found, wanted, strict=True))]
    else:
        found, wanted = _lines(found, wanted)
        return [f"{name} is {_said(found)}, expected {_said(wanted)}"]
    return [place for part in within for place in _places(*part)]


def _numbers(values: list[Any]) -> bool:
    """Whether a list is shown whole, as the widths of layers are."""
    return all(isinstance(value, (int, float)) for value in values)


def _lines(a: Any, b: Any) -> tuple[Any, Any]:
    """The first lines that differ between two texts of many lines."""
    if not (isinstance(a, str) and isinstance(b, str)):
        return a, b
    return next(
        ((x.strip(), y.strip()) for x, y in zip_longest(a.splitlines(), b.splitlines(), fillvalue="") if x != y), (a, b)
    )


def _said(value: Any) -> str:
    return "absent" if value is ABSENT else repr(value)
