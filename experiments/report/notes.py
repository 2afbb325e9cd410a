"""What a table shows, in plain sentences; the same on both pages."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from ...metrics.local import CLEAR
from .published import of_published
from .results import DivergedModel, Fit, Result, Run
from .summary import (
    ENOUGH,
    SLOPE_TOLERANCE,
    Contrast,
    Row,
    at_or_below,
    contrasts,
    in_variants,
    rows,
    spread,
    unclear,
)
from .text import enumeration, fixed, integer, label, percent, significant, symbol
from .thresholds import by_threshold
from .trends import trends

__all__ = ["notes", "verdict"]


def verdict(listed: Sequence[Row]) -> str:
    """How many rows are as good as the paper's, and how many are right often enough."""
    compared = at_or_below(listed)
    known = [row.share for row in listed if row.share]
    parts = []
    if compared:
        parts.append(f"Median −ELBO at or below the paper’s in {compared} rows")
    if known:
        right = sum(s.enough for s in known)
        words = f"rue active dimensions in at least {100 * ENOUGH:.0f} % of the runs in {right} of {len(known)} rows"
        parts.append(("t" if parts else "T") + words)
    return "; ".join(parts) + "." if parts else ""


def notes(result: Result) -> list[str]:
    """How rows compare; what every yes or no does to the loss; every row that is above the paper’s −ELBO, too seldom
    right, or has diverged runs; every slope that is off; what other thresholds would count; how often the decoder
    leaves it open; what else was measured; how the runs as published compare."""
    listed = rows(result)
    found = trends(result)
    found += [sentence for contrast in contrasts(listed) for sentence in _of_contrast(contrast)]
    found += [s for own in in_variants(listed).values() for row in own for s in _of_row(row)]
    found += [sentence for fit in result.fits for sentence in _of_fit(fit)]
    found += [f"{label(one)}: diverged: {_divergence(one)}." for one in result.diverged]
    found += by_threshold(listed)
    found += _of_decoder(result.runs)
    measured = dict.fromkeys(name for run in result.runs for name in run.measured)
    found += [f"{name}: {_range(result.runs, name)}" for name in measured]
    return [*found, *of_published(result)]


def _of_decoder(runs: Iterable[Run]) -> list[str]:
    if not (counted := unclear(runs)).right:
        return []
    return [
        f"By the decoder: in {counted} runs the dimension is a guess, or none is read, as the gap is narrower than "
        f"{CLEAR:g}, or fewer than two thirds of the samples have it."
    ]


def _range(runs: Iterable[Run], name: str) -> str:
    if (found := spread(run.measured.get(name, math.nan) for run in runs)) is None:
        return "no finite number."
    return f"{' to '.join(dict.fromkeys(map(significant, (found.lowest, found.highest))))}."


def _of_contrast(contrast: Contrast) -> list[str]:
    if not contrast.differences:
        return []
    ours, printed, name = contrast.differences, contrast.printed, symbol(contrast.column)
    sides = f"with {name} less that without", f"without {name} less that with"
    sign = -1 if printed < 0 else 1
    by_seed = enumeration(fixed(sign * difference) for difference in ours.values())
    sentence = f"{label(contrast)}: −ELBO {sides[sign < 0]}, seed by seed: {by_seed}"
    if not math.isnan(printed):
        enough = sum(sign * difference >= abs(printed) for difference in ours.values())
        sentence += f"; the paper’s is {fixed(abs(printed))}, and {enough} of {len(ours)} seeds have as much"
    return [f"{sentence}."]


def _of_row(row: Row) -> list[str]:
    where, found = label(row), []
    ours, printed, counted = row.spread("neg_elbo"), row.printed("neg_elbo"), row.share
    if not row.runs and not row.as_published:
        found.append(f"{where}: no runs.")
    if row.above_paper and ours is not None:
        found.append(
            f"{where}: median −ELBO {fixed(ours.median)}, above the paper’s {fixed(printed)} "
            f"by {fixed(ours.median - printed)}."
        )
    if counted and not counted.enough:
        others = Counter(run.active_dimensions for run in row.finished if not run.right)
        instead = f"; the others have {_times(others)}" if others else ""
        found.append(
            f"{where}: {counted} runs ({percent(counted.right, counted.whole)}) have the true "
            f"active dimensions, {integer(row.true_active)}{instead}."
        )
    counts = Counter(
        run.active_dimensions if run.spectrum_count is None else run.spectrum_count for run in row.finished
    )
    if row.true_active is None and len(counts) > 1:
        by = " by eigenvalue" if row.spectrum_count is not None else ""
        found.append(f"{where}: the runs have {_times(counts)} active dimensions{by}.")
    for runs, how in ((row, ""), (row.published, ", as published")):
        if runs.diverged:
            found.append(f"{where}{how}: diverged: {enumeration(map(_divergence, runs.diverged))}.")
    return found


def _times(counts: Counter[int | None]) -> str:
    """``2 (1×) and 4 (3×)``."""
    return enumeration(f"{integer(count)} ({times}×)" for count, times in sorted(counts.items(), key=_by_count))


def _by_count(item: tuple[int | None, int]) -> int:
    return -1 if item[0] is None else item[0]


def _divergence(run: Run | DivergedModel) -> str:
    where = "(no finite −ELBO)" if run.diverged_at is None else f"at step {run.diverged_at:,}"
    return f"seed {run.seed} {where}"


def _of_fit(fit: Fit) -> list[str]:
    found = []
    if not fit.error <= SLOPE_TOLERANCE:
        off = f", {100 * fit.error:.2f} % off" if math.isfinite(fit.error) else ""
        found.append(f"{label(fit)}: slope {significant(fit.slope, 4)}, expected {significant(fit.expected, 4)}{off}.")
    if None not in (fit.true_active, fit.last_active) and fit.true_active != fit.last_active:
        found.append(
            f"{label(fit)}: {integer(fit.last_active)} active dimensions at the smallest γ, "
            f"expected {integer(fit.true_active)}."
        )
    return found
