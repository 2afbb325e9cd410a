"""LSTMs, for sequences."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..arguments import check_integer, check_positive
from ..covariance import Covariance
from ..errors import InputError
from ..kernels import lstm
from ..kernels.lstm.op import choose_for_sequences
from .checks import check_widths
from .head import PosteriorHead
from .mlp import mlp
from .precision import of_weights
from .served import Served, left_to_pytorch, watched

__all__ = ["LSTM", "LSTMDecoder", "LSTMEncoder", "NextStepEncoder"]


class LSTM(Served, nn.LSTM):
    """nn.LSTM of one layer, batch first; :func:`outputs` computes it by :func:`manifold_core.kernels.lstm`."""

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, data_dim: int, hidden: int) -> None:
        super().__init__(data_dim, hidden, batch_first=True)


def outputs(layer: nn.LSTM, sequence: Tensor) -> Tensor:
    """What the layer puts out at each step, ``[B, L, hidden]``, given ``[B, L, d]``, L ≥ 1."""
    shape, width = tuple(sequence.shape), layer.input_size
    if len(shape) != 3 or shape[1] < 1 or shape[2] != width:
        raise InputError(
            f"a sequence must be a tensor of shape [B, L, {width}] with L of at least 1, got shape {shape}"
        )
    if isinstance(layer, LSTM) and _is_plain(layer) and not left_to_pytorch(sequence) and not watched(layer):
        weights = layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0
        if choose_for_sequences(layer.backend, sequence, *weights) == "cpu":
            return lstm(sequence, *weights, backend="cpu")
    found: Tensor = layer(sequence)[0]
    return found


def _is_plain(layer: nn.LSTM) -> bool:
    """With a forward of its own it may compute anything."""
    return type(layer).forward is nn.LSTM.forward


def outputs_from_none(layer: nn.LSTM, sequence: Tensor) -> Tensor:
    """After 0, 1, …, L steps, L ≥ 0, ``[B, L + 1, hidden]``: after none zeros, with which an LSTM begins."""
    if tuple(sequence.shape[1:]) == (0, layer.input_size):
        return sequence.new_zeros(len(sequence), 1, layer.hidden_size)
    return nn.functional.pad(outputs(layer, sequence), (0, 0, 1, 0))


class LSTMEncoder(nn.Module):
    """Sequences ``[B, L, d]`` of any length L ≥ 1 → mu, log_var ``[B, κ]``, or mu and tril ``[B, κ(κ+1)/2]``: a linear
    head on the last state of an LSTM.

    On the steps before x it is a prior, if diagonal; :class:`NextStepEncoder` makes it an encoder of x.

    Args:
        data_dim: d, of one step.
        latent_dim: κ.
        hidden: units of the LSTM.
        covariance: ``"diagonal"`` or ``"cholesky"``.

    Raises:
        InputError: a size that is not a positive integer, an unknown covariance; when called, a sequence of another
            shape.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Appendix A.
    """

    def __init__(self, data_dim: int, latent_dim: int, hidden: int = 32, covariance: Covariance = "diagonal") -> None:
        super().__init__()
        data_dim, latent_dim, hidden = check_positive(data_dim=data_dim, latent_dim=latent_dim, hidden=hidden)
        self.lstm = LSTM(data_dim, hidden)
        self.head = PosteriorHead(hidden, latent_dim, covariance)

    input_dtype = of_weights(lambda network: network.head)

    def forward(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        mu, spread = self.head(outputs(self.lstm, sequence)[:, -1])
        return mu, spread

    def at_every_length(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """The same of the first 0, 1, …, L steps, in one pass: ``[B, L + 1, ...]``."""
        mu, spread = self.head(outputs_from_none(self.lstm, sequence))
        return mu, spread


class NextStepEncoder(nn.Module):
    """x ``[B, d]``, c ``[B, T, d]`` → what ``network`` gives for the T + 1 steps of c and then x, ``[B, T + 1, d]``.

    Args:
        network: of sequences ``[B, L, d]``, as :class:`LSTMEncoder`.
        data_dim: d.

    Raises:
        InputError: ``data_dim`` is not a positive integer; when called, x of another shape.
    """

    def __init__(self, network: nn.Module, data_dim: int) -> None:
        super().__init__()
        data_dim = check_integer("data_dim", data_dim, 1)
        self.network = network
        self.condition_shape = (None, data_dim)

    @property
    def input_dtype(self) -> torch.dtype | None:
        """That of x and c, as the network says."""
        return getattr(self.network, "input_dtype", None)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.network(self.sequence(x, c))
        return mu, log_var

    def sequence(self, x: Tensor, c: Tensor) -> Tensor:
        """c and then x, ``[B, T + 1, d]``."""
        width = self.condition_shape[1]
        if x.dim() != 2 or x.shape[1] != width:
            raise InputError(f"x must be a tensor of shape [B, {width}], the step after c, got shape {tuple(x.shape)}")
        return torch.cat((c, x.unsqueeze(1)), dim=1)


class LSTMDecoder(nn.Module):
    """z ``[B, κ]``, c ``[B, T, d]`` → x̂ ``[B, d]``: an MLP of z beside the last state of an LSTM that reads c.

    Args:
        latent_dim: κ.
        data_dim: d, of one step.
        hidden: units of the LSTM.
        decoder_hidden: widths of the hidden layers of the MLP. Without any, x̂ is affine in z: what x has left once c is
            known lies on a plane, the same but for a shift under all conditions. Curved manifolds need hidden layers.

    Raises:
        InputError: a size that is not a positive integer; when called, c of another shape.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Appendix A.
    """

    def __init__(self, latent_dim: int, data_dim: int, hidden: int = 32, decoder_hidden: Sequence[int] = ()) -> None:
        super().__init__()
        latent_dim, data_dim, hidden = check_positive(latent_dim=latent_dim, data_dim=data_dim, hidden=hidden)
        decoder_hidden = check_widths(decoder_hidden, "decoder_hidden")
        self.lstm = LSTM(data_dim, hidden)
        self.layers = mlp((latent_dim + hidden, *decoder_hidden, data_dim), "relu", reads_z=True)

    input_dtype = of_weights(lambda network: network.layers[0])

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        x_hat: Tensor = self.layers(torch.cat((z, outputs(self.lstm, c)[:, -1]), dim=1))
        return x_hat

    def at_every_length(self, z: Tensor, c: Tensor) -> Tensor:
        """The same with the first 0, 1, …, T steps of c, in one pass: z ``[B, T + 1, κ]`` → x̂ ``[B, T + 1, d]``."""
        x_hat: Tensor = self.layers(torch.cat((z, outputs_from_none(self.lstm, c)), dim=2))
        return x_hat
