"""The columns of a table, chosen once for both pages, each of which writes the cells in its own way."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .summary import Row, by_eigenvalue, measured_by_decoder
from .text import BY_DECODER, QUANTITIES, symbol

__all__ = ["Column", "columns", "trained"]


@dataclass(frozen=True)
class Column:
    """One of them.

    Attributes:
        kind: what its cells hold; a page has a function for each kind.
        group, head: its heading in two lines, the group above all its columns; without one, the head alone.
        alone: its heading in one line.
        of: the row of the runs that it is about: ours, or those as published.
        name: of the number in a cell's name, or of the quantity.
        words: its cells are not numbers.
    """

    kind: str
    group: str
    head: str
    alone: str
    of: Callable[[Row], Row] = lambda row: row
    name: str = ""
    words: bool = False


def trained(listed: Sequence[Row]) -> dict[str, Callable[[Row], Row]]:
    """The columns beside the paper's numbers: the head of a column → the row of the runs that it is about."""
    found: dict[str, Callable[[Row], Row]] = {}
    if any(row.as_published for row in listed):
        found["as published"] = lambda row: row.published
    if any(row.runs for row in listed):
        found["ours"] = lambda row: row
    return found


def columns(listed: Sequence[Row], of_loss: Iterable[Column] = ()) -> list[Column]:
    """The columns in which some row has content; a page's own, ``of_loss``, follow the medians of −ELBO."""
    found = [
        Column("cell", "", symbol(name), symbol(name), name=name, words=words) for name, words in _cells(listed).items()
    ]
    return [*found, *_of_dimensions(listed), *_of_losses(listed, of_loss)]


def _cells(listed: Iterable[Row]) -> dict[str, bool]:
    """The names of what tells rows apart → whether its values are words."""
    found: dict[str, bool] = {}
    for row in listed:
        for name, content in row.cell.items():
            found[name] = found.get(name, False) or isinstance(content, str)
    return found


def _of_dimensions(listed: Sequence[Row]) -> list[Column]:
    group, found = "active dimensions", []
    if any(row.true_active is not None for row in listed):
        found.append(Column("true", group, "true", "true"))
    if printed := any(row.printed_dimensions is not None for row in listed):
        found.append(Column("printed dimensions", group, "paper", "paper: active"))
    beside = trained(listed)
    counted = any(of(row).active_dimensions is not None for of in beside.values() for row in listed)
    for head, of in beside.items():
        if counted:
            found.append(Column("counted", group, head, _alone(head, "active", printed), of))
        if by_eigenvalue(map(of, listed)):
            found.append(Column("by eigenvalue", group, "by eigenvalue", "by eigenvalue", of))
    if any(row.share for row in listed):
        found.append(Column("right", group, "right", "right"))
    if measured_by_decoder(listed):
        found.append(Column("by the decoder", BY_DECODER, "ours", BY_DECODER))
    if any(row.share_by_decoder for row in listed):
        found.append(Column("right by the decoder", BY_DECODER, "right", "right by it"))
    return found


def _of_losses(listed: Sequence[Row], of_loss: Iterable[Column]) -> list[Column]:
    found = []
    beside = trained(listed)
    for quantity, (name, _) in QUANTITIES.items():
        if printed := any(not math.isnan(row.printed(quantity)) for row in listed):
            found.append(Column("printed", name, "paper", f"paper: {name}", name=quantity))
        if any(of(row).spread(quantity) is not None for of in beside.values() for row in listed):
            found += [
                Column("median", name, head, _alone(head, name, printed), of, quantity) for head, of in beside.items()
            ]
        if quantity == "neg_elbo":
            found += of_loss
    return found


def _alone(head: str, name: str, printed: bool) -> str:
    """In one line, the first column also names what the others show; that is the paper's, if there is one."""
    return head if printed else f"{name}: {head}"
