"""The decoder's derivative, and the eigenvalues that follow from it: against torch.func, whatever fits one pass, and
against finite differences, whatever the decoder is made of."""

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import manifold_core as mc
from manifold_core.models import tangents


class Watched(nn.Module):
    """A decoder that remembers how many rows it was given."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder, self.rows = decoder, list[int]()

    def forward(self, *inputs: Tensor) -> Tensor:
        self.rows.append(len(inputs[0]))
        x_hat: Tensor = self.decoder(*inputs)
        return x_hat


def made(data_dim: int, kappa: int) -> tuple[mc.CVAE, Watched, Tensor, Tensor]:
    torch.manual_seed(0)
    model = mc.CVAE.mlp(data_dim, 2, kappa, (9,), attention=True, elbo=mc.GaussianELBO(log_gamma=-1.0)).double().eval()
    model.decoder = watched = Watched(model.decoder)
    return model, watched, torch.rand(3, data_dim, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64)


@torch.no_grad()
def expected(model: mc.CVAE, x: Tensor, c: Tensor) -> Tensor:
    """By torch.func and the κ×κ inverse of the formula."""
    found = []
    assert model.prior is not None
    for z, one in zip(model.posterior(x, c)[0], c[:, None], strict=True):
        jacobian = torch.func.jacrev(lambda z, one=one: model.decode.__wrapped__(model, z[None], one)[0])(z)
        scale = (model.prior(one)[1][0] / 2).exp().diag()
        precision = scale @ jacobian.mT @ jacobian @ scale / model.elbo.log_gamma.exp()
        found.append(torch.linalg.eigvalsh(torch.linalg.inv(torch.eye(len(z), dtype=z.dtype) + precision)))
    return torch.stack(found)


@pytest.mark.parametrize(("data_dim", "kappa"), [(5, 3), (4, 4), (3, 7)])
@pytest.mark.parametrize("numbers", [1, 30, 50, 2**22])
def test_eigenvalues_are_the_formulas_however_many_fit_one_pass(
    data_dim: int, kappa: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tangents, "MOST_NUMBERS", numbers)
    model, watched, x, c = made(data_dim, kappa)
    found = model.decoder_spectrum(x, c)
    axes = min(max(numbers // (3 * max(data_dim, kappa)), 1), kappa)  # of the latent dimensions, at a time
    assert watched.rows[:2] == [3, 3]  # to compare both modes
    assert max(watched.rows) == 3 * axes
    assert sum(watched.rows[2:]) == 3 * kappa
    torch.testing.assert_close(found, expected(model, x, c), rtol=1e-9, atol=1e-12)


def test_many_latent_dimensions_take_little_memory() -> None:
    """A κ×κ matrix of these would be 3.2 GB, and so would one sample repeated κ times."""
    kappa = 20_000
    model = mc.VAE(mc.VAE.mlp(3, kappa, (2,)).encoder, watched := Watched(nn.Linear(kappa, 3)), kappa)
    x = torch.rand(1, 3)
    found = model.decoder_spectrum(x)
    assert max(watched.rows) * kappa <= 2**22
    assert isinstance(watched.decoder, nn.Linear)
    weight = watched.decoder.weight.detach().double()
    torch.testing.assert_close(found[0, :3], 1 / (1 + torch.linalg.svdvals(weight) ** 2))
    assert (found[0, 3:] == 1).all()


@torch.library.custom_op("manifold_core_tests::softened", mutates_args=())
def softened(x: Tensor) -> Tensor:
    """SiLU, as a kernel of one's own: tangents pass it no further, without a word."""
    return nn.functional.silu(x)


def _softened_backward(ctx: Any, gradient: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return cast(Tensor, gradient * (x.sigmoid() + x * x.sigmoid() * (1 - x.sigmoid())))


softened.register_autograd(_softened_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * 3 * x**2


class Tokens(nn.Module):
    """z as five tokens of 8 numbers, to a layer that mixes them, and back: beside a linear path around it."""

    def __init__(self, mixed: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.read, self.mixed, self.write, self.around = nn.Linear(3, 40), mixed, nn.Linear(40, 6), nn.Linear(3, 6)

    def forward(self, z: Tensor) -> Tensor:
        x_hat: Tensor = self.write(self.mixed(self.read(z).view(-1, 5, 8)).flatten(1)) + self.around(z)
        return x_hat


def attention(x: Tensor) -> Tensor:
    heads = x.view(-1, 5, 2, 4).transpose(1, 2)
    found: Tensor = nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2)
    return found


class Recurrent(nn.LSTM):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        found: Tensor = super().forward(x)[0]
        return found


@pytest.mark.parametrize(
    "mixed",
    [
        softened,
        Cubed.apply,
        attention,
        Recurrent(8, 8, batch_first=True),
        nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True),
    ],
)
@pytest.mark.parametrize("numbers", [20, 2**22])
def test_any_decoder_has_its_derivative(mixed: Any, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tangents, "MOST_NUMBERS", numbers)
    torch.manual_seed(0)
    decoder = Tokens(mixed).double().eval()
    z, step = torch.randn(4, 3, dtype=torch.float64), 1e-6
    with torch.no_grad():
        moved = [(decoder(z + step * axis) - decoder(z - step * axis)) / (2 * step) for axis in torch.eye(3)]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = tangents.tangents(decoder, z, features=6)
        torch.testing.assert_close(found, torch.stack(moved, dim=1), rtol=1e-6, atol=1e-8)


def test_a_decoder_made_in_inference_mode_has_one_in_forward_mode_alone() -> None:
    with torch.inference_mode():
        decoder = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6))
    z = torch.randn(4, 3)
    found = tangents.tangents(decoder, z, features=6)
    with torch.no_grad():
        rows = torch.stack([torch.func.jacfwd(decoder)(one).T for one in z])
    torch.testing.assert_close(found, rows)


def test_a_variance_too_small_for_float32_is_no_zero() -> None:
    """log γ is float32, and where the data have no noise it falls without bound."""
    found = tangents.decoder_spectrum(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor(-120.0), None)
    assert found[0].tolist() == pytest.approx([math.exp(-120) / 4, math.exp(-120)], rel=1e-12)


def test_what_rounding_leaves_of_no_derivative_is_no_variance_beyond_the_priors() -> None:
    """Of rank 1 beside a tiny γ, where a rounded 0 is not small: a negative one would be a variance above 1, or below
    0, which would count as active."""
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(9, 20, 1, generator=generator) * torch.randn(9, 1, 30, generator=generator)
    found = tangents.decoder_spectrum(jacobian, torch.tensor(-36.0), None)
    assert (found[:, 0] < 1e-15).all()
    assert ((found > 0) & (found <= 1)).all()
