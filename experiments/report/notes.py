"""What a table shows, in plain sentences; the same on both pages."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...local import CLEAR
from ..tables import on_test_images
from .published import READING_PUBLISHED, of_published
from .results import DivergedModel, Fit, Result, Run
from .summary import (
    ENOUGH,
    SLOPE_TOLERANCE,
    Contrast,
    Row,
    Share,
    at_or_below,
    by_eigenvalue,
    contrasts,
    in_variants,
    measured_by_decoder,
    rows,
    share,
    share_by_decoder,
    spread,
    unclear,
    within,
)
from .text import NOTHING, duration, enumeration, fixed, flat, integer, label, percent, significant, symbol
from .thresholds import by_threshold
from .trends import trends

__all__ = [
    "WORDS_OF_FIT",
    "Line",
    "columns_of_fit",
    "facts",
    "notes",
    "overview",
    "overview_heads",
    "provenance",
    "reading",
    "totals",
    "verdict",
]

# What falls with γ, and as which power of it.
_EXPONENTS: tuple[tuple[str, Callable[[Fit], tuple[float, ...]]], ...] = (
    ("squared error ∝ γ^", lambda fit: fit.recon),
    ("active variances ∝ γ^", lambda fit: fit.active_variance),
    ("inactive ∝ γ^", lambda fit: fit.inactive_variance),
)
LEVEL = "inactive at the smallest γ"  # 1 by the theorems: as a power of γ, any constant is as good
# What was not run, but measured step by step: see manifold_core.experiments.eager.
EAGER = {"same_steps": "the same steps", "as_published": "the paper’s own models, steps and batches, of as many seeds"}
READING = (
    "Beside each of the paper’s numbers stands ours: the median over the seeds, with the lowest and the highest. "
    "Our active dimensions are those of the run of lowest −ELBO; “right” counts the runs whose active dimensions equal "
    "the true ones. A diverged run counts as wrong there and is left out of medians and spreads. A dimension is active "
    "below a variance of 0.05, of a conditional model relative to its prior’s. Data are drawn anew, and networks may "
    "be wider than the paper’s: a lower −ELBO says nothing for or against the paper."
)
READING_TRIED = (
    "How the models are trained, and what else was tried where they fall short of the paper or of the theorems, with "
    "its figures, says manifold_core/experiments/recipe.py; the project’s MEASURED.md says what the tables show."
)
READING_EIGENVALUES = (
    "With full covariance the active directions need not lie along the axes: “by eigenvalue” counts the eigenvalues of "
    "the posterior’s covariance, relative to the prior’s, below 0.05, which no rotation of the latent space changes."
)
READING_BY_DECODER = (
    "“By the decoder” is the dimension that the decoder’s derivative J tells, mc.local_dimensions: as many eigenvalues "
    "of (I + S JᵀJ S/γ)⁻¹, in order and averaged over some of the samples, stand before the widest gap, S being the "
    "prior’s standard deviations; none where not even the smallest is below 0.05. Of a model of sequences it is that "
    "of the last step."
)
READING_CLASS_MEANS = "Where the classes of the data are measured, ours is the mean over them, as the paper’s."
READING_TEST_IMAGES = (
    "Models of images are measured on the training images and on test images. The paper does not say on which it "
    "measured; its numbers stand beside the test images."
)


MODELS, ACTIVE, BY_DECODER = "models", "active dimensions, in the order of the points", "by the decoder"
WORDS_OF_FIT = (MODELS, ACTIVE, BY_DECODER)  # the others are numbers


def columns_of_fit(fit: Fit) -> dict[str, str]:
    """Of the decoder where it was measured."""
    found = {
        MODELS: label(fit),
        "expected": significant(fit.expected, 4),
        "slope": significant(fit.slope, 4, padded=True),
        "off by": f"{100 * fit.error:.2f} %" if math.isfinite(fit.error) else NOTHING,
        "between the last two": significant(fit.last_slope, 4, padded=True),
        "intercept": fixed(fit.intercept),
        "R²": fixed(fit.r_squared, 4),
        "points": str(len(fit.points)),
        **{name: fixed(fit.exponent(values(fit))) for name, values in _EXPONENTS},
        LEVEL: fixed(fit.inactive_variance[-1], 3) if fit.inactive_variance else NOTHING,
        ACTIVE: ", ".join(map(integer, fit.active_dimensions)),
    }
    if fit.local_dimensions:
        found[BY_DECODER] = ", ".join(map(integer, fit.local_dimensions))
    return found


def reading(results: Sequence[Result]) -> list[str]:
    """How to read the tables; what concerns some of them alone is said where these are there."""
    listed = [row for result in results for row in rows(result)]
    found = [READING, READING_TRIED]
    if by_eigenvalue(own for row in listed for own in (row, row.published)):
        found.append(READING_EIGENVALUES)
    if measured_by_decoder(listed):
        found.append(READING_BY_DECODER)
    if any(math.isfinite(own.class_mean) for row in listed for own in (row, row.published)):
        found.append(READING_CLASS_MEANS)
    if _on_test_images([*listed, *(row.published for row in listed)]):
        found.append(READING_TEST_IMAGES)
    if any(result.published is not None for result in results):
        found.append(READING_PUBLISHED)
    return found


def _on_test_images(listed: Iterable[Row]) -> bool:
    return any(row.runs and row.variant.endswith(on_test_images("")) for row in listed)


def verdict(listed: Sequence[Row]) -> str:
    """How many rows keep up with the paper, and how many are right often enough."""
    below, compared = at_or_below(listed)
    known = [row.share for row in listed if row.share.whole]
    parts = []
    if compared:
        parts.append(f"Median −ELBO at or below the paper’s in {below} of {compared} rows")
    if known:
        right = sum(s.enough for s in known)
        words = f"rue active dimensions in at least {100 * ENOUGH:.0f} % of the runs in {right} of {len(known)} rows"
        parts.append(("t" if parts else "T") + words)
    return "; ".join(parts) + "." if parts else ""


def notes(result: Result) -> list[str]:
    """What rows say beside each other; what every yes or no makes of the loss; every row that is above the paper’s
    −ELBO, too seldom right, or has diverged runs; every slope that is off; what other thresholds would count; how often
    the decoder leaves it open; what else was measured; how the runs as published compare."""
    listed = rows(result)
    found = trends(result)
    found += [sentence for contrast in contrasts(listed) for sentence in _of_contrast(contrast)]
    found += [s for own in in_variants(listed).values() for row in own for s in _of_row(row)]
    found += [sentence for fit in result.fits for sentence in _of_fit(fit)]
    found += [f"{label(one)}: diverged: {_divergence(one)}." for one in result.diverged]
    found += by_threshold(listed)
    found += _of_decoder(result.runs)
    measured = dict.fromkeys(name for run in result.runs for name in run.measured)
    found += [f"{name}: {_range(result.runs, name)}" for name in measured]
    return [*found, *of_published(result)]


def _of_decoder(runs: Iterable[Run]) -> list[str]:
    if not (counted := unclear(runs)).right:
        return []
    return [
        f"By the decoder: in {counted.right} of {counted.whole} runs the gap is narrower than {CLEAR:g}, and the "
        "dimension a guess."
    ]


def _range(runs: Iterable[Run], name: str) -> str:
    if (found := spread(run.measured.get(name, math.nan) for run in runs)) is None:
        return "no finite number."
    return f"{' to '.join(dict.fromkeys(map(significant, (found.lowest, found.highest))))}."


def _of_contrast(contrast: Contrast) -> list[str]:
    if not contrast.differences:
        return []
    ours, printed, name = contrast.differences, contrast.printed, symbol(contrast.column)
    sides = f"with {name} less that without", f"without {name} less that with"
    sign = -1 if printed < 0 else 1
    by_seed = enumeration(fixed(sign * difference) for difference in ours.values())
    sentence = f"{label(contrast)}: −ELBO {sides[sign < 0]}, seed by seed: {by_seed}"
    if not math.isnan(printed):
        enough = sum(sign * difference >= abs(printed) for difference in ours.values())
        sentence += f"; the paper’s is {fixed(abs(printed))}, and {enough} of {len(ours)} seeds have as much"
    return [f"{sentence}."]


def _of_row(row: Row) -> list[str]:
    where, found = label(row), []
    ours, printed, counted = row.spread("neg_elbo"), row.printed("neg_elbo"), row.share
    if not row.runs and not row.as_published:
        found.append(f"{where}: no runs.")
    if row.above_paper and ours is not None:
        found.append(
            f"{where}: median −ELBO {fixed(ours.median)}, above the paper’s {fixed(printed)} "
            f"by {fixed(ours.median - printed)}."
        )
    if counted.whole and not counted.enough:
        others = Counter(run.active_dimensions for run in row.finished if not run.right)
        instead = f"; the others have {_times(others)}" if others else ""
        found.append(
            f"{where}: {counted.right} of {counted.whole} runs ({percent(counted.right, counted.whole)}) have the true "
            f"active dimensions, {integer(row.true_active)}{instead}."
        )
    counts = Counter(
        run.active_dimensions if run.spectrum_count is None else run.spectrum_count for run in row.finished
    )
    if row.true_active is None and len(counts) > 1:
        by = " by eigenvalue" if row.spectrum_count is not None else ""
        found.append(f"{where}: the runs have {_times(counts)} active dimensions{by}.")
    for runs, how in ((row, ""), (row.published, ", as published")):
        if runs.diverged:
            found.append(f"{where}{how}: diverged: {enumeration(map(_divergence, runs.diverged))}.")
    return found


def _times(counts: Counter[int | None]) -> str:
    """``2 (1×) and 4 (3×)``."""
    return enumeration(f"{integer(count)} ({times}×)" for count, times in sorted(counts.items(), key=_by_count))


def _by_count(item: tuple[int | None, int]) -> int:
    return -1 if item[0] is None else item[0]


def _divergence(run: Run | DivergedModel) -> str:
    where = "(no finite −ELBO)" if run.diverged_at is None else f"at step {run.diverged_at:,}"
    return f"seed {run.seed} {where}"


def _of_fit(fit: Fit) -> list[str]:
    found = []
    if not fit.error <= SLOPE_TOLERANCE:
        off = f", {100 * fit.error:.2f} % off" if math.isfinite(fit.error) else ""
        found.append(f"{label(fit)}: slope {significant(fit.slope, 4)}, expected {significant(fit.expected, 4)}{off}.")
    if None not in (fit.true_active, fit.last_active) and fit.true_active != fit.last_active:
        found.append(
            f"{label(fit)}: {integer(fit.last_active)} active dimensions at the smallest γ, "
            f"expected {integer(fit.true_active)}."
        )
    return found


@dataclass(frozen=True)
class Line:
    """A table, or a variant of it, in the overview."""

    result: Result
    variant: str
    first: bool  # of its table
    runs: int | None  # models, where there are fits; None where the file does not say
    share: Share
    by_decoder: Share
    compared: tuple[int, int]  # rows at or below the paper’s −ELBO, of how many
    diverged: int | None
    slopes: tuple[int, int]  # within the tolerance, of how many

    @property
    def cells(self) -> dict[str, str]:
        """The head of each column → what stands there; what is of a whole table stands in its first line."""
        return {
            "table": self.result.name if self.first else "",
            "variant": self.variant,
            "runs": "" if self.runs is None else f"{self.runs:,}",
            "right": _part(self.share.right, self.share.whole),
            BY_DECODER: _part(self.by_decoder.right, self.by_decoder.whole),
            "−ELBO ≤ paper": _part(*self.compared),
            "slopes": _part(*self.slopes),
            "diverged": "" if self.diverged is None else str(self.diverged),
            "trained in": duration(self.result.seconds) if self.first else "",
        }


def overview(results: Sequence[Result]) -> list[Line]:
    """A line for every variant of every table."""
    lines = []
    for result in results:
        grouped = in_variants(rows(result)) or {"": []}
        for i, (variant, listed) in enumerate(grouped.items()):
            lines.append(
                Line(
                    result,
                    variant,
                    first=i == 0,
                    runs=result.models if result.of_fits else sum(len(row.runs) for row in listed),
                    share=share(run for row in listed for run in row.runs),
                    by_decoder=share_by_decoder(run for row in listed for run in row.runs),
                    compared=at_or_below(listed),
                    diverged=_diverged(result) if result.of_fits else sum(len(row.diverged) for row in listed),
                    slopes=within(result.fits if i == 0 else ()),
                )
            )
    return lines


def _part(part: int, whole: int) -> str:
    return f"{part} of {whole}" if whole else ""


def overview_heads(lines: Sequence[Line]) -> list[str]:
    """Of their columns; that of the decoder where it was measured."""
    heads = list(dict.fromkeys(head for line in lines for head in line.cells))
    return [head for head in heads if head != BY_DECODER or any(line.by_decoder.whole for line in lines)]


def _diverged(result: Result) -> int | None:
    return None if result.models is None else len(result.diverged)


def totals(results: Sequence[Result]) -> list[tuple[str, str]]:
    """(number, what it counts): the whole in a few numbers."""
    lines = overview(results)
    below, compared = (sum(line.compared[i] for line in lines) for i in (0, 1))
    good, fits = (sum(line.slopes[i] for line in lines) for i in (0, 1))
    twice = "; of a model of images, two" if any(_on_test_images(rows(result)) for result in results) else ""
    runs = sum(line.runs or 0 for line in lines)
    found = [(f"{runs:,}", f"runs; of a model with classes, one for each class{twice}")]
    if compared:
        found.append((f"{below} of {compared}", "rows with a median −ELBO at or below the paper’s"))
    if fits:
        found.append((f"{good} of {fits}", f"slopes within {100 * SLOPE_TOLERANCE:.0f} % of the theorem’s"))
    found += [(duration(seconds), f"on {device}") for device, seconds in _by_device(results).items()]
    if published := [result.published for result in results if result.published is not None]:
        found.append((duration(_sum(result.seconds for result in published)), "more for the runs as published"))
    for name, words in EAGER.items():
        if measured := [result.eager_seconds[name] for result in results if name in result.eager_seconds]:
            which = "" if len(measured) == len(results) else f"; of {len(measured)} of {len(results)} tables"
            found.append((duration(_sum(measured)), f"in eager PyTorch, {words}{which}"))
    return found


def _by_device(results: Sequence[Result]) -> dict[str, float]:
    """Device → what was trained on it took so many seconds."""
    found: dict[str, float] = {}
    for result in results:
        if math.isfinite(result.seconds):
            device = _plain(result.provenance.get("device", "an unknown device"))
            found[device] = found.get(device, 0.0) + result.seconds
    return found


def facts(result: Result) -> list[str]:
    """How the models of a table were trained, in a line, and those as published in another."""
    lines = [] if result.only_published else [_facts(result)]
    if result.published is not None:
        lines.append(f"as published: {_facts(result.published)}")
    return [line for line in lines if line]


def _facts(result: Result) -> str:
    found = [f"budget {result.budget}"] if result.budget else []
    first = result.plan.get("first_seed", 0)
    since = f" from {first} on" if first else ""
    found += [f"{result.seeds} seed{'' if result.seeds == 1 else 's'}{since}"] if result.seeds is not None else []
    steps, batch = (result.plan.get(name) for name in ("steps", "batch_size"))
    found += [f"{steps:,} steps of {batch:,}"] if isinstance(steps, int) and isinstance(batch, int) else []
    found += [_plain(result.provenance["device"])] if "device" in result.provenance else []
    found += [duration(result.seconds)] if math.isfinite(result.seconds) else []
    found += [_eager(result, name, words) for name, words in EAGER.items() if name in result.eager_seconds]
    return " · ".join(found)


def _eager(result: Result, name: str, words: str) -> str:
    """What a step would take, where the file says it, and all of them."""
    step = result.eager_seconds.get(f"{name}_a_step")
    of_a_step = "" if step is None else f"{significant(1000 * step)} ms a step, "
    where = f" on {_plain(result.eager_on['device'])}" if "device" in result.eager_on else ""
    return f"in eager PyTorch{where}, {words}: {of_a_step}{duration(result.eager_seconds[name])}"


def _sum(seconds: Iterable[float]) -> float:
    return sum(one for one in seconds if math.isfinite(one))


def provenance(results: Sequence[Result]) -> list[tuple[str, list[str]]]:
    """(what, its values): each value once, with the tables it holds for where they differ; tables as published are
    tables of their own."""
    tables = [(result.name, result) for result in results if not result.only_published]
    tables += [(f"{one.name} as published", one.published) for one in results if one.published is not None]
    seen: dict[str, dict[str, list[str]]] = {}
    for table, result in tables:
        content: dict[str, Any] = {"budget": result.budget, "seeds": result.seeds, **result.provenance}
        if result.plan:
            content["plan"] = result.plan
        for name, inner in content.items():
            seen.setdefault(name, {}).setdefault(_plain(inner), []).append(table)
    return [
        (
            name,
            [text if len(by) == len(tables) else f"{text} ({enumeration(by)})" for text, by in values.items()],
        )
        for name, values in seen.items()
    ]


def _plain(content: Any) -> str:
    if isinstance(content, dict):
        return flat(content)
    if isinstance(content, list):
        return ", ".join(map(str, content))
    return NOTHING if content in (None, "") else str(content)
