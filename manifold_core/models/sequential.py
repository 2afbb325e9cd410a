"""A CVAE of the next step of a sequence, and one of every step."""

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from ..arguments import check_flag
from ..covariance import Covariance, spectrum, variance_ratio
from ..errors import InputError
from ..kernels.checks import check_first_row
from ..networks import LSTMDecoder, LSTMEncoder, NextStepEncoder
from .checks import Gaussian, check_decoded, check_posterior, check_prior
from .cvae import CVAE
from .elbo import ELBOTerms, GaussianELBO, elbo_of

__all__ = ["EveryStepCVAE", "SequentialCVAE"]

S = TypeVar("S", bound="SequentialCVAE")


class SequentialCVAE(CVAE):
    """A sequential CVAE with κ latent dimensions: q(z|x_≤l) = N(μ(x_≤l), diag σ²(x_≤l)),
    p(x_l|z, x_<l) = N(x̂(z, x_<l), γI),  p(z|x_<l) = N(μ_p(x_<l), diag σ_p²(x_<l)).

    A :class:`manifold_core.CVAE` whose condition c ``[B, T, d]`` is the T steps before x ``[B, d]``: its modules,
    terms, training and evaluation are those of a CVAE. ``model(x, c).loss`` is the term l = T + 1 of equation (3);
    sequences are cut into windows.

    A prior that shares the encoder's weights, p(z|x_<l) = q(z|x_<l), keeps the loss from falling without bound
    (Theorem 3). The theorem has one network for all l. Here all windows have one length, encoder and prior read
    sequences of different lengths, and a network that counts steps can tell the two apart; in :class:`EveryStepCVAE`
    that gains nothing.

    Args:
        encoder: module from x ``[B, d]`` and c ``[B, T, d]`` to ``(mu, log_var)``, each ``[B, κ]``, or with full
            covariance to ``(mu, tril)``, such as a :class:`manifold_core.networks.NextStepEncoder`; with the attributes
            of that of a :class:`manifold_core.CVAE`, if it has any. Without ``condition_shape`` c is of any T and any
            width.
        decoder: module from z ``[B, κ]`` and c to x̂ ``[B, d]``.
        prior: module from c to ``(prior_mu, prior_log_var)``, each ``[B, κ]``; None is N(0, I).
        latent_dim, gate, elbo, covariance: see :class:`manifold_core.CVAE`.

    Raises:
        InputError: as by :class:`manifold_core.CVAE`; a condition that is not ``[B, T, d]``; by ``mlp`` and ``conv``,
            whose networks take no sequences.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", equation (3), Sections 3.3, 4.6,
    Appendix A.
    """

    any_condition: ClassVar[tuple[None, ...]] = (None, None)

    @classmethod
    def mlp(cls, *_: Any, **__: Any) -> NoReturn:
        """Raise InputError: those of a CVAE take no sequences."""
        raise InputError(f"{cls.__name__} must be made by lstm, or of networks of your own that read sequences")

    conv = mlp

    @classmethod
    def lstm(
        cls: type[S],
        data_dim: int,
        latent_dim: int,
        hidden: int = 32,
        *,
        share_weights: bool = False,
        decoder_hidden: Sequence[int] = (),
        elbo: GaussianELBO | None = None,
        covariance: Covariance | None = None,
    ) -> S:
        """Steps have ``data_dim`` numbers. Encoder and prior are LSTMs; a linear layer turns their last state into mu
        and log_var, or that of the encoder into mu and tril. The encoder's LSTM reads c and then x, the prior's c; with
        ``share_weights`` they are one. The decoder is an MLP of z and the last state of an LSTM of its own, which reads
        c.

        Args:
            data_dim: d, of one step.
            latent_dim: κ.
            hidden: units of each LSTM.
            share_weights: encoder and prior are the same network; its parameters stand once in ``parameters()``. Not
                with full covariance, which a prior does not have.
            decoder_hidden: widths of the hidden layers of the decoder's MLP. Without any, x̂ is affine in z, which
                suits the linear data of Table 8; curved manifolds need some.
            elbo, covariance: see :class:`manifold_core.CVAE`.

        Raises:
            InputError: a size that is not a positive integer, a flag that is not a bool, an unknown covariance, one
                that is not that of ``elbo``, or a full one of a network that is also the prior.
        """
        share_weights = check_flag("share_weights", share_weights)
        elbo = elbo_of(elbo, covariance)
        if share_weights:
            _check_shared(elbo.covariance)
        network = LSTMEncoder(data_dim, latent_dim, hidden, elbo.covariance)
        return cls(
            NextStepEncoder(network, data_dim),
            LSTMDecoder(latent_dim, data_dim, hidden, decoder_hidden),
            latent_dim,
            network if share_weights else LSTMEncoder(data_dim, latent_dim, hidden),
            elbo=elbo,
        )


class EveryStepCVAE(SequentialCVAE):
    """−ELBO = 1/n Σ_{l=1..n} (E_q(z|x_≤l)[½ (‖x_l − x̂(z, x_<l)‖²/γ + d log 2πγ)] + KL[q(z|x_≤l) ‖ p(z|x_<l)]).

    Equation (3), with the sum over l as a mean: c ``[B, T, d]`` and x ``[B, d]`` are the n = T + 1 steps of a sequence,
    and one encoder, one prior, one decoder and one γ serve every l from the first step on, before which nothing is
    known: T may be 0. Each LSTM runs over the sequence once. With ``share_weights`` encoder and prior are one pass: the
    encoder's output at l is the prior's at l + 1, so counting steps does not help. (Latent dimensions do: with κ ≥ n r
    each step could use r of its own.)

    In ``model(x, c)``, ``nll``, ``kl`` and ``recon`` ``[B]`` and ``variance_ratio`` are means over the steps, while
    ``z``, ``x_hat`` and ``posterior`` hold every step, ``[B, n, ...]``. ``posterior``, ``encode``, ``decode``,
    ``reconstruct``, ``sample`` and ``decoder_spectrum``, and so :func:`manifold_core.local_dimensions`, refer to the
    step after c.

    Args:
        encoder: whose ``network`` has a method ``at_every_length``, as :class:`LSTMEncoder` has.
        decoder, prior: with such a method, too, as :class:`LSTMDecoder` and :class:`LSTMEncoder`.
        latent_dim: κ.
        elbo, covariance: see :class:`manifold_core.CVAE`; with ``reduction="mean"``.

    Raises:
        InputError: networks without that method, another reduction, or a full covariance of a network that is also the
            prior.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", equation (3), Theorem 3.
    """

    encoder: NextStepEncoder
    decoder: LSTMDecoder
    prior: LSTMEncoder

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent_dim: int,
        prior: nn.Module,
        *,
        elbo: GaussianELBO | None = None,
        covariance: Covariance | None = None,
    ) -> None:
        super().__init__(encoder, decoder, latent_dim, prior, elbo=elbo, covariance=covariance)
        networks = {"encoder.network": getattr(encoder, "network", None), "decoder": decoder, "prior": prior}
        for name, network in networks.items():
            if not hasattr(network, "at_every_length"):
                raise InputError(
                    f"{name} must have a method at_every_length, as LSTMEncoder and LSTMDecoder have, "
                    f"got {type(network).__name__}"
                )
        if prior is networks["encoder.network"]:
            _check_shared(self.elbo.covariance)
        self._check_reduction()

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
    ) -> ELBOTerms:
        """The ELBO of a batch of sequences and its terms; step l of sample i has the noise of row i n + l − 1."""
        self._check_reduction()  # it may be set later
        c = self._condition(x, c)
        steps, posterior, prior = self._at_every_step(x, c)
        shape = steps.shape[:2]
        terms: ELBOTerms = self.elbo(
            steps.flatten(0, 1),
            _rows(posterior),
            lambda z: check_decoded(self.decoder.at_every_length(z.unflatten(0, shape), c), steps).flatten(0, 1),
            _rows(prior),
            seed=seed,
            generator=generator,
            first_row=check_first_row(first_row, len(x)) * shape[1],
        )
        return terms._replace(
            **{name: getattr(terms, name).unflatten(0, shape).mean(1) for name in ("nll", "kl", "recon")},
            **{name: getattr(terms, name).unflatten(0, shape) for name in ("z", "x_hat")},
            posterior=posterior,
        )

    def variance_ratio(self, x: Tensor, c: Tensor) -> Tensor:
        """σ²(x_≤l) / σ_p²(x_<l), the mean over l, float64 ``[B, κ]``. With full covariance (Σ_q)_jj / (Σ_p)_jj."""
        _, posterior, prior = self._at_every_step(x, self._condition(x, c))
        ratio = variance_ratio(_rows(posterior), _rows(prior)[1], self.elbo.covariance)
        return ratio.unflatten(0, prior[1].shape[:2]).mean(1)

    def spectrum(self, x: Tensor, c: Tensor) -> Tensor:
        """Eigenvalues of the covariance of q(z|x_≤l) relative to that of p(z|x_<l), ascending, the mean over l, float64
        ``[B, κ]``."""
        if self.elbo.covariance == "diagonal":
            return super().spectrum(x, c)
        _, posterior, prior = self._at_every_step(x, self._condition(x, c))
        return spectrum(_rows(posterior), _rows(prior)[1]).unflatten(0, prior[1].shape[:2]).mean(1)

    def _prior(self, c: Tensor) -> Gaussian | None:
        if c.shape[1] > 0:
            return super()._prior(c)
        mu, log_var = check_prior(self.prior.at_every_length(c), (len(c), 1), self.latent_dim)
        return mu[:, 0], log_var[:, 0]

    def _decoded(self, z: Tensor, c: Tensor) -> Tensor:
        if c.shape[1] > 0:
            return super()._decoded(z, c)
        return self.decoder.at_every_length(z.unsqueeze(1), c).squeeze(1)

    def _check_reduction(self) -> None:
        """The ELBO has a row for each step: only their mean is the loss."""
        if self.elbo.reduction != "mean":
            raise InputError(f"elbo must have reduction='mean', got {self.elbo.reduction!r}")

    def _at_every_step(self, x: Tensor, c: Tensor) -> tuple[Tensor, Gaussian, Gaussian]:
        """The steps ``[B, n, d]``; of q(z|x_≤l) and of p(z|x_<l), l = 1 to n, mu and log_var ``[B, n, κ]``, of q with
        full covariance mu and tril."""
        steps = self.encoder.sequence(x, c)
        network: Any = self.encoder.network
        lengths = len(x), steps.shape[1] + 1
        mu, spread = check_posterior(network.at_every_length(steps), lengths, self.latent_dim, self.elbo.covariance)
        prior = mu[:, :-1], spread[:, :-1]
        if self.prior is not network:
            prior = check_prior(self.prior.at_every_length(c), steps.shape[:2], self.latent_dim)
        return steps, (mu[:, 1:], spread[:, 1:]), prior


def _check_shared(covariance: Covariance) -> None:
    """Raise InputError for the full covariance of an encoder that is also the prior."""
    if covariance != "diagonal":
        raise InputError(f"covariance must be 'diagonal' if encoder and prior are one network, got {covariance!r}")


def _rows(gaussian: Gaussian) -> Gaussian:
    """A row for each step of each sample."""
    mu, spread = gaussian
    return mu.flatten(0, 1), spread.flatten(0, 1)
