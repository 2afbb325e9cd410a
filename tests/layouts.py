"""Numbers of any magnitude, in tensors that lie in memory in any way."""

import math

import torch
from torch import Tensor

VIEWS = ("dense", "first head", "second head", "transposed", "steps", "offset")
LAYOUTS = (*VIEWS, "one row", "one column", "one number")


def any_magnitude(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Numbers of either sign, their logarithms spread evenly from ``low`` to ``high``: dense around 0."""
    exponent = torch.empty(shape, dtype=torch.float64).uniform_(math.log(low), math.log(high), generator=generator)
    sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    return exponent.exp() * sign


def lay_out(values: Tensor, layout: str) -> Tensor:
    """A matrix of these values, or for an expanded one of some of them, that lies in memory as the layout says.

    Memory around a view is NaN: whoever reads it is found out.
    """
    rows, cols = values.shape
    if layout == "dense":
        return values.clone()
    if layout in ("first head", "second head"):  # as of a network with one output layer: h.chunk(2, dim=1)
        heads = values.new_full((rows, 2 * cols), math.nan)
        view = heads[:, :cols] if layout == "first head" else heads[:, cols:]
    elif layout == "transposed":
        view = values.new_empty((cols, rows)).t()
    elif layout == "steps":
        view = values.new_full((2 * rows + 1, 3 * cols + 2), math.nan)[1 : 2 * rows + 1 : 2, 2 : 3 * cols + 2 : 3]
    elif layout == "offset":  # neither aligned nor whole
        view = values.new_full((rows * cols + 3,), math.nan)[1 : rows * cols + 1].view(rows, cols)
    elif layout == "one row":
        return values[:1].expand(rows, cols) if rows else values
    elif layout == "one column":
        return values[:, :1].expand(rows, cols) if cols else values
    elif layout == "one number":
        return values[:1, :1].expand(rows, cols) if rows and cols else values
    else:
        raise ValueError(layout)
    return view.copy_(values)


def lay_out_vector(values: Tensor, layout: str) -> Tensor:
    """The same for one number a row, such as an incoming gradient."""
    if layout == "one number":
        return values[:1].expand(len(values)) if len(values) else values
    return lay_out(values.unsqueeze(1), layout).squeeze(1)
