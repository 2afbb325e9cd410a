"""Draws of N(0, I) in the latent space."""

import torch
from torch import Tensor, nn

from ..arguments import described
from ..errors import InputError

__all__ = ["latent_noise"]


def latent_noise(
    n: int, latent_dim: int, decoder: nn.Module, log_gamma: Tensor, generator: torch.Generator | None
) -> Tensor:
    """ε ``[n, κ]`` on the device of log γ, of the dtype that the decoder computes in, which is not always that of
    log γ. Raises InputError if ``generator`` is not one."""
    if not isinstance(generator, torch.Generator | None):
        raise InputError(
            "generator must be a torch.Generator, such as torch.Generator().manual_seed(0), or None, "
            f"got {described(generator)}"
        )
    weights = (weight for weight in decoder.parameters() if weight.is_floating_point())
    dtype = next(weights, log_gamma).dtype
    return torch.randn(n, latent_dim, generator=generator, device=log_gamma.device, dtype=dtype)
