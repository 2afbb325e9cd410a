"""The VAE and its networks: shapes, a user's own modules, sampling, bad input."""

import pytest
import torch
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
