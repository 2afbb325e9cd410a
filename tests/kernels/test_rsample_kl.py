import re

import mpmath
import oracles
import pytest
import torch
from dtypes import DTYPES, F64
from hypothesis import example, given, settings
from hypothesis import strategies as st
from instruction_sets import ONCE
from manifold_core.kernels.random import standard_normal
from manifold_core.kernels.rsample_kl import reference
from poison import poisoned
from sampling import NAMES, Case, as_problem, assert_is_the_definition, cases, draw, generator_of
from threads import assert_same_on_threads
from tolerances import sum_rounding
from torch import Tensor
from torch.autograd import grad, gradcheck

import manifold_core as mc

# Small and many; around the sizes at which tiles, blocks and vectors end.
SHAPES = (
    st.tuples(st.integers(1, 9), st.integers(1, 70))
    | st.tuples(st.integers(100, 400), st.integers(1, 5))
    | st.tuples(st.integers(1, 6), st.sampled_from([127, 128, 129, 131, 255, 257, 511, 512, 513, 516, 517, 1023, 1024]))
)


@settings(max_examples=150)
@given(cases(SHAPES))
@example(Case((1, 1)))
@example(Case((700, 33), layouts=("second head",) * 7))
@example(Case((2000, 1), (F64,) * 5, prior="one row", gate="one row", first_row=9))
@example(Case((900, 20), prior="one row", gate="one row", first_row=9))
@example(Case((40, 1025), prior="one row", gate="rows", per_dimension=True, first_row=2**33))
def test_every_backend_is_the_definition_in_float64(backend: str, case: Case) -> None:
    generator = generator_of(case)
    problem = as_problem(case, generator, draw(case, generator))

    def sample(seed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        options = {"per_dimension": case.per_dimension, "first_row": case.first_row, "backend": backend}
        return mc.rsample_kl(**problem.inputs, **options, return_variance_ratio=True, seed=seed)

    over_rows = sum_rounding(case.shape[0], problem.arithmetic) if backend == "reference" else 0
    assert_is_the_definition(case, problem, sample, {"kl": not case.per_dimension}, over_rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 7), (5, 0), (0, 0)])
def test_nothing_to_do(backend: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    mu, log_var = (torch.empty(shape, dtype=dtype, requires_grad=True) for _ in range(2))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for per_dimension in (False, True):

        def run(per_dimension: bool = per_dimension) -> tuple[Tensor, ...]:
            z, kl = mc.rsample_kl(mu, log_var, per_dimension=per_dimension, seed=1, backend=backend)
            return z, kl, *grad(z.sum() + kl.sum(), (mu, log_var))

        z, kl, *grads = poisoned(run)
        assert (z.shape, z.dtype) == (shape, dtype)
        assert torch.equal(kl, torch.zeros(shape if per_dimension else shape[:1], dtype=wide))  # an empty sum is 0
        assert [(g.shape, g.dtype) for g in grads] == [(shape, dtype)] * 2


@pytest.mark.parametrize(("dtype", "first", "last"), [(torch.float32, 176, 178), (torch.float64, 1418, 1421)])
def test_what_is_too_large_is_infinite_and_not_nan(backend: str, dtype: torch.dtype, first: int, last: int) -> None:
    """About where σ is larger than any number of the type."""
    log_var = torch.linspace(first, last, 301, dtype=dtype)[:, None].requires_grad_()
    z, kl = mc.rsample_kl(torch.zeros_like(log_var), log_var, seed=1, backend=backend)
    noise, _ = mc.rsample_kl(torch.zeros_like(log_var), torch.zeros_like(log_var), seed=1, backend=backend)
    with mpmath.workdps(30):
        pairs = zip(log_var.flatten().tolist(), noise.flatten().tolist(), strict=True)
        exact = torch.tensor([float(mpmath.exp(mpmath.mpf(l) / 2) * e) for l, e in pairs], dtype=torch.float64)
    near = (z.flatten().double() / exact - 1).abs() <= 1e-6
    infinite = z.flatten() == torch.inf * exact.sign()
    assert (near | infinite).all()
    assert near[0]
    assert infinite[-1]
    assert (kl == torch.inf).all()
    assert (grad(kl.sum(), log_var)[0] == torch.inf).all()


@pytest.mark.parametrize(("dtype", "log_var"), [(torch.float32, 200.0), (torch.float64, 1500.0)])
def test_a_variance_that_is_too_large_for_the_prior_is_infinite_and_not_nan(
    backend: str, dtype: torch.dtype, log_var: float
) -> None:
    logs, prior = (torch.full((2, 3), value, dtype=dtype, requires_grad=True) for value in (log_var, 0.0))
    mu = torch.zeros(2, 3, dtype=dtype)
    _, kl = mc.rsample_kl(mu, logs, prior_mu=mu, prior_log_var=prior, seed=1, backend=backend)
    assert (kl == torch.inf).all()
    assert [set(found.flatten().tolist()) for found in grad(kl.sum(), (logs, prior))] == [{torch.inf}, {-torch.inf}]


def test_kl_of_the_prior_is_zero(backend: str) -> None:
    zeros = torch.zeros(3, 5, requires_grad=True)
    _, kl = mc.rsample_kl(zeros, zeros, seed=1, backend=backend)
    assert torch.equal(kl, torch.zeros(3))
    assert torch.equal(grad(kl.sum(), zeros)[0], torch.zeros(3, 5))


@pytest.mark.parametrize(
    ("dtype", "log_var", "relative"),
    [(torch.float32, -100.0, 1e-6), (torch.float32, -170.0, 1e-6)]
    + [(torch.float64, l, 1e-13) for l in (-100.0, -170.0, -700.0, -1400.0)],
)
def test_the_variance_has_no_floor(backend: str, dtype: torch.dtype, log_var: float, relative: float) -> None:
    # Far outside the contract's range, where a clamp would sit: a variance that goes to 0 has to be seen.
    mu, logs = torch.zeros(40, 10, dtype=dtype), torch.full((40, 10), log_var, dtype=dtype, requires_grad=True)
    z, kl = mc.rsample_kl(mu, logs, seed=2, per_dimension=True, backend=backend)
    noise = standard_normal(torch.tensor(2), 40, 10)
    sigma = float(mpmath.exp(mpmath.mpf(log_var) / 2))
    # A small result may be less than the type's smallest normal number: that much is allowed.
    tiny = torch.finfo(dtype).tiny
    assert ((z.double() - sigma * noise).abs() <= relative * sigma * noise.abs() + tiny).all()
    torch.testing.assert_close(kl.double(), torch.full((40, 10), (-1 - log_var) / 2).double(), rtol=relative, atol=0)
    assert (grad(kl.sum(), logs)[0] == -0.5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_prior", [False, True])
def test_no_variance_at_all(backend: str, with_prior: bool, dtype: torch.dtype) -> None:
    mu = torch.linspace(-2, 2, 12, dtype=dtype).reshape(3, 4)
    log_var = torch.full_like(mu, -torch.inf, requires_grad=True)
    prior = {"prior_mu": mu / 2, "prior_log_var": mu + 1} if with_prior else {}
    z, kl = mc.rsample_kl(mu, log_var, seed=2, backend=backend, **prior)
    assert torch.equal(z, mu)
    assert (kl == torch.inf).all()
    assert (grad(kl.sum(), log_var)[0] == -0.5).all()


@pytest.mark.parametrize("cols", [5, 37, 600])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_in_its_row(backend: str, dtype: torch.dtype, cols: int) -> None:
    generator = torch.Generator().manual_seed(3)
    for argument in ("mu", "log_var"):
        for row, col in ((0, 0), (4, cols - 1), (2, cols // 2)):
            inputs = {name: torch.randn(6, cols, generator=generator).to(dtype) for name in ("mu", "log_var")}
            inputs[argument][row, col] = torch.nan
            mu, log_var = (inputs[name].requires_grad_() for name in ("mu", "log_var"))
            z, kl = mc.rsample_kl(mu, log_var, seed=4, backend=backend)
            _, kls = mc.rsample_kl(mu, log_var, seed=4, per_dimension=True, backend=backend)
            grads = dict(zip(("mu", "log_var"), grad(z.sum() + kl.sum(), (mu, log_var)), strict=True))
            here = torch.zeros(6, cols, dtype=torch.bool)
            here[row, col] = True
            assert torch.equal(z.isnan(), here)
            assert torch.equal(kls.isnan(), here)
            assert torch.equal(kl.isnan(), here.any(dim=1))
            for name, g in grads.items():  # neither gradient of one argument knows of the other
                assert torch.equal(g.isnan(), here if name == argument else torch.zeros_like(here)), name


@pytest.mark.parametrize("cols", [5, 600])
def test_nan_gradients_stay_where_they_are(backend: str, cols: int) -> None:
    mu = torch.zeros(6, cols, requires_grad=True)
    log_var = torch.ones(6, cols, requires_grad=True)
    z, kl = mc.rsample_kl(mu, log_var, seed=4, backend=backend)
    grad_z, grad_kl = torch.ones(6, cols), torch.ones(6)
    grad_z[1, 3] = torch.nan
    grad_kl[5] = torch.nan
    here = torch.zeros(6, cols, dtype=torch.bool)
    here[1, 3] = here[5] = True
    for g in grad((z, kl), (mu, log_var), (grad_z, grad_kl)):
        assert torch.equal(g.isnan(), here)


@pytest.mark.parametrize("shape", [(1, 1), (5, 40)])
@pytest.mark.parametrize(
    ("mu", "log_var", "prior_log_var"),
    [(0.0, 10.0, -80.0), (1e5, 0.0, -80.0), (0.0, 80.0, -80.0), (0.0, 120.0, None), (0.0, 0.0, -200.0)],
)
def test_gradients_of_z_do_not_need_finite_ones_of_kl(
    backend: str, shape: tuple[int, int], mu: float, log_var: float, prior_log_var: float | None
) -> None:
    """In float32 the derivatives of KL are, or its square of the distance; those of z are as without a prior."""
    mus, log_vars = torch.full(shape, mu, requires_grad=True), torch.full(shape, log_var, requires_grad=True)
    prior = () if prior_log_var is None else (torch.zeros(shape), torch.full(shape, prior_log_var, requires_grad=True))
    noise = standard_normal(torch.tensor(2), *shape)
    z, _ = mc.rsample_kl(mus, log_vars, *prior, seed=2, backend=backend)
    found = grad(z.sum(), (mus, log_vars, *prior[1:]), allow_unused=True, materialize_grads=True)
    expected = [torch.ones(shape).double(), 0.5 * float(mpmath.exp(log_var / 2)) * noise]
    for one, other in zip(found[:2], expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=0)
    assert all((one == 0).all() for one in found[2:])


def test_an_infinite_kl_that_has_no_weight_has_no_gradient(backend: str) -> None:
    inputs, grad_kl = oracles.infinite_in_float32(False, 9)
    _, kl = mc.rsample_kl(**inputs, seed=0, backend=backend)
    found = dict(zip(inputs, grad(kl, list(inputs.values()), grad_kl), strict=True))
    oracles.assert_gradients_of_infinite_kl(found, inputs, grad_kl)


def test_the_mean_variance_ratio_is_finite_where_one_ratio_is_not(backend: str) -> None:
    """Of one sample in ten it is e⁹⁰, more than float32 holds."""
    log_var, prior_log_var = torch.zeros(10, 3), torch.zeros(10, 3)
    log_var[4, 1], prior_log_var[4, 1] = 50, -40
    *_, ratio = mc.rsample_kl(
        log_var * 0, log_var, log_var * 0, prior_log_var, return_variance_ratio=True, seed=1, backend=backend
    )
    expected = torch.tensor([1, float((9 + mpmath.exp(90)) / 10), 1])
    torch.testing.assert_close(ratio, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(1, 1), (5, 40)])
def test_kl_has_finite_gradients_where_sigma_is_infinite(backend: str, shape: tuple[int, int]) -> None:
    """σ, and σε with it, is beyond float32, KL's derivative against a prior as wide is not."""
    mu, log_var = torch.zeros(shape, requires_grad=True), torch.full(shape, 200.0, requires_grad=True)
    _, kl = mc.rsample_kl(mu, log_var, torch.ones(shape), torch.full(shape, 199.0), seed=2, backend=backend)
    grad_mu, grad_log_var = grad(kl.sum(), (mu, log_var))
    assert (grad_mu.abs() < 1e-37).all()
    torch.testing.assert_close(grad_log_var, torch.full(shape, float(mpmath.expm1(1) / 2)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cols", [1, 3, 4, 37, 130, 513, 1024])
def test_kl_per_dimension_sums_to_kl(backend: str, dtype: torch.dtype, cols: int) -> None:
    generator = torch.Generator().manual_seed(5)
    mu, log_var = (torch.randn(9, cols, generator=generator).to(dtype) for _ in range(2))
    z, kl = mc.rsample_kl(mu, log_var, seed=6, backend=backend)
    same_z, kls = mc.rsample_kl(mu, log_var, seed=6, per_dimension=True, backend=backend)
    assert torch.equal(z, same_z)
    assert kls.dtype == kl.dtype
    torch.testing.assert_close(kl.double(), kls.double().sum(dim=1), rtol=sum_rounding(cols, kl.dtype), atol=0)


@ONCE
@pytest.mark.parametrize("rows_of_prior_and_gate", [0, 1, 4])
@pytest.mark.parametrize("per_dimension", [False, True])
def test_gradcheck(backend: str, per_dimension: bool, rows_of_prior_and_gate: int) -> None:
    generator = torch.Generator().manual_seed(7)
    rows = (4, 4, *[rows_of_prior_and_gate] * 3) if rows_of_prior_and_gate else (4, 4)
    inputs = tuple(torch.randn(n, 6, dtype=torch.float64, generator=generator, requires_grad=True) for n in rows)

    def function(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        arguments = dict(zip(NAMES, inputs, strict=False))
        return mc.rsample_kl(**arguments, per_dimension=per_dimension, seed=8, first_row=3, backend=backend)

    assert gradcheck(function, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_each_argument_alone_is_that_of_all(backend: str, name: str) -> None:
    generator = torch.Generator().manual_seed(25)
    values = {n: torch.randn(4, 6, dtype=torch.float64, generator=generator) for n in NAMES}

    def gradient(*learned: str) -> Tensor:
        inputs = {n: v.clone().requires_grad_(n in learned) for n, v in values.items()}
        z, kl = mc.rsample_kl(**inputs, seed=8, backend=backend)
        return grad(z.square().sum() + kl.sum(), inputs[name])[0]

    assert torch.equal(gradient(name), gradient(*NAMES))


@ONCE
def test_gradient_of_one_argument_alone(backend: str) -> None:
    generator = torch.Generator().manual_seed(9)
    mu, log_var = (torch.randn(4, 6, generator=generator) for _ in range(2))

    def loss(mu: Tensor, log_var: Tensor) -> Tensor:
        z, kl = mc.rsample_kl(mu, log_var, seed=8, backend=backend)
        return z.square().sum() + kl.sum()

    mu_with, log_var_with = mu.clone().requires_grad_(), log_var.clone().requires_grad_()
    both = grad(loss(mu_with, log_var_with), (mu_with, log_var_with))
    assert torch.equal(grad(loss(mu_with, log_var), mu_with)[0], both[0])
    assert torch.equal(grad(loss(mu, log_var_with), log_var_with)[0], both[1])
    assert not loss(mu, log_var).requires_grad
    with torch.no_grad():
        assert not loss(mu_with, log_var_with).requires_grad


def test_gradients_reach_a_layer_with_two_heads(backend: str) -> None:
    heads = torch.randn(11, 14, generator=torch.Generator().manual_seed(10), requires_grad=True)
    z, kl = mc.rsample_kl(*heads.chunk(2, dim=1), seed=11, backend=backend)
    (z.square().sum() + 2 * kl.sum()).backward()
    copy = heads.detach().double().requires_grad_()
    z, kl, _ = reference.rsample_kl(*copy.chunk(2, dim=1), None, None, None, torch.tensor(11))
    (z.square().sum() + 2 * kl.sum()).backward()
    torch.testing.assert_close(heads.grad.double(), copy.grad, rtol=1e-5, atol=1e-5)


@ONCE
def test_a_second_backward_pass_gives_the_same(backend: str) -> None:
    mu = torch.randn(5, 6, generator=torch.Generator().manual_seed(12), requires_grad=True)
    z, kl = mc.rsample_kl(mu, mu, seed=13, backend=backend)
    loss = z.square().mean() + kl.mean()
    (first,) = grad(loss, mu, retain_graph=True)
    kept = first.clone()
    first.zero_()  # it is the caller's
    loss.backward(retain_graph=True)
    loss.backward()
    assert torch.equal(mu.grad, 2 * kept)


@pytest.mark.parametrize("incoming_needs_gradient", [False, True])
def test_a_second_derivative_is_refused(cpu: str, incoming_needs_gradient: bool) -> None:
    mu = torch.randn(5, 6, generator=torch.Generator().manual_seed(14), requires_grad=True)
    z, kl = mc.rsample_kl(mu, mu, seed=15, backend=cpu)
    loss = (z.square() if incoming_needs_gradient else z).sum() + kl.sum()
    with pytest.raises(RuntimeError, match=r"once_differentiable|differentiable once|twice"):
        # A penalty on the gradient. Without an error its share would be missing from the sum, and no one would know.
        (loss + grad(loss, mu, create_graph=True)[0].square().sum()).backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_do_not_depend_on_the_number_of_threads(cpu: str, dtype: torch.dtype) -> None:
    def results(inputs: dict[str, Tensor], *incoming: Tensor) -> list[Tensor]:
        z, kl, ratio = mc.rsample_kl(**inputs, return_variance_ratio=True, seed=17, first_row=5, backend=cpu)
        return [z, kl, ratio, *grad((z, kl), tuple(inputs.values()), incoming)]

    for shape in ((3001, 37), (70, 1025), (50_000, 1)):
        generator = torch.Generator().manual_seed(16)
        mu, log_var = (torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(2))
        rest = [torch.randn(shape[1], generator=generator).to(dtype).requires_grad_() for _ in range(3)]
        inputs = dict(zip(NAMES, (mu, log_var, *rest), strict=True))
        grad_z = torch.randn(shape, generator=generator).to(dtype)
        grad_kl = torch.randn(shape[0], generator=generator, dtype=torch.promote_types(dtype, torch.float32))
        assert_same_on_threads((1, 2, 3), results, inputs, grad_z, grad_kl)


def test_results_do_not_depend_on_the_split_of_the_batch(backend: str) -> None:
    generator = torch.Generator().manual_seed(18)
    mu, log_var = (torch.randn(23, 21, generator=generator).double().requires_grad_() for _ in range(2))

    def run(rows: slice) -> list[Tensor]:
        z, kl = mc.rsample_kl(mu[rows], log_var[rows], seed=19, first_row=2**32 - 9 + rows.start, backend=backend)
        return [z, kl, *(g[rows] for g in grad(z.pow(3).sum() + kl.sum(), (mu, log_var)))]

    parts = zip(run(slice(0, 4)), run(slice(4, 5)), run(slice(5, 23)), strict=True)
    for whole, split in zip(run(slice(0, 23)), parts, strict=True):
        torch.testing.assert_close(torch.cat(split), whole, rtol=1e-13, atol=0)


def test_parameters_and_subclasses_of_tensor(backend: str) -> None:
    class Labelled(torch.Tensor):
        pass

    values = torch.randn(5, 6, generator=torch.Generator().manual_seed(23))
    z, kl = mc.rsample_kl(values, values, seed=24, backend=backend)
    for mu in (torch.nn.Parameter(values), values.as_subclass(Labelled)):
        for arguments in ((mu, values), (values, mu), (mu, mu)):
            same_z, same_kl = mc.rsample_kl(*arguments, seed=24, backend=backend)
            assert torch.equal(same_z.as_subclass(Tensor), z)
            assert torch.equal(same_kl.as_subclass(Tensor), kl)


MU = torch.zeros(2, 3)


@pytest.mark.parametrize("backend_name", ["auto", "reference"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((MU, torch.zeros(2, 4)), ValueError, "mu and log_var must have the same shape, got (2, 3) and (2, 4)"),
        ((MU, torch.zeros(3)), ValueError, "mu and log_var must have the same shape, got (2, 3) and (3,)"),
        ((MU, MU.to("meta")), ValueError, "mu and log_var must be on the same device, got cpu and meta"),
        ((MU.long(), MU), TypeError, "mu must be of a floating-point dtype, got torch.int64"),
        ((MU, MU.to(torch.complex64)), TypeError, "log_var must be of a floating-point dtype, got torch.complex64"),
        ((MU.tolist(), MU), TypeError, "mu must be a tensor, got list"),
        ((MU, MU.numpy()), TypeError, "log_var must be a tensor, got ndarray"),
        ((MU, 0.5), TypeError, "log_var must be a tensor, got float"),
        ((MU[0], MU[0]), ValueError, "mu must have shape [B, κ], got (3,)"),
        ((MU[None], MU[None]), ValueError, "mu must have shape [B, κ], got (1, 2, 3); rows may be steps of sequences"),
    ],
)
def test_bad_tensors_are_refused(
    backend_name: str, arguments: tuple[object, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        mc.rsample_kl(*arguments, seed=1, backend=backend_name)


ROW = "must have the shape of mu, (2, 3), or one row for all, (3,) or (1, 3), got"


@pytest.mark.parametrize("backend_name", ["auto", "reference"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prior_mu": MU}, ValueError, "must be given together, but prior_log_var is None"),
        ({"prior_log_var": MU}, ValueError, "must be given together, but prior_mu is None"),
        ({"prior_mu": MU[:, :2], "prior_log_var": MU}, ValueError, f"prior_mu {ROW} (2, 2)"),
        ({"prior_mu": MU, "prior_log_var": torch.zeros(3, 3)}, ValueError, f"prior_log_var {ROW} (3, 3)"),
        ({"prior_mu": MU, "prior_log_var": torch.zeros(2)}, ValueError, f"prior_log_var {ROW} (2,)"),
        ({"prior_mu": MU.int(), "prior_log_var": MU}, TypeError, "prior_mu must be of a floating-point dtype"),
        ({"prior_mu": 0.0, "prior_log_var": 0.0}, TypeError, "prior_mu must be a tensor, got float"),
        ({"gate_logits": MU[None]}, ValueError, f"gate_logits {ROW} (1, 2, 3)"),
        ({"gate_logits": torch.zeros(())}, ValueError, f"gate_logits {ROW} ()"),
        ({"gate_logits": MU.to("meta")}, ValueError, "gate_logits must be on the device of mu, cpu, got meta"),
        ({"gate_logits": MU.bool()}, TypeError, "gate_logits must be of a floating-point dtype, got torch.bool"),
    ],
)
def test_bad_priors_and_gates_are_refused(
    backend_name: str, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        mc.rsample_kl(MU, MU, **arguments, seed=1, backend=backend_name)
