"""The directions in which samples vary, and models of their coordinates made models of the samples."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import manifold_core as mc
from manifold_core.search import directions
from manifold_core.search.directions import Directions

SPEC = mc.ModelSpec(3, (8, 4), log_gamma=-2.0, training=mc.TrainingConfig(seed=4))


def samples(variances: list[float], count: int = 400, seed: int = 0) -> Tensor:
    """Of these variances in directions that lie across the axes; standardised."""
    generator = np.random.default_rng(seed)
    turn = np.linalg.qr(generator.normal(size=(len(variances), len(variances))))[0]
    x = generator.normal(size=(count, len(variances))) * np.sqrt(variances) @ turn.T
    x -= x.mean(axis=0)
    return torch.from_numpy(x / x.std())


FLAT = [4.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("variances", "count"), [(FLAT, 3), ([1.0, 1.0, 1e-7], 3), ([1.0, 1.0, 1e-10], 2), ([5.0, 0.0], 1)]
)
def test_directions_without_variance_are_left_out(variances: list[float], count: int) -> None:
    assert Directions.of_samples(samples(variances), None).count == count


def test_rows_at_a_time_change_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    x = samples(FLAT).float() + 3  # also where the mean is not 0
    whole = Directions.of_samples(x, None)
    monkeypatch.setattr(directions, "ROWS", 30)
    found = Directions.of_samples(x, None)
    torch.testing.assert_close(found.basis.abs(), whole.basis.abs(), rtol=0, atol=1e-9)
    assert found.scale == pytest.approx(whole.scale, rel=1e-12)
    torch.testing.assert_close(whole.of(x), found.of(x) * (whole.of(x)[0] / found.of(x)[0]).nan_to_num().sign())
    centred = x.double() - x.double().mean(dim=0)
    assert float(whole.scale**2 * centred.square().sum() / 400) == pytest.approx(3, rel=1e-9)


@pytest.mark.parametrize("variances", [FLAT, [2.0**-i for i in range(12)]])
def test_of_fewer_samples_than_features_they_are_the_same(variances: list[float]) -> None:
    x = samples(variances, count=6)
    found = Directions.of_samples(x, None)
    count = min(5, sum(variance > 0 for variance in variances))  # six samples, less their mean
    assert found.count == count
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(count, dtype=torch.float64), rtol=0, atol=1e-9)
    _, singular, rows = torch.linalg.svd(x - x.mean(dim=0))
    assert float(singular[count - 1]) > 1e-3
    torch.testing.assert_close(found.basis @ found.basis.T, rows[:count].T @ rows[:count], rtol=0, atol=1e-9)
    assert float(found.of(x)[:, :-1].double().square().mean()) == pytest.approx(1, rel=1e-5)


def test_coordinates_have_a_scale_of_one_and_the_distances_of_the_samples() -> None:
    for variances, count in ((FLAT, 3), ([3.0, 1.0, 1e-3], 3)):
        x = samples(variances)
        y = Directions.of_samples(x, None).of(x.float())
        assert (y.shape, y.dtype) == ((400, count + 1), torch.float32)
        assert float(y.double().square().mean()) == pytest.approx(count / (count + 1), rel=1e-5)
        assert not y[:, -1].any()
        ratio = torch.cdist(y.double(), y.double())[0, 1:] / torch.cdist(x, x)[0, 1:]
        assert ratio.tolist() == pytest.approx([math.sqrt(count / len(variances))] * 399, rel=1e-4)


@pytest.mark.parametrize("mean", [0.0, 3.0])  # of images, which are standardised as a whole, a pixel has one
@pytest.mark.parametrize(("variances", "count"), [(FLAT, 3), ([3.0, 1.0, 1e-3], 3)])
def test_the_lifted_model_says_the_same_of_the_samples(variances: list[float], count: int, mean: float) -> None:
    """KL, noise, and squared error over γ but for that in the constant coordinate; the Gaussian has d features in place
    of q + 1."""
    x = samples(variances) + mean
    features, found = len(variances), Directions.of_samples(x, None)
    model = SPEC.build(count + 1).double().eval()
    y = found.of(x).double()
    lifted = found.lifted(model, SPEC).double()
    with torch.no_grad():
        of_x, of_y = lifted(x, seed=9), model(y, seed=9)
    scale = math.sqrt(count / features)
    gamma = float(of_x.log_gamma.exp())
    assert gamma == pytest.approx(math.exp(-2) / scale**2, rel=1e-6)
    torch.testing.assert_close(of_x.kl, of_y.kl, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_x.z, of_y.z, rtol=1e-4, atol=1e-5)
    constant = of_y.x_hat[:, -1].square()
    torch.testing.assert_close(of_x.recon / gamma, (of_y.recon - constant) / math.exp(-2), rtol=1e-4, atol=1e-4)
    more = (features - count - 1) / 2 * math.log(2 * math.pi * gamma) - (count + 1) * math.log(scale)
    torch.testing.assert_close(of_x.nll, of_y.nll - constant / 2 / math.exp(-2) + more, rtol=1e-4, atol=1e-4)
    loss = float((of_y.nll + of_y.kl - constant / 2 / math.exp(-2)).mean())
    curve = found.history(mc.History([5], [loss], [math.exp(-2)], [3], 1.5))
    assert (curve.step, curve.active_dimensions, curve.seconds) == ([5], [3], 1.5)
    assert curve.gamma == pytest.approx([gamma], rel=1e-6)
    assert curve.neg_elbo == pytest.approx([float((of_x.nll + of_x.kl).mean())], rel=1e-4)


@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_the_lifted_model_stays_among_the_directions(mean: float) -> None:
    x = samples(FLAT) + mean
    found = Directions.of_samples(x, None)
    lifted = found.lifted(SPEC.build(4), SPEC)
    assert not lifted.training
    drawn = lifted.sample(50).double() - mean
    outside = drawn - drawn @ found.basis @ found.basis.T
    assert float(outside.abs().max()) < 1e-5 * float(drawn.abs().max())


WIDE = [4.0, 3.0, 2.0, 0.5, 0.3, 0.0]


@pytest.mark.parametrize("count", [400, 5])  # also fewer samples than features
def test_the_widest_are_taken(count: int) -> None:
    x = samples(WIDE, count=count) + 3
    _, singular, rows = np.linalg.svd(x - x.mean(dim=0))
    found = Directions.of_samples(x, 2)
    np.testing.assert_allclose(found.basis @ found.basis.T, rows[:2].T @ rows[:2], rtol=0, atol=1e-6)
    assert found.share == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum(), rel=1e-6)
    assert found.left_out == pytest.approx((singular[2:] ** 2).sum() / count / len(WIDE), rel=1e-6)
    y = found.of(x)[:, :-1].double()
    assert float((y - y.mean(dim=0)).square().mean()) == pytest.approx(1, rel=1e-5)
    assert Directions.of_samples(x, 30).count == min(5, count - 1)
    assert Directions.of_samples(x, 30).share == 1


def test_what_is_left_out_adds_to_the_error_and_to_gamma() -> None:
    """The error is what γ says it is, in all coordinates but the constant one: then the curves are exact."""
    x = samples(WIDE) + 3
    found = Directions.of_samples(x, 2)
    y, outside = found.of(x).double(), x - x.mean(dim=0)
    outside = outside - outside @ found.basis @ found.basis.T
    model = SPEC.build(3).double().eval()
    with torch.no_grad():
        constant = model(y, seed=9).x_hat[:, -1].square()
        error = float((model(y, seed=9).recon - constant).mean())
        model.elbo.log_gamma.fill_(math.log(error / 3))
        lifted = found.lifted(model, SPEC).double()
        of_x, of_y = lifted(x, seed=9), model(y, seed=9)
    gamma = float(of_x.log_gamma.exp())
    assert gamma == pytest.approx(error / 3 / found.scale**2 + float(outside.square().mean()), rel=1e-6)
    torch.testing.assert_close(of_x.kl, of_y.kl, rtol=1e-4, atol=1e-5)
    recon = (of_y.recon - constant) / found.scale**2 + outside.square().sum(dim=1)
    torch.testing.assert_close(of_x.recon, recon, rtol=1e-4, atol=1e-4)
    loss = float((of_y.nll + of_y.kl).mean() - constant.mean() / 2 / (error / 3))
    curve = found.history(mc.History([5], [loss], [error / 3], [3], 1.5))
    assert curve.gamma == pytest.approx([gamma], rel=1e-6)
    assert curve.neg_elbo == pytest.approx([float((of_x.nll + of_x.kl).mean())], rel=1e-5)


def test_what_is_kept_is_taken(tmp_path: Path) -> None:
    x = samples([4.0, 1.0, 0.5, 0.0])
    made = Directions.kept_in(tmp_path, x, 2)
    kept = Directions.kept_in(tmp_path, x, None)
    assert (kept.scale, kept.count, kept.left_out) == (made.scale, 2, made.left_out)
    assert kept.left_out > 0.05
    assert torch.equal(kept.basis, made.basis)
    assert torch.equal(kept.offset, made.offset)
