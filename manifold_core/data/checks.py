"""Checks that several loaders share."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..arguments import check_integer
from ..errors import InputError
from .blocks import blocks

__all__ = ["as_array", "as_tensor", "check_dims", "check_within_float32", "in_numbers", "places"]


def check_dims(name: str, values: Iterable[object], *, largest: str, maximum: int) -> tuple[int, ...]:
    """``values`` as integers from 1 to ``maximum``, which is the value of the argument called ``largest``.

    Raises:
        InputError: ``values`` is not a sequence, is empty, or holds something else (a bool is not an integer).
    """
    try:
        numbers = tuple(check_integer(name, value, 1) for value in values)
    except (InputError, TypeError):
        numbers = ()
    if not numbers or max(numbers) > maximum:
        raise InputError(f"{name} must be one or more integers from 1 to {largest}, {maximum}, got {values!r}")
    return numbers


def as_array(x: Any, name: str = "x", *, truth: bool = False) -> npt.NDArray[Any]:
    """Integers or floating-point numbers that users give as the argument of this name: a tensor on any device, or what
    np.asarray makes an array of. With ``truth``, booleans are accepted too, as 0 and 1.

    Raises:
        InputError: not such numbers, or some are masked.
    """
    if np.ma.is_masked(x):
        raise InputError(
            f"{name} must have a number everywhere, got a masked array that lacks {np.ma.count_masked(x):,}"
        )
    try:
        source = np.asarray(_of_a_type_of_numpys(x) if isinstance(x, Tensor) else x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be a tensor or an array of numbers, got {type(x).__name__}: {error}") from error
    if source.dtype == object and hasattr(x, "columns"):
        source = _of_columns(x, name)
    if truth:
        source = in_numbers(source)
    if source.dtype.kind not in "iuf":
        raise InputError(f"{name} must be a tensor or an array of numbers, got {type(x).__name__} of {source.dtype}")
    return source


def _of_columns(x: Any, name: str) -> npt.NDArray[Any]:
    """A table, such as a pandas DataFrame, as float64. Columns may differ in type, be boolean, or allow missing
    values."""
    columns = []
    for place, column in enumerate(x.columns):
        try:
            columns.append(np.asarray(x.iloc[:, place].astype("float64")))
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} must be numbers, got column {column!r} of {type(x).__name__}: {error}") from error
    return np.stack(columns, axis=1)


def in_numbers(source: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Booleans as 0 and 1; all else as it is."""
    return source.astype(np.uint8) if source.dtype.kind == "b" else source


def as_tensor(x: Any, name: str = "x", *, truth: bool = False) -> Tensor:
    """The same as a tensor: a tensor stays as it is, all else becomes float64 on the CPU. That is a copy: torch warns
    of arrays that cannot be written to, and refuses another byte order and rows in reverse.

    Raises:
        InputError: see :func:`as_array`; complex numbers.
    """
    if not isinstance(x, Tensor):
        return torch.from_numpy(as_array(x, name, truth=truth).astype(np.float64))
    if x.is_complex():
        raise InputError(f"{name} must be a tensor or an array of numbers, got {type(x).__name__} of {x.dtype}")
    return x


def _of_a_type_of_numpys(x: Tensor) -> Tensor:
    x = x.detach().cpu().resolve_neg()
    return x.float() if x.dtype == torch.bfloat16 else x


def check_within_float32(source: npt.NDArray[Any], where: str) -> None:
    """Raise InputError for NaN, infinity, and what float32 would make infinite."""
    if all(_within_float32(source[rows]).all() for rows in blocks(source)):
        return
    if not (finite := np.isfinite(source)).all():
        raise InputError(f"{where}: NaN or infinity at {places(~finite)}; expected finite numbers")
    raise InputError(
        f"{where}: numbers too large for float32 at {places(~_within_float32(source))}; expected at most 3.4e38"
    )


def _within_float32(x: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    with np.errstate(over="ignore"):
        return np.isfinite(x.astype(np.float32))


def places(bad: npt.NDArray[np.bool_], first_row: int = 0) -> str:
    """How many there are, and where the first one is."""
    n_bad = np.count_nonzero(bad)
    row, *column = (int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
    first = f"row {first_row + row}, column {', '.join(map(str, column))} (counted from 0)"
    return f"{n_bad} {'place' if n_bad == 1 else 'places'}, first in {first}"
