"""The samples of the closed and bent manifolds."""

import numpy as np
import pytest

import manifold_core as mc
from benchmarks import manifolds
from benchmarks.manifolds import BENT, Samples

OF_NAME = {one.name: one for one in BENT}


def samples(name: str, n: int = 200) -> np.ndarray:
    return OF_NAME[name].samples(np.random.default_rng(0), n)


@pytest.mark.parametrize("one", BENT, ids=lambda one: one.name)
def test_neighbours_see_the_dimension(one: Samples) -> None:
    x = one.samples(np.random.default_rng(1), 3000)
    assert (len(x), x.ndim, x.dtype) == (3000, 2, np.float64)
    assert mc.two_nn(x) == pytest.approx(one.r, rel=0.1)
    assert not np.array_equal(x, one.samples(np.random.default_rng(2), 3000))


def test_equations_hold() -> None:
    for name in ("circle", "sphere S2", "sphere S3"):
        assert np.linalg.norm(samples(name), axis=1) == pytest.approx(1, rel=1e-12)
    x, y, z = samples("torus").T
    assert (np.hypot(x, y) - 2) ** 2 + z**2 == pytest.approx(1, rel=1e-12)
    x, y, z = samples("cylinder").T
    assert np.hypot(x, y) == pytest.approx(1, rel=1e-12)
    x, y, z = samples("saddle").T
    assert z == pytest.approx(x**2 - y**2, abs=1e-12)
    turned = samples("rotations SO(3)").reshape(-1, 3, 3)
    assert turned @ turned.transpose(0, 2, 1) == pytest.approx(np.broadcast_to(np.eye(3), turned.shape), abs=1e-12)
    assert np.linalg.det(turned) == pytest.approx(1, rel=1e-12)
    circles = samples("flat torus T3")
    assert circles[:, :3] ** 2 + circles[:, 3:] ** 2 == pytest.approx(1, rel=1e-12)
    veronese = samples("projective plane")
    assert (veronese**2).sum(axis=1) == pytest.approx(1 / 3, rel=1e-12)
    a, b, c, _, _ = veronese.T
    assert (a * b * c >= 0).all()  # (xyz)²
    upper = samples("planes Gr(2, 4)")
    row, column = np.triu_indices(4)
    projections = np.zeros((len(upper), 4, 4))
    projections[:, row, column] = projections[:, column, row] = upper / np.where(row == column, 1, np.sqrt(2))
    assert projections @ projections == pytest.approx(projections, abs=1e-12)
    assert np.trace(projections, axis1=1, axis2=2) == pytest.approx(2, rel=1e-12)


def test_the_klein_bottle_meets_itself_turned_over() -> None:
    """One turn on, the tube is reflected, and the same point has another angle."""

    class Angles:
        def __init__(self, t: float, p: float) -> None:
            self.at = np.array([[t], [p]]) / manifolds.TURN

        def random(self, shape: tuple[int, int]) -> np.ndarray:
            assert shape == (2, 1)
            return self.at

    one, other = (OF_NAME["Klein bottle"].samples(Angles(*at), 1) for at in ((0.3, 0.7), (0.3 + manifolds.TURN, -0.7)))
    assert one == pytest.approx(other, abs=1e-12)
