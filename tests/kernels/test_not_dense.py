"""Tensors that are not dense are refused by their argument's name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from manifold_core.kernels.gaussian_elbo import gaussian_elbo
from torch import Tensor

import manifold_core as mc

X = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
TRIL = torch.zeros(4, 21)
ZERO = torch.tensor(0.0)
CALLS: dict[str, Callable[[Tensor], Any]] = {
    "mu": lambda bad: mc.rsample_kl(bad, X),
    "log_var": lambda bad: mc.rsample_kl(X, bad),
    "prior_mu": lambda bad: mc.rsample_kl(X, X, bad, X),
    "prior_log_var": lambda bad: mc.rsample_kl_cholesky(X, TRIL, X, bad),
    "gate_logits": lambda bad: mc.rsample_kl(X, X, gate_logits=bad),
    "tril": lambda bad: mc.rsample_kl_cholesky(X, bad),
    "x_hat": lambda bad: mc.gaussian_nll(bad, X, 0.0),
    "x": lambda bad: gaussian_elbo(X, bad, ZERO, ZERO),
    "kl": lambda bad: gaussian_elbo(X, X, ZERO, bad),
    "log_gamma": lambda bad: mc.gaussian_nll(X, X, bad),
}
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.sparse_coo": Tensor.to_sparse,
    "torch.sparse_csr": Tensor.to_sparse_csr,
    "torch._mkldnn": Tensor.to_mkldnn,
    "a nested tensor": lambda x: torch.nested.nested_tensor(list(x.unbind())),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_are_not_dense_are_refused(name: str, kind: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a dense tensor, got {kind}"):
        CALLS[name](KINDS[kind](X))
