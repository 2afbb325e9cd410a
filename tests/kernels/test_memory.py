"""What is kept for the backward pass: inputs and the seed, and where docs/ops.md says so, one array more."""

from collections.abc import Callable

import pytest
import torch
from manifold_core.kernels import conv_norm, conv_transpose, gaussian_elbo, lstm
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import manifold_core as mc

pytestmark = pytest.mark.usefixtures("compiled")
B, D, K = 50, 30, 20


def kept(function: Callable[[], tuple[Tensor, ...]], inputs: tuple[Tensor, ...]) -> tuple[int, int]:
    """Bytes saved by a function that are not its inputs; and bytes besides those and its results that stay."""
    saved: dict[int, int] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in inputs}

    def pack(tensor: Tensor) -> Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in own:
            saved[pointer] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched,
    ):
        results = function()
    allocated = sum(event.self_cpu_memory_usage for event in watched.key_averages())
    returned = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in results}
    return sum(saved.values()), allocated - sum({**returned, **saved}.values())


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()


def test_rsample_kl_keeps_the_seed() -> None:
    inputs = normal(B, K), normal(B, K), normal(K), normal(B, K), normal(1, K)
    seed = 8

    def plain() -> tuple[Tensor, ...]:
        return mc.rsample_kl(*inputs[:2], seed=1)

    def everything() -> tuple[Tensor, ...]:
        return mc.rsample_kl(*inputs[:4], gate_logits=inputs[4], seed=1, return_variance_ratio=True)

    assert kept(plain, inputs) == (seed, 0)
    assert kept(everything, inputs) == (seed, 0)


def test_rsample_kl_cholesky_keeps_the_seed() -> None:
    inputs = normal(B, K), normal(B, K * (K + 1) // 2)
    assert kept(lambda: mc.rsample_kl_cholesky(*inputs, seed=1), inputs) == (8, 0)


def test_gaussian_nll_keeps_the_squared_errors() -> None:
    inputs = normal(B, D), normal(B, D), torch.zeros((), requires_grad=True)
    assert kept(lambda: (mc.gaussian_nll(*inputs),), inputs) == (4 * B, 0)


def test_gaussian_elbo_keeps_the_gradient_of_x_hat_until_it_is_asked_for() -> None:
    inputs = normal(B, D), normal(B, D).detach(), torch.zeros((), requires_grad=True), normal(B)
    gradients = 4 * (B * D + 1 + 1)  # of x_hat, log_gamma and kl
    assert kept(lambda: gaussian_elbo(*inputs), inputs) == (4 * B, gradients)
    with torch.no_grad():
        assert kept(lambda: gaussian_elbo(*inputs), inputs) == (0, 0)


def test_conv_norm_keeps_what_was_normalised_and_conv_transpose_nothing() -> None:
    inputs = normal(B, 3, 6, 6), normal(4, 3, 3, 3), normal(4), normal(4), normal(B, 4, 3, 3)
    of_channels = 2 * 4 * 4  # mean and variance
    assert kept(lambda: conv_norm(*inputs, stride=2, padding=1), inputs) == (4 * B * 4 * 3 * 3 + of_channels, 0)
    inputs = normal(B, 3, 6, 6), normal(3, 4, 4, 4), normal(4)
    assert kept(lambda: (conv_transpose(*inputs, stride=2, padding=1),), inputs) == (0, 0)


def test_an_lstm_keeps_gates_and_cell_of_every_step() -> None:
    """Of whole tiles, 64 sequences."""
    inputs = normal(B, 3, 6), normal(20, 6), normal(20, 5), normal(20), normal(20)
    assert kept(lambda: (lstm(*inputs),), inputs) == (4 * -(-B // 64) * 64 * 3 * 5 * 5, 0)
    with torch.no_grad():
        assert kept(lambda: (lstm(*inputs),), inputs) == (0, 0)
