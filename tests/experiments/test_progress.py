"""What a command says of several tables on standard error, and what it takes for the work of each."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from manifold_core.experiments import reproduce as reproducing
from manifold_core.experiments import workers
from manifold_core.experiments.catalogue import TABLES
from manifold_core.experiments.jobs import Part
from manifold_core.experiments.progress import OF_THE_LOOP, Progress, work
from manifold_core.experiments.reproduce import reproduce
from manifold_core.experiments.tables import BUDGETS, Cell, Plan, Table

import manifold_core as mc
from manifold_core.data import synthetic_manifold

PLAN = Plan("tiny", seeds=2, steps=20, samples=120, batch_size=40)
DATA = partial(synthetic_manifold, ambient_dim=7, manifold_dim=2)
SMALL = Cell({"d": 7}, mc.ModelSpec(3, (5,)), DATA, (2,))
LARGE = Cell({"d": 7}, mc.ModelSpec(3, (50,)), DATA, (2,))


def test_work_is_the_arithmetic_of_the_networks() -> None:
    products = 7 * 5 + 5 * 2 * 3 + 3 * 5 + 5 * 7
    assert work([SMALL], PLAN) == 2 * products * 2 * 20 * 40
    assert work([SMALL, LARGE], replace(PLAN, steps=60)) == 3 * (1 + 10) * work([SMALL], PLAN)


def test_work_of_the_training_loop_counts_for_more() -> None:
    """As much in bfloat16 as in float32, but no engine does it."""
    loop = replace(SMALL, spec=replace(SMALL.spec, training=mc.TrainingConfig(precision="bfloat16")))
    assert work([loop], PLAN) == OF_THE_LOOP * work([SMALL], PLAN)


def test_every_table_is_work() -> None:
    found = {name: work(table.cells(plan), plan) for name, table in TABLES.items() for plan in [table.plan(PLAN)]}
    assert min(found.values()) > 0
    assert min(found[name] for name in ("table2", "table4", "table9")) > 10 * found["table3"]


def test_what_is_left_is_told_by_what_is_done() -> None:
    so_far = Progress({"a": 100.0, "b": 0.0, "c": 200.0, "d": 700.0, "e": 90.0})
    assert [so_far.name(table) for table in "ae"] == ["a (1 of 5)", "e (5 of 5)"]
    assert so_far.end("a", 60.0, 50.0) == "a done in 1 min 0 s; 1 of 5 tables; about 10 min left"
    assert so_far.end("b", 0.0, 7e9) == "b was already finished; 2 of 5 tables"
    # Trained for 9 min, of which 6 before it was stopped: all 9 are what its work takes.
    assert so_far.end("c", 180.0, 540.0) == "c done in 3 min 0 s; 3 of 5 tables; about 27 min left"
    assert so_far.end("d", 2000.0, 1900.0) == "d done in 33 min 20 s; 4 of 5 tables; about 4 min left"
    assert so_far.end("e", 100.0, 90.0) == "e done in 1 min 40 s; 5 of 5 tables"


class TestCommand:
    NAMES = ("tableX", "tableY")

    @pytest.fixture(autouse=True)
    def _known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, cell in zip(self.NAMES, (SMALL, LARGE), strict=True):
            monkeypatch.setitem(TABLES, name, Table(name, "a table", lambda _, cell=cell: [cell]))
        monkeypatch.setitem(BUDGETS, PLAN.name, PLAN)
        monkeypatch.setattr(reproducing, "NAMES", self.NAMES)

    def said(self, folder: Path, capsys: pytest.CaptureFixture[str], progress: bool = True) -> list[str]:
        reproduce(self.NAMES, folder, budget=PLAN.name, progress=progress)
        out, err = capsys.readouterr()
        assert out == ""
        return err.replace("\r", "\n").splitlines()

    def test_bars_have_names_and_tables_have_lines(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said = self.said(tmp_path, capsys)
        for place, name in enumerate(self.NAMES, 1):
            for what in ("", ", measuring"):
                assert any(line.startswith(f"{name} ({place} of 2){what}: 100%") for line in said)
        first, last = (line for line in said if line.startswith("manifold-core: "))
        assert first.startswith("manifold-core: tableX done in ")
        assert first.endswith(" s; 1 of 2 tables; about 1 min left")
        assert last.endswith(" s; 2 of 2 tables")

    def test_a_finished_table_is_passed_over(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.said(tmp_path, capsys)
        (tmp_path / "tableY.json").unlink()
        first, *bars, last = self.said(tmp_path, capsys)
        assert first == "manifold-core: tableX was already finished; 1 of 2 tables"
        assert bars
        assert last.startswith("manifold-core: tableY done in ")

    def test_training_before_a_stop_counts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        train = workers.train_shard

        def resumed(*given: Any, **options: Any) -> Part:
            return replace(train(*given, **options), seconds=600.0)

        monkeypatch.setattr(workers, "train_shard", resumed)
        lines = [line for line in self.said(tmp_path, capsys) if "done in" in line]
        assert lines[0].endswith(" s; 1 of 2 tables; about 100 min left")  # tableY is ten times the work

    def test_on_a_terminal_a_line_clears_what_is_behind_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        assert len([line for line in self.said(tmp_path, capsys) if line.startswith("\x1b[Kmanifold-core: ")]) == 2

    def test_quiet_it_says_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.said(tmp_path, capsys, progress=False) == []
