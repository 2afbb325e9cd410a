"""Every op on a GPU: CUDA and Triton against eager PyTorch and torch.compile, forward and backward.

Right first: no time is given for a result that, on the very tensors that are timed, is far from the definition in
float64 on the same noise. Large tensors are past the L2 cache, their buffers take turns, and what counts is the share
of the bandwidth that a plain copy reaches on the same device. All are timed inside a CUDA graph: without one, small
calls would measure the launch, and large ones of a library in Python could.

    python -m benchmarks.gpu [--seconds N] [--out FILE.json]
"""

import argparse
import itertools
import json
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from manifold_core.kernels.random import standard_normal
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from manifold_core.files import write_json
from manifold_core.provenance import commit
from manifold_core.training.step import cuda_graph

ROOT = Path(__file__).resolve().parents[1]
SEED = 1234
ALLOWED = {torch.float32: 2e-5, torch.bfloat16: 2e-2}  # of the largest number of a result: a sanity check, no proof
NAMESPACES = {"cuda": "manifold_core", "triton": "manifold_core_triton"}
REPEATS = 11
REPEAT_MS = 15.0  # about how long a repeat may take
COPIES = 20  # of a small call in a CUDA graph
COMPILE_SECONDS = 20.0  # that torch.compile may take to try its variants; with less time left it is not begun


class Problem(NamedTuple):
    """The arguments of one call."""

    differentiable: tuple[Tensor, ...]
    fixed: tuple[Tensor, ...]
    incoming: tuple[Tensor, ...]  # gradients of the outputs
    seed: Tensor


class Op(NamedTuple):
    """One op: how to call its operators, and how one writes it by hand."""

    name: str
    # make(normal, rows, cols): the differentiable arguments and the others; normal(*shape) draws at random
    make: Callable[[Callable[..., Tensor], int, int], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
    forward: Callable[[Any, Problem], tuple[Tensor, ...]]
    backward: Callable[[Any, Problem, tuple[Tensor, ...]], tuple[Tensor, ...]]
    by_hand: Callable[[Problem, Tensor | None], tuple[Tensor, ...]]  # outputs that have gradients
    large: tuple[int, int]
    small: tuple[tuple[int, int], ...]


def _noise(like: Tensor, given: Tensor | None) -> Tensor:
    return torch.randn_like(like) if given is None else given


def _wide(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()


def _rsample_kl_by_hand(p: Problem, noise: Tensor | None) -> tuple[Tensor, ...]:
    mu, log_var = p.differentiable
    z = mu + torch.exp(0.5 * log_var) * _noise(mu, noise)
    l = _wide(log_var)
    return z, 0.5 * (_wide(mu).square() + l.exp() - l - 1).sum(dim=1)


def _conditional_by_hand(p: Problem, noise: Tensor | None) -> tuple[Tensor, ...]:
    mu, log_var, prior_mu, prior_log_var, gate = p.differentiable
    z = (mu + torch.exp(0.5 * log_var) * _noise(mu, noise)) * torch.sigmoid(gate)
    delta = _wide(log_var) - _wide(prior_log_var)
    scaled = (_wide(mu) - _wide(prior_mu)).square() * torch.exp(-_wide(prior_log_var))
    return z, 0.5 * (scaled + delta.exp() - delta - 1).sum(dim=1)


def _cholesky_by_hand(p: Problem, noise: Tensor | None) -> tuple[Tensor, ...]:
    mu, tril = p.differentiable
    rows, cols = mu.shape
    noise = _noise(mu, noise)
    below, at = torch.tril_indices(cols, cols, device=mu.device), torch.arange(cols, device=mu.device)
    t = tril[:, at * (at + 3) // 2]
    packed = torch.zeros(rows, cols * cols, dtype=tril.dtype, device=mu.device)
    lower = packed.index_copy(1, below[0] * cols + below[1], tril).view(rows, cols, cols).tril(-1)
    z = mu + (lower @ noise.unsqueeze(2)).squeeze(2) + t.exp() * noise
    squares = _wide(lower).square().sum(dim=2) + _wide(mu).square()
    return z, 0.5 * (squares + (2 * _wide(t)).exp() - 2 * _wide(t) - 1).sum(dim=1)


def _nll_by_hand(p: Problem, _: Tensor | None) -> tuple[Tensor, ...]:
    x_hat, log_gamma = p.differentiable[:2]
    (x,) = p.fixed
    constant = x.shape[1] * (math.log(2 * math.pi) + log_gamma)
    return (0.5 * ((_wide(x_hat) - _wide(x)).square().sum(dim=1) / log_gamma.exp() + constant),)


def _elbo_by_hand(p: Problem, _: Tensor | None) -> tuple[Tensor, ...]:
    return ((_nll_by_hand(p, None)[0] + p.differentiable[2]).mean(),)


def _nll(run: Any, p: Problem) -> tuple[Tensor, ...]:
    return run.gaussian_nll(p.differentiable[0], p.fixed[0], p.differentiable[1])


def _nll_backward(run: Any, p: Problem, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x_hat, log_gamma = p.differentiable
    return run.gaussian_nll_backward(p.incoming[0], None, x_hat, p.fixed[0], log_gamma, outputs[1])


def _elbo(run: Any, p: Problem) -> tuple[Tensor, ...]:
    x_hat, log_gamma, kl = p.differentiable
    return run.gaussian_elbo(x_hat, p.fixed[0], log_gamma, kl, 1.0, True)


def _elbo_backward(run: Any, p: Problem, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The gradients have been written in the forward pass, and the loss's own is 1: a kernel looks at it."""
    run.gaussian_elbo_scale(*outputs[3:], p.incoming[0])
    return *outputs[3:5], outputs[5].expand(p.differentiable[2].shape)


_CHOLESKY = Op(
    "rsample_kl_cholesky",
    lambda normal, b, k: ((normal(b, k), 0.1 * normal(b, k * (k + 1) // 2)), ()),
    lambda run, p: run.rsample_kl_cholesky(*p.differentiable, None, None, p.seed, 0, False, False)[:2],
    lambda run, p, _: run.rsample_kl_cholesky_backward(*p.incoming, *p.differentiable, None, None, p.seed, 0, False)[
        :2
    ],
    _cholesky_by_hand,
    (2**14, 128),
    ((512, 32), (512, 128)),
)

OPS = (
    Op(
        "rsample_kl",
        lambda normal, b, k: ((normal(b, k), normal(b, k)), ()),
        lambda run, p: run.rsample_kl(*p.differentiable, None, None, None, p.seed, 0, False, False)[:2],
        lambda run, p, _: run.rsample_kl_backward(
            *p.incoming, *p.differentiable, None, None, None, p.seed, 0, False, False
        )[:2],
        _rsample_kl_by_hand,
        (2**18, 256),
        ((128, 20), (512, 32), (4096, 64), (100_000, 20)),
    ),
    Op(
        "rsample_kl, prior and gate",
        lambda normal, b, k: (tuple(normal(b, k) for _ in range(5)), ()),
        lambda run, p: run.rsample_kl(*p.differentiable, p.seed, 0, False, False)[:2],
        lambda run, p, _: run.rsample_kl_backward(*p.incoming, *p.differentiable, p.seed, 0, True, True),
        _conditional_by_hand,
        (2**18, 256),
        ((512, 32),),
    ),
    _CHOLESKY,
    _CHOLESKY._replace(large=(2**18, 32), small=()),  # of the paper
    Op(
        "gaussian_nll",
        lambda normal, b, d: ((normal(b, d), normal().float()), (normal(b, d),)),
        _nll,
        _nll_backward,
        _nll_by_hand,
        (2**15, 2048),
        ((128, 20), (512, 784), (4096, 784)),
    ),
    Op(
        "gaussian_elbo, gradients written at once",
        lambda normal, b, d: ((normal(b, d), normal().float(), normal(b).float()), (normal(b, d),)),
        _elbo,
        _elbo_backward,
        _elbo_by_hand,
        (2**15, 2048),
        ((128, 20), (512, 784)),
    ),
)


def problem(op: Op, rows: int, cols: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """One call's arguments, drawn on the device, the same each time; of a mean, the incoming gradient is 1."""
    generator = torch.Generator(device).manual_seed(SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator).to(dtype)

    differentiable, fixed = op.make(normal, rows, cols)
    leaves = tuple(t.detach().requires_grad_() for t in differentiable)
    seed = torch.tensor(SEED, device=device)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):  # shapes alone: memory is measured as well
        shapes = [(out.shape, out.dtype) for out in op.by_hand(Problem(leaves, fixed, (), seed), None)]
    incoming = tuple(
        normal(*shape).to(of) if shape else torch.ones((), dtype=of, device=device) for shape, of in shapes
    )
    return Problem(leaves, fixed, incoming, seed)


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
    """Outputs and gradients, of an op written by hand."""
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
    """Bytes a second that a copy reads and writes, on 1 GiB."""
    pairs = [tuple(torch.zeros(2**28, device=device) for _ in range(2)) for _ in range(2)]
    return 2 * pairs[0][0].nbytes / (1e-6 * microseconds([lambda a=a, b=b: a.copy_(b) for a, b in pairs]))


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
    """Direction, microseconds and share of a copy's bandwidth, of large problems in turn."""
    with torch.no_grad():
        outputs, grads = by_operators(op, run, problems[0])
        forward = [lambda p=p: op.forward(run, p) for p in problems]
        size = moved(problems[0], outputs, incoming=False)
        time_us = in_a_graph(forward)
        yield "forward", time_us, size / (1e-6 * time_us) / copy
        if op.backward is _elbo_backward:  # which moves nothing
            time_us = in_a_graph([lambda p=p: by_operators(op, run, p) for p in problems])
            yield "both", time_us, size / (1e-6 * time_us) / copy
            return
        saved = [op.forward(run, p) for p in problems]
        back_size = moved(problems[0], grads, incoming=True)
        time_us = in_a_graph([lambda p=p, o=o: op.backward(run, p, o) for p, o in zip(problems, saved, strict=True)])
        yield "backward", time_us, back_size / (1e-6 * time_us) / copy
        time_us = in_a_graph([lambda p=p: by_operators(op, run, p) for p in problems])
        yield "both", time_us, (size + back_size) / (1e-6 * time_us) / copy


def measured(op: Op, backend: str, problems: Sequence[Problem], copy: float, blank: Row) -> Iterator[Row]:
    """The rows of one backend. More than one problem: they are large, and each direction has its time."""
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
            function = torch.compile(op.by_hand, mode="max-autotune-no-cudagraphs", dynamic=False)

        def call(p: Problem) -> Any:
            return by_autograd(function, p)

    yield blank._replace(microseconds=in_a_graph([lambda p=p: call(p) for p in problems]))


def obstacle(op: Op, backend: str, dtype: torch.dtype, p: Problem, seconds_left: float) -> str:
    """Why a backend is not timed on this problem; empty where it is."""
    if seconds_left < (COMPILE_SECONDS if backend == "compile" else 0):
        return f"left out: {max(seconds_left, 0):.0f} s left"
    if backend in NAMESPACES:
        error = largest_error(op, getattr(torch.ops, NAMESPACES[backend]), p)
        if not error <= ALLOWED[dtype]:
            return f"wrong: {error:.2g} from float64"
    return ""


def plan() -> Iterator[tuple[Op, tuple[int, int], torch.dtype, tuple[str, ...]]]:
    """What to measure, what matters most first. Compiling takes longest: it comes last, of the small shapes for one."""
    both = (*NAMESPACES, "eager")
    for op in OPS:
        yield op, op.large, torch.float32, both
    for op in OPS:
        for shape in op.small:
            yield op, shape, torch.float32, both
    for op in OPS:
        yield op, op.large, torch.bfloat16, both
    for op in OPS:
        yield op, op.large, torch.float32, ("compile",)
    for op in OPS:
        for shape in op.small[-1:]:
            yield op, shape, torch.float32, ("compile",)


def measure(device: torch.device, copy: float, end: float) -> Iterator[Row]:
    """All rows. What there is no time for before ``end``, by time.monotonic(), is noted, and so is what fails."""
    for op, shape, dtype, backends in plan():
        problems: list[Problem] = []
        for backend in backends:
            blank = Row(op.name, shape, str(dtype).removeprefix("torch."), backend, "both", math.nan)
            try:
                problems = problems or [
                    problem(op, *shape, dtype, device) for _ in range(2 if shape == op.large else 1)
                ]
                note = obstacle(op, backend, dtype, problems[0], end - time.monotonic())
                yield from [blank._replace(note=note)] if note else list(measured(op, backend, problems, copy, blank))
            except Exception as error:  # one backend's failure must not cost the others their figures
                yield blank._replace(note=f"failed: {error!r}"[:200])
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


def or_none(value: float) -> float | None:
    """As JSON wants it."""
    return None if math.isnan(value) else round(value, 3)


def about(device: torch.device) -> dict[str, Any]:
    """Where and when: what a file of results begins with."""
    name = torch.cuda.get_device_name(device)
    day, hour = datetime.now().isoformat(timespec="seconds").split("T")
    return {"device": name, "torch": torch.__version__, "commit": commit(), "date": day, "time": hour}


def results_file(kind: str, device_name: str, day: str) -> Path:
    """Where the results of a kind go if nothing else is said: a file a device and date."""
    slug = re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")
    return ROOT / "benchmarks" / "results" / f"{kind}-{slug}-{day}.json"


class Asked(NamedTuple):
    """What a benchmark is to do."""

    where: dict[str, Any]  # as of about()
    out: Path
    end: float  # by time.monotonic()


def asked(kind: str, description: str | None, seconds: float) -> Asked:
    """Of the command line of ``benchmarks/<kind>_on_gpu.py`` or of this file, after so many seconds by default."""
    program = "gpu" if kind == "gpu" else f"{kind}_on_gpu"
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{program}", description=description)
    parser.add_argument(
        "--seconds",
        type=float,
        default=seconds,
        help="after so long nothing new is begun; torch.compile a while earlier",
    )
    parser.add_argument("--out", type=Path, help=f"instead of benchmarks/results/{kind}-<device>-<date>.json")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    where = about(torch.device("cuda"))
    return Asked(where, set_aside(arguments.out or results_file(kind, where["device"], where["date"])), end)


def set_aside(out: Path) -> Path:
    """The same place: what a run before has left there takes its commit into its name, and a number if need be."""
    if out.exists():
        stem = f"{out.stem}-{json.loads(out.read_text(encoding='utf-8'))['commit']}"
        names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        out.rename(next(place for name in names if not (place := out.with_stem(name)).exists()))
    return out


def main() -> None:
    where, out, end = asked("gpu", __doc__, 200)
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
            "rows": [r._replace(microseconds=or_none(r.microseconds))._asdict() for r in rows],
            "ratios": ratios(rows),
        }
        write_json(out, results)  # each time: the next may never end
    for ratio in ratios(rows):
        print(ratio)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
