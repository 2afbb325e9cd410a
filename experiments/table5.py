"""Table 5: a union of manifolds of 1 to 5 dimensions, each with a condition of its own, with and without attention."""

from functools import partial

from ..data import union_of_manifolds
from ..ensemble import ModelSpec
from . import paper, recipe
from .tables import ATTENTION, Cell, Plan, Table

__all__ = ["TABLE"]

AMBIENT_DIM, LATENT_DIM = 20, 40
DIMENSIONS = tuple(row["r"] for row in paper.rows("table5"))


def _cells(plan: Plan) -> list[Cell]:
    return [
        Cell(
            {},
            ModelSpec(
                LATENT_DIM,
                recipe.hidden("union", plan),
                activation="prelu",
                condition_dim=len(DIMENSIONS),
                attention=attention,
            ),
            partial(union_of_manifolds, ambient_dim=AMBIENT_DIM, manifold_dims=DIMENSIONS),
            DIMENSIONS,
            variant,
            tuple({"r": r} for r in DIMENSIONS),
        )
        for variant, attention in ATTENTION.items()
    ]


TABLE = Table("table5", paper.title("table5"), _cells, paper.printed("table5", ("r",), paper.WITH_AND_WITHOUT))
