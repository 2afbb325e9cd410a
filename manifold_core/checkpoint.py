"""Checkpoints: tensors in safetensors, everything else in JSON. Loading one cannot run code."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import InputError
from .files import write_atomically, write_json

__all__ = ["Checkpoint", "load", "load_tensors", "remove", "save", "save_tensors"]

INDEX = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a stopped run goes on from."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, whole or not at all."""
    dense = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda to: save_file(dense, to))


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write the tensors under a name of their own, then the index that names them, then drop older tensors.

    Killed at any point in between, the folder still holds one whole checkpoint.
    """
    name = f"checkpoint-{step:09d}.safetensors"
    save_tensors(folder / name, tensors)
    write_json(folder / INDEX, {"tensors": name, "state": dict(state)})
    for old in folder.glob("checkpoint-*.safetensors"):
        if old.name != name:
            old.unlink()


def load(folder: Path) -> Checkpoint | None:
    """The checkpoint in the folder; None where there is none.

    Raises:
        InputError: half a checkpoint, or damaged.
    """
    index = folder / INDEX
    if not index.exists():
        return None
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        name, state = str(content["tensors"]), dict(content["state"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"checkpoint {str(index)!r} cannot be read ({error}); expected JSON written by a run"
        ) from error
    return Checkpoint(load_tensors(folder / Path(name).name), state)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); expected a whole safetensors file") from error


def remove(folder: Path) -> None:
    """Delete the checkpoint: the index first, so that none is ever left half."""
    (folder / INDEX).unlink(missing_ok=True)
    for tensors in folder.glob("checkpoint-*.safetensors"):
        tensors.unlink()
