"""The roofline: what each contender reaches, below what the machine could do at that many operations per byte."""

import math
from collections.abc import Sequence
from pathlib import Path

from ..plots import ACCENT, ACTIVE, new_figure, save
from .suite import MAIN, Row
from .table import machine_speeds

__all__ = ["plot_roofline"]

MARKERS = {comparison.name: marker for comparison, marker in zip(MAIN, "os^D", strict=True)}


def plot_roofline(path: Path, rows: Sequence[Row]) -> Path:
    """Operations per second over operations per byte, a point for ours and one for the yardstick at each size.

    Both count what the formulas need, each array moved once: a contender that moves or computes more is lower. What
    fits into the caches may be above the roof, which is that of memory.
    """
    copy, product = machine_speeds(rows)
    picture = new_figure(7.5, 5)
    axes = picture.add_subplot()
    intensities = [2.0**-3, product / copy, 2.0**9]
    roof = [min(copy * i, product) / 1e9 for i in intensities]
    axes.loglog(intensities, roof, color="black", label="copy and matrix product of this machine")
    seen: set[tuple[str, str]] = set()
    for row in rows:
        if row.comparison not in MARKERS:
            continue
        for name, colour in ((row.of.ours[0], ACTIVE), (row.of.peers[0], ACCENT)):
            micros = row.microseconds(name)
            if micros is None:
                continue
            new = (row.comparison, name) not in seen
            seen.add((row.comparison, name))
            axes.plot(
                row.operations / row.bytes_moved,
                row.operations / micros / 1e3,
                MARKERS[row.comparison],
                color=colour,
                markersize=4 + math.log10(row.operations) / 2,
                label=f"{row.comparison}, {name}" if new else None,
            )
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("10⁹ operations per second")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return save(picture, path)
