"""Stopped in any way and started again, an ensemble goes on to the numbers it would have reached undisturbed."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ensemble.kinds import kinds, toy
from instruction_sets import NEEDS_COMPILED
from safetensors.torch import load_file, save_file
from torch import Tensor

import manifold_core as mc
from manifold_core import TrainedModel
from manifold_core.ensemble import explain_ensemble
from manifold_core.storage import checkpoint

pytestmark = NEEDS_COMPILED
STEPS = 40
LAST = dataclasses.replace(kinds(1)[0], training=mc.TrainingConfig(25, 100), log_gamma=-200.0)  # diverges at once
GOOD = kinds(STEPS)[::3]
SPECS = [*GOOD, LAST]


def train(folder: Path | None, backend: str = "cpu", threads: int = 2, every: float = 1e9) -> list[TrainedModel]:
    return mc.train_ensemble(
        SPECS, toy(), backend=backend, threads=threads, folder=folder, checkpoint_seconds=every, progress=False
    )


def same(found: list[TrainedModel], expected: list[TrainedModel]) -> bool:
    def numbers(one: TrainedModel) -> tuple[object, ...]:
        curves = one.history.step, one.history.neg_elbo, one.history.gamma, one.history.active_dimensions
        return one.spec, one.metrics.as_dict() if one.diverged_at is None else None, curves, one.diverged_at

    return all(
        numbers(a) == numbers(b)
        and all(torch.equal(a.model.state_dict()[name], tensor) for name, tensor in b.model.state_dict().items())
        for a, b in zip(found, expected, strict=True)
    )


class Engine:
    """In place of the engine's call: it makes no more than a few steps, notes them, and may do something before."""

    def __init__(self, before: Callable[[int], None], most: int = 3) -> None:
        self.operator, self.before, self.most = torch.ops.manifold_core.ensemble_steps, before, most
        self.calls = 0

    def __call__(self, models: Tensor, steps: int, threads: int) -> None:
        self.calls += 1
        self.before(self.calls)
        self.operator(models, min(steps, self.most), threads)


def interrupt_at(call: int) -> Callable[[int], None]:
    def before(calls: int) -> None:
        if calls == call:
            raise KeyboardInterrupt

    return before


@pytest.mark.parametrize("call", [1, 2, 6, 14])
def test_interrupted_from_the_keyboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    expected = train(None)
    with monkeypatch.context() as patch:
        patch.setattr(torch.ops.manifold_core, "ensemble_steps", Engine(interrupt_at(call)))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
    found = checkpoint.load(tmp_path)
    assert found is not None
    done = [0, 1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 34, 37, 40][call - 1]
    assert found.tensors["progress"].tolist() == [[done, 0]] * len(GOOD) + [[0, min(done, 1)]]
    rest = Engine(lambda _: None, most=1)
    monkeypatch.setattr(torch.ops.manifold_core, "ensemble_steps", rest)
    assert same(train(tmp_path, threads=3), expected)
    assert rest.calls == STEPS - done  # and none that had been made


@pytest.mark.parametrize(("code", "done"), [(errno.EPIPE, 4), (errno.ENOSPC, 0)])
def test_an_error_that_is_not_of_the_disk_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, done: int
) -> None:
    """As where who reads the progress has gone. On a full disk another save would fail as well."""

    def broken(calls: int) -> None:
        if calls == 3:
            raise OSError(code, "no")

    with monkeypatch.context() as patch:
        patch.setattr(torch.ops.manifold_core, "ensemble_steps", Engine(broken))
        with pytest.raises(OSError, match="no"):
            train(tmp_path)
    found = checkpoint.load(tmp_path)
    assert (0 if found is None else int(found.tensors["progress"][0, 0])) == done


def test_interrupted_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = train(None)
    for _ in range(6):
        with monkeypatch.context() as patch:
            patch.setattr(torch.ops.manifold_core, "ensemble_steps", Engine(interrupt_at(4), most=2))
            with pytest.raises(KeyboardInterrupt):
                train(tmp_path, every=0)
    assert same(train(tmp_path), expected)


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
from ensemble import test_resume

def wait(calls):
    if calls == 6:
        print("ready", flush=True)
        time.sleep(1000)

torch.ops.manifold_core.ensemble_steps = test_resume.Engine(wait)
test_resume.train(Path(sys.argv[1]), every=0)
"""


def test_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot save anything any more: what was saved on the way has to do."""
    tests = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path, tests], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.tensors["progress"][0].tolist() == [13, 0]
    rest = Engine(lambda _: None, most=1)
    monkeypatch.setattr(torch.ops.manifold_core, "ensemble_steps", rest)
    assert same(train(tmp_path), train(None))
    assert rest.calls == STEPS - 13 + STEPS


def test_a_finished_ensemble_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = train(tmp_path)
    engine = Engine(lambda _: None)
    monkeypatch.setattr(torch.ops.manifold_core, "ensemble_steps", engine)
    assert same(train(tmp_path), expected)
    assert engine.calls == 0


def test_seconds_of_before_count(tmp_path: Path) -> None:
    train(tmp_path)
    edit_index(tmp_path, lambda state: state.update(seconds=1000.5))
    assert 1000.5 <= train(tmp_path)[0].history.seconds < 2000


def test_the_reference_is_resumed_model_by_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = kinds(STEPS)[:3]
    expected = mc.train_ensemble(specs, toy(), backend="reference", progress=False)
    calls = 0
    forward = mc.VAE.forward

    def interrupt(self: mc.VAE, *args: Tensor, **keywords: Any) -> object:
        nonlocal calls
        calls += self.training
        if self.training and calls == STEPS + 17:
            raise KeyboardInterrupt
        return forward(self, *args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(mc.VAE, "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            mc.train_ensemble(specs, toy(), backend="reference", folder=tmp_path, checkpoint_seconds=0, progress=False)
    calls = -1000
    monkeypatch.setattr(mc.VAE, "forward", interrupt)
    found = mc.train_ensemble(specs, toy(), backend="reference", folder=tmp_path, progress=False)
    assert same(found, expected)
    assert calls + 1000 == 2 * STEPS - 16
    with pytest.raises(mc.InputError, match="its specs is of length 3, expected 2"):
        mc.train_ensemble(specs[1:], toy(), backend="reference", folder=tmp_path, progress=False)


def changed_data() -> list[Tensor | tuple[Tensor, Tensor]]:
    x, (second, condition) = toy()
    second = second.clone()
    second[333, 2] += 1e-6
    return [x, (second, condition)]


@pytest.mark.parametrize(
    ("specs", "data", "message"),
    [
        (SPECS[:-1], toy(), f"checkpoint is of another run: its specs is of length {len(SPECS)}, expected"),
        (SPECS[::-1], toy(), r"checkpoint is of another run: its specs\[0\].*; \d+ more differ; choose another folder"),
        (
            [dataclasses.replace(SPECS[0], log_gamma=-1.5), *SPECS[1:]],
            toy(),
            r"checkpoint is of another run: its specs\[0\]\.log_gamma is -1\.0, expected -1\.5; choose",
        ),
        (
            [dataclasses.replace(SPECS[0], training=mc.TrainingConfig(STEPS, 700, 0.02)), *SPECS[1:]],
            toy(),
            r"checkpoint is of another run: its specs\[0\]\.training\.learning_rate is 0\.01, expected 0\.02",
        ),
        (SPECS, changed_data(), r"checkpoint is of another run: its data\[1\] is"),
        (SPECS, [*toy(), toy()[0]], "checkpoint is of another run: its data is"),
    ],
)
def test_a_checkpoint_of_others_is_refused(
    tmp_path: Path, specs: list[mc.ModelSpec], data: list[Tensor | tuple[Tensor, Tensor]], message: str
) -> None:
    train(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(mc.InputError, match=message):
        mc.train_ensemble(specs, data, backend="cpu", folder=tmp_path, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    (path,) = folder.glob("*.safetensors")
    save_file(change(load_file(path)), path)


def edit_index(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = folder / "checkpoint.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content["state"])
    path.write_text(json.dumps(content), encoding="utf-8")


def truncate(folder: Path) -> None:
    (path,) = folder.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-7])


def remove_tensors(folder: Path) -> None:
    next(folder.glob("*.safetensors")).unlink()


def halve_index(folder: Path) -> None:
    path = folder / "checkpoint.json"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda tensors: {key: t for key, t in tensors.items() if key != name})


def change(name: str, to: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda tensors: tensors | {name: to(tensors[name])})


def progress(done: int, ended: int) -> Callable[[Path], None]:
    return change("progress", lambda tensor: torch.cat((tensor[:3], torch.tensor([[done, ended]]), tensor[4:])))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "cannot be read"),
        (remove_tensors, "cannot be read"),
        (halve_index, "cannot be read"),
        (drop("exp_avg"), "damaged: 'exp_avg'"),
        (change("exp_avg", lambda t: t[1:].clone()), "damaged: exp_avg is torch.float32"),
        (change("parameters", lambda t: t.double()), "damaged: parameters is torch.float64"),
        (change("progress", lambda t: t.int()), "damaged: progress is torch.int32"),
        (progress(-1, 0), r"damaged: progress of model 3 is \[-1, 0\]"),
        (progress(STEPS + 1, 0), rf"damaged: progress of model 3 is \[{STEPS + 1}, 0\]"),
        (progress(5, 5), r"damaged: progress of model 3 is \[5, 5\]"),
        (progress(STEPS, STEPS + 1), rf"damaged: progress of model 3 is \[{STEPS}, {STEPS + 1}\]"),
        (lambda folder: edit_index(folder, lambda state: state.pop("seconds")), "damaged: 'seconds'"),
        (lambda folder: edit_index(folder, lambda state: state.update(seconds="a")), "damaged: could not convert"),
        (lambda folder: edit_index(folder, lambda state: state.pop("identity")), "must say which run it is of"),
        (lambda folder: edit_index(folder, lambda state: state.update(identity=3)), "must say which run it is of"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    train(tmp_path)
    damage(tmp_path)
    with pytest.raises(mc.InputError, match=message):
        train(tmp_path)


def test_backends_do_not_take_each_others_checkpoints(tmp_path: Path) -> None:
    train(tmp_path / "cpu")
    with pytest.raises(mc.InputError, match="checkpoint is of another run: its backend is 'cpu'"):
        train(tmp_path / "cpu", backend="reference")
    mc.train_ensemble(kinds(2)[:1], toy(), backend="reference", folder=tmp_path / "reference", progress=False)
    with pytest.raises(mc.InputError, match="checkpoint is of another run: its backend is 'reference'"):
        mc.train_ensemble(kinds(2)[:1], toy(), backend="cpu", folder=tmp_path / "reference", progress=False)


@pytest.mark.parametrize("begun", ["cpu", "reference"])
def test_auto_goes_on_with_the_backend_that_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: str) -> None:
    """On a machine of other threads it would begin with another."""
    specs, x = [dataclasses.replace(kinds(3)[0], data=0)], toy()[0]
    (expected,) = mc.train_ensemble(specs, x, backend=begun, folder=tmp_path, progress=False)
    monkeypatch.setattr("manifold_core.ensemble.choice.LARGE", 0 if begun == "cpu" else 2**20)
    assert explain_ensemble(specs, x).backend != begun
    (found,) = mc.train_ensemble(specs, x, folder=tmp_path, progress=False)
    assert same([found], [expected])


@pytest.mark.parametrize("identity", [None, 3, {}, {"backend": "cuda"}, {"backend": ["cpu"]}, {"backend": "auto"}])
def test_of_a_checkpoint_without_a_backend_of_ours_nothing_is_taken(tmp_path: Path, identity: object) -> None:
    train(tmp_path)
    edit_index(tmp_path, lambda state: state.update(identity=identity))
    with pytest.raises(mc.InputError, match=r"checkpoint (is of another run|must say which run it is of)"):
        train(tmp_path, backend="auto")
