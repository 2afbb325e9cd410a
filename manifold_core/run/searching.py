"""A search for the dimension, in the folder of a run."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ..ensemble import TrainedModel
from ..search import SearchPlan, Trial
from ..search.search import train_trials
from ..search.trials import doubts, trials_as_dict
from .config import ModelConfig
from .several import FOLDER, claim_for_models

__all__ = ["model_of", "train_search"]


def train_search(
    plan: SearchPlan, x: Tensor, held_out: Tensor, folder: Path, identity: dict[str, Any], progress: bool
) -> tuple[TrainedModel, ModelConfig, dict[str, Any]]:
    """The best model, its description, and what JSON says of all. The folder's own checkpoint says whose they are.

    Raises:
        InputError: see :func:`manifold_core.train_ensemble`; a checkpoint of another run.
        Diverged: all did.
    """
    claim_for_models(folder, identity)
    trials, best, directions = train_trials(x, held_out, plan, folder / FOLDER, progress)
    said = trials_as_dict(trials, best) | directions.as_dict() | {"doubts": doubts(trials, best, x[0].numel())}
    return best.trained, model_of(best), said


def model_of(best: Trial) -> ModelConfig:
    """The description of the best model."""
    spec = best.spec
    return ModelConfig(spec.latent_dim, tuple(spec.hidden), log_gamma=spec.log_gamma)
