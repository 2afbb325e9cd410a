"""The user's own data, from a file."""

import csv
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..storage.files import AnyPath
from .arrays import checked_samples, split
from .dataset import Dataset
from .encoding import TO_LABELS, checked_condition

__all__ = ["SUFFIXES", "load_file", "sample_shape"]

SUFFIXES = (".npy", ".npz", ".csv")
TRUTH = {"True": "1", "False": "0"}  # as NumPy and pandas write booleans


def load_file(
    path: AnyPath,
    validation_fraction: float = 0.1,
    seed: int = 0,
    *,
    standardise: bool = False,
    condition: AnyPath | None = None,
) -> Dataset:
    """Numbers in a .npy, .npz or .csv file as float32, split at random into training and validation samples.

    Nothing is scaled or shifted unless that is asked for: uint8 pixels stay 0..255, and constant columns stay.
    Integers beyond ±2²⁴ and float64 are rounded to float32, after they are standardised. The same file, fraction and
    seed give the same split, for ever.

    Args:
        path: ``.npy``; ``.npz`` with one array, or with one called ``x`` among several; or ``.csv`` with commas, one
            sample per line, blank lines and lines that begin with ``#`` ignored, the first line a header if no field of
            it is a number. A first line that counts the columns, ``0,1,…,d−1`` or ``1,2,…,d``, is refused: it may be
            their names or a sample; a header of words above the samples, or none, is clear. A header with an empty
            field is refused as well: pandas writes one above the index of the rows, which is not a feature.
            Arrays are ``[N, d]``, ``[N, C, H, W]`` or ``[N, H, W]``, of an integer or floating type. Pickled objects
            are never loaded.
        validation_fraction: share of the samples held out, in (0, 1); rounded to a number of samples that leaves at
            least one on either side.
        seed: of the split; any integer.
        standardise: centre in float64, vectors feature by feature, images by one number, and divide by one number, the
            standard deviation; mean and deviation are those of the training samples. Each column of a condition has
            its own.
        condition: a file of the same kinds with a condition for each sample, in their order: class labels ``[N]``,
            integers or booleans, which become one-hot, or numbers ``[N, t]``. A ``.csv`` file of one column holds
            labels if all are whole numbers, written without a point, or True and False. In an ``.npz`` file of several
            arrays, which may be that of the samples, it is the one called ``c``.

    Returns:
        Data set called by the file's stem, with ``train`` and ``validation`` ``[N, d]`` or ``[N, C, H, W]``
        (C = 1 for arrays ``[N, H, W]``), float32, and their ``standardisation``; with a condition also the
        conditions, their ``condition_encoding``, and for classes the labels, as places in
        ``condition_encoding.classes``.

    Raises:
        InputError: the file is missing, empty, damaged or of another kind; the array has another shape or type, fewer
            than two samples or no features; it holds NaN, infinity or numbers too large for float32; all features are
            constant, or with ``standardise`` those of the training samples; ``validation_fraction`` or ``seed`` is out
            of range. For a condition: the same, or not one for each sample, or more classes than half of the samples.
    """
    path = Path(path)
    source = checked_samples(_read(path, "x"), str(path))
    conditions = None
    if condition is not None:
        place = Path(condition)
        of_samples = place.exists() and place.samefile(path)
        if of_samples and path.suffix.lower() != ".npz":
            raise InputError(f"condition must be another file than that of the samples, got {str(place)!r}")
        conditions = checked_condition(_read(place, "c", by_name=of_samples), len(source), str(place))
    return split(source, path.stem, str(path), validation_fraction, seed, standardise, conditions)


def sample_shape(path: AnyPath) -> tuple[int, ...]:
    """The shape of the samples that :func:`load_file` makes of a .npy or .npz file, without reading those of a .npy.

    Raises:
        InputError: the file is missing, empty, damaged or of another kind.
    """
    shape = _read(Path(path), "x").shape
    return (1, *shape[1:]) if len(shape) == 3 else shape[1:]


def _read(path: Path, name: str, *, by_name: bool = False) -> npt.NDArray[Any]:
    """The array in the file; if there are several, or with ``by_name`` in any case, the one of this name."""
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise InputError(f"{path}: file of kind {kind!r}; expected .npy, .npz or .csv")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty")
        return _read_csv(path, name) if kind == ".csv" else _read_numpy(path, kind, name, by_name)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def _read_numpy(path: Path, kind: str, wanted: str, by_name: bool) -> npt.NDArray[Any]:
    try:
        if kind == ".npy":
            return np.lib.format.open_memmap(path, mode="r")
        # Opened here: np.load leaves the file open if it turns out not to be an archive.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: a single array; expected an archive, as the name says")
            names = archive.files
            name = names[0] if len(names) == 1 and not by_name else wanted
            if name not in names:
                one = "" if by_name else "exactly one, or "
                raise InputError(f"{path}: arrays {names}; expected {one}one called {wanted!r}")
            found = archive[name]
            if not isinstance(found, np.ndarray):  # NumPy gives the bytes of a member that is not a .npy file
                raise InputError(f"{path}: member {name!r} is not an array; expected .npy files, as numpy.savez writes")
            return found
    except (InputError, OSError):
        raise
    except Exception as error:  # NumPy and zipfile raise nearly any type for a damaged file
        raise InputError(f"{path}: expected a {kind} file without pickled objects ({error})") from error


def _read_csv(path: Path, wanted: str) -> npt.NDArray[Any]:
    """Numbers ``[N, d]``; for a condition, one column of whole numbers, or of booleans, is labels ``[N]``."""
    values = array("d")
    n_columns = 0
    header: list[str] = []
    comment = ""
    labels: list[int] | None = [] if wanted == "c" else None

    def without_comments(file: Iterable[str]) -> Iterator[str]:
        nonlocal comment
        for line in file:
            is_comment = line.startswith("#")
            comment = line[1:] if is_comment else comment
            yield "\n" if is_comment else line  # blank instead: the lines of an error stay those of the file

    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(without_comments(file))
        try:
            for fields in lines:
                if not fields:
                    continue
                if wanted == "c":
                    fields = [TRUTH.get(field.strip(), field) for field in fields]
                place = f"{path}, line {lines.line_num}"
                numbers = [_number(field) for field in fields]
                if None in numbers:
                    _check_separated(fields, numbers, place)
                is_first = n_columns == 0
                n_columns = n_columns or len(fields)
                if len(fields) != n_columns:
                    raise InputError(f"{place}: {len(fields)} fields; expected {n_columns}")
                if is_first:
                    _check_first(fields, numbers, place, comment, wanted)
                    if all(number is None for number in numbers):
                        header = fields
                        continue
                for column, (field, number) in enumerate(zip(fields, numbers, strict=True)):
                    if number is None:
                        hint = f"; {TO_LABELS}" if wanted == "c" and n_columns == 1 else ""
                        name = f" ({header[column].strip()})" if header else ""
                        got = repr(field) if field.strip() else "nothing, a missing value"
                        raise InputError(f"{place}, column {column + 1}{name}: {got}; expected a number{hint}")
                    values.append(number)
                labels = _with_label(labels, fields)
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}, after line {lines.line_num}: expected comma-separated text ({error})") from error
    if labels:
        return np.array(labels)
    return np.array(values, dtype=np.float64).reshape(-1, max(n_columns, 1))


def _with_label(labels: list[int] | None, fields: list[str]) -> list[int] | None:
    """None from the first line that is not a label, which is one whole number without a point or an exponent."""
    text = fields[0].strip()
    if labels is None or len(fields) > 1 or not text.removeprefix("-").isdecimal():
        return None
    labels.append(int(text))
    return labels


def _check_separated(fields: list[str], numbers: list[float | None], place: str) -> None:
    """Raise InputError for a field that is several numbers: something else than commas stands between them."""
    for field, number in zip(fields, numbers, strict=True):
        if number is not None:
            continue
        for mark, name in ((";", "';'"), ("\t", "tabs"), (None, "spaces")):
            parts = [part for part in field.split(mark) if part.strip()]
            if len(parts) > 1 and all(_number(part) is not None for part in parts):
                whole = [part.replace(",", ".") for part in ",".join(fields).split(mark) if part.strip()]
                has_decimal_commas = len(fields) > 1 and all(_number(part) is not None for part in whole)
                hint = ", and points in numbers: this line may have decimal commas" if has_decimal_commas else ""
                raise InputError(f"{place}: {field!r}, separated by {name}? expected commas{hint}")


def _check_first(fields: list[str], numbers: list[float | None], place: str, comment: str, wanted: str) -> None:
    """Raise InputError for a first line that makes the index of the rows a feature, or names of columns a sample. If
    the comment above has a word for each column, as ``numpy.savetxt(header=)`` writes it, that is the header."""
    names, d = [field.strip() for field in fields], len(fields)
    counted = [str(i) for i in range(d + 1)]
    if "" in names and (all(number is None for number in numbers) or names == ["", *counted[: d - 1]]):
        raise InputError(
            f"{place}: the header has no name for column {names.index('')} (counted from 0), as when pandas writes "
            f"the index of the rows, which is not a feature; expected a name for each column: "
            f"df.to_csv(path, index=False)"
        )
    are_numbers = [number is not None for number in numbers]
    if len(set(are_numbers)) > 1:
        number, word = (fields[are_numbers.index(is_number)] for is_number in (True, False))
        raise InputError(
            f"{place}: neither a header (field {number!r} is a number) nor a sample ({word!r} is not); expected words "
            f"alone, or numbers alone"
        )
    header = comment.split(",")
    if len(header) == d and all(word.strip() and _number(word) is None for word in header):
        return
    if wanted == "x" and names in (counted[:d], counted[1:]):  # a name taken for a condition would be one too many
        raise InputError(
            f"{place}: counts the columns, {names[0]} to {names[-1]}, and may be their names or a sample; "
            f"expected a header of words above the samples, or none"
        )


def _number(field: str) -> float | None:
    # float() reads "1_000"; in data an underscore is a mistake.
    if "_" in field:
        return None
    try:
        return float(field)
    except ValueError:
        return None
