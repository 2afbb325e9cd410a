"""Samples of a smooth manifold whose dimension is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from ..errors import InputError
from .checks import check_int
from .dataset import Dataset
from .seeds import stream

__all__ = [
    "PAPER_WEIGHTS",
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

PAPER_WEIGHTS = (0.2, 0.3, 0.5, 0.3, 0.2)

# Room enough for any use, and nothing computed from numbers up to it overflows, nor does u as a condition, in float32.
_LARGEST = 1e30


@dataclass(frozen=True)
class GaussianMixture:
    """Mixture of K axis-parallel Gaussians in r dimensions, float64.

    Args:
        weights: ``[K]``, sum 1.
        means: ``[K, r]``.
        stds: ``[K, r]``, positive.
    """

    weights: Tensor
    means: Tensor
    stds: Tensor


@dataclass(frozen=True)
class Manifold:
    """x = sigmoid(W u + b) with u from a mixture plus noise.

    Args:
        mixture: of u, in r dimensions.
        weight, bias: W ``[d, r]`` and b ``[d]``, float64.
        latent_noise: standard deviation of the noise.
    """

    mixture: GaussianMixture
    weight: Tensor
    bias: Tensor
    latent_noise: float

    def samples(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """u ``[n, r]`` in float64 and its x ``[n, d]``, computed in float64, in float32.

        Raises:
            InputError: ``latent_noise`` is out of range.
        """
        u = sample_latents(self.mixture, n, noise=self.latent_noise, generator=generator)
        return u, project(u, self.weight, self.bias).to(torch.float32)


def synthetic_manifold(
    ambient_dim: int = 20,
    manifold_dim: int = 6,
    *,
    n_train: int = 100_000,
    n_validation: int = 10_000,
    seed: int = 0,
    n_components: int = 5,
    weights: Sequence[float] = PAPER_WEIGHTS,
    latent_noise: float = 1.0,
    bias: bool = True,
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
        manifold_dim: r ≤ d, the dimension of the manifold; with r = d the data fill a solid and are no manifold.
        n_train, n_validation: numbers of samples.
        seed: any integer.
        n_components: K, the number of components of the mixture.
        weights: K relative weights of the components; ``[1] * K`` for equal ones.
        latent_noise: standard deviation of the noise added to the mixture; 0 switches it off.
        bias: whether there is a b; without it b = 0.

    Returns:
        Data set with ``train`` ``[n_train, d]`` and ``validation`` ``[n_validation, d]``, float32 in [0, 1], computed
        in float64; no labels; ``manifold_dim`` = r.

    Raises:
        InputError: an argument is of the wrong kind or out of range.
    """
    manifold = random_manifold(
        ambient_dim,
        manifold_dim,
        seed=seed,
        n_components=n_components,
        weights=weights,
        latent_noise=latent_noise,
        bias=bias,
    )
    n_train = check_int("n_train", n_train, 1)
    n_validation = check_int("n_validation", n_validation, 1)
    return Dataset(
        name=f"synthetic-d{ambient_dim}-r{manifold_dim}",
        train=manifold.samples(n_train, stream(seed, "train"))[1],
        validation=manifold.samples(n_validation, stream(seed, "validation"))[1],
        manifold_dim=int(manifold_dim),
    )


def random_manifold(
    ambient_dim: int,
    manifold_dim: int,
    *,
    seed: int,
    n_components: int,
    weights: Sequence[float],
    latent_noise: float,
    bias: bool,
    place: str = "",
) -> Manifold:
    """The manifold of a seed, of arguments as :func:`synthetic_manifold` has them.

    Args:
        place: goes before the purposes of its two streams, ``"mixture"`` and ``"projection"``, so that one seed has
            several manifolds.

    Raises:
        InputError: an argument is of the wrong kind or out of range; ``latent_noise`` is looked at by ``samples``.
    """
    ambient_dim = check_int("ambient_dim", ambient_dim, 1)
    manifold_dim = check_int("manifold_dim", manifold_dim, 1)
    if manifold_dim > ambient_dim:
        raise InputError(f"manifold_dim={manifold_dim}: expected at most ambient_dim={ambient_dim}")
    mixture = gaussian_mixture(
        manifold_dim, n_components=n_components, weights=weights, generator=stream(seed, f"{place}mixture")
    )
    weight, offset = random_projection(
        ambient_dim, manifold_dim, bias=bias, generator=stream(seed, f"{place}projection")
    )
    return Manifold(mixture, weight, offset, latent_noise)


def gaussian_mixture(
    manifold_dim: int, *, n_components: int, weights: Sequence[float], generator: torch.Generator
) -> GaussianMixture:
    """Mixture with means ~ N(0, 1) and log standard deviations ~ N(0, 1), per component and dimension.

    Raises:
        InputError: ``n_components`` is not a positive integer, or ``weights`` are not that many numbers from 0 to
            1e30 with a positive sum.
    """
    n_components = check_int("n_components", n_components, 1)
    probabilities = _probabilities(weights, n_components)
    means, log_stds = _normal_pairs(_uniform(n_components, 2 * manifold_dim, generator))
    return GaussianMixture(weights=probabilities, means=means, stds=log_stds.exp())


def sample_latents(mixture: GaussianMixture, n: int, *, noise: float, generator: torch.Generator) -> Tensor:
    """u = μ_k + σ_k ε + noise ε′ with k ~ weights and ε, ε′ ~ N(0, 1); ``[n, r]``, float64.

    One row takes 1 + 2r uniform numbers whatever ``n`` and ``noise`` are, so neither changes what the others are.

    Raises:
        InputError: ``noise`` is not a number from 0 to 1e30.
    """
    if isinstance(noise, bool) or not isinstance(noise, Real) or not 0 <= noise <= _LARGEST:
        raise InputError(f"latent_noise={noise!r}: expected a number from 0 to {_LARGEST:g}")
    draws = _uniform(n, 1 + 2 * mixture.means.shape[1], generator)
    cumulative = mixture.weights.cumsum(0)
    # Divided by its own last entry, which makes that exactly 1: no draw from [0, 1) may lie beyond it.
    component = torch.searchsorted(cumulative / cumulative[-1], draws[:, 0].contiguous(), right=True)
    inner, outer = _normal_pairs(draws[:, 1:])
    return mixture.means[component] + mixture.stds[component] * inner + float(noise) * outer


def random_projection(
    ambient_dim: int, manifold_dim: int, *, bias: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """W ``[d, r]`` and b ``[d]``, float64, entries uniform in ±1/√r; b = 0 without ``bias``, and W the same.

    Raises:
        InputError: ``bias`` is not a bool.
    """
    if not isinstance(bias, bool):
        raise InputError(f"bias={bias!r}: expected True or False")
    bound = 1 / math.sqrt(manifold_dim)
    entries = bound * (2 * _uniform(ambient_dim, manifold_dim + 1, generator) - 1)
    weight, offset = entries[:, :-1], entries[:, -1]
    return weight, offset if bias else torch.zeros_like(offset)


def project(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x = sigmoid(W u + b), row by row; u ``[n, r]``, W ``[d, r]``, b ``[d]``, x ``[n, d]``."""
    return torch.sigmoid(u @ weight.T + bias)


def _probabilities(weights: Sequence[float], n_components: int) -> Tensor:
    """The weights divided by their sum, ``[K]``, float64."""
    expected = f"expected n_components={n_components} numbers from 0 to {_LARGEST:g} with a positive sum"
    try:
        numbers = list(weights)
    except TypeError:
        raise InputError(f"weights={weights!r}: {expected}") from None
    if len(numbers) != n_components or not all(isinstance(w, Real) and 0 <= w <= _LARGEST for w in numbers):
        raise InputError(f"weights={weights!r}: {expected}")
    values = torch.tensor([float(w) for w in numbers], dtype=torch.float64, device="cpu")
    if values.sum() == 0:
        raise InputError(f"weights={weights!r}: {expected}")
    return values / values.sum()


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
