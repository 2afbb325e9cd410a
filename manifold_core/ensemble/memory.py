"""Whether an ensemble fits into memory, asked before it is trained."""

from pathlib import Path

import torch

from ..errors import InputError

__all__ = ["check_memory"]

MEMINFO = Path("/proc/meminfo")


def check_memory(needed: int, what: str, device: torch.device) -> None:
    """That so many bytes are free on the device; where nobody can tell, that is not held against the caller.

    Raises:
        InputError: says how many are needed and how many there are.
    """
    available = _available(device)
    if available is not None and needed > available:
        raise InputError(
            f"{what} must fit into the {available / 1e9:.1f} GB free on {device}, but take {needed / 1e9:.1f} GB"
        )


def _available(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not MEMINFO.exists():
        return None
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text(encoding="ascii").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None
