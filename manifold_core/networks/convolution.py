"""The layers of the residual networks: PyTorch's, computed by kernels of ours where these serve."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from ..kernels import conv_norm, conv_transpose
from ..kernels.dispatch import choose_for_images
from .normalisation import BatchNorm2d

__all__ = ["ConvNorm", "ConvTranspose2d", "by_pytorch"]

Module = TypeVar("Module", bound=nn.Module)


class _Served:
    """A layer whose ``backend`` is "auto", or "reference" for PyTorch's own ops."""

    backend = "auto"

    def served(self, x: Tensor, *weights: Tensor) -> bool:
        """Whether kernels of ours compute it: they take dense tensors and compute in the precision of these."""
        if x.is_cpu and torch.is_autocast_enabled("cpu"):
            return False
        return weights[0].is_contiguous() and choose_for_images(self.backend, x, *weights) != "reference"


def by_pytorch(network: Module) -> Module:
    """The network, whose layers from now on are computed by PyTorch alone: for comparisons."""
    for module in network.modules():
        if isinstance(module, _Served):
            module.backend = "reference"
    return network


def _hooked(layer: nn.Module) -> bool:
    """Whether somebody wants to see what goes in and out."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


class ConvNorm(_Served, nn.Sequential):
    """A convolution that leaves the image as large, or divides it by ``stride``, batch normalisation, and a ReLU; what
    is to be added to it comes in as well. In training one op, :func:`manifold_core.kernels.conv_norm`."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        super().__init__(conv, BatchNorm2d(outputs), *([nn.ReLU()] if relu else []))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        conv, norm = self[0], self[1]
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, BatchNorm2d)
        alone = norm.training and norm.process_group is None and not any(map(_hooked, self))
        if not alone or not self.served(x, conv.weight, norm.weight):
            out: Tensor = super().forward(x)
            return out if residual is None else out + residual
        y, mean, variance = conv_norm(
            x,
            conv.weight,
            norm.weight,
            norm.bias,
            residual,
            stride=conv.stride[0],
            padding=conv.kernel_size[0] // 2,
            eps=norm.eps,
            relu=len(self) > 2,
        )
        norm.observe(mean, variance, y.numel() // len(mean))
        return y


class ConvTranspose2d(_Served, nn.ConvTranspose2d):
    """nn.ConvTranspose2d of one kernel, stride and padding for both axes:
    :func:`manifold_core.kernels.conv_transpose`."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is not None or self.bias is None or not self.served(x, self.weight, self.bias):
            return super().forward(x, output_size)
        padding = self.padding[0]
        assert isinstance(padding, int)
        return conv_transpose(x, self.weight, self.bias, stride=self.stride[0], padding=padding)
