"""Weights and buffers as they were, put back."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["are_finite", "kept", "undone", "weights_back"]


def kept(model: nn.Module, parameters: Sequence[Tensor] = ()) -> Callable[[], None]:
    """Puts the buffers of the model, and these parameters, back as they are now, when it is called: a network may write
    into a buffer, or put another tensor in its place."""
    buffers = [(module, name, part) for module in model.modules() for name, part in module._buffers.items()]
    tensors = {id(part): part for _, _, part in buffers if part is not None} | {id(part): part for part in parameters}
    # Lazy ones have no numbers yet. Expanded ones nobody can write to.
    written = [part for part in tensors.values() if not is_lazy(part) and not _is_expanded(part)]
    copies = [part.detach().clone() for part in written]

    def put_back() -> None:
        for module, name, part in buffers:
            module._buffers[name] = part
        with torch.no_grad():
            for part, before in zip(written, copies, strict=True):
                part.copy_(before)

    return put_back


def _is_expanded(tensor: Tensor) -> bool:
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


@contextmanager
def undone(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Calls of the model leave no trace: neither in running statistics, nor in an analytic γ, nor in torch's random
    numbers."""
    put_back = kept(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            put_back()


@contextmanager
def weights_back(model: nn.Module, *errors: type[Exception]) -> Iterator[None]:
    """Where one of these comes out, the model has the weights and buffers with which it came: torch loads what fits,
    and says only then what does not."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    put_back = kept(model)  # of which a state may lack some
    try:
        yield
    except errors:
        model.load_state_dict(before)
        put_back()
        raise


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Waits for the device, once."""
    found = [tensor.isfinite().all() for tensor in tensors if not is_lazy(tensor)]
    return not found or bool(torch.stack([each.to(found[0].device) for each in found]).all())
