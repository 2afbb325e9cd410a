"""Backends, strides and error bounds, shared by the tests of the kernels."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cuda_on_host.kernels import NEEDS_COMPILER, NEEDS_DEVICE, Kernels, kernels_on
from instruction_sets import CPU, use
from manifold_core.kernels import extension
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# The error that the contract allows a number computed in that arithmetic, relative to the sum of the absolute values of
# the terms it is made of: the terms of a KL never cancel, so there it is the relative error.
ALLOWED = {torch.float32: 1e-6, torch.float64: 1e-13}
# Below its smallest normal number a type has no relative precision.
SMALLEST = {torch.float32: 2.0**-126, torch.float64: 2.0**-1022}
UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


@pytest.fixture(params=[pytest.param("reference", id="reference"), *CPU])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend, the compiled one with each instruction set that this processor has."""
    yield from use(request.param)


@pytest.fixture(params=CPU)
def cpu(request: pytest.FixtureRequest) -> Iterator[str]:
    """The compiled backend with each instruction set that this processor has."""
    yield from use(request.param)


@pytest.fixture(
    scope="session",
    params=[
        pytest.param("on host", marks=NEEDS_COMPILER),
        pytest.param("on device", marks=[pytest.mark.gpu, NEEDS_DEVICE]),
    ],
)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """Those in CUDA: on a GPU where there is one, and everywhere compiled for this processor."""
    return kernels_on(request.param)


@pytest.fixture(scope="session")
def compiled() -> object:
    """The compiled module."""
    if extension.compiled is None:
        pytest.skip(extension.missing_because)
    return extension.compiled


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads, undone afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def strided(values: Tensor, layout: str) -> Tensor:
    """A matrix of these values, or for an expanded one of some of them, that lies in memory as the layout says.

    Memory around a view is NaN: who reads it is found out.
    """
    rows, cols = values.shape
    if layout == "dense":
        return values.clone()
    if layout in ("first head", "second head"):  # as of a network with one output layer: h.chunk(2, dim=1)
        heads = values.new_full((rows, 2 * cols), math.nan)
        view = heads[:, :cols] if layout == "first head" else heads[:, cols:]
    elif layout == "transposed":
        view = values.new_empty((cols, rows)).t()
    elif layout == "steps":
        view = values.new_full((2 * rows + 1, 3 * cols + 2), math.nan)[1 : 2 * rows + 1 : 2, 2 : 3 * cols + 2 : 3]
    elif layout == "offset":  # neither aligned nor whole
        view = values.new_full((rows * cols + 3,), math.nan)[1 : rows * cols + 1].view(rows, cols)
    elif layout == "one row":
        return values[:1].expand(rows, cols) if rows else values
    elif layout == "one column":
        return values[:, :1].expand(rows, cols) if cols else values
    elif layout == "one number":
        return values[:1, :1].expand(rows, cols) if rows and cols else values
    else:
        raise ValueError(layout)
    return view.copy_(values)


@pytest.fixture
def lay_out() -> Callable[[Tensor, str], Tensor]:
    return strided


@pytest.fixture
def lay_out_vector() -> Callable[[Tensor, str], Tensor]:
    """The same for one number a row, such as an incoming gradient."""

    def vector(values: Tensor, layout: str) -> Tensor:
        if layout == "one number":
            return values[:1].expand(len(values)) if len(values) else values
        return strided(values.unsqueeze(1), layout).squeeze(1)

    return vector


@pytest.fixture
def any_magnitude() -> Callable[..., Tensor]:
    """Numbers of either sign, their logarithms spread evenly from ``low`` to ``high``: dense around 0."""

    def draw(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        exponent = torch.empty(shape, dtype=torch.float64).uniform_(math.log(low), math.log(high), generator=generator)
        sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
        return exponent.exp() * sign

    return draw


@pytest.fixture
def arithmetic() -> Callable[..., torch.dtype]:
    """What tensors of these types are computed in, by the contract: half precision accumulates in float32."""
    return lambda *dtypes: torch.float64 if torch.float64 in dtypes else torch.float32


@pytest.fixture
def allowed() -> dict[torch.dtype, float]:
    return ALLOWED


@pytest.fixture
def sum_rounding() -> Callable[[int, torch.dtype], float]:
    """What rounding may add to a sum of n terms, relative to the sum of their absolute values.

    Of n terms added up in p partial sums it is at most (n / p + p) unit roundoffs. Both torch and the kernels have at
    least four partial sums and start new ones after 512 terms; a few roundoffs more belong to each term.
    """
    return lambda n, dtype: (min(n, 512) / 4 + 8) * UNIT_ROUNDOFF[dtype]


@pytest.fixture
def assert_within() -> Callable[..., None]:
    """``assert_within(name, actual, expected, bound, arithmetic)``: actual is a number within the bound of what is
    expected, both float64, or in half precision the rounding of such a number. NaN and infinity have to be just that.
    """

    def check(name: str, actual: Tensor, expected: Tensor, bound: Tensor | float, arithmetic: torch.dtype) -> None:
        assert actual.shape == expected.shape, name
        expected, bound = expected.detach(), torch.as_tensor(bound) + SMALLEST[arithmetic]
        rounded, seen = expected.to(actual.dtype), actual.detach()
        if actual.dtype == arithmetic:
            near = (seen.double() - expected).abs() <= bound
        else:  # rounding is monotone
            near = (seen >= (expected - bound).to(seen.dtype)) & (seen <= (expected + bound).to(seen.dtype))
        good = (near & expected.isfinite()) | (seen == rounded) | (seen.isnan() & expected.isnan())
        if not good.all():
            where = tuple((~good).nonzero()[0].tolist())
            distance = (seen.double() - expected).abs() / (bound + 0 * expected)
            raise AssertionError(
                f"{name}{list(where)} is {seen[where].item()!r}, expected {expected[where].item()!r}, "
                f"{distance[where].item():.3g} bounds away; {int((~good).sum())} of {good.numel()} are wrong"
            )

    return check


class Operators(TorchDispatchMode):
    """Records what torch is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.fixture
def operators() -> Callable[[Callable[[], object]], list[str]]:
    """The names of the operators that a function calls."""

    def record(function: Callable[[], object]) -> list[str]:
        with Operators() as seen:
            function()
        return seen.names

    return record


@pytest.fixture
def operators_around_the_kernel(
    operators: Callable[[Callable[[], object]], list[str]],
) -> Callable[[Callable[[], object]], list[str]]:
    """Those of torch's own. A copy of an argument would be one of them."""
    return lambda function: [name for name in operators(function) if not name.startswith("manifold_core")]


@pytest.fixture
def memory_of_the_kernel() -> Callable[[Callable[[], object]], int]:
    """The bytes of all that the one kernel which a function calls allocates, and a check that it calls no operator.

    This sees into C++, where a copy could hide: one that is freed before the kernel ends, too, of which the profiler's
    own figure, what is left in the end, says nothing.
    """

    def measure(function: Callable[[], object]) -> int:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            function()
        (kernel,) = (event for event in profile.events() if event.name.startswith("manifold_core::"))
        assert kernel.cpu_children == []
        recorded = profile.profiler.kineto_results.events()
        ((begin, duration),) = ((e.start_ns(), e.duration_ns()) for e in recorded if e.name() == kernel.name)
        meanwhile = [e.nbytes() for e in recorded if e.name() == "[memory]" and 0 <= e.start_ns() - begin <= duration]
        return sum(size for size in meanwhile if size > 0)

    return measure
