"""Where the time of a training step goes, by PyTorch's profiler.

    python -m manifold_core.bench.profile [--contender eager] [--batch 128] [--device cuda] [--trace FILE.json]

The step is that of :mod:`.step`. The trace can be looked at in Perfetto or Chrome.
"""

import argparse
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from . import step

__all__ = ["main", "profiled"]

STEPS, WARM_UP = 50, 10
ROWS = 25


def profiled(contender: str, batch: int, device: str) -> profile:
    """``STEPS`` steps, after others that are not recorded."""
    run = step.training_step(step.LOSSES[contender], batch, device)
    for _ in range(WARM_UP):
        run()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (torch.device(device).type == "cuda")
    with profile(activities=activities) as recorded:
        for _ in range(STEPS):
            run()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
    return recorded


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m manifold_core.bench.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--contender", choices=step.LOSSES, default="manifold_core")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--trace", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.batch < 1:
        parser.error(f"--batch must be at least 1, got {options.batch}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU that PyTorch could use")
    recorded = profiled(options.contender, options.batch, options.device)
    by = "self_device_time_total" if options.device == "cuda" else "self_cpu_time_total"
    print(f"{STEPS} steps of {options.contender}, B = {options.batch}")
    print(recorded.key_averages().table(sort_by=by, row_limit=ROWS))
    if options.trace is not None:
        recorded.export_chrome_trace(str(options.trace))
        print(f"trace: {options.trace}")


if __name__ == "__main__":
    main()
