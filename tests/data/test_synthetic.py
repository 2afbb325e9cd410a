import math

import draws
import numpy as np
import pytest
import torch
from scipy import stats

from manifold_core.data import synthetic_manifold
from manifold_core.data.seeds import stream
from manifold_core.data.synthetic import (
    GaussianMixture,
    gaussian_mixture,
    project,
    random_projection,
    sample_latents,
)
from manifold_core.errors import InputError

WEIGHTS = draws.WEIGHTS


def small(**changes):
    return synthetic_manifold(**{"ambient_dim": 5, "manifold_dim": 2, "n_train": 40, "n_validation": 8, **changes})


@pytest.mark.parametrize(("d", "r", "seed"), [(20, 6, 0), (7, 7, 2**40 + 1), (3, 1, -5)])
def test_agrees_with_numpy(d, r, seed):
    data = synthetic_manifold(d, r, n_train=501, n_validation=33, seed=seed)
    for purpose, x in (("train", data.train), ("validation", data.validation)):
        expected = draws.x(draws.latents(seed, purpose, len(x), r), *draws.projection(seed, d, r))
        np.testing.assert_allclose(x.numpy(), expected, rtol=1e-6, atol=0)


def test_known_answers():
    data = small(seed=3)
    first = [0.8548079, 0.2059654, 0.3865631, 0.3464948, 0.6372845]
    last = [0.9578758, 0.0812628, 0.2945154, 0.0914786, 0.4007793]
    last_validation = [0.8554943, 0.2424909, 0.2367564, 0.1019722, 0.3031637]
    np.testing.assert_allclose(data.train[0].numpy(), first, rtol=1e-6)
    np.testing.assert_allclose(data.train[-1].numpy(), last, rtol=1e-6)
    np.testing.assert_allclose(data.validation[-1].numpy(), last_validation, rtol=1e-6)


def test_shapes_types_and_names():
    data = small()
    assert data.name == "synthetic-d5-r2"
    assert data.train.shape == (40, 5)
    assert data.validation.shape == (8, 5)
    assert data.train.dtype == data.validation.dtype == torch.float32
    assert data.manifold_dim == 2
    assert data.train_labels is None
    assert data.validation_labels is None


def test_defaults_are_the_papers():
    data = synthetic_manifold()
    assert data.train.shape == (100_000, 20)
    assert data.validation.shape == (10_000, 20)
    assert torch.isfinite(data.train).all()
    assert 0 <= data.train.min() < data.train.max() <= 1


@pytest.mark.parametrize(("d", "r"), [(20, 6), (10, 9), (4, 1), (6, 6)])
def test_logits_span_exactly_r_dimensions(d, r):
    x = synthetic_manifold(d, r, n_train=4_000, n_validation=1, seed=1).train.double()
    x = x[((x > 0.05) & (x < 0.95)).all(dim=1)]  # where float32 has kept the logit's digits
    assert len(x) > 10 * d
    logits = torch.logit(x)
    singular = torch.linalg.svdvals(logits - logits.mean(dim=0))
    assert int((singular > 1e-5 * singular[0]).sum()) == r

    weight, bias = random_projection(d, r, stream(1, "projection"))
    latents = torch.linalg.lstsq(weight, (logits - bias).T).solution
    torch.testing.assert_close(weight @ latents, (logits - bias).T, rtol=0, atol=1e-5)


def test_projection_is_exact_in_float64():
    weight, bias = random_projection(9, 4, stream(0, "projection"))
    u = torch.randn(300, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits = torch.logit(project(u, weight, bias)) - bias
    assert int(torch.linalg.matrix_rank(logits, rtol=1e-12)) == 4
    torch.testing.assert_close(logits, torch.einsum("dr,nr->nd", weight, u), rtol=0, atol=1e-12)


def test_projection_entries_fill_their_range():
    weight, bias = random_projection(4_000, 4, stream(0, "projection"))
    for entries in (weight.flatten(), bias):
        assert stats.kstest(entries.numpy(), stats.uniform(-0.5, 1).cdf).pvalue > 1e-3


def test_latents_have_the_mixtures_distribution():
    mixture = gaussian_mixture(3, stream(2, "mixture"))
    u = sample_latents(mixture, 20_000, stream(2, "train")).numpy()
    share = np.array(WEIGHTS) / sum(WEIGHTS)
    means, spreads = mixture.means.numpy(), np.sqrt(mixture.stds.numpy() ** 2 + 1)
    for j in range(3):
        p = stats.kstest(u[:, j], lambda t, j=j: stats.norm.cdf(t[:, None], means[:, j], spreads[:, j]) @ share).pvalue
        assert p > 1e-3
    mean = share @ means
    covariance = np.einsum("k,ki,kj->ij", share, means - mean, means - mean) + np.diag(share @ spreads**2)
    np.testing.assert_allclose(np.cov(u.T), covariance, atol=0.05 * covariance.max())


def test_means_and_log_stds_are_standard_normal():
    mixture = gaussian_mixture(500, stream(0, "mixture"))
    means, log_stds = mixture.means.flatten().numpy(), mixture.stds.log().flatten().numpy()
    assert stats.kstest(means, "norm").pvalue > 1e-3
    assert stats.kstest(log_stds, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(means, log_stds)[0, 1]) < 0.08


def test_components_come_by_weight():
    apart = GaussianMixture(
        means=100 * torch.arange(5.0, dtype=torch.float64)[:, None],  # so far that the noise of 1 leaves them apart
        stds=torch.full((5, 1), 1e-6, dtype=torch.float64),
    )
    u = sample_latents(apart, 10_000, stream(0, "train"))
    counts = torch.bincount((u / 100).round().long().flatten(), minlength=5).tolist()
    for count, weight in zip(counts, WEIGHTS, strict=True):
        share = weight / sum(WEIGHTS)
        assert abs(count - 10_000 * share) < 5 * math.sqrt(10_000 * share * (1 - share))


def test_sizes_say_how_many_samples_and_never_which():
    data = small()
    more = small(n_train=41, n_validation=99)
    assert torch.equal(more.train[:40], data.train)
    assert torch.equal(more.validation[:8], data.validation)
    assert not torch.equal(data.train[:8], data.validation)


def test_same_seed_same_data_without_the_global_generator():
    before = torch.get_rng_state()
    first = small(seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    again = small(seed=7)
    assert torch.equal(first.train, again.train)
    assert torch.equal(first.validation, again.validation)


def test_seeds_differ_beyond_32_bits():
    values = {tuple(small(seed=seed).train[0].tolist()) for seed in (0, 1, -1, 2**32, 2**64)}
    assert len(values) == 5


def test_numpy_numbers_will_do():
    data = small(ambient_dim=np.int64(5), seed=np.int32(0))
    assert torch.equal(data.train, small().train)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("ambient_dim", 0),
        ("ambient_dim", 5.0),
        ("ambient_dim", True),
        ("manifold_dim", 0),
        ("manifold_dim", 6),
        ("manifold_dim", "2"),
        ("n_train", 0),
        ("n_train", 1e3),
        ("n_validation", 0),
        ("n_validation", None),
        ("seed", 0.0),
        ("seed", None),
    ],
)
def test_refuses(argument, value):
    with pytest.raises(InputError) as caught:
        small(**{argument: value})
    message = str(caught.value)
    assert message.startswith(f"{argument} must be ")
    assert message.endswith(f", got {value!r}")
