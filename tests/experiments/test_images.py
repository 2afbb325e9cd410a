"""The image tables: their data, budgets, and what a result file holds of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manifold_core.experiments import images, paper
from manifold_core.experiments.catalogue import IMAGES, TABLES
from manifold_core.experiments.jobs import Shard, train_shard
from manifold_core.experiments.reproduce import SETS, reproduce
from manifold_core.experiments.runner import run_table
from manifold_core.experiments.tables import BUDGETS, Cell, Plan, Table

import manifold_core as mc

PLAN = Plan("tiny", seeds=2, steps=3, samples=30, batch_size=10)


def small(table: Table) -> Table:
    """The same cells with fewer channels and latents, and fewer images held out."""

    def cells(plan: Plan) -> list[Cell]:
        return [
            replace(cell, spec=replace(cell.spec, latent_dim=2, channels=2), held_out=20) for cell in table.cells(plan)
        ]

    return replace(table, cells=cells)


def run(table: Table, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # no workers, which know the tables of the catalogue alone
    found: list[dict[str, Any]] = run_table(table, PLAN, folder)["runs"]
    return found


def raw(folder: Path, name: str, split: str, samples: int) -> tuple[torch.Tensor, np.ndarray]:
    """Straight from the files."""
    pixels = np.frombuffer((folder / name / f"{split}-images-idx3-ubyte").read_bytes()[16:], np.uint8)
    labels = np.frombuffer((folder / name / f"{split}-labels-idx1-ubyte").read_bytes()[8:], np.uint8)
    scaled = pixels.reshape(-1, 1, 28, 28)[:samples] / np.float32(255)
    return torch.from_numpy(scaled), labels[:samples].astype(np.int64)


def test_sets_of_tables() -> None:
    assert SETS["images"] == ["table2", "table4", "table9"] == list(IMAGES)
    assert sorted(SETS["synthetic"] + SETS["images"]) == sorted(SETS["all"]) == sorted(TABLES)


def test_every_printed_row_has_its_cell_on_test_images() -> None:
    """That the paper's numbers are of test images is not known; beside training images there are none."""
    for name in IMAGES:
        table = TABLES[name]
        built = [(cell.columns, cell.variant) for cell in table.cells(BUDGETS["full"])]
        assert len(table.paper) == len(paper.rows(name))
        for row in table.paper:
            variant = row["variant"].removesuffix("test images").removesuffix(", ")
            assert (row["cell"], variant) in built


def test_budgets() -> None:
    """The full one is the paper's: 400 epochs of 512 of 60,000 images."""
    for name in IMAGES:
        table = TABLES[name]
        assert table.plan(BUDGETS["full"]) == Plan("full", 5, 46_800, 60_000, 512)
        for budget in BUDGETS.values():
            published = table.plan(budget.as_published())
            assert (published.steps, published.batch_size, published.samples) == (46_800, 512, 60_000)
        steps = 15_000 if name != "table4" else 2_500
        assert table.plan(BUDGETS["reduced"]) == Plan("reduced", 1, steps, 60_000, 128)
        assert table.plan(BUDGETS["quick"]).steps * 50 == 3 * steps
        assert table.plan(PLAN) == PLAN


def test_models_are_the_papers_but_for_their_width() -> None:
    for name in ("table2", "table9"):
        for cell in TABLES[name].cells(BUDGETS["full"]):
            assert (cell.spec.channels, cell.spec.hidden, cell.spec.condition_dim) == (16, (256,), 0)
            assert cell.spec.latent_dim == cell.columns.get("kappa", 32)
            assert cell.spec.training.learning_rate == 0.002
        for budget in ("quick", "reduced"):
            assert {cell.spec.training.learning_rate for cell in TABLES[name].cells(BUDGETS[budget])} == {0.005}
            published = TABLES[name].cells(TABLES[name].plan(BUDGETS[budget].as_published()))
            cycles = {(cell.spec.training.learning_rate, cell.spec.training.cycle_steps) for cell in published}
            assert cycles == {(0.002, 4_680_000)}
            assert {(cell.spec.channels, cell.spec.hidden) for cell in published} == {(5, ())}
    covariances = {cell.columns["covariance"]: cell.spec.covariance for cell in TABLES["table9"].cells(PLAN)}
    assert covariances == {"full": "cholesky", "diagonal": "diagonal"}
    kappas = [cell.columns["kappa"] for cell in TABLES["table2"].cells(PLAN)]
    assert kappas == [5, 16, 32, 5, 16, 32, 64, 64]
    assert len(TABLES["table2"].cells(PLAN.as_published())) == 6  # the paper's own
    for cell in TABLES["table4"].cells(PLAN):
        assert (cell.spec.channels, cell.spec.hidden) == (32, ())
        assert (cell.spec.condition_dim, cell.spec.latent_dim) == (10, 32)
        assert cell.spec.attention == (cell.variant == "with attention")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_training_and_test_images_are_scaled_alike(small_images: Path, name: str) -> None:
    data = images.images(name, labelled=True)(n_train=30, n_validation=20, seed=3)
    for split, x, labels, condition in (
        ("train", data.train, data.train_labels, data.train_condition),
        ("t10k", data.validation, data.validation_labels, data.validation_condition),
    ):
        pixels, classes = raw(small_images, name, split, 30 if split == "train" else 20)
        assert torch.equal(x, pixels)
        assert labels is not None
        assert labels.tolist() == classes.tolist()
        assert condition is not None
        assert condition.tolist() == np.eye(10)[classes].tolist()
    plain = images.images(name)(n_train=30, n_validation=20, seed=3)
    assert (plain.train_condition, plain.validation_condition) == (None, None)
    assert plain.train.data_ptr() == images.images(name)(n_train=30, n_validation=20, seed=4).train.data_ptr()


def test_all_seeds_share_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a copy a seed on the device, where the data sets of one seed are those of the others."""
    seen: list[int] = []
    train = mc.ensemble.train_ensemble

    def spy(specs: Any, data: Any, **rest: Any) -> Any:
        seen.append(len(data))
        return train(specs, data, **rest)

    monkeypatch.setattr("manifold_core.experiments.jobs.train_ensemble", spy)
    train_shard(small(TABLES["table2"]), PLAN, Shard(), tmp_path, device="cpu")
    assert seen == [2]  # mnist and fashion-mnist


def test_a_run_has_training_and_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_images: Path
) -> None:
    """Those of seed 1, trained alone and measured in evaluation mode on what the files hold."""
    runs = run(small(TABLES["table9"]), tmp_path, monkeypatch)
    variants = ["training images", "test images"]
    assert [(r["cell"]["covariance"], r["variant"], r["seed"]) for r in runs] == [
        (covariance, variant, seed) for covariance in ("full", "diagonal") for seed in (0, 1) for variant in variants
    ]
    x, _ = raw(small_images, "mnist", "train", 30)
    unseen, _ = raw(small_images, "mnist", "t10k", 20)
    for covariance, place in (("cholesky", 2), ("diagonal", 6)):
        training = mc.TrainingConfig(PLAN.steps, PLAN.batch_size, 0.002, seed=1)
        spec = mc.ConvSpec(2, 2, covariance=covariance, hidden=(256,), training=training)  # type: ignore[arg-type]
        model = spec.build(1, 28, 28)
        mc.train(model, x, training, progress=False)
        for found, samples in zip(runs[place : place + 2], (x, unseen), strict=True):
            wanted = mc.evaluate(model, samples)
            assert found["neg_elbo"] == pytest.approx(2 * wanted.neg_elbo, rel=1e-5)
            assert found["recon"] == pytest.approx(wanted.recon, rel=1e-5)
            assert found["variance"] == pytest.approx(wanted.variance, rel=1e-5)
            assert found["true_active"] is None
            assert found["local"]["samples"] == len(samples)
            if covariance == "cholesky":
                assert found["spectrum"] == pytest.approx(wanted.spectrum, rel=1e-5)
                assert found["spectrum_count"] == wanted.spectrum_count
            else:
                assert not {"spectrum", "spectrum_count"} & found.keys()


def test_each_class_is_measured_on_its_own_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_images: Path
) -> None:
    runs = run(small(TABLES["table4"]), tmp_path, monkeypatch)
    assert len(runs) == 2 * 2 * 2 * 2  # data sets, variants, seeds, training and test
    found = next(
        r
        for r in runs
        if (r["cell"], r["variant"], r["seed"]) == ({"dataset": "fashion-mnist"}, "with attention, test images", 1)
    )
    assert [one["name"] for one in found["classes"]] == list(images.CLASSES["fashion-mnist"])
    x, labels = raw(small_images, "fashion-mnist", "train", 30)
    unseen, unseen_labels = raw(small_images, "fashion-mnist", "t10k", 20)
    training = mc.TrainingConfig(PLAN.steps, PLAN.batch_size, 0.002, seed=1)
    spec = mc.ConvSpec(2, 2, condition_dim=10, attention=True, training=training)
    model = spec.build(1, 28, 28)
    hot = torch.eye(10)
    mc.train(model, x, training, condition=hot[labels], progress=False)
    wanted = mc.evaluate(model, unseen, hot[unseen_labels])
    assert found["neg_elbo"] == pytest.approx(2 * wanted.neg_elbo, rel=1e-5)
    for label in (0, 7):
        own = torch.from_numpy(unseen_labels == label)
        wanted = mc.evaluate(model, unseen[own], hot[unseen_labels][own])
        one = found["classes"][label]
        assert one["neg_elbo"] == pytest.approx(2 * wanted.neg_elbo, rel=1e-5)
        assert one["variance"] == pytest.approx(wanted.variance, rel=1e-5)
        assert one["active_dimensions"] == wanted.active_dimensions
        assert one["interval"] == list(wanted.interval)


def test_images_are_looked_for_before_any_table_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANIFOLD_CORE_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr("manifold_core.experiments.reproduce.run_table", lambda *_, **__: pytest.fail("trained"))
    for name in IMAGES:
        with pytest.raises(mc.InputError, match="nowhere"):
            reproduce(["theorem1", name], tmp_path / "out", progress=False)
    assert not list((tmp_path / "out").iterdir())
