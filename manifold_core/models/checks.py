"""Checks of samples, conditions and what networks make of them.

Only :func:`check_finite` and :func:`check_exact` read numbers. The rest looks at shapes and types: a forward pass may
not wait for the device.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..arguments import described
from ..covariance import Covariance, posterior_sizes
from ..errors import InputError
from ..networks.precision import autocast_enabled
from .elbo import GaussianELBO

__all__ = [
    "Gaussian",
    "as_condition",
    "check_decoded",
    "check_dtype",
    "check_exact",
    "check_finite",
    "check_gate",
    "check_latent",
    "check_modules",
    "check_posterior",
    "check_prior",
    "check_shape",
    "check_tensor",
    "check_x",
    "input_dtype",
    "shape_of_one",
]

Gaussian = tuple[Tensor, Tensor]  # mu and log_var, or mu and tril


def check_tensor(name: str, value: object) -> None:
    """Raise InputError for anything but a dense tensor with a dimension for the samples."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} must be a tensor, got {type(value).__name__}{_made_tensor(value)}")
    if value.is_nested:  # first: they refuse to say of which shape they are
        raise InputError(f"{name} must be dense, got a nested tensor, whose samples may differ in shape")
    if value.dim() == 0:
        raise InputError(f"{name} must have shape [N, ...], one row for each sample, got a tensor of no dimensions")
    if value.layout != torch.strided:
        raise InputError(f"{name} must be dense, got a tensor of layout {value.layout}; {name}.to_dense() makes one")


def _made_tensor(value: object) -> str:
    """How what was given instead of a tensor becomes one."""
    if isinstance(value, (list, tuple)) and any(isinstance(part, Tensor) for part in value):
        return "; torch.cat(parts, dim=1) or torch.stack(rows) makes one of several"
    if hasattr(value, "__array__") or isinstance(value, (list, tuple)):
        return "; torch.as_tensor(…, dtype=torch.float32) converts it"
    if hasattr(value, "dataset") or hasattr(value, "__getitem__"):  # a DataLoader, a Dataset
        return "; give all samples as one tensor, or train by model(batch).loss.backward() in a loop of your own"
    return ""


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise InputError that names the first row with a NaN or an infinity. Waits for the device."""
    tensor = tensor.detach()
    if tensor.sum().isfinite():  # which proves that all are finite, in a twenty-fifth of the time
        return
    finite = tensor.isfinite().reshape(len(tensor), -1).all(dim=1)
    if not finite.all():  # else the sum of finite numbers has overflowed
        raise InputError(f"{name} must be finite, but row {int((~finite).nonzero()[0])} holds NaN or an infinity")


def check_exact(name: str, made: Tensor, given: Tensor) -> None:
    """Raise InputError that names the first row whose integers became others when a floating-point dtype took them.
    Waits for the device."""
    if made.dtype == given.dtype or torch.equal(made.to(given.dtype), given):
        return
    row = int((made.to(given.dtype) != given).reshape(len(given), -1).any(dim=1).nonzero()[0])
    raise InputError(f"{name} must hold integers that {made.dtype} can hold, but row {row} has greater ones")


def check_modules(**networks: nn.Module | None) -> None:
    """Raise InputError for a plain function: the weights of a network within would be nobody's, and never trained."""
    for name, network in networks.items():
        if network is not None and not isinstance(network, nn.Module):
            raise InputError(f"{name} must be a torch.nn.Module, got {described(network)}")
        if isinstance(network, GaussianELBO):
            raise InputError(f"{name} must be a network, got a GaussianELBO: give elbo=")


def check_prior(found: object, rows: tuple[int, ...], latent_dim: int) -> Gaussian:
    """What a prior gave, each ``[*rows, κ]``, or of one row for all; raise InputError if it is something else."""
    pair = _as_pair(found)
    if pair is None or not all(_is_of_rows(part, rows, latent_dim) for part in pair):
        raise InputError(
            f"prior must return (prior_mu, prior_log_var), both of shape {(*rows, latent_dim)}, got {_described(found)}"
        )
    return pair


def check_gate(found: object, rows: int, latent_dim: int) -> Tensor:
    """What a gate gave, ``[rows, κ]``, or one row for all; raise InputError if it is something else."""
    if not isinstance(found, Tensor) or not _is_of_rows(found, (rows,), latent_dim):
        raise InputError(f"gate must return a tensor of shape {(rows, latent_dim)}, got {_described(found)}")
    return found


def _is_of_rows(found: Tensor, rows: tuple[int, ...], latent_dim: int) -> bool:
    """One row for all is as good if the rows are those of a batch."""
    for_all = [(1, latent_dim), (latent_dim,)] if len(rows) == 1 else []
    return tuple(found.shape) in [(*rows, latent_dim), *for_all]


def check_posterior(found: object, rows: tuple[int, ...], latent_dim: int, covariance: Covariance) -> Gaussian:
    """What an encoder gave, mu ``[*rows, κ]`` beside log_var or tril; raise InputError if it is something else."""
    of_mu, of_spread = posterior_sizes(latent_dim, covariance)
    mu_shape, spread_shape = (*rows, of_mu), (*rows, of_spread)
    pair = _as_pair(found)
    if pair is None or pair[0].shape != mu_shape or pair[1].shape != spread_shape:
        spread = "log_var" if covariance == "diagonal" else "tril"
        raise InputError(
            f"encoder must return (mu, {spread}) of shapes {mu_shape} and {spread_shape} for latent_dim={latent_dim}, "
            f"got {_described(found)}"
        )
    return pair


def check_decoded(found: object, x: Tensor) -> Tensor:
    """What a decoder made of the latent variables of x; raise InputError if it is something else."""
    if not isinstance(found, Tensor) or found.shape != x.shape:
        raise InputError(f"decoder must return a tensor of the shape of x, {tuple(x.shape)}, got {_described(found)}")
    return found


def _as_pair(found: object) -> Gaussian | None:
    if isinstance(found, (tuple, list)) and len(found) == 2:
        first, second = found
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            return first, second
    return None


def _described(found: object) -> str:
    if isinstance(found, (tuple, list)):
        return f"({', '.join(map(_described, found))})"
    return described(found) if isinstance(found, Tensor) else type(found).__name__


def check_latent(z: object, latent_dim: int, decoder: nn.Module, device: torch.device) -> None:
    """Raise InputError unless the decoder, which is on that device, can read z."""
    if not isinstance(z, Tensor) or z.shape[1:] != (latent_dim,):
        got = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise InputError(f"z must be a tensor of shape [n, {latent_dim}], got {got}")
    if z.device != device:
        raise InputError(f"z must be on the device of the model, {device}, got {z.device}: z.to(device)")
    check_dtype("z", z, input_dtype(decoder), reader="decoder")


def input_dtype(network: nn.Module) -> torch.dtype | None:
    """The dtype of what an encoder or a decoder reads; None if it does not say, or its attribute of that name is
    something else."""
    dtype = getattr(network, "input_dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else None


def shape_of_one(encoder: nn.Module, name: Literal["input_shape", "condition_shape"]) -> tuple[Any, ...] | None:
    """The shape of one sample, or of one condition, as the encoder reads it; None if it does not say, or its attribute
    of that name is something else."""
    shape = getattr(encoder, name, None)
    return tuple(shape) if isinstance(shape, tuple | list) else None


def check_x(x: Tensor, encoder: nn.Module) -> None:
    """Raise InputError unless the encoder can read the shape and the dtype of x."""
    check_shape(x, encoder)
    check_dtype("x", x, input_dtype(encoder))


def check_shape(x: Tensor, encoder: nn.Module) -> None:
    """Raise InputError unless x is a tensor with samples of the shape that the encoder reads."""
    check_tensor("x", x)
    shape = shape_of_one(encoder, "input_shape")
    if shape is not None and x.shape[1:] != shape:
        sizes = ", ".join(map(str, shape))
        raise InputError(f"x must have shape [B, {sizes}], as the encoder reads it, got shape {tuple(x.shape)}")


def check_dtype(
    name: str, value: Tensor, dtype: torch.dtype | None, *, autocast: bool = False, reader: str = "encoder"
) -> None:
    """Raise InputError unless layers of that dtype can read the value, by ``autocast`` if it is, or will be, on."""
    # It makes one type of both, and leaves float64 alone.
    if dtype is None or value.dtype == dtype:
        return
    if (
        value.is_floating_point()
        and torch.float64 not in (value.dtype, dtype)
        and (autocast or autocast_enabled(value))
    ):
        return
    raise InputError(
        f"{name} must be of the dtype of the {reader}'s weights, {dtype}, got {value.dtype}; {name}.to({dtype})"
    )


def as_condition(
    name: str, condition: Tensor, samples: int | None, of_one: tuple[int | None, ...], dtype: torch.dtype | None
) -> Tensor:
    """The condition; integers and booleans, if the encoder takes them for numbers, in its dtype. Raises InputError
    unless there are so many, each of that shape; None is any number."""
    check_tensor(name, condition)
    shape, wanted = tuple(condition.shape), (samples, *of_one)
    if len(shape) != len(wanted) or any(
        size is not None and size != own for own, size in zip(shape, wanted, strict=True)
    ):
        sizes = ", ".join("any" if size is None else str(size) for size in of_one)
        first = "B" if samples is None else samples
        labels = len(shape) == 1 and len(of_one) == 1 and not condition.is_floating_point()
        hint = f"; for labels, torch.nn.functional.one_hot(labels, {sizes})" if labels else ""
        if labels and None in of_one:  # of the encoder one knows neither how many there are nor which numbers it takes
            hint = (
                "; for labels, torch.nn.functional.one_hot(labels).to(x.dtype), or an encoder that takes them as they "
                "are and says so: condition_shape = ()"
            )
        elif of_one == (None,) and len(shape) > 2:
            hint = f"; an encoder that takes these says so: condition_shape = {shape[1:]}"
        raise InputError(
            f"{name} must be a tensor of shape [{first}, {sizes}], one row for each sample, got shape {shape}{hint}"
        )
    return condition if dtype is None or condition.is_floating_point() else condition.to(dtype)
