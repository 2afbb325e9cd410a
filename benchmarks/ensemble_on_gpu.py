"""Many small VAEs trained on a GPU: the engine against eager and against batched PyTorch.

A step gathers the mini-batch and runs forward, backward and Adam of every model; d = κ = 20, one hidden layer, batches
of 1,024 from eight data sets of 100,000. The contenders:

- ``engine``: ours, some hundred steps per launch;
- ``batched``: benchmarks/batched.py, steps in a CUDA graph; ``compiled``: the same by torch.compile;
- ``eager``: one model after another, with fused Adam: one is measured, and its time multiplied.

Correctness first: no time is given for weights that, after five steps, are far from those of the reference backend
(engine), or of eager PyTorch in float64 on the same samples and noise (the others). The whole job is also run as a user
would, 128 models by 20,000 steps.

    python -m benchmarks.ensemble_on_gpu [--seconds N] [--out FILE.json]
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from manifold_core.kernels import Backend
from torch import Tensor

import manifold_core as mc
from manifold_core.bench.comparison import failed, left_out
from manifold_core.bench.ensemble import MANIFOLD, WIDTH, Eager, check_going_on, data, multiply_adds, specs
from manifold_core.ensemble.data import SamplesLike, check_data
from manifold_core.ensemble.state import EngineState
from manifold_core.storage.files import write_json

from . import ops_on_gpu
from .batched import Batched
from .results_files import asked, or_none

BATCH, STEPS, SETS = 1024, 20_000, 8
MAIN = (128, 32)  # models and hidden width
# The last does not fit in shared memory.
OTHERS = ((1, 32), (16, 32), (512, 32), (128, 16), (128, 64), (16, 256))
CHECKED_STEPS = 5
# Of the norm of all weights: a sanity check, not a proof. A single weight that goes the wrong way makes ten times as
# much, but a gradient near 0, whose sign Adam's first steps take from rounding, less.
ALLOWED = 1e-4
STEPS_A_CALL = 200  # of the engine
COMPILE_SECONDS = 25.0  # torch.compile may need them; with less time left it is not begun
AROUND_THE_JOB = 10.0  # seconds, besides its steps: it is not begun with less time left


class Contender(Protocol):
    """A way to train this many models of one hidden width on the data sets."""

    def __init__(self, models: int, hidden: int, sets: Sequence[Tensor]) -> None: ...

    def error(self) -> float:
        """The error of the weights after a few steps, relative; NaN if one is not a number."""

    def microseconds(self) -> float:
        """The time of a step of all models."""


def distance(found: Iterable[Tensor], wanted: Iterable[Tensor]) -> float:
    """‖found − wanted‖ / ‖wanted‖ over all weights of a model."""
    a, b = (torch.cat([t.detach().cpu().double().flatten() for t in tensors]) for tensors in (found, wanted))
    return float((a - b).norm() / b.norm())


def worst(distances: Iterable[float]) -> float:
    return float(torch.tensor(list(distances)).max())  # max() keeps NaN


def looked_at(models: int) -> list[int]:
    """The models whose weights are checked: the first, one in the middle, the last."""
    return sorted({0, models // 2, models - 1})


class Engine:
    library: Any = torch.ops.manifold_core

    def __init__(self, models: int, hidden: int, sets: Sequence[Tensor]) -> None:
        self.models, self.hidden, self.sets = models, hidden, list(sets)

    def state(self, steps: int) -> EngineState:
        return EngineState(specs(self.hidden, BATCH, self.models, steps, len(self.sets)), check_data(self.sets))

    def error(self) -> float:
        state, chosen = self.state(CHECKED_STEPS), looked_at(self.models)
        self.library.ensemble_steps(state.words, CHECKED_STEPS, 1)
        sets: list[SamplesLike] = [x.cpu() for x in self.sets]
        reference = mc.train_ensemble([state.specs[i] for i in chosen], sets, backend="reference", progress=False)
        pairs = zip(chosen, reference, strict=True)
        return worst(distance(state.model(i).parameters(), trained.model.parameters()) for i, trained in pairs)

    def microseconds(self) -> float:
        state = self.state(STEPS)  # from the beginning: what is timed has the numbers of training
        found = (
            ops_on_gpu.microseconds([lambda: self.library.ensemble_steps(state.words, STEPS_A_CALL, 1)]) / STEPS_A_CALL
        )
        check_going_on(state)
        return found


Draws = list[tuple[Tensor, Tensor]]  # for each step the samples [M, B], and in float64 the noise [M, B, κ]


def draws(models: int, samples: int) -> Draws:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(samples, (models, BATCH), generator=generator),
            torch.randn(models, BATCH, WIDTH, generator=generator, dtype=torch.float64),
        )
        for _ in range(CHECKED_STEPS)
    ]


def weights_after(drawn: Draws, model: Eager, place: int) -> Sequence[Tensor]:
    """The weights of a model, on the draws for its place."""
    for index, noise in drawn:
        model.step(model.x[index[place].to(model.x.device)], noise[place].to(model.x))
    return model.parameters


def exact(hidden: int, place: int, drawn: Draws, sets: Sequence[Tensor]) -> Sequence[Tensor]:
    """The same in float64."""
    x = sets[place % len(sets)].cpu().double()
    return weights_after(drawn, Eager(hidden, BATCH, x, fused=False, seed=place), place)


class Eagerly:
    def __init__(self, models: int, hidden: int, sets: Sequence[Tensor]) -> None:
        self.models, self.hidden, self.sets = models, hidden, sets
        self.model = Eager(hidden, BATCH, sets[0], fused=True)

    def error(self) -> float:
        drawn = draws(1, len(self.sets[0]))
        return distance(weights_after(drawn, self.model, 0), exact(self.hidden, 0, drawn, self.sets))

    def microseconds(self) -> float:
        return ops_on_gpu.microseconds([self.model]) * self.models


class InBatches:
    compiled = False

    def __init__(self, models: int, hidden: int, sets: Sequence[Tensor]) -> None:
        self.models, self.hidden, self.sets = models, hidden, sets
        nothing = sets[0].new_empty(0, WIDTH).cpu()
        start = [Eager(hidden, BATCH, nothing, fused=False, seed=seed).parameters for seed in range(models)]
        self.batched = Batched(start, sets, BATCH, compiled=self.compiled)

    def error(self) -> float:
        drawn = draws(self.models, len(self.sets[0]))
        for index, noise in drawn:
            self.batched.step(index.to(self.sets[0].device), noise.to(self.sets[0]))
        return worst(
            distance([p[place] for p in self.batched.parameters], exact(self.hidden, place, drawn, self.sets))
            for place in looked_at(self.models)
        )

    def microseconds(self) -> float:
        return ops_on_gpu.in_a_graph([self.batched])


class Compiled(InBatches):
    compiled = True


CONTENDERS: dict[str, type[Contender]] = {
    "engine": Engine,
    "batched": InBatches,
    "eager": Eagerly,
    "compiled": Compiled,
}


class Row(NamedTuple):
    """One measurement."""

    contender: str
    models: int
    hidden: int
    microseconds: float = math.nan  # of a step of all models; NaN: see the note
    error: float = math.nan  # of the weights
    note: str = ""

    @property
    def job_seconds(self) -> float:
        """What 20,000 steps take, extrapolated."""
        return self.microseconds * STEPS / 1e6

    @property
    def tera_multiply_adds(self) -> float:
        """Per second, in the products alone."""
        return multiply_adds(self.hidden) * BATCH * self.models / self.microseconds / 1e6

    def line(self) -> str:
        start = f"{self.models:>6} models, hidden {self.hidden:>2}  {self.contender:9}"
        if math.isnan(self.microseconds):
            return f"{start} {self.note}"
        speed = f"{self.microseconds:>12,.1f} us a step {self.job_seconds:>10,.2f} s for {STEPS:,}"
        return f"{start} {speed} {self.tera_multiply_adds:>7.2f} TMAC/s   error {self.error:.0e}"


def plan() -> Iterator[tuple[str, int, int]]:
    """What to measure, what matters most first: all contenders at one size, the one that compiles included."""
    for contender in ("engine", "batched", "eager", "compiled"):
        yield contender, *MAIN
    for models, hidden in OTHERS:
        for contender in ("engine", "batched"):
            yield contender, models, hidden
    for models, hidden in OTHERS:
        if models == MAIN[0]:  # for other numbers of models, eager's time is a multiple
            yield "eager", models, hidden


def measured(name: str, models: int, hidden: int, sets: Sequence[Tensor], seconds_left: float) -> Row:
    """One row; what is wrong, fails, or finds too little time left has a note instead of a figure."""
    blank = Row(name, models, hidden)
    if note := left_out(seconds_left, COMPILE_SECONDS if name == "compiled" else 0):
        return blank._replace(note=note)
    try:
        contender = CONTENDERS[name](models, hidden, sets)
        error = contender.error()
        if not error <= ALLOWED:
            return blank._replace(error=error, note=f"wrong: the weights are {error:.2g} away")
        return blank._replace(microseconds=contender.microseconds(), error=error)
    except Exception as failure:
        return blank._replace(note=failed(failure))


def ratios(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """How many times faster the engine is than each other contender."""
    answer = []
    for ours in rows:
        if ours.contender == "engine" and not math.isnan(ours.microseconds):
            others = [row for row in rows if row[1:3] == ours[1:3] and row.contender != "engine"]
            faster = {r.contender: or_none(r.microseconds / ours.microseconds) for r in others}
            answer.append({"models": ours.models, "hidden": ours.hidden, "faster_than": faster})
    return answer


def whole_job(sets: Sequence[Tensor], backend: Backend = "cuda") -> dict[str, Any]:
    """Seconds of the training, and of all that :func:`manifold_core.train_ensemble` does, with its measuring."""
    models, hidden = MAIN
    found: dict[str, Any] = {"models": models, "hidden": hidden, "steps": STEPS}
    begin = time.monotonic()
    try:
        asked = specs(hidden, BATCH, models, STEPS, len(sets))
        trained = mc.train_ensemble(asked, list(sets), backend=backend, progress=False)
    except Exception as failure:
        return found | {"note": failed(failure)}
    seconds = time.monotonic() - begin
    if diverged := sum(model.diverged_at is not None for model in trained):
        return found | {"note": f"wrong: {diverged} models diverged"}
    return found | {
        "training_seconds": round(trained[0].history.seconds, 3),
        "seconds": round(seconds, 3),
        "models_that_found_the_dimension": sum(model.metrics.active_dimensions == MANIFOLD for model in trained),
    }


def as_json(row: Row) -> dict[str, Any]:
    names = ("microseconds", "job_seconds", "tera_multiply_adds")
    figures = {name: or_none(getattr(row, name)) for name in names}
    return row._asdict() | figures | {"error": None if math.isnan(row.error) else row.error}


def report(sets: Sequence[Tensor], where: dict[str, Any], out: Path, end: float) -> None:
    """Prints and writes all rows, and after the first the whole job. ``end`` is by time.monotonic()."""
    results = where | {"batch": BATCH, "samples": len(sets[0]), "data_sets": len(sets)}
    rows: list[Row] = []

    def write() -> None:  # each time: the next may never end
        results.update(rows=[as_json(row) for row in rows], ratios=ratios(rows))
        write_json(out, results)

    for planned in plan():
        rows.append(measured(*planned, sets, end - time.monotonic()))
        print(rows[-1].line(), flush=True)
        write()
        torch.cuda.empty_cache()
        if len(rows) == 1 and rows[0].job_seconds + AROUND_THE_JOB < end - time.monotonic():
            results["job"] = whole_job(sets)
            print(results["job"], flush=True)
            write()
    for ratio in results["ratios"]:
        print(ratio)
    print(f"written to {out}")


def main() -> None:
    where, out, end = asked("ensemble", __doc__, 200)
    report([data(seed).to("cuda") for seed in range(SETS)], where, out, end)


if __name__ == "__main__":
    main()
