"""Result files of a replay, as small as can be."""

from typing import Any

__all__ = ["file", "fit", "run"]


def run(seed: int, active: int | None, neg_elbo: float | None, **more: Any) -> dict[str, Any]:
    """Of a cell where the true dimension is 3 of 4."""
    return {
        "cell": {"d": 20, "r": 3},
        "variant": "",
        "seed": seed,
        "true_active": 3,
        "active_dimensions": active,
        "gap": 50.0,
        "neg_elbo": neg_elbo,
        "kl": 20.0 + seed,
        "recon": 0.01,
        "gamma": 5e-4,
        "variance": [0.002, 0.99, 0.001, 0.003],
        "diverged_at": None,
        **more,
    }


def file(table: str = "table1", **more: Any) -> dict[str, Any]:
    """Four seeds, two of them right; the paper is at −45."""
    runs = [run(0, 3, -50.0), run(1, 2, -40.0), run(2, 3, -60.0), run(3, 4, -30.0)]
    return {
        "table": table,
        "title": "Active dimensions",
        "budget": "quick",
        "seeds": 4,
        "convention": "doubled",
        "seconds": 100.0,
        "provenance": {"commit": "abc", "device": "a CPU", "versions": {"torch": "2.13.0"}, "threads": 2},
        "runs": runs,
        "paper": [{"cell": {"d": 20, "r": 3}, "variant": "", "AD": 3, "neg_elbo": -45.5, "recon": 0.02}],
        **more,
    }


def fit(**more: Any) -> dict[str, Any]:
    """Points of slope 10, where 12.5 was expected: 20 % off."""
    points = [[-4.0, 0.0], [-6.0, -20.0], [-8.0, -40.0]]
    return {
        "cell": {"d": 15, "r": 5},
        "expected": 12.5,
        "slope": 10.0,
        "intercept": 40.0,
        "r_squared": 1.0,
        "points": points,
        "active_dimensions": [5, 5, 4],
        "active_variance": [1e-2, 1e-3, 0.0],
        "inactive_variance": [0.9, None, 1.0],
        "recon": [1e-1, 1e-2, 1e-3],
        **more,
    }
