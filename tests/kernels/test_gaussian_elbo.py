import math
import re
from collections.abc import Callable
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from dtypes import BF16, DTYPES, F16, F32, F64, arithmetic
from hypothesis import example, given, settings
from hypothesis import strategies as st
from instruction_sets import ONCE
from manifold_core.kernels import gaussian_elbo
from poison import poisoned
from reconstruction import OUTPUTS, SHAPES, Case, cases, draw, relative_error
from recording import memory_of_the_kernel
from threads import assert_same_on_threads
from tolerances import assert_within, sum_rounding
from torch import Tensor
from torch.autograd import grad, gradcheck

import manifold_core as mc

ARGUMENTS = ("x_hat", "x", "log_gamma", "kl")
LOSS = frozenset({"loss"})


@settings(max_examples=120)
@given(
    cases(
        SHAPES,
        wanted=st.just(LOSS) | st.frozensets(st.sampled_from(OUTPUTS), min_size=1),
        constants=st.just(frozenset()) | st.frozensets(st.sampled_from(ARGUMENTS), max_size=3),
        grad_loss=st.sampled_from([1.0, 1.0, 3.7, -0.01, 65536.0]),
    )
)
@example(Case((1, 1), wanted=LOSS))
@example(Case((512, 784), log_gamma=-5.0, beta=0.5, wanted=LOSS))
@example(Case((512, 784), log_gamma=-5.0, beta=0.5))
@example(Case((3, 100_000), log_gamma=60.0, log_gamma_type=F64, wanted=LOSS, grad_loss=3.7))
@example(Case((5, 40), (F64, F64), log_gamma=-1.0, log_gamma_type=F64, beta=0.5, wanted=LOSS, grad_loss=3.7))
@example(Case((5, 40), (BF16, BF16), log_gamma=-1.0, beta=0.5, wanted=LOSS, grad_loss=65536.0))
@example(Case((5, 40), (F16, F16), log_gamma=-20.0, beta=0.5, wanted=LOSS))
def test_every_backend_is_the_definition_in_float64(backend: str, case: Case) -> None:
    inputs, incoming = draw(case)
    learn = oracles.learned(inputs)
    arguments = [*inputs.values(), *(g for g in incoming if g is not None)]
    before = [t.clone() for t in arguments]

    def run() -> tuple[Tensor, ...]:
        outputs = gaussian_elbo(*inputs.values(), beta=case.beta, backend=backend)
        return *outputs, *oracles.gradients(outputs, incoming, learn)

    results, wide = poisoned(run), arithmetic(*case.dtypes)
    assert [t.dtype for t in results] == [wide, wide, wide, *(t.dtype for t in learn)]
    relative, over_rows = relative_error(case, backend), sum_rounding(case.shape[0], wide)
    expected = oracles.of_gaussian(inputs, case.beta, incoming, relative, over_rows)
    for (name, (exact, bound)), found in zip(expected.items(), results, strict=True):
        if name == "grad_x" and case.dtypes[0] != case.dtypes[1] and backend != "reference":
            continue  # see test_gaussian_nll
        if name.startswith("grad") and found.dtype == F32 != wide:
            # A gradient written before its factor is known is rounded to its own type, and so are factor and product.
            bound = bound + 2.0**-23 * exact.abs()
        assert_within(name, found, exact, bound, torch.promote_types(wide, found.dtype))
    assert all(map(torch.equal, before, arguments))


def make(dtype: torch.dtype, rows: int = 5, cols: int = 7, seed: int = 1) -> list[Tensor]:
    """x_hat, x, log_gamma and kl, which all need gradients."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.promote_types(dtype, torch.float32)
    return [
        torch.randn(rows, cols, generator=generator).to(dtype).requires_grad_(),
        torch.randn(rows, cols, generator=generator).to(dtype).requires_grad_(),
        torch.tensor(-0.4, requires_grad=True),
        torch.rand(rows, generator=generator).to(wide).requires_grad_(),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_nll_is_that_of_gaussian_nll(backend: str, dtype: torch.dtype) -> None:
    x_hat, x, log_gamma, kl = make(dtype, 50, 600)
    loss, nll, squared_error = gaussian_elbo(x_hat, x, log_gamma, kl, beta=0.25, backend=backend)
    same_nll, same_squared_error = mc.gaussian_nll(x_hat, x, log_gamma, return_squared_error=True, backend=backend)
    assert torch.equal(nll, same_nll)
    assert torch.equal(squared_error, same_squared_error)
    exact = (nll.double() + 0.25 * kl.double()).mean().item()
    assert loss.item() == pytest.approx(exact, rel=1e-13 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("beta", [0, 1, 0.5, -2.0])
def test_beta(backend: str, beta: float) -> None:
    x_hat, x, log_gamma, kl = make(torch.float64)
    loss, nll, _ = gaussian_elbo(x_hat, x, log_gamma, kl, beta=beta, backend=backend)
    assert loss.item() == pytest.approx((nll + beta * kl).mean().item(), rel=1e-14)
    (grad_kl,) = grad(loss, kl)
    torch.testing.assert_close(grad_kl, torch.full((5,), beta / 5, dtype=torch.float64), rtol=1e-14, atol=0)
    default, _, _ = gaussian_elbo(x_hat, x, log_gamma, kl, backend=backend)
    assert default.item() == pytest.approx((nll + kl).mean().item(), rel=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_linear_in_the_incoming_one(backend: str, dtype: torch.dtype) -> None:
    # An incoming gradient of exactly 1 takes a way of its own.
    def gradients(use: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Tensor]:
        arguments = make(dtype)
        use(*gaussian_elbo(*arguments, beta=0.5, backend=backend)).backward()
        return [argument.grad for argument in arguments]

    alone = gradients(lambda loss, nll, squared_error: loss)
    # A roundoff of each way, of the type the gradient is in. A power of two rounds nothing.
    rounding = 4 * torch.finfo(dtype).eps
    for factor in (3.0, -1.0, 4.0, 0.5, 1.0 + 2.0**-20):
        for a, b in zip(gradients(lambda loss, nll, squared_error: factor * loss), alone, strict=True):  # noqa: B023
            torch.testing.assert_close(a, factor * b, rtol=0 if factor in (-1, 4, 0.5) else rounding, atol=0)
    # Through nll, too: the same gradient, taken apart.
    for a, b in zip(gradients(lambda loss, nll, squared_error: loss + 0 * nll.sum()), alone, strict=True):
        torch.testing.assert_close(a, b, rtol=rounding, atol=rounding * 1e-3)
    for a, b in zip(gradients(lambda loss, nll, squared_error: loss + 2 * nll.mean()), alone, strict=True):
        if a.shape == (5,):  # that of kl knows nothing of nll
            torch.testing.assert_close(a, b, rtol=rounding, atol=0)
        else:
            torch.testing.assert_close(a, 3 * b, rtol=rounding, atol=rounding * 1e-3)


@ONCE
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("with_x_hat", [False, True])
def test_gradcheck(backend: str, wanted: tuple[int, ...], with_x_hat: bool) -> None:
    x_hat, x, log_gamma, kl = make(torch.float64)
    x_hat, log_gamma = x_hat.detach().requires_grad_(with_x_hat), log_gamma.detach().double().requires_grad_()

    def function(*arguments: Tensor) -> tuple[Tensor, ...]:
        outputs = gaussian_elbo(*arguments, beta=0.7, backend=backend)
        return tuple(outputs[i] for i in wanted)

    assert gradcheck(function, (x_hat, x, log_gamma, kl))


@ONCE
def test_gradient_of_some_arguments(backend: str) -> None:
    values = [v.detach() for v in make(torch.float32)]
    every = [v.clone().requires_grad_() for v in values]
    gradients_of_all = grad(gaussian_elbo(*every, backend=backend)[0], every)
    for chosen in range(1, 16):
        arguments = [v.clone().requires_grad_(bool(chosen >> i & 1)) for i, v in enumerate(values)]
        wanted = [a for a in arguments if a.requires_grad]
        expected = [g for i, g in enumerate(gradients_of_all) if chosen >> i & 1]
        for a, b in zip(grad(gaussian_elbo(*arguments, backend=backend)[0], wanted), expected, strict=True):
            # Without a gradient of x_hat the others come by another way: a few roundoffs of float32.
            torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
    assert not gaussian_elbo(*values, backend=backend)[0].requires_grad
    with torch.no_grad():
        assert not gaussian_elbo(*every, backend=backend)[0].requires_grad


@ONCE
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_second_backward_pass_gives_the_same(backend: str, dtype: torch.dtype) -> None:
    arguments = make(dtype)
    loss, _, _ = gaussian_elbo(*arguments, backend=backend)
    kept = [g.clone() for g in grad(loss, arguments, retain_graph=True)]
    loss.backward(retain_graph=True)
    loss.backward(retain_graph=True)
    (3 * loss).backward()
    for argument, k in zip(arguments, kept, strict=True):
        # Rounded once for each addition.
        torch.testing.assert_close(argument.grad, 5 * k, rtol=3 * torch.finfo(argument.dtype).eps, atol=0)


@ONCE
def test_gradients_may_be_written_to(backend: str) -> None:
    # Nothing that is kept for the backward pass may be handed out: clipping in place would change the next one.
    arguments = make(torch.float32)
    loss, _, _ = gaussian_elbo(*arguments, backend=backend)
    first = grad(loss, arguments, retain_graph=True)
    kept = [g.clone() for g in first]
    for g in first[:3]:
        g.zero_()
    for a, b in zip(grad(loss, arguments), kept, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("incoming_needs_gradient", [False, True])
def test_a_second_derivative_is_refused(cpu: str, incoming_needs_gradient: bool) -> None:
    x_hat, *others = make(torch.float32)
    loss, _, _ = gaussian_elbo(x_hat, *others, backend=cpu)
    loss = loss.square() if incoming_needs_gradient else loss
    with pytest.raises(RuntimeError, match=r"once_differentiable|differentiable once|twice"):
        # A penalty on the gradient. Without an error its share would be missing from the sum, and no one would know.
        (loss + grad(loss, x_hat, create_graph=True)[0].square().sum()).backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_do_not_depend_on_the_number_of_threads(cpu: str, dtype: torch.dtype) -> None:
    def results(*arguments: Tensor) -> list[Tensor]:
        outputs = gaussian_elbo(*arguments, beta=0.3, backend=cpu)
        early = grad(outputs[0], arguments, retain_graph=True)
        return [*outputs, *early, *grad(outputs[0] * 3 + outputs[1].mean(), arguments)]

    for shape in ((3001, 37), (70, 1025), (100_003, 1)):
        assert_same_on_threads((1, 2, 3), results, *make(dtype, *shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 7), (0, 0)])
def test_an_empty_batch(backend: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    arguments = make(dtype, *shape)
    loss, nll, squared_error = gaussian_elbo(*arguments, backend=backend)
    assert loss.isnan()  # as of a mean
    assert nll.shape == squared_error.shape == (0,)
    grad_x_hat, grad_x, grad_log_gamma, grad_kl = grad(loss, arguments)
    assert grad_x_hat.shape == grad_x.shape == shape
    assert grad_kl.shape == (0,)
    assert grad_log_gamma == 0  # a sum over no rows, as autograd has it


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_features(backend: str, dtype: torch.dtype) -> None:
    arguments = make(dtype, 5, 0)
    loss, nll, squared_error = gaussian_elbo(*arguments, backend=backend)
    assert loss.item() == pytest.approx(arguments[3].mean().item(), rel=1e-6)
    assert torch.equal(nll, torch.zeros_like(nll))
    assert torch.equal(squared_error, torch.zeros_like(nll))
    grad_x_hat, grad_x, grad_log_gamma, grad_kl = grad(loss, arguments)
    assert grad_x_hat.shape == grad_x.shape == (5, 0)
    assert grad_log_gamma == 0
    torch.testing.assert_close(grad_kl, torch.full_like(grad_kl, 0.2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_tiny_variance_does_not_overflow(backend: str, dtype: torch.dtype) -> None:
    value = math.log(1e-30)
    x_hat, x = torch.ones(3, 4, dtype=dtype, requires_grad=True), torch.zeros(3, 4, dtype=dtype)
    x_hat_with_no_error = torch.zeros(3, 4, dtype=dtype, requires_grad=True)
    kl = torch.ones(3, dtype=torch.promote_types(dtype, torch.float32))
    loss, _, _ = gaussian_elbo(x_hat, x, value, kl, backend=backend)
    assert loss.item() == pytest.approx(2e30, rel=1e-5)  # a log_gamma in float32 is exact to 69 * 2^-24
    (g,) = grad(loss, x_hat)
    rounding = 2.0**-8 if dtype == torch.bfloat16 else 0
    torch.testing.assert_close(g.double(), torch.full((3, 4), 1e30 / 3).double(), rtol=1e-5 + rounding, atol=0)
    loss, _, _ = gaussian_elbo(x_hat_with_no_error, x, value, kl, backend=backend)
    assert loss.item() == pytest.approx(2 * (math.log(2 * math.pi) + value) + 1, rel=1e-5)
    assert (grad(loss, x_hat_with_no_error)[0] == 0).all()


@pytest.mark.parametrize("cols", [5, 600])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_reaches_the_loss_and_its_row_alone(backend: str, dtype: torch.dtype, cols: int) -> None:
    for argument in (0, 1):
        values = [v.detach() for v in make(dtype, 6, cols)]
        values[argument][2, cols - 1] = torch.nan
        arguments = [v.requires_grad_() for v in values]
        loss, nll, squared_error = gaussian_elbo(*arguments, backend=backend)
        here = torch.zeros(6, cols, dtype=torch.bool)
        here[2, cols - 1] = True
        assert loss.isnan()
        assert torch.equal(nll.isnan(), here.any(dim=1))
        assert torch.equal(squared_error.isnan(), here.any(dim=1))
        grad_x_hat, grad_x, grad_log_gamma, grad_kl = grad(loss, arguments)
        assert torch.equal(grad_x_hat.isnan(), here)
        assert torch.equal(grad_x.isnan(), here)
        assert grad_log_gamma.isnan()
        assert not grad_kl.isnan().any()
    values = make(dtype, 6, cols)
    values[3] = torch.full_like(values[3], torch.nan)
    loss, nll, _ = gaussian_elbo(*values, backend=backend)
    assert loss.isnan()
    assert not nll.isnan().any()
    loss, nll, squared_error = gaussian_elbo(*values[:2], torch.tensor(torch.nan), torch.zeros(6), backend=backend)
    assert loss.isnan()
    assert nll.isnan().all()
    assert not squared_error.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_give_the_same_as_rows(backend: str, dtype: torch.dtype) -> None:
    x_hat, x, log_gamma, kl = make(dtype, 4, 3 * 8 * 6)
    loss, nll, _ = gaussian_elbo(x_hat, x, log_gamma, kl, backend=backend)
    expected = grad(loss, (x_hat, x, log_gamma))
    relative = 1e-13 if dtype == torch.float64 else 1e-6  # the order of a sum may be another: that much rounding
    formats = (torch.contiguous_format, torch.channels_last)
    for first in formats:
        for second in formats:
            images = [v.detach().reshape(4, 3, 8, 6).to(memory_format=f) for v, f in ((x_hat, first), (x, second))]
            images = [image.requires_grad_() for image in images]
            same_loss, same_nll, _ = gaussian_elbo(*images, log_gamma, kl, backend=backend)
            torch.testing.assert_close(same_nll, nll, rtol=relative, atol=0)
            torch.testing.assert_close(same_loss, loss, rtol=relative, atol=0)
            *found, grad_log_gamma = grad(same_loss, (*images, log_gamma))
            for a, b in zip(found, expected, strict=False):
                assert torch.equal(a.flatten(1), b)
            torch.testing.assert_close(grad_log_gamma, expected[2], rtol=1e-5, atol=0)


@ONCE
def test_log_gamma_in_every_form(backend: str) -> None:
    x_hat, x, _, kl = make(torch.float64)
    expected, _, _ = gaussian_elbo(x_hat, x, 0.5, kl, backend=backend)
    exact = (7 - (x_hat - x).square().sum(dim=1).mean() * math.exp(-0.5)).item() / 2
    for shape in ((), (1,), (1, 1)):
        for dtype in DTYPES:
            log_gamma = torch.full(shape, 0.5, dtype=dtype, requires_grad=True)
            for factor in (1.0, 2.0):
                loss, _, _ = gaussian_elbo(x_hat, x, log_gamma, kl, backend=backend)
                assert torch.equal(loss, expected)
                (g,) = grad(factor * loss, log_gamma)
                assert (g.shape, g.dtype) == (shape, dtype)
                relative = {8: 1e-12, 4: 1e-6, 2: 2.0**-8}[dtype.itemsize]
                assert g.item() == pytest.approx(factor * exact, rel=relative)


@ONCE
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kl_dtype", DTYPES)
def test_kl_of_any_type(backend: str, dtype: torch.dtype, kl_dtype: torch.dtype) -> None:
    x_hat, x, log_gamma, kl = make(dtype)
    kl = kl.detach().to(kl_dtype).requires_grad_()
    loss, nll, _ = gaussian_elbo(x_hat, x, log_gamma, kl, backend=backend)
    # beta kl is worth as many digits as kl has.
    relative = torch.finfo(kl_dtype).eps + (1e-13 if dtype == torch.float64 else 1e-6)
    assert loss.item() == pytest.approx((nll.double() + kl.double()).mean().item(), rel=relative)
    (g,) = grad(loss, kl)
    assert g.dtype == kl_dtype
    tolerance = max(torch.finfo(t).eps for t in (kl_dtype, loss.dtype))
    torch.testing.assert_close(g.double(), torch.full((5,), 0.2, dtype=torch.float64), rtol=tolerance, atol=0)


def test_the_loss_is_of_the_same_type_on_every_backend(cpu: str) -> None:
    for dtype in DTYPES:
        x_hat, x, log_gamma, kl = make(dtype)
        for kl_dtype in DTYPES:
            found, expected = (
                gaussian_elbo(x_hat, x, log_gamma, kl.to(kl_dtype), backend=name)[0].dtype
                for name in (cpu, "reference")
            )
            assert found == expected, (dtype, kl_dtype)


def test_autocast_changes_nothing(backend: str) -> None:
    for dtype in DTYPES:
        arguments = make(dtype)

        def run(arguments: list[Tensor] = arguments) -> list[Tensor]:
            outputs = gaussian_elbo(*arguments, beta=0.5, backend=backend)
            return [*outputs, *grad(outputs[0], arguments)]

        outside = run()
        with torch.autocast("cpu", torch.bfloat16):
            inside = run()
        for a, b in zip(inside, outside, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


def test_a_whole_vae_under_autocast(backend: str) -> None:
    # Layers in bfloat16 around ops that accumulate in float32: what the layers do not round stays exact.
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(64, 10, generator=generator)
    encoder = (torch.randn(8, 10, generator=generator) / 3).requires_grad_()
    decoder = (torch.randn(10, 4, generator=generator) / 2).requires_grad_()
    log_gamma = torch.tensor(-0.5, requires_grad=True)

    def loss(x: Tensor, encoder: Tensor, decoder: Tensor, log_gamma: Tensor) -> tuple[Tensor, Tensor]:
        z, kl = mc.rsample_kl(*(x @ encoder.T).chunk(2, dim=1), seed=3, backend=backend)
        return gaussian_elbo(z @ decoder.T, x, log_gamma, kl, backend=backend)[0], z

    with torch.autocast("cpu", torch.bfloat16):
        found, z = loss(x, encoder, decoder, log_gamma)
    assert z.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    exact, _ = loss(x, encoder, decoder, log_gamma)
    # bfloat16 rounds by 2^-9 in each of the three places; nothing here makes that grow.
    assert found.item() == pytest.approx(exact.item(), rel=2.0**-7)
    parameters = (encoder, decoder, log_gamma)
    for a, b in zip(grad(found, parameters), grad(exact, parameters), strict=True):
        assert (a - b).norm() <= 2.0**-5 * b.norm()


def test_memory_for_gradients_is_taken_only_where_they_are_wanted(compiled: ModuleType) -> None:
    x_hat, x, log_gamma, kl = make(torch.float32, 30, 20)

    def used(x_hat: Tensor) -> int:
        return memory_of_the_kernel(lambda: gaussian_elbo(x_hat, x, log_gamma, kl, backend="cpu"))

    numbers = 2 * 30 * 4 + 3 * 4  # nll and squared error; loss and the gradients of log_gamma and kl
    assert used(x_hat) == numbers + x_hat.nbytes
    assert used(x_hat.T.contiguous().T) == numbers + x_hat.nbytes
    assert used(x_hat.detach()) == numbers
    with torch.no_grad():
        assert used(x_hat) == numbers


X = torch.zeros(2, 3)
KL = torch.zeros(2)


@pytest.mark.parametrize("backend_name", ["auto", "reference"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (X, X, 0.0, torch.zeros(3)),
            ValueError,
            "kl must have shape (2,), one number per sample, on cpu, got (3,) on cpu",
        ),
        (
            (X, X, 0.0, torch.zeros(())),
            ValueError,
            "kl must have shape (2,), one number per sample, on cpu, got () on cpu",
        ),
        (
            (X, X, 0.0, torch.zeros(2, 4)),
            ValueError,
            "kl must have shape (2,), one number per sample, on cpu, got (2, 4)",
        ),
        (
            (X, X, 0.0, KL.to("meta")),
            ValueError,
            "kl must have shape (2,), one number per sample, on cpu, got (2,) on meta",
        ),
        ((X, X, 0.0, KL.long()), TypeError, "kl must be of a floating-point dtype, got torch.int64"),
        ((X, X, 0.0, 1.0), TypeError, "kl must be a tensor, got float"),
        ((X, torch.zeros(2, 4), 0.0, KL), ValueError, "x_hat and x must have the same shape, got (2, 3) and (2, 4)"),
        ((X, X.to("meta"), 0.0, KL), ValueError, "x_hat and x must be on the same device, got cpu and meta"),
        ((X.long(), X, 0.0, KL), TypeError, "x_hat must be of a floating-point dtype, got torch.int64"),
        ((X, X.tolist(), 0.0, KL), TypeError, "x must be a tensor, got list"),
        ((KL, KL, 0.0, KL), ValueError, "x_hat must have shape [B, ...] with a feature dimension, got (2,)"),
        ((X, X, torch.zeros(2), KL), ValueError, "log_gamma must be one number, got shape (2,)"),
        ((X, X, torch.tensor(1), KL), TypeError, "log_gamma must be of a floating-point dtype, got torch.int64"),
        ((X, X, KL[0].to("meta"), KL), ValueError, "log_gamma must be on the device of x_hat, cpu, got meta"),
    ],
)
def test_bad_arguments_are_refused(
    backend_name: str, arguments: tuple[object, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        gaussian_elbo(*arguments, backend=backend_name)


@pytest.mark.parametrize("backend_name", ["auto", "reference"])
@pytest.mark.parametrize(
    ("beta", "error", "message"),
    [
        (None, TypeError, "beta must be a real number, got None"),
        ("1", TypeError, "beta must be a real number, got '1'"),
        # Its gradient would be dropped silently.
        (torch.tensor(0.5, requires_grad=True), TypeError, "beta must be a real number, got tensor(0.5"),
        pytest.param(10**400, ValueError, "beta must be a number that a float can hold, got 1000", id="huge"),
    ],
)
def test_a_beta_that_is_no_number_is_refused(
    backend_name: str, beta: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        gaussian_elbo(X, X, 0.0, KL, beta=beta, backend=backend_name)
    for half in (np.float32(0.5), Fraction(1, 2)):
        loss, _, _ = gaussian_elbo(X, X, 0.0, KL, beta=half, backend=backend_name)  # type: ignore[arg-type]
        assert torch.equal(loss, gaussian_elbo(X, X, 0.0, KL, beta=0.5, backend=backend_name)[0])


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("rows", [3, 5, 7, 11, 100])
def test_gradients_at_once_and_later_are_the_same_bit_for_bit(rows: int) -> None:
    """1/B rounds, and so does its product with 1/γ: in the same order."""
    generator = torch.Generator().manual_seed(rows)
    x_hat, x = (torch.rand(rows, 9, generator=generator) for _ in range(2))
    x_hat.requires_grad_()
    for step in range(50):
        log_gamma = torch.tensor(-0.4 + 0.037 * step, requires_grad=True)
        loss, _, _ = gaussian_elbo(x_hat, x, log_gamma, torch.zeros(rows), backend="cpu")
        first = grad(loss, (x_hat, log_gamma), retain_graph=True)
        for a, b in zip(grad(loss, (x_hat, log_gamma)), first, strict=True):
            assert torch.equal(a, b), step
