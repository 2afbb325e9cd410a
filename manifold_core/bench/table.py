"""What was found, as a table: for the terminal and for Markdown."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from .comparison import Comparison
from .machine import COPY, PRODUCT
from .suite import Row

__all__ = ["heading", "in_markdown", "machine_speeds", "markdown", "notes", "rough", "text"]

NOTHING = "–"


def machine_speeds(rows: Sequence[Row]) -> tuple[float, float]:
    """Bytes per second of a copy, and operations per second of a matrix product; NaN if they were not measured."""
    for row in rows:
        if row.comparison == "machine":
            copy, product = row.microseconds(COPY) or math.nan, row.microseconds(PRODUCT) or math.nan
            return row.bytes_moved / copy * 1e6, row.operations / product * 1e6
    return math.nan, math.nan


def _time(microseconds: float | None) -> str:
    return NOTHING if microseconds is None else f"{microseconds:,.0f} µs"


def _share(share: float) -> str:
    return NOTHING if math.isnan(share) else f"{share:.0%}"


def _ratio(row: Row, peer: str, *, quartiles: bool = False) -> str:
    found = row.ratio(peer, row.of.beside.get(peer, row.of.ours[0]))
    if found is None:
        return NOTHING
    low, median, high = found
    spread = f" ({low:.1f} to {high:.1f})" if quartiles and len(row.rounds[peer]) > 1 else ""
    return f"{median:.1f}{spread}"


def _cells(row: Row, copy: float, product: float) -> list[str]:
    of = row.of
    micros = row.microseconds(of.ours[0])
    cells = [", ".join(f"{n:,}" for n in row.size), *(_time(row.microseconds(name)) for name in of.ours)]
    if micros is None:
        cells += [NOTHING] * 2
    elif of.bound == "copy":
        cells += [f"{row.bytes_moved / micros / 1e3:.1f}", _share(row.bytes_moved / micros * 1e6 / copy)]
    else:
        cells += [f"{row.operations / micros / 1e3:.0f}", _share(row.operations / micros * 1e6 / product)]
    first, *others = of.peers
    cells += [_time(row.microseconds(first)), _ratio(row, first, quartiles=True)]
    if _has_goals(of):
        goal = of.goals.get(row.size, math.nan)
        cells.append(NOTHING if math.isnan(goal) else f"{goal:g}")
    return [*cells, *(_ratio(row, peer) for peer in others)]


def _has_goals(of: Comparison) -> bool:
    return not all(map(math.isnan, of.goals.values()))


def _grid(rows: Sequence[Row], copy: float, product: float) -> list[list[str]]:
    of = rows[0].of
    speed = ["GB/s", "of copy"] if of.bound == "copy" else ["GFLOP/s", "of product"]
    first, *others = of.peers
    goal = ["goal"] if _has_goals(of) else []
    head = [of.axes, *of.ours, *speed, first, f"× {first}", *goal, *(f"× {name}" for name in others)]
    return [head, *(_cells(row, copy, product) for row in rows)]


def _sections(rows: Sequence[Row]) -> list[list[Row]]:
    names = dict.fromkeys(row.comparison for row in rows if row.comparison != "machine")
    return [[row for row in rows if row.comparison == name] for name in names]


def notes(rows: Sequence[Row]) -> list[str]:
    """Why figures are missing, each reason once."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for contender, note in row.notes.items():
            found.setdefault(f"{contender}: {note}", []).append(", ".join(f"{n:,}" for n in row.size))
    return [f"{note} (at {'; '.join(sizes)})" if len(sizes) < len(rows) else note for note, sizes in found.items()]


def heading(results: dict[str, Any]) -> list[str]:
    """Where it was measured, and what the machine can do."""
    copy, product = machine_speeds(results["rows"])
    where = results["provenance"]
    lines = [", ".join(f"{name} {value}" for name, value in where.items() if value is not None)]
    if not math.isnan(copy):
        lines.append(f"a copy moves {copy / 1e9:.1f} GB/s, a matrix product makes {product / 1e9:,.0f} GFLOP/s")
    return lines + rough(where)


def rough(where: dict[str, Any]) -> list[str]:
    """A note if the machine was not quiet."""
    if (where["load"] or 0) <= where["threads"] / 2:
        return []
    return [f"other programs were running (load {where['load']}): the figures are rough"]


def text(results: dict[str, Any]) -> str:
    """For the terminal."""
    lines = heading(results)
    for rows in _sections(results["rows"]):
        grid = _grid(rows, *machine_speeds(results["rows"]))
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        lines += ["", rows[0].of.title]
        lines += ["  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) for cells in grid]
        lines += notes(rows)
    lines += [
        "",
        "×: how many times faster manifold_core is: the time of a peer over that of ours that does the same",
    ]
    return "\n".join(lines)


def markdown(rows: Sequence[Row], speeds: tuple[float, float]) -> str:
    """The rows of one comparison."""
    head, *cells = _grid(rows, *speeds)
    return in_markdown(head, cells)


def in_markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *lines))
