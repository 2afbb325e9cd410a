"""The models of one run, trained side by side: one model says little about a dimension."""

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
MODELS = "models"  # in the run's own checkpoint; if missing, a training loop has left that


def train_several(
    specs: Sequence[Spec],
    samples: Samples,
    held_out: Samples,
    folder: Path,
    identity: dict[str, Any],
    progress: bool,
) -> tuple[TrainedModel, list[dict[str, Any]]]:
    """The model of lowest −ELBO on the held-out samples, or on the training samples if that is finite for none; and
    what became of each, for JSON. The folder's own checkpoint says whose they are.

    Raises:
        InputError: see :func:`manifold_core.train_ensemble`; a checkpoint of another run.
        Diverged: all did.
    """
    claim_for_models(folder, identity)
    trained = train_ensemble(specs, samples.parts, folder=folder / FOLDER, progress=progress)
    losses = [metrics_of(one.model, held_out.parts).neg_elbo for one in trained]
    ended = [index for index, one in enumerate(trained) if one.diverged_at is None]
    if not ended:
        raise all_diverged(trained)

    def place(index: int) -> tuple[float, float]:
        """A held-out sample far from all others may leave no model a finite loss there."""
        both = losses[index], trained[index].metrics.neg_elbo
        there, own = (loss if math.isfinite(loss) else math.inf for loss in both)
        return there, own

    best = min(ended, key=place)
    return trained[best], [_said(one, loss) for one, loss in zip(trained, losses, strict=True)]


def claim_for_models(folder: Path, identity: dict[str, Any]) -> None:
    """Write into the folder whose the checkpoints of its models are; raises InputError if they are another run's."""
    claim(folder, identity, **{MODELS: True})


def is_side_by_side(folder: Path) -> bool | None:
    """Whether a stopped run began with :func:`train_several`; None if none has begun."""
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
    """Delete the checkpoints. A folder of their name is theirs only if the run's own checkpoint says so."""
    if is_side_by_side(folder):
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
    checkpoint.remove(folder)
