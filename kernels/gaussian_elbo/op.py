"""``gaussian_elbo``: reconstruction term and batch mean of the whole loss, its gradients written in the same pass."""

from typing import Any

import torch
from torch import Tensor

from ..checks import accumulation_dtype, check_floating, check_of_samples, real
from ..dispatch import Backend, choose
from ..gaussian_nll.op import gradients, prepare
from ..registration import Operator, Schema
from . import reference

__all__ = ["gaussian_elbo"]

# In half precision a gradient must be scaled before it is rounded, so it cannot be written before its scale is known.
EARLY_GRADIENT_DTYPES = (torch.float32, torch.float64)


def _fake(
    x_hat: Tensor, x: Tensor, log_gamma: Tensor, kl: Tensor, beta: float, with_gradients: bool
) -> tuple[Tensor, ...]:
    rows, cols = x_hat.shape
    nll = x_hat.new_empty((rows,), dtype=accumulation_dtype(x_hat, x))
    grad_x_hat = x_hat.new_empty((rows if with_gradients else 0, cols))
    return nll.new_empty(()), nll, nll.new_empty((rows,)), grad_x_hat, torch.empty_like(log_gamma), nll.new_empty(())


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x_hat, x, log_gamma, _, ctx.beta, with_gradients = inputs
    _, _, squared_error, *early = output
    ctx.save_for_backward(x_hat, x, log_gamma, squared_error)
    # Not saved with the rest: the caller gets them, and may write to them; a second backward pass computes them anew.
    ctx.early = early if with_gradients else None
    ctx.mark_non_differentiable(*early)
    ctx.set_materialize_grads(False)


def _backward(
    kernel: Any,
    scale: Any,
    ctx: Any,
    grad_loss: Tensor | None,
    grad_nll: Tensor | None,
    grad_squared_error: Tensor | None,
    *_: None,
) -> tuple[Tensor | None, ...]:
    x_hat, x, log_gamma, squared_error = ctx.saved_tensors
    rows = squared_error.shape[0]
    early, ctx.early = ctx.early, None
    # They have no graph, so a second derivative cannot use them.
    usable = early is not None and not torch.is_grad_enabled()
    if usable and grad_loss is not None and grad_nll is None and grad_squared_error is None:
        grad_x_hat, grad_log_gamma, grad_kl = _scaled(scale, early, grad_loss)
        grad_kl = grad_kl.expand(rows)
        grad_x = -grad_x_hat if ctx.needs_input_grad[1] else None
    else:
        grad_kl = None
        if grad_loss is not None:
            mean = (grad_loss / max(rows, 1)).expand(rows)
            grad_kl = mean * ctx.beta
            grad_nll = mean if grad_nll is None else grad_nll + mean
        if grad_nll is None and grad_squared_error is None:
            return (None,) * 6
        grad_x_hat, grad_x, grad_log_gamma = gradients(
            kernel, grad_nll, grad_squared_error, x_hat, x, log_gamma, squared_error, with_data=ctx.needs_input_grad[1]
        )
    return grad_x_hat, grad_x, grad_log_gamma, grad_kl, None, None


def _scaled(scale: Any, early: list[Tensor], grad_loss: Tensor) -> list[Tensor]:
    """The gradients of the loss, written in the forward pass and not yet returned, times ``grad_loss``.

    ``loss.backward()`` starts from 1, which needs no product. On the CPU it is read here, at no cost; on a GPU the
    kernel reads it, and then writes nothing. Several gradients at once, by ``is_grads_batched`` or torch.func, have no
    single value.
    """
    plain = type(grad_loss) is Tensor and not torch.compiler.is_compiling() and not grad_loss.is_neg()
    if plain and not (
        torch._C._functorch.is_legacy_batchedtensor(grad_loss) or torch._C._are_functorch_transforms_active()
    ):
        if grad_loss.is_cuda:
            scale(*early, grad_loss)
            return early
        if grad_loss.is_cpu and grad_loss.item() == 1:
            return early
    return [gradient * grad_loss for gradient in early]


OPERATOR = Operator(
    "gaussian_elbo",
    Schema(
        "(Tensor x_hat, Tensor x, Tensor log_gamma, Tensor kl, float beta, bool with_gradients)"
        " -> (Tensor loss, Tensor nll, Tensor squared_error, Tensor grad_x_hat, Tensor grad_log_gamma, Tensor grad_kl)",
        _fake,
    ),
    _setup_context,
    _backward,
    gaussian_nll_backward=None,  # defined by gaussian_nll
    gaussian_elbo_scale=Schema(
        "(Tensor(a!) grad_x_hat, Tensor(b!) grad_log_gamma, Tensor(c!) grad_kl, Tensor grad_loss) -> ()", None
    ),
    results=3,
)


def gaussian_elbo(
    x_hat: Tensor, x: Tensor, log_gamma: Tensor | float, kl: Tensor, *, beta: float = 1.0, backend: Backend = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """loss = (1/B) Σ_b (nll_b + β kl_b),  nll_b = ½ (‖x − x̂‖² / γ + d log 2πγ),  with γ = exp(log_gamma).

    The same results as :func:`manifold_core.gaussian_nll` and a mean, in one pass over x and x̂, which also writes the
    gradients if they may be asked for. The mean is summed in one order, whatever the number of threads.

    Args:
        x_hat, x, log_gamma, backend: as in :func:`manifold_core.gaussian_nll`.
        kl: ``[B]``, from :func:`manifold_core.rsample_kl`.
        beta: weight of the KL, a number; a tensor, which would get no gradient, is refused.

    Returns:
        loss ``[]`` in nats, NaN for an empty batch; nll ``[B]``; the squared error ‖x − x̂‖² ``[B]``. All are
        differentiable in ``x_hat``, ``x`` and ``log_gamma``, the loss also in ``kl``; once.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`manifold_core.gaussian_nll`; ``kl`` is not ``[B]`` or ``beta``
            is no number.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", equation (1).
    """
    if (served := OPERATOR.plain(backend, x_hat, x, log_gamma, kl, beta)) is not None:
        return served
    x_hat, x, log_gamma = prepare(x_hat, x, log_gamma)
    beta = real("beta", beta)
    check_floating("kl", kl)
    check_of_samples("kl", kl, x_hat)
    chosen = choose(backend, x_hat, x, kl)
    if chosen == "reference":
        return reference.gaussian_elbo(x_hat, x, log_gamma, kl, beta)
    dtype = accumulation_dtype(x_hat, x)
    if kl.dtype != dtype:
        kl = kl.to(dtype)
    if torch.compiler.is_compiling():
        kl, beta = beta * kl, 1.0  # to an operator a float is a constant: each β would compile anew
    wanted = torch.is_grad_enabled() and x_hat.requires_grad and x_hat.dtype in EARLY_GRADIENT_DTYPES
    wanted = wanted and not torch._C._are_functorch_transforms_active()  # whose gradients may be differentiated again
    with_gradients = wanted and (x.dtype == x_hat.dtype or not x.requires_grad)
    loss, nll, squared_error = OPERATOR(chosen, x_hat, x, log_gamma, kl, beta, with_gradients)
    return loss, nll, squared_error
