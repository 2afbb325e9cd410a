"""The one place that chooses a backend."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import extension

__all__ = ["BACKENDS", "Choice", "choose", "choose_for_images", "explain"]

DTYPES = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
# Not asked for by a function: torch.compile would not see through it, nor through a cache of its answer.
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None


@dataclass(frozen=True)
class Choice:
    """Which backend serves a call, and why."""

    backend: str
    reason: str


def _cpu_cannot(tensors: tuple[Tensor | None, ...]) -> str:
    if extension.compiled is None:
        return extension.missing_because
    return _elsewhere(tensors, "cpu", "the CPU")


def _cuda_cannot(tensors: tuple[Tensor | None, ...]) -> str:
    return extension.cuda_missing_because or _elsewhere(tensors, "cuda", "a CUDA device")


def _triton_cannot(tensors: tuple[Tensor | None, ...]) -> str:
    if not TRITON_INSTALLED:
        return "triton is not installed; install manifold-core[triton]"
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
# Of the kernels for CUDA devices none is taken unasked before `make gpu` has passed and said which is faster where.
UNVERIFIED = "the kernels for CUDA devices have not been verified on a GPU yet; ask for 'cuda' or 'triton' by name"


def explain(*tensors: Tensor | None, backend: str = "auto") -> Choice:
    """Which backend serves an op called with these tensors, and why.

    Args:
        tensors: the floating-point arguments of the op; None for one that is left out.
        backend: ``"auto"`` takes the fastest that can serve, else the reference; any other name is taken or refused.

    Raises:
        ValueError: an unknown name.
        RuntimeError: the named backend cannot serve these tensors; says why.
    """
    if backend == "reference":
        return Choice("reference", "asked for by name")
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be one of {('auto', *BACKENDS)}, got {backend!r}")
    if backend != "auto":
        obstacle = _CANNOT[backend](tensors)
        if obstacle:
            raise RuntimeError(f"backend {backend!r} cannot serve this call: {obstacle}")
        return Choice(backend, "asked for by name")
    obstacle = _cpu_cannot(tensors)
    if not obstacle:
        return Choice("cpu", "compiled kernels for CPU tensors")
    return Choice("reference", UNVERIFIED if any(t is not None and t.is_cuda for t in tensors) else obstacle)


def choose(backend: str, *tensors: Tensor | None) -> str:
    """The name :func:`explain` gives."""
    if backend == "auto":  # the usual case, without the prose
        return "reference" if _cpu_cannot(tensors) else "cpu"
    return explain(*tensors, backend=backend).backend


# Where both sides of a 3 × 3 convolution have 64 channels PyTorch's takes 0.8 of the time of ours, at 32 1.3 times as
# long, at 5 four times (one thread of a Xeon with AVX-512, forward and backward).
FEW_CHANNELS = 48


def choose_for_images(backend: str, x: Tensor, weight: Tensor, *others: Tensor) -> str:
    """The same for a convolution: there are kernels for few channels, on the CPU alone and in no half precision.

    Raises:
        ValueError: an unknown name.
        RuntimeError: the named backend cannot serve these tensors; says why.
    """
    if backend not in ("auto", "reference", "cpu"):
        explain(backend="reference" if backend in BACKENDS else backend)  # which refuses what is none
        raise RuntimeError(f"backend {backend!r} cannot serve this call: convolutions have kernels for the CPU alone")
    tensors = (x, weight, *others)
    chosen = choose(backend, *tensors)
    if chosen == "reference" or (backend == "auto" and min(weight.shape[:2]) > FEW_CHANNELS):
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
