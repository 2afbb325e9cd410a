"""Tensors of more than 2^31 elements. Several gigabytes and most of a minute."""

import pytest
import torch
from manifold_core.kernels.rsample_kl import reference
from torch import Tensor

import manifold_core as mc

COLS = 64
ROWS = 2**31 // COLS + 1000
FAR = slice(ROWS - 5, ROWS)  # beyond 2^31 elements


def expanded(dtype: torch.dtype) -> Tensor:
    """One row that stands for all: large without memory."""
    return torch.linspace(-1, 1, COLS, dtype=dtype).expand(ROWS, COLS)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_rsample_kl_beyond_an_index_of_31_bits() -> None:
    mu = expanded(torch.bfloat16).detach().requires_grad_()
    z, kl = mc.rsample_kl(mu, mu, seed=3, backend="cpu")
    near = mu.detach()[:5]
    expected_z, expected_kl, _ = reference.rsample_kl(near, near, None, None, None, torch.tensor(3), FAR.start)
    torch.testing.assert_close(z.detach()[FAR], expected_z)
    torch.testing.assert_close(kl.detach()[FAR], expected_kl)
    assert torch.equal(kl.detach()[:5], kl.detach()[FAR])


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_gaussian_nll_beyond_an_index_of_31_bits() -> None:
    x_hat = torch.zeros(ROWS, COLS, dtype=torch.bfloat16)
    x_hat[FAR] = 1
    x = expanded(torch.bfloat16)
    nll, squared_error = mc.gaussian_nll(x_hat, x, 0.5, return_squared_error=True, backend="cpu")
    for rows, value in ((slice(0, 5), 0), (FAR, 1)):
        expected = (value - x[rows].float()).square().sum(dim=1)
        torch.testing.assert_close(squared_error[rows], expected)
    assert nll.isfinite().all()
