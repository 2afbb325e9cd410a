"""``manifold-core eager``: what the models of finished tables would take in eager PyTorch, written by hand as the paper
describes them, on this machine."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..bench import by_hand
from ..data import Dataset
from ..errors import InputError
from ..models import CVAE, VAE
from ..models.sequential import EveryStepCVAE
from ..networks import by_pytorch
from ..storage.files import output_folder, write_json
from ..training import TrainingConfig
from .catalogue import TABLES
from .report.reading import read_result
from .runner import provenance
from .tables import BUDGETS, Cell, Plan

__all__ = ["eager_loss", "eager_seconds", "measure"]

Gaussian = tuple[Tensor, Tensor]  # mu and log_var, or mu and tril

WARM_UP, FEWEST, PATIENCE = 2, 7, 0.3  # steps that are not counted; counted ones, or as many as fit into these seconds


def measure(folder: Path, device: str = "cpu") -> None:
    """Write into each result file of a known table, as ``eager_seconds``, what its models would take one after the
    other: for the steps that were trained, and for what the paper trained; and of either one step, averaged over the
    models; as ``eager_on``, where that was measured. Wants a machine that does nothing else.

    Raises:
        InputError: no result file of a table in the folder, or a damaged one; nothing is measured then.
    """
    paths = {name: folder / f"{name}.json" for name in TABLES if (folder / f"{name}.json").exists()}
    if not paths:
        raise InputError(f"folder must hold result files such as table1.json, got {str(folder)!r}: none in it")
    plans = {name: _plan(path) for name, path in paths.items()}
    output_folder(folder)  # or else it is only known at the end that nothing can be written there
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
    """Of a result file that the report would take, too."""
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


def eager_loss(model: VAE | CVAE, x: Tensor, c: Tensor | None, noise: Tensor | None = None) -> Tensor:
    """½ (‖x − x̂‖²/γ + d log 2πγ) + KL[q ‖ p], averaged over the batch, of the model's networks alone: no op of ours."""
    x, (mu, spread), prior, decode = _networks(model, x, c)
    noise = torch.randn_like(mu) if noise is None else noise
    full = model.elbo.covariance == "cholesky"
    z, kl = (by_hand.sample_and_kl_full if full else by_hand.sample_and_kl)(mu, spread, noise, prior)
    x_hat, log_gamma = decode(z), model.elbo.log_gamma
    if model.elbo.gamma == "analytic":
        log_gamma = (x - x_hat).square().mean().log()
    return (by_hand.nll(x_hat, x, log_gamma) + kl).mean()


def _networks(
    model: VAE | CVAE, x: Tensor, c: Tensor | None
) -> tuple[Tensor, Gaussian, Gaussian | None, Callable[[Tensor], Tensor]]:
    """What is to be reconstructed, q, p or None where that is N(0, I), and the decoder; of a model of every step with a
    row for each step."""
    if not isinstance(model, CVAE):
        return x, model.encoder(x), None, model.decoder
    assert c is not None
    if isinstance(model, EveryStepCVAE):
        steps = torch.cat((c, x.unsqueeze(1)), dim=1)
        encoder: Any = model.encoder.network
        mu, log_var = encoder.at_every_length(steps)
        shared = model.prior is model.encoder.network  # then the steps of the prior are among those of the encoder
        prior_mu, prior_log_var = (mu[:, :-1], log_var[:, :-1]) if shared else model.prior.at_every_length(c)

        def decode_every_step(z: Tensor) -> Tensor:
            return model.decoder.at_every_length(z.unflatten(0, steps.shape[:2]), c).flatten(0, 1)

        q = mu[:, 1:].flatten(0, 1), log_var[:, 1:].flatten(0, 1)
        return steps.flatten(0, 1), q, (prior_mu.flatten(0, 1), prior_log_var.flatten(0, 1)), decode_every_step

    def decode(z: Tensor) -> Tensor:
        x_hat: Tensor = model.decoder(z if model.gate is None else z * torch.sigmoid(model.gate(c)), c)
        return x_hat

    return x, model.encoder(x, c), None if model.prior is None else model.prior(c), decode


def eager_seconds(cells: Sequence[Cell], plan: Plan, device: str) -> float:
    """Of all steps of all models, one model after the other: the median of a few steps of each kind of model, times
    their number."""
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
    """Of the mini-batch of all the data, in another order each time, as from a data set on the device; or ``whole``, as
    they are."""
    x = data.train.to(device)
    c = None if data.train_condition is None else data.train_condition.to(device)
    model = by_pytorch(cell.spec.build(*x.shape[1:]).to(device))
    optimizer = torch.optim.Adam(model.parameters(), lr=cell.spec.training.learning_rate)

    def step() -> None:
        order = slice(None) if whole else torch.randperm(len(x), device=device)
        optimizer.zero_grad()
        eager_loss(model, x[order], None if c is None else c[order]).backward()
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
