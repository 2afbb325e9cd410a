"""The CVAE: its loss and samples against the formulas, its networks, torch.compile."""

import copy
import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from manifold_core.kernels.random import standard_normal
from own_networks import First
from torch import Tensor, nn

import manifold_core as mc


@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel])
def test_a_wrapped_cvae_is_a_cvae(wrap: Callable[[nn.Module], mc.CVAE]) -> None:
    torch.manual_seed(0)
    cvae, x, c = mc.CVAE.mlp(6, 2, 3), torch.rand(9, 6), torch.rand(9, 2)
    assert mc.evaluate(wrap(cvae), x, c) == mc.evaluate(cvae, x, c)
    found, expected = mc.active_dimensions(nn.DataParallel(wrap(cvae)), x, c), mc.active_dimensions(cvae, x, c)
    assert torch.equal(found.variance, expected.variance)
    assert mc.with_standard_prior(wrap(cvae))(x, c, seed=1).loss == mc.with_standard_prior(cvae)(x, c, seed=1).loss
    with pytest.raises(mc.InputError, match="condition must be given for a CVAE"):
        mc.evaluate(wrap(cvae), x)
    with pytest.raises(mc.InputError, match="condition must be None for a VAE"):
        mc.evaluate(wrap(mc.VAE.mlp(6, 3)), x, c)


def test_a_compiled_cvae_is_trained_and_another_module_is_not() -> None:
    config, x, c = mc.TrainingConfig(steps=3, batch_size=4), torch.rand(9, 6), torch.rand(9, 2)
    cvae = mc.CVAE.mlp(6, 2, 3)
    compiled = copy.deepcopy(cvae)
    mc.train(cvae, x, config, condition=c, progress=False)
    mc.train(torch.compile(compiled, backend="eager"), x, config, condition=c, progress=False)
    for name, tensor in cvae.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], tensor)
    own = nn.Module()  # of a class of one's own, which uses it
    own.elbo = mc.GaussianELBO()
    hint_of_own = r"; mc.VAE\(encoder, .*"
    others = (
        (nn.DataParallel(cvae), ": give model.module; .*"),
        (nn.Linear(6, 6), hint_of_own),
        (own, hint_of_own),
    )
    for other, hint in others:
        with pytest.raises(mc.InputError, match=f"^model must be .* got {type(other).__name__}{hint}$"):
            mc.train(other, x, config, condition=c, progress=False)  # type: ignore[arg-type]


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
    torch.testing.assert_close(model.spectrum(x, c), ratio.sort(dim=1).values)
    torch.testing.assert_close(terms.variance_ratio, ratio.mean(0).to(terms.variance_ratio.dtype))


@pytest.mark.parametrize("attention", [False, True])
def test_reconstruction_of_a_cvae_is_the_decoder_at_the_mean(attention: bool) -> None:
    model = mc.CVAE.mlp(7, 2, 3, attention=attention)
    x, c = torch.rand(4, 7), torch.rand(4, 2)
    mean = model.posterior(x, c)[0]
    if model.gate is not None:
        mean = mean * model.gate(c).sigmoid()
    torch.testing.assert_close(model.reconstruct(x, c), model.decoder(mean, c))


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
    for dynamic in (False, True):
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        for condition in (c, c > 0.5):
            torch.testing.assert_close(compiled(x, condition, seed=1).loss, model(x, condition, seed=1).loss)
        torch.testing.assert_close(compiled(x[:3], c[:3], seed=1).loss, model(x[:3], c[:3], seed=1).loss)


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
