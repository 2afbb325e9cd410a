import draws
import numpy as np
import pytest
import torch

from manifold_core.data import conditional_manifold, synthetic_manifold, varying_condition
from manifold_core.errors import InputError

DIMS = (4, 1, 3)


def small(**changes):
    sizes = {"ambient_dim": 6, "manifold_dim": 4, "condition_dim": 3, "n_train": 40, "n_validation": 8}
    return conditional_manifold(**{**sizes, **changes})


def small_varying(**changes):
    sizes = {"ambient_dim": 6, "manifold_dim": 4, "condition_dims": DIMS, "n_train": 40, "n_validation": 8}
    return varying_condition(**{**sizes, **changes})


def parts(data):
    return [
        ("train", data.train, data.train_condition, data.train_labels),
        ("validation", data.validation, data.validation_condition, data.validation_labels),
    ]


@pytest.mark.parametrize(("d", "r", "t", "seed"), [(20, 10, 5, 0), (7, 7, 7, 2**40 + 1), (3, 2, 1, -5)])
def test_agrees_with_numpy(d, r, t, seed):
    data = conditional_manifold(d, r, t, n_train=501, n_validation=33, seed=seed)
    for purpose, x, c, _ in parts(data):
        u = draws.latents(seed, purpose, len(x), r)
        np.testing.assert_allclose(c.numpy(), u[:, :t], rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(x.numpy(), draws.x(u, *draws.projection(seed, d, r)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", [0, 11])
def test_varying_agrees_with_numpy(seed):
    data = varying_condition(9, 5, (2, 5, 1), n_train=500, n_validation=31, seed=seed)
    for purpose, x, c, labels in parts(data):
        u = draws.latents(seed, purpose, len(x), 5)
        seen = u.copy()
        for i in range(len(x)):
            seen[i, (2, 5, 1)[i % 3] :] = 0
        np.testing.assert_allclose(c.numpy(), seen, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(x.numpy(), draws.x(u, *draws.projection(seed, 9, 5)), rtol=1e-6, atol=0)
        assert labels.tolist() == [i % 3 for i in range(len(x))]


@pytest.mark.parametrize("seed", [0, 4])
def test_the_samples_are_those_of_the_synthetic_manifold(seed):
    plain = synthetic_manifold(6, 4, n_train=40, n_validation=8, seed=seed)
    for data in (small(seed=seed), small(condition_dim=1, seed=seed), small_varying(seed=seed)):
        assert torch.equal(data.train, plain.train)
        assert torch.equal(data.validation, plain.validation)


@pytest.mark.parametrize("t", [1, 5, 9, 10])
def test_condition_leaves_r_minus_t_dimensions(t):
    data = conditional_manifold(20, 10, t, n_train=4_000, n_validation=1, seed=1)
    logits, kept = draws.logits(data.train.numpy())
    c = data.train_condition.numpy()[kept].astype(np.float64)
    assert len(c) > 200
    weight, bias = draws.projection(1, 20, 10)
    latents = np.linalg.lstsq(weight, (logits - bias).T, rcond=None)[0].T
    np.testing.assert_allclose(c, latents[:, :t], rtol=0, atol=1e-4)

    left = draws.residual(logits, c)
    singular = np.linalg.svd(left, compute_uv=False)
    assert int((singular > 1e-5 * np.linalg.norm(logits)).sum()) == 10 - t


def test_varying_condition_leaves_r_minus_t_dimensions():
    data = varying_condition(n_train=20_000, n_validation=1, seed=2)
    logits, kept = draws.logits(data.train.numpy())
    c, labels = data.train_condition.numpy()[kept].astype(np.float64), data.train_labels.numpy()[kept]
    for k, t in enumerate((2, 4, 6, 8, 10)):
        assert (labels == k).sum() > 100
        assert (c[labels == k, :t] != 0).all()
        assert (c[labels == k, t:] == 0).all()
        left = draws.residual(logits[labels == k], c[labels == k])
        singular = np.linalg.svd(left, compute_uv=False)
        assert int((singular > 1e-5 * np.linalg.norm(logits[labels == k])).sum()) == 12 - t


def test_varying_condition_shows_what_the_conditional_manifold_shows():
    data = small_varying()
    for k, t in enumerate(DIMS):
        c = small(condition_dim=t).train_condition
        assert torch.equal(data.train_condition[k::3, :t], c[k::3])
        assert not data.train_condition[k::3, t:].any()


def test_shapes_types_and_names():
    data = small()
    assert (data.name, data.manifold_dim) == ("conditional-d6-r4-t3", 4)
    assert data.train_labels is data.validation_labels is None
    assert (data.train.shape, data.train_condition.shape) == ((40, 6), (40, 3))
    assert (data.validation.shape, data.validation_condition.shape) == ((8, 6), (8, 3))
    varying = small_varying()
    assert (varying.name, varying.manifold_dim) == ("varying-d6-r4-t4-1-3", 4)
    assert (varying.train_condition.shape, varying.validation_condition.shape) == ((40, 4), (8, 4))
    assert small_varying(condition_dims=(1, 2)).train_condition.shape == (40, 2)
    assert varying.train_labels.dtype == varying.validation_labels.dtype == torch.int64
    for _, x, c, _ in parts(data) + parts(varying):
        assert x.dtype == c.dtype == torch.float32
        assert c.is_contiguous()


@pytest.mark.parametrize(
    ("make", "r", "t"), [(conditional_manifold, 10, 5), (varying_condition, 12, 10)], ids=["conditional", "varying"]
)
def test_defaults_are_the_papers(make, r, t):
    data = make()
    assert (data.train.shape, data.train_condition.shape) == ((100_000, 20), (100_000, t))
    assert (data.validation.shape, data.validation_condition.shape) == ((10_000, 20), (10_000, t))
    assert data.manifold_dim == r
    assert torch.isfinite(data.train_condition).all()


@pytest.mark.parametrize("make", [small, small_varying])
class TestBoth:
    def test_sizes_say_how_many_samples_and_never_which(self, make):
        data, more = make(), make(n_train=43, n_validation=99)
        for (_, x, c, labels), (_, more_x, more_c, more_labels) in zip(parts(data), parts(more), strict=True):
            assert torch.equal(more_x[: len(x)], x)
            assert torch.equal(more_c[: len(c)], c)
            assert labels is None or torch.equal(more_labels[: len(labels)], labels)
        assert not torch.equal(data.train_condition[:8], data.validation_condition)
        one = make(n_train=1, n_validation=1)
        assert torch.equal(one.train_condition, data.train_condition[:1])

    def test_same_seed_same_data_without_the_global_generator(self, make):
        before = torch.get_rng_state()
        first = make(seed=7)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(123)
        assert torch.equal(make(seed=7).train_condition, first.train_condition)
        assert len({tuple(make(seed=seed).train_condition[0].tolist()) for seed in (0, 1, -1, 2**32)}) == 4

    def test_numpy_numbers_will_do(self, make):
        changes = {"ambient_dim": np.int64(6), "manifold_dim": np.int32(4), "seed": np.int64(0)}
        if make is small:
            changes["condition_dim"] = np.int64(3)
        else:
            changes["condition_dims"] = np.array(DIMS)
        data = make(**changes)
        assert torch.equal(data.train_condition, make().train_condition)
        assert data.name == make().name
        assert type(data.manifold_dim) is int

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("ambient_dim", 0),
            ("manifold_dim", 7),
            ("manifold_dim", 4.0),
            ("n_train", 0),
            ("n_train", True),
            ("n_validation", 0),
            ("n_validation", None),
            ("seed", 0.0),
        ],
    )
    def test_refuses(self, make, argument, value):
        with pytest.raises(InputError) as caught:
            make(**{argument: value})
        message = str(caught.value)
        assert message.startswith(f"{argument} must be ")
        assert message.endswith(f", got {value!r}")


@pytest.mark.parametrize("value", [0, 5, -1, 2.0, True, "2", None])
def test_refuses_condition_dim(value):
    with pytest.raises(InputError) as caught:
        small(condition_dim=value)
    message = str(caught.value)
    assert message.startswith("condition_dim must be ")
    assert message.endswith(f", got {value!r}")


@pytest.mark.parametrize("value", [(), (0, 1), (1, 5), (1.0, 2), (True, 2), "12", 3, None, [(1, 2)], np.array(3)])
def test_refuses_condition_dims(value):
    with pytest.raises(InputError) as caught:
        small_varying(condition_dims=value)
    assert str(caught.value) == f"condition_dims must be one or more integers from 1 to manifold_dim, 4, got {value!r}"
