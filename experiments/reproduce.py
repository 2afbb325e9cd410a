"""``manifold-core reproduce``: several tables, one after the other."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..kernels import Backend
from ..storage.files import locked, output_folder
from . import images
from .catalogue import IMAGES, TABLES
from .progress import Progress, work
from .report.matrices import MATRICES
from .runner import backends, finished, run_table
from .tables import AS_PUBLISHED, BUDGETS, Plan, Table

__all__ = ["NAMES", "reproduce"]

SETS = {
    "synthetic": [name for name in TABLES if name not in IMAGES],
    "images": list(IMAGES),
    "all": list(TABLES),
}
READ_OFF = {one.table: one.source for one in MATRICES}  # these show numbers of a model of another table
NAMES = (*TABLES, *READ_OFF, *SETS)


def reproduce(
    names: Sequence[str],
    folder: Path,
    *,
    budget: str = "quick",
    seeds: int | None = None,
    first_seed: int = 0,
    as_published: bool = False,
    devices: Sequence[str] = ("cpu",),
    backend: Backend = "auto",
    progress: bool = True,
) -> Path:
    """Run these tables, ``"synthetic"``, ``"images"`` or ``"all"``, each into ``folder/<table>.json``, or as published
    into ``folder/as_published/<table>.json``. Resumes if it was stopped. Returns the folder of the files. In the place
    of ``"table10"`` and ``"table11"``, which are read off a model of another table, that one is run.

    Args:
        budget: see :data:`manifold_core.experiments.tables.BUDGETS`.
        seeds: models of each cell, instead of the budget's.
        first_seed: of the first of them; from 8 on, the recipe was not chosen on them.
        as_published: the set-up of the paper if it differs from the recipe found best. Its own subfolder lets one
            ``folder`` hold both.
        devices: they share the models of a table.
        progress: show bars, and how long the rest will take, on standard error.

    Raises:
        InputError: an unknown table or budget, no seeds, or negative ones, a backend that cannot train a table, or a
            folder that holds other results.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise InputError(f"table must be one of {', '.join(NAMES)}, got {', '.join(unknown) or 'none'}")
    if budget not in BUDGETS:
        raise InputError(f"budget must be one of {', '.join(BUDGETS)}, got {budget!r}")
    if seeds is not None and seeds < 1:
        raise InputError(f"seeds must be a positive integer, got {seeds}")
    if first_seed < 0:
        raise InputError(f"first_seed must be 0 or more, got {first_seed}")
    plan = BUDGETS[budget]
    plan = replace(plan, seeds=plan.seeds if seeds is None else seeds, first_seed=first_seed)
    if as_published:
        plan, folder = plan.as_published(), folder / AS_PUBLISHED
    trained = dict.fromkeys(READ_OFF.get(one, one) for name in names for one in SETS.get(name, [name]))
    tables = [TABLES[name] for name in trained]
    if progress:
        for name, source in READ_OFF.items():
            if name in names:
                _say(f"{name} is read off a model of {source}, which is trained in its place")
    ahead = dict.fromkeys(trained, 0.0)
    with locked(output_folder(folder)):
        for table in tables:  # before the first is trained
            planned = table.plan(plan)
            done = finished(table, planned, folder)
            _check_backend(table, planned, devices, backend)
            if done is None:
                images.fetch(table.cells(planned))
                ahead[table.name] = work(table.cells(planned), planned) if progress else 0.0
        so_far = Progress(ahead)
        for table in tables:
            began = time.monotonic()
            bars = so_far.name(table.name) if progress else ""
            found = run_table(table, plan, folder, devices=devices, backend=backend, bars=bars)
            if progress:
                _say(so_far.end(table.name, time.monotonic() - began, found["seconds"]))
    return folder


def _say(words: str) -> None:
    to_the_end = "\x1b[K" if sys.stderr.isatty() else ""  # clears what the bars of several workers leave
    print(f"{to_the_end}manifold-core: {words}", file=sys.stderr)


def _check_backend(table: Table, plan: Plan, devices: Sequence[str], backend: Backend) -> None:
    try:
        backends(table, plan, devices, backend)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{table.name}: {error}") from error
