import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_tables, images_on_gpu


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU."""
    few = {"WARM_UP": 1, "COUNTED": 8, "ROUNDS": 3, "IMAGES": 16, "BATCHES": (8,)}
    for name, value in {"DEVICE": "cpu", **few}.items():
        monkeypatch.setattr(images_on_gpu, name, value)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


def rows_of(out: Path, seconds: float) -> list[dict[str, Any]]:
    images_on_gpu.report({"device": "A GPU"}, out, images_on_gpu.time.monotonic() + seconds)
    rows: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [row["contender"] for row in rows] == ["alone", "in turn", "eager"] * 2
    assert [row["covariance"] for row in rows] == ["diagonal"] * 3 + ["cholesky"] * 3
    return rows


def test_every_way_is_measured(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[str, int]] = []

    def counted(model: Any, x: Any, config: Any, **rest: Any) -> Any:
        begun.append((model.elbo.covariance, config.batch_size))
        return train(model, x, config, **rest)

    train = images_on_gpu.turns
    monkeypatch.setattr(images_on_gpu, "turns", counted)
    rows = rows_of(tmp_path / "images.json", 1000)
    assert [row["note"] for row in rows] == [""] * 6
    assert all(row["microseconds"] > 0 for row in rows)
    assert begun == [("diagonal", 8)] * 9 + [("cholesky", 8)] * 9


def test_a_step_of_one_of_many_is_a_share_of_a_turn(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = iter(range(10**6)), 0
    monkeypatch.setattr(images_on_gpu.time, "perf_counter", lambda: next(clock))  # a second for any number of calls

    def call() -> None:
        nonlocal calls
        calls += 1

    for steps, counted in ((1, 20), (4, 5)):
        calls = 0
        monkeypatch.setattr(images_on_gpu, "COUNTED", 20)
        assert images_on_gpu._microseconds(call, steps) == 1e6 / 20
        assert calls == 3 * counted + (steps == 1)  # of three rounds, and of the warm-up
    taken: list[int] = []
    monkeypatch.setattr(images_on_gpu, "_microseconds", lambda step, steps=1: step() or taken.append(steps) or 600.0)
    assert images_on_gpu.in_turn(8, "diagonal", models=3) == images_on_gpu.alone(8, "diagonal") == 600.0
    assert taken == [3, 1]


def test_wrong_gradients_get_no_time(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (2e-4, math.nan):
        monkeypatch.setattr(images_on_gpu, "error", lambda *_, wrong=wrong: wrong)
        for row in rows_of(tmp_path / "images.json", 1000):
            assert row["microseconds"] is None
            assert row["note"].startswith("wrong: the gradients are ")


def test_what_fails_or_comes_too_late_is_noted(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_on_gpu, "error", lambda *_: 0.0)
    assert {row["note"] for row in rows_of(tmp_path / "late.json", -1)} == {"left out: 0 s left"}

    def fails(*_: Any) -> float:
        raise RuntimeError("no")

    monkeypatch.setattr(images_on_gpu, "CONTENDERS", dict.fromkeys(images_on_gpu.CONTENDERS, fails))
    assert {row["note"] for row in rows_of(tmp_path / "failed.json", 1000)} == {"failed: RuntimeError('no')"}


def test_the_table_says_how_many_times_faster() -> None:
    row = {"batch": 512, "covariance": "diagonal"}
    times = {"alone": 1000.0, "in turn": 500.0, "eager": 6000.0}
    rows = [row | {"contender": name, "microseconds": time} for name, time in times.items()]
    rows.append(row | {"covariance": "cholesky", "contender": "alone", "microseconds": None})
    table = gpu_tables.of_images({"rows": rows})
    assert table.splitlines()[2:] == ["| 512 | diagonal | 1,000 µs | 500 µs | 6,000 µs | 6.0 | 12.0 |"]
