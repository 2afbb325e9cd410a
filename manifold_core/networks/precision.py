"""The types that layers compute in: some keep float32 where the others compute in half precision."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .conv_layers import ConvTranspose2d

__all__ = ["Float32ConvTranspose2d", "Float32Linear", "autocast_enabled", "of_weights", "outside_autocast"]

T = TypeVar("T")


def autocast_enabled(x: Tensor) -> bool:
    """Whether layers that read x are under autocast. Which devices have it torch.amp.is_autocast_available would say,
    but torch.compile of torch 2.11 does not understand the question."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def of_weights(first: Callable[[Any], Any]) -> property:
    """A network's ``input_dtype``. One layer tells it: to go through all weights takes ten times as long."""

    def input_dtype(network: nn.Module) -> torch.dtype:
        """The dtype of what the network reads: that of its weights."""
        layer = first(network)
        weight: Tensor = layer.weight if layer.bias is None else layer.bias  # if parametrized, a look computes it
        return weight.dtype

    return property(input_dtype)


def outside_autocast(layer: Callable[[Tensor], T], x: Tensor, of: nn.Linear | nn.ConvTranspose2d) -> T:
    """In the dtype of the weights of ``of``: half precision has too few digits for mu and z beside a small σ, and for
    x̂ beside a small γ."""
    if not autocast_enabled(x):
        return layer(x)
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.to(of.weight.dtype))


class Float32Linear(nn.Linear):
    """nn.Linear outside autocast: what reads z, and what makes mu, log_var or x̂."""

    def forward(self, x: Tensor) -> Tensor:
        return outside_autocast(super().forward, x, self)


class Float32ConvTranspose2d(ConvTranspose2d):
    """The same of the residual decoder's last layer."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return outside_autocast(partial(super().forward, output_size=output_size), x, self)
