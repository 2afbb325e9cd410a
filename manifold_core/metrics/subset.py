"""A part of many samples, for measurements that need no more."""

import torch
from torch import Tensor

__all__ = ["some_of", "some_rows"]


def some_rows(rows: int, most: int) -> Tensor:
    """At most this many of the rows, drawn at random, always the same, in their order: tables are often sorted. On the
    CPU, whatever torch's default is."""
    if rows <= most:
        return torch.arange(rows, device="cpu")
    drawn = torch.rand(rows, generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu")
    return drawn.argsort(stable=True)[:most].sort().values


def some_of(inputs: tuple[Tensor, ...], most: int) -> tuple[Tensor, ...]:
    """Those rows of samples and, of a CVAE, of their conditions."""
    rows = some_rows(len(inputs[0]), most)
    return tuple(part[rows.to(part.device)] for part in inputs)
