"""The definition of ``gaussian_nll``, in plain PyTorch; exact in float64."""

import math

import torch
from torch import Tensor

from ..batch_sums import expand_over_batch
from ..checks import accumulation_dtype

__all__ = ["gaussian_nll", "nll_of", "optimal_log_gamma"]


def optimal_log_gamma(mean_squared_error: Tensor, features: int) -> Tensor:
    """log of the γ that minimises the mean nll of a batch:  γ = mean_b ‖x_b − x̂_b‖² / d."""
    return torch.log(mean_squared_error / features)


def gaussian_nll(x_hat: Tensor, x: Tensor, log_gamma: Tensor) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(x_hat, x)
    squared_error = (x_hat.to(dtype) - x.to(dtype)).square().sum(dim=1)
    return nll_of(squared_error, x_hat.shape[1], log_gamma.to(dtype)), squared_error


def nll_of(squared_error: Tensor, features: int, log_gamma: Tensor) -> Tensor:
    """½ (squared_error / γ + d log 2πγ)."""
    log_gamma = expand_over_batch(log_gamma, squared_error)
    return 0.5 * (squared_error * torch.exp(-log_gamma) + features * (math.log(2 * math.pi) + log_gamma))
