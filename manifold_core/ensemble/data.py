"""The data sets that an ensemble is trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import check_integer
from ..errors import InputError
from ..models.checks import check_exact, check_finite, check_tensor
from ..networks.checks import is_image
from ..storage.checkpoint import fingerprint
from .spec import BaseSpec, ConvSpec, SequentialSpec, Spec, check_kinds

__all__ = ["Samples", "SamplesLike", "check_data", "check_specs"]

SamplesLike = Tensor | tuple[Tensor] | tuple[Tensor, Tensor]
# The shape of each part, by the number of its dimensions.
SHAPES = {
    "x": {2: "[N, features]", 4: "[N, channels, height, width]"},
    "condition": {2: "[N, features]", 3: "[N, steps, features]"},
}
PAIR = "; give x and its condition as a tuple (x, condition): a list holds data sets"


@dataclass(frozen=True)
class Samples:
    """One data set.

    Attributes:
        x: ``[N, d]``, or images ``[N, C, H, W]``.
        condition: ``[N, t]``, for sequences ``[N, T, d]``, or None.
    """

    x: Tensor
    condition: Tensor | None

    @property
    def parts(self) -> tuple[Tensor] | tuple[Tensor, Tensor]:
        """x, and the condition if there is one, as :func:`manifold_core.train_ensemble` takes them."""
        return (self.x,) if self.condition is None else (self.x, self.condition)

    def to(self, device: str) -> "Samples":
        return Samples(self.x.to(device), None if self.condition is None else self.condition.to(device))

    @property
    def condition_shape(self) -> tuple[int, ...]:
        """The shape of one condition; () if there is none."""
        return () if self.condition is None else tuple(self.condition.shape[1:])

    @property
    def copied(self) -> int:
        """Numbers that :meth:`joined` copies."""
        if self.condition is not None:
            return self.x.numel() + self.condition.numel()
        return 0 if self.x.is_contiguous() else self.x.numel()

    def joined(self) -> Tensor:
        """``[N, d + t]``: what belongs to a sample stands together, as the engines read it."""
        parts = [part.flatten(1) for part in self.parts]
        return (torch.cat(parts, 1) if len(parts) > 1 else parts[0]).contiguous()

    def fingerprint(self) -> str:
        return fingerprint(self.joined())


def check_data(data: SamplesLike | Sequence[SamplesLike]) -> list[Samples]:
    """One data set or a list of them; each ``x``, or ``(x, condition)``. Integers and booleans in a condition, such as
    labels in one-hot form, become float32.

    Raises:
        InputError: a tensor is not float32 of two dimensions or four, a condition not of two or three, or it has no
            samples, or numbers that are not finite, or integers that float32 cannot hold; they lie on different
            devices; x and condition differ in length.
    """
    found = []
    for index, item in enumerate(data if isinstance(data, list) else [data]):
        name = f"data[{index}]"
        parts = item if isinstance(item, tuple) else (item,)
        if len(parts) not in (1, 2) or not all(isinstance(part, Tensor) for part in parts):
            array = hasattr(item, "__array__")
            raise InputError(
                f"{name} must be a tensor x or a pair (x, condition), got {type(item).__name__}"
                f"{'; torch.as_tensor(…, dtype=torch.float32) converts it' if array else ''}"
            )
        for part, of in zip(parts, ("x", "condition"), strict=False):
            check_tensor(f"{name}: {of}", part)
        _check(f"{name}: x", parts[0], SHAPES["x"], PAIR if index and not isinstance(item, tuple) else "")
        samples = Samples(parts[0].detach(), _condition(f"{name}: condition", parts[1]) if len(parts) == 2 else None)
        if samples.condition is not None and len(samples.condition) != len(samples.x):
            raise InputError(
                f"{name}: condition must have {len(samples.x)} rows, one per sample, got {len(samples.condition)}"
            )
        found.append(samples)
    if not found:
        raise InputError("data must hold at least one data set, got none")
    devices = sorted({str(part.device) for s in found for part in (s.x, s.condition) if part is not None})
    if len(devices) > 1:
        raise InputError(f"data must lie on one device, got {', '.join(devices)}")
    for index, samples in enumerate(found):
        check_finite(f"data[{index}]: x", samples.x)
        if samples.condition is not None:
            check_finite(f"data[{index}]: condition", samples.condition)
    return found


def _condition(name: str, given: Tensor) -> Tensor:
    """As float32; a tensor of another shape stays as it is, for the error to name."""
    shapes, numbers = SHAPES["condition"], given.is_floating_point() or given.is_complex()
    made = given.float() if not numbers and given.dim() in shapes else given.detach()
    labels = not numbers and given.dim() == 1
    _check(name, made, shapes, "; for labels, torch.nn.functional.one_hot(labels)" if labels else "")
    check_exact(name, made, given)
    return made


def _check(name: str, tensor: Tensor, shapes: Mapping[int, str], hint: str = "") -> None:
    if tensor.dim() not in shapes or tensor.dtype != torch.float32 or tensor.numel() == 0:
        wanted = " or ".join(shapes.values())
        if tensor.dtype != torch.float32 and not tensor.is_complex() and not hint:
            hint = f"; {name.rpartition(': ')[2]}.float() converts it"
        raise InputError(f"{name} must be float32 {wanted}, not empty, got {tensor.dtype} {tuple(tensor.shape)}{hint}")
    if len(tensor) >= 2**31:
        raise InputError(f"{name} must have fewer than 2**31 samples, got {len(tensor)}")


def check_specs(given: Sequence[BaseSpec], data: list[Samples]) -> Sequence[Spec]:
    """The specifications, each of which can be trained on the data set it names.

    Raises:
        InputError: says which specification, and what it must be.
    """
    specs = check_kinds(given)
    for index, spec in enumerate(specs):
        check_integer(f"specs[{index}]: data", spec.data, 0, len(data) - 1)
        _check_samples(f"specs[{index}]", spec, data[spec.data])
        _check_condition(f"specs[{index}]", spec, data[spec.data])
    return specs


def _check_samples(name: str, spec: Spec, samples: Samples) -> None:
    shape = tuple(samples.x.shape)
    if isinstance(spec, ConvSpec):
        if not is_image(shape[1:]):
            raise InputError(
                f"{name}: x of data[{spec.data}] must be images [N, channels, height, width] for a ConvSpec, "
                f"height and width multiples of 4, got {shape}"
            )
    elif len(shape) != 2:
        raise InputError(
            f"{name}: x of data[{spec.data}] must be [N, features] for a {type(spec).__name__}, got {shape}"
        )


def _check_condition(name: str, spec: Spec, samples: Samples) -> None:
    shape, features = samples.condition_shape, samples.x.shape[1]
    if isinstance(spec, SequentialSpec):
        if len(shape) != 2 or shape[1] != features:
            got = "none" if samples.condition is None else f"shape {tuple(samples.condition.shape)}"
            raise InputError(
                f"{name}: condition of data[{spec.data}] must be [N, steps, {features}], the steps before x, got {got}"
                + (PAIR if samples.condition is None else "")
            )
    elif len(shape) == 2:
        raise InputError(
            f"{name}: data[{spec.data}] must have a condition [N, features] for a {type(spec).__name__}, "
            f"got a condition of shape {(len(samples.x), *shape)}"
        )
    elif spec.condition_dim != (given := sum(shape)):
        raise InputError(
            f"{name}: condition_dim must be the width of the condition of data[{spec.data}], "
            f"{given or '0: it has none'}, got {spec.condition_dim}"
            + (PAIR if samples.condition is None or spec.condition_dim == 0 else "")
        )
