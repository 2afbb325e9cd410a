"""The Triton backend, on a GPU where there is one, else in Triton's interpreter, against the definitions in float64."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import mpmath
import oracles
import pytest
import reconstruction
import sampling
import torch
from dtypes import BF16, F32, F64, arithmetic
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import lay_out
from manifold_core.kernels import gaussian_elbo
from tolerances import ALLOWED, assert_within, sum_rounding
from torch import Tensor

import manifold_core as mc

triton = pytest.importorskip("triton", reason="triton is not installed")
from manifold_core.kernels import triton_sums  # noqa: E402
from manifold_core.kernels.gaussian_elbo import triton as elbo  # noqa: E402
from manifold_core.kernels.rsample_kl import triton as diagonal  # noqa: E402
from manifold_core.kernels.rsample_kl_cholesky import triton as cholesky  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Run by `make gpu`. The others would be compiled for each of their many shapes.
ON_GPU = pytest.mark.gpu
pytestmark = pytest.mark.usefixtures("quiet_numpy")


def name_of(case: sampling.Case | reconstruction.Case) -> str:
    return f"{'x'.join(map(str, case.shape))}-{str(case.dtypes[0]).removeprefix('torch.')}"


def on_device(tensor: Tensor) -> Tensor:
    """The same numbers with the same strides where the kernels run."""
    if DEVICE.type == "cpu" or 0 in tensor.stride():
        return tensor.to(DEVICE)
    strided = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=DEVICE)
    return strided.copy_(tensor)


def evaluate(
    function: Callable[..., tuple[Tensor, ...]],
    inputs: dict[str, Tensor],
    incoming: list[Tensor | None],
    constants: tuple[str, ...] = (),
    **options: object,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """What Triton gives: the outputs of a function, and the gradients of all inputs that are not constants."""
    leaves = {name: on_device(t).detach().requires_grad_(name not in constants) for name, t in inputs.items()}
    outputs = function(**leaves, **options, backend="triton")
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    there = [g if g is None else on_device(g) for g in incoming]
    found = oracles.gradients(outputs[: len(there)], there, wanted.values())
    return [o.detach().cpu() for o in outputs], {name: g.cpu() for name, g in zip(wanted, found, strict=True)}


CONSTANTS = st.sampled_from([(), (), (), ("prior_mu", "prior_log_var"), ("gate_logits",), ("mu", "prior_mu")])
SHAPES = (
    st.tuples(st.integers(1, 9), st.integers(1, 70))
    | st.tuples(st.integers(100, 300), st.integers(1, 5))
    | st.tuples(st.integers(1, 3), st.sampled_from([127, 129, 511, 513, 1023, 1024, 1025]))
)
SHAPES_OF_L = st.tuples(st.integers(1, 5), st.integers(1, 17)) | st.tuples(st.integers(60, 120), st.integers(1, 3))
FIELDS = {
    "share": st.sampled_from([None, 0.01, 0.5, 0.99]),
    "variance_ratio": st.booleans(),
    "constants": CONSTANTS,
}


def assert_rsample_kl_is_the_definition(case: sampling.Case, full: bool = False) -> None:
    """Results, gradients, their types and their bounds. No sum of exponentials leaves float32, either."""
    generator = sampling.generator_of(case)
    values = sampling.draw(case, generator, full, mu=10, below=3, gate=80)
    if case.prior != "none" and case.share is None:
        name = "tril" if full else "log_var"
        log_var = lay_out(values[name].to(case.dtypes[1]), case.layouts[1]).double()
        log_var = 2 * log_var[:, sampling.on_diagonal(case.shape[1])] if full else log_var
        shape = values["prior_log_var"].shape
        near = log_var[: shape[0]] * (1 + 1e-3 * torch.rand(shape, generator=generator))
        values["prior_log_var"] = near.clamp(-40, 40)
    inputs, incoming, z_dtype, kind = sampling.as_problem(case, generator, values, gradient=1)
    function = mc.rsample_kl_cholesky if full else mc.rsample_kl
    where = {"seed": case.seed, "first_row": case.first_row, "per_dimension": case.per_dimension}
    (z, kl, *ratio), gradients = evaluate(
        function, inputs, incoming, case.constants, **where, return_variance_ratio=case.variance_ratio
    )
    exact = oracles.of_rsample_kl(inputs, *where.values(), *incoming)

    assert z.dtype == z_dtype
    assert all(output.dtype == kind for output in (kl, *ratio))
    rows, cols = case.shape
    of_cols, of_rows = sum_rounding(cols, kind), sum_rounding(rows, kind)
    of_one = ALLOWED[kind] + (of_cols if full else 0)  # a row of L is summed up for each
    of_kl = of_one + (0 if case.per_dimension and not full else of_cols)
    results = [("z", z, of_one), ("kl", kl, of_kl), *(("variance_ratio", r, of_one + of_rows) for r in ratio)]
    for name, found in gradients.items():
        assert (found.shape, found.dtype) == (inputs[name].shape, inputs[name].dtype), name
        results.append((f"grad_{name}", found, of_one + (0 if found.shape[0] == rows else of_rows)))
    for name, found, relative in results:
        assert_within(name, found, exact[name].value, relative * exact[name].size, kind)


ROWS = {"prior": "rows", "gate": "rows", "share": 0.5}
ONE_ROW = {"prior": "one row", "gate": "one row", "share": 0.5}
MIXED = ("first head", "transposed", "steps", "offset", "one row", "one column", "one column")
EDGES = (
    sampling.Case((3, 5), layouts=("steps",) * 7, per_dimension=True, variance_ratio=False, **ROWS),
    sampling.Case((1, 1), **ROWS),
    # More tiles of rows than programs; more programs than one group; a second tile of columns.
    sampling.Case((3000, 3), first_row=7, **ONE_ROW),
    sampling.Case((12, 1025), (F64,) * 5, per_dimension=True, **{**ONE_ROW, "prior": "one mean"}),
    sampling.Case((9, 1030), layouts=MIXED, variance_ratio=False, first_row=2**62, **{**ROWS, "share": 0.99}),
    sampling.Case((20, 30), (BF16,) * 5, **{**ROWS, "prior": "one row"}),
)
EDGES_OF_L = (
    sampling.Case((1, 1), prior="rows", share=0.5),
    sampling.Case((1500, 2), prior="one row", share=0.5, first_row=7),
    # Several tiles of the rows of L, in the second also of its columns.
    sampling.Case((2, 33), layouts=MIXED, prior="one mean", share=0.99, per_dimension=True, first_row=2**32 - 1),
    sampling.Case((1, 67), (F64,) * 5, prior="rows", share=0.5, first_row=2**62),
    # Columns of L beyond the widest tile; lines of many tiles.
    sampling.Case((1, 140), prior="rows", share=0.5, variance_ratio=False),
    pytest.param(sampling.Case((1, 300), prior="rows", share=0.5), marks=pytest.mark.slow),
    pytest.param(sampling.Case((1, 1024), prior="rows", share=0.5), marks=pytest.mark.slow),
)


@ON_GPU
@pytest.mark.parametrize("case", EDGES, ids=name_of)
def test_rsample_kl_at_the_edges(case: sampling.Case) -> None:
    assert_rsample_kl_is_the_definition(case)


@ON_GPU
@pytest.mark.parametrize("case", EDGES_OF_L, ids=name_of)
def test_rsample_kl_cholesky_at_the_edges(case: sampling.Case) -> None:
    assert_rsample_kl_is_the_definition(case, full=True)


@settings(max_examples=30)
@given(sampling.cases(SHAPES, **FIELDS))
def test_rsample_kl_is_the_definition(case: sampling.Case) -> None:
    assert_rsample_kl_is_the_definition(case)


@settings(max_examples=20)
@given(sampling.cases(SHAPES_OF_L, gate=st.just("none"), **FIELDS))
def test_rsample_kl_cholesky_is_the_definition(case: sampling.Case) -> None:
    assert_rsample_kl_is_the_definition(case, full=True)


@ON_GPU
@pytest.mark.parametrize("full", [False, True])
def test_an_infinite_kl_that_has_no_weight_has_no_gradient(full: bool) -> None:
    inputs, grad_kl = oracles.infinite_in_float32(full, 9)
    _, found = evaluate(mc.rsample_kl_cholesky if full else mc.rsample_kl, inputs, [None, grad_kl], seed=0)
    oracles.assert_gradients_of_infinite_kl(found, inputs, grad_kl)


def test_a_packed_row_whose_offsets_are_no_int32_is_refused() -> None:
    most = cholesky.MOST_LATENTS
    assert (most - 1) * (most + 2) < 2**31 <= most * (most + 3)
    mu, tril = torch.zeros(1, 1).expand(1, most + 1), torch.zeros(1, 1).expand(1, sampling.packed(most + 1))
    for run in (
        lambda: cholesky.rsample_kl_cholesky(mu, tril, None, None, torch.tensor(0), 0, False, False),
        lambda: cholesky.rsample_kl_cholesky_backward(mu, None, mu, tril, None, None, torch.tensor(0), 0, False),
    ):
        with pytest.raises(ValueError, match="at most 46340 latent dimensions for the triton backend, got 46341"):
            run()


@ON_GPU
@pytest.mark.parametrize("full", [False, True])
def test_the_mean_variance_ratio_is_finite_where_one_ratio_is_not(full: bool) -> None:
    """Of one sample in ten it is e⁹⁰, more than float32 holds."""
    mu, log_var, prior_log_var = (torch.zeros(10, 1) for _ in range(3))
    log_var[4], prior_log_var[4] = 50, -40
    inputs = {"mu": mu, "prior_mu": mu, "prior_log_var": prior_log_var}
    inputs |= {"tril": log_var / 2} if full else {"log_var": log_var}
    function = mc.rsample_kl_cholesky if full else mc.rsample_kl
    (*_, ratio), _ = evaluate(function, inputs, [torch.ones(10, 1), None], seed=0, return_variance_ratio=True)
    torch.testing.assert_close(ratio, torch.tensor([float((9 + mpmath.exp(90)) / 10)]), rtol=1e-5, atol=0)


def assert_gaussian_is_the_definition(case: reconstruction.Case) -> None:
    """Results, gradients, their types and their bounds."""
    kind = arithmetic(*case.dtypes)
    inputs, incoming = reconstruction.draw(case)
    function, options = (
        (mc.gaussian_nll, {"return_squared_error": True}) if case.beta is None else (gaussian_elbo, {"beta": case.beta})
    )
    outputs, gradients = evaluate(function, inputs, incoming, case.constants, **options)
    expected = oracles.of_gaussian(inputs, case.beta, incoming, ALLOWED[kind], sum_rounding(case.shape[0], kind))
    for (name, (exact, bound)), found in zip(expected.items(), (*outputs, *gradients.values()), strict=True):
        assert found.dtype == (inputs[name.removeprefix("grad_")].dtype if name.startswith("grad_") else kind)
        if name == "grad_log_gamma" and found.dtype == F32:  # rounded to that type before it is scaled, too
            bound = bound + 2.0**-23 * exact.abs()
        assert_within(name, found, exact, bound, torch.promote_types(kind, found.dtype))


LOSS = frozenset({"loss"})
WANTED = ({"loss", "nll"}, {"loss", "squared_error"}, {"nll", "squared_error"}, {"loss", "nll", "squared_error"})
RECONSTRUCTIONS = reconstruction.cases(
    SHAPES | st.tuples(st.integers(1, 2), st.sampled_from([9000, 20_001])),
    beta=st.sampled_from([None, None, 0.0, 1.0, 0.37, 4.0]),
    wanted=st.sampled_from([frozenset(outputs) for outputs in WANTED]),
    constants=st.sampled_from([frozenset(names) for names in ((), (), ("x",), ("x", "log_gamma"), ("x_hat",))]),
    grad_loss=st.just(0.7),
)
EDGES_OF_ROWS = (
    reconstruction.Case((1, 1), grad_loss=0.7),
    # Between two float32 numbers: its rounding alone would be an error of 1.8e-6.
    reconstruction.Case((4, 30), log_gamma=-59.0000018, log_gamma_type=F64, grad_loss=0.7),
    # Rows that programs share; a sum over the batch in groups.
    reconstruction.Case(
        (3, 40_000), log_gamma=-60.0, log_gamma_type=F64, wanted=LOSS, constants=frozenset({"x"}), grad_loss=0.7
    ),
    reconstruction.Case(
        (3, 40_000), (F64, F64), log_gamma=1.0, log_gamma_type=F64, beta=None, wanted=frozenset({"nll"})
    ),
    reconstruction.Case((2, 100_000), log_gamma=-1.0, beta=None),
    reconstruction.Case((5000, 3), log_gamma=1.0, beta=0.37, wanted=LOSS, constants=frozenset({"x"}), grad_loss=0.7),
    reconstruction.Case((5000, 3), log_gamma=1.0, beta=None),
)


@ON_GPU
@pytest.mark.parametrize("case", EDGES_OF_ROWS, ids=name_of)
def test_gaussian_nll_and_elbo_at_the_edges(case: reconstruction.Case) -> None:
    assert_gaussian_is_the_definition(case)


@settings(max_examples=40)
@given(RECONSTRUCTIONS)
def test_gaussian_nll_and_elbo_are_the_definition(case: reconstruction.Case) -> None:
    assert_gaussian_is_the_definition(case)


@ON_GPU
@pytest.mark.parametrize("shape", [(0, 7), (5, 0), (0, 0), (0, 1024)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_to_do(shape: tuple[int, int], dtype: torch.dtype) -> None:
    rows, cols = shape
    matrix, row, kl = (torch.zeros(s, dtype=dtype) for s in (shape, (1, cols), rows))
    inputs = {"mu": matrix, "log_var": matrix, "prior_mu": row, "prior_log_var": matrix, "gate_logits": row}
    (z, found, ratio), gradients = evaluate(mc.rsample_kl, inputs, [matrix, kl], seed=1, return_variance_ratio=True)
    assert torch.equal(z, matrix)
    assert torch.equal(found, kl)  # an empty sum is 0
    assert ratio.shape == (cols,)
    assert ratio.isnan().all()
    tril = torch.zeros(rows, sampling.packed(cols), dtype=dtype)
    inputs_with_tril = {"mu": matrix, "tril": tril, "prior_mu": row, "prior_log_var": row}
    (z, found), more = evaluate(mc.rsample_kl_cholesky, inputs_with_tril, [matrix, matrix], seed=1, per_dimension=True)
    assert z.shape == found.shape == shape
    of_nll = {"x_hat": matrix, "x": matrix, "log_gamma": torch.tensor(0.5)}
    (nll, squared_error), most = evaluate(mc.gaussian_nll, of_nll, [kl, kl], return_squared_error=True)
    assert torch.equal(nll, kl)
    assert torch.equal(squared_error, kl)
    for given_, found_gradients in ((inputs, gradients), (inputs_with_tril, more), (of_nll, most)):
        for name, gradient in found_gradients.items():
            assert torch.equal(gradient, torch.zeros_like(given_[name])), name
    (loss, *_), last = evaluate(gaussian_elbo, of_nll | {"kl": kl}, [torch.ones((), dtype=dtype)], beta=1.0)
    assert loss == 0 if rows else loss.isnan()
    assert last["log_gamma"] == 0


@ON_GPU
@pytest.mark.parametrize("factor", [1.0, 0.0, -0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 3), (9, 4000)])  # of the last each program has several tiles
def test_gradients_written_early_are_scaled_in_place(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], dtype: torch.dtype, factor: float
) -> None:
    """Bit for bit a product, and nothing behind it is touched."""
    monkeypatch.setattr(elbo, "PROGRAMS_TO_SCALE", 3)
    of_all = torch.randn(shape[0] * shape[1] + 4, dtype=dtype, device=DEVICE)
    others = [torch.tensor(0.7, device=DEVICE), torch.tensor(0.3, dtype=torch.float64, device=DEVICE)]
    expected = of_all.clone()
    expected[:-4] *= factor
    expected_others = [other * factor for other in others]
    scale = torch.ops.manifold_core_triton.gaussian_elbo_scale
    scale(of_all[:-4].view(shape), *others, torch.tensor(factor, dtype=dtype, device=DEVICE))
    torch.testing.assert_close(of_all, expected, rtol=0, atol=0)
    for found, wanted in zip(others, expected_others, strict=True):
        torch.testing.assert_close(found, wanted)


@ON_GPU
@pytest.mark.parametrize("cols", [5, 37])
def test_nan_stays_in_its_row(cols: int) -> None:
    generator = torch.Generator().manual_seed(3)
    here = torch.zeros(6, cols, dtype=torch.bool)
    here[2, cols // 2] = True
    names = ("mu", "log_var", "prior_mu", "prior_log_var", "gate_logits")
    ones = [torch.ones(6, cols), torch.ones(6, cols)]
    for bad in names:
        inputs = {name: torch.randn(6, cols, generator=generator) for name in names}
        inputs[bad][here] = torch.nan
        (z, kls), gradients = evaluate(mc.rsample_kl, inputs, ones, seed=4, per_dimension=True)
        assert torch.equal(z.isnan(), here & (bad in ("mu", "log_var", "gate_logits")))
        assert torch.equal(kls.isnan(), here & (bad != "gate_logits"))
        for name, gradient in gradients.items():
            assert not gradient[~here].isnan().any(), (bad, name)
        assert gradients[bad][here].isnan().all()
    (_, kl), _ = evaluate(mc.rsample_kl, inputs | {"mu": torch.where(here, torch.nan, 0.0)}, [ones[0]], seed=4)
    assert torch.equal(kl.isnan(), here.any(1))
    mu, tril = torch.randn(6, cols, generator=generator), torch.randn(6, sampling.packed(cols), generator=generator)
    tril[2, -2] = torch.nan  # of the last row of L
    last = torch.zeros(6, cols, dtype=torch.bool)
    last[2, -1] = True
    (z, kl), gradients = evaluate(mc.rsample_kl_cholesky, {"mu": mu, "tril": tril}, [ones[0], ones[0][:, 0]], seed=4)
    assert torch.equal(z.isnan(), last)
    assert torch.equal(kl.isnan(), last.any(1))
    assert not gradients["mu"].isnan().any()  # it is no function of L
    assert torch.equal(gradients["tril"].isnan(), tril.isnan())
    x_hat = torch.where(here, torch.nan, mu)
    (nll,), _ = evaluate(
        lambda **inputs: (mc.gaussian_nll(**inputs),),
        {"x_hat": x_hat, "x": mu, "log_gamma": torch.tensor(0.0)},
        [kl * 0],
    )
    assert torch.equal(nll.isnan(), here.any(1))


def test_results_do_not_depend_on_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    names = ("mu", "log_var", "prior_mu", "prior_log_var", "gate_logits")
    inputs = {name: torch.randn(21, 13, generator=generator, dtype=torch.float64) for name in names}
    inputs["prior_mu"], inputs["gate_logits"] = inputs["prior_mu"][:1], inputs["gate_logits"][:1]
    of_l = {name: inputs[name] for name in ("mu", "prior_mu", "prior_log_var")}
    of_l["tril"] = torch.randn(21, sampling.packed(13), generator=generator, dtype=torch.float64)

    def run() -> list[Tensor]:
        incoming = [inputs["mu"], inputs["mu"][:, 0]]
        outputs, gradients = evaluate(mc.rsample_kl, inputs, incoming, seed=6, first_row=9, return_variance_ratio=True)
        more, others = evaluate(mc.rsample_kl_cholesky, of_l, incoming, seed=6, first_row=9, return_variance_ratio=True)
        return [*outputs, *gradients.values(), *more, *others.values()]

    before = run()
    assert all(torch.equal(a, b) for a, b in zip(before, run(), strict=True))
    monkeypatch.setattr(triton_sums, "PROGRAMS_OF_A_SUM", 3)
    for elements in (64, 4096):
        for module in (diagonal, cholesky):
            monkeypatch.setattr(module, "tile_elements", lambda *_, elements=elements: elements)
        for a, b in zip(before, run(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_importing_the_package_does_not_import_triton_kernels() -> None:
    code = (
        "import sys, manifold_core; print([m for m in sys.modules if m.startswith('manifold_core') and 'triton' in m])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_cpu_tensors_are_refused_where_nothing_is_interpreted() -> None:
    code = """if True:
        import importlib, torch, manifold_core as mc
        for op in ("rsample_kl", "rsample_kl_cholesky", "gaussian_nll", "gaussian_elbo"):
            importlib.import_module(f"manifold_core.kernels.{op}.triton")
        try:
            mc.rsample_kl(torch.zeros(2, 3), torch.zeros(2, 3), backend="triton")
        except RuntimeError as error:
            print(error)
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    refusal = "backend 'triton' cannot serve this call: a tensor is on cpu, not on a CUDA device"
    assert said.stdout.strip() == refusal


@ON_GPU
def test_a_launch_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed and log gamma are read by the kernel: CUDA graphs and torch.compile need that."""
    if DEVICE.type != "cuda":

        def refuse(*_: Any) -> None:
            raise AssertionError("read on the host")

        monkeypatch.setattr(Tensor, "item", refuse)
    matrix, kl = torch.zeros(3, 4, device=DEVICE), torch.zeros(3, device=DEVICE)
    seed, log_gamma = torch.tensor(1, device=DEVICE), torch.tensor(0.0, device=DEVICE)
    mode = torch.cuda.get_sync_debug_mode() if DEVICE.type == "cuda" else None
    if mode is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this is a prototype of torch's
            torch.cuda.set_sync_debug_mode("error")
    try:
        mc.rsample_kl(matrix, matrix, seed=seed, return_variance_ratio=True, backend="triton")
        gaussian_elbo(matrix, matrix, log_gamma, kl, backend="triton")
    finally:
        if mode is not None:
            torch.cuda.set_sync_debug_mode(mode)
