"""The layers of the residual networks: PyTorch's, computed by kernels of ours where these serve."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from ..kernels import conv_norm, conv_transpose
from ..kernels.conv_norm.op import BACKENDS
from ..kernels.dispatch import choose_for_images
from .normalisation import BatchNorm2d

__all__ = ["ConvNorm", "ConvTranspose2d", "by_pytorch", "watched"]

Module = TypeVar("Module", bound=nn.Module)


def by_pytorch(network: Module) -> Module:
    """The network, whose layers from now on are computed by PyTorch alone: for comparisons, second derivatives."""
    for module in network.modules():
        if isinstance(module, _Served):
            module.backend = "reference"
    return network


def watched(*layers: nn.Module) -> bool:
    """Whether somebody wants to see what goes into one of these or comes out, or has put his own function there."""
    return _has_any_global_hook() or any(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or "forward" in layer.__dict__
        for layer in layers
    )


class _Served:
    """A layer whose ``backend`` is "auto", or "reference" for PyTorch's own ops."""

    backend = "auto"

    def chosen(self, x: Tensor, weight: Tensor, *others: Tensor, backends: tuple[str, ...] = ("cpu",)) -> str:
        """Which of these backends computes it, or "reference". Those for the CPU take dense tensors and compute in the
        precision of these. What kernels of ours cannot do is left to PyTorch: derivatives forward, and programs that
        run without this package."""
        if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting() or forward_ad._current_level >= 0:
            return "reference"
        if x.dim() != 4 or (x.is_cpu and (torch.is_autocast_enabled("cpu") or not weight.is_contiguous())):
            return "reference"
        return choose_for_images(self.backend, x, weight, *others, backends=backends)


def _stride_and_padding(conv: nn.Conv2d | nn.ConvTranspose2d) -> tuple[int, int] | None:
    """The same for both axes; None of a convolution that is not square or has other options."""
    options = (conv.groups, conv.dilation, conv.padding_mode, conv.output_padding)
    if options != (1, (1, 1), "zeros", (0, 0)) or isinstance(conv.padding, str):
        return None
    if any(pair[0] != pair[1] for pair in (conv.kernel_size, conv.stride, conv.padding)):
        return None
    return conv.stride[0], conv.padding[0]


class ConvNorm(_Served, nn.Sequential):
    """A convolution by a kernel of odd size that leaves the image as large, or divides it by ``stride``, batch
    normalisation, and a ReLU; what is to be added to it comes in as well. In training one op,
    :func:`manifold_core.kernels.conv_norm`, unless a layer has been made another than it was."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        super().__init__(conv, BatchNorm2d(outputs), *([nn.ReLU()] if relu else []))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = self._as_one_op(x, residual)
        if y is not None:
            return y
        out: Tensor = super().forward(x)
        return out if residual is None else out + residual

    def _as_one_op(self, x: Tensor, residual: Tensor | None) -> Tensor | None:
        conv, norm, *rest = self
        # Exactly these: what is derived from them may compute anything.
        if type(conv) is not nn.Conv2d or type(norm) is not BatchNorm2d or [*map(type, rest)] not in ([], [nn.ReLU]):
            return None
        found = _stride_and_padding(conv)
        if found is None or conv.bias is not None or not norm.one_batch or watched(*self):
            return None
        others = (norm.weight, norm.bias) if residual is None else (norm.weight, norm.bias, residual)
        backend = self.chosen(x, conv.weight, *others, backends=BACKENDS)
        if backend == "reference":
            return None
        stride, padding = found
        y, mean, variance = conv_norm(
            x,
            conv.weight,
            norm.weight,
            norm.bias,
            residual,
            stride=stride,
            padding=padding,
            eps=norm.eps,
            relu=bool(rest),
            backend=backend,
        )
        norm.observe(mean, variance, y.numel() // len(mean))
        return y


class ConvTranspose2d(_Served, nn.ConvTranspose2d):
    """nn.ConvTranspose2d; without options :func:`manifold_core.kernels.conv_transpose`."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        found = _stride_and_padding(self)
        if output_size is not None or found is None or self.bias is None:
            return super().forward(x, output_size)
        if self.chosen(x, self.weight, self.bias) == "reference":
            return super().forward(x, output_size)
        stride, padding = found
        return conv_transpose(x, self.weight, self.bias, stride=stride, padding=padding, backend="cpu")
