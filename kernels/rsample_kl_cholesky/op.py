"""``rsample_kl_cholesky``: the reparameterised sample and the KL divergence of a Gaussian with full covariance."""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..autograd import empty_gradient
from ..checks import accumulation_dtype, check_first_row, check_flag, check_floating, check_matrix, check_prior
from ..dispatch import Backend, choose
from ..random import draw_seed
from ..registration import Operator, Schema
from . import reference

__all__ = ["rsample_kl_cholesky"]

INPUTS = "Tensor mu, Tensor tril, Tensor? prior_mu, Tensor? prior_log_var, Tensor seed"


def _fake(
    mu: Tensor,
    tril: Tensor,
    prior_mu: Tensor | None,
    prior_log_var: Tensor | None,
    seed: Tensor,
    first_row: int,
    per_dimension: bool,
    with_variance_ratio: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(mu, tril, prior_mu, prior_log_var)
    return (
        mu.new_empty(mu.shape, dtype=torch.promote_types(mu.dtype, tril.dtype)),
        mu.new_empty(mu.shape if per_dimension else mu.shape[:1], dtype=dtype),
        mu.new_empty(mu.shape[1:] if with_variance_ratio else (0,), dtype=dtype),
    )


def _fake_backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mu: Tensor,
    tril: Tensor,
    prior_mu: Tensor | None,
    prior_log_var: Tensor | None,
    seed: Tensor,
    first_row: int,
    with_prior: bool,
) -> tuple[Tensor, ...]:
    return (
        mu.new_empty(mu.shape),
        tril.new_empty(tril.shape),
        empty_gradient(prior_mu, mu, with_prior),
        empty_gradient(prior_log_var, mu, with_prior),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.first_row = inputs[5]
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _backward(
    kernel: Any, ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None, *_: None
) -> tuple[Tensor | None, ...]:
    if grad_z is None and grad_kl is None:
        return (None,) * 8
    with_prior = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
    grad_mu, grad_tril, *grad_prior = kernel(grad_z, grad_kl, *ctx.saved_tensors, ctx.first_row, with_prior)
    return grad_mu, grad_tril, *(grad_prior if with_prior else (None, None)), None, None, None, None


OPERATOR = Operator(
    "rsample_kl_cholesky",
    Schema(
        f"({INPUTS}, SymInt first_row, bool per_dimension, bool with_variance_ratio)"
        " -> (Tensor z, Tensor kl, Tensor variance_ratio)",
        _fake,
    ),
    _setup_context,
    _backward,
    rsample_kl_cholesky_backward=Schema(
        f"(Tensor? grad_z, Tensor? grad_kl, {INPUTS}, SymInt first_row, bool with_prior)"
        " -> (Tensor grad_mu, Tensor grad_tril, Tensor grad_prior_mu, Tensor grad_prior_log_var)",
        _fake_backward,
    ),
    results=3,
)


def _check_packed(mu: Tensor, tril: Tensor) -> None:
    """Raise TypeError or ValueError unless ``tril`` has a packed triangle for each row of ``mu``."""
    check_floating("mu", mu)
    check_floating("tril", tril)
    check_matrix(mu)
    rows, cols = mu.shape
    packed = cols * (cols + 1) // 2
    if tril.shape != (rows, packed):
        raise ValueError(
            f"tril must have shape [B, κ(κ+1)/2], for B = {rows} and κ = {cols} of mu ({rows}, {packed}), "
            f"got {tuple(tril.shape)}{_instead(tril)}"
        )
    if mu.device != tril.device:
        raise ValueError(f"mu and tril must be on the same device, got {mu.device} and {tril.device}")


def _instead(tril: Tensor) -> str:
    """What its length would fit: a triangle of another κ, or none at all."""
    if tril.dim() != 2:
        return ""
    length = tril.shape[1]
    cols = int((2 * length) ** 0.5)
    if cols * (cols + 1) != 2 * length:
        return f"; {length} is no triangular number"
    return f"; {length} numbers are the triangle of κ = {cols}"


@overload
def rsample_kl_cholesky(
    mu: Tensor,
    tril: Tensor,
    prior_mu: Tensor | None = None,
    prior_log_var: Tensor | None = None,
    *,
    per_dimension: bool = False,
    return_variance_ratio: Literal[False] = False,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    first_row: int = 0,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]: ...


@overload
def rsample_kl_cholesky(
    mu: Tensor,
    tril: Tensor,
    prior_mu: Tensor | None = None,
    prior_log_var: Tensor | None = None,
    *,
    per_dimension: bool = False,
    return_variance_ratio: Literal[True],
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    first_row: int = 0,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, Tensor]: ...


@overload
def rsample_kl_cholesky(
    mu: Tensor,
    tril: Tensor,
    prior_mu: Tensor | None = None,
    prior_log_var: Tensor | None = None,
    *,
    per_dimension: bool = False,
    return_variance_ratio: bool,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    first_row: int = 0,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]: ...


def rsample_kl_cholesky(
    mu: Tensor,
    tril: Tensor,
    prior_mu: Tensor | None = None,
    prior_log_var: Tensor | None = None,
    *,
    per_dimension: bool = False,
    return_variance_ratio: bool = False,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    first_row: int = 0,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """z = μ + L ε,  KL[N(μ, L Lᵀ) ‖ N(m, s²)] = ½ Σᵢ ((μᵢ − mᵢ)²/sᵢ² + Σⱼ Lᵢⱼ²/sᵢ² − 1 − log Lᵢᵢ²/sᵢ²),  ε ~ N(0, I).

    L is lower triangular, packed by rows: L₀₀, L₁₀, L₁₁, L₂₀, …, with log Lᵢᵢ instead of each Lᵢᵢ, so that any real
    values give a covariance. The prior is N(0, I), or m = prior_mu and s² = exp(prior_log_var) if given. L is read
    packed, never expanded to κ × κ, and only the arguments are saved for the backward pass.

    The noise is that of :func:`manifold_core.rsample_kl` for the same seed.

    Args:
        mu: ``[B, κ]``; float32, float64, bfloat16 or float16; any strides, read without a copy.
        tril: the packed rows of L, ``[B, κ(κ+1)/2]``, on the device of ``mu``; may have its own dtype. Not clamped.
        prior_mu, prior_log_var: m and log s² of a conditional prior, both or neither: ``[B, κ]``, or ``[κ]`` or
            ``[1, κ]`` for one prior for the whole batch. Each may have its own dtype.
        per_dimension: return the terms of the sum instead of the sum. By the chain rule of the KL, the i-th is the mean
            over q of KL[q(zᵢ | z₀ … zᵢ₋₁) ‖ p(zᵢ)]: what latent i costs once those before it are known. It depends on
            the order of the latents; the sum does not.
        return_variance_ratio: also return the batch mean of Σᵢᵢ/sᵢ², with Σ = L Lᵀ, which is small for an active
            dimension. Not differentiable. It costs no second pass.
        seed: of the noise, an int from 0 to 2⁶³ − 1 or a scalar int64 tensor on the device of ``mu``.
        generator: to draw a seed from if none is given; by default torch's global generator. Activation checkpointing
            rewinds only the global one: with another, give a ``seed``.
        first_row: index of the first row, from 0, if the batch is part of a larger one.
        backend: ``"auto"`` or a name; see :func:`manifold_core.kernels.explain`.

    Returns:
        z, ``[B, κ]``, of the dtype that ``mu + tril`` would have; the KL in nats, ``[B]`` or ``[B, κ]``; if asked
        for, the variance ratio, ``[κ]``, NaN for an empty batch. The last two are float64 if an input is float64, else
        float32. z and KL are once differentiable in all four tensors.

    Raises:
        TypeError: an argument is not a floating-point tensor, a flag not a bool, ``generator`` not a generator.
        ValueError: shapes or devices differ, ``mu`` is not a matrix, ``tril`` is not ``[B, κ(κ+1)/2]``, only half of a
            prior is given, ``first_row`` or the seed is invalid.
        RuntimeError: the named backend cannot serve the call.

    Source: Kingma and Welling, "An Introduction to Variational Autoencoders" (2019), section 2.5.1, with the diagonal
    of L as logarithms.
    """
    tensors, flags = (mu, tril, prior_mu, prior_log_var), (per_dimension, return_variance_ratio)
    if (served := OPERATOR.plain(backend, *tensors, *flags, seed, generator, first_row)) is not None:
        return served
    _check_packed(mu, tril)
    prior_mu, prior_log_var = check_prior(prior_mu, prior_log_var, mu)
    first_row = check_first_row(first_row, mu.shape[0])
    check_flag("per_dimension", per_dimension)
    check_flag("return_variance_ratio", return_variance_ratio)
    seed = draw_seed(seed, generator, mu.device)
    inputs = mu, tril, prior_mu, prior_log_var, seed, first_row, per_dimension, return_variance_ratio
    chosen = choose(backend, mu, tril, prior_mu, prior_log_var)
    run = reference.rsample_kl_cholesky(*inputs) if chosen == "reference" else OPERATOR(chosen, *inputs)
    z, kl, variance_ratio = run
    return (z, kl, variance_ratio) if return_variance_ratio else (z, kl)
