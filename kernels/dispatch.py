"""The one place that chooses a backend."""

import importlib.util
import os
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from . import extension

__all__ = ["BACKENDS", "Backend", "Reasoned", "choose", "choose_for_layer", "reasoned"]

Backend = Literal["auto", "reference", "cpu", "cuda", "triton"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
Reasoned = tuple[Backend, Callable[[], str]]  # the reason only when asked: torch.compile has no words for sizes

DTYPES = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
OLDEST = (7, 5)  # compute capability of the oldest GPUs that csrc/cuda is compiled for
# A constant, not a function: torch.compile would trace neither the search nor a cache of its result.
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None


def _cpu_cannot(tensors: tuple[Tensor | None, ...]) -> str:
    if extension.compiled is None:
        return extension.missing_because
    return _elsewhere(tensors, "cpu", "the CPU")


def _cuda_cannot(tensors: tuple[Tensor | None, ...]) -> str:
    return extension.cuda_missing_because or _elsewhere(tensors, "cuda", "a CUDA device") or _too_old(tensors)


def _too_old(tensors: tuple[Tensor | None, ...]) -> str:
    """Looks at the first tensor only: if others are on another device, the kernels refuse them."""
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
    # With TRITON_INTERPRET=1 Triton runs its kernels in Python, on CPU tensors, for tests.
    if os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    return _elsewhere(tensors, "cuda", "a CUDA device") or _before_bfloat16(tensors)


def _elsewhere(tensors: tuple[Tensor | None, ...], device_type: str, place: str) -> str:
    """Which tensor is on another type of device, or of a dtype that no kernel takes."""
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


# Why a backend cannot serve a call with these tensors; empty if it can.
_CANNOT: dict[str, Callable[[tuple[Tensor | None, ...]], str]] = {
    "cpu": _cpu_cannot,
    "cuda": _cuda_cannot,
    "triton": _triton_cannot,
}


def choose(backend: Backend, *tensors: Tensor | None) -> Backend:
    """The name that :func:`explain` gives."""
    return reasoned(backend, tensors)[0]


def reasoned(backend: Backend, tensors: tuple[Tensor | None, ...]) -> tuple[Backend, str]:
    """Name and reason; no Choice, since making one takes longer than choosing."""
    if backend == "auto":
        if cpu_cannot := _cpu_cannot(tensors):
            return _without_cpu(tensors, cpu_cannot)
        return "cpu", "compiled kernels for CPU tensors"
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r}")
    if backend != "reference" and (obstacle := _CANNOT[backend](tensors)):
        raise RuntimeError(f"backend {backend!r} cannot serve this call: {obstacle}")
    return backend, "asked for by name"


def _without_cpu(tensors: tuple[Tensor | None, ...], cpu_cannot: str) -> tuple[Backend, str]:
    """The choice of ``"auto"`` for tensors that the CPU kernels cannot serve.

    For CUDA tensors the C++ kernels come first. Inside a CUDA graph on an H100 either kind is faster at some sizes; but
    outside of one a launch by Triton takes tens of microseconds on the host, where C++ takes a few, and at its first
    call Triton compiles for seconds.
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


def choose_for_layer(
    backend: Backend,
    tensors: tuple[Tensor, ...],
    *,
    backends: tuple[Backend, ...],
    dtypes: frozenset[torch.dtype],
    slower: Callable[[tuple[Tensor, ...]], Callable[[], str] | None],
) -> Reasoned:
    """The choice for the op of a layer, whose reference is PyTorch's own layer, often the faster one.

    Args:
        backend: as in :func:`explain`.
        tensors: x, the weights, and what else the layer reads.
        backends: those that have a kernel.
        dtypes: what the CPU kernel takes, in tensors of one dtype.
        slower: why the CPU kernel is slower than PyTorch for these tensors; None if it is faster.

    Raises:
        ValueError, RuntimeError: as in :func:`explain`.
    """
    if backend in _CANNOT and backend not in backends:
        raise RuntimeError(f"backend {backend!r} cannot serve this call: {_there_is(backends)}")
    chosen, reason = reasoned(backend, tensors)
    if chosen == "reference":
        return chosen, lambda: reason
    if chosen not in backends:
        obstacle = f"; {extension.cuda_missing_because}" if "cuda" in backends else ""
        return "reference", lambda: f"{_there_is(backends)}{obstacle}"
    filled = 0 not in [tensor.numel() for tensor in tensors]
    found = {tensor.dtype for tensor in tensors}
    if filled and (chosen == "cuda" or (len(found) == 1 and found <= dtypes)):
        why = None if chosen in ("cuda", backend) else slower(tensors)
        return (chosen, lambda: reason) if why is None else ("reference", why)

    def takes() -> str:
        of_one_dtype = f"of one dtype, {' or '.join(sorted(map(str, dtypes)))}, each " if chosen == "cpu" else ""
        got = f"{', '.join(sorted(map(str, found)))}, {tuple(tensors[0].shape)}"
        return f"takes tensors {of_one_dtype}with at least one element, got {got}"

    if backend == "auto":
        return "reference", lambda: f"backend {chosen!r} {takes()}"
    raise RuntimeError(f"backend {chosen!r} cannot serve this call: it {takes()}")


def _there_is(backends: tuple[Backend, ...]) -> str:
    return f"for this layer there is {' and '.join(map(repr, backends))}"
