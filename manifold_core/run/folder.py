"""Whose run a folder holds: this one, or another that is not to be touched."""

from pathlib import Path
from typing import Any

from ..data.images import IMAGE_SETS
from ..errors import InputError
from ..storage import checkpoint
from ..storage.differences import differences
from ..storage.finished import WEIGHTS, finished_run
from .config import RunConfig, SearchConfig
from .data import condition_of, fingerprint_of, load_data
from .results import PICTURES
from .several import FOLDER, clear

__all__ = ["already_finished", "identity_of"]


def already_finished(config: RunConfig | SearchConfig, folder: Path) -> dict[str, Any] | None:
    """The metrics in the folder, if its run is finished."""
    if (finished := finished_run(folder, "out")) is not None:
        holds = f"out must be a new folder: {str(folder)!r} holds a finished run"
        then = "choose another folder, or remove this one"
        if where := differences(_asked(finished["config"]), _asked(config.description())):
            raise InputError(f"{holds} of another configuration: its {where}; {then}")
        if finished["fingerprint"] != fingerprint_of(load_data(config)):
            condition = condition_of(config)
            hold = f"{config.data!r} holds" if condition is None else f"{config.data!r} and {condition!r} hold"
            raise InputError(f"{holds} of other data than {hold} now; {then}")
        if not (folder / WEIGHTS).exists():
            raise InputError(f"{holds} without its {WEIGHTS}; {then}")
        if checkpoint.is_of(folder, identity_of(config, finished["fingerprint"])):  # killed before it was removed
            clear(folder)
        return finished
    _refuse_foreign_files(folder)
    return None


def identity_of(config: RunConfig | SearchConfig, fingerprint: str) -> dict[str, Any]:
    """What the checkpoint of a run holds besides what every training's does."""
    return {"config": _asked(config.description()), "data": fingerprint}


def _asked(description: dict[str, Any]) -> dict[str, Any]:
    """What tells runs apart besides the contents of their data. Paths do not identify data, so they are left out; so is
    the model that a search found."""
    left_out = set() if description.get("data") in ("synthetic", *IMAGE_SETS) else {"data"}
    if "plan" in description:
        left_out.add("model")
    asked = {name: value for name, value in description.items() if name not in left_out}
    if "data" in left_out and "condition" in (model := asked.get("model", {})):
        condition = {name: value for name, value in model["condition"].items() if name != "source"}
        asked["model"] = model | {"condition": condition}
    return asked


def _refuse_foreign_files(folder: Path) -> None:
    """Files with our names that no run of ours is known to have left are somebody's work."""
    if (folder / checkpoint.INDEX).exists():
        return
    for name in (WEIGHTS, *PICTURES.values(), FOLDER):
        if (folder / name).exists():
            raise InputError(f"out must be a new folder or that of a stopped run: {str(folder / name)!r} is in the way")
