"""``rsample_kl`` in Triton: one launch forward, one backward; each tensor is read or written once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..triton_launch import (
    WARPS,
    arithmetic,
    most_registers,
    optional_gradient,
    strided,
    tile_elements,
    tile_shape,
)
from ..triton_math import logistic, noise, read_tile, times_exp_minus_1, variance_terms, write
from ..triton_sums import add_to_rows, batch_sum, finish_sums, split_batch, store_sums, write_or_sum

__all__ = ["rsample_kl", "rsample_kl_backward"]


@triton.jit(do_not_specialize=["first_row", "rows", "rows_each", "group_size"])
def forward_kernel(
    mu_ptr,  # [rows, cols]
    mu_row_stride,
    mu_col_stride,
    log_var_ptr,  # [rows, cols]
    log_var_row_stride,
    log_var_col_stride,
    prior_mu_ptr,  # [rows, cols], [1, cols] with row stride 0, or None
    prior_mu_row_stride,
    prior_mu_col_stride,
    prior_log_var_ptr,  # the same; None together
    prior_log_var_row_stride,
    prior_log_var_col_stride,
    gate_ptr,  # [rows, cols], [1, cols] with row stride 0, or None
    gate_row_stride,
    gate_col_stride,
    seed_ptr,  # []
    z_ptr,  # [rows, cols], dense
    kl_ptr,  # [rows], or [rows, cols], dense
    ratio_ptr,  # [cols], or None
    partial_ptr,  # [programs + groups, cols] float64, or None
    counter_ptr,  # [groups + 1], or None
    group_size,
    first_row: tl.int64,
    rows: tl.int64,
    cols,
    rows_each,
    PER_DIMENSION: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    seed = tl.load(seed_ptr)
    begin = tl.program_id(0).to(tl.int64) * rows_each
    for first_col in range(0, cols, COLS):
        col = first_col + tl.arange(0, COLS)[None, :].to(tl.int64)
        # That of one sample may be too large for float32, and not on average.
        ratio = tl.zeros([ROWS, COLS], tl.float64)
        for start in range(0, rows_each, ROWS):
            row = begin + start + tl.arange(0, ROWS)[:, None]
            inside = (row < rows) & (col < cols)
            mu = read_tile(mu_ptr, mu_row_stride, mu_col_stride, row, col, inside, ARITHMETIC)
            log_var = read_tile(log_var_ptr, log_var_row_stride, log_var_col_stride, row, col, inside, ARITHMETIC)
            distance, prior_log_var = mu, None
            if prior_mu_ptr is not None:
                distance = mu - read_tile(
                    prior_mu_ptr, prior_mu_row_stride, prior_mu_col_stride, row, col, inside, ARITHMETIC
                )
                prior_log_var = read_tile(
                    prior_log_var_ptr, prior_log_var_row_stride, prior_log_var_col_stride, row, col, inside, ARITHMETIC
                )
            sigma, root, _, kl_of_variances, inv_prior_sigma = variance_terms(log_var, prior_log_var)
            eps = noise(seed, first_row + begin + start, first_col, ROWS, COLS, ARITHMETIC)
            z = mu + sigma * eps
            if gate_ptr is not None:
                gate = read_tile(gate_ptr, gate_row_stride, gate_col_stride, row, col, inside, ARITHMETIC)
                w, _ = logistic(gate)
                z *= w
            write(z_ptr + row * cols + col, z, inside)
            scaled = distance * inv_prior_sigma
            kl = 0.5 * scaled * scaled + kl_of_variances  # half of a square may be in range though it is not
            if PER_DIMENSION:
                tl.store(kl_ptr + row * cols + col, kl, mask=inside)
            else:
                add_to_rows(kl_ptr, tl.where(inside, kl, 0.0), begin + start, rows, first_col)
            if ratio_ptr is not None:
                wide = tl.where(inside, root, 0.0).to(tl.float64)
                ratio += wide * wide
        if ratio_ptr is not None:
            store_sums(partial_ptr, first_col, cols, ratio, None, None, COLS)
        tl.debug_barrier()  # the sums of the rows are read again for the next columns, by other threads
    if ratio_ptr is not None:
        finish_sums(partial_ptr, counter_ptr, group_size, cols, rows.to(ARITHMETIC), ratio_ptr, None, None, ROWS, COLS)


def rsample_kl(
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
    """z, kl and the variance ratio."""
    rows, cols = mu.shape
    dtype, triton_dtype = arithmetic(mu, log_var, prior_mu, prior_log_var, gate_logits)
    z = torch.empty(rows, cols, dtype=torch.promote_types(mu.dtype, log_var.dtype), device=mu.device)
    kl = z.new_empty((rows, cols) if per_dimension else (rows,), dtype=dtype)
    ratio = z.new_empty(cols if with_variance_ratio else 0, dtype=dtype)
    if rows == 0 or cols == 0:
        return z, kl.zero_(), ratio.fill_(torch.nan)
    optional = prior_mu is not None or gate_logits is not None or with_variance_ratio
    tile_rows, tile_width = tile_shape(cols, tile_elements(dtype))
    batch = split_batch(rows, tile_rows, with_variance_ratio)
    forward_kernel[(batch.programs,)](
        *strided(mu, rows),
        *strided(log_var, rows),
        *strided(prior_mu, rows),
        *strided(prior_log_var, rows),
        *strided(gate_logits, rows),
        seed_ptr=seed,
        z_ptr=z,
        kl_ptr=kl,
        ratio_ptr=ratio if with_variance_ratio else None,
        **batch_sum(z, batch.programs if with_variance_ratio else 0, cols, torch.float64),
        first_row=first_row,
        rows=rows,
        cols=cols,
        rows_each=batch.rows,
        PER_DIMENSION=per_dimension,
        ARITHMETIC=triton_dtype,
        ROWS=tile_rows,
        COLS=tile_width,
        num_warps=WARPS,
        maxnreg=most_registers(dtype, mu, log_var, prior_mu, prior_log_var, gate_logits) if optional else None,
    )
    return z, kl, ratio


@triton.jit(do_not_specialize=["first_row", "rows", "rows_each", "group_size"])
def backward_kernel(
    grad_z_ptr,  # [rows, cols], or None
    grad_z_row_stride,
    grad_z_col_stride,
    grad_kl_ptr,  # [rows, cols], [rows] with column stride 0, or None
    grad_kl_row_stride,
    grad_kl_col_stride,
    mu_ptr,  # [rows, cols]
    mu_row_stride,
    mu_col_stride,
    log_var_ptr,  # [rows, cols]
    log_var_row_stride,
    log_var_col_stride,
    prior_mu_ptr,  # [rows, cols], [1, cols] with row stride 0, or None
    prior_mu_row_stride,
    prior_mu_col_stride,
    prior_log_var_ptr,  # the same; None together
    prior_log_var_row_stride,
    prior_log_var_col_stride,
    gate_ptr,  # [rows, cols], [1, cols] with row stride 0, or None
    gate_row_stride,
    gate_col_stride,
    seed_ptr,  # []
    grad_mu_ptr,  # [rows, cols], dense
    grad_log_var_ptr,  # [rows, cols], dense
    grad_prior_mu_ptr,  # [rows, cols], dense, [cols] if it is summed, or None if it is not wanted
    grad_prior_log_var_ptr,  # the same
    grad_gate_ptr,  # the same
    partial_ptr,  # [programs + groups, SUMS cols], or None
    counter_ptr,  # [groups + 1], or None
    group_size,
    first_row: tl.int64,
    rows: tl.int64,
    cols,
    rows_each,
    SUM_PRIOR_MU: tl.constexpr,
    SUM_PRIOR_LOG_VAR: tl.constexpr,
    SUM_GATE: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    seed = tl.load(seed_ptr)
    begin = tl.program_id(0).to(tl.int64) * rows_each
    for first_col in range(0, cols, COLS):
        col = first_col + tl.arange(0, COLS)[None, :].to(tl.int64)
        sum_prior_mu = tl.zeros([ROWS, COLS], ARITHMETIC)
        sum_prior_log_var = tl.zeros([ROWS, COLS], ARITHMETIC)
        sum_gate = tl.zeros([ROWS, COLS], ARITHMETIC)
        for start in range(0, rows_each, ROWS):
            row = begin + start + tl.arange(0, ROWS)[:, None]
            inside = (row < rows) & (col < cols)
            dense = row * cols + col
            mu = read_tile(mu_ptr, mu_row_stride, mu_col_stride, row, col, inside, ARITHMETIC)
            log_var = read_tile(log_var_ptr, log_var_row_stride, log_var_col_stride, row, col, inside, ARITHMETIC)
            distance, prior_log_var = mu, None
            if prior_mu_ptr is not None:
                distance = mu - read_tile(
                    prior_mu_ptr, prior_mu_row_stride, prior_mu_col_stride, row, col, inside, ARITHMETIC
                )
                prior_log_var = read_tile(
                    prior_log_var_ptr, prior_log_var_row_stride, prior_log_var_col_stride, row, col, inside, ARITHMETIC
                )
            sigma, _, root_minus_1, _, inv_prior_sigma = variance_terms(log_var, prior_log_var)
            grad_mu = tl.zeros([ROWS, COLS], ARITHMETIC)
            grad_log_var = tl.zeros([ROWS, COLS], ARITHMETIC)
            if grad_z_ptr is not None:
                grad_z = read_tile(grad_z_ptr, grad_z_row_stride, grad_z_col_stride, row, col, inside, ARITHMETIC)
                eps = noise(seed, first_row + begin + start, first_col, ROWS, COLS, ARITHMETIC)
                spread = sigma * eps
                if gate_ptr is not None:
                    gate = read_tile(gate_ptr, gate_row_stride, gate_col_stride, row, col, inside, ARITHMETIC)
                    w, rest = logistic(gate)
                    grad_z *= w
                    if grad_gate_ptr is not None:
                        grad_gate = grad_z * rest * (mu + spread)
                        sum_gate = write_or_sum(grad_gate_ptr + dense, grad_gate, inside, sum_gate, SUM_GATE)
                grad_mu = grad_z
                grad_log_var = grad_z * spread
            if grad_kl_ptr is not None:
                grad_kl = read_tile(grad_kl_ptr, grad_kl_row_stride, grad_kl_col_stride, row, col, inside, ARITHMETIC)
                scaled = distance * inv_prior_sigma
                pull = grad_kl * scaled * inv_prior_sigma
                growth = times_exp_minus_1(grad_kl, root_minus_1)
                grad_mu += pull
                grad_log_var += growth
                if grad_prior_mu_ptr is not None:
                    grad_prior_log_var = -0.5 * (grad_kl * scaled * scaled + growth)
                    sum_prior_mu = write_or_sum(
                        grad_prior_mu_ptr + dense, pull, inside, sum_prior_mu, SUM_PRIOR_MU, MINUS=True
                    )
                    sum_prior_log_var = write_or_sum(
                        grad_prior_log_var_ptr + dense, grad_prior_log_var, inside, sum_prior_log_var, SUM_PRIOR_LOG_VAR
                    )
            write(grad_mu_ptr + dense, grad_mu, inside)
            write(grad_log_var_ptr + dense, 0.5 * grad_log_var, inside)
        if SUM_PRIOR_MU or SUM_PRIOR_LOG_VAR or SUM_GATE:
            store_sums(
                partial_ptr,
                first_col,
                cols,
                sum_prior_mu if SUM_PRIOR_MU else None,
                sum_prior_log_var if SUM_PRIOR_LOG_VAR else None,
                sum_gate if SUM_GATE else None,
                COLS,
            )
    if SUM_PRIOR_MU or SUM_PRIOR_LOG_VAR or SUM_GATE:
        finish_sums(
            partial_ptr,
            counter_ptr,
            group_size,
            cols,
            None,
            grad_prior_mu_ptr if SUM_PRIOR_MU else None,
            grad_prior_log_var_ptr if SUM_PRIOR_LOG_VAR else None,
            grad_gate_ptr if SUM_GATE else None,
            ROWS,
            COLS,
        )


def rsample_kl_backward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of mu, log_var, prior_mu, prior_log_var and gate_logits; those not wanted have no elements."""
    rows, cols = mu.shape
    dtype, triton_dtype = arithmetic(grad_z, grad_kl, mu, log_var, prior_mu, prior_log_var, gate_logits)
    grad_mu, grad_log_var = mu.new_empty(mu.shape), log_var.new_empty(log_var.shape)
    of_prior_mu = optional_gradient(prior_mu, mu, with_prior, grad_kl, rows)
    of_prior_log_var = optional_gradient(prior_log_var, mu, with_prior, grad_kl, rows)
    of_gate = optional_gradient(gate_logits, mu, with_gate, grad_z, rows)
    results = grad_mu, grad_log_var, of_prior_mu.result, of_prior_log_var.result, of_gate.result
    if rows == 0 or cols == 0:
        for result in results:
            result.zero_()
        return results
    sums = of_prior_mu.summed + of_prior_log_var.summed + of_gate.summed
    tile_rows, tile_width = tile_shape(cols, tile_elements(dtype, sums > 0))
    batch = split_batch(rows, tile_rows, sums > 0)
    inputs = grad_z, grad_kl, mu, log_var, prior_mu, prior_log_var, gate_logits
    optional = prior_mu is not None or gate_logits is not None
    backward_kernel[(batch.programs,)](
        *strided(grad_z, rows),
        *strided(grad_kl, rows),
        *strided(mu, rows),
        *strided(log_var, rows),
        *strided(prior_mu, rows),
        *strided(prior_log_var, rows),
        *strided(gate_logits, rows),
        seed_ptr=seed,
        grad_mu_ptr=grad_mu,
        grad_log_var_ptr=grad_log_var,
        grad_prior_mu_ptr=of_prior_mu.target,
        grad_prior_log_var_ptr=of_prior_log_var.target,
        grad_gate_ptr=of_gate.target,
        **batch_sum(mu, batch.programs, sums * cols, dtype),
        first_row=first_row,
        rows=rows,
        cols=cols,
        rows_each=batch.rows,
        SUM_PRIOR_MU=of_prior_mu.summed,
        SUM_PRIOR_LOG_VAR=of_prior_log_var.summed,
        SUM_GATE=of_gate.summed,
        ARITHMETIC=triton_dtype,
        ROWS=tile_rows,
        COLS=tile_width,
        num_warps=WARPS,
        maxnreg=most_registers(dtype, *inputs) if optional else None,
    )
    return results
