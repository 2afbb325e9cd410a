"""What a search trains."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..arguments import check_integer, described
from ..ensemble import ModelSpec
from ..errors import InputError
from ..networks.checks import check_widths
from ..training import TrainingConfig

__all__ = ["EACH", "FIRST", "LEAST", "NETWORKS", "WIDER", "SearchPlan"]

FIRST = 32  # latent dimensions to begin with, if the data have as many features
# Directions to train on: for each dimension that neighbours see, who see too few of many, and at least.
EACH, LEAST = 8, 16
NETWORKS = ((64,), (64, 64, 64))
WIDER = ((128, 128, 128),)  # if these have not bent as far as neighbours see


@dataclass(frozen=True)
class SearchPlan:
    """What is trained for each number of latent dimensions.

    Args:
        latent_dim: first κ, more than the manifold's dimensions; None starts with 32, or d if that is less, and doubles
            while all are active.
        networks: widths of the hidden layers of the MLPs that are tried; None tries (64,), which learns flat manifolds
            to a smaller γ, and (64, 64, 64), which learns curved ones; then, where nearest neighbours see fewer
            dimensions than the best of these has, (128, 128, 128).
        models: per network, with seeds from ``seed`` on.
        log_gamma: where γ starts, for samples of scale 1: from 0, deep networks, and any on data that look alike in all
            directions, shut every latent dimension before learning one.
        steps, batch_size, learning_rate, seed: of each model's training, see :class:`manifold_core.TrainingConfig`;
            ``seed`` also draws the held-out samples.
        directions: principal directions of the samples that the models are trained on, the widest; None takes eight
            times as many as nearest neighbours see dimensions (:func:`manifold_core.two_nn`), and at least 16.

    Raises:
        InputError: a size below one, no network, or a number out of range.
    """

    latent_dim: int | None = None
    networks: Sequence[Sequence[int]] | None = None
    models: int = 2
    log_gamma: float = -4.0
    steps: int = 20_000
    batch_size: int = 256
    learning_rate: float = 0.005
    seed: int = 0
    directions: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", check_integer("models", self.models, 1))
        for name in ("latent_dim", "directions"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_integer(name, value, 1))
        if self.networks is not None:
            if (
                not isinstance(self.networks, Sequence)
                or not self.networks
                or not all(isinstance(one, Sequence) and not isinstance(one, str) and one for one in self.networks)
            ):
                raise InputError(
                    "networks must be None or a sequence of widths, such as ((64,), (64, 64)), got "
                    f"{described(self.networks)}"
                )
            object.__setattr__(self, "networks", tuple(check_widths(widths, "networks") for widths in self.networks))
        spec = self.specs([1])[0]  # refuses what a specification refuses, and has Python's numbers of NumPy's
        object.__setattr__(self, "log_gamma", spec.log_gamma)
        for name in ("steps", "batch_size", "learning_rate", "seed"):
            object.__setattr__(self, name, getattr(spec.training, name))

    @property
    def training(self) -> TrainingConfig:
        """That of the first model of each network."""
        return TrainingConfig(self.steps, self.batch_size, self.learning_rate, seed=self.seed)

    def specs(self, kappas: Sequence[int]) -> list[ModelSpec]:
        """All models of these numbers of latent dimensions."""
        training = self.training
        return [
            ModelSpec(kappa, hidden, log_gamma=self.log_gamma, training=replace(training, seed=self.seed + index))
            for kappa in kappas
            for hidden in self.networks or NETWORKS
            for index in range(self.models)
        ]
