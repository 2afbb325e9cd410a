"""Weights and buffers as they were, put back."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["Copies", "are_finite", "kept", "undone", "weights_back"]


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def kept(
    model: nn.Module, parameters: Sequence[Tensor] = (), copied: Callable[[Tensor], Tensor] = _copied
) -> Callable[[], None]:
    """A function that puts the model's buffers, and these parameters, back as they are now: a network may write into a
    buffer, or replace it by another tensor. ``copied`` makes the copies of the buffers."""
    buffers = [(module, name, part) for module in model.modules() for name, part in module._buffers.items()]
    copies = [(part, _copied(part)) for part in _writable(parameters)]
    copies += [(part, copied(part)) for part in _writable([part for _, _, part in buffers if part is not None])]

    def put_back() -> None:
        for module, name, part in buffers:
            module._buffers[name] = part
        with torch.no_grad():
            for part, before in copies:
                part.copy_(before)

    return put_back


def _writable(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each of them once, but for lazy ones, which have no numbers yet, and expanded ones, which are read-only."""
    each = {id(part): part for part in tensors}
    return [part for part in each.values() if not is_lazy(part) and not _is_expanded(part)]


def _is_expanded(tensor: Tensor) -> bool:
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


@dataclass
class _Copy:
    of: Tensor
    writes: int | None  # into it before; None if PyTorch does not count them
    numbers: Tensor
    compared: bool = False


class Copies:
    """Copies of buffers for :func:`kept`, step after step: while nothing writes to a buffer, the same copy serves.

    PyTorch counts the writes into a tensor, but not those that go around it, as through ``.data``. So a copy is
    compared when it serves for the second time, and then whenever that is asked for; a buffer with uncounted writes is
    copied in each step from then on.
    """

    def __init__(self) -> None:
        self._before: dict[int, _Copy] = {}
        self._now: dict[int, _Copy] = {}
        self._compare = False

    def begin(self, compare: bool) -> None:
        """Begin a step. A copy that served neither in it nor in the last is dropped: some networks make new buffers."""
        self._before, self._now, self._compare = self._now, {}, compare

    def __call__(self, part: Tensor) -> Tensor:
        copy = self._before.get(id(part))  # it holds the tensor, so no other can have its id
        writes = None if part.is_inference() or (copy is not None and copy.writes is None) else part._version
        if copy is None or writes is None or writes != copy.writes:
            copy = _Copy(part, writes, _copied(part))
        elif self._compare or not copy.compared:
            copy = _Copy(part, writes, copy.numbers, compared=True)
            if not torch.equal(part, copy.numbers):
                copy = _Copy(part, None, _copied(part))
        self._now[id(part)] = copy
        return copy.numbers


@contextmanager
def undone(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Within the block, calls of the model leave no trace in running statistics, an analytic γ or torch's random
    numbers."""
    put_back = kept(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            put_back()


@contextmanager
def weights_back(model: nn.Module, *errors: type[Exception]) -> Iterator[None]:
    """If one of these is raised, the model gets back the weights and buffers that it came with: torch loads what fits
    before it says what does not."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    put_back = kept(model)  # of which a state may lack some
    try:
        yield
    except errors:
        model.load_state_dict(before)
        put_back()
        raise


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all are; waits for the device, once."""
    found = [_extremes(tensor).isfinite().all() for tensor in tensors if not is_lazy(tensor)]
    return not found or bool(torch.stack([each.to(found[0].device) for each in found]).all())


def _extremes(tensor: Tensor) -> Tensor:
    """Finite if the tensor is: NaN is the least and the largest. In one pass, a tenth of the time on a CPU."""
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor
    return torch.stack(torch.aminmax(tensor.detach()))
