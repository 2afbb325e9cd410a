"""What to train: one model of an ensemble."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from functools import cache

import numpy as np
import torch

from ..arguments import check_flag, check_integer
from ..covariance import Covariance
from ..errors import InputError
from ..kernels.checks import integer
from ..models import CVAE, VAE, Prior
from ..models.elbo import Gamma, GaussianELBO
from ..models.sequential import EveryStepCVAE, SequentialCVAE
from ..networks import Activation
from ..networks.checks import check_widths
from ..networks.head import NARROW
from ..networks.residual import default_channels
from ..networks.seeded import drawn_from
from ..training import TrainingConfig, check_config

__all__ = ["BaseSpec", "ConvSpec", "ModelSpec", "SequentialSpec", "Spec", "check_kinds", "outline", "weights"]

MOST_LAYERS = 24  # that the engines take: those of a CVAE with everything and three hidden layers


@dataclass(frozen=True)
class BaseSpec:
    """What every specification has."""

    latent_dim: int
    _: KW_ONLY
    gamma: Gamma = "learned"
    log_gamma: float = 0.0
    covariance: Covariance = "diagonal"
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: int = 0

    def __post_init__(self) -> None:
        """NumPy's numbers become Python's: a checkpoint has the specification as JSON."""
        check_config("training", self.training)
        check_integer("data", self.data, 0)
        for one in fields(self):
            value = getattr(self, one.name)
            number = value.item() if isinstance(value, np.generic) else integer(value)
            if number is not None:
                object.__setattr__(self, one.name, number)
            if one.type is bool:
                check_flag(one.name, value)

    def elbo(self) -> GaussianELBO:
        return GaussianELBO(self.gamma, self.log_gamma, covariance=self.covariance)


@dataclass(frozen=True)
class _WithCondition(BaseSpec):
    """What specifications have whose models may be under a condition."""

    _: KW_ONLY
    condition_dim: int = 0
    prior: Prior = "learned"
    attention: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("condition_dim", self.condition_dim, 0)


@dataclass(frozen=True)
class ModelSpec(_WithCondition):
    """An MLP VAE, or with ``condition_dim`` a CVAE, and how to train it.

    The weights, the order of the samples and the noise all come from ``training.seed``.

    Args:
        latent_dim: κ.
        hidden: widths of the hidden layers of the encoder, at least one; the decoder has them in reverse.
        activation: between the layers, ``"relu"`` or ``"prelu"``.
        gamma, log_gamma: see :class:`manifold_core.GaussianELBO`.
        condition_dim: width of the condition; 0 makes a VAE.
        condition_hidden, condition_features, prior, attention: see :meth:`manifold_core.CVAE.mlp`; without a
            condition they have no effect.
        covariance: of the posterior, ``"diagonal"`` or ``"cholesky"``; on a GPU, or after a layer of more than 64
            neurons, only the reference trains the latter.
        training: steps, batch size, learning rate, seed.
        data: which of the data sets given to :func:`manifold_core.train_ensemble`, from 0.

    Raises:
        InputError: a size below one, no hidden layer, an unknown name, not a :class:`TrainingConfig`.
    """

    hidden: Sequence[int] = (64,)
    activation: Activation = "relu"
    _: KW_ONLY
    condition_hidden: Sequence[int] = (16,)
    condition_features: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("hidden", "condition_hidden"):
            widths = getattr(self, name)
            if not isinstance(widths, Sequence) or not widths:
                raise InputError(f"{name} must be a sequence of positive integers, such as (64,), got {widths!r}")
            object.__setattr__(self, name, check_widths(widths, name))
        outline(self, 1)  # refuses what the networks refuse

    def build(self, data_dim: int) -> VAE | CVAE:
        """The model before training, for vectors of this many numbers; torch's global generator is left alone."""
        with drawn_from(self.training.seed):
            if not self.condition_dim:
                return VAE.mlp(data_dim, self.latent_dim, self.hidden, activation=self.activation, elbo=self.elbo())
            return CVAE.mlp(
                data_dim,
                self.condition_dim,
                self.latent_dim,
                self.hidden,
                condition_hidden=self.condition_hidden,
                condition_features=self.condition_features,
                activation=self.activation,
                prior=self.prior,
                attention=self.attention,
                elbo=self.elbo(),
            )

    @property
    def beyond_engines(self) -> str:
        """What keeps the engines from training it; empty if nothing does."""
        if self.training.precision != "float32":
            return f"has precision={self.training.precision!r}"
        if self.covariance != "diagonal" and self.hidden[-1] > NARROW:
            return f"has a full covariance behind {self.hidden[-1]} neurons, more than {NARROW}"
        return f"has {self.layers} layers" if self.layers > MOST_LAYERS else ""

    @property
    def layers(self) -> int:
        """In all its networks: encoder, decoder, and for a condition one beside each of them, prior and gate."""
        of_condition = 2 + (self.prior == "learned") + self.attention if self.condition_dim else 0
        return 2 * (len(self.hidden) + 1) + of_condition * (len(self.condition_hidden) + 1)


@dataclass(frozen=True)
class SequentialSpec(BaseSpec):
    """A sequential CVAE of LSTMs, and how to train it. Only the reference trains it.

    The weights, the order of the samples and the noise all come from ``training.seed``.

    Args:
        latent_dim: κ.
        every_step: :class:`manifold_core.EveryStepCVAE`, the loss of every step, instead of
            :class:`manifold_core.SequentialCVAE`, that of the last.
        hidden, share_weights, decoder_hidden: see :meth:`manifold_core.SequentialCVAE.lstm`.
        covariance: of the posterior, ``"diagonal"`` or ``"cholesky"``.
        gamma, log_gamma, training, data: see :class:`ModelSpec`.

    Raises:
        InputError: a size below one, an unknown name, not a :class:`TrainingConfig`; shared weights with a full
            covariance.
    """

    every_step: bool = False
    hidden: int = 32
    share_weights: bool = False
    decoder_hidden: Sequence[int] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "decoder_hidden", check_widths(self.decoder_hidden, "decoder_hidden"))
        outline(self, 1)  # refuses what the networks refuse

    @property
    def beyond_engines(self) -> str:
        """What keeps the engines from training it."""
        return "is a SequentialSpec"

    def build(self, data_dim: int) -> SequentialCVAE:
        """The model before training, for steps of this many numbers; torch's global generator is left alone."""
        kind = EveryStepCVAE if self.every_step else SequentialCVAE
        with drawn_from(self.training.seed):
            return kind.lstm(
                data_dim,
                self.latent_dim,
                self.hidden,
                share_weights=self.share_weights,
                decoder_hidden=self.decoder_hidden,
                elbo=self.elbo(),
            )


@dataclass(frozen=True)
class ConvSpec(_WithCondition):
    """A VAE of residual networks for images, or with ``condition_dim`` a CVAE, and how to train it. Only the reference
    trains it.

    The weights, the order of the samples and the noise all come from ``training.seed``.

    Args:
        latent_dim: κ.
        channels: of the first residual block; None takes the default of :meth:`manifold_core.VAE.conv`, or with a
            condition of :meth:`manifold_core.CVAE.conv`.
        hidden: see :meth:`manifold_core.VAE.conv`.
        covariance: of the posterior, ``"diagonal"`` or ``"cholesky"``.
        condition_dim: width of the condition; 0 makes a VAE.
        prior, attention: see :meth:`manifold_core.CVAE.conv`; without a condition they have no effect.
        gamma, log_gamma, training, data: see :class:`ModelSpec`.

    Raises:
        InputError: a size below one, an unknown name, not a :class:`TrainingConfig`.
    """

    channels: int | None = None
    _: KW_ONLY
    hidden: Sequence[int] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", check_widths(self.hidden))
        outline(self, 1, 4, 4)  # refuses what the networks refuse

    @property
    def beyond_engines(self) -> str:
        """What keeps the engines from training it."""
        return "is a ConvSpec"

    def build(self, *image_shape: int) -> VAE | CVAE:
        """The model before training, for images of (channels, height, width); torch's global generator is left alone.

        Raises:
            InputError: height and width must be multiples of 4.
        """
        with drawn_from(self.training.seed):
            channels = default_channels(self.condition_dim > 0) if self.channels is None else self.channels
            if not self.condition_dim:
                return VAE.conv(image_shape, self.latent_dim, channels, hidden=self.hidden, elbo=self.elbo())
            return CVAE.conv(
                image_shape,
                self.condition_dim,
                self.latent_dim,
                channels,
                hidden=self.hidden,
                prior=self.prior,
                attention=self.attention,
                elbo=self.elbo(),
            )


def check_kinds(specs: object) -> "Sequence[Spec]":
    """The specifications, at least one. Raises InputError for anything else."""
    if not isinstance(specs, Sequence):
        raise InputError(f"specs must be a sequence of specifications, such as a list, got {type(specs).__name__}")
    if not specs:
        raise InputError("specs must hold at least one specification, got none")
    for index, spec in enumerate(specs):
        if not isinstance(spec, Spec):
            raise InputError(
                f"specs[{index}] must be a ModelSpec, a SequentialSpec or a ConvSpec, got {type(spec).__name__}"
                f"{'; mc.train trains one of your own' if isinstance(spec, torch.nn.Module) else ''}"
            )
    return specs


def outline(spec: "Spec", *sample_shape: int) -> VAE | CVAE:
    """The model before training, without numbers: takes no memory. Raises InputError if its sizes are beyond what
    tensors can have."""
    try:
        with torch.device("meta"):
            return spec.build(*sample_shape)
    except RuntimeError as error:
        raise InputError(
            f"latent_dim must be of a size that tensors can have, got {spec.latent_dim}: {error}"
        ) from error


def weights(spec: "Spec", *sample_shape: int) -> int:
    """How many numbers are trained in a model for samples of this shape."""
    return _weights(replace(spec, training=TrainingConfig(), data=0), *sample_shape)  # of many seeds, counted once


@cache
def _weights(spec: "Spec", *sample_shape: int) -> int:
    return sum(parameter.numel() for parameter in outline(spec, *sample_shape).parameters())


Spec = ModelSpec | SequentialSpec | ConvSpec
