"""The dimension by nearest neighbours, against the definition in loops and manifolds of known dimension."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import manifold_core as mc
from manifold_core.metrics import neighbours
from manifold_core.metrics.subset import some_rows

Array = npt.NDArray[np.float64]


def by_hand(x: Array) -> float:
    """In loops: the least-squares slope, through the origin, of −log(1 − i/N) over the log of the i-th ratio."""
    logs = []
    for i, row in enumerate(x):
        distances = sorted(math.dist(row, other) for j, other in enumerate(x) if j != i)
        logs.append(math.log(distances[1] / distances[0]))
    logs.sort()
    pairs = [(logs[i], -math.log(1 - (i + 1) / len(x))) for i in range(int(0.9 * len(x)))]
    return math.fsum(a * b for a, b in pairs) / math.fsum(a * a for a, _ in pairs)


@pytest.mark.parametrize("shape", [(10, 1), (57, 3), (130, 8)])
def test_the_definition(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    assert mc.two_nn(x) == pytest.approx(by_hand(x), rel=1e-9)
    monkeypatch.setattr(neighbours, "ROWS", 7)
    assert mc.two_nn(torch.from_numpy(x)) == pytest.approx(by_hand(x), rel=1e-9)


def cube(dim: int, samples: int = 3_000) -> Array:
    return np.random.default_rng(dim).random((samples, dim))


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_manifolds_of_known_dimension(dim: int) -> None:
    """A cube, turned, scaled and moved far away; and one wound up on as many cylinders."""
    generator = np.random.default_rng(0)
    turned = np.concatenate([cube(dim), np.zeros((3_000, 6 - dim))], 1) @ np.linalg.qr(generator.normal(size=(6, 6)))[0]
    wound = np.concatenate([np.cos(5 * cube(dim)), np.sin(5 * cube(dim))], 1)
    for x in (cube(dim), 1e-6 * turned, 1e6 + 1e3 * turned, wound):
        assert mc.two_nn(x) == pytest.approx(dim, rel=0.06)


def test_samples_that_are_the_same_count_once() -> None:
    x = cube(2, 200)
    assert mc.two_nn(np.concatenate([x, x[:150], x[:10]])) == pytest.approx(by_hand(x), rel=1e-9)


def test_some_of_many_and_of_any_shape_and_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "MOST_SAMPLES", 100)
    images = torch.rand(120, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    drawn = images[some_rows(120, 100)]
    assert len(drawn.unique(dim=0)) == 100
    assert mc.two_nn(images) == pytest.approx(by_hand(drawn.flatten(1).double().numpy()), rel=1e-6)
    pixels = (255 * images).to(torch.uint8)
    assert mc.two_nn(pixels) == mc.two_nn(pixels.double()) == mc.two_nn(pixels.tolist())
    array = pixels.double().numpy()
    assert mc.two_nn(array.astype(">f8")) == mc.two_nn(pixels)
    # Which pixel is which plays no part.
    assert mc.two_nn(array[:, :, ::-1]) == pytest.approx(mc.two_nn(pixels), rel=1e-12)


def test_of_a_table_sorted_by_class_all_classes_count() -> None:
    assert neighbours.MOST_SAMPLES == 5_000  # as the docstring says
    u = np.random.default_rng(0).random((12_000, 3))
    u[:5_000, 1:] = 0  # a curve, and then a cube
    assert mc.two_nn(u[:5_000]) == pytest.approx(1, abs=0.1)
    assert 1.5 < mc.two_nn(u) < 2.9  # type: ignore[operator]


@pytest.mark.parametrize("x", [np.zeros((0, 3)), np.zeros((50, 3)), np.ones((50, 0)), cube(2, 9), np.zeros(40)])
def test_too_little_to_tell(x: Array) -> None:
    assert mc.two_nn(x) is None


@pytest.mark.parametrize(
    ("x", "complaint"),
    [
        ("points", "x must be a tensor or an array of numbers, got str"),
        (3.0, r"x must be of shape \[N, ...\], got a single number, 3.0"),
        (torch.tensor(3.0), r"x must have shape \[N, ...\], one row for each sample, got a tensor of no dimensions"),
        (torch.ones(20, 2).to_sparse(), r"x must be dense, got a tensor of layout torch\.sparse_coo"),
        (
            torch.zeros(20, 2, dtype=torch.complex64),
            "x must be a tensor or an array of numbers, got Tensor of.*complex64",
        ),
        (np.zeros((20, 2), dtype=complex), "x must be a tensor or an array of numbers, got ndarray of complex128"),
        (np.full((20, 2), np.nan), "x must be finite, got NaN or infinity"),
    ],
)
def test_what_is_refused(x: Any, complaint: str) -> None:
    with pytest.raises(mc.InputError, match=complaint):
        mc.two_nn(x)


def on_a_grid(kind: str) -> torch.Tensor:
    t, u = torch.linspace(0, 6.28, 2000, dtype=torch.float64), torch.linspace(-1, 1, 45, dtype=torch.float64)
    a, b = torch.meshgrid(u, u, indexing="ij")
    helix = torch.stack((t.cos(), t.sin(), t / 3), 1)
    return {
        "line": torch.stack((t, 0 * t), 1),
        "circle": torch.stack((t.cos(), t.sin()), 1),
        "circle, float32": torch.stack((t.cos(), t.sin()), 1).float(),
        "helix, float32": helix.float(),
        "nine tenths of a helix": helix[torch.randperm(2000, generator=torch.Generator().manual_seed(0))[:1800]],
        "paraboloid": torch.stack((a, b, a * a + b * b), -1).reshape(-1, 3),
        "paraboloid in 20 features": torch.stack((a, b, a * a + b * b, *17 * [0 * a]), -1).reshape(-1, 20),
        "torus": torch.stack(
            ((2 + (3.1 * a).cos()) * (3.1 * b).cos(), (2 + (3.1 * a).cos()) * (3.1 * b).sin(), (3.1 * a).sin()), -1
        ).reshape(-1, 3),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "line",
        "circle",
        "circle, float32",
        "helix, float32",
        "nine tenths of a helix",
        "paraboloid",
        "paraboloid in 20 features",
        "torus",
    ],
)
def test_samples_on_a_grid_say_nothing(kind: str) -> None:
    """Their nearest neighbours are about as far as the second nearest: of any dimension, or of millions."""
    assert mc.two_nn(on_a_grid(kind)) is None


def test_few_samples_two_densities_and_rounded_numbers_still_say_something() -> None:
    generator = np.random.default_rng(0)
    for samples in (10, 20, 50):
        assert mc.two_nn(generator.normal(size=(samples, 3))) is not None
    dense = generator.normal(size=(2000, 2)) * np.where(np.arange(2000) < 1000, 1, 0.01)[:, None]
    assert mc.two_nn(dense) == pytest.approx(2, rel=0.1)
    assert mc.two_nn(np.round(10 * generator.normal(size=(3000, 4)))) == pytest.approx(4, rel=0.1)
