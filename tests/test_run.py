"""A run: the numbers in its folder, worked out again from the weights; stops and resumption; what is refused."""

import copy
import json
import math
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from manifold_core.kernels.random import standard_normal
from runs import Stopped, metrics_of, save_every_step, steps_of_saves, stop_at_save, timeless
from safetensors.torch import load_file as load_safetensors
from torch import Tensor, nn

import manifold_core as mc
from manifold_core import checkpoint, plots
from manifold_core.data import load_file
from manifold_core.run import ModelConfig, RunConfig, build_model, load_data, load_model, load_run, run, several
from manifold_core.training import train

STEPS = 40
VECTORS = ModelConfig(latent_dim=4, hidden=(16,))
IMAGES = ModelConfig(latent_dim=3, channels=2)
TRAINING = mc.TrainingConfig(steps=STEPS, batch_size=64, learning_rate=0.02, seed=3)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two small data sets: points near a plane in six dimensions, and images."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    plane = generator.normal(size=(300, 2)) @ generator.normal(size=(2, 6))
    np.save(folder / "vectors.npy", 3 + 5 * (plane + 0.01 * generator.normal(size=(300, 6))))
    np.save(folder / "images.npy", generator.random((300, 1, 8, 8)))
    return folder


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
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def standardised(path: Path, seed: int) -> tuple[Tensor, Tensor]:
    """Float64: centred, vectors feature by feature and images by one number, and divided by one standard deviation."""
    data = load_file(path, seed=seed)
    train, validation = data.train.double().numpy(), data.validation.double().numpy()
    mean = train.mean(axis=0 if train.ndim == 2 else None)
    scale = math.sqrt(((train - mean) ** 2).mean())
    return torch.from_numpy((train - mean) / scale), torch.from_numpy((validation - mean) / scale)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of undisturbed runs; ``trained`` and ``full`` are trained until dimensions are active."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        for kind in ("vectors", "images", "analytic"):
            folders[kind] = tmp_path_factory.mktemp(kind)
            run(configuration(data, kind), folders[kind], progress=False)
        folders["trained"] = tmp_path_factory.mktemp("trained")
        run(configuration(data, "vectors", steps=600), folders["trained"], progress=False)
        folders["full"] = tmp_path_factory.mktemp("full")
        run(configuration(data, "full", steps=600), folders["full"], progress=False)
    return folders


def mlp(weights: dict[str, Tensor], name: str, inputs: Tensor, last: str = "2") -> Tensor:
    """One hidden layer, out of the file's tensors."""
    first, last = f"{name}.layers.0", f"{name}.layers.{last}"
    hidden = (inputs @ weights[f"{first}.weight"].T + weights[f"{first}.bias"]).clamp(min=0)
    return hidden @ weights[f"{last}.weight"].T + weights[f"{last}.bias"]


def diagonal(log_var: Tensor) -> Tensor:
    """L of Σ = L Lᵀ, for every sample."""
    return torch.diag_embed((log_var / 2).exp())


def full(log_scale: Tensor, below: Tensor) -> Tensor:
    """L out of log L_ii, and of L_ij over L_ii row by row."""
    factor = torch.diag_embed(log_scale.exp())
    packed = iter(below.T)
    for i in range(log_scale.shape[1]):
        for j in range(i):
            factor[:, i, j] = next(packed) * factor[:, i, i]
    return factor


def losses(x: Tensor, mu: Tensor, factor: Tensor, decode: Callable[[Tensor], Tensor], gamma: float) -> dict[str, Any]:
    """What metrics.json must say, by the formulas of the paper in float64."""
    noise = standard_normal(torch.tensor(0), *mu.shape).double()
    z = mu + (factor @ noise.unsqueeze(2)).squeeze(2)
    recon = (x - decode(z)).square().flatten(1).sum(dim=1)
    features = x[0].numel()
    nll = (recon / gamma + features * math.log(2 * math.pi * gamma)).mean().item() / 2
    covariance = factor @ factor.mT
    of_each = covariance.diagonal(dim1=1, dim2=2)
    kl = ((mu.square() + of_each - 1).sum(dim=1) - torch.logdet(covariance)).mean().item() / 2
    variance = of_each.mean(dim=0).tolist()
    twice = (2 * of_each.std(dim=0) / math.sqrt(len(x))).tolist()
    spectrum = torch.linalg.eigvalsh(covariance).mean(dim=0).tolist()
    active, inactive = [v for v in variance if v < 0.05], [v for v in variance if v >= 0.05]
    return {
        "neg_elbo": nll + kl,
        "nll": nll,
        "kl": kl,
        "recon": recon.mean().item(),
        "gamma": gamma,
        "variance": variance,
        "active_dimensions": len(active),
        "interval": [
            sum(v + sign * error < 0.05 for v, error in zip(variance, twice, strict=True)) for sign in (1, -1)
        ],
        "spectrum": spectrum,
        "spectrum_count": sum(v < 0.05 for v in spectrum),
        "gap": min(inactive) / max(active) if active and inactive else None,
        "threshold": 0.05,
        "samples": len(x),
    }


def close(value: Any, **tolerance: float) -> Any:
    """pytest's approx knows no None."""
    return value if value is None else pytest.approx(value, **tolerance)


def assert_measured(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Up to the rounding of the float32 that the model computes in."""
    assert found.keys() == expected.keys() | {"paper_convention"}
    for name, value in expected.items():
        assert found[name] == close(value, rel=1e-4, abs=1e-5), name
    paper = found["paper_convention"]
    assert paper.keys() == {"note", "neg_elbo", "kl", "recon"}
    assert paper["neg_elbo"] == pytest.approx(2 * expected["neg_elbo"], rel=1e-4)
    assert paper["kl"] == pytest.approx(2 * expected["kl"], rel=1e-4)
    assert paper["recon"] == pytest.approx(expected["recon"], rel=1e-4)


class TestMetrics:
    @pytest.mark.parametrize("kind", ["vectors", "analytic", "trained"])
    def test_of_an_mlp_are_those_of_its_weights(self, data: Path, finished: dict[str, Path], kind: str) -> None:
        metrics = metrics_of(finished[kind])
        weights = {name: w.double() for name, w in load_safetensors(finished[kind] / "weights.safetensors").items()}
        gamma = weights["elbo.log_gamma"].exp().item()
        for part, x in zip(("train", "validation"), standardised(data / "vectors.npy", TRAINING.seed), strict=True):
            mu, log_var = mlp(weights, "encoder", x).chunk(2, dim=1)
            assert_measured(metrics[part], losses(x, mu, diagonal(log_var), partial(mlp, weights, "decoder"), gamma))
        assert metrics["active_dimensions"] == metrics["train"]["active_dimensions"]

    def test_of_a_full_covariance_are_those_of_its_weights(self, data: Path, finished: dict[str, Path]) -> None:
        metrics = metrics_of(finished["full"])
        weights = {name: w.double() for name, w in load_safetensors(finished["full"] / "weights.safetensors").items()}
        gamma = weights["elbo.log_gamma"].exp().item()
        for part, x in zip(("train", "validation"), standardised(data / "vectors.npy", TRAINING.seed), strict=True):
            mu, log_scale = mlp(weights, "encoder", x).chunk(2, dim=1)
            factor = full(log_scale, mlp(weights, "encoder", x, "2.below"))
            assert_measured(metrics[part], losses(x, mu, factor, partial(mlp, weights, "decoder"), gamma))
        assert metrics["train"]["spectrum_count"] == 2  # a plane, however it lies
        assert metrics["train"]["spectrum"] != close(
            sorted(metrics["train"]["variance"]), rel=0.01
        )  # and it lies askew
        assert metrics["config"]["model"]["covariance"] == "cholesky"

    def test_of_images_are_those_of_the_model_in_evaluation_mode(self, data: Path, finished: dict[str, Path]) -> None:
        metrics = metrics_of(finished["images"])
        model = load_model(finished["images"]).double()
        gamma = model.elbo.log_gamma.exp().item()
        for part, x in zip(("train", "validation"), standardised(data / "images.npy", TRAINING.seed), strict=True):
            with torch.no_grad():
                mu, log_var = model.encoder(x)
                assert_measured(metrics[part], losses(x, mu, diagonal(log_var), model.decoder, gamma))

    def test_the_dimension_of_a_plane_is_two(self, finished: dict[str, Path]) -> None:
        """So that the count above is of active dimensions and of others; and not by a hair's breadth."""
        metrics = metrics_of(finished["trained"])
        assert metrics["active_dimensions"] == 2
        assert not [v for v in metrics["train"]["variance"] if 0.02 < v < 0.2]

    @pytest.mark.parametrize("kind", ["vectors", "images"])
    def test_where_the_data_lie_makes_no_difference(
        self, data: Path, finished: dict[str, Path], tmp_path: Path, no_pictures: None, kind: str
    ) -> None:
        np.save(tmp_path / "far.npy", np.load(data / f"{kind}.npy") + 1e7)
        config = replace(configuration(data, kind), data=str(tmp_path / "far.npy"))
        found, expected = run(config, tmp_path / "run", progress=False), metrics_of(finished[kind])
        for name in ("neg_elbo", "recon", "kl", "gamma"):
            assert found["train"][name] == pytest.approx(expected["train"][name], rel=1e-3), name

    def test_the_paper_prints_losses_doubled(self, finished: dict[str, Path]) -> None:
        for part in ("train", "validation"):
            measured = metrics_of(finished["trained"])[part]
            paper = measured["paper_convention"]
            assert paper["neg_elbo"] == 2 * measured["neg_elbo"] == 2 * (measured["nll"] + measured["kl"])
            assert paper["kl"] == 2 * measured["kl"]
            assert paper["recon"] == measured["recon"]
            assert "doubled" in paper["note"]

    def test_the_rest(self, data: Path, finished: dict[str, Path]) -> None:
        metrics = metrics_of(finished["vectors"])
        assert metrics["data"] == "vectors"
        assert metrics["manifold_dim"] is None
        assert metrics["latent_dim"] == 4
        assert metrics["sample_shape"] == [6]
        assert metrics["parameters"] == (6 * 16 + 16) + (16 * 8 + 8) + (4 * 16 + 16) + (16 * 6 + 6) + 1
        assert metrics["versions"] == {"manifold_core": mc.__version__, "torch": torch.__version__}
        assert metrics["config"] == {
            "data": str(data / "vectors.npy"),
            "model": {
                "latent_dim": 4,
                "hidden": [16],
                "channels": 5,
                "gamma": "learned",
                "log_gamma": 0.0,
                "covariance": "diagonal",
            },
            "training": {
                "steps": STEPS,
                "batch_size": 64,
                "learning_rate": 0.02,
                "log_gamma_rate": 1.0,
                "beta2": 0.999,
                "seed": 3,
                "precision": "float32",
                "cycle_steps": None,
            },
            "device": "cpu",
        }
        history = metrics["history"]
        assert history["step"] == list(range(1, STEPS + 1))
        assert all(len(history[name]) == STEPS for name in ("neg_elbo", "gamma", "active_dimensions"))
        assert history["seconds"] > 0
        assert metrics["pictures"] == []
        assert metrics_of(finished["images"])["sample_shape"] == [1, 8, 8]

    def test_the_folder_holds_results_and_nothing_else(self, finished: dict[str, Path]) -> None:
        for folder in finished.values():
            assert contents(folder).keys() == {"metrics.json", "weights.safetensors"}

    def test_synthetic_data_have_a_known_dimension(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_pictures: None
    ) -> None:
        from manifold_core.data import synthetic_manifold

        made: dict[str, Any] = {}

        def small(*arguments: Any, **more: Any) -> Any:  # the run's own are 100,000
            made["data"] = synthetic_manifold(*arguments, **more, n_train=200, n_validation=50)
            return made["data"]

        monkeypatch.setattr("manifold_core.run.data.synthetic_manifold", small)
        config = RunConfig("synthetic", VECTORS, TRAINING, ambient_dim=7, manifold_dim=2)
        metrics = run(config, tmp_path, progress=False)
        assert (metrics["data"], metrics["manifold_dim"]) == ("synthetic-d7-r2", 2)
        assert (metrics["config"]["ambient_dim"], metrics["config"]["manifold_dim"]) == (7, 2)
        assert torch.equal(made["data"].train, synthetic_manifold(7, 2, seed=3, n_train=200, n_validation=50).train)
        # Data in [0, 1] are taken as they are.
        x = made["data"].train
        assert mc.evaluate(load_model(tmp_path), x).as_dict() == metrics["train"]
        assert metrics["standardisation"] == {"mean": 0, "scale": 1}
        assert torch.equal(load_run(tmp_path).standardisation.apply(x), x)

    def test_images_of_a_published_set_are_taken_as_they_are(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_pictures: None
    ) -> None:
        from manifold_core.data import Dataset

        generator = torch.Generator().manual_seed(0)
        images = Dataset("mnist", torch.rand(80, 1, 8, 8, generator=generator), torch.rand(9, 1, 8, 8))
        monkeypatch.setattr("manifold_core.run.data.load_images", lambda *_: images)
        metrics = run(RunConfig("mnist", IMAGES, replace(TRAINING, steps=3)), tmp_path, progress=False)
        assert mc.evaluate(load_model(tmp_path), images.train).as_dict() == metrics["train"]
        assert not {"ambient_dim", "manifold_dim", "data_folder"} & metrics["config"].keys()

    def test_images_through_an_mlp_are_flattened(self, data: Path, tmp_path: Path, no_pictures: None) -> None:
        config = RunConfig(
            str(data / "images.npy"), replace(IMAGES, hidden=(8,), channels=None), replace(TRAINING, steps=3)
        )
        metrics = run(config, tmp_path, progress=False)
        x, _ = standardised(data / "images.npy", TRAINING.seed)
        again = mc.evaluate(load_model(tmp_path), x.float().flatten(1))
        assert again.neg_elbo == pytest.approx(metrics["train"]["neg_elbo"], rel=1e-5)


class TestFinishedRun:
    def test_what_is_returned_is_what_is_written(self, data: Path, tmp_path: Path, no_pictures: None) -> None:
        metrics = run(configuration(data, "vectors"), tmp_path / "new" / "folder", progress=False)
        assert metrics == metrics_of(tmp_path / "new" / "folder")

    @pytest.mark.parametrize("kind", ["vectors", "full"])
    def test_its_seed_makes_the_first_weights(self, data: Path, tmp_path: Path, no_pictures: None, kind: str) -> None:
        """From which the first of many steps has hardly moved them."""
        config = configuration(data, kind, steps=2, learning_rate=1e-6)
        run(config, tmp_path, progress=False)
        found, first = load_model(tmp_path).state_dict(), build_model(config.model, (6,), TRAINING.seed).state_dict()
        for name, tensor in first.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)
        other = build_model(config.model, (6,)).state_dict()
        assert not torch.allclose(other["encoder.layers.0.weight"], found["encoder.layers.0.weight"], atol=1e-2)

    @pytest.mark.parametrize("kind", ["vectors", "analytic"])
    def test_engine_and_loop_come_to_the_same(
        self, data: Path, finished: dict[str, Path], tmp_path: Path, no_pictures: None, kind: str
    ) -> None:
        config = configuration(data, kind)
        model, x = build_model(config.model, (6,), TRAINING.seed), load_data(config).train
        history = train(model, x, config.training, progress=False)
        metrics, found = metrics_of(finished[kind]), load_model(finished[kind])
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
        assert metrics["history"]["neg_elbo"] == pytest.approx(history.neg_elbo, rel=1e-4)
        assert metrics["train"]["neg_elbo"] == pytest.approx(mc.evaluate(model, x).neg_elbo, rel=1e-4)

    @pytest.mark.parametrize("kind", ["vectors", "images", "analytic", "full"])
    def test_load_model_is_the_trained_model(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None, kind: str
    ) -> None:
        """The one that was evaluated."""
        trained: list[Any] = []

        def watched(model: Any, x: Tensor, *arguments: Any, **more: Any) -> Any:
            trained.extend((model, x))
            return mc.evaluate(model, x, *arguments, **more)

        monkeypatch.setattr("manifold_core.run.results.evaluate", watched)
        run(configuration(data, kind), tmp_path, progress=False)
        model, x, *_ = trained
        loaded = load_model(tmp_path)
        assert not loaded.training
        assert not model.training
        assert model.state_dict().keys() == loaded.state_dict().keys()
        for found, expected in zip(loaded(x, seed=5), model(x, seed=5), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)

    def test_load_model_wants_a_finished_run(self, tmp_path: Path) -> None:
        with pytest.raises(mc.InputError, match="folder must hold a finished run"):
            load_model(tmp_path)
        with pytest.raises(mc.InputError, match="nowhere"):
            load_model(tmp_path / "nowhere")

    @pytest.mark.parametrize("damage", ["missing", "half", "of another model"])
    def test_load_model_names_weights_that_do_not_fit(
        self, finished: dict[str, Path], tmp_path: Path, damage: str
    ) -> None:
        (tmp_path / "metrics.json").write_bytes((finished["vectors"] / "metrics.json").read_bytes())
        path = tmp_path / "weights.safetensors"
        if damage == "half":
            path.write_bytes((finished["vectors"] / path.name).read_bytes()[:500])
        elif damage == "of another model":
            path.write_bytes((finished["images"] / path.name).read_bytes())
        with pytest.raises(mc.InputError, match="weights"):
            load_model(tmp_path)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda metrics: metrics.pop("sample_shape"), "lacks sample_shape"),
            (lambda metrics: metrics["config"]["model"].pop("latent_dim"), r"lacks config\.model\.latent_dim"),
            (lambda metrics: metrics["config"]["model"].update(depth=3), r"config\.model\.depth is unknown"),
            (lambda metrics: metrics.update(sample_shape="6"), "does not describe a model .*sample_shape"),
            (lambda metrics: metrics["config"]["model"].update(hidden=16), "does not describe a model .*config.model"),
            (lambda metrics: metrics["config"]["model"].update(latent_dim="4"), "does not describe.*latent_dim must"),
            (lambda metrics: metrics.pop("config"), "folder must be a folder of runs"),
            (lambda metrics: metrics["config"].update(model=4), "folder must be a folder of runs"),
        ],
    )
    def test_load_run_names_the_file_and_the_key_it_lacks(
        self, finished: dict[str, Path], tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str
    ) -> None:
        """As in a file cut short by hand, or one of a later version."""
        for name, content in contents(finished["vectors"]).items():
            (tmp_path / name).write_bytes(content)
        metrics = metrics_of(tmp_path)
        change(metrics)
        (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
        for load in (load_run, load_model):
            with pytest.raises(mc.InputError, match=said) as error:
                load(tmp_path)
            assert str(tmp_path / "metrics.json") in str(error.value)

    @pytest.mark.parametrize("kind", ["vectors", "images", "trained", "full"])
    def test_load_run_goes_from_the_units_of_the_file_to_the_models(
        self, data: Path, finished: dict[str, Path], kind: str
    ) -> None:
        path = data / ("images.npy" if kind == "images" else "vectors.npy")
        found, x = load_run(finished[kind]), np.load(path)
        assert found.metrics == metrics_of(finished[kind])
        own = torch.from_numpy(x)
        rounded = load_file(path, seed=TRAINING.seed).train.flatten(1).tolist()
        training = own[[i for i, row in enumerate(own.float().flatten(1).tolist()) if row in rounded]]
        applied = found.standardisation.apply(training)
        assert mc.active_dimensions(found.model, applied).count == found.metrics["active_dimensions"]
        again = mc.active_dimensions(found.model, applied).variance.tolist()
        assert again == pytest.approx(found.metrics["train"]["variance"], rel=1e-6)
        # What the loader did, of which JSON loses no digit.
        loaded = load_data(configuration(data, "images" if kind == "images" else "vectors"))
        assert torch.equal(found.standardisation.mean, loaded.standardisation.mean)
        assert found.standardisation.scale == loaded.standardisation.scale
        assert found.standardisation.mean.tolist() == pytest.approx(
            training.mean(dim=0 if x.ndim == 2 else (0, 1, 2, 3)).tolist(), rel=1e-12
        )
        back = found.standardisation.undo(applied)
        torch.testing.assert_close(back, training, rtol=1e-6, atol=1e-6 * found.standardisation.scale)

    @pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (7, 5), (3, 7, 5), (6,)])
    def test_what_the_readme_does_with_a_run_works_for_every_file(
        self, tmp_path: Path, no_pictures: None, shape: tuple[int, ...]
    ) -> None:
        points = np.random.default_rng(0).normal(5, 3, (40, *shape))
        np.save(tmp_path / "points.npy", points)
        out = tmp_path / "out"
        run(RunConfig(str(tmp_path / "points.npy"), ModelConfig(3), mc.TrainingConfig(steps=2)), out, progress=False)
        found = load_run(out)
        x = found.standardisation.apply(points)
        assert mc.active_dimensions(found.model, x).variance.shape == (3,)
        samples = found.standardisation.undo(found.model.sample(7))
        assert samples.shape == (7, *x.shape[1:])
        back = found.standardisation.undo(x).flatten()
        torch.testing.assert_close(back, torch.from_numpy(points).flatten(), rtol=0, atol=1e-5)

    def test_samples_of_a_run_lie_where_its_data_do(self, data: Path, finished: dict[str, Path]) -> None:
        found, x = load_run(finished["trained"]), torch.from_numpy(np.load(data / "vectors.npy"))
        with torch.no_grad():
            drawn = found.standardisation.undo(found.model.sample(4000, torch.Generator().manual_seed(0)))
        torch.testing.assert_close(drawn.mean(dim=0), x.mean(dim=0), rtol=0, atol=float(0.1 * x.std()))
        torch.testing.assert_close(drawn.std(dim=0), x.std(dim=0), rtol=0.15, atol=0)

    def test_it_says_what_its_losses_are_in_the_units_of_the_file(self, data: Path, finished: dict[str, Path]) -> None:
        """By the density of x itself, in place of that of (x − mean) / scale."""
        found = load_run(finished["trained"])
        measured, scale = found.metrics["train"], found.metrics["standardisation"]["scale"]
        x = load_data(configuration(data, "vectors")).train
        with torch.no_grad():
            x_hat = found.model.decoder(found.model(x, seed=0).z)
        gamma = scale**2 * measured["gamma"]
        recon = (found.standardisation.undo(x) - found.standardisation.undo(x_hat)).square().sum(dim=1)
        nll = (recon / gamma + 6 * math.log(2 * math.pi * gamma)).mean().item() / 2
        assert recon.mean().item() == pytest.approx(scale**2 * measured["recon"], rel=1e-5)
        assert nll == pytest.approx(measured["nll"] + 6 * math.log(scale), rel=1e-5)
        for said in ("scale**2 times as large", "greater by d log scale", "(x - mean) / scale"):
            assert said in found.metrics["units"]

    @pytest.mark.parametrize("damage", [None, 3, {"mean": 0.0}, {"mean": "x", "scale": 1.0}, {"mean": 0.0, "scale": 0}])
    def test_load_run_wants_mean_and_scale(self, finished: dict[str, Path], tmp_path: Path, damage: Any) -> None:
        for name, content in contents(finished["vectors"]).items():
            (tmp_path / name).write_bytes(content)
        metrics = metrics_of(tmp_path) | {"standardisation": damage}
        if damage is None:  # as of an earlier version
            del metrics["standardisation"]
        (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
        with pytest.raises(mc.InputError, match="folder must hold a run with the mean and scale of its data"):
            load_run(tmp_path)
        assert load_model(tmp_path).latent_dim == 4
        with pytest.raises(mc.InputError, match="folder must hold a finished run"):
            load_run(tmp_path / "nowhere")

    def test_it_is_not_trained_again(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
    ) -> None:
        config = configuration(data, "vectors")
        metrics = run(config, tmp_path, progress=False)
        before = contents(tmp_path)
        changed = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        for name in ("train", "build_model"):
            monkeypatch.setattr(f"manifold_core.run.runner.{name}", None)
        assert run(config, tmp_path, progress=False) == metrics
        assert contents(tmp_path) == before
        assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == changed

    def test_a_checkpoint_left_beside_it_is_cleared_away(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
    ) -> None:
        """Killed after metrics.json was written and before the checkpoint was deleted."""
        config = configuration(data, "vectors")
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "remove", lambda _: None)
            run(config, tmp_path, progress=False)
        assert checkpoint.INDEX in contents(tmp_path)
        run(config, tmp_path, progress=False)
        assert contents(tmp_path).keys() == {"metrics.json", "weights.safetensors"}
        checkpoint.save_tensors(tmp_path / "checkpoint-000000009.safetensors", {"x": torch.zeros(2)})
        run(config, tmp_path, progress=False)  # killed between the index and the tensors
        assert contents(tmp_path).keys() == {"metrics.json", "weights.safetensors"}

    @pytest.mark.parametrize("other", ["ensemble", "training", "run", "damaged"])
    def test_a_checkpoint_of_others_beside_it_is_left_alone(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None, other: str
    ) -> None:
        """Put there by a version that did not look."""
        config, folder = configuration(data, "vectors"), tmp_path / "run"
        metrics = run(config, folder, progress=False)
        x, training = torch.rand(40, 6), replace(TRAINING, steps=2)
        if other == "ensemble":
            mc.train_ensemble([mc.ModelSpec(2, training=training)], x, folder=tmp_path / "other", progress=False)
        elif other == "training":
            train(mc.VAE.mlp(6, 3), x, training, folder=tmp_path / "other", progress=False)
        elif other == "run":
            with monkeypatch.context() as patch:
                patch.setattr(checkpoint, "remove", lambda _: None)
                run(replace(config, training=replace(config.training, seed=8)), tmp_path / "other", progress=False)
        else:
            (tmp_path / "other").mkdir()
            (tmp_path / "other/checkpoint.json").write_text("{", encoding="utf-8")
        for path in (tmp_path / "other").iterdir():
            if path.name.startswith("checkpoint"):
                shutil.copy(path, folder)
        before = contents(folder)
        assert len(before) == (3 if other == "damaged" else 4)
        assert run(config, folder, progress=False) == metrics
        assert contents(folder) == before

    def test_nobody_else_trains_in_its_folder(self, data: Path, tmp_path: Path, no_pictures: None) -> None:
        """Or else the command line would come upon checkpoints that are not its own."""
        run(configuration(data, "vectors"), tmp_path, progress=False)
        before = contents(tmp_path)
        x, training = torch.rand(40, 6), replace(TRAINING, steps=2)
        model = mc.VAE.mlp(6, 3)
        weights = copy.deepcopy(model.state_dict())
        refused = r"^folder must be a new one or that of a stopped training, got .* holds a finished run"
        for backend in ("reference", "auto"):
            with pytest.raises(mc.InputError, match=refused):
                mc.train_ensemble(
                    [mc.ModelSpec(2, training=training)], x, backend=backend, folder=tmp_path, progress=False
                )
        with pytest.raises(mc.InputError, match=refused):
            train(model, x, training, folder=tmp_path, progress=False)
        assert contents(tmp_path) == before
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, weights[name]), name

    @pytest.mark.parametrize("content", ["{}", "[1]", '{"config": {"steps": 2}}', "loss 3.2"])
    def test_metrics_of_a_users_own_are_no_finished_run(self, tmp_path: Path, content: str) -> None:
        x, training = torch.rand(40, 6), replace(TRAINING, steps=2)
        (tmp_path / "metrics.json").write_text(content, encoding="utf-8")
        history = train(mc.VAE.mlp(6, 3), x, training, folder=tmp_path, progress=False)
        assert train(mc.VAE.mlp(6, 3), x, training, folder=tmp_path, progress=False) == history
        assert (tmp_path / "metrics.json").read_text(encoding="utf-8") == content


OTHERS: dict[str, Callable[[RunConfig], RunConfig]] = {
    "seed": lambda c: replace(c, training=replace(c.training, seed=4)),
    "steps": lambda c: replace(c, training=replace(c.training, steps=STEPS + 1)),
    "batch_size": lambda c: replace(c, training=replace(c.training, batch_size=32)),
    "learning_rate": lambda c: replace(c, training=replace(c.training, learning_rate=0.01)),
    "latent_dim": lambda c: replace(c, model=replace(c.model, latent_dim=5)),
    "hidden": lambda c: replace(c, model=replace(c.model, hidden=(16, 16))),
    "gamma": lambda c: replace(c, model=replace(c.model, gamma="fixed")),
    "log_gamma": lambda c: replace(c, model=replace(c.model, log_gamma=-1.0)),
    "covariance": lambda c: replace(c, model=replace(c.model, covariance="cholesky")),
    "data": lambda c: replace(c, data="synthetic"),
}


# Of the samples x, one of which is held out. The last three leave the training samples, once standardised, as they are.
CHANGES: dict[str, Callable[[Any, int], Any]] = {
    "a number": lambda x, _: x + 1e-3 * (np.arange(x.size).reshape(x.shape) == 45),
    "the order": lambda x, _: x[::-1],
    "a held-out sample": lambda x, held_out: x + 1e-3 * (np.arange(len(x)) == held_out)[:, None],
    "the mean": lambda x, _: x + 2.0**20,
    "the scale": lambda x, _: x * 2,
}


class TestRefusals:
    @pytest.mark.parametrize("other", OTHERS)
    def test_a_finished_run_of_another_configuration(
        self, data: Path, finished: dict[str, Path], no_pictures: None, other: str
    ) -> None:
        folder = finished["vectors"]
        before = contents(folder)
        config = configuration(data, "vectors")
        with pytest.raises(mc.InputError, match=r"out must be a new folder.*another configuration: its ") as error:
            run(OTHERS[other](config), folder, progress=False)
        message = str(error.value)
        assert str(folder) in message
        assert message.endswith("; choose another folder, or remove this one")
        assert contents(folder) == before
        # Nothing is said of what is the same in both.
        said = message.split("its ", 1)[1].removesuffix("; choose another folder, or remove this one").split("; ")
        names = ["data", "ambient_dim", "manifold_dim"] if other == "data" else [other]
        assert [part.split(" is ")[0].rpartition(".")[2] for part in said] == names

    def test_what_differs_is_said_with_both_values(self, data: Path, finished: dict[str, Path]) -> None:
        config = configuration(data, "vectors", seed=5)
        with pytest.raises(mc.InputError) as error:
            run(replace(config, model=replace(VECTORS, latent_dim=6)), finished["vectors"], progress=False)
        said = "of another configuration: its model.latent_dim is 4, expected 6; training.seed is 3, expected 5; choose"
        assert said in str(error.value)

    @pytest.mark.parametrize("state", ["stopped", "finished"])
    def test_the_path_of_the_data_plays_no_part(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None, state: str
    ) -> None:
        folder, config = tmp_path / "run", configuration(data, "vectors", steps=12)
        monkeypatch.chdir(data)
        typed = replace(config, data="vectors.npy")
        if state == "stopped":
            stop_after(monkeypatch, 10, typed, folder)
        else:
            run(typed, folder, progress=False)
        monkeypatch.chdir(tmp_path)
        copy = tmp_path / "copy.npy"
        copy.write_bytes((data / "vectors.npy").read_bytes())
        for spelling in (str(copy), str(data / "." / ".." / data.name / "vectors.npy")):
            assert run(replace(config, data=spelling), folder, progress=False)["train"]["samples"] == 270

    def test_a_finished_run_of_before_there_were_fingerprints(
        self, data: Path, finished: dict[str, Path], tmp_path: Path, no_pictures: None
    ) -> None:
        metrics = metrics_of(finished["vectors"])
        del metrics["fingerprint"]
        (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
        with pytest.raises(mc.InputError, match=r"out must be a new folder.*does not say of what data"):
            run(configuration(data, "vectors"), tmp_path, progress=False)

    @pytest.mark.parametrize("other", OTHERS)
    def test_a_stopped_run_of_another_configuration(
        self, data: Path, stopped: Path, no_pictures: None, other: str
    ) -> None:
        before = contents(stopped)
        with pytest.raises(mc.InputError, match=f"checkpoint is of another run.*{other} is .*another folder, or rem"):
            run(OTHERS[other](configuration(data, "vectors")), stopped, progress=False)
        assert contents(stopped) == before

    @pytest.mark.parametrize("state", ["stopped", "finished"])
    @pytest.mark.parametrize("change", CHANGES)
    def test_other_contents_of_the_same_file(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None, change: str, state: str
    ) -> None:
        path = tmp_path / "x.npy"
        x = 270 * np.rint(1024 * np.load(data / "vectors.npy")) / 2**20  # the mean of 270 samples needs no rounding
        np.save(path, x)
        x -= load_file(path, seed=TRAINING.seed, standardise=True).standardisation.mean.numpy()
        np.save(path, x)
        held_out = (x.astype(np.float32) == load_file(path, seed=TRAINING.seed).validation[0].numpy()).all(1).argmax()
        config, folder = replace(configuration(data, "vectors", steps=12), data=str(path)), tmp_path / "run"
        if state == "stopped":
            stop_after(monkeypatch, 10, config, folder)
        else:
            run(config, folder, progress=False)
        np.save(path, CHANGES[change](x, held_out))
        before = contents(folder)
        message = {
            "stopped": "checkpoint is of another run: its data",
            "finished": f"out must be a new folder: '{folder}' holds a finished run of other data than '{path}' holds",
        }
        with pytest.raises(mc.InputError, match=message[state]):
            run(config, folder, progress=False)
        assert contents(folder) == before
        np.save(path, x)  # of the same contents again
        assert run(config, folder, progress=False)["train"]["samples"] == 270

    def test_other_contents_of_an_image_set(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_pictures: None
    ) -> None:
        """The folder of its files plays no part, what is in them does."""
        from manifold_core.data import Dataset

        sets: dict[str | None, Dataset] = {}
        for seed, folder in enumerate(("one", "other")):
            generator = torch.Generator().manual_seed(seed)
            parts = torch.rand(80, 1, 8, 8, generator=generator), torch.rand(9, 1, 8, 8, generator=generator)
            sets[folder] = Dataset("mnist", *parts)
        sets["copy"] = sets["one"]
        monkeypatch.setattr("manifold_core.run.data.load_images", lambda _, folder: sets[folder])
        config = RunConfig("mnist", IMAGES, replace(TRAINING, steps=3), data_folder="one")
        metrics = run(config, tmp_path, progress=False)
        assert run(replace(config, data_folder="copy"), tmp_path, progress=False) == metrics
        with pytest.raises(mc.InputError, match=r"out must be a new folder.*other data than 'mnist' holds"):
            run(replace(config, data_folder="other"), tmp_path, progress=False)

    @pytest.mark.parametrize("name", ["weights.safetensors", "variances.png", "curves.png", "images.png"])
    def test_files_of_others(self, data: Path, tmp_path: Path, no_pictures: None, name: str) -> None:
        (tmp_path / name).write_text("somebody's work")
        with pytest.raises(mc.InputError, match=f"out must be a new folder.*{name}"):
            run(configuration(data, "vectors"), tmp_path, progress=False)
        assert contents(tmp_path) == {name: b"somebody's work"}

    @pytest.mark.parametrize("content", ["", "{", "{}", "[]", "null", "3", '{"config": 3}', '{"config": {}}', "\xff"])
    @pytest.mark.parametrize("name", ["metrics.json", "checkpoint.json"])
    def test_json_of_others(self, data: Path, tmp_path: Path, no_pictures: None, name: str, content: str) -> None:
        (tmp_path / name).write_bytes(content.encode("latin-1"))
        with pytest.raises(mc.InputError, match=name):
            run(configuration(data, "vectors"), tmp_path, progress=False)
        assert contents(tmp_path) == {name: content.encode("latin-1")}

    def test_files_of_other_names_are_no_obstacle_and_stay(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
    ) -> None:
        others = {"notes.txt": b"mine", "checkpoint-best.safetensors": b"mine too", "model.png": b"and mine"}
        for name, content in others.items():
            (tmp_path / name).write_bytes(content)
        config = configuration(data, "vectors", steps=5)
        save_every_step(monkeypatch)
        run(config, tmp_path, progress=False)
        found = contents(tmp_path)
        assert {name: found.get(name) for name in others} == others

    @pytest.mark.parametrize("kind", ["vectors", "full"])
    @pytest.mark.parametrize("damage", ["tensors", "index", "missing"])
    def test_half_a_checkpoint(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None, kind: str, damage: str
    ) -> None:
        config = configuration(data, kind)
        stop_after(monkeypatch, 3, config, tmp_path)
        place = tmp_path / several.FOLDER if kind == "vectors" else tmp_path
        (tensors,) = place.glob("checkpoint-*.safetensors")
        victim = place / checkpoint.INDEX if damage == "index" else tensors
        if damage == "missing":
            victim.unlink()
        else:
            victim.write_bytes(victim.read_bytes()[:-100])
        before = contents(tmp_path)
        with pytest.raises(mc.InputError, match=victim.name):
            run(config, tmp_path, progress=False)
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("missing", ["step", "history", "param_groups", "schedule", "identity"])
    def test_a_checkpoint_without_a_part(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None, missing: str
    ) -> None:
        config = configuration(data, "full")
        stop_after(monkeypatch, 3, config, tmp_path)
        index = json.loads((tmp_path / checkpoint.INDEX).read_text(encoding="utf-8"))
        del index["state"][missing]
        (tmp_path / checkpoint.INDEX).write_text(json.dumps(index), encoding="utf-8")
        with pytest.raises(mc.InputError, match="checkpoint"):
            run(config, tmp_path, progress=False)

    @pytest.mark.parametrize("missing", ["random", "model.elbo.log_gamma", "optimizer.0.exp_avg", "optimizer.8.step"])
    def test_a_checkpoint_without_a_tensor(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None, missing: str
    ) -> None:
        config = configuration(data, "full")
        stop_after(monkeypatch, 3, config, tmp_path)
        (path,) = tmp_path.glob("checkpoint-*.safetensors")
        tensors = {name: tensor.clone() for name, tensor in load_safetensors(path).items()}
        del tensors[missing]
        checkpoint.save_tensors(path, tensors)
        with pytest.raises(mc.InputError, match="checkpoint"):
            run(config, tmp_path, progress=False)

    def test_a_folder_that_is_a_file(self, data: Path, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("content")
        for out in (path, path / "below"):
            with pytest.raises(mc.InputError, match="out must be a folder that can be written to"):
                run(configuration(data, "vectors"), out, progress=False)
        assert contents(tmp_path) == {"file": b"content"}

    @pytest.mark.parametrize("gamma", ["learned", "analytic"])
    def test_a_run_that_diverges_leaves_no_results(
        self, data: Path, tmp_path: Path, no_pictures: None, gamma: str
    ) -> None:
        config = configuration(data, "vectors", learning_rate=1e30)
        config = replace(config, model=replace(config.model, gamma=gamma))
        with pytest.raises(mc.Diverged, match=r"the loss is (nan|inf) at step \d+; a lower learning_rate may help"):
            run(config, tmp_path, progress=False)
        assert not contents(tmp_path).keys() & {"metrics.json", "weights.safetensors", "curves.png", "variances.png"}

    @pytest.mark.parametrize("samples", [[[0.0, 0.0], [1.0, 2.0]], [[1.0, 2.0]] * 11 + [[5.0, 5.0]]])
    def test_training_samples_without_variance(self, tmp_path: Path, samples: list[list[float]]) -> None:
        """The whole file varies, but not the part of it that is trained on."""
        x = np.array(samples)
        path = tmp_path / "x.npy"
        for order in range(len(x)):  # one of the orders holds the sample that differs out
            np.save(path, np.roll(x, order, axis=0))
            if len(load_file(path).train.unique(dim=0)) == 1:
                break
        else:
            pytest.fail("no order of the samples makes the case")
        with pytest.raises(mc.InputError, match=r"x\.npy.*var"):
            load_data(RunConfig(str(path), VECTORS))

    def test_a_kind_of_file_in_capitals_is_none_to_refuse(self, data: Path, tmp_path: Path) -> None:
        path = tmp_path / "VECTORS.NPY"
        path.write_bytes((data / "vectors.npy").read_bytes())
        found, expected = (load_data(RunConfig(str(file), VECTORS)) for file in (path, data / "vectors.npy"))
        assert torch.equal(found.train, expected.train)

    def test_an_unknown_kind_of_data(self, tmp_path: Path) -> None:
        for name in ("cifar", "Synthetic", "x.txt", "", "mnist.gz"):
            with pytest.raises(mc.InputError, match=f"data must be 'synthetic', .* got {name!r}"):
                load_data(RunConfig(name, VECTORS))


# Ends a process at the moment when a file of results gets its name, and runs again; for one file after the other.
KILLED_AT_RESULTS = """
import json, os, sys
from manifold_core.run import ModelConfig, RunConfig, run
from manifold_core import TrainingConfig

sys.modules["matplotlib"] = None
data, folder = sys.argv[1:]
config = RunConfig(data, ModelConfig(2, (4,)), TrainingConfig(steps=2, batch_size=8))
for name in ("weights.safetensors", "metrics.json"):
    out = os.path.join(folder, name)
    if (process := os.fork()) == 0:
        def kill(event, arguments):
            if event == "os.rename" and os.fspath(arguments[1]).endswith(name):
                os._exit(9)
        sys.addaudithook(kill)
        run(config, out, progress=False)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    killed = sorted(os.listdir(out))
    run(config, out, progress=False)
    print(json.dumps([status, killed, sorted(os.listdir(out))]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork to end processes with")
def test_a_run_killed_while_it_writes_its_results_leaves_nothing_behind(data: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_RESULTS, str(data / "vectors.npy"), str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # a fork among threads could hang
    )
    assert done.returncode == 0, done.stderr
    for line, written in zip(done.stdout.splitlines(), (set(), {"weights.safetensors"}), strict=True):
        status, killed, finally_there = json.loads(line)
        assert status == 9
        assert not {"metrics.json", "weights.safetensors"} & set(killed) - written
        assert checkpoint.INDEX in killed
        assert finally_there == ["metrics.json", "weights.safetensors"]


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


@pytest.fixture(scope="module")
def stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 10, configuration(data, "vectors"), folder)
    return folder


def assert_same_run(folder: Path, undisturbed: Path) -> None:
    assert contents(folder).keys() == contents(undisturbed).keys()
    assert contents(folder)["weights.safetensors"] == contents(undisturbed)["weights.safetensors"]
    assert timeless(metrics_of(folder)) == timeless(metrics_of(undisturbed))


class TestResumption:
    @pytest.mark.parametrize("steps", [1, 7, STEPS - 1])
    @pytest.mark.parametrize("kind", ["vectors", "images", "analytic"])
    def test_a_stopped_run_goes_on_to_the_same_numbers(
        self,
        data: Path,
        tmp_path: Path,
        finished: dict[str, Path],
        monkeypatch: pytest.MonkeyPatch,
        no_pictures: None,
        kind: str,
        steps: int,
    ) -> None:
        config = configuration(data, kind)
        stop_after(monkeypatch, steps, config, tmp_path)
        torch.manual_seed(steps)  # what the global generator holds plays no part
        save_every_step(monkeypatch)
        saved = steps_of_saves(monkeypatch)
        run(config, tmp_path, progress=False)
        assert saved == [*range(steps + 1, STEPS + 1), STEPS]  # it went on, and did not begin again
        assert_same_run(tmp_path, finished[kind])

    @pytest.mark.parametrize("kind", ["vectors", "images", "analytic"])
    def test_stops_at_any_moment_and_again_and_again(
        self,
        data: Path,
        tmp_path: Path,
        finished: dict[str, Path],
        monkeypatch: pytest.MonkeyPatch,
        no_pictures: None,
        kind: str,
    ) -> None:
        """In the middle of a step, of a save, of the evaluation: at whatever call of a Python function the n-th is."""
        config = configuration(data, kind)
        whole = Calls()
        assert not whole.stop(monkeypatch, config, tmp_path / "whole")
        chance = random.Random(kind)
        stops = 0
        while Calls(chance.randrange(1, whole.seen // 4)).stop(monkeypatch, config, tmp_path / "run"):
            stops += 1
            assert stops < 200
            torch.set_grad_enabled(True)  # a stop inside torch's own no_grad leaves it so; Ctrl-C ends the process
        torch.set_grad_enabled(True)
        assert stops > 4
        assert_same_run(tmp_path / "run", finished[kind])

    @pytest.mark.parametrize("kind", ["vectors", "images"])
    @pytest.mark.parametrize("place", ["evaluate", "_draw", "write_json", "checkpoint.save_tensors"])
    def test_a_stop_after_the_training(
        self,
        data: Path,
        tmp_path: Path,
        finished: dict[str, Path],
        monkeypatch: pytest.MonkeyPatch,
        no_pictures: None,
        kind: str,
        place: str,
    ) -> None:
        def stop(*_: Any, **__: Any) -> None:
            raise Stopped

        def then_stop(training: Callable[..., Any]) -> Callable[..., Any]:
            def trained(*arguments: Any, **more: Any) -> Any:
                history = training(*arguments, **more)
                patch.setattr(f"manifold_core.run.results.{place}", stop)
                return history

            return trained

        config = configuration(data, kind)
        with monkeypatch.context() as patch:
            patch.setattr("manifold_core.run.runner.train", then_stop(train))
            patch.setattr("manifold_core.run.runner.train_several", then_stop(several.train_several))
            with pytest.raises(Stopped):
                run(config, tmp_path, progress=False)
        assert "metrics.json" not in contents(tmp_path)
        run(config, tmp_path, progress=False)
        assert_same_run(tmp_path, finished[kind])

    def test_checkpoints_are_written_at_the_interval_asked_for(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seconds = iter(range(10**6))  # a clock that is read once a step
        monkeypatch.setattr("manifold_core.training.loop.time", FakeTime(lambda: float(next(seconds))))
        saved = []
        save = checkpoint.save

        def watched(folder: Path, step: int, *content: Any) -> None:
            saved.append(step)
            save(folder, step, *content)

        monkeypatch.setattr(checkpoint, "save", watched)
        x, _ = standardised(data / "vectors.npy", 0)
        model = mc.VAE.mlp(6, 2)
        train(model, x.float(), replace(TRAINING, steps=12), folder=tmp_path, checkpoint_seconds=5.0, progress=False)
        assert saved == [5, 10, 12]

    def test_the_time_taken_is_that_of_all_parts(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x = standardised(data / "vectors.npy", 0)[0].float()
        config = replace(TRAINING, steps=12)

        def stop(*content: Any) -> None:
            save(*content)
            raise Stopped

        save = checkpoint.save
        for part in (1, 2):
            seconds = iter(range(100 * part, 10**6))  # a clock that is read once a step, and runs on between the parts
            with monkeypatch.context() as patch:
                patch.setattr("manifold_core.training.loop.time", FakeTime(lambda clock=seconds: float(next(clock))))
                if part == 1:
                    patch.setattr(checkpoint, "save", stop)
                    with pytest.raises(Stopped):
                        train(mc.VAE.mlp(6, 2), x, config, folder=tmp_path, checkpoint_seconds=5.0, progress=False)
                else:
                    history = train(mc.VAE.mlp(6, 2), x, config, folder=tmp_path, progress=False)
        assert history.seconds == 12.0

    def test_nothing_is_saved_without_a_folder(
        self, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        x, _ = standardised(data / "vectors.npy", 0)
        train(mc.VAE.mlp(6, 2), x.float(), replace(TRAINING, steps=3), checkpoint_seconds=0.0, progress=False)
        assert contents(tmp_path) == {}


class FakeTime:
    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic


class Calls:
    """Counts the calls of Python functions from the beginning of the training on, and stops the run at the n-th.

    Not in destructors, nor in what the garbage collector calls, as hypothesis's watch on it: there Python takes an
    exception for no more than a warning.
    """

    HARMLESS = ("__del__", "gc_callback")

    def __init__(self, n: float = math.inf) -> None:
        self.n = n
        self.seen = 0

    def stop(self, monkeypatch: pytest.MonkeyPatch, config: RunConfig, folder: Path) -> bool:
        """Whether the run was stopped, and did not end before."""
        with monkeypatch.context() as patch:
            patch.setattr("manifold_core.run.runner.train", self.counted(train))
            patch.setattr("manifold_core.run.several.train_ensemble", self.counted(mc.train_ensemble))
            patch.setattr("manifold_core.ensemble.train.CALL_SECONDS", 0.0)
            try:
                run(config, folder, progress=False)
            except Stopped:
                return True
            finally:
                sys.setprofile(None)
        return False

    def counted(self, training: Callable[..., Any]) -> Callable[..., Any]:
        def begin(*arguments: Any, **more: Any) -> Any:
            sys.setprofile(self.count)
            return training(*arguments, **more, checkpoint_seconds=0.0)

        return begin

    def count(self, frame: FrameType, event: str, _: Any) -> None:
        self.seen += event == "call"
        if event == "call" and self.seen >= self.n and frame.f_code.co_name not in self.HARMLESS:
            sys.setprofile(None)
            raise Stopped


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.layers(x).chunk(2, dim=1)
        return mu, log_var


def dropout_model(seed: int = 0) -> mc.VAE:
    """A user's own: its dropout takes numbers from torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return mc.VAE(Encoder(), nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 6)), 3)


class TestTrain:
    """The training loop by itself, with a model that is not the library's."""

    def outcome(self, model: mc.VAE, history: mc.History, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the last checkpoint holds: weights, moments of the optimizer, random state, schedule, history."""
        found = checkpoint.load(folder)
        assert found is not None
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, found.tensors[f"model.{name}"]), name
        state = found.state | {"history": asdict(history) | {"seconds": 0.0}}
        return found.tensors, state

    def assert_same(self, found: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
        assert found[0].keys() == expected[0].keys()
        for name, tensor in found[0].items():
            assert torch.equal(tensor, expected[0][name]), name
        assert found[1] == expected[1]

    @pytest.mark.parametrize("steps", [1, 13, STEPS - 1, STEPS])
    def test_dropout_and_moments_go_on_where_they_were(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
    ) -> None:
        x = standardised(data / "vectors.npy", 0)[0].float()
        for name in ("undisturbed", "run"):
            (tmp_path / name).mkdir()
        model = dropout_model()
        history = train(model, x, TRAINING, folder=tmp_path / "undisturbed", progress=False)
        expected = self.outcome(model, history, tmp_path / "undisturbed")

        with monkeypatch.context() as patch:
            stop_at_save(patch, steps)
            with pytest.raises(Stopped):
                train(dropout_model(), x, TRAINING, folder=tmp_path / "run", checkpoint_seconds=0.0, progress=False)
        torch.manual_seed(99)
        model = dropout_model(seed=steps)  # weights that the checkpoint has to replace
        history = train(model, x, TRAINING, folder=tmp_path / "run", progress=False)
        assert not model.training
        self.assert_same(self.outcome(model, history, tmp_path / "run"), expected)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
    def test_other_dtypes_go_on_where_they_were(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
    ) -> None:
        """301 steps: more than bfloat16 can count."""
        config = replace(TRAINING, steps=310)
        x = standardised(data / "vectors.npy", 0)[0].to(dtype)
        for name in ("undisturbed", "run"):
            (tmp_path / name).mkdir()
        model = build_model(VECTORS, (6,)).to(dtype)
        history = train(model, x, config, folder=tmp_path / "undisturbed", progress=False)
        expected = self.outcome(model, history, tmp_path / "undisturbed")

        done = 0
        step = torch.optim.Adam.step

        def counted(*arguments: Any, **more: Any) -> Any:
            nonlocal done
            if done == 301:
                raise Stopped
            done += 1
            return step(*arguments, **more)

        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.Adam, "step", counted)
            patch.setattr("manifold_core.training.loop.time", FakeTime(lambda: 10.0 * (done == 301)))
            with pytest.raises(Stopped):
                train(build_model(VECTORS, (6,)).to(dtype), x, config, folder=tmp_path / "run", progress=False)
        model = build_model(VECTORS, (6,)).to(dtype)
        history = train(model, x, config, folder=tmp_path / "run", progress=False)
        self.assert_same(self.outcome(model, history, tmp_path / "run"), expected)

    def test_it_is_adam_with_one_cycle_and_the_noise_of_the_step(self, data: Path) -> None:
        """A plain loop over the definitions: PyTorch's own Adam and schedule, the ELBO written out."""
        config = mc.TrainingConfig(steps=12, batch_size=64, learning_rate=0.01, seed=5)
        x = standardised(data / "vectors.npy", 0)[0].float()
        model, plain = build_model(VECTORS, (6,)), build_model(VECTORS, (6,))
        history = train(model, x, config, progress=False)

        optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=12)
        for step, index in enumerate(mc.training.batches(len(x), config, 0)):
            batch = x[index]
            mu, log_var = plain.encoder(batch)
            noise = standard_normal(torch.tensor(5 * 2**32 + step), *mu.shape).float()
            error = (batch - plain.decoder(mu + (log_var / 2).exp() * noise)).square().sum(dim=1)
            log_gamma = plain.elbo.log_gamma
            nll = (error / log_gamma.exp() + 6 * (math.log(2 * math.pi) + log_gamma)) / 2
            kl = (mu.square() + log_var.exp() - 1 - log_var).sum(dim=1) / 2
            loss = (nll + kl).mean()
            assert history.neg_elbo[step] == pytest.approx(loss.item(), rel=1e-4)
            # Of before or after the step: by which log γ moves no more than a learning rate.
            assert history.gamma[step] == pytest.approx(log_gamma.exp().item(), rel=0.011)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=1e-3, atol=1e-4)

    def test_a_folder_that_is_missing_is_made(self, data: Path, tmp_path: Path) -> None:
        """Or else the work up to the first checkpoint is lost."""
        x = standardised(data / "vectors.npy", 0)[0].float()
        train(mc.VAE.mlp(6, 2), x, replace(TRAINING, steps=2), folder=tmp_path / "new" / "folder", progress=False)
        assert checkpoint.load(tmp_path / "new" / "folder") is not None

    def test_a_folder_that_is_a_file_has_the_name_of_its_argument(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        said = "folder must be a folder that can be written to, got .*file"
        with pytest.raises(mc.InputError, match=said):
            mc.train(mc.VAE.mlp(6, 2), torch.rand(9, 6), TRAINING, folder=tmp_path / "file", progress=False)
        with pytest.raises(mc.InputError, match=said):
            mc.train_ensemble([mc.ModelSpec(2)], torch.rand(9, 6), folder=tmp_path / "file", progress=False)

    def test_another_model_or_identity_is_refused(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x = standardised(data / "vectors.npy", 0)[0].float()
        config = replace(TRAINING, steps=2)
        train(mc.VAE.mlp(6, 3), x, config, folder=tmp_path, identity={"about": "x"}, progress=False)
        before = contents(tmp_path)
        models = {
            "latent dimensions": mc.VAE.mlp(6, 4),
            "wider": mc.VAE.mlp(6, 3, (65,)),
            "deeper": mc.VAE.mlp(6, 3, (64, 64)),
            "shallower": mc.VAE.mlp(6, 3, ()),
            "fixed gamma": mc.VAE.mlp(6, 3, elbo=mc.GaussianELBO("fixed")),
            "weight of the KL": mc.VAE.mlp(6, 3, elbo=mc.GaussianELBO(beta=2.0)),
            "a user's": dropout_model(),
        }
        for what, model in models.items():
            with pytest.raises(mc.InputError, match=r"checkpoint is of another run: its (model|log_gamma) is"):
                train(model, x, config, folder=tmp_path, identity={"about": "x"}, progress=False)
            assert contents(tmp_path) == before, what
        for identity in ({"about": "y"}, {}, None, {"about": "x", "and": 1}):
            with pytest.raises(mc.InputError, match=r"checkpoint is of another run: its (about|and) is"):
                train(mc.VAE.mlp(6, 3), x, config, folder=tmp_path, identity=identity, progress=False)
        other = replace(config, seed=1)
        with pytest.raises(
            mc.InputError, match=r"checkpoint is of another run: its training\.seed is 3, expected 1; choose"
        ):
            train(mc.VAE.mlp(6, 3), x, other, folder=tmp_path, identity={"about": "x"}, progress=False)
        assert contents(tmp_path) == before

    def test_other_data_are_refused(self, data: Path, tmp_path: Path) -> None:
        """Or else the numbers of the first data would be returned as those of the second."""
        x = standardised(data / "vectors.npy", 0)[0].float()
        condition = x[:, :2].to(torch.bfloat16).float()
        config = replace(TRAINING, steps=2)

        def run(x: torch.Tensor, condition: torch.Tensor) -> mc.History:
            model = mc.CVAE.mlp(6, 2, 3)
            return train(model, x, config, condition=condition, folder=str(tmp_path), progress=False)

        history = run(x, condition)
        before = contents(tmp_path)
        other = x.clone()
        other[-1, -1] += 1e-3
        for changed, what in (
            ((other, condition), "x"),
            ((x, condition + 1), "condition"),
            ((x[:-1], condition[:-1]), ""),
        ):
            with pytest.raises(mc.InputError, match=f"checkpoint is of another run: its {what}"):
                run(*changed)
            assert contents(tmp_path) == before
        assert run(x, condition) == history

    def test_a_fixed_gamma_is_part_of_the_model(self, data: Path, tmp_path: Path) -> None:
        """It is no weight: the checkpoint's would take the place of the one asked for."""
        x = standardised(data / "vectors.npy", 0)[0].float()
        config = replace(TRAINING, steps=2)
        for log_gamma in (-3.0, -3.1):
            model = mc.VAE.mlp(6, 3, elbo=mc.GaussianELBO("fixed", log_gamma))
            if log_gamma == -3.0:
                train(model, x, config, folder=tmp_path, progress=False)
            else:
                with pytest.raises(mc.InputError, match=r"its log_gamma is -3\.0, expected -3\.0999"):
                    train(model, x, config, folder=tmp_path, progress=False)


class TestGlobalState:
    """torch's global generator is the caller's."""

    @pytest.fixture(params=["run", "train", "build_model", "load_model", "evaluate", "resume", "stop"])
    def action(
        self,
        request: pytest.FixtureRequest,
        data: Path,
        finished: dict[str, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        no_pictures: None,
    ) -> Callable[[], Any]:
        x = standardised(data / "vectors.npy", 0)[0].float()
        config = configuration(data, "vectors")
        if request.param == "resume":
            stop_after(monkeypatch, 5, config, tmp_path)
        actions: dict[str, Callable[[], Any]] = {
            "run": lambda: run(config, tmp_path, progress=False),
            "resume": lambda: run(config, tmp_path, progress=False),
            "stop": lambda: stop_after(monkeypatch, 5, config, tmp_path),
            "train": lambda: train(dropout_model(), x, TRAINING, progress=False),
            "build_model": lambda: build_model(IMAGES, (1, 8, 8), seed=5),
            "load_model": lambda: load_model(finished["images"]),
            "evaluate": lambda: mc.evaluate(dropout_model(), x),
        }
        return actions[request.param]

    def test_it_is_not_moved(self, action: Callable[[], Any]) -> None:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        action()
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, whose generator it is about")
    def test_that_of_a_gpu_is_not_moved(self, action: Callable[[], Any]) -> None:
        torch.cuda.manual_seed(1)
        before = torch.cuda.get_rng_state()
        action()
        assert torch.equal(torch.cuda.get_rng_state(), before)

    def test_pictures_do_not_move_it(self, finished: dict[str, Path], tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        model = load_model(finished["images"])
        torch.manual_seed(1)
        before = torch.get_rng_state()
        plots.plot_images(tmp_path / "images.png", model, torch.rand(30, 1, 8, 8, generator=torch.Generator()))
        assert torch.equal(torch.get_rng_state(), before)

    def test_it_plays_no_part(self, data: Path) -> None:
        x = standardised(data / "vectors.npy", 0)[0].float()
        results = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            model = build_model(VECTORS, (6,), seed=0)
            results.append((model.state_dict()["encoder.layers.0.weight"].clone(), dropout_model()))
            train(results[-1][1], x, TRAINING, progress=False)
        assert torch.equal(results[0][0], results[1][0])
        for name, tensor in results[0][1].state_dict().items():
            assert torch.equal(tensor, results[1][1].state_dict()[name]), name

    def test_the_seed_plays_a_part_in_weights_noise_and_order(
        self, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = (build_model(VECTORS, (6,), seed) for seed in (0, 1))
        assert not torch.equal(first.state_dict()["encoder.layers.0.weight"], second.encoder.layers[0].weight)
        x = standardised(data / "vectors.npy", 0)[0].float()
        batches, noises = [], []
        forward = mc.VAE.forward

        def watched(self: mc.VAE, batch: Tensor, **more: Any) -> Any:
            batches.append(batch.flatten().tolist())
            terms = forward(self, batch, **more)
            mu, log_var = terms.posterior
            noises.append(((terms.z - mu) / (log_var / 2).exp()).flatten().tolist())
            return terms

        monkeypatch.setattr(mc.VAE, "forward", watched)
        for seed in (0, 1):
            train(build_model(VECTORS, (6,)), x, replace(TRAINING, seed=seed, steps=3), progress=False)
        for seen in (batches, noises):
            assert len({str(content) for content in seen}) == 6  # three steps of two runs


@pytest.fixture
def model(finished: dict[str, Path]) -> mc.VAE:
    return load_model(finished["images"])


@pytest.fixture
def x(data: Path) -> Tensor:
    return standardised(data / "images.npy", TRAINING.seed)[0].float()


class TestEvaluationMode:
    @pytest.mark.parametrize("training", [True, False])
    def test_the_model_is_left_as_it_was(self, model: mc.VAE, x: Tensor, training: bool) -> None:
        model.train(training)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        mc.evaluate(model, x)
        mc.active_dimensions(model, x)
        assert model.training == model.encoder.training == training
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]), name  # the running statistics of BatchNorm among them

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("batch_size", [1, 7, 269, 4096])
    def test_the_batch_size_changes_rounding_only(
        self, model: mc.VAE, x: Tensor, training: bool, batch_size: int
    ) -> None:
        expected = asdict(mc.evaluate(model.eval(), x))
        found = asdict(mc.evaluate(model.train(training), x, batch_size=batch_size))
        assert found == {name: close(value, rel=1e-6) for name, value in expected.items()}

    def test_the_other_samples_of_a_batch_play_no_part(self, model: mc.VAE, x: Tensor) -> None:
        strange = 100 * x[:50]
        alone, others = mc.evaluate(model.train(), x), mc.evaluate(model, strange, seed=0)
        together = mc.evaluate(model, torch.cat([x, strange]))
        for j in range(model.latent_dim):
            sums = len(x) * alone.variance[j] + len(strange) * others.variance[j]
            assert together.variance[j] * (len(x) + len(strange)) == pytest.approx(sums, rel=1e-5)

    def test_noise_belongs_to_seed_and_row(self, model: mc.VAE, x: Tensor) -> None:
        results = [mc.evaluate(model, x, seed=seed).recon for seed in (0, 1, 0)]
        assert results[0] == results[2] != results[1]

    def test_the_threshold_decides_what_counts_as_active(
        self, model: mc.VAE, x: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encode = model.encoder.forward

        def narrower(x: Tensor) -> tuple[Tensor, Tensor]:
            """All variances below 1, as a threshold must be."""
            mu, log_var = encode(x)
            return mu, log_var - 1

        monkeypatch.setattr(model.encoder, "forward", narrower)
        variance = sorted(mc.evaluate(model, x).variance)
        for count, (below, above) in enumerate(zip([0.0, *variance], [*variance, 1.0], strict=True)):
            found = mc.evaluate(model, x, threshold=(below + above) / 2)
            assert (found.active_dimensions, found.threshold) == (count, (below + above) / 2)
        assert mc.evaluate(model, x, threshold=variance[1]).active_dimensions == 1  # below, not at

    def test_the_validation_samples_are_measured_apart(self, finished: dict[str, Path]) -> None:
        metrics = metrics_of(finished["trained"])
        assert (metrics["train"]["samples"], metrics["validation"]["samples"]) == (270, 30)
        assert metrics["train"]["recon"] != metrics["validation"]["recon"]


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[12:16] == b"IHDR"
    assert content.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


class TestPictures:
    @pytest.fixture(autouse=True)
    def matplotlib(self) -> None:
        pytest.importorskip("matplotlib", reason="pictures need matplotlib, of the extra 'experiments'")

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [("vectors", ["variances.png", "curves.png"]), ("images", ["variances.png", "curves.png", "images.png"])],
    )
    def test_they_are_png_files_of_a_sensible_size(
        self, data: Path, tmp_path: Path, kind: str, expected: list[str]
    ) -> None:
        from matplotlib.image import imread

        metrics = run(configuration(data, kind, steps=5), tmp_path, progress=False)
        assert metrics["pictures"] == expected
        assert contents(tmp_path).keys() == {"metrics.json", "weights.safetensors", *expected}
        for name in expected:
            width, height = png_size(tmp_path / name)
            assert 400 <= width <= 2000
            assert 300 <= height <= 2000
            pixels = imread(tmp_path / name)  # which checks the sums in the file
            assert pixels.shape[:2] == (height, width)
            assert pixels[..., :3].std() > 0.05  # something is drawn

    def test_eigenvalues_stand_beside_the_variances_of_a_full_covariance(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from matplotlib.axes import Axes

        titles: list[str] = []
        lines: list[list[float]] = []
        plot, set_title = Axes.plot, Axes.set_title

        def watched_plot(self: Any, *arguments: Any, **more: Any) -> Any:
            if more.get("label") == "eigenvalues":
                lines.append(arguments[1])
            return plot(self, *arguments, **more)

        def watched_title(self: Any, title: str, *arguments: Any, **more: Any) -> Any:
            titles.append(title)
            return set_title(self, title, *arguments, **more)

        monkeypatch.setattr(Axes, "plot", watched_plot)
        monkeypatch.setattr(Axes, "set_title", watched_title)
        metrics = run(configuration(data, "full", steps=5), tmp_path / "full", progress=False)
        assert metrics["pictures"] == ["variances.png", "curves.png"]
        assert lines == [metrics["train"]["spectrum"]]
        plots.plot_variances(tmp_path / "x.png", [0.9, 0.01], spectrum=[0.95, 0.03, 0.02], manifold_dim=2)
        plots.plot_variances(tmp_path / "y.png", [0.9, 0.01])
        assert lines[1:] == [[0.02, 0.03, 0.95]]
        assert titles[1:] == [
            "1 active of 2 dimensions, 2 by eigenvalue, true dimension 2",
            "1 active of 2 dimensions",
        ]

    def test_without_matplotlib_the_run_succeeds(self, data: Path, tmp_path: Path, no_pictures: None) -> None:
        metrics = run(configuration(data, "images", steps=2), tmp_path, progress=False)
        assert metrics["pictures"] == metrics_of(tmp_path)["pictures"] == []
        assert contents(tmp_path).keys() == {"metrics.json", "weights.safetensors"}

    def test_pictures_change_no_number(self, data: Path, tmp_path: Path, finished: dict[str, Path]) -> None:
        metrics = timeless(run(configuration(data, "images"), tmp_path, progress=False))
        assert metrics | {"pictures": []} == timeless(metrics_of(finished["images"]))

    @pytest.mark.parametrize("channels", [2, 3, 4])
    def test_images_of_any_number_of_channels(self, tmp_path: Path, channels: int) -> None:
        np.save(tmp_path / "x.npy", np.random.default_rng(0).random((40, channels, 8, 8)))
        config = RunConfig(str(tmp_path / "x.npy"), IMAGES, replace(TRAINING, steps=2))
        metrics = run(config, tmp_path / "run", progress=False)
        png_size(tmp_path / "run" / "images.png")
        assert metrics["sample_shape"] == [channels, 8, 8]

    @pytest.fixture
    def sheets(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What is given to matplotlib to be shown."""
        from matplotlib.axes import Axes

        shown: list[Any] = []
        show = Axes.imshow

        def watched(self: Any, picture: Any, *arguments: Any, **more: Any) -> Any:
            shown.append(np.array(picture))
            return show(self, picture, *arguments, **more)

        monkeypatch.setattr(Axes, "imshow", watched)
        return shown

    @pytest.mark.parametrize("held_out", [30, 20, 7, 1])
    def test_originals_reconstructions_and_samples_are_where_they_are_labelled(
        self, tmp_path: Path, sheets: list[Any], held_out: int
    ) -> None:
        class Stub(mc.VAE):
            """Each kind of picture has a shade of its own."""

            def reconstruct(self, x: Tensor) -> Tensor:
                return torch.full_like(x, 0.5)

            def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
                return torch.full((n, 1, 8, 8), 0.25)

        plots.plot_images(
            tmp_path / "x.png", Stub(Encoder(), nn.Linear(3, 6), 3), torch.full((held_out, 1, 8, 8), 0.75)
        )
        (sheet,) = sheets
        thirds = np.array_split(sheet, 3)
        background = {0.0, 1.0}
        assert [set(np.unique(third).tolist()) - background for third in thirds] == [{0.75}, {0.5}, {0.25}]

    def test_a_users_images_look_like_themselves(self, tmp_path: Path, sheets: list[Any]) -> None:
        """However they were scaled for training."""
        generator = np.random.default_rng(0)
        x = generator.random((300, 1, 8, 8)) + 3 * (np.arange(64).reshape(8, 8) % 3 == 0)
        np.save(tmp_path / "x.npy", x)
        config = RunConfig(str(tmp_path / "x.npy"), IMAGES, replace(TRAINING, steps=2))
        run(config, tmp_path / "run", progress=False)
        first = load_file(tmp_path / "x.npy", seed=TRAINING.seed).validation[0, 0].numpy()
        shown = sheets[0][:8, :8]  # the first tile
        assert np.corrcoef(shown.ravel(), first.ravel())[0, 1] > 0.95


def test_weights_do_not_depend_on_torchs_defaults() -> None:
    expected = build_model(ModelConfig(latent_dim=3, hidden=(8,)), (6,), seed=4).state_dict()
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        found = build_model(ModelConfig(latent_dim=3, hidden=(8,)), (6,), seed=4).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype == torch.float32
        assert torch.equal(found[name], tensor)
