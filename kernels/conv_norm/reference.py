"""The definition of ``conv_norm`` in plain PyTorch."""

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d

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
    y = batch_norm(u, None, None, norm_weight, norm_bias, training=True, eps=eps)
    if relu:
        y = y.relu()
    variance, mean = torch.var_mean(u.detach(), (0, 2, 3), correction=0)
    return y if residual is None else y + residual, mean, variance
