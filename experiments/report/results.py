"""Result files, ``FOLDER/<table>.json``: what is read of them, checked before anything is written."""

import json
import math
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ...errors import InputError
from ..tables import AS_PUBLISHED

__all__ = [
    "Cell",
    "ClassNumbers",
    "DivergedModel",
    "Fit",
    "Paper",
    "Result",
    "Run",
    "read_result",
    "read_results",
    "table_name",
]

T = TypeVar("T")
Cell = dict[str, str | int | float | bool]


@dataclass(frozen=True)
class ClassNumbers:
    """What of a run is measured on the samples of one class alone.

    Attributes:
        interval: active dimensions with all variances two standard errors higher, and lower.
        neg_elbo: in the paper's convention, as ``kl`` and ``recon``.
    """

    name: str
    interval: tuple[int, int]
    active_dimensions: int | None
    neg_elbo: float
    kl: float
    recon: float
    variance: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """One trained model, or one class of it. A number that the file lacks is NaN.

    Attributes:
        cell: the columns that make its row.
        true_active: active dimensions that the theorems predict, where they do.
        neg_elbo: in the paper's convention, as ``kl``, ``recon`` and ``gamma``.
        variance: of every latent dimension, in the model's order.
        spectrum: of a full covariance the eigenvalues relative to the prior's, ascending; else empty.
        spectrum_count: those of them that are active; None where there is no spectrum.
        local_dimension, local_gap: the dimension by the decoder, ``mc.local_dimensions``, and how clear it is; None
            and NaN where it was not measured.
        classes: where they are measured beside the whole, in the data's order; else none.
        diverged_at: the step, of a run that did.
    """

    cell: Cell
    variant: str
    seed: int
    true_active: int | None
    active_dimensions: int | None
    neg_elbo: float
    kl: float
    recon: float
    gamma: float
    variance: tuple[float, ...]
    spectrum: tuple[float, ...]
    spectrum_count: int | None
    local_dimension: int | None
    local_gap: float
    classes: tuple[ClassNumbers, ...]
    diverged_at: int | None
    measured: dict[str, float]  # what else there is, by its name

    @property
    def class_mean(self) -> float:
        """Active dimensions averaged over the classes, as the paper does; NaN where these are not measured."""
        known = [one.active_dimensions for one in self.classes if one.active_dimensions is not None]
        return statistics.fmean(known) if known else math.nan

    @property
    def finished(self) -> bool:
        """Its numbers mean something."""
        return self.diverged_at is None and math.isfinite(self.neg_elbo)

    @property
    def right(self) -> bool:
        return self.finished and self.active_dimensions == self.true_active

    @property
    def right_by_decoder(self) -> bool:
        return self.finished and self.local_dimension == self.true_active


@dataclass(frozen=True)
class DivergedModel:
    """A model whose loss became NaN or infinite, of those that fits are made of."""

    cell: Cell
    seed: int
    diverged_at: int | None


@dataclass(frozen=True)
class Paper:
    """A row as the paper prints it; NaN or None where it prints nothing."""

    cell: Cell
    variant: str
    active_dimensions: int | None
    neg_elbo: float
    kl: float
    recon: float
    gamma: float


@dataclass(frozen=True)
class Fit:
    """y ≈ slope · log γ + intercept, of models trained at fixed γ; y is 2L where the file names no other quantity.

    Attributes:
        points: (log γ, y), and for each of them what the other lists hold; these may be empty.
    """

    cell: Cell
    expected: float
    slope: float
    intercept: float
    r_squared: float
    points: tuple[tuple[float, float], ...]
    true_active: int | None
    active_dimensions: tuple[int | None, ...]
    local_dimensions: tuple[int | None, ...]  # by the decoder
    active_variance: tuple[float, ...]
    inactive_variance: tuple[float, ...]
    recon: tuple[float, ...]

    @property
    def error(self) -> float:
        """|slope − expected| / |expected|."""
        return abs(self.slope - self.expected) / abs(self.expected) if self.expected else math.nan

    @property
    def last_slope(self) -> float:
        """Between the two smallest γ alone; NaN where there are not two."""
        if len(self.points) < 2:
            return math.nan
        (x, y), (last_x, last_y) = self.points[-2:]
        return (last_y - y) / (last_x - x) if last_x != x else math.nan

    @property
    def last_active(self) -> int | None:
        """Active dimensions at the last point, which is that of the smallest γ."""
        return self.active_dimensions[-1] if self.active_dimensions else None

    def exponent(self, values: tuple[float, ...]) -> float:
        """a of values ∝ γᵃ, fitted; NaN where there are none."""
        if len(values) < 2 or not all(math.isfinite(v) and v > 0 for v in values):
            return math.nan
        return statistics.linear_regression([x for x, _ in self.points], [math.log(v) for v in values]).slope


@dataclass(frozen=True)
class Result:
    """A result file; where there are some, with that of the same table as published.

    Of a table that is there as published alone, it has neither runs and fits nor what a file says of them.
    """

    table: str
    title: str
    budget: str
    seeds: int | None
    convention: str
    statement: str
    quantity: str  # the y of its fits
    plan: dict[str, Any]
    seconds: float
    eager_seconds: dict[str, float]  # of PyTorch written by hand: "same_steps", "as_published"
    eager_on: dict[str, Any]  # where that was measured, as provenance; empty in older files
    provenance: dict[str, Any]
    runs: tuple[Run, ...]
    paper: tuple[Paper, ...]
    fits: tuple[Fit, ...]
    models: int | None  # that its fits are made of; None where the file does not say
    diverged: tuple[DivergedModel, ...]  # of these
    published: "Result | None" = None

    @property
    def name(self) -> str:
        return table_name(self.table)

    @property
    def of_fits(self) -> bool:
        """Its models are points of fits, of which none need be left."""
        return bool(self.fits) or self.models is not None

    @property
    def only_published(self) -> bool:
        """There are no runs but those as published."""
        return self.published is not None and not self.runs and not self.of_fits


def table_name(table: str) -> str:
    """``table3`` → ``Table 3``, ``theorem1_too_few`` → ``Theorem 1, too few``."""
    if match := re.fullmatch(r"([a-z]+)(\d+)(?:_(\w+))?", table):
        rest = f", {match[3].replace('_', ' ')}" if match[3] else ""
        return f"{match[1].capitalize()} {match[2]}{rest}"
    return table


def read_results(folder: Path) -> list[Result]:
    """Every ``*.json`` of the folder, each with that of the same name in its folder ``as_published``: tables by number,
    then what else there is.

    Raises:
        InputError: no such folder, no result file in it, a file that is none, or one that belongs in the other folder.
    """
    if not folder.is_dir():
        raise InputError(f"folder must be one of result files, got {str(folder)!r}: no such folder")
    ours, published = _in_folder(folder, published=False), _in_folder(folder / AS_PUBLISHED, published=True)
    if not ours and not published:
        raise InputError(f"folder must hold result files such as table1.json, got {str(folder)!r}: no .json file in it")
    found = [replace(ours.get(name) or _without_runs(other), published=other) for name, other in published.items()]
    return sorted([*found, *(result for name, result in ours.items() if name not in published)], key=_order)


def _in_folder(folder: Path, *, published: bool) -> dict[str, Result]:
    """Name of the file → what is in it, which shall be of published plans, or of others."""
    found = {path: read_result(path) for path in folder.glob("*.json") if not path.name.startswith(".")}
    for path, result in found.items():
        marked = result.plan.get("published", False)
        if marked is not published:
            target = folder / AS_PUBLISHED if marked else folder.parent
            raise InputError(
                f"{path}: 'published' of its 'plan' is {marked}, expected {published} in this folder; "
                f"move the file to {target}"
            )
    return {path.name: result for path, result in found.items()}


def _without_runs(result: Result) -> Result:
    """The table, and the paper's numbers."""
    return replace(
        result,
        budget="",
        seeds=None,
        plan={},
        seconds=math.nan,
        eager_seconds={},
        eager_on={},
        provenance={},
        runs=(),
        fits=(),
        models=None,
        diverged=(),
    )


def _order(result: Result) -> tuple[bool, list[tuple[int, str]]]:
    parts = re.findall(r"\d+|\D+", result.table)
    return not result.table.startswith("table"), [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]


def read_result(path: Path) -> Result:
    """One of them.

    Raises:
        InputError: it cannot be read, or is no result file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), expected a result file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a result file in JSON, got {error}") from error
    if not isinstance(content, dict) or not ("runs" in content or "fits" in content):
        raise InputError(f"{path}: expected a result file, an object with 'table', 'title' and 'runs' or 'fits'")
    of = _Entry(str(path), content)
    return Result(
        table=of.get("table", _text, "a name"),
        title=of.get("title", _text, "a text"),
        budget=of.get("budget", _text, "a name", ""),
        seeds=of.get("seeds", _count, "a count", None),
        convention=of.get("convention", _text, "a text", ""),
        statement=of.get("statement", _text, "a text", ""),
        quantity=of.get("quantity", _text, "a name", "2L"),
        plan=of.get("plan", _object, "an object", {}),
        seconds=of.get("seconds", _number, "a number", math.nan),
        eager_seconds=of.get("eager_seconds", _named_numbers, "an object of numbers", {}),
        eager_on=of.get("eager_on", _object, "an object", {}),
        provenance=of.get("provenance", _object, "an object", {}),
        runs=tuple(map(_run, of.entries("runs"))),
        paper=tuple(map(_paper, of.entries("paper"))),
        fits=tuple(map(_fit, of.entries("fits"))),
        models=of.get("models", _count, "a count", None),
        diverged=tuple(map(_diverged, of.entries("diverged"))),
    )


def _run(of: "_Entry") -> Run:
    local = of.entry("local")
    return Run(
        cell=of.get("cell", _cell, "an object of names and plain values"),
        variant=of.get("variant", _text, "a name", ""),
        seed=of.get("seed", _count, "an integer"),
        true_active=of.get("true_active", _count_or_none, "an integer or null"),
        active_dimensions=of.get("active_dimensions", _count_or_none, "an integer or null"),
        neg_elbo=of.get("neg_elbo", _number, "a number or null"),
        kl=of.get("kl", _number, "a number or null", math.nan),
        recon=of.get("recon", _number, "a number or null", math.nan),
        gamma=of.get("gamma", _number, "a number or null", math.nan),
        variance=of.get("variance", _numbers, "a list of numbers", ()),
        spectrum=of.get("spectrum", _numbers, "a list of numbers", ()),
        spectrum_count=of.get("spectrum_count", _count_or_none, "an integer or null", None),
        local_dimension=local.get("count", _count, "an integer") if local else None,
        local_gap=local.get("gap", _number, "a number or null", math.nan) if local else math.nan,
        classes=tuple(map(_class, of.entries("classes"))),
        diverged_at=of.get("diverged_at", _count_or_none, "a step or null", None),
        measured=of.get("measured", _named_numbers, "an object of numbers", {}),
    )


def _diverged(of: "_Entry") -> DivergedModel:
    return DivergedModel(
        cell=of.get("cell", _cell, "an object of names and plain values"),
        seed=of.get("seed", _count, "an integer"),
        diverged_at=of.get("diverged_at", _count_or_none, "a step or null"),
    )


def _class(of: "_Entry") -> ClassNumbers:
    return ClassNumbers(
        name=of.get("name", _text, "a name"),
        interval=of.get("interval", _interval, "two integers, the lower one first"),
        active_dimensions=of.get("active_dimensions", _count_or_none, "an integer or null"),
        neg_elbo=of.get("neg_elbo", _number, "a number or null", math.nan),
        kl=of.get("kl", _number, "a number or null", math.nan),
        recon=of.get("recon", _number, "a number or null", math.nan),
        variance=of.get("variance", _numbers, "a list of numbers", ()),
    )


def _paper(of: "_Entry") -> Paper:
    return Paper(
        cell=of.get("cell", _cell, "an object of names and plain values"),
        variant=of.get("variant", _text, "a name", ""),
        active_dimensions=of.get("AD", _count_or_none, "an integer or null", None),
        neg_elbo=of.get("neg_elbo", _number, "a number or null", math.nan),
        kl=of.get("kl", _number, "a number or null", math.nan),
        recon=of.get("recon", _number, "a number or null", math.nan),
        gamma=of.get("gamma", _number, "a number or null", math.nan),
    )


def _fit(of: "_Entry") -> Fit:
    points = of.get("points", _points, "a list of [log γ, y]")

    def each(read: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
        def read_all(value: Any) -> tuple[T, ...]:
            if value is None or value == []:
                return ()
            if len(_list(value)) != len(points):
                raise TypeError
            return tuple(map(read, value))

        return read_all

    one_a_point = f"a list of {len(points)}, one for each point"
    return Fit(
        cell=of.get("cell", _cell, "an object of names and plain values"),
        expected=of.get("expected", _number, "a number"),
        slope=of.get("slope", _number, "a number or null"),
        intercept=of.get("intercept", _number, "a number or null"),
        r_squared=of.get("r_squared", _number, "a number or null", math.nan),
        points=points,
        true_active=of.get("true_active", _count_or_none, "an integer or null", None),
        active_dimensions=of.get("active_dimensions", each(_count_or_none), one_a_point, ()),
        local_dimensions=of.get("local_dimensions", each(_count_or_none), one_a_point, ()),
        active_variance=of.get("active_variance", each(_number), one_a_point, ()),
        inactive_variance=of.get("inactive_variance", each(_number), one_a_point, ()),
        recon=of.get("recon", each(_number), one_a_point, ()),
    )


_REQUIRED: Any = object()


@dataclass(frozen=True)
class _Entry:
    """An object of a file, with the words that say where it stands."""

    where: str
    content: dict[str, Any]

    def get(self, key: str, read: Callable[[Any], T], expected: str, default: T = _REQUIRED) -> T:
        if key not in self.content:
            if default is _REQUIRED:
                raise InputError(f"{self.where}: {key!r} is missing, expected {expected}")
            return default
        try:
            return read(self.content[key])
        except (TypeError, OverflowError):
            raise InputError(f"{self.where}: {key!r} is {_short(self.content[key])}, expected {expected}") from None

    def entry(self, key: str) -> "_Entry | None":
        """The object of that name; None where there is none, or null."""
        content = self.get(key, _object_or_none, "an object or null", None)
        return None if content is None else _Entry(f"{self.where}: {key}", content)

    def entries(self, key: str) -> list["_Entry"]:
        empty: list[Any] = []
        listed = self.get(key, _list, "a list of objects", empty)
        for i, entry in enumerate(listed):
            if not isinstance(entry, dict):
                raise InputError(f"{self.where}: {key}[{i}] is {_short(entry)}, expected an object")
        return [_Entry(f"{self.where}: {key}[{i}]", entry) for i, entry in enumerate(listed)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# Readers of one value: the value as the dataclasses have it, or TypeError.


def _of_type(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:  # not isinstance: True is no number here
        raise TypeError
    return value


def _text(value: Any) -> str:
    return _of_type(value, str)


def _object(value: Any) -> dict[str, Any]:
    return _of_type(value, dict)


def _object_or_none(value: Any) -> dict[str, Any] | None:
    return _of_type(value, dict, type(None))


def _list(value: Any) -> list[Any]:
    return _of_type(value, list)


def _count(value: Any) -> int:
    return _of_type(value, int)


def _count_or_none(value: Any) -> int | None:
    return _of_type(value, int, type(None))


def _number(value: Any) -> float:
    return math.nan if value is None else float(_of_type(value, int, float))


def _numbers(value: Any) -> tuple[float, ...]:
    return () if value is None else tuple(map(_number, _list(value)))


def _interval(value: Any) -> tuple[int, int]:
    ends = [_count(end) for end in _list(value)]
    if len(ends) != 2 or ends[0] > ends[1]:
        raise TypeError
    return ends[0], ends[1]


def _named_numbers(value: Any) -> dict[str, float]:
    return {name: _number(content) for name, content in _object(value).items()}


def _points(value: Any) -> tuple[tuple[float, float], ...]:
    points = [_numbers(point) for point in _list(value)]
    if any(len(point) != 2 for point in points):
        raise TypeError
    return tuple((x, y) for x, y in points)


def _cell(value: Any) -> Cell:
    return {name: _of_type(content, str, int, float, bool) for name, content in _object(value).items()}
