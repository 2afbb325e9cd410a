"""The yardstick: the same loss as the models', written by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from manifold_core.experiments import eager
from manifold_core.experiments.catalogue import TABLES
from manifold_core.experiments.eager import eager_loss, eager_seconds, measure
from manifold_core.experiments.tables import Plan
from manifold_core.kernels.random import standard_normal

import manifold_core as mc

PLAN = Plan("tiny", seeds=2, steps=7, samples=64, batch_size=32)


@pytest.mark.parametrize("name", list(TABLES))
def test_it_is_the_loss_of_the_models(name: str) -> None:
    """Every kind of model that a table has, on the noise that the library draws."""
    for cell in TABLES[name].cells(PLAN):
        data = cell.data(n_train=64, n_validation=1, seed=3)
        model = replace(cell.spec, log_gamma=-1.5).build(*data.train.shape[1:])
        inputs = [data.train] if data.train_condition is None else [data.train, data.train_condition]
        rows = len(data.train) * (data.train_condition.shape[1] + 1 if isinstance(model, mc.EveryStepCVAE) else 1)
        noise = standard_normal(torch.tensor(5), rows, model.latent_dim).float()
        found = eager_loss(model, data.train, data.train_condition, noise)
        assert found.item() == pytest.approx(model(*inputs, seed=5).loss.item(), rel=1e-5)


def test_seconds_grow_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of model is measured once, each model counted."""
    measured = []
    monkeypatch.setattr(eager, "_median_step", lambda cell, *_: measured.append(cell) or 0.5)
    cells = TABLES["table3"].cells(PLAN)
    assert eager_seconds(cells, PLAN, "cpu") == 0.5 * 2 * 7 * len(cells)
    assert len(measured) == 5  # five widths of the condition
    measured.clear()
    assert eager_seconds(TABLES["table1"].cells(PLAN), PLAN, "cpu") == 0.5 * 2 * 7 * 18
    assert len(measured) == 4  # d = 10, 20, 30 with κ = 20; d = 20 with κ = 5


def test_it_is_written_into_the_result_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "_median_step", lambda *_: 0.5)
    content = {"table": "table3", "runs": [], "plan": PLAN.as_dict()}
    for name in ("table3", "theorem2"):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    measure(tmp_path)
    found = json.loads((tmp_path / "table3.json").read_text())
    ours, published = 0.5 * 2 * 7 * 5, 0.5 * 2 * 17 * 5  # 17 is half of 35
    assert found == content | {"eager_seconds": {"same_steps": ours, "as_published": published}}
    assert "as_published" not in json.loads((tmp_path / "theorem2.json").read_text())["eager_seconds"]


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(mc.InputError, match=r"must hold result files such as table1\.json"):
        measure(tmp_path)
