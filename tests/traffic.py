"""The tensors that pass through operators."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Call", "bytes_of", "calls_of"]


class Call(NamedTuple):
    """Of an operator: a kernel reads its arguments and writes its results."""

    ours: bool
    read: list[Tensor]
    written: list[Tensor]


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        results = operator(*arguments, **(keywords or {}))
        if not any(result.alias_info for result in operator._schema.returns):  # a view moves nothing
            written = results if isinstance(results, (tuple, list)) else [results]
            read = [t for t in arguments if isinstance(t, Tensor)]
            self.calls.append(Call(operator.namespace == "manifold_core", read, list(written)))
        return results


def calls_of(function: Callable[[], object]) -> list[Call]:
    """Below autograd, on the CPU. What they held is still there: no two tensors have had the same memory."""
    with Recorder() as seen:
        function()
    return seen.calls


def bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
