"""What ``conv_norm`` and ``conv_transpose`` share: checks, and when a kernel is faster than PyTorch's convolution."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_floating, integer
from .dispatch import Backend, Reasoned, choose_for_layer

__all__ = ["check_convolution", "check_of_channels", "choose_for_images", "for_images"]

CPU_DTYPES = frozenset((torch.float32, torch.float64))

# How many times faster than PyTorch's convolution ours is, on one thread of a Xeon with AVX-512, 3 × 3, forward and
# backward, with normalisation and ReLU. Ours works on 32 samples at a time, and takes as long for fewer.
#   5 × 5 channels, 14 × 14: 0.4 at B = 1, 1.5 at 4, 1.7 at 8, 3.0 at 32, 4 at 512;  5 × 5, 112 × 112: 3.8 at 32
#   16 × 16, 28 × 28: 2.0 at 32;  56 × 56: 0.8
#   32 × 32, 14 × 14: 0.3 at 8, 0.5 at 16, 1.4 at 32;  28 × 28: 1.4;  56 × 56: 0.8;  32 × 64, 14 × 14: 1.4 at 128
#   48 × 48: 0.9;  64 × 64: 0.8;  24 × 96: 0.9
FEW_CHANNELS, FEW_SAMPLES = 256, 8  # below this product of input and output channels, from this batch size on
MANY_CHANNELS, MANY_SAMPLES, MANY_ELEMENTS = 2_048, 32, 32_768  # up to this product, for images of up to this size


def choose_for_images(
    backend: Backend, x: Tensor, weight: Tensor, *others: Tensor, backends: tuple[Backend, ...] = ("cpu",)
) -> Backend:
    """The name that :func:`for_images` gives."""
    return for_images(backend, x, weight, *others, backends=backends)[0]


def for_images(
    backend: Backend, x: Tensor, weight: Tensor, *others: Tensor, backends: tuple[Backend, ...] = ("cpu",)
) -> Reasoned:
    """:func:`choose_for_layer` for a convolution; only PyTorch computes one in half precision on a CPU."""
    return choose_for_layer(backend, (x, weight, *others), backends=backends, dtypes=CPU_DTYPES, slower=_slower)


def _slower(tensors: tuple[Tensor, ...]) -> Callable[[], str] | None:
    x, weight, *_ = tensors
    one, other, *_ = weight.shape
    channels, (samples, *image) = one * other, x.shape
    if channels > MANY_CHANNELS:
        return lambda: f"PyTorch is faster with {one} × {other} channels, more than {MANY_CHANNELS:,} in all"
    fewest = FEW_SAMPLES if channels < FEW_CHANNELS else MANY_SAMPLES
    if samples < fewest:
        return lambda: f"PyTorch is faster with {one} × {other} channels and {samples} samples, fewer than {fewest}"
    if channels >= FEW_CHANNELS and math.prod(image) > MANY_ELEMENTS:
        return lambda: f"PyTorch is faster with images of {math.prod(image):,} numbers, more than {MANY_ELEMENTS:,}"
    return None


def check_convolution(x: Tensor, weight: Tensor, channels_at: int, stride: int, padding: int) -> None:
    """Raise TypeError or ValueError unless x is ``[B, C, H, W]``, ``weight`` that of a convolution by a square kernel
    with C at position ``channels_at`` of its shape, and stride and padding are possible."""
    check_floating("x", x)
    check_floating("weight", weight)
    if x.dim() != 4:
        raise ValueError(f"x must have shape [B, C, H, W], got {tuple(x.shape)}")
    square = weight.dim() == 4 and weight.shape[2] == weight.shape[3] and min(weight.shape) > 0
    if not square or weight.shape[channels_at] != x.shape[1]:
        expected = ["O", "O", "k", "k"]
        expected[channels_at] = str(x.shape[1])
        raise ValueError(f"weight must have shape [{', '.join(expected)}], none of them 0, got {tuple(weight.shape)}")
    for name, value, least in (("stride", stride, 1), ("padding", padding, 0)):
        number = integer(value)
        if number is None or number < least:
            raise ValueError(f"{name} must be an integer, at least {least}, got {value!r}")


def check_of_channels(name: str, tensor: Tensor, channels: int) -> None:
    """Raise TypeError or ValueError unless the tensor has one element for each channel."""
    check_floating(name, tensor)
    if tensor.shape != (channels,):
        raise ValueError(f"{name} must have shape {(channels,)}, one number per channel, got {tuple(tensor.shape)}")
