"""``rsample_kl``: the reparameterised sample and the KL divergence of a diagonal Gaussian, in one pass."""

from typing import Any

import torch
from torch import Tensor

from ..checks import accumulation_dtype, check_alike
from ..dispatch import choose
from ..random import draw_seed
from ..registration import differentiable
from . import reference

__all__ = ["rsample_kl"]


def _fake(mu: Tensor, log_var: Tensor, seed: Tensor, first_row: int, per_dimension: bool) -> tuple[Tensor, Tensor]:
    shape = mu.shape if per_dimension else mu.shape[:1]
    return mu.new_empty(mu.shape), mu.new_empty(shape, dtype=accumulation_dtype(mu, log_var))


def _fake_backward(
    grad_z: Tensor | None, grad_kl: Tensor | None, mu: Tensor, log_var: Tensor, seed: Tensor, first_row: int
) -> tuple[Tensor, Tensor]:
    return mu.new_empty(mu.shape), log_var.new_empty(log_var.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    mu, log_var, seed, first_row, _ = inputs
    ctx.save_for_backward(mu, log_var, seed)
    ctx.first_row = first_row
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_z is None and grad_kl is None:
        return (None,) * 5
    mu, log_var, seed = ctx.saved_tensors
    gradients = torch.ops.manifold_core.rsample_kl_backward.default(grad_z, grad_kl, mu, log_var, seed, ctx.first_row)
    return *gradients, None, None, None


_compiled = differentiable("rsample_kl", _fake, _setup_context, _backward, _fake_backward)


def rsample_kl(
    mu: Tensor,
    log_var: Tensor,
    *,
    per_dimension: bool = False,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    first_row: int = 0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """z = μ + σ ⊙ ε,  KL[N(μ, σ²) ‖ N(0, I)] = ½ Σⱼ (μⱼ² + σⱼ² − 1 − log σⱼ²),  with ε ~ N(0, I) and σ² = exp(log_var).

    The noise of an element is a pure function of (seed, row, column): the same on every backend, for any number of
    threads and any split of the batch. It is not stored; the backward pass makes it again.

    Args:
        mu: ``[B, κ]``; float32, float64, bfloat16 or float16; any strides, read without a copy.
        log_var: log σ², of the shape, dtype and device of ``mu``. Not clamped.
        per_dimension: return the KL of each latent dimension instead of their sum.
        seed: of the noise, an int from 0 to 2⁶³ − 1 or an int64 tensor of no dimensions on the device of ``mu``.
        generator: where a seed is drawn from when none is given; torch's global generator when this is None, too.
        first_row: number of the first row, for a batch that is part of a larger one.
        backend: ``"auto"``, ``"reference"`` or ``"cpu"``; see :func:`manifold_core.kernels.explain`.

    Returns:
        z, ``[B, κ]`` of the dtype of ``mu``, and the KL in nats, ``[B]`` or ``[B, κ]``: float64 for float64 input, else
        float32. Both are differentiable in ``mu`` and ``log_var``, once.

    Raises:
        TypeError: an argument is no floating-point tensor, or their dtypes differ.
        ValueError: shapes or devices differ, ``mu`` is no matrix, ``first_row`` is negative, or the seed is invalid.
        RuntimeError: the named backend cannot serve the call.

    Source: "Learning Manifold Dimensions with Conditional VAEs", Definition 1 and equation (1).
    """
    check_alike("mu", mu, "log_var", log_var)
    if mu.dtype != log_var.dtype:
        raise TypeError(f"mu and log_var must have the same dtype, got {mu.dtype} and {log_var.dtype}")
    if mu.dim() != 2:
        raise ValueError(f"mu must have shape [B, κ], got {tuple(mu.shape)}")
    if first_row < 0:
        raise ValueError(f"first_row must not be negative, got {first_row}")
    seed = draw_seed(seed, generator, mu.device)
    run = _compiled if choose(backend, mu, log_var) == "cpu" else reference.rsample_kl
    return run(mu, log_var, seed, first_row, per_dimension)
