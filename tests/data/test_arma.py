import draws
import numpy as np
import pytest
import torch
from scipy import signal, stats

from manifold_core.data import arma_windows
from manifold_core.data.arma import arma_series
from manifold_core.errors import InputError

AR, MA, SCALE = (1, -0.5, 0.25, -0.4), (1, 0.65, 0.35), 0.5
BURN_IN = 500


def small(**changes):
    return arma_windows(**{"ambient_dim": 6, "n_series": 3, "n_train": 40, "n_validation": 8, **changes})


def psi_weights(ar, ma, n):
    """s = Σ ψ_j e_{l−j}: the power series θ(z)/φ(z), by long division."""
    rest, psi = np.zeros(n + len(ar) + len(ma)), []
    rest[: len(ma)] = ma
    for j in range(n):
        psi.append(rest[j])
        rest[j : j + len(ar)] -= psi[-1] * np.array(ar)
    return np.array(psi)


def autocovariances(n):
    """Of the paper's process at lags 0 to n − 1, from Σ_k φ_k γ(h − k) = σ² Σ_{j≥h} θ_j ψ_{j−h} (Yule and Walker)."""
    order, psi = len(AR) - 1, psi_weights(AR, MA, len(MA))
    right = [SCALE**2 * sum(MA[j] * psi[j - h] for j in range(h, len(MA))) for h in range(max(n, order + 1))]
    matrix = np.zeros((order + 1, order + 1))
    for h in range(order + 1):
        for k in range(order + 1):
            matrix[h, abs(h - k)] += AR[k]
    gamma = list(np.linalg.solve(matrix, right[: order + 1]))
    for h in range(order + 1, n):
        gamma.append(right[h] - sum(AR[k] * gamma[h - k] for k in range(1, order + 1)))
    return np.array(gamma[:n])


def all_steps(x, c):
    """The steps that the windows have been cut from."""
    return np.concatenate([c[0].numpy(), x.numpy()]).astype(np.float64)


def series_of(steps, seed, r):
    weight, bias = draws.projection(seed, steps.shape[1], r)
    return np.linalg.lstsq(weight, (steps - bias).T, rcond=None)[0].T


def test_the_two_ways_to_the_autocovariances_agree():
    psi = psi_weights(AR, MA, 300)
    np.testing.assert_allclose(autocovariances(8), [SCALE**2 * psi[h:] @ psi[: 300 - h] for h in range(8)], rtol=1e-12)


@pytest.mark.parametrize(("d", "r", "history", "seed"), [(20, 10, 5, 0), (7, 7, 1, 2**40 + 1), (3, 1, 8, -5)])
def test_agrees_with_numpy(d, r, history, seed):
    data = arma_windows(d, r, history=history, n_train=301, n_validation=33, seed=seed)
    weight, bias = draws.projection(seed, d, r)
    for purpose, x, c in (
        ("train", data.train, data.train_condition),
        ("validation", data.validation, data.validation_condition),
    ):
        normal, _ = draws.normals(draws.uniforms(seed, purpose, BURN_IN + history + len(x), 2 * r))
        series = signal.lfilter(MA, AR, SCALE * normal, axis=0)[BURN_IN:]
        steps = series @ weight.T + bias
        for i in range(len(x)):
            np.testing.assert_allclose(c[i].numpy(), steps[i : i + history], rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(x[i].numpy(), steps[i + history], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("ar", "ma"), [(AR, MA), ((1,), (1, 2, 3)), ((1, 0.9), (1,)), ((1, 0, 0, -0.5), (1, 0, 4))])
def test_answer_to_one_innovation_are_the_psi_weights(ar, ma):
    innovations = np.zeros((30, 2))
    innovations[0, 0], innovations[4, 1] = 1, -2
    series = arma_series(innovations, ar, ma)
    psi = psi_weights(ar, ma, 30)
    np.testing.assert_allclose(series[:, 0], psi, rtol=0, atol=1e-14)
    np.testing.assert_allclose(series[:, 1], np.concatenate([np.zeros(4), -2 * psi[:26]]), rtol=0, atol=1e-14)


def test_the_equation_holds_as_written_out():
    data = small(seed=2, n_train=500)
    s = series_of(all_steps(data.train, data.train_condition), 2, 3)
    e = SCALE * draws.normals(draws.uniforms(2, "train", BURN_IN + 505, 6))[0][BURN_IN:]
    left = s[3:] - 0.5 * s[2:-1] + 0.25 * s[1:-2] - 0.4 * s[:-3]
    np.testing.assert_allclose(left, e[3:] + 0.65 * e[2:-1] + 0.35 * e[1:-2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_autocovariances_are_the_theoretical_ones(part):
    data = arma_windows(n_train=60_000, n_validation=60_000, seed=3)
    x, c = getattr(data, part), getattr(data, f"{part}_condition")
    s = series_of(all_steps(x, c), 3, 10)
    expected = autocovariances(8)
    for h in range(8):
        per_series = (s[h:] * s[: len(s) - h]).mean(axis=0)  # the mean is 0
        assert stats.ttest_1samp(per_series, expected[h]).pvalue > 1e-3
        np.testing.assert_allclose(per_series.mean(), expected[h], rtol=0, atol=0.02 * expected[0])
    correlation = np.corrcoef(s.T)
    assert np.abs(correlation - np.eye(10)).max() < 0.05


def test_the_first_step_has_the_distribution_of_all():
    """Without a burn-in its variance would be that of one innovation, 0.25 in place of 0.91."""
    data = arma_windows(800, 600, n_train=1, n_validation=1, seed=4)
    for x, c in ((data.train, data.train_condition), (data.validation, data.validation_condition)):
        first = series_of(all_steps(x, c), 4, 600)[0]
        assert stats.kstest(first, stats.norm(0, np.sqrt(autocovariances(1)[0])).cdf).pvalue > 1e-3


def test_windows_begin_one_step_apart():
    data = small()
    for x, c in ((data.train, data.train_condition), (data.validation, data.validation_condition)):
        assert torch.equal(c[1:, :-1], c[:-1, 1:])
        assert torch.equal(c[1:, -1], x[:-1])


@pytest.mark.parametrize("history", [1, 5])
def test_a_window_shares_no_memory_with_another(history):
    data = small(history=history)
    before, x_before = data.train_condition.clone(), data.train.clone()
    data.train_condition[3] = 7
    assert torch.equal(data.train_condition[4:], before[4:])
    assert torch.equal(data.train_condition[:3], before[:3])
    assert torch.equal(data.train, x_before)
    data.train[5] = 8
    assert torch.equal(data.train_condition[4:], before[4:])


def test_training_and_validation_share_no_step_and_no_innovation():
    data = arma_windows(n_train=3_000, n_validation=3_000)
    train = all_steps(data.train, data.train_condition)
    validation = all_steps(data.validation, data.validation_condition)
    assert not {tuple(step) for step in train} & {tuple(step) for step in validation}
    one, other = series_of(train, 0, 10), series_of(validation, 0, 10)
    for shift in (-1_000, -500, -5, -1, 0, 1, 5, 500, 1_000):
        a, b = (one[shift:], other[: len(other) - shift]) if shift >= 0 else (one[:shift], other[-shift:])
        for j in range(10):
            assert abs(np.corrcoef(a[:, j], b[:, j])[0, 1]) < 0.2


def test_the_history_leaves_one_dimension_a_series():
    data = arma_windows(n_train=4_000, n_validation=1)
    x, c = data.train.numpy().astype(np.float64), data.train_condition.flatten(1).numpy().astype(np.float64)
    assert draws.rank(x) == 10
    assert draws.rank(c) == 50
    assert draws.rank(draws.residual(x, c)) == 10


def test_shapes_types_and_names():
    data = small(history=4)
    assert (data.name, data.manifold_dim) == ("arma-d6-r3", 3)
    assert (data.train.shape, data.train_condition.shape) == ((40, 6), (40, 4, 6))
    assert (data.validation.shape, data.validation_condition.shape) == ((8, 6), (8, 4, 6))
    assert data.train_labels is data.validation_labels is None
    for tensor in (data.train, data.train_condition, data.validation, data.validation_condition):
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()


def test_defaults_are_the_papers():
    data = arma_windows()
    assert (data.train.shape, data.train_condition.shape) == ((100_000, 20), (100_000, 5, 20))
    assert (data.validation.shape, data.validation_condition.shape) == ((10_000, 20), (10_000, 5, 20))
    assert data.manifold_dim == 10


def test_sizes_say_how_many_samples_and_never_which():
    data, more = small(), small(n_train=1_001, n_validation=99)
    assert torch.equal(more.train[:40], data.train)
    assert torch.equal(more.train_condition[:40], data.train_condition)
    assert torch.equal(more.validation[:8], data.validation)
    assert torch.equal(more.validation_condition[:8], data.validation_condition)
    one = small(n_train=1, n_validation=1)
    assert torch.equal(one.train, data.train[:1])
    assert torch.equal(one.validation_condition, data.validation_condition[:1])


def test_same_seed_same_data_without_the_global_generators():
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = small(seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpys).all()  # noqa: NPY002
    torch.manual_seed(123)
    assert torch.equal(small(seed=7).train, first.train)
    assert len({tuple(small(seed=seed).train[0].tolist()) for seed in (0, 1, -1, 2**32)}) == 4


def test_numpy_numbers_will_do():
    data = small(ambient_dim=np.int64(6), n_series=np.int32(3), history=np.int64(5))
    assert torch.equal(data.train_condition, small().train_condition)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("ambient_dim", 0),
        ("ambient_dim", 6.0),
        ("n_series", 0),
        ("n_series", 7),
        ("n_series", True),
        ("history", 0),
        ("history", 5.0),
        ("n_train", 0),
        ("n_train", "40"),
        ("n_validation", 0),
        ("n_validation", None),
        ("seed", 0.0),
    ],
)
def test_refuses(argument, value):
    with pytest.raises(InputError) as caught:
        small(**{argument: value})
    message = str(caught.value)
    assert message.startswith(f"{argument} must be ")
    assert message.endswith(f", got {value!r}")
