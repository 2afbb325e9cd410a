"""torch.func, derivatives in forward mode, subclasses of Tensor, and checkpoints."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from manifold_core.kernels import gaussian_elbo
from torch import Tensor
from torch.autograd import forward_ad, grad
from torch.utils.checkpoint import checkpoint

import manifold_core as mc

pytestmark = pytest.mark.usefixtures("compiled")


def every_op(mu: Tensor, log_var: Tensor, prior_mu: Tensor, prior_log_var: Tensor, gate_logits: Tensor) -> Tensor:
    """One number that depends on every gradient of every op."""
    z, kl = mc.rsample_kl(mu, log_var, prior_mu, prior_log_var, gate_logits=gate_logits, seed=torch.tensor(3))
    loss, _, squared_error = gaussian_elbo(z, mu, 0.5, kl)
    prior = prior_mu[:2], prior_log_var[:, :2]
    y, kl_of_y, ratio = mc.rsample_kl_cholesky(
        mu[:, :2], log_var[:, :3], *prior, seed=torch.tensor(4), return_variance_ratio=True
    )
    full = y.sin().sum() + kl_of_y.square().mean() + ratio.sum()
    return loss + squared_error.mean() + mc.gaussian_nll(z, log_var, -0.5).sin().sum() + full


def problems(number: int) -> list[Tensor]:
    """The arguments of every_op, so many times."""
    generator = torch.Generator().manual_seed(4)
    shapes = ((4, 5), (4, 5), (5,), (4, 5), (1, 5))
    return [torch.randn(number, *shape, dtype=torch.float64, generator=generator) for shape in shapes]


def test_vmap_is_a_loop() -> None:
    many = problems(3)
    together = torch.func.vmap(every_op)(*many)
    one_by_one = torch.stack([every_op(*arguments) for arguments in zip(*many, strict=True)])
    torch.testing.assert_close(together, one_by_one, rtol=1e-14, atol=0)


def test_vmap_of_some_arguments_along_another_dimension() -> None:
    many = problems(3)
    together = torch.func.vmap(every_op, in_dims=(1, None, None, None, 0))(
        many[0].transpose(0, 1), *(m[0] for m in many[1:4]), many[4]
    )
    one_by_one = torch.stack(
        [every_op(m, *(a[0] for a in many[1:4]), g) for m, g in zip(many[0], many[4], strict=True)]
    )
    torch.testing.assert_close(together, one_by_one, rtol=1e-14, atol=0)


@pytest.mark.parametrize("in_dims", [0, (2, None, None, None, 0)])
def test_vmap_over_nothing_has_the_shapes_of_the_reference(in_dims: Any) -> None:
    every = in_dims == 0
    shapes = [(0, 4, 5), (0, 4, 5), (0, 5), (0, 5)] if every else [(4, 5, 0), (4, 5), (5,), (5,)]
    shapes.append((0, 1, 5))
    given = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]

    def results(*a: Tensor, backend: str) -> tuple[Tensor, ...]:
        z, kl = mc.rsample_kl(*a[:4], gate_logits=a[4], seed=1, backend=backend)
        y, y_kl = mc.rsample_kl_cholesky(a[0][:, :2], a[1][:, :3], seed=1, backend=backend)
        slope = torch.func.grad(lambda m: mc.gaussian_nll(m, z, 0.5, backend=backend).sum())(a[0])
        return z, kl, y, y_kl, slope, *gaussian_elbo(z, a[0], 0.0, kl, backend=backend)

    found, expected = (torch.func.vmap(partial(results, backend=b), in_dims)(*given) for b in ("cpu", "reference"))
    for a, b in zip(found, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.shape[0] == 0


def test_gradients_of_each_sample() -> None:
    # As for per-sample gradients or an ensemble: grad inside of vmap; and vmap inside of grad.
    many = problems(3)
    one_by_one = [
        grad(every_op(*(a.requires_grad_() for a in arguments)), arguments)
        for arguments in ([a.clone() for a in m] for m in zip(*many, strict=True))
    ]
    inside = torch.func.vmap(torch.func.grad(every_op, argnums=(0, 1, 2, 3, 4)))(*many)
    outside = torch.func.grad(lambda *a: torch.func.vmap(every_op)(*a).sum(), argnums=(0, 1, 2, 3, 4))(*many)
    for found in (inside, outside):
        for ours, theirs in zip(found, zip(*one_by_one, strict=True), strict=True):
            torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-12, atol=1e-14)


def test_vmap_obeys_its_randomness() -> None:
    mu = torch.zeros(3, 4, 5)
    for randomness, alike in (("same", True), ("different", False)):
        z = torch.func.vmap(lambda m: mc.rsample_kl(m, m)[0], randomness=randomness)(mu)
        assert torch.equal(z[0], z[1]) == alike
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(lambda m: mc.rsample_kl(m, m)[0])(mu)


def test_a_second_derivative_by_torch_func_is_refused() -> None:
    mu = torch.randn(4, 5)
    for function in (
        lambda m: mc.rsample_kl(m, m, seed=torch.tensor(1))[1].sum(),
        lambda m: mc.rsample_kl_cholesky(m[:, :2], m[:, 2:], seed=torch.tensor(1))[0].sum(),
        lambda m: mc.rsample_kl_cholesky(m[:, :2], m[:, 2:], m[:, :2], m[0, 3:], seed=torch.tensor(1))[1].sum(),
        lambda m: mc.gaussian_nll(m, m.detach() * 2, 0.0).sum(),
        lambda m: gaussian_elbo(m, m.detach() * 2, 0.0, m[:, 0])[0],
    ):
        with pytest.raises(RuntimeError, match=r"differentiable once, .*; backend='reference' has it\. \(In a comp"):
            torch.func.grad(lambda m, f=function: torch.func.grad(f)(m).square().sum())(mu)


def test_the_error_of_a_compiled_gradient_says_to_detach(fresh_compiler: None) -> None:
    """torch differentiates a compiled function by all that requires grad, that of torch.func.grad once more."""
    slope = torch.compile(
        torch.func.grad(lambda m: mc.rsample_kl(m, m, seed=torch.tensor(1))[1].sum()), backend="aot_eager"
    )
    mu = torch.linspace(-1, 2, 20).view(4, 5).requires_grad_()
    # torch 2.11 stops at an error of its own before it.
    with pytest.raises(RuntimeError, match=r"asked for; .* requires grad: give it detached\.\)|anomaly metadata"):
        slope(mu)
    # Of the KL by mu and by log_var, both of which mu is here.
    torch.testing.assert_close(slope(mu.detach()), (mu + (mu.exp() - 1) / 2).detach())


class Seen(Tensor):
    operators: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.operators.append(str(function))
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize("name", ["rsample_kl", "rsample_kl_cholesky", "gaussian_nll", "gaussian_elbo"])
def test_a_subclass_sees_the_operator_whichever_argument_it_is(name: str) -> None:
    mu, tril = torch.randn(4, 5), torch.randn(4, 15)
    function, tensors = {
        "rsample_kl": (partial(mc.rsample_kl, seed=1), (mu, mu, mu, mu)),
        "rsample_kl_cholesky": (partial(mc.rsample_kl_cholesky, seed=1), (mu, tril, mu, mu)),
        "gaussian_nll": (partial(mc.gaussian_nll, return_squared_error=True), (mu, -mu, mu[0, 0])),
        "gaussian_elbo": (gaussian_elbo, (mu, -mu, mu[0, 0], mu[:, 0])),
    }[name]
    expected = function(*tensors)
    for place in range(len(tensors)):
        Seen.operators.clear()
        found = function(*(t.as_subclass(Seen) if i == place else t for i, t in enumerate(tensors)))
        assert f"manifold_core.{name}.default" in Seen.operators
        for ours, plain in zip(found, expected, strict=True):
            assert type(ours) is Seen
            assert torch.equal(ours.as_subclass(Tensor), plain)


# Of each op one number that depends on its argument, [B, κ].
ONE_NUMBER: dict[str, Callable[..., Tensor]] = {
    "rsample_kl": lambda m, **kwargs: mc.rsample_kl(m, m, seed=1, **kwargs)[1].sum(),
    "rsample_kl_cholesky": lambda m, **kwargs: mc.rsample_kl_cholesky(m, m.new_zeros(4, 15), seed=1, **kwargs)[1].sum(),
    "gaussian_nll": lambda m, **kwargs: mc.gaussian_nll(m, m.detach() * 2, 0.0, **kwargs).sum(),
    "gaussian_elbo": lambda m, **kwargs: gaussian_elbo(m, m.detach() * 2, 0.0, m[:, 0], **kwargs)[0],
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch.func.jvp itself uses it
def test_forward_mode_is_refused_and_the_reference_has_it() -> None:
    mu = torch.randn(4, 5, dtype=torch.float64)

    def forward_ad_of(function: Callable[[Tensor], Tensor], requires_grad: bool) -> Tensor | None:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(mu.clone().requires_grad_(requires_grad), mu)
            tangent: Tensor | None = forward_ad.unpack_dual(function(dual)).tangent
            return tangent

    def without_gradients(function: Callable[[Tensor], Tensor]) -> Tensor | None:
        with torch.no_grad():
            return forward_ad_of(function, False)

    for name, op in ONE_NUMBER.items():
        by_reference = partial(op, backend="reference")
        slope = (torch.func.grad(by_reference)(mu) * mu).sum()
        ways: list[Callable[..., Any]] = [
            lambda f: torch.func.jvp(f, (mu,), (mu,))[1],
            lambda f: (torch.func.jacfwd(f)(mu) * mu).sum(),
            partial(forward_ad_of, requires_grad=False),
            partial(forward_ad_of, requires_grad=True),
            without_gradients,  # below autograd torch would drop the tangent: silently no derivative
        ]
        for way in ways:
            with pytest.raises(RuntimeError, match=rf"^manifold_core: {name} is .* forward mode .*'reference' has it$"):
                way(op)
            torch.testing.assert_close(way(by_reference), slope)
        with pytest.raises(RuntimeError, match=f"^manifold_core: {name} is .* forward mode"):
            torch.func.hessian(op)(mu)
        assert torch.func.hessian(by_reference)(mu).shape == (4, 5, 4, 5)
        with forward_ad.dual_level():  # of somebody else's tensors
            torch.testing.assert_close(op(mu), by_reference(mu))


def dual_inside(function: Callable[[Tensor], Tensor], mu: Tensor) -> Tensor | None:
    with forward_ad.dual_level():
        tangent: Tensor | None = forward_ad.unpack_dual(function(forward_ad.make_dual(mu, mu))).tangent
        return tangent


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch.func.jvp itself uses it
@pytest.mark.parametrize("name", ONE_NUMBER)
def test_compiled_forward_mode_is_refused(fresh_compiler: None, name: str) -> None:
    """Who drops a tangent gives a derivative of zero."""
    mu = torch.randn(4, 5, dtype=torch.float64)
    op, by_reference = ONE_NUMBER[name], partial(ONE_NUMBER[name], backend="reference")
    compiled = partial(torch.compile, backend="aot_eager", fullgraph=True)
    slope = (torch.func.grad(by_reference)(mu) * mu).sum()
    ways: list[Callable[..., Any]] = [
        lambda f, m: torch.func.jvp(f, (m,), (m,))[1],
        lambda f, m: (torch.func.jacfwd(lambda v: f(v))(m) * m).sum(),
        dual_inside,
    ]
    for way in ways:
        with pytest.raises(RuntimeError, match=f"manifold_core: {name} is .* forward mode"):
            compiled(partial(way, op))(mu)
        torch.testing.assert_close(compiled(partial(way, by_reference))(mu), slope)
    outside = compiled(op)
    torch.testing.assert_close(outside(mu), by_reference(mu))  # what is compiled has met no tangent
    with pytest.raises(RuntimeError, match=f"manifold_core: {name} is .* forward mode"):
        dual_inside(outside, mu)


class Labelled(Tensor):
    pass


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch.func.jvp itself uses it
def test_derivatives_beside_a_subclass_of_tensor() -> None:
    mu = torch.randn(4, 5, dtype=torch.float64)
    sub, tril = mu.sin().as_subclass(Labelled), mu.new_zeros(4, 15).as_subclass(Labelled)
    calls: list[Callable[..., Tensor]] = [
        lambda m, **kwargs: mc.rsample_kl(sub, m, seed=1, **kwargs)[1].sum(),
        lambda m, **kwargs: mc.rsample_kl(m, sub, seed=1, **kwargs)[1].sum(),
        lambda m, **kwargs: mc.rsample_kl(sub, sub, m[0], sub, gate_logits=sub, seed=1, **kwargs)[1].sum(),
        lambda m, **kwargs: mc.rsample_kl_cholesky(m, tril, seed=1, **kwargs)[1].sum(),
        lambda m, **kwargs: mc.rsample_kl_cholesky(sub, tril, m, m, seed=1, **kwargs)[1].sum(),
        lambda m, **kwargs: mc.gaussian_nll(sub, m, 0.0, **kwargs).sum(),
        lambda m, **kwargs: mc.gaussian_nll(m, sub, 0.0, **kwargs).sum(),
        lambda m, **kwargs: gaussian_elbo(sub, sub, m[0, 0], sub[:, 0], **kwargs)[0],
        lambda m, **kwargs: gaussian_elbo(sub, sub, 0.0, m[:, 0], **kwargs)[0],
    ]
    for call in calls:
        for way in (lambda f: torch.func.jvp(f, (mu,), (mu,))[1], lambda f: dual_inside(f, mu)):
            with pytest.raises(RuntimeError, match=r"^manifold_core: .* forward mode"):
                way(call)
        slope = torch.func.grad(partial(call, backend="reference"))(mu)
        torch.testing.assert_close(torch.func.grad(call)(mu), slope)


@pytest.mark.parametrize("name", ONE_NUMBER)
def test_compiled_transforms_are_those_of_the_reference(fresh_compiler: None, name: str) -> None:
    many = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    op, by_reference = ONE_NUMBER[name], partial(ONE_NUMBER[name], backend="reference")
    ways: list[Callable[..., Any]] = [
        lambda f, m: torch.func.grad(f)(m[0]),
        lambda f, m: torch.func.vmap(f)(m),
        lambda f, m: torch.func.vmap(torch.func.grad(f))(m),
        lambda f, m: torch.func.grad(lambda m: torch.func.vmap(f)(m).square().sum())(m),
        lambda f, m: torch.func.jacrev(lambda m: torch.stack([f(m).sin(), f(2 * m)]))(m[0]),
    ]
    for way in ways:
        found = torch.compile(partial(way, op), backend="aot_eager", fullgraph=True)(many)
        torch.testing.assert_close(found, way(by_reference, many), rtol=1e-12, atol=1e-12)
    twice = torch.func.grad(lambda m: torch.func.grad(op)(m).sum())
    with pytest.raises(RuntimeError, match="differentiable once, but a second derivative was asked for"):
        torch.compile(lambda m: twice(m), backend="aot_eager")(many[0])


def test_compiled_autograd_gives_the_same_gradients(fresh_compiler: None) -> None:
    found = []
    for compiled_autograd in (False, True):
        with torch._dynamo.config.patch(compiled_autograd=compiled_autograd):
            mu = torch.linspace(-1, 2, 20, dtype=torch.float64).view(4, 5).requires_grad_()

            def step(mu: Tensor = mu) -> None:
                sum(op(mu) for op in ONE_NUMBER.values()).backward()  # type: ignore[union-attr]

            torch.compile(step, backend="aot_eager")() if compiled_autograd else step()
            found.append(mu.grad)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("op", ["rsample_kl", "rsample_kl_cholesky"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_makes_the_same_noise_again(use_reentrant: bool, op: str, seed: int | None) -> None:
    """A seed that is drawn comes from torch's generator, which checkpoint sets back; for a given one it need not."""
    generator = torch.Generator().manual_seed(5)
    heads = torch.randn(6, 10, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(5, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    x = torch.randn(6, 7, dtype=torch.float64, generator=generator)

    def loss(heads: Tensor, weight: Tensor) -> Tensor:
        if op == "rsample_kl":
            z, kl = mc.rsample_kl(*heads.chunk(2, dim=1), seed=seed)
        else:
            z, kl = mc.rsample_kl_cholesky(heads[:, :4], heads, seed=seed)
        return gaussian_elbo(z @ weight[: z.shape[1]], x, 0.3, kl)[0]

    torch.manual_seed(6)
    expected = loss(heads, weight)
    torch.manual_seed(6)
    found = checkpoint(loss, heads, weight, use_reentrant=use_reentrant, preserve_rng_state=seed is None)
    found.backward()
    assert torch.equal(found, expected)
    for leaf, gradient in zip((heads, weight), grad(expected, (heads, weight)), strict=True):
        assert torch.equal(leaf.grad, gradient)
