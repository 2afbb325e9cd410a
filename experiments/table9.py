"""Table 9: full against diagonal covariance of the posterior, in networks that differ only at the end of the encoder:
the full one has a narrow layer off which the rows of L are read (``networks/head.py``)."""

from ..covariance import Covariance
from ..ensemble import ConvSpec
from . import images, paper, recipe
from .tables import Cell, Plan, Table

__all__ = ["TABLE"]

LATENT_DIM = 32
COVARIANCES: dict[str, Covariance] = {"full": "cholesky", "diagonal": "diagonal"}


def _cells(plan: Plan) -> list[Cell]:
    return [
        Cell(
            {"covariance": name},
            ConvSpec(
                LATENT_DIM,
                recipe.channels(plan),
                covariance=covariance,
                hidden=recipe.hidden("images", plan),
                training=images.training(plan),
            ),
            images.images("mnist"),
            (None,),
            held_out=images.HELD_OUT,
        )
        for name, covariance in COVARIANCES.items()
    ]


TABLE = Table("table9", paper.title("table9"), _cells, images.printed("table9", ("covariance",)), images.plan)
