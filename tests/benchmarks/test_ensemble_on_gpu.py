"""The GPU benchmark of ensembles, as far as a processor can follow it."""

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cuda_on_host.build import NAMESPACE, load
from manifold_core.kernels.random import standard_normal
from torch import Tensor

import manifold_core as mc
from benchmarks import ensemble_on_gpu, ops_on_gpu
from benchmarks.batched import Batched
from benchmarks.ensemble_on_gpu import Row
from manifold_core.bench import ensemble
from manifold_core.bench.comparison import largest_difference
from manifold_core.bench.ensemble import WIDTH, Eager

NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


def samples(count: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def sets(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Two small data sets, and a benchmark of their size that measures by counting."""
    for name, value in {
        "BATCH": 24,
        "STEPS": 30,
        "STEPS_A_CALL": 4,
        "MAIN": (3, 8),
        "OTHERS": ((1, 8), (3, 5)),
    }.items():
        monkeypatch.setattr(ensemble_on_gpu, name, value)

    def called(call: Callable[[], Any]) -> float:
        call()
        return 6.0

    monkeypatch.setattr(ops_on_gpu, "microseconds", lambda calls: called(calls[0]))
    monkeypatch.setattr(ops_on_gpu, "in_a_graph", lambda calls: called(calls[0]))
    monkeypatch.setattr(ensemble_on_gpu, "COMPILE_SECONDS", math.inf)
    return [samples(60, seed) for seed in range(2)]


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    load()
    monkeypatch.setattr(ensemble_on_gpu.Engine, "library", getattr(torch.ops, NAMESPACE))
    return ensemble_on_gpu.Engine.library


class TestRight:
    def test_eager_is_the_model_of_the_library(self) -> None:
        x = samples(40, 3, torch.float64)
        ours = Eager(7, 40, x, fused=False, seed=5)
        model = mc.VAE.mlp(WIDTH, WIDTH, (7,)).double()
        theirs = [*model.encoder.parameters(), *model.decoder.parameters(), model.elbo.log_gamma]
        with torch.no_grad():
            for a, b in zip(theirs, ours.parameters, strict=True):
                a.copy_(b)
        optimizer = torch.optim.Adam(theirs, lr=0.005)
        for seed in range(3):
            ours.step(x, standard_normal(torch.tensor(seed), 40, WIDTH))
            optimizer.zero_grad()
            model(x, seed=seed).loss.backward()
            optimizer.step()
        for a, b in zip(ours.parameters, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)

    def test_batched_is_eager_on_the_same_noise(self) -> None:
        sets = [samples(50, seed, torch.float64) for seed in range(2)]
        models = [Eager(9, 16, sets[i % 2], fused=False, seed=i) for i in range(3)]
        batched = Batched([model.parameters for model in models], sets, 16)
        generator = torch.Generator().manual_seed(2)
        for _ in range(4):
            index = torch.randint(50, (3, 16), generator=generator)
            noise = torch.randn(3, 16, WIDTH, generator=generator, dtype=torch.float64)
            batched.step(index, noise)
            for i, model in enumerate(models):
                model.step(model.x[index[i]], noise[i])
            for place, stacked in enumerate(batched.parameters):
                expected = torch.stack([model.parameters[place].detach() for model in models])
                assert (batched.parameters[place].grad != 0).any()
                torch.testing.assert_close(stacked, expected, rtol=1e-11, atol=1e-11)

    def test_batched_draws_from_each_data_set_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sets = [samples(5, seed) for seed in range(2)]
        batched = Batched([Eager(4, 200, x, fused=False).parameters for x in sets], sets, 200)
        drawn: list[tuple[Tensor, Tensor]] = []
        monkeypatch.setattr(batched, "step", lambda *given: drawn.append(given))
        batched()
        batched()
        for index, noise in drawn:
            assert index.shape == (2, 200)
            assert set(index.flatten().tolist()) == set(range(5))
            assert noise.shape == (2, 200, WIDTH)
            assert 0.9 < float(noise.std()) < 1.1
        assert not torch.equal(drawn[0][0], drawn[1][0])
        assert not torch.equal(drawn[0][1], drawn[1][1])

    @NEEDS_COMPILER
    @pytest.mark.usefixtures("on_host")
    def test_what_is_timed_is_right(self, sets: list[Tensor]) -> None:
        for name in ("engine", "batched", "eager"):
            row = ensemble_on_gpu.measured(name, 3, 8, sets, 100)
            assert row.note == ""
            assert row.error < ensemble_on_gpu.ALLOWED / 10
            assert row.microseconds == {"engine": 6 / 4, "batched": 6, "eager": 18}[name]


class TestWrong:
    def test_an_engine_that_does_nothing(self, sets: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
        library = SimpleNamespace(ensemble_steps=lambda *_: None)
        monkeypatch.setattr(ensemble_on_gpu.Engine, "library", library)
        row = ensemble_on_gpu.measured("engine", 3, 8, sets, 100)
        assert row.note.startswith("wrong: ")
        assert row.error > 10 * ensemble_on_gpu.ALLOWED
        assert math.isnan(row.microseconds)
        assert "us" not in row.line()
        assert row.note in row.line()

    @NEEDS_COMPILER
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_one_model_among_the_others(
        self, sets: list[Tensor], on_host: Any, monkeypatch: pytest.MonkeyPatch, place: int
    ) -> None:
        def all_but_one(words: Tensor, steps: int, threads: int) -> None:
            others = [i for i in range(len(words)) if i != place]
            on_host.ensemble_steps(words[others].contiguous(), steps, threads)

        monkeypatch.setattr(ensemble_on_gpu.Engine, "library", SimpleNamespace(ensemble_steps=all_but_one))
        assert ensemble_on_gpu.measured("engine", 3, 8, sets, 100).note.startswith("wrong: ")

    @pytest.mark.parametrize("value", [math.nan, 0.0])
    def test_a_batched_gradient(self, sets: list[Tensor], monkeypatch: pytest.MonkeyPatch, value: float) -> None:
        from benchmarks import batched

        right = batched.gradients

        def of_one_bias(*given: Any) -> list[Tensor]:
            found = right(*given)
            found[5][1] = value  # one model's
            return found

        monkeypatch.setattr(batched, "gradients", of_one_bias)
        row = ensemble_on_gpu.measured("batched", 3, 8, sets, 100)
        assert row.note.startswith("wrong: ")
        assert math.isnan(row.microseconds)

    @pytest.mark.parametrize(("at", "value"), [((1, 0), 30), ((2, 1), 1)])
    def test_models_that_ended_are_not_timed(
        self, sets: list[Tensor], monkeypatch: pytest.MonkeyPatch, at: tuple[int, int], value: int
    ) -> None:
        engine = ensemble_on_gpu.Engine(3, 8, sets)
        state = engine.state(30)
        monkeypatch.setattr(engine, "state", lambda _: state)
        monkeypatch.setattr(ensemble_on_gpu.Engine, "library", SimpleNamespace(ensemble_steps=lambda *_: None))
        assert engine.microseconds() == 1.5
        state.progress[at] = value
        with pytest.raises(RuntimeError, match="models ended while they were timed"):
            engine.microseconds()

    def test_a_number_that_is_none_is_no_small_difference(self) -> None:
        good, bad = torch.ones(3), torch.tensor([1.0, math.nan, 1.0])
        for floor in (0.0, ensemble.SMALLEST):
            assert largest_difference((good, good), (good, good), floor) == 0
            assert math.isnan(largest_difference((good, bad), (good, good), floor))
            assert math.isnan(largest_difference((bad, good), (good, good), floor))
            assert largest_difference((good, 1.5 * good), (good, good), floor) == 0.5
        assert ensemble_on_gpu.distance([good, 2 * good], [good, good]) == pytest.approx(math.sqrt(1 / 2))
        assert math.isnan(ensemble_on_gpu.distance([good, bad], [good, good]))
        for distances in ((0.5, math.nan), (math.nan, 0.5)):
            assert math.isnan(ensemble_on_gpu.worst(distances))

    def test_a_failure_costs_its_own_figure_alone(self, sets: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ensemble_on_gpu.Engine, "library", SimpleNamespace())
        assert ensemble_on_gpu.measured("engine", 3, 8, sets, 100).note.startswith("failed: AttributeError")
        assert ensemble_on_gpu.measured("batched", 3, 8, sets, 100).note == ""

    def test_time_that_is_not_left(self, sets: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ensemble_on_gpu, "COMPILE_SECONDS", 30)
        for name, left in (("engine", -1), ("compiled", 29)):
            row = ensemble_on_gpu.measured(name, 3, 8, sets, left)
            assert row.note == f"left out: {max(left, 0)} s left"
            assert math.isnan(row.microseconds)


class TestReport:
    def test_a_row(self) -> None:
        row = Row("engine", 128, 32, microseconds=170.0, error=2e-6)
        assert row.job_seconds == pytest.approx(3.4)
        products = 20 * 32 + 32 * 40 + 20 * 32 + 32 * 20  # of the way there
        assert row.tera_multiply_adds == pytest.approx((3 * products - 20 * 32) * 1024 * 128 / 170e-6 / 1e12)
        line = " 128 models, hidden 32 engine 170.0 us a step 3.40 s for 20,000 6.91 TMAC/s error 2e-06"
        assert re.sub(" +", " ", row.line()) == line

    def test_json_has_no_nan(self) -> None:
        found = ensemble_on_gpu.as_json(Row("engine", 1, 32, note="wrong"))
        assert json.loads(json.dumps(found, allow_nan=False))["microseconds"] is None

    def test_ratios_leave_out_what_was_not_measured(self) -> None:
        rows = [
            Row("engine", 128, 32, 2.0),
            Row("batched", 128, 32, 9.0),
            Row("compiled", 128, 32),
            Row("engine", 16, 32),
            Row("batched", 16, 32, 5.0),
        ]
        expected = {"models": 128, "hidden": 32, "faster_than": {"batched": 4.5, "compiled": None}}
        assert ensemble_on_gpu.ratios(rows) == [expected]

    def test_the_plan(self) -> None:
        asked = list(ensemble_on_gpu.plan())
        assert len(set(asked)) == len(asked)
        assert asked[:4] == [(name, 128, 32) for name in ensemble_on_gpu.CONTENDERS]  # before all other sizes
        for contender in ("engine", "batched"):
            assert {(models, hidden) for name, models, hidden in asked if name == contender} == {
                (128, 32),
                (1, 32),
                (16, 32),
                (512, 32),
                (128, 16),
                (128, 64),
                (16, 256),
            }

    def test_the_whole_job(self, sets: list[Tensor]) -> None:
        found = ensemble_on_gpu.whole_job(sets, "reference")
        assert found["seconds"] >= found["training_seconds"] > 0
        assert 0 <= found["models_that_found_the_dimension"] <= 3

    def test_a_job_that_is_wrong_has_no_figures(self, sets: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
        trained = [SimpleNamespace(diverged_at=at) for at in (None, 7, None)]
        monkeypatch.setattr(mc, "train_ensemble", lambda *_, **__: trained)
        found = ensemble_on_gpu.whole_job(sets)
        assert found == {"models": 3, "hidden": 8, "steps": 30, "note": "wrong: 1 models diverged"}

    @NEEDS_COMPILER
    @pytest.mark.usefixtures("on_host")
    def test_all_of_it(self, sets: list[Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out.json"
        ensemble_on_gpu.report(sets, {"device": "none"}, out, 1e9)
        found = json.loads(out.read_text(encoding="utf-8"))
        assert found["device"] == "none"
        assert [(row["contender"], row["models"], row["hidden"]) for row in found["rows"]] == [*ensemble_on_gpu.plan()]
        assert all((row["microseconds"] is None) == (row["contender"] == "compiled") for row in found["rows"])
        assert len(found["ratios"]) == 3
        assert found["job"]["note"].startswith("failed: RuntimeError")  # no CUDA kernels for tensors of a processor
        printed = capsys.readouterr().out
        assert printed.count(" us a step ") == 8
        assert printed.count("left out: ") == 1
