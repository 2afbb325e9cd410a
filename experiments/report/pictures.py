"""The parts of the page that show more than a table of numbers: spectra and slopes."""

from collections.abc import Mapping, Sequence

from ...metrics.active import THRESHOLD
from .fits import WORDS_OF_FIT, columns_of_fit
from .markup import Markup, element, joined
from .results import Fit, Result, Run
from .summary import Row, in_variants, spread
from .svg import decades, proportions, slope, spectrum
from .table import scrolling
from .text import cell_label, significant, unbroken

__all__ = ["key", "slopes", "spectra"]


def spectra(listed: Sequence[Row]) -> Markup:
    """One picture per row, all of a table on one scale; nothing if no run has variances."""
    shown = [row for row in listed if any(run.variance for run in _drawn(row))]
    if not shown:
        return Markup()
    every = [v for row in shown for run in _drawn(row) for v in (*run.variance, *run.spectrum)]
    bounds = decades([*every, THRESHOLD, 1.0])
    legend = [
        key("best", "run of lowest −ELBO"),
        key("seed", "the other seeds"),
        key("threshold", f"threshold {THRESHOLD:g}"),
    ]
    if any(row.true_active is not None for row in shown):
        legend.append(key("true", "true dimension"))
    if any(run.spectrum for row in shown for run in row.finished):
        legend.insert(1, key("best eigenvalues", "its eigenvalues, if the covariance is full"))
    if any(row.published.best is not None for row in shown):
        legend.append(key("published", "as published, run of lowest −ELBO"))
    if any(v < 10.0 ** bounds[0] for v in every):
        legend.append(element("span", "zero lies on the lower edge"))
    parts = [element("h3", "Variances of the latent dimensions, sorted"), element("p", *legend, class_="legend")]
    for variant, own in in_variants(shown).items():
        figures = [element("figure", spectrum(row, bounds), element("figcaption", *_caption(row))) for row in own]
        parts += [element("h4", variant)] if variant else []
        parts.append(element("div", *figures, class_="spectra"))
    return joined(*parts)


def _drawn(row: Row) -> list[Run]:
    best = row.published.best
    return [*row.finished, *([best] if best is not None else [])]


def _caption(row: Row) -> list[Markup]:
    counted = row.share
    right = [element("span", f"{counted} right")] if counted else []
    return [element("b", unbroken(cell_label(row.cell))), *right]


def key(kind: str, words: str) -> Markup:
    """An entry of a legend: a line of this kind, upright or not as in the picture, and its meaning."""
    from_to = {"x1": 12, "y1": 0, "x2": 12, "y2": 10} if kind == "true" else {"x1": 1, "y1": 5, "x2": 23, "y2": 5}
    line = element("line", **from_to, class_=kind)
    return element("span", element("svg", line, width=24, height=10, aria_hidden="true"), words)


def slopes(result: Result) -> Markup:
    """The fits as numbers and as pictures."""
    listed = [columns_of_fit(fit) for fit in result.fits]
    styles = {head: "words" if head in WORDS_OF_FIT else None for line in listed for head in line}
    heads = [element("th", head, scope="col", class_=style) for head, style in styles.items()]
    lines = [_line(line, styles) for line in listed]
    legend = [
        key("expected", "expected slope"),
        key("fitted", "fitted line"),
        element("span", "□ squared error, △ active and ◇ inactive variances"),
    ]
    figures = []
    for cell, fits in _over_seeds(result.fits):
        pictures = element("div", slope(fits, result.quantity, cell), proportions(fits, cell), class_="pair")
        found = spread(fit.slope for fit in fits)
        said = f"expected {significant(fits[0].expected, 4)}"
        if found is not None:
            ends = (found.lowest, found.highest) if found.count > 1 else (found.median,)
            said = f"slope {' … '.join(significant(end, 4, padded=True) for end in ends)}, {said}"
        figures.append(
            element("figure", pictures, element("figcaption", element("b", unbroken(cell)), element("span", said)))
        )
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *lines), class_="lines")
    return joined(
        scrolling(table, f"Slopes of {result.name}"),
        element("p", *legend, class_="legend"),
        element("div", *figures, class_="slopes"),
    )


def _over_seeds(fits: Sequence[Fit]) -> list[tuple[str, list[Fit]]]:
    """Fits that differ only in the seed share a picture."""
    grouped: dict[tuple[str, float], list[Fit]] = {}
    for fit in fits:
        cell = {name: content for name, content in fit.cell.items() if name != "seed"}
        grouped.setdefault((cell_label(cell), fit.expected), []).append(fit)
    return [(cell, own) for (cell, _), own in grouped.items()]


def _line(line: Mapping[str, str], styles: Mapping[str, str | None]) -> Markup:
    first, *others = styles
    return element(
        "tr",
        element("th", line[first], scope="row", class_="words"),
        *(element("td", line.get(head, ""), class_=styles[head]) for head in others),
    )
