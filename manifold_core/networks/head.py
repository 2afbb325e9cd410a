"""The last layer of an encoder."""

import torch
from torch import Tensor

from ..covariance import Covariance, posterior_sizes
from .precision import Float32Linear

__all__ = ["PosteriorHead"]


class PosteriorHead(Float32Linear):
    """Features ``[B, h]`` → mu and log_var ``[B, κ]``, or mu and tril ``[B, κ(κ+1)/2]``: parts of one linear map.

    Of a full covariance the map gives log L_ii, and below the diagonal L_ij / L_ii: rows in units of their diagonal.
    As σ_i falls with γ, its whole row falls with it, where numbers of their own would each have to be learned to be
    that small. (MNIST, κ = 32, 2,000 steps: −ELBO −1,444 in place of −1,372.)
    """

    below: Tensor
    diagonal_of_row: Tensor

    def __init__(self, features: int, latent_dim: int, covariance: Covariance) -> None:
        self.sizes = posterior_sizes(latent_dim, covariance)
        super().__init__(features, sum(self.sizes))
        self.covariance = covariance
        if covariance == "cholesky":
            row, col = torch.tril_indices(latent_dim, latent_dim)
            self.register_buffer("below", (col < row).to(self.weight.dtype), persistent=False)
            self.register_buffer("diagonal_of_row", row * (row + 3) // 2, persistent=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        mu, spread = super().forward(features).split(self.sizes, dim=1)
        if self.covariance == "diagonal":
            return mu, spread
        return mu, spread * torch.exp(self.below * spread.index_select(1, self.diagonal_of_row))
