"""``gaussian_nll`` in Triton: one launch forward, one backward. ``gaussian_elbo`` has the same forward kernel."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..triton_launch import arithmetic, strided, tile_elements, tile_shape
from ..triton_math import exponential, read, read_tile, write
from ..triton_sums import add_up_group, batch_sum, is_last, sum_of_groups

__all__ = ["gaussian_nll", "gaussian_nll_backward", "launch_forward"]

LOG_2PI = tl.constexpr(1.8378770664093454836)  # math.log(2 * math.pi) rounds 2 pi first and is 1 ulp off


@triton.jit
def log_gamma_terms(log_gamma_ptr, dtype: tl.constexpr):
    """log gamma and gamma^(-1/2). The root twice as a factor stays in range when 1 / gamma would not."""
    exact = tl.load(log_gamma_ptr)
    log_gamma = exact.to(dtype)
    rest = (exact - log_gamma.to(exact.dtype)).to(dtype)  # 0 but for a float64 log gamma in float32 arithmetic
    root, _, _ = exponential(-0.5 * log_gamma)
    return log_gamma, root - root * (0.5 * rest)


@triton.jit(do_not_specialize=["rows", "splits", "split_cols", "group_size"])
def forward_kernel(
    x_hat_ptr,  # [rows, cols]
    x_hat_row_stride,
    x_hat_col_stride,
    x_ptr,  # [rows, cols]
    x_row_stride,
    x_col_stride,
    log_gamma_ptr,  # []
    kl_ptr,  # [rows], or None if no loss is wanted
    kl_stride,
    nll_ptr,  # [rows], dense
    squared_error_ptr,  # [rows], dense
    grad_x_hat_ptr,  # [rows, cols], dense: the loss's, or None
    loss_ptr,  # [], or None
    grad_log_gamma_ptr,  # [], or None
    grad_kl_ptr,  # [], or None
    part_ptr,  # [rows, splits]: partial sums of the squares, or None if a program reads whole rows
    part_counter_ptr,  # [tiles], or None
    partial_ptr,  # [tiles + groups, 2] float64: sums of the loss and of the gradient of log gamma, or None
    counter_ptr,  # [groups + 1], or None
    group_size,
    beta: tl.float64,
    rows: tl.int64,
    cols,
    splits,
    split_cols,
    ARITHMETIC: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    log_gamma, root = log_gamma_terms(log_gamma_ptr, ARITHMETIC)
    tile = tl.program_id(0) // splits
    part = tl.program_id(0) % splits
    row = tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside_row = row < rows
    grad_scale = root / rows.to(ARITHMETIC) * root
    squares = tl.zeros([ROWS, COLS], ARITHMETIC)
    for first_col in range(part * split_cols, tl.minimum(cols, (part + 1) * split_cols), COLS):
        col = first_col + tl.arange(0, COLS)[None, :].to(tl.int64)
        inside = inside_row[:, None] & (col < cols)
        x_hat = read_tile(x_hat_ptr, x_hat_row_stride, x_hat_col_stride, row[:, None], col, inside, ARITHMETIC)
        x = read_tile(x_ptr, x_row_stride, x_col_stride, row[:, None], col, inside, ARITHMETIC)
        difference = x_hat - x
        squares += difference * difference
        if grad_x_hat_ptr is not None:
            write(grad_x_hat_ptr + row[:, None] * cols + col, grad_scale * difference, inside)
    squared_error = tl.sum(squares, axis=1)
    complete = True
    if part_ptr is not None:
        tl.store(part_ptr + row * splits + part, squared_error, mask=inside_row)
        complete = is_last(part_counter_ptr + tile, splits)
        squared_error = tl.zeros([ROWS], ARITHMETIC)
        if complete:
            for other in range(0, splits):
                squared_error += tl.load(
                    part_ptr + row * splits + other, mask=inside_row, other=0.0, cache_modifier=".cg"
                )
    if complete:
        scaled = squared_error * root * root
        nll = 0.5 * (scaled + cols * (LOG_2PI + log_gamma))
        tl.store(squared_error_ptr + row, squared_error, mask=inside_row)
        tl.store(nll_ptr + row, nll, mask=inside_row)
        if kl_ptr is not None:
            kl = tl.load(kl_ptr + row * kl_stride, mask=inside_row, other=0.0)
            losses = tl.where(inside_row, nll.to(tl.float64) + beta * kl.to(tl.float64), 0.0)
            slopes = tl.where(inside_row, 0.5 * (cols - scaled), 0.0).to(tl.float64)
            partial_row = partial_ptr + tile.to(tl.int64) * 2
            tl.store(partial_row, tl.sum(losses, axis=0))
            tl.store(partial_row + 1, tl.sum(slopes, axis=0))
            tiles = tl.num_programs(0) // splits
            if add_up_group(partial_ptr, counter_ptr, group_size, tile, tiles, 2, 64, 2):
                means = sum_of_groups(partial_ptr, group_size, tiles, 0, 2, 64, 2) / rows.to(tl.float64)
                which = tl.arange(0, 2)
                loss = tl.sum(tl.where(which == 0, means, 0.0), axis=0)
                grad_log_gamma = tl.sum(tl.where(which == 1, means, 0.0), axis=0)
                tl.store(loss_ptr, loss.to(loss_ptr.dtype.element_ty))
                tl.store(grad_log_gamma_ptr, grad_log_gamma.to(grad_log_gamma_ptr.dtype.element_ty))
                tl.store(grad_kl_ptr, (beta / rows.to(tl.float64)).to(grad_kl_ptr.dtype.element_ty))


class Split(NamedTuple):
    """How many programs share a row, and which columns each of them takes."""

    tile_rows: int
    tile_cols: int
    tiles: int
    splits: int
    cols: int


def split(rows: int, cols: int, dtype: torch.dtype) -> Split:
    """Whole rows for each program, but parts of a few long ones, such as images: a GPU needs many programs."""
    elements = 2 * tile_elements(dtype)
    tile_rows, tile_width = tile_shape(cols, elements)
    tiles = triton.cdiv(rows, tile_rows)
    long = 4 * elements
    splits = triton.cdiv(cols, long) if cols > long and tiles < 1024 else 1
    return Split(tile_rows, tile_width, tiles, splits, long if splits > 1 else max(cols, 1))


def launch_forward(
    x_hat: Tensor,
    x: Tensor,
    log_gamma: Tensor,
    kl: Tensor | None = None,
    beta: float = 0.0,
    grad_x_hat: Tensor | None = None,
    loss: Tensor | None = None,
    grad_log_gamma: Tensor | None = None,
    grad_kl: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """nll and squared error; the other results are written in place."""
    rows, cols = x_hat.shape
    dtype, triton_dtype = arithmetic(x_hat, x)
    nll, squared_error = x_hat.new_empty(rows, dtype=dtype), x_hat.new_empty(rows, dtype=dtype)
    if rows == 0:
        return nll, squared_error
    at = split(rows, cols, dtype)
    parts = at.splits > 1
    forward_kernel[(at.tiles * at.splits,)](
        *strided(x_hat, rows),
        *strided(x, rows),
        log_gamma_ptr=log_gamma,
        kl_ptr=kl,
        kl_stride=0 if kl is None else kl.stride(0),
        nll_ptr=nll,
        squared_error_ptr=squared_error,
        grad_x_hat_ptr=grad_x_hat,
        loss_ptr=loss,
        grad_log_gamma_ptr=grad_log_gamma,
        grad_kl_ptr=grad_kl,
        part_ptr=nll.new_empty(rows, at.splits) if parts else None,
        part_counter_ptr=torch.zeros(at.tiles, dtype=torch.int32, device=nll.device) if parts else None,
        **batch_sum(x_hat, at.tiles, 0 if kl is None else 2, torch.float64),
        beta=beta,
        rows=rows,
        cols=cols,
        splits=at.splits,
        split_cols=at.cols,
        ARITHMETIC=triton_dtype,
        ROWS=at.tile_rows,
        COLS=at.tile_cols,
    )
    return nll, squared_error


def gaussian_nll(x_hat: Tensor, x: Tensor, log_gamma: Tensor) -> tuple[Tensor, Tensor]:
    """nll and squared error."""
    return launch_forward(x_hat, x, log_gamma)


@triton.jit(do_not_specialize=["rows", "splits", "split_cols", "group_size"])
def backward_kernel(
    x_hat_ptr,  # [rows, cols]
    x_hat_row_stride,
    x_hat_col_stride,
    x_ptr,  # [rows, cols]
    x_row_stride,
    x_col_stride,
    grad_nll_ptr,  # [rows], or None
    grad_nll_stride,
    grad_squared_error_ptr,  # [rows], or None
    grad_squared_error_stride,
    log_gamma_ptr,  # []
    squared_error_ptr,  # [rows]
    squared_error_stride,
    grad_x_hat_ptr,  # [rows, cols], dense
    grad_log_gamma_ptr,  # []
    partial_ptr,  # [tiles + groups, 1] float64, None without grad_nll
    counter_ptr,  # [groups + 1], None without grad_nll
    group_size,
    rows: tl.int64,
    cols,
    splits,
    split_cols,
    ARITHMETIC: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    _, root = log_gamma_terms(log_gamma_ptr, ARITHMETIC)
    tile = tl.program_id(0) // splits
    part = tl.program_id(0) % splits
    row = tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside_row = row < rows
    scale = tl.zeros([ROWS], ARITHMETIC)
    if grad_nll_ptr is not None:
        grad_nll = read(grad_nll_ptr + row * grad_nll_stride, inside_row, ARITHMETIC)
        scale = grad_nll * root * root
    if grad_squared_error_ptr is not None:
        offset = row * grad_squared_error_stride
        scale += 2.0 * read(grad_squared_error_ptr + offset, inside_row, ARITHMETIC)
    for first_col in range(part * split_cols, tl.minimum(cols, (part + 1) * split_cols), COLS):
        col = first_col + tl.arange(0, COLS)[None, :].to(tl.int64)
        inside = inside_row[:, None] & (col < cols)
        x_hat = read_tile(x_hat_ptr, x_hat_row_stride, x_hat_col_stride, row[:, None], col, inside, ARITHMETIC)
        x = read_tile(x_ptr, x_row_stride, x_col_stride, row[:, None], col, inside, ARITHMETIC)
        write(grad_x_hat_ptr + row[:, None] * cols + col, scale[:, None] * (x_hat - x), inside)
    # Who adds up the gradient of log gamma has done its share of the gradient of x_hat: nothing waits for it.
    if grad_nll_ptr is not None:
        add_up_slopes = part == 0
        if add_up_slopes:
            squared_error = read(squared_error_ptr + row * squared_error_stride, inside_row, ARITHMETIC)
            slopes = tl.where(inside_row, 0.5 * grad_nll * (cols - squared_error * root * root), 0.0).to(tl.float64)
            tl.store(partial_ptr + tile, tl.sum(slopes, axis=0))
            tiles = tl.num_programs(0) // splits
            if add_up_group(partial_ptr, counter_ptr, group_size, tile, tiles, 1, 128, 1):
                total = tl.sum(sum_of_groups(partial_ptr, group_size, tiles, 0, 1, 128, 1), axis=0)
                tl.store(grad_log_gamma_ptr, total.to(grad_log_gamma_ptr.dtype.element_ty))


def gaussian_nll_backward(
    grad_nll: Tensor | None,
    grad_squared_error: Tensor | None,
    x_hat: Tensor,
    x: Tensor,
    log_gamma: Tensor,
    squared_error: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradients of x_hat and of log_gamma."""
    rows, cols = x_hat.shape
    dtype, triton_dtype = arithmetic(x_hat, x)
    grad_x_hat = x_hat.new_empty(rows, cols)
    without = rows == 0 or grad_nll is None
    grad_log_gamma = torch.zeros_like(log_gamma) if without else torch.empty_like(log_gamma)
    if rows == 0:
        return grad_x_hat, grad_log_gamma
    at = split(rows, cols, dtype)
    backward_kernel[(at.tiles * at.splits,)](
        *strided(x_hat, rows),
        *strided(x, rows),
        grad_nll_ptr=grad_nll,
        grad_nll_stride=0 if grad_nll is None else grad_nll.stride(0),
        grad_squared_error_ptr=grad_squared_error,
        grad_squared_error_stride=0 if grad_squared_error is None else grad_squared_error.stride(0),
        log_gamma_ptr=log_gamma,
        squared_error_ptr=squared_error,
        squared_error_stride=squared_error.stride(0),
        grad_x_hat_ptr=grad_x_hat,
        grad_log_gamma_ptr=grad_log_gamma,
        **batch_sum(x_hat, at.tiles, 0 if grad_nll is None else 1, torch.float64),
        rows=rows,
        cols=cols,
        splits=at.splits,
        split_cols=at.cols,
        ARITHMETIC=triton_dtype,
        ROWS=at.tile_rows,
        COLS=at.tile_cols,
    )
    return grad_x_hat, grad_log_gamma
