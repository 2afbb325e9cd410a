"""The gradients of one step: plain, in half precision, shared among processes, or replayed from a CUDA graph."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ..distributed import Group
from ..errors import InputError
from ..models import CVAE, VAE
from ..models.elbo import ELBOTerms
from ..models.inputs import dtype_explained
from .config import Precision
from .graph import Replay, captured
from .snapshot import undone

__all__ = ["DTYPES", "GraphStep", "PlainStep", "Step", "autocast"]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# Sent once at the start, buffers stay the same everywhere. The newer name came with torch 2.13; the older one leaves
# them out at the start, too.
RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
LEAVE_BUFFERS = {"forward_sync_buffers" if RENAMED else "broadcast_buffers": False}


class Step(Protocol):
    """Leaves a mini-batch's gradients in the parameters, scaled for float16, and returns the terms of its ELBO."""

    def __call__(self, index: Tensor, seed: int) -> ELBOTerms: ...


class PlainStep:
    """Forward and backward as PyTorch runs them. With a group, on this process's share of the rows; the gradients are
    those of all rows.

    Args:
        model: on the device of the inputs.
        inputs: all samples, and for a CVAE all conditions.
        size: rows of a mini-batch.
        precision: see :class:`manifold_core.TrainingConfig`.
        scaler: of the loss, for float16.
        group: processes that share the rows.
    """

    def __init__(
        self,
        model: VAE | CVAE,
        inputs: tuple[Tensor, ...],
        size: int,
        precision: Precision,
        scaler: torch.amp.GradScaler,
        group: Group,
    ) -> None:
        self.model = model
        self.device = inputs[0].device
        self._inputs = inputs
        self._precision = precision
        self._scaler = scaler
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._network: Callable[..., ELBOTerms] = model
        self._rows = slice(None)
        self._first_row: dict[str, int] = {}
        self._unused_looked_for = group is None
        if group is not None:
            for buffer in model.buffers():
                dist.broadcast(buffer, group=group, group_src=0)
            leave: dict[str, Any] = LEAVE_BUFFERS
            self._network = DistributedDataParallel(model, process_group=group, **leave)
            share = size // group.size()
            self._rows = slice(group.rank() * share, (group.rank() + 1) * share)
            self._first_row = {"first_row": group.rank() * share}

    def __call__(self, index: Tensor, seed: int | Tensor) -> ELBOTerms:
        for parameter in self._parameters:
            parameter.grad = None
        batch = [part.index_select(0, index[self._rows]) for part in self._inputs]
        with autocast(self._precision, self.device), dtype_explained(self.model, self._inputs):
            terms = self._network(*batch, seed=seed, **self._first_row)
        self._scaler.scale(terms.loss).backward()
        if not self._unused_looked_for:
            self._refuse_unused()
        return terms

    def _refuse_unused(self) -> None:
        """DistributedDataParallel waits for all gradients before the next step."""
        self._unused_looked_for = True
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and parameter.grad is None:
                raise InputError(
                    f"model must use all its parameters in every step if processes share it, got {name} without a "
                    "gradient"
                )


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which the networks of a step run."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, DTYPES[precision])


class GraphStep:
    """The same step, captured once and replayed: the GPU runs its kernels without waiting for Python.

    The index of the samples, the seed of the noise, the gradients and the terms keep their places in memory. What
    Python does in the forward pass happens while it is captured and never again.

    Args:
        step: what is captured.
        capture: calls a function as often as it needs, and returns what replays one more call, without running it.

    Attributes:
        replayed: the step has been captured, and from now on the gradients keep their places.
    """

    def __init__(self, step: PlainStep, capture: Callable[[Replay], Replay]) -> None:
        self.device = step.device
        self.replayed = False
        self._step = step
        self._capture = capture
        self._replay: Replay | None = None
        self._terms: ELBOTerms | None = None
        self._index = torch.empty(0)
        self._seed = torch.zeros((), dtype=torch.int64, device=step.device)

    def __call__(self, index: Tensor, seed: int) -> ELBOTerms:
        if self._replay is None:
            self._index = index.clone()
        self._index.copy_(index)
        self._seed.fill_(seed)
        if self._replay is None:
            with undone(self._step.model, self.device):
                replay = captured(self._take, self._capture, self.device, "the training step")
            self.replayed = replay is not None
            self._replay = replay or self._take
        self._replay()
        assert self._terms is not None
        return self._terms

    def _take(self) -> None:
        self._terms = None  # with it goes the last call's autograd graph, whose nodes are bound to their stream
        self._terms = self._step(self._index, self._seed)
