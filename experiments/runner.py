"""Trains the models of a table side by side and writes its result file. Stopped at any point, it goes on."""

import json
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..data import Dataset
from ..ensemble import Spec, TrainedModel, explain_ensemble, train_ensemble
from ..errors import InputError
from ..evaluation import Metrics, evaluate
from ..files import output_folder, write_json
from ..provenance import commit, processor
from .tables import Cell, Plan, Table

__all__ = ["provenance", "run_table"]

CONVENTION = (
    "neg_elbo and kl doubled, as the paper prints them; recon is the squared error; averages over the training samples"
)


def run_table(
    table: Table, plan: Plan, folder: Path, *, device: str = "cpu", backend: str = "auto", progress: bool = True
) -> dict[str, Any]:
    """The content of ``folder/<table>.json``, after training what it lacks.

    A table that is finished is taken as it is. While it is trained, its checkpoint lies in ``folder/.<table>``.

    Raises:
        InputError: the folder holds this table, finished or begun, by another plan.
    """
    plan = table.plan(plan)
    path = output_folder(folder) / f"{table.name}.json"
    checkpoint = folder / f".{table.name}"
    if (found := _finished(path, plan)) is not None:
        shutil.rmtree(checkpoint, ignore_errors=True)  # left by a run that was killed after its last line
        return found
    where = provenance(device)
    jobs = [(cell, seed) for cell in table.cells(plan) for seed in range(plan.seeds)]
    sets, specs = _sets_and_specs(jobs, plan)
    inputs = [_on(data, device) for data in sets]
    trained = train_ensemble(specs, inputs, backend=backend, folder=checkpoint, progress=progress)
    runs = [
        run
        for (cell, seed), spec, model in zip(jobs, specs, trained, strict=True)
        for run in _runs(cell, seed, model, sets[spec.data], inputs[spec.data])
    ]
    weights = next(trained[0].model.parameters())
    result = {
        "table": table.name,
        "title": table.title,
        "budget": plan.name,
        "seeds": plan.seeds,
        "plan": plan.as_dict(),
        "convention": CONVENTION,
        "seconds": trained[0].history.seconds,
        "provenance": where | {"backend": explain_ensemble(specs, weights, backend=backend).backend},
    }
    result |= table.summary(runs) if table.summary is not None else {"runs": runs, "paper": list(table.paper)}
    write_json(path, result)
    shutil.rmtree(checkpoint, ignore_errors=True)
    return result


def _finished(path: Path, plan: Plan) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        done = found["plan"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"out must be a folder of results, but {str(path)!r} is no file of a finished table"
        ) from error
    if done != plan.as_dict():
        raise InputError(
            f"out must be a new folder: {str(path)!r} is of another plan, {done}, expected {plan.as_dict()}"
        )
    return found


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
    for index, (columns, true_active) in enumerate(zip(cell.classes, cell.true_active, strict=True)):
        metrics = trained.metrics
        if len(cell.classes) > 1:
            assert data.train_labels is not None
            own = data.train_labels == index
            parts = inputs if isinstance(inputs, tuple) else (inputs,)
            metrics = evaluate(trained.model, *(part[own.to(part.device)] for part in parts))
        yield {
            "cell": {**cell.columns, **columns},
            "variant": cell.variant,
            "seed": seed,
            "true_active": true_active,
            **_numbers(metrics),
            "diverged_at": trained.diverged_at,
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


def provenance(device: str) -> dict[str, Any]:
    """Where numbers come from."""
    return {
        "command": _command(sys.argv[1:]),
        "commit": commit(),
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "versions": {"manifold_core": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _command(arguments: Sequence[str]) -> str:
    """What was asked for, without the folder: that says nothing, and is nobody's business."""
    kept = [word for at, word in enumerate(arguments) if "--out" not in (word, arguments[at - 1] if at else "")]
    return " ".join(["manifold-core", *(word for word in kept if not word.startswith("--out="))])
