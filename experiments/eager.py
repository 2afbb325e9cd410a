"""``manifold-core eager``: what the models of finished tables would take in eager PyTorch, written by hand as the paper
describes them, on this machine."""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..data import Dataset
from ..errors import InputError
from ..files import write_json
from ..models import CVAE, VAE
from ..training import TrainingConfig
from .catalogue import TABLES
from .tables import Cell, Plan

__all__ = ["eager_loss", "eager_seconds", "measure"]

WARM_UP, FEWEST, PATIENCE = 2, 7, 0.3  # steps that are not counted; counted ones, or as many as fit into these seconds


def measure(folder: Path, device: str = "cpu") -> None:
    """Write into each result file of a known table, as ``eager_seconds``, what its models would take one after the
    other: for the steps that were trained, and for what the paper trained. Wants a machine that does nothing else.

    Raises:
        InputError: no result file of a table in the folder.
    """
    paths = {name: folder / f"{name}.json" for name in TABLES if (folder / f"{name}.json").exists()}
    if not paths:
        raise InputError(f"folder must hold result files such as table1.json, got {str(folder)!r}: none in it")
    for name, path in tqdm(paths.items(), unit="table", file=sys.stderr):
        content, table = json.loads(path.read_text(encoding="utf-8")), TABLES[name]
        plan = Plan(**content["plan"])
        found = {"same_steps": eager_seconds(table.cells(plan), plan, device)}
        if table.paper:
            published = plan.as_published()
            found["as_published"] = eager_seconds(table.cells(published), published, device)
        write_json(path, content | {"eager_seconds": found})


def eager_loss(model: VAE | CVAE, x: Tensor, c: Tensor | None, noise: Tensor) -> Tensor:
    """½ (‖x − x̂‖²/γ + d log 2πγ) + KL[q ‖ p], averaged over the batch, of the model's networks alone: no op of ours."""
    prior_mu = prior_log_var = torch.zeros((), device=x.device)
    if isinstance(model, CVAE):
        mu, log_var = model.encoder(x, c)
        if model.prior is not None:
            prior_mu, prior_log_var = model.prior(c)
    else:
        mu, log_var = model.encoder(x)
    z = mu + torch.exp(0.5 * log_var) * noise
    distance = (mu - prior_mu).square() / prior_log_var.exp()
    kl = 0.5 * ((log_var - prior_log_var).exp() + distance - 1 - log_var + prior_log_var).sum(dim=1)
    if isinstance(model, CVAE):
        if model.gate is not None:
            z = z * torch.sigmoid(model.gate(c))
        x_hat = model.decoder(z, c)
    else:
        x_hat = model.decoder(z)
    error = (x - x_hat).square().sum(dim=1)
    d = x.shape[1]
    log_gamma = (error.mean() / d).log() if model.elbo.gamma == "analytic" else model.elbo.log_gamma
    return (0.5 * (error / log_gamma.exp() + d * (math.log(2 * math.pi) + log_gamma)) + kl).mean()


def eager_seconds(cells: Sequence[Cell], plan: Plan, device: str) -> float:
    """Of all steps of all models, one model after the other: the median of a few steps of each kind of model, times
    their number."""
    of_a_step: dict[Any, float] = {}
    seconds = 0.0
    for cell in cells:
        data = cell.data(n_train=plan.batch_size, n_validation=1, seed=0)
        # What is left out here changes no time.
        kind = replace(cell.spec, log_gamma=0.0, training=TrainingConfig()), data.train.shape[1]
        if kind not in of_a_step:
            of_a_step[kind] = _median_step(cell, data, device)
        seconds += plan.seeds * plan.steps * of_a_step[kind]
    return seconds


def _median_step(cell: Cell, data: Dataset, device: str) -> float:
    """Of the mini-batch of all the data, in another order each time, as from a data set on the device."""
    x = data.train.to(device)
    c = None if data.train_condition is None else data.train_condition.to(device)
    model = cell.spec.build(x.shape[1]).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=cell.spec.training.learning_rate)

    def step() -> None:
        order = torch.randperm(len(x), device=device)
        noise = torch.randn(len(x), model.latent_dim, device=device)
        optimizer.zero_grad()
        eager_loss(model, x[order], None if c is None else c[order], noise).backward()
        optimizer.step()
        if x.is_cuda:
            torch.cuda.synchronize(x.device)

    return _median(step)


def _median(call: Callable[[], None]) -> float:
    for _ in range(WARM_UP):
        call()
    seconds: list[float] = []
    while len(seconds) < FEWEST or sum(seconds) < PATIENCE:
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)
