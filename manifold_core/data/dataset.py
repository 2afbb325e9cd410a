"""What every loader returns."""

from dataclasses import dataclass, field, fields

from torch import Tensor

from ..brief import brief
from .encoding import Encoding
from .standardisation import Standardisation

__all__ = ["Dataset"]


@dataclass(frozen=True, eq=False)  # tensors compare element by element
class Dataset:
    """Training and validation samples of one data set.

    Args:
        name: short name for reports, for example ``"fashion-mnist"``.
        train: ``[N, d]`` or ``[N, C, H, W]``, float32, finite, CPU.
        validation: held-out samples of the same feature shape and dtype.
        train_labels, validation_labels: ``[N]`` int64, if there are classes.
        manifold_dim: r, if it is known and one number.
        train_condition, validation_condition: c of every sample, ``[N, t]`` or ``[N, steps, d]``, float32, finite, CPU,
            if there is one.
        standardisation: made the samples from what the source holds.
        condition_encoding: made the conditions from those that the user gave, if any.
    """

    name: str
    train: Tensor
    validation: Tensor
    train_labels: Tensor | None = None
    validation_labels: Tensor | None = None
    manifold_dim: int | None = None
    train_condition: Tensor | None = None
    validation_condition: Tensor | None = None
    standardisation: Standardisation = field(default_factory=Standardisation)
    condition_encoding: Encoding | None = None

    def __repr__(self) -> str:
        """Its name and the shapes of what it holds."""
        parts = {one.name: getattr(self, one.name) for one in fields(self)}
        shapes = (f"{name}={brief(part)}" for name, part in parts.items() if isinstance(part, Tensor))
        return f"Dataset({', '.join([repr(self.name), *shapes])})"
