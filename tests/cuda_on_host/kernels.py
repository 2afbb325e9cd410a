"""The CUDA kernels as tests call them: on a device, or on this processor."""

import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from manifold_core.kernels import extension
from manifold_core.kernels.registration import LIBRARIES
from torch import Tensor

from .build import NAMESPACE, OPERATORS, load

__all__ = ["NEEDS_COMPILER", "NEEDS_DEVICE", "Kernels", "kernels_on", "on_host"]

NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
NEEDS_DEVICE = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


class Kernels(NamedTuple):
    operators: Any  # as registered
    differentiable: dict[str, Callable[..., tuple[Tensor, ...]]]  # as of an ordinary call
    device: torch.device

    def scalar(self, value: float, dtype: torch.dtype) -> Tensor:
        return torch.tensor(value, dtype=dtype, device=self.device)


def on_host() -> Any:
    """The operators compiled for this processor, and what there is to test the host with."""
    load()
    return getattr(torch.ops, NAMESPACE)


def kernels_on(place: str) -> Kernels:
    """Those "on host", or "on device"."""
    if place == "on device":
        assert extension.cuda_missing_because == ""
        library, calls = LIBRARIES["cuda"], {operator.name: operator.by_backend["cuda"] for operator in OPERATORS}
    else:
        library, calls = NAMESPACE, load()
    device = torch.device("cuda" if place == "on device" else "cpu")
    return Kernels(getattr(torch.ops, library), {name: call.eager for name, call in calls.items()}, device)
