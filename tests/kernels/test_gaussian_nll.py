import math
import re
from fractions import Fraction
from types import ModuleType

import numpy as np
import oracles
import pytest
import torch
from dtypes import BF16, DTYPES, F32, F64, arithmetic
from hypothesis import example, given, settings
from hypothesis import strategies as st
from instruction_sets import ONCE
from manifold_core.kernels.gaussian_nll import reference
from poison import poisoned
from reconstruction import DENSE, SHAPES, Case, cases, draw, relative_error
from threads import assert_same_on_threads
from tolerances import ALLOWED, assert_within, sum_rounding
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import grad, gradcheck

import manifold_core as mc

NLL, SQUARED_ERROR = frozenset({"nll"}), frozenset({"squared_error"})


@settings(max_examples=100)
@given(
    cases(
        SHAPES,
        beta=st.none(),
        log_gamma_type=st.sampled_from([None, F32, F64, BF16]),
        wanted=st.sampled_from([NLL, SQUARED_ERROR, NLL | SQUARED_ERROR]),
    )
)
@example(Case((1, 1), beta=None))
@example(Case((512, 784), log_gamma=-5.0, beta=None))
@example(
    Case((3, 100_000), layouts=("dense", "transposed", *DENSE[2:]), log_gamma=60.0, log_gamma_type=None, beta=None)
)
@example(Case((2, 100_000), (F64, F64), ("dense", "second head", *DENSE[2:]), -60.0, F64, beta=None))
@example(Case((3, 513), (BF16, F32), ("steps", *DENSE[1:]), 3.0, beta=None))
def test_every_backend_is_the_definition_in_float64(backend: str, case: Case) -> None:
    inputs, incoming = draw(case)
    if case.log_gamma_type is None:
        inputs["log_gamma"].requires_grad_(False)
    learn = oracles.learned(inputs)
    log_gamma = case.log_gamma if case.log_gamma_type is None else inputs["log_gamma"]
    arguments = [*inputs.values(), *(g for g in incoming if g is not None)]
    before = [t.clone() for t in arguments]

    def run() -> tuple[Tensor, ...]:
        outputs = mc.gaussian_nll(inputs["x_hat"], inputs["x"], log_gamma, return_squared_error=True, backend=backend)
        return *outputs, *oracles.gradients(outputs, incoming, learn)

    results, wide = poisoned(run), arithmetic(*case.dtypes)
    assert [t.dtype for t in results] == [wide, wide, *(t.dtype for t in learn)]
    relative, over_rows = relative_error(case, backend), sum_rounding(case.shape[0], wide)
    expected = oracles.of_gaussian(inputs, None, incoming, relative, over_rows)
    for (name, (exact, bound)), found in zip(expected.items(), results, strict=True):
        if name != "grad_x" or case.dtypes[0] == case.dtypes[1] or backend == "reference":  # else see below
            assert_within(name, found, exact, bound, torch.promote_types(wide, found.dtype))
    assert all(map(torch.equal, before, arguments))


@pytest.mark.parametrize("dtypes", [(a, b) for a in DTYPES for b in DTYPES if a != b])
def test_gradient_of_data_of_another_type(backend: str, dtypes: tuple[torch.dtype, ...]) -> None:
    # The gradient of x is as exact as x is: not first rounded, or made infinite, by the type of x_hat.
    generator = torch.Generator().manual_seed(24)
    x_hat, x = (torch.randn(3, 40, generator=generator).to(dtype).requires_grad_() for dtype in dtypes)
    exact = [v.detach().double().requires_grad_() for v in (x_hat, x)]
    wide = arithmetic(*dtypes)
    for log_gamma in (0.3, -15.0):
        (grad_x,) = grad(mc.gaussian_nll(x_hat, x, log_gamma, backend=backend).sum(), x)
        (exact_grad_x,) = grad(
            reference.gaussian_nll(*exact, torch.tensor(log_gamma, dtype=torch.float64))[0].sum(), exact[1]
        )
        relative = ALLOWED[wide] * (2 if backend == "reference" else 1)  # it rounds log_gamma: 15 * 2^-24 more
        assert_within("grad_x", grad_x, exact_grad_x, relative * exact_grad_x.abs(), wide)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 7), (5, 0), (0, 0), (0, 3, 2, 2)])
def test_nothing_to_do(backend: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x_hat, x = (torch.empty(shape, dtype=dtype, requires_grad=True) for _ in range(2))
    log_gamma = torch.tensor(0.5, requires_grad=True)

    def run() -> tuple[Tensor, ...]:
        nll, squared_error = mc.gaussian_nll(x_hat, x, log_gamma, return_squared_error=True, backend=backend)
        return nll, squared_error, *grad(nll.sum() + squared_error.sum(), (x_hat, x, log_gamma))

    nll, squared_error, grad_x_hat, grad_x, grad_log_gamma = poisoned(run)
    nothing = torch.zeros(shape[0], dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(nll, nothing)
    assert torch.equal(squared_error, nothing)
    assert grad_x_hat.shape == grad_x.shape == shape
    assert grad_log_gamma == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cols", [7, 63, 64, 784, 100_000])
def test_rounding_does_not_grow_with_the_number_of_features(backend: str, cols: int, dtype: torch.dtype) -> None:
    # What the worst case would allow is more; these numbers are fixed, and the contract's 1e-6 is what they get.
    x_hat, x = (torch.randn(3, cols, generator=torch.Generator().manual_seed(s)).to(dtype) for s in (1, 2))
    nll, squared_error = mc.gaussian_nll(x_hat, x, -3.0, return_squared_error=True, backend=backend)
    exact_nll, exact_squared_error = reference.gaussian_nll(x_hat.double(), x.double(), torch.tensor(-3.0).double())
    torch.testing.assert_close(squared_error.double(), exact_squared_error, rtol=1e-6, atol=0)
    torch.testing.assert_close(nll.double(), exact_nll, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_squared_error_is_returned_if_asked_for(backend: str, dtype: torch.dtype) -> None:
    x_hat, x = torch.tensor([[1.0, 2.0, -1.0]], dtype=dtype), torch.tensor([[0.5, 4.0, -1.0]], dtype=dtype)
    for log_gamma in (-60.0, -1.5, 0.0, 2.0, 60.0):
        nll, squared_error = mc.gaussian_nll(x_hat, x, log_gamma, return_squared_error=True, backend=backend)
        assert squared_error.item() == 4.25
        assert torch.equal(mc.gaussian_nll(x_hat, x, log_gamma, backend=backend), nll)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_tiny_variance_does_not_overflow(backend: str, dtype: torch.dtype, as_tensor: bool) -> None:
    value = math.log(1e-30)
    log_gamma = torch.tensor(value, requires_grad=True) if as_tensor else value
    x = torch.linspace(-1, 1, 12).reshape(3, 4).to(dtype)
    for error in (0.0, 2.0**-20, 1.0):
        x_hat = (torch.zeros(3, 4).to(dtype) + error).requires_grad_()
        nll = mc.gaussian_nll(x_hat, x * 0, log_gamma, backend=backend)
        # 4 error^2 1e30 + 4 log(2 pi 1e-30), halved; a float32 log_gamma leaves 69 * 2^-24 of relative error.
        exact = 2 * error**2 * 1e30 + 2 * (math.log(2 * math.pi) + value)
        torch.testing.assert_close(nll.double(), torch.full((3,), exact).double(), rtol=1e-5, atol=0)
        inputs = [x_hat, log_gamma] if isinstance(log_gamma, Tensor) else [x_hat]
        grad_x_hat, *grad_log_gamma = grad(nll.sum(), inputs)
        rounding = 2.0**-8 if dtype == torch.bfloat16 else 0
        expected = torch.full((3, 4), error * 1e30).double()
        torch.testing.assert_close(grad_x_hat.double(), expected, rtol=1e-5 + rounding, atol=0)
        for g in grad_log_gamma:
            assert g.item() == pytest.approx(6 - 6 * error**2 * 1e30, rel=1e-5)


@pytest.mark.parametrize("cols", [5, 600])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_in_its_row(backend: str, dtype: torch.dtype, cols: int) -> None:
    generator = torch.Generator().manual_seed(3)
    for argument in (0, 1):
        for row, col in ((0, 0), (4, cols - 1), (2, cols // 2)):
            values = [torch.randn(6, cols, generator=generator).to(dtype) for _ in range(2)]
            values[argument][row, col] = torch.nan
            x_hat, x = (v.requires_grad_() for v in values)
            log_gamma = torch.tensor(0.1, requires_grad=True)
            nll, squared_error = mc.gaussian_nll(x_hat, x, log_gamma, return_squared_error=True, backend=backend)
            *grads, grad_log_gamma = grad(nll.sum() + squared_error.sum(), (x_hat, x, log_gamma))
            here = torch.zeros(6, cols, dtype=torch.bool)
            here[row, col] = True
            assert torch.equal(nll.isnan(), here.any(dim=1))
            assert torch.equal(squared_error.isnan(), here.any(dim=1))
            assert all(torch.equal(g.isnan(), here) for g in grads)
            assert grad_log_gamma.isnan()


def test_a_gamma_that_float32_cannot_divide_by(cpu: str) -> None:
    """1 / gamma = 1.8e41 is no float32; what comes of it is, where errors and incoming gradients are small."""
    x_hat = torch.full((2, 3), 1e-10, requires_grad=True)
    nll = mc.gaussian_nll(x_hat, torch.zeros(2, 3), -95.0, backend=cpu)
    (found,) = grad(nll, x_hat, torch.full((2,), 1e-6))
    expected = 1e-6 * math.exp(95) * x_hat.detach().double()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


def test_nan_variance_and_nan_gradients(backend: str) -> None:
    x_hat, x = torch.ones(6, 5, requires_grad=True), torch.zeros(6, 5, requires_grad=True)
    nan = torch.tensor(torch.nan, requires_grad=True)
    nll, squared_error = mc.gaussian_nll(x_hat, x, nan, return_squared_error=True, backend=backend)
    assert nll.isnan().all()
    assert (squared_error == 5).all()
    assert all(g.isnan().all() for g in grad(nll.sum(), (x_hat, x, nan)))
    nll = mc.gaussian_nll(x_hat, x, 0.0, backend=backend)
    incoming = torch.ones(6)
    incoming[3] = torch.nan
    (g,) = grad(nll, x_hat, incoming)
    assert torch.equal(g.isnan().any(dim=1), incoming.isnan())
    assert torch.equal(g.isnan().all(dim=1), incoming.isnan())


def test_infinite_error(backend: str) -> None:
    x_hat, x = torch.zeros(3, 4), torch.zeros(3, 4)
    x_hat[1, 2] = torch.inf
    nll, squared_error = mc.gaussian_nll(x_hat, x, 0.0, return_squared_error=True, backend=backend)
    assert torch.equal(squared_error, torch.tensor([0, torch.inf, 0]))
    assert torch.equal(nll.isinf(), torch.tensor([False, True, False]))


@ONCE
@pytest.mark.parametrize("squared_error_too", [False, True])
def test_gradcheck(backend: str, squared_error_too: bool) -> None:
    generator = torch.Generator().manual_seed(7)
    x_hat, x = (torch.randn(4, 6, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2))
    log_gamma = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)

    def function(*arguments: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return mc.gaussian_nll(*arguments, return_squared_error=squared_error_too, backend=backend)

    assert gradcheck(function, (x_hat, x, log_gamma))
    assert gradcheck(lambda a, b: function(a.reshape(4, 3, 2), b.reshape(4, 3, 2), log_gamma.detach()), (x_hat, x))


@ONCE
def test_without_log_gamma_it_is_the_optimum_of_the_batch(backend: str) -> None:
    generator = torch.Generator().manual_seed(9)
    x_hat, x = (torch.randn(5, 2, 3, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2))
    nll, squared_error = mc.gaussian_nll(x_hat, x, None, return_squared_error=True, backend=backend)
    gamma = (x - x_hat).square().mean().item()
    by_hand = torch.distributions.Normal(x_hat, math.sqrt(gamma)).log_prob(x).sum(dim=(1, 2))
    torch.testing.assert_close(nll, -by_hand, rtol=1e-12, atol=0)
    torch.testing.assert_close(squared_error, (x - x_hat).square().sum(dim=(1, 2)), rtol=1e-12, atol=0)
    for step in (-0.01, 0.01):
        assert mc.gaussian_nll(x_hat, x, math.log(gamma) + step, backend=backend).sum() > nll.sum()
    # Through γ as well: each sample's nll depends on every other's.
    assert gradcheck(lambda a, b: mc.gaussian_nll(a, b, None, backend=backend), (x_hat, x))


@ONCE
def test_gradient_of_one_argument_alone(backend: str) -> None:
    generator = torch.Generator().manual_seed(8)
    values = [torch.randn(4, 6, generator=generator), torch.randn(4, 6, generator=generator), torch.tensor(0.3)]
    every = [v.clone().requires_grad_() for v in values]
    gradients_of_all = grad(mc.gaussian_nll(*every, backend=backend).square().sum(), every)
    for i in range(3):
        arguments = [v.clone().requires_grad_(i == j) for j, v in enumerate(values)]
        (g,) = grad(mc.gaussian_nll(*arguments, backend=backend).square().sum(), arguments[i])
        assert torch.equal(g, gradients_of_all[i])
    assert not mc.gaussian_nll(*values, backend=backend).requires_grad
    with torch.no_grad():
        assert not mc.gaussian_nll(*every, backend=backend).requires_grad


@ONCE
def test_a_second_backward_pass_gives_the_same(backend: str) -> None:
    generator = torch.Generator().manual_seed(9)
    arguments = [torch.randn(4, 6, generator=generator, requires_grad=True) for _ in range(2)]
    arguments.append(torch.tensor(0.3, requires_grad=True))
    loss = mc.gaussian_nll(*arguments, backend=backend).mean()
    first = grad(loss, arguments, retain_graph=True)
    kept = [g.clone() for g in first]
    for g in first:
        g.zero_()  # they are the caller's
    loss.backward(retain_graph=True)
    loss.backward()
    assert all(torch.equal(a.grad, 2 * k) for a, k in zip(arguments, kept, strict=True))


@pytest.mark.parametrize("incoming_needs_gradient", [False, True])
def test_a_second_derivative_is_refused(cpu: str, incoming_needs_gradient: bool) -> None:
    x_hat = torch.randn(5, 6, generator=torch.Generator().manual_seed(14), requires_grad=True)
    nll = mc.gaussian_nll(x_hat, torch.zeros(5, 6), 0.0, backend=cpu)
    loss = (nll.square() if incoming_needs_gradient else nll).sum()
    with pytest.raises(RuntimeError, match=r"once_differentiable|differentiable once|twice"):
        # A penalty on the gradient. Without an error its share would be missing from the sum, and no one would know.
        (loss + grad(loss, x_hat, create_graph=True)[0].square().sum()).backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_do_not_depend_on_the_number_of_threads(cpu: str, dtype: torch.dtype) -> None:
    def results(incoming: Tensor, *inputs: Tensor) -> list[Tensor]:
        nll, squared_error = mc.gaussian_nll(*inputs, return_squared_error=True, backend=cpu)
        return [nll, squared_error, *grad(nll, inputs, incoming)]

    for shape in ((3001, 37), (70, 1025), (100_003, 1)):
        generator = torch.Generator().manual_seed(16)
        x_hat, x = (torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(2))
        log_gamma = torch.tensor(0.3, requires_grad=True)
        incoming = torch.randn(shape[0], generator=generator, dtype=torch.promote_types(dtype, torch.float32))
        assert_same_on_threads((1, 2, 3), results, incoming, x_hat, x, log_gamma)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_give_the_same_as_rows(backend: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(20)
    x_hat, x = (torch.randn(4, 3, 8, 6, generator=generator).to(dtype) for _ in range(2))
    incoming = torch.randn(4, generator=generator, dtype=torch.promote_types(dtype, torch.float32))
    log_gamma = torch.tensor(-0.5)
    rows = [v.flatten(1).requires_grad_() for v in (x_hat, x)]
    nll = mc.gaussian_nll(*rows, log_gamma, backend=backend)
    expected = grad(nll, rows, incoming)
    views = {
        "as it is": lambda v: v.clone(),
        "channels last": lambda v: v.to(memory_format=torch.channels_last),
        "crop": lambda v: torch.nn.functional.pad(v, (1, 2, 3, 4), value=math.nan)[:, :, 3:-4, 1:-2],
        "upside down": lambda v: v.mT.contiguous().mT,
    }
    for first in views:
        for second in views:
            images = [views[first](x_hat).requires_grad_(), views[second](x).requires_grad_()]
            found = mc.gaussian_nll(*images, log_gamma, backend=backend)
            # The order of the sum may be another: that much rounding.
            relative = 1e-13 if dtype == torch.float64 else 1e-6
            torch.testing.assert_close(found, nll, rtol=relative, atol=0, msg=f"{first}, {second}")
            for a, b in zip(grad(found, images, incoming), expected, strict=True):
                assert torch.equal(a.flatten(1), b), (first, second)


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 1, 1, 1), (2, 3, 4, 5, 6), (1, 3, 4, 4)])
def test_any_number_of_feature_dimensions(backend: str, shape: tuple[int, ...]) -> None:
    x_hat, x = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    expected = mc.gaussian_nll(x_hat.flatten(1), x.flatten(1), 0.2, backend=backend)
    torch.testing.assert_close(mc.gaussian_nll(x_hat, x, 0.2, backend=backend), expected, rtol=1e-13, atol=0)
    same = mc.gaussian_nll(x_hat.transpose(1, -1), x.transpose(1, -1), 0.2, backend=backend)
    torch.testing.assert_close(same, expected, rtol=1e-13, atol=0)
    expanded = x_hat[:, :1].expand(shape)
    expected = mc.gaussian_nll(expanded.flatten(1), expanded.flatten(1) * 0, 0.2, backend=backend)
    found = mc.gaussian_nll(expanded, (x_hat[:, :1] * 0).expand(shape), 0.2, backend=backend)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


@ONCE
def test_log_gamma_in_every_form(backend: str) -> None:
    generator = torch.Generator().manual_seed(21)
    x_hat, x = (torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = mc.gaussian_nll(x_hat, x, 0.5, backend=backend)
    for shape in ((), (1,), (1, 1)):
        for dtype in DTYPES:
            log_gamma = torch.full(shape, 0.5, dtype=dtype, requires_grad=True)
            nll = mc.gaussian_nll(x_hat, x, log_gamma, backend=backend)
            assert torch.equal(nll, expected)
            (g,) = grad(nll.sum(), log_gamma)
            assert (g.shape, g.dtype) == (shape, dtype)
            exact = (15 - (x_hat - x).square().sum() * math.exp(-0.5) / 2).item()
            assert g.item() == pytest.approx(exact, rel={8: 1e-12, 4: 1e-6, 2: 2.0**-8}[dtype.itemsize])
    assert torch.equal(mc.gaussian_nll(x_hat, x, 1, backend=backend), mc.gaussian_nll(x_hat, x, 1.0, backend=backend))
    steps = torch.tensor([9.0, 0.5, 9.0])[1]
    assert torch.equal(mc.gaussian_nll(x_hat, x, steps, backend=backend), expected)


def test_a_float_is_not_rounded_to_float32(cpu: str) -> None:
    # log_gamma is one number, exact in double; as float32 it would be off by 2e-6, and nll by a part in 5e5.
    x_hat, x = torch.full((2, 3), 1e3), torch.zeros(2, 3)
    exact = 1.5 * (1e6 * math.exp(50.1) + math.log(2 * math.pi) - 50.1)
    for log_gamma in (-50.1, torch.tensor(-50.1, dtype=torch.float64)):
        nll = mc.gaussian_nll(x_hat, x, log_gamma, backend=cpu)
        assert nll[0].item() == pytest.approx(exact, rel=2e-7)


def test_autocast_changes_nothing(backend: str) -> None:
    generator = torch.Generator().manual_seed(22)
    for dtypes in [(a, b) for a in DTYPES for b in DTYPES]:
        x_hat, x = (torch.randn(5, 6, generator=generator).to(dtype).requires_grad_() for dtype in dtypes)
        log_gamma = torch.tensor(0.3, requires_grad=True)

        def run(x_hat: Tensor = x_hat, x: Tensor = x, log_gamma: Tensor = log_gamma) -> list[Tensor]:
            nll, squared_error = mc.gaussian_nll(x_hat, x, log_gamma, return_squared_error=True, backend=backend)
            return [nll, squared_error, *grad(nll.sum() + squared_error.sum(), (x_hat, x, log_gamma))]

        outside = run()
        with torch.autocast("cpu", torch.bfloat16):
            inside = run()
        for a, b in zip(inside, outside, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


def test_parameters_and_subclasses_of_tensor(backend: str) -> None:
    class Labelled(torch.Tensor):
        pass

    generator = torch.Generator().manual_seed(23)
    x_hat, x = (torch.randn(5, 6, generator=generator) for _ in range(2))
    log_gamma = torch.tensor(0.3)
    expected = mc.gaussian_nll(x_hat, x, log_gamma, backend=backend)
    for wrap in (torch.nn.Parameter, lambda v: v.as_subclass(Labelled)):
        for i in range(3):
            arguments = [wrap(v) if i == j else v for j, v in enumerate((x_hat, x, log_gamma))]
            assert torch.equal(mc.gaussian_nll(*arguments, backend=backend).as_subclass(Tensor), expected)


X = torch.zeros(2, 3)


@pytest.mark.parametrize("backend_name", ["auto", "reference"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X, torch.zeros(2, 4), 0.0), ValueError, "x_hat and x must have the same shape, got (2, 3) and (2, 4)"),
        ((X, torch.zeros(2, 1, 3), 0.0), ValueError, "x_hat and x must have the same shape, got (2, 3) and (2, 1, 3)"),
        ((X, torch.zeros(1, 3), 0.0), ValueError, "x_hat and x must have the same shape, got (2, 3) and (1, 3)"),
        ((X, X.to("meta"), 0.0), ValueError, "x_hat and x must be on the same device, got cpu and meta"),
        ((X.long(), X, 0.0), TypeError, "x_hat must be of a floating-point dtype, got torch.int64"),
        ((X, X.bool(), 0.0), TypeError, "x must be of a floating-point dtype, got torch.bool"),
        ((X, X.byte(), 0.0), TypeError, "x must be of a floating-point dtype, got torch.uint8"),
        ((X.tolist(), X, 0.0), TypeError, "x_hat must be a tensor, got list"),
        ((X, X.numpy(), 0.0), TypeError, "x must be a tensor, got ndarray"),
        ((X[0], X[0], 0.0), ValueError, "x_hat must have shape [B, ...] with a feature dimension, got (3,)"),
        ((X[0, 0], X[0, 0], 0.0), ValueError, "x_hat must have shape [B, ...] with a feature dimension, got ()"),
        ((X, X, torch.zeros(2)), ValueError, "log_gamma must be one number, got shape (2,)"),
        ((X, X, torch.zeros(0)), ValueError, "log_gamma must be one number, got shape (0,)"),
        ((X, X, torch.tensor(1)), TypeError, "log_gamma must be of a floating-point dtype, got torch.int64"),
        ((X, X, torch.zeros((), device="meta")), ValueError, "log_gamma must be on the device of x_hat, cpu, got meta"),
        ((X, X, "0"), TypeError, "log_gamma must be a real number or a floating-point tensor, got '0'"),
        ((X, X, 1j), TypeError, "log_gamma must be a real number or a floating-point tensor, got 1j"),
        ((X, X, 10**400), ValueError, "log_gamma must be a number that a float can hold, got 1000"),
    ],
)
def test_bad_arguments_are_refused(
    backend_name: str, arguments: tuple[object, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        mc.gaussian_nll(*arguments, backend=backend_name)


@pytest.mark.parametrize("backend_name", ["auto", "reference"])
@pytest.mark.parametrize("flag", ["False", None, 0])
def test_a_flag_that_is_no_bool_is_refused(backend_name: str, flag: object) -> None:
    with pytest.raises(TypeError, match=f"^return_squared_error must be True or False, got {flag!r}$"):
        mc.gaussian_nll(X, X, 0.0, return_squared_error=flag, backend=backend_name)  # type: ignore[call-overload]


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), np.float16(0.5), Fraction(1, 2)])
def test_log_gamma_may_be_any_real_number(number: float) -> None:
    x_hat = X + torch.arange(3)
    torch.testing.assert_close(mc.gaussian_nll(x_hat, X, number), mc.gaussian_nll(x_hat, X, 0.5), rtol=0, atol=0)
    torch.testing.assert_close(
        mc.gaussian_nll(x_hat, X, np.int64(1)),
        mc.gaussian_nll(x_hat, X, 1.0),
        rtol=0,
        atol=0,  # type: ignore[arg-type]
    )


def test_another_log_gamma_does_not_recompile(compiled: ModuleType) -> None:
    x_hat, x = torch.linspace(-1, 2, 12).double().view(4, 3), torch.ones(4, 3).double()
    for numbers in ([step / 8 for step in range(12)], [np.float32(step / 8) for step in range(12)]):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        function = torch.compile(mc.gaussian_nll, fullgraph=True, backend=counter)
        for number in numbers:
            expected = (x - x_hat).square().sum(1) / (2 * math.exp(number)) + 1.5 * (math.log(2 * math.pi) + number)
            torch.testing.assert_close(function(x_hat, x, number), expected)
        assert counter.frame_count <= 2  # a number, then any
    torch._dynamo.reset()
