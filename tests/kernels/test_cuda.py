"""The CUDA kernels: on a GPU where there is one, and everywhere compiled for the processor, thread by thread.

Operators are called below the public functions, with the autograd formulas of every backend: results and gradients are
held against the definitions in float64.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import oracles
import pytest
import reconstruction
import sampling
import torch
from cuda_on_host.kernels import NEEDS_COMPILER, Kernels, on_host
from dtypes import BF16, DTYPES, F64, arithmetic
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, any_magnitude, lay_out
from manifold_core.kernels.random import noise_words, standard_normal
from poison import poisoned
from tolerances import ALLOWED, assert_within
from torch import Tensor

# Where blocks, warps and groups of four columns end, and rows longer than a block.
SHAPES = (
    st.tuples(st.integers(1, 9), st.integers(1, 70))
    | st.tuples(st.integers(200, 700), st.integers(1, 6))
    | st.tuples(st.integers(1, 5), st.sampled_from([127, 128, 129, 256, 500, 1000, 1023, 1024, 1025, 2052]))
)
SHAPES_OF_L = (
    st.tuples(st.integers(1, 9), st.integers(1, 70))
    | st.tuples(st.integers(100, 300), st.integers(1, 6))
    | st.tuples(st.integers(1, 3), st.sampled_from([127, 128, 129, 256, 300]))
)
ALL_LEARN_OR_POSTERIOR = st.sampled_from([(), (), (), ("prior_mu", "prior_log_var", "gate_logits")])
OFTEN_DENSE = {n: st.just(("dense",) * n) | st.tuples(*[st.sampled_from(LAYOUTS)] * n) for n in (5, 7)}


def assert_cuda_is_the_definition(
    kernels: Kernels, case: sampling.Case, problem: sampling.Problem, sums: dict[str, int]
) -> None:
    full = "tril" in problem.inputs
    name = "rsample_kl_cholesky" if full else "rsample_kl"
    arguments = [problem.inputs.get(n) for n in (("mu", "tril", *sampling.NAMES[2:4]) if full else sampling.NAMES)]

    def sample(seed: Tensor) -> tuple[Tensor, ...]:
        return kernels.differentiable[name](*arguments, seed, case.first_row, case.per_dimension, True)

    z, *_ = sampling.assert_is_the_definition(case, problem, sample, sums)
    seed = kernels.scalar(case.seed, torch.int64)
    without, *_ = getattr(kernels.operators, name)(*arguments, seed, case.first_row, False, False)
    assert torch.equal(without.cpu(), z)


@settings(max_examples=100)
@given(sampling.cases(SHAPES, layouts=OFTEN_DENSE[7], constants=ALL_LEARN_OR_POSTERIOR))
@example(sampling.Case((1, 1)))
@example(sampling.Case((700, 20)))
@example(sampling.Case((9000, 70), prior="rows"))
@example(sampling.Case((700, 20), (BF16,) * 5, prior="one row", gate="one row"))
@example(sampling.Case((1400, 3), prior="one row", gate="rows", first_row=2**33))
@example(sampling.Case((37, 1028), prior="one row", gate="one row", per_dimension=True, first_row=7))
@example(sampling.Case((270_000, 1), prior="one row", gate="one row", first_row=7))
@example(sampling.Case((1100, 260), prior="one row"))
def test_rsample_kl_is_its_definition_in_float64(kernels: Kernels, case: sampling.Case) -> None:
    """Logarithms of variances reach from -80 to 80, their difference hardly farther."""
    generator = sampling.generator_of(case)
    values = sampling.draw(case, generator, gate=60)
    if case.prior != "none":
        log_var, apart = (
            any_magnitude(generator, values[of].shape, 1e-8, most)
            for of, most in (("log_var", 80), ("prior_log_var", 85))
        )
        # Where a number stands for many, so do its differences from theirs: none may overflow.
        if case.prior == "one row" or {case.layouts[1], case.layouts[3]} & {"one row", "one column", "one number"}:
            log_var, apart = log_var / 4, apart / 2.2
        values["log_var"], values["prior_log_var"] = log_var, (log_var[: len(apart)] - apart).clamp(-80, 80)
    problem = sampling.as_problem(case, generator, values, device=kernels.device)
    assert_cuda_is_the_definition(kernels, case, problem, {"kl": not case.per_dimension})


@settings(max_examples=60)
@given(
    sampling.cases(
        SHAPES_OF_L,
        gate=st.just("none"),
        share=st.just(0.5),
        layouts=OFTEN_DENSE[7],
        constants=ALL_LEARN_OR_POSTERIOR,
    )
)
@example(sampling.Case((1, 1), share=0.5))
@example(sampling.Case((70, 32), share=0.5, prior="one row"))
@example(sampling.Case((40, 32), (BF16,) * 5, share=0.5, prior="one row"))
@example(sampling.Case((2, 1024), share=0.5, prior="one row", first_row=3))
@example(sampling.Case((3, 1030), share=0.5, prior="one row", first_row=3))
@example(sampling.Case((2, 2052), (F64,) * 5, share=0.5, prior="one row", per_dimension=True, first_row=2**40))
@example(sampling.Case((4200, 33), share=0.5, prior="one row", first_row=3))
@example(sampling.Case((8300, 2), (F64,) * 5, share=0.5, prior="one row"))  # longer rows' kernel, several turns a block
def test_rsample_kl_cholesky_is_its_definition_in_float64(kernels: Kernels, case: sampling.Case) -> None:
    generator = sampling.generator_of(case)
    values = sampling.draw(case, generator, full=True)
    problem = sampling.as_problem(case, generator, values, device=kernels.device)
    sums = dict.fromkeys(("z", "kl", "variance_ratio", "grad_prior_log_var"), 1)
    assert_cuda_is_the_definition(kernels, case, problem, sums)


@NEEDS_COMPILER
def test_words_are_the_published_ones() -> None:
    inputs = torch.tensor([(*counter, *key) for counter, key, _ in oracles.PHILOX])
    assert on_host().philox(inputs).tolist() == [list(words) for *_, words in oracles.PHILOX]


@NEEDS_COMPILER
@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 10) | st.sampled_from([0, 1, 1000, 2**32 - 3, 2**40]),
    st.integers(1, 9),
    st.integers(1, 70) | st.just(1030),
)
@example(2**63 - 1, 2**32 - 2, 5, 1)
def test_words_are_those_of_the_definition(seed: int, first_row: int, rows: int, cols: int) -> None:
    expected = noise_words(torch.tensor(seed), rows, cols, first_row)
    assert torch.equal(on_host().noise_words(torch.tensor(seed), first_row, *expected.shape), expected)


def test_noise_is_its_definition_to_rounding(kernels: Kernels) -> None:
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
def test_a_sample_of_full_covariance_does_not_depend_on_its_batch(
    kernels: Kernels, cols: int, layout: str, dtype: Any
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


NLL, SQUARED_ERROR = frozenset({"nll"}), frozenset({"squared_error"})


@settings(max_examples=80)
@given(
    reconstruction.cases(
        SHAPES | st.tuples(st.integers(1, 3), st.sampled_from([3001, 20_000])),
        layouts=OFTEN_DENSE[5],
        wanted=st.sampled_from([NLL, SQUARED_ERROR, NLL | SQUARED_ERROR]),
    ),
    st.booleans(),
)
@example(reconstruction.Case((1, 1)), True)
@example(reconstruction.Case((512, 784), log_gamma=-5.0), True)
@example(reconstruction.Case((9000, 70), log_gamma=-5.0), True)
@example(reconstruction.Case((3, 100_000), log_gamma=60.0, log_gamma_type=F64), True)
@example(reconstruction.Case((290_000, 3), log_gamma=1.0, log_gamma_type=F64), True)
def test_gaussian_nll_and_elbo_are_their_definitions_in_float64(
    kernels: Kernels, case: reconstruction.Case, early: bool
) -> None:
    """``early``: gaussian_elbo writes its gradients in the forward pass."""
    (rows, cols), wide = case.shape, arithmetic(*case.dtypes)
    inputs, (_, *incoming) = reconstruction.draw(case, kernels.device)
    if case.dtypes[0] != case.dtypes[1]:  # the gradient that is written early has not the precision of x
        inputs["x"].requires_grad_(False)
    without_kl = {name: tensor for name, tensor in inputs.items() if name != "kl"}
    of_loss = [kernels.scalar(1, wide), None, None]

    def run() -> tuple[Tensor, ...]:
        nll = kernels.differentiable["gaussian_nll"](*without_kl.values())
        elbo = kernels.differentiable["gaussian_elbo"](*inputs.values(), case.beta, early)
        grads = oracles.gradients(nll, incoming, oracles.learned(without_kl))
        return *nll, *grads, *elbo, *oracles.gradients(elbo, of_loss, oracles.learned(inputs))

    results = [t.detach().cpu() for t in poisoned(run)]
    of_nll = oracles.of_gaussian(without_kl, None, incoming, ALLOWED[wide])
    of_elbo = oracles.of_gaussian(inputs, case.beta, of_loss, ALLOWED[wide])
    for (name, (exact, bound)), found in zip((*of_nll.items(), *of_elbo.items()), results, strict=True):
        assert found.dtype == (inputs[name.removeprefix("grad_")].dtype if name.startswith("grad_") else wide)
        assert_within(name, found, exact, bound, torch.promote_types(wide, found.dtype))

    outputs = results[len(of_nll) : len(of_nll) + 3]
    assert all(map(torch.equal, outputs[1:], results[:2]))
    with torch.no_grad():
        *other_way, grad_x_hat, _, _ = kernels.operators.gaussian_elbo(*inputs.values(), case.beta, not early)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(other_way, outputs, strict=True))
    assert grad_x_hat.shape == (0 if early else rows, cols)


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
def test_nothing_to_do(kernels: Kernels, shape: tuple[int, int], dtype: torch.dtype) -> None:
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
def test_gradients_scale_with_the_loss(kernels: Kernels, factor: float) -> None:
    x_hat, x = (torch.randn(9, 5, device=kernels.device) for _ in range(2))
    kl, log_gamma = torch.rand(9, device=kernels.device), kernels.scalar(-1.0, torch.float32)
    given = [t.requires_grad_() for t in (x_hat, x, log_gamma, kl)]

    def gradients(early: bool) -> tuple[Tensor, ...]:
        loss = kernels.differentiable["gaussian_elbo"](x_hat, x, log_gamma, kl, 0.5, early)[0]
        return torch.autograd.grad(factor * loss, given)

    for found, expected in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("cols", [5, 40, 600])
def test_gradients_of_z_do_not_need_finite_ones_of_kl(kernels: Kernels, cols: int) -> None:
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
def test_an_infinite_kl_that_has_no_weight_has_no_gradient(kernels: Kernels, full: bool, cols: int) -> None:
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
def test_numbers_left_of_the_diagonal_are_scaled_before_they_are_squared(
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cols", [4, 3])
def test_a_gpus_own_nan_stays_one_in_half_precision(kernels: Kernels, cols: int, dtype: torch.dtype) -> None:
    """All of its bits but the sign are set: rounded like a number it would carry over into minus zero."""
    nan = torch.tensor(0x7FFFFFFF, dtype=torch.int32, device=kernels.device).view(torch.float32)
    x, per_row = torch.ones(3, cols, dtype=dtype, device=kernels.device), torch.ones(3, device=kernels.device)
    log_gamma = kernels.scalar(0.1, torch.float32)
    grad_x_hat, _ = kernels.operators.gaussian_nll_backward(nan.expand(3), None, x, 0 * x, log_gamma, per_row)
    assert grad_x_hat.isnan().all()


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
