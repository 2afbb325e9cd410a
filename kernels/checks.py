"""Checks of arguments, shared by the ops: each error names the argument, its value and what was expected."""

import operator
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "accumulation_dtype",
    "check_alike",
    "check_first_row",
    "check_flag",
    "check_floating",
    "check_matrix",
    "check_of_samples",
    "check_optional_rows",
    "check_prior",
    "integer",
    "real",
]


def check_floating(name: str, tensor: Tensor) -> None:
    """Raise TypeError for anything but a dense floating-point tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be of a floating-point dtype, got {tensor.dtype}")
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = "a nested tensor" if tensor.is_nested else tensor.layout
        raise TypeError(f"{name} must be a dense tensor, got {kind}")


def check_alike(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Raise TypeError or ValueError unless both are floating-point tensors of the same shape on the same device."""
    check_floating(name_a, a)
    check_floating(name_b, b)
    if a.shape != b.shape:
        raise ValueError(f"{name_a} and {name_b} must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.device != b.device:
        raise ValueError(f"{name_a} and {name_b} must be on the same device, got {a.device} and {b.device}")


def check_matrix(mu: Tensor) -> None:
    """Raise ValueError unless it has rows and columns."""
    if mu.dim() != 2:
        steps = "; rows may be steps of sequences: mu.flatten(0, -2)" if mu.dim() > 2 else ""
        raise ValueError(f"mu must have shape [B, κ], got {tuple(mu.shape)}{steps}")


def check_of_samples(name: str, tensor: Tensor, like: Tensor) -> None:
    """Raise ValueError unless the tensor has one element for each row of ``like``, on its device."""
    if tensor.shape != like.shape[:1] or tensor.device != like.device:
        raise ValueError(
            f"{name} must have shape ({like.shape[0]},), one number per sample, on {like.device}, "
            f"got {tuple(tensor.shape)} on {tensor.device}"
        )


def check_optional_rows(name: str, tensor: Tensor, mu: Tensor) -> Tensor:
    """``tensor`` as ``[B, κ]`` or ``[1, κ]``; raises unless it is one of these or ``[κ]``, on the device of ``mu``."""
    check_floating(name, tensor)
    rows, cols = mu.shape
    if tensor.device != mu.device:
        raise ValueError(f"{name} must be on the device of mu, {mu.device}, got {tensor.device}")
    if tensor.dim() == 1 and tensor.shape[0] == cols:
        return tensor.unsqueeze(0)
    if tensor.dim() != 2 or tensor.shape[1] != cols or tensor.shape[0] not in (1, rows):
        raise ValueError(
            f"{name} must have the shape of mu, {(rows, cols)}, or one row for all, {(cols,)} or {(1, cols)}, "
            f"got {tuple(tensor.shape)}"
        )
    return tensor


def check_prior(
    prior_mu: Tensor | None, prior_log_var: Tensor | None, mu: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Both as :func:`check_optional_rows` gives them, or neither."""
    if prior_mu is None and prior_log_var is None:
        return None, None
    if prior_mu is None or prior_log_var is None:
        missing = "prior_mu" if prior_mu is None else "prior_log_var"
        raise ValueError(f"prior_mu and prior_log_var must be given together, but {missing} is None")
    return check_optional_rows("prior_mu", prior_mu, mu), check_optional_rows("prior_log_var", prior_log_var, mu)


def check_first_row(first_row: Any, rows: int) -> int:
    """As an int; raises ValueError unless the numbers of ``rows`` rows, and of the next one, fit an int64."""
    number = integer(first_row)
    # From 0 any batch fits. torch.export would take the comparison for a limit on its size.
    if number is None or number < 0 or (number > 0 and number > 2**63 - 1 - rows):
        raise ValueError(f"first_row must be an integer from 0 to 2**63 - 1 - B for B = {rows} rows, got {first_row!r}")
    return number


def check_flag(name: str, value: Any) -> None:
    """Raise TypeError unless it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def real(name: str, value: Any, expected: str = "a real number") -> float:
    """As a float; raises TypeError unless it is a real number, NumPy's included, ValueError if it is too large."""
    if type(value) is float:
        return value
    # To torch.compile a NumPy scalar is an array.
    if not isinstance(value, Real) and not (torch.compiler.is_compiling() and isinstance(value, np.ndarray)):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number that a float can hold, got {value!r}") from None


def accumulation_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 if a tensor is float64, else float32: sums over features and latents are never in half precision."""
    for tensor in tensors:
        if tensor is not None and tensor.dtype == torch.float64:
            return torch.float64
    return torch.float32


def integer(value: Any) -> int | None:
    """The value as an int, NumPy's integers included; None if it is not an integer. A bool does not count as one."""
    if isinstance(value, int):  # or a SymInt, which stays one
        return None if isinstance(value, bool) else value
    try:
        return None if isinstance(value, np.bool_) else operator.index(value)  # to earlier versions of NumPy, 1
    except (TypeError, RuntimeError):  # of torch, inside vmap, where each sample has its own
        return None
