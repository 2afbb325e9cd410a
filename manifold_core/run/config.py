"""The descriptions of a run and of a search."""

from dataclasses import asdict, dataclass, field
from typing import Any

from ..arguments import check_integer
from ..covariance import Covariance
from ..models import Prior
from ..models.elbo import Gamma, GaussianELBO
from ..networks.residual import default_channels
from ..search import SearchPlan
from ..storage.files import as_json
from ..training import TrainingConfig

__all__ = ["LABELS", "ConditionConfig", "ModelConfig", "RunConfig", "SearchConfig"]

LABELS = "labels"  # of the image sets, as the condition


@dataclass(frozen=True)
class ConditionConfig:
    """What makes the model a CVAE.

    Args:
        source: of the conditions: ``"labels"`` of the image sets, else the path of a ``.npy``, ``.npz`` or ``.csv``
            file, see :func:`manifold_core.data.load_file`.
        prior, attention: see :meth:`manifold_core.CVAE.mlp`.
    """

    source: str
    prior: Prior = "learned"
    attention: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """A VAE or CVAE to build: residual-convolutional for images, else an MLP.

    Args:
        latent_dim: κ.
        hidden: widths of the MLP's hidden layers; if given for images, these are flattened into vectors.
        channels: of the first residual block, None for 5, or 32 under a condition; an MLP has none to choose.
        gamma, log_gamma, covariance: see :class:`manifold_core.GaussianELBO`.
        condition: makes it a CVAE.
    """

    latent_dim: int
    hidden: tuple[int, ...] | None = None
    channels: int | None = None
    gamma: Gamma = "learned"
    log_gamma: float = 0.0
    covariance: Covariance = "diagonal"
    condition: ConditionConfig | None = None

    def __post_init__(self) -> None:
        self.elbo()  # refuses what it refuses

    def elbo(self) -> GaussianELBO:
        return GaussianELBO(self.gamma, self.log_gamma, covariance=self.covariance)

    @property
    def chosen_channels(self) -> int:
        return default_channels(self.condition is not None) if self.channels is None else self.channels

    def description(self) -> dict[str, Any]:
        """As it comes back from JSON."""
        content = asdict(self) | {"channels": self.chosen_channels}
        if self.condition is None:
            del content["condition"]
        description: dict[str, Any] = as_json(content, "model")
        return description


@dataclass(frozen=True)
class _Config:
    """What a run and a search have in common: the samples, and the device of model and samples."""

    data: str
    ambient_dim: int = field(default=20, kw_only=True)
    manifold_dim: int = field(default=6, kw_only=True)
    data_folder: str | None = field(default=None, kw_only=True)
    device: str = field(default="cpu", kw_only=True)

    def description(self) -> dict[str, Any]:
        """What decides the numbers, and where the data come from: as it comes back from JSON."""
        content = asdict(self)
        if self.data != "synthetic":
            del content["ambient_dim"], content["manifold_dim"]
        del content["data_folder"]  # the contents count, not where they lie
        description: dict[str, Any] = as_json(content, "config")
        return description


@dataclass(frozen=True)
class RunConfig(_Config):
    """A whole run.

    Args:
        data: ``"synthetic"``, ``"mnist"``, ``"fashion-mnist"``, or the path of a ``.npy``, ``.npz`` or ``.csv`` file.
        model, training: what to train and how; ``training.seed`` also makes the weights and the synthetic data, and
            splits a file into training and held-out samples.
        models: trained side by side, with the seeds from ``training.seed`` on, by :func:`manifold_core.train_ensemble`:
            the one of lowest −ELBO on the held-out samples is the run's.
        ambient_dim, manifold_dim: d and r of synthetic data.
        data_folder: where the image files are; None searches, then downloads.
        device: of model and data.
    """

    model: ModelConfig
    training: TrainingConfig = field(default_factory=TrainingConfig)
    models: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", check_integer("models", self.models, 1))

    def description(self) -> dict[str, Any]:
        content = super().description() | {"model": self.model.description()}
        if self.models == 1:
            del content["models"]
        return content


@dataclass(frozen=True)
class SearchConfig(_Config):
    """A whole search: :func:`manifold_core.find_dimension` on the samples of a source. Images are taken as vectors.

    Args:
        plan: what is trained; ``plan.seed`` also makes the synthetic data, and splits a file.
        data, ambient_dim, manifold_dim, data_folder, device: see :class:`RunConfig`.
    """

    plan: SearchPlan = field(default_factory=SearchPlan)

    @property
    def training(self) -> TrainingConfig:
        return self.plan.training
