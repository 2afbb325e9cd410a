"""Writing files so that a reader never sees half of one."""

import errno
import fcntl
import json
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..arguments import described
from ..errors import InputError

__all__ = [
    "OF_THE_DISK",
    "AnyPath",
    "as_folder",
    "as_json",
    "finite",
    "locked",
    "output_folder",
    "write_atomically",
    "write_json",
]

AnyPath = str | os.PathLike[str]
# Errors for which no program is to blame: the disk is full, or fails, or what is written to has gone.
OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE})


class _Held(threading.local):
    """The folders that this thread holds, and whether alone."""

    def __init__(self) -> None:
        self.folders: dict[tuple[int, int, int], bool] = {}


_held = _Held()


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """``write`` a temporary file beside ``path``, flush it to the disk, then rename it: all of the file, or none.

    Raises:
        OSError: the disk is full, or fails; the folder has been removed.
    """
    if not path.parent.is_dir():  # as a server of files says it
        raise OSError(errno.ESTALE, "the folder has been removed", str(path.parent))
    for other in path.parent.glob(f".{path.name}.*.tmp"):
        if not _runs(other.suffixes[-2].lstrip(".")):  # left by a process that was killed
            other.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _runs(process: str) -> bool:
    """Whether a process with that number is running on this machine."""
    try:
        os.kill(int(process), 0)
    except PermissionError:  # another user's
        return True
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    return True


def as_json(content: Any, name: str) -> Any:
    """The content as it comes back from a JSON file: tuples as lists, keys as text.

    Raises:
        InputError: something that JSON cannot hold; ``name`` is that of the argument.
    """
    try:
        return json.loads(json.dumps(content, allow_nan=False))  # NaN would not come back equal to itself
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be of what JSON can hold, got {content!r}: {error}") from error


def finite(content: Any) -> Any:
    """The same with None for NaN and infinity, which JSON lacks: other languages refuse a file with these."""
    if isinstance(content, dict):
        return {name: finite(inner) for name, inner in content.items()}
    if isinstance(content, list | tuple):
        return [finite(inner) for inner in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented JSON; floats keep all their digits."""
    write_atomically(path, lambda to: _write_text(to, json.dumps(content, indent=1, allow_nan=True) + "\n"))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def as_folder(name: str, given: object) -> Path:
    """The folder that is given as the argument of this name.

    Raises:
        InputError: it is not a path, or an empty one, as from an unset shell variable: Python would take that for the
            current directory.
    """
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else b""
    if not isinstance(path, str) or not path:
        raise InputError(f"{name} must be the path of a folder, such as 'runs/points', got {described(given)}")
    return Path(path)


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
def locked(folder: Path, name: str = "out", *, alone: bool = False) -> Iterator[None]:
    """Keeps other processes and threads out of the folder, by a lock that ends with the process, however that ends. The
    holder may take it again, as the training within a run does. That is then ``alone`` there: two would overwrite each
    other's checkpoints.

    Raises:
        InputError: another holds it; ``name`` is that of the argument.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        found = os.fstat(descriptor)
        own = os.getpid(), found.st_dev, found.st_ino  # a fork has these, but is another process
        if (held := _held.folders.get(own)) and alone:
            raise InputError(f"{name} must be left to one training, but another is at work in {str(folder)!r}")
        if held is not None:
            _held.folders[own] = held or alone
            try:
                yield
            finally:
                _held.folders[own] = held
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{name} must be left to one process, but another is at work in {str(folder)!r}") from None
        except OSError as error:  # a file system without locks
            warnings.warn(
                f"{name} {str(folder)!r} cannot be locked ({error.strerror}): nothing keeps other processes out of it",
                stacklevel=3,
            )
        _held.folders[own] = alone
        try:
            yield
        finally:
            del _held.folders[own]
    finally:
        os.close(descriptor)
