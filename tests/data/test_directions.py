"""Directions in which samples vary, against NumPy's singular values."""

import numpy as np
import pytest
import torch

from manifold_core.data import directions
from manifold_core.data.directions import count_directions, principal


def flat(samples: int, features: int, rank: int) -> torch.Tensor:
    """Samples in so many directions, far from the origin."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(samples, rank, generator=generator) @ torch.randn(rank, features, generator=generator)
    return u / u.std() + 3


@pytest.mark.parametrize("block", [2**14, 7])
@pytest.mark.parametrize(("samples", "features"), [(40, 25), (25, 40), (40, 40)])
def test_those_are_found_in_which_samples_vary(
    samples: int, features: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directions, "ROWS", block)
    monkeypatch.setattr(directions, "COLUMNS", block)
    x = flat(samples, features, rank=6)
    centred = x.double().numpy() - x.double().numpy().mean(axis=0)
    singular = np.linalg.svd(centred, compute_uv=False)

    found = principal(x)
    assert found.basis.shape == (features, 6)
    assert count_directions(x) == 6
    np.testing.assert_allclose(found.mean, x.double().mean(dim=0))
    np.testing.assert_allclose(found.variance, (singular**2).sum() / samples)
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(6), atol=1e-6)
    # Nothing of the samples lies across the basis, and each of its columns has its own part of their variance.
    np.testing.assert_allclose(centred @ found.basis.numpy() @ found.basis.numpy().T, centred, atol=1e-5)
    along = (centred @ found.basis.numpy()) ** 2
    np.testing.assert_allclose(np.sort(along.sum(axis=0)), np.sort(singular[:6] ** 2), rtol=1e-6)


@pytest.mark.parametrize(("samples", "features"), [(40, 25), (25, 40)])
@pytest.mark.parametrize("most", [4, 6, 9])
def test_the_widest_of_them(samples: int, features: int, most: int) -> None:
    x = flat(samples, features, rank=6)
    _, singular, rows = np.linalg.svd(x.double().numpy() - x.double().numpy().mean(axis=0), full_matrices=False)
    found, kept = principal(x, most), min(most, 6)
    np.testing.assert_allclose(found.basis @ found.basis.T, rows[:kept].T @ rows[:kept], atol=1e-6)
    np.testing.assert_allclose(found.left_out, (singular[kept:6] ** 2).sum() / samples, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.variance, (singular**2).sum() / samples)
    assert abs(float(found.basis[:, -1] @ torch.from_numpy(rows[0]))) == pytest.approx(1)  # the widest comes last


@pytest.mark.parametrize(("samples", "features"), [(40, 25), (25, 40)])
def test_a_direction_that_float32_hardly_sees_does_not_count(samples: int, features: int) -> None:
    x = flat(samples, features, rank=5)
    more = torch.zeros_like(x)
    more[::2, 0] = 1e-5
    assert count_directions(x + more) == principal(x + more).basis.shape[1] == 5
    assert count_directions(x + 1e3 * more) == principal(x + 1e3 * more).basis.shape[1] == 6
