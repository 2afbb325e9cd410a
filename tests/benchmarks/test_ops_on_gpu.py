"""The GPU benchmark, as far as a processor can follow it: the same operators, run on the host."""

import itertools
import math
import shutil

import pytest
import torch
from cuda_on_host.build import NAMESPACE, load

from benchmarks import ops_on_gpu
from benchmarks.ops import OPS, Op, problem

HERE = torch.device("cpu")
NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


@NEEDS_COMPILER
@pytest.mark.parametrize("dtype", ops_on_gpu.ALLOWED, ids=str)
@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_what_is_timed_is_right(op: Op, dtype: torch.dtype) -> None:
    load()
    run = getattr(torch.ops, NAMESPACE)
    assert ops_on_gpu.largest_error(op, run, problem(op, 30, 12, dtype, HERE)) < ops_on_gpu.ALLOWED[dtype]


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_by_hand_has_outputs_for_all_incoming_gradients(op: Op) -> None:
    for dtype, by_hand in itertools.product(ops_on_gpu.ALLOWED, (op.by_hand, op.tuned or op.by_hand)):
        drawn = problem(op, 5, 4, dtype, HERE)
        outputs, grads = ops_on_gpu.by_autograd(by_hand, drawn)
        assert [(o.shape, o.dtype) for o in outputs] == [(g.shape, g.dtype) for g in drawn.incoming]
        assert [g.shape for g in grads] == [t.shape for t in drawn.differentiable]


def test_a_wrong_result_is_found() -> None:
    class Zeros:
        @staticmethod
        def gaussian_nll(x_hat: torch.Tensor, *_: object) -> tuple[torch.Tensor, ...]:
            return x_hat.new_zeros(len(x_hat)), x_hat.new_zeros(len(x_hat))

        @staticmethod
        def gaussian_nll_backward(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return torch.zeros_like(inputs[2]), torch.zeros_like(inputs[4])

    op = OPS["gaussian_nll"]
    assert ops_on_gpu.largest_error(op, Zeros, problem(op, 5, 4, torch.float32, HERE)) == 1


def test_a_wrong_gradient_is_found_beside_right_values() -> None:
    class NoGradients:
        gaussian_nll = torch.ops.manifold_core.gaussian_nll

        @staticmethod
        def gaussian_nll_backward(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return torch.zeros_like(inputs[2]), torch.zeros_like(inputs[4])

    op = OPS["gaussian_nll"]
    assert ops_on_gpu.largest_error(op, NoGradients, problem(op, 5, 4, torch.float32, HERE)) == 1


@pytest.mark.parametrize(("calls", "copies"), [(1, 20), (2, 4)])
def test_a_time_is_of_one_of_the_calls_in_a_graph(monkeypatch: pytest.MonkeyPatch, calls: int, copies: int) -> None:
    made: list[int] = []
    monkeypatch.setattr(ops_on_gpu, "cuda_graph", lambda run: run)
    monkeypatch.setattr(ops_on_gpu, "microseconds", lambda graphs: graphs[0]() or 40.0)
    assert ops_on_gpu.in_a_graph([lambda place=place: made.append(place) for place in range(calls)]) == 40 / copies
    assert made == copies // calls * [*range(calls)]


def test_bytes_of_both_directions_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_on_gpu, "in_a_graph", lambda _: 5.0)
    op = OPS["rsample_kl"]
    drawn = [problem(op, 6, 4, torch.float32, HERE)]
    shares = {name: share for name, _, share in ops_on_gpu.of_operators(op, torch.ops.manifold_core, drawn, 1e6)}
    assert shares["both"] == pytest.approx(shares["forward"] + shares["backward"])


def test_what_is_wrong_or_takes_too_long_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    op = OPS["gaussian_nll"]
    drawn = problem(op, 5, 4, torch.float32, HERE)
    monkeypatch.setattr(ops_on_gpu, "largest_error", lambda *_: 1e-3)
    assert ops_on_gpu.obstacle(op, "cuda", torch.float32, drawn, 100) == "wrong: 0.001 from float64"
    assert ops_on_gpu.obstacle(op, "cuda", torch.bfloat16, drawn, 100) == ""
    monkeypatch.setattr(ops_on_gpu, "largest_error", lambda *_: math.nan)
    assert ops_on_gpu.obstacle(op, "triton", torch.float32, drawn, 100).startswith("wrong")
    assert ops_on_gpu.obstacle(op, "eager", torch.float32, drawn, 1) == ""
    assert ops_on_gpu.obstacle(op, "eager", torch.float32, drawn, -1) == "left out: 0 s left"
    assert ops_on_gpu.obstacle(op, "compile", torch.float32, drawn, 19) == "left out: 19 s left"
    assert ops_on_gpu.obstacle(op, "compile", torch.float32, drawn, 100) == ""


@NEEDS_COMPILER
def test_a_failure_costs_its_own_figures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    load()
    ops = {name: op._replace(large=((6, 4), (7, 3)), small=((5, 4),)) for name, op in OPS.items()}
    monkeypatch.setattr(ops_on_gpu, "OPS", ops)
    monkeypatch.setattr(ops_on_gpu, "NAMESPACES", {"cuda": "there_is_no_such_library", "triton": NAMESPACE})
    monkeypatch.setattr(ops_on_gpu, "in_a_graph", lambda calls: float(len([call() for call in calls])))
    monkeypatch.setattr(ops_on_gpu, "COMPILE_SECONDS", math.inf)
    rows = list(ops_on_gpu.measure(HERE, 1.0, 1e9))
    for backend, note in (("cuda", "failed: "), ("triton", ""), ("eager", ""), ("compile", "left out: ")):
        found = [row for row in rows if row.backend == backend]
        assert {(row.op, row.shape) for row in found} == {
            (name, shape) for name in ops for shape in ((6, 4), (7, 3), (5, 4))
        }
        assert all(row.note.startswith(note) and math.isnan(row.microseconds) == bool(note) for row in found)


def test_bytes_are_counted_once() -> None:
    drawn = problem(OPS["rsample_kl"], 6, 4, torch.bfloat16, HERE)
    outputs = torch.empty(6, 4, dtype=torch.bfloat16), torch.empty(6)
    assert ops_on_gpu.moved(drawn, outputs, incoming=False) == 3 * 24 * 2 + 6 * 4
    assert ops_on_gpu.moved(drawn, outputs[:1] * 2, incoming=True) == 5 * 24 * 2 + 6 * 4


def test_ratios_leave_out_what_was_not_measured() -> None:
    def row(backend: str, time_us: float, direction: str = "both") -> ops_on_gpu.Row:
        return ops_on_gpu.Row("op", (2, 3), "float32", backend, direction, time_us, None)

    rows = [
        row("cuda", 2.0),
        row("cuda", 1.0, "forward"),
        row("triton", math.nan),
        row("eager", 8.0),
        row("compile", math.nan),
    ]
    expected = {"op": "op", "shape": [2, 3], "dtype": "float32", "backend": "cuda", "faster_than": {"eager": 4.0}}
    assert ops_on_gpu.ratios(rows) == [expected]
