"""The models: an encoder, a decoder and an ELBO put together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .elbo import ELBOTerms, GaussianELBO
from .networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder, _check_positive

__all__ = ["VAE"]


class VAE(nn.Module):
    """κ-simple VAE: q(z|x) = N(μ(x), diag σ²(x)),  p(x|z) = N(x̂(z), γI),  p(z) = N(0, I).

    ``model(x).loss.backward()`` is the whole training step but for the optimizer.

    Args:
        encoder: module from x ``[B, ...]`` to ``(mu, log_var)``, each ``[B, κ]``.
        decoder: module from z ``[B, κ]`` to x̂ of the shape of x.
        latent_dim: κ.
        elbo: :class:`manifold_core.GaussianELBO`; the default learns γ from γ = 1.

    Raises:
        InputError: ``latent_dim`` is no positive integer.

    Source: "Learning Manifold Dimensions with Conditional VAEs", Definition 1.
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, latent_dim: int, elbo: GaussianELBO | None = None
    ) -> None:
        super().__init__()
        _check_positive(latent_dim=latent_dim)
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim
        self.elbo = elbo if elbo is not None else GaussianELBO()

    @classmethod
    def mlp(
        cls, data_dim: int, latent_dim: int, hidden: Sequence[int] = (64,), elbo: GaussianELBO | None = None
    ) -> "VAE":
        """Vectors of ``data_dim`` numbers; the decoder's hidden layers are the encoder's in reverse."""
        encoder = MLPEncoder(data_dim, latent_dim, hidden)
        return cls(encoder, MLPDecoder(latent_dim, data_dim, tuple(reversed(hidden))), latent_dim, elbo)

    @classmethod
    def conv(
        cls, image_shape: Sequence[int], latent_dim: int, channels: int = 5, elbo: GaussianELBO | None = None
    ) -> "VAE":
        """Images (channels, height, width) through the residual networks of Appendix A."""
        encoder = ConvEncoder(image_shape, latent_dim, channels)
        return cls(encoder, ConvDecoder(latent_dim, image_shape, channels), latent_dim, elbo)

    def forward(
        self,
        x: Tensor,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
    ) -> ELBOTerms:
        """The ELBO of a batch and its terms; the noise as of :func:`manifold_core.rsample_kl`."""
        terms: ELBOTerms = self.elbo(
            x, self.encoder(x), self.decoder, seed=seed, generator=generator, first_row=first_row
        )
        return terms

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log_var of q(z|x), each ``[B, κ]``."""
        mu, log_var = self.encoder(x)
        return mu, log_var

    def reconstruct(self, x: Tensor) -> Tensor:
        """x̂ at the mean of the posterior."""
        x_hat: Tensor = self.decoder(self.posterior(x)[0])
        return x_hat

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Means of the decoder at ``n`` draws of the prior."""
        device = self.elbo.log_gamma.device
        x_hat: Tensor = self.decoder(torch.randn(n, self.latent_dim, generator=generator, device=device))
        return x_hat
