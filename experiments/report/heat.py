"""Tables 10 and 11 as HTML: the paper's variances and ours, as colours and numbers."""

import math
from collections.abc import Iterable, Sequence

from ...metrics.active import THRESHOLD
from .markup import Markup, element
from .matrices import Filled
from .text import fixed, label, significant

__all__ = ["heat"]


def heat(found: Filled, name: str) -> Markup:
    """A section of this name."""
    said = (
        f"{label(found.run)}: the run of lowest −ELBO, seed {found.run.seed}. The stronger the colour, the smaller; "
        f"those below {THRESHOLD:g} are bold. Which of the latent dimensions are the active ones is chance."
    )
    counts = (sum(v < THRESHOLD for line in values for v in line) for values in (found.printed, found.ours))
    tables = [
        _heat(values, f"{whose}: {count} active")
        for values, whose, count in zip((found.printed, found.ours), ("paper", "ours"), counts, strict=True)
    ]
    return element(
        "section",
        element("h2", found.name),
        element("p", found.matrix.title, class_="title"),
        element("p", said, class_="meta"),
        element("div", *tables, class_="matrices"),
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
