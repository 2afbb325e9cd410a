"""What a training step has to compute, written out in plain float64 PyTorch."""

import math
from dataclasses import dataclass

import torch
from manifold_core.kernels.random import permutation, standard_normal
from torch import Tensor
from torch.nn import functional as F

import manifold_core as mc

__all__ = ["Step", "Weights", "expected_step", "gradient_scales", "losses", "mini_batch", "weights_of"]

Weights = dict[str, Tensor]


def weights_of(spec: mc.ModelSpec, data_dim: int) -> Weights:
    """The numbers that a model starts from, and log γ where it is no parameter."""
    model = spec.build(data_dim)
    found = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return found if "elbo.log_gamma" in found else found | {"elbo.log_gamma": model.elbo.log_gamma}


def mini_batch(spec: mc.ModelSpec, samples: int, step: int) -> tuple[Tensor, Tensor]:
    """The samples of a step, and their noise."""
    run, size = spec.training.seed, min(spec.training.batch_size, samples)
    epoch, k = divmod(step, samples // size)
    places = torch.arange(k * size, (k + 1) * size).unsqueeze(0)
    index = permutation(torch.tensor(run), torch.tensor([epoch]), places, samples)[0]
    return index, standard_normal(torch.tensor(run * 2**32 + step), size, spec.latent_dim)


def mlp(w: Weights, name: str, h: Tensor, kinks: list[Tensor]) -> Tensor:
    """Linear layers and an activation between them; PReLU where the weights have its slope. What the activations are
    applied to is added to ``kinks``."""
    at = 0
    while True:
        features = h
        h = F.linear(features, w[f"{name}.{at}.weight"], w[f"{name}.{at}.bias"])
        if f"{name}.{at + 2}.weight" not in w:
            below = f"{name}.{at}.below"  # of a full covariance: what stands left of the diagonal
            if f"{below}.weight" not in w:
                return h
            return torch.cat((h, F.linear(features, w[f"{below}.weight"], w[f"{below}.bias"])), dim=1)
        kinks.append(h)
        h = torch.where(h > 0, h, w.get(f"{name}.{at + 1}.weight", 0) * h)
        at += 2


@dataclass(frozen=True)
class Losses:
    """Of each sample, but for ``log_gamma``.

    Attributes:
        kl, squared_error: ``[B]``.
        ratio: ``[B, κ]``, posterior's over prior's variance.
        log_gamma: of no dimensions.
        kinks: what the activations are applied to, each ``[B, width]``.
    """

    kl: Tensor
    squared_error: Tensor
    ratio: Tensor
    log_gamma: Tensor
    kinks: list[Tensor]


def losses(spec: mc.ModelSpec, w: Weights, x: Tensor, c: Tensor, noise: Tensor) -> Losses:
    """Of samples ``[B, d]`` and conditions ``[B, t]``, of a VAE ``[B, 0]``."""
    kinks: list[Tensor] = []
    conditional = spec.condition_dim > 0
    features = [mlp(w, "encoder.condition", c, kinks)] if conditional else []
    kappa = spec.latent_dim
    posterior = mlp(w, "encoder.layers", torch.cat((x, *features), dim=1), kinks)
    mu, spread, below = posterior.tensor_split((kappa, 2 * kappa), dim=1)
    prior_mu = prior_log_var = torch.zeros_like(mu)
    if conditional and spec.prior == "learned":
        prior_mu, prior_log_var = mlp(w, "prior.layers", c, kinks).split(kappa, dim=1)
    if spec.covariance == "cholesky":  # spread is log L_jj, and below are rows of L over L_jj
        log_var = 2 * spread
        unit = torch.eye(kappa, dtype=x.dtype).expand(len(x), -1, -1)
        rows, columns = torch.tril_indices(kappa, kappa, -1)
        for k, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
            place = torch.zeros(kappa, kappa, dtype=x.dtype)
            place[row, column] = 1
            unit = unit + below[:, k, None, None] * place
        factor = torch.exp(spread).unsqueeze(2) * unit
    else:
        log_var = spread
        factor = torch.diag_embed(torch.exp(spread / 2))
    variance = (factor**2).sum(dim=2)
    ratio = variance * torch.exp(-prior_log_var)
    delta = log_var - prior_log_var
    kl = 0.5 * ((mu - prior_mu) ** 2 * torch.exp(-prior_log_var) + ratio - 1 - delta).sum(dim=1)
    z = mu + (factor @ noise.unsqueeze(2)).squeeze(2)
    if conditional and spec.attention:
        z = z / (1 + torch.exp(-mlp(w, "gate.layers", c, kinks)))
    features = [mlp(w, "decoder.condition", c, kinks)] if conditional else []
    x_hat = mlp(w, "decoder.layers", torch.cat((z, *features), dim=1), kinks)
    squared_error = ((x - x_hat) ** 2).sum(dim=1)
    log_gamma = w["elbo.log_gamma"]
    if spec.gamma == "analytic":  # at the optimum its own gradient is zero
        log_gamma = (squared_error.mean() / x.shape[1]).log().detach()
    return Losses(kl, squared_error, ratio, log_gamma, kinks)


@dataclass(frozen=True)
class Step:
    """
    Attributes:
        gradients: of the mean over the batch, by the name of the parameter.
        record: nll, kl, squared error, log γ, and the variance ratio of each latent dimension: means over the batch.
        record_scales: what their rounding is relative to.
    """

    gradients: Weights
    record: Tensor
    record_scales: Tensor


def negative_elbo(found: Losses, features: int, log_gamma: Tensor) -> Tensor:
    """Of each sample, nats."""
    nll = found.squared_error / torch.exp(log_gamma) + features * (math.log(2 * math.pi) + log_gamma)
    return nll / 2 + found.kl


def moving(spec: mc.ModelSpec, w: Weights) -> Weights:
    return {name: tensor for name, tensor in w.items() if name != "elbo.log_gamma" or spec.gamma == "learned"}


def expected_step(spec: mc.ModelSpec, w: Weights, x: Tensor, c: Tensor, noise: Tensor) -> Step:
    """Everything in the type of its arguments."""
    d = x.shape[1]
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in moving(spec, w).items()}
    found = losses(spec, w | leaves, x, c, noise)
    loss = negative_elbo(found, d, found.log_gamma).mean()
    gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    squared_error, used = found.squared_error.mean(), found.log_gamma
    scaled, rest = squared_error / torch.exp(used), d * (math.log(2 * math.pi) + used)
    kl, ratio = found.kl.mean(), found.ratio.mean(dim=0)
    return Step(
        gradients,
        record=torch.cat((torch.stack(((scaled + rest) / 2, kl, squared_error, used)), ratio)).detach(),
        record_scales=torch.cat(
            (torch.stack((scaled + rest.abs(), kl, squared_error, used.abs() + 1)), ratio)
        ).detach(),
    )


def gradient_scales(spec: mc.ModelSpec, w: Weights, x: Tensor, c: Tensor, noise: Tensor) -> dict[str, float]:
    """Of each parameter the largest of the means over the batch of |gradient of a sample|: what the rounding of its
    gradient is relative to."""
    log_gamma = losses(spec, w, x, c, noise).log_gamma

    def of_one(moving: Weights, x: Tensor, c: Tensor, noise: Tensor) -> Tensor:
        alone = losses(spec, w | moving, x[None], c[None], noise[None])
        used = moving["elbo.log_gamma"] if spec.gamma == "learned" else log_gamma
        return negative_elbo(alone, len(x), used)[0]

    each = torch.func.vmap(torch.func.grad(of_one), in_dims=(None, 0, 0, 0))(moving(spec, w), x, c, noise)
    return {name: float(g.abs().mean(dim=0).max()) for name, g in each.items()}
