"""The definition of ``rsample_kl``, in plain PyTorch; exact in float64."""

import math

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from ..random import standard_normal

__all__ = ["exp_minus_1_minus_x", "rsample_kl", "sigmoid"]

SERIES_TERMS = 19  # of Σ_k x^k / (k + 2)!: exact in float64 for |x| <= 1


def exp_minus_1_minus_x(x: Tensor) -> Tensor:
    """eˣ − 1 − x without cancellation: near 0, where inactive dimensions are, it is x²/2 to all digits."""
    near = x.abs() <= 1
    small = torch.where(near, x, 0.0)  # keeps the other branch's infinities out of the gradient
    series = torch.full_like(x, 1 / math.factorial(SERIES_TERMS + 1))
    for k in range(SERIES_TERMS - 2, -1, -1):
        series = series * small + 1 / math.factorial(k + 2)
    large = torch.where(near, 1.0, x)
    return torch.where(near, small.square() * series, torch.expm1(large) - large)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ). Its derivative keeps its digits in both tails; that of torch.sigmoid, w (1 − w), does not."""
    exp = torch.exp(torch.where(x < 0, x, -x))
    larger = 1 / (1 + exp)
    return torch.where(x < 0, exp * larger, larger)


def rsample_kl(
    mu: Tensor,
    log_var: Tensor,
    prior_mu: Tensor | None,
    prior_log_var: Tensor | None,
    gate_logits: Tensor | None,
    seed: Tensor,
    first_row: int = 0,
    per_dimension: bool = False,
    with_variance_ratio: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(mu, log_var, prior_mu, prior_log_var, gate_logits)
    # The difference of log variances is taken in float64: rounding one of 80 to float32 costs 4e-6 of its exponential.
    wide_mu, delta = mu.to(dtype), log_var.double()
    noise = standard_normal(seed, mu.shape[0], mu.shape[1], first_row).to(dtype)
    z = wide_mu + torch.exp(0.5 * delta).to(dtype) * noise
    if gate_logits is not None:
        z = z * sigmoid(gate_logits.to(dtype))
    scaled = wide_mu
    if prior_mu is not None and prior_log_var is not None:
        wide_prior_log_var = prior_log_var.double()
        scaled = (wide_mu - prior_mu.to(dtype)) * torch.exp(-0.5 * wide_prior_log_var).to(dtype)
        delta = delta - wide_prior_log_var
    kl = 0.5 * (scaled.square() + exp_minus_1_minus_x(delta).to(dtype))
    variance_ratio = delta.detach().exp().mean(dim=0) if with_variance_ratio else delta.new_empty(0)
    z = z.to(torch.promote_types(mu.dtype, log_var.dtype))
    return z, kl if per_dimension else kl.sum(dim=1), variance_ratio.to(dtype)
