"""The layers of the residual networks: PyTorch's, computed by kernels of ours where these serve."""

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..kernels import Backend, conv_norm, conv_transpose
from ..kernels.conv_norm.op import BACKENDS
from ..kernels.convolution import choose_for_images
from .normalisation import BatchNorm2d
from .served import Served, left_to_pytorch, watched

__all__ = ["ConvNorm", "ConvTranspose2d"]


class _OfImages(Served):
    def chosen(self, x: Tensor, weight: Tensor, *others: Tensor, backends: tuple[Backend, ...] = ("cpu",)) -> Backend:
        """Which of these backends computes it, or "reference". Those for the CPU take dense tensors."""
        if left_to_pytorch(x) or x.dim() != 4 or (x.is_cpu and not weight.is_contiguous()):
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


class ConvNorm(_OfImages, nn.Sequential):
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


class ConvTranspose2d(_OfImages, nn.ConvTranspose2d):
    """nn.ConvTranspose2d; without options :func:`manifold_core.kernels.conv_transpose`."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        found = _stride_and_padding(self)
        if output_size is not None or found is None or self.bias is None or is_parametrized(self):
            return super().forward(x, output_size)
        if self.chosen(x, self.weight, self.bias) == "reference":
            return super().forward(x, output_size)
        stride, padding = found
        return conv_transpose(x, self.weight, self.bias, stride=stride, padding=padding, backend="cpu")
