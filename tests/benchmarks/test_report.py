import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ops_on_gpu, report
from manifold_core import InputError
from manifold_core.bench import suite
from manifold_core.bench.suite import Row

README = "Before\n<!-- bench: step -->\nold\n<!-- end -->\nbetween\n<!-- bench: elbo -->\n<!-- end -->\nafter\n"


def results(day: str, commit: str = "abc", time: str = "", **microseconds: float) -> dict[str, Any]:
    """Of the training step, at one size."""
    where = {"date": day, "commit": commit, "device": "A CPU (R), 2 GHz", "threads": 2, "load": 0.1}
    where |= {"time": time} if time else {}
    rounds = {name: [(t, t, t)] * 3 for name, t in microseconds.items()}
    return {"provenance": where, "rows": [Row("step", (128,), 1e-7, 1000, 1000, rounds)]}


def test_the_newest_figures_stand_in_the_text(tmp_path: Path) -> None:
    for day, ours in (("2026-01-02", 50.0), ("2025-12-31", 25.0), ("2026-01-01", 10.0)):
        path = report.add(suite.to_json(results(day, eager=100.0, manifold_core=ours)), tmp_path)
        assert path.name == f"cpu-a-cpu-r-2-ghz-{day}.json"
    report.add(suite.to_json(results("2026-02-01")), tmp_path)  # in which nothing was measured
    found = report.files(tmp_path)
    assert [r["provenance"]["date"][:7] for _, r in found] == ["2026-02", "2026-01", "2026-01", "2025-12"]
    text = report.with_tables(README, found)
    assert text.startswith("Before\n<!-- bench: step -->\n\n| B | manifold_core | ")
    assert "| 128 | 50 µs | – | 0 | – | 100 µs | 2.0 (2.0 to 2.0) |" in text
    assert "cpu-a-cpu-r-2-ghz-2026-01-02.json" in text
    assert "\nold\n" not in text
    assert f"<!-- bench: elbo -->\n\n{report.NOT_YET}\n<!-- end -->\nafter\n" in text
    assert report.with_tables(text, found) == text
    page = report.page(found)
    assert page.index("2026-01-02") < page.index("2025-12-31")
    assert page.count("Training step of an MLP VAE") == 3


def test_the_newest_figures_of_each_processor_stand_in_the_text(tmp_path: Path) -> None:
    for day, device, ours in (("2026-01-01", "Fast", 10.0), ("2026-01-02", "Slow", 50.0), ("2025-12-31", "Slow", 1.0)):
        made = results(day, eager=100.0, manifold_core=ours)
        made["provenance"] |= {"device": device, "instruction_set": "avx2"}
        report.add(suite.to_json(made), tmp_path)
    text = report.with_tables(README, report.files(tmp_path))
    slow, fast = text.index("| 128 | 50 µs |"), text.index("| 128 | 10 µs |")
    assert "| 128 | 1 µs |" not in text
    assert slow < text.index("Slow, avx2, at abc: [`cpu-slow-2026-01-02.json`]") < fast
    assert fast < text.index("Fast, avx2, at abc: [`cpu-fast-2026-01-01.json`]") < text.index("<!-- end -->")
    assert report.with_tables(text, report.files(tmp_path)) == text


def test_another_commit_of_the_day_has_a_file_of_its_own(tmp_path: Path) -> None:
    for commit, time, ours in (
        ("abc", "", 50.0),
        ("def", "09:10", 25.0),
        ("abc", "08:00", 20.0),
        ("def", "09:20", 10.0),
    ):
        made = results("2026-01-02", commit, time, eager=100.0, manifold_core=ours)
        report.add(suite.to_json(made), tmp_path)
    found = report.files(tmp_path)
    assert [path.name for path, _ in found] == [
        "cpu-a-cpu-r-2-ghz-2026-01-02-def.json",
        "cpu-a-cpu-r-2-ghz-2026-01-02.json",
    ]
    assert "| 128 | 10 µs | – | 0 | – | 100 µs | 10.0 (10.0 to 10.0) |" in report.with_tables(README, found)


def test_figures_of_a_gpu_stand_as_they_are(tmp_path: Path) -> None:
    row = ops_on_gpu.Row("rsample_kl", (512, 32), "float32", "cuda", "both", 1234.5, 0.71234)
    where = {"device": "A GPU", "torch": "2.11", "commit": "abc", "date": "2026-01-02"}
    content = where | {"rows": [row._asdict()]}
    path = tmp_path / "ops-a-gpu-2026-01-02.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert report.gpu_files(tmp_path) == [path]
    text = report.page([], report.gpu_files(tmp_path))
    assert "ops-a-gpu-2026-01-02.json): device A GPU, torch 2.11, commit abc, date 2026-01-02\n" in text
    assert "| rsample_kl | 512 × 32 | float32 | cuda | both | 1,234 | 0.712 |  |\n" in text


def test_the_newest_figures_of_a_gpu_stand_in_the_text(tmp_path: Path) -> None:
    def row(backend: str, time: float | None, direction: str = "both", share: float | None = None) -> dict[str, Any]:
        return ops_on_gpu.Row("an op", (4096, 32), "float32", backend, direction, time, share)._asdict()

    def write(kind: str, day: str, rows: list[dict[str, Any]]) -> None:
        where = {"device": "A GPU", "torch": "2.11", "commit": f"abc{day[-2:]}", "date": day}
        (tmp_path / f"{kind}-a-gpu-{day}.json").write_text(json.dumps({**where, "rows": rows}), encoding="utf-8")

    text = "<!-- bench: gpu -->\nold\n<!-- end --><!-- bench: gpu_ensemble -->\n<!-- end -->"
    assert report.with_tables(text, []).count(report.NOT_YET_ON_A_GPU) == 2
    write("ops", "2026-01-01", [row("cuda", 1.0, share=0.1), row("compile", 30.0), row("triton", None)])
    write("ops", "2026-01-02", [row("cuda", 7.0, "forward"), row("cuda", 20.0, share=0.912), row("eager", 110.0)])
    model = {"models": 128, "hidden": 32, "contender": "engine", "microseconds": 200.0, "job_seconds": 4.0}
    eager = model | {"contender": "eager", "microseconds": 250_000.0}
    lost = model | {"models": 1, "contender": "batched", "microseconds": None}
    write("ensemble", "2026-01-01", [model, eager, lost, model | {"models": 1}])
    found = report.with_tables(text, [], report.gpu_files(tmp_path))
    assert "| an op | 4,096 × 32 | 20.0 µs | 91% | – | 110 µs | 5.5 | 1.5 | abc02 |\n\nA GPU, torch 2.11." in found
    assert "commit abc02, 2026-01-02: [`ops-a-gpu-2026-01-02.json`](benchmarks/results/ops-a-gpu-2026-01-02.j" in found
    assert "| 128 | 32 | 200 µs | 4.0 s | – | – | – | 1,250 |\n| 1 | 32 | 200 µs | 4.0 s | – | – | – | – |\n" in found
    assert "old" not in found
    assert report.with_tables(found, [], report.gpu_files(tmp_path)) == found


def test_of_files_of_a_day_the_time_says_which_is_newer(tmp_path: Path) -> None:
    """The names of those set aside say the commit, which says nothing of that."""
    for commit, time, microseconds in (("ccc", "08:00:00", 30.0), ("aaa", "09:00:00", 20.0), ("bbb", "10:00:00", None)):
        row = ops_on_gpu.Row("an op", (4096, 32), "float32", "cuda", "both", microseconds, 0.9)._asdict()
        where = {"device": "A GPU", "torch": "2.11", "commit": commit, "date": "2026-01-01", "time": time}
        name = "ops-a-gpu-2026-01-01" + ("" if commit == "bbb" else f"-{commit}")
        (tmp_path / f"{name}.json").write_text(json.dumps({**where, "rows": [row]}), encoding="utf-8")
    found = report.with_tables("<!-- bench: gpu -->\n<!-- end -->", [], report.gpu_files(tmp_path))
    assert "| an op | 4,096 × 32 | 20.0 µs |" in found
    assert found.index("commit bbb") < found.index("commit aaa") < found.index("commit ccc")


def test_a_table_is_of_the_gpu_measured_last_alone(tmp_path: Path) -> None:
    for device, day, shape in (("An old GPU", "2026-01-01", (512, 32)), ("A GPU", "2026-01-02", (4096, 32))):
        row = ops_on_gpu.Row("an op", shape, "float32", "cuda", "both", 20.0, 0.9)._asdict()
        where = {"device": device, "torch": "2.11", "commit": "abc", "date": day}
        (tmp_path / f"ops-{len(device)}-{day}.json").write_text(json.dumps({**where, "rows": [row]}), encoding="utf-8")
    found = report.with_tables("<!-- bench: gpu -->\n<!-- end -->", [], report.gpu_files(tmp_path))
    assert "| an op | 4,096 × 32 |" in found
    assert "512" not in found
    assert "2026-01-01" not in found


@pytest.mark.parametrize("text", ["", "[1]", '{"rows": []}', json.dumps({"provenance": {}, "rows": [{"size": [1]}]})])
def test_what_bench_did_not_write_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not what `manifold-core bench --json` writes"):
        report.add(text, tmp_path)
    assert not list(tmp_path.iterdir())
