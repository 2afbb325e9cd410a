"""Whose a folder is: one process's at a time, and that of a finished run nobody else's."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError
from . import checkpoint
from .files import locked, output_folder

__all__ = ["METRICS", "WEIGHTS", "finished_run", "holds_finished_run", "taken"]

METRICS, WEIGHTS = "metrics.json", "weights.safetensors"


def finished_run(folder: Path, name: str) -> dict[str, Any] | None:
    """The metrics of the finished run of the command line in the folder; None where there is none.

    Raises:
        InputError: a file of that name which no run has written; ``name`` is that of the folder's argument.
    """
    path = folder / METRICS
    if not os.path.exists(path):
        return None
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        dict(metrics["config"]["model"])  # a KeyError says that this is no file of ours
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"{name} must be a folder of runs, but {str(path)!r} is not a file of a finished run"
        ) from error
    return metrics


@contextmanager
def taken(folder: Path) -> Iterator[checkpoint.Checkpoint | None]:
    """For checkpoints, the folder, made if it is missing and left to this process for the while. Gives the one in it.

    Raises:
        InputError: it cannot be written to, another process is at work there, its checkpoint is damaged, or it holds
            none but a finished run: there the command line would come upon ours.
    """
    with locked(output_folder(folder, "folder"), "folder", alone=True):
        found = checkpoint.load(folder)
        if found is None and holds_finished_run(folder):
            raise InputError(
                f"folder must be a new one or that of a stopped training, got {str(folder)!r}, which holds a finished "
                "run of the command line"
            )
        yield found


def holds_finished_run(folder: Path) -> bool:
    """Whether a run of the command line has ended there."""
    try:
        return finished_run(folder, "folder") is not None
    except InputError:  # somebody's own metrics: they may lie beside a checkpoint
        return False
