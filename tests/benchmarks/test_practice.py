"""The data like those of practice, those of hundreds of features, and how all but the bent ones are drawn."""

import numpy as np
import pytest

import manifold_core as mc
from benchmarks import practice
from benchmarks.manifolds import Samples
from benchmarks.many_features import MANY_FEATURES
from benchmarks.practice import PRACTICE
from benchmarks.recordings import RECORDED
from benchmarks.simulated import SIMULATED

# Which neighbours do not see: noise, a grid of values, a direction far narrower than the distances between samples.
NOT_SEEN = {
    "spectra, 1 % noise",
    "mixtures of 5 spectra, noise",
    "counts of genes",
    "their logarithms",
    "factor model, noise",
    "flat, noise a tenth",
    "tanh, noise a thirtieth",
    "integer latents",
    "imputed values",
    "mixtures through tanh, noise",
}


@pytest.mark.parametrize("one", PRACTICE + MANY_FEATURES + SIMULATED + RECORDED, ids=lambda one: one.name)
def test_samples_are_drawn_by_the_generator(one: Samples) -> None:
    x = one.samples(np.random.default_rng(1), 2000)
    assert (len(x), x.ndim, x.dtype) == (2000, 2, np.float64)
    assert np.isfinite(x).all()
    assert np.array_equal(x, one.samples(np.random.default_rng(1), 2000))
    assert not np.array_equal(x, one.samples(np.random.default_rng(2), 2000))


@pytest.mark.parametrize(
    "one", [one for one in PRACTICE + MANY_FEATURES if one.name not in NOT_SEEN], ids=lambda one: one.name
)
def test_neighbours_see_the_dimension(one: Samples) -> None:
    assert mc.two_nn(one.samples(np.random.default_rng(1), 2000)) == pytest.approx(one.r, rel=0.22)


def test_rotations_are_rotations() -> None:
    angle = np.random.default_rng(0).normal(size=50)
    for axis in (0, 1):
        turned = practice._turned(axis, angle)
        assert turned @ turned.transpose(0, 2, 1) == pytest.approx(np.broadcast_to(np.eye(3), turned.shape), abs=1e-12)
        assert np.linalg.det(turned) == pytest.approx(1, rel=1e-12)
        assert np.trace(turned, axis1=1, axis2=2) == pytest.approx(1 + 2 * np.cos(angle))


def test_rigid_motions_keep_distances() -> None:
    points = practice._rigid_motions(np.random.default_rng(0), 30).reshape(30, 20, 3)
    distances = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)
    assert distances == pytest.approx(np.broadcast_to(distances[:1], distances.shape), rel=1e-10)


def test_an_oscillator_is_integrated() -> None:
    """x'' = −x, from (1, 0): the cosine."""
    path = practice._integrated(lambda x: np.array([x[1], -x[0]]), np.array([1.0, 0.0]), 0.01, 1000)
    assert path[:, 0] == pytest.approx(np.cos(0.01 * np.arange(1001)), abs=1e-8)


def test_rows_of_delays_are_of_the_series() -> None:
    rows = practice._delayed(np.random.default_rng(0), np.arange(100.0), 5, 4, 60)
    assert rows.shape == (60, 4)
    assert (np.diff(rows, axis=1) == 5).all()
    assert len(np.unique(rows[:, 0])) == 60
    assert rows.max() <= 99
