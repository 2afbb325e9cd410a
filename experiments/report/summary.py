"""What the runs of a table say together: median and spread over seeds, the run of lowest −ELBO, share of right ones;
and the slopes.

Medians and spreads are over the runs that finished; shares are over all, a diverged run being a wrong one.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ...metrics.local import is_clear
from .results import Columns, Fit, Paper, Result, Run

__all__ = [
    "ENOUGH",
    "SLOPE_TOLERANCE",
    "Contrast",
    "Row",
    "Share",
    "Spread",
    "at_or_below",
    "by_eigenvalue",
    "contrasts",
    "in_variants",
    "measured_by_decoder",
    "rows",
    "share",
    "share_by_decoder",
    "spread",
    "unclear",
    "within",
]

ENOUGH = 0.9  # of the runs of a row with the true active dimensions; fewer are pointed out
SLOPE_TOLERANCE = 0.1


@dataclass(frozen=True)
class Spread:
    median: float
    lowest: float
    highest: float
    count: int


def spread(values: Iterable[float]) -> Spread | None:
    """The spread of the finite ones; None if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return Spread(statistics.median(finite), min(finite), max(finite), len(finite)) if finite else None


@dataclass(frozen=True)
class Share:
    """``right`` of ``whole`` are as they should be; false if there is nothing to count."""

    right: int
    whole: int

    def __bool__(self) -> bool:
        return self.whole > 0

    def __str__(self) -> str:
        return f"{self.right} of {self.whole}"

    def __add__(self, other: "Share") -> "Share":
        return Share(self.right + other.right, self.whole + other.whole)

    @property
    def enough(self) -> bool:
        return self.right >= ENOUGH * self.whole


def share(runs: Iterable[Run]) -> Share:
    """Over the runs whose true active dimensions are known."""
    known = [run for run in runs if run.true_active is not None]
    return Share(sum(run.right for run in known), len(known))


def share_by_decoder(runs: Iterable[Run]) -> Share:
    """The same for the dimensions by the decoder, if they were measured."""
    known = [run for run in runs if run.true_active is not None]
    measured = any(run.local_dimension is not None for run in known)
    return Share(sum(run.right_by_decoder for run in known), len(known) if measured else 0)


@dataclass(frozen=True)
class Row:
    """A cell and a variant: the paper's numbers, all our runs, and those as published."""

    cell: Columns
    variant: str
    paper: Paper | None
    runs: tuple[Run, ...]
    as_published: tuple[Run, ...] = ()

    @property
    def published(self) -> "Row":
        """The same for the runs as published."""
        return Row(self.cell, self.variant, self.paper, self.as_published)

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.finished]

    @property
    def diverged(self) -> list[Run]:
        """Also those whose −ELBO is not finite."""
        return [run for run in self.runs if not run.finished]

    @property
    def best(self) -> Run | None:
        """The run of lowest −ELBO."""
        return min(self.finished, key=lambda run: run.neg_elbo, default=None)

    @property
    def active_dimensions(self) -> int | None:
        """Those of the best run."""
        return self.best.active_dimensions if self.best else None

    @property
    def class_mean(self) -> float:
        """Those of the best run, averaged over the classes; NaN if these are not measured."""
        return self.best.class_mean if self.best else math.nan

    @property
    def spectrum_count(self) -> int | None:
        """Those of the best run, counted by eigenvalue; None if there is no spectrum."""
        return self.best.spectrum_count if self.best else None

    @property
    def local_dimension(self) -> int | None:
        """The best run's dimension by the decoder; None if it was not measured."""
        return self.best.local_dimension if self.best else None

    @property
    def printed_dimensions(self) -> int | None:
        """The paper's active dimensions; None if it prints none."""
        return self.paper.active_dimensions if self.paper else None

    @property
    def true_active(self) -> int | None:
        known = {run.true_active for run in (*self.runs, *self.as_published)}
        return known.pop() if len(known) == 1 else None

    @property
    def share(self) -> Share:
        return share(self.runs)

    @property
    def share_by_decoder(self) -> Share:
        return share_by_decoder(self.runs)

    def spread(self, quantity: str) -> Spread | None:
        """The spread of ``neg_elbo``, ``kl``, ``recon`` or ``gamma``."""
        return spread(getattr(run, quantity) for run in self.finished)

    def printed(self, quantity: str) -> float:
        """The paper's number; NaN if it prints none."""
        return math.nan if self.paper is None else getattr(self.paper, quantity)

    @property
    def above_paper(self) -> bool | None:
        """Is our median −ELBO above the paper's? None if one of the two is missing."""
        ours = self.spread("neg_elbo")
        printed = self.printed("neg_elbo")
        return None if ours is None or math.isnan(printed) else ours.median > printed


def rows(result: Result) -> list[Row]:
    """In the paper's order, then those that the paper lacks; a row of the paper without runs stays."""
    found: dict[object, Row] = {}
    for printed in result.paper:
        found[_key(printed)] = Row(printed.cell, printed.variant, printed, ())
    ours, published = _by_row(result.runs), _by_row(result.published.runs if result.published else ())
    for key, runs in (ours | published).items():
        found.setdefault(key, Row(runs[0].cell, runs[0].variant, None, ()))
    return [
        replace(row, runs=tuple(ours.get(key, ())), as_published=tuple(published.get(key, ())))
        for key, row in found.items()
    ]


def _by_row(runs: Iterable[Run]) -> dict[object, list[Run]]:
    grouped: dict[object, list[Run]] = {}
    for run in runs:
        grouped.setdefault(_key(run), []).append(run)
    return grouped


def _key(row: Paper | Row | Run) -> object:
    return frozenset(row.cell.items()), row.variant


def in_variants(listed: Sequence[Row]) -> dict[str, list[Row]]:
    """variant → its rows, in the order in which they come."""
    grouped: dict[str, list[Row]] = {}
    for row in listed:
        grouped.setdefault(row.variant, []).append(row)
    return grouped


def by_eigenvalue(listed: Iterable[Row]) -> bool:
    """Is there a run of full covariance, whose active dimensions are counted twice?"""
    return any(run.spectrum_count is not None for row in listed for run in row.runs)


def measured_by_decoder(listed: Iterable[Row]) -> bool:
    """Is there a run whose dimension was read off the decoder as well?"""
    return any(run.local_dimension is not None for row in listed for run in row.runs)


def unclear(runs: Iterable[Run]) -> Share:
    """How many runs have decoders whose eigenvalues do not tell a dimension clearly."""
    known = [run for run in runs if run.local_dimension is not None]
    return Share(sum(not is_clear(run.local_gap, run.local_share) for run in known), len(known))


def at_or_below(listed: Iterable[Row]) -> Share:
    """Rows with a median −ELBO at or below the paper's, among those that can be compared."""
    compared = [row.above_paper for row in listed if row.above_paper is not None]
    return Share(compared.count(False), len(compared))


def within(fits: Sequence[Fit]) -> Share:
    """Slopes within the tolerance."""
    return Share(sum(fit.error <= SLOPE_TOLERANCE for fit in fits), len(fits))


@dataclass(frozen=True)
class Contrast:
    """Two rows that differ in one column, which says yes in the one and no in the other.

    Attributes:
        cell, variant: what they share.
        differences: −ELBO of the run with yes less that of the run with no, for every seed that both finished.
        printed: the same for the paper's numbers; NaN if it lacks one.
    """

    column: str
    cell: Columns
    variant: str
    differences: dict[int, float]
    printed: float


def contrasts(listed: Sequence[Row]) -> list[Contrast]:
    """One for every column that is True in one row and False in another that is otherwise the same."""
    found = []
    places = {_key(row): row for row in listed}
    for yes in listed:
        for column in (name for name, content in yes.cell.items() if content is True):
            if (no := places.get((frozenset((yes.cell | {column: False}).items()), yes.variant))) is not None:
                rest = {name: content for name, content in yes.cell.items() if name != column}
                with_no = {run.seed: run.neg_elbo for run in no.finished}
                differences = {r.seed: r.neg_elbo - with_no[r.seed] for r in yes.finished if r.seed in with_no}
                printed = yes.printed("neg_elbo") - no.printed("neg_elbo")
                found.append(Contrast(column, rest, yes.variant, dict(sorted(differences.items())), printed))
    return found
