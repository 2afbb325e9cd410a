"""Whether a training is still well, and what to go back to if it is not."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..distributed import Group, joined_mean
from ..models import CVAE, VAE
from .snapshot import Copies, are_finite, kept

__all__ = ["Watch"]


class Watch:
    """Looks at the loss of recorded steps, on a CPU of all steps, and keeps weights and buffers as they were when they
    were last seen to be well.

    Args:
        model: in training.
        device: where it is.
        group: processes that share it.
    """

    def __init__(self, model: VAE | CVAE, device: torch.device, group: Group) -> None:
        self._model = model
        self._group = group
        self._every_loss = _reads_every_loss(device)
        self._parameters = [part for part in model.parameters() if part.requires_grad]
        # A mask may be infinite, and stays so; running statistics were finite, and a batch that was not leaves a mark.
        self._finite = {name for name, part in model.named_buffers() if are_finite([part])}
        self._copies = Copies()
        self._before: Callable[[], None] = kept(model, self._parameters)
        self._well = self._before

    def begin(self, recorded: bool) -> None:
        """Before a step, whose forward pass writes running statistics and an analytic γ."""
        if not self._every_loss:
            if recorded:  # PyTorch does not count the writes of a replayed step
                self._before = kept(self._model, self._parameters)
            return
        self._copies.begin(compare=recorded)
        self._before = kept(self._model, self._parameters if recorded else (), self._copies)

    def not_finite(self, loss: Tensor, recorded: bool) -> float | None:
        """The loss of that step over all processes, if it is looked at and not finite; weights and buffers have then
        been put back. Otherwise None."""
        if not (recorded or self._every_loss):
            return None
        value = float(joined_mean(loss.detach(), self._group))
        if not math.isfinite(value):
            (self._before if self._every_loss and are_finite(self._parameters) else self._well)()
            return value
        if recorded and self.is_well():
            self._well = self._before
        return None

    def is_well(self) -> bool:
        """Whether weights are finite, and buffers that were at first. Waits for the device."""
        buffers = (part for name, part in self._model.named_buffers() if name in self._finite)
        return are_finite([*self._parameters, *buffers])

    def put_back(self) -> None:
        """Put weights and buffers back as they were when they were last seen to be well."""
        self._well()


def _reads_every_loss(device: torch.device) -> bool:
    """That costs nothing on a CPU; elsewhere each would wait for the device."""
    return device.type == "cpu"
