"""The backends that the tests of the kernels run on."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from cuda_on_host.kernels import NEEDS_COMPILER, NEEDS_DEVICE, Kernels, kernels_on
from instruction_sets import CPU, use
from manifold_core.kernels import extension


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
def fresh_compiler() -> Iterator[None]:
    """torch.compile remembers nothing of other tests, nor they of this one."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def quiet_numpy() -> Iterator[None]:
    """Triton's interpreter calculates with numpy, which warns where a result is meant to be infinite or NaN."""
    with np.errstate(all="ignore"):
        yield
