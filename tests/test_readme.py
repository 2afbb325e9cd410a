"""The README does what it says: its Python runs, its figures are those in the result files."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from manifold_core.experiments import paper

import manifold_core as mc

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert isinstance(names["model"], mc.CVAE)
    assert int(capsys.readouterr().out.split()[0]) in range(9)


def speed_rows(name: str) -> list[tuple[dict[str, Any], str]]:
    """What a results file has, and how the row of each size begins."""
    results = json.loads((ROOT / "benchmarks/results" / name).read_text(encoding="utf-8"))["results"]
    rows = []
    for found in results:
        size = ", ".join(f"{n:,}" for n in found["size"])
        low, median, high = found["ratio_quartiles"]
        times = f"| {size} | {found['eager_us']:,.0f} µs | {found['fused_us']:,.0f} µs |"
        rows.append((found, f"{times} {median:.1f} | {low:.1f} to {high:.1f} | {found['wanted']:g} |"))
    return rows


def test_speed_figures_are_those_of_the_results_file() -> None:
    for _, row in speed_rows("cpu.json"):
        assert f"{row}\n" in README


def test_speed_figures_of_full_covariance_are_those_of_the_results_file() -> None:
    for found, row in speed_rows("cpu_cholesky.json"):
        tuned, distributions = (found[f"{name}_ratio_quartiles"][1] for name in ("tuned", "distributions"))
        assert f"{row} {tuned:.1f} | {distributions:.1f} | {found['diagonal_us']:,.0f} µs |\n" in README


def test_speed_figures_of_whole_steps_are_those_of_the_results_file() -> None:
    text = (ROOT / "benchmarks/results/cpu_ensemble.json").read_text(encoding="utf-8")
    for f in json.loads(text)["results"]:
        one, side = (
            f"{f[f'{name}_us']:,.0f} µs | {f[f'{name}_ratio']:.1f}" for name in ("one_model", "a_model_a_thread")
        )
        row = f"| {f['hidden']}, {f['batch']:,} | {f['eager_us']:,.0f} µs | {one} | {side} | {f['wanted']:g} |"
        assert f"{row} {f['share_of_matrix_product']:.0%} |\n" in README


def test_dimension_figures_are_those_of_the_results_file() -> None:
    runs = json.loads((ROOT / "experiments/results/table1.json").read_text(encoding="utf-8"))["runs"]
    for printed in paper.rows("table1", kappa=20):
        d, r = printed["d"], printed["r"]
        own = sorted(
            (run for run in runs if run["cell"] == {"kappa": 20, "d": d, "r": r}), key=lambda run: run["neg_elbo"]
        )
        right = sum(run["active_dimensions"] == r for run in own)
        losses = [run["neg_elbo"] for run in own]
        best = f"{own[0]['active_dimensions']} | {losses[0]:.1f} | {statistics.median(losses):.1f} | {losses[-1]:.1f}"
        assert f"| {d} | {r} | {right} of 8 | {best} | {printed['AD']} | {printed['neg_elbo']} |\n" in README
