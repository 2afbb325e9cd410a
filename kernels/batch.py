"""Sums over the batch, also those of a gradient, in an order that does not depend on the number of threads."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["for_each", "mean_of_batch", "sum_of_batch"]

# On a CPU PyTorch splits the sum of a whole tensor between its threads from 32,768 numbers on, but that of no row.
ROW = 2**14
MOST = 2 * ROW


def sum_of_batch(values: Tensor) -> Tensor:
    """Σ_b values_b of ``[B]``."""
    if not _is_split(values):
        return values.sum()
    return sum_of_batch(F.pad(values, (0, -values.shape[0] % ROW)).unflatten(0, (-1, ROW)).sum(dim=1))


def mean_of_batch(values: Tensor) -> Tensor:
    """The same over B; NaN of an empty batch."""
    return sum_of_batch(values) / values.shape[0] if _is_split(values) else values.mean()


def for_each(value: Tensor, values: Tensor) -> Tensor:
    """One number ``[]``, to be calculated with the ``values`` ``[B]``: its gradient is such a sum."""
    if not _is_split(values):
        return value
    batch = values.shape[0]
    return value.expand(-(-batch // ROW)).unsqueeze(1).expand(-1, ROW).flatten()[:batch]


def _is_split(values: Tensor) -> bool:
    """Never where torch compiles or exports: to ask for the size would make a program for small batches alone."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling() and values.shape[0] >= MOST
