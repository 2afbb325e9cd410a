"""Table 2: active dimensions of a VAE on images saturate as κ grows.

The paper's κ are 5, 16 and 32; here is 64 as well: if all 32 are active, nothing says how many there may be.
"""

from ..ensemble import ConvSpec
from . import images, paper, recipe
from .tables import Cell, Plan, Table

__all__ = ["TABLE"]


BEYOND = 64


def _cells(plan: Plan) -> list[Cell]:
    printed = [(row["dataset"], row["kappa"]) for row in paper.rows("table2")]
    beyond = [] if plan.published else [(name, BEYOND) for name in dict.fromkeys(name for name, _ in printed)]
    return [
        Cell(
            {"dataset": name, "kappa": kappa},
            ConvSpec(
                kappa, recipe.channels(plan), hidden=recipe.hidden("images", plan), training=images.training(plan)
            ),
            images.images(name),
            (None,),
            held_out=images.HELD_OUT,
        )
        for name, kappa in (*printed, *beyond)
    ]


TABLE = Table("table2", paper.title("table2"), _cells, images.printed("table2", ("dataset", "kappa")), images.plan)
