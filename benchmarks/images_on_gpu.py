"""The training step of a VAE of images on a GPU: the residual networks of the paper on 28 × 28 pixels, κ = 32, float32.

- ``eager``: PyTorch by hand, as the paper describes it (manifold_core/experiments/eager.py), with Adam;
- ``alone``: one model by :func:`manifold_core.train_ensemble`, which trains it as :func:`manifold_core.train` does;
- ``in turn``: the same of eight models, a step of one.

Right first: no time is given where the gradients, without TF32, are far from those by hand in float64 on the same noise.
The times are with PyTorch's defaults, in which cuDNN may use TF32. Of ours, they are what a longer training takes more
than a shorter one: captures and compilations are left out.

    python -m benchmarks.images_on_gpu [--seconds N] [--out FILE.json]
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import manifold_core as mc
from manifold_core.bench.images import CHANNELS, IMAGE, LATENTS, error
from manifold_core.covariance import Covariance
from manifold_core.experiments.eager import eager_loss
from manifold_core.networks.convolution import by_pytorch

from . import gpu

BATCHES = (512, 128)
COVARIANCES: tuple[Covariance, ...] = ("diagonal", "cholesky")
IN_TURN = 8
STEPS = (100, 500)  # of the shorter and of the longer training, of all models together
IMAGES = 8192
ALLOWED = 1e-4


def alone(batch: int, covariance: Covariance, models: int = 1) -> float:
    """Microseconds of a step of one of so many models."""
    x = torch.rand(IMAGES, *IMAGE, device="cuda")

    def seconds(steps: int) -> float:
        configs = [mc.TrainingConfig(steps // models, batch, seed=seed) for seed in range(models)]
        specs = [mc.ConvSpec(LATENTS, CHANNELS, covariance=covariance, training=config) for config in configs]
        return mc.train_ensemble(specs, x, progress=False)[0].history.seconds

    fewer, more = (models * (steps // models) for steps in STEPS)
    seconds(fewer)  # cuDNN and the allocator warm up
    return 1e6 * (seconds(more) - seconds(fewer)) / (more - fewer)


def in_turn(batch: int, covariance: Covariance) -> float:
    return alone(batch, covariance, IN_TURN)


def eager(batch: int, covariance: Covariance) -> float:
    """The host asks for step after step and waits at the end alone."""
    model = by_pytorch(mc.VAE.conv(IMAGE, LATENTS, CHANNELS, covariance=covariance).cuda())
    x = torch.rand(IMAGES, *IMAGE, device="cuda")
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

    steps(20)
    return 1e6 * sorted(steps(50) for _ in range(5))[2] / 50


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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.images_on_gpu", description=__doc__)
    parser.add_argument("--seconds", type=float, default=100, help="after so long nothing new is begun")
    parser.add_argument("--out", type=Path, help="instead of benchmarks/results/images-<device>-<date>.json")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    where = gpu.about(torch.device("cuda"))
    out = arguments.out or gpu.results_file("images", where["device"], where["date"])
    with torch.backends.cudnn.flags(allow_tf32=False):
        wrong = error(BATCHES[0], "cuda")
    results = {**where, "error": None if math.isnan(wrong) else wrong, "rows": []}
    for batch in BATCHES:
        for covariance in COVARIANCES:
            for name in CONTENDERS:
                row = measured(name, batch, covariance, wrong, end - time.monotonic())
                results["rows"].append(row)
                print(row, flush=True)
                out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")  # each time: the next may never end
    print(f"written to {out}")


if __name__ == "__main__":
    main()
