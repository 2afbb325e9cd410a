"""Writing files so that a reader never sees half of one."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError

__all__ = ["locked", "output_folder", "write_atomically", "write_json"]


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """``write`` a temporary file beside ``path``, bring it to the disk, then rename it: all of the file, or none."""
    for left_by_a_killed_process in path.parent.glob(f".{path.name}.*.tmp"):
        left_by_a_killed_process.unlink()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented JSON; floats keep all their digits."""
    write_atomically(path, lambda to: _write_text(to, json.dumps(content, indent=1, allow_nan=True) + "\n"))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def output_folder(path: Path, name: str = "out") -> Path:
    """The folder, made if it is missing.

    Raises:
        InputError: it cannot be made or written to; ``name`` is that of the argument.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{name} must be a folder that can be written to, got {str(path)!r}: {error.strerror}"
        ) from error
    return path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No two processes do their work in one folder: holds a lock on it, which ends with the process however that ends.

    Raises:
        InputError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"out must be left to one process, but another is at work in {str(folder)!r}") from None
    try:
        yield
    finally:
        os.close(descriptor)
