"""Folders of runs: what they say, and how to stop a run that fills one."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from manifold_core import checkpoint
from manifold_core.ensemble import train_ensemble
from manifold_core.training import train


def metrics_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return content


def timeless(metrics: dict[str, Any]) -> dict[str, Any]:
    """All but the time it took."""
    return metrics | {"history": {name: value for name, value in metrics["history"].items() if name != "seconds"}}


class Stopped(KeyboardInterrupt):
    """Tells Ctrl-C in the test from Ctrl-C on the tests."""


def stop_at_save(patch: pytest.MonkeyPatch, number: int) -> None:
    """Behind the checkpoint of that number, from 1."""
    save, done = checkpoint.save, 0

    def stop(*content: Any) -> None:
        nonlocal done
        save(*content)
        done += 1
        if done == number:
            raise Stopped

    patch.setattr(checkpoint, "save", stop)


def save_every_step(patch: pytest.MonkeyPatch) -> None:
    """Of a run, whether an engine trains its model or the loop."""
    patch.setattr("manifold_core.run.runner.train", partial(train, checkpoint_seconds=0.0))
    patch.setattr("manifold_core.run.several.train_ensemble", partial(train_ensemble, checkpoint_seconds=0.0))
    patch.setattr("manifold_core.ensemble.train.CALL_SECONDS", 0.0)


def steps_of_saves(patch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each checkpoint by the steps that were done."""
    save, steps = checkpoint.save, []

    def watched(folder: Path, step: int, *content: Any) -> None:
        save(folder, step, *content)
        steps.append(step)

    patch.setattr(checkpoint, "save", watched)
    return steps
