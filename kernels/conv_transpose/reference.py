"""The definition of ``conv_transpose`` in plain PyTorch."""

from torch import Tensor
from torch.nn.functional import conv_transpose2d

__all__ = ["conv_transpose"]


def conv_transpose(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    """See :func:`manifold_core.kernels.conv_transpose`."""
    return conv_transpose2d(x, weight, bias, stride=stride, padding=padding)
