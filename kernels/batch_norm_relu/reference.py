"""The definition of ``batch_norm_relu`` in plain PyTorch."""

import torch
from torch import Tensor
from torch.nn.functional import batch_norm

from ..checks import accumulation_dtype

__all__ = ["batch_norm_relu"]


def batch_norm_relu(
    u: Tensor, norm_weight: Tensor, norm_bias: Tensor, residual: Tensor | None, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`manifold_core.kernels.batch_norm_relu.batch_norm_relu`."""
    y = batch_norm(u, None, None, norm_weight, norm_bias, training=True, eps=eps)
    if relu:
        y = y.relu()
    variance, mean = torch.var_mean(u.detach().to(accumulation_dtype(u)), (0, 2, 3), correction=0)
    return y if residual is None else y + residual, mean, variance
