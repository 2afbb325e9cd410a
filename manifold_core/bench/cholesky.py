"""Sample + KL of a Gaussian with full covariance, forward and backward, through ``rsample_kl_cholesky``.

eager                by hand, as one writes it first: L[:, i, j] = tril, exp of the diagonal, a batched matrix-vector
                     product with torch.randn, the KL from the squares of L
tuned                by hand, with PyTorch's fastest operators
torch.distributions  MultivariateNormal: rsample and kl_divergence, their checks of arguments off
torch.compile        of tuned
diagonal             our op for a diagonal covariance: other work, to show the price of the triangle
"""

from functools import partial

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from ..kernels.rsample_kl import rsample_kl
from ..kernels.rsample_kl_cholesky import reference, rsample_kl_cholesky
from . import by_hand
from .comparison import Call, Comparison, Forward, Problem, contender, largest_error

__all__ = ["COMPARISON"]


def problem(batch: int, latents: int) -> Problem:
    """Leaf tensors of one size: what an encoder would have made."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "mu": normal(batch, latents).requires_grad_(),
        "tril": (0.1 * normal(batch, latents * (latents + 1) // 2)).requires_grad_(),
        "log_var": normal(batch, latents).requires_grad_(),  # of the diagonal op
        "grad_z": normal(batch, latents),  # what comes back from the decoder
    }


def gradients(forward: Forward, p: Problem, spread: str = "tril") -> tuple[Tensor, ...]:
    z, kl = forward(p)
    loss = kl.mean()
    return torch.autograd.grad((loss, z), (p["mu"], p[spread]), (torch.ones_like(loss), p["grad_z"]))


def eager(p: Problem) -> tuple[Tensor, Tensor]:
    return by_hand.sample_and_kl_full(p["mu"], p["tril"])


def tuned(p: Problem) -> tuple[Tensor, Tensor]:
    return by_hand.tuned_sample_and_kl_full(p["mu"], p["tril"])


def distributions(p: Problem) -> tuple[Tensor, Tensor]:
    latents = p["mu"].shape[1]
    scale, _ = by_hand.unpacked(p["tril"], latents)
    posterior = MultivariateNormal(p["mu"], scale_tril=scale, validate_args=False)
    prior = MultivariateNormal(torch.zeros(latents), scale_tril=torch.eye(latents), validate_args=False)
    return posterior.rsample(), kl_divergence(posterior, prior)


def fused(p: Problem, seed: int | None = None) -> tuple[Tensor, Tensor]:
    return rsample_kl_cholesky(p["mu"], p["tril"], seed=seed)


def exact(p: Problem) -> tuple[Tensor, Tensor]:
    """The definition, with the noise of seed 7."""
    return reference.rsample_kl_cholesky(p["mu"], p["tril"], None, None, torch.tensor(7))[:2]


def error(*size: int) -> float:
    """The error of its results and gradients, against the definition in float64."""
    return largest_error(lambda p: fused(p, seed=7), exact, gradients, problem(*size))


def bytes_moved(batch: int, latents: int) -> int:
    """tril and its gradient; mu, z, its gradient and that of mu; float32."""
    return 4 * batch * (latents * (latents + 1) + 4 * latents)


def operations(batch: int, latents: int) -> int:
    """Per number of tril: product 2, square and sum 2, gradient 4. Per latent: 8 around the diagonal."""
    return batch * (8 * latents * (latents + 1) // 2 + 8 * latents)


def _diagonal(p: Problem) -> tuple[Tensor, Tensor]:
    return rsample_kl(p["mu"], p["log_var"])


def _compiled(*size: int) -> Call:
    return contender(problem, gradients, torch.compile(tuned, dynamic=False))(*size)


COMPARISON = Comparison(
    name="cholesky",
    title="Sample + KL, full covariance, forward and backward",
    axes="B, κ",
    goals={(512, 32): 30.0, (4096, 32): 30.0, (512, 128): 60.0},
    contenders={
        "eager": contender(problem, gradients, eager),
        "manifold_core": contender(problem, gradients, fused),
        "diagonal": contender(problem, partial(gradients, spread="log_var"), _diagonal),
        "tuned": contender(problem, gradients, tuned),
        "torch.distributions": contender(problem, gradients, distributions),
        "torch.compile": _compiled,
    },
    error=error,
    allowed=2e-6,
    bytes_moved=bytes_moved,
    operations=operations,
    ours=("manifold_core", "diagonal"),
)
