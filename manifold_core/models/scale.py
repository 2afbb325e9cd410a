"""Warnings of data on a scale for which our networks are not made."""

import math
import warnings

import torch
from torch import Tensor

__all__ = ["warn_of_condition", "warn_of_scale"]

# docs/notes.md has the measurements. Of x, root mean square:
SMALL, LARGE = 0.03, 10.0
# Of a column of a condition, the standard deviation, that over its mean, and the mean:
NARROW, NARROW_BESIDE_MEAN, FAR = 0.01, 0.05, 2.0


def warn_of_scale(name: str, x: Tensor) -> None:
    """Warn if x is far from a scale of 1, for which our networks, γ and learning rates are made: dimensions read off
    such a training can be wrong, with a wide gap."""
    x = x.detach()
    spread = float(x.var(dim=0, correction=0).mean().sqrt())  # of equal samples there is nothing to scale
    if 0 < spread < SMALL:
        found = f"varies by about {spread:.3g}"
    elif (size := _size(x)) > LARGE:
        found = f"is about {size:.3g} in size"
    else:
        return
    warnings.warn(
        f"{name} {found}, but training expects about 1: the dimension may be wrong; standardise it with "
        "mc.Standardisation.of(x).apply(x)",
        stacklevel=3,
    )


def warn_of_condition(name: str, condition: Tensor | None, dtype: torch.dtype | None) -> None:
    """Warn if a condition is far greater than 1, at which the networks that read it may blow up, or a column of it
    varies too little for them to see, or lies far from 0: the dimensions read off can then be wrong, with a wide gap. A
    column of 0 and 1 does no harm, such as that of a class of many in one-hot form.

    Args:
        dtype: of the numbers that the encoder takes it for; None if it takes integers for labels.
    """
    if condition is None or condition.numel() == 0 or not (condition.is_floating_point() or dtype is not None):
        return
    condition = condition.detach() if condition.dtype == torch.float64 else condition.detach().float()
    over = {2: "0", 3: "(0, 1)"}.get(condition.dim(), "")  # the steps of a sequence have one scale
    if (size := _size(condition)) > LARGE:
        found, danger = f"is about {size:.3g} in size, but training expects about 1", "the loss may blow up"
    elif badly_scaled := _badly_scaled(condition.reshape(-1, condition.shape[-1] if over else 1)):
        column, spread, mean = badly_scaled
        found = f"varies by about {spread:.3g} around {mean:.3g} in column {column}, but training expects 1 around 0"
        danger = "the dimension may be wrong"
    else:
        return
    of_one_series = "; if these are the steps before x, x with the same numbers" if condition.dim() == 3 else ""
    warnings.warn(
        f"{name} {found}: {danger}; standardise it with (condition - condition.mean({over})) / condition.std({over}), "
        f"without columns that do not vary{of_one_series}",
        stacklevel=3,
    )


def _badly_scaled(columns: Tensor) -> tuple[int, float, float] | None:
    """The first column that varies too little, or is too far from 0, with its standard deviation and mean."""
    spread, mean = torch.std_mean(columns, dim=0, correction=0)
    lowest, highest = columns.aminmax(dim=0)
    narrow = (lowest < highest) & ((spread < NARROW) | (spread < NARROW_BESIDE_MEAN * mean.abs()))
    far = (mean.abs() > FAR) & (mean.abs() > spread)
    flags = ((columns == 0) | (columns == 1)).all(dim=0)
    found = ((narrow | far) & ~flags).nonzero()
    if len(found) == 0:
        return None
    column = int(found[0])
    return column, float(spread[column]), float(mean[column])


def _size(x: Tensor) -> float:
    """Root mean square."""
    return float(torch.linalg.vector_norm(x.detach())) / math.sqrt(x.numel()) if x.numel() else 0.0
