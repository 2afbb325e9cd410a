"""Runs that are killed, or asked to stop, in processes of their own."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from command_line import ENVIRONMENT, only_line
from runs import contents
from safetensors.torch import load_file as load_safetensors

from manifold_core import cli
from manifold_core.storage import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


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
sys.exit(cli.main())
"""
LONG = ["--data", "good.npy", "--latent-dim", "3", "--steps", "400", "--batch-size", "32", "--quiet"]
LONG += ["--hidden", "65", "--covariance", "cholesky"]  # by the training loop


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
        found, expected = contents(folder), contents(undisturbed)
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
        for _ in range(2):
            process = start()
            self.wait_for(reached + chance.randrange(1, 40), tmp_path, process)
            time.sleep(chance.random() * 0.02)  # a few steps long: anywhere within one
            process.kill()
            process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL
            assert self.step(tmp_path) >= reached
            reached = self.step(tmp_path)
        assert 2 <= reached < 400
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
        assert "the same command resumes" in err
        assert out == ""
        assert "metrics.json" not in contents(tmp_path)
        assert 20 <= self.step(tmp_path) < 400
        self.assert_goes_on_to_the_same(inputs, tmp_path, undisturbed, monkeypatch)

    def test_asked_again_and_again_it_stops_once(
        self, tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
    ) -> None:
        """Until it has ended: while the checkpoint is saved, the last line is written, and Python exits."""
        process = start()
        self.wait_for(20, tmp_path, process)
        while process.poll() is None:
            for number in (signal.SIGINT, signal.SIGTERM):
                process.send_signal(number)
            time.sleep(0.0005)
        out, err = process.communicate(timeout=60)
        assert process.returncode in (130, 143)
        assert only_line(err) == "manifold-core: stopped; the same command resumes from the last checkpoint"
        assert out == ""
        assert 20 <= self.step(tmp_path) < 400

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
