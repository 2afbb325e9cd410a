"""What a kernel uses of a multiprocessor, and what it may use."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["ARCHITECTURES", "ROOT", "SHARED_LIMIT", "Row", "faults", "markdown", "release"]

ROOT = Path(__file__).resolve().parents[2]
# Those that setup.py builds for: T4, A100, H100.
ARCHITECTURES = tuple(map(int, (ROOT / "csrc" / "cuda" / "architectures.txt").read_text(encoding="utf-8").split()))
SHARED_LIMIT = 64 * 1024  # bytes that a T4 has for a block


class Row(NamedTuple):
    """One kernel, compiled once."""

    kernel: str
    variant: str
    sm: int
    registers: int  # per thread
    shared: int  # bytes per block
    spills: int  # bytes that a thread stores to memory and loads again, since it lacks registers


def faults(rows: Iterable[Row]) -> list[Row]:
    """The kernels that spill, or would not fit a T4."""
    return [row for row in rows if row.spills or row.shared > SHARED_LIMIT]


def markdown(rows: Iterable[Row]) -> str:
    lines = [
        "| kernel | variant | sm | registers | shared, bytes | spills, bytes |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(f"| {row.kernel} | {row.variant} | {row.sm} | {row.registers} | {row.shared:,} | {row.spills:,} |")
    return "\n".join(lines) + "\n"


def release(said: str) -> str:
    """The release of an NVIDIA compiler, from what it says about its version."""
    found = re.search(r"release [\d.]+, V([\d.]+)", said)
    if found is None:
        raise ValueError(f"no release in {said!r}")
    return found[1]
