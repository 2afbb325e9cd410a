"""The models of a table, one for each cell and seed, divided among workers, and the results of training them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data import Dataset
from ..ensemble import Spec, train_ensemble
from ..kernels import Backend
from .measurement import runs_of, training_samples
from .tables import Cell, Plan, Table

__all__ = ["Part", "Shard", "in_order", "train_shard"]


@dataclass(frozen=True)
class Shard:
    """Every ``of``-th job of a table, from job ``index`` on: so all shards have similar shares of every cell.

    What a shard holds depends on these two numbers alone: it can be stopped on one device and resume on another of the
    same kind. (The fused engines of CPUs and GPUs round differently, and neither resumes a checkpoint of the other.)
    """

    index: int = 0
    of: int = 1

    @property
    def name(self) -> str:
        """The name of the folder of its checkpoint."""
        return f"{self.index}-of-{self.of}"


@dataclass(frozen=True)
class Part:
    """What one shard gives: the runs of each of its jobs, one run per class; and the seconds of training."""

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
    backend: Backend = "auto",
    threads: int | None = None,
    bars: str = "",
) -> Part:
    """Train the models of a shard side by side, with its checkpoint in ``folder``; resumes if it was stopped."""
    jobs = [(cell, seed) for cell in table.cells(plan) for seed in plan.seed_numbers][shard.index :: shard.of]
    sets, specs = _sets_and_specs(jobs, plan)
    inputs = [training_samples(data, device) for data in sets]
    trained = train_ensemble(
        specs,
        [one.parts for one in inputs],
        backend=backend,
        threads=threads,
        folder=folder / shard.name,
        progress=bars,
    )
    runs = [
        runs_of(cell, seed, model, sets[spec.data], inputs[spec.data])
        for (cell, seed), spec, model in tqdm(
            zip(jobs, specs, trained, strict=True),
            total=len(jobs),
            desc=f"{bars}, measuring",
            unit="model",
            disable=not bars,
            file=sys.stderr,
        )
    ]
    return Part(shard, runs, trained[0].history.seconds)


def in_order(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """All runs, as one shard alone would give them."""
    jobs = sum(len(part.runs) for part in parts)
    by_index = {part.shard.index: part.runs for part in parts}
    return [run for job in range(jobs) for run in by_index[job % len(parts)][job // len(parts)]]


def _sets_and_specs(jobs: list[tuple[Cell, int]], plan: Plan) -> tuple[list[Dataset], list[Spec]]:
    """Every data set once, in the order of first use, and the specifications of the models."""
    places: dict[Any, int] = {}
    sets: list[Dataset] = []
    specs: list[Spec] = []
    for cell, seed in jobs:
        key = (cell.data.func, cell.data.args, tuple(sorted(cell.data.keywords.items())), seed)
        if key not in places:
            data = cell.data(n_train=plan.samples, n_validation=max(1, cell.held_out), seed=seed)
            places[key] = next((place for place, other in enumerate(sets) if other is data), len(sets))
            if places[key] == len(sets):
                sets.append(data)
        training = replace(cell.spec.training, steps=plan.steps, batch_size=plan.batch_size, seed=seed)
        specs.append(replace(cell.spec, training=training, data=places[key]))
    return sets, specs
