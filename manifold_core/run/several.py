"""The models of one run, trained side by side: one model says little of a dimension."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..ensemble import TrainedModel, all_diverged, train_ensemble
from ..ensemble.data import Samples
from ..ensemble.spec import Spec
from ..metrics.evaluation import metrics_of
from ..storage import checkpoint
from ..storage.owner import claim

__all__ = ["FOLDER", "claim_for_models", "clear", "is_side_by_side", "train_several"]

FOLDER = "models"  # of their checkpoints, within that of the run
MODELS = "models"  # in the run's own checkpoint, which a training loop has left where it is missing


def train_several(
    specs: Sequence[Spec],
    samples: Samples,
    held_out: Samples,
    folder: Path,
    identity: dict[str, Any],
    progress: bool,
) -> tuple[TrainedModel, list[dict[str, Any]]]:
    """The model of lowest −ELBO on the held-out samples, where that is finite for none on those of training; and what
    became of each, for JSON. The folder's own checkpoint says whose they are.

    Raises:
        InputError: as :func:`manifold_core.train_ensemble`; a checkpoint of another run.
        Diverged: all did.
    """
    claim_for_models(folder, identity)
    trained = train_ensemble(specs, samples.parts, folder=folder / FOLDER, progress=progress)
    losses = [metrics_of(one.model, held_out.parts).neg_elbo for one in trained]
    ended = [index for index, one in enumerate(trained) if one.diverged_at is None]
    if not ended:
        raise all_diverged(trained)

    def place(index: int) -> tuple[float, float]:
        """One sample far from all others, held out, may leave no model a finite loss there."""
        both = losses[index], trained[index].metrics.neg_elbo
        there, own = (loss if math.isfinite(loss) else math.inf for loss in both)
        return there, own

    best = min(ended, key=place)
    return trained[best], [_said(one, loss) for one, loss in zip(trained, losses, strict=True)]


def claim_for_models(folder: Path, identity: dict[str, Any]) -> None:
    """Say in the folder whose the checkpoints in its folder of models are; raises InputError where of another run."""
    claim(folder, identity, **{MODELS: True})


def is_side_by_side(folder: Path) -> bool | None:
    """Whether a stopped run began with :func:`train_several`; None where none has begun."""
    state = checkpoint.state_of(folder)
    return None if state is None else MODELS in state


def _said(one: TrainedModel, held_out: float) -> dict[str, Any]:
    measured = one.metrics
    return {
        "seed": one.spec.training.seed,
        "active_dimensions": measured.active_dimensions,
        "spectrum_count": measured.spectrum_count,
        "gap": measured.gap,
        "neg_elbo": measured.neg_elbo,
        "held_out_neg_elbo": held_out,
        "gamma": measured.gamma,
        "variance": measured.variance,
        "spectrum": measured.spectrum,
        "diverged_at": one.diverged_at,
    }


def clear(folder: Path) -> None:
    """Delete the checkpoints. A folder called as theirs is theirs while the run's own says so."""
    if is_side_by_side(folder):
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
    checkpoint.remove(folder)
