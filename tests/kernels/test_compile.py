"""Whole losses under torch.compile."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from interpreter import IN_THE_INTERPRETER
from manifold_core.kernels import gaussian_elbo
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch import config as functorch
from torch._inductor import config as inductor
from torch.autograd import grad

import manifold_core as mc

pytestmark = pytest.mark.usefixtures("compiled")


def vae_loss(
    heads: Tensor, x: Tensor, weight: Tensor, log_gamma: Tensor, seed: int | Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    mu, log_var = heads.chunk(2, dim=1)
    z, kl = mc.rsample_kl(mu, log_var, seed=seed, first_row=7)
    _, kls = mc.rsample_kl(mu, log_var, seed=seed, per_dimension=True)
    x_hat = z @ weight
    loss, _, squared_error = gaussian_elbo(x_hat, x, log_gamma, kl, beta=0.5)
    return loss + mc.gaussian_nll(x_hat, x, log_gamma).mean() + kls.square().mean(), z, squared_error


def cholesky_loss(
    heads: Tensor, x: Tensor, weight: Tensor, log_gamma: Tensor, seed: int | Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    mu = heads[:, :4]  # the triangle of which has all ten numbers
    z, kl = mc.rsample_kl_cholesky(mu, heads, seed=seed, first_row=7)
    prior = heads[:, 4:8], heads[0, 6:]
    _, kls, ratio = mc.rsample_kl_cholesky(mu, heads, *prior, seed=seed, per_dimension=True, return_variance_ratio=True)
    nll = mc.gaussian_nll(z @ weight[:4], x, log_gamma)
    return (nll + kl).mean() + kls.square().mean(), z, ratio


def evaluate(function: Callable[..., tuple[Tensor, ...]], batch: int, seed: int | Tensor | None) -> list[Tensor]:
    """Results and gradients, with the same arguments for the same batch."""
    generator = torch.Generator().manual_seed(batch)
    heads = torch.randn(batch, 10, dtype=torch.float64, generator=generator, requires_grad=True)
    x = torch.randn(batch, 7, dtype=torch.float64, generator=generator)
    weight = torch.randn(5, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    log_gamma = torch.tensor(0.3, requires_grad=True)
    results = function(heads, x, weight, log_gamma, seed)
    return [*(r.detach() for r in results), *grad(results[0], (heads, weight, log_gamma))]


def assert_alike(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        # A compiler may order a sum in another way, no more; log_gamma, and so its gradient, is in float32.
        torch.testing.assert_close(a, b, rtol=1e-6 if b.dtype == torch.float32 else 1e-12, atol=1e-12)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("loss", [vae_loss, cholesky_loss])
def test_compiled_loss_is_the_eager_one(
    fresh_compiler: None, loss: Callable[..., tuple[Tensor, ...]], dynamic: bool
) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    function = torch.compile(loss, fullgraph=True, backend=counter, dynamic=dynamic)
    for batch in (4, 9, 33):
        for seed in (torch.tensor(3), torch.tensor(2**62 + 1)):
            assert_alike(evaluate(function, batch, seed), evaluate(loss, batch, seed))
    assert counter.frame_count == (1 if dynamic else 3)


def test_compiled_loss_for_a_seed_that_is_an_int(fresh_compiler: None) -> None:
    function = torch.compile(vae_loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for seed in (0, 5, 2**62 + 1):
        assert_alike(evaluate(function, 6, seed), evaluate(vae_loss, 6, seed))


def test_compiled_loss_for_a_seed_that_is_drawn(fresh_compiler: None) -> None:
    function = torch.compile(vae_loss, fullgraph=True, backend="aot_eager", dynamic=True)
    state = torch.get_rng_state()
    try:
        found = []
        for candidate in (vae_loss, function):
            torch.manual_seed(5)
            found.append([evaluate(candidate, 6, None), evaluate(candidate, 6, None)])
    finally:
        torch.set_rng_state(state)
    for eager, compiled in zip(*found, strict=True):
        assert_alike(compiled, eager)
    assert not torch.equal(found[1][0][1], found[1][1][1])  # the graph draws anew on each call


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_compiled_loss_with_any_incoming_gradient(fresh_compiler: None, factor: float) -> None:
    # Eager mode looks whether the incoming gradient is 1; a graph must not.
    def scaled(*arguments: Tensor) -> tuple[Tensor, ...]:
        loss, z, squared_error = vae_loss(*arguments)
        return factor * loss + squared_error.mean(), z, squared_error

    function = torch.compile(scaled, fullgraph=True, backend="aot_eager")
    assert_alike(evaluate(function, 6, torch.tensor(3)), evaluate(scaled, 6, torch.tensor(3)))

    compiled_loss = torch.compile(lambda *a: vae_loss(*a)[:1], fullgraph=True, backend="aot_eager")
    outside = evaluate(lambda *a: (factor * compiled_loss(*a)[0],), 6, torch.tensor(3))
    assert_alike(outside, evaluate(lambda *a: (factor * vae_loss(*a)[0],), 6, torch.tensor(3)))


def triton_loss(
    heads: Tensor, x: Tensor, weight: Tensor, log_gamma: Tensor, seed: int | Tensor | None, backend: str
) -> tuple[Tensor, Tensor]:
    mu, log_var = heads.chunk(2, dim=1)
    z, kl = mc.rsample_kl(mu, log_var, mu[0], log_var[1:2], gate_logits=mu[2], seed=seed, backend=backend)
    y, kl_of_y = mc.rsample_kl_cholesky(heads[:, :4], heads, seed=seed, backend=backend)
    loss, _, _ = gaussian_elbo(z @ weight, x, log_gamma, kl, beta=0.5, backend=backend)
    return loss + (mc.gaussian_nll(y @ weight[:4], x, log_gamma, backend=backend) + kl_of_y).mean(), z


@IN_THE_INTERPRETER
def test_compiled_loss_of_triton_is_that_of_the_reference(fresh_compiler: None) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    function = torch.compile(triton_loss, fullgraph=True, backend=counter, dynamic=True)
    for batch in (4, 9):
        found = evaluate(lambda *a: function(*a, backend="triton"), batch, torch.tensor(3))
        eager = evaluate(lambda *a: triton_loss(*a, backend="triton"), batch, torch.tensor(3))
        expected = evaluate(lambda *a: triton_loss(*a, backend="reference"), batch, torch.tensor(3))
        assert_alike(found, eager)
        assert_alike(found, expected)
    assert counter.frame_count == 1


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="inductor needs a compiler")
@pytest.mark.skipif(" " in torch.__file__, reason="inductor links no torch whose path has a space")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # of torch itself
def test_inductor_gives_the_eager_loss(fresh_compiler: None) -> None:
    def loss(*arguments: Any) -> tuple[Tensor, ...]:
        diagonal, full = vae_loss(*arguments), cholesky_loss(*arguments)
        return diagonal[0] + full[0], *diagonal[1:], *full[1:]

    function = torch.compile(loss, fullgraph=True, dynamic=True)
    # A graph that is kept on disk knows the operators as they were when it was made.
    with inductor.patch(fx_graph_cache=False), functorch.patch(enable_autograd_cache=False):
        for batch in (4, 9):
            assert_alike(evaluate(function, batch, torch.tensor(3)), evaluate(loss, batch, torch.tensor(3)))
