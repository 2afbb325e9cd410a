"""The layers of the residual networks: what PyTorch's own compute, whoever computes it."""

import copy
from collections.abc import Callable

import pytest
import torch
from instruction_sets import NEEDS_COMPILED
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import manifold_core as mc
from manifold_core.networks.convolution import ConvNorm, ConvTranspose2d, by_pytorch

pytestmark = NEEDS_COMPILED


class Seen(TorchDispatchMode):
    """Which operators of ours are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = str(function)
        if name.startswith("manifold_core.conv"):
            self.names.append(name.split(".")[1])
        return function(*args, **(kwargs or {}))


def seen(call: Callable[[], object]) -> list[str]:
    with Seen() as mode:
        call()
    return mode.names


def layer(relu: bool = True) -> ConvNorm:
    torch.manual_seed(0)
    made = ConvNorm(3, 4, stride=2, relu=relu)
    nn.init.normal_(made[1].weight)
    nn.init.normal_(made[1].bias)
    return made


def images(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 3, 7, 6, generator=generator, dtype=dtype)
    return x, torch.randn(40, 4, 4, 3, generator=generator, dtype=dtype)


@pytest.mark.parametrize("relu", [True, False])
def test_conv_norm_follows_the_batch_as_pytorch_does(relu: bool) -> None:
    ours = layer(relu).double()
    theirs = nn.Sequential(*copy.deepcopy(ours))
    x, residual = images(torch.float64)
    for scale in (1.0, 3.0):  # running statistics have something to run after
        found, expected = ours(scale * x, residual), theirs(scale * x) + residual
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        for network, out in ((ours, found), (theirs, expected)):
            network.zero_grad()
            out.square().sum().backward()
        for ours_of, theirs_of in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(ours_of.grad, theirs_of.grad, rtol=1e-11, atol=1e-10)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], tensor, rtol=1e-12, atol=1e-12)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, residual), theirs(x) + residual, rtol=1e-12, atol=1e-12)


def test_conv_transpose_is_pytorchs() -> None:
    torch.manual_seed(0)
    ours = ConvTranspose2d(3, 2, 4, stride=2, padding=1).double()
    theirs = nn.ConvTranspose2d(3, 2, 4, stride=2, padding=1).double()
    theirs.load_state_dict(ours.state_dict())
    x, _ = images(torch.float64)
    assert seen(lambda: ours(x)) == ["conv_transpose"]
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours(x, [15, 13]), theirs(x, [15, 13]), rtol=1e-12, atol=1e-12)


def test_a_model_of_images_is_computed_by_kernels_of_ours_alone() -> None:
    x = torch.rand(6, 1, 8, 8)
    forward = ["conv_norm"] * 6 + ["conv_norm", "conv_transpose"] * 2
    model = mc.VAE.conv((1, 8, 8), 3)
    assert sorted(seen(lambda: model(x))) == sorted(forward)
    assert sorted(seen(lambda: model(x).loss.backward())) == sorted(
        [*forward, *(f"{name}_backward" for name in forward)]
    )
    assert seen(lambda: by_pytorch(model)(x).loss.backward()) == []
    assert seen(lambda: model.eval()(x)) == []  # by_pytorch stays


@pytest.mark.parametrize("gamma", ["learned", "analytic"])
@pytest.mark.parametrize("covariance", ["diagonal", "cholesky"])
def test_a_model_of_images_has_the_gradients_of_pytorchs_layers(covariance: str, gamma: str) -> None:
    torch.manual_seed(0)
    ours = mc.CVAE.conv((2, 8, 8), 3, 4, 3, elbo=mc.GaussianELBO(gamma, covariance=covariance), covariance=covariance)  # type: ignore[arg-type]
    ours = ours.double()
    theirs = by_pytorch(copy.deepcopy(ours))
    x, c = torch.rand(35, 2, 8, 8, dtype=torch.float64), torch.rand(35, 3, dtype=torch.float64)
    losses = [model(x, c, seed=5).loss for model in (ours, theirs)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)
    for loss in losses:
        loss.backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-11, msg=name)
    for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, msg=name)


def in_autocast(network: ConvNorm, x: Tensor) -> object:
    with torch.autocast("cpu"):
        return network(x)


def hooked(network: ConvNorm, x: Tensor) -> object:
    calls: list[object] = []
    network[0].register_forward_hook(lambda *inputs: calls.append(inputs))
    network(x)
    assert len(calls) == 1
    return calls


@pytest.mark.parametrize(
    "call",
    [
        lambda network, x: network.eval()(x),
        in_autocast,
        hooked,
        lambda network, x: network.bfloat16()(x.bfloat16()),
        lambda network, x: network.to(memory_format=torch.channels_last)(x),
        lambda network, x: by_pytorch(network)(x),
    ],
    ids=["evaluation", "autocast", "hook", "bfloat16", "channels last", "by PyTorch"],
)
def test_what_pytorch_computes(call: Callable[[ConvNorm, Tensor], object]) -> None:
    x, _ = images()
    assert seen(lambda: call(layer(), x)) == []
    assert seen(lambda: layer()(x)) == ["conv_norm"]


def test_one_value_a_channel_has_no_variance() -> None:
    with pytest.raises(ValueError, match="more than one value a channel"):
        ConvNorm(1, 2)(torch.zeros(1, 1, 1, 1))


def test_compiled_model_of_images_is_the_eager_one() -> None:
    torch._dynamo.reset()
    eager = mc.VAE.conv((1, 8, 8), 3, 2).double()
    compiled = copy.deepcopy(eager)
    x, seed = torch.rand(9, 1, 8, 8, dtype=torch.float64), torch.tensor(3)
    function = torch.compile(lambda batch: compiled(batch, seed=seed).loss, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        losses = eager(x, seed=seed).loss, function(x)
        torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
        for model, loss in zip((eager, compiled), losses, strict=True):
            model.zero_grad()
            loss.backward()
        for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-11)
    for a, b in zip(eager.buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_torch_func_sees_the_same_gradients() -> None:
    ours, (x, residual) = layer().double(), images(torch.float64)
    weights = {name: value.detach() for name, value in ours.named_parameters()}
    statistics = {name: value.clone() for name, value in ours.named_buffers()}

    def of(weights: dict[str, Tensor], statistics: dict[str, Tensor]) -> Tensor:
        out: Tensor = torch.func.functional_call(ours, (weights, statistics), (x, residual))
        return out.square().sum()

    found = torch.func.grad(of)(weights, statistics)
    ours(x, residual).square().sum().backward()
    for name, value in ours.named_parameters():
        torch.testing.assert_close(found[name], value.grad, rtol=1e-12, atol=1e-12)
