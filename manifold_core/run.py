"""One training run from a description to a folder of results."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from . import checkpoint, plots
from .checks import input_shape
from .covariance import Covariance
from .data import Dataset, Standardisation, load_file, load_images, synthetic_manifold
from .data.files import SUFFIXES
from .differences import differences
from .distributed import Group, everywhere, from_first
from .elbo import Gamma, GaussianELBO
from .ensemble import ConvSpec, ModelSpec, explain_ensemble
from .errors import InputError
from .evaluation import Metrics, evaluate
from .files import as_json, locked, output_folder, write_json
from .finished import METRICS, WEIGHTS, finished_run
from .models import VAE
from .neighbours import two_nn
from .networks.checks import check_positive
from .networks.conv import CHANNELS
from .several import FOLDER, clear, train_several
from .training import History, TrainingConfig, train

__all__ = [
    "IMAGE_SETS",
    "FinishedRun",
    "ModelConfig",
    "RunConfig",
    "build_model",
    "load_data",
    "load_model",
    "load_run",
    "run",
]

IMAGE_SETS = ("mnist", "fashion-mnist")
UNITS = (
    "nats per sample; neg_elbo = nll + kl, recon = squared error; see paper_convention for the paper's. Samples are "
    "measured as the model takes them, (x - mean) / scale of standardisation: in the units of the data recon and gamma "
    "are scale**2 times as large, neg_elbo and nll of d features greater by d log scale"
)
PICTURES = {"variances": "variances.png", "curves": "curves.png", "images": "images.png"}


@dataclass(frozen=True)
class ModelConfig:
    """A VAE to build: residual-convolutional for images, else an MLP.

    Args:
        latent_dim: κ.
        hidden: widths of the MLP's hidden layers; given for images, these are flattened into vectors.
        channels: of the first residual block, None for 5; an MLP has none to choose.
        gamma, log_gamma, covariance: as of :class:`manifold_core.GaussianELBO`.
    """

    latent_dim: int
    hidden: tuple[int, ...] | None = None
    channels: int | None = None
    gamma: Gamma = "learned"
    log_gamma: float = 0.0
    covariance: Covariance = "diagonal"

    def __post_init__(self) -> None:
        self.elbo()  # refuses what it refuses

    def elbo(self) -> GaussianELBO:
        return GaussianELBO(self.gamma, self.log_gamma, covariance=self.covariance)

    @property
    def chosen_channels(self) -> int:
        return CHANNELS if self.channels is None else self.channels


@dataclass(frozen=True)
class RunConfig:
    """A whole run.

    Args:
        data: ``"synthetic"``, ``"mnist"``, ``"fashion-mnist"``, or the path of a ``.npy``, ``.npz`` or ``.csv`` file.
        model, training: what to train and how; ``training.seed`` also makes the weights and the synthetic data, and
            splits a file into training and held-out samples.
        ambient_dim, manifold_dim: d and r of synthetic data.
        data_folder: where the image files are; None searches, then downloads.
        device: of model and data.
        models: trained side by side, of the seeds from ``training.seed`` on, by :func:`manifold_core.train_ensemble`:
            the one of lowest −ELBO on the held-out samples is the run's.
    """

    data: str
    model: ModelConfig
    training: TrainingConfig = field(default_factory=TrainingConfig)
    ambient_dim: int = 20
    manifold_dim: int = 6
    data_folder: str | None = None
    device: str = "cpu"
    models: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", check_positive(models=self.models)[0])

    def description(self) -> dict[str, Any]:
        """What decides the numbers, and where the data come from: as JSON gives it back."""
        content = asdict(self)
        content["model"]["channels"] = self.model.chosen_channels
        if self.data != "synthetic":
            del content["ambient_dim"], content["manifold_dim"]
        del content["data_folder"]  # the contents count, not where they lie
        if self.models == 1:
            del content["models"]
        description: dict[str, Any] = as_json(content, "config")
        return description


def _without_path(description: dict[str, Any]) -> dict[str, Any]:
    """What runs are told apart by besides the contents of their data: a file may be named in many ways."""
    built_in = description.get("data") in ("synthetic", *IMAGE_SETS)
    return {name: value for name, value in description.items() if built_in or name != "data"}


def load_data(config: RunConfig) -> Dataset:
    """The data of a run, users' files standardised.

    Raises:
        InputError: as the loaders do; channels for samples that are no images of residual networks.
    """
    data = _loaded(config)
    sample_shape = tuple(data.train.shape[1:])
    if config.model.channels is not None and not _is_convolutional(config.model, sample_shape):
        raise InputError(
            f"channels must be left out where an MLP is trained, as for {config.data!r} of sample shape {sample_shape}"
            f"{'' if config.model.hidden is None else ' with hidden'}, got {config.model.channels}"
        )
    return data


def _loaded(config: RunConfig) -> Dataset:
    if config.data == "synthetic":
        return synthetic_manifold(config.ambient_dim, config.manifold_dim, seed=config.training.seed)
    if config.data in IMAGE_SETS:
        return load_images(config.data, config.data_folder)
    if Path(config.data).suffix.lower() not in SUFFIXES:
        raise InputError(
            f"data must be 'synthetic', 'mnist', 'fashion-mnist' or the path of a .npy, .npz or .csv file, "
            f"got {config.data!r}"
        )
    return load_file(config.data, seed=config.training.seed, standardise=True)


def _is_convolutional(config: ModelConfig, sample_shape: Sequence[int]) -> bool:
    return config.hidden is None and len(sample_shape) == 3 and sample_shape[1] % 4 == 0 and sample_shape[2] % 4 == 0


def build_model(config: ModelConfig, sample_shape: Sequence[int], seed: int = 0) -> VAE:
    """The VAE for samples of this shape, its weights drawn from ``seed``."""
    spec = _spec(config, sample_shape, TrainingConfig(seed=seed))
    if isinstance(spec, ConvSpec):
        return cast(VAE, spec.build(*sample_shape))
    return cast(VAE, spec.build(torch.Size(sample_shape).numel()))


def _spec(model: ModelConfig, sample_shape: Sequence[int], training: TrainingConfig) -> ModelSpec | ConvSpec:
    """Of one of the run's models, for samples of this shape."""
    each: dict[str, Any] = {"gamma": model.gamma, "log_gamma": model.log_gamma, "covariance": model.covariance}
    if _is_convolutional(model, sample_shape):
        return ConvSpec(model.latent_dim, model.chosen_channels, training=training, **each)
    return ModelSpec(model.latent_dim, model.hidden or (64,), training=training, **each)


@dataclass(frozen=True)
class FinishedRun:
    """What :func:`load_run` finds.

    Attributes:
        model: trained, in evaluation mode. Its samples are standardised: images ``[N, C, H, W]``, flattened where it is
            an MLP, and vectors.
        standardisation: from the units and the shape of the user's file to those of the model, and from its units back.
            Of synthetic data and of published images, which are trained on as they are loaded, it changes no number.
        metrics: the content of ``metrics.json``.
    """

    model: VAE
    standardisation: Standardisation
    metrics: dict[str, Any]


def load_run(folder: str | Path) -> FinishedRun:
    """The trained model of a finished run with what it takes to apply it to data in their own units:
    ``active_dimensions(found.model, found.standardisation.apply(x))``, ``found.standardisation.undo(model.sample(n))``.

    Raises:
        InputError: no finished run in that folder, or one of an earlier version, which kept no standardisation.
    """
    model, metrics = _trained(Path(folder))
    try:
        kept = metrics["standardisation"]
        mean = torch.tensor(kept["mean"], dtype=torch.float64)
        standardisation = Standardisation(mean, kept["scale"], input_shape(model.encoder))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"folder must hold a run with the mean and scale of its data, got {str(folder)!r}, whose {METRICS} lacks "
            f"them: train again, into a new folder"
        ) from error
    return FinishedRun(model, standardisation, metrics)


def load_model(folder: str | Path) -> VAE:
    """The trained model of a finished run, in evaluation mode. It takes standardised samples: see :func:`load_run`.

    Raises:
        InputError: no finished run in that folder.
    """
    return _trained(Path(folder))[0]


def _trained(folder: Path) -> tuple[VAE, dict[str, Any]]:
    metrics = finished_run(folder, "folder")
    if metrics is None:
        raise InputError(f"folder must hold a finished run, got {str(folder)!r} without {METRICS}")
    model = _built(metrics, folder / METRICS)
    path = folder / WEIGHTS
    try:
        model.load_state_dict(checkpoint.load_tensors(path))
    except RuntimeError as error:
        raise InputError(f"{str(path)!r} does not hold the weights of the model in {METRICS}: {error}") from error
    return model.eval(), metrics


def _built(metrics: dict[str, Any], path: Path) -> VAE:
    """The model that the file at ``path`` describes; its weights are anyone's."""
    described = metrics["config"]["model"]
    known = {one.name for one in fields(ModelConfig)}
    for key in described:
        if key not in known:
            raise InputError(f"{str(path)!r}: config.model.{key} is unknown here; expected a run of this version")
    for name, part, key in (("config.model.", described, "latent_dim"), ("", metrics, "sample_shape")):
        if key not in part:
            raise InputError(f"{str(path)!r} lacks {name}{key}; expected the whole file of a finished run")
    try:
        hidden = described.get("hidden")
        config = ModelConfig(**(described | {"hidden": tuple(hidden) if hidden is not None else None}))
        return build_model(config, metrics["sample_shape"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{str(path)!r} does not describe a model ({error}); expected config.model and sample_shape of a run"
        ) from error


def run(config: RunConfig, folder: str | Path, progress: bool = True, process_group: Group = None) -> dict[str, Any]:
    """Train, evaluate, and write ``metrics.json``, ``weights.safetensors`` and PNG pictures into one folder.

    Stopped at any moment, the same call goes on where it was; finished, it returns what is there. With a process group
    all processes make this call and train together; the folder is the first one's alone.

    Raises:
        InputError: bad input, a folder that holds something else, or one in which another process is at work; several
            models with a process group.
        Diverged: the loss became NaN or infinite, of several models that of each.
    """
    if process_group is not None and config.models > 1:
        raise InputError(f"models must be 1 with torchrun, whose processes train one together, got {config.models}")
    folder = Path(folder)
    with ExitStack() as stack:

        def begin() -> dict[str, Any] | None:
            stack.enter_context(locked(output_folder(folder)))
            return _begin(config, folder)

        finished = from_first(begin, process_group)
        return finished if finished is not None else _run(config, folder, progress, process_group)


def _begin(config: RunConfig, folder: Path) -> dict[str, Any] | None:
    """What the folder holds where its run is finished."""
    if (finished := finished_run(folder, "out")) is not None:
        holds = f"out must be a new folder: {str(folder)!r} holds a finished run"
        then = "choose another folder, or remove this one"
        if where := differences(_without_path(finished["config"]), _without_path(config.description())):
            raise InputError(f"{holds} of another configuration: its {where}; {then}")
        if "fingerprint" not in finished:
            raise InputError(f"{holds} of an earlier version, which does not say of what data it is; {then}")
        if finished["fingerprint"] != _fingerprint(load_data(config)):
            raise InputError(f"{holds} of other data than {config.data!r} holds now; {then}")
        if checkpoint.is_of(folder, _identity(config, finished["fingerprint"])):  # killed before it was removed
            clear(folder)
        return finished
    _refuse_foreign_files(folder)
    return None


def _run(config: RunConfig, folder: Path, progress: bool, group: Group) -> dict[str, Any]:
    data = everywhere(lambda: load_data(config), group)
    sample_shape = tuple(data.train.shape[1:])
    x, held_out = (_as_input(part, config, sample_shape).to(config.device) for part in (data.train, data.validation))
    fingerprint = _fingerprint(data)
    identity = _identity(config, fingerprint)
    seeds = range(config.training.seed, config.training.seed + config.models)
    specs = [_spec(config.model, sample_shape, replace(config.training, seed=seed)) for seed in seeds]
    if config.models > 1 or (group is None and explain_ensemble(specs, x).backend == "cpu"):
        best, models = train_several(specs, x, held_out, folder, identity, progress)
        more = {"models": models, "seed": best.spec.training.seed} if config.models > 1 else {}
        return _finish(config, folder, data, fingerprint, cast(VAE, best.model), x, held_out, best.history, more)
    model = build_model(config.model, sample_shape, config.training.seed).to(config.device)
    history = train(model, x, config.training, folder=folder, identity=identity, progress=progress, process_group=group)
    return from_first(lambda: _finish(config, folder, data, fingerprint, model, x, held_out, history, {}), group)


def _finish(
    config: RunConfig,
    folder: Path,
    data: Dataset,
    fingerprint: str,
    model: VAE,
    x: Tensor,
    held_out: Tensor,
    history: History,
    more: dict[str, Any],
) -> dict[str, Any]:
    measured, validation = evaluate(model, x), evaluate(model, held_out)
    others = [one for one in more.get("models", []) if one["seed"] != more["seed"] and one["diverged_at"] is None]
    pictures = _draw(folder, model, history, measured, data.manifold_dim, held_out, others)
    checkpoint.save_tensors(folder / WEIGHTS, model.state_dict())
    metrics = {
        "data": data.name,
        "manifold_dim": data.manifold_dim,
        "latent_dim": config.model.latent_dim,
        "active_dimensions": measured.active_dimensions,
        "two_nn": two_nn(data.train),
        **more,
        "train": measured.as_dict(),
        "validation": validation.as_dict(),
        "units": UNITS,
        "standardisation": data.standardisation.as_dict(),
        "config": config.description(),
        "fingerprint": fingerprint,
        "sample_shape": list(data.train.shape[1:]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "versions": _versions(),
        "pictures": pictures,
        "history": asdict(history),
    }
    write_json(folder / METRICS, metrics)
    clear(folder)
    return metrics


def _identity(config: RunConfig, fingerprint: str) -> dict[str, Any]:
    """What the checkpoint of a run says besides what every training says."""
    return {"config": _without_path(config.description()), "data": fingerprint}


def _fingerprint(data: Dataset) -> str:
    """Of all of the data that decides the numbers of a run."""
    units = data.standardisation
    scale = torch.tensor(units.scale, dtype=torch.float64)
    return checkpoint.fingerprint(data.train, data.validation, units.mean, scale)


def _as_input(x: Tensor, config: RunConfig, sample_shape: tuple[int, ...]) -> Tensor:
    return x if _is_convolutional(config.model, sample_shape) else x.flatten(1)


def _refuse_foreign_files(folder: Path) -> None:
    """Files of our names that no run of ours is known to have left are somebody's work."""
    if (folder / checkpoint.INDEX).exists():
        return
    for name in (WEIGHTS, *PICTURES.values(), FOLDER):
        if (folder / name).exists():
            raise InputError(f"out must be a new folder or that of a stopped run: {str(folder / name)!r} is in the way")


def _versions() -> dict[str, str]:
    from . import __version__

    return {"manifold_core": __version__, "torch": torch.__version__}


def _draw(
    folder: Path,
    model: VAE,
    history: Any,
    measured: Metrics,
    manifold_dim: int | None,
    held_out: Tensor,
    others: Sequence[dict[str, Any]],
) -> list[str]:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return []
    full = model.elbo.covariance == "cholesky"
    drawn = [
        plots.plot_variances(
            folder / PICTURES["variances"],
            measured.variance,
            manifold_dim=manifold_dim,
            spectrum=measured.spectrum if full else None,
            others=[one["spectrum" if full else "variance"] for one in others],
        ),
        plots.plot_curves(folder / PICTURES["curves"], history),
    ]
    if held_out.dim() == 4:
        drawn.append(plots.plot_images(folder / PICTURES["images"], model, held_out))
    return [path.name for path in drawn]
