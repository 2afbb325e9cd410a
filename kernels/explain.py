"""Which backend serves a call, and why, for users."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from .conv_norm.op import BACKENDS as OF_CONV_NORM
from .convolution import for_images
from .dispatch import Backend, Reasoned, reasoned
from .lstm.op import for_sequences

__all__ = ["Choice", "explain"]

# What chooses for the op of a layer, and how many dimensions the first of its tensors have, whose sizes count.
LAYERS: dict[str, tuple[Callable[..., Reasoned], list[int]]] = {
    "lstm": (for_sequences, [3, 2, 2]),
    "conv_norm": (partial(for_images, backends=OF_CONV_NORM), [4, 4]),
    "conv_transpose": (for_images, [4, 4]),
}


@dataclass(frozen=True)
class Choice:
    """Which backend serves a call, and why.

    Attributes:
        backend: its name, as ``backend=`` takes it.
        reason: a sentence without a full stop.
    """

    backend: Backend
    reason: str


def explain(
    *tensors: Tensor | None,
    op: Literal["lstm", "conv_norm", "conv_transpose"] | None = None,
    backend: Backend = "auto",
) -> Choice:
    """Which backend serves an op called with these tensors, and why.

    Args:
        tensors: the op's floating-point arguments, in its order; None for one that is left out.
        op: one whose reference is PyTorch's own layer, which ``"auto"`` takes at sizes where it is faster; None is any
            op of the ELBO.
        backend: ``"auto"`` takes the compiled kernels for the tensors' device, or Triton's if those for CUDA are
            missing, else the reference; any other name is taken or refused.

    Raises:
        TypeError: an argument is neither a tensor nor None.
        ValueError: an unknown name, or not the tensors of this op.
        RuntimeError: the named backend cannot serve these tensors; says why.
    """
    for tensor in tensors:
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"explain takes tensors, or None for one that is left out, got {tensor!r}")
    if op is None:
        return Choice(*reasoned(backend, tensors))
    if op not in LAYERS:
        raise ValueError(f"op must be one of {', '.join(map(repr, LAYERS))}, or None, got {op!r}")
    choose, dims = LAYERS[op]
    given = [tensor for tensor in tensors if tensor is not None]
    if (found := [tensor.dim() for tensor in given[: len(dims)]]) != dims:
        raise ValueError(f"tensors must be those of {op}, the first of {dims} dimensions, got {found}")
    name, reason = choose(backend, *given)
    return Choice(name, reason())
