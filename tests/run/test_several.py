"""A run of several models: the best is kept, whatever stops it; what is refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import Stopped, metrics_of, stop_at_save, timeless

import manifold_core as mc
from manifold_core import plots
from manifold_core.run import ModelConfig, RunConfig, build_model, load_data, run, several
from manifold_core.storage import checkpoint
from manifold_core.training import train

STEPS = 30
TRAINING = mc.TrainingConfig(steps=STEPS, batch_size=64, learning_rate=0.02, seed=3)
MODELS = {
    "vectors": ModelConfig(latent_dim=4, hidden=(16,)),
    "images": ModelConfig(latent_dim=3, channels=2),
    "full": ModelConfig(latent_dim=4, hidden=(16,), covariance="cholesky"),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunConfig]:
    """Of points near a plane in six dimensions, or of images."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    np.save(folder / "vectors.npy", generator.normal(size=(300, 2)) @ generator.normal(size=(2, 6)))
    np.save(folder / "images.npy", generator.random((100, 1, 8, 8)))

    def of(kind: str = "vectors", models: int = 3, **training: Any) -> RunConfig:
        file = folder / ("images.npy" if kind == "images" else "vectors.npy")
        return RunConfig(str(file), MODELS[kind], replace(TRAINING, **training), models=models)

    return of


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("kind", ["vectors", "images", "full"])
def test_the_best_on_held_out_samples_is_kept(config: Callable[..., RunConfig], tmp_path: Path, kind: str) -> None:
    asked = config(kind)
    metrics = run(asked, tmp_path, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "weights.safetensors"]
    assert metrics == metrics_of(tmp_path)
    data, losses = load_data(asked), []
    for said, seed in zip(metrics["models"], (3, 4, 5), strict=True):
        model = build_model(asked.model, data.train.shape[1:], seed)
        train(model, data.train, replace(asked.training, seed=seed), progress=False)
        expected, held_out = mc.evaluate(model, data.train), mc.evaluate(model, data.validation)
        assert said["seed"] == seed
        assert said["diverged_at"] is None
        assert said["neg_elbo"] == pytest.approx(expected.neg_elbo, rel=1e-4)
        assert said["held_out_neg_elbo"] == pytest.approx(held_out.neg_elbo, rel=1e-4)
        assert said["variance"] == pytest.approx(expected.variance, rel=1e-3)
        assert said["active_dimensions"] == expected.active_dimensions
        assert said["spectrum_count"] == expected.spectrum_count
        losses.append(held_out.neg_elbo)
    assert metrics["seed"] == 3 + losses.index(min(losses))
    kept = mc.load_run(tmp_path)
    assert mc.evaluate(kept.model, data.validation).neg_elbo == pytest.approx(min(losses), rel=1e-4)
    assert metrics["validation"]["neg_elbo"] == min(one["held_out_neg_elbo"] for one in metrics["models"])
    assert metrics["config"]["models"] == 3


@pytest.mark.parametrize("kind", ["vectors", "full"])
def test_the_others_are_drawn_beside_it(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from matplotlib.axes import Axes

    lines: list[tuple[Any, list[float]]] = []
    plot = Axes.plot

    def watched(self: Any, *arguments: Any, **more: Any) -> Any:
        if more.get("color") == plots.OTHERS:
            lines.append((more.get("label"), arguments[1]))
        return plot(self, *arguments, **more)

    monkeypatch.setattr(Axes, "plot", watched)
    metrics = run(config(kind), tmp_path, progress=False)
    assert metrics["pictures"] == ["variances.png", "curves.png"]
    part = "variance" if kind == "vectors" else "spectrum"
    others = [sorted(one[part]) for one in metrics["models"] if one["seed"] != metrics["seed"]]
    assert lines == [("2 others", others[0]), (None, others[1])]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("kind", ["vectors", "images"])
@pytest.mark.parametrize("saves", [1, 2, 4])
def test_a_stopped_run_goes_on_to_the_same_numbers(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, saves: int
) -> None:
    asked, undisturbed, stopped = config(kind, 2), tmp_path / "undisturbed", tmp_path / "stopped"
    run(asked, undisturbed, progress=False)

    with monkeypatch.context() as patch:
        patch.setattr(several, "train_ensemble", partial(mc.train_ensemble, checkpoint_seconds=0.0))
        stop_at_save(patch, saves)
        with pytest.raises(Stopped):
            run(asked, stopped, progress=False)
    assert (stopped / checkpoint.INDEX).exists()
    with pytest.raises(mc.InputError, match=r"its config\.models is 2, expected 3; choose another folder"):
        run(replace(asked, models=3), stopped, progress=False)
    with pytest.raises(mc.InputError, match=r"its config\.models is 2, expected "):
        run(replace(asked, models=1), stopped, progress=False)
    torch.manual_seed(saves)  # what the global generator holds plays no part
    run(asked, stopped, progress=False)
    assert timeless(metrics_of(stopped)) == timeless(metrics_of(undisturbed))
    assert (stopped / "weights.safetensors").read_bytes() == (undisturbed / "weights.safetensors").read_bytes()
    assert {path.name for path in stopped.iterdir()} == {path.name for path in undisturbed.iterdir()}


@pytest.mark.usefixtures("no_pictures")
def test_killed_before_its_checkpoints_were_removed(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("manifold_core.run.results.clear", lambda _: None)
        finished = run(config(), tmp_path, progress=False)
    assert (tmp_path / several.FOLDER / checkpoint.INDEX).exists()
    assert run(config(), tmp_path, progress=False) == finished
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "weights.safetensors"]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("models", [1, 3])
def test_a_folder_of_somebody_elses_is_left_alone(
    config: Callable[..., RunConfig], tmp_path: Path, models: int
) -> None:
    """Beside a finished run, whoever comes back to it, and before one."""
    mine = tmp_path / several.FOLDER / "mine.txt"
    finished = run(config(models=models), tmp_path, progress=False)
    mine.parent.mkdir()
    mine.write_text("work", encoding="utf-8")
    assert run(config(models=models), tmp_path, progress=False) == finished
    for name in ("metrics.json", "weights.safetensors"):
        (tmp_path / name).unlink()
    with pytest.raises(mc.InputError, match=f"out must be a new folder.*{several.FOLDER}' is in the way"):
        run(config(models=models), tmp_path, progress=False)
    assert mine.read_text(encoding="utf-8") == "work"
    assert [path.name for path in tmp_path.iterdir()] == [several.FOLDER]


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_made_beside_a_run_of_one_model_is_left_alone(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Which has none of its own: no engine trains images."""
    mine, save = tmp_path / several.FOLDER / "mine.txt", checkpoint.save

    def make(*content: Any) -> None:
        save(*content)
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("work", encoding="utf-8")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", make)
        run(config("images", models=1), tmp_path, progress=False)
    assert mine.read_text(encoding="utf-8") == "work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", several.FOLDER, "weights.safetensors"]


@pytest.mark.usefixtures("no_pictures")
def test_one_that_diverged_is_not_the_best(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(config(), tmp_path / "whole", progress=False)

    def the_best_diverges(*arguments: Any, **more: Any) -> list[mc.TrainedModel]:
        trained = mc.train_ensemble(*arguments, **more)
        return [replace(one, diverged_at=7) if one.spec.training.seed == whole["seed"] else one for one in trained]

    monkeypatch.setattr(several, "train_ensemble", the_best_diverges)
    metrics = run(config(), tmp_path / "other", progress=False)
    losses = {one["seed"]: one["held_out_neg_elbo"] for one in whole["models"]}
    del losses[whole["seed"]]
    assert metrics["seed"] == min(losses, key=losses.__getitem__)
    assert [one["diverged_at"] for one in metrics["models"]].count(7) == 1


def test_all_that_diverge_are_no_run(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    with pytest.raises(mc.Diverged, match="the loss is nan at step"):
        run(config(learning_rate=1e30), tmp_path, progress=False)
    assert not (tmp_path / "metrics.json").exists()
    shutil.rmtree(tmp_path)  # nothing is open in it


@pytest.mark.parametrize("models", [0, -1, 1.5, True, "2"])
def test_a_number_of_models_that_is_none(config: Callable[..., RunConfig], models: Any) -> None:
    with pytest.raises(mc.InputError, match="models must be a positive integer, got"):
        config(models=models)


def test_processes_that_train_one_model_train_no_others(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    with pytest.raises(mc.InputError, match=r"models must be 1 with torchrun.*got 3"):
        run(config(), tmp_path / "new", progress=False, process_group=object())  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()
