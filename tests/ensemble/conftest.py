"""The engine on each instruction set."""

from collections.abc import Iterator

import pytest
from instruction_sets import CPU, NEEDS_COMPILED, use
from threads import on_one_thread


@pytest.fixture(params=CPU)
def cpu(request: pytest.FixtureRequest) -> Iterator[str]:
    """The compiled engine with each instruction set that this processor has."""
    yield from use(request.param)


@pytest.fixture(params=["reference", pytest.param("cpu", marks=NEEDS_COMPILED)])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend, with the widest instruction set."""
    return str(request.param)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For PyTorch: to share such small matrices out would take most of the time."""
    with on_one_thread():
        yield
