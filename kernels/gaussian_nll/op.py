"""``gaussian_nll``: the reconstruction term of a Gaussian decoder with scalar variance γ."""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..batch_sums import mean_of_batch
from ..checks import accumulation_dtype, check_alike, check_flag, check_floating, real
from ..dispatch import Backend, choose
from ..registration import Operator, Schema
from . import reference

__all__ = ["gaussian_nll", "gradients", "prepare"]


def _fake(x_hat: Tensor, x: Tensor, log_gamma: Tensor) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(x_hat, x)
    return x_hat.new_empty(x_hat.shape[:1], dtype=dtype), x_hat.new_empty(x_hat.shape[:1], dtype=dtype)


def _fake_backward(
    grad_nll: Tensor | None,
    grad_squared_error: Tensor | None,
    x_hat: Tensor,
    x: Tensor,
    log_gamma: Tensor,
    squared_error: Tensor,
) -> tuple[Tensor, Tensor]:
    return x_hat.new_empty(x_hat.shape), torch.empty_like(log_gamma)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x_hat, x, log_gamma = inputs
    _, squared_error = output
    ctx.save_for_backward(x_hat, x, log_gamma, squared_error)
    ctx.set_materialize_grads(False)


def _backward(
    kernel: Any, ctx: Any, grad_nll: Tensor | None, grad_squared_error: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_nll is None and grad_squared_error is None:
        return None, None, None
    x_hat, x, log_gamma, squared_error = ctx.saved_tensors
    return gradients(
        kernel, grad_nll, grad_squared_error, x_hat, x, log_gamma, squared_error, with_data=ctx.needs_input_grad[1]
    )


def gradients(
    kernel: Any,
    grad_nll: Tensor | None,
    grad_squared_error: Tensor | None,
    x_hat: Tensor,
    x: Tensor,
    log_gamma: Tensor,
    squared_error: Tensor,
    with_data: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Those of x_hat, of x if wanted, and of log_gamma, by that kernel."""
    incoming, rest = (grad_nll, grad_squared_error), (log_gamma, squared_error)
    grad_x_hat, grad_log_gamma = kernel(*incoming, x_hat, x, *rest)
    if not with_data:
        return grad_x_hat, None, grad_log_gamma
    if x.dtype == x_hat.dtype:
        return grad_x_hat, -grad_x_hat, grad_log_gamma
    return grad_x_hat, kernel(*incoming, x, x_hat, *rest)[0], grad_log_gamma  # not rounded to the dtype of x_hat


OPERATOR = Operator(
    "gaussian_nll",
    Schema("(Tensor x_hat, Tensor x, Tensor log_gamma) -> (Tensor nll, Tensor squared_error)", _fake),
    _setup_context,
    _backward,
    gaussian_nll_backward=Schema(
        "(Tensor? grad_nll, Tensor? grad_squared_error, Tensor x_hat, Tensor x, Tensor log_gamma, Tensor squared_error)"
        " -> (Tensor grad_x_hat, Tensor grad_log_gamma)",
        _fake_backward,
    ),
)


def _as_matrices(x_hat: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """``[B, d]`` views if possible. Sums over features may take any order: channels-last images keep theirs."""
    if x_hat.dim() == 2:
        return x_hat, x
    if x_hat.stride() == x.stride():
        order = sorted(range(1, x_hat.dim()), key=x_hat.stride, reverse=True)
        x_hat, x = x_hat.permute(0, *order), x.permute(0, *order)
    features = x_hat.shape[1:].numel()
    return x_hat.reshape(x_hat.shape[0], features), x.reshape(x.shape[0], features)


def prepare(x_hat: Tensor, x: Tensor, log_gamma: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments, checked, as two matrices and a scalar tensor."""
    check_alike("x_hat", x_hat, "x", x)
    if x_hat.dim() < 2:
        raise ValueError(f"x_hat must have shape [B, ...] with a feature dimension, got {tuple(x_hat.shape)}")
    if not isinstance(log_gamma, Tensor):
        number = real("log_gamma", log_gamma, "a real number or a floating-point tensor")
        if torch.compiler.is_compiling():  # to torch.full it is a constant: each value would compile anew
            log_gamma = torch.zeros((), dtype=torch.float64, device=x_hat.device) + number
        else:
            log_gamma = torch.full((), number, dtype=torch.float64, device=x_hat.device)
    else:
        check_floating("log_gamma", log_gamma)
        if log_gamma.numel() != 1:
            raise ValueError(f"log_gamma must be one number, got shape {tuple(log_gamma.shape)}")
        if log_gamma.device != x_hat.device:
            raise ValueError(f"log_gamma must be on the device of x_hat, {x_hat.device}, got {log_gamma.device}")
        if log_gamma.dim() != 0:
            log_gamma = log_gamma.reshape(())
        if log_gamma.dtype not in (torch.float32, torch.float64):
            log_gamma = log_gamma.float()
    return *_as_matrices(x_hat, x), log_gamma


@overload
def gaussian_nll(
    x_hat: Tensor,
    x: Tensor,
    log_gamma: Tensor | float | None,
    *,
    return_squared_error: Literal[False] = False,
    backend: Backend = "auto",
) -> Tensor: ...


@overload
def gaussian_nll(
    x_hat: Tensor,
    x: Tensor,
    log_gamma: Tensor | float | None,
    *,
    return_squared_error: Literal[True],
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]: ...


@overload
def gaussian_nll(
    x_hat: Tensor,
    x: Tensor,
    log_gamma: Tensor | float | None,
    *,
    return_squared_error: bool,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, Tensor]: ...


def gaussian_nll(
    x_hat: Tensor,
    x: Tensor,
    log_gamma: Tensor | float | None,
    *,
    return_squared_error: bool = False,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """−log N(x; x̂, γI) = ½ (‖x − x̂‖² / γ + d log 2πγ)  per sample, with γ = exp(log_gamma) the decoder VARIANCE.

    Args:
        x_hat: ``[B, ...]``, the decoder's mean; features are summed over all dimensions but the first. float32,
            float64, bfloat16 or float16; any strides. With more than two dimensions (images), it is copied unless it is
            contiguous or channels-last and has the strides of ``x``.
        x: the data, of the same shape and device; another floating-point dtype is allowed.
        log_gamma: log γ, a one-element tensor (differentiable) or a float (fixed). Not clamped. None takes the optimum
            for the batch, γ = Σ_b ‖x_b − x̂_b‖² / (B d), differentiated through; without any error there is no optimum,
            and nll is NaN.
        return_squared_error: also return ‖x − x̂‖² of each sample.
        backend: ``"auto"`` or a name; see :func:`manifold_core.kernels.explain`.

    Returns:
        nll in nats, ``[B]``, and with ``return_squared_error`` the squared error, ``[B]``: float64 if an input is
        float64, else float32. Once differentiable in ``x_hat``, ``x`` and ``log_gamma``.

    Raises:
        TypeError: an argument is not a floating-point tensor, or ``return_squared_error`` not a bool.
        ValueError: shapes or devices differ, there is no feature dimension, or ``log_gamma`` is not one number.
        RuntimeError: the named backend cannot serve the call.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Definition 1 and equation (1).
    """
    if (served := OPERATOR.plain(backend, x_hat, x, log_gamma, return_squared_error)) is not None:
        return served
    check_flag("return_squared_error", return_squared_error)
    inputs = prepare(x_hat, x, 0.0 if log_gamma is None else log_gamma)
    chosen = choose(backend, *inputs[:2])
    nll, squared_error = reference.gaussian_nll(*inputs) if chosen == "reference" else OPERATOR(chosen, *inputs)
    if log_gamma is None:
        features = inputs[0].shape[1]
        best = reference.optimal_log_gamma(mean_of_batch(squared_error), features)
        nll = reference.nll_of(squared_error, features, best)
    return (nll, squared_error) if return_squared_error else nll
