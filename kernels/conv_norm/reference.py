"""The definition of ``conv_norm`` in plain PyTorch."""

from torch import Tensor
from torch.nn.functional import conv2d

from ..batch_norm_relu.reference import batch_norm_relu

__all__ = ["conv_norm"]


def conv_norm(
    x: Tensor,
    weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    residual: Tensor | None,
    stride: int,
    padding: int,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`manifold_core.kernels.conv_norm`."""
    u = conv2d(x, weight, stride=stride, padding=padding)
    return batch_norm_relu(u, norm_weight, norm_bias, residual, eps, relu)
