"""The pictures, as SVG without styles of its own: ``page.css`` has colours and type, for light, dark and print."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...metrics.active import THRESHOLD
from .by_class import ByClass
from .markup import Markup, element
from .results import Fit
from .summary import Row
from .text import fixed, integer, label, power_of_ten, significant

__all__ = ["counts", "decades", "proportions", "slope", "spectrum", "strip"]

WIDTH, HEIGHT = 272, 204  # of pictures over log γ; those of classes are as wide
LOWEST = -12  # of the exponents that a log axis shows; zero has none
Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """value ↦ place, in units of the picture; values beyond the ends are put on them."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start)


def decades(values: Iterable[float]) -> tuple[int, int]:
    """Exponents of ten between which the positive values lie."""
    exponents = [math.log10(value) for value in values if value > 0 and math.isfinite(value)]
    if not exponents:
        return -1, 0
    low = max(math.floor(min(exponents)), LOWEST)
    return low, max(math.ceil(max(exponents)), low + 1)


def exponent(value: float) -> float:
    """log₁₀; −∞ for zero and below, which an axis puts on its lower end."""
    return math.log10(value) if value > 0 else -math.inf


def spectrum(row: Row, bounds: tuple[int, int]) -> Markup:
    """Variances of all latent dimensions, sorted: one line per seed, the run of lowest −ELBO on top; the eigenvalues of
    full covariances in the same way. Of the runs as published, only that of lowest −ELBO."""
    width, height = 216, 168
    drawn = [_sorted(run.variance) for run in row.finished]
    eigenvalues = [_sorted(run.spectrum) for run in row.finished]
    best, published = row.best, row.published.best
    as_published = _sorted(published.variance) if published is not None else []
    latent = max(map(len, [*drawn, *eigenvalues, as_published]), default=1)
    x = Axis(0.5, max(latent, 1) + 0.5, 34, width - 6)
    y = Axis(*bounds, height - 34, 16)
    parts = _decade_grid(y, bounds, x)
    if (true := row.true_active) is not None:
        edge = x(true + 0.5)
        size = {"width": _(edge - x.start), "height": _(y.start - y.end)}
        parts.insert(0, element("rect", x=_(x.start), y=_(y.end), **size, class_="band"))
        parts.append(_line(edge, y.end, edge, y.start, "true"))
        anchor = "end" if edge > (x.start + x.end) / 2 else "start"
        parts.append(_text(edge + (3 if anchor == "start" else -3), y.end - 4, f"true {true}", "truth", anchor))
        parts.append(_text(edge, y.start + 14, str(true), "tick", "middle") if 2 < true < latent - 1 else Markup())
    threshold = y(exponent(THRESHOLD))
    parts.append(_line(x.start, threshold, x.end, threshold, "threshold"))

    def places_of(values: Sequence[float]) -> list[Point]:
        return [(x(i + 1), y(exponent(v))) for i, v in enumerate(values)]

    parts += [_path(places_of(values), "seed eigenvalues") for values in eigenvalues]
    parts += [_path(places_of(values), "seed") for values in drawn]
    parts.append(_path(places_of(as_published), "published"))
    if best is not None:
        places = places_of(_sorted(best.variance))
        parts.append(_path(places_of(_sorted(best.spectrum)), "best eigenvalues"))
        parts += [_path(places, "best"), *(_dot(place, 1.6 if latent <= 40 else 1.0, "best") for place in places)]
    parts += [_text(x(i), y.start + 14, str(i), "tick", "middle") for i in sorted({1, latent})]
    parts.append(_text(x.start - 5, y.end - 6, "σ²", "axis", "end"))
    parts.append(_text((x.start + x.end) / 2, y.start + 28, "latent dimension, sorted", "axis", "middle"))
    found = ", ".join(integer(run.active_dimensions) for run in row.finished)
    said = f"Variances of the latent dimensions, {label(row)}. Active dimensions of the runs: {found or 'none'}"
    if any(eigenvalues):
        said += f"; by eigenvalue: {', '.join(integer(run.spectrum_count) for run in row.finished)}"
    if published is not None:
        said += f"; as published: {integer(published.active_dimensions)}"
    return _picture(width, height, said + (f"; true: {true}." if true is not None else "."), parts)


def _sorted(values: Iterable[float]) -> list[float]:
    return sorted(v for v in values if not math.isnan(v))


def counts(found: ByClass, highest: float) -> Markup:
    """Active dimensions of each class, one line per class, and the mean over them; all from 0 to ``highest``."""
    step, top = 18, 16
    height = top + step * len(found.classes) + 36
    x = Axis(0, highest, 66, WIDTH - 10)
    bottom = height - 34
    parts = []
    for value in _ticks(x, 5):
        parts += [
            _line(x(value), top, x(value), bottom, "grid"),
            _text(x(value), bottom + 14, _tick(value), "tick", "middle"),
        ]
    parts.append(_text((x.start + x.end) / 2, bottom + 29, "active dimensions", "axis", "middle"))
    if found.printed is not None:
        parts.append(_line(x(found.printed), top, x(found.printed), bottom, "threshold"))
    if math.isfinite(found.mean):
        parts.append(_line(x(found.mean), top, x(found.mean), bottom, "true"))
    for i, one in enumerate(found.classes):
        middle = top + step * (i + 0.5)
        parts.append(_text(x.start - 8, middle + 3.5, one.numbers.name, "tick", "end"))
        if one.seeds is not None:
            parts.append(_line(x(one.seeds[0]), middle, x(one.seeds[1]), middle, "seed"))
        parts.append(_line(x(one.numbers.interval[0]), middle, x(one.numbers.interval[1]), middle, "range"))
        if one.numbers.active_dimensions is not None:
            parts.append(_dot((x(one.numbers.active_dimensions), middle), 3.4, "ours"))
    each = ", ".join(f"{one.numbers.name}: {integer(one.numbers.active_dimensions)}" for one in found.classes)
    said = f"Active dimensions of the classes, {label(found.row)}: {each}; mean {fixed(found.mean, 1)}"
    said += f", the paper’s {found.printed}." if found.printed is not None else "."
    return _picture(WIDTH, height, said, parts)


def slope(fits: Sequence[Fit], quantity: str, name: str) -> Markup:
    """The quantity against log γ, of one seed or several: points, the line fitted to those of each seed, and the
    expected slope through the mean of all."""
    points = _finite([point for fit in fits for point in fit.points])
    x, y = _axes(points)
    parts = _grid(x, y, "log γ", quantity)
    if points:
        for fit in fits:
            if math.isfinite(fit.slope) and math.isfinite(fit.intercept):
                parts.append(_straight(fit.slope, fit.intercept, x, y, "fitted"))
        middle = [math.fsum(values) / len(points) for values in zip(*points, strict=True)]
        expected = fits[0].expected
        if math.isfinite(expected):
            parts.append(_straight(expected, middle[1] - expected * middle[0], x, y, "expected"))
        parts += [_dot((x(a), y(b)), 3.2 if len(fits) == 1 else 2.2, "point") for a, b in points]
    slopes = ", ".join(significant(fit.slope, 4) for fit in fits)
    said = f"{quantity} against log γ: slope {slopes}; expected {significant(fits[0].expected, 4)}."
    return _picture(WIDTH, HEIGHT, f"{name}: {said}", parts)


def proportions(fits: Sequence[Fit], name: str) -> Markup:
    """Squared error, active and inactive variances against γ, logarithmic; nothing if the files have none."""
    drawn = [
        (kind, [(a, v) for (a, _b), v in zip(fit.points, values, strict=True) if math.isfinite(a) and 0 < v < math.inf])
        for fit in fits
        for kind, values in (("recon", fit.recon), ("active", fit.active_variance), ("inactive", fit.inactive_variance))
        if values
    ]
    everything = [point for _, points in drawn for point in points]
    if not everything:
        return Markup()
    bounds = decades(value for _, value in everything)
    x, _y = _axes(everything)
    y = Axis(*bounds, HEIGHT - 34, 14)
    parts = [*_decade_grid(y, bounds, x), *_below(x, y, "log γ")]
    parts.append(_text(x.start, y.end - 4, "squared error, mean σ²", "axis", "start"))
    for kind, points in drawn:
        places = sorted((x(a), y(exponent(value))) for a, value in points)
        if places:
            parts += [_path(places, kind), *(_mark(place, kind) for place in places)]
    return _picture(WIDTH, HEIGHT, f"Squared error and variances against log γ, {name}.", parts)


def strip(row: Row, low: float, high: float) -> Markup:
    """−ELBO on the scale of its variant: the paper's as a diamond, ours as a dot on its spread."""
    width, height = 96, 16
    x = Axis(low, high if high > low else low + 1, 5, width - 5)
    middle = height / 2
    parts = [_line(x.start, middle, x.end, middle, "rail")]
    if (ours := row.spread("neg_elbo")) is not None:
        parts.append(_line(x(ours.lowest), middle, x(ours.highest), middle, "range"))
        parts.append(_dot((x(ours.median), middle), 3.4, "ours"))
    if math.isfinite(row.printed("neg_elbo")):
        at = x(row.printed("neg_elbo"))
        diamond = f"M{_(at)} {_(middle - 4.5)}l4.5 4.5l-4.5 4.5l-4.5 -4.5z"
        parts.append(element("path", d=diamond, class_="paper"))
    return element(
        "svg", *parts, viewBox=f"0 0 {width} {height}", width=width, height=height, class_="strip", aria_hidden="true"
    )


def _picture(width: int, height: int, said: str, parts: Sequence[Markup]) -> Markup:
    return element(
        "svg", *parts, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img", aria_label=said
    )


def _(number: float) -> str:
    return f"{number:.1f}"


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element("line", x1=_(x1), y1=_(y1), x2=_(x2), y2=_(y2), class_=kind)


def _path(places: Sequence[Point], kind: str) -> Markup:
    return (
        element("polyline", points=" ".join(f"{_(x)},{_(y)}" for x, y in places), class_=kind) if places else Markup()
    )


def _dot(place: Point, radius: float, kind: str) -> Markup:
    return element("circle", cx=_(place[0]), cy=_(place[1]), r=radius, class_=kind)


def _mark(place: Point, name: str) -> Markup:
    """A shape of its own for every curve: colour alone does not tell them apart."""
    x, y = place
    shapes = {
        "recon": f"M{_(x - 3)} {_(y - 3)}h6v6h-6z",
        "active": f"M{_(x)} {_(y - 3.8)}l3.6 6.4h-7.2z",
        "inactive": f"M{_(x)} {_(y - 4)}l4 4l-4 4l-4 -4z",
    }
    return element("path", d=shapes[name], class_=f"mark {name}")


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> Markup:
    return element("text", text, x=_(x), y=_(y), class_=kind, text_anchor=anchor)


def _straight(slope: float, intercept: float, x: Axis, y: Axis, kind: str) -> Markup:
    """The part of a straight line inside the picture."""
    steps = 64
    places = [(a, intercept + slope * a) for a in (x.low + (x.high - x.low) * i / steps for i in range(steps + 1))]
    inside = [(x(a), y(b)) for a, b in places if y.low <= b <= y.high]
    return _line(*inside[0], *inside[-1], kind) if inside else Markup()


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(a, b) for a, b in points if math.isfinite(a) and math.isfinite(b)]


def _axes(points: Sequence[Point]) -> tuple[Axis, Axis]:
    """With a little room on every side."""
    bounds = []
    for values in ([p[0] for p in points] or [0.0], [p[1] for p in points] or [0.0]):
        room = 0.06 * (max(values) - min(values)) or 1.0
        bounds.append((min(values) - room, max(values) + room))
    return Axis(*bounds[0], 48, WIDTH - 10), Axis(*bounds[1], HEIGHT - 34, 14)


def _ticks(axis: Axis, most: int = 6) -> list[float]:
    """Round numbers inside the axis, at most ``most``."""
    rough = (axis.high - axis.low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * i for i in range(math.ceil(axis.low / step), math.floor(axis.high / step) + 1)]


def _grid(x: Axis, y: Axis, below: str, beside: str) -> list[Markup]:
    parts = [_text(x.start, y.end - 4, beside, "axis", "start")]
    for value in _ticks(y):
        parts.append(_line(x.start, y(value), x.end, y(value), "grid"))
        parts.append(_text(x.start - 5, y(value) + 3.5, _tick(value), "tick", "end"))
    return [*parts, *_below(x, y, below)]


def _tick(value: float) -> str:
    return fixed(value, 0) if value == round(value) else significant(value)


def _below(x: Axis, y: Axis, name: str) -> list[Markup]:
    parts = [_text(x(value), y.start + 14, _tick(value), "tick", "middle") for value in _ticks(x)]
    return [*parts, _text((x.start + x.end) / 2, y.start + 29, name, "axis", "middle")]


def _decade_grid(y: Axis, bounds: tuple[int, int], x: Axis) -> list[Markup]:
    low, high = bounds
    step = max(1, math.ceil((high - low) / 5))
    parts = []
    for power in range(high, low - 1, -step):
        parts.append(_line(x.start, y(power), x.end, y(power), "grid"))
        parts.append(_text(x.start - 5, y(power) + 3.5, power_of_ten(power), "tick", "end"))
    return parts
