"""Arrays as large as the memory, a part at a time."""

from collections.abc import Iterator
from typing import Any

import numpy.typing as npt

__all__ = ["blocks"]

BLOCK = 1 << 20  # numbers in float64 at a time


def blocks(source: npt.NDArray[Any]) -> Iterator[slice]:
    """Slices of rows with about BLOCK numbers each."""
    rows = max(BLOCK // source[0].size, 1)
    return (slice(first, first + rows) for first in range(0, len(source), rows))
