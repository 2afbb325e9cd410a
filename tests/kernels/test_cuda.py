"""The CUDA kernels: on a GPU where there is one, and everywhere compiled for the processor, thread by thread.

Operators are called as they are, below the public functions: their gradients are held against the formulas they have to
follow, in float64, and the forward results against the same formulas.
"""

import math
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from cuda_on_host.build import load
from hypothesis import example, given, settings
from hypothesis import strategies as st
from manifold_core.kernels import extension
from manifold_core.kernels.random import standard_normal
from manifold_core.kernels.rsample_kl.reference import exp_minus_1_minus_x
from torch import Tensor
from torch.autograd import grad

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
VIEWS = ("dense", "first head", "second head", "transposed", "steps", "offset")
LAYOUTS = (*VIEWS, "one row", "one column", "one number")
# Where blocks, warps and groups of four columns end, and rows longer than a block.
SHAPES = (
    st.tuples(st.integers(1, 9), st.integers(1, 70))
    | st.tuples(st.integers(200, 700), st.integers(1, 6))
    | st.tuples(st.integers(1, 5), st.sampled_from([127, 128, 129, 256, 500, 1000, 1023, 1024, 1025, 2052]))
)
SEEDS = st.integers(0, 2**63 - 1)
FIRST_ROWS = st.sampled_from([0, 0, 1, 1000, 2**32 - 3, 2**40])
DENSE = ("dense",) * 6


class Kernels(NamedTuple):
    operators: Any
    device: torch.device

    def scalar(self, value: float, dtype: torch.dtype) -> Tensor:
        return torch.tensor(value, dtype=dtype, device=self.device)


@pytest.fixture(
    scope="session",
    params=[
        pytest.param("on host", marks=pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")),
        pytest.param(
            "on device",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
            ],
        ),
    ],
)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    if request.param == "on device":
        assert extension.cuda_missing_because == ""
        return Kernels(torch.ops.manifold_core, torch.device("cuda"))
    return Kernels(getattr(torch.ops, load()), torch.device("cpu"))


class Case(NamedTuple):
    shape: tuple[int, int]
    dtypes: tuple[torch.dtype, ...]  # of the posterior's two, of the prior's two and of the gate
    layouts: tuple[str, ...]  # of these, and of the incoming gradients
    prior: str  # "", "each" (row its own) or "one" (for all)
    gate: str
    per_dimension: bool
    wanted: str  # which output has an incoming gradient
    seed: int
    first_row: int


CASES = st.builds(
    Case,
    SHAPES,
    st.sampled_from([(a,) * 5 for a in DTYPES] * 2) | st.tuples(*[st.sampled_from(DTYPES)] * 5),
    st.just(DENSE) | st.tuples(*[st.sampled_from(LAYOUTS)] * 6),
    st.sampled_from(["", "each", "one"]),
    st.sampled_from(["", "each", "one"]),
    st.booleans(),
    st.sampled_from(["z", "kl", "both"]),
    SEEDS,
    FIRST_ROWS,
)
F32 = (torch.float32,) * 5
BF16 = (torch.bfloat16,) * 5


class Arguments(NamedTuple):
    posterior: tuple[Tensor, Tensor]
    prior: tuple[Tensor | None, Tensor | None]
    gate: Tensor | None
    grad_z: Tensor | None
    grad_kl: Tensor | None
    wide: torch.dtype

    def exact(self) -> list[Tensor | None]:
        """The differentiable ones, in float64, on the CPU."""
        return [
            t if t is None else t.detach().cpu().double().requires_grad_()
            for t in (*self.posterior, *self.prior, self.gate)
        ]


@pytest.fixture
def make(
    kernels: Kernels,
    lay_out: Callable[[Tensor, str], Tensor],
    lay_out_vector: Callable[[Tensor, str], Tensor],
    any_magnitude: Callable[..., Tensor],
) -> Callable[..., Arguments]:
    """The arguments of a case. Logarithms of variances reach from -80 to 80, their difference hardly farther."""

    def of(case: Case) -> Arguments:
        generator = torch.Generator().manual_seed(case.seed % 2**32)
        rows, cols = case.shape

        def matrix(values: Tensor, which: int, layout: int) -> Tensor:
            return lay_out(values.to(kernels.device, case.dtypes[which]), case.layouts[layout])

        def height(kind: str) -> int:
            return 1 if kind == "one" else rows

        log_var = any_magnitude(generator, (rows, cols), 1e-8, 80)
        apart = any_magnitude(generator, (height(case.prior), cols), 1e-8, 85)
        if case.prior == "one":  # of many differences none may be too large
            log_var, apart = log_var / 2, apart / 2.2
        prior_log_var = (log_var[: height(case.prior)] - apart).clamp(-80, 80)
        # Of e^40 times 60 the square is still a float32.
        mu, prior_mu = (any_magnitude(generator, (n, cols), 1e-8, 30) for n in (rows, height(case.prior)))
        logits = any_magnitude(generator, (height(case.gate), cols), 1e-3, 60)
        posterior = matrix(mu, 0, 0), matrix(log_var, 1, 1)
        prior = (matrix(prior_mu, 2, 2), matrix(prior_log_var, 3, 3)) if case.prior else (None, None)
        gate = matrix(logits, 4, 4) if case.gate else None
        given = [t for t in (*posterior, *prior, gate) if t is not None]
        wide = torch.float64 if any(t.dtype == torch.float64 for t in given) else torch.float32
        z_type = torch.promote_types(case.dtypes[0], case.dtypes[1])
        grad_z = any_magnitude(generator, case.shape, 1e-3, 1e3).to(kernels.device, z_type)
        grad_kl = any_magnitude(generator, case.shape if case.per_dimension else (rows,), 1e-3, 1e3)
        grad_kl = (lay_out if case.per_dimension else lay_out_vector)(grad_kl.to(kernels.device, wide), case.layouts[5])
        return Arguments(
            posterior,
            prior,
            gate,
            None if case.wanted == "kl" else lay_out(grad_z, case.layouts[5]),
            None if case.wanted == "z" else grad_kl,
            wide,
        )

    return of


def gradients(outputs: tuple[Tensor, Tensor], incoming: tuple[Tensor | None, ...], inputs: list[Tensor | None]) -> Any:
    """Of those outputs that have an incoming gradient, by torch; None where there is no input."""
    pairs = [(out, g.detach().cpu().double()) for out, g in zip(outputs, incoming, strict=True) if g is not None]
    there = [t for t in inputs if t is not None]
    found = iter(grad([out for out, _ in pairs], there, [g for _, g in pairs], materialize_grads=True))
    return [None if t is None else next(found) for t in inputs]


def share(bound: Tensor, like: Tensor) -> Tensor:
    """A bound of each element's gradient as one of the gradient of ``like``, which may be summed over the batch."""
    return bound.sum(dim=0, keepdim=True) if like.shape[0] == 1 else bound


@settings(max_examples=120)
@given(CASES)
@example(Case((1, 1), F32, DENSE, "", "", False, "both", 1, 0))
@example(Case((700, 20), F32, DENSE, "", "", False, "both", 1, 0))
@example(Case((9000, 70), F32, DENSE, "each", "", False, "both", 1, 0))
@example(Case((700, 20), BF16, DENSE, "one", "one", False, "both", 1, 0))
@example(Case((1400, 3), F32, DENSE, "one", "each", False, "both", 1, 2**33))
@example(Case((37, 1028), F32, DENSE, "one", "one", True, "both", 1, 7))
@example(Case((270_000, 1), F32, DENSE, "one", "one", False, "both", 1, 7))
@example(Case((1100, 260), F32, DENSE, "one", "", False, "both", 1, 0))
def test_rsample_kl_is_its_definition_in_float64(
    kernels: Kernels,
    poisoned: Callable[..., tuple[Tensor, ...]],
    make: Callable[[Case], Arguments],
    assert_within: Callable[..., None],
    allowed: dict[torch.dtype, float],
    sum_rounding: Callable[[int, torch.dtype], float],
    case: Case,
) -> None:
    a = make(case)
    given = [*a.posterior, *a.prior, a.gate]
    before = [t if t is None else t.clone() for t in (*given, a.grad_z, a.grad_kl)]
    seed = kernels.scalar(case.seed, torch.int64)

    def run() -> tuple[Tensor, ...]:
        results = kernels.operators.rsample_kl(*given, seed, case.first_row, case.per_dimension, True)
        grads = kernels.operators.rsample_kl_backward(a.grad_z, a.grad_kl, *given, seed, case.first_row, True, True)
        return *results, *grads

    z, kl, variance_ratio, *grads = (t.cpu() for t in poisoned(run))
    assert z.dtype == torch.promote_types(case.dtypes[0], case.dtypes[1])
    assert kl.dtype == variance_ratio.dtype == a.wide
    for found, of in zip(grads, given, strict=True):
        assert (found.numel() == 0) if of is None else (found.dtype == of.dtype and found.shape == of.shape)
    assert torch.equal(kernels.operators.rsample_kl(*given, seed, case.first_row, False, False)[0].cpu(), z)

    exact = a.exact()
    mu, l = exact[:2]
    m, p = (torch.zeros_like(mu) if t is None else t for t in exact[2:4])
    # Not torch.sigmoid: its derivative, w (1 - w), is 0 where w rounds to 1.
    w = torch.ones_like(mu) if exact[4] is None else torch.nn.functional.logsigmoid(exact[4]).exp()
    slope = torch.zeros_like(mu) if exact[4] is None else w * torch.sigmoid(-exact[4])
    spread = torch.exp(l / 2) * standard_normal(torch.tensor(case.seed), *case.shape, case.first_row)
    delta = l - p
    exact_z = (mu + spread) * w
    each = 0.5 * (((mu - m) * torch.exp(-p / 2)).square() + exp_minus_1_minus_x(delta))
    exact_kl = each if case.per_dimension else each.sum(dim=1)
    exact_grads = gradients((exact_z, exact_kl), (a.grad_z, a.grad_kl), exact)

    with torch.no_grad():
        relative, wide = allowed[a.wide], a.wide
        assert_within("z", z, exact_z, relative * (mu.abs() + spread.abs()) * w, wide)
        summed = 0 if case.per_dimension else sum_rounding(case.shape[1], wide)
        assert_within("kl", kl, exact_kl, (relative + summed) * exact_kl, wide)
        ratio = torch.exp(delta).mean(dim=0)
        assert_within("variance_ratio", variance_ratio, ratio, relative * ratio, wide)
        g = torch.zeros_like(mu) if a.grad_z is None else a.grad_z.cpu().double().abs()
        k = torch.zeros_like(mu) if a.grad_kl is None else a.grad_kl.cpu().double().abs()
        k = k.unsqueeze(1) if k.dim() == 1 else k
        scaled, expm1 = (mu - m).abs() * torch.exp(-p / 2), torch.expm1(delta).abs()
        sizes = [
            g * w + k * scaled * torch.exp(-p / 2),
            (g * w * spread.abs() + k * expm1) / 2,
            k * scaled * torch.exp(-p / 2),
            k * (scaled.square() + expm1) / 2,
            g * (mu.abs() + spread.abs()) * slope,
        ]
        names = ("grad_mu", "grad_log_var", "grad_prior_mu", "grad_prior_log_var", "grad_gate_logits")
        for name, found, expected, size, of in zip(names, grads, exact_grads, sizes, exact, strict=True):
            if of is not None:
                assert_within(name, found, expected, relative * share(size, of), wide)

    for old, new in zip(before, (*given, a.grad_z, a.grad_kl), strict=True):
        assert old is None or torch.equal(old, new)


def test_the_noise_is_the_same_to_the_last_bit_but_rounding(kernels: Kernels) -> None:
    # Any other word would be another number: 2^32 of them share the interval.
    for rows, cols, first_row, seed in ((5, 37, 0, 1), (3, 4, 2**32 - 2, 2**63 - 1), (2, 1026, 2**40, 12345678901)):
        zeros = torch.zeros(rows, cols, dtype=torch.float64, device=kernels.device)
        seeds = kernels.scalar(seed, torch.int64)
        z, _, _ = kernels.operators.rsample_kl(zeros, zeros, None, None, None, seeds, first_row, False, False)
        noise = standard_normal(torch.tensor(seed), rows, cols, first_row)
        torch.testing.assert_close(z.cpu(), noise, rtol=1e-14, atol=0)
        packed = zeros.new_zeros(rows, cols * (cols + 1) // 2)
        z, _, _ = kernels.operators.rsample_kl_cholesky(zeros, packed, None, None, seeds, first_row, False, False)
        torch.testing.assert_close(z.cpu(), noise, rtol=1e-14, atol=0)


class CholeskyCase(NamedTuple):
    shape: tuple[int, int]
    dtypes: tuple[torch.dtype, ...]  # of mu, of tril and of the prior's two
    layouts: tuple[str, ...]
    prior: str
    per_dimension: bool
    wanted: str
    seed: int
    first_row: int


CHOLESKY_CASES = st.builds(
    CholeskyCase,
    st.tuples(st.integers(1, 9), st.integers(1, 70))
    | st.tuples(st.integers(100, 300), st.integers(1, 6))
    | st.tuples(st.integers(1, 3), st.sampled_from([127, 128, 129, 256, 300])),
    st.sampled_from([(a,) * 4 for a in DTYPES] * 2) | st.tuples(*[st.sampled_from(DTYPES)] * 4),
    st.just(DENSE) | st.tuples(*[st.sampled_from(LAYOUTS)] * 6),
    st.sampled_from(["", "each", "one"]),
    st.booleans(),
    st.sampled_from(["z", "kl", "both"]),
    SEEDS,
    FIRST_ROWS,
)


@settings(max_examples=80)
@given(CHOLESKY_CASES)
@example(CholeskyCase((1, 1), F32[:4], DENSE, "", False, "both", 1, 0))
@example(CholeskyCase((70, 32), F32[:4], DENSE, "one", False, "both", 1, 0))
@example(CholeskyCase((40, 32), BF16[:4], DENSE, "one", False, "both", 1, 0))
@example(CholeskyCase((2, 1024), F32[:4], DENSE, "one", False, "both", 1, 3))
@example(CholeskyCase((3, 1030), F32[:4], DENSE, "one", False, "both", 1, 3))
@example(CholeskyCase((2, 2052), (torch.float64,) * 4, DENSE, "one", True, "both", 1, 2**40))
@example(CholeskyCase((4200, 33), F32[:4], DENSE, "one", False, "both", 1, 3))
def test_rsample_kl_cholesky_is_its_definition_in_float64(
    kernels: Kernels,
    poisoned: Callable[..., tuple[Tensor, ...]],
    lay_out: Callable[[Tensor, str], Tensor],
    lay_out_vector: Callable[[Tensor, str], Tensor],
    any_magnitude: Callable[..., Tensor],
    assert_within: Callable[..., None],
    allowed: dict[torch.dtype, float],
    sum_rounding: Callable[[int, torch.dtype], float],
    case: CholeskyCase,
) -> None:
    rows, cols = case.shape
    generator = torch.Generator().manual_seed(case.seed % 2**32)
    below, at = torch.tril_indices(cols, cols), torch.arange(cols)
    diagonal = at * (at + 3) // 2  # of the packed rows
    height = 1 if case.prior == "one" else rows

    def matrix(values: Tensor, which: int, layout: str) -> Tensor:
        return lay_out(values.to(kernels.device, case.dtypes[which]), layout)

    packed = any_magnitude(generator, (rows, below.shape[1]), 1e-6, 100)
    packed[:, diagonal] = any_magnitude(generator, case.shape, 1e-8, 20)
    # Its columns differ in meaning: one number for all would make a huge variance of an ordinary covariance.
    layout = case.layouts[1] if case.layouts[1] in (*VIEWS, "one row") else "dense"
    given = [matrix(any_magnitude(generator, case.shape, 1e-8, 100), 0, case.layouts[0]), matrix(packed, 1, layout)]
    if case.prior:
        given.append(matrix(any_magnitude(generator, (height, cols), 1e-8, 100), 2, case.layouts[2]))
        given.append(matrix(any_magnitude(generator, (height, cols), 1e-8, 40), 3, case.layouts[3]))
    else:
        given += [None, None]
    wide = torch.float64 if torch.float64 in case.dtypes[: 4 if case.prior else 2] else torch.float32
    z_type = torch.promote_types(case.dtypes[0], case.dtypes[1])
    grad_z = grad_kl = None
    if case.wanted != "kl":
        grad_z = any_magnitude(generator, case.shape, 1e-3, 1e3).to(kernels.device, z_type)
        grad_z = lay_out(grad_z, case.layouts[4])
    if case.wanted != "z":
        grad_kl = any_magnitude(generator, case.shape if case.per_dimension else (rows,), 1e-3, 1e3)
        grad_kl = (lay_out if case.per_dimension else lay_out_vector)(grad_kl.to(kernels.device, wide), case.layouts[5])
    seed = kernels.scalar(case.seed, torch.int64)

    def run() -> tuple[Tensor, ...]:
        results = kernels.operators.rsample_kl_cholesky(*given, seed, case.first_row, case.per_dimension, True)
        grads = kernels.operators.rsample_kl_cholesky_backward(grad_z, grad_kl, *given, seed, case.first_row, True)
        return *results, *grads

    z, kl, variance_ratio, *grads = (t.cpu() for t in poisoned(run))
    assert (z.dtype, kl.dtype, variance_ratio.dtype) == (z_type, wide, wide)
    for found, of in zip(grads, given, strict=True):
        assert (found.numel() == 0) if of is None else (found.dtype == of.dtype and found.shape == of.shape)

    exact = [t if t is None else t.detach().cpu().double().requires_grad_() for t in given]
    mu, tril = exact[:2]
    m, p = (torch.zeros(1, cols).double() if t is None else t for t in exact[2:])
    noise = standard_normal(torch.tensor(case.seed), rows, cols, case.first_row)
    zeros = torch.zeros(rows, cols * cols, dtype=torch.float64)
    strict = zeros.index_copy(1, below[0] * cols + below[1], tril).view(rows, cols, cols).tril(-1)
    t = tril[:, diagonal]
    delta = 2 * t - p
    factor = torch.exp(-p / 2).expand(rows, cols)
    exact_z = mu + (strict @ noise.unsqueeze(2)).squeeze(2) + t.exp() * noise
    others = (strict * factor.unsqueeze(2)).square().sum(dim=2)
    each = 0.5 * (((mu - m) * factor).square() + others + exp_minus_1_minus_x(delta))
    exact_kl = each if case.per_dimension else each.sum(dim=1)
    exact_grads = gradients((exact_z, exact_kl), (grad_z, grad_kl), exact)

    with torch.no_grad():
        relative = allowed[wide] + sum_rounding(cols, wide)
        size = mu.abs() + (strict.abs() @ noise.abs().unsqueeze(2)).squeeze(2) + t.exp() * noise.abs()
        assert_within("z", z, exact_z, relative * size, wide)
        assert_within("kl", kl, exact_kl, relative * exact_kl, wide)
        ratio = (others + delta.exp()).mean(dim=0)
        assert_within("variance_ratio", variance_ratio, ratio, relative * ratio, wide)
        g = torch.zeros_like(mu) if grad_z is None else grad_z.cpu().double().abs()
        k = torch.zeros_like(mu) if grad_kl is None else grad_kl.cpu().double().abs()
        k = (k.unsqueeze(1) if k.dim() == 1 else k).expand(rows, cols)
        scaled, expm1 = (mu - m).abs() * factor, torch.expm1(delta).abs()
        of_square = g.unsqueeze(2) * noise.abs().unsqueeze(1) + (k * factor.square()).unsqueeze(2) * strict.abs()
        of_tril = of_square[:, below[0], below[1]]
        of_tril[:, diagonal] = g * t.exp() * noise.abs() + k * expm1
        sizes = [
            g + k * scaled * factor,
            of_tril,
            k * scaled * factor,
            k * (scaled.square() + others + expm1) / 2,
        ]
        names = ("grad_mu", "grad_tril", "grad_prior_mu", "grad_prior_log_var")
        for name, found, expected, size, of in zip(names, grads, exact_grads, sizes, exact, strict=True):
            if of is not None:
                bound = share(size, of) if name.startswith("grad_prior") else size
                rounding = relative if name == "grad_prior_log_var" else allowed[wide]
                assert_within(name, found, expected, rounding * bound, wide)


class GaussianCase(NamedTuple):
    shape: tuple[int, int]
    dtypes: tuple[torch.dtype, torch.dtype]  # of x_hat and x
    layouts: tuple[str, str, str]  # of x_hat, x and of one number a row
    log_gamma: float
    log_gamma_type: torch.dtype
    beta: float
    wanted: str
    seed: int


GAUSSIAN_CASES = st.builds(
    GaussianCase,
    SHAPES | st.tuples(st.integers(1, 3), st.sampled_from([3001, 20_000])),
    st.sampled_from([(a, a) for a in DTYPES] * 2 + [(a, b) for a in DTYPES for b in DTYPES if a != b]),
    st.just(("dense",) * 3) | st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    st.floats(-60, 60) | st.sampled_from([0.0, -60.0, 60.0]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([0.0, 1.0, 0.37, 4.0]),
    st.sampled_from(["nll", "squared error", "both", "neither"]),
    st.integers(0, 2**31),
)


@settings(max_examples=100)
@given(GAUSSIAN_CASES)
@example(GaussianCase((1, 1), (torch.float32,) * 2, ("dense",) * 3, 0.0, torch.float32, 1.0, "both", 1))
@example(GaussianCase((512, 784), (torch.float32,) * 2, ("dense",) * 3, -5.0, torch.float32, 1.0, "both", 1))
@example(GaussianCase((9000, 70), (torch.float32,) * 2, ("dense",) * 3, -5.0, torch.float32, 1.0, "both", 1))
@example(GaussianCase((3, 100_000), (torch.float32,) * 2, ("dense",) * 3, 60.0, torch.float64, 1.0, "both", 1))
@example(GaussianCase((290_000, 3), (torch.float32,) * 2, ("dense",) * 3, 1.0, torch.float64, 1.0, "both", 1))
def test_gaussian_nll_and_elbo_are_their_definitions_in_float64(
    kernels: Kernels,
    poisoned: Callable[..., tuple[Tensor, ...]],
    lay_out: Callable[[Tensor, str], Tensor],
    lay_out_vector: Callable[[Tensor, str], Tensor],
    any_magnitude: Callable[..., Tensor],
    assert_within: Callable[..., None],
    allowed: dict[torch.dtype, float],
    sum_rounding: Callable[[int, torch.dtype], float],
    case: GaussianCase,
) -> None:
    rows, cols = case.shape
    wide = torch.float64 if torch.float64 in case.dtypes else torch.float32
    generator = torch.Generator().manual_seed(case.seed)
    target = torch.randn(case.shape, generator=generator, dtype=torch.float64)
    values = (target + any_magnitude(generator, case.shape, 1e-4, 100), target)
    x_hat, x = (
        lay_out(value.to(kernels.device, dtype), layout)
        for value, dtype, layout in zip(values, case.dtypes, case.layouts, strict=False)
    )
    kl, grad_nll, grad_squared_error = (
        lay_out_vector(any_magnitude(generator, (rows,), 1e-3, 1e3).to(kernels.device, wide), case.layouts[2])
        for _ in range(3)
    )
    log_gamma = kernels.scalar(case.log_gamma, case.log_gamma_type)
    incoming = (
        grad_nll if case.wanted in ("nll", "both") else None,
        grad_squared_error if case.wanted in ("squared error", "both") else None,
    )

    def run() -> tuple[Tensor, ...]:
        nll, squared_error = kernels.operators.gaussian_nll(x_hat, x, log_gamma)
        grads = kernels.operators.gaussian_nll_backward(*incoming, x_hat, x, log_gamma, squared_error)
        return nll, squared_error, *grads, *kernels.operators.gaussian_elbo(x_hat, x, log_gamma, kl, case.beta, True)

    found = tuple(t.cpu() for t in poisoned(run))
    nll, squared_error, grad_x_hat, grad_log_gamma, loss, same_nll, same_squared_error, *early = found
    assert torch.equal(nll, same_nll)
    assert torch.equal(squared_error, same_squared_error)
    types = [t.dtype for t in (nll, squared_error, grad_x_hat, grad_log_gamma, loss, *early)]
    rest = [case.dtypes[0], case.log_gamma_type]
    assert types == [wide, wide, *rest, wide, *rest, wide]
    without = kernels.operators.gaussian_elbo(x_hat, x, log_gamma, kl, case.beta, False)
    assert without[3].shape == (0, cols)
    for a, b in zip((*without[:3], *without[4:]), (loss, nll, squared_error, *early[1:]), strict=True):
        assert torch.equal(a.cpu(), b)

    x_hat, x, kl = x_hat.cpu().double(), x.cpu().double(), kl.cpu().double()
    value = log_gamma.item()
    inverse, error = math.exp(-value), x_hat - x
    exact_squared_error = error.square().sum(dim=1)
    constant = cols * (math.log(2 * math.pi) + value)
    exact_nll = (exact_squared_error * inverse + constant) / 2
    gn, gs = (torch.zeros(rows).double() if g is None else g.cpu().double() for g in incoming)
    of_log_gamma = (cols - exact_squared_error * inverse) / 2

    relative, summed = allowed[wide], allowed[wide] + sum_rounding(cols, wide)
    assert_within("squared_error", squared_error, exact_squared_error, summed * exact_squared_error, wide)
    size = cols * (math.log(2 * math.pi) + abs(value))
    nll_bound = (summed * exact_squared_error * inverse + relative * size) / 2
    assert_within("nll", nll, exact_nll, nll_bound, wide)
    scale, scale_size = gn * inverse + 2 * gs, gn.abs() * inverse + 2 * gs.abs()
    bound = relative * scale_size.unsqueeze(1) * error.abs()
    assert_within("grad_x_hat", grad_x_hat, scale.unsqueeze(1) * error, bound, wide)
    total = summed * (cols + exact_squared_error * inverse) / 2
    arithmetic = torch.promote_types(wide, case.log_gamma_type)
    expected = (gn * of_log_gamma).sum()
    assert_within("grad_log_gamma", grad_log_gamma, expected, (gn.abs() * total).sum(), arithmetic)

    weighted = case.beta * kl
    bound = (nll_bound + relative * (exact_nll.abs() + weighted.abs())).mean()
    assert_within("loss", loss, (exact_nll + weighted).mean(), bound, wide)
    expected = error * inverse / rows
    assert_within("early grad_x_hat", early[0], expected, relative * expected.abs(), wide)
    assert_within("early grad_log_gamma", early[1], of_log_gamma.mean(), total.mean(), arithmetic)
    expected = torch.tensor(case.beta / rows, dtype=torch.float64)
    assert_within("grad_kl", early[2], expected, relative * expected, wide)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 7), (5, 0), (0, 0), (0, 300)])
def test_nothing_to_do(
    kernels: Kernels, poisoned: Callable[..., tuple[Tensor, ...]], shape: tuple[int, int], dtype: torch.dtype
) -> None:
    rows, cols = shape
    x = torch.empty(shape, dtype=dtype, device=kernels.device)
    tril = torch.empty(rows, cols * (cols + 1) // 2, dtype=dtype, device=kernels.device)
    one = torch.ones(1, cols, dtype=dtype, device=kernels.device)
    kl = torch.ones(rows, dtype=torch.promote_types(dtype, torch.float32), device=kernels.device)
    seed, log_gamma = kernels.scalar(1, torch.int64), kernels.scalar(0.5, torch.float32)
    run = kernels.operators

    def call() -> tuple[Tensor, ...]:
        return (
            *run.rsample_kl(x, x, one, one, one, seed, 0, False, True),
            *run.rsample_kl_cholesky(x, tril, one, one, seed, 0, False, True),
            *run.rsample_kl_backward(x, kl, x, x, one, one, one, seed, 0, True, True)[2:],
            *run.rsample_kl_cholesky_backward(x, kl, x, tril, one, one, seed, 0, True)[2:],
            *run.gaussian_nll(x, x, log_gamma),
            *run.gaussian_nll_backward(kl, kl, x, x, log_gamma, kl * 0),
        )

    _, kl_a, ratio_a, _, kl_b, ratio_b, *grads, nll, squared_error, _, grad_log_gamma = poisoned(call)
    for found in (kl_a, kl_b, nll, squared_error):
        assert torch.equal(found, torch.zeros_like(kl))
    for ratio in (ratio_a, ratio_b):
        assert ratio.shape == (cols,)
        assert rows or ratio.isnan().all()
    if rows == 0:
        assert all(torch.equal(g, torch.zeros_like(one)) for g in grads)
    assert grad_log_gamma == 0
    loss = run.gaussian_elbo(x, x, log_gamma, kl, 1.0, True)[0]
    assert loss.isnan() if rows == 0 else loss == 1


@pytest.mark.parametrize("cols", [5, 32, 600])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_in_its_row(kernels: Kernels, dtype: torch.dtype, cols: int) -> None:
    x = torch.ones(6, cols, dtype=dtype, device=kernels.device)
    bad = x.clone()
    here = torch.zeros(6, cols, dtype=torch.bool, device=kernels.device)
    here[2, cols // 2] = True
    bad[here] = math.nan
    seed, log_gamma = kernels.scalar(1, torch.int64), kernels.scalar(0.1, torch.float32)
    run = kernels.operators
    for mu, log_var in ((bad, x), (x, bad)):
        z, kl, ratio = run.rsample_kl(mu, log_var, None, None, None, seed, 0, False, True)
        assert torch.equal(z.isnan(), here)
        assert torch.equal(kl.isnan(), here.any(dim=1))
        assert torch.equal(ratio.isnan(), here.any(dim=0) & log_var.isnan().any())
        grads = run.rsample_kl_backward(x, kl, mu, log_var, x[:1], x[:1], None, seed, 0, True, False)
        assert grads[0].isnan().any(dim=1).tolist() == [False, False, True, False, False, False]
        assert torch.equal(grads[2].isnan().any(dim=0), torch.ones_like(here[0]))  # each column sums over that row
    for x_hat, data in ((bad, x), (x, bad)):
        nll, squared_error = run.gaussian_nll(x_hat, data, log_gamma)
        assert torch.equal(nll.isnan(), here.any(dim=1))
        assert torch.equal(squared_error.isnan(), here.any(dim=1))
        grad_x_hat, _ = run.gaussian_nll_backward(nll.nan_to_num(1), None, x_hat, data, log_gamma, squared_error)
        assert torch.equal(grad_x_hat.isnan(), here)
    tril = torch.ones(6, cols * (cols + 1) // 2, dtype=dtype, device=kernels.device) * 1e-3
    tril[2, 0] = math.nan  # L_00 is in the first column of noise, and in no other line
    z, kl, _ = run.rsample_kl_cholesky(x, tril, None, None, seed, 0, True, False)
    expected = torch.zeros_like(here)
    expected[2, 0] = True
    assert torch.equal(z.isnan(), expected)
    assert torch.equal(kl.isnan(), expected)


def test_bad_tensors_are_refused(kernels: Kernels) -> None:
    x = torch.zeros(3, 4, device=kernels.device)
    seed, log_gamma = kernels.scalar(1, torch.int64), kernels.scalar(0.1, torch.float32)
    run = kernels.operators
    for arguments, message in (
        ((x, x[:, :3], None, None, None, seed), r"log_var must have shape \[3, 4\]"),
        ((x, x, x[:2], x[:2], None, seed), r"prior_mu must have shape \[3, 4\] or \[1, 4\]"),
        ((x, x, x, None, None, seed), "prior_mu and prior_log_var must be given together"),
        ((x, x.long(), None, None, None, seed), "expected a tensor of float32"),
        ((x, x, None, None, None, seed.int()), "seed must be one int64"),
        ((x[0], x, None, None, None, seed), "mu must be a matrix"),
    ):
        with pytest.raises(RuntimeError, match=message):
            run.rsample_kl(*arguments, 0, False, False)
    with pytest.raises(RuntimeError, match=r"tril must have shape \[3, 10\]"):
        run.rsample_kl_cholesky(x, x, None, None, seed, 0, False, False)
    with pytest.raises(RuntimeError, match="log_gamma must be one number, float32 or float64"):
        run.gaussian_nll(x, x, log_gamma.half())


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("ends early", r"thread 0 waits for its block at .*faulty\.cpp:\d+, but thread 7 has ended"),
        ("waits elsewhere", r"thread 0 waits for its block at .*faulty\.cpp:\d+, but thread 32 waits for its block at"),
        ("misses a shuffle", r"waits for its warp at .*faulty\.cpp:\d+, but thread \d+ "),
    ],
)
def test_threads_that_part_at_a_barrier_are_reported(fault: str, message: str) -> None:
    run = getattr(torch.ops, load()).faulty
    with pytest.raises(RuntimeError, match=message):
        run(fault)
    assert run("nothing") == 64  # and the next kernel runs as if nothing had been


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_a_race_does_not_give_the_same_twice() -> None:
    run = getattr(torch.ops, load()).faulty
    assert len({run("race") for _ in range(20)}) > 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
class TestDevice:
    """What only a device can show."""

    @pytest.fixture
    def calls(self) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
        """Each operator on small tensors, batch sums and all."""
        run = torch.ops.manifold_core
        x, kl = torch.randn(700, 36, device="cuda"), torch.randn(700, device="cuda")
        tril = 0.1 * torch.randn(700, 36 * 37 // 2, device="cuda")
        one, zeros = torch.zeros(1, 36, device="cuda"), torch.zeros(700, 36, device="cuda")
        seed, log_gamma = torch.tensor(1, device="cuda"), torch.tensor(0.1, device="cuda")
        return {
            "rsample_kl": lambda: run.rsample_kl(x, x, one, one, one, seed, 0, False, True),
            "rsample_kl_backward": lambda: run.rsample_kl_backward(x, kl, x, x, one, one, one, seed, 0, True, True),
            "rsample_kl_cholesky": lambda: run.rsample_kl_cholesky(x, tril, one, one, seed, 0, False, True),
            "rsample_kl_cholesky_backward": lambda: run.rsample_kl_cholesky_backward(
                x, kl, x, tril, one, one, seed, 0, True
            ),
            "gaussian_nll": lambda: run.gaussian_nll(x, zeros, log_gamma),
            "gaussian_nll_backward": lambda: run.gaussian_nll_backward(kl, kl, x, zeros, log_gamma, kl),
            "gaussian_elbo": lambda: run.gaussian_elbo(x, zeros, log_gamma, kl, 0.5, True),
        }

    def test_one_kernel_is_launched(self, calls: dict[str, Callable[[], tuple[Tensor, ...]]]) -> None:
        torch.cuda.synchronize()
        for name, call in calls.items():
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                call()
                torch.cuda.synchronize()
            kernels = [e.name for e in profile.events() if "Mem" not in e.name and "cuda" in str(e.device_type).lower()]
            assert len(kernels) == 1, (name, kernels)

    def test_results_are_the_same_each_time(self, calls: dict[str, Callable[[], tuple[Tensor, ...]]]) -> None:
        for name, call in calls.items():
            first = call()
            for _ in range(20):
                for a, b in zip(first, call(), strict=True):
                    assert torch.equal(a, b), name

    def test_a_graph_replays_them(self, calls: dict[str, Callable[[], tuple[Tensor, ...]]]) -> None:
        for name, call in calls.items():
            expected = call()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):  # refuses whatever waits for the device
                found = call()
            for result in found:
                result.fill_(math.nan)
            for _ in range(3):
                graph.replay()
            for a, b in zip(expected, found, strict=True):
                assert torch.equal(a, b), name

    def test_the_seed_is_read_when_the_kernel_runs(self) -> None:
        run, x, seed = torch.ops.manifold_core, torch.zeros(5, 8, device="cuda"), torch.tensor(1, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            z, _, _ = run.rsample_kl(x, x, None, None, None, seed, 0, False, False)
        for value in (1, 2, 2**63 - 1):
            seed.fill_(value)
            graph.replay()
            torch.testing.assert_close(z.cpu().double(), standard_normal(torch.tensor(value), 5, 8), rtol=1e-6, atol=0)

    def test_another_stream(self, calls: dict[str, Callable[[], tuple[Tensor, ...]]]) -> None:
        stream = torch.cuda.Stream()
        for name, call in calls.items():
            expected = call()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                torch.cuda._sleep(10_000_000)  # on another stream than this the results would be there at once
                found = call()
                assert not stream.query(), name
            stream.synchronize()
            for a, b in zip(expected, found, strict=True):
                assert torch.equal(a, b), name

    def test_tensors_on_the_host_are_refused(self) -> None:
        run, x = torch.ops.manifold_core, torch.zeros(5, 8, device="cuda")
        with pytest.raises(RuntimeError, match="seed is on another device"):
            run.rsample_kl(x, x, None, None, None, torch.tensor(1), 0, False, False)
        with pytest.raises(RuntimeError, match="log_gamma is on another device"):
            run.gaussian_nll(x, x, torch.tensor(1.0))

    def test_indices_past_31_bits(self) -> None:
        rows, cols = 2**21 + 1, 1024
        if torch.cuda.mem_get_info()[0] < 5 * rows * cols * 2:
            pytest.skip("the device has too little free memory")
        run, seed = torch.ops.manifold_core, torch.tensor(1, device="cuda")
        mu = torch.zeros(rows, cols, dtype=torch.bfloat16, device="cuda")
        mu[-1] = 3
        z, kl, _ = run.rsample_kl(mu, mu, None, None, None, seed, 0, False, False)
        last = mu[-1:].float()
        same_z, same_kl, _ = run.rsample_kl(last, last, None, None, None, seed, rows - 1, False, False)
        assert torch.equal(z[-1:], same_z.bfloat16())
        torch.testing.assert_close(kl[-1:], same_kl)
        assert (kl[:-1] == 0).all()
        nll, squared_error = run.gaussian_nll(mu, torch.zeros_like(mu), torch.tensor(0.0, device="cuda"))
        assert squared_error[-1] == 9 * cols
        assert (squared_error[:-1] == 0).all()
        assert (nll[:-1] == nll[0]).all()
