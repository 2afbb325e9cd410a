"""Exit status and message for every kind of bad input."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import ENVIRONMENT, PICTURES, RESULTS, SMALL, only_line
from runs import contents

from manifold_core import cli
from manifold_core.run import several
from manifold_core.storage import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


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
    "--prior learned": ("prior must be left out without a condition", "got 'learned'"),
    "--attention": ("attention must be left out without a condition", "got True"),
    "--condition good.npy --data synthetic": ("condition must be left out", "'synthetic'", "got 'good.npy'"),
    "--condition good.npy --data mnist": ("condition must be 'labels'", "'mnist'", "got 'good.npy'"),
    "--condition labels": ("condition 'labels'", "mnist", "path of a file"),
    "--condition nowhere.npy": ("nowhere.npy", "no such file"),
    "--condition nan.npy": ("nan.npy", "NaN", "row 7, column 2", "finite"),
    "--condition two.npy": ("two.npy", "2 conditions", "120 samples"),
    "--condition five.npy": ("five.npy", "(5, 2, 2, 2, 15)", "(N,)", "(N, t)"),
    "--condition several.npz": ("several.npz", "'a', 'b'", "one called 'c'"),
    "--data index.csv": ("index.csv", "line 1", "column 0", "index=False"),
    "--data semicolons.csv": ("semicolons.csv", "line 1", "';'", "expected commas"),
    "--data good.npy --ambient-dim 5": ("ambient_dim must be left out", "'good.npy'", "got 5"),
    "--data mnist --manifold-dim 5": ("manifold_dim must be left out", "'mnist'", "got 5"),
    "--data good.csv --data-dir small": ("data_dir must be left out", "'good.csv'", "got 'small'"),
    "--data synthetic --ambient-dim 0": ("ambient_dim", "0", "positive integer"),
    "--data synthetic --manifold-dim 0": ("manifold_dim", "0", "positive integer"),
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
    "--data two.npy": ("one sample to standardise", "held out", "at least two"),
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
        inputs_before, earlier_before = contents(inputs), contents(earlier)

        assert cli.main([*command, "--out", str(tmp_path / "out")]) == 2
        printed = capfd.readouterr()
        assert printed.out == ""
        line = only_line(printed.err)
        assert line.startswith("manifold-core: ")
        for part in BAD[arguments]:
            assert part in line
        assert contents(tmp_path) == {}

        assert cli.main([*command, "--out", str(earlier)]) == 2
        assert only_line(capfd.readouterr().err).startswith("manifold-core: ")
        assert (contents(inputs), contents(earlier)) == (inputs_before, earlier_before)

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
            (
                ["train", "--data", "x.npy", "--out", "x", "--hidden", "64", "--hidden", "32", "16"],
                ["--hidden: given more than once", "as 64 and as 32 16", "as in --hidden 64 32 16"],
            ),
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
        assert contents(tmp_path) == {}

    @pytest.mark.parametrize(
        ("command", "name"),
        [
            ("train --data good.npy --out=", "out"),
            ("dimension --data good.npy --out=", "out"),
            ("reproduce table1 --out=", "out"),
            ("report . --out=", "out"),
            ("report ", "folder"),
            ("eager ", "folder"),
            ("train --out out --data mnist --data-dir=", "folder"),
        ],
    )
    def test_an_empty_path_is_no_current_directory(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        command: str,
        name: str,
    ) -> None:
        """That of ``--out "$UNSET"``."""
        monkeypatch.chdir(tmp_path)
        assert cli.main(command.split(" ")) == 2
        line = only_line(capfd.readouterr().err)
        assert line == f"manifold-core: {name} must be the path of a folder, such as 'runs/points', got ''"
        assert contents(tmp_path) == {}

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
        assert contents(tmp_path) == {name: b"somebody's work"}

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
        before = contents(out)
        assert cli.main(["train", "--data", "good.npy", "--out", str(out), *SMALL, *more]) == 2
        line = only_line(capfd.readouterr().err)
        assert line.startswith("manifold-core: checkpoint is of another run")
        assert part in line
        assert contents(out) == before

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
        before = contents(out)
        assert cli.main(["train", "--data", "good.npy", "--out", str(out), *SMALL]) == 2
        line = only_line(capfd.readouterr().err)
        assert line.startswith("manifold-core: ")
        assert str(victim) in line
        assert "expected" in line
        assert contents(out) == before

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
        assert only_line(capfd.readouterr().err).startswith("manifold-core: stopped; the same command resumes")
        return tmp_path / "stopped"

    def test_training_that_diverges_is_status_3(
        self, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        command = ["train", "--data", str(inputs / "good.npy"), "--out", str(tmp_path), *SMALL]
        assert cli.main([*command, "--learning-rate", "1e30"]) == 3
        line = only_line(capfd.readouterr().err)
        assert line.startswith("manifold-core: training diverged: the loss is ")
        assert "learning_rate" in line
        assert not contents(tmp_path).keys() & (RESULTS | PICTURES)

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
        assert contents(tmp_path) == {}
