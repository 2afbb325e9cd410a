"""``rsample_kl``: the reparameterised sample and the KL divergence of a diagonal Gaussian, in one pass."""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..autograd import empty_gradient
from ..checks import (
    accumulation_dtype,
    check_alike,
    check_first_row,
    check_flag,
    check_matrix,
    check_optional_rows,
    check_prior,
)
from ..dispatch import Backend, choose
from ..random import draw_seed
from ..registration import Operator, Schema
from . import reference

__all__ = ["rsample_kl"]

INPUTS = "Tensor mu, Tensor log_var, Tensor? prior_mu, Tensor? prior_log_var, Tensor? gate_logits, Tensor seed"


def _fake(
    mu: Tensor,
    log_var: Tensor,
    prior_mu: Tensor | None,
    prior_log_var: Tensor | None,
    gate_logits: Tensor | None,
    seed: Tensor,
    first_row: int,
    per_dimension: bool,
    with_variance_ratio: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(mu, log_var, prior_mu, prior_log_var, gate_logits)
    return (
        mu.new_empty(mu.shape, dtype=torch.promote_types(mu.dtype, log_var.dtype)),
        mu.new_empty(mu.shape if per_dimension else mu.shape[:1], dtype=dtype),
        mu.new_empty(mu.shape[1:] if with_variance_ratio else (0,), dtype=dtype),
    )


def _fake_backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mu: Tensor,
    log_var: Tensor,
    prior_mu: Tensor | None,
    prior_log_var: Tensor | None,
    gate_logits: Tensor | None,
    seed: Tensor,
    first_row: int,
    with_prior: bool,
    with_gate: bool,
) -> tuple[Tensor, ...]:
    return (
        mu.new_empty(mu.shape),
        log_var.new_empty(log_var.shape),
        empty_gradient(prior_mu, mu, with_prior),
        empty_gradient(prior_log_var, mu, with_prior),
        empty_gradient(gate_logits, mu, with_gate),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.first_row = inputs[6]
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _backward(
    kernel: Any, ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None, *_: None
) -> tuple[Tensor | None, ...]:
    if grad_z is None and grad_kl is None:
        return (None,) * 9
    wanted = ctx.needs_input_grad
    with_prior, with_gate = wanted[2] or wanted[3], wanted[4]
    found = kernel(grad_z, grad_kl, *ctx.saved_tensors, ctx.first_row, with_prior, with_gate)
    grad_mu, grad_log_var, grad_prior_mu, grad_prior_log_var, grad_gate_logits = found
    prior = (grad_prior_mu, grad_prior_log_var) if with_prior else (None, None)
    return grad_mu, grad_log_var, *prior, grad_gate_logits if with_gate else None, None, None, None, None


OPERATOR = Operator(
    "rsample_kl",
    Schema(
        f"({INPUTS}, SymInt first_row, bool per_dimension, bool with_variance_ratio)"
        " -> (Tensor z, Tensor kl, Tensor variance_ratio)",
        _fake,
    ),
    _setup_context,
    _backward,
    rsample_kl_backward=Schema(
        f"(Tensor? grad_z, Tensor? grad_kl, {INPUTS}, SymInt first_row, bool with_prior, bool with_gate)"
        " -> (Tensor grad_mu, Tensor grad_log_var, Tensor grad_prior_mu, Tensor grad_prior_log_var, Tensor grad_gate)",
        _fake_backward,
    ),
    results=3,
)


@overload
def rsample_kl(
    mu: Tensor,
    log_var: Tensor,
    prior_mu: Tensor | None = None,
    prior_log_var: Tensor | None = None,
    *,
    gate_logits: Tensor | None = None,
    per_dimension: bool = False,
    return_variance_ratio: Literal[False] = False,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    first_row: int = 0,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]: ...


@overload
def rsample_kl(
    mu: Tensor,
    log_var: Tensor,
    prior_mu: Tensor | None = None,
    prior_log_var: Tensor | None = None,
    *,
    gate_logits: Tensor | None = None,
    per_dimension: bool = False,
    return_variance_ratio: Literal[True],
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    first_row: int = 0,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, Tensor]: ...


@overload
def rsample_kl(
    mu: Tensor,
    log_var: Tensor,
    prior_mu: Tensor | None = None,
    prior_log_var: Tensor | None = None,
    *,
    gate_logits: Tensor | None = None,
    per_dimension: bool = False,
    return_variance_ratio: bool,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    first_row: int = 0,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]: ...


def rsample_kl(
    mu: Tensor,
    log_var: Tensor,
    prior_mu: Tensor | None = None,
    prior_log_var: Tensor | None = None,
    *,
    gate_logits: Tensor | None = None,
    per_dimension: bool = False,
    return_variance_ratio: bool = False,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    first_row: int = 0,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """z = (μ + σ ⊙ ε) ⊙ w,  KL[N(μ, σ²) ‖ N(m, s²)] = ½ Σⱼ ((μⱼ − mⱼ)²/sⱼ² + σⱼ²/sⱼ² − 1 − log σⱼ²/sⱼ²),  ε ~ N(0, I).

    σ² = exp(log_var); the prior is N(0, I), or m = prior_mu and s² = exp(prior_log_var) if given; w = 1, or
    sigmoid(gate_logits) if given: attention that switches latent dimensions and leaves the KL as it is.

    The noise of an element is a pure function of (seed, row, column): the same on every backend, for any number of
    threads and any split of the batch. It is not stored; the backward pass generates it again.

    Args:
        mu: ``[B, κ]``; float32, float64, bfloat16 or float16; any strides, read without a copy.
        log_var: log σ², with the shape and device of ``mu``. Not clamped.
        prior_mu, prior_log_var: m and log s² of a conditional prior, both or neither: ``[B, κ]``, or ``[κ]`` or
            ``[1, κ]`` for one prior for the whole batch. Each may have its own dtype.
        gate_logits: attention logits, in one of the same shapes.
        per_dimension: return the KL of each latent dimension instead of their sum.
        return_variance_ratio: also return the batch mean of σ²/s² per dimension, small for an active dimension.
            Not differentiable. It costs no second pass.
        seed: of the noise, an int from 0 to 2⁶³ − 1 or a scalar int64 tensor on the device of ``mu``.
        generator: to draw a seed from if none is given; by default torch's global generator. Activation checkpointing
            rewinds only the global one: with another, give a ``seed``.
        first_row: index of the first row, from 0, if the batch is part of a larger one.
        backend: ``"auto"`` or a name; see :func:`manifold_core.kernels.explain`.

    Returns:
        z, ``[B, κ]``, of the dtype that ``mu + log_var`` would have; the KL in nats, ``[B]`` or ``[B, κ]``; if asked
        for, the variance ratio, ``[κ]``, NaN for an empty batch. The last two are float64 if an input is float64, else
        float32. z and KL are once differentiable in all five tensors.

    Raises:
        TypeError: an argument is not a floating-point tensor, a flag not a bool, ``generator`` not a generator.
        ValueError: shapes or devices differ, ``mu`` is not a matrix, only half of a prior is given, ``first_row`` or
            the seed is invalid.
        RuntimeError: the named backend cannot serve the call.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Definitions 1, 4, 5; section 4.4
    (gate).
    """
    tensors, flags = (mu, log_var, prior_mu, prior_log_var, gate_logits), (per_dimension, return_variance_ratio)
    if (served := OPERATOR.plain(backend, *tensors, *flags, seed, generator, first_row)) is not None:
        return served
    check_alike("mu", mu, "log_var", log_var)
    check_matrix(mu)
    prior_mu, prior_log_var = check_prior(prior_mu, prior_log_var, mu)
    if gate_logits is not None:
        gate_logits = check_optional_rows("gate_logits", gate_logits, mu)
    first_row = check_first_row(first_row, mu.shape[0])
    check_flag("per_dimension", per_dimension)
    check_flag("return_variance_ratio", return_variance_ratio)
    seed = draw_seed(seed, generator, mu.device)
    inputs = mu, log_var, prior_mu, prior_log_var, gate_logits, seed, first_row, per_dimension, return_variance_ratio
    chosen = choose(backend, mu, log_var, prior_mu, prior_log_var, gate_logits)
    z, kl, variance_ratio = reference.rsample_kl(*inputs) if chosen == "reference" else OPERATOR(chosen, *inputs)
    return (z, kl, variance_ratio) if return_variance_ratio else (z, kl)
