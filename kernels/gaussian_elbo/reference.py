"""The definition of ``gaussian_elbo``, in plain PyTorch; exact in float64."""

from torch import Tensor

from ..batch_sums import mean_of_batch
from ..gaussian_nll import reference

__all__ = ["gaussian_elbo"]


def gaussian_elbo(
    x_hat: Tensor, x: Tensor, log_gamma: Tensor, kl: Tensor, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    nll, squared_error = reference.gaussian_nll(x_hat, x, log_gamma)
    return mean_of_batch(nll + beta * kl.to(nll.dtype)), nll, squared_error
