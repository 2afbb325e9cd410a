"""Every op on a GPU: CUDA and Triton against eager PyTorch and torch.compile, forward and backward.

Correctness first: no time is given for a result that, on the very tensors that are timed, is far from the definition in
float64 on the same noise. Large tensors exceed the L2 cache, their buffers take turns, and what counts is the share of
the bandwidth that a plain copy reaches on the same device. All are timed inside a CUDA graph: without one, small calls
would measure the launch, and large ones of a Python library might.

    python -m benchmarks.ops_on_gpu [--seconds N] [--out FILE.json]
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from manifold_core.kernels.random import standard_normal
from torch import Tensor

from manifold_core.bench.comparison import failed, left_out
from manifold_core.storage.files import write_json
from manifold_core.training.graph import cuda_graph

from .ops import OPS, Op, Problem, elbo_backward, problem
from .results_files import asked, or_none

ALLOWED = {torch.float32: 2e-5, torch.bfloat16: 2e-2}  # of the largest number of a result: a sanity check, not a proof
NAMESPACES = {"cuda": "manifold_core", "triton": "manifold_core_triton"}
REPEATS = 11
REPEAT_MS = 15.0  # about how long a repeat may take
COPIES = 20  # of a small call in a CUDA graph
COMPILE_SECONDS = 20.0  # torch.compile may need them to try its variants; with less time left it is not begun


def widened(p: Problem) -> Problem:
    """The same numbers in float64."""
    return Problem(
        tuple(t.detach().double().requires_grad_() for t in p.differentiable),
        tuple(t.double() for t in p.fixed),
        tuple(t.double() for t in p.incoming),
        p.seed,
    )


def by_operators(op: Op, run: Any, p: Problem) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Outputs and gradients, by the operators of a namespace."""
    outputs = op.forward(run, p)
    return outputs, op.backward(run, p, outputs)


def by_autograd(function: Callable[..., tuple[Tensor, ...]], p: Problem, noise: Tensor | None = None) -> Any:
    """Outputs and gradients of an op written by hand."""
    outputs = function(p, noise)
    return outputs, torch.autograd.grad(outputs, p.differentiable, p.incoming)


def largest_error(op: Op, run: Any, p: Problem) -> float:
    """The largest difference from float64, relative to the largest number of each result."""
    with torch.no_grad():
        outputs, grads = by_operators(op, run, p)
    noise = standard_normal(p.seed, *p.differentiable[0].shape)
    exact_outputs, exact_grads = by_autograd(op.by_hand, widened(p), noise)
    worst = 0.0
    for found, expected in zip((*outputs[: len(exact_outputs)], *grads), (*exact_outputs, *exact_grads), strict=True):
        difference = ((found.double() - expected).abs().max() / expected.abs().max()).item()
        worst = max(worst, math.inf if math.isnan(difference) else difference)
    return worst


def moved(p: Problem, results: Sequence[Tensor], *, incoming: bool) -> int:
    """Bytes that a kernel has to move: each argument read once, each result written once."""
    arguments = (*p.differentiable, *p.fixed, *(p.incoming if incoming else ()))
    return sum(t.numel() * t.element_size() for t in (*arguments, *results))


def microseconds(calls: Sequence[Callable[[], Any]]) -> float:
    """The median time of a call on the device; the calls take turns."""

    def timed(count: int) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        turns = itertools.cycle(calls)
        begin.record()
        for _ in range(count):
            next(turns)()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / count

    timed(2 * len(calls))
    count = max(len(calls), min(2000, int(REPEAT_MS / max(timed(len(calls)), 1e-4))))
    return 1e3 * statistics.median(timed(count) for _ in range(REPEATS))


def in_a_graph(calls: Sequence[Callable[[], Any]]) -> float:
    """The time of a call among others of its kind, which take turns, in one CUDA graph, in microseconds."""
    copies = COPIES if len(calls) == 1 else 2 * len(calls)

    def in_turn() -> None:
        for call, _ in zip(itertools.cycle(calls), range(copies), strict=False):
            call()

    return microseconds([cuda_graph(in_turn)]) / copies


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy reads and writes, on 1 GiB."""
    pairs = [tuple(torch.zeros(2**28, device=device) for _ in range(2)) for _ in range(2)]
    return 2 * pairs[0][0].nbytes / (1e-6 * microseconds([partial(a.copy_, b) for a, b in pairs]))


class Row(NamedTuple):
    """One measurement."""

    op: str
    shape: tuple[int, int]
    dtype: str
    backend: str
    direction: str  # forward, backward, or both
    microseconds: float  # NaN: see the note
    share_of_copy: float | None = None  # of the bandwidth of a copy
    note: str = ""

    def line(self) -> str:
        share = "" if self.share_of_copy is None else f"{self.share_of_copy:5.0%} of copy"
        shape = "x".join(map(str, self.shape))
        where = f"{self.op:42} {shape:>13} {self.dtype:9} {self.backend:8} {self.direction:9}"
        return f"{where} {self.microseconds:10.2f} us {share} {self.note}"


def of_operators(op: Op, run: Any, problems: Sequence[Problem], copy: float) -> Iterator[tuple[str, float, float]]:
    """Direction, microseconds and share of a copy's bandwidth, on large problems in turn."""
    with torch.no_grad():
        outputs, grads = by_operators(op, run, problems[0])
        forward = [partial(op.forward, run, p) for p in problems]
        size = moved(problems[0], outputs, incoming=False)
        time_us = in_a_graph(forward)
        yield "forward", time_us, size / (1e-6 * time_us) / copy
        if op.backward is elbo_backward:  # which moves nothing
            time_us = in_a_graph([partial(by_operators, op, run, p) for p in problems])
            yield "both", time_us, size / (1e-6 * time_us) / copy
            return
        saved = [op.forward(run, p) for p in problems]
        back_size = moved(problems[0], grads, incoming=True)
        time_us = in_a_graph([partial(op.backward, run, p, o) for p, o in zip(problems, saved, strict=True)])
        yield "backward", time_us, back_size / (1e-6 * time_us) / copy
        time_us = in_a_graph([partial(by_operators, op, run, p) for p in problems])
        yield "both", time_us, (size + back_size) / (1e-6 * time_us) / copy


def measured(op: Op, backend: str, problems: Sequence[Problem], copy: float, blank: Row) -> Iterator[Row]:
    """The rows of one backend. If there is more than one problem, they are large, and each direction is timed."""
    large = len(problems) > 1
    if backend in NAMESPACES:
        run = getattr(torch.ops, NAMESPACES[backend])
        if large:
            for direction, time_us, share in of_operators(op, run, problems, copy):
                yield blank._replace(direction=direction, microseconds=time_us, share_of_copy=share)
            return

        def call(p: Problem) -> Any:
            with torch.no_grad():
                return by_operators(op, run, p)
    else:
        function = op.by_hand
        if backend == "compile":
            torch._dynamo.reset()
            function = torch.compile(op.tuned or op.by_hand, mode="max-autotune-no-cudagraphs", dynamic=False)

        def call(p: Problem) -> Any:
            return by_autograd(function, p)

    yield blank._replace(microseconds=in_a_graph([partial(call, p) for p in problems]))


def obstacle(op: Op, backend: str, dtype: torch.dtype, p: Problem, seconds_left: float) -> str:
    """Why a backend is not timed on this problem; empty if it is."""
    if note := left_out(seconds_left, COMPILE_SECONDS if backend == "compile" else 0):
        return note
    if backend in NAMESPACES:
        error = largest_error(op, getattr(torch.ops, NAMESPACES[backend]), p)
        if not error <= ALLOWED[dtype]:
            return f"wrong: {error:.2g} from float64"
    return ""


def plan() -> Iterator[tuple[Op, tuple[int, int], torch.dtype, tuple[str, ...]]]:
    """What to measure, what matters most first. Compiling takes longest: it comes last, with one small shape per op."""
    both = (*NAMESPACES, "eager")
    large = [(op, shape) for op in OPS.values() for shape in op.large]
    small = [(op, shape) for op in OPS.values() for shape in op.small]
    for sized in large + small:
        yield *sized, torch.float32, both
    for sized in large:
        yield *sized, torch.bfloat16, both
    for sized in large + [(op, op.small[-1]) for op in OPS.values()]:
        yield *sized, torch.float32, ("compile",)


def measure(device: torch.device, copy: float, end: float) -> Iterator[Row]:
    """All rows. A note says what there was no time for before ``end``, by time.monotonic(), and what failed."""
    for op, shape, dtype, backends in plan():
        problems: list[Problem] = []
        for backend in backends:
            blank = Row(op.name, shape, str(dtype).removeprefix("torch."), backend, "both", math.nan)
            try:
                copies = 2 if shape in op.large else 1
                problems = problems or [problem(op, *shape, dtype, device) for _ in range(copies)]
                note = obstacle(op, backend, dtype, problems[0], end - time.monotonic())
                yield from [blank._replace(note=note)] if note else list(measured(op, backend, problems, copy, blank))
            except Exception as failure:
                yield blank._replace(note=failed(failure))
            torch.cuda.empty_cache()


def ratios(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """How many times faster each op is than eager and compiled PyTorch, forward and backward together."""
    found = {(r.op, r.shape, r.dtype, r.backend): r.microseconds for r in rows if r.direction == "both"}
    answer = []
    for (op, shape, dtype, backend), ours in found.items():
        if backend in NAMESPACES and not math.isnan(ours):
            against = {other: found.get((op, shape, dtype, other), math.nan) for other in ("eager", "compile")}
            faster = {other: round(theirs / ours, 2) for other, theirs in against.items() if not math.isnan(theirs)}
            answer.append({"op": op, "shape": list(shape), "dtype": dtype, "backend": backend, "faster_than": faster})
    return answer


def main() -> None:
    where, out, end = asked("ops", __doc__, 200)
    device = torch.device("cuda")
    copy = copy_bandwidth(device)
    print(f"a copy moves {copy / 1e9:.0f} GB/s")
    rows: list[Row] = []
    for row in measure(device, copy, end):
        rows.append(row)
        print(row.line(), flush=True)
        results = {
            **where,
            "copy_gb_s": round(copy / 1e9),
            "rows": [r._asdict() | {"microseconds": or_none(r.microseconds)} for r in rows],
            "ratios": ratios(rows),
        }
        write_json(out, results)  # each time: the next may never end
    for ratio in ratios(rows):
        print(ratio)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
