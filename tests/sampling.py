"""Cases of rsample_kl and rsample_kl_cholesky, for the tests of every backend."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import oracles
import torch
from dtypes import DTYPES, F32, arithmetic
from hypothesis import strategies as st
from layouts import LAYOUTS, any_magnitude, lay_out, lay_out_vector
from poison import poisoned
from tolerances import ALLOWED, assert_within, sum_rounding
from torch import Tensor

NAMES = ("mu", "log_var", "prior_mu", "prior_log_var", "gate_logits")
DENSE = ("dense",) * 7


def packed(latents: int) -> int:
    return latents * (latents + 1) // 2


def on_diagonal(latents: int) -> Tensor:
    """Which of the packed numbers are log L_jj."""
    rows, cols = torch.tril_indices(latents, latents)
    return rows == cols


class Case(NamedTuple):
    shape: tuple[int, int]
    dtypes: tuple[torch.dtype, ...] = (F32,) * 5  # of the inputs in the order of NAMES; of tril as of log_var
    layouts: tuple[str, ...] = DENSE  # of these, and of the incoming gradients of z and kl
    prior: str = "none"  # or "rows", "one row", "one mean" beside variances of each row
    gate: str = "none"  # or "rows", "one row"
    # Of the range of log(variance / prior variance), the part that the variance takes; None: both variances are near.
    share: float | None = 0.75
    constants: tuple[str, ...] = ()  # inputs that need no gradient
    per_dimension: bool = False
    variance_ratio: bool = True
    wanted: str = "both"  # which output has an incoming gradient: "z", "kl" or both
    seed: int = 1
    first_row: int = 0


def with_other(dtype: torch.dtype, at: int, other: torch.dtype) -> tuple[torch.dtype, ...]:
    return tuple(other if i == at else dtype for i in range(len(NAMES)))


def cases(shapes: st.SearchStrategy[tuple[int, int]], **others: st.SearchStrategy[Any]) -> st.SearchStrategy[Case]:
    """Cases of these shapes; ``others`` are strategies for fields."""
    dtype = st.sampled_from(DTYPES)
    alike, one_other = dtype.map(lambda a: (a,) * 5), st.builds(with_other, dtype, st.integers(0, 4), dtype)
    fields = {
        "dtypes": alike | one_other | st.tuples(*[dtype] * 5),
        "layouts": st.tuples(*[st.sampled_from(LAYOUTS)] * 7),
        "prior": st.sampled_from(["none", "rows", "one row", "one mean"]),
        "gate": st.sampled_from(["none", "rows", "one row"]),
        "per_dimension": st.booleans(),
        "wanted": st.sampled_from(["z", "kl", "both"]),
        "seed": st.integers(0, 2**63 - 1),
        "first_row": st.sampled_from([0, 0, 1, 1000, 2**32 - 3, 2**40, 2**62]),
    }
    # st.builds(Case) would make up the fields that have defaults.
    return st.fixed_dictionaries({"shape": shapes, **fields, **others}).map(lambda chosen: Case(**chosen))


def generator_of(case: Case) -> torch.Generator:
    return torch.Generator().manual_seed(case.seed % 2**32)


def draw(
    case: Case, generator: torch.Generator, full: bool = False, mu: float = 100, below: float = 100, gate: float = 30
) -> dict[str, Tensor]:
    """The inputs in float64, up to these sizes, ``below`` for L below its diagonal: no exponential leaves float32."""
    rows, cols = case.shape
    share = 0.5 if case.share is None else case.share
    log_var = 80 if case.prior == "none" else 80 * share
    values = {"mu": any_magnitude(generator, case.shape, 1e-8, mu)}
    if full:
        values["tril"] = any_magnitude(generator, (rows, packed(cols)), 1e-6, below)
        values["tril"][:, on_diagonal(cols)] = any_magnitude(generator, case.shape, 1e-8, log_var / 2)
    else:
        values["log_var"] = any_magnitude(generator, case.shape, 1e-8, log_var)
    if case.prior != "none":
        means, variances = (1 if case.prior in one else rows for one in (("one row", "one mean"), ("one row",)))
        values["prior_mu"] = any_magnitude(generator, (means, cols), 1e-8, mu)
        values["prior_log_var"] = any_magnitude(generator, (variances, cols), 1e-8, 80 * (1 - share))
    if case.gate != "none":
        values["gate_logits"] = any_magnitude(generator, (1 if case.gate == "one row" else rows, cols), 1e-3, gate)
    return values


class Problem(NamedTuple):
    """A case with numbers: what is not given is not among the inputs."""

    inputs: dict[str, Tensor]
    incoming: tuple[Tensor | None, Tensor | None]  # gradients of z and kl
    z_dtype: torch.dtype
    arithmetic: torch.dtype


def as_problem(
    case: Case,
    generator: torch.Generator,
    values: dict[str, Tensor],
    gradient: float = 1e3,
    device: torch.device | None = None,
) -> Problem:
    """These values, and incoming gradients from 1e-3 to ``gradient``, in the types and layouts of the case."""
    inputs = {}
    for at, name in enumerate(NAMES):
        name = "tril" if name == "log_var" and "tril" in values else name
        if name in values:
            laid = lay_out(values[name].to(device, case.dtypes[at]), case.layouts[at])
            inputs[name] = laid.detach().requires_grad_(name not in case.constants)
    z_dtype, wide = torch.promote_types(*case.dtypes[:2]), arithmetic(*(t.dtype for t in inputs.values()))
    kl_shape, lay = (case.shape, lay_out) if case.per_dimension else (case.shape[:1], lay_out_vector)
    grad_z = lay_out(any_magnitude(generator, case.shape, 1e-3, gradient).to(device, z_dtype), case.layouts[5])
    grad_kl = lay(any_magnitude(generator, kl_shape, 1e-3, gradient).to(device, wide), case.layouts[6])
    incoming = None if case.wanted == "kl" else grad_z, None if case.wanted == "z" else grad_kl
    return Problem(inputs, incoming, z_dtype, wide)


def assert_is_the_definition(
    case: Case,
    problem: Problem,
    sample: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    sums: Mapping[str, int],
    over_rows: float = 0,
) -> list[Tensor]:
    """z, kl and variance ratio, which ``sample`` gives for a seed, and the gradients, to rounding; their types; and
    that nothing is written to the arguments.

    ``sums`` says how many sums over the latents a result is made of, ``over_rows`` what a sum over the batch adds.
    """
    inputs, incoming, z_dtype, wide = problem
    learn = oracles.learned(inputs)
    seed = torch.tensor(case.seed, device=inputs["mu"].device)
    arguments = [t for t in (seed, *inputs.values(), *incoming) if t is not None]
    before = [t.clone() for t in arguments]

    def run() -> tuple[Tensor, ...]:
        z, kl, ratio = sample(seed)
        return z, kl, ratio, *oracles.gradients((z, kl), incoming, learn)

    results = [t.detach().cpu() for t in poisoned(run)]
    assert [t.dtype for t in results] == [z_dtype, wide, wide, *(t.dtype for t in learn)]
    expected = oracles.of_rsample_kl(inputs, case.seed, case.first_row, case.per_dimension, *incoming)
    over_latents = sum_rounding(case.shape[1], wide)
    for (name, (exact, size, batch_sum)), found in zip(expected.items(), results, strict=True):
        rounding = sums.get(name, 0) * over_latents + (over_rows if batch_sum else 0)
        assert_within(name, found, exact, (ALLOWED[wide] + rounding) * size, wide)
    assert all(map(torch.equal, before, arguments))
    return results
