"""The yardstick: the same loss as the models', written by hand."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from manifold_core.experiments import eager
from manifold_core.experiments.catalogue import TABLES
from manifold_core.experiments.eager import eager_seconds, measure
from manifold_core.experiments.tables import BUDGETS, Plan
from manifold_core.kernels.random import standard_normal

import manifold_core as mc
from manifold_core import cli
from manifold_core.bench.by_hand import negative_elbo
from manifold_core.provenance import processor

PLAN = Plan("tiny", seeds=2, steps=7, samples=64, batch_size=32)


@pytest.fixture(autouse=True)
def _tiny_is_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUDGETS, PLAN.name, PLAN)


@pytest.mark.parametrize("name", list(TABLES))
def test_it_is_the_loss_of_the_models(name: str) -> None:
    """Every kind of model that a table has, on the noise that the library draws."""
    for cell in TABLES[name].cells(PLAN):
        data = cell.data(n_train=64, n_validation=1, seed=3)
        model = replace(cell.spec, log_gamma=-1.5).build(*data.train.shape[1:])
        inputs = [data.train] if data.train_condition is None else [data.train, data.train_condition]
        rows = len(data.train) * (data.train_condition.shape[1] + 1 if isinstance(model, mc.EveryStepCVAE) else 1)
        noise = standard_normal(torch.tensor(5), rows, model.latent_dim).float()
        found = negative_elbo(model, data.train, data.train_condition, noise)
        assert found.item() == pytest.approx(model(*inputs, seed=5).loss.item(), rel=1e-5)


def test_seconds_grow_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of model is measured once, each model counted."""
    measured = []
    monkeypatch.setattr(eager, "_median_step", lambda cell, *_, **__: measured.append(cell) or 0.5)
    cells = TABLES["table3"].cells(PLAN)
    assert eager_seconds(cells, PLAN, "cpu") == 0.5 * 2 * 7 * len(cells)
    assert len(measured) == 5  # five widths of the condition
    measured.clear()
    assert eager_seconds(TABLES["table1"].cells(PLAN), PLAN, "cpu") == 0.5 * 2 * 7 * 18
    assert len(measured) == 4  # d = 10, 20, 30 with κ = 20; d = 20 with κ = 5


def test_what_is_timed_is_a_step_of_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: taken.append(self.param_groups[0]["lr"]))
    monkeypatch.setattr(eager, "timed", lambda call, _: (0.0, call.run() or 5e5, 1e9))  # microseconds
    (cell, *_) = TABLES["table3"].cells(PLAN)
    assert eager_seconds([cell], PLAN, "cpu") == 0.5 * 2 * 7
    assert taken == [0.005]


def test_it_is_written_into_the_result_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "_median_step", lambda *_, **__: 0.5)
    content = {"table": "table3", "title": "of conditions", "runs": [], "plan": PLAN.as_dict(), "and": ["more"]}
    for name in ("table3", "theorem2"):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    measure(tmp_path)
    found = json.loads((tmp_path / "table3.json").read_text())
    ours, published = 0.5 * 2 * 7 * 5, 0.5 * 2 * 50_000 * 5  # of the paper, whatever the budget was
    steps = {"same_steps_a_step": 0.5, "as_published_a_step": 0.5}
    where = found.pop("eager_on")
    assert (where["device"], where["threads"]) == (processor(), torch.get_num_threads())
    assert found == content | {"eager_seconds": {"same_steps": ours, "as_published": published, **steps}}
    assert "as_published" not in json.loads((tmp_path / "theorem2.json").read_text())["eager_seconds"]


@pytest.mark.parametrize("name", ["table6", "table8"])
def test_a_table_with_a_plan_of_its_own_is_published_with_the_paper_s(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eager, "_median_step", lambda *_, **__: 0.5)
    plan = TABLES[name].plan(replace(BUDGETS["full"], seeds=3))
    assert (plan.steps, plan.batch_size) in ((20_000, 128), (40_000, 512))
    content = {"table": name, "title": "", "runs": [], "plan": plan.as_dict()}
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
    measure(tmp_path)
    found = json.loads((tmp_path / f"{name}.json").read_text())["eager_seconds"]
    steps = {"same_steps_a_step": 0.5, "as_published_a_step": 0.5}
    assert found == {"same_steps": 0.5 * 4 * 3 * plan.steps, "as_published": 0.5 * 4 * 3 * 50_000, **steps}


def test_a_folder_that_cannot_be_written_to_is_refused_before_any_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(folder: Path) -> Path:
        raise mc.InputError(f"{folder.name} cannot be written to")

    content = {"table": "table3", "title": "of conditions", "runs": [], "plan": PLAN.as_dict()}
    (tmp_path / "table3.json").write_text(json.dumps(content))
    monkeypatch.setattr(eager, "output_folder", refused)
    monkeypatch.setattr(eager, "eager_seconds", None)
    with pytest.raises(mc.InputError, match="cannot be written to"):
        measure(tmp_path)


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(mc.InputError, match=r"must hold result files such as table1\.json"):
        measure(tmp_path)


WHOLE = {"table": "table3", "title": "of conditions", "runs": [], "plan": PLAN.as_dict()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "expected a result file, an object with 'table', 'title' and 'runs' or 'fits'"),
        ("xx", "expected a result file in JSON"),
        ("", "expected a result file in JSON"),
        ({"table": "table3", "runs": [], "plan": PLAN.as_dict()}, "'title' is missing"),
        ({"table": "table3", "title": "", "runs": []}, "'plan' is {}, expected one like {'name': 'full', 'seeds': 5"),
        (WHOLE | {"plan": [7]}, r"'plan' is \[7\], expected an object"),
        (WHOLE | {"plan": PLAN.as_dict() | {"colour": "red"}}, "'plan' is .*'colour': 'red'}, expected one like"),
        (WHOLE | {"plan": PLAN.as_dict() | {"steps": "7"}}, "'plan' is .*'steps': '7'.*, expected one like"),
        (WHOLE | {"plan": PLAN.as_dict() | {"seeds": True}}, "'plan' is .*'seeds': True.*, expected one like"),
        (WHOLE | {"plan": PLAN.as_dict() | {"batch_size": 0}}, "'plan' is .*'batch_size': 0.*, expected one like"),
        (WHOLE | {"plan": {"name": "full", "seeds": 5}}, "'plan' is .*, expected one like"),
    ],
)
def test_a_damaged_file_is_named_before_any_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], content: Any, message: str
) -> None:
    monkeypatch.setattr(eager, "_median_step", None)
    whole, damaged = tmp_path / "table1.json", tmp_path / "table3.json"
    whole.write_text(json.dumps(WHOLE | {"table": "table1"}))
    damaged.write_text(content if isinstance(content, str) else json.dumps(content))
    before = whole.read_bytes(), damaged.read_bytes()
    assert cli.main(["eager", str(tmp_path)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(f"manifold-core: {re.escape(str(damaged))}: {message}", line)
    assert (whole.read_bytes(), damaged.read_bytes()) == before


def test_the_files_of_the_repository_can_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older ones do not say whether they are published; of other seeds, they say which is the first."""
    monkeypatch.setattr(eager, "_median_step", lambda *_, **__: 0.5)
    results = Path(__file__).parents[2] / "experiments/results"
    for name in ("table1", "table3"):
        content = json.loads((results / f"{name}.json").read_text())
        if name == "table1":
            content["plan"].pop("published", None)
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    other = results / "other_seeds" / "table6.json"
    (tmp_path / "table6.json").write_bytes(other.read_bytes())
    measure(tmp_path)
    found = json.loads((tmp_path / "table6.json").read_text())
    assert found["plan"]["first_seed"] == 8
    assert found["eager_seconds"]["same_steps_a_step"] == 0.5
    assert "published" not in json.loads((tmp_path / "table1.json").read_text())["plan"]
    assert json.loads((tmp_path / "table1.json").read_text())["eager_seconds"]["same_steps"] == 0.5 * 18 * 8 * 20_000
