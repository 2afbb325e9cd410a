"""Checkpoints: tensors in safetensors, everything else in JSON. Loading one cannot run code."""

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from ..errors import InputError
from .files import write_atomically, write_json

__all__ = ["Checkpoint", "fingerprint", "is_of", "load", "load_tensors", "remove", "save", "save_tensors", "state_of"]

INDEX = "checkpoint.json"
# The second kind is what a run leaves if it is killed while writing.
OURS = re.compile(r"checkpoint-\d{9,}\.safetensors|\.checkpoint[-.].*\.tmp")


@dataclass(frozen=True)
class Checkpoint:
    """What a stopped run resumes from."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, whole or not at all. Tensors that share memory, as tied weights do, are all written."""
    write_atomically(path, lambda to: _write(to, tensors))


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensor after tensor: the library's own functions would first hold all of them in memory a second time, or give
    the file other permissions than a new file has."""
    # Wide numbers first, as the library does: then all begin at a multiple of their size.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    header, at = {}, 0
    for name, tensor in ordered:
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _kind(tensor.dtype), "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in ordered:
            file.write(_bytes(tensor))


@cache
def _kind(dtype: torch.dtype) -> str:
    """The name that safetensors has for it."""
    name: str = json.loads(serialize({"x": torch.empty(0, dtype=dtype)})[8:])["x"]["dtype"]
    return name


def _bytes(tensor: Tensor) -> memoryview:
    dense = tensor.detach().cpu().contiguous()
    return dense.flatten().view(torch.uint8).numpy().data  # NumPy lacks bfloat16


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write the tensors under a name of their own, then the index that names them, then drop older tensors.

    Killed at any point in between, the folder still holds one whole checkpoint.
    """
    name = f"checkpoint-{step:09d}.safetensors"
    save_tensors(folder / name, tensors)
    write_json(folder / INDEX, {"tensors": name, "state": dict(state)})
    _clear(folder, but=name)


def load(folder: Path) -> Checkpoint | None:
    """The checkpoint in the folder; None if there is none.

    Raises:
        InputError: half a checkpoint, or a damaged one.
    """
    while (found := _index(folder)) is not None:
        name, state = found
        try:
            return Checkpoint(load_tensors(folder / Path(name).name), state)
        except InputError:
            if _index(folder) == found:  # else the training has saved since, and dropped these tensors
                raise
    return None


def state_of(folder: Path) -> dict[str, Any] | None:
    """What the checkpoint in the folder says, without its tensors; None if there is none.

    Raises:
        InputError: a damaged index.
    """
    found = _index(folder)
    return None if found is None else found[1]


def is_of(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether the checkpoint in the folder is of the run whose identity says all of this; also if only tensors without
    an index are left, which are nobody's any more. A damaged index says nothing."""
    try:
        state = state_of(folder)
    except InputError:
        return False
    if state is None:
        return True
    said = state.get("identity")
    return isinstance(said, dict) and all(said.get(part) == value for part, value in identity.items())


def _index(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """The name of the tensors' file, and the state."""
    index = folder / INDEX
    if not os.path.exists(index):
        return None
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        return str(content["tensors"]), dict(content["state"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"checkpoint {str(index)!r} cannot be read ({error}); expected JSON written by a run"
        ) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); expected a whole safetensors file") from error


def fingerprint(*parts: Tensor) -> str:
    """SHA-256 of the numbers, by which a checkpoint or a finished run knows its data."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(_bytes(part))
    return digest.hexdigest()


def remove(folder: Path) -> None:
    """Delete the checkpoint: the index first, so that half of one is never left."""
    (folder / INDEX).unlink(missing_ok=True)
    _clear(folder)


def _clear(folder: Path, but: str = "") -> None:
    for path in folder.iterdir():
        if OURS.fullmatch(path.name) and path.name != but:
            path.unlink()
