"""The one place that chooses a backend."""

import importlib.util
import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import extension

__all__ = ["BACKENDS", "Choice", "choose", "choose_for_images", "choose_for_sequences", "explain"]

DTYPES = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
OLDEST = (7, 5)  # GPUs that csrc/cuda is compiled for
# Not asked for by a function: torch.compile would not see through it, nor through a cache of its answer.
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None


@dataclass(frozen=True)
class Choice:
    """Which backend serves a call, and why.

    Attributes:
        backend: its name, as ``backend=`` takes it.
        reason: a sentence without a full stop.
    """

    backend: str
    reason: str


def _cpu_cannot(tensors: tuple[Tensor | None, ...]) -> str:
    if extension.compiled is None:
        return extension.missing_because
    return _elsewhere(tensors, "cpu", "the CPU")


def _cuda_cannot(tensors: tuple[Tensor | None, ...]) -> str:
    return extension.cuda_missing_because or _elsewhere(tensors, "cuda", "a CUDA device") or _too_old(tensors)


def _too_old(tensors: tuple[Tensor | None, ...]) -> str:
    """All are on one device, or the kernels say so."""
    for tensor in tensors:
        if tensor is not None:
            properties = torch.cuda.get_device_properties(tensor.device)
            if (properties.major, properties.minor) >= OLDEST:
                return ""
            return f"no kernel for {properties.name}: they begin with sm_{OLDEST[0]}{OLDEST[1]}"
    return ""


def _triton_cannot(tensors: tuple[Tensor | None, ...]) -> str:
    if not TRITON_INSTALLED:
        return "triton is not installed; pip install triton"
    # With TRITON_INTERPRET=1 triton runs its kernels in Python, on CPU tensors: for tests.
    if os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    return _elsewhere(tensors, "cuda", "a CUDA device") or _before_bfloat16(tensors)


def _elsewhere(tensors: tuple[Tensor | None, ...], device_type: str, place: str) -> str:
    """Which tensor is not there, or of no type that any kernel has."""
    for tensor in tensors:
        if tensor is not None:
            if tensor.device.type != device_type:
                return f"a tensor is on {tensor.device}, not on {place}"
            if tensor.dtype not in DTYPES:
                return f"no kernel for {tensor.dtype}"
    return ""


def _before_bfloat16(tensors: tuple[Tensor | None, ...]) -> str:
    for tensor in tensors:
        if tensor is not None and tensor.dtype == torch.bfloat16:
            properties = torch.cuda.get_device_properties(tensor.device)
            if properties.major < 8:
                return f"Triton has no bfloat16 for {properties.name}"
    return ""


# Why a backend cannot serve a call with these tensors; empty where it can.
_CANNOT: dict[str, Callable[[tuple[Tensor | None, ...]], str]] = {
    "cpu": _cpu_cannot,
    "cuda": _cuda_cannot,
    "triton": _triton_cannot,
}
BACKENDS = ("reference", *_CANNOT)


def _automatic(tensors: tuple[Tensor | None, ...], cpu_cannot: str) -> tuple[str, str]:
    """Which backend serves tensors that the CPU's kernels do not, and why.

    Of the kernels for CUDA devices those in C++ come first. On an H100, within a CUDA graph, either is the faster at
    some sizes; but outside of one Triton's launch takes tens of microseconds on the host, where the other takes a few,
    and at its first call Triton compiles for seconds.
    """
    if not any(tensor is not None and tensor.is_cuda for tensor in tensors):
        return "reference", cpu_cannot
    if obstacle := _elsewhere(tensors, "cuda", "a CUDA device") or _too_old(tensors):
        return "reference", obstacle
    if not extension.cuda_missing_because:
        return "cuda", "compiled kernels for CUDA tensors"
    if obstacle := _triton_cannot(tensors):
        return "reference", f"{extension.cuda_missing_because}; {obstacle}"
    return "triton", f"Triton's kernels for CUDA tensors: {extension.cuda_missing_because}"


def explain(*tensors: Tensor | None, backend: str = "auto") -> Choice:
    """Which backend serves an op on matrices called with these tensors, and why.

    Args:
        tensors: the floating-point arguments of the op; None for one that is left out.
        backend: ``"auto"`` takes the fastest that can serve, else the reference; any other name is taken or refused.

    Raises:
        TypeError: an argument is neither a tensor nor None.
        ValueError: an unknown name.
        RuntimeError: the named backend cannot serve these tensors; says why.
    """
    for tensor in tensors:
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"explain takes tensors, or None for one that is left out, got {tensor!r}")
    return _explain(backend, tensors)


def _explain(backend: str, tensors: tuple[Tensor | None, ...]) -> Choice:
    if backend == "reference":
        return Choice("reference", "asked for by name")
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be one of {('auto', *BACKENDS)}, got {backend!r}")
    if backend != "auto":
        obstacle = _CANNOT[backend](tensors)
        if obstacle:
            raise RuntimeError(f"backend {backend!r} cannot serve this call: {obstacle}")
        return Choice(backend, "asked for by name")
    if cpu_cannot := _cpu_cannot(tensors):
        return Choice(*_automatic(tensors, cpu_cannot))
    return Choice("cpu", "compiled kernels for CPU tensors")


def choose(backend: str, *tensors: Tensor | None) -> str:
    """The name :func:`explain` gives."""
    if backend == "auto":  # the usual case, without the prose
        return _automatic(tensors, cpu_cannot)[0] if (cpu_cannot := _cpu_cannot(tensors)) else "cpu"
    return _explain(backend, tensors).backend


# Of a convolution, measured on one thread of a Xeon with AVX-512, 3 × 3, forward and backward, with what belongs to it:
# how many times faster than PyTorch's ours is. It works on 32 samples at a time, or as if on so many.
#   5 × 5 channels, 14 × 14: 0.4 at B = 1, 1.5 at 4, 1.7 at 8, 3.0 at 32, 4 at 512;  5 × 5, 112 × 112: 3.8 at 32
#   16 × 16, 28 × 28: 2.0 at 32;  56 × 56: 0.8
#   32 × 32, 14 × 14: 0.3 at 8, 0.5 at 16, 1.4 at 32;  28 × 28: 1.4;  56 × 56: 0.8;  32 × 64, 14 × 14: 1.4 at 128
#   48 × 48: 0.9;  64 × 64: 0.8;  24 × 96: 0.9
FEW_CHANNELS, FEW_SAMPLES = 256, 8  # products of the channels of both sides below this are worth it for so many samples
MANY_CHANNELS, MANY_SAMPLES, MANY_NUMBERS = 2_048, 32, 32_768  # up to this, with images of so many numbers


def choose_for_images(
    backend: str, x: Tensor, weight: Tensor, *others: Tensor, backends: tuple[str, ...] = ("cpu",)
) -> str:
    """The same for a convolution, for which these backends have kernels; that for the CPU in no half precision.

    Raises:
        ValueError: an unknown name.
        RuntimeError: the named backend cannot serve these tensors; says why.
    """
    tensors = (x, weight, *others)
    _refuse_others(backend, backends, "this convolution")
    chosen = choose(backend, *tensors)
    if chosen == "cuda" and chosen in backends and x.numel() > 0:
        return "cuda"
    if chosen != "cpu" or (backend == "auto" and not _worth_it(x, weight)):
        return "reference"
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) == 1 and dtypes <= {torch.float32, torch.float64} and x.numel() > 0:
        return "cpu"
    if backend == "auto":
        return "reference"
    shown = ", ".join(sorted(map(str, dtypes)))
    raise RuntimeError(
        f"backend 'cpu' cannot serve this call: it takes images of one type, float32 or float64, and at least one, got "
        f"{shown}, {tuple(x.shape)}"
    )


def _refuse_others(backend: str, backends: tuple[str, ...], layer: str) -> None:
    """Raise RuntimeError for a backend that has other ops and not this one."""
    if backend in _CANNOT and backend not in backends:
        there = " and ".join(map(repr, backends))
        raise RuntimeError(f"backend {backend!r} cannot serve this call: of {layer} there is {there}")


def _worth_it(x: Tensor, weight: Tensor) -> bool:
    channels, (samples, *numbers) = weight.shape[0] * weight.shape[1], x.shape
    if channels < FEW_CHANNELS:
        return samples >= FEW_SAMPLES
    return channels <= MANY_CHANNELS and samples >= MANY_SAMPLES and math.prod(numbers) <= MANY_NUMBERS


# Of an LSTM of 20 steps of 10 numbers, on two cores of an EPYC with AVX2, forward and backward: how many times faster
# than PyTorch's ours is. It works on 16 samples at a time with AVX2, on 64 with AVX-512, or as if on so many.
#   32 units: 1.2 at B = 1, 1.7 at 4, 1.8 at 16;  48: 0.8 at 1;  64: 0.6 at 1, 0.9 at 8, 1.2 at 16, 1.1 at 32
#   128 units: 0.3 at 1, 0.7 at 32, 0.8 at 64, 1.4 at 128, 2.0 at 256;  256: 0.7 at 64, 1.4 at 128, 1.2 at 512
#   512 units: 0.1 at 1, 0.2 at 32, 0.6 at 128, 0.7 at 256
LSTM_COLUMNS, LSTM_KEPT = 64, 5  # as in csrc/cpu/kernels.h
FEWEST_SAMPLES = {32: 1, 64: 16, 256: 128}  # up to so many units → from so many samples on
MOST_FILLING = 2**24  # numbers that are kept for samples that are not there


def choose_for_sequences(backend: str, x: Tensor, *weights: Tensor) -> str:
    """The same for an LSTM, of which there is a kernel for the CPU, in float32.

    Raises:
        ValueError: an unknown name.
        RuntimeError: the named backend cannot serve these tensors; says why.
    """
    tensors = (x, *weights)
    _refuse_others(backend, ("cpu",), "an LSTM")
    if choose(backend, *tensors) != "cpu":
        return "reference"
    if all(tensor.dtype == torch.float32 and tensor.numel() > 0 for tensor in tensors):
        return "cpu" if backend == "cpu" or _worth_an_lstm(x, weights[1]) else "reference"
    if backend == "auto":
        return "reference"
    shown = ", ".join(sorted({str(tensor.dtype) for tensor in tensors}))
    raise RuntimeError(
        f"backend 'cpu' cannot serve this call: it takes sequences and weights of float32, and at least one number of "
        f"each, got {shown}, {tuple(x.shape)}"
    )


def _worth_an_lstm(x: Tensor, weight_hh: Tensor) -> bool:
    (samples, steps, _), hidden = x.shape, weight_hh.shape[1]
    filling = -samples % LSTM_COLUMNS  # of a tile that is kept for the backward pass
    if filling > samples and filling * steps * LSTM_KEPT * hidden > MOST_FILLING:
        return False
    return any(hidden <= units and samples >= fewest for units, fewest in FEWEST_SAMPLES.items())
