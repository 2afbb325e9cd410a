"""Inputs and incoming gradients are read where they lie: a kernel allocates its results and nothing else."""

from collections.abc import Callable

import pytest
import torch
from layouts import LAYOUTS, lay_out, lay_out_vector
from manifold_core.kernels import gaussian_elbo
from recording import memory_of_the_kernel, operators_around_the_kernel
from torch import Tensor
from torch.autograd import grad

import manifold_core as mc

pytestmark = pytest.mark.usefixtures("compiled")
B, K = 30, 20
Results = tuple[Tensor, ...]
SEED = {"aten.full.default"}  # makes it


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_nothing_is_copied(call: Callable[[], Results], operators: set[str]) -> None:
    """A function asks torch for no more than these operators, and its kernel for the memory of its results."""
    assert operators_around_the_kernel(call) <= operators
    assert memory_of_the_kernel(call) == sum(result.nbytes for result in call())


def incoming(layout: str) -> list[list[Tensor]]:
    """Gradients of z and of kl: of a number a row, of one for all, as of kl.sum(), and per dimension."""
    of_kl = (lay_out_vector(normal(B), layout), torch.ones(()).expand(B), lay_out(normal(B, K), layout))
    return [[lay_out(normal(B, K), layout), gradient] for gradient in of_kl]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rsample_kl(layout: str) -> None:
    inputs = [lay_out(normal(B, K), layout).requires_grad_() for _ in range(5)]
    for gradients in incoming(layout):

        def call(per_dimension: bool = gradients[1].dim() == 2) -> tuple[Tensor, Tensor]:
            given = {"gate_logits": inputs[4], "seed": 20, "per_dimension": per_dimension}
            return mc.rsample_kl(*inputs[:4], **given, backend="cpu")

        assert_nothing_is_copied(call, SEED)
        results = call()
        assert_nothing_is_copied(lambda r=results, g=gradients: grad(r, inputs, g, retain_graph=True), set())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rsample_kl_cholesky(layout: str) -> None:
    inputs = [lay_out(normal(B, cols), layout).requires_grad_() for cols in (K, K * (K + 1) // 2, K, K)]
    for gradients in incoming(layout):

        def call(per_dimension: bool = gradients[1].dim() == 2) -> tuple[Tensor, Tensor]:
            return mc.rsample_kl_cholesky(*inputs, seed=20, per_dimension=per_dimension, backend="cpu")

        assert_nothing_is_copied(call, SEED)
        results = call()
        assert_nothing_is_copied(lambda r=results, g=gradients: grad(r, inputs, g, retain_graph=True), set())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gaussian_nll(layout: str) -> None:
    x_hat, x = lay_out(normal(B, K), layout).requires_grad_(), lay_out(normal(K, B).T, layout)
    log_gamma = torch.tensor(0.1, requires_grad=True)
    results = mc.gaussian_nll(x_hat, x, log_gamma, return_squared_error=True, backend="cpu")
    each, one = lay_out_vector(normal(B), layout), torch.ones(()).expand(B)
    saved = {"aten.detach.default"}  # a result: from its graph
    for gradients in ((each, one), (one, each)):
        assert_nothing_is_copied(lambda g=gradients: grad(results, (x_hat, log_gamma), g, retain_graph=True), saved)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gaussian_elbo(layout: str) -> None:
    """Which makes the gradients with the loss."""
    x_hat, x = lay_out(normal(B, K), layout).requires_grad_(), lay_out(normal(K, B).T, layout)
    kl, log_gamma = lay_out_vector(normal(B), layout), torch.tensor(0.1)

    def call() -> Results:
        return gaussian_elbo(x_hat, x, log_gamma, kl, backend="cpu")

    of_log_gamma_and_kl = 2 * 4
    found = memory_of_the_kernel(call)
    assert found == sum(result.nbytes for result in call()) + x_hat.numel() * 4 + of_log_gamma_and_kl


def assert_gaussian_nll_copies_nothing(x_hat: Tensor, x: Tensor) -> None:
    log_gamma = torch.tensor(0.1)
    assert_nothing_is_copied(
        lambda: mc.gaussian_nll(x_hat, x, log_gamma, return_squared_error=True, backend="cpu"),
        {"aten.permute.default", "aten.view.default"},
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gaussian_nll_reads_views(layout: str) -> None:
    assert_gaussian_nll_copies_nothing(lay_out(torch.randn(B, K), layout), lay_out(torch.randn(B, K), layout))
    assert_gaussian_nll_copies_nothing(lay_out(torch.randn(B, K), layout), torch.randn(B, K))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gaussian_nll_reads_images(memory_format: torch.memory_format) -> None:
    assert_gaussian_nll_copies_nothing(*(torch.randn(4, 3, 8, 6).to(memory_format=memory_format) for _ in range(2)))
