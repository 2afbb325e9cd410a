"""The engine on each instruction set."""

from collections.abc import Iterator

import pytest
from instruction_sets import CPU, use


@pytest.fixture(params=CPU)
def cpu(request: pytest.FixtureRequest) -> Iterator[str]:
    """The compiled engine with each instruction set that this processor has."""
    yield from use(request.param)
