"""Remark 1: the same model with the prior N(0, I) has the same losses, the same samples and gradients of its own."""

import copy
from itertools import product

import pytest
import torch
from torch import Tensor, nn

import manifold_core as mc


def perturbed(model: mc.CVAE) -> mc.CVAE:
    """Far from where models start, where m is small and s near 1."""
    generator = torch.Generator().manual_seed(2)
    for parameter in model.double().parameters():
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def mlp(
    prior: str = "learned",
    attention: bool = True,
    activation: str = "relu",
    gamma: str = "learned",
    covariance: str = "diagonal",
) -> mc.CVAE:
    torch.manual_seed(0)
    elbo = mc.GaussianELBO(gamma, -0.7, beta=0.5, covariance=covariance)  # type: ignore[arg-type]
    return perturbed(
        mc.CVAE.mlp(7, 2, 3, (8, 6), prior=prior, attention=attention, activation=activation, elbo=elbo)  # type: ignore[arg-type]
    )


def sequential(share_weights: bool, covariance: str = "diagonal") -> mc.CVAE:
    torch.manual_seed(0)
    return perturbed(mc.SequentialCVAE.lstm(2, 3, 5, share_weights=share_weights, covariance=covariance))  # type: ignore[arg-type]


MODELS = {
    **{
        f"mlp, attention={attention}, {activation}, {gamma} gamma": lambda a=attention, b=activation, g=gamma: mlp(
            "learned", a, b, g
        )
        for attention, activation, gamma in product((False, True), ("relu", "prelu"), ("learned", "analytic", "fixed"))
    },
    "LSTM": lambda: sequential(False),
    "LSTM, shared weights": lambda: sequential(True),
    "mlp, full covariance": lambda: mlp(covariance="cholesky"),
    "LSTM, full covariance": lambda: sequential(False, "cholesky"),
}


def data(model: mc.CVAE, samples: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, c = ((samples, 2), (samples, 4, 2)) if isinstance(model, mc.SequentialCVAE) else ((samples, 7), (samples, 2))
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in (x, c))  # type: ignore[return-value]


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_every_term_is_the_same_on_the_same_noise(name: str) -> None:
    model = MODELS[name]()
    x, c = data(model)
    converted = mc.with_standard_prior(model)
    assert (converted.prior, converted.gate) == (None, None)
    # Otherwise the test would see little.
    m, p = model.prior(c)  # type: ignore[misc]
    assert m.abs().mean() > 0.2
    assert p.abs().mean() > 0.2
    expected, found = model(x, c, seed=5, first_row=3), converted(x, c, seed=5, first_row=3)
    for term in ("loss", "nll", "kl", "recon", "x_hat", "log_gamma", "variance_ratio"):
        assert_same(getattr(found, term), getattr(expected, term))
    assert_same(converted.variance_ratio(x, c), model.variance_ratio(x, c))
    assert_same(converted.spectrum(x, c), model.spectrum(x, c))
    assert_same(converted.reconstruct(x, c), model.reconstruct(x, c))
    for own, other in (
        (mc.evaluate(converted, x, c), mc.evaluate(model, x, c)),
        (mc.active_dimensions(converted, x, c), mc.active_dimensions(model, x, c)),
    ):
        assert_same(torch.as_tensor(own.variance).double(), torch.as_tensor(other.variance).double())


@pytest.mark.parametrize("name", MODELS)
def test_samples_are_the_same_from_the_same_generator(name: str) -> None:
    model = MODELS[name]()
    c = data(model)[1]
    expected = model.sample(c, torch.Generator().manual_seed(4))
    found = mc.with_standard_prior(model).sample(c, torch.Generator().manual_seed(4))
    assert_same(found, expected)
    assert expected.std() > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_the_same_and_go_to_a_copy(name: str) -> None:
    """The gradient of one parametrisation of the loss with respect to the weights that both have."""
    model = MODELS[name]()
    x, c = data(model)
    converted = mc.with_standard_prior(model)
    converted(x, c, seed=5).loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    model(x, c, seed=5).loss.backward()
    of_model, of_converted = list(model.parameters()), list(converted.parameters())
    assert len(of_model) == len(of_converted)  # each once
    assert not {p.data_ptr() for p in of_model} & {p.data_ptr() for p in of_converted}
    inner = {
        "encoder": converted.encoder.encoder,
        "decoder": converted.decoder.decoder,
        "prior": converted.encoder.prior,
        "gate": converted.decoder.gate,
        "elbo": converted.elbo,
    }
    assert converted.decoder.prior is converted.encoder.prior
    for path, parameter in model.named_parameters():
        part, _, rest = path.partition(".")
        found = inner[part].get_parameter(rest).grad  # type: ignore[union-attr, operator]
        assert parameter.grad is not None
        torch.testing.assert_close(found, parameter.grad, rtol=1e-9, atol=1e-10, msg=lambda s, n=path: f"{n}: {s}")


def test_training_goes_on_and_leaves_the_original_alone() -> None:
    model = mlp().float()
    x, c = (part.float() for part in data(model, 50))
    before = copy.deepcopy(model.state_dict())
    converted = mc.with_standard_prior(model)
    start = mc.evaluate(converted, x, c).neg_elbo
    mc.train(converted, x, mc.TrainingConfig(steps=50, batch_size=25), condition=c, progress=False)
    assert mc.evaluate(converted, x, c).neg_elbo < start - 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("training", [False, True])
def test_a_standard_prior_stays_and_the_mode_does(training: bool) -> None:
    model = mlp("standard").train(training)
    x, c = data(model)
    found = mc.with_standard_prior(model)
    assert found is not model
    assert found.training == training
    assert_same(found(x, c, seed=5).loss, model(x, c, seed=5).loss)
    assert found.gate is not None
    once = mc.with_standard_prior(mlp().train(training))
    assert {module.training for module in once.modules()} == {training}
    twice = mc.with_standard_prior(once)
    assert_same(twice(x, c, seed=5).loss, once(x, c, seed=5).loss)
    assert [name for name, _ in twice.named_parameters()] == [name for name, _ in once.named_parameters()]


def test_conditions_are_still_checked() -> None:
    for model, wanted in ((mlp(), r"\[9, 2\]"), (sequential(False), r"\[9, any, 2\]")):
        x, c = data(model)
        with pytest.raises(mc.InputError, match=f"c must be a tensor of shape {wanted}"):
            mc.with_standard_prior(model)(x, c[:8])


@pytest.mark.parametrize("covariance", ["diagonal", "cholesky"])
def test_one_prior_for_all_conditions(covariance: str) -> None:
    class Fixed(nn.Module):
        """N(m, s²), of shape [κ], which the ELBO takes as well."""

        def forward(self, _c: Tensor) -> tuple[Tensor, Tensor]:
            return torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([-1.0, 2.0, 0.3]).double()

    model = mlp(covariance=covariance)
    model.prior = Fixed()
    x, c = data(model)
    assert_same(mc.with_standard_prior(model)(x, c, seed=5).loss, model(x, c, seed=5).loss)


def test_modules_that_are_frozen_stay_in_their_mode() -> None:
    """Batch normalisation, then, goes by running statistics, and training leaves these alone."""
    model = mc.CVAE.conv((1, 8, 8), 3, 2)
    model.encoder.requires_grad_(False).eval()
    converted = mc.with_standard_prior(model)
    assert converted.training
    assert not any(module.training for module in converted.encoder.encoder.modules())
    assert all(module.training for module in converted.decoder.modules())
    x, c = torch.rand(6, 1, 8, 8), torch.rand(6, 3)
    torch.testing.assert_close(converted(x, c, seed=5).loss, model(x, c, seed=5).loss)
