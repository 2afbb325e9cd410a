"""Theorem 3 itself: the loss of equation (3) at fixed γ, over a range, with an encoder and a prior that share weights.

It says that such a loss is bounded from below, whatever the weights: as γ falls 2L does not fall. It follows that no
dimension stays active, since 2L would then fall. Beside it is the same with two networks, which Theorem 2 is about.
Data and networks are those of Table 8.
"""

from functools import partial

from ..data import arma_windows
from ..ensemble import SequentialSpec
from .table8 import LATENT_DIM, SERIES, small_batches, training
from .tables import Cell, Plan, Table

__all__ = ["TABLE"]

LOG_GAMMAS = (-3.0, -5.0, -7.0)
STEPS = 0.15  # of the plan's: by then the losses are far apart


def _cells(plan: Plan) -> list[Cell]:
    return [
        Cell(
            {"shared_weights": shared, "log_gamma": log_gamma},
            SequentialSpec(
                LATENT_DIM,
                every_step=True,
                share_weights=shared,
                gamma="fixed",
                log_gamma=log_gamma,
                training=training(plan),
            ),
            partial(arma_windows, n_series=SERIES),
            (None,),  # with two networks ten, at a γ that is small enough
        )
        for shared in (True, False)
        for log_gamma in LOG_GAMMAS
    ]


TABLE = Table(
    "theorem3",
    "Theorem 3: an encoder and a prior that share weights, at fixed γ; the loss is that of one step of equation (3)",
    _cells,
    plan=partial(small_batches, steps=STEPS),
)
