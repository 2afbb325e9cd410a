"""Tensors of more than 2^31 elements, forward and backward. Nine gigabytes at most, and a minute on one thread."""

import pytest
import torch
from manifold_core.kernels.rsample_kl import reference
from manifold_core.kernels.rsample_kl_cholesky import reference as cholesky
from sampling import packed
from torch import Tensor
from torch.autograd import grad

import manifold_core as mc

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled")]
COLS, LATENTS = 64, 11  # of a matrix, and of a full covariance
SEED = torch.tensor(3)


def rows(cols: int) -> int:
    return 2**31 // cols + 1000


def far(cols: int) -> slice:
    """Rows beyond 2^31 elements."""
    return slice(rows(cols) - 5, rows(cols))


def expanded(cols: int, height: int | None = None) -> Tensor:
    """One row that stands for all: large without memory."""
    row = torch.linspace(-1, 1, cols, dtype=torch.bfloat16)
    return row.expand(rows(cols) if height is None else height, cols).detach().requires_grad_()


def first(tensor: Tensor) -> Tensor:
    """Five rows of it, to learn from."""
    return tensor.detach()[:5].clone().requires_grad_()


def test_rsample_kl_beyond_an_index_of_31_bits() -> None:
    mu, log_var, near = expanded(COLS), expanded(COLS), far(COLS)
    z, kl = (result.detach()[near].clone() for result in mc.rsample_kl(mu, log_var, seed=SEED, backend="cpu"))
    some = first(mu), first(log_var)
    expected = reference.rsample_kl(*some, None, None, None, SEED, near.start)[:2]
    for found, exact in zip((z, kl), expected, strict=True):
        torch.testing.assert_close(found, exact.detach())
    # By the operator of the backward pass: the graph would keep z, and with both gradients that is too much.
    incoming = mu.detach(), torch.ones(()).expand(len(mu))
    rest = None, None, None, SEED, 0, False, False
    found_grads = torch.ops.manifold_core.rsample_kl_backward(*incoming, mu.detach(), log_var.detach(), *rest)
    for found, exact in zip(found_grads[:2], grad(expected, some, [t[:5] for t in incoming]), strict=True):
        torch.testing.assert_close(found[near], exact)


def test_rsample_kl_cholesky_beyond_an_index_of_31_bits() -> None:
    tril = expanded(packed(LATENTS))
    mu, near = expanded(LATENTS, len(tril)), far(packed(LATENTS))
    outputs = mc.rsample_kl_cholesky(mu, tril, seed=SEED, backend="cpu")
    some = first(mu), first(tril)
    expected = cholesky.rsample_kl_cholesky(*some, None, None, SEED, near.start)[:2]
    for found, exact in zip(outputs, expected, strict=True):
        torch.testing.assert_close(found.detach()[near], exact.detach())
    incoming = mu.detach(), torch.ones(()).expand(len(mu))
    found_grads = grad(outputs, (mu, tril), incoming)
    for found, exact in zip(found_grads, grad(expected, some, [t[:5] for t in incoming]), strict=True):
        torch.testing.assert_close(found[near], exact)


def test_gaussian_nll_beyond_an_index_of_31_bits() -> None:
    near = far(COLS)
    x_hat = torch.zeros(rows(COLS), COLS, dtype=torch.bfloat16)
    x_hat[near] = 1
    x, log_gamma = expanded(COLS).detach(), torch.tensor(0.5)
    nll, squared_error = mc.gaussian_nll(x_hat.requires_grad_(), x, log_gamma, return_squared_error=True, backend="cpu")
    assert nll.isfinite().all()
    (grad_x_hat,) = grad(nll, x_hat, torch.ones(()).expand(len(x)))
    for these, value in ((slice(0, 5), 0), (near, 1)):
        errors = value - x[these].float()
        torch.testing.assert_close(squared_error.detach()[these], errors.square().sum(dim=1))
        torch.testing.assert_close(grad_x_hat[these], (errors * torch.exp(-log_gamma)).bfloat16())
