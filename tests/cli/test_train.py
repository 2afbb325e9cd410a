"""``manifold-core train``: what it prints and writes, its options and their defaults."""

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import ENVIRONMENT, PICTURES, RESULTS, SMALL, only_line
from runs import contents

from manifold_core import cli
from manifold_core.cli import commands
from manifold_core.data import load_file
from manifold_core.data.images import IMAGE_SETS
from manifold_core.run import ConditionConfig, RunConfig, build_model
from manifold_core.training.schedule import batches

pytestmark = pytest.mark.usefixtures("one_thread")


class TestTrain:
    def test_a_whole_run(self, inputs: Path, tmp_path: Path) -> None:
        """In a process of its own, with pictures and the progress bar."""
        pytest.importorskip("matplotlib", reason="pictures need matplotlib, of the extra 'experiments'")
        out = tmp_path / "new" / "out"
        done = subprocess.run(
            [sys.executable, "-m", "manifold_core.cli", "train", "--data", "good.npy", "--out", str(out), *SMALL[:-1]],
            cwd=inputs,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "30/30" in done.stderr
        assert "Warning" not in done.stderr
        assert contents(out).keys() == RESULTS | PICTURES
        metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        assert cli.table([metrics]) in done.stdout
        assert str(out) in done.stdout
        for name in PICTURES:
            assert f"picture: {out / name}\n" in done.stdout

    @pytest.mark.parametrize("kind", ["npy", "npz", "csv"])
    def test_every_kind_of_file(
        self, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], no_pictures: None, kind: str
    ) -> None:
        path = inputs / f"good.{kind}"
        assert cli.main(["train", "--data", str(path), "--out", str(tmp_path), *SMALL]) == 0
        printed = capfd.readouterr()
        assert printed.err == ""
        assert "no pictures: matplotlib is missing; pip install matplotlib" in printed.out
        metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
        assert (metrics["data"], metrics["latent_dim"], metrics["train"]["samples"]) == ("good", 3, 108)
        # The numbers are those of the .npy file, but for the rounding of decimal text.
        reference = cli.main(["train", "--data", str(inputs / "good.npy"), "--out", str(tmp_path / "npy"), *SMALL])
        assert reference == 0
        expected = json.loads((tmp_path / "npy" / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["train"]["neg_elbo"] == pytest.approx(expected["train"]["neg_elbo"], rel=1e-4)

    def test_images_out_of_a_folder(self, inputs: Path, tmp_path: Path, no_pictures: None) -> None:
        command = ["train", "--data", "mnist", "--data-dir", str(inputs / "small"), "--out", str(tmp_path / "out")]
        assert cli.main([*command, "--channels", "1", "--steps", "1", "--batch-size", "2", "--quiet"]) == 0
        assert contents(tmp_path / "out").keys() == RESULTS

    @pytest.mark.filterwarnings("always:condition")
    def test_images_under_their_labels(self, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("matplotlib", reason="pictures need matplotlib, of the extra 'experiments'")
        command = ["train", "--data", "mnist", "--data-dir", str(inputs / "small"), "--condition", "labels"]
        command += ["--out", str(tmp_path / "out"), "--channels", "1", "--steps", "1", "--batch-size", "2", "--quiet"]
        assert cli.main(command) == 0
        assert contents(tmp_path / "out").keys() == RESULTS | PICTURES | {"images.png", "classes.png"}
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["condition"] == {"classes": list(range(10))}
        (one,) = metrics["classes"]  # all four images are of class 1
        assert (one["label"], one["samples"]) == (1, 4)
        assert one["active_dimensions"] == metrics["active_dimensions"]
        printed = capfd.readouterr()
        assert f"has 10 classes; active dimensions by class: 1: {one['active_dimensions']}\n" in printed.out
        assert only_line(printed.err).startswith(
            "manifold-core: warning: condition: classes 0, 2, 3, 4, 5, 6, 7, 8, 9 have no training sample"
        )

    def test_a_finished_run_is_printed_again(
        self, inputs: Path, earlier: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = contents(earlier)
        for training in ("train", "train_several"):
            monkeypatch.setattr(f"manifold_core.run.runner.{training}", None)
        assert cli.main(["train", "--data", str(inputs / "good.npy"), "--out", str(earlier), *SMALL]) == 0
        assert cli.table([json.loads(before["metrics.json"])]) in capfd.readouterr().out
        assert contents(earlier) == before

    def test_a_changed_file_is_not_a_finished_run(
        self, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], no_pictures: None
    ) -> None:
        path, out = tmp_path / "points.npy", tmp_path / "out"
        command = ["train", "--data", str(path), "--out", str(out), *SMALL]
        np.save(path, np.load(inputs / "good.npy"))
        assert cli.main(command) == 0
        before = contents(out)
        capfd.readouterr()
        np.save(path, np.load(inputs / "good.npy")[::-1])
        assert cli.main(command) == 2
        printed = capfd.readouterr()
        assert f"{str(out)!r} holds a finished run of other data than {str(path)!r} holds now" in only_line(printed.err)
        assert printed.out == ""
        assert contents(out) == before

    def test_another_seed_is_another_run(
        self, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], no_pictures: None
    ) -> None:
        for seed in ("0", "1"):
            out = str(tmp_path / seed)
            command = ["train", "--data", str(inputs / "good.npy"), "--out", out, *SMALL, "--seed", seed]
            assert cli.main(command) == 0
        assert contents(tmp_path)["0/weights.safetensors"] != contents(tmp_path)["1/weights.safetensors"]

    @pytest.fixture
    def configurations(self, monkeypatch: pytest.MonkeyPatch, earlier: Path) -> list[tuple[RunConfig, Path, bool]]:
        """What ``run`` was called with, in place of running."""
        called: list[tuple[RunConfig, Path, bool]] = []
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))

        def watched(config: RunConfig, folder: Path, progress: bool, process_group: object) -> dict[str, Any]:
            assert process_group is None  # it was not torchrun that started this
            called.append((config, folder, progress))
            return metrics

        monkeypatch.setattr(commands, "run", watched)
        return called

    def test_every_option_arrives_where_it_belongs(self, configurations: list[tuple[RunConfig, Path, bool]]) -> None:
        command = "train --data synthetic --out here --latent-dim 11 --seed 12 --ambient-dim 13 --manifold-dim 7"
        command += " --steps 15 --batch-size 16 --learning-rate 0.17 --hidden 18 19 --channels 20"
        command += " --gamma fixed --log-gamma -2.1 --covariance cholesky --device cpu --quiet --precision bfloat16"
        assert cli.main(command.split()) == 0
        ((config, folder, progress),) = configurations
        assert (folder, progress) == (Path("here"), False)
        model, training = config.model, config.training
        assert (config.data, config.data_folder, config.device) == ("synthetic", None, "cpu")
        assert (config.ambient_dim, config.manifold_dim) == (13, 7)
        assert (model.latent_dim, model.hidden, model.channels) == (11, (18, 19), 20)
        assert (model.gamma, model.log_gamma, model.covariance) == ("fixed", -2.1, "cholesky")
        assert (training.steps, training.batch_size, training.learning_rate, training.seed) == (15, 16, 0.17, 12)
        assert training.precision == "bfloat16"
        assert model.condition is None
        assert cli.main(["train", "--data", "mnist", "--data-dir", "there", "--out", "here", "--device", "cpu"]) == 0
        assert configurations[1][0].data_folder == "there"
        under = "train --data x.npy --out here --condition c.npy"
        for more, expected in (
            ("", ConditionConfig("c.npy", "learned", attention=False)),
            (" --prior standard --attention", ConditionConfig("c.npy", "standard", attention=True)),
        ):
            assert cli.main((under + more).split()) == 0
            assert configurations[-1][0].model.condition == expected

    @pytest.mark.parametrize(
        ("arguments", "kind"),
        [
            (["--data", "synthetic"], "vectors"),
            (["--data", "x.npy"], "vectors"),
            *((["--data", name], "images") for name in IMAGE_SETS),
            (["--data", "mnist", "--hidden", "64"], "vectors"),
        ],
    )
    def test_defaults_are_those_of_the_kind_of_data(
        self, configurations: list[tuple[RunConfig, Path, bool]], arguments: list[str], kind: str
    ) -> None:
        assert commands.DEFAULTS["images"] != commands.DEFAULTS["vectors"]
        names = ("steps", "batch_size", "learning_rate")
        given = [str(12 + i) for i in range(3)]
        options = [("--" + name.replace("_", "-"), value) for name, value in zip(names, given, strict=True)]
        for chosen in range(4):  # the first few on the command line, the others by default
            assert cli.main(["train", "--out", "here", *arguments, *sum(options[:chosen], ())]) == 0
            config, _, progress = configurations.pop()
            expected = [float(value) for value in given[:chosen]]
            expected += [commands.DEFAULTS[kind][name] for name in names[chosen:]]
            assert [getattr(config.training, name) for name in names] == expected
            assert (config.model.latent_dim, config.model.gamma, config.training.seed, progress) == (
                20,
                "learned",
                0,
                True,
            )
            assert config.device == ("cuda" if torch.cuda.is_available() else "cpu")

    def test_the_help_names_the_defaults(self, help_of: Callable[[str], str]) -> None:
        text = help_of("train")
        for name, vectors in commands.DEFAULTS["vectors"].items():
            images = commands.DEFAULTS["images"][name]
            assert f"default {vectors}; {images} for images that residual networks read" in text
        assert "the manifold has (default: 20)" in text
        assert "--channels CHANNELS of the residual networks; default 5, for a CVAE 32; an MLP has none" in text
        assert "of the split of a file into training and held-out samples" in text
        assert "(default: None)" not in text
        assert "(default: False)" not in text

    @pytest.mark.parametrize("kind", [".npy", ".npz"])
    @pytest.mark.parametrize(
        ("shape", "more", "defaults", "networks"),
        [
            ((1, 8, 12), [], "images", "ConvEncoder"),
            ((8, 12), [], "images", "ConvEncoder"),
            ((1, 8, 12), ["--hidden", "8"], "vectors", "MLPEncoder"),
            ((1, 8, 10), [], "vectors", "MLPEncoder"),
            ((5,), [], "vectors", "MLPEncoder"),
        ],
    )
    def test_a_users_images_have_the_defaults_of_images(
        self,
        tmp_path: Path,
        configurations: list[tuple[RunConfig, Path, bool]],
        shape: tuple[int, ...],
        more: list[str],
        defaults: str,
        networks: str,
        kind: str,
    ) -> None:
        """Where residual networks read them."""
        path, x = tmp_path / f"x{kind}", np.random.default_rng(0).random((9, *shape))
        np.save(path, x) if kind == ".npy" else np.savez(path, x)
        assert cli.main(["train", "--out", "here", "--data", str(path), *more]) == 0
        ((config, _, _),) = configurations
        expected = commands.DEFAULTS[defaults]
        assert {name: getattr(config.training, name) for name in expected} == expected
        loaded = tuple(load_file(path).train.shape[1:])
        assert type(build_model(config.model, loaded).encoder).__name__ == networks

    def test_several_models(
        self, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], no_pictures: None
    ) -> None:
        data = ["--data", str(inputs / "good.npy")]
        assert cli.main(["train", *data, "--out", str(tmp_path / "out"), "--models", "2", "--seed", "5", *SMALL]) == 0
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
        assert [one["seed"] for one in metrics["models"]] == [5, 6]
        assert "good: active dimensions of the 2 models: " in capfd.readouterr().out
        assert cli.main(["train", *data, "--out", str(tmp_path / "no"), "--models", "0", *SMALL]) == 2
        assert "models must be a positive integer, got 0" in capfd.readouterr().err

    def test_a_full_covariance_is_trained_and_printed(
        self, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], no_pictures: None
    ) -> None:
        command = ["train", "--data", str(inputs / "good.npy"), "--out", str(tmp_path), *SMALL]
        assert cli.main([*command, "--covariance", "cholesky"]) == 0
        metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["config"]["model"]["covariance"] == "cholesky"
        line = capfd.readouterr().out.splitlines()[2].split()
        assert line[2:4] == [str(metrics["active_dimensions"]), str(metrics["train"]["spectrum_count"])]
        assert cli.main(command) == 2  # a diagonal one is another run


@pytest.mark.parametrize("models", ["1", "2"])
def test_a_full_disk_is_told_and_the_command_goes_on(inputs: Path, tmp_path: Path, models: str) -> None:
    """No file may be larger than eight kilobytes."""
    command = ["train", "--data", str(inputs / "good.npy"), "--out", str(tmp_path), "--models", models, *SMALL]
    program = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
from manifold_core import cli
sys.exit(cli.main({command!r}))
"""
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert only_line(done.stderr) == (
        "manifold-core: [Errno 27] File too large; the same command resumes from the last checkpoint"
    )
    assert not list(tmp_path.rglob("*.tmp"))
    assert cli.main(command) == 0


@pytest.mark.parametrize("models", ["1", "2"])
def test_a_folder_that_is_removed_meanwhile_is_told(
    inputs: Path, tmp_path: Path, models: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    begun = batches

    def removed(*arguments: Any) -> Any:
        shutil.rmtree(tmp_path / "out")
        return begun(*arguments)

    monkeypatch.setattr("manifold_core.training.loop.batches", removed)
    half = ["--precision", "bfloat16"]  # by the training loop
    out = ["--out", str(tmp_path / "out"), "--models", models]
    assert cli.main(["train", "--data", str(inputs / "good.npy"), *out, *SMALL, *half]) == 1
    said = f"manifold-core: [Errno {errno.ESTALE}] the folder has been removed: '{tmp_path / 'out'}"
    assert only_line(capfd.readouterr().err).startswith(said)
    assert not (tmp_path / "out").exists()
