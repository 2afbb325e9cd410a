"""asv: every op on a GPU, by its own clock; see benchmarks/ops_on_gpu.py. Left out if there is none."""

import torch

from . import ops_on_gpu
from .ops import OPS, problem

COPY: list[float] = []  # the bandwidth of a copy, measured once per process


class OpsOnGPU:
    """Microseconds forward and backward: on large tensors in turn, and on small ones in a CUDA graph."""

    params = ([*OPS], [*ops_on_gpu.NAMESPACES, "eager", "compile"], ["small", "large"])
    param_names = ("op", "backend", "regime")
    unit = "us"
    timeout = 300.0  # compiling takes long

    def setup(self, *_: str) -> None:
        if not torch.cuda.is_available():
            raise NotImplementedError("there is no GPU")  # how asv is told to leave something out

    def track_microseconds(self, name: str, backend: str, regime: str) -> float:
        op, device = OPS[name], torch.device("cuda")
        shape = op.large[0] if regime == "large" else op.small[-1]
        problems = [problem(op, *shape, torch.float32, device) for _ in range(2 if regime == "large" else 1)]
        if why_not := ops_on_gpu.obstacle(op, backend, torch.float32, problems[0], ops_on_gpu.COMPILE_SECONDS):
            raise RuntimeError(why_not)
        blank = ops_on_gpu.Row(name, shape, "float32", backend, "both", float("nan"))
        COPY[:] = COPY or [ops_on_gpu.copy_bandwidth(device)]
        rows = ops_on_gpu.measured(op, backend, problems, COPY[0], blank)
        return next(row.microseconds for row in rows if row.direction == "both")
