"""A finished run, read back from its folder."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..data import Standardisation
from ..data.encoding import Columns, Encoding, OneHot
from ..errors import InputError
from ..models import CVAE, VAE
from ..models.checks import shape_of_one
from ..storage import checkpoint
from ..storage.files import AnyPath, as_folder
from ..storage.finished import METRICS, WEIGHTS, finished_run
from ..training.load import trained_in
from .build import build_model
from .config import ConditionConfig, ModelConfig

__all__ = ["FinishedRun", "load_run"]


@dataclass(frozen=True, eq=False)  # a model is equal to itself alone
class FinishedRun:
    """What :func:`load_run` finds.

    Attributes:
        model: trained, in evaluation mode; a CVAE if the run had a condition. It takes standardised samples: vectors,
            or images ``[N, C, H, W]``, flattened for an MLP.
        standardisation: from the units and shape of the user's file to those of the model, and back in its units. For
            synthetic data and published images, which are trained on as loaded, it changes no number.
        metrics: the content of ``metrics.json``.
        condition: from the labels or numbers of the user's condition file to those of the model,
            ``found.condition.apply(c)``; None without a condition.
    """

    model: VAE | CVAE
    standardisation: Standardisation
    metrics: dict[str, Any]
    condition: Encoding | None = None

    def __repr__(self) -> str:
        """The model, the dimension that it reads, and how conditions are encoded."""
        dimension = self.metrics.get("local", {}).get("count")
        condition = None if self.condition is None else type(self.condition).__name__
        return (
            f"FinishedRun({type(self.model).__name__}, latent_dim={self.model.latent_dim}, dimension={dimension}, "
            f"condition={condition})"
        )


def load_run(folder: AnyPath) -> FinishedRun:
    """The trained model of a finished run of ``manifold-core train`` or ``dimension``, or of a search kept by
    :func:`manifold_core.save_run`, with what is needed to apply it to data in their own units:
    ``active_dimensions(found.model, found.standardisation.apply(x))``, ``found.standardisation.undo(model.sample(n))``,
    and with a condition ``found.condition.apply(c)``. (:func:`manifold_core.train` and
    :func:`manifold_core.find_dimension` keep checkpoints in their folders, to resume from.)

    Args:
        folder: what the command was given as ``--out``, or :func:`manifold_core.save_run` as ``folder``.

    Returns:
        :class:`FinishedRun`: the model on the CPU, in evaluation mode.

    Raises:
        InputError: no folder, no finished run in it, or one of an earlier version, which kept no standardisation.
    """
    folder = as_folder("folder", folder)
    model, metrics = _trained(folder)
    try:
        kept = metrics["standardisation"]
        standardisation = Standardisation(kept["mean"], kept["scale"], shape_of_one(model.encoder, "input_shape"))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"folder must hold a run with the mean and scale of its data, got {str(folder)!r}, whose {METRICS} lacks "
            f"them: train again, into a new folder"
        ) from error
    return FinishedRun(model, standardisation, metrics, _encoding(metrics))


def _trained(folder: Path) -> tuple[VAE | CVAE, dict[str, Any]]:
    metrics = finished_run(folder, "folder")
    if metrics is None:
        raise InputError(
            f"folder must hold a finished run of manifold-core train or dimension, got {str(folder)!r}, {_lack(folder)}"
        )
    model = _built(metrics, folder / METRICS)
    path = folder / WEIGHTS
    try:
        model.load_state_dict(checkpoint.load_tensors(path))
    except RuntimeError as error:
        raise InputError(f"{str(path)!r} does not hold the weights of the model in {METRICS}: {error}") from error
    return model.eval(), metrics


def _lack(folder: Path) -> str:
    """Why a folder is none of a finished run."""
    if not os.path.exists(folder):
        return "which does not exist"
    state = checkpoint.state_of(folder)
    if state is None or trained_in(state) is None:
        return f"without {METRICS}"
    return f"which holds a checkpoint of a training: mc.load_weights(model, {str(folder)!r}) loads its weights"


def _encoding(metrics: dict[str, Any]) -> Encoding | None:
    kept = metrics.get("condition")
    return None if kept is None else OneHot(**kept) if "classes" in kept else Columns(**kept)


def _built(metrics: dict[str, Any], path: Path) -> VAE | CVAE:
    """The model that the file at ``path`` describes, with weights of no meaning."""
    described = metrics["config"]["model"]
    known = {one.name for one in fields(ModelConfig)}
    for key in described:
        if key not in known:
            raise InputError(f"{str(path)!r}: config.model.{key} is unknown here; expected a run of this version")
    for name, part, key in (("config.model.", described, "latent_dim"), ("", metrics, "sample_shape")):
        if key not in part:
            raise InputError(f"{str(path)!r} lacks {name}{key}; expected the whole file of a finished run")
    try:
        hidden, condition = described.get("hidden"), described.get("condition")
        made = {
            "hidden": tuple(hidden) if hidden is not None else None,
            "condition": ConditionConfig(**condition) if condition is not None else None,
        }
        encoding = _encoding(metrics)
        width = 0 if encoding is None else encoding.width
        return build_model(ModelConfig(**(described | made)), metrics["sample_shape"], condition_dim=width)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{str(path)!r} does not describe a model ({error}); expected config.model and sample_shape of a run"
        ) from error
