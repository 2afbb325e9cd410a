"""Table 8: encoder and prior that share weights, on sequences.

The paper's text leaves open which steps the loss is summed over, so the table has both readings, and beside each the
paper's numbers:

- every step of windows of six given those before it: equation (3), which Theorem 3 is about;
- the sixth step alone, given five. The LSTM that encoder and prior share then reads six steps as encoder and five as
  prior, and learns to count them: the theorem, which has one network at every length, says nothing about it.

With two networks, the loss falls with γ and ten dimensions are active (Theorem 2): each of the ten series has an
innovation of its own at every step, which no history tells. For one network Theorem 3 says that the loss is bounded,
and nothing about dimensions. κ = 20 is less than the 60 that would give each of the six steps ten dimensions of its
own.
"""

from dataclasses import replace
from functools import partial

from ..data import arma_windows
from ..ensemble import SequentialSpec
from ..training import TrainingConfig
from . import paper
from .tables import Cell, Plan, Table

__all__ = ["LATENT_DIM", "SERIES", "TABLE", "small_batches", "training"]

LATENT_DIM = 20
SERIES = 10
LEARNING_RATE = 0.01  # twice as high, and in some models all latent dimensions shut for ever, shared or not
# Small models need many steps: after 0.6 of the plan's one of eight unshared models of the last step still has nine
# dimensions.
BATCH_SIZE = 128
# Name → every_step. The sum of equation (3) over the steps is taken as a mean, the loss of one step.
VARIANTS = {"every step, equation (3) as a mean": True, "last step of six": False}


def training(plan: Plan) -> TrainingConfig:
    """The training configuration, except steps and batches."""
    return TrainingConfig() if plan.published else TrainingConfig(learning_rate=LEARNING_RATE)


def _cell(variant: str, shared: bool, plan: Plan) -> Cell:
    spec = SequentialSpec(
        LATENT_DIM,
        every_step=VARIANTS[variant],
        share_weights=shared,
        training=training(plan),
    )
    data = partial(arma_windows, n_series=SERIES)
    return Cell({"shared_weights": shared}, spec, data, (None if shared else SERIES,), variant)


def _cells(plan: Plan) -> list[Cell]:
    return [_cell(variant, shared, plan) for variant in VARIANTS for shared in (True, False)]


def small_batches(asked: Plan, steps: float = 1.0) -> Plan:
    """The plan of models of sequences, with this share of the steps."""
    if asked.published:
        return asked
    return replace(asked, steps=max(1, round(steps * asked.steps)), batch_size=BATCH_SIZE)


TABLE = Table(
    "table8",
    paper.title("table8"),
    _cells,
    paper.printed("table8", ("shared_weights",), [("{}", variant) for variant in VARIANTS]),
    small_batches,
)
