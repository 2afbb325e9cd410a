"""``rsample_kl`` in Triton: one launch forward, one backward; each tensor is read or written once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..autograd import empty_gradient
from ..triton_launch import (
    WARPS,
    arithmetic,
    broadcast_strides,
    most_registers,
    partials,
    row_strides,
    split_batch,
    tile_cols,
    tile_elements,
)
from ..triton_math import (
    add_up_group,
    exponential,
    exponential_of_half_difference,
    logistic,
    noise,
    read,
    sum_of_rows,
    times_exp_minus_1,
    write,
)

__all__ = ["rsample_kl", "rsample_kl_backward"]


@triton.jit
def variance_terms(log_var, prior_log_var):
    """e^(l/2), e^(d/2), t = e^(d/2) - 1, (e^d - 1 - d)/2 and e^(-p/2), with d = l - p. Without a prior p is None, and
    stands for 0."""
    sigma, t, s = exponential(0.5 * log_var)
    root, inv_prior_sigma = sigma, 1.0
    if prior_log_var is not None:
        root, t, s = exponential_of_half_difference(log_var, prior_log_var)
        inv_prior_sigma, _, _ = exponential(-0.5 * prior_log_var)
    # With s = t - d/2; both terms are positive: nothing cancels.
    return sigma, root, t, 0.5 * t * t + s, inv_prior_sigma


@triton.jit(do_not_specialize=["first_row", "rows", "rows_each", "group_size"])
def forward_kernel(
    mu_ptr,  # [rows, cols]
    log_var_ptr,  # [rows, cols]
    prior_mu_ptr,  # [rows, cols], [1, cols] with row stride 0, or None
    prior_log_var_ptr,  # the same; None together
    gate_ptr,  # [rows, cols], [1, cols] with row stride 0, or None
    seed_ptr,  # []
    z_ptr,  # [rows, cols], dense
    kl_ptr,  # [rows], or [rows, cols], dense
    ratio_ptr,  # [cols], or None
    partial_ptr,  # [programs + groups, cols] float64, or None
    counter_ptr,  # [groups + 1], or None
    first_row: tl.int64,
    rows: tl.int64,
    cols,
    rows_each,
    group_size,
    mu_row_stride,
    mu_col_stride,
    log_var_row_stride,
    log_var_col_stride,
    prior_mu_row_stride,
    prior_mu_col_stride,
    prior_log_var_row_stride,
    prior_log_var_col_stride,
    gate_row_stride,
    gate_col_stride,
    PER_DIMENSION: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    seed = tl.load(seed_ptr)
    begin = tl.program_id(0).to(tl.int64) * rows_each
    for first_col in range(0, cols, COLS):
        col = first_col + tl.arange(0, COLS)[None, :].to(tl.int64)
        ratio = tl.zeros(
            [ROWS, COLS], tl.float64
        )  # that of one sample may be too large for float32, and not on average
        for start in range(0, rows_each, ROWS):
            row = begin + start + tl.arange(0, ROWS)[:, None]
            inside = (row < rows) & (col < cols)
            mu = read(mu_ptr + row * mu_row_stride + col * mu_col_stride, inside, ARITHMETIC)
            log_var = read(log_var_ptr + row * log_var_row_stride + col * log_var_col_stride, inside, ARITHMETIC)
            distance, prior_log_var = mu, None
            if prior_mu_ptr is not None:
                prior_mu_at = prior_mu_ptr + row * prior_mu_row_stride + col * prior_mu_col_stride
                prior_log_var_at = prior_log_var_ptr + row * prior_log_var_row_stride + col * prior_log_var_col_stride
                distance = mu - read(prior_mu_at, inside, ARITHMETIC)
                prior_log_var = read(prior_log_var_at, inside, ARITHMETIC)
            sigma, root, _, kl_of_variances, inv_prior_sigma = variance_terms(log_var, prior_log_var)
            eps = noise(seed, first_row + begin + start, first_col, ROWS, COLS, ARITHMETIC)
            z = mu + sigma * eps
            if gate_ptr is not None:
                gate_at = gate_ptr + row * gate_row_stride + col * gate_col_stride
                w, _ = logistic(read(gate_at, inside, ARITHMETIC))
                z *= w
            write(z_ptr + row * cols + col, z, inside)
            scaled = distance * inv_prior_sigma
            kl = 0.5 * scaled * scaled + kl_of_variances  # half of a square may be in range where it is not
            if PER_DIMENSION:
                tl.store(kl_ptr + row * cols + col, kl, mask=inside)
            else:
                kl_row = begin + start + tl.arange(0, ROWS)
                total = tl.sum(tl.where(inside, kl, 0.0), axis=1)
                if first_col > 0:
                    total += tl.load(kl_ptr + kl_row, mask=kl_row < rows, other=0.0)
                tl.store(kl_ptr + kl_row, total, mask=kl_row < rows)
            if ratio_ptr is not None:
                wide = tl.where(inside, root, 0.0).to(tl.float64)
                ratio += wide * wide
        if ratio_ptr is not None:
            at = first_col + tl.arange(0, COLS)
            partial_row = partial_ptr + tl.program_id(0).to(tl.int64) * cols
            tl.store(partial_row + at, tl.sum(ratio, axis=0), mask=at < cols)
        tl.debug_barrier()  # the sums of the rows are read again for the next columns, by other threads
    if ratio_ptr is not None:
        programs = tl.num_programs(0)
        if add_up_group(partial_ptr, counter_ptr, tl.program_id(0), programs, group_size, cols, ROWS, COLS):
            end = programs + tl.cdiv(programs, group_size)
            for first_col in range(0, cols, COLS):
                at = first_col + tl.arange(0, COLS)
                total = sum_of_rows(partial_ptr, programs, end, first_col, cols, ROWS, COLS)
                tl.store(ratio_ptr + at, total / rows.to(ARITHMETIC), mask=at < cols)


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
    elements = tile_elements(dtype)
    tile_width = tile_cols(cols, elements)
    tile_rows = elements // tile_width
    batch = split_batch(rows, tile_rows, with_variance_ratio)
    sums, counters, group_size = partials(z, batch.programs if with_variance_ratio else 0, cols, torch.float64)
    forward_kernel[(batch.programs,)](
        mu,
        log_var,
        prior_mu,
        prior_log_var,
        gate_logits,
        seed,
        z,
        kl,
        ratio if with_variance_ratio else None,
        sums,
        counters,
        first_row,
        rows,
        cols,
        batch.rows,
        group_size,
        *mu.stride(),
        *log_var.stride(),
        *broadcast_strides(prior_mu, rows),
        *broadcast_strides(prior_log_var, rows),
        *broadcast_strides(gate_logits, rows),
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
    grad_kl_ptr,  # [rows, cols], [rows] with column stride 0, or None
    mu_ptr,  # [rows, cols]
    log_var_ptr,  # [rows, cols]
    prior_mu_ptr,  # [rows, cols], [1, cols] with row stride 0, or None
    prior_log_var_ptr,  # the same; None together
    gate_ptr,  # [rows, cols], [1, cols] with row stride 0, or None
    seed_ptr,  # []
    grad_mu_ptr,  # [rows, cols], dense
    grad_log_var_ptr,  # [rows, cols], dense
    grad_prior_mu_ptr,  # [rows, cols], dense, [cols] where it is summed, or None where it is not wanted
    grad_prior_log_var_ptr,  # the same
    grad_gate_ptr,  # the same
    partial_ptr,  # [programs + groups, SUMS cols], or None
    counter_ptr,  # [groups + 1], or None
    first_row: tl.int64,
    rows: tl.int64,
    cols,
    rows_each,
    group_size,
    grad_z_row_stride,
    grad_z_col_stride,
    grad_kl_row_stride,
    grad_kl_col_stride,
    mu_row_stride,
    mu_col_stride,
    log_var_row_stride,
    log_var_col_stride,
    prior_mu_row_stride,
    prior_mu_col_stride,
    prior_log_var_row_stride,
    prior_log_var_col_stride,
    gate_row_stride,
    gate_col_stride,
    SUM_PRIOR_MU: tl.constexpr,
    SUM_PRIOR_LOG_VAR: tl.constexpr,
    SUM_GATE: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    SUMS: tl.constexpr = SUM_PRIOR_MU + SUM_PRIOR_LOG_VAR + SUM_GATE  # in this order
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
            mu = read(mu_ptr + row * mu_row_stride + col * mu_col_stride, inside, ARITHMETIC)
            log_var = read(log_var_ptr + row * log_var_row_stride + col * log_var_col_stride, inside, ARITHMETIC)
            distance, prior_log_var = mu, None
            if prior_mu_ptr is not None:
                prior_mu_at = prior_mu_ptr + row * prior_mu_row_stride + col * prior_mu_col_stride
                prior_log_var_at = prior_log_var_ptr + row * prior_log_var_row_stride + col * prior_log_var_col_stride
                distance = mu - read(prior_mu_at, inside, ARITHMETIC)
                prior_log_var = read(prior_log_var_at, inside, ARITHMETIC)
            sigma, _, root_minus_1, _, inv_prior_sigma = variance_terms(log_var, prior_log_var)
            grad_mu = tl.zeros([ROWS, COLS], ARITHMETIC)
            grad_log_var = tl.zeros([ROWS, COLS], ARITHMETIC)
            if grad_z_ptr is not None:
                grad_z = read(grad_z_ptr + row * grad_z_row_stride + col * grad_z_col_stride, inside, ARITHMETIC)
                eps = noise(seed, first_row + begin + start, first_col, ROWS, COLS, ARITHMETIC)
                spread = sigma * eps
                if gate_ptr is not None:
                    gate_at = gate_ptr + row * gate_row_stride + col * gate_col_stride
                    w, rest = logistic(read(gate_at, inside, ARITHMETIC))
                    grad_z *= w
                    if grad_gate_ptr is not None:
                        grad_gate = grad_z * rest * (mu + spread)
                        if SUM_GATE:
                            sum_gate += tl.where(inside, grad_gate, 0.0)
                        else:
                            write(grad_gate_ptr + dense, grad_gate, inside)
                grad_mu = grad_z
                grad_log_var = grad_z * spread
            if grad_kl_ptr is not None:
                grad_kl = read(grad_kl_ptr + row * grad_kl_row_stride + col * grad_kl_col_stride, inside, ARITHMETIC)
                scaled = distance * inv_prior_sigma
                pull = grad_kl * scaled * inv_prior_sigma
                growth = times_exp_minus_1(grad_kl, root_minus_1)
                grad_mu += pull
                grad_log_var += growth
                if grad_prior_mu_ptr is not None:
                    grad_prior_log_var = -0.5 * (grad_kl * scaled * scaled + growth)
                    if SUM_PRIOR_MU:
                        sum_prior_mu -= tl.where(inside, pull, 0.0)
                    else:
                        write(grad_prior_mu_ptr + dense, -pull, inside)
                    if SUM_PRIOR_LOG_VAR:
                        sum_prior_log_var += tl.where(inside, grad_prior_log_var, 0.0)
                    else:
                        write(grad_prior_log_var_ptr + dense, grad_prior_log_var, inside)
            write(grad_mu_ptr + dense, grad_mu, inside)
            write(grad_log_var_ptr + dense, 0.5 * grad_log_var, inside)
        if SUMS > 0:
            at = first_col + tl.arange(0, COLS)
            partial_row = partial_ptr + tl.program_id(0).to(tl.int64) * (SUMS * cols)
            if SUM_PRIOR_MU:
                tl.store(partial_row + at, tl.sum(sum_prior_mu, axis=0), mask=at < cols)
            if SUM_PRIOR_LOG_VAR:
                tl.store(partial_row + SUM_PRIOR_MU * cols + at, tl.sum(sum_prior_log_var, axis=0), mask=at < cols)
            if SUM_GATE:
                tl.store(partial_row + (SUMS - 1) * cols + at, tl.sum(sum_gate, axis=0), mask=at < cols)
    if SUMS > 0:
        programs = tl.num_programs(0)
        if add_up_group(partial_ptr, counter_ptr, tl.program_id(0), programs, group_size, SUMS * cols, ROWS, COLS):
            end = programs + tl.cdiv(programs, group_size)
            for first_col in range(0, cols, COLS):
                at = first_col + tl.arange(0, COLS)
                if SUM_PRIOR_MU:
                    total = sum_of_rows(partial_ptr, programs, end, first_col, SUMS * cols, ROWS, COLS)
                    write(grad_prior_mu_ptr + at, total, at < cols)
                if SUM_PRIOR_LOG_VAR:
                    sums_at = SUM_PRIOR_MU * cols + first_col
                    total = sum_of_rows(partial_ptr, programs, end, sums_at, SUMS * cols, ROWS, COLS)
                    write(grad_prior_log_var_ptr + at, total, at < cols)
                if SUM_GATE:
                    sums_at = (SUMS - 1) * cols + first_col
                    total = sum_of_rows(partial_ptr, programs, end, sums_at, SUMS * cols, ROWS, COLS)
                    write(grad_gate_ptr + at, total, at < cols)


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
    grad_prior_mu = empty_gradient(prior_mu, mu, with_prior)
    grad_prior_log_var = empty_gradient(prior_log_var, mu, with_prior)
    grad_gate = empty_gradient(gate_logits, mu, with_gate)
    results = grad_mu, grad_log_var, grad_prior_mu, grad_prior_log_var, grad_gate
    if rows == 0 or cols == 0:
        for result in results:
            result.zero_()
        return results
    # What no gradient comes in for is 0, and nothing the kernel has to know of.
    prior_wanted = with_prior and grad_kl is not None
    gate_wanted = with_gate and grad_z is not None
    if with_prior and not prior_wanted:
        grad_prior_mu.zero_()
        grad_prior_log_var.zero_()
    if with_gate and not gate_wanted:
        grad_gate.zero_()
    sum_prior_mu = prior_wanted and grad_prior_mu.shape[0] != rows
    sum_prior_log_var = prior_wanted and grad_prior_log_var.shape[0] != rows
    sum_gate = gate_wanted and grad_gate.shape[0] != rows
    wanted_sums = sum_prior_mu + sum_prior_log_var + sum_gate

    elements = tile_elements(dtype, wanted_sums > 0)
    tile_width = tile_cols(cols, elements)
    tile_rows = elements // tile_width
    batch = split_batch(rows, tile_rows, wanted_sums > 0)
    sums, counters, group_size = partials(mu, batch.programs, wanted_sums * cols, dtype)
    backward_kernel[(batch.programs,)](
        grad_z,
        grad_kl,
        mu,
        log_var,
        prior_mu,
        prior_log_var,
        gate_logits,
        seed,
        grad_mu,
        grad_log_var,
        grad_prior_mu if prior_wanted else None,
        grad_prior_log_var if prior_wanted else None,
        grad_gate if gate_wanted else None,
        sums,
        counters,
        first_row,
        rows,
        cols,
        batch.rows,
        group_size,
        *row_strides(grad_z),
        *row_strides(grad_kl),
        *mu.stride(),
        *log_var.stride(),
        *broadcast_strides(prior_mu, rows),
        *broadcast_strides(prior_log_var, rows),
        *broadcast_strides(gate_logits, rows),
        SUM_PRIOR_MU=sum_prior_mu,
        SUM_PRIOR_LOG_VAR=sum_prior_log_var,
        SUM_GATE=sum_gate,
        ARITHMETIC=triton_dtype,
        ROWS=tile_rows,
        COLS=tile_width,
        num_warps=WARPS,
        maxnreg=most_registers(dtype, grad_z, grad_kl, mu, log_var, prior_mu, prior_log_var, gate_logits)
        if prior_mu is not None or gate_logits is not None
        else None,
    )
    return results
