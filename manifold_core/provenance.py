"""Where numbers come from: what results and benchmarks say of the commit and the machine that made them."""

import platform
import subprocess
from pathlib import Path

__all__ = ["commit", "processor"]

ROOT = Path(__file__).resolve().parents[1]
CPUINFO = Path("/proc/cpuinfo")


def commit() -> str:
    """Of the checkout that this file stands in; unknown where it is installed, or there is no git."""
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
