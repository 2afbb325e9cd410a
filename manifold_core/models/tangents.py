"""The derivative of a decoder, and the posterior covariance that follows from it."""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import InputError

__all__ = ["decoder_spectrum", "tangents"]

MOST_NUMBERS = 2**22  # that the decoder is given, or gives, in one pass
COMPARED = 8  # samples at which both modes are asked


def tangents(decoder: Callable[..., Tensor], z: Tensor, *conditions: Tensor, features: int) -> Tensor:
    """∂x̂_i/∂z_j at every z ``[B, κ]``: ``[B, κ, d]``, of a decoder that treats samples on their own and gives d
    ``features`` of each.

    In forward mode it is called with every sample once for each latent dimension, each time along another: with as many
    of these at a time as are :data:`MOST_NUMBERS`, and one at least. If the decoder has no derivative in forward
    mode, or another one than in reverse mode, which training follows, it is called in reverse mode for each feature.

    Raises:
        InputError: the decoder has a derivative in neither.
    """
    widest = max(features, *(part.shape[1:].numel() for part in (z, *conditions)))
    at_a_time = max(MOST_NUMBERS // max(len(z) * widest, 1), 1)

    def along_each(derivative: Callable[..., Tensor], directions: int) -> Tensor:
        passes = (range(first, min(first + at_a_time, directions)) for first in range(0, directions, at_a_time))
        return torch.cat([_along(axes, directions, derivative, z, *conditions) for axes in passes], dim=1)

    # In inference mode tangents are dropped without a word; of what is compiled there is no derivative in forward mode.
    with torch.inference_mode(False), torch.compiler.set_stance("force_eager"):
        if _has_forward_mode(decoder, z[:COMPARED], *(part[:COMPARED] for part in conditions), features=features):
            return along_each(partial(_pushed, decoder), z.shape[1])
        return along_each(partial(_pulled, decoder), features).mT


def _along(axes: range, directions: int, derivative: Callable[..., Tensor], z: Tensor, *conditions: Tensor) -> Tensor:
    """Along these of that many unit vectors: ``[B, axes, …]``."""
    repeated = (part.repeat_interleave(len(axes), dim=0) for part in (z, *conditions))
    units = torch.eye(len(axes), directions, dtype=z.dtype, device=z.device).roll(axes.start, dims=1)
    return derivative(units.repeat(len(z), 1), *repeated).reshape(len(z), len(axes), -1)


def _pushed(decoder: Callable[..., Tensor], v: Tensor, z: Tensor, *conditions: Tensor) -> Tensor:
    """J·v of each sample, ``[B, d]``, in forward mode."""
    with torch.no_grad(), forward_ad.dual_level():
        with warnings.catch_warnings():  # of PyTorch's own use of torch.jit, the first time
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)  # the same, from torch 2.14 on
            moved = forward_ad.make_dual(z, v)
        x_hat = decoder(moved, *conditions)
        found = forward_ad.unpack_dual(x_hat).tangent
    return (torch.zeros_like(x_hat) if found is None else found).flatten(1)  # None: it does not look at z


def _pulled(decoder: Callable[..., Tensor], u: Tensor, z: Tensor, *conditions: Tensor) -> Tensor:
    """Jᵀ·u of each sample, ``[B, κ]``, in reverse mode."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        x_hat = decoder(z, *conditions)
        (found,) = torch.autograd.grad(x_hat, z, u.to(x_hat.dtype).view_as(x_hat), materialize_grads=True)
    return found


def _has_forward_mode(decoder: Callable[..., Tensor], z: Tensor, *conditions: Tensor, features: int) -> bool:
    """Whether uᵀ(J v) is (Jᵀu)ᵀv at these samples. An operator of torch.library that has a derivative in reverse mode
    drops tangents without a word, and attention has none."""
    inputs = [part.clone() for part in (z, *conditions)]  # not tensors of inference mode
    numbers = (torch.arange(1, n + 1, device=z.device).to(z.dtype).cos() for n in (features, z.shape[1]))
    u, v = (each.expand(len(z), -1) for each in numbers)
    pulled, no_reverse = None, ""
    try:
        pulled = _pulled(decoder, u, *inputs)
    except RuntimeError as error:  # such as of a decoder that keeps no gradients
        no_reverse = str(error)
    try:
        pushed = _pushed(decoder, v, *inputs)
    except RuntimeError as error:
        if not isinstance(error, NotImplementedError) and "jvp" not in str(error):
            raise
        if pulled is not None:
            return False
        raise InputError(
            f"model must have a decoder with a derivative, in forward mode: {error}; or in reverse mode: {no_reverse}"
        ) from error
    if pulled is None:
        return True
    difference = (u * pushed).sum(dim=1) - (pulled * v).sum(dim=1)
    scale = pulled.norm(dim=1) * v.norm(dim=1)
    return bool((difference.abs() <= torch.finfo(pulled.dtype).eps ** 0.5 * scale).all())


def decoder_spectrum(tangents: Tensor, log_gamma: Tensor, prior_log_var: Tensor | None) -> Tensor:
    """Eigenvalues of (I + S JᵀJ S/γ)⁻¹, S = diag σ_p, of every sample, ascending, float64 ``[B, κ]``: J is that of
    ``tangents``, ``[B, κ, d]``. None is Σ_p = I. NaN if a number of the sample is not finite."""
    jacobian = tangents.double()
    kappa, features = jacobian.shape[1:]
    if prior_log_var is not None:
        jacobian = torch.exp(prior_log_var.double() / 2).unsqueeze(-1) * jacobian
    # The smaller of the two products: they have the same eigenvalues, but for as many zeros as one is larger.
    precision = jacobian @ jacobian.mT if kappa <= features else jacobian.mT @ jacobian
    precision = precision / log_gamma.double().exp()  # but for I
    finite = precision.isfinite().flatten(1).all(dim=1)
    # torch.linalg refuses what is not finite. Rounding makes some eigenvalues that are 0 negative.
    found = torch.linalg.eigvalsh(torch.where(finite[:, None, None], precision, 0.0)).clamp_min(0).flip(1)
    found = torch.nn.functional.pad(found, (0, kappa - found.shape[1]))
    return torch.where(finite[:, None], 1 / (1 + found), torch.nan)
