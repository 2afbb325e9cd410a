"""Noise and exponentials of the Triton kernels, on a GPU where there is one, else in Triton's interpreter."""

import math
import re
from pathlib import Path

import mpmath
import pytest
import torch
from layouts import any_magnitude
from manifold_core.kernels.random import noise_words

triton = pytest.importorskip("triton", reason="triton is not installed")
import triton.language as tl  # noqa: E402
from manifold_core.kernels import triton_math  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.usefixtures("quiet_numpy")


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


@pytest.mark.gpu
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


@pytest.mark.gpu
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
    _, root, root_minus_1, kl, _ = triton_math.variance_terms(x, y)
    tl.store(result_ptr + 3 * n + at, root * root)
    tl.store(result_ptr + 4 * n + at, triton_math.times_exp_minus_1(1.0, root_minus_1))
    tl.store(result_ptr + 5 * n + at, 2.0 * kl)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 6e-7), (torch.float64, 3e-15)])
def test_exponentials_are_those_of_mpmath(dtype: torch.dtype, relative: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x = any_magnitude(generator, (1024,), 1e-8, 80).to(dtype)
    y = torch.where(torch.rand(1024, generator=generator) < 0.5, x, 0 * x) - any_magnitude(generator, (1024,), 1e-8, 80)
    y = torch.maximum(y.clamp(-80, 80), x - 80).to(dtype)
    found = torch.empty(6, 1024, dtype=dtype, device=DEVICE)
    exponential_kernel[(1,)](x.to(DEVICE), y.to(DEVICE), found, n=1024)
    with mpmath.workdps(60):
        expected = [
            [float(f(mpmath.mpf(a) - b)) for a, b in zip(x.tolist(), other, strict=True)]
            for other in ([0.0] * 1024, y.tolist())
            for f in (mpmath.exp, mpmath.expm1, lambda d: mpmath.expm1(d) - d)
        ]
    exact = torch.tensor(expected, dtype=torch.float64)
    error = (found.cpu().double() - exact).abs()
    assert (error <= relative * exact.abs() + torch.finfo(dtype).tiny).all(), (error / exact.abs()).nan_to_num().amax(1)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponentials_beyond_the_type_are_infinite(dtype: torch.dtype) -> None:
    """One that is not in range has no rounding to undo: 0 times infinity."""
    found = torch.empty(6, 4, dtype=dtype, device=DEVICE)
    x = torch.tensor([0.3, 800.0, 800.0, 1e6], dtype=dtype)
    exponential_kernel[(1,)](
        x.to(DEVICE), torch.tensor([0.0, -0.1, -800.3, 0.0], dtype=dtype, device=DEVICE), found, n=4
    )
    assert (found[:, 1:] == torch.inf).all()
    assert found[:, 0].isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 6e-7), (torch.float64, 3e-15)])
def test_exponentials_near_the_largest_number_are_no_nan(dtype: torch.dtype, relative: float) -> None:
    """e^d may be infinite where it is beyond 2^(n - 1/2), but e^(a - b) comes out of its half."""
    n = 512
    largest = math.log(torch.finfo(dtype).max)
    d = torch.linspace(largest - 0.5, largest + 0.5, n, dtype=torch.float64).to(dtype)
    b = torch.full_like(d, -8.5)
    a = (d.double() - 8.5).to(dtype)
    found = torch.empty(6, n, dtype=dtype, device=DEVICE)
    exponential_kernel[(1,)](d.to(DEVICE), torch.zeros_like(d).to(DEVICE), found, n=n)
    plain = found.cpu().clone()
    exponential_kernel[(1,)](a.to(DEVICE), b.to(DEVICE), found, n=n)
    with mpmath.workdps(40):
        of_d = torch.tensor([float(mpmath.exp(x)) for x in d.tolist()], dtype=torch.float64)
        of_a = torch.tensor([float(mpmath.exp(mpmath.mpf(x) + 8.5)) for x in a.tolist()], dtype=torch.float64)
    for results, exact in ((plain[:3], of_d), (plain[3:], of_d), (found.cpu()[3:], of_a)):
        near = (results.double() / exact - 1).abs() <= relative
        assert (near | (results == torch.inf)).all()
    certain = of_a < torch.finfo(dtype).max * 0.999
    assert ((found.cpu()[3:].double() / of_a - 1).abs() <= relative)[:, certain].all()
