"""``report.md``: the numbers of the page, without its pictures."""

import html
import math
import re
from collections.abc import Iterable, Sequence

from .by_class import by_class
from .classes import CLASS_HEADS, READING_CLASSES, lines
from .matrices import Filled, filled
from .notes import EXPONENTS, notes, overview, provenance, reading, totals, verdict
from .results import Fit, Result
from .summary import Row, by_eigenvalue, columns_of, in_variants, rows
from .text import duration, fixed, integer, label, significant, symbol, value

__all__ = ["markdown"]


def markdown(results: Sequence[Result], title: str) -> str:
    """The whole of it."""
    parts = [f"# {plain(title)}", *_overview(results)]
    for result in results:
        parts += _section(result)
    for found in filled(results):
        parts += _matrix(found)
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
    lines = [
        (
            line.result.name if line.first else "",
            line.variant,
            f"{line.runs:,}",
            *(
                f"{part} of {whole}" if whole else ""
                for part, whole in ((line.share.right, line.share.whole), line.compared, line.slopes)
            ),
            str(line.diverged),
            duration(line.result.seconds) if line.first else "",
        )
        for line in overview(results)
    ]
    conventions = dict.fromkeys(result.convention for result in results if result.convention)
    head = ("table", "variant", "runs", "right", "−ELBO ≤ paper", "slopes", "diverged", "time")
    return [
        "\n".join(f"- **{plain(figure)}** {plain(words)}" for figure, words in totals(results)),
        _grid(head, lines, (0, 1)),
        *map(plain, reading(results)),
        *(f"Convention: {plain(text)}." for text in conventions),
        "Pictures are in `report.html`.",
        "## Provenance",
        "\n".join(f"- {plain(symbol(name))}: {plain('; '.join(values))}" for name, values in provenance(results)),
    ]


def _section(result: Result) -> list[str]:
    listed = rows(result)
    parts = [f"## {plain(result.name)}", plain(result.title), plain(result.statement), plain(verdict(listed))]
    if listed:
        parts.append(_table(listed))
    if result.fits:
        parts.append(_fits(result.fits))
    parts.append("\n".join(f"- {plain(sentence)}" for sentence in notes(result)))
    parts += _classes(result)
    if not listed and not result.fits:
        parts.append("This file has no runs.")
    return [part for part in parts if part]


def _table(listed: Sequence[Row]) -> str:
    columns = columns_of(listed)
    named = any(row.variant for row in listed)
    known, eigenvalues = any(row.share.whole for row in listed), by_eigenvalue(listed)
    head = [*(["variant"] if named else []), *map(symbol, columns), *(["true"] if known else [])]
    head += ["paper: active", "ours", *(["by eigenvalue"] if eigenvalues else []), *(["right"] if known else [])]
    head += ["paper: −ELBO", "ours", "lowest", "highest", "paper: squared error", "ours", "paper: KL", "ours"]
    head += ["paper: γ", "ours"]
    lines = []
    for variant, own in in_variants(listed).items():
        for row in own:
            cells = [value(row.cell[name]) if name in row.cell else "" for name in columns]
            lines.append([*([variant] if named else []), *cells, *_dimensions(row, known, eigenvalues), *_numbers(row)])
    words = [i for i, worded in enumerate(columns.values()) if worded]
    return _grid(head, lines, [0, *(i + 1 for i in words)] if named else words)


def _dimensions(row: Row, known: bool, eigenvalues: bool) -> list[str]:
    best, counted = row.best, row.share
    return [
        *([integer(row.true_active)] if known else []),
        integer(row.paper.active_dimensions if row.paper else None),
        integer(best.active_dimensions if best else None),
        *([integer(best.spectrum_count if best else None)] if eigenvalues else []),
        *([f"{counted.right} of {counted.whole}" if counted.whole else integer(None)] if known else []),
    ]


def _numbers(row: Row) -> list[str]:
    ours = row.spread("neg_elbo")
    found = [
        fixed(row.printed("neg_elbo")),
        *(fixed(x) for x in ((ours.median, ours.lowest, ours.highest) if ours else 3 * (math.nan,))),
    ]
    for quantity, write in (("recon", significant), ("kl", fixed), ("gamma", significant)):
        middle = row.spread(quantity)
        found.append(write(row.printed(quantity)))
        found.append(write(middle.median if middle else math.nan))
    return found


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
    head = ["models", "active dimensions", "expected slope", "slope", "off by", "intercept", "R²", "points"]
    head += [name for name, _ in EXPONENTS]
    lines = [
        (
            label(fit),
            ", ".join(map(integer, fit.active_dimensions)),
            significant(fit.expected, 4),
            significant(fit.slope, 4),
            f"{100 * fit.error:.1f} %" if math.isfinite(fit.error) else integer(None),
            fixed(fit.intercept),
            fixed(fit.r_squared, 4),
            str(len(fit.points)),
            *(fixed(fit.exponent(values(fit))) for _, values in EXPONENTS),
        )
        for fit in fits
    ]
    return _grid(head, lines, (0, 1))


def _matrix(found: Filled) -> list[str]:
    rest = [""] * (found.matrix.shape[1] - 1)
    lines = [[fixed(v, 4) for v in (*printed, *own)] for printed, own in zip(found.printed, found.ours, strict=True)]
    return [
        f"## {plain(found.name)}",
        plain(f"Encoder variances, {label(found.run)}, the run of lowest −ELBO, seed {found.run.seed}"),
        _grid(["paper", *rest, "ours", *rest], lines, ()),
    ]
