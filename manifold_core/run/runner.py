"""One training run from a description to a folder of results."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..distributed import Group, everywhere, from_first, is_first
from ..ensemble import TrainedModel, explain_ensemble
from ..ensemble.spec import Spec
from ..errors import InputError
from ..metrics.active import check_known
from ..metrics.evaluation import evaluate
from ..storage.files import AnyPath, as_folder, locked, output_folder
from ..storage.finished import METRICS
from ..storage.owner import announce
from ..training import Diverged, train
from .build import spec_of
from .config import RunConfig, SearchConfig
from .data import RunData
from .folder import already_finished, identity_of
from .results import finish
from .searching import train_search
from .several import clear, is_side_by_side, train_several

__all__ = ["run"]


def run(
    config: RunConfig | SearchConfig, folder: AnyPath, progress: bool = True, process_group: Group = None
) -> dict[str, Any]:
    """Train, evaluate, and write ``metrics.json``, ``weights.safetensors`` and PNG pictures into one folder.

    However it was stopped, the same call resumes it; once finished, it returns what is there. With a process group all
    processes make this call and train together; only the first one uses the folder.

    Raises:
        InputError: bad input, a folder that holds something else, or one in which another process is at work; several
            models with a process group.
        Diverged: the loss became NaN or infinite, with several models that of every one.
    """
    if process_group is not None and (isinstance(config, SearchConfig) or config.models > 1):
        got = "a search" if isinstance(config, SearchConfig) else config.models
        raise InputError(f"models must be 1 with torchrun, whose processes train one together, got {got}")
    folder = as_folder("out", folder)
    with ExitStack() as stack:

        def begin() -> dict[str, Any] | None:
            only_read = os.path.exists(folder / METRICS)  # then it may be read-only
            stack.enter_context(locked(folder if only_read else output_folder(folder)))
            return already_finished(config, folder)

        finished = from_first(begin, process_group)
        if finished is not None:
            if progress and is_first(process_group):
                announce(folder, config.training.steps, config.training.steps)
            return finished
        try:
            return _run(config, folder, progress, process_group)
        except Diverged:  # from what it left, it would diverge again
            from_first(lambda: clear(folder), process_group)
            raise


def _run(config: RunConfig | SearchConfig, folder: Path, progress: bool, group: Group) -> dict[str, Any]:
    data = everywhere(lambda: RunData.of(config), group)
    identity = identity_of(config, data.fingerprint)
    if isinstance(config, SearchConfig):
        best, found, more = train_search(config.plan, data.train.x, data.held_out.x, folder, identity, progress)
        return finish(folder, config.description() | {"model": found.description()}, data, best, more)
    sample_shape, condition_dim = data.dataset.train.shape[1:], sum(data.train.condition_shape)
    seeds = range(config.training.seed, config.training.seed + config.models)
    specs = [spec_of(config.model, sample_shape, condition_dim, replace(config.training, seed=seed)) for seed in seeds]
    if config.models > 1 or _side_by_side(specs, data, folder, group):
        best, models = train_several(specs, data.train, data.held_out, folder, identity, progress)
        more = {"models": models, "seed": best.spec.training.seed} if config.models > 1 else {}
        check_known(best.metrics.variance)
        return finish(folder, config.description(), data, best, more)
    x, condition = data.train.x, data.train.condition
    model = specs[0].build(*x.shape[1:]).to(config.device)
    history = train(
        model,
        x,
        config.training,
        condition=condition,
        folder=folder,
        identity=identity,
        progress=progress,
        process_group=group,
    )

    def write() -> dict[str, Any]:
        trained = TrainedModel(specs[0], model, evaluate(model, x, condition), history, diverged_at=None)
        return finish(folder, config.description(), data, trained, {})

    return from_first(write, group)


def _side_by_side(specs: Sequence[Spec], data: RunData, folder: Path, group: Group) -> bool:
    """Whether the engine trains the model, even a single one: as the run began, or else what is faster."""
    began = from_first(lambda: is_side_by_side(folder), group)
    if began and group is not None:
        raise InputError(
            f"out must be a new folder, or of a run that torchrun began: {str(folder)!r} holds one that was begun "
            f"without it; resume it without torchrun"
        )
    if began is None:  # the model's size is left out: with it the number of threads would count, too
        return group is None and explain_ensemble(specs, data.train.x.new_empty(0)).backend == "cpu"
    return began
