"""The user's own data, out of a file."""

import csv
from array import array
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..errors import InputError
from .dataset import Dataset
from .seeds import stream

__all__ = ["load_file"]


def load_file(path: str | Path, validation_fraction: float = 0.1, seed: int = 0) -> Dataset:
    """Numbers in a .npy, .npz or .csv file as float32, split at random into training and validation samples.

    Nothing is scaled or shifted: uint8 pixels stay 0..255, and constant columns stay. Integers beyond ±2²⁴ and
    float64 are rounded to float32. The same file, fraction and seed give the same split, for ever.

    Args:
        path: ``.npy``; ``.npz`` with one array, or with one called ``x`` among several; or ``.csv`` with commas, one
            sample a line, blank lines ignored, the first line a header if no field of it is a number.
            Arrays are ``[N, d]``, ``[N, C, H, W]`` or ``[N, H, W]``, of an integer or floating type. Pickled objects
            are never loaded.
        validation_fraction: share of the samples held out, in (0, 1); rounded to a number of samples that leaves at
            least one on either side.
        seed: of the split; any integer.

    Returns:
        Data set called by the file's stem, with ``train`` and ``validation`` ``[N, d]`` or ``[N, C, H, W]``
        (C = 1 for arrays ``[N, H, W]``), float32; no labels.

    Raises:
        InputError: the file is missing, empty, damaged or of another kind; the array has another shape or type, fewer
            than two samples or no features; it holds NaN, infinity or numbers too large for float32; all features are
            constant; ``validation_fraction`` or ``seed`` is out of range.
    """
    path = Path(path)
    if (
        isinstance(validation_fraction, bool)
        or not isinstance(validation_fraction, Real)
        or not 0 < validation_fraction < 1
    ):
        raise InputError(f"validation_fraction={validation_fraction!r}: expected a number above 0 and below 1")
    generator = stream(seed, "split")
    x = _as_samples(_read(path), path)

    n = len(x)
    n_validation = min(max(round(n * float(validation_fraction)), 1), n - 1)
    # Not torch.randperm, whose algorithm is PyTorch's to change.
    order = torch.rand(n, dtype=torch.float64, generator=generator).argsort(stable=True).numpy()
    return Dataset(
        name=path.stem,
        train=torch.from_numpy(x[order[n_validation:]]),
        validation=torch.from_numpy(x[order[:n_validation]]),
    )


def _read(path: Path) -> npt.NDArray[Any]:
    kind = path.suffix.lower()
    if kind not in (".npy", ".npz", ".csv"):
        raise InputError(f"{path}: file of kind {kind!r}; expected .npy, .npz or .csv")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty")
        return _read_csv(path) if kind == ".csv" else _read_numpy(path, kind)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def _read_numpy(path: Path, kind: str) -> npt.NDArray[Any]:
    try:
        if kind == ".npy":
            return np.lib.format.open_memmap(path, mode="r")
        # Opened here: np.load leaves the file open where it turns out to be no archive.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: a single array; expected an archive, as the name says")
            names = archive.files
            name = names[0] if len(names) == 1 else "x"
            if name not in names:
                raise InputError(f"{path}: arrays {names}; expected exactly one, or one called 'x'")
            return archive[name]
    except (InputError, OSError):
        raise
    except Exception as error:  # NumPy and zipfile answer a damaged file with nearly any type
        raise InputError(f"{path}: expected a {kind} file without pickled objects ({error})") from error


def _read_csv(path: Path) -> npt.NDArray[np.float64]:
    values = array("d")
    n_columns = 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        try:
            for fields in lines:
                if not fields:
                    continue
                numbers = [_number(field) for field in fields]
                is_first = n_columns == 0
                n_columns = n_columns or len(fields)
                if len(fields) != n_columns:
                    raise InputError(f"{path}, line {lines.line_num}: {len(fields)} fields; expected {n_columns}")
                if is_first and all(number is None for number in numbers):
                    continue
                for field, number in zip(fields, numbers, strict=True):
                    if number is None:
                        raise InputError(f"{path}, line {lines.line_num}: {field!r}; expected a number")
                    values.append(number)
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}, after line {lines.line_num}: expected comma-separated text ({error})") from error
    return np.array(values, dtype=np.float64).reshape(-1, max(n_columns, 1))


def _number(field: str) -> float | None:
    # float() reads "1_000"; in data an underscore is a mistake.
    if "_" in field:
        return None
    try:
        return float(field)
    except ValueError:
        return None


def _as_samples(source: npt.NDArray[Any], path: Path) -> npt.NDArray[np.float32]:
    """``[N, d]`` or ``[N, C, H, W]``, N ≥ 2, finite, not constant."""
    if source.dtype.kind not in "iuf":
        raise InputError(f"{path}: array of type {source.dtype}; expected an integer or floating type")
    if source.ndim not in (2, 3, 4):
        raise InputError(f"{path}: array of shape {source.shape}; expected (N, d), (N, H, W) or (N, C, H, W)")
    if len(source) < 2 or source.size == 0:
        raise InputError(f"{path}: array of shape {source.shape}; expected at least two samples with features")
    with np.errstate(over="ignore"):
        x = np.asarray(source, dtype=np.float32)
    if not (finite := np.isfinite(x)).all():
        was_finite = np.isfinite(source)
        if not was_finite.all():
            raise InputError(f"{path}: NaN or infinity at {_places(~was_finite)}; expected finite numbers")
        raise InputError(f"{path}: numbers too large for float32 at {_places(~finite)}; expected at most 3.4e38")
    if (x == x[0]).all():
        raise InputError(f"{path}: all {len(x)} samples are the same; expected features that vary")
    return x[:, None] if x.ndim == 3 else x


def _places(bad: npt.NDArray[np.bool_]) -> str:
    n_bad = np.count_nonzero(bad)
    row, *column = (int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
    first = f"row {row}, column {', '.join(map(str, column))} (counted from 0)"
    return f"{n_bad} {'place' if n_bad == 1 else 'places'}, first in {first}"
