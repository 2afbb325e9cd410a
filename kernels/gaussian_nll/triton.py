"""``gaussian_nll`` in Triton: one launch forward, one backward. ``gaussian_elbo`` has the same forward kernel."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..triton_launch import arithmetic, partials, tile_cols, tile_elements
from ..triton_math import add_up_group, exponential, is_last, read, sum_of_rows, write

__all__ = ["Split", "forward_kernel", "gaussian_nll", "gaussian_nll_backward", "part_sums", "split"]


@triton.jit
def log_gamma_terms(log_gamma_ptr, dtype: tl.constexpr):
    """log gamma and gamma^(-1/2). Twice a factor of the root stays in range where 1 / gamma would not."""
    exact = tl.load(log_gamma_ptr)
    log_gamma = exact.to(dtype)
    rest = (exact - log_gamma.to(exact.dtype)).to(dtype)  # 0 but for a float64 log gamma in float32 arithmetic
    root, _, _ = exponential(-0.5 * log_gamma)
    return log_gamma, root - root * (0.5 * rest)


@triton.jit(do_not_specialize=["rows", "splits", "split_cols", "group_size"])
def forward_kernel(
    x_hat_ptr,  # [rows, cols]
    x_ptr,  # [rows, cols]
    log_gamma_ptr,  # []
    kl_ptr,  # [rows], or None where no loss is wanted
    nll_ptr,  # [rows], dense
    squared_error_ptr,  # [rows], dense
    grad_x_hat_ptr,  # [rows, cols], dense: the loss's, or None
    loss_ptr,  # [], or None
    grad_log_gamma_ptr,  # [], or None
    grad_kl_ptr,  # [], or None
    part_ptr,  # [rows, splits], or None where a program reads whole rows
    part_counter_ptr,  # [tiles], or None
    partial_ptr,  # [tiles + groups, 2] float64: sums of the loss and of the gradient of log gamma, or None
    counter_ptr,  # [groups + 1], or None
    beta: tl.float64,
    rows: tl.int64,
    cols,
    splits,
    split_cols,
    group_size,
    x_hat_row_stride,
    x_hat_col_stride,
    x_row_stride,
    x_col_stride,
    kl_stride,
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
        x_hat = read(x_hat_ptr + row[:, None] * x_hat_row_stride + col * x_hat_col_stride, inside, ARITHMETIC)
        x = read(x_ptr + row[:, None] * x_row_stride + col * x_col_stride, inside, ARITHMETIC)
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
        nll = 0.5 * (scaled + cols * (1.8378770664093454836 + log_gamma))
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
            if add_up_group(partial_ptr, counter_ptr, tile, tiles, group_size, 2, 64, 2):
                end = tiles + tl.cdiv(tiles, group_size)
                mean = sum_of_rows(partial_ptr, tiles, end, 0, 2, 64, 2) / rows.to(tl.float64)
                which = tl.arange(0, 2)
                loss = tl.sum(tl.where(which == 0, mean, 0.0), axis=0)
                grad_log_gamma = tl.sum(tl.where(which == 1, mean, 0.0), axis=0)
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
    """Whole rows for each program, but where few are long, as of images, parts of them: a GPU needs many programs."""
    elements = 2 * tile_elements(dtype)
    width = tile_cols(cols, elements)
    tiles = triton.cdiv(rows, elements // width)
    long = 4 * elements
    splits = triton.cdiv(cols, long) if cols > long and tiles < 1024 else 1
    return Split(elements // width, width, tiles, splits, long if splits > 1 else max(cols, 1))


def gaussian_nll(x_hat: Tensor, x: Tensor, log_gamma: Tensor) -> tuple[Tensor, Tensor]:
    """nll and squared error."""
    rows, cols = x_hat.shape
    dtype, triton_dtype = arithmetic(x_hat, x)
    nll, squared_error = x_hat.new_empty(rows, dtype=dtype), x_hat.new_empty(rows, dtype=dtype)
    if rows == 0:
        return nll, squared_error
    at = split(rows, cols, dtype)
    forward_kernel[(at.tiles * at.splits,)](
        x_hat,
        x,
        log_gamma,
        None,
        nll,
        squared_error,
        None,
        None,
        None,
        None,
        *part_sums(nll, at),
        None,
        None,
        0.0,
        rows,
        cols,
        at.splits,
        at.cols,
        1,
        *x_hat.stride(),
        *x.stride(),
        0,
        ARITHMETIC=triton_dtype,
        ROWS=at.tile_rows,
        COLS=at.tile_cols,
    )
    return nll, squared_error


def part_sums(nll: Tensor, at: Split) -> tuple[Tensor | None, Tensor | None]:
    """Where the programs that share rows put their sums, and count themselves."""
    if at.splits == 1:
        return None, None
    counters = torch.zeros(at.tiles, dtype=torch.int32, device=nll.device)
    return nll.new_empty(nll.shape[0], at.splits), counters


@triton.jit(do_not_specialize=["rows", "splits", "split_cols", "group_size"])
def backward_kernel(
    grad_nll_ptr,  # [rows], or None
    grad_squared_error_ptr,  # [rows], or None
    x_hat_ptr,  # [rows, cols]
    x_ptr,  # [rows, cols]
    log_gamma_ptr,  # []
    squared_error_ptr,  # [rows]
    grad_x_hat_ptr,  # [rows, cols], dense
    grad_log_gamma_ptr,  # []
    partial_ptr,  # [tiles + groups, 1] float64, None without grad_nll
    counter_ptr,  # [groups + 1], None without grad_nll
    rows: tl.int64,
    cols,
    splits,
    split_cols,
    group_size,
    grad_nll_stride,
    grad_squared_error_stride,
    x_hat_row_stride,
    x_hat_col_stride,
    x_row_stride,
    x_col_stride,
    squared_error_stride,
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
        at = grad_squared_error_ptr + row * grad_squared_error_stride
        scale += 2.0 * read(at, inside_row, ARITHMETIC)
    for first_col in range(part * split_cols, tl.minimum(cols, (part + 1) * split_cols), COLS):
        col = first_col + tl.arange(0, COLS)[None, :].to(tl.int64)
        inside = inside_row[:, None] & (col < cols)
        x_hat = read(x_hat_ptr + row[:, None] * x_hat_row_stride + col * x_hat_col_stride, inside, ARITHMETIC)
        x = read(x_ptr + row[:, None] * x_row_stride + col * x_col_stride, inside, ARITHMETIC)
        write(grad_x_hat_ptr + row[:, None] * cols + col, scale[:, None] * (x_hat - x), inside)
    # Who adds up the gradient of log gamma has done its share of the gradient of x_hat: nothing waits for it.
    if grad_nll_ptr is not None:
        add_up_slopes = part == 0
        if add_up_slopes:
            squared_error = read(squared_error_ptr + row * squared_error_stride, inside_row, ARITHMETIC)
            slopes = tl.where(inside_row, 0.5 * grad_nll * (cols - squared_error * root * root), 0.0).to(tl.float64)
            tl.store(partial_ptr + tile, tl.sum(slopes, axis=0))
            tiles = tl.num_programs(0) // splits
            if add_up_group(partial_ptr, counter_ptr, tile, tiles, group_size, 1, 128, 1):
                end = tiles + tl.cdiv(tiles, group_size)
                total = tl.sum(sum_of_rows(partial_ptr, tiles, end, 0, 1, 128, 1), axis=0)
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
    sums, counters, group_size = partials(x_hat, at.tiles, 0 if grad_nll is None else 1, torch.float64)
    backward_kernel[(at.tiles * at.splits,)](
        grad_nll,
        grad_squared_error,
        x_hat,
        x,
        log_gamma,
        squared_error,
        grad_x_hat,
        grad_log_gamma,
        sums,
        counters,
        rows,
        cols,
        at.splits,
        at.cols,
        group_size,
        0 if grad_nll is None else grad_nll.stride(0),
        0 if grad_squared_error is None else grad_squared_error.stride(0),
        *x_hat.stride(),
        *x.stride(),
        squared_error.stride(0),
        ARITHMETIC=triton_dtype,
        ROWS=at.tile_rows,
        COLS=at.tile_cols,
    )
    return grad_x_hat, grad_log_gamma
