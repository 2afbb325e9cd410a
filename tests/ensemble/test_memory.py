"""An ensemble that does not fit is refused before memory is taken for it."""

import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from instruction_sets import NEEDS_COMPILED

import manifold_core as mc
from manifold_core.ensemble import memory
from manifold_core.ensemble.data import SamplesLike

CPU = torch.device("cpu")


@pytest.fixture
def free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Says how much memory there is; a megabyte to begin with."""
    path = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "MEMINFO", path)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    path.write_text("MemTotal:       16000000 kB\nMemFree:  5 kB\nMemAvailable:       1000 kB\nHugetlb:  0 kB\n")
    return path


def test_what_is_free_is_read_in_bytes(free: Path) -> None:
    memory.check_memory(1000 * 1024, "these", CPU)
    with pytest.raises(mc.InputError, match=r"these must fit into the 0\.0 GB free on cpu, but take 0\.0 GB"):
        memory.check_memory(1000 * 1024 + 1, "these", CPU)
    with pytest.raises(mc.InputError, match=r"these must fit into the 0\.0 GB free on cpu, but take 3\.5 GB"):
        memory.check_memory(3_500_000_000, "these", CPU)


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_may_have_less_than_the_machine(free: Path, tmp_path: Path, version: int) -> None:
    """Its limit less what it has, of which files that it can do without count as free."""
    numbers = {"memory.max": "900000\n", "memory.current": "600000\n", "memory.stat": "anon 1\ninactive_file 200000\n"}
    if version == 1:
        (tmp_path / "memory").mkdir()
        numbers = {
            "memory/memory.limit_in_bytes": "900000\n",
            "memory/memory.usage_in_bytes": "600000\n",
            "memory/memory.stat": "inactive_file 7\ntotal_inactive_file 200000\n",
        }
    for name, text in numbers.items():
        (tmp_path / name).write_text(text, encoding="ascii")
    memory.check_memory(500_000, "these", CPU)
    with pytest.raises(mc.InputError, match="these must fit"):
        memory.check_memory(500_001, "these", CPU)
    free.unlink()
    with pytest.raises(mc.InputError, match="these must fit"):
        memory.check_memory(500_001, "these", CPU)
    most = next(iter(numbers))
    (tmp_path / most).write_text("max\n", encoding="ascii")  # no limit
    memory.check_memory(10**15, "these", CPU)


def test_where_nobody_can_tell_nothing_is_refused(free: Path) -> None:
    free.write_text("MemTotal: 5 kB\n")
    memory.check_memory(10**15, "these", CPU)
    free.unlink()
    memory.check_memory(10**15, "these", CPU)


@NEEDS_COMPILED
@pytest.mark.parametrize(
    ("specs", "data", "what"),
    [
        # weights, their moments
        ([mc.ModelSpec(5, (3000,))], torch.zeros(50, 9), r"1 models \(.*\), their curves, schedules and data"),
        # the copy of conditional data
        ([mc.ModelSpec(2, (3,), condition_dim=1)], (torch.zeros(90_000, 2), torch.zeros(90_000, 1)), "1 models"),
        # that of data that are not contiguous
        ([mc.ModelSpec(2, (3,))], torch.zeros(2, 200_000).T, "1 models"),
        # curves
        ([mc.ModelSpec(60, (1,), training=mc.TrainingConfig(900))] * 9, torch.zeros(50, 2), "9 models"),
        # schedules, of which each learning rate has one
        (
            [mc.ModelSpec(2, (1,), training=mc.TrainingConfig(900, learning_rate=1 / k)) for k in range(1, 60)],
            torch.zeros(50, 2),
            "59 models",
        ),
        # the gradient of each tile of a batch
        (
            [mc.ModelSpec(5, (900,), training=mc.TrainingConfig(1, 20_000))],
            torch.zeros(20_000, 9),
            "the tiles of 2 threads",
        ),
    ],
)
def test_models_that_do_not_fit(free: Path, specs: list[mc.ModelSpec], data: SamplesLike, what: str) -> None:
    with pytest.raises(mc.InputError, match=f"{what}.* must fit into the 0.0 GB free on cpu"):
        mc.train_ensemble(specs, data, backend="cpu", threads=2, progress=False)


@NEEDS_COMPILED
def test_the_models_that_are_handed_back_count(free: Path) -> None:
    """Of a parameter the weight, two moments of Adam, and the weight in the model: 16 bytes."""
    spec = mc.ModelSpec(5, (4000,), training=mc.TrainingConfig(1, 10))
    parameters = sum(parameter.numel() for parameter in spec.build(9).parameters())
    needed = 16 * parameters // 1024
    x = torch.zeros(50, 9)
    free.write_text(f"MemAvailable: {needed - needed // 100} kB\n")
    with pytest.raises(mc.InputError, match=r"1 models \(.*\), their curves, schedules and data must fit"):
        mc.train_ensemble([spec], x, backend="cpu", threads=1, progress=False)
    free.write_text(f"MemAvailable: {needed + needed // 100} kB\n")
    with pytest.raises(mc.InputError, match="the tiles of 1 threads must fit"):  # they are asked for next
        mc.train_ensemble([spec], x, backend="cpu", threads=1, progress=False)


@NEEDS_COMPILED
def test_what_fits_is_trained(free: Path) -> None:
    spec = mc.ModelSpec(2, (5,), training=mc.TrainingConfig(2))
    (found,) = mc.train_ensemble([spec], torch.zeros(50, 9), backend="cpu", threads=1, progress=False)
    assert found.history.step == [1, 2]


@NEEDS_COMPILED
def test_huge_models_are_refused_before_memory_is_taken() -> None:
    """With this machine's own memory: they would take petabytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for spec in (mc.ModelSpec(5, (10**12,)), mc.ModelSpec(10**13), mc.ModelSpec(5, (10**7, 10**7))):
        with pytest.raises(mc.InputError, match=r"must fit into the .* GB free on cpu, but take \d{6,}\.\d GB"):
            mc.train_ensemble([spec, mc.ModelSpec(2)], torch.zeros(50, 9), backend="cpu", progress=False)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_the_reference_names_the_largest(free: Path) -> None:
    """It trains one model after the other; all weights stay, and of the one at work its gradients and moments too."""
    specs = [mc.ModelSpec(2, (3,)), mc.ModelSpec(5, (4000,)), mc.ModelSpec(2, (4,))]
    weights = [sum(parameter.numel() for parameter in spec.build(9).parameters()) for spec in specs]
    needed = (4 * sum(weights) + 12 * weights[1]) // 1024
    free.write_text(f"MemAvailable: {needed - 1} kB\n")
    with pytest.raises(mc.InputError, match=rf"^3 models \(the largest: specs\[1\], {weights[1]:,} weights\) must fit"):
        mc.train_ensemble(specs, torch.zeros(50, 9), backend="reference", progress=False)
    free.write_text(f"MemAvailable: {needed + 1} kB\n")
    quick = [replace(spec, training=mc.TrainingConfig(1, 10)) for spec in specs]
    assert len(mc.train_ensemble(quick, torch.randn(50, 9), backend="reference", progress=False)) == 3


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    ("huge", "x"),
    [
        (mc.ModelSpec(5, (10**7, 10**7)), torch.zeros(50, 9)),
        (mc.ModelSpec(5, (10**7, 10**7), covariance="cholesky"), torch.zeros(50, 9)),
        (mc.ConvSpec(5, hidden=(10**7, 10**7)), torch.zeros(50, 1, 8, 8)),
    ],
)
def test_huge_models_of_the_reference_are_refused_before_any_is_trained(
    backend: str, huge: mc.ModelSpec | mc.ConvSpec, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With this machine's own memory."""
    monkeypatch.setattr("manifold_core.ensemble.train.train_in_turn", None)
    with pytest.raises(mc.InputError, match=r"the largest: specs\[1\], 200,\d{3},\d{3},\d{3},\d{3} weights"):
        mc.train_ensemble([replace(huge, hidden=(8,)), huge], x, backend=backend, progress=False)
