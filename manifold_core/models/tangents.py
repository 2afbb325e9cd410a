"""The derivative of a decoder, and the posterior covariance that follows from it."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import InputError

__all__ = ["decoder_spectrum", "tangents"]

MOST_NUMBERS = 2**22  # that the decoder is given, or gives, in one pass


def tangents(decoder: Callable[..., Tensor], z: Tensor, *conditions: Tensor, features: int) -> Tensor:
    """∂x̂_i/∂z_j at every z ``[B, κ]``: ``[B, κ, d]``, of a decoder that treats samples on their own and gives d
    ``features`` of each. It is called with every sample once for each latent dimension, each time along another: with
    as many of these at a time as are :data:`MOST_NUMBERS`, and one at least.

    Raises:
        InputError: the decoder has no derivative in forward mode.
    """
    samples, kappa = z.shape
    widest = max(features, *(part.shape[1:].numel() for part in (z, *conditions)))
    at_a_time = max(MOST_NUMBERS // max(samples * widest, 1), 1)
    passes = (range(first, min(first + at_a_time, kappa)) for first in range(0, kappa, at_a_time))
    return torch.cat([_along(axes, decoder, z, *conditions) for axes in passes], dim=1)


def _along(axes: range, decoder: Callable[..., Tensor], z: Tensor, *conditions: Tensor) -> Tensor:
    """Of these latent dimensions, ``[B, axes, d]``."""
    samples, kappa = z.shape
    # In inference mode tangents are dropped without a word; of what is compiled there is no derivative in forward mode.
    with torch.inference_mode(False), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        repeated, *under = (part.repeat_interleave(len(axes), dim=0) for part in (z, *conditions))
        units = torch.eye(len(axes), kappa, dtype=z.dtype, device=z.device).roll(axes.start, dims=1)
        along = units.repeat(samples, 1)
        with forward_ad.dual_level():
            with warnings.catch_warnings():  # of PyTorch's own use of torch.jit, the first time
                warnings.simplefilter("ignore", DeprecationWarning)
                moved = forward_ad.make_dual(repeated, along)
            try:
                x_hat = decoder(moved, *under)
            except RuntimeError as error:
                if not isinstance(error, NotImplementedError) and "jvp" not in str(error):
                    raise
                raise InputError(f"model must have a decoder with a derivative in forward mode: {error}") from error
            found = forward_ad.unpack_dual(x_hat).tangent
    if found is None:  # it does not look at z
        found = torch.zeros_like(x_hat)
    return found.reshape(samples, len(axes), -1)


def decoder_spectrum(tangents: Tensor, log_gamma: Tensor, prior_log_var: Tensor | None) -> Tensor:
    """Eigenvalues of (I + S JᵀJ S/γ)⁻¹, S = diag σ_p, of every sample, ascending, float64 ``[B, κ]``: J is that of
    ``tangents``, ``[B, κ, d]``. None is Σ_p = I. NaN where a number of the sample is not finite."""
    jacobian = tangents.double()
    kappa, features = jacobian.shape[1:]
    if prior_log_var is not None:
        jacobian = torch.exp(prior_log_var.double() / 2).unsqueeze(-1) * jacobian
    # Of the two products the smaller: they have the same eigenvalues, but for as many zeros as one is larger.
    precision = jacobian @ jacobian.mT if kappa <= features else jacobian.mT @ jacobian
    precision = precision / log_gamma.double().exp()  # but for I
    finite = precision.isfinite().flatten(1).all(dim=1)
    # What is not finite they would refuse. Rounding makes some that are 0 negative.
    found = torch.linalg.eigvalsh(torch.where(finite[:, None, None], precision, 0.0)).clamp_min(0).flip(1)
    found = torch.nn.functional.pad(found, (0, kappa - found.shape[1]))
    return torch.where(finite[:, None], 1 / (1 + found), torch.nan)
