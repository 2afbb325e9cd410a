"""What the theorem drivers make of runs, on runs whose slopes are known."""

import math
from typing import Any

import pytest
from manifold_core.experiments.theorems import TABLES, fit

THEOREM_1, TOO_FEW, THEOREM_2 = TABLES


def made_up(
    cell: dict[str, float], true_active: int, seed: int, slope: float, recon_slope: float
) -> list[dict[str, Any]]:
    return [
        {
            "cell": cell | {"log_gamma": g},
            "seed": seed,
            "true_active": true_active,
            "neg_elbo": slope * g + 3,
            "recon": 2 * math.exp(recon_slope * g),
            "variance": [1.0, math.exp(g), 0.9, 2 * math.exp(g)],
            "active_dimensions": 2,
            "local": {"count": 3},
            "diverged_at": None,
        }
        for g in (-4.0, -2.0, -3.0)
    ]


def test_line() -> None:
    found = fit([(0, 1), (1, 3), (2, 5), (3, 8)])
    # by hand: means 1.5 and 4.25, sums of products 11.5 and of squares 5
    assert found["slope"] == pytest.approx(2.3)
    assert found["intercept"] == pytest.approx(4.25 - 2.3 * 1.5)
    assert found["r_squared"] == pytest.approx(1 - 0.3 / 26.75)


def test_slopes_of_theorem_1() -> None:
    runs = made_up({"d": 20, "r": 2, "kappa": 4}, 2, 0, 18, 1) + made_up({"d": 20, "r": 2, "kappa": 4}, 2, 1, 17, 1)
    assert THEOREM_1.summary is not None
    first, second = THEOREM_1.summary(runs[::-1])["fits"]
    assert first["cell"] == {"d": 20, "r": 2, "kappa": 4, "seed": 0}
    assert (first["expected"], first["slope"], second["slope"]) == pytest.approx((18, 18, 17))
    assert [g for g, _ in first["points"]] == [-2, -3, -4]
    assert (first["active_dimensions"], first["local_dimensions"]) == ([2, 2, 2], [3, 3, 3])
    assert first["active_variance"] == pytest.approx([1.5 * math.exp(g) for g in (-2, -3, -4)])
    assert first["inactive_variance"] == pytest.approx([0.95] * 3)
    assert first["recon"] == pytest.approx([2 * math.exp(g) for g in (-2, -3, -4)])


def test_runs_that_diverged_are_no_points_and_two_points_no_line() -> None:
    runs = [run for seed in (0, 1) for run in made_up({"d": 20, "r": 2, "kappa": 4}, 2, seed, 18, 1)]
    extra = runs[0] | {"cell": runs[0]["cell"] | {"log_gamma": -9.0}, "neg_elbo": 1e9, "diverged_at": 7}
    runs[3]["diverged_at"] = 5
    assert THEOREM_1.summary is not None
    summary = THEOREM_1.summary([*runs, extra])
    (found,) = summary["fits"]
    assert (found["cell"]["seed"], found["slope"], len(found["points"])) == (0, pytest.approx(18), 3)
    assert summary["models"] == 7
    assert [(one["cell"]["log_gamma"], one["seed"], one["diverged_at"]) for one in summary["diverged"]] == [
        (-4.0, 1, 5),
        (-9.0, 0, 7),
    ]


def test_slope_of_theorem_2_counts_what_the_condition_fixes() -> None:
    runs = made_up({"d": 20, "r": 6, "t": 4}, 2, 0, 18, 1)
    assert THEOREM_2.summary is not None
    assert THEOREM_2.summary(runs)["fits"][0]["expected"] == 18  # d − r + t


def test_an_error_that_stays_makes_the_slope_minus_one() -> None:
    assert TOO_FEW.summary is not None
    (stays,) = TOO_FEW.summary(made_up({"d": 20, "r": 6, "kappa": 2}, 2, 0, 1, 0))["fits"]
    assert (stays["expected"], stays["slope"]) == pytest.approx((-1, -1))
    assert stays["inactive_variance"] == [0.95] * 3
    runs = made_up({"d": 20, "r": 6, "kappa": 2}, 2, 0, 1, 0)
    (every,) = TOO_FEW.summary([run | {"variance": run["variance"][1::2]} for run in runs])["fits"]
    assert every["inactive_variance"] == [None] * 3  # all are active
    (falls,) = TOO_FEW.summary(made_up({"d": 20, "r": 6, "kappa": 2}, 2, 0, 1, 0.75))["fits"]
    assert falls["slope"] == pytest.approx(-0.25)
