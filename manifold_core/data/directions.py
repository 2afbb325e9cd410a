"""The directions in which samples vary."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Principal", "principal"]

ROWS = 2**14  # of samples in float64 at a time
LEAST = 1e-8  # of a direction's variance, over the mean over all; float32 rounds to 1e-14, and γ never falls so far


class Principal(NamedTuple):
    """Principal directions of samples, float64.

    Attributes:
        mean: ``[d]``.
        variance: of all samples together, in all directions.
        basis: ``[d, q]``, orthonormal: those in which samples vary.
    """

    mean: Tensor
    variance: float
    basis: Tensor


def principal(x: Tensor) -> Principal:
    """Of samples ``[N, d]`` of a scale of about 1."""
    samples, features = x.shape
    mean = torch.stack([part.double().sum(dim=0) for part in x.split(ROWS)]).sum(dim=0) / samples
    few = samples < features
    if few:
        centred = x.double() - mean
        products = centred @ centred.T
    else:
        products = torch.zeros(features, features, dtype=torch.float64, device=x.device)
        for part in x.split(ROWS):
            products.addmm_((part - mean).T, part - mean)
    variance, vectors = torch.linalg.eigh(products / samples)
    varies = variance > LEAST * variance.sum() / features
    basis = vectors[:, varies]
    if few:  # directions of features from those of samples
        basis = centred.T @ basis / (samples * variance[varies]).sqrt()
    return Principal(mean, float(variance.sum()), basis)
