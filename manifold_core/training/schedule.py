"""What a step is made with: samples, seed of the noise, learning rates."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from ..kernels.random import permutation
from .config import TrainingConfig

__all__ = ["batches", "cycle_of", "make_optimizer", "noise_seed", "schedule_table"]

# Places whose samples are looked up at a time, in some hundred small operations, however many; each is a GPU's launch.
PLACES = {"cpu": 2**16, "cuda": 2**20}


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
    steps_at_once = max(1, PLACES.get(place.device.type, PLACES["cpu"]) // size)
    for first in range(first_step, config.steps, steps_at_once):
        step = torch.arange(first, min(first + steps_at_once, config.steps), device=device)
        places = (step % per_epoch * size).unsqueeze(1) + place
        yield from permutation(seed, step // per_epoch, places, samples)


def make_optimizer(
    networks: Iterable[Tensor], log_gamma: Tensor, config: TrainingConfig
) -> tuple[torch.optim.Adam, OneCycleLR]:
    """Adam, and the cycle of its learning rates and of its first beta. A log γ that is not a parameter is left out."""
    groups: list[dict[str, Any]] = [{"params": list(networks)}]
    rates = [config.learning_rate]
    if isinstance(log_gamma, nn.Parameter):
        groups.append({"params": [log_gamma]})
        rates.append(config.log_gamma_rate * config.learning_rate)
    optimizer = torch.optim.Adam(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)
    # A one-step cycle has no room for its two phases.
    return optimizer, OneCycleLR(optimizer, max_lr=rates, total_steps=max(config.cycle_steps or config.steps, 2))


def schedule_table(config: TrainingConfig) -> Tensor:
    """lr / (1 − β₁ᵗ), the same for log γ, 1 − β₁, 1 − β₂ and 1 / √(1 − β₂ᵗ) of each step t, from 1, with the learning
    rates and β₁ of that step: float64 ``[steps, 5]``.

    With them Adam is m += (1 − β₁)(g − m), v = β₂ v + (1 − β₂) g², p −= lr / (1 − β₁ᵗ) m / (√v / √(1 − β₂ᵗ) + ε).
    """
    return _table(cycle_of(config)).clone()


def cycle_of(config: TrainingConfig) -> TrainingConfig:
    """The configuration without what its schedule does not depend on: the same for all of one schedule."""
    return replace(config, batch_size=1, seed=0, precision="float32")


@lru_cache(maxsize=4)  # a second for as many steps as the image tables have, and the same for many models
def _table(config: TrainingConfig) -> Tensor:
    weight, log_gamma = (nn.Parameter(torch.zeros((), device="cpu")) for _ in range(2))
    optimizer, schedule = make_optimizer([weight], log_gamma, config)
    optimizer.step()  # does nothing: the schedule warns if there was none
    rows = []
    for step in range(1, config.steps + 1):
        beta1, beta2 = optimizer.param_groups[0]["betas"]
        sizes = (group["lr"] / (1 - beta1**step) for group in optimizer.param_groups)
        rows.append((*sizes, 1 - beta1, 1 - beta2, 1 / math.sqrt(1 - beta2**step)))
        schedule.step()
    return torch.tensor(rows, dtype=torch.float64, device="cpu")
