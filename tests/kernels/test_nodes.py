"""The autograd nodes in C++ against those in Python, which torch's own registered formula is held against elsewhere."""

import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import product
from types import ModuleType
from typing import Any

import pytest
import torch
from manifold_core.kernels import extension
from manifold_core.kernels.conv_norm import op as conv_norm
from manifold_core.kernels.conv_transpose import op as conv_transpose
from manifold_core.kernels.gaussian_elbo import op as gaussian_elbo
from manifold_core.kernels.gaussian_nll import op as gaussian_nll
from manifold_core.kernels.lstm import op as lstm
from manifold_core.kernels.rsample_kl import op as rsample_kl
from manifold_core.kernels.rsample_kl_cholesky import op as rsample_kl_cholesky
from torch import Tensor
from torch._dynamo import compiled_autograd
from torch.autograd import grad

pytestmark = [
    pytest.mark.usefixtures("compiled"),
    pytest.mark.skipif(extension.nodes is None, reason=extension.nodes_missing_because or "there"),
]

MODULES = (rsample_kl, rsample_kl_cholesky, gaussian_nll, gaussian_elbo, conv_norm, conv_transpose, lstm)
OPERATORS = {module.OPERATOR.name: module.OPERATOR for module in MODULES}
WAYS = ("nodes", "python")
# Those in C++ say it for all ops.
SAID = {"nodes": "a compiled op is differentiable once", "python": "{name} is differentiable once"}
Eager = Callable[..., tuple[Tensor, ...]]


def eager(name: str, way: str) -> Eager:
    return OPERATORS[name].calls("manifold_core", extension.nodes if way == "nodes" else None).eager


def numbers(*shape: int, dtype: torch.dtype = torch.float32, start: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(start)).to(dtype)


def arguments_of(name: str) -> Iterator[tuple[Any, ...]]:
    """Leaves that want gradients, and the rest: calls that between them have every optional argument and flag."""
    if name == "lstm":
        x, *weights = (numbers(*shape, start=i) for i, shape in enumerate([(6, 3, 2), (20, 2), (20, 5), (20,), (20,)]))
        return iter([(x, *weights, True), (x[:1], *weights, True)])
    return _of_images(name) if name.startswith("conv") else _of_the_elbo(name)


def _of_images(name: str) -> Iterator[tuple[Any, ...]]:
    for dtype in (torch.float32, torch.float64):
        x, per_channel = numbers(4, 3, 6, 5, dtype=dtype, start=1), numbers(2, dtype=dtype, start=2)
        if name == "conv_norm":
            weight = numbers(2, 3, 3, 3, dtype=dtype, start=3)
            for stride, padding, relu in ((1, 0, True), (2, 1, False)):
                y = (4, 2, 4, 3) if stride == 1 else (4, 2, 3, 3)
                for residual in (None, numbers(*y, dtype=dtype, start=4)):
                    yield x, weight, per_channel, per_channel.flip(0), residual, stride, padding, 0.1, relu
        else:
            for kernel, stride, padding in ((3, 1, 0), (4, 2, 1)):
                yield x, numbers(3, 2, kernel, kernel, dtype=dtype, start=3), per_channel, stride, padding


def _of_the_elbo(name: str) -> Iterator[tuple[Any, ...]]:
    seed = torch.tensor(2**40 + 5)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        a, b = numbers(6, 5, dtype=dtype, start=1), numbers(6, 5, dtype=dtype, start=2)
        row, other = numbers(1, 5, start=3), numbers(6, 5, start=4)
        log_gamma = torch.tensor(0.3)
        if name == "rsample_kl":
            for flag in (False, True):
                yield a, b, None, None, None, seed, 3, flag, not flag
                yield a, b, row, other, None, seed, 3, flag, flag
                yield a, b, other, row, row * 2, seed, 3, flag, flag
        elif name == "rsample_kl_cholesky":
            tril = numbers(6, 15, dtype=dtype, start=5)
            for flag in (False, True):
                yield a, tril, None, None, seed, 3, flag, not flag
                yield a, tril, row, other, seed, 3, flag, flag
        elif name == "gaussian_nll":
            yield a, b, log_gamma
            yield a, b.double(), log_gamma.double()
        else:
            kl = numbers(6, dtype=torch.promote_types(dtype, torch.float32), start=6)
            for with_gradients in {False, dtype != torch.bfloat16}:
                yield a, b, log_gamma, kl, 0.5, with_gradients


def leaves(arguments: tuple[Any, ...], wanted: Callable[[int], bool]) -> tuple[Any, ...]:
    """Copies of the arguments, those of them that have gradients and are wanted made to require them."""
    return tuple(
        value.clone().requires_grad_(wanted(i)) if isinstance(value, Tensor) and value.is_floating_point() else value
        for i, value in enumerate(arguments)
    )


def weights_for(results: tuple[Tensor, ...]) -> list[Tensor]:
    return [numbers(*r.shape, dtype=r.dtype, start=9 + i) for i, r in enumerate(results)]


@pytest.mark.parametrize("name", OPERATORS)
def test_same_results_and_gradients(name: str) -> None:
    for arguments in arguments_of(name):
        floating = [i for i, v in enumerate(arguments) if isinstance(v, Tensor) and v.is_floating_point()]
        for wanted in (floating, floating[:1], floating[-1:], floating[1:]):
            given = {way: leaves(arguments, wanted.__contains__) for way in WAYS}
            results = {way: eager(name, way)(*given[way]) for way in WAYS}
            differentiable = [r.requires_grad for r in results["python"]]
            assert [r.requires_grad for r in results["nodes"]] == differentiable
            for ours, theirs in zip(results["nodes"], results["python"], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
            weights = weights_for(results["python"])
            # Every subset of the results that can be followed back, each twice, of a graph of its own.
            for chosen in product((False, True), repeat=len(weights)):
                used = [i for i, use in enumerate(chosen) if use and differentiable[i]]
                if not used:
                    continue
                results = {way: eager(name, way)(*given[way]) for way in WAYS}
                for _ in range(2):
                    found = {
                        way: grad(
                            [results[way][i] for i in used],
                            [given[way][i] for i in wanted],
                            [weights[i] for i in used],
                            allow_unused=True,
                            retain_graph=True,
                        )
                        for way in WAYS
                    }
                    for ours, theirs in zip(found["nodes"], found["python"], strict=True):
                        assert (ours is None) == (theirs is None)
                        if ours is not None:
                            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OPERATORS)
def test_an_expanded_gradient_is_that_of_its_numbers(name: str, way: str) -> None:
    """As sum() has it: one number in memory for all."""
    given = leaves(next(arguments_of(name)), lambda i: True)
    wanted = [v for v in given if isinstance(v, Tensor) and v.requires_grad]
    results = [r for r in eager(name, way)(*given) if r.requires_grad]
    expanded, dense = (
        grad(results, wanted, incoming, retain_graph=True)
        for incoming in ([torch.ones(()).expand_as(r) for r in results], [torch.ones_like(r) for r in results])
    )
    for found, expected in zip(expanded, dense, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_second_derivative_is_refused(name: str, way: str) -> None:
    """Whichever argument alone is asked for: of an LSTM, in which all enter what others are multiplied with."""
    for arguments in arguments_of(name):
        for place in range(5) if name == "lstm" else (0,):
            given = leaves(arguments, lambda i, place=place: i == place)
            of = given[place : place + 1]
            results = eager(name, way)(*given)
            used = [r for r in results if r.requires_grad]
            for both in (False, True):
                incoming = [torch.ones_like(r, requires_grad=both) for r in used]
                (first,) = grad(used, of, incoming, create_graph=True)
                with pytest.raises(RuntimeError, match=SAID[way].format(name=name)):
                    first.square().sum().backward()
                # grad() looks only at what is on the way to its input, and must not find nothing there: in each of the
                # incoming gradients too, whose derivative torch.autograd.functional.jvp takes, or it would be zeros.
                for inputs in (of, *([one] for one in incoming)) if both else (of,):
                    with pytest.raises(RuntimeError, match=SAID[way].format(name=name)):
                        grad(first.sum(), inputs)


@pytest.mark.parametrize("way", WAYS)
def test_early_gradients_may_be_written_to(way: str) -> None:
    """What the first pass gave may be written to; the second makes its own."""
    *_, arguments = (a for a in arguments_of("gaussian_elbo") if a[-1] and a[0].dtype == torch.float32)
    given = leaves(arguments, lambda i: i == 0)
    loss, _, _ = eager("gaussian_elbo", way)(*given)
    (first,) = grad(loss, given[:1], retain_graph=True)
    expected = first.clone()
    first.zero_()
    (second,) = grad(loss, given[:1], retain_graph=True)
    torch.testing.assert_close(second, expected, rtol=1e-6, atol=0)
    (tripled,) = grad(loss, given[:1], torch.tensor(3.0))
    torch.testing.assert_close(tripled, 3 * expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OPERATORS)
def test_many_gradients_at_once_are_a_loop(name: str, way: str) -> None:
    """``is_grads_batched``, as a vectorised Jacobian has it, and torch.func.vmap of the pass back."""
    for arguments in arguments_of(name):
        given = leaves(arguments, lambda i: i == 0)
        for result in eager(name, way)(*given):
            if not result.requires_grad:
                continue
            many = numbers(3, *result.shape, dtype=result.dtype, start=7)
            at_once = grad(result, given[:1], many, is_grads_batched=True, retain_graph=True)[0]
            loop = torch.stack([grad(result, given[:1], one, retain_graph=True)[0] for one in many])
            tolerance = {"rtol": 1e-2, "atol": 1e-2} if loop.dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(at_once, loop, **tolerance)
            if name == "gaussian_elbo" and result.dim() == 0:  # the loss, at whose gradient the pass back looks
                back = partial(grad, result, given[:1], retain_graph=True)
                mapped = torch.func.vmap(lambda one, back=back: back(one)[0])(many)
                torch.testing.assert_close(mapped, loop, **tolerance)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("name", OPERATORS)
def test_compiled_autograd_takes_the_nodes_of_an_ordinary_forward_pass(name: str) -> None:
    """As after a graph break: the pass back is compiled, of nodes that no compiler has seen made."""
    *_, arguments = arguments_of(name)
    found = []
    for compiled in (False, True):
        given = leaves(arguments, lambda _: True)
        loss = eager(name, "nodes")(*given)[0].double().sin().sum()
        with compiled_autograd._enable(torch.compile(backend="eager")) if compiled else nullcontext():
            loss.backward()
        torch._dynamo.reset()
        found.append([value.grad for value in given if isinstance(value, Tensor) and value.is_floating_point()])
    for compiled_one, ordinary in zip(*found, strict=True):
        torch.testing.assert_close(compiled_one, ordinary, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_autograd_makes_gradients_that_were_written_early_anew() -> None:
    """What the forward pass of one call has written would be a constant of the compiled pass back of all."""
    arguments = [numbers(5, 4, start=1), numbers(5, 4, start=2), torch.tensor(0.3), numbers(5, start=3), 0.7, True]
    for first in (1.0, 2.0):
        found = []
        for compiled in (False, True):
            given = leaves([first * arguments[0], *arguments[1:]], lambda _: True)
            loss = 3 * eager("gaussian_elbo", "nodes")(*given)[0]
            with compiled_autograd._enable(torch.compile(backend="eager")) if compiled else nullcontext():
                loss.backward()
            found.append([value.grad for value in given if isinstance(value, Tensor)])
        for compiled_one, ordinary in zip(*found, strict=True):
            torch.testing.assert_close(compiled_one, ordinary, rtol=1e-6, atol=1e-7)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("factor", [1, 3])
def test_compiled_autograd_goes_back_twice(factor: int) -> None:
    """To a caller who writes to the gradients that were written early."""
    loss_of = eager("gaussian_elbo", "nodes")
    found = []
    for compiled in (False, True):
        x_hat, log_gamma, kl = numbers(5, 4, start=1), torch.tensor(0.3), numbers(5, start=3)
        given = leaves([x_hat, log_gamma, kl], lambda _: True)
        x_hat, log_gamma, kl = (1 * value for value in given)
        for value in (x_hat, log_gamma):
            value.register_hook(lambda gradient: gradient.mul_(10))
        loss = factor * loss_of(x_hat, numbers(5, 4, start=2), log_gamma, kl, 0.7, True)[0]
        with compiled_autograd._enable(torch.compile(backend="eager")) if compiled else nullcontext():
            for _ in range(2):
                loss.backward(retain_graph=True)
        found.append([value.grad for value in given])
    torch._dynamo.reset()
    for compiled_one, ordinary in zip(*found, strict=True):
        torch.testing.assert_close(compiled_one, ordinary, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", OPERATORS)
def test_nodes_release_what_they_kept(name: str) -> None:
    *_, arguments = arguments_of(name)
    given = leaves(arguments, lambda i: i == 0)
    result = eager(name, "nodes")(*given)[0]
    result.sum().backward(retain_graph=False)
    with pytest.raises(RuntimeError, match="second time"):
        result.sum().backward()


def test_what_was_saved_and_then_written_to_is_noticed() -> None:
    mu, log_var = (numbers(4, 3, start=i).requires_grad_() for i in (1, 2))
    inner = mu * 1
    _, kl, _ = eager("rsample_kl", "nodes")(inner, log_var, None, None, None, torch.tensor(1), 0, False, False)
    inner.data.add_(1)  # unseen by torch, as everywhere
    kl.sum().backward(retain_graph=True)
    with torch.no_grad():
        inner.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kl.sum().backward()


def load_again(monkeypatch: pytest.MonkeyPatch, torch_version: str) -> ModuleType:
    """The module that looks for compiled ones, as another torch would see it."""
    spec = importlib.util.spec_from_file_location(extension.__name__, extension.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(torch, "__version__", torch_version)
    spec.loader.exec_module(module)
    return module


def test_nodes_of_another_torch_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_again(monkeypatch, "9.8.7+cpu")
    assert module.compiled is not None
    assert module.nodes is None
    assert re.match(r"not built for torch 9\.8\.7\+cpu; .*_autograd_9_8_7", module.nodes_missing_because)


def test_nodes_serve_every_build_of_their_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_again(monkeypatch, torch.__version__.partition("+")[0] + "+cu130")
    assert module.nodes is extension.nodes
    assert module.nodes_missing_because == ""
