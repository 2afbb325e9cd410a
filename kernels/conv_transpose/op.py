"""``conv_transpose``: the transposed convolution that enlarges images, for few channels."""

from typing import Any

import torch
from torch import Tensor

from ..convolution import check_convolution, check_of_channels, choose_for_images
from ..dispatch import Backend
from ..registration import Operator, Schema
from . import reference

__all__ = ["conv_transpose"]

OPTIONS = "SymInt stride, SymInt padding"


def _size(x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[int, int]:
    """Height and width of y."""
    height, width = ((size - 1) * stride - 2 * padding + weight.shape[2] for size in x.shape[2:])
    return height, width


def _fake(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[1], *_size(x, weight, stride, padding)))


def _fake_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, with_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x) if with_x else x.new_empty(0), torch.empty_like(weight), x.new_empty(weight.shape[1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.options = inputs[3:]
    ctx.set_materialize_grads(False)


def _backward(kernel: Any, ctx: Any, grad_y: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 5
    with_x = ctx.needs_input_grad[0]
    grad_x, *others = kernel(grad_y.contiguous(), *ctx.saved_tensors, *ctx.options, with_x)
    return grad_x if with_x else None, *others, None, None


OPERATOR = Operator(
    "conv_transpose",
    Schema(f"(Tensor x, Tensor weight, Tensor bias, {OPTIONS}) -> (Tensor y)", _fake),
    _setup_context,
    _backward,
    conv_transpose_backward=Schema(
        f"(Tensor grad_y, Tensor x, Tensor weight, {OPTIONS}, bool with_x)"
        " -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)",
        _fake_backward,
    ),
    results=1,
    layer=True,
)


def conv_transpose(
    x: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1, padding: int = 0, backend: Backend = "auto"
) -> Tensor:
    """y = xᵀ ∗ weight + bias: what :class:`torch.nn.ConvTranspose2d` computes.

    The last op of a block of the residual decoder (Appendix A). On the CPU it is in C++, like
    :func:`manifold_core.kernels.conv_norm`.

    Args:
        x: ``[B, C, H, W]``, float32 or float64, B at least 1.
        weight: ``[C, O, k, k]``.
        bias: ``[O]``.
        stride, padding: as in :class:`torch.nn.ConvTranspose2d`.
        backend: ``"auto"``, ``"reference"`` or ``"cpu"``.

    Returns:
        y ``[B, O, (H − 1) stride − 2 padding + k, …]``.

    Raises:
        TypeError, ValueError: an argument has another type or shape than above; names it.
        RuntimeError: the named backend cannot serve the call.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Appendix A.
    """
    check_convolution(x, weight, 0, stride, padding)
    check_of_channels("bias", bias, weight.shape[1])
    if min(_size(x, weight, stride, padding)) < 1:
        raise ValueError(f"x must leave images without the padding, {padding}, got {tuple(x.shape)}")
    if choose_for_images(backend, x, weight, bias) == "reference":
        return reference.conv_transpose(x, weight, bias, stride, padding)
    (y,) = OPERATOR("cpu", x.contiguous(), weight.contiguous(), bias.contiguous(), stride, padding)
    result: Tensor = y
    return result
