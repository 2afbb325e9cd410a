"""The definition of ``rsample_kl_cholesky``, in plain PyTorch; exact in float64."""

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from ..random import standard_normal
from ..rsample_kl.reference import exp_minus_1_minus_x

__all__ = ["rsample_kl_cholesky", "unpack"]


def unpack(tril: Tensor, latents: int) -> tuple[Tensor, Tensor]:
    """L below its diagonal, else 0, ``[B, κ, κ]``, and log L_jj ``[B, κ]``; (i, j) is element i (i + 1) / 2 + j."""
    row, col = torch.tril_indices(latents, latents, offset=-1, device=tril.device)
    index = torch.arange(latents, device=tril.device)
    below = tril.new_zeros(tril.shape[0], latents * latents)
    below = below.index_copy(1, row * latents + col, tril[:, row * (row + 1) // 2 + col])
    return below.view(tril.shape[0], latents, latents), tril[:, index * (index + 3) // 2]


def rsample_kl_cholesky(
    mu: Tensor,
    tril: Tensor,
    prior_mu: Tensor | None,
    prior_log_var: Tensor | None,
    seed: Tensor,
    first_row: int = 0,
    per_dimension: bool = False,
    with_variance_ratio: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(mu, tril, prior_mu, prior_log_var)
    batch, latents = mu.shape
    wide_mu = mu.to(dtype)
    below, diagonal = unpack(tril.to(dtype), latents)

    noise = standard_normal(seed, batch, latents, first_row).to(dtype)
    # Not a matrix product: autocast would round it.
    z = wide_mu + torch.exp(diagonal) * noise + (below * noise.unsqueeze(1)).sum(dim=2)
    delta, mean = 2 * diagonal, wide_mu
    if prior_mu is not None and prior_log_var is not None:
        wide_prior_log_var = prior_log_var.to(dtype)  # once, or each of two parts of its gradient would be rounded
        inv_scale = torch.exp(-0.5 * wide_prior_log_var)
        mean = (wide_mu - prior_mu.to(dtype)) * inv_scale
        below = below * inv_scale.unsqueeze(-1)
        # Merely rounding a difference of 80 to float32 would cost 4e-6 of its exponential.
        delta = 2 * diagonal.double() - wide_prior_log_var.double()
    squares = below.square().sum(dim=2)
    kl = 0.5 * (mean.square() + squares + exp_minus_1_minus_x(delta).to(dtype))
    variance_ratio = wide_mu.new_empty(0)
    if with_variance_ratio:
        # A single sample's may overflow float32 though the mean does not.
        variance_ratio = (squares.detach().double() + delta.detach().double().exp()).mean(dim=0).to(dtype)
    z = z.to(torch.promote_types(mu.dtype, tril.dtype))
    return z, kl if per_dimension else kl.sum(dim=1), variance_ratio
