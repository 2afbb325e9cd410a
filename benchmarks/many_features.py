"""Twelve manifolds bent through hundreds of features, written down before any search was run on them. (Mixtures through
tanh had been looked at, with other numbers, and images of a spot.)"""

import numpy as np

from .manifolds import TURN, Array, Generator, Samples, rotations, two_layers
from .practice import peaks

__all__ = ["MANY_FEATURES"]


def _mixtures_through_tanh(g: Generator, n: int) -> Array:
    return np.tanh(g.normal(size=(n, 8)) @ g.normal(size=(8, 400)))


def _the_same_with_noise(g: Generator, n: int) -> Array:
    x = np.tanh(g.normal(size=(n, 4)) @ g.normal(size=(4, 400)))
    return x + 0.05 * x.std() * g.normal(size=x.shape)


def _rectified(g: Generator, n: int) -> Array:
    """Six numbers through a layer of ReLUs, and a linear one."""
    hidden = np.maximum(g.normal(size=(n, 6)) @ g.normal(size=(6, 40)) + g.normal(size=40), 0)
    return hidden @ g.normal(size=(40, 500))


def _waves(g: Generator, n: int) -> Array:
    """Three numbers as the phases of random waves."""
    return np.cos(g.uniform(-1, 1, (n, 3)) @ (2 * g.normal(size=(3, 300))) + TURN * g.random(300))


def _polynomials(g: Generator, n: int) -> Array:
    """Random ones of the third degree, of four numbers."""
    u = np.concatenate((np.ones((n, 1)), g.uniform(-1, 1, (n, 4))), axis=1)
    terms = np.einsum("ni,nj,nk->nijk", u, u, u).reshape(n, -1)
    return terms @ g.normal(size=(terms.shape[1], 250))


def _ellipses(g: Generator, n: int) -> Array:
    """Images of 20 × 20 pixels of an ellipse of any place, two widths and angle, not round."""
    place, angle = g.uniform(7, 12, (n, 2, 1)), g.uniform(-1, 1, (n, 1))
    wide, narrow = g.uniform(3.5, 5, (n, 1)), g.uniform(1.5, 2.5, (n, 1))
    down, across = (pixel.reshape(1, -1) - place[:, i] for i, pixel in enumerate(np.indices((20, 20))))
    along = np.cos(angle) * down + np.sin(angle) * across
    beside = np.cos(angle) * across - np.sin(angle) * down
    return np.exp(-((along / wide) ** 2 + (beside / narrow) ** 2) / 2)


def _two_spots(g: Generator, n: int) -> Array:
    """Images of 24 × 24 pixels of two spots, in the left and the right half, of any heights."""
    pixels, image = np.indices((24, 24)).reshape(2, 1, -1), np.zeros((n, 24 * 24))
    for left in (4, 14):
        place, height = np.array([6, left]) + g.uniform(0, 6, (n, 2)), g.uniform(0.5, 1.5, (n, 1))
        distance = sum((pixels[i] - place[:, i, None]) ** 2 for i in (0, 1))
        image += height * np.exp(-distance / 18)
    return image


def _fields(g: Generator, n: int) -> Array:
    """Two sources of one strength, as seen by 200 sensors around them."""
    turn, places = TURN * np.arange(200) / 200, g.uniform(-0.5, 0.5, (n, 2, 2))
    places[:, 0, 0] -= 0.6
    places[:, 1, 0] += 0.6
    sensors = 1.5 * np.stack((np.cos(turn), np.sin(turn)), axis=1)
    distance = np.linalg.norm(sensors[None, None] - places[:, :, None], axis=-1)
    return g.uniform(0.5, 1.5, (n, 1)) / distance.sum(axis=1)


def _oscillations(g: Generator, n: int) -> Array:
    """Damped, of any amplitude, frequency, damping and phase, at 300 times."""
    t, amplitude, frequency = np.linspace(0, 1, 300), g.uniform(0.5, 1.5, (n, 1)), g.uniform(1, 2, (n, 1))
    return amplitude * np.exp(-g.uniform(0.5, 3, (n, 1)) * t) * np.sin(TURN * frequency * t + g.uniform(-1, 1, (n, 1)))


def _turned(g: Generator, n: int) -> Array:
    """A hundred points, turned in any way and scaled."""
    turned = np.einsum("ijn,pj->npi", rotations(g, n), g.normal(size=(100, 3)))
    return g.uniform(0.5, 1.5, (n, 1)) * turned.reshape(n, -1)


MANY_FEATURES = (
    Samples("mixtures through tanh", 8, _mixtures_through_tanh),
    Samples("mixtures through tanh, noise", 4, _the_same_with_noise),
    Samples("two layers of tanh, 300", 4, two_layers(4, 300)),
    Samples("ReLUs, 500", 6, _rectified),
    Samples("random waves", 3, _waves),
    Samples("polynomials", 4, _polynomials),
    Samples("images of an ellipse", 5, _ellipses),
    Samples("images of two spots", 6, _two_spots),
    Samples("fields of two sources", 5, _fields),
    Samples("spectra of five peaks", 10, peaks((1, 3, 5, 7, 9), 0.4, 500)),
    Samples("oscillations", 4, _oscillations),
    Samples("100 points, turned", 4, _turned),
)
