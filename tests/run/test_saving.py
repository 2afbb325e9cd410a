"""save_run: what a search in Python has found, read back by load_run."""

import json
from pathlib import Path

import pytest
import torch
from runs import contents, metrics_of
from threads import on_one_thread

import manifold_core as mc

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = mc.SearchPlan(networks=((16,), (8, 8)), models=1, steps=600, batch_size=64, learning_rate=0.02, seed=3)
X = 5 + 3 * torch.tanh(torch.randn(300, 2, generator=torch.Generator().manual_seed(0)) @ torch.eye(6)[:2])


@pytest.fixture(scope="module")
def found() -> mc.DimensionSearch:
    with on_one_thread():
        return mc.find_dimension(X, PLAN, progress=False)


def test_what_is_read_back_is_what_was_found(found: mc.DimensionSearch, tmp_path: Path) -> None:
    mc.save_run(found, tmp_path / "new")
    loaded = mc.load_run(tmp_path / "new")
    samples = loaded.standardisation.apply(X)
    assert torch.equal(samples, found.standardisation.apply(X))
    for ours, theirs in zip(loaded.model(samples, seed=5), found.model(samples, seed=5), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert torch.equal(loaded.standardisation.undo(samples), found.standardisation.undo(samples))
    metrics = metrics_of(tmp_path / "new")
    assert metrics == loaded.metrics
    assert metrics == metrics | json.loads(json.dumps(found.as_dict()))
    assert metrics["dimension"] == found.dimension
    assert metrics["local"] == found.local.as_dict()
    assert metrics["train"] == found.best.trained.metrics.as_dict()
    assert [one["held_out"] for one in metrics["trials"]] == [one.held_out for one in found.trials]
    assert metrics["by_latent_dim"] == {str(kappa): loss for kappa, loss in found.by_latent_dim.items()}


def test_it_is_told_as_the_command_line_tells_it(found: mc.DimensionSearch, data: Path, tmp_path: Path) -> None:
    """But for what is measured of samples that are held out, and of what data they are."""
    from manifold_core.run import SearchConfig, run

    mc.save_run(found, tmp_path / "saved")
    run(SearchConfig(str(data / "vectors.npy"), PLAN), tmp_path / "run", progress=False)
    left_out = {"data", "manifold_dim", "validation", "fingerprint", "pictures"}
    assert metrics_of(tmp_path / "saved").keys() == metrics_of(tmp_path / "run").keys() - left_out


def test_nothing_is_overwritten(found: mc.DimensionSearch, tmp_path: Path) -> None:
    mc.save_run(found, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(mc.InputError, match=r"folder must be one without a finished run: .*metrics\.json' is in the"):
        mc.save_run(found, tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / "metrics.json").unlink()  # as of a process that was killed before it wrote them
    with pytest.raises(mc.InputError, match=r"one without weights: .*weights\.safetensors' is in the way; remove it$"):
        mc.save_run(found, tmp_path)
    assert contents(tmp_path).keys() == before.keys() - {"metrics.json"}


def test_the_folder_of_its_checkpoints_goes_on(found: mc.DimensionSearch, tmp_path: Path) -> None:
    again = mc.find_dimension(X, PLAN, folder=tmp_path, progress=False)
    mc.save_run(again, tmp_path)
    once_more = mc.find_dimension(X, PLAN, folder=tmp_path, progress=False)
    assert once_more.by_latent_dim == again.by_latent_dim == found.by_latent_dim
    assert mc.load_run(tmp_path).metrics["dimension"] == found.dimension


@pytest.mark.parametrize(
    ("given", "folder", "said"),
    [
        ("model", "new", "found must be what mc.find_dimension returns, got VAE"),
        ("found", "", "folder must be the path of a folder, such as 'runs/points', got ''"),
    ],
)
def test_bad_input(found: mc.DimensionSearch, tmp_path: Path, given: str, folder: str, said: str) -> None:
    with pytest.raises(mc.InputError, match=said):
        mc.save_run(found if given == "found" else found.model, folder and tmp_path / folder)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
