"""IDX files, the format of MNIST."""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..storage.files import AnyPath

__all__ = ["read_idx", "unpacked"]

_GZIP_MAGIC = b"\x1f\x8b"
_UINT8 = 0x08
_MOST_DIMENSIONS = 32  # what an array of NumPy 1 can have
_CHUNK = 1 << 20


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """The file open for reading, unpacked on the way if its first bytes are gzip's.

    Raises:
        InputError: the file is missing or unreadable, or its gzip stream is damaged (also while it is being read).
    """
    try:
        with path.open("rb") as file:
            is_packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            file.seek(0)
            if is_packed:
                with gzip.open(file) as stream:
                    yield cast(BinaryIO, stream)
            else:
                yield file
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected an IDX file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip file ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def read_idx(path: AnyPath) -> npt.NDArray[np.uint8]:
    """Array in an IDX file of unsigned bytes, as it is or packed with gzip (told by content, not by name).

    An IDX file is two zero bytes, the element type (0x08 for unsigned bytes, the only one read here), the number of
    dimensions, each dimension as a big-endian uint32, and the elements, last dimension fastest.

    Returns:
        Writable uint8 array of the shape in the header.

    Raises:
        InputError: the file is missing, unreadable, empty, a damaged gzip file, not IDX, of another element type,
            has a dimension of size 0, or is shorter or longer than its header says.
    """
    path = Path(path)
    with unpacked(path) as stream:
        magic = _read(stream, 4)
        if not magic:
            raise InputError(f"{path}: empty; expected an IDX file")
        if len(magic) < 4 or magic[:2] != b"\0\0":
            raise InputError(f"{path}: begins with 0x{magic.hex()}; expected an IDX file, which begins with 0x0000")
        element_type, n_dimensions = magic[2], magic[3]
        if element_type != _UINT8:
            raise InputError(f"{path}: IDX element type 0x{element_type:02x}; expected 0x08 (unsigned bytes)")
        if not 1 <= n_dimensions <= _MOST_DIMENSIONS:
            raise InputError(f"{path}: {n_dimensions} dimensions; expected 1 to {_MOST_DIMENSIONS}")
        sizes = _read(stream, 4 * n_dimensions)
        if len(sizes) < 4 * n_dimensions:
            raise InputError(
                f"{path}: ends within its header, after {4 + len(sizes)} bytes; expected {4 + 4 * n_dimensions}"
            )
        shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))
        if 0 in shape:
            raise InputError(f"{path}: shape {shape}; expected no dimension of size 0")
        n_elements = math.prod(shape)
        body = _read(stream, n_elements)
        if len(body) < n_elements:
            raise InputError(f"{path}: {len(body)} elements; expected {n_elements} for shape {shape}")
        if stream.read(1):
            raise InputError(f"{path}: continues after its {n_elements} elements; expected to end there")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _read(stream: BinaryIO, n_bytes: int) -> bytearray:
    """Up to ``n_bytes``, in pieces: one read would allocate all that a damaged header asks for."""
    content = bytearray()
    while len(content) < n_bytes and (piece := stream.read(min(_CHUNK, n_bytes - len(content)))):
        content += piece
    return content
