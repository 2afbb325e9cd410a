"""The numbers of a run, worked out again from its weights; what else metrics.json says."""

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
from manifold_core.kernels.random import standard_normal
from runs import IMAGES, STEPS, TRAINING, VECTORS, close, configuration, contents, metrics_of, standardised
from safetensors.torch import load_file as load_safetensors
from torch import Tensor

import manifold_core as mc
from manifold_core import cli
from manifold_core.data import blocks
from manifold_core.data.arrays import split
from manifold_core.run import RunConfig, load_run, run

pytestmark = pytest.mark.usefixtures("one_thread")


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


def assert_measured(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Up to the rounding of the float32 that the model computes in."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == close(value, rel=1e-4, abs=1e-5), name


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
        model = load_run(finished["images"]).model.double()
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
        assert mc.evaluate(load_run(tmp_path).model, x).as_dict() == metrics["train"]
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
        assert mc.evaluate(load_run(tmp_path).model, images.train).as_dict() == metrics["train"]
        assert not {"ambient_dim", "manifold_dim", "data_folder"} & metrics["config"].keys()

    def test_images_through_an_mlp_are_flattened(self, data: Path, tmp_path: Path, no_pictures: None) -> None:
        config = RunConfig(
            str(data / "images.npy"), replace(IMAGES, hidden=(8,), channels=None), replace(TRAINING, steps=3)
        )
        metrics = run(config, tmp_path, progress=False)
        x, _ = standardised(data / "images.npy", TRAINING.seed)
        again = mc.evaluate(load_run(tmp_path).model, x.float().flatten(1))
        assert again.neg_elbo == pytest.approx(metrics["train"]["neg_elbo"], rel=1e-5)

    def test_a_sample_far_from_all_others_is_no_obstacle(self, tmp_path: Path, no_pictures: None) -> None:
        """Held out it takes no part in training, and may have any loss: what was trained is kept."""
        x = np.random.default_rng(0).normal(size=(100, 6))
        x[of_those_held_out(x)] *= 1e6
        np.save(tmp_path / "x.npy", x)
        config = RunConfig(str(tmp_path / "x.npy"), VECTORS, replace(TRAINING, steps=3), models=2)
        metrics = run(config, tmp_path / "out", progress=False)
        assert metrics["validation"]["neg_elbo"] is None
        assert [one["held_out_neg_elbo"] for one in metrics["models"]] == [None, None]
        own = [one["neg_elbo"] for one in metrics["models"]]
        assert metrics["train"]["neg_elbo"] == min(own)
        assert metrics["seed"] == TRAINING.seed + own.index(min(own))
        text = (tmp_path / "out/metrics.json").read_text()
        assert json.loads(text, parse_constant=pytest.fail) == metrics  # no NaN, no Infinity: JSON as others read it
        assert "the lowest -ELBO, since that of the held-out samples is finite for none" in cli.table([metrics])

    def test_one_too_far_for_float32_is_refused_before_training(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blocks, "BLOCK", 60)  # ten samples, of which these are not the first
        x = 1e-5 * np.random.default_rng(0).normal(size=(100, 6))
        row = of_those_held_out(x)
        assert row >= 10
        x[row, 2] = 1e35
        np.save(tmp_path / "x.npy", x)
        message = (
            rf"x\.npy: a number too far from the others at 1 place, first in row {row}, column 2 \(.* at most 3\.4e38"
        )
        with pytest.raises(mc.InputError, match=message):
            run(RunConfig(str(tmp_path / "x.npy"), VECTORS, replace(TRAINING, steps=10**9)), tmp_path / "out")


def of_those_held_out(x: np.ndarray[Any, Any]) -> int:
    """The number of a row."""
    held_out = split(x, "x", "x", 0.1, TRAINING.seed, standardise=False).validation[0]
    return int((torch.from_numpy(x).float() == held_out).all(dim=1).nonzero())
