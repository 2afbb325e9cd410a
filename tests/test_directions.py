"""The directions in which samples vary, and models of their coordinates made models of the samples."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import manifold_core as mc
from manifold_core.directions import Directions

SPEC = mc.ModelSpec(3, (8, 4), log_gamma=-2.0, training=mc.TrainingConfig(seed=4))


def samples(variances: list[float], count: int = 400, seed: int = 0) -> Tensor:
    """Of these variances in directions that lie across the axes; standardised."""
    generator = np.random.default_rng(seed)
    turn = np.linalg.qr(generator.normal(size=(len(variances), len(variances))))[0]
    x = generator.normal(size=(count, len(variances))) * np.sqrt(variances) @ turn.T
    x -= x.mean(axis=0)
    return torch.from_numpy(x / x.std())


FLAT = [4.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_samples_that_vary_in_all_directions_are_left_as_they_are() -> None:
    x = samples([3.0, 1.0, 1e-3, 1e-6]).float()
    directions = Directions(x)
    model, history = SPEC.build(4), mc.History([1], [2.0], [0.5], [1])
    assert (directions.count, directions.everything) == (4, True)
    assert directions.of(x) is x
    assert directions.lifted(model, SPEC) is model
    assert directions.history(history) == history


@pytest.mark.parametrize(
    ("variances", "count"), [(FLAT, 3), ([1.0, 1.0, 1e-7], 3), ([1.0, 1.0, 1e-10], 2), ([5.0, 0.0], 1)]
)
def test_directions_without_variance_are_left_out(variances: list[float], count: int) -> None:
    assert Directions(samples(variances)).count == count


def test_coordinates_have_a_scale_of_one_and_the_distances_of_the_samples() -> None:
    x = samples(FLAT)
    y = Directions(x).of(x.float())
    assert (y.shape, y.dtype) == ((400, 3), torch.float32)
    assert float(y.double().square().mean()) == pytest.approx(1, rel=1e-5)
    ratio = torch.cdist(y.double(), y.double())[0, 1:] / torch.cdist(x, x)[0, 1:]
    assert ratio.tolist() == pytest.approx([math.sqrt(3 / 7)] * 399, rel=1e-4)


def test_the_lifted_model_says_the_same_of_the_samples() -> None:
    """KL, noise and squared error over γ are those of the coordinates; the Gaussian has four directions more."""
    x = samples(FLAT)
    directions = Directions(x)
    model = SPEC.build(3).double().eval()
    y = directions.of(x).double()
    lifted = directions.lifted(model, SPEC).double()
    with torch.no_grad():
        of_x, of_y = lifted(x, seed=9), model(y, seed=9)
    gamma, scale = float(of_x.log_gamma.exp()), math.sqrt(3 / 7)
    assert gamma == pytest.approx(math.exp(-2) / scale**2, rel=1e-6)
    torch.testing.assert_close(of_x.kl, of_y.kl, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_x.z, of_y.z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_x.recon / gamma, of_y.recon / math.exp(-2), rtol=1e-4, atol=1e-4)
    more = 2 * math.log(2 * math.pi * gamma) - 3 * math.log(scale)
    torch.testing.assert_close(of_x.nll, of_y.nll + more, rtol=1e-4, atol=1e-4)
    curve = directions.history(mc.History([5], [float((of_y.nll + of_y.kl).mean())], [math.exp(-2)], [3], 1.5))
    assert (curve.step, curve.active_dimensions, curve.seconds) == ([5], [3], 1.5)
    assert curve.gamma == pytest.approx([gamma], rel=1e-6)
    assert curve.neg_elbo == pytest.approx([float((of_x.nll + of_x.kl).mean())], rel=1e-4)


def test_the_lifted_model_stays_among_the_directions() -> None:
    x = samples(FLAT)
    directions = Directions(x)
    lifted = directions.lifted(SPEC.build(3), SPEC)
    assert not lifted.training
    drawn = lifted.sample(50).double()
    outside = drawn - drawn @ directions.basis @ directions.basis.T
    assert float(outside.abs().max()) < 1e-5 * float(drawn.abs().max())
