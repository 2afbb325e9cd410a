"""What a function asks of torch: operators and memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Operators(TorchDispatchMode):
    """Records the names of those that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def operators_of(function: Callable[[], object]) -> list[str]:
    """The names of the operators that a function calls."""
    with Operators() as seen:
        function()
    return seen.names


def operators_around_the_kernel(function: Callable[[], object]) -> set[str]:
    """Those of torch's own. A copy of an argument would be one of them."""
    return {name for name in operators_of(function) if not name.startswith("manifold_core")}


def memory_of_the_kernel(function: Callable[[], object]) -> int:
    """The bytes of all that the one kernel which a function calls allocates, and a check that it calls no operator.

    This sees into C++, where a copy could hide: one that is freed before the kernel ends, too, of which the profiler's
    own figure, what is left in the end, says nothing.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    (kernel,) = (event for event in profile.events() if event.name.startswith("manifold_core::"))
    assert kernel.cpu_children == []
    recorded = profile.profiler.kineto_results.events()
    ((begin, duration),) = ((e.start_ns(), e.duration_ns()) for e in recorded if e.name() == kernel.name)
    meanwhile = [e.nbytes() for e in recorded if e.name() == "[memory]" and 0 <= e.start_ns() - begin <= duration]
    return sum(size for size in meanwhile if size > 0)
