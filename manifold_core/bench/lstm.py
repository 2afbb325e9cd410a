"""An LSTM over the steps of sequences, forward and backward: the network of Table 8 and of Theorem 3.

PyTorch        `torch.nn.LSTM`
manifold_core  `manifold_core.kernels.lstm`
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..kernels import lstm
from .comparison import Comparison, Problem, contender, in_float64, largest_difference

__all__ = ["COMPARISON"]

WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def problem(batch: int, length: int, inputs: int, hidden: int) -> Problem:
    """Sequences, the weights that a layer begins with, and the gradient of its outputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.LSTM(inputs, hidden, batch_first=True)
        x, incoming = torch.randn(batch, length, inputs), torch.randn(batch, length, hidden)
    weights = {name: getattr(layer, name).detach().requires_grad_() for name in WEIGHTS}
    return {"x": x, "incoming": incoming, **weights}


def by_pytorch(p: Problem) -> Tensor:
    """For any dtype, by the function that torch.nn.LSTM calls."""
    weights = [p[name] for name in WEIGHTS]
    nothing = p["x"].new_zeros(1, len(p["x"]), weights[1].shape[1])
    y: Tensor = torch.lstm(p["x"], (nothing, nothing), weights, True, 1, 0.0, True, False, True)[0]
    return y


def ours(p: Problem) -> Tensor:
    return lstm(p["x"], *(p[name] for name in WEIGHTS))


def gradients(way: Callable[[Problem], Tensor], p: Problem) -> tuple[Tensor, ...]:
    return torch.autograd.grad(way(p), [p[name] for name in WEIGHTS], p["incoming"])


def error(*size: int) -> float:
    """The error of outputs and gradients, against PyTorch's in float64."""
    p = problem(*size)
    q = in_float64(p)
    return largest_difference((ours(p), *gradients(ours, p)), (by_pytorch(q), *gradients(by_pytorch, q)))


def operations(batch: int, length: int, inputs: int, hidden: int) -> int:
    """The operations of the matrix products: three of each, except that x has no gradient."""
    return 2 * batch * length * 4 * hidden * (2 * inputs + 3 * hidden)


def bytes_moved(batch: int, length: int, inputs: int, hidden: int) -> int:
    """x, outputs and their gradient, and what is kept between the passes, written and read; float32."""
    return 4 * batch * length * (2 * inputs + 2 * hidden + 2 * 5 * hidden)


COMPARISON = Comparison(
    name="lstm",
    title="An LSTM, forward and backward",
    axes="B, steps, d, units",
    goals=dict.fromkeys(((128, 6, 10, 32), (128, 20, 10, 64), (1024, 6, 10, 32), (4096, 6, 10, 32)), math.nan),
    contenders={
        "PyTorch": contender(problem, gradients, by_pytorch),
        "manifold_core": contender(problem, gradients, ours),
    },
    error=error,
    allowed=1e-5,
    bytes_moved=bytes_moved,
    operations=operations,
    bound="product",
)
