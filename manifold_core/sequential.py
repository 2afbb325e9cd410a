"""A CVAE of the next step of a sequence."""

from collections.abc import Sequence
from typing import ClassVar

from .elbo import GaussianELBO
from .models import CVAE
from .networks import LSTMDecoder, LSTMEncoder, NextStepEncoder

__all__ = ["SequentialCVAE"]


class SequentialCVAE(CVAE):
    """κ-simple sequential CVAE: q(z|x_≤l) = N(μ(x_≤l), diag σ²(x_≤l)),  p(x_l|z, x_<l) = N(x̂(z, x_<l), γI),
    p(z|x_<l) = N(μ_p(x_<l), diag σ_p²(x_<l)).

    A :class:`manifold_core.CVAE` whose condition c ``[B, T, d]`` are the T steps before x ``[B, d]``: modules and terms
    are those of a CVAE, and so are training and evaluation. ``model(x, c).loss`` is the term l = T + 1 of equation (3);
    sequences are cut into windows.

    A prior that shares the encoder's weights, p(z|x_<l) = q(z|x_<l), keeps the loss from falling without bound
    (Theorem 3). The theorem takes one network for all l. Where all windows have one length, encoder and prior read
    sequences of different lengths, and a network that counts steps can tell the two apart.

    Source: "Learning Manifold Dimensions with Conditional VAEs", equation (3), Sections 3.3, 4.6.
    """

    any_condition: ClassVar[tuple[None, ...]] = (None, None)

    @classmethod
    def lstm(
        cls,
        data_dim: int,
        latent_dim: int,
        hidden: int = 32,
        *,
        share_weights: bool = False,
        decoder_hidden: Sequence[int] = (),
        elbo: GaussianELBO | None = None,
    ) -> "SequentialCVAE":
        """Steps of ``data_dim`` numbers. Encoder and prior are LSTMs whose last state a linear layer turns into mu and
        log_var: the encoder's reads c and then x, the prior's c. With ``share_weights`` they are one. The decoder is an
        MLP of z beside the last state of an LSTM of its own, which reads c.

        Args:
            data_dim: d, of one step.
            latent_dim: κ.
            hidden: units of each LSTM.
            share_weights: encoder and prior are the same network; its parameters stand once in ``parameters()``.
            decoder_hidden: widths of the hidden layers of the decoder's MLP. Without any x̂ is affine in z, which suits
                the linear data of Section 4.6; curved manifolds want some.
            elbo: as of :class:`manifold_core.CVAE`.

        Raises:
            InputError: a size that is no positive integer.
        """
        network = LSTMEncoder(data_dim, latent_dim, hidden)
        return cls(
            NextStepEncoder(network, data_dim),
            LSTMDecoder(latent_dim, data_dim, hidden, decoder_hidden),
            latent_dim,
            network if share_weights else LSTMEncoder(data_dim, latent_dim, hidden),
            elbo=elbo,
        )
