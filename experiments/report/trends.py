"""How rows compare, in plain sentences, if no theorem says what the numbers should be: whether active dimensions
saturate, whether −ELBO has the paper's order, what full covariance changes in a model, what classes have."""

import math
from collections.abc import Sequence
from itertools import combinations

from .by_class import ByClass, by_class
from .results import Columns, Result
from .summary import Row, in_variants, rows
from .text import cell_label, enumeration, fixed, integer, label, significant, symbol, value

__all__ = ["trends"]

SIZE = "kappa"  # the column with which active dimensions may grow
# What a full covariance is compared with a diagonal one by: the quantity, its name, and how it is written.
HELD = (("neg_elbo", "−ELBO", fixed), ("recon", "squared error", significant))


def trends(result: Result) -> list[str]:
    """Nothing on variants for which the theorems predict active dimensions, or whose columns say yes or no: there every
    row is checked against the prediction, or against the other one."""
    found = []
    for own in in_variants(rows(result)).values():
        if any(row.true_active is not None for row in own):
            continue
        if any(isinstance(content, bool) for row in own for content in row.cell.values()):
            continue
        found += [*_saturations(own), *_order(own), *_full_against_diagonal(own)]
    return [*found, *(sentence for each in by_class(result) for sentence in _over_classes(each))]


def _saturations(listed: Sequence[Row]) -> list[str]:
    """Rows that differ in κ alone, beside the paper's."""
    grouped: dict[frozenset[object], list[Row]] = {}
    for row in listed:
        if SIZE in row.cell and row.active_dimensions is not None:
            grouped.setdefault(frozenset(_without(row, SIZE).items()), []).append(row)
    printed = [sum(row.printed_dimensions is not None for row in own) for own in grouped.values()]
    return [_saturation(own) for own, known in zip(grouped.values(), printed, strict=True) if known > 1]


def _saturation(own: Sequence[Row]) -> str:
    ordered = sorted(own, key=lambda row: row.cell[SIZE])
    known = [row for row in ordered if row.printed_dimensions is not None]
    ours, printed = [row.active_dimensions or 0 for row in ordered], [row.printed_dimensions or 0 for row in known]
    where = _where(_without(ordered[0], SIZE), ordered[0].variant)
    own_counts, printed_counts = (enumeration(map(integer, counts)) for counts in (ours, printed))
    of_paper, grown_to = "", ""
    if len(known) < len(ordered):
        of_paper, grown_to = f"{symbol(SIZE)} = {_sizes(known)} have ", f"from {_last_two(known)} "
    return (
        f"{where}{symbol(SIZE)} = {_sizes(ordered)} have {own_counts} active dimensions, the paper’s {of_paper}"
        f"{printed_counts}: from {_last_two(ordered)} ours grow by {integer(ours[-1] - ours[-2])}, {grown_to}the "
        f"paper’s by {integer(printed[-1] - printed[-2])}."
    )


def _sizes(listed: Sequence[Row]) -> str:
    return enumeration(value(row.cell[SIZE]) for row in listed)


def _last_two(listed: Sequence[Row]) -> str:
    return " to ".join(value(row.cell[SIZE]) for row in listed[-2:])


def _order(listed: Sequence[Row]) -> list[str]:
    """Which of every two rows has the lower −ELBO."""
    losses = [
        (row, ours.median, printed)
        for row in listed
        if (ours := row.spread("neg_elbo")) is not None and not math.isnan(printed := row.printed("neg_elbo"))
    ]
    pairs = [(a, b) for a, b in combinations(losses, 2) if a[2] != b[2]]
    others = [(a, b) for a, b in pairs if (a[1] - b[1]) * (a[2] - b[2]) <= 0]
    if not pairs:
        return []
    where = _where({}, listed[0].variant)
    if not others:
        return [f"{where}the order of the rows by −ELBO is the paper’s."]
    named = "; ".join(" against ".join(map(_loss, pair)) for pair in others)
    share = f"{len(others)} of {len(pairs)} pairs"
    return [f"{where}the order of the rows by −ELBO is not the paper’s in {share}: {named}."]


def _loss(of: tuple[Row, float, float]) -> str:
    row, ours, printed = of
    return f"{cell_label(row.cell)} ({fixed(ours)}, the paper’s {fixed(printed)})"


def _full_against_diagonal(listed: Sequence[Row]) -> list[str]:
    """Rows that differ in one column, with full covariance in the one and not in the other."""
    full = [row for row in listed if row.best is not None and row.best.spectrum_count is not None]
    others = [row for row in listed if row.best is not None and row.best.spectrum_count is None]
    found = []
    for a in full:
        for b in others:
            names = [name for name in a.cell if a.cell.keys() == b.cell.keys() and a.cell[name] != b.cell[name]]
            if len(names) == 1:
                found.append(_comparison(a, b, names[0]))
    return found


def _comparison(full: Row, other: Row, column: str) -> str:
    assert full.best is not None
    parts = []
    for quantity, name, write in HELD:
        ours, theirs = full.spread(quantity), other.spread(quantity)
        if ours is not None and theirs is not None:
            printed = [row.printed(quantity) for row in (full, other)]
            beside = "" if any(map(math.isnan, printed)) else f" (paper {' against '.join(map(write, printed))})"
            parts.append(f"{name} {write(ours.median)} against {write(theirs.median)}{beside}")
    counts = [row.printed_dimensions for row in (full, other)]
    beside = "" if None in counts else f" (paper {' against '.join(map(integer, counts))})"
    parts.append(
        f"active dimensions {integer(full.active_dimensions)} by variance and {integer(full.best.spectrum_count)} by "
        f"eigenvalue against {integer(other.active_dimensions)}{beside}"
    )
    sides = f"{value(full.cell[column])} against {value(other.cell[column])} {symbol(column)}"
    where = (cell_label(_without(full, column)), full.variant, sides)
    return f"{', '.join(filter(None, where))}: {'; '.join(parts)}."


def _over_classes(found: ByClass) -> list[str]:
    known = [one.numbers for one in found.classes if one.numbers.active_dimensions is not None]
    if not known:
        return []
    low, high = (end(known, key=lambda one: one.active_dimensions or 0) for end in (min, max))
    if low.active_dimensions == high.active_dimensions:
        said = f"every class has {integer(low.active_dimensions)} active dimensions"
    else:
        ends = (f"{integer(one.active_dimensions)} ({one.name})" for one in (low, high))
        said = f"the classes have {' to '.join(ends)} active dimensions, {fixed(found.mean, 1)} in the mean"
    beside = "" if found.printed is None else f"; the paper’s mean is {found.printed}"
    return [f"{label(found.row)}: {said}{beside}."]


def _where(cell: Columns, variant: str) -> str:
    words = ", ".join(part for part in (cell_label(cell), variant) if part)
    return f"{words}: " if words else ""


def _without(row: Row, column: str) -> Columns:
    return {name: content for name, content in row.cell.items() if name != column}
