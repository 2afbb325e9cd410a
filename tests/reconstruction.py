"""Cases of gaussian_nll and gaussian_elbo, for the tests of every backend."""

from typing import Any, NamedTuple

import torch
from dtypes import DTYPES, F32, F64, arithmetic
from hypothesis import strategies as st
from layouts import LAYOUTS, any_magnitude, lay_out, lay_out_vector
from tolerances import ALLOWED, UNIT_ROUNDOFF
from torch import Tensor

OUTPUTS = ("loss", "nll", "squared_error")
DENSE = ("dense",) * 5
# Small and many; around the sizes at which tiles and vectors end, and some large ones.
SHAPES = (
    st.tuples(st.integers(1, 9), st.integers(1, 70))
    | st.tuples(st.integers(100, 600), st.integers(1, 6))
    | st.tuples(st.integers(1, 4), st.sampled_from([127, 129, 255, 256, 257, 511, 512, 513, 1023, 1025, 3001, 100_000]))
)


class Case(NamedTuple):
    shape: tuple[int, int]
    dtypes: tuple[torch.dtype, torch.dtype] = (F32, F32)  # of x_hat and x
    layouts: tuple[str, ...] = DENSE  # of x_hat, x, kl and the incoming gradients of nll and squared error
    log_gamma: float = 0.0
    log_gamma_type: torch.dtype | None = F32  # None: a float
    beta: float | None = 1.0  # None: of gaussian_nll
    wanted: frozenset[str] = frozenset(OUTPUTS)  # those that have an incoming gradient
    constants: frozenset[str] = frozenset()  # inputs that need no gradient
    grad_loss: float = 1.0
    seed: int = 1


def cases(shapes: st.SearchStrategy[tuple[int, int]], **others: st.SearchStrategy[Any]) -> st.SearchStrategy[Case]:
    """Cases of these shapes; ``others`` are strategies for fields."""
    fields = {
        "dtypes": st.sampled_from([(a, a) for a in DTYPES] * 3 + [(a, b) for a in DTYPES for b in DTYPES if a != b]),
        "layouts": st.tuples(*[st.sampled_from(LAYOUTS)] * 5),
        "log_gamma": st.floats(-60, 60) | st.sampled_from([0.0, -60.0, 60.0]),
        "log_gamma_type": st.sampled_from([F32, F64]),
        "beta": st.sampled_from([0.0, 1.0, 0.37, 4.0]),
        "seed": st.integers(0, 2**31),
    }
    # st.builds(Case) would make up the fields that have defaults.
    return st.fixed_dictionaries({"shape": shapes, **fields, **others}).map(lambda chosen: Case(**chosen))


def relative_error(case: Case, backend: str) -> float:
    """Allowed in each term of a sum. The reference holds log_gamma, and so its exponential, no more exactly than in the
    type of the arithmetic."""
    wide = arithmetic(*case.dtypes)
    return ALLOWED[wide] + (abs(case.log_gamma) * UNIT_ROUNDOFF[wide] if backend == "reference" else 0)


def draw(case: Case, device: torch.device | None = None) -> tuple[dict[str, Tensor], list[Tensor | None]]:
    """The inputs by name, and the incoming gradients of the outputs in their order."""
    generator = torch.Generator().manual_seed(case.seed % 2**32)
    wide = arithmetic(*case.dtypes)
    target = torch.randn(case.shape, generator=generator, dtype=F64)
    values = target + any_magnitude(generator, case.shape, 1e-4, 100), target
    x_hat, x = (
        lay_out(value.to(device, dtype), layout)
        for value, dtype, layout in zip(values, case.dtypes, case.layouts[:2], strict=True)
    )
    kl, *per_row = (
        lay_out_vector(any_magnitude(generator, case.shape[:1], 1e-3, 1e3).to(device, wide), layout)
        for layout in case.layouts[2:]
    )
    log_gamma = torch.tensor(case.log_gamma, dtype=case.log_gamma_type or F64, device=device)
    inputs = {"x_hat": x_hat, "x": x, "log_gamma": log_gamma, "kl": kl}
    incoming = dict(zip(OUTPUTS, (torch.tensor(case.grad_loss, dtype=wide, device=device), *per_row), strict=True))
    if case.beta is None:
        del inputs["kl"], incoming["loss"]
    for name, tensor in inputs.items():
        inputs[name] = tensor.detach().requires_grad_(name not in case.constants)
    return inputs, [gradient if name in case.wanted else None for name, gradient in incoming.items()]
