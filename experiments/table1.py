"""Table 1: active dimensions of a VAE against the true dimension r of synthetic manifolds."""

from collections.abc import Iterator
from functools import partial

from ..data import synthetic_manifold
from ..ensemble import ModelSpec
from . import paper, recipe
from .tables import Cell, Plan, Table

__all__ = ["TABLE"]


def _cells(plan: Plan) -> Iterator[Cell]:
    for row in paper.rows("table1"):
        kappa, d, r = row["kappa"], row["d"], row["r"]
        data = partial(synthetic_manifold, ambient_dim=d, manifold_dim=r)
        spec = ModelSpec(kappa, recipe.hidden("all manifolds", plan))
        # Theorem 1 is about κ ≥ r: with fewer, all are active once training is done, and r cannot be read. It is about
        # r < d as well: with r = d the table asks for the number, but nothing predicts it.
        yield Cell({"kappa": kappa, "d": d, "r": r}, spec, data, (r if r <= kappa else None,))


TABLE = Table(
    "table1",
    paper.title("table1"),
    lambda plan: list(_cells(plan)),
    paper.printed("table1", ("kappa", "d", "r")),
)
