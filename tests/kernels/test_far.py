"""Numbers that lie more than 2^31 elements behind the first of their tensor, in every input and incoming gradient.

They are in memory that nobody has written to, of which a page is there, and costs something, once it is touched.
"""

import mmap
from collections.abc import Callable, Iterator
from typing import NamedTuple

import oracles
import pytest
import torch
from cuda_on_host.build import OPERATORS
from cuda_on_host.kernels import NEEDS_COMPILER, kernels_on
from instruction_sets import CPU, use
from interpreter import IN_THE_INTERPRETER
from torch import Tensor

# Linux does not count this as memory in use, and so never refuses it. What torch allocates it refuses where that alone
# is more than the machine has, be it touched or not. Python has a name for the flag from 3.13 on.
UNRESERVED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
ROWS, COLS, LATENTS = 5, 8, 40  # columns that are read by four; lines of L for a whole warp, and for a part of one
FAR = 2**32 // ROWS // 8 * 8
Call = Callable[..., tuple[Tensor, ...]]


class Backend(NamedTuple):
    operators: dict[str, Call]  # as of an ordinary call
    dtypes: tuple[torch.dtype, ...]  # that have kernels of their own
    latents: int  # of a full covariance


def eager(backend: str) -> dict[str, Call]:
    return {o.name: o.by_backend[backend].eager for o in OPERATORS if backend in o.by_backend}


@pytest.fixture(
    params=[
        *CPU,
        pytest.param("triton", marks=IN_THE_INTERPRETER),
        pytest.param("cuda on host", marks=NEEDS_COMPILER),
    ]
)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each that runs on this processor, the compiled one with each instruction set."""
    both = torch.float32, torch.bfloat16
    if request.param == "cuda on host":
        yield Backend(kernels_on("on host").differentiable, both, LATENTS)
    elif request.param == "triton":  # an index is the same whatever the type
        yield Backend(eager("triton"), both[:1], COLS)
    else:
        for name in use(request.param):
            yield Backend(eager(name), both, LATENTS)


# Strides of the rows and of the columns of a matrix with that many columns, near and far. 32 bits hold the strides but
# in the second case, and not what they are multiplied to. All are alike to what reads several numbers at a time.
LAYOUTS: dict[str, Callable[[int], tuple[tuple[int, int], tuple[int, int]]]] = {
    "rows": lambda cols: ((cols // 8 * 8 + 8, 1), (FAR, 1)),
    "rows of a long stride": lambda cols: ((cols // 8 * 8 + 8, 1), (2**31 + 8, 1)),
    "columns": lambda cols: ((1, 8), (1, min(2**29, 2**34 // cols // 8 * 8))),  # far within a few lines of L, too
}


def laid_out(values: Tensor, layout: str, far: bool) -> Tensor:
    """The same numbers. An index that lost its upper half is one of this memory as well: it is read, and found out."""
    if values.dim() == 0:
        return values
    if values.dim() == 1:
        return laid_out(values.unsqueeze(1), "rows", far).squeeze(1)
    strides = LAYOUTS[layout](values.shape[1])[far]
    size = 2**31 + sum((n - 1) * stride for n, stride in zip(values.shape, strides, strict=True)) + 1
    memory = mmap.mmap(-1, size * values.dtype.itemsize, flags=UNRESERVED)
    return torch.frombuffer(memory, dtype=values.dtype).as_strided(values.shape, strides, 2**31).copy_(values)


SEED, LOG_GAMMA = torch.tensor(2**40 + 5), torch.tensor(0.3)
Numbers = Callable[..., Tensor]
Called = tuple[list[Tensor], tuple[Tensor, ...]]  # the inputs, and what the operator gives


def call_rsample_kl(backend: Backend, numbers: Numbers) -> Called:
    inputs = [numbers(ROWS, COLS) for _ in range(5)]
    return inputs, backend.operators["rsample_kl"](*inputs, SEED, 3, False, True)


def call_with_one_prior_and_gate(backend: Backend, numbers: Numbers) -> Called:
    inputs = [numbers(rows, COLS) for rows in (ROWS, ROWS, 1, ROWS, 1)]
    return inputs, backend.operators["rsample_kl"](*inputs, SEED, 3, True, True)


def call_rsample_kl_cholesky(backend: Backend, numbers: Numbers) -> Called:
    k = backend.latents
    inputs = [numbers(ROWS, cols) for cols in (k, k * (k + 1) // 2, k, k)]
    return inputs, backend.operators["rsample_kl_cholesky"](*inputs, SEED, 3, False, True)


def call_gaussian_nll(backend: Backend, numbers: Numbers) -> Called:
    inputs = [numbers(ROWS, COLS) for _ in range(2)]
    return inputs, backend.operators["gaussian_nll"](*inputs, LOG_GAMMA)


def call_gaussian_elbo(backend: Backend, numbers: Numbers) -> Called:
    x_hat, x, kl = numbers(ROWS, COLS), numbers(ROWS, COLS), numbers(ROWS)
    loss, *_ = backend.operators["gaussian_elbo"](x_hat, x, LOG_GAMMA, kl, 0.5, True)
    return [x_hat, x, kl], (loss,)


CALLS = (
    call_rsample_kl,
    call_with_one_prior_and_gate,
    call_rsample_kl_cholesky,
    call_gaussian_nll,
    call_gaussian_elbo,
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("call", CALLS)
def test_results_do_not_depend_on_how_far_apart_numbers_lie(
    backend: Backend, call: Callable[[Backend, Numbers], Called], layout: str
) -> None:
    """Near, the other tests hold it against the definition."""

    def run(dtype: torch.dtype, far: bool) -> list[Tensor]:
        generator = torch.Generator().manual_seed(6)

        def numbers(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            values = 0.3 * torch.randn(shape, generator=generator)
            return laid_out(values if len(shape) < 2 else values.to(dtype), layout, far).requires_grad_()

        inputs, results = call(backend, numbers)
        incoming = [numbers(*r.shape, dtype=r.dtype).detach() if r.requires_grad else None for r in results]
        return [*results, *oracles.gradients(results, incoming, inputs)]

    for dtype in backend.dtypes:
        for near, far in zip(run(dtype, False), run(dtype, True), strict=True):
            assert torch.equal(near, far)
