"""What a model leaves of the samples: alike in all directions, as noise is, or mostly in a few that it has missed."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..models import CVAE, VAE
from .active import samples_at_a_time
from .subset import some_of

__all__ = ["SAMPLES", "directions_of_noise", "residual_directions", "residuals"]

SAMPLES = 2**11  # whose directions are counted


@torch.no_grad()
def residual_directions(model: VAE | CVAE, inputs: tuple[Tensor, ...]) -> float | None:
    """(Σ λ)²/Σ λ², λ the eigenvalues of the covariance of x − x̂(μ): along how many directions the residual lies.

    At the optimum all of the d − r directions that the manifold has not are alike to the decoder, whose variance γ is
    one number, and so they are in the residual, but for noise of unlike size. A direction of the manifold that has been
    missed is far larger than these: then it is 1 or 2. None if there is no residual, or no finite one.
    """
    residual = torch.cat([*residuals(model, inputs, SAMPLES)])
    residual = residual - residual.mean(dim=0)
    samples, features = residual.shape
    products = residual @ residual.T if samples < features else residual.T @ residual  # the same eigenvalues but for 0
    total, squares = float(products.trace()), float(products.square().sum())
    return total**2 / squares if 0 < squares < torch.inf else None


def directions_of_noise(dimensions: int, samples: int) -> float:
    """What :func:`residual_directions` is of noise that is alike in this many dimensions, N(0, 1): D N/(D + N) of N
    samples, since few samples of many features cannot lie along all of these."""
    samples = min(samples, SAMPLES)
    return dimensions * samples / (dimensions + samples)


def residuals(model: VAE | CVAE, inputs: tuple[Tensor, ...], most: int) -> Iterator[Tensor]:
    """x − x̂(μ) of at most this many of the samples, float64 ``[B, d]``, a batch at a time."""
    inputs = some_of(inputs, most)
    for batch in zip(*(part.split(samples_at_a_time(model, inputs, None)) for part in inputs), strict=True):
        yield (batch[0] - model.reconstruct(*batch)).double().flatten(1)
