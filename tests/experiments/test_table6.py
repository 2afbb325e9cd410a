"""The condition of Table 6: of unit scale by our recipe, as it is drawn as published."""

import numpy as np
from manifold_core.experiments.table6 import TABLE
from manifold_core.experiments.tables import Plan

from manifold_core.data import varying_condition

PLAN = Plan("quick", 1, 10, 3000)
SIZES = {"n_train": 3000, "n_validation": 50, "seed": 4}


def test_the_condition_has_unit_scale_and_its_zeros() -> None:
    raw = varying_condition(20, 12, (2, 4, 6, 8, 10), **SIZES)
    scale = raw.train_condition.numpy().astype(np.float64).std(axis=0, ddof=1)
    assert scale.max() > 2 * scale.min()  # else there is nothing to see
    for cell in TABLE.cells(PLAN):
        data = cell.data(**SIZES)
        for ours, drawn in (
            (data.train_condition, raw.train_condition),
            (data.validation_condition, raw.validation_condition),
        ):
            np.testing.assert_allclose(ours.numpy() * scale, drawn.numpy(), rtol=1e-6)
            assert ((ours == 0) == (drawn == 0)).all()
        np.testing.assert_allclose(data.train_condition.numpy().std(axis=0, ddof=1), 1, rtol=1e-4)
        assert (data.train == raw.train).all()
        assert (data.train_labels == raw.train_labels).all()


def test_as_published_it_is_as_drawn() -> None:
    raw = varying_condition(20, 12, (2, 4, 6, 8, 10), **SIZES)
    for cell in TABLE.cells(PLAN.as_published()):
        assert (cell.data(**SIZES).train_condition == raw.train_condition).all()
