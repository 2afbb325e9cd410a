"""Where results of benchmarks are kept, and what those of a GPU begin with."""

import argparse
import itertools
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from manifold_core import provenance

__all__ = [
    "ROOT",
    "Asked",
    "Results",
    "asked",
    "link",
    "newest_first",
    "newest_of_each",
    "or_none",
    "results_file",
    "set_aside",
]

Results = dict[str, Any]  # what a file holds, or a row of it
ROOT = Path(__file__).resolve().parents[1]


def or_none(value: float) -> float | None:
    """As JSON can hold it."""
    return None if math.isnan(value) else round(value, 3)


def results_file(kind: str, device_name: str, day: str) -> Path:
    """Where the results of a kind go if nothing else is said: one file per device and date."""
    slug = re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")
    return ROOT / "benchmarks" / "results" / f"{kind}-{slug}-{day}.json"


def newest_first(paths: Iterable[Path]) -> list[Path]:
    """The newest first. Among those of a day without a time, one without a commit in its name is the newest."""

    def when(path: Path) -> tuple[str, str, bool]:
        content = json.loads(path.read_text(encoding="utf-8"))
        where = content.get("provenance", content)
        return where["date"], where.get("time", ""), path.stem.endswith(where["date"])

    return sorted(paths, key=when, reverse=True)


def newest_of_each(
    paths: Iterable[Path], what: Callable[[Results], object], alike: Sequence[str]
) -> tuple[list[Results], list[tuple[Results, Path]]]:
    """The newest row of whatever was measured, of the files that are like the newest one by these names, each with the
    commit of its file; and these files, the newest first. What is None is no measurement."""
    read = [(json.loads(path.read_text(encoding="utf-8")), path) for path in newest_first(paths)]
    sources = [one for one in read if all(one[0].get(name) == read[0][0].get(name) for name in alike)]
    rows: dict[object, Results] = {}
    for results, _ in reversed(sources):  # a row stays where it was when it is measured again
        rows |= {what(row): row | {"commit": results["commit"]} for row in results["rows"]}
    rows.pop(None, None)
    return [*rows.values()], sources


def link(path: Path) -> str:
    """For a page at the root."""
    return f"[`{path.name}`](benchmarks/results/{path.name})"


class Asked(NamedTuple):
    """What a benchmark is to do."""

    where: dict[str, Any]  # what the file of results begins with
    out: Path
    end: float  # by time.monotonic()


def asked(kind: str, description: str | None, seconds: float) -> Asked:
    """The command line of ``benchmarks/<kind>_on_gpu.py``, which ends after this many seconds by default."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{kind}_on_gpu", description=description)
    parser.add_argument(
        "--seconds",
        type=float,
        default=seconds,
        help="after so long nothing new is begun; torch.compile a while earlier",
    )
    parser.add_argument("--out", type=Path, help=f"instead of benchmarks/results/{kind}-<device>-<date>.json")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    where = provenance.where("cuda")
    return Asked(where, set_aside(arguments.out or results_file(kind, where["device"], where["date"])), end)


def set_aside(out: Path) -> Path:
    """``out``, free: the file of an earlier run is renamed by its commit, and a number if need be."""
    if out.exists():
        stem = f"{out.stem}-{json.loads(out.read_text(encoding='utf-8'))['commit']}"
        names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        out.rename(next(place for name in names if not (place := out.with_stem(name)).exists()))
    return out
