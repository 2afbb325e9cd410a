"""A finished run: what made it, and that it is left alone."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import TRAINING, configuration, contents, metrics_of

import manifold_core as mc
from manifold_core.run import build_model, load_data, load_run, run
from manifold_core.storage import checkpoint
from manifold_core.training import train

pytestmark = pytest.mark.usefixtures("one_thread")


class TestFinishedRun:
    def test_what_is_returned_is_what_is_written(self, data: Path, tmp_path: Path, no_pictures: None) -> None:
        metrics = run(configuration(data, "vectors"), tmp_path / "new" / "folder", progress=False)
        assert metrics == metrics_of(tmp_path / "new" / "folder")

    @pytest.mark.parametrize("kind", ["vectors", "full"])
    def test_its_seed_makes_the_first_weights(self, data: Path, tmp_path: Path, no_pictures: None, kind: str) -> None:
        """From which the first of many steps has hardly moved them."""
        config = configuration(data, kind, steps=2, learning_rate=1e-6)
        run(config, tmp_path, progress=False)
        found = load_run(tmp_path).model.state_dict()
        first = build_model(config.model, (6,), TRAINING.seed).state_dict()
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
        metrics, found = metrics_of(finished[kind]), load_run(finished[kind]).model
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
        assert metrics["history"]["neg_elbo"] == pytest.approx(history.neg_elbo, rel=1e-4)
        assert metrics["train"]["neg_elbo"] == pytest.approx(mc.evaluate(model, x).neg_elbo, rel=1e-4)

    def test_it_is_not_trained_again(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
    ) -> None:
        config = configuration(data, "vectors")
        metrics = run(config, tmp_path, progress=False)
        before = contents(tmp_path)
        changed = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        for name in ("train", "train_several", "spec_of"):
            monkeypatch.setattr(f"manifold_core.run.runner.{name}", None)
        monkeypatch.setattr("manifold_core.run.runner.output_folder", None)  # it may be on a disk that is only read
        assert run(config, tmp_path, progress=False) == metrics
        assert contents(tmp_path) == before
        assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == changed

    def test_one_without_its_weights_is_none(self, data: Path, finished: dict[str, Path], tmp_path: Path) -> None:
        shutil.copy(finished["vectors"] / "metrics.json", tmp_path)
        with pytest.raises(mc.InputError, match=r"holds a finished run without its weights\.safetensors; choose"):
            run(configuration(data, "vectors"), tmp_path, progress=False)

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
        with pytest.raises(mc.InputError, match=refused):
            mc.find_dimension(x, mc.SearchPlan(steps=2), folder=tmp_path, progress=False)
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
