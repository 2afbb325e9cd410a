"""Result files, ``FOLDER/<table>.json``, read and checked before anything is written."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ...errors import InputError
from ..tables import AS_PUBLISHED
from . import values
from .results import ClassNumbers, DivergedModel, Fit, Paper, Result, Run
from .values import Entry

__all__ = ["read_result", "read_results"]

T = TypeVar("T")


def read_results(folder: Path) -> list[Result]:
    """Every ``*.json`` of the folder, each with that of the same name in its folder ``as_published``: tables by number,
    then the others.

    Raises:
        InputError: no such folder, no result file in it, a file that is not one, or belongs in the other folder.
    """
    if not folder.is_dir():
        raise InputError(f"folder must be one of result files, got {str(folder)!r}: no such folder")
    ours, published = _in_folder(folder, published=False), _in_folder(folder / AS_PUBLISHED, published=True)
    if not ours and not published:
        raise InputError(f"folder must hold result files such as table1.json, got {str(folder)!r}: no .json file in it")
    found = [replace(ours.get(name) or _without_runs(other), published=other) for name, other in published.items()]
    return sorted([*found, *(result for name, result in ours.items() if name not in published)], key=_order)


def _in_folder(folder: Path, *, published: bool) -> dict[str, Result]:
    """Name of the file → its content, which must be of ``published`` plans, or of others."""
    found = {path: read_result(path) for path in folder.glob("*.json") if not path.name.startswith(".")}
    for path, result in found.items():
        marked = result.plan.get("published", False)
        if marked is not published:
            target = folder / AS_PUBLISHED if marked else folder.parent
            raise InputError(
                f"{path}: 'published' of its 'plan' is {marked}, expected {published} in this folder; "
                f"move the file to {target}"
            )
        if result.table != path.stem:
            raise InputError(
                f"{path}: 'table' is {result.table!r}, expected {path.stem!r}, the name of the file; move copies to "
                "another folder, or they would be counted twice"
            )
    return {path.name: result for path, result in found.items()}


def _without_runs(result: Result) -> Result:
    """The table, and the paper's numbers."""
    return replace(
        result,
        budget="",
        seeds=None,
        plan={},
        seconds=math.nan,
        eager_seconds={},
        eager_on={},
        provenance={},
        runs=(),
        fits=(),
        models=None,
        diverged=(),
    )


def _order(result: Result) -> tuple[bool, list[tuple[int, str]]]:
    parts = re.findall(r"\d+|\D+", result.table)
    return not result.table.startswith("table"), [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]


def read_result(path: Path) -> Result:
    """One of them.

    Raises:
        InputError: it cannot be read, or is not a result file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), expected a result file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a result file in JSON, got {error}") from error
    if not isinstance(content, dict) or not ("runs" in content or "fits" in content):
        raise InputError(f"{path}: expected a result file, an object with 'table', 'title' and 'runs' or 'fits'")
    of = Entry(str(path), content)
    return Result(
        table=of.get("table", values.text, "a name"),
        title=of.get("title", values.text, "a text"),
        budget=of.get("budget", values.text, "a name", ""),
        seeds=of.get("seeds", values.count, "a count", None),
        convention=of.get("convention", values.text, "a text", ""),
        statement=of.get("statement", values.text, "a text", ""),
        quantity=of.get("quantity", values.text, "a name", "2L"),
        plan=of.get("plan", values.mapping, "an object", {}),
        seconds=of.get("seconds", values.number, "a number", math.nan),
        eager_seconds=of.get("eager_seconds", values.named_numbers, "an object of numbers", {}),
        eager_on=of.get("eager_on", values.mapping, "an object", {}),
        provenance=of.get("provenance", values.mapping, "an object", {}),
        runs=tuple(map(_run, of.entries("runs"))),
        paper=tuple(map(_paper, of.entries("paper"))),
        fits=tuple(map(_fit, of.entries("fits"))),
        models=of.get("models", values.count, "a count", None),
        diverged=tuple(map(_diverged, of.entries("diverged"))),
    )


def _run(of: Entry) -> Run:
    local_dimension, local_gap, local_share = _local(of.entry("local"))
    return Run(
        cell=of.get("cell", values.cell, "an object of names and plain values"),
        variant=of.get("variant", values.text, "a name", ""),
        seed=of.get("seed", values.count, "an integer"),
        true_active=of.get("true_active", values.count_or_none, "an integer or null"),
        active_dimensions=of.get("active_dimensions", values.count_or_none, "an integer or null"),
        neg_elbo=of.get("neg_elbo", values.number, "a number or null"),
        kl=of.get("kl", values.number, "a number or null", math.nan),
        recon=of.get("recon", values.number, "a number or null", math.nan),
        gamma=of.get("gamma", values.number, "a number or null", math.nan),
        variance=of.get("variance", values.numbers, "a list of numbers", ()),
        spectrum=of.get("spectrum", values.numbers, "a list of numbers", ()),
        spectrum_count=of.get("spectrum_count", values.count_or_none, "an integer or null", None),
        local_dimension=local_dimension,
        local_gap=local_gap,
        local_share=local_share,
        classes=tuple(map(_class, of.entries("classes"))),
        diverged_at=of.get("diverged_at", values.count_or_none, "a step or null", None),
        measured=of.get("measured", values.named_numbers, "an object of numbers", {}),
    )


def _local(of: Entry | None) -> tuple[int | None, float, float]:
    """The dimension, its gap and the share of the samples that have it."""
    if not of:
        return None, math.nan, math.nan
    count = of.get("count", values.count, "an integer")
    gap = of.get("gap", values.number, "a number or null")
    shares = of.get("shares", values.shares, "an object of counts and numbers")
    return count, gap, shares.get(count, 0.0)


def _diverged(of: Entry) -> DivergedModel:
    return DivergedModel(
        cell=of.get("cell", values.cell, "an object of names and plain values"),
        seed=of.get("seed", values.count, "an integer"),
        diverged_at=of.get("diverged_at", values.count_or_none, "a step or null"),
    )


def _class(of: Entry) -> ClassNumbers:
    return ClassNumbers(
        name=of.get("name", values.text, "a name"),
        interval=of.get("interval", values.interval, "two integers, the lower one first"),
        active_dimensions=of.get("active_dimensions", values.count_or_none, "an integer or null"),
        neg_elbo=of.get("neg_elbo", values.number, "a number or null", math.nan),
        kl=of.get("kl", values.number, "a number or null", math.nan),
        recon=of.get("recon", values.number, "a number or null", math.nan),
        variance=of.get("variance", values.numbers, "a list of numbers", ()),
    )


def _paper(of: Entry) -> Paper:
    return Paper(
        cell=of.get("cell", values.cell, "an object of names and plain values"),
        variant=of.get("variant", values.text, "a name", ""),
        active_dimensions=of.get("AD", values.count_or_none, "an integer or null", None),
        neg_elbo=of.get("neg_elbo", values.number, "a number or null", math.nan),
        kl=of.get("kl", values.number, "a number or null", math.nan),
        recon=of.get("recon", values.number, "a number or null", math.nan),
        gamma=of.get("gamma", values.number, "a number or null", math.nan),
    )


def _fit(of: Entry) -> Fit:
    points = of.get("points", values.points, "a list of [log γ, y]")

    def each(read: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
        def read_all(value: Any) -> tuple[T, ...]:
            if value is None or value == []:
                return ()
            if len(values.items(value)) != len(points):
                raise TypeError
            return tuple(map(read, value))

        return read_all

    one_a_point = f"a list of {len(points)}, one for each point"
    return Fit(
        cell=of.get("cell", values.cell, "an object of names and plain values"),
        expected=of.get("expected", values.number, "a number"),
        slope=of.get("slope", values.number, "a number or null"),
        intercept=of.get("intercept", values.number, "a number or null"),
        r_squared=of.get("r_squared", values.number, "a number or null", math.nan),
        points=points,
        true_active=of.get("true_active", values.count_or_none, "an integer or null", None),
        active_dimensions=of.get("active_dimensions", each(values.count_or_none), one_a_point, ()),
        local_dimensions=of.get("local_dimensions", each(values.count_or_none), one_a_point, ()),
        active_variance=of.get("active_variance", each(values.number), one_a_point, ()),
        inactive_variance=of.get("inactive_variance", each(values.number), one_a_point, ()),
        recon=of.get("recon", each(values.number), one_a_point, ()),
    )
