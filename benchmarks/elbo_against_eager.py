"""Sample + KL + NLL, forward and backward, on a CPU: manifold_core against eager PyTorch in the same run.

Each runs in processes of its own, in turn: in one process the first to allocate decides how the C library treats the
memory of the second, by a factor of two. A round is one process of each; the figure to quote is the median of the
rounds' ratios. No ratio is given for a result that is not right: it is first held against the float64 reference on the
same noise.

    python -m benchmarks.elbo_against_eager [--rounds N] [--out FILE.json]
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from manifold_core.kernels.extension import compiled
from manifold_core.kernels.gaussian_elbo import gaussian_elbo
from manifold_core.kernels.gaussian_elbo import reference as elbo_reference
from manifold_core.kernels.rsample_kl import reference as sample_reference
from torch import Tensor

import manifold_core as mc

# (B, d, κ), calls to take the median of, and the ratio the project set itself; ascending, see above
SIZES = (
    ((128, 20, 20), 2000, 2.0),
    ((512, 784, 32), 300, 3.0),
    ((4096, 784, 64), 60, 4.0),
    ((100_000, 20, 20), 60, 4.0),
)
Gradients = tuple[Tensor, ...]


def problem(batch: int, features: int, latents: int) -> dict[str, Tensor]:
    """Leaf tensors of one size: what an encoder and a decoder would have made."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "mu": normal(batch, latents).requires_grad_(),
        "log_var": normal(batch, latents).requires_grad_(),
        "x_hat": normal(batch, features).requires_grad_(),
        "x": normal(batch, features),
        "log_gamma": torch.zeros((), requires_grad=True),
        "grad_z": normal(batch, latents),  # what comes back from the decoder
    }


def _backward(loss: Tensor, z: Tensor, p: dict[str, Tensor]) -> Gradients:
    wanted = (p["mu"], p["log_var"], p["x_hat"], p["log_gamma"])
    return torch.autograd.grad((loss, z), wanted, (torch.ones_like(loss), p["grad_z"]))


def eager(p: dict[str, Tensor]) -> Gradients:
    """As one writes it by hand."""
    mu, log_var, x_hat, x, log_gamma = p["mu"], p["log_var"], p["x_hat"], p["x"], p["log_gamma"]
    z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
    kl = 0.5 * (mu.square() + log_var.exp() - log_var - 1).sum(dim=1)
    constant = x.shape[1] * (math.log(2 * math.pi) + log_gamma)
    nll = 0.5 * ((x - x_hat).square().sum(dim=1) / log_gamma.exp() + constant)
    return _backward((nll + kl).mean(), z, p)


def fused(p: dict[str, Tensor], seed: int | None = None) -> Gradients:
    """The same through manifold_core, as GaussianELBO calls it."""
    z, kl = mc.rsample_kl(p["mu"], p["log_var"], seed=seed)
    loss, _, _ = gaussian_elbo(p["x_hat"], p["x"], p["log_gamma"], kl)
    return _backward(loss, z, p)


def largest_error(p: dict[str, Tensor]) -> float:
    """Of the fused gradients against the float64 reference: the largest difference over the largest value."""
    wide = {name: tensor.detach().double().requires_grad_(tensor.requires_grad) for name, tensor in p.items()}
    z, kl = sample_reference.rsample_kl(wide["mu"], wide["log_var"], torch.tensor(7))
    loss, _, _ = elbo_reference.gaussian_elbo(wide["x_hat"], wide["x"], wide["log_gamma"], kl, 1.0)
    pairs = zip(fused(p, seed=7), _backward(loss, z, wide), strict=True)
    return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)


def medians(call: Callable[[dict[str, Tensor]], Gradients]) -> list[float]:
    """Microseconds of one call, for each size."""
    found = []
    for size, calls, _ in SIZES:
        p = problem(*size)
        times = []
        for _ in range(calls + 5):
            start = time.perf_counter()
            call(p)
            times.append(time.perf_counter() - start)
        found.append(statistics.median(times[5:]) * 1e6)
    return found


def in_own_process(name: str) -> list[float]:
    """What :func:`medians` of that contender gives in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.elbo_against_eager", "--contender", name]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def bytes_of_arrays(size: tuple[int, int, int]) -> int:
    """mu, log_var, z, its gradient and two gradients; x, x_hat and its gradient; float32, each once."""
    batch, features, latents = size
    return 4 * batch * (6 * latents + 3 * features)


def provenance() -> dict[str, Any]:
    """Commit, device and versions."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip() or "unknown",
        "device": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "instruction_set": compiled.instruction_set() if compiled else "none: reference backend",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def main() -> None:
    """Print the table; with ``--out``, also write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="processes of each contender")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    parser.add_argument("--contender", choices=("eager", "fused"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(medians({"eager": eager, "fused": fused}[options.contender])))
        return

    where = provenance()
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    errors = [largest_error(problem(*size)) for size, _, _ in SIZES]
    rounds = [(in_own_process("eager"), in_own_process("fused")) for _ in range(options.rounds)]
    columns = f"{'B, d, kappa':>20} {'eager us':>10} {'fused us':>10} {'ratio':>7} {'quartiles':>14}"
    print(f"{columns} {'wanted':>7} {'error':>9}")
    results = []
    for index, ((size, _, wanted), error) in enumerate(zip(SIZES, errors, strict=True)):
        name = ", ".join(map(str, size))
        found: dict[str, Any] = {"size": size, "largest_relative_error": error, "wanted": wanted}
        results.append(found)
        if not error < 2e-6:
            print(f"{name:>20} wrong by {error:.1e}: no figures")
            continue
        eager_us, fused_us = ([contender[index] for contender in side] for side in zip(*rounds, strict=True))
        found["bytes_of_arrays"] = bytes_of_arrays(size)
        found["eager_us"], found["fused_us"] = statistics.median(eager_us), statistics.median(fused_us)
        quartiles = statistics.quantiles((a / b for a, b in zip(eager_us, fused_us, strict=True)), n=4)
        found["ratio_quartiles"] = low, median, high = quartiles
        print(
            f"{name:>20} {found['eager_us']:>10.0f} {found['fused_us']:>10.0f} {median:>7.2f} "
            f"{low:>6.2f} to {high:<4.2f} {wanted:>7.1f} {error:>9.1e}"
        )
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"provenance": where, "results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
