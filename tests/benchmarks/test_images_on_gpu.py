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
    few = {"SHORT": 1, "LONG": 3, "LONG_IN_TURN": 2, "IN_TURN": 2, "EAGER_STEPS": 1, "IMAGES": 16, "BATCHES": (8,)}
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
    asked: list[tuple[int, int]] = []
    train = images_on_gpu._seconds

    def seconds(batch: int, covariance: Any, models: int, steps: int) -> float:
        asked.append((models, steps))
        assert train(batch, covariance, models, steps) > 0
        return 1.0 + 2e-3 * models * steps  # as if captures took a second

    monkeypatch.setattr(images_on_gpu, "_seconds", seconds)
    rows = rows_of(tmp_path / "images.json", 1000)
    assert [row["note"] for row in rows] == [""] * 6
    ours = [row["microseconds"] for row in rows if row["contender"] != "eager"]
    assert ours == pytest.approx([2000.0] * 4)
    assert all(row["microseconds"] > 0 for row in rows)
    assert asked == [(1, 1), (1, 3), (1, 1), (2, 1), (2, 2)] * 2


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
