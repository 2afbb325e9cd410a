"""The types that layers compute in: some keep float32 where the others compute in half precision."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .convolution import ConvTranspose2d

__all__ = ["Float32ConvTranspose2d", "Float32Linear", "dtype_of", "outside_autocast"]

T = TypeVar("T")


def dtype_of(layer: nn.Module) -> torch.dtype:
    """Of the weights of one layer: to go through those of a network takes ten times as long."""
    weight: Any = layer.weight
    dtype: torch.dtype = weight.dtype
    return dtype


def outside_autocast(layer: Callable[[Tensor], T], x: Tensor, dtype: torch.dtype) -> T:
    """Half precision has too few digits for mu and z beside a small σ, and for x̂ beside a small γ."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return layer(x)
    with torch.autocast(device, enabled=False):
        return layer(x.to(dtype))


class Float32Linear(nn.Linear):
    """nn.Linear outside autocast: what reads z, and what makes mu, log_var or x̂."""

    def forward(self, x: Tensor) -> Tensor:
        return outside_autocast(super().forward, x, self.weight.dtype)


class Float32ConvTranspose2d(ConvTranspose2d):
    """The same of the residual decoder's last layer."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return outside_autocast(partial(super().forward, output_size=output_size), x, self.weight.dtype)
