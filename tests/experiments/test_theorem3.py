"""Theorem 3: what is trained."""

from manifold_core.experiments.catalogue import TABLES
from manifold_core.experiments.tables import BUDGETS

import manifold_core as mc

TABLE = TABLES["theorem3"]


def test_what_is_trained() -> None:
    plan = TABLE.plan(BUDGETS["full"])
    assert (plan.steps, plan.batch_size) == (3000, 128)
    cells = TABLE.cells(plan)
    assert [tuple(cell.columns.values()) for cell in cells] == [
        (shared, log_gamma) for shared in (True, False) for log_gamma in (-3.0, -5.0, -7.0)
    ]
    for cell in cells:
        spec = cell.spec
        assert isinstance(spec, mc.SequentialSpec)
        assert (spec.share_weights, spec.log_gamma) == tuple(cell.columns.values())
        assert (spec.gamma, spec.every_step, spec.latent_dim, spec.hidden) == ("fixed", True, 20, 32)
        assert spec.training.learning_rate == 0.01
    data = cells[0].data(n_train=7, n_validation=1, seed=0)
    assert data.train.shape == (7, 20)
    assert data.train_condition is not None
    assert data.train_condition.shape == (7, 5, 20)
