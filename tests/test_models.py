"""The VAE, the CVAE and their networks: shapes, a user's own modules, gradients, sampling, bad input."""

import json
import math
from dataclasses import asdict
from itertools import product

import numpy as np
import pytest
import torch
from manifold_core.kernels.random import standard_normal
from torch import Tensor, nn

import manifold_core as mc
from manifold_core.networks import ConvDecoder, ConvEncoder, MLPEncoder


class Encoder(nn.Module):
    """What a user would write."""

    def __init__(self) -> None:
        super().__init__()
        self.mu, self.log_var = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mu(x), self.log_var(x)


def test_own_modules_plug_in() -> None:
    model = mc.VAE(Encoder(), nn.Linear(2, 6), latent_dim=2)
    terms = model(torch.rand(5, 6), seed=1)
    terms.loss.backward()
    assert terms.z.shape == (5, 2)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("hidden", [(16,), (8, 12), ()])
def test_mlp_layers_mirror_each_other(hidden: tuple[int, ...]) -> None:
    model = mc.VAE.mlp(7, 3, hidden)
    widths = [layer.out_features for layer in model.encoder.modules() if isinstance(layer, nn.Linear)]
    assert widths == [*hidden, 6]
    widths = [layer.out_features for layer in model.decoder.modules() if isinstance(layer, nn.Linear)]
    assert widths == [*reversed(hidden), 7]
    assert model(torch.rand(4, 7)).x_hat.shape == (4, 7)


def test_mlp_head_is_read_without_a_copy() -> None:
    mu, log_var = MLPEncoder(7, 3)(torch.rand(4, 7))
    assert mu.untyped_storage().data_ptr() == log_var.untyped_storage().data_ptr()
    assert mu.stride() == (6, 1)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 12)])
def test_residual_networks_of_appendix_a(shape: tuple[int, int, int]) -> None:
    model = mc.VAE.conv(shape, 4, channels=5)
    terms = model(torch.rand(2, *shape))
    assert [t.shape for t in terms.posterior] == [(2, 4), (2, 4)]
    assert terms.x_hat.shape == (2, *shape)
    # Two blocks each way: in an encoder block two 3x3 convolutions and a 1x1 shortcut, each with batch normalisation;
    # in a decoder block one 3x3 convolution with batch normalisation and a transposed convolution.
    encoder, decoder = list(model.encoder.modules()), list(model.decoder.modules())
    kernels = [layer.kernel_size for layer in encoder if isinstance(layer, nn.Conv2d)]
    assert sorted(kernels) == [(1, 1)] * 2 + [(3, 3)] * 4
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in encoder) == 6
    assert [layer.kernel_size for layer in decoder if isinstance(layer, nn.Conv2d)] == [(3, 3)] * 2
    assert sum(isinstance(layer, nn.ConvTranspose2d) for layer in decoder) == 2
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in decoder) == 2


def test_reconstruction_is_the_decoder_at_the_mean() -> None:
    model = mc.VAE.mlp(7, 3)
    x = torch.rand(4, 7)
    torch.testing.assert_close(model.reconstruct(x), model.decoder(model.posterior(x)[0]))


def test_samples_follow_the_prior_and_the_generator() -> None:
    model = mc.VAE(Encoder(), nn.Identity(), latent_dim=2)
    samples = model.sample(20_000, torch.Generator().manual_seed(0))
    assert samples.shape == (20_000, 2)
    assert samples.mean().abs() < 0.03  # four standard errors
    assert (samples.var() - 1).abs() < 0.04
    assert torch.equal(samples, model.sample(20_000, torch.Generator().manual_seed(0)))


def test_integers_are_those_of_numpy_too() -> None:
    n = np.int64
    found = [
        mc.VAE.mlp(n(6), n(3), (n(4),)),
        mc.VAE.conv((n(1), n(8), n(8)), n(3), n(2)),
        mc.CVAE.mlp(n(6), n(2), n(3), (n(4),), condition_hidden=np.array([5]), condition_features=n(2)),  # type: ignore[arg-type]
        mc.CVAE.conv((n(1), n(8), n(8)), n(2), n(3), n(2), condition_features=n(2)),
        mc.SequentialCVAE.lstm(n(6), n(3), n(2), decoder_hidden=(n(4),)),
    ]
    assert [(type(one.latent_dim), one.latent_dim) for one in found] == [(int, 3)] * 5
    model, x = found[0], torch.rand(5, 6)
    assert model(x, seed=n(4)).loss == model(x, seed=4).loss
    assert mc.evaluate(model, x, seed=n(4), batch_size=n(2)) == mc.evaluate(model, x, seed=4, batch_size=2)  # type: ignore[arg-type]
    config = mc.TrainingConfig(n(3), np.uint8(4), seed=np.int32(7))
    assert config == mc.TrainingConfig(3, 4, seed=7)
    spec = mc.ModelSpec(n(3), (n(4),), condition_dim=n(2), condition_features=n(2), training=config, data=n(0))
    assert json.loads(json.dumps(asdict(spec)))["condition_dim"] == 2
    json.dumps([asdict(mc.ConvSpec(n(3), n(4))), asdict(mc.SequentialSpec(n(3), decoder_hidden=(n(4),)))])
    for bad in (np.float64(3), np.bool_(True), np.array([3, 4])):
        with pytest.raises(mc.InputError, match="latent_dim must be a positive integer, got"):
            mc.VAE.mlp(6, bad)  # type: ignore[arg-type]
        with pytest.raises(mc.InputError, match="seed must be an integer from 0 to"):
            mc.TrainingConfig(seed=bad)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="seed must be an integer from 0 to"):
            model(x, seed=bad)


@pytest.mark.parametrize("latent_dim", [0, -3, 2.5, True])
def test_latent_dim_is_checked(latent_dim: object) -> None:
    with pytest.raises(mc.InputError, match=f"latent_dim must be a positive integer, got {latent_dim}"):
        mc.VAE(Encoder(), nn.Linear(2, 6), latent_dim)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [lambda shape: ConvEncoder(shape, 4), lambda shape: ConvDecoder(4, shape)])
@pytest.mark.parametrize("shape", [(1, 27, 28), (28, 28), (0, 28, 28)])
def test_image_shape_is_checked(make: object, shape: tuple[int, ...]) -> None:
    with pytest.raises(mc.InputError, match="image_shape must be"):
        make(shape)  # type: ignore[operator]


def test_hidden_widths_are_checked() -> None:
    with pytest.raises(mc.InputError, match=r"hidden\[1\] must be a positive integer, got 0"):
        mc.VAE.mlp(7, 3, (8, 0))


def test_activation_is_checked() -> None:
    for make in (lambda: mc.VAE.mlp(7, 3, activation="tanh"), lambda: mc.CVAE.mlp(7, 2, 3, activation="tanh")):  # type: ignore[arg-type]
        with pytest.raises(mc.InputError, match="activation must be 'relu' or 'prelu', got 'tanh'"):
            make()


def test_prelu_has_a_slope_for_each_layer() -> None:
    model = mc.VAE.mlp(7, 3, (8, 12), activation="prelu")
    kinds = [nn.Linear, nn.PReLU, nn.Linear, nn.PReLU, nn.Linear]
    for network in (model.encoder, model.decoder):
        assert [isinstance(layer, kind) for layer, kind in zip(network.layers, kinds, strict=True)] == [True] * 5
    assert [p.shape for p in model.parameters() if p.dim() == 1 and len(p) == 1] == [(1,)] * 4


def perceptron(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """Matrix products, written out; slopes are those of PReLU, or 0."""
    numbers = sorted({int(key.removeprefix(f"{name}.").split(".")[0]) for key in weights if key.startswith(f"{name}.")})
    linear = [number for number in numbers if weights[f"{name}.{number}.weight"].dim() == 2]
    for number in linear:
        x = x @ weights[f"{name}.{number}.weight"].T + weights[f"{name}.{number}.bias"]
        if number != linear[-1]:
            x = torch.where(x > 0, x, x * weights.get(f"{name}.{number + 1}.weight", torch.zeros(())))
    return x


CHOICES = list(product(["learned", "standard"], [False, True], ["relu", "prelu"]))


@pytest.mark.parametrize(("prior", "attention", "activation"), CHOICES)
@pytest.mark.parametrize("gamma", ["learned", "analytic"])
def test_loss_and_gradients_of_a_cvae_are_the_formulas(
    prior: str, attention: bool, activation: str, gamma: str
) -> None:
    torch.manual_seed(0)
    model = mc.CVAE.mlp(
        *(7, 2, 3, (8, 6)),
        condition_hidden=(5, 4),
        condition_features=6,
        activation=activation,  # type: ignore[arg-type]
        prior=prior,  # type: ignore[arg-type]
        attention=attention,
        elbo=mc.GaussianELBO(gamma, -0.7),  # type: ignore[arg-type]
    ).double()
    x, c = torch.randn(9, 7, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    terms = model(x, c, seed=11, first_row=4)
    terms.loss.backward()

    mu, log_var = perceptron(
        torch.cat((x, perceptron(c, weights, "encoder.condition")), 1), weights, "encoder.layers"
    ).split(3, dim=1)
    z = mu + log_var.exp().sqrt() * standard_normal(torch.tensor(11), 9, 3, 4)
    m, p = torch.zeros(9, 3), torch.zeros(9, 3)
    if prior == "learned":
        m, p = perceptron(c, weights, "prior.layers").split(3, dim=1)
    kl = ((p - log_var + (log_var.exp() + (mu - m) ** 2) / p.exp() - 1) / 2).sum(1)
    if attention:
        z = z / (1 + torch.exp(-perceptron(c, weights, "gate.layers")))
    x_hat = perceptron(torch.cat((z, perceptron(c, weights, "decoder.condition")), 1), weights, "decoder.layers")
    error = ((x - x_hat) ** 2).sum(1)
    gamma_used = weights["elbo.log_gamma"].exp() if gamma == "learned" else error.mean() / 7
    nll = (error / gamma_used + 7 * torch.log(2 * math.pi * gamma_used)) / 2
    loss = (nll + kl).mean()
    loss.backward()

    assert weights.keys() == {
        *(f"encoder.{name}" for name, _ in model.encoder.named_parameters()),
        *(f"decoder.{name}" for name, _ in model.decoder.named_parameters()),
        *(name for name in weights if name.startswith("prior.") and prior == "learned"),
        *(name for name in weights if name.startswith("gate.") and attention),
        *(["elbo.log_gamma"] if gamma == "learned" else []),
    }
    for found, expected in ((terms.loss, loss), (terms.nll, nll), (terms.kl, kl), (terms.recon, error), (terms.z, z)):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, weights[name].grad, rtol=1e-10, atol=1e-11, msg=lambda s, n=name: f"{n}: {s}"
        )
    ratio = (log_var - p).exp()
    torch.testing.assert_close(model.variance_ratio(x, c), ratio)
    torch.testing.assert_close(terms.variance_ratio, ratio.mean(0).to(terms.variance_ratio.dtype))


@pytest.mark.parametrize("attention", [False, True])
def test_reconstruction_of_a_cvae_is_the_decoder_at_the_mean(attention: bool) -> None:
    model = mc.CVAE.mlp(7, 2, 3, attention=attention)
    x, c = torch.rand(4, 7), torch.rand(4, 2)
    mean = model.posterior(x, c)[0]
    if model.gate is not None:
        mean = mean * model.gate(c).sigmoid()
    torch.testing.assert_close(model.reconstruct(x, c), model.decoder(mean, c))


class First(nn.Module):
    """Gives back what it gets first."""

    def forward(self, first: Tensor, *_rest: Tensor) -> Tensor:
        return first


class Prior(nn.Module):
    """N(c, (c / 2)²)."""

    def forward(self, c: Tensor) -> tuple[Tensor, Tensor]:
        return c, 2 * torch.log(c / 2)


@pytest.mark.parametrize("prior", [None, Prior()])
@pytest.mark.parametrize("gate", [None, First()])
def test_samples_follow_the_prior_of_their_condition_and_the_gate(
    prior: nn.Module | None, gate: nn.Module | None
) -> None:
    model = mc.CVAE(First(), First(), 2, prior, gate)
    c = torch.tensor([[1.0, 3.0], [2.0, 0.5]]).repeat(20_000, 1)
    samples = model.sample(c, torch.Generator().manual_seed(0))
    assert torch.equal(samples, model.sample(c, torch.Generator().manual_seed(0)))
    for row in (0, 1):
        mean = c[row] if prior is not None else torch.zeros(2)
        deviation = c[row] / 2 if prior is not None else torch.ones(2)
        if gate is not None:
            mean, deviation = mean * torch.sigmoid(c[row]), deviation * torch.sigmoid(c[row])
        standard = (samples[row::2] - mean) / deviation
        assert standard.mean(0).abs().max() < 0.03  # four standard errors
        assert (standard.var(0) - 1).abs().max() < 0.04
    assert model.double().sample(c[:3].double()).dtype == torch.float64


def test_shapes_of_a_cvae() -> None:
    model = mc.CVAE.mlp(7, 2, 3, (8, 12), condition_hidden=(), attention=True)
    widths = [(layer.in_features, layer.out_features) for layer in model.modules() if isinstance(layer, nn.Linear)]
    encoder, decoder = [(2, 3), (10, 8), (8, 12), (12, 6)], [(2, 3), (6, 12), (12, 8), (8, 7)]
    assert widths == [*encoder, *decoder, (2, 6), (2, 3)]
    terms = model(torch.rand(4, 7), torch.rand(4, 2))
    assert terms.x_hat.shape == (4, 7)
    assert terms.z.shape == (4, 3)
    assert model.sample(torch.rand(5, 2)).shape == (5, 7)
    standard = mc.CVAE.mlp(7, 2, 3, prior="standard")
    assert (standard.prior, standard.gate) == (None, None)


def test_a_cvae_compiles_whole() -> None:
    model = mc.CVAE.mlp(7, 2, 3, attention=True)
    x, c = torch.rand(4, 7), torch.rand(4, 2)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, c, seed=1).loss, model(x, c, seed=1).loss)


@pytest.mark.parametrize("shape", [(4,), (5, 2), (4, 3), (1, 2), (4, 2, 1)])
def test_a_condition_that_does_not_fit_is_named(shape: tuple[int, ...]) -> None:
    model, x, c = mc.CVAE.mlp(7, 2, 3), torch.rand(4, 7), torch.rand(shape)
    for call in (model, model.posterior, model.reconstruct, model.variance_ratio):
        with pytest.raises(mc.InputError, match=r"c must be a tensor of shape \[4, 2\], .* got shape \(") as caught:
            call(x, c)
        assert str(caught.value).endswith(str(shape))
    if shape[1:] != (2,):
        with pytest.raises(mc.InputError, match=r"c must be a tensor of shape \[B, 2\], .* got shape \("):
            model.sample(c)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": "normal"}, "prior must be 'learned' or 'standard', got 'normal'"),
        ({"condition_hidden": (4, 0)}, r"condition_hidden\[1\] must be a positive integer, got 0"),
        ({"hidden": (0,)}, r"hidden\[0\] must be a positive integer, got 0"),
        ({"condition_features": 0}, "condition_features must be a positive integer, got 0"),
        ({"condition_dim": 0}, "condition_dim must be a positive integer, got 0"),
        ({"latent_dim": -1}, "latent_dim must be a positive integer, got -1"),
        ({"data_dim": 1.5}, r"data_dim must be a positive integer, got 1\.5"),
    ],
)
def test_arguments_of_a_cvae_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(mc.InputError, match=message):
        mc.CVAE.mlp(**{"data_dim": 7, "condition_dim": 2, "latent_dim": 3} | arguments)  # type: ignore[arg-type]


def test_images_are_laid_out_as_the_weights_are() -> None:
    """Channels last all the way, where the weights are; the numbers are the same."""
    torch.manual_seed(0)
    model, x = mc.VAE.conv((1, 8, 8), 4, channels=3).double(), torch.rand(5, 1, 8, 8, dtype=torch.float64)
    expected, seen = model(x, seed=1), []
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    hooks = [block.register_forward_hook(lambda _m, _i, out: seen.append(out)) for block in model.encoder.blocks]
    hooks.append(model.decoder.blocks[0].register_forward_hook(lambda _m, _i, out: seen.append(out)))
    found = model(x, seed=1)
    for hook in hooks:
        hook.remove()
    assert [out.is_contiguous(memory_format=torch.channels_last) for out in seen] == [True] * 3
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.x_hat, expected.x_hat, rtol=1e-10, atol=1e-12)


def test_the_encoder_of_images_sees_the_condition_as_a_channel_and_the_decoder_beside_z() -> None:
    torch.manual_seed(0)
    model = mc.CVAE.conv((2, 8, 12), 3, 4, channels=2, condition_hidden=(6,), condition_features=5).double()
    x, c = torch.rand(5, 2, 8, 12, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64)
    weights = dict(model.named_parameters())
    plane = c @ weights["encoder.condition.weight"].T + weights["encoder.condition.bias"]
    expected = model.encoder.image(torch.cat((x, plane.reshape(5, 1, 8, 12)), dim=1))
    torch.testing.assert_close(model.encoder(x, c), expected)
    z = torch.randn(5, 4, dtype=torch.float64)
    features = perceptron(c, weights, "decoder.condition")
    assert features.shape == (5, 5)
    torch.testing.assert_close(model.decoder(z, c), model.decoder.image(torch.cat((z, features), dim=1)))
    assert model.sample(c).shape == (5, 2, 8, 12)
    standard = mc.CVAE.conv((1, 8, 8), 3, 4, 2, prior="standard")
    assert (standard.prior, standard.gate) == (None, None)
    assert mc.CVAE.conv((1, 8, 8), 3, 4, 2, attention=True)(torch.rand(2, 1, 8, 8), c[:2].float()).z.shape == (2, 4)
    with pytest.raises(mc.InputError, match=r"c must be a tensor of shape \[5, 3\], .* got shape \(5, 2\)"):
        model(x, c[:, :2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": "normal"}, "prior must be 'learned' or 'standard', got 'normal'"),
        ({"condition_hidden": (4, 0)}, r"condition_hidden\[1\] must be a positive integer, got 0"),
        ({"condition_features": 0}, "condition_features must be a positive integer, got 0"),
        ({"condition_dim": 0}, "condition_dim must be a positive integer, got 0"),
        ({"latent_dim": -1}, "latent_dim must be a positive integer, got -1"),
        ({"channels": 1.5}, r"channels must be a positive integer, got 1\.5"),
        ({"image_shape": (1, 7, 8)}, r"image_shape must be .* multiples of 4, got \(1, 7, 8\)"),
    ],
)
def test_arguments_of_a_cvae_of_images_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(mc.InputError, match=message):
        mc.CVAE.conv(**{"image_shape": (1, 8, 8), "condition_dim": 2, "latent_dim": 3} | arguments)  # type: ignore[arg-type]
