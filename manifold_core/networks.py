"""Encoders and decoders of the paper (Appendix A). An encoder returns (mu, log_var); a decoder returns x̂. Those of a
CVAE take the condition beside it; for sequences the condition is the steps before."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from .distributed import Joined, gathered
from .errors import InputError

__all__ = [
    "Activation",
    "BatchNorm2d",
    "ConditionalMLPDecoder",
    "ConditionalMLPEncoder",
    "ConvDecoder",
    "ConvEncoder",
    "LSTMDecoder",
    "LSTMEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "NextStepEncoder",
]

Activation = Literal["relu", "prelu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "prelu": nn.PReLU}


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"{name} must be a positive integer, got {size!r}")


def _check_widths(hidden: Sequence[int], name: str = "hidden") -> None:
    _check_positive(**{f"{name}[{i}]": width for i, width in enumerate(hidden)})


def _mlp(sizes: Sequence[int], activation: Activation, reads_z: bool = False) -> nn.Sequential:
    """Linear layers with an activation between them; PReLU has one slope a layer. The last is outside autocast, and the
    first where it reads z."""
    if activation not in ACTIVATIONS:
        raise InputError(f"activation must be 'relu' or 'prelu', got {activation!r}")
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        linear = Float32Linear if reads_z and not layers else nn.Linear
        layers += [linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, Float32Linear(sizes[-2], sizes[-1]))


def _outside_autocast(layer: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype) -> Tensor:
    """Half precision has too few digits for mu and z beside a small σ, and for x̂ beside a small γ."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return layer(x)
    with torch.autocast(device, enabled=False):
        return layer(x.to(dtype))


class Float32Linear(nn.Linear):
    """nn.Linear outside autocast: what reads z, and what makes mu, log_var or x̂."""

    def forward(self, x: Tensor) -> Tensor:
        return _outside_autocast(super().forward, x, self.weight.dtype)


class _Float32ConvTranspose2d(nn.ConvTranspose2d):
    """The same of the residual decoder's last layer."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return _outside_autocast(partial(super().forward, output_size=output_size), x, self.weight.dtype)


class BatchNorm2d(Joined, nn.BatchNorm2d):
    """nn.BatchNorm2d with its defaults; where processes train together, over their joined batch.

    (nn.SyncBatchNorm refuses CPUs.) Means of squared deviations are joined, not of squares: nothing cancels.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.process_group is None or not self.training:
            return super().forward(x)
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        variance, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
        variances, means = gathered(torch.stack((variance, mean)), self.process_group).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        with torch.no_grad():
            values = len(means) * x.numel() // x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * values / (values - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return ((wide - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class MLPEncoder(nn.Module):
    """x ``[B, d]`` → mu, log_var ``[B, κ]``: two halves of one linear head, views without a copy."""

    def __init__(
        self, data_dim: int, latent_dim: int, hidden: Sequence[int] = (64,), activation: Activation = "relu"
    ) -> None:
        super().__init__()
        _check_positive(data_dim=data_dim, latent_dim=latent_dim)
        _check_widths(hidden)
        self.layers = _mlp((data_dim, *hidden, 2 * latent_dim), activation)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.layers(x).chunk(2, dim=1)
        return mu, log_var


class MLPDecoder(nn.Module):
    """z ``[B, κ]`` → x̂ ``[B, d]``."""

    def __init__(
        self, latent_dim: int, data_dim: int, hidden: Sequence[int] = (64,), activation: Activation = "relu"
    ) -> None:
        super().__init__()
        _check_positive(data_dim=data_dim, latent_dim=latent_dim)
        _check_widths(hidden)
        self.layers = _mlp((latent_dim, *hidden, data_dim), activation, reads_z=True)

    def forward(self, z: Tensor) -> Tensor:
        x_hat: Tensor = self.layers(z)
        return x_hat


class ConditionalMLPEncoder(nn.Module):
    """x ``[B, d]``, c ``[B, t]`` → mu, log_var ``[B, κ]``: an MLP of x beside features of c, which an MLP makes."""

    def __init__(
        self,
        data_dim: int,
        condition_dim: int,
        latent_dim: int,
        hidden: Sequence[int] = (64,),
        condition_hidden: Sequence[int] = (16,),
        condition_features: int = 16,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        _check_positive(data_dim=data_dim, condition_dim=condition_dim, latent_dim=latent_dim)
        _check_positive(condition_features=condition_features)
        _check_widths(hidden)
        _check_widths(condition_hidden, "condition_hidden")
        self.condition_shape = (condition_dim,)
        self.condition = _mlp((condition_dim, *condition_hidden, condition_features), activation)
        self.layers = _mlp((data_dim + condition_features, *hidden, 2 * latent_dim), activation)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.layers(torch.cat((x, self.condition(c)), dim=1)).chunk(2, dim=1)
        return mu, log_var


class ConditionalMLPDecoder(nn.Module):
    """z ``[B, κ]``, c ``[B, t]`` → x̂ ``[B, d]``: an MLP of z beside features of c, which an MLP makes."""

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
        _check_positive(latent_dim=latent_dim, condition_dim=condition_dim, data_dim=data_dim)
        _check_positive(condition_features=condition_features)
        _check_widths(hidden)
        _check_widths(condition_hidden, "condition_hidden")
        self.condition = _mlp((condition_dim, *condition_hidden, condition_features), activation)
        self.layers = _mlp((latent_dim + condition_features, *hidden, data_dim), activation, reads_z=True)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        x_hat: Tensor = self.layers(torch.cat((z, self.condition(c)), dim=1))
        return x_hat


def _outputs(lstm: nn.LSTM, sequence: Tensor) -> Tensor:
    """Of ``[B, L, d]``, L ≥ 1, what the LSTM puts out at each step, ``[B, L, hidden]``."""
    shape, width = tuple(sequence.shape), lstm.input_size
    if len(shape) != 3 or shape[1] < 1 or shape[2] != width:
        raise InputError(
            f"a sequence must be a tensor of shape [B, L, {width}] with L of at least 1, got shape {shape}"
        )
    outputs: Tensor = lstm(sequence)[0]
    return outputs


def _outputs_from_none(lstm: nn.LSTM, sequence: Tensor) -> Tensor:
    """After 0, 1, …, L steps, ``[B, L + 1, hidden]``: after none zeros, with which an LSTM begins."""
    return nn.functional.pad(_outputs(lstm, sequence), (0, 0, 1, 0))


class LSTMEncoder(nn.Module):
    """Sequences ``[B, L, d]`` of any length L ≥ 1 → mu, log_var ``[B, κ]``: a linear head on the last state of an LSTM.

    Of the steps before x it is a prior; :class:`NextStepEncoder` makes it an encoder of x.
    """

    def __init__(self, data_dim: int, latent_dim: int, hidden: int = 32) -> None:
        super().__init__()
        _check_positive(data_dim=data_dim, latent_dim=latent_dim, hidden=hidden)
        self.lstm = nn.LSTM(data_dim, hidden, batch_first=True)
        self.head = Float32Linear(hidden, 2 * latent_dim)

    def forward(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.head(_outputs(self.lstm, sequence)[:, -1]).chunk(2, dim=1)
        return mu, log_var

    def at_every_length(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """The same of the first 0, 1, …, L steps, in one pass: each ``[B, L + 1, κ]``."""
        mu, log_var = self.head(_outputs_from_none(self.lstm, sequence)).chunk(2, dim=2)
        return mu, log_var


class NextStepEncoder(nn.Module):
    """x ``[B, d]``, c ``[B, T, d]`` → what ``network`` gives for the T + 1 steps of c and then x, ``[B, T + 1, d]``."""

    def __init__(self, network: nn.Module, data_dim: int) -> None:
        super().__init__()
        _check_positive(data_dim=data_dim)
        self.network = network
        self.condition_shape = (None, data_dim)

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

    ``decoder_hidden`` are the widths of its hidden layers. Without any, x̂ is affine in z: what x has left once c is
    known lies on a plane, the same but for a shift under all conditions. Curved manifolds want hidden layers.
    """

    def __init__(self, latent_dim: int, data_dim: int, hidden: int = 32, decoder_hidden: Sequence[int] = ()) -> None:
        super().__init__()
        _check_positive(latent_dim=latent_dim, data_dim=data_dim, hidden=hidden)
        _check_widths(decoder_hidden, "decoder_hidden")
        self.lstm = nn.LSTM(data_dim, hidden, batch_first=True)
        self.layers = _mlp((latent_dim + hidden, *decoder_hidden, data_dim), "relu", reads_z=True)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        x_hat: Tensor = self.layers(torch.cat((z, _outputs(self.lstm, c)[:, -1]), dim=1))
        return x_hat

    def at_every_length(self, z: Tensor, c: Tensor) -> Tensor:
        """The same with the first 0, 1, …, T steps of c, in one pass: z ``[B, T + 1, κ]`` → x̂ ``[B, T + 1, d]``."""
        x_hat: Tensor = self.layers(torch.cat((z, _outputs_from_none(self.lstm, c)), dim=2))
        return x_hat


def _conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), BatchNorm2d(outputs), nn.ReLU()
    )


class _EncoderBlock(nn.Module):
    """Two 3×3 Conv-BN-ReLU in the main branch, a 1×1 Conv-BN in the shortcut; halves the image."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(_conv_bn_relu(inputs, outputs, stride=2), _conv_bn_relu(outputs, outputs))
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x) + self.shortcut(x)
        return out


class _DecoderBlock(nn.Module):
    """A residual block of one convolution, then a ConvTranspose that doubles the image."""

    def __init__(self, inputs: int, outputs: int, up: type[nn.ConvTranspose2d] = nn.ConvTranspose2d) -> None:
        super().__init__()
        self.main = _conv_bn_relu(inputs, inputs)
        self.up = up(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(x + self.main(x))
        return out


def _check_image(image_shape: Sequence[int]) -> tuple[int, int, int]:
    if len(image_shape) != 3 or min(image_shape) < 1 or image_shape[1] % 4 or image_shape[2] % 4:
        raise InputError(
            f"image_shape must be (channels, height, width) with height and width multiples of 4, "
            f"got {tuple(image_shape)}"
        )
    channels, height, width = image_shape
    return channels, height, width


class ConvEncoder(nn.Module):
    """Images ``[B, C, H, W]`` → mu, log_var ``[B, κ]`` through two residual blocks of c and 2c channels."""

    def __init__(self, image_shape: Sequence[int], latent_dim: int, channels: int = 5) -> None:
        super().__init__()
        _check_positive(latent_dim=latent_dim, channels=channels)
        inputs, height, width = _check_image(image_shape)
        self.blocks = nn.Sequential(_EncoderBlock(inputs, channels), _EncoderBlock(channels, 2 * channels))
        self.head = Float32Linear(2 * channels * (height // 4) * (width // 4), 2 * latent_dim)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # training takes half the time on a CPU

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.head(torch.flatten(self.blocks(x.contiguous(memory_format=torch.channels_last)), 1)).chunk(
            2, dim=1
        )
        return mu, log_var


class ConvDecoder(nn.Module):
    """z ``[B, κ]`` → images ``[B, C, H, W]`` through two residual blocks of 2c and c channels."""

    def __init__(self, latent_dim: int, image_shape: Sequence[int], channels: int = 5) -> None:
        super().__init__()
        _check_positive(latent_dim=latent_dim, channels=channels)
        outputs, height, width = _check_image(image_shape)
        self.head = Float32Linear(latent_dim, 2 * channels * (height // 4) * (width // 4))
        self.unflatten = nn.Unflatten(1, (2 * channels, height // 4, width // 4))
        self.blocks = nn.Sequential(
            _DecoderBlock(2 * channels, channels), _DecoderBlock(channels, outputs, _Float32ConvTranspose2d)
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, z: Tensor) -> Tensor:
        x_hat: Tensor = self.blocks(self.unflatten(self.head(z)).contiguous(memory_format=torch.channels_last))
        return x_hat
