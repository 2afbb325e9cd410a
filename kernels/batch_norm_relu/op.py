"""``batch_norm_relu``: batch normalisation over the batch and a ReLU as one op, which conv_norm applies after PyTorch's
convolution on a CUDA device."""

from typing import Any

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from ..registration import Operator, Schema

__all__ = ["batch_norm_relu"]


def _like(u: Tensor, dtype: torch.dtype) -> Tensor:
    """In the memory format of u; contiguous if u is dense in neither of PyTorch's formats."""
    dense = u.is_contiguous() or u.is_contiguous(memory_format=torch.channels_last)
    return torch.empty_like(u, dtype=dtype, memory_format=torch.preserve_format if dense else torch.contiguous_format)


def _fake(
    u: Tensor, norm_weight: Tensor, norm_bias: Tensor, residual: Tensor | None, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    channels, of_y = u.shape[1], u.dtype if residual is None else torch.promote_types(u.dtype, residual.dtype)
    mean, variance = (u.new_empty(channels, dtype=accumulation_dtype(u)) for _ in range(2))
    return _like(u, of_y), mean, variance, u.new_empty(channels, 4, dtype=accumulation_dtype(u, residual))


def _fake_backward(
    grad_y: Tensor, u: Tensor, norm_weight: Tensor, norm_bias: Tensor, of_channels: Tensor, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(u, u.dtype), norm_weight.new_empty(u.shape[1]), norm_bias.new_empty(u.shape[1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, mean, variance, of_channels = output
    ctx.save_for_backward(*inputs[:3], of_channels)
    ctx.relu = inputs[5]
    ctx.mark_non_differentiable(mean, variance, of_channels)
    ctx.set_materialize_grads(False)


def _backward(kernel: Any, ctx: Any, grad_y: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 6
    return *kernel(grad_y, *ctx.saved_tensors, ctx.relu), grad_y if ctx.needs_input_grad[3] else None, None, None


OPERATOR = Operator(
    "batch_norm_relu",
    Schema(
        "(Tensor u, Tensor norm_weight, Tensor norm_bias, Tensor? residual, float eps, bool relu)"
        " -> (Tensor y, Tensor mean, Tensor variance, Tensor of_channels)",
        _fake,
    ),
    _setup_context,
    _backward,
    batch_norm_relu_backward=Schema(
        "(Tensor grad_y, Tensor u, Tensor norm_weight, Tensor norm_bias, Tensor of_channels, bool relu)"
        " -> (Tensor grad_u, Tensor grad_norm_weight, Tensor grad_norm_bias)",
        _fake_backward,
    ),
    results=3,
    layer=True,
)


def batch_norm_relu(
    u: Tensor, norm_weight: Tensor, norm_bias: Tensor, residual: Tensor | None, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y = max(0, (u − E[u]) / √(Var[u] + eps) · norm_weight + norm_bias) + residual.

    On a CUDA device, for :func:`manifold_core.kernels.conv_norm`, which has checked the arguments. In half precision
    the arithmetic is float32, and so are mean and variance.

    Args:
        u: ``[B, C, H, W]``, in any memory format, which y shares.
        norm_weight, norm_bias: ``[C]``, of any floating-point dtype.
        residual: shaped like u, or None for 0. y has the dtype of u + residual.
        eps: as in :class:`torch.nn.BatchNorm2d`.
        relu: False leaves max(0, ·) out.

    Returns:
        y ``[B, C, H, W]``; the mean and the (biased) variance of u, ``[C]``, not differentiable.
    """
    y, mean, variance = OPERATOR("cuda", u, norm_weight, norm_bias, residual, eps, relu)
    return y, mean, variance
