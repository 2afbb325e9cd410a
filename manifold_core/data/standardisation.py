"""From the units of the user's data to those of a model, and back."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError

__all__ = ["Standardisation"]


@dataclass(frozen=True)
class Standardisation:
    """x ↦ (x − mean) / scale; as it is made without arguments it changes nothing.

    One scale for all features: γ is one number, too, and a manifold keeps its dimension. Of what was measured in the
    model's units, recon and γ are ``scale²`` times as large in those of the data, and −ELBO and NLL of d features
    greater by d log scale.

    Attributes:
        mean: float64, ``[d]`` for vectors, one number ``[]`` for images.
        scale: the standard deviation, of all features together.
    """

    mean: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    scale: float = 1.0

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

    def _check(self, x: Tensor) -> None:
        if self.mean.dim() and x.shape[-1:] != self.mean.shape:
            raise InputError(f"x must be of shape [..., {len(self.mean)}], got shape {tuple(x.shape)}")
