"""Data like those of practice, of known dimension: arms, trajectories, spectra, counts, tables, some with noise.

Data like these were written down by someone who looked for data that our search would read wrongly, and who did not
know its rules. The step of the search that tries what the decoder reads, and the bounds of its doubts, were chosen on
those.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from .manifolds import TURN, Array, Generator, Samples, rotations

__all__ = ["PRACTICE", "noisy", "peaks"]


def _linear(g: Generator, u: Array, features: int) -> Array:
    return u @ g.normal(size=(u.shape[1], features))


def _saturating(g: Generator, u: Array, features: int) -> Array:
    return np.tanh(0.7 * _linear(g, u, features))


def noisy(g: Generator, x: Array, ratio: float) -> Array:
    """With noise whose standard deviation is ``ratio`` times smaller."""
    return x + x.std() / ratio * g.normal(size=x.shape)


def _planar_arm(g: Generator, n: int) -> Array:
    """Four joints: where the links end, and their directions."""
    angle = g.uniform(-1.5, 1.5, (n, 4)).cumsum(axis=1)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.concatenate((cosine, sine, cosine.cumsum(axis=1), sine.cumsum(axis=1)), axis=1)


def _turned(axis: int, angle: Array) -> Array:
    """Rotations about z or y, ``[n, 3, 3]``."""
    turned = np.tile(np.eye(3), (len(angle), 1, 1))
    first, second = ((0, 1), (0, 2))[axis]
    turned[:, first, first] = turned[:, second, second] = np.cos(angle)
    turned[:, first, second] = np.sin(angle) * (1 if axis else -1)
    turned[:, second, first] = -turned[:, first, second]
    return turned


def _arm(joints: int, pose_alone: bool) -> Callable[[Generator, int], Array]:
    """Revolute joints, about z and y in turn: place and first axis of each frame, or the last pose alone."""

    def samples(g: Generator, n: int) -> Array:
        frame, place, parts = np.tile(np.eye(3), (n, 1, 1)), np.zeros((n, 3)), []
        for joint in range(joints):
            frame = frame @ _turned(joint % 2, g.uniform(-1, 1, n))
            place = place + frame @ np.array([1.0, 0.3, 0.2])
            parts += [place, frame[:, :, 0]]
        return np.concatenate([place, frame.reshape(n, 9)] if pose_alone else parts, axis=1)

    return samples


def _integrated(slope: Callable[[Array], Array], state: Array, step: float, steps: int) -> Array:
    """By Runge and Kutta's fourth order, ``[steps + 1, ...]``."""
    path = [state]
    for _ in range(steps):
        k1 = slope(state)
        k2 = slope(state + step / 2 * k1)
        k3 = slope(state + step / 2 * k2)
        k4 = slope(state + step * k3)
        state = state + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        path.append(state)
    return np.array(path)


def _delayed(g: Generator, series: Array, lag: int, lags: int, n: int) -> Array:
    """Rows of ``lags`` values of a series, ``lag`` apart, drawn at random."""
    rows = np.stack([series[i * lag : len(series) - (lags - 1 - i) * lag] for i in range(lags)], axis=1)
    return rows[g.permutation(len(rows))[:n]]


@cache  # seconds in Python
def _lorenz_series() -> Array:
    def slope(x: Array) -> Array:
        return np.array([10 * (x[1] - x[0]), x[0] * (28 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]])

    return _integrated(slope, np.array([1.0, 1.0, 20.0]), 0.01, 62_000)[2_000:, 0]


def _lorenz(g: Generator, n: int) -> Array:
    """Points of the attractor, whose dimension is 2.06."""
    return _delayed(g, _lorenz_series(), 5, 12, n)


@cache
def _van_der_pol_series() -> Array:
    def slope(x: Array) -> Array:
        return np.array([x[1], 3 * (1 - x[0] ** 2) * x[1] - x[0]])

    return _integrated(slope, np.array([2.0, 0.0]), 0.01, 42_000)[2_000:, 0]


def _van_der_pol(g: Generator, n: int) -> Array:
    return _delayed(g, _van_der_pol_series(), 30, 8, n)


def _kinetics(g: Generator, n: int) -> Array:
    """A → B → C, two rates and an amount, each substance at 20 times."""
    (k1, k2), begin = 10 ** g.uniform(-1, 1, (2, n, 1)), g.uniform(0.5, 2, (n, 1))
    t = np.linspace(0.05, 8, 20)
    a = begin * np.exp(-k1 * t)
    b = begin * k1 / (k2 - k1) * (np.exp(-k1 * t) - np.exp(-k2 * t))
    return np.concatenate((a, b, begin - a - b), axis=1)


def _predators(g: Generator, n: int) -> Array:
    """Lotka and Volterra's, four rates, both species at 31 times."""
    a, b, c, d = np.exp(g.uniform(-0.3, 0.3, (4, n)))

    def slope(x: Array) -> Array:
        return np.stack((a * x[0] - b * x[0] * x[1], d * x[0] * x[1] - c * x[1]))

    begin = np.stack((np.full(n, 1.5), np.full(n, 0.7)))
    return _integrated(slope, begin, 0.02, 450)[::15].transpose(2, 1, 0).reshape(n, -1)


def _two_exponentials(g: Generator, n: int) -> Array:
    t, (first, second) = np.linspace(0, 5, 30), g.uniform(0.5, 1.5, (2, n, 1))
    return first * np.exp(-g.uniform(0.3, 0.8, (n, 1)) * t) + second * np.exp(-g.uniform(1.5, 4, (n, 1)) * t)


def _heat_source(g: Generator, n: int) -> Array:
    """Its place and strength, as seen by 25 sensors."""
    sensors = np.stack(np.meshgrid(*[np.linspace(-1, 1, 5)] * 2), axis=-1).reshape(1, 25, 2)
    distance = ((g.uniform(-1, 1, (n, 1, 2)) - sensors) ** 2).sum(axis=-1)
    return g.uniform(0.5, 1.5, (n, 1)) / (0.1 + distance)


def _tones(g: Generator, n: int) -> Array:
    """Tones of any amplitude, frequency and phase."""
    t, amplitude = np.linspace(0, 1, 64), g.uniform(0.5, 1.5, (n, 1))
    return amplitude * np.sin(TURN * g.uniform(1, 3, (n, 1)) * t + TURN * g.random((n, 1)))


def peaks(centres: Sequence[float], width: float, channels: int) -> Callable[[Generator, int], Array]:
    """Spectra with peaks near these, of any places and heights."""

    def samples(g: Generator, n: int) -> Array:
        x, spectrum = np.linspace(0, 10, channels), np.zeros((n, channels))
        for centre in centres:
            place, height = centre + g.uniform(-0.5, 0.5, (n, 1)), g.uniform(0.5, 1.5, (n, 1))
            spectrum += height * np.exp(-0.5 * ((x - place) / width) ** 2)
        return spectrum

    return samples


_three_peaks = peaks((2, 5, 8), 0.5, 200)


def _noisy_peaks(g: Generator, n: int) -> Array:
    spectrum = _three_peaks(g, n)
    return spectrum + 0.01 * g.normal(size=spectrum.shape)


def _mixtures(g: Generator, n: int) -> Array:
    """Mixtures of five spectra, in any shares."""
    mixed = g.dirichlet(np.ones(5), n) @ np.abs(g.normal(size=(5, 100)).cumsum(axis=1))
    return noisy(g, mixed, 200)


def _counts(g: Generator, n: int) -> Array:
    """Counts of 200 genes under five programs."""
    programs = 0.5 * g.normal(size=(5, 200)) * (g.random((5, 200)) < 0.5)
    return g.poisson(np.exp(g.normal(size=(n, 5)) @ programs + g.normal(size=200) - 0.5)).astype(np.float64)


def _logs_of_counts(g: Generator, n: int) -> Array:
    return np.log1p(_counts(g, n))


def _factors(g: Generator, n: int) -> Array:
    """A factor model: five factors, the narrowest five times as wide as the noise."""
    loadings = np.linalg.qr(g.normal(size=(30, 5)))[0].T
    return g.normal(size=(n, 5)) * [1, 0.5, 0.2, 0.1, 0.05] @ loadings + 0.01 * g.normal(size=(n, 30))


def _line_with_noise(g: Generator, n: int) -> Array:
    return noisy(g, _linear(g, g.normal(size=(n, 5)), 50), 10)


def _bent_with_noise(g: Generator, n: int) -> Array:
    return noisy(g, _saturating(g, g.normal(size=(n, 4)), 30), 30)


def _heavy_tails(g: Generator, n: int) -> Array:
    return _linear(g, g.standard_t(2, (n, 4)), 20)


def _unlike_scales(g: Generator, n: int) -> Array:
    """One direction is a hundredth as wide as another."""
    return _linear(g, g.normal(size=(n, 3)) * [1, 0.1, 0.01], 20)


def _curled(g: Generator, n: int) -> Array:
    """Three wide flat directions, and one curled up narrowly."""
    t = TURN * g.random((n, 1))
    return _linear(g, np.concatenate((g.normal(size=(n, 3)), 0.1 * np.cos(t), 0.1 * np.sin(t)), axis=1), 20)


def _integers(g: Generator, n: int) -> Array:
    return _saturating(g, (g.integers(0, 10, (n, 3)) - 4.5) / 3, 20)


def _pixels(g: Generator, n: int) -> Array:
    """Rounded to 256 values."""
    return np.round(127.5 * (_saturating(g, g.normal(size=(n, 4)), 20) + 1))


def _kinds_beside(g: Generator, n: int) -> Array:
    """One of five kinds as one-hot columns, beside what three numbers make."""
    return np.concatenate((np.eye(5)[g.integers(0, 5, n)], _saturating(g, g.normal(size=(n, 3)), 15)), axis=1)


def _imputed(g: Generator, n: int) -> Array:
    """A tenth of the values are replaced by the mean."""
    x = _saturating(g, g.normal(size=(n, 3)), 15)
    x[g.random(x.shape) < 0.1] = x.mean()
    return x


def _clusters(g: Generator, n: int) -> Array:
    """Six, each a flat piece of three dimensions of its own."""
    centres, spans, of = 2 * g.normal(size=(6, 50)), 0.3 * g.normal(size=(6, 3, 50)), g.integers(0, 6, n)
    return centres[of] + np.einsum("nj,njd->nd", g.normal(size=(n, 3)), spans[of])


def _rigid_motions(g: Generator, n: int) -> Array:
    """Twenty points, turned in any way, and moved."""
    moved = np.einsum("ijn,pj->npi", rotations(g, n), g.normal(size=(20, 3))) + 0.5 * g.normal(size=(n, 1, 3))
    return moved.reshape(n, -1)


PRACTICE = (
    Samples("arm of 4 joints, planar", 4, _planar_arm),
    Samples("arm of 6 joints, frames", 6, _arm(6, pose_alone=False)),
    Samples("arm of 7 joints, last pose", 6, _arm(7, pose_alone=True)),
    Samples("rigid motions of 20 points", 6, _rigid_motions),
    Samples("Lorenz attractor, delays", 2, _lorenz),
    Samples("van der Pol cycle, delays", 1, _van_der_pol),
    Samples("kinetics A → B → C", 3, _kinetics),
    Samples("predators and prey", 4, _predators),
    Samples("two exponentials", 4, _two_exponentials),
    Samples("heat source", 3, _heat_source),
    Samples("tones", 3, _tones),
    Samples("spectra of three peaks", 6, _three_peaks),
    Samples("spectra, 1 % noise", 6, _noisy_peaks),
    Samples("mixtures of 5 spectra, noise", 4, _mixtures),
    Samples("counts of genes", 5, _counts),
    Samples("their logarithms", 5, _logs_of_counts),
    Samples("factor model, noise", 5, _factors),
    Samples("flat, noise a tenth", 5, _line_with_noise),
    Samples("tanh, noise a thirtieth", 4, _bent_with_noise),
    Samples("heavy tails", 4, _heavy_tails),
    Samples("scales 1, 0.1, 0.01", 3, _unlike_scales),
    Samples("one direction curled up", 4, _curled),
    Samples("integer latents", 3, _integers),
    Samples("256 grey values", 4, _pixels),
    Samples("kinds beside numbers", 3, _kinds_beside),
    Samples("imputed values", 3, _imputed),
    Samples("clusters, each flat", 3, _clusters),
)
