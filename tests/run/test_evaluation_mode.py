"""Measuring a model leaves it as it was, and depends on nothing but samples, seed and threshold."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from runs import TRAINING, close, metrics_of, standardised
from torch import Tensor

import manifold_core as mc
from manifold_core.run import load_run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model(finished: dict[str, Path]) -> mc.VAE:
    return load_run(finished["images"]).model


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
