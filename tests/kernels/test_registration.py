"""The operators as torch knows them: torch's own checks, and results on tensors without numbers."""

from collections.abc import Callable, Iterator

import pytest
import torch
from dtypes import DTYPES
from fakes import assert_fake_results_are_like_real_ones
from interpreter import IN_THE_INTERPRETER
from manifold_core.kernels import gaussian_elbo
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import grad
from torch.library import opcheck

import manifold_core as mc

pytestmark = pytest.mark.usefixtures("compiled")

OPERATORS = (
    "rsample_kl",
    "rsample_kl_backward",
    "rsample_kl_cholesky",
    "rsample_kl_cholesky_backward",
    "gaussian_nll",
    "gaussian_nll_backward",
    "gaussian_elbo",
)
# Those with kernels for the CPU alone, in its two types.
OF_IMAGES = ("conv_norm", "conv_norm_backward", "conv_transpose", "conv_transpose_backward")
# That with a kernel for the CPU alone, in float32.
OF_SEQUENCES = ("lstm", "lstm_backward")
# That with kernels for CUDA devices alone: test_batch_norm_relu.py.
ON_DEVICES = ("batch_norm_relu", "batch_norm_relu_backward")


def matrices(dtype: torch.dtype, requires_grad: bool, layout: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    heads = torch.randn(4, 10, generator=generator).to(dtype)
    if layout == "heads":
        a, b = heads.chunk(2, dim=1)
    else:
        a, b = heads[:, :5].contiguous(), heads.t()[:5].contiguous().t()
    return a.detach().requires_grad_(requires_grad), b.detach().requires_grad_(requires_grad)


def triangles(like: Tensor, layout: str) -> Tensor:
    """Packed rows of a triangle for each row of a matrix of five columns."""
    numbers = torch.randn(4, 30, generator=torch.Generator().manual_seed(2)).to(like.dtype)
    tril = numbers[:, 15:] if layout == "heads" else numbers.t()[:15].contiguous().t()
    return tril.detach().requires_grad_(like.requires_grad)


def arguments_of(name: str, dtype: torch.dtype, requires_grad: bool, layout: str) -> Iterator[tuple[object, ...]]:
    """Calls of the operator that between them cover its flags and its optional arguments."""
    a, b = matrices(dtype, requires_grad, layout)
    wide = torch.promote_types(dtype, torch.float32)
    seed, log_gamma = torch.tensor(2**40 + 5), torch.tensor(0.3, requires_grad=requires_grad)
    per_row = torch.linspace(0.5, 2, 4, dtype=wide)
    row = torch.linspace(-1, 1, 5, dtype=dtype).unsqueeze(0).requires_grad_(requires_grad)
    c = (b * 2).detach().requires_grad_(requires_grad)
    if name == "rsample_kl":
        for flag in (False, True):
            yield a, b, None, None, None, seed, 3, flag, not flag
            yield a, b, row, c, None, seed, 3, flag, flag
            yield a, b, None, None, row, seed, 3, flag, flag
            yield a, b, c, row, c.detach(), seed, 3, flag, flag
    elif name == "rsample_kl_backward":
        yield a * 2, per_row, a, b, None, None, None, seed, 3, False, False
        yield None, per_row.new_ones(()).expand(4), a, b, row, c, None, seed, 3, True, False
        yield None, torch.ones(4, 5, dtype=wide), a, b, None, None, row, seed, 3, False, True
        yield b * 2, None, a, b, c, row, c.detach(), seed, 3, True, True
    elif name == "rsample_kl_cholesky":
        for flag in (False, True):
            yield a, triangles(a, layout), None, None, seed, 3, flag, not flag
            yield a, triangles(a, layout), row, c, seed, 3, flag, flag
    elif name == "rsample_kl_cholesky_backward":
        tril = triangles(a, layout)
        yield a * 2, per_row, a, tril, None, None, seed, 3, False
        yield None, per_row.new_ones(()).expand(4), a, tril, row, c, seed, 3, True
        yield None, torch.ones(4, 5, dtype=wide), a, tril, c, row, seed, 3, False
        yield b * 2, None, a, tril, c, row, seed, 3, True
    elif name == "gaussian_nll":
        yield a, b, log_gamma
        yield a, b.detach().double().requires_grad_(requires_grad), log_gamma
    elif name == "gaussian_nll_backward":
        yield per_row, None, a, b, log_gamma, per_row
        yield None, per_row, a, b, log_gamma.double(), per_row
        yield per_row, per_row.new_ones(()).expand(4), a, b, log_gamma, per_row
    else:
        for with_gradients in (False, True):
            kl = per_row.clone().requires_grad_(requires_grad)
            yield a, b, log_gamma, kl, 0.5, with_gradients


def arguments_of_images(name: str, dtype: torch.dtype) -> Iterator[tuple[object, ...]]:
    requires_grad = not name.endswith("_backward")

    def images(*shape: int) -> Tensor:
        numbers = torch.linspace(-1, 2, torch.Size(shape).numel(), dtype=torch.float64).sin()
        return numbers.to(dtype).view(shape).requires_grad_(requires_grad)

    x, weight, channels = images(3, 2, 5, 4), images(6, 2, 3, 3), images(6)
    y = images(3, 6, 3, 2)
    if name == "conv_norm":
        yield x, weight, channels, channels.detach(), None, 2, 1, 1e-5, True
        yield x.detach(), weight, channels, channels.detach(), y, 2, 1, 1e-5, False
    elif name == "conv_norm_backward":
        square = channels.square()
        for flag in (True, False):
            yield y, x, weight, channels, channels.clone(), channels.clone(), square, y.sin(), 2, 1, 1e-5, flag, flag
    elif name == "conv_transpose":
        yield y, weight, images(2), 2, 1
    else:
        for flag in (True, False):
            yield images(3, 2, 5, 3), y, weight, 2, 1, flag


def arguments_of_sequences(name: str) -> Iterator[tuple[object, ...]]:
    requires_grad = name == "lstm"

    def numbers(*shape: int) -> Tensor:
        made = torch.linspace(-1, 2, torch.Size(shape).numel(), dtype=torch.float64).sin()
        return made.float().view(shape).requires_grad_(requires_grad)

    x, weights, biases = numbers(70, 3, 2), (numbers(20, 2), numbers(20, 5)), (numbers(20), numbers(20))
    if requires_grad:
        yield x, *weights, *biases, True
        yield x.detach(), *weights, *biases, True
    else:
        for flag in (True, False):
            yield numbers(70, 3, 5), x, *weights, numbers(2, 3, 25, 64), flag


@pytest.mark.parametrize("library", ["manifold_core", "manifold_core_triton"])
def test_every_operator_is_tested(library: str) -> None:
    names = {schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith(f"{library}::")}
    # The engine's work on memory that their words name: no schema could say what, and nothing differentiates them.
    engine = {"manifold_core::ensemble_steps", "manifold_core::ensemble_workspace"}
    # And what the backward pass of an ordinary call alone does, in place, on a GPU.
    in_place = {f"{library}::gaussian_elbo_scale"}
    layers = (*OF_IMAGES, *OF_SEQUENCES, *ON_DEVICES) if library == "manifold_core" else ()
    assert names - engine - in_place == {f"{library}::{name}" for name in (*OPERATORS, *layers)}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, dtype) for name in OF_IMAGES for dtype in DTYPES[:2]), *((name, torch.float32) for name in OF_SEQUENCES)],
)
def test_opcheck_of_layers(name: str, dtype: torch.dtype) -> None:
    operator = getattr(torch.ops.manifold_core, name).default
    for arguments in arguments_of_images(name, dtype) if name in OF_IMAGES else arguments_of_sequences(name):
        opcheck(operator, arguments)
        assert_fake_results_are_like_real_ones(operator, arguments)


# Fake results, which the type changes, are compared for all of them further on.
TYPES_AND_LAYOUTS = pytest.mark.parametrize(
    ("dtype", "layout"), [(torch.float32, "heads"), (torch.bfloat16, "separate")]
)


@TYPES_AND_LAYOUTS
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str, dtype: torch.dtype, layout: str) -> None:
    operator = getattr(torch.ops.manifold_core, name).default
    for arguments in arguments_of(name, dtype, False, layout):
        opcheck(operator, arguments)


@TYPES_AND_LAYOUTS
@pytest.mark.parametrize("name", [name for name in OPERATORS if not name.endswith("_backward")])
def test_opcheck_with_gradients(name: str, dtype: torch.dtype, layout: str) -> None:
    operator = getattr(torch.ops.manifold_core, name).default
    for arguments in arguments_of(name, dtype, True, layout):
        opcheck(operator, arguments)


# A call in the interpreter takes tens of milliseconds, and an opcheck makes many.
@IN_THE_INTERPRETER
@TYPES_AND_LAYOUTS
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck_of_triton(name: str, dtype: torch.dtype, layout: str) -> None:
    operator = getattr(torch.ops.manifold_core_triton, name).default
    *_, last = arguments_of(name, dtype, not name.endswith("_backward"), layout)
    opcheck(operator, last)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_fake_results_are_like_real_ones(name: str, dtype: torch.dtype) -> None:
    """Those of Triton are of the same functions; its opcheck compares some."""
    operator = getattr(torch.ops.manifold_core, name).default
    for layout in ("heads", "separate"):
        for arguments in arguments_of(name, dtype, False, layout):
            assert_fake_results_are_like_real_ones(operator, arguments, allow_non_fake_inputs=True)


def assert_the_same_on_fake_tensors(run: Callable[[], list[Tensor]]) -> None:
    with FakeTensorMode():
        fake = run()
    for a, b in zip(fake, run(), strict=True):
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


@pytest.mark.parametrize("dtype", DTYPES)
def test_rsample_kl_and_gaussian_nll_work_on_fake_tensors(dtype: torch.dtype) -> None:
    for x_dtype in DTYPES:

        def run(x_dtype: torch.dtype = x_dtype) -> list[Tensor]:
            mu = torch.zeros(4, 5, dtype=dtype, requires_grad=True)
            x = torch.zeros(4, 5, dtype=x_dtype, requires_grad=True)
            log_gamma = torch.zeros((), requires_grad=True)
            z, kl = mc.rsample_kl(mu, mu, seed=1)
            _, kls = mc.rsample_kl(mu, mu, seed=1, per_dimension=True)
            nll, squared_error = mc.gaussian_nll(z, x, log_gamma, return_squared_error=True)
            return [z, kl, kls, nll, squared_error, *grad(nll.sum() + kls.sum(), (mu, x, log_gamma))]

        assert_the_same_on_fake_tensors(run)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rsample_kl_cholesky_works_on_fake_tensors(dtype: torch.dtype) -> None:
    for other in DTYPES:

        def run(other: torch.dtype = other) -> list[Tensor]:
            mu = torch.zeros(4, 5, dtype=dtype, requires_grad=True)
            tril = torch.zeros(4, 15, dtype=other, requires_grad=True)
            prior = torch.zeros(5, dtype=dtype, requires_grad=True)
            z, kl, ratio = mc.rsample_kl_cholesky(mu, tril, mu, prior, seed=1, return_variance_ratio=True)
            _, kls = mc.rsample_kl_cholesky(mu, tril, seed=1, per_dimension=True)
            return [z, kl, ratio, kls, *grad(z.sum() + kl.sum() + kls.sum(), (mu, tril, prior))]

        assert_the_same_on_fake_tensors(run)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gaussian_elbo_works_on_fake_tensors(dtype: torch.dtype) -> None:
    for x_dtype in DTYPES:

        def run(x_dtype: torch.dtype = x_dtype) -> list[Tensor]:
            x_hat = torch.zeros(4, 5, dtype=dtype, requires_grad=True)
            x = torch.zeros(4, 5, dtype=x_dtype, requires_grad=True)
            log_gamma, kl = torch.zeros((), requires_grad=True), torch.zeros(4, requires_grad=True)
            outputs = gaussian_elbo(x_hat, x, log_gamma, kl)
            return [*outputs, *grad(outputs[0], (x_hat, x, log_gamma, kl))]

        assert_the_same_on_fake_tensors(run)
