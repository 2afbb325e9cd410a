"""What the runs as published show, beside ours in the same rows, in plain sentences."""

from collections.abc import Callable, Iterable, Sequence

from .results import Result
from .summary import SLOPE_TOLERANCE, Row, Share, at_or_below, rows, share, within
from .text import enumeration

__all__ = ["of_published"]


def of_published(result: Result) -> list[str]:
    """How often they reach the paper's numbers, and how often ours do; nothing if there are none."""
    if result.published is None:
        return []
    found = ["There are no runs but those as published."] if result.only_published else []
    listed = [row for row in rows(result) if row.as_published]
    parts = [
        _compared(words, count([row.published for row in listed]), count(listed)) for words, count in COUNTED.items()
    ]
    words = f"slopes within {100 * SLOPE_TOLERANCE:.0f} % of the theorem’s in {{}} fits"
    parts.append(_compared(words, within(result.published.fits), within(result.fits)))
    said = [part for part in parts if part]
    return [*found, f"As published, models have {enumeration(said)}."] if said else found


def _compared(words: str, published: Share, ours: Share) -> str:
    """``words`` with the share in its place; empty if nothing is known."""
    if not published:
        return ""
    return words.format(published) + (f" (ours in {ours})" if ours else "")


def _as_printed(listed: Iterable[Row]) -> Share:
    """Rows with the paper's active dimensions; not those whose runs all diverged."""
    known = [row for row in listed if row.runs and row.printed_dimensions is not None]
    return Share(sum(row.active_dimensions == row.printed_dimensions for row in known), len(known))


def _right(listed: Iterable[Row]) -> Share:
    return share(run for row in listed for run in row.runs)


COUNTED: dict[str, Callable[[Sequence[Row]], Share]] = {
    "the paper’s active dimensions in {} rows": _as_printed,
    "a median −ELBO at or below the paper’s in {} rows": at_or_below,
    "the true active dimensions in {} runs": _right,
}
