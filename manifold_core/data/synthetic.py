"""Samples of a smooth manifold whose dimension is known."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import check_integer
from ..errors import InputError
from .dataset import Dataset
from .seeds import stream

__all__ = [
    "GaussianMixture",
    "Manifold",
    "gaussian_mixture",
    "normal",
    "project",
    "random_manifold",
    "random_projection",
    "sample_latents",
    "synthetic_manifold",
]

PAPER_WEIGHTS = (0.2, 0.3, 0.5, 0.3, 0.2)  # of the K components of the mixture, relative to their sum
PAPER_NOISE = 1.0  # the standard deviation of what is added to the mixture


@dataclass(frozen=True)
class GaussianMixture:
    """Mixture of K axis-parallel Gaussians in r dimensions, float64, of weights :data:`PAPER_WEIGHTS`.

    Args:
        means: ``[K, r]``.
        stds: ``[K, r]``, positive.
    """

    means: Tensor
    stds: Tensor


@dataclass(frozen=True)
class Manifold:
    """x = sigmoid(W u + b) with u from a mixture plus noise.

    Args:
        mixture: of u, in r dimensions.
        weight, bias: W ``[d, r]`` and b ``[d]``, float64.
    """

    mixture: GaussianMixture
    weight: Tensor
    bias: Tensor

    def samples(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """u ``[n, r]`` in float64, and its x ``[n, d]`` in float32, computed in float64."""
        u = sample_latents(self.mixture, n, generator)
        return u, project(u, self.weight, self.bias).to(torch.float32)


def synthetic_manifold(
    ambient_dim: int = 20,
    manifold_dim: int = 6,
    *,
    n_train: int = 100_000,
    n_validation: int = 10_000,
    seed: int = 0,
) -> Dataset:
    """x = sigmoid(W u + b), u drawn from a Gaussian mixture in r dimensions plus Gaussian noise.

    The component means are N(0, 1) and the logarithms of the standard deviations are N(0, 1), per component and
    dimension. The entries of W ``[d, r]`` and b ``[d]`` are uniform in ±1/√r.

    The same arguments give the same data for ever, but for the rounding of float64 arithmetic, which differs between
    processors and shows in float32 as a rare last digit. Every draw is a uniform number in float64 from a generator
    of its own (mixture, projection, training and validation samples), so ``n_train`` and ``n_validation`` decide how
    many samples there are and never which: the first n samples are the same for every size. PyTorch's global
    generator is neither read nor moved.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", section 4.1. Four choices are
    not in its text and follow its published implementation: the weights (the text says equal, the implementation
    draws proportional to .2 .3 .5 .3 .2), the noise, the bias, and how W is drawn.

    Args:
        ambient_dim: d, the number of features.
        manifold_dim: r ≤ d, the dimension of the manifold; with r = d the data fill a solid, not a manifold.
        n_train, n_validation: numbers of samples.
        seed: any integer.

    Returns:
        Data set with ``train`` ``[n_train, d]`` and ``validation`` ``[n_validation, d]``, float32 in [0, 1], computed
        in float64; no labels; ``manifold_dim`` = r.

    Raises:
        InputError: an argument is of the wrong kind or out of range.
    """
    manifold = random_manifold(ambient_dim, manifold_dim, seed)
    n_train = check_integer("n_train", n_train, 1)
    n_validation = check_integer("n_validation", n_validation, 1)
    return Dataset(
        name=f"synthetic-d{ambient_dim}-r{manifold_dim}",
        train=manifold.samples(n_train, stream(seed, "train"))[1],
        validation=manifold.samples(n_validation, stream(seed, "validation"))[1],
        manifold_dim=int(manifold_dim),
    )


def random_manifold(ambient_dim: int, manifold_dim: int, seed: int, place: str = "") -> Manifold:
    """The manifold of a seed, with arguments as for :func:`synthetic_manifold`.

    Args:
        place: prefix of the purposes of its two streams, ``"mixture"`` and ``"projection"``, so that one seed has
            several manifolds.

    Raises:
        InputError: an argument is of the wrong kind or out of range.
    """
    ambient_dim = check_integer("ambient_dim", ambient_dim, 1)
    manifold_dim = check_integer("manifold_dim", manifold_dim, 1)
    if manifold_dim > ambient_dim:
        raise InputError(f"manifold_dim must be at most ambient_dim, {ambient_dim}, got {manifold_dim}")
    mixture = gaussian_mixture(manifold_dim, stream(seed, f"{place}mixture"))
    return Manifold(mixture, *random_projection(ambient_dim, manifold_dim, stream(seed, f"{place}projection")))


def gaussian_mixture(manifold_dim: int, generator: torch.Generator) -> GaussianMixture:
    """Mixture with means ~ N(0, 1) and log standard deviations ~ N(0, 1), per component and dimension."""
    means, log_stds = _normal_pairs(_uniform(len(PAPER_WEIGHTS), 2 * manifold_dim, generator))
    return GaussianMixture(means, log_stds.exp())


def sample_latents(mixture: GaussianMixture, n: int, generator: torch.Generator) -> Tensor:
    """u = μ_k + σ_k ε + noise ε′ with k ~ weights and ε, ε′ ~ N(0, 1); ``[n, r]``, float64.

    A row takes 1 + 2r uniform numbers, so that the first rows are the same for every ``n``.
    """
    draws = _uniform(n, 1 + 2 * mixture.means.shape[1], generator)
    weights = torch.tensor(PAPER_WEIGHTS, dtype=torch.float64, device="cpu")
    cumulative = (weights / weights.sum()).cumsum(0)
    # Divided by its own last entry, which makes that exactly 1: no draw from [0, 1) may lie beyond it.
    component = torch.searchsorted(cumulative / cumulative[-1], draws[:, 0].contiguous(), right=True)
    inner, outer = _normal_pairs(draws[:, 1:])
    return mixture.means[component] + mixture.stds[component] * inner + PAPER_NOISE * outer


def random_projection(ambient_dim: int, manifold_dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """W ``[d, r]`` and b ``[d]``, float64, entries uniform in ±1/√r."""
    bound = 1 / math.sqrt(manifold_dim)
    entries = bound * (2 * _uniform(ambient_dim, manifold_dim + 1, generator) - 1)
    return entries[:, :-1], entries[:, -1]


def project(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x = sigmoid(W u + b), row by row; u ``[n, r]``, W ``[d, r]``, b ``[d]``, x ``[n, d]``."""
    return torch.sigmoid(u @ weight.T + bias)


def _uniform(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.rand(rows, columns, dtype=torch.float64, generator=generator, device="cpu")


def normal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """N(0, 1), ``[rows, columns]``, float64; the first n rows are the same for every number of rows."""
    return _normal_pairs(_uniform(rows, 2 * columns, generator))[0]


def _normal_pairs(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent N(0, 1) tensors ``[n, m]`` from uniform ``[n, 2m]``, by Box and Muller.

    Not ``torch.randn``: its algorithm depends on the size asked for, and with it the first n samples.
    """
    first, second = draws.chunk(2, dim=1)
    radius = torch.sqrt(-2 * torch.log1p(-first))
    return radius * torch.cos(2 * math.pi * second), radius * torch.sin(2 * math.pi * second)
