"""The ops that are measured on a GPU, and by asv on a CPU: their operators and public functions, the same by hand, how
arguments are drawn, and the sizes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from manifold_core.kernels.dispatch import Backend
from manifold_core.kernels.gaussian_elbo import gaussian_elbo
from manifold_core.kernels.gaussian_nll import gaussian_nll
from manifold_core.kernels.rsample_kl import rsample_kl
from manifold_core.kernels.rsample_kl_cholesky import rsample_kl_cholesky
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from manifold_core.bench import by_hand

__all__ = ["OPS", "Op", "Problem", "elbo_backward", "problem"]

SEED = 1234
Outputs = tuple[Tensor, ...]
Shape = tuple[int, int]


class Problem(NamedTuple):
    """The arguments of one call."""

    differentiable: tuple[Tensor, ...]
    fixed: tuple[Tensor, ...]
    incoming: tuple[Tensor, ...]  # gradients of the outputs
    seed: Tensor


ByHand = Callable[[Problem, Tensor | None], Outputs]


class Op(NamedTuple):
    """One op."""

    name: str
    # make(normal, rows, cols): the differentiable arguments and the others; normal(*shape) draws at random
    make: Callable[[Callable[..., Tensor], int, int], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
    forward: Callable[[Any, Problem], Outputs]
    backward: Callable[[Any, Problem, Outputs], Outputs]
    public: Callable[[Problem, Backend], Outputs]  # outputs that have gradients
    by_hand: ByHand  # on given noise, or None for PyTorch's; the same outputs
    large: tuple[Shape, ...]  # for a GPU, as are the small ones
    small: tuple[Shape, ...]
    of_cpu: dict[str, Shape]
    tuned: ByHand | None = None  # what torch.compile gets if by_hand is not the best that PyTorch has


def _elbo_by_hand(p: Problem, _: Tensor | None) -> Outputs:
    x_hat, log_gamma, kl = p.differentiable
    return ((by_hand.nll(x_hat, p.fixed[0], log_gamma) + kl).mean(),)


def _gated(p: Problem, backend: Backend) -> Outputs:
    mu, log_var, prior_mu, prior_log_var, gate_logits = p.differentiable
    return rsample_kl(mu, log_var, prior_mu, prior_log_var, gate_logits=gate_logits, backend=backend)


def _gated_by_hand(p: Problem, noise: Tensor | None) -> Outputs:
    mu, log_var, prior_mu, prior_log_var, gate_logits = p.differentiable
    return by_hand.sample_and_kl(mu, log_var, noise, (prior_mu, prior_log_var), gate_logits)


def _nll_backward(run: Any, p: Problem, outputs: Outputs) -> Outputs:
    x_hat, log_gamma = p.differentiable
    return run.gaussian_nll_backward(p.incoming[0], None, x_hat, p.fixed[0], log_gamma, outputs[1])


def _elbo(run: Any, p: Problem) -> Outputs:
    x_hat, log_gamma, kl = p.differentiable
    return run.gaussian_elbo(x_hat, p.fixed[0], log_gamma, kl, 1.0, True)


def elbo_backward(run: Any, p: Problem, outputs: Outputs) -> Outputs:
    """The gradients have been written in the forward pass, and the loss's own is 1: a kernel looks at it."""
    run.gaussian_elbo_scale(*outputs[3:], p.incoming[0])
    return *outputs[3:5], outputs[5].expand(p.differentiable[2].shape)


_LATENTS = {"tiny": (16, 8), "typical": (512, 32), "large": (16_384, 64)}
_FEATURES = {"tiny": (16, 20), "typical": (512, 784), "large": (4096, 784)}

OPS = {
    op.name: op
    for op in (
        Op(
            "rsample_kl",
            make=lambda normal, b, k: ((normal(b, k), normal(b, k)), ()),
            forward=lambda run, p: run.rsample_kl(*p.differentiable, None, None, None, p.seed, 0, False, False)[:2],
            backward=lambda run, p, _: run.rsample_kl_backward(
                *p.incoming, *p.differentiable, None, None, None, p.seed, 0, False, False
            )[:2],
            public=lambda p, backend: rsample_kl(p.differentiable[0], p.differentiable[1], backend=backend),
            by_hand=lambda p, noise: by_hand.sample_and_kl(p.differentiable[0], p.differentiable[1], noise),
            large=((2**18, 256),),
            small=((128, 20), (512, 32), (4096, 64), (100_000, 20)),
            of_cpu=_LATENTS,
        ),
        Op(
            "rsample_kl, prior and gate",
            make=lambda normal, b, k: (tuple(normal(b, k) for _ in range(5)), ()),
            forward=lambda run, p: run.rsample_kl(*p.differentiable, p.seed, 0, False, False)[:2],
            backward=lambda run, p, _: run.rsample_kl_backward(*p.incoming, *p.differentiable, p.seed, 0, True, True),
            public=_gated,
            by_hand=_gated_by_hand,
            large=((2**18, 256),),
            small=((512, 32),),
            of_cpu=_LATENTS,
        ),
        Op(
            "rsample_kl_cholesky",
            make=lambda normal, b, k: ((normal(b, k), 0.1 * normal(b, k * (k + 1) // 2)), ()),
            forward=lambda run, p: run.rsample_kl_cholesky(*p.differentiable, None, None, p.seed, 0, False, False)[:2],
            backward=lambda run, p, _: run.rsample_kl_cholesky_backward(
                *p.incoming, *p.differentiable, None, None, p.seed, 0, False
            )[:2],
            public=lambda p, backend: rsample_kl_cholesky(p.differentiable[0], p.differentiable[1], backend=backend),
            by_hand=lambda p, noise: by_hand.sample_and_kl_full(p.differentiable[0], p.differentiable[1], noise),
            large=((2**14, 128), (2**18, 32)),  # the last of the paper
            small=((512, 32), (512, 128)),
            of_cpu={"tiny": (16, 4), "typical": (512, 32), "large": (512, 128)},
            tuned=lambda p, noise: by_hand.tuned_sample_and_kl_full(p.differentiable[0], p.differentiable[1], noise),
        ),
        Op(
            "gaussian_nll",
            make=lambda normal, b, d: ((normal(b, d), normal().float()), (normal(b, d),)),
            forward=lambda run, p: run.gaussian_nll(p.differentiable[0], p.fixed[0], p.differentiable[1]),
            backward=_nll_backward,
            public=lambda p, backend: (
                gaussian_nll(p.differentiable[0], p.fixed[0], p.differentiable[1], backend=backend),
            ),
            by_hand=lambda p, _: (by_hand.nll(p.differentiable[0], p.fixed[0], p.differentiable[1]),),
            large=((2**15, 2048),),
            small=((128, 20), (512, 784), (4096, 784)),
            of_cpu=_FEATURES,
        ),
        Op(
            "gaussian_elbo, gradients written at once",
            make=lambda normal, b, d: ((normal(b, d), normal().float(), normal(b).float()), (normal(b, d),)),
            forward=_elbo,
            backward=elbo_backward,
            public=lambda p, backend: gaussian_elbo(
                p.differentiable[0], p.fixed[0], *p.differentiable[1:], backend=backend
            )[:1],
            by_hand=_elbo_by_hand,
            large=((2**15, 2048),),
            small=((128, 20), (512, 784)),
            of_cpu=_FEATURES,
        ),
    )
}


def problem(op: Op, rows: int, cols: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """One call's arguments, drawn on the device, the same each time; for a mean, the incoming gradient is 1."""
    generator = torch.Generator(device).manual_seed(SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator).to(dtype)

    differentiable, fixed = op.make(normal, rows, cols)
    leaves = tuple(t.detach().requires_grad_() for t in differentiable)
    seed = torch.tensor(SEED, device=device)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):  # shapes alone: memory is measured as well
        shapes = [(out.shape, out.dtype) for out in op.by_hand(Problem(leaves, fixed, (), seed), None)]
    incoming = tuple(
        normal(*shape).to(of) if shape else torch.ones((), dtype=of, device=device) for shape, of in shapes
    )
    return Problem(leaves, fixed, incoming, seed)
