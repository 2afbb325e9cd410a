"""asv: every op through its public function, on a CPU."""

from collections.abc import Callable

import torch
from manifold_core.kernels.gaussian_elbo import gaussian_elbo
from manifold_core.kernels.gaussian_nll import gaussian_nll
from manifold_core.kernels.rsample_kl import rsample_kl
from manifold_core.kernels.rsample_kl_cholesky import rsample_kl_cholesky
from torch import Tensor

from . import gpu

Outputs = tuple[Tensor, ...]
OPS = {op.name: op for op in gpu.OPS}  # how their arguments are drawn
PUBLIC: dict[str, Callable[[gpu.Problem, str], Outputs]] = {
    "rsample_kl": lambda p, backend: rsample_kl(*p.differentiable, backend=backend),
    "rsample_kl, prior and gate": lambda p, backend: rsample_kl(
        *p.differentiable[:4], gate_logits=p.differentiable[4], backend=backend
    ),
    "rsample_kl_cholesky": lambda p, backend: rsample_kl_cholesky(*p.differentiable, backend=backend),
    "gaussian_nll": lambda p, backend: (
        gaussian_nll(p.differentiable[0], p.fixed[0], p.differentiable[1], backend=backend),
    ),
    "gaussian_elbo, gradients written at once": lambda p, backend: gaussian_elbo(
        p.differentiable[0], p.fixed[0], *p.differentiable[1:], backend=backend
    )[:1],
}
LATENTS = {"tiny": (16, 8), "typical": (512, 32), "large": (16_384, 64)}
TRIANGLES = {"tiny": (16, 4), "typical": (512, 32), "large": (512, 128)}
FEATURES = {"tiny": (16, 20), "typical": (512, 784), "large": (4096, 784)}
SHAPES = {
    "rsample_kl": LATENTS,
    "rsample_kl, prior and gate": LATENTS,
    "rsample_kl_cholesky": TRIANGLES,
    "gaussian_nll": FEATURES,
    "gaussian_elbo, gradients written at once": FEATURES,
}


def forward_and_backward(op: str, problem: gpu.Problem, backend: str) -> None:
    torch.autograd.grad(PUBLIC[op](problem, backend), problem.differentiable, problem.incoming)


class Ops:
    """Time of every op."""

    params = ([*PUBLIC], ["reference", "cpu"], [*LATENTS])
    param_names = ("op", "backend", "regime")

    def setup(self, op: str, backend: str, regime: str) -> None:
        torch.manual_seed(0)
        self.problem = gpu.problem(OPS[op], *SHAPES[op][regime], torch.float32, torch.device("cpu"))
        forward_and_backward(op, self.problem, backend)  # a backend that cannot serve raises here

    def time_forward(self, op: str, backend: str, _regime: str) -> None:
        with torch.no_grad():
            PUBLIC[op](self.problem, backend)

    def time_forward_and_backward(self, op: str, backend: str, _regime: str) -> None:
        forward_and_backward(op, self.problem, backend)


class OpsMemory:
    """Peak of the memory of a process that does nothing else."""

    params = ([*PUBLIC], ["reference", "cpu"])
    param_names = ("op", "backend")

    def peakmem_forward_and_backward(self, op: str, backend: str) -> None:
        problem = gpu.problem(OPS[op], *SHAPES[op]["large"], torch.float32, torch.device("cpu"))
        forward_and_backward(op, problem, backend)
