"""One computation done in several ways, on a CPU: what the comparisons of this folder share."""

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

__all__ = [
    "Call",
    "Comparison",
    "Forward",
    "Problem",
    "Quartiles",
    "contender",
    "failed",
    "in_float64",
    "largest",
    "largest_difference",
    "largest_error",
    "left_out",
    "timed",
]

UNTIMED = 3  # calls at the beginning, after the first of all, which may compile
FEWEST = 4  # timed calls
Problem = dict[str, Tensor]
Forward = Callable[[Problem], tuple[Tensor, Tensor]]  # gives what gradients are taken of: loss and z, or z and KL
Quartiles = tuple[float, float, float]
Way = TypeVar("Way")


class Call(NamedTuple):
    """What is timed."""

    run: Callable[[], object]
    steps: int = 1  # that one run makes; times are per step


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Args:
        name: on the command line.
        title: of the table.
        axes: names of the numbers of a size.
        goals: the sizes, ascending, since a process keeps the memory it once had; for each, how many times faster than
            the yardstick the project wants to be, NaN if nothing was set.
        contenders: name → what prepares a call of one size. The first is the yardstick. An ImportError says that a peer
            is not installed.
        ours: the names of this library's ways; ratios are to the first, but for peers in ``beside``.
        error: of our result, relative, at one size.
        allowed: error; a larger one leaves a size without figures.
        bytes_moved: each array once, in bytes, at one size.
        operations: additions, multiplications, exponentials and so on in the formulas, without noise, at one size.
        slow: contenders that take seconds before their first result, left out if time runs short.
        bound: what the share is of, the machine's copy or its matrix product.
        beside: peer → which of ours does the same, if that is not the first.
    """

    name: str
    title: str
    axes: str
    goals: dict[tuple[int, ...], float]
    contenders: dict[str, Callable[..., Call]]
    error: Callable[..., float]
    allowed: float
    bytes_moved: Callable[..., int]
    operations: Callable[..., int]
    ours: tuple[str, ...] = ("manifold_core",)
    slow: frozenset[str] = field(default=frozenset({"torch.compile"}))
    bound: str = "copy"
    beside: dict[str, str] = field(default_factory=dict)

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        return list(self.goals)

    @property
    def peers(self) -> list[str]:
        return [name for name in self.contenders if name not in self.ours]


def contender(
    problem: Callable[..., Problem], gradients: Callable[[Way, Problem], tuple[Tensor, ...]], way: Way
) -> Callable[..., Call]:
    """For one way to compute something: what prepares forward and backward of one size."""

    def prepare(*size: int) -> Call:
        p = problem(*size)
        return Call(lambda: gradients(way, p))

    return prepare


def timed(call: Call, seconds: float) -> Quartiles:
    """Microseconds per step, over the calls that ``seconds`` have room for."""
    for _ in range(1 + UNTIMED):
        call.run()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < FEWEST or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call.run()
        times.append(time.perf_counter() - start)
    low, median, high = (1e6 * t / call.steps for t in statistics.quantiles(times, n=4))
    return low, median, high


def left_out(seconds_left: float, needed: float = 0.0) -> str:
    """Why nothing is begun; empty if there is time."""
    return f"left out: {max(seconds_left, 0):.0f} s left" if seconds_left < needed else ""


def failed(failure: Exception) -> str:
    """Why there are no figures; no failure may cost other contenders theirs."""
    return f"failed: {failure!r}"[:200]


def largest(errors: Iterable[float]) -> float:
    """NaN if one is."""
    return float(torch.tensor([*errors], dtype=torch.float64).max())


def largest_difference(ours: Iterable[Tensor], exact: Iterable[Tensor], floor: float = 0.0) -> float:
    """Over all tensors: the largest difference over the largest value; NaN if one is not a number.

    Args:
        floor: a difference is divided by no less than this, for tensors that may be near 0.
    """
    pairs = [(a.detach().cpu().double(), b.detach().cpu().double()) for a, b in zip(ours, exact, strict=True)]
    found = torch.stack([(a - b).abs().max() / b.abs().max().clamp(min=floor) for a, b in pairs])
    return math.nan if found.isnan().any() else float(found.max())


def in_float64(p: Problem) -> Problem:
    """The same numbers, for the reference."""
    return {name: tensor.detach().double().requires_grad_(tensor.requires_grad) for name, tensor in p.items()}


def largest_error(
    ours: Forward, exact: Forward, gradients: Callable[[Forward, Problem], tuple[Tensor, ...]], p: Problem
) -> float:
    """The error of our results and gradients, against the definition in float64."""
    q = in_float64(p)
    return largest_difference((*ours(p), *gradients(ours, p)), (*exact(q), *gradients(exact, q)))
