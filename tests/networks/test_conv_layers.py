"""The layers of the residual networks: what PyTorch's own compute, whoever computes it."""

import copy
from collections.abc import Callable

import pytest
import torch
from instruction_sets import NEEDS_COMPILED
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import manifold_core as mc
from manifold_core.networks import ConvEncoder, Float32ConvTranspose2d, by_pytorch
from manifold_core.networks.conv_layers import ConvNorm, ConvTranspose2d

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


@pytest.mark.parametrize("kind", [ConvTranspose2d, Float32ConvTranspose2d])
def test_conv_transpose_is_pytorchs(kind: type[ConvTranspose2d]) -> None:
    torch.manual_seed(0)
    ours = kind(3, 2, 4, stride=2, padding=1).double()
    theirs = nn.ConvTranspose2d(3, 2, 4, stride=2, padding=1).double()
    theirs.load_state_dict(ours.state_dict())
    x, _ = images(torch.float64)
    assert seen(lambda: ours(x)) == ["conv_transpose"]
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours(x, [15, 13]), theirs(x, [15, 13]), rtol=1e-12, atol=1e-12)
    of_one, image = kind(40, 2, 4).double(), x[:, 0]  # without a batch, of 40 channels
    torch.testing.assert_close(of_one(image), nn.ConvTranspose2d.forward(of_one, image), rtol=1e-12, atol=1e-12)


def test_a_model_of_images_is_computed_by_kernels_of_ours_alone() -> None:
    x = torch.rand(8, 1, 8, 8)
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


def in_autocast(network: ConvNorm, x: Tensor) -> None:
    with torch.autocast("cpu"):
        network(x)


def hooked(network: ConvNorm, x: Tensor) -> None:
    calls: list[object] = []
    for kind in ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"):
        handle = getattr(network[0], f"register_{kind}")(lambda *given, kind=kind: calls.append(kind))
        network(x.clone().requires_grad_()).sum().backward()
        handle.remove()
        assert calls.pop() == kind
        assert not calls


def counted(network: ConvNorm, x: Tensor) -> None:
    with FlopCounterMode(display=False) as counter:
        network(x)
    assert counter.get_total_flops() == 2 * 40 * 4 * 4 * 3 * 27


@pytest.mark.parametrize(
    "call",
    [
        lambda network, x: network.eval()(x),
        in_autocast,
        hooked,
        counted,
        lambda network, x: network.bfloat16()(x.bfloat16()),
        lambda network, x: network.to(memory_format=torch.channels_last)(x),
        lambda network, x: by_pytorch(network)(x),
        lambda network, x: network(x[:1]),
        lambda network, x: network(x, images(torch.float64)[1]),
    ],
    ids=[
        "evaluation",
        "autocast",
        "hook",
        "counter",
        "bfloat16",
        "channels last",
        "by PyTorch",
        "one image",
        "residual of another type",
    ],
)
def test_what_pytorch_computes(call: Callable[[ConvNorm, Tensor], object]) -> None:
    x, _ = images()
    assert seen(lambda: call(layer(), x)) == []
    assert seen(lambda: layer()(x)) == ["conv_norm"]


class Own(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def changed(network: nn.Module, name: str, value: object) -> None:
    setattr(network, name, value)


OPTIONS: dict[str, Callable[[ConvNorm], object]] = {
    "no ReLU": lambda m: changed(m, "2", nn.Identity()),
    "another activation": lambda m: changed(m, "2", nn.GELU()),
    "one layer more": lambda m: m.append(nn.Dropout(1.0)),
    "own convolution": lambda m: changed(m, "0", Own(3, 4, 3, stride=2, padding=1, bias=False)),
    "own function": lambda m: changed(m[0], "forward", lambda x: nn.Conv2d.forward(m[0], 2 * x)),
    "bias": lambda m: changed(m[0], "bias", nn.Parameter(torch.ones(4))),
    "reflected border": lambda m: changed(m, "0", nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect", bias=False)),
    "dilation": lambda m: changed(m[0], "dilation", (2, 2)),
    "two strides": lambda m: changed(m[0], "stride", (2, 1)),
    "two paddings": lambda m: changed(m[0], "padding", (1, 0)),
    "another normalisation": lambda m: changed(m, "1", nn.GroupNorm(2, 4)),
    "PyTorch's normalisation": lambda m: changed(m, "1", nn.BatchNorm2d(4)),
    "no running statistics": lambda m: changed(m[1], "track_running_stats", False),
    "running means": lambda m: changed(m[1], "momentum", None),
    "no affine map": lambda m: (changed(m[1], "weight", None), changed(m[1], "bias", None)),
    "frozen normalisation": lambda m: m[1].eval(),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_layer_made_another_is_pytorchs(name: str) -> None:
    torch.manual_seed(0)
    ours, x = layer(), images()[0]
    OPTIONS[name](ours)
    theirs = nn.Sequential(*copy.deepcopy(ours))
    assert seen(lambda: torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)) == []
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))


def test_another_padding_and_eps_are_kept() -> None:
    ours, (x, _) = layer(), images()
    ours[0].padding, ours[1].eps = (0, 0), 0.3
    theirs = nn.Sequential(*copy.deepcopy(ours))
    assert seen(lambda: torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)) == ["conv_norm"]


@pytest.mark.parametrize(
    "options",
    [
        {"output_padding": 1},
        {"dilation": 2},
        {"stride": (2, 1)},
        {"groups": 3},
        {"kernel_size": (3, 4)},
        {"bias": False},
    ],
)
def test_a_transposed_convolution_with_options_is_pytorchs(options: dict[str, object]) -> None:
    ours = ConvTranspose2d(**{"in_channels": 3, "out_channels": 3, "kernel_size": 4, "stride": 2} | options)  # type: ignore[arg-type]
    theirs = nn.ConvTranspose2d(**{"in_channels": 3, "out_channels": 3, "kernel_size": 4, "stride": 2} | options)  # type: ignore[arg-type]
    theirs.load_state_dict(ours.state_dict())
    x, _ = images()
    assert seen(lambda: torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)) == []
    assert seen(lambda: torch.testing.assert_close(ours(x[0]), theirs(x[0]), rtol=0, atol=0)) == []


def test_hooks_of_blocks_see_what_they_did() -> None:
    """Outputs of a branch are its own, without what is added to it."""
    model, x = mc.VAE.conv((1, 8, 8), 3), torch.rand(9, 1, 8, 8)
    for block in (model.encoder.blocks[1], model.decoder.blocks[0]):
        for branch in (block.main, block.main[1]):
            outputs: list[Tensor] = []
            handle = branch.register_forward_hook(lambda m, inputs, out, outputs=outputs: outputs.append(out))
            model(x)
            handle.remove()
            assert len(outputs) == 1
            assert outputs[0].min() >= 0 or isinstance(branch, nn.BatchNorm2d)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch.func.jvp itself uses it
def test_derivatives_forward_and_second_derivatives_by_pytorch() -> None:
    decoder = mc.VAE.conv((1, 8, 8), 2).double().eval().decoder
    z = torch.randn(8, 2, dtype=torch.float64)

    def energy(z: Tensor) -> Tensor:
        return decoder(z).square().sum()

    slope = torch.func.grad(energy)(z)
    _, forward = torch.func.jvp(energy, (z,), (torch.ones_like(z),))
    torch.testing.assert_close(forward, slope.sum(), rtol=1e-10, atol=1e-10)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.functional.hessian(energy, z)
    by_pytorch(decoder)
    curvature = torch.autograd.functional.hessian(energy, z)[0, 0, 0, 0]
    step = torch.zeros_like(z)
    step[0, 0] = 1e-5
    differences = (torch.func.grad(energy)(z + step) - torch.func.grad(energy)(z - step))[0, 0] / 2e-5
    torch.testing.assert_close(curvature, differences, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_an_exported_decoder_needs_nothing_of_ours() -> None:
    decoder, z = mc.VAE.conv((1, 8, 8), 2).eval().decoder, torch.randn(9, 2)
    exported = torch.export.export(decoder, (z,))
    assert "manifold_core" not in str(exported.graph)
    torch.testing.assert_close(exported.module()(z), decoder(z), rtol=1e-4, atol=1e-5)
    traced = torch.jit.trace(decoder, z)
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert {kind.partition("::")[0] for kind in kinds} == {"aten", "prim"}
    assert "prim::PythonOp" not in kinds
    torch.testing.assert_close(traced(z), decoder(z), rtol=1e-4, atol=1e-5)


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


def test_a_replica_without_parameters_computes_the_same() -> None:
    """As nn.DataParallel makes one on each GPU: weights are attributes there."""
    encoder, x = ConvEncoder((1, 8, 8), 3, 2).eval(), torch.rand(2, 1, 8, 8)
    expected = encoder(x)
    replica = copy.deepcopy(encoder)
    for module in replica.modules():
        weights = dict(module._parameters)
        module._parameters = {}
        for name, weight in weights.items():
            setattr(module, name, None if weight is None else weight.data)
    for found, wanted in zip(replica(x), expected, strict=True):
        torch.testing.assert_close(found, wanted)
