"""Models in training and in evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluation_mode", "training_mode"]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """For the while; afterwards each module is in the mode it had, one that was frozen among others that train too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def training_mode(model: nn.Module) -> None:
    """But for modules without a parameter that trains that were put into evaluation mode: with their weights, their
    running statistics are frozen, and what they drop."""
    frozen = [
        module
        for module in model.modules()
        if not module.training and (own := list(module.parameters())) and not any(one.requires_grad for one in own)
    ]
    model.train()
    for module in frozen:
        module.eval()
