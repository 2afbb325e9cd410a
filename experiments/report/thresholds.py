"""How the counts depend on the threshold: at those of other scripts in the paper's published code."""

import statistics
from collections.abc import Sequence

from .results import Run
from .summary import Row, in_variants
from .text import enumeration, fixed, integer, label

__all__ = ["by_threshold"]

THRESHOLDS = (0.01, 0.05, 0.5)  # the second is that of the paper's text and of all other counts here


def by_threshold(listed: Sequence[Row]) -> list[str]:
    """For every variant how many runs are right, ours and as published; for rows without known true active dimensions,
    how many are active in the run of lowest −ELBO, if the paper has the row; for a model with classes, the mean over
    these. Nothing if no threshold makes a difference."""
    found = []
    for variant, own in in_variants(listed).items():
        known, others = ([row for row in own if (row.true_active is None) is unknown] for unknown in (False, True))
        found += _right(variant, known) if known else []
        found += [sentence for row in others if row.printed_dimensions is not None for sentence in _active(row)]
    return found


def _right(variant: str, own: Sequence[Row]) -> list[str]:
    ours, published = (_known(rows) for rows in (own, [row.published for row in own]))
    counted = {
        of: [sum(_is_right(run, at) for run in runs) for at in THRESHOLDS] + [len(runs)]
        for runs, of in ((ours, ""), (published, "as published "))
        if runs
    }
    if all(len(set(right)) == 1 for *right, _ in counted.values()):
        return []
    parts = [f"{of}in {enumeration(map(str, right))} of {whole} runs" for of, (*right, whole) in counted.items()]
    said = f"{_below('right')} {'; '.join(parts)}."
    return [f"{variant}: {said}" if variant else said.capitalize()]


def _known(listed: Sequence[Row]) -> list[Run]:
    return [run for row in listed for run in row.runs if run.true_active is not None and run.variance]


def _is_right(run: Run, threshold: float) -> bool:
    return run.finished and _count(run, threshold) == run.true_active


def _active(row: Row) -> list[str]:
    counted = {
        of: [_mean_count(run, at) for at in THRESHOLDS]
        for run, of in ((row.best, ""), (row.published.best, "as published "))
        if run is not None and run.variance
    }
    if all(len(set(active)) == 1 for active in counted.values()):
        return []
    parts = [f"{of}{enumeration(active)}" for of, active in counted.items()]
    return [f"{label(row)}: {_below('active')} {'; '.join(parts)}; the paper’s {integer(row.printed_dimensions)}."]


def _count(run: Run, threshold: float) -> int:
    return sum(variance < threshold for variance in run.variance)


def _mean_count(run: Run, threshold: float) -> str:
    of_classes = [sum(variance < threshold for variance in one.variance) for one in run.classes if one.variance]
    return fixed(statistics.fmean(of_classes), 1) if of_classes else integer(_count(run, threshold))


def _below(what: str) -> str:
    return f"{what} below {enumeration(f'{threshold:g}' for threshold in THRESHOLDS)}:"
