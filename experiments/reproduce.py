"""``manifold-core reproduce``: which tables there are, and how to run several of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from . import table1, table3, table5, table6, table7, table8, theorems
from .runner import run_table
from .tables import BUDGETS, Table

__all__ = ["NAMES", "reproduce"]

SYNTHETIC: dict[str, Table] = {
    table.name: table
    for table in (table1.TABLE, table3.TABLE, table5.TABLE, table6.TABLE, table7.TABLE, table8.TABLE, *theorems.TABLES)
}
NAMES = (*SYNTHETIC, "synthetic")


def reproduce(
    names: Sequence[str],
    folder: Path,
    *,
    budget: str = "quick",
    seeds: int | None = None,
    device: str = "cpu",
    backend: str = "auto",
    progress: bool = True,
) -> None:
    """Run these tables, ``"synthetic"`` for all, each into ``folder/<table>.json``. Goes on where it was stopped.

    Raises:
        InputError: an unknown table or budget, no seeds, or a folder that holds other results.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise InputError(f"table must be one of {', '.join(NAMES)}, got {', '.join(unknown) or 'none'}")
    if budget not in BUDGETS:
        raise InputError(f"budget must be one of {', '.join(BUDGETS)}, got {budget!r}")
    if seeds is not None and seeds < 1:
        raise InputError(f"seeds must be a positive integer, got {seeds}")
    plan = BUDGETS[budget] if seeds is None else replace(BUDGETS[budget], seeds=seeds)
    for name in SYNTHETIC if "synthetic" in names else dict.fromkeys(names):
        run_table(SYNTHETIC[name], plan, folder, device=device, backend=backend, progress=progress)
