"""The conditional VAE: a VAE whose prior and, optionally, attention depend on the condition."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from ..arguments import check_choice, check_flag, check_integer
from ..covariance import Covariance, spectrum, variance_ratio
from ..errors import InputError
from ..modes import evaluation_mode
from ..networks import (
    Activation,
    ConditionalConvDecoder,
    ConditionalConvEncoder,
    ConditionalMLPDecoder,
    ConditionalMLPEncoder,
    MLPDecoder,
    MLPEncoder,
)
from ..networks.checks import check_widths
from ..networks.residual import CONDITIONAL_CHANNELS
from .checks import (
    Gaussian,
    as_condition,
    check_decoded,
    check_dtype,
    check_gate,
    check_latent,
    check_modules,
    check_posterior,
    check_prior,
    check_x,
    input_dtype,
    shape_of_one,
)
from .elbo import ELBOTerms, GaussianELBO, elbo_of, gated
from .noise import latent_noise
from .tangents import decoder_spectrum, tangents

__all__ = ["CVAE", "Prior"]

Prior = Literal["learned", "standard"]
C = TypeVar("C", bound="CVAE")


class CVAE(nn.Module):
    """A CVAE with κ latent dimensions: q(z|x, c) = N(μ(x, c), diag σ²(x, c)),  p(x|z, c) = N(x̂(z, c), γI),
    p(z|c) = N(μ_p(c), diag σ_p²(c)) or N(0, I).

    ``model(x, c).loss.backward()`` is a whole training step but for the optimizer. The loss is
    ½ (‖x − x̂(z ⊙ a(c), c)‖²/γ + d log 2πγ) + KL[q(z|x, c) ‖ p(z|c)], averaged over the batch; a(c) = sigmoid(gate(c)),
    or 1 without a gate, is the attention of Section 2.3: which latent dimensions are open for this condition. (Appendix
    A calls it a trainable vector; Section 4.4 makes it depend on c, and the published code uses a sigmoid.)

    Args:
        encoder: module from x ``[B, ...]`` and c ``[B, t]`` to ``(mu, log_var)``, each ``[B, κ]``, or with full
            covariance to ``(mu, tril)``, as in :class:`manifold_core.VAE`. If it has an attribute ``condition_shape``,
            the shape of one condition such as ``(t,)`` (None: any size), c is checked against it. If it has an
            attribute ``input_dtype``, as those of :mod:`manifold_core.networks` do, x and c are checked against it, and
            integers and booleans in c, such as one-hot labels, are converted to it; x is also checked against
            ``input_shape``, the shape of one sample.
        decoder: module from z ``[B, κ]`` and c to x̂, shaped like x.
        latent_dim: κ.
        prior: module from c to ``(prior_mu, prior_log_var)``, each ``[B, κ]``; None is N(0, I).
        gate: module from c to the logits of a(c), ``[B, κ]``; None is no attention.
        elbo: :class:`manifold_core.GaussianELBO`; the default learns γ from γ = 1.
        covariance: ``"diagonal"`` or ``"cholesky"``; None takes that of ``elbo``, diagonal by default.

    Raises:
        InputError: a network is not a module, ``latent_dim`` not a positive integer, ``elbo`` not a GaussianELBO, or
            ``covariance`` unknown or not that of ``elbo``; later, x has another shape than the encoder reads, a
            condition does not match the samples, x or c has another floating-point dtype than the weights, or an
            encoder, prior or gate returns something else.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", equation (2), Definition 4;
    Sections 2.3, 4.4 and Appendix A for the attention and the networks.
    """

    __call__: Callable[..., ELBOTerms]  # of nn.Module it is Any
    any_condition: ClassVar[tuple[None, ...]] = (None,)  # the shape of one, if the encoder says nothing

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent_dim: int,
        prior: nn.Module | None = None,
        gate: nn.Module | None = None,
        *,
        elbo: GaussianELBO | None = None,
        covariance: Covariance | None = None,
    ) -> None:
        super().__init__()
        latent_dim = check_integer("latent_dim", latent_dim, 1)
        check_modules(encoder=encoder, decoder=decoder, prior=prior, gate=gate)
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim
        self.prior = prior
        self.gate = gate
        self.elbo = elbo_of(elbo, covariance)
        said = shape_of_one(encoder, "condition_shape")
        self.condition_shape: tuple[int | None, ...] = self.any_condition if said is None else said

    @classmethod
    def mlp(
        cls: type[C],
        data_dim: int,
        condition_dim: int,
        latent_dim: int,
        hidden: Sequence[int] = (64,),
        *,
        condition_hidden: Sequence[int] = (16,),
        condition_features: int | None = None,
        activation: Activation = "relu",
        prior: Prior = "learned",
        attention: bool = False,
        elbo: GaussianELBO | None = None,
        covariance: Covariance | None = None,
    ) -> C:
        """A CVAE for vectors x ``[B, d]`` given conditions c ``[B, t]``: MLPs, in float32.

        Args:
            data_dim: d.
            condition_dim: t.
            latent_dim: κ.
            hidden: widths of the encoder's hidden layers, which read x and features of c; the decoder, which reads z
                and such features, has them in reverse.
            condition_hidden: widths of the hidden layers of the MLPs that read c alone: for its features, the prior and
                the gate.
            condition_features: how many features of c encoder and decoder read; None is κ.
            activation: ``"relu"`` or ``"prelu"``, between the layers.
            prior: ``"learned"``, p(z|c) by an MLP, or ``"standard"``, N(0, I).
            attention: add a gate, an MLP of c.
            elbo, covariance: see :class:`CVAE`.

        Raises:
            InputError: a size or width is not a positive integer, or an option is unknown.
        """
        check_choice("prior", prior, Prior)
        attention = check_flag("attention", attention)
        hidden, condition_hidden = check_widths(hidden), check_widths(condition_hidden, "condition_hidden")
        elbo = elbo_of(elbo, covariance)
        features = latent_dim if condition_features is None else condition_features
        of_condition = condition_hidden, features, activation
        return cls(
            ConditionalMLPEncoder(data_dim, condition_dim, latent_dim, hidden, *of_condition, elbo.covariance),
            ConditionalMLPDecoder(latent_dim, condition_dim, data_dim, tuple(reversed(hidden)), *of_condition),
            latent_dim,
            MLPEncoder(condition_dim, latent_dim, condition_hidden, activation) if prior == "learned" else None,
            MLPDecoder(condition_dim, latent_dim, condition_hidden, activation) if attention else None,
            elbo=elbo,
        )

    @classmethod
    def conv(
        cls: type[C],
        image_shape: Sequence[int],
        condition_dim: int,
        latent_dim: int,
        channels: int = CONDITIONAL_CHANNELS,
        *,
        hidden: Sequence[int] = (),
        condition_hidden: Sequence[int] = (16,),
        condition_features: int | None = None,
        prior: Prior = "learned",
        attention: bool = False,
        elbo: GaussianELBO | None = None,
        covariance: Covariance | None = None,
    ) -> C:
        """A CVAE for images ``[B, C, H, W]`` given conditions c ``[B, t]``, such as one-hot class labels: the residual
        networks of Appendix A, in float32. The encoder sees c as one more image channel, the decoder as features beside
        z.

        Args:
            image_shape, channels, hidden: see :meth:`VAE.conv`.
            condition_dim: t.
            latent_dim: κ.
            condition_hidden, condition_features, prior, attention: see :meth:`CVAE.mlp`; the features are the
                decoder's alone.
            elbo, covariance: see :class:`CVAE`.

        Raises:
            InputError: a size or width is not a positive integer, ``image_shape`` is not (C, H, W) with H and W
                multiples of 4, or an option is unknown.
        """
        check_choice("prior", prior, Prior)
        attention = check_flag("attention", attention)
        hidden, condition_hidden = check_widths(hidden), check_widths(condition_hidden, "condition_hidden")
        elbo = elbo_of(elbo, covariance)
        features = latent_dim if condition_features is None else condition_features
        return cls(
            ConditionalConvEncoder(image_shape, condition_dim, latent_dim, channels, elbo.covariance, hidden),
            ConditionalConvDecoder(
                latent_dim,
                condition_dim,
                image_shape,
                channels,
                condition_hidden,
                features,
                hidden=tuple(reversed(hidden)),
            ),
            latent_dim,
            MLPEncoder(condition_dim, latent_dim, condition_hidden) if prior == "learned" else None,
            MLPDecoder(condition_dim, latent_dim, condition_hidden) if attention else None,
            elbo=elbo,
        )

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
    ) -> ELBOTerms:
        """The ELBO of a batch and its terms.

        Args:
            x: ``[B, ...]``, of the encoder's dtype.
            c: conditions, one per sample: ``[B, t]``, for sequences ``[B, T, d]``; numbers of that dtype, integers or
                booleans.
            seed, generator, first_row: of the noise, see :func:`manifold_core.rsample_kl`.

        Raises:
            InputError: x or c has another shape or dtype, the numbers of conditions and samples differ, or a network
                does not return what the class says.
        """
        c = self._condition(x, c)
        terms: ELBOTerms = self.elbo(
            x,
            self._posterior(x, c),
            lambda z: check_decoded(self.decoder(z, c), x),
            self._prior(c),
            gate_logits=self._gate_logits(c),
            seed=seed,
            generator=generator,
            first_row=first_row,
        )
        return terms

    def posterior(self, x: Tensor, c: Tensor) -> Gaussian:
        """mu and log_var of q(z|x, c), each ``[B, κ]``; with full covariance mu and tril ``[B, κ(κ+1)/2]``. Keeps
        gradients and the model's mode. Raises InputError like :meth:`forward`, as does every method here that takes x
        and c."""
        return self._posterior(x, self._condition(x, c))

    def variance_ratio(self, x: Tensor, c: Tensor) -> Tensor:
        """σ²(x, c) / σ_p²(c), float64 ``[B, κ]``. With full covariance (Σ_q)_jj / (Σ_p)_jj."""
        c = self._condition(x, c)
        return variance_ratio(self._posterior(x, c), self._prior_log_var(c), self.elbo.covariance)

    def spectrum(self, x: Tensor, c: Tensor) -> Tensor:
        """Eigenvalues of the covariance of q(z|x, c) relative to that of p(z|c), ascending, float64 ``[B, κ]``."""
        if self.elbo.covariance == "diagonal":
            return self.variance_ratio(x, c).sort(dim=1).values
        c = self._condition(x, c)
        return spectrum(self._posterior(x, c), self._prior_log_var(c))

    @torch.no_grad()
    def decoder_spectrum(self, x: Tensor, c: Tensor) -> Tensor:
        """Eigenvalues of (I + S JᵀJ S/γ)⁻¹, S = diag σ_p(c) and J the derivative of x̂(z ⊙ a(c), c) at μ(x, c), like
        :meth:`VAE.decoder_spectrum`."""
        c = self._condition(x, c)
        found = tangents(self._decoded, self._posterior(x, c)[0], c, features=x.shape[1:].numel())
        return decoder_spectrum(found, self.elbo.log_gamma, self._prior_log_var(c))

    @torch.no_grad()
    def encode(self, x: Tensor, c: Tensor) -> Gaussian:
        """The :meth:`posterior` in evaluation mode and without gradients, like :meth:`sample`."""
        with evaluation_mode(self):
            return self.posterior(x, c)

    @torch.no_grad()
    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """x̂ at z ⊙ a(c), z ``[n, κ]`` and n conditions c, see :meth:`forward`; in evaluation mode and without
        gradients, like :meth:`sample`. Raises InputError if z has another shape, dtype or device than the decoder
        reads, and for c like :meth:`sample`."""
        check_latent(z, self.latent_dim, self.decoder, self.elbo.log_gamma.device)
        c = self._condition(None, c)
        if len(z) != len(c):
            raise InputError(f"z must have a row for each condition, {len(c)}, got shape {tuple(z.shape)}")
        with evaluation_mode(self):
            return self._decoded(z, c)

    def reconstruct(self, x: Tensor, c: Tensor) -> Tensor:
        """x̂ at the posterior mean, shaped like x; in evaluation mode and without gradients, like :meth:`sample`."""
        return self.decode(self.encode(x, c)[0], c)

    @torch.no_grad()
    def sample(self, c: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Decoder means at one draw from p(z|c) per condition, ``[n, ...]`` of the decoder's dtype. The model is put
        into evaluation mode meanwhile: batch statistics of noise mean nothing. Without gradients.

        Args:
            c: n conditions, see :meth:`forward`.
            generator: of the draws; None is PyTorch's own.

        Raises:
            InputError: conditions of another shape or dtype; ``generator`` is not one.
        """
        c = self._condition(None, c)
        with evaluation_mode(self):
            z = latent_noise(len(c), self.latent_dim, self.decoder, self.elbo.log_gamma, generator)
            if (prior := self._prior(c)) is not None:
                mu, log_var = prior
                z = mu + torch.exp(log_var / 2) * z
        return self.decode(z, c)

    def _decoded(self, z: Tensor, c: Tensor) -> Tensor:
        logits = self._gate_logits(c)
        x_hat: Tensor = self.decoder(z if logits is None else gated(z, logits), c)
        return x_hat

    def _posterior(self, x: Tensor, c: Tensor) -> Gaussian:
        return check_posterior(self.encoder(x, c), x.shape[:1], self.latent_dim, self.elbo.covariance)

    def _prior(self, c: Tensor) -> Gaussian | None:
        if self.prior is None:
            return None
        return check_prior(self.prior(c), c.shape[:1], self.latent_dim)

    def _gate_logits(self, c: Tensor) -> Tensor | None:
        return None if self.gate is None else check_gate(self.gate(c), c.shape[0], self.latent_dim)

    def _prior_log_var(self, c: Tensor) -> Tensor | None:
        prior = self._prior(c)
        return None if prior is None else prior[1]

    def _condition(self, x: Tensor | None, c: Tensor) -> Tensor:
        """c as the networks read it, for these samples or for any."""
        if x is not None:
            check_x(x, self.encoder)
        dtype = input_dtype(self.encoder)
        c = as_condition("c", c, None if x is None else x.shape[0], self.condition_shape, dtype)
        check_dtype("c", c, dtype)
        return c
