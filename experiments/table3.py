"""Table 3: a condition that fixes t of the r dimensions leaves r − t active (Theorem 2)."""

from ..data import conditional_manifold
from ..ensemble import ModelSpec
from . import paper, recipe
from .tables import Cell, Plan, Table

__all__ = ["AMBIENT_DIM", "LATENT_DIM", "MANIFOLD_DIM", "TABLE"]

AMBIENT_DIM = LATENT_DIM = 20
MANIFOLD_DIM = 10


def _cell(t: int, plan: Plan) -> Cell:
    data = recipe.under_condition(
        conditional_manifold, plan, ambient_dim=AMBIENT_DIM, manifold_dim=MANIFOLD_DIM, condition_dim=t
    )
    spec = ModelSpec(LATENT_DIM, recipe.hidden("manifold", plan), condition_dim=t)
    return Cell({"t": t}, spec, data, (MANIFOLD_DIM - t,))


def _cells(plan: Plan) -> list[Cell]:
    return [_cell(row["t"], plan) for row in paper.rows("table3")]


TABLE = Table("table3", paper.title("table3"), _cells, paper.printed("table3", ("t",)))
