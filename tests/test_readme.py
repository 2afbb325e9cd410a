"""The README does what it says: its Python runs, its figures are those in the result files."""

import json
import re
from pathlib import Path

import pytest
from manifold_core.experiments import paper

import manifold_core as mc

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert isinstance(names["model"], mc.VAE)
    assert int(capsys.readouterr().out.split()[0]) in range(9)


def test_speed_figures_are_those_of_the_results_file() -> None:
    results = json.loads((ROOT / "benchmarks/results/cpu.json").read_text(encoding="utf-8"))["results"]
    for found in results:
        size = ", ".join(f"{n:,}" for n in found["size"])
        low, median, high = found["ratio_quartiles"]
        times = f"| {size} | {found['eager_us']:,.0f} µs | {found['fused_us']:,.0f} µs |"
        assert f"{times} {median:.1f} | {low:.1f} to {high:.1f} |" in README


def test_dimension_figures_are_those_of_the_results_file() -> None:
    runs = json.loads((ROOT / "experiments/results/synthetic_d20.json").read_text(encoding="utf-8"))["runs"]
    for r in (2, 4, 6):
        own = [run for run in runs if run["r"] == r]
        assert len(own) == 5
        right = sum(run["active_dimensions"] == r for run in own)
        losses = sorted(run["neg_elbo"] for run in own)
        (printed,) = paper.rows("table1", kappa=20, d=20, r=r)
        row = f"| {r} | {right} of 5 | {losses[0]:.1f} | {losses[2]:.1f} | {losses[-1]:.1f} | {printed['neg_elbo']} |"
        assert row in README
