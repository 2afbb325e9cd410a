"""``report.html``: one page that needs nothing but itself, for screen and paper."""

import re
from collections.abc import Sequence
from importlib.resources import files

from .classes import classes
from .heat import heat
from .how_to_read import reading
from .markup import Markup, element, joined
from .matrices import MATRICES, filled
from .notes import notes, verdict
from .overview import Line, facts, overview, overview_heads, provenance, totals
from .pictures import slopes, spectra
from .results import Result
from .summary import ENOUGH, rows
from .table import results_table, scrolling
from .text import symbol, unbroken

__all__ = ["TITLE", "page"]

TITLE = "Manifold dimensions, replayed"
SUBTITLE = "The tables of “Learning Manifold Dimensions with Conditional Variational Autoencoders”, paper and ours"
READING_MARKS = (
    "✓ and ≠ say whether active dimensions are the true ones, ▲ that a median −ELBO is above the paper’s, and a shaded "
    f"share of right runs that it is below {100 * ENOUGH:.0f} %. The strips show −ELBO, lower to the left: ours as a "
    "dot on the bar from its lowest to its highest, the paper’s as a diamond, all rows of a variant on one scale."
)
# Names within the page.
OVERVIEW, PROVENANCE = "overview", "provenance"
METERED = "right"  # the column behind which its share is drawn
VARIANCES = {matrix.table: f"variances-{matrix.table}" for matrix in MATRICES}


def page(results: Sequence[Result]) -> str:
    """The whole of it."""
    names = _names(results)
    style = (files(__package__) / "page.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", TITLE),
        element("style", Markup(style)),
    )
    sections = [_section(result, name) for name, result in zip(names, results, strict=True)]
    targets = {OVERVIEW: "Overview", **dict(zip(names, (result.name for result in results), strict=True))}
    variances = filled(results)
    targets |= {VARIANCES[found.matrix.table]: found.name for found in variances}
    targets[PROVENANCE] = "Provenance"
    sections += [heat(found, VARIANCES[found.matrix.table]) for found in variances]
    sections.append(_provenance(results))
    body = element(
        "body",
        element("header", element("h1", TITLE), element("p", SUBTITLE, class_="subtitle")),
        element("nav", *(element("a", text, href=f"#{name}") for name, text in targets.items()), aria_label="Tables"),
        element("main", _overview(results, names), *sections),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _names(results: Sequence[Result]) -> list[str]:
    """A name for each section, for links."""
    names: list[str] = []
    for result in results:
        name = re.sub(r"[^a-z0-9]+", "-", result.table.lower()).strip("-")
        taken = not name or name in (*names, OVERVIEW, PROVENANCE, *VARIANCES.values())
        names.append(f"{name}-section-{len(names)}" if taken else name)
    return names


def _overview(results: Sequence[Result], names: Sequence[str]) -> Markup:
    figures = [
        element("div", element("dt", words), element("dd", shown), class_="figure") for shown, words in totals(results)
    ]
    found = overview(results)
    heads = overview_heads(found)
    titles = []
    for head in heads:
        titles.append(element("th", head, scope="col", class_=_kind(head)))
        if head == METERED:
            titles.append(element("th", element("span", "share right", class_="hidden"), scope="col"))
    lines = [_line(line, heads, names[results.index(line.result)]) for line in found]
    table = element("table", element("thead", element("tr", *titles)), element("tbody", *lines), class_="lines")
    conventions = dict.fromkeys(result.convention for result in results if result.convention)
    return element(
        "section",
        element("h2", "Overview"),
        element("dl", *figures, class_="figures"),
        scrolling(table, "Overview"),
        element("h3", "How to read the tables"),
        *(element("p", paragraph) for paragraph in (*reading(results), READING_MARKS)),
        *(element("p", f"Convention: {text}.") for text in conventions),
        id=OVERVIEW,
    )


def _provenance(results: Sequence[Result]) -> Markup:
    """At the end: it is looked up, not read."""
    origins = [
        joined(element("dt", symbol(name)), *(element("dd", text) for text in values))
        for name, values in provenance(results)
    ]
    return element("section", element("h2", "Provenance"), element("dl", *origins, class_="facts"), id=PROVENANCE)


def _kind(head: str) -> str | None:
    return "words" if head in ("table", "variant") else None


def _line(line: Line, heads: Sequence[str], name: str) -> Markup:
    share = line.share
    cells = []
    for head in heads:
        if head == "table":
            link = element("a", line.result.name, href=f"#{name}") if line.first else Markup()
            cells.append(element("th", link, scope="row", class_="words"))
        else:
            cells.append(element("td", line.cells[head], class_=_kind(head)))
        if head == METERED:
            cells.append(element("td", _meter(share.right / share.whole) if share else Markup()))
    return element("tr", *cells, class_="first" if line.first else None)


def _meter(part: float) -> Markup:
    bars = [element("rect", x=0, y=0, height=6, width=72, class_="unfilled")]
    bars.append(element("rect", x=0, y=0, height=6, width=f"{72 * part:.1f}", class_="filled"))
    return element("svg", *bars, width=72, height=6, aria_hidden="true", class_="meter")


def _section(result: Result, name: str) -> Markup:
    listed = rows(result)
    parts = [element("h2", result.name), element("p", result.title, class_="title")]
    parts += [element("p", line, class_="meta") for line in facts(result)]
    if result.statement:
        parts.append(element("p", result.statement, class_="statement"))
    if listed:
        parts += [element("p", verdict(listed), class_="verdict"), results_table(result, listed)]
    if result.fits:
        parts.append(slopes(result))
    if found := notes(result):
        parts.append(element("ul", *(element("li", unbroken(sentence)) for sentence in found), class_="notes"))
    if not listed and not result.of_fits and not result.only_published:
        parts.append(element("p", "This file has no runs."))
    return element("section", *parts, classes(result), spectra(listed), id=name)
