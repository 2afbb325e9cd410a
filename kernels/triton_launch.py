"""What the launchers of the Triton kernels share: types, strides, sizes of tiles, gradients that may be absent.

All sizes follow from shapes and types alone: results do not depend on the device.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .autograd import empty_gradient
from .checks import accumulation_dtype

__all__ = [
    "WARPS",
    "arithmetic",
    "most_registers",
    "optional_gradient",
    "strided",
    "tile_cols",
    "tile_elements",
    "tile_shape",
]

WARPS = 8


def arithmetic(*tensors: Tensor | None) -> tuple[torch.dtype, tl.dtype]:
    """The type that the arithmetic of a call is done in, as torch and Triton name it."""
    dtype = accumulation_dtype(*tensors)
    return dtype, tl.float64 if dtype == torch.float64 else tl.float32


def strided(tensor: Tensor | None, rows: int) -> tuple[Tensor | None, int, int]:
    """A tensor and its strides of rows and columns. A matrix of one row stands for that many rows, a vector of one
    element per row for all columns."""
    if tensor is None:
        return None, 0, 0
    strides = tensor.stride()
    return tensor, strides[0] if tensor.shape[0] == rows else 0, strides[1] if len(strides) == 2 else 0


def tile_elements(dtype: torch.dtype, sums_kept: bool = False) -> int:
    """The elements of a tile. A thread of ``WARPS`` warps holds 16 bytes of each tensor, one access to memory; half as
    many if it also keeps sums over the batch."""
    return (2048 if sums_kept else 4096) // dtype.itemsize


def most_registers(dtype: torch.dtype, *inputs: Tensor | None) -> int:
    """Per thread, for kernels that hold much: left alone the compiler spills some bytes to fit one more block on a
    processor. Enough for two blocks of ``WARPS`` warps; for one in float64, and if the columns of an input do not lie
    side by side, whose addresses take registers as well."""
    side_by_side = all(tensor is None or tensor.dim() < 2 or tensor.stride(1) == 1 for tensor in inputs)
    return 128 if dtype == torch.float32 and side_by_side else 255


def tile_cols(cols: int, widest: int) -> int:
    """The columns of a tile, at least a whole block of noise."""
    return min(max(triton.next_power_of_2(cols), 4), widest)


def tile_shape(cols: int, elements: int) -> tuple[int, int]:
    """The rows and columns of a tile, as wide as the matrix if possible."""
    width = tile_cols(cols, elements)
    return elements // width, width


class OptionalGradient(NamedTuple):
    """The gradient of an argument that may be absent, and of which one row may stand for all."""

    result: Tensor  # no elements if it is not wanted
    target: Tensor | None  # what the kernel writes
    summed: bool  # over the batch


def optional_gradient(
    tensor: Tensor | None, like: Tensor, wanted: bool, incoming: Tensor | None, rows: int
) -> OptionalGradient:
    """If no gradient comes in, it is 0, and the kernel need not know of it."""
    result = empty_gradient(tensor, like, wanted)
    if not wanted:
        return OptionalGradient(result, None, False)
    if incoming is None:
        return OptionalGradient(result.zero_(), None, False)
    return OptionalGradient(result, result, result.shape[0] != rows)
