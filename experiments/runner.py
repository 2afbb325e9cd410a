"""Trains the models of a table and writes its result file. Stopped at any point, it can resume."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..ensemble import explain_ensemble
from ..errors import InputError
from ..kernels import Backend
from ..provenance import where
from ..storage.differences import differences
from ..storage.files import finite, output_folder, write_json
from .tables import Plan, Table
from .workers import train_table

__all__ = ["backends", "finished", "provenance", "run_table"]

BEGUN = "begun.json"  # beside the checkpoints of a table: its plan, and the sittings so far
CONVENTION = (
    "neg_elbo and kl doubled, as the paper prints them; recon is the squared error; averages over the "
    "training samples, where no others are named"
)


def run_table(
    table: Table,
    plan: Plan,
    folder: Path,
    *,
    devices: Sequence[str] = ("cpu",),
    backend: Backend = "auto",
    bars: str = "",
) -> dict[str, Any]:
    """The content of ``folder/<table>.json``, after training what it lacks.

    A finished table is taken as it is. While one is trained, its checkpoints are in ``folder/.<table>``, and ``bars``
    on standard error have this name; there are none without.

    Raises:
        InputError: the folder holds this table, finished or begun, by another plan.
    """
    checkpoints = _checkpoints(table, folder)
    plan = table.plan(plan)
    if (found := finished(table, plan, folder)) is None:
        backend_of = backends(table, plan, devices, backend)
        here = {"command": _command(sys.argv[1:]), **provenance(devices), "backend": backend_of}
        sittings = _sittings(checkpoints, plan, here)
        runs, seconds = train_table(table, plan, checkpoints, devices=devices, backend=backend, bars=bars)
        found = {
            "table": table.name,
            "title": table.title,
            "budget": plan.name,
            "seeds": plan.seeds,
            "plan": plan.as_dict(),
            "convention": CONVENTION,
            "seconds": seconds,
            "provenance": here | ({"earlier": sittings} if sittings else {}),
        }
        found |= table.summary(runs) if table.summary is not None else {"runs": runs, "paper": _printed(table, runs)}
        found = finite(found)
        write_json(output_folder(folder) / f"{table.name}.json", found)
    shutil.rmtree(checkpoints, ignore_errors=True)  # also those of a run that was killed after its last line
    return found


def _printed(table: Table, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The paper's numbers for what is trained: a plan may leave variants out."""
    variants = {run["variant"] for run in runs}
    return [row for row in table.paper if row["variant"] in variants]


def finished(table: Table, plan: Plan, folder: Path) -> dict[str, Any] | None:
    """The content of ``folder/<table>.json``, made by this very plan; None if there is none.

    Raises:
        InputError: it, or what is begun of it, is of another plan, or it is not a result file.
    """
    path = folder / f"{table.name}.json"
    if not path.exists():
        checkpoints = _checkpoints(table, folder)
        _check_plan(_begun(checkpoints).get("plan"), plan, checkpoints)
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        done, of = found["plan"], found["table"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"out must be a folder of results, but {str(path)!r} is not a file of a finished table"
        ) from error
    if of != table.name or not (found.get("runs") or found.get("fits")):
        raise InputError(
            f"out must be a folder of results, but {str(path)!r} holds {'no runs' if of == table.name else repr(of)}, "
            f"expected those of {table.name}; remove it to train them"
        )
    _check_plan(done, plan, path)
    return found


def _check_plan(found: dict[str, Any] | None, plan: Plan, path: Path) -> None:
    wanted = plan.as_dict()
    if found not in (None, wanted):
        raise InputError(
            f"out must be a new folder: {str(path)!r} is of another plan: {differences(found, wanted, 'plan')}; "
            f"choose another folder, or remove {path.name}"
        )


def _checkpoints(table: Table, folder: Path) -> Path:
    return folder / f".{table.name}"


def _begun(checkpoints: Path) -> dict[str, Any]:
    """What the table's checkpoints say was begun; empty if nothing was."""
    path = checkpoints / BEGUN
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{str(path)!r} is damaged; remove {checkpoints} to begin that table anew")
    return found


def provenance(devices: Sequence[str]) -> dict[str, Any]:
    """Where numbers come from; without the time of day, which differs between tables."""
    here = where(*devices)
    return {
        **{name: here[name] for name in ("commit", "date", "device", "threads")},
        "versions": {"manifold_core": __version__, "torch": here["torch"], "python": here["python"]},
    }


def backends(table: Table, plan: Plan, devices: Sequence[str], backend: Backend) -> str:
    """What trains the models of this plan of the table on each of the devices. Raises ValueError or RuntimeError if the
    one that was asked for cannot."""
    specs = [cell.spec for cell in table.cells(plan)]
    chosen = (explain_ensemble(specs, torch.empty(0, device=one), backend=backend).backend for one in devices)
    return ", ".join(dict.fromkeys(chosen))


def _sittings(checkpoints: Path, plan: Plan, now: dict[str, Any]) -> list[str]:
    """The earlier sittings, by another commit, on another device or day, in which a table was begun."""
    said = f"{now['commit']} on {now['device']}, {now['date']}"
    earlier = [one for one in _begun(checkpoints).get("sittings", []) if one != said]
    write_json(output_folder(checkpoints) / BEGUN, {"plan": plan.as_dict(), "sittings": [*earlier, said]})
    return earlier


def _command(arguments: Sequence[str]) -> str:
    """What was asked for, without the folder, which says nothing about the numbers and may be private."""
    kept = [word for at, word in enumerate(arguments) if "--out" not in (word, arguments[at - 1] if at else "")]
    return " ".join(["manifold-core", *(word for word in kept if not word.startswith("--out="))])
