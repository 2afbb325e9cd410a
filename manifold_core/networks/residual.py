"""Residual networks, for images."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..arguments import check_integer, check_positive
from ..covariance import Covariance
from .checks import check_image, check_widths
from .conv_layers import ConvNorm, ConvTranspose2d
from .head import PosteriorHead
from .mlp import Activation, mlp
from .normalisation import BatchNorm2d
from .precision import Float32ConvTranspose2d, Float32Linear, of_weights, outside_autocast
from .served import watched

__all__ = [
    "CHANNELS",
    "CONDITIONAL_CHANNELS",
    "ConditionalConvDecoder",
    "ConditionalConvEncoder",
    "ConvDecoder",
    "ConvEncoder",
    "channels_last",
    "default_channels",
]

# Of the first residual block by default: those of the published code's VAE and CVAE.
CHANNELS, CONDITIONAL_CHANNELS = 5, 32


def default_channels(conditional: bool) -> int:
    return CONDITIONAL_CHANNELS if conditional else CHANNELS


class _EncoderBlock(nn.Module):
    """Two 3×3 Conv-BN-ReLU in the main branch, a 1×1 Conv-BN in the shortcut; halves the image."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(ConvNorm(inputs, outputs, stride=2), ConvNorm(outputs, outputs))
        self.shortcut = ConvNorm(inputs, outputs, kernel=1, stride=2, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.main
        shortcut = self.shortcut(x)
        out: Tensor = self.main(x) + shortcut if watched(self.main, second) else second(first(x), shortcut)
        return out


class _DecoderBlock(nn.Module):
    """A residual block of one convolution, then a ConvTranspose that doubles the image."""

    def __init__(self, inputs: int, outputs: int, up: type[nn.ConvTranspose2d] = ConvTranspose2d) -> None:
        super().__init__()
        self.main = ConvNorm(inputs, inputs)
        self.up = up(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(x + self.main(x) if watched(self.main) else self.main(x, x))
        return out


def _beside(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Module | None:
    """An MLP beside a linear layer from ``inputs`` to ``outputs`` numbers if there are widths of hidden layers. Each of
    its layers is normalised over the batch, as the convolutions are. (Without, one of 256 diverges on Fashion-MNIST at
    a learning rate of 0.005.)"""
    layers: list[nn.Module] = []
    sizes = (inputs, *check_widths(hidden))
    for before, width in pairwise(sizes):
        pixels = nn.Unflatten(1, (width, 1, 1))  # of one image each, for the normalisation
        layers += [nn.Linear(before, width, bias=False), pixels, BatchNorm2d(width), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs)) if layers else None


def _laid_out(x: Tensor, blocks: nn.Module) -> Tensor:
    """In the memory format of the weights, which :func:`channels_last` changes. (Replicas of nn.DataParallel have no
    parameters.)"""
    images = (weight for weight in blocks.parameters() if weight.dim() == 4 and min(weight.shape[:2]) > 1)
    weights = next(images, None)
    as_pytorch = weights is None or weights.is_contiguous()
    return x.contiguous(memory_format=torch.contiguous_format if as_pytorch else torch.channels_last)


def channels_last(model: nn.Module) -> None:
    """Has the residual networks in a model compute on channels-last images. Networks of others stay as they are: what
    they do between their layers, such as ``view``, may not work on such images."""
    for module in model.modules():
        if isinstance(module, ConvEncoder | ConvDecoder | ConditionalConvEncoder | ConditionalConvDecoder):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class ConvEncoder(nn.Module):
    """Images ``[B, C, H, W]`` → mu, log_var ``[B, κ]``, or mu, tril, through residual blocks of c and 2c channels and a
    linear layer, beside which stands an MLP if widths of hidden layers are given.

    x has the dtype of the weights, and is brought into their memory format.

    Args:
        image_shape: C, H, W; H and W are multiples of 4.
        latent_dim: κ.
        channels: c.
        covariance: see :class:`MLPEncoder`.
        hidden: widths of the hidden layers of the MLP.

    Raises:
        InputError: a size that is not a positive integer, sides that are not multiples of 4, or another covariance.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Appendix A.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        channels: int = CHANNELS,
        covariance: Covariance = "diagonal",
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__()
        latent_dim, channels = check_positive(latent_dim=latent_dim, channels=channels)
        self.input_shape = inputs, height, width = check_image(image_shape)
        self.blocks = nn.Sequential(_EncoderBlock(inputs, channels), _EncoderBlock(channels, 2 * channels))
        features = 2 * channels * (height // 4) * (width // 4)
        self.head = PosteriorHead(features, latent_dim, covariance, _beside(features, hidden, 2 * latent_dim))

    input_dtype = of_weights(lambda network: network.head)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, spread = self.head(torch.flatten(self.blocks(_laid_out(x, self.blocks)), 1))
        return mu, spread


class ConvDecoder(nn.Module):
    """z ``[B, κ]`` → images ``[B, C, H, W]`` through a linear layer, beside which stands an MLP if widths of hidden
    layers are given, and residual blocks of 2c and c channels. Arguments and errors are those of :class:`ConvEncoder`.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Appendix A.
    """

    def __init__(
        self, latent_dim: int, image_shape: Sequence[int], channels: int = CHANNELS, hidden: Sequence[int] = ()
    ) -> None:
        super().__init__()
        latent_dim, channels = check_positive(latent_dim=latent_dim, channels=channels)
        outputs, height, width = check_image(image_shape)
        features = 2 * channels * (height // 4) * (width // 4)
        self.head = Float32Linear(latent_dim, features)
        self.beside = _beside(latent_dim, hidden, features)
        self.unflatten = nn.Unflatten(1, (2 * channels, height // 4, width // 4))
        self.blocks = nn.Sequential(
            _DecoderBlock(2 * channels, channels), _DecoderBlock(channels, outputs, Float32ConvTranspose2d)
        )

    input_dtype = of_weights(lambda network: network.head)

    def forward(self, z: Tensor) -> Tensor:
        features = self.head(z)
        if self.beside is not None:
            features = features + outside_autocast(self.beside, z, self.head)
        x_hat: Tensor = self.blocks(_laid_out(self.unflatten(features), self.blocks))
        return x_hat


class ConditionalConvEncoder(nn.Module):
    """Images ``[B, C, H, W]``, c ``[B, t]`` → mu, log_var ``[B, κ]``, or mu, tril: a :class:`ConvEncoder` of the image
    and one more channel, which a linear layer makes of c. ``condition_dim`` is t; the other arguments and the errors
    are those of :class:`ConvEncoder`.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Appendix A, for the residual
    networks; how an encoder of images reads c it does not say.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        condition_dim: int,
        latent_dim: int,
        channels: int = CONDITIONAL_CHANNELS,
        covariance: Covariance = "diagonal",
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__()
        condition_dim = check_integer("condition_dim", condition_dim, 1)
        self.input_shape = inputs, height, width = check_image(image_shape)
        self.condition_shape = (condition_dim,)
        self.condition = nn.Linear(condition_dim, height * width)
        self.unflatten = nn.Unflatten(1, (1, height, width))
        self.image = ConvEncoder((inputs + 1, height, width), latent_dim, channels, covariance, hidden)

    input_dtype = of_weights(lambda network: network.condition)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        mu, spread = self.image(torch.cat((x, self.unflatten(self.condition(c))), dim=1))
        return mu, spread


class ConditionalConvDecoder(nn.Module):
    """z ``[B, κ]``, c ``[B, t]`` → images ``[B, C, H, W]``: a :class:`ConvDecoder` of z beside features of c, which an
    MLP makes. ``condition_dim`` is t, ``condition_hidden``, ``condition_features`` and ``activation`` are those of
    :class:`ConditionalMLPEncoder`; the other arguments and the errors are those of :class:`ConvDecoder`.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Appendix A.
    """

    def __init__(
        self,
        latent_dim: int,
        condition_dim: int,
        image_shape: Sequence[int],
        channels: int = CONDITIONAL_CHANNELS,
        condition_hidden: Sequence[int] = (16,),
        condition_features: int = 16,
        activation: Activation = "relu",
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__()
        latent_dim, condition_dim, condition_features = check_positive(
            latent_dim=latent_dim, condition_dim=condition_dim, condition_features=condition_features
        )
        condition_hidden = check_widths(condition_hidden, "condition_hidden")
        self.condition = mlp((condition_dim, *condition_hidden, condition_features), activation)
        self.image = ConvDecoder(latent_dim + condition_features, image_shape, channels, hidden)

    input_dtype = of_weights(lambda network: network.image.head)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        x_hat: Tensor = self.image(torch.cat((z, self.condition(c)), dim=1))
        return x_hat
