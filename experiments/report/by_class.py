"""What the runs of a row say about each class of the data."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..tables import on_training_images
from .results import ClassNumbers, Paper, Result
from .summary import Row, rows

__all__ = ["ByClass", "OneClass", "by_class"]


@dataclass(frozen=True)
class OneClass:
    """``numbers`` of the run of lowest −ELBO; ``seeds``, the lowest and highest active dimensions of all runs, if
    there are several."""

    numbers: ClassNumbers
    seeds: tuple[float, float] | None


@dataclass(frozen=True)
class ByClass:
    """The classes of a row.

    Attributes:
        mean: active dimensions averaged over the classes, of the run of lowest −ELBO.
        mean_seeds: the lowest and highest such mean of all runs, if there are several.
        printed: the paper's active dimensions for the same cell: it averages them over the classes.
    """

    row: Row
    classes: tuple[OneClass, ...]
    mean: float
    mean_seeds: tuple[float, float] | None
    printed: int | None


def by_class(result: Result) -> list[ByClass]:
    """Every row whose classes are measured, on test images if there are both."""
    printed = {_key(row): row.active_dimensions for row in result.paper if row.active_dimensions is not None}
    found = []
    for row in rows(result):
        if row.best is None or not row.best.classes or row.variant.endswith(on_training_images("")):
            continue
        runs = [run for run in row.finished if run.classes]
        classes = tuple(
            OneClass(
                numbers,
                _ends(one.active_dimensions for run in runs for one in run.classes if one.name == numbers.name),
            )
            for numbers in row.best.classes
        )
        found.append(
            ByClass(row, classes, row.best.class_mean, _ends(run.class_mean for run in runs), printed.get(_key(row)))
        )
    return found


def _key(row: Row | Paper) -> object:
    return frozenset(row.cell.items())


def _ends(counts: Iterable[float | None]) -> tuple[float, float] | None:
    known = [count for count in counts if count is not None and math.isfinite(count)]
    return (min(known), max(known)) if len(known) > 1 else None
