"""``make demo``, with less training."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from manifold_core.experiments import demo

from manifold_core.errors import InputError
from manifold_core.run import run

pytestmark = pytest.mark.usefixtures("one_thread")

NO_IMAGES = "the files of fashion-mnist are not on this machine"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps, no pictures, and no files of images."""

    def run_or_refuse(config: Any, folder: Path) -> dict[str, Any]:
        if config.data == "fashion-mnist":
            raise InputError(NO_IMAGES)
        return run(config, folder, progress=False)

    training = replace(demo.SYNTHETIC.training, steps=20)
    monkeypatch.setattr(demo, "SYNTHETIC", replace(demo.SYNTHETIC, training=training))
    monkeypatch.setattr(demo, "run", run_or_refuse)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.mark.usefixtures("small")
def test_without_images_the_synthetic_part_is_a_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--out", str(tmp_path / "demo")])
    assert demo.main() == 0
    printed = capfd.readouterr()
    assert f"fashion-mnist is left out: {NO_IMAGES}\n" in printed.err
    head, _, row = printed.out.strip().splitlines()[:3]
    assert head.startswith("data")
    assert row.startswith("synthetic")
    # Table 1, κ = 20, d = 20, r = 6
    assert "the paper prints -43.75 with 6 active dimensions\n" in printed.out
    measured = json.loads((tmp_path / "demo/synthetic/metrics.json").read_text(encoding="utf-8"))["train"]["neg_elbo"]
    assert f"(-ELBO and KL doubled): -ELBO {2 * measured:.2f}, the paper prints" in printed.out


@pytest.mark.usefixtures("small")
def test_a_folder_that_cannot_be_used_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo").write_text("a file")
    monkeypatch.setattr(sys, "argv", ["demo", "--out", str(tmp_path / "demo")])
    assert demo.main() == 2
    assert "synthetic is left out: out must be a folder that can be written to" in capfd.readouterr().err
