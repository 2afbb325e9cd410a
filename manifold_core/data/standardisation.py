"""From the units of the user's data to those of a model, and back."""

import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..arguments import check_number, described
from ..brief import brief
from ..errors import InputError
from ..networks.checks import check_widths
from .blocks import blocks
from .checks import as_array, as_tensor

__all__ = ["Standardisation"]

# The column that varies most may vary this many times as much as the lower quartile of those that vary. A fourth
# dimension in a column of its own beside ten of another manifold was read at 3 and 10 times, at 30 not always.
UNLIKE = 30.0
SMALLEST = math.sqrt(sys.float_info.min)
FAR = 30.0  # the scale may be this many times the distance of half of the samples
APART = 10.0  # a sample may be this many times as far from the mean as the next: see docs/notes.md


@dataclass(frozen=True, eq=False)  # tensors compare element by element
class Standardisation:
    """x ↦ (x − mean) / scale; without arguments it changes nothing.

    One scale for all features: γ is one number for all of them, and a manifold keeps its dimension. In units of the
    data, recon and γ are scale² times what they are in the model's, and NLL and −ELBO of d features greater by d log
    scale.

    Attributes:
        mean: float64, ``[d]`` for vectors, one number ``[]`` for images; numbers become a tensor.
        scale: above 0; the standard deviation, of all features together.
        sample_shape: of one sample as the model takes it, if known: ``apply`` gives samples of that shape, adding a
            channel that the data lack, or flattening images.

    Raises:
        InputError: ``scale`` is not a positive, finite number, ``mean`` not of finite numbers, or ``sample_shape`` not
            of positive integers.
    """

    mean: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64, device="cpu"))
    scale: float = 1.0
    sample_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        # Also from as_dict.
        try:
            mean = torch.as_tensor(self.mean, dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            mean = None
        if mean is None or mean.dim() > 1 or not mean.isfinite().all():
            raise InputError(f"mean must be finite, one number or one for each feature, got {described(self.mean)}")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "scale", check_number("scale", self.scale))
        if self.sample_shape is not None:
            object.__setattr__(self, "sample_shape", check_widths(self.sample_shape, "sample_shape"))

    def __repr__(self) -> str:
        return f"Standardisation(mean={brief(self.mean)}, scale={brief(self.scale)}, sample_shape={self.sample_shape})"

    @classmethod
    def of(cls, x: Any) -> "Standardisation":
        """mean and scale of these samples, as ``manifold-core train`` standardises a file. Warns if one column varies
        30 times as much as a quarter of the others, as in a table of mixed units, and if a few samples lie ten times as
        far from the mean as all others.

        Args:
            x: ``[N, d]``, each feature with a mean of its own, or images ``[N, H, W]`` or ``[N, C, H, W]``, with one
                mean; of an integer or floating type, a tensor on any device or what np.asarray makes an array of.
                Computed in float64.

        Raises:
            InputError: not numbers, another shape, no samples, NaN or infinity, all samples the same, or a
                standard deviation below 1.5e-154.
        """
        source = as_array(x)
        if source.ndim not in (2, 3, 4) or source.size == 0:
            raise InputError(
                f"x must be of shape [N, d], [N, H, W] or [N, C, H, W], none of them 0, got {source.shape}"
            )
        if not all(np.isfinite(source[block]).all() for block in blocks(source)):
            raise InputError("x must be finite, got NaN or infinity")
        return cls.of_rows(source, np.arange(len(source)), "x")

    @classmethod
    def of_rows(cls, source: npt.NDArray[Any], rows: npt.NDArray[np.int64], where: str) -> "Standardisation":
        """The same for some rows of a large array of finite numbers, called ``where`` in errors; in two passes."""
        vectors = source.ndim == 2
        numbers = len(rows) * source[0].size

        def differences(origin: Any) -> Iterator[npt.NDArray[np.float64]]:
            return (source[rows[block]].astype(np.float64) - origin for block in blocks(source))

        # Summed as differences from one of them, numbers that are large beside their spread lose no digits.
        origin = source[rows[0]].astype(np.float64)
        origin = origin if vectors else origin.flat[0]
        sums, largest = 0.0, 0.0
        for part in differences(origin):
            sums = sums + part.sum(axis=0 if vectors else None)
            largest = max(largest, float(part.max(initial=0)), -float(part.min(initial=0)))
        if len(rows) == 1:
            raise InputError(
                f"{where}: one sample to standardise (others may be held out) has no variance; expected at least two"
            )
        if largest == 0 or all((source[rows[block]] == source[rows[0]]).all() for block in blocks(source)):
            raise InputError(
                f"{where}: all {len(rows)} samples to standardise are the same; expected features that vary"
            )
        mean = origin + sums / (len(rows) if vectors else numbers)
        # Squares of numbers below 1e-154 are lost in float64. A power of two rounds nothing.
        exponent = math.frexp(largest)[1]
        squares, of_each, of_samples = 0.0, np.zeros(source[0].shape if vectors else 0), []
        for part in differences(mean):
            square = np.square(np.ldexp(part, -exponent))
            squares += float(square.sum())
            of_samples.append(square.sum(axis=tuple(range(1, square.ndim))))
            of_each += square.sum(axis=0) if vectors else 0
        scale = math.ldexp(math.sqrt(squares / numbers), exponent)
        if scale < SMALLEST:
            raise InputError(
                f"{where}: standard deviation {scale:.2g}; expected at least {SMALLEST:.2g}, whose square, the factor "
                f"of recon and gamma in the units of the data, float64 can hold; multiply the samples by a number"
            )
        _warn_of_units(where, np.sqrt(of_each))
        _warn_of_far_samples(where, rows, np.sqrt(np.concatenate(of_samples)))
        return cls(torch.as_tensor(mean, dtype=torch.float64, device="cpu"), scale)

    def apply(self, x: Any) -> Tensor:
        """(x − mean) / scale, float32: samples as the model takes them.

        Args:
            x: ``[..., d]``, or images of any shape, in the units of the data and of an integer or floating type, a
                tensor or what np.asarray makes an array of; computed in float64, so that a mean far from 0 costs no
                digits if x comes in float64.

        Raises:
            InputError: not numbers, vectors of another length, or samples of another size than ``sample_shape``.
        """
        x = self._checked(x)
        return self._as_samples(((x.double() - self.mean.to(x.device)) / self.scale).float())

    def undo(self, x: Any) -> Tensor:
        """x · scale + mean, float64: samples or reconstructions of the model in the units of the data.

        Raises:
            InputError: not numbers, or vectors of another length.
        """
        x = self._checked(x)
        return x.double() * self.scale + self.mean.to(x.device)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, of which JSON keeps all digits."""
        return {"mean": self.mean.tolist(), "scale": self.scale}

    def _checked(self, x: Any) -> Tensor:
        tensor = as_tensor(x)
        if self.mean.dim() and tensor.shape[-1:] != self.mean.shape:
            raise InputError(f"x must be of shape [..., {len(self.mean)}], got shape {tuple(tensor.shape)}")
        return tensor

    def _as_samples(self, x: Tensor) -> Tensor:
        """Images in the shape that the model takes, if it is known; vectors as they are."""
        if self.mean.dim() or self.sample_shape is None:
            return x
        if x.dim() == 0 or x.shape[1:].numel() != math.prod(self.sample_shape):
            sizes = ", ".join(map(str, self.sample_shape))
            raise InputError(f"x must be of shape [N, {sizes}], or as many numbers per sample, got {tuple(x.shape)}")
        return x.reshape(len(x), *self.sample_shape)


def _warn_of_units(where: str, spreads: npt.NDArray[np.float64]) -> None:
    """Warn if one column outweighs most others, as in a table of unlike units: what the others hold is too small to be
    learned beside it. Images with pixels that hardly vary are not such a table: for MNIST the ratio is 13."""
    varying = np.flatnonzero(spreads)
    if len(varying) < 2:
        return
    ascending = varying[np.argsort(spreads[varying], kind="stable")]
    small, large = ascending[(len(varying) - 1) // 4], ascending[-1]
    if (ratio := spreads[large] / spreads[small]) > UNLIKE:
        warnings.warn(
            f"{where}: column {large} varies {ratio:.3g} times as much as column {small} (counted from 0), and all "
            "columns are divided by the same number: the others may not be learned, and the dimension may be wrong; if "
            "their units differ, divide each column by its own standard deviation first",
            stacklevel=3,
        )


def _warn_of_far_samples(where: str, rows: npt.NDArray[np.int64], distances: npt.NDArray[np.float64]) -> None:
    """Warn if a few samples lie apart from all others, because of a mistyped number, or of -9999 for a missing one; or
    if most hardly vary beside the rest."""
    order = distances.argsort(kind="stable")
    ascending, far = distances[order], f"row {rows[order[-1]]} (counted from 0)"
    squares = np.square(ascending).cumsum()
    first = len(rows) - max(len(rows) // 10, 1)  # a tenth, or one, may be few
    apart = first + np.flatnonzero(ascending[first:] > APART * ascending[first - 1 : -1])
    if len(apart):
        few, share = len(rows) - apart[0], 1 - squares[apart[0] - 1] / squares[-1]
        lie = f"{far} lies" if few == 1 else f"{few} samples, the farthest in {far}, lie"
        what = f"{lie} more than {APART:g} times as far from the mean as all others, with {share:.1%} of the variance"
    elif (scale := math.sqrt(squares[-1] / len(rows))) > FAR * (typical := float(np.median(distances))):
        what = f"{far} lies so far from the others that half of them are within {typical / scale:.2g} of the scale"
    else:
        return
    warnings.warn(
        f"{where}: {what}: the others may not be learned, and the dimension may be wrong; is a number there mistyped, "
        "or does it stand for a missing value?",
        stacklevel=3,
    )
