"""Windows of sequences: the next step, with the steps before it as the condition."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..arguments import check_integer
from ..errors import InputError
from .dataset import Dataset
from .seeds import stream
from .synthetic import normal, random_projection

__all__ = ["PAPER_AR", "PAPER_MA", "PAPER_SCALE", "arma_series", "arma_windows"]

PAPER_AR = (1.0, -0.5, 0.25, -0.4)
PAPER_MA = (1.0, 0.65, 0.35)
PAPER_SCALE = 0.5

# The largest inverse root of the paper's AR polynomial is 0.81: 1e-46 of the start is left.
_BURN_IN = 500


def arma_windows(
    ambient_dim: int = 20,
    n_series: int = 10,
    *,
    history: int = 5,
    n_train: int = 100_000,
    n_validation: int = 10_000,
    seed: int = 0,
) -> Dataset:
    """x = W s_l + b and c = the h steps before it, for r independent series of φ(B) s_l = θ(B) e_l.

    B shifts by one step, and the coefficients of both polynomials include the leading 1, as ``ArmaProcess`` of
    statsmodels has them. φ = 1 − 0.5 B + 0.25 B² − 0.4 B³ and θ = 1 + 0.65 B + 0.35 B² give, with e ~ N(0, 0.5²),

        s_l − 0.5 s_{l−1} + 0.25 s_{l−2} − 0.4 s_{l−3} = e_l + 0.65 e_{l−1} + 0.35 e_{l−2}.

    The entries of W ``[d, r]`` and b ``[d]`` are uniform in ±1/√r. Given c, the r innovations e_l are still open: x has
    r dimensions left, whatever c is.

    A data set is one realisation of r series, cut into windows of h + 1 steps that begin one step apart: window i has
    the steps i to i + h, so neighbours share steps and are not independent samples. Training and validation windows
    come from two independent realisations of the same process, under the same W and b, each after a burn-in: they share
    no step and no innovation. The same arguments give the same data for ever, as with :func:`synthetic_manifold`; the
    first n samples are the same for every size.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", section 4.6 (Table 8). The
    coefficients, the number of series and the linear map are not in its text and follow its published implementation.

    Args:
        ambient_dim: d, the number of features of a step.
        n_series: r ≤ d, the number of series.
        history: h, the number of steps in a condition.
        n_train, n_validation: numbers of windows.
        seed: any integer.

    Returns:
        Data set with ``train`` ``[n_train, d]`` and ``validation`` ``[n_validation, d]``, float32, computed in float64;
        ``train_condition`` ``[n_train, h, d]`` and ``validation_condition`` ``[n_validation, h, d]``, float32, oldest
        step first; no labels; ``manifold_dim`` = r.

    Raises:
        InputError: an argument is of the wrong kind or out of range.
    """
    ambient_dim = check_integer("ambient_dim", ambient_dim, 1)
    n_series = check_integer("n_series", n_series, 1)
    if n_series > ambient_dim:
        raise InputError(f"n_series must be at most ambient_dim, {ambient_dim}, got {n_series}")
    history = check_integer("history", history, 1)
    n_train = check_integer("n_train", n_train, 1)
    n_validation = check_integer("n_validation", n_validation, 1)
    weight, offset = random_projection(ambient_dim, n_series, stream(seed, "projection"))

    def windows(n: int, purpose: str) -> tuple[Tensor, Tensor]:
        innovations = PAPER_SCALE * normal(_BURN_IN + history + n, n_series, stream(seed, purpose))
        series = torch.from_numpy(arma_series(innovations.numpy(), PAPER_AR, PAPER_MA))[_BURN_IN:]
        steps = (series @ weight.T + offset).to(torch.float32)
        condition = steps[:-1].unfold(0, history, 1).transpose(1, 2)
        # A copy: in the view every step stands in several windows and in x, and a change to one would show in all.
        return steps[history:], condition.clone(memory_format=torch.contiguous_format)

    train, train_condition = windows(n_train, "train")
    validation, validation_condition = windows(n_validation, "validation")
    return Dataset(
        name=f"arma-d{ambient_dim}-r{n_series}",
        train=train,
        validation=validation,
        manifold_dim=n_series,
        train_condition=train_condition,
        validation_condition=validation_condition,
    )


def arma_series(
    innovations: npt.NDArray[np.float64], ar: Sequence[float], ma: Sequence[float]
) -> npt.NDArray[np.float64]:
    """s_l = Σ_j θ_j e_{l−j} − Σ_{j≥1} φ_j s_{l−j}, with zeros before the first step; e and s ``[steps, series]``.

    Args:
        innovations: e, of at least as many steps as θ has coefficients.
        ar, ma: φ and θ; both begin with 1.
    """
    steps, n_series = innovations.shape
    order = len(ar) - 1
    # Rows of zeros ahead, so that the first steps are like all others.
    series = np.zeros((order + steps, n_series))
    for lag, coefficient in enumerate(ma):
        series[order + lag :] += coefficient * innovations[: steps - lag]
    past = np.array(ar[:0:-1], dtype=np.float64)
    for step in range(order, order + steps):
        series[step] -= past @ series[step - order : step]
    return series[order:]
