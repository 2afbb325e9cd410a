"""Sums over programs in Triton: how the launcher makes room for them, and how the kernels add up.

Each program writes the partial sum of its rows of the batch. The program that is the last of its group to do so adds up
the group's, and the last of those programs adds up the groups'. Who comes last is chance, the order of the additions is
not.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_math import write

PROGRAMS_OF_A_SUM = 512  # enough to fill a GPU, few enough for the last ones, which add up


class Batch(NamedTuple):
    """Programs, and the rows that each of them works on."""

    programs: int
    rows: int


def split_batch(rows: int, tile_rows: int, summed: bool) -> Batch:
    """One tile of rows for each program; if a sum over the batch is wanted, as many as keep the partial sums few."""
    tiles = triton.cdiv(rows, tile_rows)
    tiles_each = triton.cdiv(tiles, PROGRAMS_OF_A_SUM) if summed else 1
    return Batch(triton.cdiv(tiles, tiles_each), tiles_each * tile_rows)


def batch_sum(like: Tensor, partials: int, cols: int, dtype: torch.dtype) -> dict[str, Tensor | int | None]:
    """A kernel's arguments for a sum over the batch: room for the partial sums of ``cols`` columns, in about as many
    groups as a group has members; all None if there is nothing to sum."""
    if partials == 0 or cols == 0:
        return {"partial_ptr": None, "counter_ptr": None, "group_size": 1}
    group_size = triton.next_power_of_2(int(partials**0.5))
    groups = triton.cdiv(partials, group_size)
    return {
        "partial_ptr": like.new_empty((partials + groups, cols), dtype=dtype),
        "counter_ptr": torch.zeros(groups + 1, dtype=torch.int32, device=like.device),
        "group_size": group_size,
    }


@triton.jit
def is_last(counter, total):
    """Whether total - 1 programs have come here before; what they have written can be read then."""
    tl.debug_barrier()
    return tl.atomic_add(counter, 1, sem="acq_rel") == total - 1


@triton.jit
def sum_of_rows(pointer, first, last, first_col, cols, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Rows first to last of [.., cols], added up in columns first_col to first_col + COLS."""
    col = first_col + tl.arange(0, COLS)
    total = tl.zeros([ROWS, COLS], pointer.dtype.element_ty)
    for start in range(first, last, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < last)[:, None] & (col < cols)[None, :]
        # Not from this processor's own cache: others have written it.
        total += tl.load(
            pointer + row.to(tl.int64)[:, None] * cols + col[None, :], mask=mask, other=0.0, cache_modifier=".cg"
        )
    return tl.sum(total, axis=0)


@triton.jit
def add_up_group(
    partial_ptr,  # [partials + groups, cols]: the partial sums, and what each group comes to
    counter_ptr,  # [groups + 1], zeros
    group_size,
    partial,  # the row of this program
    partials,
    cols,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """To be called once the program's row is written. Whether this program is the very last: ``sum_of_groups`` is
    complete then."""
    groups = tl.cdiv(partials, group_size)
    first = partial // group_size * group_size
    last = tl.minimum(first + group_size, partials)
    very_last = False
    if is_last(counter_ptr + partial // group_size, last - first):
        for first_col in range(0, cols, COLS):
            total = sum_of_rows(partial_ptr, first, last, first_col, cols, ROWS, COLS)
            col = first_col + tl.arange(0, COLS)
            tl.store(partial_ptr + (partials + partial // group_size).to(tl.int64) * cols + col, total, mask=col < cols)
        very_last = is_last(counter_ptr + groups, groups)
    return very_last


@triton.jit
def sum_of_groups(partial_ptr, group_size, partials, first_col, cols, ROWS: tl.constexpr, COLS: tl.constexpr):
    end = partials + tl.cdiv(partials, group_size)
    return sum_of_rows(partial_ptr, partials, end, first_col, cols, ROWS, COLS)


@triton.jit
def add_to_rows(pointer, x, first_row, rows, first_col):
    """Sum a tile over its columns, and add to that what the columns before came to."""
    row = first_row + tl.arange(0, x.shape[0])
    total = tl.sum(x, axis=1)
    if first_col > 0:
        total += tl.load(pointer + row, mask=row < rows, other=0.0)
    tl.store(pointer + row, total, mask=row < rows)


# Up to three sums over the batch are made at once; those that are not wanted are None.


@triton.jit
def write_or_sum(pointer, x, mask, total, SUM: tl.constexpr, MINUS: tl.constexpr = False):
    """Write x, or -x; or add it to the total of a sum over the batch, which is returned."""
    if SUM:
        x = tl.where(mask, x, 0.0)
        total = total - x if MINUS else total + x
    else:
        write(pointer, -x if MINUS else x, mask)
    return total


@triton.jit
def store_sum(pointer, x, col, cols):
    total = x if len(x.shape) == 1 else tl.sum(x, axis=0)
    tl.store(pointer + col, total, mask=col < cols)


@triton.jit
def store_sums(partial_ptr, first_col, cols, x_0, x_1, x_2, COLS: tl.constexpr):
    """This program's partial sums of columns first_col to first_col + COLS: vectors, or tiles whose rows are summed."""
    BEFORE_2: tl.constexpr = (x_0 is not None) + (x_1 is not None)
    SUMS: tl.constexpr = BEFORE_2 + (x_2 is not None)
    col = first_col + tl.arange(0, COLS)
    partial_row = partial_ptr + tl.program_id(0).to(tl.int64) * (SUMS * cols)
    if x_0 is not None:
        store_sum(partial_row, x_0, col, cols)
    if x_1 is not None:
        store_sum(partial_row + (x_0 is not None) * cols, x_1, col, cols)
    if x_2 is not None:
        store_sum(partial_row + BEFORE_2 * cols, x_2, col, cols)


@triton.jit
def finish_sums(
    partial_ptr, counter_ptr, group_size, cols, divisor, ptr_0, ptr_1, ptr_2, ROWS: tl.constexpr, COLS: tl.constexpr
):
    """To be called after ``store_sums``: the very last program writes the sums, divided if there is a divisor."""
    BEFORE_2: tl.constexpr = (ptr_0 is not None) + (ptr_1 is not None)
    SUMS: tl.constexpr = BEFORE_2 + (ptr_2 is not None)
    programs = tl.num_programs(0)
    if add_up_group(partial_ptr, counter_ptr, group_size, tl.program_id(0), programs, SUMS * cols, ROWS, COLS):
        for first_col in range(0, cols, COLS):
            col = first_col + tl.arange(0, COLS)
            if ptr_0 is not None:
                total = sum_of_groups(partial_ptr, group_size, programs, first_col, SUMS * cols, ROWS, COLS)
                write(ptr_0 + col, total if divisor is None else total / divisor, col < cols)
            if ptr_1 is not None:
                offset = (ptr_0 is not None) * cols + first_col
                total = sum_of_groups(partial_ptr, group_size, programs, offset, SUMS * cols, ROWS, COLS)
                write(ptr_1 + col, total if divisor is None else total / divisor, col < cols)
            if ptr_2 is not None:
                offset = BEFORE_2 * cols + first_col
                total = sum_of_groups(partial_ptr, group_size, programs, offset, SUMS * cols, ROWS, COLS)
                write(ptr_2 + col, total if divisor is None else total / divisor, col < cols)
