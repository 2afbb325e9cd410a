"""Several workers: the same runs as one, in the same order, wherever the work is stopped."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from manifold_core.experiments import runner, workers
from manifold_core.experiments.catalogue import TABLES
from manifold_core.experiments.jobs import Part, Shard, in_order, train_shard
from manifold_core.experiments.tables import Plan, Table
from manifold_core.experiments.workers import train_table

import manifold_core as mc
from manifold_core import cli
from manifold_core.storage import checkpoint

PLAN = Plan("tiny", seeds=2, steps=30, samples=300, batch_size=50)
LONG = Plan("long", seeds=1, steps=20_000, samples=300, batch_size=50)
TABLE = TABLES["theorem1_too_few"]
TWO = ["cpu", "cpu"]
# A process of its own that trains with two workers, into the folder that is its argument.
IMPORTS = """\
import sys
from pathlib import Path
from manifold_core.experiments.catalogue import TABLES
from manifold_core.experiments.tables import Plan
from manifold_core.experiments.workers import train_table
"""
# As a shell's script starts a command with "&".
IN_THE_BACKGROUND = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"


def training(plan: Plan) -> str:
    return f"train_table(TABLES[{TABLE.name!r}], {plan!r}, Path(sys.argv[1]), devices={TWO!r})"


def test_two_workers_give_the_runs_of_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    alone, _ = train_table(TABLE, PLAN, tmp_path / "alone", devices=["cpu"])
    shared, seconds = train_table(TABLE, PLAN, tmp_path / "shared", devices=TWO)
    assert len(alone) == len(TABLE.cells(PLAN)) * PLAN.seeds > 2
    assert shared == alone
    assert seconds > 0
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == ["0-of-2", "1-of-2"]
    assert capfd.readouterr() == ("", "")  # no bars were asked for


def test_workers_have_bars_and_take_nothing_from_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither a module of the current folder, nor for an answer what others print: lines before it and after it, none
    of them whole."""
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random.py").write_text("raise SystemExit(77)")
    noise = "import atexit; print('{', end='', flush=True); atexit.register(print, '}', end='', flush=True)"
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "sitecustomize.py").write_text(noise)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "noise"), prepend=os.pathsep)
    found, _ = train_table(TABLE, PLAN, tmp_path / "shared", devices=TWO, bars="one (2 of 3)")
    assert len(found) == len(TABLE.cells(PLAN)) * PLAN.seeds
    said = capfd.readouterr().err
    assert "one (2 of 3) on cpu: 100%" in said
    assert "one (2 of 3) on cpu, measuring: 100%" in said


def test_models_without_an_engine_have_a_worker_for_each_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, plan = TABLES["table8"], replace(PLAN, seeds=1, steps=4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    shared, _ = train_table(table, plan, tmp_path / "shared", devices=["cpu"])
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == ["0-of-2", "1-of-2"]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone, _ = train_table(table, plan, tmp_path / "alone", devices=["cpu"])
    assert [run["cell"] for run in shared] == [run["cell"] for run in alone]
    assert [run["neg_elbo"] for run in shared] == pytest.approx([run["neg_elbo"] for run in alone], rel=1e-5)


def test_no_more_workers_than_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[dict[str, Any]] = []

    def take(wanted: list[dict[str, Any]]) -> list[list[Part]]:
        orders.extend(wanted)
        return [[Part(Shard(index, 4), [[]], 1.0)] for index in range(4)]

    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(workers, "_in_processes", take)
    train_table(TABLES["table8"], replace(PLAN, seeds=1), tmp_path, devices=["cpu"])
    assert [order["shards"] for order in orders] == [[{"index": index, "of": 4}] for index in range(4)]
    assert [order["threads"] for order in orders] == [1] * 4  # a core each
    # Resumed with other devices they still have one: with two, numbers would round otherwise.
    train_table(TABLES["table8"], replace(PLAN, seeds=1), tmp_path, devices=TWO)
    assert [order["threads"] for order in orders[4:]] == [1] * 2


def test_order_of_the_runs_is_that_of_the_jobs() -> None:
    """Seven jobs, the second with two classes."""
    runs = [[{"job": job, "class": at} for at in range(2 if job == 1 else 1)] for job in range(7)]
    parts = [Part(Shard(index, 3), runs[index::3], 1.0) for index in (2, 0, 1)]
    assert in_order(parts) == [run for of_job in runs for run in of_job]


def test_begun_by_two_it_goes_on_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun is not trained again in other shares."""
    alone, _ = train_table(TABLE, PLAN, tmp_path / "alone", devices=["cpu"])
    train_shard(TABLE, PLAN, Shard(1, 2), tmp_path / "begun", device="cpu")
    trained = []

    def train(table: Table, plan: Plan, shard: Shard, folder: Path, **options: Any) -> Part:
        trained.append(shard)
        return train_shard(table, plan, shard, folder, **options)

    monkeypatch.setattr(workers, "train_shard", train)
    found, _ = train_table(TABLE, PLAN, tmp_path / "begun", devices=["cpu"])
    assert trained == [Shard(0, 2), Shard(1, 2)]
    assert found == alone


def test_what_a_worker_refuses_the_parent_refuses(tmp_path: Path) -> None:
    (tmp_path / "1-of-2").mkdir()
    (tmp_path / "1-of-2/checkpoint.json").write_text("no JSON")
    with pytest.raises(mc.InputError, match=r"1-of-2.*cannot be read"):
        train_table(TABLE, PLAN, tmp_path, devices=TWO)


def test_a_worker_that_fails_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match="a worker ended with exit status 1; its message is above"):
        train_table(TABLE, PLAN, tmp_path, devices=TWO, backend="cuda")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ChildProcessError("a worker was killed by SIGKILL"), "a worker was killed by SIGKILL"),
        (OSError(errno.ENOSPC, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_the_command_says_so_in_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(runner, "train_table", fail)
    assert cli.main(["reproduce", TABLE.name, "--device", "cpu", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"manifold-core: {message}; the same command resumes from the last checkpoint\n"


def test_a_full_disk_is_the_parents_error_too(tmp_path: Path) -> None:
    """No file may be larger than a kilobyte. That stays so for a process: one of its own."""
    script = (
        f"{IMPORTS}import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
        "try:\n"
        f"    {training(PLAN)}\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{errno.EFBIG}\n", "")


def _children(pid: int) -> list[int]:
    """By any of its threads."""
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]


def _steps(shard: Path) -> int:
    """Of the model with the fewest; before the first checkpoint none."""
    found = checkpoint.load(shard)
    return int(found.tensors["progress"][:, 0].min()) if found is not None else 0


def _wait(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers by Linux's /proc")
def test_a_worker_that_is_killed_is_no_result(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        others = set(_children(os.getpid()))
        found = pool.submit(train_table, TABLE, LONG, tmp_path, devices=TWO)
        _wait(lambda: len(list(tmp_path.glob("*-of-2"))) == 2)
        for pid in set(_children(os.getpid())) - others:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(ChildProcessError, match="a worker was killed by SIGKILL"):
            found.result()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers by Linux's /proc")
def test_killed_the_parent_leaves_no_worker_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    parent = subprocess.Popen([sys.executable, "-c", IMPORTS + IN_THE_BACKGROUND + training(LONG), str(folder)])
    try:
        _wait(lambda: len(list(folder.glob("*-of-2"))) == 2)
        own = _children(parent.pid)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert len(own) == 2
    _wait(lambda: not any(Path(f"/proc/{pid}").exists() for pid in own))
    assert any(_steps(shard) < LONG.steps for shard in folder.iterdir()), "the workers trained to the end"
    found, _ = train_table(TABLE, LONG, folder, devices=TWO)
    assert found == train_table(TABLE, LONG, tmp_path / "alone", devices=["cpu"])[0]
