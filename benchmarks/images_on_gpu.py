"""The training step of a VAE of images on a GPU: the residual networks of the paper on 28 × 28 pixels, κ = 32, float32.

- ``eager``: PyTorch by hand, as the paper describes it (manifold_core/bench/by_hand.py), with Adam;
- ``alone``: the training loop of :func:`manifold_core.train`;
- ``in turn``: the same of eight models on a stream each, as :func:`manifold_core.train_ensemble` has it; a step of one.

Correctness first: no time is given if the gradients, without TF32, are far from those by hand in float64 on the same
noise. The times are with PyTorch's defaults, in which cuDNN may use TF32, after the steps in which graphs are captured.
The training is as long as the paper's: short ones have a curve of every step, and wait for the device to read it.

    python -m benchmarks.images_on_gpu [--seconds N] [--out FILE.json]
"""

import math
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

import manifold_core as mc
from manifold_core.bench.by_hand import negative_elbo
from manifold_core.bench.comparison import failed, left_out
from manifold_core.bench.images import CHANNELS, IMAGE, LATENTS, error
from manifold_core.covariance import Covariance
from manifold_core.networks import by_pytorch
from manifold_core.storage.files import write_json
from manifold_core.training import turns

from .results_files import asked, or_none

DEVICE = "cuda"
BATCHES = (512, 128)
COVARIANCES: tuple[Covariance, ...] = ("diagonal", "cholesky")
IN_TURN = 8
STEPS = 46_800  # of the training; of these
WARM_UP, COUNTED, ROUNDS = 50, 200, 5  # are taken, and measured as often
IMAGES = 8192
ALLOWED = 1e-4


def _microseconds(step: Callable[[], object], steps: int = 1) -> float:
    """The host asks for call after call, each of so many steps, and waits only at the end."""

    def seconds(count: int) -> float:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(count):
            step()
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    seconds(WARM_UP // steps)
    calls = COUNTED // steps
    return 1e6 * statistics.median(seconds(calls) for _ in range(ROUNDS)) / (calls * steps)


def _model(covariance: Covariance) -> mc.VAE:
    return mc.VAE.conv(IMAGE, LATENTS, CHANNELS, covariance=covariance).to(DEVICE)


def in_turn(batch: int, covariance: Covariance, models: int = IN_TURN) -> float:
    """Microseconds of a step of one of this many models."""
    x = torch.rand(IMAGES, *IMAGE, device=DEVICE)
    config = mc.TrainingConfig(STEPS, batch, learning_rate=0.002)
    trainings = [turns(_model(covariance), x, config, progress=False) for _ in range(models)]
    streams = [torch.cuda.Stream() if x.is_cuda else None for _ in range(models)]
    for stream in streams:
        if stream is not None:  # data and weights are still being made, on the stream of this thread
            stream.wait_stream(torch.cuda.current_stream())

    def turn_of_each() -> None:
        for one, stream in zip(trainings, streams, strict=True):
            with nullcontext() if stream is None else torch.cuda.stream(stream):
                next(one)

    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        return _microseconds(turn_of_each, models)


def alone(batch: int, covariance: Covariance) -> float:
    return in_turn(batch, covariance, models=1)


def eager(batch: int, covariance: Covariance) -> float:
    model, x = by_pytorch(_model(covariance)), torch.rand(IMAGES, *IMAGE, device=DEVICE)
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        negative_elbo(model, x[torch.randint(len(x), (batch,), device=x.device)]).backward()
        optimizer.step()

    return _microseconds(step)


CONTENDERS: dict[str, Callable[[int, Covariance], float]] = {"alone": alone, "in turn": in_turn, "eager": eager}


def measured(name: str, batch: int, covariance: Covariance, wrong: float, seconds_left: float) -> dict[str, Any]:
    row = {"contender": name, "batch": batch, "covariance": covariance, "microseconds": None, "note": ""}
    if note := left_out(seconds_left):
        return row | {"note": note}
    if not wrong <= ALLOWED:
        return row | {"note": f"wrong: the gradients are {wrong:.2g} away"}
    try:
        return row | {"microseconds": or_none(CONTENDERS[name](batch, covariance))}
    except Exception as failure:
        return row | {"note": failed(failure)}


def report(where: dict[str, Any], out: Path, end: float) -> None:
    """Prints and writes all rows. ``end`` is by time.monotonic()."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        wrong = error(BATCHES[0], DEVICE)
    rows: list[dict[str, Any]] = []
    for batch in BATCHES:
        for covariance in COVARIANCES:
            for name in CONTENDERS:
                rows.append(measured(name, batch, covariance, wrong, end - time.monotonic()))
                print(rows[-1], flush=True)
                results = {**where, "error": None if math.isnan(wrong) else wrong, "rows": rows}
                write_json(out, results)  # each time: the next may never end
    print(f"written to {out}")


def main() -> None:
    where, out, end = asked("images", __doc__, 100)
    report(where, out, end)


if __name__ == "__main__":
    main()
