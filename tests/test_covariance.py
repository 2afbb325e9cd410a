"""Full covariance through the models: losses against torch.distributions, spectra against SciPy."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from manifold_core.kernels.random import standard_normal
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

import manifold_core as mc
from manifold_core.covariance import posterior_sizes, spectrum, variance_ratio
from manifold_core.networks.head import PosteriorHead

KAPPA = 3
PACKED = KAPPA * (KAPPA + 1) // 2


def factor(tril: Tensor) -> Tensor:
    """L of every sample, number by number."""
    found = torch.zeros(len(tril), KAPPA, KAPPA, dtype=tril.dtype)
    place = 0
    for row in range(KAPPA):
        for col in range(row + 1):
            found[:, row, col] = tril[:, place].exp() if row == col else tril[:, place]
            place += 1
    return found


def packed(factors: Tensor) -> Tensor:
    rows, cols = np.tril_indices(KAPPA)
    found = factors[:, rows, cols].clone()
    found[:, rows == cols] = found[:, rows == cols].log()
    return found


def random_tril(samples: int = 5) -> Tensor:
    return torch.randn(samples, PACKED, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


MU = torch.zeros(5, KAPPA, dtype=torch.float64)
PRIOR = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64).expand(5, KAPPA)


@pytest.mark.parametrize("prior", [None, PRIOR])
def test_ratios_and_spectrum_are_those_of_the_two_covariances(prior: Tensor | None) -> None:
    tril = random_tril()
    full = (factor(tril) @ factor(tril).mT).numpy()
    wide = np.diag(np.exp(PRIOR[0].numpy())) if prior is not None else np.eye(KAPPA)
    expected = np.stack([scipy.linalg.eigh(one, wide, eigvals_only=True) for one in full])
    np.testing.assert_allclose(spectrum((MU, tril), prior), expected, rtol=1e-10)
    ratios = np.stack([np.diag(one) / np.diag(wide) for one in full])
    np.testing.assert_allclose(variance_ratio((MU, tril), prior, "cholesky"), ratios, rtol=1e-12)


def test_the_spectrum_does_not_depend_on_a_rotation() -> None:
    tril = random_tril()
    turn = torch.linalg.qr(torch.randn(5, KAPPA, KAPPA, dtype=torch.float64))[0]  # another one for every sample
    turned = packed(torch.linalg.cholesky(turn @ factor(tril) @ factor(tril).mT @ turn.mT))
    torch.testing.assert_close(spectrum((MU, turned), None), spectrum((MU, tril), None), rtol=1e-9, atol=0)
    assert (
        variance_ratio((MU, turned), None, "cholesky") - variance_ratio((MU, tril), None, "cholesky")
    ).abs().max() > 1


def test_small_eigenvalues_keep_their_digits() -> None:
    """Of [[1, 0], [a, e]] they are close to e² / (1 + a²) and 1 + a²; their product is e² exactly."""
    a, e = 3.0, 1e-14
    tril = torch.tensor([[0.0, a, math.log(e)]], dtype=torch.float64)
    small, large = spectrum((torch.zeros(1, 2), tril), None)[0].tolist()
    assert small * large == pytest.approx(e**2, rel=1e-10)
    assert large == pytest.approx(1 + a**2, rel=1e-12)


def test_nan_gives_nan_in_its_own_sample_alone() -> None:
    tril = random_tril()
    tril[2, 1] = math.nan
    found = spectrum((MU, tril), None)
    assert found[2].isnan().all()
    assert found[[0, 1, 3, 4]].isfinite().all()


def test_sizes_of_the_head() -> None:
    assert posterior_sizes(5, "diagonal") == (5, 5)
    assert posterior_sizes(5, "cholesky") == (5, 15)
    with pytest.raises(mc.InputError, match="covariance must be 'diagonal' or 'cholesky', got 'full'"):
        posterior_sizes(5, "full")  # type: ignore[arg-type]


def vector_models() -> list[tuple[mc.VAE | mc.CVAE, tuple[Tensor, ...]]]:
    torch.manual_seed(0)
    x, c = torch.rand(9, 7, dtype=torch.float64), torch.rand(9, 2, dtype=torch.float64)
    image = torch.rand(9, 1, 8, 8, dtype=torch.float64)
    return [
        (mc.VAE.mlp(7, KAPPA, (6,), covariance="cholesky").double(), (x,)),
        (mc.VAE.conv((1, 8, 8), KAPPA, 2, covariance="cholesky").double(), (image,)),
        (mc.CVAE.mlp(7, 2, KAPPA, (6,), attention=True, covariance="cholesky").double(), (x, c)),
        (mc.CVAE.conv((1, 8, 8), 2, KAPPA, 2, attention=True, covariance="cholesky").double(), (image, c)),
        (mc.CVAE.mlp(7, 2, KAPPA, (6,), prior="standard", covariance="cholesky").double(), (x, c)),
    ]


@pytest.mark.parametrize("index", range(5))
def test_loss_and_gradients_are_the_formulas(index: int) -> None:
    model, inputs = vector_models()[index]
    model.train()
    terms = model(*inputs, seed=11, first_row=4)
    terms.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()

    x, c = inputs[0], inputs[1] if len(inputs) == 2 else None
    mu, tril = model.encoder(*inputs)
    assert tril.shape == (9, PACKED)
    scale = factor(tril)
    z = mu + (scale @ standard_normal(torch.tensor(11), 9, KAPPA, 4).unsqueeze(-1)).squeeze(-1)
    m, p = torch.zeros_like(mu), torch.zeros_like(mu)
    if isinstance(model, mc.CVAE) and model.prior is not None:
        m, p = model.prior(c)
    kl = kl_divergence(MultivariateNormal(mu, scale_tril=scale), MultivariateNormal(m, torch.diag_embed(p.exp())))
    if isinstance(model, mc.CVAE) and model.gate is not None:
        z = z * model.gate(c).sigmoid()
    x_hat = model.decoder(z) if c is None else model.decoder(z, c)
    error = (x - x_hat).square().flatten(1).sum(1)
    log_gamma = model.elbo.log_gamma
    loss = (0.5 * (error / log_gamma.exp() + x[0].numel() * (math.log(2 * math.pi) + log_gamma)) + kl).mean()
    loss.backward()

    torch.testing.assert_close(terms.kl, kl, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(terms.loss, loss, rtol=1e-11, atol=1e-12)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, gradients[name], rtol=1e-8, atol=1e-10, msg=lambda s, n=name: f"{n}: {s}"
        )
    full = scale @ scale.mT / (p / 2).exp().unsqueeze(-1) / (p / 2).exp().unsqueeze(-2)
    model.eval()
    with torch.no_grad():
        own = factor(model.posterior(*inputs)[1])
        own = own / (p / 2).exp().unsqueeze(-1)
        torch.testing.assert_close(model.variance_ratio(*inputs), (own @ own.mT).diagonal(dim1=1, dim2=2))
        torch.testing.assert_close(model.spectrum(*inputs), torch.linalg.eigvalsh(own @ own.mT))
    ratio = full.detach().diagonal(dim1=1, dim2=2).mean(0)
    torch.testing.assert_close(terms.variance_ratio, ratio.to(terms.variance_ratio.dtype))


@pytest.mark.parametrize("features", [4, 64, 65])
def test_the_head_gives_rows_in_units_of_their_diagonal(features: int) -> None:
    """A σ that falls takes its row with it. Many features come through a narrow layer."""
    torch.manual_seed(0)
    head, x = PosteriorHead(features, KAPPA, "cholesky").double(), torch.randn(6, features, dtype=torch.float64)
    mu, tril = head(x)
    weights = dict(head.named_parameters())
    plain = x @ weights["weight"].T + weights["bias"]
    torch.testing.assert_close(mu, plain[:, :KAPPA])
    if features == 65:
        assert weights["below.0.weight"].shape == (64, 65)
        x = (x @ weights["below.0.weight"].T + weights["below.0.bias"]).clamp(min=0)
        below = x @ weights["below.2.weight"].T + weights["below.2.bias"]
    else:
        below = x @ weights["below.weight"].T + weights["below.bias"]
    assert weights.keys() == set(head.state_dict())
    scale, numbers = factor(tril), iter(below.unbind(1))
    for row in range(KAPPA):
        torch.testing.assert_close(scale[:, row, row].log(), plain[:, KAPPA + row])
        for col in range(row):
            torch.testing.assert_close(scale[:, row, col] / scale[:, row, row], next(numbers))
    assert next(numbers, None) is None
    few = torch.randn(6, features, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(head, few)


def by_to_empty(model: mc.VAE, weights: dict[str, Tensor]) -> None:
    model.to_empty(device="cpu")
    model.load_state_dict(weights)


def by_assignment(model: mc.VAE, weights: dict[str, Tensor]) -> None:
    model.load_state_dict(weights, assign=True)


def layer_by_layer(model: mc.VAE, weights: dict[str, Tensor]) -> None:
    """As FSDP has it."""
    for module in model.modules():
        module.to_empty(device="cpu", recurse=False)
    model.load_state_dict(weights)


@pytest.mark.parametrize("fill", [by_to_empty, by_assignment, layer_by_layer])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("made_on", ["meta", "cpu"])
def test_a_model_takes_the_numbers_of_another(
    fill: Callable[[mc.VAE, dict[str, Tensor]], None], dtype: torch.dtype, made_on: str
) -> None:
    """The order of the rows of L and what they are multiplied with are in no checkpoint."""
    expected = mc.VAE.mlp(5, KAPPA, (8,), covariance="cholesky").to(dtype)
    with torch.device(made_on):
        model = mc.VAE.mlp(5, KAPPA, (8,), covariance="cholesky")
    model = model if fill is by_assignment else model.to(dtype)
    fill(model, expected.state_dict())
    x = torch.rand(20, 5, dtype=dtype)
    torch.testing.assert_close(model(x, seed=1).loss, expected(x, seed=1).loss, rtol=0, atol=0)
    for name, buffer in expected.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name


def test_one_latent_dimension_has_no_rows() -> None:
    """And nothing warns of weights without numbers."""
    head = PosteriorHead(70, 1, "cholesky")
    assert [name for name, _ in head.named_parameters()] == ["weight", "bias"]
    assert [part.shape for part in head(torch.rand(5, 70))] == [(5, 1), (5, 1)]


class Turned(nn.Module):
    """Half of the samples have their small variance along (1, 1), half along (1, −1)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        along = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).repeat(len(x) // 2, 1) / math.sqrt(2)
        covariance = torch.eye(2) - 0.99 * along.unsqueeze(-1) * along.unsqueeze(-2)
        scale = torch.linalg.cholesky(covariance)
        tril = torch.stack((scale[:, 0, 0].log(), scale[:, 1, 0], scale[:, 1, 1].log()), dim=1)
        return torch.zeros(len(x), 2), tril


def test_dimensions_along_no_axis_are_seen_in_the_spectrum() -> None:
    """One small eigenvalue, 0.01, in each sample; both variances are 0.505, and so is the mean covariance."""
    model = mc.VAE(Turned(), nn.Linear(2, 3), 2, covariance="cholesky")
    x = torch.rand(10, 3)
    found = mc.active_dimensions(model, x, batch_size=4)
    assert found.variance.tolist() == pytest.approx([0.505, 0.505], rel=1e-6)
    assert found.spectrum.tolist() == pytest.approx([0.01, 1.0], rel=1e-4)
    assert (found.count, found.spectrum_count) == (0, 1)
    measured = mc.evaluate(model, x)
    assert (measured.active_dimensions, measured.spectrum_count) == (0, 1)
    assert measured.spectrum == pytest.approx([0.01, 1.0], rel=1e-4)


def test_a_covariance_that_is_not_that_of_the_elbo_is_refused() -> None:
    diagonal = mc.GaussianELBO()
    for make in (
        lambda: mc.VAE.mlp(7, 3, elbo=diagonal, covariance="cholesky"),
        lambda: mc.VAE.conv((1, 8, 8), 3, elbo=diagonal, covariance="cholesky"),
        lambda: mc.CVAE.mlp(7, 2, 3, elbo=diagonal, covariance="cholesky"),
        lambda: mc.CVAE.conv((1, 8, 8), 2, 3, elbo=diagonal, covariance="cholesky"),
        lambda: mc.VAE(Turned(), nn.Linear(2, 3), 2, elbo=diagonal, covariance="cholesky"),
        lambda: mc.SequentialCVAE.lstm(3, 2, elbo=diagonal, covariance="cholesky"),
        lambda: mc.EveryStepCVAE.lstm(3, 2, elbo=diagonal, covariance="cholesky"),
    ):
        with pytest.raises(mc.InputError, match="covariance must be that of elbo, 'diagonal', got 'cholesky'"):
            make()
    with pytest.raises(mc.InputError, match="covariance must be 'diagonal' or 'cholesky', got 'full'"):
        mc.VAE.mlp(7, 3, covariance="full")  # type: ignore[arg-type]
    assert mc.VAE.mlp(7, 3, elbo=mc.GaussianELBO(covariance="cholesky"))(torch.rand(2, 7)).posterior[1].shape == (2, 6)
