"""Table 1 of the paper: active dimensions of a VAE against the true dimension of synthetic manifolds.

    python -m manifold_core.experiments.table1 --out FOLDER [--seeds N] [--hidden WIDTH] [--steps N]

Every seed has data, weights and noise of its own. All models are trained side by side; stopped in any way, the same
command goes on. Writes ``table1.json``; losses in the paper's convention, −ELBO and KL doubled.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..data import synthetic_manifold
from ..ensemble import ModelSpec, TrainedModel, train_ensemble
from ..files import output_folder, write_json
from ..training import TrainingConfig
from . import paper

__all__ = ["main", "replay", "table"]


def replay(folder: Path, seeds: int, hidden: int, steps: int, samples: int = 100_000) -> dict[str, Any]:
    """Train every (row, seed) and write ``table1.json`` into the folder."""
    rows = paper.rows("table1")
    cells = sorted({(row["d"], row["r"]) for row in rows})
    jobs = [(row, seed) for row in rows for seed in range(seeds)]
    places = {
        (d, r, seed): i for i, (d, r, seed) in enumerate((*cell, seed) for cell in cells for seed in range(seeds))
    }
    data = [synthetic_manifold(d, r, n_train=samples, n_validation=1, seed=seed).train for d, r, seed in places]
    specs = [
        ModelSpec(
            row["kappa"],
            (hidden,),
            training=TrainingConfig(steps=steps, seed=seed),
            data=places[row["d"], row["r"], seed],
        )
        for row, seed in jobs
    ]
    begun = time.monotonic()
    trained = train_ensemble(specs, data, folder=folder)
    results = {
        "what": "Table 1; neg_elbo and kl doubled, as the paper prints them; averages over the training samples",
        "command": f"python -m manifold_core.experiments.table1 --seeds {seeds} --hidden {hidden} --steps {steps}",
        "versions": {"manifold_core": __version__, "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "training_seconds": trained[0].history.seconds,
        "seconds_of_this_call": time.monotonic() - begun,
        "runs": [_run(row, seed, model) for (row, seed), model in zip(jobs, trained, strict=True)],
    }
    write_json(output_folder(folder) / "table1.json", results)
    return results


def _run(row: dict[str, Any], seed: int, trained: TrainedModel) -> dict[str, Any]:
    m = trained.metrics
    return {
        **{name: row[name] for name in ("kappa", "d", "r")},
        "seed": seed,
        "active_dimensions": m.active_dimensions,
        "gap": m.gap,
        "neg_elbo": 2 * m.neg_elbo,
        "kl": 2 * m.kl,
        "recon": m.recon,
        "gamma": m.gamma,
        "diverged_at": trained.diverged_at,
    }


def table(results: dict[str, Any]) -> str:
    """Markdown: ours beside the paper's, a row a cell."""
    lines = [
        "| κ | d | r | active = r | of the lowest −ELBO | −ELBO: lowest | median | highest | paper: AD | −ELBO |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in paper.rows("table1"):
        own = [run for run in results["runs"] if all(run[name] == row[name] for name in ("kappa", "d", "r"))]
        own.sort(key=lambda run: run["neg_elbo"])
        right = sum(run["active_dimensions"] == row["r"] for run in own)
        losses = [run["neg_elbo"] for run in own]
        lines.append(
            f"| {row['kappa']} | {row['d']} | {row['r']} | {right} of {len(own)} | {own[0]['active_dimensions']} | "
            f"{losses[0]:.1f} | {statistics.median(losses):.1f} | {losses[-1]:.1f} | {row['AD']} | {row['neg_elbo']} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and of table1.json")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=64, help="width of the hidden layer")
    parser.add_argument("--steps", type=int, default=20_000)
    options = parser.parse_args()
    print(table(replay(options.out, options.seeds, options.hidden, options.steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
