"""The tables of MEASURED.md made from the result files of GPUs."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from manifold_core.bench.table import in_markdown

from .results_files import Results, link, newest_of_each

__all__ = ["TABLES", "table"]


def of_ops(results: Results) -> str:
    """Forward and backward together, if the CUDA kernels were measured in float32."""
    times: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in results["rows"]:
        if row["direction"] == "both" and row["dtype"] == "float32":
            times.setdefault((row["op"], tuple(row["shape"])), {})[row["backend"]] = row
    head = ("op", "size", "`cuda`", "of copy", "`triton`", "eager", "× eager", "× torch.compile", "commit")
    lines = []
    for (op, shape), of in times.items():
        if (ours := _time(of, "cuda")) is not None:
            share = of["cuda"]["share_of_copy"]
            lines.append(
                (
                    op,
                    " × ".join(f"{size:,}" for size in shape),
                    _microseconds(ours),
                    "" if share is None else f"{share:.0%}",
                    _microseconds(_time(of, "triton")),
                    _microseconds(_time(of, "eager")),
                    _ratio(_time(of, "eager"), ours),
                    _ratio(_time(of, "compile"), ours),
                    of["cuda"]["commit"],
                )
            )
    return in_markdown(head, lines)


def of_ensemble(results: Results) -> str:
    """A step of all models."""
    times: dict[tuple[int, int], dict[str, Any]] = {}
    for row in results["rows"]:
        times.setdefault((row["models"], row["hidden"]), {})[row["contender"]] = row
    head = (
        "models",
        "hidden",
        "engine",
        "20,000 steps",
        "batched PyTorch",
        "× batched",
        "× batched, compiled",
        "× eager",
    )
    lines = []
    for (models, hidden), of in times.items():
        if (ours := _time(of, "engine")) is not None:
            others = (_ratio(_time(of, name), ours) for name in ("batched", "compiled", "eager"))
            job = f"{of['engine']['job_seconds']:.1f} s"
            batched = _microseconds(_time(of, "batched"))
            lines.append((str(models), str(hidden), _microseconds(ours), job, batched, *others))
    return in_markdown(head, lines)


def of_images(results: Results) -> str:
    """A step of one model."""
    times: dict[tuple[int, str], dict[str, Any]] = {}
    for row in results["rows"]:
        times.setdefault((row["batch"], row["covariance"]), {})[row["contender"]] = row
    head = ("B", "covariance", "alone", "eight in turn", "eager", "× eager, alone", "× eager, in turn")
    lines = []
    for (batch, covariance), of in times.items():
        ours, shared, theirs = (_time(of, name) for name in ("alone", "in turn", "eager"))
        if ours is not None and shared is not None:
            ratios = _ratio(theirs, ours), _ratio(theirs, shared)
            lines.append((str(batch), covariance, *map(_microseconds, (ours, shared, theirs)), *ratios))
    return in_markdown(head, lines)


def _time(of: dict[str, Any], name: str) -> float | None:
    """None if it was not measured."""
    return of[name]["microseconds"] if name in of else None


def _microseconds(time: float | None) -> str:
    return "–" if time is None else f"{time:.1f} µs" if time < 100 else f"{time:,.0f} µs"


def _ratio(theirs: float | None, ours: float) -> str:
    return "–" if theirs is None else f"{theirs / ours:.1f}" if theirs < 100 * ours else f"{theirs / ours:,.0f}"


# Name in MEASURED.md → how the names of its files begin, and what makes the table of one.
TABLES: dict[str, tuple[str, Callable[[Results], str]]] = {
    "gpu": ("ops", of_ops),
    "gpu_ensemble": ("ensemble", of_ensemble),
    "gpu_images": ("images", of_images),
}


def table(name: str, paths: Iterable[Path]) -> str | None:
    """The table of the device measured last: for each row the newest figures, and which files they are from."""
    kind, make = TABLES[name]
    rows, sources = newest_of_each((path for path in paths if path.name.startswith(f"{kind}-")), _what, ("device",))
    if not sources:
        return None
    newest = sources[0][0]
    where = "; ".join(f"commit {results['commit']}, {results['date']}: {link(path)}" for results, path in sources)
    head = f"{newest['device']}, torch {newest['torch']}. Of each row the newest of these: {where}."
    return f"{make({'rows': rows})}\n{head}\n"


def _what(row: Results) -> tuple[Any, ...] | None:
    """What was measured in a row; None if it has no time."""
    if row["microseconds"] is None:
        return None
    figures = ("microseconds", "share_of_copy", "note", "error", "job_seconds", "tera_multiply_adds")
    return tuple(str(value) for name, value in row.items() if name not in figures)
