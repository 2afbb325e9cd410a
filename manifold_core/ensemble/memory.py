"""Whether an ensemble fits into memory, asked before it is trained."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import InputError

__all__ = ["check_memory", "largest"]

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
# What a container may use, what it uses, and how much of that are files that it can drop, in both versions of cgroups.
LIMITS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def check_memory(needed: int, what: str, device: torch.device) -> None:
    """Check that this many bytes are free on the device; if that is unknown, nothing is refused.

    Raises:
        InputError: says how many are needed and how many there are.
    """
    available = _available(device)
    if available is not None and needed > available:
        raise InputError(
            f"{what} must fit into the {available / 1e9:.1f} GB free on {device}, but take {needed / 1e9:.1f} GB"
        )


def largest(weights: Sequence[int]) -> str:
    """The largest of models with these numbers of weights, for :func:`check_memory` to name."""
    index = max(range(len(weights)), key=lambda i: weights[i])
    return f"the largest: specs[{index}], {weights[index]:,} weights"


def _available(device: torch.device) -> int | None:
    if device.type == "cuda":
        # Memory that PyTorch has reserved and does not use is free to this process.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    found = [free for free in (_of_machine(), _of_container()) if free is not None]
    return min(found, default=None)


def _of_machine() -> int | None:
    if not MEMINFO.exists():
        return None
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text(encoding="ascii").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def _of_container() -> int | None:
    """Whoever takes more than its share is killed, however much the machine has."""
    for limit, used, stat, files in LIMITS:
        try:
            most, taken = ((CGROUP / name).read_text(encoding="ascii").strip() for name in (limit, used))
            lines = dict(line.split() for line in (CGROUP / stat).read_text(encoding="ascii").splitlines())
            return int(most) - int(taken) + int(lines[files])
        except (OSError, KeyError, ValueError):  # another version, or "max"
            continue
    return None
