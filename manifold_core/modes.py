"""Models in training and in evaluation mode, and as they were before."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluation_mode", "training_mode", "weights_back"]


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


@contextmanager
def weights_back(model: nn.Module, error: type[Exception]) -> Iterator[None]:
    """Where that error comes out, the model has the weights and buffers with which it came: torch loads what fits, and
    says only then what does not."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        yield
    except error:
        model.load_state_dict(before)
        raise
