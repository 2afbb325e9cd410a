"""The Triton kernels, on a GPU where there is one, else in Triton's interpreter, against formulas in float64."""

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from manifold_core.kernels.random import noise_words, standard_normal
from torch import Tensor
from torch.autograd import grad

triton = pytest.importorskip("triton", reason="triton is not installed")
import triton.language as tl  # noqa: E402
from manifold_core.kernels import triton_launch, triton_math  # noqa: E402
from manifold_core.kernels.gaussian_elbo.triton import gaussian_elbo  # noqa: E402
from manifold_core.kernels.gaussian_nll.triton import gaussian_nll, gaussian_nll_backward  # noqa: E402
from manifold_core.kernels.rsample_kl import triton as diagonal  # noqa: E402
from manifold_core.kernels.rsample_kl.reference import exp_minus_1_minus_x  # noqa: E402
from manifold_core.kernels.rsample_kl.triton import rsample_kl, rsample_kl_backward  # noqa: E402
from manifold_core.kernels.rsample_kl_cholesky import triton as cholesky  # noqa: E402
from manifold_core.kernels.rsample_kl_cholesky.triton import (  # noqa: E402
    rsample_kl_cholesky,
    rsample_kl_cholesky_backward,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ("dense", "first head", "transposed", "steps", "offset", "one row", "one column", "one number")
SEEDS = st.integers(0, 2**63 - 1)
FIRST_ROWS = st.sampled_from([0, 0, 1, 2**32 - 3, 2**62])
Layout = Callable[[Tensor, str], Tensor]


@pytest.fixture(autouse=True)
def quiet_numpy() -> Iterator[None]:
    """The interpreter calculates with numpy, which warns where a result is meant to be infinite or NaN."""
    with np.errstate(all="ignore"):
        yield


def on_device(*tensors: Tensor | None) -> list[Tensor | None]:
    """The same numbers with the same strides where the kernels run."""
    if DEVICE.type == "cpu":
        return list(tensors)
    return [
        t
        if t is None
        else torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=DEVICE).copy_(t)
        if 0 not in t.stride()
        else t.to(DEVICE)
        for t in tensors
    ]


def wide(*dtypes: torch.dtype) -> torch.dtype:
    return torch.float64 if torch.float64 in dtypes else torch.float32


# ---- Noise and exponentials


@triton.jit
def words_kernel(
    seed_ptr,  # []
    words_ptr,  # [rows, 4 blocks]
    first_row: tl.int64,
    first_block,
    rows: tl.constexpr,
    blocks: tl.constexpr,
):
    row = (first_row + tl.arange(0, rows)).to(tl.uint64)
    block = (first_block + tl.arange(0, blocks)).to(tl.uint32)
    w0, w1, w2, w3 = triton_math.noise_words(tl.load(seed_ptr), row[:, None], block[None, :])
    at = words_ptr + tl.arange(0, rows)[:, None] * (4 * blocks) + 4 * tl.arange(0, blocks)[None, :]
    tl.store(at, w0.to(tl.int64))
    tl.store(at + 1, w1.to(tl.int64))
    tl.store(at + 2, w2.to(tl.int64))
    tl.store(at + 3, w3.to(tl.int64))


@pytest.mark.parametrize("first_row", [0, 5, 2**32 - 3, 2**62 + 12345, 2**63 - 8])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 0x299F31D0A4093822, 2**63 - 1])
def test_words_are_those_of_the_definition(seed: int, first_row: int) -> None:
    found = torch.empty(8, 16, dtype=torch.int64, device=DEVICE)
    words_kernel[(1,)](torch.tensor(seed, device=DEVICE), found, first_row, 0, rows=8, blocks=4)
    last = min(8, 2**63 - 1 - first_row)  # torch cannot count further
    assert torch.equal(found[:last].cpu(), noise_words(torch.tensor(seed), last, 16, first_row))


@triton.jit
def normal_kernel(
    words_ptr,  # [2, n]
    normal_ptr,  # [2, n]
    n: tl.constexpr,
):
    at = tl.arange(0, n)
    w0, w1 = tl.load(words_ptr + at).to(tl.uint32), tl.load(words_ptr + n + at).to(tl.uint32)
    first, second = triton_math.normal_pair(w0, w1, normal_ptr.dtype.element_ty)
    tl.store(normal_ptr + at, first)
    tl.store(normal_ptr + n + at, second)


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 4e-7), (torch.float64, 1e-14)])
def test_noise_keeps_its_digits_where_it_is_near_zero(dtype: torch.dtype, relative: float) -> None:
    edges = [0, 2**29, 2**30, 2**31, 0xB504F334, 0x3504F334, 3 << 29, 3 << 30, 2**32]
    near = sorted({(edge + step) % 2**32 for edge in edges for step in (-70_000, -1000, -3, -2, -1, 0, 1, 2, 900)})
    grid = [(a, b) for a in near for b in near]
    n = triton.next_power_of_2(len(grid))
    words = torch.tensor(grid + [(1, 1)] * (n - len(grid))).T.contiguous()
    found = torch.empty(2, n, dtype=dtype, device=DEVICE)
    normal_kernel[(1,)](words.to(DEVICE), found, n=n)
    with mpmath.workdps(30):
        radius = {w: mpmath.sqrt(-2 * mpmath.log((w + mpmath.mpf(0.5)) / 2**32)) for w in near}
        angle = {w: 2 * mpmath.pi * (w + mpmath.mpf(0.5)) / 2**32 for w in near}
        cosine, sine = ({w: f(a) for w, a in angle.items()} for f in (mpmath.cos, mpmath.sin))
        expected = torch.tensor(
            [[float(radius[a] * part[b]) for a, b in grid] for part in (cosine, sine)], dtype=torch.float64
        )
    error = (found[:, : len(grid)].cpu().double() - expected).abs() / expected.abs()
    assert error.max() <= relative


@triton.jit
def exponential_kernel(
    x_ptr,  # [n]
    y_ptr,  # [n]
    result_ptr,  # [6, n]
    n: tl.constexpr,
):
    at = tl.arange(0, n)
    x, y = tl.load(x_ptr + at), tl.load(y_ptr + at)
    a, b, c = triton_math.exponential(x)
    tl.store(result_ptr + at, a)
    tl.store(result_ptr + n + at, b)
    tl.store(result_ptr + 2 * n + at, c)
    a, b, c = triton_math.exponential_of_difference(x, y)
    tl.store(result_ptr + 3 * n + at, a)
    tl.store(result_ptr + 4 * n + at, b)
    tl.store(result_ptr + 5 * n + at, c)


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 6e-7), (torch.float64, 3e-15)])
def test_exponentials_are_those_of_mpmath(
    dtype: torch.dtype, relative: float, any_magnitude: Callable[..., Tensor]
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = any_magnitude(generator, (1024,), 1e-8, 80).to(dtype)
    y = torch.where(torch.rand(1024, generator=generator) < 0.5, x, 0 * x) - any_magnitude(generator, (1024,), 1e-8, 80)
    y = torch.maximum(y.clamp(-80, 80), x - 80).to(dtype)
    found = torch.empty(6, 1024, dtype=dtype, device=DEVICE)
    exponential_kernel[(1,)](*on_device(x, y), found, n=1024)
    with mpmath.workdps(60):
        expected = [
            [float(f(mpmath.mpf(a) - b)) for a, b in zip(x.tolist(), other, strict=True)]
            for other in ([0.0] * 1024, y.tolist())
            for f in (mpmath.exp, mpmath.expm1, lambda d: mpmath.expm1(d) - d)
        ]
    exact = torch.tensor(expected, dtype=torch.float64)
    error = (found.cpu().double() - exact).abs()
    assert (error <= relative * exact.abs() + torch.finfo(dtype).tiny).all(), (error / exact.abs()).nan_to_num().amax(1)


# ---- rsample_kl


class Case(NamedTuple):
    shape: tuple[int, int]
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype]  # of mu, of log_var or tril, of the prior and the gate
    layouts: tuple[str, str, str, str]  # of mu, log_var or tril, the prior, the incoming gradients
    prior: str  # "none", "rows", "one row", "one mean"
    gate: str  # "none", "rows", "one row"
    per_dimension: bool
    wanted: str  # which output has an incoming gradient
    seed: int
    first_row: int


def cases(shapes: st.SearchStrategy[tuple[int, int]]) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        shapes,
        st.sampled_from([(a, a, a) for a in DTYPES] * 3) | st.tuples(*[st.sampled_from(DTYPES)] * 3),
        st.tuples(*[st.sampled_from(LAYOUTS)] * 4),
        st.sampled_from(["none", "rows", "one row", "one mean"]),
        st.sampled_from(["none", "rows", "one row"]),
        st.booleans(),
        st.sampled_from(["z", "kl", "both", "both"]),
        SEEDS,
        FIRST_ROWS,
    )


class Drawn(NamedTuple):
    """Arguments of a case; the prior's log variance keeps exp(log_var - prior_log_var) in the range of float32."""

    mu: Tensor
    log_var: Tensor
    prior_mu: Tensor | None
    prior_log_var: Tensor | None
    gate: Tensor | None
    grad_z: Tensor | None
    grad_kl: Tensor | None
    seed: Tensor


@pytest.fixture
def draw(
    lay_out: Layout, lay_out_vector: Layout, any_magnitude: Callable[..., Tensor]
) -> Callable[[Case, Tensor | None], Drawn]:
    def of(case: Case, tril: Tensor | None) -> Drawn:
        generator = torch.Generator().manual_seed(case.seed % 2**32)
        mu_type, log_var_type, other_type = case.dtypes
        one = (1, case.shape[1])
        mu = lay_out(any_magnitude(generator, case.shape, 1e-8, 100).to(mu_type), case.layouts[0])
        log_var = lay_out(any_magnitude(generator, case.shape, 1e-8, 80).to(log_var_type), case.layouts[1])
        prior_mu = prior_log_var = gate = None
        if case.prior != "none":
            prior_mu_shape = one if case.prior in ("one row", "one mean") else case.shape
            prior_mu = any_magnitude(generator, prior_mu_shape, 1e-8, 100).to(other_type)
            least = (log_var if tril is None else tril).double() - 80
            if case.prior == "one row":
                least = least.amax(0, keepdim=True)
            near = torch.rand(least.shape, generator=generator) < 0.3
            drawn = any_magnitude(generator, tuple(least.shape), 1e-8, 80)
            drawn = torch.where(near, least + 80 + 1e-3 * drawn, drawn)
            prior_log_var = torch.maximum(drawn, least + 1e-2 * least.abs()).clamp(-80, 80).to(other_type)
            if case.prior != "one row":
                prior_log_var = lay_out(prior_log_var, case.layouts[2])
                prior_log_var = (
                    torch.maximum(prior_log_var, least.to(other_type)) if "one" in case.layouts[2] else prior_log_var
                )
        if case.gate != "none":
            gate = any_magnitude(generator, one if case.gate == "one row" else case.shape, 1e-3, 80).to(other_type)
            if case.gate == "rows":
                gate = lay_out(gate, case.layouts[2])
        arithmetic = wide(*case.dtypes)
        z_type = torch.promote_types(mu_type, log_var_type)
        grad_z = lay_out(any_magnitude(generator, case.shape, 1e-3, 1e3).to(z_type), case.layouts[3])
        grad_kl = any_magnitude(generator, case.shape if case.per_dimension else case.shape[:1], 1e-3, 1e3)
        grad_kl = (lay_out if case.per_dimension else lay_out_vector)(grad_kl.to(arithmetic), case.layouts[3])
        incoming = None if case.wanted == "kl" else grad_z, None if case.wanted == "z" else grad_kl
        return Drawn(mu, log_var, prior_mu, prior_log_var, gate, *incoming, torch.tensor(case.seed))

    return of


def in_float64(*tensors: Tensor | None) -> list[Tensor | None]:
    return [t if t is None else t.detach().double().requires_grad_() for t in tensors]


def exact_gradients(
    outputs: tuple[Tensor, Tensor], incoming: tuple[Tensor | None, Tensor | None], inputs: list[Tensor | None]
) -> list[Tensor | None]:
    pairs = [(o, g.double()) for o, g in zip(outputs, incoming, strict=True) if g is not None]
    there = [t for t in inputs if t is not None]
    found = iter(grad([o for o, _ in pairs], there, [g for _, g in pairs], materialize_grads=True, retain_graph=True))
    return [None if t is None else next(found) for t in inputs]


def diagonal_definition(
    mu: Tensor,
    log_var: Tensor,
    prior_mu: Tensor | None,
    prior_log_var: Tensor | None,
    gate: Tensor | None,
    noise: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """z, kl per dimension and the variance ratio, from the formulas."""
    m, p = (torch.zeros_like(mu) if t is None else t for t in (prior_mu, prior_log_var))
    z = mu + torch.exp(log_var / 2) * noise
    if gate is not None:
        z = z * torch.exp(-torch.logaddexp(torch.zeros_like(gate), -gate))  # torch's sigmoid has no slope from 37 on
    kl = 0.5 * (((mu - m) * torch.exp(-p / 2)).square() + exp_minus_1_minus_x(log_var - p))
    return z, kl, torch.exp(log_var - p).mean(0)


SHAPES = (
    st.tuples(st.integers(1, 9), st.integers(1, 70))
    | st.tuples(st.integers(100, 300), st.integers(1, 5))
    | st.tuples(st.integers(1, 3), st.sampled_from([127, 129, 511, 513, 1023, 1024, 1025, 2050]))
)
F32 = (torch.float32,) * 3
F64 = (torch.float64,) * 3
DENSE = ("dense",) * 4


@settings(max_examples=40)
@given(cases(SHAPES))
@example(Case((1, 1), F32, DENSE, "rows", "rows", False, "both", 1, 0))
@example(Case((3000, 3), F32, DENSE, "one row", "one row", False, "both", 1, 7))
@example(Case((40, 1025), F64, DENSE, "one mean", "one row", True, "both", 1, 0))
@example(Case((20, 30), (torch.bfloat16,) * 3, DENSE, "one row", "rows", False, "both", 1, 0))
def test_rsample_kl_is_the_definition(
    draw: Callable[[Case, Tensor | None], Drawn],
    assert_within: Callable[..., None],
    allowed: dict[torch.dtype, float],
    sum_rounding: Callable[[int, torch.dtype], float],
    case: Case,
) -> None:
    d = draw(case, None)
    rows, cols = case.shape
    given_ = on_device(*d[:5], d.seed)
    z, kl, ratio = rsample_kl(*given_, case.first_row, case.per_dimension, True)
    assert torch.equal(z, rsample_kl(*given_, case.first_row, case.per_dimension, False)[0])
    incoming = on_device(d.grad_z, d.grad_kl)
    found = rsample_kl_backward(*incoming, *given_, case.first_row, d.prior_mu is not None, d.gate is not None)

    arithmetic = wide(*case.dtypes)
    relative = allowed[arithmetic]
    assert kl.dtype == ratio.dtype == arithmetic
    assert z.dtype == torch.promote_types(d.mu.dtype, d.log_var.dtype)
    noise = standard_normal(d.seed, rows, cols, case.first_row)
    inputs = in_float64(*d[:5])
    exact_z, exact_kl, exact_ratio = diagonal_definition(*inputs, noise)
    out_kl = exact_kl if case.per_dimension else exact_kl.sum(1)
    expected = exact_gradients((exact_z, out_kl), (d.grad_z, d.grad_kl), inputs)
    with torch.no_grad():
        mu, log_var, prior_mu, prior_log_var, gate = inputs
        m, p = (torch.zeros_like(mu) if t is None else t for t in (prior_mu, prior_log_var))
        w = torch.ones_like(mu) if gate is None else torch.sigmoid(gate)
        rest = torch.zeros_like(mu) if gate is None else torch.sigmoid(-gate)
        g = torch.zeros_like(mu) if d.grad_z is None else d.grad_z.double().abs()
        k = torch.zeros_like(mu) if d.grad_kl is None else d.grad_kl.double().abs().reshape(rows, -1)
        spread = (torch.exp(log_var / 2) * noise).abs()
        scaled, pull = ((mu - m) * torch.exp(-p / 2)).square(), ((mu - m) * torch.exp(-p)).abs()
        expm1 = torch.expm1(log_var - p).abs()
        assert_within("z", z.cpu(), exact_z, relative * w * (mu.abs() + spread), arithmetic)
        summed = 0 if case.per_dimension else sum_rounding(cols, arithmetic)
        assert_within("kl", kl.cpu(), out_kl, (relative + summed) * out_kl, arithmetic)
        batch = relative + sum_rounding(rows, arithmetic)
        assert_within("ratio", ratio.cpu(), exact_ratio, batch * exact_ratio, arithmetic)
        sizes = (
            g * w + k * pull,
            (g * w * spread + k * expm1) / 2,
            k * pull,
            k * (scaled + expm1) / 2,
            g * w * rest * (mu.abs() + spread),
        )
        names = ("mu", "log_var", "prior_mu", "prior_log_var", "gate")
        for name, argument, actual, exact, size in zip(names, d[:5], found, expected, sizes, strict=True):
            if argument is None:
                assert actual.shape == (0,)
                continue
            assert (actual.shape, actual.dtype) == (argument.shape, argument.dtype)
            bound = relative * size
            if argument.shape[0] != rows:
                bound = batch * size.sum(0, keepdim=True)
            assert_within(f"grad_{name}", actual.cpu(), exact, bound, arithmetic)


# ---- rsample_kl_cholesky


def packed(cols: int) -> int:
    return cols * (cols + 1) // 2


def cholesky_definition(
    mu: Tensor, tril: Tensor, prior_mu: Tensor | None, prior_log_var: Tensor | None, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """z, kl per dimension and the variance ratio, from the formulas, with L as a matrix."""
    rows, cols = mu.shape
    m, p = (torch.zeros_like(mu) if t is None else t.expand(rows, cols) for t in (prior_mu, prior_log_var))
    i, j = torch.tril_indices(cols, cols)
    matrix = tril.new_zeros(rows, cols, cols).index_put((torch.arange(rows)[:, None], i[None], j[None]), tril)
    log_diagonal, factor = matrix.diagonal(dim1=1, dim2=2), matrix.tril(-1)
    z = mu + (factor @ noise.unsqueeze(2)).squeeze(2) + log_diagonal.exp() * noise
    delta = 2 * log_diagonal - p
    off_diagonal = (factor * torch.exp(-p / 2).unsqueeze(2)).square().sum(2)
    kl = 0.5 * (((mu - m) * torch.exp(-p / 2)).square() + off_diagonal + exp_minus_1_minus_x(delta))
    return z, kl, (off_diagonal + delta.exp()).mean(0)


CHOLESKY_SHAPES = (
    st.tuples(st.integers(1, 5), st.integers(1, 20))
    | st.tuples(st.integers(60, 120), st.integers(1, 3))
    | st.tuples(st.just(2), st.sampled_from([31, 33, 130]))
)


@settings(max_examples=20)
@given(cases(CHOLESKY_SHAPES))
@example(Case((1, 1), F32, DENSE, "rows", "none", False, "both", 1, 0))
@example(Case((1500, 2), F32, DENSE, "one row", "none", False, "both", 1, 7))
@example(Case((3, 40), F64, DENSE, "one mean", "none", True, "both", 1, 0))
def test_rsample_kl_cholesky_is_the_definition(
    draw: Callable[[Case, Tensor | None], Drawn],
    lay_out: Layout,
    any_magnitude: Callable[..., Tensor],
    assert_within: Callable[..., None],
    allowed: dict[torch.dtype, float],
    sum_rounding: Callable[[int, torch.dtype], float],
    case: Case,
) -> None:
    rows, cols = case.shape
    generator = torch.Generator().manual_seed(case.seed % 2**32)
    tril = any_magnitude(generator, (rows, packed(cols)), 1e-6, 10)
    on_diagonal = torch.arange(1, cols + 1).cumsum(0) - 1
    tril[:, on_diagonal] = any_magnitude(generator, case.shape, 1e-8, 40)
    tril = lay_out(tril.to(case.dtypes[1]), case.layouts[1] if case.layouts[1] != "one column" else "dense")
    if case.layouts[1] == "one number":
        tril = tril.clamp(-40, 40)
    d = draw(case._replace(gate="none"), 2 * tril[:, on_diagonal])
    arguments = (d.mu, tril, d.prior_mu, d.prior_log_var)
    given_ = on_device(*arguments, d.seed)
    z, kl, ratio = rsample_kl_cholesky(*given_, case.first_row, case.per_dimension, True)
    incoming = on_device(d.grad_z, d.grad_kl)
    found = rsample_kl_cholesky_backward(*incoming, *given_, case.first_row, d.prior_mu is not None)

    arithmetic = wide(*case.dtypes)
    relative = allowed[arithmetic]
    assert kl.dtype == ratio.dtype == arithmetic
    noise = standard_normal(d.seed, rows, cols, case.first_row)
    inputs = in_float64(*arguments)
    exact_z, exact_kl, exact_ratio = cholesky_definition(*inputs, noise)
    out_kl = exact_kl if case.per_dimension else exact_kl.sum(1)
    expected = exact_gradients((exact_z, out_kl), (d.grad_z, d.grad_kl), inputs)
    with torch.no_grad():
        mu, wide_tril, prior_mu, prior_log_var = inputs
        m, p = (torch.zeros_like(mu) if t is None else t.expand(rows, cols) for t in (prior_mu, prior_log_var))
        g = torch.zeros_like(mu) if d.grad_z is None else d.grad_z.double().abs()
        k = torch.zeros_like(mu) if d.grad_kl is None else d.grad_kl.double().abs().reshape(rows, -1).expand(rows, cols)
        i, j = torch.tril_indices(cols, cols)
        log_diagonal = wide_tril[:, on_diagonal]
        delta = 2 * log_diagonal - p
        # What the terms come to, each without its sign.
        off = wide_tril.abs()
        off[:, on_diagonal] = 0
        spread = torch.zeros_like(mu).index_add(1, i, off * noise[:, j].abs()) + (log_diagonal.exp() * noise).abs()
        in_sum = sum_rounding(cols, arithmetic)
        assert_within("z", z.cpu(), exact_z, (relative + in_sum) * (mu.abs() + spread), arithmetic)
        assert_within("kl", kl.cpu(), out_kl, (relative + 2 * in_sum) * out_kl, arithmetic)
        batch = relative + sum_rounding(rows, arithmetic) + in_sum
        assert_within("ratio", ratio.cpu(), exact_ratio, batch * exact_ratio, arithmetic)
        scaled, pull = ((mu - m) * torch.exp(-p / 2)).square(), ((mu - m) * torch.exp(-p)).abs()
        expm1 = torch.expm1(delta).abs()
        squares = torch.zeros_like(mu).index_add(1, i, (off * torch.exp(-p / 2)[:, i]).square())
        grad_tril = g[:, i] * noise[:, j].abs() + k[:, i] * off * torch.exp(-p)[:, i]
        grad_tril[:, on_diagonal] = g * log_diagonal.exp() * noise.abs() + k * expm1
        sizes = g + k * pull, grad_tril, k * pull, k * (scaled + squares + expm1) / 2
        for name, argument, actual, exact, size in zip(
            ("mu", "tril", "prior_mu", "prior_log_var"), arguments, found, expected, sizes, strict=True
        ):
            if argument is None:
                assert actual.shape == (0,)
                continue
            assert (actual.shape, actual.dtype) == (argument.shape, argument.dtype)
            bound = (relative + (in_sum if name == "prior_log_var" else 0)) * size
            if argument.shape[0] != rows:
                bound = batch * size.sum(0, keepdim=True)
            assert_within(f"grad_{name}", actual.cpu(), exact, bound, arithmetic)


# ---- gaussian_nll and gaussian_elbo


class Reconstruction(NamedTuple):
    shape: tuple[int, int]
    dtypes: tuple[torch.dtype, torch.dtype]  # of x_hat and x
    layouts: tuple[str, str, str]  # of x_hat, x, the numbers of a row
    log_gamma: float
    log_gamma_type: torch.dtype
    beta: float
    wanted: str  # which output has an incoming gradient
    seed: int


RECONSTRUCTIONS = st.builds(
    Reconstruction,
    SHAPES | st.tuples(st.integers(1, 2), st.sampled_from([9000, 20_001])),
    st.sampled_from([(a, a) for a in DTYPES] * 3) | st.tuples(*[st.sampled_from(DTYPES)] * 2),
    st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    st.floats(-60, 60) | st.sampled_from([0.0, -60.0, 60.0]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([0.0, 1.0, 0.37, 4.0]),
    st.sampled_from(["nll", "squared error", "both"]),
    SEEDS,
)


@settings(max_examples=40)
@given(RECONSTRUCTIONS)
@example(Reconstruction((1, 1), F32[:2], DENSE[:3], 0.0, torch.float32, 1.0, "both", 1))
# Between two float32 numbers: its rounding alone would be an error of 1.8e-6.
@example(Reconstruction((4, 30), F32[:2], DENSE[:3], 59.0000018, torch.float64, 1.0, "both", 1))
@example(Reconstruction((3, 40_000), F32[:2], DENSE[:3], -60.0, torch.float64, 1.0, "both", 1))
@example(Reconstruction((3, 40_000), F64[:2], DENSE[:3], 1.0, torch.float64, 0.37, "nll", 1))
@example(Reconstruction((5000, 3), F32[:2], DENSE[:3], 1.0, torch.float32, 0.37, "both", 1))
def test_gaussian_nll_and_elbo_are_the_definition(
    lay_out: Layout,
    lay_out_vector: Layout,
    any_magnitude: Callable[..., Tensor],
    assert_within: Callable[..., None],
    allowed: dict[torch.dtype, float],
    sum_rounding: Callable[[int, torch.dtype], float],
    case: Reconstruction,
) -> None:
    rows, cols = case.shape
    arithmetic = wide(*case.dtypes)
    generator = torch.Generator().manual_seed(case.seed % 2**32)
    target = torch.randn(case.shape, generator=generator, dtype=torch.float64)
    x_hat = lay_out((target + any_magnitude(generator, case.shape, 1e-4, 100)).to(case.dtypes[0]), case.layouts[0])
    x = lay_out(target.to(case.dtypes[1]), case.layouts[1])
    log_gamma = torch.tensor(case.log_gamma, dtype=case.log_gamma_type)
    kl, grad_nll, grad_squared_error = (
        lay_out_vector(any_magnitude(generator, (rows,), 1e-3, 1e3).to(arithmetic), case.layouts[2]) for _ in range(3)
    )
    if case.wanted == "nll":
        grad_squared_error = None
    if case.wanted == "squared error":
        grad_nll = None
    arguments = on_device(x_hat, x, log_gamma)
    nll, squared_error = gaussian_nll(*arguments)
    grad_x_hat, grad_log_gamma = gaussian_nll_backward(
        *on_device(grad_nll, grad_squared_error), *arguments, squared_error
    )

    exact_x_hat, exact_x, exact_log_gamma = in_float64(x_hat, x, log_gamma)
    exact_squared_error = (exact_x_hat - exact_x).square().sum(1)
    exact_nll = (
        exact_squared_error * torch.exp(-exact_log_gamma) + cols * (math.log(2 * math.pi) + exact_log_gamma)
    ) / 2
    expected = exact_gradients(
        (exact_nll, exact_squared_error), (grad_nll, grad_squared_error), [exact_x_hat, exact_log_gamma]
    )
    exact_loss = (exact_nll + case.beta * kl.double()).mean()
    loss_grad_x_hat, loss_grad_log_gamma = exact_gradients(
        (exact_loss, exact_loss), (torch.tensor(1.0), None), [exact_x_hat, exact_log_gamma]
    )
    with torch.no_grad():
        relative = allowed[arithmetic]
        summed, batch = relative + sum_rounding(cols, arithmetic), relative + sum_rounding(rows, arithmetic)
        inverse = math.exp(-log_gamma.double().item())
        scaled = exact_squared_error * inverse
        nll_bound = (summed * scaled + relative * cols * (math.log(2 * math.pi) + abs(case.log_gamma))) / 2
        assert_within(
            "squared_error", squared_error.cpu(), exact_squared_error, summed * exact_squared_error, arithmetic
        )
        assert_within("nll", nll.cpu(), exact_nll, nll_bound, arithmetic)
        gn = torch.zeros(rows) if grad_nll is None else grad_nll.double().abs()
        gs = torch.zeros(rows) if grad_squared_error is None else grad_squared_error.double().abs()
        size = (gn * inverse + 2 * gs).unsqueeze(1) * (exact_x_hat - exact_x).abs()
        assert_within("grad_x_hat", grad_x_hat.cpu(), expected[0], relative * size, arithmetic)
        assert grad_x_hat.dtype == x_hat.dtype
        assert grad_log_gamma.dtype == log_gamma.dtype
        # Rounded to the type of log gamma, too.
        rough = max(relative, 2.0**-23) if log_gamma.dtype == torch.float32 else relative
        slope_size = (gn * (cols + scaled)).sum() / 2
        slope_bound = (summed + rough + batch) * slope_size
        assert_within("grad_log_gamma", grad_log_gamma.cpu(), expected[1], slope_bound, log_gamma.dtype)

        for with_gradients in (False, True):
            results = gaussian_elbo(*arguments, *on_device(kl), case.beta, with_gradients)
            loss, same_nll, same_squared_error, *gradients = results
            assert torch.equal(same_nll, nll)
            assert torch.equal(same_squared_error, squared_error)
            terms = exact_nll.abs() + (case.beta * kl.double()).abs()
            loss_bound = (nll_bound + batch * terms).mean()
            assert_within("loss", loss.cpu(), exact_loss, loss_bound, arithmetic)
            assert loss.dtype == gradients[2].dtype == arithmetic
            if not with_gradients:
                assert gradients[0].shape == (0, cols)
        assert gradients[0].dtype == x_hat.dtype
        size = (exact_x_hat - exact_x).abs() * inverse / rows
        assert_within("loss's grad_x_hat", gradients[0].cpu(), loss_grad_x_hat, relative * size, arithmetic)
        slope_bound = (summed + rough + batch) * (cols + scaled).mean() / 2
        assert_within("loss's grad_log_gamma", gradients[1].cpu(), loss_grad_log_gamma, slope_bound, log_gamma.dtype)
        assert_within(
            "grad_kl",
            gradients[2].cpu(),
            torch.tensor(case.beta / rows, dtype=torch.float64),
            relative * case.beta,
            arithmetic,
        )


# ---- What every kernel has to keep to


@pytest.mark.parametrize("shape", [(0, 7), (5, 0), (0, 0), (0, 1024)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_to_do(shape: tuple[int, int], dtype: torch.dtype) -> None:
    rows, cols = shape
    seed = torch.tensor(1, device=DEVICE)
    mu, prior, gate = (torch.empty(shape, dtype=dtype, device=DEVICE) for _ in range(3))
    row = torch.zeros(1, cols, dtype=dtype, device=DEVICE)
    kl = torch.zeros(rows, dtype=dtype, device=DEVICE)
    z, found_kl, ratio = rsample_kl(mu, mu, row, row, gate, seed, 0, False, True)
    assert torch.equal(z, mu)
    assert torch.equal(found_kl, kl)  # an empty sum is 0
    assert ratio.shape == (cols,)
    assert ratio.isnan().all()
    gradients = rsample_kl_backward(mu, kl, mu, mu, row, prior, row, seed, 0, rows > 0, True)
    assert [g.shape for g in gradients] == [
        shape,
        shape,
        row.shape if rows else (0,),
        shape if rows else (0,),
        row.shape,
    ]
    assert not any(g.any() for g in gradients)
    tril = torch.empty(rows, packed(cols), dtype=dtype, device=DEVICE)
    z, found_kl, ratio = rsample_kl_cholesky(mu, tril, None, None, seed, 0, True, False)
    assert (z.shape, found_kl.shape, ratio.shape) == (shape, shape, (0,))
    gradients = rsample_kl_cholesky_backward(None, kl, mu, tril, row, row, seed, 0, True)
    assert [g.shape for g in gradients] == [shape, tril.shape, row.shape, row.shape]
    assert not any(g.any() for g in gradients)
    log_gamma = torch.tensor(0.5, device=DEVICE)
    nll, squared_error = gaussian_nll(mu, mu, log_gamma)
    assert torch.equal(nll, kl)
    assert torch.equal(squared_error, kl)
    grad_x_hat, grad_log_gamma = gaussian_nll_backward(kl, None, mu, mu, log_gamma, squared_error)
    assert grad_x_hat.shape == shape
    assert grad_log_gamma == 0
    loss = gaussian_elbo(mu, mu, log_gamma, kl, 1.0, True)[0]
    assert loss == 0 if rows else loss.isnan()


@pytest.mark.parametrize("cols", [5, 37])
def test_nan_stays_in_its_row(cols: int) -> None:
    generator = torch.Generator().manual_seed(3)
    seed = torch.tensor(4, device=DEVICE)
    here = torch.zeros(6, cols, dtype=torch.bool)
    here[2, cols // 2] = True
    for bad in range(5):
        arguments = [torch.randn(6, cols, generator=generator) for _ in range(5)]
        arguments[bad][here] = torch.nan
        z, kl, _ = rsample_kl(*on_device(*arguments), seed, 0, False, False)
        _, kls, _ = rsample_kl(*on_device(*arguments), seed, 0, True, False)
        assert torch.equal(z.isnan().cpu(), here & (bad in (0, 1, 4)))
        assert torch.equal(kls.isnan().cpu(), here & (bad != 4))
        assert torch.equal(kl.isnan().cpu(), here.any(1) & (bad != 4))
    tril = torch.randn(6, packed(cols), generator=generator)
    tril[2, -2] = torch.nan  # of the last row of L
    mu = torch.randn(6, cols, generator=generator)
    z, kl, _ = rsample_kl_cholesky(*on_device(mu, tril), None, None, seed, 0, False, False)
    last = torch.zeros(6, cols, dtype=torch.bool)
    last[2, -1] = True
    assert torch.equal(z.isnan().cpu(), last)
    assert torch.equal(kl.isnan().cpu(), last.any(1))
    gradients = rsample_kl_cholesky_backward(*on_device(mu, kl.cpu() * 0 + 1, mu, tril), None, None, seed, 0, False)
    assert gradients[0].isnan().sum() == cols  # the incoming gradient is NaN there
    x_hat = torch.randn(6, cols, generator=generator)
    x_hat[here] = torch.nan
    nll, _ = gaussian_nll(*on_device(x_hat, mu, torch.tensor(0.0)))
    assert torch.equal(nll.isnan().cpu(), here.any(1))


def test_results_do_not_depend_on_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    seed = torch.tensor(6, device=DEVICE)
    mu, log_var = (torch.randn(40, 37, generator=generator, dtype=torch.float64).to(DEVICE) for _ in range(2))
    tril = torch.randn(40, packed(12), generator=generator, dtype=torch.float64).to(DEVICE)

    def run() -> list[Tensor]:
        return [
            *rsample_kl(mu, log_var, None, None, None, seed, 9, False, True),
            *rsample_kl_backward(mu, mu[:, 0], mu, log_var, mu[:1], mu[:1], mu[:1], seed, 9, True, True),
            *rsample_kl_cholesky(mu[:, :12], tril, None, None, seed, 9, False, True),
            *rsample_kl_cholesky_backward(mu[:, :12], None, mu[:, :12], tril, None, None, seed, 9, False),
        ]

    before = run()
    assert all(torch.equal(a, b) for a, b in zip(before, run(), strict=True))
    for elements in (256, 4096):
        for module in (diagonal, cholesky):
            monkeypatch.setattr(module, "tile_elements", lambda *_, elements=elements: elements)
        monkeypatch.setattr(triton_launch, "PROGRAMS_OF_A_SUM", 5)
        for a, b in zip(before, run(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_importing_the_package_does_not_import_triton_kernels() -> None:
    code = (
        "import sys, manifold_core; print([m for m in sys.modules if m.startswith('manifold_core') and 'triton' in m])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_a_launch_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed and log gamma are read by the kernel: CUDA graphs and torch.compile need that."""
    if DEVICE.type != "cuda":

        def refuse(*_: Any) -> None:
            raise AssertionError("read on the host")

        monkeypatch.setattr(Tensor, "item", refuse)
    matrix, kl = torch.zeros(3, 4, device=DEVICE), torch.zeros(3, device=DEVICE)
    seed, log_gamma = torch.tensor(1, device=DEVICE), torch.tensor(0.0, device=DEVICE)
    mode = torch.cuda.get_sync_debug_mode() if DEVICE.type == "cuda" else None
    if mode is not None:
        torch.cuda.set_sync_debug_mode("error")
    try:
        rsample_kl(matrix, matrix, None, None, None, seed, 0, False, True)
        gaussian_elbo(matrix, matrix, log_gamma, kl, 1.0, True)
    finally:
        if mode is not None:
            torch.cuda.set_sync_debug_mode(mode)
