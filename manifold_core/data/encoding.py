"""From a condition as users have it to what the networks of a CVAE take."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..brief import brief
from ..errors import InputError
from .checks import as_array, as_tensor, check_within_float32, in_numbers

__all__ = ["TO_LABELS", "Columns", "Encoding", "OneHot", "checked_condition", "encoding_of", "listed"]

TO_LABELS = "np.unique(labels, return_inverse=True)[1] turns words into integers"  # the hint for words
MOST_CLASSES = 4096  # a number each in every sample; labels with more values are likely to be prices, or times


@dataclass(frozen=True)
class OneHot:
    """Class labels: label k ↦ the unit vector of its place among all classes.

    Attributes:
        classes: the labels, integers, ascending.
    """

    classes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(map(int, self.classes)))  # also from as_dict

    @property
    def width(self) -> int:
        """How many numbers one condition has."""
        return len(self.classes)

    def places(self, c: Any) -> Tensor:
        """The places of labels ``[N]``, integers or booleans, among the classes: int64, on the device of the labels.

        Raises:
            InputError: not such labels, or one of another class.
        """
        labels = as_array(c, "condition", truth=True)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise InputError(
                f"condition must be class labels, integers of shape [N], got shape {labels.shape} of {labels.dtype}"
            )
        found, which = np.unique(labels, return_inverse=True)
        place = {label: index for index, label in enumerate(self.classes)}
        if unknown := [label for label in found.tolist() if label not in place]:
            raise InputError(f"condition must be of the classes {listed(self.classes)}, got {listed(unknown)}")
        of_each = torch.tensor([place[label] for label in found.tolist()], dtype=torch.int64, device="cpu")
        places = of_each[torch.from_numpy(which)]
        return places.to(c.device) if isinstance(c, Tensor) else places

    def apply(self, c: Any) -> Tensor:
        """float32 ``[N, classes]`` of labels ``[N]``, as the model takes them; raises what :meth:`places` does."""
        places = self.places(c)
        made = torch.zeros(len(places), self.width, dtype=torch.float32, device=places.device)
        return made.scatter_(1, places[:, None], 1.0)

    def as_dict(self) -> dict[str, Any]:
        """As it comes back from JSON."""
        return {"classes": list(self.classes)}


@dataclass(frozen=True, eq=False)  # tensors compare element by element
class Columns:
    """Numbers: c ↦ (c − mean) / scale, column by column.

    Each column has a scale of its own, unlike those of x: no γ is shared between them.

    Attributes:
        mean, scale: float64 ``[t]``; numbers become tensors.
    """

    mean: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        for name in ("mean", "scale"):
            value = torch.as_tensor(getattr(self, name), dtype=torch.float64, device="cpu")
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Columns(mean={brief(self.mean)}, scale={brief(self.scale)})"

    @classmethod
    def of_rows(cls, source: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> "Columns":
        """From mean and standard deviation of these rows of ``[N, t]``; a column that does not vary keeps its scale."""
        chosen = source[rows].astype(np.float64)
        deviation = chosen.std(axis=0)
        scale = np.where((chosen == chosen[0]).all(axis=0) | (deviation == 0), 1.0, deviation)
        return cls(torch.from_numpy(chosen.mean(axis=0)), torch.from_numpy(scale))

    @property
    def width(self) -> int:
        """How many numbers one condition has."""
        return len(self.mean)

    def apply(self, c: Any) -> Tensor:
        """float32 ``[N, t]`` of numbers ``[N, t]``, or ``[N]`` if t is 1, as the model takes them.

        Raises:
            InputError: not numbers, or of another shape.
        """
        numbers = as_tensor(c, "condition", truth=True)
        if numbers.dim() == 1 and self.width == 1:
            numbers = numbers[:, None]
        if numbers.dim() != 2 or numbers.shape[1] != self.width:
            raise InputError(f"condition must be of shape [N, {self.width}], got {tuple(numbers.shape)}")
        return ((numbers.double() - self.mean.to(numbers.device)) / self.scale.to(numbers.device)).float()

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, of which JSON keeps all digits."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}


Encoding = OneHot | Columns


def checked_condition(source: npt.NDArray[Any], samples: int, where: str) -> npt.NDArray[Any]:
    """Labels ``[N]``, integers or booleans, or numbers ``[N, t]``; a floating-point array of one dimension has t = 1.

    Raises:
        InputError: none of these, not one for each sample, NaN or infinity, all the same, or nearly as many classes as
            samples.
    """
    source = in_numbers(source)
    if source.dtype.kind not in "iuf":
        hint = f"; {TO_LABELS}" if source.dtype.kind in "SU" else ""
        raise InputError(f"{where}: array of type {source.dtype}; expected bool, an integer or a floating type{hint}")
    if source.ndim not in (1, 2) or source.size == 0:
        raise InputError(f"{where}: array of shape {source.shape}; expected class labels (N,) or numbers (N, t)")
    if len(source) != samples:
        raise InputError(f"{where}: {len(source)} conditions; expected one for each of the {samples} samples")
    if source.ndim == 1 and source.dtype.kind == "f":
        source = source[:, None]
    check_within_float32(source, where)
    if (source == source[0]).all():
        raise InputError(f"{where}: all {samples} conditions are the same; expected some that differ")
    most = min(samples // 2, MOST_CLASSES)
    if source.ndim == 1 and (classes := len(np.unique(source))) > most:
        raise InputError(
            f"{where}: {classes} different labels for {samples} samples; expected at most {most} classes, or numbers "
            f"of shape (N, 1)"
        )
    return source


def encoding_of(source: npt.NDArray[Any], rows: npt.NDArray[np.int64], standardise: bool) -> Encoding:
    """The encoding of what :func:`checked_condition` gives; numbers are scaled by these rows, or left as they are."""
    if source.ndim == 1:
        return OneHot(tuple(np.unique(source).tolist()))
    return Columns.of_rows(source, rows) if standardise else Columns(*_unchanged(source.shape[1]))


def _unchanged(width: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(width), torch.ones(width)


def listed(labels: Sequence[int]) -> str:
    """For a message: the first few, since there may be many."""
    shown = [str(label) for label in labels[:12]]
    return ", ".join([*shown, "…"] if len(labels) > len(shown) else shown)
