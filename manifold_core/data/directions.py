"""The directions in which samples vary."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Principal", "count_directions", "principal"]

ROWS = 2**14  # samples in float64 at a time
COLUMNS = 2**14  # features, if there are fewer samples
LEAST = 1e-8  # variance of a direction over the mean of all; float32 rounds to 1e-14, and γ never falls so far


class Principal(NamedTuple):
    """Principal directions of samples, float64.

    Attributes:
        mean: ``[d]``.
        variance: of all samples together, in all directions.
        left_out: of it, what lies along directions that are not in the basis.
        basis: ``[d, q]``, orthonormal: those in which samples vary, or the widest of these, which come last.
    """

    mean: Tensor
    variance: float
    left_out: float
    basis: Tensor


def principal(x: Tensor, most: int | None = None) -> Principal:
    """The principal directions of samples ``[N, d]`` with a scale of about 1; the ``most`` widest of them."""
    samples, features = x.shape
    mean, products = _moments(x)
    variance, vectors = torch.linalg.eigh(products)
    (varies,) = _varies(variance, features).nonzero(as_tuple=True)  # ascending
    first = 0 if most is None else max(len(varies) - most, 0)
    narrow, kept = varies[:first], varies[first:]
    basis = vectors[:, kept]  # a copy: a slice would keep all of them in memory
    if samples < features:  # directions of features from those of samples
        basis = torch.cat([part.T @ basis for part in _centred(x, mean)]) / (samples * variance[kept]).sqrt()
    return Principal(mean, float(variance.sum()), float(variance[narrow].sum()), basis)


def count_directions(x: Tensor) -> int:
    """How many columns the basis of :func:`principal` has. For large images the basis itself takes gigabytes."""
    _, products = _moments(x)
    return int(_varies(torch.linalg.eigvalsh(products), x.shape[1]).sum())


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean ``[d]``, and CᵀC/N or C Cᵀ/N, C the centred samples: whichever is smaller, they share eigenvalues."""
    samples, features = x.shape
    mean = torch.stack([part.double().sum(dim=0) for part in x.split(ROWS)]).sum(dim=0) / samples
    products = torch.zeros([min(samples, features)] * 2, dtype=torch.float64, device=x.device)
    if samples < features:
        for part in _centred(x, mean):
            products.addmm_(part, part.T)
    else:
        for part in x.split(ROWS):
            products.addmm_((part - mean).T, part - mean)
    return mean, products / samples


def _centred(x: Tensor, mean: Tensor) -> Iterator[Tensor]:
    """Some features of all samples at a time, less their mean."""
    for part, middle in zip(x.split(COLUMNS, dim=1), mean.split(COLUMNS), strict=True):
        yield part - middle


def _varies(variance: Tensor, features: int) -> Tensor:
    return variance > LEAST * variance.sum() / features
