"""conv_norm and conv_transpose against sums written out in float64."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from dtypes import F32, F64
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from instruction_sets import NEEDS_COMPILED
from manifold_core.kernels import conv_norm, conv_transpose
from manifold_core.kernels.convolution import choose_for_images
from threads import assert_same_on_threads
from torch import Tensor
from torch.autograd import grad, gradcheck

# Of a number, relative to the largest of its like; and where those nearly cancel, to what they are made of.
ALLOWED = {F32: 1e-5, F64: 1e-13}
CANCELLED = 0.03


class Case(NamedTuple):
    batch: int
    channels: int
    height: int
    width: int
    others: int  # channels of the other side
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    relu: bool = True
    residual: bool = True
    dtype: torch.dtype = F32
    seed: int = 3


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
    Case(70, 1, 28, 28, 5, stride=2, residual=False, seed=1),
    Case(70, 1, 28, 28, 5, kernel=1, stride=2, padding=0, relu=False, residual=False, seed=2),
    Case(70, 5, 14, 14, 5, seed=3),
    Case(70, 10, 7, 7, 10, seed=4),
    Case(33, 10, 7, 7, 5, kernel=4, stride=2, relu=False, residual=False, seed=5),
    Case(33, 5, 14, 14, 1, kernel=4, stride=2, relu=False, residual=False, seed=6),
    Case(3, 33, 6, 6, 66, stride=2, residual=False, seed=7),  # more sums than are worked on at a time
    Case(3000, 2, 5, 5, 3, seed=8),  # more blocks than parts
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


def assert_close(found: list[Tensor], expected: list[Tensor], terms: list[float], dtype: torch.dtype) -> None:
    for place, (a, b, of_terms) in enumerate(zip(found, expected, terms, strict=True)):
        assert (a.dtype, a.shape) == (dtype, b.shape)
        error, bound = (a.double() - b).abs().max().item(), b.abs().max().item() + CANCELLED * of_terms
        assert error <= ALLOWED[dtype] * bound, (place, error, bound)


@settings(max_examples=150)
@given(CASES)
@example(LAYERS[0])
@example(LAYERS[1])
@example(LAYERS[2])
@example(LAYERS[3])
@example(LAYERS[6])
@example(LAYERS[7])
def test_conv_norm_is_its_formula(cpu: str, case: Case) -> None:
    assert_conv_norm_is_its_formula(cpu, case)


@settings(max_examples=15)  # PyTorch's own convolution
@given(CASES)
def test_so_is_the_definition_of_conv_norm(case: Case) -> None:
    assert_conv_norm_is_its_formula("reference", case)


def assert_conv_norm_is_its_formula(backend: str, case: Case) -> None:
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
    # On the kink of a ReLU rounding decides whether a gradient passes: there none comes.
    incoming = incoming.detach() * (before.abs() > 1e-4 if case.relu else 1)

    y, mean, variance = conv_norm(
        *inputs, stride=case.stride, padding=case.padding, eps=eps, relu=case.relu, backend=backend
    )
    found = [y, *grad(y, inputs, incoming)]

    weights, g = (of.abs().max().item() for of in (weight, incoming))
    gain, spread = norm_weight.abs().max().item(), u.std().item() if u.numel() > 1 else 0
    terms = [1 + gain, g * gain * weights, g * gain, g * (1 + spread), g, g]
    assert_close(found, exact(formula, inputs, incoming), terms[: len(found)], case.dtype)
    largest = convolved(x.double().abs(), weight.double().abs(), out, case).max().item()
    assert_close([mean], [u.mean((0, 2, 3))], [largest], case.dtype)
    assert_close([variance], [u.var((0, 2, 3), correction=0)], [largest**2], case.dtype)


@settings(max_examples=150)
@given(CASES)
@example(LAYERS[4])
@example(LAYERS[5])
def test_conv_transpose_is_its_formula(cpu: str, case: Case) -> None:
    assert_conv_transpose_is_its_formula(cpu, case)


@settings(max_examples=15)
@given(CASES)
def test_so_is_the_definition_of_conv_transpose(case: Case) -> None:
    assert_conv_transpose_is_its_formula("reference", case)


def assert_conv_transpose_is_its_formula(backend: str, case: Case) -> None:
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
    largest, weights, g = (of.abs().max().item() for of in (x, weight, incoming))
    terms = [largest * weights + 1, g * weights, g * largest, g]
    assert_close(found, exact(formula, [x, weight, bias], incoming.detach()), terms, case.dtype)


def test_statistics_of_large_images_are_as_exact(cpu: str) -> None:
    """Rounding grows neither with the number of pixels nor with a mean far from 0."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 1, 300, 300, generator=generator) * 0.1 + 1
    weight, one = torch.ones(1, 1, 1, 1), torch.ones(1)
    y, mean, variance = conv_norm(x, weight, one, 0 * one, eps=0.0, relu=False, backend=cpu)
    wide = x.double()
    assert mean.double().item() == pytest.approx(wide.mean().item(), rel=1e-7)
    assert variance.double().item() == pytest.approx(wide.var(correction=0).item(), rel=1e-6)
    expected = (wide - wide.mean()) / wide.std(correction=0)
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=2e-6)


def arguments(dtype: torch.dtype = F64, batch: int = 70) -> list[Tensor]:
    """Of conv_norm: of a layer that is in several blocks."""
    case = Case(batch, 3, 6, 5, 4, dtype=dtype)
    return draw(case, (batch, 3, 6, 5), (4, 3, 3, 3), (4,), (4,), (batch, 4, 6, 5))


def both(inputs: list[Tensor], backend: str = "cpu", **options: Any) -> list[Tensor]:
    """Results and gradients of both ops, of weights made for each other."""
    y, mean, variance = conv_norm(*inputs, padding=1, backend=backend, **options)
    x_hat = conv_transpose(y, inputs[1], inputs[2][:3], stride=2, padding=1, backend=backend)
    # Weights that are neither all alike nor without their like in the other samples.
    of_all = (x_hat * torch.linspace(-1, 2, x_hat.numel(), dtype=x_hat.dtype).view(x_hat.shape)).sum()
    return [y, mean, variance, x_hat, *grad(of_all, inputs)]


def test_results_do_not_depend_on_the_number_of_threads(cpu: str) -> None:
    assert_same_on_threads((1, 2, 3, 7), both, arguments(F32, 300))


def test_samples_do_not_touch_each_other(cpu: str) -> None:
    """But through mean and variance: of a transposed convolution none sees another, wherever it stands in its block."""
    x, weight, bias = draw(Case(70, 3, 6, 5, 4), (70, 3, 6, 5), (3, 4, 3, 3), (4,))
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
def test_nan_stays_in_its_channel(backend: str, relu: bool) -> None:
    x, weight, *rest = (tensor.detach() for tensor in arguments(F32, 5))
    weight[2, 1, 0, 0] = torch.nan
    y, mean, variance = conv_norm(x, weight, *rest, padding=1, relu=relu, backend=backend)
    for result in (y.transpose(0, 1), mean, variance):
        assert result[2].isnan().all()
        assert result[[0, 1, 3]].isfinite().all()


def test_a_gradient_passes_nan(backend: str) -> None:
    """As PyTorch's ReLU lets it: a channel whose numbers are lost does not look like one that is shut."""
    x, weight, *rest = (tensor.detach() for tensor in arguments(F32, 5))
    weight[2, 1, 0, 0] = torch.nan
    norm_bias = rest[1].requires_grad_()
    y, _, _ = conv_norm(x, weight, *rest, padding=1, backend=backend)
    (found,) = grad(y.sum(), norm_bias)
    assert found[2] == y[:, 2].numel()


def test_at_zero_a_relu_passes_no_gradient(backend: str) -> None:
    """As PyTorch's. There a whole layer stands whose normalisation begins with weights of zero."""
    x, weight, *_ = arguments(F32, 5)
    zeros = [torch.zeros(4, requires_grad=True) for _ in range(2)]
    y, _, _ = conv_norm(x, weight, *zeros, padding=1, backend=backend)
    assert not y.any()
    assert not any(found.any() for found in grad(y.sum(), (x, weight, *zeros)))


@pytest.mark.parametrize("stride", [5, 8, 9, 10**5, 10**9])
def test_the_stride_does_not_matter_to_a_single_pixel(backend: str, stride: int) -> None:
    x, weight, bias = draw(Case(9, 3, 6, 5, 4, dtype=F64), (9, 3, 5, 4), (4, 3, 3, 3), (4,))
    y, *_ = conv_norm(x, weight, bias, bias, stride=stride, padding=1, backend=backend)
    z = conv_transpose(x[:, :, :1, :1], weight.transpose(0, 1), bias, stride=stride, backend=backend)
    expected_y, *_ = conv_norm(x[:, :, :2, :2], weight, bias, bias, stride=5, padding=1, backend="reference")
    expected_z = conv_transpose(x[:, :, :1, :1], weight.transpose(0, 1), bias, backend="reference")
    for one, other in ((y, expected_y), (z, expected_z)):
        torch.testing.assert_close(one, other)
        for a, b in zip(grad(one.sin().sum(), (x, weight)), grad(other.sin().sum(), (x, weight)), strict=True):
            torch.testing.assert_close(a, b)


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
    for wanted in range(5):
        some = [tensor.detach().requires_grad_(place == wanted) for place, tensor in enumerate(inputs)]
        y, _, _ = conv_norm(*some, padding=1, backend="cpu")
        (found,) = grad(y.sum(), some[wanted])
        y, _, _ = conv_norm(*inputs, padding=1, backend="cpu")
        assert torch.equal(found, grad(y.sum(), inputs)[wanted])
    y, mean, variance = conv_norm(*inputs, padding=1)
    assert (y.requires_grad, mean.requires_grad, variance.requires_grad) == (True, False, False)


@NEEDS_COMPILED
@pytest.mark.parametrize("name", ["conv_norm", "conv_transpose"])
def test_a_second_derivative_is_refused(name: str) -> None:
    x, weight, *rest = arguments(F64, 3)

    def of(x: Tensor) -> Tensor:
        if name == "conv_norm":
            return conv_norm(x, weight, *rest, padding=1, backend="cpu")[0].square().sum()
        return conv_transpose(x, weight.transpose(0, 1), rest[0], backend="cpu").square().sum()

    (slope,) = grad(of(x), x, create_graph=True)
    for second in (
        lambda: slope.sum().backward(),
        lambda: grad(slope.sum(), x, allow_unused=True),
        lambda: torch.autograd.functional.hessian(of, x),
        lambda: torch.func.grad(lambda v: torch.func.grad(of)(v).sum())(x),
    ):
        with pytest.raises(RuntimeError, match="differentiable once, but a second derivative was asked for"):
            second()


@NEEDS_COMPILED
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch.func.jvp itself uses it
@pytest.mark.parametrize("name", ["conv_norm", "conv_transpose"])
def test_an_error_says_that_by_pytorch_has_the_missing_derivative(name: str) -> None:
    """A model's caller does not call the op: its ``backend`` is out of his reach, by_pytorch is not."""
    x, weight, *rest = (tensor.detach() for tensor in arguments(F64, 3))

    def of(x: Tensor) -> Tensor:
        if name == "conv_norm":
            return conv_norm(x, weight, *rest, padding=1, backend="cpu")[0].square().sum()
        return conv_transpose(x, weight.transpose(0, 1), rest[0], backend="cpu").square().sum()

    for call, what in (
        (lambda: torch.func.grad(lambda v: torch.func.grad(of)(v).sum())(x), "a second derivative"),
        (lambda: torch.func.jvp(of, (x,), (x,)), "a derivative in forward mode"),
    ):
        message = rf"{name} is .*{what} .*manifold_core\.networks\.by_pytorch\(model\) .* has it"
        with pytest.raises(RuntimeError, match=message):
            call()
        with pytest.raises(RuntimeError, match=message):
            torch.compile(call, backend="aot_eager")()


@NEEDS_COMPILED
@pytest.mark.parametrize("compiled", [False, True])
def test_vmap_is_a_loop(compiled: bool) -> None:
    x, weight, *rest = (tensor.detach() for tensor in arguments(F64, 3))
    many = torch.stack((x, x.sin(), 2 * x))

    def of(x: Tensor) -> tuple[Tensor, Tensor]:
        y, _, _ = conv_norm(x, weight, *rest, padding=1, backend="cpu")
        return y, conv_transpose(y, weight, rest[0][:3], stride=2, backend="cpu")

    function = torch.func.vmap(of)
    found = torch.compile(function, backend="aot_eager")(many) if compiled else function(many)
    for place, one in enumerate(many):
        for a, b in zip(found, of(one), strict=True):
            assert torch.equal(a[place], b)


def chosen(batch: int, inputs: int, outputs: int, size: int, dtype: torch.dtype = F32, backend: str = "auto") -> str:
    x, weight = torch.empty(batch, inputs, size, size, dtype=dtype), torch.empty(outputs, inputs, 3, 3, dtype=dtype)
    return choose_for_images(backend, x, weight)


def test_convolutions_that_are_left_to_pytorch() -> None:
    assert chosen(512, 5, 5, 14, backend="reference") == "reference"
    assert chosen(512, 5, 5, 14, torch.bfloat16) == chosen(0, 5, 5, 14) == "reference"
    assert chosen(1, 5, 5, 14) == chosen(16, 32, 32, 14) == "reference"  # few samples
    assert chosen(128, 64, 64, 7) == chosen(128, 24, 96, 14) == "reference"  # many channels
    assert chosen(32, 16, 16, 56) == "reference"  # large images of some channels
    assert choose_for_images("auto", torch.zeros(20, 5, 7, 7, dtype=F64), torch.zeros(5, 5, 3, 3)) == "reference"


@NEEDS_COMPILED
def test_convolutions_that_our_kernels_serve() -> None:
    for shape in ((8, 5, 5, 14), (32, 5, 5, 112), (32, 32, 64, 14), (32, 16, 16, 28)):
        assert chosen(*shape) == chosen(*shape, F64) == "cpu"
    assert chosen(1, 64, 64, 7, backend="cpu") == "cpu"
    with pytest.raises(
        RuntimeError, match=r"torch.float32 or torch.float64, each with at least one element, got torch.bfloat16, \(2, "
    ):
        chosen(2, 64, 64, 7, torch.bfloat16, "cpu")
    with pytest.raises(RuntimeError, match=r"got torch.float32, torch.float64, \(2, 5"):
        choose_for_images("cpu", torch.zeros(2, 5, 7, 7), torch.zeros(5, 5, 3, 3, dtype=F64))
    with pytest.raises(RuntimeError, match=r"at least one element, got torch.float32, \(0, 64"):
        chosen(0, 64, 64, 7, backend="cpu")


@NEEDS_COMPILED
def test_images_too_large_for_a_tile_are_refused() -> None:
    x, weight, four = torch.zeros(2, 1, 6, 6), torch.ones(4, 1, 3, 3), torch.ones(4)
    for padding in (2**20, 2**32):
        with pytest.raises(RuntimeError, match=r"too large for a tile|from 0 to 2\^31"):
            conv_norm(x, weight, four, four, padding=padding, stride=2 * padding - 3, backend="cpu")


X, WEIGHT, FOUR = torch.zeros(2, 3, 6, 5), torch.zeros(4, 3, 3, 3), torch.zeros(4)


@pytest.mark.parametrize(
    ("inputs", "options", "error", "message"),
    [
        (([0], WEIGHT, FOUR, FOUR), {}, TypeError, "x must be a tensor, got list"),
        ((X.long(), WEIGHT, FOUR, FOUR), {}, TypeError, "x must be of a floating-point dtype, got torch.int64"),
        ((X[0], WEIGHT, FOUR, FOUR), {}, ValueError, r"x must have shape \[B, C, H, W\], got \(3, 6, 5\)"),
        (
            (X, WEIGHT[:, :2], FOUR, FOUR),
            {},
            ValueError,
            r"weight must have shape \[O, 3, k, k\], .*, got \(4, 2, 3, 3\)",
        ),
        (
            (X, WEIGHT[..., :0, :0], FOUR, FOUR),
            {},
            ValueError,
            r"weight must have .* none of them 0, got \(4, 3, 0, 0\)",
        ),
        (
            (X, WEIGHT[:0], FOUR[:0], FOUR[:0]),
            {},
            ValueError,
            r"weight must have .* none of them 0, got \(0, 3, 3, 3\)",
        ),
        ((X, WEIGHT, [1], FOUR), {}, TypeError, "norm_weight must be a tensor, got list"),
        ((X, WEIGHT, FOUR, None), {}, TypeError, "norm_bias must be a tensor, got NoneType"),
        ((X, WEIGHT, FOUR, FOUR, [1]), {}, TypeError, "residual must be a tensor, got list"),
        ((X, WEIGHT[..., :2], FOUR, FOUR), {}, ValueError, r"weight must have shape .*, got \(4, 3, 3, 2\)"),
        ((X, WEIGHT, FOUR[:3], FOUR), {}, ValueError, r"norm_weight must have shape \(4,\), .* got \(3,\)"),
        ((X, WEIGHT, FOUR, FOUR[:3]), {}, ValueError, r"norm_bias must have shape \(4,\), .* got \(3,\)"),
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
            r"more than one value per channel, .* got \(1, 3, 3, 3\)",
        ),
        ((X, WEIGHT, FOUR, FOUR), {"stride": 0}, ValueError, "stride must be an integer, at least 1, got 0"),
        ((X, WEIGHT, FOUR, FOUR), {"padding": -1}, ValueError, "padding must be an integer, at least 0, got -1"),
        ((X, WEIGHT, FOUR, FOUR), {"stride": 2.0}, ValueError, "stride must be an integer, at least 1, got 2.0"),
        ((X, WEIGHT, FOUR, FOUR), {"padding": True}, ValueError, "padding must be an integer, at least 0, got True"),
        ((X, WEIGHT, FOUR, FOUR), {"eps": -1.0}, ValueError, "eps must be finite and at least 0, got -1.0"),
        ((X, WEIGHT, FOUR, FOUR), {"backend": "cudnn"}, ValueError, "backend must be one of .* got 'cudnn'"),
        ((X, WEIGHT, FOUR, FOUR), {"backend": "triton"}, RuntimeError, "for this layer there is 'cpu' and 'cuda'"),
    ],
)
def test_wrong_arguments_of_conv_norm(inputs: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        conv_norm(*inputs, **options)


@pytest.mark.parametrize(
    ("inputs", "options", "error", "message"),
    [
        ((X, WEIGHT, FOUR), {}, ValueError, r"weight must have shape \[3, O, k, k\], .* got \(4, 3, 3, 3\)"),
        ((X, WEIGHT[:3], FOUR), {}, ValueError, r"bias must have shape \(3,\), .* got \(4,\)"),
        (
            (X[:, :, :1], WEIGHT[:3], FOUR[:3]),
            {"padding": 2},
            ValueError,
            r"x must leave images .* padding, 2, got \(2, ",
        ),
        ((X, WEIGHT[:3], FOUR[:3]), {"stride": 0}, ValueError, "stride must be an integer, at least 1, got 0"),
        ((X, WEIGHT[:3], FOUR[:3]), {"padding": -1}, ValueError, "padding must be an integer, at least 0, got -1"),
    ],
)
def test_wrong_arguments_of_conv_transpose(inputs: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        conv_transpose(*inputs, **options)
