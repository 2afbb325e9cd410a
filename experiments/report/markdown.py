"""``report.md``: the numbers of the page, without its pictures."""

import html
import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from .by_class import by_class
from .classes import CLASS_HEADS, READING_CLASSES, lines
from .columns import Column, columns
from .fits import WORDS_OF_FIT, columns_of_fit
from .how_to_read import reading
from .matrices import Filled, filled
from .notes import notes, verdict
from .overview import facts, overview, overview_heads, provenance, totals
from .results import Fit, Result
from .summary import Row, Share, in_variants, rows
from .text import QUANTITIES, fixed, integer, label, symbol, value

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
    """Columns are numbers, except those at the places ``words``."""
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


def _table(listed: Sequence[Row]) -> str:
    variant = [Column("variant", "", "variant", "variant", words=True)] if any(row.variant for row in listed) else []
    several = any(len(row.finished) > 1 for row in listed)
    shown = [*variant, *columns(listed, [Column(end, "", end, end, name="neg_elbo") for end in ENDS if several])]
    ordered = [row for own in in_variants(listed).values() for row in own]
    lines = [[CELLS[column.kind](column, row) for column in shown] for row in ordered]
    return _grid([column.alone for column in shown], lines, [i for i, column in enumerate(shown) if column.words])


def _cell(column: Column, row: Row) -> str:
    return value(row.cell[column.name]) if column.name in row.cell else ""


def _counted(column: Column, row: Row) -> str:
    mean = column.of(row).class_mean
    return fixed(mean, 1) if math.isfinite(mean) else integer(column.of(row).active_dimensions)


def _right(counted: Share) -> str:
    return str(counted) if counted else integer(None)


def _printed(column: Column, row: Row) -> str:
    _, write = QUANTITIES[column.name]
    return write(row.printed(column.name))


def _of_spread(which: str, column: Column, row: Row) -> str:
    _, write = QUANTITIES[column.name]
    found = column.of(row).spread(column.name)
    return write(math.nan if found is None else getattr(found, which))


CELLS: dict[str, Callable[[Column, Row], str]] = {
    "variant": lambda _, row: row.variant,
    "cell": _cell,
    "true": lambda _, row: integer(row.true_active),
    "printed dimensions": lambda _, row: integer(row.printed_dimensions),
    "counted": _counted,
    "by eigenvalue": lambda column, row: integer(column.of(row).spectrum_count),
    "right": lambda _, row: _right(row.share),
    "by the decoder": lambda _, row: integer(row.local_dimension),
    "right by the decoder": lambda _, row: _right(row.share_by_decoder),
    "printed": _printed,
    **{which: partial(_of_spread, which) for which in ("median", *ENDS)},
}


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
