"""What the report knows about a result file, ``FOLDER/<table>.json``."""

import math
import re
import statistics
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["ClassNumbers", "Columns", "DivergedModel", "Fit", "Paper", "Result", "Run", "table_name"]

T = TypeVar("T")
Columns = dict[str, str | int | float | bool]


@dataclass(frozen=True)
class ClassNumbers:
    """What is measured for a run on the samples of one class alone.

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
        true_active: active dimensions that the theorems predict, if they do.
        neg_elbo: in the paper's convention, as ``kl``, ``recon`` and ``gamma``.
        variance: of every latent dimension, in the model's order.
        spectrum: eigenvalues of a full covariance relative to the prior's, ascending; else empty.
        spectrum_count: how many of them are active; None if there is no spectrum.
        local_dimension, local_gap, local_share: the dimension by the decoder, ``mc.local_dimensions``, its gap, and the
            share of the samples that have it; None and NaN if it was not measured.
        classes: if they are measured beside the whole, in the data's order; else none.
        diverged_at: the step, if it did.
    """

    cell: Columns
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
    local_share: float
    classes: tuple[ClassNumbers, ...]
    diverged_at: int | None
    measured: dict[str, float]  # all else that was measured, by name

    @property
    def class_mean(self) -> float:
        """Active dimensions averaged over the classes, as the paper does; NaN if these are not measured."""
        known = [one.active_dimensions for one in self.classes if one.active_dimensions is not None]
        return statistics.fmean(known) if known else math.nan

    @property
    def finished(self) -> bool:
        """Whether its numbers mean something."""
        return self.diverged_at is None and math.isfinite(self.neg_elbo)

    @property
    def right(self) -> bool:
        return self.finished and self.active_dimensions == self.true_active

    @property
    def right_by_decoder(self) -> bool:
        return self.finished and self.local_dimension == self.true_active


@dataclass(frozen=True)
class DivergedModel:
    """A model whose loss became NaN or infinite, among those of the fits."""

    cell: Columns
    seed: int
    diverged_at: int | None


@dataclass(frozen=True)
class Paper:
    """A row as the paper prints it; NaN or None if it prints nothing."""

    cell: Columns
    variant: str
    active_dimensions: int | None
    neg_elbo: float
    kl: float
    recon: float
    gamma: float


@dataclass(frozen=True)
class Fit:
    """y ≈ slope · log γ + intercept, of models trained at fixed γ; y is 2L if the file names no other quantity.

    Attributes:
        points: (log γ, y); the other lists hold a number for each, or nothing.
    """

    cell: Columns
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
        """The slope between the two smallest γ; NaN if there are not two."""
        if len(self.points) < 2:
            return math.nan
        (x, y), (last_x, last_y) = self.points[-2:]
        return (last_y - y) / (last_x - x) if last_x != x else math.nan

    @property
    def last_active(self) -> int | None:
        """Active dimensions at the last point, which is that of the smallest γ."""
        return self.active_dimensions[-1] if self.active_dimensions else None

    def exponent(self, values: tuple[float, ...]) -> float:
        """a of values ∝ γᵃ, fitted; NaN if there are none."""
        if len(values) < 2 or not all(math.isfinite(v) and v > 0 for v in values):
            return math.nan
        return statistics.linear_regression([x for x, _ in self.points], [math.log(v) for v in values]).slope


@dataclass(frozen=True)
class Result:
    """A result file; with that of the same table as published, if there is one.

    For a table that exists only as published, it has neither runs and fits nor what a file says about them.
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
    models: int | None  # behind its fits; None if the file does not say
    diverged: tuple[DivergedModel, ...]  # of these
    published: "Result | None" = None

    @property
    def name(self) -> str:
        return table_name(self.table)

    @property
    def of_fits(self) -> bool:
        """Whether its models are points of fits, even if none of these is left."""
        return bool(self.fits) or self.models is not None

    @property
    def only_published(self) -> bool:
        """Whether the only runs are those as published."""
        return self.published is not None and not self.runs and not self.of_fits


def table_name(table: str) -> str:
    """``table3`` → ``Table 3``, ``theorem1_too_few`` → ``Theorem 1, too few``."""
    if match := re.fullmatch(r"([a-z]+)(\d+)(?:_(\w+))?", table):
        rest = f", {match[3].replace('_', ' ')}" if match[3] else ""
        return f"{match[1].capitalize()} {match[2]}{rest}"
    return table
