"""The ops as their operators are called, and as one writes them by hand, with the sizes that are measured on a GPU."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ["OPS", "Op", "Problem", "elbo_backward", "problem"]

SEED = 1234


class Problem(NamedTuple):
    """The arguments of one call."""

    differentiable: tuple[Tensor, ...]
    fixed: tuple[Tensor, ...]
    incoming: tuple[Tensor, ...]  # gradients of the outputs
    seed: Tensor


class Op(NamedTuple):
    """One op: how to call its operators, and how one writes it by hand."""

    name: str
    # make(normal, rows, cols): the differentiable arguments and the others; normal(*shape) draws at random
    make: Callable[[Callable[..., Tensor], int, int], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
    forward: Callable[[Any, Problem], tuple[Tensor, ...]]
    backward: Callable[[Any, Problem, tuple[Tensor, ...]], tuple[Tensor, ...]]
    by_hand: Callable[[Problem, Tensor | None], tuple[Tensor, ...]]  # outputs that have gradients
    large: tuple[int, int]
    small: tuple[tuple[int, int], ...]


def _noise(like: Tensor, given: Tensor | None) -> Tensor:
    return torch.randn_like(like) if given is None else given


def _wide(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()


def _rsample_kl_by_hand(p: Problem, noise: Tensor | None) -> tuple[Tensor, ...]:
    mu, log_var = p.differentiable
    z = mu + torch.exp(0.5 * log_var) * _noise(mu, noise)
    l = _wide(log_var)
    return z, 0.5 * (_wide(mu).square() + l.exp() - l - 1).sum(dim=1)


def _conditional_by_hand(p: Problem, noise: Tensor | None) -> tuple[Tensor, ...]:
    mu, log_var, prior_mu, prior_log_var, gate = p.differentiable
    z = (mu + torch.exp(0.5 * log_var) * _noise(mu, noise)) * torch.sigmoid(gate)
    delta = _wide(log_var) - _wide(prior_log_var)
    scaled = (_wide(mu) - _wide(prior_mu)).square() * torch.exp(-_wide(prior_log_var))
    return z, 0.5 * (scaled + delta.exp() - delta - 1).sum(dim=1)


def _cholesky_by_hand(p: Problem, noise: Tensor | None) -> tuple[Tensor, ...]:
    mu, tril = p.differentiable
    rows, cols = mu.shape
    noise = _noise(mu, noise)
    below, at = torch.tril_indices(cols, cols, device=mu.device), torch.arange(cols, device=mu.device)
    t = tril[:, at * (at + 3) // 2]
    packed = torch.zeros(rows, cols * cols, dtype=tril.dtype, device=mu.device)
    lower = packed.index_copy(1, below[0] * cols + below[1], tril).view(rows, cols, cols).tril(-1)
    z = mu + (lower @ noise.unsqueeze(2)).squeeze(2) + t.exp() * noise
    squares = _wide(lower).square().sum(dim=2) + _wide(mu).square()
    return z, 0.5 * (squares + (2 * _wide(t)).exp() - 2 * _wide(t) - 1).sum(dim=1)


def _nll_by_hand(p: Problem, _: Tensor | None) -> tuple[Tensor, ...]:
    x_hat, log_gamma = p.differentiable[:2]
    (x,) = p.fixed
    constant = x.shape[1] * (math.log(2 * math.pi) + log_gamma)
    return (0.5 * ((_wide(x_hat) - _wide(x)).square().sum(dim=1) / log_gamma.exp() + constant),)


def _elbo_by_hand(p: Problem, _: Tensor | None) -> tuple[Tensor, ...]:
    return ((_nll_by_hand(p, None)[0] + p.differentiable[2]).mean(),)


def _nll(run: Any, p: Problem) -> tuple[Tensor, ...]:
    return run.gaussian_nll(p.differentiable[0], p.fixed[0], p.differentiable[1])


def _nll_backward(run: Any, p: Problem, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x_hat, log_gamma = p.differentiable
    return run.gaussian_nll_backward(p.incoming[0], None, x_hat, p.fixed[0], log_gamma, outputs[1])


def _elbo(run: Any, p: Problem) -> tuple[Tensor, ...]:
    x_hat, log_gamma, kl = p.differentiable
    return run.gaussian_elbo(x_hat, p.fixed[0], log_gamma, kl, 1.0, True)


def elbo_backward(run: Any, p: Problem, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The gradients have been written in the forward pass, and the loss's own is 1: a kernel looks at it."""
    run.gaussian_elbo_scale(*outputs[3:], p.incoming[0])
    return *outputs[3:5], outputs[5].expand(p.differentiable[2].shape)


_CHOLESKY = Op(
    "rsample_kl_cholesky",
    lambda normal, b, k: ((normal(b, k), 0.1 * normal(b, k * (k + 1) // 2)), ()),
    lambda run, p: run.rsample_kl_cholesky(*p.differentiable, None, None, p.seed, 0, False, False)[:2],
    lambda run, p, _: run.rsample_kl_cholesky_backward(*p.incoming, *p.differentiable, None, None, p.seed, 0, False)[
        :2
    ],
    _cholesky_by_hand,
    (2**14, 128),
    ((512, 32), (512, 128)),
)

OPS = (
    Op(
        "rsample_kl",
        lambda normal, b, k: ((normal(b, k), normal(b, k)), ()),
        lambda run, p: run.rsample_kl(*p.differentiable, None, None, None, p.seed, 0, False, False)[:2],
        lambda run, p, _: run.rsample_kl_backward(
            *p.incoming, *p.differentiable, None, None, None, p.seed, 0, False, False
        )[:2],
        _rsample_kl_by_hand,
        (2**18, 256),
        ((128, 20), (512, 32), (4096, 64), (100_000, 20)),
    ),
    Op(
        "rsample_kl, prior and gate",
        lambda normal, b, k: (tuple(normal(b, k) for _ in range(5)), ()),
        lambda run, p: run.rsample_kl(*p.differentiable, p.seed, 0, False, False)[:2],
        lambda run, p, _: run.rsample_kl_backward(*p.incoming, *p.differentiable, p.seed, 0, True, True),
        _conditional_by_hand,
        (2**18, 256),
        ((512, 32),),
    ),
    _CHOLESKY,
    _CHOLESKY._replace(large=(2**18, 32), small=()),  # of the paper
    Op(
        "gaussian_nll",
        lambda normal, b, d: ((normal(b, d), normal().float()), (normal(b, d),)),
        _nll,
        _nll_backward,
        _nll_by_hand,
        (2**15, 2048),
        ((128, 20), (512, 784), (4096, 784)),
    ),
    Op(
        "gaussian_elbo, gradients written at once",
        lambda normal, b, d: ((normal(b, d), normal().float(), normal(b).float()), (normal(b, d),)),
        _elbo,
        elbo_backward,
        _elbo_by_hand,
        (2**15, 2048),
        ((128, 20), (512, 784)),
    ),
)


def problem(op: Op, rows: int, cols: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """One call's arguments, drawn on the device, the same each time; of a mean, the incoming gradient is 1."""
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
