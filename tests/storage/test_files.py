"""Folders that one process works in at a time."""

import errno
import fcntl
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from instruction_sets import NEEDS_COMPILED
from manifold_core.experiments.reproduce import reproduce

import manifold_core as mc
from manifold_core import cli
from manifold_core.cli import commands
from manifold_core.data import find_images, load_file
from manifold_core.run import ModelConfig, RunConfig, run
from manifold_core.storage import checkpoint
from manifold_core.storage.files import AnyPath, as_folder, locked, write_json

HOLDER = """
import sys
from pathlib import Path
from manifold_core.storage.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def train_one(folder: AnyPath) -> object:
    torch.manual_seed(0)
    config = mc.TrainingConfig(steps=2, batch_size=4)
    return mc.train(mc.VAE.mlp(5, 2), torch.arange(45.0).reshape(9, 5).sin(), config, folder=folder, progress=False)


def train_many(folder: AnyPath, backend: str = "auto") -> object:
    spec = mc.ModelSpec(2, training=mc.TrainingConfig(steps=2, batch_size=4))
    x = torch.arange(45.0).reshape(9, 5).sin()
    return mc.train_ensemble([spec], x, backend=backend, folder=folder, progress=False)


def test_a_folder_is_one_processes(tmp_path: Path) -> None:
    """Until it ends, also by kill -9; then it is free again."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            with pytest.raises(mc.InputError, match="another is at work in"), locked(tmp_path):
                pytest.fail("two hold it")
            with pytest.raises(mc.InputError, match="another is at work in"):
                reproduce(["table3"], tmp_path)
            arguments = ["train", "--data", "synthetic", "--out", str(tmp_path), "--quiet"]
            assert cli.main(arguments) == 2
            for train in (train_one, train_many):
                with pytest.raises(mc.InputError, match=r"^folder must be left to one process, but another is at work"):
                    train(tmp_path)
            assert list(tmp_path.iterdir()) == []
        finally:
            holder.kill()
    with locked(tmp_path):
        pass
    with locked(tmp_path):  # and after that as well
        pass


TRAINER = """
import sys
import torch
import manifold_core as mc

class Slow(torch.nn.Linear):
    calls = 0

    def forward(self, z):
        self.calls += 1
        if self.calls == 3:
            print("training", flush=True)
            sys.stdin.read()
        return super().forward(z)

model = mc.VAE.mlp(5, 2)
model.decoder = Slow(2, 5)
mc.train(model, torch.rand(9, 5), mc.TrainingConfig(steps=5, batch_size=4), folder=sys.argv[1], progress=False)
"""


def test_a_training_holds_its_folder(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"training\n"
        try:
            with pytest.raises(mc.InputError, match="another is at work in"), locked(tmp_path):
                pytest.fail("two hold it")
        finally:
            trainer.communicate(timeout=60)
    assert trainer.returncode == 0
    before = {path.name for path in tmp_path.iterdir()}
    assert before == {"checkpoint.json", "checkpoint-000000005.safetensors"}
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=NEEDS_COMPILED)])
def test_an_ensemble_holds_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Asked from another thread in the middle of a save."""
    save, refused = checkpoint.save, []

    def watched(folder: Path, *content: Any) -> None:
        def ask() -> None:
            with pytest.raises(mc.InputError, match="another is at work in"), locked(tmp_path):
                pytest.fail("two hold it")
            refused.append(folder)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        save(folder, *content)

    monkeypatch.setattr(checkpoint, "save", watched)
    train_many(tmp_path, backend)
    assert len(refused) == (2 if backend == "reference" else 1)
    with locked(tmp_path):
        pass


def not_ours(_process: int, _signal: int) -> None:
    """As of a process of another user."""
    raise PermissionError


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        path, half = tmp_path / "a.b.json", tmp_path / f".a.b.json.{other.pid}.tmp"
        half.touch()
        write_json(path, {})
        assert half.exists()
        with monkeypatch.context() as patch:
            patch.setattr(os, "kill", not_ours)
            write_json(path, {})
        assert half.exists()
        other.communicate(b"\n")
    write_json(path, {})
    assert list(tmp_path.iterdir()) == [path]


def test_who_holds_a_folder_may_take_it_again(tmp_path: Path) -> None:
    """It stays held until the first of both ends. A fork is another process."""

    def tried_by_a_fork() -> int:
        child = os.fork()
        if child == 0:
            try:
                with locked(tmp_path):
                    os._exit(1)
            except mc.InputError:
                os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    link = tmp_path.with_name("link")
    link.symlink_to(tmp_path)
    with locked(tmp_path):
        with locked(link):
            assert tried_by_a_fork() == 0
        assert tried_by_a_fork() == 0
    assert tried_by_a_fork() == 1


@pytest.mark.parametrize("train", [train_one, train_many])
def test_an_error_names_the_argument(tmp_path: Path, train: Callable[[Path], object]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(mc.InputError, match=r"^folder must be a folder that can be written to, got .*file"):
        train(tmp_path / "file")


def test_all_gpus_share_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert commands._devices("auto") == ["cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("auto", "cuda"):
        assert commands._devices(name) == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert commands._devices("cpu") == ["cpu"]
    with pytest.raises(mc.InputError, match="got 'tpu'"):
        commands._devices("cpu,tpu")


def test_where_there_are_no_locks_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.warns(UserWarning, match=r"^out '.*' cannot be locked \(No locks available\): nothing keeps other"),
        locked(tmp_path),
    ):
        pass


FOLDERS: dict[str, Callable[[Any], object]] = {
    "train": train_one,
    "train_ensemble": train_many,
    "find_dimension": lambda folder: mc.find_dimension(torch.rand(40, 3), folder=folder, progress=False),
    "load_weights": lambda folder: mc.load_weights(mc.VAE.mlp(5, 2), folder),
    "load_run": mc.load_run,
}


@pytest.mark.parametrize("call", FOLDERS.values(), ids=FOLDERS)
@pytest.mark.parametrize("given", ["", 3, b"runs", True])
def test_what_is_no_path_of_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[Any], object], given: object
) -> None:
    """An empty one is no current directory: a variable of the shell is not set."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mc.InputError) as refused:
        call(given)
    assert str(refused.value) == f"folder must be the path of a folder, such as 'runs/points', got {given!r}"
    assert list(tmp_path.iterdir()) == []


class Named:
    """A path in a form of its own: no pathlib.Path, and without the path as its text."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.mark.filterwarnings("ignore:the model has learned no dimension")  # so short a search has its doubts
def test_a_path_may_have_any_form(tmp_path: Path) -> None:
    x = torch.arange(45.0).reshape(9, 5).sin()
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "c.npy", x[:, 0].numpy())
    data = load_file(Named(tmp_path / "x.npy"), condition=Named(tmp_path / "c.npy"))
    assert data.train_condition is not None
    train_one(Named(tmp_path / "one"))
    train_many(Named(tmp_path / "many"))
    mc.load_weights(mc.VAE.mlp(5, 2), Named(tmp_path / "one"))
    plan = mc.SearchPlan(networks=((8,),), models=1, steps=2, batch_size=8)
    mc.save_run(
        mc.find_dimension(x, plan, folder=Named(tmp_path / "search"), progress=False), Named(tmp_path / "saved")
    )
    mc.load_run(Named(tmp_path / "saved"))
    config = RunConfig(str(tmp_path / "x.npy"), ModelConfig(2), mc.TrainingConfig(steps=2, batch_size=4))
    run(config, Named(tmp_path / "run"), progress=False)
    for read in (mc.load_run, partial(mc.load_weights, mc.VAE.mlp(5, 2)), partial(find_images, "mnist"), load_file):
        with pytest.raises(mc.InputError, match=re.escape(str(tmp_path / "none.npy"))):
            read(Named(tmp_path / "none.npy"))


def test_a_folder_is_a_path_or_its_text() -> None:
    assert as_folder("out", "runs/one") == as_folder("out", Path("runs/one")) == Path("runs/one")
    assert as_folder("out", Path()) == as_folder("out", ".") == Path.cwd().relative_to(Path.cwd())
