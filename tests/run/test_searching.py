"""A search in the folder of a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Stopped, configuration, contents, metrics_of, stop_at_save, timeless
from threads import on_one_thread

import manifold_core as mc
from manifold_core import plots
from manifold_core.run import ModelConfig, RunConfig, SearchConfig, run
from manifold_core.storage import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = mc.SearchPlan(
    networks=((16,), (8, 8)), models=2, log_gamma=-3.0, steps=800, batch_size=64, learning_rate=0.02, seed=3
)


def of(data: Path, name: str = "vectors", **changed: Any) -> SearchConfig:
    return SearchConfig(str(data / f"{name}.npy"), replace(PLAN, **changed))


@pytest.fixture(scope="module")
def searched(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished search, with pictures where they can be drawn."""
    folder = tmp_path_factory.mktemp("searched")
    with on_one_thread():
        run(of(data), folder, progress=False)
    return folder


def test_what_is_written_is_what_the_search_finds(data: Path, searched: Path) -> None:
    metrics = metrics_of(searched)
    found = mc.find_dimension(np.load(data / "vectors.npy"), PLAN, progress=False)
    assert [
        (one["latent_dim"], one["hidden"], one["seed"], one["held_out"], one["active_dimensions"])
        for one in metrics["trials"]
    ] == [
        (one.latent_dim, list(one.spec.hidden), one.spec.training.seed, one.held_out, one.active_dimensions)
        for one in found.trials
    ]
    assert metrics["by_latent_dim"] == {str(kappa): loss for kappa, loss in found.by_latent_dim.items()}
    assert (
        (metrics["active_dimensions"], metrics["two_nn"])
        == (found.best.active_dimensions, found.two_nn)
        == (2, found.two_nn)
    )
    assert metrics["local"] == found.local.as_dict()
    assert metrics["dimension"] == found.dimension == 2
    best = found.best
    assert (metrics["latent_dim"], metrics["seed"]) == (best.latent_dim, best.spec.training.seed)
    assert metrics["train"] == best.trained.metrics.as_dict()
    described = ModelConfig(best.latent_dim, best.spec.hidden, log_gamma=-3.0).description()
    assert metrics["config"] == of(data).description() | {"model": described}


def test_the_best_is_read_back(data: Path, searched: Path) -> None:
    metrics, found = metrics_of(searched), mc.load_run(searched)
    x = found.standardisation.apply(np.load(data / "vectors.npy"))
    assert mc.active_dimensions(found.model, x).count == 2
    assert found.model.latent_dim == metrics["latent_dim"]


def test_it_is_not_searched_again(data: Path, searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(searched)
    monkeypatch.setattr("manifold_core.run.runner.train_search", None)
    assert run(of(data), searched, progress=False) == metrics_of(searched)
    assert contents(searched) == before


def test_a_folder_of_something_else_is_refused(data: Path, searched: Path, finished: dict[str, Path]) -> None:
    before = contents(searched)
    with pytest.raises(mc.InputError, match=r"of another configuration: its plan\.models is 2, expected 3"):
        run(of(data, models=3), searched, progress=False)
    np.save(searched.parent / "other.npy", np.random.default_rng(1).normal(size=(300, 6)))
    with pytest.raises(mc.InputError, match="of other data than"):
        run(of(searched.parent, "other"), searched, progress=False)
    with pytest.raises(mc.InputError, match="of another configuration"):
        run(configuration(data, "vectors"), searched, progress=False)
    with pytest.raises(mc.InputError, match="of another configuration"):
        run(of(data), finished["vectors"], progress=False)
    assert contents(searched) == before


@pytest.mark.usefixtures("no_pictures")
def test_stopped_it_goes_on_to_the_same_numbers(
    data: Path, searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = timeless(metrics_of(searched)) | {"pictures": []}
    for number in (1, 2, 3):  # whose the folder is; the first models; the others
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch:
            stop_at_save(patch, number)
            with pytest.raises(Stopped):
                run(of(data), folder, progress=False)
        with pytest.raises(mc.InputError, match="checkpoint"):
            run(of(data, models=1), folder, progress=False)
        assert timeless(run(of(data), folder, progress=False)) == wanted
        assert contents(folder).keys() == {"metrics.json", "weights.safetensors"}


@pytest.mark.usefixtures("no_pictures")
def test_a_checkpoint_left_beside_it_is_cleared_away(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after metrics.json was written."""
    with monkeypatch.context() as patch:
        patch.setattr("manifold_core.run.results.clear", lambda _: None)
        run(of(data, models=1), tmp_path, progress=False)
    assert checkpoint.INDEX in contents(tmp_path)
    run(of(data, models=1), tmp_path, progress=False)
    assert contents(tmp_path).keys() == {"metrics.json", "weights.safetensors"}


@pytest.mark.usefixtures("no_pictures")
def test_a_search_that_diverged_leaves_nothing_to_diverge_from(data: Path, tmp_path: Path) -> None:
    with pytest.raises(mc.Diverged):
        run(of(data, learning_rate=1e30), tmp_path, progress=False)
    assert contents(tmp_path) == {}


@pytest.mark.usefixtures("no_pictures")
def test_images_are_taken_as_vectors(data: Path, tmp_path: Path) -> None:
    metrics = run(of(data, "images", models=1, steps=2), tmp_path, progress=False)
    assert (metrics["sample_shape"], metrics["trials"][0]["latent_dim"]) == ([1, 8, 8], 32)
    found = mc.load_run(tmp_path)
    assert found.model(found.standardisation.apply(np.load(data / "images.npy")).flatten(1)).loss.isfinite()


@pytest.mark.usefixtures("no_pictures")
def test_synthetic_data(tmp_path: Path) -> None:
    config = SearchConfig("synthetic", replace(PLAN, steps=2), ambient_dim=7, manifold_dim=3)
    metrics = run(config, tmp_path, progress=False)
    assert (metrics["manifold_dim"], metrics["sample_shape"]) == (3, [7])
    assert metrics["config"]["ambient_dim"] == 7


def test_processes_of_torchrun_do_not_share_it(data: Path, tmp_path: Path) -> None:
    group: Any = object()
    with pytest.raises(mc.InputError, match=r"models must be 1 with torchrun, .* got a search"):
        run(of(data), tmp_path, progress=False, process_group=group)


def test_the_picture(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lowest of each number is joined, all models are dots, the best has a ring."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, of the extra 'experiments'")
    from matplotlib.axes import Axes

    assert metrics_of(searched)["pictures"] == ["variances.png", "curves.png", "search.png"]
    lines: list[tuple[Any, Any]] = []
    dots: dict[str, tuple[Any, Any]] = {}
    plot, scatter = Axes.plot, Axes.scatter

    def watched_plot(self: Any, x: Any, y: Any, **more: Any) -> Any:
        lines.append((x, y))
        return plot(self, x, y, **more)

    def watched_scatter(self: Any, x: Any, y: Any, **more: Any) -> Any:
        dots[more["label"]] = (x, y)
        return scatter(self, x, y, **more)

    monkeypatch.setattr(Axes, "plot", watched_plot)
    monkeypatch.setattr(Axes, "scatter", watched_scatter)

    def trial(kappa: int, hidden: list[int], loss: float, diverged_at: int | None = None) -> dict[str, Any]:
        return {
            "latent_dim": kappa,
            "hidden": hidden,
            "held_out": loss,
            "active_dimensions": kappa,
            "diverged_at": diverged_at,
        }

    trials = [trial(4, [8], 1.0), trial(4, [8, 8], 2.0), trial(2, [8], 3.0), trial(2, [8, 8], 0.5)]
    diverged = trial(3, [8], float("nan"), diverged_at=2)
    plots.plot_search(tmp_path / "x.png", [*trials, diverged], {"2": 0.5, "4": 1.0}, 2)
    assert lines == [([2, 4], [0.5, 1.0])]
    assert dots == {"hidden 8": ([4, 2], [1.0, 3.0]), "hidden 8-8": ([4, 2], [2.0, 0.5]), "best": ([2], [0.5])}


def test_a_run_describes_its_model_alone() -> None:
    """Of a plain run nothing is left out of what it is told apart by."""
    config = RunConfig("synthetic", ModelConfig(3))
    assert config.description()["model"] == ModelConfig(3).description()
