"""conv_norm and conv_transpose against sums written out in float64."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from instruction_sets import NEEDS_COMPILED
from manifold_core.kernels import conv_norm, conv_transpose
from manifold_core.kernels.dispatch import choose_for_images
from torch import Tensor
from torch.autograd import grad, gradcheck

F32, F64 = torch.float32, torch.float64
# Of a number, relative to the largest of the sums of absolute values that it and its like are made of.
ALLOWED = {F32: 4e-6, F64: 1e-14}


class Case(NamedTuple):
    batch: int
    channels: int
    height: int
    width: int
    others: int  # channels of the other side
    kernel: int
    stride: int
    padding: int
    relu: bool
    residual: bool
    dtype: torch.dtype
    seed: int


CASES = st.builds(
    Case,
    st.integers(1, 9) | st.sampled_from([15, 16, 17, 31, 32, 33, 65, 130]),
    st.integers(1, 7),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 14),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from([F32, F64]),
    st.integers(0, 2**31),
)
# The layers of the paper's networks.
LAYERS = [
    Case(70, 1, 28, 28, 5, 3, 2, 1, True, False, F32, 1),
    Case(70, 1, 28, 28, 5, 1, 2, 0, False, False, F32, 2),
    Case(70, 5, 14, 14, 5, 3, 1, 1, True, True, F32, 3),
    Case(70, 10, 7, 7, 10, 3, 1, 1, True, True, F32, 4),
    Case(33, 10, 7, 7, 5, 4, 2, 1, False, False, F32, 5),
    Case(33, 5, 14, 14, 1, 4, 2, 1, False, False, F32, 6),
    Case(3, 33, 6, 6, 66, 3, 2, 1, True, False, F32, 7),  # more sums than are worked on at a time
]


def draw(case: Case, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(case.seed)
    return [torch.randn(shape, generator=generator, dtype=F64).to(case.dtype).requires_grad_() for shape in shapes]


def taps(size: int, out: int, case: Case) -> Tensor:
    """[out, kernel, size]: 1 where an output pixel sees an input pixel through that number of the kernel."""
    found = torch.zeros(out, case.kernel, size, dtype=F64)
    for y, k in itertools.product(range(out), range(case.kernel)):
        at = y * case.stride + k - case.padding
        if 0 <= at < size:
            found[y, k, at] = 1
    return found


def convolved(x: Tensor, weight: Tensor, out: tuple[int, int], case: Case) -> Tensor:
    """The definition of a convolution, as a sum over all pixels."""
    rows, columns = taps(x.shape[2], out[0], case), taps(x.shape[3], out[1], case)
    return torch.einsum("bcij,ocuv,yui,xvj->boyx", x, weight, rows, columns)


def transposed(x: Tensor, weight: Tensor, out: tuple[int, int], case: Case) -> Tensor:
    """The same from the pixels of the output back to those of the input."""
    rows, columns = taps(out[0], x.shape[2], case), taps(out[1], x.shape[3], case)
    return torch.einsum("bcyx,couv,yui,xvj->boij", x, weight, rows, columns)


def normalised(u: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centered = u - u.mean((0, 2, 3), keepdim=True)
    variance = centered.square().mean((0, 2, 3), keepdim=True)
    return centered / (variance + eps).sqrt() * weight[:, None, None] + bias[:, None, None]


def small(case: Case) -> tuple[int, int]:
    height, width = ((size + 2 * case.padding - case.kernel) // case.stride + 1 for size in (case.height, case.width))
    return height, width


def large(case: Case) -> tuple[int, int]:
    height, width = ((size - 1) * case.stride - 2 * case.padding + case.kernel for size in (case.height, case.width))
    return height, width


def exact(function: Callable[..., Tensor], inputs: list[Tensor], incoming: Tensor) -> list[Tensor]:
    """Result and gradients in float64."""
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    result = function(*wide)
    return [result, *grad(result, wide, incoming.double())]


def assert_close(found: list[Tensor], expected: list[Tensor], scales: list[float], dtype: torch.dtype) -> None:
    for place, (a, b, scale) in enumerate(zip(found, expected, scales, strict=True)):
        assert (a.dtype, a.shape) == (dtype, b.shape)
        error = (a.double() - b).abs().max().item()
        assert error <= ALLOWED[dtype] * scale, (place, error, scale)


@settings(max_examples=150)
@given(CASES)
@example(LAYERS[0])
@example(LAYERS[1])
@example(LAYERS[2])
@example(LAYERS[3])
@example(LAYERS[6])
def test_conv_norm_is_its_formula(backend: str, case: Case) -> None:
    out = small(case)
    assume(min(out) > 0)
    assume(case.batch * out[0] * out[1] > 1)
    shape = (case.batch, case.others, *out)
    x, weight, norm_weight, norm_bias, residual, incoming = draw(
        case,
        (case.batch, case.channels, case.height, case.width),
        (case.others, case.channels, case.kernel, case.kernel),
        (case.others,),
        (case.others,),
        shape,
        shape,
    )
    # So large that it counts, and no variance is so small that rounding is all there is.
    eps = 0.5

    def formula(x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor, *rest: Tensor) -> Tensor:
        y = normalised(convolved(x, weight, out, case), norm_weight, norm_bias, eps)
        return sum(rest, y.relu() if case.relu else y)

    inputs = [x, weight, norm_weight, norm_bias, *([residual] if case.residual else [])]
    u = convolved(x.double(), weight.double(), out, case).detach()
    before = normalised(u, norm_weight.double(), norm_bias.double(), eps)
    # On the kink of a ReLU rounding decides which way the gradient goes.
    assume(not case.relu or before.abs().min() > 1e-5 or case.dtype == F64)

    y, mean, variance = conv_norm(
        *inputs, stride=case.stride, padding=case.padding, eps=eps, relu=case.relu, backend=backend
    )
    found = [y, *grad(y, inputs, incoming.detach())]

    terms = convolved(x.double().abs(), weight.double().abs(), out, case).max().item() + 1
    pixels, gain = case.batch * out[0] * out[1], norm_weight.abs().max().item() + 1
    g = incoming.abs().max().item() * (1 + u.abs().max().item())
    scales = [terms * gain + 3]
    scales += [g * gain * terms * case.others * case.kernel**2 * weight.abs().max().item()]
    scales += [g * gain * terms * pixels, g * terms * pixels, g * pixels, g]
    assert_close(found, exact(formula, inputs, incoming.detach()), scales[: len(found)], case.dtype)
    assert_close([mean], [u.mean((0, 2, 3))], [terms], case.dtype)
    assert_close([variance], [u.var((0, 2, 3), correction=0)], [terms**2], case.dtype)


@settings(max_examples=150)
@given(CASES)
@example(LAYERS[4])
@example(LAYERS[5])
def test_conv_transpose_is_its_formula(backend: str, case: Case) -> None:
    out = large(case)
    assume(min(out) > 0)
    x, weight, bias, incoming = draw(
        case,
        (case.batch, case.channels, case.height, case.width),
        (case.channels, case.others, case.kernel, case.kernel),
        (case.others,),
        (case.batch, case.others, *out),
    )

    def formula(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return transposed(x, weight, out, case) + bias[:, None, None]

    y = conv_transpose(x, weight, bias, stride=case.stride, padding=case.padding, backend=backend)
    found = [y, *grad(y, (x, weight, bias), incoming.detach())]
    terms = transposed(x.double().abs(), weight.double().abs(), out, case).max().item() + 3
    g, pixels = incoming.abs().max().item(), case.batch * out[0] * out[1]
    scales = [terms, g * case.others * case.kernel**2 * weight.abs().max().item()]
    scales += [g * x.abs().max().item() * pixels, g * pixels]
    assert_close(found, exact(formula, [x, weight, bias], incoming.detach()), scales, case.dtype)


def arguments(dtype: torch.dtype = F64, batch: int = 70) -> list[Tensor]:
    """Of conv_norm: of a layer that is in several blocks."""
    case = Case(batch, 3, 6, 5, 4, 3, 1, 1, True, True, dtype, 3)
    return draw(case, (batch, 3, 6, 5), (4, 3, 3, 3), (4,), (4,), (batch, 4, 6, 5))


def both(inputs: list[Tensor], backend: str = "cpu", **options: Any) -> list[Tensor]:
    """Results and gradients of both ops, of weights made for each other."""
    y, mean, variance = conv_norm(*inputs, padding=1, backend=backend, **options)
    x_hat = conv_transpose(y, inputs[1], inputs[2][:3], stride=2, padding=1, backend=backend)
    # Weights that are neither all alike nor without their like in the other samples.
    of_all = (x_hat * torch.linspace(-1, 2, x_hat.numel(), dtype=x_hat.dtype).view(x_hat.shape)).sum()
    return [y, mean, variance, x_hat, *grad(of_all, inputs)]


def test_numbers_do_not_depend_on_the_number_of_threads(cpu: str, threads: Callable[[int], None]) -> None:
    found = []
    for count in (1, 2, 3, 7):
        threads(count)
        found.append(both(arguments(F32, 300)))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_samples_do_not_touch_each_other(cpu: str) -> None:
    """But through mean and variance: of a transposed convolution none sees another, wherever it stands in its block."""
    x, weight, bias = draw(Case(70, 3, 6, 5, 4, 3, 1, 1, True, True, F32, 3), (70, 3, 6, 5), (3, 4, 3, 3), (4,))
    whole = conv_transpose(x, weight, bias, stride=2, backend="cpu")
    for batch in (1, 15, 33, 64):
        assert torch.equal(conv_transpose(x[:batch], weight, bias, stride=2, backend="cpu"), whole[:batch])
    poisoned = x.detach().clone()
    poisoned[40] = torch.nan
    seen = conv_transpose(poisoned, weight, bias, stride=2, backend="cpu")
    assert torch.equal(seen[:40], whole[:40])
    assert torch.equal(seen[41:], whole[41:])
    assert seen[40].isnan().all()


@pytest.mark.parametrize("relu", [True, False])
def test_not_a_number_stays(backend: str, relu: bool) -> None:
    x, weight, *rest = (tensor.detach() for tensor in arguments(F32, 5))
    weight[2, 1, 0, 0] = torch.nan
    y, mean, variance = conv_norm(x, weight, *rest, padding=1, relu=relu, backend=backend)
    for result in (y.transpose(0, 1), mean, variance):
        assert result[2].isnan().all()
        assert result[[0, 1, 3]].isfinite().all()


def test_strides_make_no_difference(cpu: str) -> None:
    inputs = arguments()
    plain = both(inputs)
    x, weight, norm_weight, norm_bias, residual = (tensor.detach() for tensor in inputs)
    with_gaps = torch.full((2 * len(norm_bias),), torch.nan, dtype=F64)
    with_gaps[::2] = norm_bias
    turned = [
        x.transpose(0, 3).contiguous().transpose(0, 3),
        weight.contiguous(memory_format=torch.channels_last),
        norm_weight,
        with_gaps[::2],
        residual.contiguous(memory_format=torch.channels_last),
    ]
    found = both([tensor.requires_grad_() for tensor in turned])
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
    # An incoming gradient of one number for all.
    for one in (inputs, turned):
        y, _, _ = conv_norm(*one, padding=1, backend="cpu")
        gradients = grad(y.sum(), one)
        assert torch.equal(gradients[4], torch.ones_like(residual))


def test_gradients_are_those_of_differences(backend: str) -> None:
    inputs = arguments(batch=2)
    assert gradcheck(lambda *a: conv_norm(*a, padding=1, stride=2, relu=False, backend=backend)[0], inputs[:4])
    assert gradcheck(
        lambda x, w, b: conv_transpose(x, w, b, stride=2, backend=backend), (inputs[4], inputs[1], inputs[2][:3])
    )


@NEEDS_COMPILED
def test_only_what_is_asked_for_has_a_gradient() -> None:
    inputs = arguments(F32)
    whole = both(inputs)[4:]
    for wanted in range(5):
        some = [tensor.detach().requires_grad_(place == wanted) for place, tensor in enumerate(inputs)]
        y, _, _ = conv_norm(*some, padding=1, backend="cpu")
        (found,) = grad(y.sum(), some[wanted])
        y, _, _ = conv_norm(*inputs, padding=1, backend="cpu")
        assert torch.equal(found, grad(y.sum(), inputs)[wanted])
    assert len(whole) == 5
    y, mean, variance = conv_norm(*inputs, padding=1)
    assert (y.requires_grad, mean.requires_grad, variance.requires_grad) == (True, False, False)


@NEEDS_COMPILED
def test_a_second_derivative_is_refused() -> None:
    inputs = arguments(F64, 3)
    y, _, _ = conv_norm(*inputs, padding=1, backend="cpu")
    (slope,) = grad(y.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once, but a second derivative was asked for"):
        slope.sum().backward()


def test_which_backend_serves() -> None:
    def chosen(backend: str = "auto", dtype: torch.dtype = F32, channels: int = 5, batch: int = 3) -> str:
        return choose_for_images(
            backend, torch.zeros(batch, 4, 6, 6, dtype=dtype), torch.zeros(channels, 4, 3, 3).to(dtype)
        )

    assert chosen("reference") == "reference"
    assert chosen(dtype=torch.bfloat16) == chosen(batch=0) == "reference"
    wide = torch.zeros(64, 64, 3, 3)
    assert choose_for_images("auto", torch.zeros(2, 64, 7, 7), wide) == "reference"
    assert choose_for_images("auto", torch.zeros(2, 5, 7, 7, dtype=F64), torch.zeros(5, 5, 3, 3)) == "reference"


@NEEDS_COMPILED
def test_the_compiled_backend_serves_few_channels_and_what_it_is_asked_for() -> None:
    x, wide = torch.zeros(2, 64, 7, 7), torch.zeros(64, 64, 3, 3)
    assert choose_for_images("auto", torch.zeros(2, 5, 7, 7), torch.zeros(5, 5, 3, 3)) == "cpu"
    assert choose_for_images("auto", x, torch.zeros(1, 64, 4, 4)) == "cpu"
    assert choose_for_images("cpu", x, wide) == "cpu"
    with pytest.raises(
        RuntimeError, match=r"one type, float32 or float64, and at least one, got torch.bfloat16, \(2, "
    ):
        choose_for_images("cpu", x.bfloat16(), wide.bfloat16())
    with pytest.raises(RuntimeError, match=r"got torch.float32, torch.float64, \(2, 64"):
        choose_for_images("cpu", x, wide.double())
    with pytest.raises(RuntimeError, match=r"at least one, got torch.float32, \(0, 64"):
        choose_for_images("cpu", x[:0], wide)


X, WEIGHT, FOUR = torch.zeros(2, 3, 6, 5), torch.zeros(4, 3, 3, 3), torch.zeros(4)


@pytest.mark.parametrize(
    ("inputs", "options", "error", "message"),
    [
        (([0], WEIGHT, FOUR, FOUR), {}, TypeError, "x must be a tensor, got list"),
        ((X.long(), WEIGHT, FOUR, FOUR), {}, TypeError, "x must be of a floating-point dtype, got torch.int64"),
        ((X[0], WEIGHT, FOUR, FOUR), {}, ValueError, r"x must have shape \[B, C, H, W\], got \(3, 6, 5\)"),
        ((X, WEIGHT[:, :2], FOUR, FOUR), {}, ValueError, r"weight must have shape \[O, 3, k, k\], got \(4, 2, 3, 3\)"),
        ((X, WEIGHT[..., :2], FOUR, FOUR), {}, ValueError, r"weight must have shape .*, got \(4, 3, 3, 2\)"),
        ((X, WEIGHT, FOUR[:3], FOUR), {}, ValueError, r"norm_weight must have shape \(4,\), got \(3,\)"),
        ((X, WEIGHT, FOUR, FOUR[:3]), {}, ValueError, r"norm_bias must have shape \(4,\), got \(3,\)"),
        (
            (X, WEIGHT, FOUR, FOUR, X),
            {},
            ValueError,
            r"residual must have the shape of y, \(2, 4, 4, 3\), got \(2, 3, 6",
        ),
        (
            (X[:, :, :2], WEIGHT, FOUR, FOUR),
            {},
            ValueError,
            r"images of at least the 3 × 3 of weight, got \(2, 3, 2, 5\)",
        ),
        (
            (X[:1, :, :3, :3], WEIGHT, FOUR, FOUR),
            {},
            ValueError,
            r"more than one value a channel, .* got \(1, 3, 3, 3\)",
        ),
        ((X, WEIGHT, FOUR, FOUR), {"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ((X, WEIGHT, FOUR, FOUR), {"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        ((X, WEIGHT, FOUR, FOUR), {"backend": "cudnn"}, ValueError, "backend must be one of .* got 'cudnn'"),
        ((X, WEIGHT, FOUR, FOUR), {"backend": "triton"}, RuntimeError, "convolutions have kernels for the CPU alone"),
    ],
)
def test_wrong_arguments_of_conv_norm(inputs: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        conv_norm(*inputs, **options)


@pytest.mark.parametrize(
    ("inputs", "options", "error", "message"),
    [
        ((X, WEIGHT, FOUR), {}, ValueError, r"weight must have shape \[3, O, k, k\], got \(4, 3, 3, 3\)"),
        ((X, WEIGHT[:3], FOUR), {}, ValueError, r"bias must have shape \(3,\), got \(4,\)"),
        (
            (X[:, :, :1], WEIGHT[:3], FOUR[:3]),
            {"padding": 2},
            ValueError,
            r"x must leave images .* padding, 2, got \(2, ",
        ),
        ((X, WEIGHT[:3], FOUR[:3]), {"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ((X, WEIGHT[:3], FOUR[:3]), {"padding": -1}, ValueError, "padding must be at least 0, got -1"),
    ],
)
def test_wrong_arguments_of_conv_transpose(inputs: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        conv_transpose(*inputs, **options)
