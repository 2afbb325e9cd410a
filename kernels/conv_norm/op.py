"""``conv_norm``: a convolution without bias, batch normalisation over the batch and a ReLU, as one op."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from ..batch_norm_relu import batch_norm_relu
from ..checks import check_flag, check_floating, real
from ..convolution import check_convolution, check_of_channels, choose_for_images
from ..dispatch import Backend
from ..registration import Operator, Schema
from . import reference

__all__ = ["BACKENDS", "conv_norm"]

BACKENDS: tuple[Backend, ...] = ("cpu", "cuda")  # that have kernels
INPUTS = "Tensor x, Tensor weight, Tensor norm_weight, Tensor norm_bias"
OPTIONS = "SymInt stride, SymInt padding, float eps, bool relu"


def _shape(x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[int, int, int, int]:
    """The shape of y."""
    height, width = ((size + 2 * padding - weight.shape[2]) // stride + 1 for size in x.shape[2:])
    return x.shape[0], weight.shape[0], height, width


def _fake(
    x: Tensor,
    weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    residual: Tensor | None,
    stride: int,
    padding: int,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y = x.new_empty(_shape(x, weight, stride, padding))
    return y, torch.empty_like(norm_weight), torch.empty_like(norm_weight), torch.empty_like(y)


def _fake_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    u: Tensor,
    stride: int,
    padding: int,
    eps: float,
    relu: bool,
    with_x: bool,
) -> tuple[Tensor, ...]:
    grad_x = torch.empty_like(x) if with_x else x.new_empty(0)
    return grad_x, torch.empty_like(weight), torch.empty_like(norm_weight), torch.empty_like(norm_bias)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, mean, variance, u = output
    ctx.save_for_backward(*inputs[:4], mean, variance, u)
    ctx.options = inputs[5:]
    ctx.mark_non_differentiable(mean, variance, u)
    ctx.set_materialize_grads(False)


def _backward(kernel: Any, ctx: Any, grad_y: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 9
    with_x, with_residual = ctx.needs_input_grad[0], ctx.needs_input_grad[4]
    grad_x, *others = kernel(grad_y.contiguous(), *ctx.saved_tensors, *ctx.options, with_x)
    return grad_x if with_x else None, *others, grad_y if with_residual else None, None, None, None, None


OPERATOR = Operator(
    "conv_norm",
    Schema(f"({INPUTS}, Tensor? residual, {OPTIONS}) -> (Tensor y, Tensor mean, Tensor variance, Tensor u)", _fake),
    _setup_context,
    _backward,
    conv_norm_backward=Schema(
        f"(Tensor grad_y, {INPUTS}, Tensor mean, Tensor variance, Tensor u, {OPTIONS}, bool with_x)"
        " -> (Tensor grad_x, Tensor grad_weight, Tensor grad_norm_weight, Tensor grad_norm_bias)",
        _fake_backward,
    ),
    results=3,
    layer=True,
)


def conv_norm(
    x: Tensor,
    weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    residual: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    eps: float = 1e-5,
    relu: bool = True,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """y = max(0, (u − E[u]) / √(Var[u] + eps) · norm_weight + norm_bias) + residual,  u = x ∗ weight.

    The building block of the residual networks (Appendix A), in training mode: mean and variance are those of the
    batch, per channel. On the CPU it is one op in C++, which keeps samples in SIMD lanes: ``"auto"`` takes it for
    batches of few channels. Its results do not depend on the number of threads. On a CUDA device our kernels follow
    PyTorch's convolution; they take any memory format, and x as autocast casts it.

    Args:
        x: ``[B, C, H, W]``, B at least 1; on the CPU float32 or float64.
        weight: ``[O, C, k, k]``.
        norm_weight, norm_bias: ``[O]``.
        residual: shaped like y, or None for 0.
        stride, padding: as in :class:`torch.nn.Conv2d`.
        eps: as in :class:`torch.nn.BatchNorm2d`.
        relu: False leaves max(0, ·) out.
        backend: ``"auto"``, ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        y ``[B, O, H', W']``; the mean and the (biased) variance of u, ``[O]``, not differentiable; float32 if
        u is in half precision.

    Raises:
        TypeError, ValueError: an argument has another type or shape than above; names it.
        RuntimeError: the named backend cannot serve the call.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Appendix A.
    """
    check_convolution(x, weight, 1, stride, padding)
    check_of_channels("norm_weight", norm_weight, weight.shape[0])
    check_of_channels("norm_bias", norm_bias, weight.shape[0])
    check_flag("relu", relu)
    eps = real("eps", eps)
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be finite and at least 0, got {eps!r}")
    kernel, shape = weight.shape[2], _shape(x, weight, stride, padding)
    if min(shape[1:]) < 1:
        raise ValueError(f"x must have images of at least the {kernel} × {kernel} of weight, got {tuple(x.shape)}")
    if shape[0] * shape[2] * shape[3] < 2:
        raise ValueError(f"x must give more than one value per channel, whose variance is taken, got {tuple(x.shape)}")
    if residual is not None:
        check_floating("residual", residual)
        if residual.shape != shape:
            raise ValueError(f"residual must have the shape of y, {shape}, got {tuple(residual.shape)}")
    tensors = (x, weight, norm_weight, norm_bias)
    others = tensors if residual is None else (*tensors, residual)
    chosen = choose_for_images(backend, *others, backends=BACKENDS)
    if chosen == "cuda":
        u = conv2d(x, weight, stride=stride, padding=padding)
        return batch_norm_relu(u, norm_weight, norm_bias, residual, eps, relu)
    if chosen == "reference":
        return reference.conv_norm(*tensors, residual, stride, padding, eps, relu)
    dense = (None if tensor is None else tensor.contiguous() for tensor in (*tensors, residual))
    y, mean, variance = OPERATOR("cpu", *dense, stride, padding, eps, relu)
    return y, mean, variance
