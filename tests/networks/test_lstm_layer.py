"""The LSTM of the networks of sequences: what PyTorch's own computes, whoever computes it."""

import re
from collections.abc import Callable

import pytest
import torch
from instruction_sets import NEEDS_COMPILED
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import manifold_core as mc
from manifold_core.networks.lstm import LSTM, outputs, outputs_from_none

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
    assert calls(lambda: outputs(layer, X)) == 1
    torch.testing.assert_close(outputs(layer, X), layer(X)[0], rtol=1e-6, atol=1e-6)
    assert outputs_from_none(layer, X)[:, 0].tolist() == [[0.0] * 5] * 4
    assert torch.equal(outputs_from_none(layer, X)[:, 1:], outputs(layer, X))


def test_what_kernels_cannot_do_is_left_to_pytorch(layer: LSTM) -> None:
    assert calls(lambda: outputs(layer.double(), X.double())) == 0
    layer.float()
    assert calls(lambda: outputs(layer, X[:0])) == 0
    assert calls(lambda: outputs(mc.networks.by_pytorch(layer), X)) == 0


@pytest.mark.parametrize("shape", [(4, 6, 2), (4, 0, 3), (6, 3), (2, 4, 6, 3)])
def test_a_sequence_of_another_shape_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(mc.InputError, match=rf"shape \[B, L, 3\] .* at least 1, got shape {re.escape(str(shape))}$"):
        mc.networks.LSTMEncoder(3, 2, 5)(torch.zeros(shape))


def test_a_layer_with_a_forward_of_its_own_is_what_it_says(layer: LSTM) -> None:
    class Halved(LSTM):
        def forward(self, *given: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # type: ignore[override]
            y, state = super().forward(*given)
            return y / 2, state

    halved = Halved(3, 5)
    halved.load_state_dict(layer.state_dict())
    assert calls(lambda: outputs(halved, X)) == 0
    torch.testing.assert_close(outputs(halved, X), outputs(layer, X) / 2, rtol=1e-6, atol=1e-6)


def test_a_subclass_without_one_is_ours(layer: LSTM) -> None:
    parametrized = nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    assert calls(lambda: outputs(parametrized, X)) == 1
    torch.testing.assert_close(outputs(layer, X), layer(X)[0], rtol=1e-6, atol=1e-6)


def test_where_nobody_asks_for_gradients_one_step_is_kept(layer: LSTM) -> None:
    kept: list[int] = []

    class Shapes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            found = function(*args, **(kwargs or {}))
            if str(function) == "manifold_core.lstm.default":
                kept.append(found[1].shape[1])
            return found

    with Shapes():
        outputs(layer, X)
        with torch.no_grad():
            outputs(layer, X)
        outputs(layer.requires_grad_(False), X)
        outputs(layer, X.clone().requires_grad_())
    assert kept == [6, 1, 1, 6]


def test_hooks_see_what_the_layer_computes(layer: LSTM) -> None:
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, given, found: seen.append(found[0]))
    found = outputs(layer, X)
    assert torch.equal(seen[0], found)
    handle.remove()
    assert calls(lambda: outputs(layer, X)) == 1


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


def test_a_second_derivative_is_pytorchs(layer: LSTM) -> None:
    x = X.clone().requires_grad_()
    (first,) = torch.autograd.grad(outputs(layer, x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="by_pytorch"):
        first.sum().backward()
    theirs = mc.networks.by_pytorch(layer).double()
    assert torch.autograd.gradgradcheck(lambda x: outputs(theirs, x), X[:1].double().requires_grad_())


@pytest.mark.filterwarnings("ignore:The tensor attributes self.lstm._flat_weights")  # of torch itself
def test_a_program_without_this_package_is_pytorchs(layer: LSTM) -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = layer

        def forward(self, x: Tensor) -> Tensor:
            return outputs(self.lstm, x)

    program = torch.export.export(Alone(), (X,))
    assert not [node for node in program.graph.nodes if "manifold_core" in str(node.target)]


def test_another_layer_in_its_place_is_called_as_it_is() -> None:
    encoder = mc.networks.LSTMEncoder(3, 2, 5)
    encoder.lstm = nn.LSTM(3, 5, num_layers=2, batch_first=True)
    mu, _ = encoder(X)
    torch.testing.assert_close(mu, encoder.head(encoder.lstm(X)[0][:, -1])[0])
