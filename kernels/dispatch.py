"""The one place that chooses a backend."""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import extension

__all__ = ["BACKENDS", "Choice", "choose", "explain"]

BACKENDS = ("reference", "cpu")
CPU_DTYPES = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))


@dataclass(frozen=True)
class Choice:
    """Which backend serves a call, and why."""

    backend: str
    reason: str


def _cpu_cannot(tensors: tuple[Tensor, ...]) -> str:
    """Why the compiled CPU kernels cannot serve these tensors; empty where they can."""
    if extension.compiled is None:
        return extension.missing_because
    for tensor in tensors:
        if not tensor.is_cpu:
            return f"a tensor is on {tensor.device}, not on the CPU"
        if tensor.dtype not in CPU_DTYPES:
            return f"no kernel for {tensor.dtype}"
    return ""


def explain(*tensors: Tensor, backend: str = "auto") -> Choice:
    """Which backend serves an op called with these tensors, and why.

    Args:
        tensors: the floating-point arguments of the op.
        backend: ``"auto"`` takes the fastest that can serve, else the reference; any other name is taken or refused.

    Raises:
        ValueError: an unknown name.
        RuntimeError: the named backend cannot serve these tensors; says why.
    """
    if backend == "reference":
        return Choice("reference", "asked for by name")
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be one of {('auto', *BACKENDS)}, got {backend!r}")
    obstacle = _cpu_cannot(tensors)
    if not obstacle:
        return Choice("cpu", "compiled kernels for CPU tensors" if backend == "auto" else "asked for by name")
    if backend == "cpu":
        raise RuntimeError(f"backend 'cpu' cannot serve this call: {obstacle}")
    return Choice("reference", obstacle)


def choose(backend: str, *tensors: Tensor) -> str:
    """The name :func:`explain` gives."""
    if backend == "auto":  # the usual case, without the prose
        return "reference" if _cpu_cannot(tensors) else "cpu"
    return explain(*tensors, backend=backend).backend
