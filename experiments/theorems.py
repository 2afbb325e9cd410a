"""Theorems 1 and 2 themselves: models trained at fixed γ over a range, 2L fitted against log γ.

Theorem 1: at the optimum 2L = (d − r) log γ + O(1), the variances of r dimensions fall with γ, those of the others go
to 1, and the squared error falls with γ. With fewer than r latent dimensions it does not, and 2L grows as 1/γ.
Theorem 2: a condition that fixes t of the r dimensions makes the slope d − r + t, with r − t active dimensions.
(The paper's statements print L; their proofs, such as equation (14), have 2L: with ½ log γ for each feature it is 2L.)
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from ..data import conditional_manifold, synthetic_manifold
from ..ensemble import ModelSpec
from . import recipe
from .tables import Cell, Plan, Table

__all__ = ["TABLES"]

LATENT_DIM = 20
# Above −3 the KL keeps latent dimensions shut. Below −7 the networks, not γ, decide the squared error; with too few
# latent dimensions they are meant to.
LOG_GAMMAS = tuple(float(value) for value in np.arange(-3.0, -7.5, -1.0))
SMALLER_LOG_GAMMAS = tuple(float(value) for value in np.arange(-5.0, -9.5, -1.0))
UNCONDITIONAL = ((20, 2), (20, 6), (30, 4))  # d, r
CONDITIONAL = ((20, 6, 2), (20, 4, 2), (30, 6, 3))  # d, r, t
FEWEST_POINTS = 3
TOO_FEW = ((20, 6, 2), (20, 4, 2))  # d, r, κ


def _vae(d: int, r: int, kappa: int, log_gamma: float, plan: Plan) -> Cell:
    spec = ModelSpec(kappa, recipe.hidden("manifold", plan), gamma="fixed", log_gamma=log_gamma)
    data = partial(synthetic_manifold, ambient_dim=d, manifold_dim=r)
    return Cell({"d": d, "r": r, "kappa": kappa, "log_gamma": log_gamma}, spec, data, (min(r, kappa),))


def _cvae(d: int, r: int, t: int, log_gamma: float, plan: Plan) -> Cell:
    hidden = recipe.hidden("manifold", plan)
    spec = ModelSpec(LATENT_DIM, hidden, gamma="fixed", log_gamma=log_gamma, condition_dim=t)
    data = partial(conditional_manifold, ambient_dim=d, manifold_dim=r, condition_dim=t)
    return Cell({"d": d, "r": r, "t": t, "log_gamma": log_gamma}, spec, data, (r - t,))


def _groups(runs: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The runs of each cell and seed that were trained to their end, from the largest γ to the smallest; none if they
    are too few for a line."""

    def key(run: dict[str, Any]) -> tuple[Any, ...]:
        return *(value for name, value in run["cell"].items() if name != "log_gamma"), run["seed"]

    for _, group in groupby(sorted(runs, key=key), key=key):
        own = sorted((run for run in group if run["diverged_at"] is None), key=lambda run: -run["cell"]["log_gamma"])
        if len(own) < FEWEST_POINTS:
            continue
        cell = {name: value for name, value in own[0]["cell"].items() if name != "log_gamma"}
        yield cell | {"seed": own[0]["seed"]}, own


def fit(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The line through the points that minimises the squared error; R² is the share of the variance it explains."""
    x, y = np.array(points).T
    slope, intercept = np.polyfit(x, y, 1)
    rest = y - (slope * x + intercept)
    return {
        "points": [[float(a), float(b)] for a, b in points],
        "slope": float(slope),
        "intercept": float(intercept),
        "r_squared": float(1 - rest.var() / y.var()),
    }


def _measured(own: list[dict[str, Any]]) -> dict[str, Any]:
    """At each γ: the mean variance of the dimensions that should be active, those of least variance, and of the others;
    and the other quantities of the theorems."""
    active = own[0]["true_active"]
    variances = [sorted(run["variance"]) for run in own]
    return {
        "true_active": active,
        "active_dimensions": [run["active_dimensions"] for run in own],
        "local_dimensions": [run["local"]["count"] if run["local"] else None for run in own],
        "active_variance": [float(np.mean(values[:active])) for values in variances],
        "inactive_variance": [float(np.mean(values[active:])) if values[active:] else None for values in variances],
        "recon": [run["recon"] for run in own],
    }


def _summary(
    runs: list[dict[str, Any]],
    *,
    statement: str,
    quantity: str,
    value: Callable[[dict[str, Any]], float],
    expected: Callable[[dict[str, Any]], float],
) -> dict[str, Any]:
    """For every cell and seed the line through a quantity of its runs over log γ, and the expected slope; how many
    models there are, and which of them diverged."""
    return {
        "statement": statement,
        "quantity": quantity,
        "models": len(runs),
        "diverged": [
            {name: run[name] for name in ("cell", "seed", "diverged_at")}
            for run in runs
            if run["diverged_at"] is not None
        ],
        "fits": [
            {
                "cell": cell,
                "expected": expected(own[0]),
                **fit([(run["cell"]["log_gamma"], value(run)) for run in own]),
                **_measured(own),
            }
            for cell, own in _groups(runs)
        ],
    }


_loss_falls = partial(
    _summary,
    quantity="2L",
    value=lambda run: run["neg_elbo"],
    expected=lambda run: float(run["cell"]["d"] - run["true_active"]),
)
_error_stays = partial(
    _summary,
    quantity="log(SSE/γ)",
    value=lambda run: math.log(run["recon"]) - run["cell"]["log_gamma"],
    expected=lambda _: -1.0,
)

TABLES = (
    Table(
        "theorem1",
        "Theorem 1: the loss of a VAE at fixed γ",
        lambda plan: [_vae(d, r, LATENT_DIM, g, plan) for d, r in UNCONDITIONAL for g in LOG_GAMMAS],
        plan=recipe.half_batches,
        summary=partial(_loss_falls, statement="2L = (d − r) log γ + O(1)"),
    ),
    Table(
        "theorem1_too_few",
        "Theorem 1, with fewer latent dimensions than the manifold has",
        lambda plan: [_vae(d, r, kappa, g, plan) for d, r, kappa in TOO_FEW for g in SMALLER_LOG_GAMMAS],
        plan=recipe.half_batches,
        summary=partial(
            _error_stays,
            statement="κ < r: the squared error stays, and SSE/γ grows as 1/γ: log(SSE/γ) has the slope −1",
        ),
    ),
    Table(
        "theorem2",
        "Theorem 2: the loss of a CVAE at fixed γ",
        lambda plan: [_cvae(d, r, t, g, plan) for d, r, t in CONDITIONAL for g in LOG_GAMMAS],
        plan=recipe.half_batches,
        summary=partial(_loss_falls, statement="2L = (d − r + t) log γ + O(1)"),
    ),
)
