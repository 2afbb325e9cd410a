"""Table 4: a CVAE of images, conditioned on their class label, and the active dimensions of each class.

The paper averages active dimensions over the classes and does not say whether this model has its attention (Section
4.4), without which the decoder cannot switch a latent dimension off for one class alone: both are here, the paper's
numbers beside the model without. Table 11 prints the encoder variances of this model on MNIST.
"""

from functools import partial

from ..ensemble import ConvSpec
from ..networks.residual import CONDITIONAL_CHANNELS
from . import images, paper
from .tables import ATTENTION, Cell, Plan, Table

__all__ = ["TABLE"]

LATENT_DIM = 32


def _cells(plan: Plan) -> list[Cell]:
    return [
        Cell(
            {"dataset": row["dataset"]},
            ConvSpec(
                LATENT_DIM,
                CONDITIONAL_CHANNELS,
                condition_dim=len(images.CLASSES[row["dataset"]]),
                attention=attention,
                training=images.training(plan),
            ),
            images.images(row["dataset"], labelled=True),
            (None,),
            variant,
            held_out=images.HELD_OUT,
            class_names=images.CLASSES[row["dataset"]],
        )
        for variant, attention in ATTENTION.items()
        for row in paper.rows("table4")
    ]


TABLE = Table(
    "table4",
    paper.title("table4"),
    _cells,
    images.printed("table4", ("dataset",), "without attention"),
    partial(images.plan, cost=6),  # twice as many channels, and the condition's
)
