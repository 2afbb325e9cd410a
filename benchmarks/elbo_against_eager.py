"""Sample + KL + NLL, forward and backward, on a CPU: manifold_core against eager PyTorch in the same run.

How it is measured: :mod:`benchmarks.comparison`.

    python -m benchmarks.elbo_against_eager [--rounds N] [--out FILE.json]
"""

import math

import torch
from manifold_core.kernels.gaussian_elbo import gaussian_elbo
from manifold_core.kernels.gaussian_elbo import reference as elbo_reference
from manifold_core.kernels.rsample_kl import reference as sample_reference
from torch import Tensor

import manifold_core as mc

from .comparison import Comparison, Gradients, Problem, Size, in_float64, largest_difference


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


def _backward(loss: Tensor, z: Tensor, p: Problem) -> Gradients:
    wanted = (p["mu"], p["log_var"], p["x_hat"], p["log_gamma"])
    return torch.autograd.grad((loss, z), wanted, (torch.ones_like(loss), p["grad_z"]))


def eager(p: Problem) -> Gradients:
    """As one writes it by hand."""
    mu, log_var, x_hat, x, log_gamma = p["mu"], p["log_var"], p["x_hat"], p["x"], p["log_gamma"]
    z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
    kl = 0.5 * (mu.square() + log_var.exp() - log_var - 1).sum(dim=1)
    constant = x.shape[1] * (math.log(2 * math.pi) + log_gamma)
    nll = 0.5 * ((x - x_hat).square().sum(dim=1) / log_gamma.exp() + constant)
    return _backward((nll + kl).mean(), z, p)


def fused(p: Problem, seed: int | None = None) -> Gradients:
    """The same through manifold_core, as GaussianELBO calls it."""
    z, kl = mc.rsample_kl(p["mu"], p["log_var"], seed=seed)
    loss, _, _ = gaussian_elbo(p["x_hat"], p["x"], p["log_gamma"], kl)
    return _backward(loss, z, p)


def largest_error(p: Problem) -> float:
    """Of the fused gradients against the float64 reference on the same noise."""
    wide = in_float64(p)
    z, kl, _ = sample_reference.rsample_kl(wide["mu"], wide["log_var"], None, None, None, torch.tensor(7))
    loss, _, _ = elbo_reference.gaussian_elbo(wide["x_hat"], wide["x"], wide["log_gamma"], kl, 1.0)
    return largest_difference(fused(p, seed=7), _backward(loss, z, wide))


def bytes_of_arrays(batch: int, features: int, latents: int) -> int:
    """mu, log_var, z, its gradient and two gradients; x, x_hat and its gradient; float32, each once."""
    return 4 * batch * (6 * latents + 3 * features)


COMPARISON = Comparison(
    module="benchmarks.elbo_against_eager",
    axes="B, d, kappa",
    sizes=(
        Size((128, 20, 20), 2000, 3.0),
        Size((512, 784, 32), 300, 3.0),
        Size((4096, 784, 64), 60, 5.0),
        Size((100_000, 20, 20), 60, 5.0),
    ),
    problem=problem,
    contenders={"eager": eager, "fused": fused},
    largest_error=largest_error,
    bytes_of_arrays=bytes_of_arrays,
)

if __name__ == "__main__":
    COMPARISON.main(__doc__)
