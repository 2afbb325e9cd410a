"""The one training loop."""

import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from . import checkpoint
from .dimension import count_active
from .errors import InputError
from .files import output_folder
from .kernels.random import permutation
from .models import CVAE, VAE, check_inputs

__all__ = ["Diverged", "History", "TrainingConfig", "schedule_table", "train"]

ADAM_STATE = {"step", "exp_avg", "exp_avg_sq"}
RECORDS = 500  # points on a curve, and updates of the progress bar
PLACES = 2**16  # whose samples are looked up at a time: some hundred small operations, whatever their number


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. Adam with a one-cycle schedule over ``steps`` mini-batches.

    Args:
        steps: number of optimizer steps.
        batch_size: samples a step; at most the number there are. Each epoch is a new shuffle; samples left over at its
            end, too few for a batch, wait for the next.
        learning_rate: the highest of the cycle.
        log_gamma_rate: how many times that for a learned log γ.
        beta2: Adam's β₂, between 0 and 1: the second moment remembers some 1 / (1 − β₂) steps. Where a learned γ starts
            far from the scale of the data, 0.99 and a ``log_gamma_rate`` of 10 find the way; else a slow γ is better.
        seed: from 0 to 2³¹ − 1; fixes the order of the samples and the noise, on every backend.

    Raises:
        InputError: a number out of range.
    """

    steps: int = 20_000
    batch_size: int = 1024
    learning_rate: float = 0.005
    log_gamma_rate: float = 1.0
    beta2: float = 0.999
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        for name in ("learning_rate", "log_gamma_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if not 0 < self.beta2 < 1:
            raise InputError(f"beta2 must lie between 0 and 1, got {self.beta2}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise InputError(f"seed must be an integer from 0 to 2**31 - 1, got {self.seed!r}")


@dataclass
class History:
    """Curves over the steps, of the mini-batches: negative ELBO (nats), γ, active dimensions; and the time taken."""

    step: list[int] = field(default_factory=list)
    neg_elbo: list[float] = field(default_factory=list)
    gamma: list[float] = field(default_factory=list)
    active_dimensions: list[int] = field(default_factory=list)
    seconds: float = 0.0


class Diverged(ArithmeticError):
    """The loss is no longer a number.

    Attributes:
        loss: what it is.
        step: from 1, at which it was seen; on a CPU the first such step.
        history: the curves up to there.
    """

    def __init__(self, loss: float, step: int, history: History) -> None:
        super().__init__(loss, step, history)
        self.loss = loss
        self.step = step
        self.history = history

    def __str__(self) -> str:
        return f"the loss is {self.loss} at step {self.step}; a lower learning_rate may help"


def record_every(config: TrainingConfig) -> int:
    """Steps from one point of the curves to the next; the last step is a point, too."""
    return max(1, config.steps // RECORDS)


def noise_seed(run_seed: int, step: int) -> int:
    """Seed of one step's noise: no two (run, step) share one."""
    return run_seed * 2**32 + step


def batches(
    samples: int, config: TrainingConfig, first_step: int, device: torch.device | str = "cpu"
) -> Iterator[Tensor]:
    """The samples of the mini-batch of every step from ``first_step`` on, int64 ``[B]`` on ``device``.

    B = min(batch_size, N) and an epoch has N // B steps; place p of its step k holds sample π(k B + p), π the
    :func:`manifold_core.kernels.random.permutation` of seed and epoch. A function of its arguments alone.
    """
    size = min(config.batch_size, samples)
    per_epoch = samples // size
    seed, place = torch.tensor(config.seed, device=device), torch.arange(size, device=device)
    steps_at_once = max(1, PLACES // size)
    for first in range(first_step, config.steps, steps_at_once):
        step = torch.arange(first, min(first + steps_at_once, config.steps), device=device)
        places = (step % per_epoch * size).unsqueeze(1) + place
        yield from permutation(seed, step // per_epoch, places, samples)


def _optimizer(
    networks: Iterable[Tensor], log_gamma: Tensor, config: TrainingConfig
) -> tuple[torch.optim.Adam, OneCycleLR]:
    """Adam, and the cycle of its learning rates and of its first beta. A log γ that is no parameter is left alone."""
    groups: list[dict[str, Any]] = [{"params": list(networks)}]
    rates = [config.learning_rate]
    if isinstance(log_gamma, nn.Parameter):
        groups.append({"params": [log_gamma]})
        rates.append(config.log_gamma_rate * config.learning_rate)
    optimizer = torch.optim.Adam(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)
    # A one-step cycle has no room for its two phases.
    return optimizer, OneCycleLR(optimizer, max_lr=rates, total_steps=max(config.steps, 2))


def schedule_table(config: TrainingConfig) -> Tensor:
    """lr / (1 − β₁ᵗ), the same of log γ, 1 − β₁, 1 − β₂ and 1 / √(1 − β₂ᵗ) of each step t, from 1, with the learning
    rates and β₁ of that step: float64 ``[steps, 5]``.

    With them Adam is m += (1 − β₁)(g − m), v = β₂ v + (1 − β₂) g², p −= lr / (1 − β₁ᵗ) m / (√v / √(1 − β₂ᵗ) + ε).
    """
    optimizer, schedule = _optimizer([nn.Parameter(torch.zeros(()))], nn.Parameter(torch.zeros(())), config)
    rows = []
    for step in range(1, config.steps + 1):
        networks, log_gamma = optimizer.param_groups
        beta1, beta2 = networks["betas"]
        sizes = (group["lr"] / (1 - beta1**step) for group in (networks, log_gamma))
        rows.append((*sizes, 1 - beta1, 1 - beta2, 1 / math.sqrt(1 - beta2**step)))
        optimizer.step()  # of nothing: the schedule wants to see it
        schedule.step()
    return torch.tensor(rows, dtype=torch.float64)


class _Run:
    """Everything that a stopped run needs to go on to the same numbers."""

    def __init__(self, model: VAE | CVAE, config: TrainingConfig, identity: dict[str, Any]) -> None:
        self.model = model
        self.identity = identity | {"training": asdict(config)}
        log_gamma = model.elbo.log_gamma
        networks = [parameter for parameter in model.parameters() if parameter is not log_gamma]
        self.optimizer, self.schedule = _optimizer(networks, log_gamma, config)
        self.history = History()
        self.step = 0

    def tensors(self) -> dict[str, Tensor]:
        found = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        return found | {"random": torch.get_rng_state()}  # a user's network may have dropout

    def state(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "step": self.step,
            "history": asdict(self.history),
            "param_groups": self.optimizer.state_dict()["param_groups"],
            "schedule": self.schedule.state_dict(),
        }

    def save(self, folder: Path) -> None:
        checkpoint.save(folder, self.step, self.tensors(), self.state())

    def restore(self, found: checkpoint.Checkpoint) -> None:
        check_identity(found.state.get("identity"), self.identity)
        tensors = dict(found.tensors)
        try:
            torch.set_rng_state(tensors.pop("random"))
            moments: dict[int, dict[str, Tensor]] = {}
            parameters = (parameter for group in self.optimizer.param_groups for parameter in group["params"])
            for index, parameter in enumerate(parameters):
                start = f"optimizer.{index}."
                for name in [name for name in tensors if name.startswith(start)]:
                    moment = tensors.pop(name)
                    if name != f"{start}step":  # Adam's fused kernel wants the strides of the parameter
                        moment = torch.empty_like(parameter).copy_(moment)
                    moments.setdefault(index, {})[name.removeprefix(start)] = moment
                if index in moments and moments[index].keys() != ADAM_STATE:
                    raise ValueError(f"optimizer state of parameter {index} has {sorted(moments[index])}")
            self.model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items()})
            self.optimizer.load_state_dict({"state": moments, "param_groups": found.state["param_groups"]})
            self.schedule.load_state_dict(found.state["schedule"])
            self.history = History(**found.state["history"])
            self.step = int(found.state["step"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise InputError(f"checkpoint is of another model or damaged: {error}") from error


def check_identity(found: Any, wanted: dict[str, Any]) -> None:
    if not isinstance(found, dict):
        raise InputError(f"checkpoint does not say of which run it is, got {found!r}")
    for part in sorted(found.keys() | wanted.keys()):
        if found.get(part) != wanted.get(part):
            raise InputError(
                f"checkpoint is of another run: its {part} is {found.get(part)!r}, expected {wanted.get(part)!r}"
            )


def train(
    model: VAE | CVAE,
    x: Tensor,
    config: TrainingConfig,
    *,
    condition: Tensor | None = None,
    folder: Path | None = None,
    identity: dict[str, Any] | None = None,
    checkpoint_seconds: float = 10.0,
    progress: bool = True,
) -> History:
    """Minimise ``model(batch).loss``, of a CVAE ``model(batch, condition).loss``, by Adam; leaves the trained weights
    in ``model``, in evaluation mode.

    With a folder, the run is saved there between steps, now and then. Stopped in any way and started again with the
    same arguments, it goes on from what was saved to the numbers it would have reached undisturbed: bit for bit on a
    CPU with the same number of threads. The checkpoint stays until the caller removes it.

    Args:
        model: called with a batch ``[B, ...]``, a CVAE also with its conditions ``[B, t]``, and ``seed=``.
        x: ``[N, ...]`` training samples, on the device of the model.
        config: see :class:`TrainingConfig`.
        condition: ``[N, t]``, of a CVAE.
        folder: of the checkpoints; None keeps none.
        identity: what the checkpoint must agree on beside ``config``: a description of model and data.
        checkpoint_seconds: between two checkpoints.
        progress: show a bar on standard error with loss, γ and active dimensions.

    Raises:
        InputError: no samples, a condition that does not go with model and samples, or a checkpoint of another run or
            damaged.
        Diverged: the loss became NaN or infinite. The weights are those before the step of which that was seen.
    """
    inputs = check_inputs(model, x, condition)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(config.seed)
        run = _Run(model, config, identity or {})
        if folder is not None:
            output_folder(folder)
        if folder is not None and (found := checkpoint.load(folder)) is not None:
            run.restore(found)
        _loop(run, inputs, config, folder, checkpoint_seconds, progress)
    model.eval()
    return run.history


def _loop(
    run: _Run,
    inputs: tuple[Tensor, ...],
    config: TrainingConfig,
    folder: Path | None,
    checkpoint_seconds: float,
    progress: bool,
) -> None:
    model, history = run.model, run.history
    model.train()
    every = record_every(config)
    device = inputs[0].device
    started = saved = time.monotonic()
    already = history.seconds
    bar = tqdm(
        total=config.steps, initial=run.step, unit="step", disable=not progress, file=sys.stderr, mininterval=0.5
    )
    try:
        for index in batches(len(inputs[0]), config, run.step, device):
            log_gamma = model.elbo.log_gamma.detach().clone()  # an analytic one is written by the forward pass
            terms = model(*(part.index_select(0, index) for part in inputs), seed=noise_seed(config.seed, run.step))
            recorded = (run.step + 1) % every == 0 or run.step + 1 == config.steps
            # To read the loss costs nothing on a CPU; elsewhere the device would be waited for.
            if (recorded or device.type == "cpu") and not math.isfinite(loss := float(terms.loss.detach())):
                model.elbo.log_gamma.data.copy_(log_gamma)
                raise Diverged(loss, run.step + 1, history)
            if recorded:  # before the step: γ is the one that the loss was taken with
                _record(history, run.step + 1, terms)
            run.optimizer.zero_grad(set_to_none=True)
            terms.loss.backward()
            run.optimizer.step()
            run.schedule.step()
            run.step += 1
            if recorded:
                bar.set_postfix(
                    loss=f"{history.neg_elbo[-1]:.2f}",
                    gamma=f"{history.gamma[-1]:.2e}",
                    active=history.active_dimensions[-1],
                    refresh=False,
                )
                bar.update(run.step - bar.n)
            now = time.monotonic()
            history.seconds = already + now - started
            if folder is not None and now - saved >= checkpoint_seconds:
                run.save(folder)
                saved = now
    finally:
        bar.close()
    if folder is not None:
        run.save(folder)


def _record(history: History, step: int, terms: Any) -> None:
    history.step.append(step)
    history.neg_elbo.append(float((terms.nll + terms.kl).detach().mean()))
    history.gamma.append(float(terms.log_gamma.detach().double().exp()))
    history.active_dimensions.append(count_active(terms.variance_ratio))
