"""Runs that are stopped or killed go on to the same numbers."""

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from manifold_core.kernels import Choice
from runs import (
    STEPS,
    Stopped,
    configuration,
    contents,
    metrics_of,
    save_every_step,
    steps_of_saves,
    stop_after,
    timeless,
)
from torch.autograd import forward_ad

import manifold_core as mc
from manifold_core.ensemble.train import _run
from manifold_core.run import RunConfig, run, several
from manifold_core.storage import checkpoint
from manifold_core.training import train

pytestmark = pytest.mark.usefixtures("one_thread")


# Ends a process at the moment when a file of results gets its name, and runs again; for one file after the other.
KILLED_AT_RESULTS = """
import json, os, sys
from manifold_core.run import ModelConfig, RunConfig, run
from manifold_core import TrainingConfig

sys.modules["matplotlib"] = None
data, folder = sys.argv[1:]
config = RunConfig(data, ModelConfig(2, (4,)), TrainingConfig(steps=2, batch_size=8))
for name in ("weights.safetensors", "metrics.json"):
    out = os.path.join(folder, name)
    if (process := os.fork()) == 0:
        def kill(event, arguments):
            if event == "os.rename" and os.fspath(arguments[1]).endswith(name):
                os._exit(9)
        sys.addaudithook(kill)
        run(config, out, progress=False)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    killed = sorted(os.listdir(out))
    run(config, out, progress=False)
    print(json.dumps([status, killed, sorted(os.listdir(out))]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork to end processes with")
def test_a_run_killed_while_it_writes_its_results_leaves_nothing_behind(data: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_RESULTS, str(data / "vectors.npy"), str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # a fork among threads could hang
    )
    assert done.returncode == 0, done.stderr
    for line, written in zip(done.stdout.splitlines(), (set(), {"weights.safetensors"}), strict=True):
        status, killed, finally_there = json.loads(line)
        assert status == 9
        assert not {"metrics.json", "weights.safetensors"} & set(killed) - written
        assert checkpoint.INDEX in killed
        assert finally_there == ["metrics.json", "weights.safetensors"]


def assert_same_run(folder: Path, undisturbed: Path) -> None:
    assert contents(folder).keys() == contents(undisturbed).keys()
    assert contents(folder)["weights.safetensors"] == contents(undisturbed)["weights.safetensors"]
    assert timeless(metrics_of(folder)) == timeless(metrics_of(undisturbed))


class TestResumption:
    @pytest.mark.parametrize("steps", [1, 7, STEPS - 1])
    @pytest.mark.parametrize("kind", ["vectors", "images", "analytic"])
    def test_a_stopped_run_goes_on_to_the_same_numbers(
        self,
        data: Path,
        tmp_path: Path,
        finished: dict[str, Path],
        monkeypatch: pytest.MonkeyPatch,
        no_pictures: None,
        kind: str,
        steps: int,
    ) -> None:
        config = configuration(data, kind)
        stop_after(monkeypatch, steps, config, tmp_path)
        torch.manual_seed(steps)  # what the global generator holds plays no part
        save_every_step(monkeypatch)
        saved = steps_of_saves(monkeypatch)
        run(config, tmp_path, progress=False)
        assert saved == [*range(steps + 1, STEPS + 1), STEPS]  # it went on, and did not begin again
        assert_same_run(tmp_path, finished[kind])

    @pytest.mark.parametrize("kind", ["vectors", "images"])
    def test_stops_at_any_moment_and_again_and_again(
        self,
        data: Path,
        tmp_path: Path,
        finished: dict[str, Path],
        monkeypatch: pytest.MonkeyPatch,
        no_pictures: None,
        kind: str,
    ) -> None:
        """In the middle of a step, of a save, of the evaluation: at whatever call of a Python function the n-th is."""
        config = configuration(data, kind)
        whole = Calls()
        assert not whole.stop(monkeypatch, config, tmp_path / "whole")
        chance = random.Random(kind)
        stops = 0
        # Later and later: between two checkpoints there can be any number of calls.
        while Calls(chance.randrange(1, whole.seen * (stops + 8) // 32)).stop(monkeypatch, config, tmp_path / "run"):
            stops += 1
            assert stops < 200
            out_of_torchs_contexts()
        assert stops > 4
        assert_same_run(tmp_path / "run", finished[kind])

    @pytest.mark.parametrize("kind", ["vectors", "images"])
    @pytest.mark.parametrize("place", ["metrics_of", "_draw", "write_json", "checkpoint.save_tensors"])
    def test_a_stop_after_the_training(
        self,
        data: Path,
        tmp_path: Path,
        finished: dict[str, Path],
        monkeypatch: pytest.MonkeyPatch,
        no_pictures: None,
        kind: str,
        place: str,
    ) -> None:
        def stop(*_: Any, **__: Any) -> None:
            raise Stopped

        def then_stop(training: Callable[..., Any]) -> Callable[..., Any]:
            def trained(*arguments: Any, **more: Any) -> Any:
                history = training(*arguments, **more)
                patch.setattr(f"manifold_core.run.results.{place}", stop)
                return history

            return trained

        config = configuration(data, kind)
        with monkeypatch.context() as patch:
            patch.setattr("manifold_core.run.runner.train", then_stop(train))
            patch.setattr("manifold_core.run.runner.train_several", then_stop(several.train_several))
            with pytest.raises(Stopped):
                run(config, tmp_path, progress=False)
        assert "metrics.json" not in contents(tmp_path)
        run(config, tmp_path, progress=False)
        assert_same_run(tmp_path, finished[kind])


def out_of_torchs_contexts() -> None:
    """Those that a stop on their own way in or out leaves open. Ctrl-C ends the process."""
    torch.set_grad_enabled(True)
    forward_ad._current_level = -1
    with suppress(RuntimeError):  # if none is open
        torch._C._exit_dual_level(level=0)


class Calls:
    """Counts the calls of Python functions from the beginning of the training on, and stops the run at the n-th.

    Where Python takes an exception for no more than a warning, as in destructors, in what the garbage collector and
    weak references call and in generators that are thrown away, the stop falls on the first call after it.
    """

    def __init__(self, n: float = math.inf) -> None:
        self.n = n
        self.seen = 0

    def stop(self, monkeypatch: pytest.MonkeyPatch, config: RunConfig, folder: Path) -> bool:
        """Whether the run was stopped, and did not end before."""
        with monkeypatch.context() as patch:
            save_every_step(patch)
            patch.setattr("manifold_core.run.runner.train", self.counted(partial(train, checkpoint_seconds=0.0)))
            # Not what comes before: torch.device("meta") does not stand a stop on its way in or out.
            patch.setattr("manifold_core.ensemble.train._run", self.counted(_run))
            patch.setattr("sys.unraisablehook", partial(self.ignored, sys.unraisablehook))
            try:
                run(config, folder, progress=False)
            except Stopped:
                return True
            finally:
                sys.setprofile(None)
        return False

    def counted(self, training: Callable[..., Any]) -> Callable[..., Any]:
        def begin(*arguments: Any, **more: Any) -> Any:
            sys.setprofile(self.count)
            return training(*arguments, **more)

        return begin

    def count(self, frame: FrameType, event: str, _: Any) -> None:
        self.seen += event == "call"
        if event == "call" and self.seen >= self.n:
            sys.setprofile(None)
            raise Stopped

    def ignored(self, others: Callable[[Any], None], exception: Any) -> None:
        if exception.exc_type is Stopped:
            sys.setprofile(self.count)
        else:
            others(exception)


class TestHowItBegan:
    """By the training loop, as torchrun has it, or by the engine, as one process does: so it goes on."""

    @staticmethod
    def by_the_loop(patch: pytest.MonkeyPatch) -> None:
        patch.setattr("manifold_core.run.runner.explain_ensemble", lambda *_: Choice("reference", ""))

    def test_what_the_loop_began_goes_on_with_it(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
    ) -> None:
        config = configuration(data, "vectors")
        with monkeypatch.context() as patch:
            self.by_the_loop(patch)
            run(config, tmp_path / "undisturbed", progress=False)
            stop_after(patch, 7, config, tmp_path / "stopped")
        save_every_step(monkeypatch)
        saved = steps_of_saves(monkeypatch)
        run(config, tmp_path / "stopped", progress=False)
        assert saved == [*range(8, STEPS + 1), STEPS]
        assert_same_run(tmp_path / "stopped", tmp_path / "undisturbed")

    def test_what_the_engine_began_goes_on_with_it(
        self, data: Path, finished: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
    ) -> None:
        config = configuration(data, "vectors")
        stop_after(monkeypatch, 7, config, tmp_path)
        self.by_the_loop(monkeypatch)
        run(config, tmp_path, progress=False)
        assert_same_run(tmp_path, finished["vectors"])

    def test_what_the_engine_began_is_not_for_torchrun(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = configuration(data, "vectors")
        stop_after(monkeypatch, 7, config, tmp_path)
        before = contents(tmp_path)
        for name in ("from_first", "everywhere"):
            monkeypatch.setattr(f"manifold_core.run.runner.{name}", lambda call, _: call())
        with pytest.raises(mc.InputError, match=r"out must be a new folder, or .*; resume it without torchrun"):
            run(config, tmp_path, progress=False, process_group=object())  # type: ignore[arg-type]
        assert contents(tmp_path) == before
