"""Training into a folder: checkpoints, and what goes on from them; what is refused there."""

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dropout import dropout_model
from runs import STEPS, TRAINING, VECTORS, Stopped, contents, standardised, stop_at_save, write_data
from torch import Tensor, nn

import manifold_core as mc
from manifold_core.run import build_model
from manifold_core.storage import checkpoint
from manifold_core.training import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def x(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """Points near a plane in six dimensions, standardised."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return standardised(folder / "vectors.npy", 0)[0].float()


class FakeTime:
    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic


class TestTrain:
    """Also with a model that is not the library's."""

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

    @pytest.mark.parametrize(
        ("steps", "precision"),
        [(1, "float32"), (13, "float32"), (STEPS - 1, "float32"), (STEPS, "float32"), (13, "float16")],
    )
    def test_dropout_and_moments_go_on_where_they_were(
        self, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, precision: Any
    ) -> None:
        """In float16 so does the scale of the loss."""
        config = replace(TRAINING, precision=precision)
        for name in ("undisturbed", "run"):
            (tmp_path / name).mkdir()
        model = dropout_model()
        history = train(model, x, config, folder=tmp_path / "undisturbed", progress=False)
        expected = self.outcome(model, history, tmp_path / "undisturbed")

        with monkeypatch.context() as patch:
            stop_at_save(patch, steps)
            with pytest.raises(Stopped):
                train(dropout_model(), x, config, folder=tmp_path / "run", checkpoint_seconds=0.0, progress=False)
        torch.manual_seed(99)
        model = dropout_model(seed=steps)  # weights that the checkpoint has to replace
        history = train(model, x, config, folder=tmp_path / "run", progress=False)
        assert not model.training
        self.assert_same(self.outcome(model, history, tmp_path / "run"), expected)

    def test_float64_goes_on_where_it_was(self, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = replace(TRAINING, steps=310)
        x = x.double()
        for name in ("undisturbed", "run"):
            (tmp_path / name).mkdir()
        model = build_model(VECTORS, (6,)).double()
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
                train(build_model(VECTORS, (6,)).double(), x, config, folder=tmp_path / "run", progress=False)
        model = build_model(VECTORS, (6,)).double()
        history = train(model, x, config, folder=tmp_path / "run", progress=False)
        self.assert_same(self.outcome(model, history, tmp_path / "run"), expected)

    def test_a_folder_that_is_missing_is_made(self, x: Tensor, tmp_path: Path) -> None:
        """Or else the work up to the first checkpoint is lost."""
        train(mc.VAE.mlp(6, 2), x, replace(TRAINING, steps=2), folder=tmp_path / "new" / "folder", progress=False)
        assert checkpoint.load(tmp_path / "new" / "folder") is not None

    def test_it_is_the_same_folder_wherever_the_process_goes(
        self, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a notebook or a library does."""
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path)
        model = mc.VAE.mlp(x.shape[1], 2, (8,))
        config = mc.TrainingConfig(steps=20, batch_size=32)
        leave = lambda _: os.chdir(tmp_path / "elsewhere")  # noqa: E731
        mc.train(model, x, config, folder="own", checkpoint_seconds=0, after_record=leave, progress=False)
        assert (tmp_path / "own" / checkpoint.INDEX).exists()
        assert not list((tmp_path / "elsewhere").iterdir())

    def test_a_training_within_a_training_has_another_folder(self, x: Tensor, tmp_path: Path) -> None:
        def train(after_record: Any = None) -> None:
            config = mc.TrainingConfig(steps=2, batch_size=32)
            model = mc.VAE.mlp(x.shape[1], 2, (8,))
            mc.train(model, x, config, folder=tmp_path, after_record=after_record, progress=False)

        with pytest.raises(mc.InputError, match="folder must be left to one training, but another is at work in"):
            train(lambda _: train())
        train()

    def test_a_folder_that_is_a_file_has_the_name_of_its_argument(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        said = "folder must be a folder that can be written to, got .*file"
        with pytest.raises(mc.InputError, match=said):
            mc.train(mc.VAE.mlp(6, 2), torch.rand(9, 6), TRAINING, folder=tmp_path / "file", progress=False)
        with pytest.raises(mc.InputError, match=said):
            mc.train_ensemble([mc.ModelSpec(2)], torch.rand(9, 6), folder=tmp_path / "file", progress=False)

    def test_another_model_or_identity_is_refused(
        self, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
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

    def test_other_data_are_refused(self, x: Tensor, tmp_path: Path) -> None:
        """Or else the numbers of the first data would be returned as those of the second."""
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

    def test_a_fixed_gamma_is_part_of_the_model(self, x: Tensor, tmp_path: Path) -> None:
        """It is no weight: the checkpoint's would take the place of the one asked for."""
        config = replace(TRAINING, steps=2)
        for log_gamma in (-3.0, -3.1):
            model = mc.VAE.mlp(6, 3, elbo=mc.GaussianELBO("fixed", log_gamma))
            if log_gamma == -3.0:
                train(model, x, config, folder=tmp_path, progress=False)
            else:
                with pytest.raises(mc.InputError, match=r"its log_gamma is -3\.0, expected -3\.0999"):
                    train(model, x, config, folder=tmp_path, progress=False)

    @pytest.mark.parametrize("in_place", [True, False])
    def test_buffers_that_are_not_persistent_go_on_where_they_were(
        self, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool
    ) -> None:
        """PyTorch leaves them out of a model's state. A constant among them, here an expanded one, that nothing has
        written to is in no checkpoint."""

        class Centred(nn.Linear):
            def __init__(self) -> None:
                super().__init__(6, 4)
                self.register_buffer("mean", torch.zeros(6), persistent=False)
                self.register_buffer("ones", torch.ones(1).expand(6), persistent=False)

            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                if self.training and in_place:
                    self.mean.lerp_(x.mean(dim=0), 0.1)
                elif self.training:
                    self.mean = self.mean.lerp(x.mean(dim=0), 0.1)
                mu, log_var = super().forward((x - self.mean) * self.ones).chunk(2, dim=1)
                return mu, log_var

        def model() -> mc.VAE:
            torch.manual_seed(0)
            return mc.VAE(Centred(), nn.Linear(2, 6), 2)

        config, whole, found = replace(TRAINING, steps=9), model(), model()
        train(whole, x, config, progress=False)
        with monkeypatch.context() as patch:
            stop_at_save(patch, 4)
            with pytest.raises(Stopped):
                train(found, x, config, folder=tmp_path, checkpoint_seconds=0, progress=False)
        assert [name for name in checkpoint.load(tmp_path).tensors if name.startswith("buffer.")] == [
            "buffer.encoder.mean"
        ]
        found = model()
        train(found, x, config, folder=tmp_path, progress=False)
        assert torch.equal(found.encoder.mean, whole.encoder.mean)
        for name, tensor in whole.state_dict().items():
            assert torch.equal(found.state_dict()[name], tensor), name
        before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        train(found, x, config, folder=tmp_path, progress=False)  # as a cell of a notebook is run once more
        assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
        train(found, x, replace(config, steps=9), folder=tmp_path, progress=False)
        for again in (model(), model()):
            mc.load_weights(again, tmp_path)
            assert torch.equal(again.encoder.mean, whole.encoder.mean)

    def test_a_buffer_stays_in_the_checkpoint_of_a_training_gone_on_with_by_the_same_model(
        self, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Once written, as by an initialisation that looks at the data, it is as the model came with it the second
        time."""

        class FromData(nn.Linear):
            def __init__(self) -> None:
                super().__init__(6, 4)
                self.register_buffer("mean", torch.zeros(6), persistent=False)

            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                if not self.mean.any():
                    self.mean.copy_(x.mean(dim=0))
                mu, log_var = super().forward(x - self.mean).chunk(2, dim=1)
                return mu, log_var

        torch.manual_seed(0)
        model = mc.VAE(FromData(), nn.Linear(2, 6), 2)
        with monkeypatch.context() as patch:
            stop_at_save(patch, 4)
            with pytest.raises(Stopped):
                train(model, x, replace(TRAINING, steps=9), folder=tmp_path, checkpoint_seconds=0, progress=False)
        train(model, x, replace(TRAINING, steps=9), folder=tmp_path, progress=False)
        fresh = mc.VAE(FromData(), nn.Linear(2, 6), 2)
        mc.load_weights(fresh, tmp_path)
        assert torch.equal(fresh.encoder.mean, model.encoder.mean)


class TestLoadWeights:
    @pytest.mark.parametrize("steps", [13, STEPS])
    def test_those_of_a_training_stopped_or_finished(
        self, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
    ) -> None:
        trained = dropout_model()
        with monkeypatch.context() as patch:
            stop_at_save(patch, steps)
            with pytest.raises(Stopped):
                train(trained, x, TRAINING, folder=tmp_path, checkpoint_seconds=0.0, progress=False)
        model = dropout_model(seed=1)
        history = mc.load_weights(model, tmp_path)
        assert not any(module.training for module in model.modules())
        for name, tensor in trained.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name
        assert history.step[-1] == steps
        assert len(history.neg_elbo) == len(history.step)

    @pytest.mark.parametrize("compiled_first", [False, True])
    def test_what_torch_compile_makes_of_a_model_is_the_same(
        self, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled_first: bool
    ) -> None:
        def model(compiled: bool) -> mc.VAE:
            torch.manual_seed(0)
            made = mc.VAE.mlp(6, 3, (4,))
            return torch.compile(made, backend="eager") if compiled else made  # type: ignore[return-value]

        config = replace(TRAINING, steps=6)
        expected = model(False)
        train(expected, x, config, progress=False)
        with monkeypatch.context() as patch:
            stop_at_save(patch, 3)
            with pytest.raises(Stopped):
                train(model(compiled_first), x, config, folder=tmp_path, checkpoint_seconds=0.0, progress=False)
        train(model(not compiled_first), x, config, folder=tmp_path, progress=False)
        for found in (model(True), model(False)):
            mc.load_weights(found, tmp_path)
            for tensor, wanted in zip(found.state_dict().values(), expected.state_dict().values(), strict=True):
                torch.testing.assert_close(tensor, wanted)

    def test_weights_of_which_some_do_not_fit_are_refused_whole(self, x: Tensor, tmp_path: Path) -> None:
        """Tensors of its own are not in the text of a module, and some are in no state."""

        class Shifted(nn.Module):
            def __init__(self, numbers: int) -> None:
                super().__init__()
                self.inner = mc.VAE.mlp(6, 3, (4,)).encoder
                self.register_buffer("shift", torch.zeros(numbers))
                self.register_buffer("calls", torch.zeros(()), persistent=False)

            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                self.calls += 1
                mu, log_var = self.inner(x)
                return mu + self.shift.sum(), log_var

        config = replace(TRAINING, steps=1)
        train(mc.VAE(Shifted(2), nn.Linear(3, 6), 3), x, config, folder=tmp_path, progress=False)
        model = mc.VAE(Shifted(3), nn.Linear(3, 6), 3)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(mc.InputError, match="damaged, or of another model"):
            mc.load_weights(model, tmp_path)
        with pytest.raises(mc.InputError, match="of another model or damaged"):
            train(model, x, config, folder=tmp_path, progress=False)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert model.encoder.calls == 0

    def test_of_another_model_are_refused(self, x: Tensor, tmp_path: Path) -> None:
        train(mc.VAE.mlp(6, 3, (4,)), x, replace(TRAINING, steps=1), folder=tmp_path, progress=False)
        model = mc.VAE.mlp(6, 3, (5,))
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(mc.InputError, match=r"model must be built like the one trained in .*out_features=4"):
            mc.load_weights(model, tmp_path)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    def test_of_no_training_are_refused(self, x: Tensor, tmp_path: Path) -> None:
        with pytest.raises(
            mc.InputError, match=r"folder must hold a checkpoint of manifold_core\.train, got .*/missing'"
        ):
            mc.load_weights(mc.VAE.mlp(6, 3), tmp_path / "missing")
        mc.train_ensemble([mc.ModelSpec(3, training=replace(TRAINING, steps=1))], x, folder=tmp_path, progress=False)
        with pytest.raises(mc.InputError, match=r"folder must hold a checkpoint of manifold_core\.train"):
            mc.load_weights(mc.VAE.mlp(6, 3), tmp_path)

    def test_that_are_damaged_are_refused(self, x: Tensor, tmp_path: Path) -> None:
        train(mc.VAE.mlp(6, 3), x, replace(TRAINING, steps=1), folder=tmp_path, progress=False)
        (weights,) = tmp_path.glob("*.safetensors")
        weights.write_bytes(weights.read_bytes()[:-1])
        with pytest.raises(mc.InputError, match="cannot be read"):
            mc.load_weights(mc.VAE.mlp(6, 3), tmp_path)


class TestSaves:
    def test_checkpoints_are_written_at_the_interval_asked_for(
        self, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seconds = iter(range(10**6))  # a clock that is read once a step
        monkeypatch.setattr("manifold_core.training.loop.time", FakeTime(lambda: float(next(seconds))))
        saved = []
        save = checkpoint.save

        def watched(folder: Path, step: int, *content: Any) -> None:
            saved.append(step)
            save(folder, step, *content)

        monkeypatch.setattr(checkpoint, "save", watched)
        model = mc.VAE.mlp(6, 2)
        train(model, x, replace(TRAINING, steps=12), folder=tmp_path, checkpoint_seconds=5.0, progress=False)
        assert saved == [5, 10, 12]

    def test_the_time_taken_is_that_of_all_parts(
        self, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
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
        self, x: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        train(mc.VAE.mlp(6, 2), x, replace(TRAINING, steps=3), checkpoint_seconds=0.0, progress=False)
        assert contents(tmp_path) == {}
