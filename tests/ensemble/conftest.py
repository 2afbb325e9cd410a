"""The engine on each instruction set."""

from collections.abc import Iterator

import pytest
import torch
from instruction_sets import CPU, NEEDS_COMPILED, use


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
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
