"""Layers that keep float32 where the others compute in half precision."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["Float32ConvTranspose2d", "Float32Linear"]


def _outside_autocast(layer: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype) -> Tensor:
    """Half precision has too few digits for mu and z beside a small σ, and for x̂ beside a small γ."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return layer(x)
    with torch.autocast(device, enabled=False):
        return layer(x.to(dtype))


class Float32Linear(nn.Linear):
    """nn.Linear outside autocast: what reads z, and what makes mu, log_var or x̂."""

    def forward(self, x: Tensor) -> Tensor:
        return _outside_autocast(super().forward, x, self.weight.dtype)


class Float32ConvTranspose2d(nn.ConvTranspose2d):
    """The same of the residual decoder's last layer."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return _outside_autocast(partial(super().forward, output_size=output_size), x, self.weight.dtype)
