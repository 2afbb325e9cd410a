"""What the project set itself on synthetic data, against the paper's numbers. Minutes long."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from manifold_core.experiments import paper


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("r", [2, 4, 6])
def test_command_line_finds_the_dimension_at_a_lower_loss_than_the_paper(r: int, seed: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "manifold_core.cli", "train", "--data", "synthetic", "--quiet"]
    command += ["--ambient-dim", "20", "--latent-dim", "20", "--manifold-dim", str(r), "--seed", str(seed)]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, capture_output=True)
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    (printed,) = paper.rows("table1", kappa=20, d=20, r=r)
    assert metrics["active_dimensions"] == r
    assert paper.doubled(metrics["train"]["neg_elbo"]) <= printed["neg_elbo"]
