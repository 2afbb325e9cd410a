"""The comparison with estimators of the dimension, without them: they are no dependency."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import manifold_core as mc
from benchmarks import estimators, report
from benchmarks.estimators import Manifold, measure, summary, table
from manifold_core import provenance


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Two manifolds, and estimators that say their number of features; what those have been asked."""
    asked: list[tuple[str, int]] = []

    def estimate(name: str, x: Any) -> float:
        asked.append((name, len(x)))
        return float(x.shape[1])

    def plane(n: int, seed: int) -> Any:
        return np.random.default_rng(seed).normal(size=(n, 2)) @ np.eye(2, 4) + 5

    monkeypatch.setattr(estimators, "estimate", estimate)
    monkeypatch.setattr(
        estimators, "manifolds", lambda: iter([Manifold("A", "plane", 2, plane), Manifold("B", "all", 4, plane)])
    )
    monkeypatch.setattr(estimators, "FEW", 30)
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)  # of all other tests
    monkeypatch.setattr(estimators, "ours", lambda x, seed: (2, 50.0 + seed, 3, ["a doubt"]))
    return asked


def test_a_row(made_up: list[tuple[str, int]]) -> None:
    row = measure(next(estimators.manifolds()), 40, 1)
    of, found, seconds = row.pop("of"), row.pop("found"), row.pop("seconds")
    assert (of, row) == ("A", {"manifold": "plane", "r": 2, "d": 4, "seed": 1, "gap": 51.0, "doubts": ["a doubt"]})
    assert found == {"ours": 2, "active": 3, **dict.fromkeys(estimators.ESTIMATORS, 4.0)}
    assert seconds.keys() == found.keys()
    assert made_up == [(name, 30 if name == "DANCo" else 40) for name in estimators.ESTIMATORS]


@pytest.mark.parametrize(("dimension", "said"), [(3, 3), (0, None)])  # none active is no answer
def test_our_way_is_the_search_with_its_defaults(
    monkeypatch: pytest.MonkeyPatch, dimension: int, said: int | None
) -> None:
    asked: list[Any] = []

    def find_dimension(x: Any, plan: Any, progress: bool) -> Any:
        asked.append((x, plan, progress))
        best = SimpleNamespace(active_dimensions=2 * dimension)
        return SimpleNamespace(dimension=dimension, gap=40.0, best=best, doubts=("one", "another"))

    monkeypatch.setattr(mc, "find_dimension", find_dimension)
    data = np.zeros((6, 2))
    assert estimators.ours(data, 6) == (said, 40.0, None if said is None else 2 * said, ["one", "another"])
    ((x, plan, progress),) = asked
    assert x is data
    assert (plan, progress) == (mc.SearchPlan(seed=6), False)


def test_tables() -> None:
    def row(of: str, seed: int, r: int, ours: int | None, gap: float | None, other: float) -> dict[str, Any]:
        found = {"ours": ours, "active": ours and 2, **dict.fromkeys(estimators.ESTIMATORS, other)}
        what = {"of": of, "manifold": "M", "d": 9, "r": r, "seed": seed, "gap": gap}
        return {**what, "found": found, "seconds": dict.fromkeys(found, float(seed))}

    def cells(text: str) -> list[list[str]]:
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]

    rows = [row("A", 1, 2, 2, 1000.0, 2.4), row("A", 2, 2, 2, 2000.0, 2.61), row("A", 3, 2, 3, 3000.0, 2.2)]
    rows.append(row("B", 4, 5, None, None, float("nan")))
    head, _, *lines = cells(table({"rows": rows}))
    assert head[:8] == ["of", "manifold", "d", "r", "gap", "ours", "active", "PCA"]
    assert [line[:8] for line in lines] == [
        ["A", "M", "9", "2", "2,000.0", "**2**", "**2**", "**2.4**"],
        ["B", "M", "9", "5", "–", "–", "–", "–"],
    ]
    head, _, *lines = cells(summary({"rows": rows}))
    assert head[:5] == ["right of", "data sets", "ours", "active", "PCA"]
    assert [line[:5] for line in lines] == [
        ["A", "3", "2", "3", "2"],
        ["B", "1", "0", "0", "0"],
        ["seconds a data set, median", "", "2.5", "2.5", "2.5"],
    ]
    for one in rows:
        del one["found"]["active"]
    assert "active" not in summary({"rows": rows})


def test_the_newest_of_each_is_shown(tmp_path: Path) -> None:
    text = "<!-- bench: dimension -->\n<!-- end -->"
    assert estimators.files(tmp_path) == []
    assert estimators.NOT_YET in report.with_tables(text, [])
    row = {"of": "A", "manifold": "M", "d": 9, "r": 2, "seed": 0, "gap": 7.0}
    numbers = dict.fromkeys(estimators.WAYS, 2.0)
    made_by = {"device": "a chip", "scikit-dimension": "0.1"}
    for day, others in ((1, ["N"]), (3, []), (2, ["N"])):
        rows = [{**row, "manifold": name, "found": numbers, "seconds": numbers} for name in ["M", *others]]
        results = {"date": f"2026-01-0{day}", **made_by, "commit": f"abc{day}", "rows": rows}
        (tmp_path / f"dimension-{day}.json").write_text(json.dumps(results))
    newest = estimators.files(tmp_path)
    assert [path.stem[-1] for path in newest] == ["3", "2", "1"]
    shown = report.with_tables(text, [], [], newest)
    assert "| A | 2 | 2 |" in shown
    links = [f"at abc{day}: [`dimension-{day}.json`](benchmarks/results/dimension-{day}.json)" for day in (3, 2)]
    assert f"a chip, scikit-dimension 0.1. Of each data set the newest of these: {'; '.join(links)}.\n" in shown
    assert report.with_tables(shown, [], [], newest) == shown
    page = report.page([], [], newest)
    assert page.index("date 2026-01-03") < page.index("date 2026-01-01")
    assert "| A | M | 9 | 2 | 7.0 | **2** |" in page


@pytest.mark.parametrize("other", [{"device": "b"}, {"samples": 7}, {"scikit-dimension": "0.2"}])
def test_rows_of_another_measurement_are_not_put_beside(tmp_path: Path, other: dict[str, Any]) -> None:
    made_by = {"device": "a", "samples": 5, "scikit-dimension": "0.1", "commit": "abc", "date": "2026-01-02"}
    paths = [tmp_path / "new.json", tmp_path / "old.json"]
    earlier = made_by | {"date": "2026-01-01"} | other
    for path, made, r in zip(paths, (made_by, earlier), (2, 3), strict=True):
        row = {"of": "A", "manifold": "M", "r": r, "seed": 0}
        path.write_text(json.dumps({**made, "rows": [row]}))
    results, sources = estimators.newest(paths)
    assert [row["r"] for row in results["rows"]] == [2]
    assert [path for _, path in sources] == paths[:1]


def test_a_run_goes_on(
    made_up: list[tuple[str, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "found.json"
    monkeypatch.setitem(sys.modules, "skdim", type("skdim", (), {"__version__": "0"}))
    threads: list[int] = []
    limited = SimpleNamespace(threadpool_limits=lambda count: (threads.append(count), nullcontext())[1])
    monkeypatch.setitem(sys.modules, "threadpoolctl", limited)
    arguments = ["estimators", "--samples", "20", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "1"])
    estimators.main()
    assert len(made_up) == 2 * len(estimators.ESTIMATORS)
    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "2"])
    estimators.main()
    assert len(made_up) == 4 * len(estimators.ESTIMATORS)
    results = json.loads(out.read_text())
    assert threads == [1, 1]
    assert [(row["manifold"], row["seed"]) for row in results["rows"]] == [
        *(("plane", 0), ("all", 0)),
        *(("plane", 1), ("all", 1)),
    ]
    assert table(results) in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "3", "--of", "B"])
    estimators.main()
    assert [(row["manifold"], row["seed"]) for row in json.loads(out.read_text())["rows"][4:]] == [("all", 2)]
    results = json.loads(out.read_text())
    monkeypatch.setattr(sys, "argv", ["estimators", "--samples", "30", "--out", str(out)])
    with pytest.raises(SystemExit):
        estimators.main()
    assert "another measurement: samples is 20, expected 30; name another --out" in capsys.readouterr().err
    assert json.loads(out.read_text()) == results
    monkeypatch.setattr(provenance, "commit", lambda: "another")
    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "3"])
    with pytest.raises(SystemExit):
        estimators.main()
    assert "another measurement: commit is " in capsys.readouterr().err
    assert json.loads(out.read_text()) == results
    monkeypatch.setattr(estimators, "results_file", lambda *_: out)
    monkeypatch.setattr(sys, "argv", ["estimators", "--samples", "20"])
    estimators.main()
    assert json.loads(out.with_stem(f"found-{results['commit']}").read_text()) == results
    assert len(json.loads(out.read_text())["rows"]) == 2
