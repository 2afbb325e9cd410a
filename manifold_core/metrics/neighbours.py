"""The dimension by nearest neighbours: a second opinion without a network."""

import math
from typing import Any

import torch
from torch import Tensor

from ..data.checks import as_array, as_tensor
from ..errors import InputError
from ..models.checks import check_tensor
from .subset import some_rows

__all__ = ["MOST_SAMPLES", "two_nn", "two_nn_of_cube"]

MOST_SAMPLES = 5_000  # distances grow with the square of their number
KEPT = 0.9  # the share of the ratios that the line is laid through
ROWS = 512  # of distances at a time


@torch.no_grad()
def two_nn(x: Any) -> float | None:
    """The dimension by each sample's two nearest neighbours (TwoNN): d of P(r₂/r₁ > μ) = μ⁻ᵈ, where r₁ and r₂ are its
    distances to them, as the slope through the origin of −log(1 − F(μ)) over log μ, without the largest tenth of the
    ratios.

    Neighbours see the manifold at a scale where it is flat. They count noise as dimensions, and see too few beyond
    about ten, since there are never enough samples.

    Args:
        x: ``[N, ...]``, N samples (``[N]``: of one number each), in any units, integer or floating: a tensor on any
            device or what np.asarray accepts. From more than 5,000 samples it takes 5,000 at random (tables are often
            sorted), always the same, and from equal samples one. Computed in float64.

    Returns:
        The dimension; None if fewer than ten samples differ, or too little for float64 to tell, or if the ratios are
        not those of samples drawn at random, as on a grid or a regularly sampled curve.

    Raises:
        InputError: no numbers, a single number, or NaN or infinity.

    Source: Facco, d'Errico, Rodriguez and Laio, "Estimating the intrinsic dimension of datasets by a minimal
    neighborhood information", 2017.
    """
    source = x if isinstance(x, Tensor) else as_array(x)
    if isinstance(source, Tensor):
        check_tensor("x", source)
    elif source.ndim == 0:
        raise InputError(f"x must be of shape [N, ...], got a single number, {source}")
    x = as_tensor(_some(source))[:, None].flatten(1).double()
    if not x.isfinite().all():
        raise InputError("x must be finite, got NaN or infinity")
    x = x.unique(dim=0) if x.numel() else x
    if len(x) < 10:
        return None
    ratios = _ratios(x - x.mean(dim=0))
    kept = ratios.sort().values[: int(KEPT * len(ratios))].log()
    below = torch.arange(1, len(kept) + 1, dtype=torch.float64, device=x.device) / max(len(ratios), 1)
    squares = float(kept.square().sum())
    if squares == 0:
        return None
    dimension = float(-(1 - below).log() @ kept) / squares
    # Kolmogorov and Smirnov's distance from 1 − μ⁻ᵈ. For the first 38 manifolds of benchmarks/estimators.py, and MNIST,
    # it is 0.02 at most, for 200 samples 0.11; for circles and surfaces on a grid 0.17 to 0.8.
    distance = float((1 - (-dimension * kept).exp() - below).abs().max())
    at_random = distance <= 0.1 + 2 / math.sqrt(len(ratios)) and dimension <= 2 * x.shape[1]
    return dimension if at_random else None


def two_nn_of_cube(dimension: int, samples: int) -> float | None:
    """What :func:`two_nn` sees of this many samples, uniform in a cube of that dimension: too few, the more it has."""
    draw = torch.Generator().manual_seed(0)
    size = min(samples, MOST_SAMPLES), dimension
    return two_nn(torch.rand(size, generator=draw, dtype=torch.float64, device="cpu"))


def _some(x: Any) -> Any:
    """At most MOST_SAMPLES of the rows, in their order."""
    if len(x) <= MOST_SAMPLES:
        return x
    drawn = some_rows(len(x), MOST_SAMPLES)
    return x[drawn.to(x.device)] if isinstance(x, Tensor) else x[drawn.numpy()]


def _ratios(x: Tensor) -> Tensor:
    """r₂/r₁ of the samples whose neighbours float64 can tell from themselves."""
    norms = x.square().sum(dim=1)
    # Of |a|² + |b|² − 2ab this much is rounding.
    least = 8 * torch.finfo(torch.float64).eps * math.sqrt(x.shape[1]) * float(norms.max())
    found = []
    for first in range(0, len(x), ROWS):
        rows = slice(first, first + ROWS)
        squared = norms[rows, None] + norms - 2 * x[rows] @ x.T
        squared.diagonal(first).fill_(math.inf)  # a sample is no neighbour of itself
        nearest, second = squared.topk(2, dim=1, largest=False).values.unbind(1)
        found.append((second[nearest > least] / nearest[nearest > least]).sqrt())
    return torch.cat(found)
