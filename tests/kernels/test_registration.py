import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from manifold_core.kernels import gaussian_elbo
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import grad
from torch.library import opcheck

import manifold_core as mc

pytestmark = pytest.mark.usefixtures("compiled")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OPERATORS = (
    "rsample_kl",
    "rsample_kl_backward",
    "gaussian_nll",
    "gaussian_nll_backward",
    "gaussian_elbo",
)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def matrices(dtype: torch.dtype, requires_grad: bool, layout: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    heads = torch.randn(4, 10, generator=generator).to(dtype)
    if layout == "heads":
        a, b = heads.chunk(2, dim=1)
    else:
        a, b = heads[:, :5].contiguous(), heads.t()[:5].contiguous().t()
    return a.detach().requires_grad_(requires_grad), b.detach().requires_grad_(requires_grad)


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


def test_every_operator_is_tested() -> None:
    names = {schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("manifold_core::")}
    assert names == {f"manifold_core::{name}" for name in OPERATORS}


@pytest.mark.parametrize("layout", ["heads", "separate"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str, dtype: torch.dtype, layout: str) -> None:
    operator = getattr(torch.ops.manifold_core, name).default
    for arguments in arguments_of(name, dtype, False, layout):
        opcheck(operator, arguments)


@pytest.mark.parametrize("layout", ["heads", "separate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", [name for name in OPERATORS if not name.endswith("_backward")])
def test_opcheck_with_gradients(name: str, dtype: torch.dtype, layout: str) -> None:
    operator = getattr(torch.ops.manifold_core, name).default
    for arguments in arguments_of(name, dtype, True, layout):
        opcheck(operator, arguments)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_fake_results_are_like_real_ones(name: str, dtype: torch.dtype) -> None:
    operator = getattr(torch.ops.manifold_core, name).default
    for layout in ("heads", "separate"):
        for arguments in arguments_of(name, dtype, False, layout):
            real = operator(*arguments)
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                fake = operator(*(mode.from_tensor(v) if isinstance(v, Tensor) else v for v in arguments))
            for a, b in zip(fake, real, strict=True):
                assert (a.shape, a.dtype, a.stride(), a.device) == (b.shape, b.dtype, b.stride(), b.device)


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
def test_gaussian_elbo_works_on_fake_tensors(dtype: torch.dtype) -> None:
    for x_dtype in DTYPES:

        def run(x_dtype: torch.dtype = x_dtype) -> list[Tensor]:
            x_hat = torch.zeros(4, 5, dtype=dtype, requires_grad=True)
            x = torch.zeros(4, 5, dtype=x_dtype, requires_grad=True)
            log_gamma, kl = torch.zeros((), requires_grad=True), torch.zeros(4, requires_grad=True)
            outputs = gaussian_elbo(x_hat, x, log_gamma, kl)
            return [*outputs, *grad(outputs[0], (x_hat, x, log_gamma, kl))]

        assert_the_same_on_fake_tensors(run)


def vae_loss(
    heads: Tensor, x: Tensor, weight: Tensor, log_gamma: Tensor, seed: int | Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    mu, log_var = heads.chunk(2, dim=1)
    z, kl = mc.rsample_kl(mu, log_var, seed=seed, first_row=7)
    _, kls = mc.rsample_kl(mu, log_var, seed=seed, per_dimension=True)
    x_hat = z @ weight
    loss, _, squared_error = gaussian_elbo(x_hat, x, log_gamma, kl, beta=0.5)
    return loss + mc.gaussian_nll(x_hat, x, log_gamma).mean() + kls.square().mean(), z, squared_error


def evaluate(function: Callable[..., tuple[Tensor, ...]], batch: int, seed: int | Tensor | None) -> list[Tensor]:
    """Results and gradients, with the same arguments for the same batch."""
    generator = torch.Generator().manual_seed(batch)
    heads = torch.randn(batch, 10, dtype=torch.float64, generator=generator, requires_grad=True)
    x = torch.randn(batch, 7, dtype=torch.float64, generator=generator)
    weight = torch.randn(5, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    log_gamma = torch.tensor(0.3, requires_grad=True)
    results = function(heads, x, weight, log_gamma, seed)
    return [*(r.detach() for r in results), *grad(results[0], (heads, weight, log_gamma))]


def assert_alike(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        # A compiler may order a sum in another way, no more; log_gamma, and so its gradient, is in float32.
        torch.testing.assert_close(a, b, rtol=1e-6 if b.dtype == torch.float32 else 1e-12, atol=1e-12)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_loss_is_the_eager_one(fresh_compiler: None, dynamic: bool) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    function = torch.compile(vae_loss, fullgraph=True, backend=counter, dynamic=dynamic)
    for batch in (4, 9, 33):
        for seed in (torch.tensor(3), torch.tensor(2**62 + 1)):
            assert_alike(evaluate(function, batch, seed), evaluate(vae_loss, batch, seed))
    assert counter.frame_count == (1 if dynamic else 3)


def test_compiled_loss_for_a_seed_that_is_an_int(fresh_compiler: None) -> None:
    function = torch.compile(vae_loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for seed in (0, 5, 2**62 + 1):
        assert_alike(evaluate(function, 6, seed), evaluate(vae_loss, 6, seed))


def test_compiled_loss_for_a_seed_that_is_drawn(fresh_compiler: None) -> None:
    function = torch.compile(vae_loss, fullgraph=True, backend="aot_eager", dynamic=True)
    state = torch.get_rng_state()
    try:
        found = []
        for candidate in (vae_loss, function):
            torch.manual_seed(5)
            found.append([evaluate(candidate, 6, None), evaluate(candidate, 6, None)])
    finally:
        torch.set_rng_state(state)
    for eager, compiled in zip(*found, strict=True):
        assert_alike(compiled, eager)
    assert not torch.equal(found[1][0][1], found[1][1][1])  # the graph draws anew on each call


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_compiled_loss_with_any_incoming_gradient(fresh_compiler: None, factor: float) -> None:
    # Eager mode looks whether the incoming gradient is 1; a graph must not.
    def scaled(*arguments: Tensor) -> tuple[Tensor, ...]:
        loss, z, squared_error = vae_loss(*arguments)
        return factor * loss + squared_error.mean(), z, squared_error

    function = torch.compile(scaled, fullgraph=True, backend="aot_eager")
    assert_alike(evaluate(function, 6, torch.tensor(3)), evaluate(scaled, 6, torch.tensor(3)))

    compiled_loss = torch.compile(lambda *a: vae_loss(*a)[:1], fullgraph=True, backend="aot_eager")
    outside = evaluate(lambda *a: (factor * compiled_loss(*a)[0],), 6, torch.tensor(3))
    assert_alike(outside, evaluate(lambda *a: (factor * vae_loss(*a)[0],), 6, torch.tensor(3)))


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="inductor needs a compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # of torch itself
def test_inductor_gives_the_eager_loss(fresh_compiler: None) -> None:
    function = torch.compile(vae_loss, fullgraph=True, dynamic=True)
    for batch in (4, 9):
        assert_alike(evaluate(function, batch, torch.tensor(3)), evaluate(vae_loss, batch, torch.tensor(3)))
