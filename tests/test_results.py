"""What the functions return can be compared, put into a set and used as a key."""

from copy import deepcopy
from dataclasses import is_dataclass
from typing import Any

import pytest
import torch
from manifold_core.kernels import explain

import manifold_core as mc
from manifold_core.data import Dataset
from manifold_core.data.encoding import Columns, OneHot
from manifold_core.metrics.reading import Reading
from manifold_core.search.directions import Directions

X = torch.arange(45.0).reshape(9, 5).sin()
MODEL = mc.VAE.mlp(5, 2)
TRAINED = mc.TrainedModel(mc.ModelSpec(2), MODEL, mc.evaluate(MODEL, X), mc.History(), None)
TRIAL = mc.Trial(TRAINED, 0.5)
READING = Reading(mc.local_dimensions(MODEL, X), 2.0, 2.0, 1.0, 3.0, 5, 5, 9, False)
COLUMNS = Columns(torch.zeros(3), torch.ones(3))
UNITS = mc.Standardisation.of(X)

BY_VALUE = [
    OneHot((0, 1, 2)),
    TRAINED.metrics,
    explain(X),
    mc.ConvSpec(2),
    mc.ModelSpec(2),
    mc.SearchPlan(),
    mc.SequentialSpec(2),
    mc.TrainingConfig(),
]
BY_IDENTITY = [
    COLUMNS,
    Dataset("points", X, X),
    READING,
    READING.local,
    TRAINED,
    UNITS,
    mc.DimensionSearch([TRIAL], TRIAL, READING, UNITS, Directions.of_samples(X, None)),
    mc.FinishedRun(MODEL, UNITS, {}, COLUMNS),
    TRIAL,
    mc.active_dimensions(MODEL, X),
]


@pytest.mark.parametrize("result", BY_VALUE + BY_IDENTITY, ids=lambda result: type(result).__name__)
def test_a_result_can_be_compared_and_be_a_key(result: Any) -> None:
    copied, equal = deepcopy(result), result in BY_VALUE
    assert (result == copied) is equal
    assert len({result, copied}) == (1 if equal else 2)


def test_all_results_are_among_these() -> None:
    public = {one for one in vars(mc).values() if isinstance(one, type) and is_dataclass(one)}
    assert public - set(map(type, BY_VALUE + BY_IDENTITY)) == {mc.History}  # which grows
