"""Checks of arguments, shared by the ops: each error names the argument, its value and what was expected."""

import torch
from torch import Tensor

__all__ = ["accumulation_dtype", "check_alike", "check_floating"]


def check_floating(name: str, tensor: Tensor) -> None:
    """Raise TypeError for anything but a floating-point tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be of a floating-point dtype, got {tensor.dtype}")


def check_alike(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Raise TypeError or ValueError unless both are floating-point tensors of one shape on one device."""
    check_floating(name_a, a)
    check_floating(name_b, b)
    if a.shape != b.shape:
        raise ValueError(f"{name_a} and {name_b} must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.device != b.device:
        raise ValueError(f"{name_a} and {name_b} must be on the same device, got {a.device} and {b.device}")


def accumulation_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    """float64 where one is that, else float32: sums over features and latents are never done in half precision."""
    return torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
