"""What rsample_kl and rsample_kl_cholesky have in common: arguments that are no tensors, autocast and export."""

import re
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from dtypes import DTYPES
from manifold_core.kernels import extension
from manifold_core.kernels.random import standard_normal
from sampling import packed
from torch import Tensor
from torch.autograd import grad

import manifold_core as mc

Sampler = Callable[..., tuple[Tensor, ...]]
MU = torch.zeros(2, 3)
ON_ZEROS = [
    pytest.param(partial(mc.rsample_kl, MU, MU, seed=1), id="rsample_kl"),
    pytest.param(partial(mc.rsample_kl_cholesky, MU, torch.zeros(2, 6), seed=1), id="rsample_kl_cholesky"),
]


@pytest.mark.parametrize("backend_name", ["auto", "reference"])
@pytest.mark.parametrize("name", ["per_dimension", "return_variance_ratio"])
@pytest.mark.parametrize("flag", ["yes", None, 1])
@pytest.mark.parametrize("sample", ON_ZEROS)
def test_a_flag_that_is_no_bool_is_refused(sample: Sampler, backend_name: str, name: str, flag: object) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be True or False, got {flag!r}$"):
        sample(backend=backend_name, **{name: flag})


@pytest.mark.parametrize("backend_name", ["auto", "reference"])
@pytest.mark.parametrize("first_row", [-1, 1.5, True, None, "0", 2**63, 2**63 - len(MU)])
@pytest.mark.parametrize("sample", ON_ZEROS)
def test_a_first_row_out_of_range_is_refused(sample: Sampler, backend_name: str, first_row: object) -> None:
    wanted = f"first_row must be an integer from 0 to 2**63 - 1 - B for B = {len(MU)} rows, got {first_row!r}"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        sample(first_row=first_row, backend=backend_name)


@pytest.mark.parametrize("backend_name", ["auto", "reference"])
@pytest.mark.parametrize("sample", ON_ZEROS)
def test_a_first_row_for_each_sample_is_refused_under_vmap(sample: Sampler, backend_name: str) -> None:
    with pytest.raises(ValueError, match="first_row must be an integer"):
        torch.func.vmap(lambda row: sample(first_row=row, backend=backend_name)[0])(torch.arange(3))


@pytest.mark.parametrize("backend_name", ["auto", "reference"])
@pytest.mark.parametrize("sample", ON_ZEROS)
def test_the_largest_first_row_is_taken(sample: Sampler, backend_name: str) -> None:
    last = 2**63 - 1 - len(MU)
    z = sample(first_row=np.int64(last), backend=backend_name)[0]
    torch.testing.assert_close(z, standard_normal(torch.tensor(1), *MU.shape, last).float())


@pytest.mark.parametrize(("sample", "cols"), [(mc.rsample_kl, 6), (mc.rsample_kl_cholesky, packed(6))])
def test_autocast_changes_nothing(backend: str, sample: Sampler, cols: int) -> None:
    generator = torch.Generator().manual_seed(21)
    for dtype in DTYPES:
        inputs = [torch.randn(5, n, generator=generator).to(dtype).requires_grad_() for n in (6, cols)]

        def run(inputs: list[Tensor] = inputs) -> list[Tensor]:
            z, kl = sample(*inputs, seed=22, backend=backend)
            return [z, kl, *grad(z.float().sum() + kl.sum(), inputs)]

        outside = run()
        with torch.autocast("cpu", torch.bfloat16):
            inside = run()
        for a, b in zip(inside, outside, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


@pytest.mark.parametrize("backend_name", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("kind", "size"), [("diagonal", "named"), ("cholesky", "named"), ("nll", "named"), ("diagonal", "automatic")]
)
def test_a_batch_of_any_size_is_exported(backend_name: str, kind: str, size: str) -> None:
    if backend_name == "cpu" and extension.compiled is None:
        pytest.skip(extension.missing_because)

    class Sampling(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            if kind == "diagonal":
                return mc.rsample_kl(a, b, seed=1, backend=backend_name)[0]
            if kind == "cholesky":
                return mc.rsample_kl_cholesky(a, torch.cat((b, b), dim=1), seed=1, backend=backend_name)[0]
            return mc.gaussian_nll(a, b, -1.0, backend=backend_name)

    batch = torch.export.Dim("B") if size == "named" else torch.export.Dim.DYNAMIC
    example = torch.ones(4, 3), torch.zeros(4, 3)
    exported = torch.export.export(Sampling(), example, dynamic_shapes=({0: batch}, {0: batch}))
    a, b = torch.linspace(-1, 1, 18).reshape(6, 3), torch.linspace(1, 0, 18).reshape(6, 3)
    assert torch.equal(exported.module()(a, b), Sampling()(a, b))
