"""Data sets and specifications that do not go together are refused, and the error says which."""

from typing import Any

import numpy as np
import pytest
import torch
from ensemble.kinds import kinds, toy
from torch import Tensor

import manifold_core as mc
from manifold_core.ensemble.data import check_data

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
STEPS = torch.stack((X.flip(0), X.flip(1)), dim=1)
IMAGES = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
FLOATS = "float32 [N, features] or [N, channels, height, width]"
VAE, CVAE, SEQUENTIAL = mc.ModelSpec(2), mc.ModelSpec(2, condition_dim=3), mc.SequentialSpec(2)


def spoilt(row: int, value: float) -> Tensor:
    x = X.clone()
    x[row, 1] = value
    return x


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data must hold at least one data set, got none"),
        (spoilt(7, float("nan")), "data[0]: x must be finite, but row 7 holds NaN or an infinity"),
        ([X, spoilt(0, float("inf"))], "data[1]: x must be finite, but row 0 holds NaN or an infinity"),
        ((X, spoilt(19, float("-inf"))), "data[0]: condition must be finite, but row 19 holds NaN or an infinity"),
        (
            X.double(),
            f"data[0]: x must be {FLOATS}, not empty, got torch.float64 (20, 4)",
        ),
        (
            (X, X.half()),
            "data[0]: condition must be float32 [N, features] or [N, steps, features], not empty, "
            "got torch.float16 (20, 4)",
        ),
        (
            (X, X.to(torch.complex64)),
            "data[0]: condition must be float32 [N, features] or [N, steps, features], not empty, "
            "got torch.complex64 (20, 4)",
        ),
        (
            X[0],
            f"data[0]: x must be {FLOATS}, not empty, got torch.float32 (4,)",
        ),
        (
            X[None],
            f"data[0]: x must be {FLOATS}, not empty, got torch.float32 (1, 20, 4)",
        ),
        (
            X[:0],
            f"data[0]: x must be {FLOATS}, not empty, got torch.float32 (0, 4)",
        ),
        (
            X[:, :0],
            f"data[0]: x must be {FLOATS}, not empty, got torch.float32 (20, 0)",
        ),
        (
            (X, X[:, :0]),
            "data[0]: condition must be float32 [N, features] or [N, steps, features], not empty, "
            "got torch.float32 (20, 0)",
        ),
        (
            (X, torch.arange(20)),
            "data[0]: condition must be float32 [N, features] or [N, steps, features], not empty, "
            "got torch.int64 (20,); for labels, torch.nn.functional.one_hot(labels)",
        ),
        (
            (X, torch.arange(20)[:, None] + 2**24 - 12),
            "data[0]: condition must hold integers that torch.float32 can hold, but row 13 has greater ones",
        ),
        (
            [X, STEPS],
            f"data[1]: x must be {FLOATS}, not empty, got torch.float32 (20, 2, 4); "
            "give x and its condition as a tuple (x, condition): a list holds data sets",
        ),
        ((X, X[:, None, None]), "[N, steps, features], not empty, got torch.float32 (20, 1, 1, 4)"),
        (
            (X, torch.stack((X, spoilt(3, float("nan"))), 1)),
            "data[0]: condition must be finite, but row 3 holds NaN or an infinity",
        ),
        ((X, X[:19]), "data[0]: condition must have 20 rows, one per sample, got 19"),
        ((X, X, X), "data[0] must be a tensor x or a pair (x, condition), got tuple"),
        ((), "data[0] must be a tensor x or a pair (x, condition), got tuple"),
        ((X, None), "data[0] must be a tensor x or a pair (x, condition), got tuple"),
        ([X, X.tolist()], "data[1] must be a tensor x or a pair (x, condition), got list"),
        (X.numpy(), "data[0] must be a tensor x or a pair (x, condition), got ndarray"),
        (None, "data[0] must be a tensor x or a pair (x, condition), got NoneType"),
        ([X, X.to("meta")], "data must lie on one device, got cpu, meta"),
    ],
)
def test_bad_data_are_named(backend: str, data: object, message: str) -> None:
    with pytest.raises(mc.InputError) as caught:
        mc.train_ensemble([VAE], data, backend=backend, progress=False)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("specs", "data", "message"),
    [
        ([], X, "specs must hold at least one specification, got none"),
        ([VAE, 3], X, "specs[1] must be a ModelSpec, a SequentialSpec or a ConvSpec, got int"),
        ([VAE, mc.ModelSpec(2, data=1)], X, "specs[1]: data must be an integer from 0 to 0, got 1"),
        (
            [CVAE],
            X,
            "specs[0]: condition_dim must be the width of the condition of data[0], 0: it has none, got 3; "
            "give x and its condition as a tuple (x, condition): a list holds data sets",
        ),
        ([VAE], (X, X), "specs[0]: condition_dim must be the width of the condition of data[0], 4, got 0"),
        (
            [VAE, mc.ModelSpec(2, condition_dim=3, data=1)],
            [X, (X, X)],
            "specs[1]: condition_dim must be the width of the condition of data[1], 4, got 3",
        ),
        (
            [SEQUENTIAL],
            X,
            "specs[0]: condition of data[0] must be [N, steps, 4], the steps before x, got none; give x and its "
            "condition as a tuple",
        ),
        (
            [SEQUENTIAL],
            (X, X),
            "specs[0]: condition of data[0] must be [N, steps, 4], the steps before x, got shape (20, 4)",
        ),
        (
            [mc.SequentialSpec(2, data=1)],
            [X, (X, STEPS[:, :, :3])],
            "specs[0]: condition of data[1] must be [N, steps, 4], the steps before x, got shape (20, 2, 3)",
        ),
        *(
            (
                [mc.SequentialSpec(2), spec],
                (X, STEPS),
                "specs[1]: data[0] must have a condition [N, features] for a ModelSpec, "
                "got a condition of shape (20, 2, 4)",
            )
            for spec in (VAE, mc.ModelSpec(2, condition_dim=4), mc.ModelSpec(2, condition_dim=8))
        ),
        *(
            (
                [mc.ConvSpec(2)],
                data,
                "specs[0]: x of data[0] must be images [N, channels, height, width] for a ConvSpec, height and width "
                f"multiples of 4, got {shape}",
            )
            for data, shape in ((X, (20, 4)), (IMAGES[:, :, :6], (20, 1, 6, 8)))
        ),
        ([VAE], IMAGES, "specs[0]: x of data[0] must be [N, features] for a ModelSpec, got (20, 1, 8, 8)"),
        (
            [SEQUENTIAL],
            (IMAGES, STEPS),
            "specs[0]: x of data[0] must be [N, features] for a SequentialSpec, got (20, 1",
        ),
        (
            [mc.ConvSpec(2, condition_dim=3)],
            IMAGES,
            "specs[0]: condition_dim must be the width of the condition of data[0], 0: it has none, got 3",
        ),
        (
            [mc.ConvSpec(2)],
            (IMAGES, X),
            "specs[0]: condition_dim must be the width of the condition of data[0], 4, got 0",
        ),
        (
            [mc.ConvSpec(2)],
            (IMAGES, STEPS),
            "specs[0]: data[0] must have a condition [N, features] for a ConvSpec, got a condition of shape (20, 2, 4)",
        ),
    ],
)
def test_a_specification_has_to_go_with_its_data(backend: str, specs: object, data: object, message: str) -> None:
    with pytest.raises(mc.InputError) as caught:
        mc.train_ensemble(specs, data, backend=backend, progress=False)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_strided_data_are_the_same_data(backend: str) -> None:
    """To the engine bit for bit; PyTorch's matrix products, which measure the models, round by the strides on some
    processors."""
    x, (second, condition) = toy()
    wide = torch.full((700, 40), float("nan"))
    strided = wide[:, 1:10].copy_(x), (wide[:, 10:24:2].copy_(second), condition.t().contiguous().t())
    assert not any(part.is_contiguous() for part in (strided[0], *strided[1]))
    specs = kinds(3)[4:8]
    found = mc.train_ensemble(specs, list(strided), backend=backend, progress=False)
    expected = mc.train_ensemble(specs, toy(), backend=backend, progress=False)
    for a, b in zip(found, expected, strict=True):
        measured, wanted = vars(a.metrics), vars(b.metrics)
        assert measured.keys() == wanted.keys()
        for name, value in wanted.items():
            rounded = isinstance(value, float | list | tuple)
            assert measured[name] == (pytest.approx(value, rel=1e-5) if rounded else value), name
        for name, tensor in b.model.state_dict().items():
            same = a.model.state_dict()[name]
            assert torch.equal(same, tensor) or backend == "reference"
            torch.testing.assert_close(same, tensor, rtol=1e-5, atol=1e-6)


def test_fingerprints_tell_data_apart() -> None:
    same, swapped = check_data([(X, X[:, :2]), (X.clone(), X[:, :2].clone())]), X.flip(0)
    assert same[0].fingerprint() == same[1].fingerprint()
    others = check_data(
        [X, (X, X[:, 1:3]), swapped, (swapped, X[:, :2]), spoilt(3, 0.5), (X, STEPS), (X, STEPS.flip(1))]
    )
    assert len({found.fingerprint() for found in (same[0], *others)}) == 8


def test_labels_in_one_hot_form_are_numbers(backend: str) -> None:
    """As for :func:`manifold_core.train`: integers and booleans, the numbers that they are as float32."""
    hot = torch.nn.functional.one_hot(torch.arange(20) % 3, 3)
    spec = mc.ModelSpec(2, condition_dim=3, training=mc.TrainingConfig(steps=3, batch_size=8))
    (expected,) = mc.train_ensemble([spec], (X, hot.float()), backend=backend, progress=False)
    for given in (hot, hot.bool(), hot.to(torch.uint8)):
        (found,) = mc.train_ensemble([spec], (X, given), backend=backend, progress=False)
        for name, tensor in expected.model.state_dict().items():
            assert torch.equal(found.model.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (torch.randn(9, 4).to_sparse(), r"data\[0\]: x must be dense, got .* x\.to_dense\(\)"),
        (np.zeros((9, 4)), r"data\[0\] must be a tensor x or a pair .*, got ndarray; torch\.as_tensor"),
        (torch.zeros(9, 4, dtype=torch.uint8), r"got torch\.uint8 \(9, 4\); x\.float\(\) converts it"),
        (
            (torch.randn(9, 4), torch.randn(9, 4)),
            r"condition_dim must be .*, 4, got 0; give x and its condition as a tuple",
        ),
    ],
)
def test_what_is_given_in_another_form_is_told_how_to_be_given(data: Any, said: str) -> None:
    with pytest.raises(mc.InputError, match=said):
        mc.train_ensemble([mc.ModelSpec(2, (8,))], data, progress=False)


def test_nothing_is_trained_in_inference_mode() -> None:
    with torch.inference_mode(), pytest.raises(mc.InputError, match=r"outside of torch\.inference_mode"):
        mc.train_ensemble([mc.ModelSpec(2, (8,))], torch.randn(9, 4), progress=False)
