"""The training step of a VAE of images: the residual networks of the paper on 28 × 28 pixels, κ = 32, Adam, learned γ.

eager            by hand, a diagonal covariance, the networks by PyTorch's own ops
eager, full      the same with a full covariance
diagonal         ours, `mc.VAE`
full covariance  ours, with an encoder that differs only at its end
torch.compile    of eager: networks and loss
"""

import copy
import math
from collections.abc import Callable, Iterable
from typing import get_args

import torch
from torch import Tensor

from ..covariance import Covariance
from ..kernels.random import standard_normal
from ..models import VAE
from ..networks import by_pytorch
from .by_hand import negative_elbo
from .comparison import Call, Comparison, largest, largest_difference
from .step import adam_step

__all__ = ["COMPARISON"]

IMAGE, LATENTS, CHANNELS = (1, 28, 28), 32, 5
FEW = 16


def model(covariance: Covariance = "diagonal") -> VAE:
    """The same weights each time, except in the last layer of the encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VAE.conv(IMAGE, LATENTS, CHANNELS, covariance=covariance)


def batch(size: int) -> Tensor:
    return torch.rand(size, *IMAGE, generator=torch.Generator().manual_seed(1))


def training_step(vae: VAE, loss: Callable[[VAE, Tensor], Tensor], size: int) -> Call:
    x = batch(size)
    return Call(adam_step(vae.parameters(), lambda: loss(vae, x)))


def _ours(vae: VAE, x: Tensor) -> Tensor:
    loss: Tensor = vae(x).loss
    return loss


def error(size: int, device: str = "cpu") -> float:
    """The error of the gradients of both models' weights, on the device, against the losses by hand in float64 on the
    same noise.

    On few images: with more, one of the many numbers is so close to the kink of a ReLU that float32 and float64 are on
    different sides of it.
    """
    few = min(size, FEW)
    return largest(_error(few, device, covariance) for covariance in get_args(Covariance))


def _error(size: int, device: str, covariance: Covariance) -> float:
    ours, x = model(covariance), batch(size)
    exact = by_pytorch(copy.deepcopy(ours).double())
    noise = standard_normal(torch.tensor(7), size, LATENTS)
    wanted = torch.autograd.grad(negative_elbo(exact, x.double(), noise=noise), [*exact.parameters()])
    loss = ours.to(device)(x.to(device), seed=7).loss
    found = [grad.cpu() for grad in torch.autograd.grad(loss, [*ours.parameters()])]
    # All in one tensor: the weights before a batch normalisation have gradients that nearly cancel.
    return largest_difference([_flat(found)], [_flat(wanted)])


def _flat(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def operations(size: int) -> int:
    """The operations of the diagonal model's layers: three products each."""
    c, quarter, sixteenth = CHANNELS, 14 * 14, 7 * 7
    first = quarter * (9 * c + 9 * c * c + c)
    second = sixteenth * (18 * c * c + 36 * c * c + 2 * c * c)
    heads = 2 * c * sixteenth * (2 * LATENTS + LATENTS)
    back = sixteenth * (36 * c * c + 16 * 2 * c * c) + quarter * (9 * c * c + 16 * c)
    return 2 * 3 * size * (first + second + heads + back)


def bytes_moved(size: int) -> int:
    """The batch alone: what layers pass to each other depends on how they are computed; float32."""
    return 4 * size * math.prod(IMAGE)


COMPARISON = Comparison(
    name="images",
    title="Training step of a residual VAE of images, κ = 32, with Adam",
    axes="B",
    goals={(128,): math.nan, (512,): math.nan},
    contenders={
        "eager": lambda size: training_step(by_pytorch(model()), negative_elbo, size),
        "diagonal": lambda size: training_step(model(), _ours, size),
        "full covariance": lambda size: training_step(model("cholesky"), _ours, size),
        "eager, full": lambda size: training_step(by_pytorch(model("cholesky")), negative_elbo, size),
        "torch.compile": lambda size: training_step(
            by_pytorch(model()), torch.compile(negative_elbo, dynamic=False), size
        ),
    },
    error=error,
    allowed=1e-5,
    bytes_moved=bytes_moved,
    operations=operations,
    ours=("diagonal", "full covariance"),
    bound="product",
    beside={"eager, full": "full covariance"},
)
