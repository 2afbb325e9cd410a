"""Every option of ``reproduce``, ``eager`` and ``bench`` arrives where it belongs."""

from pathlib import Path
from typing import Any

import manifold_core.experiments.eager
import manifold_core.experiments.reproduce
import pytest

from manifold_core import cli
from manifold_core.bench import suite
from manifold_core.cli import commands


def test_reproduce(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called: list[tuple[Any, ...]] = []

    def replay(names: Any, folder: Path, **options: Any) -> Path:
        called.append((names, folder, options))
        return folder

    monkeypatch.setattr(manifold_core.experiments.reproduce, "reproduce", replay)
    command = (
        "reproduce table1 images --out here --budget full --seeds 3 --first-seed 8 --as-published --device cpu,cpu"
    )
    assert cli.main([*command.split(), "--backend", "reference", "--quiet"]) == 0
    options = {"budget": "full", "seeds": 3, "first_seed": 8, "as_published": True, "devices": ["cpu", "cpu"]}
    assert called == [(["table1", "images"], Path("here"), options | {"backend": "reference", "progress": False})]
    assert capsys.readouterr().out == "results: here\n"


def test_the_seeds_of_reproduce_are_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plans: list[Any] = []
    monkeypatch.setattr(
        manifold_core.experiments.reproduce, "run_table", lambda table, plan, *_, **__: plans.append(plan)
    )
    for seeds in (None, 3):
        manifold_core.experiments.reproduce.reproduce(["table1"], tmp_path, budget="full", seeds=seeds, progress=False)
    assert [plan.seeds for plan in plans] == [5, 3]


def test_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[Path, str]] = []
    monkeypatch.setattr(
        manifold_core.experiments.eager, "measure", lambda folder, device: called.append((folder, device))
    )
    for device in ("cpu", "meta"):
        assert cli.main(["eager", "here", "--device", device]) == (0 if device == "cpu" else 2)
    assert called == [(Path("here"), "cpu")]


def test_bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called: list[tuple[Any, ...]] = []

    def measure(comparisons: Any, rounds: int, seconds: float, progress: Any) -> dict[str, Any]:
        called.append(([one.name for one in comparisons], rounds, seconds))
        progress("what is measured")
        return {"provenance": {}, "rows": []}

    monkeypatch.setattr(suite, "measure", measure)
    command = ["bench", "elbo", "--rounds", "3", "--seconds", "7", "--json"]
    for quiet in ([], ["--quiet"]):
        assert cli.main([*command, *quiet]) == 0
        said = capsys.readouterr()
        assert (said.err == "") == bool(quiet)
        assert suite.from_json(said.out) == {"provenance": {}, "rows": []}
    assert called == [(["machine", "elbo"], 3, 7)] * 2


def test_all_gpus_share_a_table_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_device", lambda name: name)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    found = {names: commands._devices(names) for names in ("cuda", "cpu", "cuda:1", "cuda:0,cuda:1")}
    assert found == {
        "cuda": ["cuda:0", "cuda:1"],
        "cpu": ["cpu"],
        "cuda:1": ["cuda:1"],
        "cuda:0,cuda:1": ["cuda:0", "cuda:1"],
    }
