"""``report.md``: the numbers of the page, without its pictures."""

import html
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from .by_class import by_class
from .classes import CLASS_HEADS, READING_CLASSES, lines
from .fits import WORDS_OF_FIT, columns_of_fit
from .how_to_read import reading
from .matrices import Filled, filled
from .notes import notes, verdict
from .overview import facts, overview, overview_heads, provenance, totals
from .results import Fit, Result
from .summary import Row, Share, by_eigenvalue, columns_of, in_variants, measured_by_decoder, rows, trained
from .text import NOTHING, QUANTITIES, fixed, integer, label, symbol, value

__all__ = ["markdown"]

ENDS = ("lowest", "highest")


def markdown(results: Sequence[Result], title: str) -> str:
    """The whole of it."""
    parts = [f"# {plain(title)}", *_overview(results)]
    for result in results:
        parts += _section(result)
    for found in filled(results):
        parts += _matrix(found)
    origins = [f"- {plain(symbol(name))}: {plain('; '.join(values))}" for name, values in provenance(results)]
    parts += ["## Provenance", "\n".join(origins)]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Text of one line that means nothing to Markdown, nor to HTML."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", escaped)


def _grid(head: Sequence[str], lines: Iterable[Sequence[str]], words: Iterable[int]) -> str:
    """Columns are numbers but for those of these places."""
    rule = ["---:"] * len(head)
    for place in words:
        rule[place] = "---"
    return "\n".join(
        f"| {' | '.join(line)} |" for line in ([*map(plain, head)], rule, *([*map(plain, x)] for x in lines))
    )


def _overview(results: Sequence[Result]) -> list[str]:
    conventions = dict.fromkeys(result.convention for result in results if result.convention)
    lines = overview(results)
    heads = overview_heads(lines)
    return [
        "\n".join(f"- **{plain(figure)}** {plain(words)}" for figure, words in totals(results)),
        _grid(heads, [[line.cells[head] for head in heads] for line in lines], (0, 1)),
        *map(plain, reading(results)),
        *(f"Convention: {plain(text)}." for text in conventions),
        "Pictures are in `report.html`.",
    ]


def _section(result: Result) -> list[str]:
    listed = rows(result)
    parts = [f"## {plain(result.name)}", plain(result.title), *map(plain, facts(result)), plain(result.statement)]
    parts.append(plain(verdict(listed)))
    if listed:
        parts.append(_table(listed))
    if result.fits:
        parts.append(_fits(result.fits))
    parts.append("\n".join(f"- {plain(sentence)}" for sentence in notes(result)))
    parts += _classes(result)
    if not listed and not result.of_fits and not result.only_published:
        parts.append("This file has no runs.")
    return [part for part in parts if part]


@dataclass(frozen=True)
class Column:
    """``words``: its cells are no numbers."""

    head: str
    cell: Callable[[Row], str]
    words: bool = False


def _table(listed: Sequence[Row]) -> str:
    """Columns in which a row has something to say."""
    ordered = [row for own in in_variants(listed).values() for row in own]
    columns = [
        one for one in _columns(listed) if one.words or any(one.cell(row) not in ("", NOTHING) for row in listed)
    ]
    lines = [[column.cell(row) for column in columns] for row in ordered]
    return _grid([column.head for column in columns], lines, [i for i, column in enumerate(columns) if column.words])


def _columns(listed: Sequence[Row]) -> list[Column]:
    beside = trained(listed)
    found = [Column("variant", lambda row: row.variant, words=True)] if any(row.variant for row in listed) else []
    found += [Column(symbol(name), partial(_of_cell, name), words) for name, words in columns_of(listed).items()]
    if any(row.true_active is not None for row in listed):
        found.append(Column("true", lambda row: integer(row.true_active)))
    found.append(Column("paper: active", lambda row: integer(row.printed_dimensions)))
    printed = any(row.printed_dimensions is not None for row in listed)
    for head, of in beside.items():
        found.append(Column(head if printed else f"active: {head}", partial(_counted, of)))
        if by_eigenvalue(map(of, listed)):
            found.append(Column("by eigenvalue", partial(_by_eigenvalue, of)))
    if any(row.share for row in listed):
        found.append(Column("right", lambda row: _right(row.share)))
    if measured_by_decoder(listed):
        found.append(Column("by the decoder", lambda row: integer(row.local_dimension)))
    if any(row.share_by_decoder for row in listed):
        found.append(Column("right by it", lambda row: _right(row.share_by_decoder)))
    for quantity, (name, write) in QUANTITIES.items():
        found.append(Column(f"paper: {name}", partial(_printed, quantity, write)))
        of_what = "" if any(not math.isnan(row.printed(quantity)) for row in listed) else f"{name}: "
        found += [
            Column(f"{of_what}{head}", partial(_of_spread, quantity, "median", write, of))
            for head, of in beside.items()
        ]
        if quantity == "neg_elbo" and any(len(row.finished) > 1 for row in listed):
            found += [Column(end, partial(_of_spread, quantity, end, write, lambda row: row)) for end in ENDS]
    return found


def _of_cell(name: str, row: Row) -> str:
    return value(row.cell[name]) if name in row.cell else ""


def _counted(of: Callable[[Row], Row], row: Row) -> str:
    mean = of(row).class_mean
    return fixed(mean, 1) if math.isfinite(mean) else integer(of(row).active_dimensions)


def _by_eigenvalue(of: Callable[[Row], Row], row: Row) -> str:
    return integer(of(row).spectrum_count)


def _right(counted: Share) -> str:
    return str(counted) if counted else integer(None)


def _printed(quantity: str, write: Callable[[float], str], row: Row) -> str:
    return write(row.printed(quantity))


def _of_spread(quantity: str, which: str, write: Callable[[float], str], of: Callable[[Row], Row], row: Row) -> str:
    found = of(row).spread(quantity)
    return write(math.nan if found is None else getattr(found, which))


def _classes(result: Result) -> list[str]:
    listed = [(label(each.row), *line) for each in by_class(result) for line in lines(each)]
    if not listed:
        return []
    return [
        "### Active dimensions of each class",
        plain(READING_CLASSES),
        _grid(("model", *CLASS_HEADS), listed, (0, 1)),
    ]


def _fits(fits: Sequence[Fit]) -> str:
    listed = [columns_of_fit(fit) for fit in fits]
    heads = list(dict.fromkeys(head for line in listed for head in line))
    lines = [[line.get(head, "") for head in heads] for line in listed]
    return _grid(heads, lines, [place for place, head in enumerate(heads) if head in WORDS_OF_FIT])


def _matrix(found: Filled) -> list[str]:
    rest = [""] * (found.matrix.shape[1] - 1)
    lines = [[fixed(v, 4) for v in (*printed, *own)] for printed, own in zip(found.printed, found.ours, strict=True)]
    return [
        f"## {plain(found.name)}",
        plain(f"{found.matrix.title}. {label(found.run)}: the run of lowest −ELBO, seed {found.run.seed}."),
        _grid(["paper", *rest, "ours", *rest], lines, ()),
    ]
