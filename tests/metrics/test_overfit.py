"""The error on samples held out beside that on the samples trained on."""

import pytest
import torch
from torch import Tensor, nn

import manifold_core as mc
from manifold_core.metrics import overfit
from manifold_core.metrics.overfit import error_ratio


class First(nn.Module):
    """Knows the first number of a sample alone, surely."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :1], torch.full_like(x[:, :1], -60.0)


def model() -> mc.VAE:
    """x̂ = (x₁, 0): the error is x₂²."""
    decoder = nn.Linear(1, 2, bias=False)
    decoder.weight.data.copy_(torch.tensor([[1.0], [0.0]]))
    return mc.VAE(First(), decoder, 1)


def test_it_is_the_ratio_of_medians() -> None:
    inputs = torch.tensor([[5.0, 1.0], [6.0, 2.0], [7.0, 100.0]])  # errors 1, 4, 10,000
    held_out = torch.tensor([[5.0, 4.0], [6.0, 4.0], [7.0, 0.0]])  # 16, 16, 0
    assert error_ratio(model(), (inputs,), (held_out,)) == 16 / 4


def test_where_there_is_nothing_to_compare_there_is_none() -> None:
    exact, other = torch.tensor([[5.0, 0.0]]), torch.tensor([[5.0, 1.0]])
    assert error_ratio(model(), (exact,), (other,)) is None
    assert error_ratio(model(), (other,), (other[:0],)) is None


def test_of_many_samples_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overfit, "SAMPLES", 4)
    inputs = torch.stack((torch.zeros(100), 2 * torch.ones(100)), dim=1)
    assert error_ratio(model(), (inputs,), (inputs[:50] / 2,)) == 1 / 4


def test_under_a_condition() -> None:
    torch.manual_seed(0)
    cvae = mc.CVAE.mlp(3, 2, 2, (4,), attention=True)
    x, c = torch.randn(20, 3), torch.randn(20, 2)
    errors = (cvae.reconstruct(x, c) - x).double().square().sum(dim=1)
    found = error_ratio(cvae, (x[:11], c[:11]), (x[11:], c[11:]))
    assert found == pytest.approx(float(errors[11:].median() / errors[:11].median()), rel=1e-6)
