"""Where results of benchmarks are kept."""

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks import results_files


def test_all_benchmarks_are_asked_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    monkeypatch.setattr("sys.argv", ["images_on_gpu", "--seconds", "3"])
    begin = time.monotonic()
    where, out, end = results_files.asked("images", "What it does.", 100)
    assert where["device"] == "A GPU"
    assert out == results_files.results_file("images", "A GPU", where["date"])
    assert begin + 3 <= end <= time.monotonic() + 3
    monkeypatch.setattr("sys.argv", ["ops_on_gpu", "--out", "here.json"])
    assert results_files.asked("ops", None, 100).out.name == "here.json"


def test_what_another_commit_measured_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "ops-a-2026-01-02.json"
    assert results_files.set_aside(out) == out
    for run, commit in enumerate(("123", "456", "123", "123")):  # a second one of a commit may end after fewer rows
        out.write_text(json.dumps({"commit": commit, "run": run}))
        assert results_files.set_aside(out) == out
    kept = {path.stem: json.loads(path.read_text())["run"] for path in tmp_path.iterdir()}
    stem = "ops-a-2026-01-02"
    assert kept == {f"{stem}-123": 0, f"{stem}-456": 1, f"{stem}-123-2": 2, f"{stem}-123-3": 3}
