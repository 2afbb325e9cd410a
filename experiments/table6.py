"""Table 6: a condition whose effective dimension t differs from sample to sample, with and without attention.

The caption and the published code say κ = 90, the text κ = 20: both are here, the paper's numbers beside the first.
"""

from dataclasses import replace

from ..data import varying_condition
from ..ensemble import ModelSpec
from . import paper, recipe
from .tables import ATTENTION, Cell, Plan, Table

__all__ = ["TABLE"]

AMBIENT_DIM, MANIFOLD_DIM = 20, 12
LATENT_DIMS = (90, 20)
DIMENSIONS = tuple(row["t"] for row in paper.rows("table6"))


def _cells(plan: Plan) -> list[Cell]:
    return [
        Cell(
            {"kappa": kappa},
            ModelSpec(
                kappa,
                recipe.hidden("varying", plan),
                activation="prelu",
                condition_dim=max(DIMENSIONS),
                condition_hidden=recipe.condition_hidden(plan),
                attention=attention,
            ),
            recipe.under_condition(
                varying_condition,
                plan,
                ambient_dim=AMBIENT_DIM,
                manifold_dim=MANIFOLD_DIM,
                condition_dims=DIMENSIONS,
            ),
            tuple(MANIFOLD_DIM - t for t in DIMENSIONS),
            variant,
            tuple({"t": t} for t in DIMENSIONS),
        )
        for kappa in LATENT_DIMS
        for variant, attention in ATTENTION.items()
    ]


def _plan(asked: Plan) -> Plan:
    """Twice the steps: the last dimensions of t = 10 are shut late (recipe.py)."""
    return asked if asked.published else replace(recipe.half_batches(asked), steps=2 * asked.steps)


TABLE = Table(
    "table6",
    paper.title("table6"),
    _cells,
    [
        row | {"cell": {"kappa": LATENT_DIMS[0]} | row["cell"]}
        for row in paper.printed("table6", ("t",), paper.WITH_AND_WITHOUT)
    ],
    _plan,
)
