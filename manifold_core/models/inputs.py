"""A model and the samples that it is called with, as users give them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .checks import as_condition, check_dtype, check_exact, check_finite, check_shape, check_tensor, input_dtype
from .cvae import CVAE
from .vae import VAE

__all__ = ["check_inputs", "dtype_explained", "unwrapped"]


def unwrapped(model: Any) -> VAE | CVAE:
    """The model in what torch.compile, DataParallel and DistributedDataParallel make of one."""
    inner = model
    while inner is not None and not isinstance(inner, VAE | CVAE):
        inner = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)
    return model if inner is None else inner


@contextmanager
def dtype_explained(model: VAE | CVAE, inputs: tuple[Tensor, ...]) -> Iterator[None]:
    """Raise InputError for what PyTorch says when a network of the user's own meets samples of another dtype than its
    weights have. Only then: a network may well cast them itself."""
    try:
        yield
    except RuntimeError as error:
        weights = {part.dtype for part in unwrapped(model).encoder.parameters() if part.is_floating_point()}
        if "type" not in str(error) or len(weights) != 1:
            raise
        (dtype,) = weights
        for name, part in zip(("x", "condition"), inputs, strict=False):
            if part.is_floating_point() and part.dtype != dtype:
                raise InputError(
                    f"{name} must be of the dtype of the encoder's weights, {dtype}, got {part.dtype}; "
                    f"{name}.to({dtype})"
                ) from error
        raise


def check_inputs(model: VAE | CVAE, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, ...]:
    """What the model is called with: x, and for a CVAE the condition. Waits for the device, once.

    Raises:
        InputError: x is not a dense floating-point tensor with at least one sample, of the shape and, if known,
            the dtype that the encoder reads, on the device of the model; a condition for a VAE, none for a CVAE, or one
            that does not go with the samples; a number that is not finite, of which it names the row; no model.
    """
    outer, model = model, unwrapped(model)
    if not isinstance(model, VAE | CVAE) or not hasattr(outer, "elbo"):
        hint = "; mc.VAE(encoder, decoder, latent_dim) makes one of networks of your own"
        if isinstance(model, VAE | CVAE):  # what several devices share forwards no attributes
            hint = ": give model.module; several processes train that one by process_group"
        raise InputError(f"model must be a VAE or a CVAE, or torch.compile of one, got {type(outer).__name__}{hint}")
    check_shape(x, model.encoder)
    device = model.elbo.log_gamma.device
    for name, value in (("x", x), ("condition", condition)):
        if isinstance(value, Tensor) and value.device != device:
            raise InputError(
                f"{name} must be on the device of the model, {device}, got {value.device}: {name}.to(device)"
            )
    if not x.is_floating_point():
        if x.is_complex():
            hint = ""
        elif x.dtype == torch.bool:
            hint = "; x.float() converts it"
        else:
            hint = "; mc.Standardisation.of(x).apply(x) makes float32 of it"
        raise InputError(f"x must be of a floating-point dtype, got {x.dtype}{hint}")
    dtype = input_dtype(model.encoder)
    check_dtype("x", x, dtype, autocast=True)  # training may turn it on
    if len(x) == 0:
        raise InputError("x must hold at least one sample, got none")
    if condition is not None:
        check_tensor("condition", condition)
    if not isinstance(model, CVAE):
        if condition is not None:
            raise InputError(f"condition must be None for a VAE, got a tensor of shape {tuple(condition.shape)}")
        check_finite("x", x)
        return (x,)
    if condition is None:
        raise InputError("condition must be given for a CVAE: a tensor with one row for each sample, got None")
    given = condition
    condition = as_condition("condition", given, len(x), model.condition_shape, dtype)
    check_dtype("condition", condition, dtype, autocast=True)
    check_exact("condition", condition, given)
    check_finite("x", x)
    check_finite("condition", condition)
    return x, condition
