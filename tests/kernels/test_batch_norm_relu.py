"""The CUDA kernels behind conv_norm's convolution, on a device and compiled for this processor, against their
definition in float64."""

import importlib
import math
from typing import Any, NamedTuple

import pytest
import torch
from cuda_on_host.build import load
from cuda_on_host.kernels import NEEDS_COMPILER, NEEDS_DEVICE, Kernels, on_host
from dtypes import BF16, DTYPES, F16, F32, F64
from fakes import assert_fake_results_are_like_real_ones
from hypothesis import example, given, settings
from hypothesis import strategies as st
from manifold_core.kernels import conv_norm
from manifold_core.kernels.batch_norm_relu import reference
from manifold_core.kernels.batch_norm_relu.op import OPERATOR
from poison import poisoned
from recording import operators_of
from tolerances import ALLOWED, assert_within
from torch import Tensor
from torch.autograd import grad
from torch.library import opcheck

import manifold_core as mc
from manifold_core.networks import by_pytorch
from manifold_core.networks.conv_layers import ConvNorm

FORMATS = ("contiguous", "channels last")
LAYOUTS = (*FORMATS, "some samples", "some channels", "some rows", "offset")


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    dtypes: tuple[torch.dtype, ...] = (F32,) * 4  # of u, the residual, norm_weight and norm_bias
    layouts: tuple[str, ...] = ("channels last",) * 3  # of u, the residual and the incoming gradient
    residual: bool = True
    relu: bool = True
    eps: float = 1e-5
    mean: float = 0.0
    seed: int = 1


CASES = st.builds(
    Case,
    st.tuples(st.integers(1, 9), st.integers(1, 70), st.integers(1, 6), st.integers(1, 6)).filter(
        lambda shape: shape[0] * shape[2] * shape[3] > 1  # of one number there is no variance
    )
    | st.tuples(st.integers(2, 40), st.integers(1, 12), st.integers(1, 9), st.integers(1, 9))
    | st.tuples(st.just(4), st.integers(1, 20), st.sampled_from([4, 8, 14]), st.sampled_from([4, 7, 14])),
    st.sampled_from([(a,) * 4 for a in DTYPES] * 2 + [(BF16, F32, F32, F32), (F16, F16, F32, F32)])
    | st.tuples(*[st.sampled_from(DTYPES)] * 4),
    st.sampled_from([(a,) * 3 for a in FORMATS] * 3) | st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1e-5, 0.1]),
    st.sampled_from([0.0, 1.0, -30.0]),
    st.integers(0, 2**31),
)


def laid_out(values: Tensor, layout: str) -> Tensor:
    """These numbers in memory as the layout says, with NaN around them."""
    if layout in FORMATS:
        order = torch.contiguous_format if layout == "contiguous" else torch.channels_last
        return values.clone(memory_format=order)
    if layout == "offset":
        return values.new_full((values.numel() + 1,), math.nan)[1:].view(values.shape).copy_(values)
    dim = ("some samples", "some channels", "some rows").index(layout)
    sizes = [2 * size if at == dim else size for at, size in enumerate(values.shape)]
    whole = values.new_full(sizes, math.nan)
    view = whole[(slice(None),) * dim + (slice(1, None, 2),)]
    return view.copy_(values)


class Exact(NamedTuple):
    """In float64: results, and what rounding errors of each are relative to."""

    values: list[Tensor]
    sizes: list[Tensor]


def per_channel(t: Tensor) -> Tensor:
    return t[:, None, None]


def exact(inputs: list[Tensor], incoming: Tensor, residual: Tensor | None, eps: float, relu: bool) -> Exact:
    """Of y, mean, variance, and the gradients of u, norm_weight and norm_bias."""
    u, weight, bias = (t.detach().cpu().double() for t in inputs)
    first = u[0, :, 0, 0]
    moved = (u - per_channel(first)).requires_grad_()  # is normalised to the same, and even float64 has digits to lose
    weight.requires_grad_(), bias.requires_grad_()
    added = None if residual is None else residual.detach().cpu().double()
    y, moved_mean, variance = reference.batch_norm_relu(moved, weight, bias, added, eps, relu)
    g = incoming.detach().cpu().double()
    grads = grad(y, (moved, weight, bias), g)
    with torch.no_grad():
        dims = (0, 2, 3)
        inverse = (variance + eps).rsqrt()
        largest = u.abs().amax(dims)
        # How much larger than variance and deviation the numbers are that these are differences of.
        square = moved.square().mean(dims)
        worse = 1 + square * inverse.square() + largest * inverse
        deviation = (moved - per_channel(moved_mean)).abs() * per_channel(inverse)
        before = per_channel(weight.abs() * worse) * (1 + deviation) + per_channel(bias.abs())
        of_y = before if added is None else before + added.abs()
        g_mean, g_slope = g.abs().mean(dims), (g.abs() * deviation).mean(dims)
        terms = g.abs() + per_channel(g_mean) * (1 + deviation) + deviation * per_channel(g_slope)
        of_u = per_channel(weight.abs() * inverse * worse) * terms
        of_weight = worse * (g.abs() * (1 + deviation)).sum(dims)
    return Exact(
        [y.detach(), first + moved_mean, variance, *grads], [of_y, largest, square, of_u, of_weight, g.abs().sum(dims)]
    )


@settings(max_examples=120)
@given(CASES)
@example(Case((1, 1, 1, 2), layouts=("contiguous",) * 3, eps=0.1))
@example(Case((24, 5, 14, 14)))
@example(Case((24, 5, 14, 14), (BF16, BF16, F32, F32), ("contiguous",) * 3))
@example(Case((24, 10, 7, 7), layouts=("channels last", "contiguous", "contiguous")))
@example(Case((24, 128, 7, 7), residual=False))  # groups of blocks
@example(Case((340, 128, 7, 7), residual=False))  # several turns
@example(Case((3, 260, 3, 2), residual=False))  # and of groups
@example(Case((66, 1, 64, 64), layouts=("contiguous",) * 3, residual=False, mean=1.0))  # more than one a thread
def test_batch_norm_relu_is_its_definition_in_float64(kernels: Kernels, case: Case) -> None:
    generator = torch.Generator().manual_seed(case.seed)

    def draw(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=F64).to(kernels.device, dtype)

    channels = case.shape[1]
    u = laid_out(draw(*case.shape, dtype=case.dtypes[0]) + case.mean, case.layouts[0]).requires_grad_()
    weight, bias = (draw(channels, dtype=dtype).requires_grad_() for dtype in case.dtypes[2:])
    residual = laid_out(draw(*case.shape, dtype=case.dtypes[1]), case.layouts[1]) if case.residual else None
    y_type = u.dtype if residual is None else torch.promote_types(u.dtype, residual.dtype)
    wide = F64 if y_type == F64 else F32
    incoming = draw(*case.shape, dtype=y_type)
    # On the kink of a ReLU rounding decides whether a gradient passes: there none comes.
    before = exact([u, weight, bias], incoming, None, case.eps, False)
    far = before.values[0].abs() > 8 * ALLOWED[wide] * before.sizes[0]
    incoming = laid_out(incoming * (far.to(kernels.device) if case.relu else 1), case.layouts[2])

    learn = [u, weight, bias, *([residual.requires_grad_()] if residual is not None else [])]

    def run() -> tuple[Tensor, ...]:
        y, mean, variance = kernels.differentiable["batch_norm_relu"](u, weight, bias, residual, case.eps, case.relu)
        return y, mean, variance, *grad(y, learn, incoming)

    results = poisoned(run)
    accumulated = F64 if u.dtype == F64 else F32
    assert [t.dtype for t in results] == [y_type, accumulated, accumulated, *(t.dtype for t in learn)]
    if residual is not None:
        *results, grad_residual = results
        assert torch.equal(grad_residual, incoming.to(residual.dtype))
    dense = u.is_contiguous() or u.is_contiguous(memory_format=torch.channels_last)
    for images in (results[0], results[3]):
        assert images.stride() == u.stride() if dense else images.is_contiguous()

    expected = exact([u, weight, bias], incoming, residual, case.eps, case.relu)
    names = ("y", "mean", "variance", "grad_u", "grad_norm_weight", "grad_norm_bias")
    for name, found, value, size in zip(names, results, *expected, strict=True):
        arithmetic = accumulated if name in ("mean", "variance") else wide
        assert_within(name, found.cpu(), value, ALLOWED[arithmetic] * size, arithmetic)


@pytest.mark.parametrize("layout", FORMATS)
def test_nothing_cancels_far_from_zero(kernels: Kernels, layout: str) -> None:
    u = laid_out(1e4 + torch.randn(50, 4, 8, 8, generator=torch.Generator().manual_seed(1)), layout)
    one, zero = torch.ones(4), torch.zeros(4)
    arguments = (t.to(kernels.device) for t in (u, one, zero))
    y, mean, variance, _ = kernels.operators.batch_norm_relu(*arguments, None, 1e-5, False)
    wide = u.double()
    torch.testing.assert_close(mean.cpu().double(), wide.mean((0, 2, 3)), rtol=1e-7, atol=0)
    torch.testing.assert_close(variance.cpu().double(), wide.var((0, 2, 3), correction=0), rtol=1e-6, atol=0)
    exact_y, *_ = reference.batch_norm_relu(wide, one.double(), zero.double(), None, 1e-5, False)
    torch.testing.assert_close(y.cpu().double(), exact_y, rtol=0, atol=1e-3)  # the mean is of float32


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_in_its_channel(kernels: Kernels, dtype: torch.dtype, layout: str) -> None:
    u = laid_out(torch.randn(5, 11, 4, 4).to(kernels.device, dtype), layout)
    u[3, 6, 1, 2] = math.nan
    one = torch.ones(11, device=kernels.device)
    y, mean, variance, of_channels = kernels.operators.batch_norm_relu(u, one, one, u * 0, 0.1, True)
    grads = kernels.operators.batch_norm_relu_backward(torch.ones_like(u), u, one, one, of_channels, True)
    for result in (y.transpose(0, 1), mean, variance, grads[0].transpose(0, 1), grads[1]):
        bad = result.isnan().reshape(11, -1).all(dim=1)
        assert bad.tolist() == [channel == 6 for channel in range(11)]
    assert grads[2][6] == u[:, 6].numel()  # a ReLU lets the gradient of a number that is none pass, as PyTorch's
    here = torch.ones(5, 11, 4, 4, device=kernels.device)
    here[2, 4, 0, 1] = math.nan
    clean = u.nan_to_num(1)
    *_, of_channels = kernels.operators.batch_norm_relu(clean, one, 9 * one, None, 0.1, True)
    for found in kernels.operators.batch_norm_relu_backward(here.to(dtype), clean, one, one, of_channels, True):
        lines = found.transpose(0, 1) if found.dim() == 4 else found
        assert lines.isnan().reshape(11, -1).any(dim=1).tolist() == [channel == 4 for channel in range(11)]


def test_at_zero_a_relu_passes_no_gradient(kernels: Kernels) -> None:
    """As PyTorch's. There a whole layer stands whose normalisation begins with weights of zero."""
    u = torch.randn(3, 4, 5, 5, device=kernels.device).requires_grad_()
    zeros = [torch.zeros(4, device=kernels.device, requires_grad=True) for _ in range(2)]
    y, *_ = kernels.differentiable["batch_norm_relu"](u, *zeros, None, 1e-5, True)
    assert not y.any()
    assert not any(found.any() for found in grad(y.sum(), (u, *zeros)))


def test_a_gradient_that_is_one_number_for_all(kernels: Kernels) -> None:
    u = torch.randn(6, 5, 4, 3, device=kernels.device).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(5, device=kernels.device)
    y, *_ = kernels.differentiable["batch_norm_relu"](u, weight, weight, None, 0.1, True)
    same = [grad(y, u, g, retain_graph=True)[0] for g in (y.new_ones(()).expand(y.shape), torch.ones_like(y))]
    torch.testing.assert_close(*same, rtol=0, atol=0)


def test_bad_tensors_are_refused(kernels: Kernels) -> None:
    u, one = torch.ones(3, 4, 5, 6, device=kernels.device), torch.ones(4, device=kernels.device)
    run = kernels.operators
    for arguments, message in (
        ((u[0], one, one, None), r"u must be images \[B, C, H, W\]"),
        ((u[:0], one, one, None), r"u must be images \[B, C, H, W\], at least one"),
        ((u, one[:3], one, None), r"norm_weight must have shape \[4\]"),
        ((u, one, u, None), r"norm_bias must have shape \[4\]"),
        ((u, one, one, u[:, :, :, :1]), "residual must have the shape of u"),
        ((u.long(), one, one, None), "expected a tensor of float32"),
    ):
        with pytest.raises(RuntimeError, match=message):
            run.batch_norm_relu(*arguments, 0.1, True)
    of_channels = torch.ones(4, 4, device=kernels.device)
    for arguments, message in (
        ((u[:1], u, one, one, of_channels), "grad_y must have the shape of u"),
        ((u, u, one, one, of_channels[:3]), "of_channels must be what the forward pass left"),
        ((u, u, one, one, of_channels.double()), "of_channels must be what the forward pass left"),
    ):
        with pytest.raises(RuntimeError, match=message):
            run.batch_norm_relu_backward(*arguments, True)


def arguments_of(name: str, layout: str, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(2)
    u, other = (laid_out(torch.randn(3, 4, 5, 2, generator=generator).to(dtype), layout) for _ in range(2))
    weight, bias = torch.randn(2, 4, generator=generator)
    if name == "batch_norm_relu_backward":
        of_channels = torch.randn(4, 4, generator=generator, dtype=F64 if dtype == F64 else F32)
        return [(other, u, weight, bias, of_channels, True), (other, u, weight, bias.double(), of_channels, False)]
    u.requires_grad_(), weight.requires_grad_()
    return [(u, weight, bias, None, 0.1, True), (u, weight, bias.double(), other.float().requires_grad_(), 0.1, False)]


@NEEDS_COMPILER
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [F32, F64, BF16])
@pytest.mark.parametrize("name", ["batch_norm_relu", "batch_norm_relu_backward"])
def test_fake_results_are_like_real_ones(name: str, dtype: torch.dtype, layout: str) -> None:
    operator = getattr(on_host(), name).default
    for arguments in arguments_of(name, layout, dtype):
        assert_fake_results_are_like_real_ones(operator, arguments)


@NEEDS_COMPILER
@pytest.mark.parametrize(("dtype", "layout"), [(F32, LAYOUTS[0]), (F64, LAYOUTS[-1]), (BF16, LAYOUTS[0])])
@pytest.mark.parametrize("name", ["batch_norm_relu", "batch_norm_relu_backward"])
def test_opcheck(name: str, dtype: torch.dtype, layout: str) -> None:
    operator = getattr(on_host(), name).default
    for arguments in arguments_of(name, layout, dtype):
        opcheck(operator, arguments)


@pytest.fixture
def in_place_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """conv_norm takes the CUDA kernels, which are those compiled for this processor."""
    monkeypatch.setitem(OPERATOR.by_backend, "cuda", load()["batch_norm_relu"])
    for module in ("manifold_core.kernels.conv_norm.op", "manifold_core.networks.conv_layers"):
        monkeypatch.setattr(
            importlib.import_module(module),
            "choose_for_images",
            lambda backend, *_, backends=(): "cuda" if backend != "reference" and "cuda" in backends else "reference",
        )


def losses_and_gradients(model: mc.VAE, x: Tensor, compiled: bool = False) -> list[Tensor]:
    seed = torch.tensor(5, device=x.device)

    def of(batch: Tensor) -> Tensor:
        return model(batch, seed=seed).loss

    loss = torch.compile(of, fullgraph=True, backend="aot_eager")(x) if compiled else of(x)
    return [loss.detach(), *grad(loss, list(model.parameters())), *(buffer.clone() for buffer in model.buffers())]


@NEEDS_COMPILER
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.usefixtures("in_place_of_a_device")
def test_a_model_of_images_has_the_gradients_of_pytorchs_layers(order: torch.memory_format, compiled: bool) -> None:
    torch.compiler.reset()
    found = []
    for prepare in (lambda model: model, by_pytorch):
        torch.manual_seed(0)
        model = prepare(mc.VAE.conv((1, 8, 8), 3, 3).double().to(memory_format=order))
        x = torch.rand(9, 1, 8, 8, dtype=F64, generator=torch.Generator().manual_seed(1))
        found.append(losses_and_gradients(model, x, compiled))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def assert_alike_in_half(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        error, largest = (a.double() - b.double()).abs().max(), b.double().abs().max()
        assert error <= 8 * 2.0**-8 * largest  # some roundings to eight bits on either way


@pytest.mark.gpu
@NEEDS_DEVICE
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # of torch itself
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_a_model_on_a_device_has_the_gradients_of_pytorchs_layers(order: torch.memory_format, compiled: bool) -> None:
    torch.compiler.reset()
    x = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(1), dtype=F64).cuda()
    found = []
    for prepare, layers in ((lambda model: model, 8), (by_pytorch, 0)):
        torch.manual_seed(0)
        model = prepare(mc.VAE.conv((1, 28, 28), 4, 5).double().to("cuda", memory_format=order))
        found.append(losses_and_gradients(model, x, compiled))
        names = operators_of(lambda model=model: model(x).loss.backward())
        for name in ("batch_norm_relu", "batch_norm_relu_backward"):
            assert names.count(f"manifold_core.{name}.default") == layers
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.gpu
@NEEDS_DEVICE
def test_the_layout_of_a_convolution_is_kept_on_a_device() -> None:
    x, weight = torch.randn(8, 3, 6, 6, device="cuda"), torch.randn(5, 3, 3, 3, device="cuda")
    one = torch.ones(5, device="cuda")
    for order in (torch.contiguous_format, torch.channels_last):
        y, *_ = conv_norm(x.contiguous(memory_format=order), weight.contiguous(memory_format=order), one, one)
        assert y.is_contiguous(memory_format=order)


@NEEDS_COMPILER
@pytest.mark.usefixtures("in_place_of_a_device")
def test_a_layer_in_half_precision_is_pytorchs() -> None:
    generator = torch.Generator().manual_seed(0)
    x, residual = (torch.randn(40, n, 6, 6, generator=generator).bfloat16() for n in (3, 4))
    found = []
    for prepare in (lambda layer: layer, by_pytorch):
        torch.manual_seed(1)
        layer = prepare(ConvNorm(3, 4)).bfloat16()
        y = layer(x, residual)
        y.float().square().sum().backward()
        found.append([y.detach(), *layer.buffers(), *(p.grad for p in layer.parameters())])
    assert_alike_in_half(*found)


@NEEDS_COMPILER
@pytest.mark.parametrize("of_residual", [F32, BF16, None])
@pytest.mark.usefixtures("in_place_of_a_device")
def test_autocast_treats_it_as_it_treats_the_definition(of_residual: torch.dtype | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(40, 3, 6, 6, generator=generator), torch.randn(4, 3, 3, 3, generator=generator)
    norm_weight, norm_bias = torch.randn(2, 4, generator=generator)
    residual = None if of_residual is None else torch.randn(40, 4, 6, 6, generator=generator).to(of_residual)
    learn = [t.requires_grad_() for t in (x, weight, norm_weight, norm_bias, residual) if t is not None]
    found = []
    for backend in ("auto", "reference"):
        with torch.autocast("cpu"):
            results = conv_norm(x, weight, norm_weight, norm_bias, residual, padding=1, backend=backend)
        assert [t.dtype for t in results] == [F32 if of_residual == F32 else BF16, F32, F32]
        found.append([*results, *grad(results[0].float().square().sum(), learn)])
    assert_alike_in_half(*found)


@pytest.mark.gpu
@NEEDS_DEVICE
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_more_numbers_than_32_bits_can_count(order: torch.memory_format) -> None:
    samples = 2**21 + 1
    if torch.cuda.mem_get_info()[0] < 8 * samples * 2 * 32 * 32:
        pytest.skip("the device has too little free memory")
    u = torch.zeros(samples, 2, 32, 32, dtype=BF16, device="cuda").contiguous(memory_format=order)
    u[-1, 1] = 3
    one = torch.ones(2, device="cuda")
    y, mean, variance, of_channels = torch.ops.manifold_core.batch_norm_relu(u, one, one, None, 1.0, False)
    share = 1 / samples
    assert mean.tolist() == pytest.approx([0, 3 * share])
    assert variance.tolist() == pytest.approx([0, 9 * share * (1 - share)])
    assert (y[:-1] == 1).all()
    assert (y[-1, 0] == 1).all()
    assert (y[-1, 1] == 4).all()
    del y
    grads = torch.ops.manifold_core.batch_norm_relu_backward(u, u, one, one, of_channels, False)
    assert grads[1].tolist() == pytest.approx([0, 9 * 32 * 32], rel=1e-5)
    assert grads[2].tolist() == pytest.approx([0, 3 * 32 * 32])
    assert (grads[0][-1, 1] == 3).all()
