"""The VAE: an encoder, a decoder and an ELBO put together."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..arguments import check_integer
from ..covariance import Covariance, spectrum, variance_ratio
from ..modes import evaluation_mode
from ..networks import Activation, ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from ..networks.checks import check_widths
from ..networks.residual import CHANNELS
from .checks import Gaussian, check_decoded, check_latent, check_modules, check_posterior, check_x
from .elbo import ELBOTerms, GaussianELBO, elbo_of
from .noise import latent_noise
from .tangents import decoder_spectrum, tangents

__all__ = ["VAE"]

V = TypeVar("V", bound="VAE")


class VAE(nn.Module):
    """A VAE with κ latent dimensions: q(z|x) = N(μ(x), diag σ²(x)),  p(x|z) = N(x̂(z), γI),  p(z) = N(0, I).

    ``model(x).loss.backward()`` is a whole training step but for the optimizer. With full covariance, q(z|x) is
    N(μ(x), L(x) L(x)ᵀ).

    Args:
        encoder: module from x ``[B, ...]`` to ``(mu, log_var)``, each ``[B, κ]``; with full covariance to ``(mu,
            tril)``, tril ``[B, κ(κ+1)/2]`` holding the packed rows of L, with log L_jj on the diagonal. If it has an
            attribute ``input_dtype`` or ``input_shape`` (of one sample), as those of :mod:`manifold_core.networks` do,
            x is checked against it.
        decoder: module from z ``[B, κ]`` to x̂, shaped like x.
        latent_dim: κ.
        elbo: :class:`manifold_core.GaussianELBO`; the default learns γ from γ = 1.
        covariance: ``"diagonal"`` or ``"cholesky"``; None takes that of ``elbo``, diagonal by default.

    Raises:
        InputError: ``encoder`` or ``decoder`` is not a module, ``latent_dim`` not a positive integer, ``elbo`` not a
            GaussianELBO, or ``covariance`` unknown or not that of ``elbo``; later, x has another shape or dtype than
            the encoder reads, or it returns something else.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Definition 1; Section 4.7 for full
    covariance.
    """

    __call__: Callable[..., ELBOTerms]  # of nn.Module it is Any

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent_dim: int,
        *,
        elbo: GaussianELBO | None = None,
        covariance: Covariance | None = None,
    ) -> None:
        super().__init__()
        latent_dim = check_integer("latent_dim", latent_dim, 1)
        check_modules(encoder=encoder, decoder=decoder)
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim
        self.elbo = elbo_of(elbo, covariance)

    @classmethod
    def mlp(
        cls: type[V],
        data_dim: int,
        latent_dim: int,
        hidden: Sequence[int] = (64,),
        *,
        activation: Activation = "relu",
        elbo: GaussianELBO | None = None,
        covariance: Covariance | None = None,
    ) -> V:
        """A VAE for vectors: MLPs from x ``[B, d]`` to ``[B, κ]`` and back, in float32.

        Args:
            data_dim: d.
            latent_dim: κ.
            hidden: widths of the encoder's hidden layers; the decoder's are these in reverse.
            activation: ``"relu"`` or ``"prelu"``, between the layers.
            elbo, covariance: see :class:`VAE`.

        Raises:
            InputError: a size or width is not a positive integer, or an option is unknown.
        """
        elbo = elbo_of(elbo, covariance)
        hidden = check_widths(hidden)
        encoder = MLPEncoder(data_dim, latent_dim, hidden, activation, elbo.covariance)
        return cls(
            encoder, MLPDecoder(latent_dim, data_dim, tuple(reversed(hidden)), activation), latent_dim, elbo=elbo
        )

    @classmethod
    def conv(
        cls: type[V],
        image_shape: Sequence[int],
        latent_dim: int,
        channels: int = CHANNELS,
        *,
        hidden: Sequence[int] = (),
        elbo: GaussianELBO | None = None,
        covariance: Covariance | None = None,
    ) -> V:
        """A VAE for images ``[B, C, H, W]``: the residual networks of Appendix A, in float32.

        Args:
            image_shape: (C, H, W), H and W multiples of 4.
            latent_dim: κ.
            channels: of the encoder's first block and the decoder's last; the others have twice as many.
            hidden: widths of an MLP beside the linear layer between blocks and latent space, reversed in the decoder:
                it lets the latent space bend with the images, and lowers the loss. Empty means no MLP, as in the paper.
            elbo, covariance: see :class:`VAE`.

        Raises:
            InputError: a size or width is not a positive integer, ``image_shape`` is not as above, or an option
                is unknown.
        """
        elbo = elbo_of(elbo, covariance)
        hidden = check_widths(hidden)
        encoder = ConvEncoder(image_shape, latent_dim, channels, elbo.covariance, hidden)
        return cls(
            encoder, ConvDecoder(latent_dim, image_shape, channels, tuple(reversed(hidden))), latent_dim, elbo=elbo
        )

    def forward(
        self,
        x: Tensor,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
    ) -> ELBOTerms:
        """The ELBO of a batch and its terms.

        Args:
            x: ``[B, ...]``, of the encoder's dtype.
            seed, generator, first_row: of the noise, see :func:`manifold_core.rsample_kl`.

        Raises:
            InputError: x does not have the shape or dtype that the encoder reads, or a network does not return what
                :class:`VAE` says.
        """
        terms: ELBOTerms = self.elbo(
            x,
            self.posterior(x),
            lambda z: check_decoded(self.decoder(z), x),
            seed=seed,
            generator=generator,
            first_row=first_row,
        )
        return terms

    def posterior(self, x: Tensor) -> Gaussian:
        """mu and log_var of q(z|x), each ``[B, κ]``; with full covariance mu and tril ``[B, κ(κ+1)/2]``. Keeps
        gradients and the model's mode. Raises InputError as :meth:`forward` does; so does all here that takes x."""
        check_x(x, self.encoder)
        return check_posterior(self.encoder(x), x.shape[:1], self.latent_dim, self.elbo.covariance)

    def variance_ratio(self, x: Tensor) -> Tensor:
        """σ²(x) over the prior's variance, which is 1: float64 ``[B, κ]``. With full covariance (Σ_q)_jj."""
        return variance_ratio(self.posterior(x), None, self.elbo.covariance)

    def spectrum(self, x: Tensor) -> Tensor:
        """Eigenvalues of the covariance of q(z|x), ascending, float64 ``[B, κ]``."""
        if self.elbo.covariance == "diagonal":
            return self.variance_ratio(x).sort(dim=1).values
        return spectrum(self.posterior(x), None)

    @torch.no_grad()
    def decoder_spectrum(self, x: Tensor) -> Tensor:
        """Eigenvalues of (I + JᵀJ/γ)⁻¹, J the decoder's derivative at μ(x), ascending, float64 ``[B, κ]``: see
        :func:`manifold_core.local_dimensions`. Without gradients, in the model's current mode."""
        found = tangents(self.decoder, self.posterior(x)[0], features=x.shape[1:].numel())
        return decoder_spectrum(found, self.elbo.log_gamma, None)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Gaussian:
        """The :meth:`posterior` in evaluation mode and without gradients, like :meth:`sample`."""
        with evaluation_mode(self):
            return self.posterior(x)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """x̂ at z ``[n, κ]``, in evaluation mode and without gradients, like :meth:`sample`. Raises InputError if z has
        another shape, dtype or device than the decoder reads."""
        check_latent(z, self.latent_dim, self.decoder, self.elbo.log_gamma.device)
        with evaluation_mode(self):
            x_hat: Tensor = self.decoder(z)
        return x_hat

    def reconstruct(self, x: Tensor) -> Tensor:
        """x̂ at the posterior mean, shaped like x; in evaluation mode and without gradients, like :meth:`sample`."""
        return self.decode(self.encode(x)[0])

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Decoder means at ``n`` draws from the prior, ``[n, ...]`` of the decoder's dtype. The model is put into
        evaluation mode meanwhile: batch statistics of noise mean nothing. No gradients are kept, so the result goes
        straight to NumPy; use ``model.decoder(z)`` for gradients.

        Raises:
            InputError: ``n`` is not an integer, or negative; ``generator`` is not one.
        """
        number = check_integer("n", n, 0)
        return self.decode(latent_noise(number, self.latent_dim, self.decoder, self.elbo.log_gamma, generator))
