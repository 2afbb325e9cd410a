"""What the launchers of the Triton kernels share: sizes of tiles, types, strides, the split of a sum over the batch.

All sizes follow from shapes and types alone: the numbers do not depend on the device.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .checks import accumulation_dtype

__all__ = [
    "WARPS",
    "Batch",
    "Partials",
    "arithmetic",
    "broadcast_strides",
    "most_registers",
    "partials",
    "row_strides",
    "split_batch",
    "tile_cols",
    "tile_elements",
]

WARPS = 8
PROGRAMS_OF_A_SUM = 512  # enough to fill a GPU, few enough for the last ones, which add up


def arithmetic(*tensors: Tensor | None) -> tuple[torch.dtype, tl.dtype]:
    """The type that the arithmetic of a call is done in, as torch and Triton name it."""
    dtype = accumulation_dtype(*tensors)
    return dtype, tl.float64 if dtype == torch.float64 else tl.float32


def broadcast_strides(tensor: Tensor | None, rows: int) -> tuple[int, int]:
    """Of a matrix with that many rows, or with one row that stands for all."""
    if tensor is None:
        return 0, 0
    row_stride, col_stride = tensor.stride()
    return (row_stride if tensor.shape[0] == rows else 0), col_stride


def row_strides(tensor: Tensor | None) -> tuple[int, int]:
    """Of a matrix, or of one number a row, which stands for all columns."""
    if tensor is None:
        return 0, 0
    return tensor.stride(0), tensor.stride(1) if tensor.dim() == 2 else 0


def tile_elements(dtype: torch.dtype, sums_kept: bool = False) -> int:
    """The elements of a tile. A thread of ``WARPS`` warps holds 16 bytes of each tensor, one access to memory; half as
    many where it also keeps sums over the batch."""
    return (2048 if sums_kept else 4096) // dtype.itemsize


def most_registers(dtype: torch.dtype, *inputs: Tensor | None) -> int:
    """Of a thread, for kernels that hold much: left alone the compiler spills some bytes to fit one more block on a
    processor. Two blocks of ``WARPS`` warps; one in float64, and where the columns of an input do not lie side by side,
    whose addresses take registers as well."""
    side_by_side = all(tensor is None or tensor.dim() < 2 or tensor.stride(1) == 1 for tensor in inputs)
    return 128 if dtype == torch.float32 and side_by_side else 255


def tile_cols(cols: int, widest: int) -> int:
    """The columns of a tile, at least a whole block of noise."""
    return min(max(triton.next_power_of_2(cols), 4), widest)


class Batch(NamedTuple):
    """Programs, and the rows that each of them works on."""

    programs: int
    rows: int


def split_batch(rows: int, tile_rows: int, summed: bool) -> Batch:
    """One tile of rows for each program, or where a sum over the batch is wanted so many that partial sums are few."""
    tiles = triton.cdiv(rows, tile_rows)
    tiles_each = triton.cdiv(tiles, PROGRAMS_OF_A_SUM) if summed else 1
    return Batch(triton.cdiv(tiles, tiles_each), tiles_each * tile_rows)


class Partials(NamedTuple):
    """Where a sum over the batch is made; all None where there is none. See ``add_up_group``."""

    sums: Tensor | None
    counters: Tensor | None
    group_size: int


def partials(like: Tensor, members: int, cols: int, dtype: torch.dtype) -> Partials:
    """Room for ``members`` partial sums of ``cols`` columns, in about as many groups as a group has members."""
    if members == 0 or cols == 0:
        return Partials(None, None, 1)
    group_size = triton.next_power_of_2(int(members**0.5))
    groups = triton.cdiv(members, group_size)
    return Partials(
        like.new_empty((members + groups, cols), dtype=dtype),
        torch.zeros(groups + 1, dtype=torch.int32, device=like.device),
        group_size,
    )
