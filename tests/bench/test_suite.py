import itertools
import json
import math
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from instruction_sets import NEEDS_COMPILED
from manifold_core.kernels.rsample_kl import reference
from traffic import bytes_of, calls_of

import manifold_core as mc
from manifold_core import InputError, cli
from manifold_core.bench import cholesky, elbo, ensemble, roofline, suite, table
from manifold_core.bench.comparison import Call, Comparison, Problem, in_float64, largest_difference, timed
from manifold_core.bench.machine import COMPARISON as MACHINE
from manifold_core.bench.suite import Row

SLEEP = Comparison(
    name="sleep",
    title="Nothing, in two ways",
    axes="n",
    goals={(2,): 3.0, (5000,): math.nan},
    contenders={name: lambda n: Call(lambda: n) for name in ("theirs", "manifold_core", "other", "torch.compile")},
    error=lambda n: 1e-7,
    allowed=1e-6,
    bytes_moved=lambda n: 1000 * n,
    operations=lambda n: 4000 * n,
)
TIMES = {"theirs": 20.0, "manifold_core": 4.0, "other": 10.0, "torch.compile": 2.0, "copy": 1e4, "matrix product": 1e5}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The contenders that were begun; every process gives the time of its contender at once."""
    begun: list[str] = []

    def in_own_process(comparison: Comparison, contender: str, _: float) -> list[Any]:
        begun.append(contender)
        t = TIMES[contender]
        return [(t, t, t)] * len(comparison.sizes)

    monkeypatch.setattr(suite, "_in_own_process", in_own_process)
    monkeypatch.setitem(suite.COMPARISONS, "sleep", SLEEP)
    return begun


class TestRight:
    @pytest.mark.parametrize("name", ["elbo", "cholesky", "ensemble", "step"])
    def test_ours_is_right(self, name: str) -> None:
        comparison = suite.COMPARISONS[name]
        size = comparison.sizes[0]
        assert comparison.error(*size) < comparison.allowed

    @NEEDS_COMPILED
    @pytest.mark.parametrize(("name", "size"), [("elbo", (7, 5, 3)), ("cholesky", (7, 3))])
    def test_the_bytes_counted_are_those_of_each_matrix_that_our_ops_read_or_write(
        self, name: str, size: tuple[int, ...]
    ) -> None:
        comparison = suite.COMPARISONS[name]
        calls = calls_of(comparison.contenders["manifold_core"](*size).run)
        tensors = [t for call in calls if call.ours for t in (*call.read, *call.written)]
        matrices = {t.data_ptr(): t for t in tensors if t.dim() == 2}
        assert comparison.bytes_moved(*size) == bytes_of(matrices.values())

    @pytest.mark.parametrize(
        ("of", "name", "size"),
        [
            *((elbo, name, (64, 20, 5)) for name in ("eager", "distributions")),
            *((cholesky, name, (64, 8)) for name in ("eager", "tuned", "distributions")),
        ],
    )
    def test_peers_compute_the_same(
        self, monkeypatch: pytest.MonkeyPatch, of: Any, name: str, size: tuple[int, ...]
    ) -> None:
        """On the noise of the definition, in float64: values and gradients."""
        p = in_float64(of.problem(*size))
        zeros = torch.zeros(size[0], size[-1], dtype=torch.float64)
        noise = reference.rsample_kl(zeros, zeros, None, None, None, torch.tensor(7))[0]
        monkeypatch.setattr(torch, "randn_like", lambda _: noise)
        for module in (torch.distributions.normal, torch.distributions.multivariate_normal):
            monkeypatch.setattr(module, "_standard_normal", lambda *_, **__: noise)
        peer = getattr(of, name)
        monkeypatch.setattr(torch, "zeros", partial(torch.zeros, dtype=torch.float64))  # of the peers' priors
        monkeypatch.setattr(torch, "ones", partial(torch.ones, dtype=torch.float64))
        monkeypatch.setattr(torch, "eye", partial(torch.eye, dtype=torch.float64))
        assert largest_difference(peer(p), of.exact(p)) < 1e-14
        assert largest_difference(of.gradients(peer, p), of.gradients(of.exact, p)) < 1e-14

    @pytest.mark.parametrize("of", [elbo, cholesky])
    def test_a_value_that_is_wrong_by_a_constant_is_seen(self, monkeypatch: pytest.MonkeyPatch, of: Any) -> None:
        right = of.fused
        monkeypatch.setattr(of, "fused", lambda p, seed=None: tuple(value + 1 for value in right(p, seed)))
        assert of.error(*of.COMPARISON.sizes[0]) > of.COMPARISON.allowed

    @pytest.mark.parametrize("of", [elbo, cholesky])
    def test_a_gradient_that_is_wrong_is_seen(self, monkeypatch: pytest.MonkeyPatch, of: Any) -> None:
        """Beside values that are right."""
        right = of.fused

        def wrong(p: Problem, seed: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
            nothing = p["mu"].sum() - p["mu"].sum().detach()
            first, second = right(p, seed)
            return first + nothing, second

        monkeypatch.setattr(of, "fused", wrong)
        assert of.error(*of.COMPARISON.sizes[0]) > of.COMPARISON.allowed

    @pytest.mark.parametrize("beta", [1.001, 1e300])  # wrong, and infinite
    def test_a_module_that_is_wrong_is_seen(self, monkeypatch: pytest.MonkeyPatch, beta: float) -> None:
        """Beside ops that are right."""
        monkeypatch.setattr(elbo, "GaussianELBO", partial(mc.GaussianELBO, beta=beta))
        assert not elbo.error(*elbo.COMPARISON.sizes[0]) <= elbo.COMPARISON.allowed

    @pytest.mark.parametrize("which", [0, 1], ids=["diagonal", "full"])
    def test_weights_of_an_engine_that_goes_wrong_are_seen(self, monkeypatch: pytest.MonkeyPatch, which: int) -> None:
        right = ensemble.train_ensemble

        def wrong(*given: Any, backend: str, **options: Any) -> Any:
            trained = right(*given, backend=backend, **options)
            if backend == "cpu":
                next(trained[which].model.parameters()).data[0, 0] += 1e-3
            return trained

        monkeypatch.setattr(ensemble, "train_ensemble", wrong)
        assert ensemble.error(16, 64) > ensemble.COMPARISON.allowed

    def test_a_contender_has_the_gradients_of_its_own_covariance(self) -> None:
        """All of the triangle, but for the diagonal one's."""
        for name in ("eager", "tuned", "torch.distributions", "manifold_core", "diagonal"):
            found: Any = cholesky.COMPARISON.contenders[name](8, 4).run()
            assert [tuple(grad.shape) for grad in found] == [(8, 4), (8, 4 if name == "diagonal" else 10)], name

    @pytest.mark.parametrize("comparison", suite.growth.COMPARISONS, ids=lambda c: c.name)
    def test_what_grows_is_right_and_runs(self, comparison: Comparison) -> None:
        size = comparison.sizes[0]
        assert comparison.error(*size) < comparison.allowed
        assert comparison.bytes_moved(*size) > 0 < comparison.operations(*size)
        threads = torch.get_num_threads()
        try:
            for name in (*comparison.ours, *comparison.peers):
                comparison.contenders[name](*size).run()
        finally:
            torch.set_num_threads(threads)

    def test_a_wrong_result_gets_no_time(self, measured: list[str]) -> None:
        for error in (1e-5, math.nan):
            wrong = replace(SLEEP, error=lambda n, error=error: error if n == 2 else 0.0)
            first, second = suite.measure([wrong], 1, 100)["rows"]
            assert first.rounds == {}
            assert all(note.startswith("wrong: ") for note in first.notes.values())
            assert second.microseconds("manifold_core") == 4

    def test_where_all_is_wrong_nothing_is_begun(self, measured: list[str]) -> None:
        def fails(n: int) -> float:
            raise RuntimeError("no such operator")

        rows = suite.measure([replace(SLEEP, error=fails)], 1, 100)["rows"]
        assert measured == []
        assert "no such operator" in rows[0].notes["manifold_core"]


class TestMeasure:
    def test_what_matters_most_comes_first(self, measured: list[str]) -> None:
        suite.measure([MACHINE, SLEEP], 2, 100)
        one = ["copy", "matrix product", "theirs", "manifold_core", "other", "torch.compile"]
        assert measured == [*one, *one]

    def test_a_peer_that_is_missing_has_a_reason(self) -> None:
        def prepare(n: int) -> Call:
            raise ImportError("No module named 'peer'")

        contenders = {"peer": prepare, "broken": lambda n: Call(lambda: 1 / 0)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(suite.COMPARISONS, "sleep", replace(SLEEP, contenders=contenders))
            assert list(suite._contender("sleep", "peer", 0)) == ["not installed: No module named 'peer'"] * 2
            assert next(iter(suite._contender("sleep", "broken", 0))).startswith("failed: ZeroDivisionError")

    def test_a_process_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It imports nothing from the current folder."""
        monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "random.py").write_text("raise SystemExit(77)")
        (found,) = suite._in_own_process(MACHINE, "matrix product", 600)
        low, median, high = found
        assert 0 < low <= median <= high

    @pytest.mark.parametrize(("contender", "left"), [("eager", -1.0), ("torch.compile", 14.0)])
    def test_time_that_is_not_left(self, contender: str, left: float) -> None:
        found = suite._in_own_process(suite.COMPARISONS["step"], contender, left)
        assert found == [f"left out: {max(left, 0):.0f} s left"] * 2

    def test_rounds_for_which_there_is_no_time_are_named(self, measured: list[str]) -> None:
        said: list[str] = []
        suite.measure([SLEEP], 9, 0.0, said.append)
        assert len(measured) == len(SLEEP.contenders)  # each in the first round, where it says itself what is left out
        assert said[-1] == "out of time after 1 of 9 rounds"

    def test_what_was_found_before_the_end_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def late(*_: Any, **__: Any) -> None:
            raise subprocess.TimeoutExpired("", 20, output=b"[peer]\nfound: [1.0, 2.0, 3.0]\n0%]\nfound: [4.0, 5")

        monkeypatch.setattr(subprocess, "run", late)
        found = suite._in_own_process(SLEEP, "theirs", 20)
        assert found == [(1, 2, 3), "left out: not done after 20 s"]

    def test_a_process_that_fails_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        done = subprocess.CompletedProcess("", 1, stdout="", stderr="Traceback\nMemoryError: all of it")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
        assert suite._in_own_process(SLEEP, "theirs", 20) == ["failed: MemoryError: all of it"] * 2

    def test_times_are_of_a_step(self) -> None:
        calls: list[int] = []
        low, median, high = timed(Call(lambda: calls.append(0), steps=10**9), 0)
        assert 0 < low <= median <= high < 1e-3
        assert len(calls) == 8

    def test_a_slow_call_does_not_move_the_median(self, monkeypatch: pytest.MonkeyPatch) -> None:
        of_calls = [time for seconds in (1.0, 9.0, 1.0, 1.0) for time in (0.0, seconds)]
        clock = itertools.accumulate([0.0, *of_calls, 0.0])
        monkeypatch.setattr("time.perf_counter", lambda: next(clock))
        assert timed(Call(lambda: None), 0)[1] == 1e6

    @pytest.mark.parametrize(("models", "batch", "steps"), [(1, 50_000, 4), (3, 50_000, 12), (3, 100_000, 6)])
    def test_a_call_of_the_engine_counts_the_steps_of_all_models(self, models: int, batch: int, steps: int) -> None:
        """So its time is of a step of one."""
        assert ensemble.engine(models, 1)(16, batch).steps == steps

    def test_models_side_by_side_are_as_many_as_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (grown,) = (c for c in suite.growth.COMPARISONS if c.name == "models")
        assert [grown.contenders[grown.ours[0]](models).steps for models in (1, 3)] == [200, 600]
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        assert ensemble.engine(None, None)(16, 100_000).steps == 6  # a model a thread

    def test_the_machine_comes_first_and_names_are_checked(self) -> None:
        assert [c.name for c in suite.chosen([])] == ["machine", "elbo", "cholesky", "ensemble", "step"]
        assert [c.name for c in suite.chosen(["step", "step"])] == ["machine", "step"]
        grown = ["machine", "elbo", "batch", "features", "latents", "triangle", "models", "threads"]
        assert [c.name for c in suite.chosen(["elbo", "growth", "models"])] == grown
        assert suite.chosen(["all"]) == [*suite.COMPARISONS.values()]
        with pytest.raises(InputError, match=r"one of elbo, cholesky, .*, growth, all, got 'elbow'"):
            suite.chosen(["elbow"])


class TestRow:
    row = Row(
        "sleep", (2,), 0.0, 0, 0, {"a": [(1, 8, 9), (1, 6, 9), (1, 40, 50)], "b": [(1, 2, 3), (1, 3, 4), (1, 4, 9)]}
    )

    def test_medians_and_ratios_are_of_rounds(self) -> None:
        assert self.row.microseconds("a") == 8
        assert self.row.microseconds("c") is None
        assert self.row.ratio("a", "b") == (3, 4, 7)  # of 4, 2, 10
        assert self.row.ratio("a", "c") is None

    def test_a_round_that_gave_nothing_has_no_ratio(self) -> None:
        """b fails in the second of three rounds: 8 / 2 and 6 / 3 are left."""
        found = {"a": [(1, 8, 9), (1, 100, 101), (1, 6, 7)], "b": [(1, 2, 3)]}
        row = replace(self.row, rounds=found)
        for result in ("failed", (1.0, 3.0, 4.0)):
            suite._add([row], "b", [result])
        assert row.ratio("a", "b") == (2.5, 3.0, 3.5)
        assert row.microseconds("b") == 2.5
        assert "b" not in row.notes

    def test_one_round(self) -> None:
        row = replace(self.row, rounds={"a": [(1, 8, 9)], "b": [(1, 2, 3)]})
        assert row.ratio("a", "b") == (4, 4, 4)


class TestOutput:
    def test_json_comes_back(self, measured: list[str]) -> None:
        rows = suite.measure([MACHINE, SLEEP], 2, 100)
        rows["rows"][1].error = math.nan
        found = suite.from_json(suite.to_json(rows))
        assert math.isnan(found["rows"][1].error)
        found["rows"][1].error = rows["rows"][1].error = 0.0
        assert found == rows
        json.loads(suite.to_json(rows), parse_constant=lambda name: pytest.fail(name))

    def test_the_table(self, measured: list[str]) -> None:
        results = suite.measure([MACHINE, SLEEP], 1, 100)
        results["rows"][2].notes["other"] = results["rows"][1].notes["other"] = "not installed"
        results["provenance"] |= {"load": 0.0}
        lines = table.text(results).splitlines()
        assert lines[1] == "a copy moves 26.8 GB/s, a matrix product makes 172 GFLOP/s"
        head, first, second, note = lines[4:8]
        names = ["n", "manifold_core", "GB/s", "of copy", "theirs", "× theirs", "goal", "× other", "× torch.compile"]
        assert [cell for cell in head.split("  ") if cell] == [*names[:1], *(f" {n}".strip() for n in names[1:])]
        assert first.split() == ["2", "4", "µs", "0.5", "2%", "20", "µs", "5.0", "3", "2.5", "0.5"]
        assert second.split() == ["5,000", "4", "µs", "1250.0", "4657%", "20", "µs", "5.0", "–", "2.5", "0.5"]
        assert note == "other: not installed"

    def test_a_busy_machine_is_named(self, measured: list[str]) -> None:
        results = suite.measure([MACHINE, SLEEP], 1, 100)
        for load, said in ((0.1, False), (100.0, True)):
            results["provenance"]["load"] = load
            assert ("the figures are rough" in table.text(results)) == said

    def test_without_goals_there_is_no_column_of_them(self) -> None:
        row = Row("step", (128,), 0.0, 1, 1, {"eager": [(2, 2, 2)], "manifold_core": [(1, 1, 1)]})
        head, _, cells = table.markdown([row], (math.nan, math.nan)).splitlines()
        assert "goal" not in head
        assert head.count("|") == cells.count("|")

    def test_a_peer_is_held_against_what_does_the_same(self) -> None:
        times = {"eager": 8.0, "diagonal": 4.0, "full covariance": 5.0, "eager, full": 30.0}
        row = Row("images", (128,), 0.0, 1, 1, {name: [(t, t, t)] for name, t in times.items()})
        head, _, cells = (line.split(" | ") for line in table.markdown([row], (math.nan, math.nan)).splitlines())
        shown = dict(zip(head, cells, strict=True))
        assert (shown["× eager"], shown["× eager, full"]) == ("2.0", "6.0")

    def test_where_products_take_the_time_the_share_is_of_a_product(self) -> None:
        row = Row("step", (128,), 0.0, 1, 30_000, {"eager": [(2, 2, 2)], "manifold_core": [(1, 1, 1)]})
        *_, cells = table.markdown([row], (1e9, 4e10)).splitlines()
        assert cells.startswith("| 128 | 1 µs | – | 30 | 75% | 2 µs | 2.0 |")

    def test_the_roofline_has_operations_a_second_over_operations_a_byte(
        self, measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        axes = pytest.importorskip("matplotlib.axes", reason="pictures need matplotlib, of the extra 'experiments'")
        monkeypatch.setitem(roofline.MARKERS, "sleep", "o")
        drawn: list[tuple[Any, ...]] = []
        plot = axes.Axes.plot
        monkeypatch.setattr(axes.Axes, "plot", lambda *given, **more: drawn.append(given[1:]) or plot(*given, **more))
        rows = suite.measure([MACHINE, replace(SLEEP, goals={(2,): 3.0})], 1, 100)["rows"]
        roofline.plot_roofline(tmp_path / "roofline.png", rows)
        # 8,000 operations and 2,000 bytes in 4 µs, of the yardstick in 20.
        assert [given[:2] for given in drawn[-2:]] == [(4.0, 2.0), (4.0, 0.4)]

    def test_without_figures_there_is_a_table(self) -> None:
        rows = [Row("step", (128,), math.nan, 1, 1, notes={"eager": "failed"})]
        assert "– | –" in table.markdown(rows, table.machine_speeds(rows))


class TestCommand:
    def test_json_on_standard_output_and_a_picture(
        self, measured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(suite, "chosen", lambda names: [MACHINE, SLEEP])
        monkeypatch.setitem(roofline.MARKERS, "sleep", "o")
        path = tmp_path / "roofline.png"
        assert cli.main(["bench", "--json", "--plot", str(path)]) == 0
        said = capsys.readouterr()
        assert [row["comparison"] for row in json.loads(said.out)["rows"]] == ["machine", "sleep", "sleep"]
        assert "round 1 of 1: sleep, theirs\n" in said.err
        assert path.read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--rounds", "0"], "rounds must be at least 1, got 0"),
            (["--seconds", "nan"], "seconds must be positive and finite, got nan"),
            (["--seconds", "inf"], "seconds must be positive and finite, got inf"),
            (["elbow"], "a comparison is one of elbo, "),
            (["--plot", "/no/such/folder/a.png"], "--plot"),
            (["--plot", "/"], "--plot must be a file to write, got '/', which is a folder"),
            (["--plot", "/proc/a.png"], "--plot must be a folder that can be written to, got '/proc'"),
        ],
    )
    def test_bad_options(self, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["bench", *options]) == 2
        assert message in capsys.readouterr().err
