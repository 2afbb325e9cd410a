"""``rsample_kl_cholesky`` in Triton: one launch forward, one backward. L is read where it lies, packed by rows.

A tile is a few samples times a few rows of L times a few columns, masked above the diagonal: what is masked costs no
memory traffic, and the rows of a tile lie one behind the other.
"""

from typing import NamedTuple

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
    tile_cols,
    tile_elements,
)
from ..triton_math import exponential, noise, read_tile, times_exp_minus_1, variance_terms, write
from ..triton_sums import add_to_rows, batch_sum, finish_sums, split_batch, store_sums, write_or_sum

__all__ = ["rsample_kl_cholesky", "rsample_kl_cholesky_backward"]

MOST_LATENTS = 46_340  # i (i + 3) of the last row is below 2^31


def _check_size(cols: int) -> None:
    """Raise ValueError if offsets in a packed row exceed int32: one row of float32 is 4.3 GB then, and 64-bit
    offsets would take the registers of all."""
    if cols > MOST_LATENTS:
        raise ValueError(f"mu must have at most {MOST_LATENTS} latent dimensions for the triton backend, got {cols}")


def _most_registers(dtype: torch.dtype, *inputs: Tensor | None) -> int:
    """As for the other kernels, except in half precision, whose conversion takes some as well."""
    half = any(tensor is not None and tensor.dtype.itemsize < 4 for tensor in inputs)
    return 255 if half else most_registers(dtype, *inputs)


@triton.jit(do_not_specialize=["first_row", "rows", "rows_each", "group_size"])
def forward_kernel(
    mu_ptr,  # [rows, cols]
    mu_row_stride,
    mu_col_stride,
    tril_ptr,  # [rows, cols (cols + 1) / 2]
    tril_row_stride,
    tril_col_stride,
    prior_mu_ptr,  # [rows, cols], [1, cols] with row stride 0, or None
    prior_mu_row_stride,
    prior_mu_col_stride,
    prior_log_var_ptr,  # the same; None together
    prior_log_var_row_stride,
    prior_log_var_col_stride,
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
    ROWS: tl.constexpr,  # samples
    HEIGHT: tl.constexpr,  # rows i of L
    WIDTH: tl.constexpr,  # columns j of L
):
    seed = tl.load(seed_ptr)
    begin = tl.program_id(0).to(tl.int64) * rows_each
    for first_i in range(0, cols, HEIGHT):
        i = first_i + tl.arange(0, HEIGHT)[None, :]
        # In float64, as for the diagonal covariance; an element for each sample would be too many.
        ratio = tl.zeros([HEIGHT], tl.float64)
        for start in range(0, rows_each, ROWS):
            row = begin + start + tl.arange(0, ROWS)[:, None]
            inside = (row < rows) & (i < cols)
            mu = read_tile(mu_ptr, mu_row_stride, mu_col_stride, row, i, inside, ARITHMETIC)
            log_diagonal = read_tile(
                tril_ptr, tril_row_stride, tril_col_stride, row, i * (i + 3) // 2, inside, ARITHMETIC
            )
            log_var = 2.0 * log_diagonal  # exactly
            scaled, prior_log_var = mu, None
            if prior_mu_ptr is not None:
                prior_log_var = read_tile(
                    prior_log_var_ptr, prior_log_var_row_stride, prior_log_var_col_stride, row, i, inside, ARITHMETIC
                )
                inv_prior_sigma, _, _ = exponential(-0.5 * prior_log_var)
                prior_mu = read_tile(prior_mu_ptr, prior_mu_row_stride, prior_mu_col_stride, row, i, inside, ARITHMETIC)
                scaled = (mu - prior_mu) * inv_prior_sigma
            spread = tl.zeros([ROWS, HEIGHT, WIDTH], ARITHMETIC)
            squares = tl.zeros([ROWS, HEIGHT, WIDTH], ARITHMETIC)
            for first_j in range(0, tl.minimum(first_i + HEIGHT, cols), WIDTH):
                j = first_j + tl.arange(0, WIDTH)[None, None, :]
                below = (j < i[:, :, None]) & inside[:, :, None]
                offset = (i * (i + 1) // 2)[:, :, None] + j
                factor = read_tile(
                    tril_ptr, tril_row_stride, tril_col_stride, row[:, :, None], offset, below, ARITHMETIC
                )
                spread += factor * noise(seed, first_row + begin + start, first_j, ROWS, WIDTH, ARITHMETIC)[:, None, :]
                if prior_mu_ptr is not None:
                    factor = tl.where(below, factor * inv_prior_sigma[:, :, None], 0.0)
                squares += factor * factor
            # Only now: in the loop registers are few.
            sigma, root, _, kl_of_variances, _ = variance_terms(log_var, prior_log_var)
            eps = noise(seed, first_row + begin + start, first_i, ROWS, HEIGHT, ARITHMETIC)
            off_diagonal = tl.sum(squares, axis=2)
            write(z_ptr + row * cols + i, mu + (tl.sum(spread, axis=2) + sigma * eps), inside)
            kl = 0.5 * scaled * scaled + (0.5 * off_diagonal + kl_of_variances)
            if PER_DIMENSION:
                tl.store(kl_ptr + row * cols + i, kl, mask=inside)
            else:
                add_to_rows(kl_ptr, tl.where(inside, kl, 0.0), begin + start, rows, first_i)
            if ratio_ptr is not None:
                wide = tl.where(inside, root, 0.0).to(tl.float64)
                ratio += tl.sum(wide * wide + off_diagonal.to(tl.float64), axis=0)  # the latter is 0 outside
        if ratio_ptr is not None:
            store_sums(partial_ptr, first_i, cols, ratio, None, None, HEIGHT)
        tl.debug_barrier()  # the sums of the samples are read again for the next rows of L, by other threads
    if ratio_ptr is not None:
        finish_sums(partial_ptr, counter_ptr, group_size, cols, rows.to(ARITHMETIC), ratio_ptr, None, None, 32, HEIGHT)


class Tile(NamedTuple):
    """Samples, rows of L and columns of L that a program holds at a time."""

    rows: int
    height: int
    width: int


def tile(cols: int, elements: int) -> Tile:
    width = tile_cols(cols, elements // 8)
    height = tile_cols(cols, elements // width)
    return Tile(elements // (width * height), height, width)


def rsample_kl_cholesky(
    mu: Tensor,
    tril: Tensor,
    prior_mu: Tensor | None,
    prior_log_var: Tensor | None,
    seed: Tensor,
    first_row: int,
    per_dimension: bool,
    with_variance_ratio: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """z, kl and the variance ratio."""
    rows, cols = mu.shape
    _check_size(cols)
    dtype, triton_dtype = arithmetic(mu, tril, prior_mu, prior_log_var)
    z = torch.empty(rows, cols, dtype=torch.promote_types(mu.dtype, tril.dtype), device=mu.device)
    kl = z.new_empty((rows, cols) if per_dimension else (rows,), dtype=dtype)
    ratio = z.new_empty(cols if with_variance_ratio else 0, dtype=dtype)
    if rows == 0 or cols == 0:
        return z, kl.zero_(), ratio.fill_(torch.nan)
    at = tile(cols, tile_elements(dtype, with_variance_ratio))
    batch = split_batch(rows, at.rows, with_variance_ratio)
    forward_kernel[(batch.programs,)](
        *strided(mu, rows),
        *strided(tril, rows),
        *strided(prior_mu, rows),
        *strided(prior_log_var, rows),
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
        ROWS=at.rows,
        HEIGHT=at.height,
        WIDTH=at.width,
        num_warps=WARPS,
        maxnreg=_most_registers(dtype, mu, tril, prior_mu, prior_log_var),
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
    tril_ptr,  # [rows, cols (cols + 1) / 2]
    tril_row_stride,
    tril_col_stride,
    prior_mu_ptr,  # [rows, cols], [1, cols] with row stride 0, or None
    prior_mu_row_stride,
    prior_mu_col_stride,
    prior_log_var_ptr,  # the same; None together
    prior_log_var_row_stride,
    prior_log_var_col_stride,
    seed_ptr,  # []
    grad_mu_ptr,  # [rows, cols], dense
    grad_tril_ptr,  # [rows, cols (cols + 1) / 2], dense
    grad_prior_mu_ptr,  # [rows, cols], dense, [cols] if it is summed, or None if it is not wanted
    grad_prior_log_var_ptr,  # the same
    partial_ptr,  # [programs + groups, SUMS cols], or None
    counter_ptr,  # [groups + 1], or None
    group_size,
    first_row: tl.int64,
    rows: tl.int64,
    cols,
    rows_each,
    SUM_PRIOR_MU: tl.constexpr,
    SUM_PRIOR_LOG_VAR: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    ROWS: tl.constexpr,  # samples
    HEIGHT: tl.constexpr,  # rows i of L
    WIDTH: tl.constexpr,  # columns j of L
):
    seed = tl.load(seed_ptr)
    begin = tl.program_id(0).to(tl.int64) * rows_each
    packed = tl.cast(cols, tl.int64) * (cols + 1) // 2  # not a method: a 1, compiled, is a constant and no tensor
    for first_i in range(0, cols, HEIGHT):
        i = first_i + tl.arange(0, HEIGHT)[None, :]
        sum_prior_mu = tl.zeros([ROWS, HEIGHT], ARITHMETIC)
        sum_prior_log_var = tl.zeros([ROWS, HEIGHT], ARITHMETIC)
        for start in range(0, rows_each, ROWS):
            row = begin + start + tl.arange(0, ROWS)[:, None]
            inside = (row < rows) & (i < cols)
            dense = row * cols + i
            log_diagonal = read_tile(
                tril_ptr, tril_row_stride, tril_col_stride, row, i * (i + 3) // 2, inside, ARITHMETIC
            )
            log_var = 2.0 * log_diagonal  # exactly
            prior_log_var = None
            if prior_mu_ptr is not None:
                prior_log_var = read_tile(
                    prior_log_var_ptr, prior_log_var_row_stride, prior_log_var_col_stride, row, i, inside, ARITHMETIC
                )
            sigma, _, root_minus_1, _, inv_prior_sigma = variance_terms(log_var, prior_log_var)
            grad_mu = tl.zeros([ROWS, HEIGHT], ARITHMETIC)
            grad_diagonal = tl.zeros([ROWS, HEIGHT], ARITHMETIC)
            if grad_z_ptr is not None:
                grad_z = read_tile(grad_z_ptr, grad_z_row_stride, grad_z_col_stride, row, i, inside, ARITHMETIC)
                eps = noise(seed, first_row + begin + start, first_i, ROWS, HEIGHT, ARITHMETIC)
                grad_mu = grad_z
                grad_diagonal = grad_z * (sigma * eps)
            if grad_kl_ptr is not None:
                grad_kl = read_tile(grad_kl_ptr, grad_kl_row_stride, grad_kl_col_stride, row, i, inside, ARITHMETIC)
                distance = read_tile(mu_ptr, mu_row_stride, mu_col_stride, row, i, inside, ARITHMETIC)
                if prior_mu_ptr is not None:
                    distance -= read_tile(
                        prior_mu_ptr, prior_mu_row_stride, prior_mu_col_stride, row, i, inside, ARITHMETIC
                    )
                scaled = distance * inv_prior_sigma
                pull = grad_kl * scaled * inv_prior_sigma
                growth = times_exp_minus_1(grad_kl, root_minus_1)
                grad_mu += pull
                grad_diagonal += growth
                kl_scale = grad_kl * inv_prior_sigma
            write(grad_mu_ptr + dense, grad_mu, inside)
            squares = tl.zeros([ROWS, HEIGHT, WIDTH], ARITHMETIC)
            for first_j in range(0, tl.minimum(first_i + HEIGHT, cols), WIDTH):
                j = first_j + tl.arange(0, WIDTH)[None, None, :]
                below = (j < i[:, :, None]) & inside[:, :, None]
                offset = (i * (i + 1) // 2)[:, :, None] + j
                grad_factor = tl.zeros([ROWS, HEIGHT, WIDTH], ARITHMETIC)
                if grad_z_ptr is not None:
                    eps_j = noise(seed, first_row + begin + start, first_j, ROWS, WIDTH, ARITHMETIC)
                    grad_factor = grad_z[:, :, None] * eps_j[:, None, :]
                if grad_kl_ptr is not None:
                    factor = read_tile(
                        tril_ptr, tril_row_stride, tril_col_stride, row[:, :, None], offset, below, ARITHMETIC
                    )
                    if prior_mu_ptr is not None:
                        factor = tl.where(below, factor * inv_prior_sigma[:, :, None], 0.0)
                    grad_factor += kl_scale[:, :, None] * factor
                    if grad_prior_mu_ptr is not None:
                        squares += factor * factor
                on_diagonal = j == i[:, :, None]
                write(
                    grad_tril_ptr + row[:, :, None] * packed + offset,
                    tl.where(on_diagonal, grad_diagonal[:, :, None], grad_factor),
                    below | (on_diagonal & inside[:, :, None]),
                )
            if grad_prior_mu_ptr is not None:
                rest = tl.where(grad_kl == 0.0, 0.0, grad_kl * tl.sum(squares, axis=2))  # these may be infinite
                grad_prior_log_var = -0.5 * (grad_kl * scaled * scaled + growth + rest)
                sum_prior_mu = write_or_sum(
                    grad_prior_mu_ptr + dense, pull, inside, sum_prior_mu, SUM_PRIOR_MU, MINUS=True
                )
                sum_prior_log_var = write_or_sum(
                    grad_prior_log_var_ptr + dense, grad_prior_log_var, inside, sum_prior_log_var, SUM_PRIOR_LOG_VAR
                )
        if SUM_PRIOR_MU or SUM_PRIOR_LOG_VAR:
            store_sums(
                partial_ptr,
                first_i,
                cols,
                sum_prior_mu if SUM_PRIOR_MU else None,
                sum_prior_log_var if SUM_PRIOR_LOG_VAR else None,
                None,
                HEIGHT,
            )
    if SUM_PRIOR_MU or SUM_PRIOR_LOG_VAR:
        finish_sums(
            partial_ptr,
            counter_ptr,
            group_size,
            cols,
            None,
            grad_prior_mu_ptr if SUM_PRIOR_MU else None,
            grad_prior_log_var_ptr if SUM_PRIOR_LOG_VAR else None,
            None,
            32,
            HEIGHT,
        )


def rsample_kl_cholesky_backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mu: Tensor,
    tril: Tensor,
    prior_mu: Tensor | None,
    prior_log_var: Tensor | None,
    seed: Tensor,
    first_row: int,
    with_prior: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of mu, tril, prior_mu and prior_log_var; those not wanted have no elements."""
    rows, cols = mu.shape
    _check_size(cols)
    dtype, triton_dtype = arithmetic(grad_z, grad_kl, mu, tril, prior_mu, prior_log_var)
    grad_mu, grad_tril = mu.new_empty(mu.shape), tril.new_empty(tril.shape)
    of_prior_mu = optional_gradient(prior_mu, mu, with_prior, grad_kl, rows)
    of_prior_log_var = optional_gradient(prior_log_var, mu, with_prior, grad_kl, rows)
    results = grad_mu, grad_tril, of_prior_mu.result, of_prior_log_var.result
    if rows == 0 or cols == 0:
        for result in results:
            result.zero_()
        return results
    sums = of_prior_mu.summed + of_prior_log_var.summed
    at = tile(cols, tile_elements(dtype, sums > 0))
    batch = split_batch(rows, at.rows, sums > 0)
    backward_kernel[(batch.programs,)](
        *strided(grad_z, rows),
        *strided(grad_kl, rows),
        *strided(mu, rows),
        *strided(tril, rows),
        *strided(prior_mu, rows),
        *strided(prior_log_var, rows),
        seed_ptr=seed,
        grad_mu_ptr=grad_mu,
        grad_tril_ptr=grad_tril,
        grad_prior_mu_ptr=of_prior_mu.target,
        grad_prior_log_var_ptr=of_prior_log_var.target,
        **batch_sum(mu, batch.programs, sums * cols, dtype),
        first_row=first_row,
        rows=rows,
        cols=cols,
        rows_each=batch.rows,
        SUM_PRIOR_MU=of_prior_mu.summed,
        SUM_PRIOR_LOG_VAR=of_prior_log_var.summed,
        ARITHMETIC=triton_dtype,
        ROWS=at.rows,
        HEIGHT=at.height,
        WIDTH=at.width,
        num_warps=WARPS,
        maxnreg=_most_registers(dtype, grad_z, grad_kl, mu, tril, prior_mu, prior_log_var),
    )
    return results
