"""Trains a table on several devices, or on several cores of a CPU, with one process each for its part of the shards.

A worker is this module, run as a script. Its order comes as one line of JSON on its standard input, and what it trained
goes as one to its standard output. The input stays open as long as the work is wanted: when it ends, because the parent
was stopped or killed, the worker saves its checkpoints and stops as well.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..kernels import Backend
from ..processes import command_of, said, say
from ..storage.files import OF_THE_DISK
from .jobs import Part, Shard, in_order, train_shard
from .tables import Plan, Table

__all__ = ["train_table"]


def train_table(
    table: Table, plan: Plan, folder: Path, *, devices: Sequence[str], backend: Backend = "auto", bars: str = ""
) -> tuple[list[dict[str, Any]], float]:
    """The runs of a table, and the seconds that training took, side by side. Checkpoints are in ``folder``; training
    resumes from them, also with more or fewer devices of the same kind.

    Args:
        devices: each gets a worker. A single CPU gets one for each of its cores if the models have no fused engine,
            which would keep all cores at work.
        bars: the name of the progress bars; without one there are none.

    Raises:
        InputError: see :func:`manifold_core.train_ensemble`.
        ChildProcessError: a worker was killed or failed; its message is on standard error.
        OSError: the disk is full, or fails.
    """
    devices = list(devices)
    cells = table.cells(plan)
    fused = not any(cell.spec.beyond_engines for cell in cells)
    cores = 1 if fused or devices != ["cpu"] else torch.get_num_threads()
    workers = [device for device in devices for _ in range(cores)][: len(cells) * plan.seeds]  # at least one model each
    shards = _shards(folder, len(workers))
    if len(workers) == 1:
        alone = [
            train_shard(table, plan, shard, folder, device=devices[0], backend=backend, bars=bars) for shard in shards
        ]
        return _together([alone])
    orders = [
        {
            "table": table.name,
            "plan": asdict(plan),
            "shards": [asdict(shard) for shard in shards[place :: len(workers)]],
            "folder": str(folder),
            "device": device,
            "backend": backend,
            "threads": 1 if device == "cpu" and not fused else None,
            "bars": bars and f"{bars} on {device}",
        }
        for place, device in enumerate(workers)
    ]
    return _together(_in_processes([order for order in orders if order["shards"]]))


def _together(answers: Sequence[list[Part]]) -> tuple[list[dict[str, Any]], float]:
    seconds = max(sum(part.seconds for part in parts) for parts in answers)
    return in_order([part for parts in answers for part in parts]), seconds


def _shards(folder: Path, workers: int) -> list[Shard]:
    """One per worker; but if the table was begun with another number of shards, those that were begun."""
    names = (re.fullmatch(r"\d+-of-(\d+)", path.name) for path in folder.glob("*-of-*"))
    begun = {int(name[1]) for name in names if name}
    of = begun.pop() if begun else workers
    return [Shard(index, of) for index in range(of)]


# glibc then keeps what a step frees for the next one, which would pay for fresh pages: a tenth of a step on images.
_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**27)}


def _in_processes(orders: Sequence[dict[str, Any]]) -> list[list[Part]]:
    workers = [_start(order, place) for place, order in enumerate(orders)]
    with ThreadPoolExecutor(len(workers)) as pool:
        answers = [pool.submit(_answer, worker) for worker in workers]
        try:
            return [answer.result() for answer in as_completed(answers)]
        finally:
            _dismiss(workers)  # before the pool waits for their answers


def _start(order: dict[str, Any], place: int) -> "subprocess.Popen[str]":
    worker = subprocess.Popen(
        command_of(__spec__.name),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_MEMORY | os.environ | {"TQDM_POSITION": str(place)},  # progress bars below each other
        start_new_session=True,  # Ctrl+C goes to the parent, which passes it on
    )
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died: the answer, or its lack, says so
        worker.stdin.write(json.dumps(order) + "\n")
        worker.stdin.flush()
    return worker


def _answer(worker: "subprocess.Popen[str]") -> list[Part]:
    assert worker.stdout is not None
    with worker.stdout:
        text = worker.stdout.read()
    status = worker.wait()
    answers = said(text)
    if not answers:
        if status < 0:
            raise ChildProcessError(f"a worker was killed by {signal.Signals(-status).name}")
        raise ChildProcessError(f"a worker ended with exit status {status}; its message is above")
    (answer,) = answers
    if "error" in answer:
        raise InputError(answer["error"])
    if "disk" in answer:
        raise OSError(*answer["disk"])
    return [Part(Shard(**part["shard"]), part["runs"], part["seconds"]) for part in answer["parts"]]


def _dismiss(workers: Sequence["subprocess.Popen[str]"]) -> None:
    """Let them save what they have and end."""
    for worker in workers:
        assert worker.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.close()
    for worker in workers:
        worker.wait()


def _work() -> int:
    """The worker's side."""
    from .catalogue import TABLES  # the drivers

    order = json.loads(sys.stdin.readline())
    # By which it is stopped; a shell lets what it runs in the background, and all below that, ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_stop_with_input, daemon=True).start()
    if order["threads"] is not None:
        torch.set_num_threads(order["threads"])
    answer: dict[str, Any]
    try:
        parts = [
            train_shard(
                TABLES[order["table"]],
                Plan(**order["plan"]),
                Shard(**shard),
                Path(order["folder"]),
                device=order["device"],
                backend=order["backend"],
                threads=order["threads"],
                bars=order["bars"],
            )
            for shard in order["shards"]
        ]
        answer = {"parts": [asdict(part) for part in parts]}
    except InputError as error:
        answer = {"error": str(error)}
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        answer = {"disk": [error.errno, error.strerror]}
    except KeyboardInterrupt:
        return 130
    say(answer)
    return 0


def _stop_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(_work())
