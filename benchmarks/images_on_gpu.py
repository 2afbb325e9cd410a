"""The training step of a VAE of images on a GPU: the residual networks of the paper on 28 × 28 pixels, κ = 32, float32.

- ``eager``: PyTorch by hand, as the paper describes it (manifold_core/experiments/eager.py), with Adam;
- ``alone``: one model by :func:`manifold_core.train_ensemble`, which trains it as :func:`manifold_core.train` does;
- ``in turn``: the same of eight models, a step of one.

Right first: no time is given where the gradients, without TF32, are far from those by hand in float64 on the same
noise.
The times are with PyTorch's defaults, in which cuDNN may use TF32. Of ours, they are what a longer training takes more
than a shorter one: captures and compilations are left out.

    python -m benchmarks.images_on_gpu [--seconds N] [--out FILE.json]
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from manifold_core.experiments.eager import eager_loss

import manifold_core as mc
from manifold_core.bench.images import CHANNELS, IMAGE, LATENTS, error
from manifold_core.covariance import Covariance
from manifold_core.networks.convolution import by_pytorch

from . import gpu

DEVICE = "cuda"
BATCHES = (512, 128)
COVARIANCES: tuple[Covariance, ...] = ("diagonal", "cholesky")
IN_TURN = 8
SHORT, LONG, LONG_IN_TURN = 100, 1100, 600  # steps of a model
EAGER_STEPS = 50
IMAGES = 8192
ALLOWED = 1e-4


def _seconds(batch: int, covariance: Covariance, models: int, steps: int) -> float:
    configs = [mc.TrainingConfig(steps, batch, seed=seed) for seed in range(models)]
    specs = [mc.ConvSpec(LATENTS, CHANNELS, covariance=covariance, training=config) for config in configs]
    x = torch.rand(IMAGES, *IMAGE, device=DEVICE)
    return mc.train_ensemble(specs, x, progress=False)[0].history.seconds


def alone(batch: int, covariance: Covariance) -> float:
    """Microseconds of a step."""
    _seconds(batch, covariance, 1, SHORT)  # cuDNN and the allocator warm up
    return 1e6 * (_seconds(batch, covariance, 1, LONG) - _seconds(batch, covariance, 1, SHORT)) / (LONG - SHORT)


def in_turn(batch: int, covariance: Covariance) -> float:
    """Of a step of one of the models."""
    short, long = (_seconds(batch, covariance, IN_TURN, steps) for steps in (SHORT, LONG_IN_TURN))
    return 1e6 * (long - short) / (LONG_IN_TURN - SHORT) / IN_TURN


def eager(batch: int, covariance: Covariance) -> float:
    """The host asks for step after step and waits at the end alone."""
    model = by_pytorch(mc.VAE.conv(IMAGE, LATENTS, CHANNELS, covariance=covariance).to(DEVICE))
    x = torch.rand(IMAGES, *IMAGE, device=DEVICE)
    optimizer = torch.optim.Adam(model.parameters())

    def steps(count: int) -> float:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(count):
            optimizer.zero_grad()
            eager_loss(model, x[torch.randint(len(x), (batch,), device=x.device)], None).backward()
            optimizer.step()
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    steps(EAGER_STEPS)
    return 1e6 * statistics.median(steps(EAGER_STEPS) for _ in range(5)) / EAGER_STEPS


CONTENDERS: dict[str, Callable[[int, Covariance], float]] = {"alone": alone, "in turn": in_turn, "eager": eager}


def measured(name: str, batch: int, covariance: Covariance, wrong: float, seconds_left: float) -> dict[str, Any]:
    row = {"contender": name, "batch": batch, "covariance": covariance, "microseconds": None, "note": ""}
    if seconds_left < 0:
        return row | {"note": "left out: 0 s left"}
    if not wrong <= ALLOWED:
        return row | {"note": f"wrong: the gradients are {wrong:.2g} away"}
    try:
        return row | {"microseconds": gpu.or_none(CONTENDERS[name](batch, covariance))}
    except Exception as failure:  # one contender's failure must not cost the others their figures
        return row | {"note": f"failed: {failure!r}"[:200]}


def report(where: dict[str, Any], out: Path, end: float) -> None:
    """Prints and writes all rows. ``end`` is by time.monotonic()."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        wrong = error(BATCHES[0], DEVICE)
    rows: list[dict[str, Any]] = []
    for batch in BATCHES:
        for covariance in COVARIANCES:
            for name in CONTENDERS:
                rows.append(measured(name, batch, covariance, wrong, end - time.monotonic()))
                print(rows[-1], flush=True)
                results = {**where, "error": None if math.isnan(wrong) else wrong, "rows": rows}
                out.write_text(
                    json.dumps(results, indent=1) + "\n", encoding="utf-8"
                )  # each time: the next may never end
    print(f"written to {out}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.images_on_gpu", description=__doc__)
    parser.add_argument("--seconds", type=float, default=100, help="after so long nothing new is begun")
    parser.add_argument("--out", type=Path, help="instead of benchmarks/results/images-<device>-<date>.json")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    where = gpu.about(torch.device(DEVICE))
    report(where, arguments.out or gpu.results_file("images", where["device"], where["date"]), end)


if __name__ == "__main__":
    main()
