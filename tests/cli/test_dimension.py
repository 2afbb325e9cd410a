"""``manifold-core dimension``: what it prints, its options and their defaults."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import RESULTS, only_line
from runs import contents

import manifold_core as mc
from manifold_core import cli
from manifold_core.cli import commands
from manifold_core.run import SearchConfig
from manifold_core.search.plan import FIRST, NETWORKS, WIDER

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ["--hidden", "8", "--hidden", "8", "8", "--models", "1", "--steps", "300", "--learning-rate", "0.02", "--quiet"]


@pytest.mark.usefixtures("no_pictures")
def test_a_whole_search(inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dimension", "--data", str(inputs / "good.npy"), "--out", str(tmp_path), *SMALL]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert contents(tmp_path).keys() == RESULTS
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert cli.table([metrics]) in printed.out
    assert f"metrics and weights: {tmp_path}\n" in printed.out
    local = metrics["local"]
    doubtful = "; doubtful, see below" if metrics["doubts"] else ""
    said = f"found at {100 * local['share']:.0f} % of the samples, with a gap of {local['gap']:.3g}"
    assert printed.out.startswith(f"good: dimension {metrics['dimension']}, {said} (clear from 8 on){doubtful}\n")
    losses = ", ".join(f"{kappa}: {loss:.2f}" for kappa, loss in metrics["by_latent_dim"].items())
    able = [trial for trial in metrics["trials"] if trial["latent_dim"] >= metrics["latent_dim"]]
    counts = ", ".join(str(trial["active_dimensions"]) for trial in able)
    note = only_line("\n".join(line for line in printed.out.splitlines() if "the best of" in line))
    assert note == (
        f"good: the best of {len(metrics['trials'])} models has {metrics['latent_dim']} latent dimensions; active "
        f"dimensions of the models with {metrics['latent_dim']} or more: {counts}; lowest held-out -ELBO by number of "
        f"latent dimensions: {losses} (in the coordinates used for training, and without the tenth of the samples that "
        "fit worst, so it is not the table's)"
    )


def asked(monkeypatch: pytest.MonkeyPatch, *options: str) -> SearchConfig:
    configs: list[SearchConfig] = []

    def run(config: Any, *_: Any, **__: Any) -> dict[str, Any]:
        configs.append(config)
        return {"pictures": []}

    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(commands, "table", lambda runs: "")
    assert cli.main(["dimension", "--out", "out", "--device", "cpu", *options]) == 0
    return configs[0]


def test_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, "--data", "x.npy") == SearchConfig("x.npy", mc.SearchPlan())
    options = ["--latent-dim", "7", "--hidden", "8", "--hidden", "8", "4", "--models", "3", "--steps", "5"]
    options += ["--batch-size", "6", "--learning-rate", "0.25", "--log-gamma", "-2", "--seed", "9"]
    options += ["--directions", "12"]
    plan = mc.SearchPlan(7, ((8,), (8, 4)), 3, -2.0, 5, 6, 0.25, 9, 12)
    synthetic = ["--data", "synthetic", "--ambient-dim", "11", "--manifold-dim", "4"]
    assert asked(monkeypatch, *synthetic, *options) == SearchConfig("synthetic", plan, ambient_dim=11, manifold_dim=4)
    images = ["--data", "mnist", "--data-dir", "there"]
    assert asked(monkeypatch, *images, *options) == SearchConfig("mnist", plan, data_folder="there")


def test_stopped_it_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run", stop)
    assert cli.main(["dimension", "--data", "x.npy", "--out", "out", "--device", "cpu"]) == 130
    line = only_line(capfd.readouterr().err)
    assert line == "manifold-core: stopped; the same command resumes from the last checkpoint"


def test_the_help_has_the_defaults(help_of: Callable[[str], str]) -> None:
    text, plan = help_of("dimension"), mc.SearchPlan()
    assert f"default {FIRST}, or the number of features" in text
    assert "default 8 times the dimension that nearest neighbours see, and at least 16" in text
    assert "default --hidden 64 --hidden 64 64 64, and, if these read more" in text
    assert "than nearest neighbours see, --hidden 128 128 128" in text
    assert (NETWORKS, WIDER) == (((64,), (64, 64, 64)), ((128, 128, 128),))
    assert [spec.hidden for spec in plan.specs([1])] == [widths for widths in NETWORKS for _ in range(plan.models)]
    for name in ("steps", "batch_size", "learning_rate"):
        assert f"(default: {getattr(plan, name)})" in text
    assert f"(default: {plan.models})" in text
    assert f"(default: {plan.log_gamma})" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "0"], "models must be a positive integer, got 0"),
        (["--latent-dim", "0"], "latent_dim must be a positive integer, got 0"),
        (["--directions", "-1"], "directions must be a positive integer, got -1"),
        (["--hidden", "8", "--hidden", "0"], "networks[0] must be a positive integer, got 0"),
        (["--log-gamma", "nan"], "log_gamma"),
    ],
)
def test_bad_options(
    inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    out = tmp_path / "out"
    assert cli.main(["dimension", "--data", str(inputs / "good.npy"), "--out", str(out), *options]) == 2
    assert message in only_line(capfd.readouterr().err)
    assert not out.exists()
