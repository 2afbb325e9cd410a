"""What the image tables share: the data, and how long to train on them.

The published code trains 400 epochs in batches of 512 images, 46,800 steps, with Adam at 0.002 and a one-cycle schedule
(which it gives the wrong number of steps: :func:`training`): the budget `full`. The smaller budgets have smaller
batches, since steps improve a model, and on a CPU a step costs what its images do. On two cores, two models side by
side and beside other work, a model of Table 2 takes some 25 minutes at `reduced`. Before the MLPs of
:func:`.recipe.hidden`, which Table 4 does without, it took 8 minutes at `reduced`, 30 seconds at `quick` and two hours
at `full`, which needs a GPU: an H100 trained all 14 models of the three tables at `full` in 13 minutes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from ..data import Dataset, load_images
from ..data.images import ImageSet, fetch_images, under_labels
from ..training import TrainingConfig
from . import paper
from .tables import Cell, Plan, on_test_images

__all__ = ["CLASSES", "HELD_OUT", "fetch", "images", "plan", "printed", "training"]

CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        *("T-shirt", "trousers", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "boot"),
    ),
}
SAMPLES, HELD_OUT = 60_000, 10_000
EPOCHS = 400
STEPS = {"quick": 900, "reduced": 15_000}  # of VAEs, with the small batch
SMALL_BATCH, BATCH_SIZE = 128, 512


def plan(asked: Plan, cost: int = 1) -> Plan:
    """The plan of an image table: all images, with the steps and batches of the budget. If a step takes ``cost`` times
    as long, the small budgets have that many times fewer; the paper's budget is the same for all."""
    if asked.published or asked.name == "full":
        return replace(asked, steps=EPOCHS * (SAMPLES // BATCH_SIZE), batch_size=BATCH_SIZE, samples=SAMPLES)
    if asked.name not in STEPS:
        return asked
    return replace(asked, steps=STEPS[asked.name] // cost, batch_size=SMALL_BATCH, samples=SAMPLES)


def training(asked: Plan) -> TrainingConfig:
    """The learning rate that the published code names; for the small budgets, whose fewer steps have as far to go, a
    higher one. As published, the schedule is told of 100 times as many steps as there are, and the learning rate stays
    near where it begins."""
    if asked.published:
        return TrainingConfig(asked.steps, learning_rate=0.002, cycle_steps=100 * asked.steps)
    return TrainingConfig(learning_rate=0.005 if asked.name in STEPS else 0.002)


def fetch(cells: Iterable[Cell]) -> None:
    """Fetch the image files that these cells need, or raise InputError, before hours are spent on other tables."""
    for name in {cell.data.keywords["name"]: None for cell in cells if cell.data.func is _images}:
        fetch_images(name)


def images(name: ImageSet, *, labelled: bool = False) -> "partial[Dataset]":
    """Makes the data of "mnist" or "fashion-mnist": the first training and test images, scaled alike, to [0, 1]; with
    ``labelled`` also their class, in one-hot form, as the condition. The same for every seed."""
    return partial(_images, name=name, labelled=labelled)


def _images(*, name: ImageSet, labelled: bool, n_train: int, n_validation: int, seed: int) -> Dataset:
    del seed
    return _first(name, labelled, n_train, n_validation)


@lru_cache
def _first(name: ImageSet, labelled: bool, n_train: int, n_validation: int) -> Dataset:
    """One object for all seeds, which then share its memory."""
    whole = _whole(name)
    assert whole.train_labels is not None
    assert whole.validation_labels is not None
    data = Dataset(
        name,
        whole.train[:n_train],
        whole.validation[:n_validation],
        whole.train_labels[:n_train],
        whole.validation_labels[:n_validation],
    )
    return under_labels(data) if labelled else data


@lru_cache
def _whole(name: ImageSet) -> Dataset:
    return load_images(name)


def printed(table: str, key: Sequence[str], variant: str = "") -> list[dict[str, Any]]:
    """The paper's rows beside our test images. It does not say on which images it measured."""
    return paper.printed(table, key, [("{}", on_test_images(variant))])
