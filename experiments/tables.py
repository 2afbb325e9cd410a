"""The parts of a table of the paper, for the drivers (``table1.py`` …) to fill in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from ..data import Dataset
from ..ensemble import Spec

__all__ = ["AS_PUBLISHED", "ATTENTION", "BUDGETS", "Cell", "Plan", "Table", "on_test_images", "on_training_images"]

# The subfolder for results of published plans in a folder of results: one table can have both.
AS_PUBLISHED = "as_published"
# The variants of the tables that have both → whether the model has attention.
ATTENTION = {"without attention": False, "with attention": True}


@dataclass(frozen=True)
class Plan:
    """How much is spent on a table.

    Attributes:
        name: of the budget.
        seeds: models of every cell; each has data, weights and noise of its own.
        first_seed: the models have this seed and those that follow.
        steps, batch_size: of the optimizer.
        samples: of every data set.
        published: whether the models are the paper's where theirs differ from ours.
    """

    name: str
    seeds: int
    steps: int
    samples: int
    batch_size: int = 1024
    published: bool = False
    first_seed: int = 0

    @property
    def seed_numbers(self) -> range:
        return range(self.first_seed, self.first_seed + self.seeds)

    def as_dict(self) -> dict[str, Any]:
        """As result files have it; plans from seed 0 on do not say so, as before there were others."""
        return {name: content for name, content in asdict(self).items() if name != "first_seed" or content}

    def as_published(self) -> "Plan":
        """Full batches, and 50,000 steps for our 20,000; the tables choose the widths."""
        return replace(self, steps=self.steps * 5 // 2, batch_size=self.samples, published=True)


# What `reproduce --budget` offers; --seeds replaces the number of seeds.
BUDGETS = {
    "quick": Plan("quick", 1, 4_000, 50_000),
    "reduced": Plan("reduced", 1, 20_000, 100_000),
    "full": Plan("full", 5, 20_000, 100_000),
}


def on_training_images(variant: str) -> str:
    """The variant of what is measured on training images, for a cell with held-out ones."""
    return f"{variant}, training images".removeprefix(", ")


def on_test_images(variant: str) -> str:
    """The variant of what is measured on test images."""
    return f"{variant}, test images".removeprefix(", ")


@dataclass(frozen=True)
class Cell:
    """One model of a table, trained once per seed.

    Attributes:
        columns: what makes its row, in the table's order.
        spec: the model; steps, batch size, seed and data set are filled in.
        data: what makes its data; called with ``n_train``, ``n_validation`` and ``seed``.
        true_active: active dimensions that the theorems predict, for each class; None if they predict none.
        variant: which of the models side by side in a row; empty if there is one.
        classes: the columns that each class of the data adds; with more than one, a model makes one row per class.
        measure: numbers to find for the trained model and its data besides the usual.
        held_out: images not trained on, on which the model is measured as well, in a row of their own.
        class_names: of the data's classes, if each is measured beside the whole, in the model's own row.
    """

    columns: Mapping[str, float | str]
    spec: Spec
    data: "partial[Dataset]"
    true_active: Sequence[int | None]
    variant: str = ""
    classes: Sequence[Mapping[str, float]] = ({},)
    measure: Callable[..., dict[str, float]] | None = None
    held_out: int = 0
    class_names: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        name: as in ``paper_tables.json``.
        title: what it shows.
        cells: its models under a plan.
        paper: its printed numbers, by cell and variant, as the result files have them.
        plan: what it makes of the plan that was asked for, if its models need other steps and batches.
        summary: what the result file has instead of runs and printed numbers, made from the runs.
    """

    name: str
    title: str
    cells: Callable[[Plan], Sequence[Cell]]
    paper: Sequence[dict[str, Any]] = ()
    plan: Callable[[Plan], Plan] = lambda plan: plan
    summary: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None
