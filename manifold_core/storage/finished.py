"""What a finished run of the command line leaves in its folder, which belongs to it from then on."""

import json
import os
from pathlib import Path
from typing import Any

from ..errors import InputError

__all__ = ["METRICS", "WEIGHTS", "finished_run", "holds_finished_run"]

METRICS, WEIGHTS = "metrics.json", "weights.safetensors"


def finished_run(folder: Path, name: str) -> dict[str, Any] | None:
    """The metrics of the finished run of the command line in the folder; None if there is none.

    Raises:
        InputError: a file of that name that no run has written; ``name`` is that of the folder's argument.
    """
    path = folder / METRICS
    if not os.path.exists(path):
        return None
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        dict(metrics["config"]["model"])  # a KeyError says that this is not a file of ours
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"{name} must be a folder of runs, but {str(path)!r} is not a file of a finished run"
        ) from error
    return metrics


def holds_finished_run(folder: Path) -> bool:
    """Whether a run of the command line has ended there."""
    try:
        return finished_run(folder, "folder") is not None
    except InputError:  # somebody's own metrics: they may lie beside a checkpoint
        return False
