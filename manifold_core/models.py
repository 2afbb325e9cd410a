"""The models: an encoder, a decoder and an ELBO put together."""

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from .checks import (
    Gaussian,
    as_condition,
    check_decoded,
    check_dtype,
    check_gate,
    check_posterior,
    check_prior,
    check_x,
    input_dtype,
)
from .choices import check_choice
from .covariance import Covariance, spectrum, variance_ratio
from .elbo import ELBOTerms, Gamma, GaussianELBO, gated
from .errors import InputError
from .kernels.checks import integer
from .modes import evaluation_mode
from .networks import (
    Activation,
    ConditionalConvDecoder,
    ConditionalConvEncoder,
    ConditionalMLPDecoder,
    ConditionalMLPEncoder,
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    MLPEncoder,
)
from .networks.checks import check_positive, check_widths
from .networks.conv import CHANNELS, CONDITIONAL_CHANNELS
from .tangents import decoder_spectrum, tangents

__all__ = ["CVAE", "VAE", "Prior"]

Prior = Literal["learned", "standard"]


def _elbo(elbo: GaussianELBO | None, covariance: Covariance | None) -> GaussianELBO:
    """The ELBO of a model for which both were asked, either or none."""
    if elbo is None:
        return GaussianELBO(covariance=covariance or "diagonal")
    if not hasattr(elbo, "covariance"):
        meant = f"; try GaussianELBO({elbo!r})" if isinstance(elbo, str) and elbo in get_args(Gamma) else ""
        raise InputError(f"elbo must be a GaussianELBO, got {elbo!r}{meant}")
    if covariance not in (None, elbo.covariance):
        raise InputError(f"covariance must be that of elbo, {elbo.covariance!r}, got {covariance!r}")
    return elbo


def _check_modules(**networks: nn.Module | None) -> None:
    """Raise InputError for a plain function: the weights of a network within would be nobody's, and never trained."""
    for name, network in networks.items():
        if network is not None and not isinstance(network, nn.Module):
            raise InputError(f"{name} must be a torch.nn.Module, got {network!r}")
        if isinstance(network, GaussianELBO):  # the fourth argument of VAE, not of CVAE
            raise InputError(f"{name} must be a network, got a GaussianELBO: give elbo=")


class VAE(nn.Module):
    """κ-simple VAE: q(z|x) = N(μ(x), diag σ²(x)),  p(x|z) = N(x̂(z), γI),  p(z) = N(0, I).

    ``model(x).loss.backward()`` is the whole training step but for the optimizer. With full covariance q(z|x) is
    N(μ(x), L(x) L(x)ᵀ).

    Args:
        encoder: module from x ``[B, ...]`` to ``(mu, log_var)``, each ``[B, κ]``; with full covariance to
            ``(mu, tril)``, tril ``[B, κ(κ+1)/2]`` the packed rows of L, log L_jj on the diagonal. Where it has an
            attribute ``input_dtype`` or ``input_shape``, the shape of one sample, as those of
            :mod:`manifold_core.networks` have, x is held against that.
        decoder: module from z ``[B, κ]`` to x̂ of the shape of x.
        latent_dim: κ.
        elbo: :class:`manifold_core.GaussianELBO`; the default learns γ from γ = 1.
        covariance: ``"diagonal"`` or ``"cholesky"``; None is that of ``elbo``, whose default is diagonal.

    Raises:
        InputError: ``encoder`` or ``decoder`` is no module, ``latent_dim`` no positive integer, ``elbo`` no
            GaussianELBO, or ``covariance`` unknown or not that of ``elbo``; later, x of another shape or dtype than the
            encoder reads, or an encoder that gives something else.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Definition 1; Section 4.7 for full
    covariance.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent_dim: int,
        elbo: GaussianELBO | None = None,
        *,
        covariance: Covariance | None = None,
    ) -> None:
        super().__init__()
        (latent_dim,) = check_positive(latent_dim=latent_dim)
        _check_modules(encoder=encoder, decoder=decoder)
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim
        self.elbo = _elbo(elbo, covariance)

    @classmethod
    def mlp(
        cls,
        data_dim: int,
        latent_dim: int,
        hidden: Sequence[int] = (64,),
        elbo: GaussianELBO | None = None,
        *,
        activation: Activation = "relu",
        covariance: Covariance | None = None,
    ) -> "VAE":
        """A VAE of vectors: MLPs from x ``[B, d]`` to ``[B, κ]`` and back, of float32 weights.

        Args:
            data_dim: d.
            latent_dim: κ.
            hidden: widths of the encoder's hidden layers; the decoder's are these in reverse.
            elbo, covariance: as of :class:`VAE`.
            activation: ``"relu"`` or ``"prelu"``, between the layers.

        Raises:
            InputError: a size or width is no positive integer, or an option is unknown.
        """
        elbo = _elbo(elbo, covariance)
        hidden = check_widths(hidden)
        encoder = MLPEncoder(data_dim, latent_dim, hidden, activation, elbo.covariance)
        return cls(encoder, MLPDecoder(latent_dim, data_dim, tuple(reversed(hidden)), activation), latent_dim, elbo)

    @classmethod
    def conv(
        cls,
        image_shape: Sequence[int],
        latent_dim: int,
        channels: int = CHANNELS,
        elbo: GaussianELBO | None = None,
        *,
        hidden: Sequence[int] = (),
        covariance: Covariance | None = None,
    ) -> "VAE":
        """A VAE of images ``[B, C, H, W]``: the residual networks of Appendix A, of float32 weights.

        Args:
            image_shape: (C, H, W), H and W multiples of 4.
            latent_dim: κ.
            channels: of the encoder's first block and the decoder's last; the others have twice as many.
            elbo, covariance: as of :class:`VAE`.
            hidden: widths of an MLP beside the linear layer between blocks and latent space, in the decoder in reverse:
                with it the latent space can bend with the images, and the loss is lower. Empty is no MLP, as in the
                paper.

        Raises:
            InputError: a size or width is no positive integer, ``image_shape`` is not as above, or an option is
                unknown.
        """
        elbo = _elbo(elbo, covariance)
        hidden = check_widths(hidden)
        encoder = ConvEncoder(image_shape, latent_dim, channels, elbo.covariance, hidden)
        return cls(encoder, ConvDecoder(latent_dim, image_shape, channels, tuple(reversed(hidden))), latent_dim, elbo)

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
            seed, generator, first_row: of the noise, as of :func:`manifold_core.rsample_kl`.

        Raises:
            InputError: x of another shape or dtype than the encoder reads, or a network that gives something else than
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
        """mu and log_var of q(z|x), each ``[B, κ]``; with full covariance mu and tril ``[B, κ(κ+1)/2]``. With
        gradients, and in the mode that the model is in. Raises InputError as :meth:`forward`, which holds for all that
        takes x here."""
        check_x(x, self.encoder)
        return check_posterior(self.encoder(x), x.shape[:1], self.latent_dim, self.elbo.covariance)

    def variance_ratio(self, x: Tensor) -> Tensor:
        """σ²(x), float64 ``[B, κ]``: over the prior's variance, which is 1. With full covariance (Σ_q)_jj."""
        return variance_ratio(self.posterior(x), None, self.elbo.covariance)

    def spectrum(self, x: Tensor) -> Tensor:
        """Eigenvalues of the covariance of q(z|x), ascending, float64 ``[B, κ]``."""
        if self.elbo.covariance == "diagonal":
            return self.variance_ratio(x).sort(dim=1).values
        return spectrum(self.posterior(x), None)

    @torch.no_grad()
    def decoder_spectrum(self, x: Tensor) -> Tensor:
        """Eigenvalues of (I + JᵀJ/γ)⁻¹, J the decoder's derivative at μ(x), ascending, float64 ``[B, κ]``: see
        :func:`manifold_core.local_dimensions`. Without gradients, and in the mode that the model is in."""
        return decoder_spectrum(tangents(self.decoder, self.posterior(x)[0]), self.elbo.log_gamma, None)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Gaussian:
        """What :meth:`posterior` gives, in evaluation mode and without gradients, as of :meth:`sample`."""
        with evaluation_mode(self):
            return self.posterior(x)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """x̂ at z ``[n, κ]``, in evaluation mode and without gradients, as of :meth:`sample`. Raises InputError for z of
        another shape."""
        _check_latent(z, self.latent_dim)
        with evaluation_mode(self):
            x_hat: Tensor = self.decoder(z)
        return x_hat

    def reconstruct(self, x: Tensor) -> Tensor:
        """x̂ at the mean of the posterior, of the shape of x; in evaluation mode and without gradients, as of
        :meth:`sample`."""
        return self.decode(self.encode(x)[0])

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Means of the decoder at ``n`` draws of the prior, ``[n, ...]`` of the decoder's dtype. The model is put into
        evaluation mode for the while: a batch of noise is none to take statistics from. Gradients are those of
        ``model.decoder(z)``: here none are kept, and what comes out goes to NumPy as it is.

        Raises:
            InputError: ``n`` is no integer, or negative; no generator.
        """
        number = integer(n)
        if number is None or number < 0:
            raise InputError(f"n must be an integer, at least 0, got {n!r}")
        return self.decode(_noise(self, number, self.elbo.log_gamma.device, generator))


class CVAE(nn.Module):
    """κ-simple CVAE: q(z|x, c) = N(μ(x, c), diag σ²(x, c)),  p(x|z, c) = N(x̂(z, c), γI),
    p(z|c) = N(μ_p(c), diag σ_p²(c)) or N(0, I).

    ``model(x, c).loss.backward()`` is the whole training step but for the optimizer. The loss is
    ½ (‖x − x̂(z ⊙ a(c), c)‖²/γ + d log 2πγ) + KL[q(z|x, c) ‖ p(z|c)], averaged over the batch; a(c) = sigmoid(gate(c)),
    or 1 without a gate, is the attention of Section 2.3: which latent dimensions are open for this condition. (Appendix
    A calls it a trainable vector; that it is made of c is Section 4.4's, the sigmoid the published code's.)

    Args:
        encoder: module from x ``[B, ...]`` and c ``[B, t]`` to ``(mu, log_var)``, each ``[B, κ]``, or with full
            covariance to ``(mu, tril)``, as of :class:`manifold_core.VAE`. Where it has an attribute
            ``condition_shape``, the shape of one condition, such as ``(t,)``, c is held against that; None in it is any
            size. Where it has an attribute ``input_dtype``, as those of :mod:`manifold_core.networks` have, x and c are
            held against that, and integers and booleans in c, such as labels in one-hot form, are made such numbers;
            x also against ``input_shape``, the shape of one sample.
        decoder: module from z ``[B, κ]`` and c to x̂ of the shape of x.
        latent_dim: κ.
        prior: module from c to ``(prior_mu, prior_log_var)``, each ``[B, κ]``; None is N(0, I).
        gate: module from c to the logits of a(c), ``[B, κ]``; None is no attention.
        elbo: :class:`manifold_core.GaussianELBO`; the default learns γ from γ = 1.
        covariance: ``"diagonal"`` or ``"cholesky"``; None is that of ``elbo``, whose default is diagonal.

    Raises:
        InputError: a network is no module, ``latent_dim`` no positive integer, ``elbo`` no GaussianELBO, or
            ``covariance`` unknown or not that of ``elbo``; later, x of another shape than the encoder reads, a
            condition that does not go with the samples, x or c of another floating-point dtype than the weights, or an
            encoder, prior or gate that gives something else.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", equation (2), Definition 4;
    Sections 2.3, 4.4 and Appendix A for the attention and the networks.
    """

    any_condition: ClassVar[tuple[None, ...]] = (None,)  # the shape of one, where the encoder says nothing

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent_dim: int,
        prior: nn.Module | None = None,
        gate: nn.Module | None = None,
        elbo: GaussianELBO | None = None,
        *,
        covariance: Covariance | None = None,
    ) -> None:
        super().__init__()
        (latent_dim,) = check_positive(latent_dim=latent_dim)
        _check_modules(encoder=encoder, decoder=decoder, prior=prior, gate=gate)
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim
        self.prior = prior
        self.gate = gate
        self.elbo = _elbo(elbo, covariance)
        self.condition_shape: tuple[int | None, ...] = getattr(encoder, "condition_shape", self.any_condition)

    @classmethod
    def mlp(
        cls,
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
    ) -> "CVAE":
        """A CVAE of vectors x ``[B, d]`` under conditions c ``[B, t]``: MLPs, of float32 weights.

        Args:
            data_dim: d.
            condition_dim: t.
            latent_dim: κ.
            hidden: widths of the encoder's hidden layers, which read x beside features of c; the decoder's, which read
                z beside such features, are these in reverse.
            condition_hidden: widths of the hidden layers of the MLPs that read c alone: those that make its features,
                the prior's and the gate's.
            condition_features: how many features of c encoder and decoder read; None is κ.
            activation: ``"relu"`` or ``"prelu"``, between the layers.
            prior: ``"learned"``, p(z|c) by an MLP, or ``"standard"``, N(0, I).
            attention: with a gate, an MLP of c.
            elbo, covariance: as of :class:`CVAE`.

        Raises:
            InputError: a size or width is no positive integer, or an option is unknown.
        """
        check_choice("prior", prior, Prior)
        hidden, condition_hidden = check_widths(hidden), check_widths(condition_hidden, "condition_hidden")
        elbo = _elbo(elbo, covariance)
        features = latent_dim if condition_features is None else condition_features
        of_condition = condition_hidden, features, activation
        return cls(
            ConditionalMLPEncoder(data_dim, condition_dim, latent_dim, hidden, *of_condition, elbo.covariance),
            ConditionalMLPDecoder(latent_dim, condition_dim, data_dim, tuple(reversed(hidden)), *of_condition),
            latent_dim,
            MLPEncoder(condition_dim, latent_dim, condition_hidden, activation) if prior == "learned" else None,
            MLPDecoder(condition_dim, latent_dim, condition_hidden, activation) if attention else None,
            elbo,
        )

    @classmethod
    def conv(
        cls,
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
    ) -> "CVAE":
        """A CVAE of images ``[B, C, H, W]`` under conditions c ``[B, t]``, such as class labels in one-hot form: the
        residual networks of Appendix A, of float32 weights. The encoder sees c as one more channel of the image, the
        decoder as features beside z.

        Args:
            image_shape, channels, hidden: as of :meth:`VAE.conv`.
            condition_dim: t.
            latent_dim: κ.
            condition_hidden, condition_features, prior, attention: as of :meth:`CVAE.mlp`, the features of the decoder
                alone.
            elbo, covariance: as of :class:`CVAE`.

        Raises:
            InputError: a size or width is no positive integer, ``image_shape`` is not (C, H, W) with H and W multiples
                of 4, or an option is unknown.
        """
        check_choice("prior", prior, Prior)
        hidden, condition_hidden = check_widths(hidden), check_widths(condition_hidden, "condition_hidden")
        elbo = _elbo(elbo, covariance)
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
            elbo,
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
            c: ``[B, t]``; numbers of that dtype, or integers or booleans.
            seed, generator, first_row: of the noise, as of :func:`manifold_core.rsample_kl`.

        Raises:
            InputError: x or c of another shape or dtype, conditions of another number than samples, or a network that
                gives something else than :class:`CVAE` says.
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
        """mu and log_var of q(z|x, c), each ``[B, κ]``; with full covariance mu and tril ``[B, κ(κ+1)/2]``. With
        gradients, and in the mode that the model is in. Raises InputError as :meth:`forward`, which holds for all that
        takes x and c here."""
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
        """Eigenvalues of (I + S JᵀJ S/γ)⁻¹, S = diag σ_p(c) and J the derivative of x̂(z ⊙ a(c), c) at μ(x, c), as of
        :meth:`VAE.decoder_spectrum`."""
        c = self._condition(x, c)
        found = tangents(self._decoded, self._posterior(x, c)[0], c)
        return decoder_spectrum(found, self.elbo.log_gamma, self._prior_log_var(c))

    @torch.no_grad()
    def encode(self, x: Tensor, c: Tensor) -> Gaussian:
        """What :meth:`posterior` gives, in evaluation mode and without gradients, as of :meth:`sample`."""
        with evaluation_mode(self):
            return self.posterior(x, c)

    @torch.no_grad()
    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """x̂ at z ⊙ a(c), z ``[n, κ]`` and c ``[n, t]``; in evaluation mode and without gradients, as of :meth:`sample`.
        Raises InputError for z of another shape, and for c as :meth:`sample`."""
        _check_latent(z, self.latent_dim)
        c = self._condition(None, c)
        if len(z) != len(c):
            raise InputError(f"z must have a row for each condition, {len(c)}, got shape {tuple(z.shape)}")
        with evaluation_mode(self):
            return self._decoded(z, c)

    def reconstruct(self, x: Tensor, c: Tensor) -> Tensor:
        """x̂ at the mean of the posterior, of the shape of x; in evaluation mode and without gradients, as of
        :meth:`sample`."""
        return self.decode(self.encode(x, c)[0], c)

    @torch.no_grad()
    def sample(self, c: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Means of the decoder at one draw of p(z|c) for each condition, ``[n, ...]`` of the decoder's dtype. The model
        is put into evaluation mode for the while: a batch of noise is none to take statistics from. Without gradients.

        Args:
            c: ``[n, t]``, as of :meth:`forward`.
            generator: of the draws; None is PyTorch's own.

        Raises:
            InputError: conditions of another shape or dtype; no generator.
        """
        c = self._condition(None, c)
        with evaluation_mode(self):
            z = _noise(self, len(c), c.device, generator)
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
        """c as the networks want it, for these samples or for any."""
        if x is not None:
            check_x(x, self.encoder)
        dtype = input_dtype(self.encoder)
        c = as_condition("c", c, None if x is None else x.shape[0], self.condition_shape, dtype)
        check_dtype("c", c, dtype)
        return c


def _check_latent(z: object, latent_dim: int) -> None:
    if not isinstance(z, Tensor) or z.shape[1:] != (latent_dim,):
        got = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise InputError(f"z must be a tensor of shape [n, {latent_dim}], got {got}")


def _noise(model: VAE | CVAE, n: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """ε ``[n, κ]`` of the dtype that the decoder computes in; the ELBO's is not always that."""
    if not isinstance(generator, torch.Generator | None):
        raise InputError(
            f"generator must be a torch.Generator, such as torch.Generator().manual_seed(0), or None, got {generator!r}"
        )
    weights = (weight for weight in model.decoder.parameters() if weight.is_floating_point())
    dtype = next(weights, model.elbo.log_gamma).dtype
    return torch.randn(n, model.latent_dim, generator=generator, device=device, dtype=dtype)
