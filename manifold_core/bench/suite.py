"""Runs the comparisons.

Each contender runs in processes of its own, in turn: in one process the first to allocate decides how the C library
treats the memory of the second, by a factor of two. A round is one process of each; the ratio to quote is the median of
the rounds' ratios. A size at which our result is wrong has no figures.

This module, run as a script with ``COMPARISON CONTENDER SECONDS``, is such a process: a line of JSON for each size.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import provenance
from ..errors import InputError
from ..kernels.extension import compiled
from ..processes import command_of, said, say
from . import cholesky, elbo, ensemble, growth, images, lstm, machine, step
from .comparison import Comparison, Quartiles, failed, left_out, timed

__all__ = ["COMPARISONS", "Row", "chosen", "from_json", "measure", "to_json"]

MAIN = tuple(module.COMPARISON for module in (elbo, cholesky, ensemble, step))
# Only if asked for: all would not fit into 90 seconds.
FURTHER = (images.COMPARISON, lstm.COMPARISON, *growth.COMPARISONS)
COMPARISONS = {c.name: c for c in (machine.COMPARISON, *MAIN, *FURTHER)}
SECONDS_A_SIZE = 0.15
SECONDS_TO_BEGIN, SECONDS_TO_COMPILE = 2.0, 15.0  # with less time left, a contender, or a slow one, is not begun


@dataclass
class Row:
    """What was found at one size of a comparison: for each contender and round the quartiles of a call, µs, or None if
    the round gave none."""

    comparison: str
    size: tuple[int, ...]
    error: float  # NaN: the result is not a number, or did not come
    bytes_moved: int
    operations: int
    rounds: dict[str, list[Quartiles | None]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)  # why contenders have no figure

    @property
    def of(self) -> Comparison:
        return COMPARISONS[self.comparison]

    def microseconds(self, contender: str) -> float | None:
        """The median of the rounds' medians."""
        found = [one for one in self.rounds.get(contender, []) if one is not None]
        return statistics.median(median for _, median, _ in found) if found else None

    def ratio(self, contender: str, ours: str) -> Quartiles | None:
        """How many times faster ours is: quartiles of the rounds' ratios."""
        pairs = zip(
            self.rounds.get(contender, []), self.rounds.get(ours, []), strict=False
        )  # the last round may be cut
        ratios = [theirs[1] / own[1] for theirs, own in pairs if theirs is not None and own is not None]
        if not ratios:
            return None
        if len(ratios) == 1:
            return ratios[0], ratios[0], ratios[0]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, median, high


def chosen(names: Sequence[str]) -> list[Comparison]:
    """The comparisons of these names, ``growth`` for those by one number, ``all`` for all; the main ones if none is
    named. The machine's comes first.

    Raises:
        InputError: there is none of that name.
    """
    every = (*MAIN, *FURTHER)
    of_name = {c.name: (c,) for c in every} | {"growth": growth.COMPARISONS, "all": every}
    for name in names:
        if name not in of_name:
            raise InputError(f"a comparison is one of {', '.join(of_name)}, got {name!r}")
    wanted = [comparison for name in names for comparison in of_name[name]] or MAIN
    return [machine.COMPARISON, *{c.name: c for c in wanted}.values()]


def measure(
    comparisons: Sequence[Comparison],
    rounds: int,
    seconds: float,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Provenance, and the rows of all comparisons; after ``seconds`` nothing new is begun.

    What matters most comes first, in every round: the yardstick and ours of all comparisons, then the other contenders,
    then the slow ones.
    """
    end = time.monotonic() + seconds
    where = provenance.where() | {
        "instruction_set": compiled.instruction_set() if compiled else "none: reference backend",
        "load": round(os.getloadavg()[0], 1),  # processes ready to run, before ours
    }
    rows = []
    for comparison in comparisons:
        progress(f"{comparison.name}: checking the result")
        rows += [_checked(comparison, size) for size in comparison.sizes]
    for index in range(rounds):
        if index and time.monotonic() >= end:
            progress(f"out of time after {index} of {rounds} rounds")
            break
        for comparison, name in sorted(_pairs(comparisons), key=lambda pair: _wave(*pair)):
            own = [row for row in rows if row.comparison == comparison.name]
            if any(name not in row.notes for row in own):
                progress(f"round {index + 1} of {rounds}: {comparison.name}, {name}")
                _add(own, name, _in_own_process(comparison, name, end - time.monotonic()))
    return {"provenance": where, "rows": rows}


def _pairs(comparisons: Sequence[Comparison]) -> list[tuple[Comparison, str]]:
    return [(comparison, name) for comparison in comparisons for name in comparison.contenders]


def _wave(comparison: Comparison, name: str) -> int:
    if name in comparison.slow:
        return 2
    return 0 if name in (*comparison.ours[:1], *comparison.peers[:1]) or not comparison.ours else 1


def _checked(comparison: Comparison, size: tuple[int, ...]) -> Row:
    note = ""
    try:
        error = comparison.error(*size)
    except Exception as failure:
        error, note = math.nan, failed(failure)
    row = Row(comparison.name, size, error, comparison.bytes_moved(*size), comparison.operations(*size))
    if not error <= comparison.allowed:
        row.notes = dict.fromkeys(comparison.contenders, note or f"wrong: {error:.1e} from what is right")
    return row


def _add(rows: Sequence[Row], name: str, found: Sequence[Quartiles | str]) -> None:
    for row, result in zip(rows, found, strict=True):
        if name in row.notes:
            continue
        if not isinstance(result, str):
            row.rounds.setdefault(name, []).append(result)
        elif name in row.rounds:
            row.rounds[name].append(None)  # the others' rounds stay beside their own
        else:
            row.notes[name] = result


def _in_own_process(comparison: Comparison, contender: str, seconds_left: float) -> list[Quartiles | str]:
    """For each size the quartiles, or why there are none."""
    if note := left_out(seconds_left, SECONDS_TO_COMPILE if contender in comparison.slow else SECONDS_TO_BEGIN):
        return [note] * len(comparison.sizes)
    command = command_of(__name__, comparison.name, contender, str(SECONDS_A_SIZE))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds_left)
        printed, missing = done.stdout, f"failed: {(done.stderr.splitlines() or ['no message'])[-1]}"[:200]
    except subprocess.TimeoutExpired as late:
        printed = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        missing = f"left out: not done after {seconds_left:.0f} s"
    found: list[Quartiles | str] = [each if isinstance(each, str) else tuple(each) for each in said(printed)]
    return found + [missing] * (len(comparison.sizes) - len(found))


def to_json(results: dict[str, Any]) -> str:
    """One line per row."""
    rows = [
        {
            "comparison": row.comparison,
            "size": row.size,
            "error": None if math.isnan(row.error) else row.error,
            "bytes_moved": row.bytes_moved,
            "operations": row.operations,
            "rounds": {name: [q and [round(t, 2) for t in q] for q in found] for name, found in row.rounds.items()},
            "notes": row.notes,
        }
        for row in results["rows"]
    ]
    where = json.dumps(results["provenance"], indent=1)
    return f'{{"provenance": {where},\n"rows": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]}"


def from_json(text: str) -> dict[str, Any]:
    """What :func:`to_json` has written."""
    found = json.loads(text)
    for row in found["rows"]:
        row["size"] = tuple(row["size"])
        row["error"] = math.nan if row["error"] is None else row["error"]
        row["rounds"] = {name: [q and tuple(q) for q in quartiles] for name, quartiles in row["rounds"].items()}
    return {"provenance": found["provenance"], "rows": [Row(**row) for row in found["rows"]]}


def _contender(name: str, contender: str, seconds: float) -> Iterable[Quartiles | str]:
    """For each size what :func:`.comparison.timed` finds, or why it finds nothing."""
    comparison = COMPARISONS[name]
    for size in comparison.sizes:
        try:
            yield timed(comparison.contenders[contender](*size), seconds)
        except ImportError as missing:
            yield f"not installed: {missing}"[:200]
        except Exception as failure:
            yield failed(failure)


if __name__ == "__main__":
    for found in _contender(sys.argv[1], sys.argv[2], float(sys.argv[3])):
        say(found)
