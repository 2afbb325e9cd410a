"""Small runs of every kind: their data and folders, what these say, and how to stop a run that fills one."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import manifold_core as mc
from manifold_core.data import load_file
from manifold_core.ensemble import train_ensemble
from manifold_core.run import ModelConfig, RunConfig, run
from manifold_core.storage import checkpoint
from manifold_core.training import batches, train

STEPS = 40
VECTORS = ModelConfig(latent_dim=4, hidden=(16,))
IMAGES = ModelConfig(latent_dim=3, channels=2)
TRAINING = mc.TrainingConfig(steps=STEPS, batch_size=64, learning_rate=0.02, seed=3)


def write_data(folder: Path) -> None:
    """Two small data sets: points near a plane in six dimensions, and images."""
    generator = np.random.default_rng(0)
    plane = generator.normal(size=(300, 2)) @ generator.normal(size=(2, 6))
    np.save(folder / "vectors.npy", 3 + 5 * (plane + 0.01 * generator.normal(size=(300, 6))))
    np.save(folder / "images.npy", generator.random((300, 1, 8, 8)))


def standardised(path: Path, seed: int) -> tuple[Tensor, Tensor]:
    """Float64: centred, vectors feature by feature and images by one number, and divided by one standard deviation."""
    data = load_file(path, seed=seed)
    train, validation = data.train.double().numpy(), data.validation.double().numpy()
    mean = train.mean(axis=0 if train.ndim == 2 else None)
    scale = math.sqrt(((train - mean) ** 2).mean())
    return torch.from_numpy((train - mean) / scale), torch.from_numpy((validation - mean) / scale)


def configuration(data: Path, kind: str, **training: Any) -> RunConfig:
    config = replace(TRAINING, **training)
    if kind == "images":
        return RunConfig(str(data / "images.npy"), IMAGES, config)
    if kind == "full":
        return RunConfig(str(data / "vectors.npy"), replace(VECTORS, covariance="cholesky"), config)
    if kind == "analytic":
        return RunConfig(str(data / "vectors.npy"), replace(VECTORS, gamma="analytic"), config)
    return RunConfig(str(data / "vectors.npy"), VECTORS, config)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def metrics_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return content


def timeless(metrics: dict[str, Any]) -> dict[str, Any]:
    """All but the time it took."""
    return metrics | {"history": {name: value for name, value in metrics["history"].items() if name != "seconds"}}


class Stopped(KeyboardInterrupt):
    """Tells Ctrl-C in the test from Ctrl-C on the tests."""


def run_again(function: Callable[[], None], warm_ups: int = 3) -> Callable[[], None]:
    """In place of a CUDA graph: warmed up as one, and run by Python each time."""
    for _ in range(warm_ups):
        function()
    return function


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


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int, config: RunConfig, folder: Path) -> None:
    """Run with a checkpoint at every step, and stop it behind that of ``steps``."""
    save, stopping = checkpoint.save, False

    def stop(folder: Path, step: int, *content: Any) -> None:
        nonlocal stopping
        save(folder, step, *content)
        if step == steps and not stopping:  # an engine saves once more when it is stopped
            stopping = True
            raise Stopped

    with monkeypatch.context() as patch:
        save_every_step(patch)
        patch.setattr(checkpoint, "save", stop)
        with pytest.raises(Stopped):
            run(config, folder, progress=False)


def steps_of_saves(patch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each checkpoint by the steps that were done."""
    save, steps = checkpoint.save, []

    def watched(folder: Path, step: int, *content: Any) -> None:
        save(folder, step, *content)
        steps.append(step)

    patch.setattr(checkpoint, "save", watched)
    return steps


def close(value: Any, **tolerance: float) -> Any:
    """pytest's approx knows no None."""
    return value if value is None else pytest.approx(value, **tolerance)


class Enough(Exception):
    pass


def stop_before(model: mc.VAE | mc.CVAE, step: int, error: type[BaseException] = Enough) -> None:
    """In the forward pass of the step, from 0, of a run of seed 0."""

    def stop(_module: nn.Module, _arguments: object, keywords: dict[str, int]) -> None:
        if keywords["seed"] == step:
            raise error

    model.register_forward_pre_hook(stop, with_kwargs=True)


def toy() -> tuple[Tensor, Tensor]:
    """Samples, and a condition that says half of what they vary by."""
    u = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    return torch.tanh(u @ torch.randn(4, 6, generator=torch.Generator().manual_seed(1))), u[:, :2]


def cvae(prior: str = "learned") -> mc.CVAE:
    torch.manual_seed(0)
    return mc.CVAE.mlp(6, 2, 3, (8,), condition_hidden=(5,), activation="prelu", prior=prior, attention=True)  # type: ignore[arg-type]


def orders(samples: int, config: mc.TrainingConfig, first_step: int = 0) -> list[list[int]]:
    return [batch.tolist() for batch in batches(samples, config, first_step)]
