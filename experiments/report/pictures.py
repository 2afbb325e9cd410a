"""The parts of the page that show more than a table of numbers: spectra, slopes, and the matrix of Table 10."""

import math
from collections.abc import Iterable, Sequence

from ...dimension import THRESHOLD
from .. import paper
from .markup import Markup, element, joined
from .notes import EXPONENTS
from .results import Fit, Result
from .summary import MATRIX_SHAPE, Row, in_variants, matrix_run, spread
from .svg import decades, proportions, slope, spectrum
from .table import scrolling
from .text import cell_label, fixed, integer, label, significant

__all__ = ["matrix", "slopes", "spectra"]


def spectra(listed: Sequence[Row]) -> Markup:
    """One picture a row, all of a table on one scale; nothing where no run has variances."""
    shown = [row for row in listed if any(run.variance for run in row.finished)]
    if not shown:
        return Markup()
    every = [v for row in shown for run in row.finished for v in run.variance]
    bounds = decades([*every, THRESHOLD, 1.0])
    legend = [
        _key("best", "run of lowest −ELBO"),
        _key("seed", "the other seeds"),
        _key("threshold", f"threshold {THRESHOLD:g}"),
        _key("true", "true dimension"),
    ]
    if any(v < 10.0 ** bounds[0] for v in every):
        legend.append(element("span", "zero lies on the lower edge"))
    parts = [element("h3", "Variances of the latent dimensions, sorted"), element("p", *legend, class_="legend")]
    for variant, own in in_variants(shown).items():
        figures = [element("figure", spectrum(row, bounds), element("figcaption", *_caption(row))) for row in own]
        parts += [element("h4", variant)] if variant else []
        parts.append(element("div", *figures, class_="spectra"))
    return joined(*parts)


def _caption(row: Row) -> list[Markup]:
    counted = row.share
    right = [element("span", f"{counted.right} of {counted.whole} right")] if counted.whole else []
    return [element("b", cell_label(row.cell)), *right]


def _key(kind: str, words: str) -> Markup:
    line = element("line", x1=1, y1=5, x2=23, y2=5, class_=kind)
    return element("span", element("svg", line, width=24, height=10, aria_hidden="true"), words)


def slopes(result: Result) -> Markup:
    """The fits as numbers and as pictures."""
    numbers = ("expected", "slope", "off by", "intercept", "R²", "points", *(name for name, _ in EXPONENTS))
    head = element(
        "tr",
        element("th", "models", scope="col", class_="words"),
        *(element("th", text, scope="col") for text in numbers),
        element("th", "active dimensions, in the order of the points", scope="col", class_="words"),
    )
    lines = [_fit(fit) for fit in result.fits]
    legend = [
        _key("expected", "expected slope"),
        _key("fitted", "fitted line"),
        element("span", "□ squared error, △ active and ◇ inactive variances"),
    ]
    figures = []
    for cell, fits in _over_seeds(result.fits):
        pictures = element("div", slope(fits, result.quantity, cell), proportions(fits, cell), class_="pair")
        found = spread(fit.slope for fit in fits)
        said = f"expected {significant(fits[0].expected, 4)}"
        if found is not None:
            ends = (found.lowest, found.highest) if found.count > 1 else (found.median,)
            said = f"slope {' … '.join(significant(end, 4) for end in ends)}, {said}"
        figures.append(element("figure", pictures, element("figcaption", element("b", cell), element("span", said))))
    table = element("table", element("thead", head), element("tbody", *lines), class_="lines")
    return joined(
        scrolling(table, f"Slopes of {result.name}"),
        element("p", *legend, class_="legend"),
        element("div", *figures, class_="slopes"),
    )


def _over_seeds(fits: Sequence[Fit]) -> list[tuple[str, list[Fit]]]:
    """Those that differ in nothing but the seed share a picture."""
    grouped: dict[tuple[str, float], list[Fit]] = {}
    for fit in fits:
        cell = {name: content for name, content in fit.cell.items() if name != "seed"}
        grouped.setdefault((cell_label(cell), fit.expected), []).append(fit)
    return [(cell, own) for (cell, _), own in grouped.items()]


def _fit(fit: Fit) -> Markup:
    off = f"{100 * fit.error:.1f} %" if math.isfinite(fit.error) else integer(None)
    counts = ", ".join(map(integer, fit.active_dimensions))
    return element(
        "tr",
        element("th", label(fit), scope="row", class_="words"),
        *(element("td", text) for text in (significant(fit.expected, 4), significant(fit.slope, 4), off)),
        *(element("td", text) for text in (fixed(fit.intercept), fixed(fit.r_squared, 4), str(len(fit.points)))),
        *(element("td", fixed(fit.exponent(values(fit)))) for _, values in EXPONENTS),
        element("td", counts, class_="words"),
    )


def matrix(results: Sequence[Result], name: str) -> Markup:
    """Table 10: the paper's variances and ours, as colours and numbers; nothing where there is no such run."""
    run = matrix_run(results)
    if run is None:
        return Markup()
    _, columns = MATRIX_SHAPE
    ours = [run.variance[i : i + columns] for i in range(0, len(run.variance), columns)]
    said = (
        f"{label(run)}: the run of lowest −ELBO, seed {run.seed}. The stronger the colour, the smaller; those below "
        f"{THRESHOLD:g} are bold. Which of the latent dimensions are the active ones is chance."
    )
    return element(
        "section",
        element("h2", "Table 10"),
        element("p", "Encoder variances of every latent dimension", class_="title"),
        element("p", said, class_="meta"),
        element("div", _heat(paper.matrix("table10"), "paper"), _heat(ours, "ours"), class_="matrices"),
        id=name,
    )


def _heat(values: Iterable[Sequence[float]], title: str) -> Markup:
    lines = [element("tr", *map(_tile, line)) for line in values]
    return element("table", element("caption", title), element("tbody", *lines), class_="heat")


def _tile(v: float) -> Markup:
    """A shade for each decade."""
    shade = 0
    if v < THRESHOLD:
        shade = min(4, math.floor(-math.log10(v))) if v > 0 else 4
    return element("td", significant(v, 2) if v < 0.001 else fixed(v, 4), class_=f"shade{shade}")
