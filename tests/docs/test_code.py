"""README.md and docs/ do what they say: their Python and their commands run, their links lead somewhere."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import manifold_core as mc
from manifold_core import cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}


def text(name: str) -> str:
    return DOCUMENTS[name].read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the code runs, with the files that the documents make."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # pictures take time
    (makes,) = {
        found for name in ("README.md", "docs/data.md") for found in re.findall(r'`python -c "(.*?)"`', text(name))
    }
    exec(makes)  # points.npy and labels.npy
    return tmp_path


def run_blocks(name: str) -> dict[str, Any]:
    """The Python of a document, one block after the other; gives the names that it leaves."""
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    for block in re.findall(r"```python\n(.*?)```", text(name), flags=re.DOTALL):
        exec(compile(block, name, "exec"), names)
    return names


@pytest.mark.usefixtures("folder")
class TestPython:
    def test_readme(self, capsys: pytest.CaptureFixture[str]) -> None:
        names = run_blocks("README.md")
        printed = capsys.readouterr().out
        assert re.search(r"^3 \{2: (1\.9|2\.[0-4])\d*, 10: -4\.[0-3]\d*\}\n3\n-?\d+\.\d+$", printed, flags=re.MULTILINE)
        assert isinstance(names["search"], mc.DimensionSearch)

    def test_data(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["dimension", "--data", "points.npy", "--out", "runs/points", "--steps", "2", "--quiet"]) == 0
        capsys.readouterr()
        run_blocks("docs/data.md")
        printed = capsys.readouterr().out
        metrics = json.loads(Path("runs/points/metrics.json").read_text(encoding="utf-8"))
        assert int(printed.split()[0]) == metrics["dimension"]
        sphere = re.search(r"^2 ([\d.]+) {.*2: ([\d.]+)", printed, flags=re.MULTILINE)
        assert sphere is not None
        assert float(sphere[1]) > 15
        assert float(sphere[2]) > 0.9

    def test_models(self, capsys: pytest.CaptureFixture[str]) -> None:
        names = run_blocks("docs/models.md")
        printed = capsys.readouterr().out
        assert isinstance(names["model"], mc.CVAE)
        assert re.search(r"^2\ntorch.Size\(\[5, 20\]\) tensor", printed, flags=re.MULTILINE)
        assert "\n2\ntorch.Size([1, 15, 12])\n" in printed
        assert re.search(r"^4 tensor.*\n[0-3] ", printed, flags=re.MULTILINE)
        assert "\n[2, 2, 2, 2] " in printed

    def test_ops(self) -> None:
        names = run_blocks("docs/ops.md")
        nll, mask, log_gamma = (names[name] for name in ("nll", "mask", "log_gamma"))
        assert isinstance(nll, torch.Tensor)
        difference = torch.as_tensor(names["x"]) - torch.as_tensor(names["x_hat"])
        by_hand = 0.5 * mask * (difference**2 / log_gamma.exp() + math.log(2 * math.pi) + log_gamma)
        torch.testing.assert_close(nll, by_hand.sum(dim=1))
        assert float(names["loss"]) == pytest.approx(float(nll.mean()) + 8 * 0.1)  # of posteriors that are the prior
        terms = names["terms"]
        assert names["bound"].item() > -(terms.nll + terms.kl).mean().item() - 1  # tighter, but for chance


@pytest.mark.usefixtures("folder")
def test_commands_on_points_run() -> None:
    commands = {
        found
        for name in DOCUMENTS
        for found in re.findall(r"^manifold-core (\w+ --data points.npy .*)$", text(name), re.MULTILINE)
    }
    assert sorted(command.split()[0] for command in commands) == ["dimension", "train", "train"]
    for command in commands:
        assert cli.main([*command.split(), "--steps", "2", "--quiet"]) == 0


def anchors(path: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)]*)\)", text(name))
    for link in links:
        file, _, anchor = link.partition("#")
        target = DOCUMENTS[name].parent / file if file else DOCUMENTS[name]
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
