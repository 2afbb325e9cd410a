"""asv: every op through its public function, on a CPU."""

import torch
from manifold_core.kernels import Backend

from .ops import OPS, Problem, problem

HERE = torch.device("cpu")


def forward_and_backward(op: str, drawn: Problem, backend: Backend) -> None:
    torch.autograd.grad(OPS[op].public(drawn, backend), drawn.differentiable, drawn.incoming)


class Ops:
    """Time of every op."""

    params = ([*OPS], ["reference", "cpu"], ["tiny", "typical", "large"])
    param_names = ("op", "backend", "regime")

    def setup(self, op: str, backend: Backend, regime: str) -> None:
        torch.manual_seed(0)
        self.problem = problem(OPS[op], *OPS[op].of_cpu[regime], torch.float32, HERE)
        forward_and_backward(op, self.problem, backend)  # a backend that cannot serve raises here

    def time_forward(self, op: str, backend: Backend, _regime: str) -> None:
        with torch.no_grad():
            OPS[op].public(self.problem, backend)

    def time_forward_and_backward(self, op: str, backend: Backend, _regime: str) -> None:
        forward_and_backward(op, self.problem, backend)


class OpsMemory:
    """Peak memory of a process that does nothing else."""

    params = ([*OPS], ["reference", "cpu"])
    param_names = ("op", "backend")

    def peakmem_forward_and_backward(self, op: str, backend: Backend) -> None:
        drawn = problem(OPS[op], *OPS[op].of_cpu["large"], torch.float32, HERE)
        forward_and_backward(op, drawn, backend)
