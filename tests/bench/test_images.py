"""The training steps of a VAE of images are of one loss, or of two: with and without full covariance."""

import copy

import pytest
import torch
from torch import nn

from manifold_core import VAE
from manifold_core.bench import images
from manifold_core.bench.by_hand import negative_elbo


def test_ours_are_right() -> None:
    assert images.error(4) <= images.COMPARISON.allowed


@pytest.mark.parametrize("covariance", ["diagonal", "cholesky"])
@pytest.mark.parametrize("spoil", ["encoder", "decoder"])
def test_a_wrong_gradient_is_seen(spoil: str, covariance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of either model."""

    def wrong(vae: VAE, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        loss = negative_elbo(vae, x, noise=noise)
        if vae.elbo.covariance != covariance:
            return loss
        return loss + 0.1 * sum(p.sum() for p in getattr(vae, spoil).head.parameters())

    monkeypatch.setattr(images, "negative_elbo", wrong)
    assert images.error(4) > images.COMPARISON.allowed


@pytest.mark.parametrize("name", ["eager", "diagonal", "full covariance", "eager, full"])
def test_a_step_moves_all_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(images, "training_step", lambda vae, loss, size: made.append((vae, loss)))
    images.COMPARISON.contenders[name](2)
    vae, loss = made[0]
    before = copy.deepcopy(vae.state_dict())
    monkeypatch.undo()
    images.training_step(vae, loss, 4).run()
    assert vae.elbo.covariance == ("cholesky" if "full" in name else "diagonal")
    for key, tensor in vae.state_dict().items():
        assert (tensor != before[key]).any(), key


def test_operations_are_those_of_the_layers() -> None:
    """Counted at work: of each output number of a convolution as many products as there are weights behind it."""
    vae, counted = images.model(), [0]

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor | tuple[torch.Tensor]) -> None:
        given = inputs[0].numel()
        made = sum(part.numel() for part in (output if isinstance(output, tuple) else (output,)))
        counted[0] += (given if isinstance(layer, nn.ConvTranspose2d) else made) * layer.weight[0].numel()

    for layer in vae.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            layer.register_forward_hook(count)
    vae(images.batch(1))
    assert images.operations(1) == 2 * 3 * counted[0]
