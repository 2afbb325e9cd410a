"""The data sets that an ensemble is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checkpoint import fingerprint
from ..errors import InputError
from .spec import ModelSpec

__all__ = ["DataSet", "check_data", "check_specs"]

DataSet = Tensor | tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Samples:
    """One data set.

    Attributes:
        x: ``[N, d]``.
        condition: ``[N, t]``, or None.
    """

    x: Tensor
    condition: Tensor | None

    @property
    def condition_dim(self) -> int:
        return 0 if self.condition is None else self.condition.shape[1]

    def joined(self) -> Tensor:
        """``[N, d + t]``: what belongs to a sample stands together, as the engines read it."""
        return (self.x if self.condition is None else torch.cat((self.x, self.condition), dim=1)).contiguous()

    def fingerprint(self) -> str:
        return fingerprint(self.joined())


def check_data(data: DataSet | Sequence[DataSet]) -> list[Samples]:
    """One data set or a list of them; each ``x``, or ``(x, condition)``.

    Raises:
        InputError: a tensor is not float32 of two dimensions, has no samples, or numbers that are not finite; they
            lie on different devices; x and condition differ in length.
    """
    found = []
    for index, item in enumerate(data if isinstance(data, list) else [data]):
        name = f"data[{index}]"
        parts = item if isinstance(item, tuple) else (item,)
        if len(parts) not in (1, 2) or not all(isinstance(part, Tensor) for part in parts):
            raise InputError(f"{name} must be a tensor x or a pair (x, condition), got {type(item).__name__}")
        for part, what in zip(parts, ("x", "condition"), strict=False):
            _check(f"{name}: {what}", part)
        samples = Samples(parts[0].detach(), parts[1].detach() if len(parts) == 2 else None)
        if samples.condition is not None and len(samples.condition) != len(samples.x):
            raise InputError(
                f"{name}: condition must have {len(samples.x)} rows, one a sample, got {len(samples.condition)}"
            )
        found.append(samples)
    if not found:
        raise InputError("data must hold at least one data set, got none")
    devices = sorted({str(part.device) for s in found for part in (s.x, s.condition) if part is not None})
    if len(devices) > 1:
        raise InputError(f"data must lie on one device, got {', '.join(devices)}")
    for index, samples in enumerate(found):
        _check_finite(f"data[{index}]: x", samples.x)
        if samples.condition is not None:
            _check_finite(f"data[{index}]: condition", samples.condition)
    return found


def _check(name: str, tensor: Tensor) -> None:
    if tensor.dim() != 2 or tensor.dtype != torch.float32 or tensor.numel() == 0:
        raise InputError(f"{name} must be float32 [N, features], not empty, got {tensor.dtype} {tuple(tensor.shape)}")
    if len(tensor) >= 2**31:
        raise InputError(f"{name} must have fewer than 2**31 samples, got {len(tensor)}")


def _check_finite(name: str, tensor: Tensor) -> None:
    finite = tensor.isfinite().all(dim=1)
    if not finite.all():
        raise InputError(f"{name} must be finite, but row {int((~finite).nonzero()[0])} holds NaN or an infinity")


def check_specs(specs: Sequence[ModelSpec], data: list[Samples]) -> None:
    """That each model can be trained on the data set it names.

    Raises:
        InputError: says which specification, and what it must be.
    """
    if not specs:
        raise InputError("specs must hold at least one specification, got none")
    for index, spec in enumerate(specs):
        if not isinstance(spec, ModelSpec):
            raise InputError(f"specs[{index}] must be a ModelSpec, got {type(spec).__name__}")
        if isinstance(spec.data, bool) or not isinstance(spec.data, int) or not 0 <= spec.data < len(data):
            raise InputError(f"specs[{index}]: data must be a number from 0 to {len(data) - 1}, got {spec.data!r}")
        given = data[spec.data].condition_dim
        if spec.condition_dim != given:
            raise InputError(
                f"specs[{index}]: condition_dim must be the width of the condition of data[{spec.data}], "
                f"{given or '0: it has none'}, got {spec.condition_dim}"
            )
