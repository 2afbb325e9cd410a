import importlib.util
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from dtypes import DTYPES
from manifold_core.kernels import gaussian_elbo
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch import config as functorch
from torch._inductor import config as inductor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad, grad
from torch.library import opcheck
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

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
IN_THE_INTERPRETER = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or torch.cuda.is_available(),
    reason="Triton takes CPU tensors in its interpreter alone: where it is installed, and there is no GPU",
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
        real = operator(*arguments)
        with FakeTensorMode() as mode:
            fake = operator(*(mode.from_tensor(v) if isinstance(v, Tensor) else v for v in arguments))
        for a, b in zip(*(pytree.tree_leaves(results) for results in (fake, real)), strict=True):
            assert (a.shape, a.dtype, a.stride(), a.device) == (b.shape, b.dtype, b.stride(), b.device)


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


@pytest.mark.parametrize("library", ["manifold_core", pytest.param("manifold_core_triton", marks=IN_THE_INTERPRETER)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_fake_results_are_like_real_ones(name: str, dtype: torch.dtype, library: str) -> None:
    operator = getattr(getattr(torch.ops, library), name).default
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


def vae_loss(
    heads: Tensor, x: Tensor, weight: Tensor, log_gamma: Tensor, seed: int | Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    mu, log_var = heads.chunk(2, dim=1)
    z, kl = mc.rsample_kl(mu, log_var, seed=seed, first_row=7)
    _, kls = mc.rsample_kl(mu, log_var, seed=seed, per_dimension=True)
    x_hat = z @ weight
    loss, _, squared_error = gaussian_elbo(x_hat, x, log_gamma, kl, beta=0.5)
    return loss + mc.gaussian_nll(x_hat, x, log_gamma).mean() + kls.square().mean(), z, squared_error


def cholesky_loss(
    heads: Tensor, x: Tensor, weight: Tensor, log_gamma: Tensor, seed: int | Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    mu = heads[:, :4]  # the triangle of which has all ten numbers
    z, kl = mc.rsample_kl_cholesky(mu, heads, seed=seed, first_row=7)
    prior = heads[:, 4:8], heads[0, 6:]
    _, kls, ratio = mc.rsample_kl_cholesky(mu, heads, *prior, seed=seed, per_dimension=True, return_variance_ratio=True)
    nll = mc.gaussian_nll(z @ weight[:4], x, log_gamma)
    return (nll + kl).mean() + kls.square().mean(), z, ratio


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
@pytest.mark.parametrize("loss", [vae_loss, cholesky_loss])
def test_compiled_loss_is_the_eager_one(
    fresh_compiler: None, loss: Callable[..., tuple[Tensor, ...]], dynamic: bool
) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    function = torch.compile(loss, fullgraph=True, backend=counter, dynamic=dynamic)
    for batch in (4, 9, 33):
        for seed in (torch.tensor(3), torch.tensor(2**62 + 1)):
            assert_alike(evaluate(function, batch, seed), evaluate(loss, batch, seed))
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


def triton_loss(
    heads: Tensor, x: Tensor, weight: Tensor, log_gamma: Tensor, seed: int | Tensor | None, backend: str
) -> tuple[Tensor, Tensor]:
    mu, log_var = heads.chunk(2, dim=1)
    z, kl = mc.rsample_kl(mu, log_var, mu[0], log_var[1:2], gate_logits=mu[2], seed=seed, backend=backend)
    y, kl_of_y = mc.rsample_kl_cholesky(heads[:, :4], heads, seed=seed, backend=backend)
    loss, _, _ = gaussian_elbo(z @ weight, x, log_gamma, kl, beta=0.5, backend=backend)
    return loss + (mc.gaussian_nll(y @ weight[:4], x, log_gamma, backend=backend) + kl_of_y).mean(), z


@IN_THE_INTERPRETER
def test_compiled_loss_of_triton_is_that_of_the_reference(fresh_compiler: None) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    function = torch.compile(triton_loss, fullgraph=True, backend=counter, dynamic=True)
    for batch in (4, 9):
        found = evaluate(lambda *a: function(*a, backend="triton"), batch, torch.tensor(3))
        eager = evaluate(lambda *a: triton_loss(*a, backend="triton"), batch, torch.tensor(3))
        expected = evaluate(lambda *a: triton_loss(*a, backend="reference"), batch, torch.tensor(3))
        assert_alike(found, eager)
        assert_alike(found, expected)
    assert counter.frame_count == 1


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="inductor needs a compiler")
@pytest.mark.skipif(" " in torch.__file__, reason="inductor links no torch whose path has a space")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # of torch itself
def test_inductor_gives_the_eager_loss(fresh_compiler: None) -> None:
    def loss(*arguments: Any) -> tuple[Tensor, ...]:
        diagonal, full = vae_loss(*arguments), cholesky_loss(*arguments)
        return diagonal[0] + full[0], *diagonal[1:], *full[1:]

    function = torch.compile(loss, fullgraph=True, dynamic=True)
    # A graph that is kept on disk knows the operators as they were when it was made.
    with inductor.patch(fx_graph_cache=False), functorch.patch(enable_autograd_cache=False):
        for batch in (4, 9):
            assert_alike(evaluate(function, batch, torch.tensor(3)), evaluate(loss, batch, torch.tensor(3)))


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


def test_vmap_draws_the_noise_it_is_told_to() -> None:
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


def test_a_compiled_gradient_by_what_requires_grad_is_told_to_detach_it(fresh_compiler: None) -> None:
    """torch differentiates a compiled function by all that requires grad, that of torch.func.grad once more."""
    slope = torch.compile(
        torch.func.grad(lambda m: mc.rsample_kl(m, m, seed=torch.tensor(1))[1].sum()), backend="aot_eager"
    )
    mu = torch.linspace(-1, 2, 20).view(4, 5).requires_grad_()
    with pytest.raises(RuntimeError, match=r"asked for; .* requires grad: give it detached\.\)"):
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
def test_derivatives_forward_are_refused_and_the_reference_has_them() -> None:
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
def test_compiled_derivatives_forward_are_refused(fresh_compiler: None, name: str) -> None:
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
