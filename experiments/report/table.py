"""A table as HTML: a row for every cell and variant, the paper's numbers and ours beside each other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from .markup import Markup, element
from .results import Result
from .summary import Row, Share, by_eigenvalue, columns_of, in_variants, measured_by_decoder, trained
from .svg import strip
from .text import QUANTITIES, enumeration, fixed, integer, significant, symbol, value

__all__ = ["results_table", "scrolling"]

RIGHT, WRONG = "✓", "≠"


@dataclass(frozen=True)
class Column:
    """``group`` stands above the heads of all its columns; without one, the head takes both lines, in a style of its
    own."""

    group: str
    head: str
    cell: Callable[[Row], Markup]
    style: str = ""


def scrolling(table: Markup, name: str) -> Markup:
    """Sideways, where the window is narrow, by keyboard as well."""
    return element("div", table, class_="scrolling", role="region", tabindex=0, aria_label=f"{name}, table")


def results_table(result: Result, listed: Sequence[Row]) -> Markup:
    """A body for each variant."""
    columns = _columns(listed)
    top, below = [], []
    for group, grouped in groupby(columns, key=lambda column: column.group):
        inner = list(grouped)
        if group:
            top.append(element("th", group, scope="colgroup", colspan=len(inner), class_="group"))
            edges = ["edge", *[None] * (len(inner) - 1)]
            below += [element("th", c.head, scope="col", class_=edge) for c, edge in zip(inner, edges, strict=True)]
        else:
            top += [element("th", c.head, scope="col", rowspan=2, class_=c.style) for c in inner]
    bodies = []
    for variant, own in in_variants(listed).items():
        title = element("th", variant, scope="rowgroup", colspan=len(columns))
        lines = [element("tr", title, class_="variant")] if variant else []
        lines += [element("tr", *(column.cell(row) for column in columns)) for row in own]
        bodies.append(element("tbody", *lines))
    head = element("thead", element("tr", *top), element("tr", *below))
    caption = element("caption", f"{result.name}: {enumeration(['paper', *trained(listed)])}", class_="hidden")
    return scrolling(element("table", caption, head, *bodies, class_="results"), result.name)


def _columns(listed: Sequence[Row]) -> list[Column]:
    """Those in which a row has something to say."""
    styles = {name: "cell words" if worded else "cell" for name, worded in columns_of(listed).items()}
    found = [Column("", symbol(name), partial(_of_cell, name, style), style) for name, style in styles.items()]

    beside = trained(listed)
    theirs = [of(row) for of in beside.values() for row in listed]
    known = any(row.true_active is not None for row in listed)
    counted = any(row.active_dimensions is not None for row in theirs)
    papers = any(row.printed_dimensions is not None for row in listed)
    dimensions: list[tuple[str, bool, Callable[[Row], Markup]]] = [
        ("true", known, lambda row: element("td", integer(row.true_active), class_="edge")),
        ("paper", papers, lambda row: _dimensions(row.true_active, row.printed_dimensions, "paper")),
    ]
    for head, of in beside.items():
        dimensions.append((head, counted, partial(_counted, of, _style(head))))
        dimensions.append(("by eigenvalue", by_eigenvalue(map(of, listed)), partial(_eigenvalues, of)))
    dimensions.append(("right", any(row.share for row in listed), lambda row: _right(row.share)))
    found += [Column("active dimensions", head, cell) for head, shown, cell in dimensions if shown]
    if measured_by_decoder(listed):
        found.append(Column("by the decoder", "ours", _by_decoder))
    if any(row.share_by_decoder for row in listed):
        found.append(Column("by the decoder", "right", lambda row: _right(row.share_by_decoder)))

    for quantity, (name, write) in QUANTITIES.items():
        if any(not math.isnan(row.printed(quantity)) for row in listed):
            found.append(Column(name, "paper", partial(_printed, quantity, write)))
        if any(row.spread(quantity) is not None for row in theirs):
            found += [Column(name, head, partial(_median, quantity, of, _style(head))) for head, of in beside.items()]
        if quantity == "neg_elbo" and (bounds := _bounds(listed)):
            found.append(Column(name, "", partial(_strip, bounds)))
    return found


def _bounds(listed: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Of all −ELBO of a variant: one that fails would leave the others no room."""
    found = {}
    for variant, own in in_variants(listed).items():
        ours = [spread for row in own if (spread := row.spread("neg_elbo")) is not None]
        ends = [x for spread in ours for x in (spread.lowest, spread.highest)]
        ends += [x for row in own if math.isfinite(x := row.printed("neg_elbo"))]
        if ends:
            found[variant] = min(ends), max(ends)
    return found


def _of_cell(name: str, style: str, row: Row) -> Markup:
    return element("th", value(row.cell[name]) if name in row.cell else "", scope="row", class_=style)


def _style(head: str) -> str:
    """Only ours has one of its own: what is as published has the colour of the text."""
    return head.replace(" ", "-")


def _counted(of: Callable[[Row], Row], whose: str, row: Row) -> Markup:
    if math.isfinite(mean := of(row).class_mean):
        return element("td", fixed(mean, 1), class_=whose)
    return _dimensions(row.true_active, of(row).active_dimensions, whose)


def _dimensions(true: int | None, count: int | None, whose: str) -> Markup:
    """The count, and a sign of whether it is the true one."""
    if count is None or true is None:
        return element("td", integer(count), class_=whose)
    sign = element("span", RIGHT if count == true else WRONG, aria_hidden="true")
    said = element("span", " right" if count == true else " wrong", class_="hidden")
    kind = "sign right" if count == true else "sign wrong"
    return element("td", integer(count), element("span", sign, said, class_=kind), class_=whose)


def _eigenvalues(of: Callable[[Row], Row], row: Row) -> Markup:
    return element("td", integer(of(row).spectrum_count), class_="eigenvalues")


def _by_decoder(row: Row) -> Markup:
    return _dimensions(row.true_active, row.local_dimension, "ours edge")


def _right(counted: Share) -> Markup:
    if not counted:
        return element("td", integer(None))
    return element("td", str(counted), class_=None if counted.enough else "few")


def _printed(quantity: str, write: Callable[[float], str], row: Row) -> Markup:
    """No digits that the paper has not."""
    return element("td", write(row.printed(quantity)), class_="edge paper")


def _median(quantity: str, of: Callable[[Row], Row], whose: str, row: Row) -> Markup:
    """And below it the spread."""
    found = of(row).spread(quantity)
    if found is None:
        return element("td", integer(None), class_=whose)
    above = quantity == "neg_elbo" and of(row).above_paper
    parts = [element("span", _number(quantity, found.median, 3), class_="median above" if above else "median")]
    if above:
        parts.append(element("span", " above the paper’s", class_="hidden"))
    if found.count > 1:
        ends = f"{_number(quantity, found.lowest, 2)} … {_number(quantity, found.highest, 2)}"
        parts.append(element("span", ends, class_="spread"))
    return element("td", *parts, class_=whose)


def _number(quantity: str, x: float, digits: int) -> str:
    """What spans decades to so many significant digits, losses to one less behind the point."""
    return fixed(x, digits - 1) if quantity in ("neg_elbo", "kl") else significant(x, digits, padded=True)


def _strip(bounds: dict[str, tuple[float, float]], row: Row) -> Markup:
    drawn = [strip(row, *bounds[row.variant])] if row.variant in bounds else []
    return element("td", *drawn, class_="drawn")
