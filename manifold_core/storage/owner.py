"""Who owns a folder: one process at a time, and one run."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError
from . import checkpoint
from .differences import differences
from .files import locked, output_folder
from .finished import holds_finished_run

__all__ = ["announce", "check_identity", "claim", "taken"]


@contextmanager
def taken(folder: Path) -> Iterator[checkpoint.Checkpoint | None]:
    """Take the folder for checkpoints, made if it is missing, for this process within the block. Gives the one in it.

    Raises:
        InputError: it cannot be written to, another process is at work there, its checkpoint is damaged, or it holds
            only a finished run: there the command line would find ours.
    """
    with locked(output_folder(folder, "folder"), "folder", alone=True):
        found = checkpoint.load(folder)
        if found is None and holds_finished_run(folder):
            raise InputError(
                f"folder must be a new one or that of a stopped training, got {str(folder)!r}, which holds a finished "
                "run of the command line"
            )
        yield found


def claim(folder: Path, identity: dict[str, Any], **said: Any) -> None:
    """Write into the folder whose the checkpoints in its subfolders are, and what else is ``said``.

    Raises:
        InputError: they are another run's.
    """
    begun = checkpoint.load(folder)
    if begun is None:
        checkpoint.save(folder, 0, {}, {"identity": identity, **said})
    else:
        check_identity(begun.state.get("identity"), identity, folder)


def check_identity(found: Any, wanted: dict[str, Any], folder: Path) -> None:
    """Raise InputError if the checkpoint in the folder is of another run."""
    if not isinstance(found, dict):
        raise InputError(f"checkpoint must say which run it is of, got {found!r}")
    if where := differences(dict(sorted(found.items())), dict(sorted(wanted.items()))):
        raise InputError(
            f"checkpoint is of another run: its {where}; choose another folder, or remove {str(folder)!r} to begin anew"
        )


def announce(folder: Path, done: int, steps: int) -> None:
    """Say on standard error, if progress is shown, where a training resumes, or that it is finished."""
    if done < steps:
        print(f"manifold-core: training resumes at step {done} of {steps} in {folder}", file=sys.stderr)
    else:
        print(f"manifold-core: training in {folder} was already finished, nothing is trained", file=sys.stderr)
