"""The CUDA kernels: on a GPU where there is one, and everywhere compiled for the processor, thread by thread.

Operators are called below the public functions, with the autograd formulas of every backend: results and gradients are
held against the definitions in float64.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import oracles
import pytest
import torch
from cuda_on_host.build import NAMESPACE, load
from cuda_on_host.kernels import NEEDS_COMPILER, NEEDS_DEVICE, Kernels
from hypothesis import example, given, settings
from hypothesis import strategies as st
from manifold_core.kernels.gaussian_elbo import reference
from manifold_core.kernels.random import noise_words, standard_normal
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
VIEWS = ("dense", "first head", "second head", "transposed", "steps", "offset")
LAYOUTS = (*VIEWS, "one row", "one column", "one number")
# Where blocks, warps and groups of four columns end, and rows longer than a block.
SHAPES = (
    st.tuples(st.integers(1, 9), st.integers(1, 70))
    | st.tuples(st.integers(200, 700), st.integers(1, 6))
    | st.tuples(st.integers(1, 5), st.sampled_from([127, 128, 129, 256, 500, 1000, 1023, 1024, 1025, 2052]))
)
SEEDS = st.integers(0, 2**63 - 1)
FIRST_ROWS = st.sampled_from([0, 0, 1, 1000, 2**32 - 3, 2**40])
DENSE = ("dense",) * 6


def on_host() -> Any:
    """The operators compiled for this processor, and what there is to test the host with."""
    load()
    return getattr(torch.ops, NAMESPACE)


NAMES = ("mu", "log_var", "prior_mu", "prior_log_var", "gate_logits")


class Case(NamedTuple):
    shape: tuple[int, int]
    dtypes: tuple[torch.dtype, ...]  # of the inputs in the order of NAMES
    layouts: tuple[str, ...]  # of these, and of the incoming gradients
    prior: str  # "", "each" (row its own) or "one" (for all)
    gate: str
    learn: str  # which inputs need a gradient: "all", or "posterior"
    per_dimension: bool
    wanted: str  # which output has an incoming gradient
    seed: int
    first_row: int


CASES = st.builds(
    Case,
    SHAPES,
    st.sampled_from([(a,) * 5 for a in DTYPES] * 2) | st.tuples(*[st.sampled_from(DTYPES)] * 5),
    st.just(DENSE) | st.tuples(*[st.sampled_from(LAYOUTS)] * 6),
    st.sampled_from(["", "each", "one"]),
    st.sampled_from(["", "each", "one"]),
    st.sampled_from(["all", "all", "all", "posterior"]),
    st.booleans(),
    st.sampled_from(["z", "kl", "both"]),
    SEEDS,
    FIRST_ROWS,
)
F32 = (torch.float32,) * 5
BF16 = (torch.bfloat16,) * 5


class Arguments(NamedTuple):
    """What is not given is not among the inputs."""

    inputs: dict[str, Tensor]
    grad_z: Tensor | None
    grad_kl: Tensor | None
    wide: torch.dtype

    def all(self) -> list[Tensor | None]:
        """The inputs in the order of NAMES, or with ``tril`` in the place of ``log_var`` and no gate."""
        names = ("mu", "tril", "prior_mu", "prior_log_var") if "tril" in self.inputs else NAMES
        return [self.inputs.get(name) for name in names]

    def everything(self) -> list[Tensor]:
        return [t.detach() for t in (*self.inputs.values(), self.grad_z, self.grad_kl) if t is not None]


@pytest.fixture
def incoming(
    kernels: Kernels,
    lay_out: Callable[[Tensor, str], Tensor],
    lay_out_vector: Callable[[Tensor, str], Tensor],
    any_magnitude: Callable[..., Tensor],
) -> Callable[..., Arguments]:
    """The inputs of a case, and incoming gradients of z and of kl."""

    def of(case: Any, generator: torch.Generator, inputs: dict[str, Tensor]) -> Arguments:
        wide = torch.float64 if any(t.dtype == torch.float64 for t in inputs.values()) else torch.float32
        z_type = torch.promote_types(case.dtypes[0], case.dtypes[1])
        grad_z = any_magnitude(generator, case.shape, 1e-3, 1e3).to(kernels.device, z_type)
        grad_kl = any_magnitude(generator, case.shape if case.per_dimension else case.shape[:1], 1e-3, 1e3)
        grad_kl = (lay_out if case.per_dimension else lay_out_vector)(grad_kl.to(kernels.device, wide), case.layouts[5])
        for name, tensor in inputs.items():
            tensor.requires_grad_(case.learn == "all" or name in ("mu", "log_var", "tril"))
        return Arguments(
            inputs,
            None if case.wanted == "kl" else lay_out(grad_z, case.layouts[5]),
            None if case.wanted == "z" else grad_kl,
            wide,
        )

    return of


@pytest.fixture
def make(
    kernels: Kernels,
    incoming: Callable[..., Arguments],
    lay_out: Callable[[Tensor, str], Tensor],
    any_magnitude: Callable[..., Tensor],
) -> Callable[[Case], Arguments]:
    """The arguments of a case. Logarithms of variances reach from -80 to 80, their difference hardly farther."""

    def of(case: Case) -> Arguments:
        generator = torch.Generator().manual_seed(case.seed % 2**32)
        rows, cols = case.shape
        prior_rows, gate_rows = (1 if kind == "one" else rows for kind in (case.prior, case.gate))
        log_var = any_magnitude(generator, (rows, cols), 1e-8, 80)
        apart = any_magnitude(generator, (prior_rows, cols), 1e-8, 85)
        # Where a number stands for many, so do its differences from theirs: none may overflow.
        if case.prior == "one" or {case.layouts[1], case.layouts[3]} & {"one row", "one column", "one number"}:
            log_var, apart = log_var / 4, apart / 2.2
        draws = {
            "mu": any_magnitude(generator, (rows, cols), 1e-8, 100),
            "log_var": log_var,
            "prior_mu": any_magnitude(generator, (prior_rows, cols), 1e-8, 100),
            "prior_log_var": (log_var[:prior_rows] - apart).clamp(-80, 80),
            "gate_logits": any_magnitude(generator, (gate_rows, cols), 1e-3, 60),
        }
        left_out = [*(() if case.prior else NAMES[2:4]), *(() if case.gate else NAMES[4:])]
        inputs = {
            name: lay_out(draws[name].to(kernels.device, dtype), layout)
            for name, dtype, layout in zip(NAMES, case.dtypes, case.layouts, strict=False)
            if name not in left_out
        }
        return incoming(case, generator, inputs)

    return of


@settings(max_examples=100)
@given(CASES)
@example(Case((1, 1), F32, DENSE, "", "", "all", False, "both", 1, 0))
@example(Case((700, 20), F32, DENSE, "", "", "all", False, "both", 1, 0))
@example(Case((9000, 70), F32, DENSE, "each", "", "all", False, "both", 1, 0))
@example(Case((700, 20), BF16, DENSE, "one", "one", "all", False, "both", 1, 0))
@example(Case((1400, 3), F32, DENSE, "one", "each", "all", False, "both", 1, 2**33))
@example(Case((37, 1028), F32, DENSE, "one", "one", "all", True, "both", 1, 7))
@example(Case((270_000, 1), F32, DENSE, "one", "one", "all", False, "both", 1, 7))
@example(Case((1100, 260), F32, DENSE, "one", "", "all", False, "both", 1, 0))
def test_rsample_kl_is_its_definition_in_float64(
    kernels: Kernels,
    poisoned: Callable[..., tuple[Tensor, ...]],
    make: Callable[[Case], Arguments],
    assert_within: Callable[..., None],
    allowed: dict[torch.dtype, float],
    sum_rounding: Callable[[int, torch.dtype], float],
    case: Case,
) -> None:
    a = make(case)
    before = [t.clone() for t in a.everything()]
    seed = kernels.scalar(case.seed, torch.int64)
    learn = [t for t in a.inputs.values() if t.requires_grad]

    def run() -> tuple[Tensor, ...]:
        rest = seed, case.first_row, case.per_dimension, True
        z, kl, ratio = kernels.differentiable["rsample_kl"](*a.all(), *rest)
        return z, kl, ratio, *oracles.gradients((z, kl), (a.grad_z, a.grad_kl), learn)

    results = [t.detach().cpu() for t in poisoned(run)]
    z_type = torch.promote_types(case.dtypes[0], case.dtypes[1])
    assert [t.dtype for t in results] == [z_type, a.wide, a.wide, *(t.dtype for t in learn)]
    without = kernels.operators.rsample_kl(*a.all(), seed, case.first_row, False, False)
    assert torch.equal(without[0].cpu(), results[0])

    expected = oracles.of_rsample_kl(a.inputs, case.seed, case.first_row, case.per_dimension, a.grad_z, a.grad_kl)
    row_sum = 0 if case.per_dimension else sum_rounding(case.shape[1], a.wide)
    for (name, (exact, size, _)), found in zip(expected.items(), results, strict=True):
        rounding = allowed[a.wide] + (row_sum if name == "kl" else 0)
        assert_within(name, found, exact, rounding * size, a.wide)
    for old, new in zip(before, a.everything(), strict=True):
        assert torch.equal(old, new)


@NEEDS_COMPILER
def test_words_are_the_published_ones() -> None:
    inputs = torch.tensor([(*counter, *key) for counter, key, _ in oracles.PHILOX])
    assert on_host().philox(inputs).tolist() == [list(words) for *_, words in oracles.PHILOX]


@NEEDS_COMPILER
@given(SEEDS, st.integers(0, 2**63 - 10) | FIRST_ROWS, st.integers(1, 9), st.integers(1, 70) | st.just(1030))
@example(2**63 - 1, 2**32 - 2, 5, 1)
def test_words_are_those_of_the_definition(seed: int, first_row: int, rows: int, cols: int) -> None:
    expected = noise_words(torch.tensor(seed), rows, cols, first_row)
    assert torch.equal(on_host().noise_words(torch.tensor(seed), first_row, *expected.shape), expected)


def test_the_noise_is_the_same_to_the_last_bit_but_rounding(kernels: Kernels) -> None:
    # Any other word would be another number: 2^32 of them share the interval.
    for rows, cols, first_row, seed in ((5, 37, 0, 1), (3, 4, 2**32 - 2, 2**63 - 1), (2, 1026, 2**40, 12345678901)):
        zeros = torch.zeros(rows, cols, dtype=torch.float64, device=kernels.device)
        seeds = kernels.scalar(seed, torch.int64)
        z, _, _ = kernels.operators.rsample_kl(zeros, zeros, None, None, None, seeds, first_row, False, False)
        noise = standard_normal(torch.tensor(seed), rows, cols, first_row)
        torch.testing.assert_close(z.cpu(), noise, rtol=1e-14, atol=0)
        packed = zeros.new_zeros(rows, cols * (cols + 1) // 2)
        z, _, _ = kernels.operators.rsample_kl_cholesky(zeros, packed, None, None, seeds, first_row, False, False)
        torch.testing.assert_close(z.cpu(), noise, rtol=1e-14, atol=0)


class CholeskyCase(NamedTuple):
    shape: tuple[int, int]
    dtypes: tuple[torch.dtype, ...]  # of mu, of tril and of the prior's two
    layouts: tuple[str, ...]
    prior: str
    learn: str
    per_dimension: bool
    wanted: str
    seed: int
    first_row: int


CHOLESKY_CASES = st.builds(
    CholeskyCase,
    st.tuples(st.integers(1, 9), st.integers(1, 70))
    | st.tuples(st.integers(100, 300), st.integers(1, 6))
    | st.tuples(st.integers(1, 3), st.sampled_from([127, 128, 129, 256, 300])),
    st.sampled_from([(a,) * 4 for a in DTYPES] * 2) | st.tuples(*[st.sampled_from(DTYPES)] * 4),
    st.just(DENSE) | st.tuples(*[st.sampled_from(LAYOUTS)] * 6),
    st.sampled_from(["", "each", "one"]),
    st.sampled_from(["all", "all", "all", "posterior"]),
    st.booleans(),
    st.sampled_from(["z", "kl", "both"]),
    SEEDS,
    FIRST_ROWS,
)


@settings(max_examples=60)
@given(CHOLESKY_CASES)
@example(CholeskyCase((1, 1), F32[:4], DENSE, "", "all", False, "both", 1, 0))
@example(CholeskyCase((70, 32), F32[:4], DENSE, "one", "all", False, "both", 1, 0))
@example(CholeskyCase((40, 32), BF16[:4], DENSE, "one", "all", False, "both", 1, 0))
@example(CholeskyCase((2, 1024), F32[:4], DENSE, "one", "all", False, "both", 1, 3))
@example(CholeskyCase((3, 1030), F32[:4], DENSE, "one", "all", False, "both", 1, 3))
@example(CholeskyCase((2, 2052), (torch.float64,) * 4, DENSE, "one", "all", True, "both", 1, 2**40))
@example(CholeskyCase((4200, 33), F32[:4], DENSE, "one", "all", False, "both", 1, 3))
def test_rsample_kl_cholesky_is_its_definition_in_float64(
    kernels: Kernels,
    poisoned: Callable[..., tuple[Tensor, ...]],
    incoming: Callable[..., Arguments],
    lay_out: Callable[[Tensor, str], Tensor],
    any_magnitude: Callable[..., Tensor],
    assert_within: Callable[..., None],
    allowed: dict[torch.dtype, float],
    sum_rounding: Callable[[int, torch.dtype], float],
    case: CholeskyCase,
) -> None:
    rows, cols = case.shape
    generator = torch.Generator().manual_seed(case.seed % 2**32)
    at = torch.arange(cols)
    prior_rows = 1 if case.prior == "one" else rows
    tril = any_magnitude(generator, (rows, cols * (cols + 1) // 2), 1e-6, 100)
    tril[:, at * (at + 3) // 2] = any_magnitude(generator, case.shape, 1e-8, 20)  # log L_ii
    draws = {"mu": any_magnitude(generator, case.shape, 1e-8, 100), "tril": tril}
    if case.prior:
        draws["prior_mu"] = any_magnitude(generator, (prior_rows, cols), 1e-8, 100)
        draws["prior_log_var"] = any_magnitude(generator, (prior_rows, cols), 1e-8, 40)
    # The columns of tril differ in meaning: one number for all would make a huge variance of an ordinary covariance.
    packed_as = case.layouts[1] if case.layouts[1] in (*VIEWS, "one row") else "dense"
    layouts = (case.layouts[0], packed_as, *case.layouts[2:4])
    inputs = {
        name: lay_out(values.to(kernels.device, dtype), layout)
        for (name, values), dtype, layout in zip(draws.items(), case.dtypes, layouts, strict=False)
    }
    a = incoming(case, generator, inputs)
    before = [t.clone() for t in a.everything()]
    seed = kernels.scalar(case.seed, torch.int64)
    learn = [t for t in inputs.values() if t.requires_grad]

    def run() -> tuple[Tensor, ...]:
        rest = seed, case.first_row, case.per_dimension, True
        z, kl, ratio = kernels.differentiable["rsample_kl_cholesky"](*a.all(), *rest)
        return z, kl, ratio, *oracles.gradients((z, kl), (a.grad_z, a.grad_kl), learn)

    results = [t.detach().cpu() for t in poisoned(run)]
    z_type = torch.promote_types(case.dtypes[0], case.dtypes[1])
    assert [t.dtype for t in results] == [z_type, a.wide, a.wide, *(t.dtype for t in learn)]

    expected = oracles.of_rsample_kl(inputs, case.seed, case.first_row, case.per_dimension, a.grad_z, a.grad_kl)
    for (name, (exact, size, _)), found in zip(expected.items(), results, strict=True):
        sums_a_line = name in ("z", "kl", "variance_ratio", "grad_prior_log_var")
        rounding = allowed[a.wide] + (sum_rounding(cols, a.wide) if sums_a_line else 0)
        assert_within(name, found, exact, rounding * size, a.wide)
    for old, new in zip(before, a.everything(), strict=True):
        assert torch.equal(old, new)


@contextmanager
def of_each_capability(kernels: Kernels) -> Iterator[Iterator[None]]:
    """A turn for devices that can copy while they work, and one for those that cannot; a real one has a single turn."""
    if kernels.device.type != "cpu":
        yield iter((None,))
        return
    run, device = on_host(), (227 << 10, 3, 0)
    yield (run.set_device(*device, capability) for capability in (7, 9))
    run.set_device(*device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["dense", "first head", "offset"])
@pytest.mark.parametrize("cols", [1, 7, 20, 64, 100, 128])
def test_a_sample_of_full_covariance_is_the_same_wherever_it_stands(
    kernels: Kernels, lay_out: Callable[[Tensor, str], Tensor], cols: int, layout: str, dtype: Any
) -> None:
    """A block takes many of a large batch in turn: one is copied while another is worked on."""
    rows, generator = (3 * 256 // cols + 7) * (1 if kernels.device.type == "cpu" else 200), torch.Generator()
    packed = cols * (cols + 1) // 2
    mu, grad_z, grad_kl, tril = (
        0.3 * torch.randn(rows, *size, generator=generator.manual_seed(seed))
        for seed, size in enumerate([[cols], [cols], [], [packed]])
    )
    mu, grad_z, grad_kl = (t.to(kernels.device, dtype) for t in (mu, grad_z, grad_kl))
    tril, seed = lay_out(tril.to(kernels.device, dtype), layout).detach(), kernels.scalar(5, torch.int64)
    run = kernels.operators

    def results(first: int, last: int) -> tuple[Tensor, ...]:
        at = slice(first, last)
        z, kl, _ = run.rsample_kl_cholesky(mu[at], tril[at], None, None, seed, first, False, False)
        given = grad_z[at], grad_kl[at], mu[at], tril[at], None, None, seed, first, False
        return z, kl, *run.rsample_kl_cholesky_backward(*given)[:2]

    with of_each_capability(kernels) as turns:
        for _ in turns:
            whole = results(0, rows)
            for first, last in ((0, 1), (rows // 2, rows // 2 + 3), (rows - 1, rows)):
                for found, expected in zip(results(first, last), whole, strict=True):
                    assert torch.equal(found, expected[first:last])


class GaussianCase(NamedTuple):
    shape: tuple[int, int]
    dtypes: tuple[torch.dtype, torch.dtype]  # of x_hat and x
    layouts: tuple[str, str, str]  # of x_hat, x and of one number a row
    log_gamma: float
    log_gamma_type: torch.dtype
    beta: float
    wanted: str
    early: bool  # gaussian_elbo writes its gradients in the forward pass
    seed: int


GAUSSIAN_CASES = st.builds(
    GaussianCase,
    SHAPES | st.tuples(st.integers(1, 3), st.sampled_from([3001, 20_000])),
    st.sampled_from([(a, a) for a in DTYPES] * 2 + [(a, b) for a in DTYPES for b in DTYPES if a != b]),
    st.just(("dense",) * 3) | st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    st.floats(-60, 60) | st.sampled_from([0.0, -60.0, 60.0]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([0.0, 1.0, 0.37, 4.0]),
    st.sampled_from(["nll", "squared error", "both"]),
    st.booleans(),
    st.integers(0, 2**31),
)


@settings(max_examples=80)
@given(GAUSSIAN_CASES)
@example(GaussianCase((1, 1), (torch.float32,) * 2, ("dense",) * 3, 0.0, torch.float32, 1.0, "both", True, 1))
@example(GaussianCase((512, 784), (torch.float32,) * 2, ("dense",) * 3, -5.0, torch.float32, 1.0, "both", True, 1))
@example(GaussianCase((9000, 70), (torch.float32,) * 2, ("dense",) * 3, -5.0, torch.float32, 1.0, "both", True, 1))
@example(GaussianCase((3, 100_000), (torch.float32,) * 2, ("dense",) * 3, 60.0, torch.float64, 1.0, "both", True, 1))
@example(GaussianCase((290_000, 3), (torch.float32,) * 2, ("dense",) * 3, 1.0, torch.float64, 1.0, "both", True, 1))
def test_gaussian_nll_and_elbo_are_their_definitions_in_float64(
    kernels: Kernels,
    poisoned: Callable[..., tuple[Tensor, ...]],
    lay_out: Callable[[Tensor, str], Tensor],
    lay_out_vector: Callable[[Tensor, str], Tensor],
    any_magnitude: Callable[..., Tensor],
    assert_within: Callable[..., None],
    allowed: dict[torch.dtype, float],
    sum_rounding: Callable[[int, torch.dtype], float],
    case: GaussianCase,
) -> None:
    rows, cols = case.shape
    wide = torch.float64 if torch.float64 in case.dtypes else torch.float32
    generator = torch.Generator().manual_seed(case.seed)
    target = torch.randn(case.shape, generator=generator, dtype=torch.float64)
    values = (target + any_magnitude(generator, case.shape, 1e-4, 100), target)
    x_hat, x = (
        lay_out(value.to(kernels.device, dtype), layout)
        for value, dtype, layout in zip(values, case.dtypes, case.layouts, strict=False)
    )
    kl, grad_nll, grad_squared_error = (
        lay_out_vector(any_magnitude(generator, (rows,), 1e-3, 1e3).to(kernels.device, wide), case.layouts[2])
        for _ in range(3)
    )
    log_gamma, one = kernels.scalar(case.log_gamma, case.log_gamma_type), kernels.scalar(1, wide)
    learn = {"x_hat": x_hat.requires_grad_(), "log_gamma": log_gamma.requires_grad_()}
    if case.dtypes[0] == case.dtypes[1]:  # else the gradient that is written early has not the precision of x
        learn["x"] = x.requires_grad_()
    learn_early = {**learn, "kl": kl.requires_grad_()}
    incoming = (
        None if case.wanted == "squared error" else grad_nll,
        None if case.wanted == "nll" else grad_squared_error,
    )

    def run() -> tuple[Tensor, ...]:
        outputs = kernels.differentiable["gaussian_nll"](x_hat, x, log_gamma)
        elbo = kernels.differentiable["gaussian_elbo"](x_hat, x, log_gamma, kl, case.beta, case.early)
        grads = oracles.gradients(outputs, incoming, learn.values())
        return *outputs, *elbo, *grads, *oracles.gradients(elbo[:1], (one,), learn_early.values())

    nll, squared_error, loss, same_nll, same_squared_error, *grads = (t.detach().cpu() for t in poisoned(run))
    assert torch.equal(nll, same_nll)
    assert torch.equal(squared_error, same_squared_error)
    assert nll.dtype == squared_error.dtype == loss.dtype == wide
    assert [g.dtype for g in grads] == [t.dtype for t in (*learn.values(), *learn_early.values())]
    with torch.no_grad():
        other_way = kernels.operators.gaussian_elbo(x_hat, x, log_gamma, kl, case.beta, not case.early)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(other_way[:3], (loss, nll, squared_error), strict=True))
    assert other_way[3].shape == (0 if case.early else rows, cols)

    exact = {name: oracles.in_float64(t) for name, t in {"x": x, **learn_early}.items()}
    given = exact["x_hat"], exact["x"], exact["log_gamma"]
    exact_loss, exact_nll, exact_squared_error = reference.gaussian_elbo(*given, exact["kl"], case.beta)
    gn, gs = (g if g is None else oracles.in_float64(g) for g in incoming)
    exact_grads = oracles.gradients((exact_nll, exact_squared_error), (gn, gs), [exact[name] for name in learn])
    of_loss = oracles.gradients((exact_loss,), (torch.ones_like(exact_loss),), [exact[name] for name in learn_early])

    with torch.no_grad():
        relative, summed = allowed[wide], allowed[wide] + sum_rounding(cols, wide)
        assert_within("squared_error", squared_error, exact_squared_error, summed * exact_squared_error, wide)
        inverse = math.exp(-log_gamma.item())
        scaled = exact_squared_error * inverse
        # The constant, too, is a sum of two terms which may cancel.
        constant = cols * (math.log(2 * math.pi) + abs(log_gamma.item()))
        nll_bound = (summed * scaled + relative * constant) / 2
        assert_within("nll", nll, exact_nll, nll_bound, wide)
        weighted = case.beta * exact["kl"]
        loss_bound = (nll_bound + relative * (exact_nll.abs() + weighted.abs())).mean()
        assert_within("loss", loss, exact_loss, loss_bound, wide)

        def bounds(gn: Tensor, gs: Tensor) -> dict[str, Tensor]:
            of_x = (gn * inverse + 2 * gs).unsqueeze(1) * (exact["x_hat"] - exact["x"]).abs()
            of_log_gamma = (gn * (cols + scaled)).sum() / 2
            bound = {"x_hat": relative * of_x, "x": relative * of_x, "log_gamma": summed * of_log_gamma}
            return {**bound, "kl": relative * case.beta * gn}

        gn, gs = (torch.zeros(rows) if g is None else g.abs() for g in (gn, gs))
        wanted = bounds(gn, gs), bounds(torch.full((rows,), 1 / rows).double(), torch.zeros(rows))
        names = [(name, wanted[0]) for name in learn] + [(name, wanted[1]) for name in learn_early]
        for (name, bound), found, expected in zip(names, grads, exact_grads + of_loss, strict=True):
            arithmetic = torch.promote_types(wide, found.dtype) if name == "log_gamma" else wide
            assert_within(f"grad_{name}", found, expected, bound[name], arithmetic)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cols", [64, 63])
def test_results_are_rounded_to_nearest_and_ties_to_even(kernels: Kernels, cols: int, dtype: torch.dtype) -> None:
    # The gradient is x_hat - x, exact in float32: every number of a binade and half of its last place more, or less.
    steps = 2 ** (7 if dtype == torch.bfloat16 else 10)
    x_hat = (1 + torch.arange(32 * cols) % steps / steps).reshape(32, cols).to(kernels.device, dtype)
    half = torch.full_like(x_hat, 0.5 / steps)
    x_hat[:, :2] = torch.finfo(dtype).max  # half a place more is infinite
    half[:, :2] = -torch.finfo(dtype).max / 2**8
    half[1] = math.nan
    scale, log_gamma = kernels.scalar(0.5, torch.float32).expand(32), kernels.scalar(0, torch.float32)
    for x in (half, -half, half / 2):
        found, _ = kernels.operators.gaussian_nll_backward(None, scale, x_hat, x, log_gamma, scale)
        expected = (x_hat.float() - x.float()).to(dtype)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 7), (5, 0), (0, 0), (0, 300)])
def test_nothing_to_do(
    kernels: Kernels, poisoned: Callable[..., tuple[Tensor, ...]], shape: tuple[int, int], dtype: torch.dtype
) -> None:
    rows, cols = shape
    x = torch.empty(shape, dtype=dtype, device=kernels.device)
    tril = torch.empty(rows, cols * (cols + 1) // 2, dtype=dtype, device=kernels.device)
    one = torch.ones(1, cols, dtype=dtype, device=kernels.device)
    kl = torch.ones(rows, dtype=torch.promote_types(dtype, torch.float32), device=kernels.device)
    seed, log_gamma = kernels.scalar(1, torch.int64), kernels.scalar(0.5, torch.float32)
    run = kernels.operators

    def call() -> tuple[Tensor, ...]:
        return (
            *run.rsample_kl(x, x, one, one, one, seed, 0, False, True),
            *run.rsample_kl_cholesky(x, tril, one, one, seed, 0, False, True),
            *run.rsample_kl_backward(x, kl, x, x, one, one, one, seed, 0, True, True)[2:],
            *run.rsample_kl_cholesky_backward(x, kl, x, tril, one, one, seed, 0, True)[2:],
            *run.gaussian_nll(x, x, log_gamma),
            *run.gaussian_nll_backward(kl, kl, x, x, log_gamma, kl * 0),
        )

    _, kl_a, ratio_a, _, kl_b, ratio_b, *grads, nll, squared_error, _, grad_log_gamma = poisoned(call)
    for found in (kl_a, kl_b, nll, squared_error):
        assert torch.equal(found, torch.zeros_like(kl))
    for ratio in (ratio_a, ratio_b):
        assert ratio.shape == (cols,)
        assert rows or ratio.isnan().all()
    if rows == 0:
        assert all(torch.equal(g, torch.zeros_like(one)) for g in grads)
    assert grad_log_gamma == 0
    loss, *_, early_grad_log_gamma, _ = run.gaussian_elbo(x, x, log_gamma, kl, 1.0, True)
    assert loss.isnan() if rows == 0 else loss == 1
    assert early_grad_log_gamma == 0


@pytest.mark.parametrize("factor", [1.0, 0.0, -0.3, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 3), (16, 20), (3, 700_001)])  # the last: each thread has several
def test_gradients_written_early_are_scaled_in_place(
    kernels: Kernels, shape: tuple[int, int], dtype: torch.dtype, factor: float
) -> None:
    """Bit for bit a product, and nothing beside it is touched."""
    of_all = torch.randn(shape[0] * shape[1] + 8, dtype=dtype).to(kernels.device)
    grad_x_hat = of_all[4:-4].view(shape)
    others = kernels.scalar(0.7, torch.float32), kernels.scalar(0.3, torch.float64)
    expected = of_all.clone()
    expected[4:-4] *= factor
    expected_others = [other * factor for other in others]
    kernels.operators.gaussian_elbo_scale(grad_x_hat, *others, kernels.scalar(factor, dtype))
    torch.testing.assert_close(of_all, expected, rtol=0, atol=0, equal_nan=True)
    for found, wanted in zip(others, expected_others, strict=True):
        torch.testing.assert_close(found, wanted, equal_nan=True)


@pytest.mark.parametrize("factor", [1.0, -0.3])
def test_a_share_of_the_loss_has_that_share_of_its_gradients(kernels: Kernels, factor: float) -> None:
    x_hat, x = (torch.randn(9, 5, device=kernels.device) for _ in range(2))
    kl, log_gamma = torch.rand(9, device=kernels.device), kernels.scalar(-1.0, torch.float32)
    given = [t.requires_grad_() for t in (x_hat, x, log_gamma, kl)]

    def gradients(early: bool) -> tuple[Tensor, ...]:
        loss = kernels.differentiable["gaussian_elbo"](x_hat, x, log_gamma, kl, 0.5, early)[0]
        return torch.autograd.grad(factor * loss, given)

    for found, expected in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("cols", [5, 40, 600])
def test_what_is_not_asked_for_may_be_infinite(kernels: Kernels, cols: int) -> None:
    """Of a prior as narrow as this even e^(-p/2) is, of which the gradients of z know nothing."""
    run, device = kernels.operators, kernels.device
    mu, tril = torch.zeros(3, cols, device=device), torch.full((3, cols * (cols + 1) // 2), 0.5, device=device)
    prior = torch.zeros(3, cols, device=device), torch.full((3, cols), -200.0, device=device)
    seed, grad_z = kernels.scalar(2, torch.int64), torch.ones_like(mu)
    diagonal = run.rsample_kl_backward(grad_z, None, mu, mu, *prior, None, seed, 0, True, False)
    full = run.rsample_kl_cholesky_backward(grad_z, None, mu, tril, *prior, seed, 0, True)
    plain = run.rsample_kl_cholesky_backward(grad_z, None, mu, tril, None, None, seed, 0, False)
    noise = standard_normal(torch.tensor(2), 3, cols)
    torch.testing.assert_close(diagonal[1].cpu().double(), 0.5 * noise, rtol=1e-6, atol=1e-12)
    assert torch.equal(full[1], plain[1])
    for grad_mu, *_ in (diagonal, full):
        assert torch.equal(grad_mu, grad_z)
    for of_prior in (*diagonal[2:4], *full[2:4]):
        assert (of_prior == 0).all()


@pytest.mark.parametrize("cols", [1, 9, 40, 140])
@pytest.mark.parametrize("full", [False, True])
def test_a_sample_whose_infinite_kl_does_not_count_has_no_gradient(kernels: Kernels, full: bool, cols: int) -> None:
    inputs, grad_kl = oracles.infinite_in_float32(full, cols)
    there = [tensor.detach().to(kernels.device) for tensor in inputs.values()]
    seed, incoming = kernels.scalar(0, torch.int64), grad_kl.to(kernels.device)
    if full:
        found = kernels.operators.rsample_kl_cholesky_backward(None, incoming, *there, seed, 0, True)
    else:
        found = kernels.operators.rsample_kl_backward(None, incoming, *there, None, seed, 0, True, False)[:4]
    oracles.assert_gradients_of_infinite_kl(
        {name: gradient.cpu() for name, gradient in zip(inputs, found, strict=True)}, inputs, grad_kl
    )


@pytest.mark.parametrize("cols", [5, 140])  # staged, and longer than that
@pytest.mark.parametrize(("below", "prior_log_var"), [(1e20, 80.0), (3e-21, -80.0)])
def test_what_is_left_of_the_diagonal_is_scaled_before_it_is_squared(
    kernels: Kernels, cols: int, below: float, prior_log_var: float
) -> None:
    """Its square alone is infinite, or has lost its digits; over the prior's variance it has not."""
    mu, prior_log_vars = (torch.full((2, cols), value, device=kernels.device) for value in (0.0, prior_log_var))
    rows, columns = torch.tril_indices(cols, cols, device=kernels.device)
    tril = torch.where(rows == columns, prior_log_var / 2, below).float().repeat(2, 1)
    inputs = mu, tril, mu, prior_log_vars, kernels.scalar(1, torch.int64)
    _, kl, ratio = kernels.operators.rsample_kl_cholesky(*inputs, 0, False, True)
    square = float(torch.tensor(below).double()) ** 2 * math.exp(-prior_log_var)
    expected = torch.full((2,), 0.5 * square * cols * (cols - 1) / 2, dtype=torch.float64)
    torch.testing.assert_close(kl.cpu().double(), expected, rtol=2e-6, atol=0)
    torch.testing.assert_close(ratio.cpu().double(), 1 + square * torch.arange(cols).double(), rtol=2e-6, atol=0)


@pytest.mark.parametrize("cols", [5, 140])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_prior_of_no_samples_has_no_gradient(kernels: Kernels, dtype: torch.dtype, cols: int) -> None:
    """A mean for each sample, of which there is none, and one variance for all."""
    of = {"dtype": dtype, "device": kernels.device}
    none, one = torch.zeros(0, cols, **of), torch.zeros(1, cols, **of)
    tril, seed = torch.zeros(0, cols * (cols + 1) // 2, **of), kernels.scalar(1, torch.int64)
    torch.full((1, cols), 7.0, **of)  # what is freed is given to the next
    run = kernels.operators
    full = run.rsample_kl_cholesky_backward(none, none[:, 0], none, tril, none, one, seed, 0, True)
    diagonal = run.rsample_kl_backward(none, none[:, 0], none, none, none, one, None, seed, 0, True, False)
    for *_, of_mean, of_log_var in (full, diagonal[:4]):
        assert of_mean.shape == (0, cols)
        assert torch.equal(of_log_var, one)


@pytest.mark.parametrize("cols", [5, 32, 600])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_in_its_row(kernels: Kernels, dtype: torch.dtype, cols: int) -> None:
    x = torch.ones(6, cols, dtype=dtype, device=kernels.device)
    bad = x.clone()
    here = torch.zeros(6, cols, dtype=torch.bool, device=kernels.device)
    here[2, cols // 2] = True
    bad[here] = math.nan
    seed, log_gamma = kernels.scalar(1, torch.int64), kernels.scalar(0.1, torch.float32)
    run = kernels.operators
    for mu, log_var in ((bad, x), (x, bad)):
        z, kl, ratio = run.rsample_kl(mu, log_var, None, None, None, seed, 0, False, True)
        assert torch.equal(z.isnan(), here)
        assert torch.equal(kl.isnan(), here.any(dim=1))
        assert torch.equal(ratio.isnan(), here.any(dim=0) & log_var.isnan().any())
        grads = run.rsample_kl_backward(x, kl, mu, log_var, x[:1], x[:1], None, seed, 0, True, False)
        assert grads[0].isnan().any(dim=1).tolist() == [False, False, True, False, False, False]
        assert torch.equal(grads[2].isnan().any(dim=0), torch.ones_like(here[0]))  # each column sums over that row
    for x_hat, data in ((bad, x), (x, bad)):
        nll, squared_error = run.gaussian_nll(x_hat, data, log_gamma)
        assert torch.equal(nll.isnan(), here.any(dim=1))
        assert torch.equal(squared_error.isnan(), here.any(dim=1))
        grad_x_hat, _ = run.gaussian_nll_backward(nll.nan_to_num(1), None, x_hat, data, log_gamma, squared_error)
        assert torch.equal(grad_x_hat.isnan(), here)
    tril = torch.ones(6, cols * (cols + 1) // 2, dtype=dtype, device=kernels.device) * 1e-3
    tril[2, 0] = math.nan  # L_00 is in the first column of noise, and in no other line
    z, kl, _ = run.rsample_kl_cholesky(x, tril, None, None, seed, 0, True, False)
    expected = torch.zeros_like(here)
    expected[2, 0] = True
    assert torch.equal(z.isnan(), expected)
    assert torch.equal(kl.isnan(), expected)


def test_bad_tensors_are_refused(kernels: Kernels) -> None:
    x = torch.zeros(3, 4, device=kernels.device)
    seed, log_gamma = kernels.scalar(1, torch.int64), kernels.scalar(0.1, torch.float32)
    run = kernels.operators
    for arguments, message in (
        ((x, x[:, :3], None, None, None, seed), r"log_var must have shape \[3, 4\]"),
        ((x, x, x[:2], x[:2], None, seed), r"prior_mu must have shape \[3, 4\] or \[1, 4\]"),
        ((x, x, x, None, None, seed), "prior_mu and prior_log_var must be given together"),
        ((x, x.long(), None, None, None, seed), "expected a tensor of float32"),
        ((x, x, None, None, None, seed.int()), "seed must be one int64"),
        ((x[0], x, None, None, None, seed), "mu must be a matrix"),
    ):
        with pytest.raises(RuntimeError, match=message):
            run.rsample_kl(*arguments, 0, False, False)
    with pytest.raises(RuntimeError, match=r"tril must have shape \[3, 10\]"):
        run.rsample_kl_cholesky(x, x, None, None, seed, 0, False, False)
    with pytest.raises(RuntimeError, match="log_gamma must be one number, float32 or float64"):
        run.gaussian_nll(x, x, log_gamma.half())


@NEEDS_COMPILER
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("ends early", r"thread 0 waits for its block at .*faulty\.cpp:\d+, but thread 7 has ended"),
        ("waits elsewhere", r"thread 0 waits for its block at .*faulty\.cpp:\d+, but thread 32 waits for its block at"),
        ("misses a shuffle", r"waits for its warp at .*faulty\.cpp:\d+, but thread \d+ "),
        ("writes behind", "faulty: writes behind its shared memory"),
        ("wants too much", "faulty: too much shared memory"),
        ("a block ends early", r"faulty_team, block 1: thread 0 waits for its block at .*, but thread 7 has ended"),
    ],
)
def test_threads_that_part_at_a_barrier_are_reported(fault: str, message: str) -> None:
    run = on_host().faulty
    with pytest.raises(RuntimeError, match=message):
        run(fault)
    assert run("nothing") == 64  # and the next kernel runs as if nothing had been


@NEEDS_COMPILER
def test_blocks_that_cannot_run_at_once_are_refused() -> None:
    assert on_host().faulty("too many blocks") == -1


@NEEDS_COMPILER
def test_a_race_does_not_give_the_same_twice() -> None:
    run = on_host().faulty
    assert len({run("race") for _ in range(20)}) > 1


@pytest.mark.gpu
@NEEDS_DEVICE
class TestDevice:
    """What only a device can show."""

    @pytest.fixture
    def calls(self) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
        """Each operator on small tensors, batch sums and all."""
        run = torch.ops.manifold_core
        x, kl = torch.randn(700, 36, device="cuda"), torch.randn(700, device="cuda")
        tril = 0.1 * torch.randn(700, 36 * 37 // 2, device="cuda")
        one, zeros = torch.zeros(1, 36, device="cuda"), torch.zeros(700, 36, device="cuda")
        seed, log_gamma = torch.tensor(1, device="cuda"), torch.tensor(0.1, device="cuda")
        u = torch.randn(300, 10, 5, 3, device="cuda").contiguous(memory_format=torch.channels_last)
        of_channels = [*torch.randn(2, 10, device="cuda"), torch.randn(10, 4, device="cuda")]

        def gaussian_elbo_scale() -> tuple[Tensor, ...]:
            early = x.clone(), log_gamma.clone(), log_gamma.clone()
            run.gaussian_elbo_scale(*early, log_gamma)
            return early

        return {
            "rsample_kl": lambda: run.rsample_kl(x, x, one, one, one, seed, 0, False, True),
            "rsample_kl_backward": lambda: run.rsample_kl_backward(x, kl, x, x, one, one, one, seed, 0, True, True),
            "rsample_kl_cholesky": lambda: run.rsample_kl_cholesky(x, tril, one, one, seed, 0, False, True),
            "rsample_kl_cholesky_backward": lambda: run.rsample_kl_cholesky_backward(
                x, kl, x, tril, one, one, seed, 0, True
            ),
            "gaussian_nll": lambda: run.gaussian_nll(x, zeros, log_gamma),
            "gaussian_nll_backward": lambda: run.gaussian_nll_backward(kl, kl, x, zeros, log_gamma, kl),
            "gaussian_elbo": lambda: run.gaussian_elbo(x, zeros, log_gamma, kl, 0.5, True),
            "gaussian_elbo_scale": gaussian_elbo_scale,
            "batch_norm_relu": lambda: run.batch_norm_relu(u, *of_channels[:2], u, 0.1, True),
            "batch_norm_relu_backward": lambda: run.batch_norm_relu_backward(u, u, *of_channels, True),
        }

    def test_no_more_kernels_are_launched_than_needed(self, calls: dict[str, Callable[[], tuple[Tensor, ...]]]) -> None:
        torch.cuda.synchronize()
        for name, call in calls.items():
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                call()
                torch.cuda.synchronize()
            kernels = [e.name for e in profile.events() if "Mem" not in e.name and "cuda" in str(e.device_type).lower()]
            # Before a number of images is normalised, all have been seen.
            assert len(kernels) == (2 if name.startswith("batch_norm") else 1), (name, kernels)

    def test_results_are_the_same_each_time(self, calls: dict[str, Callable[[], tuple[Tensor, ...]]]) -> None:
        for name, call in calls.items():
            first = call()
            for _ in range(20):
                for a, b in zip(first, call(), strict=True):
                    assert torch.equal(a, b), name

    def test_a_graph_replays_them(self, calls: dict[str, Callable[[], tuple[Tensor, ...]]]) -> None:
        for name, call in calls.items():
            expected = call()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):  # refuses whatever waits for the device
                found = call()
            for result in found:
                result.fill_(math.nan)
            for _ in range(3):
                graph.replay()
            for a, b in zip(expected, found, strict=True):
                assert torch.equal(a, b), name

    def test_the_seed_is_read_when_the_kernel_runs(self) -> None:
        run, x, seed = torch.ops.manifold_core, torch.zeros(5, 8, device="cuda"), torch.tensor(1, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            z, _, _ = run.rsample_kl(x, x, None, None, None, seed, 0, False, False)
        for value in (1, 2, 2**63 - 1):
            seed.fill_(value)
            graph.replay()
            torch.testing.assert_close(z.cpu().double(), standard_normal(torch.tensor(value), 5, 8), rtol=1e-6, atol=0)

    def test_another_stream(self, calls: dict[str, Callable[[], tuple[Tensor, ...]]]) -> None:
        stream = torch.cuda.Stream()
        for name, call in calls.items():
            expected = call()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                torch.cuda._sleep(10_000_000)  # on another stream than this the results would be there at once
                found = call()
                assert not stream.query(), name
            stream.synchronize()
            for a, b in zip(expected, found, strict=True):
                assert torch.equal(a, b), name

    def test_tensors_on_the_host_are_refused(self) -> None:
        run, x = torch.ops.manifold_core, torch.zeros(5, 8, device="cuda")
        with pytest.raises(RuntimeError, match="seed is on another device"):
            run.rsample_kl(x, x, None, None, None, torch.tensor(1), 0, False, False)
        with pytest.raises(RuntimeError, match="log_gamma is on another device"):
            run.gaussian_nll(x, x, torch.tensor(1.0))

    def test_indices_past_31_bits(self) -> None:
        rows, cols = 2**21 + 1, 1024
        if torch.cuda.mem_get_info()[0] < 5 * rows * cols * 2:
            pytest.skip("the device has too little free memory")
        run, seed = torch.ops.manifold_core, torch.tensor(1, device="cuda")
        mu = torch.zeros(rows, cols, dtype=torch.bfloat16, device="cuda")
        mu[-1] = 3
        z, kl, _ = run.rsample_kl(mu, mu, None, None, None, seed, 0, False, False)
        last = mu[-1:].float()
        same_z, same_kl, _ = run.rsample_kl(last, last, None, None, None, seed, rows - 1, False, False)
        assert torch.equal(z[-1:], same_z.bfloat16())
        torch.testing.assert_close(kl[-1:], same_kl)
        assert (kl[:-1] == 0).all()
        nll, squared_error = run.gaussian_nll(mu, torch.zeros_like(mu), torch.tensor(0.0, device="cuda"))
        assert squared_error[-1] == 9 * cols
        assert (squared_error[:-1] == 0).all()
        assert (nll[:-1] == nll[0]).all()
