"""What a run refuses: folders and checkpoints of others, damaged ones, data that cannot be trained on."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import IMAGES, STEPS, TRAINING, VECTORS, configuration, contents, save_every_step, stop_after
from safetensors.torch import load_file as load_safetensors

import manifold_core as mc
from manifold_core.data import load_file
from manifold_core.run import RunConfig, load_data, run, several
from manifold_core.storage import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 10, configuration(data, "vectors"), folder)
    return folder


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

    @pytest.mark.parametrize("kind", ["vectors", "images"])
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
        config = configuration(data, "images")
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
        config = configuration(data, "images")
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
        assert contents(tmp_path) == {}  # no checkpoint from which it would diverge again
        metrics = run(replace(config, training=TRAINING), tmp_path, progress=False)  # as the message advises
        assert metrics["train"]["samples"] == 270

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
