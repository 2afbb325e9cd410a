"""The LSTM of the networks of sequences: what PyTorch's own computes, whoever computes it."""

from collections.abc import Callable

import pytest
import torch
from instruction_sets import NEEDS_COMPILED
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import manifold_core as mc
from manifold_core.networks.lstm import LSTM

pytestmark = NEEDS_COMPILED


class Seen(TorchDispatchMode):
    """How often ours is called."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += str(function) == "manifold_core.lstm.default"
        return function(*args, **(kwargs or {}))


def calls(of: Callable[[], object]) -> int:
    with Seen() as mode:
        of()
    return mode.count


@pytest.fixture
def layer() -> LSTM:
    torch.manual_seed(0)
    return LSTM(3, 5)


X = torch.linspace(-1, 1, 4 * 6 * 3).sin().view(4, 6, 3)


def test_its_outputs_are_those_of_the_layer(layer: LSTM) -> None:
    assert calls(lambda: layer.outputs(X)) == 1
    torch.testing.assert_close(layer.outputs(X), layer(X)[0], rtol=1e-6, atol=1e-6)
    assert layer.outputs_from_none(X)[:, 0].tolist() == [[0.0] * 5] * 4
    assert torch.equal(layer.outputs_from_none(X)[:, 1:], layer.outputs(X))


def test_what_kernels_cannot_do_is_left_to_pytorch(layer: LSTM) -> None:
    assert calls(lambda: layer.double().outputs(X.double())) == 0
    layer.float()
    assert calls(lambda: layer.outputs(X[:0])) == 0
    assert calls(lambda: mc.networks.by_pytorch(layer).outputs(X)) == 0


def test_hooks_see_what_the_layer_computes(layer: LSTM) -> None:
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, given, found: seen.append(found[0]))
    found = layer.outputs(X)
    assert torch.equal(seen[0], found)
    handle.remove()
    assert calls(lambda: layer.outputs(X)) == 1


@pytest.mark.parametrize("of", [mc.SequentialCVAE, mc.EveryStepCVAE])
def test_models_of_sequences_are_trained_by_it(of: type[mc.SequentialCVAE]) -> None:
    torch.manual_seed(0)
    model = of.lstm(3, 4, 5)
    x, c = X[:, 0], X[:, 1:]
    assert calls(lambda: model(x, c, seed=0)) == 3  # encoder, prior, decoder
    found = torch.autograd.grad(model(x, c, seed=0).loss, list(model.parameters()))
    theirs = mc.networks.by_pytorch(model)
    expected = torch.autograd.grad(theirs(x, c, seed=0).loss, list(theirs.parameters()))
    for ours_of, theirs_of in zip(found, expected, strict=True):
        torch.testing.assert_close(ours_of, theirs_of, rtol=1e-5, atol=1e-6)
