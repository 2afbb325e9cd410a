"""explain says of the op of a layer what the op does, and which limit it is beyond."""

from types import SimpleNamespace

import pytest
import torch
from instruction_sets import NEEDS_COMPILED
from manifold_core.kernels import Choice, conv_norm, conv_transpose, explain, lstm
from recording import operators_of
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

NO_CUDA = "the CUDA kernels are not built"
BY_CPU = Choice("cpu", "compiled kernels for CPU tensors")


def of_lstm(batch: int, length: int, hidden: int) -> list[Tensor]:
    shapes = (batch, length, 3), (4 * hidden, 3), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,)
    return [torch.zeros(shape) for shape in shapes]


def of_conv(batch: int, channels: int, size: int, device: str = "cpu") -> list[Tensor]:
    shapes = (batch, channels, size, size), (channels, channels, 3, 3), (channels,), (channels,)
    return [torch.empty(shape, device=device) for shape in shapes]


@NEEDS_COMPILED
@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ((1, 20, 32), None),
        ((16, 20, 64), None),
        ((15, 20, 33), "PyTorch is faster with 33 units and 15 samples, fewer than 16"),
        ((127, 20, 65), "PyTorch is faster with 65 units and 127 samples, fewer than 128"),
        ((500, 2, 257), "PyTorch is faster with 257 units, more than 256"),
        ((1, 2000, 32), "63 samples that fill up a tile would take 20,160,000 numbers, more than 16,777,216"),
    ],
)
def test_lstm(sizes: tuple[int, int, int], reason: str | None) -> None:
    tensors = of_lstm(*sizes)
    expected = BY_CPU if reason is None else Choice("reference", reason)
    assert explain(*tensors, op="lstm") == expected
    assert explain(*tensors, op="lstm", backend="cpu") == Choice("cpu", "asked for by name")
    ours = "manifold_core.lstm.default" in operators_of(lambda: lstm(*tensors))
    assert ours == (expected.backend == "cpu")


@NEEDS_COMPILED
@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ((8, 5, 14), None),
        ((32, 16, 28), None),
        ((7, 5, 14), "PyTorch is faster with 5 × 5 channels and 7 samples, fewer than 8"),
        ((31, 16, 4), "PyTorch is faster with 16 × 16 channels and 31 samples, fewer than 32"),
        ((32, 46, 4), "PyTorch is faster with 46 × 46 channels, more than 2,048 in all"),
        ((32, 16, 46), "PyTorch is faster with images of 33,856 numbers, more than 32,768"),
    ],
)
def test_convolutions(sizes: tuple[int, int, int], reason: str | None) -> None:
    expected = BY_CPU if reason is None else Choice("reference", reason)
    tensors = of_conv(*sizes)
    for op, function, of_op in (("conv_norm", conv_norm, tensors), ("conv_transpose", conv_transpose, tensors[:3])):
        assert explain(*of_op, op=op) == expected
        assert explain(*of_op, op=op, backend="reference") == Choice("reference", "asked for by name")
        ours = f"manifold_core.{op}.default" in operators_of(lambda f=function, given=of_op: f(*given))
        assert ours == (expected.backend == "cpu")
    assert explain(*tensors, None, op="conv_norm") == expected  # without a residual
    assert explain(*tensors) == BY_CPU  # an op of the ELBO has no such limits


@NEEDS_COMPILED
def test_what_no_kernel_takes() -> None:
    wide, of_none = ([tensor.double() for tensor in of_lstm(9, 2, 3)], of_conv(0, 5, 14))
    takes = "backend 'cpu' takes tensors of one dtype, torch.float32"
    expected = f"{takes}, each with at least one element, got torch.float64, (9, 2, 3)"
    assert explain(*wide, op="lstm") == Choice("reference", expected)
    expected = f"{takes} or torch.float64, each with at least one element, got torch.float32, (0, 5, 14, 14)"
    assert explain(*of_none, op="conv_norm") == Choice("reference", expected)
    with pytest.raises(RuntimeError, match=r"cannot serve this call: it takes .*, got torch.float64, \(9, 2, 3\)$"):
        explain(*wide, op="lstm", backend="cpu")


@pytest.mark.parametrize("cuda", [True, False])
def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch, cuda: bool) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("manifold_core.kernels.extension.cuda_missing_because", "" if cuda else NO_CUDA)
    monkeypatch.setattr("manifold_core.kernels.dispatch.TRITON_INSTALLED", True)
    a100 = SimpleNamespace(name="A100", major=8, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: a100)
    with FakeTensorMode():
        tensors = of_conv(2, 5, 14, "cuda")
        without = Choice("reference", f"for this layer there is 'cpu' and 'cuda'; {NO_CUDA}")
        expected = Choice("cuda", "compiled kernels for CUDA tensors") if cuda else without
        assert explain(*tensors, op="conv_norm") == expected
        assert explain(*tensors[:3], op="conv_transpose") == Choice("reference", "for this layer there is 'cpu'")


def test_where_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manifold_core.kernels.extension.compiled", None)
    monkeypatch.setattr("manifold_core.kernels.extension.missing_because", "it is not built {yet}")
    assert explain(*of_lstm(20, 2, 3), op="lstm") == Choice("reference", "it is not built {yet}")


def test_other_tensors_and_names_are_refused() -> None:
    x, *weights = of_lstm(20, 2, 3)
    with pytest.raises(ValueError, match=r"those of lstm, the first of \[3, 2, 2\] dimensions, got \[3, 2\]$"):
        explain(x, weights[0], op="lstm")
    with pytest.raises(ValueError, match=r"those of conv_norm, the first of \[4, 4\] dimensions, got \[3, 2\]$"):
        explain(x, *weights, op="conv_norm")
    with pytest.raises(ValueError, match=r"one of 'lstm', 'conv_norm', 'conv_transpose', or None, got 'gru'"):
        explain(x, *weights, op="gru")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"'triton' cannot serve this call: for this layer there is 'cpu'$"):
        explain(x, *weights, op="lstm", backend="triton")
