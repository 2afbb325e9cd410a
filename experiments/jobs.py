"""The models of a table, one for each cell and seed, shared out between workers, and what comes of training them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data import Dataset
from ..ensemble import Spec, TrainedModel, train_ensemble
from ..evaluation import Metrics, evaluate
from .tables import Cell, Plan, Table

__all__ = ["Part", "Shard", "in_order", "train_shard"]


@dataclass(frozen=True)
class Shard:
    """Every ``of``-th job of a table, from job ``index`` on: so each shard has a like share of every cell.

    What a shard holds depends on these two numbers alone: it can be stopped on one device and go on on another.
    """

    index: int = 0
    of: int = 1

    @property
    def name(self) -> str:
        """Of the folder of its checkpoint."""
        return f"{self.index}-of-{self.of}"


@dataclass(frozen=True)
class Part:
    """What one shard gives: the runs of each of its jobs, one run a class; and the seconds of training."""

    shard: Shard
    runs: list[list[dict[str, Any]]]
    seconds: float


def train_shard(
    table: Table,
    plan: Plan,
    shard: Shard,
    folder: Path,
    *,
    device: str,
    backend: str = "auto",
    threads: int | None = None,
    progress: bool = True,
) -> Part:
    """Train the models of a shard side by side, with its checkpoint in ``folder``; goes on where it was stopped."""
    jobs = [(cell, seed) for cell in table.cells(plan) for seed in range(plan.seeds)][shard.index :: shard.of]
    sets, specs = _sets_and_specs(jobs, plan)
    inputs = [_on(data, device) for data in sets]
    trained = train_ensemble(
        specs, inputs, backend=backend, threads=threads, folder=folder / shard.name, progress=progress
    )
    runs = [
        list(_runs(cell, seed, model, sets[spec.data], inputs[spec.data]))
        for (cell, seed), spec, model in zip(jobs, specs, trained, strict=True)
    ]
    return Part(shard, runs, trained[0].history.seconds)


def in_order(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """All runs, as one shard alone would give them."""
    jobs = sum(len(part.runs) for part in parts)
    by_index = {part.shard.index: part.runs for part in parts}
    return [run for job in range(jobs) for run in by_index[job % len(parts)][job // len(parts)]]


def _sets_and_specs(jobs: list[tuple[Cell, int]], plan: Plan) -> tuple[list[Dataset], list[Spec]]:
    """Every data set once, in the order in which they are first wanted."""
    places: dict[Any, int] = {}
    sets: list[Dataset] = []
    specs: list[Spec] = []
    for cell, seed in jobs:
        key = (cell.data.func, tuple(sorted(cell.data.keywords.items())), seed)
        if key not in places:
            places[key] = len(sets)
            sets.append(cell.data(n_train=plan.samples, n_validation=1, seed=seed))
        training = replace(cell.spec.training, steps=plan.steps, batch_size=plan.batch_size, seed=seed)
        specs.append(replace(cell.spec, training=training, data=places[key]))
    return sets, specs


def _on(data: Dataset, device: str) -> Tensor | tuple[Tensor, Tensor]:
    x = data.train.to(device)
    return x if data.train_condition is None else (x, data.train_condition.to(device))


def _runs(
    cell: Cell, seed: int, trained: TrainedModel, data: Dataset, inputs: Tensor | tuple[Tensor, Tensor]
) -> Iterator[dict[str, Any]]:
    """One run, or for data with classes one a class."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    measured = {} if cell.measure is None else {"measured": cell.measure(trained.model, *parts)}
    for index, (columns, true_active) in enumerate(zip(cell.classes, cell.true_active, strict=True)):
        metrics = trained.metrics
        if len(cell.classes) > 1:
            assert data.train_labels is not None
            own = data.train_labels == index
            metrics = evaluate(trained.model, *(part[own.to(part.device)] for part in parts))
        yield {
            "cell": {**cell.columns, **columns},
            "variant": cell.variant,
            "seed": seed,
            "true_active": true_active,
            **_numbers(metrics),
            "diverged_at": trained.diverged_at,
            **measured,
        }


def _numbers(m: Metrics) -> dict[str, Any]:
    return {
        "active_dimensions": m.active_dimensions,
        "gap": m.gap,
        "neg_elbo": 2 * m.neg_elbo,
        "kl": 2 * m.kl,
        "recon": m.recon,
        "gamma": m.gamma,
        "variance": m.variance,
    }
