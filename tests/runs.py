"""Folders of runs: what they say, and how to stop a run that fills one."""

import json
from pathlib import Path
from typing import Any

import pytest

from manifold_core import checkpoint


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
