"""Where numbers come from: what results and benchmarks say about the commit and the machine that made them."""

import platform
import subprocess
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

__all__ = ["commit", "processor", "where"]

ROOT = Path(__file__).resolve().parents[1]
CPUINFO = Path("/proc/cpuinfo")


def where(*devices: str) -> dict[str, Any]:
    """The provenance of what is computed now, on these devices; on the processor if none is named."""
    day, hour = datetime.now().isoformat(timespec="seconds").split("T")
    return {
        "commit": commit(),
        "date": day,
        "time": hour,
        "device": _named(devices or ("cpu",)),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


def _named(devices: Sequence[str]) -> str:
    known = dict.fromkeys(d if torch.device(d).type == "cuda" else "cpu" for d in devices)  # there is one CPU
    names = Counter(torch.cuda.get_device_name(d) if torch.device(d).type == "cuda" else processor() for d in known)
    return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in names.items())


def commit() -> str:
    """The commit of the checkout that this file is in; unknown if it is installed, or there is no git."""
    if not (ROOT / ".git").exists():
        return "unknown"
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True, cwd=ROOT
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()


def processor() -> str:
    """The name that the processor gives itself."""
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
