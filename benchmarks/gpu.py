"""Every op on a GPU: CUDA and Triton against eager PyTorch and torch.compile, forward and backward.

Right first: no time is given for a result that is far from the definition in float64 on the same noise. Large tensors are
past the L2 cache, their buffers take turns, and what counts is the share of the bandwidth that a plain copy reaches on the
same device. Small ones are timed inside a CUDA graph: without one, they measure the launch.

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
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from manifold_core.kernels.random import standard_normal
from manifold_core.kernels.rsample_kl.reference import exp_minus_1_minus_x
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
SEED = 1234
ALLOWED = {torch.float32: 2e-5, torch.bfloat16: 2e-2}  # of the largest number of a result: a sanity check, no proof
NAMESPACES = {"cuda": "manifold_core", "triton": "manifold_core_triton"}
REPEATS = 11
REPEAT_MS = 15.0  # about how long a repeat may take


class Problem(NamedTuple):
    """The arguments of one call."""

    differentiable: tuple[Tensor, ...]
    fixed: tuple[Tensor, ...]
    incoming: tuple[Tensor, ...]  # gradients of the outputs
    seed: Tensor


class Op(NamedTuple):
    """One op: how to call its operators, and how one writes it by hand."""

    name: str
    make: Callable[[Callable[..., Tensor], int, int], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
    forward: Callable[[Any, Problem], tuple[Tensor, ...]]
    backward: Callable[[Any, Problem, tuple[Tensor, ...]], tuple[Tensor, ...]]
    by_hand: Callable[[Problem, Tensor | None], tuple[Tensor, ...]]  # outputs that have incoming gradients
    large: tuple[int, int]
    small: tuple[tuple[int, int], ...]


def _noise(like: Tensor, given: Tensor | None) -> Tensor:
    return torch.randn_like(like) if given is None else given


def _rsample_kl_by_hand(p: Problem, noise: Tensor | None) -> tuple[Tensor, ...]:
    mu, log_var = p.differentiable
    z = mu + torch.exp(0.5 * log_var) * _noise(mu, noise)
    wide_mu, l = mu.to(p.incoming[1].dtype), log_var.to(p.incoming[1].dtype)
    return z, 0.5 * (wide_mu.square() + l.exp() - l - 1).sum(dim=1)


def _conditional_by_hand(p: Problem, noise: Tensor | None) -> tuple[Tensor, ...]:
    mu, log_var, prior_mu, prior_log_var, gate = p.differentiable
    z = (mu + torch.exp(0.5 * log_var) * _noise(mu, noise)) * torch.sigmoid(gate)
    delta = (log_var - prior_log_var).to(p.incoming[1].dtype)
    scaled = (mu - prior_mu).to(delta.dtype).square() * torch.exp(-prior_log_var.to(delta.dtype))
    return z, 0.5 * (scaled + delta.exp() - delta - 1).sum(dim=1)


def _cholesky_by_hand(p: Problem, noise: Tensor | None) -> tuple[Tensor, ...]:
    mu, tril = p.differentiable
    rows, cols = mu.shape
    below = torch.tril_indices(cols, cols, device=mu.device)
    at = torch.arange(cols, device=mu.device)
    t = tril[:, at * (at + 3) // 2]
    square = torch.zeros(rows, cols * cols, dtype=mu.dtype, device=mu.device)
    lower = square.index_copy(1, below[0] * cols + below[1], tril).view(rows, cols, cols).tril(-1)
    z = mu + (lower @ _noise(mu, noise).unsqueeze(2)).squeeze(2) + t.exp() * _noise(mu, noise)
    if noise is None:  # one noise for both terms
        lower = lower + torch.diag_embed(t.exp())
        z = mu + (lower @ torch.randn_like(mu).unsqueeze(2)).squeeze(2)
        lower = lower.tril(-1)
    of_square = lower.square().sum(dim=2)
    return z, 0.5 * (mu.square() + of_square + (2 * t).exp() - 2 * t - 1).sum(dim=1)


def _nll_by_hand(p: Problem, _: Tensor | None) -> tuple[Tensor, ...]:
    x_hat, log_gamma = p.differentiable
    (x,) = p.fixed
    wide = p.incoming[0].dtype
    constant = x.shape[1] * (math.log(2 * math.pi) + log_gamma)
    return (0.5 * ((x_hat.to(wide) - x.to(wide)).square().sum(dim=1) / log_gamma.exp() + constant),)


def _elbo_by_hand(p: Problem, _: Tensor | None) -> tuple[Tensor, ...]:
    x_hat, log_gamma, kl = p.differentiable
    (nll,) = _nll_by_hand(Problem((x_hat, log_gamma), p.fixed, (kl,), p.seed), None)
    return ((nll + kl).mean(),)


def _gaussian_nll(run: Any, p: Problem) -> tuple[Tensor, ...]:
    return run.gaussian_nll(p.differentiable[0], p.fixed[0], p.differentiable[1])


def _gaussian_nll_backward(run: Any, p: Problem, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x_hat, log_gamma = p.differentiable
    return run.gaussian_nll_backward(p.incoming[0], None, x_hat, p.fixed[0], log_gamma, outputs[1])


def _elbo(run: Any, p: Problem) -> tuple[Tensor, ...]:
    x_hat, log_gamma, kl = p.differentiable
    return run.gaussian_elbo(x_hat, p.fixed[0], log_gamma, kl, 1.0, True)


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
    Op(
        "rsample_kl_cholesky",
        lambda normal, b, k: ((normal(b, k), 0.1 * normal(b, k * (k + 1) // 2)), ()),
        lambda run, p: run.rsample_kl_cholesky(*p.differentiable, None, None, p.seed, 0, False, False)[:2],
        lambda run, p, _: run.rsample_kl_cholesky_backward(
            *p.incoming, *p.differentiable, None, None, p.seed, 0, False
        )[:2],
        _cholesky_by_hand,
        (2**14, 128),
        ((512, 32), (512, 128)),
    ),
    Op(
        "gaussian_nll",
        lambda normal, b, d: ((normal(b, d), normal().float()), (normal(b, d),)),
        _gaussian_nll,
        _gaussian_nll_backward,
        _nll_by_hand,
        (2**15, 2048),
        ((128, 20), (512, 784), (4096, 784)),
    ),
    Op(
        "gaussian_elbo, gradients written at once",
        lambda normal, b, d: ((normal(b, d), normal().float(), normal(b).float()), (normal(b, d),)),
        _elbo,
        lambda run, p, outputs: (outputs[3], outputs[4], outputs[5].expand(p.differentiable[2].shape)),
        _elbo_by_hand,
        (2**15, 2048),
        ((128, 20), (512, 784)),
    ),
)


def problem(op: Op, rows: int, cols: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """One call's arguments, drawn at random on the device."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(dtype)

    differentiable, fixed = op.make(normal, rows, cols)
    leaves = tuple(t.detach().requires_grad_() for t in differentiable)
    seed = torch.tensor(SEED, device=device)
    shapes = {1: ((rows,),), 2: ((rows, cols), (rows,))}["rsample" in op.name and 2 or 1]
    if op.name.startswith("gaussian_elbo"):
        return Problem(leaves, fixed, (torch.ones((), device=device),), seed)
    # The KL and the NLL are float32 whatever the type of the matrices.
    incoming = tuple(normal(*shape) if len(shape) == 2 else normal(*shape).float() for shape in shapes)
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
    exact = widened(p)
    noise = None
    if "rsample" in op.name:
        noise = standard_normal(p.seed, *p.differentiable[0].shape)
    exact_outputs, exact_grads = by_autograd(op.by_hand, exact, noise)
    worst = 0.0
    for found, expected in zip((*outputs[: len(exact_outputs)], *grads), (*exact_outputs, *exact_grads), strict=True):
        difference = (found.double() - expected).abs().max() / expected.abs().max()
        worst = max(worst, math.inf if difference.isnan() else difference.item())
    return worst


def moved(p: Problem, results: Sequence[Tensor], *, incoming: bool) -> int:
    """Bytes that a kernel has to move: each argument read once, each result written once."""
    arguments = (*p.differentiable, *p.fixed, *(p.incoming if incoming else ()))
    return sum(t.numel() * t.element_size() for t in (*arguments, *results))


def microseconds(calls: Sequence[Callable[[], Any]]) -> float:
    """The median time of a call on the device; the calls take turns."""
    for call in calls:
        call()
    torch.cuda.synchronize()

    def timed(count: int) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        turns = itertools.cycle(calls)
        begin.record()
        for _ in range(count):
            next(turns)()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / count

    count = max(len(calls), min(2000, int(REPEAT_MS / max(timed(len(calls)), 1e-4))))
    return 1e3 * statistics.median(timed(count) for _ in range(REPEATS))


def in_a_graph(call: Callable[[], Any], copies: int = 20) -> float:
    """The time of a call among others of its kind in one CUDA graph, in microseconds."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(copies):
            call()
    return microseconds([graph.replay]) / copies


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
    microseconds: float
    share_of_copy: float | None  # of the bandwidth of a copy
    note: str = ""


def with_operators(op: Op, run: Any, name: str, problems: list[Problem], dtype: str, copy: float) -> Iterator[Row]:
    """Of a large problem, its buffers in turn."""
    shape = tuple(problems[0].differentiable[0].shape)
    with torch.no_grad():
        outputs, grads = by_operators(op, run, problems[0])
        all_outputs = [op.forward(run, p) for p in problems]

        def row(direction: str, calls: list[Callable[[], Any]], size: int) -> Row:
            time_us = microseconds(calls)
            return Row(op.name, shape, dtype, name, direction, time_us, size / (time_us * 1e-6) / copy)

        forward_size = moved(problems[0], outputs, incoming=False)
        yield row("forward", [lambda p=p: op.forward(run, p) for p in problems], forward_size)
        if op.name.startswith("gaussian_elbo"):
            yield row("both", [lambda p=p: op.forward(run, p) for p in problems], forward_size)
            return
        backward_size = moved(problems[0], grads, incoming=True)
        backward = [lambda p=p, o=o: op.backward(run, p, o) for p, o in zip(problems, all_outputs, strict=True)]
        yield row("backward", backward, backward_size)
        yield row("both", [lambda p=p: by_operators(op, run, p) for p in problems], forward_size + backward_size)


def measure(device: torch.device, seconds: float) -> tuple[list[Row], float]:
    """All rows, and the bandwidth of a copy. What no time is left for is noted."""
    start = time.monotonic()
    copy = copy_bandwidth(device)
    rows: list[Row] = []

    def add(new: Row) -> None:
        rows.append(new)
        share = "" if new.share_of_copy is None else f"{100 * new.share_of_copy:5.0f} % of copy"
        shape, values = "x".join(map(str, new.shape)), f"{new.microseconds:10.2f} us {share} {new.note}"
        print(f"{new.op:42} {shape:>13} {new.dtype:9} {new.backend:8} {new.direction:9} {values}", flush=True)

    def attempt(op: Op, shape: tuple[int, int], dtype: str, backend: str, work: Callable[[], Iterator[Row]]) -> None:
        if time.monotonic() - start > seconds:
            add(Row(op.name, shape, dtype, backend, "both", math.nan, None, "left out: no time left"))
            return
        try:
            for new in work():
                add(new)
        except Exception as error:  # one backend's failure must not cost the others their figures
            reason = str(error).strip().splitlines()
            add(Row(op.name, shape, dtype, backend, "both", math.nan, None, f"failed: {reason[0] if reason else error!r}"))
        torch.cuda.empty_cache()

    namespaces = {name: getattr(torch.ops, namespace) for name, namespace in NAMESPACES.items()}
    for op in OPS:
        wrong: dict[tuple[str, torch.dtype], str] = {}
        for (name, run), dtype in itertools.product(namespaces.items(), ALLOWED):
            try:
                error = largest_error(op, run, problem(op, 1000, 52, dtype, device))
                if not error <= ALLOWED[dtype]:
                    wrong[name, dtype] = f"wrong: {error:.2g} from float64"
            except Exception as failure:
                wrong[name, dtype] = f"failed: {failure!r}"[:200]
        for dtype, large in [(d, True) for d in ALLOWED] + [(torch.float32, False)]:
            for shape in (op.large,) if large else op.small:
                problems = [problem(op, *shape, dtype, device) for _ in range(2 if large else 1)]
                type_name = str(dtype).removeprefix("torch.")

                def operators(name: str, problems: list[Problem] = problems, large: bool = large) -> Iterator[Row]:
                    run = namespaces[name]
                    if large:
                        yield from with_operators(op, run, name, problems, type_name, copy)
                    else:
                        with torch.no_grad():
                            time_us = in_a_graph(lambda: by_operators(op, run, problems[0]))
                        yield Row(op.name, shape, type_name, name, "both", time_us, None, "in a CUDA graph")

                def written(
                    backend: str, function: Any, problems: list[Problem] = problems, large: bool = large
                ) -> Iterator[Row]:
                    calls = [lambda p=p: by_autograd(function, p) for p in problems]
                    time_us = microseconds(calls) if large else in_a_graph(calls[0])
                    note = "" if large else "in a CUDA graph"
                    yield Row(op.name, shape, type_name, backend, "both", time_us, None, note)

                for name in namespaces:
                    if (name, dtype) in wrong:
                        add(Row(op.name, shape, type_name, name, "both", math.nan, None, wrong[name, dtype]))
                    else:
                        attempt(op, shape, type_name, name, lambda name=name: operators(name))
                attempt(op, shape, type_name, "eager", lambda: written("eager", op.by_hand))
                if dtype == torch.float32 and (large or shape == op.small[-1]):
                    torch._dynamo.reset()
                    compiled = torch.compile(op.by_hand, mode="max-autotune-no-cudagraphs", dynamic=False)
                    attempt(op, shape, type_name, "compile", lambda f=compiled: written("compile", f))
                del problems
    return rows, copy


def ratios(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """How much faster each op is than eager and compiled PyTorch, forward and backward together."""
    found = {(r.op, r.shape, r.dtype, r.backend): r.microseconds for r in rows if r.direction == "both"}
    answer = []
    for (op, shape, dtype, backend), ours in found.items():
        if backend in NAMESPACES and not math.isnan(ours):
            against = {other: found.get((op, shape, dtype, other), math.nan) for other in ("eager", "compile")}
            speed = {other: round(theirs / ours, 2) for other, theirs in against.items() if not math.isnan(theirs)}
            answer.append({"op": op, "shape": list(shape), "dtype": dtype, "backend": backend, "faster_than": speed})
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--seconds", type=float, default=200, help="after so long nothing new is begun")
    parser.add_argument("--out", type=Path, help="instead of benchmarks/results/gpu-<device>.json")
    arguments = parser.parse_args()
    device = torch.device("cuda")
    name = torch.cuda.get_device_name(device)
    rows, copy = measure(device, arguments.seconds)
    results = {
        "device": name,
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "copy_gb_s": round(copy / 1e9),
        "rows": [
            {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in row._asdict().items()} for row in rows
        ],
        "ratios": ratios(rows),
    }
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    out = arguments.out or ROOT / "benchmarks" / "results" / f"gpu-{slug}.json"
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"a copy moves {copy / 1e9:.0f} GB/s")
    for ratio in results["ratios"]:
        print(ratio)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
