"""The two kinds of posterior covariance, diagonal and full, and how large they are beside the prior's."""

from typing import Literal

import torch
from torch import Tensor

from .arguments import check_choice
from .kernels.rsample_kl_cholesky.reference import unpack

__all__ = ["Covariance", "posterior_sizes", "spectrum", "variance_ratio"]

Covariance = Literal["diagonal", "cholesky"]


def posterior_sizes(latent_dim: int, covariance: Covariance) -> tuple[int, int]:
    """How many numbers mu has, and log_var, or for full covariance tril: the packed rows of L.

    Raises:
        InputError: an unknown covariance.
    """
    check_choice("covariance", covariance, Covariance)
    return latent_dim, latent_dim if covariance == "diagonal" else latent_dim * (latent_dim + 1) // 2


def variance_ratio(posterior: tuple[Tensor, Tensor], prior_log_var: Tensor | None, covariance: Covariance) -> Tensor:
    """(Σ_q)_jj / (Σ_p)_jj of every sample, float64 ``[B, κ]``; None is Σ_p = I."""
    if covariance == "diagonal":
        log_var = posterior[1].double()
        return (log_var if prior_log_var is None else log_var - prior_log_var.double()).exp()
    return _standardised(posterior, prior_log_var).square().sum(dim=2)


def spectrum(posterior: tuple[Tensor, Tensor], prior_log_var: Tensor | None) -> Tensor:
    """Eigenvalues of Σ_p^−½ Σ_q Σ_p^−½ of every sample, ascending, float64 ``[B, κ]``, for a full covariance. NaN where
    a number of the sample is not finite."""
    factor = _standardised(posterior, prior_log_var)
    finite = factor.isfinite().flatten(1).all(dim=1)
    # Squares of singular values keep the digits of small eigenvalues. torch.linalg refuses what is not finite.
    found = torch.linalg.svdvals(torch.where(finite[:, None, None], factor, 0.0)).square().flip(1)
    return torch.where(finite[:, None], found, torch.nan)


def _standardised(posterior: tuple[Tensor, Tensor], prior_log_var: Tensor | None) -> Tensor:
    """Σ_p^−½ L, float64 ``[B, κ, κ]``."""
    mu, tril = posterior
    below, log_diagonal = unpack(tril.double(), mu.shape[1])
    factor = below + torch.diag_embed(log_diagonal.exp())
    return factor if prior_log_var is None else factor * torch.exp(-prior_log_var.double() / 2).unsqueeze(-1)
