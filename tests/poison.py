"""Memory that holds rubbish before a result is written to it."""

import ctypes
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

M_PERTURB = -6  # glibc: each block is filled with the complement of this byte before malloc hands it out
BUFFERS = 12  # of one size: more than the allocator keeps aside before it hands freed memory out again


def fill_new_memory(byte: int) -> None:
    """From now on every allocation begins as the complement of this byte; 0 ends that. Other C libraries ignore it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_PERTURB, byte)


def fill_free_memory_with_nan(alike: Iterable[Tensor]) -> None:
    """Leave NaN, of every floating type, in the memory that the next tensors of these sizes are likely to get, on the
    same device."""
    buffers = [
        torch.full((one.nbytes,), 0xFF, dtype=torch.uint8, device=one.device) for one in alike for _ in range(BUFFERS)
    ]
    del buffers


def poisoned(function: Callable[[], tuple[Tensor | None, ...]]) -> tuple[Tensor, ...]:
    """f(), a tuple of tensors, after a check that it writes every element of them.

    f is called twice, in memory full of 0xFE, which is about -1e38 (on a GPU in memory as it happens to be), and in
    memory that was last full of NaN. Both calls have to agree to the last bit.
    """
    fill_new_memory(0x01)
    try:
        first = function()
    finally:
        fill_new_memory(0)
    fill_free_memory_with_nan(result for result in first if result is not None)
    second = function()
    for a, b in zip(first, second, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    return second
