"""The search for a dimension: able networks, fewer and fewer latent dimensions, and the samples held out decide."""

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..ensemble import ModelSpec, TrainedModel, train_ensemble
from ..metrics.active import samples_at_a_time
from ..metrics.evaluation import in_batches, metrics_of
from ..metrics.local import LocalDimensions, local_dimensions_of_some
from ..metrics.neighbours import two_nn, two_nn_of_cube
from ..metrics.reading import neighbours_see_fewer
from ..models import CVAE, VAE
from ..modes import evaluation_mode
from .directions import Directions
from .plan import EACH, FIRST, LEAST, WIDER, SearchPlan
from .trials import Trial, ended, lowest

__all__ = ["train_trials"]

KEPT = 0.9  # of the samples held out, the share that judges a model
AT_A_TIME = 4  # numbers of latent dimensions between two looks at the result


def train_trials(
    x: Tensor, held_out: Tensor, plan: SearchPlan, folder: Path | None, progress: bool
) -> tuple[list[Trial], Trial, Directions]:
    """The trials of :func:`find_dimension`, of standardised samples ``[N, d]``, the best of them, and what they were
    trained on; checkpoints go into folders in ``folder``, one for each look at the result."""
    neighbours = two_nn(x)
    most = plan.directions or _enough(neighbours)
    directions = Directions.of_samples(x, most) if folder is None else Directions.kept_in(folder, x, most)
    if progress and directions.left_out:
        print(
            f"training on the {directions.count} widest directions, {100 * directions.share:.4g} % of the variance",
            file=sys.stderr,
        )
    y, others = directions.of(x), directions.of(held_out)

    def searched(plan: SearchPlan, folder: Path | None) -> list[Trial]:
        trials: list[Trial] = []
        while kappas := _next(trials, x, plan, neighbours):
            if progress:
                print(f"latent dimensions: {', '.join(map(str, kappas))}", file=sys.stderr)
            place = folder / f"{kappas[0]}-{kappas[-1]}" if folder is not None else None
            trained = train_ensemble(plan.specs(kappas), y, folder=place, progress=progress)
            trials += [Trial(_of_samples(one, directions, x), _held_out(one.model, others)) for one in trained]
        return trials

    trials = searched(plan, folder)
    best = lowest(trials)
    if plan.networks is None and _too_many(_read(best, x).count, neighbours, len(x)):
        if progress:
            print("nearest neighbours see fewer dimensions than the best model has: wider networks", file=sys.stderr)
        wider = searched(replace(plan, networks=WIDER), folder / "wider" if folder is not None else None)
        trials += wider
        best = _bent(wider, x, neighbours) or lowest(trials)
    return trials, best, directions


def _bent(wider: Sequence[Trial], x: Tensor, neighbours: float | None) -> Trial | None:
    """The best of the wider networks, if neighbours do not see fewer dimensions than that clearly has. Its −ELBO may be
    higher than that of a network that took the manifold for flat, had fewer weights to learn the samples with, and
    reached a smaller γ."""
    if not ended(wider):
        return None
    best = lowest(wider)
    read = _read(best, x)
    return best if read.clear and not _too_many(read.count, neighbours, len(x)) else None


def _read(one: Trial, x: Tensor) -> LocalDimensions:
    return local_dimensions_of_some(one.trained.model, (x,))


def _too_many(count: int, neighbours: float | None, samples: int) -> bool:
    return count > 0 and neighbours_see_fewer(count, neighbours, two_nn_of_cube(count, samples))


def _enough(neighbours: float | None) -> int | None:
    """Directions that leave a manifold whole, by the dimension that neighbours see; None if they see none."""
    return None if neighbours is None else max(math.ceil(EACH * neighbours), LEAST)


def _of_samples(one: TrainedModel, directions: Directions, x: Tensor) -> TrainedModel:
    model = directions.lifted(cast(VAE, one.model), cast(ModelSpec, one.spec))
    return replace(one, model=model, metrics=metrics_of(model, (x,)), history=directions.history(one.history))


@torch.no_grad()
def _held_out(model: VAE | CVAE, y: Tensor) -> float:
    """A chart of a closed manifold has a cut, and a decoder some samples that it has not learned to reach: at a small γ
    a few of them would outweigh all others."""
    with evaluation_mode(model):
        batches = in_batches(model, (y,), seed=0, batch_size=samples_at_a_time(model, (y,), None))
        losses = torch.cat([(terms.nll + terms.kl).double() for terms in batches]).sort().values  # NaN comes last
    return float(losses[: math.ceil(KEPT * len(losses))].mean())


def _next(trials: Sequence[Trial], x: Tensor, plan: SearchPlan, neighbours: float | None) -> list[int]:
    """Numbers of latent dimensions that are to be tried; none if the search is over."""
    features = x.shape[1]
    if not trials:
        return [plan.latent_dim or min(features, FIRST)]
    if not ended(trials):  # as lowest says at the end, if no others have
        return []
    best, tried = lowest(trials), {trial.latent_dim for trial in trials}
    active = best.active_dimensions
    if active == max(tried) < features and plan.latent_dim is None:
        return [min(2 * max(tried), features)]
    # If the decoder has more directions than are active, the manifold may have as many as that.
    read = _read(best, x).count
    unsure = {read} if active < read else set()
    # Data that look alike in all directions may have none active of too many.
    most = max(active, read) or best.latent_dim
    if below := [kappa for kappa in tried if kappa < most]:
        return sorted({*_spread(range(max(below) + 1, most)), *unsure} - tried)
    low = max(round(neighbours or 1), 1)
    if active:  # neighbours see too few of many dimensions, and noise as dimensions
        low = max(min(low, most - 1), 1)
    return sorted({*_spread(range(low, most)), *unsure} - tried)


def _spread(choices: range) -> list[int]:
    """At most four of them, evenly spaced, the last among them."""
    n = len(choices)
    if n <= AT_A_TIME:
        return list(choices)
    return [choices[round(index * (n - 1) / (AT_A_TIME - 1))] for index in range(AT_A_TIME)]
