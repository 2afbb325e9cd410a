"""Plain calls (csrc/autograd/plain.h) against the checks in Python, which every other call comes by."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manifold_core.kernels import extension
from manifold_core.kernels.gaussian_elbo import gaussian_elbo
from manifold_core.kernels.gaussian_elbo import op as elbo_op
from manifold_core.kernels.gaussian_nll import op as nll_op
from manifold_core.kernels.rsample_kl import op as sample_op
from manifold_core.kernels.rsample_kl_cholesky import op as cholesky_op
from recording import operators_of
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

import manifold_core as mc

pytestmark = [
    pytest.mark.usefixtures("compiled"),
    pytest.mark.skipif(extension.nodes is None, reason=extension.nodes_missing_because or "there"),
]

B, K = 3, 2
Arguments = dict[str, Any]
OPERATORS = {
    "rsample_kl": (mc.rsample_kl, sample_op.OPERATOR),
    "rsample_kl_cholesky": (mc.rsample_kl_cholesky, cholesky_op.OPERATOR),
    "gaussian_nll": (mc.gaussian_nll, nll_op.OPERATOR),
    "gaussian_elbo": (gaussian_elbo, elbo_op.OPERATOR),
}


class Subclass(Tensor):
    pass


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def usual(name: str) -> Arguments:
    mu = normal(B, K).requires_grad_()
    if name == "rsample_kl":
        return {"mu": mu, "log_var": normal(B, K)}
    if name == "rsample_kl_cholesky":
        return {"mu": mu, "tril": normal(B, K * (K + 1) // 2)}
    terms = {"x_hat": mu, "x": normal(B, K), "log_gamma": torch.tensor(0.5, requires_grad=True)}
    return terms if name == "gaussian_nll" else {**terms, "kl": normal(B)}


def rarely(expected: st.SearchStrategy[Any], *odd: Any) -> st.SearchStrategy[Any]:
    return st.integers(0, 7).flatmap(lambda i: st.sampled_from(odd) if i == 0 else expected)


def variants(t: Tensor) -> st.SearchStrategy[Any]:
    """A tensor in the forms that a caller may have it in, and what is none."""
    t = t.detach()
    forms: list[Any] = [t, t.clone().requires_grad_(), torch.nn.Parameter(t.clone()), t.clone().requires_grad_() * 1]
    forms += [t.to(dtype).requires_grad_() for dtype in (torch.float64, torch.bfloat16, torch.float16)]
    if t.dim() > 1:
        forms += [t.transpose(0, 1).contiguous().transpose(0, 1), torch.cat([t, t], 1)[:, ::2]]
    odd = [t.int(), t.to(torch.complex64), t.tolist(), None, t[..., None], t.to("meta"), t.as_subclass(Subclass)]
    odd += [torch._neg_view(t.clone()), t.numpy(), t.to_sparse(), t.flatten(), t.flatten()[:0]]
    return rarely(st.sampled_from(forms), *odd)


def rows() -> st.SearchStrategy[Any]:
    """What a prior or a gate may be."""
    return st.one_of(variants(normal(B, K)), variants(normal(1, K)), st.just(normal(K)))


def sampling() -> dict[str, st.SearchStrategy[Any]]:
    pair = st.one_of(st.just((None, None)), st.tuples(rows(), rows()), st.just((normal(K), None)))
    seeds = st.sampled_from([None, 0, 7, 2**63 - 1, torch.tensor(7)])
    return {
        "prior": pair,
        "per_dimension": rarely(st.booleans(), 0, None, "yes"),
        "return_variance_ratio": rarely(st.booleans(), 1, None),
        "seed": rarely(seeds, -1, 2**63, True, 1.5, torch.tensor([7]), torch.tensor(7.0), torch.tensor(7).int()),
        "generator": rarely(st.none(), torch.Generator(), 3),
        "first_row": rarely(st.integers(0, 2**40), -1, 2**63 - 1 - B, 2**63 - B, 2**63, 2**70, True, 1.0),
        "backend": rarely(st.sampled_from(["auto", "cpu"]), "reference", "cuda", "fastest", None),
    }


def calls(name: str) -> st.SearchStrategy[Arguments]:
    given_usual = usual(name)
    if name in ("rsample_kl", "rsample_kl_cholesky"):
        arguments = {key: variants(value) for key, value in given_usual.items()} | sampling()
        if name == "rsample_kl":
            arguments["gate_logits"] = st.one_of(st.none(), rows())
        return st.fixed_dictionaries(arguments).map(_with_prior)
    images = normal(B, 2, 3, 2)
    either = st.sampled_from([(given_usual["x_hat"], given_usual["x"]), (images, -images), (images[:0], images[:0])])
    pair = either.flatmap(lambda two: st.tuples(*map(variants, two)))
    log_gamma = rarely(variants(torch.tensor(0.5)), 0.5, torch.tensor([0.5]), torch.tensor([[0.5]]), "one", normal(2))
    arguments = {"pair": pair, "log_gamma": log_gamma, "backend": sampling()["backend"]}
    if name == "gaussian_nll":
        arguments["return_squared_error"] = st.booleans()
    else:
        arguments |= {
            "kl": variants(normal(B)),
            "beta": rarely(st.just(0.5), 1, True, None, torch.tensor(1.0), 10**400),
        }
    return st.fixed_dictionaries(arguments).map(_with_pair)


def _with_prior(arguments: Arguments) -> Arguments:
    prior_mu, prior_log_var = arguments.pop("prior")
    return {**arguments, "prior_mu": prior_mu, "prior_log_var": prior_log_var}


def _with_pair(arguments: Arguments) -> Arguments:
    x_hat, x = arguments.pop("pair")
    return {**arguments, "x_hat": x_hat, "x": x}


def outcome(function: Callable[..., Any], arguments: Arguments) -> tuple[Any, ...]:
    """Results, gradients and what is left of the generator; or the error."""
    torch.manual_seed(3)
    if isinstance(arguments.get("generator"), torch.Generator):
        arguments["generator"].manual_seed(4)
    try:
        found = function(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        return type(error), str(error), torch.get_rng_state()
    results = list(found) if isinstance(found, tuple) else [found]
    leaves = [v for v in arguments.values() if isinstance(v, Tensor) and v.requires_grad]
    wanted = [r for r in results if r.requires_grad]
    weights = [normal(*r.shape).to(r) for r in wanted]
    gradients = torch.autograd.grad(wanted, leaves, weights, allow_unused=True) if wanted and leaves else ()
    return results, [r.requires_grad for r in results], gradients, torch.get_rng_state()


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
    elif isinstance(ours, Tensor):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True, check_stride=True)
    else:
        assert ours == theirs


@pytest.mark.parametrize("name", OPERATORS)
@settings(max_examples=150)
@given(data=st.data())
def test_results_and_errors_are_those_of_the_checks_in_python(name: str, data: st.DataObject) -> None:
    function, operator = OPERATORS[name]
    arguments = data.draw(calls(name))
    ours = outcome(function, arguments)
    plain, operator._plain = operator._plain, None
    try:
        theirs = outcome(function, arguments)
    finally:
        operator._plain = plain
    assert_same(ours, theirs)


def served(name: str, monkeypatch: pytest.MonkeyPatch, arguments: Arguments | None = None, **changed: Any) -> bool:
    """Whether a call of the public function is a plain one; it has to work either way."""
    function, operator = OPERATORS[name]
    found: list[Any] = []

    def spy(*arguments: Any) -> Any:
        found.append(plain(*arguments))
        return found[-1]

    plain = operator._plain
    monkeypatch.setattr(operator, "_plain", spy)
    function(**{**(arguments or usual(name)), **changed})
    monkeypatch.setattr(operator, "_plain", plain)
    return bool(found) and found[0] is not None


@pytest.mark.parametrize("name", OPERATORS)
def test_calls_of_a_training_loop_are_plain(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served(name, monkeypatch)
    assert served(name, monkeypatch, backend="cpu")
    with torch.no_grad():
        assert served(name, monkeypatch)
        assert not any(result.requires_grad for result in OPERATORS[name][0](**usual(name)))
    if "mu" in usual(name):
        row = normal(1, K)
        assert served(name, monkeypatch, prior_mu=normal(B, K), prior_log_var=row, return_variance_ratio=True, seed=3)
    else:
        images = normal(B, 2, 3, 2)
        assert served(name, monkeypatch, x_hat=images, x=images)


class Functions(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # forward_ad itself uses it
@pytest.mark.parametrize("name", OPERATORS)
def test_other_calls_are_not_plain(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = next(iter(usual(name)))
    value = usual(name)[first].detach()
    assert not served(name, monkeypatch, backend="reference")
    assert not served(name, monkeypatch, **{first: value.as_subclass(Subclass)})
    assert not served(name, monkeypatch, **{first: torch._neg_view(value)})
    with torch.autocast("cpu", torch.bfloat16):
        assert not served(name, monkeypatch)
    with torch.inference_mode():
        assert not served(name, monkeypatch)
    with Functions():
        assert not served(name, monkeypatch)
    given_usual, found = usual(name), []

    def note(v: Tensor) -> Tensor:
        found.append(served(name, monkeypatch, given_usual))
        return v

    assert f"manifold_core.{name}.default" in operators_of(lambda: note(value))
    torch.func.vmap(note, randomness="same")(torch.zeros(2))
    assert found == [False, False]
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(value, value)
        with pytest.raises(RuntimeError, match="forward mode"):
            served(name, monkeypatch, **{first: dual})
    assert served(name, monkeypatch)  # nothing of it stays behind


FIRST_CALL = """
import torch
import manifold_core as mc

def served(operator):
    found, plain = [], operator._plain
    operator._plain = lambda *arguments: found.append(plain(*arguments)) or found[-1]
    mc.rsample_kl(mu, mu)
    operator._plain = plain
    return found[0] is not None

from manifold_core.kernels.rsample_kl.op import OPERATOR
mu = torch.zeros(2, 3)
with torch.inference_mode():
    assert not served(OPERATOR)
assert served(OPERATOR)
"""


def test_the_mode_of_the_first_call_is_not_remembered() -> None:
    subprocess.run([sys.executable, "-c", FIRST_CALL], check=True)


def test_torch_compile_sees_the_operators() -> None:
    compiled = torch.compile(lambda mu, log_var: mc.rsample_kl(mu, log_var, seed=5), backend="eager", fullgraph=True)
    mu, log_var = normal(B, K), normal(B, K)
    assert_same(compiled(mu, log_var), mc.rsample_kl(mu, log_var, seed=5))


@pytest.mark.parametrize("name", ["rsample_kl", "rsample_kl_cholesky"])
def test_a_seed_is_drawn_as_torch_draws_it(name: str) -> None:
    function, _ = OPERATORS[name]
    for start in range(20):
        torch.manual_seed(start)
        seed = torch.randint(2**63 - 1, ())
        left = torch.get_rng_state()
        torch.manual_seed(start)
        ours = function(**usual(name))
        assert torch.equal(torch.get_rng_state(), left)
        assert_same(list(ours), list(function(**usual(name), seed=seed)))
