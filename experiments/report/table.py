"""A table as HTML: a row for every cell and variant, the paper's numbers and ours beside each other."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

from .columns import Column, columns, trained
from .markup import Markup, element
from .results import Result
from .summary import Row, Share, in_variants
from .svg import strip
from .text import QUANTITIES, enumeration, fixed, integer, significant, value

__all__ = ["results_table", "scrolling"]

RIGHT, WRONG = "✓", "≠"


def scrolling(table: Markup, name: str) -> Markup:
    """Scrolls sideways if the window is narrow, by keyboard as well."""
    return element("div", table, class_="scrolling", role="region", tabindex=0, aria_label=f"{name}, table")


def results_table(result: Result, listed: Sequence[Row]) -> Markup:
    """A body for each variant."""
    bounds = _bounds(listed)
    shown = columns(listed, [Column("strip", QUANTITIES["neg_elbo"][0], "", "")] if bounds else [])
    write = CELLS | {"strip": partial(_strip, bounds)}
    top, below = [], []
    for group, grouped in groupby(shown, key=lambda column: column.group):
        inner = list(grouped)
        if group:
            top.append(element("th", group, scope="colgroup", colspan=len(inner), class_="group"))
            edges = ["edge", *[None] * (len(inner) - 1)]
            below += [element("th", c.head, scope="col", class_=edge) for c, edge in zip(inner, edges, strict=True)]
        else:
            top += [element("th", c.head, scope="col", rowspan=2, class_=_of_name(c)) for c in inner]
    bodies = []
    for variant, own in in_variants(listed).items():
        title = element("th", variant, scope="rowgroup", colspan=len(shown))
        lines = [element("tr", title, class_="variant")] if variant else []
        lines += [element("tr", *(write[column.kind](column, row) for column in shown)) for row in own]
        bodies.append(element("tbody", *lines))
    head = element("thead", element("tr", *top), element("tr", *below))
    caption = element("caption", f"{result.name}: {enumeration(['paper', *trained(listed)])}", class_="hidden")
    return scrolling(element("table", caption, head, *bodies, class_="results"), result.name)


def _bounds(listed: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """The range of −ELBO in each variant: one that fails would leave the others no room."""
    found = {}
    for variant, own in in_variants(listed).items():
        ours = [spread for row in own if (spread := row.spread("neg_elbo")) is not None]
        ends = [x for spread in ours for x in (spread.lowest, spread.highest)]
        ends += [x for row in own if math.isfinite(x := row.printed("neg_elbo"))]
        if ends:
            found[variant] = min(ends), max(ends)
    return found


def _of_name(column: Column) -> str:
    return "cell words" if column.words else "cell"


def _cell(column: Column, row: Row) -> Markup:
    known = value(row.cell[column.name]) if column.name in row.cell else ""
    return element("th", known, scope="row", class_=_of_name(column))


def _true(_: Column, row: Row) -> Markup:
    return element("td", integer(row.true_active), class_="edge")


def _printed_dimensions(_: Column, row: Row) -> Markup:
    return _dimensions(row.true_active, row.printed_dimensions, "paper")


def _whose(column: Column) -> str:
    """Only ours has a style of its own: runs as published have the colour of the text."""
    return column.head.replace(" ", "-")


def _counted(column: Column, row: Row) -> Markup:
    if math.isfinite(mean := column.of(row).class_mean):
        return element("td", fixed(mean, 1), class_=_whose(column))
    return _dimensions(row.true_active, column.of(row).active_dimensions, _whose(column))


def _dimensions(true: int | None, count: int | None, whose: str) -> Markup:
    """The count, and a sign of whether it is the true one."""
    if count is None or true is None:
        return element("td", integer(count), class_=whose)
    sign = element("span", RIGHT if count == true else WRONG, aria_hidden="true")
    said = element("span", " right" if count == true else " wrong", class_="hidden")
    kind = "sign right" if count == true else "sign wrong"
    return element("td", integer(count), element("span", sign, said, class_=kind), class_=whose)


def _by_eigenvalue(column: Column, row: Row) -> Markup:
    return element("td", integer(column.of(row).spectrum_count), class_="eigenvalues")


def _by_decoder(_: Column, row: Row) -> Markup:
    return _dimensions(row.true_active, row.local_dimension, "ours edge")


def _right(counted: Share) -> Markup:
    if not counted:
        return element("td", integer(None))
    return element("td", str(counted), class_=None if counted.enough else "few")


def _printed(column: Column, row: Row) -> Markup:
    """No more digits than the paper prints."""
    _, write = QUANTITIES[column.name]
    return element("td", write(row.printed(column.name)), class_="edge paper")


def _median(column: Column, row: Row) -> Markup:
    """The median, and below it the spread."""
    quantity, own = column.name, column.of(row)
    found = own.spread(quantity)
    if found is None:
        return element("td", integer(None), class_=_whose(column))
    above = quantity == "neg_elbo" and own.above_paper
    parts = [element("span", _number(quantity, found.median, 3), class_="median above" if above else "median")]
    if above:
        parts.append(element("span", " above the paper’s", class_="hidden"))
    if found.count > 1:
        ends = f"{_number(quantity, found.lowest, 2)} … {_number(quantity, found.highest, 2)}"
        parts.append(element("span", ends, class_="spread"))
    return element("td", *parts, class_=_whose(column))


def _number(quantity: str, x: float, digits: int) -> str:
    """What spans decades with ``digits`` significant digits, losses with one fewer behind the point."""
    return fixed(x, digits - 1) if quantity in ("neg_elbo", "kl") else significant(x, digits, padded=True)


def _strip(bounds: dict[str, tuple[float, float]], _: Column, row: Row) -> Markup:
    drawn = [strip(row, *bounds[row.variant])] if row.variant in bounds else []
    return element("td", *drawn, class_="drawn")


CELLS: dict[str, Callable[[Column, Row], Markup]] = {
    "cell": _cell,
    "true": _true,
    "printed dimensions": _printed_dimensions,
    "counted": _counted,
    "by eigenvalue": _by_eigenvalue,
    "right": lambda _, row: _right(row.share),
    "by the decoder": _by_decoder,
    "right by the decoder": lambda _, row: _right(row.share_by_decoder),
    "printed": _printed,
    "median": _median,
}
