"""torch's generators and defaults: what a run leaves alone, and what plays no part in it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dropout import dropout_model
from runs import IMAGES, TRAINING, VECTORS, configuration, standardised, stop_after
from torch import Tensor

import manifold_core as mc
from manifold_core import plots
from manifold_core.run import ModelConfig, build_model, load_run, run
from manifold_core.training import train

pytestmark = pytest.mark.usefixtures("one_thread")


class TestGlobalState:
    """torch's global generator is the caller's."""

    @pytest.fixture(params=["run", "train", "build_model", "load_run", "evaluate", "resume", "stop"])
    def action(
        self,
        request: pytest.FixtureRequest,
        data: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        no_pictures: None,
    ) -> Callable[[], Any]:
        x = standardised(data / "vectors.npy", 0)[0].float()
        config = configuration(data, "vectors")
        if request.param == "resume":
            stop_after(monkeypatch, 5, config, tmp_path)
        if request.param == "load_run":
            finished = request.getfixturevalue("finished")["images"]  # made for those who need it alone
        actions: dict[str, Callable[[], Any]] = {
            "run": lambda: run(config, tmp_path, progress=False),
            "resume": lambda: run(config, tmp_path, progress=False),
            "stop": lambda: stop_after(monkeypatch, 5, config, tmp_path),
            "train": lambda: train(dropout_model(), x, TRAINING, progress=False),
            "build_model": lambda: build_model(IMAGES, (1, 8, 8), seed=5),
            "load_run": lambda: load_run(finished).model,
            "evaluate": lambda: mc.evaluate(dropout_model(), x),
        }
        return actions[request.param]

    def test_it_is_not_moved(self, action: Callable[[], Any]) -> None:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        action()
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, whose generator it is about")
    def test_that_of_a_gpu_is_not_moved(self, action: Callable[[], Any]) -> None:
        torch.cuda.manual_seed(1)
        before = torch.cuda.get_rng_state()
        action()
        assert torch.equal(torch.cuda.get_rng_state(), before)

    def test_those_of_all_devices_are_not_seeded(
        self, action: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As torch.manual_seed does, where nobody puts them back."""
        seeded: list[int] = []
        monkeypatch.setattr(torch, "manual_seed", seeded.append)
        action()
        assert seeded == []

    def test_pictures_do_not_move_it(self, finished: dict[str, Path], tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        model = load_run(finished["images"]).model
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


def test_no_hidden_layers_are_not_the_default() -> None:
    with pytest.raises(mc.InputError, match=r"hidden.*got \(\)"):
        build_model(ModelConfig(latent_dim=3, hidden=()), (6,))


def test_weights_do_not_depend_on_torchs_defaults() -> None:
    expected = build_model(ModelConfig(latent_dim=3, hidden=(8,)), (6,), seed=4).state_dict()
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        found = build_model(ModelConfig(latent_dim=3, hidden=(8,)), (6,), seed=4).state_dict()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype == torch.float32
        assert torch.equal(found[name], tensor)
