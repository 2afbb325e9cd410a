import draws
import numpy as np
import pytest
import torch

from manifold_core.data import union_of_manifolds
from manifold_core.errors import InputError

DIMS = (3, 1, 3)


def small(**changes):
    return union_of_manifolds(
        **{"ambient_dim": 6, "manifold_dims": DIMS, "n_train": 40, "n_validation": 8, **changes},
    )


@pytest.mark.parametrize(("d", "dims", "seed"), [(20, (1, 2, 3, 4, 5), 0), (4, (4,), 9), (5, (2, 2, 1), -5)])
def test_agrees_with_numpy(d, dims, seed):
    data = union_of_manifolds(d, dims, n_train=502, n_validation=33, seed=seed)
    for purpose, x in (("train", data.train), ("validation", data.validation)):
        for k, r in enumerate(dims):
            of_class = x[k :: len(dims)].numpy()
            u = draws.latents(seed, purpose, len(of_class), r, place=f"class {k}/")
            expected = draws.x(u, *draws.projection(seed, d, r, place=f"class {k}/"))
            np.testing.assert_allclose(of_class, expected, rtol=1e-6, atol=0)


def test_each_class_has_its_dimension_and_a_place_of_its_own():
    dims = (1, 2, 3, 4, 5)
    data = union_of_manifolds(20, dims, n_train=20_000, n_validation=1, seed=1)
    for k, r in enumerate(dims):
        logits, _ = draws.logits(data.train[data.train_labels == k].numpy())
        assert len(logits) > 400
        assert draws.rank(logits) == r
        for other, other_dim in enumerate(dims):
            weight, bias = draws.projection(1, 20, other_dim, place=f"class {other}/")
            off = draws.residual((logits - bias).T, weight)
            assert (np.abs(off).max() < 1e-4) == (other == k)


def test_condition_and_labels_are_the_class():
    for data in (small(), small(n_train=3, n_validation=1)):
        for n, c, labels in (
            (len(data.train), data.train_condition, data.train_labels),
            (len(data.validation), data.validation_condition, data.validation_labels),
        ):
            assert labels.tolist() == [i % 3 for i in range(n)]
            assert labels.dtype == torch.int64
            assert c.dtype == torch.float32
            assert c.tolist() == [[float(i % 3 == k) for k in range(3)] for i in range(n)]
    assert torch.bincount(small(n_train=41).train_labels).tolist() == [14, 14, 13]


def test_shapes_types_and_names():
    data = small()
    assert data.name == "union-d6-r3-1-3"
    assert (data.train.shape, data.validation.shape) == ((40, 6), (8, 6))
    assert data.train.dtype == data.validation.dtype == torch.float32
    assert data.manifold_dim is None


def test_defaults_are_the_papers():
    data = union_of_manifolds()
    assert (data.train.shape, data.train_condition.shape) == ((100_000, 20), (100_000, 5))
    assert (data.validation.shape, data.validation_condition.shape) == ((10_000, 20), (10_000, 5))
    assert torch.bincount(data.train_labels).tolist() == [20_000] * 5
    assert 0 <= data.train.min() < data.train.max() <= 1


def test_classes_of_equal_dimension_are_different():
    x = small().train
    first, third = x[0::3][:13], x[2::3]
    assert ((first - third).abs() > 1e-6).any(dim=1).all()


def test_a_class_keeps_its_samples_whatever_stands_behind_it():
    data, alone = small(n_train=39), small(n_train=13, manifold_dims=DIMS[:1])
    assert torch.equal(alone.train, data.train[::3])
    pair = small(n_train=26, manifold_dims=DIMS[:2])
    assert torch.equal(pair.train[1::2], data.train[1::3])


def test_sizes_say_how_many_samples_and_never_which():
    data, more = small(), small(n_train=44, n_validation=99)
    assert torch.equal(more.train[:40], data.train)
    assert torch.equal(more.validation[:8], data.validation)
    assert not torch.equal(data.train[:8], data.validation)
    one = small(n_train=1, n_validation=1)  # fewer than classes
    assert torch.equal(one.train, data.train[:1])
    assert torch.equal(one.validation, data.validation[:1])


def test_same_seed_same_data_without_the_global_generator():
    before = torch.get_rng_state()
    first = small(seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(small(seed=7).train, first.train)
    assert len({tuple(small(seed=seed).train[1].tolist()) for seed in (0, 1, -1, 2**32)}) == 4


def test_numpy_numbers_will_do():
    data = small(ambient_dim=np.int64(6), manifold_dims=np.array(DIMS))
    assert torch.equal(data.train, small().train)
    assert data.name == small().name


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("ambient_dim", 0),
        ("ambient_dim", 6.0),
        ("n_train", 0),
        ("n_train", True),
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


@pytest.mark.parametrize("value", [(), (0, 1), (1, 7), (1.0, 2), (True, 2), "12", 3, None, [(1, 2)], np.array(3)])
def test_refuses_manifold_dims(value):
    with pytest.raises(InputError) as caught:
        small(manifold_dims=value)
    assert str(caught.value) == f"manifold_dims must be one or more integers from 1 to ambient_dim, 6, got {value!r}"
