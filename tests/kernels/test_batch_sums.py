"""Sums over the batch."""

import math

import pytest
import torch
from manifold_core.kernels.batch_sums import PARALLEL_FROM, ROW, expand_over_batch, mean_of_batch, sum_of_batch
from threads import assert_same_on_threads
from torch import Tensor

SIZES = (0, 1, PARALLEL_FROM - 1, PARALLEL_FROM, PARALLEL_FROM + 1, 3 * ROW + 5, 1_000_003)


def numbers(size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize("size", SIZES)
def test_sum_of_batch_is_the_sum(size: int) -> None:
    values = numbers(size).requires_grad_()
    total = sum_of_batch(values)
    assert total.item() == pytest.approx(math.fsum(values.tolist()), abs=1e-6 * max(size, 1) ** 0.5)
    (grad,) = torch.autograd.grad(total, values)
    assert torch.equal(grad, torch.ones(size))
    if size:
        assert mean_of_batch(values).item() == pytest.approx(math.fsum(values.tolist()) / size, abs=1e-6)


def test_an_empty_batch_has_no_mean() -> None:
    assert mean_of_batch(torch.empty(0)).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_sum_does_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    for size in SIZES[2:]:
        assert_same_on_threads((1, 2, 3, 5), lambda values: [sum_of_batch(values)], numbers(size).to(dtype))


def test_one_sum_for_each_of_several_batches() -> None:
    values = numbers(3 * (PARALLEL_FROM + 7)).reshape(3, -1)
    found = torch.func.vmap(sum_of_batch)(values)
    assert torch.equal(found, torch.stack([sum_of_batch(row) for row in values]))


def test_the_gradient_of_one_number_is_such_a_sum() -> None:
    def gradient(values: Tensor) -> tuple[Tensor, ...]:
        value = torch.tensor(1.5, requires_grad=True)
        product = expand_over_batch(value, values) * values
        assert torch.equal(product, 1.5 * values)
        return torch.autograd.grad(product, value, torch.ones_like(values))

    for size in SIZES:
        values = numbers(size)
        assert_same_on_threads((1, 2, 3, 5), gradient, values)
        assert gradient(values)[0].item() == pytest.approx(math.fsum(values.tolist()), abs=1e-6 * max(size, 1) ** 0.5)
