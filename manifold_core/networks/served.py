"""PyTorch's layers, computed by our kernels where these serve."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from ..kernels import Backend

__all__ = ["Served", "by_pytorch", "left_to_pytorch", "watched"]

Module = TypeVar("Module", bound=nn.Module)


class Served:
    """A layer whose ``backend`` is "auto", or "reference" for PyTorch's own ops."""

    backend: Backend = "auto"


def by_pytorch(network: Module) -> Module:
    """The network, whose layers from now on are computed by PyTorch alone: for comparisons, second derivatives."""
    for module in network.modules():
        if isinstance(module, Served):
            module.backend = "reference"
    return network


def watched(*layers: nn.Module) -> bool:
    """Whether one of these layers has hooks, or a forward that was patched."""
    return _has_any_global_hook() or any(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or "forward" in layer.__dict__
        for layer in layers
    )


def left_to_pytorch(x: Tensor) -> bool:
    """Whether kernels of ours cannot do what is asked for: derivatives forward, programs that run without this package,
    and on the CPU another precision than that of the tensors."""
    if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting() or forward_ad._current_level >= 0:
        return True
    return x.is_cpu and torch.is_autocast_enabled("cpu")
