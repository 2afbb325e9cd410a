"""How far a command is that trains several tables, and about how long the rest will take."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..bench.by_hand import negative_elbo
from ..networks import by_pytorch
from .report.text import duration
from .tables import Cell, Plan

__all__ = ["Progress", "work"]

# An operation takes the training loop about as long as this many take a fused engine. In experiments/results the
# engine's tables took 12 to 15 ps each on the Xeon, on the EPYC (8c180d7) 17 to 35; those of sequences 50 and 114,
# those of images 57 and 74 on the EPYC.
OF_THE_LOOP = 4


def work(cells: Iterable[Cell], plan: Plan) -> float:
    """What training these cells takes: the operations of all forward passes, in matrix products and convolutions, as
    if an engine did them."""
    of_a_sample = 0.0
    for cell in cells:
        data = cell.data(n_train=2, n_validation=1, seed=0)
        x, c = data.train.to("meta"), None if data.train_condition is None else data.train_condition.to("meta")
        with torch.device("meta"):
            model = by_pytorch(cell.spec.build(*x.shape[1:]))
        with FlopCounterMode(display=False) as counter:
            negative_elbo(model, x, c)
        of_a_sample += counter.get_total_flops() / len(x) * (OF_THE_LOOP if cell.spec.beyond_engines else 1)
    return of_a_sample * plan.seeds * plan.steps * plan.batch_size


@dataclass
class Progress:
    """Of a command that trains tables one after the other.

    Attributes:
        work: of each table, in their order; 0 of one that was finished before.
        done: of this work, ``seconds`` what it took.
    """

    work: Mapping[str, float]
    done: float = 0.0
    seconds: float = 0.0

    def name(self, table: str) -> str:
        """What the bars of the table are called."""
        return f"{table} ({self._place(table)} of {len(self.work)})"

    def end(self, table: str, here: float, training: float) -> str:
        """What to say of the table once it is done.

        Args:
            here: the seconds since the command turned to it.
            training: those of training it, also before the command was stopped and resumed.
        """
        place = self._place(table)
        so_far = f"{place} of {len(self.work)} tables"
        if not self.work[table]:
            return f"{table} was already finished; {so_far}"
        self.done += self.work[table]
        self.seconds += max(here, training)  # of the whole table, of which part may have been trained before
        left = sum([*self.work.values()][place:]) / self.done * self.seconds
        said = f"{table} done in {duration(here)}; {so_far}"
        return f"{said}; about {math.ceil(left / 60)} min left" if left else said

    def _place(self, table: str) -> int:
        return [*self.work].index(table) + 1
