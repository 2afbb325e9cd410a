"""Training in half precision: what stays in float32, the scale of float16, and who refuses."""

import warnings
from pathlib import Path

import pytest
import torch
from runs import stop_before
from torch import Tensor, nn

import manifold_core as mc
from manifold_core import networks
from manifold_core.ensemble import explain_ensemble
from manifold_core.networks.precision import Float32Linear
from manifold_core.storage import checkpoint
from manifold_core.training.checks import check_precision
from manifold_core.training.schedule import batches, make_optimizer, noise_seed

X, C, IMAGES = torch.rand(9, 6), torch.rand(9, 2), torch.rand(9, 1, 8, 8)
NETWORKS: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "MLPEncoder": (networks.MLPEncoder(6, 3, (8, 8)), (X,)),
    "MLPDecoder": (networks.MLPDecoder(6, 5, (8, 8)), (X,)),
    "ConditionalMLPEncoder": (networks.ConditionalMLPEncoder(6, 2, 3), (X, C)),
    "ConditionalMLPDecoder": (networks.ConditionalMLPDecoder(6, 2, 5), (X, C)),
    "LSTMEncoder": (networks.LSTMEncoder(6, 3), (torch.rand(9, 4, 6),)),
    "LSTMDecoder": (networks.LSTMDecoder(6, 5, decoder_hidden=(8,)), (X, torch.rand(9, 4, 5))),
    "ConvEncoder": (networks.ConvEncoder((1, 8, 8), 3), (IMAGES,)),
    "ConvEncoder, full covariance": (networks.ConvEncoder((1, 8, 8), 3, covariance="cholesky"), (IMAGES,)),
    "ConvEncoder, hidden layers": (networks.ConvEncoder((1, 8, 8), 3, hidden=(8,)), (IMAGES,)),
    "ConvDecoder": (networks.ConvDecoder(6, (1, 8, 8)), (X,)),
    "hidden layers, ConvDecoder": (networks.ConvDecoder(6, (1, 8, 8), hidden=(8,)), (X,)),
    "ConditionalConvEncoder": (networks.ConditionalConvEncoder((1, 8, 8), 2, 3, 5), (IMAGES, C)),
    "ConditionalConvDecoder": (networks.ConditionalConvDecoder(6, 2, (1, 8, 8), 5), (X, C)),
}


def skip_without_an_lstm(name: str, dtype: torch.dtype) -> None:
    """On processors without AVX-512 PyTorch's own nn.LSTM refuses half precision where no gradient is wanted."""
    if name.startswith("LSTM"):
        try:
            with torch.autocast("cpu", dtype), torch.no_grad():
                nn.LSTM(6, 4, batch_first=True)(torch.zeros(2, 3, 6))
        except RuntimeError as error:
            pytest.skip(f"PyTorch's LSTM has no {dtype} on this processor: {str(error)[:60]}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_network_gives_is_float32(name: str, dtype: torch.dtype) -> None:
    """Not only by its type: the last layer's products are those of float32 on what it reads."""
    skip_without_an_lstm(name, dtype)
    network, inputs = NETWORKS[name]
    seen: list[tuple[nn.Module, Tensor, tuple[Tensor, ...]]] = []
    hooks = [
        module.register_forward_hook(
            lambda module, given, out: seen.append((module, given[0], out if isinstance(out, tuple) else (out,)))
        )
        for module in network.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    ]
    try:
        with torch.autocast("cpu", dtype), torch.no_grad():
            outputs = network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for output in outputs if isinstance(outputs, tuple) else (outputs,):
        assert output.dtype == torch.float32
        assert not torch.equal(output, output.to(dtype).float())
    last, given, out = seen[-1]
    with torch.no_grad():
        expected = last(given.float())
    assert torch.equal(torch.cat(out, 1), torch.cat(expected, 1) if isinstance(expected, tuple) else expected)
    if not name.startswith("LSTM"):  # of which the rest is the LSTM
        assert any(out[0].dtype == dtype for _, _, out in seen)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.endswith("Decoder")])
def test_z_is_read_in_float32(name: str) -> None:
    """Rounded as bfloat16, z has steps wider than a small σ."""
    skip_without_an_lstm(name, torch.bfloat16)
    network, inputs = NETWORKS[name]
    reads_z = {
        "ConvDecoder": "head",
        "hidden layers, ConvDecoder": "beside.0",
        "ConditionalConvDecoder": "image.head",
    }
    layer = network.get_submodule(reads_z.get(name, "layers.0"))
    seen: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda _module, given, out: seen.append((given[0], out)))
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            network(*inputs)
    finally:
        hook.remove()
    ((given, out),) = seen
    assert torch.equal(given[:, :6], X)
    with torch.no_grad():
        assert torch.equal(out, layer(given))


def test_outside_autocast_nothing_changes() -> None:
    layer = Float32Linear(6, 3).double()
    x = X.double()
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.float64


def problem() -> tuple[mc.CVAE, Tensor, Tensor]:
    torch.manual_seed(2)
    u = torch.randn(200, 4)
    x = torch.tanh(u @ torch.randn(4, 6))
    return mc.CVAE.mlp(6, 2, 3, (16, 16), attention=True, elbo=mc.GaussianELBO(log_gamma=-9.0)), x, u[:, :2]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_it_is_autocast_and_the_loss_of_float16_is_scaled(precision: str) -> None:
    """A plain loop. γ begins so small that gradients of float16 overflow: those steps are left out, and the scale
    falls."""
    model, x, c = problem()
    plain, _, _ = problem()
    config = mc.TrainingConfig(20, 64, learning_rate=0.01, seed=5, precision=precision)  # type: ignore[arg-type]
    history = mc.train(model, x, config, condition=c, progress=False)
    networks = [parameter for parameter in plain.parameters() if parameter is not plain.elbo.log_gamma]
    optimizer, schedule = make_optimizer(networks, plain.elbo.log_gamma, config)
    scale, skipped = 65536.0 if precision == "float16" else 1.0, 0
    for step, index in enumerate(batches(200, config, 0)):
        with torch.autocast("cpu", torch.bfloat16 if precision == "bfloat16" else torch.float16):
            loss = plain(x[index], c[index], seed=noise_seed(5, step)).loss
        assert loss.dtype == torch.float32
        assert history.neg_elbo[step] == pytest.approx(float(loss.detach()), rel=1e-5)
        optimizer.zero_grad()
        (scale * loss).backward()
        gradients = [p.grad for p in plain.parameters() if p.grad is not None]
        if all(gradient.isfinite().all() for gradient in gradients):
            for gradient in gradients:
                gradient /= scale
            optimizer.step()
        else:
            scale, skipped = scale / 2, skipped + 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the schedule goes on where a step was left out
            schedule.step()
    assert (skipped > 0) == (precision == "float16")
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_a_stopped_run_goes_on_with_its_scale(tmp_path: Path) -> None:
    def run(stop: int | None, folder: Path) -> mc.CVAE:
        model, x, c = problem()
        if stop is not None:
            stop_before(model, stop, KeyboardInterrupt)
        config = mc.TrainingConfig(20, 64, learning_rate=0.01, precision="float16")
        mc.train(model, x, config, condition=c, folder=folder, checkpoint_seconds=0, progress=False)
        return model

    expected = run(None, tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        run(14, tmp_path / "stopped")
    loaded = checkpoint.load(tmp_path / "stopped")
    assert loaded is not None
    assert 0 < loaded.state["scaler"]["scale"] < 65536
    found = run(None, tmp_path / "stopped")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_residual_networks_train_in_half_precision(precision: str) -> None:
    """float16 leaves its first steps out, until the scale is low enough."""
    x = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ends, begun = [], 0.0
    for chosen in ("float32", precision):
        torch.manual_seed(1)
        model = mc.VAE.conv((1, 8, 8), 3, 2, elbo=mc.GaussianELBO("analytic"))
        config = mc.TrainingConfig(steps=60, batch_size=64, learning_rate=0.01, precision=chosen)  # type: ignore[arg-type]
        curve = mc.train(model, x, config, progress=False).neg_elbo
        begun = curve[0]
        ends.append(sum(curve[-10:]) / 10)
    assert ends[1] != ends[0]
    assert ends[1] == pytest.approx(ends[0], abs=0.03 * (begun - ends[0]))


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(mc.InputError, match="precision must be 'float32', 'bfloat16' or 'float16', got 'half'"):
        mc.TrainingConfig(precision="half")  # type: ignore[arg-type]


def test_a_device_without_bfloat16_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mc.VAE.mlp(6, 3)
    asked = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return False

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(mc.InputError, match=r"precision must be 'float32' or 'float16' on Tesla T4.*got 'bfloat16'"):
        check_precision("bfloat16", model, torch.device("cuda"))
    assert asked == [False]
    check_precision("float16", model, torch.device("cuda"))
    check_precision("bfloat16", model, torch.device("cpu"))


def test_weights_of_another_type_are_refused() -> None:
    with pytest.raises(mc.InputError, match="precision must be 'float32' for a model whose weights are not float32"):
        mc.train(mc.VAE.mlp(6, 3).double(), X.double(), mc.TrainingConfig(precision="bfloat16"), progress=False)


def test_the_fused_engines_leave_half_precision_to_the_reference() -> None:
    specs = [mc.ModelSpec(2), mc.ModelSpec(2, training=mc.TrainingConfig(2, 4, precision="bfloat16"))]
    choice = explain_ensemble(specs, X)
    assert (choice.backend, choice.reason) == (
        "reference",
        "specs[1] has precision='bfloat16', which only 'reference' trains",
    )
    assert explain_ensemble(specs[:1], X).backend == "cpu"
    with pytest.raises(RuntimeError, match=r"backend 'cpu' cannot serve this ensemble: specs\[1\] has precision="):
        mc.train_ensemble(specs, X, backend="cpu", progress=False)
    trained = mc.train_ensemble([specs[1]], X, progress=False)
    assert trained[0].diverged_at is None
