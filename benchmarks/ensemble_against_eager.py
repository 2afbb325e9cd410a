"""Whole training steps of small VAEs on a CPU: the ensemble engine against eager PyTorch with Adam, in the same run.

A step is the gathering of the mini-batch, forward, ELBO, backward and Adam; d = κ = 20, one hidden layer, 100,000
samples. Each contender runs in processes of its own, in turn, and the figure to quote is the median of the rounds'
ratios. No ratio is given for a size whose weights are wrong after ten steps. The share is of the multiply-adds that
PyTorch's matrix product of 2,048 by 2,048 reaches on one thread in the same run; those of the noise, the KL and Adam do
not count.

    python -m benchmarks.ensemble_against_eager [--rounds N] [--out FILE.json]
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import manifold_core as mc
from manifold_core.ensemble.data import check_data
from manifold_core.ensemble.state import State

from .comparison import provenance

SAMPLES, WIDTH, MANIFOLD = 100_000, 20, 6  # d = κ
LEARNING_RATE = 0.005
SIZES = ((16, 1024, 25.0), (64, 1024, 12.0), (16, 100_000, 8.0))  # hidden, batch, the ratio that the project set itself
LARGEST_ERROR = 1e-5
SECONDS = 1.5  # a contender's time for one size


def data(seed: int = 0) -> Tensor:
    """A smooth manifold of six dimensions."""
    generator = torch.Generator().manual_seed(seed)
    u, w = torch.randn(SAMPLES, MANIFOLD, generator=generator), torch.randn(MANIFOLD, WIDTH, generator=generator)
    return torch.sigmoid(u @ w)


class Eager:
    """One model and its training as one writes them by hand, on the device and in the type of its data."""

    def __init__(self, hidden: int, batch: int, x: Tensor, *, fused: bool, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = nn.Sequential(nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, 2 * WIDTH))
            decoder = nn.Sequential(nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, WIDTH))
        self.x, self.batch = x, batch
        self.encoder, self.decoder = encoder.to(x), decoder.to(x)
        self.log_gamma = nn.Parameter(x.new_zeros(()))
        self.parameters = [*self.encoder.parameters(), *self.decoder.parameters(), self.log_gamma]
        self.optimizer = torch.optim.Adam(self.parameters, lr=LEARNING_RATE, fused=fused or None)

    def step(self, sample: Tensor, noise: Tensor) -> None:
        """On ``[B, d]`` samples with ``[B, κ]`` noise."""
        mu, log_var = self.encoder(sample).chunk(2, dim=1)
        z = mu + torch.exp(0.5 * log_var) * noise
        kl = 0.5 * (mu.square() + log_var.exp() - log_var - 1).sum(dim=1)
        error = (sample - self.decoder(z)).square().sum(dim=1)
        nll = 0.5 * (error * torch.exp(-self.log_gamma) + WIDTH * (math.log(2 * math.pi) + self.log_gamma))
        self.optimizer.zero_grad()
        (nll + kl).mean().backward()
        self.optimizer.step()

    def __call__(self) -> None:
        """A step on samples and noise drawn at random."""
        x, device = self.x, self.x.device
        sample = x[torch.randint(len(x), (self.batch,), device=device)] if self.batch < len(x) else x
        self.step(sample, torch.randn(self.batch, WIDTH, device=device, dtype=x.dtype))


def specs(hidden: int, batch: int, models: int, steps: int = 10**6, data_sets: int = 1) -> list[mc.ModelSpec]:
    """As many models of one kind, on the data sets in turn."""
    training = [mc.TrainingConfig(steps=steps, batch_size=batch, seed=seed) for seed in range(models)]
    return [mc.ModelSpec(WIDTH, (hidden,), training=c, data=i % data_sets) for i, c in enumerate(training)]


def engine(hidden: int, batch: int, models: int, threads: int) -> Callable[[int], None]:
    """So many steps of each model."""
    state = State(specs(hidden, batch, models, steps=200_000), check_data(data()))
    return lambda steps: torch.ops.manifold_core.ensemble_steps(state.words, steps, threads)


def contenders(threads: int) -> dict[str, Callable[[int, int], float]]:
    """Name → microseconds of a step of one model."""

    def of_eager(fused: bool) -> Callable[[int, int], float]:
        def measure(hidden: int, batch: int) -> float:
            step = Eager(hidden, batch, data(), fused=fused)
            return _median(lambda: _repeat(step, 1), 1)

        return measure

    def of_engine(models: int, threads: int) -> Callable[[int, int], float]:
        def measure(hidden: int, batch: int) -> float:
            run = engine(hidden, batch, models, threads)
            steps = max(2, 200 * 1024 // batch)
            return _median(lambda: run(steps), steps * models)

        return measure

    return {
        "eager": of_eager(fused=False),
        "eager, fused Adam": of_eager(fused=True),
        "one model": of_engine(1, threads),
        "a model a thread": of_engine(threads, threads),
        "one model, one thread": of_engine(1, 1),
    }


def _repeat(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


def _median(call: Callable[[], None], steps: int) -> float:
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 8 or time.perf_counter() - begin < SECONDS:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:]) / steps * 1e6


def matrix_product() -> float:
    """10⁹ multiply-adds a second, on one thread."""
    torch.set_num_threads(1)
    n = 2048
    a, b = torch.randn(n, n), torch.randn(n, n)
    return n**3 / _median(lambda: torch.mm(a, b), 1) / 1e3


def multiply_adds(hidden: int) -> int:
    """Of one sample: three products a layer, but for the gradient of x, which nobody wants."""
    return 3 * (WIDTH * hidden + hidden * 2 * WIDTH + WIDTH * hidden + hidden * WIDTH) - WIDTH * hidden


def largest_error(hidden: int, batch: int) -> float:
    """Of the weights after ten steps, against the reference backend: over their largest."""
    ours, reference = (
        mc.train_ensemble(specs(hidden, batch, 1, steps=10), data()[: 2 * batch], backend=backend, progress=False)[0]
        for backend in ("cpu", "reference")
    )
    return largest_difference(ours.model.parameters(), reference.model.parameters())


def largest_difference(ours: Iterable[Tensor], exact: Iterable[Tensor]) -> float:
    """Over all weights: the largest difference over their largest; NaN where one is not a number."""
    pairs = [(a.detach().cpu().double(), b.detach().cpu().double()) for a, b in zip(ours, exact, strict=True)]
    return float(torch.stack([(a - b).abs().max() / b.abs().max().clamp(min=1e-3) for a, b in pairs]).max())


def measured(name: str) -> list[float]:
    """One contender, every size."""
    if name == "matrix product":
        return [matrix_product()]
    call = contenders(torch.get_num_threads())[name]
    return [call(hidden, batch) for hidden, batch, _ in SIZES]


def in_own_process(name: str) -> list[float]:
    """What :func:`measured` gives."""
    command = [sys.executable, "-m", "benchmarks.ensemble_against_eager", "--contender", name]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the table; with ``--out``, also write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each contender")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(measured(options.contender)))
        return
    where = provenance()
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    errors = [largest_error(hidden, batch) for hidden, batch, _ in SIZES]
    names = [*contenders(1), "matrix product"]
    rounds = [{name: in_own_process(name) for name in names} for _ in range(options.rounds)]
    results = [_row(index, error, rounds) for index, error in enumerate(errors)]
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"provenance": where, "results": results}, indent=1)
        options.out.write_text(text + "\n", encoding="utf-8")


def _row(index: int, error: float, rounds: list[dict[str, list[float]]]) -> dict[str, Any]:
    hidden, batch, wanted = SIZES[index]
    found: dict[str, Any] = {"hidden": hidden, "batch": batch, "largest_error": error, "wanted": wanted}
    print(f"hidden {hidden}, B = {batch}: error {error:.1e}, {wanted:g} times wanted")
    if not error < LARGEST_ERROR:
        print("  wrong: no figures")
        return found
    peak = statistics.median(r["matrix product"][0] for r in rounds)
    found["matrix_product_gmacs"] = peak
    for name in rounds[0]:
        if name == "matrix product":
            continue
        key = name.replace(", ", "_").replace(" ", "_")
        micros = found[f"{key}_us"] = statistics.median(r[name][index] for r in rounds)
        ratio = found[f"{key}_ratio"] = statistics.median(r["eager"][index] / r[name][index] for r in rounds)
        line = f"  {name:>22} {micros:>10,.1f} us a step   ratio {ratio:>6.2f}"
        if name == "one model, one thread":
            share = found["share_of_matrix_product"] = multiply_adds(hidden) * batch / micros / 1e3 / peak
            line += f"   {share:.0%} of {peak:.0f} GMAC/s"
        print(line)
    both = [2 * r["a model a thread"][index] / r["one model, one thread"][index] for r in rounds]
    if torch.get_num_threads() == 2:
        found["two_models_on_two_threads_over_one_on_one"] = statistics.median(both)
        print(f"  two models on two threads take {statistics.median(both):.2f} times as long as one on one")
    return found


if __name__ == "__main__":
    main()
