"""The decoder's derivative, and the eigenvalues that follow from it: against torch.func, whatever fits one pass."""

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
@pytest.mark.parametrize("numbers", [1, 50, 2**22])
def test_eigenvalues_are_the_formulas_however_many_fit_one_pass(
    data_dim: int, kappa: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tangents, "MOST_NUMBERS", numbers)
    model, watched, x, c = made(data_dim, kappa)
    found = model.decoder_spectrum(x, c)
    axes = min(max(numbers // (3 * max(data_dim, kappa)), 1), kappa)  # of the latent dimensions, at a time
    assert max(watched.rows) == 3 * axes
    assert sum(watched.rows) == 3 * kappa
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
