"""From the units of the user's data to those of a model, and back."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

__all__ = ["Standardisation"]


@dataclass(frozen=True)
class Standardisation:
    """x ↦ (x − mean) / scale; without arguments it changes nothing.

    One scale for all features: γ is one number for all of them, and a manifold keeps its dimension. In the units of the
    data recon and γ are scale² times what they are in the model's, and NLL and −ELBO of d features greater by
    d log scale.

    Attributes:
        mean: float64, ``[d]`` for vectors, one number ``[]`` for images.
        scale: above 0; the standard deviation, of all features together.

    Raises:
        InputError: ``scale`` is not positive and finite.
    """

    mean: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise InputError(f"scale must be a positive, finite number, got {self.scale!r}")

    def apply(self, x: Tensor) -> Tensor:
        """(x − mean) / scale, float32: samples as the model takes them.

        Args:
            x: ``[..., d]``, or images of any shape, in the units of the data and of any real type; computed in float64,
                so that a mean far from 0 costs no digits if x comes in float64.

        Raises:
            InputError: vectors of another length.
        """
        self._check(x)
        return ((x.double() - self.mean.to(x.device)) / self.scale).float()

    def undo(self, x: Tensor) -> Tensor:
        """x · scale + mean, float64: samples or reconstructions of the model in the units of the data.

        Raises:
            InputError: vectors of another length.
        """
        self._check(x)
        return x.double() * self.scale + self.mean.to(x.device)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, of which JSON keeps all digits."""
        return {"mean": self.mean.tolist(), "scale": self.scale}

    def _check(self, x: Tensor) -> None:
        if self.mean.dim() and x.shape[-1:] != self.mean.shape:
            raise InputError(f"x must be of shape [..., {len(self.mean)}], got shape {tuple(x.shape)}")
