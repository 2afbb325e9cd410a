"""Sixteen closed or bent manifolds to read the dimension of, written down before any search was run on them. (Circle,
torus and the sphere S² had been looked at by hand, with other networks.)

Each function draws ``n`` samples of its manifold with a generator, without noise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["BENT", "TURN", "Array", "Generator", "Samples", "rotations", "two_layers"]

Array = np.ndarray[Any, np.dtype[np.float64]]
Generator = np.random.Generator
TURN = 2 * np.pi


class Samples(NamedTuple):
    """A manifold of dimension r, and how its samples are drawn."""

    name: str
    r: int
    samples: Callable[[Generator, int], Array]  # ``[n, d]``


def _columns(*columns: Array) -> Array:
    return np.stack(columns, axis=1)


def _circle(g: Generator, n: int) -> Array:
    t = TURN * g.random(n)
    return _columns(np.cos(t), np.sin(t))


def _torus(g: Generator, n: int) -> Array:
    t, p = TURN * g.random((2, n))
    return _columns((2 + np.cos(p)) * np.cos(t), (2 + np.cos(p)) * np.sin(t), np.sin(p))


def _sphere(r: int) -> Callable[[Generator, int], Array]:
    def samples(g: Generator, n: int) -> Array:
        x = g.normal(size=(n, r + 1))
        unit: Array = x / np.linalg.norm(x, axis=1, keepdims=True)
        return unit

    return samples


def _klein_bottle(g: Generator, n: int) -> Array:
    t, p = TURN * g.random((2, n))
    tube = 2 + np.cos(p)
    return _columns(tube * np.cos(t), tube * np.sin(t), np.sin(p) * np.cos(t / 2), np.sin(p) * np.sin(t / 2))


def _trefoil(g: Generator, n: int) -> Array:
    t = TURN * g.random(n)
    return _columns(np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -np.sin(3 * t))


def _flat_torus(g: Generator, n: int) -> Array:
    """The product of three circles, in six dimensions."""
    angles = TURN * g.random((3, n))
    return np.concatenate([np.cos(angles), np.sin(angles)]).T


def rotations(g: Generator, n: int) -> Array:
    """SO(3), as matrices ``[3, 3, n]``."""
    w, x, y, z = _sphere(3)(g, n).T
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _rotations(g: Generator, n: int) -> Array:
    return _columns(*rotations(g, n).reshape(9, n))


def _saddle(g: Generator, n: int) -> Array:
    u, v = g.uniform(-1, 1, (n, 2)).T
    return _columns(u, v, u * u - v * v)


def two_layers(r: int, features: int) -> Callable[[Generator, int], Array]:
    """So many numbers through a network with random weights."""

    def samples(g: Generator, n: int) -> Array:
        hidden = np.tanh(g.normal(size=(n, r)) @ g.normal(size=(r, 30)))
        return np.tanh(hidden @ g.normal(size=(30, features)) / r)

    return samples


def _blobs(g: Generator, n: int) -> Array:
    """Images of 16 × 16 pixels of one spot, anywhere."""
    centres, pixels = g.uniform(4, 12, (n, 2)), np.arange(16)
    down, across = ((pixels - centres[:, i, None]) ** 2 for i in (0, 1))
    return np.exp(-(down[:, :, None] + across[:, None, :]) / 8).reshape(n, -1)


def _helix(g: Generator, n: int) -> Array:
    t = g.uniform(0, 2 * TURN, n)
    return _columns(np.cos(t), np.sin(t), t / 3)


def _cylinder(g: Generator, n: int) -> Array:
    t = TURN * g.random(n)
    return _columns(np.cos(t), np.sin(t), g.uniform(-1, 1, n))


def _roll_times_line(g: Generator, n: int) -> Array:
    t = 1.5 * np.pi * (1 + 2 * g.random(n))
    return _columns(t * np.cos(t), t * np.sin(t), 21 * g.random(n), 21 * g.random(n))


def _projective_plane(g: Generator, n: int) -> Array:
    """Veronese's surface."""
    x, y, z = _sphere(2)(g, n).T
    return _columns(x * y, x * z, y * z, (x * x - y * y) / 2, (3 * z * z - 1) / (2 * np.sqrt(3)))


def _planes(g: Generator, n: int) -> Array:
    """The planes through the origin of four dimensions, Gr(2, 4), as projections."""
    basis = np.linalg.qr(g.normal(size=(n, 4, 2)))[0]
    row, column = np.triu_indices(4)
    projections: Array = (basis @ basis.transpose(0, 2, 1))[:, row, column]
    return projections * np.where(row == column, 1, np.sqrt(2))


BENT = (
    Samples("circle", 1, _circle),
    Samples("torus", 2, _torus),
    Samples("sphere S2", 2, _sphere(2)),
    Samples("sphere S3", 3, _sphere(3)),
    Samples("Klein bottle", 2, _klein_bottle),
    Samples("trefoil knot", 1, _trefoil),
    Samples("flat torus T3", 3, _flat_torus),
    Samples("rotations SO(3)", 3, _rotations),
    Samples("saddle", 2, _saddle),
    Samples("two layers of tanh", 5, two_layers(5, 20)),
    Samples("images of a spot", 2, _blobs),
    Samples("helix, open", 1, _helix),
    Samples("cylinder", 2, _cylinder),
    Samples("Swiss roll × line", 3, _roll_times_line),
    Samples("projective plane", 2, _projective_plane),
    Samples("planes Gr(2, 4)", 4, _planes),
)
