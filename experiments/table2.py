"""Table 2: active dimensions of a VAE on images saturate as κ grows."""

from ..ensemble import ConvSpec
from . import images, paper
from .tables import Cell, Plan, Table

__all__ = ["TABLE"]


def _cells(_plan: Plan) -> list[Cell]:
    return [
        Cell(
            {"dataset": row["dataset"], "kappa": row["kappa"]},
            ConvSpec(row["kappa"], training=images.TRAINING),
            images.images(row["dataset"]),
            (None,),
            held_out=images.HELD_OUT,
        )
        for row in paper.rows("table2")
    ]


TABLE = Table("table2", paper.title("table2"), _cells, images.printed("table2", ("dataset", "kappa")), images.plan)
