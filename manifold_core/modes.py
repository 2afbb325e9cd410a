"""Models in training and in evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluation_mode", "put_into_training_mode"]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Within the block; afterwards each module is back in its own mode, which need not be the same for all."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.train(training)  # of some modules it does more than to set the flag, such as to unmerge weights
        for module, training in modes:  # which it has set in all modules within
            module.training = training


def put_into_training_mode(model: nn.Module) -> None:
    """Frozen modules that were in evaluation mode stay in it."""
    frozen = [
        module
        for module in model.modules()
        if not module.training and (own := list(module.parameters())) and not any(one.requires_grad for one in own)
    ]
    model.train()
    for module in frozen:
        module.eval()
