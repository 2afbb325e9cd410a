"""Multi-layer perceptrons."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ..arguments import check_choice, check_positive
from ..covariance import Covariance
from .checks import check_widths
from .head import PosteriorHead
from .precision import Float32Linear, of_weights

__all__ = ["Activation", "ConditionalMLPDecoder", "ConditionalMLPEncoder", "MLPDecoder", "MLPEncoder", "mlp"]

Activation = Literal["relu", "prelu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "prelu": nn.PReLU}


def _hidden(sizes: Sequence[int], activation: Activation, reads_z: bool = False) -> list[nn.Module]:
    """Linear layers, each with an activation behind it; PReLU has one slope per layer."""
    check_choice("activation", activation, Activation)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = Float32Linear if reads_z and not layers else nn.Linear
        layers += [linear(inputs, outputs), ACTIVATIONS[activation]()]
    return layers


def mlp(sizes: Sequence[int], activation: Activation, reads_z: bool = False) -> nn.Sequential:
    """Linear layers with an activation between them. The last is outside autocast, and the first if it reads z."""
    return nn.Sequential(*_hidden(sizes[:-1], activation, reads_z), Float32Linear(sizes[-2], sizes[-1]))


def mlp_to_posterior(
    sizes: Sequence[int], latent_dim: int, activation: Activation, covariance: Covariance
) -> nn.Sequential:
    """The same with the head of an encoder for its last layer."""
    return nn.Sequential(*_hidden(sizes, activation), PosteriorHead(sizes[-1], latent_dim, covariance))


class MLPEncoder(nn.Module):
    """x ``[B, d]`` → mu, log_var ``[B, κ]``, or mu, tril: parts of one linear head, views without a copy.

    x has the dtype of the weights; under autocast the head gives float32.

    Args:
        data_dim: d.
        latent_dim: κ.
        hidden: widths of the hidden layers; none make it affine.
        activation: ``"relu"``, or ``"prelu"`` with one slope per layer.
        covariance: ``"diagonal"``, or ``"cholesky"``, which gives tril ``[B, κ(κ + 1)/2]`` instead of log_var.

    Raises:
        InputError: a size that is not a positive integer, or another activation or covariance.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Appendix A.
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        hidden: Sequence[int] = (64,),
        activation: Activation = "relu",
        covariance: Covariance = "diagonal",
    ) -> None:
        super().__init__()
        data_dim, latent_dim = check_positive(data_dim=data_dim, latent_dim=latent_dim)
        hidden = check_widths(hidden)
        self.input_shape = (data_dim,)
        self.layers = mlp_to_posterior((data_dim, *hidden), latent_dim, activation, covariance)

    input_dtype = of_weights(lambda network: network.layers[0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, spread = self.layers(x)
        return mu, spread


class MLPDecoder(nn.Module):
    """z ``[B, κ]`` → x̂ ``[B, d]``, through layers like those of :class:`MLPEncoder`, with its arguments but for the
    covariance, and its errors. Under autocast the layer that reads z and the one that gives x̂ stay in float32.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Appendix A.
    """

    def __init__(
        self, latent_dim: int, data_dim: int, hidden: Sequence[int] = (64,), activation: Activation = "relu"
    ) -> None:
        super().__init__()
        data_dim, latent_dim = check_positive(data_dim=data_dim, latent_dim=latent_dim)
        hidden = check_widths(hidden)
        self.layers = mlp((latent_dim, *hidden, data_dim), activation, reads_z=True)

    input_dtype = of_weights(lambda network: network.layers[0])

    def forward(self, z: Tensor) -> Tensor:
        x_hat: Tensor = self.layers(z)
        return x_hat


class ConditionalMLPEncoder(nn.Module):
    """x ``[B, d]``, c ``[B, t]`` → mu, log_var ``[B, κ]``, or mu, tril: an MLP of x beside features of c, which an MLP
    makes.

    Args:
        data_dim: d.
        condition_dim: t.
        latent_dim: κ.
        hidden: widths of the hidden layers that read x and the features of c.
        condition_hidden: widths of the hidden layers that make them.
        condition_features: how many there are.
        activation, covariance: see :class:`MLPEncoder`.

    Raises:
        InputError: a size that is not a positive integer, or another activation or covariance.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Appendix A.
    """

    def __init__(
        self,
        data_dim: int,
        condition_dim: int,
        latent_dim: int,
        hidden: Sequence[int] = (64,),
        condition_hidden: Sequence[int] = (16,),
        condition_features: int = 16,
        activation: Activation = "relu",
        covariance: Covariance = "diagonal",
    ) -> None:
        super().__init__()
        data_dim, condition_dim, latent_dim, condition_features = check_positive(
            data_dim=data_dim, condition_dim=condition_dim, latent_dim=latent_dim, condition_features=condition_features
        )
        hidden, condition_hidden = check_widths(hidden), check_widths(condition_hidden, "condition_hidden")
        self.input_shape, self.condition_shape = (data_dim,), (condition_dim,)
        self.condition = mlp((condition_dim, *condition_hidden, condition_features), activation)
        self.layers = mlp_to_posterior((data_dim + condition_features, *hidden), latent_dim, activation, covariance)

    input_dtype = of_weights(lambda network: network.layers[0])

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        mu, spread = self.layers(torch.cat((x, self.condition(c)), dim=1))
        return mu, spread


class ConditionalMLPDecoder(nn.Module):
    """z ``[B, κ]``, c ``[B, t]`` → x̂ ``[B, d]``: an MLP of z beside features of c, which an MLP makes. Arguments and
    errors are those of :class:`ConditionalMLPEncoder`.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Appendix A.
    """

    def __init__(
        self,
        latent_dim: int,
        condition_dim: int,
        data_dim: int,
        hidden: Sequence[int] = (64,),
        condition_hidden: Sequence[int] = (16,),
        condition_features: int = 16,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        latent_dim, condition_dim, data_dim, condition_features = check_positive(
            latent_dim=latent_dim, condition_dim=condition_dim, data_dim=data_dim, condition_features=condition_features
        )
        hidden, condition_hidden = check_widths(hidden), check_widths(condition_hidden, "condition_hidden")
        self.condition = mlp((condition_dim, *condition_hidden, condition_features), activation)
        self.layers = mlp((latent_dim + condition_features, *hidden, data_dim), activation, reads_z=True)

    input_dtype = of_weights(lambda network: network.layers[0])

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        x_hat: Tensor = self.layers(torch.cat((z, self.condition(c)), dim=1))
        return x_hat
