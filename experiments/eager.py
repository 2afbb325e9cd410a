"""``manifold-core eager``: what the models of finished tables would take in eager PyTorch, written by hand as the paper
describes them, on this machine."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..bench.by_hand import negative_elbo
from ..bench.comparison import Call, timed
from ..data import Dataset
from ..errors import InputError
from ..networks import by_pytorch
from ..storage.files import output_folder, write_json
from ..training import TrainingConfig
from .catalogue import TABLES
from .report.files import read_result
from .runner import provenance
from .tables import BUDGETS, Cell, Plan

__all__ = ["eager_seconds", "measure"]

PATIENCE = 0.3  # seconds of steps that are timed


def measure(folder: Path, device: str = "cpu") -> None:
    """Write into each result file of a known table, as ``eager_seconds``, what its models would take one after the
    other: for the steps that were trained, and for what the paper trained; for either also one step, averaged over the
    models; and as ``eager_on``, where that was measured. Needs a machine that does nothing else.

    Raises:
        InputError: no result file of a table in the folder, or a damaged one; nothing is measured then.
    """
    paths = {name: folder / f"{name}.json" for name in TABLES if (folder / f"{name}.json").exists()}
    if not paths:
        raise InputError(f"folder must hold result files such as table1.json, got {str(folder)!r}: none in it")
    plans = {name: _plan(path) for name, path in paths.items()}
    output_folder(folder)  # fails now, not at the end, if nothing can be written there
    where = provenance([device])  # before files of a checkout are changed
    for name, plan in tqdm(plans.items(), unit="table", file=sys.stderr):
        table = TABLES[name]
        plans_of = {"same_steps": plan}
        if table.paper:
            plans_of["as_published"] = table.plan(replace(BUDGETS["full"], seeds=plan.seeds).as_published())
        found = {}
        for what, one in plans_of.items():
            cells = table.cells(one)
            found[what] = eager_seconds(cells, one, device)
            found[f"{what}_a_step"] = found[what] / (one.seeds * one.steps * len(cells))
        content = json.loads(paths[name].read_text(encoding="utf-8"))
        write_json(paths[name], content | {"eager_seconds": found, "eager_on": where})


def _plan(path: Path) -> Plan:
    """The plan of a result file, checked as the report checks it."""
    content, usual = read_result(path).plan, BUDGETS["full"]
    try:
        plan = Plan(**content)
        kinds, wanted = ([type(value) for value in asdict(one).values()] for one in (plan, usual))
        if (
            kinds != wanted
            or plan.name not in BUDGETS
            or plan.first_seed < 0
            or min(plan.seeds, plan.steps, plan.samples, plan.batch_size) < 1
        ):
            raise TypeError
    except TypeError:
        raise InputError(f"{path}: 'plan' is {content}, expected one like {usual.as_dict()}") from None
    return plan


def eager_seconds(cells: Sequence[Cell], plan: Plan, device: str) -> float:
    """The time of all steps of all models, one model after the other: the median of a few steps of each kind of model,
    times their number."""
    of_a_step: dict[Any, float] = {}
    seconds = 0.0
    for cell in cells:
        data = cell.data(n_train=plan.batch_size, n_validation=1, seed=0)
        # What is left out here changes no time.
        kind = replace(cell.spec, log_gamma=0.0, training=TrainingConfig()), data.train.shape[1:]
        if kind not in of_a_step:
            of_a_step[kind] = _median_step(cell, data, device, whole=plan.batch_size == plan.samples)
        seconds += plan.seeds * plan.steps * of_a_step[kind]
    return seconds


def _median_step(cell: Cell, data: Dataset, device: str, whole: bool) -> float:
    """On ``data``, one mini-batch, gathered in another order each time, as from a data set on the device; or left as
    they are if they are the ``whole`` data set."""
    x = data.train.to(device)
    c = None if data.train_condition is None else data.train_condition.to(device)
    model = by_pytorch(cell.spec.build(*x.shape[1:]).to(device))
    optimizer = torch.optim.Adam(model.parameters(), lr=cell.spec.training.learning_rate)

    def step() -> None:
        order = slice(None) if whole else torch.randperm(len(x), device=device)
        optimizer.zero_grad()
        negative_elbo(model, x[order], None if c is None else c[order]).backward()
        optimizer.step()
        if x.is_cuda:
            torch.cuda.synchronize(x.device)

    _, microseconds, _ = timed(Call(step), PATIENCE)
    return microseconds / 1e6
