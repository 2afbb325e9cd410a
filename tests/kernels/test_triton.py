"""The Triton backend, on a GPU where there is one, else in Triton's interpreter, against the definitions in float64."""

import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mpmath
import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manifold_core.kernels import gaussian_elbo
from manifold_core.kernels.random import noise_words
from torch import Tensor

import manifold_core as mc

triton = pytest.importorskip("triton", reason="triton is not installed")
import triton.language as tl  # noqa: E402
from manifold_core.kernels import triton_math, triton_sums  # noqa: E402
from manifold_core.kernels.gaussian_elbo import triton as elbo  # noqa: E402
from manifold_core.kernels.rsample_kl import triton as diagonal  # noqa: E402
from manifold_core.kernels.rsample_kl_cholesky import triton as cholesky  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ("dense", "first head", "transposed", "steps", "offset", "one row", "one column", "one number")
SEEDS = st.integers(0, 2**63 - 1)
FIRST_ROWS = st.sampled_from([0, 1, 2**32 - 3, 2**62])
Layout = Callable[[Tensor, str], Tensor]
# Run by `make gpu`. The others would be compiled for each of their many shapes.
ON_GPU = pytest.mark.gpu


@pytest.fixture(autouse=True)
def quiet_numpy() -> Iterator[None]:
    """The interpreter calculates with numpy, which warns where a result is meant to be infinite or NaN."""
    with np.errstate(all="ignore"):
        yield


def name_of(case: "Case | Reconstruction") -> str:
    return f"{'x'.join(map(str, case.shape))}-{str(case.dtypes[0]).removeprefix('torch.')}"


def on_device(tensor: Tensor) -> Tensor:
    """The same numbers with the same strides where the kernels run."""
    if DEVICE.type == "cpu" or 0 in tensor.stride():
        return tensor.to(DEVICE)
    strided = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=DEVICE)
    return strided.copy_(tensor)


def evaluate(
    function: Callable[..., tuple[Tensor, ...]],
    inputs: dict[str, Tensor],
    incoming: list[Tensor | None],
    constants: tuple[str, ...] = (),
    **options: object,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """What Triton gives: the outputs of a function, and the gradients of all inputs that are not constants."""
    leaves = {name: on_device(t).detach().requires_grad_(name not in constants) for name, t in inputs.items()}
    outputs = function(**leaves, **options, backend="triton")
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    there = [g if g is None else on_device(g) for g in incoming]
    found = oracles.gradients(outputs[: len(there)], there, wanted.values())
    return [o.detach().cpu() for o in outputs], {name: g.cpu() for name, g in zip(wanted, found, strict=True)}


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


@ON_GPU
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


@ON_GPU
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 5e-7), (torch.float64, 1e-14)])
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


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("EXP_32", "exp_series"), ("SIN_32", "sin_series"), ("COS_32", "cos_series"), ("LOG_32", "log_1p_minus")],
)
def test_coefficients_are_those_of_the_header(ours: str, theirs: str) -> None:
    """Of least error in single precision: found by a search, and copied."""
    header = (Path(__file__).parents[2] / "csrc/include/manifold_core/special.h").read_text(encoding="utf-8")
    numbers = re.search(rf"{theirs}\(float.*?\{{\{{(.*?)\}}\}}", header, re.DOTALL)
    assert numbers is not None
    assert getattr(triton_math, ours).value == tuple(float(n.strip(" f\n")) for n in numbers[1].split(","))


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
    _, root, root_minus_1, kl, _ = diagonal.variance_terms(x, y)
    tl.store(result_ptr + 3 * n + at, root * root)
    tl.store(result_ptr + 4 * n + at, triton_math.times_exp_minus_1(1.0, root_minus_1))
    tl.store(result_ptr + 5 * n + at, 2.0 * kl)


@ON_GPU
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 6e-7), (torch.float64, 3e-15)])
def test_exponentials_are_those_of_mpmath(
    dtype: torch.dtype, relative: float, any_magnitude: Callable[..., Tensor]
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = any_magnitude(generator, (1024,), 1e-8, 80).to(dtype)
    y = torch.where(torch.rand(1024, generator=generator) < 0.5, x, 0 * x) - any_magnitude(generator, (1024,), 1e-8, 80)
    y = torch.maximum(y.clamp(-80, 80), x - 80).to(dtype)
    found = torch.empty(6, 1024, dtype=dtype, device=DEVICE)
    exponential_kernel[(1,)](on_device(x), on_device(y), found, n=1024)
    with mpmath.workdps(60):
        expected = [
            [float(f(mpmath.mpf(a) - b)) for a, b in zip(x.tolist(), other, strict=True)]
            for other in ([0.0] * 1024, y.tolist())
            for f in (mpmath.exp, mpmath.expm1, lambda d: mpmath.expm1(d) - d)
        ]
    exact = torch.tensor(expected, dtype=torch.float64)
    error = (found.cpu().double() - exact).abs()
    assert (error <= relative * exact.abs() + torch.finfo(dtype).tiny).all(), (error / exact.abs()).nan_to_num().amax(1)


@ON_GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponentials_beyond_the_type_are_infinite(dtype: torch.dtype) -> None:
    """One that is not in range has no rounding to undo: 0 times infinity."""
    found = torch.empty(6, 4, dtype=dtype, device=DEVICE)
    x = torch.tensor([0.3, 800.0, 800.0, 1e6], dtype=dtype)
    exponential_kernel[(1,)](on_device(x), on_device(torch.tensor([0.0, -0.1, -800.3, 0.0], dtype=dtype)), found, n=4)
    assert (found[:, 1:] == torch.inf).all()
    assert found[:, 0].isfinite().all()


@ON_GPU
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 6e-7), (torch.float64, 3e-15)])
def test_exponentials_near_the_largest_number_are_no_nan(dtype: torch.dtype, relative: float) -> None:
    """e^d may be infinite where it is beyond 2^(n - 1/2), but e^(a - b) comes out of its half."""
    n = 512
    largest = math.log(torch.finfo(dtype).max)
    d = torch.linspace(largest - 0.5, largest + 0.5, n, dtype=torch.float64).to(dtype)
    b = torch.full_like(d, -8.5)
    a = (d.double() - 8.5).to(dtype)
    found = torch.empty(6, n, dtype=dtype, device=DEVICE)
    exponential_kernel[(1,)](on_device(d), on_device(torch.zeros_like(d)), found, n=n)
    plain = found.cpu().clone()
    exponential_kernel[(1,)](on_device(a), on_device(b), found, n=n)
    with mpmath.workdps(40):
        of_d = torch.tensor([float(mpmath.exp(x)) for x in d.tolist()], dtype=torch.float64)
        of_a = torch.tensor([float(mpmath.exp(mpmath.mpf(x) + 8.5)) for x in a.tolist()], dtype=torch.float64)
    for results, exact in ((plain[:3], of_d), (plain[3:], of_d), (found.cpu()[3:], of_a)):
        near = (results.double() / exact - 1).abs() <= relative
        assert (near | (results == torch.inf)).all()
    certain = of_a < torch.finfo(dtype).max * 0.999
    assert ((found.cpu()[3:].double() / of_a - 1).abs() <= relative)[:, certain].all()


# ---- rsample_kl and rsample_kl_cholesky


class Case(NamedTuple):
    shape: tuple[int, int]
    dtypes: tuple[torch.dtype, ...]  # of mu, of log_var or tril, of prior_mu, of the rest
    layouts: tuple[str, ...]  # of mu, log_var or tril, prior_mu, prior_log_var, gate_logits, the incoming gradients
    prior: str  # "none", "rows", "one row", "one mean"
    gate: str  # "none", "rows", "one row"
    share: float | None  # of the range of log(variance / prior variance), what the variance takes; None: both are near
    per_dimension: bool
    variance_ratio: bool
    wanted: str  # which output has an incoming gradient
    constants: tuple[str, ...]
    seed: int
    first_row: int


def cases(shapes: st.SearchStrategy[tuple[int, int]], gates: tuple[str, ...]) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        shapes,
        st.sampled_from([(a,) * 4 for a in DTYPES] * 3) | st.tuples(*[st.sampled_from(DTYPES)] * 4),
        st.tuples(*[st.sampled_from(LAYOUTS)] * 6),
        st.sampled_from(["none", "rows", "one row", "one mean"]),
        st.sampled_from(gates),
        st.sampled_from([None, 0.01, 0.5, 0.99]),
        st.booleans(),
        st.booleans(),
        st.sampled_from(["z", "kl", "both", "both"]),
        st.sampled_from([(), (), (), ("prior_mu", "prior_log_var"), ("gate_logits",), ("mu", "prior_mu")]),
        SEEDS,
        FIRST_ROWS,
    )


Draw = Callable[[Case, bool], tuple[dict[str, Tensor], list[Tensor | None]]]


@pytest.fixture
def draw(
    lay_out: Layout,
    lay_out_vector: Layout,
    any_magnitude: Callable[..., Tensor],
    arithmetic: Callable[..., torch.dtype],
) -> Draw:
    """The inputs of a case and the incoming gradients. No exponential, and no sum of them, leaves float32."""

    def of(case: Case, with_tril: bool) -> tuple[dict[str, Tensor], list[Tensor | None]]:
        generator = torch.Generator().manual_seed(case.seed % 2**32)

        def any_number(shape: tuple[int, int], low: float, high: float, dtype: int, layout: int) -> Tensor:
            return lay_out(any_magnitude(generator, shape, low, high).to(case.dtypes[dtype]), case.layouts[layout])

        rows, cols = case.shape
        share = case.share if case.share is not None else 0.5
        most = 80 * (share if case.prior != "none" else 1)
        inputs = {"mu": any_number(case.shape, 1e-8, 10, 0, 0)}
        if with_tril:
            tril = any_magnitude(generator, (rows, packed(cols)), 1e-6, 3)
            tril[:, on_diagonal(cols)] = any_magnitude(generator, case.shape, 1e-8, most / 2)
            inputs["tril"] = lay_out(tril.to(case.dtypes[1]), case.layouts[1])
        else:
            inputs["log_var"] = any_number(case.shape, 1e-8, most, 1, 1)
        if case.prior != "none":
            one_or_all = (1 if case.prior == "one row" else rows, cols)
            inputs["prior_mu"] = any_number((1, cols) if case.prior == "one mean" else one_or_all, 1e-8, 10, 2, 2)
            inputs["prior_log_var"] = any_number(one_or_all, 1e-8, 80 * (1 - share), 3, 3)
            if case.share is None:
                log_var = 2 * inputs["tril"][:, on_diagonal(cols)] if with_tril else inputs["log_var"]
                near = log_var[: one_or_all[0]].double() * (1 + 1e-3 * torch.rand(one_or_all, generator=generator))
                inputs["prior_log_var"] = near.clamp(-40, 40).to(case.dtypes[3])
        if case.gate != "none":
            inputs["gate_logits"] = any_number((1 if case.gate == "one row" else rows, cols), 1e-3, 80, 3, 4)
        z_type = torch.promote_types(case.dtypes[0], case.dtypes[1])
        grad_z = lay_out(any_magnitude(generator, case.shape, 1e-3, 1).to(z_type), case.layouts[5])
        grad_kl = any_magnitude(generator, case.shape if case.per_dimension else (rows,), 1e-3, 1)
        grad_kl = grad_kl.to(arithmetic(*(t.dtype for t in inputs.values())))
        grad_kl = (lay_out if case.per_dimension else lay_out_vector)(grad_kl, case.layouts[5])
        return inputs, [None if case.wanted == "kl" else grad_z, None if case.wanted == "z" else grad_kl]

    return of


def packed(cols: int) -> int:
    return cols * (cols + 1) // 2


def on_diagonal(cols: int) -> Tensor:
    return torch.arange(1, cols + 1).cumsum(0) - 1


@pytest.fixture
def assert_rsample_kl(
    draw: Draw,
    arithmetic: Callable[..., torch.dtype],
    assert_within: Callable[..., None],
    allowed: dict[torch.dtype, float],
    sum_rounding: Callable[[int, torch.dtype], float],
) -> Callable[[Case, bool], None]:
    """Results, gradients, their types and their bounds."""

    def check(case: Case, with_tril: bool) -> None:
        inputs, incoming = draw(case, with_tril)
        function = mc.rsample_kl_cholesky if with_tril else mc.rsample_kl
        where = {"seed": case.seed, "first_row": case.first_row, "per_dimension": case.per_dimension}
        (z, kl, *ratio), gradients = evaluate(
            function, inputs, incoming, case.constants, **where, return_variance_ratio=case.variance_ratio
        )
        variables = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}
        exact = oracles.of_rsample_kl(variables, *where.values(), *incoming)

        kind = arithmetic(*(tensor.dtype for tensor in inputs.values()))
        assert z.dtype == torch.promote_types(case.dtypes[0], case.dtypes[1])
        assert all(output.dtype == kind for output in (kl, *ratio))
        rows, cols = case.shape
        of_cols, of_rows = sum_rounding(cols, kind), sum_rounding(rows, kind)
        of_one = allowed[kind] + (of_cols if with_tril else 0)  # a row of L is summed up for each
        of_kl = of_one + (0 if case.per_dimension and not with_tril else of_cols)
        results = [("z", z, of_one), ("kl", kl, of_kl), *(("variance_ratio", r, of_one + of_rows) for r in ratio)]
        for name, found in gradients.items():
            assert (found.shape, found.dtype) == (inputs[name].shape, inputs[name].dtype), name
            results.append((f"grad_{name}", found, of_one + (0 if found.shape[0] == rows else of_rows)))
        for name, found, relative in results:
            assert_within(name, found, exact[name].value, relative * exact[name].size, kind)

    return check


DENSE = ("dense",) * 6
F32, F64, BF16 = (torch.float32,) * 4, (torch.float64,) * 4, (torch.bfloat16,) * 4
SHAPES = (
    st.tuples(st.integers(1, 9), st.integers(1, 70))
    | st.tuples(st.integers(100, 300), st.integers(1, 5))
    | st.tuples(st.integers(1, 3), st.sampled_from([127, 129, 511, 513, 1023, 1024, 1025]))
)


EDGES = (
    Case((3, 5), F32, ("steps",) * 6, "rows", "rows", 0.5, True, False, "both", (), 1, 0),
    Case((1, 1), F32, DENSE, "rows", "rows", 0.5, False, True, "both", (), 1, 0),
    # More tiles of rows than programs; more programs than one group; a second tile of columns.
    Case((3000, 3), F32, DENSE, "one row", "one row", 0.5, False, True, "both", (), 1, 7),
    Case((40, 1025), F64, DENSE, "one mean", "one row", 0.5, True, True, "both", (), 1, 0),
    Case((9, 1030), F32, LAYOUTS[1:7], "rows", "rows", 0.99, False, False, "both", (), 1, 2**62),
    Case((20, 30), BF16, DENSE, "one row", "rows", 0.5, False, True, "both", (), 1, 0),
)
EDGES_OF_L = (
    Case((1, 1), F32, DENSE, "rows", "none", 0.5, False, True, "both", (), 1, 0),
    Case((1500, 2), F32, DENSE, "one row", "none", 0.5, False, True, "both", (), 1, 7),
    # Several tiles of the rows of L, in the second also of its columns.
    Case((2, 33), F32, LAYOUTS[1:7], "one mean", "none", 0.99, True, True, "both", (), 1, 2**32 - 1),
    Case((1, 67), F64, DENSE, "rows", "none", 0.5, False, True, "both", (), 1, 2**62),
    # Columns of L beyond the widest tile; lines of many tiles.
    Case((1, 140), F32, DENSE, "rows", "none", 0.5, False, False, "both", (), 1, 0),
    pytest.param(
        Case((1, 300), F32, DENSE, "rows", "none", 0.5, False, True, "both", (), 1, 0), marks=pytest.mark.slow
    ),
    pytest.param(
        Case((1, 1024), F32, DENSE, "rows", "none", 0.5, False, True, "both", (), 1, 0), marks=pytest.mark.slow
    ),
)


@ON_GPU
@pytest.mark.parametrize("case", EDGES, ids=name_of)
def test_rsample_kl_at_the_edges(assert_rsample_kl: Callable[[Case, bool], None], case: Case) -> None:
    assert_rsample_kl(case, False)


@ON_GPU
@pytest.mark.parametrize("case", EDGES_OF_L, ids=name_of)
def test_rsample_kl_cholesky_at_the_edges(assert_rsample_kl: Callable[[Case, bool], None], case: Case) -> None:
    assert_rsample_kl(case, True)


@settings(max_examples=30)
@given(cases(SHAPES, ("none", "rows", "one row")))
def test_rsample_kl_is_the_definition(assert_rsample_kl: Callable[[Case, bool], None], case: Case) -> None:
    assert_rsample_kl(case, False)


@settings(max_examples=20)
@given(
    cases(
        st.tuples(st.integers(1, 5), st.integers(1, 17)) | st.tuples(st.integers(60, 120), st.integers(1, 3)), ("none",)
    )
)
def test_rsample_kl_cholesky_is_the_definition(assert_rsample_kl: Callable[[Case, bool], None], case: Case) -> None:
    assert_rsample_kl(case, True)


@ON_GPU
@pytest.mark.parametrize("full", [False, True])
def test_a_sample_whose_infinite_kl_does_not_count_has_no_gradient(full: bool) -> None:
    inputs, grad_kl = oracles.infinite_in_float32(full, 9)
    _, found = evaluate(mc.rsample_kl_cholesky if full else mc.rsample_kl, inputs, [None, grad_kl], seed=0)
    oracles.assert_gradients_of_infinite_kl(found, inputs, grad_kl)


def test_a_packed_row_whose_offsets_are_no_int32_is_refused() -> None:
    most = cholesky.MOST_LATENTS
    assert (most - 1) * (most + 2) < 2**31 <= most * (most + 3)
    mu, tril = torch.zeros(1, 1).expand(1, most + 1), torch.zeros(1, 1).expand(1, packed(most + 1))
    for run in (
        lambda: cholesky.rsample_kl_cholesky(mu, tril, None, None, torch.tensor(0), 0, False, False),
        lambda: cholesky.rsample_kl_cholesky_backward(mu, None, mu, tril, None, None, torch.tensor(0), 0, False),
    ):
        with pytest.raises(ValueError, match="at most 46340 latent dimensions for the triton backend, got 46341"):
            run()


@ON_GPU
@pytest.mark.parametrize("full", [False, True])
def test_a_variance_ratio_may_be_large_where_its_mean_is_not(full: bool) -> None:
    """Of one sample in ten it is e⁹⁰, more than float32 holds."""
    mu, log_var, prior_log_var = (torch.zeros(10, 1) for _ in range(3))
    log_var[4], prior_log_var[4] = 50, -40
    inputs = {"mu": mu, "prior_mu": mu, "prior_log_var": prior_log_var}
    inputs |= {"tril": log_var / 2} if full else {"log_var": log_var}
    function = mc.rsample_kl_cholesky if full else mc.rsample_kl
    (*_, ratio), _ = evaluate(function, inputs, [torch.ones(10, 1), None], seed=0, return_variance_ratio=True)
    torch.testing.assert_close(ratio, torch.tensor([float((9 + mpmath.exp(90)) / 10)]), rtol=1e-5, atol=0)


# ---- gaussian_nll and gaussian_elbo


class Reconstruction(NamedTuple):
    shape: tuple[int, int]
    dtypes: tuple[torch.dtype, ...]  # of x_hat and x
    layouts: tuple[str, ...]  # of x_hat, x, the numbers of a row
    log_gamma: float
    log_gamma_type: torch.dtype
    beta: float | None  # of the ELBO; None: of the nll alone
    wanted: tuple[bool, bool, bool]  # which of loss, nll and squared error have an incoming gradient
    constants: tuple[str, ...]
    seed: int


RECONSTRUCTIONS = st.builds(
    Reconstruction,
    SHAPES | st.tuples(st.integers(1, 2), st.sampled_from([9000, 20_001])),
    st.sampled_from([(a, a) for a in DTYPES] * 3) | st.tuples(*[st.sampled_from(DTYPES)] * 2),
    st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    st.floats(-60, 60) | st.sampled_from([0.0, -60.0, 60.0]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([None, None, 0.0, 1.0, 0.37, 4.0]),
    st.sampled_from([(True, True, False), (True, False, True), (False, True, True), (True, True, True)]),
    st.sampled_from([(), (), ("x",), ("x", "log_gamma"), ("x_hat",)]),
    SEEDS,
)
ALL, LOSS, NLL = (True,) * 3, (True, False, False), (False, True, False)


@pytest.fixture
def assert_reconstruction(
    lay_out: Layout,
    lay_out_vector: Layout,
    any_magnitude: Callable[..., Tensor],
    arithmetic: Callable[..., torch.dtype],
    assert_within: Callable[..., None],
    allowed: dict[torch.dtype, float],
    sum_rounding: Callable[[int, torch.dtype], float],
) -> Callable[[Reconstruction], None]:
    """Results, gradients, their types and their bounds."""

    def check(case: Reconstruction) -> None:
        rows, cols = case.shape
        kind = arithmetic(*case.dtypes)
        generator = torch.Generator().manual_seed(case.seed % 2**32)
        target = torch.randn(case.shape, generator=generator, dtype=torch.float64)
        inputs = {
            "x_hat": lay_out(
                (target + any_magnitude(generator, case.shape, 1e-4, 100)).to(case.dtypes[0]), case.layouts[0]
            ),
            "x": lay_out(target.to(case.dtypes[1]), case.layouts[1]),
            "log_gamma": torch.tensor(case.log_gamma, dtype=case.log_gamma_type),
        }
        kl, *of_rows = (
            lay_out_vector(any_magnitude(generator, (rows,), 1e-3, 1e3).to(kind), case.layouts[2]) for _ in range(3)
        )
        incoming = [
            g if w else None for g, w in zip((torch.tensor(0.7, dtype=kind), *of_rows), case.wanted, strict=True)
        ]
        if case.beta is None:
            function, incoming, options = mc.gaussian_nll, incoming[1:], {"return_squared_error": True}
        else:
            function, options = gaussian_elbo, {"beta": case.beta}
            inputs["kl"] = kl
        found, gradients = evaluate(function, inputs, incoming, case.constants, **options)

        exact = {name: oracles.in_float64(t).requires_grad_() for name, t in inputs.items()}
        expected = function(**exact, **options, backend="reference")
        wide = [g if g is None else g.double() for g in incoming]
        exact_gradients = dict(zip(exact, oracles.gradients(expected, wide, exact.values()), strict=True))
        with torch.no_grad():
            of_one, log_gamma = allowed[kind], exact["log_gamma"]
            of_sum, of_batch = of_one + sum_rounding(cols, kind), of_one + sum_rounding(rows, kind)
            nll, squared_error = expected[-2:]
            scaled = squared_error * torch.exp(-log_gamma)
            nll_bound = (of_sum * scaled + of_one * cols * (math.log(2 * math.pi) + log_gamma.abs())) / 2
            bounds = [nll_bound, of_sum * squared_error]
            if case.beta is not None:
                bounds.insert(0, (nll_bound + of_batch * (nll.abs() + (case.beta * exact["kl"]).abs())).mean())
            names = ("loss", "nll", "squared_error")[-len(expected) :]
            for name, *result in zip(names, found, expected, bounds, strict=True):
                assert_within(name, *result, kind)
                assert result[0].dtype == kind
            # What comes in for the nll, and for the squared error beside it.
            of_loss, of_nll, of_squared_error = ((None,) if case.beta is None else ()) + tuple(wide)
            slope = torch.zeros(rows, dtype=torch.float64)
            slope += 0 if of_loss is None else of_loss / rows
            slope += 0 if of_nll is None else of_nll.abs()
            of_error = 0 if of_squared_error is None else 2 * of_squared_error.abs()
            size = (slope * torch.exp(-log_gamma) + of_error).unsqueeze(1) * (exact["x_hat"] - exact["x"]).abs()
            rough = 2.0**-23 if log_gamma.dtype == torch.float32 else 0  # rounded to the type of log gamma, too
            sizes = {
                "x_hat": of_one * size,
                "x": of_one * size,
                "log_gamma": (of_sum + rough + of_batch) * (slope * (cols + scaled)).sum() / 2,
                "kl": of_one * exact_gradients.get("kl", torch.zeros(())).abs(),
            }
            for name, gradient in gradients.items():
                assert gradient.dtype == inputs[name].dtype
                precision = inputs[name].dtype if name == "log_gamma" else kind
                assert_within(f"grad_{name}", gradient, exact_gradients[name], sizes[name], precision)

    return check


EDGES_OF_ROWS = (
    Reconstruction((1, 1), F32, DENSE, 0.0, torch.float32, 1.0, ALL, (), 1),
    # Between two float32 numbers: its rounding alone would be an error of 1.8e-6.
    Reconstruction((4, 30), F32, DENSE, 59.0000018, torch.float64, 1.0, ALL, (), 1),
    # Rows that programs share; a sum over the batch in groups.
    Reconstruction((3, 40_000), F32, DENSE, -60.0, torch.float64, 1.0, LOSS, ("x",), 1),
    Reconstruction((3, 40_000), F64, DENSE, 1.0, torch.float64, None, NLL, (), 1),
    Reconstruction((2, 100_000), F32, DENSE, -1.0, torch.float32, None, ALL, (), 1),
    Reconstruction((5000, 3), F32, DENSE, 1.0, torch.float32, 0.37, LOSS, ("x",), 1),
    Reconstruction((5000, 3), F32, DENSE, 1.0, torch.float32, None, ALL, (), 1),
)


@ON_GPU
@pytest.mark.parametrize("case", EDGES_OF_ROWS, ids=name_of)
def test_gaussian_nll_and_elbo_at_the_edges(
    assert_reconstruction: Callable[[Reconstruction], None], case: Reconstruction
) -> None:
    assert_reconstruction(case)


@settings(max_examples=40)
@given(RECONSTRUCTIONS)
def test_gaussian_nll_and_elbo_are_the_definition(
    assert_reconstruction: Callable[[Reconstruction], None], case: Reconstruction
) -> None:
    assert_reconstruction(case)


# ---- What every kernel has to keep to


@ON_GPU
@pytest.mark.parametrize("shape", [(0, 7), (5, 0), (0, 0), (0, 1024)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_to_do(shape: tuple[int, int], dtype: torch.dtype) -> None:
    rows, cols = shape
    matrix, row, kl = (torch.zeros(s, dtype=dtype) for s in (shape, (1, cols), rows))
    inputs = {"mu": matrix, "log_var": matrix, "prior_mu": row, "prior_log_var": matrix, "gate_logits": row}
    (z, found, ratio), gradients = evaluate(mc.rsample_kl, inputs, [matrix, kl], seed=1, return_variance_ratio=True)
    assert torch.equal(z, matrix)
    assert torch.equal(found, kl)  # an empty sum is 0
    assert ratio.shape == (cols,)
    assert ratio.isnan().all()
    tril = torch.zeros(rows, packed(cols), dtype=dtype)
    inputs_with_tril = {"mu": matrix, "tril": tril, "prior_mu": row, "prior_log_var": row}
    (z, found), more = evaluate(mc.rsample_kl_cholesky, inputs_with_tril, [matrix, matrix], seed=1, per_dimension=True)
    assert z.shape == found.shape == shape
    reconstruction = {"x_hat": matrix, "x": matrix, "log_gamma": torch.tensor(0.5)}
    (nll, squared_error), most = evaluate(mc.gaussian_nll, reconstruction, [kl, kl], return_squared_error=True)
    assert torch.equal(nll, kl)
    assert torch.equal(squared_error, kl)
    for given_, found_gradients in ((inputs, gradients), (inputs_with_tril, more), (reconstruction, most)):
        for name, gradient in found_gradients.items():
            assert torch.equal(gradient, torch.zeros_like(given_[name])), name
    loss = evaluate(gaussian_elbo, reconstruction | {"kl": kl}, [torch.ones((), dtype=dtype)], beta=1.0)[0][0]
    assert loss == 0 if rows else loss.isnan()


@ON_GPU
@pytest.mark.parametrize("factor", [1.0, 0.0, -0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 3), (9, 4000)])  # of the last each program has several tiles
def test_gradients_written_early_are_scaled_in_place(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], dtype: torch.dtype, factor: float
) -> None:
    """Bit for bit a product, and nothing behind it is touched."""
    monkeypatch.setattr(elbo, "PROGRAMS_TO_SCALE", 3)
    of_all = torch.randn(shape[0] * shape[1] + 4, dtype=dtype, device=DEVICE)
    others = [torch.tensor(0.7, device=DEVICE), torch.tensor(0.3, dtype=torch.float64, device=DEVICE)]
    expected = of_all.clone()
    expected[:-4] *= factor
    expected_others = [other * factor for other in others]
    scale = torch.ops.manifold_core_triton.gaussian_elbo_scale
    scale(of_all[:-4].view(shape), *others, torch.tensor(factor, dtype=dtype, device=DEVICE))
    torch.testing.assert_close(of_all, expected, rtol=0, atol=0)
    for found, wanted in zip(others, expected_others, strict=True):
        torch.testing.assert_close(found, wanted)


@ON_GPU
@pytest.mark.parametrize("cols", [5, 37])
def test_nan_stays_in_its_row(cols: int) -> None:
    generator = torch.Generator().manual_seed(3)
    here = torch.zeros(6, cols, dtype=torch.bool)
    here[2, cols // 2] = True
    names = ("mu", "log_var", "prior_mu", "prior_log_var", "gate_logits")
    ones = [torch.ones(6, cols), torch.ones(6, cols)]
    for bad in names:
        inputs = {name: torch.randn(6, cols, generator=generator) for name in names}
        inputs[bad][here] = torch.nan
        (z, kls), gradients = evaluate(mc.rsample_kl, inputs, ones, seed=4, per_dimension=True)
        assert torch.equal(z.isnan(), here & (bad in ("mu", "log_var", "gate_logits")))
        assert torch.equal(kls.isnan(), here & (bad != "gate_logits"))
        for name, gradient in gradients.items():
            assert not gradient[~here].isnan().any(), (bad, name)
        assert gradients[bad][here].isnan().all()
    (_, kl), _ = evaluate(mc.rsample_kl, inputs | {"mu": torch.where(here, torch.nan, 0.0)}, [ones[0]], seed=4)
    assert torch.equal(kl.isnan(), here.any(1))
    mu, tril = torch.randn(6, cols, generator=generator), torch.randn(6, packed(cols), generator=generator)
    tril[2, -2] = torch.nan  # of the last row of L
    last = torch.zeros(6, cols, dtype=torch.bool)
    last[2, -1] = True
    (z, kl), gradients = evaluate(mc.rsample_kl_cholesky, {"mu": mu, "tril": tril}, [ones[0], ones[0][:, 0]], seed=4)
    assert torch.equal(z.isnan(), last)
    assert torch.equal(kl.isnan(), last.any(1))
    assert not gradients["mu"].isnan().any()  # it is no function of L
    assert torch.equal(gradients["tril"].isnan(), tril.isnan())
    x_hat = torch.where(here, torch.nan, mu)
    (nll,), _ = evaluate(
        lambda **inputs: (mc.gaussian_nll(**inputs),),
        {"x_hat": x_hat, "x": mu, "log_gamma": torch.tensor(0.0)},
        [kl * 0],
    )
    assert torch.equal(nll.isnan(), here.any(1))


def test_results_do_not_depend_on_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    names = ("mu", "log_var", "prior_mu", "prior_log_var", "gate_logits")
    inputs = {name: torch.randn(21, 13, generator=generator, dtype=torch.float64) for name in names}
    inputs["prior_mu"], inputs["gate_logits"] = inputs["prior_mu"][:1], inputs["gate_logits"][:1]
    of_l = {name: inputs[name] for name in ("mu", "prior_mu", "prior_log_var")}
    of_l["tril"] = torch.randn(21, packed(13), generator=generator, dtype=torch.float64)

    def run() -> list[Tensor]:
        incoming = [inputs["mu"], inputs["mu"][:, 0]]
        outputs, gradients = evaluate(mc.rsample_kl, inputs, incoming, seed=6, first_row=9, return_variance_ratio=True)
        more, others = evaluate(mc.rsample_kl_cholesky, of_l, incoming, seed=6, first_row=9, return_variance_ratio=True)
        return [*outputs, *gradients.values(), *more, *others.values()]

    before = run()
    assert all(torch.equal(a, b) for a, b in zip(before, run(), strict=True))
    monkeypatch.setattr(triton_sums, "PROGRAMS_OF_A_SUM", 3)
    for elements in (64, 4096):
        for module in (diagonal, cholesky):
            monkeypatch.setattr(module, "tile_elements", lambda *_, elements=elements: elements)
        for a, b in zip(before, run(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_importing_the_package_does_not_import_triton_kernels() -> None:
    code = (
        "import sys, manifold_core; print([m for m in sys.modules if m.startswith('manifold_core') and 'triton' in m])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_cpu_tensors_are_refused_where_nothing_is_interpreted() -> None:
    code = """if True:
        import importlib, torch, manifold_core as mc
        for op in ("rsample_kl", "rsample_kl_cholesky", "gaussian_nll", "gaussian_elbo"):
            importlib.import_module(f"manifold_core.kernels.{op}.triton")
        try:
            mc.rsample_kl(torch.zeros(2, 3), torch.zeros(2, 3), backend="triton")
        except RuntimeError as error:
            print(error)
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    refusal = "backend 'triton' cannot serve this call: a tensor is on cpu, not on a CUDA device"
    assert said.stdout.strip() == refusal


@ON_GPU
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this is a prototype of torch's
            torch.cuda.set_sync_debug_mode("error")
    try:
        mc.rsample_kl(matrix, matrix, seed=seed, return_variance_ratio=True, backend="triton")
        gaussian_elbo(matrix, matrix, log_gamma, kl, backend="triton")
    finally:
        if mode is not None:
            torch.cuda.set_sync_debug_mode(mode)
