"""What this machine can do: the bandwidth of a copy and the speed of PyTorch's matrix product, on all threads.

Measured like a comparison, in the same run, so that the shares of both mean something.
"""

import torch

from .comparison import Call, Comparison

__all__ = ["COMPARISON", "COPY", "PRODUCT"]

COPY, PRODUCT = "copy", "matrix product"
FLOATS, WIDTH = 2**25, 2048  # past the caches; large enough for the product to reach its best


def _copy(*_: int) -> Call:
    source, target = torch.zeros(FLOATS), torch.zeros(FLOATS)
    return Call(lambda: target.copy_(source))


def _product(*_: int) -> Call:
    a, b = torch.randn(WIDTH, WIDTH), torch.randn(WIDTH, WIDTH)
    return Call(lambda: torch.mm(a, b))


COMPARISON = Comparison(
    name="machine",
    title="This machine: a copy of 128 MiB, a matrix product of 2,048",
    axes="floats, width",
    goals={(FLOATS, WIDTH): float("nan")},
    contenders={COPY: _copy, PRODUCT: _product},
    error=lambda *_: 0.0,
    allowed=1.0,
    bytes_moved=lambda *_: 2 * 4 * FLOATS,  # of the copy: read and written
    operations=lambda *_: 2 * WIDTH**3,  # of the product
    ours=(),
)
