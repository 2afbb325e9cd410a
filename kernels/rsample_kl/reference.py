"""The definition of ``rsample_kl``, in plain PyTorch; exact in float64."""

import math

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from ..random import standard_normal

__all__ = ["exp_minus_1_minus_x", "rsample_kl"]

SERIES_TERMS = 19  # of sum x^k / (k + 2)!: exact in float64 for |x| <= 1


def exp_minus_1_minus_x(x: Tensor) -> Tensor:
    """eˣ − 1 − x without cancellation: near 0, where inactive dimensions sit, it is x²/2 to all digits."""
    near = x.abs() <= 1
    small = torch.where(near, x, 0.0)  # keeps the other branch's infinities out of the gradient
    series = torch.full_like(x, 1 / math.factorial(SERIES_TERMS + 1))
    for k in range(SERIES_TERMS - 2, -1, -1):
        series = series * small + 1 / math.factorial(k + 2)
    large = torch.where(near, 1.0, x)
    return torch.where(near, small.square() * series, torch.expm1(large) - large)


def rsample_kl(
    mu: Tensor, log_var: Tensor, seed: Tensor, first_row: int = 0, per_dimension: bool = False
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(mu, log_var)
    wide_mu, wide_log_var = mu.to(dtype), log_var.to(dtype)
    noise = standard_normal(seed, mu.shape[0], mu.shape[1], first_row).to(dtype)
    z = wide_mu + torch.exp(0.5 * wide_log_var) * noise
    kl = 0.5 * (wide_mu.square() + exp_minus_1_minus_x(wide_log_var))
    return z.to(mu.dtype), kl if per_dimension else kl.sum(dim=1)
