"""One op against other ways to compute the same, on a CPU: what the comparisons in this folder share.

Each contender runs in processes of its own, in turn: in one process the first to allocate decides how the C library
treats the memory of the second, by a factor of two. A round is one process of each; the figure to quote is the median
of the rounds' ratios. No ratio is given for a result that is not right.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from manifold_core.kernels.extension import compiled
from torch import Tensor

from manifold_core.provenance import commit, processor

LARGEST_ERROR = 2e-6  # of a gradient in float32, relative to its largest element
PATIENCE = 2.0  # seconds a contender may take for the calls of one size, after the first few
Problem = dict[str, Tensor]
Gradients = tuple[Tensor, ...]


@dataclass(frozen=True)
class Size:
    """One row of the table."""

    shape: tuple[int, ...]
    calls: int  # to take the median of
    wanted: float  # the ratio of the yardstick's time to ours that the project set itself


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Args:
        module: where it is defined, for ``python -m``.
        axes: names of the numbers of a shape.
        sizes: ascending: a process keeps the memory it once had.
        problem: leaf tensors of one size.
        contenders: ``fused`` is ours, the first is the yardstick. Each gives the gradients of the same loss.
        largest_error: of our result, relative; held against :data:`LARGEST_ERROR`.
        bytes_of_arrays: what has to be moved, each array once.
    """

    module: str
    axes: str
    sizes: tuple[Size, ...]
    problem: Callable[..., Problem]
    contenders: dict[str, Callable[[Problem], Gradients]]
    largest_error: Callable[[Problem], float]
    bytes_of_arrays: Callable[..., int]

    def medians(self, contender: str) -> list[float]:
        """Microseconds of one call, for each size."""
        call, found = self.contenders[contender], []
        for size in self.sizes:
            p = self.problem(*size.shape)
            times: list[float] = []
            begin = time.perf_counter()
            while len(times) < size.calls + 5 and (len(times) < 6 or time.perf_counter() - begin < PATIENCE):
                start = time.perf_counter()
                call(p)
                times.append(time.perf_counter() - start)
            found.append(statistics.median(times[min(5, len(times) // 2) :]) * 1e6)
        return found

    def in_own_process(self, contender: str) -> list[float]:
        """What :meth:`medians` gives in a process of its own."""
        command = [sys.executable, "-m", self.module, "--contender", contender]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def main(self, description: str | None) -> None:
        """Print the table; with ``--out``, also write it as JSON."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--rounds", type=int, default=9, help="processes of each contender")
        parser.add_argument("--out", type=Path, help="JSON file of the results")
        parser.add_argument("--contender", choices=self.contenders, help=argparse.SUPPRESS)
        options = parser.parse_args()
        if options.contender:
            print(json.dumps(self.medians(options.contender)))
            return

        where = provenance()
        print(", ".join(f"{name} {value}" for name, value in where.items()))
        errors = [self.largest_error(self.problem(*size.shape)) for size in self.sizes]
        rounds = [{name: self.in_own_process(name) for name in self.contenders} for _ in range(options.rounds)]
        results = [self._row(index, error, rounds) for index, error in enumerate(errors)]
        if options.out is not None:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"provenance": where, "results": results}, indent=1)
            options.out.write_text(text + "\n", encoding="utf-8")

    def _row(self, index: int, error: float, rounds: list[dict[str, list[float]]]) -> dict[str, Any]:
        """Print and return what was found for one size: microseconds, and times over ours."""
        size = self.sizes[index]
        found: dict[str, Any] = {"size": size.shape, "largest_relative_error": error, "wanted": size.wanted}
        print(f"{self.axes} = {', '.join(map(str, size.shape))}: error {error:.1e}, {size.wanted:g} times wanted")
        if not error < LARGEST_ERROR:
            print("  wrong: no figures")
            return found
        found["bytes_of_arrays"] = self.bytes_of_arrays(*size.shape)
        for place, name in enumerate(self.contenders):
            found[f"{name}_us"] = statistics.median(r[name][index] for r in rounds)
            line = f"  {name:>14} {found[f'{name}_us']:>11,.0f} us"
            if name != "fused":
                ratios = [r[name][index] / r["fused"][index] for r in rounds]
                low, median, high = quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
                found["ratio_quartiles" if place == 0 else f"{name}_ratio_quartiles"] = quartiles
                line += f"   ratio {median:>7.2f}   quartiles {low:.2f} to {high:.2f}"
            print(line)
        return found


def provenance() -> dict[str, Any]:
    """Commit, device and versions."""
    return {
        "date": date.today().isoformat(),
        "commit": commit(),
        "device": processor(),
        "threads": torch.get_num_threads(),
        "instruction_set": compiled.instruction_set() if compiled else "none: reference backend",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def largest_difference(ours: Gradients, exact: Gradients) -> float:
    """Over all gradients: the largest difference over the largest value; NaN where one is not a number."""
    pairs = zip(ours, exact, strict=True)
    return float(torch.stack([((a - b).abs().max() / b.abs().max()).double() for a, b in pairs]).max())


def in_float64(p: Problem) -> Problem:
    """The same numbers, for the reference."""
    return {name: tensor.detach().double().requires_grad_(tensor.requires_grad) for name, tensor in p.items()}
