"""The ELBO in eager PyTorch, as one writes it first: one definition for all that ours is compared with.

Numbers in half precision are summed in float32. Noise that is not given is PyTorch's.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..models import CVAE, VAE
from ..models.sequential import EveryStepCVAE

__all__ = ["negative_elbo", "nll", "sample_and_kl", "sample_and_kl_full", "tuned_sample_and_kl_full", "unpacked"]

Gaussian = tuple[Tensor, Tensor]  # mu and log_var, or mu and tril
Networks = tuple[Tensor, Gaussian, Gaussian | None, Tensor | None, Callable[[Tensor], Tensor]]


def sample_and_kl(
    mu: Tensor,
    log_var: Tensor,
    noise: Tensor | None = None,
    prior: Gaussian | None = None,
    gate_logits: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """z = (μ + σ·ε) ⊙ sigmoid(gate_logits) ``[B, κ]``, and KL[N(μ, σ²) ‖ p] ``[B]``; None is no gate, and N(0, I), else
    mu and log_var of p."""
    z = _gated(mu + torch.exp(0.5 * log_var) * _drawn(mu, noise), gate_logits)
    mu, log_var = _wide(mu), _wide(log_var)
    if prior is None:
        return z, 0.5 * (mu.square() + log_var.exp() - log_var - 1).sum(dim=1)
    prior_mu, prior_log_var = map(_wide, prior)
    # A product, here and below, since PyTorch takes longer for the gradients of a quotient.
    scaled = (mu - prior_mu).square() * torch.exp(-prior_log_var)
    delta = log_var - prior_log_var
    return z, 0.5 * (scaled + delta.exp() - delta - 1).sum(dim=1)


def sample_and_kl_full(
    mu: Tensor,
    tril: Tensor,
    noise: Tensor | None = None,
    prior: Gaussian | None = None,
    gate_logits: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same for N(μ, L Lᵀ), tril ``[B, κ(κ+1)/2]`` the packed rows of L, log L_jj on the diagonal."""
    factor, log_diagonal = unpacked(tril, mu.shape[1])
    z = _gated(mu + (factor @ _drawn(mu, noise).unsqueeze(-1)).squeeze(-1), gate_logits)
    mu, factor, log_diagonal = _wide(mu), _wide(factor), _wide(log_diagonal)
    if prior is None:
        squares = mu.square().sum(dim=1) + factor.square().sum(dim=(1, 2))
        return z, 0.5 * (squares - mu.shape[1]) - log_diagonal.sum(dim=1)
    prior_mu, prior_log_var = map(_wide, prior)
    scaled = (factor.square().sum(dim=2) + (mu - prior_mu).square()) * torch.exp(-prior_log_var)
    return z, 0.5 * (scaled - 1 - 2 * log_diagonal + prior_log_var).sum(dim=1)


def tuned_sample_and_kl_full(mu: Tensor, tril: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """For the prior N(0, I), with PyTorch's fastest operators for each step: index_copy instead of the indexed
    assignment, the KL from the packed numbers."""
    batch, latents = mu.shape
    row, col = torch.tril_indices(latents, latents, device=tril.device)
    index = torch.arange(latents, device=tril.device)
    on_diagonal = index * (index + 3) // 2
    log_diagonal = tril.index_select(1, on_diagonal)
    packed = tril.index_copy(1, on_diagonal, log_diagonal.exp())
    flat = tril.new_zeros(batch, latents * latents).index_copy(1, row * latents + col, packed)
    z = mu + torch.bmm(flat.view(batch, latents, latents), _drawn(mu, noise).unsqueeze(-1)).squeeze(-1)
    squares = _wide(mu).square().sum(dim=1) + _wide(packed).square().sum(dim=1)
    return z, 0.5 * (squares - latents) - _wide(log_diagonal).sum(dim=1)


def unpacked(tril: Tensor, latents: int) -> tuple[Tensor, Tensor]:
    """L, ``[B, κ, κ]``, and the logarithms of its diagonal."""
    row, col = torch.tril_indices(latents, latents, device=tril.device)
    scale = tril.new_zeros(len(tril), latents, latents)
    scale[:, row, col] = tril
    log_diagonal = scale.diagonal(dim1=1, dim2=2)
    return scale.tril(-1) + torch.diag_embed(log_diagonal.exp()), log_diagonal


def nll(x_hat: Tensor, x: Tensor, log_gamma: Tensor) -> Tensor:
    """½ (‖x − x̂‖²/γ + d log 2πγ), ``[B]``."""
    squared_error = (_wide(x) - _wide(x_hat)).square().flatten(1).sum(dim=1)
    constant = math.prod(x.shape[1:]) * (math.log(2 * math.pi) + log_gamma)
    return 0.5 * (squared_error * torch.exp(-log_gamma) + constant)


def negative_elbo(model: VAE | CVAE, x: Tensor, c: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
    """½ (‖x − x̂‖²/γ + d log 2πγ) + KL[q ‖ p], averaged over the batch, of the model's networks and γ alone: none of
    our ops."""
    x, q, prior, gate_logits, decode = _networks(model, x, c)
    sample = sample_and_kl_full if model.elbo.covariance == "cholesky" else sample_and_kl
    z, kl = sample(*q, noise, prior, gate_logits)
    x_hat, log_gamma = decode(z), model.elbo.log_gamma
    if model.elbo.gamma == "analytic":
        log_gamma = (x - x_hat).square().mean().log()
    return (nll(x_hat, x, log_gamma) + kl).mean()


def _networks(model: VAE | CVAE, x: Tensor, c: Tensor | None) -> Networks:
    """What is to be reconstructed, q, p or None if that is N(0, I), the gate if any, and the decoder; for a model of
    every step, with a row for each step."""
    if not isinstance(model, CVAE):
        return x, model.encoder(x), None, None, model.decoder
    assert c is not None
    if isinstance(model, EveryStepCVAE):
        steps = torch.cat((c, x.unsqueeze(1)), dim=1)
        encoder: Any = model.encoder.network
        mu, log_var = encoder.at_every_length(steps)
        shared = model.prior is model.encoder.network  # then the steps of the prior are among those of the encoder
        prior_mu, prior_log_var = (mu[:, :-1], log_var[:, :-1]) if shared else model.prior.at_every_length(c)

        def decode_every_step(z: Tensor) -> Tensor:
            return model.decoder.at_every_length(z.unflatten(0, steps.shape[:2]), c).flatten(0, 1)

        q = mu[:, 1:].flatten(0, 1), log_var[:, 1:].flatten(0, 1)
        return steps.flatten(0, 1), q, (prior_mu.flatten(0, 1), prior_log_var.flatten(0, 1)), None, decode_every_step
    q = model.encoder(x, c)
    prior = None if model.prior is None else model.prior(c)
    gate_logits = None if model.gate is None else model.gate(c)
    return x, q, prior, gate_logits, lambda z: model.decoder(z, c)


def _drawn(like: Tensor, noise: Tensor | None) -> Tensor:
    return torch.randn_like(like) if noise is None else noise


def _gated(z: Tensor, gate_logits: Tensor | None) -> Tensor:
    return z if gate_logits is None else z * torch.sigmoid(gate_logits)


def _wide(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t
