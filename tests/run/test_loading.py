"""load_run: the model of a finished run, in the units of the data."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import TRAINING, configuration, contents, metrics_of
from torch import Tensor

import manifold_core as mc
from manifold_core.data import load_file
from manifold_core.run import ModelConfig, RunConfig, load_data, load_run, run

pytestmark = pytest.mark.usefixtures("one_thread")


class TestLoading:
    @pytest.mark.parametrize("kind", ["vectors", "images", "analytic", "full"])
    def test_load_run_is_the_trained_model(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None, kind: str
    ) -> None:
        """The one that was evaluated."""
        trained: list[Any] = []

        def watched(model: Any, inputs: tuple[Tensor, ...]) -> Any:
            trained.extend((model, *inputs))
            return mc.evaluate(model, *inputs)

        monkeypatch.setattr("manifold_core.run.results.metrics_of", watched)
        run(configuration(data, kind), tmp_path, progress=False)
        model, x, *_ = trained
        loaded = load_run(tmp_path).model
        assert not loaded.training
        assert not model.training
        assert model.state_dict().keys() == loaded.state_dict().keys()
        for found, expected in zip(loaded(x, seed=5), model(x, seed=5), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)

    def test_load_run_wants_a_finished_run(self, tmp_path: Path) -> None:
        with pytest.raises(mc.InputError, match=r"folder must hold a finished run .*, without metrics\.json$"):
            load_run(tmp_path)
        with pytest.raises(mc.InputError, match=r"nowhere', which does not exist$"):
            load_run(tmp_path / "nowhere")

    def test_load_run_says_what_reads_a_training(self, tmp_path: Path) -> None:
        model = mc.VAE.mlp(3, 2, (4,))
        mc.train(model, torch.randn(20, 3), mc.TrainingConfig(steps=1), folder=tmp_path, progress=False)
        with pytest.raises(mc.InputError, match="holds a checkpoint of a training") as refused:
            load_run(tmp_path)
        called = re.search(r"mc\.load_weights\(.*\)", str(refused.value))
        assert called is not None
        assert eval(called[0], {"mc": mc, "model": model}).step == [1]  # it works as it is written

    def test_load_weights_says_what_reads_a_finished_run(self, finished: dict[str, Path]) -> None:
        folder = str(finished["vectors"])
        model = mc.VAE.mlp(6, 4, (16,))
        with pytest.raises(mc.InputError, match=r"holds a finished run of the command line: mc\.load_run\(") as refused:
            mc.load_weights(model, folder)
        called = re.search(r"mc\.load_run.*\.model", str(refused.value))
        assert called is not None
        model.load_state_dict(eval(called[0], {"mc": mc}).state_dict())  # it works as it is written

    @pytest.mark.parametrize("damage", ["missing", "half", "of another model"])
    def test_load_run_names_weights_that_do_not_fit(
        self, finished: dict[str, Path], tmp_path: Path, damage: str
    ) -> None:
        (tmp_path / "metrics.json").write_bytes((finished["vectors"] / "metrics.json").read_bytes())
        path = tmp_path / "weights.safetensors"
        if damage == "half":
            path.write_bytes((finished["vectors"] / path.name).read_bytes()[:500])
        elif damage == "of another model":
            path.write_bytes((finished["images"] / path.name).read_bytes())
        with pytest.raises(mc.InputError, match="weights"):
            load_run(tmp_path)

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
        with pytest.raises(mc.InputError, match=said) as error:
            load_run(tmp_path)
        assert str(tmp_path / "metrics.json") in str(error.value)

    @pytest.mark.parametrize("kind", ["vectors", "images", "trained", "full"])
    def test_load_run_goes_from_the_units_of_the_file_to_the_models(
        self, data: Path, finished: dict[str, Path], kind: str
    ) -> None:
        path = data / ("images.npy" if kind == "images" else "vectors.npy")
        found, x = load_run(finished[kind]), np.load(path)
        assert found.metrics == metrics_of(finished[kind])
        sizes = f"latent_dim={found.model.latent_dim}, dimension={found.metrics['local']['count']}"
        assert repr(found) == f"FinishedRun(VAE, {sizes}, condition=None)"
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
        with pytest.raises(mc.InputError, match="folder must hold a finished run"):
            load_run(tmp_path / "nowhere")
        with pytest.raises(mc.InputError, match="folder must hold a finished run"):
            load_run(tmp_path / ("long" * 100))  # which no file system has
