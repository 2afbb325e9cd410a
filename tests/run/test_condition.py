"""Runs under a condition: a CVAE, what is said of its classes, and whose condition it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import STEPS, TRAINING, configuration, contents, metrics_of, stop_after, timeless

import manifold_core as mc
from manifold_core.data import load_file
from manifold_core.networks import ConditionalConvEncoder
from manifold_core.run import ConditionConfig, ModelConfig, RunConfig, build_model, load_data, run

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of points, of one, two and three dimensions; images; and conditions of both kinds."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=600)
    u = generator.normal(size=(600, 3)) * (np.arange(3) <= labels[:, None])
    maps = generator.normal(size=(3, 3, 8))
    np.save(folder / "x.npy", 5 + 2 * np.einsum("nr,nrd->nd", u, maps[labels]))
    np.save(folder / "labels.npy", 10 * labels + 1)
    np.save(folder / "numbers.npy", 100 + u[:, :2] * [1, 1000])
    np.save(folder / "images.npy", generator.random((600, 8, 8)))
    return folder


def conditional(data: Path, kind: str, models: int = 1, **training: Any) -> RunConfig:
    """Of points under their label, or numbers; of images under their label."""
    source = str(data / ("numbers.npy" if kind == "numbers" else "labels.npy"))
    condition = ConditionConfig(source, "standard" if kind == "numbers" else "learned", attention=kind == "labels")
    if kind == "images":
        model = ModelConfig(latent_dim=3, channels=2, condition=condition)
    else:
        model = ModelConfig(latent_dim=4, hidden=(16,), condition=condition)
    file = data / ("images.npy" if kind == "images" else "x.npy")
    return RunConfig(str(file), model, replace(TRAINING, **training), models)


@pytest.mark.parametrize("kind", ["labels", "numbers", "images"])
@pytest.mark.parametrize("models", [1, 2])
def test_the_model_is_that_of_the_python_calls(data: Path, tmp_path: Path, kind: str, models: int) -> None:
    config = conditional(data, kind, models)
    metrics = run(config, tmp_path, progress=False)
    assert metrics == metrics_of(tmp_path)
    # By hand: the same split, standardised, through mc.train.
    samples = load_data(config)
    condition, held_out = samples.train_condition, samples.validation_condition
    assert condition is not None
    seed = metrics.get("seed", 3)
    model = build_model(config.model, samples.train.shape[1:], seed, condition.shape[1])
    assert isinstance(model, mc.CVAE)
    assert (model.prior is None, model.gate is None) == (kind == "numbers", kind != "labels")
    mc.train(model, samples.train, replace(config.training, seed=seed), condition=condition, progress=False)
    for part, x, c in (("train", samples.train, condition), ("validation", samples.validation, held_out)):
        expected = mc.evaluate(model, x, c)
        assert metrics[part]["neg_elbo"] == pytest.approx(expected.neg_elbo, rel=1e-4)
        assert metrics[part]["variance"] == pytest.approx(expected.variance, rel=1e-3)
    # And from the folder, for data in the units of the files.
    found = mc.load_run(tmp_path)
    assert isinstance(found.model, mc.CVAE)
    assert found.condition is not None
    assert repr(found).endswith(f", condition={type(found.condition).__name__})")
    source = load_file(config.data, seed=3)
    x = found.standardisation.apply(source.train)
    torch.testing.assert_close(x, samples.train)
    assert config.model.condition is not None
    every = found.condition.apply(np.load(config.model.condition.source))
    assert every.shape == (600, condition.shape[1])
    assert is_in(condition[0], every)
    assert mc.evaluate(found.model, x, condition).neg_elbo == pytest.approx(metrics["train"]["neg_elbo"], rel=1e-6)


def test_each_class_has_its_dimensions(data: Path, tmp_path: Path) -> None:
    """One, two and three, and each as mc.active_dimensions has it for the samples of that class alone."""
    config = conditional(data, "labels", steps=3000)
    metrics = run(config, tmp_path, progress=False)
    assert metrics["condition"] == {"classes": [1, 11, 21]}
    assert [(one["label"], one["active_dimensions"]) for one in metrics["classes"]] == [(1, 1), (11, 2), (21, 3)]
    found, labels = mc.load_run(tmp_path), np.load(data / "labels.npy")
    x, samples = np.load(data / "x.npy"), load_file(data / "x.npy", seed=3).train
    total = 0
    for one in metrics["classes"]:
        assert found.condition is not None
        rows = [row for row in np.flatnonzero(labels == one["label"]) if is_in(x[row], samples)]
        own, c = found.standardisation.apply(x[rows]), found.condition.apply(labels[rows])
        expected = mc.active_dimensions(found.model, own, c)
        assert one["samples"] == len(rows)
        assert one["variance"] == pytest.approx(expected.variance.tolist(), rel=1e-4)
        assert one["interval"] == list(expected.interval)
        total += len(rows)
    assert total == metrics["train"]["samples"] == 540


def is_in(row: Any, samples: torch.Tensor) -> bool:
    return bool((samples - torch.as_tensor(row)).abs().sum(dim=1).min() < 1e-4)


@pytest.mark.parametrize("models", [1, 2])
def test_stopped_it_goes_on_to_the_same_numbers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: int
) -> None:
    config = conditional(data, "labels", models)
    run(config, tmp_path / "whole", progress=False)
    stop_after(monkeypatch, STEPS // 2 * models, config, tmp_path / "stopped")
    run(config, tmp_path / "stopped", progress=False)
    whole, stopped = (contents(tmp_path / name) for name in ("whole", "stopped"))
    assert whole["weights.safetensors"] == stopped["weights.safetensors"]
    assert timeless(metrics_of(tmp_path / "whole")) == timeless(metrics_of(tmp_path / "stopped"))


def test_a_finished_run_is_of_its_condition(data: Path, tmp_path: Path) -> None:
    config = conditional(data, "labels")
    model, condition = config.model, config.model.condition
    assert condition is not None
    metrics = run(config, tmp_path / "out", progress=False)
    assert run(config, tmp_path / "out", progress=False) == metrics
    np.save(tmp_path / "moved.npy", np.load(condition.source))  # the same content, elsewhere
    moved = replace(config, model=replace(model, condition=replace(condition, source=str(tmp_path / "moved.npy"))))
    assert run(moved, tmp_path / "out", progress=False) == metrics
    labels, first = np.load(condition.source), load_file(data / "x.npy", seed=TRAINING.seed).validation[0].numpy()
    held_out = (np.load(data / "x.npy").astype(np.float32) == first).all(1)
    # Other samples', other classes, and one of a sample that is held out.
    for other in (np.roll(labels, 1), labels + 1, np.where(held_out, np.where(labels == 1, 11, 1), labels)):
        np.save(tmp_path / "moved.npy", other)
        with pytest.raises(mc.InputError, match=r"of other data than '.*x\.npy' and '.*moved\.npy' hold now;"):
            run(moved, tmp_path / "out", progress=False)
    for changed, where in (
        (replace(model, condition=None), "model.condition"),
        (replace(model, condition=replace(condition, attention=False)), "model.condition.attention"),
        (replace(model, condition=replace(condition, prior="standard")), "model.condition.prior"),
    ):
        with pytest.raises(mc.InputError, match=f"finished run of another configuration: .*{where} is"):
            run(replace(config, model=changed), tmp_path / "out", progress=False)


def test_without_a_condition_nothing_is_said_of_one(tmp_path: Path, data: Path) -> None:
    config = replace(conditional(data, "labels"), model=ModelConfig(latent_dim=4, hidden=(16,)))
    metrics = run(config, tmp_path, progress=False)
    assert not {"condition", "classes"} & metrics.keys()
    assert "condition" not in metrics["config"]["model"]
    assert mc.load_run(tmp_path).condition is None


def test_channels_are_those_of_a_cvae(data: Path) -> None:
    """32, by default, where a VAE has five."""
    model = conditional(data, "images").model
    default = build_model(replace(model, channels=None), (1, 8, 8), condition_dim=3)
    assert isinstance(default.encoder, ConditionalConvEncoder)
    asked = build_model(replace(model, channels=32), (1, 8, 8), condition_dim=3)
    assert {n: p.shape for n, p in default.named_parameters()} == {n: p.shape for n, p in asked.named_parameters()}
    assert replace(model, channels=None).description()["channels"] == 32


@pytest.mark.parametrize(
    ("data_set", "source", "said"),
    [
        ("synthetic", "labels.npy", "condition must be left out with data 'synthetic'"),
        ("mnist", "labels.npy", "condition must be 'labels' with data 'mnist', got 'labels.npy'"),
        ("x.npy", "labels", "condition 'labels' is for mnist and fashion-mnist; expected the path of a file"),
    ],
)
def test_a_condition_of_other_data_is_refused(tmp_path: Path, data_set: str, source: str, said: str) -> None:
    config = RunConfig(data_set, ModelConfig(latent_dim=2, condition=ConditionConfig(source)), TRAINING)
    with pytest.raises(mc.InputError, match=said):
        run(config, tmp_path / "out", progress=False)


@pytest.mark.parametrize(("rare", "said"), [([99], "class 99 has"), ([99, -5], "classes -5, 99 have")])
def test_a_class_that_is_all_held_out_is_left_out_and_named(
    data: Path, tmp_path: Path, rare: list[int], said: str
) -> None:
    x = np.load(data / "x.npy")
    held_out = load_file(data / "x.npy", seed=3).validation
    labels = np.arange(600) % 2
    for label, sample in zip(rare, held_out, strict=False):
        labels[np.abs(x - sample.numpy()).sum(axis=1) < 1e-4] = label
        assert (labels == label).sum() == 1
    np.save(tmp_path / "labels.npy", labels)
    config = conditional(data, "labels")
    condition = ConditionConfig(str(tmp_path / "labels.npy"))
    config = replace(config, model=replace(config.model, condition=condition))
    with pytest.warns(UserWarning, match=f"^condition: {said} no training sample, and so can be "):
        metrics = run(config, tmp_path / "out", progress=False)
    assert metrics["condition"] == {"classes": sorted([0, 1, *rare])}
    assert [one["label"] for one in metrics["classes"]] == [0, 1]


def test_a_configuration_of_vectors_is_as_it_was(data: Path, tmp_path: Path) -> None:
    """Folders of finished runs from before there were conditions stay theirs."""
    description = configuration(data, "vectors").description()
    assert description["model"].keys() == {"latent_dim", "hidden", "channels", "gamma", "log_gamma", "covariance"}
