"""All results in a few numbers: a line for each table, and where they come from."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .how_to_read import on_images
from .results import Result
from .summary import (
    SLOPE_TOLERANCE,
    Share,
    at_or_below,
    in_variants,
    rows,
    share,
    share_by_decoder,
    within,
)
from .text import BY_DECODER, NOTHING, duration, enumeration, flat, significant

__all__ = ["Line", "facts", "overview", "overview_heads", "provenance", "totals"]

# What was not run, but measured step by step: see manifold_core.experiments.eager.
EAGER = {"same_steps": "the same steps", "as_published": "the paper’s own models, steps and batches, of as many seeds"}


@dataclass(frozen=True)
class Line:
    """A table, or a variant of it, in the overview."""

    result: Result
    variant: str
    first: bool  # of its table
    runs: int | None  # models, if there are fits; None if the file does not say
    share: Share
    by_decoder: Share
    compared: Share  # rows at or below the paper’s −ELBO
    diverged: int | None
    slopes: Share  # within the tolerance

    @property
    def cells(self) -> dict[str, str]:
        """The head of each column → its cell; what concerns a whole table is in its first line."""
        return {
            "table": self.result.name if self.first else "",
            "variant": self.variant,
            "runs": "" if self.runs is None else f"{self.runs:,}",
            "right": _counted(self.share),
            BY_DECODER: _counted(self.by_decoder),
            "−ELBO ≤ paper": _counted(self.compared),
            "slopes": _counted(self.slopes),
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


def _counted(share: Share) -> str:
    return str(share) if share else ""


def overview_heads(lines: Sequence[Line]) -> list[str]:
    """The heads of their columns; that of the decoder only if it was measured."""
    heads = list(dict.fromkeys(head for line in lines for head in line.cells))
    return [head for head in heads if head != BY_DECODER or any(line.by_decoder for line in lines)]


def _diverged(result: Result) -> int | None:
    return None if result.models is None else len(result.diverged)


def totals(results: Sequence[Result]) -> list[tuple[str, str]]:
    """(number, what it counts): the whole in a few numbers."""
    lines = overview(results)
    nothing = Share(0, 0)
    compared, slopes = sum((line.compared for line in lines), nothing), sum((line.slopes for line in lines), nothing)
    twice = ", two for a model of images" if any(on_images(rows(result)) for result in results) else ""
    runs = sum(line.runs or 0 for line in lines)
    found = [(f"{runs:,}", f"runs; one per class for a model with classes{twice}")]
    if compared:
        found.append((str(compared), "rows with a median −ELBO at or below the paper’s"))
    if slopes:
        found.append((str(slopes), f"slopes within {100 * SLOPE_TOLERANCE:.0f} % of the theorem’s"))
    found += [(duration(seconds), f"on {device}") for device, seconds in _by_device(results).items()]
    if published := [result.published for result in results if result.published is not None]:
        found.append((duration(_sum(result.seconds for result in published)), "more for the runs as published"))
    for name, words in EAGER.items():
        if measured := [result.eager_seconds[name] for result in results if name in result.eager_seconds]:
            which = "" if len(measured) == len(results) else f"; of {len(measured)} of {len(results)} tables"
            found.append((duration(_sum(measured)), f"in eager PyTorch, {words}{which}"))
    return found


def _by_device(results: Sequence[Result]) -> dict[str, float]:
    """Device → the seconds of training on it."""
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
    """What a step would take, if the file says it, and what all of them would."""
    step = result.eager_seconds.get(f"{name}_a_step")
    of_a_step = "" if step is None else f"{significant(1000 * step)} ms per step, "
    where = f" on {_plain(result.eager_on['device'])}" if "device" in result.eager_on else ""
    return f"in eager PyTorch{where}, {words}: {of_a_step}{duration(result.eager_seconds[name])}"


def _sum(seconds: Iterable[float]) -> float:
    return sum(one for one in seconds if math.isfinite(one))


def provenance(results: Sequence[Result]) -> list[tuple[str, list[str]]]:
    """(what, its values): each value once, with the tables it holds for if they differ; tables as published count as
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
