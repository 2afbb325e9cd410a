import re
from types import ModuleType

import mpmath
import oracles
import pytest
import torch
from dtypes import BF16, DTYPES, F64
from hypothesis import example, given, settings
from hypothesis import strategies as st
from instruction_sets import ONCE
from manifold_core.kernels.random import standard_normal
from manifold_core.kernels.rsample_kl_cholesky import reference
from poison import poisoned
from sampling import Case, as_problem, assert_is_the_definition, cases, draw, generator_of, on_diagonal, packed
from threads import assert_same_on_threads
from tolerances import sum_rounding
from torch import Tensor
from torch.autograd import grad, gradcheck
from torch.distributions import MultivariateNormal, kl_divergence

import manifold_core as mc

# Small and many; around the sizes at which vectors, blocks of noise and tiles end.
SHAPES = (
    st.tuples(st.integers(1, 9), st.integers(1, 40))
    | st.tuples(st.integers(100, 400), st.integers(1, 5))
    | st.tuples(st.integers(1, 7), st.sampled_from([15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129]))
)


@settings(max_examples=100)
@given(cases(SHAPES, gate=st.just("none")))
@example(Case((1, 1)))
@example(Case((600, 32)))
@example(Case((150, 20), prior="one row", first_row=9))
@example(Case((3000, 2), (F64,) * 5, prior="one row", per_dimension=True, first_row=9))
@example(Case((3, 515), first_row=2**33))
@example(Case((2, 1024), prior="rows"))
@example(Case((2, 1023), (F64,) * 5, ("steps",) * 7, prior="rows", per_dimension=True, first_row=2**33))
@example(Case((2, 700), (BF16,) * 5, prior="one row", first_row=2**33))
def test_every_backend_is_the_definition_in_float64(backend: str, case: Case) -> None:
    generator = generator_of(case)
    problem = as_problem(case, generator, draw(case, generator, full=True))

    def sample(seed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        options = {"per_dimension": case.per_dimension, "first_row": case.first_row, "backend": backend}
        return mc.rsample_kl_cholesky(**problem.inputs, **options, return_variance_ratio=True, seed=seed)

    sums = {"z": 1, "kl": 1 if case.per_dimension else 2, "variance_ratio": 1, "grad_prior_log_var": 1}
    over_rows = sum_rounding(case.shape[0], problem.arithmetic) if backend == "reference" else 0
    assert_is_the_definition(case, problem, sample, sums, over_rows)


def unpacked(numbers: list[float], latents: int) -> Tensor:
    """L of one sample, by the words of the definition."""
    L, given = torch.zeros(latents, latents, dtype=torch.float64), iter(numbers)
    for i in range(latents):
        for j in range(i):
            L[i, j] = next(given)
        L[i, i] = torch.tensor(next(given), dtype=torch.float64).exp()
    return L


@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("latents", [1, 2, 5, 19])
def test_the_definition_is_that_of_torch_distributions(latents: int, with_prior: bool) -> None:
    generator = torch.Generator().manual_seed(latents)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    mu, tril = normal(4, latents), normal(4, packed(latents))
    prior = (normal(4, latents), normal(4, latents)) if with_prior else (None, None)
    m, p = prior if with_prior else (torch.zeros(4, latents).double(), torch.zeros(4, latents).double())
    z, kl = mc.rsample_kl_cholesky(mu, tril, *prior, seed=3, backend="reference")
    _, kls, ratio = mc.rsample_kl_cholesky(
        mu, tril, *prior, seed=3, per_dimension=True, return_variance_ratio=True, backend="reference"
    )
    scale = torch.stack([unpacked(numbers, latents) for numbers in tril.tolist()])
    noise = standard_normal(torch.tensor(3), 4, latents)
    torch.testing.assert_close(z, mu + torch.einsum("bij,bj->bi", scale, noise), rtol=1e-12, atol=1e-12)

    def kl_of_first(n: int) -> Tensor:
        """Of the first n latents: the first rows of L are the factor of their covariance."""
        posterior = MultivariateNormal(mu[:, :n], scale_tril=scale[:, :n, :n])
        return kl_divergence(
            posterior, MultivariateNormal(m[:, :n], covariance_matrix=torch.diag_embed(p[:, :n].exp()))
        )

    torch.testing.assert_close(kl, kl_of_first(latents), rtol=1e-12, atol=1e-12)
    for i in range(latents):  # the chain rule
        before = kl_of_first(i) if i else 0
        torch.testing.assert_close(kls[:, i], kl_of_first(i + 1) - before, rtol=1e-10, atol=1e-10)
    covariance = scale @ scale.transpose(1, 2)
    expected = (covariance.diagonal(dim1=1, dim2=2) / p.exp()).mean(dim=0)
    torch.testing.assert_close(ratio, expected, rtol=1e-12, atol=0)


def test_the_covariance_of_many_samples_is_that_of_l() -> None:
    generator = torch.Generator().manual_seed(1)
    tril = 0.5 * torch.randn(1, packed(4), dtype=torch.float64, generator=generator)
    z, _ = mc.rsample_kl_cholesky(torch.zeros(200_000, 4).double(), tril.expand(200_000, -1), seed=5)
    scale = unpacked(tril[0].tolist(), 4)
    covariance = scale @ scale.T
    spread = torch.sqrt((covariance.square() + torch.outer(covariance.diag(), covariance.diag())) / len(z))
    assert ((z.T @ z / len(z) - covariance).abs() < 5 * spread).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 7), (5, 0), (0, 0)])
def test_nothing_to_do(backend: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    mu = torch.empty(shape, dtype=dtype, requires_grad=True)
    tril = torch.empty(shape[0], packed(shape[1]), dtype=dtype, requires_grad=True)
    prior = [torch.zeros(shape[1], dtype=dtype, requires_grad=True) for _ in range(2)]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for per_dimension in (False, True):

        def run(per_dimension: bool = per_dimension) -> tuple[Tensor, ...]:
            z, kl, ratio = mc.rsample_kl_cholesky(
                mu, tril, *prior, per_dimension=per_dimension, return_variance_ratio=True, seed=1, backend=backend
            )
            return z, kl, ratio, *grad(z.sum() + kl.sum(), (mu, tril, *prior))

        z, kl, ratio, *grads = poisoned(run)
        assert (z.shape, z.dtype) == (shape, dtype)
        assert torch.equal(kl, torch.zeros(shape if per_dimension else shape[:1], dtype=wide))  # an empty sum is 0
        assert ratio.shape == shape[1:]
        assert ratio.isnan().all()
        assert [(g.shape, g.dtype) for g in grads] == [(t.shape, dtype) for t in (mu, tril, *prior)]
        assert all((g == 0).all() for g in grads[2:])


def test_a_diagonal_l_gives_what_the_diagonal_op_gives(backend: str) -> None:
    generator = torch.Generator().manual_seed(2)
    mu, log_var = (torch.randn(9, 13, dtype=torch.float64, generator=generator) for _ in range(2))
    tril = torch.zeros(9, packed(13), dtype=torch.float64)
    tril[:, on_diagonal(13)] = log_var / 2
    for options in ({}, {"per_dimension": True}):
        for prior in ((), (mu[3], log_var[4])):
            diagonal = mc.rsample_kl(mu, log_var, *prior, return_variance_ratio=True, seed=6, **options)
            full = mc.rsample_kl_cholesky(
                mu, tril, *prior, return_variance_ratio=True, seed=6, backend=backend, **options
            )
            for a, b in zip(full, diagonal, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_kl_of_the_prior_is_zero(backend: str) -> None:
    mu, tril = torch.zeros(3, 5, requires_grad=True), torch.zeros(3, packed(5), requires_grad=True)
    _, kl = mc.rsample_kl_cholesky(mu, tril, seed=1, backend=backend)
    assert torch.equal(kl, torch.zeros(3))
    for g in grad(kl.sum(), (mu, tril)):
        assert (g == 0).all()


@pytest.mark.parametrize("latents", [5, 37, 130, 600])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_nan_stays_in_its_row(backend: str, dtype: torch.dtype, latents: int) -> None:
    # Of L, too: what is read around a short row may not reach its sums.
    generator = torch.Generator().manual_seed(3)
    last = latents - 1
    for sample, i, j in ((0, 0, 0), (2, last, 0), (1, last, last), (2, latents // 2, 1), (0, last - 1, last - 2)):
        mu = torch.randn(3, latents, generator=generator).to(dtype).requires_grad_()
        tril = (0.1 * torch.randn(3, packed(latents), generator=generator)).to(dtype)
        tril[sample, packed(i) + j] = torch.nan
        tril.requires_grad_()
        z, kl = mc.rsample_kl_cholesky(mu, tril, seed=4, backend=backend)
        _, kls = mc.rsample_kl_cholesky(mu, tril, seed=4, per_dimension=True, backend=backend)
        grad_mu, grad_tril = grad(z.sum() + kl.sum(), (mu, tril))
        here = torch.zeros(3, latents, dtype=torch.bool)
        here[sample, i] = True
        # The definition multiplies by all of eps, zeros of L included, but a sum has the same terms.
        assert torch.equal(z.isnan(), here)
        assert torch.equal(kls.isnan(), here)
        assert torch.equal(kl.isnan(), here.any(dim=1))
        assert not grad_mu.isnan().any()
        assert grad_tril.isnan().sum() == 1
        assert grad_tril[sample, packed(i) + j].isnan()


@pytest.mark.parametrize("latents", [5, 130])
def test_nan_gradients_stay_where_they_are(backend: str, latents: int) -> None:
    mu = torch.zeros(6, latents, requires_grad=True)
    tril = torch.ones(6, packed(latents), requires_grad=True)
    z, kl = mc.rsample_kl_cholesky(mu, tril, seed=4, backend=backend)
    grad_z, grad_kl = torch.ones(6, latents), torch.ones(6)
    grad_z[1, 3] = torch.nan
    grad_kl[5] = torch.nan
    grad_mu, grad_tril = grad((z, kl), (mu, tril), (grad_z, grad_kl))
    here = torch.zeros(6, latents, dtype=torch.bool)
    here[1, 3] = here[5] = True
    assert torch.equal(grad_mu.isnan(), here)
    in_tril = torch.zeros(6, packed(latents), dtype=torch.bool)
    in_tril[1, packed(3) : packed(4)] = in_tril[5] = True
    assert torch.equal(grad_tril.isnan(), in_tril)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("latents", [1, 3, 16, 37, 130, 520])
def test_kl_per_dimension_sums_to_kl(backend: str, dtype: torch.dtype, latents: int) -> None:
    generator = torch.Generator().manual_seed(5)
    mu = torch.randn(5, latents, generator=generator).to(dtype)
    tril = torch.randn(5, packed(latents), generator=generator).to(dtype)
    z, kl = mc.rsample_kl_cholesky(mu, tril, seed=6, backend=backend)
    same_z, kls = mc.rsample_kl_cholesky(mu, tril, seed=6, per_dimension=True, backend=backend)
    assert torch.equal(z, same_z)
    assert kls.dtype == kl.dtype
    torch.testing.assert_close(kl.double(), kls.double().sum(dim=1), rtol=sum_rounding(latents, kl.dtype), atol=0)


@ONCE
@pytest.mark.parametrize("per_dimension", [False, True])
@pytest.mark.parametrize("prior", ["none", "one row", "as mu"])
def test_gradcheck(backend: str, prior: str, per_dimension: bool) -> None:
    generator = torch.Generator().manual_seed(7)
    shapes = {"none": [], "one row": [(6,), (1, 6)], "as mu": [(4, 6), (4, 6)]}[prior]
    inputs = [
        torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in [(4, 6), (4, packed(6)), *shapes]
    ]

    def function(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        return mc.rsample_kl_cholesky(*inputs, per_dimension=per_dimension, seed=8, first_row=3, backend=backend)

    assert gradcheck(function, inputs)


@pytest.mark.parametrize("latents", [1, 40])
@pytest.mark.parametrize(
    ("mu", "log_diagonal", "prior_log_var"),
    [(0.0, 5.0, -80.0), (1e5, 0.0, -80.0), (0.0, 60.0, None), (0.0, 0.0, -200.0)],
)
def test_gradients_of_z_do_not_need_finite_ones_of_kl(
    backend: str, latents: int, mu: float, log_diagonal: float, prior_log_var: float | None
) -> None:
    """In float32 the derivatives of KL are, or its square of the distance; those of z are as without a prior."""
    mus = torch.full((3, latents), mu, requires_grad=True)
    tril = torch.where(on_diagonal(latents), log_diagonal, 0.5).repeat(3, 1).requires_grad_()
    prior = ()
    if prior_log_var is not None:
        prior = (torch.zeros(3, latents), torch.full((3, latents), prior_log_var, requires_grad=True))
    noise = standard_normal(torch.tensor(2), 3, latents)
    z, _ = mc.rsample_kl_cholesky(mus, tril, *prior, seed=2, backend=backend)
    found = grad(z.sum(), (mus, tril, *prior[1:]), allow_unused=True, materialize_grads=True)
    rows, cols = torch.tril_indices(latents, latents)
    expected = noise[:, cols] * torch.where(rows == cols, float(mpmath.exp(log_diagonal)), 1.0)
    torch.testing.assert_close(found[0], torch.ones(3, latents), rtol=0, atol=0)
    torch.testing.assert_close(found[1].double(), expected, rtol=1e-6, atol=0)
    assert all((one == 0).all() for one in found[2:])


@pytest.mark.parametrize("latents", [1, 9, 40])
def test_an_infinite_kl_that_has_no_weight_has_no_gradient(backend: str, latents: int) -> None:
    inputs, grad_kl = oracles.infinite_in_float32(True, latents)
    _, kl = mc.rsample_kl_cholesky(**inputs, seed=0, backend=backend)
    found = dict(zip(inputs, grad(kl, list(inputs.values()), grad_kl), strict=True))
    oracles.assert_gradients_of_infinite_kl(found, inputs, grad_kl)


@pytest.mark.parametrize(("below", "prior_log_var"), [(1e20, 80.0), (3e-21, -80.0)])
def test_numbers_left_of_the_diagonal_are_scaled_before_they_are_squared(
    backend: str, below: float, prior_log_var: float
) -> None:
    """Its square alone is infinite, or has lost its digits; over the prior's variance it has not."""
    mu, prior = torch.zeros(2, 5), (torch.zeros(2, 5), torch.full((2, 5), prior_log_var))
    tril = torch.where(on_diagonal(5), prior_log_var / 2, below).repeat(2, 1)
    _, kl = mc.rsample_kl_cholesky(mu, tril, *prior, seed=1, backend=backend)
    expected = 10 * 0.5 * float(mpmath.mpf(float(tril[0, 1])) ** 2 * mpmath.exp(-prior_log_var))
    torch.testing.assert_close(kl.double(), torch.full((2,), expected).double(), rtol=2e-6, atol=0)


def test_the_mean_variance_ratio_is_finite_where_one_ratio_is_not(backend: str) -> None:
    """Of one sample in ten it is e⁹⁰, more than float32 holds."""
    mu, tril, prior_log_var = torch.zeros(10, 2), torch.zeros(10, 3), torch.zeros(10, 2)
    tril[4, 2], prior_log_var[4, 1] = 25, -40
    *_, ratio = mc.rsample_kl_cholesky(mu, tril, mu, prior_log_var, return_variance_ratio=True, seed=1, backend=backend)
    torch.testing.assert_close(ratio, torch.tensor([1, float((9 + mpmath.exp(90)) / 10)]), rtol=1e-5, atol=0)


def test_kl_has_finite_gradients_where_sigma_is_infinite(backend: str) -> None:
    """L_jj, and L_jj ε with it, is beyond float32, KL's derivative against a prior as wide is not."""
    mu, tril = torch.zeros(3, 1, requires_grad=True), torch.full((3, 1), 100.0, requires_grad=True)
    _, kl = mc.rsample_kl_cholesky(mu, tril, torch.ones(3, 1), torch.full((3, 1), 199.0), seed=2, backend=backend)
    grad_mu, grad_tril = grad(kl.sum(), (mu, tril))
    assert (grad_mu.abs() < 1e-37).all()
    torch.testing.assert_close(grad_tril, torch.full((3, 1), float(mpmath.expm1(1))), rtol=1e-6, atol=0)


def test_gradient_of_one_argument_alone(backend: str) -> None:
    generator = torch.Generator().manual_seed(9)
    values = [torch.randn(shape, generator=generator) for shape in [(4, 6), (4, packed(6)), (4, 6), (1, 6)]]

    def loss(inputs: list[Tensor]) -> Tensor:
        z, kl = mc.rsample_kl_cholesky(*inputs, seed=8, backend=backend)
        return z.square().sum() + kl.sum()

    every = [value.clone().requires_grad_() for value in values]
    all_gradients = grad(loss(every), every)
    for index in range(4):
        one = [every[i] if i == index else value for i, value in enumerate(values)]
        assert torch.equal(grad(loss(one), every[index])[0], all_gradients[index])
    assert not loss(values).requires_grad
    with torch.no_grad():
        assert not loss(every).requires_grad


def test_the_variance_ratio_has_no_gradient(backend: str) -> None:
    mu, tril = torch.zeros(3, 5, requires_grad=True), torch.zeros(3, packed(5), requires_grad=True)
    assert not mc.rsample_kl_cholesky(mu, tril, return_variance_ratio=True, backend=backend)[2].requires_grad


def test_gradients_reach_a_layer_with_two_heads(backend: str) -> None:
    heads = torch.randn(11, 7 + packed(7), generator=torch.Generator().manual_seed(10), requires_grad=True)
    z, kl = mc.rsample_kl_cholesky(*heads.split([7, packed(7)], dim=1), seed=11, backend=backend)
    (z.square().sum() + 2 * kl.sum()).backward()
    copy = heads.detach().double().requires_grad_()
    mu, tril = copy.split([7, packed(7)], dim=1)
    z, kl, _ = reference.rsample_kl_cholesky(mu, tril, None, None, torch.tensor(11))
    (z.square().sum() + 2 * kl.sum()).backward()
    torch.testing.assert_close(heads.grad.double(), copy.grad, rtol=1e-5, atol=1e-5)


def test_only_the_arguments_are_saved(compiled: ModuleType) -> None:
    mu, tril = torch.randn(5, 6, requires_grad=True), torch.randn(5, packed(6), requires_grad=True)
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    seed = torch.tensor(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        mc.rsample_kl_cholesky(mu, tril, seed=seed, backend="cpu")
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in (mu, tril, seed)}


@pytest.mark.parametrize("incoming_needs_gradient", [False, True])
def test_a_second_derivative_is_refused(cpu: str, incoming_needs_gradient: bool) -> None:
    tril = torch.randn(5, packed(6), generator=torch.Generator().manual_seed(14), requires_grad=True)
    z, kl = mc.rsample_kl_cholesky(torch.zeros(5, 6), tril, seed=15, backend=cpu)
    loss = (z.square() if incoming_needs_gradient else z).sum() + kl.sum()
    with pytest.raises(RuntimeError, match=r"once_differentiable|differentiable once|twice"):
        (loss + grad(loss, tril, create_graph=True)[0].square().sum()).backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("prior", ["none", "one row"])
def test_results_do_not_depend_on_the_number_of_threads(cpu: str, prior: str, dtype: torch.dtype) -> None:
    def results(inputs: list[Tensor], *incoming: Tensor) -> list[Tensor]:
        z, kl, ratio = mc.rsample_kl_cholesky(*inputs, seed=17, first_row=5, return_variance_ratio=True, backend=cpu)
        return [z, kl, ratio, *grad((z, kl), inputs, incoming)]

    for rows, latents in ((301, 37), (7, 600), (5000, 1)):
        generator = torch.Generator().manual_seed(16)
        shapes = [(rows, latents), (rows, packed(latents)), *([(latents,)] * 2 if prior == "one row" else [])]
        inputs = [(0.5 * torch.randn(s, generator=generator)).to(dtype).requires_grad_() for s in shapes]
        grad_z = torch.randn(rows, latents, generator=generator).to(dtype)
        grad_kl = torch.randn(rows, generator=generator, dtype=torch.promote_types(dtype, torch.float32))
        assert_same_on_threads((1, 2, 3), results, inputs, grad_z, grad_kl)


def test_results_do_not_depend_on_the_split_of_the_batch(backend: str) -> None:
    generator = torch.Generator().manual_seed(18)
    mu = torch.randn(23, 21, generator=generator).double().requires_grad_()
    tril = torch.randn(23, packed(21), generator=generator).double().requires_grad_()

    def run(rows: slice) -> list[Tensor]:
        z, kl = mc.rsample_kl_cholesky(mu[rows], tril[rows], seed=19, first_row=2**32 - 9 + rows.start, backend=backend)
        return [z, kl, *(g[rows] for g in grad(z.pow(3).sum() + kl.sum(), (mu, tril)))]

    parts = zip(run(slice(0, 4)), run(slice(4, 5)), run(slice(5, 23)), strict=True)
    for whole, split in zip(run(slice(0, 23)), parts, strict=True):
        torch.testing.assert_close(torch.cat(split), whole, rtol=1e-12, atol=1e-12)


MU, TRIL = torch.zeros(2, 3), torch.zeros(2, 6)
EXPECTED = "tril must have shape [B, κ(κ+1)/2], for B = 2 and κ = 3 of mu (2, 6), got "


@pytest.mark.parametrize("backend_name", ["auto", "reference"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((MU, torch.zeros(2, 7)), ValueError, EXPECTED + "(2, 7); 7 is no triangular number"),
        ((MU, torch.zeros(2, 5)), ValueError, EXPECTED + "(2, 5); 5 is no triangular number"),
        ((MU, torch.zeros(2, 10)), ValueError, EXPECTED + "(2, 10); 10 numbers are the triangle of κ = 4"),
        ((MU, torch.zeros(2, 0)), ValueError, EXPECTED + "(2, 0); 0 numbers are the triangle of κ = 0"),
        ((MU, torch.zeros(3, 6)), ValueError, EXPECTED + "(3, 6)"),
        ((MU, torch.zeros(6)), ValueError, EXPECTED + "(6,)"),
        ((MU, torch.zeros(2, 3, 3)), ValueError, EXPECTED + "(2, 3, 3)"),
        ((MU, TRIL.to("meta")), ValueError, "mu and tril must be on the same device, got cpu and meta"),
        ((MU.long(), TRIL), TypeError, "mu must be of a floating-point dtype, got torch.int64"),
        ((MU, TRIL.long()), TypeError, "tril must be of a floating-point dtype, got torch.int64"),
        ((MU, TRIL.tolist()), TypeError, "tril must be a tensor, got list"),
        ((MU[0], TRIL), ValueError, "mu must have shape [B, κ], got (3,)"),
        ((MU[None], TRIL[None]), ValueError, "got (1, 2, 3); rows may be steps of sequences: mu.flatten(0, -2)"),
        ((MU, TRIL, MU), ValueError, "prior_mu and prior_log_var must be given together, but prior_log_var is None"),
        ((MU, TRIL, None, MU), ValueError, "prior_mu and prior_log_var must be given together, but prior_mu is None"),
        ((MU, TRIL, MU, torch.zeros(4)), ValueError, "prior_log_var must have the shape of mu, (2, 3)"),
        ((MU, TRIL, torch.zeros(3, 3), MU), ValueError, "prior_mu must have the shape of mu, (2, 3)"),
        ((MU, TRIL, MU.to("meta"), MU), ValueError, "prior_mu must be on the device of mu, cpu, got meta"),
        ((MU, TRIL, MU.long(), MU), TypeError, "prior_mu must be of a floating-point dtype, got torch.int64"),
    ],
)
def test_bad_tensors_are_refused(
    backend_name: str, arguments: tuple[object, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        mc.rsample_kl_cholesky(*arguments, seed=1, backend=backend_name)
