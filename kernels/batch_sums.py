"""Sums over the batch, forward and in gradients, in an order that does not depend on the number of threads."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["expand_over_batch", "mean_of_batch", "sum_of_batch"]

# On a CPU PyTorch parallelises a full-tensor sum from 32,768 elements, but never a row sum.
ROW = 2**14
PARALLEL_FROM = 2 * ROW


def sum_of_batch(values: Tensor) -> Tensor:
    """Σ_b values_b of ``[B]``."""
    if not _is_split(values):
        return values.sum()
    return sum_of_batch(F.pad(values, (0, -values.shape[0] % ROW)).unflatten(0, (-1, ROW)).sum(dim=1))


def mean_of_batch(values: Tensor) -> Tensor:
    """The same over B; NaN for an empty batch."""
    return sum_of_batch(values) / values.shape[0] if _is_split(values) else values.mean()


def expand_over_batch(value: Tensor, values: Tensor) -> Tensor:
    """``value`` ``[]`` ready to broadcast with ``values`` ``[B]``, so that its gradient is such a sum as well."""
    if not _is_split(values):
        return value
    batch = values.shape[0]
    return value.expand(-(-batch // ROW)).unsqueeze(1).expand(-1, ROW).flatten()[:batch]


def _is_split(values: Tensor) -> bool:
    """Never under torch.compile or torch.export: a check of the size would restrict the program to small batches."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling() and values.shape[0] >= PARALLEL_FROM
