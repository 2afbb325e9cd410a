"""The rows of L in units of their diagonal, however many there are."""

import pytest
import torch

import manifold_core as mc
from manifold_core.networks import head
from manifold_core.networks.head import PosteriorHead


@pytest.mark.parametrize("wide", [0, 64])
@pytest.mark.parametrize("lead", [(3,), (2, 3)])
def test_rows_are_in_units_of_their_diagonal(wide: int, lead: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Either way of laying them out, gradients included, against L row by row."""
    monkeypatch.setattr(head, "WIDE", wide)
    torch.manual_seed(0)
    layer = PosteriorHead(5, 4, "cholesky").double()
    features = torch.randn(*lead, 5, dtype=torch.float64)
    mu, tril = layer(features)
    parts = torch.nn.functional.linear(features, layer.weight, layer.bias)
    assert layer.below is not None
    below = layer.below(features)
    log_diagonal, expected, at = parts[..., 4:], [], 0
    for row in range(4):
        unit = log_diagonal[..., row : row + 1].exp()
        expected += [below[..., at : at + row] * unit, log_diagonal[..., row : row + 1]]
        at += row
    wanted = torch.cat(expected, dim=-1)
    torch.testing.assert_close(mu, parts[..., :4])
    torch.testing.assert_close(tril, wanted)
    weights = tuple(layer.parameters())
    cotangent = torch.randn_like(tril)
    found, known = (torch.autograd.grad(out, weights, cotangent, retain_graph=True) for out in (tril, wanted))
    for one, other in zip(found, known, strict=True):
        torch.testing.assert_close(one, other)


def test_constants_grow_no_faster_than_the_weights() -> None:
    """A matrix of κ³/2 numbers would be 8 GB at κ = 1,600."""
    layer = PosteriorHead(8, 400, "cholesky")
    numbers = sum(part.numel() for part in layer.parameters())
    assert sum(part.numel() for part in layer.buffers()) < numbers
    with pytest.raises(mc.InputError, match="latent_dim must be of a size that tensors can have, got 60000"):
        mc.ModelSpec(60_000, (64,), covariance="cholesky")
