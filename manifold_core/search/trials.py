"""The models of a search, and the best of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..ensemble import ModelSpec, TrainedModel, all_diverged

__all__ = ["Trial", "by_latent_dim", "doubts", "ended", "lowest", "trials_as_dict"]

UNITS = (
    "held_out and by_latent_dim: -ELBO, nats per sample, of coordinates of scale 1 in the trained_directions, the "
    "widest in which the samples vary, and one in which they do not, without the tenth of the held-out samples that "
    "fit worst; all else here is of the samples themselves"
)


@dataclass(frozen=True, eq=False)  # a model is equal to itself alone
class Trial:
    """One model of a search.

    Attributes:
        trained: the model, its specification, metrics over the training samples and curves.
        held_out: −ELBO on the held-out samples, without the tenth for which it is highest; nats per sample, in the
            coordinates of :class:`manifold_core.search.directions.Directions`.
    """

    trained: TrainedModel
    held_out: float

    @property
    def spec(self) -> ModelSpec:
        """What was trained."""
        return cast(ModelSpec, self.trained.spec)

    @property
    def latent_dim(self) -> int:
        """κ."""
        return self.spec.latent_dim

    @property
    def active_dimensions(self) -> int:
        """0 if it diverged."""
        return self.trained.metrics.active_dimensions or 0

    def as_dict(self) -> dict[str, Any]:
        """As plain numbers, for JSON: what was trained, and how well."""
        measured, spec = self.trained.metrics, self.spec
        return {
            "latent_dim": self.latent_dim,
            "hidden": list(spec.hidden),
            "seed": spec.training.seed,
            "active_dimensions": measured.active_dimensions,
            "gap": measured.gap,
            "neg_elbo": measured.neg_elbo,
            "held_out": self.held_out,
            "gamma": measured.gamma,
            "diverged_at": self.trained.diverged_at,
        }


def lowest(trials: Sequence[Trial]) -> Trial:
    """The trial of lowest held-out −ELBO.

    Raises:
        Diverged: there is none, as the loss of each was not finite.
    """
    if not (those := ended(trials)):
        raise all_diverged([trial.trained for trial in trials])
    return min(those, key=lambda trial: trial.held_out)


def ended(trials: Sequence[Trial]) -> list[Trial]:
    """Those whose training came to its end, with a finite loss on the samples held out."""
    return [trial for trial in trials if trial.trained.diverged_at is None and math.isfinite(trial.held_out)]


def by_latent_dim(trials: Sequence[Trial]) -> dict[int, float]:
    """The lowest held-out −ELBO of each number of latent dimensions, ascending, of models that have not diverged."""
    found: dict[int, float] = {}
    for trial in sorted(ended(trials), key=lambda trial: trial.latent_dim):
        found[trial.latent_dim] = min(trial.held_out, found.get(trial.latent_dim, math.inf))
    return found


def trials_as_dict(trials: Sequence[Trial], best: Trial) -> dict[str, Any]:
    """What JSON says of them, the seed of the best, and what made it so."""
    return {
        "seed": best.spec.training.seed,
        "chosen_by": "held_out" if best is lowest(trials) else "neighbours",
        "trials": [trial.as_dict() for trial in trials],
        "units_of_trials": UNITS,
        "by_latent_dim": {str(kappa): loss for kappa, loss in by_latent_dim(trials).items()},
    }


def doubts(trials: Sequence[Trial], best: Trial, features: int) -> list[str]:
    """What speaks against the dimension that the best model reads, beside what that model says itself."""
    if not 0 < best.active_dimensions == max(by_latent_dim(trials)) < features:
        return []
    return [
        f"all {best.active_dimensions} latent dimensions of the best model are active, and no model had more: the "
        "manifold may have more; give more latent dimensions than you expect, or leave their number to the search"
    ]
