"""lstm against PyTorch's own, in float64."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from instruction_sets import NEEDS_COMPILED
from manifold_core.kernels import extension, lstm
from manifold_core.kernels.lstm.op import choose_for_sequences
from poison import poisoned
from threads import assert_same_on_threads
from torch import Tensor, nn
from torch.autograd import forward_ad, grad
from torch.autograd.functional import jacobian
from torch.utils.checkpoint import checkpoint

# Of a number, relative to the largest of its like: the same for every instruction set.
ALLOWED = 3e-6
NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class Case(NamedTuple):
    batch: int
    length: int
    inputs: int
    hidden: int
    scale: float = 1.0  # of the weights
    with_x: bool = True  # it, too, needs a gradient
    seed: int = 0


CASES = st.builds(
    Case,
    st.integers(1, 9) | st.sampled_from([15, 16, 17, 63, 64, 65, 130]),
    st.integers(1, 7),
    st.integers(1, 19),
    st.integers(1, 19) | st.just(33),
    st.sampled_from([0.1, 1.0, 3.0]),
    st.booleans(),
    st.integers(0, 2**31),
)


def draw(case: Case) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(case.seed)
    gates = 4 * case.hidden
    shapes = ((case.batch, case.length, case.inputs), (gates, case.inputs), (gates, case.hidden), (gates,), (gates,))
    scales = (1.0, *(case.scale / math.sqrt(width) for width in (case.inputs, case.hidden)), case.scale, case.scale)
    numbers = [scale * torch.randn(shape, generator=generator) for shape, scale in zip(shapes, scales, strict=True)]
    incoming = torch.randn(case.batch, case.length, case.hidden, generator=generator)
    return [tensor.requires_grad_(case.with_x or place > 0) for place, tensor in enumerate(numbers)], incoming


def exact(inputs: Sequence[Tensor], incoming: Tensor) -> list[Tensor]:
    """Result and gradients by torch.nn.LSTM, in float64."""
    x, *weights = (tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in inputs)
    layer = nn.LSTM(x.shape[2], weights[1].shape[1], batch_first=True, dtype=torch.float64)
    y = torch.func.functional_call(layer, dict(zip(NAMES, weights, strict=True)), (x,))[0]
    return [y, *grad(y, [leaf for leaf in (x, *weights) if leaf.requires_grad], incoming.double())]


def assert_close(found: Sequence[Tensor], expected: Sequence[Tensor], floors: Sequence[float]) -> None:
    for place, (a, b, floor) in enumerate(zip(found, expected, floors, strict=True)):
        assert (a.dtype, a.shape) == (torch.float32, b.shape)
        error, bound = (a.double() - b).abs().max().item(), b.abs().max().item() + floor
        assert error <= ALLOWED * bound, (place, error, bound)


@settings(max_examples=150)
@given(CASES)
@example(Case(128, 6, 10, 32, seed=1))  # Table 8
@example(Case(2200, 2, 3, 5, seed=2))  # more tiles than parts
@example(Case(64, 3, 8, 16, with_x=False, seed=3))  # no lane is idle
@example(Case(300, 2, 3, 200, seed=4))  # many units
def test_lstm_is_its_formula(cpu: str, case: Case) -> None:
    assert_lstm_is_its_formula(cpu, case)


@settings(max_examples=15)
@given(CASES)
def test_so_is_its_definition(case: Case) -> None:
    assert_lstm_is_its_formula("reference", case)


def assert_lstm_is_its_formula(backend: str, case: Case) -> None:
    inputs, incoming = draw(case)
    y = lstm(*inputs, backend=backend)
    found = [y, *grad(y, [leaf for leaf in inputs if leaf.requires_grad], incoming)]
    # Gates may be shut, and the sums over the batch may nearly cancel: they are held to what they are made of.
    largest = incoming.abs().max().item() * max(1.0, case.scale)
    of_sums = largest * case.batch * case.length / 30
    floors = [0.1, *([largest] if case.with_x else []), *[of_sums] * 4]
    assert_close(found, exact(inputs, incoming), floors)


@NEEDS_COMPILED
def test_saturated_gates_are_finite() -> None:
    case = Case(3, 2, 2, 2)
    inputs, incoming = draw(case)
    with torch.no_grad():
        inputs[3].copy_(torch.tensor([1e4, -1e4, 90.0, -90.0, 1e30, -1e30, 50.0, -50.0]))
    y = lstm(*inputs, backend="cpu")
    found = [y, *grad(y, inputs, incoming)]
    assert all(tensor.isfinite().all() for tensor in found)
    assert_close(found, exact(inputs, incoming), [1e-3] * 6)


@NEEDS_COMPILED
def test_small_numbers_keep_their_digits(cpu: str) -> None:
    inputs, incoming = draw(Case(3, 2, 4, 5))
    with torch.no_grad():
        for leaf in inputs:
            leaf.mul_(1e-3)
    y = lstm(*inputs, backend="cpu")
    expected = exact(inputs, incoming)[0]
    assert 0 < expected.abs().max() < 1e-2
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=0)


@NEEDS_COMPILED
def test_nan_stays_in_its_sequence() -> None:
    inputs, _ = draw(Case(70, 3, 4, 5))
    expected = lstm(*inputs, backend="cpu")
    with torch.no_grad():
        inputs[0][3, 1, 0] = math.nan
    found = lstm(*inputs, backend="cpu")
    assert found[3, 1:].isnan().all()
    found[3], expected[3] = 0, 0
    found, expected = found.detach(), expected.detach()
    assert torch.equal(found, expected)


@NEEDS_COMPILED
@pytest.mark.parametrize("case", [Case(5000, 3, 4, 5), Case(200, 2, 4, 90)])
def test_results_do_not_depend_on_the_number_of_threads(cpu: str, case: Case) -> None:
    inputs, incoming = draw(case)

    def results() -> list[Tensor]:
        y = lstm(*inputs, backend="cpu")
        return [y, *grad(y, inputs, incoming)]

    assert_same_on_threads((1, 2, 5), results)


@NEEDS_COMPILED
def test_strided_inputs_and_a_gradient_that_is_expanded() -> None:
    inputs, incoming = draw(Case(6, 4, 3, 5))
    strided = [
        torch.stack((leaf.detach().mT.contiguous().mT if leaf.dim() > 1 else leaf.detach(),) * 2, dim=-1)[..., 0]
        for leaf in inputs
    ]
    assert not any(leaf.is_contiguous() for leaf in strided)
    strided = [leaf.requires_grad_() for leaf in strided]
    expected, found = lstm(*inputs, backend="cpu"), lstm(*strided, backend="cpu")
    assert torch.equal(found, expected)
    one = incoming[:1, :1].expand_as(found)
    assert all(map(torch.equal, grad(found, strided, one), grad(expected, inputs, one.contiguous())))


@NEEDS_COMPILED
def test_every_number_is_written() -> None:
    for case in (Case(3, 2, 9, 17), Case(65, 3, 4, 5)):
        inputs, incoming = draw(case)

        def results(inputs: list[Tensor] = inputs, incoming: Tensor = incoming) -> tuple[Tensor, ...]:
            y = lstm(*inputs, backend="cpu")
            return y, *grad(y, inputs, incoming)

        y, *grads = poisoned(results)
        assert_close([y, *grads], exact(inputs, incoming), [0.1, 1.0, 10.0, 10.0, 10.0, 10.0])
        with torch.no_grad():
            assert torch.equal(lstm(*inputs, backend="cpu"), y)


@NEEDS_COMPILED
def test_the_gradients_of_both_biases_can_be_written_to() -> None:
    inputs, incoming = draw(Case(3, 2, 2, 2))
    *_, first, second = grad(lstm(*inputs, backend="cpu"), inputs, incoming)
    assert torch.equal(first, second)
    first.zero_()
    assert second.any()


@NEEDS_COMPILED
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_forward_mode_is_refused() -> None:
    (x, *weights), _ = draw(Case(2, 3, 2, 2, with_x=False))
    weights = [weight.detach() for weight in weights]

    def of(one: Tensor) -> Tensor:
        return lstm(one, *weights, backend="cpu")

    for way in (lambda: torch.func.jvp(of, (x,), (x,)), lambda: torch.func.jacfwd(of)(x)):
        with pytest.raises(RuntimeError, match=r"lstm is .* forward mode"):
            way()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(weights[1], weights[1])
        with pytest.raises(RuntimeError, match=r"lstm is .* forward mode"):
            lstm(x, weights[0], dual, *weights[2:], backend="cpu")


@NEEDS_COMPILED
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing(use_reentrant: bool) -> None:
    """Of which one way runs the first pass without gradients."""
    inputs, incoming = draw(Case(70, 3, 4, 5))
    y = checkpoint(partial(lstm, backend="cpu"), *inputs, use_reentrant=use_reentrant)
    y.backward(incoming)  # the first way has no grad()
    expected = grad(lstm(*inputs, backend="cpu"), inputs, incoming)
    assert all(map(torch.equal, (tensor.grad for tensor in inputs), expected))


@NEEDS_COMPILED
def test_a_gradient_of_nan_stays_in_its_sequence() -> None:
    inputs, incoming = draw(Case(70, 3, 4, 5))
    (expected,) = grad(lstm(*inputs, backend="cpu"), inputs[:1], incoming)
    incoming[3, 1] = math.nan
    (found,) = grad(lstm(*inputs, backend="cpu"), inputs[:1], incoming)
    assert found[3].isnan().any()
    others = [place for place in range(70) if place != 3]
    assert torch.equal(found[others], expected[others])


@NEEDS_COMPILED
def test_it_works_in_inference_mode() -> None:
    inputs, _ = draw(Case(5, 3, 4, 5))
    expected = lstm(*inputs, backend="cpu").detach()
    with torch.inference_mode():
        assert torch.equal(lstm(*inputs, backend="cpu"), expected)


@NEEDS_COMPILED
def test_few_samples_and_many_units_are_left_to_pytorch() -> None:
    """By the measurements in lstm/op.py; or where a tile of 64 would be mostly of samples that are not there."""
    for batch, length, hidden, chosen in (
        (1, 20, 32, "cpu"),
        (1, 2000, 32, "reference"),
        (15, 20, 33, "reference"),
        (16, 20, 33, "cpu"),
        (16, 20, 64, "cpu"),
        (127, 20, 65, "reference"),
        (128, 20, 256, "cpu"),
        (5000, 20, 257, "reference"),
        (31, 2000, 64, "reference"),
        (32, 2000, 64, "cpu"),
    ):
        x, weight_hh = torch.empty(batch, length, 3), torch.empty(4 * hidden, hidden)
        others = torch.empty(4 * hidden, 3), weight_hh, *(torch.empty(4 * hidden) for _ in range(2))
        assert choose_for_sequences("auto", x, *others) == chosen, (batch, length, hidden)
        assert choose_for_sequences("cpu", x, *others) == "cpu"


def test_the_reference_alone_has_second_derivatives() -> None:
    inputs, _ = draw(Case(2, 3, 2, 2))
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    assert torch.autograd.gradgradcheck(lambda *given: lstm(*given, backend="reference"), wide)
    if extension.compiled is not None:
        y = lstm(*inputs, backend="cpu")
        (first,) = grad(y.sum(), inputs[0], create_graph=True)
        with pytest.raises(RuntimeError, match="differentiable once"):
            grad(first.sum(), inputs[1])


@NEEDS_COMPILED
def test_torch_func_and_vmap() -> None:
    (x, *weights), incoming = draw(Case(4, 3, 2, 3))
    weights = [weight.detach() for weight in weights]

    def loss(one: Tensor) -> Tensor:
        return (lstm(one, *weights, backend="cpu") * incoming).sum()

    expected = grad(loss(x), x)[0]
    assert torch.equal(torch.func.grad(loss)(x.detach()), expected)
    each = torch.func.vmap(lambda one: lstm(one[None], *weights, backend="cpu")[0])(x.detach())
    torch.testing.assert_close(each, lstm(x, *weights, backend="cpu").detach(), rtol=1e-6, atol=1e-6)

    def summed(one: Tensor) -> Tensor:
        return lstm(one, *weights, backend="cpu").sum((0, 1))

    assert torch.equal(torch.func.jacrev(summed)(x.detach()), jacobian(summed, x.detach()))
    several = torch.stack((weights[0], 2 * weights[0]), dim=1)
    of_weights = torch.func.vmap(torch.func.grad(lambda w: lstm(x.detach(), w, *weights[1:], backend="cpu").sum()), 1)
    for place, found in enumerate(of_weights(several)):
        w = several[:, place].contiguous().requires_grad_()
        torch.testing.assert_close(found, grad(lstm(x.detach(), w, *weights[1:]).sum(), w)[0], rtol=1e-6, atol=1e-6)


@NEEDS_COMPILED
def test_torch_compile_makes_one_graph() -> None:
    (x, *weights), incoming = draw(Case(4, 3, 2, 3))
    compiled = torch.compile(lstm, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        found, expected = compiled(x, *weights), lstm(x, *weights)
        assert torch.equal(found, expected)
        assert all(map(torch.equal, grad(found, weights, incoming), grad(expected, weights, incoming)))
    torch._dynamo.reset()


def test_other_types_are_left_to_the_reference() -> None:
    inputs, _ = draw(Case(3, 2, 2, 2, with_x=False))
    for dtype in (torch.float64, torch.bfloat16):
        assert lstm(*(tensor.detach().to(dtype) for tensor in inputs)).dtype == dtype
    assert lstm(inputs[0][:0], *inputs[1:]).shape == (0, 2, 2)


@NEEDS_COMPILED
def test_backends_that_cannot_serve_are_refused() -> None:
    inputs, _ = draw(Case(3, 2, 2, 2, with_x=False))
    with pytest.raises(RuntimeError, match=r"'cuda' cannot serve this call: for this layer there is 'cpu'"):
        lstm(*inputs, backend="cuda")
    with pytest.raises(ValueError, match=r"backend must be one of .*, got 'cpp'"):
        lstm(*inputs, backend="cpp")
    with pytest.raises(RuntimeError, match=r"at least one element, got torch.float64, \(3, 2, 2\)"):
        lstm(*(tensor.detach().double() for tensor in inputs), backend="cpu")
    with pytest.raises(RuntimeError, match=r"at least one element, got torch.float32, \(0, 2, 2\)"):
        lstm(inputs[0][:0], *inputs[1:], backend="cpu")


@pytest.mark.parametrize(
    ("place", "bad", "error", "match"),
    [
        (0, torch.zeros(3, 2), ValueError, r"x must have shape \[B, L, d\] with L of at least 1, got \(3, 2\)"),
        (0, torch.zeros(3, 0, 2), ValueError, r"L of at least 1, got \(3, 0, 2\)"),
        (0, torch.zeros(3, 2, 2, dtype=torch.int64), TypeError, "x must be of a floating-point dtype, got torch.int64"),
        (1, torch.zeros(8, 3), ValueError, r"weight_ih must have shape \(8, 2\), got \(8, 3\)"),
        (2, torch.zeros(8, 3), ValueError, r"weight_hh must have shape \[4 h, h\], got \(8, 3\)"),
        (3, torch.zeros(8, 1), ValueError, r"bias_ih must have shape \(8,\), got \(8, 1\)"),
        (4, torch.zeros(4), ValueError, r"bias_hh must have shape \(8,\), got \(4,\)"),
        (4, None, TypeError, "bias_hh must be a tensor, got NoneType"),
    ],
)
def test_bad_input_is_refused_by_name(place: int, bad: Any, error: type[Exception], match: str) -> None:
    inputs: list[Any] = list(draw(Case(3, 2, 2, 2, with_x=False))[0])
    inputs[place] = bad
    with pytest.raises(error, match=match):
        lstm(*inputs)
