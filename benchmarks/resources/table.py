"""What a kernel takes of a processor, and what it may take."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["ARCHITECTURES", "ROOT", "SHARED_LIMIT", "Row", "faults", "markdown", "release"]

ROOT = Path(__file__).resolve().parents[2]
# That setup.py builds for: T4, A100, H100.
ARCHITECTURES = tuple(map(int, (ROOT / "csrc" / "cuda" / "architectures.txt").read_text(encoding="utf-8").split()))
SHARED_LIMIT = 64 * 1024  # bytes that a T4 has for a block


class Row(NamedTuple):
    """One kernel, compiled once."""

    kernel: str
    variant: str
    sm: int
    registers: int  # of a thread
    shared: int  # bytes of a block
    spills: int  # bytes that a thread stores to memory and loads again for want of registers


def faults(rows: Iterable[Row]) -> list[Row]:
    """Those that spill, or would not fit a T4."""
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
    """Of a compiler of NVIDIA's, out of what it says about its version."""
    found = re.search(r"release [\d.]+, V([\d.]+)", said)
    if found is None:
        raise ValueError(f"no release in {said!r}")
    return found[1]
