"""Models of images in an ensemble: trained one after the other, by the reference, as `mc.train` does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from instruction_sets import NEEDS_COMPILED
from torch import Tensor

import manifold_core as mc
from manifold_core.ensemble import explain_ensemble

CONFIG = mc.TrainingConfig(steps=6, batch_size=16, learning_rate=0.01, seed=5)
SPECS = [
    mc.ConvSpec(3, 2, training=CONFIG),
    mc.ConvSpec(3, 2, covariance="cholesky", training=CONFIG),
    mc.ConvSpec(3, 2, condition_dim=4, attention=True, training=CONFIG, data=1),
    mc.ModelSpec(3, (65,), covariance="cholesky", training=CONFIG, data=2),
]


def sets() -> list[Tensor | tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(50, 1, 8, 8, generator=generator)
    return [images, (images, torch.rand(50, 4, generator=generator)), images.flatten(1)]


def test_the_ensemble_is_one_model_after_the_other(tmp_path: Path) -> None:
    data = sets()
    found = mc.train_ensemble(SPECS, data, folder=tmp_path, progress=False)
    for spec, one in zip(SPECS, found, strict=True):
        own = data[spec.data]
        x, c = own if isinstance(own, tuple) else (own, None)
        model = spec.build(*x.shape[1:])
        history = mc.train(model, x, CONFIG, condition=c, progress=False)
        assert one.history.neg_elbo == history.neg_elbo
        assert one.metrics == mc.evaluate(model, x, c)
    again = mc.train_ensemble(SPECS, data, folder=tmp_path, progress=False)  # nothing is left to do
    assert [one.metrics for one in again] == [one.metrics for one in found]


def test_the_bar_counts_the_steps_of_all_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also those that a stopped run had done, and those that a diverged model never does."""
    wild = mc.ConvSpec(3, 2, training=replace(CONFIG, learning_rate=1e30))
    for _ in range(2):
        found = mc.train_ensemble([SPECS[0], wild, SPECS[1]], sets(), folder=tmp_path)
        assert found[1].diverged_at is not None
        last = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
        assert last.startswith("100%")
        assert "| 18/18 [" in last


@NEEDS_COMPILED
def test_auto_takes_the_reference_and_says_why() -> None:
    reasons = {
        SPECS[0]: "specs[0] is a ConvSpec, which only 'reference' trains",
        SPECS[3]: "specs[0] has a full covariance behind 65 neurons, more than 64, which only 'reference' trains",
    }
    for spec, reason in reasons.items():
        choice = explain_ensemble([spec], torch.empty(0))
        assert (choice.backend, choice.reason) == ("reference", reason)
    with pytest.raises(
        RuntimeError, match=r"backend 'cpu' cannot serve this ensemble: specs\[0\] has a full covariance"
    ):
        mc.train_ensemble(SPECS[3:], sets(), backend="cpu", progress=False)
