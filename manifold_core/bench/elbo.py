"""Sample + KL + NLL of a diagonal Gaussian, forward and backward, through the ops ``rsample_kl`` and ``gaussian_elbo``.

GaussianELBO         the module that calls them, and returns the variance ratio and the terms of each sample too
eager                by hand, as one writes it
torch.distributions  Normal: rsample, kl_divergence, log_prob, their checks of arguments off
torch.compile        of eager
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ..kernels.gaussian_elbo import gaussian_elbo
from ..kernels.gaussian_elbo import reference as elbo_reference
from ..kernels.rsample_kl import reference as sample_reference
from ..kernels.rsample_kl import rsample_kl
from ..models.elbo import GaussianELBO
from . import by_hand
from .comparison import Call, Comparison, Forward, Problem, contender, largest, largest_error

__all__ = ["COMPARISON"]


def problem(batch: int, features: int, latents: int) -> Problem:
    """Leaf tensors of one size: what an encoder and a decoder would have made."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "mu": normal(batch, latents).requires_grad_(),
        "log_var": normal(batch, latents).requires_grad_(),
        "x_hat": normal(batch, features).requires_grad_(),
        "x": normal(batch, features),
        "log_gamma": torch.zeros((), requires_grad=True),
        "grad_z": normal(batch, latents),  # what comes back from the decoder
    }


def gradients(forward: Forward, p: Problem) -> tuple[Tensor, ...]:
    loss, z = forward(p)
    wanted = (p["mu"], p["log_var"], p["x_hat"], p["log_gamma"])
    return torch.autograd.grad((loss, z), wanted, (torch.ones_like(loss), p["grad_z"]))


def eager(p: Problem) -> tuple[Tensor, Tensor]:
    z, kl = by_hand.sample_and_kl(p["mu"], p["log_var"])
    return (by_hand.nll(p["x_hat"], p["x"], p["log_gamma"]) + kl).mean(), z


def distributions(p: Problem) -> tuple[Tensor, Tensor]:
    q = Normal(p["mu"], torch.exp(0.5 * p["log_var"]), validate_args=False)
    prior = Normal(torch.zeros(()), torch.ones(()), validate_args=False)
    z, kl = q.rsample(), kl_divergence(q, prior).sum(dim=1)
    likelihood = Normal(p["x_hat"], torch.exp(0.5 * p["log_gamma"]), validate_args=False)
    return (kl - likelihood.log_prob(p["x"]).sum(dim=1)).mean(), z


def fused(p: Problem, seed: int | None = None) -> tuple[Tensor, Tensor]:
    z, kl = rsample_kl(p["mu"], p["log_var"], seed=seed)
    return gaussian_elbo(p["x_hat"], p["x"], p["log_gamma"], kl)[0], z


def with_module(*size: int) -> tuple[Problem, Callable[..., tuple[Tensor, Tensor]]]:
    """GaussianELBO, whose log γ is that of the problem."""
    p, elbo = problem(*size), GaussianELBO()
    p["log_gamma"] = elbo.log_gamma

    def forward(p: Problem, seed: int | None = None) -> tuple[Tensor, Tensor]:
        terms = elbo(p["x"], (p["mu"], p["log_var"]), lambda _: p["x_hat"], seed=seed)
        return terms.loss, terms.z

    return p, forward


def exact(p: Problem) -> tuple[Tensor, Tensor]:
    """The definition, with the noise of seed 7."""
    z, kl, _ = sample_reference.rsample_kl(p["mu"], p["log_var"], None, None, None, torch.tensor(7))
    return elbo_reference.gaussian_elbo(p["x_hat"], p["x"], p["log_gamma"], kl, 1.0)[0], z


def error(*size: int) -> float:
    """The error of results and gradients of the ops and the module, against the definition in float64."""
    p, module = with_module(*size)
    return largest(largest_error(partial(way, seed=7), exact, gradients, p) for way in (fused, module))


def bytes_moved(batch: int, features: int, latents: int) -> int:
    """mu, log_var, z, its gradient and two gradients; x, x_hat and its gradient; float32."""
    return 4 * batch * (6 * latents + 3 * features)


def operations(batch: int, features: int, latents: int) -> int:
    """Per latent: z 4, KL 5, two gradients 6. Per feature: squared error 3, gradient 1."""
    return batch * (15 * latents + 4 * features)


def _module(*size: int) -> Call:
    p, forward = with_module(*size)
    return Call(lambda: gradients(forward, p))


def _compiled(*size: int) -> Call:
    return contender(problem, gradients, torch.compile(eager, dynamic=False))(*size)


COMPARISON = Comparison(
    name="elbo",
    title="Sample + KL + NLL, diagonal covariance, forward and backward",
    axes="B, d, κ",
    goals={(128, 20, 20): 3.0, (512, 784, 32): 3.0, (4096, 784, 64): 5.0, (100_000, 20, 20): 5.0},
    contenders={
        "eager": contender(problem, gradients, eager),
        "manifold_core": contender(problem, gradients, fused),
        "GaussianELBO": _module,
        "torch.distributions": contender(problem, gradients, distributions),
        "torch.compile": _compiled,
    },
    error=error,
    allowed=2e-6,
    bytes_moved=bytes_moved,
    operations=operations,
    ours=("manifold_core", "GaussianELBO"),
)
