"""torch's default dtype and device: they are for what users make, and play no part in what the library does."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from instruction_sets import NEEDS_COMPILED

import manifold_core as mc
from manifold_core import data
from manifold_core.data import Dataset
from manifold_core.data.arrays import split
from manifold_core.data.encoding import OneHot
from manifold_core.ensemble.data import check_data
from manifold_core.ensemble.state import EngineState
from manifold_core.training import schedule

ARRAY = np.random.default_rng(0).normal(size=(60, 3))
SIZES = {"n_train": 30, "n_validation": 7}
MADE: dict[str, Callable[[], Dataset]] = {
    "synthetic": lambda: data.synthetic_manifold(6, 2, **SIZES),
    "conditional": lambda: data.conditional_manifold(6, 3, 2, **SIZES),
    "varying": lambda: data.varying_condition(6, 3, (1, 2), **SIZES),
    "union": lambda: data.union_of_manifolds(6, (1, 2), **SIZES),
    "sequences": lambda: data.arma_windows(4, 2, **SIZES),
    "array": lambda: split(ARRAY, "array", "array", 0.1, 0, standardise=True),
}


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tensors_of(made: Dataset) -> list[Any]:
    parts = (made.train, made.validation, made.train_condition, made.validation_condition)
    return [*parts, made.train_labels, made.validation_labels, made.standardisation.mean]


@pytest.mark.parametrize("name", MADE)
def test_data_are_on_the_cpu(name: str) -> None:
    """Whatever the default is, here one on which tensors have no numbers."""
    expected = tensors_of(MADE[name]())
    with torch.device("meta"):
        found = tensors_of(MADE[name]())
    for one, other in zip(found, expected, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_classes_are_where_their_labels_are() -> None:
    labels = np.array([3, 5, 3])
    encoding = OneHot((3, 5))
    with torch.device("meta"):
        found = encoding.apply(labels)
    assert found.tolist() == [[1, 0], [0, 1], [1, 0]]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", MADE)
def test_data_are_float32(name: str) -> None:
    samples_and_conditions = tensors_of(MADE[name]())[:4]
    assert all(part.dtype == torch.float32 for part in samples_and_conditions if part is not None)


@pytest.mark.filterwarnings("ignore:the model has learned no dimension")  # after 20 steps
@pytest.mark.usefixtures("float64")
def test_a_search_is_of_float32_models() -> None:
    plan = mc.SearchPlan(networks=((4,),), models=1, steps=20, batch_size=16)
    found = mc.find_dimension(ARRAY, plan, progress=False)
    assert all(parameter.dtype == torch.float32 for parameter in found.model.parameters())


def test_a_model_is_trained_and_read_where_it_is() -> None:
    model, x = mc.VAE.mlp(3, 2, (4,)), torch.rand(40, 3)
    schedule._table.cache_clear()

    def read() -> tuple[object, ...]:
        active, local = mc.active_dimensions(model, x), mc.local_dimensions(model, x)
        return mc.evaluate(model, x), active.variance.tolist(), local.spectrum.tolist(), mc.two_nn(x)

    with torch.device("meta"):
        mc.train(model, x, mc.TrainingConfig(steps=5, batch_size=8), progress=False)
        found = read()
        assert schedule.schedule_table(mc.TrainingConfig(steps=5)).isfinite().all()
    assert found == read()
    _, variance, spectrum, by_neighbours = found
    assert torch.tensor([variance, spectrum]).isfinite().all()
    assert by_neighbours is not None


@NEEDS_COMPILED
def test_an_ensemble_goes_on_wherever_tensors_are_made() -> None:
    state = EngineState([mc.ModelSpec(2, (4,), training=mc.TrainingConfig(steps=3))], check_data(torch.rand(9, 3)))
    kept = {name: tensor.clone() + 1 for name, tensor in state.tensors().items()}
    kept["progress"] = torch.tensor([[2, 0]])
    with torch.device("meta"):
        state.restore(kept)
    assert state.progress.tolist() == [[2, 0]]
    assert torch.equal(state.parameters, kept["parameters"])
