"""A search for the dimension, in the folder of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..ensemble import TrainedModel
from ..search import SearchPlan, Trial
from ..search.search import train_trials
from ..search.trials import by_latent_dim, doubts, lowest
from .config import ModelConfig
from .several import FOLDER, claim_for_models

__all__ = ["described", "model_of", "train_search"]

UNITS = (
    "held_out and by_latent_dim: -ELBO, nats per sample, of coordinates of scale 1 in the directions in which the "
    "samples vary and one in which they do not, without the tenth of the held-out samples that fit worst; all else "
    "here is of the samples themselves"
)


def train_search(
    plan: SearchPlan, x: Tensor, held_out: Tensor, folder: Path, identity: dict[str, Any], progress: bool
) -> tuple[TrainedModel, ModelConfig, dict[str, Any]]:
    """The best model, its description, and what JSON says of all. The folder's own checkpoint says whose they are.

    Raises:
        InputError: see :func:`manifold_core.train_ensemble`; a checkpoint of another run.
        Diverged: all did.
    """
    claim_for_models(folder, identity)
    trials = train_trials(x, held_out, plan, folder / FOLDER, progress)
    said = described(trials) | {"doubts": doubts(trials, x[0].numel())}
    return lowest(trials).trained, model_of(trials), said


def model_of(trials: Sequence[Trial]) -> ModelConfig:
    """The description of the best model."""
    spec = lowest(trials).spec
    return ModelConfig(spec.latent_dim, tuple(spec.hidden), log_gamma=spec.log_gamma)


def described(trials: Sequence[Trial]) -> dict[str, Any]:
    """What JSON says of them, and the seed of the best."""
    return {
        "seed": lowest(trials).spec.training.seed,
        "trials": [_said(trial) for trial in trials],
        "units_of_trials": UNITS,
        "by_latent_dim": {str(kappa): loss for kappa, loss in by_latent_dim(trials).items()},
    }


def _said(trial: Trial) -> dict[str, Any]:
    measured, spec = trial.trained.metrics, trial.spec
    return {
        "latent_dim": trial.latent_dim,
        "hidden": list(spec.hidden),
        "seed": spec.training.seed,
        "active_dimensions": measured.active_dimensions,
        "gap": measured.gap,
        "neg_elbo": measured.neg_elbo,
        "held_out": trial.held_out,
        "gamma": measured.gamma,
        "diverged_at": trial.trained.diverged_at,
    }
