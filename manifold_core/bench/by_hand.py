"""The ELBO in eager PyTorch, as one writes it first: one definition for all that ours is compared with."""

import math

import torch
from torch import Tensor

__all__ = ["nll", "sample_and_kl", "sample_and_kl_full", "unpacked"]

Gaussian = tuple[Tensor, Tensor]


def sample_and_kl(mu: Tensor, log_var: Tensor, noise: Tensor, prior: Gaussian | None = None) -> tuple[Tensor, Tensor]:
    """z = μ + σ·ε ``[B, κ]``, and KL[N(μ, σ²) ‖ p] ``[B]``; None is N(0, I), else mu and log_var of p."""
    z = mu + torch.exp(0.5 * log_var) * noise
    if prior is None:
        return z, 0.5 * (mu.square() + log_var.exp() - log_var - 1).sum(dim=1)
    prior_mu, prior_log_var = prior
    distance = (mu - prior_mu).square() / prior_log_var.exp()
    return z, 0.5 * ((log_var - prior_log_var).exp() + distance - 1 - log_var + prior_log_var).sum(dim=1)


def sample_and_kl_full(mu: Tensor, tril: Tensor, noise: Tensor, prior: Gaussian | None = None) -> tuple[Tensor, Tensor]:
    """The same of N(μ, L Lᵀ), tril ``[B, κ(κ+1)/2]`` the packed rows of L, log L_jj on the diagonal."""
    factor, log_diagonal = unpacked(tril, mu.shape[1])
    z = mu + (factor @ noise.unsqueeze(-1)).squeeze(-1)
    if prior is None:
        squares = mu.square().sum(dim=1) + factor.square().sum(dim=(1, 2))
        return z, 0.5 * (squares - mu.shape[1]) - log_diagonal.sum(dim=1)
    prior_mu, prior_log_var = prior
    scaled = (factor.square().sum(dim=2) + (mu - prior_mu).square()) / prior_log_var.exp()
    return z, 0.5 * (scaled - 1 - 2 * log_diagonal + prior_log_var).sum(dim=1)


def unpacked(tril: Tensor, latents: int) -> tuple[Tensor, Tensor]:
    """L, ``[B, κ, κ]``, and the logarithms of its diagonal."""
    row, col = torch.tril_indices(latents, latents, device=tril.device)
    scale = tril.new_zeros(len(tril), latents, latents)
    scale[:, row, col] = tril
    log_diagonal = scale.diagonal(dim1=1, dim2=2)
    return scale.tril(-1) + torch.diag_embed(log_diagonal.exp()), log_diagonal


def nll(x_hat: Tensor, x: Tensor, log_gamma: Tensor) -> Tensor:
    """½ (‖x − x̂‖²/γ + d log 2πγ), ``[B]``."""
    squared_error = (x - x_hat).square().flatten(1).sum(dim=1)
    # A product, since PyTorch takes longer for the gradients of a quotient.
    constant = math.prod(x.shape[1:]) * (math.log(2 * math.pi) + log_gamma)
    return 0.5 * (squared_error * torch.exp(-log_gamma) + constant)
