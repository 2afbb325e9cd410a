"""A model of every kind, and data for them."""

from itertools import product

import torch
from torch import Tensor

import manifold_core as mc

__all__ = ["kinds", "toy"]


def toy(samples: int = 700) -> list[Tensor | tuple[Tensor, Tensor]]:
    """A data set of its own for models without a condition, and one with."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(samples, 4, generator=generator)
    x = torch.tanh(u @ torch.randn(4, 9, generator=generator))
    return [x, (torch.sigmoid(u @ torch.randn(4, 7, generator=generator)), u[:, :3].contiguous())]


def kinds(steps: int, learning_rate: float = 0.01) -> list[mc.ModelSpec]:
    """A model of every kind, of sizes that are multiples of nothing."""
    found = []
    for index, (activation, gamma) in enumerate(product(("relu", "prelu"), ("learned", "analytic", "fixed"))):
        hidden = ((13,), (11, 6), (9, 7, 5))[index % 3]
        training = mc.TrainingConfig(steps, (700, 300, 129)[index % 3], learning_rate, seed=index)
        found.append(
            mc.ModelSpec(5, hidden, activation, gamma=gamma, log_gamma=-1.0, training=training)  # type: ignore[arg-type]
        )
    for index, (prior, attention, activation) in enumerate(
        product(("learned", "standard"), (False, True), ("relu", "prelu"))
    ):
        training = mc.TrainingConfig(steps, (300, 129, 700)[index % 3], learning_rate, seed=index)
        found.append(
            mc.ModelSpec(
                5,
                ((13,), (11, 6))[index % 2],
                activation,  # type: ignore[arg-type]
                gamma=("learned", "analytic", "fixed")[index % 3],  # type: ignore[arg-type]
                condition_dim=3,
                condition_hidden=((5,), (7, 4), (6, 5, 3))[index % 3],
                condition_features=(None, 2)[index % 2],
                prior=prior,  # type: ignore[arg-type]
                attention=attention,
                training=training,
                data=1,
            )
        )
    return found
