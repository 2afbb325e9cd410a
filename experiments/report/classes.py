"""Active dimensions of each class, as a table and as pictures."""

from collections.abc import Sequence

from .by_class import ByClass, by_class
from .markup import Markup, element, joined
from .pictures import key
from .results import Result
from .svg import counts
from .table import scrolling
from .text import cell_label, fixed, integer, label, significant, unbroken

__all__ = ["CLASS_HEADS", "READING_CLASSES", "classes", "lines"]

CLASS_HEADS = ("class", "paper: active", "ours", "over the samples", "over the seeds", "−ELBO", "squared error", "KL")
READING_CLASSES = (
    "All numbers of a class are those of the run of lowest −ELBO. “Over the samples” are its active dimensions with "
    "all variances two standard errors higher and lower, “over the seeds” the lowest and the highest of all runs. The "
    "paper prints the mean over the classes alone."
)


def classes(result: Result) -> Markup:
    """Nothing if no classes are measured."""
    found = by_class(result)
    if not found:
        return Markup()
    heads = [element("th", head, scope="col", class_="words" if i == 0 else None) for i, head in enumerate(CLASS_HEADS)]
    table = element(
        "table",
        element("caption", f"{result.name}: active dimensions of each class", class_="hidden"),
        element("thead", element("tr", *heads)),
        *map(_body, found),
        class_="results by-class",
    )
    legend = [
        element("span", "● run of lowest −ELBO"),
        key("range", "over the samples"),
        key("seed", "over the seeds"),
        key("true", "mean over the classes"),
        key("threshold", "the paper’s mean"),
    ]
    ends = [end for each in found for one in each.classes for end in (*one.numbers.interval, *(one.seeds or ()))]
    highest = max(*ends, *(each.printed or 0 for each in found), 1) + 0.5
    figures = [element("figure", counts(each, highest), element("figcaption", *_caption(each))) for each in found]
    return joined(
        element("h3", "Active dimensions of each class"),
        element("p", READING_CLASSES, class_="meta"),
        element("p", *legend, class_="legend"),
        element("div", *figures, class_="classes"),
        scrolling(table, f"Classes of {result.name}"),
    )


def _caption(found: ByClass) -> Sequence[Markup]:
    mean = f"mean {fixed(found.mean, 1)}" + (f", paper {found.printed}" if found.printed is not None else "")
    variant = [element("span", found.row.variant)] if found.row.variant else []
    return [element("b", unbroken(cell_label(found.row.cell))), *variant, element("span", mean)]


def _body(found: ByClass) -> Markup:
    title = element("th", label(found.row), scope="rowgroup", colspan=len(CLASS_HEADS))
    styles = (None, "paper", "ours", None, None, "ours edge", "ours", "ours")
    body = [
        element(
            "tr",
            element("th", name, scope="row", class_="words"),
            *(element("td", text, class_=style) for text, style in zip(texts, styles[1:], strict=True)),
        )
        for name, *texts in lines(found)
    ]
    return element("tbody", element("tr", title, class_="variant"), *body)


def lines(found: ByClass) -> list[list[str]]:
    """One line per class, in the order of ``CLASS_HEADS``, and one for the mean over them."""
    of_each = [
        [
            one.numbers.name,
            "",
            integer(one.numbers.active_dimensions),
            _ends(one.numbers.interval, 0),
            _ends(one.seeds, 0),
            fixed(one.numbers.neg_elbo),
            significant(one.numbers.recon),
            fixed(one.numbers.kl),
        ]
        for one in found.classes
    ]
    means = [integer(found.printed), fixed(found.mean, 1), "", _ends(found.mean_seeds, 1)]
    return [*of_each, ["mean", *means, *[""] * 3]]


def _ends(ends: tuple[float, float] | None, digits: int) -> str:
    """One number if the two are the same."""
    return "" if ends is None else " … ".join(dict.fromkeys(fixed(end, digits) for end in ends))
