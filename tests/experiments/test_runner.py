"""The runner: every cell and seed trained once, results in the form that the report reads, nothing done twice."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from manifold_core.experiments import jobs, runner, workers
from manifold_core.experiments import reproduce as reproducing
from manifold_core.experiments.catalogue import TABLES
from manifold_core.experiments.reproduce import NAMES, reproduce
from manifold_core.experiments.runner import run_table
from manifold_core.experiments.tables import BUDGETS, Cell, Plan, Table

import manifold_core as mc
from manifold_core import cli, provenance
from manifold_core.data import Dataset
from manifold_core.ensemble.data import check_data, check_specs
from manifold_core.storage.files import locked

PLAN = Plan("tiny", seeds=2, steps=20, samples=120, batch_size=40)


def noise(features: int, *, n_train: int, n_validation: int, seed: int) -> Dataset:
    x = torch.randn(n_train + n_validation, features, generator=torch.Generator().manual_seed(seed))
    return Dataset("noise", x[:n_train], x[n_train:])


def two_classes(*, n_train: int, n_validation: int, seed: int) -> Dataset:
    data = noise(3, n_train=n_train, n_validation=n_validation, seed=seed)
    labels = torch.arange(n_train) % 2
    condition = torch.nn.functional.one_hot(labels).float()
    return replace(data, train_labels=labels, train_condition=condition)


PLAIN = Cell({"d": 4}, mc.ModelSpec(2, (5,)), partial(noise, 4), (1,))
SAME_DATA = Cell({"d": 5}, mc.ModelSpec(3, (5,)), partial(noise, 4), (2,), "wider")
CLASSES = Cell(
    {},
    mc.ModelSpec(2, (5,), condition_dim=2, log_gamma=-6.0),
    partial(two_classes),
    (1, 2),
    "",
    ({"class": 0}, {"class": 1}),
)
PRINTED = {"cell": {"d": 4}, "variant": "", "AD": 1}
TABLE = Table("tableX", "a table", lambda _: [PLAIN, SAME_DATA, CLASSES], [PRINTED])


def sequences(*, n_train: int, n_validation: int, seed: int) -> Dataset:
    data = noise(3, n_train=n_train, n_validation=n_validation, seed=seed)
    return replace(data, train_condition=torch.stack((data.train.flip(0), data.train.roll(1, 0)), dim=1))


def run(folder: Path, table: Table = TABLE, plan: Plan = PLAN) -> dict[str, Any]:
    return run_table(table, plan, folder)


def test_a_run_for_each_cell_seed_and_class(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert json.loads((tmp_path / "tableX.json").read_text()) == result
    found = [(r["cell"], r["variant"], r["seed"], r["true_active"]) for r in result["runs"]]
    assert found == [
        ({"d": 4}, "", 0, 1),
        ({"d": 4}, "", 1, 1),
        ({"d": 5}, "wider", 0, 2),
        ({"d": 5}, "wider", 1, 2),
        ({"class": 0}, "", 0, 1),
        ({"class": 1}, "", 0, 2),
        ({"class": 0}, "", 1, 1),
        ({"class": 1}, "", 1, 2),
    ]
    assert (result["table"], result["title"], result["budget"], result["seeds"]) == ("tableX", "a table", "tiny", 2)
    assert result["paper"] == [PRINTED]
    assert [path.name for path in tmp_path.iterdir()] == ["tableX.json"]


def test_a_data_set_is_made_once_for_each_of_its_kind_and_seed() -> None:
    wider = replace(PLAIN, data=partial(noise, 5))
    sets, specs = jobs._sets_and_specs([(PLAIN, 3), (SAME_DATA, 3), (wider, 3), (PLAIN, 4), (CLASSES, 3)], PLAN)
    assert [data.train.shape[1] for data in sets] == [4, 5, 4, 3]
    assert not torch.equal(sets[0].train, sets[2].train)
    assert [spec.data for spec in specs] == [0, 0, 1, 2, 3]


def test_seconds_are_of_models_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*given: Any, **options: Any) -> list[Any]:
        trained = mc.train_ensemble(*given, **options)
        return [replace(one, history=replace(one.history, seconds=2.5)) for one in trained]

    monkeypatch.setattr(jobs, "train_ensemble", train)
    assert run(tmp_path)["seconds"] == 2.5


def test_numbers_are_those_of_a_model_trained_alone(tmp_path: Path) -> None:
    """Weights, order and noise of seed 1 through the one training loop; per class, over its own samples."""
    runs = run(tmp_path)["runs"]
    data = two_classes(n_train=PLAN.samples, n_validation=1, seed=1)
    spec = replace(CLASSES.spec, training=mc.TrainingConfig(PLAN.steps, PLAN.batch_size, seed=1))
    model = spec.build(3)
    assert data.train_condition is not None
    mc.train(model, data.train, spec.training, condition=data.train_condition, progress=False)
    for label, found in ((0, runs[6]), (1, runs[7])):
        own = data.train_labels == label
        wanted = mc.evaluate(model, data.train[own], data.train_condition[own])
        assert found["neg_elbo"] == pytest.approx(2 * wanted.neg_elbo, rel=1e-5)
        assert found["kl"] == pytest.approx(2 * wanted.kl, rel=1e-5)
        assert found["recon"] == pytest.approx(wanted.recon, rel=1e-5)
        assert found["variance"] == pytest.approx(wanted.variance, rel=1e-5)
        assert found["active_dimensions"] == wanted.active_dimensions
        local = mc.local_dimensions(model, data.train[own], data.train_condition[own]).as_dict()
        assert found["local"] == {name: value for name, value in local.items() if name != "spectrum"}


def test_the_decoder_is_read_where_the_samples_of_a_row_are(tmp_path: Path) -> None:
    """At those of each class by themselves; trained for long enough to tell them apart."""
    cell = replace(CLASSES, spec=replace(CLASSES.spec, log_gamma=-9.0))
    long = replace(PLAN, seeds=1, steps=200)
    runs = run(tmp_path, replace(TABLE, cells=lambda _: [cell]), long)["runs"]
    data = two_classes(n_train=PLAN.samples, n_validation=1, seed=0)
    training = mc.TrainingConfig(long.steps, long.batch_size, seed=0)
    model = replace(cell.spec, training=training).build(3)
    assert data.train_condition is not None
    mc.train(model, data.train, training, condition=data.train_condition, progress=False)
    for label, found in enumerate(runs):
        own = data.train_labels == label
        local = mc.local_dimensions(model, data.train[own], data.train_condition[own])
        assert local.gap is not None
        assert (found["local"]["count"], found["local"]["samples"]) == (local.count, 60)
        assert found["local"]["gap"] == pytest.approx(local.gap, rel=1e-3)
    assert runs[0]["local"]["gap"] != pytest.approx(runs[1]["local"]["gap"], rel=3e-3)


def test_seeds_are_those_from_the_first_on(tmp_path: Path) -> None:
    later = run(tmp_path / "later", plan=replace(PLAN, first_seed=1))
    assert later["plan"] == PLAN.as_dict() | {"first_seed": 1}
    assert [r["seed"] for r in later["runs"][:4]] == [1, 2, 1, 2]
    before = run(tmp_path / "before")
    assert "first_seed" not in before["plan"]  # as in files from before there were others
    (first,) = (r for r in before["runs"] if r["cell"] == {"d": 4} and r["seed"] == 1)
    assert later["runs"][0] == first
    with pytest.raises(mc.InputError, match=r"is of another plan: plan\.first_seed"):
        run(tmp_path / "before", plan=replace(PLAN, first_seed=1))


def test_numbers_of_variants_that_a_plan_leaves_out_are_left_out(tmp_path: Path) -> None:
    other = PRINTED | {"variant": "not trained"}
    assert run(tmp_path, replace(TABLE, paper=[PRINTED, other]))["paper"] == [PRINTED]


def test_what_is_written_of_a_model_that_diverged(tmp_path: Path) -> None:
    """JSON has neither NaN nor infinity, and nothing is read off such a decoder."""
    training = mc.TrainingConfig(learning_rate=1e30)
    cell = replace(PLAIN, spec=replace(PLAIN.spec, training=training))
    table = replace(TABLE, cells=lambda _: [cell])
    whole = run(tmp_path, table)
    (found, _) = whole["runs"]
    assert found["diverged_at"] is not None
    assert (found["neg_elbo"], found["active_dimensions"], found["local"]) == (None, None, None)
    text = (tmp_path / "tableX.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == whole == run(tmp_path, table)


def test_a_table_of_sequential_models_is_trained_by_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # no workers, which know the tables of the catalogue alone
    spec = mc.SequentialSpec(2, every_step=True, hidden=4, share_weights=True)
    cell = Cell({"shared_weights": True}, spec, partial(sequences), (None,))
    result = run(tmp_path, Table("tableY", "sequences", lambda _: [cell]))
    assert result["provenance"]["backend"] == "reference"
    assert [r["true_active"] for r in result["runs"]] == [None, None]
    data = sequences(n_train=PLAN.samples, n_validation=1, seed=1)
    model = replace(spec, training=mc.TrainingConfig(PLAN.steps, PLAN.batch_size, seed=1)).build(3)
    mc.train(
        *(model, data.train, mc.TrainingConfig(PLAN.steps, PLAN.batch_size, seed=1)),
        condition=data.train_condition,
        progress=False,
    )
    wanted = mc.evaluate(model, data.train, data.train_condition)
    assert result["runs"][1]["neg_elbo"] == pytest.approx(2 * wanted.neg_elbo, rel=1e-5)
    assert result["runs"][1]["variance"] == pytest.approx(wanted.variance, rel=1e-5)


def test_a_table_has_its_own_way_with_a_plan(tmp_path: Path) -> None:
    table = replace(TABLE, plan=lambda plan: replace(plan, steps=plan.steps // 4, batch_size=30))
    result = run(tmp_path, table)
    assert result["plan"] == PLAN.as_dict() | {"steps": 5, "batch_size": 30}
    assert result["runs"] == run(tmp_path / "other", plan=replace(PLAN, steps=5, batch_size=30))["runs"]
    assert run(tmp_path, table) == result


def test_a_finished_table_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(tmp_path)
    monkeypatch.setattr(workers, "train_shard", lambda *_, **__: pytest.fail("trained again"))
    assert run(tmp_path) == result


def test_stopped_before_the_end_it_goes_on_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = run(tmp_path / "a")
    assert "earlier" not in undisturbed["provenance"]
    with stopped_before_the_end(monkeypatch):
        run(tmp_path / "b")
    assert not (tmp_path / "b/tableX.json").exists()
    found = run(tmp_path / "b")
    assert found["runs"] == undisturbed["runs"]
    assert "earlier" not in found["provenance"]  # of the same commit, device and day


@contextmanager
def stopped_before_the_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All is trained, and the result file not written."""
    write = runner.write_json

    def stop(path: Path, content: dict[str, Any]) -> None:
        if path.name == "tableX.json":
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_a_table_says_where_it_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for commit in ("first", "second", "third"):
        monkeypatch.setattr(provenance, "commit", lambda said=commit: said)
        if commit != "third":
            with stopped_before_the_end(monkeypatch):
                run(tmp_path)
    found = run(tmp_path)["provenance"]
    assert found["commit"] == "third"
    assert [said.split(" on ")[0] for said in found["earlier"]] == ["first", "second"]
    assert all(said.endswith(f" on {found['device']}, {found['date']}") for said in found["earlier"])


@pytest.mark.parametrize("out", [["--out", "/home/me/x"], ["--out=/home/me/x"]])
def test_the_command_is_kept_without_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: list[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/manifold-core", "reproduce", "table1", *out, "--seeds", "8"])
    assert run(tmp_path)["provenance"]["command"] == "manifold-core reproduce table1 --seeds 8"


def test_results_come_out_where_there_is_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert run(tmp_path)["provenance"]["commit"] == "unknown"


def test_what_a_killed_run_left_is_removed_with_the_next_call(tmp_path: Path) -> None:
    result = run(tmp_path)
    (tmp_path / ".tableX").mkdir()
    (tmp_path / ".tableX/checkpoint.json").write_text("{}")
    assert run(tmp_path) == result
    assert not (tmp_path / ".tableX").exists()


def test_another_plan_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(
        mc.InputError, match=r"tableX\.json.*is of another plan: plan\.steps is 20, expected 30; choose"
    ):
        run(tmp_path, plan=replace(PLAN, steps=30))


def test_so_is_another_plan_of_what_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before another table is trained."""
    monkeypatch.setitem(TABLES, TABLE.name, TABLE)
    monkeypatch.setitem(BUDGETS, PLAN.name, replace(PLAN, steps=30))
    monkeypatch.setattr(reproducing, "NAMES", ("table3", TABLE.name))
    with stopped_before_the_end(monkeypatch):
        run(tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(mc.InputError, match=r"\.tableX'? is of another plan: plan\.steps is 20, expected 30; choose"):
        reproduce(["table3", TABLE.name], tmp_path, budget=PLAN.name, progress=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_a_foreign_file_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "tableX.json").write_text("[1, 2]")
    with pytest.raises(mc.InputError, match="not a file of a finished table"):
        run(tmp_path)
    assert (tmp_path / "tableX.json").read_text() == "[1, 2]"


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_damaged_beginning_is_told_how_to_be_removed(tmp_path: Path, content: str) -> None:
    (tmp_path / ".tableX").mkdir()
    (tmp_path / ".tableX" / "begun.json").write_text(content, encoding="utf-8")
    with pytest.raises(mc.InputError, match=r"begun\.json' is damaged; remove .*\.tableX to begin that table anew"):
        run(tmp_path)


def test_a_folder_of_another_name_is_no_shard(tmp_path: Path) -> None:
    (tmp_path / ".tableX" / "foo-of-bar").mkdir(parents=True)
    assert run(tmp_path)["runs"]


@pytest.mark.parametrize(
    ("changed", "said"), [({"table": "table3"}, "holds 'table3'"), ({"runs": []}, "holds no runs")]
)
def test_a_file_of_another_table_or_of_none_is_no_result(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    found = run(tmp_path)
    path = tmp_path / "tableX.json"
    path.write_text(json.dumps(found | changed), encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(mc.InputError, match=f"{said}, expected those of tableX; remove it to train them"):
        run(tmp_path)
    assert path.read_bytes() == before


def test_workers_on_a_cpu_share_one_processor() -> None:
    assert runner.provenance(["cpu", "cpu"])["device"] == runner.provenance(["cpu"])["device"]


def test_a_summary_takes_the_place_of_the_runs(tmp_path: Path) -> None:
    table = replace(TABLE, summary=lambda runs: {"statement": "s", "fits": [len(runs)]})
    result = run(tmp_path, table)
    assert result["statement"] == "s"
    assert result["fits"] == [8]
    assert "runs" not in result


@pytest.mark.parametrize(
    ("name", "cells", "rows"),
    [
        ("table1", 18, 18),
        ("table3", 5, 5),
        ("table5", 2, 10),
        ("table6", 4, 20),
        ("table7", 31, 31),
        ("table8", 4, 4),
    ],
)
def test_tables_have_the_rows_of_the_paper(name: str, cells: int, rows: int) -> None:
    table = TABLES[name]
    built = table.cells(BUDGETS["full"])
    assert len(built) == cells
    ours = [({**cell.columns, **columns}, cell.variant) for cell in built for columns in cell.classes]
    assert len(ours) == rows
    assert all((row["cell"], row["variant"]) in ours for row in table.paper)
    assert all(len(cell.classes) == len(cell.true_active) for cell in built)


def test_every_data_set_fits_its_model() -> None:
    for table in TABLES.values():
        for cell in table.cells(BUDGETS["full"]):
            data = cell.data(n_train=20, n_validation=1, seed=0)
            parts = data.train if data.train_condition is None else (data.train, data.train_condition)
            check_specs([cell.spec], check_data(parts))  # raises where it does not
            if len(cell.classes) > 1:
                assert data.train_labels is not None
                assert data.train_labels.unique().tolist() == list(range(len(cell.classes)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["table99"]}, "table must be one of table1, .*got table99"),
        ({"names": []}, "got none"),
        ({"budget": "huge"}, "budget must be one of quick, reduced, full, got 'huge'"),
        ({"seeds": 0}, "seeds must be a positive integer, got 0"),
        ({"first_seed": -1}, "first_seed must be 0 or more, got -1"),
        ({"names": ["table3", "table8"], "backend": "cpu"}, "table8: .*only 'reference' trains"),
        ({"backend": "triton"}, "table3: backend must be one of"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(mc.InputError, match=message):
        reproduce(**({"names": ["table3"], "folder": tmp_path} | arguments))
    assert list(tmp_path.iterdir()) == []
    assert "synthetic" in NAMES


@pytest.mark.parametrize(
    ("names", "trained"),
    [
        (["table10"], ["table1"]),
        (["table11", "table10", "table4", "table3"], ["table4", "table1", "table3"]),
        (["images", "table11"], ["table2", "table4", "table9"]),
    ],
)
def test_what_is_read_off_a_model_of_another_table_trains_that_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    names: list[str],
    trained: list[str],
) -> None:
    for progress in (False, True):
        found: list[str] = []

        def train(table: Table, *_: object, found: list[str] = found, **__: object) -> dict[str, float]:
            found.append(table.name)
            return {"seconds": 1.0}

        monkeypatch.setattr(reproducing, "run_table", train)
        reproduce(names, tmp_path, progress=progress)
        assert found == trained
        said = [line for line in capsys.readouterr().err.splitlines() if "is read off" in line]
        assert said == [
            f"manifold-core: {name} is read off a model of {source}, which is trained in its place"
            for name, source in (("table10", "table1"), ("table11", "table4"))
            if progress and name in names
        ]


def test_as_published_is_the_papers_set_up() -> None:
    plan = BUDGETS["full"].as_published()
    assert (plan.steps, plan.batch_size, plan.samples) == (50_000, 100_000, 100_000)
    assert plan.as_dict() != BUDGETS["full"].as_dict()
    widths = {"table1": (16,), "table3": (16,), "table5": (32, 32), "table6": (64,), "table7": (16,)}
    for name, hidden in widths.items():
        for cell in TABLES[name].cells(plan):
            assert cell.spec.hidden == hidden
            assert (cell.spec.training.beta2, cell.spec.training.log_gamma_rate) == (0.999, 1.0)
        built = TABLES[name].cells(plan)
        variants = {cell.variant for cell in built}  # Table 7 has another way besides, of ours alone
        printed = [(row["cell"], row["variant"]) for row in TABLES[name].paper if row["variant"] in variants]
        assert printed
        assert all(row in [({**c.columns, **k}, c.variant) for c in built for k in c.classes] for row in printed)


def test_folders_are_checked_before_the_first_table_is_trained(tmp_path: Path) -> None:
    (tmp_path / "table7.json").write_text("{}")
    with pytest.raises(mc.InputError, match=r"table7\.json.*not a file of a finished table"):
        reproduce(["table3", "table7"], tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["table7.json"]


class TestAsPublished:
    """Both kinds of results in one folder."""

    @pytest.fixture(autouse=True)
    def _known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(TABLES, TABLE.name, TABLE)
        monkeypatch.setitem(BUDGETS, PLAN.name, PLAN)
        monkeypatch.setattr(reproducing, "NAMES", (TABLE.name,))

    def reproduce(self, folder: Path, *, as_published: bool) -> Path:
        return reproduce([TABLE.name], folder, budget=PLAN.name, as_published=as_published, progress=False)

    @pytest.mark.parametrize("order", [(False, True), (True, False)])
    def test_neither_is_in_the_way_of_the_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[bool, bool]
    ) -> None:
        folders = {False: tmp_path, True: tmp_path / "as_published"}
        assert {each: self.reproduce(tmp_path, as_published=each) for each in order} == folders
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
            *("as_published", "as_published/tableX.json", "tableX.json")
        ]
        content = {each: (folder / "tableX.json").read_bytes() for each, folder in folders.items()}
        plans = {each: json.loads(text)["plan"] for each, text in content.items()}
        assert plans == {
            False: PLAN.as_dict(),
            True: PLAN.as_dict() | {"steps": 50, "batch_size": 120, "published": True},
        }
        monkeypatch.setattr(workers, "train_shard", lambda *_, **__: pytest.fail("trained again"))
        for each in order:
            self.reproduce(tmp_path, as_published=each)
        assert {each: (folder / "tableX.json").read_bytes() for each, folder in folders.items()} == content

    def test_stopped_it_goes_on_though_the_other_was_trained_meanwhile(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.reproduce(tmp_path / "undisturbed", as_published=True)

        with stopped_before_the_end(monkeypatch):
            self.reproduce(tmp_path / "b", as_published=True)
        (begun,) = (tmp_path / "b/as_published/.tableX").glob("*-of-*")
        kept = {path: path.read_bytes() for path in begun.iterdir()}
        assert kept
        self.reproduce(tmp_path / "b", as_published=False)
        assert {path: path.read_bytes() for path in begun.iterdir()} == kept
        self.reproduce(tmp_path / "b", as_published=True)
        found, wanted = (
            json.loads((tmp_path / name / "as_published/tableX.json").read_text())["runs"]
            for name in ("b", "undisturbed")
        )
        assert found == wanted
        assert not begun.exists()

    def test_its_own_folder_is_checked_and_locked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workers, "train_shard", lambda *_, **__: pytest.fail("trained"))
        (tmp_path / "as_published").mkdir()
        with ThreadPoolExecutor(1) as another, ExitStack() as held:  # who holds a folder may take it again
            another.submit(held.enter_context, locked(tmp_path / "as_published")).result()
            with pytest.raises(mc.InputError, match=r"another is at work in .*as_published"):
                self.reproduce(tmp_path, as_published=True)
            another.submit(held.close).result()
        (tmp_path / "as_published/tableX.json").write_text("{}")
        with pytest.raises(mc.InputError, match=r"as_published/tableX\.json.*not a file of a finished table"):
            self.reproduce(tmp_path, as_published=True)

    def test_the_command_says_where_they_are(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = ["reproduce", TABLE.name, "--budget", PLAN.name, "--device", "cpu", "--quiet", "--out", str(tmp_path)]
        assert cli.main([*command, "--as-published"]) == 0
        assert capsys.readouterr().out == f"results: {tmp_path / 'as_published'}\n"
