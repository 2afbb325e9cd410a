"""Sample + KL of a Gaussian with full covariance, forward and backward, on a CPU: manifold_core against PyTorch.

    eager          by hand, as one writes it first: L[:, i, j] = tril, exp of the diagonal, a batched matrix-vector
                   product with torch.randn, the KL from the squares of L
    tuned          by hand, with the ways of PyTorch in mind: index_copy in place of the indexed assignment, the KL from
                   the packed numbers
    distributions  torch.distributions: MultivariateNormal.rsample and kl_divergence
    diagonal       manifold_core's op for a diagonal covariance, beside ours: other work, the price of the triangle

How it is measured: :mod:`benchmarks.comparison`.

    python -m benchmarks.cholesky_against_eager [--rounds N] [--out FILE.json]
"""

import torch
from manifold_core.kernels.rsample_kl_cholesky import reference
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

import manifold_core as mc

from .comparison import Comparison, Gradients, Problem, Size, in_float64, largest_difference


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


def _backward(z: Tensor, kl: Tensor, p: Problem, name: str = "tril") -> Gradients:
    loss = kl.mean()
    return torch.autograd.grad((loss, z), (p["mu"], p[name]), (torch.ones_like(loss), p["grad_z"]))


def _unpacked(tril: Tensor, latents: int) -> tuple[Tensor, Tensor]:
    """L, ``[B, κ, κ]``, and the logarithms of its diagonal."""
    row, col = torch.tril_indices(latents, latents)
    scale = tril.new_zeros(len(tril), latents, latents)
    scale[:, row, col] = tril
    log_diagonal = scale.diagonal(dim1=1, dim2=2)
    return scale.tril(-1) + torch.diag_embed(log_diagonal.exp()), log_diagonal


def eager(p: Problem) -> Gradients:
    """By hand, as one writes it first."""
    mu = p["mu"]
    scale, log_diagonal = _unpacked(p["tril"], mu.shape[1])
    z = mu + (scale @ torch.randn_like(mu).unsqueeze(-1)).squeeze(-1)
    kl = 0.5 * (mu.square().sum(dim=1) + scale.square().sum(dim=(1, 2)) - mu.shape[1]) - log_diagonal.sum(dim=1)
    return _backward(z, kl, p)


def tuned(p: Problem) -> Gradients:
    """By hand, with the fastest operators that PyTorch has for each step."""
    mu, tril = p["mu"], p["tril"]
    batch, latents = mu.shape
    row, col = torch.tril_indices(latents, latents)
    index = torch.arange(latents)
    on_diagonal = index * (index + 3) // 2
    log_diagonal = tril.index_select(1, on_diagonal)
    packed = tril.index_copy(1, on_diagonal, log_diagonal.exp())
    flat = tril.new_zeros(batch, latents * latents).index_copy(1, row * latents + col, packed)
    z = mu + torch.bmm(flat.view(batch, latents, latents), torch.randn_like(mu).unsqueeze(-1)).squeeze(-1)
    kl = 0.5 * (mu.square().sum(dim=1) + packed.square().sum(dim=1) - latents) - log_diagonal.sum(dim=1)
    return _backward(z, kl, p)


def distributions(p: Problem) -> Gradients:
    """Through torch.distributions, its checks of arguments off."""
    latents = p["mu"].shape[1]
    scale, _ = _unpacked(p["tril"], latents)
    posterior = MultivariateNormal(p["mu"], scale_tril=scale, validate_args=False)
    prior = MultivariateNormal(torch.zeros(latents), scale_tril=torch.eye(latents), validate_args=False)
    return _backward(posterior.rsample(), kl_divergence(posterior, prior), p)


def fused(p: Problem, seed: int | None = None) -> Gradients:
    """The same through manifold_core."""
    return _backward(*mc.rsample_kl_cholesky(p["mu"], p["tril"], seed=seed), p)


def diagonal(p: Problem) -> Gradients:
    """The diagonal op on as many samples and latents."""
    return _backward(*mc.rsample_kl(p["mu"], p["log_var"]), p, "log_var")


def largest_error(p: Problem) -> float:
    """Of the fused gradients against the float64 reference on the same noise."""
    wide = in_float64(p)
    z, kl, _ = reference.rsample_kl_cholesky(wide["mu"], wide["tril"], None, None, torch.tensor(7))
    return largest_difference(fused(p, seed=7), _backward(z, kl, wide))


def bytes_of_arrays(batch: int, latents: int) -> int:
    """tril read twice and its gradient; mu twice, z, its gradient and that of mu; float32."""
    return 4 * batch * (3 * latents * (latents + 1) // 2 + 5 * latents)


COMPARISON = Comparison(
    module="benchmarks.cholesky_against_eager",
    axes="B, kappa",
    sizes=(Size((512, 32), 300, 30.0), Size((4096, 32), 60, 30.0), Size((512, 128), 60, 60.0)),
    problem=problem,
    contenders={
        "eager": eager,
        "tuned": tuned,
        "distributions": distributions,
        "diagonal": diagonal,
        "fused": fused,
    },
    largest_error=largest_error,
    bytes_of_arrays=bytes_of_arrays,
)

if __name__ == "__main__":
    COMPARISON.main(__doc__)
