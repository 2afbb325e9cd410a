"""Every backend that runs on this processor against mpmath: KL and NLL, and their gradients."""

import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import mpmath
import pytest
import torch
from cuda_on_host.kernels import NEEDS_COMPILER, kernels_on
from dtypes import F32, F64
from hypothesis import example, given, settings
from hypothesis import strategies as st
from instruction_sets import CPU, use
from interpreter import IN_THE_INTERPRETER
from layouts import any_magnitude
from tolerances import ALLOWED, UNIT_ROUNDOFF
from torch import Tensor
from torch.autograd import grad

import manifold_core as mc

pytestmark = pytest.mark.usefixtures("quiet_numpy")
DTYPES = pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
Op = Callable[..., tuple[Tensor, ...]]


class Ops(NamedTuple):
    """Those of one backend, on an input for each of the first arguments of the public functions."""

    backend: str
    rsample_kl: Op  # z, the KL of each dimension, and the variance ratio
    rsample_kl_cholesky: Op
    gaussian_nll: Op  # nll and squared error


def public(backend: str) -> Ops:
    sample = {"per_dimension": True, "return_variance_ratio": True, "seed": 1, "backend": backend}
    return Ops(
        backend,
        partial(mc.rsample_kl, **sample),
        partial(mc.rsample_kl_cholesky, **sample),
        partial(mc.gaussian_nll, return_squared_error=True, backend=backend),
    )


def cuda_on_host() -> Ops:
    calls, rest = kernels_on("on host").differentiable, (torch.tensor(1), 0, True, True)

    def sample(name: str, tensors: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        return calls[name](*inputs, *[None] * (tensors - len(inputs)), *rest)

    return Ops(
        "cuda", partial(sample, "rsample_kl", 5), partial(sample, "rsample_kl_cholesky", 4), calls["gaussian_nll"]
    )


@pytest.fixture(
    params=[
        "reference",
        *CPU,
        pytest.param("triton", marks=IN_THE_INTERPRETER),
        pytest.param("cuda on host", marks=NEEDS_COMPILER),
    ]
)
def ops(request: pytest.FixtureRequest) -> Iterator[Ops]:
    """Of each backend, the compiled one with each instruction set that this processor has."""
    if request.param == "cuda on host":
        yield cuda_on_host()
    elif request.param == "triton":
        yield public("triton")
    else:
        yield from map(public, use(request.param))


class Problem(NamedTuple):
    """Inputs, and what comes of them by mpmath: results in the order of the op, then the gradients of the inputs."""

    inputs: list[Tensor]
    exact: dict[str, tuple[Tensor, Tensor]]  # a value, and the sum of the absolute values of its terms


def columns(rows: list[list[Any]]) -> list[Tensor]:
    """Of mpmath's numbers, rounded to float64."""
    return list(torch.tensor([[float(number) for number in row] for row in rows], dtype=F64).unbind(1))


def assert_near(found: list[Tensor], exact: dict[str, tuple[Tensor, Tensor]]) -> None:
    """By the contract. Of a square less than the type's smallest normal number nothing need be left; what is beyond its
    largest is not looked at."""
    for ours, (name, (value, size)) in zip(found, exact.items(), strict=True):
        error, limits = (ours.detach().double() - value.view_as(ours)).abs().flatten(), torch.finfo(ours.dtype)
        bound = ALLOWED[ours.dtype] * size.flatten() + limits.tiny
        fits = value.abs().flatten() < limits.max
        assert ((error <= bound) | ~fits).all(), (name, (error / bound)[fits].max())
        assert fits.double().mean() > 0.9, name


@cache
def against_the_standard_prior(dtype: torch.dtype) -> Problem:
    """log_var from -80 to 80: dense around 0, and around the multiples of log 2 where the exponential changes its
    range."""
    near_zero = torch.logspace(-8, 0, 161, dtype=F64)
    edges = torch.arange(1, 8).double()[:, None] * math.log(2) * (1 + torch.tensor([-1e-3, -1e-7, 1e-7, 1e-3]))
    one_side = torch.cat([near_zero, edges.flatten(), torch.linspace(1, 80, 150, dtype=F64), torch.tensor([80.0])])
    log_var = torch.cat([-one_side, torch.zeros(1), one_side]).to(dtype)
    scale = torch.tensor([0.0, 1e-8, 1e-3, 1.0, 30.0], dtype=F64)[:, None]
    mu = (scale * torch.linspace(-1, 1, len(log_var), dtype=F64)).to(dtype)
    inputs = [mu, log_var.repeat(len(mu), 1)]
    rows: list[list[Any]] = []
    with mpmath.workdps(40):
        for numbers in zip(*(t.flatten().tolist() for t in inputs), strict=True):
            m, l = map(mpmath.mpf, numbers)
            growth = mpmath.expm1(l)
            rows.append([(m * m + growth - l) / 2, mpmath.exp(l), growth / 2])
    kl, ratio, d_log_var = columns(rows)
    d_mu = mu.double().flatten()
    values = {"kl": kl, "variance_ratio": ratio[: len(log_var)], "grad_mu": d_mu, "grad_log_var": d_log_var}
    return Problem(inputs, {name: (value, value.abs()) for name, value in values.items()})


@cache
def against_a_prior(dtype: torch.dtype) -> Problem:
    """Both log variances from -80 to 80, with differences of every size: exact ones, rounded ones, and tiny ones."""
    logs = torch.cat([torch.linspace(-80, 80, 33), torch.logspace(-6, 1.5, 12), torch.tensor([-8.5, 8.5])]).double()
    log_var, prior_log_var = (t.flatten() for t in torch.meshgrid(logs, logs, indexing="ij"))
    tiny = torch.logspace(-6, 0, len(logs) ** 2, dtype=F64)
    prior_log_var = torch.cat([prior_log_var, log_var + tiny, log_var * (1 - 1e-3)])
    log_var = log_var.repeat(3)
    keep = (log_var - prior_log_var).abs() <= 88.7  # beyond it float32 overflows, as it has to
    log_var, prior_log_var = log_var[keep], prior_log_var[keep]
    mu, prior_mu = (1e-3 * torch.linspace(*ends, len(log_var), dtype=F64) for ends in ((-1, 1), (1, -0.9)))
    inputs = [t.to(dtype).unsqueeze(0) for t in (mu, log_var, prior_mu, prior_log_var)]
    rows: list[list[Any]] = []
    with mpmath.workdps(40):
        for numbers in zip(*(t.flatten().tolist() for t in inputs), strict=True):
            m, l, n, p = map(mpmath.mpf, numbers)
            ratio, slope, growth = mpmath.exp(l - p), (m - n) / mpmath.exp(p), mpmath.expm1(l - p)
            square = (m - n) * slope
            rows.append([(square + growth - (l - p)) / 2, ratio, slope, growth / 2, -slope])
            rows[-1] += [-(square + growth) / 2, (square + abs(growth)) / 2]
    *values, size = columns(rows)
    names = ("kl", "variance_ratio", "grad_mu", "grad_log_var", "grad_prior_mu", "grad_prior_log_var")
    sizes = [*(value.abs() for value in values[:-1]), size]
    return Problem(inputs, dict(zip(names, zip(values, sizes, strict=True), strict=True)))


@cache
def of_a_full_covariance(dtype: torch.dtype, with_prior: bool) -> Problem:
    """Two latents: log L_00 and log L_11 from -40 to 40, dense around 0; L_10 of any size that its square has."""
    generator, rows = torch.Generator().manual_seed(1), 400
    logs = any_magnitude(generator, (rows, 2), 1e-8, 30 if with_prior else 40)
    below = any_magnitude(generator, (rows, 1), 1e-12, 1e6)
    tril = torch.cat([logs[:, :1], below, logs[:, 1:]], dim=1).to(dtype)
    inputs = [any_magnitude(generator, (rows, 2), 1e-8, 100).to(dtype), tril]
    if with_prior:
        inputs += [any_magnitude(generator, (rows, 2), 1e-8, high).to(dtype) for high in (100, 80)]
        near = (torch.arange(rows) % 4 == 0).unsqueeze(1)  # where q is close to p and forms that cancel lose all
        inputs[3] = torch.where(near, (2 * logs.to(dtype) * (1 + 1e-6)).to(dtype), inputs[3])
    mp, found = mpmath.mpf, []
    with mpmath.workdps(60):
        for row in zip(*(t.tolist() for t in inputs), strict=True):
            mu, (t0, l, t1) = map(mp, row[0]), map(mp, row[1])
            ms, ps = (map(mp, row[2]), map(mp, row[3])) if with_prior else ((mp(0), mp(0)), (mp(0), mp(0)))
            for u, t, square, m, p in zip(mu, (t0, t1), (mp(0), l * l), ms, ps, strict=True):
                delta, inverse = 2 * t - p, mpmath.exp(-p)
                mean, growth, others = (u - m) ** 2 * inverse, mpmath.expm1(delta), square * inverse
                found.append([(mean + others + growth - delta) / 2, (u - m) * inverse, growth, l * inverse])
                found[-1] += [-(mean + others + growth) / 2, (mean + others + abs(growth)) / 2]
    kl, d_mu, d_t, d_l, d_p, size_p = (column.view(rows, 2) for column in columns(found))
    d_tril = torch.stack([d_t[:, 0], d_l[:, 1], d_t[:, 1]], dim=1)
    exact = {"kl": kl, "grad_mu": d_mu, "grad_tril": d_tril} | ({"grad_prior_mu": -d_mu} if with_prior else {})
    sized = {name: (value, value.abs()) for name, value in exact.items()}
    return Problem(inputs, sized | ({"grad_prior_log_var": (d_p, size_p)} if with_prior else {}))


@DTYPES
def test_kl_against_the_standard_prior(ops: Ops, dtype: torch.dtype) -> None:
    numbers, exact = against_the_standard_prior(dtype)
    inputs = [t.clone().requires_grad_() for t in numbers]
    _, kl, ratio = ops.rsample_kl(*inputs)
    assert_near([kl, ratio, *grad(kl.sum(), inputs)], exact)


@DTYPES
def test_kl_against_a_prior(ops: Ops, dtype: torch.dtype) -> None:
    numbers, exact = against_a_prior(dtype)
    inputs = [t.clone().requires_grad_() for t in numbers]
    _, kl, ratio = ops.rsample_kl(*inputs)
    assert_near([kl, ratio, *grad(kl.sum(), inputs)], exact)


@DTYPES
@pytest.mark.parametrize("with_prior", [False, True])
def test_kl_of_a_full_covariance(ops: Ops, with_prior: bool, dtype: torch.dtype) -> None:
    every = 3 if ops.backend == "triton" else 1  # whose interpreter takes a second for all
    numbers, exact = of_a_full_covariance(dtype, with_prior)
    inputs = [t[::every].clone().requires_grad_() for t in numbers]
    exact = {name: (value[::every], size[::every]) for name, (value, size) in exact.items()}
    _, kl, _ = ops.rsample_kl_cholesky(*inputs)
    assert_near([kl, *grad(kl.sum(), inputs)], exact)


class Reconstruction(NamedTuple):
    x: tuple[tuple[float, ...], ...]
    errors: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]  # incoming gradients
    log_gamma: float


@st.composite
def reconstructions(draw: st.DrawFn) -> Reconstruction:
    """Errors from 1e-7 to 1e5, of either sign, or none; no square and no quotient leaves float32."""
    rows, cols = draw(st.integers(1, 3)), draw(st.integers(1, 8))
    error = st.builds(lambda sign, e: sign * 10.0**e, st.sampled_from([-1, 0, 1, 1]), st.floats(-7, 5))

    def matrix(number: st.SearchStrategy[float]) -> tuple[tuple[float, ...], ...]:
        return draw(st.tuples(*[st.tuples(*[number] * cols)] * rows))

    return Reconstruction(
        matrix(st.sampled_from([0.0, 0.1, -3.7])),
        matrix(error),
        draw(st.tuples(*[st.sampled_from([1.0, -0.3])] * rows)),
        draw(st.floats(-60, 60)),
    )


def roundings_of_gamma(backend: str, dtype: torch.dtype) -> int:
    """By how many halves of a unit in the last place 1/γ, times a number, may be off for a log γ that is exact."""
    if backend == "triton":  # γ^(-1/2), off by 4, is multiplied by twice
        return 10
    if backend == "reference" or dtype == F64:  # an exponential right to one unit, and a product
        return 3
    return 0  # C++ has it in double


@settings(max_examples=50)
@given(reconstructions())
@example(Reconstruction(((0.5, 4.0, -1.0),), ((0.5, -2.0, 0.0),), (1.0,), -59.0000018))  # between two float32 numbers
@example(Reconstruction(((0.0,),), ((1.0,),), (1.0,), 59.0000018))
@DTYPES
def test_nll(ops: Ops, dtype: torch.dtype, case: Reconstruction) -> None:
    """Each term of a result may be off by half a unit in the last place for each operation on the way into its sum.

    The reference rounds log γ to the type that it computes in, by 2⁻¹⁹ at most in float32, and 1/γ is relatively as far
    off. No other backend does.
    """
    x = torch.tensor(case.x, dtype=dtype)
    x_hat = x + torch.tensor(case.errors, dtype=dtype)
    inputs = [t.requires_grad_() for t in (x_hat, x, torch.tensor(case.log_gamma, dtype=F64))]
    weights, cols = torch.tensor(case.weights, dtype=dtype), x.shape[1]
    nll, squared_error = ops.gaussian_nll(*inputs)
    found = [nll, squared_error, *grad(nll, inputs, weights)]

    half, of_gamma = UNIT_ROUNDOFF[dtype], roundings_of_gamma(ops.backend, dtype)
    of_square = cols + 2  # a difference, which counts twice, the square, and a sum with each of the others
    shift = abs(case.log_gamma - torch.tensor(case.log_gamma, dtype=dtype).item()) if ops.backend == "reference" else 0
    names = ("nll", "squared_error", "grad_x_hat", "grad_x", "grad_log_gamma")
    expected: dict[str, list[tuple[Any, Any]]] = {name: [] for name in names}  # exact, and how far off
    with mpmath.workdps(40):
        gamma, log_2pi = mpmath.exp(case.log_gamma), mpmath.log(2 * mpmath.pi)
        for one, other, weight in zip(x_hat.tolist(), x.tolist(), weights.tolist(), strict=True):
            errors = [mpmath.mpf(a) - b for a, b in zip(one, other, strict=True)]
            square = mpmath.fsum(e * e for e in errors)
            expected["squared_error"].append((square, half * of_square * square))
            # The sum of both terms, and it as it is stored; in the constant term log 2π, a sum and a product.
            scaled, constant = square / gamma, cols * (log_2pi + case.log_gamma)
            roundings = (of_square + of_gamma + 2) * scaled + (4 + 2) * cols * (log_2pi + abs(case.log_gamma))
            expected["nll"].append(((scaled + constant) / 2, (half * roundings + shift * (scaled + cols)) / 2))
            for e in errors:  # a difference, its product with 1/γ and with the incoming gradient
                slope = weight * e / gamma
                bound = (half * (of_gamma + 3) + shift) * abs(slope)
                expected["grad_x_hat"].append((slope, bound))
                expected["grad_x"].append((-slope, bound))
            # The difference of both terms, the product with the incoming gradient, the sum over at most three rows.
            bound = half * ((of_square + of_gamma + 4) * scaled + 4 * cols) + shift * scaled
            expected["grad_log_gamma"].append((weight * (cols - scaled) / 2, abs(weight) * bound / 2))
        expected["grad_log_gamma"] = [tuple(map(mpmath.fsum, zip(*expected["grad_log_gamma"], strict=True)))]
        for ours, (name, numbers) in zip(found, expected.items(), strict=True):
            for number, (value, bound) in zip(ours.flatten().tolist(), numbers, strict=True):
                assert abs(number - value) <= bound, (name, number, float(value), float(abs(number - value) / bound))
