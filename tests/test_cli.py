"""The command line: what it prints and writes, its exit status for every kind of bad input, and signals."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from manifold_core.experiments.catalogue import TABLES
from manifold_core.experiments.reproduce import SETS
from manifold_core.experiments.tables import AS_PUBLISHED, BUDGETS
from safetensors.torch import load_file as load_safetensors
from torch._subclasses.fake_tensor import FakeTensorMode

import manifold_core as mc
from manifold_core import checkpoint, cli
from manifold_core.bench import suite
from manifold_core.cli import commands
from manifold_core.run import IMAGE_SETS, RunConfig, build_model, several

# One thread: tensors of these sizes gain nothing from more, and both sides of a comparison must have as many.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
SMALL = ["--latent-dim", "3", "--hidden", "8", "--steps", "30", "--batch-size", "32", "--quiet"]
RESULTS = {"metrics.json", "weights.safetensors"}
PICTURES = {"variances.png", "curves.png"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """``main`` takes over SIGTERM."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def files(folder: Path) -> dict[str, bytes]:
    """Everything below the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def idx(path: Path, *shape: int, short: int = 0) -> None:
    """An IDX file of ones that lacks its last ``short`` bytes."""
    content = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    path.write_bytes((content + b"\1" * int(np.prod(shape)))[: -short or None])


def images(folder: Path, *, train: int = 4, labels: int = 4, short: int = 0) -> None:
    """The four files of an image set."""
    folder.mkdir()
    idx(folder / "train-images-idx3-ubyte", train, 28, 28, short=short)
    idx(folder / "train-labels-idx1-ubyte", labels)
    idx(folder / "t10k-images-idx3-ubyte", 2, 28, 28)
    idx(folder / "t10k-labels-idx1-ubyte", 2)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of good and bad data files."""
    folder = tmp_path_factory.mktemp("inputs")
    x = np.random.default_rng(0).normal(size=(120, 5))
    np.save(folder / "good.npy", x)
    np.savez(folder / "good.npz", x=x, other=x[:3])
    np.savetxt(folder / "good.csv", x, delimiter=",", header="a,b,c,d,e", comments="")
    np.save(folder / "images.npy", np.random.default_rng(0).random((60, 1, 8, 8)))
    for kind in ("npy", "npz", "csv"):
        (folder / f"empty.{kind}").touch()
    for name, bad in (("nan", np.nan), ("infinity", -np.inf), ("overflow", 1e300)):
        y = x.copy()
        y[7, 2] = bad
        np.save(folder / f"{name}.npy", y)
        np.savetxt(folder / f"{name}.csv", y, delimiter=",")
    np.save(folder / "constant.npy", np.full((10, 3), 2.5))
    np.save(folder / "one.npy", x[:1])
    np.save(folder / "none.npy", x[:0])
    np.save(folder / "two.npy", x[:2])
    np.save(folder / "vector.npy", x[:, 0])
    np.save(folder / "five.npy", x.reshape(5, 2, 2, 2, 15))
    np.save(folder / "complex.npy", x * 1j)
    np.save(folder / "text.npy", np.array([["a", "b"], ["c", "d"]]))
    np.save(folder / "object.npy", np.array([[{}], [{}]], dtype=object))
    np.savez(folder / "several.npz", a=x, b=x)
    (folder / "half.npy").write_bytes((folder / "good.npy").read_bytes()[:-50])
    (folder / "half.npz").write_bytes((folder / "good.npz").read_bytes()[:-50])
    (folder / "ragged.csv").write_text("5,2\n3,4\n5\n")
    (folder / "words.csv").write_text("5,2\n3,four\n")
    (folder / "index.csv").write_text(",x,y\n0,1.5,2.5\n1,3.5,4.5\n")
    (folder / "semicolons.csv").write_text("1.5;2\n3;4\n")
    (folder / "x.txt").write_text("1 2\n")
    (folder / "folder.npy").mkdir()
    (folder / "lacking").mkdir()
    idx(folder / "lacking" / "train-images-idx3-ubyte", 4, 28, 28)
    images(folder / "mismatched", labels=3)
    images(folder / "truncated", short=9)
    images(folder / "small")
    return folder


@pytest.fixture(scope="module")
def earlier(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run."""
    folder = tmp_path_factory.mktemp("earlier")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        assert cli.main(["train", "--data", str(inputs / "good.npy"), "--out", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture
def help_of(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    def printed(command: str) -> str:
        monkeypatch.setenv("COLUMNS", "999")  # no word is broken
        with pytest.raises(SystemExit) as stop:
            cli.main([command, "--help"])
        assert stop.value.code == 0
        return " ".join(capfd.readouterr().out.split())

    return printed


def only_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


# Arguments, then what the message must name: the argument or the file, the value, and what was expected.
BAD: dict[str, tuple[str, ...]] = {
    "--seed -1": ("seed", "-1", "from 0 to 2"),
    "--seed 2147483648": ("seed", "2147483648", "from 0 to 2"),
    "--steps 0": ("steps", "0", "positive"),
    "--steps -3": ("steps", "-3", "positive"),
    "--batch-size 0": ("batch_size", "0", "positive"),
    "--learning-rate 0": ("learning_rate", "0.0", "positive"),
    "--learning-rate -0.1": ("learning_rate", "-0.1", "positive"),
    "--learning-rate nan": ("learning_rate", "nan", "finite"),
    "--learning-rate inf": ("learning_rate", "inf", "finite"),
    "--latent-dim 0": ("latent_dim", "0", "positive integer"),
    "--latent-dim -2": ("latent_dim", "-2", "positive integer"),
    "--hidden 8 0": ("hidden", "0", "positive integer"),
    "--log-gamma nan": ("log_gamma", "nan", "finite"),
    "--log-gamma inf": ("log_gamma", "inf", "finite"),
    "--data images.npy --channels 0": ("channels", "0", "positive integer"),
    "--channels 5": ("channels", "got 5", "left out", "MLP", "'good.npy'", "(5,)"),  # the default as well
    "--data images.npy --hidden 8 --channels 3": ("channels", "got 3", "left out", "hidden"),
    "--data synthetic --channels 3": ("channels", "got 3", "left out", "'synthetic'"),
    "--gamma analytic --log-gamma 0": ("log_gamma", "got 0.0", "left out", "analytic"),
    "--data index.csv": ("index.csv", "line 1", "column 0", "index=False"),
    "--data semicolons.csv": ("semicolons.csv", "line 1", "';'", "expected commas"),
    "--data synthetic --ambient-dim 0": ("ambient_dim", "0", "at least 1"),
    "--data synthetic --manifold-dim 0": ("manifold_dim", "0", "at least 1"),
    "--data synthetic --ambient-dim 6 --manifold-dim 7": ("manifold_dim", "7", "at most", "ambient_dim", "6"),
    "--device abacus": ("device", "abacus", "of this machine"),
    "--device ": ("device", "''", "of this machine"),
    "--device cuda:99": ("device", "cuda:99", "of this machine"),
    "--device meta": ("device", "meta", "of this machine"),  # tensors without numbers
    "--device hpu": ("device", "hpu", "of this machine"),  # torch looks for a module of that name
    "--data cifar": ("data", "'cifar'", "'synthetic', 'mnist', 'fashion-mnist'"),
    "--data x.txt": ("data", "'x.txt'", ".npy, .npz or .csv"),
    "--data ": ("data", "''", ".npy, .npz or .csv"),
    "--data nowhere.npy": ("nowhere.npy", "no such file"),
    "--data nowhere.csv": ("nowhere.csv", "no such file"),
    "--data folder.npy": ("folder.npy", "cannot be read"),
    "--data empty.npy": ("empty.npy", "empty"),
    "--data empty.npz": ("empty.npz", "empty"),
    "--data empty.csv": ("empty.csv", "empty"),
    "--data nan.npy": ("nan.npy", "NaN", "row 7, column 2", "finite"),
    "--data nan.csv": ("nan.csv", "NaN", "row 7, column 2", "finite"),
    "--data infinity.npy": ("infinity.npy", "infinity", "row 7, column 2", "finite"),
    "--data infinity.csv": ("infinity.csv", "infinity", "row 7, column 2", "finite"),
    "--data overflow.npy": ("overflow.npy", "too large", "row 7, column 2", "at most"),
    "--data constant.npy": ("constant.npy", "the same", "vary"),
    "--data two.npy": ("two.npy", "vary"),  # one sample to train on: it has no variance
    "--data one.npy": ("one.npy", "(1, 5)", "at least two samples"),
    "--data none.npy": ("none.npy", "(0, 5)", "at least two samples"),
    "--data vector.npy": ("vector.npy", "(120,)", "(N, d)"),
    "--data five.npy": ("five.npy", "(5, 2, 2, 2, 15)", "(N, d)"),
    "--data complex.npy": ("complex.npy", "complex128", "floating"),
    "--data text.npy": ("text.npy", "<U1", "floating"),
    "--data object.npy": ("object.npy", "without pickled objects"),
    "--data several.npz": ("several.npz", "['a', 'b']", "exactly one"),
    "--data half.npy": ("half.npy", "expected a .npy file"),
    "--data half.npz": ("half.npz", "expected a .npz file"),
    "--data ragged.csv": ("ragged.csv", "line 3", "1 fields", "expected 2"),
    "--data words.csv": ("words.csv", "line 2", "'four'", "expected a number"),
    "--data mnist --data-dir nowhere": ("folder", "'nowhere'", "no such folder"),
    "--data mnist --data-dir lacking": ("folder", "'lacking'", "expected the files of mnist", "t10k-images"),
    "--data fashion-mnist --data-dir lacking": ("'lacking'", "expected the files of fashion-mnist", "train-labels"),
    "--data mnist --data-dir mismatched": ("mismatched", "(3,)", "(4,)", "one label for each image"),
    "--data mnist --data-dir truncated": ("truncated", "3127", "3136"),
}


class TestBadInput:
    @pytest.mark.parametrize("arguments", BAD)
    def test_is_named_in_one_line_and_nothing_is_written(
        self,
        inputs: Path,
        earlier: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        arguments: str,
    ) -> None:
        monkeypatch.chdir(inputs)
        given = arguments.split(" ")
        if "--data" not in given:
            given += ["--data", "good.npy"]
        command = ["train", "--steps", "2", "--quiet", *given]
        inputs_before, earlier_before = files(inputs), files(earlier)

        assert cli.main([*command, "--out", str(tmp_path / "out")]) == 2
        printed = capfd.readouterr()
        assert printed.out == ""
        line = only_line(printed.err)
        assert line.startswith("manifold-core: ")
        for part in BAD[arguments]:
            assert part in line
        assert files(tmp_path) == {}

        assert cli.main([*command, "--out", str(earlier)]) == 2
        assert only_line(capfd.readouterr().err).startswith("manifold-core: ")
        assert (files(inputs), files(earlier)) == (inputs_before, earlier_before)

    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            (["train", "--data", "x.npy"], ["--out"]),
            (["train", "--out", "x"], ["--data"]),
            (["train", "--data", "x.npy", "--out", "x", "--steps", "many"], ["--steps", "many"]),
            (["train", "--data", "x.npy", "--out", "x", "--steps", "1.5"], ["--steps", "1.5"]),
            (["train", "--data", "x.npy", "--out", "x", "--latent-dim", "two"], ["--latent-dim", "two"]),
            (["train", "--data", "x.npy", "--out", "x", "--learning-rate", "fast"], ["--learning-rate", "fast"]),
            (["train", "--data", "x.npy", "--out", "x", "--gamma", "zero"], ["--gamma", "zero", "analytic"]),
            (["train", "--data", "x.npy", "--out", "x", "--hidden"], ["--hidden"]),
            (["train", "--data", "x.npy", "--out", "x", "--colour", "red"], ["--colour"]),
            (["fly"], ["fly", "train"]),
            ([], ["command"]),
        ],
    )
    def test_arguments_that_cannot_be_parsed(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        arguments: list[str],
        parts: list[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 2
        printed = capfd.readouterr()
        message = printed.err.splitlines()[-1]
        assert message.startswith("manifold-core")
        assert all(part in message for part in parts)
        assert printed.out == ""
        assert files(tmp_path) == {}

    def test_a_folder_that_cannot_be_written_to(
        self, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Paths that not even root can make a folder of, to whom permissions mean nothing."""
        (tmp_path / "file").write_text("somebody's work")
        (tmp_path / "loop").symlink_to("loop")
        for out in ("file", "file/below", "loop", "loop/below", "long" * 100):
            status = cli.main(["train", "--data", str(inputs / "good.npy"), "--out", str(tmp_path / out), *SMALL])
            assert status == 2
            line = only_line(capfd.readouterr().err)
            assert line.startswith("manifold-core: out must be a folder that can be written to, got ")
            assert str(tmp_path / out) in line
        assert (tmp_path / "file").read_text() == "somebody's work"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every folder")
    def test_a_folder_without_permission(self, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        tmp_path.chmod(0o500)
        try:
            status = cli.main(["train", "--data", str(inputs / "good.npy"), "--out", str(tmp_path), *SMALL])
        finally:
            tmp_path.chmod(0o700)
        assert status == 2
        assert "out must be a folder that can be written to" in only_line(capfd.readouterr().err)

    @pytest.mark.parametrize("name", ["metrics.json", "checkpoint.json", "weights.safetensors", "variances.png"])
    def test_a_folder_of_somebody_else(
        self, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
    ) -> None:
        (tmp_path / name).write_text("somebody's work")
        assert cli.main(["train", "--data", str(inputs / "good.npy"), "--out", str(tmp_path), *SMALL]) == 2
        assert str(tmp_path / name) in only_line(capfd.readouterr().err)
        assert files(tmp_path) == {name: b"somebody's work"}

    @pytest.mark.parametrize(
        ("more", "part"),
        [
            (["--seed", "1"], "training"),
            (["--latent-dim", "4"], "latent_dim"),
            (["--gamma", "analytic"], "gamma"),
            (["--data", "images.npy"], "its data is"),
        ],
    )
    def test_a_checkpoint_of_another_run(
        self, stopped: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str], part: str
    ) -> None:
        out = shutil.copytree(stopped, tmp_path / "out")
        before = files(out)
        assert cli.main(["train", "--data", "good.npy", "--out", str(out), *SMALL, *more]) == 2
        line = only_line(capfd.readouterr().err)
        assert line.startswith("manifold-core: checkpoint is of another run")
        assert part in line
        assert files(out) == before

    @pytest.mark.parametrize("damage", ["no tensors", "half the tensors", "half the index"])
    def test_half_a_checkpoint(
        self, stopped: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: str
    ) -> None:
        out = shutil.copytree(stopped, tmp_path / "out")
        (victim,) = (out / several.FOLDER).glob("checkpoint.json" if "index" in damage else "checkpoint-*.safetensors")
        if damage == "no tensors":
            victim.unlink()
        else:
            victim.write_bytes(victim.read_bytes()[:300])
        before = files(out)
        assert cli.main(["train", "--data", "good.npy", "--out", str(out), *SMALL]) == 2
        line = only_line(capfd.readouterr().err)
        assert line.startswith("manifold-core: ")
        assert str(victim) in line
        assert "expected" in line
        assert files(out) == before

    @pytest.fixture
    def stopped(
        self, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> Path:
        """Folder of a run that was stopped when it had saved what it trained."""
        save = checkpoint.save

        def stop(folder: Path, step: int, *content: Any) -> None:
            save(folder, step, *content)
            if step:
                raise KeyboardInterrupt

        monkeypatch.chdir(inputs)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save", stop)
            assert cli.main(["train", "--data", "good.npy", "--out", str(tmp_path / "stopped"), *SMALL]) == 130
        assert only_line(capfd.readouterr().err).startswith("manifold-core: stopped; the same command goes on")
        return tmp_path / "stopped"

    def test_training_that_diverges_is_status_3(
        self, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        command = ["train", "--data", str(inputs / "good.npy"), "--out", str(tmp_path), *SMALL]
        assert cli.main([*command, "--learning-rate", "1e30"]) == 3
        line = only_line(capfd.readouterr().err)
        assert line.startswith("manifold-core: training diverged: the loss is ")
        assert "learning_rate" in line
        assert not files(tmp_path).keys() & (RESULTS | PICTURES)

    def test_another_process_sees_the_status_and_no_traceback(self, inputs: Path, tmp_path: Path) -> None:
        """What ``main`` returns is the exit status."""
        done = subprocess.run(
            [sys.executable, "-m", "manifold_core.cli", "train", "--data", "nan.npy", "--out", str(tmp_path), *SMALL],
            cwd=inputs,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert only_line(done.stderr).startswith("manifold-core: nan.npy: NaN")
        assert done.stdout == ""
        assert files(tmp_path) == {}


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
        assert files(out).keys() == RESULTS | PICTURES
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
        assert "no pictures: matplotlib is missing; pip install 'manifold-core[experiments]'" in printed.out
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
        assert files(tmp_path / "out").keys() == RESULTS

    def test_a_finished_run_is_printed_again(
        self, inputs: Path, earlier: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = files(earlier)
        for training in ("train", "train_several"):
            monkeypatch.setattr(f"manifold_core.run.runner.{training}", None)
        assert cli.main(["train", "--data", str(inputs / "good.npy"), "--out", str(earlier), *SMALL]) == 0
        assert cli.table([json.loads(before["metrics.json"])]) in capfd.readouterr().out
        assert files(earlier) == before

    def test_a_changed_file_is_not_a_finished_run(
        self, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], no_pictures: None
    ) -> None:
        path, out = tmp_path / "points.npy", tmp_path / "out"
        command = ["train", "--data", str(path), "--out", str(out), *SMALL]
        np.save(path, np.load(inputs / "good.npy"))
        assert cli.main(command) == 0
        before = files(out)
        capfd.readouterr()
        np.save(path, np.load(inputs / "good.npy")[::-1])
        assert cli.main(command) == 2
        printed = capfd.readouterr()
        assert f"{str(out)!r} holds a finished run of other data than {str(path)!r} holds now" in only_line(printed.err)
        assert printed.out == ""
        assert files(out) == before

    def test_another_seed_is_another_run(
        self, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], no_pictures: None
    ) -> None:
        for seed in ("0", "1"):
            out = str(tmp_path / seed)
            command = ["train", "--data", str(inputs / "good.npy"), "--out", out, *SMALL, "--seed", seed]
            assert cli.main(command) == 0
        assert files(tmp_path)["0/weights.safetensors"] != files(tmp_path)["1/weights.safetensors"]

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
        command += " --data-dir there --steps 15 --batch-size 16 --learning-rate 0.17 --hidden 18 19 --channels 20"
        command += " --gamma fixed --log-gamma -2.1 --covariance cholesky --device cpu --quiet --precision bfloat16"
        assert cli.main(command.split()) == 0
        ((config, folder, progress),) = configurations
        assert (folder, progress) == (Path("here"), False)
        model, training = config.model, config.training
        assert (config.data, config.data_folder, config.device) == ("synthetic", "there", "cpu")
        assert (config.ambient_dim, config.manifold_dim) == (13, 7)
        assert (model.latent_dim, model.hidden, model.channels) == (11, (18, 19), 20)
        assert (model.gamma, model.log_gamma, model.covariance) == ("fixed", -2.1, "cholesky")
        assert (training.steps, training.batch_size, training.learning_rate, training.seed) == (15, 16, 0.17, 12)
        assert training.precision == "bfloat16"

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
            assert f"default {vectors}; {images} for mnist and fashion-mnist without --hidden" in text
        assert "the manifold's (default: 20)" in text
        assert "--channels CHANNELS of the residual networks, default 5; an MLP has none" in text
        assert "of the split of a file into training and held-out samples" in text
        assert "(default: None)" not in text
        assert "(default: False)" not in text

    def test_a_users_images_have_the_defaults_of_vectors(
        self, inputs: Path, configurations: list[tuple[RunConfig, Path, bool]]
    ) -> None:
        """As the help says, though they are trained with residual networks."""
        assert cli.main(["train", "--out", "here", "--data", str(inputs / "images.npy")]) == 0
        ((config, _, _),) = configurations
        defaults = commands.DEFAULTS["vectors"]
        assert {name: getattr(config.training, name) for name in defaults} == defaults
        for shape, networks in (((1, 8, 12), "ConvEncoder"), ((1, 8, 10), "MLPEncoder"), ((5,), "MLPEncoder")):
            assert type(build_model(config.model, shape).encoder).__name__ == networks

    def test_the_table_holds_the_numbers(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        head, _, first, second = cli.table([metrics, metrics | {"manifold_dim": 6}]).splitlines()[:4]
        assert len(head) == len(first) == len(second)
        columns = ["data", "r", "active", "of", "gap", "-ELBO", "recon", "KL", "gamma", "held-out"]
        assert head.replace("held-out -ELBO", "held-out").split() == columns
        shown = dict(zip(columns, first.split(), strict=True))
        measured = metrics["train"]
        assert (shown["data"], shown["r"], shown["of"]) == ("good", "?", "3")
        assert shown["active"] == str(metrics["active_dimensions"])
        wanted = {"-ELBO": "neg_elbo", "recon": "recon", "KL": "kl", "gamma": "gamma"}
        for column, name in wanted.items():
            assert float(shown[column]) == pytest.approx(measured[name], rel=5e-3, abs=1e-3)
        assert float(shown["held-out"]) == pytest.approx(metrics["validation"]["neg_elbo"], rel=5e-3)
        assert second.split()[1] == "6"
        for gap, printed in ((None, "-"), (123.4, "123")):
            line = cli.table([metrics | {"train": measured | {"gap": gap}}]).splitlines()[2]
            assert dict(zip(columns, line.split(), strict=True))["gap"] == printed

    def test_the_table_says_why_there_is_no_gap(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        there = metrics | {"train": metrics["train"] | {"gap": 123.4}}
        none, every = (metrics | {"train": metrics["train"] | {"gap": None}, "active_dimensions": n} for n in (0, 3))
        rest = cli.table([there]).splitlines()[4:]
        assert all("no gap" not in line for line in rest)
        notes = [line for line in cli.table([none, there, every]).splitlines() if "no gap" in line]
        assert ["train longer, with more --steps" in line for line in notes] == [True, False]
        assert ["all 3 dimensions are active" in line and "raise --latent-dim" in line for line in notes] == [
            False,
            True,
        ]

    def test_the_table_says_that_a_training_blew_up(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        first = metrics["history"]["neg_elbo"][0]
        for last, higher in ((first + 1, True), (first, False), (first - 1, False)):
            lines = cli.table([metrics | {"train": metrics["train"] | {"neg_elbo": last}}]).splitlines()
            notes = [line for line in lines if line.startswith("good ends at a higher -ELBO")]
            assert [f"{last:.4g} after {first:.4g}" in line and "--learning-rate" in line for line in notes] == (
                [True] if higher else []
            )

    def test_the_table_says_what_several_models_read(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        one = {"active_dimensions": 2, "spectrum_count": 3, "diverged_at": None}
        several = metrics | {"seed": 7, "models": [one, one | {"diverged_at": 12}, one | {"active_dimensions": 1}]}
        model = metrics["config"]["model"]
        full = several | {"config": metrics["config"] | {"model": model | {"covariance": "cholesky"}}}
        for of, counts in ((several, "2, diverged, 1"), (full, "3, diverged, 3")):
            (note,) = (line for line in cli.table([of]).splitlines() if " models: " in line)
            assert note == (
                f"good is read by 3 models: {counts}; above is that of seed 7, which has the lowest held-out -ELBO"
            )
        assert " models: " not in cli.table([metrics])

    def test_the_table_says_where_nearest_neighbours_see_fewer_dimensions(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        measured = metrics["train"] | {"active_dimensions": 7, "spectrum_count": 14}
        model = metrics["config"]["model"]
        for covariance, two_nn, count in (
            ("diagonal", 4.9, 7),
            ("diagonal", 5.1, None),
            ("cholesky", 9.9, 14),
            ("cholesky", 10.1, None),
            ("diagonal", None, None),
        ):
            config = metrics["config"] | {"model": model | {"covariance": covariance}}
            lines = cli.table([metrics | {"train": measured, "two_nn": two_nn, "config": config}]).splitlines()
            notes = [line for line in lines if "TwoNN" in line]
            assert [f"see {two_nn} dim" in line and f"fewer than {count}," in line for line in notes] == (
                [] if count is None else [True]
            )
        older = {name: value for name, value in metrics.items() if name != "two_nn"}
        assert "TwoNN" not in cli.table([older])

    def test_several_models(
        self, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], no_pictures: None
    ) -> None:
        data = ["--data", str(inputs / "good.npy")]
        assert cli.main(["train", *data, "--out", str(tmp_path / "out"), "--models", "2", "--seed", "5", *SMALL]) == 0
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
        assert [one["seed"] for one in metrics["models"]] == [5, 6]
        assert "good is read by 2 models: " in capfd.readouterr().out
        assert cli.main(["train", *data, "--out", str(tmp_path / "no"), "--models", "0", *SMALL]) == 2
        assert "models must be a positive integer, got 0" in capfd.readouterr().err

    def test_long_names_and_shapes_of_images_stand_in_columns(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        long = metrics | {"data": "a_name_of_more_than_twenty_letters"}
        photographs = metrics | {"data": "photographs", "sample_shape": [28, 30, 3]}
        for runs in ([long, metrics], [long, metrics, photographs]):
            head, rule, *lines = cli.table(runs).splitlines()[: 2 + len(runs)]
            assert {len(line) for line in (rule, *lines)} == {len(head)}
            assert [line.index("?") for line in lines] == [head.index(" r ") + 1] * len(runs)
        assert [line.split()[1] for line in (head, *lines)] == ["C×H×W", "-", "-", "28×30×3"]

    def test_columns_never_touch(self, earlier: Path) -> None:
        """Numbers may be longer than any that were thought of; head and rule go with them."""
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        numbers = {"gap": None, "neg_elbo": -1000018.484, "recon": 1e-100, "kl": 12345678.125, "gamma": -1.23e-300}
        long = metrics | {"sample_shape": [1000, 10000, 100000], "latent_dim": 10**7, "manifold_dim": 10**7}
        long |= {"active_dimensions": 10**9, "validation": metrics["validation"] | {"neg_elbo": -(2.0**60)}}
        long |= {"train": metrics["train"] | numbers | {"spectrum_count": 10**20}}
        long["config"] = {"model": {"covariance": "cholesky"}}
        head, rule, one, other = cli.table([long, metrics]).splitlines()[:4]
        assert len(head) == len(rule) == len(one) == len(other)
        assert one.split() == [
            *("good", "1000×10000×100000", str(10**7), str(10**9), str(10**20), str(10**7), "-", "-1000018.484"),
            *("1e-100", "12345678.125", "-1.23e-300", f"-{2**60}.000"),
        ]

    def test_the_table_says_what_its_units_are(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        kept = metrics["standardisation"]
        five = cli.table([metrics | {"standardisation": kept | {"scale": 10.0}}]).splitlines()
        assert five[-1] == (
            "good was measured as (x - mean) / 10; in the units of the data recon and gamma are 100 times as large, "
            "-ELBO is greater by 11.51"  # five times log 10
        )
        as_it_is = metrics | {"standardisation": kept | {"scale": 1.0}}
        assert cli.table([as_it_is]).splitlines() == five[:-1]

    def test_the_table_has_both_counts_of_a_full_covariance(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        model = metrics["config"]["model"]
        rotated = metrics | {
            "active_dimensions": 1,
            "train": metrics["train"] | {"spectrum_count": 2},
            "config": metrics["config"] | {"model": model | {"covariance": "cholesky"}},
        }
        older = metrics | {"config": {"model": {k: v for k, v in model.items() if k != "covariance"}}}
        head, rule, *lines = cli.table([rotated, metrics, older]).splitlines()[:5]
        assert {len(line) for line in (rule, *lines)} == {len(head)}
        assert head.replace("by eigenvalue", "eigenvalue").split()[2:5] == ["active", "eigenvalue", "of"]
        assert [line.split()[2:5] for line in lines] == [
            ["1", "2", "3"],
            *2 * [[str(metrics["active_dimensions"]), "-", "3"]],
        ]
        assert "eigenvalue" not in cli.table([metrics, older])

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


class TestReproduce:
    def test_the_help_names_every_budget_and_set(self, help_of: Callable[[str], str]) -> None:
        text = help_of("reproduce")
        assert f"--budget {{{','.join(BUDGETS)}}} steps, samples, and models a cell (default: quick)" in text
        assert "--backend {auto,reference,cpu,cuda} " in text
        assert f" {', '.join(TABLES)}; {', '.join(SETS).rpartition(', ')[0]}" in text
        assert f"{' or '.join(', '.join(SETS).rsplit(', ', 1))} for all such" in text
        seeds = {count: " or ".join(name for name, plan in BUDGETS.items() if plan.seeds == count) for count in (1, 5)}
        assert f"default: 1 {seeds[1]}, 5 {seeds[5]}" in text
        assert f"results go into DIR/{AS_PUBLISHED}" in text


class TestBench:
    def test_the_help_names_every_comparison(self, help_of: Callable[[str], str]) -> None:
        text = help_of("bench")
        main, (images, *growth) = ([one.name for one in group] for group in (suite.MAIN, suite.FURTHER))
        assert f"{', '.join(main)}: these where none is named; {images}; {', '.join(growth)}, or growth" in text


class TestPipes:
    @staticmethod
    def closed(command: list[str], inputs: Path, *, errors_as_well: bool) -> "subprocess.CompletedProcess[str]":
        """What the command does where nobody reads what it prints, as after `| head`, which has ended."""
        read, write = os.pipe()
        os.close(read)
        try:
            return subprocess.run(
                [sys.executable, "-m", "manifold_core.cli", *command],
                cwd=inputs,
                env={name: value for name, value in ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"},
                stdout=write,
                stderr=write if errors_as_well else subprocess.PIPE,
                text=True,
            )
        finally:
            os.close(write)

    @pytest.mark.parametrize("command", ["info", "train --help", "--version"])
    def test_nobody_reads_on(self, inputs: Path, command: str) -> None:
        done = self.closed(command.split(), inputs, errors_as_well=False)
        assert (done.returncode, done.stderr) == (141, "")

    def test_nobody_reads_the_table(self, inputs: Path, tmp_path: Path) -> None:
        command = ["train", "--data", "good.npy", "--out", str(tmp_path), *SMALL]
        done = self.closed(command, inputs, errors_as_well=False)
        assert (done.returncode, done.stderr) == (141, "")
        assert files(tmp_path).keys() >= RESULTS

    def test_nobody_reads_the_progress_bar(self, inputs: Path, tmp_path: Path) -> None:
        command = ["train", "--data", "good.npy", "--out", str(tmp_path), *SMALL[:-1]]
        assert self.closed(command, inputs, errors_as_well=True).returncode == 141

    @pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
    def test_closed_streams(self, inputs: Path, tmp_path: Path, closing: str) -> None:
        """What would be said there goes nowhere, and not to the other stream."""
        train = shlex.join(["train", "--data", "good.npy", "--out", str(tmp_path), *SMALL[:-1]])
        for command in ("info", train):
            shell = f"{shlex.quote(sys.executable)} -m manifold_core.cli {command} {closing}"
            done = subprocess.run(shell, shell=True, cwd=inputs, env=ENVIRONMENT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert "Traceback" not in done.stderr
            assert "neg_elbo=" not in done.stdout  # of the bar
        assert files(tmp_path).keys() >= RESULTS


class TestInfo:
    def test_in_another_process(self) -> None:
        environment = {name: value for name, value in ENVIRONMENT.items() if name != "MANIFOLD_CORE_DATA"}
        done = subprocess.run(
            [sys.executable, "-m", "manifold_core.cli", "info"], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert re.search(rf"^manifold-core +{re.escape(mc.__version__)}$", done.stdout, re.MULTILINE)
        assert re.search(rf"^torch +{re.escape(torch.__version__)}, 1 threads$", done.stdout, re.MULTILINE)
        assert re.search(r"^compiled module (built by .+ for torch >= \d+\.\d+|none: .+)$", done.stdout, re.MULTILINE)
        assert re.search(r"^backend \(CPU\) +(cpu|reference): .+$", done.stdout, re.MULTILINE)
        for name in IMAGE_SETS:
            assert re.search(rf"^{name} +\S+", done.stdout, re.MULTILINE)

    def test_without_the_compiled_module_it_says_why(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for module in ("manifold_core.cli.commands", "manifold_core.kernels.extension"):
            monkeypatch.setattr(f"{module}.compiled", None)
            monkeypatch.setattr(f"{module}.missing_because", "it rained")
        assert cli.main(["info"]) == 0
        printed = capfd.readouterr().out
        assert "compiled module none: it rained\n" in printed
        assert re.search(r"^backend \(CPU\) +reference: it rained$", printed, re.MULTILINE)

    def test_on_a_gpu_it_says_what_serves_it(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        a100 = SimpleNamespace(name="A100", major=8, minor=0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: a100)
        for missing, served in (
            ("", "cuda: compiled kernels for CUDA tensors"),
            ("it rained", "triton: Triton's kernels for CUDA tensors: it rained"),
        ):
            for module in ("manifold_core.cli.commands", "manifold_core.kernels.extension"):
                monkeypatch.setattr(f"{module}.cuda_missing_because", missing)
            monkeypatch.setattr("manifold_core.kernels.dispatch.TRITON_INSTALLED", True)
            with FakeTensorMode():
                assert cli.main(["info"]) == 0
            printed = capfd.readouterr().out
            assert re.search(rf"^CUDA kernels +{missing or 'loaded'}$", printed, re.MULTILINE)
            assert re.search(rf"^backend \(GPU\) +{re.escape(served)}$", printed, re.MULTILINE)

    def test_it_finds_the_data(
        self, inputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MANIFOLD_CORE_DATA", str(inputs / "small"))
        assert cli.main(["info"]) == 0
        assert re.search(rf"^mnist +{re.escape(str(inputs / 'small'))}$", capfd.readouterr().out, re.MULTILINE)
        monkeypatch.setenv("MANIFOLD_CORE_DATA", str(inputs / "nowhere"))
        assert cli.main(["info"]) == 0
        printed = capfd.readouterr()
        for name in IMAGE_SETS:
            said = rf"^{name} +MANIFOLD_CORE_DATA={re.escape(str(inputs / 'nowhere'))}: no such folder$"
            assert re.search(said, printed.out, re.MULTILINE)
        assert printed.err == ""

    def test_version(self, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            cli.main(["--version"])
        assert stop.value.code == 0
        assert capfd.readouterr().out == f"manifold-core {mc.__version__}\n"


# The command line, with a checkpoint at every step instead of every ten seconds.
EVERY_STEP = """
import signal, sys
from functools import partial
import manifold_core.run.runner
from manifold_core import cli, training

sys.modules["matplotlib"] = None
# A shell that runs the tests in the background lets them, and all below them, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
manifold_core.run.runner.train = partial(training.train, checkpoint_seconds=0.0)
sys.exit(cli.main(sys.argv[1:]))
"""
LONG = [*SMALL, "--steps", "400", "--data", "good.npy", "--covariance", "cholesky"]  # by the training loop


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        patch.chdir(inputs)
        assert cli.main(["train", *LONG, "--out", str(folder)]) == 0
    return folder


class TestSignals:
    @pytest.fixture
    def start(self, inputs: Path, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
        started = []

        def begin(*more: str) -> "subprocess.Popen[str]":
            command = [sys.executable, "-c", EVERY_STEP, "train", *LONG, "--out", str(tmp_path), *more]
            process = subprocess.Popen(
                command, cwd=inputs, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            started.append(process)
            return process

        yield begin
        for process in started:
            process.kill()
            process.communicate(timeout=60)

    @staticmethod
    def step(folder: Path) -> int:
        """Of the checkpoint, which must be whole."""
        found = checkpoint.load(folder)
        assert found is not None
        return int(found.state["step"])

    @staticmethod
    def wait_for(step: int, folder: Path, process: "subprocess.Popen[str]") -> None:
        """Reads the index alone: by the time one comes to the tensors, the next save may have replaced them."""
        while process.poll() is None:
            index = folder / checkpoint.INDEX
            if index.exists() and json.loads(index.read_text(encoding="utf-8"))["state"]["step"] >= step:
                return
            time.sleep(0.002)
        pytest.fail(f"the run ended before step {step}: {process.communicate(timeout=60)}")

    def assert_goes_on_to_the_same(
        self, inputs: Path, folder: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(inputs)
        assert cli.main(["train", *LONG, "--out", str(folder)]) == 0
        found, expected = files(folder), files(undisturbed)
        assert found["weights.safetensors"] == expected["weights.safetensors"]
        metrics, wanted = (json.loads(content["metrics.json"]) for content in (found, expected))
        del metrics["history"]["seconds"], wanted["history"]["seconds"]
        assert metrics == wanted
        assert not [name for name in found if "checkpoint" in name]

    def test_killed_again_and_again(
        self,
        inputs: Path,
        tmp_path: Path,
        undisturbed: Path,
        start: Callable[..., "subprocess.Popen[str]"],
        monkeypatch: pytest.MonkeyPatch,
        no_pictures: None,
    ) -> None:
        """``kill -9``, at moments that are not the same on any two machines."""
        chance = random.Random(0)
        reached = 0
        for _ in range(4):
            process = start()
            self.wait_for(reached + chance.randrange(1, 40), tmp_path, process)
            time.sleep(chance.random() * 0.02)  # a few steps long: anywhere within one
            process.kill()
            process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL
            assert self.step(tmp_path) >= reached
            reached = self.step(tmp_path)
        assert 4 <= reached < 400
        self.assert_goes_on_to_the_same(inputs, tmp_path, undisturbed, monkeypatch)

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_asked_to_stop(
        self,
        inputs: Path,
        tmp_path: Path,
        undisturbed: Path,
        start: Callable[..., "subprocess.Popen[str]"],
        monkeypatch: pytest.MonkeyPatch,
        no_pictures: None,
        number: signal.Signals,
        status: int,
    ) -> None:
        process = start()
        self.wait_for(20, tmp_path, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == status
        assert only_line(err).startswith("manifold-core: ")
        assert "the same command goes on" in err
        assert out == ""
        assert "metrics.json" not in files(tmp_path)
        assert 20 <= self.step(tmp_path) < 400
        self.assert_goes_on_to_the_same(inputs, tmp_path, undisturbed, monkeypatch)

    def test_the_weights_are_those_of_a_run_without_checkpoints(
        self, inputs: Path, undisturbed: Path, start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
    ) -> None:
        """And of another process."""
        process = start()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        found, expected = (load_safetensors(folder / "weights.safetensors") for folder in (tmp_path, undisturbed))
        for name, tensor in found.items():
            assert torch.equal(tensor, expected[name]), name
